/* What a gate costs, in nanoseconds a packet: of known flows, of new ones, and of packets
 * that are denied, without rules and with many.  The least of several runs. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "firewall/firewall.h"
#include "tests/unit/packet/frame.h"

enum { RUNS = 5, PACKETS = 200000 };

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* `n` rules that are not about our packets, and one at the end that is. */
static char *many_rules(unsigned n, const char *form)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < n; i++) {
        if (g_str_equal(form, "port"))
            g_string_append_printf(text, "allow in tcp port %u\n", 10000 + i);
        else if (g_str_equal(form, "address"))
            g_string_append_printf(text, "deny in from 172.16.%u.%u\n", i / 250, i % 250);
        else if (g_str_equal(form, "prefix"))
            g_string_append_printf(text, "allow in tcp from 172.%u.%u.0/24 port 22\n",
                                   i / 250, i % 250);
        else
            g_string_append_printf(text, "allow in tcp port %u-%u from 172.%u.0.0/16\n",
                                   i + 1000, i + 20000, i % 250);
    }
    g_string_append(text, "allow in tcp port 80\n");
    return g_string_free(text, FALSE);
}

typedef struct Load {
    const char *name, *form;
    unsigned rules, flows; /* 0 rules: none */
    bool fresh, denied;    /* each packet begins a flow; or is refused */
} Load;

static const Load loads[] = {
    {"known flow, no rules", NULL, 0, 1, false, false},
    {"known flow, 1 rule", "port", 1, 1, false, false},
    {"known flow, 1000 rules", "port", 1000, 1, false, false},
    {"1000 known flows, no rules", NULL, 0, 1000, false, false},
    {"1000 known flows, 1000 rules", "port", 1000, 1000, false, false},
    {"16000 known flows, 1000 rules", "port", 1000, 16000, false, false},
    {"new flows, no rules", NULL, 0, 60000, true, false},
    {"new flows, 1 rule", "port", 1, 60000, true, false},
    {"new flows, 1000 ports", "port", 1000, 60000, true, false},
    {"new flows, 1000 addresses", "address", 1000, 60000, true, false},
    {"new flows, 1000 prefixes", "prefix", 1000, 60000, true, false},
    {"new flows, 1000 ranges", "range", 1000, 60000, true, false},
    {"denied, 1 rule", "port", 1, 60000, true, true},
    {"denied, 1000 ports", "port", 1000, 60000, true, true},
    {"denied, 1000 addresses", "address", 1000, 60000, true, true},
    {"denied, 1000 prefixes", "prefix", 1000, 60000, true, true},
    {"denied, 1000 ranges", "range", 1000, 60000, true, true},
};

static void make_frame(TestFrame *f, const Load *load, unsigned flow, unsigned flags)
{
    frame_ip(f, "10.5.0.8", "10.5.0.9", IPPROTO_TCP);
    frame_tcp(f, 1000 + flow, load->denied ? 81 : 80, flags);
    frame_parse(f);
}

static double one_run(const Load *load, Firewall *fw)
{
    static const FwWorld world;
    FwGate *gate = fw_gate_new(&world, FW_MAX_FLOWS);
    TestFrame f = {0};
    int64_t now = now_ns(), begin;
    FwVerdict v;
    unsigned flow = 0;

    fw_gate_set(gate, NULL, fw);
    make_frame(&f, load, 0, PACKET_TCP_SYN);
    for (unsigned i = 0; i < load->flows && !load->fresh; i++) {
        f.p.from_port = (uint16_t)(1000 + i);
        fw_gate_pass(gate, FW_IN, &f.p, f.b, f.len, now, &v);
    }
    make_frame(&f, load, 0, load->fresh ? PACKET_TCP_SYN : PACKET_TCP_ACK);
    begin = now_ns();
    for (unsigned i = 0; i < PACKETS; i++) {
        f.p.from_port = (uint16_t)(1000 + flow);
        if (fw_gate_pass(gate, FW_IN, &f.p, f.b, f.len, now, &v) == load->denied)
            abort();
        flow = (flow + 7) % load->flows; /* not one beside the other */
    }
    begin = now_ns() - begin;
    fw_gate_free(gate);
    return (double)begin / PACKETS;
}

int main(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(loads); i++) {
        g_autofree char *text = loads[i].rules ? many_rules(loads[i].rules, loads[i].form)
                                               : NULL;
        g_autoptr(Firewall) fw = text ? firewall_parse(text, "bench", NULL) : NULL;
        double least = 1e9;

        for (unsigned run = 0; run < RUNS; run++)
            least = MIN(least, one_run(&loads[i], fw));
        printf("%-32s %7.1f ns\n", loads[i].name, least);
    }
    return 0;
}
