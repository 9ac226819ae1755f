/* Who talks to whom through one vNIC.
 *
 *     flows.c      the table: bounded, hashed, old ones make room
 *     track.c      what a packet makes of a flow's state
 *     fragments.c  which packets' later fragments may pass
 *     ask.c        what the sets say of a packet
 *     decide.c     what becomes of a packet
 *     gate.c       doing that
 *     report.c     saying it to people
 *
 * All of it belongs to the switch's thread. */
#pragma once

#include "src/firewall/rules.h"

/* The same for both directions: the VM's side is local.  No padding: it is hashed. */
typedef struct FlowKey {
    Ip local, remote;
    uint16_t local_port, remote_port; /* echo: id, and 0 */
    uint8_t proto;
    uint8_t echo; /* 1 + the FwDirection of the requests; 0: no echo */
    uint16_t zero;
} FlowKey;
_Static_assert(sizeof(FlowKey) == 40, "hashed in words of eight bytes");

/* Each has a line in flow_states. */
typedef enum {
    FLOW_SYN_SENT,     /* the first SYN passed */
    FLOW_SYN_RECEIVED, /* it was answered */
    FLOW_PICKED_UP,    /* begins in the middle of a connection */
    FLOW_ESTABLISHED,
    FLOW_CLOSING, /* one FIN */
    FLOW_CLOSED,  /* both */
    FLOW_RESET,
    FLOW_NEW,     /* not TCP: not yet answered */
    FLOW_REPLIED, /* answered once */
    FLOW_STREAM,  /* and went on */
    FLOW_ECHO,
    FLOW_STATES
} FlowState;

typedef struct FlowStateInfo {
    const char *name;
    int64_t timeout_ns; /* after its last packet */
} FlowStateInfo;
extern const FlowStateInfo flow_states[];

enum { FLOW_NONE = -1, FLOW_BY_DEFAULT = UINT16_MAX };

/* Two cache lines, the first of which finding it needs. */
typedef struct Flow {
    FlowKey key;
    int32_t next;        /* of its bucket, or of the free ones */
    uint32_t generation; /* of the rules that allowed it */
    int64_t seen_ns;
    uint8_t state;
    uint8_t direction;  /* of its first packet */
    uint8_t fin, known; /* TCP: bits by direction: FIN was sent; `sent` is set */
    uint16_t rule[2];   /* that allowed it, of both sets */

    int32_t older, newer;          /* in the list of its state */
    int64_t placed_ns;             /* when it was put at that list's end */
    uint64_t packets[2], bytes[2]; /* by direction */
    uint32_t sent[2];              /* TCP: the end of what was sent, by direction */
    uint64_t spare;
} Flow;
_Static_assert(sizeof(Flow) == 128, "two cache lines");

typedef struct Flows {
    Flow *flow;
    int32_t *bucket; /* as many as flows */
    unsigned size, max, used;
    int32_t free;
    int32_t oldest[FLOW_STATES], newest[FLOW_STATES];
    uint64_t seed[6];
} Flows;

/* ---- flows.c -------------------------------------------------------------------------
 */

void flows_init(Flows *t, unsigned max);
void flows_clear(Flows *t);
/* NULL: none, or its time is over. */
Flow *flows_find(const Flows *t, const FlowKey *key, int64_t now_ns);
/* A new one, zero but for its key; there must be none of that key that is alive.  May
 * move all others in memory.  NULL: there is no room. */
Flow *flows_add(Flows *t, const FlowKey *key, FlowState state, int64_t now_ns);
bool flows_has_room(const Flows *t, int64_t now_ns);
void flows_remove(Flows *t, Flow *f);
void flows_set_state(Flows *t, Flow *f, FlowState state, int64_t now_ns);
bool flow_is_over(const Flow *f, int64_t now_ns);

/* ---- track.c -------------------------------------------------------------------------
 */

/* False: a packet that is of no flow, as ICMP that is no echo; or not whole. */
bool flow_key(FwDirection direction, const Packet *p, FlowKey *ret);
/* The other way round, for what an ICMP error quotes. */
bool flow_key_quoted(FwDirection direction, const Packet *quoted, FlowKey *ret);

/* Flags that no TCP sends together. */
bool tcp_is_odd(const Packet *p);
/* Whether the packet would begin a flow, as far as it shows: a SYN, an echo request. */
bool flow_begins(const Packet *p);
/* Whether it is part of the flow, not the beginning of another one. */
bool flow_includes(const Flow *f, FwDirection direction, const Packet *p);
/* TCP: a SYN that is not part of it does not end it. */
bool flow_may_go_on(const Flow *f);
FlowState flow_first_state(const Packet *p);
/* Notes a packet that passed. */
void flow_track(Flows *t, Flow *f, FwDirection direction, const Packet *p, size_t len,
                int64_t now_ns);

/* ---- fragments.c ---------------------------------------------------------------------
 */

/* A packet whose first fragment was let through. */
typedef struct Fragment {
    FlowKey key; /* ports: 0 */
    uint32_t id;
    uint32_t end; /* of the first one's bytes */
    int64_t until_ns;
    uint32_t generation;
    uint8_t direction;
    uint16_t rule[2];
} Fragment;

typedef struct Fragments {
    Fragment *fragment; /* NULL until the first one comes */
} Fragments;

void fragments_clear(Fragments *t);
/* NULL: not known, or it overlaps the first one. */
const Fragment *fragments_find(const Fragments *t, FwDirection direction, const Packet *p,
                               uint32_t generation, int64_t now_ns);
/* A first fragment passed. */
void fragments_add(Fragments *t, FwDirection direction, const Packet *p,
                   uint32_t generation, const uint16_t rule[2], int64_t now_ns);

/* ---- gate.c --------------------------------------------------------------------------
 */

struct FwGate {
    FwWorld world;
    Firewall *set[2];              /* the network's, the vNIC's; NULL: none */
    Firewall *old[2];              /* those before */
    bool names;                    /* one of the sets has some */
    uint32_t generation;           /* of what rules say of flows */
    uint32_t set_since, old_since; /* the sets' first generations */
    bool began;
    int64_t began_ns; /* its first packet came */
    Flows flows;
    Fragments fragments;
};

static inline bool gate_has_rules(const FwGate *gate)
{
    return gate->set[0] || gate->set[1];
}

/* Of what a flow remembers: the rule's number in a set, UINT_MAX if it is the default. */
static inline unsigned remembered_number(const Firewall *fw, uint16_t rule)
{
    return rule < fw->rules->len ? rule : UINT_MAX;
}

/* And the rule, or the default. */
static inline Rule *remembered_rule(const Firewall *fw, uint16_t rule,
                                    FwDirection direction)
{
    return rule < fw->rules->len ? fw->rules->pdata[rule] : fw->defaults[direction];
}

/* ---- ask.c, decide.c ------------------------------------------------------------------
 */

typedef struct Decision {
    FwVerdict v;
    Rule *by[2]; /* that were met, of both sets; NULL: none, or not asked */
    uint16_t rule[2];
    bool of_flow;          /* of the one that is known */
    bool learn, forget;    /* one; both: it begins anew */
    FwDirection direction; /* of the flow that is learnt */
} Decision;

/* False, always. */
bool decision_refuse(Decision *d, FwReason reason, const char *detail);

/* Whether both sets allow a packet: sets v, by and rule. */
bool gate_ask(const FwGate *gate, const Subject *s, Decision *d);
/* The same of the packet that this one would answer, as far as rules can see that. */
bool gate_ask_turned(const FwGate *gate, const Subject *s, Decision *d);

/* Between a client and a server that rules are not asked about. */
bool gate_is_dhcp(const FwGate *gate, FwDirection direction, const Packet *p);

/* Whether it passes.  `key` is NULL for what is of no flow, `f` if it is not known. */
bool gate_decide(const FwGate *gate, const Subject *s, const FlowKey *key, const Flow *f,
                 int64_t now_ns, Decision *ret);
