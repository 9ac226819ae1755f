#!/usr/bin/env python3
"""Stock Debian guests on virtual networks, with the programs that such guests have: DHCP by
systemd-networkd and dhclient, IPv6 autoconfiguration, names, ping, ssh, iperf3; through a
firewall that changes, a switch that is killed, and a card that moves."""
import concurrent.futures
import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time

import hutch
from hutch import PATIENCE, check, equal, image

OUTSIDE = "192.0.2.1"  # RFC 5737: an address of the host that is not its loopback's


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name is http.server's
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from outside\n")

    def log_message(self, *_):
        pass


class Lab:
    """Networks and guests of this test's own."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {**os.environ, "XDG_RUNTIME_DIR": folder,
                    "HUTCH_NETWORKS": os.path.join(folder, "networks")}
        self.names = []

    def hutch(self, *arguments, status=0, limit=120):
        done = subprocess.run([hutch.HUTCH, *map(str, arguments)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
                              check=False, timeout=limit * PATIENCE, text=True)
        check(status is None or done.returncode == status,
              f"hutch {arguments}: status {done.returncode}: {done.stdout[-2000:]} "
              f"{done.stderr[-1000:]}")
        return done.stdout

    def boot(self, name, *arguments):
        """Debian on an overlay of its image, until its agent answers."""
        disk = os.path.join(self.folder, f"{name}.qcow2")
        self.hutch("image", "create", "-b", image("debian", "root.raw"), "-F", "raw", disk)
        self.names.append(name)
        limit = int(400 * PATIENCE)
        self.hutch("run", "--detach", "--name", name, "--kernel", image("debian", "vmlinuz"),
                   "--initrd", image("debian", "initrd.img"), "--cmdline",
                   f"console=ttyS0 root=/dev/vda quiet systemd.hostname={name}", "--disk",
                   f"{disk},format=qcow2,backing=on", "--memory", "384M", "--rng", "--agent",
                   "--timeout", 1700, "--wait", "agent", "--wait-timeout", limit, *arguments,
                   limit=limit + 60)

    def sh(self, vm, script, status=0, limit=120):
        return self.hutch("exec", vm, "--", "bash", "-c", script, status=status,
                          limit=limit).strip()

    def eventually(self, vm, script, limit=90):
        """Until the script succeeds; what it printed then."""
        return self.sh(vm, f"for i in $(seq {int(limit * 2 * PATIENCE)}); do ( {script} ) && exit; "
                           "sleep 0.5; done; exit 9", limit=limit + 60)

    def kill_switch(self, network, last=None):
        """Kills it, once it is another process than the last; returns which it was."""
        end = time.monotonic() + 60 * PATIENCE
        while time.monotonic() < end:
            told = json.loads(self.hutch("net", "inspect", network))
            pid = told.get("status", {}).get("pid")
            if pid and pid != last:
                os.kill(pid, signal.SIGKILL)
                return pid
            time.sleep(0.2)
        raise AssertionError(f"the switch of {network} did not come back")

    def close(self):
        for name in self.names:
            self.hutch("rm", "--force", name, status=None)


@contextlib.contextmanager
def outside():
    """A web server of the host's, at an address that NAT leads to."""
    subprocess.run(["ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)
    server = http.server.ThreadingHTTPServer((OUTSIDE, 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


ADDRESS4 = "ip -4 -o address show scope global | grep -o '10[.]5[.][0-9.]*' | head -1 | grep ."
ADDRESS6 = "ip -6 -o address show scope global -tentative | grep -o 'fd00:5::[0-9a-f:]*' | grep ."


def addresses(lab, vm):
    return (lab.eventually(vm, ADDRESS4), set(lab.eventually(vm, ADDRESS6).split()))


def step(text, began=[time.monotonic()]):
    print(f"# {text}: {time.monotonic() - began[0]:.1f} s", flush=True)
    began[0] = time.monotonic()


def dhcp_names_and_ping(lab):
    four, six = {}, {}
    for vm in ("web", "db"):
        four[vm], six[vm] = addresses(lab, vm)
    step("addresses by systemd-networkd and autoconfiguration")
    check(four["web"] != four["db"] and not six["web"] & six["db"], f"{four} {six}")
    leases = lab.hutch("net", "leases", "blue", "--json")
    for vm in four:
        check(four[vm] in leases, f"{vm} has {four[vm]}, and leases are {leases}")
    # Whole names: of bare ones systemd-networkd asks no server, unless UseDomains= says so.
    for name in ("db.blue.internal", "DB.blue.internal"):
        check(four["db"] in lab.sh("web", f"getent ahostsv4 {name}"), f"web does not find {name}")
    check("web.blue.internal" in lab.sh("db", f"getent hosts {four['web']}"), "db does not know web")
    lab.sh("web", "ping -c 1 -W 10 db.blue.internal && ping -6 -c 1 -W 10 " + min(six["db"]))
    lab.sh("db", "ping -c 1 -W 10 web.blue.internal")
    lab.sh("web", "ping -c 1 -W 10 10.5.0.1")
    step("names, ping")
    return four


def dhclient_gets_the_same(lab, four):
    card = lab.sh("db", "ls /sys/class/net | grep ^e | head -1")
    lab.sh("db", "systemctl stop systemd-networkd.socket systemd-networkd; "
                 f"ip -4 address flush dev {card}; ip link set {card} up; dhclient -1 -4 {card}",
           limit=180)
    equal(lab.sh("db", ADDRESS4), four["db"], "dhclient's lease")
    lab.sh("db", f"dhclient -4 -r {card}; dhclient -1 -6 -v {card} && "
                 f"ip -6 address show dev {card} | grep fd00:5::", limit=180)
    lab.sh("db", f"dhclient -6 -x {card}; systemctl start systemd-networkd.socket systemd-networkd")
    equal(lab.eventually("db", ADDRESS4), four["db"], "the lease after that")
    step("dhclient, v4 and v6")


def ssh_works(lab):
    lab.eventually("db", "systemctl -q is-active ssh")
    key = lab.sh("web", "mkdir -p ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; "
                        "cat ~/.ssh/id_ed25519.pub")
    lab.sh("db", f"mkdir -p ~/.ssh; echo '{key}' >~/.ssh/authorized_keys")
    equal(lab.sh("web", "ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR root@db.blue.internal hostname"), "db")
    step("ssh")


def nat_and_forwards(lab, port):
    got = lab.sh("web", f"exec 3<>/dev/tcp/{OUTSIDE}/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; "
                        "cat <&3")
    check("hello from outside" in got, got)
    taken = 20000 + os.getpid() % 10000
    lab.hutch("net", "set", "blue", f"forward+=tcp:127.0.0.1:{taken}-web:22")
    with socket.create_connection(("127.0.0.1", taken), timeout=60) as banner:
        equal(banner.recv(8), b"SSH-2.0-")
    step("NAT, a forward")


def firewall_keeps_what_it_allows(lab):
    rules = os.path.join(lab.folder, "web.rules")
    with open(rules, "w", encoding="utf-8") as file:
        file.write("default out allow\nallow in tcp port 22\nallow in tcp port 5201\n")
    lab.hutch("firewall", "set", "blue/web", rules)
    lab.sh("db", "ping -c 2 -W 2 web.blue.internal", status=1)
    with_ssh = lab.sh("db", "exec 3<>/dev/tcp/web.blue.internal/22; head -c 4 <&3")
    equal(with_ssh, "SSH-")
    lab.hutch("firewall", "add", "blue/web", "allow in icmp")
    lab.sh("db", "ping -c 1 -W 10 web.blue.internal")
    step("firewall")


def connections_outlive_the_switch(lab):
    lab.sh("web", "iperf3 -s -D -1 && until ss -ltn | grep -q :5201; do sleep 0.2; done")
    result = {}

    def measure():
        result["text"] = lab.sh("db", "iperf3 -c web.blue.internal -t 12 -J", limit=180)

    thread = threading.Thread(target=measure)
    thread.start()
    killed = None
    for _ in range(2):
        time.sleep(3)
        killed = lab.kill_switch("blue", killed)
    thread.join()
    told = json.loads(result["text"])
    bits = told["end"]["sum_received"]["bits_per_second"]
    check(bits > 1e6, f"{bits} bit/s")
    lab.sh("db", "ping -c 1 -W 10 web.blue.internal")
    step(f"iperf3 over two ends of the switch, {bits / 1e6:.0f} Mbit/s")


def a_card_moves(lab):
    mac = lab.sh("db", "cat /sys/class/net/e*/address")
    lab.hutch("net", "create", "green", "--subnet", "10.6.0.0/24", "--isolated")
    lab.hutch("net", "connect", "green", "db:net0")
    lab.eventually("db", "ip -4 -o address show scope global | grep -o '10[.]6[.][0-9.]*'", 180)
    equal(lab.sh("db", "cat /sys/class/net/e*/address"), mac)
    lab.sh("db", "ping -c 2 -W 2 10.5.0.1", status=None)
    lab.hutch("net", "connect", "blue", "db:net0")
    lab.eventually("db", ADDRESS4, 180)
    step("a card that moves, and comes back")


def test_debian_guests_live_on_a_network():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, outside() as port:
        lab = Lab(folder)
        try:
            lab.hutch("net", "create", "blue", "--nat", "--subnet", "10.5.0.0/24", "--subnet6",
                      "fd00:5::/64")
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda name: lab.boot(name, "--net", "blue,id=net0"),
                              ("web", "db")))
            step("two guests booted")
            four = dhcp_names_and_ping(lab)
            ssh_works(lab)
            nat_and_forwards(lab, port)
            firewall_keeps_what_it_allows(lab)
            connections_outlive_the_switch(lab)
            dhclient_gets_the_same(lab, four)
            a_card_moves(lab)
        finally:
            lab.close()


if __name__ == "__main__":
    hutch.main(stock_kernels=True, cpus=2, memory="4G", limit=1200)
