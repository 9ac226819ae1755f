/* What the files that make up a machine share: machine.c and hotplug.c.  Main thread. */
#pragma once

#include "machine/board.h"
#include "machine/hotplug.h"

typedef struct Hotplug Hotplug;

/* ---- machine.c -------------------------------------------------------------------- */

Hotplug *machine_hotplug(Machine *m);
Board *machine_board(Machine *m);

/* Parks the vCPUs and nothing else, for straight code that changes the topology; devices
 * go on.  Harmless while the machine is paused.  Does not nest. */
void machine_park(Machine *m);
void machine_unpark(Machine *m);

/* ---- hotplug.c -------------------------------------------------------------------- */

Hotplug *hotplug_new(Machine *m, IoLoop *main, Board *board);
bool hotplug_add_configured(Hotplug *h, const Config *config, GError **error);
void hotplug_quiesce(Hotplug *h); /* waits for what is leaving to touch no RAM any more */
void hotplug_hurry(Hotplug *h);   /* the VM ends: see VirtioOps */
void hotplug_reset(Hotplug *h);   /* vCPUs parked: removals that were asked for happen */
void hotplug_finish(Hotplug *h);  /* before board_free(); NULL is fine */
void hotplug_free(Hotplug *h);    /* after it */

json_t *hotplug_counters(const Hotplug *h); /* what each device counted, by its id */
