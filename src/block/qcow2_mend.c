/* Takes out of a damaged qcow2 file what cannot be saved: entries of L1 and L2 tables
 * that lead out of the file, into metadata, or make no sense.  What the guest had there
 * is gone; it reads as zeroes afterwards, not as what a backing image happens to have.
 *
 * Entries are replaced in place, one at a time; the file is no worse after each.  The
 * active L1 table and the snapshot table are left to who writes them anew
 * (qcow2_switch.c), who leaves out what has a fault. */
#include <errno.h>

#include "qcow2_survey_private.h"

/* ---- L1 tables of snapshots ---------------------------------------------------- */

static bool mend_snapshot(Qcow2 *s, const Qcow2Snapshot *snap, GError **error)
{
    static const uint8_t nothing[8];
    uint8_t entry[8];

    if (qcow2_l1_table_fault(s, snap->l1_offset, snap->l1_entries))
        return true;
    for (uint32_t i = 0; i < snap->l1_entries; i++) {
        uint64_t at = snap->l1_offset + (uint64_t)i * 8;

        errno = qcow2_read_padded(s, at, entry, sizeof(entry));
        if (!errno && qcow2_l1_entry_fault(s, load_be64(entry)))
            errno = block_file_write(s->file, at, nothing, sizeof(nothing));
        if (errno)
            return fail_errno(error, "repair the L1 table of snapshot '%s'", snap->name);
    }
    return true;
}

/* ---- L2 tables ----------------------------------------------------------------- */

/* Whether any cluster of the place holds metadata too. */
static bool clashes(Qcow2Survey *v, const Qcow2Spot *p)
{
    uint64_t first = p->offset / v->s->cluster_size;
    uint64_t last = (p->offset + p->len - 1) / v->s->cluster_size;

    for (uint64_t i = first; i <= last; i++)
        if (i >= qcow2_counts_start(v->counts) && i < qcow2_counts_end(v->counts) &&
            (qcow2_counts_get(v->counts, i) & QCOW2_COUNT_TABLE))
            return true;
    return false;
}

static bool mend_entry(Qcow2Survey *v, const Qcow2L2Ref *l2, uint32_t i)
{
    Qcow2 *s = v->s;
    Qcow2Entry e = qcow2_table_get(s, v->table, i), instead = e;
    uint64_t guest = ((uint64_t)l2->l1_index * qcow2_table_len(s) + i)
                     << s->h.cluster_bits;
    Qcow2Spot p;

    if (!e.entry && !e.bitmap)
        return false;
    /* More than one thing may be wrong with it. */
    for (unsigned n = 0; n < 4 && qcow2_l2_entry_fault(s, &e, guest, &instead); n++)
        e = instead;
    p = qcow2_spot(s, &e);
    if (p.kind != QCOW2_SPOT_NONE && s->data == s->file && clashes(v, &p))
        e = qcow2_lost_entry(s);
    instead = qcow2_table_get(s, v->table, i);
    if (e.entry == instead.entry && e.bitmap == instead.bitmap)
        return false;
    qcow2_table_put(s, v->table, i, &e);
    return true;
}

static bool mend_table(Qcow2Survey *v, const Qcow2L2Ref *l2, GError **error)
{
    Qcow2 *s = v->s;
    bool changed = false;

    errno = qcow2_read_padded(s, l2->offset, v->table, s->cluster_size);
    for (uint32_t i = 0; !errno && i < qcow2_table_len(s); i++)
        changed |= mend_entry(v, l2, i);
    if (!errno && changed)
        errno = block_file_write(s->file, l2->offset, v->table, s->cluster_size);
    return !errno ||
           fail_errno(error, "repair the L2 table at offset %" PRIu64, l2->offset);
}

static bool mend_tables(Qcow2Survey *v, GError **error)
{
    uint64_t start = 0;

    do {
        if (!qcow2_survey_count(v, start, error))
            return false;
        for (unsigned i = 0; i < v->tree->l2s->len; i++)
            if (!mend_table(v, &g_array_index(v->tree->l2s, Qcow2L2Ref, i), error))
                return false;
        start = qcow2_counts_end(v->counts);
    } while (start != UINT64_MAX);
    return true;
}

bool qcow2_mend_links(Qcow2 *s, GError **error)
{
    ImageCheck sum = {0};
    Qcow2Report silent = {.sum = &sum};
    g_autoptr(Qcow2Tree) tree = qcow2_tree_read(s, &silent, error);
    g_auto(Qcow2Survey) v = {0};

    if (!tree)
        return false;
    for (unsigned i = 0; i < tree->snaps->len; i++)
        if (!mend_snapshot(s, tree->snaps->pdata[i], error))
            return false;
    if (!qcow2_survey_init(&v, s, tree, &silent, error) || !mend_tables(&v, error))
        return false;
    errno = block_file_flush(s->file);
    return !errno || fail_errno(error, "write the repaired tables");
}
