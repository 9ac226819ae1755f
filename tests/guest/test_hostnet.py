#!/usr/bin/env python3
"""Cards on the host's own network: taps in bridges, macvtaps, passt.  The host's side is a
network namespace made by the test, with interfaces, devices and a second host of its own, so
that nothing of the machine's network is touched."""
import contextlib
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hutch import HUTCH, PATIENCE, Skip, Vm, check, equal, image, main, needs_kvm, refused, run

# ---- a host ----------------------------------------------------------------------------------

MAC = "02:00:00:00:00:99"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
UNPRIVILEGED = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]

# sysfs shows the interfaces of the namespace it is mounted in; devices are for everybody.
PREPARE = """
mount --make-rprivate / && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /mnt &&
cp -a /dev/kvm /dev/net/tun /mnt && chmod 666 /mnt/kvm /mnt/tun &&
mount --bind /mnt/kvm /dev/kvm && mount --bind /mnt/tun /dev/net/tun &&
ip link set lo up && echo ready && exec cat
"""


class Host:
    """A network namespace, and a mount namespace; `enter` begins a command line in it."""
    other = None  # host, at the far end of a cable

    def __init__(self, prepare=PREPARE):
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", prepare], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise Skip("no namespaces here: " + self.holder.stderr.read().strip())
        self.enter = ["nsenter", "--net", "--mount", f"--target={self.holder.pid}"]

    def end(self):
        self.holder.stdin.close()
        self.holder.wait()

    def sh(self, commands):
        return subprocess.run([*self.enter, "sh", "-ec", commands], check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    def interfaces(self):
        return sorted(os.path.basename(p) for p in self.sh("ls /sys/class/net").split())

    def settles(self, expected):
        """What a process has held goes soon after it, not with it."""
        end = time.monotonic() + 20 * PATIENCE
        while self.interfaces() != expected and time.monotonic() < end:
            time.sleep(0.02)
        equal(self.interfaces(), expected, "interfaces")


@contextlib.contextmanager
def host():
    if os.geteuid() != 0:
        raise Skip("the host's side of bridges and macvtaps takes root")
    needs_kvm()
    it = Host()
    try:
        yield it
    finally:
        it.end()


@contextlib.contextmanager
def host_with_bridge(more=""):
    with host() as it:
        it.sh("ip link add br0 address 02:00:00:00:00:01 mtu 1400 type bridge\n"
              "ip link set br0 up\nip addr add 10.9.0.1/24 dev br0\n" + more)
        yield it


@contextlib.contextmanager
def host_with_neighbour():
    """A card v0, whose cable leads to another host, 10.8.0.1."""
    with host() as it:
        other = Host("ip link set lo up && echo ready && exec cat")
        try:
            it.sh(f"ip link add v0 type veth peer name v1 netns {other.holder.pid}\n"
                  "ip link set v0 up")
            other.enter = ["nsenter", "--net", f"--target={other.holder.pid}"]
            other.sh("ip addr add 10.8.0.1/24 dev v1; ip link set v1 up address 02:00:00:00:00:01")
            it.other = other
            yield it
        finally:
            other.end()


def payload(test, *arguments):
    return ["--kernel", image("payload", "payload.elf"), "--cmdline", test, "--debug-exit",
            "--memory", "64M", *arguments]


def station(it, net, words, memory="64M"):
    arguments = payload("test=station " + words, "--net", net)
    arguments[arguments.index("64M")] = memory
    vm = Vm(*arguments, wrap=it.enter)
    vm.expect("station mac=")
    return vm


def pings(vm, address):
    vm.send(f"ping {address} 3\n")
    vm.expect("ping done count=3")


def ends(vm):
    vm.send("quit\n")
    equal(vm.wait(), 0, "status")


def killed(vm):
    vm.signal(signal.SIGKILL)
    vm.process.wait()


# ---- bridges ---------------------------------------------------------------------------------


def test_a_guest_in_a_bridge_reaches_the_host_and_leaves_nothing():
    with host_with_bridge() as it:
        before = it.interfaces()
        with station(it, "bridge=br0", "ip=10.9.0.2") as vm:
            pings(vm, "10.9.0.1")
            check("mtu=1400" in vm.text(), "the guest is told of the bridge's largest packet")
            equal(it.sh("ls /sys/class/net/br0/brif").split(), ["tap0"], "ports")
            equal(it.sh("cat /sys/class/net/tap0/mtu /sys/class/net/br0/address").split(),
                  ["1400", "02:00:00:00:00:01"], "mtu, and the bridge's address")
            ends(vm)
        it.settles(before)


def test_guests_in_a_bridge_reach_each_other_and_are_gone_when_killed():
    with host_with_bridge() as it:
        before = it.interfaces()
        with station(it, "bridge=br0,mac=02:00:00:00:00:07", "ip=10.9.0.2") as one, \
                station(it, "bridge=br0,mac=02:00:00:00:00:08,ifname=ours", "ip=10.9.0.3") as two:
            pings(one, "10.9.0.3")
            pings(two, "10.9.0.2")
            check("ours" in it.interfaces(), "ifname= names it")
            killed(one)
            killed(two)
        it.settles(before)


def test_what_is_no_bridge_is_refused_with_the_way_out():
    with host_with_bridge("ip link add v0 type veth peer name v1\n") as it:
        before = it.interfaces()
        for net, words in (("bridge=br7", ["no interface br7", "bridges are: br0"]),
                           ("bridge=v0", ["v0", "no bridge", "veth", "macvtap,parent=v0"]),
                           ("bridge=lo", ["loopback"]),
                           ("bridge=br0,ifname=v1", ["interface v1 already"])):
            refused(*payload("test=net", "--net", net), wrap=it.enter, words=["net0", *words])
        refused(*payload("test=net", "--net", "bridge=br0"), wrap=[*it.enter, *UNPRIVILEGED],
                words=["net0", "no permission", "br0", "CAP_NET_ADMIN", "bridge.conf"])
        refused(*payload("test=net", "--net", "bridge=br0", "--disk", "/nowhere/disk"),
                words=["disk0"], wrap=it.enter)
        it.settles(before)


def test_qemus_bridge_helper_lets_a_user_in_whom_its_file_allows():
    helper = "/usr/lib/qemu/qemu-bridge-helper"
    if not os.path.exists(helper):
        raise Skip("QEMU's bridge helper is not installed")
    with host_with_bridge() as it:
        # Users cannot look into the folders that are under test.
        it.sh(f"cp {HUTCH} {image('payload', 'payload.elf')} /mnt; chmod 755 /mnt /mnt/hutch\n"
              f"mkdir /mnt/qemu; cp {helper} /mnt/helper; chmod 4755 /mnt/helper\n"
              f"mount --bind /mnt/helper {helper}; mkdir -p /etc/qemu\n"
              "mount --bind /mnt/qemu /etc/qemu; chmod 755 /mnt/qemu")
        before = it.interfaces()
        command = [*it.enter, *NOBODY, "/mnt/hutch", "run", "--kernel", "/mnt/payload.elf",
                   "--cmdline", "test=net ring=packed dhcp=0 host=10.9.0.1 ip=10.9.0.2",
                   "--debug-exit", "--memory", "64M", "--net", "bridge=br0"]
        for allowed in (False, True):
            it.sh("echo '" + ("allow br0" if allowed else "allow br1") +
                  "' > /mnt/qemu/bridge.conf; chmod 644 /mnt/qemu/bridge.conf")
            done = subprocess.run(command, capture_output=True, text=True, cwd="/")
            if allowed:
                equal(done.returncode, 0, done.stderr)
                check("ping=10.9.0.1" in done.stdout, done.stdout)
            else:
                equal(done.returncode, 125, done.stdout)
                check("no permission to put a tap into bridge br0" in done.stderr and
                      "the helper says: access denied by acl file" in done.stderr, done.stderr)
        it.settles(before)


# ---- several queues ---------------------------------------------------------------------------

# "Verifying the RSS hash calculation", of Microsoft's NDIS reference.
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c"
                    "6a42b73bbeac01fa")


def toeplitz(data):
    key, bits, result = int.from_bytes(KEY, "big"), len(KEY) * 8, 0
    for i in range(len(data) * 8):
        if data[i // 8] >> (7 - i % 8) & 1:
            result ^= key >> (bits - 32 - i) & 0xffffffff
    return result


PAIRS = 4


def knows_the_guest(subnet, dev):
    return "\n".join(f"ip neigh add {subnet}.{2 + i} lladdr {MAC} dev {dev} nud permanent"
                     for i in range(PAIRS))


def answers(it, net, subnet, hashes):
    """Of pings, each from a queue of its own: how frames are steered, the queue it was sent from
    and the one the answer came to, and its hash."""
    status, out, err = run(
        *payload(f"test=net-queues pairs={PAIRS} ip={subnet}.2 host={subnet}.1 "
                 f"hostmac=02:00:00:00:00:01 hash={hashes}",
                 "--net", f"{net},queues={PAIRS},mac={MAC}"), wrap=it.enter)
    equal(status, 0, out + err)
    lines = re.findall(r"(\w+) sent=(\d) came=(\d) hash=(\w+) type=(\d)", out)
    equal(len(lines), 8 * (2 + hashes) * PAIRS, "answers in every layout of rings")
    return err, [(how, int(sent), int(came), int(value, 16), int(kind))
                 for how, sent, came, value, kind in lines]


def test_answers_come_to_the_queue_that_flows_and_hashes_say():
    with host_with_bridge(knows_the_guest("10.9.0", "br0")) as it:
        _, lines = answers(it, "bridge=br0", "10.9.0", 1)
    for how, sent, came, value, kind in lines:
        hashed = toeplitz(ipaddress.ip_address("10.9.0.1").packed +
                          ipaddress.ip_address(f"10.9.0.{2 + sent}").packed)
        table = [i % PAIRS for i in range(7)] + [PAIRS - 1]
        expected = {"one": (0, 0, 0), "flow": (sent, 0, 0),
                    "rss": (table[hashed & 7], hashed, 1)}[how]
        equal((came, value, kind), expected, f"{how}, sent from {sent}")


def test_a_tap_has_a_queue_for_each_pair_and_one_made_without_is_shared():
    taps = "".join(f"ip tuntap add dev {name} mode tap {kind}\nip link set {name} up "
                   f"address 02:00:00:00:00:01\n"
                   for name, kind in (("many", "multi_queue"), ("one", "")))
    with host() as it:
        it.sh(taps)
        for name in ("many", "one"):
            it.sh(f"ip addr add 10.9.0.1/24 dev {name}\n" + knows_the_guest("10.9.0", name))
            err, lines = answers(it, f"tap,ifname={name}", "10.9.0", 0)
            for how, sent, came, _, _ in lines:
                equal(came, sent if how == "flow" else 0, f"{name}, {how}, sent from {sent}")
            equal("one was made with one queue" in err and "multi_queue" in err, name == "one",
                  err)
            it.sh(f"ip addr flush dev {name}")


# ---- macvtap ----------------------------------------------------------------------------------


def macvtaps(it):
    return [name for name in it.interfaces() if name.startswith("hutch")]


def test_a_macvtap_of_each_mode_reaches_the_wire_and_goes_with_its_vm():
    with host_with_neighbour() as it:
        before = it.interfaces()
        for mode in ("", ",mode=private", ",mode=vepa", ",mode=passthru"):
            with station(it, "macvtap,parent=v0,mac=" + MAC + mode, "ip=10.8.0.2") as vm:
                pings(vm, "10.8.0.1")
                name, = macvtaps(it)
                if mode != ",mode=passthru":  # which has its parent's, and takes all frames
                    equal(it.sh(f"cat /sys/class/net/{name}/address").strip(), MAC, "address")
                ends(vm)
            it.settles(before)


def test_a_macvtap_of_a_killed_vm_goes_when_the_next_is_made():
    with host_with_neighbour() as it:
        before = it.interfaces()
        with station(it, "macvtap,parent=v0", "ip=10.8.0.2") as vm:
            left, = macvtaps(it)
            killed(vm)
        equal(macvtaps(it), [left], "nothing takes a macvtap away by itself")
        with station(it, "macvtap,parent=v0", "ip=10.8.0.2") as vm:
            check(macvtaps(it) != [left] and len(macvtaps(it)) == 1, f"{macvtaps(it)}")
            pings(vm, "10.8.0.1")
            ends(vm)
        it.settles(before)


def test_a_macvtap_has_a_queue_for_each_pair():
    with host_with_neighbour() as it:
        it.other.sh(knows_the_guest("10.8.0", "v1"))
        _, lines = answers(it, "macvtap,parent=v0", "10.8.0", 0)
        by = {"one": set(), "flow": set()}
        for how, _, came, _, _ in lines:
            by[how].add(came)
        equal(by["one"], {0}, "queues before the driver uses its pairs")
        check(len(by["flow"]) > 1, f"several are used: {by}")  # the kernel goes by the hash only


def test_a_macvtap_needs_no_node_in_dev():
    with host_with_neighbour() as it:
        it.sh("mkdir /mnt/dev; cp -a /dev/kvm /dev/null /dev/urandom /mnt/dev\n"
              "mount --bind /mnt/dev /dev")
        with station(it, "macvtap,parent=v0", "ip=10.8.0.2") as vm:
            pings(vm, "10.8.0.1")
            ends(vm)
        equal(sorted(os.path.basename(p) for p in it.sh("ls /dev").split()),
              ["kvm", "null", "urandom"], "nodes")


def test_what_a_macvtap_cannot_be_on_is_told():
    with host_with_neighbour() as it:
        before = it.interfaces()
        for net, words in (("macvtap,parent=v9", ["no interface v9", "v0"]),
                           ("macvtap,parent=v0,mode=routed", ["mode=routed", "vepa"]),
                           ("macvtap", ["parent=eth0"]),
                           ("macvtap,parent=v0,ifname=x", ["ifname="])):
            refused(*payload("test=net", "--net", net), wrap=it.enter, words=words)
        refused(*payload("test=net", "--net", "macvtap,parent=v0"), words=["no permission", "v0"],
                wrap=[*it.enter, *UNPRIVILEGED])
        it.settles(before)


# ---- passt ------------------------------------------------------------------------------------


ECHO = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 7))
print("ready", flush=True)
while True:
    s.sendto(*s.recvfrom(9999))
"""


def reaches_the_host(vm):
    """Which passt shows a guest at its gateway's address."""
    vm.send("echo 10.8.0.1 50 1000\n")
    vm.expect("echo done count=50")


@contextlib.contextmanager
def host_with_passt():
    if not shutil.which("passt"):
        raise Skip("passt is not installed")
    with host_with_neighbour() as it:
        it.sh("ip addr add 10.8.0.5/24 dev v0\nip route add default via 10.8.0.1")
        with subprocess.Popen([*it.enter, sys.executable, "-c", ECHO], text=True,
                              stdout=subprocess.PIPE) as server:
            try:
                equal(server.stdout.readline(), "ready\n", "the server of echoes")
                yield it
            finally:
                server.kill()


def children(pid):
    """Those of all its threads."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found


def child_of(vm, but=None):
    """Its passt, when there is one that is not `but`."""
    end = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < end:
        for pid in children(vm.process.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="ascii") as comm:
                if pid != but and comm.read().startswith("passt"):
                    return pid
        time.sleep(0.02)
    raise AssertionError(f"no passt; it says: {vm.stderr()}")


def is_gone(pid):
    end = time.monotonic() + 20 * PATIENCE
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.02)
    return not os.path.exists(f"/proc/{pid}")


def test_passt_gives_a_guest_the_hosts_address_and_the_way_out():
    with host_with_passt() as it:
        with station(it, "passt", "dhcp=1") as vm:
            vm.expect("address 10.8.0.5")
            reaches_the_host(vm)
            child = child_of(vm)
            ends(vm)
        check(is_gone(child), "passt ends with its VM")


def test_a_passt_that_dies_is_started_again_and_one_of_a_killed_vm_is_gone():
    with host_with_passt() as it:
        with station(it, "passt", "dhcp=1") as vm:
            vm.expect("address 10.8.0.5")
            first = child_of(vm)
            os.kill(first, signal.SIGKILL)
            second = child_of(vm, but=first)
            reaches_the_host(vm)
            check("net0: passt ended" in vm.stderr() and "started again" in vm.stderr(),
                  vm.stderr())
            killed(vm)
        check(is_gone(second), "passt ends with its VM, however that ends")


def test_passt_forwards_ports_and_says_itself_why_it_cannot():
    with host_with_passt() as it:
        with station(it, "passt,hostfwd=udp:127.0.0.1:7007-:7", "dhcp=1") as vm:
            vm.expect("address 10.8.0.5")
            reaches_the_host(vm)
            check("0100007F:1B5F" in it.sh("cat /proc/net/udp"), "127.0.0.1:7007 is bound")
            ends(vm)
        refused(*payload("test=net", "--net", "passt,hostfwd=tcp:192.0.2.9:2222-:22"),
                wrap=it.enter, words=["net0", "passt", "it says", "192.0.2.9"])
        refused(*payload("test=net", "--net", "passt,hostfwd=tcp::2222-10.0.0.1:22"),
                wrap=it.enter, words=["hostfwd=tcp::2222-10.0.0.1:22", "leave its address out"])
        it.sh("ip link del v0")
        refused(*payload("test=net", "--net", "passt"), wrap=it.enter,
                words=["net0", "passt", "External interface not usable"])
        with tempfile.TemporaryDirectory() as empty:
            refused(*payload("test=net", "--net", "passt"), wrap=[*it.enter, "env", f"PATH={empty}"],
                    words=["no passt", "--net user"])


if __name__ == "__main__":
    main()
