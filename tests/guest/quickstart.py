#!/usr/bin/env python3
"""`hutch run debian` on a copy of the image, so that the image stays as it was built.

usage: quickstart.py           unattended: asks the guest who it is, prints its answers
       quickstart.py --shell   leaves the user in the guest's shell
"""
import os
import random
import subprocess
import sys
import tempfile
import time

import hutch
from hutch import Vm, check, equal, image

QUESTIONS = ("uname -a", "head -1 /etc/os-release", "nproc; grep MemTotal /proc/meminfo",
             "lsblk", "ip -brief address", "systemctl --failed --no-legend")


def copy_of_debian(folder):
    """An image folder with the one image in it; holes stay holes."""
    source = os.path.dirname(image("debian", "config.json"))
    subprocess.run(["cp", "-rL", "--sparse=always", "--reflink=auto", source,
                    os.path.join(folder, "debian")], check=True)


def ask(vm, number, question):
    """What the guest prints.  A mark that it computes shows that it really did it."""
    a, b = random.randrange(10**6), random.randrange(10**6)
    vm.send(f"{question}; echo mark-{number}-$(({a} + {b}))\n")
    return vm.expect(rf"(?s)\n(.*?)mark-{number}-{a + b}", 120)[1].decode().replace("\r", "")


def unattended():
    start = time.monotonic()
    with Vm("debian", "--timeout", 800) as vm:
        vm.expect(r"root@debian:~# ", 600)
        booted = time.monotonic() - start
        for number, question in enumerate(QUESTIONS):
            print(f"$ {question}\n{ask(vm, number, question).rstrip()}", flush=True)
        vm.send("poweroff\n")
        equal(vm.wait(300), 0, "exit status of hutch run debian")
        check("Debian GNU/Linux 12" in vm.text(), "the guest is not Debian 12")
    print(f"quickstart: the guest ran: a shell after {booted:.0f} s, powered off with status 0")


def main():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy_of_debian(folder)
        os.environ["HUTCH_IMAGES"] = folder
        if "--shell" in sys.argv:
            sys.exit(subprocess.run([hutch.HUTCH, "run", "debian"], check=False).returncode)
        try:
            unattended()
        except (AssertionError, hutch.Skip) as error:
            sys.exit(f"quickstart: {error}")


if __name__ == "__main__":
    main()
