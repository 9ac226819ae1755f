/* Several queues of a tap (src/net/tap_queues.c), with the kernel's own steering: what of
 * it a card relies on.  Each test is in a network namespace of its own (tap_host.h). */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/netdev.h"
#include "tap_host.h"
#include "util/bits.h"
#include "util/log.h"

enum { QUEUES = 3, FLOWS = 60, GUEST_PORT = 5000 };

/* ---- frames: UDP from host to guest, or back; flows differ in the guest's port --------
 */

typedef struct Frame {
    uint8_t header[NET_HDR_LEN];
    uint8_t b[60];
} Frame;

static Frame make_frame(unsigned flow, bool from_guest)
{
    static const uint8_t eth_ip[] = {
        255,  255, 255, 255, 255, 255, 2, 0, 0,  0,  0, 1, 8,  0, /* Ethernet */
        0x45, 0,   0,   46,  0,   0,   0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
    Frame f = {0};

    memcpy(f.b, eth_ip, sizeof(eth_ip));
    store_be16(f.b + (from_guest ? 34 : 36), GUEST_PORT + flow);
    store_be16(f.b + (from_guest ? 36 : 34), 80);
    store_be16(f.b + 38, 26);
    if (from_guest) {
        f.b[29] = 2;
        f.b[33] = 1;
    }
    return f;
}

typedef struct Host {
    IoLoop *loop;
    NetDev *nd;
    int packets;
} Host;

static void open_queues(Host *h, const char *ifname, unsigned queues)
{
    NetDevOptions o = {.type = NETDEV_TAP, .ifname = (char *)ifname, .queues = queues};
    const NetDevCard card = {.id = "net0", .mac = {2, 0, 0, 0, 0, 1}, .queues = queues};
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_IP)};
    GError *error = NULL;

    h->loop = ioloop_new(&error);
    h->nd = netdev_open(&o, &card, h->loop, &error);
    g_assert_no_error(error);
    h->packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, a.sll_protocol);
    a.sll_ifindex = (int)if_nametoindex(ifname);
    g_assert_cmpint(bind(h->packets, (struct sockaddr *)&a, sizeof(a)), ==, 0);
}

static void close_queues(Host *h)
{
    netdev_close(h->nd);
    ioloop_free(h->loop);
    fd_close(&h->packets);
}

static void host_sends(const Host *h, unsigned flow)
{
    Frame f = make_frame(flow, false);

    g_assert_cmpint(send(h->packets, f.b, sizeof(f.b), 0), ==, sizeof(f.b));
}

static void guest_sends(const Host *h, unsigned queue, unsigned flow)
{
    Frame f = make_frame(flow, true);
    struct iovec iov = {&f, sizeof(f)};

    g_assert_true(netdev_send(netdev_queue(h->nd, queue), &iov, 1));
}

/* The flow of the next frame of ours that waits in a queue; -1: none does. */
static int next_in(const Host *h, unsigned queue)
{
    Frame f;
    struct iovec iov = {&f, sizeof(f)};
    ssize_t len;

    while ((len = netdev_receive(netdev_queue(h->nd, queue), &iov, 1))) {
        if (len == sizeof(f) && f.b[23] == 17 && load_be16(f.b + 34) == 80)
            return load_be16(f.b + 36) - GUEST_PORT;
    }
    return -1;
}

/* The queue that a frame of the host comes by; QUEUES: none, or another's came first. */
static unsigned comes_by(const Host *h, unsigned flow)
{
    unsigned by = QUEUES;

    host_sends(h, flow);
    for (unsigned i = 0; i < netdev_queues(h->nd); i++)
        for (int got; (got = next_in(h, i)) >= 0;)
            by = got == (int)flow && by == QUEUES ? i : QUEUES + 1;
    return by;
}

/* ---- promises ---------------------------------------------------------------------- */

static void spread_body(void)
{
    unsigned by[QUEUES] = {0};
    Host h;

    open_queues(&h, "hutch0", QUEUES);
    g_assert_cmpuint(netdev_queues(h.nd), ==, QUEUES);
    for (unsigned i = 0; i < FLOWS; i++) /* before a driver uses its pairs */
        g_assert_cmpuint(comes_by(&h, i), ==, 0);
    g_assert_true(netdev_use_queues(h.nd, QUEUES));
    for (unsigned i = 0; i < FLOWS; i++) {
        unsigned queue = comes_by(&h, i);

        g_assert_cmpuint(queue, <, QUEUES);
        by[queue]++;
        g_assert_cmpuint(comes_by(&h, i), ==, queue);
    }
    for (unsigned i = 0; i < QUEUES; i++)
        g_assert_cmpuint(by[i], >=, 5);
    g_assert_true(netdev_use_queues(h.nd, 2));
    for (unsigned i = 0; i < FLOWS; i++)
        g_assert_cmpuint(comes_by(&h, i), <, 2);
    g_assert_true(netdev_use_queues(h.nd, 1));
    for (unsigned i = 0; i < FLOWS; i++)
        g_assert_cmpuint(comes_by(&h, i), ==, 0);
    close_queues(&h);
    g_assert_cmpuint(if_nametoindex("hutch0"), ==, 0);
}

static void frames_are_spread_over_the_queues_in_use(void)
{
    in_namespace(spread_body);
}

static void back_body(void)
{
    Host h;

    open_queues(&h, "hutch0", QUEUES);
    g_assert_true(netdev_use_queues(h.nd, QUEUES));
    for (unsigned i = 0; i < FLOWS; i++) {
        guest_sends(&h, i % QUEUES, i);
        g_assert_cmpuint(comes_by(&h, i), ==, i % QUEUES);
    }
    close_queues(&h);
}

static void a_flow_comes_back_by_the_queue_that_sent_it(void)
{
    in_namespace(back_body);
}

/* All of them send at any time: a driver may have sent before it gave a queue up. */
static void sent_body(void)
{
    Host h;

    open_queues(&h, "hutch0", QUEUES);
    for (unsigned used = 1; used <= QUEUES; used++) {
        g_assert_true(netdev_use_queues(h.nd, used));
        for (unsigned i = 0; i < QUEUES; i++) {
            Frame f = make_frame(i, true);
            uint8_t buf[sizeof(f.b)];

            guest_sends(&h, i, i);
            g_assert_cmpint(recv(h.packets, buf, sizeof(buf), 0), ==, sizeof(buf));
            g_assert_cmpmem(buf, sizeof(buf), f.b, sizeof(f.b));
        }
    }
    close_queues(&h);
}

static void every_queue_sends(void)
{
    in_namespace(sent_body);
}

static void made_by_another_body(void)
{
    const int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    Host h;

    log_set_level(LOG_ERROR); /* the warnings: it has one queue, it is down */
    administrator_makes("tap1", flags, -1);
    administrator_makes("tap4", flags | IFF_MULTI_QUEUE, -1);
    open_queues(&h, "tap1", QUEUES);
    g_assert_cmpuint(netdev_queues(h.nd), ==, 1);
    g_assert_false(netdev_use_queues(h.nd, QUEUES));
    g_assert_true(netdev_use_queues(h.nd, 1));
    close_queues(&h);
    for (unsigned i = 0; i < 2; i++) { /* as it was after it was used */
        open_queues(&h, "tap4", QUEUES);
        g_assert_cmpuint(netdev_queues(h.nd), ==, QUEUES);
        g_assert_true(netdev_use_queues(h.nd, QUEUES));
        close_queues(&h);
    }
    g_assert_cmpuint(if_nametoindex("tap4"), !=, 0);
}

static void an_interface_of_somebody_elses_has_the_queues_it_was_made_with(void)
{
    in_namespace(made_by_another_body);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define add(name) g_test_add_func("/tap-queues/" #name, name)
    add(frames_are_spread_over_the_queues_in_use);
    add(a_flow_comes_back_by_the_queue_that_sent_it);
    add(every_queue_sends);
    add(an_interface_of_somebody_elses_has_the_queues_it_was_made_with);
    return g_test_run();
}
