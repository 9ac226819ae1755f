/* Running the program hutch-switch; private to src/network. */
#pragma once

#include "util/error.h"

/* With start.lock held alone, in a run folder that is there: returns when the switch is
 * ready, or with what it says is wrong.  Any thread; nothing of this process is inherited
 * but the environment. */
bool spawn_switch(const char *name, GError **error);
