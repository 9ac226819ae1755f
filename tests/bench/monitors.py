"""Starts the same payload guest under hutch and under QEMU's microvm, and tells what the
process costs the host."""
import fcntl
import os
import re
import select
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HUTCH = os.environ.get("HUTCH", os.path.join(ROOT, "build", "hutch"))
TOOLS = os.path.join(os.path.dirname(HUTCH), "tests", "bench")
CACHE = os.environ.get("HUTCH_IMAGE_CACHE", os.path.join(ROOT, "guest-images", "cache"))
QEMU = os.environ.get("QEMU", "/usr/bin/qemu-system-x86_64")
MEMORY_MIB = 512
PATIENCE = 120  # seconds: for what hangs


class CannotRun(Exception):
    """This bench does not run here; its text says why and what helps."""


def payload(name):
    return os.path.join(CACHE, "payload", name)


def tool(name):
    return os.path.join(TOOLS, name)


@dataclass
class Disk:
    """A disk, and how it is used; the words are hutch's."""
    path: str
    format: str = "raw"
    cache: str = "none"
    aio: str = "auto"       # QEMU has no such: there it is libaio
    queues: int = 1
    backing: bool = False   # there are backing images that hutch did not make


@dataclass
class Net:
    """A network card's other end, in the words of each."""
    hutch: str
    qemu: str


def as_net(net):
    """`user`, or the name of a tap, or a Net."""
    if isinstance(net, Net):
        return net
    if net == "user":
        return Net("user", "user")
    return Net(f"tap,ifname={net}", f"tap,ifname={net},script=no,downscript=no,vhost=off")


def as_disk(disk):
    return disk if isinstance(disk, Disk) else Disk(disk)


def hutch_command(kernel, cmdline="", disk=None, net=None, mac=None, console=False,
                  serial="stdio", transport="pci", control=None):
    """disk is a file or a Disk, net `user`, the name of a tap or a Net, control a socket's path."""
    command = [HUTCH, "run", "--kernel", payload(kernel), "--cmdline", cmdline,
               "--memory", f"{MEMORY_MIB}M", "--serial", serial, "--debug-exit"]
    if transport != "pci":
        command += ["--transport", transport]
    if disk:
        d = as_disk(disk)
        command += ["--disk", f"{d.path},format={d.format},cache={d.cache},aio={d.aio},"
                              f"queues={d.queues}" + ",backing=on" * d.backing]
    if net:
        command += ["--net", as_net(net).hutch + (f",mac={mac}" if mac else "")]
    if console:
        command += ["--console", "none"]
    if control:
        command += ["--control", control]
    return command


def qemu_command(kernel, cmdline="", disk=None, net=None, mac=None, console=False,
                 serial="stdio", control=None, machine="microvm"):
    """As lean as it goes, with an iothread for the disk and without vhost.  machine="q35" is for
    guests that want interrupts, which the payload's driver knows on PCI only."""
    lean = "microvm,accel=kvm,pit=off,pic=off,rtc=off,acpi=off"
    card = "virtio-net-device" if machine == "microvm" else "virtio-net-pci,disable-legacy=on"
    command = [QEMU, "-M", lean if machine == "microvm" else f"{machine},accel=kvm", "-global", "virtio-mmio.force-legacy=false", "-name", "bench,debug-threads=on",
               "-no-user-config", "-nodefaults", "-display", "none", "-m", str(MEMORY_MIB),
               "-serial", serial, "-kernel", payload(kernel), "-append", cmdline,
               "-device", "isa-debug-exit,iobase=0xf4"]
    if disk:
        d = as_disk(disk)
        aio = {"auto": "native", "libaio": "native"}.get(d.aio, d.aio)
        command += ["-object", "iothread,id=io0", "-device",
                    f"virtio-blk-device,drive=d0,iothread=io0,num-queues={d.queues}",
                    "-drive", f"if=none,id=d0,file={d.path},format={d.format},"
                              f"cache={d.cache},aio={aio}"]
    if net:
        command += ["-netdev", f"{as_net(net).qemu},id=n0", "-device",
                    f"{card},netdev=n0" + (f",mac={mac}" if mac else "")]
    if console:
        command += ["-chardev", "null,id=c0", "-device", "virtio-serial-device",
                    "-device", "virtconsole,chardev=c0"]
    if control:
        command += ["-qmp", f"unix:{control},server=on,wait=off"]
    return command


def command(monitor, kernel, **options):
    """monitor is `qemu`, `hutch`, or `hutch mmio` for that transport."""
    if monitor == "qemu":
        return qemu_command(kernel, **options)
    options.pop("machine", None)
    transport = monitor.partition(" ")[2] or "pci"
    return hutch_command(kernel, transport=transport, **options)


def wait_until_free(path):
    """Until nobody has QEMU's locks on it: io_uring keeps a file open for a moment after its
    process is gone."""
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
    end = time.monotonic() + PATIENCE
    with open(path, "r+b") as file:
        while True:
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() > end:
                    raise CannotRun(f"{path} is in use") from None
            time.sleep(0.001)


class Guest:
    """One guest that runs until the block is left."""

    def __init__(self, monitor, cmdline, prefix=(), **options):
        self.disk = options.get("disk")
        self.stderr = tempfile.TemporaryFile()
        self.text = b""
        self.process = subprocess.Popen(
            [*prefix, *command(monitor, "payload.elf", cmdline=cmdline, **options)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()
        if self.disk:
            wait_until_free(as_disk(self.disk).path)

    def said(self, pattern):
        """Waits until the guest's output has `pattern`: (when, in ns, and the match)."""
        end = time.monotonic() + PATIENCE
        while not (match := re.search(pattern.encode(), self.text)):
            ready = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                self.stderr.seek(0)
                words = self.text + self.stderr.read()
                raise CannotRun(f"{os.path.basename(self.process.args[0])}: the guest did not say "
                                f"'{pattern}' but: {words.decode(errors='replace')[-400:].strip()}")
            self.text += data
        return time.monotonic_ns(), match

    def tasks(self):
        """The CPU time of every thread so far, in ns, by its name."""
        used = {}
        folder = f"/proc/{self.process.pid}/task"
        for task in os.listdir(folder):
            with open(f"{folder}/{task}/comm") as name, open(f"{folder}/{task}/schedstat") as stat:
                key = name.read().strip()
                used[key] = used.get(key, 0) + int(stat.read().split()[0])
        return used

    def io_cpu_ns(self):
        """CPU time of all threads but the vCPU's, which is busy anyway."""
        return sum(ns for name, ns in self.tasks().items() if not is_vcpu(name))

    def pin(self, vcpu, others):
        """Keeps the vCPU and all other threads to these sets of processors."""
        folder = f"/proc/{self.process.pid}/task"
        for task in os.listdir(folder):
            with open(f"{folder}/{task}/comm") as name:
                os.sched_setaffinity(int(task), vcpu if is_vcpu(name.read()) else others)

    def pin_apart(self):
        """The vCPU, always busy, on one processor, all else on the others: left to itself, the
        scheduler decides the race on small hosts."""
        cpus = sorted(os.sched_getaffinity(0))
        self.pin(set(cpus[:1]), set(cpus[1:] or cpus))

    def own_pss_kib(self):
        """Proportional set size of all mappings but guest RAM: those that lie side by side
        and are together as large as it is."""
        sizes = []  # [start, end, KiB]
        with open(f"/proc/{self.process.pid}/smaps") as smaps:
            for line in smaps:
                if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                    sizes.append([int(match[1], 16), int(match[2], 16), 0])
                elif line.startswith("Pss:"):
                    sizes[-1][2] = int(line.split()[1])
        return sum(s[2] for s in sizes) - sum(s[2] for s in guest_ram(sizes))


def is_vcpu(thread):
    return re.match(r"vcpu\d|CPU \d+/KVM", thread)


def guest_ram(mappings):
    for first in range(len(mappings)):
        for last in range(first, len(mappings)):
            length = mappings[last][1] - mappings[first][0]
            if last > first and mappings[last][0] != mappings[last - 1][1]:
                break
            if length == MEMORY_MIB << 20:
                return mappings[first:last + 1]
            if length > MEMORY_MIB << 20:
                break
    raise CannotRun("no mapping is as large as guest RAM")


def first_run(monitor, **options):
    """From exec: ms to the guest's first instruction, ms to the end, ms of CPU."""
    def launch(shim):
        done = subprocess.run([tool("bench_launch"), shim,
                               *command(monitor, "first.elf", serial="none", **options)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(done.stderr.strip())
        return {key: int(us) / 1000 for key, us in re.findall(r"(\w+)_us=(-?\d+)", done.stdout)}

    plain = launch("-")
    return {"first": launch(tool("bench_first_run.so"))["first"], "whole": plain["whole"],
            "cpu": plain["cpu"]}


def check_host():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise CannotRun("/dev/kvm cannot be opened: these benches need it (sudo usermod -aG kvm "
                        "$USER, then log in again)")
    for path, how in ((QEMU, "sudo apt-get install qemu-system-x86"), (HUTCH, "scripts/build"),
                      (payload("first.elf"), "guest-images/build payload")):
        if not os.path.exists(path):
            raise CannotRun(f"{path} is not there: {how}")
