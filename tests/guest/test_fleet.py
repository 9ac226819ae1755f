#!/usr/bin/env python3
"""VMs in the background, and the verbs about them, from outside: as scripts use them, and
with monitors that are killed in the middle."""
import contextlib
import json
import os
import pty
import random
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time

import hutch
from hutch import Skip, Vm, check, equal, image

LIMIT = 60 * hutch.PATIENCE
READY = "test=button program=1"  # speaks, then waits for the power button
PATIENT_S = round(1 + hutch.PATIENCE)  # long enough for a VM to begin to run


def kernel(test=READY):
    return ["--kernel", image("payload", "payload.elf"), "--memory", "32M", "--debug-exit",
            "--cmdline", test]


class Fleet:
    """The VMs of a run folder of its own."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.folder = os.path.join(runtime, "hutch")
        self.env = {**os.environ, "XDG_RUNTIME_DIR": runtime}

    def start(self, *arguments, **options):
        return subprocess.Popen([hutch.HUTCH, *map(str, arguments)], env=self.env, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def ask(self, *arguments):
        """A verb: (status, stdout, stderr)."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"hutch {arguments} hangs") from None
        return process.returncode, out, err

    def __call__(self, *arguments, status=0):
        """What a verb prints; its sentence if a status is expected."""
        got, out, err = self.ask(*arguments)
        equal(got, status, f"hutch {' '.join(map(str, arguments))} ({out}{err.strip()})")
        if status and not out:
            err = "".join(line for line in err.splitlines(True) if ": waits for " not in line)
            check(err.count("\n") == 1 and err.startswith("hutch: error: "), f"no sentence: {err!r}")
            return err
        return out

    def run(self, name, *arguments, test=READY, status=0):
        return self("run", "-d", "--name", name, *kernel(test), *arguments, status=status)

    def path(self, name, file=""):
        return os.path.join(self.folder, name, file)

    def state(self, name):
        """A busy machine may keep a monitor from answering for the second that it has."""
        for _ in range(10):
            state = json.loads(self("status", "--json", name))["state"]
            if state != "unresponsive":
                break
        return state

    def pid(self, name):
        return json.loads(self("status", "--json", name))["pid"]

    def names(self):
        return self("ps", "--quiet").splitlines()


def gone(pid):
    """Whether a process is no more, or only a zombie that nobody asks for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def fleet():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime:
        f = Fleet(runtime)
        try:
            yield f
        finally:
            f("rm", "--all", "--force")
        equal(os.listdir(f.folder), [], "left in the run folder")


# ---- going into the background -----------------------------------------------------------


def test_detached_it_runs_on_alone_and_leaves_how_it_ended_until_rm():
    with fleet() as f:
        ours, theirs = os.pipe()
        # communicate() would not return if the monitor kept its pipes.
        starting = f.start("run", "-d", "--name", "one", *kernel(), "--rng", pass_fds=[theirs])
        os.close(theirs)
        equal(starting.communicate(timeout=LIMIT), ("one\n", ""))
        check(select.select([ours], [], [], LIMIT)[0], "the monitor keeps what it inherited")
        os.close(ours)
        pid = f.pid("one")
        equal(os.getsid(pid), pid)
        equal({os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1)}, {"/dev/null"})
        equal(sorted(os.listdir(f.path("one"))),
              ["config.json", "console.log", "console.sock", "control.sock", "lock", "log"])
        equal(os.stat(f.path("one")).st_mode & 0o777, 0o700)
        f("stop", "one")
        check(gone(pid), "the monitor is still there")
        equal(sorted(os.listdir(f.path("one"))),
              ["config.json", "console.log", "log", "result.json"])
        with open(f.path("one", "result.json"), encoding="utf-8") as r:
            result = json.load(r)
        equal((result["status"], result["reason"]), (0, "power-off"))
        equal(set(result), {"status", "reason", "detail", "times", "counters"})
        equal(f("logs", "one").splitlines(),
              ["button ready", "a program speaks", "button pressed", "PASS button"])
        f("rm", "one")
        check(not os.path.exists(f.path("one")), "rm leaves its folder")


def test_what_fails_is_said_with_its_status_and_nothing_is_left():
    with fleet() as f:
        for arguments, word in ((["--kernel", "/nonexistent"], "/nonexistent"),
                                ([*kernel(), "--disk", "/nonexistent"], "/nonexistent"),
                                ([*kernel(), "--wait", "soon"], "boot"),
                                ([*kernel(), "--wait", "tcp:22"], "hostfwd"),
                                ([*kernel(), "--wait", "agent"], "--agent"),
                                ([], "kernel")):
            check(word in f("run", "-d", "--name", "x", *arguments, status=125), word)
            check(not os.path.exists(f.path("x")), f"{arguments}: a folder is left")
        check("--name" in f("run", "-d", *kernel(), status=125), "no name")
        check("--detach" in f("run", "--name", "x", *kernel(), "--wait", "boot", status=125), "both")
        equal(f.names(), [])


def test_of_many_that_take_one_name_one_gets_it():
    with fleet() as f:
        racers = [f.start("run", "-d", "--name", "x", *kernel()) for _ in range(8)]
        ends = [(racer.wait(LIMIT), *racer.communicate()) for racer in racers]
        equal(sorted(end[0] for end in ends), [0] + [125] * 7)
        for status, _, err in ends:
            check(not status or "named 'x' runs already" in err, err)
        equal(f.state("x"), "running")
        check("runs already" in f.run("x", status=125), "the name is taken")


def test_a_name_is_made_from_the_images_and_an_ended_vms_is_taken_again():
    with fleet() as f:
        folder = os.path.join(f.runtime, "images", "tiny")
        os.makedirs(folder)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as c:
            json.dump({"kernel": image("payload", "payload.elf"), "memory": "32M",
                       "cmdline": READY}, c)
        f.env["HUTCH_IMAGES"] = os.path.dirname(folder)
        equal([f("run", "-d", "tiny") for _ in range(3)], ["tiny\n", "tiny-2\n", "tiny-3\n"])
        f("stop", "tiny-2")
        equal(f.state("tiny-2"), "ended")
        equal(json.loads(f("run", "-d", "tiny", "--json"))["name"], "tiny-2")
        equal(f.state("tiny-2"), "running")


def test_it_returns_when_a_program_speaks_or_says_why_that_will_not_be():
    with fleet() as f:
        started = time.monotonic()
        f.run("a", "--wait", "boot")
        print(f"# ready after {(time.monotonic() - started) * 1000:.1f} ms")
        err = f.run("b", "--wait", "boot", "--wait-timeout", PATIENT_S, test="test=button", status=124)
        check("not ready" in err and "hutch console b" in err, err)
        equal(f.state("b"), "running")
        f.run("ag", "--agent", "--wait", "agent", "--wait-timeout", PATIENT_S, status=124)
        equal(f.state("ag"), "running")
        err = f.run("c", "--wait", "boot", test="test=panic", status=127)
        check("panicked" in err, err)
        err = f.run("d", "--wait", "boot", test="test=exit exit=3", status=3)
        check("ended before it was ready" in err, err)
        err = f.run("e", "--wait", "boot", test="test=hello", status=125)
        check("powered off" in err, err)
        f.run("f", "--wait", "boot", "--serial", "none", "--console", "stdio",
              test="test=console answer=0")


# ---- the verbs ---------------------------------------------------------------------------


def test_vms_are_listed_paused_renamed_and_ended():
    with fleet() as f:
        for name in ("a", "b", "c"):
            f.run(name)
        equal(json.loads(f("pause", "a", "b", "--json")),
              [{"name": "a", "state": "paused"}, {"name": "b", "state": "paused"}])
        equal([f.state(name) for name in ("a", "b", "c")], ["paused", "paused", "running"])
        f("resume", "--all")
        f("reset", "a")
        equal(f("status", "a"), "running\n")
        f("rename", "a", "new name")
        equal(f.names(), ["b", "c", "new name"])
        equal(json.loads(f("control", "new name", "query-name"))["name"], "new name")
        equal(json.loads(f("config", "show", "new name"))["name"], "new name")
        f("console", "--log", "new name")
        check("'b'" in f("rename", "new name", "b", status=125), "b is taken")
        inspected = json.loads(f("inspect", "--json", "new name"))
        equal(len(inspected["vcpus"]), 1)
        equal(inspected["config"]["memory"]["size"], "32M")
        check(all(os.path.exists(path) for path in inspected["files"].values()), inspected)
        check("runs; 'hutch stop" in f("rm", "c", status=125), "rm of one that runs")
        f("stop", "new name", "c")
        f("rename", "c", "d")
        table = {row["name"]: row for row in json.loads(f("ps", "--json"))}
        equal({name: row["state"] for name, row in table.items()},
              {"b": "running", "d": "ended", "new name": "ended"})
        equal(table["d"]["result"]["reason"], "power-off")
        equal(json.loads(f("ps", "--json", "--running"))[0]["name"], "b")
        check("power-off, status 0" in f("ps"), "the table does not say how it ended")
        f("rm", "--all")
        equal(f.names(), ["b"])


def test_what_can_be_set_is_listed_and_what_is_not_given_stays():
    with fleet() as f:
        disk = os.path.join(f.runtime, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(8 << 20)
        f.run("a", "--disk", f"{disk},bps-write=2M", "--net", "user")

        def now():
            return json.loads(f("set", "a", "--json"))

        before = now()
        equal(before["disk0.size"], 8 << 20)
        equal((before["disk0.bps-write"], before["disk0.bps-read"]), (2 << 20, 0))
        equal(before["net0.link"], "up")
        changes = {"disk0.size": 16 << 20, "disk0.bps-read": 3 << 20, "disk0.iops": 500,
                   "disk0.iops-burst": 900, "net0.link": "down"}
        told = f("set", "--json", "a", "disk0.size=16M", "net0.link=down", "disk0.iops=500",
                 "disk0.bps-read=3M", "disk0.iops-burst=900")
        equal(json.loads(told), {**before, **changes})
        equal(now(), {**before, **changes})
        equal(os.stat(disk).st_size, 16 << 20)
        # What is asked by other ways is the same.
        inserted = json.loads(f("disk", "list", "a", "--json"))[0]["inserted"]
        equal((inserted["bps_rd"], inserted["bps_wr"], inserted["iops_max"]),
              (3 << 20, 2 << 20, 900))
        devices = {d["id"]: d for d in json.loads(f("control", "a", "x-hutch-query-devices"))}
        equal((devices["net0"]["link"], "link" in devices["disk0"]), (False, False))
        f("disk", "limit", "a", "disk0", "--iops", 5)
        f("control", "a", "set_link", "name=net0", "up=true")
        equal({key: now()[key] for key in ("disk0.iops", "disk0.bps-read", "net0.link")},
              {"disk0.iops": 5, "disk0.bps-read": 0, "net0.link": "up"})
        listed = {line.split()[0]: line.split()[1] for line in f("set", "a").splitlines()}
        equal((set(listed), listed["disk0.size"], listed["net0.link"]), (set(before), "16M", "up"))
        before = now()
        for pair, word in (("disk9.bps=1", "disk0, net0"), ("bps=1", "disk0, net0"),
                           ("disk0.bpss=1", "disk0.bps?"), ("disk0.link=up", "bps-read"),
                           ("disk0.bps", "no value"), ("net0.link=on", "down, up"),
                           ("disk0.size=much", "size")):
            check(word in f("set", "a", "disk0.iops=77", pair, status=125), pair)
        equal(now(), before)  # all is checked before the first is done
        more = os.path.join(f.runtime, "more.raw")
        with open(more, "wb") as file:
            file.truncate(1 << 20)
        equal(json.loads(f("disk", "add", "--json", "a", more)), {"id": "disk1"})
        equal(now()["disk1.size"], 1 << 20)
        f.run("bare")
        equal(f("set", "bare"), "")
        check("no device" in f("set", "bare", "memory=1G", status=125), "nothing to set")


def test_several_failures_are_all_told_and_the_others_are_done():
    with fleet() as f:
        f.run("a")
        status, _, err = f.ask("pause", "x", "a", "y")
        equal(status, 125)
        check("'x'" in err and "'y'" in err and err.count("\n") == 2, err)
        equal(f.state("a"), "paused")
        for verb in ("status", "inspect", "logs", "console", "wait", "kill", "rm", "stop",
                     "pause", "events", "set"):
            check("'x'" in f(verb, "x", status=125), verb)
        check("--all" in f("stop", status=125), "which VM")


def test_stop_waits_for_the_guest_and_pulls_the_plug_only_when_told():
    with fleet() as f:
        f.run("obeys")
        f.run("paused")
        f.run("deaf", test="test=spin how=hlt")
        f("pause", "paused")
        f("stop", "obeys", "paused")
        check("--force" in f("stop", "deaf", "--timeout", 1, status=125), "a deaf guest")
        equal(f.state("deaf"), "running")
        f("stop", "--all", "--timeout", 0, "--force")
        equal(f("wait", "deaf", status=143), "quit: quit by the control socket\n")
        f("stop", "deaf")  # it is


def test_wait_has_the_vms_own_status_however_it_ends():
    with fleet() as f:
        f.run("a")
        check("has not ended" in f("wait", "a", "--timeout", 1, status=124), "timeout")
        waiting = f.start("wait", "a", "--json")
        f("stop", "a")
        equal(waiting.wait(LIMIT), 0)
        equal(json.loads(waiting.communicate()[0])["reason"], "power-off")
        f.run("b", test="test=exit exit=7")
        f("wait", "b", status=7)
        f.run("k")
        waiting = f.start("wait", "k")
        f("kill", "k")
        equal(waiting.wait(LIMIT), 125)
        check("was killed" in waiting.communicate()[1], "killed")
        with Vm("--name", "fg", *kernel(), env=f.env) as vm:  # in the foreground nothing is kept
            vm.expect("speaks")
            waiting = f.start("wait", "fg")
            limit = time.monotonic() + LIMIT
            while not clients(vm.process.pid) and time.monotonic() < limit:
                time.sleep(0.01)
            f("stop", "fg")
            equal(vm.wait(), 0)
            equal(waiting.wait(LIMIT), 0)
            waiting.communicate()
        check(not os.path.exists(f.path("fg")), "a foreground VM leaves its folder")


def clients(pid):
    """How many connections a monitor has, beyond its listening socket."""
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return max(sum(link.startswith("socket:") for link in links) - 1, 0)


def test_a_killed_monitor_is_told_of_and_its_name_can_be_taken():
    with fleet() as f:
        f.run("a", "--wait", "boot")
        os.kill(f.pid("a"), signal.SIGKILL)
        check("was killed" in f("wait", "a", status=125), "wait")  # for its last thread
        equal(f.state("a"), "dead")
        check("its monitor was killed" in f("ps"), "ps does not tell")
        for verb in ("pause", "kill", "console"):
            check("was killed" in f(verb, "a", status=125), verb)
        equal(f("logs", "a").splitlines()[0], "button ready")
        f.run("a")
        equal(f.state("a"), "running")


def test_who_waits_long_is_told_so_and_who_does_not_is_told_nothing():
    with fleet() as f:
        equal(f.ask("run", "-d", "--name", "a", *kernel("test=button"))[2], "")
        f.run("deaf", test="test=spin how=hlt")
        in_a_log = f.start("wait", "a", "--timeout", 3)
        stopping = f.start("stop", "deaf", "--timeout", 3)
        status, _, err = f.ask("run", "-d", "--name", "b", *kernel("test=button"), "--wait", "boot",
                               "--wait-timeout", 3)
        equal(status, 124)
        lines = err.splitlines()
        check(len(lines) > 1 and "was not ready" in lines[-1], err)
        check(all(line.startswith("hutch: run: waits for the VM (--wait boot), ")
                  for line in lines[:-1]), err)
        equal(in_a_log.communicate(timeout=LIMIT)[1].count("\n"), 1)  # only each minute
        err = stopping.communicate(timeout=LIMIT)[1]
        check(err.startswith("hutch: stop: 1 of 1 left, ") and "--force" in err, err)
        master, slave = pty.openpty()
        process = subprocess.Popen([hutch.HUTCH, "wait", "a"], env=f.env, stdin=slave,
                                   stdout=subprocess.PIPE, stderr=slave)
        os.close(slave)
        read_until(master, b"\rwait: VM 'a' runs, ")
        f("stop", "a")
        equal(process.wait(LIMIT), 0)
        read_until(master, b"\r\x1b[K")  # and the line is gone
        equal(process.stdout.read(), b"power-off: the guest powered off\n")
        process.stdout.close()
        os.close(master)


# ---- console, logs, events ---------------------------------------------------------------


def read_until(fd, word, limit=60):
    data, end = b"", time.monotonic() + limit * hutch.PATIENCE
    while word not in data:
        ready, _, _ = select.select([fd], [], [], max(end - time.monotonic(), 0))
        check(ready, f"{word!r} did not come, but {data!r}")
        part = os.read(fd, 4096)
        check(part, f"the end before {word!r}: {data!r}")
        data += part
    return data


def test_the_console_shows_what_was_said_takes_keys_and_is_left_by_one():
    with fleet() as f:
        f.run("a", test="test=serial-echo")
        for turn in range(2):
            master, slave = pty.openpty()
            process = subprocess.Popen([hutch.HUTCH, "console", "a"], env=f.env, stdin=slave,
                                       stdout=slave, stderr=slave)
            os.close(slave)
            read_until(master, b"echo" if turn else b"ready")
            os.write(master, b"\x03echo %d\r" % turn)
            read_until(master, b"echo %d" % turn)
            os.write(master, b"\x1d")
            equal(process.wait(LIMIT), 0)
            os.close(master)
            equal(f.state("a"), "running")
        piped = subprocess.run([hutch.HUTCH, "console", "a"], env=f.env, input=b"\x04",
                               capture_output=True, timeout=LIMIT)
        equal(piped.returncode, 0)  # the guest ends at Ctrl-D, and with it the session
        f("wait", "a")
        check("echo 1" in f("logs", "a"), "the log lacks what was typed")


def test_logs_are_followed_to_the_end():
    with fleet() as f:
        f.run("a", "--paused", test="test=serial-storm count=300")
        following = f.start("logs", "-f", "a")
        f("resume", "a")
        out, err = following.communicate(timeout=LIMIT)
        equal(following.returncode, 0, err)
        equal([line[:12] for line in out.splitlines() if line.startswith("storm ")],
              [f"storm {i:06}" for i in range(300)])
        equal(f("logs", "a"), out)
        equal(f("logs", "--monitor", "a"), "")
        equal([json.loads(line) for line in f("logs", "--json", "a").splitlines()],
              out.splitlines())


def test_events_of_all_vms_are_told_also_of_those_that_come_later():
    with fleet() as f, tempfile.TemporaryFile() as all_of, tempfile.TemporaryFile() as one:
        def told(file):
            # Not by the offset, which is the writer's as well.
            return os.pread(file.fileno(), 1 << 20, 0).decode().splitlines()

        def wake(name, file):
            """Pauses the VM, again and again, until that is told: who listens comes late."""
            limit = time.monotonic() + LIMIT
            while not any(name in line and "STOP" in line for line in told(file)):
                check(time.monotonic() < limit, f"nothing is told of {name}: {told(file)}")
                f("pause", name)
                f("resume", name)

        f.run("vm-a")
        following = subprocess.Popen([hutch.HUTCH, "events", "--follow", "--json"], env=f.env,
                                     stdout=all_of)
        of_one = subprocess.Popen([hutch.HUTCH, "events", "vm-a"], env=f.env, stdout=one)
        wake("vm-a", all_of)
        wake("vm-a", one)
        f.run("vm-b")
        wake("vm-b", all_of)
        f("stop", "--all")
        equal(of_one.wait(LIMIT), 0)
        check("X_HUTCH_RESULT" in told(one)[-1], told(one))
        limit = time.monotonic() + LIMIT
        while sum("X_HUTCH_RESULT" in line for line in told(all_of)) < 2:
            check(time.monotonic() < limit, f"the ends are not told: {told(all_of)}")
            time.sleep(0.01)
        following.terminate()
        equal(following.wait(LIMIT), 0)
        equal({event["vm"] for event in map(json.loads, told(all_of))}, {"vm-a", "vm-b"})


# ---- with an agent -----------------------------------------------------------------------


class FakeAgent(threading.Thread):
    """Says what qemu-guest-agent would, at a VM's agent.sock; keeps what it is asked."""

    ANSWERS = {"guest-set-time": {}, "guest-network-get-interfaces": [
        {"name": "eth0", "hardware-address": "52:54:00:12:34:56", "ip-addresses": [
            {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24}]}]}

    def __init__(self, path):
        super().__init__(daemon=True)
        self.asked = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen()
        self.start()

    def run(self):
        while True:
            client, _ = self.socket.accept()
            with client, client.makefile("rb") as lines:
                for line in lines:
                    request = json.loads(line.lstrip(b"\xff"))
                    command, arguments = request["execute"], request.get("arguments", {})
                    self.asked.append((command, arguments))
                    answer = arguments.get("id", self.ANSWERS.get(command))
                    start = b"\xff" if command == "guest-sync-delimited" else b""
                    client.sendall(start + json.dumps({"return": answer}).encode() + b"\n")

    def times(self):
        return [a["time"] / 1e9 for command, a in self.asked if command == "guest-set-time"]


def test_a_guest_that_goes_on_is_told_the_time_by_its_agent():
    with fleet() as f:
        f.run("a", "--paused")
        agent = FakeAgent(f.path("a", "agent.sock"))
        f("resume", "a")  # begins: nothing is lost
        f("resume", "a")  # runs
        equal(agent.asked, [])
        f("pause", "a")
        equal(json.loads(f("resume", "a", "--json")),
              [{"name": "a", "state": "running", "clock": "set"}])
        check(abs(agent.times()[0] - time.time()) < LIMIT, f"another time: {agent.asked}")
        equal(json.loads(f("inspect", "a", "--json"))["addresses"],
              [{"name": "eth0", "mac": "52:54:00:12:34:56", "addresses": ["10.0.2.15/24"]}])
        check("eth0 10.0.2.15/24" in f("inspect", "a"), "the table lacks the address")
        os.unlink(f.path("a", "agent.sock"))


def test_a_guest_whose_agent_is_silent_goes_on_with_a_warning():
    with fleet() as f:
        f.run("a", "--agent", test="test=spin how=hlt")
        f("pause", "a")
        started = time.monotonic()
        status, out, err = f.ask("resume", "a")
        equal((status, out), (0, ""))
        check("its clock is not set" in err and err.count("\n") == 1, err)
        check(time.monotonic() - started < 10 * hutch.PATIENCE, "that took long")
        equal(f.state("a"), "running")


# ---- what goes wrong ---------------------------------------------------------------------


def test_a_full_run_folder_is_one_sentence_and_nothing_is_left():
    script = """mount -t tmpfs -o size=1m,nr_inodes=$1 none "$XDG_RUNTIME_DIR" || exit 77
        shift; "$@"; status=$?
        ls "$XDG_RUNTIME_DIR/hutch" | sed 's/^/left: /'
        "$HUTCH" rm --all --force >&2
        exit $status"""
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime:
        env = {**os.environ, "XDG_RUNTIME_DIR": runtime, "HUTCH": hutch.HUTCH}
        statuses = set()
        for inodes in range(2, 12):
            done = subprocess.run(
                ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh",
                 str(inodes), hutch.HUTCH, "run", "-d", "--name", "x", *kernel()],
                env=env, capture_output=True, text=True, timeout=LIMIT)
            if done.returncode == 77 or "unshare" in done.stderr:
                raise Skip("no mount namespace for a small file system")
            statuses.add(done.returncode)
            if done.returncode:
                equal(done.stdout, "", f"with {inodes} inodes")
                check(done.stderr.count("\n") == 1 and "error: " in done.stderr, done.stderr)
                check("No space" in done.stderr or "is full" in done.stderr, done.stderr)
        equal(statuses, {0, 125})


def test_monitors_killed_at_any_moment_leave_neither_hangs_nor_files():
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    print(f"# seed {seed}")
    commands = (["ps"], ["status", "x"], ["pause", "x"], ["resume", "x"], ["inspect", "x"],
                ["logs", "-f", "x"], ["wait", "x"], ["rename", "x", "y"], ["rename", "y", "x"],
                ["stop", "--timeout", "1", "x"], ["events", "x"], ["control", "x", "query-block"])
    with fleet() as f:
        outcomes = {}
        for _ in range(12):
            starting = f.start("run", "-d", "--name", "x", *kernel("test=spin how=hlt"))
            running = [f.start(*command) for command in chance.sample(commands, 4)]
            time.sleep(chance.random() * 0.03)  # the moment
            for name in ("x", "y"):
                with contextlib.suppress(OSError, ValueError):
                    with open(f.path(name, "lock"), encoding="ascii") as lock:
                        os.kill(int(lock.read()), signal.SIGKILL)
            for process in [starting, *running]:
                if process.args[1] in ("logs", "wait", "events"):
                    f.ask("kill", "x"), f.ask("kill", "y")
                try:
                    out, err = process.communicate(timeout=LIMIT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise AssertionError(f"{process.args} hangs") from None
                check(process.returncode in (0, 124, 125, 137, 143), f"{process.args}: {err}")
                check(err.count("error: ") <= 1, f"{process.args}: {err}")
                outcomes[process.args[1]] = outcomes.get(process.args[1], 0) + 1
            f("rm", "--all", "--force")
            for name in ("x", "y"):
                f.ask("rm", name)
            equal(os.listdir(f.folder), [], "left in the run folder")


def test_a_hung_monitor_does_not_hide_the_others_and_can_be_removed():
    with fleet() as f:
        f.run("hung")
        f.run("well")
        os.kill(f.pid("hung"), signal.SIGSTOP)
        table = {row["name"]: row["state"] for row in json.loads(f("ps", "--json"))}
        equal(table, {"hung": "unresponsive", "well": "running"})
        f("kill", "hung")
        equal(f.state("hung"), "dead")


# ---- under a service manager -------------------------------------------------------------


def test_a_service_manager_is_told_when_it_runs_and_ends():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = os.path.join(runtime, "notify")
        manager.bind(path)
        manager.settimeout(LIMIT)
        with Vm(*kernel(), env={"NOTIFY_SOCKET": path}) as vm:
            told = manager.recv(4096).decode().splitlines()
            equal(told[0], "READY=1")
            check(told[1].startswith("STATUS="), told)
            vm.expect("speaks")
            vm.signal(signal.SIGPWR)
            equal(vm.wait(), 0)
            equal(manager.recv(4096).decode().splitlines(),
                  ["STOPPING=1", "STATUS=the guest powered off"])


# ---- many --------------------------------------------------------------------------------


def test_two_hundred_are_listed_in_no_time():
    with fleet() as f:
        count = 200
        lanes = [threading.Thread(target=lambda lane=lane: [
            f.run(f"vm{n:03}", "--paused") for n in range(lane, count, 4)]) for lane in range(4)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        best = 1e9
        for _ in range(5):
            started = time.monotonic()
            table = f("ps")
            best = min(best, time.monotonic() - started)
        equal(table.count("prelaunch"), count)
        print(f"# ps of {count} VMs: {best * 1000:.0f} ms")
        check(best < 1 * hutch.PATIENCE, f"{best:.3f} s")


if __name__ == "__main__":
    hutch.main()
