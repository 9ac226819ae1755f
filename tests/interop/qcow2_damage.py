"""Takes qcow2 files apart, to damage them: what a bug, a lost write or malice would leave."""
import os
import struct

OFFSET = 0x00fffffffffffe00
COPIED, PACKED, ZERO = 1 << 63, 1 << 62, 1


class File:
    """A qcow2 file, by its fields."""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR)
        head = self.read(0, 112)
        self.version, = struct.unpack_from(">I", head, 4)
        self.cluster_bits, = struct.unpack_from(">I", head, 20)
        self.cluster = 1 << self.cluster_bits
        self.l1_entries, self.l1 = struct.unpack_from(">IQ", head, 36)
        self.reftable, self.reftable_clusters, self.n_snapshots, self.snapshots = \
            struct.unpack_from(">QIIQ", head, 48)
        self.incompatible = struct.unpack_from(">Q", head, 72)[0] if self.version > 2 else 0
        self.order = struct.unpack_from(">I", head, 96)[0] if self.version > 2 else 4
        self.entry = 16 if self.incompatible & 16 else 8

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def read(self, offset, length):
        return os.pread(self.fd, length, offset).ljust(length, b"\0")

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def get(self, offset):
        return struct.unpack(">Q", self.read(offset, 8))[0]

    def put(self, offset, value):
        self.write(offset, struct.pack(">Q", value))

    def clusters(self):
        return -(-os.fstat(self.fd).st_size // self.cluster)

    # ---- where entries are

    def l1_slots(self):
        """Offsets of the entries in use."""
        return [self.l1 + 8 * i for i in range(self.l1_entries) if self.get(self.l1 + 8 * i)]

    def l2_slots(self):
        slots = []
        for slot in self.l1_slots():
            table = self.get(slot) & OFFSET
            data = self.read(table, self.cluster)
            for i in range(0, self.cluster, self.entry):
                value, = struct.unpack_from(">Q", data, i)
                if value & OFFSET and not value & PACKED:
                    slots.append(table + i)
        return slots

    def block_slots(self):
        count = self.reftable_clusters * self.cluster // 8
        return [self.reftable + 8 * i for i in range(count) if self.get(self.reftable + 8 * i)]

    # ---- refcounts

    def refcount_at(self, cluster):
        """(offset of the byte, shift) of a stored refcount; None: it has no block."""
        per_block = self.cluster * 8 >> self.order
        block = self.get(self.reftable + 8 * (cluster // per_block))
        bit = (cluster % per_block) << self.order
        return (block + bit // 8, bit % 8) if block else None

    def get_refcount(self, cluster):
        where = self.refcount_at(cluster)
        if not where:
            return 0
        size = max(1, (1 << self.order) // 8)
        value = int.from_bytes(self.read(where[0], size), "big")
        return value >> where[1] & ((1 << (1 << self.order)) - 1) if self.order < 3 else value

    def put_refcount(self, cluster, value):
        where = self.refcount_at(cluster)
        size = max(1, (1 << self.order) // 8)
        if self.order < 3:
            mask = ((1 << (1 << self.order)) - 1) << where[1]
            value = self.read(where[0], 1)[0] & ~mask | value << where[1]
        self.write(where[0], value.to_bytes(size, "big"))

    def max_refcount(self):
        return (1 << (1 << self.order)) - 1


# ---- ways to damage one ------------------------------------------------------------------
# Each returns False if there is nothing to damage in this way.


def leak(f, rng):
    """Clusters in use once more than they are."""
    done = False
    for _ in range(rng.randint(1, 5)):
        cluster = rng.randrange(f.clusters())
        if f.refcount_at(cluster) and f.get_refcount(cluster) < f.max_refcount():
            f.put_refcount(cluster, f.get_refcount(cluster) + 1)
            done = True
    return done


def low_refcount(f, rng):
    used = [c for c in range(f.clusters()) if f.get_refcount(c) > 0]
    for cluster in rng.sample(used, min(len(used), rng.randint(1, 5))):
        f.put_refcount(cluster, f.get_refcount(cluster) - 1)
    return True


def wrong_copied(f, rng):
    """The flag that says whether a cluster may be written in place."""
    slots = f.l2_slots() + f.l1_slots()
    for slot in rng.sample(slots, min(len(slots), rng.randint(1, 5))):
        f.put(slot, f.get(slot) ^ COPIED)
    return bool(slots)


def lost_refcounts(f, rng):
    """As after a crash with lazy refcounts."""
    for slot in f.block_slots():
        f.write(f.get(slot), bytes(f.cluster))
    return True


def lost_block(f, rng):
    slots = f.block_slots()
    f.put(rng.choice(slots), rng.choice([0, 0, (1 << 40) & ~(f.cluster - 1),
                                         f.cluster + 512 if f.cluster > 512 else 1 << 40]))
    return True


def lost_reftable(f, rng):
    f.write(f.reftable, os.urandom(64))
    return True


def shared_data(f, rng):
    """Two guest clusters in one place."""
    slots = f.l2_slots()
    if len(slots) < 2 or f.incompatible & 4:
        return False
    one, other = rng.sample(slots, 2)
    f.put(one, f.get(other))
    return True


def data_beyond_end(f, rng):
    slots = f.l2_slots()
    if not slots or f.incompatible & 4:
        return False
    f.put(rng.choice(slots), COPIED | (f.clusters() + rng.randint(0, 1000)) * f.cluster)
    return True


def unaligned_data(f, rng):
    slots = f.l2_slots()
    if not slots or f.cluster == 512 or f.incompatible & 4:
        return False
    slot = rng.choice(slots)
    f.put(slot, f.get(slot) + 512)
    return True


def data_in_metadata(f, rng):
    slots = f.l2_slots()
    if not slots or f.incompatible & 4:
        return False
    f.put(rng.choice(slots), COPIED | rng.choice(
        [f.l1, f.reftable, *[f.get(s) & OFFSET for s in f.l1_slots() + f.block_slots()]]))
    return True


def table_beyond_end(f, rng):
    slots = f.l1_slots()
    if not slots:
        return False
    f.put(rng.choice(slots), COPIED | (f.clusters() + 5) * f.cluster)
    return True


def reserved_bits(f, rng):
    slots = f.l2_slots()
    if not slots:
        return False
    slot = rng.choice(slots)
    f.put(slot, f.get(slot) | 1 << rng.choice([2, 5, 8, 57, 60]))
    return True


# After these hutch and qemu-img count the same, and nothing of the guest's is lost.
HARMLESS = [leak, low_refcount, wrong_copied, lost_refcounts]
# After these the refcounts are made anew, and nothing of the guest's is lost.
REFCOUNTS = [lost_block, lost_reftable]
# After these some of the guest's data are lost.
HARMFUL = [shared_data, data_beyond_end, unaligned_data, data_in_metadata, table_beyond_end,
           reserved_bits]
