#!/usr/bin/env python3
"""What a stock Debian kernel has of its devices after a restore: docs/snapshot-devices.md."""
import os
import socket
import subprocess
import tempfile

import hutch
from hutch import check, equal
from linux import Linux
from test_vsock import initrd_with_peer


class Restored(Linux):
    """The same guest, from a snapshot, at its prompt."""

    def __init__(self, *arguments):  # pylint: disable=super-init-not-called
        hutch.Vm.__init__(self, *arguments)
        self.commands = 1000


def verb(*arguments):
    done = subprocess.run([hutch.HUTCH, *map(str, arguments)], text=True, capture_output=True,
                          timeout=120 * hutch.PATIENCE)
    equal(done.returncode, 0, f"{arguments}: {done.stderr}")


def dial_vsock(path, port=1024):
    """Connected to the guest's echo server."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60 * hutch.PATIENCE)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    check(s.recv(100).startswith(b"OK "), "the guest lets us in")
    return s


def say_and_hear(s, text):
    s.sendall(text)
    equal(s.recv(len(text), socket.MSG_WAITALL), text, "what the guest echoes")


def server():
    """A listener of the host that never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60 * hutch.PATIENCE)
    return listener


def connect_idly(vm, port):
    """A connection of the guest to that port, over which it only listens."""
    vm.sh("mkfifo /tmp/f; (sleep 100000 >/tmp/f &); "
          f"(nc 10.0.2.2 {port} </tmp/f >/dev/null 2>&1; echo tcp-is-over >/dev/ttyS0) &")


def addresses(vm):
    return vm.sh("ip -o addr show eth0; cat /sys/class/net/eth0/address")


def test_connections_end_at_once_and_everything_else_goes_on():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, server() as listener:
        os.environ["XDG_RUNTIME_DIR"] = folder
        os.environ["HUTCH_SNAPSHOTS"] = os.path.join(folder, "snapshots")
        path = os.path.join(folder, "v")
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(16 << 20)
        with Linux("--name", "vm", "--memory", "256M", "--net", "user", "--rng", "--disk", disk,
                   "--vsock", f"5,path={path}", cmdline="ip=dhcp",
                   initrd=initrd_with_peer(folder)).boot() as vm:
            vm.sh("modprobe vmw_vsock_virtio_transport && /vsock_peer echo 1024")
            vm.sh("head -c 4000000 /dev/urandom >/tmp/d; dd if=/tmp/d of=/dev/vda conv=fsync "
                  "bs=1M 2>/dev/null")
            before = addresses(vm)
            connect_idly(vm, listener.getsockname()[1])
            accepted, _ = listener.accept()
            old = dial_vsock(path)
            say_and_hear(old, b"before")
            verb("snapshot", "create", "vm", "one", "--stop", "--quiet")
            vm.wait()
        equal(accepted.recv(1), b"", "the host sees the end of the process that was saved")
        with Restored("--restore", "one", "--name", "again") as vm:
            vm.expect("tcp-is-over", 30)  # it waited, and would have for ever
            equal(addresses(vm), before, "addresses")
            equal(vm.sh("netstat -tn | grep -c ESTABLISHED", status=None).strip(), "0")
            say_and_hear(dial_vsock(path), b"after")
            connect_idly(vm, listener.getsockname()[1])
            listener.accept()[0].close()
            equal(vm.sh("echo 3 >/proc/sys/vm/drop_caches; head -c 4000000 /dev/vda | "
                        "cmp - /tmp/d && echo same").strip(), "same")
            equal(vm.sh("head -c 32 /dev/hwrng | wc -c").strip(), "32")
            equal(vm.power_off(), 0, "status")


if __name__ == "__main__":
    hutch.main(stock_kernels=True, limit=300)
