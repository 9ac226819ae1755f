/* `net-speed role=...`: how fast frames and bytes go, for tests/bench.
 *
 *     sink                       answers ARP and pings, and counts what else comes until
 *                                there were `bytes` of it
 *     flood host= size=          UDP datagrams to a sink, until the guest is ended; with
 *                                tso=1 segments of TCP as large as the device takes, and
 *                                with flows=1 each datagram from another port
 *     ping host= count=          round trips, one after the other
 *     tcp-tx, tcp-rx host= port= bytes=      a connection to the host
 *
 * `ip=` is the guest's own address.  It polls for what comes; with `wait=irq` it halts
 * until an interrupt says so (virtio-pci only). */
#include "frame.h"
#include "virtio.h"

#define F_CSUM       BIT64(0)
#define F_GUEST_CSUM BIT64(1)
#define F_MAC        BIT64(5)
#define F_GUEST_TSO4 BIT64(7)
#define F_HOST_TSO4  BIT64(11)
#define F_MRG_RXBUF  BIT64(15)

enum {
    RX_SIZE = 2048,
    RX_BUFFERS = 256,
    TX_SLOTS = 128,
    PAYLOAD_MAX = 65536,
    MSS = 1460,
    TSO_MAX = 44 * MSS,
    WINDOW = 65535,
    FIN = 1,
    SYN = 2,
    PSH = 8,
    ACK = 16
};

typedef struct VnetHeader {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
} VnetHeader;

/* Headers of a frame that is being sent; what they carry is all zeroes. */
typedef struct Slot {
    VnetHeader vnet;
    uint8_t frame[128];
    bool busy;
} Slot;

static VirtioDevice *dev;
static Virtq rx, tx;
static uint8_t (*rx_buffers)[RX_SIZE];
static uint8_t *zeroes;
static Slot *slots;
static uint8_t mac[6], host_mac[6];
static uint32_t me, host;
static bool host_known, tso, halts;

static uint32_t sum(const uint8_t *at, unsigned n, uint32_t before)
{
    for (unsigned i = 0; i < n; i += 2)
        before += get16(at + i);
    return before;
}

static uint16_t fold(uint32_t s)
{
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

/* ---- frames out ---- */

static void reap(void)
{
    uint32_t used;
    Slot *s;

    while ((s = virtq_pop(&tx, &used)))
        s->busy = false;
}

/* A free slot; NULL: all are with the device. */
static Slot *slot_get(void)
{
    static unsigned next;
    Slot *s = &slots[next % TX_SLOTS];

    if (s->busy)
        reap();
    if (s->busy)
        return NULL;
    next++;
    memset(&s->vnet, 0, sizeof(s->vnet));
    return s;
}

static Slot *slot_wait(void)
{
    Slot *s = NULL;

    CHECK(WAIT_UNTIL((s = slot_get())), "the device keeps what it was to send");
    return s;
}

static void send(Slot *s, unsigned headers, unsigned payload)
{
    Buffer buffers[] = {{&s->vnet, NET_HEADER + headers, false},
                        {zeroes, payload, false}};

    s->busy = true;
    CHECK(virtq_add(&tx, buffers, payload ? 2 : 1, s), "the transmit ring is full");
}

static void eth_fill(uint8_t *f, const uint8_t *to, unsigned type)
{
    memcpy(f, to, 6);
    memcpy(f + 6, mac, 6);
    put16(f + ETH_TYPE, type);
}

static void ip_fill(uint8_t *f, unsigned len, unsigned protocol)
{
    memset(f + ETH_END, 0, 20);
    eth_fill(f, host_mac, ETHERTYPE_IPV4);
    frame_ipv4(f, len, protocol, me, host);
}

static void send_arp(unsigned opcode, const uint8_t *to_mac, uint32_t to)
{
    Slot *s = slot_wait();
    uint8_t *f = s->frame;

    memset(f, 0, 60);
    eth_fill(f, to_mac, ETHERTYPE_ARP);
    frame_arp(f, opcode, mac, me, to);
    memcpy(f + ARP_TARGET, to_mac, 6);
    send(s, 60, 0);
    virtq_kick(&tx);
}

/* ---- frames in ---- */

static struct {
    uint64_t bytes; /* what came that is neither ARP nor ping */
    bool pong;
    /* TCP: */
    unsigned flags, window, payload;
    uint32_t seq, ack;
    bool segment;
} seen;

static void echo(const uint8_t *f, unsigned len)
{
    Slot *s = slot_wait();

    if (len > sizeof(s->frame))
        return;
    memcpy(s->frame, f, len);
    memcpy(s->frame, f + 6, 6);
    memcpy(s->frame + 6, mac, 6);
    memcpy(s->frame + ETH_END + 12, f + IP_TARGET, 4);
    memcpy(s->frame + ETH_END + 16, f + IP_SOURCE, 4);
    s->frame[IP_END] = 0;
    put16(
        s->frame + IP_END + 2,
        (uint16_t)~fold((uint32_t)(uint16_t)~get16(f + IP_END + 2) + (uint16_t)~0x0800));
    send(s, len, 0);
    virtq_kick(&tx);
}

static void look(const uint8_t *f, unsigned len)
{
    unsigned type = get16(f + ETH_TYPE), protocol = f[IP_PROTOCOL];

    if (type == ETHERTYPE_ARP && get16(f + ARP_OPCODE) == 1 &&
        get32(f + ARP_TARGET_IP) == me) {
        send_arp(2, f + ARP_SENDER, get32(f + ARP_SENDER_IP));
    } else if (type == ETHERTYPE_ARP && get32(f + ARP_SENDER_IP) == host) {
        memcpy(host_mac, f + ARP_SENDER, 6);
        host_known = true;
    } else if (type == ETHERTYPE_IPV4 && protocol == 1) {
        if (f[IP_END] == 8)
            echo(f, len);
        else
            seen.pong = true;
    } else if (type == ETHERTYPE_IPV4 && protocol == 6) {
        seen.segment = true;
        seen.seq = get32(f + IP_END + 4);
        seen.ack = get32(f + IP_END + 8);
        seen.flags = f[IP_END + 13];
        seen.window = get16(f + IP_END + 14);
        seen.payload = get16(f + IP_LENGTH) - 20 - (f[IP_END + 12] >> 4) * 4;
        seen.bytes += seen.payload;
    } else if (type == ETHERTYPE_IPV4) {
        seen.bytes += len;
    }
}

/* The next frame, if there is one; a big one lies in several buffers, of which the first
 * has all that is looked at. */
static bool receive(void)
{
    static unsigned more;
    uint32_t size;
    uint8_t *at = virtq_pop(&rx, &size);

    if (!at)
        return false;
    if (!more) {
        more = ((VnetHeader *)at)->num_buffers;
        look(at + NET_HEADER, size - NET_HEADER);
    }
    more--;
    Buffer again = {at, RX_SIZE, true};
    virtq_add(&rx, &again, 1, at);
    return true;
}

/* Interrupts are off in here: none can come between the look and the halt. */
static uint64_t halt_if_quiet(void)
{
    if (!virtq_has_used(&rx))
        asm volatile("sti; hlt; cli" : : : "memory");
    return 0;
}

static void idle(void)
{
    virtq_kick(&rx);
    full_barrier(); /* what is asked for is seen before it is looked for */
    if (halts)
        ring0(halt_if_quiet);
    else
        pause();
}

static void serve(void)
{
    if (!receive())
        idle();
}

/* ---- start ---- */

static void open_card(void)
{
    bool offload = arg_number("offload", 1);
    uint64_t mode;

    dev = virtio_find(VIRTIO_NET, (unsigned)arg_number("dev", 0));
    mode = best_ring_mode(dev);
    virtio_start(dev,
                 mode | F_MAC | F_MRG_RXBUF |
                     (offload ? F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_HOST_TSO4 : 0));
    for (unsigned i = 0; i < 6; i++)
        mac[i] = dev->features & F_MAC ? dev->config[i] : (uint8_t)(i ? i : 2);
    tso = dev->features & F_HOST_TSO4;
    halts = text_equal(arg_text("wait", "poll"), "irq");
    rx.interrupts = halts;
    if (halts)
        interrupts_enable();
    virtq_init(&rx, dev, 0, 0);
    virtq_init(&tx, dev, 1, 0);
    virtio_driver_ok(dev);
    CHECK(dev->features & F_MRG_RXBUF, "no mergeable buffers");
    slots = alloc(TX_SLOTS * sizeof(Slot), 64);
    zeroes = alloc(PAYLOAD_MAX, 4096);
    rx_buffers = alloc(RX_BUFFERS * RX_SIZE, 4096);
    for (unsigned i = 0; i < RX_BUFFERS; i++) {
        Buffer buffer = {rx_buffers[i], RX_SIZE, true};
        virtq_add(&rx, &buffer, 1, rx_buffers[i]);
    }
    virtq_kick(&rx);
    me = arg_address("ip", "10.0.2.15");
    host = arg_address("host", "10.0.2.2");
}

static bool look_for_host(void)
{
    while (receive())
        ;
    virtq_kick(&rx);
    return host_known;
}

/* Asks again and again: the other side may still have to begin. */
static void find_host(void)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    for (unsigned i = 0; i < 1000 && !host_known; i++) {
        uint64_t begin = ticks();

        send_arp(1, everybody, host);
        while (!look_for_host() && ticks() - begin < PATIENCE / 1000)
            pause();
    }
    CHECK(host_known, "nobody answers for host=");
}

/* ---- flood and sink ---- */

static void flood(void)
{
    unsigned size = (unsigned)arg_number("size", 1500);
    bool segments = arg_number("tso", 0), big = segments && tso;
    bool flows = arg_number("flows", 0);
    uint32_t seq = 0, n = 0;

    find_host();
    print("net-speed flood size=%u%s\n", size, big ? " tso" : "");
    for (;;) {
        Slot *s = slot_get();
        uint8_t *f;

        if (!s) {
            virtq_kick(&tx);
            while (receive())
                ;
            virtq_kick(&rx);
            continue;
        }
        f = s->frame;
        if (segments) {
            unsigned payload = big ? TSO_MAX : MSS;

            ip_fill(f, 20 + payload, 6);
            memset(f + IP_END, 0, 20);
            put16(f + IP_END, 1000);
            put16(f + IP_END + 2, 2000);
            put32(f + IP_END + 4, seq);
            f[IP_END + 12] = 5 << 4;
            f[IP_END + 13] = ACK;
            seq += payload;
            if (big)
                s->vnet = (VnetHeader){1, 1, TCP_END, MSS, IP_END, 16, 0};
            send(s, TCP_END, payload);
        } else {
            ip_fill(f, size - IP_END, 17);
            put16(f + IP_END, flows ? 1024 + n++ % 64000 : 1000);
            put16(f + IP_END + 2, 2000);
            put16(f + IP_END + 4, size - IP_END);
            put16(f + IP_END + 6, 0);
            send(s, UDP_END, size - UDP_END);
        }
        if (tx.n_free_slots < tx.size / 2)
            virtq_kick(&tx);
    }
}

static void sink(void)
{
    uint64_t bytes = arg_number("bytes", 1 << 30), skip = arg_number("skip", 16 << 20);

    print("net-speed sink\n");
    while (seen.bytes < skip)
        serve();
    print("net-speed start\n");
    seen.bytes = 0;
    while (seen.bytes < bytes)
        serve();
    print("net-speed done bytes=%lu\n", seen.bytes);
    for (;;)
        serve();
}

/* ---- ping ---- */

static uint32_t *sorted(uint32_t *of, unsigned n)
{
    for (unsigned gap = n / 2; gap; gap /= 2)
        for (unsigned i = gap; i < n; i++)
            for (unsigned k = i; k >= gap && of[k - gap] > of[k]; k -= gap) {
                uint32_t t = of[k];

                of[k] = of[k - gap];
                of[k - gap] = t;
            }
    return of;
}

static uint32_t ping_once(unsigned number)
{
    Slot *s = slot_wait();
    uint8_t *f = s->frame;
    uint64_t begin;

    memset(f, 0, 60);
    ip_fill(f, 26, 1);
    f[IP_END] = 8;
    put16(f + IP_END + 4, 0x4855);
    put16(f + IP_END + 6, number & 0xffff);
    put16(f + IP_END + 2, (uint16_t)~fold(sum(f + IP_END, 26, 0)));
    seen.pong = false;
    begin = ticks();
    send(s, 60, 0);
    virtq_kick(&tx);
    while (!seen.pong) {
        serve();
        CHECK(ticks() - begin < PATIENCE, "ping %u was not answered", number);
    }
    return (uint32_t)(ticks() - begin);
}

static void ping(void)
{
    unsigned count = (unsigned)arg_number("count", 10000);
    uint32_t *took = alloc(count * sizeof(*took), 64);
    uint64_t begin;

    find_host();
    for (unsigned i = 0; i < count / 10; i++)
        ping_once(i);
    print("net-speed start\n");
    begin = ticks();
    for (unsigned i = 0; i < count; i++)
        took[i] = ping_once(i);
    begin = ticks() - begin;
    print("net-speed done ticks=%lu\n", begin);
    sorted(took, count);
    print("net-speed ping p50=%u p99=%u\n", took[count / 2], took[count / 100 * 99]);
}

/* ---- TCP: RFC 9293 for a wire that loses nothing ---- */

static struct {
    uint32_t next, una, rcv; /* ours to send, not yet acknowledged; theirs to come */
    uint32_t window, told;   /* theirs; up to where we have acknowledged */
    unsigned port;
} tcp;

static void send_segment(unsigned flags, unsigned payload)
{
    Slot *s = slot_wait();
    uint8_t *f = s->frame;
    unsigned options = flags & SYN ? 4 : 0, len = 20 + options + payload;
    uint32_t pseudo;

    ip_fill(f, len, 6);
    memset(f + IP_END, 0, 24);
    put16(f + IP_END, 49152);
    put16(f + IP_END + 2, tcp.port);
    put32(f + IP_END + 4, tcp.next);
    put32(f + IP_END + 8, flags & ACK ? tcp.rcv : 0);
    f[IP_END + 12] = (uint8_t)((5 + options / 4) << 4);
    f[IP_END + 13] = (uint8_t)flags;
    put16(f + IP_END + 14, WINDOW);
    if (options)
        put32(f + IP_END + 20, 0x02040000 | MSS);
    pseudo = sum(f + IP_SOURCE, 8, 6 + len);
    if (dev->features & F_CSUM) {
        put16(f + IP_END + 16, fold(pseudo));
        s->vnet = (VnetHeader){1, 0, 0, 0, IP_END, 16, 0};
        if (payload > MSS)
            s->vnet = (VnetHeader){1, 1, TCP_END, MSS, IP_END, 16, 0};
    } else {
        put16(f + IP_END + 16, (uint16_t)~fold(sum(f + IP_END, 20 + options, pseudo)));
    }
    tcp.next += payload + !!(flags & (SYN | FIN));
    tcp.told = tcp.rcv;
    send(s, IP_END + 20 + options, payload);
    virtq_kick(&tx);
}

/* Takes what has come; true if it was a segment. */
static bool take_segment(void)
{
    if (!receive())
        return false;
    if (!seen.segment)
        return true;
    seen.segment = false;
    if (seen.flags & ACK && (int32_t)(seen.ack - tcp.una) >= 0) {
        tcp.una = seen.ack;
        tcp.window = seen.window;
    }
    if (seen.payload) {
        CHECK(seen.seq == tcp.rcv, "a segment is lost");
        tcp.rcv += seen.payload;
    }
    return true;
}

static void tcp_connect(void)
{
    find_host();
    tcp.next = 1;
    tcp.port = (unsigned)arg_number("port", 5001);
    send_segment(SYN, 0);
    while (!(seen.flags & SYN))
        serve();
    tcp.rcv = tcp.told = seen.seq + 1;
    tcp.una = seen.ack;
    tcp.window = seen.window;
    seen.segment = false;
    send_segment(ACK, 0);
}

/* How much may be sent now: a whole segment, or nothing. */
static unsigned may_send(void)
{
    uint32_t flying = tcp.next - tcp.una,
             room = tcp.window > flying ? tcp.window - flying : 0;

    if (room < MSS && flying)
        return 0;
    if (room > (tso ? TSO_MAX : MSS))
        room = tso ? TSO_MAX : MSS;
    return room > MSS ? room / MSS * MSS : room;
}

static void tcp_tx(void)
{
    uint64_t bytes = arg_number("bytes", 1 << 30), sent = 0;

    tcp_connect();
    print("net-speed start%s\n", tso ? " tso" : "");
    while (sent < bytes || tcp.una != tcp.next) {
        unsigned n = sent < bytes ? may_send() : 0;

        if (n) {
            send_segment(ACK, n);
            sent += n;
        }
        if (!take_segment() && !n)
            idle();
    }
    print("net-speed done bytes=%lu\n", sent);
}

/* Acknowledges every other segment and what has come when no more comes, as Linux. */
static void tcp_rx(void)
{
    uint64_t bytes = arg_number("bytes", 1 << 30);

    tcp_connect();
    print("net-speed start\n");
    seen.bytes = 0;
    while (seen.bytes < bytes) {
        bool some = take_segment();

        if (tcp.rcv - tcp.told >= 2 * MSS || (!some && tcp.rcv != tcp.told))
            send_segment(ACK, 0);
        if (!some)
            idle();
    }
    print("net-speed done bytes=%lu\n", seen.bytes);
}

static void test_net_speed(void)
{
    static const Test roles[] = {
        {"sink", sink},     {"flood", flood},   {"ping", ping},
        {"tcp-tx", tcp_tx}, {"tcp-rx", tcp_rx}, {NULL, NULL},
    };
    const char *role = arg_text("role", "sink");
    const Test *r = roles;

    while (r->name && !text_equal(r->name, role))
        r++;
    CHECK(r->name, "no such role");
    open_card();
    r->run();
}

const Test tests_net_speed[] = {
    {"net-speed", test_net_speed},
    {NULL, NULL},
};
