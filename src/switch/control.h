/* The clients of control.sock: JSON, a line a message; docs/networks.md has the commands,
 * and tables of SwitchCommand what they do. */
#pragma once

#include "src/switch/switch.h"

void clients_accept(Switch *sw, int fd); /* takes over fd */
unsigned clients_count(const Switch *sw);
void clients_free(Clients *clients); /* hangs up on all of them; NULL is fine */

/* port_find.c: the port that arguments name by `vm` and `nic`, or by `port`; NULL with an
 * error: there is none. */
Port *command_port(Switch *sw, const json_t *arguments, GError **error);

/* Whether they name one. */
bool command_names_port(const json_t *arguments);
