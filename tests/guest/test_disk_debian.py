#!/usr/bin/env python3
"""What a stock kernel flushed is on disk: fio writes, each job ends with fsync and a word on
the console, the monitor is killed at some moment, and fio of the next boot verifies every
job that was said to be done.  Few kills, since where this machine's KVM runs no stock kernel
all of it is emulated; test_disk_crash.py makes the many."""
import os
import random
import re
import subprocess
import tempfile

import crash
import hutch
from hutch import check, equal, image
from linux import Linux

AREAS = 8  # of 4 MiB each, written in turn
KILLS = int(os.environ.get("HUTCH_CRASH_KILLS_DEBIAN", "2"))

PREPARE = ("mount -o ro /dev/vdb /mnt; mount -o bind /dev /mnt/dev; "
           "mount -t proc proc /mnt/proc; mount -t tmpfs tmp /mnt/tmp")
# Jobs go from area to area; the pattern has the job's number and each block's place.
JOB = f"""job() {{ chroot /mnt fio --thread --name=area --filename=/dev/vda --direct=1 --size=4M \
--offset=$(($1 % {AREAS} * 4194304)) --ioengine=libaio --iodepth=16 --bsrange=512-64k \
--rw=randwrite --randseed=$1 --verify=pattern --verify_pattern=0x$(printf %08x $1)%o \
--verify_fatal=1 $2 >/dev/null; }}"""


def boot(disk, options):
    vm = Linux("--memory", "384M", "--disk", f"{disk},{options}", "--disk",
               f"{image('fio', 'fio.raw')},readonly,format=raw").boot()
    vm.sh(PREPARE)
    vm.sh(JOB)
    return vm


def verify(vm, done):
    """The last job of each area that was said to be flushed, unless a later one may have begun
    in it."""
    latest = {job % AREAS: job for job in done}
    begun = (max(done, default=-1) + 1) % AREAS
    for area, job in latest.items():
        if area != begun:
            vm.sh(f"job {job} --verify_only=1", 120)
    return len(latest)


def survives(disk, options):
    """Kills, each after a while of writing; returns when all that was flushed was found."""
    done = []
    for _ in range(KILLS):
        with boot(disk, options) as vm:
            verify(vm, done)
            first = max(done, default=-1) + 1
            vm.send(f"n={first}; while job $n '--do_verify=0 --end_fsync=1'; do "
                    "echo \"flush\"\"ed $n.\"; n=$((n + 1)); done\n")
            for job in range(first, first + random.randint(2, AREAS + 4)):
                vm.expect(rf"flushed {job}\.", 120)
            vm.read(random.uniform(0, 1))
            vm.process.kill()
            vm.process.wait()
            while vm.read(1):
                pass
            done += [int(job) for job in re.findall(r"flushed (\d+)\.\r?\n", vm.text())]
        crash.wait_until_free(disk)
        if disk.endswith(".qcow2"):
            errors = subprocess.run(["qemu-img", "check", "-q", disk], stdout=subprocess.DEVNULL)
            check(errors.returncode in (0, 3), f"qemu-img check: status {errors.returncode}")
    with boot(disk, options) as vm:
        print(f"# {KILLS} kills, {len(done)} jobs, {verify(vm, done)} areas verified", flush=True)
        equal(vm.power_off(), 0)


def test_fio_verifies_on_a_raw_disk_what_it_flushed_before_a_kill():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(AREAS * 4 << 20)
        survives(disk, "cache=writeback")


def test_fio_verifies_on_a_qcow2_image_what_it_flushed_before_a_kill():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = os.path.join(folder, "disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(AREAS * 4 << 20)],
                       check=True)
        if not crash.hutch_opens_qcow2():
            raise hutch.Skip("this hutch does not write qcow2 images yet")
        survives(disk, "cache=writeback")


if __name__ == "__main__":
    hutch.main(stock_kernels=True, memory="2G", limit=900)
