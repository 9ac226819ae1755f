/* The tables of the states of back ends. */
#pragma once

#include "state/state.h"

extern const StateTable chardev_state_table, netdev_user_state_table;
