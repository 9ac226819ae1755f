#!/usr/bin/env python3
"""What servers and clients of snapshots say, and the bytes of memory.zst, for fuzz_wire to
begin with.

usage: wire_corpus.py FOLDER
"""
import json
import os
import struct
import sys

MAGIC = 0x70616e73
FILE, READ, NEXT = 1, 2, 3
MANIFEST = json.dumps({
    "format": 1, "hutch": "0.1.0", "id": "5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1f",
    "created-ns": 17, "ram-size": 8192, "memory-pages": 1, "memory-encoding": "raw",
    "memory-sha256": "a" * 64, "cpu-needs": {}, "frozen": False, "disks": [],
    "files": [{"name": n, "size": 3, "sha256": "a" * 64} for n in ("config.json", "state")],
}).encode()
# zstd: 64 KiB of one byte, as a block that is run-length encoded.
FRAME = struct.pack("<IBBI", 0xFD2FB528, 0xa0, 0, 0)[:5] + struct.pack("<I", 65536)
FRAME += struct.pack("<I", (65536 << 3) | (1 << 1) | 1)[:3] + b"\x55"


def reply(kind, data, status=0):
    return struct.pack("<IIII", MAGIC, status, len(data), kind) + data


def ask(kind, at, n, file=0):
    return struct.pack("<IIQII", MAGIC, kind, at, n, file)


def entries(*chunks):
    return b"".join(struct.pack("<IIQ", chunk, len(FRAME), at) for chunk, at in chunks)


def main():
    runs = reply(NEXT, struct.pack("<QQ", 3, 1))
    seeds = [
        b"\0\0" + reply(FILE, MANIFEST) + reply(FILE, b"{}") + reply(FILE, b"state"),
        b"\0\0" + reply(FILE, b"no\n", 1),
        b"\1\0" + runs + reply(READ, struct.pack("<Q", 0)) + reply(NEXT, bytes(16)),
        b"\1\0" + runs + reply(READ, b"gone", 1),
        b"\2\1" + ask(FILE, 0, 1 << 20) + ask(FILE, 0, 100, 1) + ask(FILE, 1, 3, 2),
        b"\2\1" + ask(NEXT, 0, 0) + ask(READ, 3, 4) + ask(READ, 39, 1) + ask(NEXT, 39, 0),
        b"\2\1" + ask(READ, 0, 600) + ask(READ, 39, 2) + ask(FILE, 0, 1, 9),
        b"\2\0" + struct.pack("<8sII", b"HUTCHSNP", 1, 0) + ask(NEXT, 0, 0),
        b"\3\x7f" + FRAME + entries((1, 0)) + b"\1",
        b"\3\x7f" + FRAME + FRAME + entries((0, len(FRAME)), (1, 0)) + b"\2",
    ]
    for number, seed in enumerate(seeds):
        with open(os.path.join(sys.argv[1], f"seed{number}"), "wb") as file:
            file.write(seed)


if __name__ == "__main__":
    main()
