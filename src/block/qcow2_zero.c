/* Zeroes and discards in a qcow2 image: entries change, and data is not written but where
 * a cluster or subcluster is covered only in part.  (qcow2: "Standard Cluster
 * Descriptor", "Extended L2 Entries".)
 *
 * An external data file that can be used on its own as a raw image keeps its entries as
 * they are: the zeroes are in the file. */
#include <errno.h>

#include "qcow2_io_private.h"

enum { AT_ONCE = 1024 }; /* entries changed before others get the lock */

typedef enum {
    MAKE_ZERO,       /* and keep the place */
    MAKE_ZERO_UNMAP, /* and give it back if nothing else is there */
    MAKE_OWN,        /* where this layer has nothing */
    DROP,            /* whole clusters only */
} Change;

/* The subclusters `now` of a cluster that has c; what comes out is in c.  False: that
 * cannot be said by the entry. */
static bool zero_some(const Qcow2 *s, Change change, uint32_t now, Qcow2Cluster *c)
{
    uint32_t all = qcow2_all_subclusters(s);

    if (change == MAKE_OWN)
        now = c->compressed ? 0 : now & ~(c->data | c->zero);
    else if (!qcow2_has_backing(s))
        now = c->compressed ? now
                            : now & (c->data | c->zero); /* the rest is zero anyway */
    if (!now)
        return true;
    if (c->compressed && now != all)
        return false;
    c->compressed = false;
    c->data &= ~now;
    c->zero |= now;
    /* An external data file's places cost nothing, and zeroes were put there. */
    if (!c->data && !qcow2_data_is_external(s) &&
        (!c->owned || change == MAKE_ZERO_UNMAP))
        c->placed = false;
    return true;
}

/* Discards a cluster: what was below must not show again. */
static void drop(const Qcow2 *s, Qcow2Cluster *c)
{
    bool used = c->compressed || c->placed;

    if (!used || (qcow2_has_backing(s) && s->h.version < 3))
        return;
    *c = (Qcow2Cluster){.zero = qcow2_has_backing(s) ? qcow2_all_subclusters(s) : 0};
}

static int change_cluster(Qcow2 *s, Change change, uint64_t cluster, uint32_t now)
{
    Qcow2Cluster was, c;
    Qcow2Entry old, new_;
    int err = qcow2_cluster_get(s, cluster, &was, &old);

    if (err)
        return err;
    c = was;
    if (change == DROP)
        drop(s, &c);
    else if (!zero_some(s, change, now, &c))
        return ENOTSUP;
    if (c.compressed) /* as it was */
        return 0;
    new_ = qcow2_entry_make(s, &c);
    if (new_.entry == old.entry && new_.bitmap == old.bitmap)
        return 0;
    err = qcow2_entry_set(s, cluster, &new_);
    if (!err && (was.compressed || (was.placed && !c.placed)))
        err = qcow2_entry_free(s, &old);
    return err;
}

/* Changes entries of [*from, to) until it is done or was at it for long enough.  ENOTSUP:
 * at *from the entry cannot say it. */
static int change_some(Qcow2 *s, Change change, uint64_t *from, uint64_t to, bool claimed)
{
    LOCK_GUARD(&s->lock);

    for (unsigned i = 0; i < AT_ONCE && *from < to; i++) {
        uint64_t cluster = align_down(*from, s->cluster_size);
        uint64_t end = MIN(to, cluster + s->cluster_size);
        int err;

        if (!claimed)
            qcow2_claim_wait(s, cluster);
        if (qcow2_broken(s))
            return EIO;
        err = change_cluster(s, change, cluster,
                             qcow2_subclusters(s, cluster, *from, end));
        if (err)
            return err;
        *from = end;
    }
    return 0;
}

/* Changes the entries of [from, to): whole subclusters, all of which the caller has
 * claimed, or none. */
static int change_entries(Qcow2 *s, Change change, uint64_t from, uint64_t to,
                          bool claimed)
{
    int err = 0;

    while (from < to && !err) {
        err = change_some(s, change, &from, to, claimed);
        if (err == ENOTSUP) { /* part of a compressed cluster */
            uint64_t end = MIN(to, align_down(from, s->cluster_size) + s->cluster_size);
            uint64_t size = image_size_now(s->img);

            err = qcow2_write_zeroes(s->img, from, MIN(end, size) - from, false);
            from = end;
        }
    }
    return err;
}

int qcow2_zero_holes(Qcow2 *s, uint64_t from, uint64_t to)
{
    return change_entries(s, MAKE_OWN, from, to, false);
}

/* In an external data file the bytes change as well, first. */
static int change_external(Qcow2 *s, Change change, uint64_t from, uint64_t to)
{
    Qcow2Claim claim = {.start = align_down(from, s->cluster_size),
                        .end = align_up(to, s->cluster_size)};
    uint64_t len = MIN(to, image_size_now(s->img)) - from;
    int err = 0;

    lock_acquire(&s->lock);
    qcow2_claim(s, &claim);
    lock_release(&s->lock);
    if (qcow2_broken(s))
        err = EIO;
    else if (qcow2_data_is_raw(s) || change == MAKE_ZERO_UNMAP)
        err = block_file_zero(s->data, from, len, change != MAKE_ZERO);
    if (!err && !qcow2_data_is_raw(s))
        err = change_entries(s, change, from, to, true);
    if (!err && change == DROP && !qcow2_data_is_raw(s))
        err = block_file_discard(s->data, from, len);
    lock_acquire(&s->lock);
    qcow2_claim_end(s, &claim);
    lock_release(&s->lock);
    return err;
}

static int change_range(Qcow2 *s, Change change, uint64_t from, uint64_t to)
{
    if (from >= to)
        return 0;
    return qcow2_data_is_external(s) ? change_external(s, change, from, to)
                                     : change_entries(s, change, from, to, false);
}

int qcow2_zero(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap)
{
    Qcow2 *s = qcow2_of(img);
    uint64_t end = offset + len, unit = s->subcluster_size;
    uint64_t from = align_up(offset, unit), to = align_down(end, unit);
    Change change = may_unmap ? MAKE_ZERO_UNMAP : MAKE_ZERO;
    int err = 0;

    if (end == image_size_now(img))
        to = align_up(end, unit);
    if (qcow2_data_is_raw(s)) {
        from = offset;
        to = end;
    } else if (s->h.version < 3) {
        /* No entry says zeroes but the empty one, and that only without backing. */
        change = DROP;
        if (!may_unmap || qcow2_has_backing(s))
            to = from;
    }
    if (from >= to)
        return qcow2_write_zeroes(img, offset, len, may_unmap);
    err = qcow2_write_zeroes(img, offset, from - offset, may_unmap);
    if (!err)
        err = change_range(s, change, from, to);
    return err || to >= end ? err : qcow2_write_zeroes(img, to, end - to, may_unmap);
}

int qcow2_discard(BlockImage *img, uint64_t offset, uint64_t len)
{
    Qcow2 *s = qcow2_of(img);
    uint64_t from = align_up(offset, s->cluster_size);
    uint64_t to = align_down(offset + len, s->cluster_size);

    if (offset + len == image_size_now(img))
        to = qcow2_end(s);
    return change_range(s, DROP, from, to);
}
