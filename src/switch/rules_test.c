/* See rules_test.h: a frame is built as the arguments say and shown to the gate of the
 * port, or to one that has the network's rules alone.  Nothing changes by it. */
#include "src/switch/rules_test.h"

#include "packet/build.h"
#include "src/switch/control.h"
#include "src/switch/gateway.h"
#include "src/switch/guard.h"
#include "util/json.h"

/* What is asked about. */
typedef struct Question {
    Port *port; /* NULL: the network's rules alone */
    FwDirection direction;
    uint8_t proto;
    Ip from, to;
    uint16_t from_port, to_port;
} Question;

static const struct {
    const char *name;
    uint8_t proto;
} protos[] = {{"tcp", IPPROTO_TCP},
              {"udp", IPPROTO_UDP},
              {"icmp", IPPROTO_ICMP},
              {"icmp6", IPPROTO_ICMPV6}};

static const char *const reasons[] = {
    [FW_BY_NONE] = "none", [FW_BY_RULE] = "rule",       [FW_BY_DEFAULT] = "default",
    [FW_BY_FLOW] = "flow", [FW_BY_INVALID] = "invalid", [FW_BY_FULL] = "full",
    [FW_BY_DNS] = "dns"};

enum { SOME_PORT = 40000, TCP_WINDOW = 65535, ECHO = 8, ECHO6 = 128 };

/* ---- arguments --------------------------------------------------------------------- */

static bool read_direction(const json_t *arguments, Question *ret, GError **error)
{
    const char *text = json_get_text(arguments, "direction");

    ret->direction = g_str_equal(text, "out") ? FW_OUT : FW_IN;
    return g_str_equal(text, "in") || g_str_equal(text, "out") ||
           fail(error, VM_ERROR_INVALID,
                "direction: give in (to the VM) or out (from it)");
}

static bool read_proto(const json_t *arguments, Question *ret, GError **error)
{
    const json_t *value = json_object_get(arguments, "proto");
    const char *text = value ? json_string_value(value) : "tcp";
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    guint64 typed;

    if (text && g_ascii_string_to_unsigned(text, 10, 0, 255, &typed, NULL))
        number = (json_int_t)typed;
    for (unsigned i = 0; text && i < G_N_ELEMENTS(protos); i++)
        if (g_str_equal(protos[i].name, text))
            number = protos[i].proto;
    ret->proto = (uint8_t)number;
    return (number >= 0 && number <= 255) ||
           fail(error, VM_ERROR_INVALID,
                "proto: give tcp, udp, icmp, icmp6 or a number from 0 to 255");
}

static bool read_port(const json_t *arguments, const char *key, uint16_t def,
                      uint16_t *ret, GError **error)
{
    const json_t *value = json_object_get(arguments, key);
    json_int_t number = value ? json_integer_value(value) : def;

    *ret = (uint16_t)number;
    return ((!value || json_is_integer(value)) && number >= 0 && number <= UINT16_MAX) ||
           fail(error, VM_ERROR_INVALID, "%s: a number from 0 to 65535 is needed", key);
}

/* An address, or that of a VM by its name; of the given family if it has both. */
static bool read_end(Switch *sw, const char *key, const char *text, bool v6, Ip *ret,
                     GError **error)
{
    if (ip_parse(text, ret, NULL) || gateway_address_of(sw->gateway, text, v6, ret) ||
        gateway_address_of(sw->gateway, text, !v6, ret))
        return true;
    return fail(error, VM_ERROR_INVALID,
                "%s: '%s' is neither an address nor a VM that has one on this network",
                key, text);
}

static bool own_address(const Question *q, bool v6, Ip *ret)
{
    enum { MAX = 32 };
    Ip ip[MAX];
    unsigned n = q->port ? guard_list(q->port->guard, ip, MAX) : 0;

    for (unsigned i = 0; i < n; i++) {
        if (ip_is_v4(&ip[i]) != v6) {
            *ret = ip[i];
            return true;
        }
    }
    return false;
}

/* The side that is left out is the VM's own. */
static bool read_ends(Switch *sw, const json_t *arguments, Question *q, GError **error)
{
    const char *from = json_get_text(arguments, "from");
    const char *to = json_get_text(arguments, "to");
    const char *own_key = q->direction == FW_IN ? "to" : "from";
    Ip *own = q->direction == FW_IN ? &q->to : &q->from;
    bool v6 = q->proto == IPPROTO_ICMPV6, own_left_out;

    if (*from && !read_end(sw, "from", from, v6, &q->from, error))
        return false;
    if (*from)
        v6 = !ip_is_v4(&q->from);
    if (*to && !read_end(sw, "to", to, v6, &q->to, error))
        return false;
    if (*to && !*from)
        v6 = !ip_is_v4(&q->to);
    own_left_out = !*(q->direction == FW_IN ? to : from);
    if ((!*from && !*to) || (!own_left_out && (!*from || !*to)))
        return fail(error, VM_ERROR_INVALID, "%s: give the other side's address, or a VM",
                    q->direction == FW_IN ? "from" : "to");
    if (own_left_out && !own_address(q, v6, own))
        return fail(error, VM_ERROR_INVALID,
                    "%s: give it, as no address of the VM is known", own_key);
    return ip_is_v4(&q->from) == ip_is_v4(&q->to) ||
           fail(error, VM_ERROR_INVALID,
                "from and to are not of the same kind: IPv4 and "
                "IPv6");
}

static bool read_question(Switch *sw, const json_t *arguments, Question *q,
                          GError **error)
{
    *q = (Question){0};
    /* `port` is that of TCP or UDP here. */
    return (!json_object_get(arguments, "vm") ||
            (q->port = command_port(sw, arguments, error))) &&
           read_direction(arguments, q, error) && read_proto(arguments, q, error) &&
           read_port(arguments, "from-port", SOME_PORT, &q->from_port, error) &&
           read_port(arguments, "port", 0, &q->to_port, error) &&
           read_ends(sw, arguments, q, error);
}

/* ---- the frame --------------------------------------------------------------------- */

static void build_transport(Builder *b, const Question *q)
{
    switch (q->proto) {
    case IPPROTO_TCP:
        build_tcp(b, q->from_port, q->to_port, 1, 0, PACKET_TCP_SYN, TCP_WINDOW, 0);
        break;
    case IPPROTO_UDP:
        build_udp(b, q->from_port, q->to_port);
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        build_u8(b, q->proto == IPPROTO_ICMP ? ECHO : ECHO6);
        build_u8(b, 0);
        build_u16(b, 0);
        build_u32(b, 1); /* identifier, number */
        break;
    default:
        build_u32(b, 0);
    }
}

/* ---- the answer -------------------------------------------------------------------- */

static json_t *answer(Switch *sw, const Question *q, const FwVerdict *v)
{
    g_autofree char *text = fw_verdict_text(v);
    json_t *json = json_pack("{s:b, s:b, s:s, s:s}", "allow", v->allow, "reject",
                             v->reject, "reason", reasons[v->reason], "text", text);

    if (v->set)
        json_object_set_new(json, "set",
                            json_string(v->set == sw->rules ? "network" : "vm"));
    if (v->set && v->rule != UINT_MAX)
        json_object_set_new(json, "rule", json_integer(v->rule));
    return json;
}

static void ask(Switch *sw, const Question *q, const Packet *p, const Builder *b,
                FwVerdict *ret)
{
    FwWorld world;
    FwGate *gate;

    if (q->port && q->port->gate) {
        fw_gate_test(q->port->gate, q->direction, p, b->data, b->len, sw->now_ns, ret);
        return;
    }
    gateway_world(sw->gateway, &world);
    gate = fw_gate_new(&world, 1);
    fw_gate_set(gate, sw->rules, NULL);
    fw_gate_test(gate, q->direction, p, b->data, b->len, sw->now_ns, ret);
    fw_gate_free(gate);
}

json_t *rules_test(Switch *sw, json_t *arguments, GError **error)
{
    static const Mac nobody;
    const Mac *gateway = gateway_mac(sw->gateway);
    Builder b = {0};
    Packet p;
    FwVerdict verdict = {0};
    Question q;
    bool in;

    if (!read_question(sw, arguments, &q, error))
        return NULL;
    in = q.direction == FW_IN;
    build_ip(&b, in && q.port ? &q.port->mac : gateway,
             in ? gateway : (q.port ? &q.port->mac : &nobody), &q.from, &q.to, q.proto,
             0);
    build_transport(&b, &q);
    if (!build_end(&b) || !packet_parse(b.data, b.len, &p)) {
        fail(error, VM_ERROR_INVALID, "there is no such packet");
        return NULL;
    }
    ask(sw, &q, &p, &b, &verdict);
    return answer(sw, &q, &verdict);
}
