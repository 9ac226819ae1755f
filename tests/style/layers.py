#!/usr/bin/env python3
"""Layers include only downwards, and private headers stay in their folder (ARCHITECTURE.md).
TAP, one line a layer."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Each layer may include itself and what stands before it; those of one row are peers,
# and a backend sees nothing of kvm.
ORDER = ["util", "state", "core", "packet", "firewall", "network", "kvm", "backend", "switch", "devices",
         "virtio", "machine", "snapshot", "control", "agent", "cli"]
# The switch is a program of its own: what else there is talks to it over sockets.
FORBIDDEN = {"backend": {"kvm"}, "switch": {"kvm"}}
for above in ORDER[ORDER.index("switch") + 1:]:
    FORBIDDEN[above] = {"switch"}
FOLDERS = {
    "util": ["src/util"], "state": ["src/state"], "core": ["src/core"],
    "packet": ["src/packet"], "firewall": ["src/firewall"], "network": ["src/network"], "switch": ["src/switch"],
    "kvm": ["src/kvm", "src/arch"],
    "backend": ["src/block", "src/net", "src/chardev", "src/vhost"], "devices": ["devices"],
    "virtio": ["virtio"], "machine": ["src/machine"], "snapshot": ["src/snapshot"],
    "control": ["src/control"], "agent": ["src/agent"], "cli": ["src/cli"],
}


def layer_of(path):
    """Which layer a header belongs to; None: to none (hutch-config.h)."""
    text = path.relative_to(ROOT).as_posix()
    for layer, folders in FOLDERS.items():
        if any(text.startswith(folder + "/") for folder in folders + [f"include/{layer}"]):
            return layer
    return None


def resolve(path, name):
    """The header that `#include "NAME"` in `path` means; None: it is made by the build."""
    for folder in (path.parent, ROOT / "include", ROOT):
        if (folder / name).exists():
            return folder / name
    return None


def violations(layer):
    allowed = set(ORDER[:ORDER.index(layer) + 1]) - FORBIDDEN.get(layer, set())
    for folder in FOLDERS[layer] + [f"include/{layer}"]:
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                header = found and resolve(path, found[1])
                if not header:
                    continue
                where = f"{path.relative_to(ROOT)}:{number}"
                if layer_of(header) not in allowed:
                    yield f"{where}: {layer} includes {layer_of(header)} ({found[1]})"
                elif ROOT / "include" not in header.parents and header.parent != path.parent:
                    yield f"{where}: {found[1]} is private to its folder"


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
