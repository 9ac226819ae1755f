/* Counts what refers to each cluster of a qcow2 file: the header, its tables, snapshots,
 * bitmaps, and the guest's data.
 *
 * An L2 table that several snapshots share is read once and counts as often as it is
 * shared, so the time goes with the size of the file, not with the number of snapshots.
 * Where the counters have no room for all clusters, one window of them is counted at a
 * time, each time going through all L2 tables. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_survey_private.h"

enum {
    BITMAPS_MAX = 65535,
    BITMAP_MAX_TABLE = 64 << 20, /* entries; QEMU's limits are as generous */
    BITMAP_PIECE = 8192,
    TABLE_ALIGN = 4096, /* what O_DIRECT is content with nearly everywhere */
    MESSAGES = 200,
};

uint64_t qcow2_survey_memory = 512 * MIB;

/* ---- findings ------------------------------------------------------------------ */

static void say(Qcow2Report *r, const char *fmt, va_list ap) G_GNUC_PRINTF(2, 0);

static void say(Qcow2Report *r, const char *fmt, va_list ap)
{
    if (!r->say || r->said > MESSAGES)
        return;
    if (r->said++ == MESSAGES) {
        r->say(r->opaque, "there is more, which is counted and not told");
        return;
    }
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    for (char *c = text; *c; c++) /* names of snapshots are somebody else's */
        if (g_ascii_iscntrl(*c))
            *c = '?';
    r->say(r->opaque, text);
}

void qcow2_report_error(Qcow2Report *r, const char *fmt, ...)
{
    va_list ap;

    r->sum->errors++;
    va_start(ap, fmt);
    say(r, fmt, ap);
    va_end(ap);
}

void qcow2_report_leak(Qcow2Report *r, const char *fmt, ...)
{
    va_list ap;

    r->sum->leaks++;
    va_start(ap, fmt);
    say(r, fmt, ap);
    va_end(ap);
}

/* ---- making one ---------------------------------------------------------------- */

bool qcow2_survey_init(Qcow2Survey *v, Qcow2 *s, Qcow2Tree *tree, Qcow2Report *report,
                       GError **error)
{
    *v = (Qcow2Survey){.s = s, .tree = tree, .report = report};
    v->counts = qcow2_counts_new(qcow2_survey_memory);
    v->table = aligned_alloc(TABLE_ALIGN, MAX(s->cluster_size, TABLE_ALIGN));
    return v->table || fail(error, VM_ERROR_IO, "no memory for a table");
}

void qcow2_survey_finish(Qcow2Survey *v)
{
    qcow2_counts_free(v->counts);
    free(v->table);
    g_free(v->reftable);
}

/* ---- metadata ------------------------------------------------------------------ */

static void count_range(Qcow2Survey *v, uint64_t offset, uint64_t len, uint32_t weight,
                        bool table)
{
    unsigned bits = v->s->h.cluster_bits;
    uint64_t first = offset >> bits, last = len ? (offset + len - 1) >> bits : first;

    if (len)
        qcow2_counts_add(v->counts, first, last - first + 1, weight, table);
}

static void count_snapshots(Qcow2Survey *v)
{
    for (unsigned i = 0; i < v->tree->snaps->len; i++) {
        const Qcow2Snapshot *snap = v->tree->snaps->pdata[i];

        if (!snap->fresh &&
            !qcow2_l1_table_fault(v->s, snap->l1_offset, snap->l1_entries))
            count_range(v, snap->l1_offset, (uint64_t)snap->l1_entries * 8, 1, true);
    }
    if (is_aligned(v->tree->snaps_offset, v->s->cluster_size))
        count_range(v, v->tree->snaps_offset, v->tree->snaps_len, 1, true);
}

/* Refcount table entry: bits 0 - 8 are reserved, the rest is an offset. */
static void count_refcounts(Qcow2Survey *v, bool first)
{
    Qcow2 *s = v->s;

    if (!v->reftable)
        return;
    count_range(v, s->h.reftable_offset, (uint64_t)v->reftable_entries * 8, 1, true);
    for (uint32_t i = 0; i < v->reftable_entries; i++) {
        uint64_t offset = v->reftable[i];
        const char *fault = NULL;

        if (!is_aligned(offset, s->cluster_size))
            fault = "does not begin at a cluster boundary";
        else if (offset &&
                 !range_within(offset, s->cluster_size,
                               align_up(block_file_size(s->file), s->cluster_size)))
            fault = "lies beyond the end of the file";
        if (!fault) {
            count_range(v, offset, offset ? s->cluster_size : 0, 1, true);
        } else if (first) {
            v->report->bad_refs = true;
            qcow2_report_error(v->report, "refcount block %u (offset %#" PRIx64 ") %s", i,
                               offset, fault);
        }
    }
}

/* ---- bitmaps ------------------------------------------------------------------- */

/* The data of the bitmaps extension, if the header vouches for it ("Bitmaps extension":
 * without the autoclear bit the data are inconsistent, and their clusters leaks). */
static bool bitmaps_directory(const Qcow2 *s, uint32_t *n, uint64_t *offset,
                              uint64_t *len)
{
    const Qcow2Extension *e = qcow2_extension(s, QCOW2_EXT_BITMAPS);

    if (!e || e->len < 24 || !(s->h.autoclear & QCOW2_AUTOCLEAR_BITMAPS))
        return false;
    *n = load_be32(e->data);
    *len = load_be64(e->data + 8);
    *offset = load_be64(e->data + 16);
    return *n && *n <= BITMAPS_MAX;
}

static void bitmap_fault(Qcow2Survey *v, bool first, uint64_t offset, const char *what)
{
    if (first)
        qcow2_report_error(v->report,
                           "a bitmap's %s at offset %#" PRIx64
                           " is not within the file, at a cluster boundary",
                           what, offset);
}

static bool count_bitmap_range(Qcow2Survey *v, uint64_t offset, uint64_t len, bool first,
                               const char *what)
{
    bool ok = is_aligned(offset, v->s->cluster_size) && offset &&
              range_within(offset, len,
                           align_up(block_file_size(v->s->file), v->s->cluster_size));

    if (ok)
        count_range(v, offset, len, 1, true);
    else
        bitmap_fault(v, first, offset, what);
    return ok;
}

static int count_bitmap(Qcow2Survey *v, uint64_t offset, uint64_t entries, bool first)
{
    g_autofree uint8_t *buf = g_malloc(BITMAP_PIECE * 8);

    if (entries > BITMAP_MAX_TABLE ||
        !count_bitmap_range(v, offset, entries * 8, first, "table"))
        return 0;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t data;

        if (i % BITMAP_PIECE == 0) {
            int err = qcow2_read_padded(v->s, offset + i * 8, buf,
                                        MIN(BITMAP_PIECE, entries - i) * 8);
            if (err)
                return err;
        }
        data = load_be64(buf + i % BITMAP_PIECE * 8) & QCOW2_OFFSET_MASK;
        if (data)
            count_bitmap_range(v, data, v->s->cluster_size, first, "data");
    }
    return 0;
}

static int count_bitmaps(Qcow2Survey *v, bool first)
{
    uint64_t offset, len, at = 0;
    uint32_t n;
    int err = 0;

    if (!bitmaps_directory(v->s, &n, &offset, &len) ||
        !count_bitmap_range(v, offset, len, first, "directory"))
        return 0;
    for (uint32_t i = 0; i < n && at + 24 <= len && !err; i++) {
        uint8_t entry[24];

        err = qcow2_read_padded(v->s, offset + at, entry, sizeof(entry));
        if (!err)
            err = count_bitmap(v, load_be64(entry), load_be32(entry + 8), first);
        at += align_up(24 + load_be16(entry + 18) + (uint64_t)load_be32(entry + 20), 8);
    }
    return err;
}

/* ---- L2 tables and data -------------------------------------------------------- */

static uint64_t guest_offset(const Qcow2 *s, const Qcow2L2Ref *l2, uint32_t i)
{
    return ((uint64_t)l2->l1_index * qcow2_table_len(s) + i) << s->h.cluster_bits;
}

/* As qemu-img counts them: compressed clusters are fragments by nature, others if they do
 * not follow the one before in their L2 table. */
static void add_figures(ImageCheck *sum, const Qcow2Spot *p, uint64_t *next)
{
    sum->allocated_clusters++;
    if (p->kind == QCOW2_SPOT_PACKED) {
        sum->compressed_clusters++;
        sum->fragmented_clusters++;
        return;
    }
    if (*next && *next != p->offset)
        sum->fragmented_clusters++;
    *next = p->offset + p->len;
}

static void count_table(Qcow2Survey *v, const Qcow2L2Ref *l2, bool first)
{
    Qcow2 *s = v->s;
    uint64_t next = 0;

    for (uint32_t i = 0; i < qcow2_table_len(s); i++) {
        Qcow2Entry e = qcow2_table_get(s, v->table, i), instead;
        const char *fault;
        Qcow2Spot p;

        if (!e.entry && !e.bitmap)
            continue;
        fault = qcow2_l2_entry_fault(s, &e, guest_offset(s, l2, i), &instead);
        if (fault && first) {
            v->report->bad_links = true;
            qcow2_report_error(v->report,
                               "entry %u (%#" PRIx64 ") of the L2 table at "
                               "offset %#" PRIx64 " %s",
                               i, e.entry, l2->offset, fault);
        }
        if (fault)
            e = instead;
        p = qcow2_spot(s, &e);
        if (p.kind == QCOW2_SPOT_NONE)
            continue;
        if (first && l2->active)
            add_figures(v->report->sum, &p, &next);
        if (s->data == s->file)
            count_range(v, p.offset, p.len, l2->weight, false);
    }
}

static Qcow2L2Ref *l2_at(const Qcow2Survey *v, unsigned i)
{
    return &g_array_index(v->tree->l2s, Qcow2L2Ref, i);
}

static bool read_table(Qcow2Survey *v, const Qcow2L2Ref *l2, GError **error)
{
    uint64_t offset = l2->moved ? l2->moved : l2->offset;

    errno = qcow2_read_padded(v->s, offset, v->table, v->s->cluster_size);
    return !errno || fail_errno(error, "read the L2 table at offset %" PRIu64, offset);
}

bool qcow2_survey_count(Qcow2Survey *v, uint64_t start, GError **error)
{
    Qcow2Tree *t = v->tree;
    bool first = start == 0;

    qcow2_counts_begin(v->counts, start);
    count_range(v, 0, v->s->cluster_size, 1, true); /* the header */
    if (t->l1_offset)
        count_range(v, t->l1_offset, (uint64_t)t->l1_entries * 8, 1, true);
    count_snapshots(v);
    count_refcounts(v, first);
    for (unsigned i = 0; v->more && i < v->more->len; i++) {
        const Qcow2Range *r = &g_array_index(v->more, Qcow2Range, i);

        count_range(v, r->offset, r->len, 1, true);
    }
    errno = count_bitmaps(v, first);
    if (errno)
        return fail_errno(error, "read the bitmaps");
    for (unsigned i = 0; i < t->l2s->len; i++) {
        const Qcow2L2Ref *l2 = l2_at(v, i);
        uint32_t moved = l2->moved ? l2->active : 0;

        count_range(v, l2->moved, moved ? v->s->cluster_size : 0, moved, true);
        if (l2->weight > moved)
            count_range(v, l2->offset, v->s->cluster_size, l2->weight - moved, true);
    }
    for (unsigned i = 0; i < t->l2s->len; i++) {
        if (!read_table(v, l2_at(v, i), error))
            return false;
        count_table(v, l2_at(v, i), first);
    }
    return !qcow2_counts_failed(v->counts) ||
           fail(error, VM_ERROR_IO, "no memory to count clusters");
}

/* ---- the flag "refcount is exactly one" ---------------------------------------- */

static bool in_window(const Qcow2Survey *v, uint64_t cluster)
{
    return cluster >= qcow2_counts_start(v->counts) &&
           cluster < qcow2_counts_end(v->counts);
}

/* How often the cluster of an entry is used; -1: nothing to say in this window. */
static int64_t uses(Qcow2Survey *v, const Qcow2L2Ref *l2, uint32_t i, const Qcow2Entry *e)
{
    Qcow2 *s = v->s;
    Qcow2Spot p = qcow2_spot(s, e);
    uint64_t cluster = p.offset >> s->h.cluster_bits;
    Qcow2Entry instead;

    if (p.kind != QCOW2_SPOT_CLUSTER)
        return -1;
    if (s->data != s->file) /* not counted, and nobody else's */
        return qcow2_counts_start(v->counts) == 0 &&
                       !qcow2_l2_entry_fault(s, e, guest_offset(s, l2, i), &instead)
                   ? 1
                   : -1;
    if (!is_aligned(p.offset, s->cluster_size) || cluster >= v->clusters ||
        !in_window(v, cluster))
        return -1;
    return qcow2_counts_get(v->counts, cluster) & QCOW2_COUNT_MASK;
}

static bool turn_flags(Qcow2Survey *v, const Qcow2L2Ref *l2, const Qcow2CopiedOps *ops)
{
    bool changed = false;

    for (uint32_t i = 0; i < qcow2_table_len(v->s); i++) {
        Qcow2Entry e = qcow2_table_get(v->s, v->table, i);
        int64_t n;

        if (!e.entry)
            continue;
        n = uses(v, l2, i, &e);
        if (n < 0 || (n == 1) == !!(e.entry & QCOW2_COPIED) ||
            !ops->wrong(ops->opaque, e.entry, (uint32_t)n))
            continue;
        e.entry ^= QCOW2_COPIED;
        qcow2_table_put(v->s, v->table, i, &e);
        changed = true;
    }
    return changed;
}

bool qcow2_survey_copied(Qcow2Survey *v, const Qcow2CopiedOps *ops, GError **error)
{
    v->clusters = qcow2_clusters(v->s, block_file_size(v->s->file));
    for (unsigned i = 0; i < v->tree->l2s->len; i++) {
        Qcow2L2Ref *l2 = l2_at(v, i);

        if (!l2->active)
            continue;
        if (!read_table(v, l2, error))
            return false;
        if (turn_flags(v, l2, ops) && !ops->write(ops->opaque, l2, v->table, error))
            return false;
    }
    return true;
}
