#!/usr/bin/env python3
"""hutch net and hutch firewall: networks are made, changed and removed whole or not at
all, and what cannot be is told in one sentence.  No guests: who is on a network is played
by frames.py."""
import contextlib
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time

import frames
import hutch
from hutch import PATIENCE, check, equal


class Place:
    """Folders of networks of this test's own."""

    def __init__(self, folder):
        self.folder = folder
        self.networks = os.path.join(folder, "networks")
        self.runtime = os.path.join(folder, "run")
        os.mkdir(self.runtime, 0o700)
        self.env = {"HUTCH_NETWORKS": self.networks, "XDG_RUNTIME_DIR": self.runtime,
                    "XDG_DATA_HOME": os.path.join(folder, "data")}

    def hutch(self, *arguments, status=0, stdin=None, words=()):
        """Runs a verb; what it printed, JSON if it was asked for."""
        done = subprocess.run([hutch.HUTCH, *arguments], capture_output=True, text=True,
                              input=stdin, check=False, timeout=60 * PATIENCE,
                              env={**os.environ, **self.env})
        case = "hutch " + " ".join(arguments)
        equal(done.returncode, status, f"{case}: status ({done.stderr.strip()})")
        for word in words:
            check(word in done.stdout, f"{case}: {word!r} is not in: {done.stdout}")
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def hutch_lines(self, *arguments):
        done = subprocess.run([hutch.HUTCH, *arguments], capture_output=True, text=True, check=True,
                              timeout=60 * PATIENCE, env={**os.environ, **self.env})
        return done.stdout.splitlines()

    def refused(self, *arguments, words=(), stdin=None):
        """One sentence with all of the words, and nothing has changed."""
        before = self.files()
        done = subprocess.run([hutch.HUTCH, *arguments], capture_output=True, text=True,
                              input=stdin, check=False, timeout=60 * PATIENCE,
                              env={**os.environ, **self.env})
        case = "hutch " + " ".join(arguments)
        equal((done.returncode, done.stdout), (125, ""), f"{case}: {done.stderr.strip()}")
        equal(len(done.stderr.splitlines()), 1, f"{case}: {done.stderr}")
        for word in words:
            check(word in done.stderr, f"{case}: {word!r} is not in: {done.stderr}")
        equal(self.files(), before, f"{case}: files")

    def run_folder(self, name):
        return os.path.join(self.runtime, "hutch-net", name)

    @contextlib.contextmanager
    def switch(self, name):
        """Its switch, which is ended if it still runs."""
        program = os.path.join(os.path.dirname(os.path.abspath(hutch.HUTCH)), "hutch-switch")
        process = subprocess.Popen([program, name], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, **self.env})
        try:
            equal(process.stdout.readline(), "ready\n")
            yield process
        finally:
            process.terminate()
            process.wait(30 * PATIENCE)
            process.stdout.close()

    def control(self, network, command):
        """What the switch returns, as text."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.path.join(self.run_folder(network), "control.sock"))
            s.sendall(json.dumps({"execute": command}).encode() + b"\n")
            return json.dumps(json.loads(s.makefile().readline())["return"])

    def port(self, network, vm, number, **more):
        return frames.VmPort(self.run_folder(network), vm=vm, mac=mac(number), **more)

    def files(self):
        """Every file of the networks and what is in it."""
        found = {}
        for at, _, names in os.walk(self.networks):
            for name in names:
                if name != ".lock":
                    with open(os.path.join(at, name), encoding="utf-8") as f:
                        found[os.path.relpath(os.path.join(at, name), self.networks)] = f.read()
        return found

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path


def mac(number):
    return f"02:00:00:00:00:{number:02x}"


@contextlib.contextmanager
def place():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Place(folder)


# ---- networks that are down ----------------------------------------------------------------


def test_a_network_is_made_listed_changed_and_removed():
    with place() as p:
        equal(p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24"), "blue: nat, 10.9.0.0/24\n")
        p.hutch("net", "create", "red", "--isolated", "--subnet6", "fd00:9::/64", "--dhcp", "off",
                "--dns=off", "--mtu", "9000", "--domain", "lab", "--storm", "0", "--ageing", "60")
        equal(stat.S_IMODE(os.stat(p.networks + "/red").st_mode), 0o700)
        equal(stat.S_IMODE(os.stat(p.networks + "/red/config.json").st_mode), 0o600)
        rows = p.hutch("net", "ls", "--json")
        equal([(r["name"], r["mode"], r["state"], r["ports"]) for r in rows],
              [("blue", "nat", "down", 0), ("red", "isolated", "down", 0)])
        equal(p.hutch("net", "ls", "--quiet"), "blue\nred\n")
        p.hutch("net", "ls", words=["SUBNET", "10.9.0.0/24", "fd00:9::/64"])

        config = p.hutch("net", "set", "red", "mtu=1400", "lease=", "--json")
        equal((config["mtu"], config["dhcp"], config["domain"], config["ageing"]),
              (1400, False, "lab", 60))
        p.hutch("net", "set", "blue", "lease+=web=10.9.0.7", "lease+=db=10.9.0.8",
                "forward=tcp::18080-web:80,udp::18053-db:53")
        config = p.hutch("net", "set", "blue", "lease-=web=10.9.0.7", "forward=", "--json")
        equal((config["lease"], config["forward"]), (["db=10.9.0.8"], []))
        p.hutch("net", "set", "blue", words=["lease", "db=10.9.0.8"])
        told = json.loads(p.hutch("net", "inspect", "blue"))
        equal((told["up"], told["gateway"], told["folder"]), (False, ["10.9.0.1"], p.networks + "/blue"))

        p.hutch("net", "rm", "blue", "red")
        equal(p.hutch("net", "ls", "--json"), [])
        equal(os.listdir(p.networks), [".lock"])


def test_subnets_that_are_free_are_found_and_kept():
    with place() as p:
        for name in ("a", "b"):
            p.hutch("net", "create", name, "--subnet6", "auto")
        a, b = p.hutch("net", "ls", "--json")
        check(a["subnet"] != b["subnet"] and a["subnet6"] != b["subnet6"], f"{a} {b}")
        p.hutch("net", "set", "a", "mtu=1300")
        equal(p.hutch("net", "ls", "--json")[0], a)


def test_many_networks_made_at_once_get_subnets_of_their_own():
    with place() as p:
        made = [subprocess.Popen([hutch.HUTCH, "net", "create", f"n{i}"], stdout=subprocess.DEVNULL,
                                 env={**os.environ, **p.env}) for i in range(12)]
        equal([m.wait() for m in made], [0] * 12)
        subnets = [r["subnet"] for r in p.hutch("net", "ls", "--json")]
        equal(len(set(subnets)), 12, str(subnets))


def test_what_cannot_be_is_told_in_one_sentence_and_changes_nothing():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/16", "--subnet6", "fd00:9::/64")
        p.hutch("net", "create", "red", "--subnet", "10.8.0.0/24", "--route", "blue")
        for arguments, words in (
                (["create", "blue"], ["'blue'", "already"]),
                (["create", "Blue"], ["'Blue'"]),
                (["create", "user"], ["'user'", "--net"]),
                (["create", "x", "--subnet", "10.9.3.0/24"], ["'blue'", "10.9.0.0/16"]),
                (["create", "x", "--subnet6", "fd00:9::/64"], ["'blue'", "fd00:9::/64"]),
                (["create", "x", "--subnet", "10.9.3.1/24"], ["subnet"]),
                (["create", "x", "--subnet", "10.7.0.0/31"], ["/29"]),
                (["create", "x", "--mtu", "500"], ["--mtu", "576"]),
                (["create", "x", "--mtu", "1000", "--subnet6", "auto"], ["1280"]),
                (["create", "x", "--isolated", "--nat"], ["--isolated, --nat"]),
                (["create", "x", "--isolated", "--forward", "tcp::1-a:2"], ["forward", "isolated"]),
                (["create", "x", "--subnet", "none"], ["subnet"]),
                (["create", "x", "--lease", "a=10.1.1.1"], ["'a=10.1.1.1'"]),
                (["create", "x", "--forward", "tcp:1"], ["'tcp:1'", "tcp::8080-web:80"]),
                (["create", "x", "--route", "x"], ["itself"]),
                (["create", "x", "--uplink", "wire"], ["'wire'"]),
                (["create", "x", "--colour", "blue"], ["--colour"]),
                (["create"], ["hutch net create NAME"]),
                (["set", "blue", "subnet=10.8.0.0/25"], ["'red'", "10.8.0.0/24"]),
                (["set", "blue", "mtu=9000", "mode=never"], ["'never'"]),
                (["set", "blue", "lease-=web=10.9.0.7"], ["web=10.9.0.7"]),
                (["set", "blue", "mtu+=1"], ["mtu"]),
                (["set", "blue", "doman=x"], ["'domain'"]),
                (["set", "blue", "x=1"], ["'x'", "mode, subnet"]),
                (["set", "blue", "mtu"], ["KEY=VALUE"]),
                (["set", "nobody", "mtu=1"], ["'nobody'", "blue, red"]),
                (["rm", "blue"], ["'red'", "hutch net route red rm blue"]),
                (["rm", "reds"], ["'reds'"]),
                (["route", "red"], ["hutch net route NETWORK"]),
                (["route", "red", "ad", "blue"], ["'ad'", "add"]),
                (["route", "red", "add"], ["'add'"]),
                (["route", "red", "ls", "blue"], ["'ls'"]),
                (["route", "red", "add", "blue"], ["'blue'", "already"]),
                (["route", "red", "add", "bleu"], ["'bleu'", "blue, red"]),
                (["route", "red", "add", "red"], ["itself"]),
                (["route", "red", "rm", "blue", "green"], ["'red' has no route to 'green'"]),
                (["inspect", "../blue"], ["'../blue'"]),
                (["capture", "blue"], ["'blue'", "no VM"]),
                (["limit", "blue", "web", "--rate", "x"], ["--rate"]),
                (["impair", "blue", "web", "--loss", "0.1"], ["--loss", "percentage"]),
                (["impair", "blue", "web", "--delay", "20"], ["--delay", "20ms"]),
                (["impair", "blue", "web", "--cut", "--restore"], ["--cut"]),
                (["port", "blue", "web", "--vlan", "4095"], ["--vlan", "4094"]),
                (["connect", "blue"], ["--stream"]),
                (["connect", "blue", "web"], ["web"]),
                (["connect", "blue", "web:"], ["VM[:NIC]"])):
            p.refused("net", *arguments, words=words)
        p.hutch("net", "rm", "blue", "--force")
        p.hutch("net", "rm", "red")


def test_a_damaged_config_is_named_and_can_be_removed():
    with place() as p:
        p.hutch("net", "create", "blue")
        p.write("networks/blue/config.json", '{"mtu": 1}')
        p.refused("net", "set", "blue", "mtu=1500", words=["blue/config.json", "mtu"])
        equal(p.hutch("net", "ls", "--json")[0]["state"], "damaged")
        p.hutch("net", "rm", "blue")


# ---- networks that are up ------------------------------------------------------------------


def test_who_is_on_a_network_is_listed_and_keeps_it_from_going():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        with p.switch("blue") as switch:
            with p.port("blue", "web", 1, ip=["10.9.0.7"], groups=["front"]) as web, \
                 p.port("blue", "db", 2, vlan=10), frames.StreamPort(p.run_folder("blue")) as other:
                web.send(frames.arp_request(mac(1), "10.9.0.7", "10.9.0.1"))
                web.expect(lambda f: f.arp and f.arp.op == 2)
                other.send(frames.ethernet(mac(3), frames.BROADCAST, 0x88b5, b"anything"))
                web.expect(lambda f: f.src == mac(3))
                row, = p.hutch("net", "ls", "--json")
                equal((row["state"], row["ports"]), ("up", 3))
                ports = {q.get("vm", q["kind"]): q for q in p.hutch("net", "ports", "blue", "--json")}
                equal(sorted(ports), ["db", "stream", "web"])
                equal((ports["web"]["groups"], ports["web"]["mac"], ports["web"]["addresses"]),
                      (["front"], mac(1), ["10.9.0.7"]))
                equal(ports["web"]["out"]["frames"], 1)
                equal(ports["db"]["vlan"], 10)
                p.hutch("net", "ports", "blue", words=["web:net0", "db:net0", "stream", "front"])
                told = json.loads(p.hutch("net", "inspect", "blue"))
                equal((told["up"], told["status"]["pid"], len(told["ports"])), (True, switch.pid, 3))
                p.refused("net", "rm", "blue", words=["web", "db", "stream", "--force"])
                p.hutch("net", "disconnect", "blue", "db", "--force")
                number = f":{ports['stream']['port']}"
                equal(p.hutch("net", "port", "blue", number, "--trust", "on", "--json")["trust"], True)
                p.hutch("net", "disconnect", "blue", number)
                equal([q["vm"] for q in p.hutch("net", "ports", "blue", "--json")], ["web"])
            p.hutch("net", "rm", "blue")
            equal(switch.wait(30 * PATIENCE), 0)
        equal(p.files(), {})


def test_a_program_is_joined_and_left_by_its_socket():
    with place() as p, socket.socket(socket.AF_UNIX) as server:
        path = os.path.join(p.folder, "program.sock")
        p.hutch("net", "create", "blue")
        server.bind(path)
        server.listen()
        server.settimeout(30 * PATIENCE)
        with p.switch("blue"):
            p.hutch("net", "connect", "blue", "--stream", path)
            with server.accept()[0]:
                p.hutch("net", "ports", "blue", words=[path, " up "])
                p.refused("net", "connect", "blue", "--stream", path, words=["'" + path + "'", "already"])
                server.close()
            end = time.monotonic() + 30 * PATIENCE
            while "retry" not in p.hutch("net", "ports", "blue"):
                check(time.monotonic() < end, "its end is not told")
            p.refused("net", "disconnect", "blue", words=["--stream"])
            p.hutch("net", "disconnect", "blue", "--stream", path)
            equal(p.hutch("net", "ports", "blue", "--json"), [])
            p.refused("net", "disconnect", "blue", "--stream", path, words=["'" + path + "'"])


def test_routes_come_and_go_by_a_verb():
    with place() as p:
        p.hutch("net", "create", "blue", "--routed", "--subnet", "10.9.0.0/24")
        p.hutch("net", "create", "red", "--routed", "--subnet", "10.8.0.0/24")
        p.hutch("net", "route", "red", "add", "blue")
        down = p.hutch("net", "route", "red", "ls", "--json")  # of its config: it has no switch
        with p.switch("red"), p.switch("blue"):
            p.hutch("net", "route", "red", "ls", words=["blue", " down ", "10.9.0.0/24"])
            equal(p.hutch("net", "route", "red", "ls", "--json"), down)
            p.hutch("net", "route", "blue", "add", "red", "--json")
            end = time.monotonic() + 30 * PATIENCE
            while not p.hutch("net", "route", "red", "ls", "--json")[0]["up"]:
                check(time.monotonic() < end, "the route")
            equal(json.loads(p.hutch("net", "inspect", "blue"))["routes"][0]["subnet"], "10.8.0.0/24")
            p.hutch("net", "route", "red", "rm", "blue")
            equal(p.hutch("net", "route", "red", "ls", "--json"), [])
        equal(p.hutch("net", "set", "red", "--json")["route"], [])


def test_force_removes_a_network_under_its_vms():
    with place() as p:
        p.hutch("net", "create", "blue")
        with p.switch("blue") as switch, p.port("blue", "web", 1):
            p.hutch("net", "rm", "blue", "--force")
            equal(switch.wait(30 * PATIENCE), 0)
        equal(p.files(), {})


def test_a_network_changes_while_it_is_up_or_not_at_all():
    with place() as p, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        with p.switch("blue"), p.port("blue", "web", 1):
            p.hutch("net", "set", "blue", "lease+=web=10.9.0.7", "storm=50")
            equal(p.hutch("net", "set", "blue", "--json")["storm"], 50)
            p.refused("net", "set", "blue", "storm=60", f"forward+=tcp:127.0.0.1:{number}-web:80",
                      words=[str(number)])
            equal(json.loads(p.hutch("net", "inspect", "blue"))["forwards"], [])
            p.refused("net", "set", "blue", "mode=isolated", "route+=red", words=["route"])


def test_wires_are_limited_impaired_cut_and_mended():
    with place() as p:
        p.hutch("net", "create", "blue")
        with p.switch("blue"), p.port("blue", "web", 1):
            equal(p.hutch("net", "limit", "blue", "web"), "in   -\nout  -\n")
            p.hutch("net", "limit", "blue", "web", "--direction", "out", "--rate", "10M", "--packets", "500")
            p.refused("net", "limit", "blue", "web", "--burst", "1M", words=["burst", "rate"])
            told, = p.hutch("net", "limit", "blue", "web:net0", "--direction", "out", "--burst", "1M", "--json")
            equal((told["out"]["limit"]["bytes-per-s"], told["out"]["limit"]["frames-per-s"]), (10 << 20, 500))
            equal(told["out"]["limit"]["burst-bytes"], 1 << 20)
            p.hutch("net", "limit", "blue", "web", words=["in   -", "out  rate 10M, burst 1M, packets 500"])
            p.hutch("net", "limit", "blue", "web", "--clear")
            equal(p.hutch("net", "limit", "blue", "web"), "in   -\nout  -\n")

            p.hutch("net", "impair", "blue", "web", "--delay", "20ms", "--loss", "1%", "--direction", "in")
            told, = p.hutch("net", "impair", "blue", "web", "--jitter", "500us", "--direction", "in", "--json")
            equal((told["in"]["impair"]["delay-us"], told["in"]["impair"]["jitter-us"], told["in"]["impair"]["loss"]),
                  (20000, 500, 0.01))
            check("out" not in told or "impair" not in told["out"], f"the other direction: {told}")
            p.hutch("net", "impair", "blue", "web", words=["in   delay 20ms, jitter 500us, loss 1%", "out  -"])
            p.hutch("net", "impair", "blue", "web", "--clear")
            equal(p.hutch("net", "impair", "blue", "web"), "in   -\nout  -\n")

            p.hutch("net", "impair", "blue", "web", "--cut")
            equal(p.hutch("net", "port", "blue", "web", "--json")["link"], False)
            p.hutch("net", "impair", "blue", "web", "--restore")
            told = p.hutch("net", "port", "blue", "web", "--vlan", "7", "--trunk", "8,9", "--groups", "a,b",
                           "--trust", "on", "--json")
            equal((told["link"], told["vlan"], told["trunk"], told["groups"], told["trust"]),
                  (True, 7, [8, 9], ["a", "b"], True))
            p.refused("net", "limit", "blue", "nobody", "--rate", "1M", words=["nobody"])
            p.refused("net", "impair", "blue", "web", "--delay", "2000s", words=["delay"])


def test_a_capture_is_a_pcap_file_of_whole_frames():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        with p.switch("blue"), p.port("blue", "web", 1, ip=["10.9.0.7"]) as web:
            p.refused("net", "capture", "blue", "--filter", "tcp prot 80", "-o", p.folder + "/x", words=["tcp prot 80"])
            p.refused("net", "capture", "blue", "nobody", "-o", p.folder + "/x", words=["nobody"])
            path = os.path.join(p.folder, "web.pcap")
            capture = subprocess.Popen([hutch.HUTCH, "net", "capture", "blue", "web", "-o", path, "--filter", "arp",
                                        "--count", "2"], env={**os.environ, **p.env})
            while not json.loads(p.control("blue", "query-captures")):
                pass
            asked = frames.arp_request(mac(1), "10.9.0.7", "10.9.0.1")
            web.send(frames.ping(mac(1), mac(9), "10.9.0.7", "10.9.0.9"), asked)
            answer = web.expect(lambda f: f.arp and f.arp.op == 2)
            equal(capture.wait(30 * PATIENCE), 0)
            equal(pcap(path), [asked, answer.raw])


def pcap(path):
    """The frames of such a file."""
    with open(path, "rb") as f:
        data = f.read()
    check(struct.unpack("<I", data[:4])[0] in (0xA1B2C3D4, 0xA1B23C4D), "it is no pcap file")
    found, at = [], 24
    while at < len(data):
        length, = struct.unpack_from("<I", data, at + 8)
        found.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return found


def test_a_socket_of_another_program_is_joined():
    with place() as p, socket.socket(socket.AF_UNIX) as server:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        path = os.path.join(p.folder, "passt.sock")
        p.refused("net", "connect", "blue", "--stream", path, words=[path])
        server.bind(path)
        server.listen()
        p.hutch("net", "connect", "blue", "--stream", path)  # which starts the switch
        with frames.StreamPort(server.accept()[0]) as other:
            other.send(frames.arp_request(mac(3), "10.9.0.9", "10.9.0.1"))
            equal(other.expect(lambda f: f.arp and f.arp.op == 2).arp.from_ip, "10.9.0.1")
            equal([q["kind"] for q in p.hutch("net", "ports", "blue", "--json")], ["stream"])
            p.hutch("net", "rm", "blue", "--force")


def test_leases_are_listed_of_networks_that_are_up_and_down():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24", "--lease", "db=10.9.0.8")
        equal(p.hutch("net", "leases", "blue", "--json"), [])
        with p.switch("blue"), p.port("blue", "web", 1, ip=["10.9.0.7"]):
            rows = p.hutch("net", "leases", "blue", "--json")
            equal([(r["vm"], r["address"], r["static"]) for r in rows], [("web", "10.9.0.7", True)])
            equal(p.hutch("net", "forwards", "blue", "--json"), [])
            equal(p.hutch("net", "routes", "blue", "--json"), [])
            equal(p.hutch("net", "names", "blue", "--json"), [])
            p.refused("net", "leases", "blue", "--release", "nobody", words=["nobody"])
        rows = p.hutch("net", "leases", "blue", "--json")  # of the file, which the next switch goes on with
        equal([(r["vm"], r["nic"], r["mac"], r["address"]) for r in rows], [("web", "net0", mac(1), "10.9.0.7")])


# ---- VMs -----------------------------------------------------------------------------------


def leased(p, network, vm, nic="net0"):
    """Waits until it has an address there."""
    end = time.monotonic() + 30 * PATIENCE
    while time.monotonic() < end:
        for row in p.hutch("net", "leases", network, "--json"):
            if (row.get("vm"), row.get("nic")) == (vm, nic) and "expires" in row:
                return row["address"]
    raise AssertionError(f"{vm} got no address on {network}")


def test_a_card_comes_to_a_network_moves_and_goes():
    hutch.needs_kvm()
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        p.hutch("net", "create", "red", "--subnet", "10.8.0.0/24", "--isolated")
        with hutch.Vm("--name", "web", "--kernel", hutch.image("payload", "payload.elf"), "--memory", "64M",
                      "--cmdline", "test=station dhcp=1", "--net", "blue", env=p.env) as vm:
            vm.expect(r"address 10\.9\.0\.\d+")
            first = leased(p, "blue", "web")
            mac_address = p.hutch("net", "port", "blue", "web", "--json")["mac"]
            check("net0 (blue)" in p.hutch("inspect", "web"), "inspect")

            equal(p.hutch("net", "connect", "red", "web:net0"), "web:net0\n")
            vm.expect("link down")
            vm.expect("link up")
            vm.expect(r"address 10\.8\.0\.\d+")
            equal(p.hutch("net", "port", "red", "web:net0", "--json")["mac"], mac_address)
            equal([q["kind"] for q in p.hutch("net", "ports", "blue", "--json")], [])
            p.refused("net", "rm", "red", words=["web"])
            p.refused("net", "connect", "red", "web:net9", "--mac", "nonsense", words=["web", "nonsense"])

            p.hutch("net", "connect", "blue", "web:net0")
            vm.expect(r"address " + re.escape(first))
            equal(p.hutch("net", "connect", "red", "web", "--group", "back", "--ip", "10.8.0.99", "--json"), {"id": "net1"})
            told = p.hutch("net", "port", "red", "web:net1", "--json")
            equal((told["groups"], told["addresses"]), (["back"], ["10.8.0.99"]))
            p.refused("net", "disconnect", "red", "web:net0", words=["web", "red"])
            p.refused("net", "disconnect", "red", "web", "--timeout", "1",  # this guest does not listen
                      words=["'web'", "net1", "1 s", "--force"])
            p.hutch("net", "disconnect", "red", "web", "--timeout", "0")
            devices = p.hutch("inspect", "web", "--json")["devices"]
            equal([d["removal"] for d in devices], ["none", "asked"])
            equal([q["nic"] for q in p.hutch("net", "ports", "red", "--json")], ["net1"])
            vm.send("eject\n")
            vm.expect("eject done")
            p.hutch("net", "connect", "red", "web:net1")
            vm.send("eject\n")  # before it is asked to
            p.hutch("net", "disconnect", "red", "web")
            equal(p.hutch("net", "ports", "red", "--json"), [], "when it is over")
            vm.send("quit\n")
            vm.wait()
        p.hutch("net", "rm", "red", "blue")


# ---- firewalls -----------------------------------------------------------------------------

RULES = """# of a web server
default out allow
allow in tcp from 10.0.0.0/8, vm db port 22, 80-99
allow in icmp type echo-request
deny out udp to 192.0.2.0/24 port 53
reject in tcp port 113
"""


def test_rules_of_a_network_that_is_down_are_set_shown_changed_and_tested():
    with place() as p:
        path = p.write("web.rules", RULES)
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24", "--lease", "db=10.9.0.8")
        equal(p.hutch("firewall", "show", "blue"), "no rules: everything passes\n")
        p.hutch("firewall", "check", path)
        p.hutch("firewall", "set", "blue", path)
        equal(p.files()["blue/firewall.rules"], RULES)
        p.hutch("firewall", "show", "blue", words=["1        0      0  allow in tcp", "default in deny"])
        p.hutch("firewall", "set", "blue", "-", stdin=p.hutch("firewall", "show", "blue", "--text"))
        as_json = p.hutch("firewall", "show", "blue", "--json")
        p.hutch("firewall", "set", "blue", "-", stdin=json.dumps(as_json))
        equal(p.hutch("firewall", "show", "blue", "--json"), as_json)

        for words, passes, rule in (
                ("in tcp from 10.1.2.3 port 22", True, "rule 1"),
                ("in tcp from db port 99", True, "rule 1"),
                ("in tcp from 192.0.2.1 port 22", False, "default"),
                ("in tcp from 10.1.2.3 port 100", False, "default"),
                ("in tcp from 10.1.2.3 port 113", None, "rule 4"),
                ("in icmp from 192.0.2.1", True, "rule 2"),
                ("in udp from 10.1.2.3 port 22", False, "default"),
                ("in tcp from fd00::1 to fd00::2 port 22", False, "default"),
                ("out udp to 192.0.2.9 port 53", False, "rule 3"),
                ("out udp from db to 192.0.3.9 port 53", True, "default"),
                ("out 47 to 192.0.2.9", True, "default")):
            said = p.hutch("firewall", "test", "blue", *words.split(), status=0 if passes else 1)
            fate = {True: "allowed", False: "denied", None: "rejected"}[passes]
            check(rule in said and fate in said, f"{words}: {said}")
        equal([p.hutch("firewall", "test", "blue", *f"in tcp from 10.1.2.3 port {port}".split(), "--json", status=1)["reject"]
               for port in (100, 113)], [False, True])

        p.hutch("firewall", "add", "blue", "deny in tcp port 22", "--at", "1")
        p.hutch("firewall", "test", "blue", *"in tcp from 10.1.2.3 port 22".split(), status=1, words=["rule 1"])
        p.hutch("firewall", "add", "blue", "allow in tcp port 100")
        p.hutch("firewall", "rm", "blue", "1")
        p.hutch("firewall", "test", "blue", *"in tcp port 100".split(), words=["rule 5"])
        p.hutch("firewall", "set", "blue", "--none")
        equal(p.hutch("firewall", "test", "blue", *"in tcp port 1".split()), "allowed: there are no rules\n")
        p.hutch("firewall", "set", "blue", "-", stdin="")
        p.hutch("firewall", "test", "blue", *"out tcp port 1".split(), status=1)


def test_a_rule_that_does_not_parse_is_told_with_line_and_column():
    with place() as p:
        bad = p.write("bad.rules", RULES + "allow in tcp prot 80\n")
        p.hutch("net", "create", "blue", "--lease", "db=10.5.0.8", "--subnet", "10.5.0.0/24")
        p.hutch("firewall", "add", "blue", "allow in tcp port 80")
        for arguments, words in (
                (["check", bad], ["bad.rules:7:14", "'prot'"]),
                (["set", "blue", bad], ["bad.rules:7:14", "'prot'"]),
                (["set", "blue", p.folder + "/none.rules"], ["none.rules"]),
                (["set", "blue"], ["--none"]),
                (["set", "blue/web", p.write("good.rules", RULES)], ["--net blue,firewall=FILE"]),
                (["set", "red", bad], ["'red'"]),
                (["add", "blue", "allow in tcp port 99999"], ["1:19"]),
                (["add", "blue", "allow in", "--at", "3"], ["from 1 to 2", "not 3"]),
                (["rm", "blue", "2"], ["rule 2", "there are 1"]),
                (["rm", "blue", "0"], ["'0'"]),
                (["show", "blue/"], ["VM[:NIC]"]),
                (["test", "blue", "up", "tcp"], ["'up'"]),
                (["test", "blue", "in", "tcp"], ["port N"]),
                (["test", "blue", "in", "tcp", "port", "0"], ["'0'"]),
                (["test", "blue", "in", "tcpp", "port", "1"], ["'tcpp'"]),
                (["test", "blue", "in", "tcp", "from", "web", "port", "1"], ["'web'", "lease"]),
                (["test", "blue", "in", "tcp", "from", "::1", "to", "10.5.0.9", "port", "1"], ["::1"]),
                (["log", "blue"], ["'blue'"])):
            p.refused("firewall", *arguments, words=words)
        p.refused("net", "create", "green", "--firewall", bad, words=["bad.rules:7:14"])
        equal(p.hutch("net", "ls", "--quiet"), "blue\n")


def test_rules_of_a_network_that_is_up_change_what_passes_and_are_counted_and_logged():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        with p.switch("blue"), p.port("blue", "web", 1, ip=["10.9.0.7"]) as web, \
             p.port("blue", "db", 2, ip=["10.9.0.8"], groups=["back"]) as db:
            def ask(port):
                db.send(frames.tcp(mac(2), mac(1), "10.9.0.8", "10.9.0.7", 1000, port, frames.SYN))

            p.hutch("firewall", "set", "blue/web", "-", stdin=RULES + "deny in tcp from group back port 100 log\n")
            ask(100)
            ask(80)
            equal(web.expect(lambda f: f.tcp).tcp.to_port, 80)
            rules = p.hutch("firewall", "show", "blue/web:net0", "--json")["rules"]
            equal([r["packets"] for r in rules], [1, 0, 0, 0, 1])
            flow, = p.hutch("net", "flows", "blue", "web", "--json")
            equal((flow["vm"], flow["from"], flow["to-port"], flow["packets"]), ("web", "10.9.0.8", 80, 1))
            p.hutch("net", "flows", "blue", words=["web:net0", "10.9.0.8"])
            logged = p.hutch("firewall", "log", "blue/web")
            equal(len(logged.splitlines()), 1, logged)
            check("web:net0" in logged and "rule 5" in logged and "10.9.0.8" in logged, logged)
            equal(json.loads(p.hutch_lines("firewall", "log", "blue", "--json")[0])["allow"], False)

            for words, status in (("in tcp from db port 80", 0), ("in tcp from db port 100", 1),
                                  ("in tcp port 80", 1), ("out tcp port 443", 0)):
                p.hutch("firewall", "test", "blue/web", *words.split(), status=status)
            told = p.hutch("firewall", "test", "blue/web", *"in tcp from db port 100".split(), "--json", status=1)
            equal((told["allow"], told["set"], told["rule"]), (False, "vm", 4))

            equal(p.hutch("firewall", "show", "blue"), "no rules: everything passes\n")
            p.hutch("firewall", "add", "blue", "allow in tcp port 100")
            p.hutch("firewall", "add", "blue", "default out allow")
            ask(80)  # of a flow that the network's rules do not allow any more
            p.hutch("firewall", "rm", "blue/web", "5")
            p.hutch("firewall", "add", "blue/web", "allow in tcp port 100", "--at", "1")
            ask(100)
            equal(web.expect(lambda f: f.tcp).tcp.to_port, 100)
            p.refused("firewall", "add", "blue", "allow in tpc", words=["1:10", "'tpc'"])
            p.refused("firewall", "rm", "blue", "9", words=["rule 9"])
            p.refused("firewall", "show", "blue/nobody", words=["nobody"])
            p.refused("firewall", "test", "blue/web", *"in tcp from nobody port 1".split(), words=["nobody"])
        p.hutch("firewall", "show", "blue", words=["allow in tcp port 100"])  # kept, and down


def test_logs_are_followed_until_one_is_interrupted():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24")
        p.refused("net", "log", "--follow", "blue", words=["'blue'", "when a VM joins"])
        with p.switch("blue"), p.port("blue", "web", 1, ip=["10.9.0.7"], firewall="deny out udp log") as web, \
             p.port("blue", "db", 2, ip=["10.9.0.8"]) as db:
            for words, send, said in (
                    (["net", "log", "-f", "blue"], web, "net0 of web: sends as"),
                    (["net", "log", "-f", "--json", "blue"], db, "net0 of db: sends as"),
                    (["firewall", "log", "-f", "--json", "blue"], web, "denied by rule 1")):
                following = subprocess.Popen([hutch.HUTCH, *words], stdout=subprocess.PIPE, text=True,
                                             env={**os.environ, **p.env})
                try:
                    source = mac(1) if "firewall" in words else mac(9)
                    line = ""
                    send.send(frames.udp(source, mac(2), "10.9.0.7", "10.9.0.8", 1, 2, b"x"))
                    while said not in line:
                        line = following.stdout.readline()
                        check(line, f"{words}: it has ended")
                    check("--json" not in words or json.loads(line), line)
                    following.send_signal(signal.SIGINT)
                    equal(following.stdout.read(), "", "more")
                    equal(following.wait(60 * PATIENCE), 0, f"{words}: status")
                finally:
                    following.kill()
                    following.wait()
                    following.stdout.close()


if __name__ == "__main__":
    hutch.main()
