"""What is measured.  A Bench takes one sample of one monitor at a time; each of its rows
compares one figure of hutch's with QEMU's."""
import contextlib
import os
import socket
import subprocess
import tempfile
import time

from base import Bench, Row, real_file, timed
from clones import CLONES
from disks import DISKS
from fleet import FLEET
from monitors import Guest, first_run
from networks import NETWORKS
from snapshots import SNAPSHOTS

DISK_BYTES = 256 << 20
READS = 60000
DEPTH = 32
IDLE_S = 5
QUERIES = 1000


class Start(Bench):
    name = "start"
    help = "from exec to the guest's first instruction, 512 MiB, no devices"
    rows = (Row("start", "first", "ms", ratio=("<=", 0.10), limit=("<=", 5)),
            Row("start-to-end", "whole", "ms"),
            Row("start-cpu", "cpu", "ms"))
    runs = 21

    def sample(self, monitor):
        return first_run(monitor)


class WithDisk(Bench):
    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.disk = real_file(self.stack, DISK_BYTES)
        return self

    def __exit__(self, *_):
        self.stack.close()


class StartDevices(WithDisk):
    name = "start-devices"
    help = "the same with a disk, a user-mode network and a console"
    rows = (Row("start-devices", "first", "ms"),
            Row("start-devices-to-end", "whole", "ms"))
    runs = 11

    def sample(self, monitor):
        return first_run(monitor, disk=self.disk, net="user", console=True)


class Memory(WithDisk):
    name = "memory"
    help = "PSS apart from guest RAM, with a disk, a user-mode network and a console"
    rows = (Row("memory", "pss", "MiB", limit=("<=", 6)),)
    runs = 3

    def sample(self, monitor):
        with Guest(monitor, "test=spin", disk=self.disk, net="user", console=True) as guest:
            guest.said("spin ready")
            return {"pss": guest.own_pss_kib() / 1024}


class Idle(Bench):
    name = "idle"
    help = f"CPU time of a halted guest's monitor over {IDLE_S} s"
    rows = (Row("idle", "cpu", "ms", limit=("<=", 5)),)
    runs = 1

    def sample(self, monitor):
        with Guest(monitor, "test=spin how=hlt") as guest:
            guest.said("spin ready")
            time.sleep(0.2)
            before = sum(guest.tasks().values())
            time.sleep(IDLE_S)
            return {"cpu": (sum(guest.tasks().values()) - before) / 1e6}


class QmpStatus(Bench):
    name = "qmp-status"
    help = f"{QUERIES} query-status on the control socket, each answered before the next"
    rows = (Row("qmp-status", "took", "ms", limit=("<=", 50)),)
    runs = 11

    def sample(self, monitor):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "control")
            with Guest(monitor, "test=spin how=hlt", control=path) as guest:
                guest.said("spin ready")
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    return {"took": self.talk(client)}

    @staticmethod
    def talk(client):
        replies = client.makefile("rb")
        replies.readline()  # the greeting
        client.sendall(b'{"execute": "qmp_capabilities"}')
        replies.readline()
        start = time.monotonic_ns()
        for _ in range(QUERIES):
            client.sendall(b'{"execute": "query-status"}')
            replies.readline()
        return (time.monotonic_ns() - start) / 1e6


class Block(WithDisk):
    name = "blk"
    help = f"random 4 KiB reads, {DEPTH} in flight, O_DIRECT; QEMU with an iothread"
    rows = (Row("blk", "rate", "k/s", ratio=(">=", 1.0)),
            Row("blk-mmio", "rate", "k/s", "hutch mmio", ratio=(">=", 1.0)),
            Row("blk-io-cpu", "cpu", "us each"),
            Row("blk-mmio-io-cpu", "cpu", "us each", "hutch mmio"))
    runs = 11

    def sample(self, monitor):
        words = f"test=blk-bench count={READS} qd={DEPTH} stay=1"
        with Guest(monitor, words, disk=self.disk) as guest:
            return timed(guest, "blk-bench start", "blk-bench done", READS)


ALL = (Start, StartDevices, Memory, Idle, QmpStatus, Block, *NETWORKS, *DISKS,
       *FLEET, *SNAPSHOTS, *CLONES)
