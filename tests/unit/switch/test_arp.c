/* The gateway's ARP, ND and echo, byte for byte, and who waits for whom. */
#include <netinet/icmp6.h>

#include "src/switch/gateway_private.h"
#include "tests/unit/switch/gateway_net.h"

#define NAT "nat,subnet=10.5.0.0/24,subnet6=fd00:5::/64"

static Builder b;

static char *hex(const uint8_t *at, size_t len)
{
    GString *text = g_string_new(NULL);

    for (size_t i = 0; i < len; i++)
        g_string_append_printf(text, "%02x", at[i]);
    return g_string_free(text, FALSE);
}

#define assert_bytes(at_, len_, expect_)                                                 \
    do {                                                                                 \
        g_autofree char *got_ = hex(at_, len_);                                          \
        g_assert_cmpstr(got_, ==, expect_);                                              \
    } while (0)

static void build_arp(uint16_t op, const Port *from, const char *sender,
                      const char *target)
{
    Ip s = net_ip(sender), t = net_ip(target);

    build_eth(&b, &net_broadcast, &from->mac, ETHER_ARP);
    build_u16(&b, 1);
    build_u16(&b, ETHER_IPV4);
    build_u16(&b, 0x0604);
    build_u16(&b, op);
    build_bytes(&b, from->mac.b, 6);
    build_u32(&b, ip_to_v4(&s));
    build_room(&b, 6);
    build_u32(&b, ip_to_v4(&t));
}

static void arp_for_the_gateway_is_answered_to_who_asked(void)
{
    Port *web;
    const Mac *mac;

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    mac = gateway_mac(net.sw.gateway);
    g_assert_cmpuint(mac->b[0], ==, 2); /* locally administered, of one station */
    build_arp(1, web, "10.5.0.7", "10.5.0.1");
    g_assert_true(net_input(web, &b));
    g_assert_true(net_taken);
    g_assert_cmpuint(net.n_sent, ==, 1);
    g_assert_true(net.sent[0].to == web);
    g_assert_true(mac_equal(&net.sent[0].p.src, mac));
    g_assert_true(mac_equal(&net.sent[0].p.arp_from, mac));
    assert_bytes(net.sent[0].data, 6, "020000000007");
    assert_bytes(net.sent[0].data + 12, 10, "08060001080006040002");
    assert_bytes(net.sent[0].data + 28, 14, "0a0500010200000000070a050007");
    net_end();
}

static void arp_for_others_is_left_to_them(void)
{
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    build_arp(1, web, "10.5.0.7", "10.5.0.8");
    g_assert_true(net_input(web, &b));
    g_assert_false(net_taken);
    g_assert_cmpuint(net.n_sent, ==, 0);
    net_end();
}

/* A probe (RFC 5227) for its address is answered, so that nobody thinks it free. */
static void a_probe_for_the_gateways_address_is_answered(void)
{
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    build_arp(1, web, "0.0.0.0", "10.5.0.1");
    g_assert_true(net_input(web, &b));
    g_assert_cmpuint(net.n_sent, ==, 1);
    net_end();
}

static void a_network_has_its_gateways_mac_for_ever(void)
{
    Mac before, other;

    net_begin(NAT);
    before = *gateway_mac(net.sw.gateway);
    net_restart();
    g_assert_true(mac_equal(&before, gateway_mac(net.sw.gateway)));
    net_end();
    net_begin("nat,subnet=10.6.0.0/24");
    net.sw.name = "lab";
    gateway_free(net.sw.gateway);
    net.sw.gateway = gateway_new(&net.sw, NULL);
    other = *gateway_mac(net.sw.gateway);
    g_assert_false(mac_equal(&before, &other));
    net.sw.name = "lan";
    net_end();
}

static void build_ns(const Port *from, const char *source, const char *target)
{
    Ip s = net_ip(source), t = net_ip(target);
    Ip group = {{0xff, 2, [11] = 1, 0xff, t.b[13], t.b[14], t.b[15]}};
    Mac mac = {{0x33, 0x33, 0xff, t.b[13], t.b[14], t.b[15]}};

    build_ip(&b, &mac, &from->mac, &s, &group, IPPROTO_ICMPV6, 255);
    build_u32(&b, 135u << 24);
    build_u32(&b, 0);
    build_bytes(&b, t.b, 16);
    if (!ip_is_unspecified(&s)) {
        build_u16(&b, 0x0101);
        build_bytes(&b, from->mac.b, 6);
    }
}

static void solicitations_for_the_gateway_are_answered(void)
{
    static const struct {
        const char *from, *target, *to, *flags;
    } cases[] = {
        {"fd00:5::7", "fd00:5::1", "fd00:5::7", "e0"},
        {"fe80::ff:fe00:7", "fd00:5::1", "fe80::ff:fe00:7", "e0"},
        {"::", "fd00:5::1", "ff02::1", "a0"}, /* who looks whether it is free */
    };
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        const NetSent *s = &net.sent[0];

        net_clear();
        build_ns(web, cases[i].from, cases[i].target);
        g_assert_true(net_input(web, &b));
        g_assert_true(net_taken);
        g_assert_cmpuint(net.n_sent, ==, 1);
        g_assert_true(s->to == web);
        assert_ip(&s->p.from, cases[i].target);
        assert_ip(&s->p.to, cases[i].to);
        g_assert_cmpuint(s->p.ttl, ==, 255);
        g_assert_cmpuint(s->p.icmp_type, ==, ND_NEIGHBOR_ADVERT);
        assert_bytes(s->data + s->p.transport + 4, 1, cases[i].flags);
        assert_bytes(s->data + s->p.transport + 8, 18,
                     "fd0000050000000000000000000000010201");
        g_assert_true(memcmp(s->data + s->p.transport + 26,
                             gateway_mac(net.sw.gateway)->b, 6) == 0);
    }
    net_clear();
    build_ns(web, "fd00:5::7", "fd00:5::9"); /* another's */
    g_assert_true(net_input(web, &b));
    g_assert_false(net_taken);
    g_assert_cmpuint(net.n_sent, ==, 0);
    build_ns(web, "fd00:5::7", "fd00:5::1");
    b.data[ETH_HEADER + 7] = 254; /* from beyond the link (RFC 4861, 7.1.1) */
    net_input(web, &b);
    g_assert_cmpuint(net.n_sent, ==, 0);
    net_end();
}

/* No router's flag where there is no way out. */
static void an_isolated_network_has_no_router(void)
{
    Port *web;

    net_begin("isolated,subnet6=fd00:5::/64");
    web = net_port("web", 7, NULL);
    build_ns(web, "fd00:5::7", "fd00:5::1");
    g_assert_true(net_input(web, &b));
    g_assert_cmpuint(net.n_sent, ==, 1);
    assert_bytes(net.sent[0].data + net.sent[0].p.transport + 4, 1, "60");
    net_end();
}

static void build_echo(const Port *from, const char *source, const char *to)
{
    Ip s = net_ip(source), t = net_ip(to);
    bool v4 = ip_is_v4(&s);

    build_ip(&b, gateway_mac(net.sw.gateway), &from->mac, &s, &t,
             v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, 33);
    build_u32(&b, v4 ? 8u << 24 : 128u << 24);
    build_u32(&b, 0x12340001);
    build_bytes(&b, "hello", 5);
}

/* Each sum of the reply is what a stack would compute. */
static void assert_sums(const NetSent *s)
{
    Builder again;
    const Packet *p = &s->p;

    build_ip(&again, &p->dst, &p->src, &p->from, &p->to, p->proto, p->ttl);
    build_bytes(&again, s->data + p->transport, p->end - p->transport);
    g_assert_true(build_end(&again));
    g_assert_cmpmem(again.data, again.len, s->data, s->len);
}

static void pings_are_answered(void)
{
    static const struct {
        const char *from, *to;
        uint8_t type;
    } cases[] = {{"10.5.0.7", "10.5.0.1", 0}, {"fd00:5::7", "fd00:5::1", 129}};
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        const NetSent *s = &net.sent[0];

        net_clear();
        build_echo(web, cases[i].from, cases[i].to);
        g_assert_true(net_input(web, &b));
        g_assert_true(net_taken);
        g_assert_cmpuint(net.n_sent, ==, 1);
        assert_ip(&s->p.from, cases[i].to);
        assert_ip(&s->p.to, cases[i].from);
        g_assert_true(mac_equal(&s->p.dst, &web->mac));
        g_assert_cmpuint(s->p.icmp_type, ==, cases[i].type);
        g_assert_cmpuint(s->p.icmp_id, ==, 0x1234);
        assert_sums(s);
    }
    net_clear();
    build_echo(web, "10.5.0.7", "10.5.0.9"); /* not the gateway's to answer */
    net_input(web, &b);
    for (unsigned i = 0; i < net.n_sent; i++) /* but it may ask for who will */
        g_assert_cmpuint(net.sent[i].p.kind, ==, PACKET_ARP);
    net_end();
}

/* ---- packets for hosts ----------------------------------------------------------------
 */

static void to_host(const char *to)
{
    Ip from = net_ip(strchr(to, ':') ? "2001:db8::1" : "192.0.2.1"), ip = net_ip(to);
    uint8_t room[FRAME_ROOM + 128] = {0};
    Frame f = {.data = room + FRAME_ROOM};

    build_ip(&b, &net_broadcast, &net_broadcast, &from, &ip, IPPROTO_UDP, 9);
    build_udp(&b, 53, 1000);
    g_assert_true(build_end(&b));
    memcpy(f.data, b.data, f.len = b.len);
    gateway_to_host(net.sw.gateway, &f);
}

static void packets_wait_until_the_host_is_found(void)
{
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    to_host("10.5.0.7");
    to_host("10.5.0.7");
    g_assert_cmpuint(net.n_sent, ==, 1); /* asked once, to all */
    g_assert_cmpuint(net.sent[0].p.arp_op, ==, 1);
    g_assert_null(net.sent[0].to);
    g_assert_true(mac_equal(&net.sent[0].p.dst, &net_broadcast));
    assert_ip(&net.sent[0].p.to, "10.5.0.7");
    net_clear();
    build_arp(2, web, "10.5.0.7", "10.5.0.1");
    g_assert_true(net_input(web, &b));
    g_assert_cmpuint(net.n_sent, ==, 2); /* those that waited */
    g_assert_true(mac_equal(&net.sent[1].p.dst, &web->mac));
    g_assert_true(mac_equal(&net.sent[1].p.src, gateway_mac(net.sw.gateway)));
    to_host("10.5.0.7");
    g_assert_cmpuint(net.n_sent, ==, 3); /* and the next goes at once */
    net_end();
}

static void a_host_of_ipv6_is_asked_for_at_its_group(void)
{
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    to_host("fd00:5::abcd:7");
    g_assert_cmpuint(net.n_sent, ==, 1);
    assert_ip(&net.sent[0].p.to, "ff02::1:ffcd:7");
    assert_bytes(net.sent[0].data, 6, "3333ffcd0007");
    net_clear();
    build_ns(web, "fd00:5::abcd:7", "fd00:5::1");
    g_assert_true(net_input(web, &b));
    g_assert_cmpuint(net.n_sent, ==, 2);
    net_end();
}

static void what_waits_is_bounded(void)
{
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    for (unsigned i = 0; i < 1000; i++)
        to_host("10.5.0.7");
    net_clear();
    build_arp(2, web, "10.5.0.7", "10.5.0.1");
    g_assert_true(net_input(web, &b));
    g_assert_cmpuint(net.n_sent, ==, 8);
    net_clear();
    for (unsigned i = 2; i < 250; i++) { /* nobody is there */
        g_autofree char *ip = g_strdup_printf("10.5.0.%u", i);

        for (unsigned j = 0; j < 100; j++)
            to_host(ip);
    }
    to_host("10.5.0.1");
    to_host("10.5.0.0");
    to_host("192.0.2.9"); /* no host of this network */
    g_assert_cmpuint(net.n_sent, <, 500);
    net_end();
}

/* Packets to addresses that nobody has become questions to all ports, which are counted
 * as broadcasts are. */
static void questions_are_no_storm(void)
{
    net_begin("nat,subnet=10.5.0.0/16,storm=50");
    net.sw.now_ns = clock_ns();
    for (unsigned i = 0; i < 2000; i++) {
        g_autofree char *ip = g_strdup_printf("10.5.%u.%u", 1 + i / 200, 2 + i % 200);

        to_host(ip);
    }
    g_assert_cmpuint(net.n_sent, >=, 50);
    g_assert_cmpuint(net.n_sent, <=, 52);
    net_clear();
    net.sw.now_ns += 500000000;
    for (unsigned i = 0; i < 2000; i++) {
        g_autofree char *ip = g_strdup_printf("10.5.%u.%u", 11 + i / 200, 2 + i % 200);

        to_host(ip);
    }
    g_assert_cmpuint(net.n_sent, >=, 24);
    g_assert_cmpuint(net.n_sent, <=, 27);
    net_end();
}

/* A silent host is asked again while its packets go on, and then given up. */
static void a_host_that_went_away_is_forgotten(void)
{
    Port *web;
    Mac mac;
    Ip ip = net_ip("10.5.0.7");

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    build_arp(1, web, "10.5.0.7", "10.5.0.1");
    g_assert_true(net_input(web, &b));
    net_clear();
    net.sw.now_ns += 31 * 1000000000ll;
    to_host("10.5.0.7");
    g_assert_cmpuint(net.n_sent, ==, 2);
    g_assert_cmpuint(net.sent[0].p.arp_op, ==, 1);
    g_assert_true(mac_equal(&net.sent[0].p.dst, &web->mac)); /* only it is asked */
    for (unsigned i = 0; i < 3; i++) {
        net.sw.now_ns += 2 * 1000000000ll;
        net_clear();
        to_host("10.5.0.7");
    }
    g_assert_cmpuint(net.n_sent, ==, 1);
    g_assert_true(mac_equal(&net.sent[0].p.dst, &net_broadcast));
    g_assert_false(neighbour_find(net.sw.gateway, &ip, &mac));
    net_end();
}

static void a_port_that_goes_takes_its_addresses_along(void)
{
    Port *web;
    Mac mac;
    Ip ip = net_ip("10.5.0.7");

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.7");
    build_arp(1, web, "10.5.0.7", "10.5.0.7"); /* gratuitous */
    g_assert_true(net_input(web, &b));
    g_assert_true(neighbour_find(net.sw.gateway, &ip, &mac));
    net_unplug(web);
    g_assert_false(neighbour_find(net.sw.gateway, &ip, &mac));
    net_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/arp/answered", arp_for_the_gateway_is_answered_to_who_asked);
    g_test_add_func("/arp/others", arp_for_others_is_left_to_them);
    g_test_add_func("/arp/probe", a_probe_for_the_gateways_address_is_answered);
    g_test_add_func("/arp/mac", a_network_has_its_gateways_mac_for_ever);
    g_test_add_func("/nd/answered", solicitations_for_the_gateway_are_answered);
    g_test_add_func("/nd/isolated", an_isolated_network_has_no_router);
    g_test_add_func("/echo", pings_are_answered);
    g_test_add_func("/host/waits", packets_wait_until_the_host_is_found);
    g_test_add_func("/host/ipv6", a_host_of_ipv6_is_asked_for_at_its_group);
    g_test_add_func("/host/bounded", what_waits_is_bounded);
    g_test_add_func("/host/storm", questions_are_no_storm);
    g_test_add_func("/host/gone", a_host_that_went_away_is_forgotten);
    g_test_add_func("/host/unplugged", a_port_that_goes_takes_its_addresses_along);
    return g_test_run();
}
