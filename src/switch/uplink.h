/* A network's port to the host's own interfaces: config.uplink, with keys as of --net.
 * The switch's thread. */
#pragma once

#include "src/switch/switch.h"

/* Opens it, exchanges it or closes it, as the config now has it; on an error what was
 * there goes on. */
bool uplink_configure(Switch *sw, GError **error);
