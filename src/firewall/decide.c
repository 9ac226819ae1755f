/* What becomes of a packet.  Nothing is changed by saying so: fw_gate_test() says it too.
 *
 * Never asked about are ARP, neighbour and router discovery, and DHCP with the network's
 * own server: without them a VM has no address, and they are the guard's to judge. */
#include "src/firewall/flows.h"

enum { HOP_LIMIT = 255 };

/* So long after the gate began, as after a restart of its switch, a connection's replies
 * are picked up too. */
static const int64_t grace_ns = 30 * 1000000000ll;

/* ---- kinds of packets ----------------------------------------------------------------
 */

static bool is_discovery(const Packet *p)
{
    return p->kind == PACKET_IPV6 && p->proto == IPPROTO_ICMPV6 && p->transport &&
           !p->fragment && p->ttl == HOP_LIMIT && p->icmp_type >= 133 &&
           p->icmp_type <= 136;
}

/* Client to server, or back: RFC 2131, 4.1; RFC 8415, 7.2. */
bool gate_is_dhcp(const FwGate *gate, FwDirection direction, const Packet *p)
{
    static const Ip servers = {{0xff, 0x02, [13] = 1, [15] = 2}}; /* ff02::1:2 */
    bool v6 = p->kind == PACKET_IPV6, out = direction == FW_OUT;
    uint16_t client = out ? p->from_port : p->to_port,
             server = out ? p->to_port : p->from_port;
    const Ip *other = out ? &p->to : &p->from;

    if (p->proto != IPPROTO_UDP || p->fragment || client != (v6 ? 546 : 68) ||
        server != (v6 ? 547 : 67))
        return false;
    if (v6)
        return ip_is_link_local(other) || (out && ip_equal(other, &servers));
    return (out && ip_to_v4(other) == UINT32_MAX) ||
           (gate->world.is_dhcp && gate->world.is_dhcp(gate->world.opaque, other));
}

/* NULL: it is as it should be. */
static const char *what_is_wrong(const Packet *p)
{
    bool transport = p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP ||
                     p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6;

    if (p->malformed)
        return "it is malformed";
    if (p->kind != PACKET_IPV4 && p->kind != PACKET_IPV6)
        return NULL;
    if (p->first && p->fragment && !p->transport)
        return "its first fragment is too small for its header";
    if (p->first && transport && !p->transport)
        return "its header is not whole";
    if (p->first && p->proto == IPPROTO_TCP && tcp_is_odd(p))
        return "no TCP sends these flags together";
    return NULL;
}

/* ---- deciding ------------------------------------------------------------------------
 */

/* By what allowed the flow, or the fragment's packet. */
static bool allow_by_flow(const FwGate *gate, const uint16_t rule[2],
                          FwDirection direction, Decision *d)
{
    d->v.allow = true;
    d->v.log = d->v.reject = false;
    d->v.reason = FW_BY_FLOW;
    d->v.direction = direction;
    for (unsigned i = 0; i < 2; i++) {
        const Firewall *fw = gate->set[i];

        d->rule[i] = rule[i];
        if (!fw)
            continue;
        d->v.set = fw;
        d->v.rule = remembered_number(fw, rule[i]);
        d->by[i] = remembered_rule(fw, rule[i], direction);
    }
    return true;
}

static bool decide_fragment(const FwGate *gate, const Subject *s, int64_t now_ns,
                            Decision *d)
{
    const Fragment *f = fragments_find(&gate->fragments, s->direction, s->p,
                                       gate->generation, now_ns);

    if (!f)
        return decision_refuse(
            d, FW_BY_INVALID,
            "it is a fragment whose first one did not pass before, or overlaps");
    return allow_by_flow(gate, f->rule, s->direction, d);
}

/* The rules that allowed a flow, if they are still there to be looked at. */
static void hold(const FwGate *gate, const Flow *f, Subject *s)
{
    bool current = (int32_t)(f->generation - gate->set_since) >= 0;
    bool known = (int32_t)(f->generation - gate->old_since) >= 0;

    for (unsigned i = 0; i < 2; i++) {
        const Firewall *fw = current ? gate->set[i] : known ? gate->old[i] : NULL;

        if (fw && f->rule[i] < fw->rules->len)
            s->held[i] = fw->rules->pdata[f->rule[i]];
    }
}

/* A flow that other rules allowed: these are asked about its first direction. */
static bool decide_again(const FwGate *gate, const Flow *f, const Subject *packet,
                         Decision *d)
{
    Subject s = *packet;

    hold(gate, f, &s);
    d->v.direction = (FwDirection)f->direction;
    if (s.direction == f->direction ? gate_ask(gate, &s, d)
                                    : gate_ask_turned(gate, &s, d))
        return allow_by_flow(gate, d->rule, d->v.direction, d);
    d->forget = true;
    return false;
}

/* An ICMP error about a packet of a flow that is known, sent to who sent that. */
static const Flow *related(const FwGate *gate, const Subject *s, int64_t now_ns)
{
    FlowKey key;
    Packet quoted;
    const Flow *f;

    if ((s->p->proto != IPPROTO_ICMP && s->p->proto != IPPROTO_ICMPV6) ||
        !packet_parse_quoted(s->p, s->frame, s->len, &quoted) ||
        !ip_equal(&quoted.from, &s->p->to) ||
        !flow_key_quoted(s->direction, &quoted, &key))
        return NULL;
    f = flows_find(&gate->flows, &key, now_ns);
    return f && f->generation == gate->generation ? f : NULL;
}

/* TCP in the middle of a connection that is not known: the direction of its first packet
 * is not known either.  Replies only for a while. */
static bool decide_midstream(const FwGate *gate, const Subject *s, int64_t now_ns,
                             Decision *d)
{
    bool answer = s->p->tcp_flags & PACKET_TCP_SYN;
    bool grace = !gate->began || now_ns - gate->began_ns < grace_ns;
    Decision other = *d;

    if (s->p->tcp_flags & PACKET_TCP_RST || (answer && !grace))
        return decision_refuse(d, FW_BY_INVALID,
                               "it is TCP of no connection that is known");
    if (!answer && gate_ask(gate, s, d))
        return true;
    other.v.direction = other.direction = s->direction == FW_IN ? FW_OUT : FW_IN;
    if (!grace || !gate_ask_turned(gate, s, &other))
        return answer
                   ? decision_refuse(d, FW_BY_INVALID, "it answers no SYN that is known")
                   : false;
    *d = other;
    return true;
}

static bool decide_new(const FwGate *gate, const Subject *s, bool has_key, int64_t now_ns,
                       Decision *d)
{
    const Packet *p = s->p;
    bool tcp = has_key && p->proto == IPPROTO_TCP;

    if (tcp && !flow_begins(p) ? !decide_midstream(gate, s, now_ns, d)
                               : !gate_ask(gate, s, d))
        return false;
    d->learn = has_key && (tcp || flow_begins(p));
    if (d->learn && !d->forget && !flows_has_room(&gate->flows, now_ns)) {
        d->learn = false;
        return !gate_has_rules(gate) || decision_refuse(d, FW_BY_FULL, NULL);
    }
    return true;
}

/* Without rules everything passes, and flows are learnt to be told about and for when
 * there are rules; not those to everybody, which every port would keep. */
static bool decide_free(const FwGate *gate, const Packet *p, const Flow *f, bool has_key,
                        FwDirection direction, Decision *d)
{
    bool odd = p->proto == IPPROTO_TCP &&
               (tcp_is_odd(p) || (!f && p->tcp_flags & PACKET_TCP_RST));

    d->v.allow = true;
    d->of_flow = f && flow_includes(f, direction, p);
    d->forget = f && !d->of_flow;
    d->learn = has_key && !odd && (!f || d->forget) && !mac_is_group(&p->dst) &&
               (p->proto == IPPROTO_TCP || flow_begins(p));
    return true;
}

bool gate_decide(const FwGate *gate, const Subject *s, const FlowKey *key, const Flow *f,
                 int64_t now_ns, Decision *d)
{
    const Packet *p = s->p;
    const char *wrong;
    const Flow *about;

    *d = (Decision){.v = {.rule = UINT_MAX, .direction = s->direction},
                    .rule = {FLOW_BY_DEFAULT, FLOW_BY_DEFAULT},
                    .direction = s->direction};
    if (!gate_has_rules(gate))
        return decide_free(gate, p, f, key != NULL, s->direction, d);
    wrong = what_is_wrong(p);
    if (wrong)
        return decision_refuse(d, FW_BY_INVALID, wrong);
    if (p->kind == PACKET_ARP || is_discovery(p) || gate_is_dhcp(gate, s->direction, p)) {
        d->v.allow = true;
        d->v.detail = "it is for having an address";
        return true;
    }
    if (p->fragment && !p->first)
        return decide_fragment(gate, s, now_ns, d);
    d->of_flow = f && flow_includes(f, s->direction, p);
    if (d->of_flow)
        return f->generation == gate->generation
                   ? allow_by_flow(gate, f->rule, (FwDirection)f->direction, d)
                   : decide_again(gate, f, s, d);
    about = related(gate, s, now_ns);
    if (about)
        return allow_by_flow(gate, about->rule, (FwDirection)about->direction, d);
    /* A SYN within an old flow: it begins anew, unless that one may still go on. */
    d->forget = f && !flow_may_go_on(f);
    if (!decide_new(gate, s, key != NULL, now_ns, d)) {
        d->forget = false;
        return false;
    }
    if (f && !d->forget)
        d->learn = false;
    return true;
}
