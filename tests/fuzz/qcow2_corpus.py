#!/usr/bin/env python3
"""Small qcow2 files for fuzz_qcow2 to begin with, made by qemu-img and qemu-io: every
option, compressed clusters, snapshots, bitmaps.  Usage: qcow2_corpus.py FOLDER"""
import os
import subprocess
import sys

OPTIONS = [
    "compat=0.10,cluster_size=512", "compat=0.10,cluster_size=4096", "cluster_size=512",
    "cluster_size=512,refcount_bits=1", "cluster_size=512,refcount_bits=64",
    "cluster_size=1024,refcount_bits=8,lazy_refcounts=on", "cluster_size=4096",
    "cluster_size=2048,refcount_bits=32,compression_type=zstd",
    "cluster_size=16384,extended_l2=on", "cluster_size=512,preallocation=metadata",
    "cluster_size=2048,refcount_bits=2", "cluster_size=1024,refcount_bits=4",
]
WORK = ["write -P 1 0 5k", "write -P 2 100k 2k", "write -z 120k 20k", "discard 1k 2k",
        "write -P 3 300k 1k"]


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make(folder, number, options):
    path = os.path.join(folder, f"seed-{number}.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "384k")
    if "preallocation" not in options:
        cluster = int(options.split("cluster_size=")[1].split(",")[0])
        run("qemu-io", "-f", "qcow2", "-c", f"write -c -P 9 256k {cluster}", path)
    commands = [word for work in WORK for word in ("-c", work)]
    run("qemu-io", "-f", "qcow2", "-d", "unmap", *commands, path)
    if "refcount_bits=1" not in options and number % 2 == 0:
        run("qemu-img", "snapshot", "-c", "one", path)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 5 1k 9k", path)
    if "compat" not in options and number % 4 == 0:
        run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, "marks")


def main(folder):
    os.makedirs(folder, exist_ok=True)
    for number, options in enumerate(OPTIONS):
        make(folder, number, options)


if __name__ == "__main__":
    main(sys.argv[1])
