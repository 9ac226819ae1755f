/* A qcow2 disk becomes larger or smaller.
 *
 * What is new reads as zeroes, whatever a backing image has there, and whatever is left
 * in tables from times when the disk was larger, or from the state of a VM that QEMU kept
 * behind the disk's end.  On the disk the header changes last when growing, and first
 * when shrinking, so that a crash never shows anything else. */
#include <errno.h>
#include <string.h>

#include "qcow2_header_private.h"
#include "qcow2_io_private.h"
#include "qcow2_survey_private.h"

static uint64_t table_covers(const Qcow2 *s)
{
    return (uint64_t)s->cluster_size << s->l2_bits;
}

static bool write_header(Qcow2 *s, GError **error)
{
    if (!qcow2_header_write(s, error))
        return false;
    errno = block_file_flush(s->file);
    return !errno || fail_errno(error, "write the header");
}

/* ---- a longer L1 table --------------------------------------------------------- */

/* A copy elsewhere, complete before the header points to it. */
static bool write_longer_l1(Qcow2 *s, uint32_t entries, uint64_t *ret_offset,
                            GError **error)
{
    uint64_t clusters = qcow2_clusters(s, (uint64_t)entries * 8);
    g_autofree uint64_t *table = g_try_malloc0(clusters * s->cluster_size);

    if (!table)
        return fail(error, VM_ERROR_IO, "no memory for the L1 table");
    errno = qcow2_alloc_run(s, clusters, ret_offset);
    if (errno)
        return fail_errno(error, "find room for a longer L1 table");
    /* Its refcounts, before anything refers to it; and all tables that are in memory, as
     * the copy refers to them too. */
    errno = qcow2_flush_metadata(s);
    if (!errno && s->lazy) /* then they were not written, and the header has to say so */
        errno = qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, true);
    for (uint32_t i = 0; i < s->h.l1_entries; i++)
        table[i] = GUINT64_TO_BE(s->l1[i]);
    if (!errno)
        errno = block_file_write(s->file, *ret_offset, table, clusters * s->cluster_size);
    if (!errno)
        errno = block_file_flush(s->file);
    if (!errno)
        return true;
    fail_errno(error, "write a longer L1 table");
    qcow2_ref_add(s, *ret_offset, clusters, -1);
    return false;
}

/* Lock held.  Ahead of need, as the table moves each time. */
static bool lengthen_l1(Qcow2 *s, uint64_t size, GError **error)
{
    uint64_t need = qcow2_l1_entries(s, size), limit = QCOW2_MAX_L1_BYTES / 8;
    const Qcow2Header before = s->h;
    uint64_t *l1, *old = s->l1;
    uint64_t offset;
    uint32_t entries;

    if (need <= s->h.l1_entries)
        return true;
    if (need > limit)
        return fail(error, VM_ERROR_INVALID,
                    "a disk of %" PRIu64 " bytes needs a larger L1 table than the format "
                    "allows with clusters of %u bytes: at most %" PRIu64 " bytes are "
                    "possible",
                    size, s->cluster_size, limit * table_covers(s));
    entries = (uint32_t)MIN(MAX(need, s->h.l1_entries + (uint64_t)s->h.l1_entries / 2),
                            limit);
    l1 = g_try_malloc0_n(entries, 8);
    if (!l1)
        return fail(error, VM_ERROR_IO, "no memory for the L1 table");
    if (!write_longer_l1(s, entries, &offset, error)) {
        g_free(l1);
        return false;
    }
    memcpy(l1, old, (size_t)s->h.l1_entries * 8);
    lock_acquire(&s->page_lock);
    s->h.l1_offset = offset;
    s->h.l1_entries = entries;
    s->l1 = l1;
    lock_release(&s->page_lock);
    g_free(old);
    if (!write_header(s, error)) { /* which of the two is on the disk is not known */
        __atomic_store_n(&s->broken, true, __ATOMIC_RELAXED);
        return false;
    }
    if (before.l1_entries)
        qcow2_ref_add(s, before.l1_offset,
                      qcow2_clusters(s, (uint64_t)before.l1_entries * 8), -1);
    return true;
}

/* ---- larger -------------------------------------------------------------------- */

/* Up to where something may show in what is new. */
static uint64_t shows_until(Qcow2 *s, uint64_t old_size, uint64_t size)
{
    uint64_t end = align_up(old_size, s->cluster_size);

    if (s->img->backing)
        end = MAX(end, image_size_now(s->img->backing));
    for (uint32_t i = s->h.l1_entries; i-- > 0;) {
        if (s->l1[i]) {
            end = MAX(end, (i + 1) * table_covers(s));
            break;
        }
    }
    return MIN(end, size);
}

/* Lock held.  Whoever writes a raw data file past us must find all of it mapped. */
static int map_raw_data(Qcow2 *s, uint64_t from, uint64_t to)
{
    int err = 0;

    if (!qcow2_data_is_raw(s))
        return 0;
    for (from = align_up(from, s->cluster_size); from < to && !err;
         from += s->cluster_size) {
        Qcow2Cluster c = {.placed = true,
                          .owned = true,
                          .host = from,
                          .data = qcow2_all_subclusters(s)};
        Qcow2Entry e = qcow2_entry_make(s, &c);

        err = qcow2_entry_set(s, from, &e);
    }
    return err;
}

static bool grow(Qcow2 *s, uint64_t size, GError **error)
{
    uint64_t old_size = s->h.size, end;

    lock_acquire(&s->lock);
    if (!lengthen_l1(s, size, error)) {
        lock_release(&s->lock);
        return false;
    }
    end = shows_until(s, old_size, size);
    lock_release(&s->lock);

    /* The guest is told later; writing wants the range to be within the disk. */
    __atomic_store_n(&s->img->size, size, __ATOMIC_RELAXED);
    errno = end > old_size ? qcow2_zero(s->img, old_size, end - old_size, true) : 0;
    lock_acquire(&s->lock);
    if (!errno)
        errno = map_raw_data(s, old_size, size);
    if (!errno)
        errno = qcow2_flush_metadata(s);
    if (errno) {
        fail_errno(error, "write zeroes where the disk is new");
    } else {
        s->h.size = size;
        if (write_header(s, error)) {
            lock_release(&s->lock);
            return true;
        }
        s->h.size = old_size;
    }
    __atomic_store_n(&s->img->size, old_size, __ATOMIC_RELAXED);
    lock_release(&s->lock);
    return false;
}

/* ---- smaller ------------------------------------------------------------------- */

/* Lock held.  Gives back a table that is about what lies beyond the disk's end, and its
 * data: the table may be a snapshot's as well, and then each loses one of its references,
 * after the table is unlinked. */
static int drop_table(Qcow2 *s, uint32_t index)
{
    uint64_t table = s->l1[index] & QCOW2_OFFSET_MASK, at = index * table_covers(s);
    bool shared = !(s->l1[index] & QCOW2_COPIED);
    g_autofree Qcow2Entry *e = g_try_new0(Qcow2Entry, qcow2_table_len(s));
    int err = 0;

    if (!table || !e)
        return table ? ENOMEM : 0;
    for (uint32_t i = 0; i < qcow2_table_len(s) && !err; i++, at += s->cluster_size)
        err = qcow2_entry_get(s, at, &e[i]);
    if (err)
        return err;
    qcow2_l1_set(s, index, 0);
    if (!shared)
        qcow2_pages_forget(s, table, s->cluster_size);
    for (uint32_t i = 0; i < qcow2_table_len(s) && !err; i++)
        if (e[i].entry)
            err = qcow2_entry_free(s, &e[i]);
    return err ? err : qcow2_ref_add(s, table, 1, -1);
}

static int drop_tail(Qcow2 *s, uint64_t size, uint64_t old_size)
{
    uint64_t from = align_up(size, s->cluster_size);
    uint64_t whole = MIN(align_up(size, table_covers(s)), old_size);
    const Qcow2Entry nothing = {0};
    int err = 0;

    for (; from < whole && !err; from += s->cluster_size) {
        Qcow2Entry e;

        err = qcow2_entry_get(s, from, &e);
        if (err || (!e.entry && !e.bitmap))
            continue;
        err = qcow2_entry_set(s, from, &nothing);
        if (!err)
            err = qcow2_entry_free(s, &e);
    }
    for (uint64_t i = qcow2_l1_entries(s, size); i < s->h.l1_entries && !err; i++)
        err = drop_table(s, (uint32_t)i);
    return err;
}

/* Lock held.  The file ends where its last cluster in use does. */
static void truncate_file(Qcow2 *s)
{
    uint64_t clusters = qcow2_clusters(s, block_file_size(s->file)), n;
    uint64_t last = clusters;

    while (last > 1 && !qcow2_ref_get(s, (last - 1) << s->h.cluster_bits, &n) && !n)
        last--;
    if (last < clusters && !s->file->is_device)
        block_file_truncate(s->file, last << s->h.cluster_bits);
}

/* Nobody else uses the image.  QEMU does not zero what it makes larger: nothing of what
 * was there may be left in the last cluster. */
static int zero_last_cluster(Qcow2 *s, uint64_t size, uint64_t old_size)
{
    uint64_t end = MIN(align_up(size, s->cluster_size), old_size);
    int err;

    if (end == size)
        return 0;
    __atomic_store_n(&s->img->size, end, __ATOMIC_RELAXED);
    err = qcow2_zero(s->img, size, end - size, true);
    __atomic_store_n(&s->img->size, size, __ATOMIC_RELAXED);
    return err;
}

static bool begin_shrinking(Qcow2 *s, uint64_t size, GError **error)
{
    uint64_t old_size = s->h.size;

    LOCK_GUARD(&s->lock);
    if (s->h.n_snapshots && s->h.version < 3)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "it has snapshots, and in version 2 of the format those do not say "
                    "how large their disk was: delete them, or convert the image");
    errno = qcow2_flush_metadata(s);
    if (errno)
        return fail_errno(error, "write the metadata");
    s->h.size = size;
    if (write_header(s, error)) {
        __atomic_store_n(&s->img->size, size, __ATOMIC_RELAXED);
        return true;
    }
    s->h.size = old_size;
    return false;
}

static bool shrink(Qcow2 *s, uint64_t size, GError **error)
{
    uint64_t old_size = s->h.size;

    if (!begin_shrinking(s, size, error))
        return false;
    errno = zero_last_cluster(s, size, old_size);
    LOCK_GUARD(&s->lock);
    if (!errno)
        errno = drop_tail(s, size, old_size);
    if (!errno)
        errno = qcow2_flush_metadata(s);
    if (errno)
        return fail_errno(error, "it is smaller now, but give back what is beyond");
    truncate_file(s);
    return true;
}

/* ---- either -------------------------------------------------------------------- */

bool qcow2_resize(BlockImage *img, uint64_t size, GError **error)
{
    Qcow2 *s = qcow2_of(img);
    bool ok = true;

    if (!is_aligned(size, BLOCK_SECTOR))
        ok = fail(error, VM_ERROR_INVALID,
                  "%" PRIu64 " bytes are no multiple of %d: choose one", size,
                  BLOCK_SECTOR);
    else if (qcow2_broken(s))
        ok = fail(error, VM_ERROR_CORRUPT,
                  "it is marked as corrupt; repair it with 'hutch image check --repair "
                  "all' first");
    else if (s->data != s->file && size > s->h.size)
        ok = (errno = block_file_truncate(s->data, size)) == 0 ||
             fail_errno(error, "make the data file '%s' larger", s->data->path);
    if (ok && size != s->h.size)
        ok = size > s->h.size ? grow(s, size, error) : shrink(s, size, error);
    if (ok && s->data != s->file && size < block_file_size(s->data))
        block_file_truncate(s->data, size);
    if (!ok)
        g_prefix_error(error, "resize '%s': ", img->path);
    return ok;
}
