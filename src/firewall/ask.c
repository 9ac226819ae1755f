/* What the two sets of a gate say of a packet, or of the packet that it answers. */
#include "src/firewall/flows.h"

enum {
    DNS_PORT = 53,
    DOT_PORT = 853, /* RFC 7858, and over QUIC RFC 9250 */
};

bool decision_refuse(Decision *d, FwReason reason, const char *detail)
{
    d->v.allow = d->v.reject = false;
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
    d->v.reject = rule->reject;
    d->v.reason = number == UINT_MAX ? FW_BY_DEFAULT : FW_BY_RULE;
    if (number == UINT_MAX && !rule->allow && fw->names && is_dns_port(s, DNS_PORT) &&
        is_own_dns(gate, s->p)) {
        d->by[which] = NULL;
        d->v.reason = FW_BY_DNS;
        d->v.allow = true;
        d->v.reject = false;
    } else {
        d->v.log |= rule->log;
    }
    return d->v.allow;
}

/* Both sets have to allow it. */
bool gate_ask(const FwGate *gate, const Subject *s, Decision *d)
{
    d->by[0] = d->by[1] = NULL;
    d->rule[0] = d->rule[1] = FLOW_BY_DEFAULT;
    d->v.log = false;
    if (gate->names && (is_dns_port(s, DNS_PORT) || is_dns_port(s, DOT_PORT)) &&
        !is_own_dns(gate, s->p))
        return decision_refuse(d, FW_BY_DNS, NULL);
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
bool gate_ask_turned(const FwGate *gate, const Subject *s, Decision *d)
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
    return gate_ask(gate, &turned, d);
}
