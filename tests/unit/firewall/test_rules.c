/* Rules: what passes and what does not, by every clause. */
#include "gate.h"
#include "src/firewall/rules.h"

#define US  "10.5.0.9"
#define US6 "fd00:5::9"

/* A packet, and a text of rules for it; what `text` allows is allowed in that direction
 * alone. */
typedef struct Case {
    const char *rules;
    FwDirection direction;
    const char *from, *to;
    int proto; /* or an ICMP type, negative */
    unsigned port, to_port;
    bool allow;
} Case;

static bool send_it(Gate *g, const Case *c)
{
    if (c->proto < 0)
        return gate_icmp(g, c->direction, c->from, c->to, (unsigned)-c->proto, 7);
    if (c->proto == IPPROTO_TCP)
        return gate_tcp(g, c->direction, c->from, c->port, c->to, c->to_port,
                        PACKET_TCP_SYN);
    if (c->proto == IPPROTO_UDP)
        return gate_udp(g, c->direction, c->from, c->port, c->to, c->to_port);
    frame_ip(&g->f, c->from, c->to, (unsigned)c->proto);
    frame_room(&g->f, 20);
    return gate_pass(g, c->direction);
}

enum { T = IPPROTO_TCP, U = IPPROTO_UDP, PING = -8, PING6 = -128 };

static const Case cases[] = {
    /* nothing, and defaults */
    {"", FW_IN, "10.5.0.8", US, T, 1, 80, false},
    {"", FW_OUT, US, "10.5.0.8", T, 1, 80, false},
    {"# nothing\n\n", FW_OUT, US6, "fd00:5::8", U, 1, 80, false},
    {"default out allow", FW_OUT, US, "10.5.0.8", T, 1, 80, true},
    {"default out allow", FW_IN, "10.5.0.8", US, T, 1, 80, false},
    {"default in allow", FW_IN, "fd00:5::8", US6, U, 1, 80, true},
    {"default in allow\ndeny in tcp", FW_IN, "fd00:5::8", US6, T, 1, 80, false},
    /* the first that matches */
    {"deny in tcp port 22\nallow in tcp", FW_IN, "10.5.0.8", US, T, 1, 22, false},
    {"deny in tcp port 22\nallow in tcp", FW_IN, "10.5.0.8", US, T, 1, 23, true},
    {"allow in tcp\ndeny in tcp port 22", FW_IN, "10.5.0.8", US, T, 1, 22, true},
    /* protocols */
    {"allow in tcp", FW_IN, "10.5.0.8", US, T, 1, 80, true},
    {"allow in tcp", FW_IN, "fd00:5::8", US6, T, 1, 80, true},
    {"allow in tcp", FW_IN, "10.5.0.8", US, U, 1, 80, false},
    {"allow in tcp", FW_OUT, US, "10.5.0.8", T, 1, 80, false},
    {"allow in udp", FW_IN, "fd00:5::8", US6, U, 1, 80, true},
    {"allow in udp", FW_IN, "10.5.0.8", US, T, 1, 80, false},
    {"allow in icmp", FW_IN, "10.5.0.8", US, PING, 0, 0, true},
    {"allow in icmp", FW_IN, "fd00:5::8", US6, PING6, 0, 0, true},
    {"allow in icmp4", FW_IN, "fd00:5::8", US6, PING6, 0, 0, false},
    {"allow in icmp6", FW_IN, "fd00:5::8", US6, PING6, 0, 0, true},
    {"allow in icmp6", FW_IN, "10.5.0.8", US, PING, 0, 0, false},
    {"allow in icmp", FW_IN, "10.5.0.8", US, 58, 0, 0, false}, /* ICMPv6 in IPv4 */
    {"allow in gre", FW_IN, "10.5.0.8", US, 47, 0, 0, true},
    {"allow in gre", FW_IN, "10.5.0.8", US, 50, 0, 0, false},
    {"allow in esp", FW_IN, "fd00:5::8", US6, 50, 0, 0, true},
    {"allow in proto 112", FW_IN, "10.5.0.8", US, 112, 0, 0, true},
    {"allow in proto 112", FW_IN, "10.5.0.8", US, 113, 0, 0, false},
    {"allow in proto 6", FW_IN, "10.5.0.8", US, T, 1, 80, true},
    /* ports */
    {"allow in tcp port 80", FW_IN, "10.5.0.8", US, T, 80, 81, false},
    {"allow in tcp port 80, 90-99", FW_IN, "10.5.0.8", US, T, 1, 90, true},
    {"allow in tcp port 80, 90-99", FW_IN, "10.5.0.8", US, T, 1, 99, true},
    {"allow in tcp port 80, 90-99", FW_IN, "10.5.0.8", US, T, 1, 100, false},
    {"allow in port 53", FW_IN, "10.5.0.8", US, U, 1, 53, true},
    {"allow in port 53", FW_IN, "fd00:5::8", US6, T, 1, 53, true},
    {"allow in port 53", FW_IN, "10.5.0.8", US, PING, 0, 0, false},
    {"allow in port 0-65535", FW_IN, "10.5.0.8", US, 47, 0, 0, false},
    {"allow in udp from-port 53", FW_IN, "10.5.0.8", US, U, 53, 1, true},
    {"allow in udp from-port 53", FW_IN, "10.5.0.8", US, U, 1, 53, false},
    {"allow out tcp from-port 1000-2000 port 80", FW_OUT, US6, "fd00::8", T, 1500, 80,
     true},
    {"allow out tcp from-port 1000-2000 port 80", FW_OUT, US6, "fd00::8", T, 999, 80,
     false},
    /* types */
    {"allow in icmp type echo-request", FW_IN, "10.5.0.8", US, PING, 0, 0, true},
    {"allow in icmp type echo-request", FW_IN, "fd00::8", US6, PING6, 0, 0, true},
    {"allow in icmp type echo-request", FW_IN, "10.5.0.8", US, -3, 0, 0, false},
    {"allow in icmp type echo-request", FW_IN, "10.5.0.8", US, -128, 0, 0, false},
    {"allow in icmp type unreachable, time-exceeded", FW_IN, "10.5.0.8", US, -11, 0, 0,
     true},
    {"allow in icmp6 type packet-too-big", FW_IN, "fd00::8", US6, -2, 0, 0, true},
    {"allow in icmp4 type 13", FW_IN, "10.5.0.8", US, -13, 0, 0, true},
    {"allow in icmp4 type 13", FW_IN, "10.5.0.8", US, -14, 0, 0, false},
    /* addresses */
    {"allow in from 10.5.0.8", FW_IN, "10.5.0.8", US, T, 1, 80, true},
    {"allow in from 10.5.0.8", FW_IN, "10.5.0.10", US, T, 1, 80, false},
    {"allow in from 10.5.0.0/28", FW_IN, "10.5.0.15", US, T, 1, 80, true},
    {"allow in from 10.5.0.0/28", FW_IN, "10.5.0.16", US, T, 1, 80, false},
    {"allow in from 10.5.0.0/28, fd00::/64", FW_IN, "fd00::8", US6, PING6, 0, 0, true},
    {"allow in from ::/0", FW_IN, "10.5.0.8", US, T, 1, 80, false},
    {"allow in from 0.0.0.0/0", FW_IN, "fd00::8", US6, T, 1, 80, false},
    {"allow in from any", FW_IN, "fd00::8", US6, T, 1, 80, true},
    {"allow in to 10.5.0.9", FW_IN, "10.5.0.8", US, T, 1, 80, true},
    {"allow in to 10.5.0.10", FW_IN, "10.5.0.8", US, T, 1, 80, false},
    {"allow out to 10.5.0.8", FW_OUT, US, "10.5.0.8", U, 1, 80, true},
    {"allow out to 10.5.0.8", FW_OUT, US, "10.5.0.10", U, 1, 80, false},
    {"allow out from fd00:5::9", FW_OUT, US6, "fd00::8", U, 1, 80, true},
    /* VMs, groups, networks, names */
    {"allow in from vm web", FW_IN, "10.5.0.7", US, T, 1, 80, true},
    {"allow in from vm web", FW_IN, "fd00:5::7", US6, T, 1, 80, true},
    {"allow in from vm web", FW_IN, "10.5.0.8", US, T, 1, 80, false},
    {"allow in from vm db, vm web", FW_IN, "10.5.0.7", US, T, 1, 80, true},
    {"allow in from vm db", FW_IN, "10.5.0.7", US, T, 1, 80, false},
    {"allow out to group front", FW_OUT, US, "10.5.0.7", T, 1, 80, true},
    {"allow out to group front", FW_OUT, US, "10.5.0.8", T, 1, 80, false},
    {"allow out to group back", FW_OUT, US, "10.5.0.7", T, 1, 80, false},
    {"allow in from net other", FW_IN, "10.6.0.7", US, T, 1, 80, true},
    {"allow in from net other", FW_IN, "10.7.0.7", US, T, 1, 80, false},
    {"allow out to vm web", FW_OUT, US6, "fd00:5::7", T, 1, 80, true},
    {"allow out to vm web", FW_OUT, US, "10.5.0.8", T, 1, 80, false},
    {"allow in from group front", FW_IN, "fd00:5::7", US6, T, 1, 80, true},
    {"allow in from group front", FW_IN, "fd00:5::8", US6, T, 1, 80, false},
    {"allow out to net other", FW_OUT, US, "10.6.0.7", T, 1, 80, true},
    {"allow out to net other", FW_OUT, US, "10.7.0.7", T, 1, 80, false},
    {"allow out to name *.example.org", FW_OUT, US, "192.0.2.1", T, 1, 443, true},
    {"allow out to name *.example.org", FW_OUT, US, "192.0.2.2", T, 1, 443, false},
    {"allow out to name *.example.com", FW_OUT, US, "192.0.2.1", T, 1, 443, false},
    {"allow out tcp port 443 to name *.EXAMPLE.org.", FW_OUT, US, "192.0.2.1", T, 1, 443,
     true},
    {"allow out tcp port 443 to name *.example.org", FW_OUT, US, "192.0.2.1", T, 1, 80,
     false},
    /* filters */
    {"allow in match \"tcp dst port 80\"", FW_IN, "10.5.0.8", US, T, 1, 80, true},
    {"allow in match \"tcp dst port 80\"", FW_IN, "10.5.0.8", US, T, 1, 81, false},
    {"allow in match \"ip6 and udp\"", FW_IN, "fd00::8", US6, U, 1, 81, true},
    {"allow in tcp match \"tcp[tcpflags] & tcp-syn != 0\"", FW_IN, "10.5.0.8", US, T, 1,
     2, true},
    {"allow out tcp port 80 match \"ip src 10.5.0.10\"", FW_OUT, US, "10.5.0.8", T, 1, 80,
     false},
};

static void every_clause_lets_pass_what_it_says_and_nothing_else(void)
{
    Gate g = {0};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        const Case *c = &cases[i];
        bool allow;

        g_test_message("%u: %s", i, c->rules);
        gate_begin(&g, NULL, c->rules);
        allow = send_it(&g, c);
        g_assert_cmpint(allow, ==, c->allow);
        gate_begin(&g, c->rules, NULL); /* the network's decide likewise */
        allow = send_it(&g, c);
        g_assert_cmpint(allow, ==, c->allow);
        gate_begin(&g, c->rules, "default in allow\ndefault out allow");
        allow = send_it(&g, c);
        g_assert_cmpint(allow, ==, c->allow);
        gate_begin(&g, "", c->rules); /* both have to */
        g_assert_false(send_it(&g, c));
    }
    gate_free(&g);
}

/* Each rule's mirror image: what comes in by a rule may not begin to go out by it. */
static void a_rule_is_about_one_direction(void)
{
    Gate g = {0};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Case c = cases[i];

        if (!c.allow || strstr(c.rules, "default"))
            continue;
        g_test_message("%u: %s", i, c.rules);
        c.direction = c.direction == FW_IN ? FW_OUT : FW_IN;
        gate_begin(&g, NULL, c.rules);
        g_assert_false(send_it(&g, &c));
    }
    gate_free(&g);
}

static const char *one_of(GRand *r, const char *const *of, unsigned n)
{
    return of[g_rand_int_range(r, 0, (gint32)n)];
}

/* Rules that are alike, so that many are about a packet. */
static void add_random_rule(GRand *r, GString *to)
{
    static const char *const protos[] = {"", " tcp", " udp", " icmp", " gre"};
    static const char *const actions[] = {"allow", "deny", "reject"};
    static const char *const whos[] = {
        "10.5.0.8",    "10.5.0.0/24", "10.5.0.0/29, fd00::/8", "0.0.0.0/0",  "::/0",
        "fd00:5::8",   "vm web",      "10.5.0.9, vm db",       "10.0.0.0/8", "any",
        "fd00:5::/64", "128.0.0.0/1"};
    const char *proto = one_of(r, protos, G_N_ELEMENTS(protos));
    bool ports = !*proto || g_str_equal(proto, " tcp") || g_str_equal(proto, " udp");
    int first = g_rand_int_range(r, 0, 40);

    g_string_append_printf(to, "%s %s%s", one_of(r, actions, G_N_ELEMENTS(actions)),
                           g_rand_boolean(r) ? "in" : "out", proto);
    if (g_rand_boolean(r))
        g_string_append_printf(to, " from %s", one_of(r, whos, G_N_ELEMENTS(whos)));
    if (g_rand_boolean(r))
        g_string_append_printf(to, " to %s", one_of(r, whos, G_N_ELEMENTS(whos)));
    if (ports && g_rand_boolean(r))
        g_string_append_printf(to, " port %d-%d, %d", first,
                               first + g_rand_int_range(r, 0, 99),
                               g_rand_int_range(r, 0, 65536));
    if (ports && g_rand_int_range(r, 0, 4) == 0)
        g_string_append_printf(to, " from-port %d-40", first);
    g_string_append_c(to, '\n');
}

static void make_random_frame(GRand *r, TestFrame *f)
{
    static const char *const v4[] = {"10.5.0.8", "10.5.0.7", "10.5.0.200", "192.0.2.1"};
    static const char *const v6[] = {"fd00:5::8", "fd00:5::7", "2001:db8::1"};
    static const unsigned protos[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 47};
    unsigned proto = protos[g_rand_int_range(r, 0, G_N_ELEMENTS(protos))];

    if (g_rand_boolean(r))
        frame_ip(f, one_of(r, v4, G_N_ELEMENTS(v4)), one_of(r, v4, G_N_ELEMENTS(v4)),
                 proto);
    else
        frame_ip(f, one_of(r, v6, G_N_ELEMENTS(v6)), one_of(r, v6, G_N_ELEMENTS(v6)),
                 proto);
    if (proto == IPPROTO_TCP)
        frame_tcp(f, (unsigned)g_rand_int_range(r, 0, 80),
                  (unsigned)g_rand_int_range(r, 0, 150), PACKET_TCP_SYN);
    else if (proto == IPPROTO_UDP)
        frame_udp(f, (unsigned)g_rand_int_range(r, 0, 80),
                  (unsigned)g_rand_int_range(r, 0, 150));
    else
        frame_icmp(f, 8, 0, 1);
    frame_parse(f);
}

/* The index finds what looking at all rules from the first to the last finds. */
static void the_first_of_many_decides(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed((guint32)g_test_rand_int());
    const FwWorld world = {.is_vm = gate_is_vm};
    TestFrame f = {0};
    unsigned met = 0;

    for (unsigned round = 0; round < 100; round++) {
        GString *text = g_string_new(NULL);
        g_autoptr(GError) error = NULL;

        for (int n = g_rand_int_range(r, 1, 60); n > 0; n--)
            add_random_rule(r, text);
        g_autoptr(Firewall) fw = firewall_parse(text->str, "x", &error);
        g_assert_no_error(error);
        for (unsigned i = 0; i < 200; i++) {
            Subject s = {.direction = i & 1 ? FW_IN : FW_OUT, .p = &f.p, .frame = f.b};
            unsigned found, first = 0;

            make_random_frame(r, &f);
            s.len = f.len;
            while (first < fw->rules->len &&
                   !rule_matches(fw->rules->pdata[first], &s, &world))
                first++;
            set_judge(fw, &s, &world, &found);
            g_assert_cmpuint(found, ==, first < fw->rules->len ? first : UINT_MAX);
            met += found != UINT_MAX;
        }
        g_string_free(text, TRUE);
    }
    g_assert_cmpuint(met, >, 2000);
    g_assert_cmpuint(met, <, 19000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/rules/" #name, name)
    ADD(every_clause_lets_pass_what_it_says_and_nothing_else);
    ADD(a_rule_is_about_one_direction);
    ADD(the_first_of_many_decides);
    return g_test_run();
}
