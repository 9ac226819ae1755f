/* QEMU's bridge helper (qemu-bridge-helper(8)): a setuid program that puts a tap into a
 * bridge for users whom /etc/qemu/bridge.conf allows it. */
#pragma once

#include <net/if.h>

#include "util/error.h"

/* Runs it, for a few seconds at most, and returns the tap's descriptor, non-blocking, or
 * -1 with the reason, the helper's own sentence if it had one. */
int bridge_helper(const char *bridge, char ret_ifname[IFNAMSIZ], GError **error);
