#!/usr/bin/env python3
"""Stock Debian kernels: the machine, its devices and its life-cycle as Linux sees them."""
import functools
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading

import hutch
from hutch import check, equal, image
from linux import Linux, golden, lspci, normal_interrupts, normal_kernel_log

MACHINE = ("--net", "user", "--rng", "--serial", "stdio", "--serial", "none")


def scratch_disk(folder):
    path = os.path.join(folder, "disk.raw")
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    return path


@functools.cache
def seen(cpus):
    """One boot with `cpus` CPUs and 4 GiB, and what the guest says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        with Linux(*MACHINE, "--cpus", cpus, "--memory", "4G", "--disk",
                   scratch_disk(folder)).boot() as vm:
            facts = {
                "dmesg": vm.sh("dmesg"),
                "interrupts": vm.sh("cat /proc/interrupts"),
                "cpus": vm.sh("nproc"),
                "memory": vm.sh("grep MemTotal /proc/meminfo"),
                "iomem": vm.sh("cat /proc/iomem"),
                "clock": vm.sh("cat /sys/devices/system/clocksource/clocksource0/current_*"),
                "pci": vm.sh("pcidump"),
                "disk": vm.sh("head -c 3000000 /dev/urandom >/tmp/g; for i in 0 1 2 3 4 5 6 7 8 9; "
                              "do echo $i; cat /tmp/g; done >/tmp/f; dd if=/tmp/f of=/dev/vda "
                              "bs=1M conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
                              "head -c 30000020 /dev/vda | cmp - /tmp/f && echo same", 120),
                "random": vm.sh("cat /sys/class/misc/hw_random/rng_current; "
                                "head -c 32 /dev/hwrng | wc -c"),
            }
            facts["status"] = vm.power_off()
    return facts


# ---- the machine ---------------------------------------------------------------------------


def test_one_and_four_cpus_boot_and_power_off_with_status_0():
    for cpus in (1, 4):
        equal(seen(cpus)["cpus"].strip(), str(cpus))
        equal(seen(cpus)["status"], 0)


def test_a_4_gib_guest_sees_all_its_memory():
    total = int(seen(1)["memory"].split()[1])
    check(total > 3_900_000, seen(1)["memory"])
    check("100000000-13fffffff : System RAM" in seen(1)["iomem"], seen(1)["iomem"])


def test_the_kernel_finds_no_fault_with_the_firmware():
    for cpus in (1, 4):
        bad = [line for line in seen(cpus)["dmesg"].splitlines()
               if re.search(r"Firmware Bug|ACPI (BIOS )?(Error|Warning|Exception)|BIOS bug|"
                            r"can't assign|no compatible bridge|BAR \d: failed", line)]
        check(not bad, "\n".join(bad))


def test_time_comes_from_kvmclock_and_interrupts_by_x2apic():
    equal(seen(4)["clock"].strip(), "kvm-clock")
    check("x2apic enabled" in seen(4)["dmesg"], "no x2apic")


def test_lspci_interrupts_and_dmesg_are_as_in_the_golden_files():
    golden("dmesg.txt", normal_kernel_log(seen(1)["dmesg"]))
    golden("interrupts.txt", normal_interrupts(seen(1)["interrupts"]))
    golden("lspci.txt", lspci(seen(1)["pci"]))


def test_what_is_written_to_a_disk_is_read_back():
    equal(seen(1)["disk"].strip(), "same")


def test_random_numbers_come_from_the_host():
    check("virtio_rng" in seen(1)["random"] and "32" in seen(1)["random"], seen(1)["random"])


def test_an_uncompressed_kernel_starts_by_pvh():
    with Linux("--memory", "256M", kernel="vmlinux").boot() as vm:
        check("Xen" not in vm.sh("dmesg | grep -i 'booting paravirt'", status=None), "")
        equal(vm.power_off(), 0)


def test_virtio_mmio_devices_are_found_through_acpi():
    with tempfile.TemporaryDirectory() as folder:
        with Linux(*MACHINE, "--transport", "mmio", "--memory", "256M", "--disk",
                   scratch_disk(folder)).boot() as vm:
            vm.sh("ls /sys/block/vda /sys/class/net/eth0")
            check("virtio-mmio" in vm.sh("ls -l /sys/block/vda") or
                  "LNRO0005" in vm.sh("ls -l /sys/block/vda"), vm.sh("ls -l /sys/block/vda"))
            vm.sh("dd if=/dev/vda of=/dev/null bs=1M count=8 2>/dev/null")
            equal(vm.power_off(), 0)


def test_the_virtio_console_is_a_terminal():
    with Linux("--console", "stdio", "--memory", "256M", console="hvc0").boot() as vm:
        check("/dev/hvc0" in vm.sh("tty") or "/dev/console" in vm.sh("tty"), vm.tail())
        equal(vm.power_off(), 0)


# ---- life-cycle ------------------------------------------------------------------------------


def test_reboot_boots_again():
    with Linux("--memory", "256M", "--rng", "--net", "user").boot() as vm:
        vm.send("reboot\n")
        vm.boot()
        check("virtio_rng" in vm.sh("cat /sys/class/misc/hw_random/rng_current"), "rng is gone")
        vm.sh("ls /sys/class/net/eth0")
        equal(vm.power_off(), 0)


def test_the_power_button_shuts_the_guest_down():
    with Linux("--memory", "256M").boot() as vm:
        vm.signal(signal.SIGPWR)
        equal(vm.wait(), 0)


def test_a_panic_is_status_127():
    with Linux("--memory", "256M", cmdline="panic=-1").boot() as vm:
        vm.send("echo c >/proc/sysrq-trigger\n")
        equal(vm.wait(), 127)


def test_a_storm_of_1000_breaks_and_nmis_harms_nothing():
    with Linux("--memory", "256M", tty=True).boot() as vm:
        # A break makes Linux take the next character as a command to the kernel, and the
        # terminal interrupt the shell; neither is what is tested here.
        vm.sh("echo 0 >/proc/sys/kernel/sysrq; stty ignbrk -brkint")
        for _ in range(1000):
            vm.send("\x01b\x01n")
            vm.read(0)
        vm.expect("NMI received", 120)
        for _ in range(20):
            vm.send('\n\necho al""ive\n')
            try:
                vm.expect("alive", 10)
                break
            except hutch.GuestTimeout:
                pass
        vm.send("\n")
        check(int(re.search(r"NMI: +(\d+)", vm.sh("cat /proc/interrupts"))[1]) > 0, "no NMI came")
        equal(vm.power_off(), 0)


# ---- network ---------------------------------------------------------------------------------


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name is the library's
        body = b"from the host " * 10000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(address):
    server = http.server.HTTPServer((address, 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_user_network_reaches_the_host_and_is_reached_through_a_forward():
    with serve("127.0.0.1") as server, tempfile.TemporaryDirectory() as folder:
        forward = 20000 + os.getpid() % 10000
        with Linux("--memory", "256M", "--net",
                   f"user,hostfwd=tcp:127.0.0.1:{forward}-:80", cmdline="ip=dhcp").boot() as vm:
            check("10.0.2.15" in vm.sh("ip addr show eth0"), vm.tail())
            got = vm.sh(f"wget -qO- http://10.0.2.2:{server.server_port}/ | wc -c")
            equal(got.strip(), "140000")
            vm.sh("until ip -6 addr show eth0 | grep fec0; do usleep 100000; done")
            vm.sh("mkdir -p /www; echo from the guest >/www/index.html; httpd -p 80 -h /www")
            page = os.path.join(folder, "page")
            subprocess.run(["busybox", "wget", "-qO", page, f"http://127.0.0.1:{forward}/"],
                           check=True, timeout=60)
            with open(page, encoding="ascii") as file:
                equal(file.read(), "from the guest\n")
            equal(vm.power_off(), 0)
        server.shutdown()


def network_with_tap():
    """Moves to a network namespace of our own, which ends with this process."""
    hutch.unshare_network()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "tuntap", "add", "hutch0", "mode", "tap"], check=True)
    subprocess.run(["ip", "addr", "add", "10.77.0.1/24", "dev", "hutch0"], check=True)
    subprocess.run(["ip", "link", "set", "hutch0", "up"], check=True)


def test_tap_network_reaches_the_host_with_offloads():
    if os.geteuid() or not os.path.exists("/dev/net/tun"):
        raise hutch.Skip("taps need root and /dev/net/tun")
    network_with_tap()
    with serve("10.77.0.1") as server:
        with Linux("--memory", "256M", "--net", "tap,ifname=hutch0").boot() as vm:
            vm.sh("ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up")
            vm.sh("ping -c 3 10.77.0.1")
            got = vm.sh(f"wget -qO- http://10.77.0.1:{server.server_port}/ | wc -c")
            equal(got.strip(), "140000")
            equal(vm.power_off(), 0)
        server.shutdown()


def test_a_card_with_two_pairs_of_queues_is_driven_with_both():
    if os.geteuid() or not os.path.exists("/dev/net/tun"):
        raise hutch.Skip("taps need root and /dev/net/tun")
    network_with_tap()
    with serve("10.77.0.1") as server:
        with Linux("--memory", "256M", "--cpus", "2", "--net",
                   "tap,ifname=hutch0,queues=2").boot() as vm:
            vm.sh("ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up")
            features = vm.sh("cat /sys/class/net/eth0/device/features").strip()
            check(features[22] == "1", f"several pairs, of {features}")
            equal(sorted(vm.sh("ls /sys/class/net/eth0/queues").split()),
                  ["rx-0", "rx-1", "tx-0", "tx-1"])
            vm.sh("ping -c 3 10.77.0.1")
            for _ in range(4):  # flows of other ports
                got = vm.sh(f"wget -qO- http://10.77.0.1:{server.server_port}/ | wc -c")
                equal(got.strip(), "140000")
            equal(vm.power_off(), 0)
        server.shutdown()


def test_a_detached_guest_is_waited_for_until_programs_speak_and_a_port_answers():
    port = 21000 + os.getpid() % 10000
    with tempfile.TemporaryDirectory(prefix="hutch-") as runtime:
        env = {**os.environ, "XDG_RUNTIME_DIR": runtime}

        def start(*arguments):
            return subprocess.Popen([hutch.HUTCH, *arguments], env=env, text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def log():
            return subprocess.run([hutch.HUTCH, "logs", "lin"], env=env, text=True,
                                  errors="replace", capture_output=True).stdout

        def heard(name):
            return next(event for event in map(json.loads, events.stdout)
                        if event["event"] == name)

        os.mkdir(os.path.join(runtime, "hutch"), 0o700)
        events = start("events", "--follow", "--json")
        waiting = start("run", "-d", "--name", "lin", "--memory", "256M", "--kernel",
                        image("busybox", "vmlinuz"), "--initrd", image("busybox", "initrd.img"),
                        "--cmdline", "console=ttyS0 ip=dhcp", "--wait", "tcp:80",
                        "--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:80")
        try:
            heard("X_HUTCH_USER_OUTPUT")
            check("Run /init" in log(), f"told of before there were programs:\n{log()}")
            console = start("console", "lin")
            for line in console.stdout:
                if "built-in shell" in line:
                    break
            check(waiting.poll() is None, "told of a port before it answered")
            console.stdin.write("mkdir -p /www; httpd -p 80 -h /www\n")
            console.stdin.flush()
            equal(waiting.communicate(timeout=120 * hutch.PATIENCE)[0], "lin\n")
            equal(heard("X_HUTCH_PORT_OPEN")["data"]["port"], 80)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                check(client.recv(4) == b"HTTP", "nobody is at the port")
            console.stdin.write("poweroff\n")
            console.stdin.close()
            equal(subprocess.run([hutch.HUTCH, "wait", "lin"], env=env).returncode, 0)
            console.wait(60 * hutch.PATIENCE)
        finally:
            events.terminate()
            subprocess.run([hutch.HUTCH, "rm", "--force", "lin"], env=env)


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="4G", limit=900)
