"""Kills a monitor while the payload guest `blk-verify` writes to its disk, and judges what it
left; then starts it again on the same disk, and so on.

A chain is one image and its history.  Its state file says what each sector of the working set
holds: the guest must find just that when it starts, and the checker judges by it what a later
crash may have left.  So what hutch reads is compared with what QEMU reads at every turn."""
import concurrent.futures
import errno
import fcntl
import json
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

import hutch
from hutch import PATIENCE, Skip, check, equal

CHECKER = os.environ.get("VERIFY_DISK", os.path.join(os.path.dirname(hutch.HUTCH), "tests", "guest",
                                                     "verify_disk"))
# That QEMU in hutch's place: to tell what is hutch's fault from what is the test's.
QEMU = os.environ.get("HUTCH_CRASH_QEMU")
FIRST = 16  # VERIFY_FIRST of guest-images/payload/verify.h
JOURNAL_BYTES = 64 << 20


# Of the guest, as weights: a mixture; mostly writes; small ones, and nothing is discarded.
HABITS = ({}, {"read": 5, "write": 80, "flush": 4, "discard": 3, "zeroes": 3},
          {"max": 16, "discard": 0, "zeroes": 0})


@dataclass
class Row:
    """One way of keeping a disk."""
    name: str
    options: str = ""       # of --disk
    format: str = "raw"
    create: dict = field(default_factory=dict)  # qemu-img create -o
    backing: str = ""       # "raw" or "qcow2": the working set is there before, in part
    chain: int = 1          # overlays on top of one another
    plan: dict = field(default_factory=dict)
    guest: str = ""         # more words for the guest
    queues: int = 1

    @property
    def lazy(self):
        return self.create.get("lazy_refcounts") == "on"


@dataclass
class Figures:
    kills: int = 0
    ends: int = 0           # runs that were let end
    flushed: int = 0        # requests in journals
    sure: int = 0           # sectors of which the journal told exactly what they hold
    leaks: int = 0          # clusters, after the kill that left most
    healed: int = 0         # images that had to be

    def add(self, other):
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name == "leaks" else mine + value)


def tool(*command, statuses=(0,)):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    check(done.returncode in statuses, f"{' '.join(command)}: status {done.returncode}\n"
          f"{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def hutch_opens_qcow2():
    """Older ones do not."""
    if QEMU:
        return True
    with tempfile.NamedTemporaryFile(suffix=".qcow2", dir="/var/tmp") as file:
        tool("qemu-img", "create", "-q", "-f", "qcow2", file.name, "1M")
        return "cannot use yet" not in hutch.run(
            "--kernel", hutch.image("payload", "payload.elf"), "--disk",
            f"{file.name},format=qcow2")[2]


def wait_until_free(path):
    """What io_uring was told to do may go on for a moment after the process is gone; the file,
    and with it the locks that QEMU and hutch take, stays open as long."""
    end = time.monotonic() + 10 * PATIENCE
    fd = os.open(path, os.O_RDWR)
    try:
        while True:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
                return
            except OSError as why:
                if why.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > end:
                    raise
            time.sleep(0.0005)
    finally:
        os.close(fd)


class Guest:
    """One run of the writer."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.text = b""
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def read(self, limit):
        """More of what it says; False at the end."""
        out = self.process.stdout.fileno()
        if not select.select([out], [], [], max(limit, 0))[0]:
            return True
        data = os.read(out, 65536)
        self.text += data
        return bool(data)

    def said(self, word, limit=30):
        end = time.monotonic() + limit * PATIENCE
        while word not in self.text:
            check(time.monotonic() < end and self.read(end - time.monotonic()), self.story())
        return self

    def kill_after(self, seconds):
        """False if it ended before."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self.read(left):
                break
        self.process.kill()
        return self.end() == -signal.SIGKILL

    def end(self, limit=60):
        stop = time.monotonic() + limit * PATIENCE
        while self.read(stop - time.monotonic()):
            check(time.monotonic() < stop, f"it does not end: {self.story()}")
        self.process.stdout.close()
        return self.process.wait()

    def story(self):
        return f"{' '.join(self.arguments)}\n{self.text.decode(errors='replace')[-3000:]}"


class Chain:
    """Its folder holds disk, base*, data, journal, state and, for qcow2, plain: a raw copy."""

    def __init__(self, row, seed, folder):
        self.row, self.folder = row, folder
        self.random = random.Random(f"{row.name} {seed}")
        self.base = FIRST
        self.figures = Figures()
        self.plan = {"seed": seed, "sectors": 16384, "chunk": 512, "stride": 65536,
                     **self.random.choice(HABITS), **row.plan}
        self.disk, self.state = self.path("disk." + row.format), self.path("state")
        self.journal, self.plain = self.path("journal"), self.path("plain")
        self.files = [self.disk]
        self.make()

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def bytes(self):
        return self.plan["sectors"] // self.plan["chunk"] * self.plan["stride"] * 512

    def words(self):
        return [f"{key}={value}" for key, value in self.plan.items()]

    def make(self):
        """The image, what lies below it, and what all of it holds."""
        size, below = str(self.bytes), None
        part = 60 if self.row.backing else 0
        plain = self.disk if self.row.format == "raw" else self.path("base.raw")
        with open(plain, "wb") as file:
            file.truncate(self.bytes)
        tool(CHECKER, "prefill", *self.words(), f"part={part}", plain, self.state)
        if self.row.backing:
            self.plan["backing"] = 1
            below = ("base.raw", "raw")
            if self.row.backing == "qcow2":
                below = ("base.qcow2", "qcow2")
                tool("qemu-img", "convert", "-O", "qcow2", plain, self.path(below[0]))
        if self.row.format == "raw":
            return
        for layer in range(self.row.chain):
            top = layer + 1 == self.row.chain
            name = "disk.qcow2" if top else f"layer{layer}.qcow2"
            create = dict(self.row.create)
            if create.get("data_file"):
                create["data_file"] = self.path("data")
                self.files.append(self.path("data"))
            command = ["qemu-img", "create", "-q", "-f", "qcow2"]
            if create:
                command += ["-o", ",".join(f"{k}={v}" for k, v in create.items())]
            if below:
                command += ["-b", below[0], "-F", below[1]]
            tool(*command, self.path(name), size)
            below = (name, "qcow2")

    def command(self, words):
        trust = self.row.backing or self.row.create.get("data_file")
        options = ",".join(filter(None, [self.disk, f"format={self.row.format}",
                                         "backing=on" if trust else "",
                                         f"queues={self.row.queues}", self.row.options]))
        with open(self.journal, "wb") as file:
            file.truncate(JOURNAL_BYTES)
        line = " ".join(["test=blk-verify", *self.words(), f"base={self.base}",
                         f"queues={self.row.queues}", self.row.guest, *words])
        if QEMU:
            return self.qemu_command(line)
        return [hutch.HUTCH, "run", "--kernel", hutch.image("payload", "payload.elf"),
                "--memory", "64M", "--debug-exit", "--cmdline", line, "--initrd", self.state,
                "--disk", options, "--disk", f"{self.journal},format=raw,cache=unsafe"]

    def qemu_command(self, line):
        aio = {"libaio": "native"}
        options = dict(word.split("=") for word in self.row.options.split(",") if word)
        options["aio"] = aio.get(options.get("aio"), options.get("aio", "threads"))
        drive = ",".join(f"{k}={v}" for k, v in {"cache": "none", **options}.items())
        return [QEMU, "-M", "microvm,accel=kvm,pit=off,pic=off,rtc=off,acpi=off", "-nodefaults",
                "-no-user-config", "-display", "none", "-m", "64", "-serial", "stdio",
                "-global", "virtio-mmio.force-legacy=false", "-device",
                "isa-debug-exit,iobase=0xf4", "-object", "iothread,id=io0",
                "-kernel", hutch.image("payload", "payload.elf"), "-initrd", self.state,
                "-append", line,
                "-drive", f"if=none,id=d0,file={self.disk},format={self.row.format},"
                          f"discard=unmap,{drive}",
                "-drive", f"if=none,id=d1,file={self.journal},format=raw,cache=unsafe",
                "-device", f"virtio-blk-device,drive=d0,iothread=io0,packed=on,num-queues="
                f"{self.row.queues}",
                "-device", "virtio-blk-device,drive=d1,iothread=io0,packed=on"]

    def crash(self):
        """One run that is killed: mostly while it writes, now and then while it starts."""
        rests = self.random.random() < 0.5
        guest = Guest(self.command([f"burst={self.random.choice((8, 64))}"] if rests else []))
        if self.random.random() < 0.85:
            guest.said(b"verify go")
            delay = min(self.random.expovariate(1 / 0.015), 0.2)
        else:
            delay = self.random.uniform(0, 0.04)
        check(guest.kill_after(delay), f"it ended before it was killed: {guest.story()}")
        self.figures.kills += 1
        self.judge(crashed=True)

    def finish(self):
        """One run that is let end."""
        guest = Guest(self.command(["ops=500"]))
        status = guest.end()
        check(status == (1 if QEMU else 0) and b"PASS" in guest.text,
              f"status {status}: {guest.story()}")
        self.figures.ends += 1
        self.judge(crashed=bool(QEMU))  # which leaves by exit(), and closes nothing

    def judge(self, crashed):
        for file in self.files:
            wait_until_free(file)
        if self.row.format == "qcow2":
            self.check_metadata(crashed)
            tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.disk, self.plain)
        said = tool(CHECKER, "check", *self.words(), f"base={self.base}",
                    self.disk if self.row.format == "raw" else self.plain,
                    self.journal, self.state)
        got = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", said)}
        self.figures.flushed += got["flushed"]
        self.figures.sure += got["sure"]
        self.base = got["next"]

    def metadata(self, *repair):
        """(errors, leaks) as qemu-img check sees them; 2 and 3 are its words for the two."""
        said = json.loads(tool("qemu-img", "check", *repair, "--output=json", "-f", "qcow2",
                               self.disk, statuses=(0, 2, 3)))
        return said.get("corruptions", 0) + said.get("check-errors", 0), said.get("leaks", 0)

    def check_metadata(self, crashed):
        dirty = crashed and self.row.lazy and self.is_dirty()
        errors, leaks = self.metadata()
        self.figures.leaks = max(self.figures.leaks, leaks)
        check(not errors or dirty, f"qemu-img check: {errors} errors, {leaks} leaks")
        if not crashed:
            check(not self.is_dirty(), "the image is still marked dirty")
        elif dirty and self.random.random() < 0.5:  # else hutch has to, when it opens it
            equal(self.metadata("-r", "all")[0], 0, "errors after qemu-img check -r all")
            self.figures.healed += 1
        elif leaks and self.random.random() < 0.2:
            equal(self.metadata("-r", "leaks"), (0, 0), "after qemu-img check -r leaks")
            self.figures.healed += 1

    def is_dirty(self):
        """qcow2 version 3: incompatible feature bit 0."""
        with open(self.disk, "rb") as file:
            head = file.read(80)
        return head[4:8] >= b"\0\0\0\3" and bool(head[79] & 1)


def run_chain(row, seed, folder, kills):
    """Crash, recover, crash; ends now and then, and at last, as it should."""
    os.mkdir(folder)
    chain = Chain(row, seed, folder)
    for _ in range(kills):
        chain.crash()
        if chain.random.random() < 0.05:
            chain.finish()
    chain.finish()
    shutil.rmtree(folder)
    return chain.figures


def run_row(row, kills, seed):
    """So many kills, in chains side by side; what is left of one that failed stays."""
    hutch.needs_kvm()
    if not os.path.exists(CHECKER):
        raise Skip(f"{CHECKER} is not there: scripts/build")
    total, start = Figures(), time.monotonic()
    side_by_side = min(kills, os.cpu_count() or 1)
    parent = tempfile.mkdtemp(prefix=f"hutch-crash-{row.name}-",
                              dir=os.environ.get("HUTCH_CRASH_FOLDER", "/var/tmp"))
    with concurrent.futures.ThreadPoolExecutor(side_by_side) as pool:
        chains = {}
        for i in range(side_by_side):
            share = kills // side_by_side + (i < kills % side_by_side)
            folder = os.path.join(parent, f"seed{seed + i}")
            chains[pool.submit(run_chain, row, seed + i, folder, share)] = folder
        for done in concurrent.futures.as_completed(chains):
            try:
                total.add(done.result())
            except AssertionError as why:
                raise AssertionError(
                    f"{row.name}, in {chains[done]}, which is kept: {why}") from None
    os.rmdir(parent)
    took = time.monotonic() - start
    print(f"# {row.name}: seed {seed}, " +
          ", ".join(f"{value} {name}" for name, value in vars(total).items()) +
          f", {total.kills / took:.1f} kills/s", flush=True)
    return total
