#!/usr/bin/env python3
"""The guest agent's port, with guests that have no agent or are none: what they do costs
hutch a time limit and is one sentence.  test_agent.py has the real agent."""
import os
import subprocess
import tempfile
from contextlib import contextmanager

import hutch
from hutch import Vm, check, equal, image, refused


@contextmanager
def machine(*arguments, test="test=spin how=hlt", says="spin ready"):
    """A running VM named vm with an agent's port; vm.folder is where run folders are."""
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        with Vm("--kernel", image("payload", "payload.elf"), "--cmdline", test, "--name", "vm",
                "--agent", *arguments) as vm:
            vm.folder = os.path.join(runtime, "hutch")
            vm.expect(says)
            yield vm


def hutch_says(*arguments, status=0):
    """What hutch prints; its one sentence if a status is expected."""
    done = subprocess.run([hutch.HUTCH, *arguments], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, check=False, timeout=60 * hutch.PATIENCE)
    equal(done.returncode, status, f"hutch {arguments}: status ({done.stderr.strip()})")
    check(not status or done.stderr.count("\n") == 1, f"not one sentence: {done.stderr!r}")
    return done.stderr if status else done.stdout


def test_a_guest_without_an_agent_is_a_sentence_and_its_run_folder_goes():
    with machine() as vm:
        said = hutch_says("agent", "ping", "vm", "--timeout", "1", status=125)
        check("does not answer within 1 s" in said, said)
        equal(sorted(os.listdir(os.path.join(vm.folder, "vm"))),
              ["agent.lock", "agent.sock", "config.json", "control.sock", "lock"])
        hutch_says("control", "vm", "quit")
        vm.wait()
        equal(os.listdir(vm.folder), [])
        said = hutch_says("exec", "vm", "--", "true", status=125)
        check("no VM named 'vm'" in said, said)


def test_a_guest_that_sends_back_what_it_gets_and_powers_off_is_believed_nothing():
    with machine(test="test=console", says="said hello") as vm:
        said = hutch_says("agent", "ping", "vm", "--timeout", "30", status=125)
        check("does not run any more" in said, said)
        equal(vm.wait(), 0)


def test_what_a_killed_monitor_leaves_is_no_vm():
    with machine() as vm:
        vm.process.kill()
        vm.process.wait()
        said = hutch_says("exec", "vm", "--", "true", status=125)
        check("does not run any more" in said, said)
        with Vm(*vm.arguments[1:-1], verb=None) as next_vm:  # without --agent
            next_vm.expect("spin ready")
            said = hutch_says("exec", "vm", "--", "true", status=125)
            check("start it with --agent" in said, said)
            hutch_says("control", "vm", "quit")
            next_vm.wait()
        equal(os.listdir(vm.folder), [])


def test_a_vm_without_the_port_is_told_apart():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        with Vm("--kernel", image("payload", "payload.elf"), "--cmdline", "test=spin how=hlt",
                "--name", "vm") as vm:
            vm.expect("spin ready")
            check("start it with --agent" in hutch_says("agent", "ping", "vm", status=125),
                  "no word of --agent")
    refused("--kernel", image("payload", "payload.elf"), "--agent", words=["--agent", "--name"])


if __name__ == "__main__":
    hutch.main()
