#!/usr/bin/env python3
"""ARP, neighbour discovery and pings for fuzz_nd to begin with.

usage: nd_corpus.py FOLDER
"""
import os
import struct
import sys

WEB, DB, ROUTER, STREAM = range(4)
ARP, OWN, NOBODY, ICMP, FRAME, HOST, CORRUPT, TIME = range(8)


def record(port, kind, data=b""):
    return struct.pack(">BH", port + 4 * kind, len(data)) + data


def mac(number):
    return b"\2\0\0\0\0" + bytes([number])


def arp(op, station, sender, target):
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, op) + mac(station) + bytes([10, 5, 0, sender]) + bytes(6) \
        + bytes([10, 5, 0, target])


def nd(kind, target, option=0, station=7):
    """To the group or the gateway, by the first of four bytes for the fuzzer."""
    body = struct.pack(">BBHI", kind, 0, 0, 0) + target
    return b"\1\1\0\0" + body + (bytes([option, 1]) + mac(station) if option else b"")


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    gateway, other = bytes.fromhex("fd000005000000000000000000000001"), bytes.fromhex("fd000005000000000000000000000044")
    own = bytes.fromhex("fe80000000000000000000fffe000007")
    packet = bytes.fromhex("450000200000400040110000c00002010a050009") + bytes(12)
    packet6 = bytes.fromhex("60000000000811402001") + bytes(14) + other + bytes(8)
    inputs = {
        "arp": record(DB, ARP, arp(1, 8, 2, 1)) + record(WEB, ARP, arp(1, 7, 9, 1)) + record(WEB, ARP, arp(2, 7, 2, 1))
        + record(WEB, ARP, arp(1, 7, 1, 9)) + record(STREAM, ARP, arp(1, 10, 9, 9)) + record(ROUTER, ARP, arp(1, 9, 2, 2)),
        "nd": record(WEB, OWN, nd(135, gateway, 1)) + record(WEB, OWN, nd(136, own, 2)) + record(WEB, OWN, nd(136, other, 2))
        + record(WEB, NOBODY, nd(135, other)) + record(WEB, NOBODY, nd(135, gateway)) + record(STREAM, NOBODY, nd(135, other)),
        "rs": record(WEB, OWN, b"\1\1\0\0" + struct.pack(">BBHI", 133, 0, 0, 0)) + record(WEB, OWN, nd(134, other))
        + record(WEB, OWN, nd(137, other)),
        "ping": record(DB, ICMP, b"\x0a\5\0\1\x08\0\0\0\0\1\0\1abc") + record(DB, OWN, b"\0\0\0\0\x80\0\0\0\0\1\0\1abc"),
        "host": record(WEB, HOST, packet) + record(WEB, HOST, packet6) + record(WEB, ARP, arp(2, 7, 9, 1)) + record(WEB, TIME, bytes(5))
        + record(WEB, HOST, packet) * 12 + record(WEB, OWN, nd(136, other, 2)),
        "frame": record(WEB, FRAME, b"\xff" * 12 + b"\x08\x06" + arp(1, 7, 20, 1))
        + record(WEB, CORRUPT, mac(8) + mac(7) + b"\x08\0" + packet),
    }
    for name, data in inputs.items():
        with open(os.path.join(sys.argv[1], name), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    main()
