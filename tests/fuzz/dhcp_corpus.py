#!/usr/bin/env python3
"""Clients' messages for fuzz_dhcp to begin with.

usage: dhcp_corpus.py FOLDER
"""
import os
import struct
import sys

WEB, DB, ROUTER, STREAM = range(4)
NEW, TO_ALL, TO_SERVER, SIX, _, PLUG, RESTART, TIME = range(8)


def record(port, kind, data=b""):
    return struct.pack(">BH", port + 4 * kind, len(data)) + data


def four(kind, ciaddr=b"\0\0\0\0", options=b"", last=7):
    head = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + ciaddr + bytes(12)
    return head + b"\2\0\0\0\0" + bytes([last]) + bytes(202) + b"\x63\x82\x53\x63\x35\1" + bytes([kind]) + options + b"\xff"


def option6(code, data):
    return struct.pack(">HH", code, len(data)) + data


def six(kind, *options):
    return bytes([kind, 1, 2, 3]) + option6(1, b"\0\1\0\1abcdefgh") + b"".join(options)


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    ia = option6(3, b"\0\0\0\1" + bytes(8))
    ia_with = option6(3, b"\0\0\0\1" + bytes(8) + option6(5, bytes.fromhex("fd000005000000000000000000000077") + bytes(8)))
    wanted, server = b"\x37\4\1\3\6\x77", b"\x36\4\x0a\5\0\1"
    asks = [b"\x32\4\x0a\5\0" + bytes([n]) for n in range(8)]
    inputs = {
        "lease": b"".join(record(p, NEW, four(1, options=wanted, last=7 + p)) for p in range(4))
        + b"".join(record(WEB, NEW, four(3, options=asks[n] + server)) for n in range(8)),
        "renew": record(WEB, NEW, four(3, options=asks[4])) + record(WEB, TO_SERVER, four(3, b"\x0a\5\0\4"))
        + record(WEB, TIME) + record(WEB, TO_ALL, four(3, b"\x0a\5\0\4")) + record(WEB, TO_SERVER, four(7, b"\x0a\5\0\4")),
        "decline": b"".join(record(STREAM, NEW, four(3, options=asks[n], last=10)) + record(STREAM, NEW, four(4, options=asks[n]))
                            for n in range(3, 7)),
        "inform": record(DB, TO_SERVER, four(8, b"\x0a\5\0\2", b"\x3d\3abc\x39\2\2\x40" + wanted)),
        "restart": record(WEB, NEW, four(3, options=asks[4])) + record(WEB, RESTART) + record(WEB, TO_SERVER, four(3, b"\x0a\5\0\4"))
        + record(WEB, PLUG) + record(DB, PLUG),
        "stations": b"".join(record(ROUTER, NEW, four(1, last=n)) for n in range(12)),
        "overload": record(WEB, NEW, four(99, options=b"\x34\1\3")),
        "six": record(WEB, SIX, six(1, ia)) + record(WEB, SIX, six(1, ia, option6(14, b""))) + record(WEB, SIX, six(6, ia_with))
        + record(WEB, SIX, six(4, ia_with)) + record(WEB, SIX, six(11, option6(6, b"\0\x17\0\x18"))),
    }
    for name, data in inputs.items():
        with open(os.path.join(sys.argv[1], name), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    main()
