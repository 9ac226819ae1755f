/* station: a machine on a network.  It answers ARP, pings and UDP echo (port 7), follows
 * its card's link, takes a lease where it is asked to, and does what is typed at its
 * serial port, one thing after the other:
 *
 *     ping ADDRESS N            N pings, one after the other: "done" or "gave up"
 *     echo ADDRESS N SIZE       N UDP echoes, sixteen at once, each again until it is
 *                               answered: what TCP would get through.  "done", and how
 *                               many were sent again
 *     rtt ADDRESS N             N pings; how many ticks half and 99 of 100 of them took
 *     flood ADDRESS N SIZE      N frames as fast as they go; more than 1514 bytes are
 *                               TCP to be cut by whoever takes it away (tso=1)
 *     stop                      ends one of these; N of 0 is for ever
 *     count                     frames and bytes since the last, and ticks from the first
 *                               to the last of them
 *     raw HEX                   this frame
 *     dhcp                      asks for a lease
 *     address                   says its addresses
 *     eject                     waits until it is asked to give up a device, and does
 *     quit
 *
 *   ip=ADDRESS gw=ADDRESS dhcp=1 tso=1 dev=N
 *   wait=1   looks for its card when a line was typed: one that is yet to be plugged in
 *
 * It prints "link up", "link down" and "announce" when its card says so. */
#include "frame.h"
#include "virtio.h"

#define F_CSUM       BIT64(0)
#define F_GUEST_CSUM BIT64(1)
#define F_MTU        BIT64(3)
#define F_MAC        BIT64(5)
#define F_GUEST_TSO4 BIT64(7)
#define F_HOST_TSO4  BIT64(11)
#define F_STATUS     BIT64(16)
#define F_CTRL_VQ    BIT64(17)
#define F_ANNOUNCE   BIT64(21)
#define F_TSO        (F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_HOST_TSO4)

enum {
    S_LINK_UP = 1,
    S_ANNOUNCE = 2,
    CONFIG_STATUS = 6,
    CONFIG_MTU = 10,
    SMALL = NET_HEADER + 1536,
    BIG = NET_HEADER + 65550,
    RX_BUFFERS = 128,
    TX_FRAMES = 128,
    WINDOW = 16,
    SAMPLES = 4096,
    LINE = 1024,
    LOOK_EVERY = 2048,    /* turns: at what costs the host an exit */
    HOTPLUG_DOWN = 0x644, /* include/devices/pci_hotplug.h: a bit for each slot */
    HOTPLUG_EJECT = 0x648,
    MSS = 1448,
};

/* Some tenths of a second on any machine; and how often something is tried. */
#define AGAIN 300000000ull
#define TRIES 60

typedef enum { IDLE, RESOLVE, PING, ECHO, RTT, FLOOD } Kind;

static VirtioDevice *dev;
static Virtq rx, tx, ctrl;
static uint8_t mac[6];
static uint32_t me, gateway;
static unsigned frame_size;

/* ---- sending ---- */

static uint8_t tx_small[TX_FRAMES][SMALL];
static void *tx_free[TX_FRAMES];
static unsigned n_tx_free;
static uint8_t *big; /* one frame, sent again and again */
static uint32_t n_flooded;

static void tx_collect(void)
{
    uint32_t used;
    void *frame;

    while ((frame = virtq_pop(&tx, &used))) {
        if (frame == big)
            n_flooded++;
        else
            tx_free[n_tx_free++] = frame;
    }
}

/* Zeroed but for its addresses; NULL: all are on their way, and it is as good as lost. */
static uint8_t *tx_begin(const uint8_t *to, unsigned type)
{
    uint8_t *frame, *f;

    if (!n_tx_free)
        tx_collect();
    if (!n_tx_free)
        return NULL;
    frame = tx_free[--n_tx_free];
    memset(frame, 0, SMALL);
    f = frame + NET_HEADER;
    if (to)
        memcpy(f, to, 6);
    else
        memset(f, 0xff, 6);
    memcpy(f + 6, mac, 6);
    put16(f + ETH_TYPE, type);
    return f;
}

static void tx_send(uint8_t *f, unsigned size)
{
    Buffer buffer = {f - NET_HEADER, NET_HEADER + (size < 60 ? 60 : size), false};

    CHECK(virtq_add(&tx, &buffer, 1, f - NET_HEADER), "the ring is full");
    virtq_kick(&tx);
}

static void send_arp(unsigned opcode, const uint8_t *to, uint32_t other)
{
    uint8_t *f = tx_begin(to, ETHERTYPE_ARP);

    if (!f)
        return;
    frame_arp(f, opcode, mac, me, other);
    if (to)
        memcpy(f + ARP_TARGET, to, 6);
    tx_send(f, ARP_END);
}

/* ---- a lease ---- */

static struct {
    enum { DHCP_OFF, DHCP_DISCOVER, DHCP_REQUEST, DHCP_BOUND } state;
    uint32_t offered, server;
    uint64_t sent;
} lease;

static void dhcp_send(void)
{
    static const uint8_t request[] = {53, 1,  3, 50, 4, 0, 0, 0,
                                      0,  54, 4, 0,  0, 0, 0, 255};
    bool discover = lease.state == DHCP_DISCOVER;
    uint8_t *f = tx_begin(NULL, ETHERTYPE_IPV4);
    unsigned size = DHCP_OPTIONS + sizeof(request) - IP_END;

    lease.sent = ticks();
    if (!f)
        return;
    put16(f + IP_END, 68);
    put16(f + IP_END + 2, 67);
    put16(f + IP_END + 4, size);
    memcpy(f + UDP_END, "\1\1\6\0HUTC", 8);
    put16(f + UDP_END + 10, 0x8000); /* answer to all */
    memcpy(f + DHCP_CLIENT, mac, 6);
    put32(f + DHCP_COOKIE, DHCP_MAGIC);
    if (discover) {
        memcpy(f + DHCP_OPTIONS, "\x35\x01\x01\xff", 4);
    } else {
        memcpy(f + DHCP_OPTIONS, request, sizeof(request));
        put32(f + DHCP_OPTIONS + 5, lease.offered);
        put32(f + DHCP_OPTIONS + 11, lease.server);
    }
    frame_ipv4(f, size, PROTOCOL_UDP, 0, 0xffffffff);
    tx_send(f, DHCP_OPTIONS + sizeof(request));
}

static void dhcp_begin(void)
{
    lease.state = DHCP_DISCOVER;
    dhcp_send();
}

/* The option's value, of four bytes or the first byte in the highest; 0: not there. */
static uint32_t dhcp_option(const uint8_t *f, unsigned size, uint8_t which)
{
    unsigned at = DHCP_OPTIONS;

    while (at + 2 < size && f[at] != 255) {
        if (f[at] == which)
            return f[at + 1] >= 4 && at + 6 <= size ? get32(f + at + 2)
                                                    : (uint32_t)f[at + 2] << 24;
        at += f[at] ? 2u + f[at + 1] : 1u;
    }
    return 0;
}

static void dhcp_take(const uint8_t *f, unsigned size)
{
    unsigned kind = dhcp_option(f, size, 53) >> 24;

    if (memcmp(f + DHCP_CLIENT, mac, 6) || get32(f + DHCP_COOKIE) != DHCP_MAGIC)
        return;
    if (lease.state == DHCP_DISCOVER && kind == 2) {
        lease.state = DHCP_REQUEST;
        lease.offered = get32(f + DHCP_YOURS);
        lease.server = dhcp_option(f, size, 54);
        dhcp_send();
    } else if (lease.state == DHCP_REQUEST && kind == 5) {
        lease.state = DHCP_BOUND;
        me = get32(f + DHCP_YOURS);
        gateway = dhcp_option(f, size, 3);
        print_address("address ", me);
        print("\n");
    } else if (lease.state == DHCP_REQUEST && kind == 6) {
        dhcp_begin();
    }
}

static void dhcp_turn(void)
{
    if ((lease.state == DHCP_DISCOVER || lease.state == DHCP_REQUEST) &&
        ticks() - lease.sent > AGAIN)
        dhcp_send();
}

/* ---- what was typed ---- */

static struct {
    Kind kind, next; /* next: what RESOLVE is for */
    const char *name;
    uint32_t peer, hop;
    uint8_t hop_mac[6];
    uint32_t total, size, sent, done, again;
    uint64_t began;
    unsigned tries;
    struct {
        uint32_t number;
        bool busy;
        uint64_t sent;
    } slot[WINDOW];
    uint64_t sample[SAMPLES];
} job;

static void job_end(const char *how)
{
    print("%s %s count=%u again=%u ticks=%lu\n", job.name, how, job.done, job.again,
          ticks() - job.began);
    job.kind = IDLE;
}

static void job_begin(Kind kind, const char *name, uint32_t peer, uint32_t total,
                      uint32_t size)
{
    memset(&job, 0, sizeof(job));
    job.kind = RESOLVE;
    job.next = kind;
    job.name = name;
    job.peer = peer;
    job.hop = (peer ^ me) >> 8 && gateway ? gateway : peer;
    job.total = total ? total : UINT32_MAX;
    job.size = size;
    job.began = ticks();
    send_arp(1, NULL, job.hop);
    job.slot[0].sent = ticks();
}

static void send_ping(uint32_t number)
{
    uint8_t *f = tx_begin(job.hop_mac, ETHERTYPE_IPV4);

    if (!f)
        return;
    f[IP_END] = 8;
    put16(f + IP_END + 4, 0x4855);
    put16(f + IP_END + 6, number & 0xffff);
    put32(f + IP_END + 8, number);
    put16(f + IP_END + 2, frame_checksum(f + IP_END, 12));
    frame_ipv4(f, 12, PROTOCOL_ICMP, me, job.peer);
    tx_send(f, IP_END + 12);
}

static void send_echo(uint32_t number)
{
    unsigned size = job.size < 64 ? 64 : job.size > 1514 ? 1514 : job.size;
    uint8_t *f = tx_begin(job.hop_mac, ETHERTYPE_IPV4);

    if (!f)
        return;
    put16(f + IP_END, 4000);
    put16(f + IP_END + 2, 7);
    put16(f + IP_END + 4, size - IP_END);
    put32(f + UDP_END, number);
    put32(f + UDP_END + 4, ~number);
    frame_ipv4(f, size - IP_END, PROTOCOL_UDP, me, job.peer);
    tx_send(f, size);
}

static void send_number(unsigned slot)
{
    job.slot[slot].sent = ticks();
    if (job.kind == ECHO)
        send_echo(job.slot[slot].number);
    else
        send_ping(job.slot[slot].number);
}

static void sort_samples(unsigned n)
{
    for (unsigned gap = n / 2; gap; gap /= 2)
        for (unsigned i = gap; i < n; i++)
            for (unsigned j = i; j >= gap && job.sample[j - gap] > job.sample[j];
                 j -= gap) {
                uint64_t swap = job.sample[j];

                job.sample[j] = job.sample[j - gap];
                job.sample[j - gap] = swap;
            }
}

static void rtt_end(void)
{
    unsigned n = job.total < SAMPLES ? job.total : SAMPLES;

    sort_samples(n);
    print("rtt p50=%lu p99=%lu again=%u ticks=%lu\n", job.sample[n / 2],
          job.sample[n * 99 / 100], job.again, ticks() - job.began);
    job.kind = IDLE;
}

static void job_answer(uint32_t number)
{
    unsigned window = job.kind == ECHO ? WINDOW : 1;

    for (unsigned i = 0; i < window; i++) {
        if (!job.slot[i].busy || job.slot[i].number != number)
            continue;
        job.sample[job.done % SAMPLES] = ticks() - job.slot[i].sent;
        job.slot[i].busy = false;
        job.done++;
        job.tries = 0;
    }
    if (job.done < job.total)
        return;
    if (job.kind == RTT)
        rtt_end();
    else
        job_end("done");
}

static void exchange_turn(void)
{
    unsigned window = job.kind == ECHO ? WINDOW : 1;
    uint64_t now = ticks();

    for (unsigned i = 0; i < window; i++) {
        if (!job.slot[i].busy && job.sent < job.total) {
            job.slot[i].busy = true;
            job.slot[i].number = job.sent++;
            send_number(i);
        } else if (job.slot[i].busy && now - job.slot[i].sent > AGAIN) {
            job.again++;
            if (++job.tries > TRIES * window) {
                job_end("gave up");
                return;
            }
            send_number(i);
        }
    }
}

static void resolve_turn(void)
{
    if (ticks() - job.slot[0].sent < AGAIN)
        return;
    if (++job.tries > TRIES) {
        job_end("gave up");
        return;
    }
    send_arp(1, NULL, job.hop);
    job.slot[0].sent = ticks();
}

/* ---- floods ---- */

static void big_fill(void)
{
    uint8_t *f = big + NET_HEADER;
    bool tso = job.size > 1514;
    unsigned payload = job.size - IP_END;

    memset(big, 0, BIG);
    memcpy(f, job.hop_mac, 6);
    memcpy(f + 6, mac, 6);
    put16(f + ETH_TYPE, ETHERTYPE_IPV4);
    if (tso) {
        big[0] = 1; /* NEEDS_CSUM */
        big[1] = 1; /* GSO_TCPV4; what follows is little-endian */
        *(uint16_t *)(void *)(big + 2) = TCP_END;
        *(uint16_t *)(void *)(big + 4) = MSS;
        *(uint16_t *)(void *)(big + 6) = IP_END;
        *(uint16_t *)(void *)(big + 8) = 16;
        put16(f + IP_END, 4001);
        put16(f + IP_END + 2, 9);
        f[IP_END + 12] = 0x50;
        f[IP_END + 13] = 0x10; /* ACK */
    } else {
        put16(f + IP_END, 4001);
        put16(f + IP_END + 2, 9);
        put16(f + IP_END + 4, payload);
    }
    frame_ipv4(f, payload, tso ? PROTOCOL_TCP : PROTOCOL_UDP, me, job.peer);
    if (tso) { /* the sum of the pseudo header */
        uint32_t sum = (me >> 16) + (me & 0xffff) + (job.peer >> 16) +
                       (job.peer & 0xffff) + PROTOCOL_TCP + payload;

        while (sum >> 16)
            sum = (sum & 0xffff) + (sum >> 16);
        put16(f + IP_END + 16, sum);
    }
}

static void flood_turn(void)
{
    Buffer buffer = {big, NET_HEADER + job.size, false};

    if (!job.sent) {
        big_fill();
        n_flooded = 0;
    }
    while (job.sent < job.total && virtq_add(&tx, &buffer, 1, big))
        job.sent++;
    virtq_kick(&tx);
    job.done = n_flooded;
    if (job.done == job.total)
        job_end("done");
}

static void job_turn(void)
{
    switch (job.kind) {
    case IDLE:
        break;
    case RESOLVE:
        resolve_turn();
        break;
    case PING:
    case ECHO:
    case RTT:
        exchange_turn();
        break;
    case FLOOD:
        flood_turn();
        break;
    }
}

/* ---- receiving ---- */

static struct {
    uint64_t frames, bytes, first, last;
} counted;

static void answer_echo(const uint8_t *f, unsigned size)
{
    uint8_t *answer = tx_begin(f + 6, ETHERTYPE_IPV4);

    if (!answer || size > SMALL - NET_HEADER)
        return;
    memcpy(answer + ETH_END, f + ETH_END, size - ETH_END);
    put32(answer + IP_SOURCE, me);
    put32(answer + IP_TARGET, get32(f + IP_SOURCE));
    if (f[IP_PROTOCOL] == PROTOCOL_ICMP) {
        answer[IP_END] = 0;
        put16(answer + IP_END + 2, 0);
        put16(answer + IP_END + 2,
              frame_checksum(answer + IP_END, get16(f + IP_LENGTH) - 20));
    } else {
        put16(answer + IP_END, get16(f + IP_END + 2));
        put16(answer + IP_END + 2, get16(f + IP_END));
        put16(answer + IP_END + 6, 0);
    }
    put16(answer + IP_CHECKSUM, 0);
    put16(answer + IP_CHECKSUM, frame_checksum(answer + ETH_END, 20));
    tx_send(answer, size);
}

static void take_arp(const uint8_t *f)
{
    if (get16(f + ARP_OPCODE) == 1 && me && get32(f + ARP_TARGET_IP) == me)
        send_arp(2, f + ARP_SENDER, get32(f + ARP_SENDER_IP));
    if (get16(f + ARP_OPCODE) == 2 && job.kind == RESOLVE &&
        get32(f + ARP_SENDER_IP) == job.hop) {
        memcpy(job.hop_mac, f + ARP_SENDER, 6);
        job.tries = 0;
        job.kind = job.next;
    }
}

static void take_ipv4(const uint8_t *f, unsigned size)
{
    unsigned protocol = f[IP_PROTOCOL], from = get16(f + IP_END),
             to = get16(f + IP_END + 2);

    if (size < UDP_END || ETH_END + get16(f + IP_LENGTH) > size ||
        get16(f + IP_LENGTH) < 28)
        return;
    if (protocol == PROTOCOL_UDP && to == 68 && size > DHCP_OPTIONS)
        dhcp_take(f, size);
    if (!me || get32(f + IP_TARGET) != me)
        return;
    if ((protocol == PROTOCOL_ICMP && f[IP_END] == 8) ||
        (protocol == PROTOCOL_UDP && to == 7))
        answer_echo(f, size);
    if (protocol == PROTOCOL_ICMP && f[IP_END] == 0 &&
        (job.kind == PING || job.kind == RTT) && get32(f + IP_SOURCE) == job.peer)
        job_answer(get32(f + IP_END + 8));
    if (protocol == PROTOCOL_UDP && from == 7 && job.kind == ECHO &&
        get32(f + UDP_END) == ~get32(f + UDP_END + 4))
        job_answer(get32(f + UDP_END));
}

static void rx_turn(void)
{
    uint32_t size;
    uint8_t *frame;
    unsigned n = 0;

    while (n++ < RX_BUFFERS && (frame = virtq_pop(&rx, &size))) {
        const uint8_t *f = frame + NET_HEADER;
        Buffer again = {frame, frame_size, true};

        if (size > NET_HEADER + ETH_END) {
            counted.last = ticks();
            if (!counted.frames++)
                counted.first = counted.last;
            counted.bytes += size - NET_HEADER;
            if (get16(f + ETH_TYPE) == ETHERTYPE_ARP && size >= NET_HEADER + ARP_END)
                take_arp(f);
            else if (get16(f + ETH_TYPE) == ETHERTYPE_IPV4)
                take_ipv4(f, size - NET_HEADER);
        }
        virtq_add(&rx, &again, 1, frame);
    }
    if (n > 1)
        virtq_kick(&rx);
}

/* ---- the card's status ---- */

static void acknowledge(void)
{
    static struct {
        uint8_t class, command, ack;
    } words;
    Buffer buffers[] = {{&words, 2, false}, {&words.ack, 1, true}};

    words.class = 3; /* VIRTIO_NET_CTRL_ANNOUNCE */
    words.command = 0;
    virtq_do(&ctrl, buffers, 2);
}

static void status_turn(void)
{
    static bool up = true;
    uint16_t status = S_LINK_UP;

    if (dev->features & F_STATUS)
        status = config_read16(dev, CONFIG_STATUS);
    if (up != !!(status & S_LINK_UP)) {
        up = status & S_LINK_UP;
        print(up ? "link up\n" : "link down\n");
        if (up && arg_number("dhcp", 0))
            dhcp_begin();
    }
    if (status & S_ANNOUNCE) {
        print("announce\n");
        if (me)
            send_arp(1, NULL, me);
        acknowledge();
    }
}

/* ---- the serial port ---- */

static char line[LINE];

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 32) - 'a' + 10);
}

static void send_raw(const char *hex)
{
    uint8_t *f = tx_begin(NULL, 0);
    unsigned n = 0;

    CHECK(f, "no frame is free");
    for (; hex[0] > ' ' && hex[1] > ' ' && n < LINE / 2; hex += 2)
        f[n++] = (uint8_t)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
    tx_send(f, n);
    print("raw done size=%u\n", n);
}

/* The rest of a line that begins with the word; NULL: it does not. */
static const char *after(const char *word)
{
    size_t n = text_length(word);

    if (memcmp(line, word, n) || (line[n] && line[n] != ' '))
        return NULL;
    return line + n + (line[n] == ' ');
}

static bool start_job(void)
{
    static const struct {
        const char *word;
        Kind kind;
    } words[] = {{"ping", PING}, {"echo", ECHO}, {"rtt", RTT}, {"flood", FLOOD}};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        const char *rest = after(words[i].word);
        uint32_t peer, total, size;

        if (!rest)
            continue;
        peer = parse_address(rest, &rest);
        rest += *rest == ' ';
        total = (uint32_t)parse_number(rest, &rest);
        rest += *rest == ' ';
        size = (uint32_t)parse_number(rest, &rest);
        CHECK(words[i].kind != FLOOD || (size >= 60 && size + NET_HEADER <= BIG), "size");
        job_begin(words[i].kind, words[i].word, peer, total, size);
        return true;
    }
    return false;
}

static void eject(void)
{
    uint32_t slots;

    do
        slots = inl(HOTPLUG_DOWN);
    while (!slots);
    outl(HOTPLUG_EJECT, slots);
    print("eject done\n");
}

/* False: to quit. */
static bool obey(void)
{
    if (start_job())
        return true;
    if (after("raw")) {
        send_raw(after("raw"));
    } else if (after("dhcp")) {
        dhcp_begin();
    } else if (after("count")) {
        print("count frames=%lu bytes=%lu ticks=%lu\n", counted.frames, counted.bytes,
              counted.last - counted.first);
        memset(&counted, 0, sizeof(counted));
    } else if (after("address")) {
        print_address("address ", me);
        print(" mac=%02x:%02x:%02x:%02x:%02x:%02x\n", mac[0], mac[1], mac[2], mac[3],
              mac[4], mac[5]);
    } else if (after("eject")) {
        eject();
    } else if (after("stop")) {
        if (job.kind != IDLE)
            job_end("done");
    } else if (after("quit")) {
        return false;
    } else {
        print("what is '%s'?\n", line);
    }
    return true;
}

/* A line waits until what is being done is done, unless it is to end that. */
static bool serial_turn(void)
{
    static unsigned n;
    static bool whole;

    while (!whole && inb(COM1 + COM_LSR) & LSR_RX) {
        char c = (char)inb(COM1);

        whole = c == '\n' || n == LINE - 1;
        line[n++] = whole ? '\0' : c;
    }
    if (!whole || (job.kind != IDLE && !text_equal(line, "stop")))
        return true;
    whole = false;
    n = 0;
    return obey();
}

/* ---- all together ---- */

static void start(void)
{
    uint64_t tso = arg_number("tso", 0) ? F_TSO : 0;

    dev = virtio_find(VIRTIO_NET, (unsigned)arg_number("dev", 0));
    virtio_start(dev, best_ring_mode(dev) | F_MAC | F_MTU | F_STATUS | F_CTRL_VQ |
                          F_ANNOUNCE | tso);
    for (unsigned i = 0; i < 6; i++)
        mac[i] = dev->config[i];
    frame_size = dev->features & F_GUEST_TSO4 ? BIG : SMALL;
    virtq_init(&rx, dev, 0, RX_BUFFERS);
    virtq_init(&tx, dev, 1, 0);
    if (dev->features & F_CTRL_VQ)
        virtq_init(&ctrl, dev, 2, 0);
    virtio_driver_ok(dev);
    for (unsigned i = 0; i < RX_BUFFERS; i++) {
        Buffer buffer = {alloc(frame_size, 64), frame_size, true};

        virtq_add(&rx, &buffer, 1, buffer.at);
    }
    virtq_kick(&rx);
    while (n_tx_free < TX_FRAMES) {
        tx_free[n_tx_free] = tx_small[n_tx_free];
        n_tx_free++;
    }
    big = alloc(BIG, 64);
    me = arg_address("ip", "0.0.0.0");
    gateway = arg_address("gw", "0.0.0.0");
    print("station mac=%02x:%02x:%02x:%02x:%02x:%02x mtu=%u tso=%u\n", mac[0], mac[1],
          mac[2], mac[3], mac[4], mac[5],
          dev->features & F_MTU ? config_read16(dev, CONFIG_MTU) : 0,
          (dev->features & F_HOST_TSO4) != 0);
}

static void wait_for_line(void)
{
    char c = 0;

    print("station waits\n");
    while (c != '\n')
        c = inb(COM1 + COM_LSR) & LSR_RX ? (char)inb(COM1) : 0;
}

static void test_station(void)
{
    if (arg_number("wait", 0))
        wait_for_line();
    start();
    if (arg_number("dhcp", 0))
        dhcp_begin();
    for (uint32_t turn = 0;; turn++) {
        rx_turn();
        tx_collect();
        job_turn();
        if (turn % LOOK_EVERY)
            continue;
        dhcp_turn();
        status_turn();
        if (!serial_turn())
            return;
    }
}

const Test tests_station[] = {
    {"station", test_station},
    {NULL, NULL},
};
