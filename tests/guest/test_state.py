#!/usr/bin/env python3
"""What is saved, loaded and saved again is the same, of a whole busy machine: nothing is
lost on the way but time that passes."""
import json
import os
import re

import hutch
from hutch import check, equal, image
from qmp import Qmp
from snapshot_guest import Busy, Place

# What goes on while a machine is paused, and how it was left.
MOVES = re.compile(r"acpi-pm/timer_ns|clock/\w+|machine/state|vcpu\d+/tsc_offset"
                   r"|irqchip/pit/channels/\d+/count_load_time")
TSC = 0x10
TIMER_COUNT = slice(2 * 0x390, 2 * 0x394)  # of the local APIC, as hexadecimal digits


def flat(value, path=()):
    """{"serial0/rx_count": 3, ...}"""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, one in items for k, v in flat(one, path + (str(key),)).items()}
    return {"/".join(path): value}


def state(place, snapshot):
    about = json.loads(place.hutch("snapshot", "inspect", snapshot, "--json").stdout)["state"]
    sections = {name: section["fields"] for name, section in about.items()}
    for name, fields in sections.items():
        if re.fullmatch(r"vcpu\d+", name):
            lapic = fields["lapic"]
            fields["lapic"] = lapic[:TIMER_COUNT.start] + lapic[TIMER_COUNT.stop:]
            fields["msrs"] = [msr for msr in fields["msrs"] if msr["index"] != TSC]
    return {k: v for k, v in flat(sections).items() if not MOVES.fullmatch(k)}


def saved_twice(words, *devices):
    with Place() as place:
        devices = [d.format(disk=place.disk, folder=place.folder) for d in devices]
        with Busy(place, "--kernel", image("payload", "payload.elf"), "--cmdline",
                  f"test=snapshot {words}", "--debug-exit", "--memory", "64M", *devices) as vm:
            vm.follow(5)
            vm.save("first")
            vm.end()
        with Busy(place, "--restore", "first", "--paused", restored=True) as vm:
            Qmp(os.path.join(place.env["XDG_RUNTIME_DIR"], "hutch", vm.name, "control.sock"),
                vm.process).close()  # when it is there
            vm.save("second")
            vm.end()
        return state(place, "first"), state(place, "second")


def same(first, second):
    equal(sorted(first), sorted(second), "fields")
    other = {k: (first[k], second[k]) for k in first if first[k] != second[k]}
    check(not other, f"other values: {other}")


def test_all_devices_on_pci_are_the_same_after_a_restore():
    hutch.needs_kvm()
    same(*saved_twice("cpus=2 irq=1", "--cpus", "2", "--disk", "{disk}", "--net", "user",
                      "--console", "file={folder}/one", "--console", "file={folder}/two",
                      "--rng", "--vsock", "3,path={folder}/vsock"))


def test_devices_on_virtio_mmio_are_the_same_after_a_restore():
    hutch.needs_kvm()
    same(*saved_twice("cpus=1 irq=0 net=0", "--transport", "mmio", "--disk", "{disk}",
                      "--console", "file={folder}/one"))


if __name__ == "__main__":
    hutch.main()
