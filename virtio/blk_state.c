/* A block device in a saved state: the cache's mode, the disk's size, which has to be the
 * same disk's, and the requests that an error stopped (werror=stop): nobody has answered
 * them, so they are tried again after a restore as after a `cont`. */
#include <inttypes.h>
#include <string.h>

#include "blk_private.h"
#include "state_private.h"
#include "virtio/state.h"

typedef struct BlkState {
    uint64_t size;
    bool writeback;
} BlkState;

static const StateField fields[] = {
    STATE_FIELD(BlkState, size, 1, U64, .help = "bytes of the disk"),
    STATE_FIELD(BlkState, writeback, 2, BOOL, .help = "writes last only after a flush"),
    STATE_HOLE_AT_END(BlkState, writeback),
    {},
};

const StateTable virtio_blk_state_table = {
    .name = "blk",
    .version = 1,
    .size = sizeof(BlkState),
    .fields = fields,
};

/* Those of one queue, oldest first; n is how many there are. */
static void save_stopped(Blk *b, unsigned queue, unsigned n, StateWriter *w)
{
    g_autofree VqReq *popped = g_new(VqReq, n);
    g_autofree const VqReq **reqs = g_new(const VqReq *, n);
    unsigned at = n;

    for (const BlkSlot *s = b->stopped; s; s = s->next_free) {
        if (s->vq->index != queue)
            continue;
        blk_popped(s, &popped[--at]);
        reqs[at] = &popped[at];
    }
    virtio_save_held(&b->v, queue, reqs, n, w);
}

void blk_save(VirtioDevice *v, StateWriter *w)
{
    Blk *b = (Blk *)v;
    const BlkState s = {
        .size = block_size(b->dev),
        .writeback = __atomic_load_n(&b->writeback, __ATOMIC_RELAXED),
    };
    char name[64];

    state_put(w, virtio_section(v, "blk", name), &virtio_blk_state_table, &s);
    for (unsigned i = 0; i < v->n_queues; i++) {
        unsigned n = 0;

        for (const BlkSlot *slot = b->stopped; slot; slot = slot->next_free)
            n += slot->vq->index == i;
        if (n && !virtio_is_broken(v))
            save_stopped(b, i, n, w);
    }
}

static VqReq *room(void *opaque, unsigned queue)
{
    return blk_stop_again(opaque, queue);
}

bool blk_load(VirtioDevice *v, StateReader *r, GError **error)
{
    Blk *b = (Blk *)v;
    BlkState s;
    char name[64];

    if (!state_get(r, virtio_section(v, "blk", name), &virtio_blk_state_table, &s, error))
        return false;
    if (s.size != block_size(b->dev))
        return fail(error, VM_ERROR_INVALID,
                    "the disk has %" PRIu64 " bytes, and had %" PRIu64
                    " when the state was "
                    "saved: it is another disk, or was resized since; give the one of "
                    "then",
                    block_size(b->dev), s.size);
    __atomic_store_n(&b->writeback, s.writeback, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < v->n_queues; i++)
        if (!virtio_load_held(v, i, r, room, b, error))
            return false;
    if (virtio_is_broken(v))
        blk_forget(b);
    return true;
}
