/* The tables of the states of the vCPUs and of what KVM emulates. */
#pragma once

#include "state/state.h"

extern const StateTable *const kvm_state_tables[]; /* NULL-terminated */
