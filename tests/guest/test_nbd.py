#!/usr/bin/env python3
"""Disks over NBD, with payload guests on this machine's own KVM: docs/remote-disks.md."""
import glob
import os
import shutil
import subprocess
import tempfile
import time

import hutch
from hutch import Skip, Vm, check, equal, image, run

MIB = 1 << 20
BENCH = "test=blk-bench qd=16 bs=4096"


class Server:
    """qemu-nbd on a unix socket, with an image of its own; dies with its scope."""

    def __init__(self, size=64 * MIB):
        if not shutil.which("qemu-nbd"):
            raise Skip("qemu-nbd is not here")
        self.folder = tempfile.TemporaryDirectory(prefix="hutch-nbd-")
        self.socket = os.path.join(self.folder.name, "sock")
        self.disk = os.path.join(self.folder.name, "disk")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        with open(self.disk, "wb") as f:
            f.truncate(size)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.folder.cleanup()

    def start(self):
        pid_file = os.path.join(self.folder.name, "pid")
        for old in (pid_file, self.socket):
            if os.path.exists(old):
                os.unlink(old)
        self.process = subprocess.Popen(["qemu-nbd", "-t", "-e", "0", "-f", "raw", "-k",
                                         self.socket, f"--pid-file={pid_file}", self.disk])
        end = time.monotonic() + 30 * hutch.PATIENCE
        while not os.path.exists(pid_file):
            check(time.monotonic() < end and self.process.poll() is None,
                  "qemu-nbd does not start")
            time.sleep(0.01)

    def kill(self):
        self.process.kill()
        self.process.wait()


def arguments(words, *more):
    hutch.needs_kvm()
    return ["--kernel", image("payload", "payload.elf"), "--cmdline", words, "--debug-exit",
            *more]


def passes(words, *more):
    status, out, err = run(*arguments(words, *more))
    check(status == 0 and "PASS" in out, f"{words} {more}: status {status}\n{out}\n{err}")


def test_a_disk_over_nbd_does_what_a_file_does():
    with Server() as server:
        for options in ("", ",aio=threads", ",cache=none", ",cache=unsafe",
                        ",cache=writethrough", ",queues=4", ",readonly"):
            passes("test=blk", "--cpus", 4, "--disk", server.uri + options)


def test_a_qcow2_image_may_lie_in_an_export():
    with Server() as server:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", server.uri, "32M"],
                       check=True)
        passes("test=blk", "--disk", f"{server.uri},format=qcow2")
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", server.uri], check=True)


def test_a_guest_does_not_notice_that_its_server_restarts():
    with Server() as server, \
            Vm(*arguments(f"{BENCH} write=1 count=60000", "--disk",
                          f"{server.uri}&reconnect=60")) as vm:
        vm.expect("blk-bench start")
        for _ in range(3):
            time.sleep(0.2)
            server.kill()
            server.start()
        vm.expect("PASS blk-bench", limit=120)
        equal(vm.wait(), 0)


def test_a_server_that_is_gone_is_an_error_of_the_disk():
    with Server() as server, \
            Vm(*arguments(f"{BENCH} count=100000000", "--disk", server.uri)) as vm:
        vm.expect("blk-bench start")
        server.kill()
        check(vm.wait(limit=60) != 0, vm.text())


def test_a_disk_that_is_not_there_is_told_with_its_uri():
    uri = "nbd+unix:///?socket=/no/such/socket"
    status, _, err = run(*arguments("test=blk", "--disk", uri))
    equal(status, 125)
    check(f"'{uri}'" in err and "No such file" in err, err)


def test_a_host_without_libnbd_hears_what_to_install():
    libraries = glob.glob("/usr/lib/*/libnbd.so.0") + glob.glob("/lib64/libnbd.so.0")
    if os.geteuid() != 0 or not libraries:
        raise Skip("there is no libnbd to hide, or it takes root to hide it")
    # Found, an empty file is no library; the words are the same.
    hide = "\n".join(f"mount --bind /dev/null {path}" for path in libraries)
    wrap = ["unshare", "--mount", "sh", "-ec", f'{hide}\nexec "$0" "$@"']
    if subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
        raise Skip("mounts of its own are not permitted here")
    status, _, err = run(*arguments("test=blk", "--disk", "nbd://127.0.0.1/x"), wrap=wrap)
    equal(status, 125)
    check("install the package libnbd0" in err, err)


if __name__ == "__main__":
    hutch.main()
