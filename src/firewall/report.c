/* What is said to people: why a packet passed or not, and which flows there are. */
#include "src/firewall/flows.h"

/* "rule 3 of web.rules", or "the default of web.rules", with its text. */
static char *who_decided(const FwVerdict *v)
{
    const Firewall *fw = v->set;
    bool has = v->rule < fw->rules->len;
    g_autofree char *number = has ? g_strdup_printf("rule %u", v->rule + 1) : NULL;
    GString *text = g_string_new(NULL);

    g_string_printf(text, "%s of %s: ", has ? number : "the default", fw->origin);
    rule_print(has ? fw->rules->pdata[v->rule] : fw->defaults[v->direction], text);
    return g_string_free(text, FALSE);
}

char *fw_verdict_text(const FwVerdict *v)
{
    const char *fate = v->allow ? "allowed" : v->reject ? "rejected" : "denied";
    g_autofree char *who = v->set ? who_decided(v) : NULL;

    switch (v->reason) {
    case FW_BY_NONE:
        return g_strdup_printf("%s: %s", fate,
                               v->detail ? v->detail : "there are no rules");
    case FW_BY_RULE:
    case FW_BY_DEFAULT:
        return g_strdup_printf("%s by %s", fate, who ? who : "a rule");
    case FW_BY_FLOW:
        if (!who)
            return g_strdup("allowed: it belongs to a flow that is known");
        if (v->rule == UINT_MAX && !v->set->defaults[v->direction]->allow)
            return g_strdup_printf("allowed: it belongs to a flow to the network's own "
                                   "DNS, which is open for the names in %s",
                                   v->set->origin);
        return g_strdup_printf("allowed: it belongs to a flow that is allowed by %s",
                               who);
    case FW_BY_INVALID:
        return g_strdup_printf("denied: %s", v->detail);
    case FW_BY_FULL:
        return g_strdup("denied: there is no room for one more flow");
    case FW_BY_DNS:
        if (v->allow)
            return g_strdup_printf("allowed: rules of %s name domains, so the network's "
                                   "own DNS is open",
                                   v->set->origin);
        return g_strdup("denied: rules name domains, and this is DNS to elsewhere than "
                        "the network's own");
    }
    return g_strdup(fate);
}

static char *proto_text(uint8_t proto)
{
    Rule rule = {.proto = proto};

    if (proto == IPPROTO_ICMP)
        return g_strdup("icmp");
    return clause_proto_text(&rule);
}

static void set_address(json_t *object, const char *key, const Ip *ip)
{
    char text[IP_TEXT];

    json_object_set_new(object, key, json_string(ip_text(ip, text)));
}

static void set_number(json_t *object, const char *key, uint64_t n)
{
    json_object_set_new(object, key, json_integer((json_int_t)n));
}

static void set_ports(json_t *object, const Flow *f)
{
    bool out = f->direction == FW_OUT;

    if (f->key.echo) {
        set_number(object, "id", f->key.local_port);
    } else if (f->key.proto == IPPROTO_TCP || f->key.proto == IPPROTO_UDP) {
        set_number(object, "from-port", out ? f->key.local_port : f->key.remote_port);
        set_number(object, "to-port", out ? f->key.remote_port : f->key.local_port);
    }
}

/* The rule that allowed it: the vNIC's if it has some. */
static void set_rule(json_t *object, const FwGate *gate, const Flow *f)
{
    unsigned which = gate->set[1] ? 1 : 0;
    const Firewall *fw = gate->set[which];
    GString *text;

    if (!fw || f->generation != gate->generation)
        return;
    text = g_string_new(NULL);
    rule_print(remembered_rule(fw, f->rule[which], (FwDirection)f->direction), text);
    json_object_set_new(object, "rule", json_string(text->str));
    g_string_free(text, TRUE);
}

static json_t *flow_json(const FwGate *gate, const Flow *f, int64_t now_ns)
{
    bool out = f->direction == FW_OUT;
    json_t *object = json_object();
    g_autofree char *proto = proto_text(f->key.proto);

    json_object_set_new(object, "proto", json_string(proto));
    json_object_set_new(object, "direction",
                        json_string(fw_direction_names[f->direction]));
    set_address(object, "from", out ? &f->key.local : &f->key.remote);
    set_address(object, "to", out ? &f->key.remote : &f->key.local);
    set_ports(object, f);
    json_object_set_new(object, "state", json_string(flow_states[f->state].name));
    set_number(object, "packets", f->packets[f->direction]);
    set_number(object, "bytes", f->bytes[f->direction]);
    set_number(object, "packets-back", f->packets[!f->direction]);
    set_number(object, "bytes-back", f->bytes[!f->direction]);
    set_number(object, "idle", (uint64_t)(now_ns - f->seen_ns) / 1000000000u);
    set_rule(object, gate, f);
    return object;
}

json_t *fw_gate_flows(const FwGate *gate, int64_t now_ns)
{
    const Flows *t = &gate->flows;
    json_t *list = json_array();

    for (unsigned state = 0; state < FLOW_STATES; state++) {
        for (int32_t at = t->oldest[state]; at != FLOW_NONE; at = t->flow[at].newer) {
            if (!flow_is_over(&t->flow[at], now_ns))
                json_array_append_new(list, flow_json(gate, &t->flow[at], now_ns));
        }
    }
    return list;
}
