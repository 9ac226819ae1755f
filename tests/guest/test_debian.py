#!/usr/bin/env python3
"""Debian 12 from its root disk, as a user runs it: systemd, login, network, power-off."""
import os
import signal
import socket
import tempfile

import hutch
from hutch import Vm, check, equal
from quickstart import copy_of_debian

LOGIN = r"root@debian:~# "


class Debian:
    """A Debian guest on a fresh copy of the image, logged in."""

    def __init__(self, *arguments, limit=300):
        self.folder = tempfile.TemporaryDirectory(dir="/var/tmp")
        copy_of_debian(self.folder.name)
        self.vm = Vm("debian", "--timeout", 600, *arguments,
                     env={"HUTCH_IMAGES": self.folder.name})
        self.log_in(limit)

    def log_in(self, limit=300):
        """Waits for the shell, and has it print nothing but text."""
        self.vm.expect(LOGIN, limit)
        self.vm.send("bind 'set enable-bracketed-paste off'\n")
        self.vm.expect(LOGIN, limit)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vm.__exit__()
        self.folder.cleanup()

    def ask(self, command, pattern, limit=90):
        """The guest must answer `command` with `pattern`."""
        self.vm.send(command + "\n")
        self.vm.expect(r"\n", limit)
        answer = self.vm.expect(pattern, limit)
        self.vm.expect(LOGIN, limit)
        return answer


def test_debian_boots_with_one_cpu_to_a_login_and_reaches_the_network():
    port = 30000 + os.getpid() % 10000
    with Debian("--cpus", 1, "--net", f"user,id=second,hostfwd=tcp:127.0.0.1:{port}-:22") as guest:
        guest.ask("nproc", r"^1\r?$")
        guest.ask("systemctl is-system-running --wait", r"^running\r?$", 180)
        guest.ask("ping -c 1 -W 5 10.0.2.2", "1 received")
        guest.ask("lsblk -no MOUNTPOINTS /dev/vda", r"^/\r?$")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as ssh:
            check(ssh.recv(8) == b"SSH-2.0-", "no ssh behind the forward")
        guest.vm.send("poweroff\n")
        equal(guest.vm.wait(180), 0)


def test_debian_boots_with_four_cpus_reboots_and_obeys_the_power_button():
    with Debian("--cpus", 4) as guest:
        guest.ask("nproc", r"^4\r?$")
        guest.ask("echo kept >/root/note; sync; echo done", r"^done\r?$")
        guest.vm.send("reboot\n")
        guest.vm.expect("Restarting system", 180)
        guest.log_in()
        guest.ask("cat /root/note", r"^kept\r?$")
        guest.vm.signal(signal.SIGPWR)
        equal(guest.vm.wait(180), 0)


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="4G", limit=900)
