/* What a gate keeps to: its bound under floods, new rules for flows that go on, names,
 * counts, logs, sentences. */
#include "gate.h"

#define US   "10.5.0.9"
#define THEM "10.5.0.8"

enum { SYN = PACKET_TCP_SYN, ACK = PACKET_TCP_ACK };

/* With sequence numbers that answer each other. */
static bool tcp(Gate *g, FwDirection direction, unsigned port, unsigned flags)
{
    bool out = direction == FW_OUT;

    frame_ip(&g->f, out ? US : THEM, out ? THEM : US, IPPROTO_TCP);
    frame_tcp(&g->f, out ? 80 : port, out ? port : 80, flags);
    put32(g->f.b + g->f.len - 16, (out ? 5000 : 1000) + !(flags & SYN));
    put32(g->f.b + g->f.len - 12, flags & ACK ? (out ? 1001 : 5001) : 0);
    return gate_pass(g, direction);
}

static bool connect_from(Gate *g, unsigned port)
{
    return tcp(g, FW_IN, port, SYN) && tcp(g, FW_OUT, port, SYN | ACK) &&
           tcp(g, FW_IN, port, ACK);
}

/* ---- the bound -----------------------------------------------------------------------
 */

static void a_flood_of_syns_evicts_no_connection(void)
{
    Gate g = {.max = 1000};

    gate_begin(&g, NULL, "allow in tcp port 80");
    gate_settle(&g);
    for (unsigned port = 1; port <= 500; port++)
        g_assert_true(connect_from(&g, port));
    for (unsigned port = 1000; port < 60000; port++)
        g_assert_true(tcp(&g, FW_IN, port, SYN));
    g_assert_cmpuint(fw_gate_n_flows(g.gate), ==, 1000);
    for (unsigned port = 1; port <= 500; port++)
        g_assert_true(tcp(&g, FW_OUT, port, ACK));
    g_assert_true(connect_from(&g, 600)); /* nor does it keep new ones out */
    gate_free(&g);
}

static void forged_handshakes_leave_nothing_that_stays(void)
{
    Gate g = {.max = 100};

    gate_begin(&g, NULL, "allow in tcp port 80");
    gate_settle(&g);
    for (unsigned port = 1; port <= 500; port++) {
        tcp(&g, FW_IN, port, SYN);
        tcp(&g, FW_OUT, port, SYN | ACK);
        frame_ip(&g.f, THEM, US, IPPROTO_TCP); /* that has not seen the answer */
        frame_tcp(&g.f, port, 80, ACK);
        put32(g.f.b + g.f.len - 12, 77777777);
        gate_pass(&g, FW_IN);
    }
    g_assert_true(connect_from(&g, 600));
    gate_free(&g);
}

static void a_table_full_of_connections_denies_new_ones(void)
{
    Gate g = {.max = 100};

    gate_begin(&g, NULL, "allow in");
    gate_settle(&g);
    for (unsigned port = 1; port <= 100; port++)
        g_assert_true(connect_from(&g, port));
    g_assert_false(tcp(&g, FW_IN, 101, SYN));
    g_assert_cmpint(g.v.reason, ==, FW_BY_FULL);
    g_assert_false(gate_udp(&g, FW_IN, THEM, 1, US, 2));
    g_assert_true(gate_icmp(&g, FW_IN, THEM, US, 13, 0)); /* of no flow */
    for (unsigned port = 1; port <= 100; port++)
        g_assert_true(tcp(&g, FW_OUT, port, ACK));

    tcp(&g, FW_OUT, 50, PACKET_TCP_RST); /* one ends, and there is room for one */
    g_assert_true(connect_from(&g, 101));
    g_assert_false(tcp(&g, FW_IN, 102, SYN));

    g.now += 2 * 3600 * SECONDS; /* idle ones make room, after two hours and a bit */
    g_assert_true(tcp(&g, FW_OUT, 7, ACK));
    g_assert_false(tcp(&g, FW_IN, 102, SYN));
    g.now += 300 * SECONDS;
    g_assert_true(tcp(&g, FW_IN, 102, SYN));
    g_assert_true(tcp(&g, FW_OUT, 7, ACK)); /* this one was not idle */
    gate_free(&g);
}

static void udp_that_goes_on_outlives_a_flood(void)
{
    Gate g = {.max = 100};

    gate_begin(&g, NULL, "allow in udp");
    gate_settle(&g);
    for (unsigned port = 1; port <= 50; port++) {
        gate_udp(&g, FW_IN, THEM, port, US, 53);
        gate_udp(&g, FW_OUT, US, 53, THEM, port);
        gate_udp(&g, FW_IN, THEM, port, US, 53);
    }
    for (unsigned port = 1000; port < 5000; port++) {
        g_assert_true(gate_udp(&g, FW_IN, THEM, port, US, 53));
        g_assert_true(
            gate_udp(&g, FW_OUT, US, 53, THEM, port)); /* answers are no proof */
    }
    for (unsigned port = 1; port <= 50; port++)
        g_assert_true(gate_udp(&g, FW_OUT, US, 53, THEM, port));
    gate_free(&g);
}

static void what_is_over_makes_room_without_a_timer(void)
{
    Gate g = {.max = 64};

    gate_begin(&g, NULL, "allow in udp");
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned port = 1; port <= 64; port++)
            g_assert_true(gate_udp(&g, FW_IN, THEM, port, US, 53));
        g.now += 31 * SECONDS;
    }
    json_t *flows = fw_gate_flows(g.gate, g.now);
    g_assert_cmpuint(json_array_size(flows), ==, 0);
    json_decref(flows);
    gate_free(&g);
}

static void without_rules_a_full_table_stops_nobody(void)
{
    Gate g = {.max = 10};

    gate_begin(&g, NULL, NULL);
    for (unsigned port = 1; port <= 50; port++)
        g_assert_true(connect_from(&g, port));
    g_assert_cmpuint(fw_gate_n_flows(g.gate), ==, 10);
    gate_free(&g);
}

/* ---- new rules -----------------------------------------------------------------------
 */

static void flows_go_on_if_new_rules_allow_them(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "allow in tcp port 80");
    gate_settle(&g);
    g_assert_true(connect_from(&g, 1) && connect_from(&g, 2));
    gate_rules(&g, NULL, "deny in udp\nallow in tcp from-port 1");
    g_assert_true(tcp(&g, FW_OUT, 1, ACK)); /* a reply: judged the other way round */
    g_assert_cmpint(g.v.reason, ==, FW_BY_FLOW);
    g_assert_cmpuint(g.v.rule, ==, 1);
    g_assert_true(tcp(&g, FW_IN, 1, ACK));
    g_assert_false(tcp(&g, FW_OUT, 2, ACK));
    g_assert_cmpint(g.v.reason, ==, FW_BY_DEFAULT);
    g_assert_cmpuint(fw_gate_n_flows(g.gate), ==, 1);
    gate_rules(&g, NULL, "allow in tcp port 80");
    g_assert_false(tcp(&g, FW_OUT, 2, ACK)); /* what was cut stays so */

    gate_rules(&g, "", "allow in tcp port 80"); /* the network's count as well */
    g_assert_false(tcp(&g, FW_IN, 1, ACK));
    g_assert_cmpuint(fw_gate_n_flows(g.gate), ==, 0);
    gate_free(&g);
}

static void a_filter_sees_a_reply_turned_round(void)
{
    Gate g = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        const char *us = v6 ? "fd00:5::9" : US, *them = v6 ? "fd00:5::8" : THEM;

        gate_begin(&g, NULL, "allow in udp");
        gate_settle(&g);
        g_assert_true(gate_udp(&g, FW_IN, them, 4000, us, 53));
        gate_rules(
            &g, NULL,
            v6 ? "allow in match \"dst port 53 and src host fd00:5::8\""
               : "allow in match \"dst port 53 and src host 10.5.0.8 and ether src "
                 "02:00:00:00:00:02\"");
        g_assert_true(gate_udp(&g, FW_OUT, us, 53, them, 4000));
        gate_rules(&g, NULL, "allow in match \"src port 53\"");
        g_assert_false(gate_udp(&g, FW_OUT, us, 53, them, 4000));

        gate_rules(&g, NULL, "allow in icmp");
        gate_icmp(&g, FW_IN, them, us, v6 ? 128 : 8, 9);
        gate_rules(&g, NULL, "allow in icmp type echo-request");
        g_assert_true(gate_icmp(&g, FW_OUT, us, them, v6 ? 129 : 0, 9));
    }
    gate_free(&g);
}

static void rules_taken_away_let_flows_go_on(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "allow in tcp port 80");
    gate_settle(&g);
    g_assert_true(connect_from(&g, 1));
    gate_rules(&g, NULL, NULL);
    g_assert_true(tcp(&g, FW_OUT, 1, ACK));
    g_assert_cmpint(g.v.reason, ==, FW_BY_NONE);
    gate_rules(&g, "allow in tcp port 80", NULL);
    g_assert_true(tcp(&g, FW_OUT, 1, ACK));
    g_assert_cmpint(g.v.reason, ==, FW_BY_FLOW);
    gate_free(&g);
}

/* A switch need not ask a gate that has none; what goes on then is taken up. */
static void first_rules_take_up_what_goes_on(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "");
    gate_settle(&g);
    gate_rules(&g, NULL, NULL);
    g.now += 3600 * SECONDS;
    gate_rules(&g, NULL, "allow in tcp port 80");
    g_assert_true(tcp(&g, FW_OUT, 1, ACK)); /* a reply of ours */
    gate_rules(&g, NULL, "allow in tcp port 80");
    g.now += 31 * SECONDS;
    g_assert_false(tcp(&g, FW_OUT, 2, ACK));
    gate_free(&g);
}

static void a_vm_that_leaves_its_group_is_cut_off(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall) fw = firewall_parse("allow in from group front", "x", &error);
    Gate g = {0};

    gate_begin(&g, NULL, NULL);
    fw_gate_set(g.gate, NULL, fw);
    gate_settle(&g);
    g_assert_true(gate_udp(&g, FW_IN, "10.5.0.7", 1, US, 2));
    fw_gate_set(g.gate, NULL, fw);
    g_assert_true(gate_udp(&g, FW_OUT, US, 2, "10.5.0.7", 1));
    g.no_group = true;
    g_assert_true(gate_udp(&g, FW_IN, "10.5.0.7", 1, US, 2)); /* nobody has said so yet */
    fw_gate_set(g.gate, NULL, fw);
    g_assert_false(gate_udp(&g, FW_OUT, US, 2, "10.5.0.7", 1));
    gate_free(&g);
}

/* ---- names ---------------------------------------------------------------------------
 */

static void names_close_dns_to_elsewhere_and_open_their_own(void)
{
    static const struct {
        const char *to;
        unsigned port;
        int proto;
        bool allow;
    } cases[] = {
        {"10.5.0.1", 53, IPPROTO_UDP, true},     {"10.5.0.1", 53, IPPROTO_TCP, true},
        {"192.0.2.53", 53, IPPROTO_UDP, false},  {"192.0.2.53", 53, IPPROTO_TCP, false},
        {"192.0.2.53", 853, IPPROTO_TCP, false}, {"192.0.2.53", 853, IPPROTO_UDP, false},
        {"192.0.2.53", 54, IPPROTO_UDP, true},   {"192.0.2.1", 443, IPPROTO_TCP, true},
    };
    Gate g = {0};

    gate_begin(&g, NULL,
               "allow out to name *.example.org\nallow out to 192.0.2.0/24\nallow in");
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        bool allow = cases[i].proto == IPPROTO_UDP
                         ? gate_udp(&g, FW_OUT, US, 9, cases[i].to, cases[i].port)
                         : gate_tcp(&g, FW_OUT, US, 9, cases[i].to, cases[i].port, SYN);
        bool dns = cases[i].port == 53 || cases[i].port == 853;

        g_assert_cmpint(allow, ==, cases[i].allow);
        g_assert_cmpint(g.v.reason == FW_BY_DNS, ==, dns);
    }
    g_assert_true(gate_udp(&g, FW_IN, THEM, 9, US, 53)); /* a server's own business */
    g_assert_true(gate_udp(&g, FW_OUT, US, 53, THEM, 9));

    /* a rule may deny it; a set that names nothing opens nothing */
    gate_begin(&g, NULL, "deny out port 53\nallow out to name *.example.org");
    g_assert_false(gate_udp(&g, FW_OUT, US, 9, "10.5.0.1", 53));
    gate_begin(&g, "", "allow out to name *.example.org");
    g_assert_false(gate_udp(&g, FW_OUT, US, 9, "10.5.0.1", 53));
    gate_begin(&g, NULL, "deny out to name *.example.org\ndefault out allow");
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.53", 53));
    /* the network's names close the VM's DNS */
    gate_begin(&g, "allow out to name *.example.org\ndefault out allow",
               "default out allow");
    g_assert_false(gate_udp(&g, FW_OUT, US, 9, "192.0.2.53", 53));
    gate_free(&g);
}

static void a_flow_to_a_name_goes_on_when_its_time_is_over(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "allow out to name *.example.org");
    gate_settle(&g);
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    g.no_name = true;
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    g_assert_false(gate_udp(&g, FW_OUT, US, 10, "192.0.2.1", 443));
    gate_free(&g);
}

static void a_flow_to_a_name_outlives_what_leaves_the_name(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall)
        fw = firewall_parse("allow out to name *.example.org, vm web", "x", &error);
    Gate g = {0};

    gate_begin(&g, NULL, NULL);
    fw_gate_set(g.gate, NULL, fw);
    gate_settle(&g);
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    g.no_name = true;
    for (unsigned i = 0; i < 3; i++)
        fw_gate_set(g.gate, NULL, fw); /* the world has changed, as when a VM came */
    g_assert_true(gate_udp(&g, FW_IN, "192.0.2.1", 443, US, 9));
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    gate_rules(&g, NULL, "deny in\nallow out udp to name *.example.org");
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    g_assert_cmpuint(g.v.rule, ==, 1);
    g_assert_false(gate_udp(&g, FW_OUT, US, 10, "192.0.2.1", 443)); /* nobody else does */
    gate_rules(&g, NULL, "deny out to 192.0.2.1\nallow out udp to name *.example.org");
    g_assert_false(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));

    g.no_name = false;
    gate_rules(&g, NULL, "allow out to name *.example.org");
    g_assert_true(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    g.no_name = true;
    gate_rules(&g, NULL, "allow out to name *.example.com");
    g_assert_false(gate_udp(&g, FW_OUT, US, 9, "192.0.2.1", 443));
    gate_free(&g);
}

/* ---- counts, logs, sentences ---------------------------------------------------------
 */

static json_int_t count_of(const Firewall *fw, unsigned rule, const char *what)
{
    json_t *all = firewall_to_json(fw);
    json_t *one = rule == UINT_MAX
                      ? json_object_get(json_object_get(all, "default"), "in")
                      : json_array_get(json_object_get(all, "rules"), rule);
    json_int_t n = json_integer_value(json_object_get(one, what));

    json_decref(all);
    return n;
}

static void rules_count_all_that_pass_by_them(void)
{
    Gate g = {0};
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall) fw = firewall_parse("deny in gre\nallow in udp", "x", &error);

    gate_begin(&g, NULL, NULL);
    fw_gate_set(g.gate, NULL, fw);
    gate_udp(&g, FW_IN, THEM, 1, US, 2);
    gate_udp(&g, FW_OUT, US, 2, THEM, 1); /* the reply too */
    gate_tcp(&g, FW_IN, THEM, 1, US, 2, SYN);
    g_assert_cmpint(count_of(fw, 0, "packets"), ==, 0);
    g_assert_cmpint(count_of(fw, 1, "packets"), ==, 2);
    g_assert_cmpint(count_of(fw, 1, "bytes"), ==, 2 * 42);
    g_assert_cmpint(count_of(fw, UINT_MAX, "packets"), ==, 1);

    g_autoptr(Firewall) more = firewall_with(fw, 0, "deny in esp", &error);
    g_autoptr(Firewall) less = firewall_without(more, 1, &error);
    g_assert_cmpint(count_of(more, 2, "packets"), ==, 2);
    fw_gate_set(g.gate, NULL, less);
    gate_udp(&g, FW_OUT, US, 2, THEM, 1);
    g_assert_cmpint(count_of(less, 1, "packets"), ==, 3);
    g_assert_cmpint(count_of(less, 0, "packets"), ==, 0);
    gate_free(&g);
}

static void a_log_has_a_rate(void)
{
    Gate g = {0};
    unsigned lines = 0;

    gate_begin(&g, NULL, "deny in udp log\nallow in tcp log\ndefault in deny log");
    gate_settle(&g);
    for (unsigned i = 0; i < 1000; i++) {
        gate_udp(&g, FW_IN, THEM, i, US, 2);
        lines += g.v.log;
    }
    g_assert_cmpuint(lines, ==, 10);
    g.now += SECONDS;
    for (unsigned i = 0; i < 1000; i++) {
        gate_udp(&g, FW_IN, THEM, i, US, 2);
        lines += g.v.log;
    }
    g_assert_cmpuint(lines, ==, 15);
    g_assert_true(tcp(&g, FW_IN, 1, SYN) && g.v.log);  /* each rule has its own */
    g_assert_true(tcp(&g, FW_IN, 1, SYN) && !g.v.log); /* and flows are silent */
    gate_icmp(&g, FW_IN, THEM, US, 8, 1);
    g_assert_true(g.v.log);
    gate_rules(&g, NULL, "deny in udp");
    gate_udp(&g, FW_IN, THEM, 1, US, 2);
    g_assert_false(g.v.log);
    gate_free(&g);
}

static void assert_says(const Gate *g, const char *sentence)
{
    g_autofree char *text = fw_verdict_text(&g->v);

    g_assert_cmpstr(text, ==, sentence);
}

static void a_verdict_is_a_sentence(void)
{
    Gate g = {.max = 2};

    gate_begin(&g, NULL, NULL);
    gate_udp(&g, FW_IN, THEM, 1, US, 2);
    assert_says(&g, "allowed: there are no rules");
    gate_begin(
        &g, NULL,
        "allow in udp port 2\ndeny in tcp port 22\nallow out to name *.example.org");
    gate_settle(&g);
    gate_udp(&g, FW_IN, THEM, 1, US, 2);
    assert_says(&g, "allowed by rule 1 of vm.rules: allow in udp port 2");
    gate_udp(&g, FW_OUT, US, 2, THEM, 1);
    assert_says(&g,
                "allowed: it belongs to a flow that is allowed by rule 1 of vm.rules: "
                "allow in udp port 2");
    gate_tcp(&g, FW_IN, THEM, 1, US, 22, SYN);
    assert_says(&g, "denied by rule 2 of vm.rules: deny in tcp port 22");
    gate_tcp(&g, FW_OUT, US, 1, THEM, 22, SYN);
    assert_says(&g, "denied by the default of vm.rules: default out deny");
    gate_tcp(&g, FW_IN, THEM, 1, US, 22, PACKET_TCP_RST);
    assert_says(&g, "denied: it is TCP of no connection that is known");
    gate_udp(&g, FW_OUT, US, 1, THEM, 53);
    assert_says(&g, "denied: rules name domains, and this is DNS to elsewhere than the "
                    "network's own");
    gate_udp(&g, FW_OUT, US, 1, "10.5.0.1", 53);
    assert_says(&g,
                "allowed: rules of vm.rules name domains, so the network's own DNS is "
                "open");
    gate_begin(&g, "", "allow in");
    gate_udp(&g, FW_IN, THEM, 1, US, 2);
    assert_says(&g, "denied by the default of net.rules: default in deny");
    gate_begin(&g, NULL, "allow in");
    gate_settle(&g);
    connect_from(&g, 1);
    connect_from(&g, 2);
    gate_udp(&g, FW_IN, THEM, 1, US, 2);
    assert_says(&g, "denied: there is no room for one more flow");
    gate_free(&g);
}

static void flows_are_listed_as_their_first_packet_went(void)
{
    Gate g = {0};
    const char *proto, *from, *to, *direction, *state, *rule;
    json_int_t from_port, to_port, packets, bytes, back, idle;

    gate_begin(&g, NULL, "allow in udp port 53");
    gate_udp(&g, FW_IN, THEM, 4000, US, 53);
    gate_udp(&g, FW_IN, THEM, 4000, US, 53);
    gate_udp(&g, FW_OUT, US, 53, THEM, 4000);
    g.now += 5 * SECONDS;
    json_t *flows = fw_gate_flows(g.gate, g.now);
    g_assert_cmpuint(json_array_size(flows), ==, 1);
    g_assert_cmpint(
        json_unpack(json_array_get(flows, 0),
                    "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}",
                    "proto", &proto, "from", &from, "to", &to, "direction", &direction,
                    "state", &state, "rule", &rule, "from-port", &from_port, "to-port",
                    &to_port, "packets", &packets, "bytes", &bytes, "packets-back", &back,
                    "idle", &idle),
        ==, 0);
    g_assert_cmpstr(proto, ==, "udp");
    g_assert_cmpstr(from, ==, THEM);
    g_assert_cmpstr(to, ==, US);
    g_assert_cmpstr(direction, ==, "in");
    g_assert_cmpstr(state, ==, "replied");
    g_assert_cmpstr(rule, ==, "allow in udp port 53");
    g_assert_cmpint(from_port, ==, 4000);
    g_assert_cmpint(to_port, ==, 53);
    g_assert_cmpint(packets, ==, 2);
    g_assert_cmpint(bytes, ==, 84);
    g_assert_cmpint(back, ==, 1);
    g_assert_cmpint(idle, ==, 5);
    json_decref(flows);
    gate_free(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/limits/" #name, name)
    ADD(a_flood_of_syns_evicts_no_connection);
    ADD(forged_handshakes_leave_nothing_that_stays);
    ADD(a_table_full_of_connections_denies_new_ones);
    ADD(udp_that_goes_on_outlives_a_flood);
    ADD(what_is_over_makes_room_without_a_timer);
    ADD(without_rules_a_full_table_stops_nobody);
    ADD(flows_go_on_if_new_rules_allow_them);
    ADD(a_filter_sees_a_reply_turned_round);
    ADD(rules_taken_away_let_flows_go_on);
    ADD(first_rules_take_up_what_goes_on);
    ADD(a_vm_that_leaves_its_group_is_cut_off);
    ADD(names_close_dns_to_elsewhere_and_open_their_own);
    ADD(a_flow_to_a_name_goes_on_when_its_time_is_over);
    ADD(a_flow_to_a_name_outlives_what_leaves_the_name);
    ADD(rules_count_all_that_pass_by_them);
    ADD(a_log_has_a_rate);
    ADD(a_verdict_is_a_sentence);
    ADD(flows_are_listed_as_their_first_packet_went);
    return g_test_run();
}
