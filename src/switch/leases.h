/* Who has which address of the network: one lease for each vNIC, by its VM's name and its
 * own, so that a VM has the same address whenever it runs; for stations that are no VM of
 * ours by their MAC.  A lease is kept for as long as there is room: those that run are
 * never given to another, of the others the one that is longest not seen is given up,
 * first those of no VM.  They are in leases.json, as of a second ago at most.
 *
 * Which address it is: that which was given by hand (ip=), or by the network's config, or
 * the one it had, or one that follows from its name.  The switch's thread. */
#pragma once

#include "src/switch/gateway_private.h"

enum { LEASE_S = 24 * 60 * 60, LEASES_MAX = 8192 };

/* The address for a station at this port: that of the port, whatever `mac` a guest
 * claims; a port without anti-spoofing may have several.  `wanted` (NULL: none) is given
 * if there is nothing that speaks for another.  False: there is none, and the log says
 * so. */
bool leases_offer(Gateway *gw, Port *port, const Mac *mac, bool v6, const Ip *wanted,
                  Ip *ret);
/* It took what it was offered: from now on it may use it.  False: another has it. */
bool leases_bind(Gateway *gw, Port *port, const Mac *mac, const Ip *ip);
/* It gave it back; the lease stays its own. */
void leases_release(Gateway *gw, Port *port, const Mac *mac, const Ip *ip);
/* It says that another station uses it: it gets a different one next, within limits. */
void leases_decline(Gateway *gw, Port *port, const Mac *mac, const Ip *ip);

/* Whether an address is kept for another than this port. */
bool leases_has_another(Gateway *gw, const Port *port, const Ip *ip);
