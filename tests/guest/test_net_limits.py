#!/usr/bin/env python3
"""Limits, bad wires and captures of a running switch: docs/networks.md.  The ports are this
program's."""
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time

import frames
import hutch
from hutch import PATIENCE, Skip, check, equal

SWITCH = os.path.join(os.path.dirname(hutch.HUTCH), "hutch-switch")
DATA = bytes(1000)


class Network(frames.Switch):
    def __init__(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="hutch-limits-")
        super().__init__(SWITCH, self.temporary.name, dhcp=False)
        self.join()

    def join(self):
        self.web = self.vm("web", 2, instance="first")
        self.db = self.vm("db", 3, instance="second")

    def leave(self):
        self.web.close()
        self.db.close()

    def __exit__(self, *_):
        self.leave()
        self.end()
        self.temporary.cleanup()

    def send(self, number, data=DATA):
        """A numbered datagram from web to db."""
        self.web.send(frames.udp(self.web.mac, self.db.mac, self.web.ip, self.db.ip, number, 2000,
                                 data))

    def numbers(self, last):
        """Those that came to db until `last` came by a way that nothing is wrong with."""
        got = []
        while not got or got[-1] != last:
            frame = self.db.receive()
            check(frame, f"{last} did not come; {len(got)} others did")
            if frame.udp and frame.udp.to_port == 2000:
                got.append(frame.udp.from_port)
        return got[:-1]


def test_a_limit_lets_a_burst_pass_and_then_its_rate():
    with Network() as net:
        net.call("set-limit", vm="web", direction="out", frames_per_s=1000, burst_frames=50)
        begin = time.monotonic()
        for number in range(400):
            net.send(1000 + number)
        net.call("query-status")  # the switch has seen them: its ring was emptied before
        took = time.monotonic() - begin
        net.call("set-limit", vm="web", direction="out", frames_per_s=0)
        net.send(9)
        got = net.numbers(9)
        check(50 <= len(got) <= 52 + 1000 * took, f"{len(got)} of 400 passed in {took:.3f} s")
        count = net.ports()["web"]["out"]
        equal(count["limited"], 400 - len(got), "what is counted")


def test_a_bad_wire_is_late_loses_and_is_mended():
    with Network() as net:
        net.call("set-impair", vm="db", direction="in", delay_us=50000)
        begin = time.monotonic()
        net.send(9)
        equal(net.numbers(9), [])
        check(time.monotonic() - begin >= 0.05, "it was not late")
        net.call("set-impair", vm="db", direction="in", delay_us=0, loss=0.5, seed=7)
        for number in range(400):
            net.send(1000 + number)
        while net.ports()["web"]["out"]["frames"] < 401:
            time.sleep(0.01)
        net.call("set-impair", vm="db", clear=True)
        net.send(9)
        got = net.numbers(9)
        check(140 < len(got) < 260, f"{len(got)} of 400 with half of them lost")
        equal(got, sorted(got), "their order")
        equal(net.ports()["db"]["in"]["lost"], 400 - len(got), "what is counted")
        equal(net.call("query-limits"), [], "what is left of it")


def test_limits_outlive_a_switch_that_is_killed_and_no_vm():
    with Network() as net:
        net.call("set-limit", vm="web", direction="out", bytes_per_s=5000000)
        net.call("set-impair", vm="db", direction="in", loss=1, seed=1)
        before = net.call("query-limits")
        equal(len(before), 2)
        net.kill()
        net.leave()
        net.start()
        net.join()
        key = lambda port: port["vm"]
        equal(sorted(net.call("query-limits"), key=key), sorted(before, key=key))
        net.db.close()
        while "db" in net.ports():
            time.sleep(0.01)
        net.db = net.vm("db", 3, instance="third")
        equal([port["vm"] for port in net.call("query-limits")], ["web"])


def test_what_is_set_of_a_port_outlives_a_switch_that_is_killed():
    with Network() as net:
        other = net.vm("web", 4, nic="net1", instance="first")
        net.call("set-port", vm="web", vlan=7, trunk=[8, 9], groups=["front"], trust=True)
        net.call("set-port", vm="db", link=False)
        keep = lambda: {(p["vm"], p["nic"]): [p[key] for key in ("vlan", "trunk", "groups", "trust", "link")]
                        for p in net.call("query-ports")}
        before = keep()
        equal(before[("web", "net0")], [7, [8, 9], ["front"], True, True])
        equal(before[("db", "net0")][-1], False)
        net.kill()
        net.leave()
        other.close()
        net.start()
        other = net.vm("web", 4, nic="net1", instance="first")
        net.join()
        equal(keep(), before)
        equal(net.db.reply["link"], False, "what the monitor is told")
        net.call("set-port", vm="db", link=True)
        equal(net.db.hear(), {"link": True})
        # Whichever card came first, the VM's first is that of the first name.
        equal([port["nic"] for port in net.call("query-limits", vm="web")], ["net0"])
        net.web.close()
        while ("web", "net0") in keep():
            time.sleep(0.01)
        net.web = net.vm("web", 2, instance="third")
        equal(keep()[("web", "net0")], [0, [], [], False, True], "a VM that starts anew")
        other.close()


def capture(net, **arguments):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10 * PATIENCE)
    sock.connect(str(net.folder / "control.sock"))
    sock.sendall(json.dumps({"execute": "capture", "arguments": arguments}).encode() + b"\n")
    file = sock.makefile("rb")
    equal(json.loads(file.readline()), {"return": {}})
    return file


def test_tcpdump_reads_a_capture():
    if not shutil.which("tcpdump"):
        raise Skip("tcpdump is not installed: sudo apt-get install tcpdump")
    with Network() as net:
        file = capture(net, vm="db", filter="udp port 2000", count=3)
        for number in range(1000, 1005):
            net.send(number)
        data = file.read()  # to its end: after three frames the switch has hung up
        said = subprocess.run(["tcpdump", "-nn", "-vv", "-r", "-"], input=data, check=True,
                              capture_output=True, timeout=60 * PATIENCE).stdout.decode()
        for number in range(1000, 1003):
            check(f"10.5.0.2.{number} > 10.5.0.3.2000: [udp sum ok]" in said, said)
        check(".1003 >" not in said, said)


def test_who_does_not_read_a_capture_holds_nobody_up():
    with Network() as net:
        file = capture(net)
        for _ in range(30):
            for number in range(100):
                net.send(1000 + number)
            net.send(9)
            equal(len(net.numbers(9)), 100)
        lost = net.call("query-captures")[0]
        equal(lost["frames"] + lost["lost"], net.ports()["web"]["out"]["frames"])
        check(lost["lost"] > 0, lost)
        file.close()


if __name__ == "__main__":
    hutch.main()
