/* Rates and bad wires as commands, and how they outlive the switch: what was set for a
 * port while it ran, also by set-port, is in limits.json in the network's folder, under
 * the port's instance, so that a switch that was killed and comes back has it again, and
 * a VM that starts anew does not. */
#pragma once

#include "src/switch/switch.h"

/* The port has said who it is.  What had been set for it is set again. */
void limits_port_added(Port *port);

/* port_change() was told something. */
void limits_port_changed(Port *port);

/* It left, and the switch goes on: what was set for it is forgotten. */
void limits_port_removed(Port *port);
