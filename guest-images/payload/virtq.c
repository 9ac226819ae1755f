/* Virtqueues from the driver's side: split (virtio 1.2, 2.7) and packed (2.8), direct and
 * indirect, with and without EVENT_IDX.  x86 keeps stores in order, so that the compiler
 * must be kept in order too, and a full barrier is needed only before a kick. */
#include "virtio.h"

#define RING_MODES 8

#define NO_INTERRUPT 1 /* split: avail flags */
#define NO_NOTIFY    1 /* split: used flags  */

#define EVENT_ENABLE  0 /* packed: event flags, 2.8.10 */
#define EVENT_DISABLE 1
#define EVENT_DESC    2

/* Whether mode `index` is offered and allowed; its feature bits go to `ret`. */
static bool ring_mode(VirtioDevice *d, unsigned index, uint64_t *ret)
{
    uint64_t offered = d->ops->get_features(d);
    bool packed = index & 4, indirect = index & 2, event_idx = index & 1;
    const char *layout = arg_text("ring", "all");

    *ret = (packed ? F_PACKED : 0) | (indirect ? F_INDIRECT : 0) |
           (event_idx ? F_EVENT_IDX : 0);
    return (offered & *ret) == *ret &&
           (text_equal(layout, "all") ||
            text_equal(layout, packed ? "packed" : "split")) &&
           arg_number("indirect", indirect) == indirect &&
           arg_number("event_idx", event_idx) == event_idx;
}

void in_every_ring_mode(VirtioDevice *d, void (*fn)(VirtioDevice *d, uint64_t mode))
{
    unsigned modes = 0;
    uint64_t mode;

    for (unsigned i = 0; i < RING_MODES; i++) {
        if (!ring_mode(d, i, &mode))
            continue;
        fn(d, mode);
        modes++;
    }
    CHECK(modes, "the device offers no such ring");
}

uint64_t best_ring_mode(VirtioDevice *d)
{
    uint64_t mode, best = 0;
    bool any = false;

    for (unsigned i = 0; i < RING_MODES; i++)
        if (ring_mode(d, i, &mode)) {
            best = mode;
            any = true;
        }
    CHECK(any, "the device offers no such ring");
    return best;
}

const char *ring_mode_name(uint64_t mode)
{
    static const char *const names[RING_MODES] = {
        "split",  "split+event_idx",  "split+indirect",  "split+indirect+event_idx",
        "packed", "packed+event_idx", "packed+indirect", "packed+indirect+event_idx",
    };
    return names[(mode & F_PACKED ? 4 : 0) | (mode & F_INDIRECT ? 2 : 0) |
                 (mode & F_EVENT_IDX ? 1 : 0)];
}

static uint64_t at64(volatile const void *p)
{
    return (uintptr_t)p;
}

static volatile uint16_t *used_event(Virtq *q)
{
    return q->avail + 2 + q->size;
}

static volatile uint16_t *avail_event(Virtq *q)
{
    return q->used + 2 + 4 * q->size;
}

/* Interrupts are asked for when they are counted, and never otherwise. */
static void ask_for_interrupt(Virtq *q)
{
    if (q->packed) {
        q->driver_event[0] = (uint16_t)(q->next_used | (q->used_wrap ? 0x8000 : 0));
        q->driver_event[1] = !q->interrupts ? EVENT_DISABLE
                             : q->event_idx ? EVENT_DESC
                                            : EVENT_ENABLE;
    } else {
        q->avail[0] = !q->interrupts && !q->event_idx ? NO_INTERRUPT : 0;
        *used_event(q) = (uint16_t)(q->interrupts ? q->next_used : q->next_used - 0x8000);
    }
}

/* A queue that is set up again after a reset keeps its memory. */
static void virtq_allocate(Virtq *q)
{
    if (!q->tables) {
        q->desc = alloc(QUEUE_MAX * sizeof(SplitDesc), 4096);
        q->avail = alloc(2 * (3 + QUEUE_MAX), 64);
        q->used = alloc(2 * (3 + 4 * QUEUE_MAX), 64);
        q->tables = alloc(QUEUE_MAX * INDIRECT_MAX * sizeof(SplitDesc), 64);
        q->tokens = alloc(QUEUE_MAX * sizeof(void *), 64);
        q->slots = alloc(QUEUE_MAX * sizeof(uint16_t), 64);
        q->free_ids = alloc(QUEUE_MAX * sizeof(uint16_t), 64);
    }
    memset((void *)q->desc, 0, QUEUE_MAX * sizeof(SplitDesc));
    memset((void *)q->avail, 0, 2 * (3 + QUEUE_MAX));
    memset((void *)q->used, 0, 2 * (3 + 4 * QUEUE_MAX));
    q->ring = (volatile PackedDesc *)q->desc;
    q->driver_event = q->avail;
    q->device_event = q->used;
}

void virtq_init(Virtq *q, VirtioDevice *d, uint16_t index, uint16_t size)
{
    d->ops->select_queue(d, index);
    uint16_t max = d->ops->queue_max(d);
    CHECK(max, "queue %u does not exist", index);

    virtq_allocate(q);
    if (max > QUEUE_MAX)
        max = QUEUE_MAX;
    q->dev = d;
    q->index = index;
    q->size = size && size < max ? size : max;
    q->packed = d->features & F_PACKED;
    q->indirect = d->features & F_INDIRECT;
    q->event_idx = d->features & F_EVENT_IDX;
    q->n_free_ids = q->n_free_slots = q->size;
    for (uint16_t i = 0; i < q->size; i++)
        q->free_ids[i] = i;
    q->next_avail = q->next_used = q->added = 0;
    q->avail_wrap = q->used_wrap = true;
    ask_for_interrupt(q);
    d->ops->queue_size(d, q->size);
    d->ops->queue_place(d, at64(q->desc), at64(q->avail), at64(q->used));
    if (q->interrupts)
        d->ops->queue_interrupt(d, index);
    d->ops->queue_enable(d, true);
}

static uint16_t buffer_flags(const Buffer *b, bool more)
{
    return (uint16_t)((b->device_writes ? DESC_WRITE : 0) | (more ? DESC_NEXT : 0));
}

/* ---- Split ---- */

static uint16_t split_add_chain(Virtq *q, const Buffer *b, unsigned n)
{
    const uint16_t *ids = q->free_ids + q->n_free_ids - n;

    for (unsigned i = 0; i < n; i++) {
        volatile SplitDesc *desc = &q->desc[ids[i]];

        desc->address = at64(b[i].at);
        desc->size = b[i].size;
        desc->flags = buffer_flags(&b[i], i + 1 < n);
        desc->next = i + 1 < n ? ids[i + 1] : 0;
    }
    q->n_free_ids = (uint16_t)(q->n_free_ids - n);
    return ids[0];
}

static uint16_t split_add_indirect(Virtq *q, const Buffer *b, unsigned n)
{
    uint16_t id = q->free_ids[--q->n_free_ids];
    SplitDesc *table = q->tables + id * INDIRECT_MAX;

    for (unsigned i = 0; i < n; i++) {
        table[i] = (SplitDesc){at64(b[i].at), b[i].size, buffer_flags(&b[i], i + 1 < n),
                               (uint16_t)(i + 1)};
    }
    q->desc[id].address = at64(table);
    q->desc[id].size = n * (uint32_t)sizeof(SplitDesc);
    q->desc[id].flags = DESC_INDIRECT;
    return id;
}

static void split_add(Virtq *q, const Buffer *b, unsigned n, bool indirect, void *token)
{
    uint16_t id = indirect ? split_add_indirect(q, b, n) : split_add_chain(q, b, n);

    q->tokens[id] = token;
    q->slots[id] = (uint16_t)(indirect ? 1 : n);
    q->avail[2 + q->next_avail % q->size] = id;
    compiler_barrier();
    q->avail[1] = ++q->next_avail;
}

static void *split_pop(Virtq *q, uint32_t *ret_size)
{
    if (q->used[1] == q->next_used)
        return NULL;
    compiler_barrier();
    volatile uint32_t *element = (volatile uint32_t *)(q->used + 2) +
                                 2 * (q->next_used % q->size);
    uint32_t id = element[0];
    *ret_size = element[1];
    q->next_used++;
    CHECK(id < q->size && q->tokens[id], "queue %u: used id %u is not ours", q->index,
          id);

    uint16_t at = (uint16_t)id;
    for (unsigned n = q->slots[id]; n; n--) {
        q->free_ids[q->n_free_ids++] = at;
        at = q->desc[at].next;
    }
    void *token = q->tokens[id];
    q->n_free_slots = (uint16_t)(q->n_free_slots + q->slots[id]);
    q->tokens[id] = NULL;
    return token;
}

static bool split_wants_kick(Virtq *q)
{
    if (!q->event_idx)
        return !(q->used[0] & NO_NOTIFY);
    return (uint16_t)(q->next_avail - *avail_event(q) - 1) < q->added;
}

/* ---- Packed ---- */

static uint16_t packed_flags(Virtq *q)
{
    return q->avail_wrap ? DESC_AVAIL : DESC_USED;
}

static void packed_advance(uint16_t *at, bool *wrap, unsigned n, uint16_t size)
{
    *at = (uint16_t)(*at + n);
    if (*at >= size) {
        *at = (uint16_t)(*at - size);
        *wrap = !*wrap;
    }
}

/* The flags of the first descriptor go last: they hand the whole chain over. */
static void packed_add(Virtq *q, const Buffer *b, unsigned n, bool indirect, void *token)
{
    uint16_t id = q->free_ids[--q->n_free_ids], first = q->next_avail, first_flags = 0;
    unsigned slots = indirect ? 1 : n;
    PackedDesc *table = (PackedDesc *)(q->tables + id * INDIRECT_MAX);
    Buffer outer = {table, n * (uint32_t)sizeof(PackedDesc), false};

    for (unsigned i = 0; indirect && i < n; i++)
        table[i] = (PackedDesc){at64(b[i].at), b[i].size, id, buffer_flags(&b[i], false)};
    for (unsigned i = 0; i < slots; i++) {
        const Buffer *buffer = indirect ? &outer : &b[i];
        volatile PackedDesc *desc = &q->ring[q->next_avail];
        uint16_t flags = (uint16_t)(buffer_flags(buffer, i + 1 < slots) |
                                    packed_flags(q) | (indirect ? DESC_INDIRECT : 0));

        desc->address = at64(buffer->at);
        desc->size = buffer->size;
        desc->id = id;
        if (i == 0)
            first_flags = flags;
        else
            desc->flags = flags;
        packed_advance(&q->next_avail, &q->avail_wrap, 1, q->size);
    }
    q->tokens[id] = token;
    q->slots[id] = (uint16_t)slots;
    compiler_barrier();
    q->ring[first].flags = first_flags;
}

static void *packed_pop(Virtq *q, uint32_t *ret_size)
{
    volatile PackedDesc *desc = &q->ring[q->next_used];
    uint16_t flags = desc->flags;
    bool avail = flags & DESC_AVAIL, used = flags & DESC_USED;

    if (avail != used || used != q->used_wrap)
        return NULL;
    compiler_barrier();
    uint16_t id = desc->id;
    *ret_size = desc->size;
    CHECK(id < q->size && q->tokens[id], "queue %u: used id %u is not ours", q->index,
          id);

    void *token = q->tokens[id];
    packed_advance(&q->next_used, &q->used_wrap, q->slots[id], q->size);
    q->n_free_slots = (uint16_t)(q->n_free_slots + q->slots[id]);
    q->free_ids[q->n_free_ids++] = id;
    q->tokens[id] = NULL;
    return token;
}

static bool packed_wants_kick(Virtq *q)
{
    uint16_t off_wrap = q->device_event[0], flags = q->device_event[1];

    if (flags != EVENT_DESC)
        return flags == EVENT_ENABLE;
    uint16_t event = off_wrap & 0x7fff;
    if ((off_wrap >> 15) != q->avail_wrap)
        event = (uint16_t)(event - q->size);
    return (uint16_t)(q->next_avail - event - 1) < q->added;
}

/* ---- Either ---- */

bool virtq_add(Virtq *q, const Buffer *buffers, unsigned n, void *token)
{
    bool indirect = q->indirect && n > 1 && n <= INDIRECT_MAX;
    unsigned slots = indirect ? 1 : n;

    if (slots > q->n_free_slots)
        return false;
    if (q->packed)
        packed_add(q, buffers, n, indirect, token);
    else
        split_add(q, buffers, n, indirect, token);
    q->n_free_slots = (uint16_t)(q->n_free_slots - slots);
    q->added = (uint16_t)(q->added + (q->packed ? slots : 1));
    return true;
}

void virtq_kick(Virtq *q)
{
    full_barrier();
    if (q->added && (q->packed ? packed_wants_kick(q) : split_wants_kick(q)))
        q->dev->ops->notify(q->dev, q->index);
    q->added = 0;
}

void *virtq_pop(Virtq *q, uint32_t *ret_size)
{
    void *token = q->packed ? packed_pop(q, ret_size) : split_pop(q, ret_size);

    if (token)
        ask_for_interrupt(q);
    return token;
}

bool virtq_has_used(Virtq *q)
{
    uint16_t flags;

    if (!q->packed)
        return q->used[1] != q->next_used;
    flags = q->ring[q->next_used].flags;
    return !(flags & DESC_AVAIL) == !(flags & DESC_USED) &&
           !(flags & DESC_USED) == !q->used_wrap;
}

void *virtq_wait(Virtq *q, uint32_t *ret_size)
{
    void *token;

    (void)WAIT_UNTIL((token = virtq_pop(q, ret_size)));
    return token;
}

uint32_t virtq_do(Virtq *q, const Buffer *buffers, unsigned n)
{
    uint32_t size = 0;

    CHECK(virtq_add(q, buffers, n, q), "queue %u is full", q->index);
    virtq_kick(q);
    CHECK(virtq_wait(q, &size) == q, "queue %u: no answer", q->index);
    return size;
}
