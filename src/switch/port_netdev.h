/* A port over a backend of network cards: the host's interfaces, or libslirp, as a port
 * among others.  Kind "uplink": who is behind it is not known, so it is trusted. */
#pragma once

#include "backend/netdev.h"
#include "src/switch/switch.h"

/* NULL with what netdev_open() says.  `kept_as` is copied (kept.h).  It does not keep the
 * switch alive; port_free() ends it. */
Port *port_netdev_new(Switch *sw, const NetDevOptions *options, const char *kept_as,
                      GError **error);
