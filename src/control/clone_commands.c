/* hutch's own commands about VMs that are clones, which `hutch clone` uses. */
#include "control/control.h"
#include "snapshot/detach.h"
#include "snapshot/restore.h"

static const ControlType detached = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"bytes", &control_int}),
};

static void let_go(void *machine)
{
    snapshot_restored_let_go(machine);
}

/* After the disks: the snapshot may be removed then. */
static json_t *x_detach(ControlCall *call, GError **error)
{
    uint64_t bytes;

    if (!snapshot_detach_memory(call->machine, call->ending, &bytes, error) ||
        !control_on_main(call, let_go, call->machine, error))
        return NULL;
    return json_pack("{s:I}", "bytes", (json_int_t)bytes);
}

static const ControlCommand commands[] = {
    {"x-hutch-detach-memory", NULL, &detached, CONTROL_SLEEPS, x_detach},
    {0},
};

static const ControlEvent events[] = {{0}};

const ControlTable control_clone_table = {commands, events};
