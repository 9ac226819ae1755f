#!/usr/bin/env python3
"""Snapshots of running VMs, and VMs made from them.  The guest counts, writes what it counts
into pages all over its memory, and says so when a page, a register and the count are not of
one instant (guest-images/payload/test_count.c)."""
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager

import hutch
from hutch import Skip, Vm, check, equal, image, refused
from qmp import Qmp

PAYLOAD = "payload.elf"


@contextmanager
def store():
    """A run folder and a store of snapshots of their own."""
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-", dir="/var/tmp") as scratch:
        os.environ["XDG_RUNTIME_DIR"] = scratch
        os.environ["HUTCH_SNAPSHOTS"] = os.path.join(scratch, "snapshots")
        os.mkdir(os.environ["HUTCH_SNAPSHOTS"])
        yield os.environ["HUTCH_SNAPSHOTS"]


@contextmanager
def counting(*arguments, name="vm", memory="64M", pages=512, cmdline=""):
    """A VM that counts."""
    with Vm("--kernel", image("payload", PAYLOAD), "--cmdline",
            f"test=count pages={pages} {cmdline}", "--memory", memory, "--name", name,
            *arguments) as vm:
        vm.expect("count ready")
        yield vm


def hutch_verb(*arguments, status=0, limit=60):
    """One that ends at once: what it prints; its sentence if it is to fail."""
    done = subprocess.run([hutch.HUTCH, *map(str, arguments)], capture_output=True, text=True,
                          timeout=limit * hutch.PATIENCE)
    equal(done.returncode, status, f"hutch {arguments}: status ({done.stderr.strip()})")
    return done.stderr if status else done.stdout


def create(vm, name, *options):
    """Its figures."""
    return json.loads(hutch_verb("snapshot", "create", vm, name, *options, "--json"))


def count_of(vm):
    """Asks a guest for its count, for which it looks at every page."""
    vm.send("s")
    return int(vm.expect(r"count (\d+) good")[1])


def ends_well(vm):
    vm.send("q")
    vm.expect("PASS count")
    equal(vm.wait(), 0, "status of a guest that counted to its end")


def session(name, vm):
    """A QMP session with the VM of that name."""
    return Qmp(os.path.join(os.environ["XDG_RUNTIME_DIR"], "hutch", name, "control.sock"),
               vm.process)


def restore(name, *options, as_name="copy", env=None):
    return Vm("--restore", name, "--name", as_name, *options, env=env)


def test_a_restored_guest_goes_on_where_it_was_saved():
    with store(), counting() as vm:
        before = count_of(vm)
        figures = create("vm", "one")
        after = count_of(vm)
        check(figures["kept-pages"] > 100 and figures["rounds"] >= 1, figures)
        for _ in range(2):  # the first one changes nothing of it
            with restore("one") as copy:
                saved = count_of(copy)
                check(before <= saved, f"{saved} is before {before}")
                ends_well(copy)
        check(count_of(vm) >= after, "the saved guest goes on")
        ends_well(vm)


def test_a_restored_guest_may_wait_to_be_continued():
    """Held still, so that the count is known exactly."""
    with store(), counting() as vm:
        vm.send("h")
        held = int(vm.expect(r"count (\d+) good")[1])
        create("vm", "one")
        with restore("one", "--paused") as copy:
            qmp = session("copy", copy)
            equal(qmp("query-status")["status"], "paused")
            qmp("cont")
            qmp.close()
            copy.send("x")
            copy.expect("goes on")
            check(count_of(copy) >= held, "it counts on")
            ends_well(copy)


if __name__ == "__main__":
    hutch.main()
