/* See network/ring.h.
 *
 * Counts run freely and are taken modulo RING_BYTES, which divides 2^32; a lap is one
 * time around.  What the other side wrote is loaded once, and what it says is believed
 * only as far as no access goes outside of the ring and no loop is longer than a few
 * turns.
 *
 * Two orders close the windows in which a wake-up could be lost: the consumer writes
 * `asleep` and then reads `head`, the producer writes `head` and then reads `asleep`,
 * with a full barrier in between on both sides; likewise `starved` and `tail`. */
#include "network/ring.h"

#include <sys/mman.h>

#include "util/bits.h"
#include "util/fd.h"

enum { PAGE = 4096, LAP_MASK = RING_BYTES - 1 };

_Static_assert(sizeof(RingShared) == 128, "two cache lines");
_Static_assert((RING_BYTES & LAP_MASK) == 0, "a power of two");

static size_t shared_bytes(unsigned queues)
{
    return align_up(2 * queues * sizeof(RingShared), PAGE);
}

size_t ring_memory(unsigned queues)
{
    return shared_bytes(queues) + (size_t)2 * queues * RING_BYTES;
}

void ring_attach(Ring *r, void *memory, unsigned queues, unsigned queue, bool to_switch,
                 int wake_fd)
{
    unsigned which = 2 * queue + !to_switch;

    *r = (Ring){.shared = (RingShared *)memory + which,
                .data = (uint8_t *)memory + shared_bytes(queues) +
                        (size_t)which * RING_BYTES,
                .wake_fd = wake_fd};
}

static uint32_t load(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/* The other side's count; all of ours are aligned, so that only such can be equal. */
static uint32_t load_count(const uint32_t *p)
{
    return load(p) & ~(uint32_t)(RING_ALIGN - 1);
}

static uint32_t next_lap(uint32_t count)
{
    return (count | LAP_MASK) + 1;
}

/* Whoever clears the flag signals; the fence comes after the store that the other side
 * looks at before it sleeps. */
static void wake(Ring *r, uint32_t *flag)
{
    if (__atomic_exchange_n(flag, 0, __ATOMIC_ACQ_REL) && r->wake_fd >= 0)
        fd_event_signal(r->wake_fd);
}

/* ---- the producer ------------------------------------------------------------------ */

/* A consumer that has yet to go on to a restart has nothing left before it. */
static void look_at_tail(Ring *r)
{
    r->tail = load_count(&r->shared->tail);
    if (r->restart == r->tail + 1) {
        r->tail = next_lap(r->tail);
    } else if (r->restart) { /* gone; and the count will come again, 4 GiB later */
        r->restart = 0;
        store(&r->shared->restart, 0);
    }
}

/* Nothing is unpublished and all was taken: from the beginning again. */
static void restart_if_empty(Ring *r)
{
    look_at_tail(r);
    if (r->tail != r->head || (r->head & LAP_MASK) == 0)
        return;
    r->restart = r->head + 1;
    store(&r->shared->restart, r->restart);
    r->head = next_lap(r->head);
    r->tail = r->head;
}

static uint32_t room(const Ring *r)
{
    uint32_t used = r->head - r->tail;

    return used <= RING_BYTES ? RING_BYTES - used : 0;
}

bool ring_has_room(Ring *r, uint32_t bytes)
{
    if (room(r) >= bytes)
        return true;
    look_at_tail(r);
    if (room(r) >= bytes)
        return true;
    ring_flush(r); /* what it waits for must be there */
    store(&r->shared->starved, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    look_at_tail(r);
    if (room(r) < bytes)
        return false;
    store(&r->shared->starved, 0);
    return true;
}

bool ring_put(Ring *r, const struct iovec *iov, unsigned n)
{
    size_t len = 0;
    uint32_t size, at, skip;

    for (unsigned i = 0; i < n; i++)
        len += iov[i].iov_len;
    if (len > RING_MAX_RECORD)
        return false;
    if (r->head == __atomic_load_n(&r->shared->head, __ATOMIC_RELAXED))
        restart_if_empty(r);
    size = (uint32_t)align_up(sizeof(uint32_t) + len, RING_ALIGN);
    at = r->head & LAP_MASK;
    skip = size > RING_BYTES - at ? RING_BYTES - at : 0;
    if (!ring_has_room(r, skip + size))
        return false;
    if (skip) {
        store_le32(r->data + at, RING_SKIP);
        r->head += skip;
        at = 0;
    }
    r->head += size;
    r->reach = skip ? RING_BYTES : MAX(r->reach, at + size);
    store_le32(r->data + at, (uint32_t)len);
    at += sizeof(uint32_t);
    for (unsigned i = 0; i < n; i++) {
        memcpy(r->data + at, iov[i].iov_base, iov[i].iov_len);
        at += (uint32_t)iov[i].iov_len;
    }
    return true;
}

void ring_flush(Ring *r)
{
    RingShared *s = r->shared;

    store(&s->head, r->head);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (load(&s->asleep))
        wake(r, &s->asleep);
}

/* Only the producer can do this, as only it knows that nothing is being written.  What
 * the consumer says cannot hurt but the consumer itself: it loses what it has not read.
 * The pages go from the mappings of both; who touches them again gets zeroes, and memory
 * that is no file (a test's) just stays. */
bool ring_shrink(Ring *r)
{
    if (!ring_is_stretched(r))
        return false;
    if (r->head != r->rest) {
        r->rest = r->head;
        return true;
    }
    restart_if_empty(r);
    if (r->tail != r->head) {
        store(&r->shared->starved, 1);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        look_at_tail(r);
        return r->tail == r->head;
    }
    madvise(r->data + RING_KEPT, align_up(r->reach, PAGE) - RING_KEPT, MADV_REMOVE);
    r->reach = RING_KEPT;
    r->rest = r->head;
    return false;
}

/* ---- the consumer ------------------------------------------------------------------ */

/* A restart is announced only while the ring is empty, so this is the only place that
 * has to look for one. */
static bool look_at_head(Ring *r)
{
    r->head = load_count(&r->shared->head);
    if (r->head == r->tail)
        return false;
    if (load(&r->shared->restart) == r->tail + 1 && (r->tail & LAP_MASK) != 0)
        r->tail = next_lap(r->tail);
    return r->head != r->tail;
}

static const uint8_t *nonsense(Ring *r)
{
    r->tail = r->head;
    r->nonsense++;
    return NULL;
}

const uint8_t *ring_peek(Ring *r, uint32_t *ret_len)
{
    uint32_t at, used, len;

    for (;;) {
        if (r->tail == r->head && !look_at_head(r))
            return NULL;
        at = r->tail & LAP_MASK;
        used = r->head - r->tail;
        if (used > RING_BYTES)
            return nonsense(r);
        len = __atomic_load_n((uint32_t *)(r->data + at), __ATOMIC_RELAXED);
        if (len != RING_SKIP)
            break;
        if (at == 0 ||
            RING_BYTES - at >= used) /* a lap is skipped once, before a record */
            return nonsense(r);
        r->tail = next_lap(r->tail);
    }
    if (len > RING_MAX_RECORD ||
        align_up(sizeof(uint32_t) + len, RING_ALIGN) > MIN(used, RING_BYTES - at))
        return nonsense(r);
    r->next = r->tail + (uint32_t)align_up(sizeof(uint32_t) + len, RING_ALIGN);
    *ret_len = len;
    return r->data + at + sizeof(uint32_t);
}

void ring_take(Ring *r)
{
    r->tail = r->next;
}

void ring_release(Ring *r)
{
    RingShared *s = r->shared;

    store(&s->tail, r->tail);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (load(&s->starved) && (uint32_t)(load_count(&s->head) - r->tail) <= RING_BYTES / 2)
        wake(r, &s->starved);
}

bool ring_sleep(Ring *r)
{
    store(&r->shared->asleep, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (r->tail == r->head && !look_at_head(r))
        return true;
    ring_awake(r);
    return false;
}

void ring_awake(Ring *r)
{
    store(&r->shared->asleep, 0);
}
