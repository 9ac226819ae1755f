/* Writing where that is more than writing to a file: a place is taken, what surrounds the
 * data is copied, and the L2 tables follow.  (qcow2: "Host cluster management", "Cluster
 * mapping".)
 *
 * A piece is a run of clusters that are treated alike.  It is planned and claimed under
 * `lock`, its data written without, and linked under `lock` again.  Until then nothing
 * refers to a new place, so that an error, or the end of this process, leaves the image
 * as it was. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_io_private.h"
#include "util/iov.h"

enum {
    PIECE_BYTES = 4 << 20, /* the most that one piece writes */
    COPY_BYTES = 1 << 20,  /* ... and copies up */
    PAD_BYTES = 64 << 10,  /* more zeroes than this are asked of the file system */
    BUFFER_ALIGN = 4096,
    GATHER = 64, /* parts of a list that is written with its surroundings */
};

static Qcow2PieceKind kind_of(const Qcow2Cluster *c, uint32_t touched)
{
    if (c->compressed || !c->owned)
        return QCOW2_PIECE_NEW;
    return (c->data & touched) == touched ? QCOW2_PIECE_THERE : QCOW2_PIECE_OWNED;
}

static int refuse_metadata(Qcow2 *s, uint64_t cluster, uint64_t host, uint64_t len)
{
    if (qcow2_data_is_external(s) || !qcow2_is_metadata(s, host, len))
        return 0;
    return qcow2_corrupt(s, "disk offset %#llx would be written to %#llx, over metadata",
                         (unsigned long long)cluster, (unsigned long long)host);
}

/* Extends [from, to) over what has to move along to a new place of cluster `c`, or is in
 * use only as a whole. */
static void extend(const Qcow2 *s, const Qcow2Cluster *c, Qcow2PieceKind kind,
                   uint64_t cluster, uint64_t *from, uint64_t *to)
{
    uint32_t touched = qcow2_subclusters(s, cluster, *from, *to);
    uint32_t moves = 0;
    unsigned first = (unsigned)__builtin_ctz(touched);
    unsigned last = 31 - (unsigned)__builtin_clz(touched);

    if (kind == QCOW2_PIECE_THERE)
        return;
    if (kind == QCOW2_PIECE_NEW)
        moves = c->compressed ? qcow2_all_subclusters(s) : c->data;
    else if (c->data & BIT(first))
        first = UINT32_MAX; /* its bytes are there: the edge stays as it is */
    if (moves) {
        first = MIN(first, (unsigned)__builtin_ctz(moves));
        last = MAX(last, 31 - (unsigned)__builtin_clz(moves));
    }
    if (first != UINT32_MAX)
        *from = MIN(*from, cluster + (uint64_t)first * s->subcluster_size);
    if (kind == QCOW2_PIECE_NEW || !(c->data & BIT(last)))
        *to = MAX(*to, cluster + (uint64_t)(last + 1) * s->subcluster_size);
}

static bool is_blank(const Qcow2 *s, const Qcow2Cluster *c)
{
    return !c->compressed && !c->data && !s->img->backing;
}

/* For copying up: the end of what this layer does not have, from `offset` on within the
 * cluster and at most up to `end`. */
static uint64_t end_of_hole(const Qcow2 *s, const Qcow2Cluster *c, uint64_t cluster,
                            uint64_t offset, uint64_t end)
{
    uint32_t ours = c->compressed ? UINT32_MAX : c->data | c->zero;
    unsigned first = (unsigned)((offset - cluster) / s->subcluster_size), n = first;

    while (n < s->subclusters && !(ours >> n & 1))
        n++;
    return n == first ? offset : MIN(end, cluster + (uint64_t)n * s->subcluster_size);
}

/* ---- planning: lock held ------------------------------------------------------- */

/* How far a piece goes that begins at p->start: over clusters with places alike.  `copy`
 * takes only what this layer does not have, and may find nothing. */
static int measure(Qcow2 *s, Qcow2Piece *p, uint64_t limit, bool copy)
{
    uint64_t cluster = align_down(p->start, s->cluster_size), host = 0;

    limit = qcow2_unclaimed(s, p->start, limit);
    p->claim = (Qcow2Claim){.start = cluster, .end = cluster};
    p->end = p->start;
    p->from = p->start;
    for (; p->end < limit && p->end == MAX(p->start, cluster);
         cluster += s->cluster_size, host += s->cluster_size) {
        uint64_t from = p->end, end = MIN(limit, cluster + s->cluster_size), to;
        Qcow2Cluster c;
        Qcow2PieceKind kind;
        int err = qcow2_cluster_get(s, cluster, &c, NULL);

        if (!err && copy)
            end = end_of_hole(s, &c, cluster, from, end);
        if (!err && end == from)
            return 0;
        if (!err) {
            kind = kind_of(&c, qcow2_subclusters(s, cluster, from, end));
            if (kind != QCOW2_PIECE_NEW)
                err = refuse_metadata(s, cluster, c.host, s->cluster_size);
        }
        if (err) /* at a later cluster: the next piece will say so, if it still is */
            return p->end > p->start && !qcow2_broken(s) ? 0 : err;
        to = end;
        extend(s, &c, kind, cluster, &from, &to);
        if (p->end == p->start) {
            p->kind = kind;
            p->host = host = c.host;
            p->from = from;
            p->blank = is_blank(s, &c);
        } else if (kind != p->kind || (kind != QCOW2_PIECE_NEW && c.host != host)) {
            return 0;
        }
        p->blank &= is_blank(s, &c);
        p->claim.end = cluster + s->cluster_size;
        p->end = end;
        p->to = to;
    }
    return 0;
}

static int take_place(Qcow2 *s, Qcow2Piece *p)
{
    uint64_t n = (p->claim.end - p->claim.start) / s->cluster_size, got;
    int err;

    if (qcow2_data_is_external(s)) {
        p->host = p->claim.start;
        return 0;
    }
    err = qcow2_alloc(s, n, &p->host, &got, &p->reads_zero);
    if (err)
        return err;
    if (got < n) {
        p->claim.end = p->claim.start + got * s->cluster_size;
        p->end = p->to = p->claim.end;
    }
    err = refuse_metadata(s, p->start, p->host, got * s->cluster_size);
    if (err)
        qcow2_ref_add(s, p->host, got, -1);
    return err;
}

/* Plans what begins at `offset`, claims it and takes its place.  A piece without length
 * says that there is nothing to copy. */
int qcow2_piece_plan(Qcow2 *s, uint64_t offset, uint64_t len, bool copy, Qcow2Piece *p)
{
    uint64_t most = MAX(s->cluster_size, copy ? COPY_BYTES : PIECE_BYTES);
    int err;

    *p = (Qcow2Piece){.start = offset};
    qcow2_claim_wait(s, align_down(offset, s->cluster_size));
    if (qcow2_broken(s))
        return EIO;
    err = measure(s, p, offset + MIN(len, most - offset % s->cluster_size), copy);
    if (err || p->end == p->start)
        return err;
    if (p->kind == QCOW2_PIECE_NEW && (err = take_place(s, p)))
        return err;
    if (copy)
        p->start = p->end = p->to;
    if (p->from < p->start || p->end < p->to)
        p->buffer = qcow2_buffer_take(s);
    qcow2_claim(s, &p->claim);
    return 0;
}

/* ---- the data: lock not held --------------------------------------------------- */

int qcow2_zeroes_at(Qcow2 *s, uint64_t offset, uint64_t len, bool *ret_zero,
                    uint64_t *ret_n)
{
    BlockImage *below = s->img->backing;
    uint64_t size = below ? image_size_now(below) : 0;
    Extent e;
    int err = qcow2_lookup(s->img, offset, len, true, &e);

    if (!err && e.kind == EXTENT_HOLE && offset < size)
        err = image_chain_extent(below, offset, MIN(e.len, size - offset), &e, NULL);
    else if (e.kind == EXTENT_HOLE)
        e.kind = EXTENT_ZERO; /* nothing is below */
    *ret_zero = e.kind == EXTENT_ZERO;
    *ret_n = e.len;
    return err;
}

static int reads_zero(Qcow2 *s, uint64_t from, uint64_t to, bool *ret)
{
    int err = 0;

    *ret = true;
    to = MIN(to, image_size_now(s->img));
    while (from < to && *ret && !err) {
        uint64_t n;

        err = qcow2_zeroes_at(s, from, to - from, ret, &n);
        from += n;
    }
    return err;
}

static int read_below(Qcow2 *s, uint64_t offset, uint8_t *buf, uint64_t len)
{
    BlockImage *below = s->img->backing;
    uint64_t size = below ? image_size_now(below) : 0;
    uint64_t n = offset < size ? MIN(len, size - offset) : 0;

    memset(buf + n, 0, len - n);
    return n ? image_read(below, offset, buf, n) : 0;
}

static int read_packed(Qcow2 *s, uint64_t offset, uint8_t *buf, uint64_t len)
{
    uint64_t cluster = align_down(offset, s->cluster_size);
    const struct iovec iov = {buf, len};
    Qcow2Cluster c;
    int err;

    lock_acquire(&s->lock);
    err = qcow2_cluster_get(s, cluster, &c, NULL);
    lock_release(&s->lock);
    return err ? err : qcow2_unpack(s, &c, offset - cluster, &iov, 1, 0, len);
}

/* What shows in [from, to), which the caller has claimed; zeroes after the disk's end. */
static int read_now(Qcow2 *s, uint64_t from, uint64_t to, uint8_t *buf)
{
    uint64_t size = MAX(from, MIN(to, image_size_now(s->img)));
    int err = 0;

    memset(buf + (size - from), 0, to - size);
    while (from < size && !err) {
        Extent e;

        err = qcow2_lookup(s->img, from, size - from, true, &e);
        if (err)
            break;
        switch (e.kind) {
        case EXTENT_DATA:
            err = block_file_read(e.file, e.file_offset, buf, e.len);
            break;
        case EXTENT_COMPRESSED:
            err = read_packed(s, from, buf, e.len);
            break;
        case EXTENT_HOLE:
            err = read_below(s, from, buf, e.len);
            break;
        case EXTENT_ZERO:
            memset(buf, 0, e.len);
            break;
        }
        from += e.len;
        buf += e.len;
    }
    return err;
}

/* A new part of a data file reads as zeroes if the host says so: nobody else does. */
static void ask_data_file(Qcow2 *s, Qcow2Piece *p)
{
    uint64_t len = p->claim.end - p->claim.start, n;
    bool data;

    if (p->kind != QCOW2_PIECE_NEW || !qcow2_data_is_external(s) ||
        s->data->ops->extent(s->data, p->host, len, &data, &n))
        return;
    p->reads_zero = !data && n >= len;
}

/* The surroundings of what is written: before and after it. */
typedef struct Pads {
    uint64_t from, to; /* what is left of the piece's */
    bool zero_head, zero_tail;
} Pads;

/* Leaves out the padding that is there already, and has the file system do long zeroes.
 */
static int trim_pads(Qcow2 *s, const Qcow2Piece *p, Pads *pads)
{
    uint64_t align = s->data->io_align; /* part of a block would be read first */
    int err = 0;

    pads->zero_head = pads->zero_tail = true;
    if (qcow2_data_is_external(s)) /* which does not end later than the disk */
        pads->to = MAX(p->end, MIN(p->to, image_size_now(s->img)));
    if (!p->blank)
        err = reads_zero(s, p->from, p->start, &pads->zero_head);
    if (!p->blank && !err)
        err = reads_zero(s, p->end, p->to, &pads->zero_tail);
    /* What is only copied is also written, if only as zeroes: a cluster may not lie
     * beyond the end of its file. */
    if (err || p->start == p->end)
        return err;
    if (pads->zero_head && p->reads_zero)
        pads->from = MAX(p->from, align_down(p->start, align));
    else if (pads->zero_head && p->start - p->from > PAD_BYTES) {
        err = block_file_zero(s->data, qcow2_piece_host(p, p->from), p->start - p->from,
                              false);
        pads->from = p->start;
    }
    if (pads->zero_tail && p->reads_zero)
        pads->to = MIN(pads->to, align_up(p->end, align));
    else if (!err && pads->zero_tail && pads->to - p->end > PAD_BYTES) {
        err = block_file_zero(s->data, qcow2_piece_host(p, p->end), pads->to - p->end,
                              false);
        pads->to = p->end;
    }
    return err;
}

static size_t buffer_bytes(const Qcow2 *s)
{
    size_t cluster = MAX(s->cluster_size, BUFFER_ALIGN);

    return MAX(cluster, COPY_BYTES) + 2 * cluster;
}

/* Appends bytes of a list to `out`, which has room for GATHER parts.  0: they are too
 * many, or not aligned as O_DIRECT wants. */
static unsigned gather(const BlockFile *f, const struct iovec *iov, unsigned n_iov,
                       uint64_t skip, uint64_t len, struct iovec *out)
{
    unsigned n = 0;

    for (unsigned i = 0; i < n_iov && len; i++) {
        uint64_t part = iov[i].iov_len;

        if (skip >= part) {
            skip -= part;
            continue;
        }
        part = MIN(part - skip, len);
        if (n == GATHER)
            return 0;
        out[n] = (struct iovec){(uint8_t *)iov[i].iov_base + skip, part};
        if (!is_aligned((uintptr_t)out[n].iov_base, f->mem_align) ||
            !is_aligned(part, f->io_align))
            return 0;
        n++;
        len -= part;
        skip = 0;
    }
    return n;
}

static int fill(Qcow2 *s, uint64_t from, uint64_t to, bool zero, uint8_t *buf)
{
    if (!zero)
        return read_now(s, from, to, buf);
    memset(buf, 0, to - from);
    return 0;
}

/* Writes [pads->from, pads->to) of the disk: surroundings from the buffer, and between
 * them the data; at once, unless the data is both long and ill aligned. */
static int write_padded(Qcow2 *s, const Qcow2Piece *p, const Pads *pads,
                        const struct iovec *iov, unsigned n_iov, uint64_t skip)
{
    uint64_t head = p->start - pads->from, len = p->end - p->start;
    uint64_t tail = pads->to - p->end, host = qcow2_piece_host(p, pads->from);
    uint8_t *head_buf = p->buffer, *tail_buf;
    struct iovec list[GATHER + 2] = {{head_buf, head}};
    bool aligned = is_aligned(head, s->data->io_align);
    unsigned n = aligned ? gather(s->data, iov, n_iov, skip, len, &list[1]) : 0;
    bool through_buffer = !n && head + len + tail <= buffer_bytes(s);
    int err;

    tail_buf = head_buf + (through_buffer ? head + len : align_up(head, BUFFER_ALIGN));
    err = fill(s, pads->from, p->start, pads->zero_head, head_buf);
    if (!err)
        err = fill(s, p->end, pads->to, pads->zero_tail, tail_buf);
    if (err)
        return err;
    if (through_buffer) {
        iov_to_buf(iov, n_iov, skip, head_buf + head, len);
        return block_file_write(s->data, host, head_buf, head + len + tail);
    }
    if (n) {
        list[n + 1] = (struct iovec){tail_buf, tail};
        return block_file_rw(s->data, true, host, list, n + 2, 0, head + len + tail);
    }
    err = block_file_write(s->data, host, head_buf, head);
    if (!err)
        err = block_file_rw(s->data, true, host + head, iov, n_iov, skip, len);
    return err ? err : block_file_write(s->data, host + head + len, tail_buf, tail);
}

int qcow2_piece_write(Qcow2 *s, Qcow2Piece *p, const struct iovec *iov, unsigned n_iov,
                      uint64_t skip)
{
    Pads pads = {.from = p->from, .to = p->to};
    int err = 0;

    if (p->from < p->start || p->end < p->to) {
        ask_data_file(s, p);
        err = trim_pads(s, p, &pads);
    }
    if (err)
        return err;
    if (pads.from == p->start && p->end == pads.to)
        return block_file_rw(s->data, true, qcow2_piece_host(p, p->start), iov, n_iov,
                             skip, p->end - p->start);
    if (!p->buffer && !(p->buffer = aligned_alloc(BUFFER_ALIGN, buffer_bytes(s))))
        return ENOMEM;
    return write_padded(s, p, &pads, iov, n_iov, skip);
}

/* ---- linking: lock held -------------------------------------------------------- */

static int link_cluster(Qcow2 *s, const Qcow2Piece *p, uint64_t cluster)
{
    uint32_t now = qcow2_subclusters(s, cluster, p->from, p->to);
    Qcow2Cluster c;
    Qcow2Entry old, new_;
    bool was_elsewhere;
    int err = qcow2_cluster_get(s, cluster, &c, &old);

    if (err)
        return err;
    was_elsewhere = p->kind == QCOW2_PIECE_NEW && (c.placed || c.compressed);
    if (p->kind == QCOW2_PIECE_NEW)
        c = (Qcow2Cluster){.placed = true,
                           .owned = true,
                           .host = qcow2_piece_host(p, cluster),
                           .zero = c.zero};
    c.data |= now;
    c.zero &= ~now;
    new_ = qcow2_entry_make(s, &c);
    err = qcow2_entry_set(s, cluster, &new_);
    if (!err && was_elsewhere)
        qcow2_entry_free(s,
                         &old); /* which failed leaks it, and no more: this is linked */
    return err;
}

/* Links what was written, or gives back its place, and ends the claim. */
int qcow2_piece_finish(Qcow2 *s, Qcow2Piece *p, int err)
{
    uint64_t cluster = p->claim.start;

    while (p->kind != QCOW2_PIECE_THERE && !err && cluster < p->claim.end) {
        err = link_cluster(s, p, cluster);
        if (!err)
            cluster += s->cluster_size;
    }
    if (err && p->kind == QCOW2_PIECE_NEW && !qcow2_data_is_external(s) &&
        !qcow2_broken(s))
        qcow2_ref_add(s, qcow2_piece_host(p, cluster),
                      (p->claim.end - cluster) / s->cluster_size, -1);
    if (p->buffer)
        qcow2_buffer_put(s, p->buffer);
    qcow2_claim_end(s, &p->claim);
    return err;
}
