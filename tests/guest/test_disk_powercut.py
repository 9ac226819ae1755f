#!/usr/bin/env python3
"""What a power failure leaves: kill -9 keeps the page cache, and a sync that is missing or comes
too early is not found by it.  Here every write and sync of the monitor is logged (powercut.c)
under a verifying writer; then files are made that have all that was synced up to a moment, and of
what was not, any part.  Each must be without errors, leaks aside, and hold what was flushed.

HUTCH_POWERCUT_CUTS=N moments of each kind (12); HUTCH_POWERCUT_SEED=N"""
import dataclasses
import json
import os
import random
import re
import shutil
import struct
import sys
from collections import defaultdict

import crash
import hutch
from hutch import Skip, check, equal
from writer import CALM, DISK, Writer, row

CUTS = int(os.environ.get("HUTCH_POWERCUT_CUTS", "12"))
SEED = int(os.environ.get("HUTCH_POWERCUT_SEED", "1"))
SHIM = os.environ.get("POWERCUT", os.path.join(os.path.dirname(hutch.HUTCH), "tests", "guest",
                                               "libpowercut.so"))
WRITE, ZERO, TRUNCATE, SYNC = range(4)
RECORD = struct.Struct("<QIIQQ")


@dataclasses.dataclass
class File:
    """As the log has it, up to some record."""
    synced: bytearray
    pending: list = dataclasses.field(default_factory=list)  # (number, kind, offset, len, data)


def apply(data, kind, offset, length, content):
    if kind == TRUNCATE:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
        return
    end = offset + length
    if kind == WRITE and end > len(data):
        data.extend(bytes(end - len(data)))
    end = min(end, len(data))
    if offset < end:
        data[offset:end] = content if kind == WRITE else bytes(end - offset)


def torn(dice, record):
    """Of a write, the sectors before one or from one on."""
    number, kind, offset, length, content = record
    at = dice.randrange(0, length + 1) // 512 * 512
    if kind != WRITE or dice.random() < 0.7:
        return record
    if dice.random() < 0.5:
        return number, kind, offset, at, content[:at]
    return number, kind, offset + at, length - at, content[at:]


class Cut(Writer):
    """A writer whose monitor is logged; `marks` are (records so far, the disk's files)."""

    def __init__(self, options="", *words, plan=None, **keys):
        if not os.path.exists(SHIM):
            raise Skip(f"{SHIM} is not there: scripts/build")
        options = f"aio=threads,{options or 'cache=writeback'}"
        small = {"sectors": 2048, "chunk": 128, "stride": 256, **(plan or {})}
        super().__init__(row("cut", options, plan=small, **keys), *words, seed=SEED,
                         journal=",aio=threads")
        self.log = os.path.join(self.scratch.name, "log")
        self.wrap = ["env", f"LD_PRELOAD={SHIM}", f"POWERCUT_LOG={self.log}",
                     "ASAN_OPTIONS=verify_asan_link_order=0"]
        self.first, self.marks = {}, []
        self.unsure = (0, 0)  # in the log: the disk was about to move

    def start(self, *words):
        self.chain.command([])  # makes the journal
        for name in os.listdir(self.folder):
            path = self.path(name)
            with open(path, "rb") as file:
                self.first[os.stat(path).st_ino] = file.read() if name != "journal" else b""
        shutil.copy(self.chain.state, self.path("state.first"))
        return super().start(*words)

    def mark(self):
        """From here on, the disk is what it is now."""
        self.marks.append((os.path.getsize(self.log), self.files()))

    def end(self):
        """Kills it, and loses power at random moments after the first mark."""
        self.guest.process.kill()
        self.guest.end()
        self.inodes = {os.stat(self.path(name)).st_ino: name for name in os.listdir(self.folder)}
        records = list(self.records())
        dice = random.Random(SEED)
        moments = sorted(dice.randrange(len(records)) for _ in range(CUTS))
        files, self.sure = defaultdict(lambda: File(bytearray())), 0
        for inode, content in self.first.items():
            files[inode] = File(bytearray(content))
        for number, (position, inode, *what) in enumerate(records):
            kind, offset, _, _ = what
            file = files[inode]
            if kind != SYNC:
                file.pending.append((number, *what))
            else:
                for record in file.pending:
                    if record[0] < offset:
                        apply(file.synced, *record[1:])
                file.pending = [x for x in file.pending if x[0] >= offset]
            while moments and moments[0] <= number:
                moments.pop(0)
                if position < self.marks[0][0] or self.unsure[0] < position <= self.unsure[1]:
                    continue
                marks = [files for at, files in self.marks if at <= position]
                self.lose_power(dice, files, marks[-1], number)
        check(self.sure, "no sector was known to hold anything")
        print(f"# {len(records)} records, {self.sure} sectors were sure", flush=True)

    def records(self):
        with open(self.log, "rb") as file:
            while head := file.read(RECORD.size):
                if len(head) < RECORD.size:
                    return  # killed meanwhile
                inode, kind, _, offset, length = RECORD.unpack(head)
                content = file.read(length) if kind == WRITE else None
                yield file.tell(), inode, kind, offset, length, content

    def lose_power(self, dice, files, chain, number):
        odds = dice.choice((0, 0.1, 0.5, 0.9, 1))
        for inode, file in files.items():
            name = self.inodes.get(inode)
            if not name or name in ("state", "state.first"):
                continue
            data = bytearray(file.synced)
            for record in file.pending:
                if name == "journal":  # it knows what was answered
                    apply(data, *record[1:])
                elif dice.random() < odds:
                    apply(data, *torn(dice, record)[1:])
            with open(self.path(name), "wb") as out:
                out.write(data.rstrip(b"\0"))
                out.truncate(len(data))
        self.examine(chain, f"power was lost after record {number}, {odds} of the rest are there")

    def examine(self, chain, case):
        for name, form in chain:
            if form == "qcow2":
                said = json.loads(crash.tool("qemu-img", "check", "--output=json", "-f", "qcow2",
                                             self.path(name), statuses=(0, 2, 3)))
                if self.chain.row.lazy and said.get("corruptions"):
                    crash.tool("qemu-img", "check", "-q", "-r", "all", "-f", "qcow2",
                               self.path(name))
                else:
                    equal(said.get("corruptions", 0) + said.get("check-errors", 0), 0,
                          f"{name}: {case}: errors")
        name, form = chain[0]
        plain = self.path("plain")
        crash.tool("qemu-img", "convert", "-f", form, "-O", "raw", self.path(name), plain)
        shutil.copy(self.path("state.first"), self.path("state"))
        said = crash.tool(crash.CHECKER, "check", *self.chain.words(), f"base={self.chain.base}",
                          plain, self.path("journal"), self.path("state"))
        self.sure += int(re.search(r"sure=(\d+)", said)[1])


def image(create=None, options="", words="burst=32 rest=1000000", **keys):
    with Cut(options, words, format=keys.pop("format", "qcow2"),
             create=create or {}, **keys) as vm:
        vm.mark()
        vm.writes_on(500)
        vm.end()


def test_what_was_flushed_survives_a_power_failure_in_a_raw_disk():
    image(format="raw")


def test_what_was_flushed_survives_a_power_failure_in_qcow2():
    image()


def test_what_was_flushed_survives_a_power_failure_in_small_clusters_over_a_backing_image():
    image({"cluster_size": 4096}, backing="raw")


def test_what_was_flushed_survives_a_power_failure_with_extended_l2_over_a_backing_image():
    image({"extended_l2": "on"}, backing="qcow2")


def test_what_was_flushed_survives_a_power_failure_with_lazy_refcounts():
    image({"lazy_refcounts": "on", "cluster_size": 4096})


def test_what_was_flushed_survives_a_power_failure_with_an_external_data_file():
    image({"data_file": "yes"})


def test_what_was_answered_survives_a_power_failure_without_a_write_cache():
    image(options="cache=writethrough", words="volatile=0")
    image(words="volatile=0")


def test_what_was_flushed_survives_a_power_failure_while_layers_come_and_go():
    with Cut("", CALM, format="raw") as vm:
        vm.mark()
        for name in ("a.qcow2", "b.qcow2"):
            vm.writes_on(50)
            vm.disk("overlay", DISK, vm.path(name))
            vm.mark()
        vm.writes_on(50)
        vm.end()


def moved(command, files, **arguments):
    """Until it is ready, the disk is where it was; after it is completed, where it goes."""
    with Cut("", CALM, format="raw") as vm:
        vm.disk("overlay", DISK, vm.path("a.qcow2"))
        vm.mark()
        vm.writes_on(100)
        for key, value in arguments.items():
            arguments[key] = vm.path(value)
        vm.qmp(command, device=DISK, **arguments)
        vm.qmp.event("BLOCK_JOB_READY")
        vm.writes_on(50)
        before = os.path.getsize(vm.log)
        vm.qmp("job-complete", id=DISK)
        check("error" not in vm.concluded(), vm.job())
        vm.mark()
        equal(vm.files(), files)
        vm.writes_on(100)
        vm.unsure = (before, vm.marks[-1][0])
        vm.end()


def test_what_was_flushed_survives_a_power_failure_around_a_commit():
    moved("block-commit", [("disk.raw", "raw")])


def test_what_was_flushed_survives_a_power_failure_around_a_mirror():
    moved("drive-mirror", [("copy.qcow2", "qcow2")], target="copy.qcow2")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    hutch.main()
