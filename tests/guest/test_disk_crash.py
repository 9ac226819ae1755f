#!/usr/bin/env python3
"""What a guest flushed is on disk: kill -9 of the monitor at random moments under a verifying
writer (guest-images/payload/verify.c), in every way of keeping a disk.  After each kill,
qemu-img check finds no error, every flushed block reads back, and no block holds anything that
was not written to it.  The next run starts on what the last one left.

HUTCH_CRASH_KILLS=N kills in all (40); HUTCH_CRASH_SEED=N; HUTCH_CRASH_FOLDER=FOLDER keeps the
images there (/var/tmp).  A thousand: HUTCH_CRASH_KILLS=1000 tests/guest/test_disk_crash.py"""
import os
import sys
import time

import crash
import hutch
from crash import Row, run_row
from hutch import Skip

KILLS = int(os.environ.get("HUTCH_CRASH_KILLS", "40"))
SEED = int(os.environ.get("HUTCH_CRASH_SEED", str(time.time_ns() % 1000000)))

RAW = [
    Row("raw_io_uring_none", "cache=none,aio=io_uring", queues=4),
    Row("raw_io_uring_writeback", "cache=writeback,aio=io_uring"),
    Row("raw_libaio_none", "cache=none,aio=libaio"),
    Row("raw_threads_none", "cache=none,aio=threads", queues=2),
    Row("raw_threads_writeback", "cache=writeback,aio=threads"),
    Row("raw_without_a_write_cache", "cache=none", guest="volatile=0"),
    Row("raw_packed_ring", "cache=none", guest="ring=packed", queues=2),
]


def qcow2(name, options="", **keys):
    return Row("qcow2_" + name, options, "qcow2", **keys)


SMALL = {"sectors": 4096, "stride": 4096}

QCOW2 = [
    qcow2("io_uring_none", "cache=none,aio=io_uring", queues=4),
    qcow2("io_uring_writeback", "cache=writeback,aio=io_uring"),
    qcow2("libaio_none", "cache=none,aio=libaio"),
    qcow2("threads_writeback", "cache=writeback,aio=threads"),
    qcow2("version_2", create={"compat": "0.10"}),
    qcow2("clusters_of_512", create={"cluster_size": 512}, plan=SMALL),
    qcow2("clusters_of_4k", create={"cluster_size": 4096}, queues=2),
    qcow2("clusters_of_2m", create={"cluster_size": "2M"}, plan={"chunk": 4096}),
    qcow2("lazy_refcounts", create={"lazy_refcounts": "on"}, queues=2),
    qcow2("lazy_refcounts_of_512", create={"lazy_refcounts": "on", "cluster_size": 512},
          plan=SMALL),
    qcow2("extended_l2", create={"extended_l2": "on"}, queues=2),
    qcow2("extended_l2_backed", create={"extended_l2": "on"}, backing="qcow2"),
    qcow2("refcounts_of_1_bit", create={"refcount_bits": 1}),
    qcow2("refcounts_of_64_bits", create={"refcount_bits": 64, "cluster_size": 512},
          plan=SMALL),
    qcow2("data_file", create={"data_file": "yes"}),
    qcow2("data_file_raw", create={"data_file": "yes", "data_file_raw": "on"}, plan=SMALL),
    qcow2("preallocated", create={"preallocation": "metadata"}, plan={"stride": 8192}),
    qcow2("backed_by_raw", backing="raw", queues=2),
    qcow2("backed_by_qcow2", backing="qcow2"),
    qcow2("version_2_backed", create={"compat": "0.10"}, backing="raw"),
    qcow2("chain_of_16", backing="qcow2", chain=16),
    qcow2("without_a_write_cache", guest="volatile=0", queues=2),
]


def share(row):
    """Of all kills, this row's: as many as any other, so that nothing is left untried."""
    number = (RAW + QCOW2).index(row)
    return max(1, KILLS // len(RAW + QCOW2) + (number < KILLS % len(RAW + QCOW2)))


def promise(row):
    def test():
        if row.format == "qcow2" and not crash.hutch_opens_qcow2():
            raise Skip("this hutch does not write qcow2 images yet")
        run_row(row, share(row), SEED)
    return test


for _row in RAW + QCOW2:
    globals()[f"test_what_was_flushed_survives_a_kill_{_row.name}"] = promise(_row)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    hutch.main()
