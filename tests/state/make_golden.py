#!/usr/bin/env python3
"""Writes the golden files of this version: the states of busy VMs, one on each transport.
They are to be loaded by all versions to come, so files that are there are not written again.
Usage: make_golden.py VERSION (a number that no file of the folder has yet)"""
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))
from hutch import image  # noqa: E402
from snapshot_guest import Busy, Place  # noqa: E402

TRANSPORTS = {"pci": ["--disk", "{disk}", "--net", "user", "--console", "file={folder}/one",
                      "--console", "file={folder}/two", "--rng", "--vsock",
                      "3,path={folder}/vsock"],
              "mmio": ["--transport", "mmio", "--disk", "{disk}", "--console",
                       "file={folder}/one"]}


def main(version):
    for transport, devices in TRANSPORTS.items():
        golden = HERE / "golden" / f"machine-{transport}-{version}.state"
        if golden.exists():
            sys.exit(f"{golden} is there, and must stay as it is")
        with Place() as place:
            words = "net=0 irq=0" if transport == "mmio" else "irq=1"
            with Busy(place, "--kernel", image("payload", "payload.elf"), "--cmdline",
                      f"test=snapshot cpus=1 {words}", "--debug-exit", "--memory", "64M",
                      *(d.format(disk=place.disk, folder=place.folder) for d in devices)) as vm:
                vm.follow(3)
                vm.save("golden")
                vm.follow(3)
                vm.save("after", "--diff")
                vm.end()
            store = pathlib.Path(place.store)
            shutil.copyfile(store / "golden.snap" / "state", golden)
            shutil.copyfile(store / "after.snap" / "memory.map",
                            HERE / "golden" / f"memory-map-{version}.state")
            print(golden, golden.stat().st_size)


if __name__ == "__main__":
    main(int(sys.argv[1]))
