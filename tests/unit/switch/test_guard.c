/* Anti-spoofing: what must pass and what must not, frame by frame. */
#include "tests/unit/switch/dhcp_client.h"

#define NAT    "nat,subnet=10.5.0.0/24,subnet6=fd00:5::/64"
#define MANUAL "nat,subnet=10.5.0.0/24,subnet6=fd00:5::/64,dhcp=off"

static Builder b;
static Port *web, *victim;

/* web has 10.5.0.7 by hand and MAC ..07; victim 10.5.0.8, fd00:5::8 and MAC ..08. */
static void begin(const char *options)
{
    Ip ip = net_ip("fd00:5::8");

    net_begin(options);
    web = net_port("web", 7, "10.5.0.7");
    victim = net_port("victim", 8, "10.5.0.8");
    g_assert_true(guard_add(victim->guard, &ip, NULL));
}

static void build_arp(uint16_t op, Mac from, const char *sender, const char *target)
{
    Ip s = net_ip(sender), t = net_ip(target);

    build_eth(&b, &net_broadcast, &web->mac, ETHER_ARP);
    build_u16(&b, 1);
    build_u16(&b, ETHER_IPV4);
    build_u16(&b, 0x0604);
    build_u16(&b, op);
    build_bytes(&b, from.b, 6);
    build_u32(&b, ip_to_v4(&s));
    build_room(&b, 6);
    build_u32(&b, ip_to_v4(&t));
}

static void arp_says_what_is_true(void)
{
    static const struct {
        uint16_t op;
        uint8_t mac;
        const char *sender, *target;
        bool pass;
    } cases[] = {
        {1, 7, "10.5.0.7", "10.5.0.8", true},
        {2, 7, "10.5.0.7", "10.5.0.8", true},
        {1, 7, "10.5.0.7", "10.5.0.7", true}, /* gratuitous */
        {1, 7, "0.0.0.0", "10.5.0.9", true},  /* a probe */
        {2, 7, "0.0.0.0", "10.5.0.9", false},
        {1, 8, "10.5.0.7", "10.5.0.8", false}, /* another's station */
        {1, 7, "10.5.0.8", "10.5.0.8", false}, /* another's address */
        {2, 7, "10.5.0.1", "10.5.0.8", false}, /* the gateway's */
        {1, 7, "10.5.0.9", "10.5.0.8", false}, /* nobody's, where DHCP gives them */
        {1, 7, "169.254.3.4", "10.5.0.8", false},
        {3, 7, "10.5.0.7", "10.5.0.8", false}, /* RARP in ARP's clothes */
    };

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        build_arp(cases[i].op, net_mac(cases[i].mac), cases[i].sender, cases[i].target);
        g_assert_cmpint(net_input(web, &b), ==, cases[i].pass);
    }
    net_end();
}

static void udp(const char *from, const char *to, uint16_t from_port, uint16_t to_port)
{
    Ip f = net_ip(from), t = net_ip(to);

    build_ip(&b, &victim->mac, &web->mac, &f, &t, IPPROTO_UDP, 0);
    build_udp(&b, from_port, to_port);
    build_u32(&b, 0);
}

static void ip_sources_are_the_ports_own(void)
{
    static const struct {
        const char *from, *to;
        uint16_t from_port, to_port;
        bool pass;
    } cases[] = {
        {"10.5.0.7", "10.5.0.8", 1000, 53, true},
        {"10.5.0.7", "192.0.2.1", 68, 67, true},
        {"10.5.0.8", "10.5.0.7", 1000, 53, false},
        {"10.5.0.1", "10.5.0.8", 1000, 53, false},
        {"10.5.0.9", "10.5.0.8", 1000, 53, false},
        {"192.0.2.1", "10.5.0.8", 1000, 53, false},
        {"255.255.255.255", "10.5.0.8", 1000, 53, false},
        {"0.0.0.0", "10.5.0.8", 1000, 53, false},
        {"0.0.0.0", "255.255.255.255", 68, 67, true},
        {"10.5.0.7", "10.5.0.8", 67, 68, false}, /* DHCP's server */
        {"10.5.0.7", "255.255.255.255", 1067, 68, false},
        {"10.5.0.8", "10.5.0.9", 68, 67, false}, /* not to this network's server */
        {"fd00:5::7", "fd00:5::8", 1000, 53, true},
        {"fe80::7", "fd00:5::8", 1000, 53, true},
        {"fd00:5::8", "fd00:5::7", 1000, 53, false},
        {"fd00:5::1", "fd00:5::8", 1000, 53, false},
        {"fd00:5::", "fd00:5::8", 1000, 53, false},
        {"fd00:6::7", "fd00:5::8", 1000, 53, false},
        {"fe80::ff:fe00:8", "fd00:5::8", 1000, 53, false}, /* formed of another's MAC */
        {"fd00:5::ff:fe00:8", "fd00:5::8", 1000, 53, false},
        {"::", "fd00:5::8", 1000, 53, false},
        {"ff02::1", "fd00:5::8", 1000, 53, false},
        {"fe80::7", "ff02::1:2", 546, 547, true},
        {"fe80::7", "fe80::8", 547, 546, false}, /* DHCPv6's server */
        {"fe80::7", "fe80::8", 1000, 546, false},
    };

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        udp(cases[i].from, cases[i].to, cases[i].from_port, cases[i].to_port);
        if (net_input(web, &b) != cases[i].pass) {
            g_test_message("%s to %s", cases[i].from, cases[i].to);
            g_test_fail();
        }
    }
    net_end();
}

/* An IP packet whose content is `proto`, eight bytes beginning with `type`. */
static void ip_with(const char *from, const char *to, uint8_t proto, uint8_t type)
{
    Ip f = net_ip(from), t = net_ip(to);

    build_ip(&b, &victim->mac, &web->mac, &f, &t, proto, 255);
    build_u32(&b, (uint32_t)type << 24);
    build_room(&b, 20);
}

static void routers_messages_do_not_pass(void)
{
    static const struct {
        const char *from, *to;
        uint8_t proto, type;
        bool pass;
    } cases[] = {
        {"10.5.0.7", "10.5.0.8", IPPROTO_ICMP, 8, true},
        {"10.5.0.7", "10.5.0.8", IPPROTO_ICMP, 5, false}, /* redirect */
        {"10.5.0.7", "10.5.0.8", IPPROTO_ICMP, 9, false}, /* router advertisement */
        {"10.5.0.7", "224.0.0.18", 112, 0x21, false},     /* VRRP */
        {"fe80::7", "ff02::12", 112, 0x31, false},
        {"fe80::7", "fe80::8", IPPROTO_ICMPV6, 128, true},
        {"fe80::7", "ff02::1", IPPROTO_ICMPV6, 134, false}, /* router advertisement */
        {"fe80::7", "fe80::8", IPPROTO_ICMPV6, 137, false}, /* redirect */
        {"fe80::7", "ff02::1", IPPROTO_ICMPV6, 138, false}, /* renumbering */
        {"fe80::7", "ff02::1", IPPROTO_ICMPV6, 141, false},
        {"fe80::7", "ff02::16", IPPROTO_ICMPV6, 143, true}, /* MLD */
        {"::", "ff02::16", IPPROTO_ICMPV6, 143, true},
        {"::", "ff02::2", IPPROTO_ICMPV6, 128, false},
    };

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        ip_with(cases[i].from, cases[i].to, cases[i].proto, cases[i].type);
        g_assert_cmpint(net_input(web, &b), ==, cases[i].pass);
    }
    net_end();
}

/* RFC 7113: a router advertisement behind headers, and in two pieces. */
static void router_advertisements_do_not_hide(void)
{
    Ip from = net_ip("fe80::7"), to = net_ip("ff02::1");

    begin(NAT);
    build_ip(&b, &net_broadcast, &web->mac, &from, &to, 60 /* options */, 255);
    build_u32(&b, (uint32_t)IPPROTO_ICMPV6 << 24 | 1 << 8 | 4);
    build_u32(&b, 0);
    build_u32(&b, 134u << 24);
    build_room(&b, 20);
    g_assert_false(net_input(web, &b));

    build_ip(&b, &net_broadcast, &web->mac, &from, &to, 44 /* fragment */, 255);
    build_u32(&b, (uint32_t)60 << 24 | 1); /* the options end in the next fragment */
    build_u32(&b, 99);
    build_u32(&b, (uint32_t)IPPROTO_ICMPV6 << 24 | 9 << 16);
    build_room(&b, 4);
    g_assert_false(net_input(web, &b));

    build_ip(&b, &net_broadcast, &web->mac, &from, &to, 44, 255);
    build_u32(&b, (uint32_t)IPPROTO_ICMPV6 << 24 | 1);
    build_u32(&b, 99);
    build_u32(&b, 134u << 24);
    build_u32(&b, 0);
    g_assert_false(net_input(web, &b));
    net_end();
}

static void dhcp_servers_do_not_hide(void)
{
    Ip from = net_ip("10.5.0.7"), to = net_ip("255.255.255.255");

    begin(NAT);
    udp("10.5.0.7", "255.255.255.255", 67, 68); /* in two pieces */
    build_u32(&b, 0);
    g_assert_true(build_end(&b));
    b.data[ETH_HEADER + 6] = 0x20;
    {
        Frame f = {.data = b.data, .len = b.len};

        g_assert_true(packet_parse(b.data, b.len, &f.p));
        g_assert_true(f.p.fragment);
        g_assert_false(guard_check(web, &f));
    }
    build_ip(&b, &net_broadcast, &web->mac, &from, &to, IPPROTO_UDP, 0);
    build_udp(&b, 67, 68);
    g_assert_true(build_end(&b));
    b.data[ETH_HEADER + 20 + 5] = 200; /* longer than what is there */
    {
        Frame f = {.data = b.data, .len = b.len};

        g_assert_true(packet_parse(b.data, b.len, &f.p));
        g_assert_false(guard_check(web, &f));
    }
    net_end();
}

/* From `source` about `target`, naming a station: 0: none. */
static void nd(uint8_t type, const char *source, const char *to, const char *target,
               uint8_t option, uint8_t mac)
{
    Ip s = net_ip(source), d = net_ip(to), t = net_ip(target);
    Mac m = net_mac(mac);

    build_ip(&b, &net_broadcast, &web->mac, &s, &d, IPPROTO_ICMPV6, 255);
    build_u32(&b, (uint32_t)type << 24);
    build_u32(&b, 0);
    build_bytes(&b, t.b, 16);
    if (option) {
        build_u16(&b, (uint16_t)(option << 8 | 1));
        build_bytes(&b, m.b, 6);
    }
}

static void neighbour_discovery_says_what_is_true(void)
{
    static const struct {
        uint8_t type;
        const char *source, *to, *target;
        uint8_t option, mac;
        bool pass;
    } cases[] = {
        {135, "fe80::7", "ff02::1:ff00:8", "fd00:5::8", 1, 7, true},
        {135, "fe80::7", "ff02::1:ff00:8", "fd00:5::8", 1, 8, false},
        {135, "fd00:5::8", "ff02::1:ff00:9", "fd00:5::9", 1, 7, false},
        {135, "::", "ff02::1:ff00:9", "fd00:5::9", 0, 0, true}, /* whether it is free */
        {135, "::", "ff02::1:ff00:8", "fd00:5::8", 0, 0,
         true}, /* the victim will answer */
        {135, "::", "fd00:5::8", "fd00:5::8", 0, 0, false},
        {136, "fe80::7", "ff02::1", "fe80::7", 2, 7, true},
        {136, "fe80::7", "ff02::1", "fe80::7", 2, 8, false},
        {136, "fe80::7", "ff02::1", "fd00:5::8", 2, 7, false},
        {136, "fe80::7", "ff02::1", "fd00:5::1", 2, 7, false},
        {136, "fd00:5::8", "ff02::1", "fd00:5::8", 2, 7, false},
    };

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        nd(cases[i].type, cases[i].source, cases[i].to, cases[i].target, cases[i].option,
           cases[i].mac);
        g_assert_cmpint(net_input(web, &b), ==, cases[i].pass);
    }
    nd(136, "fe80::7", "ff02::1", "fe80::7", 2, 7);
    b.data[ETH_HEADER + 7] = 64; /* from elsewhere */
    g_assert_false(net_input(web, &b));
    nd(136, "fe80::7", "ff02::1", "fe80::7", 2, 7);
    b.data[ETH_HEADER + 40 + 25] = 0; /* an option without end */
    g_assert_false(net_input(web, &b));
    /* The one that was looked for first is its own. */
    g_assert_true(net_has(web, &(Ip){{0xfd, 0, 0, 5, [15] = 9}}));
    g_assert_false(net_has(web, &(Ip){{0xfd, 0, 0, 5, [15] = 8}}));
    net_end();
}

static void stations_are_the_ports_own(void)
{
    Mac odd[] = {net_mac(8), {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, {{0}}, {{1}}};

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(odd); i++) {
        udp("10.5.0.7", "10.5.0.8", 1000, 53);
        memcpy(b.data + 6, odd[i].b, 6);
        g_assert_false(net_input(web, &b));
    }
    net_end();
}

static void a_stream_has_the_mac_of_its_first_frame(void)
{
    Port *stream;
    Mac own = net_mac(9);

    begin(MANUAL);
    stream = net_port(NULL, 0, NULL);
    udp("10.5.0.9", "10.5.0.8", 1000, 53);
    memcpy(b.data + 6, victim->mac.b, 6);
    g_assert_false(net_input(stream, &b)); /* which another has */
    memcpy(b.data + 6, gateway_mac(net.sw.gateway)->b, 6);
    g_assert_false(net_input(stream, &b));
    memcpy(b.data + 6, own.b, 6);
    g_assert_true(net_input(stream, &b));
    g_assert_true(mac_equal(&stream->mac, &own));
    own = net_mac(10);
    memcpy(b.data + 6, own.b, 6);
    g_assert_false(net_input(stream, &b));
    net_end();
}

static void what_cannot_be_checked_does_not_pass(void)
{
    static const struct {
        uint16_t ether_type;
        uint8_t dst5; /* of 01:80:c2:00:00:xx; 0xff: broadcast */
        bool pass;
    } cases[] = {
        {0x88b5, 0xff, true}, /* an experiment */
        {0x8100, 0xff, false},     {0x88a8, 0xff, false},
        {0x0040, 0xff, false}, /* 802.2 */
        {0x88cc, 0x0e, false}, /* LLDP, to a bridge */
        {0x88cc, 0x20, true},      {ETHER_ARP, 0xff, false},
        {ETHER_IPV4, 0xff, false}, {ETHER_IPV6, 0xff, false},
    };

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Mac dst = {{0x01, 0x80, 0xc2, 0, 0, cases[i].dst5}};

        build_eth(&b, cases[i].dst5 == 0xff ? &net_broadcast : &dst, &web->mac,
                  cases[i].ether_type);
        build_room(&b, 16);
        g_assert_cmpint(net_input(web, &b), ==, cases[i].pass);
    }
    net_end();
}

static void first_come_first_served_where_nobody_gives_addresses(void)
{
    begin(MANUAL);
    udp("10.5.0.20", "10.5.0.8", 1000, 53);
    g_assert_true(net_input(web, &b));
    udp("10.5.0.8", "10.5.0.7", 1000, 53); /* by hand another's */
    g_assert_false(net_input(web, &b));
    udp("10.5.0.255", "10.5.0.7", 1000, 53);
    g_assert_false(net_input(web, &b));
    udp("10.6.0.3", "10.5.0.7", 1000, 53);
    g_assert_false(net_input(web, &b));
    udp("10.5.0.20", "10.5.0.7", 1000, 53);
    memcpy(b.data + 6, victim->mac.b, 6);
    g_assert_false(net_input(victim, &b)); /* web has it now */
    net.sw.now_ns += 601 * 1000000000ll;
    g_assert_true(net_input(victim, &b)); /* and has not used it for long */
    udp("10.5.0.20", "10.5.0.7", 1000, 53);
    g_assert_false(net_input(web, &b));
    net_end();
}

static void a_port_learns_a_bounded_number(void)
{
    unsigned passed = 0;

    begin(MANUAL);
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 20; i < 100; i++) {
            g_autofree char *from = g_strdup_printf("10.5.0.%u", i);

            udp(from, "10.5.0.8", 1000, 53);
            passed += net_input(web, &b);
        }
    g_assert_cmpuint(passed, ==, 32);      /* the same sixteen twice */
    udp("10.5.0.7", "10.5.0.8", 1000, 53); /* by hand, always */
    g_assert_true(net_input(web, &b));
    net.sw.now_ns += 61 * 1000000000ll; /* those of yesterday make room */
    udp("10.5.0.99", "10.5.0.8", 1000, 53);
    g_assert_true(net_input(web, &b));
    net_end();
}

/* By hand is stronger than by use, and refused only where another was given it. */
static void addresses_by_hand_come_first(void)
{
    g_autoptr(GError) error = NULL;
    Ip ip = net_ip("10.5.0.30"), gateway = net_ip("10.5.0.1"), taken = net_ip("10.5.0.8");

    begin(MANUAL);
    udp("10.5.0.30", "10.5.0.8", 1000, 53);
    g_assert_true(net_input(web, &b));
    g_assert_true(guard_add(victim->guard, &ip, NULL));
    g_assert_false(net_has(web, &ip));
    udp("10.5.0.30", "10.5.0.8", 1000, 53);
    g_assert_false(net_input(web, &b));
    g_assert_false(guard_add(web->guard, &taken, &error));
    g_assert_nonnull(strstr(error->message, "10.5.0.8"));
    g_assert_nonnull(strstr(error->message, "'victim'"));
    g_clear_error(&error);
    g_assert_false(guard_add(web->guard, &gateway, &error));
    g_assert_nonnull(strstr(error->message, "gateway"));
    g_assert_true(guard_owner(&net.sw, &ip) == victim);
    net_end();
}

/* A VM that does not run keeps what is its own by config. */
static void static_leases_of_others_are_not_learned(void)
{
    begin("nat,subnet6=fd00:5::/64,lease=db=fd00:5::77");
    udp("fd00:5::77", "fd00:5::8", 1000, 53);
    g_assert_false(net_input(web, &b));
    udp("fd00:5::78", "fd00:5::8", 1000, 53);
    g_assert_true(net_input(web, &b));
    net_end();
}

static void trusted_ports_and_open_networks_are_believed(void)
{
    begin(NAT);
    udp("192.0.2.1", "10.5.0.8", 67, 68);
    web->trusted = true;
    g_assert_true(net_input(web, &b));
    web->trusted = false;
    g_assert_false(net_input(web, &b));
    net_set(NAT ",spoof=on");
    g_assert_true(net_input(web, &b));
    net_end();
}

/* Its client may still have a lease that nobody here knows: it is told so. */
static void a_client_with_an_old_lease_is_heard_by_the_server(void)
{
    Port *late;
    Ip ip;

    begin(NAT);
    late = net_port("late", 9, NULL);
    g_assert_cmpuint(dhcp_ask(late, REQUEST, &(DhcpOptions){.ciaddr = "10.5.0.8"}, &ip),
                     ==, NAK);
    g_assert_cmpuint(
        dhcp_ask(late, REQUEST, &(DhcpOptions){.ciaddr = "10.5.0.8", .renew = true}, &ip),
        ==, NAK);
    g_assert_cmpuint(dhcp_ask(late, REQUEST, &(DhcpOptions){.ciaddr = "10.5.0.99"}, &ip),
                     ==, ACK);
    net_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guard/arp", arp_says_what_is_true);
    g_test_add_func("/guard/ip", ip_sources_are_the_ports_own);
    g_test_add_func("/guard/routers", routers_messages_do_not_pass);
    g_test_add_func("/guard/ra-hidden", router_advertisements_do_not_hide);
    g_test_add_func("/guard/dhcp-hidden", dhcp_servers_do_not_hide);
    g_test_add_func("/guard/nd", neighbour_discovery_says_what_is_true);
    g_test_add_func("/guard/mac", stations_are_the_ports_own);
    g_test_add_func("/guard/stream", a_stream_has_the_mac_of_its_first_frame);
    g_test_add_func("/guard/other", what_cannot_be_checked_does_not_pass);
    g_test_add_func("/guard/learned",
                    first_come_first_served_where_nobody_gives_addresses);
    g_test_add_func("/guard/bounded", a_port_learns_a_bounded_number);
    g_test_add_func("/guard/hand", addresses_by_hand_come_first);
    g_test_add_func("/guard/static", static_leases_of_others_are_not_learned);
    g_test_add_func("/guard/trusted", trusted_ports_and_open_networks_are_believed);
    g_test_add_func("/guard/old-lease",
                    a_client_with_an_old_lease_is_heard_by_the_server);
    return g_test_run();
}
