#!/usr/bin/env python3
"""Layers include only downwards (ARCHITECTURE.md).  TAP, one line a layer."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Each layer may include itself and what stands before it; those of one row are peers,
# and a backend sees nothing of kvm.
ORDER = ["util", "core", "kvm", "backend", "devices", "virtio", "machine", "cli"]
FORBIDDEN = {"backend": {"kvm"}}
FOLDERS = {
    "util": ["src/util"], "core": ["src/core"], "kvm": ["src/kvm", "src/arch"],
    "backend": ["src/block", "src/net", "src/chardev"], "devices": ["devices"],
    "virtio": ["virtio"], "machine": ["src/machine"], "cli": ["src/cli"],
}


def violations(layer):
    allowed = set(ORDER[:ORDER.index(layer) + 1]) - FORBIDDEN.get(layer, set())
    for folder in FOLDERS[layer] + [f"include/{layer}"]:
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+"([a-z]+)/', line)
                if found and found[1] in ORDER and found[1] not in allowed:
                    yield f"{path.relative_to(ROOT)}:{number}: {layer} includes {found[1]}"


def main():
    failed = 0
    print(f"1..{len(ORDER)}")
    for number, layer in enumerate(ORDER, 1):
        bad = list(violations(layer))
        failed += bool(bad)
        print("not ok" if bad else "ok", number, f"- {layer} includes only downwards")
        for line in bad:
            print("#", line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
