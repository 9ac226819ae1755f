#!/usr/bin/env python3
"""hutch on a terminal: raw while the VM runs, the guest's keys untouched, hutch's own
behind Ctrl-A, and given back as it was whatever ends it."""
import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import termios
import time

import hutch
from hutch import Vm, check, equal, image, run

CTRL_A = "\x01"
# Settings that nobody has by default, to be found again.
SETTINGS = "-ixon -echoe erase ^H eof ^Y"
SET_UP = ["sh", "-c", f'stty {SETTINGS}; exec "$@"', "sh"]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def guest(test="serial-echo"):
    hutch.needs_kvm()
    return ("--kernel", image("payload", "payload.elf"), "--cmdline", f"test={test}")


def settings_before():
    """What a new terminal has after SET_UP."""
    master, slave = os.openpty()
    subprocess.run(["stty", *SETTINGS.split()], stdin=slave, check=True)
    attributes = termios.tcgetattr(slave)
    os.close(slave)
    os.close(master)
    return attributes


def is_raw(vm):
    return not termios.tcgetattr(vm.master)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def wait_until_raw(vm):
    end = time.monotonic() + 10 * hutch.PATIENCE
    while not is_raw(vm):
        check(time.monotonic() < end, "the terminal was not taken")
        time.sleep(0.01)


@contextlib.contextmanager
def terminal(*arguments, wrap=SET_UP):
    with Vm(*guest(*arguments), tty=True, wrap=wrap) as vm:
        vm.expect("ready")
        check(is_raw(vm), "the terminal is not raw while the VM runs")
        yield vm


def check_restored(vm, how):
    equal(termios.tcgetattr(vm.master), settings_before(), f"the terminal after {how}")


def test_the_terminal_is_given_back_after_a_normal_end():
    with terminal() as vm:
        vm.send("\x04")
        equal(vm.wait(), 0)
        check_restored(vm, "a power-off")


def test_ctrl_a_x_quits_and_gives_the_terminal_back():
    for guest_does in ("serial-echo", "spin", "spin how=hlt"):
        with terminal(guest_does) as vm:
            vm.send(CTRL_A + "x")
            equal(vm.wait(), 130)
            check_restored(vm, "Ctrl-A x")


def test_ctrl_a_x_quits_while_the_guest_reads_nothing():
    with terminal("spin") as vm:
        vm.send("x" * 3000)
        vm.send(CTRL_A + "x")
        equal(vm.wait(), 130)


def test_a_signal_gives_the_terminal_back():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with terminal() as vm:
            vm.signal(number)
            equal(vm.wait(), 128 + number)
            check_restored(vm, number.name)


def test_a_crash_of_hutch_gives_the_terminal_back_and_is_still_a_crash():
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
                   signal.SIGQUIT):
        with terminal() as vm:
            vm.signal(number)
            status = vm.wait()
            check(status == 128 + number or "Sanitizer" in vm.stderr(), f"{number}: {status}")
            check_restored(vm, number.name)


def test_a_crash_of_the_guest_gives_the_terminal_back():
    with Vm(*guest("crash"), tty=True, wrap=SET_UP) as vm:
        equal(vm.wait(), 126)
        check_restored(vm, "a triple fault")


def test_an_error_after_the_terminal_was_taken_gives_it_back():
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as big:
        big.truncate(1 << 30)
        with Vm(*guest(), "--initrd", big.name, tty=True, wrap=SET_UP) as vm:
            equal(vm.wait(), 125)
            equal(vm.output, b"")
            check_restored(vm, "an error")


def test_the_terminal_is_given_back_while_stopped_and_taken_again():
    with terminal(wrap=["setsid", "--ctty", *SET_UP]) as vm:
        pid = vm.process.pid
        vm.signal(signal.SIGTSTP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        check_restored(vm, "SIGTSTP")
        vm.signal(signal.SIGCONT)
        wait_until_raw(vm)
        vm.send("on we go\x04")
        vm.expect("on we go")
        equal(vm.wait(), 0)
        check_restored(vm, "the end")


def test_a_vm_in_the_background_leaves_the_terminal_alone():
    script = f'stty {SETTINGS}; set -m; "$@" <&0 & wait; stty -g'
    with Vm(*guest("hello"), tty=True, wrap=["setsid", "--ctty", "sh", "-c", script, "sh"]) as vm:
        vm.expect("PASS hello")
        equal(vm.wait(), 0)
        check_restored(vm, "a run in the background")


def test_every_key_reaches_the_guest_as_it_was_typed():
    keys = bytes(b for b in range(256) if b not in (1, 4, 10))
    with terminal() as vm:
        vm.send(keys)
        vm.expect("\x03")
        vm.send("\x04")
        vm.expect(f"bytes={len(keys)} ")
        equal(vm.wait(), 0)
        check(keys in vm.output, f"the guest got {vm.output!r}")


def test_ctrl_a_twice_or_with_a_sends_one():
    with terminal() as vm:
        vm.send(CTRL_A + "a" + "<" + CTRL_A + CTRL_A + ">")
        vm.expect("\x01<\x01>")
        vm.send("\x04")
        equal(vm.wait(), 0)


def test_ctrl_a_h_lists_the_keys():
    with terminal() as vm:
        vm.send(CTRL_A + "h" + "then")
        vm.expect("then")
        vm.send("\x04")
        equal(vm.wait(), 0)
        for key in "xpnbah":
            check(f"Ctrl-A {key}" in vm.stderr(), f"Ctrl-A {key} is not in {vm.stderr()}")


def test_lines_of_hutch_begin_at_the_left_of_a_raw_terminal():
    with Vm(*guest(), tty=True, wrap=["sh", "-c", 'exec "$@" 2>&1', "sh"]) as vm:
        vm.expect("ready\r+\n")  # a whole line: the help may come between two of its bytes
        vm.send(CTRL_A + "h")
        vm.expect("^hutch: Ctrl-A x")
        vm.expect("\r\nhutch: Ctrl-A p")
        vm.send("\x04")
        equal(vm.wait(), 0)


def test_ctrl_a_is_the_guests_where_there_is_no_terminal():
    with Vm(*guest()) as vm:
        vm.expect("ready")
        vm.send(CTRL_A + "x\x04")
        vm.expect("\x01x")
        equal(vm.wait(), 0)


def test_output_to_a_file_with_input_from_a_terminal_works():
    with tempfile.NamedTemporaryFile() as file:
        with Vm(*guest(), tty=True, wrap=["sh", "-c", f'exec "$@" >{file.name}', "sh"]) as vm:
            wait_until_raw(vm)
            vm.send("text\x04")
            equal(vm.wait(), 0)
        check(b"serial-echo bytes=" in file.read(), "nothing came to the file")


def test_no_terminal_is_needed():
    equal(run(*guest("hello"), wrap=["setsid", "--wait"])[0], 0)


if __name__ == "__main__":
    hutch.main()
