/* Being the monitor of a VM, from its Config to an exit status. */
#pragma once

#include "machine/machine.h"
#include "src/cli/detach.h"

/* Main thread.  Runs the VM, from its power-on or, if `restore` is not NULL, on from
 * where it was saved; `place` is its claimed run folder, or zeroed, and is left as it is
 * to be found afterwards. */
int monitor_run(Config *cfg, const MachineRestore *restore, Place *place, Detach *detach);
