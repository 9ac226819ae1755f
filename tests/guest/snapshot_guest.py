"""The payload guest that keeps everything busy (guest-images/payload/test_snapshot.c), as VMs
that are saved and restored: what it says must go on where it was, without a gap."""
import os
import random
import re
import subprocess
import tempfile
import time

import hutch
from hutch import Vm, check, equal, image

FIELDS = ("blk", "net", "con", "timer", "ring", "pages")
LINE = re.compile(rb"at (\d+) " + b" ".join(rb"%s=(\d+)" % f.encode() for f in FIELDS) + rb"$")


class Lines:
    """What one VM says.  A restored one goes on in the middle of a line."""

    def __init__(self, vm, restored):
        self.vm, self.partial, self.at = vm, restored, 0
        self.last = None  # {"at": ..., "blk": ...}

    def take(self, line):
        text = line.rstrip(b"\r\n")
        found = LINE.search(text) if self.partial else LINE.match(text)
        if not found:
            check(self.last is None, f"the guest said: {text!r}\n{self.vm.tail()}")
            self.partial = self.partial and b"go" not in text  # the end of its line, or boot
            return
        numbers = dict(zip(("at",) + FIELDS, map(int, found.groups())))
        if self.last:
            equal(numbers["at"], self.last["at"] + 1, "the number of the line")
            for name in FIELDS:
                check(numbers[name] >= self.last[name], f"{name} goes back: {text!r}")
        whole = not self.partial or found.start() == 0 and text.startswith(b"at ")
        self.partial = False
        if whole or self.last:
            self.last = numbers

    def follow(self, n, limit=60):
        """Until it has said n more lines."""
        end, goal = time.monotonic() + limit * hutch.PATIENCE, None
        while True:
            while b"\n" in self.vm.output[self.at:]:
                line, _, _ = self.vm.output[self.at:].partition(b"\n")
                self.at += len(line) + 1
                self.take(line)
                if self.last and goal is None:
                    goal = self.last["at"] + n
            if goal is not None and self.last["at"] >= goal:
                return self.last
            if time.monotonic() > end or not self.vm.read(end - time.monotonic()):
                raise hutch.GuestTimeout(f"the guest does not go on: {self.vm.tail()}")


    def all_go_on(self, limit=60):
        """Until every device has done something since its last line: a request that is lost
        takes its own time to be noticed by the guest."""
        begin = self.last or self.follow(0, limit)
        fields = [name for name in FIELDS if begin[name]]
        end = time.monotonic() + limit * hutch.PATIENCE
        while any(self.last[name] <= begin[name] for name in fields):
            check(time.monotonic() < end, f"{begin}: not all go on, {self.last}")
            self.follow(1, limit)
        return self.last


class Place:
    """Run folders, a store of snapshots and a disk, all of a test's own."""

    def __init__(self, disk="disk.raw"):
        self.temporary = tempfile.TemporaryDirectory(prefix="hutch-", dir="/var/tmp")
        self.folder = self.temporary.name
        self.store = os.path.join(self.folder, "store")
        run = os.path.join(self.folder, "run")
        os.mkdir(self.store)
        os.mkdir(run)
        self.env = {"XDG_RUNTIME_DIR": run, "HUTCH_SNAPSHOTS": self.store}
        self.disk = os.path.join(self.folder, disk)
        if disk.endswith(".raw"):
            with open(self.disk, "wb") as file:
                file.truncate(16 << 20)
        else:
            self.hutch("image", "create", self.disk, "16M")
        self.n = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.temporary.cleanup()

    def hutch(self, *arguments, status=0):
        done = subprocess.run([hutch.HUTCH, *map(str, arguments)], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              env={**os.environ, **self.env},
                              timeout=60 * hutch.PATIENCE)
        check(status is None or done.returncode == status,
              f"hutch {' '.join(map(str, arguments))}: status {done.returncode}: "
              f"{done.stderr}{done.stdout}")
        return done

    def name(self):
        self.n += 1
        return f"vm{self.n}"

    def boot(self, cpus=1, words="", memory="64M", transport="pci"):
        irq = int(transport == "pci")  # over virtio-mmio the guest's driver polls
        return Busy(self, "--kernel", image("payload", "payload.elf"), "--cmdline",
                    f"test=snapshot cpus={cpus} irq={irq} {words}", "--debug-exit", "--cpus",
                    cpus, "--memory", memory, "--transport", transport, "--disk", self.disk,
                    "--net", "user", "--console", f"file={self.folder}/console.txt")

    def restore(self, snapshot, *arguments):
        return Busy(self, "--restore", snapshot, *arguments, restored=True)

    def snapshots(self):
        return sorted(os.listdir(self.store))


class Busy(Vm):
    """One such VM."""

    def __init__(self, place, *arguments, restored=False):
        self.name, self.place = place.name(), place
        super().__init__("--name", self.name, *arguments, env=place.env)
        self.lines = Lines(self, restored)

    def follow(self, n=1, limit=60):
        return self.lines.follow(n, limit)

    def all_go_on(self, limit=60):
        return self.lines.all_go_on(limit)

    def save(self, snapshot, *arguments):
        """Saves it while it goes on; the first line that a restored VM may say."""
        before = self.lines.last["at"] if self.lines.last else 0
        self.place.hutch("snapshot", "create", self.name, snapshot, "--quiet", *arguments)
        return before

    def end(self, kill=False):
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait()


class Dice(random.Random):
    """Chance that can be repeated: HUTCH_SEED."""

    def __init__(self):
        self.first = int(os.environ.get("HUTCH_SEED", random.randrange(1 << 32)))
        super().__init__(self.first)
        print(f"# HUTCH_SEED={self.first}", flush=True)
