/* The tables of the states of what is in devices/. */
#pragma once

#include "state/state.h"

extern const StateTable *const devices_state_tables[]; /* NULL-terminated */
