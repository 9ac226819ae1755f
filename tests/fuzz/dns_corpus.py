#!/usr/bin/env python3
"""Questions, answers and messages for fuzz_dns to begin with.

usage: dns_corpus.py FOLDER
"""
import os
import struct
import sys

GUEST, UPSTREAM, ALONE, SEGMENT = 0, 1, 2, 3
SYN, ACK, PSH, FIN, RST = 2, 16, 8, 1, 4


def says(who, message, right=False):
    """`right`: the byte has its upper bit and still means an upstream server."""
    byte = next(b for b in range(0x80 if right else 0, 256) if b % 4 == who)
    return struct.pack(">BH", byte, len(message)) + message


def segment(flags, data=b"", seq=0, ack=0, port=0xf0):
    return says(SEGMENT, struct.pack(">BBhh", port, flags, seq, ack) + data)


def framed(*messages):
    return b"".join(struct.pack(">H", len(m)) + m for m in messages)


def name(text):
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".") if label) + b"\0"


def question(text, kind=1, ident=1, flags=0x0100, edns=None):
    extra = b"" if edns is None else b"\0" + struct.pack(">HHIH", 41, edns, 0x8000, 0)
    return struct.pack(">HHHHHH", ident, flags, 1, 0, 0, bool(extra)) + name(text) + struct.pack(">HH", kind, 1) + extra


def record(kind, data, owner=b"\xc0\x0c", ttl=60):
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def answers(*records, flags=0x8180):
    """Without a question: that is put in."""
    return struct.pack(">HHHHHH", 1, flags, 1, len(records), 0, 0) + b"".join(records)


def main():
    a = record(1, b"\xc6\x33\x64\x01")
    aaaa = record(28, bytes.fromhex("20010db8000000000000000000000001"))
    alias = record(5, name("cdn.example.net")) + record(1, b"\1\2\3\4", name("cdn.example.net"))
    full = question("www.example.org", flags=0x8180)[:-5]
    inputs = {
        "own": says(GUEST, question("web")) + says(GUEST, question("web.lan.internal", 255, edns=4096)),
        "reverse": says(GUEST, question("7.0.5.10.in-addr.arpa", 12)) + says(GUEST, question("lan.internal", 6)),
        "nonsense": says(GUEST, b"\0" * 12) + says(GUEST, question("x" * 63, flags=0x2000)),
        "forward": says(GUEST, question("www.example.org")) + says(UPSTREAM, answers(a, a), right=True),
        "alias": says(GUEST, question("www.example.org", 28, edns=1232))
        + says(UPSTREAM, struct.pack(">HHHHHH", 1, 0x8180, 1, 2, 0, 0) + alias, right=True),
        "wrong": says(GUEST, question("www.example.org")) + says(UPSTREAM, answers(a)),
        "cut": says(GUEST, question("www.example.org")) + says(UPSTREAM, answers(flags=0x8380), right=True),
        "big": says(GUEST, question("www.example.org")) + says(UPSTREAM, answers(*[a] * 60), right=True),
        "refused": says(GUEST, question("www.example.org")) + says(UPSTREAM, answers(flags=0x8185), right=True),
        "alone": says(ALONE, question("www.example.org", edns=512)) + says(ALONE, full + a + aaaa),
        "loops": says(ALONE, question("")[:12] + b"\xc0\x0c\0\1\0\1") + says(ALONE, full + b"\xc0\x20\xc0\x1e"),
        "tcp": segment(SYN) + segment(ACK) + segment(ACK | PSH, framed(question("web"), question("lan.internal", 6)))
        + segment(ACK) + segment(ACK | FIN) + segment(ACK),
        "tcp-pieces": segment(SYN) + segment(ACK, framed(question("www.example.org", edns=4096))[:9])
        + segment(ACK, framed(question("www.example.org", edns=4096))[9:]) + says(UPSTREAM, answers(*[a] * 60), right=True)
        + segment(ACK) + segment(RST),
        "tcp-many": segment(SYN) + segment(ACK, framed(*[question(f"w{n}.example.org") for n in range(20)]) + b"\0\2")
        + says(UPSTREAM, answers(a), right=True) * 9 + segment(ACK, seq=-5) + segment(SYN, port=0xf1) + segment(ACK, ack=99),
        "tcp-junk": segment(SYN) + segment(ACK, framed(b"\0" * 4)) + segment(SYN) + segment(ACK, b"\xff\xffx"),
    }
    for title, data in inputs.items():
        with open(os.path.join(sys.argv[1], title), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    main()
