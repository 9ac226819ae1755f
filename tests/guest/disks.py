"""What tests of `hutch image` share: running it and its judge, making images, and watching
that no failure leaves a file behind."""
import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import tempfile

import hutch
from hutch import Skip, check, equal

MIB = 1 << 20


def image(*arguments, status=0, wrap=(), env=None, limit=120, preexec=None):
    """A whole `hutch image`; its standard output.  Fails on any other status."""
    done = subprocess.run([*wrap, hutch.HUTCH, "image", *map(str, arguments)], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False,
                          timeout=limit * hutch.PATIENCE, env={**os.environ, **(env or {})},
                          preexec_fn=preexec)
    equal(done.returncode, status, f"hutch image {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def qemu_img(*arguments, status=0):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img is not installed")
    done = subprocess.run(["qemu-img", *map(str, arguments)], text=True, capture_output=True,
                          check=False)
    equal(done.returncode, status, f"qemu-img {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def qemu_io(path, *commands, fmt="qcow2"):
    subprocess.run(["qemu-io", "-f", fmt, *[x for c in commands for x in ("-c", c)], path],
                   check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def folder():
    """A folder to work in, which must hold nothing unfinished at the end."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        before = os.getcwd()
        os.chdir(path)
        try:
            yield path
        finally:
            os.chdir(before)
        left = [name for _, dirs, files in os.walk(path) for name in dirs + files
                if ".partial-" in name or ".new-" in name]
        equal(left, [], "left behind")


def random_raw(path, size, seed=1, density=0.5):
    """A raw file of runs of data, zeroes and holes."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            run = min(rng.choice((512, 4096, 65536, 200 * 512, MIB)), size - at)
            if rng.random() < density:
                f.seek(at)
                f.write(bytes(run) if rng.random() < 0.2 else rng.randbytes(run))
            at += run


def contents(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def same(a, b, *options):
    qemu_img("compare", *options, a, b)


def refused_here(*arguments, words=(), status=125):
    """hutch image must refuse, in one sentence; the files here stay as they are."""
    before = sorted(os.listdir("."))
    done = subprocess.run([hutch.HUTCH, "image", *map(str, arguments)], text=True, check=False,
                          capture_output=True, stdin=subprocess.DEVNULL)
    case = f"hutch image {' '.join(map(str, arguments))}"
    equal(done.returncode, status, f"{case}: {done.stderr}")
    lines = [x for x in done.stderr.splitlines() if x.startswith("hutch: error: ")]
    equal(len(lines), 1, f"{case}: {done.stderr}")
    for word in words:
        check(word in lines[0], f"{case}: {word!r} is not in {lines[0]}")
    equal(sorted(os.listdir(".")), before, f"{case}: files")
