#!/usr/bin/env python3
"""What the fuzzer of rules and gates begins with: rules of each form, each with a few
frames of all kinds, in both directions.

usage: firewall_corpus.py FOLDER"""
import os
import struct
import sys

from frames import FRAMES

RULES = (
    "", "default in allow log\ndefault out allow", "allow in tcp port 80, 443\nallow out udp",
    "deny in tcp port 22 log\nallow in\nallow out from any to 10.5.0.0/24, fd00::/8",
    "allow in from vm web, group front, net other, vm \"a b\"\nallow out to name *.example.org, name x.y",
    "allow in icmp type echo-request, unreachable\nallow in icmp4 type 3\nallow in icmp6 type 128",
    "reject in tcp port 22 log\nreject out udp\ndefault in reject log\ndefault out reject",
    '{"default": {"in": "reject", "out": {"action": "reject"}}, "rules": [{"action": "reject", "direction": "in"}]}',
    "allow in proto 47\nallow in port 53 from-port 1-2,3\nallow in gre # comment",
    "allow in match \"tcp port 80 and ip[0] & 0xf == 5\"\nallow in match \"ip proto \\\\udp\" log",
    '{"default": {"in": "allow", "out": {"action": "deny", "log": true}}, "rules": [{"action": "allow", '
    '"direction": "in", "proto": 6, "from": ["vm web", "10.0.0.0/8"], "to": "any", "port": [22, "80-90"], '
    '"from-port": 1, "log": false}, {"action": "deny", "direction": "out", "proto": "icmp", "type": '
    '"echo-reply", "match": "ip"}]}',
)


def frames(flags):
    """All frames; each has its flags from the list, which begins again."""
    return b"".join(struct.pack(">BH", flags[n % len(flags)], len(f)) + f for n, f in enumerate(FRAMES.values()))


def main(folder):
    for number, text in enumerate(RULES):
        for name, flags in {"in": (0,), "out": (1,), "both": (0, 1, 2, 3), "new": (0, 4, 1, 12, 8)}.items():
            with open(os.path.join(folder, f"rules-{number}-{name}"), "wb") as file:
                file.write(text.encode() + b"\0" + frames(flags))


if __name__ == "__main__":
    main(sys.argv[1])
