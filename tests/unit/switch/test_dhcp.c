/* DHCPv4, message by message. */
#include <glib/gstdio.h>

#include "tests/unit/switch/dhcp_client.h"

#define NAT "nat,subnet=10.5.0.0/24"

static Builder b;

static uint32_t option_u32(uint8_t code)
{
    size_t len = 0;
    const uint8_t *v = dhcp_option(&net.sent[0], code, &len);

    g_assert_nonnull(v);
    g_assert_cmpuint(len, ==, 4);
    return (uint32_t)v[0] << 24 | (uint32_t)v[1] << 16 | (uint32_t)v[2] << 8 | v[3];
}

static void assert_option(uint8_t code, const char *bytes, size_t expect)
{
    size_t len = 0;
    const uint8_t *v = dhcp_option(&net.sent[0], code, &len);

    g_assert_nonnull(v);
    g_assert_cmpmem(v, len, bytes, expect);
}

static bool has_option(uint8_t code)
{
    size_t len;

    return dhcp_option(&net.sent[0], code, &len) != NULL;
}

static void four_messages_make_a_lease(void)
{
    Port *web;
    const NetSent *s = &net.sent[0];
    Ip ip, again;
    char text[IP_TEXT];

    net_begin(NAT ",mtu=1400,domain=example.org");
    web = net_port("web", 7, NULL);
    g_assert_cmpuint(dhcp_ask(web, DISCOVER, &(DhcpOptions){0}, &ip), ==, OFFER);
    g_assert_true(net_taken);
    g_assert_true(ip_within(&ip, &net.sw.subnets.v4));
    g_assert_false(net_has(web, &ip)); /* it may not use it yet */
    ip_text(&ip, text);
    g_assert_cmpuint(dhcp_ask(web, REQUEST,
                              &(DhcpOptions){.requested = text, .server = "10.5.0.1"},
                              &again),
                     ==, ACK);
    g_assert_true(ip_equal(&ip, &again));
    g_assert_true(net_has(web, &ip));
    /* RFC 2131, 4.1: to its address, at its station, before it has it. */
    g_assert_true(ip_equal(&s->p.to, &ip));
    g_assert_true(mac_equal(&s->p.dst, &web->mac));
    assert_ip(&s->p.from, "10.5.0.1");
    g_assert_cmpmem(s->data + s->p.payload, 8, "\2\1\6\0\xfe\xed\xbe\xef", 8);
    g_assert_cmpuint(s->p.end - s->p.payload, >=, 300);
    g_assert_cmphex(option_u32(54), ==, 0x0a050001);
    g_assert_cmphex(option_u32(1), ==, 0xffffff00);
    g_assert_cmphex(option_u32(3), ==, 0x0a050001);
    g_assert_cmphex(option_u32(6), ==, 0x0a050001);
    g_assert_cmpuint(option_u32(51), ==, 86400);
    g_assert_cmpuint(option_u32(58), ==, 43200);
    g_assert_cmpuint(option_u32(59), ==, 75600);
    assert_option(26, "\x05\x78", 2);
    assert_option(15, "example.org", 11);
    net_end();
}

static void options_come_in_the_order_that_was_asked_for(void)
{
    static const uint8_t order[] = {53, 54, 12, 119, 28, 6, 1};
    Port *web;
    const uint8_t *at;
    Ip ip;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    g_assert_cmpuint(dhcp_ask(web, DISCOVER,
                              &(DhcpOptions){.wanted = "\x0c\x77\x1c\x06\x01\xfa\x0c",
                                             .client_id = "\1abc"},
                              &ip),
                     ==, OFFER);
    at = net.sent[0].data + net.sent[0].p.payload + 240;
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++, at += at[1] + 2)
        g_assert_cmpuint(*at, ==, order[i]);
    assert_option(12, "web", 3);
    assert_option(119, "\3lan\10internal", 14);
    assert_option(61, "\1abc", 4); /* RFC 6842 */
    g_assert_cmphex(option_u32(28), ==, 0x0a0500ff);
    net_end();
}

static void an_isolated_network_has_no_way_out(void)
{
    Port *web;
    Ip ip;

    net_begin("isolated,subnet=10.5.0.0/24,dns=off");
    web = net_port("web", 7, NULL);
    g_assert_cmpuint(dhcp_ask(web, DISCOVER, &(DhcpOptions){.wanted = "\3\6"}, &ip), ==,
                     OFFER);
    g_assert_false(has_option(3));
    g_assert_false(has_option(6));
    net_end();
}

/* With the default route, which clients would not take from the router option then. */
static void routes_to_other_networks_are_told_to_who_asks(void)
{
    static const char red[] = "\x18\x0a\x06\x00\x0a\x05\x00\x01", /* 10.6.0.0/24 */
        blue[] = "\x0c\xac\x10\x0a\x05\x00\x01",                  /* 172.16.0.0/12 */
        rest[] = "\x00\x0a\x05\x00\x01";
    g_autoptr(GString) expect = g_string_new(NULL);
    Port *web;
    Ip ip;

    g_string_append_len(expect, red, 8);
    g_string_append_len(expect, blue, 7);
    g_string_append_len(expect, rest, 5);
    net_begin("routed,subnet=10.5.0.0/24");
    net_other("red", "routed,subnet=10.6.0.0/24");
    net_other("blue", "routed,subnet=172.16.0.0/12");
    net_set("routed,subnet=10.5.0.0/24,route=red,route=blue");
    web = net_port("web", 7, NULL);
    dhcp_ask(web, DISCOVER, &(DhcpOptions){.wanted = "\x79\3"}, &ip);
    assert_option(121, expect->str, expect->len);
    g_assert_true(has_option(3));
    dhcp_ask(web, DISCOVER, &(DhcpOptions){.wanted = "\3"}, &ip);
    g_assert_false(has_option(121));
    net_set("routed,subnet=10.5.0.0/24");
    dhcp_ask(web, DISCOVER, &(DhcpOptions){.wanted = "\x79\3"}, &ip);
    g_assert_false(has_option(121));
    g_assert_true(has_option(3));
    net_end();
}

static void who_cannot_be_reached_is_answered_by_broadcast(void)
{
    Port *web;
    Ip ip;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    g_assert_cmpuint(dhcp_ask(web, DISCOVER, &(DhcpOptions){.flags = 0x8000}, &ip), ==,
                     OFFER);
    assert_ip(&net.sent[0].p.to, "255.255.255.255");
    g_assert_true(mac_equal(&net.sent[0].p.dst, &net_broadcast));
    g_assert_cmpmem(net.sent[0].data + net.sent[0].p.payload + 10, 2, "\x80\0", 2);
    net_end();
}

/* RFC 2131, 4.3.2: each state of the client, with what is right and what is wrong. */
static void requests_are_granted_or_denied(void)
{
    static const struct {
        const char *state;
        DhcpOptions options;
        bool own; /* asks for its own address, else for 10.5.0.99 or what it says */
        uint8_t expect;
    } cases[] = {
        {"selecting", {.server = "10.5.0.1"}, true, ACK},
        {"selecting another's address", {.server = "10.5.0.1"}, false, NAK},
        {"selecting another server", {.server = "10.5.0.2"}, true, 0},
        {"after a restart", {0}, true, ACK},
        {"after a restart elsewhere", {.requested = "192.168.1.5"}, false, NAK},
        {"after a restart with another's", {0}, false, NAK},
        {"renewing", {.renew = true}, true, ACK},
        {"renewing another's", {.renew = true}, false, NAK},
        {"rebinding", {.flags = 1}, true, ACK},
    };
    char own[IP_TEXT];
    Port *web;

    net_begin(NAT);
    net_port("other", 9, "10.5.0.99");
    web = net_port("web", 7, NULL);
    g_strlcpy(own, dhcp_lease(web), sizeof(own));
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        DhcpOptions o = cases[i].options;
        const char *wanted = cases[i].own ? own : "10.5.0.99";
        uint8_t got;
        Ip ip;

        if (o.renew || o.flags)
            o.ciaddr = wanted;
        else if (!o.requested)
            o.requested = wanted;
        got = dhcp_ask(web, REQUEST, &o, &ip);
        if (got != cases[i].expect)
            g_test_message("%s", cases[i].state);
        g_assert_cmpuint(got, ==, cases[i].expect);
        if (got == ACK)
            assert_ip(&ip, own);
        if (got == NAK) { /* 4.3.2: to all, with no address */
            assert_ip(&ip, "0.0.0.0");
            assert_ip(&net.sent[0].p.to, "255.255.255.255");
            g_assert_false(has_option(51));
        }
        if (got == ACK && o.ciaddr)
            assert_ip(&net.sent[0].p.to, own);
    }
    net_end();
}

static void inform_gets_options_and_no_lease(void)
{
    Port *web;
    Ip ip;

    net_begin(NAT);
    web = net_port("web", 7, "10.5.0.50");
    g_assert_cmpuint(dhcp_ask(web, INFORM, &(DhcpOptions){.ciaddr = "10.5.0.50"}, &ip),
                     ==, ACK);
    assert_ip(&ip, "0.0.0.0");
    assert_ip(&net.sent[0].p.to, "10.5.0.50");
    g_assert_false(has_option(51));
    g_assert_cmphex(option_u32(6), ==, 0x0a050001);
    net_end();
}

static void release_takes_the_right_to_the_address_and_keeps_the_lease(void)
{
    g_autofree char *first = NULL;
    Port *web;
    Ip ip, none;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    first = g_strdup(dhcp_lease(web));
    ip = net_ip(first);
    g_assert_cmpuint(
        dhcp_ask(web, RELEASE, &(DhcpOptions){.ciaddr = first, .renew = true}, &none), ==,
        0);
    g_assert_false(net_has(web, &ip));
    g_assert_cmpstr(dhcp_lease(web), ==, first);
    g_assert_true(net_has(web, &ip));
    net_end();
}

static void a_declined_address_is_exchanged_within_limits(void)
{
    g_autofree char *first = NULL, *last = NULL;
    unsigned changes = 0;
    Port *web;
    Ip ip, none;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    first = g_strdup(dhcp_lease(web));
    ip = net_ip(first);
    last = g_strdup(first);
    for (unsigned i = 0; i < 20; i++) {
        dhcp_ask(web, DECLINE, &(DhcpOptions){.requested = last, .server = "10.5.0.1"},
                 &none);
        none = net_ip(dhcp_lease(web));
        changes += !ip_equal(&none, &ip);
        ip = none;
        g_free(last);
        last = g_strdup(ip_text(&ip, (char[IP_TEXT]){0}));
    }
    g_assert_cmpuint(changes, ==, 3); /* it cannot eat up the subnet */
    g_assert_cmpstr(last, !=, first);
    net_end();
}

/* Whatever a guest says of itself, it is the vNIC that it is. */
static void a_flood_of_inventions_gets_one_address(void)
{
    Port *web;
    Ip first, ip;
    g_autofree char *path = NULL;
    GStatBuf st;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    g_assert_cmpuint(dhcp_ask(web, DISCOVER, &(DhcpOptions){0}, &first), ==, OFFER);
    for (unsigned i = 0; i < 2000; i++) {
        Mac mac = {{2, (uint8_t)i, 1, 2, (uint8_t)(i >> 8), 3}};
        char id[16];

        g_snprintf(id, sizeof(id), "\1%u", i);
        g_assert_cmpuint(
            dhcp_ask(web, DISCOVER, &(DhcpOptions){.chaddr = &mac, .client_id = id}, &ip),
            ==, OFFER);
        g_assert_true(ip_equal(&ip, &first));
    }
    path = network_file("lan", "leases.json");
    g_assert_cmpint(g_stat(path, &st), !=, 0); /* nobody took one: nothing is kept */
    net_end();
}

/* By the bytes: everything that is no message of a client on this link. */
static void what_is_no_message_is_not_answered(void)
{
    static const struct {
        const char *what;
        unsigned at; /* in the message */
        uint8_t is;
    } cases[] = {
        {"a reply", 0, 2},         {"not Ethernet", 1, 6}, {"long addresses", 2, 16},
        {"a relay's", 24, 10},     {"a group's", 28, 3},   {"no cookie", 236, 0},
        {"no type", 240, 99},      {"too long", 241, 200}, {"type of a server", 242, 5},
        {"unknown type", 242, 99},
    };
    Port *web;
    Ip ip;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        net_clear();
        dhcp_build(&b, web, DISCOVER, &(DhcpOptions){0});
        b.data[ETH_HEADER + 28 + cases[i].at] = cases[i].is;
        g_assert_true(net_input(web, &b));
        g_assert_true(net_taken);
        if (net.n_sent)
            g_test_message("%s was answered", cases[i].what);
        g_assert_cmpuint(net.n_sent, ==, 0);
    }
    for (size_t cut = 1; cut < 240; cut += 13) {
        dhcp_build(&b, web, DISCOVER, &(DhcpOptions){0});
        b.len -= cut;
        net_input(web, &b);
    }
    g_assert_cmpuint(dhcp_ask(web, DISCOVER, &(DhcpOptions){0}, &ip), ==, OFFER);
    net_end();
}

/* RFC 2132, 9.3: options go on in the fields for names. */
static void options_are_read_where_overload_says(void)
{
    Port *web;

    net_begin(NAT);
    web = net_port("web", 7, NULL);
    dhcp_build(&b, web, DISCOVER, &(DhcpOptions){0});
    b.data[ETH_HEADER + 28 + 240] = 52; /* where its type was */
    b.data[ETH_HEADER + 28 + 242] = 1;  /* in file */
    memcpy(b.data + ETH_HEADER + 28 + 108, "\x35\1\1\xff", 4);
    g_assert_true(net_input(web, &b));
    g_assert_cmpuint(net.n_sent, ==, 1);
    g_assert_cmpuint(dhcp_type(&net.sent[0]), ==, OFFER);
    net_end();
}

static void an_answer_is_never_longer_than_the_client_takes(void)
{
    g_autofree char *options = NULL, *domain = g_strnfill(60, 'd');
    char wanted[] = "\x77\x0f\x0c\x3d\x1c";
    Port *web;
    Ip ip;

    options = g_strdup_printf(NAT ",mtu=1000,domain=%s.%s.org", domain, domain);
    net_begin(options);
    web = net_port("web", 7, NULL);
    for (unsigned size = 100; size <= 1500; size += 100) {
        DhcpOptions o = {.wanted = wanted, .max_size = (uint16_t)size};

        g_assert_cmpuint(dhcp_ask(web, DISCOVER, &o, &ip), ==, OFFER);
        g_assert_cmpuint(net.sent[0].p.end - ETH_HEADER, <=, CLAMP(size, 576, 1000));
        g_assert_true(has_option(119));
    }
    net_end();
}

static void a_network_without_dhcp_does_not_answer(void)
{
    Port *web;
    Ip ip;

    net_begin(NAT ",dhcp=off");
    web = net_port("web", 7, NULL);
    g_assert_cmpuint(dhcp_ask(web, DISCOVER, &(DhcpOptions){0}, &ip), ==, 0);
    g_assert_false(net_taken); /* others may */
    net_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dhcp/lease", four_messages_make_a_lease);
    g_test_add_func("/dhcp/order", options_come_in_the_order_that_was_asked_for);
    g_test_add_func("/dhcp/isolated", an_isolated_network_has_no_way_out);
    g_test_add_func("/dhcp/routes", routes_to_other_networks_are_told_to_who_asks);
    g_test_add_func("/dhcp/broadcast", who_cannot_be_reached_is_answered_by_broadcast);
    g_test_add_func("/dhcp/requests", requests_are_granted_or_denied);
    g_test_add_func("/dhcp/inform", inform_gets_options_and_no_lease);
    g_test_add_func("/dhcp/release",
                    release_takes_the_right_to_the_address_and_keeps_the_lease);
    g_test_add_func("/dhcp/decline", a_declined_address_is_exchanged_within_limits);
    g_test_add_func("/dhcp/flood", a_flood_of_inventions_gets_one_address);
    g_test_add_func("/dhcp/nonsense", what_is_no_message_is_not_answered);
    g_test_add_func("/dhcp/overload", options_are_read_where_overload_says);
    g_test_add_func("/dhcp/size", an_answer_is_never_longer_than_the_client_takes);
    g_test_add_func("/dhcp/off", a_network_without_dhcp_does_not_answer);
    return g_test_run();
}
