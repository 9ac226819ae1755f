#!/usr/bin/env python3
"""A manifest and archives as hutch writes them, for fuzz_snapshot to begin with.

usage: snapshot_corpus.py FOLDER
"""
import io
import json
import os
import sys
import tarfile

SUM = "a" * 64
MANIFEST = json.dumps({
    "format": 1, "hutch": "0.1.0", "id": "5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1f",
    "parent-id": "5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1e", "parent": "base.snap",
    "created-ns": 17, "ram-size": 8192, "memory-pages": 1, "memory-encoding": "raw",
    "memory-sha256": SUM, "cpu-needs": {"vendor": "x"}, "frozen": True,
    "files": [{"name": n, "size": 3, "sha256": SUM}
              for n in ("config.json", "state", "memory.map", "disks/0.qcow2")],
    "disks": [{"id": "disk0", "layer": "disks/0.qcow2", "format": "qcow2", "layer-id": "x y"}],
}).encode()


def octal(value, size):
    return b"%0*o\0" % (size - 1, value)


def sparse(name, size, runs, more=()):
    """GNU's old format of a sparse file, its data zeroes."""
    stored = sum(n for _, n in (*runs, *more))
    entry = b"".join(octal(at, 12) + octal(n, 12) for at, n in runs).ljust(96, b"\0")
    head = bytearray(512)
    for at, field in ((0, name), (100, octal(0o600, 8)), (124, octal(stored, 12)), (148, b" " * 8),
                      (156, b"S"), (257, b"ustar  \0"), (386, entry),
                      (482, b"\1" if more else b"\0"), (483, octal(size, 12))):
        head[at:at + len(field)] = field
    head[148:156] = b"%06o\0 " % sum(head)
    block = b"".join(octal(at, 12) + octal(n, 12) for at, n in more).ljust(512, b"\0")
    return bytes(head) + (block if more else b"") + bytes(-(-stored // 512) * 512)


def plain(*names):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
    return raw.getvalue()[:512 * (2 * len(names) + 2)]


def main():
    end = bytes(1024)
    seeds = [b"\1" + MANIFEST, b"\0" + plain("manifest.json"),
             b"\0" + plain("manifest.json", "disks/0.qcow2"),
             b"\0" + sparse(b"memory", 1 << 20, [(0, 512), (8192, 100), (1 << 20, 0)]) + end,
             b"\0" + sparse(b"memory", 1 << 33, [(0, 1)] * 1, [(4096, 1), (1 << 32, 0)]) + end]
    for number, seed in enumerate(seeds):
        with open(os.path.join(sys.argv[1], f"seed{number}"), "wb") as f:
            f.write(seed)


if __name__ == "__main__":
    main()
