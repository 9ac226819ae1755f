/* Rules of the network and of its ports: where they are kept, and how a frame passes.
 *
 * The network's are in firewall.rules in its folder.  A port's come with its monitor's
 * hello; those that were set while it ran are in rules/VM.NIC with the `instance` of that
 * start of the VM: a switch that was killed and comes back has them again, and the next
 * start of the VM has what its own options say.  New rules are parsed before anything
 * changes, and then exchanged at once. */
#pragma once

#include "src/switch/switch.h"

/* The network's, as they are in its folder now.  On an error the old ones stay. */
bool rules_load(Switch *sw, GError **error);

/* Those of a port that says who it is, and its gate; text NULL: it brings none. */
bool rules_port_begin(Port *port, const char *text, GError **error);

/* Exchanges a set; takes the reference, NULL: none.  Written to its file before.  port
 * NULL: the network's. */
bool rules_set(Switch *sw, Port *port, Firewall *fw, GError **error);

/* What rules ask about VMs, groups and addresses may have other answers now: flows are
 * compared with them again. */
void rules_world_changed(Switch *sw);

/* False: a frame is denied.  It is counted and noted. */
bool rules_pass(Port *port, Direction direction, const Frame *f);

/* ---- the log: rules_log.c ------------------------------------------------------------
 * What was denied, and what rules say is to be noted: the last RULES_LOG of them, of a
 * port at most some a second. */
enum { RULES_LOG = 1024 };

void rules_note(Port *port, Direction direction, const FwVerdict *verdict,
                const Packet *p);
void rules_log_free(RulesLog *log); /* NULL is fine */

/* Of the port, or of all (NULL), from number `since` on; a new reference: of
 * `firewall-log`. */
json_t *rules_log_json(Switch *sw, const Port *port, uint64_t since);
