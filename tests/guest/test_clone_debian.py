#!/usr/bin/env python3
"""Clones of stock Debian guests that have booted: who they are, by the agent and by the VM
generation ID."""
import json
import os
import subprocess
import tempfile
import time

import hutch
from hutch import PATIENCE, check, equal, image
from quickstart import copy_of_debian
from test_clone import Console, clones

STEPS = ["entropy", "clock", "hostname", "machine-id", "ssh-keys", "network"]


class Debian:
    def __init__(self, folder):
        copy_of_debian(folder)
        self.env = {**os.environ, "HUTCH_IMAGES": folder, "XDG_RUNTIME_DIR": folder,
                    "HUTCH_TEMPLATES": os.path.join(folder, "templates")}

    def hutch(self, *arguments, status=0, limit=120):
        done = subprocess.run([hutch.HUTCH, *map(str, arguments)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
                              check=False, timeout=limit * PATIENCE, text=True)
        check(status is None or done.returncode == status,
              f"hutch {arguments}: status {done.returncode}: {done.stdout[-2000:]} "
              f"{done.stderr[-500:]}")
        return done.stdout

    def sh(self, vm, script):
        return self.hutch("exec", vm, "--", "sh", "-c", script).strip()

    def boot(self, name):
        """Until its sshd has made its key, which clones must not share."""
        limit = int(400 * PATIENCE)
        self.hutch("run", "--detach", "debian", "--agent", "--name", name, "--cpus", 1,
                   "--memory", "512M", "--timeout", 1500, "--wait", "agent", "--wait-timeout",
                   limit, limit=limit + 60)
        self.sh(name, "while ! systemctl -q is-active ssh; do sleep 0.2; done")

    def who(self, vm):
        """What says who a guest is."""
        self.sh(vm, "until ip -4 address show | grep -q 10.0.2.; do sleep 0.2; done")
        told = self.sh(vm, "hostname; cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; "
                           "cat /sys/class/net/e*/address; date +%s; "
                           "ip -4 -brief address show scope global; "
                           "grep -c 127.0.1.1.$(hostname)$ /etc/hosts")
        name, machine, key, mac, now, address, hosts = told.splitlines()
        equal(hosts, "1", f"{vm}: its own name in /etc/hosts")
        check(abs(int(now) - time.time()) < 30 * PATIENCE, f"{vm}: its clock says {now}")
        check("10.0.2." in address, f"{vm}: {address}")
        return {"name": name, "machine": machine, "key": key.split()[1], "mac": mac}


def test_clones_of_a_booted_debian_are_themselves():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        debian = Debian(folder)
        names = ["source", "source-1", "source-2"]
        try:
            began = time.monotonic()
            debian.boot("source")
            print(f"# booted after {time.monotonic() - began:.1f} s", flush=True)
            debian.who("source")
            began = time.monotonic()
            told = json.loads(debian.hutch("clone", "source", "--count", 2, "--wait", "agent",
                                           "--json", limit=600))
            print(f"# 2 clones, with their identity: {time.monotonic() - began:.1f} s", flush=True)
            for clone in told:
                equal([(s["step"], s["result"]) for s in clone["identity"]],
                      [(step, "done") for step in STEPS])
            found = {name: debian.who(name) for name in names}
            for key in ("name", "machine", "key", "mac"):
                equal(len({who[key] for who in found.values()}), 3, f"{key}: {found}")
            for clone in told:
                who = found[clone["name"]]
                equal(who["name"], clone["name"])
                equal(who["machine"], clone["uuid"].replace("-", ""))
                config = json.loads(debian.hutch("config", "show", clone["name"]))
                equal(who["mac"], config["net"][0]["mac"])
        finally:
            for name in names:
                debian.hutch("rm", "--force", name, status=None)


def test_a_stock_kernel_is_told_that_it_was_cloned():
    """Debian's kernel for real machines, unlike that of its cloud images, has a driver for
    the VM generation ID; the busybox guest's initramfs gives it a shell."""
    with clones() as fleet:
        fleet("run", "-d", "--name", "one", "--kernel", image("host-b", "vmlinuz"), "--initrd",
              image("busybox", "initrd.img"), "--memory", "384M", "--cmdline",
              "console=ttyS0 quiet")
        with Console(fleet, "one") as console:
            console.expect("built-in shell", 240 * PATIENCE)
            console.ask("dmesg -n 1\n", "# $")
        fleet("clone", "one")
        for name, word in (("one-1", "again"), ("one", "never")):
            with Console(fleet, name) as console:
                fork = r"crng reseeded due to virtual machine fork" if word == "again" else "none"
                console.ask("echo said:; dmesg | grep 'virtual machine f[o]rk' || echo none\n",
                            rf"said:\r\n[^\n]*{fork}")


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="4G", limit=900)
