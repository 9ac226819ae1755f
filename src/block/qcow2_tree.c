/* What a qcow2 file consists of, read whole for those who go through all of it: snapshot
 * table, L1 tables, and where the L2 tables are.  Everything is judged before it is used;
 * the clauses of the format's specification are "Snapshots" and "Cluster mapping". */
#include <errno.h>
#include <string.h>

#include "qcow2_survey_private.h"

enum {
    SNAPSHOT_FIXED = 40,       /* bytes of an entry that are always there */
    SNAPSHOT_MAX_EXTRA = 1024, /* QEMU refuses more */
    SNAPSHOT_MAX_TABLE = 64 << 20,
    SNAPSHOT_MAX_ENTRY = SNAPSHOT_FIXED + SNAPSHOT_MAX_EXTRA + 2 * 65535 + 8,
    MAX_L2_TABLES = 8 << 20,
    L1_PIECE = 8192, /* entries read at a time */
};
#define L1_RESERVED 0x7f000000000001ffull
#define L2_RESERVED 0x3f000000000001feull

int qcow2_read_padded(Qcow2 *s, uint64_t offset, void *buf, uint64_t len)
{
    uint64_t size = block_file_size(s->file);
    uint64_t there = offset < size ? MIN(len, size - offset) : 0;

    memset((uint8_t *)buf + there, 0, len - there);
    return there ? block_file_read(s->file, offset, buf, there) : 0;
}

/* ---- the snapshot table -------------------------------------------------------- */

void qcow2_snapshot_free(Qcow2Snapshot *snap)
{
    if (!snap)
        return;
    g_free(snap->raw);
    g_free(snap->id);
    g_free(snap->name);
    g_free(snap);
}

/* raw is an entry as in the file; taken over. */
static Qcow2Snapshot *parse_snapshot(const Qcow2 *s, uint8_t *raw, size_t len)
{
    Qcow2Snapshot *snap = g_new0(Qcow2Snapshot, 1);
    unsigned id_len = load_be16(raw + 12), name_len = load_be16(raw + 14);
    const char *id;

    snap->raw = raw;
    snap->len = len;
    snap->l1_offset = load_be64(raw);
    snap->l1_entries = load_be32(raw + 8);
    snap->vm_state_size = load_be32(raw + 32);
    snap->disk_size = s->h.size;
    snap->extra_len = load_be32(raw + 36);
    if (snap->extra_len >= 8)
        snap->vm_state_size = load_be64(raw + SNAPSHOT_FIXED);
    if (snap->extra_len >= 16)
        snap->disk_size = load_be64(raw + SNAPSHOT_FIXED + 8);
    id = (const char *)raw + SNAPSHOT_FIXED + snap->extra_len;
    snap->id = g_strndup(id, id_len);
    snap->name = g_strndup(id + id_len, name_len);
    return snap;
}

static bool read_snapshot(Qcow2 *s, uint64_t offset, uint8_t *buf, Qcow2Snapshot **ret,
                          GError **error)
{
    uint32_t extra;
    size_t len;

    errno = qcow2_read_padded(s, offset, buf, SNAPSHOT_FIXED);
    if (errno)
        return fail_errno(error, "read the snapshot table");
    extra = load_be32(buf + 36);
    if (extra > SNAPSHOT_MAX_EXTRA)
        return fail(error, VM_ERROR_CORRUPT,
                    "extra_data_size in the snapshot table's entry at offset %" PRIu64
                    " is %u; at most %d makes sense",
                    offset, extra, SNAPSHOT_MAX_EXTRA);
    len = SNAPSHOT_FIXED + extra + load_be16(buf + 12) + load_be16(buf + 14);
    if (!range_within(offset, len, block_file_size(s->file)))
        return fail(error, VM_ERROR_CORRUPT,
                    "the snapshot table's entry at offset %" PRIu64
                    " reaches beyond the end of the file",
                    offset);
    errno = qcow2_read_padded(s, offset, buf, align_up(len, 8));
    if (errno)
        return fail_errno(error, "read the snapshot table");
    *ret = parse_snapshot(s, g_memdup2(buf, align_up(len, 8)), align_up(len, 8));
    return true;
}

bool qcow2_snapshots_read(Qcow2 *s, GPtrArray *snaps, uint64_t *ret_len, GError **error)
{
    g_autofree uint8_t *buf = g_malloc(SNAPSHOT_MAX_ENTRY);
    uint64_t len = 0;
    bool ok = true;

    *ret_len = 0;
    if (s->h.n_snapshots && !is_aligned(s->h.snapshots_offset, s->cluster_size))
        return fail(error, VM_ERROR_CORRUPT,
                    "snapshots_offset is %" PRIu64 ", which is not a multiple of the "
                    "cluster size",
                    s->h.snapshots_offset);
    for (uint32_t i = 0; ok && i < s->h.n_snapshots; i++) {
        Qcow2Snapshot *snap = NULL;

        ok = len <= SNAPSHOT_MAX_TABLE ||
             fail(error, VM_ERROR_CORRUPT,
                  "the snapshot table is larger than %d MiB: nb_snapshots (%u) cannot be "
                  "right",
                  SNAPSHOT_MAX_TABLE >> 20, s->h.n_snapshots);
        ok = ok && read_snapshot(s, s->h.snapshots_offset + len, buf, &snap, error);
        if (ok) {
            g_ptr_array_add(snaps, snap);
            len += snap->len;
        }
    }
    *ret_len = len;
    return ok;
}

/* ---- entries ------------------------------------------------------------------- */

/* Of [offset, offset + len) a part of the last cluster may lie beyond the end of the
 * file, which reads as zeroes. */
static bool in_file(const Qcow2 *s, uint64_t offset, uint64_t len)
{
    return range_within(offset, len, align_up(block_file_size(s->file), s->cluster_size));
}

const char *qcow2_l1_table_fault(const Qcow2 *s, uint64_t offset, uint64_t entries)
{
    if (entries > QCOW2_MAX_L1_BYTES / 8)
        return "has more entries than an L1 table may have";
    if (!is_aligned(offset, s->cluster_size))
        return "does not begin at a cluster boundary";
    if (entries && !offset)
        return "is where the header is";
    return in_file(s, offset, entries * 8) ? NULL : "lies beyond the end of the file";
}

const char *qcow2_l1_entry_fault(const Qcow2 *s, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry & L1_RESERVED)
        return "has reserved bits set";
    if (!is_aligned(offset, s->cluster_size))
        return "leads to an L2 table that does not begin at a cluster boundary";
    if (!offset)
        return entry ? "is marked as in use and leads nowhere" : NULL;
    return in_file(s, offset, s->cluster_size) ? NULL
                                               : "leads beyond the end of the file";
}

Qcow2Spot qcow2_spot(const Qcow2 *s, const Qcow2Entry *e)
{
    uint64_t offset = e->entry & QCOW2_OFFSET_MASK;
    unsigned x = 62 - (s->h.cluster_bits - 8);

    if (e->entry & QCOW2_COMPRESSED) {
        uint64_t sectors = ((e->entry & ~(QCOW2_COMPRESSED | QCOW2_COPIED)) >> x) + 1;

        offset = e->entry & (BIT64(x) - 1);
        return (Qcow2Spot){QCOW2_SPOT_PACKED, offset, sectors * 512 - (offset & 511)};
    }
    /* In an external data file 0 is a place for data like any other. */
    if (offset || (s->data != s->file && (e->entry & QCOW2_COPIED) &&
                   (s->subclusters > 1 || !(e->entry & QCOW2_ZERO))))
        return (Qcow2Spot){QCOW2_SPOT_CLUSTER, offset, s->cluster_size};
    return (Qcow2Spot){QCOW2_SPOT_NONE};
}

Qcow2Entry qcow2_lost_entry(const Qcow2 *s)
{
    if (s->subclusters > 1)
        return (Qcow2Entry){0, ~0ull << 32};
    return (Qcow2Entry){s->h.version >= 3 ? QCOW2_ZERO : 0, 0};
}

static const char *packed_fault(const Qcow2 *s, const Qcow2Entry *e, const Qcow2Spot *p,
                                Qcow2Entry *instead)
{
    *instead = qcow2_lost_entry(s);
    if (s->data != s->file)
        return "is compressed, in an image with an external data file";
    if (p->offset >= BIT64(56) || !in_file(s, p->offset, p->len))
        return "leads to compressed data beyond the end of the file";
    if (p->offset < s->cluster_size)
        return "leads to compressed data where the header is";
    *instead = (Qcow2Entry){e->entry & ~QCOW2_COPIED, 0};
    if (e->entry & QCOW2_COPIED)
        return "is compressed, and marked as one that may be written in place";
    return e->bitmap ? "is compressed, and has subclusters" : NULL;
}

static const char *cluster_fault(const Qcow2 *s, const Qcow2Entry *e, const Qcow2Spot *p,
                                 uint64_t guest, Qcow2Entry *instead)
{
    *instead = qcow2_lost_entry(s);
    if (s->data != s->file) {
        instead->entry = (e->entry & ~QCOW2_OFFSET_MASK) | guest | QCOW2_COPIED;
        instead->bitmap = e->bitmap;
        return p->offset == guest ? NULL : "is not where the external data file has it";
    }
    if (!is_aligned(p->offset, s->cluster_size))
        return "leads to data that do not begin at a cluster boundary";
    if (!in_file(s, p->offset, s->cluster_size))
        return "leads to data beyond the end of the file";
    return NULL;
}

const char *qcow2_l2_entry_fault(const Qcow2 *s, const Qcow2Entry *e, uint64_t guest,
                                 Qcow2Entry *instead)
{
    uint64_t reserved = L2_RESERVED;
    Qcow2Spot p = qcow2_spot(s, e);
    const char *fault = NULL;

    if (p.kind == QCOW2_SPOT_PACKED)
        return packed_fault(s, e, &p, instead);
    if (s->h.version < 3 || s->subclusters > 1)
        reserved |= QCOW2_ZERO;
    if (p.kind == QCOW2_SPOT_CLUSTER)
        fault = cluster_fault(s, e, &p, guest, instead);
    if (fault)
        return fault;
    *instead = *e;
    if (e->entry & reserved) {
        instead->entry &= ~reserved;
        return "has reserved bits set";
    }
    if (s->subclusters > 1 && (e->bitmap & (e->bitmap >> 32) & UINT32_MAX)) {
        instead->bitmap &= ~(e->bitmap >> 32);
        return "has subclusters that are both data and zeroes";
    }
    if (s->subclusters > 1 && p.kind == QCOW2_SPOT_NONE && (e->bitmap & UINT32_MAX)) {
        instead->bitmap &= ~(uint64_t)UINT32_MAX;
        return "has subclusters with data, and no place for them";
    }
    return NULL;
}

Qcow2Entry qcow2_table_get(const Qcow2 *s, const uint8_t *table, uint32_t i)
{
    const uint8_t *at = table + (size_t)i * s->l2_entry_size;

    return (Qcow2Entry){load_be64(at), s->l2_entry_size > 8 ? load_be64(at + 8) : 0};
}

void qcow2_table_put(const Qcow2 *s, uint8_t *table, uint32_t i, const Qcow2Entry *e)
{
    uint8_t *at = table + (size_t)i * s->l2_entry_size;

    store_be64(at, e->entry);
    if (s->l2_entry_size > 8)
        store_be64(at + 8, e->bitmap);
}

/* ---- L2 tables, each once ------------------------------------------------------ */

static int by_offset(const void *a, const void *b)
{
    const Qcow2L2Ref *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void merge_l2s(GArray *l2s)
{
    Qcow2L2Ref *ref = (Qcow2L2Ref *)(void *)l2s->data;
    unsigned n = 0;

    g_array_sort(l2s, by_offset);
    for (unsigned i = 0; i < l2s->len; i++) {
        if (n && ref[n - 1].offset == ref[i].offset) {
            ref[n - 1].weight += ref[i].weight;
            ref[n - 1].active += ref[i].active;
            if (ref[i].active)
                ref[n - 1].l1_index = ref[i].l1_index;
        } else {
            ref[n++] = ref[i];
        }
    }
    g_array_set_size(l2s, n);
}

typedef struct Collector {
    Qcow2 *s;
    Qcow2Tree *t;
    Qcow2Report *report;
    unsigned merge_at; /* so many entries */
    uint32_t actives;  /* L1 tables with the active one's contents */
} Collector;

static bool collect_entry(Collector *c, uint64_t entry, const char *whose, uint64_t index,
                          bool active, GError **error)
{
    const char *fault = qcow2_l1_entry_fault(c->s, entry);
    Qcow2L2Ref ref = {.offset = entry & QCOW2_OFFSET_MASK, .weight = 1};

    if (fault) {
        c->report->bad_links = true;
        qcow2_report_error(c->report, "L1 entry %" PRIu64 " of %s (%#" PRIx64 ") %s",
                           index, whose, entry, fault);
    }
    if (fault || !entry)
        return true;
    if (active)
        ref.weight = ref.active = c->actives;
    ref.l1_index = (uint32_t)index;
    g_array_append_val(c->t->l2s, ref);
    if (c->t->l2s->len < c->merge_at)
        return true;
    merge_l2s(c->t->l2s);
    if (c->t->l2s->len > MAX_L2_TABLES)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "it has more than %d Mi L2 tables, which is too many to go through "
                    "at once: convert it to an image with larger clusters",
                    MAX_L2_TABLES >> 20);
    c->merge_at = MAX(c->merge_at, 2 * c->t->l2s->len);
    return true;
}

static bool collect_snapshot(Collector *c, const Qcow2Snapshot *snap, GError **error)
{
    g_autofree uint8_t *buf = g_malloc(L1_PIECE * 8);
    g_autofree char *whose = g_strdup_printf("snapshot '%.80s'", snap->name);
    const char *fault = qcow2_l1_table_fault(c->s, snap->l1_offset, snap->l1_entries);

    if (fault) {
        c->report->bad_links = true;
        qcow2_report_error(
            c->report, "the L1 table of %s (l1_table_offset %" PRIu64 ", l1_size %u) %s",
            whose, snap->l1_offset, snap->l1_entries, fault);
        return true;
    }
    for (uint32_t i = 0; i < snap->l1_entries; i++) {
        uint32_t at = i % L1_PIECE;

        if (at == 0) {
            errno = qcow2_read_padded(c->s, snap->l1_offset + (uint64_t)i * 8, buf,
                                      MIN(L1_PIECE, snap->l1_entries - i) * 8);
            if (errno)
                return fail_errno(error, "read the L1 table of %s", whose);
        }
        if (!collect_entry(c, load_be64(buf + (size_t)at * 8), whose, i, false, error))
            return false;
    }
    return true;
}

bool qcow2_tree_collect(Qcow2 *s, Qcow2Tree *t, Qcow2Report *r, GError **error)
{
    Collector c = {s, t, r, 1 << 16, 1};
    uint64_t l1_bytes = 0;

    g_array_set_size(t->l2s, 0);
    for (unsigned i = 0; i < t->snaps->len; i++)
        c.actives += ((Qcow2Snapshot *)t->snaps->pdata[i])->fresh;
    for (uint32_t i = 0; t->l1 && i < t->l1_entries; i++)
        if (!collect_entry(&c, t->l1[i], "the active table", i, true, error))
            return false;
    for (unsigned i = 0; i < t->snaps->len; i++) {
        const Qcow2Snapshot *snap = t->snaps->pdata[i];

        if (snap->fresh)
            continue;
        l1_bytes += (uint64_t)snap->l1_entries * 8;
        if (l1_bytes > align_up(block_file_size(s->file), s->cluster_size)) {
            r->bad_links = true;
            qcow2_report_error(r,
                               "the L1 tables of the first %u snapshots are together "
                               "larger than the file: l1_size of some is wrong",
                               i + 1);
            break;
        }
        if (!collect_snapshot(&c, snap, error))
            return false;
    }
    merge_l2s(t->l2s);
    return true;
}

/* ---- the tree ------------------------------------------------------------------ */

static bool read_l1(Qcow2 *s, Qcow2Tree *t, Qcow2Report *r, GError **error)
{
    const char *fault = qcow2_l1_table_fault(s, s->h.l1_offset, s->h.l1_entries);

    if (fault) {
        r->bad_links = true;
        qcow2_report_error(
            r, "the active L1 table (l1_table_offset %" PRIu64 ", l1_size %u) %s",
            s->h.l1_offset, s->h.l1_entries, fault);
        return true;
    }
    t->l1_offset = s->h.l1_offset;
    t->l1_entries = s->h.l1_entries;
    t->l1 = g_try_malloc0_n(MAX(t->l1_entries, 1), 8);
    if (!t->l1)
        return fail(error, VM_ERROR_IO, "no memory for the L1 table");
    errno = qcow2_read_padded(s, t->l1_offset, t->l1, (uint64_t)t->l1_entries * 8);
    if (errno)
        return fail_errno(error, "read the active L1 table");
    for (uint32_t i = 0; i < t->l1_entries; i++)
        t->l1[i] = GUINT64_FROM_BE(t->l1[i]);
    return true;
}

static void read_snapshots(Qcow2 *s, Qcow2Tree *t, Qcow2Report *r)
{
    g_autoptr(GError) error = NULL;

    t->snaps_offset = s->h.snapshots_offset;
    if (!qcow2_snapshots_read(s, t->snaps, &t->snaps_len, &error)) {
        r->bad_links = true;
        qcow2_report_error(r, "%s", error->message);
    }
    for (unsigned i = 0; s->h.version >= 3 && i < t->snaps->len; i++) {
        const Qcow2Snapshot *snap = t->snaps->pdata[i];

        if (snap->extra_len < 16)
            qcow2_report_error(r,
                               "snapshot '%.80s' does not say how large its disk is "
                               "(extra_data_size is %u)",
                               snap->name, snap->extra_len);
    }
}

Qcow2Tree *qcow2_tree_read(Qcow2 *s, Qcow2Report *r, GError **error)
{
    g_autoptr(Qcow2Tree) t = g_new0(Qcow2Tree, 1);

    t->snaps = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    t->l2s = g_array_new(FALSE, FALSE, sizeof(Qcow2L2Ref));
    if (!read_l1(s, t, r, error))
        return NULL;
    read_snapshots(s, t, r);
    return qcow2_tree_collect(s, t, r, error) ? g_steal_pointer(&t) : NULL;
}

void qcow2_tree_free(Qcow2Tree *t)
{
    if (!t)
        return;
    g_ptr_array_free(t->snaps, TRUE);
    g_array_free(t->l2s, TRUE);
    g_free(t->l1);
    g_free(t);
}
