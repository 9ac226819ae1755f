/* Pairs of queues of a network card whose wire has a queue for each: frames come and go
 * without a look at them, and one pair does not wait for another. */
#include <string.h>

#include "fake_netdev.h"
#include "net_guest.h"
#include "util/bits.h"
#include "util/log.h"
#include "virtio/devices.h"
#include "virtio/net.h"
#include "virtio/net_private.h"

enum { CTRL_OK = 0, LEN = 500 };

static Net *card(void)
{
    return (Net *)g.vdev;
}

/* ---- the driver ---------------------------------------------------------------------
 */

static void start_on(unsigned mode, uint64_t refuse, unsigned wires)
{
    GError *error = NULL;

    fake_reset(NET_OFFLOAD_CSUM);
    fake.queues = wires;
    options = param_new(virtio_net_ops.params);
    param_parse(virtio_net_ops.params, options, "tap,ifname=tap0,queues=4", &error);
    g_assert_no_error(error);
    vqg_open(&g, &virtio_net_ops,
             &(VqgSetup){.mode = mode, .options = options, .refuse = refuse});
    vqg_settle(&g);
}

static void start(unsigned mode)
{
    start_on(mode, BIT64(NET_F_HASH_REPORT), PAIRS);
}

static uint8_t control(uint8_t command, const void *data, uint32_t len)
{
    uint8_t out[64] = {4, command}, ack = 0xee; /* VIRTIO_NET_CTRL_MQ */

    memcpy(out + 2, data, len);
    g_assert_cmpuint(vqg_do(&g, net_ctrl_queue(card()), out, 2 + len, &ack, 1), ==, 1);
    return ack;
}

static void use(uint16_t pairs)
{
    g_assert_cmpuint(control(0, &pairs, sizeof(pairs)), ==, CTRL_OK);
}

/* All frames without a hash to pair 3, and others by a table of two entries. */
static void use_rss(void)
{
    static const uint8_t config[] = {63, 0, 0, 0, 1, 0, 3, 0, 0, 0, 2, 0, 4, 0, 0};

    g_assert_cmpuint(control(1, config, sizeof(config)), ==, CTRL_OK);
}

/* Frame `mark` is what pair `pair` got next, and no pair has got more. */
static void expect(unsigned pair, uint8_t mark)
{
    VqgUsed u;
    const uint8_t *b;

    vqg_settle(&g);
    g_assert_true(vqg_take(&g, 2 * pair, &u));
    g_assert_cmpuint(u.len, ==, LEN);
    b = vqg_mem(&g, buf_gpa[pair][u.token], LEN);
    for (unsigned i = NET_HDR_LEN; i < LEN; i++)
        g_assert_cmphex(b[i], ==, fake_byte(i, mark));
    for (unsigned i = 0; i < PAIRS; i++)
        g_assert_cmpuint(vqg_used_queue(&g, 2 * i), ==, 0);
}

static void transmit(unsigned pair, uint32_t len)
{
    uint64_t gpa = vqg_alloc(&g, len);

    memset(vqg_mem(&g, gpa, len), 0, len);
    vqg_chain(&g, 2 * pair + 1, &(VqgBuf){gpa, len, OUT}, 1);
    vqg_kick_queue(&g, 2 * pair + 1);
}

/* ---- promises -----------------------------------------------------------------------
 */

static void each_pair_has_its_own_wire(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        NetStats stats;

        start(vqg_modes[m]);
        offer_all(8);
        use(PAIRS);
        g_assert_cmpuint(fake.used, ==, PAIRS);
        for (unsigned i = 0; i < 3 * PAIRS; i++) {
            unsigned pair = (i * 3) % PAIRS;

            fake_push_to(pair, LEN, (uint8_t)i);
            expect(pair, (uint8_t)i);
            transmit(pair, 100 + i);
            g_assert_cmpuint(fake_queue[pair].sent.len, ==, 100 + i);
            g_assert_cmpuint(fake_queue[pair].n_sent, ==, i / PAIRS + 1);
        }
        g_assert_true(virtio_net_stats(g.vdev, &stats));
        g_assert_cmpuint(stats.rx.frames, ==, 3 * PAIRS);
        g_assert_cmpuint(stats.tx.frames, ==, 3 * PAIRS);
        end();
    }
}

/* Before a driver says so, and one that has gone back: nothing comes by the others, and
 * their buffers are left alone. */
static void frames_come_by_as_many_as_the_driver_uses(void)
{
    start(0);
    offer_all(8);
    g_assert_cmpuint(fake.used, ==, 1);
    fake_push(LEN, 1);
    expect(0, 1);
    use(3);
    g_assert_cmpuint(fake.used, ==, 3);
    for (unsigned i = 0; i < PAIRS; i++)
        g_assert_cmpuint(fake_queue[i].reading, ==, i < 3);
    use(1);
    g_assert_cmpuint(fake.used, ==, 1);
    for (unsigned i = 0; i < PAIRS; i++)
        g_assert_cmpuint(fake_queue[i].reading, ==, !i);
    vqg_poke(&g, 4);
    g_assert_false(fake_queue[2].reading);
    fake_push(LEN, 2);
    expect(0, 2);
    use(2);
    vqg_reset(&g);
    g_assert_cmpuint(fake.used, ==, 1);
    g_assert_false(fake_queue[1].reading);
    end();
}

static void a_pair_without_buffers_holds_nobody_up(void)
{
    start(0);
    offer(1, 2);
    use(PAIRS);
    fake_push_to(2, LEN, 1);
    fake_push_to(1, LEN, 2);
    expect(1, 2);
    g_assert_false(fake_queue[2].reading);
    fake_push_to(1, LEN, 3);
    expect(1, 3);
    offer(2, 1);
    expect(2, 1);
    end();
}

static void a_busy_wire_holds_its_pair_up_and_no_other(void)
{
    start(0);
    use(PAIRS);
    fake_queue[1].busy = true;
    transmit(1, 100);
    transmit(2, 200);
    g_assert_cmpuint(vqg_used_queue(&g, 3), ==, 0);
    g_assert_cmpuint(vqg_used_queue(&g, 5), ==, 1);
    fake_queue[2].writable(fake_queue[2].opaque);
    g_assert_cmpuint(vqg_used_queue(&g, 3), ==, 0);
    fake_queue[1].busy = false;
    fake_queue[1].writable(fake_queue[1].opaque);
    g_assert_cmpuint(vqg_used_queue(&g, 3), ==, 1);
    g_assert_cmpuint(fake_queue[1].sent.len, ==, 100);
    end();
}

/* The wire knows neither the driver's table nor hashes. */
static void what_the_wire_cannot_steer_comes_by_one_and_is_looked_at(void)
{
    start(0);
    offer_all(4);
    use(PAIRS);
    use_rss();
    g_assert_cmpuint(fake.used, ==, 1);
    fake_push(LEN, 1); /* no frame of IP */
    expect(3, 1);
    transmit(2, 100);
    g_assert_cmpuint(fake_queue[2].n_sent, ==, 1);
    use(PAIRS);
    g_assert_cmpuint(fake.used, ==, PAIRS);
    fake_push_to(2, LEN, 2);
    expect(2, 2);
    end();

    start_on(0, 0, PAIRS); /* with hashes to be reported */
    use(PAIRS);
    g_assert_cmpuint(fake.used, ==, 1);
    end();
}

static void a_wire_of_one_queue_or_too_few_is_shared(void)
{
    for (unsigned i = 0; i < 3; i++) {
        start_on(0, BIT64(NET_F_HASH_REPORT), i == 0 ? 0 : i == 1 ? 2 : PAIRS);
        fake.refuses = i == 2;
        offer_all(4);
        use(PAIRS);
        g_assert_cmpuint(fake.used, ==, 1);
        fake_push(LEN, 1);
        expect(0, 1);
        g_assert_false(fake_queue[1].reading);
        transmit(3, 100);
        g_assert_cmpuint(fake_queue[i == 2 ? 3 : 0].n_sent, ==, 1);
        end();
    }
}

static void a_pause_and_a_restore_keep_the_pairs(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start(vqg_modes[m]);
        offer_all(4);
        use(3);
        virtio_quiesce(g.vdev);
        for (unsigned i = 0; i < PAIRS; i++)
            g_assert_false(fake_queue[i].reading);
        fake_push_to(2, LEN, 1);
        virtio_resume(g.vdev);
        expect(2, 1);
        vqg_restore(&g);
        g_assert_cmpuint(fake.used, ==, 3);
        fake_push_to(1, LEN, 2);
        expect(1, 2);
        end();
    }
}

/* From a wire with several queues to one without, and back. */
static void a_card_that_moves_uses_what_the_new_wire_has(void)
{
    static const NetDevOptions tap = {.type = NETDEV_TAP, .queues = 1};
    g_autoptr(GError) error = NULL;

    start(0);
    offer_all(4);
    use(PAIRS);
    for (unsigned i = 0; i < 2; i++) {
        unsigned pair = i ? 3 : 0;

        fake.queues = i ? PAIRS : 1;
        g_assert_true(virtio_net_move(g.vdev, &tap, &error));
        g_assert_no_error(error);
        while (!(vqg_config(&g, 6, 2) & NET_S_LINK_UP))
            vqg_settle(&g);
        g_assert_cmpuint(fake.used, ==, i ? PAIRS : 1);
        fake_push_to(pair, LEN, 1);
        expect(pair, 1);
        transmit(3, 100);
        g_assert_cmpuint(fake_queue[pair].n_sent, ==, 1);
    }
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define add(name) g_test_add_func("/net-queues/" #name, name)
    add(each_pair_has_its_own_wire);
    add(frames_come_by_as_many_as_the_driver_uses);
    add(a_pair_without_buffers_holds_nobody_up);
    add(a_busy_wire_holds_its_pair_up_and_no_other);
    add(what_the_wire_cannot_steer_comes_by_one_and_is_looked_at);
    add(a_wire_of_one_queue_or_too_few_is_shared);
    add(a_pause_and_a_restore_keep_the_pairs);
    add(a_card_that_moves_uses_what_the_new_wire_has);
    return g_test_run();
}
