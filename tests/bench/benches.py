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
from monitors import CannotRun, Guest, first_run, tool
from snapshots import SNAPSHOTS

DISK_BYTES = 256 << 20
READS = 60000
DEPTH = 32
FRAMES = 200000
FRAME_BYTES = 1500
IDLE_S = 5
QUERIES = 1000
TAP = "bench0"


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


class Network(Bench):
    """In a network namespace of its own with one tap, so that no network of the host's is
    touched.  The vCPU, always busy, has one processor; the monitor's other threads and the
    peer share the rest: left to itself, the scheduler decides the race on small hosts."""

    direction = ""
    runs = 11

    def __enter__(self):
        cpus = sorted(os.sched_getaffinity(0))
        self.vcpu, self.others = set(cpus[:1]), set(cpus[1:] or cpus)
        make = (f"ip tuntap add dev {TAP} mode tap && ip link set {TAP} up && "
                "echo ready && exec cat")
        self.rootless = ["--map-root-user"] if os.geteuid() else []
        self.holder = subprocess.Popen(
            ["unshare", "--net", *self.rootless, "sh", "-c", make], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline().strip() != "ready":
            why = self.holder.communicate()[1].strip()
            raise CannotRun(f"no network namespace with a tap can be made ({why}); that takes "
                            "user namespaces and access to /dev/net/tun, or root")
        return self

    def __exit__(self, *_):
        self.holder.communicate()

    def inside(self):
        user = ["--user", "--preserve-credentials"] if self.rootless else []
        return ["nsenter", "--target", str(self.holder.pid), "--net", *user]

    def frames_from_guest(self):
        with open(f"/proc/{self.holder.pid}/net/dev") as table:
            for line in table:
                if line.strip().startswith(TAP + ":"):
                    return int(line.split(":")[1].split()[1])
        raise CannotRun(f"{TAP} is gone")

    def sample(self, monitor):
        words = f"test=net-bench dir={self.direction} count={FRAMES} size={FRAME_BYTES} stay=1"
        before = self.frames_from_guest()
        with self.peer(), Guest(monitor, words, self.inside(), net=TAP) as guest:
            result = timed(guest, "net-bench start", "net-bench done", FRAMES,
                           started=lambda: guest.pin(self.vcpu, self.others))
            if self.direction == "tx" and self.frames_from_guest() - before < FRAMES:
                raise CannotRun(f"{monitor}: frames were lost on the way to the tap")
            return result

    def peer(self):
        return contextlib.nullcontext()


class NetworkTx(Network):
    name = "net-tx"
    help = f"frames of {FRAME_BYTES} bytes from the guest to a tap; QEMU without vhost"
    rows = (Row("net-tx", "rate", "k/s", ratio=(">=", 1.0)),
            Row("net-tx-mmio", "rate", "k/s", "hutch mmio", ratio=(">=", 1.0)),
            Row("net-tx-io-cpu", "cpu", "us each"))
    direction = "tx"


class NetworkRx(Network):
    name = "net-rx"
    help = f"frames of {FRAME_BYTES} bytes from a tap to the guest; QEMU without vhost"
    rows = (Row("net-rx", "rate", "k/s", ratio=(">=", 1.0)),
            Row("net-rx-mmio", "rate", "k/s", "hutch mmio", ratio=(">=", 1.0)),
            Row("net-rx-io-cpu", "cpu", "us each"))
    direction = "rx"

    @contextlib.contextmanager
    def peer(self):
        flood = subprocess.Popen([*self.inside(), tool("bench_flood"), TAP, str(FRAME_BYTES)])
        os.sched_setaffinity(flood.pid, self.others)
        try:
            yield
        finally:
            flood.kill()
            flood.wait()


ALL = (Start, StartDevices, Memory, Idle, QmpStatus, Block, NetworkTx, NetworkRx, *DISKS,
       *FLEET, *SNAPSHOTS, *CLONES)
