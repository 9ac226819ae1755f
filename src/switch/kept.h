/* What was set for a port while it ran, by set-limit, set-impair and set-port, outlives
 * the switch: it is in limits.json in the network's folder, under the port's `kept_as`,
 * so that a switch that was killed and comes back has it again.
 *
 *     INSTANCE/NIC              a VM's card; a VM that starts anew is another instance
 *     program PID START N       the Nth stream that this start of a program has here
 *     connect PATH              a program that we go to: while this is there, so do we
 *     uplink TEXT               of the config
 *
 * No name of an instance or a card has a space, so that no monitor's is one of the
 * others. The file is of a bounded size, and damaged is as empty. */
#pragma once

#include "src/switch/switch.h"

#define KEPT_CONNECT "connect "
#define KEPT_UPLINK  "uplink "

/* The port begins.  What had been set for it is set again. */
void kept_port_added(Port *port);

/* Something was set for it; of a connection, also that it is there. */
void kept_port_changed(Port *port);

/* It left, and the switch goes on: what was set for it is forgotten. */
void kept_port_removed(Port *port);

/* Paths of the connections that are kept, a new array of texts. */
char **kept_connections(Switch *sw);
