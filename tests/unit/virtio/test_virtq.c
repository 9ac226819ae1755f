/* Virtqueues with a driver that keeps the rules: what goes in comes out, in every layout,
 * and notifications are neither lost nor needless. */
#include "echo.h"
#include "util/bits.h"
#include "util/iov.h"
#include "vq_guest.h"

static VqGuest g;

static void open_mode(unsigned mode, uint16_t queue_size)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = mode, .queue_size = queue_size});
}

static Virtqueue *by_hand(void)
{
    return &g.vdev->queues[1].vq;
}

/* One echo of `n` pieces each way, `len` bytes a piece. */
static void echo_pieces(unsigned n, uint32_t len, uint8_t seed)
{
    uint64_t out = vqg_alloc(&g, (uint64_t)n * len),
             in = vqg_alloc(&g, (uint64_t)n * len);
    uint8_t *from = vqg_mem(&g, out, (uint64_t)n * len);
    VqgBuf bufs[16];
    VqgUsed used;
    unsigned token;

    for (unsigned i = 0; i < n * len; i++)
        from[i] = (uint8_t)(seed + i);
    for (unsigned i = 0; i < n; i++) {
        bufs[i] = (VqgBuf){out + i * len, len, OUT};
        bufs[n + i] = (VqgBuf){in + i * len, len, IN};
    }
    token = vqg_chain(&g, 0, bufs, 2 * n);
    vqg_kick(&g);
    g_assert_true(vqg_wait(&g, 0, 1));
    g_assert_true(vqg_take(&g, 0, &used));
    g_assert_cmpuint(used.token, ==, token);
    g_assert_cmpuint(used.len, ==, n * len);
    g_assert_cmpmem(from, n * len, vqg_mem(&g, in, n * len), n * len);
}

static void echo_in(unsigned mode, uint16_t queue_size, unsigned rounds)
{
    open_mode(mode, queue_size);
    for (unsigned i = 0; i < rounds; i++) {
        echo_pieces(1 + i % MIN(8, queue_size / 2), 1 + i % 100, (uint8_t)i);
        g.next_gpa = 0x800000; /* the pieces are done with */
    }
    g_assert_false(vqg_broken(&g));
    vqg_finish(&g);
}

static void every_layout_echoes_over_many_laps(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        echo_in(vqg_modes[m], 16, 500);
        echo_in(vqg_modes[m], 2, 100);
    }
}

static void every_layout_echoes_on_an_io_thread(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++)
        echo_in(vqg_modes[m] | VQG_THREAD, 16, 300);
}

static void a_packed_ring_may_have_any_size(void)
{
    echo_in(VQG_PACKED, 7, 200);
    echo_in(VQG_PACKED | VQG_EVENT_IDX, 199, 500);
}

static void split_indices_wrap_at_16_bits(void)
{
    char c;

    open_mode(VQG_EVENT_IDX, 4);
    for (unsigned i = 0; i < 70000; i++) {
        vqg_chain(&g, 0, (VqgBuf[]){{0x300000, 1, OUT}, {0x300010, 1, IN}}, 2);
        g.q[0].unsent = 0;
        virtio_queue_kick(g.vdev, 0);
        g.ops.handle(g.vdev, &g.vdev->queues[0].vq);
        g_assert_true(vqg_take(&g, 0, &(VqgUsed){0}));
    }
    g_assert_cmpuint(vqg_do(&g, 0, "x", 1, &c, 1), ==, 1);
    vqg_finish(&g);
}

/* Linux sets aside an indirect table for a whole request even in a short queue. */
static void a_chain_may_be_as_long_as_the_queue_we_offered(void)
{
    static VqgBuf bufs[ECHO_QUEUE_SIZE];

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        if (!(vqg_modes[m] & VQG_INDIRECT))
            continue;
        open_mode(vqg_modes[m], 4);
        for (unsigned i = 0; i < ECHO_QUEUE_SIZE; i++)
            bufs[i] = (VqgBuf){0x300000 + 16 * i, 16, i >= ECHO_QUEUE_SIZE / 2};
        vqg_chain(&g, 0, bufs, ECHO_QUEUE_SIZE);
        vqg_kick(&g);
        g_assert_cmpuint(vqg_used(&g), ==, 1);
        vqg_finish(&g);
    }
}

/* 2.7.5.3.2 */
static void a_split_chain_may_end_in_an_indirect_table(void)
{
    uint64_t table, out, in;

    open_mode(VQG_INDIRECT, 16);
    table = vqg_alloc(&g, 32);
    out = vqg_alloc(&g, 16);
    in = vqg_alloc(&g, 16);
    memcpy(vqg_mem(&g, out, 4), "abcd", 4);
    vqg_desc(&g, 0, 3, out, 2, VQG_F_NEXT, 5);
    vqg_desc(&g, 0, 5, table, 32, VQG_F_INDIRECT | VQG_F_WRITE, 0); /* WRITE: ignored */
    vqg_desc_at(&g, table, out + 2, 2, VQG_F_NEXT, 1);
    vqg_desc_at(&g, table + 16, in, 4, VQG_F_WRITE, 0);
    vqg_publish_split(&g, 0, 3, 1);
    vqg_kick(&g);
    g_assert_cmpuint(vqg_used(&g), ==, 1);
    g_assert_cmpmem(vqg_mem(&g, in, 4), 4, "abcd", 4);
    vqg_finish(&g);
}

static void a_piece_of_no_bytes_is_not_handed_out(void)
{
    VqgUsed used;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        open_mode(vqg_modes[m], 0);
        vqg_chain(&g, 0, (VqgBuf[]){{UINT64_MAX, 0, IN}, {0x300000, 4, OUT}}, 2);
        vqg_offer(&g, 0, 0, OUT);
        vqg_kick(&g);
        for (int i = 0; i < 2; i++) {
            g_assert_true(vqg_take(&g, 0, &used));
            g_assert_cmpuint(used.len, ==, 0);
        }
        g_assert_false(vqg_broken(&g));
        vqg_finish(&g);
    }
}

static void requests_complete_in_any_order(void)
{
    VqgUsed used;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        unsigned token[3];

        open_mode(vqg_modes[m], 8);
        for (unsigned lap = 0; lap < 20; lap++) {
            for (unsigned i = 0; i < 3; i++)
                token[i] = vqg_chain(
                    &g, 2, (VqgBuf[]){{0x300000, 5, OUT}, {0x400000 + 64 * i, 5, IN}},
                    1 + (i > 0));
            vqg_kick_queue(&g, 2);
            g_assert_cmpuint(vqg_used_queue(&g, 2), ==, 0);
            g_assert_cmpuint(g.vdev->queues[2].vq.in_flight, ==, 3);
            echo_finish((Echo *)g.vdev); /* newest first */
            for (unsigned i = 3; i-- > 0;) {
                g_assert_true(vqg_take(&g, 2, &used));
                g_assert_cmpuint(used.token, ==, token[i]);
                g_assert_cmpuint(used.len, ==, i ? 5 : 0);
            }
        }
        g_assert_cmpuint(g.vdev->queues[2].vq.in_flight, ==, 0);
        vqg_finish(&g);
    }
}

static void fills_become_visible_together(void)
{
    static VqReq req[6];
    VqgUsed used;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        Virtqueue *vq;

        open_mode(vqg_modes[m], 16);
        vq = by_hand();
        for (unsigned lap = 0; lap < 9; lap++) {
            for (unsigned i = 0; i < 6; i++)
                vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 64, IN}, {0x300040, 64, IN}},
                          1 + i % 2);
            for (unsigned i = 0; i < 6; i++)
                g_assert_true(vq_pop(vq, &req[i]));
            for (unsigned i = 0; i < 6; i++) {
                g_assert_cmpuint(vqg_used_queue(&g, 1), ==, 0);
                vq_fill(vq, &req[i], i + 1);
            }
            vq_flush(vq);
            g_assert_cmpuint(vqg_used_queue(&g, 1), ==, 6);
            for (unsigned i = 0; i < 6; i++) {
                g_assert_true(vqg_take(&g, 1, &used));
                g_assert_cmpuint(used.token, ==, req[i].id);
                g_assert_cmpuint(used.len, ==, i + 1);
            }
        }
        vqg_finish(&g);
    }
}

static void what_was_unpopped_is_popped_again(void)
{
    static VqReq a, b, again;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        Virtqueue *vq;

        open_mode(vqg_modes[m], 4);
        vq = by_hand();
        for (unsigned lap = 0; lap < 10; lap++) {
            vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 1, IN}}, 1);
            vqg_chain(&g, 1, (VqgBuf[]){{0x310000, 2, IN}, {0x320000, 3, IN}}, 2);
            g_assert_true(vq_pop(vq, &a));
            g_assert_true(vq_pop(vq, &b));
            vq_unpop(vq, &b);
            g_assert_true(vq_pop(vq, &again));
            g_assert_cmpuint(again.id, ==, b.id);
            vq_unpop(vq, &again);
            vq_unpop(vq, &a);
            g_assert_cmpuint(vq->in_flight, ==, 0);
            g_assert_true(vq_pop(vq, &again));
            g_assert_cmpuint(again.id, ==, a.id);
            g_assert_cmpuint(again.n_write, ==, 1);
            vq_push(vq, &again, 1);
            g_assert_true(vq_pop(vq, &again));
            g_assert_cmpuint(again.n_write, ==, 2);
            vq_push(vq, &again, 5);
            for (int i = 0; i < 2; i++)
                g_assert_true(vqg_take(&g, 1, &(VqgUsed){0}));
        }
        g_assert_false(vqg_broken(&g));
        vqg_finish(&g);
    }
}

static void a_request_pushed_twice_is_used_once(void)
{
    static VqReq req;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        open_mode(vqg_modes[m], 8);
        vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 4, IN}}, 1);
        g_assert_true(vq_pop(by_hand(), &req));
        vq_push(by_hand(), &req, 4);
        vq_push(by_hand(), &req, 4);
        g_assert_cmpuint(vqg_used_queue(&g, 1), ==, 1);
        g_assert_cmpuint(by_hand()->in_flight, ==, 0);
        vqg_finish(&g);
    }
}

/* ---- notifications ---------------------------------------------------------------- */

static void an_interrupt_only_when_the_driver_wants_one(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        char c;
        unsigned before;

        open_mode(vqg_modes[m], 8);
        for (unsigned i = 0; i < 30; i++) {
            before = vqg_interrupts(&g, 0);
            vqg_do(&g, 0, "x", 1, &c, 1);
            g_assert_cmpuint(vqg_interrupts(&g, 0), ==, before + 1);
        }
        vqg_want_interrupts(&g, 0, false);
        before = vqg_interrupts(&g, 0);
        for (unsigned i = 0; i < 30; i++)
            vqg_do(&g, 0, "x", 1, &c, 1);
        g_assert_cmpuint(vqg_interrupts(&g, 0), ==, before);
        vqg_finish(&g);
    }
}

static void nothing_used_is_nothing_to_tell(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        open_mode(vqg_modes[m], 8);
        for (int i = 0; i < 5; i++)
            vqg_poke(&g, 0);
        g_assert_cmpuint(vqg_interrupts(&g, 0), ==, 0);
        vqg_finish(&g);
    }
}

/* With EVENT_IDX: one interrupt for many, and exactly when the wanted entry is passed. */
static void event_idx_waits_for_the_entry_it_names(void)
{
    static VqReq req[8];

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        if (!(vqg_modes[m] & VQG_EVENT_IDX))
            continue;
        open_mode(vqg_modes[m], 8);
        for (unsigned lap = 0; lap < 40; lap++) {
            VqgQueue *q = &g.q[1];
            uint16_t *area = (uint16_t *)q->driver;
            unsigned before = vqg_interrupts(&g, 1), at = q->used_idx + 3u;

            if (q->packed)
                area[0] = (uint16_t)(at % 8) | (q->used_wrap != (at >= 8) ? 0x8000 : 0);
            else
                area[2 + q->size] = (uint16_t)at;
            for (unsigned i = 0; i < 5; i++)
                vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 1, IN}}, 1);
            for (unsigned i = 0; i < 5; i++) {
                g_assert_true(vq_pop(by_hand(), &req[i]));
                vq_push(by_hand(), &req[i], 1);
                vq_notify(by_hand());
                g_assert_cmpuint(vqg_interrupts(&g, 1) - before, ==, i >= 3);
            }
            for (unsigned i = 0; i < 5; i++)
                g_assert_true(vqg_take(&g, 1, &(VqgUsed){0}));
        }
        vqg_finish(&g);
    }
}

static void a_popped_empty_queue_asks_for_a_kick(void)
{
    static VqReq req;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        open_mode(vqg_modes[m], 4);
        for (unsigned i = 0; i < 50; i++) {
            vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 1, IN}}, 1);
            g_assert_true(vqg_kick_wanted(&g, 1));
            g.q[1].unsent = 0;
            g_assert_true(vq_pop(by_hand(), &req));
            vq_push(by_hand(), &req, 0);
            g_assert_false(vq_pop(by_hand(), &req));
            g_assert_true(vqg_take(&g, 1, &(VqgUsed){0}));
        }
        vqg_finish(&g);
    }
}

static void with_kicks_off_the_driver_is_silent(void)
{
    static VqReq req;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        open_mode(vqg_modes[m], 8);
        vq_disable_kicks(by_hand());
        for (unsigned i = 0; i < 5; i++) {
            vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 1, IN}}, 1);
            /* EVENT_IDX is a wish, which comes true with the first. */
            g_assert_true(!vqg_kick_wanted(&g, 1) ||
                          (i == 0 && (vqg_modes[m] & VQG_EVENT_IDX)));
            g.q[1].unsent = 0;
        }
        for (unsigned i = 0; i < 5; i++) {
            g_assert_true(vq_enable_kicks(by_hand()));
            vq_disable_kicks(by_hand());
            g_assert_true(vq_pop(by_hand(), &req));
            vq_push(by_hand(), &req, 0);
        }
        g_assert_false(vq_enable_kicks(by_hand()));
        vqg_chain(&g, 1, (VqgBuf[]){{0x300000, 1, IN}}, 1);
        g_assert_true(vqg_kick_wanted(&g, 1));
        vqg_finish(&g);
    }
}

/* ---- the dirty log ---------------------------------------------------------------- */

static void our_writes_reach_the_dirty_log(void)
{
    static uint64_t log[(VQG_LOW_SIZE + VQG_HIGH_SIZE) / GM_PAGE_SIZE / 64];
    GError *error = NULL;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        uint64_t in[] = {0x900000, 0x910ff0};
        unsigned rings;

        open_mode(vqg_modes[m], 8);
        memset(vqg_mem(&g, 0xa00000, 0x2000), 1, 0x2000);
        vqg_chain(
            &g, 0,
            (VqgBuf[]){{0xa00000, 0x1010, OUT}, {in[0], 0x1000, IN}, {in[1], 0x4000, IN}},
            3);
        g_assert_true(gm_log_start(&g.gm, &error));
        vqg_kick(&g);
        memset(log, 0, sizeof(log));
        gm_log_fetch(&g.gm, log);
        gm_log_stop(&g.gm);
        g_assert_cmpuint(vqg_used(&g), ==, 1);
#define DIRTY(gpa) (log[(gpa) / 4096 / 64] >> ((gpa) / 4096 % 64) & 1)
        g_assert_true(DIRTY(0x900000));
        g_assert_false(DIRTY(0x901000));
        g_assert_true(DIRTY(0x910000)); /* the 16 bytes that did not fit the first */
        g_assert_false(DIRTY(0x911000));
        g_assert_false(DIRTY(0xa00000));
        rings = DIRTY(g.q[0].desc_gpa) + DIRTY(g.q[0].device_gpa);
        g_assert_cmpuint(rings, >=, 1);
        g_assert_true(g.q[0].packed ? DIRTY(g.q[0].desc_gpa) : DIRTY(g.q[0].device_gpa));
        vqg_finish(&g);
    }
}

/* The used index ends one page, and the entries begin the next. */
static void each_page_of_a_ring_reaches_the_dirty_log(void)
{
    static uint64_t log[(VQG_LOW_SIZE + VQG_HIGH_SIZE) / GM_PAGE_SIZE / 64];

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.queue_size = 8, .stop_early = true});
    virtio_queue_config(g.vdev, 0)->device = 0x900ffc;
    virtio_set_status(g.vdev, virtio_status(g.vdev) | VIRTIO_STATUS_DRIVER_OK);
    vqg_settle(&g);
    g_assert_true(gm_log_start(&g.gm, NULL));
    vqg_offer(&g, 0x300000, 4, OUT);
    vqg_poke(&g, 0);
    gm_log_fetch(&g.gm, log);
    gm_log_stop(&g.gm);
    g_assert_true(DIRTY(0x900000));
    g_assert_true(DIRTY(0x901000));
    vqg_finish(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(fn) g_test_add_func("/virtq/" #fn, fn)
    TEST(every_layout_echoes_over_many_laps);
    TEST(every_layout_echoes_on_an_io_thread);
    TEST(a_packed_ring_may_have_any_size);
    TEST(split_indices_wrap_at_16_bits);
    TEST(a_chain_may_be_as_long_as_the_queue_we_offered);
    TEST(a_split_chain_may_end_in_an_indirect_table);
    TEST(a_piece_of_no_bytes_is_not_handed_out);
    TEST(requests_complete_in_any_order);
    TEST(fills_become_visible_together);
    TEST(what_was_unpopped_is_popped_again);
    TEST(a_request_pushed_twice_is_used_once);
    TEST(an_interrupt_only_when_the_driver_wants_one);
    TEST(nothing_used_is_nothing_to_tell);
    TEST(event_idx_waits_for_the_entry_it_names);
    TEST(a_popped_empty_queue_asks_for_a_kick);
    TEST(with_kicks_off_the_driver_is_silent);
    TEST(our_writes_reach_the_dirty_log);
    TEST(each_page_of_a_ring_reaches_the_dirty_log);
    return g_test_run();
}
