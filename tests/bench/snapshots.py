"""What it takes to save a VM into a snapshot and to go on from one, beside QEMU's migration
to a file and from it (exec:), the only one that QEMU 7.2 has."""
import contextlib
import json
import os
import select
import socket
import subprocess
import tempfile
import time

from base import FOLDER, Bench, Row
from monitors import HUTCH, PATIENCE, QEMU, CannotRun, payload

SMALL, LARGE = 128, 16 * 1024   # MiB
FULL, FULL_PAGES = 512, 32768   # MiB, and pages that are not zero: a quarter
DIFF = 8 * 1024
DIFF_PAGES = DIFF * 1024 * 1024 // 4096 // 100
WANTED, FILLED = 1000, 24576    # pages that a guest wants after it was restored, and has


class Machine:
    """A guest that is talked to over its serial port, on standard input and output."""

    def __init__(self, arguments, env=None):
        self.text = b""
        self.stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.stderr, env=env)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.stderr.close()

    def said(self, words):
        """Waits for these words, and forgets what was said up to them."""
        end = time.monotonic() + PATIENCE
        while words not in self.text:
            ready = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                self.stderr.seek(0)
                raise CannotRun(f"{self.process.args[0]}: {self.text[-200:]!r} "
                                f"{self.stderr.read().decode(errors='replace')[-400:].strip()}")
            self.text += data
        self.text = self.text[self.text.index(words) + len(words):]

    def ask(self, key=b"x", answer=b"dirty "):
        """One byte, and the guest's answer.  What is typed before a VM has come in is lost
        with QEMU, so it is typed again every millisecond."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.process.stdin.write(key)
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], 0.001)[0]:
                break
        self.said(answer)

    def faults(self):
        """(minor, major) of all threads of the process."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            words = file.read().rpartition(")")[2].split()
        return int(words[7]), int(words[9])


class Hutch:
    """Saved as NAME in a store of its own."""

    def __init__(self, stack):
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))
        self.env = {**os.environ, "XDG_RUNTIME_DIR": self.folder, "HUTCH_SNAPSHOTS": self.folder}

    def boot(self, mib, pages, test="dirty"):
        m = Machine([HUTCH, "run", "--name", "bench", "--kernel", payload("payload.elf"),
                     "--cmdline", f"test={test} pages={pages}", "--memory", f"{mib}M"], self.env)
        m.said(b" ready")
        return m

    def save(self, _machine, name, *arguments):
        """Its figures, in ms."""
        done = subprocess.run([HUTCH, "snapshot", "create", "bench", name, "--json", *arguments],
                              env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(done.stderr.strip())
        figures = json.loads(done.stdout)
        return {"took": figures["total-us"] / 1000, "pause": figures["pause-us"] / 1000}

    def restore(self, name, *arguments):
        return Machine([HUTCH, "run", "--name", "again", "--restore", name, *arguments], self.env)


class Qemu:
    def __init__(self, stack):
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))

    def start(self, mib, pages, *more):
        return Machine([QEMU, "-M", "microvm,accel=kvm,pit=off,pic=off,rtc=off,acpi=off",
                        "-no-user-config", "-nodefaults", "-display", "none", "-m", str(mib),
                        "-serial", "stdio", "-kernel", payload("payload.elf"), "-append",
                        f"test=dirty pages={pages}", "-qmp",
                        f"unix:{self.folder}/qmp,server=on,wait=off", *more])

    def boot(self, mib, pages):
        self.made = (mib, pages)
        m = self.start(mib, pages)
        m.said(b"dirty ready")
        return m

    def save(self, _machine, name, *_):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{self.folder}/qmp")
            replies = s.makefile("rb")

            def call(command, **arguments):
                s.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
                while True:
                    reply = json.loads(replies.readline())
                    if "return" in reply or "error" in reply:
                        return reply.get("return", reply)

            replies.readline()
            call("qmp_capabilities")
            call("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            start = time.monotonic()
            call("migrate", uri=f"exec:cat >{self.folder}/{name} && sync {self.folder}/{name}")
            while True:
                now = call("query-migrate")
                if now["status"] == "completed":
                    return {"took": (time.monotonic() - start) * 1000, "pause": now["downtime"]}
                if now["status"] == "failed":
                    raise CannotRun(f"QEMU does not migrate to a file: {now}")
                time.sleep(0.001)

    def restore(self, name):
        return self.start(*self.made, "-incoming", f"exec:cat {self.folder}/{name}")


MAKERS = {"hutch": Hutch, "qemu": Qemu}


class Restore(Bench):
    """From exec to the guest's answer to a byte that was typed."""

    name = "snapshot-restore"
    help = f"run --restore to the guest's first reply, {SMALL} MiB and {LARGE >> 10} GiB"
    rows = (Row(f"restore-{SMALL}M", "took", "ms", f"hutch {SMALL}", f"qemu {SMALL}",
                limit=("<=", 5)),
            Row(f"restore-{LARGE >> 10}G", "took", "ms", f"hutch {LARGE}", f"qemu {LARGE}"),
            Row("restore-by-size", "took", "ms", f"hutch {LARGE}", f"hutch {SMALL}",
                ratio=("<=", 1.2)))
    runs = 7

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.saved = {}
        for monitor, make in MAKERS.items():
            for mib in (SMALL, LARGE):
                maker = self.saved[f"{monitor} {mib}"] = make(self.stack)
                machine = maker.boot(mib, 1)  # what it does before it answers
                try:
                    machine.ask()
                    maker.save(machine, "saved")
                finally:
                    machine.kill()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def sample(self, monitor):
        start = time.monotonic()
        machine = self.saved[monitor].restore("saved")
        try:
            machine.ask()
            return {"took": (time.monotonic() - start) * 1000}
        finally:
            machine.kill()


class Create(Bench):
    name = "snapshot-create"
    help = f"{FULL} MiB, {FULL_PAGES * 4 >> 10} of it not zero, to a file that is synced"
    rows = (Row("create", "took", "ms"), Row("create-pause", "pause", "ms"))
    runs = 5

    def sample(self, monitor):
        with contextlib.ExitStack() as stack:
            maker = MAKERS[monitor](stack)
            machine = maker.boot(FULL, FULL_PAGES)
            stack.callback(machine.kill)
            machine.ask()
            return maker.save(machine, "saved")


class Diff(Bench):
    name = "snapshot-diff"
    help = f"a diff of {DIFF >> 10} GiB with 1% of it dirty, beside a full one"
    rows = (Row("diff", "took", "ms", beside="full"),
            Row("diff-pause", "pause", "ms", beside="full", limit=("<=", 10)))
    runs = 5

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.maker = Hutch(self.stack)
        self.machine = self.maker.boot(DIFF, DIFF_PAGES)
        self.stack.callback(self.machine.kill)
        self.machine.ask()
        self.n = 0
        self.save()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def save(self, *arguments):
        self.n += 1
        return self.maker.save(self.machine, f"s{self.n}", *arguments)

    def sample(self, monitor):
        if monitor == "full":
            return self.save()
        self.machine.ask()
        return self.save("--diff")


HOW = {
    "off": ("--working-set", "off"),
    "ahead": (),
    "lazy": ("--memory-from", "lazy"),
    "copy": ("--memory-from", "copy"),
}


def fault_rows(name):
    """What the working set, which is on by default, does, and other ways beside none of it."""
    for cache in ("warm", "cold"):
        for how in ("ahead", "lazy", "copy"):
            for figure, unit in (("first", "ms"), ("all", "ms"), ("minor", ""), ("major", "")):
                yield Row(f"{name}-{cache}-{how}-{figure}", figure, unit, f"{how} {cache}",
                          f"off {cache}")


class Faults(Bench):
    """first: from exec to the guest's first answer.  all: until it has also touched the pages it
    wants, which lie far apart, and checked them.  The faults are those in between.  Cold: none
    of the file of its memory is in the page cache."""

    runs = 5
    mib = SMALL

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.maker = Hutch(self.stack)
        machine = self.maker.boot(self.mib, f"{WANTED} of={FILLED}", "touch")
        try:
            machine.ask(b"?", b"here")
            self.maker.save(machine, "saved")
        finally:
            machine.kill()
        self.snapshot = os.path.join(self.maker.folder, "saved.snap")
        self.record()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def record(self):
        machine = self.maker.restore("saved")
        try:
            self.want(machine)
            end = time.monotonic() + PATIENCE
            while not os.path.exists(os.path.join(self.snapshot, "working-set")):
                if time.monotonic() > end:
                    raise CannotRun("what the guest touched is not recorded")
                time.sleep(0.01)
        finally:
            machine.kill()

    @staticmethod
    def want(machine):
        machine.process.stdin.write(b"x")
        machine.process.stdin.flush()
        machine.said(b"touched ")

    def set_cache(self, cache):
        with open(os.path.join(self.snapshot, "memory"), "rb") as file:
            if cache == "cold":
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return
            at = 0
            while (at := self.data_at(file, at)) is not None:
                at += len(os.pread(file.fileno(), 1 << 20, at))

    @staticmethod
    def data_at(file, at):
        try:
            return os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            return None

    def sample(self, monitor):
        how, cache = monitor.split()
        self.set_cache(cache)
        start = time.monotonic()
        machine = self.maker.restore("saved", *HOW[how])
        try:
            machine.ask(b"?", b"here")
            first, before = time.monotonic(), machine.faults()
            self.want(machine)
            end, after = time.monotonic(), machine.faults()
        finally:
            machine.kill()
        return {"first": (first - start) * 1000, "all": (end - start) * 1000,
                "minor": after[0] - before[0], "major": after[1] - before[1]}


class FaultsSmall(Faults):
    name = "restore-faults"
    help = f"{WANTED} pages of a restored guest of {SMALL} MiB: read ahead, lazily, copied, or not"
    rows = tuple(fault_rows("faults"))


class FaultsLarge(Faults):
    name = "restore-faults-large"
    help = f"the same of {LARGE >> 10} GiB, nearly all of it zero"
    mib = LARGE
    rows = tuple(fault_rows("faults-large"))


SNAPSHOTS = (Restore, Create, Diff, FaultsSmall, FaultsLarge)
