/* Which station is at which port, by VLAN: learned from the source of each frame, and
 * forgotten after the config's ageing time (IEEE 802.1Q, 8.8).  The MAC of a VM's port is
 * pinned to it: nobody else can claim it.
 *
 * Bounded: FDB_MAX addresses in all, and FDB_MAX_LEARNED at a port, which then forgets
 * its own oldest, so that no port can drive out what is at others.  What finds no room is
 * not learned, and frames to it are flooded. */
#pragma once

#include "src/switch/switch.h"

enum { FDB_MAX = 8192, FDB_MAX_LEARNED = 1024 };

Fdb *fdb_new(void);
void fdb_free(Fdb *fdb);

void fdb_learn(Switch *sw, Port *from, const Mac *mac, uint16_t vlan);
void fdb_pin(Switch *sw, Port *port, const Mac *mac, uint16_t vlan);
Port *fdb_find(Switch *sw, const Mac *mac, uint16_t vlan); /* NULL: not known */
void fdb_forget(Switch *sw, Port *port);                   /* all that is at it */

unsigned fdb_count(Switch *sw); /* learned and not yet too old */
json_t *fdb_json(Switch *sw);   /* a new reference: of `query-fdb` */
