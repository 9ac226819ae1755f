/* All kinds of sections that there are: each layer lists the tables of its own, and here
 * the lists come together.  By them `hutch snapshot inspect` shows a state in words, and
 * tests prove that no struct has a field that is not saved. */
#pragma once

#include "state/state.h"

/* NULL-terminated; any thread. */
const StateTable *const *state_all_tables(void);
