#!/usr/bin/env python3
"""Programs of the host and of a stock Debian kernel talk by virtio-vsock: docs/vsock.md."""
import hashlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading

import hutch
from hutch import check, equal, image
from linux import Linux
from qmp import Qmp

PEER = os.path.join(os.path.dirname(hutch.HUTCH), "tests", "guest", "vsock_peer")
MIB = 1 << 20
MANY = 60


def initrd_with_peer(folder):
    """The busybox guest's, and behind it a second archive with our program."""
    path = os.path.join(folder, "initrd.img")
    shutil.copy(image("busybox", "initrd.img"), path)
    os.chmod(path, 0o644)
    if not os.path.exists(PEER):
        raise hutch.Skip(f"{PEER} is not there: it is built where a static libc is")
    more = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], check=True, input=b"vsock_peer\n",
                          cwd=os.path.dirname(PEER), stdout=subprocess.PIPE).stdout
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(bytes(-file.tell() % 512))
        file.write(more)
    return path


class Guest(Linux):
    """A Linux guest with the driver loaded, an echo server on port 1024, and a control
    socket."""

    def __init__(self, *arguments):
        self.folder = tempfile.TemporaryDirectory(dir="/var/tmp")
        self.path = os.path.join(self.folder.name, "v")
        control = os.path.join(self.folder.name, "control")
        super().__init__("--memory", "256M", "--control", control, "--vsock",
                         f"cid=5,path={self.path},id=vs", *arguments,
                         initrd=initrd_with_peer(self.folder.name))
        self.qmp = Qmp(control, self.process)

    def __exit__(self, *_):
        super().__exit__()
        self.qmp.close()
        self.folder.cleanup()

    def boot(self, limit=180):
        super().boot(limit)
        self.sh("modprobe vmw_vsock_virtio_transport && /vsock_peer echo 1024")
        return self

    def dial(self, port=1024):
        """Connected to the guest's port."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60 * hutch.PATIENCE)
        s.connect(self.path)
        s.sendall(b"CONNECT %d\n" % port)
        answer = b""
        while not answer.endswith(b"\n"):
            byte = s.recv(1)
            if not byte:
                raise ConnectionRefusedError(f"nobody is at port {port}")
            answer += byte
        check(answer.startswith(b"OK "), repr(answer))
        return s

    def listen(self, port):
        """A listener for the guest's connections to `port`."""
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(60 * hutch.PATIENCE)
        listener.bind(f"{self.path}_{port}")
        listener.listen(MANY)
        return listener


def echoes(s, size, middle=lambda: None):
    """Sends `size` bytes and then the end; all must come back, and the end of them.  Calls
    `middle` when half is back."""
    block = random.randbytes(MIB)
    sent, back, done = hashlib.sha256(), hashlib.sha256(), 0

    def send():
        for at in range(0, size, MIB):
            part = block[:min(MIB, size - at)]
            sent.update(part)
            s.sendall(part)
        s.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    while data := s.recv(MIB):
        back.update(data)
        if done < size // 2 <= done + len(data):
            middle()
        done += len(data)
    sender.join()
    equal(done, size, "bytes that came back")
    equal(back.hexdigest(), sent.hexdigest(), "what came back")
    s.close()


def clients_of_the_host(vm):
    echoes(vm.dial(), 5)
    try:
        vm.dial(9)
        raise AssertionError("somebody is at port 9")
    except ConnectionRefusedError:
        pass
    echoes(vm.dial(), 64 * MIB)
    many = [vm.dial() for _ in range(MANY)]
    for i, s in enumerate(many):
        s.sendall(b"%04d" % i)
    for i, s in enumerate(many):
        equal(s.recv(4, socket.MSG_WAITALL), b"%04d" % i)
        s.close()


def clients_in_the_guest(vm):
    vm.sh("/vsock_peer call 2048 hello 2>&1 | grep 'Connection reset'")  # nobody listens
    with vm.listen(2048) as listener:
        vm.send("/vsock_peer call 2048 hello\n")
        s, _ = listener.accept()
        heard = b""
        while data := s.recv(100):
            heard += data
        equal(heard, b"hello")
        s.sendall(b"the guest's half is closed")
        s.close()
        vm.expect("the guest's half is closed")
    with vm.listen(2049) as listener:
        vm.send(f"/vsock_peer many 2049 {MANY}; echo many: $?\n")
        sockets = [listener.accept()[0] for _ in range(MANY)]
        for s in sockets:
            s.sendall(s.recv(4, socket.MSG_WAITALL))
        vm.expect("many: 0")


def pause_in_the_middle(vm):
    def pause():
        vm.qmp("stop")
        equal(vm.qmp("query-status")["status"], "paused")
        vm.qmp("cont")
    echoes(vm.dial(), 4 * MIB, pause)


def unplug_in_the_middle(vm):
    s = vm.dial()
    s.sendall(b"x")
    equal(s.recv(1), b"x")
    vm.qmp("device_del", id="vs")
    vm.qmp.event("DEVICE_DELETED", 120)
    equal(s.recv(1), b"", "the connection of a device that is gone")
    check(not os.path.exists(vm.path), "its socket is still there")
    vm.qmp("device_add", driver="virtio-vsock-pci", id="again", cid=6, path=vm.path)
    echoes(vm.dial(), MIB)  # waits for the guest's driver


def test_host_and_guest_programs_talk_by_vsock():
    with Guest().boot() as vm:
        clients_of_the_host(vm)
        clients_in_the_guest(vm)
        pause_in_the_middle(vm)
        unplug_in_the_middle(vm)
        equal(vm.power_off(), 0)


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="2G", limit=600)
