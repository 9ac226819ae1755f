#!/usr/bin/env python3
"""Disks that come and go under a stock Debian kernel, by its own ACPI hotplug driver."""
import hashlib
import os
import re
import tempfile

import hutch
from hutch import check, equal
from linux import Linux
from qmp import Qmp, QmpError

SIZE = 4 << 20


class Guest(Linux):
    """A Linux guest with a control socket, and a folder for images."""

    def __init__(self, *arguments, **options):
        self.folder = tempfile.TemporaryDirectory(dir="/var/tmp")
        socket = os.path.join(self.folder.name, "control")
        super().__init__("--memory", "256M", "--control", socket, *arguments, **options)
        try:
            self.qmp = Qmp(socket, self.process)
        except OSError:
            raise AssertionError(f"no control socket: {self.tail()}") from None

    def __exit__(self, *_):
        super().__exit__()
        self.qmp.close()
        self.folder.cleanup()

    def boot(self, limit=180):
        super().boot(limit)
        self.sh("dmesg -c >/dev/null")  # what a boot has to say is test_linux.py's
        return self

    def image(self, name="disk.raw"):
        """A raw image of random bytes: (its path, their hash)."""
        path = os.path.join(self.folder.name, name)
        content = os.urandom(SIZE)
        with open(path, "wb") as file:
            file.write(content)
        return path, hashlib.md5(content).hexdigest()

    def add_disk(self, name, path):
        self.qmp("device_add", driver="virtio-blk-pci", id=name, path=path, format="raw")

    def wait_for(self, node, there=True):
        self.sh(f"until {'' if there else '! '}[ -b {node} ]; do usleep 20000; done", 120)

    def wait_deleted(self, name):
        event = self.qmp.event("DEVICE_DELETED", 120)
        equal(event["data"], {"device": name, "path": f"/machine/peripheral/{name}"})

    def hash_of(self, node):
        return self.sh(f"md5sum {node}", 120).split()[0]

    def finds_no_fault(self):
        """Nothing since it booted that a kernel says when hardware behaves badly."""
        bad = [line for line in self.sh("dmesg").splitlines()
               if re.search(r"ACPI (BIOS )?(Error|Warning|Exception)|BUG|Oops|WARNING|"
                            r"can't assign|no space for|BAR \d: failed|hung|timed? ?out|"
                            r"acpiphp.*(fail|error)|GPE|I/O error", line)]
        check(not bad, "\n".join(bad))


def test_a_disk_that_is_added_is_found_and_read():
    with Guest().boot() as vm:
        path, md5 = vm.image()
        vm.sh("[ ! -e /dev/vda ]")
        vm.add_disk("new", path)
        vm.wait_for("/dev/vda")
        equal(vm.hash_of("/dev/vda"), md5)
        devices = vm.qmp("x-hutch-query-devices")
        equal([(d["id"], d["option"], d["added"], d["removal"]) for d in devices],
              [("new", "disk", True, "none")])
        slot = vm.qmp("query-pci")[0]["devices"][-1]
        equal(slot["qdev_id"], "new")
        check(slot["regions"][0]["address"] >= 0xc0000000, f"the guest placed no BAR: {slot}")
        try:
            vm.add_disk("new", path)
            raise AssertionError("a second device of the same id was taken")
        except QmpError as error:
            check("'new'" in str(error), str(error))
        vm.finds_no_fault()
        equal(vm.power_off(), 0)


def test_a_disk_comes_and_goes_ten_times_in_a_row():
    with Guest().boot() as vm:
        for i in range(10):
            path, md5 = vm.image(f"disk{i}.raw")
            vm.add_disk(f"d{i}", path)
            vm.wait_for("/dev/vda")
            equal(vm.hash_of("/dev/vda"), md5)
            vm.qmp("device_del", id=f"d{i}")
            vm.wait_deleted(f"d{i}")
            vm.wait_for("/dev/vda", False)
            equal(vm.qmp("x-hutch-query-devices"), [])
            equal(vm.sh("ls /sys/bus/pci/devices").split(), ["0000:00:00.0"])
        vm.finds_no_fault()
        equal(vm.power_off(), 0)


def test_several_devices_of_several_kinds_come_and_go_in_any_order():
    with Guest("--rng").boot() as vm:
        for i in range(3):
            vm.add_disk(f"d{i}", vm.image(f"{i}.raw")[0])
        vm.qmp("x-hutch-device-add", option="net", value={"type": "user", "id": "n"})
        vm.qmp("x-hutch-device-add", option="rng")
        for node in ("vda", "vdb", "vdc"):
            vm.wait_for(f"/dev/{node}")
        vm.sh("until [ -e /sys/class/net/eth0 ]; do usleep 20000; done")
        vm.sh("ip link set eth0 up 2>/dev/null || ifconfig eth0 up")
        for up in (True, False, True):
            vm.qmp("set_link", name="n", up=up)
            vm.sh(f"until grep -qx {up:d} /sys/class/net/eth0/carrier; do usleep 20000; done")
        for name in ("d1", "rng1", "n", "d2", "rng0", "d0"):
            vm.qmp("device_del", id=name)
            vm.wait_deleted(name)
        equal(vm.qmp("x-hutch-query-devices"), [])
        vm.sh("[ ! -e /sys/class/net/eth0 ] && [ ! -e /dev/vda ]")
        vm.finds_no_fault()
        equal(vm.power_off(), 0)


def test_a_disk_is_removed_while_the_guest_writes_to_it():
    with Guest().boot() as vm:
        for i in range(3):
            vm.add_disk("busy", vm.image(f"{i}.raw")[0])
            vm.wait_for("/dev/vda")
            # A node of its own: when the kernel has taken its own away, dd would make a file.
            vm.sh("mknod /tmp/busy b $(tr : ' ' </sys/block/vda/dev)")
            # And a session of its own: busybox's shell may end when a job of its own does.
            vm.sh("setsid sh -c 'while dd if=/dev/zero of=/tmp/busy bs=64k count=64 "
                  "oflag=direct; do :; done; echo >/tmp/ended' >/dev/null 2>&1 & "
                  "usleep 300000; [ ! -e /tmp/ended ]")
            vm.qmp("device_del", id="busy")
            vm.wait_deleted("busy")
            vm.wait_for("/dev/vda", False)
            vm.sh("until [ -e /tmp/ended ]; do usleep 20000; done; rm /tmp/busy /tmp/ended", 120)
        equal(vm.power_off(), 0)


def test_a_disk_that_was_added_is_there_after_a_reboot_and_can_still_go():
    with Guest().boot() as vm:
        path, md5 = vm.image()
        vm.add_disk("new", path)
        vm.wait_for("/dev/vda")
        vm.send("reboot\n")
        vm.boot()
        vm.wait_for("/dev/vda")
        equal(vm.hash_of("/dev/vda"), md5)
        vm.qmp("device_del", id="new")
        vm.wait_deleted("new")
        vm.wait_for("/dev/vda", False)
        vm.finds_no_fault()
        equal(vm.power_off(), 0)


def test_a_disk_of_the_command_line_can_go_and_what_is_asked_before_boot_is_heard_after_it():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "disk.raw")
        with open(path, "wb") as file:
            file.truncate(SIZE)
        with Guest("--disk", path) as vm:
            vm.qmp("device_del", id="disk0")
            equal(vm.qmp("x-hutch-query-devices")[0]["removal"], "asked")
            vm.wait_deleted("disk0")
            vm.boot()
            vm.sh("[ ! -e /dev/vda ]")
            equal(vm.power_off(), 0)


def test_a_guest_may_switch_a_slot_off_itself():
    with Guest("--rng").boot() as vm:
        vm.sh("echo 0 >/sys/bus/pci/slots/1/power")
        vm.wait_deleted("rng0")
        equal(vm.power_off(), 0)


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="3G", limit=900)
