/* virtio-net by its driver's side, with a wire that the test holds at the other end. */
#include <string.h>

#include "fake_netdev.h"
#include "util/bits.h"
#include "virtio/devices.h"
#include "virtio/net.h"
#include "virtio/net_private.h"
#include "vq_guest.h"

enum { CTRL_OK = 0, CTRL_ERR = 1, NO_ANSWER = 0xee };
enum {
    ALL_OFFLOADS = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
                   NET_OFFLOAD_ECN | NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6,
    ETH = 14,
};

static VqGuest g;
static void *options;
static char chosen[128] = "tap,ifname=tap0";

static void parse(void)
{
    GError *error = NULL;

    options = param_new(virtio_net_ops.params);
    param_parse(virtio_net_ops.params, options, chosen, &error);
    g_assert_no_error(error);
}

static void start(VqgSetup setup, unsigned can)
{
    fake_reset(can);
    parse();
    setup.options = options;
    vqg_open(&g, &virtio_net_ops, &setup);
    vqg_settle(&g);
}

static void end(void)
{
    vqg_finish(&g);
    param_free(virtio_net_ops.params, options);
}

/* ---- receiving ----------------------------------------------------------------------
 */

static uint64_t buf_gpa[NET_QUEUE_SIZE]; /* by token */

static void offer(unsigned n, uint32_t size)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t gpa = vqg_alloc(&g, size);
        unsigned token;

        memset(vqg_mem(&g, gpa, size), 0xaa, size);
        token = vqg_offer(&g, gpa, size, IN);
        buf_gpa[token] = gpa;
    }
    vqg_kick(&g);
}

/* Takes one frame of fake_push(len, mark) that came in n_bufs buffers. */
static void expect_frame(size_t len, uint8_t mark, unsigned n_bufs)
{
    size_t at = 0;

    for (unsigned i = 0; i < n_bufs; i++) {
        const uint8_t *b;
        VqgUsed u;

        g_assert_true(vqg_take(&g, NET_RXQ, &u));
        b = vqg_mem(&g, buf_gpa[u.token], MAX(u.len, 1));
        for (uint32_t k = 0; k < u.len; k++, at++) {
            if (at == 10)
                g_assert_cmpuint(b[k] | b[k + 1] << 8, ==, n_bufs);
            if (at != 10 && at != 11)
                g_assert_cmpuint(b[k], ==, fake_byte(at, mark));
        }
    }
    g_assert_cmpuint(at, ==, len);
}

static void a_frame_fills_as_many_buffers_as_it_needs(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        offer(8, 1000);
        fake_push(60, 1);
        fake_push(2500, 2);
        fake_push(1000, 3);
        g_assert_cmpuint(vqg_used(&g), ==, 5);
        expect_frame(60, 1, 1);
        expect_frame(2500, 2, 3);
        expect_frame(1000, 3, 1);
        g_assert_cmpuint(vqg_interrupts(&g, NET_RXQ), >, 0);
        end();
    }
}

static void large_frames_come_whole_whatever_came_before(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        const size_t len[] = {60,   20000, NET_MAX_FRAME, 60,
                              2048, 2049,  NET_MAX_FRAME, 70};

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        for (unsigned i = 0; i < G_N_ELEMENTS(len); i++) {
            unsigned n = (unsigned)((len[i] + 1525) / 1526);

            offer(n, 1526);
            fake_push(len[i], (uint8_t)i);
            g_assert_cmpuint(vqg_used(&g), ==, n);
            expect_frame(len[i], (uint8_t)i, n);
        }
        end();
    }
}

static void the_host_is_read_only_while_there_are_buffers(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        g_assert_false(fake.reading);
        fake_push(100, 1);
        g_assert_cmpuint(fake.at_in, ==, 0);
        offer(2, 1000);
        expect_frame(100, 1, 1);
        g_assert_true(fake.reading);
        fake_push(200, 2);
        expect_frame(200, 2, 1);
        fake_push(300, 3);
        g_assert_false(fake.reading);
        g_assert_true(vqg_kick_wanted(&g, NET_RXQ) || (vqg_modes[m] & VQG_EVENT_IDX));
        offer(1, 1000);
        expect_frame(300, 3, 1);
        end();
    }
}

static void a_frame_waits_for_the_buffers_it_lacks(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        offer(1, 1000);
        fake_push(2500, 9);
        fake_push(80, 10);
        g_assert_cmpuint(vqg_used(&g), ==, 0);
        g_assert_false(fake.reading);
        offer(1, 1000);
        g_assert_cmpuint(vqg_used(&g), ==, 0);
        offer(2, 1000);
        expect_frame(2500, 9, 3);
        expect_frame(80, 10, 1);
        end();
    }
}

static void a_frame_that_can_never_fit_is_dropped(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start((VqgSetup){.mode = vqg_modes[m], .queue_size = 4}, ALL_OFFLOADS);
        offer(4, 100);
        fake_push(2500, 1);
        fake_push(90, 2);
        expect_frame(90, 2, 1);
        g_assert_cmpuint(vqg_used(&g), ==, 0);
        end();
    }
}

static void without_mergeable_buffers_a_frame_has_one(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        uint64_t gpa;
        VqgBuf three[3];
        VqgUsed u;

        start((VqgSetup){.mode = vqg_modes[m], .refuse = BIT64(NET_F_MRG_RXBUF)},
              ALL_OFFLOADS);
        gpa = vqg_alloc(&g, 300);
        for (unsigned i = 0; i < 3; i++)
            three[i] = (VqgBuf){gpa + 100 * i, 100, IN};
        buf_gpa[vqg_chain(&g, NET_RXQ, three, 3)] = gpa;
        vqg_kick(&g);
        fake_push(301, 1);
        fake_push(300, 2);
        expect_frame(300, 2, 1);
        g_assert_false(vqg_take(&g, NET_RXQ, &u));
        end();
    }
}

static void buffers_survive_a_pause(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start((VqgSetup){.mode = vqg_modes[m], .queue_size = 8}, ALL_OFFLOADS);
        for (unsigned round = 0; round < 5; round++) {
            offer(5, 1000);
            fake_push(100, 1);
            fake_push(1900, 2);
            virtio_quiesce(g.vdev);
            g_assert_false(fake.reading);
            fake_push(2000, 3);
            virtio_resume(g.vdev);
            vqg_settle(&g);
            expect_frame(100, 1, 1);
            expect_frame(1900, 2, 2);
            expect_frame(2000, 3, 2);
        }
        end();
    }
}

static void checksum_flags_need_the_feature(void)
{
    VqgUsed u;

    start((VqgSetup){.refuse = BIT64(NET_F_GUEST_CSUM)}, ALL_OFFLOADS);
    offer(1, 1000);
    fake_push(100, 1);
    g_assert_true(vqg_take(&g, NET_RXQ, &u));
    g_assert_cmpuint(*(uint8_t *)vqg_mem(&g, buf_gpa[u.token], 1), ==, 0);
    end();
}

static void a_tiny_receive_buffer_breaks_the_device(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        log_set_level(LOG_ERROR);
        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        offer(1, 1000);
        offer(1, NET_HDR_LEN - 1);
        fake_push(1500, 1);
        g_assert_true(vqg_broken(&g));
        g_assert_false(fake.reading);
        vqg_reset(&g);
        fake.at_in = fake.n_in;
        vqg_start(&g);
        vqg_settle(&g);
        offer(1, 1000);
        fake_push(100, 2);
        expect_frame(100, 2, 1);
        end();
    }
}

/* ---- sending ------------------------------------------------------------------------
 */

/* A frame of `len` bytes with the header, in two pieces that split the header. */
static unsigned transmit(const VnetHdr *h, uint32_t len)
{
    uint64_t gpa = vqg_alloc(&g, len);
    uint8_t *b = vqg_mem(&g, gpa, len);

    memcpy(b, h, MIN(sizeof(*h), len));
    for (uint32_t i = NET_HDR_LEN; i < len; i++)
        b[i] = (uint8_t)i;
    return vqg_chain(&g, NET_TXQ,
                     (VqgBuf[]){{gpa, len / 2, OUT}, {gpa + len / 2, len - len / 2, OUT}},
                     2);
}

static void frames_are_sent_with_a_clean_header(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        const VnetHdr h = {
            .flags = 0xff & ~VNET_NEEDS_CSUM, .hdr_len = 3, .num_buffers = 9};
        static const VnetHdr clean;
        VqgUsed u;

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        for (unsigned i = 0; i < 600; i++) {
            unsigned token = transmit(&h, 100 + i);

            vqg_kick_queue(&g, NET_TXQ);
            g_assert_true(vqg_take(&g, NET_TXQ, &u));
            g_assert_cmpuint(u.token, ==, token);
            g_assert_cmpuint(u.len, ==, 0);
            g_assert_cmpuint(fake.n_sent, ==, i + 1);
            g_assert_cmpuint(fake.sent.len, ==, 100 + i);
            g_assert_cmpmem(fake.sent.b, sizeof(clean), &clean, sizeof(clean));
            g_assert_cmpuint(fake.sent.b[50], ==, 50);
            g_assert_cmpuint(fake.sent.b[99 + i], ==, (99 + i) & 0xff);
        }
        end();
    }
}

static void only_what_was_negotiated_may_be_asked_for(void)
{
    static const struct {
        VnetHdr h;
        uint64_t refuse;
        uint32_t len;
        bool sent;
    } frame[] = {
        {.len = NET_HDR_LEN + ETH, .sent = true},
        {.len = NET_HDR_LEN + ETH - 1},
        {.len = 5},
        {.len = NET_MAX_FRAME, .sent = true},
        {.len = NET_MAX_FRAME + 1},
        {{.flags = 1, .csum_start = 34, .csum_offset = 16}, .len = 112, .sent = true},
        {{.flags = 1, .csum_start = 82, .csum_offset = 16}, .len = 112, .sent = true},
        {{.flags = 1, .csum_start = 83, .csum_offset = 16}, .len = 112},
        {{.flags = 1, .csum_start = 65535, .csum_offset = 65535}, .len = 112},
        {{.flags = 1}, BIT64(NET_F_CSUM), 112},
        {{1, 1, 54, 1000, 34, 16}, 0, 5000, true},
        {{1, 1, 54, 1000, 34, 16}, BIT64(NET_F_HOST_TSO4), 5000},
        {{1, 4, 54, 1000, 34, 16}, BIT64(NET_F_HOST_TSO4), 5000, true},
        {{1, 4, 54, 1000, 34, 16}, BIT64(NET_F_HOST_TSO6), 5000},
        {{1, 0x81, 54, 1000, 34, 16}, 0, 5000, true},
        {{1, 0x81, 54, 1000, 34, 16}, BIT64(NET_F_HOST_ECN), 5000},
        {{0, 1, 54, 1000, 34, 16}, 0, 5000},      /* segments without checksums */
        {{1, 1, 54, 0, 34, 16}, 0, 5000},         /* of no size */
        {{1, 1, 5001, 1000, 34, 16}, 0, 5000},    /* a header longer than the frame */
        {{1, 3, 54, 1000, 34, 16}, 0, 5000},      /* UFO */
        {{1, 5, 42, 1000, 34, 6}, 0, 5000, true}, /* USO */
        {{1, 5, 42, 1000, 34, 6}, BIT64(NET_F_HOST_USO), 5000},
        {{1, 0x85, 42, 1000, 34, 6}, 0, 5000},
        {{0, 5, 42, 1000, 34, 6}, 0, 5000},
        {{1, 6, 42, 1000, 34, 6}, 0, 5000},
        {{1, 0x80, 54, 1000, 34, 16}, 0, 5000},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(frame); i++) {
        start((VqgSetup){.refuse = frame[i].refuse}, ALL_OFFLOADS);
        transmit(&frame[i].h, frame[i].len);
        vqg_kick_queue(&g, NET_TXQ);
        g_assert_cmpuint(vqg_used_queue(&g, NET_TXQ), ==, 1);
        g_assert_cmpuint(fake.n_sent, ==, frame[i].sent);
        g_assert_false(vqg_broken(&g));
        if (frame[i].sent && frame[i].h.flags)
            g_assert_cmpmem(fake.sent.b, sizeof(VnetHdr) - 2, &frame[i].h,
                            frame[i].h.gso_type ? sizeof(VnetHdr) - 2
                                                : sizeof(VnetHdr) - 2);
        end();
    }
}

static void a_frame_waits_while_the_host_is_busy(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        static const VnetHdr h;

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        fake.busy = true;
        for (unsigned i = 0; i < 3; i++)
            transmit(&h, 100 + i);
        vqg_kick_queue(&g, NET_TXQ);
        g_assert_cmpuint(vqg_used_queue(&g, NET_TXQ), ==, 0);
        virtio_quiesce(g.vdev); /* a pause gives it back */
        virtio_resume(g.vdev);
        vqg_settle(&g);
        g_assert_cmpuint(vqg_used_queue(&g, NET_TXQ), ==, 0);
        fake_ready();
        vqg_settle(&g);
        g_assert_cmpuint(vqg_used_queue(&g, NET_TXQ), ==, 3);
        g_assert_cmpuint(fake.n_sent, ==, 3);
        g_assert_cmpuint(fake.sent.len, ==, 102);
        end();
    }
}

static void a_reset_forgets_what_was_waiting(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        static const VnetHdr h;

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        fake.busy = true;
        transmit(&h, 100);
        vqg_kick_queue(&g, NET_TXQ);
        offer(3, 1000);
        vqg_reset(&g);
        g_assert_cmpuint(fake.offloads, ==, 0);
        fake_ready();
        fake_push(100, 1);
        g_assert_cmpuint(fake.n_sent, ==, 0);
        vqg_start(&g);
        vqg_settle(&g);
        g_assert_cmpuint(fake.offloads, ==, ALL_OFFLOADS);
        transmit(&h, 200);
        vqg_kick_queue(&g, NET_TXQ);
        g_assert_cmpuint(fake.n_sent, ==, 1);
        offer(1, 1000);
        expect_frame(100, 1, 1);
        end();
    }
}

/* ---- features, config, control ------------------------------------------------------
 */

static void offloads_are_offered_as_the_host_has_them(void)
{
    const uint64_t tso4 = BIT64(NET_F_HOST_TSO4) | BIT64(NET_F_GUEST_TSO4);
    const uint64_t csum = BIT64(NET_F_CSUM) | BIT64(NET_F_GUEST_CSUM);

    start((VqgSetup){0}, 0);
    g_assert_cmphex(g.vdev->offered & (csum | tso4 | BIT64(NET_F_CTRL_GUEST_OFFLOADS)),
                    ==, 0);
    end();
    start((VqgSetup){0}, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
    g_assert_cmphex(g.vdev->offered & (csum | tso4), ==, csum | tso4);
    g_assert_false(g.vdev->offered & BIT64(NET_F_HOST_TSO6));
    g_assert_cmphex(fake.offloads, ==, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
    g_assert_false(g.vdev->offered & BIT64(NET_F_HOST_USO));
    end();
    start((VqgSetup){.refuse = BIT64(NET_F_GUEST_TSO4) | BIT64(NET_F_GUEST_USO6)},
          ALL_OFFLOADS);
    g_assert_cmphex(fake.offloads, ==,
                    ALL_OFFLOADS & ~(NET_OFFLOAD_TSO4 | NET_OFFLOAD_USO6));
    end();
}

static void config_shows_address_link_and_mtu(void)
{
    g_strlcpy(chosen, "tap,mac=52:54:00:aa:bb:cc,mtu=9000", sizeof(chosen));
    start((VqgSetup){0}, 0);
    g_assert_cmphex(vqg_config(&g, 0, 4), ==, 0xaa005452);
    g_assert_cmphex(vqg_config(&g, 5, 1), ==, 0xcc);
    g_assert_cmpuint(vqg_config(&g, 6, 2), ==, NET_S_LINK_UP);
    g_assert_cmpuint(vqg_config(&g, 8, 2), ==, 1);
    g_assert_cmpuint(vqg_config(&g, 10, 2), ==, 9000);
    g_assert_true(virtio_has_feature(g.vdev, NET_F_MTU));
    end();
    g_strlcpy(chosen, "tap,ifname=tap0", sizeof(chosen));
    start((VqgSetup){0}, 0);
    g_assert_false(virtio_has_feature(g.vdev, NET_F_MTU));
    end();
}

static void a_link_that_is_down_tells_the_guest_and_loses_frames_both_ways(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        const VnetHdr h = {0};
        VqgUsed u;
        bool up;

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        offer(4, 1000);
        g_assert_true(virtio_net_set_link(g.vdev, true));
        g_assert_true(virtio_net_link(g.vdev, &up) && up);
        g_assert_cmpuint(vqg_config_interrupts(&g), ==, 0); /* it was up */

        g_assert_true(virtio_net_set_link(g.vdev, false));
        g_assert_true(virtio_net_link(g.vdev, &up) && !up);
        g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
        g_assert_cmpuint(vqg_config(&g, 6, 2), ==, 0);
        fake_push(100, 1);
        fake_push(2500, 2);
        g_assert_cmpuint(fake.at_in, ==, fake.n_in); /* taken from the host, and lost */
        transmit(&h, 100);
        vqg_kick_queue(&g, NET_TXQ);
        g_assert_true(vqg_take(&g, NET_TXQ, &u));
        g_assert_cmpuint(fake.n_sent, ==, 0);
        g_assert_false(vqg_take(&g, NET_RXQ, &u));

        g_assert_true(virtio_net_set_link(g.vdev, true));
        g_assert_cmpuint(vqg_config_interrupts(&g), ==, 2);
        g_assert_cmpuint(vqg_config(&g, 6, 2), ==, NET_S_LINK_UP);
        fake_push(300, 3);
        expect_frame(300, 3, 1);
        transmit(&h, 100);
        vqg_kick_queue(&g, NET_TXQ);
        g_assert_cmpuint(fake.n_sent, ==, 1);
        end();
    }
}

static uint64_t mac_of(const char *text)
{
    uint64_t mac;

    g_strlcpy(chosen, text, sizeof(chosen));
    start((VqgSetup){0}, 0);
    mac = vqg_config(&g, 0, 4) | vqg_config(&g, 4, 2) << 32;
    end();
    g_strlcpy(chosen, "tap,ifname=tap0", sizeof(chosen));
    return mac;
}

static void a_made_up_address_is_local_and_stays_the_same(void)
{
    static const char *const shared[] = {"tap", "bridge,bridge=br0",
                                         "macvtap,parent=eth0", "network,network=blue"};
    uint64_t user = mac_of("user"), tap = mac_of("tap,ifname=tap0");

    g_assert_cmphex(user & 3, ==, 2);
    g_assert_cmphex(tap & 3, ==, 2);
    g_assert_cmphex(mac_of("user"), ==, user);
    g_assert_cmphex(mac_of("user,id=net1"), !=, user);
    g_assert_cmphex(mac_of("tap,ifname=tap0"), ==, tap);
    g_assert_cmphex(mac_of("tap,ifname=tap1"), !=, tap);
    g_assert_cmphex(mac_of("passt"), ==, user);
    for (unsigned i = 0; i < G_N_ELEMENTS(shared); i++) /* nothing to go by */
        g_assert_cmphex(mac_of(shared[i]), !=, mac_of(shared[i]));
}

static void a_group_address_is_refused(void)
{
    void *o = param_new(virtio_net_ops.params);
    g_autoptr(GError) error = NULL;

    g_assert_false(
        param_parse(virtio_net_ops.params, o, "user,mac=01:00:5e:00:00:01", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "01:00:5e:00:00:01"));
    param_free(virtio_net_ops.params, o);
}

static uint8_t control(uint8_t class, uint8_t command, const void *data, uint32_t len)
{
    uint8_t out[16 * 1024] = {class, command}, ack = NO_ANSWER;

    memcpy(out + 2, data, len);
    g_assert_cmpuint(vqg_do(&g, NET_CTRLQ, out, 2 + len, &ack, 1), ==, 1);
    return ack;
}

static void control_commands_are_checked(void)
{
    static const uint8_t on = 1, two = 2, none[8192 + 6];
    static const uint8_t mac[] = {2, 0, 0, 9, 9, 9}, group[] = {3, 0, 0, 9, 9, 9};
    static const uint8_t table[20] = {1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 1, 0, 0, 0};
    static const uint8_t huge[20] = {0xff, 0xff, 0xff, 0xff, 1};
    const uint64_t csum = BIT64(NET_F_GUEST_CSUM), ufo = BIT64(10),
                   host = BIT64(NET_F_CSUM);

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        g_assert_cmpuint(control(0, 0, &on, 1), ==, CTRL_OK); /* promiscuous */
        g_assert_cmpuint(control(0, 1, &on, 1), ==, CTRL_OK); /* all multicast */
        g_assert_cmpuint(control(0, 0, &two, 1), ==, CTRL_ERR);
        g_assert_cmpuint(control(0, 0, none, 2), ==, CTRL_ERR);
        g_assert_cmpuint(control(0, 2, &on, 1), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 0, table, 20), ==, CTRL_OK);
        g_assert_cmpuint(control(1, 0, none, 8), ==, CTRL_OK);
        g_assert_cmpuint(control(1, 0, table, 19), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 0, none, 9), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 0, none, 3), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 0, none, 0), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 0, huge, 20), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 0, none, sizeof(none)), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 1, group, 6), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 1, none, 6), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 1, mac, 5), ==, CTRL_ERR);
        g_assert_cmpuint(control(1, 1, mac, 6), ==, CTRL_OK);
        g_assert_cmphex(vqg_config(&g, 0, 4), ==, 0x09000002);
        g_assert_cmpuint(control(3, 0, none, 0), ==, CTRL_OK); /* announced */
        g_assert_cmpuint(control(3, 1, none, 0), ==, CTRL_ERR);
        g_assert_cmpuint(control(5, 0, &csum, 8), ==, CTRL_OK);
        g_assert_cmphex(fake.offloads, ==, NET_OFFLOAD_CSUM);
        g_assert_cmpuint(control(5, 0, &ufo, 8), ==, CTRL_ERR);
        g_assert_cmpuint(control(5, 0, &host, 8), ==, CTRL_ERR);
        g_assert_cmpuint(control(5, 0, &csum, 7), ==, CTRL_ERR);
        g_assert_cmpuint(control(4, 0, none, 2), ==, CTRL_ERR); /* queue pairs */
        g_assert_cmpuint(control(255, 255, none, 0), ==, CTRL_ERR);
        vqg_reset(&g);
        g_assert_cmphex(vqg_config(&g, 0, 4), !=, 0x09000002); /* its own again */
        end();
    }
}

static void a_command_without_room_for_its_answer_comes_back(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        uint64_t gpa;
        VqgUsed u;

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        gpa = vqg_alloc(&g, 64);
        vqg_chain(&g, NET_CTRLQ, &(VqgBuf){gpa, 3, OUT}, 1);
        vqg_chain(&g, NET_CTRLQ, &(VqgBuf){gpa, 1, OUT}, 1);
        vqg_chain(&g, NET_CTRLQ, &(VqgBuf){gpa, 8, IN}, 1);
        vqg_kick_queue(&g, NET_CTRLQ);
        g_assert_cmpuint(vqg_used_queue(&g, NET_CTRLQ), ==, 3);
        for (unsigned i = 0; i < 3; i++)
            g_assert_true(vqg_take(&g, NET_CTRLQ, &u));
        g_assert_cmpuint(u.len, ==, 1);
        g_assert_cmpuint(*(uint8_t *)vqg_mem(&g, gpa, 1), ==, CTRL_ERR);
        end();
    }
}

/* Chains of any shape on every queue, frames of any length: each request comes back at
 * most once (vqg_take() checks), and nothing is touched that should not be. */
static void any_chain_is_survived(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(51);

    log_set_level(LOG_ERROR);
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        uint64_t gpa;

        start((VqgSetup){.mode = vqg_modes[m]}, ALL_OFFLOADS);
        gpa = vqg_alloc(&g, 256 * 1024);
        for (unsigned i = 0; i < 3000; i++) {
            unsigned q = (unsigned)g_rand_int_range(rand, 0, NET_CTRLQ + 1), n = 0;
            unsigned reads = (unsigned)g_rand_int_range(rand, 0, 5);
            unsigned writes = (unsigned)g_rand_int_range(rand, 0, 5) + !reads;
            VqgBuf b[10];
            VqgUsed u;

            for (; n < reads + writes; n++) {
                b[n] = (VqgBuf){gpa + (uint64_t)g_rand_int_range(rand, 0, 128 * 1024),
                                (uint32_t)g_rand_int_range(rand, 12, n % 3 ? 70000 : 100),
                                n >= reads};
                store_le32(vqg_mem(&g, b[n].gpa, 4), g_rand_int(rand) & 0x00ff0301);
            }
            if (g.q[q].n_free >= n)
                vqg_chain(&g, q, b, n);
            vqg_kick_queue(&g, q);
            if (i % 3 == 0)
                fake_push((size_t)g_rand_int_range(rand, 26, 70000) % NET_MAX_FRAME + 1,
                          1);
            fake.at_in = MIN(fake.at_in, fake.n_in);
            if (fake.n_in == FAKE_FRAMES)
                fake.at_in = fake.n_in = 0;
            for (unsigned k = 0; k <= NET_CTRLQ; k++)
                while (vqg_take(&g, k, &u))
                    ;
            if (vqg_broken(&g) || i % 500 == 499) {
                vqg_reset(&g);
                vqg_start(&g);
                g.next_gpa = gpa + 256 * 1024;
            }
        }
        end();
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define add(name) g_test_add_func("/net/" #name, name)
    add(a_frame_fills_as_many_buffers_as_it_needs);
    add(large_frames_come_whole_whatever_came_before);
    add(the_host_is_read_only_while_there_are_buffers);
    add(a_frame_waits_for_the_buffers_it_lacks);
    add(a_frame_that_can_never_fit_is_dropped);
    add(without_mergeable_buffers_a_frame_has_one);
    add(buffers_survive_a_pause);
    add(checksum_flags_need_the_feature);
    add(a_tiny_receive_buffer_breaks_the_device);
    add(frames_are_sent_with_a_clean_header);
    add(only_what_was_negotiated_may_be_asked_for);
    add(a_frame_waits_while_the_host_is_busy);
    add(a_reset_forgets_what_was_waiting);
    add(offloads_are_offered_as_the_host_has_them);
    add(config_shows_address_link_and_mtu);
    add(a_link_that_is_down_tells_the_guest_and_loses_frames_both_ways);
    add(a_made_up_address_is_local_and_stays_the_same);
    add(a_group_address_is_refused);
    add(control_commands_are_checked);
    add(a_command_without_room_for_its_answer_comes_back);
    add(any_chain_is_survived);
    return g_test_run();
}
