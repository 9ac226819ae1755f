#!/usr/bin/env python3
"""Disks that qemu-storage-daemon serves by vhost-user, with payload guests on this machine's
own KVM: docs/sharing.md."""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import hutch
from hutch import PATIENCE, Skip, Vm, check, equal, image, refused, run
from processes import helpers, wait_until_gone
from qmp import Qmp

MIB = 1 << 20
# On a disk of 4 MiB; every read is compared with what was written.
VERIFY = "test=blk-verify dev=1 journal=0 sectors=8192 chunk=256 stride=256 max=64 qd=16"


class Daemon:
    """qemu-storage-daemon with one disk; with it, a scratch disk for a journal."""

    def __init__(self, size=16 * MIB, queues=1):
        hutch.needs_kvm()
        self.program = shutil.which("qemu-storage-daemon")
        if not self.program:
            raise Skip("qemu-storage-daemon is not installed")
        self.folder = tempfile.TemporaryDirectory(prefix="hutch-vhost-", dir="/var/tmp")
        self.queues = queues
        self.socket, self.disk, self.journal = map(self.path, ("sock", "disk", "journal"))
        for path, length in (self.disk, size), (self.journal, 1 << 30):
            with open(path, "wb") as file:
                file.truncate(length)
        self.start()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.folder.cleanup()

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(
            [self.program, "--blockdev", f"driver=file,node-name=disk,filename={self.disk}",
             "--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,"
             f"num-queues={self.queues},addr.type=unix,addr.path={self.socket}"],
            stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30 * PATIENCE
        while not os.path.exists(self.socket):
            check(time.monotonic() < end and self.process.poll() is None, "it does not start")
            time.sleep(0.005)

    def kill(self):
        self.process.kill()
        self.process.wait()


def guest(words):
    return ["--kernel", image("payload", "payload.elf"), "--cmdline", words, "--debug-exit"]


def passes(words, *more, **options):
    status, out, err = run(*guest(words), *more, **options)
    check(status == 0 and "PASS" in out, f"{words} {more}: status {status}\n{out}\n{err}")
    return out


def test_a_disk_of_another_process_works_on_both_transports_and_with_several_queues():
    with Daemon(queues=4) as daemon:
        for transport in ("pci", "mmio"):
            out = passes(f"test=blk transport={transport}", "--transport", transport,
                         "--vhost-user-blk", daemon.socket)
            equal(out.count("\nblk ") + out.startswith("blk "), 8)  # in every ring mode
        out = passes("test=blk", "--cpus", 4, "--vhost-user-blk", daemon.socket)
        check("queues=4" in out, out)
        out = passes("test=blk irq=1", "--vhost-user-blk", f"{daemon.socket},queues=2")
        check("queues=2" in out and "interrupts=0" not in out, out)


def test_a_guest_does_not_notice_that_its_back_end_is_killed_and_started_again():
    with Daemon() as daemon, \
            Vm(*guest(f"{VERIFY} ops=60000"), "--disk", daemon.journal,
               "--vhost-user-blk", daemon.socket) as vm:
        vm.expect("verify go")
        for _ in range(3):
            time.sleep(0.1)
            if vm.process.poll() is not None:
                vm.wait()
                raise AssertionError(f"the guest was done too soon: {vm.tail()}")
            daemon.kill()
            daemon.start()
        vm.expect("PASS blk-verify", limit=120)
        equal(vm.wait(), 0)
        check("hung up" in vm.stderr() and "is back" in vm.stderr(), vm.stderr())


def test_a_guest_that_is_stopped_and_continued_loses_nothing():
    with Daemon() as daemon:
        control = daemon.path("control")
        with Vm(*guest(f"{VERIFY} ops=25000"), "--disk", daemon.journal, "--vhost-user-blk",
                daemon.socket, "--control", control) as vm:
            vm.expect("verify go")
            qmp = Qmp(control, vm.process)
            for turn in range(12):
                qmp("stop")
                if turn % 4 == 3:  # nor does it matter what happens meanwhile
                    daemon.kill()
                    daemon.start()
                qmp("cont")
            qmp.close()
            vm.expect("PASS blk-verify", limit=120)
            equal(vm.wait(), 0)


def test_a_reset_while_the_back_end_is_away_starts_anew_when_it_is_back():
    with Daemon() as daemon:
        control = daemon.path("control")
        with Vm(*guest(f"{VERIFY} ops=3000"), "--disk", daemon.journal, "--vhost-user-blk",
                daemon.socket, "--control", control) as vm:
            vm.expect("verify go")
            daemon.kill()
            qmp = Qmp(control, vm.process)
            qmp("system_reset")
            qmp.close()
            daemon.start()
            vm.expect("verify go")
            vm.expect("PASS blk-verify", limit=120)
            equal(vm.wait(), 0)


def test_no_broken_ring_rule_reaches_the_back_end():
    with Daemon() as daemon:
        out = passes("test=hostile", "--vhost-user-blk", daemon.socket, "--rng", limit=120)
        check(out.count("needs_reset=1") > 10, out)
        check(daemon.process.poll() is None, "the back end ended")


def hang(path):
    """A back end that lets everybody in, and says nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    return listener


def test_a_back_end_that_hangs_delays_neither_the_control_socket_nor_the_end():
    with Daemon() as daemon:
        control = daemon.path("control")
        with Vm(*guest(f"{VERIFY} ops=100000000"), "--disk", daemon.journal,
                "--vhost-user-blk", daemon.socket, "--control", control) as vm:
            vm.expect("verify go")
            daemon.kill()
            os.unlink(daemon.socket)
            with hang(daemon.socket):
                qmp = Qmp(control, vm.process)
                begin = time.monotonic()
                for command in ("query-status", "stop", "cont", "quit"):
                    qmp(command)
                equal(vm.wait(), 128 + 15)
                took = time.monotonic() - begin
                check(took < 5 * PATIENCE, f"it took {took:.1f} s")
                qmp.close()


def test_one_that_is_not_there_hangs_up_or_is_asked_for_too_much_is_one_sentence():
    kernel = guest("test=blk")
    with Daemon() as daemon:
        away = daemon.path("away")
        refused("run", *kernel, "--vhost-user-blk", away, verb=None,
                words=[f"'{away}'", "No such file"])
        refused("run", *kernel, "--vhost-user-blk", f"{daemon.socket},queues=3", verb=None,
                words=["queues=3"])
        with hang(daemon.path("leaves")) as listener:
            thread = threading.Thread(target=lambda: listener.accept()[0].close())
            thread.start()
            refused("run", *kernel, "--vhost-user-blk", daemon.path("leaves"), verb=None,
                    words=["hung up"])
            thread.join()


def test_a_disk_is_plugged_into_a_guest_whose_memory_is_shared_and_into_no_other():
    for shared in (True, False):
        with Daemon() as daemon:
            control = daemon.path("control")
            with Vm(*guest("test=spin"), "--memory", f"64M{',shared' if shared else ''}",
                    "--control", control) as vm:
                qmp = Qmp(control, vm.process)
                try:
                    qmp("x-hutch-device-add", option="vhost-user-blk",
                        value={"socket": daemon.socket, "id": "d"})
                    check(shared, "it was taken")
                except Exception as why:
                    check(not shared and "--memory SIZE,shared" in str(why), str(why))
                qmp("quit")
                qmp.close()
                equal(vm.wait(), 128 + 15)


def test_virtiofsd_ends_with_its_monitor_however_that_ends():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory() as folder:
        for how, status in ((signal.SIGKILL, 128 + 9), (signal.SIGTERM, 128 + 15)):
            with Vm(*guest("test=serial-echo"), "--share", f"{folder},tag=t") as vm:
                if vm.process.poll() is not None or not vm.read(60):
                    check("no virtiofsd" in vm.stderr(), vm.tail())
                    raise Skip("virtiofsd is not installed")
                started = helpers(vm.process.pid)
                check(started, "there is no virtiofsd")
                vm.signal(how)
                equal(vm.wait(), status)
                wait_until_gone(started)


if __name__ == "__main__":
    hutch.main()
