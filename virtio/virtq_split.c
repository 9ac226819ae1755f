/* Split virtqueues (virtio 1.2, 2.7): a descriptor table, a ring of heads by the driver,
 * and a ring of used heads by the device.  Indices run freely over 16 bits. */
#include "virtio/virtq_internal.h"

typedef struct SplitDesc { /* 2.7.5 */
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
} SplitDesc;
_Static_assert(sizeof(SplitDesc) == DESC_SIZE, "as in the specification");

typedef struct SplitUsed { /* 2.7.8 */
    uint32_t id, len;
} SplitUsed;

/* Both rings begin with flags and idx; the index that EVENT_IDX wants to be told of
 * follows the entries (2.7.6, 2.7.8). */
enum { RING_FLAGS = 0, RING_IDX = 1, RING_HEADER = 4, NO_NOTIFY = 1, NO_INTERRUPT = 1 };

static uint16_t get(const void *area, unsigned word, int order)
{
    const uint16_t *at = (const uint16_t *)area + word;

    return order == __ATOMIC_ACQUIRE ? __atomic_load_n(at, __ATOMIC_ACQUIRE)
                                     : __atomic_load_n(at, __ATOMIC_RELAXED);
}

/* Into the device area. */
static void put(Virtqueue *vq, unsigned word, uint16_t value)
{
    uint16_t *at = (uint16_t *)vq->device + word;

    __atomic_store_n(at, value, __ATOMIC_RELEASE);
    vq_wrote(vq, at, sizeof(*at));
}

static uint64_t split_area(const Virtqueue *vq, unsigned area, unsigned *align)
{
    uint64_t event = vq->event_idx ? sizeof(uint16_t) : 0;

    switch (area) {
    case 0:
        *align = 16;
        return (uint64_t)vq->cfg.size * DESC_SIZE;
    case 1:
        *align = 2;
        return RING_HEADER + (uint64_t)vq->cfg.size * sizeof(uint16_t) + event;
    default:
        *align = 4;
        return RING_HEADER + (uint64_t)vq->cfg.size * sizeof(SplitUsed) + event;
    }
}

/* Follows a chain from descriptor `i` of the table, into an indirect one if it ends in
 * one. */
static bool collect(VqChain *c, unsigned i)
{
    const uint8_t *table = c->vq->desc;
    unsigned n = c->vq->cfg.size;
    bool indirect = false; /* not to be told by the table's place: it may be the same */
    SplitDesc d;

    for (;;) {
        if (i >= n)
            return vq_break(c->vq, "descriptor %u in a table of %u", i, n);
        desc_copy(&d, table + (size_t)i * DESC_SIZE);
        if (d.flags & DESC_INDIRECT) {
            if (indirect || (d.flags & DESC_NEXT)) /* 2.7.5.3.1 */
                return vq_break(c->vq, "an indirect table inside or before another");
            table = chain_table(c, d.addr, d.len, &n);
            if (!table)
                return false;
            indirect = true;
            i = 0;
            continue;
        }
        if (!chain_add(c, d.addr, d.len, d.flags & DESC_WRITE))
            return false;
        if (!(d.flags & DESC_NEXT))
            return true;
        i = d.next;
    }
}

/* Reads the driver's index: true if there is more than we knew. */
static bool refresh(Virtqueue *vq)
{
    uint16_t seen = get(vq->driver, RING_IDX, __ATOMIC_ACQUIRE);
    uint16_t n = seen - vq->avail_idx;

    if (n > vq->cfg.size)
        return vq_break(vq, "the available index jumps by %u, in a queue of %u", n,
                        vq->cfg.size);
    vq->avail_seen = seen;
    return n != 0;
}

static bool split_pop(Virtqueue *vq, VqReq *req)
{
    VqChain c = chain_begin(vq, req);
    uint16_t head;

    if (vq->avail_idx == vq->avail_seen && !refresh(vq))
        return false;
    head = get(vq->driver,
               RING_HEADER / sizeof(head) + (vq->avail_idx & (vq->cfg.size - 1)),
               __ATOMIC_RELAXED);
    req->n_desc = 1;
    if (!chain_claim(&c, head) || !collect(&c, head))
        return false;
    vq->avail_idx++;
    return true;
}

static void split_unpop(Virtqueue *vq, const VqReq *req)
{
    vq->avail_idx--;
}

static bool split_has_work(const Virtqueue *vq)
{
    return vq->avail_idx != vq->avail_seen ||
           get(vq->driver, RING_IDX, __ATOMIC_ACQUIRE) != vq->avail_idx;
}

static void split_fill(Virtqueue *vq, const VqReq *req, uint32_t written)
{
    unsigned slot = (vq->used_idx + vq->filled) & (vq->cfg.size - 1u);
    SplitUsed *used = (SplitUsed *)((uint8_t *)vq->device + RING_HEADER +
                                    slot * sizeof(*used));

    *used = (SplitUsed){req->id, written};
    vq_wrote(vq, used, sizeof(*used));
}

static void split_flush(Virtqueue *vq)
{
    vq->used_idx += (uint16_t)vq->filled;
    put(vq, RING_IDX, vq->used_idx); /* releases the entries and the data */
}

/* 2.7.7.1 */
static bool split_wants_interrupt(Virtqueue *vq, unsigned entries)
{
    uint16_t event, passed;

    if (!vq->event_idx)
        return !(get(vq->driver, RING_FLAGS, __ATOMIC_RELAXED) & NO_INTERRUPT);
    event = get(vq->driver, RING_HEADER / sizeof(event) + vq->cfg.size, __ATOMIC_RELAXED);
    passed = vq->used_idx - event - 1; /* entries used since the one it waits for */
    return passed < entries;
}

/* 2.7.10 */
static void split_show_kicks(Virtqueue *vq, bool on)
{
    unsigned event = (RING_HEADER + vq->cfg.size * sizeof(SplitUsed)) / sizeof(uint16_t);

    if (!vq->event_idx) {
        if (on == vq->kicks_off)
            put(vq, RING_FLAGS, on ? 0 : NO_NOTIFY);
    } else if (on && (vq->kicks_off || vq->kick_at != vq->avail_idx)) {
        vq->kick_at = vq->avail_idx;
        put(vq, event, vq->kick_at);
    } else if (!on && vq->kick_at == vq->avail_idx) {
        put(vq, event, (uint16_t)(vq->kick_at - 1)); /* which it has passed */
    }
}

const VqLayout vq_split = {
    .pop = split_pop,
    .unpop = split_unpop,
    .fill = split_fill,
    .flush = split_flush,
    .wants_interrupt = split_wants_interrupt,
    .has_work = split_has_work,
    .show_kicks = split_show_kicks,
    .area = split_area,
};
