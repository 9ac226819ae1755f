/* A network card in a saved state, with a wire that the test holds at the other end. */
#include <string.h>

#include "fake_netdev.h"
#include "util/bits.h"
#include "util/log.h"
#include "virtio/devices.h"
#include "virtio/net_private.h"
#include "vq_guest.h"

enum { BUF = 1000, CTRL_OK = 0, C_STATUS = 6, FRAMES = 300, ETH = 14 };
enum {
    ALL_OFFLOADS = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
                   NET_OFFLOAD_ECN,
};

static VqGuest g;
static void *options;

static void *parse(const char *text)
{
    GError *error = NULL;
    void *o = param_new(virtio_net_ops.params);

    param_parse(virtio_net_ops.params, o, text, &error);
    g_assert_no_error(error);
    return o;
}

static void start(unsigned mode, const char *text, uint64_t refuse)
{
    fake_reset(ALL_OFFLOADS);
    options = parse(text);
    vqg_open(&g, &virtio_net_ops,
             &(VqgSetup){.mode = mode, .options = options, .refuse = refuse});
    vqg_settle(&g);
}

static void end(void)
{
    vqg_finish(&g);
    param_free(virtio_net_ops.params, options);
}

/* ---- frames -------------------------------------------------------------------------
 */

typedef struct Frames {
    uint64_t rx_gpa[VQ_MAX_SIZE]; /* by token */
    uint64_t tx;
    unsigned pushed, got, sent;
} Frames;

static size_t length_of(unsigned n)
{
    return 60 + n * 37 % 900;
}

static void offer(Frames *f, uint64_t gpa)
{
    f->rx_gpa[vqg_chain(&g, NET_RXQ, &(VqgBuf){gpa, BUF, IN}, 1)] = gpa;
}

/* In order, each once, and whole; half of the buffers are offered again. */
static void receive(Frames *f)
{
    VqgUsed u;

    while (vqg_take(&g, NET_RXQ, &u)) {
        const uint8_t *b = vqg_mem(&g, f->rx_gpa[u.token], BUF);

        g_assert_cmpuint(u.len, ==, length_of(f->got));
        for (unsigned k = NET_HDR_LEN; k < u.len; k++)
            g_assert_cmpuint(b[k], ==, fake_byte(k, (uint8_t)f->got));
        f->got++;
        offer(f, f->rx_gpa[u.token]);
    }
}

/* The host is busy at times: then the frame is with the card, in a pause on the ring. */
static void transmit(Frames *f)
{
    uint8_t *b = vqg_mem(&g, f->tx, 128);
    VqgUsed u;

    if (g.q[NET_TXQ].n_free < g.q[NET_TXQ].size)
        return; /* one at a time, since the fake keeps the last one */
    memset(b, 0, NET_HDR_LEN);
    store_le32(b + NET_HDR_LEN + ETH, f->sent);
    fake.busy = g_test_rand_bit();
    vqg_chain(&g, NET_TXQ, &(VqgBuf){f->tx, 128, OUT}, 1);
    if (g_test_rand_bit())
        vqg_kick_queue(&g, NET_TXQ);
    if (g_test_rand_bit())
        vqg_restore(&g);
    if (fake.busy)
        g_assert_cmpuint(fake.n_sent, ==, f->sent);
    fake_ready();
    vqg_poke(&g, NET_TXQ);
    g_assert_true(vqg_take(&g, NET_TXQ, &u));
    g_assert_cmpuint(fake.n_sent, ==, ++f->sent);
    g_assert_cmpuint(load_le32(fake.sent.b + NET_HDR_LEN + ETH), ==, f->sent - 1);
}

static void frames(unsigned mode)
{
    static Frames f;

    start(mode, "tap,ifname=tap0", 0);
    memset(&f, 0, sizeof(f));
    f.tx = vqg_alloc(&g, 128);
    for (unsigned i = 0; i < 8; i++)
        offer(&f, vqg_alloc(&g, BUF));
    vqg_poke(&g, NET_RXQ);
    while (f.got < FRAMES) {
        switch (g_test_rand_int_range(0, 8)) {
        case 0:
            receive(&f);
            break;
        case 1:
            vqg_restore(&g);
            break;
        case 2:
            vqg_kick_queue(&g, NET_RXQ);
            break;
        case 3:
            transmit(&f);
            break;
        default:
            if (fake.n_in < FAKE_FRAMES || fake.at_in == fake.n_in) {
                fake_push(length_of(f.pushed), (uint8_t)f.pushed);
                f.pushed++;
            }
        }
    }
    g_assert_cmpuint(f.sent, >, 0);
    g_assert_false(vqg_broken(&g));
    end();
}

static void frames_go_on_both_ways_in_every_ring_layout(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++)
        frames(vqg_modes[m]);
}

/* ---- the address --------------------------------------------------------------------
 */

static uint64_t mac(void)
{
    return vqg_config(&g, 0, 4) | vqg_config(&g, 4, 2) << 32;
}

static uint8_t control(uint8_t class, uint8_t command, const void *data, uint32_t len)
{
    uint8_t msg[64] = {class, command}, ack = 0xee;

    memcpy(msg + 2, data, len);
    vqg_do(&g, NET_CTRLQ, msg, 2 + len, &ack, 1);
    return ack;
}

static void the_address_that_the_guest_set_is_kept_until_a_reset(void)
{
    uint64_t own, set = 0x0a0b0c0d0e02;

    start(0, "tap,ifname=tap0", 0);
    own = mac();
    g_assert_cmpuint(control(1, 1, &set, 6), ==, CTRL_OK);
    vqg_restore(&g);
    g_assert_cmphex(mac(), ==, set);
    vqg_reset(&g);
    g_assert_cmphex(mac(), ==, own);
    end();
}

/* Into a card with other options: the address then, and whether the guest was told. */
static uint64_t restored_as(const char *text, const char *vm, bool *ret_told)
{
    g_autoptr(GBytes) state = vqg_save(&g);
    unsigned told = vqg_config_interrupts(&g);
    GError *error = NULL;
    void *old = options;

    g.env.name = vm;
    vqg_replace(&g, options = parse(text));
    param_free(virtio_net_ops.params, old);
    vqg_load(&g, state, &error);
    g_assert_no_error(error);
    vqg_resume(&g);
    *ret_told = vqg_config_interrupts(&g) != told;
    return mac();
}

/* A driver does not look at its card's address again: that of a clone, which was given
 * another one, goes on with what it knows. */
static void an_address_given_now_is_the_cards_from_a_reset_on(void)
{
    uint64_t own;
    bool told;

    start(0, "user", BIT64(NET_F_GUEST_ANNOUNCE));
    own = mac();
    g_assert_cmphex(restored_as("user", "another", &told), ==, own);
    g_assert_false(told);
    g_assert_cmphex(restored_as("user,mac=52:54:00:00:00:01", NULL, &told), ==, own);
    g_assert_false(told);
    vqg_reset(&g);
    g_assert_cmphex(mac(), ==, 0x010000005452);
    end();
}

/* ---- the rest -----------------------------------------------------------------------
 */

static void a_restored_guest_is_asked_to_announce_itself(void)
{
    unsigned told;

    start(0, "user", 0);
    told = vqg_config_interrupts(&g);
    vqg_restore(&g);
    g_assert_cmphex(vqg_config(&g, C_STATUS, 2), ==, NET_S_LINK_UP | NET_S_ANNOUNCE);
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, told + 1);
    g_assert_cmpuint(control(3, 0, NULL, 0), ==, CTRL_OK);
    g_assert_cmphex(vqg_config(&g, C_STATUS, 2), ==, NET_S_LINK_UP);
    g_assert_cmpuint(fake.restored, ==, 1);

    virtio_net_set_link(g.vdev, false); /* to nobody */
    vqg_restore(&g);
    g_assert_cmphex(vqg_config(&g, C_STATUS, 2), ==, 0);
    end();
}

static void offloads_that_the_driver_turned_off_stay_off(void)
{
    const uint64_t some = BIT64(NET_F_GUEST_CSUM) | BIT64(NET_F_GUEST_TSO4);

    start(0, "tap,ifname=tap0", 0);
    g_assert_cmpuint(fake.offloads, ==, ALL_OFFLOADS);
    g_assert_cmpuint(control(5, 0, &some, 8), ==, CTRL_OK);
    vqg_restore(&g);
    g_assert_cmpuint(fake.offloads, ==, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
    end();
}

/* What the host does for the guest cannot be missing; what it does to it, can. */
static void a_backend_that_does_less_is_refused_only_if_the_guest_counts_on_it(void)
{
    const uint64_t host = BIT64(NET_F_CSUM) | BIT64(NET_F_HOST_TSO4) |
                          BIT64(NET_F_HOST_TSO6) | BIT64(NET_F_HOST_ECN);

    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GBytes) state = NULL;
        g_autoptr(GError) error = NULL;

        start(0, "user", i ? host : 0);
        state = vqg_save(&g);
        fake.can = 0;
        vqg_replace(&g, options);
        g_assert_cmpint(vqg_load(&g, state, &error), ==, i);
        if (!i)
            g_assert_nonnull(
                strstr(error->message,
                       "net: state, section 'net/virtio': the guest uses features that "
                       "the device does not have here"));
        end();
    }
}

/* Linux before 6.2: the guest's driver does not ask again, and goes on. */
static void a_host_without_uso_is_good_for_a_guest_that_has_it(void)
{
    const unsigned uso = NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6;
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;

    fake_reset(ALL_OFFLOADS | uso);
    options = parse("tap,ifname=tap0");
    vqg_open(&g, &virtio_net_ops, &(VqgSetup){.options = options});
    g_assert_cmphex(fake.offloads, ==, ALL_OFFLOADS | uso);
    g_assert_true(g.vdev->features & BIT64(NET_F_HOST_USO));
    state = vqg_save(&g);
    fake.can = ALL_OFFLOADS;
    vqg_replace(&g, options);
    vqg_load(&g, state, &error);
    g_assert_no_error(error);
    vqg_resume(&g);
    g_assert_cmphex(fake.expected, ==, ALL_OFFLOADS | uso);
    g_assert_true(g.vdev->features & BIT64(NET_F_HOST_USO));
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define add(name) g_test_add_func("/net-state/" #name, name)
    add(frames_go_on_both_ways_in_every_ring_layout);
    add(the_address_that_the_guest_set_is_kept_until_a_reset);
    add(an_address_given_now_is_the_cards_from_a_reset_on);
    add(a_restored_guest_is_asked_to_announce_itself);
    add(offloads_that_the_driver_turned_off_stay_off);
    add(a_backend_that_does_less_is_refused_only_if_the_guest_counts_on_it);
    add(a_host_without_uso_is_good_for_a_guest_that_has_it);
    return g_test_run();
}
