/* Several pairs of queues of a network card: hashes as Microsoft published them, steering
 * by the driver's table and by flows, hash reports, and commands that make no sense. */
#include <arpa/inet.h>
#include <string.h>

#include "fake_netdev.h"
#include "net_guest.h"
#include "state_edit.h"
#include "util/bits.h"
#include "util/log.h"
#include "virtio/devices.h"
#include "virtio/net.h"
#include "virtio/net_private.h"

enum { CTRL_OK = 0, CTRL_ERR = 1, CTRL_MQ = 4 };
enum { SET_PAIRS = 0, SET_RSS = 1, SET_HASH = 2 };
enum { C_PAIRS = 8, C_KEY = 17, C_TABLE = 18, C_HASHES = 20 };

/* ---- frames -------------------------------------------------------------------------
 */

/* "Verifying the RSS hash calculation", of Microsoft's NDIS reference. */
static const uint8_t ms_key[NET_KEY_MAX] = {
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

static const struct {
    const char *to;
    uint16_t to_port;
    const char *from;
    uint16_t from_port;
    uint32_t addresses, ports;
} vectors[] = {
    {"161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e8fc2, 0x51ccc178},
    {"65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718262a, 0xc626b0ea},
    {"12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0a5de, 0x5c2b394a},
    {"209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xafc7327f},
    {"202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d1809c5, 0x10e828a2},
    {"3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc18cd5, 0x40207d3d},
    {"ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c461c, 0xdde51bbf},
    {"fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251,
     0x4b61e985, 0x02d1feef},
};

typedef struct Wire {
    uint8_t b[200];
    size_t len;
} Wire;

/* With `extra` bytes of IPv6 extension headers, or IPv4 options: a multiple of 8. */
static Wire frame_of(const char *from, uint16_t from_port, const char *to,
                     uint16_t to_port, uint8_t proto, size_t extra)
{
    bool v6 = strchr(from, ':');
    Wire w = {.len = 14};
    uint8_t *ip = w.b + 14;

    w.b[12] = v6 ? 0x86 : 0x08;
    w.b[13] = v6 ? 0xdd : 0x00;
    if (v6) {
        ip[0] = 0x60;
        ip[6] = extra ? IPPROTO_DSTOPTS : proto;
        inet_pton(AF_INET6, from, ip + 8);
        inet_pton(AF_INET6, to, ip + 24);
        if (extra)
            ip[40] = proto, ip[41] = (uint8_t)(extra / 8 - 1);
    } else {
        ip[0] = (uint8_t)(0x45 + extra / 4);
        ip[9] = proto;
        inet_pton(AF_INET, from, ip + 12);
        inet_pton(AF_INET, to, ip + 16);
    }
    w.len += (v6 ? 40 : 20) + extra;
    w.b[w.len] = (uint8_t)(from_port >> 8), w.b[w.len + 1] = (uint8_t)from_port;
    w.b[w.len + 2] = (uint8_t)(to_port >> 8), w.b[w.len + 3] = (uint8_t)to_port;
    w.len += 20;
    return w;
}

static Wire vector_frame(unsigned i, uint8_t proto, size_t extra)
{
    return frame_of(vectors[i].from, vectors[i].from_port, vectors[i].to,
                    vectors[i].to_port, proto, extra);
}

static void hashes_are_those_that_microsoft_published(void)
{
    static NetToeplitz t;

    net_toeplitz_init(&t, ms_key, sizeof(ms_key));
    for (unsigned i = 0; i < G_N_ELEMENTS(vectors); i++) {
        for (size_t extra = 0; extra <= 16; extra += 8) {
            bool v6 = strchr(vectors[i].to, ':');
            Wire tcp = vector_frame(i, IPPROTO_TCP, extra);
            Wire udp = vector_frame(i, IPPROTO_UDP, extra);
            uint32_t hash;

            g_assert_cmpuint(net_hash_frame(&t, NET_HASHES, tcp.b, tcp.len, &hash), ==,
                             v6 ? NET_HASH_TCPV6 : NET_HASH_TCPV4);
            g_assert_cmphex(hash, ==, vectors[i].ports);
            g_assert_cmpuint(net_hash_frame(&t, NET_HASHES, udp.b, udp.len, &hash), ==,
                             v6 ? NET_HASH_UDPV6 : NET_HASH_UDPV4);
            g_assert_cmphex(hash, ==, vectors[i].ports);
            g_assert_cmpuint(
                net_hash_frame(&t, NET_HASH_IPV4 | NET_HASH_IPV6, tcp.b, tcp.len, &hash),
                ==, v6 ? NET_HASH_IPV6 : NET_HASH_IPV4);
            g_assert_cmphex(hash, ==, vectors[i].addresses);
        }
    }
}

static void only_types_that_were_asked_for_are_hashed(void)
{
    static NetToeplitz t;
    Wire w = vector_frame(0, IPPROTO_TCP, 0);
    uint32_t hash;

    net_toeplitz_init(&t, ms_key, sizeof(ms_key));
    g_assert_cmpuint(net_hash_frame(&t, NET_HASH_UDPV4, w.b, w.len, &hash), ==, 0);
    g_assert_cmpuint(net_hash_frame(&t, NET_HASHES & ~(NET_HASH_TCPV4 | NET_HASH_IPV4),
                                    w.b, w.len, &hash),
                     ==, 0);
    w.b[14 + 6] = 0x20; /* a fragment: not by ports, even with them there */
    g_assert_cmpuint(net_hash_frame(&t, NET_HASHES, w.b, w.len, &hash), ==,
                     NET_HASH_IPV4);
    g_assert_cmphex(hash, ==, vectors[0].addresses);
    w.b[13] = 0x06; /* ARP */
    g_assert_cmpuint(net_hash_frame(&t, NET_HASHES, w.b, w.len, &hash), ==, 0);
    g_assert_cmpuint(hash, ==, 0);
}

/* Cut anywhere, of any content: ASan looks on. */
static void any_bytes_are_looked_at_within_their_length(void)
{
    static NetToeplitz t;
    g_autoptr(GRand) rand = g_rand_new_with_seed(60);

    net_toeplitz_init(&t, ms_key, 16);
    for (unsigned i = 0; i < 20000; i++) {
        Wire w = vector_frame(i % G_N_ELEMENTS(vectors), IPPROTO_TCP, 8 * (i % 3));
        size_t len = (size_t)g_rand_int_range(rand, 0, (int)w.len + 1);
        g_autofree uint8_t *copy = g_memdup2(w.b, MAX(len, 1));
        uint32_t hash;

        for (unsigned k = 0; len > 12 && k < i % 4; k++)
            copy[g_rand_int_range(rand, 12, (int)len)] = (uint8_t)g_rand_int(rand);
        net_hash_frame(&t, NET_HASHES, copy, len, &hash);
        net_flow_of(copy, len);
    }
}

/* ---- the card -----------------------------------------------------------------------
 */

static void *parse(const char *text)
{
    GError *error = NULL;
    void *o = param_new(virtio_net_ops.params);

    param_parse(virtio_net_ops.params, o, text, &error);
    g_assert_no_error(error);
    return o;
}

static void start(unsigned mode, uint64_t refuse)
{
    fake_reset(0);
    options = parse("tap,ifname=tap0,queues=4");
    vqg_open(&g, &virtio_net_ops,
             &(VqgSetup){.mode = mode, .options = options, .refuse = refuse});
    vqg_settle(&g);
}

/* The one queue that a frame came to, and its bytes with the header in *ret. */
static unsigned came_to(const uint8_t **ret, uint32_t *ret_len)
{
    unsigned pair = PAIRS;
    VqgUsed u;

    vqg_settle(&g);
    for (unsigned i = 0; i < PAIRS; i++) {
        if (!vqg_take(&g, 2 * i, &u))
            continue;
        g_assert_cmpuint(pair, ==, PAIRS);
        pair = i;
        *ret = vqg_mem(&g, buf_gpa[i][u.token], u.len);
        *ret_len = u.len;
        g_assert_false(vqg_take(&g, 2 * i, &u));
    }
    g_assert_cmpuint(pair, <, PAIRS);
    return pair;
}

static unsigned queue_of(const Wire *w)
{
    uint32_t header = virtio_has_feature(g.vdev, NET_F_HASH_REPORT) ? 20 : 12, len;
    const uint8_t *b;
    unsigned pair;

    fake_push_frame(w->b, w->len);
    pair = came_to(&b, &len);
    g_assert_cmpuint(len, ==, header + w->len);
    g_assert_cmpmem(b + header, w->len, w->b, w->len);
    g_assert_cmpuint(load_le16(b + 10), ==, 1); /* num_buffers */
    offer(pair, 1);
    return pair;
}

static void transmit(unsigned pair, const Wire *w)
{
    uint32_t header = virtio_has_feature(g.vdev, NET_F_HASH_REPORT) ? 20 : 12;
    uint64_t gpa = vqg_alloc(&g, header + w->len);
    unsigned before = fake.n_sent;
    VqgUsed u;

    memset(vqg_mem(&g, gpa, header), 0, header);
    memcpy(vqg_mem(&g, gpa + header, w->len), w->b, w->len);
    vqg_chain(&g, 2 * pair + 1, &(VqgBuf){gpa, header + (uint32_t)w->len, OUT}, 1);
    vqg_kick_queue(&g, 2 * pair + 1);
    g_assert_true(vqg_take(&g, 2 * pair + 1, &u));
    g_assert_cmpuint(fake.n_sent, ==, before + 1);
    g_assert_cmpmem(fake.sent.b + NET_HDR_LEN, fake.sent.len - NET_HDR_LEN, w->b, w->len);
}

static uint8_t control(uint8_t command, const void *data, uint32_t len)
{
    unsigned queue = net_ctrl_queue((Net *)g.vdev);
    uint8_t out[1024] = {CTRL_MQ, command}, ack = 0xee;

    memcpy(out + 2, data, len);
    g_assert_cmpuint(vqg_do(&g, queue, out, 2 + len, &ack, 1), ==, 1);
    return ack;
}

static uint8_t set_pairs(uint16_t pairs)
{
    return control(SET_PAIRS, &pairs, sizeof(pairs));
}

typedef struct Rss {
    uint32_t types;
    uint16_t mask, unclassified, table[NET_TABLE_MAX], max_tx;
    uint8_t key_len;
} Rss;

static uint32_t put_rss(const Rss *r, uint8_t *to)
{
    unsigned n = MIN(r->mask + 1u, NET_TABLE_MAX);
    uint8_t *p = to;

    store_le32(p, r->types);
    store_le16(p + 4, r->mask);
    store_le16(p + 6, r->unclassified);
    memcpy(p + 8, r->table, 2 * n);
    p += 8 + 2 * n;
    store_le16(p, r->max_tx);
    p[2] = r->key_len;
    memcpy(p + 3, ms_key, MIN(r->key_len, NET_KEY_MAX));
    return (uint32_t)(p + 3 - to) + r->key_len;
}

static uint8_t set_rss(const Rss *r)
{
    uint8_t b[512] = {0};

    return control(SET_RSS, b, put_rss(r, b));
}

static const Rss good_rss = {NET_HASHES, 7, 1, {0, 1, 2, 3, 3, 2, 1, 0}, 4, 40};

/* ---- promises -----------------------------------------------------------------------
 */

static void a_driver_of_one_pair_finds_the_control_queue_third(void)
{
    const uint64_t several = BIT64(NET_F_MQ) | BIT64(NET_F_RSS);

    start(0, several);
    g_assert_cmpuint(net_ctrl_queue((Net *)g.vdev), ==, 2);
    g_assert_cmpuint(set_pairs(1), ==, CTRL_ERR); /* it did not ask to */
    end();
    start(0, 0);
    g_assert_cmpuint(g.vdev->n_queues, ==, 2 * PAIRS + 1);
    g_assert_cmpuint(net_ctrl_queue((Net *)g.vdev), ==, 2 * PAIRS);
    g_assert_cmpuint(vqg_config(&g, C_PAIRS, 2), ==, PAIRS);
    g_assert_cmpuint(vqg_config(&g, C_KEY, 1), ==, 40);
    g_assert_cmpuint(vqg_config(&g, C_TABLE, 2), ==, 128);
    g_assert_cmphex(vqg_config(&g, C_HASHES, 4), ==, NET_HASHES);
    end();
}

static void a_flow_comes_back_to_where_it_was_sent_from(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start(vqg_modes[m], BIT64(NET_F_HASH_REPORT));
        offer_all(8);
        for (unsigned i = 0; i < G_N_ELEMENTS(vectors); i++) {
            Wire in = vector_frame(i, IPPROTO_TCP, 0);

            g_assert_cmpuint(queue_of(&in), ==, 0); /* before the driver said anything */
        }
        g_assert_cmpuint(set_pairs(PAIRS), ==, CTRL_OK);
        for (unsigned i = 0; i < 12; i++) {
            Wire out = frame_of("10.0.0.1", (uint16_t)(5000 + i), "10.0.0.2", 80,
                                IPPROTO_TCP, 0);
            Wire in = frame_of("10.0.0.2", 80, "10.0.0.1", (uint16_t)(5000 + i),
                               IPPROTO_TCP, 0);
            unsigned first = queue_of(&in);

            g_assert_cmpuint(queue_of(&in), ==, first);
            transmit(i % PAIRS, &out);
            g_assert_cmpuint(queue_of(&in), ==, i % PAIRS);
            transmit((i + 1) % PAIRS, &out);
            g_assert_cmpuint(queue_of(&in), ==, (i + 1) % PAIRS);
        }
        g_assert_cmpuint(set_pairs(1), ==, CTRL_OK);
        for (unsigned i = 0; i < 12; i++) {
            Wire in = frame_of("10.0.0.2", 80, "10.0.0.1", (uint16_t)(5000 + i),
                               IPPROTO_TCP, 0);

            g_assert_cmpuint(queue_of(&in), ==, 0);
        }
        end();
    }
}

static void the_drivers_table_says_where_a_hash_goes(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        Wire arp = vector_frame(0, IPPROTO_TCP, 0);

        arp.b[13] = 0x06;
        start(vqg_modes[m], BIT64(NET_F_HASH_REPORT));
        offer_all(8);
        g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
        for (unsigned i = 0; i < G_N_ELEMENTS(vectors); i++) {
            Wire w = vector_frame(i, i & 1 ? IPPROTO_UDP : IPPROTO_TCP, 0);

            transmit((i + 1) % PAIRS, &w); /* which is of no account */
            g_assert_cmpuint(queue_of(&w), ==, good_rss.table[vectors[i].ports & 7]);
        }
        g_assert_cmpuint(queue_of(&arp), ==, good_rss.unclassified);
        g_assert_cmpuint(set_pairs(1), ==, CTRL_OK); /* and off again */
        g_assert_cmpuint(queue_of(&arp), ==, 0);
        end();
    }
}

static void a_reported_hash_is_that_of_the_frame(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start(vqg_modes[m], 0);
        offer_all(8);
        for (unsigned round = 0; round < 2; round++) {
            for (unsigned i = 0; i < G_N_ELEMENTS(vectors); i++) {
                bool v6 = strchr(vectors[i].to, ':');
                Wire w = vector_frame(i, IPPROTO_UDP, 0);
                const uint8_t *b;
                uint32_t len;

                fake_push_frame(w.b, w.len);
                offer(came_to(&b, &len), 1);
                g_assert_cmpuint(len, ==, 20 + w.len);
                g_assert_cmphex(load_le32(b + 12), ==, round ? vectors[i].ports : 0);
                g_assert_cmpuint(load_le16(b + 16), ==, !round ? 0 : v6 ? 6 : 3);
                g_assert_cmpuint(load_le16(b + 18), ==, 0);
                transmit(0, &w);
            }
            g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
        }
        end();
    }
}

static void hashes_are_reported_without_rss_too(void)
{
    uint8_t config[13 + NET_KEY_MAX] = {NET_HASHES, [12] = NET_KEY_MAX};
    Wire w = vector_frame(2, IPPROTO_TCP, 0);
    const uint8_t *b;
    uint32_t len;

    memcpy(config + 13, ms_key, NET_KEY_MAX);
    start(0, BIT64(NET_F_RSS));
    offer_all(2);
    g_assert_cmpuint(control(SET_HASH, config, sizeof(config)), ==, CTRL_OK);
    g_assert_cmpuint(control(SET_HASH, config, sizeof(config) - 1), ==, CTRL_ERR);
    config[0] = 64;
    g_assert_cmpuint(control(SET_HASH, config, sizeof(config)), ==, CTRL_ERR);
    g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_ERR);
    fake_push_frame(w.b, w.len);
    g_assert_cmpuint(came_to(&b, &len), ==, 0);
    g_assert_cmphex(load_le32(b + 12), ==, vectors[2].ports);
    g_assert_cmpuint(load_le16(b + 16), ==, 2);
    end();
}

static void commands_that_make_no_sense_change_nothing(void)
{
    static const Rss bad[] = {
        {64, 7, 1, {0}, 4, 40},           /* a type of hash that we have not */
        {UINT32_MAX, 7, 1, {0}, 4, 40},   /* */
        {NET_HASHES, 6, 1, {0}, 4, 40},   /* no power of two */
        {NET_HASHES, 255, 1, {0}, 4, 40}, /* a table that is too long */
        {NET_HASHES, UINT16_MAX, 1, {0}, 4, 40},
        {NET_HASHES, 7, PAIRS, {0}, 4, 40}, /* queues that there are not */
        {NET_HASHES, 7, UINT16_MAX, {0}, 4, 40},
        {NET_HASHES, 7, 1, {0, 0, 0, 0, 0, 0, 0, PAIRS}, 4, 40},
        {NET_HASHES, 7, 1, {UINT16_MAX}, 4, 40},
        {NET_HASHES, 7, 1, {0}, 0, 40},
        {NET_HASHES, 7, 1, {0}, PAIRS + 1, 40},
        {NET_HASHES, 7, 1, {0}, 4, NET_KEY_MAX + 1}, /* a key that is too long */
        {NET_HASHES, 7, 1, {0}, 4, 255},
    };
    const uint16_t pairs = 2;
    uint8_t b[600] = {0};
    uint32_t len = put_rss(&good_rss, b);
    NetSteering before;

    start(0, 0);
    offer_all(2);
    g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
    before = ((Net *)g.vdev)->steering;
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_cmpuint(set_rss(&bad[i]), ==, CTRL_ERR);
    for (uint32_t n = 0; n < len; n++) /* cut anywhere */
        g_assert_cmpuint(control(SET_RSS, b, n), ==, CTRL_ERR);
    g_assert_cmpuint(control(SET_RSS, b, len + 1), ==, CTRL_ERR);
    g_assert_cmpuint(set_pairs(0), ==, CTRL_ERR);
    g_assert_cmpuint(set_pairs(PAIRS + 1), ==, CTRL_ERR);
    g_assert_cmpuint(set_pairs(UINT16_MAX), ==, CTRL_ERR);
    g_assert_cmpuint(control(SET_PAIRS, &pairs, 1), ==, CTRL_ERR);
    g_assert_cmpuint(control(SET_PAIRS, b, 3), ==, CTRL_ERR);
    g_assert_cmpuint(control(3, b, len), ==, CTRL_ERR);
    g_assert_cmpmem(&before, sizeof(before), &((Net *)g.vdev)->steering, sizeof(before));
    g_assert_false(vqg_broken(&g));
    end();
}

/* A driver that leaves one queue without buffers does not lose what is for the others. */
static void a_queue_without_buffers_holds_others_up_for_a_moment_only(void)
{
    Wire to2 = frame_of("10.0.0.2", 80, "10.0.0.1", 1, IPPROTO_TCP, 0), to1 = to2;

    to1.b[14 + 9] = IPPROTO_UDP;
    start(0, BIT64(NET_F_HASH_REPORT));
    offer(1, 2);
    g_assert_cmpuint(set_pairs(PAIRS), ==, CTRL_OK);
    transmit(2, &to2);
    transmit(1, &to1);
    fake_push_frame(to2.b, to2.len);
    fake_push_frame(to1.b, to1.len);
    fake_push_frame(to1.b, to1.len);
    g_assert_cmpuint(vqg_used_queue(&g, 2), ==, 0);
    g_assert_false(fake.reading);
    g_assert_true(vqg_wait(&g, 2, 2));
    g_assert_cmpuint(((Net *)g.vdev)->pair[0].rx.count.dropped, ==, 1);

    offer_all(1); /* one that comes in time is not dropped */
    fake_push_frame(to2.b, to2.len);
    fake_push_frame(to2.b, to2.len);
    offer(2, 1);
    g_assert_true(vqg_wait(&g, 4, 2));
    g_assert_cmpuint(((Net *)g.vdev)->pair[0].rx.count.dropped, ==, 1);
    end();
}

static void big_frames_take_as_many_buffers_as_they_need(void)
{
    Wire w = vector_frame(0, IPPROTO_TCP, 0);
    g_autofree uint8_t *big = g_malloc0(9000);
    unsigned queue = good_rss.table[vectors[0].ports & 7];
    VqgUsed u;

    memcpy(big, w.b, w.len);
    start(0, 0);
    offer_all(8);
    g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
    fake_push_frame(big, 9000);
    vqg_settle(&g);
    g_assert_cmpuint(vqg_used_queue(&g, 2 * queue), ==, 5);
    for (unsigned i = 0; i < 5; i++) {
        g_assert_true(vqg_take(&g, 2 * queue, &u));
        g_assert_cmpuint(u.len, ==, i < 4 ? BUF : 20 + 9000 - 4 * BUF);
        if (!i)
            g_assert_cmpuint(
                load_le16((uint8_t *)vqg_mem(&g, buf_gpa[queue][u.token], 12) + 10), ==,
                5);
    }
    end();
}

static void steering_is_the_same_after_a_restore(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        start(vqg_modes[m], BIT64(NET_F_HASH_REPORT));
        offer_all(4);
        vqg_restore(&g);
        g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
        for (unsigned i = 0; i < G_N_ELEMENTS(vectors); i++) {
            Wire w = vector_frame(i, IPPROTO_TCP, 0);

            vqg_restore(&g);
            g_assert_cmpuint(queue_of(&w), ==, good_rss.table[vectors[i].ports & 7]);
        }
        g_assert_cmpuint(set_pairs(3), ==, CTRL_OK);
        vqg_restore(&g);
        g_assert_cmpuint(((Net *)g.vdev)->rx_pairs, ==, 3);
        vqg_reset(&g);
        vqg_restore(&g);
        end();
    }
}

static void a_card_of_fewer_pairs_does_not_take_the_state(void)
{
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;
    void *old;

    start(0, 0);
    state = vqg_save(&g);
    old = options;
    vqg_replace(&g, options = parse("tap,ifname=tap0,queues=2"));
    param_free(virtio_net_ops.params, old);
    g_assert_false(vqg_load(&g, state, &error));
    g_assert_nonnull(strstr(error->message, "9 queues, and this one has 5"));
    end();
}

static void refused(GBytes *good, const char *path, unsigned index, uint64_t value)
{
    g_autoptr(GBytes) bad = edit_state(good, "net/net", path, index, value);
    g_autoptr(GError) error = NULL;

    vqg_replace(&g, options);
    g_assert_false(vqg_load(&g, bad, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_CORRUPT);
    g_assert_nonnull(strstr(error->message, "as the driver cannot have asked for"));
}

static void a_state_that_no_driver_could_have_asked_for_is_refused(void)
{
    const uint64_t several = BIT64(NET_F_MQ) | BIT64(NET_F_RSS);

    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GBytes) good = NULL;
        g_autoptr(GError) error = NULL;

        start(0, i ? several | BIT64(NET_F_HASH_REPORT) : 0);
        if (!i)
            g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
        good = vqg_save(&g);
        if (i) {
            refused(good, "pairs", 0, 2);
            refused(good, "hash_types", 0, NET_HASH_IPV4);
        } else {
            refused(good, "pairs", 0, PAIRS + 1);
            refused(good, "unclassified", 0, PAIRS);
            refused(good, "table", 7, PAIRS);
        }
        vqg_replace(&g, options);
        vqg_load(&g, good, &error);
        g_assert_no_error(error);
        vqg_resume(&g);
        end();
    }
}

/* A snapshot's configuration has to make the same card again. */
static void a_card_that_moves_keeps_its_queues_and_its_steering(void)
{
    const NetDevOptions user = {.type = NETDEV_USER, .queues = 1};
    Wire w = vector_frame(3, IPPROTO_TCP, 0);
    json_t *option = json_pack("{s:s, s:s, s:i}", "type", "tap", "ifname", "tap0",
                               "queues", PAIRS);
    g_autoptr(GError) error = NULL;

    start(0, BIT64(NET_F_HASH_REPORT));
    offer_all(4);
    g_assert_cmpuint(set_rss(&good_rss), ==, CTRL_OK);
    g_assert_true(virtio_net_move(g.vdev, &user, &error));
    g_assert_no_error(error);
    virtio_net_ops.describe(g.vdev, option);
    g_assert_cmpint(json_integer_value(json_object_get(option, "queues")), ==, PAIRS);
    g_assert_null(json_object_get(option, "ifname"));
    json_decref(option);
    while (!(vqg_config(&g, 6, 2) & NET_S_LINK_UP)) /* the moment of the move */
        vqg_settle(&g);
    g_assert_cmpuint(queue_of(&w), ==, good_rss.table[vectors[3].ports & 7]);
    end();
}

/* A command that may break the device, as buffers that lie ready may be hostile. */
static void offer_rss(uint64_t gpa)
{
    uint8_t *b = vqg_mem(&g, gpa, 256);
    uint32_t len = put_rss(&good_rss, b + 2);

    b[0] = CTRL_MQ;
    b[1] = SET_RSS;
    vqg_chain(&g, 2 * PAIRS, (VqgBuf[]){{gpa, 2 + len, OUT}, {gpa + 512, 1, IN}}, 2);
    vqg_kick_queue(&g, 2 * PAIRS);
}

/* Whatever the driver does on any of the nine queues. */
static void any_chain_on_any_queue_is_survived(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(53);

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        uint64_t gpa, rss;

        start(vqg_modes[m], 0);
        gpa = vqg_alloc(&g, 256 * 1024);
        rss = gpa + 200 * 1024;
        for (unsigned i = 0; i < 2000; i++) {
            unsigned q = (unsigned)g_rand_int_range(rand, 0, 2 * PAIRS + 1), n = 0;
            unsigned reads = (unsigned)g_rand_int_range(rand, 0, 3);
            unsigned writes = (unsigned)g_rand_int_range(rand, 0, 3) + !reads;
            Wire w = vector_frame(i % G_N_ELEMENTS(vectors), IPPROTO_TCP, 0);
            VqgBuf b[6];
            VqgUsed u;

            if (i % 20 == 0 && g.q[2 * PAIRS].n_free >= 2)
                offer_rss(rss);
            for (; n < reads + writes; n++) {
                b[n] = (VqgBuf){gpa + (uint64_t)g_rand_int_range(rand, 0, 128 * 1024),
                                (uint32_t)g_rand_int_range(rand, 20, n % 3 ? 3000 : 100),
                                n >= reads};
                store_le32(vqg_mem(&g, b[n].gpa, 4), q == 2 * PAIRS
                                                         ? g_rand_int(rand) & 0x00070304
                                                         : g_rand_int(rand) & 0x00ff0301);
            }
            if (g.q[q].n_free >= n)
                vqg_chain(&g, q, b, n);
            vqg_kick_queue(&g, q);
            if (fake.n_in == FAKE_FRAMES)
                fake.at_in = fake.n_in = 0;
            fake_push_frame(w.b, w.len);
            for (unsigned k = 0; k <= 2 * PAIRS; k++)
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
    log_set_level(LOG_ERROR);
#define add(name) g_test_add_func("/net-steer/" #name, name)
    add(hashes_are_those_that_microsoft_published);
    add(only_types_that_were_asked_for_are_hashed);
    add(any_bytes_are_looked_at_within_their_length);
    add(a_driver_of_one_pair_finds_the_control_queue_third);
    add(a_flow_comes_back_to_where_it_was_sent_from);
    add(the_drivers_table_says_where_a_hash_goes);
    add(a_reported_hash_is_that_of_the_frame);
    add(hashes_are_reported_without_rss_too);
    add(commands_that_make_no_sense_change_nothing);
    add(a_queue_without_buffers_holds_others_up_for_a_moment_only);
    add(big_frames_take_as_many_buffers_as_they_need);
    add(steering_is_the_same_after_a_restore);
    add(a_card_of_fewer_pairs_does_not_take_the_state);
    add(a_state_that_no_driver_could_have_asked_for_is_refused);
    add(a_card_that_moves_keeps_its_queues_and_its_steering);
    add(any_chain_on_any_queue_is_survived);
    return g_test_run();
}
