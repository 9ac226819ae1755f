/* The tables of the states of virtio devices. */
#pragma once

#include "state/state.h"

extern const StateTable *const virtio_state_tables[]; /* NULL-terminated */
