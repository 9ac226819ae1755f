/* A new qcow2 image.
 *
 * The layout is computed before anything is written, then written once, front to back:
 *
 *     header | refcount table | refcount blocks | L1 table | L2 tables | data
 *
 * the last two only with preallocation.  Nobody sees the file yet, so nothing here waits
 * for the disk, and what is all zeroes is a hole: an image without preallocation is three
 * small writes, whatever its size.  Who gives the file its name syncs it first, once. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "qcow2_header_private.h"
#include "util/fd.h"

enum { CHUNK = 1 * MIB };

/* "Feature name table": by bitmap (incompatible, compatible, autoclear) and bit. */
static const char *const feature_names[3][8] = {
    {"dirty bit", "corrupt bit", "external data file", "compression type",
     "extended L2 entries"},
    {"lazy refcounts"},
    {"bitmaps", "raw external data"},
};

/* In clusters, but for the sizes. */
typedef struct Layout {
    uint64_t reftable, reftable_n;
    uint64_t blocks, blocks_n;
    uint64_t l1, l1_n;
    uint64_t l2, l2_n;
    uint64_t data, data_n;
    uint64_t end;
} Layout;

typedef struct Maker {
    Qcow2 s; /* header and geometry; nothing else of it is in use */
    const ImageCreate *how;
    int preallocation;
    Layout at;
} Maker;

/* ---- is it possible? ----------------------------------------------------------- */

static bool check_how(const ImageCreate *how, GError **error)
{
    uint64_t least = how->extended_l2 ? BIT(14) : BIT(QCOW2_MIN_CLUSTER_BITS);

    if (!is_pow2(how->cluster_size) || how->cluster_size < least ||
        how->cluster_size > BIT(QCOW2_MAX_CLUSTER_BITS))
        return fail(error, VM_ERROR_INVALID,
                    "'%s': cluster_size must be a power of two from %" PRIu64 " to 2M%s",
                    how->path, least, how->extended_l2 ? " with extended_l2" : "");
    if (!is_pow2(how->refcount_bits) || how->refcount_bits > 64)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': refcount_bits must be 1, 2, 4, 8, 16, 32 or 64", how->path);
    if (how->compat == IMAGE_COMPAT_0_10 &&
        (how->refcount_bits != 16 || how->lazy_refcounts || how->extended_l2 ||
         how->data_file || how->compression != IMAGE_ZLIB))
        return fail(error, VM_ERROR_INVALID,
                    "'%s': compat=0.10 has refcounts of 16 bits and zlib only, and "
                    "neither lazy_refcounts, extended_l2 nor data_file: use compat=1.1",
                    how->path);
    if (how->data_file_raw && !how->data_file)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': data_file_raw is about a data_file, which is not given",
                    how->path);
    if (how->data_file_raw && how->backing)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': a raw data file shows all there is, so there cannot be a "
                    "backing image as well: leave out data_file_raw or backing_file",
                    how->path);
    if (how->backing && how->preallocation != IMAGE_PREALLOC_OFF && !how->extended_l2)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': preallocation would hide the backing image: it is possible "
                    "with extended_l2=on only",
                    how->path);
    return true;
}

/* ---- the layout ---------------------------------------------------------------- */

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + !!(a % b);
}

static bool set_layout(Maker *m, GError **error)
{
    const ImageCreate *how = m->how;
    Qcow2 *s = &m->s;
    Layout *at = &m->at;
    uint64_t per_block = (uint64_t)s->cluster_size * 8 / how->refcount_bits;
    uint64_t l1_entries = MAX(qcow2_l1_entries(s, how->size), 1);

    if (l1_entries * 8 > QCOW2_MAX_L1_BYTES)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': %" PRIu64 " bytes are too many for clusters of %u: choose a "
                    "larger cluster_size",
                    how->path, how->size, s->cluster_size);
    at->l1_n = div_up(l1_entries * 8, s->cluster_size);
    if (m->preallocation != IMAGE_PREALLOC_OFF) {
        at->l2_n = l1_entries;
        at->data_n = how->data_file ? 0 : div_up(how->size, s->cluster_size);
    }
    /* Blocks also count themselves and the table, whose sizes depend on their number. */
    at->blocks_n = at->reftable_n = 1;
    for (;;) {
        uint64_t blocks, clusters;

        at->end = 1 + at->reftable_n + at->blocks_n + at->l1_n + at->l2_n + at->data_n;
        blocks = div_up(at->end, per_block);
        clusters = div_up(blocks * 8, s->cluster_size);
        if (blocks <= at->blocks_n && clusters <= at->reftable_n)
            break;
        at->blocks_n = MAX(blocks, at->blocks_n);
        at->reftable_n = MAX(clusters, at->reftable_n);
    }
    if (at->reftable_n * s->cluster_size > QCOW2_MAX_REFTABLE_BYTES)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': %" PRIu64
                    " bytes are too many to preallocate with clusters of "
                    "%u and refcounts of %" PRIu64 " bits: choose a larger cluster_size",
                    how->path, how->size, s->cluster_size, how->refcount_bits);
    at->reftable = 1;
    at->blocks = at->reftable + at->reftable_n;
    at->l1 = at->blocks + at->blocks_n;
    at->l2 = at->l1 + at->l1_n;
    at->data = at->l2 + at->l2_n;
    s->h.l1_entries = (uint32_t)l1_entries;
    s->h.l1_offset = at->l1 * s->cluster_size;
    s->h.reftable_offset = at->reftable * s->cluster_size;
    s->h.reftable_clusters = (uint32_t)at->reftable_n;
    return true;
}

/* ---- the parts ----------------------------------------------------------------- */

static void fill_header(Maker *m)
{
    const ImageCreate *how = m->how;
    Qcow2Header *h = &m->s.h;

    h->version = how->compat == IMAGE_COMPAT_0_10 ? 2 : 3;
    h->header_len = h->version == 2 ? QCOW2_V2_LEN : QCOW2_KNOWN_LEN;
    h->cluster_bits = (uint32_t)__builtin_ctzll(how->cluster_size);
    h->refcount_order = (uint32_t)__builtin_ctzll(how->refcount_bits);
    h->size = how->size;
    h->compression = (uint8_t)how->compression;
    if (how->compression != IMAGE_ZLIB)
        h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
    if (how->extended_l2)
        h->incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
    if (how->data_file)
        h->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
    if (how->data_file_raw)
        h->autoclear |= QCOW2_AUTOCLEAR_RAW_DATA;
    if (how->lazy_refcounts)
        h->compatible |= QCOW2_COMPAT_LAZY;
    m->s.cluster_size = (uint32_t)how->cluster_size;
    m->s.l2_entry_size = how->extended_l2 ? 16 : 8;
    m->s.l2_bits = h->cluster_bits - (how->extended_l2 ? 4 : 3);
    m->s.backing = how->backing;
    m->s.backing_format = how->backing_format;
    m->s.data_path = how->data_file;
}

/* For programs that are older than a feature; left out where there is no room for it. */
static void add_feature_names(Maker *m)
{
    uint8_t table[24 * QCOW2_FEATURE_ENTRY] = {0}, *entry = table;

    for (unsigned map = 0; map < 3; map++)
        for (unsigned bit = 0; bit < 8; bit++)
            if (feature_names[map][bit]) {
                entry[0] = (uint8_t)map;
                entry[1] = (uint8_t)bit;
                memcpy(entry + 2, feature_names[map][bit],
                       strlen(feature_names[map][bit]));
                entry += QCOW2_FEATURE_ENTRY;
            }
    if (m->s.h.version >= 3 && m->s.cluster_size >= 4096)
        qcow2_add_extension(&m->s, QCOW2_EXT_FEATURE_NAMES, table,
                            (uint32_t)(entry - table));
}

/* Writes `n` entries of a table of 8-byte numbers, a chunk at a time: `fill` gives one.
 */
static int write_numbers(Maker *m, uint64_t cluster, uint64_t n,
                         uint64_t (*fill)(const Maker *m, uint64_t index))
{
    uint64_t at = cluster * m->s.cluster_size;
    g_autofree uint64_t *chunk = g_new(uint64_t, MIN(n, CHUNK / 8) + 1);
    int err = 0;

    for (uint64_t done = 0, part; done < n && !err; done += part) {
        part = MIN(n - done, CHUNK / 8);
        for (uint64_t i = 0; i < part; i++)
            store_be64(&chunk[i], fill(m, done + i));
        err = block_file_write(m->s.file, at + done * 8, chunk, part * 8);
    }
    return err;
}

static uint64_t reftable_entry(const Maker *m, uint64_t index)
{
    return (m->at.blocks + index) * m->s.cluster_size;
}

static uint64_t l1_entry(const Maker *m, uint64_t index)
{
    return ((m->at.l2 + index) * m->s.cluster_size) | QCOW2_COPIED;
}

/* With extended L2 entries each has a second number: its bitmap. */
static uint64_t l2_number(const Maker *m, uint64_t index)
{
    bool extended = m->how->extended_l2;
    uint64_t cluster = extended ? index / 2 : index;

    if (extended && index % 2)
        return m->how->backing ? 0 : UINT32_MAX; /* a place for it, but no data yet */
    return ((m->how->data_file ? cluster : m->at.data + cluster) * m->s.cluster_size) |
           QCOW2_COPIED;
}

/* Every cluster up to the end, once. */
static int write_refcounts(Maker *m)
{
    unsigned order = m->s.h.refcount_order;
    uint64_t per_chunk = ((uint64_t)CHUNK * 8) >> order;
    uint64_t at = m->at.blocks * m->s.cluster_size;
    uint64_t some = MIN(m->at.end, per_chunk), len = div_up(some << order, 8);
    g_autofree uint8_t *chunk = g_malloc0(len);
    int err = 0;

    for (uint64_t i = 0; i < some; i++)
        qcow2_refcount_store(chunk, order, i, 1);
    for (uint64_t done = 0; done < m->at.end && !err; done += per_chunk) {
        uint64_t n = MIN(m->at.end - done, per_chunk);

        if (n < some) { /* the last part */
            memset(chunk, 0, len);
            for (uint64_t i = 0; i < n; i++)
                qcow2_refcount_store(chunk, order, i, 1);
        }
        err = block_file_write(m->s.file, at + ((done << order) / 8), chunk,
                               div_up(n << order, 8));
    }
    return err;
}

/* Zeroes that take their place on the disk. */
static int fill_place(const Maker *m, BlockFile *f, uint64_t offset, uint64_t len)
{
    static const size_t size = CHUNK;
    g_autofree uint8_t *zeroes = NULL;
    int err = 0;

    if (m->preallocation == IMAGE_PREALLOC_FALLOC)
        return f->fd < 0 ? ENOTSUP : posix_fallocate(f->fd, (off_t)offset, (off_t)len);
    if (m->preallocation != IMAGE_PREALLOC_FULL)
        return 0;
    zeroes = g_malloc0(size);
    for (uint64_t done = 0; done < len && !err; done += size)
        err = block_file_write(f, offset + done, zeroes, MIN(len - done, size));
    return err;
}

static bool write_parts(Maker *m, GError **error)
{
    Qcow2 *s = &m->s;
    uint64_t numbers = div_up(s->h.size, s->cluster_size) * (s->l2_entry_size / 8);
    int err = block_file_truncate(s->file, m->at.end * s->cluster_size);

    if (!err && m->at.data_n)
        err = fill_place(m, s->file, m->at.data * s->cluster_size,
                         m->at.data_n * s->cluster_size);
    if (!err)
        err = write_refcounts(m);
    if (!err)
        err = write_numbers(m, m->at.reftable, m->at.blocks_n, reftable_entry);
    if (!err && m->at.l2_n)
        err = write_numbers(m, m->at.l1, m->at.l2_n, l1_entry);
    if (!err && m->at.l2_n)
        err = write_numbers(m, m->at.l2, numbers, l2_number);
    errno = err;
    if (err)
        return fail_errno(error, "'%s': write the new image", m->how->path);
    return qcow2_header_write(s, error);
}

/* ---- the data file ------------------------------------------------------------- */

static bool make_data_file(const Maker *m, GError **error)
{
    const ImageCreate *how = m->how;
    const BlockImage place = {.path = how->path};
    g_autofree char *path = image_relative_path(&place, how->data_file);
    const BlockOptions options = {
        .path = path, .cache = BLOCK_CACHE_WRITEBACK, .lock = true};
    uint64_t size = align_up(how->size, BLOCK_SECTOR);
    g_autoptr(BlockFile) file = NULL;
    int err;
    autofd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (how->overwrite ? 0 : O_EXCL),
                     0644);

    if (fd < 0)
        return fail_errno(error, "'%s': make its data file '%s'", how->path, path);
    file = block_file_open(&options, error);
    if (!file)
        return false;
    err = block_file_truncate(file, 0);
    if (!err)
        err = block_file_truncate(file, size);
    if (!err)
        err = fill_place(m, file, 0, size);
    if (err && !how->overwrite)
        unlink(path);
    errno = err;
    return !err || fail_errno(error, "'%s': give its data file '%s' %" PRIu64 " bytes",
                              how->path, path, size);
}

bool qcow2_create(BlockFile *file, const ImageCreate *how, GError **error)
{
    Maker m = {.how = how, .preallocation = how->preallocation};
    bool ok;

    if (!check_how(how, error))
        return false;
    /* Whoever writes the raw file past us must find it all mapped. */
    if (how->data_file_raw && m.preallocation == IMAGE_PREALLOC_OFF)
        m.preallocation = IMAGE_PREALLOC_METADATA;
    m.s.file = file;
    fill_header(&m);
    if (!set_layout(&m, error))
        return false;
    add_feature_names(&m);
    ok = write_parts(&m, error) && (!how->data_file || make_data_file(&m, error));
    if (ok && how->data_file && !how->backing)
        image_mark_backing(file, how->data_file);
    if (m.s.extensions)
        g_array_free(m.s.extensions, true);
    return ok;
}
