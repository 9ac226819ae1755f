#!/usr/bin/env python3
"""qemu-guest-agent of a stock Debian guest, as people and scripts reach it: hutch exec, cp,
agent, disk overlay --freeze.  One boot for all of it, as that takes a minute in host B."""
import hashlib
import json
import os
import random
import subprocess
import tempfile
import time

import hutch
from hutch import PATIENCE, Vm, check, equal
from quickstart import copy_of_debian

LOGIN = r"root@debian:~# "
NAME = "agent-test"


class Guest:
    """Debian with its agent, reached by the command line."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(dir="/var/tmp")
        copy_of_debian(self.folder.name, whole=True)  # debugfs reads it
        self.env = {"HUTCH_IMAGES": self.folder.name, "XDG_RUNTIME_DIR": self.folder.name,
                    "HUTCH_SNAPSHOTS": os.path.join(self.folder.name, "snapshots")}
        self.vm = None

    def boot(self):
        """In the background, until the agent answers; then its console."""
        limit = int(400 * PATIENCE)
        began = time.monotonic()
        told = self.hutch("run", "--detach", "debian", "--agent", "--name", NAME, "--cpus", 1,
                          "--timeout", 1500, "--wait", "agent", "--wait-timeout", limit,
                          limit=limit + 60)
        equal(told.stdout.decode(), f"{NAME}\n")
        print(f"# the agent answers after {time.monotonic() - began:.1f} s", flush=True)
        self.hutch("agent", "ping", NAME)
        self.vm = Vm(NAME, verb="console", env=self.env)
        self.vm.expect(LOGIN, 400)
        self.vm.send("bind 'set enable-bracketed-paste off'\n")
        self.vm.expect(LOGIN, 60)

    def end(self):
        """However far it came."""
        if self.vm:
            self.vm.__exit__()
        self.hutch("rm", "--force", NAME, status=None)
        self.folder.cleanup()

    def wait_for_agent(self, limit=120):
        end = time.monotonic() + limit * PATIENCE
        while self.hutch("agent", "ping", NAME, status=None).returncode:
            check(time.monotonic() < end, "the agent does not answer")

    def start(self, *arguments, **options):
        return subprocess.Popen([hutch.HUTCH, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, **self.env}, **options)

    def hutch(self, *arguments, status=0, limit=120, **options):
        """Runs hutch; status None: whatever it is."""
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        if options["stdin"] is None:
            del options["stdin"]
        done = subprocess.run([hutch.HUTCH, *map(str, arguments)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env={**os.environ, **self.env},
                              check=False, timeout=limit * PATIENCE, **options)
        check(status is None or done.returncode == status,
              f"hutch {arguments}: status {done.returncode}: {done.stdout[-500:]} "
              f"{done.stderr[-500:]}")
        return done

    def exec(self, *arguments, **options):
        return self.hutch("exec", NAME, *arguments, **options)

    def clock_is_right(self):
        off = abs(int(self.sh("date +%s")) - time.time())
        check(off < 30 * PATIENCE, f"the guest's clock is {off} s off")

    def sh(self, script, **options):
        return self.exec("--", "sh", "-c", script, **options).stdout.decode()


def exec_has_status_streams_input_and_signals(guest):
    began = time.monotonic()
    done = guest.exec("--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    print(f"# exec of a shell: {time.monotonic() - began:.2f} s", flush=True)
    equal((done.stdout, done.stderr), (b"out\n", b"err\n"))
    equal(guest.exec("-i", "--", "cat", input=b"x" * 70000 + b"\0\n").stdout,
          b"x" * 70000 + b"\0\n")
    big = random.Random(4).randbytes(700_000)
    equal(guest.exec("-i", "--", "sha256sum", input=big).stdout.split()[0].decode(),
          hashlib.sha256(big).hexdigest())
    equal(guest.exec("--env", "WHO=you and I", "--cwd", "/etc", "--", "sh", "-c",
                     'echo "$WHO"; pwd').stdout, b"you and I\n/etc\n")
    guest.exec("--", "sh", "-c", "kill -9 $$", status=137)
    guest.exec("--", "no-such-program", status=127)
    told = json.loads(guest.exec("--json", "--", "sh", "-c", "echo a; exit 3", status=3).stdout)
    equal(told, {"status": 3, "timed-out": False, "stdout": "a\n", "stderr": ""})
    # Its own folder goes as well, while it looks.
    guest.exec("--timeout", 60, "--", "sh", "-c",
               "while ls /tmp | grep -q ^hutch-; do sleep 0.1; done")


def exec_shows_output_while_the_command_runs(guest):
    running = guest.start("exec", NAME, "--", "sh", "-c",
                          "echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo done")
    equal(running.stdout.readline(), b"begun\n")
    # Another one gets its turn meanwhile.
    guest.exec("--", "touch", "/tmp/go")
    equal(running.stdout.read(), b"done\n")
    equal(running.wait(60 * PATIENCE), 0)


def a_time_limit_ends_the_command_in_the_guest(guest):
    done = guest.exec("--timeout", 2, "--", "sh", "-c", "sleep 7777 & echo on; wait", status=124)
    equal(done.stdout, b"on\n")
    check(b"longer than 2 s" in done.stderr, done.stderr)
    equal(guest.sh("pgrep -c -x -f 'sleep 7777' || true"), "0\n")
    running = guest.start("exec", NAME, "--", "sh", "-c", "echo on; exec sleep 8888")
    equal(running.stdout.readline(), b"on\n")
    running.terminate()
    equal(running.wait(60 * PATIENCE), 143)
    equal(guest.sh("pgrep -c -x -f 'sleep 8888' || true"), "0\n")


def several_use_the_agent_at_once(guest):
    several = [guest.start("exec", NAME, "--", "sh", "-c", f"sleep 1; echo {i}; exit {i}")
               for i in range(5)]
    for i, one in enumerate(several):
        equal((one.stdout.read(), one.wait(120 * PATIENCE)), (f"{i}\n".encode(), i))


def the_agent_tells_addresses_and_sets_the_clock(guest):
    addresses = json.loads(guest.hutch("agent", "addresses", NAME, "--json").stdout)
    found = [a for i in addresses for a in i["addresses"]]
    check("127.0.0.1/8" in found, addresses)
    check(any(a.startswith("10.0.2.") for a in found), addresses)
    shown, end = {}, time.monotonic() + 60 * PATIENCE
    while "addresses" not in shown:  # inspect gives the agent half a second
        check(time.monotonic() < end, f"inspect shows no addresses: {shown}")
        shown = json.loads(guest.hutch("inspect", NAME, "--json").stdout)
    check({i["name"] for i in shown["addresses"]} == {i["name"] for i in addresses}, shown)
    info = json.loads(guest.hutch("agent", "info", NAME, "--json").stdout)
    check("Debian" in info["system"] and info["allows"]["guest-exec"], info)
    guest.sh("date -s '2001-02-03 04:05:06'")
    guest.hutch("agent", "set-time", NAME)
    guest.clock_is_right()
    guest.sh("date -s '2001-02-03 04:05:06'")
    guest.hutch("pause", NAME)
    told = json.loads(guest.hutch("resume", NAME, "--json").stdout)
    if told[0].get("clock") != "set":  # within its two seconds, which host B may be too slow for
        print(f"# resume: {told}", flush=True)
        guest.hutch("agent", "set-time", NAME)
    guest.clock_is_right()


def files_and_folders_are_copied_both_ways(guest):
    here = os.path.join(guest.folder.name, "here")
    os.mkdir(here)
    data = random.Random(8).randbytes(8 << 20)
    with open(os.path.join(here, "big"), "wb") as file:
        file.write(data)
    os.chmod(os.path.join(here, "big"), 0o751)
    began = time.monotonic()
    guest.hutch("cp", os.path.join(here, "big"), f"{NAME}:/root", limit=300)
    between = time.monotonic()
    equal(guest.sh("sha256sum </root/big; stat -c %a /root/big").split(),
          [hashlib.sha256(data).hexdigest(), "-", "751"])
    guest.hutch("cp", f"{NAME}:/root/big", os.path.join(here, "back"), limit=300)
    print(f"# 8 MiB: put {between - began:.1f} s, get and a look {time.monotonic() - between:.1f} s",
          flush=True)
    with open(os.path.join(here, "back"), "rb") as file:
        check(file.read() == data, "what came back is not what was sent")
    equal(os.stat(os.path.join(here, "back")).st_mode & 0o777, 0o751)

    tree = os.path.join(here, "tree")
    os.makedirs(os.path.join(tree, "a", "b"))
    with open(os.path.join(tree, "a", "b", "file"), "w", encoding="ascii") as file:
        file.write("deep\n")
    os.symlink("a/b/file", os.path.join(tree, "link"))
    guest.hutch("put", NAME, tree, "/root/copied")
    equal(guest.sh("cat /root/copied/link; ls /root"), "deep\nbig\ncopied\n")
    guest.hutch("get", NAME, "/root/copied", os.path.join(here, "again"))
    equal(subprocess.run(["diff", "-r", tree, os.path.join(here, "again")], check=False).returncode,
          0, "diff of the folders")
    equal(sorted(os.listdir(here)), ["again", "back", "big", "tree"])
    guest.hutch("get", NAME, "/none", here, status=125)


def an_overlay_of_a_frozen_guest_is_consistent(guest):
    disk = json.loads(guest.hutch("disk", "list", NAME, "--json").stdout)[0]
    guest.hutch("disk", "overlay", NAME, disk["device"], "/none/overlay.qcow2", "--freeze",
                status=125)
    # It was thawed all the same, else this would hang.
    guest.sh("echo precious >/root/note")
    guest.hutch("disk", "overlay", NAME, disk["device"],
                os.path.join(guest.folder.name, "overlay.qcow2"), "--freeze")
    guest.sh("echo later >/root/note; sync")
    told = subprocess.run(["debugfs", "-R", "cat /root/note",
                           os.path.join(guest.folder.name, "debian", "root.raw")],
                          check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    equal(told.stdout, b"precious\n", f"what the frozen disk holds ({told.stderr[-300:]})")
    equal(guest.hutch("agent", "freeze", NAME).stdout, b"1 file system frozen\n")
    guest.exec("--", "true", status=125)
    equal(guest.hutch("agent", "thaw", NAME).stdout, b"1 file system thawed\n")


def a_guest_that_was_saved_frozen_is_thawed_by_who_restores_it(guest):
    guest.hutch("snapshot", "create", NAME, "cold", "--freeze", "--quiet")
    guest.hutch("run", "--restore", "cold", "--name", "copy", "--detach")
    done = guest.hutch("exec", "copy", "--", "sh", "-c", "echo written >/root/new; cat /root/new")
    equal(done.stdout, b"written\n")
    guest.hutch("rm", "--force", "copy")


def a_killed_agent_is_a_sentence(guest):
    guest.vm.send("systemctl stop qemu-guest-agent; echo sto''pped\n")
    guest.vm.expect("stopped", 60)
    done = guest.exec("--", "true", status=125)
    check(b"does not answer" in done.stderr and done.stderr.count(b"\n") == 1, done.stderr)
    guest.vm.send("systemctl start qemu-guest-agent\n")
    guest.wait_for_agent()
    guest.exec("--", "true")


CHECKS = [
    exec_has_status_streams_input_and_signals,
    exec_shows_output_while_the_command_runs,
    a_time_limit_ends_the_command_in_the_guest,
    several_use_the_agent_at_once,
    the_agent_tells_addresses_and_sets_the_clock,
    files_and_folders_are_copied_both_ways,
    an_overlay_of_a_frozen_guest_is_consistent,
    a_guest_that_was_saved_frozen_is_thawed_by_who_restores_it,
    a_killed_agent_is_a_sentence,
]


def test_the_agent_of_a_debian_guest_serves_every_verb():
    guest = Guest()
    try:
        guest.boot()
        for promise in CHECKS:
            began = time.monotonic()
            promise(guest)
            print(f"# {promise.__name__}: {time.monotonic() - began:.1f} s", flush=True)
        guest.vm.send("poweroff\n")
        equal(guest.vm.wait(180), 0)
        check(b"power-off" in guest.hutch("wait", NAME).stdout, "it ended otherwise")
        guest.hutch("rm", NAME)
        equal(os.listdir(os.path.join(guest.folder.name, "hutch")), [])
    finally:
        guest.end()


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="4G", limit=1200)
