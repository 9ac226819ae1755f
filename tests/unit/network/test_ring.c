/* The rings between a monitor and a switch: order, room, sleeping, memory that is given
 * back, and a hostile other side. */
#include "network/ring.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "util/bits.h"
#include "util/fd.h"

typedef struct Bell {
    int hear, ring;
} Bell;

/* Two mappings of one file, as two processes have. */
typedef struct Pair {
    int fd;
    void *memory[2];
    Ring in, out; /* the producer's view, the consumer's view */
    Bell sleep;   /* of the consumer */
    Bell room;    /* of the producer */
} Pair;

static void *map(Pair *p)
{
    void *memory = mmap(NULL, ring_memory(1), PROT_READ | PROT_WRITE, MAP_SHARED, p->fd,
                        0);

    g_assert_true(memory != MAP_FAILED);
    return memory;
}

static void pair_init(Pair *p)
{
    p->fd = fd_memory("rings", ring_memory(1), 0);
    p->memory[0] = map(p);
    p->memory[1] = map(p);
    g_assert_true(fd_bell(&p->sleep.hear, &p->sleep.ring, NULL));
    g_assert_true(fd_bell(&p->room.hear, &p->room.ring, NULL));
    ring_attach(&p->in, p->memory[0], 1, 0, true, p->sleep.ring);
    ring_attach(&p->out, p->memory[1], 1, 0, true, p->room.ring);
}

static void pair_finish(Pair *p)
{
    munmap(p->memory[0], ring_memory(1));
    munmap(p->memory[1], ring_memory(1));
    close(p->fd);
    close(p->sleep.hear);
    close(p->sleep.ring);
    close(p->room.hear);
    close(p->room.ring);
}

/* What the host has of it. */
static uint64_t held_bytes(Pair *p)
{
    struct stat st;

    g_assert_cmpint(fstat(p->fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

static bool put(Pair *p, uint32_t len, uint8_t fill)
{
    g_autofree uint8_t *bytes = g_malloc(len + 1);
    struct iovec iov[2] = {{bytes, len / 2}, {bytes + len / 2, len - len / 2}};

    memset(bytes, fill, len);
    return ring_put(&p->in, iov, 2);
}

static void take(Pair *p, uint32_t len, uint8_t fill)
{
    uint32_t got;
    const uint8_t *bytes = ring_peek(&p->out, &got);

    g_assert_nonnull(bytes);
    g_assert_cmpuint(got, ==, len);
    for (uint32_t i = 0; i < len; i++)
        g_assert_cmpuint(bytes[i], ==, fill);
    ring_take(&p->out);
}

static bool empty(Pair *p)
{
    uint32_t len;

    return !ring_peek(&p->out, &len);
}

static void records_come_in_order_and_only_when_flushed(void)
{
    Pair p;

    pair_init(&p);
    g_assert_true(put(&p, 60, 1));
    g_assert_true(put(&p, 0, 2));
    g_assert_true(put(&p, 65562, 3));
    g_assert_true(empty(&p));
    ring_flush(&p.in);
    take(&p, 60, 1);
    take(&p, 0, 2);
    take(&p, 65562, 3);
    g_assert_true(empty(&p));
    g_assert_cmpuint(p.out.nonsense, ==, 0);
    pair_finish(&p);
}

static void a_ring_that_is_never_full_begins_again_and_touches_little(void)
{
    Pair p;
    const uint8_t *end;

    pair_init(&p);
    for (unsigned i = 0; i < 30000; i++) {
        for (unsigned k = 0; k < 4; k++)
            g_assert_true(put(&p, 1000, (uint8_t)(i + k)));
        ring_flush(&p.in);
        for (unsigned k = 0; k < 4; k++)
            take(&p, 1000, (uint8_t)(i + k));
        ring_release(&p.out);
    }
    end = p.in.data + RING_BYTES;
    for (const uint8_t *at = p.in.data + 8192; at < end; at++)
        g_assert_cmpuint(*at, ==, 0);
    pair_finish(&p);
}

/* Counts pass 2^32 in the test above and in this one, in which a restart waits for its
 * consumer while the ring fills up behind it. */
static void all_of_the_room_is_there_after_a_restart(void)
{
    Pair p;
    unsigned n;

    pair_init(&p);
    for (unsigned round = 0; round < 40; round++) {
        g_assert_true(put(&p, 200 * 1000 / 2, 7)); /* somewhere in the middle */
        ring_flush(&p.in);
        take(&p, 200 * 1000 / 2, 7);
        ring_release(&p.out);
        for (n = 0; put(&p, 1020, (uint8_t)n); n++)
            ring_flush(&p.in);
        g_assert_cmpuint(n, ==, RING_BYTES / 1024);
        for (unsigned i = 0; i < n; i++)
            take(&p, 1020, (uint8_t)i);
        ring_release(&p.out);
        g_assert_true(empty(&p));
    }
    g_assert_cmpuint(p.out.nonsense, ==, 0);
    pair_finish(&p);
}

static bool readable(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static void a_starved_producer_is_woken_at_half(void)
{
    Pair p;
    unsigned n = 0, left;

    pair_init(&p);
    while (put(&p, 1020, 1))
        n++;
    for (left = n; left > n / 2 + 1; left--) { /* a full ring was published by itself */
        take(&p, 1020, 1);
        ring_release(&p.out);
        g_assert_false(readable(p.room.hear));
    }
    take(&p, 1020, 1);
    ring_release(&p.out);
    g_assert_true(fd_event_take(p.room.hear));
    take(&p, 1020, 1);
    ring_release(&p.out);
    g_assert_false(readable(p.room.hear)); /* once */
    g_assert_true(put(&p, 1020, 1));
    pair_finish(&p);
}

static void a_sleeper_is_woken_and_nobody_else(void)
{
    Pair p;

    pair_init(&p);
    put(&p, 60, 1);
    ring_flush(&p.in);
    g_assert_false(readable(p.sleep.hear));
    g_assert_false(ring_sleep(&p.out)); /* there is something */
    take(&p, 60, 1);
    ring_release(&p.out);
    g_assert_true(ring_sleep(&p.out));
    put(&p, 60, 1);
    ring_flush(&p.in);
    g_assert_true(fd_event_take(p.sleep.hear));
    ring_awake(&p.out);
    put(&p, 60, 1);
    ring_flush(&p.in);
    g_assert_false(readable(p.sleep.hear));
    pair_finish(&p);
}

static unsigned fill(Pair *p)
{
    unsigned n = 0;

    while (put(p, 1020, (uint8_t)n))
        n++;
    return n;
}

static void what_was_full_is_given_back_once_it_rests(void)
{
    Pair p;

    pair_init(&p);
    for (unsigned round = 0; round < 3; round++) {
        unsigned n = fill(&p);

        g_assert_cmpuint(held_bytes(&p), >, RING_BYTES);
        g_assert_true(ring_is_stretched(&p.in));
        for (unsigned i = 0; i < n; i++)
            take(&p, 1020, (uint8_t)i);
        ring_release(&p.out);
        g_assert_true(ring_shrink(&p.in)); /* used since the call before */
        g_assert_cmpuint(held_bytes(&p), >, RING_BYTES);
        g_assert_false(ring_shrink(&p.in));
        g_assert_cmpuint(held_bytes(&p), <=, 4096 + RING_KEPT);
        g_assert_false(ring_is_stretched(&p.in));
        g_assert_true(put(&p, 1020, 7)); /* at the beginning, which was kept */
        ring_flush(&p.in);
        take(&p, 1020, 7);
        ring_release(&p.out);
        g_assert_cmpuint(held_bytes(&p), <=, 4096 + RING_KEPT);
    }
    g_assert_cmpuint(p.out.nonsense, ==, 0);
    pair_finish(&p);
}

static void what_is_not_read_is_not_given_back(void)
{
    unsigned n;
    Pair p;

    pair_init(&p);
    n = fill(&p);
    ring_flush(&p.in);
    g_assert_true(ring_shrink(&p.in));
    g_assert_false(ring_shrink(&p.in)); /* no reason to come back: it is stuck */
    fd_event_take(p.room.hear);
    g_assert_cmpuint(held_bytes(&p), >, RING_BYTES);
    for (unsigned i = 0; i < n; i++)
        take(&p, 1020, (uint8_t)i);
    ring_release(&p.out);
    g_assert_true(fd_event_take(p.room.hear)); /* now there is one */
    g_assert_true(put(&p, 60, 1));             /* not flushed */
    g_assert_true(ring_shrink(&p.in));
    g_assert_false(ring_shrink(&p.in));
    ring_flush(&p.in);
    take(&p, 60, 1);
    ring_release(&p.out);
    g_assert_false(ring_shrink(&p.in)); /* the call before was after the put */
    g_assert_cmpuint(held_bytes(&p), <=, 4096 + RING_KEPT);
    pair_finish(&p);
}

static void nonsense_loses_frames_and_no_more(void)
{
    static const uint32_t heads[] = {
        8, 16, 7, 120, RING_BYTES - 64, RING_BYTES, RING_BYTES + 8, UINT32_MAX, 1u << 31};
    static const uint32_t lengths[] = {0,
                                       1,
                                       12,
                                       100,
                                       RING_BYTES,
                                       UINT32_MAX,
                                       RING_SKIP - 1,
                                       1u << 31,
                                       RING_MAX_RECORD,
                                       RING_MAX_RECORD + 1,
                                       RING_BYTES - 4};
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    Pair p;

    pair_init(&p);
    for (unsigned i = 0; i < 200000; i++) {
        RingShared *s = p.out.shared;
        uint32_t len, turns = 0;
        const uint8_t *bytes;

        s->head = p.out.tail + heads[g_rand_int(rand) % G_N_ELEMENTS(heads)];
        s->restart = g_rand_boolean(rand) ? p.out.tail + 1 : g_rand_int(rand);
        s->starved = g_rand_int(rand);
        for (unsigned k = 0; k < RING_BYTES; k += 16384)
            store_le32(p.out.data + k, lengths[g_rand_int(rand) % G_N_ELEMENTS(lengths)]);
        store_le32(p.out.data + (p.out.tail & (RING_BYTES - 1)),
                   lengths[g_rand_int(rand) % G_N_ELEMENTS(lengths)]);
        while (turns++ < 8 && (bytes = ring_peek(&p.out, &len))) {
            g_assert_true(bytes >= p.out.data);
            g_assert_true(bytes + len <= p.out.data + RING_BYTES);
            ring_take(&p.out);
        }
        ring_release(&p.out);
        ring_sleep(&p.out);
    }
    g_assert_cmpuint(p.out.nonsense, >, 1000);
    pair_finish(&p);
}

static void a_hostile_consumer_gets_no_write_outside(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    Pair p;
    uint8_t guard[64] = {0};

    pair_init(&p);
    for (unsigned i = 0; i < 100000; i++) {
        RingShared *s = p.in.shared;

        put(&p, (uint32_t)g_rand_int_range(rand, 0, 70000), 0x55);
        if (g_rand_int_range(rand, 0, 4) == 0)
            ring_flush(&p.in);
        s->tail = g_rand_boolean(rand) ? g_rand_int(rand) : p.in.head;
        s->restart = g_rand_int(rand);
        ring_shrink(&p.in);
    }
    /* The other ring lies behind this one. */
    g_assert_cmpmem(p.in.data + RING_BYTES, sizeof(guard), guard, sizeof(guard));
    g_assert_false(ring_put(&p.in, &(struct iovec){guard, RING_MAX_RECORD + 1}, 1));
    pair_finish(&p);
}

/* ---- two threads ------------------------------------------------------------------- */

enum { STREAM = 200000, REST = 500 };

static void wait_for(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    g_assert_cmpint(poll(&pfd, 1, 60000), ==, 1); /* a lost wake-up ends here */
    fd_event_take(fd);
}

static void *produce(void *opaque)
{
    Pair *p = opaque;
    uint8_t bytes[3000];

    for (uint32_t i = 0; i < STREAM; i++) {
        struct iovec iov = {bytes, 4 + i % 2900};

        memset(bytes, (int)i, iov.iov_len);
        store_le32(bytes, i);
        while (!ring_put(&p->in, &iov, 1))
            wait_for(p->room.hear);
        if (i % 7 == 0)
            ring_flush(&p->in);
        if (i % REST == 0) {
            ring_flush(&p->in);
            while (ring_is_stretched(&p->in)) { /* the consumer may be asleep by then */
                sched_yield();
                ring_shrink(&p->in);
            }
        }
    }
    ring_flush(&p->in);
    return NULL;
}

static void two_threads_lose_nothing_and_no_wakeup(void)
{
    Pair p;
    pthread_t thread;
    uint32_t len, i = 0;

    pair_init(&p);
    g_assert_cmpint(pthread_create(&thread, NULL, produce, &p), ==, 0);
    while (i < STREAM) {
        const uint8_t *bytes = ring_peek(&p.out, &len);

        if (!bytes) {
            ring_release(&p.out);
            if (ring_sleep(&p.out))
                wait_for(p.sleep.hear);
            continue;
        }
        g_assert_cmpuint(len, ==, 4 + i % 2900);
        g_assert_cmpuint(load_le32(bytes), ==, i);
        g_assert_true(len == 4 || bytes[len - 1] == (uint8_t)i);
        ring_take(&p.out);
        if (++i % 5 == 0)
            ring_release(&p.out);
    }
    pthread_join(thread, NULL);
    g_assert_cmpuint(p.out.nonsense, ==, 0);
    pair_finish(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ring/in order", records_come_in_order_and_only_when_flushed);
    g_test_add_func("/ring/begins again",
                    a_ring_that_is_never_full_begins_again_and_touches_little);
    g_test_add_func("/ring/room after a restart",
                    all_of_the_room_is_there_after_a_restart);
    g_test_add_func("/ring/starved", a_starved_producer_is_woken_at_half);
    g_test_add_func("/ring/sleeper", a_sleeper_is_woken_and_nobody_else);
    g_test_add_func("/ring/given back", what_was_full_is_given_back_once_it_rests);
    g_test_add_func("/ring/not given back", what_is_not_read_is_not_given_back);
    g_test_add_func("/ring/nonsense", nonsense_loses_frames_and_no_more);
    g_test_add_func("/ring/hostile consumer", a_hostile_consumer_gets_no_write_outside);
    g_test_add_func("/ring/two threads", two_threads_lose_nothing_and_no_wakeup);
    return g_test_run();
}
