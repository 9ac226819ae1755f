/* What lies beyond the gateway: names (dns*.c), the host's network (nat.c, forward.c),
 * other networks (route.c), and the errors that say that there is no way there
 * (outside.c).  Owned by the gateway, which has kept for itself what is for its own
 * protocols: ARP, ND, echo, DHCP. */
#pragma once

#include "src/switch/gateway.h"

typedef struct Outside Outside;

/* By the switch's config.  An error names a port of the host that is taken, or an
 * upstream server that is none. */
Outside *outside_new(Switch *sw, Gateway *gw, GError **error);
void outside_free(Outside *o);                        /* NULL is fine */
bool outside_reconfigure(Outside *o, GError **error); /* false: all is as it was */

/* A packet, IPv4 or IPv6, that was sent to the gateway's MAC and is for none of its own
 * protocols: DNS, replies to forwarded connections, packets for elsewhere.  It is
 * answered, sent on, or refused by an ICMP error. */
void outside_input(Outside *o, Port *from, Frame *f);

/* Addresses of VMs have changed: a lease, a port that came or went. */
void outside_addresses_changed(Outside *o);
void outside_port_removed(Outside *o, Port *port);

/* For FwWorld: whether an address belongs to a network that is reached from here, or was
 * given for a name. */
bool outside_is_network(Outside *o, const char *network, const Ip *ip);
bool outside_is_name(Outside *o, const char *pattern, const Ip *ip);

/* Commands: query-names, query-forwards, query-routes.  New references. */
json_t *outside_names_json(Outside *o);
json_t *outside_forwards_json(Outside *o);
json_t *outside_routes_json(Outside *o);
