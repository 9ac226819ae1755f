/* virtio-net: virtio 1.2, 5.1.  `net` finds a neighbour by ARP, pings it and asks for a
 * lease by DHCP; `net-bench` sends or receives a fixed number of frames. */
#include "net.h"

#include "frame.h"

#define F_MAC      BIT64(5)
#define HEADER     NET_HEADER
#define FRAME_MAX  1536
#define RX_BUFFERS 64

typedef uint8_t Frame[HEADER + FRAME_MAX];

static Virtq rx, tx;
static Frame rx_frames[RX_BUFFERS], tx_frame;
static uint8_t mac[6];

static void start(VirtioDevice *d, uint64_t mode)
{
    virtio_start(d, mode | F_MAC);
    for (unsigned i = 0; i < 6; i++)
        mac[i] = d->features & F_MAC ? d->config[i] : (uint8_t)(i ? i : 2);
    virtq_init(&rx, d, 0, 0);
    virtq_init(&tx, d, 1, 0);
    virtio_driver_ok(d);
    for (unsigned i = 0; i < RX_BUFFERS; i++) {
        Buffer buffer = {rx_frames[i], sizeof(Frame), true};
        virtq_add(&rx, &buffer, 1, rx_frames[i]);
    }
    virtq_kick(&rx);
}

/* A new frame to everybody, zeroed, of this Ethernet type. */
static uint8_t *frame_begin(unsigned type)
{
    uint8_t *f = tx_frame + HEADER;

    memset(tx_frame, 0, sizeof(tx_frame));
    memset(f, 0xff, 6);
    memcpy(f + 6, mac, 6);
    put16(f + ETH_TYPE, type);
    return f;
}

static void frame_send(unsigned size)
{
    Buffer buffers[] = {{tx_frame, HEADER, false},
                        {tx_frame + HEADER, size < 60 ? 60 : size, false}};
    virtq_do(&tx, buffers, 2);
}

/* The next frame that `wanted` accepts; all others are dropped. */
static const uint8_t *frame_receive(bool (*wanted)(const uint8_t *f), const char *what)
{
    static Frame copy;
    bool found = false;

    while (!found) {
        uint32_t size;
        uint8_t *frame = virtq_wait(&rx, &size);

        CHECK(frame, "%s: no answer", what);
        memcpy(copy, frame, sizeof(copy));
        found = size > HEADER + ETH_END && wanted(copy + HEADER);
        Buffer again = {frame, sizeof(Frame), true};
        virtq_add(&rx, &again, 1, frame);
        virtq_kick(&rx);
    }
    return copy + HEADER;
}

static bool is_arp_reply(const uint8_t *f)
{
    return get16(f + ETH_TYPE) == ETHERTYPE_ARP && get16(f + ARP_OPCODE) == 2;
}

static bool is_echo_reply(const uint8_t *f)
{
    return get16(f + ETH_TYPE) == ETHERTYPE_IPV4 && f[IP_PROTOCOL] == PROTOCOL_ICMP &&
           f[IP_END] == 0;
}

/* The kind of message, which servers put anywhere among their options; 0: none. */
static uint8_t dhcp_kind(const uint8_t *options)
{
    const uint8_t *o = options;

    while (o + 2 < options + 300 && *o != 255) {
        if (o[0] == 53)
            return o[2];
        o += o[0] ? 2 + o[1] : 1;
    }
    return 0;
}

static bool is_dhcp_offer(const uint8_t *f)
{
    return get16(f + ETH_TYPE) == ETHERTYPE_IPV4 && f[IP_PROTOCOL] == PROTOCOL_UDP &&
           get16(f + IP_END + 2) == 68 && get32(f + DHCP_COOKIE) == DHCP_MAGIC &&
           dhcp_kind(f + DHCP_OPTIONS) == 2;
}

static void neighbour_find(uint32_t me, uint32_t host, uint8_t *ret_mac)
{
    uint8_t *f = frame_begin(ETHERTYPE_ARP);

    frame_arp(f, 1, mac, me, host);
    frame_send(ARP_END);
    memcpy(ret_mac, frame_receive(is_arp_reply, "ARP") + ARP_SENDER, 6);
}

static void ping(uint32_t me, uint32_t host, const uint8_t *host_mac)
{
    static const char body[] = "the quick brown fox";
    uint8_t *f = frame_begin(ETHERTYPE_IPV4);
    unsigned size = 8 + sizeof(body);

    memcpy(f, host_mac, 6);
    f[IP_END] = 8;
    put16(f + IP_END + 4, 0x4855);
    put16(f + IP_END + 6, 1);
    memcpy(f + IP_END + 8, body, sizeof(body));
    put16(f + IP_END + 2, frame_checksum(f + IP_END, size));
    frame_ipv4(f, size, PROTOCOL_ICMP, me, host);
    frame_send(IP_END + size);
    const uint8_t *reply = frame_receive(is_echo_reply, "ping");
    CHECK(!memcmp(reply + IP_END + 8, body, sizeof(body)), "ping: other data came back");
}

static uint32_t dhcp_discover(void)
{
    uint8_t *f = frame_begin(ETHERTYPE_IPV4);
    unsigned size = DHCP_OPTIONS + 4 - IP_END;

    put16(f + IP_END, 68);
    put16(f + IP_END + 2, 67);
    put16(f + IP_END + 4, size);
    memcpy(f + UDP_END, "\1\1\6\0HUTC", 8);
    memcpy(f + DHCP_CLIENT, mac, 6);
    put32(f + DHCP_COOKIE, DHCP_MAGIC);
    memcpy(f + DHCP_OPTIONS, "\x35\x01\x01\xff", 4);
    frame_ipv4(f, size, PROTOCOL_UDP, 0, 0xffffffff);
    frame_send(DHCP_OPTIONS + 4);
    return get32(frame_receive(is_dhcp_offer, "DHCP") + DHCP_YOURS);
}

/* ---- for other tests, which do not wait ---- */

static struct {
    uint32_t me, host;
    uint8_t host_mac[6];
    bool sending, asked; /* a frame is with the device; the host wants our address */
} peer;

static bool is_question(const uint8_t *f)
{
    return get16(f + ETH_TYPE) == ETHERTYPE_ARP && get16(f + ARP_OPCODE) == 1 &&
           get32(f + ARP_TARGET_IP) == peer.me;
}

void net_open(VirtioDevice *d, uint64_t mode)
{
    start(d, mode);
    peer.host = arg_address("host", "10.0.2.2");
    peer.me = arg_address("ip", "10.0.2.15");
    neighbour_find(peer.me, peer.host, peer.host_mac);
}

static void fill_ping(uint16_t number)
{
    uint8_t *f = frame_begin(ETHERTYPE_IPV4);

    memcpy(f, peer.host_mac, 6);
    f[IP_END] = 8;
    put16(f + IP_END + 4, 0x4855);
    put16(f + IP_END + 6, number);
    put16(f + IP_END + 8, number * 0x9e37u);
    put16(f + IP_END + 2, frame_checksum(f + IP_END, 10));
    frame_ipv4(f, 10, PROTOCOL_ICMP, peer.me, peer.host);
}

static void fill_answer(void)
{
    uint8_t *f = frame_begin(ETHERTYPE_ARP);

    frame_arp(f, 2, mac, peer.me, peer.host);
    memcpy(f + ARP_TARGET, peer.host_mac, 6);
}

bool net_is_asked(void)
{
    return peer.asked;
}

bool net_send_ping(uint16_t number)
{
    Buffer buffers[] = {{tx_frame, HEADER, false}, {tx_frame + HEADER, 60, false}};
    bool answer = peer.asked;
    uint32_t used;

    if (peer.sending && !virtq_pop(&tx, &used))
        return false;
    if (answer)
        fill_answer();
    else
        fill_ping(number);
    peer.asked = false;
    peer.sending = virtq_add(&tx, buffers, 2, &tx);
    virtq_kick(&tx);
    return peer.sending && !answer;
}

bool net_take_pong(uint16_t *ret_number)
{
    uint32_t size;
    uint8_t *frame = virtq_pop(&rx, &size);
    const uint8_t *f = frame + HEADER;
    bool pong;

    if (!frame)
        return false;
    pong = size > HEADER + ETH_END && is_echo_reply(f);
    peer.asked |= size > HEADER + ETH_END && is_question(f);
    if (pong) {
        *ret_number = (uint16_t)get16(f + IP_END + 6);
        CHECK(get16(f + IP_END + 8) == (uint16_t)(*ret_number * 0x9e37u),
              "pong %u has other data", *ret_number);
    }
    Buffer again = {frame, sizeof(Frame), true};
    virtq_add(&rx, &again, 1, frame);
    virtq_kick(&rx);
    return pong;
}

static void exercise(VirtioDevice *d, uint64_t mode)
{
    uint32_t host = arg_address("host", "10.0.2.2"), me = arg_address("ip", "10.0.2.15");
    uint8_t host_mac[6];

    start(d, mode);
    print("net %s mac=%02x:%02x:%02x:%02x:%02x:%02x", ring_mode_name(mode), mac[0],
          mac[1], mac[2], mac[3], mac[4], mac[5]);
    if (arg_number("dhcp", 1)) {
        me = dhcp_discover();
        print_address(" offer=", me);
    }
    neighbour_find(me, host, host_mac);
    print(" arp=%02x:%02x:%02x:%02x:%02x:%02x", host_mac[0], host_mac[1], host_mac[2],
          host_mac[3], host_mac[4], host_mac[5]);
    if (arg_number("ping", 1)) {
        ping(me, host, host_mac);
        print_address(" ping=", host);
    }
    print("\n");
}

static void test_net(void)
{
    in_every_ring_mode(virtio_find(VIRTIO_NET, (unsigned)arg_number("dev", 0)), exercise);
}

/* ---- net-bench dir=tx|rx count=N size=BYTES ---- */

static void bench_tx(uint64_t count, unsigned size)
{
    Buffer buffer = {tx_frame, HEADER + size, false};
    uint64_t sent = 0, done = 0;
    uint32_t used;

    frame_begin(0x88b5); /* an experimental Ethernet type */
    while (done < count) {
        while (sent < count && virtq_add(&tx, &buffer, 1, tx_frame))
            sent++;
        virtq_kick(&tx);
        while (virtq_pop(&tx, &used))
            done++;
    }
}

static void bench_rx(uint64_t count)
{
    uint64_t done = 0;
    uint32_t used;

    while (done < count) {
        uint8_t *frame = virtq_pop(&rx, &used);

        if (!frame) {
            virtq_kick(&rx);
            pause();
            continue;
        }
        Buffer again = {frame, sizeof(Frame), true};
        virtq_add(&rx, &again, 1, frame);
        done++;
    }
}

static void test_net_bench(void)
{
    VirtioDevice *d = virtio_find(VIRTIO_NET, (unsigned)arg_number("dev", 0));
    uint64_t count = arg_number("count", 100000), mode;
    unsigned size = (unsigned)arg_number("size", 1500);
    const char *direction = arg_text("dir", "tx");

    CHECK(size >= 60 && size <= FRAME_MAX, "size");
    mode = best_ring_mode(d);
    start(d, mode);
    print("net-bench start dir=%s count=%lu size=%u ring=%s\n", direction, count, size,
          ring_mode_name(mode));
    uint64_t before = ticks();
    if (text_equal(direction, "tx"))
        bench_tx(count, size);
    else
        bench_rx(count);
    print("net-bench done count=%lu ticks=%lu\n", count, ticks() - before);
}

const Test tests_net[] = {
    {"net", test_net},
    {"net-bench", test_net_bench},
    {NULL, NULL},
};
