#!/usr/bin/env python3
"""What is saved, loaded and saved again is the same, of a whole busy machine: nothing is
lost on the way but time that passes.  And what somebody made up harms nobody."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import struct
import zlib

import hutch
from hutch import check, equal, image
from qmp import Qmp
from snapshot_guest import Busy, Dice, Place

# What goes on while a machine is paused, and how it was left.
MOVES = re.compile(r"acpi-pm/timer_ns|clock/\w+|machine/state|vcpu\d+/tsc_offset"
                   r"|irqchip/pit/channels/\d+/count_load_time")
TSC = 0x10
NEW_LIFE = ("vmgenid/guid", "acpi-pm/gpe_sts")
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


def session(place, vm):
    return Qmp(os.path.join(place.env["XDG_RUNTIME_DIR"], "hutch", vm.name, "control.sock"),
               vm.process)


def saved_twice(words, *devices, before=lambda qmp: None):
    with Place() as place:
        devices = [d.format(disk=place.disk, folder=place.folder) for d in devices]
        with Busy(place, "--kernel", image("payload", "payload.elf"), "--cmdline",
                  f"test=snapshot {words}", "--debug-exit", "--memory", "64M", *devices) as vm:
            vm.follow(5)
            qmp = session(place, vm)
            before(qmp)
            qmp.close()
            vm.save("first")
            vm.end()
        with Busy(place, "--restore", "first", "--paused", restored=True) as vm:
            session(place, vm).close()  # when it is there
            vm.save("second")
            vm.end()
        return state(place, "first"), state(place, "second")


def same(first, second):
    equal(sorted(first), sorted(second), "fields")
    other = {k: (first[k], second[k]) for k in first if first[k] != second[k]}
    for field in NEW_LIFE:
        check(other.pop(field, None), f"{field}: a restore is another life, and tells the guest")
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


def test_devices_that_come_and_shall_go_are_the_same_after_a_restore():
    """A guest that has no ACPI takes neither the news nor the request."""
    def plug(qmp):
        qmp("device_add", driver="virtio-rng-pci")
        qmp("device_add", driver="virtio-rng-pci")
        qmp("device_del", id="rng0")

    hutch.needs_kvm()
    first, second = saved_twice("cpus=1 irq=1 net=0", "--disk", "{disk}", "--console",
                                "file={folder}/one", before=plug)
    same(first, second)
    equal((first["pci-hotplug/up"], first["pci-hotplug/down"]), (0b11000, 0b1000), "slots")


def sections(state):
    """(start, first field, end) of each."""
    at = 12
    while state[at:at + 4] == b"SECT":
        size, _, name, kind = struct.unpack_from("<IHBB", state, at + 8)
        first = at + 16 + name + kind
        yield at, first, first + size
        at = first + size


def fields(state):
    """(start, length) of each field's value."""
    for _, at, end in sections(state):
        while at < end:
            length = struct.unpack_from("<I", state, at + 2)[0]
            yield at + 6, length
            at += 6 + length


def make_up(folder, dice):
    """Other bytes in one or two fields, with sums and hashes to match."""
    state = bytearray((folder / "state").read_bytes())
    for at, length in dice.sample([f for f in fields(state) if f[1]], dice.choice([1, 1, 2])):
        at += dice.randrange(length)
        state[at] = dice.choice([0, 1, 0x7f, 0xff, dice.randrange(256)])
    for start, _, end in sections(state):
        struct.pack_into("<I", state, start + 4, zlib.crc32(state[start + 8:end]))
    (folder / "state").write_bytes(state)
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["name"] == "state":
            file["sha256"] = hashlib.sha256(state).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def restored_end(place, dice):
    """How the restore of what somebody made up ends, given some time to run."""
    with Busy(place, "--restore", "made-up", restored=True) as vm:
        while vm.process.poll() is None and vm.read(0.3) and dice.random() < 0.8:
            pass
        vm.process.terminate()
        return vm.wait(), vm.stderr()


def test_states_that_somebody_made_up_end_in_a_sentence_or_a_guest_of_its_own_making():
    hutch.needs_kvm()
    dice = Dice()
    with Place() as place:
        with Busy(place, "--kernel", image("payload", "payload.elf"), "--cmdline",
                  "test=snapshot cpus=1 irq=1", "--debug-exit", "--memory", "16M", "--disk",
                  place.disk, "--net", "user", "--console", f"file={place.folder}/one") as vm:
            vm.follow(3)
            vm.save("good")
            vm.end()
        folder = pathlib.Path(place.store) / "made-up.snap"
        for _ in range(10):
            shutil.copytree(pathlib.Path(place.store) / "good.snap", folder)
            make_up(folder, dice)
            status, said = restored_end(place, dice)
            check(0 <= status < 128 or status == 143, f"status {status}: {said}")
            check("CRITICAL" not in said and "Sanitizer" not in said, said)
            if status == 125:
                check(said.startswith("hutch: error: "), said)
            shutil.rmtree(folder)


if __name__ == "__main__":
    hutch.main()
