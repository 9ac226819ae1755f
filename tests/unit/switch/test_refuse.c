/* What `reject` answers, to whom, and when it is silent. */
#include "fake_port.h"

#include "packet/build.h"
#include "src/switch/emit.h"
#include "src/switch/rules.h"

enum { ICMP4_UNREACHABLE = 3, ICMP4_PORT = 3, ICMP4_PROHIBITED = 13, ICMP6_PORT = 4 };

static Switch *sw;
static FakePort *a, *b; /* stations 2 and 3; b is who has rules */

static Ip ip_of(const char *text)
{
    Ip ip;

    g_assert_true(ip_parse(text, &ip, NULL));
    return ip;
}

static void set_rules(FakePort *p, const char *text)
{
    g_autoptr(GError) error = NULL;
    Firewall *fw = firewall_parse(text, "x", &error);

    g_assert_no_error(error);
    g_assert_true(rules_set(sw, p ? &p->port : NULL, fw, &error));
}

static void begin(const char *rules_of_b)
{
    sw = fake_switch();
    a = fake_port(sw, "a", 2);
    b = fake_port(sw, "b", 3);
    g_assert_true(rules_set(sw, &a->port, NULL, NULL)); /* what a test before left */
    set_rules(b, rules_of_b);
}

static void end(void)
{
    switch_free(sw);
}

static void send_frame(FakePort *from, Builder *frame)
{
    uint8_t room[FRAME_ROOM + BUILD_MAX];
    Frame f = {.data = room + FRAME_ROOM, .len = frame->len};

    memcpy(f.data, frame->data, frame->len);
    switch_turn(sw);
    switch_receive(&from->port, &f);
    switch_flush(sw);
}

/* From station n to station m; `to` NULL: m's address. */
static void begin_ip(Builder *f, uint8_t n, uint8_t m, const char *to, uint8_t proto)
{
    Mac src = {{2, 0, 0, 0, 0, n}}, dst = {{2, 0, 0, 0, 0, m}};
    Ip from = ip_from_v4(0x0a050000u + n),
       ip = to ? ip_of(to) : ip_from_v4(0x0a050000u + m);

    build_ip(f, &dst, &src, &from, &ip, proto, 0);
}

static void send_tcp(FakePort *from, uint8_t n, uint8_t m, uint8_t flags,
                     const char *data)
{
    Builder f;

    begin_ip(&f, n, m, NULL, IPPROTO_TCP);
    build_tcp(&f, 4000, 22, 1000, 7000, flags, 100, 0);
    build_bytes(&f, data, strlen(data));
    g_assert_true(build_end(&f));
    send_frame(from, &f);
}

static void send_udp(FakePort *from, uint8_t n, uint8_t m, const char *to)
{
    Builder f;

    begin_ip(&f, n, m, to, IPPROTO_UDP);
    build_udp(&f, 4000, 53);
    build_bytes(&f, "hello", 5);
    g_assert_true(build_end(&f));
    send_frame(from, &f);
}

static void send_icmp(FakePort *from, uint8_t n, uint8_t m, uint8_t type)
{
    Builder f;

    begin_ip(&f, n, m, NULL, IPPROTO_ICMP);
    build_u32(&f, (uint32_t)type << 24);
    build_u32(&f, 1);
    build_room(&f, 28);
    g_assert_true(build_end(&f));
    send_frame(from, &f);
}

/* The only frame that came to p, which is taken away. */
static Packet only(FakePort *p)
{
    Packet packet;

    g_assert_cmpuint(p->n, ==, 1);
    g_assert_true(packet_parse(p->data[0], p->len[0], &packet));
    p->n = 0;
    return packet;
}

static void assert_is(const Packet *p, uint8_t from, uint8_t to, uint8_t proto)
{
    g_assert_true(mac_equal(&p->src, &(Mac){{2, 0, 0, 0, 0, from}}));
    g_assert_true(mac_equal(&p->dst, &(Mac){{2, 0, 0, 0, 0, to}}));
    g_assert_cmpuint(ip_to_v4(&p->from), ==, 0x0a050000u + from);
    g_assert_cmpuint(ip_to_v4(&p->to), ==, 0x0a050000u + to);
    g_assert_cmpuint(p->proto, ==, proto);
}

static void assert_reset(const Packet *p, uint32_t seq, uint32_t ack, uint8_t flags)
{
    assert_is(p, 3, 2, IPPROTO_TCP);
    g_assert_cmpuint(p->from_port, ==, 22);
    g_assert_cmpuint(p->to_port, ==, 4000);
    g_assert_cmphex(p->tcp_flags, ==, flags);
    g_assert_cmpuint(p->tcp_seq, ==, seq);
    g_assert_cmpuint(p->tcp_ack, ==, ack);
    g_assert_true(packet_tcp_sum_ok(p, a->data[0]));
}

/* RFC 9293, 3.10.7.1. */
static void tcp_is_reset_as_if_nobody_listened(void)
{
    Packet p;

    begin("default in reject\n");
    send_tcp(a, 2, 3, PACKET_TCP_SYN, "");
    p = only(a);
    assert_reset(&p, 0, 1001, PACKET_TCP_RST | PACKET_TCP_ACK);
    send_tcp(a, 2, 3, PACKET_TCP_SYN, "data");
    p = only(a);
    assert_reset(&p, 0, 1005, PACKET_TCP_RST | PACKET_TCP_ACK);
    send_tcp(a, 2, 3, PACKET_TCP_ACK, "data");
    p = only(a);
    assert_reset(&p, 7000, 0, PACKET_TCP_RST);
    send_tcp(a, 2, 3, PACKET_TCP_RST, "");
    send_tcp(a, 2, 3, PACKET_TCP_RST | PACKET_TCP_ACK, "");
    g_assert_cmpuint(a->n + b->n, ==, 0);
    g_assert_cmpuint(b->port.count[TO_VM].denied, ==, 5);
    set_rules(b, "default in deny\n");
    send_tcp(a, 2, 3, PACKET_TCP_SYN, "");
    g_assert_cmpuint(a->n + b->n, ==, 0);
    end();
}

/* Of a flow that was allowed, so that rules are asked about it. */
static void a_reset_is_not_answered(void)
{
    begin("allow in tcp\n");
    send_tcp(a, 2, 3, PACKET_TCP_SYN, "");
    g_assert_cmpuint(b->n, ==, 1);
    set_rules(b, "reject in tcp\n");
    send_tcp(a, 2, 3, PACKET_TCP_RST, "");
    g_assert_cmpuint(b->n, ==, 1);
    g_assert_cmpuint(b->port.count[TO_VM].denied, ==, 1);
    g_assert_cmpuint(a->n, ==, 0);
    end();
}

static void what_is_for_another_station_is_not_answered(void)
{
    begin("default in reject\n");
    b->port.trusted = true; /* others may be behind it */
    send_udp(a, 2, 9, NULL);
    g_assert_cmpuint(b->port.count[TO_VM].denied, ==, 1);
    g_assert_cmpuint(a->n, ==, 0);
    end();
}

static void a_segment_that_is_not_as_it_was_sent_is_not_answered(void)
{
    Builder f;

    begin("");
    set_rules(b, "reject in tcp\n");
    begin_ip(&f, 2, 3, NULL, IPPROTO_TCP);
    build_tcp(&f, 4000, 22, 1, 0, PACKET_TCP_SYN, 100, 0);
    g_assert_true(build_end(&f));
    f.data[f.len - 1] ^= 1; /* of the urgent pointer */
    send_frame(a, &f);
    g_assert_cmpuint(a->n, ==, 0);
    f.data[f.len - 1] ^= 1;
    send_frame(a, &f);
    g_assert_cmpuint(a->n, ==, 1);
    end();
}

static void all_else_is_answered_by_icmp_that_quotes_it(void)
{
    Packet p, quoted;

    begin("default in reject\ndefault out allow\n");
    send_udp(a, 2, 3, NULL);
    p = only(a);
    assert_is(&p, 3, 2, IPPROTO_ICMP);
    g_assert_cmpuint(p.icmp_type, ==, ICMP4_UNREACHABLE);
    g_assert_cmpuint(p.icmp_code, ==, ICMP4_PORT);
    g_assert_true(packet_parse_quoted(&p, a->data[0], a->len[0], &quoted));
    g_assert_cmpuint(quoted.to_port, ==, 53);
    send_icmp(a, 2, 3, 8);
    p = only(a);
    assert_is(&p, 3, 2, IPPROTO_ICMP);
    g_assert_cmpuint(p.icmp_type, ==, ICMP4_UNREACHABLE);
    g_assert_cmpuint(p.icmp_code, ==, ICMP4_PROHIBITED);
    end();
}

static void ipv6_is_answered_by_its_own_errors(void)
{
    const Mac src = {{2, 0, 0, 0, 0, 2}}, dst = {{2, 0, 0, 0, 0, 3}};
    Ip from = ip_of("fd00:5::2"), to = ip_of("fd00:5::3");
    Builder f;
    Packet p;

    begin("default in reject\ndefault out allow\n");
    g_assert_true(guard_add(a->port.guard, &from, NULL));
    build_ip(&f, &dst, &src, &from, &to, IPPROTO_UDP, 0);
    build_udp(&f, 4000, 53);
    g_assert_true(build_end(&f));
    send_frame(a, &f);
    p = only(a);
    g_assert_true(ip_equal(&p.from, &to) && ip_equal(&p.to, &from));
    g_assert_cmpuint(p.proto, ==, IPPROTO_ICMPV6);
    g_assert_cmpuint(p.icmp_type, ==, 1);
    g_assert_cmpuint(p.icmp_code, ==, ICMP6_PORT);
    build_ip(&f, &dst, &src, &from, &to, IPPROTO_TCP, 0);
    build_tcp(&f, 4000, 22, 1000, 0, PACKET_TCP_SYN, 100, 0);
    g_assert_true(build_end(&f));
    send_frame(a, &f);
    p = only(a);
    g_assert_cmphex(p.tcp_flags, ==, PACKET_TCP_RST | PACKET_TCP_ACK);
    g_assert_true(packet_tcp_sum_ok(&p, a->data[0]));
    end();
}

static void send_fragment(unsigned at, bool more)
{
    Builder f;

    begin_ip(&f, 2, 3, NULL, IPPROTO_UDP);
    build_udp(&f, 4000, 53);
    build_room(&f, 24);
    g_assert_true(build_end(&f));
    f.data[ETH_HEADER + 6] = more ? 0x20 : 0;
    f.data[ETH_HEADER + 7] = (uint8_t)(at / 8);
    send_frame(a, &f);
}

/* RFC 1122, 3.2.2. */
static void errors_groups_and_later_fragments_are_not_answered(void)
{
    Builder f;
    Mac group = {{1, 0, 0x5e, 0, 0, 1}};

    begin("default in reject\ndefault out allow\n");
    send_icmp(a, 2, 3, ICMP4_UNREACHABLE);
    send_icmp(a, 2, 3, 11);
    fake_say(a, 2, 0, -1);            /* broadcast */
    send_udp(a, 2, 3, "10.5.0.255");  /* likewise, in disguise */
    send_udp(a, 2, 3, "10.5.0.0");    /* as some systems once had it */
    send_udp(a, 2, 3, "224.0.0.251"); /* multicast, likewise */
    send_udp(a, 2, 3, "255.255.255.255");
    begin_ip(&f, 2, 3, "224.0.0.251", IPPROTO_UDP);
    build_udp(&f, 4000, 53);
    g_assert_true(build_end(&f));
    memcpy(f.data, group.b, sizeof(group.b));
    send_frame(a, &f);
    send_fragment(32, false);
    g_assert_cmpuint(a->n + b->n, ==, 0);
    g_assert_cmpuint(b->port.count[TO_VM].denied, ==, 9);
    send_fragment(0, true);
    g_assert_cmpuint(a->n, ==, 1);
    end();
}

/* What a VM itself may not send is refused to it, whatever else may come to it. */
static void what_goes_out_is_refused_to_its_sender(void)
{
    Packet p;

    begin("default in deny\nreject out tcp port 22\nreject out udp\n");
    send_tcp(b, 3, 2, PACKET_TCP_SYN, "");
    p = only(b);
    assert_is(&p, 2, 3, IPPROTO_TCP);
    g_assert_cmphex(p.tcp_flags, ==, PACKET_TCP_RST | PACKET_TCP_ACK);
    send_udp(b, 3, 2, NULL);
    p = only(b);
    assert_is(&p, 2, 3, IPPROTO_ICMP);
    send_udp(b, 3, 1, "192.0.2.1"); /* by whatever way */
    p = only(b);
    g_assert_cmpuint(ip_to_v4(&p.from), ==, 0xc0000201);
    g_assert_cmpuint(p.icmp_code, ==, ICMP4_PORT);
    g_assert_cmpuint(a->n, ==, 0);
    end();
}

/* It belongs to what the sender was allowed to send. */
static void a_sender_with_rules_of_its_own_hears_of_it(void)
{
    begin("default in reject\ndefault out allow\n");
    set_rules(a, "allow out tcp\nallow out udp\nallow out icmp\n");
    send_tcp(a, 2, 3, PACKET_TCP_SYN, "");
    g_assert_cmpuint(a->n, ==, 1);
    send_udp(a, 2, 3, NULL);
    g_assert_cmpuint(a->n, ==, 2);
    send_icmp(a, 2, 3, 8);
    g_assert_cmpuint(a->n, ==, 3);
    end();
}

static void who_speaks_in_anothers_name_is_not_heard(void)
{
    begin("default in reject\ndefault out allow\n");
    FakePort *c = fake_port(sw, "c", 4);
    send_udp(c, 2, 3, NULL);
    send_tcp(c, 2, 3, PACKET_TCP_SYN, "");
    g_assert_cmpuint(a->n + b->n + c->n, ==, 0);
    g_assert_cmpuint(c->port.count[FROM_VM].spoofed, ==, 2);
    end();
}

/* Nor do two who reject everything keep each other busy. */
static void answers_are_not_answered(void)
{
    begin("default in reject\ndefault out allow\n");
    set_rules(a, "default in reject\ndefault out reject\n");
    send_udp(a, 2, 3, NULL);
    send_udp(b, 3, 2, NULL);
    g_assert_cmpuint(a->n, ==, 1);
    g_assert_cmpuint(b->n, ==, 1);
    end();
}

static void each_is_answered_so_many_and_nobody_takes_anothers(void)
{
    begin("default in reject\ndefault out allow\n");
    FakePort *c = fake_port(sw, "c", 4);
    for (unsigned i = 0; i < 1000; i++)
        send_udp(a, 2, 3, NULL);
    g_assert_cmpuint(a->n, >=, REFUSALS_PER_S);
    g_assert_cmpuint(a->n, <, 1000);
    send_udp(c, 4, 3, NULL);
    g_assert_cmpuint(c->n, ==, 1);
    end();
}

/* What every port of the network rejects, and what a default does. */
static void rules_of_the_network_reject_too(void)
{
    begin("default in allow\ndefault out allow\n");
    set_rules(NULL, "reject in udp port 53\ndefault in allow\ndefault out allow\n");
    send_udp(a, 2, 3, NULL);
    g_assert_cmpuint(a->n, ==, 1);
    g_assert_cmpuint(b->n, ==, 0);
    g_assert_true(rules_set(sw, NULL, NULL, NULL));
    g_assert_null(sw->rules);
    send_udp(a, 2, 3, NULL);
    g_assert_cmpuint(b->n, ==, 1);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/refuse/tcp", tcp_is_reset_as_if_nobody_listened);
    g_test_add_func("/refuse/reset", a_reset_is_not_answered);
    g_test_add_func("/refuse/flooded", what_is_for_another_station_is_not_answered);
    g_test_add_func("/refuse/checksum",
                    a_segment_that_is_not_as_it_was_sent_is_not_answered);
    g_test_add_func("/refuse/icmp", all_else_is_answered_by_icmp_that_quotes_it);
    g_test_add_func("/refuse/ipv6", ipv6_is_answered_by_its_own_errors);
    g_test_add_func("/refuse/silent", errors_groups_and_later_fragments_are_not_answered);
    g_test_add_func("/refuse/out", what_goes_out_is_refused_to_its_sender);
    g_test_add_func("/refuse/stateful", a_sender_with_rules_of_its_own_hears_of_it);
    g_test_add_func("/refuse/spoofed", who_speaks_in_anothers_name_is_not_heard);
    g_test_add_func("/refuse/loop", answers_are_not_answered);
    g_test_add_func("/refuse/rate", each_is_answered_so_many_and_nobody_takes_anothers);
    g_test_add_func("/refuse/network", rules_of_the_network_reject_too);
    return g_test_run();
}
