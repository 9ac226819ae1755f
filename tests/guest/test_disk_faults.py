#!/usr/bin/env python3
"""What a failing disk does to a VM, as rerror= and werror= say: the guest is told, or it stops
until the cause is gone and it is told to continue, and then nothing was lost.

Faults come from nbdkit's error filter, which a file switches on; from a file system that is
full until it is made larger; from a file that somebody cut short; and from an NBD server that
is killed."""
import ctypes
import os
import shutil
import subprocess
import sys
import time

import crash
import hutch
from hutch import PATIENCE, Skip, Vm, check, equal
from qmp import Qmp
from writer import CALM, DISK, Writer, row

ENGINES = ("io_uring", "libaio", "threads")


class Faulty(Writer):
    """The writer's disk is an export of nbdkit, which fails as it is told."""

    def __init__(self, options, *words, faults=("error=EIO",), query="", format="raw"):
        if not shutil.which("nbdkit"):
            raise Skip("nbdkit is not installed")
        super().__init__(row("faulty", options, format=format), *words)
        self.socket, self.faults = self.path("nbd"), faults
        self.file = self.chain.disk
        self.server = None
        if format != "raw":  # which an export has no room to grow for otherwise
            os.truncate(self.file, 4 * self.size)
        self.serve()
        self.chain.disk = f"nbd+unix:///?socket={self.socket}{query}"

    def serve(self):
        """Errors while a file `read` or `write` is there."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        switches = [f"error-{what}-{key}" for what, name in (("pread", "read"),
                    ("pwrite", "write"), ("zero", "write"), ("trim", "write"))
                    for key in ("rate=100%", f"file={self.path(name)}")]
        pid_file = self.path("pid")
        if os.path.exists(pid_file):
            os.unlink(pid_file)
        self.server = subprocess.Popen(["nbdkit", "-f", "-U", self.socket, "-P", pid_file,
                                        "--filter=error", "file", self.file, *self.faults,
                                        *switches], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30 * PATIENCE
        while not os.path.exists(pid_file):
            check(time.monotonic() < end and self.server.poll() is None, "nbdkit does not start")
            time.sleep(0.005)

    def vanish(self):
        self.server.kill()
        self.server.wait()

    def fail(self, what):
        open(self.path(what), "w", encoding="ascii").close()

    def cure(self, what):
        os.unlink(self.path(what))

    def __exit__(self, *_):
        self.vanish()
        super().__exit__()

    def kill(self):
        self.guest.process.kill()
        equal(self.guest.end(), -9, self.guest.story())
        self.vanish()
        self.judge(os.path.basename(self.file), self.chain.row.format)


def status(vm):
    return vm.qmp("query-status")["status"]


def stopped(vm, operation, nospace=False):
    """The VM stops for an error of that kind, and says so."""
    data = vm.qmp.event("BLOCK_IO_ERROR")["data"]
    equal((data["device"], data["operation"], data["action"], data["nospace"]),
          (DISK, operation, "stop", nospace))
    vm.qmp.event("STOP")
    equal(status(vm), "io-error")


def goes_on(vm, what="wr_operations"):
    vm.qmp("cont")
    vm.qmp.event("RESUME")
    vm.writes_on(what=what)
    equal(status(vm), "running")


def comes_back(vm):
    """Without reconnect=, a disk tries its server again after half a second (docs/remote-disks.md):
    a VM that is continued sooner may stop once more."""
    end = time.monotonic() + 30 * PATIENCE
    vm.qmp("cont")
    while time.sleep(0.7) or status(vm) == "io-error":
        check(time.monotonic() < end, "the server is back, and the VM stops again and again")
        vm.qmp("cont")
    vm.writes_on()


# ---- the guest is told -------------------------------------------------------------------


def reported(options, operation, faults=("error=EIO",)):
    with Faulty(options, CALM, "errors=1", faults=faults) as vm:
        vm.fail(operation)
        data = vm.qmp.event("BLOCK_IO_ERROR")["data"]
        equal((data["operation"], data["action"]), (operation, "report"))
        time.sleep(0.1)
        vm.cure(operation)
        vm.writes_on()
        equal(status(vm), "running")
        failed = {"read": "failed_rd_operations", "write": "failed_wr_operations"}[operation]
        check(vm.qmp("query-blockstats")[0]["stats"][failed] > 0, failed)
        vm.kill()


def test_a_write_that_fails_is_told_to_the_guest():
    reported("werror=report", "write")


def test_a_read_that_fails_is_told_to_the_guest():
    reported("rerror=report", "read")


def test_an_error_that_is_no_full_disk_is_told_under_werror_enospc():
    reported("werror=enospc", "write")


def ignored(options, operation):
    """What the writer would find out: so it is another guest's disk."""
    vm = Faulty(options)
    words = f"test=blk-bench count=1000000000 qd=8 write={int(operation == 'write')}"
    os.environ["XDG_RUNTIME_DIR"] = vm.scratch.name
    with Vm("--kernel", hutch.image("payload", "payload.elf"), "--cmdline", words, "--disk",
            f"{vm.chain.disk},{options}", "--debug-exit", "--name", "vm") as bench:
        bench.expect("blk-bench start")
        vm.qmp = Qmp(os.path.join(vm.scratch.name, "hutch", "vm", "control.sock"), bench.process)
        vm.fail(operation)
        equal(vm.qmp.event("BLOCK_IO_ERROR")["data"]["action"], "ignore")
        time.sleep(0.1)
        equal(status(vm), "running")
        check(bench.process.poll() is None, bench.tail())
        vm.qmp.close()
    vm.vanish()


def test_errors_that_are_to_be_ignored_are():
    ignored("werror=ignore", "write")
    ignored("rerror=ignore", "read")


# ---- the VM stops ------------------------------------------------------------------------


def test_a_vm_that_stopped_for_a_write_goes_on_and_loses_nothing():
    with Faulty("werror=stop") as vm:
        for _ in range(3):
            vm.fail("write")
            stopped(vm, "write")
            vm.cure("write")
            goes_on(vm)
        vm.kill()


def test_a_vm_that_stopped_for_a_read_goes_on():
    with Faulty("rerror=stop") as vm:
        for _ in range(3):
            vm.fail("read")
            stopped(vm, "read")
            vm.cure("read")
            goes_on(vm)
        vm.kill()


def test_a_stop_is_told_once_with_its_reason_however_many_requests_failed():
    with Faulty("werror=stop", "burst=0") as vm:
        for _ in range(30):
            vm.qmp.events.clear()
            vm.fail("write")
            vm.qmp.event("STOP")
            check("BLOCK_IO_ERROR" in [x["event"] for x in vm.qmp.events], "no reason is told")
            vm.cure("write")
            vm.qmp("cont")
            vm.writes_on(50)
            equal([x for x in vm.qmp.events if x["event"] == "STOP"], [])
        vm.kill()


def test_a_vm_that_is_continued_too_early_stops_again():
    with Faulty("werror=stop,rerror=stop,cache=writethrough") as vm:
        vm.fail("write")
        stopped(vm, "write")
        for _ in range(3):
            vm.qmp("cont")
            vm.qmp.event("STOP")
            equal(status(vm), "io-error")
        vm.cure("write")
        goes_on(vm)
        vm.kill()


def test_a_vm_that_stopped_for_an_error_is_killed_and_loses_nothing():
    with Faulty("werror=stop") as vm:
        vm.fail("write")
        stopped(vm, "write")
        vm.kill()


def test_a_qcow2_image_whose_storage_failed_is_without_errors():
    with Faulty("werror=stop,rerror=stop", format="qcow2") as vm:
        for what in ("write", "read", "write"):
            vm.fail(what)
            vm.qmp.event("STOP")
            vm.cure(what)
            goes_on(vm)
        vm.kill()


def test_a_full_export_stops_the_vm_under_werror_enospc():
    with Faulty("werror=enospc", faults=["error=ENOSPC"]) as vm:
        vm.fail("write")
        stopped(vm, "write", nospace=True)
        vm.cure("write")
        goes_on(vm)
        vm.kill()


# ---- the host's file system is full ------------------------------------------------------


def mounts_of_our_own():
    """For this process and all it starts."""
    if mounts_of_our_own.done:
        return
    user, mounts = 0x10000000, 0x20000
    uid, gid, libc = os.geteuid(), os.getegid(), ctypes.CDLL(None, use_errno=True)
    if libc.unshare(mounts if uid == 0 else user | mounts):
        raise Skip(f"no mounts of its own: {os.strerror(ctypes.get_errno())}")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"),
                           ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    if subprocess.run(["mount", "--make-rprivate", "/"], check=False).returncode:
        raise Skip("mounts are not permitted here")
    mounts_of_our_own.done = True


mounts_of_our_own.done = False


class Cramped(Writer):
    """Beside the writer's folder, one that is a file system of few bytes; with `inside`, the
    disk is in it."""

    def __init__(self, row, *words, inside=True):
        super().__init__(row, *words)
        mounts_of_our_own()
        self.small = self.path("small")
        os.mkdir(self.small)
        self.mount("-t", "tmpfs", "-o", "size=1m", "hutch-test")
        if inside:
            name = os.path.basename(self.chain.disk)
            self.chain.disk = os.path.join(self.small, name)
            crash.tool("cp", "--sparse=always", self.path(name), self.chain.disk)

    def mount(self, *words):
        crash.tool("mount", *words, self.small)

    def grow(self, size):
        self.mount("-o", f"remount,size={size}")

    def kill(self):
        name, form = os.path.relpath(self.chain.disk, self.folder), self.chain.row.format
        self.guest.process.kill()
        self.guest.end()
        self.judge(name, form)

    def clean_up(self):
        crash.tool("umount", "-l", self.small)
        super().clean_up()


def full(form, engine, werror="enospc", create=None):
    words = {"plan": {"discard": 0}, "create": create or {}}
    options = f"werror={werror},aio={engine},cache=writeback"
    with Cramped(row("full", options, format=form, **words)) as vm:
        for size in ("2m", "3m", "64m"):
            stopped(vm, "write", nospace=True)
            vm.grow(size)
            vm.qmp("cont")
            vm.qmp.event("RESUME")
        vm.writes_on()
        vm.kill()


def test_a_full_host_stops_a_vm_and_loses_nothing_of_a_raw_disk():
    for engine in ("threads", "io_uring"):
        full("raw", engine)


def test_a_full_host_stops_a_vm_and_loses_nothing_of_a_qcow2_disk():
    full("qcow2", "io_uring")
    full("qcow2", "threads", werror="stop", create={"cluster_size": 4096})
    full("qcow2", "threads", create={"lazy_refcounts": "on", "extended_l2": "on"})


def test_a_full_host_is_told_to_the_guest_and_the_image_is_without_errors():
    with Cramped(row("full", "werror=report,cache=writeback", format="qcow2",
                     create={"cluster_size": 4096}), CALM, "errors=1") as vm:
        equal(vm.qmp.event("BLOCK_IO_ERROR")["data"]["nospace"], True)
        vm.writes_on()
        vm.grow("64m")
        vm.writes_on()
        vm.kill()


def test_a_copy_whose_storage_is_full_leaves_the_disk_where_it_is():
    with Cramped(row("raw"), inside=False) as vm:
        target = os.path.join(vm.small, "copy.qcow2")
        vm.writes_on(600)
        vm.disk("mirror", DISK, target, status=125, words=["No space left on device", target])
        equal(vm.files(), [("disk.raw", "raw")])
        equal(status(vm), "running")
        vm.writes_on()
        vm.kill()


# ---- a file that was cut short -----------------------------------------------------------


def test_reads_beyond_the_end_of_a_file_that_was_cut_stop_the_vm_until_it_is_whole():
    only_reads = {"read": 100, "write": 0, "flush": 0, "discard": 0, "zeroes": 0}
    for engine in ENGINES:
        options = f"rerror=stop,aio={engine},cache=none"
        with Writer(row("cut", options, plan=only_reads), "burst=0") as vm:
            os.truncate(vm.path("disk.raw"), 512)
            stopped(vm, "read")
            os.truncate(vm.path("disk.raw"), vm.size)
            goes_on(vm, "rd_operations")
            vm.kill()


# ---- a server that vanishes --------------------------------------------------------------


def test_a_server_that_vanishes_stops_the_vm_until_it_is_back():
    with Faulty("rerror=stop,werror=stop") as vm:
        for _ in range(2):
            vm.vanish()
            vm.qmp.event("STOP")
            equal(status(vm), "io-error")
            vm.serve()
            comes_back(vm)
            vm.qmp.events.clear()
        vm.kill()


def test_a_server_that_vanishes_is_told_to_the_guest():
    with Faulty("", CALM, "errors=1") as vm:
        vm.vanish()
        vm.qmp.event("BLOCK_IO_ERROR")
        vm.serve()
        vm.writes_on(400)
        vm.kill()


def test_a_server_that_comes_back_in_time_is_not_missed():
    with Faulty("rerror=stop,werror=stop", query="&reconnect=60") as vm:
        for _ in range(3):
            vm.vanish()
            time.sleep(0.2)
            vm.serve()
            vm.writes_on()
        equal([x["event"] for x in vm.qmp.events if x["event"] != "RTC_CHANGE"], [])
        vm.kill()


def test_a_server_that_comes_back_too_late_stops_the_vm_and_loses_nothing():
    with Faulty("rerror=stop,werror=stop", query="&reconnect=1") as vm:
        vm.vanish()
        vm.qmp.event("STOP")
        vm.serve()
        goes_on(vm)
        vm.kill()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    hutch.main()
