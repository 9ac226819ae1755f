/* The first message between two switches, in each direction: {"hutch-route": 1,
 * "network": NAME, "to": NAME, "subnet": PREFIX, "subnet6": PREFIX}, without a prefix
 * that the network does not have.
 *
 * Who says it is believed as far as the config of the network that it names goes: whoever
 * can connect here may be any program of the user, and a subnet that it made up would
 * draw to it what is for others. */
#pragma once

#include "src/switch/switch.h"

/* A new reference. */
json_t *route_hello_new(const char *network, const char *to, const NetworkSubnets *own);

/* What the network `from` says to `to`, whose subnets are `own`. */
bool route_hello_take(const json_t *hello, const char *from, const char *to,
                      const NetworkSubnets *own, IpPrefix *ret_v4, IpPrefix *ret_v6,
                      GError **error);

/* Puts a prefix under a key, if there is one. */
void route_set_prefix(json_t *object, const char *key, const IpPrefix *p);
