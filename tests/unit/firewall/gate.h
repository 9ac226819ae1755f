/* A gate with its rules, a small world, and packets to send through it. */
#pragma once

#include "firewall/firewall.h"
#include "tests/unit/packet/frame.h"

#define SECONDS 1000000000ll

/* The world: the VM web has 10.5.0.7 and fd00:5::7 and is of group front, net other is
 * 10.6.0.0/24, "*.example.org" is 192.0.2.1, DNS and DHCP are 10.5.0.1. */
typedef struct Gate {
    FwGate *gate;
    TestFrame f;
    int64_t now;
    FwVerdict v; /* of the last packet */
    unsigned max;
    bool no_name;  /* the name's time is over */
    bool no_group; /* web has left its group */
} Gate;

static inline bool is_text(const Ip *ip, const char *text)
{
    Ip other = frame_addr(text);

    return ip_equal(ip, &other);
}

static inline bool gate_is_vm(void *opaque, const char *vm, const Ip *ip)
{
    return g_str_equal(vm, "web") &&
           (is_text(ip, "10.5.0.7") || is_text(ip, "fd00:5::7"));
}

static inline bool gate_is_group(void *opaque, const char *group, const Ip *ip)
{
    const Gate *g = opaque;

    return !g->no_group && g_str_equal(group, "front") && gate_is_vm(opaque, "web", ip);
}

static inline bool gate_is_network(void *opaque, const char *network, const Ip *ip)
{
    IpPrefix prefix;

    g_assert_true(ip_prefix_parse("10.6.0.0/24", &prefix, NULL));
    return g_str_equal(network, "other") && ip_within(ip, &prefix);
}

static inline bool gate_is_name(void *opaque, const char *pattern, const Ip *ip)
{
    const Gate *g = opaque;

    return !g->no_name && g_str_equal(pattern, "*.example.org") &&
           is_text(ip, "192.0.2.1");
}

static inline bool gate_is_own(void *opaque, const Ip *ip)
{
    return is_text(ip, "10.5.0.1");
}

/* A new set of the network's and of the VM's rules; NULL: none. */
static inline void gate_rules(Gate *g, const char *network, const char *vm)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall) a = network ? firewall_parse(network, "net.rules", &error) : NULL;
    g_assert_no_error(error);
    g_autoptr(Firewall) b = vm ? firewall_parse(vm, "vm.rules", &error) : NULL;
    g_assert_no_error(error);
    fw_gate_set(g->gate, a, b);
}

static inline void gate_free(Gate *g)
{
    fw_gate_free(g->gate);
    g->gate = NULL;
}

static inline void gate_begin(Gate *g, const char *network, const char *vm)
{
    FwWorld world = {.is_vm = gate_is_vm,
                     .is_group = gate_is_group,
                     .is_network = gate_is_network,
                     .is_name = gate_is_name,
                     .is_dns = gate_is_own,
                     .is_dhcp = gate_is_own,
                     .opaque = g};

    gate_free(g);
    g->gate = fw_gate_new(&world, g->max ? g->max : FW_MAX_FLOWS);
    gate_rules(g, network, vm);
}

/* Past the time in which replies are picked up after a restart. */
static inline void gate_settle(Gate *g)
{
    TestFrame f;

    g->now += SECONDS;
    frame_eth(&f, ETHER_ARP);
    frame_parse(&f);
    fw_gate_pass(g->gate, FW_OUT, &f.p, f.b, f.len, g->now, &g->v);
    g->now += 60 * SECONDS;
}

/* The frame in g->f.  Before it passes, fw_gate_test() has to say the same of it. */
static inline bool gate_pass(Gate *g, FwDirection direction)
{
    unsigned flows = fw_gate_n_flows(g->gate);
    FwVerdict test;
    bool allow;

    frame_parse(&g->f);
    fw_gate_test(g->gate, direction, &g->f.p, g->f.b, g->f.len, g->now, &test);
    g_assert_cmpuint(fw_gate_n_flows(g->gate), ==, flows);
    allow = fw_gate_pass(g->gate, direction, &g->f.p, g->f.b, g->f.len, g->now, &g->v);
    g_assert_cmpint(allow, ==, g->v.allow);
    g_assert_cmpint(test.allow, ==, allow);
    g_assert_cmpint(test.reason, ==, g->v.reason);
    g_assert_cmpuint(test.rule, ==, g->v.rule);
    g_assert_true(test.set == g->v.set);
    return allow;
}

static inline bool gate_tcp(Gate *g, FwDirection direction, const char *from,
                            unsigned port, const char *to, unsigned to_port,
                            unsigned flags)
{
    frame_ip(&g->f, from, to, IPPROTO_TCP);
    frame_tcp(&g->f, port, to_port, flags);
    return gate_pass(g, direction);
}

static inline bool gate_udp(Gate *g, FwDirection direction, const char *from,
                            unsigned port, const char *to, unsigned to_port)
{
    frame_ip(&g->f, from, to, IPPROTO_UDP);
    frame_udp(&g->f, port, to_port);
    return gate_pass(g, direction);
}

static inline bool gate_icmp(Gate *g, FwDirection direction, const char *from,
                             const char *to, unsigned type, unsigned id)
{
    frame_ip(&g->f, from, to, strchr(from, ':') ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    frame_icmp(&g->f, type, 0, id);
    return gate_pass(g, direction);
}
