#!/usr/bin/env python3
"""What the fuzzer of a switch's sockets begins with: a stream of frames, hellos, and each command.

usage: switch_stream_corpus.py FOLDER"""
import json
import os
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "guest"))
import frames  # noqa: E402 - found by the line above

STREAM, MONITOR, CLIENT = range(3)
US, WEB, US_IP, WEB_IP = "02:00:00:00:00:09", "02:00:00:00:00:02", "10.5.0.9", "10.5.0.2"
COMMANDS = {
    "query-status": [{}], "query-ports": [{}], "query-fdb": [{}], "query-flows": [{}, {"vm": "web"}],
    "set-port": [{"vm": "web", "link": True, "vlan": 7, "trunk": [1, 2], "groups": ["a"], "trust": False}],
    "reconfigure": [{}], "connect-stream": [{"path": "/nowhere/s"}], "disconnect": [{"port": 99}],
    "firewall-show": [{}, {"vm": "web", "nic": "net0"}],
    "firewall-set": [{"text": "default in allow\ndeny in tcp port 22\n"}, {"vm": "web", "text": None}],
    "firewall-add": [{"rule": "allow out udp port 53", "at": 0}], "firewall-rm": [{"at": 0}],
    "firewall-test": [{"vm": "web", "direction": "in", "proto": "tcp", "from": US_IP, "port": 80},
                      {"direction": "out", "proto": "icmp6", "from": "fd00::1", "to": "fd00::2"}],
    "firewall-log": [{"since": 0}], "query-leases": [{}], "lease-release": [{"vm": "web"}],
    "set-limit": [{"vm": "web", "direction": "in", "bytes-per-s": 1000}],
    "set-impair": [{"vm": "web", "loss": 0.5, "delay-us": 10, "seed": 1}], "query-limits": [{}],
    "capture": [{"vm": "web", "filter": "tcp port 80", "snaplen": 64, "count": 3}],
}


def main(folder):
    def put(name, socket, data, step=0):
        (pathlib.Path(folder) / name).write_bytes(bytes((socket, step)) + data)

    some = [frames.arp_request(US, US_IP, WEB_IP), frames.udp(US, WEB, US_IP, WEB_IP, 1, 2, b"data"),
            frames.tcp(US, WEB, US_IP, WEB_IP, 1, 80, frames.SYN), frames.ping(US, WEB, US_IP, WEB_IP),
            frames.ethernet(US, frames.BROADCAST, frames.ETHER_IPV4, b"E" * 40, vlan=7)]
    for number, frame in enumerate(some):
        put(f"frame-{number}", STREAM, struct.pack(">I", len(frame)) + frame, number)
    put("frames", STREAM, b"".join(struct.pack(">I", len(frame)) + frame for frame in some))
    hello = {"hutch-port": 1, "vm": "db", "nic": "net0", "instance": "i", "mac": US}
    more = {"ip": [US_IP, "fd00::9"], "groups": ["front"], "queues": 2, "vlan": 3, "trunk": [4], "trust": True,
            "offloads": 15, "firewall": "default out allow\n"}
    lines = '\n{"offloads": 0}\n{"link": false}\n{"announce": true}\n'
    put("hello", MONITOR, json.dumps(hello).encode() + lines.encode())
    put("hello-more", MONITOR, json.dumps({**hello, **more}).encode() + lines.encode(), 7)
    for command, list_of_arguments in COMMANDS.items():
        for number, arguments in enumerate(list_of_arguments):
            put(f"{command}-{number}", CLIENT,
                json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    main(sys.argv[1])
