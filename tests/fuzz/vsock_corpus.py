#!/usr/bin/env python3
"""Inputs that fuzz_vsock begins with: whole conversations, which noise would hardly find.
Usage: vsock_corpus.py FOLDER"""
import pathlib
import sys

REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_REQUEST = 1, 2, 3, 4, 5, 7


def packet(op, flags=0, length=0, port=0):
    """From guest port 0 to the host's 80, with a big buffer; port=0x81: from 1, an answer."""
    return bytes([0, op, port, flags, 5, 0, length, 0])


def socket(what, value=0):
    return bytes([5, 0, what, value, 0, 0, 0, 0])


BUFFERS = bytes([3, 3, 255, 0, 0, 0, 0, 0])
PAUSE = bytes([7, 0, 0, 0, 0, 0, 0, 0])
CONNECT, ACCEPT, LINE, PUT, GET, SHUT, CLOSE = range(7)
GUEST_OPENS = BUFFERS + packet(REQUEST) + socket(ACCEPT)
CLIENT_OPENS = socket(CONNECT) + socket(LINE) + BUFFERS + packet(RESPONSE, port=0x81)

CONVERSATIONS = [
    GUEST_OPENS + packet(RW, length=3) + socket(GET, 9) + socket(PUT, 9) + BUFFERS,
    GUEST_OPENS + packet(RW, length=255) * 8 + BUFFERS,
    GUEST_OPENS + packet(RW, length=255) * 4 + packet(SHUTDOWN, flags=3) + socket(GET, 255) * 5,
    GUEST_OPENS + packet(CREDIT_REQUEST) * 9 + PAUSE + BUFFERS * 3,
    CLIENT_OPENS + socket(PUT, 99) + BUFFERS + socket(CLOSE) + BUFFERS * 9,
    CLIENT_OPENS + packet(SHUTDOWN, flags=2, port=0x81) + socket(SHUT, 1) + BUFFERS * 2,
    CLIENT_OPENS + packet(RST, port=0x81) + BUFFERS,
]

if __name__ == "__main__":
    for i, conversation in enumerate(CONVERSATIONS):
        (pathlib.Path(sys.argv[1]) / f"conversation{i}").write_bytes(conversation)
