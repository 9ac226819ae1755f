#!/usr/bin/env python3
"""qcow2 between hutch and QEMU: what the one writes the other reads, and both find it in
order.

INTEROP_IMAGES is the number of random images of each test (12; thousands by hand),
INTEROP_SEED the first one's seed.  A failure says the seed that shows it again.
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
import hutch  # noqa: E402  (the harness of the tests from outside)
import qcow2_damage as damage  # noqa: E402
import qcow2_images as q  # noqa: E402

IMAGES = int(os.environ.get("INTEROP_IMAGES", "24"))
SEED = int(os.environ.get("INTEROP_SEED", "1"))


def place():
    """Memory if there is enough of it: QEMU's tools wait for the disk a lot."""
    memory = "/dev/shm"
    if "TMPDIR" in os.environ:
        return os.environ["TMPDIR"]
    return memory if os.access(memory, os.W_OK) and \
        shutil.disk_usage(memory).free > 2 << 30 else "/var/tmp"


def scratch():
    return tempfile.TemporaryDirectory(dir=place(), prefix="hutch-interop-")


def test_random_images_are_the_same_to_hutch_and_to_qemu():
    with scratch() as folder:
        q.lives(folder, range(SEED, SEED + IMAGES))


# ---- what random images do not have --------------------------------------------------------


def test_what_was_flushed_survives_a_crash():
    def one(folder, seed):
        rng = random.Random(seed)
        image = q.Image(folder, rng)
        flushed = list(q.random_work(rng, image.size, image.cluster, 20))
        lost = list(q.random_work(rng, image.size, image.cluster, 20))
        image.options.pop("data_file_raw", None)  # what was lost may be in the raw file
        q.hutch(image.path, *q.hutch_lines(flushed), "flush", *q.hutch_lines(lost), "crash")
        q.apply_work(image.model, flushed)
        for what, offset, length, _ in lost:
            if what not in ("flush", "copyup"):
                image.model.discard(offset, length)
        found = q.qemu_check(image.path)
        if image.options.get("lazy_refcounts") != "on":
            hutch.equal(found.get("corruptions", 0), 0, "errors after a crash")
        if seed % 2:
            q.hutch(image.path, "flush")  # opens it for writing, which repairs
        else:
            q.run("qemu-img", "check", "-q", "-r", "all", image.path)
            q.run("qemu-io", "-f", "qcow2", "-c", "flush", image.path)
        q.hutch_check(image.path, "leaks")
        image.verify()

    for_each_seed(one)


def test_a_chain_of_images_with_relative_names_is_read_as_qemu_reads_it():
    def one(folder, seed):
        rng = random.Random(seed)
        sub = os.path.join(folder, "below")
        os.mkdir(sub)
        sizes = [512 * rng.randint(1, 8 << 11) for _ in range(4)]
        with open(os.path.join(sub, "0.raw"), "wb") as f:
            f.write(rng.randbytes(sizes[0]))
        names = ["0.raw", "1.qcow2", "2.qcow2"]
        for i in (1, 2):
            q.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", names[i - 1], "-F",
                  names[i - 1].split(".")[1], os.path.join(sub, names[i]), str(sizes[i]))
            work = list(q.random_work(rng, sizes[i], 65536, 6))
            q.run("qemu-io", "-f", "qcow2", *q.qemu_commands(work), os.path.join(sub, names[i]))
        top = os.path.join(folder, "top.qcow2")
        q.run(q.IMAGE_IO, "--create", f"{top},size={sizes[3]},backing_file=below/2.qcow2,"
              "backing_fmt=qcow2")
        work = list(q.random_work(rng, sizes[3], 65536, 12))
        q.hutch(top, *q.hutch_lines(work))
        dump = os.path.join(folder, "dump.raw")
        q.hutch(top, f"dump {dump}", options=",readonly")
        q.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", dump, top, cwd="/")
        hutch.equal(os.path.getsize(dump), sizes[3], "size")

    for_each_seed(one, IMAGES // 3)


def test_images_packed_by_qemu_are_read():
    def one(folder, seed):
        rng = random.Random(seed)
        raw, packed, dump = (os.path.join(folder, name) for name in
                             ("a.raw", "a.qcow2", "b.raw"))
        with open(raw, "wb") as f:
            for _ in range(rng.randint(1, 60)):
                f.write(rng.choice([rng.randbytes(30000), bytes(70000),
                                    bytes([rng.randrange(256)]) * 50000]))
            f.truncate(-(-f.tell() // 512) * 512)
        options = f"cluster_size={1 << rng.randint(9, 21)},compression_type=" + \
            rng.choice(["zlib", "zstd"])
        q.run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", options, raw, packed)
        q.same_check(packed)
        q.hutch(packed, f"dump {dump}", options=",readonly")
        q.run("cmp", raw, dump)
        # Written over: some of the packed clusters share their host cluster with others.
        work = list(q.random_work(rng, os.path.getsize(raw), 65536, 20))
        q.hutch(packed, *q.hutch_lines(work), f"dump {dump}")
        q.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", dump, packed)
        found = q.same_check(packed)
        hutch.equal((found["corruptions"], found["leaks"]), (0, 0), "errors and leaks")

    for_each_seed(one, IMAGES // 2)


def test_a_disk_of_16_tib_is_written_checked_and_snapshot():
    with scratch() as folder:
        path, end = os.path.join(folder, "large.qcow2"), 16 << 40
        q.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(end))
        places = [0, 1 << 40, 5 << 40, end - 65536]
        q.hutch(path, *(f"write {i + 1} {at} 65536" for i, at in enumerate(places)),
                "snapshot one", *(f"write 99 {at} 512" for at in places))
        for i, at in enumerate(places):
            q.run("qemu-io", "-f", "qcow2", "-r", "-c", f"read -P 99 {at} 512",
                  "-c", f"read -P {i + 1} {at + 512} 1024", path)
        q.same_check(path)
        q.hutch(path, "apply one", "delete one")
        for i, at in enumerate(places):
            q.run("qemu-io", "-f", "qcow2", "-r", "-c", f"read -P {i + 1} {at} 65536", path)
        found = q.same_check(path)
        hutch.equal((found["corruptions"], found["leaks"]), (0, 0), "errors and leaks")


def monitor(path, *commands):
    """What QEMU does at its monitor, with the image as the disk of a VM."""
    if not shutil.which("qemu-system-x86_64"):
        raise hutch.Skip("qemu-system-x86_64 is not installed")
    return q.run("qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-S",
                 "-m", "16M", "-monitor", "stdio", "-drive", f"file={path},if=virtio",
                 stdin="\n".join(commands) + "\nquit\n")


def test_a_snapshot_with_the_state_of_a_vm_is_kept_intact():
    with scratch() as folder:
        path = os.path.join(folder, "vm.qcow2")
        q.run("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
        q.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 8M", path)
        monitor(path, "savevm state")
        listed = q.hutch(path, "snapshots").split("\t")
        hutch.check(int(listed[2]) > 100000, f"a state of {listed[2]} bytes")
        q.same_check(path)
        q.hutch(path, "write 2 0 4194304", "snapshot other", "resize 67108864",
                "write 3 8388608 8388608", "delete other")
        found = q.same_check(path)
        hutch.equal((found["corruptions"], found["leaks"]), (0, 0), "errors and leaks")
        said = monitor(path, "loadvm state", "info snapshots")
        hutch.check("Error" not in said and "state" in said, said)
        q.hutch(path, "apply state")
        q.run("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 1 0 8M", path)
        monitor(path, "loadvm state")
        q.hutch(path, "delete state")
        found = q.same_check(path)
        hutch.equal((found["corruptions"], found["leaks"]), (0, 0), "errors and leaks")


def test_bitmaps_are_counted_and_survive_a_repair():
    with scratch() as folder:
        path = os.path.join(folder, "bitmaps.qcow2")
        q.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "64M")
        q.run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, "first")
        q.run("qemu-img", "bitmap", "--add", "-g", "512", "-f", "qcow2", path, "second")
        q.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 8M", path)
        found = q.same_check(path)
        hutch.equal((found["corruptions"], found["leaks"]), (0, 0), "errors and leaks")
        with damage.File(path) as f:
            damage.lost_refcounts(f, None)
        told = q.hutch_check(path, "all")
        hutch.equal((told["corruptions"], told["leaks"]), (0, 0), "errors and leaks")
        q.same_check(path)
        info = q.run("qemu-img", "info", path)
        hutch.check("first" in info and "second" in info, info)
        q.run("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 1 1M 8M", path)


# ---- damage and repair --------------------------------------------------------------------


def worked_on(folder, seed):
    """An image with some life behind it."""
    rng = random.Random(seed)
    image = q.Image(folder, rng)
    for _ in range(2):
        image.work("hutch")
        image.snapshot("hutch")
    image.work("qemu")
    image.verify()
    return image, rng


def for_each_seed(fn, images=IMAGES):
    for seed in range(SEED, SEED + images):
        with scratch() as folder:
            try:
                fn(folder, seed)
            except (q.Failed, subprocess.TimeoutExpired, AssertionError) as e:
                raise q.Failed(f"INTEROP_SEED={seed}: {e}") from None


def repaired_by_hutch(image, what):
    """Repairs, and then QEMU has nothing to say either."""
    told = q.hutch_check(image.path, "all")
    after = q.qemu_check(image.path)
    for key in ("corruptions", "leaks"):
        hutch.equal(told[key], 0, f"{what}: {key} that hutch says are left")
        hutch.equal(after.get(key, 0), 0, f"{what}: {key} that qemu-img finds")


def test_damage_to_refcounts_is_found_as_qemu_finds_it_and_repaired_without_loss():
    def one(folder, seed):
        image, rng = worked_on(folder, seed)
        for how in rng.sample(damage.HARMLESS, 2):
            with damage.File(image.path) as f:
                how(f, rng)
            q.same_check(image.path)
            repaired_by_hutch(image, how.__name__)
            image.verify()

    for_each_seed(one)


def test_leaks_alone_are_repaired_in_place():
    def one(folder, seed):
        image, rng = worked_on(folder, seed)
        with damage.File(image.path) as f:
            damage.leak(f, rng)
        leaks = q.same_check(image.path)["leaks"]
        told = q.hutch_check(image.path, "leaks")
        hutch.equal((told["leaks-fixed"], told["leaks"]), (leaks, 0), "leaks fixed, and left")
        image.verify()

    for_each_seed(one, IMAGES // 3)


def test_a_lost_refcount_table_is_made_anew_without_loss():
    def one(folder, seed):
        image, rng = worked_on(folder, seed)
        for how in damage.REFCOUNTS:
            with damage.File(image.path) as f:
                how(f, rng)
            hutch.check(q.hutch_check(image.path)["corruptions"], "nothing was found")
            repaired_by_hutch(image, how.__name__)
            image.verify()

    for_each_seed(one, IMAGES // 2)


def test_entries_that_lead_nowhere_are_found_and_taken_out():
    def one(folder, seed):
        image, rng = worked_on(folder, seed)
        how = rng.choice(damage.HARMFUL)
        with damage.File(image.path) as f:
            if not how(f, rng):
                return
        hutch.check(q.hutch_check(image.path)["corruptions"], f"{how.__name__}: not found")
        repaired_by_hutch(image, how.__name__)
        dump = os.path.join(folder, "dump.raw")
        q.hutch(image.path, f"dump {dump}", options=",readonly")
        q.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", dump, image.path)

    for_each_seed(one)


if __name__ == "__main__":
    hutch.main()
