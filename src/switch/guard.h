/* Anti-spoofing: what a port may say of itself.  On unless the port is trusted, or the
 * network's config says spoof=on.
 *
 * Ethernet source: the port's MAC.  ARP and ND: the sender's addresses are the port's. IP
 * source: given by hand (ip=), leased by DHCP, formed by SLAAC within the network's
 * prefix or link-local, and nobody else's; where the network serves no DHCP the first few
 * that are used and that nobody has.  Never: DHCP servers' replies, router
 * advertisements, redirects. */
#pragma once

#include "src/switch/switch.h"

Guard *guard_new(Port *port); /* with no address */
void guard_free(Guard *guard);

/* False: it is spoofed, and to be dropped.  Learns addresses. */
bool guard_check(Port *port, const Frame *f);

/* Addresses by hand (ip=), and by lease.  Refused if it is the gateway's, or if another
 * port of the network has it, naming it; one that another has only learned is taken from
 * it. */
bool guard_add(Guard *guard, const Ip *ip, GError **error);
bool guard_add_lease(Guard *guard, const Ip *ip, GError **error);
void guard_remove_lease(Guard *guard, const Ip *ip); /* stays if it is by hand, too */
/* The first that was given by hand, of IPv4 or IPv6; false: there is none. */
bool guard_by_hand(const Guard *guard, bool v6, Ip *ret);
/* The port may use the address: it has it, or has now learned it. */
bool guard_claim(Port *port, const Ip *ip);
/* Its addresses; returns how many, at most `max`. */
unsigned guard_list(const Guard *guard, Ip *ret, unsigned max);

/* Whose address it is on this network; NULL: nobody's. */
Port *guard_owner(Switch *sw, const Ip *ip);
