#!/usr/bin/env python3
"""Snapshots at random moments of a payload guest that is busy with everything at once: what
is restored goes on as if nothing had been, however often.  HUTCH_CYCLES=N takes N of them in
each test instead of what fits into seconds."""
import os
import subprocess
import time

import hutch
from hutch import check, needs_kvm
from snapshot_guest import Dice, Place

CYCLES = int(os.environ.get("HUTCH_CYCLES", "0"))
DEEP = 8  # diffs one upon the other, before a full one


def cycles(usual):
    return CYCLES or usual


def round_trips(cpus, count, disk="disk.raw", words=""):
    """Saves, ends, restores; each time from where the last one came to."""
    needs_kvm()
    dice = Dice()
    with Place(disk) as place:
        vm = place.boot(cpus, words)
        chain = []
        try:
            vm.all_go_on()
            for n in range(cycles(count)):
                name, kind = f"s{n}", []
                vm.follow(dice.randrange(3))
                if chain and len(chain) < DEEP and dice.random() < 0.6:
                    kind.append("--diff")
                time.sleep(dice.random() * 0.01)
                first = vm.save(name, *kind)
                if dice.random() < 0.3:
                    vm.follow(1)  # who was saved goes on
                vm.end(kill=dice.random() < 0.5)
                vm = place.restore(name)
                said = vm.follow(1)
                check(first < said["at"] + 1, f"line {said['at']} of a guest that was at {first}")
                vm.all_go_on()
                if not kind:
                    chain = []
                chain.append(name)
        finally:
            vm.end(kill=True)


def test_a_guest_is_what_it_was_after_every_restore():
    round_trips(1, 24)


def test_four_cpus_are_what_they_were_after_every_restore():
    round_trips(4, 16)


def test_split_rings_and_a_qcow2_disk_are_as_good():
    round_trips(2, 8, "disk.qcow2", "ring=split")


def test_virtio_mmio_is_as_good():
    needs_kvm()
    with Place() as place:
        vm = place.boot(transport="mmio")
        try:
            for n in range(cycles(4)):
                vm.all_go_on()
                vm.save(f"m{n}")
                vm.end(kill=True)
                vm = place.restore(f"m{n}")
            vm.all_go_on()
        finally:
            vm.end(kill=True)


def test_one_snapshot_is_restored_many_times():
    needs_kvm()
    dice = Dice()
    with Place() as place:
        with place.boot(2) as vm:
            vm.follow(3)
            first = vm.save("one")
            vm.follow(2)
        for _ in range(cycles(8)):
            with place.restore("one") as vm:
                begin = vm.follow(1)["at"]
                check(first < begin <= first + 200, f"{begin}: the snapshot was of {first}")
                vm.all_go_on()
                vm.end(kill=True)


def test_killed_while_it_is_saved_it_leaves_what_was_there_before():
    needs_kvm()
    dice = Dice()
    with Place() as place:
        vm = place.boot(1)
        try:
            vm.follow(2)
            vm.save("base")
            for n in range(cycles(8)):
                took = killed_in_create(place, vm, f"k{n}", dice)
                vm = place.restore(took or "base")
                vm.all_go_on()
        finally:
            vm.end(kill=True)


def killed_in_create(place, vm, name, dice):
    """Kills the monitor in the middle; the name, if the snapshot was complete by then."""
    with subprocess.Popen([hutch.HUTCH, "snapshot", "create", vm.name, name, "--quiet"],
                          env={**os.environ, **place.env}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as create:
        time.sleep(dice.random() * 0.06)
        vm.end(kill=True)
        create.wait()
    if name + ".snap" not in place.snapshots():
        return None
    place.hutch("snapshot", "verify", name)
    return name


if __name__ == "__main__":
    hutch.main()
