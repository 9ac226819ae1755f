#!/usr/bin/env python3
"""What the fuzzer of the frame parser begins with: a frame of each kind.

usage: packet_corpus.py FOLDER"""
import os
import sys

from frames import FRAMES


def main(folder):
    for name, frame in FRAMES.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(frame)


if __name__ == "__main__":
    main(sys.argv[1])
