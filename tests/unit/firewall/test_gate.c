/* Flows: what belongs to one, for how long, and what no flow lets in. */
#include "gate.h"

#define US    "10.5.0.9"
#define THEM  "10.5.0.8"
#define US6   "fd00:5::9"
#define THEM6 "fd00:5::8"

enum {
    SYN = PACKET_TCP_SYN,
    ACK = PACKET_TCP_ACK,
    FIN = PACKET_TCP_FIN | PACKET_TCP_ACK,
    RST = PACKET_TCP_RST,
    SYNACK = PACKET_TCP_SYN | PACKET_TCP_ACK,
};

static const char *state_of_first(Gate *g)
{
    static char state[32];
    json_t *flows = fw_gate_flows(g->gate, g->now);

    g_strlcpy(state,
              json_array_size(flows)
                  ? json_string_value(json_object_get(json_array_get(flows, 0), "state"))
                  : "none",
              sizeof(state));
    json_decref(flows);
    return state;
}

/* One segment of a connection; sequence numbers count on each side. */
typedef struct Conn {
    const char *us, *them;
    unsigned our_port, their_port;
    uint32_t seq[2], ack[2]; /* by direction */
} Conn;

static const Conn conn4 = {US, THEM, 40000, 80, {100, 900}, {900, 100}},
                  conn6 = {US6, THEM6, 40000, 80, {100, 900}, {900, 100}};

static bool segment(Gate *g, Conn *c, FwDirection direction, unsigned flags,
                    unsigned bytes)
{
    bool out = direction == FW_OUT;
    uint8_t *t;

    frame_ip(&g->f, out ? c->us : c->them, out ? c->them : c->us, IPPROTO_TCP);
    frame_tcp(&g->f, out ? c->our_port : c->their_port, out ? c->their_port : c->our_port,
              flags);
    t = g->f.b + g->f.len - 20;
    put32(t + 4, c->seq[direction]);
    put32(t + 8, flags & ACK ? c->ack[direction] : 0);
    frame_room(&g->f, bytes);
    c->seq[direction] += bytes + !!(flags & PACKET_TCP_SYN) + !!(flags & PACKET_TCP_FIN);
    c->ack[out ? FW_IN : FW_OUT] = c->seq[direction];
    return gate_pass(g, direction);
}

static bool connect_it(Gate *g, Conn *c, FwDirection by)
{
    FwDirection other = by == FW_IN ? FW_OUT : FW_IN;

    return segment(g, c, by, SYN, 0) && segment(g, c, other, SYNACK, 0) &&
           segment(g, c, by, ACK, 0);
}

static void replies_pass_by_the_flow_and_only_those(void)
{
    static const Conn *const conns[] = {&conn4, &conn6};
    Gate g = {0};

    for (unsigned i = 0; i < 2; i++) {
        Conn c = *conns[i];

        gate_begin(&g, NULL, "allow out tcp port 80");
        gate_settle(&g);
        g_assert_false(segment(&g, &c, FW_IN, SYNACK, 0)); /* nobody asked */
        g_assert_cmpint(g.v.reason, ==, FW_BY_INVALID);
        g_assert_false(segment(&g, &c, FW_IN, SYN, 0));
        g_assert_cmpint(g.v.reason, ==, FW_BY_DEFAULT);

        c = *conns[i];
        g_assert_true(segment(&g, &c, FW_OUT, SYN, 0));
        g_assert_cmpint(g.v.reason, ==, FW_BY_RULE);
        g_assert_cmpuint(g.v.rule, ==, 0);
        g_assert_true(segment(&g, &c, FW_IN, SYNACK, 0));
        g_assert_cmpint(g.v.reason, ==, FW_BY_FLOW);
        g_assert_cmpuint(g.v.rule, ==, 0);
        g_assert_true(segment(&g, &c, FW_OUT, ACK, 0));
        g_assert_cmpstr(state_of_first(&g), ==, "established");
        for (unsigned n = 0; n < 20; n++)
            g_assert_true(segment(&g, &c, n & 1 ? FW_IN : FW_OUT, ACK, 1000));

        Conn other = c; /* from another port: not of it */
        other.their_port++;
        g_assert_false(segment(&g, &other, FW_IN, ACK, 10));
        other = c;
        other.our_port++;
        g_assert_false(segment(&g, &other, FW_IN, ACK, 10));
        other = c;
        other.them = i ? "fd00:5::8:8" : "10.5.0.88";
        g_assert_false(segment(&g, &other, FW_IN, ACK, 10));
    }
    gate_free(&g);
}

static void a_connection_goes_through_its_states(void)
{
    Gate g = {0};
    Conn c = conn4;

    gate_begin(&g, NULL, "allow in tcp");
    gate_settle(&g);
    g_assert_true(segment(&g, &c, FW_IN, SYN, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "syn-sent");
    g_assert_true(segment(&g, &c, FW_OUT, SYNACK, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "syn-received");
    g_assert_true(segment(&g, &c, FW_IN, ACK, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "established");
    g.now += 400000 * SECONDS; /* as Linux: five days */
    g_assert_true(segment(&g, &c, FW_OUT, ACK, 10));
    g_assert_true(segment(&g, &c, FW_OUT, FIN, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "closing");
    g.now += 100 * SECONDS;
    g_assert_true(segment(&g, &c, FW_IN, ACK, 10)); /* half closed, and goes on */
    g_assert_true(segment(&g, &c, FW_IN, FIN, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "closed");
    g_assert_true(segment(&g, &c, FW_OUT, ACK, 0));
    g.now += 121 * SECONDS;
    g_assert_cmpstr(state_of_first(&g), ==, "none");
    g_assert_false(segment(&g, &c, FW_OUT, ACK, 0));
    gate_free(&g);
}

static void each_state_has_its_time(void)
{
    static const struct {
        unsigned segments; /* of the handshake */
        int64_t lasts;
    } cases[] = {{1, 120}, {2, 60}, {3, 432000}};
    Gate g = {0};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        for (unsigned late = 0; late < 2; late++) {
            Conn c = conn4;

            gate_begin(&g, NULL, "allow in tcp");
            gate_settle(&g);
            segment(&g, &c, FW_IN, SYN, 0);
            if (cases[i].segments > 1)
                segment(&g, &c, FW_OUT, SYNACK, 0);
            if (cases[i].segments > 2)
                segment(&g, &c, FW_IN, ACK, 0);
            g.now += (cases[i].lasts + late) * SECONDS;
            g_assert_cmpint(segment(&g, &c, FW_OUT, ACK, 0), ==, !late);
        }
    }
    gate_free(&g);
}

static void a_reset_ends_a_flow_only_where_its_side_stands(void)
{
    Gate g = {0};
    Conn c = conn4, liar;

    gate_begin(&g, NULL, "allow in tcp port 80");
    gate_settle(&g);
    c.our_port = 80;
    c.their_port = 40000;
    g_assert_true(connect_it(&g, &c, FW_IN));
    liar = c;
    liar.seq[FW_IN] += 1 << 20;
    g_assert_true(segment(&g, &liar, FW_IN, RST, 0)); /* the host judges for itself */
    g_assert_cmpstr(state_of_first(&g), ==, "established");
    liar.seq[FW_IN] -= 1 << 21;
    g_assert_true(segment(&g, &liar, FW_IN, FIN, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "established");
    g_assert_true(segment(&g, &c, FW_IN, RST, 0));
    g_assert_cmpstr(state_of_first(&g), ==, "reset");
    g.now += 5 * SECONDS;
    g_assert_true(
        segment(&g, &c, FW_OUT, ACK, 0)); /* was under way; keeps nothing alive */
    g.now += 6 * SECONDS;
    g_assert_false(segment(&g, &c, FW_OUT, ACK, 0));
    gate_free(&g);
}

static void a_flow_lets_nobody_connect_backwards(void)
{
    Gate g = {0};
    Conn c = conn4, back;

    gate_begin(&g, NULL, "default out allow");
    gate_settle(&g);
    g_assert_true(connect_it(&g, &c, FW_OUT));
    back = c;
    g_assert_false(segment(&g, &back, FW_IN, SYN, 0));
    g_assert_cmpint(g.v.reason, ==, FW_BY_DEFAULT);
    g_assert_true(segment(&g, &c, FW_OUT, ACK, 100)); /* and the flow goes on */
    g_assert_true(segment(&g, &c, FW_IN, ACK, 100));

    segment(&g, &c, FW_OUT, FIN, 0);
    segment(&g, &c, FW_IN, FIN, 0);
    g_assert_false(segment(&g, &back, FW_IN, SYN, 0)); /* nor through what is left */
    g_assert_true(segment(&g, &c, FW_OUT, SYN, 0));    /* but the port is used again */
    g_assert_cmpint(g.v.reason, ==, FW_BY_DEFAULT);
    g_assert_cmpstr(state_of_first(&g), ==, "syn-sent");
    g_assert_cmpuint(fw_gate_n_flows(g.gate), ==, 1);

    gate_begin(&g, NULL, "default in allow\ndefault out allow");
    c = conn4;
    g_assert_true(connect_it(&g, &c, FW_OUT));
    back = c;
    g_assert_true(segment(&g, &back, FW_IN, SYN, 0)); /* a rule lets it in */
    g_assert_cmpstr(state_of_first(&g), ==,
                    "established"); /* and nothing is lost by it */
    gate_free(&g);
}

static void both_may_connect_at_once(void)
{
    Gate g = {0};
    Conn c = conn4;

    gate_begin(&g, NULL, "default out allow");
    gate_settle(&g);
    g_assert_true(segment(&g, &c, FW_OUT, SYN, 0));
    g_assert_true(segment(&g, &c, FW_IN, SYN, 0));
    g_assert_true(segment(&g, &c, FW_OUT, SYNACK, 0));
    g_assert_true(segment(&g, &c, FW_IN, SYNACK, 0));
    g_assert_true(segment(&g, &c, FW_OUT, ACK, 10));
    gate_free(&g);
}

static void flags_that_no_tcp_sends_are_refused(void)
{
    static const unsigned odd[] = {0,
                                   PACKET_TCP_FIN,
                                   PACKET_TCP_SYN | PACKET_TCP_FIN,
                                   PACKET_TCP_SYN | PACKET_TCP_RST,
                                   PACKET_TCP_FIN | PACKET_TCP_PSH,
                                   PACKET_TCP_RST | PACKET_TCP_FIN,
                                   0xff};
    Gate g = {0};
    Conn c = conn4;

    gate_begin(&g, NULL, "default in allow\ndefault out allow");
    g_assert_true(connect_it(&g, &c, FW_IN));
    for (unsigned i = 0; i < G_N_ELEMENTS(odd); i++) {
        Conn copy = c;

        g_assert_false(segment(&g, &copy, FW_IN, odd[i], 0));
        g_assert_cmpint(g.v.reason, ==, FW_BY_INVALID);
        copy.their_port++;
        g_assert_false(segment(&g, &copy, FW_OUT, odd[i], 0));
        g_assert_cmpint(g.v.reason, ==, FW_BY_INVALID);
    }
    gate_free(&g);
}

/* After a restart of the switch nothing is known. */
static void connections_go_on_after_a_restart(void)
{
    static const struct {
        const char *rules;
        FwDirection first; /* which side talks first again */
        bool settled, allow;
    } cases[] = {
        {"default out allow", FW_OUT, false, true}, /* we connected, and talk */
        {"default out allow", FW_IN, false, true},  /* or they do */
        {"allow in tcp port 40000", FW_IN, false, true},
        {"allow in tcp port 40000", FW_OUT, false, true},
        {"default out allow", FW_OUT, true, true}, /* later: where a SYN might go */
        {"default out allow", FW_IN, true, false},
        {"allow in tcp port 40001", FW_IN, false, false},
        {"", FW_OUT, false, false},
    };
    Gate g = {0};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Conn c = conn4;
        bool allow;

        gate_begin(&g, NULL, cases[i].rules);
        if (cases[i].settled)
            gate_settle(&g);
        c.seq[0] = c.ack[1] = 5000;
        c.seq[1] = c.ack[0] = 9000;
        allow = segment(&g, &c, cases[i].first, ACK, 100);
        g_assert_cmpint(allow, ==, cases[i].allow);
        if (!allow)
            continue;
        g_assert_cmpstr(state_of_first(&g), ==, "picked-up");
        g_assert_true(segment(&g, &c, cases[i].first == FW_IN ? FW_OUT : FW_IN, ACK, 50));
        g_assert_true(segment(&g, &c, cases[i].first, ACK, 50));
        g_assert_true(segment(&g, &c, cases[i].first == FW_IN ? FW_OUT : FW_IN, ACK, 50));
        g_assert_cmpstr(state_of_first(&g), ==, "established");
    }
    gate_free(&g);
}

static void what_was_picked_up_lets_nobody_connect(void)
{
    Gate g = {0};
    Conn c = conn4;

    gate_begin(&g, NULL, "default out allow");
    g_assert_true(segment(&g, &c, FW_IN, ACK, 10)); /* a reply, as it seems */
    g_assert_false(segment(&g, &c, FW_IN, SYN, 0));
    Conn other = conn4;
    other.their_port = 4444;
    g_assert_false(segment(&g, &other, FW_IN, RST, 0)); /* of nothing */
    gate_free(&g);
}

static void udp_is_known_for_longer_when_it_goes_on(void)
{
    Gate g = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        const char *us = v6 ? US6 : US, *them = v6 ? THEM6 : THEM;

        gate_begin(&g, NULL, "default out allow");
        gate_settle(&g);
        g_assert_false(gate_udp(&g, FW_IN, them, 53, us, 4000));
        g_assert_true(gate_udp(&g, FW_OUT, us, 4000, them, 53));
        g.now += 31 * SECONDS;
        g_assert_false(gate_udp(&g, FW_IN, them, 53, us, 4000));
        g_assert_true(gate_udp(&g, FW_OUT, us, 4000, them, 53));
        g.now += 29 * SECONDS;
        g_assert_true(gate_udp(&g, FW_IN, them, 53, us, 4000));
        g_assert_false(gate_udp(&g, FW_IN, them, 53, us, 4001));
        g_assert_false(gate_udp(&g, FW_IN, them, 54, us, 4000));
        g.now += 29 * SECONDS;
        g_assert_true(gate_udp(&g, FW_OUT, us, 4000, them, 53));
        g_assert_cmpstr(state_of_first(&g), ==, "stream");
        g.now += 179 * SECONDS;
        g_assert_true(gate_udp(&g, FW_IN, them, 53, us, 4000));
        g.now += 181 * SECONDS;
        g_assert_false(gate_udp(&g, FW_IN, them, 53, us, 4000));
    }
    gate_free(&g);
}

static void an_echo_is_answered_by_its_id_and_not_asked_back(void)
{
    Gate g = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        const char *us = v6 ? US6 : US, *them = v6 ? THEM6 : THEM;
        unsigned ask = v6 ? 128 : 8, reply = v6 ? 129 : 0;

        gate_begin(&g, NULL, "allow out icmp type echo-request");
        gate_settle(&g);
        g_assert_false(gate_icmp(&g, FW_IN, them, us, reply, 7));
        g_assert_true(gate_icmp(&g, FW_OUT, us, them, ask, 7));
        g_assert_true(gate_icmp(&g, FW_IN, them, us, reply, 7));
        g_assert_cmpint(g.v.reason, ==, FW_BY_FLOW);
        g_assert_false(gate_icmp(&g, FW_IN, them, us, reply, 8));
        g_assert_false(gate_icmp(&g, FW_IN, them, us, ask, 7));
        g_assert_false(gate_icmp(&g, FW_OUT, us, them, reply, 7));
        g.now += 31 * SECONDS;
        g_assert_false(gate_icmp(&g, FW_IN, them, us, reply, 7));
    }
    gate_free(&g);
}

static bool send_proto(Gate *g, FwDirection direction, const char *from, const char *to,
                       unsigned proto)
{
    frame_ip(&g->f, from, to, proto);
    frame_room(&g->f, 30);
    return gate_pass(g, direction);
}

static void other_protocols_are_known_by_their_addresses(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "allow out gre");
    gate_settle(&g);
    g_assert_false(send_proto(&g, FW_IN, THEM, US, 47));
    g_assert_true(send_proto(&g, FW_OUT, US, THEM, 47));
    g_assert_true(send_proto(&g, FW_IN, THEM, US, 47));
    g_assert_false(send_proto(&g, FW_IN, THEM, US, 50));
    g_assert_false(send_proto(&g, FW_IN, "10.5.0.88", US, 47));
    gate_free(&g);
}

/* An error about a packet of g->f that `from` saw. */
static bool send_error(Gate *g, FwDirection direction, const char *from, const char *to,
                       unsigned type)
{
    TestFrame quoted = g->f;

    frame_ip(&g->f, from, to, quoted.v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    frame_icmp(&g->f, type, 0, 0);
    frame_quote(&g->f, &quoted, quoted.v6 ? 48 : 28);
    return gate_pass(g, direction);
}

static void icmp_errors_about_a_flow_pass(void)
{
    Gate g = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        const char *us = v6 ? US6 : US, *them = v6 ? THEM6 : THEM,
                   *router = v6 ? "fd00::1" : "192.0.2.1";
        unsigned type = v6 ? 3 : 11;

        gate_begin(&g, NULL, "allow out udp\nallow out icmp");
        gate_settle(&g);
        gate_udp(&g, FW_OUT, us, 4000, them, 53);
        g_assert_true(send_error(&g, FW_IN, router, us, type));
        g_assert_cmpint(g.v.reason, ==, FW_BY_FLOW);

        gate_icmp(&g, FW_OUT, us, them, v6 ? 128 : 8, 7);
        g_assert_true(send_error(&g, FW_IN, router, us, type));

        /* about a flow that there is not, or to who did not send it, or no error */
        gate_udp(&g, FW_OUT, us, 4000, them, 53);
        put16(g.f.b + g.f.udp, 4001);
        g_assert_false(send_error(&g, FW_IN, router, us, type));
        gate_udp(&g, FW_OUT, us, 4000, them, 53);
        g_assert_false(
            send_error(&g, FW_IN, router, v6 ? "fd00:5::a" : "10.5.0.10", type));
        gate_udp(&g, FW_OUT, us, 4000, them, 53);
        g_assert_false(send_error(&g, FW_IN, router, us, v6 ? 137 : 5));
        gate_udp(&g, FW_IN, them, 53, us, 4000); /* what came, quoted to its receiver */
        g_assert_false(send_error(&g, FW_IN, router, us, type));
    }
    gate_free(&g);
}

/* One fragment of a UDP packet. */
static bool fragment(Gate *g, const char *us, unsigned id, unsigned offset, bool more,
                     unsigned bytes)
{
    const char *them = strchr(us, ':') ? THEM6 : THEM;

    frame_ip(&g->f, them, us, strchr(us, ':') ? 44 : IPPROTO_UDP);
    frame_fragment(&g->f, id, offset, more, IPPROTO_UDP);
    if (offset == 0 && bytes >= 8) {
        frame_udp(&g->f, 4000, 53);
        g->f.udp = 0;
        bytes -= 8;
    }
    memset(frame_room(&g->f, bytes), 0, bytes);
    return gate_pass(g, FW_IN);
}

static void fragments_go_the_way_of_their_first(void)
{
    Gate g = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        const char *us = v6 ? US6 : US;

        gate_begin(&g, NULL, "allow in udp port 53");
        gate_settle(&g);
        g_assert_false(fragment(&g, us, 1, 800, true, 800)); /* before its first */
        g_assert_cmpint(g.v.reason, ==, FW_BY_INVALID);
        g_assert_true(fragment(&g, us, 1, 0, true, 800));
        g_assert_true(fragment(&g, us, 1, 1600, false, 100));
        g_assert_cmpuint(g.v.rule, ==, 0);
        g_assert_true(fragment(&g, us, 1, 800, true, 800));
        g_assert_false(fragment(&g, us, 2, 800, true, 800)); /* another packet */
        g_assert_false(
            fragment(&g, us, 1, 792, true, 800)); /* over the first one's end */
        g_assert_false(fragment(&g, us, 1, 8, true, 800));
        g_assert_true(fragment(&g, us, 1, 0, true, 800)); /* twice is not wrong */
        g.now += 31 * SECONDS;
        g_assert_false(fragment(&g, us, 1, 800, true, 800));

        gate_begin(&g, NULL, "allow in udp port 54");
        g_assert_false(fragment(&g, us, 1, 0, true, 800)); /* refused, with the rest */
        g_assert_false(fragment(&g, us, 1, 800, false, 800));
    }
    gate_free(&g);
}

static void a_first_fragment_that_hides_its_header_is_refused(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "default in allow");
    frame_ip(&g.f, THEM, US, IPPROTO_TCP);
    frame_fragment(&g.f, 9, 0, true, 0);
    frame_room(&g.f, 16); /* of twenty */
    g_assert_false(gate_pass(&g, FW_IN));
    g_assert_cmpint(g.v.reason, ==, FW_BY_INVALID);
    frame_ip(&g.f, THEM6, US6, 44);
    frame_fragment(&g.f, 9, 0, true, IPPROTO_TCP);
    frame_room(&g.f, 16);
    g_assert_false(gate_pass(&g, FW_IN));
    frame_ip(&g.f, THEM, US, IPPROTO_UDP); /* not whole, and no fragment */
    frame_room(&g.f, 7);
    g_assert_false(gate_pass(&g, FW_IN));
    gate_free(&g);
}

static void a_flood_of_fragments_keeps_its_bound(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "allow in udp");
    for (unsigned id = 0; id < 5000; id++)
        g_assert_true(fragment(&g, US, id, 0, true, 800));
    g_assert_true(fragment(&g, US, 4999, 800, true, 800));
    g_assert_false(fragment(&g, US, 1, 800, true, 800)); /* made room */
    gate_free(&g);
}

static void a_vm_has_an_address_whatever_the_rules(void)
{
    static const struct {
        FwDirection direction;
        const char *from, *to;
        unsigned port, to_port;
        bool allow;
    } dhcp[] = {
        {FW_OUT, "0.0.0.0", "255.255.255.255", 68, 67, true},
        {FW_OUT, US, "10.5.0.1", 68, 67, true},
        {FW_IN, "10.5.0.1", US, 67, 68, true},
        {FW_IN, "10.5.0.1", "255.255.255.255", 67, 68, true},
        {FW_OUT, US, THEM, 68, 67, false}, /* another server */
        {FW_IN, THEM, US, 67, 68, false},
        {FW_IN, THEM, "255.255.255.255", 68, 67, false}, /* we are none */
        {FW_OUT, US, "10.5.0.1", 68, 68, false},
        {FW_OUT, "fe80::9", "ff02::1:2", 546, 547, true},
        {FW_IN, "fe80::1", "fe80::9", 547, 546, true},
        {FW_IN, "fd00:5::1", "fe80::9", 547, 546, false},
        {FW_OUT, "fe80::9", "fd00:5::8", 546, 547, false},
    };
    Gate g = {0};

    gate_begin(&g, "", "");
    frame_eth(&g.f, ETHER_ARP);
    uint8_t *arp = frame_room(&g.f, 28);
    memcpy(arp, (uint8_t[]){0, 1, 8, 0, 6, 4, 0, 1}, 8);
    g_assert_true(gate_pass(&g, FW_OUT) && gate_pass(&g, FW_IN));
    for (unsigned type = 130; type <= 138; type++) {
        bool discovery = type >= 133 && type <= 136;

        gate_icmp(&g, FW_OUT, "fe80::9", "ff02::1", type, 0);
        g_assert_false(g.v.allow); /* it has come over a router */
        g.f.b[g.f.ip + 7] = 255;
        g_assert_cmpint(gate_pass(&g, FW_OUT), ==, discovery);
        g_assert_cmpint(gate_pass(&g, FW_IN), ==, discovery);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(dhcp); i++)
        g_assert_cmpint(gate_udp(&g, dhcp[i].direction, dhcp[i].from, dhcp[i].port,
                                 dhcp[i].to, dhcp[i].to_port),
                        ==, dhcp[i].allow);
    gate_free(&g);
}

static void what_is_malformed_or_no_ip_is_refused(void)
{
    Gate g = {0};

    gate_begin(&g, NULL, "default in allow");
    frame_ip(&g.f, THEM, US, IPPROTO_UDP);
    frame_udp(&g.f, 1, 2);
    g.f.b[g.f.ip] = 0x55;
    g_assert_false(gate_pass(&g, FW_IN));
    g_assert_cmpint(g.v.reason, ==, FW_BY_INVALID);
    frame_eth(&g.f, 0x88cc);
    frame_room(&g.f, 40);
    g_assert_true(gate_pass(&g, FW_IN)); /* the default's matter */
    gate_begin(&g, NULL, "allow in from 0.0.0.0/0, ::/0");
    g_assert_false(gate_pass(&g, FW_IN));
    gate_begin(&g, NULL, "allow in match \"ether proto 0x88cc\"");
    g_assert_true(gate_pass(&g, FW_IN));
    gate_free(&g);
}

static void without_rules_all_passes_and_flows_are_known(void)
{
    Gate g = {0};
    Conn c = conn4;

    gate_begin(&g, NULL, NULL);
    g_assert_true(segment(&g, &c, FW_IN, FIN, 0));
    g_assert_cmpint(g.v.reason, ==, FW_BY_NONE);
    g_assert_null(g.v.set);
    frame_ip(&g.f, THEM, US, IPPROTO_UDP);
    g.f.b[g.f.ip] = 0x55;
    g_assert_true(gate_pass(&g, FW_IN));
    frame_ip(&g.f, THEM, "224.0.0.251", IPPROTO_UDP);
    frame_udp(&g.f, 5353, 5353);
    g.f.b[0] = 0xff; /* to everybody: it would be kept a thousand times */
    g_assert_true(gate_pass(&g, FW_IN));
    g_assert_cmpuint(fw_gate_n_flows(g.gate), ==, 1);
    c = conn4;
    c.our_port = 1;
    g_assert_true(connect_it(&g, &c, FW_OUT));
    gate_rules(&g, NULL, "default out allow"); /* and go on when there are some */
    gate_settle(&g);
    g_assert_true(segment(&g, &c, FW_IN, ACK, 10));
    g_assert_cmpint(g.v.reason, ==, FW_BY_FLOW);
    gate_free(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/gate/" #name, name)
    ADD(replies_pass_by_the_flow_and_only_those);
    ADD(a_connection_goes_through_its_states);
    ADD(each_state_has_its_time);
    ADD(a_reset_ends_a_flow_only_where_its_side_stands);
    ADD(a_flow_lets_nobody_connect_backwards);
    ADD(both_may_connect_at_once);
    ADD(flags_that_no_tcp_sends_are_refused);
    ADD(connections_go_on_after_a_restart);
    ADD(what_was_picked_up_lets_nobody_connect);
    ADD(udp_is_known_for_longer_when_it_goes_on);
    ADD(an_echo_is_answered_by_its_id_and_not_asked_back);
    ADD(other_protocols_are_known_by_their_addresses);
    ADD(icmp_errors_about_a_flow_pass);
    ADD(fragments_go_the_way_of_their_first);
    ADD(a_first_fragment_that_hides_its_header_is_refused);
    ADD(a_flood_of_fragments_keeps_its_bound);
    ADD(a_vm_has_an_address_whatever_the_rules);
    ADD(what_is_malformed_or_no_ip_is_refused);
    ADD(without_rules_all_passes_and_flows_are_known);
    return g_test_run();
}
