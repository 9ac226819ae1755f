#!/usr/bin/env python3
"""A stock Linux kernel saved under load and restored, again and again: its files, its clock
and its network go on, and its kernel has nothing to complain of.  HUTCH_CYCLES=N takes N round
trips instead of a few."""
import functools
import http.server
import os
import re
import threading

import hutch
from hutch import Vm, check, equal
from linux import Linux
from snapshot_guest import Dice, Place

CYCLES = int(os.environ.get("HUTCH_CYCLES", "2"))

# Writes, reads back and compares, on the disk and in memory; counts what is right, and says
# what is not.
LOAD = """cat >/load.sh <<'END'
n=0
while :; do
    head -c 300000 /dev/urandom >/tmp/x
    dd if=/tmp/x of=/dev/vda bs=4k seek=$((n % 8 * 100)) conv=fsync 2>/dev/null || echo write >>/bad
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=4k skip=$((n % 8 * 100)) count=74 2>/dev/null | head -c 300000 |
        cmp -s - /tmp/x || echo read $n >>/bad
    md5sum /bin/busybox | cmp -s - /sum || echo memory $n >>/bad
    n=$((n + 1)); echo $n >/count
done
END
md5sum /bin/busybox >/sum; : >/bad; echo 0 >/count; sh /load.sh & sh -c 'while :; do :; done' &"""
# Not that a TSC is unstable: that of an emulated host with other work to do is.
COMPLAINTS = re.compile(r"lockup|hung_task|blocked for more|stall|BUG|WARNING|Oops|I/O error|"
                        r"Call Trace|timed out", re.IGNORECASE)


class Saved(Linux):
    """The same guest, in another process."""

    def __init__(self, place, snapshot, commands):
        self.name, self.commands = place.name(), commands
        Vm.__init__(self, "--name", self.name, "--restore", snapshot, env=place.env)

    def wake(self):
        self.send("\n")
        return self


def boot(place, cpus):
    vm = Linux("--name", "linux", "--cpus", cpus, "--memory", "160M", "--disk", place.disk,
               "--net", "user", "--rng", env=place.env)
    vm.name = "linux"
    vm.boot()
    vm.sh("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via "
          "10.0.2.2", status=None)
    vm.sh(LOAD)
    vm.sh("dmesg -c >/dev/null")  # what the emulator of host B made it say at boot
    return vm


def count(vm):
    return int(vm.sh("cat /count"))


def goes_on(vm, port):
    """Everything works, and nothing was ever wrong."""
    before, up = count(vm), float(vm.sh("cut -d' ' -f1 /proc/uptime"))
    vm.sh("sleep 0.3")
    now = float(vm.sh("cut -d' ' -f1 /proc/uptime"))
    check(now >= up + 0.3, f"the clock went from {up} to {now}")
    equal(vm.sh(f"wget -q -O - http://10.0.2.2:{port}/hello", 60).strip(), "hello")
    end = 0
    while count(vm) < before + 2:
        end += 1
        check(end < 200, "the load stands still")
        vm.sh("sleep 0.2")
    equal(vm.sh("cat /bad"), "", "what the load found")
    bad = [line for line in vm.sh("dmesg").splitlines() if COMPLAINTS.search(line)]
    check(not bad, "\n".join(bad))
    return count(vm)


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name is http.server's
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@functools.cache
def server():
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    return http_server.server_port


def round_trips(cpus):
    dice, port = Dice(), server()
    with Place() as place:
        vm = boot(place, cpus)
        try:
            goes_on(vm, port)
            for n in range(CYCLES):
                done = count(vm)
                diff = ["--diff"] if n % 3 else []
                place.hutch("snapshot", "create", vm.name, f"s{n}", "--quiet", *diff)
                if dice.random() < 0.3:
                    goes_on(vm, port)
                vm.process.kill()
                vm.process.wait()
                vm = Saved(place, f"s{n}", vm.commands).wake()
                check(count(vm) >= done, "the guest is older than it was")
                goes_on(vm, port)
            vm.process.kill()
            vm.process.wait()
            # The first once more: what came later has not changed it.
            vm = Saved(place, "s0", vm.commands).wake()
            goes_on(vm, port)
            vm.sh("kill %1 %2", status=None)
            equal(vm.power_off(), 0)
        finally:
            vm.process.kill()
            vm.process.wait()


def test_one_cpu_goes_on_after_every_restore():
    round_trips(1)


def test_two_cpus_go_on_after_every_restore():
    round_trips(2)


if __name__ == "__main__":
    hutch.main(stock_kernels=True, cpus=2, limit=900)
