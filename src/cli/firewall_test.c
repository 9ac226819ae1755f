/* hutch firewall test: what becomes of a packet.  The words are put in order here; a
 * switch that runs answers, with all that it knows of VMs, names and flows.  Of a network
 * that is down its rules are asked, with what config.json knows. */
#include <stdio.h>
#include <string.h>

#include "network/place.h"
#include "packet/build.h"
#include "src/cli/firewall.h"
#include "util/json.h"

const char firewall_test_about[] =
    "PROTOCOL is tcp, udp, icmp, icmp6 or a number.  ADDRESS may be a VM's name.  As in "
    "rules, 'port' is that of the destination.  What is left out is an address of the VM "
    "or its network, or one of nobody elsewhere (192.0.2.1, 2001:db8::1), and 40000 for "
    "from-port.  It is a connection's first packet.";

enum { ANY_PORT = 40000 };

typedef struct Question {
    const char *direction, *proto;
    const char *from, *to; /* NULL: left out */
    unsigned from_port, port;
} Question;

/* ---- words ----------------------------------------------------------------------------
 */

static bool take_port(const char *text, unsigned *ret, GError **error)
{
    guint64 v;

    if (!text || !g_ascii_string_to_unsigned(text, 10, 1, 65535, &v, NULL))
        return fail(error, VM_ERROR_INVALID, "port: '%s' is not a number from 1 to 65535",
                    text ? text : "");
    *ret = (unsigned)v;
    return true;
}

/* words: in|out PROTOCOL and what follows; ends with NULL. */
static bool parse(char **words, Question *ret, GError **error)
{
    Question q = {.direction = words[0], .proto = words[1], .from_port = ANY_PORT};

    if (!g_str_equal(q.direction, "in") && !g_str_equal(q.direction, "out"))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is neither in (to the VM) nor out (from it)", q.direction);
    for (words += 2; *words; words += 2) {
        bool from = g_str_has_prefix(words[0], "from");

        if (g_str_equal(words[0], "port") || g_str_equal(words[0], "from-port")) {
            if (!take_port(words[1], from ? &q.from_port : &q.port, error))
                return false;
            continue;
        }
        if (!g_str_equal(words[0], "from") && !g_str_equal(words[0], "to"))
            return fail(error, VM_ERROR_INVALID,
                        "'%s' is none of: from ADDRESS, to ADDRESS, port N, from-port N",
                        words[0]);
        if (!words[1])
            return fail(error, VM_ERROR_INVALID, "%s: which address?", words[0]);
        *(from ? &q.from : &q.to) = words[1];
    }
    if (!q.port && (g_str_equal(q.proto, "tcp") || g_str_equal(q.proto, "udp")))
        return fail(error, VM_ERROR_INVALID, "%s: to which port? Add 'port N'", q.proto);
    *ret = q;
    return true;
}

/* Whether what was given is of IPv6. */
static bool is_v6(const Question *q)
{
    Ip ip;

    return g_str_equal(q->proto, "icmp6") || g_str_equal(q->proto, "58") ||
           (q->from && ip_parse(q->from, &ip, NULL) && !ip_is_v4(&ip)) ||
           (q->to && ip_parse(q->to, &ip, NULL) && !ip_is_v4(&ip));
}

/* An address of the network's for its own side (no VM is named), and one of nobody for
 * the other.  *own is the caller's buffer. */
static bool fill_in(const NetTarget *t, const NetworkConfig *config, Question *q,
                    char own[IP_TEXT], GError **error)
{
    bool in = g_str_equal(q->direction, "in"), v6 = is_v6(q);
    const char **ours = in ? &q->to : &q->from, **theirs = in ? &q->from : &q->to;
    NetworkSubnets has;
    IpPrefix *p = v6 ? &has.v6 : &has.v4;
    Ip ip;

    network_subnets(config, &has);
    if (!*theirs)
        *theirs = v6 ? "2001:db8::1" : "192.0.2.1";
    if (*ours || t->vm)
        return true;
    if (!p->bits)
        return fail(error, VM_ERROR_INVALID,
                    "network '%s' has no IPv%d subnet: say %s which address", t->network,
                    v6 ? 6 : 4, in ? "to" : "from");
    ip = ip_plus(&p->ip, 2);
    *ours = ip_text(&ip, own);
    return true;
}

/* ---- without a switch -----------------------------------------------------------------
 */

static bool lease_of(const NetworkConfig *config, const char *vm, const Ip *is, Ip *ret)
{
    for (char **text = config->leases; text && *text; text++) {
        g_autofree char *who = NULL;
        Ip ip;

        if (network_lease_parse(*text, &who, &ip, NULL) && g_str_equal(who, vm) &&
            (!is || ip_equal(&ip, is))) {
            *ret = ip;
            return true;
        }
    }
    return false;
}

static bool is_vm(void *config, const char *vm, const Ip *ip)
{
    Ip found;

    return lease_of(config, vm, ip, &found);
}

static bool is_network(void *unused, const char *network, const Ip *ip)
{
    NetworkConfig *config = network_load(network, NULL);
    NetworkSubnets has = {0};

    if (config)
        network_subnets(config, &has);
    param_free(&network_params, config);
    return (has.v4.bits && ip_within(ip, &has.v4)) ||
           (has.v6.bits && ip_within(ip, &has.v6));
}

static bool is_gateway(void *config, const Ip *ip)
{
    NetworkSubnets has;

    network_subnets(config, &has);
    return (has.v4.bits && ip_equal(ip, &has.gateway4)) ||
           (has.v6.bits && ip_equal(ip, &has.gateway6));
}

static bool address(const NetworkConfig *config, const char *text, Ip *ret,
                    GError **error)
{
    return ip_parse(text, ret, NULL) || lease_of(config, text, NULL, ret) ||
           fail(error, VM_ERROR_NOT_FOUND,
                "'%s' is not an address, and the network is down: only VMs with a "
                "lease=VM=ADDRESS are known",
                text);
}

static bool protocol(const char *text, uint8_t *ret, GError **error)
{
    static const struct {
        const char *name;
        uint8_t number;
    } names[] = {{"tcp", IPPROTO_TCP},
                 {"udp", IPPROTO_UDP},
                 {"icmp", IPPROTO_ICMP},
                 {"icmp6", IPPROTO_ICMPV6}};
    guint64 v;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        if (g_str_equal(text, names[i].name)) {
            *ret = names[i].number;
            return true;
        }
    if (!g_ascii_string_to_unsigned(text, 10, 0, 255, &v, NULL))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is no protocol: tcp, udp, icmp, icmp6 or a number to 255",
                    text);
    *ret = (uint8_t)v;
    return true;
}

/* The first packet of such a flow. */
static bool build(Builder *b, const Question *q, uint8_t proto, const Ip *from,
                  const Ip *to)
{
    enum { TCP_HEADER = 20, TCP_OFFSET = 5 << 4, ECHO = 8, ECHO_V6 = 128 };
    const Mac one = {{2, 0, 0, 0, 0, 1}}, other = {{2, 0, 0, 0, 0, 2}};
    uint8_t *tcp;

    build_ip(b, &one, &other, from, to, proto, 0);
    if (proto == IPPROTO_UDP) {
        build_udp(b, (uint16_t)q->from_port, (uint16_t)q->port);
    } else if (proto == IPPROTO_TCP) {
        build_u16(b, (uint16_t)q->from_port);
        build_u16(b, (uint16_t)q->port);
        tcp = build_room(b, TCP_HEADER - 4);
        if (tcp) {
            tcp[8] = TCP_OFFSET;
            tcp[9] = PACKET_TCP_SYN;
        }
    } else if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
        build_u8(b, proto == IPPROTO_ICMP ? ECHO : ECHO_V6);
        build_room(b, 7);
    }
    return build_end(b);
}

/* As the switch's firewall-test; a new reference. */
static json_t *ask_rules(const NetTarget *t, NetworkConfig *config, const Question *q,
                         GError **error)
{
    const FwWorld world = {.is_vm = is_vm,
                           .is_network = is_network,
                           .is_dns = is_gateway,
                           .is_dhcp = is_gateway,
                           .opaque = config};
    g_autoptr(Firewall) rules = NULL;
    g_autofree char *text = NULL;
    Builder b = {0};
    uint8_t proto = 0;
    FwVerdict v = {0};
    FwGate *gate;
    Packet p;
    Ip from, to;

    if (!firewall_load(t, &rules, error) || !protocol(q->proto, &proto, error) ||
        !address(config, q->from, &from, error) || !address(config, q->to, &to, error))
        return NULL;
    if (ip_is_v4(&from) != ip_is_v4(&to)) {
        fail(error, VM_ERROR_INVALID, "%s and %s are not of one kind of IP", q->from,
             q->to);
        return NULL;
    }
    if (!build(&b, q, proto, &from, &to) || !packet_parse(b.data, b.len, &p)) {
        fail(error, VM_ERROR_INVALID, "there is no such packet");
        return NULL;
    }
    gate = fw_gate_new(&world, 1);
    fw_gate_set(gate, rules, NULL);
    fw_gate_test(gate, g_str_equal(q->direction, "in") ? FW_IN : FW_OUT, &p, b.data,
                 b.len, 0, &v);
    text = fw_verdict_text(&v);
    fw_gate_free(gate);
    return json_pack("{s:b, s:b, s:s}", "allow", v.allow, "reject", v.reject, "text",
                     text);
}

/* ---- with one -------------------------------------------------------------------------
 */

static json_t *ask_switch(const NetTarget *t, const Question *q, GError **error)
{
    json_t *arguments = net_arguments(t);

    json_object_set_new(arguments, "direction", json_string(q->direction));
    json_object_set_new(arguments, "proto", json_string(q->proto));
    if (q->from)
        json_object_set_new(arguments, "from", json_string(q->from));
    if (q->to)
        json_object_set_new(arguments, "to", json_string(q->to));
    json_object_set_new(arguments, "from-port", json_integer(q->from_port));
    if (q->port)
        json_object_set_new(arguments, "port", json_integer(q->port));
    return network_call(t->network, false, "firewall-test", arguments, error);
}

static json_t *answer(const NetTarget *t, char **words, GError **error)
{
    NetworkConfig *config = t->has_port ? NULL : network_load(t->network, error);
    json_t *reply = NULL;
    char own[IP_TEXT];
    Question q;

    if (t->has_port)
        fail(error, VM_ERROR_INVALID,
             "a port's number has no rules to be tested; name "
             "the network or the VM");
    if (config && parse(words, &q, error) && fill_in(t, config, &q, own, error))
        reply = network_is_up(t->network) ? ask_switch(t, &q, error)
                                          : ask_rules(t, config, &q, error);
    param_free(&network_params, config);
    return reply;
}

bool firewall_act_test(void *options, char **names, int *status, GError **error)
{
    const FirewallArgs *args = options;
    json_t *reply;
    NetTarget t;

    if (!net_target_parse(names[0], &t, error))
        return false;
    reply = answer(&t, names + 1, error);
    net_target_clear(&t);
    if (!reply)
        return false;
    *status = json_is_true(json_object_get(reply, "allow")) ? 0 : 1;
    if (args->json)
        cli_print_json(json_incref(reply));
    else
        puts(json_get_text(reply, "text"));
    json_decref(reply);
    return true;
}
