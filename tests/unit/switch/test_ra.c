/* Router advertisements, byte for byte. */
#include "tests/unit/switch/gateway_net.h"

#define NAT "nat,subnet6=fd00:5::/64"

static Builder b;
static Port *web;

static void begin(const char *options)
{
    net_begin(options);
    web = net_port("web", 7, NULL);
}

static void solicit(const char *from)
{
    static const Mac routers = {{0x33, 0x33, 0, 0, 0, 2}};
    Ip s = net_ip(from), to = net_ip("ff02::2");

    net_clear();
    build_ip(&b, &routers, &web->mac, &s, &to, IPPROTO_ICMPV6, 255);
    build_u32(&b, 133u << 24);
    build_u32(&b, 0);
    if (!ip_is_unspecified(&s)) {
        build_u16(&b, 0x0101);
        build_bytes(&b, web->mac.b, 6);
    }
}

static void assert_sent(const char *expect)
{
    g_autoptr(GString) hex = g_string_new(NULL);
    const NetSent *s = &net.sent[0];

    g_assert_cmpuint(net.n_sent, ==, 1);
    g_assert_cmpuint(s->p.icmp_type, ==, 134);
    g_assert_cmpuint(s->p.ttl, ==, 255);
    g_assert_true(ip_is_link_local(&s->p.from));
    for (size_t i = s->p.transport + 4; i < s->p.end; i++)
        g_string_append_printf(hex, "%02x", s->data[i]);
    g_assert_cmpstr(hex->str, ==, expect);
}

/* The option of the gateway's station, which follows from the network's name. */
static char *with_mac(const char *before, const char *after)
{
    const uint8_t *m = gateway_mac(net.sw.gateway)->b;

    return g_strdup_printf("%s0101%02x%02x%02x%02x%02x%02x%s", before, m[0], m[1], m[2],
                           m[3], m[4], m[5], after);
}

#define HEADER     "40c023280000000000000000"
#define NO_ROUTER  "40c000000000000000000000"
#define MTU        "05010000000005dc"
#define PREFIX     "030440c0000151800001518000000000fd000005000000000000000000000000"
#define OLD_PREFIX "030440c000001c200000000000000000fd000005000000000000000000000000"
#define NEW_PREFIX "030440c0000151800001518000000000fd000006000000000000000000000000"
#define DNS                                                                              \
    "1903000000015180fd000005000000000000000000000001"                                   \
    "1f03000000015180036c616e08696e7465726e616c000000"

static void who_asks_is_told_alone(void)
{
    static const char *const askers[][2] = {{"fe80::7", "fe80::7"}, {"::", "ff02::1"}};

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(askers); i++) {
        g_autofree char *expect = with_mac(HEADER, MTU PREFIX DNS);

        solicit(askers[i][0]);
        g_assert_true(net_input(web, &b));
        g_assert_false(net_taken); /* other routers may answer, too */
        assert_sent(expect);
        g_assert_true(net.sent[0].to == web);
        assert_ip(&net.sent[0].p.to, askers[i][1]);
    }
    net_end();
}

static void an_isolated_network_has_no_router(void)
{
    g_autofree char *expect = NULL;

    begin("isolated,subnet6=fd00:5::/64,dns=off,mtu=1400");
    expect = with_mac(NO_ROUTER, "0501000000000578" PREFIX);
    solicit("fe80::7");
    net_input(web, &b);
    assert_sent(expect);
    net_end();
}

static void a_network_without_dhcp_has_no_advertisements(void)
{
    begin(NAT ",dhcp=off");
    solicit("fe80::7");
    net_input(web, &b);
    g_assert_cmpuint(net.n_sent, ==, 0);
    g_assert_cmpuint(net.n_sent, ==, 0);
    net_end();
    begin("nat,subnet=10.5.0.0/24");
    solicit("fe80::7");
    net_input(web, &b);
    g_assert_cmpuint(net.n_sent, ==, 0);
    net_end();
}

/* All hear at once that a prefix is no longer to be used. */
static void a_new_prefix_replaces_the_old_one(void)
{
    g_autofree char *expect = NULL;

    begin(NAT ",dns=off");
    expect = with_mac(HEADER, MTU NEW_PREFIX OLD_PREFIX);
    net_set("nat,subnet6=fd00:6::/64,dns=off");
    assert_sent(expect);
    g_assert_null(net.sent[0].to);
    assert_ip(&net.sent[0].p.to, "ff02::1");
    g_free(expect);
    expect = with_mac(HEADER, MTU NEW_PREFIX);
    solicit("fe80::7");
    net_input(web, &b);
    assert_sent(expect);
    net_end();
}

#define ROUTE   "1802400000002328fd00000600000000"
#define ROUTE_7 "1802400000002328fd00000700000000"
#define OVER    "1802400000000000fd00000600000000"

/* RFC 4191: at once, and those that are over, too. */
static void routes_to_other_networks_are_told(void)
{
    g_autofree char *both = NULL, *one = NULL, *after = NULL;

    begin(NAT ",dns=off");
    net_other("red", "routed,subnet6=fd00:6::/64");
    net_other("blue", "routed,subnet6=fd00:7::/64");
    both = with_mac(HEADER, MTU PREFIX ROUTE ROUTE_7);
    one = with_mac(HEADER, MTU PREFIX ROUTE_7 OVER);
    after = with_mac(HEADER, MTU PREFIX ROUTE_7);
    net_set(NAT ",dns=off,route=red,route=blue");
    net_last();
    assert_sent(both);
    solicit("fe80::7");
    net_input(web, &b);
    assert_sent(both);
    net_clear();
    net_set(NAT ",dns=off,route=blue");
    net_last();
    assert_sent(one);
    solicit("fe80::7");
    net_input(web, &b);
    assert_sent(after);
    net_end();
}

static void no_dhcp_any_more_is_no_router_any_more(void)
{
    g_autofree char *expect = NULL;

    begin(NAT ",dns=off");
    expect = with_mac("400000000000000000000000", MTU OLD_PREFIX);
    net_set(NAT ",dhcp=off");
    assert_sent(expect);
    net_clear();
    net_set(NAT ",dhcp=off,mtu=1400");
    g_assert_cmpuint(net.n_sent, ==, 0);
    net_end();
}

static void solicitations_from_elsewhere_are_not_answered(void)
{
    begin(NAT);
    web->trusted = true; /* the guard looks no closer */
    solicit("fe80::7");
    b.data[ETH_HEADER + 7] = 64;
    net_input(web, &b);
    solicit("fe80::7");
    b.data[ETH_HEADER + 41] = 1; /* its code */
    net_input(web, &b);
    g_assert_cmpuint(net.n_sent, ==, 0);
    net_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ra/asked", who_asks_is_told_alone);
    g_test_add_func("/ra/isolated", an_isolated_network_has_no_router);
    g_test_add_func("/ra/off", a_network_without_dhcp_has_no_advertisements);
    g_test_add_func("/ra/new-prefix", a_new_prefix_replaces_the_old_one);
    g_test_add_func("/ra/routes", routes_to_other_networks_are_told);
    g_test_add_func("/ra/no-dhcp", no_dhcp_any_more_is_no_router_any_more);
    g_test_add_func("/ra/elsewhere", solicitations_from_elsewhere_are_not_answered);
    return g_test_run();
}
