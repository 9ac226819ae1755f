"""What many VMs cost: a detached start, and a look at all of them."""
import contextlib
import os
import subprocess
import tempfile
import time

from base import Bench, Row
from monitors import HUTCH, CannotRun, payload

MANY = 200
OF_EACH = 7  # the best of so many: the difference is less than what a busy host adds
VM = ("--kernel", payload("payload.elf"), "--memory", "32M", "--cmdline", "test=button program=1")


class Detach(Bench):
    name = "detach"
    help = "hutch run -d --wait boot, beside one in the foreground that says the same"
    rows = (Row("detach", "ready", "ms", beside="hutch foreground"),
            Row("detach-cost", "cost", "ms", beside="hutch foreground", limit=("<=", 5)))
    runs = 5

    def __enter__(self):
        self.runtime = tempfile.TemporaryDirectory(prefix="hutch-")
        self.env = {**os.environ, "XDG_RUNTIME_DIR": self.runtime.name}
        return self

    def __exit__(self, *_):
        self.runtime.cleanup()

    def foreground(self):
        start = time.monotonic()
        with subprocess.Popen([HUTCH, "run", "--name", "fg", *VM], env=self.env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            said = any("a program speaks" in line for line in process.stdout)
            took = (time.monotonic() - start) * 1000
            process.kill()
        if not said:
            raise CannotRun("the guest did not speak")
        return took

    def detached(self):
        start = time.monotonic()
        subprocess.run([HUTCH, "run", "-d", "--name", "bg", "--wait", "boot", *VM], check=True,
                       env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        took = (time.monotonic() - start) * 1000
        subprocess.run([HUTCH, "rm", "--force", "bg"], check=True, env=self.env)
        return took

    def sample(self, monitor):
        alone = min(self.foreground() for _ in range(OF_EACH))
        if monitor != "hutch":
            return {"ready": alone, "cost": 0}
        took = min(self.detached() for _ in range(OF_EACH))
        return {"ready": took, "cost": took - alone}


class Ps(Bench):
    name = f"ps-{MANY}"
    help = f"hutch ps with {MANY} VMs, beside one with a single VM"
    rows = (Row(f"ps-{MANY}", "ps", "ms", beside="hutch one", limit=("<=", 100)),)

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.envs = {"hutch": self.start(MANY), "hutch one": self.start(1)}
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start(self, count):
        runtime = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="hutch-"))
        env = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        self.stack.callback(subprocess.run, [HUTCH, "rm", "--all", "--force"], env=env)
        for n in range(count):
            subprocess.run([HUTCH, "run", "-d", "--name", f"vm{n}", "--paused", *VM], check=True,
                           env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return env

    def sample(self, monitor):
        start = time.monotonic()
        table = subprocess.run([HUTCH, "ps"], check=True, env=self.envs[monitor],
                               capture_output=True, text=True).stdout
        took = (time.monotonic() - start) * 1000
        if table.count("prelaunch") != (MANY if monitor == "hutch" else 1):
            raise CannotRun("ps does not list them all")
        return {"ps": took}


FLEET = (Detach, Ps)
