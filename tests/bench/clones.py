"""What many clones of one template cost, beside as many VMs that are booted one by one."""
import os
import subprocess
import tempfile
import time

from base import FOLDER, Bench, Row
from monitors import HUTCH, payload

COUNT = 100
VM = ("--kernel", payload("payload.elf"), "--memory", "512M", "--cmdline", "test=spin how=hlt",
      "--net", "user", "--rng")
BOOTED = "hutch booted"


def kib(pid, file, *keys):
    with open(f"/proc/{pid}/{file}", encoding="ascii") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(keys))


def cost(pid):
    """Of one VM's process."""
    return {"pss": kib(pid, "smaps_rollup", "Pss:"),
            "private": kib(pid, "smaps_rollup", "Private_"),
            "tables": kib(pid, "status", "VmPTE:"),
            "fds": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task"))}


class Clones(Bench):
    name = "clone"
    help = f"{COUNT} clones of a 512 MiB template, with a network and rng; each one's cost"
    rows = (Row("clone-100", "took", "ms", beside=BOOTED, limit=("<=", 1000)),
            Row("clone-private", "private", "KiB", beside=BOOTED, limit=("<=", 1024)),
            Row("clone-pss", "pss", "KiB", beside=BOOTED),
            Row("clone-page-tables", "tables", "KiB", beside=BOOTED),
            Row("clone-fds", "fds", "", beside=BOOTED),
            Row("clone-threads", "threads", "", beside=BOOTED))
    runs = 3

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(dir=FOLDER)
        self.runtime = tempfile.TemporaryDirectory(prefix="hutch-")
        self.env = {**os.environ, "XDG_RUNTIME_DIR": self.runtime.name,
                    "HUTCH_TEMPLATES": self.folder.name}
        self.hutch("run", "-d", "--name", "source", *VM)
        self.hutch("template", "create", "source", "t")
        self.hutch("rm", "--force", "source")
        return self

    def __exit__(self, *_):
        self.hutch("rm", "--all", "--force")
        self.runtime.cleanup()
        self.folder.cleanup()

    def hutch(self, *arguments):
        return subprocess.run([HUTCH, *arguments], check=True, env=self.env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout

    def sample(self, monitor):
        began = time.monotonic()
        if monitor == "hutch":
            self.hutch("clone", "t", "--count", str(COUNT))
        else:
            for number in range(COUNT):
                self.hutch("run", "-d", "--name", f"b{number}", *VM)
        took = (time.monotonic() - began) * 1000
        costs = []
        for name in self.hutch("ps", "--quiet").split():
            with open(os.path.join(self.runtime.name, "hutch", name, "lock"),
                      encoding="ascii") as lock:
                costs.append(cost(int(lock.read())))
        self.hutch("rm", "--all", "--force")
        return {"took": took, **{key: max(c[key] for c in costs) for key in costs[0]}}


CLONES = (Clones,)
