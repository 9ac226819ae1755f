/* Refcounts: of every width, in blocks that a table lists.  Clauses of QEMU's
 * docs/interop/qcow2: "Host cluster management".
 *
 * References given back are kept in a table of their own until no table on the disk has
 * them any more (the head of qcow2_order.c); only then is the refcount lowered, the place
 * given back to the host and the cluster free to be taken.
 *
 * When the refcount table has become too small (qcow2_alloc.c), the larger one is
 * complete on the disk before the header points to it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_refs_private.h"

enum {
    MAX_GIVEN_BACK = 32768, /* clusters; then they are brought to the disk at once */
    TABLE_PIECE = 512,
};

/* ---- one refcount in the bytes of a block -------------------------------------- */

uint64_t qcow2_refcount_load(const uint8_t *block, unsigned order, uint64_t index)
{
    switch (order) {
    case 0:
    case 1:
    case 2: {
        unsigned per_byte = 8 >> order, bits = BIT(order);

        return (block[index / per_byte] >> (index % per_byte * bits)) & (BIT(bits) - 1);
    }
    case 3:
        return block[index];
    case 4:
        return load_be16(block + index * 2);
    case 5:
        return load_be32(block + index * 4);
    default:
        return load_be64(block + index * 8);
    }
}

void qcow2_refcount_store(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
    switch (order) {
    case 0:
    case 1:
    case 2: {
        unsigned per_byte = 8 >> order, bits = BIT(order);
        unsigned shift = (unsigned)(index % per_byte) * bits;
        uint8_t *byte = &block[index / per_byte];

        *byte = (uint8_t)((*byte & ~((BIT(bits) - 1) << shift)) | (value << shift));
        break;
    }
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        store_be16(block + index * 2, (uint16_t)value);
        break;
    case 5:
        store_be32(block + index * 4, (uint32_t)value);
        break;
    default:
        store_be64(block + index * 8, value);
    }
}

static uint64_t max_count(const Qcow2Refs *r)
{
    return r->order == 6 ? UINT64_MAX : BIT64(BIT(r->order)) - 1;
}

/* ---- a span: refcounts that follow one another in one page --------------------- */

/* *ret_block 0: there is none, and all its refcounts are 0. */
static int find_block(Qcow2 *s, uint64_t cluster, uint64_t *ret_block)
{
    Qcow2Refs *r = s->refs;
    uint64_t index = cluster >> r->block_bits;
    uint64_t entry = index < r->entries ? r->table[index] : 0;

    *ret_block = entry;
    if (!entry)
        return 0;
    if (!is_aligned(entry, s->cluster_size) || entry >= QCOW2_MAX_OFFSET ||
        qcow2_is_metadata(s, entry, s->cluster_size))
        return qcow2_corrupt(s,
                             "refcount table entry %" PRIu64 " is 0x%" PRIx64
                             ", which is no place for a refcount block",
                             index, entry);
    return 0;
}

static uint64_t refs_per_page(const Qcow2 *s)
{
    return ((uint64_t)s->page_size * 8) >> s->refs->order;
}

int qcow2_span_in(Qcow2 *s, uint64_t block, uint64_t cluster, uint64_t n, bool new_,
                  Qcow2Span *ret)
{
    uint64_t in_block = cluster & (BIT64(s->refs->block_bits) - 1);
    uint64_t per_page = refs_per_page(s);

    *ret = (Qcow2Span){.first = in_block % per_page};
    ret->n = MIN(n, per_page - ret->first);
    return qcow2_page_get(s, QCOW2_PAGE_REFCOUNT,
                          block + in_block / per_page * s->page_size, new_, &ret->page);
}

int qcow2_span_get(Qcow2 *s, uint64_t cluster, uint64_t n, Qcow2Span *ret)
{
    uint64_t in_block = cluster & (BIT64(s->refs->block_bits) - 1), block;
    int err = find_block(s, cluster, &block);

    if (err)
        return err;
    if (block)
        return qcow2_span_in(s, block, cluster, n, false, ret);
    *ret = (Qcow2Span){.n = MIN(n, BIT64(s->refs->block_bits) - in_block)};
    return 0;
}

void qcow2_span_put(Qcow2 *s, Qcow2Span *span)
{
    if (span->page)
        qcow2_page_put(s, span->page);
    span->page = NULL;
}

uint64_t qcow2_span_load(const Qcow2 *s, const Qcow2Span *span, uint64_t i)
{
    return span->page ? qcow2_refcount_load(qcow2_page_data(span->page), s->refs->order,
                                            span->first + i)
                      : 0;
}

void qcow2_span_store(Qcow2 *s, Qcow2Span *span, uint64_t i, uint64_t value)
{
    unsigned order = s->refs->order;
    uint64_t index = span->first + i;
    unsigned at = (unsigned)((index << order) / 8);
    unsigned len = order < 3 ? 1 : BIT(order - 3);
    uint8_t bytes[8];

    memcpy(bytes, qcow2_page_data(span->page) + at, len);
    qcow2_refcount_store(bytes, order, order < 3 ? index % (8 >> order) : 0, value);
    qcow2_page_set(s, span->page, at, bytes, len);
}

/* ---- the refcount table -------------------------------------------------------- */

void qcow2_reftable_set(Qcow2 *s, uint64_t index, uint64_t value)
{
    Qcow2Refs *r = s->refs;

    if (r->dirty_from == r->dirty_to)
        r->dirty_from = r->dirty_to = index;
    r->table[index] = value;
    r->dirty_from = MIN(r->dirty_from, index);
    r->dirty_to = MAX(r->dirty_to, index + 1);
    if (!s->lazy)
        qcow2_changed(s);
}

static int move_table(Qcow2 *s)
{
    Qcow2Refs *r = s->refs;
    uint32_t clusters = (uint32_t)(r->entries * 8 / s->cluster_size);
    uint64_t old = s->h.reftable_offset, old_clusters = s->h.reftable_clusters;
    g_autofree uint64_t *bytes = g_new(uint64_t, r->entries);
    int err;

    for (uint64_t i = 0; i < r->entries; i++)
        store_be64(&bytes[i], r->table[i]);
    err = block_file_write(s->file, r->new_home, bytes, r->entries * 8);
    qcow2_unsynced(s);
    if (!err)
        err = qcow2_sync_metadata(s); /* the blocks that it points to as well */
    if (!err)
        err = qcow2_header_move_reftable(s, r->new_home, clusters);
    if (!err) {
        qcow2_unsynced(s);
        err = qcow2_sync_metadata(s);
        if (err) { /* to be done again; meanwhile the old one will do as well */
            s->h.reftable_offset = old;
            s->h.reftable_clusters = (uint32_t)old_clusters;
        }
    }
    if (err)
        return err;
    r->new_home = 0;
    r->dirty_from = r->dirty_to = 0;
    for (uint64_t i = 0; i < old_clusters; i++) {
        void *cluster = (void *)(uintptr_t)(to_cluster(s, old) + i);

        g_hash_table_insert(r->given_back, cluster, GUINT_TO_POINTER(1));
    }
    return 0;
}

int qcow2_refs_write_table(Qcow2 *s)
{
    Qcow2Refs *r = s->refs;
    uint64_t piece[TABLE_PIECE], to;
    int err;

    if (!r)
        return 0;
    if (r->new_home)
        return move_table(s);
    /* While a larger one is being made, what it has more has no place yet. */
    to = MIN(r->dirty_to, ((uint64_t)s->h.reftable_clusters << s->h.cluster_bits) / 8);
    if (r->dirty_from >= to)
        return 0;
    err = qcow2_sync_metadata(s); /* the blocks that are new in it */
    for (uint64_t i = r->dirty_from; i < to && !err; i += TABLE_PIECE) {
        uint64_t n = MIN(to - i, TABLE_PIECE);

        for (uint64_t j = 0; j < n; j++)
            store_be64(&piece[j], r->table[i + j]);
        err = block_file_write(s->file, s->h.reftable_offset + i * 8, piece, n * 8);
    }
    qcow2_unsynced(s);
    r->written = qcow2_syncs(s);
    if (!err)
        r->dirty_from = to;
    return err;
}

void qcow2_refs_redo(Qcow2 *s)
{
    if (s->refs && s->refs->entries && s->refs->written == qcow2_syncs(s)) {
        s->refs->dirty_from = 0;
        s->refs->dirty_to = s->refs->entries;
        qcow2_changed(s);
    }
}

bool qcow2_refs_open(Qcow2 *s, GError **error)
{
    Qcow2Refs *r = g_new0(Qcow2Refs, 1);
    uint64_t len = (uint64_t)s->h.reftable_clusters << s->h.cluster_bits;

    /* Opened to be checked, an image may name a table that cannot be: then there is none.
     */
    if (!is_aligned(s->h.reftable_offset, s->cluster_size) ||
        !range_within(s->h.reftable_offset, len, QCOW2_MAX_OFFSET))
        len = 0;
    s->refs = r;
    s->opened_size = block_file_size(s->file);
    r->order = s->h.refcount_order;
    r->block_bits = s->h.cluster_bits + 3 - r->order;
    r->given_back = g_hash_table_new(NULL, NULL);
    r->entries = len / 8;
    r->table = g_malloc(len + 8);
    errno = len ? block_file_read(s->file, s->h.reftable_offset, r->table, len) : 0;
    if (errno)
        return fail_errno(error, "'%s': read the refcount table", s->file->path);
    for (uint64_t i = 0; i < r->entries; i++)
        r->table[i] = load_be64(&r->table[i]);
    return true;
}

void qcow2_refs_close(Qcow2 *s)
{
    if (!s->refs)
        return;
    if (s->refs->given_back)
        g_hash_table_destroy(s->refs->given_back);
    g_free(s->refs->table);
    g_free(s->refs);
    s->refs = NULL;
}

bool qcow2_is_metadata(const Qcow2 *s, uint64_t offset, uint64_t len)
{
    const struct {
        uint64_t offset, len;
    } tables[] = {
        {0, s->cluster_size},
        {s->h.l1_offset, (uint64_t)s->h.l1_entries * 8},
        {s->h.reftable_offset, (uint64_t)s->h.reftable_clusters << s->h.cluster_bits},
        {s->h.snapshots_offset, (uint64_t)s->h.n_snapshots * 40},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++)
        if (tables[i].len && offset < tables[i].offset + tables[i].len &&
            tables[i].offset < offset + len)
            return true;
    return false;
}

/* ---- references ---------------------------------------------------------------- */

static void *key_of(uint64_t cluster)
{
    return (void *)(uintptr_t)cluster;
}

static uint64_t given_back(const Qcow2 *s, uint64_t cluster)
{
    if (!g_hash_table_size(s->refs->given_back))
        return 0;
    return GPOINTER_TO_UINT(g_hash_table_lookup(s->refs->given_back, key_of(cluster)));
}

static void set_given_back(Qcow2 *s, uint64_t cluster, uint64_t n)
{
    if (n)
        g_hash_table_insert(s->refs->given_back, key_of(cluster),
                            GUINT_TO_POINTER((unsigned)n));
    else
        g_hash_table_remove(s->refs->given_back, key_of(cluster));
}

/* As it is in the block: with the references given back, but not yet subtracted. */
static int stored_count(Qcow2 *s, uint64_t cluster, uint64_t *ret)
{
    Qcow2Span span;
    int err = qcow2_span_get(s, cluster, 1, &span);

    if (err)
        return err;
    *ret = qcow2_span_load(s, &span, 0);
    qcow2_span_put(s, &span);
    return 0;
}

int qcow2_ref_get(Qcow2 *s, uint64_t offset, uint64_t *ret)
{
    uint64_t cluster = to_cluster(s, offset), less = given_back(s, cluster);
    int err = stored_count(s, cluster, ret);

    if (!err)
        *ret -= MIN(less, *ret);
    return err;
}

/* A reference given back does not make up for this one: the tables on the disk may come
 * to have both. */
static int ref_up(Qcow2 *s, uint64_t cluster)
{
    Qcow2Span span;
    int err = qcow2_span_get(s, cluster, 1, &span);

    if (!err && !span.page) {
        err = qcow2_place_block(s, cluster);
        if (!err)
            err = qcow2_span_get(s, cluster, 1, &span);
    }
    if (err)
        return err;
    qcow2_span_store(s, &span, 0, qcow2_span_load(s, &span, 0) + 1);
    qcow2_span_put(s, &span);
    return 0;
}

static int ref_down(Qcow2 *s, uint64_t cluster)
{
    Qcow2Refs *r = s->refs;
    uint64_t value;
    int err = qcow2_ref_get(s, to_offset(s, cluster), &value);

    if (err)
        return err;
    if (!value)
        return qcow2_corrupt(
            s, "the cluster at 0x%" PRIx64 " was in use, and its refcount is 0",
            to_offset(s, cluster));
    if (value == 1 && r->pack && to_cluster(s, r->pack - 1) == cluster)
        r->pack = 0;
    set_given_back(s, cluster, given_back(s, cluster) + 1);
    qcow2_changed(s);
    return 0;
}

static int check_room(Qcow2 *s, uint64_t cluster)
{
    uint64_t value;
    int err = stored_count(s, cluster, &value);

    if (!err && value == max_count(s->refs) && given_back(s, cluster)) {
        err = qcow2_flush_metadata(s);
        if (!err)
            err = stored_count(s, cluster, &value);
    }
    return !err && value == max_count(s->refs) ? ERANGE : err;
}

int qcow2_ref_add(Qcow2 *s, uint64_t offset, uint64_t n, int delta)
{
    uint64_t cluster = to_cluster(s, offset);
    int err = 0;

    for (uint64_t i = 0; delta > 0 && i < n && !err; i++)
        err = check_room(s, cluster + i);
    for (uint64_t i = 0; i < n && !err; i++) {
        if (delta < 0 && g_hash_table_size(s->refs->given_back) >= MAX_GIVEN_BACK)
            err = qcow2_flush_metadata(s);
        if (!err)
            err = delta > 0 ? ref_up(s, cluster + i) : ref_down(s, cluster + i);
    }
    return err;
}

int qcow2_ref_set(Qcow2 *s, uint64_t offset, uint64_t value)
{
    uint64_t cluster = to_cluster(s, offset);
    Qcow2Span span;
    int err;

    if (value > max_count(s->refs))
        return ERANGE;
    set_given_back(s, cluster, 0);
    err = qcow2_span_get(s, cluster, 1, &span);
    if (!err && !span.page && value) {
        err = qcow2_place_block(s, cluster);
        if (!err)
            err = qcow2_span_get(s, cluster, 1, &span);
    }
    if (err)
        return err;
    if (span.page && qcow2_span_load(s, &span, 0) != value)
        qcow2_span_store(s, &span, 0, value);
    qcow2_span_put(s, &span);
    return 0;
}

/* ---- what was given back becomes free ------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;

    return (x > y) - (x < y);
}

bool qcow2_refs_to_apply(const Qcow2 *s)
{
    return s->refs && g_hash_table_size(s->refs->given_back) > 0;
}

static int subtract(Qcow2 *s, uint64_t cluster, bool *ret_free)
{
    uint64_t less = given_back(s, cluster), value;
    Qcow2Span span;
    int err = qcow2_span_get(s, cluster, 1, &span);

    if (err)
        return err;
    value = qcow2_span_load(s, &span, 0);
    *ret_free = value && value <= less;
    if (value)
        qcow2_span_store(s, &span, 0, value - MIN(less, value));
    qcow2_span_put(s, &span);
    set_given_back(s, cluster, 0);
    return 0;
}

int qcow2_refs_apply(Qcow2 *s)
{
    unsigned n;
    g_autofree void **clusters = g_hash_table_get_keys_as_array(s->refs->given_back, &n);
    Qcow2Run run = {0};
    int err = qcow2_find_tail(s);

    qsort(clusters, n, sizeof(*clusters), by_value);
    for (unsigned i = 0; i < n && !err; i++) {
        uint64_t cluster = (uintptr_t)clusters[i];
        bool is_free = false;

        err = subtract(s, cluster, &is_free);
        if (!is_free)
            continue;
        if (run.n && run.start + run.n != cluster) {
            qcow2_freed(s, run);
            run.n = 0;
        }
        if (!run.n)
            run.start = cluster;
        run.n++;
    }
    qcow2_freed(s, run);
    return err;
}
