"""The processes that hutch starts, as the host sees them."""
import glob
import time

from hutch import PATIENCE, check


def content(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def helpers(pid):
    """The children of a process, children of children included.  They are listed by the thread
    that has them, and are another's when it ends: then it is looked again."""
    while True:
        found = []
        try:
            for children in glob.glob(f"/proc/{pid}/task/*/children"):
                for child in content(children).split():
                    found += [int(child), *helpers(child)]
            return found
        except (FileNotFoundError, ProcessLookupError):
            continue


def runs(pid):
    """It is there, and not just waiting to be looked at by its parent."""
    try:
        return content(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, limit=20):
    end = time.monotonic() + limit * PATIENCE
    while any(map(runs, pids)):
        check(time.monotonic() < end, f"of {pids}, {[p for p in pids if runs(p)]} are left")
        time.sleep(0.02)
