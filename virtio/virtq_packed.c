/* Packed virtqueues (virtio 1.2, 2.8): one ring of descriptors which driver and device
 * both write.  Each side keeps a position and a wrap counter that flips at the ring's
 * end; a descriptor is available when its AVAIL bit equals the driver's counter and its
 * USED bit does not, used when both equal the device's. */
#include "virtio/virtq_internal.h"

typedef struct PackedDesc { /* 2.8.13 */
    uint64_t addr;
    uint32_t len;
    uint16_t id, flags;
} PackedDesc;
_Static_assert(sizeof(PackedDesc) == DESC_SIZE, "as in the specification");

enum { DESC_AVAIL = 0x80, DESC_USED = 0x8000 };

typedef struct PackedEvent { /* 2.8.14: the driver and device areas */
    uint16_t off_wrap, flags;
} PackedEvent;
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2, WRAP_BIT = 0x8000 };

static uint64_t packed_area(const Virtqueue *vq, unsigned area, unsigned *align)
{
    *align = area ? 4 : 16;
    return area ? sizeof(PackedEvent) : (uint64_t)vq->cfg.size * DESC_SIZE;
}

static PackedDesc *desc_at(const Virtqueue *vq, unsigned i)
{
    return (PackedDesc *)vq->desc + i;
}

/* Moves a position by `n` <= size entries. */
static void advance(const Virtqueue *vq, uint16_t *idx, bool *wrap, unsigned n)
{
    unsigned to = *idx + n;

    if (to >= vq->cfg.size) {
        to -= vq->cfg.size;
        *wrap = !*wrap;
    }
    *idx = (uint16_t)to;
}

static bool is_avail(const Virtqueue *vq, uint16_t flags)
{
    return !!(flags & DESC_AVAIL) == vq->avail_wrap &&
           !!(flags & DESC_USED) != vq->avail_wrap;
}

static uint16_t head_flags(const Virtqueue *vq)
{
    return __atomic_load_n(&desc_at(vq, vq->avail_idx)->flags, __ATOMIC_ACQUIRE);
}

/* Ring entries that are ours: popped, or filled and not yet shown to the driver. */
static unsigned taken(const Virtqueue *vq)
{
    return vq->held + vq->filled;
}

static bool packed_has_work(const Virtqueue *vq)
{
    return taken(vq) < vq->cfg.size && is_avail(vq, head_flags(vq));
}

/* All entries of an indirect table belong to the chain; NEXT means nothing there (2.8.7).
 */
static bool collect_table(VqChain *c, const PackedDesc *at)
{
    unsigned n;
    const uint8_t *table = chain_table(c, at->addr, at->len, &n);
    PackedDesc d;

    for (unsigned i = 0; table && i < n; i++) {
        desc_copy(&d, table + (size_t)i * DESC_SIZE);
        if (d.flags & DESC_INDIRECT)
            return vq_break(c->vq, "an indirect table inside another");
        if (!chain_add(c, d.addr, d.len, d.flags & DESC_WRITE))
            return false;
    }
    return table != NULL;
}

/* Collects from avail_idx on; *ret_last is the descriptor with the buffer id.  A chain is
 * either a list of descriptors or one indirect table (2.8.8). */
static bool collect(VqChain *c, unsigned *ret_n, PackedDesc *ret_last)
{
    Virtqueue *vq = c->vq;
    uint16_t i = vq->avail_idx;
    bool wrap = vq->avail_wrap;
    PackedDesc d;

    for (unsigned n = 1;; n++) {
        if (taken(vq) + n > vq->cfg.size)
            return vq_break(vq, "more descriptors than the ring has");
        desc_copy(&d, desc_at(vq, i));
        if (d.flags & DESC_INDIRECT) {
            if (n > 1 || (d.flags & DESC_NEXT)) /* 2.8.8 */
                return vq_break(vq, "an indirect table in the middle of a chain");
            if (!collect_table(c, &d))
                return false;
        } else if (!chain_add(c, d.addr, d.len, d.flags & DESC_WRITE)) {
            return false;
        }
        *ret_n = n;
        *ret_last = d;
        if (!(d.flags & DESC_NEXT))
            return true;
        advance(vq, &i, &wrap, 1);
    }
}

static bool packed_pop(Virtqueue *vq, VqReq *req)
{
    VqChain c = chain_begin(vq, req);
    PackedDesc last = {0};
    unsigned n = 0;

    if (!packed_has_work(vq))
        return false;
    if (!collect(&c, &n, &last) || !chain_claim(&c, last.id))
        return false;
    req->n_desc = (uint16_t)n;
    advance(vq, &vq->avail_idx, &vq->avail_wrap, n);
    return true;
}

static void packed_unpop(Virtqueue *vq, const VqReq *req)
{
    /* Forward by what is left of a whole turn, which is not counted as one. */
    advance(vq, &vq->avail_idx, &vq->avail_wrap, vq->cfg.size - req->n_desc);
    vq->avail_wrap = !vq->avail_wrap;
}

/* The first entry of a batch gets its flags when it is flushed, since that is where the
 * driver looks first; all behind it are complete by then (2.8.22). */
static void packed_fill(Virtqueue *vq, const VqReq *req, uint32_t written)
{
    uint16_t i = vq->used_idx;
    bool wrap = vq->used_wrap;
    uint16_t flags;
    PackedDesc *d;

    advance(vq, &i, &wrap, vq->filled);
    d = desc_at(vq, i);
    flags = (wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? DESC_WRITE : 0);
    d->id = req->id;
    d->len = written;
    if (vq->filled)
        __atomic_store_n(&d->flags, flags, __ATOMIC_RELAXED);
    else
        vq->first_flags = flags;
    vq_wrote(vq, d, sizeof(*d));
}

static void packed_flush(Virtqueue *vq)
{
    PackedDesc *d = desc_at(vq, vq->used_idx);

    __atomic_store_n(&d->flags, vq->first_flags, __ATOMIC_RELEASE);
    vq_wrote(vq, d, sizeof(*d));
    advance(vq, &vq->used_idx, &vq->used_wrap, vq->filled);
}

/* 2.8.10: the driver's event suppression. */
static bool packed_wants_interrupt(Virtqueue *vq, unsigned entries)
{
    PackedEvent *event = vq->driver;
    uint16_t flags = __atomic_load_n(&event->flags, __ATOMIC_ACQUIRE), off_wrap;
    int at;

    if (flags != EVENT_DESC || !vq->event_idx)
        return flags != EVENT_DISABLE;
    off_wrap = __atomic_load_n(&event->off_wrap, __ATOMIC_RELAXED);
    at = off_wrap & ~WRAP_BIT;
    if (!!(off_wrap & WRAP_BIT) != vq->used_wrap)
        at -= vq->cfg.size; /* it lies in the turn before this one */
    return (uint16_t)(vq->used_idx - at - 1) < entries;
}

static void put_event(Virtqueue *vq, uint16_t flags)
{
    PackedEvent *event = vq->device;

    __atomic_store_n(&event->flags, flags, __ATOMIC_RELEASE);
    vq_wrote(vq, event, sizeof(*event));
}

static void packed_show_kicks(Virtqueue *vq, bool on)
{
    PackedEvent *event = vq->device;
    uint16_t at = vq->avail_idx | (vq->avail_wrap ? WRAP_BIT : 0);

    if (!vq->event_idx) {
        if (on == vq->kicks_off)
            put_event(vq, on ? EVENT_ENABLE : EVENT_DISABLE);
    } else if (on && (vq->kicks_off || vq->kick_at != at)) {
        vq->kick_at = at;
        __atomic_store_n(&event->off_wrap, at, __ATOMIC_RELAXED);
        put_event(vq, EVENT_DESC);
    } else if (!on && vq->kick_at == at) {
        put_event(vq, EVENT_DISABLE);
    }
}

const VqLayout vq_packed = {
    .pop = packed_pop,
    .unpop = packed_unpop,
    .fill = packed_fill,
    .flush = packed_flush,
    .wants_interrupt = packed_wants_interrupt,
    .has_work = packed_has_work,
    .show_kicks = packed_show_kicks,
    .area = packed_area,
};
