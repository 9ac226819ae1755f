/* What packets say of the state of their flow.
 *
 * TCP (RFC 9293, 3.3.2, as seen from between): a SYN begins a flow, its answer and the
 * answer to that establish it, FINs and RSTs end it.  Sequence numbers are looked at
 * where a lie would pay: the third packet must answer the second, or a flood with forged
 * senders would leave established flows; a FIN or RST is believed only near the end of
 * what its side sent, or anyone could end the flows of others.  What is not believed
 * passes all the same: the hosts know better.
 *
 * UDP and others: one side, then the other, then the first again.  Echo: requests and
 * replies with one id; who asks is part of the key. */
#include "src/firewall/flows.h"

enum {
    TCP_FLAGS = PACKET_TCP_SYN | PACKET_TCP_ACK | PACKET_TCP_FIN | PACKET_TCP_RST,
    NEAR = 1 << 16,  /* how far a FIN or RST may be from the end of what was sent */
    EARLY = 1 << 14, /* what may be sent with the answer to a SYN (RFC 7413) */
    AHEAD = 1 << 24, /* how much can have been lost before us */
};

static bool is_echo_request(const Packet *p)
{
    return p->icmp_type == (p->kind == PACKET_IPV6 ? 128 : 8);
}

static bool is_echo_reply(const Packet *p)
{
    return p->icmp_type == (p->kind == PACKET_IPV6 ? 129 : 0);
}

static void set_ends(FwDirection direction, const Packet *p, FlowKey *key)
{
    bool out = direction == FW_OUT;

    key->local = out ? p->from : p->to;
    key->remote = out ? p->to : p->from;
    key->local_port = out ? p->from_port : p->to_port;
    key->remote_port = out ? p->to_port : p->from_port;
    key->proto = p->proto;
    key->echo = 0;
    key->zero = 0;
}

static bool set_key(FwDirection direction, const Packet *p, FlowKey *key)
{
    set_ends(direction, p, key);
    if (p->proto != (p->kind == PACKET_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return true;
    if (!is_echo_request(p) && !is_echo_reply(p))
        return false;
    key->local_port = p->icmp_id;
    key->echo = 1 + (is_echo_request(p) ? direction : !direction);
    return true;
}

bool flow_key(FwDirection direction, const Packet *p, FlowKey *ret)
{
    return (p->kind == PACKET_IPV4 || p->kind == PACKET_IPV6) && p->transport &&
           set_key(direction, p, ret);
}

bool flow_key_quoted(FwDirection direction, const Packet *quoted, FlowKey *ret)
{
    return set_key(direction == FW_IN ? FW_OUT : FW_IN, quoted, ret);
}

bool tcp_is_odd(const Packet *p)
{
    switch (p->tcp_flags & TCP_FLAGS) {
    case PACKET_TCP_SYN:
    case PACKET_TCP_SYN | PACKET_TCP_ACK:
    case PACKET_TCP_ACK:
    case PACKET_TCP_ACK | PACKET_TCP_FIN:
    case PACKET_TCP_RST:
    case PACKET_TCP_RST | PACKET_TCP_ACK:
        return false;
    }
    return true;
}

bool flow_begins(const Packet *p)
{
    if (p->proto == IPPROTO_TCP)
        return (p->tcp_flags & TCP_FLAGS) == PACKET_TCP_SYN;
    if (p->proto == (p->kind == PACKET_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return is_echo_request(p);
    return true;
}

bool flow_includes(const Flow *f, FwDirection direction, const Packet *p)
{
    if (p->proto != IPPROTO_TCP || (p->tcp_flags & TCP_FLAGS) != PACKET_TCP_SYN)
        return true;
    if (f->state == FLOW_SYN_SENT || f->state == FLOW_SYN_RECEIVED)
        return true; /* both at once: RFC 9293, 3.5 */
    /* Nobody connects backwards through a flow. */
    return flow_may_go_on(f) && direction == f->direction;
}

bool flow_may_go_on(const Flow *f)
{
    return f->state == FLOW_ESTABLISHED || f->state == FLOW_PICKED_UP;
}

FlowState flow_first_state(const Packet *p)
{
    if (p->proto == IPPROTO_TCP)
        return flow_begins(p) ? FLOW_SYN_SENT : FLOW_PICKED_UP;
    if (p->proto == (p->kind == PACKET_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return FLOW_ECHO;
    return FLOW_NEW;
}

/* ---- TCP -----------------------------------------------------------------------------
 */

/* What it adds to the sequence numbers that its side has used. */
static uint32_t end_of(const Packet *p)
{
    return p->tcp_seq + (p->end - p->payload) + !!(p->tcp_flags & PACKET_TCP_SYN) +
           !!(p->tcp_flags & PACKET_TCP_FIN);
}

static void note_sent(Flow *f, FwDirection direction, const Packet *p)
{
    uint32_t end = end_of(p);

    if (!(f->known & 1 << direction) || end - f->sent[direction] < AHEAD ||
        p->tcp_flags & PACKET_TCP_SYN)
        f->sent[direction] = end;
    f->known |= (uint8_t)(1 << direction);
}

static bool is_near(const Flow *f, FwDirection direction, const Packet *p)
{
    return !(f->known & 1 << direction) ||
           f->sent[direction] - p->tcp_seq + NEAR < 2 * NEAR;
}

/* Whether it acknowledges what the other side has just sent. */
static bool answers(const Flow *f, FwDirection direction, const Packet *p, uint32_t less)
{
    FwDirection other = direction == FW_IN ? FW_OUT : FW_IN;

    return p->tcp_flags & PACKET_TCP_ACK && f->known & 1 << other &&
           f->sent[other] - p->tcp_ack < less;
}

static FlowState next_state(const Flow *f, FwDirection direction, const Packet *p)
{
    FlowState state = (FlowState)f->state;
    bool reply = direction != f->direction, syn = p->tcp_flags & PACKET_TCP_SYN;

    if (state == FLOW_RESET || state == FLOW_CLOSED)
        return state;
    if (p->tcp_flags & PACKET_TCP_RST)
        return is_near(f, direction, p) ? FLOW_RESET : state;
    if (f->fin)
        return f->fin == 3 ? FLOW_CLOSED : FLOW_CLOSING;
    if (state == FLOW_SYN_SENT && reply && syn)
        return FLOW_SYN_RECEIVED;
    if (state == FLOW_SYN_RECEIVED && !reply && !syn && answers(f, direction, p, EARLY))
        return FLOW_ESTABLISHED;
    if (state == FLOW_PICKED_UP && reply && answers(f, direction, p, AHEAD))
        return FLOW_ESTABLISHED;
    return state;
}

static void track_tcp(Flows *t, Flow *f, FwDirection direction, const Packet *p,
                      int64_t now_ns)
{
    FlowState state;

    if (p->tcp_flags & PACKET_TCP_FIN && is_near(f, direction, p))
        f->fin |= (uint8_t)(1 << direction);
    state = next_state(f, direction, p);
    if (!(p->tcp_flags & PACKET_TCP_RST))
        note_sent(f, direction, p);
    if (state != f->state || (state != FLOW_RESET && state != FLOW_CLOSED))
        f->seen_ns = now_ns;
    flows_set_state(t, f, state, now_ns);
}

void flow_track(Flows *t, Flow *f, FwDirection direction, const Packet *p, size_t len,
                int64_t now_ns)
{
    bool reply = direction != f->direction;

    f->packets[direction]++;
    f->bytes[direction] += len;
    if (p->proto == IPPROTO_TCP) {
        track_tcp(t, f, direction, p, now_ns);
        return;
    }
    f->seen_ns = now_ns;
    if (f->state == FLOW_NEW && reply)
        flows_set_state(t, f, FLOW_REPLIED, now_ns);
    else if (f->state == FLOW_REPLIED && !reply)
        flows_set_state(t, f, FLOW_STREAM, now_ns);
}
