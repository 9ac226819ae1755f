#!/usr/bin/env python3
"""hutch test with the stock Debian image, as a pipeline uses it: one matrix of three VMs, in
which a shared folder is tested, a time limit runs out and a kernel panics."""
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree

import hutch
from hutch import Vm, check, equal, image

# Unit tests of this project that need no library but those which Debian's agent needs too.
UNIT_TESTS = ("iov", "param", "report", "virtq_rules", "qcow2_header")

# What a cell does is told by its kernel's command line.  The first waits for a file that is
# only made when its line was seen here, so it passes only if output comes live.
SCRIPT = r"""
case $(cat /proc/cmdline) in
*cell=share*)
    echo "in $PWD with $WORD" >&2
    echo live
    until [ -e go ]; do sleep 0.1; done
    for test in ./test_*; do "$test" --tap || exit 99; done
    echo written >result
    exit 7 ;;
*cell=slow*)
    echo begun
    sleep 100000 ;;
*cell=panic*)
    echo c >/proc/sysrq-trigger
    sleep 1000 ;;
esac
"""
CMDLINE = "console=ttyS0 root=/dev/vda quiet cell="


def make_share(folder):
    for name in UNIT_TESTS:
        shutil.copy(os.path.join(os.path.dirname(hutch.HUTCH), "tests", "unit", "test_" + name),
                    folder)


def make_matrix(path):
    with open(path, "w", encoding="ascii") as file:
        json.dump({"image": "debian", "cpus": 1, "memory": "512M",
                   "cmdline": [CMDLINE + cell for cell in ("share", "slow", "panic")]}, file)


@functools.cache
def ran():
    """What there is to see of the whole run, which the tests look at."""
    patience = str(int(600 * hutch.PATIENCE))
    with tempfile.TemporaryDirectory(prefix="hutch-", dir="/var/tmp") as scratch:
        tmp, share = os.path.join(scratch, "tmp"), os.path.join(scratch, "share")
        matrix, junit = os.path.join(scratch, "matrix.json"), os.path.join(scratch, "junit.xml")
        os.mkdir(tmp)
        os.mkdir(share)
        make_share(share)
        make_matrix(matrix)
        with Vm("--matrix", matrix, "--jobs", 3, "--share", share, "--env", "WORD=a b", "--timeout",
                int(60 * hutch.PATIENCE), "--boot-timeout", patience, "--junit", junit, "--json",
                "--", "/bin/sh", "-c", SCRIPT, verb="test", stdin=subprocess.DEVNULL,
                env={"HUTCH_IMAGES": os.path.dirname(os.path.dirname(image("debian", "config.json"))),
                     "TMPDIR": tmp}) as vm:
            vm.expect(r"cell=share\] live$", 700)
            with open(os.path.join(share, "go"), "w", encoding="ascii"):
                pass
            seen = {"status": vm.wait(700), "out": vm.text(), "err": vm.stderr(),
                    "left": os.listdir(tmp)}
        seen["json"] = json.loads(seen["err"].splitlines()[-1])
        seen["cells"] = {cell["name"].rpartition("=")[2]: cell for cell in seen["json"]["cells"]}
        seen["junit"] = xml.etree.ElementTree.parse(junit).getroot().find("testsuite")
        with open(os.path.join(share, "result"), encoding="ascii") as file:
            seen["result"] = file.read()
    return seen


def lines(cell, text):
    return [line.partition("] ")[2] for line in text.splitlines()
            if line.startswith("[") and f"cell={cell}] " in line]


def test_output_is_live_and_the_commands_own_status_comes_through():
    equal(ran()["cells"]["share"]["reason"], "failed", str(ran()["json"]))
    equal(ran()["cells"]["share"]["status"], 7)
    equal(ran()["status"], 7, "of the first cell in order that did not pass")


def test_the_shared_folder_is_where_the_command_runs_and_what_it_writes_there_stays():
    equal(lines("share", ran()["err"]), ["in /run/hutch with a b"])
    equal(ran()["result"], "written\n")


def test_this_projects_own_unit_tests_pass_inside_a_guest():
    out = lines("share", ran()["out"])
    plans = sum(1 for line in out if re.fullmatch(r"1\.\.[1-9]\d*", line))
    passed = sum(1 for line in out if line.startswith("ok "))
    equal(plans, len(UNIT_TESTS))
    check(passed > 20, f"only {passed} tests passed")
    check(not any(line.startswith("not ok") for line in out), "\n".join(out))


def test_a_time_limit_is_124():
    cell = ran()["cells"]["slow"]
    equal((cell["status"], cell["reason"]), (124, "timeout"))
    equal(lines("slow", ran()["out"]), ["begun"])


def test_a_panic_is_127_with_the_kernels_last_words():
    cell = ran()["cells"]["panic"]
    equal((cell["status"], cell["reason"]), (127, "panic"))
    check("sysrq triggered crash" in ran()["err"], ran()["err"])


def test_junit_tells_failures_from_errors_and_nothing_stays():
    suite = ran()["junit"]
    equal([suite.get(key) for key in ("tests", "failures", "errors")], ["3", "2", "1"])
    check("ok 1 " in suite[0].find("system-out").text, "no output")
    equal(ran()["left"], [])


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="4G", limit=900)
