/* What a network itself is to its VMs: the first address of its subnets.  It answers ARP,
 * neighbour solicitations and pings, serves DHCP, router advertisements and DNS, and
 * takes packets for elsewhere to where the network's mode says: nowhere (isolated), to
 * libslirp (nat), to other networks (routed).
 *
 * One file a protocol, each with one function that is given a parsed frame and returns
 * whether that was for it:
 *
 *     arp.c   ARP, ND, echo: and neighbour.c: who is where
 *     dhcp.c  DHCPv4; dhcp6.c; ra.c: router advertisements; leases.c: who has what
 *     dns*.c  names of VMs, and the rest forwarded; what was answered, for rules; tcp.c
 *     nat.c   libslirp; forward.c: ports of the host; route*.c: other networks
 *     outside.c: which of these it is, or an ICMP error */
#pragma once

#include "src/switch/switch.h"

/* By the switch's config; NULL with an error (a port of the host that is taken). */
Gateway *gateway_new(Switch *sw, GError **error);
void gateway_free(Gateway *gw);

/* Takes over a new config: what did not change goes on. */
bool gateway_reconfigure(Gateway *gw, GError **error);

/* A frame that passed guard and firewall.  True: it was for the gateway alone; false: it
 * goes on to ports (broadcasts may have been answered too). */
bool gateway_input(Gateway *gw, Port *from, Frame *f);

/* A port came, or goes. */
void gateway_port_added(Gateway *gw, Port *port);
void gateway_port_removed(Gateway *gw, Port *port);

const Mac *gateway_mac(const Gateway *gw);

/* A packet that was routed or translated and is for a host of this network: its addresses
 * on Ethernet are filled in and it is sent, or kept until ARP or ND has answered (a
 * bounded number), or lost. */
void gateway_to_host(Gateway *gw, Frame *f);

/* The world of the rules of this network's ports. */
void gateway_world(Gateway *gw, FwWorld *ret);

/* The VM that has an address by lease or by hand, now or when it last ran; NULL: none. */
const char *gateway_vm_of(Gateway *gw, const Ip *ip);
/* And its address, the IPv4 one or IPv6 one; false: it has none. */
bool gateway_address_of(Gateway *gw, const char *vm, bool v6, Ip *ret);
