"""Network cards: on a tap, in user mode, and on a network with another VM."""
import contextlib
import os
import re
import subprocess
import tempfile

from base import Bench, Row, timed
from monitors import CannotRun, Guest, HUTCH, Net, tool

FRAMES = 200000
FRAME_BYTES = 1500
TAP = "bench0"
TAP_ADDRESS = "10.9.0.1"
GUEST_ADDRESS = "10.9.0.2"
PINGS = 20000
VM_PINGS = 2000
RULES = 1000
PORTS = 100
USER_BYTES = 512 << 20
VM_BYTES = 512 << 20
VM_FLOWS = 300000
FLOW_BYTES = 100


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


class VmToVm(Bench):
    """Two guests on one network: hutch's switch between them, or QEMU's socket.  All vCPUs
    on one processor, all else on the others."""
    runs = 7
    words = "", ""      # of the one that is asked, and of the one that begins
    rules = None        # firewall rules of both
    machine = "microvm"  # QEMU's
    macs = "02:00:00:00:00:0a", "02:00:00:00:00:0b"

    def __enter__(self):
        cpus = sorted(os.sched_getaffinity(0))
        self.vcpus, self.others = set(cpus[:1]), set(cpus[1:] or cpus)
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="hutch-bench-"))
        self.env = {"HUTCH_NETWORKS": f"{self.folder}/networks", "XDG_RUNTIME_DIR": self.folder}
        self.run_hutch("net", "create", "bench", "--isolated")
        return self

    def __exit__(self, *_):
        self.stack.close()

    def run_hutch(self, *words):
        done = subprocess.run([HUTCH, *words], env={**os.environ, **self.env},
                              capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(done.stderr.strip())
        return done.stdout

    def switch_pid(self):
        with open(f"{self.folder}/hutch-net/bench/lock") as lock:
            return int(lock.read().split()[0])

    def net(self, i):
        path = f"{self.folder}/wire"
        rules = f",firewall={self.rules}" if self.rules else ""
        return Net(f"bench,ip=10.9.0.{i + 1}{rules}",
                   f"stream,server={'off' if i else 'on'},addr.type=unix,addr.path={path}")

    def guest(self, monitor, i):
        words = (f"test=net-speed ip=10.9.0.{i + 1} host=10.9.0.{2 - i} {self.words[i]}")
        env = [f"{key}={value}" for key, value in self.env.items()]
        return Guest(monitor, words, ["env", *env], net=self.net(i), mac=self.macs[i],
                     machine=self.machine)

    def pin(self, monitor, guests):
        for guest in guests:
            guest.pin(self.vcpus, self.others)
        if monitor == "hutch":
            os.sched_setaffinity(self.switch_pid(), self.others)

    def sample(self, monitor):
        with self.guest(monitor, 0) as asked:
            asked.said("net-speed sink")
            with self.guest(monitor, 1) as begins:
                return self.measure(monitor, asked, begins)


class VmFrames(VmToVm):
    name = "vm-frames"
    help = f"frames of {FRAME_BYTES} bytes from VM to VM; QEMU: -netdev stream"
    rows = (Row("vm-frames", "rate", "MB/s", ratio=(">=", 1.5)),)
    words = (f"role=sink bytes={VM_BYTES} skip={VM_BYTES // 8}", f"role=flood size={FRAME_BYTES}")

    def seconds(self, monitor, asked, begins):
        begins.said("net-speed flood")
        self.pin(monitor, (asked, begins))
        begin, _ = asked.said("net-speed start\n")
        end, _ = asked.said("net-speed done")
        return (end - begin) / 1e9

    def measure(self, monitor, asked, begins):
        return {"rate": VM_BYTES / 1e6 / self.seconds(monitor, asked, begins)}


class VmSegments(VmFrames):
    name = "vm-segments"
    help = "TCP from VM to VM, in segments as large as the card takes; QEMU: -netdev stream"
    rows = (Row("vm-segments", "rate", "MB/s", ratio=(">=", 1.5)),)
    words = (f"role=sink bytes={VM_BYTES} skip={VM_BYTES // 8}", "role=flood tso=1")


class VmPing(VmToVm):
    name = "vm-ping"
    help = "round trips from VM to VM; QEMU: -netdev stream"
    rows = round_trip_rows("vm-ping")
    words = ("role=sink wait=irq", f"role=ping wait=irq count={VM_PINGS}")
    machine = "q35"

    def measure(self, monitor, asked, begins):
        """The guests halt while they wait, as guests do, and nothing is pinned."""
        return round_trips(begins)


def many_rules(path):
    """The last of them is the one that allows the frames."""
    with open(path, "w") as file:
        for i in range(RULES - 2):
            direction, far = ("in", "from") if i % 2 else ("out", "to")
            file.write(f"deny {direction} udp {far} 10.{i // 250 + 20}.{i % 250}.0/24 "
                       f"port {i + 3000}\n")
        file.write("allow in udp\nallow out udp\n")


class VmRules(VmFrames):
    name = "vm-rules"
    help = f"the same with {RULES} firewall rules on both cards, beside none"
    rows = (Row("vm-rules", "rate", "MB/s", "hutch rules", "hutch", ratio=(">=", 0.95)),)
    runs = 11

    def sample(self, monitor):
        self.rules = f"{self.folder}/rules" if monitor == "hutch rules" else None
        if self.rules:
            many_rules(self.rules)
        return super().sample("hutch")


class VmFlows(VmRules):
    name = "vm-flows"
    help = f"datagrams from VM to VM, each a new flow, with {RULES} rules on both cards, beside none"
    rows = (Row("vm-flows", "flows", "k/s", "hutch rules", "hutch"),)
    words = (f"role=sink bytes={VM_FLOWS * FLOW_BYTES} skip={VM_FLOWS * FLOW_BYTES // 8}",
             f"role=flood flows=1 size={FLOW_BYTES}")

    def measure(self, monitor, asked, begins):
        return {"flows": VM_FLOWS / 1e3 / self.seconds(monitor, asked, begins)}


def ring_kib(pid):
    """This process's share of the rings that it has mapped."""
    with open(f"/proc/{pid}/smaps") as smaps:
        found = re.findall(r"hutch-rings[^\n]*\n(?:[^\n]+\n)*?Pss:\s+(\d+)", smaps.read())
    return sum(int(kib) for kib in found)


class SwitchMemory(VmToVm):
    name = "switch-memory"
    help = (f"a switch with {PORTS} ports, with all of the rings' memory: joined; when each has sent and "
            "got 140 KB; when all rings are full; and a second later")
    rows = (Row("switch-memory-joined", "joined", "MiB", beside="hutch", limit=("<=", 20)),
            Row("switch-memory", "talked", "MiB", beside="hutch", limit=("<=", 20)),
            Row("switch-memory-full", "full", "MiB", beside="hutch"),
            Row("switch-memory-rested", "rested", "MiB", beside="hutch", limit=("<=", 15)))
    runs = 3

    def sample(self, monitor):
        env = {**os.environ, **self.env, "HUTCH_SWITCH": tool("../../hutch-switch")}
        with subprocess.Popen([tool("bench_ports"), "bench", str(PORTS)], env=env, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ports:
            result = {}
            while stage := ports.stdout.readline().strip():
                with open(f"/proc/{self.switch_pid()}/smaps_rollup") as rollup:
                    pss = int(re.search(r"^Pss:\s+(\d+)", rollup.read(), re.M)[1])
                result[stage] = (pss + ring_kib(ports.pid)) / 1024
                ports.stdin.write("\n")
                ports.stdin.flush()
        if "rested" not in result:
            raise CannotRun("bench_ports did not come to its end")
        return result


NETWORKS = (NetworkTx, NetworkRx, NetworkPing, UserTx, UserRx, UserPing, VmFrames, VmSegments,
            VmPing, VmRules, VmFlows, SwitchMemory)
