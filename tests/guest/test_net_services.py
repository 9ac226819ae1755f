#!/usr/bin/env python3
"""What lies beyond a network's gateway: DNS, NAT, forwarded ports, routes between networks, and
that nothing leaves an isolated one.

This program moves into a network namespace of its own, which plays the host: 192.0.2.1 and
2001:db8:ff::1 are servers on its Internet.  A VM is a namespace too, whose tap is relayed to a port
of the switch, so that real stacks and real programs (dig, ping) speak; or frames.py alone, for what
they would not say."""
import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading

import frames
import hutch
import netns
from hutch import PATIENCE, check, equal

SWITCH = os.environ.get("HUTCH_SWITCH", os.path.join(os.path.dirname(hutch.HUTCH), "hutch-switch"))
SERVER4, SERVER6 = "192.0.2.1", "2001:db8:ff::1"
BULK = 24 << 20


# ---- a VM: a namespace with a tap ------------------------------------------------------------------


def ip_command(*words):
    subprocess.run(["ip", *words], check=True)


class Guest(netns.Host):
    """Such a VM; `gateways`: of its network, a comma between them."""

    def __init__(self, network, vm, *addresses, gateways="10.5.0.1", rules=None):
        self.vm, self.address = vm, addresses[0].split("/")[0]
        self.mac = f"02:00:00:00:00:{int(self.address.split('.')[-1]):02x}"
        more = {} if rules is None else {"firewall": rules}
        super().__init__(frames.VmPort(network.folder, vm=vm, mac=self.mac, ip=[a.split("/")[0] for a in addresses],
                                       **more), self.mac)
        self.run("sysctl", "-qw", f"net.ipv6.conf.{netns.INTERFACE}.accept_ra=0")
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", netns.INTERFACE)
        for gateway in gateways.split(","):
            self.run("ip", "route", "replace", "default", "via", gateway, "dev", netns.INTERFACE)

    def python(self, code, *arguments):
        return self.run(sys.executable, "-c", "import socket, sys, hashlib\n" + code, *arguments).strip()

    @contextlib.contextmanager
    def serves(self, code, *arguments):
        """A Python program in it that says a line when it is ready."""
        process = subprocess.Popen(self.command(sys.executable, "-c", "import socket, sys\n" + code, *arguments),
                                   stdout=subprocess.PIPE, text=True)
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def dig(self, *words, server="10.5.0.1"):
        """The lines of a short answer."""
        return self.run("dig", "+short", f"+timeout={5 * PATIENCE:.0f}", "+tries=1", "@" + server, *words).split("\n")[:-1]

    def status(self, *words, server="10.5.0.1"):
        text = self.run("dig", f"+timeout={5 * PATIENCE:.0f}", "+tries=1", "@" + server, *words)
        return text.split("status: ")[1].split(",")[0]


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        yield path


def switch(root, name="n1", **config):
    """One that does not end for want of users, as long as it has the test's connection."""
    n = frames.Switch(SWITCH, root, name, **config)
    n.call("query-status")
    return n


def start_again(n):
    n.start()
    n.call("query-status")


# ---- the host's side -------------------------------------------------------------------------------


class Upstream:
    """A DNS server on loopback that knows some names."""

    NAMES = {"www.example.org": ["198.51.100.10", "198.51.100.11"], "here.example.org": [SERVER4],
             "evil.example.com": [SERVER4],
             "many.example.org": [f"198.51.{n // 250}.{n % 250 + 1}" for n in range(3000)]}

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self.sock.getsockname()[1]}"
        self.tcp = socket.create_server(self.sock.getsockname())
        self.asked, self.ttl = [], 60
        for serve in (self.serve, self.serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                query, who = self.sock.recvfrom(2000)
                answer = self.answer(query)
                if len(answer) > 1232:  # the header and the question, cut off
                    answer = answer[:2] + struct.pack(">HHHHH", 0x8380, 1, 0, 0, 0) + query[12:]
                self.sock.sendto(answer, who)

    def serve_tcp(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.tcp.accept()
                with client, client.makefile("rwb") as file:
                    answer = self.answer(file.read(struct.unpack(">H", file.read(2))[0]))
                    file.write(struct.pack(">H", len(answer)) + answer)

    def answer(self, query):
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        name, kind = ".".join(labels), struct.unpack(">H", query[at + 1:at + 3])[0]
        self.asked.append(name)
        found = self.NAMES.get(name)
        records = [b"\xc0\x0c\0\1\0\1\0\0\0" + bytes([self.ttl]) + b"\0\4" + socket.inet_aton(a) for a in found or [] if kind == 1]
        flags = 0x8180 | (0 if found else 3)
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + query[12:at + 5] + b"".join(records)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


class Sink:
    """A TCP server of the host: what comes on a connection is hashed, and the hash is the answer;
    a connection that begins with 'G' gets BULK bytes."""

    def __init__(self, address):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = socket.create_server((address, 0), family=family)
        self.port = self.sock.getsockname()[1]
        self.clients = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, who = self.sock.accept()
                self.clients.append(who[0])
                threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    @staticmethod
    def talk(client):
        total = hashlib.sha256()
        with client, contextlib.suppress(OSError):
            data = client.recv(1 << 16)
            if data == b"G":
                client.sendall(pattern())
                return
            while data:
                total.update(data)
                data = client.recv(1 << 16)
            client.sendall(total.hexdigest().encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


def pattern():
    return (b"".join(struct.pack(">I", i * 2654435761 % 2**32) for i in range(1 << 14)) * (BULK // (1 << 16)))


SEND = """
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
import struct
s.sendall(b"".join(struct.pack(">I", i * 2654435761 % 2**32) for i in range(1 << 14)) * int(sys.argv[3]))
s.shutdown(1)
print(s.recv(100).decode())
"""
GET = """
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.sendall(b"G")
total = hashlib.sha256()
while data := s.recv(1 << 16):
    total.update(data)
print(total.hexdigest())
"""
CONNECT = """
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
    print("connected")
except OSError as e:
    print(e.strerror or e)
"""
HELLO = """
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    c, who = s.accept()
    c.sendall((sys.argv[2] + " " + who[0]).encode())
    c.close()
"""


def hear(address, port):
    """What HELLO says to the host; why not, if it does not."""
    try:
        with socket.create_connection((address, port), 20 * PATIENCE) as s:
            return s.recv(100).decode()
    except OSError as e:
        return e.strerror or str(e)


# ---- DNS -------------------------------------------------------------------------------------------


def test_names_of_vms_are_resolved_and_the_rest_is_asked_upstream():
    with folder() as root, Upstream() as upstream, \
            switch(root, mode="nat", subnet6="fd00:5::/64", upstream=[upstream.where]) as n, \
            Guest(n, "web", "10.5.0.7/24", "fd00:5::7/64") as web, n.vm("db", 9):
        equal(web.dig("db"), ["10.5.0.9"])
        equal(web.dig("db.n1.internal"), ["10.5.0.9"])
        equal(web.dig("AAAA", "WEB.n1.internal"), ["fd00:5::7"])
        equal(web.dig("db", "AAAA", server="fd00:5::1"), [])
        equal(web.dig("-x", "10.5.0.9"), ["db.n1.internal."])
        equal(web.dig("-x", "fd00:5::7"), ["web.n1.internal."])
        equal(web.status("nobody.n1.internal"), "NXDOMAIN")
        equal(upstream.asked, [], "what upstream was asked")
        equal(sorted(web.dig("www.example.org")), ["198.51.100.10", "198.51.100.11"])
        equal(web.status("nothing.example.org"), "NXDOMAIN")
        names = {(e["name"], e["address"]) for e in n.call("query-names")}
        check(("www.example.org", "198.51.100.10") in names and ("db", "10.5.0.9") in names, names)
        n.configure(mode="nat", domain="Lab.test", dns=False, upstream=[upstream.where])
        n.call("reconfigure")
        web.run("dig", "+timeout=1", "+tries=1", "@10.5.0.1", "db", status=9)
        n.configure(mode="nat", domain="Lab.test", upstream=[upstream.where])
        n.call("reconfigure")
        equal(web.dig("db.lab.test"), ["10.5.0.9"])


def test_rules_let_pass_what_was_answered_for_a_name_and_as_long():
    rules = "allow out udp to 10.5.0.1 port 53\nallow out tcp to name *.example.org log\n"
    talk = """
print("here", flush=True)
sys.stdin.readline()
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
print("ready", flush=True)
sys.stdin.readline()
s.sendall(b"late")
s.shutdown(1)
print(s.recv(100).decode(), flush=True)
"""
    with folder() as root, Upstream() as upstream, Sink(SERVER4) as sink, \
            switch(root, mode="nat", upstream=[upstream.where]) as n, \
            Guest(n, "web", "10.5.0.7/24", rules=rules) as web:
        def allowed():
            return n.call("firewall-test", vm="web", direction="out", proto="tcp", to=SERVER4, port=sink.port)["allow"]

        equal(allowed(), False, "before anybody asked")
        process = subprocess.Popen(web.command(sys.executable, "-c", "import socket, sys\n" + talk, SERVER4,
                                               str(sink.port)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        equal(process.stdout.readline(), "here\n", "a program")
        upstream.ttl = 2
        equal(web.dig("evil.example.com"), [SERVER4])
        equal(allowed(), False, "an address of another name")
        equal(web.dig("here.example.org"), [SERVER4])
        process.stdin.write("\n")
        process.stdin.flush()
        equal(process.stdout.readline(), "ready\n", "a connection")
        wait_until(lambda: not allowed(), "the end of its time")
        process.stdin.write("\n")
        process.stdin.flush()
        equal(process.stdout.readline().strip(), hashlib.sha256(b"late").hexdigest(), "on the connection from before")
        process.communicate()
        # DNS to elsewhere is closed while names are allowed.
        upstream.ttl = 60
        equal(web.dig("here.example.org"), [SERVER4])
        equal(n.call("firewall-test", vm="web", direction="out", proto="tcp", to=SERVER4, port=53)["reason"], "dns")


PIPELINE = """
import struct
def query(number, text):
    name = b"".join(bytes([len(label)]) + label.encode() for label in text.split("."))
    message = struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0) + name + bytes(1) + struct.pack(">HH", 1, 1)
    return struct.pack(">H", len(message)) + message
names = ["db.n1.internal", "www.example.org", "nothing.example.org", "web.n1.internal"] * 5
s = socket.create_connection((sys.argv[1], 53), 60)
everything = b"".join(query(i, name) for i, name in enumerate(names))
for i in range(0, len(everything), 7):
    s.send(everything[i:i + 7])
s.shutdown(1)
data = b""
while piece := s.recv(65536):
    data += piece
rcodes = {}
while data:
    n, number, flags = struct.unpack(">HHH", data[:6])
    rcodes[number] = flags & 15
    data = data[2 + n:]
print(sorted(rcodes) == list(range(len(names))), {rcodes[i] for i in range(len(names)) if i % 4 != 2},
      {rcodes[i] for i in range(2, len(names), 4)})
"""


JUNK = """
s = socket.create_connection(("10.5.0.1", 53), 60)
try:
    s.sendall(bytes.fromhex(sys.argv[1]))
    print(s.recv(9))
except OSError as e:
    print(e.strerror)
"""


def test_dns_is_served_over_tcp_too():
    with folder() as root, Upstream() as upstream, \
            switch(root, mode="nat", subnet6="fd00:5::/64", upstream=[upstream.where]) as n, \
            Guest(n, "web", "10.5.0.7/24", "fd00:5::7/64") as web, n.vm("db", 9):
        for server in ("10.5.0.1", "fd00:5::1"):
            equal(web.dig("+tcp", "db", server=server), ["10.5.0.9"])
            equal(sorted(web.dig("+tcp", "www.example.org", server=server)), ["198.51.100.10", "198.51.100.11"])
            # More than one segment, window and flight; without +tcp by way of what is cut off.
            for how in ("+tcp", "+notcp"):
                equal(len(set(web.dig(how, "many.example.org", server=server))), 3000, f"{how} from {server}")
            equal(web.python(PIPELINE, server), "True {0} {3}", "questions at once, in pieces")
        check("198.51.3.7" in web.dig("+ignore", "+tcp", "many.example.org"), "an answer")
        # What is none ends the connection, and nothing else.
        for junk in (b"\0\5hello", b"\xff\xff" * 3000):
            equal(web.python(JUNK, junk.hex()), "Connection reset by peer", junk[:9])
        # So many connections of one VM, and no more.
        equal(web.python("all = []\ntry:\n    for _ in range(20):\n"
                         "        all.append(socket.create_connection(('10.5.0.1', 53), 60))\n"
                         "except OSError as e:\n    print(len(all), e.strerror)"), "8 Connection refused")
        equal(web.dig("+tcp", "db"), ["10.5.0.9"])


def test_names_for_rules_come_by_tcp_too_and_no_other_dns_is_open():
    rules = "allow out tcp to name *.example.org\n"
    with folder() as root, Upstream() as upstream, Sink(SERVER4) as sink, \
            switch(root, mode="nat", upstream=[upstream.where]) as n, \
            Guest(n, "web", "10.5.0.7/24", rules=rules) as web:
        equal(web.dig("+tcp", "here.example.org"), [SERVER4])
        check(n.call("firewall-test", vm="web", direction="out", proto="tcp", to=SERVER4, port=sink.port)["allow"], "the name")
        equal(n.call("firewall-test", vm="web", direction="out", proto="tcp", to=SERVER4, port=53)["reason"], "dns")
        equal(web.python(SEND, SERVER4, str(sink.port), "1"), hashlib.sha256(pattern()[:1 << 16]).hexdigest())


# ---- what is rejected ------------------------------------------------------------------------------


DATAGRAM = """
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"x")
try:
    print(s.recv(100))
except OSError as e:
    print(e.strerror or e)
"""


def test_real_stacks_hear_at_once_what_is_rejected_both_ways_and_over_routes():
    rules = "reject in tcp port 22\nreject in udp\nreject in icmp\nreject out tcp port 25\nreject out udp port 514\n" \
            "default in allow\ndefault out allow\n"
    with folder() as root, switch(root, "n1", route=["n2"], **ONE) as one, \
            switch(root, "n2", route=["n1"], **TWO) as two, \
            Guest(one, "web", "10.5.0.7/24", "fd00:5::7/64", gateways="10.5.0.1,fd00:5::1", rules=rules) as web, \
            Guest(one, "lab", "10.5.0.8/24", "fd00:5::8/64", rules="default out allow\n") as lab, \
            Guest(two, "db", "10.6.0.9/24", "fd00:6::9/64", gateways="10.6.0.1,fd00:6::1") as db:
        wait_until(lambda: routes(one)["n2"] and routes(two)["n1"], "the route")
        for who in (lab, db):
            for address in ("10.5.0.7", "fd00:5::7"):
                equal(who.python(CONNECT, address, "22"), "Connection refused", f"{who.vm} to {address}")
                equal(who.python(DATAGRAM, address, "7"), "Connection refused", f"{who.vm} to {address}")
                check("rohibited" in who.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", address, status=1).replace(
                    "Packet filtered", "prohibited"), "an ICMP error")
        for address in ("10.5.0.8", "fd00:5::8", "10.6.0.9", "fd00:6::9"):
            equal(web.python(CONNECT, address, "25"), "Connection refused", f"out to {address}")
            equal(web.python(DATAGRAM, address, "514"), "Connection refused", f"out to {address}")
        denied = {p["vm"]: (p["in"]["denied"], p["out"]["denied"]) for p in one.call("query-ports")}
        check(denied["web"][0] >= 12 and denied["web"][1] == 8, denied)


# ---- NAT -------------------------------------------------------------------------------------------


def test_tcp_of_vms_reaches_the_hosts_network_whole():
    digest = hashlib.sha256(pattern()).hexdigest()
    with folder() as root, switch(root, mode="nat", subnet6="fd00:5::/64") as n, \
            Guest(n, "web", "10.5.0.7/24", "fd00:5::7/64", gateways="10.5.0.1,fd00:5::1") as web:
        for address in (SERVER4, SERVER6):
            with Sink(address) as sink:
                equal(web.python(SEND, address, str(sink.port), str(BULK >> 16)), digest, f"sent to {address}")
                equal(web.python(GET, address, str(sink.port)), digest, f"got from {address}")


def test_many_vms_are_told_apart_behind_the_nat():
    """More than libslirp remembers neighbours."""
    with folder() as root, switch(root, mode="nat") as n, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((SERVER4, 0))
        server.settimeout(10 * PATIENCE)
        ports = [n.vm(f"vm{i}", i) for i in range(10, 50)]
        gateway = gateway_mac(ports[0], ports[0].ip)
        for turn in range(2):
            for port in ports:
                port.send(frames.udp(port.mac, gateway, port.ip, SERVER4, 4000, server.getsockname()[1],
                                     f"{turn} {port.ip}".encode()))
            for _ in ports:
                data, who = server.recvfrom(100)
                server.sendto(data, who)
            for port in ports:
                answer_arp(port)
                got = port.expect(lambda f: f.udp and f.udp.to_port == 4000)
                equal(got.udp.data.decode(), f"{turn} {port.ip}")
        for port in ports:
            port.close()


def test_no_vm_takes_all_sockets_of_the_nat():
    with folder() as root, switch(root, mode="nat") as n, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, \
            n.vm("greedy", 8) as greedy, n.vm("web", 9) as web:
        server.bind((SERVER4, 0))
        server.setblocking(False)
        gateway = gateway_mac(greedy, greedy.ip)
        check(gateway == gateway_mac(web, web.ip), "one gateway")

        def say(port, number, data):
            port.send(frames.udp(port.mac, gateway, port.ip, SERVER4, number, server.getsockname()[1], data))

        for number in range(2000, 4000):
            say(greedy, number, b"x")
        wait_until(lambda: n.ports()["greedy"]["out"]["frames"] >= 2001, "the flood")
        taken = len(sockets_of(n.process.pid, "udp"))
        check(100 < taken <= 512, f"{taken} sockets of one VM")
        with contextlib.suppress(BlockingIOError):
            while True:
                server.recvfrom(100)
        server.settimeout(20 * PATIENCE)
        for number in range(2000, 2100):  # and another finds some
            say(web, number, b"hello")
        equal(len({server.recvfrom(100)[1] for _ in range(100)}), 100, "sockets of the other")
        check(len(sockets_of(n.process.pid, "udp")) >= taken + 100, "those of the first are still there")


def gateway_mac(port, address, gateway="10.5.0.1"):
    port.send(frames.arp_request(port.mac, address, gateway))
    return port.expect(lambda f: f.arp and f.arp.op == 2).arp.from_mac


def answer_arp(port):
    """The gateway knows us: we have asked it, or it asks."""
    port.send(frames.arp_request(port.mac, port.ip, "10.5.0.1"))


def test_the_hosts_own_services_and_other_networks_stay_closed():
    with folder() as root, switch(root, "n2", subnet="10.6.0.0/24"), switch(root, mode="nat") as n, \
            Sink("127.0.0.1") as sink, Guest(n, "web", "10.5.0.7/24") as web, n.vm("raw", 8) as raw:
        equal(web.python(CONNECT, "10.5.0.1", str(sink.port)), "Connection refused")
        gateway = gateway_mac(raw, raw.ip)
        for address in ("127.0.0.1", "127.1.2.3", "0.0.0.0", "169.254.169.254", "10.6.0.5", "240.0.0.1"):
            raw.drain()
            raw.send(frames.tcp(raw.mac, gateway, raw.ip, address, 4000, sink.port, frames.SYN, seq=1))
            if address not in ("0.0.0.0", "169.254.169.254"):  # nobody is told of these
                why = raw.expect(lambda f: f.icmp and f.icmp.kind == 3)
                equal((why.ip.src, why.icmp.code), ("10.5.0.1", 13), address)
        raw.send(frames.ping(raw.mac, gateway, raw.ip, "10.5.0.1"))
        raw.expect(lambda f: f.icmp and f.icmp.kind == 0)
        equal(sink.clients, [], "who has come through to loopback")


def test_hops_are_counted_and_their_end_is_told():
    with folder() as root, switch(root, mode="nat", subnet6="fd00:5::/64") as n, \
            n.vm("raw", 8, ip=["10.5.0.8", "fd00:5::8"]) as raw:
        gateway = gateway_mac(raw, raw.ip)
        raw.send(frames.udp(raw.mac, gateway, raw.ip, SERVER4, 1, 33434, b"x" * 40, ttl=1))
        why = raw.expect(lambda f: f.icmp and f.icmp.kind == 11)
        equal((why.ip.src, why.ip.good, why.icmp.good), ("10.5.0.1", True, True))
        equal(why.icmp.data[:20], frames.ip_packet(raw.ip, SERVER4, 17, b"x" * 48, ttl=1)[:20], "what it quotes")
        raw.send(frames.udp(raw.mac, gateway, "fd00:5::8", SERVER6, 1, 33434, b"x" * 40, ttl=1))
        why = raw.expect(lambda f: f.icmp and f.icmp.kind == 3 and ":" in f.ip.src)
        equal((why.ip.src, why.icmp.good), ("fd00:5::1", True))
        # No error about an error, nor about a fragment that is not the first.
        raw.send(frames.icmp(raw.mac, gateway, raw.ip, SERVER4, 3, 1, data=b"\x45" + b"\0" * 27, ttl=1))
        raw.send(frames.ip(raw.mac, gateway, raw.ip, SERVER4, 17, b"y" * 40, ttl=1, offset=64))
        raw.send(frames.ping(raw.mac, gateway, raw.ip, "10.5.0.1"))
        got = raw.expect(lambda f: f.icmp and f.ip.src == "10.5.0.1")
        equal(got.icmp.kind, 0, "the next that comes")


# ---- forwards --------------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def test_forwards_come_go_and_follow_their_vm():
    with folder() as root, switch(root, mode="nat") as n, contextlib.ExitStack() as stack:
        port, other = free_port(), free_port()
        forward = f"tcp:127.0.0.1:{port}-web:80"
        n.configure(mode="nat", forward=[forward])  # before there is such a VM
        n.call("reconfigure")
        equal(hear("127.0.0.1", port), "Connection refused")
        equal([(f["vm"], f["port"], f.get("to")) for f in n.call("query-forwards")], [("web", port, None)])
        first = stack.enter_context(Guest(n, "web", "10.5.0.7/24"))
        with first.serves(HELLO, "80", "one"):
            wait_for_forward(n, "10.5.0.7")
            equal(hear("127.0.0.1", port), "one ::ffff:10.5.0.1")
            check(sockets_of(n.process.pid, "tcp"), "the socket that listens")
        first.close()
        second = stack.enter_context(Guest(n, "web", "10.5.0.8/24"))
        with second.serves(HELLO, "80", "two"):
            wait_for_forward(n, "10.5.0.8")
            equal(hear("127.0.0.1", port), "two ::ffff:10.5.0.1")
            # A port that is taken changes nothing.
            with socket.create_server(("127.0.0.1", 0)) as taken:
                bad = f"tcp:127.0.0.1:{taken.getsockname()[1]}-web:80"
                n.configure(mode="nat", forward=[bad, f"tcp:127.0.0.1:{other}-web:80"])
                try:
                    n.call("reconfigure")
                    raise AssertionError("a port was taken twice")
                except frames.Failed as why:
                    check(bad in str(why) and "in use" in str(why), why)
            equal(hear("127.0.0.1", port), "two ::ffff:10.5.0.1")
            equal(hear("127.0.0.1", other), "Connection refused")
            # Another VM's port in its place, and one more.
            n.configure(mode="nat", forward=[f"tcp:127.0.0.1:{port}-web:80", f"tcp:127.0.0.1:{other}-web:80"])
            n.call("reconfigure")
            equal(hear("127.0.0.1", other), "two ::ffff:10.5.0.1")
            n.configure(mode="nat", forward=[])
            n.call("reconfigure")
            equal(hear("127.0.0.1", port), "Connection refused")
            equal(n.call("query-forwards"), [])
            # No more NAT, and again.
            n.configure()
            n.call("reconfigure")
            equal(sockets_of(n.process.pid, "tcp", "udp"), [], "sockets of a network that is isolated now")
            n.configure(mode="nat", forward=[forward])
            n.call("reconfigure")
            equal(hear("127.0.0.1", port), "two ::ffff:10.5.0.1")


def wait_for_forward(n, address):
    wait_until(lambda: [f.get("to") for f in n.call("query-forwards")] == [address], f"a forward to {address}")


def wait_until(true, what):
    deadline = frames.time.monotonic() + 20 * PATIENCE
    while not true():
        check(frames.time.monotonic() < deadline, f"{what} did not come")
        frames.time.sleep(0.01)


def test_udp_is_forwarded_and_answered():
    echo = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
print("ready", flush=True)
while True:
    data, who = s.recvfrom(2000)
    s.sendto(data + b" from " + who[0].encode(), who)
"""
    with folder() as root, switch(root, mode="nat") as n, Guest(n, "web", "10.5.0.7/24") as web, \
            web.serves(echo), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, n.vm("raw", 8) as raw:
        s.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        n.configure(mode="nat", forward=[f"udp:127.0.0.1:{port}-web:53"])
        n.call("reconfigure")
        wait_for_forward(n, "10.5.0.7")
        s.settimeout(20 * PATIENCE)
        s.sendto(b"hello", ("127.0.0.1", port))
        equal(s.recv(100), b"hello from 10.5.0.1")
        # Nobody who has not asked is answered, though it be from that port.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            gateway = gateway_mac(raw, raw.ip)
            n.configure(mode="nat", forward=[f"udp:127.0.0.1:{port}-raw:53"])
            n.call("reconfigure")
            wait_for_forward(n, raw.ip)
            s.sendto(b"hello", ("127.0.0.1", port))
            asked = raw.expect(lambda f: f.udp and f.udp.to_port == 53)
            for to in (other.getsockname()[1], asked.udp.from_port):
                raw.send(frames.udp(raw.mac, gateway, raw.ip, "10.5.0.1", 53, to, b"answer"))
            equal(s.recv(100), b"answer")
            other.setblocking(False)
            try:
                raise AssertionError(other.recv(100))
            except BlockingIOError:
                pass


# ---- routes ----------------------------------------------------------------------------------------


ONE = {"mode": "routed", "subnet6": "fd00:5::/64"}
TWO = {"mode": "routed", "subnet": "10.6.0.0/24", "subnet6": "fd00:6::/64"}


def routes(n):
    return {r["network"]: r["up"] for r in n.call("query-routes")}


def test_networks_that_name_each_other_are_routed():
    with folder() as root, switch(root, "n1", route=["n2"], **ONE) as one, \
            Guest(one, "web", "10.5.0.7/24", "fd00:5::7/64", gateways="10.5.0.1,fd00:5::1") as web:
        # Nobody is at the other end, nor started for it.
        check("Unreachable" in web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.6.0.9", status=1), "an ICMP error")
        equal(routes(one), {"n2": False})
        with switch(root, "n2", route=["n1"], **TWO) as two, \
                Guest(two, "db", "10.6.0.9/24", "fd00:6::9/64", gateways="10.6.0.1,fd00:6::1") as db:
            wait_until(lambda: routes(one)["n2"] and routes(two)["n1"], "the route")
            for address in ("10.6.0.9", "fd00:6::9"):
                check("ttl=62" in web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", address), "two hops")
            web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.6.0.1")
            web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "fd00:6::1")
            with db.serves(HELLO, "80", "db"):
                for address, source in (("10.6.0.9", "::ffff:10.5.0.7"), ("fd00:6::9", "fd00:5::7")):
                    equal(web.python("s = socket.create_connection((sys.argv[1], 80), 60)\n"
                                     "print(s.recv(100).decode())", address), "db " + source)
            # Not beyond the other network's own subnet.
            check("Unreachable" in web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", SERVER4, status=1), "an ICMP error")
            # The other switch dies, and comes again; then ours.
            two.kill()
            wait_until(lambda: not routes(one)["n2"], "the end of the route")
            start_again(two)
            wait_until(lambda: routes(one)["n2"], "the route again")
            with Guest(two, "db", "10.6.0.9/24", gateways="10.6.0.1"):
                web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.6.0.9")
            # One of the two takes it back, and gives it again.
            two.configure(**TWO)
            two.call("reconfigure")
            wait_until(lambda: not routes(one)["n2"], "the end of the route")
            equal(routes(two), {})
            check("Unreachable" in web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.6.0.9", status=1), "an ICMP error")
            two.configure(route=["n1"], **TWO)
            two.call("reconfigure")
            wait_until(lambda: routes(one)["n2"], "the route again")
            # And the other one, whose name comes first.
            one.kill()
            wait_until(lambda: not routes(two)["n1"], "the end of the route")
            start_again(one)
            wait_until(lambda: routes(two)["n1"] and routes(one)["n2"], "the route again")


def test_rules_know_the_networks_that_packets_are_routed_to():
    with folder() as root, switch(root, "n1", route=["n2"], **ONE) as one, \
            one.vm("raw", 8, ip=["10.5.0.8", "fd00:5::8"]) as raw, socket.socket(socket.AF_UNIX) as link:
        configure(root, "n2", **TWO)
        link.settimeout(20 * PATIENCE)
        link.connect(str(one.folder / "route.sock"))
        hello = b'{"hutch-route": 1, "network": "n2", "to": "n1", "subnet": "10.6.0.0/24", "subnet6": "fd00:6::/64"}'
        link.sendall(struct.pack(">I", len(hello)) + hello)
        check(b'"hutch-route":1' in link.recv(1000), "a hello")
        raw.send(frames.arp_request(raw.mac, raw.ip, "10.5.0.1"))
        gateway = raw.expect(lambda f: f.arp and f.arp.op == 2).src
        pairs = (("10.6.0.9", "10.5.0.8"), ("fd00:6::9", "fd00:5::8"))
        numbers = iter(range(1024, 65536))

        def hear():
            """The next frame with UDP; the gateway is told whose the address is, when it asks."""
            while True:
                frame = raw.expect(lambda f: f.udp or f.icmp and f.icmp.kind == 135)
                if frame.udp:
                    return frame
                raw.send(frames.icmp(raw.mac, gateway, "fd00:5::8", frame.ip.src, 136, rest=b"\x60\0\0\0", ttl=255,
                                     data=frames.ip_bytes("fd00:5::8") + b"\x02\x01" + frames.mac_bytes(raw.mac)))

        def comes(theirs, ours):
            for port in (2000, 9999):
                frame = frames.udp("02:00:00:00:00:99", "02:00:00:00:00:98", theirs, ours, next(numbers), port, b"x")
                link.sendall(struct.pack(">I", 12 + len(frame)) + bytes(12) + frame)
            first = hear()
            return first.udp.to_port == 2000 and hear()

        def goes(theirs, ours):
            for port in (2000, 9999):
                raw.send(frames.udp(raw.mac, gateway, ours, theirs, next(numbers), port, b"x"))
            first = read_routed(link)
            return first.udp.to_port == 2000 and read_routed(link)

        sentinel = "allow in udp port 9999\nallow out udp port 9999\n"
        for rules, into, out in (("allow in from net n2", True, False), ("allow out to net n2", False, True),
                                 ("allow in from net n1\nallow out to net n1, net n3", False, False),
                                 ("default in allow\ndefault out allow\ndeny in from net n2", False, True)):
            one.call("firewall-set", vm="raw", text=sentinel + rules)
            for pair in pairs:
                equal((bool(comes(*pair)), bool(goes(*pair))), (into, out), f"{rules}: {pair}")


def configure(root, name, **config):
    """A network whose switch does not run."""
    path = os.path.join(root, "networks", name)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "config.json"), "w", encoding="ascii") as f:
        json.dump(config, f)


def read_routed(link):
    """The next frame with UDP that a switch sends over a route."""
    def read(n):
        data = b""
        while len(data) < n:
            piece = link.recv(n - len(data))
            check(piece, "the switch hung up")
            data += piece
        return data
    while True:
        frame = frames.Frame(read(struct.unpack(">I", read(4))[0])[12:])
        if frame.udp:
            return frame


def test_who_speaks_for_another_network_is_not_heard():
    with folder() as root, switch(root, "n1", route=["n2"], **ONE) as one, one.vm("raw", 8) as raw:
        configure(root, "n2", **TWO)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(one.folder / "route.sock"))
            hello = b'{"hutch-route": 1, "network": "n2", "to": "n1", "subnet": "10.6.0.0/24"}'
            link.sendall(struct.pack(">I", len(hello)) + hello)
            check(b'"hutch-route":1' in link.recv(1000), "a hello")
            raw.send(frames.arp_request(raw.mac, raw.ip, "10.5.0.1"))  # the gateway knows it now
            for source in ("10.7.0.9", "10.5.0.1", "10.5.0.7", "127.0.0.1", "10.6.0.9"):
                frame = frames.udp("02:00:00:00:00:99", "02:00:00:00:00:98", source, raw.ip, 7, 7, source.encode())
                link.sendall(struct.pack(">I", 12 + len(frame)) + bytes(12) + frame)
            got = raw.expect(lambda f: f.udp)
            equal((got.ip.src, got.ip.ttl, got.ip.good), ("10.6.0.9", 63, True))
            equal(one.call("query-routes")[0]["dropped"], 4)
            # What this network's VMs cannot be sent is told to who sent it, by its own route.
            frame = frames.udp("02:00:00:00:00:99", "02:00:00:00:00:98", "10.6.0.9", raw.ip, 7, 7, bytes(1600))
            link.sendall(struct.pack(">I", 12 + len(frame)) + bytes(12) + frame)
            link.settimeout(20 * PATIENCE)
            told = frames.Frame(link.recv(2000)[16:])
            equal((told.ip.src, told.ip.dst, told.icmp.kind, told.icmp.code, told.icmp.rest, told.icmp.good),
                  ("10.5.0.1", "10.6.0.9", 3, 4, b"\0\0\x05\xdc", True))
            # Too long, and hung up.
            link.sendall(b"\xff\xff\xff\xff")
            while link.recv(1000):
                pass
        for hello in (b"nonsense", b'{"hutch-route": 1, "network": "n3", "to": "n1", "subnet": "10.8.0.0/24"}',
                      b'{"hutch-route": 1, "network": "n2", "to": "n1", "subnet": "10.5.0.0/16"}',
                      b'{"hutch-route": 1, "network": "n2", "to": "nx", "subnet": "10.6.0.0/24"}'):
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(20 * PATIENCE)
                link.connect(str(one.folder / "route.sock"))
                link.sendall(struct.pack(">I", len(hello)) + hello)
                check(b"error" in link.recv(1000), hello)
                equal(link.recv(1000), b"")
        equal(routes(one), {"n2": False})


def route_hello(link, to, network, subnet=None, subnet6=None, **more):
    """What a switch answers, a hello or an error."""
    hello = {"hutch-route": 1, "network": network, "to": to, "subnet": subnet, "subnet6": subnet6, **more}
    hello = json.dumps({key: value for key, value in hello.items() if value is not None}).encode()
    link.settimeout(20 * PATIENCE)
    link.sendall(struct.pack(">I", len(hello)) + hello)
    return json.loads(link.recv(5000)[4:])


def test_a_neighbour_has_the_subnet_of_its_config_and_no_other():
    """It is played here: a program of the user that says it is another network's switch."""
    own = {**ONE, "mode": "routed", "subnet": "10.5.0.0/24"}
    with folder() as root, contextlib.ExitStack() as stack:
        configure(root, "n2", **TWO)
        configure(root, "n3", mode="routed", subnet="10.6.0.128/25")
        configure(root, "n4", mode="routed", subnet="10.5.0.0/16")
        configure(root, "n5", mode="isolated", dhcp=False, dns=False)
        others = ["n2", "n3", "n4", "n5", "n6"]
        one = stack.enter_context(switch(root, "n1", route=others, **own))

        def says(network, *subnets, **more):
            link = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            link.connect(str(one.folder / "route.sock"))
            return route_hello(link, "n1", network, *subnets, **more)

        for network, subnets, words in (
                ("n2", ["0.0.0.0/0"], ["0.0.0.0/0", "10.6.0.0/24"]), ("n2", ["8.8.8.0/24"], ["8.8.8.0/24"]),
                ("n2", ["10.6.0.0/23"], ["10.6.0.0/23"]), ("n2", ["10.6.0.0/24", "fd00::/16"], ["fd00::/16", "fd00:6::/64"]),
                ("n2", ["fd00:6::/64"], ["fd00:6::/64"]), ("n2", ["10.6.0.0/24\n"], ["makes no sense"]),
                ("n5", ["10.8.0.0/24"], ["10.8.0.0/24", "none"]), ("n6", ["10.9.0.0/24"], ["no network 'n6'"]),
                ("n4", ["10.5.0.0/16"], ["10.5.0.0/16", "overlaps"])):
            told = says(network, *subnets)
            for word in words:
                check(word in told.get("error", ""), f"{network} {subnets}: {told}")
        equal(routes(one), dict.fromkeys(others, False))
        log = (one.folder / "log").read_text()
        check("no route to n2: it says that its subnet is 0.0.0.0/0" in log and "no route to n6" in log, log)
        equal(says("n2", "10.6.0.0/24", "fd00:6::/64")["network"], "n1")
        told = says("n3", "10.6.0.128/25")  # two configs that somebody wrote by hand
        check("overlaps that of n2" in told["error"], told)
        # And when it is we who connect.
        place = one.folder.parent / "n5"
        place.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(place / "route.sock"))
            server.listen()
            server.settimeout(20 * PATIENCE)
            one.configure(route=["n2"], **own)
            one.call("reconfigure")
            one.configure(route=["n2", "n5"], **own)
            one.call("reconfigure")
            link = stack.enter_context(server.accept()[0])
            equal(route_hello(link, "n1", "n5", "10.8.0.0/24")["to"], "n5", "what it said itself")
            equal(link.recv(1000), b"")
        equal(routes(one), {"n2": True, "n5": False})


def test_nothing_leaves_an_isolated_network():
    with folder() as root, Sink(SERVER4) as sink, Upstream() as upstream, \
            switch(root, "n2", mode="routed", subnet="10.6.0.0/24", route=["n1"]) as other, \
            switch(root, subnet6="fd00:5::/64") as n, n.vm("raw", 8, ip=["10.5.0.8", "fd00:5::8"]) as raw, \
            Guest(n, "web", "10.5.0.7/24", "fd00:5::7/64", gateways="10.5.0.1,fd00:5::1") as web:
        equal(routes(other), {"n1": False})
        for address in (SERVER4, SERVER6, "10.6.0.1"):
            check("unreachable" in web.python(CONNECT, address, str(sink.port)), address)
        equal(web.status("www.example.org"), "REFUSED")
        equal(web.dig("raw"), ["10.5.0.8"])
        equal(web.dig("+tcp", "raw"), ["10.5.0.8"])
        gateway = gateway_mac(raw, raw.ip)
        for proto in range(256):
            raw.send(frames.ip(raw.mac, gateway, raw.ip, SERVER4, proto, bytes(40)))
        raw.send(frames.udp(raw.mac, gateway, raw.ip, SERVER4, 1, sink.port, b"x", flags=1))
        equal(web.python(CONNECT, "10.5.0.1", "80"), "Connection refused")
        equal((sink.clients, upstream.asked), ([], []), "who has come through")
        equal([n.call("query-routes"), n.call("query-forwards")], [[], []])
        equal(routes(other), {"n1": False})
        equal(sockets_of(n.process.pid, "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6", "packet"), [],
              "sockets by which the switch could reach others")


def test_an_uplink_comes_and_goes_with_the_config():
    with folder() as root, switch(root, mode="nat", dhcp=False) as n, Guest(n, "web", "10.5.0.7/24") as web:
        def uplinks():
            return [p["kind"] for p in n.call("query-ports") if p["kind"] == "uplink"]

        n.configure(mode="nat", dhcp=False, uplink="tap,ifname=hutchup0")
        n.call("reconfigure")
        ip_command("link", "set", "hutchup0", "up")
        ip_command("address", "add", "10.5.0.200/24", "dev", "hutchup0")
        web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.5.0.200")
        n.configure(mode="nat", dhcp=False, uplink="bridge=hutchnone0")
        try:
            n.call("reconfigure")
            raise AssertionError("there is no such bridge")
        except frames.Failed as why:
            check("uplink=bridge=hutchnone0: " in str(why), why)
        equal(uplinks(), ["uplink"])
        web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.5.0.200")
        ip_command("link", "add", "hutchbr0", "type", "bridge")
        ip_command("link", "set", "hutchbr0", "up")
        ip_command("address", "add", "10.5.0.201/24", "dev", "hutchbr0")
        n.configure(mode="nat", dhcp=False, uplink="bridge=hutchbr0")
        n.call("reconfigure")
        check(not os.path.exists("/sys/class/net/hutchup0"), "the tap is gone")
        web.run("ping", "-c1", f"-W{20 * PATIENCE:.0f}", "10.5.0.201")
        number = next(p["port"] for p in n.call("query-ports") if p["kind"] == "uplink")
        n.call("set-port", port=number, groups=["outer"])
        n.kill()
        start_again(n)
        equal([p["groups"] for p in n.call("query-ports") if p["kind"] == "uplink"], [["outer"]])
        n.configure(mode="nat", dhcp=False)
        n.call("reconfigure")
        equal(uplinks(), [])
        ip_command("link", "delete", "hutchbr0")


def sockets_of(pid, *tables):
    """The inodes of a process's sockets that are in one of those files of /proc/net."""
    rows = []
    for table in tables:
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as f:
            rows += f.read().split()
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [link for link in links if link.startswith("socket:[") and link[8:-1] in rows]



def main():
    hutch.unshare_network()
    ip_command("link", "set", "lo", "up")
    ip_command("address", "add", SERVER4 + "/32", "dev", "lo")
    ip_command("address", "add", SERVER6 + "/128", "dev", "lo", "nodad")
    hutch.main()


if __name__ == "__main__":
    main()
