/* What lies beyond the gateway: names (dns*.c), the host's network (nat.c, forward.c),
 * other networks (route*.c), and the errors that say that there is no way there.  A part
 * of the gateway (gateway_private.h), the last of them: what it is given is for none of
 * the gateway's own protocols.  The switch's thread. */
#pragma once

#include "src/switch/gateway.h"

typedef struct Outside Outside;

/* Addresses of VMs may have changed; may be called at any time. */
void outside_addresses_changed(Gateway *gw);

/* For FwWorld: whether an address belongs to a network that is reached from here, or was
 * given for a name. */
bool outside_is_network(Gateway *gw, const char *network, const Ip *ip);
bool outside_is_name(Gateway *gw, const char *pattern, const Ip *ip);

/* What a VM, or we in its name, has to say to who sent it something by the gateway.  If
 * there is no way back it is lost; f->p is set by this. */
void outside_send_back(Gateway *gw, Frame *f);

/* The subnets of other networks that routes lead to, for hosts to be told. */
unsigned outside_routes(const Gateway *gw, bool v6, IpPrefix *ret, unsigned max);

/* Commands. */
json_t *outside_query_names(Switch *sw, json_t *arguments, GError **error);
json_t *outside_query_forwards(Switch *sw, json_t *arguments, GError **error);
json_t *outside_query_routes(Switch *sw, json_t *arguments, GError **error);
