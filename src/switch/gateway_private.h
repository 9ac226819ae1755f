/* The gateway's own view of itself: its parts, one a protocol, and what they share.  A
 * part is a const table entry (gateway.c lists them); each keeps its state behind a
 * pointer of its own in Gateway.  The switch's thread. */
#pragma once

#include "packet/build.h"
#include "src/switch/gateway.h"
#include "src/switch/guard.h"

typedef struct Neighbours Neighbours; /* neighbour.c */
typedef struct Leases Leases;         /* leases.h */
typedef struct Ra Ra;                 /* ra.c */
typedef struct Outside Outside;       /* outside.h */

struct Gateway {
    Switch *sw;
    Mac mac;
    Ip link_local;
    /* As of sw->subnets when it was configured; bits 0: it has none. */
    NetworkSubnets subnets;
    Neighbours *neighbours;
    Leases *leases;
    Ra *ra;
    Outside *outside;
};

/* Any function may be NULL.  In the order of the table, and freed in the opposite one. */
typedef struct GatewayPart {
    const char *name;
    bool (*start)(Gateway *gw, GError **error);
    void (*stop)(Gateway *gw);                        /* after a start that failed, too */
    bool (*reconfigure)(Gateway *gw, GError **error); /* gw->subnets is the new one */
    /* Given what is untagged and broadcast, multicast, or to the gateway's MAC; true: it
     * was for the gateway, and nobody else has to see it. */
    bool (*input)(Gateway *gw, Port *from, Frame *f);
    void (*port_added)(Gateway *gw, Port *port);
    void (*port_removed)(Gateway *gw, Port *port);
} GatewayPart;

extern const GatewayPart gateway_arp, gateway_dhcp, gateway_dhcp6, gateway_ra,
    gateway_leases, gateway_neighbours, gateway_outside;

/* What query-leases and lease-release do: leases_commands.c. */
json_t *gateway_query_leases(Switch *sw, json_t *arguments, GError **error);
json_t *gateway_lease_release(Switch *sw, json_t *arguments, GError **error);

/* Routes to other networks may be others: hosts hear of it at once.  ra.c. */
void ra_routes_changed(Gateway *gw);

/* One of the gateway's addresses on this network, link-local too. */
bool gateway_is(const Gateway *gw, const Ip *ip);

/* The network's domain as DNS has it: labels with their lengths, and a zero (RFC 1035,
 * 3.1). */
void build_domain_labels(Builder *b, const Gateway *gw);

/* Ends the frame and sends it, to whom its destination says or to one port.  What did not
 * fit is lost, as a bug of ours that a log tells of. */
void gateway_send(Gateway *gw, Builder *b);
void gateway_send_to(Gateway *gw, Port *to, Builder *b);

/* ---- neighbour.c: who is where -------------------------------------------------------
 */

/* ip was seen to be at mac.  Does nothing for addresses that are not on this network. */
void neighbour_seen(Gateway *gw, const Ip *ip, const Mac *mac);
/* false: not known (now). */
bool neighbour_find(Gateway *gw, const Ip *ip, Mac *ret);
void neighbour_ask(Gateway *gw, const Ip *ip, const Mac *known); /* arp.c; NULL: all */
