/* Consistency of a qcow2 image, and its repair.
 *
 * The refcounts that follow from header, tables, snapshots and bitmaps are compared to
 * the stored ones; the counting of errors and leaks is that of qemu-img check.  One
 * cluster too many in the stored count is a leak; one too few, a flag "refcount is
 * exactly one" that does not tell the truth, or an entry that leads nowhere is an error.
 *
 * Repair of leaks lowers stored refcounts in place.  Repair of all replaces entries that
 * lead nowhere (qcow2_mend.c) and then writes refcounts and flags anew, elsewhere, and
 * switches over (qcow2_switch.c), whatever is left of the old ones. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_survey_private.h"
#include "util/log.h"

typedef struct Checker {
    Qcow2Survey v;
    Qcow2Report *report;
    uint8_t *block; /* a refcount block */
    bool fix_leaks;
    uint64_t clusters; /* of the file */
    uint64_t highest;  /* cluster in use, plus one */
} Checker;

/* ---- the stored refcounts ------------------------------------------------------ */

static bool read_reftable(Checker *c, GError **error)
{
    Qcow2 *s = c->v.s;
    uint64_t len = (uint64_t)s->h.reftable_clusters * s->cluster_size;

    if (!s->h.reftable_offset || !is_aligned(s->h.reftable_offset, s->cluster_size) ||
        len > QCOW2_MAX_REFTABLE_BYTES ||
        !range_within(s->h.reftable_offset, len,
                      align_up(block_file_size(s->file), s->cluster_size))) {
        c->report->bad_refs = true;
        qcow2_report_error(c->report,
                           "the refcount table (refcount_table_offset %" PRIu64
                           ", refcount_table_clusters %u) is not within the file, at a "
                           "cluster boundary",
                           s->h.reftable_offset, s->h.reftable_clusters);
        return true;
    }
    c->v.reftable = g_try_malloc0(MAX(len, 8));
    if (!c->v.reftable)
        return fail(error, VM_ERROR_IO, "no memory for the refcount table");
    errno = qcow2_read_padded(s, s->h.reftable_offset, c->v.reftable, len);
    if (errno)
        return fail_errno(error, "read the refcount table");
    c->v.reftable_entries = (uint32_t)(len / 8);
    for (uint32_t i = 0; i < c->v.reftable_entries; i++)
        c->v.reftable[i] = GUINT64_FROM_BE(c->v.reftable[i]);
    return true;
}

/* ---- comparing ----------------------------------------------------------------- */

/* Returns the stored refcount as it is afterwards. */
static uint64_t compare_cluster(Checker *c, uint64_t cluster, uint64_t stored,
                                uint32_t counted)
{
    uint64_t n = counted & QCOW2_COUNT_MASK, max = qcow2_max_refcount(c->v.s);
    uint64_t offset = cluster << c->v.s->h.cluster_bits;

    if (stored || n)
        c->highest = MAX(c->highest, cluster + 1);
    if (counted & QCOW2_COUNT_CLASH) {
        c->report->bad_links = true;
        qcow2_report_error(c->report,
                           "the cluster at offset %#" PRIx64
                           " holds metadata, and something else refers to it too",
                           offset);
    }
    if (n > max) {
        qcow2_report_error(c->report,
                           "the cluster at offset %#" PRIx64 " is used %" PRIu64
                           " times, which is more than refcounts of %u bits can say",
                           offset, n, BIT(c->v.s->h.refcount_order));
        n = max;
    }
    if (stored < n) {
        c->report->bad_refs = true;
        qcow2_report_error(c->report,
                           "the cluster at offset %#" PRIx64 " has refcount %" PRIu64
                           ", and is used %" PRIu64 " times",
                           offset, stored, n);
    } else if (stored > n && c->fix_leaks) {
        stored = n;
    } else if (stored > n) {
        qcow2_report_leak(c->report,
                          "the cluster at offset %#" PRIx64 " has refcount %" PRIu64
                          ", and is used %" PRIu64 " times: "
                          "a leak",
                          offset, stored, n);
    }
    return stored;
}

/* Replaces the counter by the stored refcount, which the flags have to agree with. */
static void remember(uint32_t *page, uint64_t cluster, uint64_t stored)
{
    if (page)
        page[cluster % QCOW2_COUNTS_PAGE] = (uint32_t)MIN(stored, QCOW2_COUNT_MASK);
}

static void give_back(Checker *c, uint64_t cluster)
{
    BlockFile *f = c->v.s->file;

    if (f->can_discard)
        block_file_discard(f, cluster << c->v.s->h.cluster_bits, c->v.s->cluster_size);
}

/* One refcount block, from cluster `lo` to `hi`.  changed: it has to be written. */
static void compare_block(Checker *c, uint64_t base, uint64_t lo, uint64_t hi,
                          bool *changed)
{
    unsigned order = c->v.s->h.refcount_order;

    for (uint64_t at = lo; at < hi;) {
        uint32_t *page = qcow2_counts_page(c->v.counts, at);
        uint64_t end = MIN(hi, (at / QCOW2_COUNTS_PAGE + 1) * QCOW2_COUNTS_PAGE);

        for (; at < end; at++) {
            uint64_t stored = qcow2_refcount_load(c->block, order, at - base), now;

            now = compare_cluster(c, at, stored, page ? page[at % QCOW2_COUNTS_PAGE] : 0);
            remember(page, at, now);
            if (now == stored)
                continue;
            qcow2_refcount_store(c->block, order, at - base, now);
            *changed = true;
            if (!now)
                give_back(c, at);
        }
    }
}

static bool block_offset(const Checker *c, uint64_t i, uint64_t *ret)
{
    const Qcow2 *s = c->v.s;

    *ret = i < c->v.reftable_entries ? c->v.reftable[i] : 0;
    return *ret && is_aligned(*ret, s->cluster_size) &&
           range_within(*ret, s->cluster_size,
                        align_up(block_file_size(s->file), s->cluster_size));
}

static bool compare_blocks(Checker *c, GError **error)
{
    Qcow2 *s = c->v.s;
    uint64_t per_block = qcow2_refcounts_per_block(s);
    uint64_t start = qcow2_counts_start(c->v.counts);
    uint64_t end = MIN(qcow2_counts_end(c->v.counts), c->clusters);
    uint64_t offset;

    for (uint64_t i = start / per_block; i < c->v.reftable_entries && i * per_block < end;
         i++) {
        bool changed = false;

        if (!block_offset(c, i, &offset))
            continue;
        errno = qcow2_read_padded(s, offset, c->block, s->cluster_size);
        if (errno)
            return fail_errno(error, "read the refcount block at offset %" PRIu64,
                              offset);
        compare_block(c, i * per_block, MAX(start, i * per_block),
                      MIN(end, (i + 1) * per_block), &changed);
        errno = changed ? block_file_write(s->file, offset, c->block, s->cluster_size)
                        : 0;
        if (errno)
            return fail_errno(error, "write the refcount block at offset %" PRIu64,
                              offset);
    }
    return true;
}

/* Clusters that no refcount block is there for. */
static void compare_rest(Checker *c)
{
    g_autoptr(GArray) pages = qcow2_counts_pages(c->v.counts);
    uint64_t per_block = qcow2_refcounts_per_block(c->v.s), offset;

    for (unsigned i = 0; i < pages->len; i++) {
        uint64_t first = g_array_index(pages, uint64_t, i);
        uint32_t *page = qcow2_counts_page(c->v.counts, first);

        for (uint64_t at = first; at < first + QCOW2_COUNTS_PAGE; at++) {
            uint32_t n = page[at % QCOW2_COUNTS_PAGE];

            if (!n || block_offset(c, at / per_block, &offset))
                continue;
            remember(page, at, compare_cluster(c, at, 0, n));
        }
    }
}

/* ---- flags --------------------------------------------------------------------- */

static bool report_flag(void *opaque, uint64_t entry, uint32_t count)
{
    Checker *c = opaque;

    qcow2_report_error(c->report,
                       "L2 entry %#" PRIx64 " is%s marked as one that may be "
                       "written in place, and its cluster has refcount %u",
                       entry, entry & QCOW2_COPIED ? "" : " not", count);
    return false;
}

/* Of the active L1 table. */
static void check_l1_flags(Checker *c)
{
    const Qcow2Tree *t = c->v.tree;

    for (uint32_t i = 0; t->l1 && i < t->l1_entries; i++) {
        uint64_t entry = t->l1[i];
        uint64_t cluster = (entry & QCOW2_OFFSET_MASK) >> c->v.s->h.cluster_bits;
        uint32_t n;

        if (!cluster || cluster < qcow2_counts_start(c->v.counts) ||
            cluster >= qcow2_counts_end(c->v.counts) ||
            qcow2_l1_entry_fault(c->v.s, entry))
            continue;
        n = qcow2_counts_get(c->v.counts, cluster) & QCOW2_COUNT_MASK;
        if ((n == 1) != !!(entry & QCOW2_COPIED))
            qcow2_report_error(c->report,
                               "L1 entry %u (%#" PRIx64 ") is%s marked as one "
                               "whose table may be written in place, and the table has "
                               "refcount %u",
                               i, entry, entry & QCOW2_COPIED ? "" : " not", n);
    }
}

/* ---- the whole ----------------------------------------------------------------- */

static bool go_through(Checker *c, GError **error)
{
    const Qcow2CopiedOps flags = {.wrong = report_flag, .opaque = c};
    uint64_t start = 0;

    do {
        if (!qcow2_survey_count(&c->v, start, error) || !compare_blocks(c, error))
            return false;
        compare_rest(c);
        check_l1_flags(c);
        if (!qcow2_survey_copied(&c->v, &flags, error))
            return false;
        start = qcow2_counts_end(c->v.counts);
    } while (start < c->clusters);
    return true;
}

static bool check_once(Qcow2 *s, bool fix_leaks, Qcow2Report *r, GError **error)
{
    g_autoptr(Qcow2Tree) tree = qcow2_tree_read(s, r, error);
    Checker c = {.report = r, .fix_leaks = fix_leaks};
    bool ok;

    if (!tree)
        return false;
    c.clusters = qcow2_clusters(s, block_file_size(s->file));
    c.block = aligned_alloc(4096, MAX(s->cluster_size, 4096));
    ok = qcow2_survey_init(&c.v, s, tree, r, error) &&
         (c.block || fail(error, VM_ERROR_IO, "no memory for a table")) &&
         read_reftable(&c, error) && go_through(&c, error);
    r->sum->total_clusters = qcow2_clusters(s, s->h.size);
    r->sum->end_offset = c.highest << s->h.cluster_bits;
    r->sum->supported = true;
    qcow2_survey_finish(&c.v);
    free(c.block);
    return ok;
}

static bool repair_leaks(Qcow2 *s, GError **error)
{
    ImageCheck sum = {0};
    Qcow2Report silent = {.sum = &sum};

    if (!check_once(s, true, &silent, error))
        return false;
    errno = block_file_flush(s->file);
    return !errno || fail_errno(error, "write the refcounts");
}

/* New refcounts go behind all that is or was used. */
static bool repair_all(Qcow2 *s, const Qcow2Report *found, GError **error)
{
    uint64_t end = MAX(found->sum->end_offset, s->cluster_size);
    g_autoptr(Qcow2Switch) w = NULL;

    if (found->bad_links && !qcow2_mend_links(s, error))
        return false;
    if (!s->file->is_device)
        end = MAX(end, align_up(block_file_size(s->file), s->cluster_size));
    w = qcow2_switch_new(s, end, error);
    if (!w || !qcow2_switch_commit(w, s->h.size, error))
        return false;
    qcow2_switch_punch(w);
    return true;
}

static bool repair(Qcow2 *s, ImageRepair how, const Qcow2Report *found, GError **error)
{
    if (how == IMAGE_REPAIR_ALL && found->sum->errors)
        return repair_all(s, found, error);
    /* What entries lead to that cannot be followed only looks like leaks. */
    if (found->sum->leaks && !found->bad_links)
        return repair_leaks(s, error) && qcow2_reload(s, error);
    return true;
}

/* The image is in order: the header may say so. */
static bool clear_marks(Qcow2 *s, GError **error)
{
    uint64_t marks = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;

    if (!(s->h.incompatible & marks))
        return true;
    errno = qcow2_set_incompatible(s, marks, false);
    if (errno)
        return fail_errno(error, "write the header");
    __atomic_store_n(&s->broken, false, __ATOMIC_RELAXED);
    return true;
}

static bool check_and_repair(Qcow2 *s, ImageRepair how, Qcow2Report *r, GError **error)
{
    ImageCheck before;
    Qcow2Report after = {.sum = r->sum};

    if (!check_once(s, false, r, error))
        return false;
    if (how == IMAGE_REPAIR_NONE)
        return true;
    before = *r->sum;
    if (before.errors || before.leaks) {
        if (!repair(s, how, r, error))
            return false;
        *r->sum = (ImageCheck){0};
        if (!check_once(s, false, &after, error))
            return false;
        r->sum->errors_fixed = before.errors - MIN(before.errors, r->sum->errors);
        r->sum->leaks_fixed = before.leaks - MIN(before.leaks, r->sum->leaks);
    }
    return r->sum->errors || clear_marks(s, error);
}

bool qcow2_check(BlockImage *img, ImageRepair how, ImageCheck *ret,
                 void (*tell)(void *opaque, const char *text), void *opaque,
                 GError **error)
{
    Qcow2 *s = qcow2_of(img);
    ImageCheck sum = {0};
    Qcow2Report r = {.sum = &sum, .say = tell, .opaque = opaque};
    bool ok = true;

    if (how != IMAGE_REPAIR_NONE && img->readonly)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is open read-only: it can be checked, not repaired", img->path);
    LOCK_GUARD(&s->lock);
    errno = 0;
    if (!img->readonly && !qcow2_broken(s) && s->pages)
        errno = s->lazy ? qcow2_settle(s) : qcow2_flush_metadata(s);
    ok = errno ? fail_errno(error, "write what is cached of its metadata")
               : check_and_repair(s, how, &r, error);
    if (ok)
        *ret = sum;
    else
        g_prefix_error(error, "check '%s': ", img->path);
    return ok;
}
