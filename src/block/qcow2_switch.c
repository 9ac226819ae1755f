/* From one state of a qcow2 file's metadata to another by one write of the header.
 *
 * Taking, applying and deleting a snapshot changes the refcount of every cluster that the
 * disk has, and then the flag "refcount is exactly one" in every L2 table: two places
 * that no order of writes keeps in step.  So neither is changed.  L2 tables whose flags
 * are to be others are copied, with their new flags; a new L1 table, a new snapshot table
 * and a complete set of new refcounts, counted from what will be referred to, are written
 * beside the old ones.  When all of it is on the disk the header is written, which points
 * to the new ones: l1_table_offset, refcount_table_offset, snapshots_offset and the
 * disk's size lie within 72 bytes.  A crash leaves the old state or the new one, and at
 * worst leaks.  Repair uses the same, since it does not read the old refcounts at all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_survey_private.h"

enum {
    REFTABLE_SLACK = 64, /* entries, for the file to grow without another table */
    MAX_BLOCKS = QCOW2_MAX_REFTABLE_BYTES / 8,
    NEEDED = 1, /* as a refcount block's offset: it has none yet */
};

struct Qcow2Switch {
    Qcow2 *s;
    Qcow2Tree *tree;
    uint64_t append; /* where to take clusters from next; 0: by refcounts */
    GArray *taken;   /* of Qcow2Range */
    bool done;
    ImageCheck sum;
    Qcow2Report report;
    char *fault; /* the first that was reported */
    Qcow2Survey survey;

    uint64_t *blocks;    /* the new refcount table: 0, NEEDED, or an offset */
    uint64_t blocks_end; /* the last that is needed, plus one */
    bool too_many;
    GArray *structure; /* of Qcow2Range: the new refcount table and blocks */
    Qcow2Range reftable;
    uint8_t *block; /* one of them being filled */
};

/* ---- beginning ----------------------------------------------------------------- */

static void keep_first(void *opaque, const char *text)
{
    Qcow2Switch *w = opaque;

    if (!w->fault)
        w->fault = g_strdup(text);
}

/* Repair does with what is there; others would make it worse. */
static bool refuse_faults(const Qcow2Switch *w, GError **error)
{
    return w->append || !w->sum.errors ||
           fail(error, VM_ERROR_CORRUPT,
                "%s; repair it with 'hutch image check --repair all' first", w->fault);
}

/* What has no L1 table cannot be kept. */
static bool drop_faulty_snapshots(Qcow2Switch *w, GError **error)
{
    GPtrArray *snaps = w->tree->snaps;

    if (!w->tree->l1)
        return fail(error, VM_ERROR_CORRUPT,
                    "its L1 table cannot be found, and with it all of its data");
    for (unsigned i = 0; i < snaps->len;) {
        const Qcow2Snapshot *snap = snaps->pdata[i];

        if (qcow2_l1_table_fault(w->s, snap->l1_offset, snap->l1_entries))
            g_ptr_array_remove_index(snaps, i);
        else
            i++;
    }
    return true;
}

Qcow2Switch *qcow2_switch_new(Qcow2 *s, uint64_t append, GError **error)
{
    g_autoptr(Qcow2Switch) w = g_new0(Qcow2Switch, 1);

    w->s = s;
    w->append = append;
    w->report = (Qcow2Report){.sum = &w->sum, .say = keep_first, .opaque = w};
    w->taken = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    w->structure = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    w->blocks = g_try_new0(uint64_t, MAX_BLOCKS);
    w->block = aligned_alloc(4096, MAX(s->cluster_size, 4096));
    if (!w->block || !w->blocks) {
        fail(error, VM_ERROR_IO, "no memory for a table");
        return NULL;
    }
    w->tree = qcow2_tree_read(s, &w->report, error);
    return w->tree && refuse_faults(w, error) && drop_faulty_snapshots(w, error)
               ? g_steal_pointer(&w)
               : NULL;
}

void qcow2_switch_free(Qcow2Switch *w)
{
    if (!w)
        return;
    for (unsigned i = 0; !w->done && !w->append && i < w->taken->len; i++) {
        const Qcow2Range *r = &g_array_index(w->taken, Qcow2Range, i);

        qcow2_ref_add(w->s, r->offset, r->len / w->s->cluster_size, -1);
    }
    qcow2_survey_finish(&w->survey);
    qcow2_tree_free(w->tree);
    g_array_free(w->taken, TRUE);
    g_array_free(w->structure, TRUE);
    g_free(w->blocks);
    free(w->block);
    g_free(w->fault);
    g_free(w);
}

Qcow2Tree *qcow2_switch_tree(Qcow2Switch *w)
{
    return w->tree;
}

/* ---- clusters to write to ------------------------------------------------------ */

static void need_block(Qcow2Switch *w, uint64_t index)
{
    if (index >= MAX_BLOCKS) {
        w->too_many = true;
        return;
    }
    if (!w->blocks[index])
        w->blocks[index] = NEEDED;
    w->blocks_end = MAX(w->blocks_end, index + 1);
}

/* Clusters that a refcount has to be written for. */
static void need_blocks(Qcow2Switch *w, const Qcow2Range *r)
{
    uint64_t bytes = qcow2_refcounts_per_block(w->s) * w->s->cluster_size;

    for (uint64_t i = r->offset / bytes; i <= (r->offset + r->len - 1) / bytes; i++)
        need_block(w, i);
}

static bool take(Qcow2Switch *w, uint64_t bytes, Qcow2Range *ret, GError **error)
{
    ret->len = align_up(MAX(bytes, 1), w->s->cluster_size);
    if (w->append) {
        ret->offset = w->append;
        w->append += ret->len;
        errno = w->append > block_file_size(w->s->file)
                    ? block_file_truncate(w->s->file, w->append)
                    : 0;
    } else {
        errno = qcow2_alloc_run(w->s, ret->len / w->s->cluster_size, &ret->offset);
    }
    if (errno)
        return fail_errno(error, "find room for %" PRIu64 " bytes of tables", ret->len);
    g_array_append_val(w->taken, *ret);
    need_blocks(w, ret);
    return true;
}

/* Takes clusters and fills them: with bytes, and zeroes behind. */
static bool put(Qcow2Switch *w, const void *buf, uint64_t len, Qcow2Range *ret,
                GError **error)
{
    uint64_t whole;

    if (!take(w, len, ret, error))
        return false;
    whole = align_down(len, w->s->cluster_size);
    errno = whole ? block_file_write(w->s->file, ret->offset, buf, whole) : 0;
    if (!errno && whole < ret->len) {
        memset(w->block, 0, w->s->cluster_size);
        memcpy(w->block, (const uint8_t *)buf + whole, len - whole);
        errno = block_file_write(w->s->file, ret->offset + whole, w->block,
                                 w->s->cluster_size);
    }
    return !errno || fail_errno(error, "write tables at offset %" PRIu64, ret->offset);
}

/* ---- L2 tables with other flags ------------------------------------------------ */

static bool turn(void *opaque, uint64_t entry, uint32_t count)
{
    return true;
}

static bool write_copy(void *opaque, Qcow2L2Ref *l2, const uint8_t *table, GError **error)
{
    Qcow2Switch *w = opaque;
    Qcow2Range r;

    if (!l2->moved) {
        if (!take(w, w->s->cluster_size, &r, error))
            return false;
        l2->moved = r.offset;
    }
    errno = block_file_write(w->s->file, l2->moved, table, w->s->cluster_size);
    return !errno || fail_errno(error, "write an L2 table at offset %" PRIu64, l2->moved);
}

/* Judges the counters of a window, and notes which refcount blocks there will be. */
static bool look_at_counts(Qcow2Switch *w, GError **error)
{
    g_autoptr(GArray) pages = qcow2_counts_pages(w->survey.counts);
    uint64_t per_block = qcow2_refcounts_per_block(w->s);
    uint64_t max = qcow2_max_refcount(w->s);

    for (unsigned i = 0; i < pages->len; i++) {
        uint64_t first = g_array_index(pages, uint64_t, i);
        const uint32_t *page = qcow2_counts_page(w->survey.counts, first);

        for (uint64_t j = 0; j < QCOW2_COUNTS_PAGE; j++) {
            if (!page[j])
                continue;
            need_block(w, (first + j) / per_block);
            if ((page[j] & QCOW2_COUNT_MASK) > max)
                return fail(error, VM_ERROR_UNSUPPORTED,
                            "a cluster would be used %u times, which is more than "
                            "refcounts of %u bits can say: convert it to an image with "
                            "larger refcount_bits",
                            page[j] & QCOW2_COUNT_MASK, BIT(w->s->h.refcount_order));
        }
    }
    return true;
}

static bool copy_tables(Qcow2Switch *w, GError **error)
{
    const Qcow2CopiedOps flags = {turn, write_copy, w};
    uint64_t start = 0;

    do {
        if (!qcow2_survey_count(&w->survey, start, error) || !look_at_counts(w, error) ||
            !qcow2_survey_copied(&w->survey, &flags, error))
            return false;
        start = qcow2_counts_end(w->survey.counts);
    } while (start != UINT64_MAX);
    return true;
}

/* ---- L1 tables and the snapshot table ------------------------------------------ */

static int by_offset(const void *a, const void *b)
{
    const Qcow2L2Ref *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static uint64_t new_l1_entry(const Qcow2Switch *w, uint64_t entry)
{
    const Qcow2L2Ref key = {.offset = entry & QCOW2_OFFSET_MASK}, *l2;

    /* Only a damaged one has none: it is left out. */
    l2 = entry && w->tree->l2s->len ? bsearch(&key, w->tree->l2s->data, w->tree->l2s->len,
                                              sizeof(key), by_offset)
                                    : NULL;
    if (!l2 || qcow2_l1_entry_fault(w->s, entry))
        return 0;
    if (l2->moved)
        return l2->moved | (l2->active == 1 ? QCOW2_COPIED : 0);
    return l2->offset | (l2->weight == 1 ? QCOW2_COPIED : 0);
}

static bool put_l1(Qcow2Switch *w, uint64_t clear, Qcow2Range *ret, GError **error)
{
    Qcow2Tree *t = w->tree;
    g_autofree uint64_t *table = g_try_malloc_n(MAX(t->l1_entries, 1), 8);

    if (!table)
        return fail(error, VM_ERROR_IO, "no memory for an L1 table");
    for (uint32_t i = 0; i < t->l1_entries; i++)
        table[i] = GUINT64_TO_BE(t->l1[i] & ~clear);
    return put(w, table, (uint64_t)t->l1_entries * 8, ret, error);
}

/* Version 3 images say how large a snapshot's disk is; here is one that does not. */
static void complete_snapshot(const Qcow2 *s, Qcow2Snapshot *snap)
{
    size_t fixed = 40, rest = snap->len - fixed - snap->extra_len;
    uint8_t *raw;

    if (s->h.version < 3 || snap->extra_len >= 16)
        return;
    raw = g_malloc0(align_up(fixed + 16 + rest, 8));
    memcpy(raw, snap->raw, fixed);
    store_be32(raw + 36, 16);
    store_be64(raw + 40, snap->vm_state_size);
    store_be64(raw + 48, snap->disk_size);
    memcpy(raw + fixed + 16, snap->raw + fixed + snap->extra_len, rest);
    snap->len = align_up(fixed + 16 + rest, 8);
    snap->extra_len = 16;
    g_free(snap->raw);
    snap->raw = raw;
}

static bool put_snapshots(Qcow2Switch *w, GError **error)
{
    Qcow2Tree *t = w->tree;
    g_autoptr(GByteArray) table = g_byte_array_new();
    Qcow2Range r = {0};

    for (unsigned i = 0; i < t->snaps->len; i++) {
        Qcow2Snapshot *snap = t->snaps->pdata[i];

        if (snap->fresh) {
            if (!put_l1(w, QCOW2_COPIED, &r, error))
                return false;
            snap->l1_offset = r.offset;
            snap->l1_entries = t->l1_entries;
            snap->fresh = false;
            store_be64(snap->raw, r.offset);
            store_be32(snap->raw + 8, t->l1_entries);
        }
        complete_snapshot(w->s, snap);
        g_byte_array_append(table, snap->raw, (guint)snap->len);
    }
    t->snaps_offset = 0;
    t->snaps_len = table->len;
    if (table->len && !put(w, table->data, table->len, &r, error))
        return false;
    t->snaps_offset = table->len ? r.offset : 0;
    return true;
}

static bool put_tables(Qcow2Switch *w, GError **error)
{
    Qcow2Tree *t = w->tree;
    Qcow2Range r;

    for (uint32_t i = 0; i < t->l1_entries; i++)
        t->l1[i] = new_l1_entry(w, t->l1[i]);
    if (!put_snapshots(w, error) || !put_l1(w, 0, &r, error))
        return false;
    t->l1_offset = r.offset;
    return true;
}

/* ---- refcounts ----------------------------------------------------------------- */

/* Gives each needed block without one a place; that may need more blocks. */
static bool place_blocks(Qcow2Switch *w, bool *again, GError **error)
{
    *again = false;
    for (uint64_t i = 0; i < w->blocks_end; i++) {
        Qcow2Range r;

        if (w->blocks[i] != NEEDED)
            continue;
        if (!take(w, w->s->cluster_size, &r, error))
            return false;
        g_array_append_val(w->structure, r);
        w->blocks[i] = r.offset;
        *again = true;
    }
    return !w->too_many ||
           fail(error, VM_ERROR_UNSUPPORTED,
                "its refcount table would be larger than %d MiB: convert it to an image "
                "with larger clusters",
                QCOW2_MAX_REFTABLE_BYTES >> 20);
}

/* Room for the table and for all blocks, those for their own refcounts included. */
static bool place_structure(Qcow2Switch *w, GError **error)
{
    bool again = true;

    while (again) {
        if (!place_blocks(w, &again, error))
            return false;
        if (again || w->blocks_end * 8 <= w->reftable.len)
            continue;
        /* If there was one, it was too short: not counted, and so free in the end. */
        if (!take(w, MIN((w->blocks_end + REFTABLE_SLACK) * 8, QCOW2_MAX_REFTABLE_BYTES),
                  &w->reftable, error))
            return false;
        again = true;
    }
    g_array_append_val(w->structure, w->reftable);
    return true;
}

/* The block's part that the window counts. */
static bool write_block(Qcow2Switch *w, uint64_t index, uint64_t offset, GError **error)
{
    Qcow2 *s = w->s;
    Qcow2Counts *c = w->survey.counts;
    uint64_t per_block = qcow2_refcounts_per_block(s), base = index * per_block;
    uint64_t lo = MAX(base, qcow2_counts_start(c));
    uint64_t hi = MIN(base + per_block, qcow2_counts_end(c));

    if (lo >= hi)
        return true;
    memset(w->block, 0, s->cluster_size);
    errno = lo > base ? qcow2_read_padded(s, offset, w->block, s->cluster_size) : 0;
    if (errno)
        return fail_errno(error, "read a refcount block");
    for (uint64_t i = lo; i < hi;) {
        const uint32_t *page = qcow2_counts_page(c, i);
        uint64_t end = MIN(hi, (i / QCOW2_COUNTS_PAGE + 1) * QCOW2_COUNTS_PAGE);

        for (; i < end; i++)
            if (page && page[i % QCOW2_COUNTS_PAGE])
                qcow2_refcount_store(w->block, s->h.refcount_order, i - base,
                                     page[i % QCOW2_COUNTS_PAGE] & QCOW2_COUNT_MASK);
    }
    errno = block_file_write(s->file, offset, w->block, s->cluster_size);
    return !errno ||
           fail_errno(error, "write a refcount block at offset %" PRIu64, offset);
}

static bool write_blocks(Qcow2Switch *w, GError **error)
{
    uint64_t start = 0;

    do {
        if (!qcow2_survey_count(&w->survey, start, error))
            return false;
        for (uint64_t i = 0; i < w->blocks_end; i++)
            if (w->blocks[i] && !write_block(w, i, w->blocks[i], error))
                return false;
        start = qcow2_counts_end(w->survey.counts);
    } while (start != UINT64_MAX);
    return true;
}

static bool write_reftable(Qcow2Switch *w, GError **error)
{
    g_autofree uint64_t *table = g_try_malloc0(w->reftable.len);

    if (!table)
        return fail(error, VM_ERROR_IO, "no memory for the refcount table");
    for (uint64_t i = 0; i < w->blocks_end; i++)
        table[i] = GUINT64_TO_BE(w->blocks[i]);
    errno = block_file_write(w->s->file, w->reftable.offset, table, w->reftable.len);
    return !errno || fail_errno(error, "write the refcount table");
}

/* ---- switching over ------------------------------------------------------------ */

bool qcow2_reload(Qcow2 *s, GError **error)
{
    if (s->pages)
        qcow2_pages_forget(s, 0, INT64_MAX);
    qcow2_refs_close(s);
    return qcow2_refs_open(s, error);
}

/* Header and L1 table in memory become those of `h` and *l1, and *l1 what it was: both at
 * once, as an I/O thread may look something up. */
static void exchange(Qcow2 *s, const Qcow2Header *h, uint64_t **l1)
{
    uint64_t *old = s->l1;

    lock_acquire(&s->page_lock);
    s->h = *h;
    s->l1 = *l1;
    lock_release(&s->page_lock);
    *l1 = old;
}

static bool switch_over(Qcow2Switch *w, uint64_t disk_size, GError **error)
{
    Qcow2 *s = w->s;
    Qcow2Tree *t = w->tree;
    Qcow2Header before = s->h, h = s->h;

    h.size = disk_size;
    h.l1_offset = t->l1_offset;
    h.l1_entries = t->l1_entries;
    h.snapshots_offset = t->snaps_offset;
    h.n_snapshots = t->snaps->len;
    h.reftable_offset = w->reftable.offset;
    h.reftable_clusters = (uint32_t)(w->reftable.len / s->cluster_size);
    exchange(s, &h, &t->l1);
    if (qcow2_header_write(s, error)) {
        errno = block_file_flush(s->file);
        if (!errno || fail_errno(error, "write the header")) {
            s->l1_dirty = false;
            memset(s->l1_dirty_map, 0, sizeof(s->l1_dirty_map));
            return qcow2_reload(s, error);
        }
    }
    /* Nobody knows which of the two is on the disk, so nothing may be written. */
    exchange(s, &before, &t->l1);
    __atomic_store_n(&s->broken, true, __ATOMIC_RELAXED);
    return false;
}

bool qcow2_switch_commit(Qcow2Switch *w, uint64_t disk_size, GError **error)
{
    Qcow2 *s = w->s;

    if (!qcow2_tree_collect(s, w->tree, &w->report, error) ||
        !qcow2_survey_init(&w->survey, s, w->tree, &w->report, error))
        return false;
    /* What is there now will not be: only its successors are counted. */
    w->tree->l1_offset = 0;
    w->tree->snaps_offset = 0;
    w->tree->snaps_len = 0;
    w->survey.more = w->structure;
    if (!copy_tables(w, error) || !refuse_faults(w, error) || !put_tables(w, error) ||
        !place_structure(w, error) || !write_blocks(w, error) ||
        !write_reftable(w, error))
        return false;
    errno = block_file_flush(s->file);
    if (errno)
        return fail_errno(error, "write the new tables");
    w->done = true;
    return switch_over(w, disk_size, error);
}

static void punch_block(Qcow2 *s, const uint8_t *block, uint64_t base, uint64_t end)
{
    uint64_t run = base; /* where the present stretch of free clusters began */

    for (uint64_t i = base; i <= end; i++) {
        if (i < end && !qcow2_refcount_load(block, s->h.refcount_order, i - base))
            continue;
        if (i > run)
            block_file_discard(s->file, run << s->h.cluster_bits,
                               (i - run) << s->h.cluster_bits);
        run = i + 1;
    }
}

void qcow2_switch_punch(Qcow2Switch *w)
{
    Qcow2 *s = w->s;
    uint64_t per_block = qcow2_refcounts_per_block(s);
    uint64_t clusters = block_file_size(s->file) / s->cluster_size;

    for (uint64_t i = 0; s->file->can_discard && i < w->blocks_end; i++)
        if (w->blocks[i] && i * per_block < clusters &&
            !qcow2_read_padded(s, w->blocks[i], w->block, s->cluster_size))
            punch_block(s, w->block, i * per_block, MIN((i + 1) * per_block, clusters));
}
