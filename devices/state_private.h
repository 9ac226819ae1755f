/* Tables of the states that files of this folder save; each is beside its struct. */
#pragma once

#include "state/state.h"

extern const StateTable i8042_state_table;
