/* Requests to a qcow2 image against a flat model: whatever is written, zeroed, discarded,
 * copied up, flushed, snapshot, resized, in whatever order, with crashes in between that
 * lose what was cached, is read back; and the file stays in order.
 *
 * Input: a byte each for the cluster size, the options, the cache; then steps of 4 bytes:
 * what, where (2), how much. */
#include <stdlib.h>

#include "src/block/qcow2_private.h"
#include "tests/unit/backend/memfile.h"
#include "tests/unit/backend/qcow2_judge.h"
#include "util/log.h"

enum { SECTOR = 512, MAX_SECTORS = 1024, MAX_STEPS = 200, MAX_SNAPSHOTS = 4 };
enum { HEADER = 3, STEP = 4 };
enum { WITH_LAZY = 1, WITH_EXTENDED = 2, WITH_VERSION_2 = 4, WITH_BACKING = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a sector may read as: the stamp of who wrote it last; since the last flush (or a
 * discard), that of anyone before, too. */
typedef struct Sector {
    uint32_t stamp;
    uint32_t maybe[6];
    uint8_t n_maybe; /* more than there is room for: anything */
} Sector;

typedef struct Model {
    uint32_t n;
    Sector at[MAX_SECTORS];
} Model;

typedef struct Target {
    MemFile *m, *below;
    BlockImage *img;
    unsigned options, cluster_bits;
    uint64_t cache;
    Model now;
    Model snapshots[MAX_SNAPSHOTS];
    bool taken[MAX_SNAPSHOTS];
    uint32_t stamp;
} Target;

static void promise(bool kept)
{
    if (!kept)
        abort();
}

/* ---- the model -----------------------------------------------------------------------
 */

static void set(Sector *s, uint32_t stamp)
{
    if (s->n_maybe < G_N_ELEMENTS(s->maybe))
        s->maybe[s->n_maybe] = s->stamp;
    s->n_maybe = (uint8_t)MIN(s->n_maybe + 1, 100);
    s->stamp = stamp;
}

static bool may_be(const Sector *s, uint32_t stamp, bool crashed)
{
    if (s->stamp == stamp)
        return true;
    /* 0x80 in stamp: a discard, which leaves the old contents or zeroes. */
    if (!crashed && !(s->stamp & BIT(31)))
        return false;
    if (s->n_maybe > G_N_ELEMENTS(s->maybe))
        return true;
    for (unsigned i = 0; i < s->n_maybe; i++)
        if (s->maybe[i] == stamp || (s->maybe[i] & BIT(31)))
            return true;
    return stamp == 0;
}

/* What is there now is on the disk. */
static void settle(Target *t)
{
    for (uint32_t i = 0; i < t->now.n; i++)
        t->now.at[i].n_maybe = 0;
}

/* Reads all of it, and from now on it is what was read; though a crash may still bring
 * back what was before. */
static void verify(Target *t, bool crashed)
{
    static uint32_t disk[MAX_SECTORS][SECTOR / 4];

    promise(image_size(t->img) == (uint64_t)t->now.n * SECTOR);
    promise(image_read(t->img, 0, disk, (size_t)t->now.n * SECTOR) == 0);
    for (uint32_t i = 0; i < t->now.n; i++) {
        Sector *s = &t->now.at[i];

        promise(disk[i][0] == disk[i][SECTOR / 4 - 1]);
        promise(may_be(s, disk[i][0], crashed));
        s->stamp = disk[i][0];
    }
    if (crashed)
        settle(t);
}

static void in_order(const Target *t)
{
    Verdict v = judge(t->m->bytes->data, t->m->bytes->len);

    promise(!v.errors || v.dirty);
}

/* ---- opening and closing -------------------------------------------------------------
 */

static BlockImage *open_below(Target *t)
{
    BlockImage *img;

    if (!t->below)
        return NULL;
    img = g_new0(BlockImage, 1);
    img->path = g_strdup("below.raw");
    img->readonly = true;
    img->file = mem_file(t->below, true);
    img->format = &raw_format;
    img->size = img->file->size;
    return img;
}

static void open_it(Target *t)
{
    const BlockOptions options = {.cache_size = t->cache};

    t->img = mem_open(t->m, &options, 0, NULL);
    promise(t->img != NULL);
    t->img->backing = open_below(t);
}

static void reopen(Target *t)
{
    promise(image_close(t->img, NULL));
    in_order(t);
    open_it(t);
    verify(t, false);
    settle(t);
}

/* What was in memory is gone. */
static void crash(Target *t)
{
    qcow2_of(t->img)->broken = true; /* so that closing writes nothing */
    image_free(t->img);
    in_order(t);
    open_it(t);
    verify(t, true);
}

static void create(Target *t)
{
    ImageCreate how = {
        .path = (char *)"memory.qcow2",
        .size = (uint64_t)t->now.n * SECTOR,
        .cluster_size = BIT64(t->cluster_bits),
        .refcount_bits = 16,
        .compat = t->options & WITH_VERSION_2 ? IMAGE_COMPAT_0_10 : IMAGE_COMPAT_1_1,
    };
    BlockFile *f;

    if (!(t->options & WITH_VERSION_2)) {
        how.refcount_bits = BIT64(3 + (t->options >> 4) % 4);
        how.lazy_refcounts = t->options & WITH_LAZY;
        how.extended_l2 = (t->options & WITH_EXTENDED) && t->cluster_bits >= 14;
    }
    if (t->options & WITH_BACKING) {
        static const uint32_t full[SECTOR / 4] = {[0 ... SECTOR / 4 - 1] = 0x7777};

        t->below = mem_new();
        for (uint32_t i = 0; i < t->now.n / 2 + 3; i++)
            g_byte_array_append(t->below->bytes, (const uint8_t *)full, SECTOR);
        for (uint32_t i = 0; i < MIN(t->now.n, t->now.n / 2 + 3); i++)
            t->now.at[i].stamp = 0x7777;
    }
    f = mem_file(t->m, false);
    promise(qcow2_create(f, &how, NULL));
    block_file_close(f);
    open_it(t);
}

/* ---- steps ---------------------------------------------------------------------------
 */

static void write_range(Target *t, uint32_t first, uint32_t n, bool compressed)
{
    static uint32_t buf[MAX_SECTORS * SECTOR / 4];
    uint32_t cluster = (uint32_t)(BIT64(t->cluster_bits) / SECTOR), stamp = ++t->stamp;
    int err;

    if (compressed) {
        first = first / cluster * cluster;
        n = MIN(cluster, t->now.n - first);
    }
    for (uint32_t i = 0; i < n * SECTOR / 4; i++)
        buf[i] = stamp;
    err = compressed
              ? image_write_compressed(t->img, (uint64_t)first * SECTOR, buf,
                                       (size_t)n * SECTOR)
              : image_write(t->img, (uint64_t)first * SECTOR, buf, (size_t)n * SECTOR);
    promise(compressed || err == 0); /* compressed ones only where nothing is yet */
    for (uint32_t i = 0; err == 0 && i < n; i++)
        set(&t->now.at[first + i], stamp);
}

static void change_range(Target *t, unsigned what, uint32_t first, uint32_t n)
{
    uint64_t offset = (uint64_t)first * SECTOR, len = (uint64_t)n * SECTOR;

    if (what == 2) {
        promise(image_discard(t->img, offset, len) == 0);
        for (uint32_t i = 0; i < n; i++)
            set(&t->now.at[first + i], BIT(31));
        return;
    }
    promise(image_zero(t->img, offset, len, what) == 0);
    for (uint32_t i = 0; i < n; i++)
        set(&t->now.at[first + i], 0);
}

static void flush(Target *t)
{
    promise(image_flush(t->img) == 0);
    verify(t, false);
    settle(t);
}

static void snapshot(Target *t, unsigned which, bool apply)
{
    char name[] = {'s', (char)('a' + which), 0};

    flush(t); /* as a snapshot does itself */
    if (!t->taken[which]) {
        promise(image_snapshot_create(t->img, name, NULL));
        t->snapshots[which] = t->now;
        t->taken[which] = true;
    } else if (apply) {
        promise(image_snapshot_apply(t->img, name, NULL));
        t->now = t->snapshots[which];
    } else {
        promise(image_snapshot_delete(t->img, name, NULL));
        t->taken[which] = false;
    }
    in_order(t);
}

static void resize(Target *t, uint32_t n)
{
    bool any = false;

    for (unsigned i = 0; i < MAX_SNAPSHOTS; i++)
        any |= t->taken[i];
    n = 1 + n % MAX_SECTORS;
    if (any && n < t->now.n && (t->options & WITH_VERSION_2))
        return;
    verify(t, false);
    promise(image_resize(t->img, (uint64_t)n * SECTOR, NULL));
    for (uint32_t i = t->now.n; i < n; i++)
        t->now.at[i] = (Sector){0};
    t->now.n = n;
}

static void step(Target *t, const uint8_t *s)
{
    uint32_t first = load_le16(s + 1) % t->now.n;
    uint32_t n = MIN(1u + (s[3] & 0x80 ? (s[3] & 0x7f) * 4 : s[3] % 16),
                     t->now.n - first);

    switch (s[0] % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
        write_range(t, first, n, false);
        break;
    case 4:
        write_range(t, first, n, true);
        break;
    case 5:
    case 6:
    case 7:
        change_range(t, s[0] % 16 - 5, first, n);
        break;
    case 8:
        promise(image_copy_up(t->img, (uint64_t)first * SECTOR, (uint64_t)n * SECTOR) ==
                0);
        break;
    case 9:
        flush(t);
        break;
    case 10:
        verify(t, false);
        break;
    case 11:
        reopen(t);
        break;
    case 12:
        snapshot(t, s[1] % MAX_SNAPSHOTS, s[2] & 1);
        break;
    case 13:
        resize(t, load_le16(s + 1));
        break;
    case 14:
        crash(t);
        break;
    default: /* what a check says of it, once all is written */
        promise(image_flush(t->img) == 0);
        in_order(t);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Target target;
    Target *t = &target;
    size_t n = 0;

    if (size < HEADER)
        return 0;
    log_set_level(LOG_ERROR);
    memset(t, 0, sizeof(*t));
    t->m = mem_new();
    t->cluster_bits = 9 + data[0] % 9;
    t->options = data[1];
    t->cache = data[2] & 1 ? 256 * KIB : 4096 * (1 + data[2] / 16);
    t->now.n = 64 + (data[2] & 0x0e) * 64;
    create(t);
    for (size_t at = HEADER; at + STEP <= size && n < MAX_STEPS; at += STEP, n++)
        step(t, data + at);
    verify(t, false);
    promise(image_close(t->img, NULL));
    in_order(t);
    mem_free(t->m);
    if (t->below)
        mem_free(t->below);
    return 0;
}
