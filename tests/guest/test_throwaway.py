#!/usr/bin/env python3
"""hutch test with guests that have no agent: how it ends, and that nothing stays."""
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree

import hutch
from hutch import Vm, check, equal, image, refused

SPIN = "test=spin how=hlt"


class Place:
    """Folders of their own for what hutch test makes, which must be empty afterwards."""

    def __init__(self, folder):
        self.scratch = folder
        self.tmp, self.runtime = os.path.join(folder, "tmp"), os.path.join(folder, "run")
        self.env = {"TMPDIR": self.tmp, "XDG_RUNTIME_DIR": self.runtime}
        os.mkdir(self.tmp)
        os.mkdir(self.runtime, 0o700)

    def left(self):
        runs = os.path.join(self.runtime, "hutch")
        return os.listdir(self.tmp) + (os.listdir(runs) if os.path.isdir(runs) else [])

    def until_empty(self, limit=20):
        until(lambda: not self.left(), f"something stays: {self.left()}", limit)


def until(condition, message, limit=20):
    end = time.monotonic() + limit * hutch.PATIENCE
    while not condition():
        check(time.monotonic() < end, message)
        time.sleep(0.01)


@contextlib.contextmanager
def place():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-", dir="/var/tmp") as folder:
        yield Place(folder)


def started(where, cmdline, *arguments, command=("true",)):
    return Vm("--kernel", image("payload", "payload.elf"), "--cmdline", cmdline, "--memory", "64M",
              *arguments, "--", *command, verb="test", env=where.env, stdin=subprocess.DEVNULL)


def ran(where, cmdline, *arguments):
    """(status, standard error) of a whole run."""
    with started(where, cmdline, *arguments) as vm:
        status = vm.wait()
        equal(vm.text(), "", "standard output")
        return status, vm.stderr()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def family(vm):
    """The keeper and the monitor of a hutch test that runs."""
    until(lambda: children(vm.process.pid), "there is no keeper")
    keeper = children(vm.process.pid)[0]
    until(lambda: children(keeper), "there is no monitor")
    return keeper, children(keeper)[0]


def is_alive(pid):
    """Whether one of its threads is, which may hold its files longer than the first one."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] != "Z":
                    return True
    except (FileNotFoundError, ProcessLookupError):
        pass
    return False


# ---- how it ends ---------------------------------------------------------------------------


def test_a_guest_without_an_agent_is_125_with_the_end_of_its_console():
    with place() as where:
        status, err = ran(where, SPIN, "--boot-timeout", 1, "--json")
        equal(status, 125, err)
        check("error: the guest's agent did not answer within 1 s" in err, err)
        check("console said last:\nspin ready\n" in err, err)
        equal(json.loads(err.splitlines()[-1])["reason"], "error")
        equal(where.left(), [])


def test_a_panic_is_127_and_a_crash_126():
    with place() as where:
        for cmdline, status, reason, line in (("test=panic", 127, "panic", "panic events="),
                                              ("test=crash", 126, "crash", "")):
            got, err = ran(where, cmdline, "--json")
            equal(got, status, err)
            equal(json.loads(err.splitlines()[-1])["reason"], reason)
            check(line in err, err)
        equal(where.left(), [])


def test_a_guest_that_powers_off_before_the_command_is_125():
    with place() as where:
        with Vm("--image", os.path.dirname(image("payload", "config.json")), "--cmdline",
                "test=exit exit=0", "--", "true", verb="test", env=where.env) as vm:
            status, err = vm.wait(), vm.stderr()
        equal(status, 125)
        check("ended before the command did: the guest powered off" in err, err)


def test_a_console_that_floods_holds_nobody_up_and_shows_its_end():
    with place() as where:
        status, err = ran(where, "test=serial-storm count=100")
        equal(status, 125, err)
        check("PASS serial-storm" in err, err[-2000:])
        check(len(err.splitlines()) < 70, err)


# ---- what stays ----------------------------------------------------------------------------


def test_signals_end_the_guest_and_leave_nothing():
    with place() as where:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with started(where, SPIN) as vm:
                _, monitor = family(vm)
                vm.signal(number)
                equal(vm.wait(), 128 + number)
                check(not is_alive(monitor), "the monitor outlives hutch test")
            equal(where.left(), [])


def test_a_killed_hutch_test_leaves_nothing():
    with place() as where:
        with started(where, SPIN) as vm:
            keeper, monitor = family(vm)
            vm.signal(signal.SIGKILL)
            equal(vm.wait(), 128 + 9)
            until(lambda: not is_alive(monitor) and not is_alive(keeper), "processes stay")
        where.until_empty()


def test_what_stays_when_the_keeper_is_killed_too_the_next_one_removes():
    with place() as where:
        with started(where, SPIN) as vm:
            keeper, monitor = family(vm)
            until(lambda: len(where.left()) == 2, "there is no run folder")
            os.kill(keeper, signal.SIGSTOP)  # so that it cannot be quicker
            vm.signal(signal.SIGKILL)
            vm.wait()
            os.kill(keeper, signal.SIGKILL)
            until(lambda: not is_alive(monitor), "the monitor outlives its keeper")
        check(where.left(), "nothing is left to remove")
        ran(where, "test=exit exit=0")
        equal(where.left(), [])


def test_a_matrix_that_is_killed_leaves_nothing():
    with place() as where:
        matrix = os.path.join(where.scratch, "matrix.json")
        with open(matrix, "w", encoding="ascii") as file:
            json.dump({"cpus": [1, 2, 3]}, file)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with started(where, SPIN, "--matrix", matrix, "--jobs", 2) as vm:
                until(lambda: len(where.left()) == 4, "two cells do not run")
                vm.signal(number)
                equal(vm.wait(), 128 + number)
            where.until_empty()


# In a mount namespace of its own, where nobody in particular may open /dev/kvm.
AS_NOBODY = """
mknod -m 666 "$1/kvm" c 10 232 && mount --bind "$1/kvm" /dev/kvm || exit 99
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups env -u XDG_RUNTIME_DIR "$@"
"""


def test_without_root_and_a_runtime_folder_it_works_as_well():
    with place() as where:
        os.chmod(where.scratch, 0o755)
        os.chmod(where.tmp, 0o777)
        with Vm("--kernel", image("payload", "payload.elf"), "--cmdline", "test=panic", "--memory",
                "64M", "--", "true", verb="test", env={"TMPDIR": where.tmp},
                wrap=("unshare", "-m", "sh", "-c", AS_NOBODY, "sh", where.scratch)) as vm:
            status = vm.wait()
            if status in (1, 99, 126) and "hutch:" not in vm.stderr():
                raise hutch.Skip("nobody cannot be given /dev/kvm here: " + vm.stderr().strip())
            equal(status, 127, vm.stderr())
        equal(where.left(), [])


def test_an_image_is_not_written_to():
    with place() as where:
        disk = os.path.join(where.scratch, "disk.raw")
        with open(disk, "wb") as file:
            file.write(os.urandom(4 << 20))
        with open(disk, "rb") as file:
            before = hashlib.sha256(file.read()).digest()
        status, err = ran(where, "test=blk size=4194304", "--image", disk)
        check("PASS blk" in err, err)
        equal(status, 125)
        with open(disk, "rb") as file:
            equal(hashlib.sha256(file.read()).digest(), before, "the image")
        equal(where.left(), [])


def test_what_an_image_names_itself_is_not_shown_through_an_overlay():
    with place() as where:
        secret, disk = (os.path.join(where.scratch, name) for name in ("secret.raw", "disk.qcow2"))
        with open(secret, "wb") as file:
            file.truncate(1 << 20)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", disk],
                       check=True)
        status, err = ran(where, SPIN, "--image", disk, "--boot-timeout", 1)
        equal(status, 125)
        check("which hutch did not put there" in err and "answer" not in err, err)
        equal(where.left(), [])


# ---- kept ----------------------------------------------------------------------------------


def test_a_vm_is_kept_on_failure_until_somebody_ends_it():
    with place() as where:
        status, err = ran(where, SPIN, "--boot-timeout", 1, "--keep-on-failure")
        equal(status, 125)
        name = re.search(r"the VM '(test-\w+)' is kept, but .* 'hutch control \1' ", err)[1]
        with started(where, "test=exit exit=0") as other:  # whose sweep spares it
            other.wait()
        done = subprocess.run([hutch.HUTCH, "control", name, "quit"], env={**os.environ, **where.env},
                              stdout=subprocess.DEVNULL, timeout=30 * hutch.PATIENCE, check=False)
        equal(done.returncode, 0, "hutch control quit")
        where.until_empty()


def test_of_a_vm_that_crashed_its_disks_are_kept():
    with place() as where:
        status, err = ran(where, "test=panic", "--keep-on-failure")
        equal(status, 127)
        config = re.search(r"'hutch run --config (\S+)'", err)[1]
        ran(where, "test=exit exit=0")
        with Vm("--config", config, env=where.env) as again:
            equal(again.wait(), 127, again.stderr())
        equal(len(where.left()), 1)


# ---- many ----------------------------------------------------------------------------------


def test_a_matrix_reports_each_cell_and_the_first_failure():
    with place() as where:
        matrix, junit = (os.path.join(where.scratch, name) for name in ("matrix.json", "junit.xml"))
        with open(matrix, "w", encoding="ascii") as file:
            json.dump({"cmdline": ["test=exit exit=0", "test=panic"], "memory": ["64M", "128M"],
                       "exclude": {"memory": "128M", "cmdline": "test=panic"}}, file)
        with Vm("--kernel", image("payload", "payload.elf"), "--matrix", matrix, "--junit", junit,
                "--json=" + junit + ".json", "--", "true", verb="test", env=where.env) as vm:
            equal(vm.wait(), 125)
            err = vm.stderr()
        check("0 of 3 passed" in err, err)
        check(re.search(r"^hutch: cmdline=test=panic,memory=64M: panic", err, re.M), err)
        suite = xml.etree.ElementTree.parse(junit).getroot().find("testsuite")
        equal([suite.get(key) for key in ("tests", "failures", "errors")], ["3", "0", "3"])
        equal([case.get("name") for case in suite],
              ["cmdline=test=exit exit=0,memory=64M", "cmdline=test=exit exit=0,memory=128M",
               "cmdline=test=panic,memory=64M"])
        check("panic events=" in suite[2].find("error").text, "no console")
        with open(junit + ".json", encoding="utf-8") as file:
            result = json.load(file)
        equal([cell["reason"] for cell in result["cells"]], ["error", "error", "panic"])
        equal(where.left(), [])


# ---- what is refused -----------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_anything_runs():
    kernel = ("--kernel", image("payload", "payload.elf"))
    for arguments, words in (
            (("--", "true"), ["no kernel to boot"]),
            (("--image", "no-such-image", "--", "true"), ["no image 'no-such-image'"]),
            (("--image", "/dev/null", "--", "true"), ["'/dev/null' is a disk", "--kernel"]),
            (kernel, ["something is missing"]),
            ((*kernel, "--env", "A", "--", "true"), ["--env: 'A' is not NAME=VALUE"]),
            ((*kernel, "--workdir", "sub", "--", "true"), ["--workdir", "--share"]),
            ((*kernel, "--share", "/no/such", "--", "true"), ["'/no/such' is no folder"]),
            ((*kernel, "--cpus", "many", "--", "true"), ["--cpus"]),
            ((*kernel, "--matrix", "/no/such", "--", "true"), ["matrix '/no/such'"]),
            ((*kernel, "--junit", "/no/such/file", "--", "true"), ["'/no/such/file'"]),
            ((*kernel, "--timeout", "-1", "--", "true"), ["--timeout"])):
        refused(*arguments, words=words, verb="test")


if __name__ == "__main__":
    hutch.main()
