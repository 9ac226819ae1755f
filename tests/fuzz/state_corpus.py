#!/usr/bin/env python3
"""Inputs that fuzz_state begins with: states of whole machines, and one section of each.
Usage: state_corpus.py FOLDER"""
import pathlib
import struct
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "state" / "golden"
HEADER = 12


def sections(state):
    """Each section's bytes, with its header."""
    at = HEADER
    while state[at:at + 4] == b"SECT":
        size, _, name, kind = struct.unpack_from("<IHBB", state, at + 8)
        end = at + 16 + name + kind + size
        yield state[at:end]
        at = end


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    for path in GOLDEN.glob("*.state"):
        golden = path.read_bytes()
        (folder / path.name).write_bytes(golden)
        for i, section in enumerate(sections(golden)):
            (folder / f"{path.stem}-{i}").write_bytes(
                golden[:HEADER] + section + b"LAST" + struct.pack("<I", 1))
