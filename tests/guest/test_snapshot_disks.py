#!/usr/bin/env python3
"""Disks of snapshots, with a payload guest that knows what is on each of its sectors: layers
stay as they were, whoever restores has an overlay of his own, and nothing is lost when a
snapshot fails."""
import json
import os
import shutil
import subprocess
import tempfile
import threading

import hutch
from hutch import check, equal, needs_kvm
from snapshot_guest import Busy, Place

DEEP = 50


def chain(place, vm, disk=0):
    """The images of a VM's disk, from the top."""
    image = json.loads(place.hutch("disk", "list", vm.name, "--json").stdout)[disk]
    image, names = image["inserted"]["image"], []
    while image:
        names.append(image["filename"])
        image = image.get("backing-image")
    return names


def beside(place):
    """What lies beside the disk."""
    return sorted(name for name in os.listdir(place.folder)
                  if name not in ("run", "store", "console.txt"))


def manifest(place, name):
    with open(os.path.join(place.store, name + ".snap", "manifest.json"), encoding="utf-8") as file:
        return json.load(file)


def refused(place, *arguments):
    """`hutch run --restore` must end at once; its sentence."""
    with Busy(place, "--restore", *arguments, restored=True) as vm:
        equal(vm.wait(), 125)
        check(not vm.output, f"a guest ran: {vm.tail()}")
        return vm.stderr()


def quick(place, cpus=1):
    return place.boot(cpus, "net=0 pages=16", memory="32M")


# ---- taking them ---------------------------------------------------------------------------


def test_the_layer_stays_and_the_vm_goes_on_in_an_overlay_beside_it():
    needs_kvm()
    for disk in ("disk.raw", "disk.qcow2"):
        with Place(disk) as place, quick(place) as vm:
            vm.all_go_on()
            vm.save("s")
            with open(place.disk, "rb") as file:
                then = file.read()
            vm.all_go_on()
            equal(beside(place), [disk, "disk.s.qcow2"])
            equal(chain(place, vm), [f"{place.folder}/disk.s.qcow2", place.disk])
            # QEMU may read the layer, and may not have the overlay.
            layer = ("qemu-img", "info", "-f", disk.split(".")[1], place.disk)
            top = ("qemu-img", "info", "-f", "qcow2", f"{place.folder}/disk.s.qcow2")
            if shutil.which("qemu-img"):
                equal(subprocess.run(layer, stdout=subprocess.DEVNULL, check=False).returncode, 0)
                busy = subprocess.run(top, capture_output=True, text=True, check=False)
                check(busy.returncode and "lock" in busy.stderr, busy)
            vm.end()
            with open(place.disk, "rb") as file:
                check(file.read() == then, "the layer has changed")
            equal(manifest(place, "s")["disks"][0]["layer"], place.disk)


def test_a_snapshot_that_fails_after_the_pause_takes_its_overlay_back():
    needs_kvm()
    with Place() as place, quick(place) as vm:
        vm.all_go_on()
        for n in range(3):
            taken = os.path.join(place.store, f"s{n}.snap")
            create = threading.Thread(target=lambda: place.hutch(
                "snapshot", "create", vm.name, f"s{n}", "--quiet", status=125))
            create.start()
            while not os.listdir(place.store) and create.is_alive():
                pass
            os.mkdir(taken)  # its name is somebody else's by the time it is complete
            create.join()
            equal(os.listdir(place.store), [f"s{n}.snap"], "what a failed snapshot leaves")
            os.rmdir(taken)
            equal(beside(place), ["disk.raw"])
            equal(chain(place, vm), [place.disk])
            vm.all_go_on()
        vm.save("s")
        vm.end()
        with place.restore("s") as again:
            again.all_go_on()


def test_a_disk_in_a_job_is_refused_before_anything_is_paused():
    needs_kvm()
    with Place() as place, quick(place) as vm:
        vm.all_go_on()
        other = os.path.join(place.folder, "other.raw")
        shutil.copy(place.disk, other)
        # The second, so that the first has its overlay by the time it is refused.
        place.hutch("disk", "add", vm.name, other)
        place.hutch("disk", "mirror", vm.name, "disk1", f"{place.folder}/copy.raw", "--speed",
                    "100K", "--detach")
        done = place.hutch("snapshot", "create", vm.name, "s", status=125)
        check("disk 'disk1'" in done.stderr and "job" in done.stderr, done.stderr)
        vm.all_go_on()
        equal(place.snapshots(), [])
        equal(beside(place), ["copy.raw", "disk.raw", "other.raw"])
        equal(chain(place, vm), [place.disk])
        place.hutch("disk", "cancel", vm.name, "disk1")
        vm.end()


def test_a_vm_that_is_stopped_with_it_needs_no_overlay():
    needs_kvm()
    with Place("disk.qcow2") as place:
        with quick(place) as vm:
            vm.all_go_on()
            vm.save("s", "--stop")
            vm.wait()
        equal(beside(place), ["disk.qcow2"])
        place.hutch("image", "check", place.disk)
        with place.restore("s") as vm:
            vm.all_go_on()


# ---- using them ------------------------------------------------------------------------------


def test_fifty_layers_deep_and_streamed_into_one():
    needs_kvm()
    with Place() as place:
        with quick(place) as vm:
            vm.all_go_on()
            for n in range(DEEP):
                vm.save(f"s{n}", *(["--diff"] if n else []))
            equal(len(chain(place, vm)), DEEP + 1)
            vm.all_go_on()
        with place.restore(f"s{DEEP - 1}") as vm:
            vm.all_go_on()
            equal(len(chain(place, vm)), DEEP + 1)
            place.hutch("disk", "stream", vm.name, "disk0")
            equal(len(chain(place, vm)), 1)
            vm.all_go_on()
        with place.restore("s0") as vm:  # the first has not changed by all that
            vm.all_go_on()


def test_two_restores_at_once_do_not_see_each_other():
    needs_kvm()
    with Place() as place:
        with quick(place) as vm:
            vm.all_go_on()
            vm.save("s")
            with place.restore("s") as one, place.restore("s") as two:
                for guest in (one, two, vm, one, two):
                    guest.all_go_on()
                one.end()
                two.end()
                left = os.listdir(os.path.join(place.folder, "run", "hutch"))
                equal(left, [vm.name], "run folders of VMs that have ended")


def test_a_layer_that_was_written_to_is_refused():
    needs_kvm()
    with Place() as place:
        with quick(place) as vm:
            vm.all_go_on()
            vm.save("s")
            vm.end()
        with open(place.disk, "r+b") as file:
            file.seek(8 << 20)
            file.write(b"x")
        why = refused(place, "s")
        for word in ("disk 'disk0'", place.disk, "changed since"):
            check(word in why, why)
        equal(os.listdir(os.path.join(place.folder, "run", "hutch")), [])


def test_a_path_says_where_the_overlay_is_and_it_outlives_the_vm():
    needs_kvm()
    with Place() as place:
        mine = os.path.join(place.folder, "mine.qcow2")
        with quick(place) as vm:
            vm.all_go_on()
            vm.save("s")
            vm.end()
        with place.restore("s", "--disk", f"disk0={mine}") as vm:
            vm.all_go_on()
            equal(chain(place, vm), [mine, place.disk])
            vm.save("t")
            vm.end()
        equal(manifest(place, "t")["disks"][0]["layer"], mine)
        with place.restore("t") as vm:
            vm.all_go_on()


def test_layers_in_a_run_folder_go_into_the_snapshot_from_another_file_system_too():
    needs_kvm()
    with Place() as place, tempfile.TemporaryDirectory(dir="/dev/shm") as run:
        with quick(place) as vm:
            vm.all_go_on()
            vm.save("s0")
            vm.end()
        for there in (place.env["XDG_RUNTIME_DIR"], run):
            place.env["XDG_RUNTIME_DIR"] = there
            for n in range(2):
                with place.restore(f"s{n}") as vm:
                    vm.all_go_on()
                    vm.save(f"s{n + 1}")
                    vm.all_go_on()
                    inside = f"{place.store}/s{n + 1}.snap/disks/disk0.qcow2"
                    check(inside in chain(place, vm), chain(place, vm))
                    done = place.hutch("snapshot", "rm", f"s{n + 1}", status=125)
                    check("need" in done.stderr or "in use" in done.stderr, done.stderr)
                    vm.end()
            with place.restore("s2") as vm:
                vm.all_go_on()
            done = place.hutch("snapshot", "rm", "s1", status=125)
            check("s2" in done.stderr, done.stderr)  # whose disk builds on it
            place.hutch("snapshot", "rm", "s2")
            place.hutch("snapshot", "rm", "s1")


def test_without_disks_only_memory_is_kept_and_the_disk_is_used_as_it_is():
    needs_kvm()
    with Place() as place:
        with quick(place) as vm:
            vm.all_go_on()
            vm.save("s", "--no-disks")
            equal(beside(place), ["disk.raw"])
            check("layer" not in manifest(place, "s")["disks"][0], manifest(place, "s"))
            why = refused(place, "s")
            check("in use" in why, why)


if __name__ == "__main__":
    hutch.main()
