/* Ports of the host that lead to VMs: config.forwards, over the network's libslirp.  The
 * switch's thread. */
#pragma once

#include "backend/netdev.h"
#include "src/switch/gateway.h"

typedef struct Forwards Forwards;

Forwards *forwards_new(Switch *sw, Gateway *gw);
void forwards_free(Forwards *fw); /* NULL is fine; before what they go over */

/* Takes over the config's list.  Those that stay the same go on; a port that cannot be
 * had is an error, and then all is as it was.  nd NULL: there are none. */
bool forwards_set(Forwards *fw, NetDev *nd, GError **error);

/* Addresses of VMs may have changed: forwards follow them. */
void forwards_follow(Forwards *fw);

json_t *forwards_json(const Forwards *fw);
