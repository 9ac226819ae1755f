/* The DNS server of a network, between VMs that ask and upstream servers that may lie. */
#include "src/switch/dns.h"

#include <sys/socket.h>

#include "packet/build.h"
#include "src/switch/dns_forward.h"
#include "src/switch/dns_message.h"
#include "src/switch/dns_servers.h"
#include "src/switch/gateway_private.h"
#include "util/fd.h"

static Switch sw;
static NetworkConfig config;
static Port port = {.sw = &sw, .id = 1, .vm = (char *)"web"};
static Gateway gateway = {.sw = &sw, .mac = {{2, 0, 0, 0, 0, 1}}};
static const Mac vm_mac = {{2, 0, 0, 0, 0, 7}};
static Names *names;
static Dns *dns;

/* ---- played by the test: the rest of the switch ---------------------------------------
 */

static unsigned n_answers;
static uint8_t answer[BUILD_MAX];
static DnsMessage got; /* the last answer */

const Mac *gateway_mac(const Gateway *gw)
{
    return &gw->mac;
}

bool gateway_is(const Gateway *gw, const Ip *ip)
{
    return ip_equal(ip, &sw.subnets.gateway4) || ip_equal(ip, &sw.subnets.gateway6);
}

const char *gateway_vm_of(Gateway *gw, const Ip *ip)
{
    return ip_is_v4(ip) && ip_to_v4(ip) == 0x0a050007 ? "web" : NULL;
}

bool gateway_address_of(Gateway *gw, const char *vm, bool v6, Ip *ret)
{
    if (v6 || !g_str_equal(vm, "web"))
        return false;
    *ret = ip_from_v4(0x0a050007);
    return true;
}

void switch_send(Switch *s, Frame *f)
{
    Packet p;

    g_assert_true(packet_parse(f->data, f->len, &p));
    g_assert_true(mac_equal(&p.dst, &vm_mac));
    g_assert_cmpuint(p.from_port, ==, DNS_PORT);
    g_assert_cmpuint(p.to_port, ==, 4242);
    memcpy(answer, f->data + p.payload, p.end - p.payload);
    dns_parse(answer, p.end - p.payload, &got);
    g_assert_true(got.flags & DNS_QR);
    n_answers++;
}

void switch_flush(Switch *s)
{
}

/* ---- upstream: a socket on loopback, and what it does with a question
 * ------------------ */

typedef struct Server {
    int fd;
    uint16_t port;
    IoWatch watch;
    void (*serve)(struct Server *s, uint8_t *query, size_t len,
                  const struct sockaddr_in *from);
    unsigned n_asked;
    struct sockaddr_in last;
} Server;

static Server server[2];

static void asked(void *opaque, uint32_t events)
{
    Server *s = opaque;
    uint8_t query[1500];
    socklen_t n = sizeof(s->last);
    ssize_t len = recvfrom(s->fd, query, sizeof(query), MSG_DONTWAIT,
                           (struct sockaddr *)&s->last, &n);

    if (len < 0)
        return;
    s->n_asked++;
    if (s->serve)
        s->serve(s, query, (size_t)len, &s->last);
}

static int bound(int type, uint16_t *port_)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(*port_)};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&sa, &n), ==, 0);
    *port_ = ntohs(sa.sin_port);
    return fd;
}

static void reply(Server *s, const uint8_t *bytes, size_t len,
                  const struct sockaddr_in *to)
{
    g_assert_cmpint(
        sendto(s->fd, bytes, len, 0, (const struct sockaddr *)to, sizeof(*to)), ==,
        (ssize_t)len);
}

/* The question with answers: `n` A records of 198.51.100.1 and on, TTL 60. */
static size_t answer_to(const uint8_t *query, size_t len, unsigned n, uint8_t *ret)
{
    DnsMessage q;

    g_assert_true(dns_parse(query, len, &q));
    memcpy(ret, query, len = q.question_end);
    ret[2] |= 0x80;
    memset(ret + 6, 0, 6);
    ret[6] = (uint8_t)(n >> 8);
    ret[7] = (uint8_t)n;
    for (unsigned i = 0; i < n; i++) {
        memcpy(ret + len, "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc6\x33\x64", 15);
        ret[len + 15] = (uint8_t)(1 + i);
        len += 16;
    }
    return len;
}

static void serve_one(Server *s, uint8_t *query, size_t len, const struct sockaddr_in *to)
{
    uint8_t bytes[1500];

    reply(s, bytes, answer_to(query, len, 1, bytes), to);
}

/* ---- asking
 * ---------------------------------------------------------------------------- */

static void ask_with(const char *name, unsigned type, unsigned id, bool edns)
{
    g_auto(GStrv) labels = g_strsplit(name, ".", -1);
    Builder b = {0};
    Ip from = ip_from_v4(0x0a050007);
    Frame f = {0};

    build_ip(&b, &gateway.mac, &vm_mac, &from, &sw.subnets.gateway4, IPPROTO_UDP, 0);
    build_udp(&b, 4242, DNS_PORT);
    build_u16(&b, (uint16_t)id);
    build_u16(&b, DNS_RD);
    build_u16(&b, 1);
    build_u32(&b, 0);
    build_u16(&b, edns);
    for (char **l = labels; *l; l++) {
        build_u8(&b, (uint8_t)strlen(*l));
        build_bytes(&b, *l, strlen(*l));
    }
    if (**labels)
        build_u8(&b, 0);
    build_u16(&b, (uint16_t)type);
    build_u16(&b, DNS_CLASS_IN);
    if (edns)
        build_bytes(&b, "\0\0\x29\x10\0\0\0\0\0\0\0", 11);
    g_assert_true(build_end(&b));
    f.data = b.data;
    f.len = b.len;
    g_assert_true(packet_parse(f.data, f.len, &f.p));
    sw.now_ns = clock_ns();
    g_assert_true(dns_input(dns, &port, &f));
}

static void ask(const char *name, unsigned type)
{
    ask_with(name, type, 0x4711, false);
}

static void give_up(void *opaque)
{
    g_error("nothing happened for ten seconds");
}

/* Turns the loop until so many answers have come, or `until` says so. */
static bool wanted_answers(unsigned *n)
{
    return n_answers >= *n;
}

static bool look(void *opaque);
static IoPoller poller = {.fn = look};
static bool (*until_fn)(unsigned *);
static unsigned until_arg;

static bool look(void *opaque)
{
    if (until_fn(&until_arg))
        ioloop_quit(sw.loop);
    return false;
}

static void run_until(bool (*fn)(unsigned *), unsigned arg)
{
    IoTimer guard = {0};

    until_fn = fn;
    until_arg = arg;
    ioloop_timer(sw.loop, &guard, clock_ns() + 10000000000ll, give_up, NULL);
    ioloop_poller_add(sw.loop, &poller);
    ioloop_run(sw.loop);
    ioloop_poller_remove(sw.loop, &poller);
    ioloop_timer_cancel(&guard);
}

static void run_for_answers(unsigned n)
{
    run_until(wanted_answers, n);
}

static bool wanted_questions(unsigned *n)
{
    return server[0].n_asked >= *n;
}

static bool has_name(const char *name, const char *address)
{
    Ip ip;

    g_assert_true(ip_parse(address, &ip, NULL));
    return names_have(names, name, &ip, clock_ns());
}

static char *upstream[3];

static void begin(NetworkMode mode)
{
    memset(&config, 0, sizeof(config));
    config.mode = mode;
    config.dns = true;
    config.upstream = upstream;
    sw.name = "lan";
    sw.config = &config;
    sw.loop = ioloop_new(NULL);
    ip_prefix_parse("10.5.0.0/24", &sw.subnets.v4, NULL);
    ip_parse("10.5.0.1", &sw.subnets.gateway4, NULL);
    ip_prefix_parse("fd00:5::/64", &sw.subnets.v6, NULL);
    ip_parse("fd00:5::1", &sw.subnets.gateway6, NULL);
    sw.port[1] = &port;
    sw.n_ports = 2;
    n_answers = 0;
    for (unsigned i = 0; i < 2; i++) {
        server[i] = (Server){.serve = serve_one};
        server[i].fd = bound(SOCK_DGRAM, &server[i].port);
        ioloop_watch(sw.loop, &server[i].watch, server[i].fd, EPOLLIN, asked, &server[i],
                     NULL);
        g_free(upstream[i]);
        upstream[i] = g_strdup_printf("127.0.0.1:%u", server[i].port);
    }
    names = names_new();
    dns = dns_new(&sw, &gateway, names, NULL);
    g_assert_nonnull(dns);
}

static void end(void)
{
    dns_free(dns);
    names_free(names);
    for (unsigned i = 0; i < 2; i++) {
        ioloop_unwatch(&server[i].watch);
        fd_close(&server[i].fd);
    }
    ioloop_free(sw.loop);
}

/* ---- own names
 * ------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned type, rcode, answers, authority;
} own[] = {
    {"web", DNS_A, DNS_OK, 1, 0},
    {"WEB.Lan.Internal", DNS_A, DNS_OK, 1, 0},
    {"web.lan.internal", DNS_AAAA, DNS_OK, 0, 1},
    {"web.lan.internal", 15, DNS_OK, 0, 1},
    {"gateway.lan.internal", DNS_ANY, DNS_OK, 2, 0},
    {"nobody", DNS_A, DNS_NXDOMAIN, 0, 1},
    {"nobody.lan.internal", DNS_AAAA, DNS_NXDOMAIN, 0, 1},
    {"a.web.lan.internal", DNS_A, DNS_NXDOMAIN, 0, 1},
    {"lan.internal", DNS_SOA, DNS_OK, 1, 0},
    {"lan.internal", DNS_A, DNS_OK, 0, 1},
    {"7.0.5.10.in-addr.arpa", DNS_PTR, DNS_OK, 1, 0},
    {"8.0.5.10.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN, 0, 1},
    {"printer.local", DNS_A, DNS_NXDOMAIN, 0, 1},
};

static void the_networks_own_names_never_go_upstream(void)
{
    begin(NETWORK_NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(own); i++) {
        ask(own[i].name, own[i].type);
        g_assert_cmpuint(n_answers, ==, i + 1);
        g_assert_cmpuint(got.id, ==, 0x4711);
        g_assert_true(got.flags & DNS_AA);
        g_assert_cmpuint(got.flags & DNS_RCODE, ==, own[i].rcode);
        g_assert_cmpuint(got.n_records[0], ==, own[i].answers);
        g_assert_cmpuint(got.n_records[1], ==, own[i].authority);
    }
    g_assert_true(has_name("web", "10.5.0.7"));
    g_assert_true(has_name("web.lan.internal", "10.5.0.7"));
    end();
}

static void an_isolated_network_asks_nobody(void)
{
    begin(NETWORK_ISOLATED);
    ask("www.example.org", DNS_A);
    g_assert_cmpuint(n_answers, ==, 1);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_REFUSED);
    ask("web", DNS_A);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_OK);
    g_assert_cmpuint(server[0].n_asked + server[1].n_asked, ==, 0);
    end();
}

/* ---- upstream
 * --------------------------------------------------------------------------- */

static void what_is_under_way_ends_when_a_network_is_isolated(void)
{
    begin(NETWORK_NAT);
    server[0].serve = server[1].serve = NULL;
    ask("www.example.org", DNS_A);
    ask("www.example.org", DNS_A);
    ask("mail.example.org", DNS_A);
    config.mode = NETWORK_ISOLATED;
    g_assert_true(dns_reconfigure(dns, NULL));
    g_assert_cmpuint(n_answers, ==, 3);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_SERVFAIL);
    end();
}

static void the_rest_is_asked_upstream_and_noted_for_rules(void)
{
    begin(NETWORK_NAT);
    ask("www.example.org", DNS_A);
    run_for_answers(1);
    g_assert_cmpuint(got.id, ==, 0x4711);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_OK);
    g_assert_cmpuint(got.n_records[0], ==, 1);
    g_assert_true(has_name("*.example.org", "198.51.100.1"));
    g_assert_false(has_name("*.example.org", "198.51.100.2"));
    end();
}

static void serve_own_subnet(Server *s, uint8_t *query, size_t len,
                             const struct sockaddr_in *to)
{
    uint8_t bytes[1500];

    len = answer_to(query, len, 1, bytes);
    memcpy(bytes + len - 4, "\x0a\x05\0\x09", 4);
    reply(s, bytes, len, to);
}

static void upstream_cannot_speak_for_this_networks_addresses(void)
{
    begin(NETWORK_NAT);
    server[0].serve = serve_own_subnet;
    ask("www.example.org", DNS_A);
    run_for_answers(1);
    g_assert_false(has_name("www.example.org", "10.5.0.9"));
    end();
}

/* Lies first, of each kind, and then the truth. */
static void serve_lies(Server *s, uint8_t *query, size_t len,
                       const struct sockaddr_in *to)
{
    uint8_t bytes[1500], lie[1500];
    size_t n = answer_to(query, len, 1, bytes);

    memcpy(bytes + n - 4, "\6\6\6\6", 4);
    memcpy(lie, bytes, n);
    lie[0] ^= 1; /* another id */
    reply(s, lie, n, to);
    memcpy(lie, bytes, n);
    lie[DNS_HEADER + 1] ^= 1; /* another question */
    reply(s, lie, n, to);
    memcpy(lie, bytes, n);
    lie[2] &= 0x7f; /* no answer */
    reply(s, lie, n, to);
    reply(s, bytes, 7, to);          /* no message */
    reply(&server[1], bytes, n, to); /* from elsewhere */
    serve_one(s, query, len, to);
}

static void answers_that_are_none_are_not_heard(void)
{
    begin(NETWORK_NAT);
    server[0].serve = serve_lies;
    ask("www.example.org", DNS_A);
    run_for_answers(1);
    g_assert_true(has_name("www.example.org", "198.51.100.1"));
    g_assert_false(has_name("www.example.org", "6.6.6.6"));
    g_assert_cmpuint(n_answers, ==, 1);
    end();
}

static void serve_guesses(Server *s, uint8_t *query, size_t len,
                          const struct sockaddr_in *to)
{
    uint8_t bytes[1500];
    size_t n = answer_to(query, len, 1, bytes);

    for (unsigned i = 0; i < 200; i++) {
        bytes[0] = (uint8_t)(query[0] + 1 + i % 200);
        reply(s, bytes, n, to);
    }
}

static void who_guesses_has_to_begin_again(void)
{
    struct sockaddr_in first;

    begin(NETWORK_NAT);
    server[0].serve = serve_guesses;
    server[1].serve = serve_one;
    ask("www.example.org", DNS_A);
    run_until(wanted_questions, 1);
    first = server[0].last;
    run_for_answers(1);
    g_assert_cmpuint(server[1].n_asked, ==, 1);
    g_assert_cmpuint(server[1].last.sin_port, !=, first.sin_port);
    g_assert_true(has_name("www.example.org", "198.51.100.1"));
    end();
}

static void each_question_has_a_port_and_an_id_of_its_own(void)
{
    GHashTable *ports = g_hash_table_new(NULL, NULL);

    begin(NETWORK_NAT);
    for (unsigned i = 0; i < 20; i++) {
        g_autofree char *name = g_strdup_printf("n%u.example.org", i);

        ask(name, DNS_A);
        run_for_answers(i + 1);
        g_hash_table_add(ports, GUINT_TO_POINTER(server[0].last.sin_port));
    }
    g_assert_cmpuint(g_hash_table_size(ports), >, 15);
    g_hash_table_unref(ports);
    end();
}

static void serve_refusal(Server *s, uint8_t *query, size_t len,
                          const struct sockaddr_in *to)
{
    uint8_t bytes[1500];
    size_t n = answer_to(query, len, 0, bytes);

    bytes[3] |= DNS_REFUSED;
    reply(s, bytes, n, to);
}

static void the_second_server_is_asked_when_the_first_will_not(void)
{
    begin(NETWORK_NAT);
    server[0].serve = serve_refusal;
    ask("www.example.org", DNS_A);
    run_for_answers(1);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_OK);
    server[1].serve = serve_refusal;
    ask("mail.example.org", DNS_A);
    run_for_answers(2);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_REFUSED);
    end();
}

static void the_second_server_is_asked_when_the_first_is_silent(void)
{
    begin(NETWORK_NAT);
    server[0].serve = NULL;
    ask("www.example.org", DNS_A);
    run_for_answers(1);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_OK);
    g_assert_cmpuint(server[1].n_asked, ==, 1);
    end();
}

static void without_any_server_the_asker_is_told_at_once(void)
{
    begin(NETWORK_NAT);
    for (unsigned i = 0; i < 2; i++) {
        ioloop_unwatch(&server[i].watch);
        fd_close(&server[i].fd);
    }
    ask("www.example.org", DNS_A);
    run_for_answers(1); /* nobody listens there, which the kernel says */
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_SERVFAIL);
    end();
}

static void the_same_question_is_asked_once(void)
{
    begin(NETWORK_NAT);
    for (unsigned i = 0; i < 10; i++)
        ask_with("www.example.org", DNS_A, i, false);
    ask_with("www.example.org", DNS_AAAA, 10, false);
    run_for_answers(11);
    g_assert_cmpuint(server[0].n_asked, ==, 2);
    end();
}

static void what_is_under_way_is_bounded(void)
{
    begin(NETWORK_NAT);
    server[0].serve = NULL;
    for (unsigned i = 0; i < DNS_MAX_PENDING_OF_PORT + 10; i++) {
        g_autofree char *name = g_strdup_printf("n%u.example.org", i);

        ask(name, DNS_A);
    }
    g_assert_cmpuint(n_answers, ==, 10);
    g_assert_cmpuint(got.flags & DNS_RCODE, ==, DNS_SERVFAIL);
    end();
}

static void a_port_has_a_rate(void)
{
    begin(NETWORK_NAT);
    for (unsigned i = 0; i < 2000; i++)
        ask("web", DNS_A);
    g_assert_cmpuint(n_answers, >=, 400);
    g_assert_cmpuint(n_answers, <, 1000);
    dns_port_removed(dns, &port); /* the next one begins afresh */
    n_answers = 0;
    ask("web", DNS_A);
    g_assert_cmpuint(n_answers, ==, 1);
    end();
}

/* ---- big answers
 * ------------------------------------------------------------------------ */

static void serve_big(Server *s, uint8_t *query, size_t len, const struct sockaddr_in *to)
{
    uint8_t bytes[1500];

    reply(s, bytes, answer_to(query, len, 50, bytes), to);
}

static void an_answer_too_big_for_its_asker_is_cut_off(void)
{
    begin(NETWORK_NAT);
    server[0].serve = serve_big;
    ask_with("www.example.org", DNS_A, 1, false);
    run_for_answers(1);
    g_assert_true(got.flags & DNS_TC);
    g_assert_cmpuint(got.n_records[0], ==, 0);
    g_assert_cmpuint(got.len, <=, DNS_PLAIN_UDP);
    ask_with("www.example.org", DNS_A, 2, true);
    run_for_answers(2);
    g_assert_false(got.flags & DNS_TC);
    g_assert_cmpuint(got.n_records[0], ==, 50);
    end();
}

static void serve_cut_off(Server *s, uint8_t *query, size_t len,
                          const struct sockaddr_in *to)
{
    uint8_t bytes[1500];
    size_t n = answer_to(query, len, 0, bytes);

    bytes[2] |= DNS_TC >> 8;
    reply(s, bytes, n, to);
}

static IoWatch tcp_client;

static void serve_tcp(void *opaque, uint32_t events)
{
    uint8_t query[1500], bytes[1502];
    ssize_t n = recv(tcp_client.fd, query, sizeof(query), 0);
    size_t len;

    g_assert_cmpint(n, >, 2);
    g_assert_cmpint(n, ==, 2 + query[1]);
    len = answer_to(query + 2, (size_t)n - 2, 20, bytes + 2);
    bytes[0] = (uint8_t)(len >> 8);
    bytes[1] = (uint8_t)len;
    g_assert_cmpint(send(tcp_client.fd, bytes, 1, 0), ==, 1); /* in pieces */
    g_assert_cmpint(send(tcp_client.fd, bytes + 1, len + 1, 0), ==, (ssize_t)len + 1);
    n = tcp_client.fd;
    ioloop_unwatch(&tcp_client);
    close((int)n);
}

static void accept_tcp(void *opaque, uint32_t events)
{
    int fd = accept4(*(int *)opaque, NULL, NULL, SOCK_CLOEXEC);

    ioloop_watch(sw.loop, &tcp_client, fd, EPOLLIN, serve_tcp, NULL, NULL);
}

static void an_answer_that_is_cut_off_is_asked_for_over_tcp(void)
{
    IoWatch watch = {0};
    int fd;

    begin(NETWORK_NAT);
    fd = bound(SOCK_STREAM, &server[0].port);
    g_assert_cmpint(listen(fd, 4), ==, 0);
    ioloop_watch(sw.loop, &watch, fd, EPOLLIN, accept_tcp, &fd, NULL);
    server[0].serve = serve_cut_off;
    ask("www.example.org", DNS_A);
    run_for_answers(1);
    g_assert_false(got.flags & DNS_TC);
    g_assert_cmpuint(got.n_records[0], ==, 20);
    g_assert_true(has_name("www.example.org", "198.51.100.20"));
    ioloop_unwatch(&watch);
    close(fd);
    /* Nobody there: the asker gets what there is. */
    server[1].serve = serve_cut_off;
    ask("mail.example.org", DNS_A);
    run_for_answers(2);
    g_assert_true(got.flags & DNS_TC);
    end();
}

/* ---- questions that are none
 * -------------------------------------------------------------- */

static void nonsense_is_answered_once_or_not_at_all(void)
{
    static const struct {
        uint16_t flags, questions;
        unsigned answers, rcode;
    } odd[] = {
        {DNS_QR, 1, 0, 0},
        {0x2000, 1, 1, DNS_NOTIMP}, /* NOTIFY */
        {DNS_RD, 0, 1, DNS_FORMERR},
        {DNS_RD, 2, 1, DNS_FORMERR},
    };
    Ip from = ip_from_v4(0x0a050007);

    begin(NETWORK_NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(odd); i++) {
        Builder b = {0};
        Frame f = {0};

        n_answers = 0;
        build_ip(&b, &gateway.mac, &vm_mac, &from, &sw.subnets.gateway4, IPPROTO_UDP, 0);
        build_udp(&b, 4242, DNS_PORT);
        build_u16(&b, 1);
        build_u16(&b, odd[i].flags);
        build_u16(&b, odd[i].questions);
        build_u32(&b, 0);
        build_u16(&b, 0);
        build_bytes(&b, "\3web\0\0\1\0\1", 9);
        g_assert_true(build_end(&b));
        f.data = b.data;
        f.len = b.len;
        packet_parse(f.data, f.len, &f.p);
        g_assert_true(dns_input(dns, &port, &f));
        g_assert_cmpuint(n_answers, ==, odd[i].answers);
        if (n_answers)
            g_assert_cmpuint(got.flags & DNS_RCODE, ==, odd[i].rcode);
    }
    end();
}

/* ---- which servers
 * ---------------------------------------------------------------------- */

static const struct {
    const char *text;
    unsigned n;
    uint16_t port; /* of the first */
} resolv_conf[] = {
    {"nameserver 192.0.2.1\n", 1, 53},
    {"# a comment\nsearch lan\noptions edns0\nnameserver\t127.0.0.53\r\n", 1, 53},
    {"nameserver 192.0.2.1 \n  nameserver 2001:db8::1\nnameserver fe80::1%lo", 3, 53},
    {"nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4", 3,
     53},
    {"nameserver\nnameserver host.example.org\nnameservers 192.0.2.1\n", 0, 0},
    {"", 0, 0},
};

static void the_hosts_servers_are_those_of_resolv_conf(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(resolv_conf); i++) {
        DnsServers s = {0};

        dns_servers_read(&s, resolv_conf[i].text);
        g_assert_cmpuint(s.n, ==, resolv_conf[i].n);
        if (s.n)
            g_assert_cmpuint(ntohs(((struct sockaddr_in *)&s.server[0].sa)->sin_port), ==,
                             resolv_conf[i].port);
    }
}

static const struct {
    const char *text;
    uint16_t port; /* 0: refused */
} given[] = {
    {"192.0.2.1", 53},
    {"192.0.2.1:5353", 5353},
    {"2001:db8::1", 53},
    {"[2001:db8::1]:54", 54},
    {"192.0.2.1:0", 0},
    {"192.0.2.1:65536", 0},
    {"[192.0.2.1]:53", 0},
    {"dns.example.org", 0},
    {":53", 0},
    {"[2001:db8::1]", 0},
    {"", 0},
};

static void servers_are_given_by_address_and_port(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(given); i++) {
        char *texts[] = {(char *)given[i].text, NULL};
        g_autoptr(GError) error = NULL;
        DnsServers s = {0};

        if (dns_servers_set(&s, texts, &error)) {
            g_assert_cmpuint(s.n, ==, 1);
            /* The port lies at the same place in both families. */
            g_assert_cmpuint(ntohs(((struct sockaddr_in *)&s.server[0].sa)->sin_port), ==,
                             given[i].port);
        } else {
            g_assert_cmpuint(given[i].port, ==, 0);
            g_assert_nonnull(strstr(error->message, given[i].text));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(fn) g_test_add_func("/dns/" #fn, fn)
    TEST(the_networks_own_names_never_go_upstream);
    TEST(an_isolated_network_asks_nobody);
    TEST(what_is_under_way_ends_when_a_network_is_isolated);
    TEST(the_rest_is_asked_upstream_and_noted_for_rules);
    TEST(upstream_cannot_speak_for_this_networks_addresses);
    TEST(answers_that_are_none_are_not_heard);
    TEST(who_guesses_has_to_begin_again);
    TEST(each_question_has_a_port_and_an_id_of_its_own);
    TEST(the_second_server_is_asked_when_the_first_will_not);
    TEST(the_second_server_is_asked_when_the_first_is_silent);
    TEST(without_any_server_the_asker_is_told_at_once);
    TEST(the_same_question_is_asked_once);
    TEST(what_is_under_way_is_bounded);
    TEST(a_port_has_a_rate);
    TEST(an_answer_too_big_for_its_asker_is_cut_off);
    TEST(an_answer_that_is_cut_off_is_asked_for_over_tcp);
    TEST(nonsense_is_answered_once_or_not_at_all);
    TEST(the_hosts_servers_are_those_of_resolv_conf);
    TEST(servers_are_given_by_address_and_port);
    return g_test_run();
}
