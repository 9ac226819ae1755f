/* L1 and L2 tables: from an offset of the disk to what is there, and changing it.
 * (qcow2: "Cluster mapping", "Extended L2 Entries".)
 *
 * An L2 table is one cluster of big-endian entries, of which qcow2_page.c caches pages;
 * the L1 table is in memory whole.  The file is hostile: an entry is judged each time it
 * is used. */
#include <errno.h>
#include <string.h>

#include "qcow2_io_private.h"

enum { NEW_TABLE_BYTES = 64 * 1024 }; /* of a new table in the cache at once */

/* ---- one entry ----------------------------------------------------------------- */

static void parse_compressed(const Qcow2 *s, uint64_t entry, Qcow2Cluster *ret)
{
    /* "Compressed Clusters Descriptor": where the offset ends and the length begins. */
    unsigned x = 62 - (s->h.cluster_bits - 8);
    uint64_t sectors = 1 + ((entry >> x) & ((uint64_t)BIT(s->h.cluster_bits - 8) - 1));

    ret->compressed = true;
    ret->packed = entry & (BIT64(x) - 1) & (BIT64(56) - 1);
    ret->packed_len = (uint32_t)(sectors * BLOCK_SECTOR - ret->packed % BLOCK_SECTOR);
}

/* `cluster` is the offset on the disk.  NULL, or what is wrong with the entry. */
static const char *parse_entry(const Qcow2 *s, uint64_t cluster, const Qcow2Entry *e,
                               Qcow2Cluster *ret)
{
    uint64_t host = e->entry & QCOW2_OFFSET_MASK;
    bool external = qcow2_data_is_external(s);

    *ret = (Qcow2Cluster){0};
    if (e->entry & QCOW2_COMPRESSED) {
        if (external)
            return "is compressed, which an external data file cannot hold";
        parse_compressed(s, e->entry, ret);
        return NULL;
    }
    /* Offset 0 is a place only in an external data file. */
    ret->placed = host || (external && (e->entry & QCOW2_COPIED));
    ret->owned = ret->placed && (e->entry & QCOW2_COPIED);
    ret->host = host;
    if (!is_aligned(host, s->cluster_size))
        return "is not at the start of a cluster";
    if (external && ret->placed && host != cluster)
        return "is not at its own offset in the external data file";
    if (s->subclusters > 1) {
        ret->data = (uint32_t)e->bitmap;
        ret->zero = (uint32_t)(e->bitmap >> 32);
        if (ret->data & ret->zero)
            return "has subclusters that are both data and zeroes";
        return ret->data && !ret->placed ? "has subclusters of data, but no place" : NULL;
    }
    ret->zero = (e->entry & QCOW2_ZERO) != 0;
    ret->data = ret->placed && !ret->zero;
    return ret->zero && s->h.version < 3 ? "reads as zeroes, which version 2 has not"
                                         : NULL;
}

Qcow2Entry qcow2_entry_make(const Qcow2 *s, const Qcow2Cluster *c)
{
    Qcow2Entry e = {0};

    if (c->placed)
        e.entry = c->host | (c->owned ? QCOW2_COPIED : 0);
    if (s->subclusters > 1)
        e.bitmap = c->data | (uint64_t)c->zero << 32;
    else if (c->zero)
        e.entry |= QCOW2_ZERO;
    return e;
}

static void load_entry(const Qcow2 *s, const uint8_t *at, Qcow2Entry *ret)
{
    ret->entry = load_be64(at);
    ret->bitmap = s->l2_entry_size == 16 ? load_be64(at + 8) : 0;
}

/* ---- where an entry is --------------------------------------------------------- */

static uint64_t l1_index(const Qcow2 *s, uint64_t disk_offset)
{
    return disk_offset >> (s->h.cluster_bits + s->l2_bits);
}

/* Of the entry, within its L2 table, in bytes. */
static uint64_t entry_at(const Qcow2 *s, uint64_t disk_offset)
{
    return (disk_offset >> s->h.cluster_bits & (BIT64(s->l2_bits) - 1)) *
           s->l2_entry_size;
}

/* Any thread.  The L1 entry; 0 if the L1 table ends before. */
static uint64_t l1_get(Qcow2 *s, uint64_t index)
{
    LOCK_GUARD(&s->page_lock);

    return index < s->h.l1_entries ? s->l1[index] : 0;
}

void qcow2_l1_set(Qcow2 *s, uint32_t index, uint64_t entry)
{
    lock_acquire(&s->page_lock);
    s->l1[index] = entry;
    lock_release(&s->page_lock);
    qcow2_l1_mark(s, index);
}

static int corrupt_table(Qcow2 *s, uint64_t disk_offset, uint64_t table)
{
    return qcow2_corrupt(s, "L1 entry %llu: no L2 table can be at offset %#llx",
                         (unsigned long long)l1_index(s, disk_offset),
                         (unsigned long long)table);
}

/* Lock held.  The page that holds the entry; NULL where there is no table. */
static int entry_page(Qcow2 *s, uint64_t disk_offset, Qcow2Page **ret)
{
    uint64_t table = l1_get(s, l1_index(s, disk_offset)) & QCOW2_OFFSET_MASK;

    *ret = NULL;
    if (!table)
        return 0;
    if (!is_aligned(table, s->cluster_size))
        return corrupt_table(s, disk_offset, table);
    return qcow2_page_get(s, QCOW2_PAGE_L2, table + entry_at(s, disk_offset), false, ret);
}

int qcow2_entry_get(Qcow2 *s, uint64_t disk_offset, Qcow2Entry *ret)
{
    Qcow2Page *page;
    int err = entry_page(s, disk_offset, &page);

    if (err)
        return err;
    *ret = (Qcow2Entry){0};
    if (page) {
        load_entry(s, qcow2_page_data(page) + entry_at(s, disk_offset) % s->page_size,
                   ret);
        qcow2_page_put(s, page);
    }
    return 0;
}

static int corrupt_entry(Qcow2 *s, uint64_t cluster, uint64_t entry, const char *problem)
{
    return qcow2_corrupt(s, "the cluster of disk offset %#llx (L2 entry %#llx) %s",
                         (unsigned long long)cluster, (unsigned long long)entry, problem);
}

int qcow2_cluster_get(Qcow2 *s, uint64_t cluster, Qcow2Cluster *ret, Qcow2Entry *e)
{
    const char *problem;
    Qcow2Entry entry;
    int err = qcow2_entry_get(s, cluster, &entry);

    if (err)
        return err;
    if (e)
        *e = entry;
    problem = parse_entry(s, cluster, &entry, ret);
    return problem ? corrupt_entry(s, cluster, entry.entry, problem) : 0;
}

/* ---- looking up ---------------------------------------------------------------- */

static uint32_t subcluster_of(const Qcow2 *s, uint64_t disk_offset)
{
    return (uint32_t)((disk_offset & (s->cluster_size - 1)) / s->subcluster_size);
}

/* How many of the n subclusters from `first` on are alike in the mask. */
static unsigned alike(uint32_t mask, unsigned first, unsigned n)
{
    uint64_t differ = mask >> first & 1 ? ~(uint64_t)mask : mask;

    differ = (differ | BIT64(n)) >> first;
    return (unsigned)__builtin_ctzll(differ);
}

/* Any thread.  Whether guest data may be written to the cluster at `host`, by what is
 * known of the file without reading it. */
static bool is_writable(Qcow2 *s, uint64_t host)
{
    if (s->img->readonly || qcow2_broken(s))
        return false;
    if (qcow2_data_is_external(s))
        return true;
    LOCK_GUARD(&s->page_lock); /* tables move */

    return !qcow2_is_metadata(s, host, s->cluster_size);
}

/* What one cluster has at `offset`, until something else begins or the cluster ends. */
static Extent cluster_extent(Qcow2 *s, const Qcow2Cluster *c, uint64_t offset)
{
    uint64_t within = offset & (s->cluster_size - 1);
    unsigned first = subcluster_of(s, offset), n;
    Extent e = {.kind = EXTENT_HOLE, .len = s->cluster_size - within};

    if (c->compressed) {
        e.kind = EXTENT_COMPRESSED;
        e.file = s->file;
        e.file_offset = c->packed;
        return e;
    }
    n = MIN(alike(c->data, first, s->subclusters), alike(c->zero, first, s->subclusters));
    e.len = (uint64_t)(first + n) * s->subcluster_size - within;
    if (c->data >> first & 1) {
        e.kind = EXTENT_DATA;
        e.file = s->data;
        e.file_offset = c->host + within;
        e.in_place = c->owned && is_writable(s, c->host);
    } else if (c->zero >> first & 1) {
        e.kind = EXTENT_ZERO;
        e.preallocated = c->placed;
    }
    return e;
}

static bool goes_on(const Extent *e, const Extent *next)
{
    if (e->kind != next->kind || e->kind == EXTENT_COMPRESSED)
        return false;
    if (e->kind == EXTENT_DATA)
        return e->in_place == next->in_place &&
               e->file_offset + e->len == next->file_offset;
    return e->preallocated == next->preallocated;
}

/* The stretch from `offset` on, of at most len bytes, from n entries in the file's byte
 * order.  NULL, or what is wrong with the first entry: *ret_bad. */
static const char *stretch(Qcow2 *s, uint64_t offset, uint64_t len, const uint8_t *raw,
                           unsigned n, Extent *ret, uint64_t *ret_bad)
{
    uint64_t end = offset + len;

    for (unsigned i = 0; i < n && offset < end; i++) {
        uint64_t cluster = align_down(offset, s->cluster_size);
        Qcow2Cluster c;
        Qcow2Entry e;
        const char *problem;

        load_entry(s, raw + i * s->l2_entry_size, &e);
        problem = parse_entry(s, cluster, &e, &c);
        if (problem && i > 0)
            break; /* the next look-up will say so */
        if (problem) {
            *ret_bad = e.entry;
            return problem;
        }
        while (offset < end && offset < cluster + s->cluster_size) {
            Extent next = cluster_extent(s, &c, offset);

            if (ret->len && !goes_on(ret, &next))
                return NULL;
            next.len = MIN(next.len, end - offset);
            offset += next.len;
            if (ret->len)
                ret->len += next.len;
            else
                *ret = next;
        }
    }
    return NULL;
}

/* Copies n entries, all in one page.  ENOENT: there is no table. */
static int entries_now(Qcow2 *s, uint64_t offset, uint8_t *raw, size_t len)
{
    uint64_t table = l1_get(s, l1_index(s, offset)) & QCOW2_OFFSET_MASK;

    if (!table)
        return ENOENT;
    return qcow2_page_peek(s, table + entry_at(s, offset), raw, len) ? 0 : EAGAIN;
}

static int entries_locked(Qcow2 *s, uint64_t offset, uint8_t *raw, size_t len)
{
    Qcow2Page *page;
    int err = entry_page(s, offset, &page);

    if (err || !page)
        return err ? err : ENOENT;
    memcpy(raw, qcow2_page_data(page) + entry_at(s, offset) % s->page_size, len);
    qcow2_page_put(s, page);
    return 0;
}

/* How many entries from the one of `offset` on are of interest and in one page. */
static unsigned entries_wanted(const Qcow2 *s, uint64_t offset, uint64_t len)
{
    uint64_t in_page = (s->page_size - entry_at(s, offset) % s->page_size) /
                       s->l2_entry_size;
    uint64_t clusters = ((offset & (s->cluster_size - 1)) + len - 1) / s->cluster_size +
                        1;

    return (unsigned)MIN(in_page, clusters);
}

int qcow2_lookup(BlockImage *img, uint64_t offset, uint64_t len, bool may_sleep,
                 Extent *ret)
{
    Qcow2 *s = qcow2_of(img);
    uint8_t raw[QCOW2_PAGE_SIZE];
    unsigned n = entries_wanted(s, offset, len);
    size_t bytes = (size_t)n * s->l2_entry_size;
    uint64_t span = (uint64_t)s->cluster_size << s->l2_bits; /* of one L2 table */
    const char *problem = NULL;
    uint64_t bad;
    int err = entries_now(s, offset, raw, bytes);

    *ret = (Extent){0};
    if (!err)
        problem = stretch(s, offset, len, raw, n, ret, &bad);
    if ((err == EAGAIN || problem) && !may_sleep)
        return EAGAIN; /* reading a page, and marking as corrupt, is for a worker */
    if (err == EAGAIN || problem) {
        LOCK_GUARD(&s->lock);

        err = entries_locked(s, offset, raw, bytes);
        problem = err ? NULL : stretch(s, offset, len, raw, n, ret, &bad);
        if (problem)
            return corrupt_entry(s, align_down(offset, s->cluster_size), bad, problem);
    }
    if (err == ENOENT) {
        *ret = (Extent){.kind = EXTENT_HOLE, .len = MIN(len, span - offset % span)};
        err = 0;
    }
    return err;
}

/* ---- changing ------------------------------------------------------------------ */

/* Lock held.  A table of zeroes.  Where the file reads so already, only the neighbourhood
 * of the entry goes through the cache: tables can be of 2 MiB. */
static int fill_new_table(Qcow2 *s, uint64_t table, bool reads_zero, uint64_t near)
{
    uint64_t at = 0, end = s->cluster_size;
    int err = 0;

    if (reads_zero && s->cluster_size > NEW_TABLE_BYTES) {
        at = align_down(near, NEW_TABLE_BYTES);
        end = at + NEW_TABLE_BYTES;
    }
    for (; at < end && !err; at += s->page_size) {
        Qcow2Page *page;

        err = qcow2_page_get(s, QCOW2_PAGE_L2, table + at, true, &page);
        if (!err)
            qcow2_page_put(s, page);
    }
    return err;
}

static int copy_table(Qcow2 *s, uint64_t from, uint64_t to)
{
    int err = 0;

    for (uint64_t at = 0; at < s->cluster_size && !err; at += s->page_size) {
        Qcow2Page *old, *page;

        err = qcow2_page_get(s, QCOW2_PAGE_L2, from + at, false, &old);
        if (err)
            break;
        err = qcow2_page_get(s, QCOW2_PAGE_L2, to + at, true, &page);
        if (!err) {
            qcow2_page_set(s, page, 0, qcow2_page_data(old), s->page_size);
            qcow2_page_put(s, page);
        }
        qcow2_page_put(s, old);
    }
    return err;
}

/* Lock held.  Makes the table of `disk_offset` one that may be changed: a new one where
 * there is none, a copy where a snapshot uses it too. */
static int own_table(Qcow2 *s, uint64_t disk_offset)
{
    uint64_t index = l1_index(s, disk_offset), entry = l1_get(s, index);
    uint64_t old = entry & QCOW2_OFFSET_MASK, table, n;
    bool reads_zero;
    int err;

    if (index >= s->h.l1_entries)
        return EFBIG;
    if (old &&
        (!is_aligned(old, s->cluster_size) || qcow2_is_metadata(s, old, s->cluster_size)))
        return corrupt_table(s, disk_offset, old);
    if (old && (entry & QCOW2_COPIED))
        return 0;
    err = qcow2_alloc(s, 1, &table, &n, &reads_zero);
    if (err)
        return err;
    err = old ? copy_table(s, old, table)
              : fill_new_table(s, table, reads_zero, entry_at(s, disk_offset));
    if (err) {
        qcow2_pages_forget(s, table, s->cluster_size);
        qcow2_ref_add(s, table, 1, -1);
        return err;
    }
    qcow2_l1_set(s, (uint32_t)index, table | QCOW2_COPIED);
    return old ? qcow2_ref_add(s, old, 1, -1) : 0;
}

int qcow2_entry_set(Qcow2 *s, uint64_t disk_offset, const Qcow2Entry *e)
{
    uint64_t raw[2] = {htobe64(e->entry), htobe64(e->bitmap)};
    Qcow2Page *page;
    int err = own_table(s, disk_offset);

    if (!err)
        err = entry_page(s, disk_offset, &page);
    if (err)
        return err;
    qcow2_page_set(s, page, (unsigned)(entry_at(s, disk_offset) % s->page_size), raw,
                   s->l2_entry_size);
    qcow2_page_put(s, page);
    return 0;
}

int qcow2_entry_free(Qcow2 *s, const Qcow2Entry *e)
{
    Qcow2Cluster c;
    const char *problem;
    uint64_t first, last;

    if (qcow2_data_is_external(s))
        return 0; /* nothing counts its clusters */
    problem = parse_entry(s, 0, e, &c);
    if (problem)
        return qcow2_corrupt(s, "a cluster (L2 entry %#llx) %s",
                             (unsigned long long)e->entry, problem);
    if (c.placed)
        return qcow2_ref_add(s, c.host, 1, -1);
    if (!c.compressed)
        return 0;
    first = align_down(c.packed, s->cluster_size);
    last = align_down(c.packed + c.packed_len - 1, s->cluster_size);
    return qcow2_ref_add(s, first, (last - first) / s->cluster_size + 1, -1);
}
