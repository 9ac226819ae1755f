/* Transfers that lie in several places, as those of a disk of many layers do: every place
 * is a part, which is a request of its own to the engine, and the whole is done when the
 * last of them is.  What reads as zeroes in between is filled in at once.
 *
 * A part is as good a request as any: what the engine cannot carry out, or cuts short,
 * goes to the workers, which find it by its offset on the disk.  The whole has the error
 * of the part that failed first.
 *
 * Parts come from a fixed store of the queue's, made when the first is needed.  What
 * needs more of them, or more than that, is done by a worker from start to end: looking
 * up what is not cached, compressed clusters, allocation. */
#include <stdlib.h>

#include "block_private.h"
#include "util/iov.h"

enum {
    STORE = 64,            /* parts of a queue */
    MOST = 16,             /* ... of one request */
    IOV = 64,              /* buffers of a part */
    ZERO_BYTES = 128 << 10 /* filled in for a request on the I/O thread */
};

struct BlockPart {
    BlockReq req; /* first: engines and workers know nothing else */
    struct iovec iov[IOV];
};

static BlockPart *take(BlockParts *p)
{
    BlockPart *part = (BlockPart *)(void *)block_list_take(&p->free);

    if (part)
        return part;
    if (!p->store && !(p->store = calloc(STORE, sizeof(*p->store))))
        return NULL;
    return p->n_used < STORE ? &p->store[p->n_used++] : NULL;
}

void block_parts_free(BlockParts *p)
{
    free(p->store);
    *p = (BlockParts){0};
}

/* The part of `whole` that is at e, `skip` bytes into it; false: it does not fit. */
static bool prepare(BlockQueue *q, BlockPart *part, BlockReq *whole, uint64_t skip,
                    const Extent *e)
{
    uint64_t left = e->len, at = skip;
    unsigned n = 0;

    for (unsigned i = 0; i < whole->n_iov && left; i++) {
        const struct iovec *v = &whole->iov[i];
        size_t len;

        if (at >= v->iov_len) {
            at -= v->iov_len;
            continue;
        }
        if (n == IOV)
            return false;
        len = MIN(v->iov_len - at, left);
        part->iov[n++] = (struct iovec){(uint8_t *)v->iov_base + at, len};
        left -= len;
        at = 0;
    }
    part->req = (BlockReq){.op = whole->op,
                           .offset = whole->offset + skip,
                           .len = e->len,
                           .iov = part->iov,
                           .n_iov = n};
    *block_priv(&part->req) = (BlockPriv){.q = q, .whole = whole};
    return !left && block_aim(q, &part->req, e);
}

/* Appends the parts of a transfer to a list; false if it cannot be done by parts. */
static bool plan(BlockQueue *q, BlockReq *whole, BlockList *list)
{
    uint64_t skip = 0, zeroes = 0;
    unsigned n = 0;
    Extent e;

    for (; skip < whole->len; skip += e.len) {
        BlockPart *part;

        if (block_map_lookup(&q->map, q->dev->top, whole->offset + skip,
                             whole->len - skip, &e))
            return false;
        if (e.kind == EXTENT_ZERO && whole->op == BLOCK_READ &&
            (zeroes += e.len) <= ZERO_BYTES) {
            iov_fill(whole->iov, whole->n_iov, skip, 0, e.len);
            continue;
        }
        if (e.kind != EXTENT_DATA || (whole->op == BLOCK_WRITE && !e.in_place) ||
            n++ == MOST || !(part = take(&q->parts)))
            return false;
        block_list_add(list, &part->req);
        if (!prepare(q, part, whole, skip, &e))
            return false;
    }
    return n > 0;
}

bool block_parts_submit(BlockQueue *q, BlockReq *whole)
{
    BlockList list = {0};
    bool ok = plan(q, whole, &list);
    BlockReq *part;

    while ((part = block_list_take(&list))) {
        if (!ok) {
            block_list_add(&q->parts.free, part);
            continue;
        }
        block_priv(whole)->n_parts++;
        q->dev->engine->submit(q->engine, part);
    }
    return ok;
}

void block_parts_finish(BlockReq *part, int err)
{
    BlockReq *whole = block_priv(part)->whole;
    BlockPriv *priv = block_priv(whole);

    if (!priv->err)
        priv->err = err;
    priv->slow |= block_priv(part)->slow;
    block_list_add(&priv->q->parts.free, part);
    if (--priv->n_parts == 0)
        block_finish(whole, priv->err);
}
