/* The sockets by which others come: port.sock for VMs, stream.sock for foreign ports,
 * control.sock for commands. */
#pragma once

#include "src/switch/switch.h"

/* Listens in the network's run folder, which is there. */
bool join_listen(Switch *sw, GError **error);
void join_free(Join *join); /* NULL is fine */

/* Takes in who has connected and was not yet looked at. */
void join_accept(Switch *sw);
