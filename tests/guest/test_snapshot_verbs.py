#!/usr/bin/env python3
"""The verbs about snapshots' folders, with snapshots of VMs that ran: what is merged, exported
and imported goes on as what it was made of.  And golden snapshots, of each format that ever was."""
import glob
import json
import os
import shutil
import subprocess

import hutch
from hutch import Skip, Vm, check, equal, image
from test_snapshot import (count_of, counting, create, ends_well, hutch_verb, restore, session,
                           store)

GOLDEN = os.path.join(hutch.ROOT, "tests/state/golden")


def snapshot(*arguments, status=0):
    return hutch_verb("snapshot", *arguments, status=status)


def as_json(*arguments, status=0):
    done = subprocess.run([hutch.HUTCH, *arguments, "--json"], capture_output=True, text=True,
                          check=False, timeout=60 * hutch.PATIENCE)
    equal(done.returncode, status, f"hutch {arguments}: {done.stderr}")
    return json.loads(done.stdout)


def goes_on(name, before, *options):
    """The guest that is restored from it has counted on, and every page agrees."""
    with restore(name, *options) as vm:
        check(count_of(vm) >= before, "the count goes back")
        ends_well(vm)


def chain(vm):
    """Three snapshots, each a difference to the one before; the count at the last."""
    create("vm", "one")
    count_of(vm)
    create("vm", "two", "--diff")
    before = count_of(vm)
    create("vm", "three", "--diff")
    return before


def test_a_chain_goes_on_when_it_is_merged_exported_and_imported():
    with store(), counting(memory="16M", pages=64) as vm:
        before = chain(vm)
        ends_well(vm)
        snapshot("verify", "three")
        snapshot("merge", "three", "--into", "whole", "-q")
        goes_on("whole", before)
        snapshot("export", "three", os.path.join(os.environ["HUTCH_SNAPSHOTS"], "a.zst"), "-q")
        snapshot("merge", "three", "-q")
        snapshot("rm", "one", "two")
        goes_on("three", before)
        snapshot("rm", "three", "whole")
        snapshot("import", os.path.join(os.environ["HUTCH_SNAPSHOTS"], "a.zst"), "--name", "back")
        equal(as_json("check-restore", "back")["problems"], [])
        goes_on("back", before)


def test_an_archive_is_enough_to_go_on_with_disks():
    with store() as path:
        disk, archive = os.path.join(path, "disk.raw"), os.path.join(path, "a.tar.zst")
        with open(disk, "wb") as f:
            f.write(os.urandom(1 << 20))
        with counting("--disk", disk, memory="16M", pages=64) as vm:
            create("vm", "one")
            before = count_of(vm)
            create("vm", "two", "--diff")
            ends_well(vm)
        snapshot("export", "two", archive, "-q")
        snapshot("rm", "one", "two")
        for name in glob.glob(os.path.join(path, "disk*")):
            os.remove(name)
        snapshot("import", archive, "--name", "back", "-q")
        equal(as_json("check-restore", "back", "--full")["problems"], [])
        goes_on("back", before)


def test_a_run_that_is_refused_leaves_a_snapshots_disks_as_they_were():
    """It has opened the disk for writing, and punched a hole after its end."""
    with store("/var/tmp") as path:
        disk = os.path.join(path, "disk.raw")
        with open(disk, "wb") as f:
            f.write(os.urandom(1 << 20))
        with counting("--disk", disk, memory="16M", pages=64) as vm:
            create("vm", "one")
            ends_well(vm)
        said = hutch_verb("run", "--kernel", image("payload", "payload.elf"), "--disk", disk,
                          status=125)
        check("in which a VM went on" in said, said)
        equal(as_json("check-restore", "one")["problems"], [])
        with restore("one") as copy:
            count_of(copy)
            ends_well(copy)


def test_going_back_needs_a_vm_and_says_how_to_start_one():
    with store(), counting(memory="16M", pages=64) as vm:
        create("vm", "one")
        ends_well(vm)
        said = hutch_verb("snapshot", "restore", "none", "one", status=125)
        check("hutch run --restore one --name none" in said, said)
        equal(said.count("\n"), 1, said)


def test_a_vsock_device_gets_another_path_and_keeps_its_address():
    """As any device does: what the guest knows need not be said, and cannot be changed."""
    with store() as path:
        sockets = [os.path.join(path, name) for name in ("a.sock", "b.sock")]
        with counting("--vsock", f"cid=9,path={sockets[0]}", memory="16M", pages=64) as vm:
            create("vm", "one")
            with restore("one", "--vsock", f"vsock0=path={sockets[1]}") as copy:
                count_of(copy)
                check(all(map(os.path.exists, sockets)), os.listdir(path))
                ends_well(copy)
            said = hutch_verb("run", "--restore", "one", "--name", "x", "--vsock",
                              f"vsock0=cid=10,path={sockets[1]}", status=125)
            check("cid: the guest knows it" in said, said)
            ends_well(vm)


def test_merged_memory_is_what_its_snapshot_had():
    with store(), counting(memory="16M", pages=64) as vm:
        chain(vm)
        snapshot("merge", "three", "--into", "whole", "-q")
        check("the same" in snapshot("diff", "three", "whole"), "they differ")
        changed = as_json("snapshot", "diff", "one", "three", status=1)
        check(changed["memory"]["pages"] >= 64 and "vcpu0.regs.rbx" in changed["state"] or
              any(k.startswith("vcpu0.") for k in changed["state"]), changed["state"].keys())


def test_a_snapshot_that_a_vm_lives_on_stays():
    with store(), counting(memory="16M", pages=64) as vm:
        create("vm", "base")
        ends_well(vm)
        with restore("base", as_name="lives") as copy:
            count_of(copy)
            check("VM 'lives'" in snapshot("rm", "base", status=125), "rm did not say who")
            row = [r for r in as_json("snapshot", "list") if r["name"] == "base"][0]
            equal((row["in-use"], row["users"]), (True, ["VM 'lives'"]))
            create("lives", "child")
            ends_well(copy)
        snapshot("rm", "base", "child")


def test_a_vm_holds_all_that_its_snapshot_builds_on():
    """A parent may be anywhere, out of sight of rm's look for what builds on it."""
    with store(), counting(memory="16M", pages=64) as vm:
        chain(vm)
        ends_well(vm)
        with restore("three", as_name="lives") as copy:
            count_of(copy)
            equal({r["name"]: r["in-use"] for r in as_json("snapshot", "list")},
                  {"one": True, "two": True, "three": True})
            ends_well(copy)
        equal({r["in-use"] for r in as_json("snapshot", "list")}, {False})


def test_what_a_vm_was_restored_from_is_told():
    with store() as path, counting(memory="16M", pages=64) as vm:
        create("vm", "one")
        ends_well(vm)
        with restore("one", as_name="lives") as copy:
            count_of(copy)
            origin = as_json("inspect", "lives")["from"]
            equal((origin["kind"], origin["name"], origin["path"]),
                  ("snapshot", "one", os.path.join(path, "one.snap")))
            check("restored from snapshot 'one'" in hutch_verb("ps"), "ps does not tell")
            ends_well(copy)


def test_a_guest_that_was_saved_frozen_is_thawed_by_who_restores_it():
    """This one has no agent that could; test_agent.py has one."""
    with store(), counting("--agent", memory="16M", pages=64) as vm:
        qmp = session("vm", vm)
        qmp("x-hutch-snapshot-create", name="cold", frozen=True)
        qmp.close()
        ends_well(vm)
        told = hutch_verb("run", "--restore", "cold", "--name", "waits", "-d", "--paused")
        hutch_verb("rm", "--force", "waits")
        check("waits" in told, told)
        told = hutch_verb("run", "--restore", "cold", "--name", "runs", "-d", status=125)
        check("are frozen" in told and "hutch agent thaw runs" in told, told)
        equal(hutch_verb("status", "runs").strip(), "running")
        hutch_verb("rm", "--force", "runs")


def test_inspect_knows_each_section_of_a_real_machine():
    with store(), counting("--net", "user", "--rng", memory="16M", pages=64) as vm:
        create("vm", "one")
        told = as_json("snapshot", "inspect", "one")
        unknown = [n for n, s in told["state"].items() if "fields" not in s]
        equal(unknown, [], "sections without words")
        equal(told["config"]["memory"]["size"], "16M")
        check(any(k.startswith("vcpu0") for k in told["state"]), told["state"].keys())
        check(told["manifest"]["cpu-needs"]["features"], "no needs of the processor")
        text = snapshot("inspect", "one")
        check("vcpu0" in text and "memory: 16 MiB" in text, text)
        ends_well(vm)


def test_check_restore_says_that_the_name_is_taken():
    with store(), counting(memory="16M", pages=64) as vm:
        create("vm", "one")
        told = as_json("check-restore", "one", status=1)
        check("'vm' runs" in told["problems"][0], told)
        ends_well(vm)
        equal(as_json("check-restore", "one", "--full")["problems"], [])


# ---- golden ones -----------------------------------------------------------------------------


def includes(told, golden, where=""):
    """All that was known then is known now; fields may have come."""
    if isinstance(golden, dict):
        for key, value in golden.items():
            check(isinstance(told, dict) and key in told, f"{where}.{key} is not told any more")
            includes(told[key], value, f"{where}.{key}")
    else:
        equal(told, golden, where)


def test_golden_snapshots_are_read_for_ever():
    with store() as path:
        folders = sorted(glob.glob(os.path.join(GOLDEN, "*.snap")))
        check(folders, "there are none")
        for folder in folders:
            name = os.path.basename(folder)
            shutil.copytree(folder, os.path.join(path, name))
            snapshot("verify", name[:-len(".snap")])
            with open(f"{folder[:-len('.snap')]}.json", encoding="utf-8") as f:
                includes(as_json("snapshot", "inspect", name[:-len(".snap")])["state"],
                         json.load(f), name)


def test_golden_snapshots_are_restored_for_ever():
    with store() as path:
        folders = sorted(glob.glob(os.path.join(GOLDEN, "count-*.snap")))
        check(folders, "there are none")
        for folder in folders:
            name = os.path.basename(folder)[:-len(".snap")]
            shutil.copytree(folder, os.path.join(path, f"{name}.snap"))
            done = subprocess.run([hutch.HUTCH, "check-restore", name, "--json"], text=True,
                                  capture_output=True, check=False)
            problems = json.loads(done.stdout)["problems"]
            if problems and all("processor" in p for p in problems):
                raise Skip(f"{name} is of another kind of host: {problems[0]}")
            equal(problems, [])
            goes_on(name, 1)


if __name__ == "__main__":
    hutch.main()
