/* Cards of many VMs on one network, as hutch's own, for what they cost their switch:
 *
 *     bench_ports NETWORK PORTS
 *
 * goes through its stages, says each when it is there, and goes on at a line of input:
 *
 *     joined    nobody has sent anything
 *     talked    each in turn has sent FRAMES of SIZE bytes to the next, BURST at a time,
 *               as TCP begins, and the next when those were there
 *     full      each has filled its ring, and so has the switch those of all cards, none
 *               of which reads
 *     rested    all was read, and the rings have been empty for REST_MS
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "backend/netdev.h"
#include "network/ring.h"
#include "util/bits.h"

enum {
    FRAMES = 100,
    BURST = 10,
    SIZE = 1442,
    ETH_BYTES = 14,
    IP_BYTES = 20,
    UDP_BYTES = 8,
    REST_MS = 1000,
    GIVE_UP_MS = 60000,
    FIRST_IP = 0x0a050002, /* 10.5.0.2 */
};

typedef struct Card {
    NetDev *nd;
    struct Card *next;
    uint8_t mac[6];
    uint32_t ip;
    unsigned got, due;
    bool writable;
} Card;

static IoLoop *loop;
static Card *cards;
static unsigned n_cards;

static void on_readable(void *opaque)
{
    Card *c = opaque;
    uint8_t frame[NET_MAX_FRAME];
    const struct iovec iov = {frame, sizeof(frame)};

    while (netdev_receive(c->nd, &iov, 1) > 0)
        c->got++;
}

static void on_writable(void *opaque)
{
    ((Card *)opaque)->writable = true;
}

static void set_mac(uint8_t *mac, unsigned i)
{
    const uint8_t bytes[6] = {2, 0, 0, 1, (uint8_t)(i >> 8), (uint8_t)i};

    memcpy(mac, bytes, sizeof(bytes));
}

static bool join(Card *c, const char *network, unsigned i, GError **error)
{
    g_autofree char *vm = g_strdup_printf("vm%u", i);
    struct in_addr at = {htonl(FIRST_IP + i)};
    char *ip[] = {inet_ntoa(at), NULL};
    NetDevCard card = {.vm = vm, .id = "net0", .queues = 1};
    NetDevOptions o = {
        .type = NETDEV_NETWORK, .queues = 1, .network = (char *)network, .ip = ip};

    set_mac(c->mac, i);
    set_mac(card.mac, i);
    c->ip = FIRST_IP + i;
    c->nd = netdev_open(&o, &card, loop, error);
    if (!c->nd)
        return false;
    netdev_set_handlers(c->nd, on_readable, on_writable, c);
    netdev_set_reading(c->nd, true);
    return true;
}

static uint16_t ip_checksum(const uint8_t *header)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < IP_BYTES; i += 2)
        sum += load_be16(header + i);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t) ~(sum + (sum >> 16));
}

/* A UDP datagram without a checksum, to the next. */
static bool send_one(Card *c)
{
    uint8_t bytes[NET_HDR_LEN + SIZE] = {0}, *f = bytes + NET_HDR_LEN,
                                *ip = f + ETH_BYTES, *udp = ip + IP_BYTES;
    const struct iovec iov = {bytes, sizeof(bytes)};

    memcpy(f, c->next->mac, 6);
    memcpy(f + 6, c->mac, 6);
    store_be16(f + 12, 0x0800);
    ip[0] = 0x45;
    store_be16(ip + 2, SIZE - ETH_BYTES);
    ip[8] = 64;
    ip[9] = 17;
    store_be32(ip + 12, c->ip);
    store_be32(ip + 16, c->next->ip);
    store_be16(ip + 10, ip_checksum(ip));
    store_be16(udp, 1000);
    store_be16(udp + 2, 2000);
    store_be16(udp + 4, SIZE - ETH_BYTES - IP_BYTES);
    return netdev_send(c->nd, &iov, 1);
}

static void on_time(void *opaque)
{
    ioloop_quit(loop);
}

static void run_ms(unsigned ms)
{
    IoTimer timer = {0};

    ioloop_timer(loop, &timer, clock_ns() + ms * 1000000ll, on_time, NULL);
    ioloop_run(loop);
    ioloop_timer_cancel(&timer);
}

static bool until(const Card *c, bool (*met)(const Card *c))
{
    for (unsigned ms = 0; ms < GIVE_UP_MS; ms++) {
        if (met(c))
            return true;
        run_ms(1);
    }
    fprintf(stderr, "bench_ports: frames do not arrive\n");
    return false;
}

static bool has_all(const Card *c)
{
    return c->got >= c->due;
}

static bool talk(void)
{
    for (unsigned i = 0; i < n_cards; i++) {
        Card *to = cards[i].next;

        for (to->got = 0, to->due = BURST; to->due <= FRAMES; to->due += BURST) {
            for (unsigned k = 0; k < BURST; k++)
                send_one(&cards[i]);
            netdev_flush(cards[i].nd);
            if (!until(to, has_all))
                return false;
        }
    }
    return true;
}

static bool has_room(const Card *c)
{
    return c->writable;
}

static bool fill(void)
{
    for (unsigned i = 0; i < n_cards; i++) {
        netdev_set_reading(cards[i].nd, false);
        cards[i].writable = false;
    }
    for (unsigned i = 0; i < n_cards; i++) {
        while (send_one(&cards[i]))
            ;
        netdev_flush(cards[i].nd);
    }
    for (unsigned i = 0; i < n_cards; i++)
        if (!until(&cards[i], has_room))
            return false;
    return true;
}

static bool rest(void)
{
    for (unsigned i = 0; i < n_cards; i++)
        netdev_set_reading(cards[i].nd, true);
    run_ms(REST_MS);
    return true;
}

static bool say(const char *stage)
{
    printf("%s\n", stage);
    fflush(stdout);
    return getchar() != EOF;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    bool fine = true;

    if (argc != 3) {
        fprintf(stderr, "usage: bench_ports NETWORK PORTS\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    n_cards = (unsigned)g_ascii_strtoull(argv[2], NULL, 10);
    cards = g_new0(Card, n_cards);
    loop = ioloop_new(&error);
    for (unsigned i = 0; loop && fine && i < n_cards; i++) {
        cards[i].next = &cards[(i + 1) % n_cards];
        fine = join(&cards[i], argv[1], i, &error);
    }
    if (!loop || !fine)
        fprintf(stderr, "bench_ports: %s\n", error->message);
    else
        fine = say("joined") && talk() && say("talked") && fill() && say("full") &&
               rest() && say("rested");
    for (unsigned i = 0; i < n_cards; i++)
        netdev_close(cards[i].nd);
    ioloop_free(loop);
    g_free(cards);
    return !fine;
}
