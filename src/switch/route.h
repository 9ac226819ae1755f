/* Routes to other networks: config.routes.  Two networks that name each other have a
 * connection between their switches, over which packets to the other's subnets go.
 *
 * Who starts, or learns of a route, connects to the others that run (NETWORK_ROUTE in
 * their run folder), and starts nobody; so whoever is started last has them all, and
 * nobody has to look again and again.  Where two connect to each other at once, that of
 * the one whose name comes first stays.  The switch's thread. */
#pragma once

#include "src/switch/gateway.h"

typedef struct Routes Routes;

typedef enum {
    ROUTE_NONE, /* no route leads there */
    ROUTE_DOWN, /* one does, and the other network does not run, or does not route to us
                 */
    ROUTE_SENT,
} RouteFate;

typedef struct RouteOps {
    /* A packet for this network from another, whose source was checked. */
    void (*input)(void *opaque, Frame *f);
} RouteOps;

Routes *routes_new(Switch *sw, const RouteOps *ops, void *opaque);
void routes_free(Routes *routes); /* NULL is fine */

/* Takes over the config's list; routes that stay are not interrupted, unless the
 * network's own subnets have changed. */
bool routes_set(Routes *routes, GError **error);

/* Sends an IP packet, if a route leads to its destination. */
RouteFate routes_send(Routes *routes, const Frame *f, const Ip *to);

/* Whether an address is of a network that a route leads to. */
bool routes_is_network(Routes *routes, const char *network, const Ip *ip);

/* The subnets that routes lead to, of one family: how many, at most `max`. */
unsigned routes_list(const Routes *routes, bool v6, IpPrefix *ret, unsigned max);

json_t *routes_json(Routes *routes);
