/* The tables of what is saved of the machine itself. */
#pragma once

#include "state/state.h"

extern const StateTable *const machine_state_tables[]; /* NULL-terminated */
