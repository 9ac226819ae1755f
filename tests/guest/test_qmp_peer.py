#!/usr/bin/env python3
"""The control socket beside QEMU's own: what commands take, what they return, and which
errors they give, judged by QEMU's schema and by the same script said to both.  No guest
runs in QEMU: it needs no KVM."""
import os
import subprocess
import tempfile
from contextlib import contextmanager

import hutch
from hutch import Skip, Vm, check, equal, image
from qmp import Qmp, QmpError

QEMU = os.environ.get("QEMU", "/usr/bin/qemu-system-x86_64")
DISK = 1 << 20
# What is ours though the command is QEMU's, with the reason.
OPEN_TYPES = {
    "device_add": "QEMU checks its properties where no schema tells them; so do we",
    "query-qmp-schema": "described as any value",
}
# Values that differ because the machines do.
FREE_VALUES = {"qom-path"}


@contextmanager
def ours(folder):
    hutch.needs_kvm()
    path = os.path.join(folder, "hutch.sock")
    with Vm("--kernel", image("payload", "payload.elf"), "--cmdline", "test=spin how=hlt",
            "--name", "peer", "--paused", "--control", path, "--serial", "none",
            env={"XDG_RUNTIME_DIR": folder}) as vm:
        qmp = Qmp(path, vm.process)
        yield qmp
        qmp.close()


@contextmanager
def theirs(folder):
    if not os.path.exists(QEMU):
        raise Skip(f"{QEMU} is not there")
    path = os.path.join(folder, "qemu.sock")
    process = subprocess.Popen(
        [QEMU, "-M", "q35,accel=tcg", "-S", "-nodefaults", "-no-user-config", "-display", "none",
         "-m", "512M", "-name", "peer", "-serial", "null", "-qmp", f"unix:{path},server=on,wait=off"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        qmp = Qmp(path, process)
        version = qmp.greeting["QMP"]["version"]["qemu"]
        if (version["major"], version["minor"]) != (7, 2):
            raise Skip(f"QEMU is {version}, and 7.2 is what we follow")
        yield qmp
        qmp.close()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def both():
    with tempfile.TemporaryDirectory(prefix="hutch-") as folder:
        with open(os.path.join(folder, "disk.raw"), "wb") as file:
            file.truncate(DISK)
        with open(os.path.join(folder, "other.raw"), "wb") as file:
            file.truncate(DISK)
        with theirs(folder) as qemu, ours(folder) as mine:
            yield mine, qemu, folder


class Schema:
    def __init__(self, qmp):
        self.entries = {e["name"]: e for e in qmp("query-qmp-schema")}

    def of(self, meta):
        return {name for name, e in self.entries.items() if e["meta-type"] == meta}

    def members(self, name):
        """{name: (type, may be left out)} of an object; those of its variants may all be
        left out."""
        entry = self.entries[name]
        found = {m["name"]: (m["type"], "default" in m) for m in entry["members"]}
        for variant in entry.get("variants", ()):
            for key, (kind, _) in self.members(variant["type"]).items():
                found.setdefault(key, (kind, True))
        return found

    def fault(self, name, value, where):
        """Why `value` is not of the type `name`; None if it is."""
        entry = self.entries[name]
        meta = entry["meta-type"]
        if meta == "array":
            if not isinstance(value, list):
                return f"{where}: {value!r} is no list"
            faults = (self.fault(entry["element-type"], v, f"{where}[{i}]")
                      for i, v in enumerate(value))
            return next(filter(None, faults), None)
        if meta == "alternate":
            faults = [self.fault(m["type"], value, where) for m in entry["members"]]
            return None if None in faults else faults[0]
        if meta == "enum":
            return None if value in entry["values"] else f"{where}: {value!r} is not in the enum"
        if meta == "object":
            return self.object_fault(name, value, where)
        kinds = {"string": str, "int": int, "number": (int, float), "boolean": bool,
                 "value": object, "null": type(None)}
        good = isinstance(value, kinds[entry["json-type"]]) and \
            (entry["json-type"] in ("boolean", "value")) >= isinstance(value, bool)
        return None if good else f"{where}: {value!r} is no {entry['json-type']}"

    def object_fault(self, name, value, where):
        members = self.members(name)
        if not isinstance(value, dict):
            return f"{where}: {value!r} is no object"
        for key, (kind, optional) in members.items():
            if key not in value and not optional:
                return f"{where}: '{key}' is missing"
            fault = key in value and self.fault(kind, value[key], f"{where}.{key}")
            if fault:
                return fault
        alien = [k for k in value if k not in members and not k.startswith("x-hutch-")]
        return f"{where}: QEMU has no {alien}" if alien else None


def ask(qmp, command, arguments):
    """("return", value) or ("error", class)."""
    try:
        return "return", qmp(command, **arguments)
    except QmpError as error:
        return "error", error.kind


def test_commands_take_no_argument_that_is_not_qemus_and_need_none_that_qemu_does_not():
    with both() as (mine, qemu, _):
        a, b = Schema(mine), Schema(qemu)
        shared = {n for n in a.of("command") if not n.startswith("x-hutch-")}
        shared.remove("query-events")  # QEMU's until 6.0; clients of that time ask it
        equal(sorted(shared - b.of("command")), [], "commands that QEMU has not")
        check(len(shared) > 40, f"{len(shared)} commands only")
        for name in sorted(shared - set(OPEN_TYPES)):
            takes = a.members(a.entries[name]["arg-type"])
            known = b.members(b.entries[name]["arg-type"])
            alien = [k for k in takes if k not in known and not k.startswith("x-hutch-")]
            equal(alien, [], f"{name}: arguments that QEMU has not")
            needed = {k for k, (_, optional) in takes.items() if not optional}
            # A member of one variant that we need may be one that QEMU needs for it.
            equal(sorted(k for k in needed if known[k][1]), [], f"{name}: needed only by us")


def test_events_carry_what_qemus_do():
    with both() as (mine, qemu, _):
        a, b = Schema(mine), Schema(qemu)
        equal(sorted(n for n in a.of("event") - b.of("event") if not n.startswith("X_HUTCH")), [])
        for name in sorted(a.of("event") & b.of("event")):
            carries = a.members(a.entries[name]["arg-type"])
            known = b.members(b.entries[name]["arg-type"])
            equal(sorted(set(carries) - set(known)), [], f"{name}: members that QEMU has not")
            for key, (_, optional) in known.items():
                check(optional or (key in carries and not carries[key][1]),
                      f"{name}: '{key}' may be missing")


def test_what_queries_return_is_of_qemus_types():
    with both() as (mine, qemu, folder):
        a, b = Schema(mine), Schema(qemu)
        for command, arguments in script(folder):
            ask(mine, command, arguments)
        mine("device_add", driver="virtio-blk-pci", drive="n0", id="d0")
        asked = 0
        faults = []
        for name in sorted(a.of("command") & b.of("command")):
            if not name.startswith("query-") or name in OPEN_TYPES:
                continue
            faults.append(b.fault(b.entries[name]["ret-type"], mine(name), name))
            asked += 1
        equal([f for f in faults if f], [])
        check(asked >= 15, f"{asked} queries only")


def script(folder):
    """Said to both; the replies are to be alike."""
    disk, other = (os.path.join(folder, name) for name in ("disk.raw", "other.raw"))
    unix = {"type": "unix", "data": {"path": os.path.join(folder, "console.sock")}}
    zeroes = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    return [
        ("query-status", {}), ("query-name", {}), ("query-uuid", {}), ("query-target", {}),
        ("query-version", {}), ("query-events-not-there", {}), ("query-memory-size-summary", {}),
        ("query-block", {}), ("query-blockstats", {}), ("query-block-jobs", {}),
        ("query-jobs", {}), ("query-named-block-nodes", {}),
        ("qmp_capabilities", {}), ("query-status", {"x": 1}), ("stop", {}),
        ("blockdev-add", {"driver": "file", "node-name": "f0", "filename": disk}),
        ("blockdev-add", {"driver": "file", "node-name": "f0", "filename": other}),
        ("blockdev-add", {"driver": "raw", "node-name": "n0", "file": "f0"}),
        ("blockdev-add", {"driver": "raw", "node-name": "n1",
                          "file": {"driver": "file", "filename": other}, "read-only": True,
                          "cache": {"direct": False, "no-flush": False}}),
        ("blockdev-add", {"driver": "raw", "node-name": "n2", "file": "nowhere"}),
        ("blockdev-add", {"driver": "qcow2", "node-name": "n2",
                          "file": {"driver": "file", "filename": other}}),
        ("blockdev-add", {"driver": "nonsense", "node-name": "n2"}),
        ("blockdev-add", {"driver": "file", "node-name": "n2", "filename": "/nowhere/at/all"}),
        ("query-named-block-nodes", {"flat": True}),
        ("blockdev-del", {"node-name": "f0"}),
        ("blockdev-del", {"node-name": "n1"}),
        ("chardev-add", {"id": "c0", "backend": {"type": "null", "data": {}}}),
        ("chardev-add", {"id": "c0", "backend": {"type": "null", "data": {}}}),
        ("chardev-add", {"id": "c1", "backend": {"type": "null"}}),
        ("chardev-add", {"id": "c1", "backend": {"type": "socket", "data": {
            "addr": unix, "server": True, "wait": False}}}),
        ("chardev-add", {"id": "c2", "backend": {"type": "nonsense", "data": {}}}),
        ("query-chardev", {}),
        ("chardev-remove", {"id": "c1"}),
        ("netdev_add", {"type": "user", "id": "n0", "restrict": True}),
        ("netdev_add", {"type": "user", "id": "n0"}),
        ("netdev_add", {"type": "nonsense", "id": "n9"}),
        ("netdev_add", {"type": "user", "id": "n9", "nonsense": 1}),
        ("netdev_add", {"type": "user"}),
        ("netdev_add", {"type": "user", "id": "n1"}),
        ("netdev_del", {"id": "n1"}), ("netdev_del", {"id": "n1"}),
        ("set_link", {"name": "nothing", "up": True}), ("set_link", {"name": "n0"}),
        ("set_link", {"name": "n0", "up": 1}),
        ("device_del", {"id": "nothing"}), ("device_add", {"driver": "nonsense"}),
        ("device_add", {}), ("inject-nmi", {}),
        ("block_set_io_throttle", {"id": "nothing", **zeroes}),
        ("block-job-cancel", {"device": "nothing"}), ("block-stream", {"device": "nothing"}),
        ("block-commit", {"device": "nothing"}), ("job-dismiss", {"id": "nothing"}),
        ("block_resize", {"device": "nothing", "size": 1}),
        ("system_powerdown", {}), ("query-status", {}),
    ]


# Errors whose class is not QEMU's: there, a thing that is not there is DeviceNotFound in some
# commands and a GenericError in others, of the same kind of thing; here it is always the first.
def alike(mine, theirs_):
    return mine == theirs_ or (mine == "DeviceNotFound" and theirs_ == "GenericError") or \
        (mine == "DeviceNotFound" and theirs_ == "DeviceNotActive")


def test_the_same_script_is_answered_alike():
    with both() as (mine, qemu, folder):
        b = Schema(qemu)
        for command, arguments in script(folder):
            (kind, value), (their_kind, their_value) = (
                ask(q, command, arguments) for q in (mine, qemu))
            case = f"{command} {arguments}"
            equal(kind, their_kind, f"{case}: {value} beside {their_value}")
            if kind == "error":
                check(alike(value, their_value), f"{case}: {value} beside {their_value}")
            elif command in b.entries:
                fault = b.fault(b.entries[command]["ret-type"], value, case)
                check(not fault, fault)
                same_shape(value, their_value, case)


def same_shape(mine, their, where):
    """What both have is of one kind; lists are compared by their first items."""
    if mine is None or their is None or isinstance(mine, bool) != isinstance(their, bool):
        equal(type(mine), type(their), where)
    check(isinstance(mine, (int, float)) and isinstance(their, (int, float))
          or type(mine) is type(their), f"{where}: {mine!r} beside {their!r}")
    if isinstance(mine, dict):
        for key in set(mine) & set(their) - FREE_VALUES:
            same_shape(mine[key], their[key], f"{where}.{key}")
    if isinstance(mine, list):
        equal(bool(mine), bool(their), f"{where}: whether there are any")
        for pair in zip(mine[:1], their[:1]):
            same_shape(*pair, where)


def test_a_thousand_queries_take_no_longer_than_on_qemu_times_three():
    import time
    with both() as (mine, qemu, _):
        took = []
        for q in (mine, qemu):
            best = 1e9
            for _ in range(3):
                start = time.monotonic()
                for _ in range(1000):
                    q("query-status")
                best = min(best, time.monotonic() - start)
            took.append(best)
        print(f"# 1000 query-status: {took[0] * 1000:.1f} ms, QEMU {took[1] * 1000:.1f} ms")
        check(took[0] < 3 * took[1], f"{took}")


if __name__ == "__main__":
    hutch.main()
