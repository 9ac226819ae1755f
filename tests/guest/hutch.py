"""Drives hutch from outside, as a user or a script does: starts it, reads what the guest
says, types, and checks how it ended.  Nothing here sleeps for a guest: it waits for what
the guest says, with a limit.

A test program is a module with functions test_*; their names are the promises they keep.
main() runs them and prints TAP.
"""
import ctypes
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HUTCH = os.environ.get("HUTCH", os.path.join(ROOT, "build", "hutch"))
CACHE = os.environ.get("HUTCH_IMAGE_CACHE", os.path.join(ROOT, "guest-images", "cache"))
# Emulated hosts and sanitizers are slow; limits are for what hangs.
PATIENCE = float(os.environ.get("HUTCH_TEST_PATIENCE", "1"))


class Skip(Exception):
    """Raised by a test that cannot run here; its text is the reason."""


class GuestTimeout(AssertionError):
    """The guest did not say what it was expected to say."""


def image(*path):
    """A file of a built guest image."""
    full = os.path.join(CACHE, *path)
    if not os.path.exists(full):
        raise Skip(f"{full} is not there; build it with guest-images/build {path[0]}")
    return full


class Vm:
    """One `hutch run`.  With tty=True its standard input and output are a terminal; wrap is
    a command line before its own, for what is not to be there or not to be permitted."""

    def __init__(self, *arguments, tty=False, stdin=subprocess.PIPE, env=None, verb="run",
                 wrap=(), cwd=None):
        self.arguments = [*wrap, HUTCH, *([verb] if verb else []), *map(str, arguments)]
        self.output = b""  # all that the guest said
        self.seen = 0      # how much of it expect() has consumed
        self.stderr_file = tempfile.TemporaryFile()
        environment = {**os.environ, **(env or {})}
        if tty:
            self.master, slave = pty.openpty()
            stdin = stdout = slave
        else:
            stdout = subprocess.PIPE
        self.process = subprocess.Popen(self.arguments, stdin=stdin, stdout=stdout,
                                        stderr=self.stderr_file, env=environment, cwd=cwd)
        if tty:
            os.close(slave)
            self.reader = self.writer = self.master
        else:
            self.reader = self.process.stdout.fileno()
            self.writer = self.process.stdin.fileno() if self.process.stdin else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def read(self, limit):
        """More output within `limit` seconds; False at its end."""
        if not select.select([self.reader], [], [], max(limit, 0))[0]:
            return True
        try:
            data = os.read(self.reader, 65536)
        except OSError:  # a terminal whose other side is gone
            data = b""
        self.output += data
        return bool(data)

    def expect(self, pattern, limit=60):
        """Waits until the guest has said `pattern` (a regular expression) after what was
        expected before; the match."""
        end = time.monotonic() + limit * PATIENCE
        while True:
            match = re.search(pattern.encode(), self.output[self.seen:], re.MULTILINE)
            if match:
                self.seen += match.end()
                return match
            if time.monotonic() > end or not self.read(end - time.monotonic()):
                raise GuestTimeout(f"the guest did not say {pattern!r}; it said:\n{self.tail()}")

    def send(self, text):
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self.writer, data):]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, limit=60):
        """Its exit status, as a shell shows it."""
        end = time.monotonic() + limit * PATIENCE
        while time.monotonic() < end and self.read(end - time.monotonic()):
            pass
        try:
            status = self.process.wait(max(end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            raise GuestTimeout(f"hutch did not end; the guest said:\n{self.tail()}") from None
        return 128 - status if status < 0 else status

    def text(self):
        return self.output.decode(errors="replace")

    def tail(self):
        return self.text()[-2000:] + "\n--- stderr:\n" + self.stderr()[-2000:]

    def stderr(self):
        self.stderr_file.seek(0)
        return self.stderr_file.read().decode(errors="replace")

    def result(self):
        """The object that --json printed."""
        return json.loads(self.stderr().strip().splitlines()[-1])


def run(*arguments, limit=60, **options):
    """A whole `hutch run` whose input is empty: (status, stdout, stderr)."""
    options.setdefault("stdin", subprocess.DEVNULL)
    with Vm(*arguments, **options) as vm:
        status = vm.wait(limit)
        return status, vm.text(), vm.stderr()


def refused(*arguments, words=(), status=125, leaves=(), cwd=None, **options):
    """hutch must end with `status` and say why in one sentence with all of `words` in it,
    and must leave no file behind but `leaves`; the sentence."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as empty:
        got, out, err = run(*arguments, cwd=cwd or empty, **options)
        left = os.listdir(empty)
    case = f"hutch {' '.join(map(str, arguments))[:300]}"
    equal(got, status, f"{case}: status ({err.strip()[:1000]})")
    check(re.fullmatch(r"hutch: error: [^\x00-\x1f\x7f]+\n", err), f"{case}: not one line: {err!r}")
    equal(out, "", f"{case}: standard output")
    equal(sorted(left), sorted(leaves), f"{case}: files left behind")
    for word in words:
        check(word in err, f"{case}: {word!r} is not in: {err}")
    return err


def sanitized():
    """Whether the hutch that is tested has AddressSanitizer in it, which has memory of its own."""
    with open(HUTCH, "rb") as binary:
        return b"__asan_init" in binary.read()


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def equal(got, expected, message=""):
    check(got == expected, f"{message or 'value'}: got {got!r}, expected {expected!r}")


def usable_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def needs_kvm():
    if not usable_kvm():
        raise Skip("/dev/kvm cannot be opened on this machine")


def stock_kernels_run():
    """Whether this machine's KVM can run them."""
    host = subprocess.run([os.path.join(ROOT, "tests", "which-host")], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()
    return host == "kvm" or "HUTCH_IN_NESTED_HOST" in os.environ


def unshare_network():
    """Moves this process, and what it starts, into a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.unshare(0x40000000) == 0, f"CLONE_NEWNET: {os.strerror(ctypes.get_errno())}")


def in_nested_host(names, cpus, memory, limit):
    """Runs the tests `names` of this program in host B; its lines as they come, and at the
    end its status."""
    process = subprocess.Popen(
        [os.path.join(ROOT, "tests", "nested-host"), "--cpus", str(cpus), "--memory", memory,
         "--timeout", str(limit), "--env", "HUTCH", "--env", "HUTCH_IMAGE_CACHE", "--",
         "python3", sys.argv[0], "--only", *names],
        stdout=subprocess.PIPE, text=True, errors="replace")
    yield from process.stdout
    return process.wait()


def through_nested_host(names, cpus, memory, limit):
    """All tests in host B.  Its emulator hangs, stalls or dies now and then, which is no
    verdict on hutch: what failed there, or was not come to, is tried once more, and that is
    said.  Numbers the lines anew."""
    print("# stock kernels: in host B, as this machine's KVM cannot run them", flush=True)
    number, left, failed = 0, list(names), False
    for last in (False, True):
        for line in in_nested_host(left[:], cpus, memory, limit):
            verdict = re.match(r"(ok|not ok) \d+ - (\w+)(.*)", line)
            if verdict and (last or verdict[1] == "ok"):
                number += 1
                failed = failed or verdict[1] != "ok"
                left.remove("test_" + verdict[2])
                print(f"{verdict[1]} {number} - {verdict[2]}{verdict[3]}", flush=True)
            elif verdict:
                print(f"# failed in host B, to be tried once more: {verdict[2]}", flush=True)
            elif line.startswith("#"):
                print(line, end="", flush=True)
        if not left:
            break
    for name in left:
        number += 1
        print(f"not ok {number} - {name.removeprefix('test_')}: host B failed twice", flush=True)
    return not left and not failed


def chosen(module):
    """The tests that the command line names: by words in the name, or whole after --only."""
    words = sys.argv[1:]
    exact = words[:1] == ["--only"]
    for name, fn in vars(module).items():
        if name.startswith("test_") and callable(fn):
            if not words or (name in words if exact else any(word in name for word in words)):
                yield name, fn


def main(stock_kernels=False, cpus=1, memory="3G", limit=900):
    """Runs the chosen tests of the program that was started; prints TAP."""
    tests = list(chosen(sys.modules["__main__"]))
    print(f"1..{len(tests)}", flush=True)
    if stock_kernels and not stock_kernels_run():
        sys.exit(0 if through_nested_host([name for name, _ in tests], cpus, memory, limit) else 1)
    # Python ignores the first, a background job or nohup(1) the others: not so what we start.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    failed = False
    for number, (name, fn) in enumerate(tests, 1):
        promise = name[len("test_"):]
        try:
            fn()
            print(f"ok {number} - {promise}", flush=True)
        except Skip as why:
            print(f"ok {number} - {promise} # SKIP {why}", flush=True)
        except Exception:  # noqa: BLE001 - whatever a test raises is its failure
            failed = True
            print(f"not ok {number} - {promise}")
            for line in traceback.format_exc().splitlines():
                print("#", line)
            sys.stdout.flush()
    sys.exit(1 if failed else 0)
