#!/usr/bin/env python3
"""Templates and clones, from outside: payload guests on this machine's own KVM."""
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import time

import hutch
from hutch import check, equal, image
from test_fleet import LIMIT, Fleet

GUEST = "test=clone pages=256"
IDLE = "test=spin how=hlt"


class Clones(Fleet):
    """VMs, templates and snapshots in a folder of its own."""

    def __init__(self, folder):
        runtime = os.path.join(folder, "run")
        os.mkdir(runtime)
        super().__init__(runtime)
        self.templates = os.path.join(folder, "templates")
        self.env |= {"HUTCH_TEMPLATES": self.templates,
                     "HUTCH_SNAPSHOTS": os.path.join(folder, "snapshots"),
                     "XDG_CACHE_HOME": os.path.join(folder, "cache")}

    def guest(self, name, *arguments, test=GUEST, memory="64M"):
        """A VM that has said that it is ready."""
        self("run", "-d", "--name", name, "--kernel", image("payload", "payload.elf"),
             "--memory", memory, "--debug-exit", "--cmdline", test, *arguments)
        if test == GUEST:
            with Console(self, name) as console:
                console.expect("clone ready")

    def template(self, name, *arguments, **options):
        self.guest("source", *arguments, **options)
        self("template", "create", "source", name)
        self("rm", "--force", "source")

    def clone(self, *arguments):
        return json.loads(self("clone", "--json", *arguments))

    def anonymous(self):
        return [n for n in os.listdir(self.templates) if n.startswith(".clone-")]

    def queries(self, name, command):
        return json.loads(self("control", name, command))


class Console:
    """The console of a VM in the background."""

    def __init__(self, fleet, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(fleet.path(name, "console.sock"))
        self.said = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def expect(self, pattern, limit=LIMIT):
        end = time.monotonic() + limit
        while not (match := re.search(pattern.encode(), self.said)):
            check(select.select([self.socket], [], [], max(end - time.monotonic(), 0))[0],
                  f"the guest did not say {pattern}, but {self.said[-500:]}")
            data = self.socket.recv(65536)
            check(data, f"the console ended; it said {self.said[-500:]}")
            self.said += data
        self.said = self.said[match.end():]
        return [group.decode() for group in match.groups()]

    def ask(self, letter, pattern):
        self.socket.sendall(letter.encode())
        return self.expect(pattern)


@contextlib.contextmanager
def clones():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        fleet = Clones(folder)
        try:
            yield fleet
        finally:
            fleet.ask("rm", "--force", "--all")


def lives_of(fleet, name):
    """Which life it is in, asked twice, and each time whether it has become another."""
    pattern = r"life ([0-9a-f]{32}) event=([01])\n"
    with Console(fleet, name) as console:
        return [*console.ask("i", pattern), *console.ask("i", pattern)]


def rollup(pid, key):
    """KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(key))


# ---- who they are ------------------------------------------------------------------------


def test_each_clone_has_its_own_identity_and_the_guest_is_told():
    with clones() as fleet:
        address = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        fleet.guest("web", "--net", f"user,hostfwd=tcp:{address}:1-:22,mac=02:00:00:00:00:07")
        told = fleet.clone("web", "--count", 3)
        equal([c["name"] for c in told], ["web-1", "web-2", "web-3"])
        names = ["web", *(c["name"] for c in told)]
        equal(len({fleet.queries(n, "query-uuid")["UUID"] for n in names}), 4)
        for clone in told:
            equal(fleet.queries(clone["name"], "query-uuid")["UUID"], clone["uuid"])
            equal(fleet.queries(clone["name"], "query-name")["name"], clone["name"])
            equal(json.loads(fleet("inspect", "--json", clone["name"]))["uuid"], clone["uuid"])
        cards = [fleet.queries(n, "x-hutch-query-devices")[0] for n in names]
        equal(len({c["own-mac"] for c in cards}), 4, f"{cards}")
        equal(len({c["mac"] for c in cards}), 1, "what their drivers use until they are told")
        lives = [lives_of(fleet, n) for n in names]
        equal(len({guid for guid, *_ in lives}), 4, f"{lives}")
        equal([event for _, event, *_ in lives], ["0", "1", "1", "1"], "who is told of it")
        equal([again[2:] for again in lives], [[guid, "0"] for guid, *_ in lives])


def test_a_restored_vm_keeps_its_uuid():
    with clones() as fleet:
        fleet.guest("one", "--uuid", "123E4567-e89b-12d3-a456-426614174000")
        fleet("snapshot", "create", "one", "s")
        fleet("rm", "--force", "one")
        fleet("run", "-d", "--restore", "s", "--name", "again")
        equal(fleet.queries("again", "query-uuid")["UUID"],
              "123e4567-e89b-12d3-a456-426614174000")


def test_what_one_clone_writes_no_other_sees():
    with clones() as fleet:
        fleet.template("t")
        for clone in fleet.clone("t", "--count", 3, "--name", "c%02d"):
            with Console(fleet, clone["name"]) as console:
                equal(console.ask("w", r"written 256, were (\d+)\n"), ["256"])
                equal(console.ask("w", r"written 256, were (\d+)\n"), [str(256 * 257 // 2)])
        equal(fleet.names(), ["c01", "c02", "c03"])


def test_forwarded_ports_are_said_for_each():
    with clones() as fleet:
        fleet.template("t", "--net", "user,id=lan")
        fleet("clone", "t", "--count", 2, "--net", "lan=user,hostfwd=tcp:127.0.0.1:1863%d-:22")
        for number in (1, 2):
            config = json.loads(fleet("config", "show", f"t-{number}"))
            equal(config["net"][0]["hostfwd"], [f"tcp:127.0.0.1:1863{number}-:22"])
            socket.create_connection(("127.0.0.1", 18630 + number)).close()
        error = fleet("clone", "t", "--net", "wan=user", status=125)
        check("lan" in error, error)


# ---- what they share ---------------------------------------------------------------------


def test_a_template_in_use_is_not_removed_and_a_detached_clone_does_not_need_it():
    with clones() as fleet:
        fleet.template("t")
        fleet("clone", "t", "--count", 2)
        error = fleet("template", "rm", "t", status=125)
        check("'t-1'" in error and "'t-2'" in error, error)
        fleet("rm", "--force", "t-2")
        moved = json.loads(fleet("clone", "detach", "t-1", "--json"))
        check(moved["memory"] >= 256 * 4096, moved)
        fleet("template", "rm", "t")
        equal(fleet("template", "ls", "--quiet"), "")
        with Console(fleet, "t-1") as console:
            equal(console.ask("w", r"written 256, were (\d+)\n"), ["256"])
        fleet("snapshot", "create", "t-1", "after")
        fleet("control", "t-1", "system_reset")
        with Console(fleet, "t-1") as console:
            console.expect("clone ready")


def test_a_template_of_a_snapshot_outlives_it():
    with clones() as fleet:
        fleet.guest("one")
        fleet("snapshot", "create", "one", "s")
        fleet("template", "create", "s", "t")
        fleet("snapshot", "rm", "s")
        fleet("clone", "t")
        with Console(fleet, "t-1") as console:
            equal(console.ask("w", r"written 256, were (\d+)\n"), ["256"])


def test_clones_write_to_disks_of_their_own():
    with clones() as fleet, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        fleet.template("t", "--disk", disk)
        fleet("clone", "t", "--count", 2)
        fleet("clone", "t", "--name", "kept", "--disks", folder)
        tops = []
        for name in ("t-1", "t-2", "kept"):
            (info,) = fleet.queries(name, "query-block")
            image_info = info["inserted"]["image"]
            equal(image_info["backing-image"]["filename"], disk)
            tops.append(image_info["filename"])
        equal(tops, [fleet.path("t-1", "disk0.qcow2"), fleet.path("t-2", "disk0.qcow2"),
                     os.path.join(folder, "kept-disk0.qcow2")])
        fleet("clone", "detach", "t-1")
        (info,) = fleet.queries("t-1", "query-block")
        check("backing-image" not in info["inserted"]["image"], info)
        for name in ("t-1", "kept"):
            fleet("rm", "--force", name)
        equal([os.path.exists(top) for top in tops], [False, True, True])


def test_what_a_running_vms_clones_share_goes_with_the_last_of_them():
    with clones() as fleet:
        fleet.guest("one")
        fleet("clone", "one", "--count", 2)
        equal(len(fleet.anonymous()), 1)
        fleet("rm", "--force", "one-1")
        equal(len(fleet.anonymous()), 1)
        with Console(fleet, "one-2") as console:
            equal(console.ask("w", r"written 256, were (\d+)\n"), ["256"])
        fleet("rm", "--force", "one-2")
        equal(fleet.anonymous(), [])
        fleet("clone", "one", "--count", 2)
        fleet("kill", "one-1", "one-2")
        fleet("template", "ls")
        equal(fleet.anonymous(), [], "what clones that were killed have shared")


def test_a_clone_of_a_clone_leaves_that_ones_disk_whole():
    with clones() as fleet, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        fleet.template("t", "--disk", disk)
        fleet("clone", "t", "--name", "one")
        fleet("clone", "one", "--count", 2)
        fleet("rm", "--force", "one-1", "one-2")
        (info,) = fleet.queries("one", "query-block")
        layer = info["inserted"]["image"]["backing-image"]["filename"]
        check(os.path.exists(layer), f"{layer} went with one's clones")
        fleet("clone", "one")
        fleet("rm", "--force", "one")
        fleet("rm", "--force", "one-1")
        fleet("template", "ls")
        equal(fleet.anonymous(), [])


# ---- many --------------------------------------------------------------------------------


def test_a_hundred_clones_are_there_at_once_and_have_little_of_their_own():
    with clones() as fleet:
        fleet.template("t", test=IDLE, memory="512M")
        best = 1e9
        for _ in range(2):
            began = time.monotonic()
            told = fleet.clone("t", "--count", 100)
            best = min(best, time.monotonic() - began)
            equal(len({c["uuid"] for c in told}), 100)
            own = [rollup(c["pid"], "Private_") for c in told]
            check(max(own) <= (4096 if hutch.sanitized() else 1024), f"KiB of their own: {sorted(own)}")
            if best < 1:
                break
            fleet("rm", "--force", "--all")
        equal(len(fleet.names()), 100)
        print(f"# 100 clones of 512 MiB: {best * 1000:.0f} ms, {max(own)} KiB private at most")
        check(best <= 10 * hutch.PATIENCE, f"{best:.1f} s")


# ---- warm starts -------------------------------------------------------------------------


def warm(fleet):
    return json.loads(fleet("warm", "ls", "--json"))


def logged(fleet, name, letter, pattern):
    """What a guest answers, by its log: its console shows first what was said before it was
    saved, too."""
    end = time.monotonic() + LIMIT
    with Console(fleet, name) as console:
        console.socket.sendall(letter.encode())
        while time.monotonic() < end:
            with open(fleet.path(name, "console.log"), encoding="ascii") as log:
                if match := re.search(pattern, log.read()):
                    return match
            time.sleep(0.01)
    raise AssertionError(f"{name} does not say {pattern}")


def kept(fleet, number):
    """Waits until so many VMs have been kept."""
    end = time.monotonic() + LIMIT
    while len(warm(fleet)) < number:
        check(time.monotonic() < end, f"only {warm(fleet)} are kept")
        time.sleep(0.02)


def test_a_warm_start_goes_on_where_the_first_one_had_booted():
    with clones() as fleet, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        os.utime(disk, (1, 1))
        lives = set()
        for name in ("one", "two", "three"):
            fleet.guest(name, "--warm=1", "--disk", disk, "--net", "user")
            said = logged(fleet, name, "i", r"life ([0-9a-f]{32})")
            lives.add(said[1])
            equal("clone ready" in said.string, name == "one", f"{name} has booted")
            (info,) = fleet.queries(name, "query-block")
            top = info["inserted"]["image"]["filename"]
            check(top.startswith(fleet.path(name)), f"it writes to {top}")
            kept(fleet, 1)
        equal(len(lives), 3)
        (entry,) = warm(fleet)
        check(entry["in-use"] and not entry["stale"], entry)
        check("in use" in fleet("warm", "rm", entry["name"], status=125), "it was removed")
        os.utime(disk, (2, 2))
        check(warm(fleet)[0]["stale"], "the disk was written to")
        fleet("rm", "--force", "--all")
        fleet.guest("other", "--warm=1", "--disk", disk, "--net", "user")
        kept(fleet, 1)
        end = time.monotonic() + LIMIT
        while [e["stale"] for e in warm(fleet)] != [False]:
            check(time.monotonic() < end, f"what is stale stays: {warm(fleet)}")
            time.sleep(0.02)
        fleet("rm", "--force", "--all")
        fleet("warm", "rm", "--all")
        equal(warm(fleet), [])


def test_what_a_warm_start_waits_for_is_said():
    with clones() as fleet:
        for how, words in (("agent", "--agent"), ("soon", "number of seconds")):
            error = fleet("run", "-d", "--name", "x", "--kernel", image("payload", "payload.elf"),
                          f"--warm={how}", status=125)
            check(words in error, error)
        error = fleet("run", "--warm", "--kernel", image("payload", "payload.elf"), status=125)
        check("--name" in error, error)


# ---- what goes wrong ---------------------------------------------------------------------


def test_what_cannot_be_is_refused_and_starts_nothing():
    with clones() as fleet:
        fleet.template("t")
        for arguments, words in (
                (("none",), "no template 'none'"), (("t", "--count", 2, "--name", "x"), "%d"),
                (("t", "--name", "a%s"), "%s"), (("t", "--name", "a/b"), "cannot be a VM's name"),
                (("t", "--wait", "x"), "boot, agent or tcp:PORT"),
                (("t", "--wait", "agent"), "--agent"), (("t", "--count", 0), "count"),
                (("t", "--net", "lan=user"), "net")):
            error = fleet("clone", *arguments, status=125)
            check(words in error, f"{arguments}: {error}")
            equal(fleet.names(), [], f"{arguments}")
        fleet("template", "create", "t", "u", status=125)
        fleet.guest("one")
        check("exists" in fleet("template", "create", "one", "t", status=125), "another t")
        fleet("clone", "t", "--name", "one", status=125)
        equal(fleet.names(), ["one"])


def test_a_clone_that_failed_takes_nothing_from_the_next_of_its_name():
    """What it had made for its disks went by its path, after its name was free again."""
    with clones() as fleet:
        with tempfile.NamedTemporaryFile(dir="/var/tmp", suffix=".raw") as disk:
            disk.truncate(1 << 20)
            fleet.template("t", "--disk", disk.name, "--net", "user")
            for _ in range(20):
                fleet("clone", "t", "--name", "one", "--wait", "tcp:22", status=125)
                fleet("clone", "t", "--name", "one")
                fleet("rm", "--force", "one")


def test_a_clone_command_that_is_killed_leaves_vms_that_can_be_removed():
    with clones() as fleet:
        fleet.guest("one")
        for delay in (0, 0.005, 0.02, 0.05, 0.1):
            command = fleet.start("clone", "one", "--count", 8)
            time.sleep(delay * hutch.PATIENCE)
            command.send_signal(signal.SIGKILL)
            command.communicate()
            while any(fleet.state(n) in ("starting", "") for n in fleet.names()):
                time.sleep(0.01)
            for name in fleet.names():
                if name != "one":
                    fleet.ask("rm", "--force", name)
        end = time.monotonic() + LIMIT
        while fleet.anonymous() and time.monotonic() < end:
            fleet("template", "ls")
            fleet.ask("rm", "--force", *(n for n in fleet.names() if n != "one"))
        equal(fleet.anonymous(), [])
        equal(fleet.names(), ["one"])
        equal(subprocess.run(["pgrep", "-f", f"^{hutch.HUTCH} clone one"], check=False,
                             stdout=subprocess.PIPE, text=True).stdout, "")


if __name__ == "__main__":
    hutch.main()
