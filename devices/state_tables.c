/* See devices/state_tables.h. */
#include "devices/state_tables.h"

#include "devices/state_private.h"

const StateTable *const devices_state_tables[] = {
    &i8042_state_table,
    NULL,
};
