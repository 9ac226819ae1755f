"""Network cards: on a tap, in user mode, and on a network with another VM."""
import contextlib
import os
import subprocess

from base import Bench, Row, timed
from monitors import CannotRun, Guest, tool

FRAMES = 200000
FRAME_BYTES = 1500
TAP = "bench0"
TAP_ADDRESS = "10.9.0.1"
GUEST_ADDRESS = "10.9.0.2"
PINGS = 20000
USER_BYTES = 512 << 20


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
                f"ip address add {TAP_ADDRESS}/24 dev {TAP} && echo ready && exec cat")
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
    rows = (Row("net-tx", "rate", "k/s", ratio=(">=", 1.2)),
            Row("net-tx-mmio", "rate", "k/s", "hutch mmio", ratio=(">=", 1.2)),
            Row("net-tx-io-cpu", "cpu", "us each"))
    direction = "tx"


class NetworkRx(Network):
    name = "net-rx"
    help = f"frames of {FRAME_BYTES} bytes from a tap to the guest; QEMU without vhost"
    rows = (Row("net-rx", "rate", "k/s", ratio=(">=", 1.2)),
            Row("net-rx-mmio", "rate", "k/s", "hutch mmio", ratio=(">=", 1.2)),
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


def round_trips(guest, started=lambda: None):
    """us of the median round trip, and of the slowest in a hundred, by the guest's clock."""
    begin, _ = guest.said(r"net-speed start.*\n")
    started()
    end, done = guest.said(r"net-speed done ticks=(\d+)\n")
    _, ping = guest.said(r"net-speed ping p50=(\d+) p99=(\d+)\n")
    us_per_tick = (end - begin) / 1000 / int(done[1])
    return {"p50": int(ping[1]) * us_per_tick, "p99": int(ping[2]) * us_per_tick}


def round_trip_rows(name):
    return (Row(f"{name}-p50", "p50", "us", ratio=("<=", 1.0)),
            Row(f"{name}-p99", "p99", "us", ratio=("<=", 1.0)))


class NetworkPing(Network):
    name = "net-ping"
    help = "round trips from the guest to the host's address on a tap; QEMU without vhost"
    rows = round_trip_rows("net-ping")
    runs = 7

    def sample(self, monitor):
        words = f"test=net-speed role=ping count={PINGS} ip={GUEST_ADDRESS} host={TAP_ADDRESS}"
        with Guest(monitor, words, self.inside(), net=TAP) as guest:
            return round_trips(guest, lambda: guest.pin(self.vcpu, self.others))


class User(Bench):
    """libslirp's network, the vCPU on one processor and all else on the others."""
    runs = 7
    role = ""

    def sample(self, monitor):
        with contextlib.ExitStack() as stack:
            peer = stack.enter_context(subprocess.Popen(
                [tool("bench_peer"), "sink" if self.role == "tcp-tx" else "source"],
                stdout=subprocess.PIPE, text=True))
            stack.callback(peer.kill)
            port = int(peer.stdout.readline())
            words = f"test=net-speed role={self.role} port={port} bytes={USER_BYTES}"
            guest = stack.enter_context(Guest(monitor, words, net="user"))
            return timed(guest, "net-speed start", "net-speed done", USER_BYTES / 1e3,
                         started=guest.pin_apart)


class UserTx(User):
    name = "user-tx"
    help = "a TCP connection from the guest to the host in user mode: what the guest sends"
    rows = (Row("user-tx", "rate", "MB/s", ratio=(">=", 1.2)),
            Row("user-tx-io-cpu", "cpu", "us/kB"))
    role = "tcp-tx"


class UserRx(User):
    name = "user-rx"
    help = "the same, what the guest receives"
    rows = (Row("user-rx", "rate", "MB/s", ratio=(">=", 1.2)),
            Row("user-rx-io-cpu", "cpu", "us/kB"))
    role = "tcp-rx"


class UserPing(Bench):
    name = "user-ping"
    help = "round trips from the guest to its gateway in user mode"
    rows = round_trip_rows("user-ping")
    runs = 7

    def sample(self, monitor):
        with Guest(monitor, f"test=net-speed role=ping count={PINGS}", net="user") as guest:
            return round_trips(guest, guest.pin_apart)


NETWORKS = (NetworkTx, NetworkRx, NetworkPing, UserTx, UserRx, UserPing)
