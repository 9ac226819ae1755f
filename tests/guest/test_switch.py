#!/usr/bin/env python3
"""hutch-switch, with ports that this program plays: docs/networks.md.  Foreign ports are a real QEMU and a
real passt, too."""
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import frames
import hutch
from frames import ACK, BROADCAST, PSH, SYN
from hutch import PATIENCE, Skip, check, equal

SWITCH = os.path.join(os.path.dirname(hutch.HUTCH), "hutch-switch")
QEMU, PASST = "qemu-system-x86_64", "passt"
WINDOW = 150
ALLOW = "default in allow\ndefault out allow\n"


class Network(frames.Switch):
    """In a temporary folder; without DHCP, so that foreign ports may have any address."""

    def __init__(self, **config):
        self.temporary = tempfile.TemporaryDirectory(prefix="hutch-switch-")
        super().__init__(SWITCH, self.temporary.name, **{"dhcp": False, **config})

    def __exit__(self, kind, *_):
        status, errors = self.end(), self.errors()
        self.temporary.cleanup()
        if kind is None:
            equal((status, errors), (0, ""), "how it ended")

    def log(self):
        return (self.folder / "log").read_text()


def refused(fn, *words):
    """The sentence by which fn was refused, which has these words."""
    try:
        fn()
    except (frames.Refused, frames.Failed) as why:
        for word in words:
            check(word in str(why), f"'{word}' is not in: {why}")
        check("\n" not in str(why), why)
        return str(why)
    raise AssertionError("it was not refused")


def wait_until(fn, what, seconds=10):
    end = time.monotonic() + seconds * PATIENCE
    while not (value := fn()):
        check(time.monotonic() < end, f"{what} did not happen")
        time.sleep(0.01)
    return value


# ---- frames from port to port --------------------------------------------------------------------

def say(a, b, data=b"hello", port=2000):
    a.send(frames.udp(a.mac, b.mac, a.ip, b.ip, 1000, port, data))


def hear(b, data=b"hello", port=2000):
    return b.expect(lambda f: f.udp and f.udp.to_port == port and f.udp.data == data)


def talk(a, b):
    say(a, b)
    hear(b)
    say(b, a)
    hear(a)


def test_vms_and_streams_talk_to_each_other():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.stream() as s:
        talk(a, b)
        s.mac, s.ip = "02:00:00:00:01:09", "10.5.0.9"
        s.send(frames.arp_request(s.mac, s.ip, a.ip))
        equal(a.expect(lambda f: f.arp).arp.from_ip, s.ip)
        b.expect(lambda f: f.arp)
        talk(a, s)
        equal(b.drain(), [], "what was for others")
        where = {entry["mac"]: entry for entry in net.call("query-fdb")}
        equal(where[a.mac]["vm"], "a")
        equal(where[s.mac]["port"], 2)
        port = net.ports()["a"]
        equal((port["kind"], port["mac"], port["link"], port["addresses"]), ("vm", a.mac, True, [a.ip]))
        check(port["out"]["frames"] >= 2 and port["in"]["frames"] >= 2, port)


def burst(a, b, count, seed):
    """Frames of all sizes, which have to come whole and in order; at most WINDOW are on their way, as this
    program takes them too slowly for anybody to wait for it."""
    numbers = random.Random(seed)
    datas = [struct.pack(">I", i) + numbers.randbytes(numbers.randrange(1400)) for i in range(count)]
    window = threading.Semaphore(WINDOW)

    def send():
        for data in datas:
            window.acquire()
            say(a, b, data)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for data in datas:
        frame = b.expect(lambda f: f.udp)
        check(frame.udp.data == data and frame.udp.good, f"another frame came: {frame}")
        window.release()
    sender.join()


def test_nothing_is_lost_or_changed_or_reordered_on_the_way():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.stream() as s:
        s.mac, s.ip = "02:00:00:00:01:09", "10.5.0.9"
        talk(a, b)
        burst(a, b, 3000, 1)  # twice around the rings and more
        talk(s, a)
        burst(a, s, 1500, 2)
        burst(s, b, 1500, 3)
        equal([port["in"]["dropped"] + port["out"]["dropped"] for port in net.ports().values()], [0, 0, 0])


def test_flows_are_spread_over_queues_and_each_stays_in_one():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3, queues=4) as b:
        equal(b.reply["queues"], 4)
        by_queue = {}
        for port in list(range(2000, 2064)) * 2:
            say(a, b, port=port)
            hear(b, port=port)
            by_queue.setdefault(port, set()).add(b.came_by)
        equal({len(queues) for queues in by_queue.values()}, {1})
        equal(set.union(*by_queue.values()), {0, 1, 2, 3})
        for b.queue in range(4):
            say(b, a, bytes([b.queue]))
            hear(a, bytes([b.queue]))


def test_offloads_are_done_for_who_cannot_do_them():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.vm("c", 4, offloads=15) as c:
        data = random.Random(4).randbytes(20000)
        for to in (b, c):
            segment = frames.tcp_segment(a.ip, to.ip, 80, 90, ACK | PSH, seq=7, data=data)
            pseudo = frames.ip_bytes(a.ip) + frames.ip_bytes(to.ip) + struct.pack(">II", len(segment), frames.TCP)
            partial = struct.pack(">H", ~frames.checksum(pseudo) & 0xFFFF)
            segment = segment[:16] + partial + segment[18:]
            frame = frames.ip(a.mac, to.mac, a.ip, to.ip, frames.TCP, segment)
            a.send_big(frame, 1, 1, 54, 1400, 34, 16)
        whole = c.expect(lambda f: f.tcp)
        equal((whole.tcp.data == data, whole.header[:4]), (True, (1, 1, 54, 1400)))
        got = b""
        while len(got) < len(data):
            piece = b.expect(lambda f: f.tcp)
            check(piece.tcp.good and piece.ip.good and len(piece.raw) <= 1514, piece)
            equal((piece.tcp.seq, piece.header), (7 + len(got), (0, 0, 0, 0, 0, 0, 1)))
            got += piece.tcp.data
        check(got == data, "the segments are not what was sent")


def test_datagrams_that_were_left_to_be_cut_come_one_by_one():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.vm("c", 4, offloads=111) as c:
        data = random.Random(5).randbytes(20000)
        for to in (b, c):
            a.send_big(frames.udp(a.mac, to.mac, a.ip, to.ip, 80, 90, data), 1, 5, 42, 1300, 34, 6)
        whole = c.expect(lambda f: f.udp)
        equal((whole.udp.data == data, whole.header[:4]), (True, (1, 5, 42, 1300)))
        got = b""
        while len(got) < len(data):
            piece = b.expect(lambda f: f.udp)
            check(piece.udp.good and piece.ip.good, piece)
            equal((len(piece.udp.data), piece.header), (min(1300, len(data) - len(got)), (0, 0, 0, 0, 0, 0, 1)))
            got += piece.udp.data
        check(got == data, "the datagrams are not what was sent")


# ---- who may come --------------------------------------------------------------------------------

def test_a_second_port_of_one_name_mac_or_address_is_refused():
    with Network() as net, net.vm("web", 2) as web:
        refused(lambda: net.vm("web", 3), "net0", "web")
        refused(lambda: net.vm("db", 2, ip=["10.5.0.9"]), web.mac, "web")
        refused(lambda: net.vm("db", 3, ip=["10.5.0.2"]), "10.5.0.2", "web")
        refused(lambda: net.vm("db", 3, ip=["10.5.0.1"]), "10.5.0.1")
        refused(lambda: net.vm("db", 3, firewall="deny ot tcp"), ":1:6:")
        web.send(frames.arp_request(web.mac, web.ip, "10.5.0.1"))
        gateway = web.expect(lambda f: f.arp).src
        refused(lambda: frames.VmPort(net.folder, vm="db", mac=gateway), gateway, "gateway")
        equal(list(net.ports()), ["web"], "after what was refused")
        with net.vm("web", 3, nic="net1"), net.vm("db", 4):
            equal(len(net.call("query-ports")), 3)
        wait_until(lambda: list(net.ports()) == ["web"], "leaving")


def test_a_stream_keeps_no_vm_from_its_mac():
    with Network() as net, net.vm("a", 2) as a, net.stream() as s:
        s.send(frames.arp_request("02:00:00:00:00:03", "10.5.0.3", a.ip))
        a.expect(lambda f: f.arp)
        with net.vm("b", 3) as b:
            talk(a, b)
            s.send(frames.arp_request("02:00:00:00:00:03", "10.5.0.3", a.ip))
            talk(a, b)
            equal([f for f in a.drain() if f.arp], [])
            talk(b, a)
            equal(net.call("query-ports")[1]["out"]["spoofed"], 1)


def test_who_hangs_up_can_come_back_at_once():
    with Network() as net, net.vm("a", 2) as a:
        for _ in range(50):
            with net.vm("b", 3) as b:
                talk(a, b)


def test_hellos_that_are_none_are_answered_and_hung_up_on():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b:
        for hello in (b"\n", b"{}\n", b"[1]\n", b"\xff\xfe\n", b"{\"hutch-port\": 1}\n", b"[" * 100000 + b"\n"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10 * PATIENCE)
                sock.connect(str(net.folder / "port.sock"))
                sock.sendall(hello)
                answer = sock.makefile("rb").readline()
                check("desc" in json.loads(answer)["error"], answer)
        with socket.socket(socket.AF_UNIX) as sock:  # longer than any line may be
            sock.settimeout(10 * PATIENCE)
            sock.connect(str(net.folder / "port.sock"))
            try:
                for _ in range(64):
                    sock.sendall(b" " * 65536)
                equal(sock.recv(1), b"")
            except (BrokenPipeError, ConnectionResetError):
                pass
        talk(a, b)


@contextlib.contextmanager
def crowd(net, count, data):
    """A process that has connected so often and says no more than this."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            kept = [socket.socket(socket.AF_UNIX) for _ in range(count)]
            for sock in kept:
                sock.connect(str(net.folder / "port.sock"))
                try:
                    sock.settimeout(SAY_S)
                    sock.sendall(data)
                except OSError:  # it was hung up on
                    pass
            os.write(ready[1], b"x")
            os.close(done[1])
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        os.read(ready[0], 1)
        yield
    finally:
        for fd in (ready[0], *done):
            os.close(fd)
        os.waitpid(child, 0)


SAY_S = 10 * PATIENCE


def test_a_flood_of_hellos_keeps_nobody_away_and_takes_bounded_memory():
    with Network() as net, contextlib.ExitStack() as stack, net.vm("a", 2) as a:
        before = memory_of(net.process.pid)
        stack.enter_context(crowd(net, 100, b"[" * (900 << 10)))  # of one process
        for _ in range(18):  # of many
            stack.enter_context(crowd(net, 32, b"{"))
        for number in range(3, 40):
            with net.vm(f"vm{number}", number) as vm:
                talk(vm, a)
        grown = memory_of(net.process.pid) - before
        if not hutch.sanitized():
            check(grown < 24, f"it grew by {grown:.1f} MiB")
        check("has not said who it is" in net.log(), net.log())
        check(len(net.log().splitlines()) < 50, "it logs at their word")


def test_streams_that_do_not_keep_to_the_format_are_hung_up_on():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b:
        for junk in (b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack(">I", 70000), b"GET / HTTP/1.0\r\n\r\n"):
            with net.stream() as s:
                s.sock.sendall(junk)
                equal(s.sock.recv(1), b"")
        with net.stream() as s:  # a frame that is too short is a frame, and lost
            s.sock.sendall(struct.pack(">I", 3) + b"abc")
            for byte in struct.pack(">I", 60) + frames.arp_request("02:00:00:00:01:09", "10.5.0.9", a.ip):
                s.sock.sendall(bytes([byte]))
            equal(a.expect(lambda f: f.arp).src, "02:00:00:00:01:09")
        check("length of" in net.log(), net.log())
        talk(a, b)


def fill_up(fd):
    """What wakes us is made to block who writes to it, if that can be done."""
    os.set_blocking(fd, True)
    try:
        os.write(fd, struct.pack("<Q", (1 << 64) - 2))  # an eventfd
    except OSError:
        pipe = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(pipe, bytes(4096))
        except BlockingIOError:
            pass
        os.close(pipe)


def test_rings_full_of_nonsense_hurt_nobody_else():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.vm("evil", 4) as evil:
        numbers, ring = random.Random(5), evil.out[0]
        for _ in range(300):
            for field in (frames.HEAD, frames.RESTART, frames.STARVED, frames.TAIL, frames.ASLEEP):
                ring.set(field, numbers.choice((0, 7, 8, 1 << 19, (1 << 32) - 8, numbers.getrandbits(32))))
                evil.come[0].set(field, numbers.getrandbits(32))
            at = ring.data + numbers.randrange(frames.RING_BYTES // 8) * 8
            struct.pack_into("<I", evil.memory, at, numbers.choice((0, 1, 60, 65562, 1 << 17, numbers.getrandbits(32))))
            os.write(evil.kick[0], struct.pack("<Q", 1))
            say(a, evil)
        evil.tell(offloads=1 << 40, link="up")
        fill_up(evil.call[0])
        for _ in range(100):
            evil.come[0].set(frames.ASLEEP, 1)
            say(a, evil)
        for _ in range(100):
            talk(a, b)
        evil.sock.sendall(b"no JSON\n")
        wait_until(lambda: "evil" not in net.ports(), "hanging up")
        check("hung up" in net.log(), net.log())
        talk(a, b)


def test_a_monitor_that_closes_its_bell_keeps_nobody_busy():
    def cpu_ns(net):
        with open(f"/proc/{net.process.pid}/schedstat", encoding="ascii") as stat:
            return int(stat.read().split()[0])

    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.vm("evil", 4) as evil:
        os.close(evil.fds.pop(1))
        talk(a, b)  # that it is closed has been seen
        before = cpu_ns(net)
        time.sleep(0.3)
        used = cpu_ns(net) - before
        check(used < 50e6, f"{used / 1e6} ms of CPU in 300 ms")
        say(a, evil, b"hello")
        hear(evil, b"hello")


def test_a_vm_that_takes_nothing_holds_up_nobody():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.vm("still", 4) as still:
        begun = time.monotonic()
        for i in range(2000):  # several times what its ring has room for
            say(a, still, bytes(1400))
            if i % 100 == 0:
                say(a, b, b"%d" % i)
                hear(b, b"%d" % i)
        took = time.monotonic() - begun
        check(took < 5 * PATIENCE, f"it took {took:.1f} s")
        check(net.ports()["still"]["in"]["dropped"] > 1000, net.ports()["still"])
        got = len(still.drain())  # and what it has room for was kept
        check(got > 200, got)
        say(a, still, b"again")
        hear(still, b"again")


# ---- commands ------------------------------------------------------------------------------------

def test_commands_are_answered_and_nonsense_is_refused():
    with Network() as net, net.vm("a", 2) as a:
        equal(net.call("query-status")["ports"], 1)
        equal(net.call("query-status")["mode"], "isolated")
        refused(lambda: net.call("no-such"), "no-such")
        refused(lambda: net.call("set-port", vm="b", link=False), "VM 'b' has no card")
        refused(lambda: net.call("set-port", vm="a", link=1), "link")
        refused(lambda: net.call("set-port", vm="a", vlan=5000), "4094")
        refused(lambda: net.call("set-port", vm="a", trunk=[0]), "trunk")
        refused(lambda: net.call("set-port"), "port")
        refused(lambda: net.call("connect-stream", path=str(net.root / "nobody")), "nobody")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(net.folder / "control.sock"))
            sock.settimeout(10 * PATIENCE)
            sock.sendall(b"nonsense\n[]\n{\"execute\": 7}\n{\"execute\": \"query-status\", \"arguments\": []}\n"
                         b"{\"execute\": \"query-status\"}\n")
            reader = sock.makefile("rb")
            equal(["error" in json.loads(reader.readline()) for _ in range(5)], [True] * 4 + [False])
            try:
                sock.sendall(b"x" * (3 << 20))
            except (BrokenPipeError, ConnectionResetError):
                pass
            check(b"2 MiB" in reader.readline(), "too long a command was not refused")
        net.call("disconnect", vm="a")
        try:
            equal(json.loads(a.sock.makefile("rb").read()), {"leave": True}, "the last that it hears")
        except ConnectionResetError:
            pass


def test_link_vlan_and_groups_change_while_frames_go():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b:
        talk(a, b)
        net.call("set-port", vm="b", link=False)
        equal(b.hear(), {"link": False})
        say(a, b)
        equal(b.receive(0.1), None)
        net.call("set-port", vm="b", link=True, vlan=7)
        equal(b.hear(), {"link": True})
        say(a, b)
        equal(b.receive(0.1), None)
        net.call("set-port", vm="a", trunk=[7, 9])
        a.send(frames.udp(a.mac, b.mac, a.ip, b.ip, 1, 2000, b"hello", vlan=7))
        equal(hear(b).vlan, None)
        say(b, a)
        equal(hear(a).vlan, 7)
        net.call("set-port", vm="b", vlan=0, groups=["front"])
        talk(a, b)
        port = net.ports()["a"]
        equal((port["trunk"], net.ports()["b"]["groups"]), ([7, 9], ["front"]))
        a.tell(link=False)
        wait_until(lambda: not net.ports()["a"]["link"], "pulling the cable")


def test_a_config_is_taken_over_or_refused_whole():
    with Network(storm=1000) as net, net.vm("a", 2) as a, net.vm("b", 3) as b:
        net.configure(dhcp=False, mtu=600)
        say(a, b, bytes(1000))
        hear(b, bytes(1000))
        net.call("reconfigure")
        say(a, b, bytes(1000))
        say(a, b)
        equal(b.expect(lambda f: f.udp).udp.data, b"hello")
        net.configure(dhcp=False, mtu=1)
        refused(lambda: net.call("reconfigure"), "mtu")
        (net.network / "firewall.rules").write_text("deny ot tcp\n")
        net.configure(dhcp=False)
        refused(lambda: net.call("reconfigure"), "firewall.rules:1:6:")
        say(a, b, bytes(1000))
        say(a, b)
        equal(b.expect(lambda f: f.udp).udp.data, b"hello", "the config of before")
        talk(a, b)


# ---- rules ---------------------------------------------------------------------------------------

def test_rules_stand_in_the_way_and_change_at_once():
    with Network(rules=ALLOW + "deny in tcp port 22\n") as net, net.vm("a", 2) as a, net.vm("b", 3) as b:
        a.send(frames.tcp(a.mac, b.mac, a.ip, b.ip, 1, 22, SYN), frames.tcp(a.mac, b.mac, a.ip, b.ip, 1, 23, SYN))
        equal(b.expect(lambda f: f.tcp).tcp.to_port, 23)
        equal(net.call("firewall-show")["json"]["rules"][0]["packets"], 1)
        entry, = net.call("firewall-log")["entries"]
        equal((entry["vm"], entry["direction"], entry["allow"]), ("b", "in", False))
        check("rule 1 of firewall.rules" in entry["text"] and "10.5.0.3:22 syn" in entry["packet"], entry)
        answer = net.call("firewall-test", vm="b", direction="in", proto="tcp", port=22, **{"from": "a"})
        equal((answer["allow"], answer["reason"], answer["set"], answer["rule"]), (False, "rule", "network", 0))
        equal(net.call("firewall-test", vm="b", direction="in", proto="udp", port=22, **{"from": "a"})["allow"], True)
        refused(lambda: net.call("firewall-set", text="deny in tcp\nallow sideways\n"), ":2:7:")
        equal(net.call("firewall-show")["text"].count("\n"), 3, "after what was refused")
        net.call("firewall-add", rule="deny in udp", at=0)
        net.call("firewall-rm", at=1)
        a.send(frames.udp(a.mac, b.mac, a.ip, b.ip, 1, 2, b"x"), frames.tcp(a.mac, b.mac, a.ip, b.ip, 2, 22, SYN))
        equal(b.expect(lambda f: f.udp or f.tcp).tcp.to_port, 22)
        equal((net.network / "firewall.rules").read_text(), net.call("firewall-show")["text"])
        net.call("firewall-set", text=None)
        check(not (net.network / "firewall.rules").exists(), "the file is still there")
        talk(a, b)
        equal(net.call("firewall-set", vm="b", text="")["json"]["rules"], [], "an empty list of what is allowed")
        say(a, b)
        equal(b.receive(0.1), None)
        flows = net.call("query-flows", vm="a")
        check(all(flow["vm"] == "a" for flow in flows), flows)
        for _ in range(300):  # the log has a rate
            say(a, b)
        wait_until(lambda: net.ports()["b"]["in"]["denied"] >= 301, "denying")
        check(len(net.call("firewall-log")["entries"]) < 100, "the log is full of one port's")


SENTINEL = "allow in udp port 9999\nallow out udp port 9999\n"
WHO_RULES = (  # of web, and from or to whom packets pass: db is of group back, lab of group front
    ("allow in from vm db", {"db"}, set()),
    ("allow in from vm db, vm lab", {"db", "lab"}, set()),
    ("allow out to vm lab", set(), {"lab"}),
    ("allow in from group back", {"db"}, set()),
    ("allow out to group front", set(), {"lab"}),
    ("allow in from net n1\nallow out to group none", {"db", "lab"}, set()),
    ("allow out to net n1\nallow in from net n2", set(), {"db", "lab"}),
    ("default in allow\ndefault out allow\ndeny in from group back\ndeny out to vm lab", {"lab"}, {"db"}),
)


def test_rules_know_vms_groups_and_networks_both_ways():
    numbers = iter(range(1024, 65536))

    def passes(a, b, family):
        """Whether a datagram does; the next one always does."""
        for port in (2000, 9999):
            a.send(frames.udp(a.mac, b.mac, a.ips[family], b.ips[family], next(numbers), port, b"x"))
        first = b.expect(lambda f: f.udp).udp.to_port
        if first == 2000:
            b.expect(lambda f: f.udp and f.udp.to_port == 9999)
        return first == 2000

    def host(net, name, number, **more):
        port = net.vm(name, number, ip=[f"10.5.0.{number}", f"fd00:5::{number}"], **more)
        port.ips = (port.ip, f"fd00:5::{number}")
        return port

    with Network(subnet6="fd00:5::/64") as net, host(net, "web", 2) as web, \
            host(net, "db", 3, groups=["back"]) as db, host(net, "lab", 4, groups=["front", "x"]) as lab:
        others = {"db": db, "lab": lab}
        for rules, into, out in WHO_RULES:
            net.call("firewall-set", vm="web", text=SENTINEL + rules)
            for family in (0, 1):
                equal({name for name, port in others.items() if passes(port, web, family)}, into, f"in: {rules}")
                equal({name for name, port in others.items() if passes(web, port, family)}, out, f"out: {rules}")
        # Labels and VMs that change are others to the rules at once.
        net.call("firewall-set", vm="web", text=SENTINEL + "allow in from group back\nallow out to vm db")
        net.call("set-port", vm="lab", groups=["back"])
        net.call("set-port", vm="db", groups=[])
        equal([passes(port, web, family) for port in (db, lab) for family in (0, 1)], [False, False, True, True])
        db.close()
        wait_until(lambda: "db" not in net.ports(), "leaving")
        with host(net, "other", 3) as other:
            equal([passes(web, other, family) for family in (0, 1)], [False, False], "who has db's addresses now")


def test_a_switch_that_is_killed_comes_back_with_rules_and_connections():
    with Network(rules=ALLOW) as net:
        live = "default in deny\ndefault out allow\nallow in tcp port 80\n"
        a, b = net.vm("a", 2, instance="i1"), net.vm("b", 3, instance="i2", firewall=ALLOW)
        net.call("firewall-set", vm="b", text=live)
        shake = [(a, b, 1000, 80, SYN, 1), (b, a, 80, 1000, SYN | ACK, 5), (a, b, 1000, 80, ACK, 2)]

        def segment(x, y, from_port, to_port, flags, seq, data=b""):
            x.send(frames.tcp(x.mac, y.mac, x.ip, y.ip, from_port, to_port, flags, seq, 1, data))
            y.expect(lambda f: f.tcp and f.tcp.seq == seq)

        for step in shake:
            segment(*step)
        net.kill()
        for port in (a, b):
            port.close()
        net.start()
        a, b = net.vm("a", 2, instance="i1"), net.vm("b", 3, instance="i2", firewall=ALLOW)
        equal(net.call("firewall-show", vm="b")["text"], live, "rules that were set while it ran")
        segment(b, a, 80, 1000, ACK | PSH, 6, b"from the middle")
        segment(a, b, 1000, 80, ACK | PSH, 2, b"and back")
        a.send(frames.tcp(a.mac, b.mac, a.ip, b.ip, 1000, 81, SYN))
        equal(b.receive(0.1), None)
        b.close()
        with net.vm("b", 3, instance="i3", firewall=ALLOW) as b:
            equal(net.call("firewall-show", vm="b")["text"], ALLOW, "rules of the VM's next start")
        a.close()


def port_of(net, number):
    return next((port for port in net.call("query-ports") if port["port"] == number), None)


def listen_at(path):
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(10 * PATIENCE)
    server.bind(str(path))
    server.listen()
    return server


def test_a_program_that_was_connected_to_is_gone_to_again_with_its_settings():
    with Network() as net:
        a, path = net.vm("a", 2), net.root / "program.sock"

        def comes(server):
            """The switch does; frames go both ways."""
            s = frames.StreamPort(server.accept()[0])
            s.mac, s.ip = "02:00:00:00:01:09", "10.5.0.9"
            wait_until(lambda: port_of(net, number)["link"], "its link")
            talk(s, a)
            return s

        with listen_at(path) as server:
            number = net.call("connect-stream", path=str(path))["port"]
            with comes(server):
                equal((port_of(net, number)["path"], port_of(net, number).get("retry")), (str(path), None))
                refused(lambda: net.call("connect-stream", path=str(path)), str(path), "already", f"port {number}")
                net.call("set-limit", port=number, direction="out", bytes_per_s=1 << 30)
                net.call("set-impair", port=number, direction="in", delay_us=1, seed=7)
                limits = net.call("query-limits", port=number)
                net.call("set-port", port=number, groups=["outer"], trust=False)
            with comes(server):  # it has hung up, and is there again
                net.kill()
                a.close()
            net.start()
            a, number = net.vm("a", 2), 0
            with comes(server):
                equal(net.call("query-limits", port=number), [{**limits[0], "port": number}])
                equal((port_of(net, number)["groups"], port_of(net, number)["trust"]), (["outer"], False))
        down = wait_until(lambda: "retry" in port_of(net, number) and port_of(net, number), "its end")
        equal((down["link"], down["retry"] <= 10), (False, True))
        net.end()  # not killed
        a.close()
        with listen_at(path) as server:
            net.start()
            a = net.vm("a", 2)
            with comes(server) as s:
                refused(lambda: net.call("disconnect", path=str(net.root)), str(net.root))
                net.call("disconnect", path=str(path))
                net.call("connect-stream", path=str(path))  # at once
                net.call("query-status")
                check(str(path) in (net.network / "limits.json").read_text(), "it is not kept")
                net.call("disconnect", path=str(path))
                equal(s.sock.recv(1), b"")
            net.end()
            net.start()
            equal(net.call("query-ports"), [], "who was hung up on")
        a.close()


def test_what_is_set_for_a_stream_comes_back_with_its_program():
    another = ["python3", "-c", "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); input()"]
    with Network() as net:
        def streams(count):
            ports = wait_until(lambda: len(net.call("query-ports")) == count and net.call("query-ports"), "streams")
            return [port["vlan"] for port in ports]

        with net.stream(), net.stream():
            equal(streams(2), [0, 0])
            net.call("set-port", port=1, vlan=7)
            net.call("set-limit", port=1, frames_per_s=1000)
            limits = [{**entry, "port": 2} for entry in net.call("query-limits")]
            net.kill()
        net.start()
        other = subprocess.Popen([*another, str(net.folder / "stream.sock")], stdin=subprocess.PIPE)
        equal(streams(1), [0])
        with net.stream():
            equal(streams(2), [0, 0])
            with net.stream():
                equal(streams(3), [0, 0, 7])
                equal(net.call("query-limits"), limits)
            streams(2)
            with net.stream():
                equal(streams(3), [0, 0, 0], "it had left while the switch was there")
                equal(net.call("query-limits"), [])
        other.communicate(b"\n")


# ---- how long it lives ---------------------------------------------------------------------------

def test_it_ends_after_its_last_user_and_not_before():
    with Network() as net:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(net.folder / "control.sock"))
            sock.sendall(b"{\"execute\": \"capture\"}\n")
            equal(json.loads(sock.makefile("rb", 0).readline()), {"return": {}})
            with net.vm("a", 2):
                net.close_control()
                time.sleep(2.5)
                check(net.process.poll() is None, "it ended while it had a port")
        begun = time.monotonic()
        equal(net.process.wait(10 * PATIENCE), 0)
        check(time.monotonic() - begun > 1.5, "it ended at once")
        equal(sorted(p.name for p in net.folder.iterdir() if p.is_socket()), [])


def test_it_ends_though_its_run_folder_was_removed():
    with Network() as net:
        with net.vm("a", 2), net.vm("b", 3):
            net.close_control()
            away = net.folder.rename(net.folder.with_name("away"))
        equal(net.process.wait(10 * PATIENCE), 0)
        away.rename(net.folder)


def test_it_ends_when_told_and_says_what_is_wrong():
    with Network() as net:
        with open(net.folder / "lock", encoding="ascii") as lock:
            equal(int(lock.read()), net.process.pid)
        again = subprocess.run([SWITCH, "n1"], env=net.environment, capture_output=True, text=True, check=False)
        equal((again.returncode, again.stdout), (1, "the network n1 has a switch already\n"))
        unknown = subprocess.run([SWITCH, "n2"], env=net.environment, capture_output=True, text=True, check=False)
        equal((unknown.returncode, unknown.stdout.count("\n")), (1, 1))
        check("n2" in unknown.stdout and "n1" in unknown.stdout, unknown.stdout)
        net.call("quit")
        equal(net.process.wait(10 * PATIENCE), 0)
        net.start()
        net.process.send_signal(signal.SIGTERM)
        equal(net.process.wait(10 * PATIENCE), 0)


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        switches = [int(line.split()[1]) for line in status if "ctxt_switches" in line]
    return int(fields[11]) + int(fields[12]), sum(switches)


def test_an_idle_switch_gives_rings_back_and_sleeps():
    with Network() as net, net.vm("a", 2) as a, net.vm("b", 3) as b, net.stream():
        talk(a, b)
        for i in range(250):
            say(a, b, b"%04d" % i + bytes(1400))
        wait_until(lambda: b.memory_held() > 300 << 10, "filling it")
        for i in range(250):
            hear(b, b"%04d" % i + bytes(1400))
        wait_until(lambda: b.memory_held() < 64 << 10, "giving back what was full")
        talk(a, b)
        time.sleep(0.2)
        before = cpu_ticks(net.process.pid)
        time.sleep(1)
        after = cpu_ticks(net.process.pid)
        equal(after, before, "CPU time and context switches of an idle second")


# ---- many ----------------------------------------------------------------------------------------

def memory_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def test_a_thousand_ports():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[1] < 8192:
        raise Skip(f"only {limit[1]} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    try:
        with Network(subnet="10.5.0.0/16", storm=0) as net:
            begun = time.monotonic()
            empty = memory_of(net.process.pid)
            vms = [frames.VmPort(net.folder, vm=f"vm{i}", mac=f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}",
                                 ip=[f"10.5.{i >> 8}.{i & 255}"]) for i in range(2, 702)]
            for i, vm in enumerate(vms, 2):
                vm.ip = f"10.5.{i >> 8}.{i & 255}"
            streams = [net.stream() for _ in range(300)]
            wait_until(lambda: net.call("query-status")["ports"] == 1000, "joining")
            vms[0].send(frames.arp_request(vms[0].mac, vms[0].ip, vms[-1].ip))
            for port in vms[1:] + streams:
                port.expect(lambda f: f.arp)
            for a, b in zip(vms[::2], vms[1::2]):
                talk(a, b)
            grown = memory_of(net.process.pid) - empty
            print(f"# 1,000 ports in {time.monotonic() - begun:.1f} s and {grown:.1f} MiB", flush=True)
            if not hutch.sanitized():
                check(grown < 40, f"1,000 ports cost {grown:.1f} MiB")
            for port in vms + streams:
                port.close()
            wait_until(lambda: net.call("query-status")["ports"] == 0, "leaving")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


# ---- foreign ports -------------------------------------------------------------------------------

def test_a_qemu_vm_joins_and_gets_an_address():
    if not shutil.which(QEMU):
        raise Skip(f"{QEMU} is not here")
    mac = "52:54:00:00:00:77"
    with Network(dhcp=True) as net, net.vm("a", 2) as a:
        # The boot ROM of its card asks by DHCP, waits to be asked for its address, and answers pings.
        qemu = subprocess.Popen(
            [QEMU, "-nodefaults", "-display", "none", "-m", "64", "-machine", "q35,accel=tcg,graphics=off",
             "-boot", "strict=on", "-netdev",
             f"stream,id=n,server=off,addr.type=unix,addr.path={net.folder}/stream.sock",
             "-device", f"virtio-net-pci,netdev=n,mac={mac},bootindex=0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = wait_until(lambda: next((lease["address"] for lease in net.call("query-leases")
                                               if lease["mac"] == mac and lease.get("expires")), None),
                                 "a lease for QEMU's VM", 60)
            port = next(port for port in net.call("query-ports") if port["kind"] == "stream")
            wait_until(lambda: address in net.call("query-ports")[port["port"]]["addresses"], "taking it")
            equal(port["mac"], mac)

            def answers():
                a.send(frames.arp_request(a.mac, a.ip, address))
                return next((f for f in a.drain() if f.arp and f.arp.op == 2), None)
            found = wait_until(answers, "an answer of QEMU's VM")
            equal((found.arp.from_ip, found.src), (address, mac))
        finally:
            qemu.kill()
            qemu.wait()
        wait_until(lambda: len(net.call("query-ports")) == 1, "leaving")


def dhcp_discover(vm):
    packet = struct.pack(">BBBBIHHIIII", 1, 1, 6, 0, 7, 0, 0x8000, 0, 0, 0, 0) \
        + frames.mac_bytes(vm.mac).ljust(208, b"\0") + b"\x63\x82\x53\x63" + b"\x35\x01\x01\xff"
    return frames.udp(vm.mac, BROADCAST, "0.0.0.0", "255.255.255.255", 68, 67, packet)


def test_passt_is_a_way_out_of_a_network():
    """Its gateway's address is this machine's loopback: a TCP connection goes there and is answered."""
    if not shutil.which(PASST):
        raise Skip(f"{PASST} is not here")
    with Network(subnet=None) as net, socket.create_server(("127.0.0.1", 0)) as server:
        path = net.root / "passt.sock"
        me = ["--runas", "0"] if os.getuid() == 0 else []
        passt = subprocess.Popen([PASST, "-f", "-q", "-1", *me, "-m", "1500", "-a", "10.6.0.5", "-n", "24", "-g", "10.6.0.1",
                                  "-s", str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: path.exists() or passt.poll() is not None, "passt's socket")
            if passt.poll() is not None:
                raise Skip("passt does not run here")
            wait_until(lambda: connected(net, path), "joining it")
            vm = frames.VmPort(net.folder, vm="a", mac="02:00:00:00:00:05", ip=["10.6.0.5"])
            vm.send(dhcp_discover(vm))
            offer = vm.expect(lambda f: f.udp and f.udp.to_port == 68)
            equal(offer.udp.data[16:20], frames.ip_bytes("10.6.0.5"), "what passt gives")
            gateway, port = offer.src, server.getsockname()[1]
            way = (vm.mac, gateway, "10.6.0.5", "10.6.0.1", 4000, port)
            vm.send(frames.tcp(*way, SYN, 1, pad=False))  # this passt takes no frames that are padded
            answer = vm.expect(lambda f: f.tcp and f.tcp.flags == SYN | ACK)
            vm.send(frames.tcp(*way, ACK, 2, answer.tcp.seq + 1, pad=False))
            vm.send(frames.tcp(*way, ACK | PSH, 2, answer.tcp.seq + 1, b"out of the VM", pad=False))
            server.settimeout(10 * PATIENCE)
            with server.accept()[0] as client:
                client.settimeout(10 * PATIENCE)
                equal(client.recv(100), b"out of the VM")
                client.sendall(b"and in")
                equal(vm.expect(lambda f: f.tcp and f.tcp.data).tcp.data, b"and in")
            vm.close()
        finally:
            passt.kill()
            passt.wait()
        wait_until(lambda: [port["link"] for port in net.call("query-ports")] == [False], "passt's end")


def connected(net, path):
    try:
        return net.call("connect-stream", path=str(path))
    except frames.Failed:
        return None


if __name__ == "__main__":
    hutch.main()
