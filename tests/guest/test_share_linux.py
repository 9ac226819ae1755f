#!/usr/bin/env python3
"""Shared folders under a stock Debian kernel: --share starts virtiofsd, the guest mounts."""
import os
import re
import shutil
import signal
import tempfile

import hutch
from hutch import Skip, check, equal
from linux import Linux
from processes import content, helpers, wait_until_gone
from qmp import Qmp


def shared_by(pid, folder):
    """Of the helpers, those whose command line names `folder`."""
    found = []
    for helper in helpers(pid):
        if folder in content(f"/proc/{helper}/cmdline").replace("\\,", ","):
            found.append(helper)
    return found


class Guest(Linux):
    """A guest with the folders `rw` and `ro`, mounted."""

    def __init__(self):
        if not any(map(shutil.which, ("virtiofsd", "/usr/libexec/virtiofsd",
                                      "/usr/lib/qemu/virtiofsd"))):
            raise Skip("virtiofsd is not installed")
        self.folder = tempfile.TemporaryDirectory()
        self.host = {tag: os.path.join(self.folder.name, f"{tag}, its folder")
                     for tag in ("rw", "ro")}
        for tag, folder in self.host.items():
            os.mkdir(folder)
            with open(os.path.join(folder, "hello"), "w", encoding="utf-8") as file:
                file.write(f"I am {tag}\n")
        quoted = {tag: folder.replace(",", ",,") for tag, folder in self.host.items()}
        control = os.path.join(self.folder.name, "control")
        super().__init__("--memory", "256M", "--share", f"{quoted['rw']},tag=rw",
                         "--share", f"{quoted['ro']},tag=ro,readonly", "--control", control)
        self.qmp = Qmp(control, self.process)

    def __exit__(self, *_):
        super().__exit__()
        self.qmp.close()
        self.folder.cleanup()

    def mount(self, tag, limit=60):
        self.sh(f"mkdir -p /{tag}; mount -t virtiofs {tag} /{tag}", limit)

    def boot(self, limit=180):
        super().boot(limit)
        self.sh("modprobe virtiofs")
        for tag in self.host:
            self.mount(tag)
        return self

    def path(self, tag, name):
        return os.path.join(self.host[tag], name)


def reads_and_writes(vm):
    equal(vm.sh("cat /rw/hello"), "I am rw\n")
    vm.sh("mkdir /rw/sub; echo from the guest >/rw/sub/file; mv /rw/sub/file /rw/sub/moved")
    equal(content(vm.path("rw", "sub/moved")), "from the guest\n")
    vm.sh("head -c 8000000 /dev/urandom >/tmp/f; cp /tmp/f /rw/big; "
          "echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/f /rw/big", 120)
    equal(os.path.getsize(vm.path("rw", "big")), 8000000)


def readonly_is_readonly(vm):
    equal(vm.sh("cat /ro/hello"), "I am ro\n")
    for command in ("echo x >/ro/new", "echo x >>/ro/hello", "rm /ro/hello", "mkdir /ro/d",
                    "chmod 777 /ro/hello"):
        check("Read-only file system" in vm.sh(f"{command} 2>&1", status=1), command)
    equal(content(vm.path("ro", "hello")), "I am ro\n")
    equal(os.listdir(vm.host["ro"]), ["hello"])


def survives_a_killed_virtiofsd(vm):
    """What is in flight ends, with an error or without, and a new mount works."""
    vm.sh("(i=0; while dd if=/dev/zero of=/rw/f bs=64k count=4 conv=fsync 2>/dev/null; do "
          "i=$((i + 1)); echo $i >/tmp/count; done; echo over >/tmp/over) & "
          "until [ -s /tmp/count ]; do usleep 10000; done")
    first = shared_by(vm.process.pid, vm.host["rw"])
    check(first, "no virtiofsd is to be seen")
    for helper in first:
        os.kill(helper, signal.SIGKILL)
    vm.sh("until [ -s /tmp/over ]; do usleep 20000; done", 60)
    vm.sh("umount -l /rw")
    vm.mount("rw")
    second = shared_by(vm.process.pid, vm.host["rw"])
    check(second and not set(first) & set(second), f"{first}, then {second}")
    equal(vm.sh("cat /rw/hello"), "I am rw\n")
    vm.sh("echo again >/rw/again; sync")
    equal(content(vm.path("rw", "again")), "again\n")
    equal(vm.sh("cat /ro/hello"), "I am ro\n")  # the other was left alone
    check(re.search(r"share0: .*hung up", vm.stderr()), vm.stderr())


def comes_and_goes(vm):
    """A folder that is shared while the guest runs, stopped and continued meanwhile."""
    before = sorted(helpers(vm.process.pid))
    vm.qmp("x-hutch-device-add", option="share",
           value={"folder": vm.host["ro"], "tag": "late", "id": "late"})
    vm.sh("mkdir /late; until mount -t virtiofs late /late 2>/dev/null; do usleep 50000; done",
          120)
    for _ in range(3):
        vm.qmp("stop")
        vm.qmp("cont")
    equal(vm.sh("echo late >/late/late; umount /late; cat /rw/hello"), "I am rw\n")
    equal(content(vm.path("ro", "late")), "late\n")
    vm.qmp("device_del", id="late")
    vm.qmp.event("DEVICE_DELETED", 120)
    equal(sorted(helpers(vm.process.pid)), before, "processes left")


def test_a_folder_is_read_and_written_kept_readonly_and_outlives_its_helper():
    with Guest().boot() as vm:
        reads_and_writes(vm)
        readonly_is_readonly(vm)
        survives_a_killed_virtiofsd(vm)
        comes_and_goes(vm)
        left = helpers(vm.process.pid)
        equal(vm.power_off(), 0)
        wait_until_gone(left)


if __name__ == "__main__":
    hutch.main(stock_kernels=True, limit=300)
