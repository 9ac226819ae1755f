/* DHCPv6, message by message. */
#include "tests/unit/switch/gateway_net.h"

#define NAT "nat,subnet6=fd00:5::/64"

enum {
    SOLICIT = 1,
    ADVERTISE,
    REQUEST,
    CONFIRM,
    RENEW,
    REBIND,
    REPLY,
    RELEASE,
    DECLINE,
    INFORMATION = 11,
    STATUS_NONE = 0xffff,
};

typedef struct Asked {
    bool no_client_id, server_id, other_server_id, rapid, dns;
    unsigned n_ia;
    const char *address; /* in the first IA */
    const char *from;    /* fe80::7 */
} Asked;

static Builder b;
static Port *web;

static void begin(const char *options)
{
    net_begin(options);
    web = net_port("web", 7, NULL);
}

static void put(uint16_t code, const void *bytes, uint16_t len)
{
    build_u16(&b, code);
    build_u16(&b, len);
    build_bytes(&b, bytes, len);
}

static void put_server_id(bool other)
{
    uint8_t id[10] = {0, 3, 0, 1};

    memcpy(id + 4, gateway_mac(net.sw.gateway)->b, 6);
    id[9] ^= other;
    put(2, id, sizeof(id));
}

static void put_ia(uint32_t iaid, const char *address)
{
    build_u16(&b, 3);
    build_u16(&b, address ? 40 : 12);
    build_u32(&b, iaid);
    build_u32(&b, 0);
    build_u32(&b, 0);
    if (address) {
        Ip ip = net_ip(address);

        build_u16(&b, 5);
        build_u16(&b, 24);
        build_bytes(&b, ip.b, 16);
        build_u32(&b, 0);
        build_u32(&b, 0);
    }
}

static void build(uint8_t type, const Asked *a)
{
    static const Mac mac = {{0x33, 0x33, 0, 1, 0, 2}};
    Ip from = net_ip(a->from ? a->from : "fe80::7"), to = net_ip("ff02::1:2");

    build_ip(&b, &mac, &web->mac, &from, &to, IPPROTO_UDP, 1);
    build_udp(&b, 546, 547);
    build_u32(&b, (uint32_t)type << 24 | 0xabcdef);
    if (!a->no_client_id)
        put(1, "\0\4some identifier", 17);
    if (a->server_id || a->other_server_id)
        put_server_id(a->other_server_id);
    if (a->rapid)
        put(14, "", 0);
    if (a->dns)
        put(6, "\0\x17\0\x18", 4);
    for (unsigned i = 0; i < a->n_ia; i++)
        put_ia(77 + i, i == 0 ? a->address : NULL);
}

/* An option in the answer, or in what is at `at`. */
static const uint8_t *find(const uint8_t *at, const uint8_t *end, uint16_t code,
                           size_t *ret_len)
{
    while (at + 4 <= end) {
        size_t len = (size_t)at[2] << 8 | at[3];

        g_assert_true(at + 4 + len <= end);
        if ((at[0] << 8 | at[1]) == code) {
            *ret_len = len;
            return at + 4;
        }
        at += 4 + len;
    }
    return NULL;
}

static const uint8_t *option(uint16_t code, size_t *ret_len)
{
    const NetSent *s = &net.sent[0];

    return find(s->data + s->p.payload + 4, s->data + s->p.end, code, ret_len);
}

/* Its answer's type; 0: none.  *ret: the address that lives, *ret_status: of the IA. */
static uint8_t ask(uint8_t type, const Asked *a, Ip *ret, unsigned *ret_status)
{
    const NetSent *s = &net.sent[0];
    const uint8_t *ia, *v, *end;
    size_t len, n;

    net_clear();
    build(type, a);
    g_assert_true(net_input(web, &b));
    g_assert_true(net_taken);
    *ret = (Ip){{0}};
    *ret_status = STATUS_NONE;
    if (!net.n_sent)
        return 0;
    g_assert_cmpuint(net.n_sent, ==, 1);
    g_assert_true(s->to == web);
    g_assert_cmpuint(s->p.from_port, ==, 547);
    g_assert_cmpuint(s->p.to_port, ==, 546);
    g_assert_true(ip_is_link_local(&s->p.from));
    g_assert_cmpmem(s->data + s->p.payload + 1, 3, "\xab\xcd\xef", 3);
    g_assert_nonnull(option(2, &len));
    ia = option(3, &len);
    if (ia) {
        end = ia + len;
        g_assert_cmpmem(ia, 4, "\0\0\0\x4d", 4);
        for (v = ia + 12; (v = find(v, end, 5, &n)); v += n)
            if (v[23] || v[22] || v[21]) /* its lifetime */
                memcpy(ret->b, v, 16);
        v = find(ia + 12, end, 13, &n);
    } else {
        v = option(13, &n);
    }
    if (v)
        *ret_status = (unsigned)(v[0] << 8 | v[1]);
    return s->data[s->p.payload];
}

static char *lease(void)
{
    static char text[IP_TEXT];
    unsigned status;
    Ip ip, again;

    if (ask(SOLICIT, &(Asked){.n_ia = 1}, &ip, &status) != ADVERTISE)
        return NULL;
    ip_text(&ip, text);
    g_assert_cmpuint(ask(REQUEST, &(Asked){.server_id = true, .n_ia = 1, .address = text},
                         &again, &status),
                     ==, REPLY);
    g_assert_true(ip_equal(&ip, &again));
    return text;
}

static void four_messages_make_a_lease(void)
{
    unsigned status;
    Ip ip, again;

    begin(NAT);
    g_assert_cmpuint(ask(SOLICIT, &(Asked){.n_ia = 1}, &ip, &status), ==, ADVERTISE);
    g_assert_true(ip_within(&ip, &net.sw.subnets.v6));
    g_assert_false(net_has(web, &ip));
    g_assert_cmpuint(
        ask(REQUEST, &(Asked){.server_id = true, .n_ia = 1}, &again, &status), ==, REPLY);
    g_assert_true(ip_equal(&ip, &again));
    g_assert_true(net_has(web, &ip));
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "web");
    net_end();
}

static void one_message_makes_a_lease_where_it_is_wanted(void)
{
    unsigned status;
    size_t len;
    Ip ip;

    begin(NAT);
    g_assert_cmpuint(ask(SOLICIT, &(Asked){.rapid = true, .n_ia = 1}, &ip, &status), ==,
                     REPLY);
    g_assert_nonnull(option(14, &len));
    g_assert_true(net_has(web, &ip));
    net_end();
}

static void the_address_is_the_vms_over_restarts(void)
{
    g_autofree char *first = NULL;
    Ip ip;

    begin(NAT);
    first = g_strdup(lease());
    net_restart();
    web = net_port("web", 9, NULL);
    ip = net_ip(first);
    g_assert_true(net_has(web, &ip));
    g_assert_cmpstr(lease(), ==, first);
    net_end();
}

static void a_second_address_is_not_to_be_had(void)
{
    const uint8_t *first, *second, *status;
    unsigned ignored;
    size_t len, n;
    Ip ip;

    begin(NAT);
    g_assert_cmpuint(ask(SOLICIT, &(Asked){.n_ia = 2}, &ip, &ignored), ==, ADVERTISE);
    first = option(3, &len);
    second = find(first + len, net.sent[0].data + net.sent[0].p.end, 3, &len);
    g_assert_nonnull(second);
    g_assert_cmpmem(second, 4, "\0\0\0\x4e", 4);
    status = find(second + 12, second + len, 13, &n);
    g_assert_nonnull(status);
    g_assert_cmpmem(status, 2, "\0\2", 2); /* NoAddrsAvail */
    net_end();
}

/* RFC 8415, 18.3: what each message is answered with. */
static void each_message_has_its_answer(void)
{
    static const struct {
        uint8_t type;
        Asked asked;
        bool own; /* asks about its address */
        uint8_t expect;
        bool address;
        unsigned status;
    } cases[] = {
        {RENEW, {.server_id = true, .n_ia = 1}, true, REPLY, true, STATUS_NONE},
        {REBIND, {.n_ia = 1}, true, REPLY, true, STATUS_NONE},
        {RENEW,
         {.server_id = true, .n_ia = 1, .address = "fd00:5::99"},
         false,
         REPLY,
         true,
         STATUS_NONE},
        {CONFIRM, {.n_ia = 1}, true, REPLY, false, 0},
        {CONFIRM, {.n_ia = 1, .address = "fd00:9::1"}, false, REPLY, false, 4},
        {CONFIRM, {.n_ia = 1}, false, 0, false, STATUS_NONE},
        {INFORMATION, {.dns = true}, false, REPLY, false, STATUS_NONE},
        {INFORMATION, {.no_client_id = true}, false, REPLY, false, STATUS_NONE},
        {INFORMATION, {.n_ia = 1}, false, 0, false, STATUS_NONE},
        {INFORMATION, {.other_server_id = true}, false, 0, false, STATUS_NONE},
        {SOLICIT, {.server_id = true, .n_ia = 1}, false, 0, false, STATUS_NONE},
        {SOLICIT, {.no_client_id = true, .n_ia = 1}, false, 0, false, STATUS_NONE},
        {REQUEST, {.other_server_id = true, .n_ia = 1}, false, 0, false, STATUS_NONE},
        {REQUEST, {.n_ia = 1}, false, 0, false, STATUS_NONE},
        {RENEW, {.n_ia = 1}, true, 0, false, STATUS_NONE},
        {ADVERTISE, {.server_id = true}, false, 0, false, STATUS_NONE},
        {REPLY, {.server_id = true}, false, 0, false, STATUS_NONE},
        {12, {.n_ia = 1}, false, 0, false, STATUS_NONE}, /* a relay's */
        {RELEASE, {.server_id = true, .n_ia = 1}, true, REPLY, false, 0},
    };
    g_autofree char *own = NULL;
    unsigned status;
    Ip ip;

    begin(NAT);
    own = g_strdup(lease());
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Asked a = cases[i].asked;

        g_test_message("case %u", i);
        if (cases[i].own)
            a.address = own;
        g_assert_cmpuint(ask(cases[i].type, &a, &ip, &status), ==, cases[i].expect);
        g_assert_cmpuint(status, ==, cases[i].status);
        if (cases[i].address)
            assert_ip(&ip, own);
        else
            g_assert_true(ip_is_unspecified(&ip));
    }
    ip = net_ip(own);
    g_assert_false(net_has(web, &ip)); /* released at last */
    net_end();
}

static void names_are_told_to_who_wants_them(void)
{
    unsigned status;
    size_t len;
    const uint8_t *v;
    Ip ip;

    begin(NAT ",domain=example.org");
    ask(INFORMATION, &(Asked){.dns = true}, &ip, &status);
    v = option(23, &len);
    g_assert_nonnull(v);
    g_assert_cmpmem(v, len, net.sw.subnets.gateway6.b, 16);
    v = option(24, &len);
    g_assert_nonnull(v);
    g_assert_cmpmem(v, len, "\7example\3org", 13);
    ask(INFORMATION, &(Asked){0}, &ip, &status);
    g_assert_null(option(23, &len));
    net_end();
    begin(NAT ",dns=off");
    ask(INFORMATION, &(Asked){.dns = true}, &ip, &status);
    g_assert_null(option(23, &len));
    net_end();
}

static void declined_addresses_are_exchanged(void)
{
    g_autofree char *first = NULL;
    unsigned status;
    Ip ip;

    begin(NAT);
    first = g_strdup(lease());
    g_assert_cmpuint(ask(DECLINE,
                         &(Asked){.server_id = true, .n_ia = 1, .address = first}, &ip,
                         &status),
                     ==, REPLY);
    ip = net_ip(first);
    g_assert_false(net_has(web, &ip));
    g_assert_cmpstr(lease(), !=, first);
    net_end();
}

/* Options that end beyond the message, or within themselves. */
static void what_is_no_message_is_not_answered(void)
{
    static const struct {
        unsigned at;
        uint8_t is;
    } cases[] = {{6, 0xff}, {4 + 4 + 17 + 3, 11}, {4 + 4 + 17 + 3, 200}};
    unsigned status;
    Ip ip;

    begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        net_clear();
        build(SOLICIT, &(Asked){.n_ia = 1});
        b.data[ETH_HEADER + 48 + cases[i].at] = cases[i].is;
        g_assert_true(net_input(web, &b));
        g_assert_cmpuint(net.n_sent, ==, 0);
    }
    /* From no address of this link. */
    g_assert_cmpuint(ask(SOLICIT, &(Asked){.n_ia = 1, .from = "fd00:5::7"}, &ip, &status),
                     ==, 0);
    net_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dhcp6/lease", four_messages_make_a_lease);
    g_test_add_func("/dhcp6/rapid", one_message_makes_a_lease_where_it_is_wanted);
    g_test_add_func("/dhcp6/stable", the_address_is_the_vms_over_restarts);
    g_test_add_func("/dhcp6/second", a_second_address_is_not_to_be_had);
    g_test_add_func("/dhcp6/messages", each_message_has_its_answer);
    g_test_add_func("/dhcp6/names", names_are_told_to_who_wants_them);
    g_test_add_func("/dhcp6/decline", declined_addresses_are_exchanged);
    g_test_add_func("/dhcp6/nonsense", what_is_no_message_is_not_answered);
    return g_test_run();
}
