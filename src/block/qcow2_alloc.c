/* Taking clusters of a qcow2 file.
 *
 * A cluster comes from one of three places: from the runs given back since the image was
 * opened; from a hand that passes over the refcounts of the part of the file that was
 * there at opening, a bounded stretch at a time; or from the tail, behind everything that
 * is in use.  The file grows in large sparse steps ahead of the tail, since a write that
 * extends the file waits for its size to be recorded.
 *
 * A refcount block that is missing is placed at the tail, and has its own refcount in it
 * where the tail is in what it covers.  When the refcount table has become too small, it
 * grows in memory, and takes its new clusters at the tail too; what moves it is
 * qcow2_refs_write_table(). */
#include <errno.h>
#include <string.h>

#include "qcow2_refs_private.h"

enum {
    SCAN_PAGES = 8,     /* that the hand passes over for one request */
    TAIL_SKIPS = 1024,  /* pages in use beyond the end of the file; more is damage */
    MANY = 1 << 16,     /* the same in clusters, in a row */
    REFTABLE_SLACK = 2, /* a new refcount table is so many times as large */
};
#define MIN_GROWTH (1 * MIB)
#define MAX_GROWTH (256 * MIB)

/* How many, from the first on, are 0 (or are not). */
static uint64_t span_count(const Qcow2 *s, const Qcow2Span *span, bool zero)
{
    uint64_t i = 0;

    while (i < span->n && !qcow2_span_load(s, span, i) == zero)
        i++;
    return i;
}

/* ---- the file's end ------------------------------------------------------------ */

static int far_beyond(Qcow2 *s)
{
    return qcow2_corrupt(s,
                         "refcounts say that clusters are in use far beyond the end of "
                         "the file");
}

static bool grows(const Qcow2 *s)
{
    return !s->file->is_device;
}

static int grow_file(Qcow2 *s, uint64_t end)
{
    uint64_t size = block_file_size(s->file);
    uint64_t step = CLAMP(size / 8, MIN_GROWTH, MAX_GROWTH);
    int err;

    if (end <= size)
        return 0;
    if (end > QCOW2_MAX_OFFSET)
        return EFBIG;
    if (!grows(s))
        return ENOSPC;
    err = block_file_truncate(s->file, align_up(end + step, s->cluster_size));
    return err == EFBIG || err == EINVAL ? block_file_truncate(s->file, end) : err;
}

/* A device does not tell where its used part ends: in the last block there is. */
static int find_device_tail(Qcow2 *s, uint64_t *ret)
{
    Qcow2Refs *r = s->refs;
    uint64_t last = r->entries, start, end;

    while (last && !r->table[last - 1])
        last--;
    *ret = 0;
    if (!last)
        return 0;
    start = (last - 1) << r->block_bits;
    end = last << r->block_bits;
    while (start < end) {
        Qcow2Span span;
        int err = qcow2_span_get(s, start, end - start, &span);

        if (err)
            return err;
        for (uint64_t i = 0; i < span.n; i++)
            if (qcow2_span_load(s, &span, i))
                *ret = start + i + 1;
        start += span.n;
        qcow2_span_put(s, &span);
    }
    return 0;
}

/* What was within the file at opening is never the tail, whatever its refcounts say: so a
 * repair does not write over what has lost its refcount. */
int qcow2_find_tail(Qcow2 *s)
{
    Qcow2Refs *r = s->refs;
    int err = 0;

    if (r->tail_known)
        return 0;
    if (grows(s))
        r->tail = to_cluster(s, align_up(s->opened_size, s->cluster_size));
    else
        err = find_device_tail(s, &r->tail);
    r->hand = 0;
    r->hand_end = r->tail;
    r->tail_known = !err;
    return err;
}

uint64_t qcow2_refs_end(const Qcow2 *s)
{
    return s->refs && s->refs->tail_known ? to_offset(s, s->refs->tail) : 0;
}

/* ---- refcount blocks, and the table -------------------------------------------- */

static int take_at_tail(Qcow2 *s, uint64_t n, uint64_t *ret);

/* Makes room for entry `index`: in memory, and where the larger table will be. */
static int grow_table(Qcow2 *s, uint64_t index)
{
    Qcow2Refs *r = s->refs;
    uint64_t per_cluster = s->cluster_size / 8, old = r->entries, home;
    uint64_t want = MAX(index + 1, old * REFTABLE_SLACK), clusters, need;
    int err;

    /* It must have entries for its own clusters too, and for the blocks that have their
     * refcounts. */
    do {
        want = align_up(want, per_cluster);
        clusters = want / per_cluster;
        need = ((r->tail + clusters + clusters / 2 + 2) >> r->block_bits) + 2;
    } while (need > want && (want = need));
    if (want * 8 > QCOW2_MAX_REFTABLE_BYTES)
        want = align_down(QCOW2_MAX_REFTABLE_BYTES / 8, per_cluster);
    if (want <= index || want < need)
        return EFBIG;
    r->table = g_renew(uint64_t, r->table, want);
    memset(r->table + old, 0, (want - old) * 8);
    r->entries = want;
    err = take_at_tail(s, want / per_cluster, &home);
    if (!err) {
        if (r->new_home) /* never used: it grew twice between two flushes */
            qcow2_ref_set(s, r->new_home, 0);
        r->new_home = to_offset(s, home);
        if (!s->lazy)
            qcow2_changed(s);
        return 0;
    }
    for (uint64_t i = old; i < want; i++)
        if (r->table[i])
            qcow2_pages_forget(s, r->table[i], s->cluster_size);
    r->entries = old;
    r->dirty_to = MIN(r->dirty_to, old);
    r->dirty_from = MIN(r->dirty_from, r->dirty_to);
    return err;
}

/* Makes the cluster at the tail a refcount block, all zeroes but for the refcount of
 * itself, if that is in it.  It enters the table when it is in the cache: what writes
 * the table writes the pages first. */
static int make_block(Qcow2 *s, uint64_t index, Qcow2Span *own)
{
    Qcow2Refs *r = s->refs;
    uint64_t offset = to_offset(s, r->tail);
    int err = grow_file(s, offset + s->cluster_size);

    if (!err && !grows(s)) {
        err = block_file_zero(s->file, offset, s->cluster_size, false);
        qcow2_unsynced(s);
    }
    if (!err && !own->page)
        err = qcow2_span_in(s, offset, r->tail, 1, true, own);
    if (err)
        return err;
    qcow2_span_store(s, own, 0, 1);
    r->tail++;
    qcow2_reftable_set(s, index, offset);
    return 0;
}

/* Gives the clusters of table entry `index` a refcount block, at the tail.  That may need
 * another block first, for the refcount of the cluster there. */
static int place_block(Qcow2 *s, uint64_t index)
{
    Qcow2Refs *r = s->refs;
    int err = index < r->entries ? 0 : grow_table(s, index);

    for (unsigned skipped = 0; !err && !r->table[index];) {
        uint64_t home = r->tail >> r->block_bits;
        Qcow2Span span = {0};

        if (home != index && (home >= r->entries || !r->table[home])) {
            err = place_block(s, home);
            continue;
        }
        if (home != index)
            err = qcow2_span_get(s, r->tail, 1, &span);
        if (err)
            return err;
        if (span.page && qcow2_span_load(s, &span, 0)) {
            r->tail++;
            if (++skipped > MANY)
                err = far_beyond(s);
        } else {
            err = make_block(s, index, &span);
        }
        qcow2_span_put(s, &span);
    }
    return err;
}

int qcow2_place_block(Qcow2 *s, uint64_t cluster)
{
    int err = qcow2_find_tail(s);

    return err ? err : place_block(s, cluster >> s->refs->block_bits);
}

/* ---- what was given back is free ----------------------------------------------- */

static void add_run(Qcow2Refs *r, Qcow2Run run)
{
    if (r->n_runs < QCOW2_MAX_RUNS) {
        r->runs[r->n_runs++] = run;
        return;
    }
    /* The hand finds them again, when there are enough to be worth the way. */
    r->lost.start = r->lost.n ? MIN(r->lost.start, run.start) : run.start;
    r->lost.n += run.n;
    if (r->lost.n > r->tail / 8) {
        r->hand = MIN(r->hand, r->lost.start);
        r->hand_end = r->tail;
        r->lost.n = 0;
    }
}

void qcow2_freed(Qcow2 *s, Qcow2Run run)
{
    uint64_t offset = to_offset(s, run.start), len = to_offset(s, run.n);

    if (!run.n)
        return;
    qcow2_pages_forget(s, offset, len); /* tables that are none any more */
    if (s->file->can_discard)
        block_file_discard(s->file, offset, len);
    add_run(s->refs, run);
}

/* ---- taking clusters ----------------------------------------------------------- */

/* Gives up to n of the free clusters from `cluster` on refcount 1; *ret_n 0: the first is
 * not free.  Where there is no block there is nothing to be had. */
static int take_free(Qcow2 *s, uint64_t cluster, uint64_t n, uint64_t *ret_n)
{
    Qcow2Span span;
    int err = qcow2_span_get(s, cluster, n, &span);

    *ret_n = 0;
    if (err || !span.page)
        return err;
    *ret_n = span_count(s, &span, true);
    for (uint64_t i = 0; i < *ret_n; i++)
        qcow2_span_store(s, &span, i, 1);
    qcow2_span_put(s, &span);
    return 0;
}

static int take_from_runs(Qcow2 *s, uint64_t n, uint64_t *ret, uint64_t *ret_n)
{
    Qcow2Refs *r = s->refs;
    int err = 0;

    *ret_n = 0;
    while (r->n_runs && !*ret_n && !err) {
        Qcow2Run *run = &r->runs[r->n_runs - 1];

        *ret = run->start;
        err = take_free(s, run->start, MIN(n, run->n), ret_n);
        run->start += MAX(*ret_n, 1); /* taken meanwhile, by the hand */
        run->n -= MAX(*ret_n, 1);
        r->n_runs -= !run->n;
    }
    return err;
}

static int take_by_hand(Qcow2 *s, uint64_t n, uint64_t *ret, uint64_t *ret_n)
{
    Qcow2Refs *r = s->refs;

    *ret_n = 0;
    for (unsigned i = 0; i < SCAN_PAGES && r->hand < r->hand_end && !*ret_n; i++) {
        uint64_t used;
        Qcow2Span span;
        int err = qcow2_span_get(s, r->hand, r->hand_end - r->hand, &span);

        if (err)
            return err;
        used = span.page ? span_count(s, &span, false) : span.n;
        r->hand += used;
        if (used < span.n) {
            *ret = r->hand;
            err = take_free(s, r->hand, MIN(n, r->hand_end - r->hand), ret_n);
            r->hand += *ret_n;
        }
        qcow2_span_put(s, &span);
        if (err)
            return err;
    }
    return 0;
}

/* Makes sure that n clusters from the tail on have refcount blocks, and are free. */
static int prepare_tail(Qcow2 *s, uint64_t n)
{
    Qcow2Refs *r = s->refs;
    unsigned skipped = 0;
    int err = qcow2_find_tail(s);

    for (uint64_t i = 0; i < n && !err;) {
        uint64_t used;
        Qcow2Span span;

        if (to_offset(s, r->tail + n) > QCOW2_MAX_OFFSET)
            return EFBIG;
        err = qcow2_span_get(s, r->tail + i, n - i, &span);
        if (err)
            return err;
        if (!span.page) { /* which moves the tail */
            err = place_block(s, (r->tail + i) >> r->block_bits);
            i = 0;
            continue;
        }
        used = span_count(s, &span, true);
        if (used == span.n) {
            i += span.n;
        } else {
            while (used < span.n && qcow2_span_load(s, &span, used))
                used++;
            r->tail += i + used;
            i = 0;
            if (++skipped > TAIL_SKIPS)
                err = far_beyond(s);
        }
        qcow2_span_put(s, &span);
    }
    return err;
}

/* n clusters in a row, which nobody ever used. */
static int take_at_tail(Qcow2 *s, uint64_t n, uint64_t *ret)
{
    Qcow2Refs *r = s->refs;
    int err = prepare_tail(s, n);
    uint64_t taken;

    if (!err)
        err = grow_file(s, to_offset(s, r->tail + n));
    *ret = r->tail;
    for (uint64_t i = 0; i < n && !err; i += taken) {
        err = take_free(s, *ret + i, n - i, &taken);
        if (!err && !taken)
            err = EIO;
    }
    if (!err)
        r->tail += n;
    return err;
}

int qcow2_alloc(Qcow2 *s, uint64_t n, uint64_t *ret_offset, uint64_t *ret_n,
                bool *ret_zero)
{
    uint64_t cluster, got = 0;
    int err = qcow2_broken(s) ? EIO : qcow2_find_tail(s);

    *ret_zero = false;
    if (!err)
        err = take_from_runs(s, n, &cluster, &got);
    if (!err && !got)
        err = take_by_hand(s, n, &cluster, &got);
    if (!err && !got) {
        /* Not across the end of a block: the next one's place would be in between. */
        uint64_t in_block = s->refs->tail & (BIT64(s->refs->block_bits) - 1);

        got = MIN(n, BIT64(s->refs->block_bits) - in_block);
        *ret_zero = grows(s);
        err = take_at_tail(s, got, &cluster);
    }
    if (err)
        return err;
    if (qcow2_is_metadata(s, to_offset(s, cluster), to_offset(s, got)))
        return qcow2_corrupt(
            s, "the header's or a table's cluster at 0x%" PRIx64 " has refcount 0",
            to_offset(s, cluster));
    *ret_offset = to_offset(s, cluster);
    *ret_n = got;
    return 0;
}

int qcow2_alloc_run(Qcow2 *s, uint64_t n, uint64_t *ret_offset)
{
    uint64_t cluster, got;
    bool zero;
    int err;

    if (n == 1)
        return qcow2_alloc(s, 1, ret_offset, &got, &zero);
    err = qcow2_broken(s) ? EIO : qcow2_find_tail(s);
    if (!err)
        err = take_at_tail(s, n, &cluster);
    if (!err)
        *ret_offset = to_offset(s, cluster);
    return err;
}

/* ---- compressed data ----------------------------------------------------------- */

/* "Compressed Clusters Descriptor": as many bits as are left for the offset. */
static bool describable(const Qcow2 *s, uint64_t offset)
{
    return offset < BIT64(MIN(70 - s->h.cluster_bits, 56));
}

/* Takes just this cluster, if it happens to be free. */
static int take_this(Qcow2 *s, uint64_t cluster, bool *ret)
{
    uint64_t n = 0, got;
    int err;

    *ret = false;
    if (cluster != s->refs->tail) {
        err = take_free(s, cluster, 1, &n);
        *ret = n == 1;
        return err;
    }
    err = take_at_tail(s, 1, &got);
    if (err)
        return err;
    *ret = got == cluster;
    /* Otherwise a refcount block has taken its place. */
    return *ret ? 0 : qcow2_ref_add(s, to_offset(s, got), 1, -1);
}

/* In the cluster begun before, and maybe the one behind that. */
static int pack_more(Qcow2 *s, uint64_t bytes, bool *ret)
{
    Qcow2Refs *r = s->refs;
    uint64_t first = to_cluster(s, r->pack - 1),
             last = to_cluster(s, r->pack + bytes - 1);
    uint64_t value;
    int err;

    *ret = false;
    if (is_aligned(r->pack, s->cluster_size)) /* full: the next one is as good as any */
        return 0;
    err = qcow2_ref_get(s, to_offset(s, first), &value);
    if (err || value == 0)
        return err;
    err = qcow2_ref_add(s, to_offset(s, first), 1, 1);
    if (err)
        return err == ERANGE ? 0 : err;
    *ret = true;
    if (last != first) {
        err = take_this(s, last, ret);
        if (!err && !*ret)
            err = qcow2_ref_add(s, to_offset(s, first), 1, -1);
    }
    return err;
}

int qcow2_alloc_bytes(Qcow2 *s, uint64_t bytes, uint64_t *ret_offset)
{
    Qcow2Refs *r = s->refs;
    bool packed = false, zero;
    uint64_t offset, n;
    int err = qcow2_broken(s) ? EIO : qcow2_find_tail(s);

    if (!err && r->pack)
        err = pack_more(s, bytes, &packed);
    if (!err && !packed) {
        err = qcow2_alloc(s, 1, &offset, &n, &zero);
        if (!err)
            r->pack = offset;
    }
    if (err)
        return err;
    if (!describable(s, r->pack + bytes))
        return EFBIG;
    *ret_offset = r->pack;
    r->pack += bytes;
    return 0;
}
