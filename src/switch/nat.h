/* A network's way to the host's: libslirp, which makes sockets of this process out of the
 * VMs' connections.  The switch's thread. */
#pragma once

#include "backend/netdev.h"
#include "src/switch/gateway.h"

typedef struct Nat Nat;

Nat *nat_new(Switch *sw, Gateway *gw, GError **error);
void nat_free(Nat *nat); /* NULL is fine */

/* Whether it serves these subnets and MTU, or has to be made anew. */
bool nat_fits(const Nat *nat, const Switch *sw);

/* A packet from a VM, to the gateway itself or beyond it.  False: it may not go there. */
bool nat_input(Nat *nat, Frame *f);

NetDev *nat_netdev(Nat *nat); /* to forward ports with */
