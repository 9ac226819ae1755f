#!/usr/bin/env python3
"""The control socket from outside: with clients that are not ours (qemu.qmp and its
qmp-shell), with `hutch control`, and with what no client should do."""
import asyncio
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import hutch
from hutch import Skip, Vm, check, equal, image, refused
from qmp import connect

LIBRARIES = os.path.join(hutch.ROOT, ".cache", "python")  # scripts/setup puts qemu.qmp there
NAME = "payload.elf"


@contextmanager
def machine(*arguments, test="test=spin how=hlt", says="spin ready", name="vm", env=None):
    """A running VM whose run folder is in a scratch folder; vm.socket is its path.  It has
    said `says`, or with None it can be connected to."""
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        with Vm("--kernel", image("payload", NAME), "--cmdline", test, "--name", name,
                *arguments, env=env) as vm:
            vm.socket = os.path.join(runtime, "hutch", name, "control.sock")
            if says:
                vm.expect(says)
            else:
                connect(vm.socket, vm.process).close()
            yield vm


def control(*arguments, text=None, status=0):
    """hutch control: what it prints, as JSON; its sentence if a status is expected."""
    done = subprocess.run([hutch.HUTCH, "control", *map(str, arguments)], input=text,
                          capture_output=True, text=True, timeout=60 * hutch.PATIENCE)
    equal(done.returncode, status, f"control {arguments}: status ({done.stderr.strip()})")
    return done.stderr if status and not done.stdout else \
        [json.loads(line) for line in done.stdout.splitlines()]


def status_of(name="vm"):
    return control(name, "query-status")[0]["status"]


def resident_kib(vm):
    with open(f"/proc/{vm.process.pid}/status", encoding="ascii") as f:
        return int(re.search(r"RssAnon:\s+(\d+) kB", f.read())[1])


class Raw:
    """A client that says what it is told to."""

    def __init__(self, path, begin=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(60 * hutch.PATIENCE)
        self.file = self.socket.makefile("rb")
        if begin:
            self.greeting = self.hear()
            equal(self.ask("qmp_capabilities"), {})

    def say(self, data):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.socket.sendall(data, socket.MSG_NOSIGNAL)

    def hear(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def ask(self, command, **arguments):
        """What it returns; events before it are dropped."""
        self.say({"execute": command, "arguments": arguments})
        while True:
            answer = self.hear()
            if "event" not in answer:
                return answer.get("return", answer.get("error"))

    def wait_event(self, name):
        while True:
            event = self.hear()
            check(event is not None, f"the VM ended before {name}")
            if event.get("event") == name:
                return event.get("data")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()


# ---- clients that are not ours -----------------------------------------------------------


def qemu_qmp():
    sys.path.insert(0, LIBRARIES)
    try:
        from qemu import qmp
    except ImportError:
        raise Skip("qemu.qmp is not there; scripts/setup installs it") from None
    return qmp


def test_the_qemu_qmp_library_commands_and_hears_events():
    qmp = qemu_qmp()

    async def session(path):
        client = qmp.QMPClient("test")
        await client.connect(path)
        equal((await client.execute("query-status"))["status"], "running")
        with client.listener(("STOP", "RESUME")) as listener:
            await client.execute("stop")
            equal((await listener.get())["event"], "STOP")
            equal((await client.execute("query-status"))["status"], "paused")
            await client.execute("cont")
            equal((await listener.get())["event"], "RESUME")
        names = {c["name"] for c in await client.execute("query-commands")}
        schema = await client.execute("query-qmp-schema")
        commands = {e["name"] for e in schema if e["meta-type"] == "command"}
        equal(commands, names)
        try:
            await client.execute("human-monitor-command", {"command-line": "info block"})
            check(False, "human-monitor-command works")
        except qmp.ExecuteError as e:
            check("monitor for people" in str(e), str(e))
        await client.execute("quit")
        try:
            await client.disconnect()
        except EOFError:  # the VM may hang up first
            pass

    with machine() as vm:
        asyncio.run(session(vm.socket))
        equal(vm.wait(), 128 + signal.SIGTERM)


def test_qmp_shell_types_commands():
    qemu_qmp()
    with machine() as vm, tempfile.NamedTemporaryFile(suffix=".raw", dir="/var/tmp") as file:
        disk = file.name
        file.truncate(1 << 20)
        done = subprocess.run(
            [sys.executable, "-m", "qemu.qmp.qmp_shell", "-p", vm.socket], text=True,
            input="query-status\nstop\nquery-status\nquery-cpus-fast\nnonsense a=b\n"
                  f"blockdev-add driver=file node-name=f filename={disk}\n"
                  "blockdev-add driver=raw node-name=n file=f\n"
                  "device_add driver=virtio-blk-pci drive=n id=d\nquery-block\n",
            capture_output=True, timeout=60 * hutch.PATIENCE,
            env={**os.environ, "PYTHONPATH": LIBRARIES, "HOME": os.path.dirname(vm.socket)})
        out = done.stdout
        for word in ("Connected to QEMU 7.2.0", '"running"', '"paused"', '"cpu-index": 0',
                     "CommandNotFound", '"qdev": "d"', '"node-name": "n"'):
            check(word in out, f"{word!r} is not in: {out}\n{done.stderr}")
        control("vm", "quit")
        vm.wait()


# ---- the protocol ------------------------------------------------------------------------


def matches(schema, name, value):
    """Whether `value` is of the schema's type `name`, as introspection describes it."""
    kinds = {"string": str, "int": int, "number": (int, float), "boolean": bool}
    entry = schema[name]
    if entry["meta-type"] == "builtin":
        return entry["json-type"] == "value" or (
            isinstance(value, kinds[entry["json-type"]])
            and (entry["json-type"] == "boolean") == isinstance(value, bool))
    if entry["meta-type"] == "enum":
        return value in entry["values"]
    if entry["meta-type"] == "array":
        return isinstance(value, list) and \
            all(matches(schema, entry["element-type"], item) for item in value)
    members = {m["name"]: m for m in entry["members"]}
    return isinstance(value, dict) and set(value) <= set(members) and all(
        matches(schema, m["type"], value[key]) if key in value else "default" in m
        for key, m in members.items())


def test_every_query_returns_what_the_schema_says():
    with machine("--cpus", 2, "--rng") as vm, Raw(vm.socket) as raw:
        schema = {e["name"]: e for e in raw.ask("query-qmp-schema")}
        asked = 0
        for name, entry in schema.items():
            if entry["meta-type"] != "command" or not name.startswith("query-"):
                continue
            if any("default" not in m for m in schema[entry["arg-type"]]["members"]):
                continue
            value = raw.ask(name)
            check(matches(schema, entry["ret-type"], value), f"{name}: {value}")
            asked += 1
        check(asked >= 8, f"{asked} queries only")


def test_events_carry_what_the_schema_says():
    with machine("--no-reboot") as vm, Raw(vm.socket) as raw:
        schema = {e["name"]: e for e in raw.ask("query-qmp-schema")}
        for command in ("stop", "cont", "system_reset", "system_powerdown", "quit"):
            raw.say({"execute": command})
        seen = []
        while (message := raw.hear()) is not None:
            if "event" in message:
                seen.append(message["event"])
                entry = schema[message["event"]]
                equal(entry["meta-type"], "event")
                check(matches(schema, entry["arg-type"], message.get("data", {})), message)
                check(abs(message["timestamp"]["seconds"] - time.time()) < 3600, message)
        equal(seen, ["STOP", "RESUME", "RESET", "POWERDOWN", "SHUTDOWN", "X_HUTCH_RESULT"])
        vm.wait()


def test_out_of_band_and_other_malformed_messages_are_refused_and_the_session_goes_on():
    cases = (b'{"exec-oob": "query-status", "id": 3}', b"[1]", b"\xff", b'{"execute": 1}', b"{]",
             b'{"execute": "stop", "arguments": [1]}', b'{"execute": "stop", "x": 1}', b"17 ",
             b"[" * 5000 + b"]" * 5000, b'"' + b"x" * (2 << 20) + b'"')
    with machine() as vm, Raw(vm.socket) as raw:
        for case in cases:
            raw.say(case)
            answer = raw.hear()
            equal(answer["error"]["class"], "GenericError", case[:60])
        equal(raw.ask("query-status")["status"], "running")


def test_a_thousand_queries_take_milliseconds():
    with machine() as vm, Raw(vm.socket) as raw:
        best = 1e9
        for _ in range(5):
            start = time.monotonic()
            for _ in range(1000):
                raw.say(b'{"execute": "query-status"}')
                raw.file.readline()
            best = min(best, time.monotonic() - start)
        print(f"# 1000 query-status: {best * 1000:.1f} ms")
        check(best < 1 * hutch.PATIENCE, f"{best:.3f} s")


def test_hostile_clients_harm_neither_the_vm_nor_other_clients():
    # What AddressSanitizer keeps of freed memory would be counted as the monitor's.
    options = ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=8")))
    with machine(env={"ASAN_OPTIONS": options}) as vm:
        crowd = [Raw(vm.socket, begin=False) for _ in range(200)]
        for client in crowd[:40]:
            client.hear()
            client.say(b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 50)
        for client in crowd[40:]:
            try:
                client.say(b'{"execute": ')
            except BrokenPipeError:
                pass
        for client in crowd[30:]:
            client.__exit__()
        equal(status_of(), "running")
        control("vm", "stop")
        control("vm", "cont")
        check(resident_kib(vm) < 100 << 10, f"{resident_kib(vm)} KiB of memory")
        for client in crowd[:30]:
            client.__exit__()
        equal(status_of(), "running")


# ---- parts of devices to come ------------------------------------------------------------


def test_a_part_is_taken_by_a_device_and_given_back_when_that_goes():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        made = (("blockdev-add", {"driver": "file", "node-name": "f", "filename": disk}),
                ("blockdev-add", {"driver": "raw", "node-name": "n", "file": "f"}),
                ("netdev_add", {"type": "user", "id": "w", "restrict": True}),
                ("chardev-add", {"id": "c", "backend": {"type": "pty", "data": {}}}))
        devices = (("d", {"driver": "virtio-blk-pci", "drive": "n", "num-queues": 2}),
                   ("n", {"driver": "virtio-net-pci", "netdev": "w"}),
                   ("p", {"driver": "virtserialport", "chardev": "c", "name": "port"}))
        gone = (("blockdev-del", {"node-name": "n"}), ("netdev_del", {"id": "w"}),
                ("chardev-remove", {"id": "c"}))
        with machine() as vm, Raw(vm.socket) as raw:
            for command, arguments in made:
                equal(raw.ask(command, **arguments), {}, command)
            for again in range(2):
                for name, arguments in devices:
                    equal(raw.ask("device_add", id=f"{name}{again}", **arguments), {}, name)
                    answer = raw.ask("device_add", id="other", **arguments)
                    check(f"'{name}{again}' already" in answer["desc"], answer)
                for command, arguments in gone:
                    check("remove that first" in raw.ask(command, **arguments)["desc"], command)
                (info,) = raw.ask("query-block")
                equal((info["device"], info["inserted"]["node-name"]), (f"d{again}", "n"))
                equal([n["node-name"] for n in raw.ask("query-named-block-nodes")], ["n", "f"])
                equal(raw.ask("block_resize", **{"node-name": "n", "size": 2 << 20}), {})
                equal(raw.ask("set_link", name="w", up=False), {})
                pty = {c["label"]: c["filename"] for c in raw.ask("query-chardev")}["c"]
                check(os.path.exists(pty.removeprefix("pty:")), pty)
                for name, _ in devices:
                    equal(raw.ask("device_del", id=f"{name}{again}"), {})
                raw.say({"execute": "system_reset"})  # the guest has no hotplug driver
                for _ in devices:
                    raw.wait_event("DEVICE_DELETED")
                vm.expect("spin ready")
            check("made over" in raw.ask("blockdev-del", **{"node-name": "f"})["desc"], "words")
            for command, arguments in gone:
                equal(raw.ask(command, **arguments), {}, command)
                equal(raw.ask(command, **arguments)["class"], "DeviceNotFound")
            equal(raw.ask("blockdev-del", **{"node-name": "f"}), {})
            equal(raw.ask("query-named-block-nodes"), [])


def test_there_is_an_end_to_parts():
    with machine() as vm, Raw(vm.socket) as raw:
        answers = [raw.ask("netdev_add", type="user", id=f"n{i}") for i in range(300)]
        equal(answers[:256], [{}] * 256)
        check(all("remove some" in a["desc"] for a in answers[256:]), answers[-1])
        equal(raw.ask("netdev_del", id="n0"), {})
        equal(raw.ask("netdev_add", type="user", id="again"), {})


# ---- what no client should do ------------------------------------------------------------


def test_all_that_changes_something_is_refused_on_a_read_only_socket():
    with tempfile.TemporaryDirectory() as folder:
        readers = os.path.join(folder, "r")
        with machine("--control-readonly", readers, "--rng") as vm, Raw(readers) as raw:
            with Raw(vm.socket) as other:
                before = other.ask("x-hutch-query-devices")
            schema = {e["name"]: e for e in raw.ask("query-qmp-schema")}
            refused_ones = allowed = 0
            for name in (c["name"] for c in raw.ask("query-commands")):
                answer = raw.ask(name)
                if name.startswith(("query-", "x-hutch-query-")):
                    needed = [m for m in schema[schema[name]["arg-type"]]["members"]
                              if "default" not in m]
                    check(needed or "desc" not in answer, f"{name}: {answer}")
                    allowed += 1
                elif name != "qmp_capabilities":
                    check("read-only" in answer.get("desc", ""), f"{name}: {answer}")
                    refused_ones += 1
            check(allowed >= 15 and refused_ones >= 30, f"{allowed}, {refused_ones}")
            equal(raw.ask("query-status")["status"], "running")
            equal(raw.ask("x-hutch-query-devices"), before)


class Arguments:
    """Arguments of commands, right ones and wrong ones, by their schema."""

    def __init__(self, schema, random, folder):
        self.schema, self.random = schema, random
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        names = ["disk0", "net0", "rng0", "console0", "a", "b", "c", "x" * 33, "", "../x", "\u00e9\ud7ff"]
        paths = [os.path.join(folder, n) for n in ("disk.raw", "new.raw", "a.qcow2", "nowhere/x")]
        self.texts = names * 2 + paths + [fifo, folder, "/dev/null", "/proc/self/mem", "x" * 70000,
                                          "nbd://127.0.0.1:1/x", "json:{}", "virtio-blk-pci",
                                          "virtio-net-pci", "virtio-rng-pci", "virtserialport"]
        self.special = {
            "driver": ["virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "virtconsole"],
            "option": ["disk", "net", "rng", "console"],
            "backend": [{"type": "null", "data": {}}, {"type": "pty", "data": {}},
                        {"type": "socket", "data": {"addr": {"type": "unix", "data": {
                            "path": os.path.join(folder, "s")}}}}],
            "hostfwd": [[{"str": "tcp:127.0.0.1:1-:2"}], ["udp::1-:2"], [{"str": "x", "y": 1}]],
            "script": ["no", "", "/x"],
            "queues": [0, 1, 64, 65],
            "file": ["a", "b", {"driver": "file", "filename": paths[0]}],
            "cache": [{"direct": True}, {"no-flush": True, "direct": False}],
            "value": [{"type": "user"}, {"type": "none"}, {"path": paths[0]}, {}],
        }

    def any(self, depth=0):
        pick = self.random.randrange(7 if depth < 4 else 5)
        if pick == 5:
            return [self.any(depth + 1) for _ in range(self.random.randrange(4))]
        if pick == 6:
            return {self.random.choice(self.texts)[:20]: self.any(depth + 1)
                    for _ in range(self.random.randrange(4))}
        return (None, self.random.random() < 0.5, self.number(), self.random.choice(self.texts),
                self.random.uniform(-1e300, 1e300))[pick]

    def number(self):
        return self.random.choice((0, 1, -1, 512, 65536, 1 << 20, 1 << 31, 1 << 62, (1 << 63) - 1,
                                   -(1 << 63)))

    def damaged(self, value):
        """With some of it exchanged for anything."""
        if self.random.random() < 0.1:
            return self.any(3)
        if isinstance(value, dict):
            return {k: self.damaged(v) for k, v in value.items() if self.random.random() > 0.03}
        return [self.damaged(v) for v in value] if isinstance(value, list) else value

    def of(self, kind):
        entry = self.schema[kind]
        if entry["meta-type"] == "enum":
            return self.random.choice(entry["values"])
        if entry["meta-type"] == "array":
            return [self.of(entry["element-type"]) for _ in range(self.random.randrange(4))]
        if entry["meta-type"] == "object":
            return {m["name"]: self.of(m["type"]) for m in entry["members"]}
        return {"string": lambda: self.random.choice(self.texts), "int": self.number,
                "boolean": lambda: self.random.random() < 0.5}.get(entry["json-type"], self.any)()

    def of_command(self, name):
        given = {}
        for m in self.schema[self.schema[name]["arg-type"]]["members"]:
            if "default" in m and self.random.random() < 0.5:
                continue
            wrong = self.random.random() < 0.1
            special = self.special.get(m["name"])
            given[m["name"]] = self.any() if wrong else \
                self.damaged(self.random.choice(special)) if special and self.random.random() < 0.8 else \
                self.of(m["type"])
        if name in ("device_add", "netdev_add") or self.random.random() < 0.05:
            for key in ("id", "drive", "netdev", "chardev", "path", "queues", "script", "hostfwd",
                        "nonsense"):
                if self.random.random() < 0.2:
                    special = self.special.get(key)
                    given.setdefault(key, self.damaged(self.random.choice(special)) if special
                                     else self.random.choice(self.texts))
        return given


def test_whatever_arguments_commands_are_given_the_vm_goes_on():
    seed = int(os.environ.get("HUTCH_SEED", "1"))
    rounds = int(os.environ.get("HUTCH_ROUNDS", "20"))
    # The guest would not survive an NMI.
    ends = ("quit", "inject-nmi", "qmp_capabilities", "query-qmp-schema")
    print(f"# HUTCH_SEED={seed} HUTCH_ROUNDS={rounds}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk, path = os.path.join(folder, "disk.raw"), os.path.join(folder, "control")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        with Vm("--kernel", image("payload", NAME), "--cmdline", "test=spin how=hlt", "--control",
                path, "--disk", f"{disk},format=raw", "--net", "user", "--rng", "--console", "none",
                cwd=folder, env={"HUTCH_SNAPSHOTS": os.path.join(folder, "snapshots")}) as vm:
            vm.expect("spin ready")
            with Raw(path) as raw:
                schema = {e["name"]: e for e in raw.ask("query-qmp-schema")}
                names = sorted(n for n, e in schema.items() if e["meta-type"] == "command"
                               and n not in ends)
                made = Arguments(schema, random.Random(seed), folder)
                done, worked = 0, set()
                for _ in range(rounds):
                    made.random.shuffle(names)
                    for name in names:
                        arguments = made.of_command(name)
                        arguments.pop("stop", None)  # after a snapshot: the VM would end
                        raw.say({"execute": name, "arguments": arguments, "id": done})
                        while "event" in (answer := raw.hear() or {"gone": True}):
                            pass
                        check("gone" not in answer, f"{name} {str(arguments)[:300]}: {vm.tail()}")
                        check(("return" in answer) != ("error" in answer)
                              and answer["id"] == done,
                              f"{name} {str(arguments)[:300]}: {answer}")
                        done += "return" in answer
                        if "return" in answer:
                            worked.add(name)
                print(f"# {done} of {rounds * len(names)} succeeded, of {len(worked)} commands")
                check(len(worked) > 25, f"only {worked} succeeded")
                check(resident_kib(vm) < 200 << 10, f"{resident_kib(vm)} KiB of memory")
                raw.ask("cont")
                equal(raw.ask("query-status")["status"], "running")
                raw.say({"execute": "quit"})
                equal(vm.wait(), 128 + signal.SIGTERM)


def test_messages_that_come_byte_by_byte_from_many_hold_up_nobody():
    message = b'{"execute": "query-name", "id": "' + b"x" * 200 + b'"}'
    with machine() as vm, Raw(vm.socket) as raw:
        slow = [Raw(vm.socket) for _ in range(50)]
        waits = []
        for at in range(len(message)):
            for client in slow:
                client.say(message[at:at + 1])
            start = time.monotonic()
            raw.ask("query-status")
            waits.append(time.monotonic() - start)
        for client in slow:
            equal(client.hear()["return"], {"name": "vm"})
            client.__exit__()
        print(f"# the others' longest wait: {max(waits) * 1000:.1f} ms")
        check(sorted(waits)[-3] < 0.5 * hutch.PATIENCE, f"{max(waits)} s")
        check(resident_kib(vm) < 30 << 10, f"{resident_kib(vm)} KiB of memory")


def test_a_monitor_killed_while_commands_run_leaves_what_the_next_takes_over():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        for moment in range(8):
            with machine("--disk", f"{disk},format=raw") as vm:
                raw = Raw(vm.socket)
                for i in range(50):
                    raw.say({"execute": "device_add", "arguments": {
                        "driver": "virtconsole", "id": f"c{i}", "socket": f"{folder}/s{i % 4}"}})
                    raw.say({"execute": "query-block"})
                    raw.say({"execute": "stop" if i % 2 else "cont"})
                end = time.monotonic() + moment * 0.004
                for _ in range(150):
                    if time.monotonic() < end:
                        raw.file.readline()
                vm.process.kill()
                vm.process.wait()
                folder_of_vm = os.path.dirname(vm.socket)
                check(set(os.listdir(folder_of_vm)) <= {"config.json", "control.sock", "lock"},
                      os.listdir(folder_of_vm))
                check("killed" in control("vm", "query-status", status=125), "words")
                with Vm("--kernel", image("payload", NAME), "--cmdline", "test=spin how=hlt",
                        "--name", "vm", "--disk", f"{disk},format=raw") as second:
                    second.expect("spin ready")
                    equal(len(control("vm", "query-block")[0]), 1)
                    control("vm", "quit")
                    second.wait()
                check(not os.path.exists(folder_of_vm), "the run folder is still there")
                raw.__exit__()


def rows_of(title):
    """The table below that title of docs/control.md: its rows as lists of cells."""
    with open(os.path.join(hutch.ROOT, "docs", "control.md"), encoding="utf-8") as file:
        section = re.search(rf"^### {title}\n(.*?)(?=^##)", file.read(), re.M | re.S)[1]
    return [line.strip("| \n").split(" | ") for line in section.splitlines()
            if line.startswith("| ") and "`" in line]


def names_in(cell):
    return re.findall(r"`([\w-]+)`", cell)


def test_the_manual_lists_every_command_that_there_is_and_every_one_that_is_refused():
    sources = os.path.join(hutch.ROOT, "src", "control")
    refused_ones = []
    for name in os.listdir(sources):
        with open(os.path.join(sources, name), encoding="utf-8") as file:
            refused_ones += re.findall(r'\.name = "([\w-]+)",\s*\.refused', file.read())
    with machine() as vm, Raw(vm.socket) as raw:
        equal(sorted(n for _, names in rows_of("What there is") for n in names_in(names)),
              sorted(c["name"] for c in raw.ask("query-commands")))
        reasons = {n: why for names, why in rows_of("What is refused") for n in names_in(names)}
        equal(sorted(reasons), sorted(refused_ones))
        for name, why in reasons.items():
            equal(raw.ask(name), {"class": "CommandNotFound", "desc": f"'{name}': {why}"})


# ---- the run state -----------------------------------------------------------------------


def test_a_stopped_guest_stands_still_and_goes_on():
    with machine(test="test=serial-echo", says="ready") as vm:
        control("vm", "stop")
        control("vm", "stop")
        equal(status_of(), "paused")
        vm.send("hello")
        time.sleep(0.2)
        check(b"hello" not in vm.output, "a stopped guest echoes")
        control("vm", "cont")
        control("vm", "cont")
        vm.expect("hello")
        vm.send("\x04")
        equal(vm.wait(), 0)


def test_a_guest_reset_while_it_is_stopped_stays_so_and_boots_when_it_goes_on():
    with machine("--rng") as vm, Raw(vm.socket) as raw:
        raw.ask("stop")
        for _ in range(3):
            equal(raw.ask("system_reset"), {})
        equal(status_of(), "paused")
        check(not vm.read(0.3) or vm.text().count("spin ready") == 1, "it booted while stopped")
        raw.ask("cont")
        vm.expect("spin ready")
        raw.ask("system_reset")
        vm.expect("spin ready")
        raw.say({"execute": "quit"})
        equal(raw.wait_event("SHUTDOWN"), {"guest": False, "reason": "host-qmp-quit"})
        equal(vm.wait(), 128 + signal.SIGTERM)


def test_stop_and_cont_over_and_over_lose_nothing():
    with machine("--cpus", 2, test="test=serial-storm count=1000", says="storm 00000") as vm:
        times = 0
        with Raw(vm.socket) as raw:
            try:
                while vm.text().count("\n") < 950:
                    raw.ask("stop")
                    raw.ask("cont")
                    time.sleep(0.005)
                    vm.read(0)
                    times += 1
            except (OSError, TypeError):  # it has ended
                pass
        equal(vm.wait(120), 0)
        numbers = [int(n) for n in re.findall(r"storm (\d+)", vm.text())]
        equal(numbers, list(range(1000)))
        print(f"# stopped {times} times")
        check(times > 5, f"stopped {times} times only")


def test_a_stopped_vm_ends_as_well_as_a_running_one():
    for how in ("quit", "signal"):
        with machine() as vm:
            control("vm", "stop")
            control("vm", "quit") if how == "quit" else vm.signal(signal.SIGTERM)
            equal(vm.wait(), 128 + signal.SIGTERM)
    with machine("--timeout", 1) as vm:
        control("vm", "stop")
        equal(vm.wait(), 124)


def test_paused_from_the_start_begins_with_cont():
    with machine("--paused", says=None) as vm:
        equal(status_of(), "prelaunch")
        vm.read(0.2)
        equal(vm.text(), "")
        control("vm", "system_reset")
        equal(status_of(), "prelaunch")
        control("vm", "cont")
        vm.expect("spin ready")
    refused("--paused", "--kernel", image("payload", NAME), words=["--paused", "--control"])


def test_a_guest_that_powers_off_or_panics_says_so_in_events():
    for test, status, reason in (("test=hello", 0, "guest-shutdown"),
                                 ("test=panic", 127, "guest-panic"),
                                 ("test=crash", 126, "guest-panic")):
        with machine("--paused", test=test, says=None) as vm:
            with Raw(vm.socket) as raw:
                raw.say({"execute": "cont"})
                equal(raw.wait_event("SHUTDOWN"), {"guest": True, "reason": reason})
                equal(raw.wait_event("X_HUTCH_RESULT")["status"], status)
                equal(raw.hear(), None)
            equal(vm.wait(), status)


def test_an_idle_vm_with_a_client_makes_no_wake_ups():
    with machine() as vm, Raw(vm.socket):
        def switches():
            with open(f"/proc/{vm.process.pid}/status", encoding="ascii") as f:
                return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M)[1])
        time.sleep(0.3)
        before = switches()
        time.sleep(1)
        check(switches() - before <= 1, f"{switches() - before} wake-ups in a second")


# ---- sockets and run folders -------------------------------------------------------------


def test_the_run_folder_is_private_and_gone_at_the_end():
    with machine() as vm:
        folder = os.path.dirname(vm.socket)
        equal(os.stat(folder).st_mode & 0o7777, 0o700)
        equal(sorted(os.listdir(folder)), ["config.json", "control.sock", "lock"])
        equal(os.stat(vm.socket).st_mode & 0o777, 0o600)
        control("vm", "quit")
        vm.wait()
        check(not os.path.exists(folder), "the run folder is still there")
        check("no VM named" in control("vm", "query-status", status=125), "words")


def test_a_name_in_use_is_refused_and_a_dead_vms_is_taken_over():
    with machine() as vm:
        refused("--kernel", image("payload", NAME), "--name", "vm",
                words=["'vm' runs already", str(vm.process.pid)])
        vm.process.kill()
        vm.process.wait()
        check("killed" in control("vm", "query-status", status=125), "words")
        with Vm("--kernel", image("payload", NAME), "--cmdline", "test=spin how=hlt", "--name",
                "vm") as second:
            second.expect("spin ready")
            equal(status_of(), "running")
            control("vm", "quit")
            second.wait()


def test_of_many_that_start_with_one_name_one_wins():
    with machine(says=None, name="other"):
        many = [Vm("--kernel", image("payload", NAME), "--cmdline", "test=spin how=hlt", "--name",
                   "vm") for _ in range(6)]
        limit = time.monotonic() + 60 * hutch.PATIENCE
        while sum(vm.process.poll() is None for vm in many) > 1 and time.monotonic() < limit:
            time.sleep(0.02)
        equal(sorted(vm.process.poll() or 0 for vm in many), [0] + [125] * 5)
        (winner,) = [vm for vm in many if vm.process.poll() is None]
        winner.expect("spin ready")
        control("vm", "quit")
        winner.wait()


def test_a_socket_at_a_path_and_one_for_readers_only():
    with tempfile.TemporaryDirectory() as folder:
        path, readers = os.path.join(folder, "c"), os.path.join(folder, "r")
        with machine("--control", path, "--control-readonly", readers) as vm:
            equal(control(path, "query-name"), [{"name": "vm"}])
            equal(control(readers, "query-status")[0]["status"], "running")
            check("read-only" in control(readers, "stop", status=125), "words")
            refused("--kernel", image("payload", NAME), "--control", path,
                    words=["control socket", "listens", path])
            control(path, "quit")
            vm.wait()
        equal(os.listdir(folder), [])


def test_names_that_cannot_be_folders_are_refused():
    for name in ("a/b", "..", "", "x" * 65):
        refused("--kernel", image("payload", NAME), "--name", name,
                words=["cannot be a VM's name"])


def test_hutch_control_sends_arguments_and_many_commands_and_follows_events():
    with machine() as vm:
        follower = subprocess.Popen([hutch.HUTCH, "control", "vm", "--events"],
                                    stdout=subprocess.PIPE, text=True)
        while not select.select([follower.stdout], [], [], 0.05)[0]:  # until it listens
            control("vm", "system_powerdown")
        replies = control("vm", "-", text='{"execute":"query-name","id":1}\n'
                                          '{"execute":"stop"} {"execute":"nonsense"}', status=125)
        equal(replies[0], {"return": {"name": "vm"}, "id": 1})
        equal(replies[2]["error"]["class"], "CommandNotFound")
        equal(control("vm", "qmp_capabilities", "enable=[]", status=125),
              "hutch: error: 'qmp_capabilities' has been said already\n")
        check("no argument 'x'" in control("vm", "cont", "x=1", status=125), "words")
        check("KEY=VALUE" in control("vm", "cont", "x", status=125), "words")
        check("no JSON object" in control("vm", "cont", "{1}", status=125), "words")
        check("no command" in control("vm", status=125), "words")
        control("vm", "cont", "{}")
        control("vm", "quit")
        out, _ = follower.communicate(timeout=60 * hutch.PATIENCE)
        events = [json.loads(line)["event"] for line in out.splitlines()]
        equal(events[0], "POWERDOWN")
        equal([event for event in events if event != "POWERDOWN"],
              ["STOP", "RESUME", "SHUTDOWN", "X_HUTCH_RESULT"])
        equal(follower.returncode, 0)
        vm.wait()


if __name__ == "__main__":
    hutch.main()
