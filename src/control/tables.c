/* All commands and events there are: one line for each file that has some. */
#include "control/control.h"

const ControlTable *const control_tables[] = {
    &control_protocol_table, &control_machine_table,
    &control_device_table,   &control_net_table,
    &control_chardev_table,  &control_block_table,
    &control_node_table,     &control_job_table,
    &control_place_table,    &control_metrics_table,
    &control_clone_table,    &control_snapshot_table,
    &control_refused_table,  NULL,
};

const ControlCommand *control_command(const char *name)
{
    for (const ControlTable *const *t = control_tables; *t; t++)
        for (const ControlCommand *c = (*t)->commands; c->name; c++)
            if (g_str_equal(c->name, name))
                return c;
    return NULL;
}
