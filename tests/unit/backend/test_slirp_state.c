/* User-mode networking in a saved state: leases are kept, and the guest's connections,
 * whose host side is gone, are reset when it goes on. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/state_tables.h"
#include "src/net/slirp_private.h"
#include "tests/unit/backend/slirp_wire.h"

enum { GUEST_PORT = 5000, FIRST_SEQ = 99 };

static bool any_udp(const Pkt *p)
{
    return is_ip4(p, IPPROTO_UDP);
}

static bool any_tcp(const Pkt *p)
{
    return is_ip4(p, IPPROTO_TCP);
}

static bool tcp_or_arp(const Pkt *p)
{
    return any_tcp(p) || is_arp(p, 1);
}

static GBytes *save(Wire *w)
{
    StateWriter *writer = state_writer_new();
    GError *error = NULL;
    GBytes *state;

    netdev_save(w->nd, "net0/user", writer);
    state = state_writer_end(writer, &error);
    g_assert_no_error(error);
    return state;
}

static void load(Wire *w, GBytes *state)
{
    GError *error = NULL;
    g_autoptr(StateReader) r = state_reader_new(state, &error);

    netdev_load(w->nd, "net0/user", r, &error);
    g_assert_no_error(error);
    state_reader_done(r, &error);
    g_assert_no_error(error);
}

/* Another process's network, with that state. */
static void restore(Wire *w)
{
    g_autoptr(GBytes) before = save(w), after = NULL;

    wire_close(w);
    wire_open(w, (NetDevOptions){0});
    load(w, before);
    after = save(w);
    g_assert_true(g_bytes_equal(before, after));
    netdev_restored(w->nd);
}

static UserState *look(Wire *w)
{
    UserState *s = g_new0(UserState, 1);
    g_autoptr(GBytes) state = save(w);
    g_autoptr(StateReader) r = state_reader_new(state, NULL);
    GError *error = NULL;

    state_get(r, "net0/user", &netdev_user_state_table, s, &error);
    g_assert_no_error(error);
    return s;
}

static unsigned n_flows(Wire *w)
{
    g_autofree UserState *s = look(w);

    return s->n_flows;
}

/* ---- leases -------------------------------------------------------------------------
 */

static void a_lease_is_kept(void)
{
    static const uint8_t other[6] = {2, 0, 0, 0, 0, 7};
    g_autofree UserState *s = NULL;
    unsigned len;
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    for (unsigned i = 0; i < 3; i++) {
        send_frame(&w, dhcp(1));
        expect(&w, any_udp);
        send_frame(&w, dhcp(3));
        expect(&w, any_udp);
        g_assert_cmpuint(*dhcp_option(&w.got, 53, &len), ==, 5);
        g_assert_cmphex(get32(w.got.b + ETH + IP + UDP + 16), ==, GUEST);
        restore(&w);
    }
    s = look(&w);
    g_assert_true(s->lease[0].taken);
    g_assert_cmpmem(s->lease[0].mac, 6, guest_mac, 6);
    g_assert_false(s->lease[1].taken);
    g_assert_cmpmem(s->guest_mac, 6, guest_mac, 6);

    /* It is libslirp that knows it: with the first lease another's, this guest gets the
     * second. */
    memcpy(s->lease[0].mac, other, 6);
    {
        StateWriter *writer = state_writer_new();
        g_autoptr(GBytes) state = NULL;

        state_put(writer, "net0/user", &netdev_user_state_table, s);
        state = state_writer_end(writer, NULL);
        wire_close(&w);
        wire_open(&w, (NetDevOptions){0});
        load(&w, state);
    }
    send_frame(&w, dhcp(1));
    expect(&w, any_udp);
    g_assert_cmphex(get32(w.got.b + ETH + IP + UDP + 16), ==, GUEST + 1);
    wire_close(&w);
}

/* ---- connections --------------------------------------------------------------------
 */

/* The guest's connection to a port of the host, with one word said; the next sequence
 * numbers of both. */
static void connect_guest(Wire *w, unsigned sport, uint16_t port, uint32_t *ret_seq,
                          uint32_t *ret_ack)
{
    send_frame(w, arp(1, GUEST, HOST));
    send_frame(w, tcp(sport, HOST, port, TCP_SYN, FIRST_SEQ, 0, ""));
    expect(w, any_tcp);
    g_assert_cmpuint(l4(&w->got)[13], ==, TCP_SYN | TCP_ACK);
    *ret_ack = get32(l4(&w->got) + 4) + 1;
    *ret_seq = FIRST_SEQ + 1 + 5;
    send_frame(
        w, tcp(sport, HOST, port, TCP_ACK | TCP_PSH, FIRST_SEQ + 1, *ret_ack, "knock"));
    expect(w, any_tcp);
}

/* The next TCP segment; whom libslirp asks for by ARP, answers. */
static void hear(Wire *w)
{
    expect(w, tcp_or_arp);
    while (is_arp(&w->got, 1)) {
        send_frame(w, arp(2, GUEST, HOST));
        expect(w, tcp_or_arp);
    }
}

static void a_restored_guest_loses_its_connections_at_once(void)
{
    uint16_t port;
    autofd server = host_socket(SOCK_STREAM, &port);
    uint32_t seq, ack;
    Wire w;

    g_assert_cmpint(server, >=, 0);
    wire_open(&w, (NetDevOptions){0});
    connect_guest(&w, GUEST_PORT, port, &seq, &ack);
    g_assert_cmpuint(n_flows(&w), ==, 1);
    restore(&w);

    hear(&w); /* what a peer sends that looks whether we are there */
    g_assert_cmpmem(w.got.b, 6, guest_mac, 6);
    g_assert_cmpuint(get16(l4(&w.got)), ==, port);
    g_assert_cmpuint(get16(l4(&w.got) + 2), ==, GUEST_PORT);
    g_assert_cmpuint(l4(&w.got)[13], ==, TCP_ACK);
    g_assert_cmphex(get32(l4(&w.got) + 4), ==, ack - 1);
    g_assert_cmphex(get32(l4(&w.got) + 8), ==, seq);
    g_assert_cmphex(get32(w.got.b + ETH + 12), ==, HOST);
    g_assert_cmphex(fold(sum16(w.got.b + ETH, IP, 0)), ==, 0);
    g_assert_cmphex(l4_sum(&w.got, TCP), ==, 0);
    g_assert_cmpuint(n_flows(&w), ==, 1); /* until it is told */

    send_frame(&w, tcp(GUEST_PORT, HOST, port, TCP_ACK, seq, ack, ""));
    hear(&w);
    g_assert_true(l4(&w.got)[13] & TCP_RST);
    g_assert_cmphex(get32(l4(&w.got) + 4), ==, ack); /* so that the guest takes it */
    g_assert_cmpuint(n_flows(&w), ==, 0);

    connect_guest(&w, GUEST_PORT + 1, port, &seq, &ack); /* and new ones are made */
    wire_close(&w);
}

static void a_connection_that_is_over_is_not_asked_for(void)
{
    uint16_t port;
    autofd server = host_socket(SOCK_STREAM, &port);
    uint32_t seq, ack;
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    connect_guest(&w, GUEST_PORT, port, &seq, &ack);
    send_frame(&w, tcp(GUEST_PORT, HOST, port, TCP_RST | TCP_ACK, seq, ack, ""));
    g_assert_cmpuint(n_flows(&w), ==, 0);

    connect_guest(&w, GUEST_PORT + 1, port, &seq, &ack);
    {
        autofd first = accept(server, NULL, NULL);
        autofd conn = accept(server, NULL, NULL);

        g_assert_cmpint(first, >=, 0);
        g_assert_cmpint(conn, >=, 0);
    }
    for (unsigned i = 0; i < 3 && !(l4(&w.got)[13] & (TCP_FIN | TCP_RST)); i++)
        expect(&w, any_tcp);
    ack = get32(l4(&w.got) + 4) + 1;
    send_frame(&w, tcp(GUEST_PORT + 1, HOST, port, TCP_FIN | TCP_ACK, seq, ack, ""));
    g_assert_cmpuint(n_flows(&w), ==, 0);
    wire_close(&w);
}

/* ---- Linux as the guest -------------------------------------------------------------
 */

static int tap_fd = -1, tcp_fd = -1;

static bool set_up(int sock, struct ifreq *ifr)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(GUEST)};

    memcpy(&ifr->ifr_addr, &a, sizeof(a));
    if (ioctl(sock, SIOCSIFADDR, ifr) < 0)
        return false;
    a.sin_addr.s_addr = htonl(0xffffff00);
    memcpy(&ifr->ifr_netmask, &a, sizeof(a));
    if (ioctl(sock, SIOCSIFNETMASK, ifr) < 0)
        return false;
    ifr->ifr_flags = IFF_UP;
    return ioctl(sock, SIOCSIFFLAGS, ifr) == 0;
}

/* In a thread, which alone moves into a network of its own: a card of the kernel's, and a
 * socket there.  What is not permitted leaves tcp_fd at -1. */
static void *make_guest(void *opaque)
{
    struct ifreq ifr = {.ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    int sock;

    if (unshare(CLONE_NEWNET) < 0)
        return NULL;
    tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (tap_fd >= 0 && ioctl(tap_fd, TUNSETIFF, &ifr) == 0 && set_up(sock, &ifr))
        tcp_fd = sock;
    return NULL;
}

static bool to_guest(const Pkt *p)
{
    g_assert_cmpint(write(tap_fd, p->b, p->len), ==, (ssize_t)p->len);
    return false;
}

static void from_guest(void *opaque, uint32_t events)
{
    Pkt p = {0};
    ssize_t n = read(tap_fd, p.b, sizeof(p.b));

    if (n > 0) {
        p.len = (size_t)n;
        send_frame(opaque, p);
    }
}

/* Until the guest's socket shows one of these, five seconds at most. */
static short run_guest(Wire *w, short events)
{
    struct pollfd fd = {.fd = tcp_fd, .events = events};
    IoWatch watch = {0};

    g_assert_true(ioloop_watch(w->loop, &watch, tap_fd, EPOLLIN, from_guest, w, NULL));
    for (unsigned i = 0; i < 250 && poll(&fd, 1, 0) == 0; i++)
        await(w, to_guest, 20);
    ioloop_unwatch(&watch);
    return fd.revents;
}

/* It only waits for what its peer says, and would do so for ever. */
static void linux_takes_the_reset(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(HOST)};
    socklen_t len = sizeof(int);
    pthread_t thread;
    uint16_t port;
    autofd server = host_socket(SOCK_STREAM, &port);
    int error = 0;
    Wire w;

    g_assert_cmpint(pthread_create(&thread, NULL, make_guest, NULL), ==, 0);
    pthread_join(thread, NULL);
    if (tcp_fd < 0) {
        fd_close(&tap_fd);
        g_test_skip("no permission to make a network, or a tap in it");
        return;
    }
    to.sin_port = htons(port);
    g_assert_cmpint(connect(tcp_fd, (struct sockaddr *)&to, sizeof(to)), <, 0);
    g_assert_cmpint(errno, ==, EINPROGRESS);
    wire_open(&w, (NetDevOptions){0});
    g_assert_cmpint(run_guest(&w, POLLOUT), ==, POLLOUT);
    autofd conn = accept(server, NULL, NULL);
    g_assert_cmpint(send(conn, "word", 4, 0), ==, 4);
    g_assert_cmpint(run_guest(&w, POLLIN), ==, POLLIN);
    g_assert_cmpint(recv(tcp_fd, (char[4]){0}, 4, 0), ==, 4);

    restore(&w);
    g_assert_true(run_guest(&w, POLLIN) & POLLERR);
    getsockopt(tcp_fd, SOL_SOCKET, SO_ERROR, &error, &len);
    g_assert_cmpint(error, ==, ECONNRESET);
    wire_close(&w);
    fd_close(&tcp_fd);
    fd_close(&tap_fd);
}

/* ---- flows by themselves ------------------------------------------------------------
 */

static void put_ip6(Pkt *p, const uint8_t from[16], const uint8_t to[16])
{
    uint8_t *h = p->b + ETH;

    eth(p, host_mac, ETH_IP6);
    h[0] = 0x60;
    put16(h + 4, TCP);
    h[6] = IPPROTO_TCP;
    memcpy(h + 8, from, 16);
    memcpy(h + 24, to, 16);
    p->len = ETH + IP6 + TCP;
}

static void ipv6_connections_are_asked_for_too(void)
{
    const uint8_t guest[16] = {0xfe, 0xc0, [15] = 0x15}, peer[16] = {0x20, 1, [15] = 9};
    g_autofree SlirpFlows *f = g_new0(SlirpFlows, 1);
    SlirpFlow list[SLIRP_MAX_FLOWS];
    uint8_t probe[SLIRP_PROBE_LEN], *h = probe + ETH;
    Pkt p;

    put_ip6(&p, guest, peer);
    put16(p.b + ETH + IP6, 4000);
    put16(p.b + ETH + IP6 + 2, 443);
    put32(p.b + ETH + IP6 + 4, 7);
    put32(p.b + ETH + IP6 + 8, 0);
    p.b[ETH + IP6 + 12] = 5 << 4;
    p.b[ETH + IP6 + 13] = TCP_ACK;
    slirp_flows_sent(f, p.b, p.len);
    g_assert_cmpuint(slirp_flows_list(f, list), ==, 1);
    g_assert_cmpuint(slirp_flow_probe(f, &list[0], probe), ==, SLIRP_PROBE_LEN);
    g_assert_cmpuint(get16(probe + 12), ==, ETH_IP6);
    g_assert_cmpmem(h + 8, 16, peer, 16);
    g_assert_cmpmem(h + 24, 16, guest, 16);
    g_assert_cmphex(get32(h + IP6 + 4), ==, UINT32_MAX);
    g_assert_cmphex(fold(sum16(h + 8, 32, sum16(h + IP6, TCP, IPPROTO_TCP + TCP))), ==,
                    0);
}

static void the_table_is_bounded_whatever_the_guest_sends(void)
{
    g_autofree SlirpFlows *f = g_new0(SlirpFlows, 1);
    SlirpFlow list[SLIRP_MAX_FLOWS];

    for (unsigned i = 0; i < 50000; i++) {
        Pkt p = tcp(i & 0xffff, HOST + i % 3, 80 + i / 7 % 100, TCP_ACK, i, i, "");

        if (i % 5 == 0)
            for (unsigned k = 0; k < 4; k++)
                p.b[g_test_rand_int_range(0, (int)p.len)] = (uint8_t)g_test_rand_int();
        p.len = i % 11 ? p.len : (size_t)g_test_rand_int_range(0, (int)p.len);
        slirp_flows_sent(f, p.b, p.len);
        slirp_flows_received(f, p.b, p.len);
    }
    g_assert_cmpuint(slirp_flows_list(f, list), >, SLIRP_MAX_FLOWS / 2);
}

/* ---- hostile states -----------------------------------------------------------------
 */

static void any_state_is_survived_and_costs_no_more_than_its_frames(void)
{
    g_autofree UserState *s = g_new0(UserState, 1);
    StateWriter *writer = state_writer_new();
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;
    Wire w;

    s->n_flows = SLIRP_MAX_FLOWS;
    for (unsigned i = 0; i < SLIRP_MAX_FLOWS; i++) {
        SlirpFlow *f = &s->flow[i];

        *f = (SlirpFlow){.seq = (uint32_t)g_test_rand_int(),
                         .ack = (uint32_t)g_test_rand_int(),
                         .guest_port = (uint16_t)g_test_rand_int(),
                         .peer_port = (uint16_t)g_test_rand_int(),
                         .used = i % 3,
                         .ipv6 = i % 2};
        for (unsigned k = 0; k < 16; k++)
            f->guest[k] = f->peer[k] = (uint8_t)g_test_rand_int();
    }
    for (unsigned i = 0; i < SLIRP_LEASES; i++)
        s->lease[i] = (SlirpLease){.mac = {(uint8_t)i, 255, 1}, .taken = true};
    state_put(writer, "net0/user", &netdev_user_state_table, s);
    state = state_writer_end(writer, &error);
    g_assert_no_error(error);

    wire_open(&w, (NetDevOptions){0});
    load(&w, state);
    netdev_restored(w.nd);
    await(&w, any_udp, 100); /* which none is */
    g_assert_cmpuint(w.n_got, >, SLIRP_MAX_FLOWS / 2);
    g_assert_cmpuint(w.n_got, <=, SLIRP_MAX_FLOWS);
    wire_close(&w);
}

/* A tap took the user network's place: what the state says of it is of no use. */
static void the_section_is_read_by_whatever_has_its_place(void)
{
    g_autoptr(GBytes) state = NULL;
    Wire w;

    wire_open(&w, (NetDevOptions){.ipv6 = true});
    state = save(&w);
    wire_close(&w);
    wire_open(&w, (NetDevOptions){.restrict_ = true});
    load(&w, state);
    wire_close(&w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_FATAL_MASK);
#define add(name) g_test_add_func("/slirp-state/" #name, name)
    add(a_lease_is_kept);
    add(a_restored_guest_loses_its_connections_at_once);
    add(a_connection_that_is_over_is_not_asked_for);
    add(linux_takes_the_reset);
    add(ipv6_connections_are_asked_for_too);
    add(the_table_is_bounded_whatever_the_guest_sends);
    add(any_state_is_survived_and_costs_no_more_than_its_frames);
    add(the_section_is_read_by_whatever_has_its_place);
    return g_test_run();
}
