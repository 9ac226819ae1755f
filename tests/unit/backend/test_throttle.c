/* Limits: N a second is N a second, over one and over many. */
#include <stdlib.h>
#include <string.h>

#include "src/block/block_private.h"
#include "tests/unit/backend/scratch.h"

#define SECOND 1000000000ll

/* What comes through in `seconds` of a clock of our own, if somebody always asks. */
static uint64_t admitted(BlockThrottle *t, bool write, uint64_t bytes, unsigned seconds,
                         int64_t *now)
{
    int64_t end = *now + seconds * SECOND;
    uint64_t n = 0;

    for (;;) {
        int64_t when = block_throttle_reserve(t, write, bytes, *now);

        if (when >= end) {
            *now = when;
            return n;
        }
        *now = when;
        n++;
    }
}

static void within_5_percent(uint64_t is, uint64_t ought)
{
    g_assert_cmpuint(is * 100, >=, ought * 95);
    g_assert_cmpuint(is * 100, <=, ought * 105);
}

static void a_limit_is_kept_over_a_second_and_a_minute(void)
{
    static const unsigned seconds[] = {1, 60};
    static const uint64_t sizes[] = {512, 4096, 65536};

    for (unsigned s = 0; s < G_N_ELEMENTS(seconds); s++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
            BlockThrottle *t = block_throttle_get(NULL);
            int64_t now = 5 * SECOND;

            block_throttle_set(t, &(BlockLimits){.bps = 16 << 20});
            within_5_percent(admitted(t, false, sizes[i], seconds[s], &now) * sizes[i],
                             (uint64_t)seconds[s] * (16 << 20));
            block_throttle_set(t, &(BlockLimits){.iops_write = 300});
            within_5_percent(admitted(t, true, sizes[i], seconds[s], &now),
                             seconds[s] * 300);
            block_throttle_put(t);
        }
    }
}

static void reads_and_writes_have_limits_apart(void)
{
    BlockThrottle *t = block_throttle_get(NULL);
    int64_t now = SECOND;

    block_throttle_set(t, &(BlockLimits){.iops_read = 100, .bps_write = 4096 * 50});
    within_5_percent(admitted(t, false, 1 << 20, 10, &now), 1000);
    within_5_percent(admitted(t, true, 4096, 10, &now), 500);
    block_throttle_put(t);
}

static void a_rest_earns_a_burst_and_no_more(void)
{
    BlockThrottle *t = block_throttle_get(NULL);
    int64_t now = SECOND;

    block_throttle_set(t, &(BlockLimits){.iops = 100, .iops_burst = 50});
    within_5_percent(admitted(t, false, 512, 1, &now), 150);
    within_5_percent(admitted(t, false, 512, 1, &now), 100);
    now += 100 * SECOND;
    within_5_percent(admitted(t, false, 512, 1, &now), 150);
    block_throttle_put(t);
}

static void disks_of_a_group_share(void)
{
    BlockThrottle *a = block_throttle_get("group"), *b = block_throttle_get("group");
    int64_t now_a = SECOND, now_b = SECOND;
    uint64_t n[2] = {0};

    g_assert_true(a == b);
    block_throttle_set(a, &(BlockLimits){.iops = 1000});
    while (MIN(now_a, now_b) < 11 * SECOND) { /* who is behind asks next */
        int64_t *now = now_a <= now_b ? &now_a : &now_b;

        *now = block_throttle_reserve(a, false, 512, *now);
        n[now == &now_b]++;
    }
    within_5_percent(n[0] + n[1], 10000);
    within_5_percent(n[0], 5000);
    block_throttle_put(a);
    block_throttle_put(b);
    a = block_throttle_get("group"); /* gone with its last user */
    g_assert_false(block_throttle_on(a));
    block_throttle_put(a);
}

/* ---- with a disk ----------------------------------------------------------------------
 */

enum { DEPTH = 16, BLOCK = 4096 };
typedef struct Load {
    BlockQueue *q;
    IoLoop *loop;
    BlockReq req[DEPTH];
    struct iovec iov;
    uint64_t n; /* done */
    int64_t end_ns;
    unsigned busy;
} Load;
static Load load;

static void again(BlockReq *req)
{
    block_submit(load.q, req);
    block_commit(load.q);
}

static void on_done(BlockReq *req, int err)
{
    g_assert_cmpint(err, ==, 0);
    if (clock_ns() < load.end_ns) {
        load.n++;
        again(req);
    } else if (--load.busy == 0) {
        ioloop_quit(load.loop);
    }
}

/* Keeps DEPTH requests going for so long, once the loop runs. */
static void load_for(int64_t ns)
{
    load.n = 0;
    load.end_ns = clock_ns() + ns;
    for (load.busy = 0; load.busy < DEPTH; load.busy++) {
        load.req[load.busy] = (BlockReq){.op = BLOCK_READ,
                                         .len = BLOCK,
                                         .iov = &load.iov,
                                         .n_iov = 1,
                                         .done = on_done};
        again(&load.req[load.busy]);
    }
}

typedef struct Fixture {
    char *dir, *path;
    BlockDev *dev;
} Fixture;

static void open_disk(Fixture *f, BlockLimits limits)
{
    g_autoptr(GError) error = NULL;

    f->dir = new_dir();
    f->path = new_file(f->dir, "disk.raw", 1 << 20);
    f->dev = block_open(&(BlockOptions){.path = f->path, .limits = limits}, &error);
    g_assert_no_error(error);
    load = (Load){.loop = ioloop_new(NULL), .iov = {aligned_alloc(4096, BLOCK), BLOCK}};
    load.q = block_queue_new(f->dev, load.loop, DEPTH, &error);
    g_assert_no_error(error);
}

static void close_disk(Fixture *f)
{
    free(load.iov.iov_base);
    block_queue_free(load.q);
    ioloop_free(load.loop);
    block_close(f->dev);
    g_free(f->path);
    remove_dir(f->dir);
}

/* A busy machine may keep us from what is allowed, but nothing allows more. */
static void a_disk_keeps_its_limit(void)
{
    uint64_t total = 0, best = 0;
    BlockStats stats;
    Fixture f;

    open_disk(&f, (BlockLimits){.iops = 2000});
    for (unsigned i = 0; i < 5 && best < 1900; i++) {
        load_for(SECOND);
        ioloop_run(load.loop);
        g_assert_cmpuint(load.n, <=, 2100);
        best = MAX(best, load.n);
        total += load.n + DEPTH;
    }
    g_assert_cmpuint(best, >=, 1900);
    block_stats(f.dev, &stats);
    g_assert_cmpuint(stats.of[BLOCK_COUNT_READ].ops, ==, total);
    g_assert_cmpuint(stats.of[BLOCK_COUNT_READ].bytes, ==, total * BLOCK);
    close_disk(&f);
}

static void a_limit_that_is_lifted_lets_go_who_waits(void)
{
    int64_t start;
    Fixture f;

    open_disk(&f, (BlockLimits){.bps = 1});
    load_for(0);
    block_set_limits(f.dev, &(BlockLimits){.bps = 1 << 30});
    start = clock_ns();
    ioloop_run(load.loop);
    g_assert_cmpint(clock_ns() - start, <, 5 * SECOND);
    close_disk(&f);
}

static void who_waits_does_not_hold_up_the_end_of_a_vm(void)
{
    int64_t start;
    Fixture f;

    open_disk(&f, (BlockLimits){.iops = 1});
    load_for(0);
    start = clock_ns();
    block_drain(load.q);
    g_assert_cmpint(clock_ns() - start, <, 5 * SECOND);
    g_assert_cmpuint(load.busy, ==, 0);
    close_disk(&f);
}

#define T(fn) g_test_add_func("/throttle/" #fn, fn)
int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    T(a_limit_is_kept_over_a_second_and_a_minute);
    T(reads_and_writes_have_limits_apart);
    T(a_rest_earns_a_burst_and_no_more);
    T(disks_of_a_group_share);
    T(a_disk_keeps_its_limit);
    T(a_limit_that_is_lifted_lets_go_who_waits);
    T(who_waits_does_not_hold_up_the_end_of_a_vm);
    return g_test_run();
}
