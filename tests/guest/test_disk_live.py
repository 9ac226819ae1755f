#!/usr/bin/env python3
"""What is below a disk changes while a guest writes to it, by `hutch disk` and by QMP: layers
come and go, the disk moves, grows and is held back, and nothing that was flushed is lost, also
when the monitor is killed in the middle (crash.py, writer.py)."""
import json
import os
import random
import sys
import tempfile
import time

import crash
import hutch
from hutch import Vm, check, equal, image
from qmp import Qmp, QmpError
from writer import DISK, FILLER, MIB, Writer, row

RAW = row("raw")
SLOW = 64 << 10  # bytes a second of a job that is not to end


def refused(call, command, *words, **arguments):
    try:
        got = call(command, **arguments)
    except QmpError as why:
        for word in words:
            check(word in str(why), f"{command}: {word!r} is not in '{why}'")
        return why
    raise AssertionError(f"{command} {arguments} was carried out: {got}")


# ---- layers come and go ------------------------------------------------------------------


def test_overlays_are_made_streamed_and_committed_under_a_writing_guest():
    with Writer(RAW) as vm:
        for name in ("a.qcow2", "b.qcow2", "c.qcow2", "d.qcow2"):
            vm.disk("overlay", DISK, vm.path(name))
            vm.writes_on()
        equal([name for name, _ in vm.files()],
              ["d.qcow2", "c.qcow2", "b.qcow2", "a.qcow2", "disk.raw"])
        vm.disk("commit", DISK, "--top", vm.path("c.qcow2"), "--base", vm.path("b.qcow2"))
        equal([name for name, _ in vm.files()], ["d.qcow2", "b.qcow2", "a.qcow2", "disk.raw"])
        vm.writes_on()
        vm.disk("stream", DISK, "--base", vm.path("a.qcow2"))
        equal([name for name, _ in vm.files()], ["d.qcow2", "a.qcow2", "disk.raw"])
        vm.writes_on()
        vm.disk("commit", DISK, "--base", vm.path("a.qcow2"))
        equal([name for name, _ in vm.files()], ["a.qcow2", "disk.raw"])
        vm.writes_on()
        vm.disk("overlay", DISK, vm.path("e.qcow2"))
        vm.disk("stream", DISK)
        equal(vm.files(), [("e.qcow2", "qcow2")])
        vm.writes_on()
        vm.kill()


def test_what_was_committed_into_a_raw_disk_is_the_disk_again():
    with Writer(RAW) as vm:
        for name in ("a.qcow2", "b.qcow2"):
            vm.disk("overlay", DISK, vm.path(name))
            vm.writes_on()
        vm.disk("commit", DISK)
        equal(vm.files(), [("disk.raw", "raw")])
        vm.writes_on()
        vm.kill()


def test_a_disk_moves_from_raw_to_qcow2_and_back():
    with Writer(RAW) as vm:
        vm.disk("mirror", DISK, vm.path("copy.qcow2"))
        equal(vm.files(), [("copy.qcow2", "qcow2")])
        vm.writes_on()
        vm.disk("overlay", DISK, vm.path("top.qcow2"))
        vm.writes_on()
        vm.disk("mirror", DISK, vm.path("top2.qcow2"), "--only-top")
        equal([name for name, _ in vm.files()], ["top2.qcow2", "copy.qcow2"])
        vm.writes_on()
        with open(vm.path("back.raw"), "wb") as file:  # which holds something else
            file.write(b"x" * vm.size)
        vm.disk("mirror", DISK, vm.path("back.raw"), "--existing")
        equal(vm.files(), [("back.raw", "raw")])
        vm.writes_on()
        vm.kill()


def test_each_engine_and_cache_moves_its_disk():
    for options in ("aio=threads,cache=writeback", "aio=libaio,cache=none",
                    "aio=io_uring,cache=writethrough"):
        with Writer(row("raw", options, queues=2)) as vm:
            vm.disk("overlay", DISK, vm.path("a.qcow2"))
            vm.disk("mirror", DISK, vm.path("copy.qcow2"))
            equal(vm.files(), [("copy.qcow2", "qcow2")])
            vm.writes_on()
            vm.kill()


# ---- killed in the middle, cancelled -----------------------------------------------------


def three_layers(vm):
    """The lowest holds, besides, what the guest does not write over: a job has that to copy."""
    a = vm.path("a.qcow2")
    crash.tool("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", vm.path("disk.raw"), "-F",
               "raw", a, str(vm.size))
    crash.tool("qemu-io", "-f", "qcow2", "-c", f"write {vm.chain.bytes} {FILLER}", a)
    vm.disk("overlay", DISK, a, "--existing")
    vm.writes_on()
    for name in ("b.qcow2", "c.qcow2"):
        vm.disk("overlay", DISK, vm.path(name))
        vm.writes_on()


JOBS = {
    "a_stream": ("stream",),
    "a_stream_to_a_base": ("stream", "--base", "disk.raw"),
    "a_commit": ("commit",),
    "a_commit_to_a_layer": ("commit", "--base", "a.qcow2"),
    "a_commit_in_the_middle": ("commit", "--top", "b.qcow2", "--base", "a.qcow2"),
    "a_mirror": ("mirror", "copy.qcow2"),
    "a_mirror_to_raw": ("mirror", "copy.raw"),
}


def begin(vm, words, speed):
    verb, *rest = (vm.path(x) if "." in x else x for x in words)
    vm.disk(verb, DISK, *rest, "--detach", "--speed", speed)


def killed(words):
    def test():
        with Writer(RAW) as vm:
            three_layers(vm)
            before = vm.files()
            begin(vm, words, SLOW)
            equal(vm.copied(0.02), "running")
            vm.writes_on(100)
            equal(vm.files(), before)
            vm.kill()
    return test


for _name, _words in JOBS.items():
    globals()[f"test_a_kill_in_the_middle_of_{_name}_loses_nothing"] = killed(_words)


def test_a_job_that_is_cancelled_leaves_the_disk_as_it_was():
    with Writer(RAW) as vm:
        three_layers(vm)
        before = vm.files()
        for words in JOBS.values():
            begin(vm, words, SLOW)
            vm.copied(0.01)
            check(DISK in vm.disk("jobs"), "it is not in the list")
            vm.disk("cancel", DISK)
            job = vm.concluded()
            equal(job["error"], "it was cancelled", f"{words}")
            equal(vm.files(), before, f"{words}")
            vm.qmp("job-dismiss", id=DISK)
            vm.writes_on(100)
        equal(vm.qmp("query-jobs"), [])
        vm.kill()


def test_a_cancel_that_comes_too_late_does_not_say_that_it_was_in_time():
    dice = random.Random(1)
    with Writer(row("raw", plan={"sectors": 512})) as vm:
        for number in range(20):
            copy = f"copy{number}.raw"
            vm.qmp("drive-mirror", device=DISK, target=vm.path(copy),
                   **{"x-hutch-auto-complete": True})
            time.sleep(dice.uniform(0, 0.012))
            try:
                vm.qmp("job-cancel", id=DISK)
            except QmpError:
                pass  # it was over
            job = vm.concluded()
            moved = vm.files()[0][0] == copy
            equal(job.get("error"), None if moved else "it was cancelled", f"moved: {moved}")
        vm.kill()


# ---- what QMP says -----------------------------------------------------------------------


def test_a_mirror_is_ready_until_it_is_completed_and_its_events_say_so():
    with Writer(RAW) as vm:
        vm.qmp("drive-mirror", device=DISK, target=vm.path("copy.qcow2"), **{"job-id": "move"})
        ready = vm.qmp.event("BLOCK_JOB_READY")["data"]
        equal((ready["type"], ready["device"], ready["len"]), ("mirror", "move", vm.size))
        for status in "running", "ready":
            equal(vm.qmp.event("JOB_STATUS_CHANGE")["data"], {"id": "move", "status": status})
        job = vm.qmp("query-block-jobs")[0]
        equal((job["ready"], job["status"], job["type"]), (True, "ready", "mirror"))
        vm.writes_on()
        equal(vm.files(), [("disk.raw", "raw")])
        vm.qmp("block-job-complete", device="move")
        done = vm.qmp.event("BLOCK_JOB_COMPLETED")["data"]
        equal((done["device"], done["offset"] == done["len"], "error" in done),
              ("move", True, False))
        equal(vm.qmp.event("JOB_STATUS_CHANGE")["data"], {"id": "move", "status": "concluded"})
        equal(vm.files(), [("copy.qcow2", "qcow2")])
        vm.qmp("job-dismiss", id="move")
        vm.kill()


def test_a_ready_mirror_that_is_cancelled_says_so():
    with Writer(RAW) as vm:
        vm.qmp("drive-mirror", device=DISK, target=vm.path("copy.qcow2"))
        vm.qmp.event("BLOCK_JOB_READY")
        vm.qmp("block-job-cancel", device=DISK)
        equal(vm.qmp.event("BLOCK_JOB_CANCELLED")["data"]["device"], DISK)
        equal(vm.files(), [("disk.raw", "raw")])
        vm.kill()


def test_a_job_is_paused_resumed_and_given_another_speed():
    with Writer(RAW) as vm:
        three_layers(vm)
        begin(vm, ("stream",), SLOW)
        vm.copied(0.01)
        vm.qmp("job-pause", id=DISK)
        time.sleep(0.1)  # a chunk that was begun
        before = vm.job()
        equal(before["status"], "paused")
        time.sleep(0.3)
        equal(vm.job()["current-progress"], before["current-progress"])
        vm.qmp("job-resume", id=DISK)
        vm.qmp("block-job-set-speed", device=DISK, speed=0)
        check("error" not in vm.concluded(), vm.job())
        equal(vm.files(), [("c.qcow2", "qcow2")])
        vm.kill()


def test_query_block_and_query_blockstats_tell_what_qemus_do():
    with Writer(row("raw", "iops=100000,bps-read=1G,throttle-group=slow,cache=none")) as vm:
        vm.disk("overlay", DISK, vm.path("a.qcow2"))
        vm.writes_on()
        disks = {x["device"]: x for x in vm.qmp("query-block")}
        check(DISK in disks and len(disks) == 2, disks)
        disk = disks[DISK]
        equal((disk["qdev"], disk["locked"], disk["removable"]), (DISK, False, False))
        inserted = disk["inserted"]
        expected = {"file": vm.path("a.qcow2"), "backing_file": vm.path("disk.raw"),
                    "backing_file_depth": 1, "drv": "qcow2", "ro": False, "encrypted": False,
                    "iops": 100000, "bps_rd": 1 << 30, "bps": 0, "group": "slow",
                    "cache": {"writeback": True, "direct": True, "no-flush": False}}
        equal({key: inserted[key] for key in expected}, expected)
        equal(inserted["image"]["virtual-size"], vm.size)
        equal(inserted["image"]["backing-image"]["format"], "raw")
        all_stats = {x["device"]: x["stats"] for x in vm.qmp("query-blockstats")}
        stats = all_stats[DISK]
        for key in ("rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations",
                    "rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns"):
            check(stats[key] > 0, f"{key} is {stats[key]}")
        for key in ("failed_rd_operations", "failed_wr_operations", "failed_flush_operations"):
            equal(stats[key], 0, key)
        listed = vm.disk("list")
        check("qcow2" in listed and "a.qcow2 (over 1 image)" in listed, listed)
        check({x["device"] for x in json.loads(vm.disk("list", "--json"))} == set(disks), "list")


# ---- size, another image -----------------------------------------------------------------


def test_a_disk_grows_under_a_writing_guest():
    with Writer(RAW) as vm:
        vm.disk("resize", DISK, "48M")
        equal(vm.image()["image"]["virtual-size"], 48 * MIB)
        equal(os.path.getsize(vm.path("disk.raw")), 48 * MIB)
        vm.disk("overlay", DISK, vm.path("a.qcow2"))
        vm.disk("resize", DISK, "64M")
        equal(vm.image()["image"]["virtual-size"], 64 * MIB)
        vm.writes_on()
        vm.disk("commit", DISK)
        equal(vm.image()["image"]["virtual-size"], 64 * MIB)
        equal(os.path.getsize(vm.path("disk.raw")), 64 * MIB)
        vm.disk("mirror", DISK, vm.path("b.qcow2"))
        equal(vm.image()["image"]["virtual-size"], 64 * MIB)
        vm.kill()


def test_another_image_takes_the_place_of_a_disks():
    with Writer(RAW) as vm:
        # The same bytes, elsewhere: the guest must not see a difference.
        vm.qmp("stop")
        crash.tool("cp", "--sparse=always", vm.path("disk.raw"), vm.path("other.raw"))
        vm.disk("change", DISK, vm.path("other.raw"))
        equal(vm.files(), [("other.raw", "raw")])
        vm.disk("change", DISK, vm.path("no.raw"), status=125, words=["no.raw", "No such file"])
        equal(vm.files(), [("other.raw", "raw")])
        vm.qmp("cont")
        vm.writes_on()
        vm.kill()


# ---- limits ------------------------------------------------------------------------------


def stats(vm):
    now = time.monotonic()
    all_stats = {x["device"]: x["stats"] for x in vm.qmp("query-blockstats")}
    return now, all_stats


def rates(vm, seconds=1.0):
    """(requests, bytes) a second, of all disks of the benchmark."""
    (t0, before), _, (t1, after) = stats(vm), time.sleep(seconds), stats(vm)
    total = [0, 0]
    for disk in before:
        for at, keys in enumerate((("rd_operations", "wr_operations"), ("rd_bytes", "wr_bytes"))):
            total[at] += sum(after[disk][key] - before[disk][key] for key in keys)
    return [x / (t1 - t0) for x in total]


def holds(vm, limit, what=0):
    """Within 5% in the best of some seconds, on a machine that others use; in all of them
    together never above, but for what was late."""
    got = []
    for _ in range(int(10 * hutch.PATIENCE)):
        got.append(rates(vm)[what])
        check(sum(got) < len(got) * limit * 1.05 + limit / 4, f"{got} is above {limit}")
        if abs(got[-1] - limit) < limit * 0.05:
            return
        # A nested KVM may leave a CPU without its timer while a guest spins there without an
        # exit, and who sleeps on that timer asleep: this makes it exit.
        vm.qmp("stop")
        vm.qmp("cont")
    raise AssertionError(f"{got} instead of {limit}")


class Bench:
    """Reads or writes as fast as it may, without end."""

    def __init__(self, options, words):
        hutch.needs_kvm()
        # In memory: the host's own disk may stand still for longer than we measure.
        self.scratch = tempfile.TemporaryDirectory(prefix="hutch-live-", dir="/dev/shm")
        os.environ["XDG_RUNTIME_DIR"] = self.scratch.name
        path = os.path.join(self.scratch.name, "disk.raw")
        with open(path, "wb") as file:
            file.truncate(64 * MIB)
        self.vm = Vm("--kernel", image("payload", "payload.elf"), "--cmdline",
                     f"test=blk-bench count=1000000000 {words}", "--disk", f"{path},{options}",
                     "--name", "vm", "--debug-exit")
        self.qmp = Qmp(os.path.join(self.scratch.name, "hutch", "vm", "control.sock"),
                       self.vm.process)
        self.vm.expect("blk-bench start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vm.__exit__()
        self.qmp.close()
        self.scratch.cleanup()


def set_limits(vm, **limits):
    vm.qmp("block_set_io_throttle", device=DISK, **{
        **dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0), **limits})


def test_a_limit_is_what_it_says_and_changes_at_once():
    with Bench("iops=2000", words="qd=64 bs=4096 write=1") as vm:
        holds(vm, 2000)
        set_limits(vm, iops_wr=500)
        time.sleep(0.3)  # what had its place in time already
        holds(vm, 500)
        set_limits(vm, bps=8 * MIB, iops_rd=1)
        time.sleep(0.3)
        holds(vm, 8 * MIB, what=1)
        set_limits(vm)
        time.sleep(0.3)
        check(rates(vm, 0.5)[1] > 12 * MIB, "there is a limit still")


def test_disks_of_a_group_share_its_limit():
    calm = row("raw", "iops=400,throttle-group=g", plan={"discard": 0, "zeroes": 0})
    with Writer(calm, "burst=0", journal=",throttle-group=g") as vm:
        holds(vm, 400)
        _, before = stats(vm)
        equal(min(x["wr_operations"] > 0 for x in before.values()), True)
        set_limits(vm, iops=1000)
        time.sleep(0.5)
        holds(vm, 1000)
        set_limits(vm)
        vm.kill()


# ---- what makes no sense -----------------------------------------------------------------


def test_what_cannot_be_done_is_refused_in_one_sentence_and_changes_nothing():
    with Writer(RAW) as vm:
        three_layers(vm)
        before = vm.files()
        no_disk = {"words": ["'nodisk'"], "status": 125}
        for verb, *arguments in (("resize", "1G"), ("limit", "--iops", "5"), ("stream",),
                                 ("overlay", vm.path("x.qcow2")), ("commit",),
                                 ("mirror", vm.path("x.qcow2")), ("change", vm.path("disk.raw")),
                                 ("remove",)):
            vm.disk(verb, "nodisk", *arguments, **no_disk)
        vm.disk("cancel", "nojob", status=125, words=["'nojob'"])
        for command in ("job-dismiss", "job-pause", "job-resume", "job-complete", "job-cancel"):
            check(refused(vm.qmp, command, "nojob", id="nojob"), command)
        vm.disk("resize", DISK, "1000", status=125, words=["whole sectors"])
        vm.disk("resize", DISK, "nonsense", status=125, words=["nonsense"])
        vm.disk("stream", DISK, "--base", vm.path("other.qcow2"), status=125,
                words=["other.qcow2", "not one of the images"])
        vm.disk("commit", DISK, "--top", vm.path("disk.raw"), status=125,
                words=["disk.raw", "no backing image"])
        vm.disk("commit", DISK, "--base", vm.path("c.qcow2"), status=125, words=["c.qcow2"])
        vm.disk("overlay", DISK, vm.path("b.qcow2"), status=125, words=["b.qcow2"])
        vm.disk("overlay", DISK, "/no/such/folder/x.qcow2", status=125, words=["No such file"])
        vm.disk("mirror", DISK, vm.path("b.qcow2"), status=125, words=["b.qcow2"])
        vm.disk("mirror", DISK, vm.path("b.qcow2"), "--existing", status=125, words=["b.qcow2"])
        vm.disk("mirror", DISK, "/no/such/folder/x.raw", status=125, words=["No such file"])
        equal(vm.files(), before)
        begin(vm, ("stream",), SLOW)
        busy = {"status": 125, "words": [f"the job '{DISK}'"]}
        vm.disk("stream", DISK, **busy)
        vm.disk("mirror", DISK, vm.path("x.qcow2"), **busy)
        vm.disk("resize", DISK, "64M", **busy)
        vm.disk("overlay", DISK, vm.path("x.qcow2"), **busy)
        vm.disk("change", DISK, vm.path("disk.raw"), **busy)
        refused(vm.qmp, "job-dismiss", f"the job '{DISK}'", id=DISK)
        refused(vm.qmp, "job-complete", "not ready", id=DISK)
        check(not os.path.exists(vm.path("x.qcow2")), "x.qcow2 was left behind")
        vm.disk("cancel", DISK)
        vm.concluded()
        vm.disk("cancel", DISK, status=125, words=["no job at work"])
        equal(vm.files(), before)
        vm.kill()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    hutch.main()
