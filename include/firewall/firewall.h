/* Rules about packets, and who is a flow: what stands between a vNIC and its network.
 *
 * Rules are text, a rule a line (docs/firewall.md has the grammar) or JSON, compiled
 * once. Each vNIC has a FwGate with two sets, the network's and its own, that a packet
 * has to pass both, and a table of the flows that passed.  A packet of a flow that is
 * known is not compared with rules; when rules change each flow is compared with them
 * once, at its next packet, and goes on if they still allow it.
 *
 * A Firewall is immutable and counted by references, its counters apart; all else belongs
 * to the switch's thread.  Nothing allocates per packet. */
#pragma once

#include <jansson.h>

#include "packet/packet.h"
#include "util/error.h"

typedef struct Firewall Firewall;

/* `origin` is for sentences: a file's name.  Text that begins with '{' is JSON.  The
 * error says ORIGIN:LINE:COLUMN: what is wrong and what could stand there.  Empty text
 * denies everything. */
Firewall *firewall_parse(const char *text, const char *origin, GError **error);
Firewall *firewall_ref(Firewall *fw);
void firewall_unref(Firewall *fw); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Firewall, firewall_unref)

char *firewall_text(const Firewall *fw);      /* a new string; parses to the same */
json_t *firewall_to_json(const Firewall *fw); /* a new reference; with rules' counters */

/* New sets: with a rule put before number `at` (counting from 0; UINT_MAX: at the end),
 * and without rule `at`.  Counters of rules that stay go on. */
Firewall *firewall_with(const Firewall *fw, unsigned at, const char *rule,
                        GError **error);
Firewall *firewall_without(const Firewall *fw, unsigned at, GError **error);

/* Whether a rule allows names: then DNS to others than the network's own is closed. */
bool firewall_has_names(const Firewall *fw);

/* What rules may ask about an address; any may be NULL: then nobody is. */
typedef struct FwWorld {
    bool (*is_vm)(void *opaque, const char *vm, const Ip *ip);
    bool (*is_group)(void *opaque, const char *group, const Ip *ip);
    bool (*is_network)(void *opaque, const char *network, const Ip *ip);
    /* An address that this network's DNS gave for a name that matches, and may still be
     * used. */
    bool (*is_name)(void *opaque, const char *pattern, const Ip *ip);
    bool (*is_dns)(void *opaque, const Ip *ip);  /* the network's own DNS server */
    bool (*is_dhcp)(void *opaque, const Ip *ip); /* and its DHCP server */
    void *opaque;
} FwWorld;

typedef enum { FW_IN, FW_OUT } FwDirection; /* to the VM, from it */

typedef enum {
    FW_BY_NONE,    /* there are no rules, or none are asked (ARP, ND, DHCP) */
    FW_BY_RULE,    /* `rule` of `set` */
    FW_BY_DEFAULT, /* the default of `set` */
    FW_BY_FLOW,    /* belongs to a flow that was allowed; `rule` allowed it */
    FW_BY_INVALID, /* malformed, a fragment without its first, TCP out of the blue */
    FW_BY_FULL,    /* no room for one more flow */
    FW_BY_DNS,     /* names are allowed, and this is DNS: to the network's own, which is
                      open then, or to elsewhere, which is closed */
} FwReason;

typedef struct FwVerdict {
    bool allow, log; /* log: the rule says so, and its rate allows it */
    bool reject;     /* who sent it is to be told that it may not pass */
    FwReason reason;
    const Firewall *set; /* not a reference; NULL: none */
    unsigned rule;       /* index in it; UINT_MAX: none */
    FwDirection direction;
    const char *detail; /* a constant sentence, of INVALID and NONE; NULL: none */
} FwVerdict;

typedef struct FwGate FwGate;

enum { FW_MAX_FLOWS = 16384 };

FwGate *fw_gate_new(const FwWorld *world, unsigned max_flows);
void fw_gate_free(FwGate *gate);

/* Exchanges both sets in one step (NULL: none); takes references of its own.  Also to be
 * called with the same ones when what the world says of vm, group or net has changed. */
void fw_gate_set(FwGate *gate, Firewall *network, Firewall *vm);

/* The packet's fate; `frame` is of `len` bytes.  Counts, and learns flows. */
bool fw_gate_pass(FwGate *gate, FwDirection direction, const Packet *p,
                  const uint8_t *frame, size_t len, int64_t now_ns, FwVerdict *ret);

/* What would become of it; changes nothing. */
void fw_gate_test(const FwGate *gate, FwDirection direction, const Packet *p,
                  const uint8_t *frame, size_t len, int64_t now_ns, FwVerdict *ret);

/* A new reference: a list of flows: {"proto": "tcp", "direction": "in", "from": ADDRESS,
 * "from-port", "to": ADDRESS, "to-port", "state", "packets", "bytes", "packets-back",
 * "bytes-back", "idle": seconds, "rule": the text of the rule that allowed it}.  All is
 * seen from who sent its first packet; ports are not of every protocol ("id" is of echo);
 * "rule" is left out when there is none, and until a flow is compared with new rules. */
json_t *fw_gate_flows(const FwGate *gate, int64_t now_ns);
unsigned fw_gate_n_flows(const FwGate *gate); /* with those whose time is over */

/* A sentence: "denied by rule 3 of web.rules: deny in tcp port 22".  People count rules
 * from 1.  A new string. */
char *fw_verdict_text(const FwVerdict *v);
