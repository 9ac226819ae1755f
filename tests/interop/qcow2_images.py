"""What the interop tests are made of: random qcow2 options, workloads on hutch's side and on
QEMU's, and a flat model of what has to be read back."""
import json
import os
import random
import subprocess

IMAGE_IO = os.environ.get("IMAGE_IO")
KIB, MIB = 1024, 1024 * 1024


class Failed(AssertionError):
    pass


def run(*command, stdin="", cwd=None):
    """Standard output of a program that has to succeed."""
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, cwd=cwd,
                          stderr=subprocess.PIPE, text=True, errors="replace", timeout=300)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{stdin[-3000:]}\n"
                     f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def hutch(path, *lines, how=(), options=""):
    return run(IMAGE_IO, *how, path + options, stdin="\n".join(lines) + "\n")


def qemu_check(path):
    """The figures of `qemu-img check`, whose status tells of errors and leaks too."""
    done = subprocess.run(["qemu-img", "check", "--output=json", path], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if not done.stdout.startswith("{"):
        raise Failed(f"qemu-img check {path}: {done.stderr}")
    return json.loads(done.stdout)


FIGURES = ["corruptions", "leaks", "allocated-clusters", "total-clusters",
           "compressed-clusters", "fragmented-clusters", "image-end-offset"]


def hutch_check(path, repair="none"):
    return json.loads(hutch(path, f"check {repair}", how=["--check"]))


def same_check(path):
    """Both find the same; the figures."""
    theirs, ours = qemu_check(path), hutch_check(path)
    for key in FIGURES:
        if theirs.get(key, 0) != ours[key]:
            raise Failed(f"{path}: {key}: qemu-img says {theirs.get(key, 0)}, "
                         f"hutch says {ours[key]}")
    return ours


# ---- options ----------------------------------------------------------------------------


def random_options(rng):
    """Options of `qemu-img create -f qcow2`, as a dict; those that exclude each other do not
    come together."""
    o = {"compat": rng.choice(["0.10", "1.1", "1.1", "1.1"])}
    o["cluster_size"] = 1 << rng.choice([9, 10, 12, 12, 14, 16, 16, 16, 18, 21])
    if o["compat"] == "1.1":
        o["refcount_bits"] = 1 << rng.choice([0, 1, 2, 3, 4, 4, 4, 5, 6])
        if rng.random() < 0.25:
            o["lazy_refcounts"] = "on"
        if rng.random() < 0.3:
            o["extended_l2"] = "on"
            o["cluster_size"] = max(o["cluster_size"], 16 * KIB)
        if rng.random() < 0.15:
            o["data_file"] = True
            if rng.random() < 0.5:
                o["data_file_raw"] = "on"
        if rng.random() < 0.4:
            o["compression_type"] = rng.choice(["zlib", "zstd"])
    if "data_file_raw" not in o and rng.random() < 0.4:
        o["backing"] = rng.choice(["raw", "qcow2"])
    if rng.random() < 0.25 and ("backing" not in o or "extended_l2" in o):
        o["preallocation"] = rng.choice(["metadata", "falloc", "full"])
    return o


def spell(options, folder, name):
    """As -o has them."""
    words = []
    for key, value in options.items():
        if key == "data_file":
            value = os.path.join(folder, name + ".data")
        if key != "backing":
            words.append(f"{key}={value}")
    return ",".join(words)


# ---- the model --------------------------------------------------------------------------


class Flat:
    """A disk's bytes.  `loose` are ranges that were discarded, which may read as anything."""

    def __init__(self, size, data=b""):
        self.data = bytearray(data[:size]) + bytearray(max(0, size - len(data)))
        self.loose = []

    def copy(self):
        other = Flat(0)
        other.data, other.loose = bytearray(self.data), list(self.loose)
        return other

    def write(self, offset, length, byte):
        self.data[offset:offset + length] = bytes([byte]) * length
        kept = []
        for start, end in self.loose:
            if start < offset:
                kept.append((start, min(end, offset)))
            if end > offset + length:
                kept.append((max(start, offset + length), end))
        self.loose = kept

    def discard(self, offset, length):
        self.loose.append((offset, offset + length))

    def resize(self, size):
        old = len(self.data)
        del self.data[size:]
        self.data += bytes(max(0, size - old))
        self.loose = [(s, min(e, size)) for s, e in self.loose if s < size]

    def settle(self, got, what):
        """`got` has to be it; where it may be anything, it is that from now on."""
        if len(got) != len(self.data):
            raise Failed(f"{what}: {len(got)} bytes instead of {len(self.data)}")
        for start, end in self.loose:
            self.data[start:end] = got[start:end]
        self.loose = []
        if got != self.data:
            at = next(i for i in range(len(got)) if got[i] != self.data[i])
            raise Failed(f"{what}: byte {at:#x} is {got[at]}, and should be {self.data[at]}")


# ---- workloads --------------------------------------------------------------------------


def random_range(rng, size, cluster):
    """Sectors, mostly; often at the edges of clusters."""
    grain = rng.choice([512, 512, 4096, cluster, cluster])
    length = min(size, grain * rng.randint(1, rng.choice([1, 4, 16])), 4 * MIB)
    offset = rng.randrange(0, size - length + 1)
    offset -= offset % grain if rng.random() < 0.8 else offset % 512
    return offset, length - length % 512 or min(512, size)


def random_work(rng, size, cluster, count):
    """(what, offset, length, byte) to be done in this order."""
    for _ in range(count):
        what = rng.choices(["write", "zero", "unmap", "discard", "copyup", "flush"],
                           [50, 12, 12, 14, 6, 6])[0]
        yield what, *random_range(rng, size, cluster), rng.randint(1, 255)


def apply_work(model, work):
    for what, offset, length, byte in work:
        if what in ("write", "compressed"):
            model.write(offset, length, byte)
        elif what in ("zero", "unmap"):
            model.write(offset, length, 0)
        elif what == "discard":
            model.discard(offset, length)


def hutch_lines(work):
    for what, offset, length, byte in work:
        if what in ("write", "compressed"):
            yield f"{what} {byte} {offset} {length}"
        else:
            yield what if what == "flush" else f"{what} {offset} {length}"


def qemu_commands(work):
    """For qemu-io."""
    names = {"write": "write -P {byte}", "compressed": "write -c -P {byte}", "zero": "write -z",
             "unmap": "write -z -u", "discard": "discard"}
    for what, offset, length, byte in work:
        if what in names:
            yield from ["-c", f"{names[what].format(byte=byte)} {offset} {length}"]
        elif what == "flush":
            yield from ["-c", "flush"]


class Image:
    """One image, worked on by both."""

    def __init__(self, folder, rng, name="disk.qcow2"):
        self.folder, self.rng, self.name = folder, rng, name
        self.path = os.path.join(folder, name)
        self.options = random_options(rng)
        self.cluster = self.options["cluster_size"]
        limit = 24 * MIB if self.cluster >= 4 * KIB else 2 * MIB
        self.size = 512 * rng.randint(1, limit // 512)
        self.model = Flat(self.size)
        self.snapshots = {}
        self.shrunk_by = None
        self.log = [f"options {self.options}, size {self.size}"]
        self.create()

    def note(self, text):
        self.log.append(text)

    def make_backing(self):
        size = 512 * self.rng.randint(1, 2 * self.size // 512)
        size = min(size, 32 * MIB)
        raw = os.path.join(self.folder, "base.raw")
        data = b"".join(bytes([self.rng.randrange(256)]) * (16 * KIB)
                        for _ in range(size // (16 * KIB) + 1))[:size]
        with open(raw, "wb") as f:
            f.write(data)
        self.model = Flat(self.size, data)
        if self.options["backing"] == "raw":
            return "base.raw"
        run("qemu-img", "convert", "-O", "qcow2", *self.rng.choice([[], ["-c"]]), raw,
            os.path.join(self.folder, "base.qcow2"))
        os.unlink(raw)
        return "base.qcow2"

    def create(self):
        spelled = spell(self.options, self.folder, self.name)
        backing = self.make_backing() if "backing" in self.options else None
        by = self.rng.choice(["qemu", "hutch"])
        self.note(f"created by {by}")
        if by == "qemu":
            extra = ["-b", backing, "-F", self.options["backing"]] if backing else []
            run("qemu-img", "create", "-q", "-f", "qcow2", "-o", spelled, *extra, self.path,
                str(self.size))
        else:
            extra = f",backing_file={backing},backing_fmt={self.options['backing']}" \
                if backing else ""
            run(IMAGE_IO, "--create", f"{self.path},size={self.size},{spelled}{extra}")

    # ---- work

    def compress(self, by):
        """Whole clusters, each once, before anything else is there."""
        clusters = list(range(self.size // self.cluster))
        self.rng.shuffle(clusters)
        work = [("compressed", i * self.cluster, self.cluster, self.rng.randint(1, 255))
                for i in clusters[:20]]
        self.do(by, work)

    def do(self, by, work):
        self.note(f"{by}: {work}")
        if by == "hutch":
            small = self.rng.choice(["", ",cache-size=65536"])
            hutch(self.path, *hutch_lines(work), options=small)
        else:
            run("qemu-io", "-f", "qcow2", "-d", "unmap", *qemu_commands(work), self.path)
        apply_work(self.model, work)

    def work(self, by):
        self.do(by, list(random_work(self.rng, self.size, self.cluster,
                                     self.rng.randint(3, 40))))

    def snapshot(self, by):
        if "data_file" in self.options or self.options.get("refcount_bits", 16) < 8:
            return
        action = self.rng.choice(["create", "create", "apply", "delete"])
        if action != "create" and not self.snapshots:
            action = "create"
        name = f"s{len(self.log)}" if action == "create" else \
            self.rng.choice(sorted(self.snapshots))
        self.note(f"{by}: snapshot {action} {name}")
        if by == "hutch":
            hutch(self.path, f"{'snapshot' if action == 'create' else action} {name}")
        else:
            run("qemu-img", "snapshot", f"-{action[0]}", name, self.path)
        if action == "create":
            self.snapshots[name] = self.model.copy()
        elif action == "delete":
            del self.snapshots[name]
        else:
            self.model = self.snapshots[name].copy()
            self.size = len(self.model.data)

    def resize(self, by):
        if self.options["compat"] == "0.10" and "backing" in self.options:
            by = "hutch"  # QEMU cannot where the backing image is longer
        if self.snapshots and self.options["compat"] == "0.10":
            return
        size = 512 * self.rng.randint(1, min(2 * self.size, 32 * MIB) // 512 + 1)
        self.note(f"{by}: resize {size}")
        if by == "hutch":
            hutch(self.path, f"resize {size}")
        else:
            run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", self.path, str(size))
        old, self.size = self.size, size
        self.model.resize(size)
        if size < old:
            self.shrunk_by = by
        elif by == "qemu" and self.shrunk_by == "qemu":  # the last cluster is as it was
            self.model.discard(old, min(size, -(-old // self.cluster) * self.cluster) - old)

    # ---- checks

    def verify(self):
        """All agree on what is read, and that the image is in order."""
        found = same_check(self.path)
        for key in ("corruptions", "leaks"):
            if found[key]:
                raise Failed(f"{self.path}: {found[key]} {key}")
        dump = os.path.join(self.folder, "dump.raw")
        hutch(self.path, f"dump {dump}", options=",readonly")
        with open(dump, "rb") as f:
            self.model.settle(f.read(), "read by hutch")
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", dump, self.path, cwd="/")
        if "data_file_raw" in self.options:
            with open(self.path + ".data", "rb") as f:
                self.model.settle(f.read(self.size), "the raw data file")

    def life(self, phases):
        if self.rng.random() < 0.3 and "preallocation" not in self.options \
                and "data_file" not in self.options:
            self.compress(self.rng.choice(["hutch", "qemu"]))
        for _ in range(phases):
            by = self.rng.choice(["hutch", "hutch", "qemu"])
            self.rng.choices([self.work, self.snapshot, self.resize], [6, 3, 1])[0](by)
            self.verify()


def lives(folder, seeds, phases=4):
    """Images from birth to their last check; a failure tells how to see it again."""
    for seed in seeds:
        sub = os.path.join(folder, str(seed))
        os.mkdir(sub)
        image = None
        try:
            image = Image.__new__(Image)
            image.log = []
            image.__init__(sub, random.Random(seed))
            image.life(phases)
        except (Failed, subprocess.TimeoutExpired) as e:
            raise Failed(f"INTEROP_SEED={seed}: {e}\n" + "\n".join(image.log[-8:])) from None
        subprocess.run(["rm", "-rf", sub], check=True)
