/* What becomes of a packet.  decide() says it and changes nothing; fw_gate_pass() then
 * does what it said: counts, learns flows, remembers fragments.
 *
 * Never asked about are ARP, neighbour and router discovery, and DHCP with the network's
 * own server: without them a VM has no address, and they are the guard's to judge. */
#include "src/firewall/flows.h"

enum {
    DNS_PORT = 53,
    DOT_PORT = 853, /* RFC 7858, and over QUIC RFC 9250 */
    HOP_LIMIT = 255,
};

/* So long after the gate began, as after a restart of its switch, a connection's replies
 * are picked up too. */
static const int64_t grace_ns = 30 * 1000000000ll;

/* Of lines in the log, for each rule: ten at once, then five a second. */
static const int64_t log_interval_ns = 200 * 1000000ll;
enum { LOG_BURST = 10 };

typedef struct Decision {
    FwVerdict v;
    Rule *by[2]; /* that were met, of both sets; NULL: none, or not asked */
    uint16_t rule[2];
    bool of_flow;          /* of the one that is known */
    bool learn, forget;    /* one; both: it begins anew */
    FwDirection direction; /* of the flow that is learnt */
} Decision;

FwGate *fw_gate_new(const FwWorld *world, unsigned max_flows)
{
    FwGate *gate = g_new0(FwGate, 1);

    gate->world = *world;
    flows_init(&gate->flows, MIN(max_flows, 1 << 20));
    return gate;
}

void fw_gate_free(FwGate *gate)
{
    if (!gate)
        return;
    for (unsigned i = 0; i < 2; i++) {
        firewall_unref(gate->set[i]);
        firewall_unref(gate->old[i]);
    }
    flows_clear(&gate->flows);
    fragments_clear(&gate->fragments);
    g_free(gate);
}

static bool has_rules(const FwGate *gate)
{
    return gate->set[0] || gate->set[1];
}

void fw_gate_set(FwGate *gate, Firewall *network, Firewall *vm)
{
    Firewall *sets[2] = {network, vm};

    gate->generation++;
    if (network == gate->set[0] && vm == gate->set[1])
        return;                     /* the world has changed, not the rules */
    gate->began &= has_rules(gate); /* who had none may have seen no packets either */
    gate->names = false;
    gate->old_since = gate->set_since;
    gate->set_since = gate->generation;
    for (unsigned i = 0; i < 2; i++) {
        firewall_unref(gate->old[i]);
        gate->old[i] = gate->set[i];
        gate->set[i] = sets[i] ? firewall_ref(sets[i]) : NULL;
        gate->names |= sets[i] && firewall_has_names(sets[i]);
    }
}

unsigned fw_gate_n_flows(const FwGate *gate)
{
    return gate->flows.used;
}

/* ---- asking the rules ----------------------------------------------------------------
 */

static bool refuse(Decision *d, FwReason reason, const char *detail)
{
    d->v.allow = false;
    d->v.reason = reason;
    d->v.detail = detail;
    d->v.set = NULL;
    d->v.rule = UINT_MAX;
    return false;
}

static bool is_own_dns(const FwGate *gate, const Packet *p)
{
    return gate->world.is_dns && gate->world.is_dns(gate->world.opaque, &p->to);
}

static bool is_dns_port(const Subject *s, unsigned port)
{
    const Packet *p = s->p;

    return s->direction == FW_OUT && p->to_port == port &&
           (p->proto == IPPROTO_UDP || p->proto == IPPROTO_TCP);
}

/* What a set says, after DNS that its names need. */
static bool ask_set(const FwGate *gate, unsigned which, const Subject *s, Decision *d)
{
    Firewall *fw = gate->set[which];
    unsigned number;
    Rule *rule = set_judge(fw, s, &gate->world, &number);

    d->by[which] = rule;
    d->rule[which] = (uint16_t)MIN(number, FLOW_BY_DEFAULT);
    d->v.set = fw;
    d->v.rule = number;
    d->v.allow = rule->allow;
    d->v.log |= rule->log;
    d->v.reason = number == UINT_MAX ? FW_BY_DEFAULT : FW_BY_RULE;
    if (number == UINT_MAX && !rule->allow && fw->names && is_dns_port(s, DNS_PORT) &&
        is_own_dns(gate, s->p)) {
        d->v.reason = FW_BY_DNS;
        d->v.allow = true;
    }
    return d->v.allow;
}

/* Both sets have to allow it. */
static bool ask(const FwGate *gate, const Subject *s, Decision *d)
{
    d->by[0] = d->by[1] = NULL;
    d->rule[0] = d->rule[1] = FLOW_BY_DEFAULT;
    d->v.log = false;
    if (gate->names && (is_dns_port(s, DNS_PORT) || is_dns_port(s, DOT_PORT)) &&
        !is_own_dns(gate, s->p))
        return refuse(d, FW_BY_DNS, NULL);
    for (unsigned i = 0; i < 2; i++) {
        if (gate->set[i] && !ask_set(gate, i, s, d))
            return false;
    }
    return true;
}

/* ---- the other way round -------------------------------------------------------------
 */

static void swap(uint8_t *a, uint8_t *b, size_t len)
{
    uint8_t keep[16];

    memcpy(keep, a, len);
    memcpy(a, b, len);
    memcpy(b, keep, len);
}

static void turn_frame(const Packet *p, uint8_t *frame)
{
    bool v6 = p->kind == PACKET_IPV6;
    uint8_t *ip = frame + p->net, *t = frame + p->transport;

    swap(frame, frame + 6, 6);
    swap(ip + (v6 ? 8 : 12), ip + (v6 ? 24 : 16), v6 ? 16 : 4);
    if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP)
        swap(t, t + 2, 2);
    else if (!flow_begins(p)) /* the reply of an echo */
        t[0] = v6 ? 128 : 8;
}

static Packet turn(const Packet *p)
{
    Packet q = *p;

    q.src = p->dst;
    q.dst = p->src;
    q.from = p->to;
    q.to = p->from;
    q.from_port = p->to_port;
    q.to_port = p->from_port;
    if (!flow_begins(p) && p->proto != IPPROTO_TCP)
        q.icmp_type = p->kind == PACKET_IPV6 ? 128 : 8;
    return q;
}

/* About the packet that this one might be the reply to, as far as rules can see. */
static bool ask_turned(const FwGate *gate, const Subject *s, Decision *d)
{
    uint8_t frame[PACKET_MAX];
    Packet p = turn(s->p);
    Subject turned = {.direction = s->direction == FW_IN ? FW_OUT : FW_IN,
                      .p = &p,
                      .frame = frame,
                      .len = MIN(s->len, sizeof(frame)),
                      .held = {s->held[0], s->held[1]}};

    if ((gate->set[0] && gate->set[0]->filters) ||
        (gate->set[1] && gate->set[1]->filters)) {
        memcpy(frame, s->frame, turned.len);
        turn_frame(s->p, frame);
    }
    return ask(gate, &turned, d);
}

/* ---- kinds of packets ----------------------------------------------------------------
 */

static bool is_discovery(const Packet *p)
{
    return p->kind == PACKET_IPV6 && p->proto == IPPROTO_ICMPV6 && p->transport &&
           !p->fragment && p->ttl == HOP_LIMIT && p->icmp_type >= 133 &&
           p->icmp_type <= 136;
}

/* Client to server, or back: RFC 2131, 4.1; RFC 8415, 7.2. */
static bool is_dhcp(const FwGate *gate, FwDirection direction, const Packet *p)
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
    d->v.log = false;
    d->v.reason = FW_BY_FLOW;
    d->v.direction = direction;
    for (unsigned i = 0; i < 2; i++) {
        const Firewall *fw = gate->set[i];

        d->rule[i] = rule[i];
        if (!fw)
            continue;
        d->v.set = fw;
        d->v.rule = rule[i] < fw->rules->len ? rule[i] : UINT_MAX;
        d->by[i] = rule[i] < fw->rules->len ? fw->rules->pdata[rule[i]]
                                            : fw->defaults[direction];
    }
    return true;
}

static bool decide_fragment(const FwGate *gate, const Subject *s, int64_t now_ns,
                            Decision *d)
{
    const Fragment *f = fragments_find(&gate->fragments, s->direction, s->p,
                                       gate->generation, now_ns);

    if (!f)
        return refuse(
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
    if (s.direction == f->direction ? ask(gate, &s, d) : ask_turned(gate, &s, d))
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
        return refuse(d, FW_BY_INVALID, "it is TCP of no connection that is known");
    if (!answer && ask(gate, s, d))
        return true;
    other.v.direction = other.direction = s->direction == FW_IN ? FW_OUT : FW_IN;
    if (!grace || !ask_turned(gate, s, &other))
        return answer ? refuse(d, FW_BY_INVALID, "it answers no SYN that is known")
                      : false;
    *d = other;
    return true;
}

static bool decide_new(const FwGate *gate, const Subject *s, bool has_key, int64_t now_ns,
                       Decision *d)
{
    const Packet *p = s->p;
    bool tcp = has_key && p->proto == IPPROTO_TCP;

    if (tcp && !flow_begins(p) ? !decide_midstream(gate, s, now_ns, d) : !ask(gate, s, d))
        return false;
    d->learn = has_key && (tcp || flow_begins(p));
    if (d->learn && !d->forget && !flows_has_room(&gate->flows, now_ns)) {
        d->learn = false;
        return !has_rules(gate) || refuse(d, FW_BY_FULL, NULL);
    }
    return true;
}

/* Without rules everything passes, and flows are learnt for when there are some. */
static bool decide_free(const FwGate *gate, const Packet *p, const Flow *f, bool has_key,
                        FwDirection direction, Decision *d)
{
    bool odd = p->proto == IPPROTO_TCP &&
               (tcp_is_odd(p) || (!f && p->tcp_flags & PACKET_TCP_RST));

    d->v.allow = true;
    d->of_flow = f && flow_includes(f, direction, p);
    d->forget = f && !d->of_flow;
    d->learn = has_key && !odd && (!f || d->forget) &&
               (p->proto == IPPROTO_TCP || flow_begins(p));
    return true;
}

/* `key` is NULL for what is of no flow, `f` if it is not known. */
static bool decide(const FwGate *gate, const Subject *s, const FlowKey *key,
                   const Flow *f, int64_t now_ns, Decision *d)
{
    const Packet *p = s->p;
    const char *wrong;
    const Flow *about;

    *d = (Decision){.v = {.rule = UINT_MAX, .direction = s->direction},
                    .rule = {FLOW_BY_DEFAULT, FLOW_BY_DEFAULT},
                    .direction = s->direction};
    if (!has_rules(gate))
        return decide_free(gate, p, f, key != NULL, s->direction, d);
    wrong = what_is_wrong(p);
    if (wrong)
        return refuse(d, FW_BY_INVALID, wrong);
    if (p->kind == PACKET_ARP || is_discovery(p) || is_dhcp(gate, s->direction, p)) {
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

/* ---- doing ---------------------------------------------------------------------------
 */

static bool may_log(Rule *rule, int64_t now_ns)
{
    int64_t first = now_ns - (LOG_BURST - 1) * log_interval_ns;

    rule->log_ns = MAX(rule->log_ns, first);
    if (rule->log_ns > now_ns)
        return false;
    rule->log_ns += log_interval_ns;
    return true;
}

/* Counts at the rules that were met; true: one of them wants it logged, and may. */
static bool count(const Decision *d, size_t len, int64_t now_ns)
{
    bool log = false;

    for (unsigned i = 0; i < 2; i++) {
        Rule *rule = d->by[i];

        if (!rule)
            continue;
        rule->count.packets++;
        rule->count.bytes += len;
        log |= d->v.log && rule->log && may_log(rule, now_ns);
    }
    return log;
}

static Flow *learn(FwGate *gate, const Decision *d, const FlowKey *key, const Packet *p,
                   int64_t now_ns)
{
    Flow *f = flows_add(&gate->flows, key, flow_first_state(p), now_ns);

    if (!f)
        return NULL;
    f->direction = (uint8_t)d->direction;
    f->generation = gate->generation;
    memcpy(f->rule, d->rule, sizeof(f->rule));
    return f;
}

/* All but the packets of known flows. */
static bool pass_slowly(FwGate *gate, const Subject *s, const FlowKey *key, Flow *f,
                        int64_t now_ns, FwVerdict *ret)
{
    Decision d;
    bool allow = decide(gate, s, key, f, now_ns, &d);

    if (d.forget) {
        flows_remove(&gate->flows, f);
        f = NULL;
    }
    if (d.learn) {
        f = learn(gate, &d, key, s->p, now_ns);
        if (!f && has_rules(gate))
            allow = refuse(&d, FW_BY_FULL, NULL);
    } else if (d.of_flow && allow) {
        f->generation = gate->generation;
        memcpy(f->rule, d.rule, sizeof(f->rule));
    } else {
        f = NULL;
    }
    if (f && allow)
        flow_track(&gate->flows, f, s->direction, s->p, s->len, now_ns);
    if (allow && s->p->fragment && s->p->first && has_rules(gate))
        fragments_add(&gate->fragments, s->direction, s->p, gate->generation, d.rule,
                      now_ns);
    d.v.log = count(&d, s->len, now_ns);
    *ret = d.v;
    return allow;
}

bool fw_gate_pass(FwGate *gate, FwDirection direction, const Packet *p,
                  const uint8_t *frame, size_t len, int64_t now_ns, FwVerdict *ret)
{
    Subject s = {.direction = direction, .p = p, .frame = frame, .len = len};
    FlowKey key;
    bool has_key = flow_key(direction, p, &key);
    Flow *f = has_key ? flows_find(&gate->flows, &key, now_ns) : NULL;

    if (!gate->began) {
        gate->began = true;
        gate->began_ns = now_ns;
    }
    return pass_slowly(gate, &s, has_key ? &key : NULL, f, now_ns, ret);
}

void fw_gate_test(const FwGate *gate, FwDirection direction, const Packet *p,
                  const uint8_t *frame, size_t len, int64_t now_ns, FwVerdict *ret)
{
    Subject s = {.direction = direction, .p = p, .frame = frame, .len = len};
    FlowKey key;
    bool has_key = flow_key(direction, p, &key);
    const Flow *f = has_key ? flows_find(&gate->flows, &key, now_ns) : NULL;
    Decision d;

    decide(gate, &s, has_key ? &key : NULL, f, now_ns, &d);
    *ret = d.v;
}
