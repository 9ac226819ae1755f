#!/usr/bin/env python3
"""`hutch run debian` on a copy of the image, so that the image stays as it was built.

usage: quickstart.py           unattended: asks the guest who it is, prints its answers
       quickstart.py --shell   leaves the user in the guest's shell
"""
import json
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


def copy_of_debian(folder, whole=False):
    """An image folder with the one image in it.  Its disk is an overlay of the one that was
    built, or a copy of it when `whole`: to read it all takes a while in host B."""
    source = os.path.dirname(image("debian", "config.json"))
    target = os.path.join(folder, "debian")
    if whole:
        subprocess.run(["cp", "-rL", "--sparse=always", "--reflink=auto", source, target],
                       check=True)
        return
    os.mkdir(target)
    with open(os.path.join(source, "config.json"), encoding="ascii") as file:
        config = json.load(file)
    for part in ("kernel", "initrd"):
        config[part] = os.path.join(source, config[part])
    disk = os.path.join(target, "root.qcow2")
    subprocess.run([hutch.HUTCH, "image", "create", "-b",
                    os.path.join(source, config["disk"][0]["path"]), "-F", "raw", disk], check=True,
                   stdout=subprocess.DEVNULL)
    config["disk"] = [{"path": "root.qcow2", "format": "qcow2", "backing": "on"}]
    with open(os.path.join(target, "config.json"), "w", encoding="ascii") as file:
        json.dump(config, file)


def ask(vm, question):
    """What the guest prints.  The marks around it are sums that it computes, which shows
    that it really ran."""
    a, b = random.randrange(10**6), random.randrange(10**6)
    vm.send(f"echo $(({a} + {b})); {question}; echo $(({a} - {b}))\n")
    answer = vm.expect(rf"(?s)\b{a + b}\r?\n(.*?){a - b}\r?\n", 120)[1]
    return answer.decode(errors="replace").replace("\r", "").rstrip()


def unattended():
    start = time.monotonic()
    with Vm("debian", "--timeout", 800) as vm:
        vm.expect(r"root@debian:~# ", 600)
        booted = time.monotonic() - start
        # Nothing but text from here on.
        vm.send("bind 'set enable-bracketed-paste off'; stty -echo; PS1=\n")
        for question in QUESTIONS:
            print(f"$ {question}\n{ask(vm, question)}", flush=True)
        vm.send("poweroff\n")
        equal(vm.wait(300), 0, "exit status of hutch run debian")
        check("Debian GNU/Linux 12" in vm.text(), "the guest is not Debian 12")
    print(f"quickstart: the guest ran: a shell after {booted:.0f} s, powered off with status 0")


def main():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy_of_debian(folder)
        os.environ["HUTCH_IMAGES"] = folder
        if "--shell" in sys.argv:
            status = subprocess.run([hutch.HUTCH, "run", "debian"], check=False).returncode
            sys.exit(status if status >= 0 else 128 - status)
        try:
            unattended()
        except (AssertionError, hutch.Skip) as error:
            sys.exit(f"quickstart: {error}")


if __name__ == "__main__":
    main()
