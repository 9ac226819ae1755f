"""What a bench is, and what benches share."""
import os
import tempfile
from dataclasses import dataclass

from monitors import HUTCH

FOLDER = os.environ.get("HUTCH_BENCH_FOLDER", os.path.dirname(HUTCH))


@dataclass
class Row:
    name: str
    figure: str             # key of the sample
    unit: str
    monitor: str = "hutch"
    beside: str = "qemu"    # what it is compared with
    ratio: tuple = None     # asked of one / the other: ("<=", 0.10)
    limit: tuple = None     # asked of hutch alone, in units


class Bench:
    name = help = ""
    rows = ()
    runs = 7

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def sample(self, monitor):
        """One run: {figure: value}."""
        raise NotImplementedError


def real_file(stack, size, suffix=".raw"):
    """A disk whose blocks are all there, beside the binary or in HUTCH_BENCH_FOLDER: not on a
    tmpfs, unless that is what is to be measured."""
    file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=suffix, dir=FOLDER))
    for _ in range(size >> 20):
        file.write(os.urandom(1 << 20))
    file.flush()
    os.fsync(file.fileno())
    return file.name


def timed(guest, start, done, count, started=lambda: None):
    """The rate between two lines of the guest's, and the CPU time of the I/O threads."""
    begin, _ = guest.said(start + r".*\n")
    started()
    cpu = guest.io_cpu_ns()
    end, _ = guest.said(done + r".*\n")
    return {"rate": count / 1e3 / (end - begin) * 1e9,
            "cpu": (guest.io_cpu_ns() - cpu) / 1000 / count}
