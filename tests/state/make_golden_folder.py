#!/usr/bin/env python3
"""Makes tests/state/golden/count-N.snap and count-N.json with the hutch just built: a snapshot
of a VM that counts, small and without paths of this machine.  For a new version of the format
only: those that are there must be restored for ever.

usage: tests/state/make_golden_folder.py N
"""
import hashlib
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "guest"))
from test_snapshot import count_of, counting, create, ends_well, hutch_verb, store  # noqa: E402


def without_paths(folder):
    """The kernel is not needed but for a reboot; a name would be taken."""
    config = os.path.join(folder, "config.json")
    manifest = os.path.join(folder, "manifest.json")
    with open(config, encoding="utf-8") as f:
        machine = json.load(f)
    machine["kernel"] = "payload.elf"
    machine.pop("name", None)
    machine.pop("uuid", None)
    text = json.dumps(machine, indent=2).encode()
    with open(config, "wb") as f:
        f.write(text)
    with open(manifest, encoding="utf-8") as f:
        whole = json.load(f)
    for entry in whole["files"]:
        if entry["name"] == "config.json":
            entry.update(size=len(text), sha256=hashlib.sha256(text).hexdigest())
    with open(manifest, "w", encoding="utf-8") as f:
        json.dump(whole, f, indent=2)


def main():
    name = f"count-{int(sys.argv[1])}"
    golden = os.path.join(HERE, "golden", f"{name}.snap")
    with store() as path, counting("--rng", "--net", "user", memory="8M", pages=64) as vm:
        count_of(vm)
        create("vm", name, "--compress", "zstd")
        ends_well(vm)
        folder = os.path.join(path, f"{name}.snap")
        without_paths(folder)
        hutch_verb("snapshot", "verify", name)
        told = json.loads(hutch_verb("snapshot", "inspect", name, "--json"))
        shutil.copytree(folder, golden)
    with open(golden.replace(".snap", ".json"), "w", encoding="utf-8") as f:
        json.dump(told["state"], f, indent=1)


if __name__ == "__main__":
    main()
