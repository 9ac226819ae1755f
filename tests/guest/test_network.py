#!/usr/bin/env python3
"""VMs on named networks: payload guests (test_station.c) on this machine's own KVM, which
answer each other, at switches that are killed, networks that they move between, snapshots
and clones."""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import hutch
from hutch import PATIENCE, Vm, check, equal, image
from processes import wait_until_gone
from qmp import Qmp, QmpError

QEMU = os.environ.get("QEMU", "/usr/bin/qemu-system-x86_64")
KERNEL = ("payload", "payload.elf")
LIMIT = 60


class Lab:
    """Networks, VMs and snapshots in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {"XDG_RUNTIME_DIR": self.path("run"), "HUTCH_NETWORKS": self.path("networks"),
                    "XDG_DATA_HOME": self.path("data"), "XDG_CACHE_HOME": self.path("cache"),
                    "HUTCH_SNAPSHOTS": self.path("snapshots"),
                    "HUTCH_TEMPLATES": self.path("templates")}
        os.mkdir(self.path("run"), 0o700)
        self.vms = contextlib.ExitStack()

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def __call__(self, *arguments, status=0):
        """What a verb prints; its sentence if a status is expected."""
        done = subprocess.run([hutch.HUTCH, *map(str, arguments)], capture_output=True, text=True,
                              check=False, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL,
                              timeout=LIMIT * PATIENCE)
        equal(done.returncode, status, f"hutch {' '.join(map(str, arguments))} ({done.stderr})")
        return done.stderr if status else done.stdout

    def network(self, name="blue", *options, subnet="10.5.0.0/24"):
        self("net", "create", name, "--subnet", subnet, *(options or ("--isolated",)))

    def station(self, name, net, *arguments, words=(), **options):
        """A VM that is a machine on a network; it has begun."""
        vm = self.vms.enter_context(
            Vm("--name", name, "--kernel", image(*KERNEL), "--memory", "64M", "--debug-exit",
               "--cmdline", " ".join(["test=station", *words]),
               *(("--net", net) if net else ()), *arguments, env=self.env, **options))
        vm.expect(r"^station (mac[^\n]*|waits)\r?\n")
        return vm

    def qmp(self, name, vm):
        socket_of = self.path("run", "hutch", name, "control.sock")
        return self.vms.enter_context(contextlib.closing(Qmp(socket_of, vm.process)))

    def ask(self, network, command, **arguments):
        """What a network's switch returns."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(LIMIT * PATIENCE)
            s.connect(self.path("run", "hutch-net", network, "control.sock"))
            s.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            with s.makefile() as lines:
                reply = json.loads(lines.readline())
        check("return" in reply, f"{command}: {reply}")
        return reply["return"]

    def ports(self, network):
        return {port["vm"]: port for port in self.ask(network, "query-ports") if "vm" in port}

    def switch_pid(self, network="blue"):
        """Of the one that runs now; waits for it."""
        return self.until(lambda: self.ask(network, "query-status")["pid"], "a switch")

    def until(self, met, what):
        """What `met` returns when that is something; it may fail until then."""
        end = time.monotonic() + LIMIT * PATIENCE
        while True:
            with contextlib.suppress(OSError, ValueError, AssertionError, KeyError):
                got = met()
                if got:
                    return got
            check(time.monotonic() < end, f"{what}: waited in vain")
            time.sleep(0.01)

    def close(self):
        self.vms.close()
        for name in os.listdir(self.path("run", "hutch-net")) \
                if os.path.isdir(self.path("run", "hutch-net")) else ():
            with contextlib.suppress(OSError, ValueError):
                pid = self.ask(name, "query-status")["pid"]
                os.kill(pid, signal.SIGKILL)
                wait_until_gone([pid])


@contextlib.contextmanager
def lab():
    hutch.needs_kvm()
    image(*KERNEL)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hutch-") as folder:
        place = Lab(folder)
        try:
            yield place
        finally:
            place.close()


def does(vm, command, answer="done", limit=LIMIT):
    vm.send(command + "\n")
    return vm.expect(rf"^{command.split()[0]} {answer}[^\n]*\n", limit)


def address_of(vm):
    """Its IPv4 and MAC addresses."""
    vm.send("address\n")
    return [part.decode() for part in
            vm.expect(r"^address ([\d.]+) mac=([\da-f:]{17})").groups()]


def count(vm):
    """Frames that it got since it was asked last."""
    vm.send("count\n")
    return int(vm.expect(r"^count frames=(\d+) ")[1])


# ---- being there -----------------------------------------------------------------------------------

def test_two_vms_reach_each_other_and_their_gateway():
    with lab() as l:
        l.network()
        a = l.station("a", "blue,ip=10.5.0.2", words=["ip=10.5.0.2"])
        b = l.station("b", "blue", words=["dhcp=1", "tso=1"])
        b.expect(r"^address 10\.5\.0\.")
        does(b, "ping 10.5.0.2 5")
        does(b, "ping 10.5.0.1 5")
        does(a, "echo " + address_of(b)[0] + " 200 1400")
        count(a)
        does(b, "flood 10.5.0.2 5 20000")  # segments that a cannot take are cut for it
        frames = [0]
        l.until(lambda: frames.append(count(a)) or sum(frames) >= 5 * 20000 / 1500, "the pieces")
        ports = l.ports("blue")
        equal(sorted(ports), ["a", "b"])
        equal(ports["a"]["mac"], address_of(a)[1])
        qmp = l.qmp("a", a)
        card = [d for d in qmp("x-hutch-query-devices") if d["option"] == "net"][0]
        equal(card["network"], "blue")


def test_ps_tells_networks_and_addresses_also_beside_a_switch_that_hangs():
    with lab() as l:
        l.network("blue")
        l.network("red", subnet="10.6.0.0/24")
        l.station("a", "blue,ip=10.5.0.2", "--net", "red,ip=10.6.0.2", words=["ip=10.5.0.2"])
        l.station("b", None, words=["wait=1"])

        def listed():
            rows = {row["name"]: row for row in json.loads(l("ps", "--json"))}
            equal(rows["b"]["networks"], [])
            equal(sorted(rows), ["a", "b"])
            return rows["a"]["networks"]

        blue, red = listed()
        equal((blue["network"], blue["id"], blue["addresses"]), ("blue", "net0", ["10.5.0.2"]))
        equal((red["network"], red["id"]), ("red", "net1"))
        equal(blue["mac"], l.ports("blue")["a"]["mac"])
        head, of_a, of_b = l("ps").splitlines()
        at = head.index("NETWORKS")
        check(of_a[at:].startswith("blue 10.5.0.2, red 10.6.0.2  "), of_a)
        check(of_b[at:].startswith("-  "), of_b)
        check("networks   blue 10.5.0.2, red 10.6.0.2\n" in l("inspect", "a"), "inspect is silent")
        hung = l.switch_pid("blue")
        os.kill(hung, signal.SIGSTOP)
        try:
            equal([card["network"] for card in listed()], ["red"])
        finally:
            os.kill(hung, signal.SIGCONT)


def test_a_networks_mtu_is_offered_to_the_guest():
    with lab() as l:
        l.network("blue", "--isolated", "--mtu", "1400")
        a = l.station("a", "blue")
        check(" mtu=1400 " in a.text(), a.text())
        b = l.station("b", "blue,mtu=1300")
        check(" mtu=1300 " in b.text(), b.text())


# ---- a switch that dies ----------------------------------------------------------------------------

def test_traffic_goes_on_when_the_switch_is_killed_again_and_again():
    with lab() as l:
        l.network()
        a = l.station("a", "blue,ip=10.5.0.2", words=["ip=10.5.0.2"])
        b = l.station("b", "blue,ip=10.5.0.3", words=["ip=10.5.0.3"])
        seen = set()
        b.send("echo 10.5.0.2 0 1400\n")  # until it is stopped

        def busy():
            """Whether echoes come back by the switch that runs now."""
            ports = l.ports("blue")
            return len(ports) == 2 and ports["b"]["in"]["frames"] > 100

        for _ in range(3):
            l.until(busy, "traffic")
            pid = l.switch_pid()
            equal(pid in seen, False, "a switch that was killed")
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
            wait_until_gone([pid])
        l.until(busy, "traffic after the last")
        b.send("stop\n")
        done = b.expect(r"^echo (done|gave up) count=(\d+) again=(\d+) ")
        equal(done[1], b"done")
        check(int(done[3]) > 0, "nothing was lost: it was not killed under traffic")
        does(a, "ping 10.5.0.3 3")
        check(l.switch_pid() not in seen, "the last one was killed")


# ---- plugs -----------------------------------------------------------------------------------------

def test_a_card_is_plugged_in_and_its_link_is_seen_by_the_switch():
    with lab() as l:
        l.network()
        a = l.station("a", None, words=["wait=1", "ip=10.5.0.2"])
        b = l.station("b", "blue,ip=10.5.0.3", words=["ip=10.5.0.3"])
        qmp = l.qmp("a", a)
        qmp("netdev_add", type="network", id="n", network="blue", ip=["10.5.0.2"])
        try:
            qmp("netdev_add", type="network", id="m", network="no/name")
            raise AssertionError("a name that no network has was taken")
        except QmpError as error:
            check("no/name" in str(error), str(error))
        qmp("netdev_add", type="stream", id="s", server=False,
            addr={"type": "unix", "path": l.path("nobody")})
        try:
            qmp("device_add", driver="virtio-net-pci", id="other", netdev="s")
            raise AssertionError("a socket that nobody listens on was taken")
        except QmpError as error:
            check(l.path("nobody") in str(error), str(error))
        equal(sorted(l.ports("blue")), ["b"])  # it is a note of options
        qmp("device_add", driver="virtio-net-pci", id="card", netdev="n")
        equal(l.ports("blue")["a"]["nic"], "card")
        qmp("system_reset")
        a.expect("station waits")
        a.send("\n")
        a.expect("station mac")
        does(a, "ping 10.5.0.3 3")
        qmp("set_link", name="card", up=False)
        a.expect("^link down")
        l.until(lambda: l.ports("blue")["a"]["link"] is False, "the link's end at the switch")
        qmp("set_link", name="card", up=True)
        a.expect("^link up")
        l.ask("blue", "set-port", vm="a", link=False)
        a.expect("^link down")
        qmp("set_link", name="card", up=False)  # who pulls it as well ...
        qmp("set_link", name="card", up=True)
        l.ask("blue", "set-port", vm="a", link=True)
        a.expect("^link up")                     # ... is waited for by both
        does(b, "ping 10.5.0.2 3")


def test_a_card_moves_to_another_network_with_its_address():
    with lab() as l:
        l.network("blue")
        l.network("red", subnet="10.6.0.0/24")
        a = l.station("a", "blue,id=net0", words=["dhcp=1", "tso=1"])
        b = l.station("b", "red,ip=10.6.0.9", words=["ip=10.6.0.9"])
        a.expect(r"^address 10\.5\.0\.")
        mac = address_of(a)[1]
        qmp = l.qmp("a", a)
        for bad in ({"network": "green"}, {"type": "stream", "path": l.path("nobody")}):
            try:
                qmp("x-hutch-net-connect", id="net0", **bad)
                raise AssertionError(f"{bad} was taken")
            except QmpError:
                pass
        equal(l.ports("blue")["a"]["link"], True)  # nothing has happened
        qmp("x-hutch-net-connect", id="net0", network="red")
        a.expect("^link down")
        a.expect("^link up")
        a.expect(r"^announce")
        a.expect(r"^address 10\.6\.0\.")
        does(a, "ping 10.6.0.9 3")
        equal(address_of(a)[1], mac)
        equal(sorted(l.ports("red")), ["a", "b"])
        l.until(lambda: not l.ports("blue"), "its leaving")
        card = [d for d in qmp("x-hutch-query-devices") if d["option"] == "net"][0]
        equal((card["network"], card["link"]), ("red", True))
        # Its driver goes on to leave checksums and segments to a card that has none.
        l("set", "a", "net0.network=user")
        a.expect("^link up")
        a.expect(r"^address 10\.0\.2\.15")
        does(a, "ping 10.0.2.2 3")
        does(a, "flood 10.0.2.2 5 20000")
        does(a, "ping 10.0.2.2 3")
        does(b, "ping 10.6.0.1 1")


def test_who_is_disconnected_stays_away_until_it_is_connected_again():
    with lab() as l:
        l.network()
        a = l.station("a", "blue,ip=10.5.0.2,id=net0", words=["ip=10.5.0.2"])
        b = l.station("b", "blue,ip=10.5.0.3", words=["ip=10.5.0.3"])
        l("net", "disconnect", "blue", "a:net0", "--force")
        a.expect("^link down")
        equal(sorted(l.ports("blue")), ["b"])
        l("net", "connect", "blue", "a:net0")
        a.expect("^link up")
        equal(sorted(l.ports("blue")), ["a", "b"])
        does(b, "ping 10.5.0.1 1")


# ---- saved and copied ------------------------------------------------------------------------------

def test_a_restored_vm_is_on_its_network_again():
    with lab() as l:
        l.network("blue")
        l.network("red", subnet="10.6.0.0/24")
        a = l.station("a", "blue,ip=10.5.0.2,id=net0", words=["ip=10.5.0.2"])
        b = l.station("b", "blue,ip=10.5.0.3", words=["ip=10.5.0.3"])
        does(a, "ping 10.5.0.3 1")
        mac = address_of(a)[1]
        l("snapshot", "create", "a", "saved", "--stop")
        a.wait()
        l.until(lambda: sorted(l.ports("blue")) == ["b"], "its leaving")
        with Vm("--restore", "saved", "--name", "other", env=l.env) as again:  # whose MAC stays
            again.expect("^announce")
            equal(l.ports("blue")["other"]["mac"], mac)
            does(again, "ping 10.5.0.3 3")
            does(b, "ping 10.5.0.2 3")
        l.until(lambda: sorted(l.ports("blue")) == ["b"], "its leaving")
        with Vm("--restore", "saved", "--name", "a", "--net", "net0=red,ip=10.5.0.2",
                env=l.env) as again:
            again.expect("^announce")
            equal(l.ports("red")["a"]["mac"], mac)


def test_clones_are_on_their_templates_network_each_as_itself():
    with lab() as l:
        l.network("blue")
        source = l.station("source", "blue,ip=10.5.0.2,group=front", words=["ip=10.5.0.2"])
        l("template", "create", "source", "golden")
        source.send("quit\n")
        source.wait()
        l("clone", "golden", "--count", "2", "--name", "c%d")
        try:
            ports = l.until(lambda: len(l.ports("blue")) == 2 and l.ports("blue"), "two clones")
            equal(len({port["mac"] for port in ports.values()}), 2, f"{ports}")
            check("source" not in ports, f"{ports}")
            for port in ports.values():
                equal(port["groups"], ["front"])
                check("10.5.0.2" not in port["addresses"], f"{port}")
        finally:
            for name in l("ps", "--quiet").split():
                l("rm", "--force", name)


def test_a_clones_guest_is_heard_when_it_knows_its_own_mac():
    with lab() as l:
        l.network("blue")
        source = l.station("source", "blue", words=["dhcp=1"])
        source.expect(r"^address 10\.5\.0\.")
        theirs = address_of(source)[1]
        l("template", "create", "source", "golden")
        source.send("quit\n")
        source.wait()
        l("clone", "golden", "--count", "2", "--name", "c%d")

        def leases():
            return {lease.get("vm"): lease for lease in l.ask("blue", "query-leases") if "expires" in lease}

        try:
            for name in ("c1", "c2"):  # they announce themselves by the address of their template
                l.until(lambda name=name: l.ports("blue")[name]["out"]["spoofed"], "a frame that is spoofed")
                check(f"net0 of {name}: sends as {theirs}" in l("net", "log", "blue"), l("net", "log", "blue"))
            check(not {"c1", "c2"} & set(leases()), "an address")
            l("reset", "c1", "c2")
            for name in ("c1", "c2"):
                lease = l.until(lambda name=name: leases()[name], "an address")
                equal(lease["mac"], l.ports("blue")[name]["mac"])
        finally:
            for name in l("ps", "--quiet").split():
                l("rm", "--force", name)


# ---- what cannot be --------------------------------------------------------------------------------

def test_what_cannot_be_is_one_sentence():
    with lab() as l:
        l.network("blue")
        guest = ["run", "--kernel", image(*KERNEL), "--cmdline", "test=spin", "--memory", "64M"]

        def refused(net, *words, name="x", **env):
            hutch.refused(*guest[1:], "--name", name, "--net", net, words=words,
                          env={**l.env, **env})

        refused("blau", "blau", "blue")
        refused("blue,ip=hello", "ip:", "hello")
        refused("blue,ifname=t0", "ifname=", "tap")
        refused("../blue", "../blue")
        refused("blue", "hutch-switch", HUTCH_SWITCH="/nonexistent/hutch-switch")
        l.station("a", "blue,ip=10.5.0.2,mac=02:00:00:00:00:01", words=["ip=10.5.0.2"])
        refused("blue,ip=10.5.0.2", "10.5.0.2", "a")
        refused("blue,mac=02:00:00:00:00:01", "02:00:00:00:00:01", "a")
        rules = l.path("rules")
        with open(rules, "w", encoding="ascii") as f:
            f.write("allow in tcp\nallow in perhaps\n")
        refused(f"blue,firewall={rules}", f"{rules}:2:", "perhaps")
        refused(f"blue,firewall={l.path('none')}", "none")
        equal(sorted(l.ports("blue")), ["a"])  # nothing half-created
        os.chmod(l.path("networks", "blue", "config.json"), 0)
        if os.geteuid():  # root reads it all the same
            os.kill(l.switch_pid(), signal.SIGKILL)
            refused("blue", "config.json")


# ---- foreign ends ----------------------------------------------------------------------------------

@contextlib.contextmanager
def qemu(*arguments, words):
    """The same guest under QEMU."""
    command = [QEMU, "-M", "microvm,accel=kvm,pit=off,pic=off,rtc=off,acpi=off", "-m", "64M",
               "-global", "virtio-mmio.force-legacy=false", "-no-user-config", "-nodefaults",
               "-display", "none", "-serial", "stdio", "-kernel", image(*KERNEL), "-append",
               f"test=station {words}", "-device", "virtio-net-device,netdev=n,mac=52:54:00:00:00:01",
               *arguments]
    with Vm(*command, verb=None, wrap=["sh", "-c", 'shift; exec "$@"', "sh"]) as vm:
        yield vm


def test_a_stream_has_a_guest_of_qemu_at_its_other_end():
    if not shutil.which(QEMU):
        raise hutch.Skip("qemu-system-x86_64 is not installed")
    with lab() as l:
        path = l.path("s")
        for ours, theirs in ((f"stream,path={path}", "server=on"),
                             (f"stream,path={path},listen", "server=off")):
            with contextlib.ExitStack() as stack:
                netdev = ["-netdev", f"stream,id=n,{theirs},addr.type=unix,addr.path={path}"]
                if theirs == "server=on":
                    peer = stack.enter_context(qemu(*netdev, words="ip=10.5.0.2"))
                    l.until(lambda: os.path.exists(path), "QEMU's socket")
                    vm = l.station("a", ours, words=["ip=10.5.0.3"])
                else:
                    vm = l.station("b", ours, words=["ip=10.5.0.3"])
                    peer = stack.enter_context(qemu(*netdev, words="ip=10.5.0.2"))
                    vm.expect("^link up")
                peer.expect("station mac")
                does(vm, "echo 10.5.0.2 300 1400")
                does(peer, "ping 10.5.0.3 3")
                vm.send("quit\n")
                equal(vm.wait(), 0)
            if os.path.exists(path):
                os.unlink(path)


if __name__ == "__main__":
    hutch.main()
