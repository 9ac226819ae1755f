/* virtio-net with several pairs of queues: virtio 1.2, 5.1.6.5.5 and on.  `net-queues
 * pairs=N ip=A host=B hostmac=M` tries commands that make no sense, then pings from N
 * addresses, A and the next ones, each from a queue of its own, and says where the
 * answers came: by flows, and by RSS with its hash.  The host has to know the addresses.
 * With hash=0 the driver leaves hash reports and RSS alone. */
#include "frame.h"
#include "virtio.h"

#define F_MAC         BIT64(5)
#define F_CTRL_VQ     BIT64(17)
#define F_MQ          BIT64(22)
#define F_HASH_REPORT BIT64(57)
#define F_RSS         BIT64(60)

#define HEADER      12
#define HASH_HEADER 20
#define FRAME_MAX   1536
#define PAIRS_MAX   8
#define RX_BUFFERS  8
#define KEY_SIZE    40
#define TABLE_MAX   128

enum { CTRL_MQ = 4, SET_PAIRS = 0, SET_RSS = 1 };
enum { ACK_OK = 0, ACK_ERROR = 1 };
enum { C_PAIRS = 8, HASH_IPV4 = 1 };

typedef uint8_t Frame[HASH_HEADER + FRAME_MAX];

static VirtioDevice *dev;
static Virtq rx[PAIRS_MAX], tx[PAIRS_MAX], control;
static Frame rx_frames[PAIRS_MAX][RX_BUFFERS], tx_frame;
static uint8_t host_mac[6];
static unsigned pairs, header_len;
static bool hashes;

/* "Verifying the RSS hash calculation", of Microsoft's NDIS reference. */
static const uint8_t key[KEY_SIZE] = {
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

static void start(uint64_t mode)
{
    const uint64_t wanted = F_MAC | F_CTRL_VQ | F_MQ |
                            (hashes ? F_HASH_REPORT | F_RSS : 0);

    virtio_start(dev, mode | wanted);
    CHECK((dev->features & wanted) == wanted, "features 0x%lx", dev->features);
    CHECK(config_read16(dev, C_PAIRS) == pairs, "the card has %u pairs",
          config_read16(dev, C_PAIRS));
    for (unsigned i = 0; i < pairs; i++) {
        virtq_init(&rx[i], dev, (uint16_t)(2 * i), 0);
        virtq_init(&tx[i], dev, (uint16_t)(2 * i + 1), 0);
    }
    virtq_init(&control, dev, (uint16_t)(2 * pairs), 0);
    virtio_driver_ok(dev);
    for (unsigned i = 0; i < pairs; i++) {
        for (unsigned k = 0; k < RX_BUFFERS; k++) {
            Buffer buffer = {rx_frames[i][k], sizeof(Frame), true};
            virtq_add(&rx[i], &buffer, 1, rx_frames[i][k]);
        }
        virtq_kick(&rx[i]);
    }
}

/* ---- commands ---- */

static uint8_t command(uint8_t number, const void *data, uint32_t size)
{
    static uint8_t header[2], ack, body[1024];
    Buffer buffers[] = {{header, 2, false}, {body, size, false}, {&ack, 1, true}};

    header[0] = CTRL_MQ;
    header[1] = number;
    ack = 0xee;
    memcpy(body, data, size);
    virtq_do(&control, buffers, 3);
    return ack;
}

static uint8_t set_pairs(unsigned n)
{
    const uint8_t data[2] = {(uint8_t)n, (uint8_t)(n >> 8)};

    return command(SET_PAIRS, data, 2);
}

static void put_le16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

/* A table of `mask` + 1 entries that go round, of which the last is `last`. */
static uint8_t set_rss(uint8_t types, unsigned mask, unsigned unclassified, unsigned last,
                       unsigned max_tx, unsigned key_size)
{
    static uint8_t b[1024];
    unsigned n = mask < TABLE_MAX ? mask + 1 : TABLE_MAX, at = 8;

    memset(b, 0, sizeof(b));
    b[0] = types;
    put_le16(b + 4, mask);
    put_le16(b + 6, unclassified);
    for (unsigned i = 0; i < n; i++, at += 2)
        put_le16(b + at, i + 1 < n ? i % pairs : last);
    put_le16(b + at, max_tx);
    b[at + 2] = (uint8_t)key_size;
    memcpy(b + at + 3, key, key_size < KEY_SIZE ? key_size : KEY_SIZE);
    return command(SET_RSS, b, at + 3 + key_size);
}

static uint8_t good_rss(void)
{
    return set_rss(HASH_IPV4, 7, 0, pairs - 1, pairs, KEY_SIZE);
}

static void hostile_commands(void)
{
    static const uint8_t nothing[16];
    unsigned wrong = 0;

    wrong += set_pairs(0) != ACK_ERROR;
    wrong += set_pairs(pairs + 1) != ACK_ERROR;
    wrong += set_pairs(0xffff) != ACK_ERROR;
    wrong += command(SET_PAIRS, nothing, 1) != ACK_ERROR;
    wrong += command(SET_PAIRS, nothing, 3) != ACK_ERROR;
    wrong += command(99, nothing, 2) != ACK_ERROR;
    wrong += set_rss(0xc0, 7, 0, 0, 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 6, 0, 0, 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 0xffff, 0, 0, 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, pairs, 0, 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, 0, pairs, 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, 0, 0xffff, 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, 0, 0, 0, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, 0, 0, pairs + 1, KEY_SIZE) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, 0, 0, 1, KEY_SIZE + 1) != ACK_ERROR;
    wrong += set_rss(HASH_IPV4, 7, 0, 0, 1, 255) != ACK_ERROR;
    CHECK(!wrong, "%u commands that make no sense were taken", wrong);
    CHECK(!virtio_needs_reset(dev), "they broke the device");
}

/* ---- frames ---- */

static void arg_mac(const char *name, uint8_t *ret)
{
    const char *s = arg_text(name, "");

    for (unsigned i = 0; i < 12; i++) {
        while (*s == ':')
            s++;
        CHECK(*s, "%s= is no address", name);
        unsigned digit = (unsigned)(*s <= '9' ? *s - '0' : (*s | 32) - 'a' + 10);
        ret[i / 2] = (uint8_t)(i % 2 ? ret[i / 2] | digit : digit << 4);
        s++;
    }
}

static void send_ping(unsigned queue, uint32_t me, uint32_t host)
{
    uint8_t *f = tx_frame + header_len;
    Buffer buffer = {tx_frame, header_len + 60, false};

    memset(tx_frame, 0, sizeof(tx_frame));
    memcpy(f, host_mac, 6);
    for (unsigned i = 0; i < 6; i++)
        f[6 + i] = dev->config[i];
    put16(f + ETH_TYPE, ETHERTYPE_IPV4);
    f[IP_END] = 8;
    put16(f + IP_END + 2, frame_checksum(f + IP_END, 26));
    frame_ipv4(f, 26, PROTOCOL_ICMP, me, host);
    virtq_do(&tx[queue], &buffer, 1);
}

static bool is_answer(const uint8_t *f, uint32_t me)
{
    return get16(f + ETH_TYPE) == ETHERTYPE_IPV4 && f[IP_PROTOCOL] == PROTOCOL_ICMP &&
           f[IP_END] == 0 && get32(f + IP_TARGET) == me;
}

/* One look at a queue. */
static bool take_answer(unsigned queue, uint32_t me, uint32_t *ret_hash,
                        unsigned *ret_type)
{
    uint32_t size;
    uint8_t *b = virtq_pop(&rx[queue], &size);
    Buffer again = {b, sizeof(Frame), true};
    bool answer;

    if (!b)
        return false;
    answer = size > header_len + IP_END && is_answer(b + header_len, me);
    if (answer && hashes) {
        memcpy(ret_hash, b + 12, 4);
        *ret_type = b[16];
    }
    virtq_add(&rx[queue], &again, 1, b);
    virtq_kick(&rx[queue]);
    return answer;
}

static unsigned wait_answer(uint32_t me, uint32_t *ret_hash, unsigned *ret_type)
{
    for (uint64_t i = 0; i < 400000000; i++) {
        if (take_answer((unsigned)(i % pairs), me, ret_hash, ret_type))
            return (unsigned)(i % pairs);
        if (i % pairs == 0)
            pause();
    }
    fail("no answer");
}

static void ping_from_each_queue(const char *how)
{
    uint32_t me = arg_address("ip", "10.0.2.15"), host = arg_address("host", "10.0.2.2");

    for (unsigned i = 0; i < pairs; i++) {
        uint32_t hash = 0;
        unsigned type = 0, queue;

        if (!hashes) { /* the host's kernel answers before it notes whence */
            send_ping(i, me + i, host);
            wait_answer(me + i, &hash, &type);
        }
        send_ping(i, me + i, host);
        queue = wait_answer(me + i, &hash, &type);
        print("%s sent=%u came=%u hash=%x type=%u\n", how, i, queue, hash, type);
    }
}

static void exercise(VirtioDevice *d, uint64_t mode)
{
    (void)d;
    start(mode);
    print("net-queues %s pairs=%u\n", ring_mode_name(mode), pairs);
    ping_from_each_queue("one");
    if (hashes)
        hostile_commands();
    CHECK(set_pairs(pairs) == ACK_OK, "the pairs are not taken");
    ping_from_each_queue("flow");
    if (!hashes)
        return;
    CHECK(good_rss() == ACK_OK, "RSS is not taken");
    ping_from_each_queue("rss");
}

static void test_net_queues(void)
{
    dev = virtio_find(VIRTIO_NET, (unsigned)arg_number("dev", 0));
    pairs = (unsigned)arg_number("pairs", 4);
    hashes = arg_number("hash", 1);
    header_len = hashes ? HASH_HEADER : HEADER;
    arg_mac("hostmac", host_mac);
    CHECK(pairs >= 1 && pairs <= PAIRS_MAX, "pairs");
    in_every_ring_mode(dev, exercise);
}

const Test tests_net_queues[] = {
    {"net-queues", test_net_queues},
    {NULL, NULL},
};
