/* User-mode networking (src/net/slirp*.c), seen from both ends: frames of a guest made up
 * here, and sockets of the host. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/backend/slirp_wire.h"
#include "util/fd.h"

/* ---- what frames are waited for -------------------------------------------------------
 */

static bool arp_reply(const Pkt *p)
{
    return is_arp(p, 2);
}

static bool arp_request(const Pkt *p)
{
    return is_arp(p, 1) && get32(p->b + ETH + 24) == GUEST;
}

static bool any_udp(const Pkt *p)
{
    return is_ip4(p, IPPROTO_UDP);
}

static bool any_tcp(const Pkt *p)
{
    return is_ip4(p, IPPROTO_TCP);
}

static bool tcp_payload(const Pkt *p)
{
    const uint8_t *data;

    return any_tcp(p) && tcp_data(p, &data) > 0;
}

static bool echo_reply(const Pkt *p)
{
    return is_ip4(p, IPPROTO_ICMP) && l4(p)[0] == 0;
}

static bool router_advert(const Pkt *p)
{
    return get16(p->b + 12) == ETH_IP6 && p->b[ETH + IP6] == 134;
}

static bool neighbour_advert(const Pkt *p)
{
    return get16(p->b + 12) == ETH_IP6 && p->b[ETH + IP6] == 136;
}

/* ---- the guest's network --------------------------------------------------------------
 */

static void dhcp_gives_address_router_names_and_host_name(void)
{
    Wire w;
    const uint8_t *o;
    unsigned len;

    wire_open(&w, (NetDevOptions){.ipv6 = true, .hostname = (char *)"burrow"});
    for (unsigned type = 1; type <= 3; type += 2) {
        send_frame(&w, dhcp(type));
        expect(&w, any_udp);
        g_assert_cmphex(get32(l4(&w.got) + UDP + 16), ==, GUEST); /* yiaddr */
        o = dhcp_option(&w.got, 53, &len);
        g_assert_cmpuint(o[0], ==, type == 1 ? 2 : 5); /* offer, ack */
    }
    o = dhcp_option(&w.got, 3, &len);
    g_assert_cmphex(get32(o), ==, HOST);
    o = dhcp_option(&w.got, 6, &len);
    g_assert_cmphex(get32(o), ==, NAMES);
    o = dhcp_option(&w.got, 12, &len);
    g_assert_cmpmem(o, len, "burrow", 6);
    wire_close(&w);
}

static void arp_and_ping_reach_the_router(void)
{
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, HOST));
    expect(&w, arp_reply);
    g_assert_cmpmem(w.got.b + ETH + 8, 6, host_mac, 6);
    send_frame(&w, ping(HOST, 7));
    expect(&w, echo_reply);
    g_assert_cmpuint(get16(l4(&w.got) + 6), ==, 7);
    wire_close(&w);
}

static void ipv6_has_a_router_and_can_be_turned_off(void)
{
    static const uint8_t rs[4];
    static const uint8_t ns[28] = {[4] = 0xfe, [5] = 0xc0, [19] = 2, 1,    1,   0x52,
                                   0x54,       0,          0x12,     0x34, 0x56};
    const uint8_t *m;
    Wire w;

    wire_open(&w, (NetDevOptions){.ipv6 = true});
    send_frame(&w, icmp6("ff02::2", 133, rs, sizeof(rs)));
    expect(&w, router_advert);
    m = w.got.b + ETH + IP6 + 16;
    while (m[0] != 3) { /* prefix information, RFC 4861, 4.6.2 */
        g_assert_true(m[1] && m + m[1] * 8 < w.got.b + w.got.len);
        m += m[1] * 8;
    }
    g_assert_cmpuint(m[2], ==, 64);
    g_assert_cmphex(get32(m + 16), ==, 0xfec00000);
    send_frame(&w, icmp6("ff02::1:ff00:2", 135, ns, sizeof(ns)));
    expect(&w, neighbour_advert);
    wire_close(&w);

    wire_open(&w, (NetDevOptions){.ipv6 = false});
    send_frame(&w, icmp6("ff02::2", 133, rs, sizeof(rs)));
    g_assert_false(await(&w, router_advert, 200));
    wire_close(&w);
}

/* ---- connections ----------------------------------------------------------------------
 */

static unsigned answered_port, n_answered;

static void on_answered(void *opaque, uint16_t port)
{
    answered_port = port;
    n_answered++;
}

static void a_forwarded_port_that_answers_is_told_of_once(void)
{
    uint16_t port;
    autofd busy = host_socket(SOCK_STREAM, &port);
    g_autofree char *fwd = g_strdup_printf("tcp:127.0.0.1:%u-:8080", port);
    char *list[] = {fwd, NULL};
    unsigned sport;
    uint32_t seq;
    Wire w;

    fd_close(&busy);
    n_answered = 0;
    wire_open(&w, (NetDevOptions){.hostfwd = list});
    netdev_set_answered(w.nd, on_answered);
    autofd client = host_connect(port);
    g_assert_cmpint(client, >=, 0);
    expect(&w, arp_request);
    send_frame(&w, arp(2, GUEST, HOST));
    expect(&w, any_tcp);
    sport = get16(l4(&w.got));
    seq = get32(l4(&w.got) + 4) + 1;
    send_frame(&w, tcp(9090, HOST, sport, TCP_SYN | TCP_ACK, 1000, seq, ""));
    send_frame(&w, tcp(8080, HOST, sport, TCP_RST | TCP_ACK, 1000, seq, ""));
    g_assert_cmpuint(n_answered, ==, 0);
    send_frame(&w, tcp(8080, HOST, sport, TCP_SYN | TCP_ACK, 1000, seq, ""));
    send_frame(&w, tcp(8080, HOST, sport, TCP_SYN | TCP_ACK, 1000, seq, ""));
    g_assert_cmpuint(n_answered, ==, 1);
    g_assert_cmpuint(answered_port, ==, 8080);
    wire_close(&w);
}

static void a_forwarded_connection_carries_bytes_both_ways(void)
{
    uint16_t port;
    autofd busy = host_socket(SOCK_STREAM, &port);
    g_autofree char *fwd = g_strdup_printf("tcp:127.0.0.1:%u-:8080", port);
    char *list[] = {fwd, NULL};
    const uint8_t *data;
    uint32_t seq;
    unsigned sport;
    char buf[16] = {0};
    Wire w;

    fd_close(&busy); /* its port is ours to use now */
    wire_open(&w, (NetDevOptions){.hostfwd = list});
    autofd client = host_connect(port);
    expect(&w, arp_request);
    send_frame(&w, arp(2, GUEST, HOST));
    expect(&w, any_tcp);
    g_assert_cmpuint(l4(&w.got)[13], ==, TCP_SYN);
    g_assert_cmpuint(get16(l4(&w.got) + 2), ==, 8080);
    sport = get16(l4(&w.got));
    seq = get32(l4(&w.got) + 4) + 1;
    send_frame(&w, tcp(8080, HOST, sport, TCP_SYN | TCP_ACK, 1000, seq, ""));
    expect(&w, any_tcp);
    g_assert_cmpuint(get32(l4(&w.got) + 8), ==, 1001);

    g_assert_cmpint(send(client, "hello", 5, 0), ==, 5);
    expect(&w, tcp_payload);
    g_assert_cmpmem("hello", 5, (tcp_data(&w.got, &data), data), tcp_data(&w.got, &data));
    send_frame(&w, tcp(8080, HOST, sport, TCP_ACK | TCP_PSH, 1001, seq + 5, "world"));
    expect(&w, any_tcp);
    g_assert_cmpint(recv(client, buf, sizeof(buf), 0), ==, 5);
    g_assert_cmpstr(buf, ==, "world");
    wire_close(&w);
}

static void the_guest_reaches_a_port_of_the_host(void)
{
    uint16_t port;
    autofd server = host_socket(SOCK_STREAM, &port);
    char buf[16] = {0};
    uint32_t ack;
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, HOST));
    send_frame(&w, tcp(5000, HOST, port, TCP_SYN, 99, 0, ""));
    expect(&w, any_tcp);
    g_assert_cmpuint(l4(&w.got)[13], ==, TCP_SYN | TCP_ACK);
    ack = get32(l4(&w.got) + 4) + 1;
    send_frame(&w, tcp(5000, HOST, port, TCP_ACK | TCP_PSH, 100, ack, "knock"));
    expect(&w, any_tcp);
    autofd conn = accept(server, NULL, NULL);
    g_assert_cmpint(recv(conn, buf, sizeof(buf), 0), ==, 5);
    g_assert_cmpstr(buf, ==, "knock");

    /* The host closes: the guest is told, and what it writes then does not kill us. */
    fd_close(&conn);
    expect(&w, any_tcp);
    g_assert_true(l4(&w.got)[13] & (TCP_FIN | TCP_RST));
    for (unsigned i = 0; i < 3; i++) {
        send_frame(&w, tcp(5000, HOST, port, TCP_ACK | TCP_PSH, 105 + i, ack + 1, "x"));
        run_for(&w, 20);
    }
    wire_close(&w);
}

static void datagrams_go_out_and_come_back(void)
{
    uint16_t port;
    autofd server = host_socket(SOCK_DGRAM, &port);
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    char buf[16];
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, HOST));
    send_frame(&w, udp(GUEST, 4000, HOST, port, "ping", 4));
    g_assert_cmpint(recvfrom(server, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len),
                    ==, 4);
    g_assert_cmpint(sendto(server, "pong!", 5, 0, (struct sockaddr *)&from, len), ==, 5);
    expect(&w, any_udp);
    g_assert_cmpuint(get16(l4(&w.got) + 2), ==, 4000);
    g_assert_cmpmem(l4(&w.got) + UDP, 5, "pong!", 5);
    wire_close(&w);
}

static void restrict_lets_nothing_out(void)
{
    uint16_t port;
    autofd server = host_socket(SOCK_DGRAM, &port);
    char buf[16];
    Wire w;

    wire_open(&w, (NetDevOptions){.restrict_ = true});
    send_frame(&w, dhcp(1));
    expect(&w, any_udp);
    send_frame(&w, udp(GUEST, 4000, HOST, port, "ping", 4));
    run_for(&w, 50);
    g_assert_cmpint(recv(server, buf, sizeof(buf), MSG_DONTWAIT), ==, -1);
    wire_close(&w);
}

/* A query for the root's name servers, RFC 1035. */
static const uint8_t dns_query[] = {0x12, 0x34, 1, 0, 0, 1, 0, 0, 0,
                                    0,    0,    0, 0, 0, 2, 0, 1};

static bool host_resolves(void)
{
    g_autofree char *conf = NULL;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
    struct timeval patience = {.tv_sec = 1};
    autofd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char *line, addr[64], buf[512];

    g_file_get_contents("/etc/resolv.conf", &conf, NULL, NULL);
    line = conf ? strstr(conf, "nameserver ") : NULL;
    if (!line || sscanf(line, "nameserver %63s", addr) != 1 ||
        inet_pton(AF_INET, addr, &a.sin_addr) != 1)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return sendto(fd, dns_query, sizeof(dns_query), 0, (struct sockaddr *)&a, sizeof(a)) >
               0 &&
           recv(fd, buf, sizeof(buf), 0) > 0;
}

static void names_are_asked_of_the_hosts_server(void)
{
    Wire w;

    if (!host_resolves()) {
        g_test_skip("the host's name server does not answer");
        return;
    }
    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, NAMES));
    send_frame(&w, udp(GUEST, 4001, NAMES, 53, dns_query, sizeof(dns_query)));
    expect(&w, any_udp);
    g_assert_cmphex(get16(l4(&w.got) + UDP), ==, 0x1234);
    wire_close(&w);
}

/* ---- bad options ----------------------------------------------------------------------
 */

static void bad_options_are_refused_with_their_reason(void)
{
    static const struct {
        const char *fwd, *says;
    } bad[] = {
        {"", "PROTOCOL:ADDR:PORT-ADDR:PORT"},
        {"tcp", "PROTOCOL:ADDR:PORT-ADDR:PORT"},
        {"tcp::22", "PROTOCOL:ADDR:PORT-ADDR:PORT"},
        {"sctp::2222-:22", "'sctp' is not tcp or udp"},
        {"tcp:2222-:22", "host side '2222'"},
        {"tcp::2222-22", "guest side '22'"},
        {"tcp::0-:22", "host port '0'"},
        {"tcp::65536-:22", "host port '65536'"},
        {"tcp::2222-:-1", "guest port '-1'"},
        {"tcp:localhost:2222-:22", "host address 'localhost'"},
        {"udp:1.2.3:2222-:22", "host address '1.2.3'"},
        {"udp::2222-10.0.2.300:22", "guest address '10.0.2.300'"},
        {"tcp:[::1]:2222-:22", "IPv4"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        char *list[] = {(char *)bad[i].fwd, NULL};
        NetDevOptions o = {.type = NETDEV_USER, .hostfwd = list};
        g_autoptr(GError) error = NULL;

        g_assert_false(netdev_check(&o, &error));
        g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
        g_assert_nonnull(strstr(error->message, bad[i].says));
    }
    for (unsigned i = 0; i < 2; i++) {
        NetDevOptions o = {.type = NETDEV_USER,
                           .hostname = (char *)(i ? "two words" : "")};
        g_autoptr(GError) error = NULL;

        g_assert_false(netdev_check(&o, &error));
        g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    }
}

static void a_busy_port_is_named(void)
{
    for (unsigned i = 0; i < 2; i++) {
        uint16_t port;
        autofd busy = host_socket(i ? SOCK_DGRAM : SOCK_STREAM, &port);
        g_autofree char *number = g_strdup_printf("port %u ", port);
        g_autofree char *fwd = g_strdup_printf("%s:127.0.0.1:%u-:22", i ? "udp" : "tcp",
                                               port);
        char *list[] = {fwd, NULL};
        NetDevOptions o = {.type = NETDEV_USER, .hostfwd = list};
        g_autoptr(GError) error = NULL;
        g_autoptr(IoLoop) loop = ioloop_new(NULL);

        g_assert_null(netdev_open(&o, NULL, loop, &error));
        g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
        g_assert_nonnull(strstr(error->message, number));
        g_assert_nonnull(strstr(error->message, "in use"));
        fd_close(&busy);
    }
}

/* ---- hostile, and idle ----------------------------------------------------------------
 */

static void frames_nobody_takes_are_bounded(void)
{
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    for (unsigned i = 0; i < 5000; i++)
        send_frame(&w, arp(1, GUEST, HOST));
    await(&w, NULL, 100);
    g_assert_cmpuint(w.n_got, >, 100);
    g_assert_cmpuint(w.n_got, <=, 512);
    send_frame(&w, arp(1, GUEST, HOST)); /* and it goes on */
    expect(&w, arp_reply);
    wire_close(&w);
}

static void a_frame_that_does_not_fit_is_dropped(void)
{
    uint8_t small[20];
    struct iovec iov = {small, sizeof(small)};
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    g_assert_cmpint(netdev_receive(w.nd, &iov, 1), ==, 0);
    send_frame(&w, arp(1, GUEST, HOST));
    g_assert_cmpint(netdev_receive(w.nd, &iov, 1), ==, -1);
    g_assert_cmpint(netdev_receive(w.nd, &iov, 1), ==, 0);
    wire_close(&w);
}

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void a_guest_cannot_take_all_descriptors(void)
{
    const unsigned few = 200;
    struct rlimit was, low;
    uint16_t port;
    autofd server = host_socket(SOCK_STREAM, &port);
    unsigned before = count_fds();
    Wire w;

    getrlimit(RLIMIT_NOFILE, &was);
    low = (struct rlimit){few, was.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, HOST));
    for (unsigned i = 0; i < 300; i++) {
        send_frame(&w, tcp(1024 + i, HOST, port, TCP_SYN, 1, 0, ""));
        send_frame(&w, udp(GUEST, 1024 + i, HOST, 9, "x", 1));
    }
    g_assert_cmpuint(count_fds(), <=, before + few / 2 + 8);
    send_frame(&w, ping(HOST, 1)); /* dropped, as datagrams are */
    send_frame(&w, arp(1, GUEST, NAMES));
    expect(&w, arp_reply);
    wire_close(&w);
    g_assert_cmpuint(count_fds(), ==, before);
    setrlimit(RLIMIT_NOFILE, &was);
    fd_close(&server);
}

static void an_idle_network_sleeps(void)
{
    Wire w;

    wire_open(&w, (NetDevOptions){.ipv6 = true});
    send_frame(&w, arp(1, GUEST, HOST));
    await(&w, NULL, 100);
    w.n_turns = 0;
    await(&w, NULL, 1500);
    g_assert_cmpuint(w.n_turns, <=, 3); /* one to begin, one to end */
    wire_close(&w);
}

static void datagrams_wait_on_the_host_while_the_guest_is_slow(void)
{
    enum { FLOWS = 10, EACH = 100 };
    uint16_t port;
    autofd server = host_socket(SOCK_DGRAM, &port);
    struct sockaddr_in from[FLOWS];
    char buf[16];
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, HOST));
    for (unsigned i = 0; i < FLOWS; i++) {
        socklen_t len = sizeof(from[i]);

        send_frame(&w, udp(GUEST, 4000 + i, HOST, port, "ping", 4));
        g_assert_cmpint(
            recvfrom(server, buf, sizeof(buf), 0, (struct sockaddr *)&from[i], &len), ==,
            4);
    }
    await(&w, NULL, 10);
    w.n_got = 0;
    for (unsigned i = 0; i < FLOWS * EACH; i++)
        g_assert_cmpint(sendto(server, "pong!", 5, 0, (struct sockaddr *)&from[i / EACH],
                               sizeof(from[0])),
                        ==, 5);
    run_for(&w, 50);
    g_assert_cmpuint(w.n_got, ==, 0);
    for (unsigned i = 0; i < 100 && w.n_got < FLOWS * EACH; i++)
        await(&w, NULL, 50);
    g_assert_cmpuint(w.n_got, ==, FLOWS * EACH);
    wire_close(&w);
}

/* A guest opens a connection and takes nothing of what comes. */
static void a_connection_that_is_not_read_holds_the_sender_back(void)
{
    static char data[1 << 20];
    uint16_t port;
    autofd server = host_socket(SOCK_STREAM, &port);
    size_t sent = 0;
    ssize_t n;
    Wire w;

    wire_open(&w, (NetDevOptions){0});
    send_frame(&w, arp(1, GUEST, HOST));
    send_frame(&w, tcp(5000, HOST, port, TCP_SYN, 99, 0, ""));
    expect(&w, any_tcp);
    send_frame(&w, tcp(5000, HOST, port, TCP_ACK, 100, get32(l4(&w.got) + 4) + 1, ""));
    autofd conn = accept(server, NULL, NULL);
    for (unsigned i = 0; i < 50; i++) {
        while (sent < 64 * sizeof(data) &&
               (n = send(conn, data, sizeof(data), MSG_DONTWAIT)) > 0)
            sent += (size_t)n;
        await(&w, NULL, 2);
    }
    g_assert_cmpuint(sent, <, 32 * sizeof(data));
    w.n_turns = 0;
    await(&w, NULL, 1000); /* it is ready all the time, and we do not look */
    g_assert_cmpuint(w.n_turns, <, 50);
    wire_close(&w);
}

static void garbage_is_survived_in_silence(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(20);
    Pkt seed[] = {arp(1, GUEST, HOST),
                  dhcp(1),
                  ping(HOST, 1),
                  udp(GUEST, 5, HOST, 69, "\0\1x\0octet", 9),
                  tcp(6, HOST, 9, TCP_SYN, 1, 0, "x"),
                  icmp6("ff02::2", 133, (const uint8_t *)"\0\0\0", 4),
                  icmp6("2001:db8::1", 128, (const uint8_t *)"\0\0\0", 4)};
    autofd capture = memfd_create("stdout", MFD_CLOEXEC);
    autofd saved = dup(STDOUT_FILENO);
    Wire w;

    fflush(stdout);
    dup2(capture, STDOUT_FILENO);
    wire_open(&w, (NetDevOptions){.ipv6 = true, .restrict_ = true});
    for (unsigned i = 0; i < 20000; i++) {
        Pkt p = seed[i % G_N_ELEMENTS(seed)];

        for (int n = g_rand_int_range(rand, 0, 4); n > 0; n--)
            p.b[g_rand_int_range(rand, 12, (gint32)p.len)] = (uint8_t)g_rand_int(rand);
        if (!(i % 7))
            p.len = (size_t)g_rand_int_range(rand, 10, (gint32)p.len);
        send_frame(&w, p);
        if (!(i % 500))
            await(&w, NULL, 1);
    }
    await(&w, NULL, 10);
    send_frame(&w, arp(1, GUEST, HOST));
    g_assert_true(await(&w, arp_reply, 5000));
    wire_close(&w);
    dup2(saved, STDOUT_FILENO);
    g_assert_cmpint(lseek(capture, 0, SEEK_END), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(
        G_LOG_FATAL_MASK); /* libslirp's warnings are the guest's doing */
#define add(name) g_test_add_func("/slirp/" #name, name)
    add(dhcp_gives_address_router_names_and_host_name);
    add(arp_and_ping_reach_the_router);
    add(ipv6_has_a_router_and_can_be_turned_off);
    add(a_forwarded_port_that_answers_is_told_of_once);
    add(a_forwarded_connection_carries_bytes_both_ways);
    add(the_guest_reaches_a_port_of_the_host);
    add(datagrams_go_out_and_come_back);
    add(restrict_lets_nothing_out);
    add(names_are_asked_of_the_hosts_server);
    add(bad_options_are_refused_with_their_reason);
    add(a_busy_port_is_named);
    add(frames_nobody_takes_are_bounded);
    add(a_frame_that_does_not_fit_is_dropped);
    add(a_guest_cannot_take_all_descriptors);
    add(an_idle_network_sleeps);
    add(a_connection_that_is_not_read_holds_the_sender_back);
    add(datagrams_wait_on_the_host_while_the_guest_is_slow);
    add(garbage_is_survived_in_silence);
    return g_test_run();
}
