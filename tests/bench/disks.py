"""Benches of disks: the payload guest's loads on raw files, qcow2 images and chains, and what
`hutch image` does.  Everything is measured on whatever holds HUTCH_BENCH_FOLDER."""
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass

from base import FOLDER, Bench, Row, real_file, timed
from monitors import HUTCH, CannotRun, Disk, Guest

DISK_BYTES = 512 << 20
CLONE_BYTES = 100 << 30
CONVERT_MIB = int(os.environ.get("HUTCH_BENCH_CONVERT_MIB", "10240"))
CHAIN = 16


@dataclass
class Load:
    name: str
    words: str
    count: int
    unit: str = "k/s"


LOADS = (
    Load("randread-4k-d1", "bs=4096 qd=1", 8000),
    Load("randread-4k-d32", "bs=4096 qd=32", 40000),
    Load("randwrite-4k-d1", "bs=4096 qd=1 write=1", 8000),
    Load("randwrite-4k-d32", "bs=4096 qd=32 write=1", 40000),
    Load("read-1m", "bs=1M qd=4 random=0", 1000),
    Load("write-1m", "bs=1M qd=4 random=0 write=1", 1000),
)
LOAD = {load.name: load for load in LOADS}


class DiskBench(Bench):
    """Subjects are named by a monitor and, where there are several, by what it is given."""
    loads = ()
    queues = (1,)
    aio = "io_uring"
    cache = "none"
    backing = False

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self.prepare()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def prepare(self):
        """Makes what all samples use."""

    def disk(self, subject, load):
        """(path, format) for the next run."""
        raise NotImplementedError

    def sample(self, monitor):
        figures = {}
        for load in self.loads:
            for queues in self.queues:
                path, form = self.disk(monitor, load)
                disk = Disk(path, form, self.cache, self.aio, queues, self.backing)
                words = f"test=blk-bench count={load.count} queues={queues} {load.words} stay=1"
                with Guest(monitor.split()[0], words, disk=disk) as guest:
                    got = timed(guest, "blk-bench start", "blk-bench done", load.count,
                                started=guest.pin_apart)
                figures[f"{load.name}-q{queues} rate"] = got["rate"]
                figures[f"{load.name}-q{queues} cpu"] = got["cpu"]
        return figures


def load_rows(prefix, loads, queues, rate, cpu=("<=", 1.0), **who):
    for load in loads:
        for n in queues:
            key = f"{load.name}-q{n}"
            yield Row(f"{prefix}-{key}", f"{key} rate", "k/s", ratio=rate, **who)
            yield Row(f"{prefix}-{key}-cpu", f"{key} cpu", "us each", ratio=cpu, **who)


class Raw(DiskBench):
    name = "disk-raw"
    help = "raw, O_DIRECT, io_uring: 4 KiB random and 1 MiB sequential; QEMU with an iothread"
    loads = LOADS
    queues = (1, 4)
    rows = tuple(load_rows("raw", loads, queues, (">=", 1.2)))

    def prepare(self):
        self.path = real_file(self.stack, DISK_BYTES)

    def disk(self, subject, load):
        return self.path, "raw"


class RawLibaio(Raw):
    name = "disk-raw-libaio"
    help = "the same with libaio"
    aio = "libaio"
    rows = tuple(load_rows("raw-libaio", Raw.loads, Raw.queues, (">=", 1.2)))


class RawCached(Raw):
    name = "disk-raw-cached"
    help = "the same through the page cache, with io_uring"
    cache = "writeback"
    rows = tuple(load_rows("raw-cached", Raw.loads, Raw.queues, (">=", 1.2)))


# ---- qcow2 ---------------------------------------------------------------------------------


def qemu_img(*words):
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"qemu-img {words[0]}: {done.stderr.strip()}")


def needs_hutch_image(verb):
    done = subprocess.run([HUTCH, "image", verb, "--help"], capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"this hutch has no `image {verb}` yet")


class Qcow2(DiskBench):
    """An image that is allocated in full beside a raw file of the same size."""
    name = "disk-qcow2"
    help = "qcow2 once it is allocated, beside hutch's raw and QEMU's qcow2"
    loads = LOADS
    rows = (*load_rows("qcow2", loads, (1,), (">=", 0.95), None, monitor="hutch qcow2",
                       beside="hutch raw"),
            *load_rows("qcow2-qemu", loads, (1,), (">=", 1.0), monitor="hutch qcow2",
                       beside="qemu qcow2"))

    def prepare(self):
        self.raw = real_file(self.stack, DISK_BYTES)
        file = self.stack.enter_context(tempfile.NamedTemporaryFile(suffix=".qcow2", dir=FOLDER))
        qemu_img("convert", "-O", "qcow2", self.raw, file.name)
        self.qcow2 = file.name

    def disk(self, subject, load):
        form = subject.split()[1]
        return getattr(self, form), form


class Allocating(DiskBench):
    name = "disk-qcow2-allocating"
    help = "qcow2 that grows with every write; QEMU's does, too"
    loads = (Load("randwrite-4k-d32", "bs=4096 qd=32 write=1", 8000),
             Load("randwrite-64k-d32", "bs=64k qd=32 write=1", 4000),
             Load("write-1m", "bs=1M qd=4 random=0 write=1", 500))
    rows = tuple(load_rows("allocating", loads, (1,), (">=", 1.2)))

    def prepare(self):
        self.path = os.path.join(self.stack.enter_context(
            tempfile.TemporaryDirectory(dir=FOLDER)), "disk.qcow2")

    def disk(self, subject, load):
        qemu_img("create", "-q", "-f", "qcow2", self.path, "1G")
        return self.path, "qcow2"


class Chain(DiskBench):
    """Each layer holds every CHAIN-th piece of the disk, so that 1 MiB lies in four files.  On a
    tmpfs the ratio also tells which pages of memory the files happen to have: plain preads
    of the same places differ by up to a third there.  A disk is fair to both."""
    name = "disk-chain"
    help = f"reads through {CHAIN} layers of qcow2, beside a single one"
    backing = True
    loads = (LOAD["randread-4k-d1"], LOAD["randread-4k-d32"], LOAD["read-1m"])
    rows = tuple(load_rows("chain", loads, (1,), (">=", 0.9), None, monitor="hutch chain",
                           beside="hutch single"))

    def prepare(self):
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))
        self.single, below = os.path.join(folder, "single.qcow2"), None
        for layer in range(CHAIN):
            self.chain = os.path.join(folder, f"layer{layer}.qcow2")
            qemu_img("create", "-q", "-f", "qcow2",
                     *(["-b", below, "-F", "qcow2"] if below else []), self.chain, DISK_BYTES)
            below = os.path.basename(self.chain)
            self.fill(self.chain, layer)
        qemu_img("convert", "-O", "qcow2", self.chain, self.single)

    @staticmethod
    def fill(path, layer):
        """Every CHAIN-th piece of 256 KiB."""
        piece = 256 << 10
        commands = [f"write -P {layer + 1} {at} {piece}"
                    for at in range(layer * piece, DISK_BYTES, CHAIN * piece)]
        subprocess.run(["qemu-io", "-f", "qcow2", path], input="\n".join(commands), text=True,
                       stdout=subprocess.DEVNULL, check=True)

    def disk(self, subject, load):
        return getattr(self, subject.split()[1]), "qcow2"


# ---- hutch image -----------------------------------------------------------------------------


class ImageCommand(Bench):
    """The time that one command takes, from start to end, by hutch and by qemu-img."""
    verb = ""

    def __enter__(self):
        needs_hutch_image(self.verb)
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))
        self.prepare()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def path(self, name):
        return os.path.join(self.folder, name)

    def prepare(self):
        pass

    def run(self, monitor, *words):
        command = ["qemu-img"] if monitor == "qemu" else [HUTCH, "image"]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("out"))
        begin = time.monotonic_ns()
        done = subprocess.run([*command, self.verb, *map(str, words)], capture_output=True,
                              text=True)
        took = (time.monotonic_ns() - begin) / 1e6
        if done.returncode:
            raise CannotRun(f"{monitor} {self.verb}: {done.stderr.strip()}")
        return took


class Clone(ImageCommand):
    name = "image-clone"
    help = "create of an overlay on an image of 100 GiB"
    verb = "create"
    rows = (Row("image-clone", "time", "ms", limit=("<=", 2), ratio=("<=", 1.0)),)
    runs = 31

    def prepare(self):
        qemu_img("create", "-q", "-f", "qcow2", self.path("base.qcow2"), CLONE_BYTES)

    def sample(self, monitor):
        return {"time": self.run(monitor, "-f", "qcow2", "-b", self.path("base.qcow2"), "-F",
                                 "qcow2", self.path("out"))}


class Convert(ImageCommand):
    """Alternately 64 MiB that are there and 64 MiB that are not."""
    name = "image-convert"
    help = f"convert of {CONVERT_MIB / 1024:g} GiB that are half empty, qcow2 to raw and back"
    verb = "convert"
    rows = (Row("image-convert-to-raw", "to raw", "s", ratio=("<=", 1.0)),
            Row("image-convert-to-qcow2", "to qcow2", "s", ratio=("<=", 1.0)))
    runs = 3

    def prepare(self):
        if shutil.disk_usage(FOLDER).free < 3 * CONVERT_MIB << 20:
            raise CannotRun(f"{FOLDER} has too little room: HUTCH_BENCH_FOLDER= names another, "
                            "HUTCH_BENCH_CONVERT_MIB= a smaller image")
        block = os.urandom(64 << 20)
        with open(self.path("full.raw"), "wb") as file:
            file.truncate(CONVERT_MIB << 20)
            for at in range(0, CONVERT_MIB, 128):
                file.seek(at << 20)
                file.write(block[:min(64, CONVERT_MIB - at) << 20])
        qemu_img("convert", "-O", "qcow2", self.path("full.raw"), self.path("full.qcow2"))
        os.sync()

    def sample(self, monitor):
        return {"to raw": self.run(monitor, "-f", "qcow2", "-O", "raw", self.path("full.qcow2"),
                                   self.path("out")) / 1e3,
                "to qcow2": self.run(monitor, "-f", "raw", "-O", "qcow2", self.path("full.raw"),
                                     self.path("out")) / 1e3}


DISKS = (Raw, RawLibaio, RawCached, Qcow2, Allocating, Chain, Clone, Convert)
