#!/usr/bin/env python3
"""Inputs that fuzz_virtio_state begins with: the golden states of virtio devices.
Usage: virtio_state_corpus.py FOLDER"""
import pathlib
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "state" / "golden"

if __name__ == "__main__":
    for path in GOLDEN.glob("virtio-*.state"):
        (pathlib.Path(sys.argv[1]) / path.name).write_bytes(path.read_bytes())
