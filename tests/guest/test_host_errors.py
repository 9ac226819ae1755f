#!/usr/bin/env python3
"""What the host lacks, forbids or has given to somebody else: one sentence and status 125
at the start, an I/O error or a warning later, and never the end of the VM.

Hosts without this and that are made of namespaces and dropped capabilities, so nothing of
the real one changes."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

import hutch
from hutch import Skip, Vm, check, equal, image, refused, run

ROOT = os.geteuid() == 0


def guest(test="test=hello"):
    hutch.needs_kvm()
    return ("--kernel", image("payload", "payload.elf"), "--cmdline", test, "--debug-exit")


def tried(wrap):
    """A command line before hutch's, which must work on this machine."""
    done = subprocess.run([*wrap, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skip(f"cannot {' '.join(wrap)[:60]}...: {done.stderr.strip()}")
    return wrap


def without(*capabilities):
    if not ROOT:
        return []
    return ["setpriv", "--bounding-set=" + ",".join("-" + c for c in capabilities),
            "--inh-caps=-all"]


def in_own_mounts(script):
    """Runs what follows after the shell script, which may mount what it likes."""
    unshare = ["unshare", "--mount"] if ROOT else ["unshare", "--map-root-user", "--mount"]
    return tried([*unshare, "sh", "-ec", script + '\nexec "$@"', "sh"])


@contextlib.contextmanager
def disk(size=1 << 20):
    with tempfile.NamedTemporaryFile(suffix=".raw", dir="/var/tmp") as file:
        file.truncate(size)
        yield file.name


# ---- /dev/kvm ------------------------------------------------------------------------------


def test_a_host_without_dev_kvm_hears_where_it_comes_from():
    err = refused(*guest(), words=["/dev/kvm", "No such file"],
                  wrap=in_own_mounts("mount -t tmpfs none /dev"))
    check("modprobe kvm" in err or "nested virtualisation" in err, err)


def test_a_dev_kvm_without_permission_names_the_group():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        wrap = in_own_mounts(f"mount --bind {file.name} /dev/kvm")
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
        refused(*guest(), words=["/dev/kvm", "Permission denied", "usermod -aG kvm"],
                wrap=[*wrap, *drop])


def unused_devices():
    """Character devices that nobody serves: open(2) gives ENODEV and ENXIO."""
    with open("/proc/misc", encoding="ascii") as file:
        minors = {int(line.split()[0]) for line in file}
    yield 10, next(n for n in range(255, 0, -1) if n not in minors), "No such device"
    with open("/proc/devices", encoding="ascii") as file:
        majors = {line.split()[0] for line in file if line.strip()[:1].isdigit()}
    yield next(n for n in range(60, 64) if str(n) not in majors), 0, "No such device or address"


def test_a_dev_kvm_without_hardware_virtualisation_says_what_to_enable():
    if not ROOT:
        raise Skip("device nodes are made by root")
    for major, minor, text in unused_devices():
        with tempfile.TemporaryDirectory() as folder:
            wrap = in_own_mounts(f"mount -t tmpfs none {folder}\n"
                                 f"mknod {folder}/kvm c {major} {minor}\n"
                                 f"mount --bind {folder}/kvm /dev/kvm")
            refused(*guest(), words=["/dev/kvm", text, "VT-x or AMD-V"], wrap=wrap)


def test_a_dev_kvm_that_is_something_else_is_told():
    with tempfile.NamedTemporaryFile() as file:
        wrap = in_own_mounts(f"mount --bind {file.name} /dev/kvm")
        refused(*guest(), words=["/dev/kvm", "is not KVM"], wrap=wrap)


# ---- taps ----------------------------------------------------------------------------------

HOLDER = """
import fcntl, os, struct, sys
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454ca, 0x400454cb, 0x400454cc
IFF_TAP, IFF_NO_PI = 2, 0x1000
taps = [(b"tap7", None)]
if sys.argv[1] == "as root":  # other namespaces know no other user
    taps += [(b"tap8", 12345)]
for name, owner in taps:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP | IFF_NO_PI))
    if owner:
        fcntl.ioctl(fd, TUNSETOWNER, owner)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
        os.close(fd)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def network():
    """A command line that enters a network of our own, where tap7 is in use and tap8 is
    somebody else's."""
    unshare = ["unshare", "--net"] if ROOT else ["unshare", "--map-root-user", "--net"]
    with subprocess.Popen([*tried(unshare), sys.executable, "-c", HOLDER,
                           "as root" if ROOT else "as a user"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        try:
            if holder.stdout.readline() != "held\n":
                raise Skip("taps cannot be made here: " + holder.stderr.read().splitlines()[-1])
            enter = ["nsenter", "--net", f"--target={holder.pid}"]
            yield tried(enter if ROOT else [*enter, "--user", "--preserve-credentials"])
        finally:
            holder.stdin.close()


def interfaces(enter):
    text = subprocess.run([*enter, "cat", "/proc/net/dev"], check=True, capture_output=True,
                          text=True).stdout
    return sorted(line.split(":")[0].strip() for line in text.splitlines() if ":" in line)


def test_a_busy_tap_and_one_of_another_user_are_told_apart():
    with network() as enter:
        before = interfaces(enter)
        refused(*guest(), "--net", "tap,ifname=tap7", words=["net0", "tap7", "in use", "ifname="],
                wrap=enter)
        drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]
        if ROOT:
            refused(*guest(), "--net", "tap,ifname=tap8", words=["net0", "tap8", "another user"],
                    wrap=[*enter, *drop])
        refused(*guest(), "--net", "tap,ifname=tap9", wrap=[*enter, *drop],
                words=["net0", "no permission", "tap9", "sudo"])
        refused(*guest(), "--net", "tap", words=["net0", "no permission", "--net user"],
                wrap=[*enter, *drop])
        refused(*guest(), "--net", "tap,ifname=lo", words=["net0", "lo", "not a tap"], wrap=enter)
        equal(interfaces(enter), before, "interfaces")


def test_a_tap_that_hutch_made_goes_away_with_it():
    with network() as enter:
        before = interfaces(enter)
        equal(run(*guest(), "--net", "tap,ifname=tap9", wrap=enter)[0], 0)
        refused(*guest(), "--net", "tap,ifname=tap9", "--disk", "/nowhere/disk", words=["disk0"],
                wrap=enter)
        equal(interfaces(enter), before, "interfaces")


def test_a_host_without_dev_net_tun_hears_of_the_module():
    if not os.path.isdir("/dev/net"):
        raise Skip("this host has no /dev/net to hide")
    refused(*guest(), "--net", "tap", words=["/dev/net/tun", "modprobe tun", "--net user"],
            wrap=in_own_mounts("mount -t tmpfs none /dev/net"))
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        wrap = in_own_mounts(f"mount --bind {file.name} /dev/net/tun")
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
        refused(*guest(), "--net", "tap", words=["/dev/net/tun", "no permission", "--net user"],
                wrap=[*wrap, *drop])


# ---- a disk that somebody holds ---------------------------------------------------------------


def test_a_disk_of_another_hutch_is_refused_unless_both_only_read():
    with disk() as path:
        with Vm(*guest("test=spin"), "--disk", path) as first:
            first.expect("spin ready")
            for options in ("", ",readonly"):
                refused(*guest(), "--disk", path + options,
                        words=["disk0", path, "in use by hutch", str(first.process.pid)])
            equal(run(*guest(), "--disk", f"{path},locking=off")[0], 0)
        with Vm(*guest("test=spin"), "--disk", f"{path},readonly") as first:
            first.expect("spin ready")
            equal(run(*guest(), "--disk", f"{path},readonly")[0], 0)
            refused(*guest(), "--disk", path, words=["disk0", path, "in use by hutch"])
        equal(run(*guest(), "--disk", path)[0], 0)


def qemu(name):
    if not shutil.which(name):
        raise Skip(f"{name} is not installed")
    return name


def qemu_holders(path):
    drive = f"file={path},format=raw,if=virtio"
    yield [qemu("qemu-io"), "-f", "raw", path], b"length\n", b"1 MiB"
    yield [qemu("qemu-system-x86_64"), "-S", "-nodefaults", "-display", "none", "-machine", "q35",
           "-monitor", "stdio", "-drive", drive], b"info status\n", b"paused"


def test_a_disk_of_qemu_is_refused_by_its_name():
    with disk() as path:
        for command, question, answer in qemu_holders(path):
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT) as holder:
                try:
                    holder.stdin.write(question)
                    holder.stdin.flush()
                    line = b"-"
                    while line and answer not in line:
                        line = holder.stdout.readline()
                    check(line, f"{command[0]} did not start")
                    refused(*guest(), "--disk", path,
                            words=["disk0", path, "in use by qemu", str(holder.pid)])
                finally:
                    holder.kill()


def test_qemu_is_kept_off_a_disk_of_ours():
    with disk() as path:
        commands = [command for command, _, _ in qemu_holders(path)]
        with Vm(*guest("test=spin"), "--disk", path) as vm:
            vm.expect("spin ready")
            for command in commands:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                                      text=True, check=False)
                check("lock" in done.stderr, f"{command[0]} opened it: {done}")


# ---- a host that runs out ---------------------------------------------------------------------


def check_io_error(*arguments, **options):
    """The guest's write must fail, and the guest go on to tell us so."""
    status, out, err = run(*guest("test=blk"), *arguments, **options)
    check("status 1, not 0" in out or ": status 1" in out, f"{status}\n{out}\n{err}")
    check(0 < status < 124, f"the VM ended with {status}: {err}")


def test_a_full_file_system_under_a_disk_is_the_guests_io_error():
    with tempfile.TemporaryDirectory() as folder:
        wrap = in_own_mounts(f"mount -t tmpfs -o size=64k none {folder}\n"
                             f"truncate -s 16M {folder}/disk.raw")
        for aio in ("auto", "threads", "io_uring", "libaio"):
            check_io_error("--disk", f"{folder}/disk.raw,aio={aio}", wrap=wrap)


def test_a_limit_on_the_size_of_files_is_the_guests_io_error():
    with disk(16 << 20) as path:
        for aio in ("auto", "threads", "io_uring", "libaio"):
            check_io_error("--disk", f"{path},aio={aio}", wrap=["prlimit", "--fsize=4096"])


def test_output_that_cannot_be_written_is_a_warning():
    status, _, err = run(*guest(), "--serial", "file=/dev/full")
    equal(status, 0)
    check("warning: serial0" in err and "No space left" in err, err)
    began = time.monotonic()
    status, _, err = run(*guest("test=serial-storm count=500"), "--serial", "file=/dev/full")
    equal(status, 0)
    check(err.count("\n") < 10 + time.monotonic() - began, "it fills the host's logs")


def test_few_file_descriptors_are_an_error_and_no_crash():
    with disk() as path:
        seen = set()
        for n in range(3, 60):
            status, out, err = run(*guest(), "--rng", "--disk", path, "--net", "user", "--console",
                                   "none", wrap=["prlimit", f"--nofile={n}"])
            if "sanitizer" in err.lower() or "error while loading" in err:
                continue  # it did not even come to our program
            check(status in (0, 125), f"{n} descriptors: {status}: {err}")
            if status:
                equal(err.count("\n"), 1, err)
                check("Too many open files" in err, err)
            seen.add(status)
        equal(seen, {0, 125}, "what happened")


def test_too_little_address_space_is_an_error_and_no_crash():
    status, _, err = run(*guest(), "--memory", "8G", wrap=["prlimit", f"--as={4 << 30}"])
    if "anitizer" in err:
        raise Skip("a sanitizer needs the address space for itself")
    equal(status, 125)
    check("memory: reserve 8192 MiB" in err and "--memory" in err, err)


# ---- standard input and output -------------------------------------------------------------


def test_closed_standard_files_harm_nothing():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "disk")
        for closed in ("<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"):
            with open(path, "wb") as f:
                f.truncate(1 << 20)
            wrap = ["sh", "-c", f'exec "$@" {closed}', "sh"]
            equal(run(*guest(), "--disk", path, wrap=wrap)[0], 0, closed)
            with open(path, "rb") as f:
                check(not any(f.read()), f"{closed}: text went to the disk")


def test_a_reader_that_leaves_does_not_end_the_vm():
    with Vm(*guest("test=serial-storm count=500")) as vm:
        vm.expect("storm")
        vm.process.stdout.close()
        equal(vm.process.wait(60), 0)
        equal(vm.stderr(), "")


def test_a_full_standard_output_does_not_end_the_vm():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([hutch.HUTCH, "run", *guest()], stdin=subprocess.DEVNULL, stdout=full,
                              stderr=subprocess.PIPE, check=False)
    equal(done.returncode, 0)


def test_input_that_ends_does_not_end_the_vm():
    with Vm(*guest("test=serial-echo")) as vm:
        vm.expect("ready")
        vm.send("typed")
        vm.process.stdin.close()
        vm.expect("typed")
        check(vm.process.poll() is None, "it ended")


if __name__ == "__main__":
    hutch.main()
