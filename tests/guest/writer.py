"""A guest that writes to a disk without end, keeps a journal of what it flushed, and is judged
by it, while `hutch disk` and the control socket change what is below the disk."""
import dataclasses
import os
import shutil
import subprocess
import tempfile
import time

import crash
import hutch
from crash import Chain, Guest, Row
from hutch import PATIENCE, Skip, check, equal
from qmp import Qmp

DISK, MIB = "disk0", 1 << 20
FILLER = 8 * MIB  # of a disk, beyond the working set
crash.JOURNAL_BYTES = 1 << 30  # sparse: it writes for as long as it takes
# Rests now and then, so that what must keep up with it can.
CALM = "burst=64 rest=4000000"


def row(name, options="", **keys):
    """The working set is 4 MiB, in the pieces that a disk of 32 MiB has each MiB."""
    plan = {"sectors": 8192, "chunk": 256, "stride": 2048, "max": 64, **keys.pop("plan", {})}
    return Row(name, options, plan=plan, **keys)


class Writer:
    """With it: `chain` is what crash.py knows of the disk, `qmp` a session."""

    def __init__(self, row, *words, options=(), seed=1, wrap=(), journal=""):
        hutch.needs_kvm()
        if not os.path.exists(crash.CHECKER):
            raise Skip(f"{crash.CHECKER} is not there: scripts/build")
        if not shutil.which("qemu-img"):
            raise Skip("qemu-img is not installed")
        self.scratch = tempfile.TemporaryDirectory(prefix="hutch-live-", dir="/var/tmp")
        self.folder = os.path.join(self.scratch.name, "disk")
        os.mkdir(self.folder)
        self.chain = Chain(row, seed, self.folder)
        self.size = self.chain.bytes + FILLER
        crash.tool("qemu-img", "resize", "-q", "-f", row.format, self.chain.disk, str(self.size))
        self.words, self.options, self.wrap = words or (CALM,), options, wrap
        self.journal = journal  # more options of the journal's disk
        self.guest = self.qmp = None

    def path(self, name):
        return os.path.join(self.folder, name)

    def __enter__(self):
        return self.start()

    def start(self, *words):
        """On what the last run left."""
        os.environ["XDG_RUNTIME_DIR"] = self.scratch.name
        try:
            command = self.chain.command([*self.words, *words])
            command[-1] += self.journal
            self.guest = Guest([*self.wrap, *command, *self.options, "--name", "vm"])
            self.qmp = Qmp(os.path.join(self.scratch.name, "hutch", "vm", "control.sock"),
                           self.guest.process)
            self.guest.said(b"verify go")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.guest:
            self.guest.process.kill()
            self.guest.process.wait()
            self.guest.process.stdout.close()
        if self.qmp:
            self.qmp.close()
        self.clean_up()

    def clean_up(self):
        self.scratch.cleanup()

    def disk(self, verb, *arguments, status=0, words=()):
        """hutch disk VERB vm ...: what it printed; if it must fail, one sentence with `words`."""
        done = subprocess.run([hutch.HUTCH, "disk", verb, "vm", *map(str, arguments)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120 * PATIENCE)
        case = f"hutch disk {verb} {arguments}"
        equal(done.returncode, status, f"{case}: status ({done.stderr.strip()})")
        if status:
            lines = [x for x in done.stderr.splitlines() if x.startswith("hutch: error: ")]
            equal(len(lines), 1, f"{case}: {done.stderr!r}")
            equal(done.stdout, "", f"{case}: standard output")
            for word in words:
                check(word in lines[0], f"{case}: {word!r} is not in {lines[0]!r}")
        return done.stdout

    def image(self):
        """query-block's words on the image that is the disk now."""
        return next(x["inserted"] for x in self.qmp("query-block") if x["device"] == DISK)

    def files(self):
        """Of the chain, as the monitor has it, from the top."""
        found, image = [], self.image()["image"]
        while image:
            found.append((os.path.basename(image["filename"]), image["format"]))
            image = image.get("backing-image")
        return found

    def job(self):
        jobs = self.qmp("query-jobs")
        return jobs[0] if jobs else {}

    def copied(self, part):
        """Waits until the job has done at least that part; its status then."""
        end = time.monotonic() + 60 * PATIENCE
        while True:
            job = self.job()
            if job["current-progress"] >= part * job["total-progress"] > 0:
                return job["status"]
            check(time.monotonic() < end and self.guest.process.poll() is None,
                  f"{job}\n{self.guest.story()}")
            time.sleep(0.01)

    def concluded(self):
        """Waits until it is; the job."""
        while self.qmp.event("JOB_STATUS_CHANGE")["data"]["status"] != "concluded":
            pass
        return self.job()

    def writes_on(self, n=200, what="wr_operations"):
        """The guest goes on: so many requests more are done."""
        def done():
            stats = next(x["stats"] for x in self.qmp("query-blockstats") if x["device"] == DISK)
            return stats[what]
        end, begin = time.monotonic() + 60 * PATIENCE, done()
        while done() < begin + n:
            check(time.monotonic() < end, f"the guest stands still: {self.qmp('query-status')}, "
                  f"{self.qmp.events} {self.guest.story()}")
            check(self.guest.process.poll() is None, self.guest.story())
            time.sleep(0.01)

    def kill(self):
        """As crash.py does; then judges what is left, and lets it run on that once more."""
        (name, form), *below = self.files()
        self.guest.process.kill()
        equal(self.guest.end(), -9, self.guest.story())
        self.judge(name, form, below)

    def judge(self, name, form, below=(), crashed=True):
        chain = self.chain
        chain.disk, chain.files = self.path(name), [self.path(name)]
        chain.row = dataclasses.replace(chain.row, format=form)
        for lower, kind in below:
            if kind == "qcow2":
                crash.wait_until_free(self.path(lower))
                crash.tool("qemu-img", "check", "-q", "-f", "qcow2", self.path(lower),
                           statuses=(0, 3))  # leaks, of a job that did not end
        chain.judge(crashed=crashed)
        chain.finish()
