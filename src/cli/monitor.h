/* Being the monitor of a VM, from its Config to an exit status. */
#pragma once

#include "src/cli/detach.h"

/* Main thread.  Runs the VM; `place` is its claimed run folder, or zeroed, and is left as
 * it is to be found afterwards. */
int monitor_run(Config *cfg, Place *place, Detach *detach);
