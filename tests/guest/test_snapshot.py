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
def store(where="/dev/shm"):
    """A run folder and a store of snapshots of their own, in memory if need not be."""
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-", dir=where) as scratch:
        os.environ["XDG_RUNTIME_DIR"] = scratch
        os.environ["HUTCH_SNAPSHOTS"] = os.path.join(scratch, "snapshots")
        os.mkdir(os.environ["HUTCH_SNAPSHOTS"])
        yield os.environ["HUTCH_SNAPSHOTS"]


@contextmanager
def counting(*arguments, name="vm", memory="64M", pages=512, slow=0):
    """A VM that counts."""
    with Vm("--kernel", image("payload", PAYLOAD), "--cmdline",
            f"test=count pages={pages} slow={slow}", "--memory", memory, "--name", name,
            *arguments) as vm:
        vm.expect("count ready", limit=120)
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



# ---- differences -------------------------------------------------------------------------


def test_differences_build_on_each_other_fifty_deep():
    with store(), counting(memory="16M", pages=128) as vm:
        create("vm", "d0")
        counts = [count_of(vm)]
        for i in range(1, 51):
            create("vm", f"d{i}", "--diff")
            counts.append(count_of(vm))
        for i in (1, 17, 50):
            with restore(f"d{i}") as copy:
                saved = count_of(copy)
                check(counts[i - 1] <= saved, f"d{i}: {saved} is before {counts[i - 1]}")
                ends_well(copy)
        hutch_verb("snapshot", "verify", "d50")


def test_a_restored_vm_can_be_saved_again_whole_and_as_a_difference():
    """What changed since is told by the kernel's own page tables, with no log before."""
    with store(), counting(memory="32M", pages=256, slow=20000) as vm:
        create("vm", "g0")
        whole = create("vm", "whole")["kept-pages"]
        last = 0
        for i in range(1, 6):
            with restore(f"g{i - 1}") as copy:
                now = count_of(copy)
                check(now >= last, f"g{i - 1}: {now} is before {last}")
                figures = create("copy", f"g{i}", "--diff")
                check(figures["kept-pages"] < whole, f"{figures} of {whole}")
                if i == 3:
                    create("copy", "again")
                last = now
                ends_well(copy)
        with restore("g5") as copy:
            check(count_of(copy) > 0, "g5")
            ends_well(copy)
        with restore("again") as copy:
            ends_well(copy)


def test_memory_above_the_hole_is_saved_and_compared_too():
    with store(), counting(memory="5G", pages=512) as vm:
        create("vm", "one")
        count_of(vm)
        create("vm", "two", "--diff")
        ends_well(vm)
        for name in ("one", "two"):
            with restore(name) as copy:
                count_of(copy)
                if name == "two":
                    create("copy", "three", "--diff")
                ends_well(copy)
        with restore("three") as copy:
            ends_well(copy)


def test_a_difference_needs_the_last_snapshot():
    with store() as snapshots, counting() as vm:
        check("no snapshot of this VM" in hutch_verb("snapshot", "create", "vm", "d", "--diff",
                                                     status=125), "there is none yet")
        create("vm", "one")
        shutil.rmtree(os.path.join(snapshots, "one.snap"))
        check("is not there any more" in hutch_verb("snapshot", "create", "vm", "d", "--diff",
                                                    status=125), "it is gone")
        create("vm", "two")
        create("vm", "d", "--diff")
        equal(sorted(os.listdir(snapshots)), ["d.snap", "two.snap"])
        ends_well(vm)


# ---- what a restored VM is ---------------------------------------------------------------


def slots(qmp):
    return {d["id"]: d.get("slot") for d in qmp("x-hutch-query-devices")}


def test_devices_that_came_and_went_are_in_the_same_slots():
    with store(), counting("--net", "user", "--rng", "--rng") as vm:
        qmp = session("vm", vm)
        for _ in range(3):
            qmp("device_add", driver="virtio-rng-pci")
        qmp("device_del", id="rng0")
        qmp("device_del", id="rng3")
        qmp("system_reset")  # which takes both away
        vm.expect("count ready")
        was = slots(qmp)
        check("rng0" not in was and "rng3" not in was and "rng4" in was, was)
        qmp.close()
        create("vm", "one")
        with restore("one") as copy:
            again = session("copy", copy)
            equal(slots(again), was)
            again("device_add", driver="virtio-rng-pci")
            again.close()
            ends_well(copy)


def test_two_vms_of_one_snapshot_run_side_by_side():
    with store(), counting() as vm:
        create("vm", "one")
        ends_well(vm)
        with restore("one", as_name="a") as a, restore("one", as_name="b") as b:
            check("in use" in hutch_verb("snapshot", "rm", "one", status=125), "it is in use")
            for copy in (a, b, a, b):
                count_of(copy)
            ends_well(a)
            ends_well(b)
        hutch_verb("snapshot", "rm", "one")


def test_what_would_make_it_another_machine_is_refused_by_name():
    with store(), counting("--net", "user") as vm:
        create("vm", "one")
        ends_well(vm)
        for options, words in (
                (("--cpus", "2"), ("--cpus", "saved with")),
                (("--memory", "1G"), ("--memory",)),
                (("--kernel", "x"), ("--kernel",)),
                (("--rng",), ("--rng",)),
                (("--net", "user"), ("--net", "net0")),
                (("--net", "net0=user,mac=52:54:00:00:00:01"), ("mac", "stays")),
                (("--disk", "disk0=/dev/null"), ("--disk", "none")),
                (("--serial", "none", "--serial", "none"), ("--serial",)),
                (("--config", "x"), ("--config",)),
                (("--name", "copy", "--paused", "--transport", "mmio"), ("--transport",))):
            refused("--restore", "one", *options, words=words)
        with restore("one", "--net", "net0=user,hostname=other") as copy:
            ends_well(copy)


def test_a_reset_boots_the_kernel_or_says_that_it_is_gone():
    with store("/var/tmp") as snapshots:
        kernel = os.path.join(snapshots, "..", "kernel.elf")
        shutil.copy(image("payload", PAYLOAD), kernel)
        with Vm("--kernel", kernel, "--cmdline", "test=count pages=512", "--memory", "64M",
                "--name", "vm") as vm:
            vm.expect("count ready")
            create("vm", "one")
            ends_well(vm)
        with restore("one") as copy:
            count_of(copy)
            hutch_verb("reset", "copy")
            copy.expect("count ready")
            create("copy", "two", "--diff")  # everything changed
            ends_well(copy)
        os.unlink(kernel)
        with restore("two") as copy:
            count_of(copy)
            hutch_verb("reset", "copy")
            equal(copy.wait(), 125, "status")
            check("cannot be reset" in copy.stderr() and "kernel.elf" in copy.stderr(),
                  copy.stderr())


def test_restore_puts_a_vm_back_under_its_name():
    with store(), counting() as vm:
        create("vm", "one")
        before = count_of(vm)
        hutch_verb("snapshot", "restore", "vm", "one")
        equal(vm.wait(), 128 + signal.SIGTERM, "the old monitor")
        try:
            state = json.loads(hutch_verb("status", "vm", "--json"))
            equal(state["state"], "running")
            check("missing" in hutch_verb("snapshot", "restore", "vm", "missing", status=125),
                  "the one that is not there is named")
            equal(json.loads(hutch_verb("status", "vm", "--json"))["state"], "running",
                  "a snapshot that is not there ends nothing")
        finally:
            hutch_verb("rm", "vm", "--force")
        check(before > 0, "it counted")


def disk_of(name):
    return json.loads(hutch_verb("control", name, "query-block"))[0]["inserted"]["file"]


def test_disks_go_back_with_their_vm_and_stay_when_it_ends():
    """The image was named by a relative path, which counts from nowhere else."""
    with store("/var/tmp") as snapshots:
        with open(os.path.join(snapshots, "..", "disk.raw"), "wb") as f:
            f.truncate(1 << 20)
        with Vm("--kernel", image("payload", PAYLOAD), "--cmdline", "test=count pages=512",
                "--memory", "64M", "--name", "vm", "--disk", "disk.raw",
                cwd=os.path.join(snapshots, "..")) as vm:
            vm.expect("count ready")
            create("vm", "one")
            check(disk_of("vm").endswith("/disk.one.qcow2"), disk_of("vm"))
            try:
                hutch_verb("snapshot", "restore", "vm", "one")
                back = disk_of("vm")
                check(back.endswith("/disk.vm-1.qcow2"), back)
                create("vm", "two", "--diff")
                hutch_verb("snapshot", "restore", "vm", "two")
                check(disk_of("vm").endswith("/disk.vm-1.vm-1.qcow2"), disk_of("vm"))
            finally:
                hutch_verb("rm", "vm", "--force")
            check(os.path.exists(back), "it went with the VM")
        with restore("two") as copy:
            ends_well(copy)


def test_stop_ends_the_vm_at_the_instant_that_was_saved():
    with store(), counting() as vm:
        create("vm", "one", "--stop")
        equal(vm.wait(), 128 + signal.SIGTERM, "status")
        with restore("one", as_name="vm") as again:
            ends_well(again)


# ---- what goes wrong ---------------------------------------------------------------------


def leftovers(snapshots):
    return sorted(os.listdir(snapshots))


def test_a_monitor_that_is_killed_leaves_a_whole_snapshot_or_none():
    """At whatever moment: the folder is complete, or has no name, and the next one that is
    to have it removes what is left."""
    rng = random.Random(7)
    with store("/var/tmp") as snapshots:
        whole = killed = 0
        with counting(memory="32M", pages=256) as vm:
            began = time.monotonic()
            create("vm", "one")
            takes = time.monotonic() - began
        hutch_verb("snapshot", "rm", "one")
        for _ in range(12):
            with counting(memory="32M", pages=256) as vm:
                saving = subprocess.Popen(
                    [hutch.HUTCH, "snapshot", "create", "vm", "one", "--quiet"],
                    stderr=subprocess.DEVNULL)
                time.sleep(rng.uniform(0, 1.5 * takes))
                vm.process.kill()
                vm.process.wait()
                saving.wait(60 * hutch.PATIENCE)
            names = [n for n in leftovers(snapshots) if not n.startswith(".")]
            killed += len(leftovers(snapshots)) - len(names)
            if names:
                equal(names, ["one.snap"])
                hutch_verb("snapshot", "verify", "one")
                with restore("one") as copy:
                    ends_well(copy)
                hutch_verb("snapshot", "rm", "one")
                whole += 1
        with counting() as vm:
            create("vm", "one")
            ends_well(vm)
        equal(leftovers(snapshots), ["one.snap"])
        print(f"# {whole} whole, {killed} in pieces", flush=True)


def test_a_full_disk_leaves_the_vm_running_and_nothing_on_the_disk():
    """In a mount namespace of its own, whose store is small."""
    with store() as snapshots:
        small = os.path.join(snapshots, "small")
        os.mkdir(small)
        script = f"mount -t tmpfs -o size=300k none {small} || exit 77; exec \"$@\""
        wrap = ["unshare", "-m", "sh", "-c", script, "sh"]
        if subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
            raise Skip("a tmpfs cannot be mounted here")
        with Vm("--kernel", image("payload", PAYLOAD), "--cmdline", "test=count pages=512",
                "--memory", "64M", "--name", "vm", wrap=wrap) as vm:
            vm.expect("count ready")
            said = hutch_verb("snapshot", "create", "vm", os.path.join(small, "x"), status=125)
            check("No space left" in said, said)
            inside = f"/proc/{vm.process.pid}/root{small}"
            equal(os.listdir(inside), [], "left behind")
            count_of(vm)
            figures = create("vm", "one")  # elsewhere there is room
            check(figures["kept-pages"] > 100, figures)
            count_of(vm)
            said = hutch_verb("snapshot", "create", "vm", os.path.join(small, "x"), "--diff",
                              status=125)
            check("No space left" in said, said)
            create("vm", "two", "--diff")  # has what the failed one took from the logs
            ends_well(vm)
        with restore("two") as copy:
            ends_well(copy)


def test_what_is_damaged_cut_off_or_foreign_is_refused_by_section_and_leaves_nothing():
    with store() as snapshots, counting(memory="16M", pages=64) as vm:
        create("vm", "good")
        ends_well(vm)
        with counting(memory="16M", pages=64, name="other") as other:
            create("other", "stranger")
            ends_well(other)
        with counting("--net", "user", memory="16M", pages=64, name="other") as other:
            create("other", "card")
            ends_well(other)
        good, bad = (os.path.join(snapshots, n) for n in ("good.snap", "bad.snap"))

        def damage(words, change):
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(good, bad)
            change()
            before = leftovers(os.environ["XDG_RUNTIME_DIR"])
            refused("--restore", bad, "--name", "copy", words=words)
            equal(leftovers(os.environ["XDG_RUNTIME_DIR"]), before, "left behind")

        def rewrite(name, fn):
            path = os.path.join(bad, name)
            with open(path, "rb") as f:
                data = f.read()
            with open(path, "wb") as f:
                f.write(fn(data))

        for name in ("state", "config.json", "manifest.json"):
            size = os.path.getsize(os.path.join(good, name))
            for cut in sorted({0, 1, size // 2, size - 1, *range(4096, size, 4096)}):
                damage(("bad.snap",), lambda n=name, c=cut: rewrite(n, lambda d: d[:c]))
            damage(("bad.snap",), lambda n=name: rewrite(
                n, lambda d: d[:len(d) // 2] + bytes([d[len(d) // 2] ^ 1]) + d[len(d) // 2 + 1:]))
            damage(("bad.snap",), lambda n=name: os.unlink(os.path.join(bad, n)))
        damage(("memory",), lambda: os.truncate(os.path.join(bad, "memory"), 4096))
        damage(("memory",), lambda: os.unlink(os.path.join(bad, "memory")))
        damage(("bad.snap",), lambda: shutil.copy(os.path.join(snapshots, "stranger.snap", "state"),
                                                  os.path.join(bad, "state")))

        def as_whole(source):
            """The state of another machine, and a manifest that says so."""
            shutil.copy(os.path.join(snapshots, source, "state"), os.path.join(bad, "state"))
            with open(os.path.join(snapshots, source, "manifest.json"), encoding="utf-8") as f:
                theirs = {x["name"]: x for x in json.load(f)["files"]}
            with open(os.path.join(bad, "manifest.json"), encoding="utf-8") as f:
                manifest = json.load(f)
            manifest["files"] = [theirs["state"] if x["name"] == "state" else x
                                 for x in manifest["files"]]
            with open(os.path.join(bad, "manifest.json"), "w", encoding="utf-8") as f:
                json.dump(manifest, f)

        damage(("state, section", "net"), lambda: as_whole("card.snap"))


if __name__ == "__main__":
    hutch.main()
