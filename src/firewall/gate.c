/* A gate: does what was decided about each packet (decide.c).  It counts, learns flows
 * and remembers fragments. */
#include "src/firewall/flows.h"

/* Of lines in the log, for each rule: ten at once, then five a second. */
static const int64_t log_interval_ns = 200 * 1000000ll;
enum { LOG_BURST = 10 };

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

void fw_gate_set(FwGate *gate, Firewall *network, Firewall *vm)
{
    Firewall *sets[2] = {network, vm};

    gate->generation++;
    if (network == gate->set[0] && vm == gate->set[1])
        return; /* the world has changed, not the rules */
    gate->began &= gate_has_rules(
        gate); /* who had none may have seen no packets either */
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

/* The packets that there are most of: of a flow that is known, and that nothing more has
 * to be asked about.  gate_decide() would say the same. */
static bool is_plain(const FwGate *gate, FwDirection direction, const Packet *p,
                     const Flow *f)
{
    if (f->generation != gate->generation || p->fragment)
        return false;
    if (p->proto == IPPROTO_TCP)
        return (p->tcp_flags & ~PACKET_TCP_PSH) == PACKET_TCP_ACK;
    return p->proto == IPPROTO_UDP && !gate_is_dhcp(gate, direction, p);
}

static bool pass_plain(FwGate *gate, FwDirection direction, const Packet *p, size_t len,
                       Flow *f, int64_t now_ns, FwVerdict *ret)
{
    *ret = (FwVerdict){.allow = true,
                       .reason = gate_has_rules(gate) ? FW_BY_FLOW : FW_BY_NONE,
                       .rule = UINT_MAX,
                       .direction = (FwDirection)f->direction};
    for (unsigned i = 0; i < 2; i++) {
        const Firewall *fw = gate->set[i];
        Rule *rule;

        if (!fw)
            continue;
        ret->set = fw;
        ret->rule = remembered_number(fw, f->rule[i]);
        rule = remembered_rule(fw, f->rule[i], (FwDirection)f->direction);
        rule->count.packets++;
        rule->count.bytes += len;
    }
    flow_track(&gate->flows, f, direction, p, len, now_ns);
    return true;
}

/* All others. */
static bool pass_slowly(FwGate *gate, const Subject *s, const FlowKey *key, Flow *f,
                        int64_t now_ns, FwVerdict *ret)
{
    Decision d;
    bool allow = gate_decide(gate, s, key, f, now_ns, &d);

    if (d.forget) {
        flows_remove(&gate->flows, f);
        f = NULL;
    }
    if (d.learn) {
        f = learn(gate, &d, key, s->p, now_ns);
        if (!f && gate_has_rules(gate))
            allow = decision_refuse(&d, FW_BY_FULL, NULL);
    } else if (d.of_flow && allow) {
        f->generation = gate->generation;
        memcpy(f->rule, d.rule, sizeof(f->rule));
    } else {
        f = NULL;
    }
    if (f && allow)
        flow_track(&gate->flows, f, s->direction, s->p, s->len, now_ns);
    if (allow && s->p->fragment && s->p->first && gate_has_rules(gate))
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
    if (f && is_plain(gate, direction, p, f))
        return pass_plain(gate, direction, p, len, f, now_ns, ret);
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

    gate_decide(gate, &s, has_key ? &key : NULL, f, now_ns, &d);
    *ret = d.v;
}
