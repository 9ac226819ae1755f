/* Commands about the machine as a whole, under QMP's names (qapi/run-state.json,
 * machine.json, misc.json of QEMU 7.2). */
#include "control/control.h"

static json_t *done(void)
{
    return json_object();
}

/* ---- the run state --------------------------------------------------------------------
 */

static const char *const run_states[] = {"prelaunch", "running",  "paused",
                                         "io-error",  "shutdown", NULL};
static const ControlType run_state = {.kind = CONTROL_ENUM, .values = run_states};
static const ControlType status_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"running", &control_bool}, {"singlestep", &control_bool},
                               {"status", &run_state}),
};

static json_t *query_status(ControlCall *call, GError **error)
{
    MachineState state = machine_state(call->machine);

    return json_pack("{s:s, s:b, s:b}", "status", machine_state_name(state), "singlestep",
                     false, "running", state == STATE_RUNNING);
}

static json_t *stop(ControlCall *call, GError **error)
{
    machine_stop(call->machine, STATE_PAUSED);
    return done();
}

static json_t *cont(ControlCall *call, GError **error)
{
    machine_cont(call->machine);
    return done();
}

static json_t *quit(ControlCall *call, GError **error)
{
    machine_quit(call->machine);
    return done();
}

static json_t *system_powerdown(ControlCall *call, GError **error)
{
    machine_power_button(call->machine);
    return done();
}

static json_t *system_reset(ControlCall *call, GError **error)
{
    machine_reset(call->machine);
    return done();
}

/* ---- what it is -----------------------------------------------------------------------
 */

static const ControlType name_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"name", &control_str, true}),
};

static json_t *query_name(ControlCall *call, GError **error)
{
    const Place *place = control_place(call->server);
    g_autofree char *name = place ? place_name(place)
                                  : g_strdup(machine_config(call->machine)->name);

    return name ? json_pack("{s:o}", "name", control_text(name)) : json_object();
}

static const ControlType kvm_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"enabled", &control_bool}, {"present", &control_bool}),
};

static json_t *query_kvm(ControlCall *call, GError **error)
{
    return json_pack("{s:b, s:b}", "enabled", true, "present", true);
}

static const ControlType cpu_props = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"socket-id", &control_int, true},
                               {"core-id", &control_int, true},
                               {"thread-id", &control_int, true}),
};
static const ControlType cpu_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"cpu-index", &control_int}, {"qom-path", &control_str},
                               {"thread-id", &control_int}, {"props", &cpu_props, true},
                               {"target", &control_str}),
};
static const ControlType cpu_list = {.kind = CONTROL_ARRAY, .element = &cpu_info};

static json_t *query_cpus(ControlCall *call, GError **error)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < machine_n_vcpus(call->machine); i++) {
        g_autofree char *path = g_strdup_printf("/machine/cpu[%u]", i);

        json_array_append_new(all, json_pack("{s:i, s:s, s:i, s:s}", "cpu-index", (int)i,
                                             "qom-path", path, "thread-id",
                                             machine_vcpu_tid(call->machine, i), "target",
                                             "x86_64"));
    }
    return all;
}

static const ControlType uuid_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"UUID", &control_str}),
};

/* QMP: a VM that has none says so by the null UUID. */
static json_t *query_uuid(ControlCall *call, GError **error)
{
    const char *uuid = machine_config(call->machine)->uuid;

    return json_pack("{s:s}", "UUID",
                     uuid ? uuid : "00000000-0000-0000-0000-000000000000");
}

static const char *const targets[] = {"x86_64", NULL};
static const ControlType target = {.kind = CONTROL_ENUM, .values = targets};
static const ControlType target_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"arch", &target}),
};

static json_t *query_target(ControlCall *call, GError **error)
{
    return json_pack("{s:s}", "arch", targets[0]);
}

static const ControlType memory_size = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"base-memory", &control_int},
                               {"plugged-memory", &control_int, true}),
};

static json_t *query_memory_size(ControlCall *call, GError **error)
{
    return json_pack("{s:I}", "base-memory",
                     (json_int_t)machine_config(call->machine)->memory.size);
}

static json_t *inject_nmi(ControlCall *call, GError **error)
{
    machine_nmi(call->machine);
    return done();
}

static const ControlCommand commands[] = {
    {"query-status", NULL, &status_info, CONTROL_QUERY, query_status},
    {"query-name", NULL, &name_info, CONTROL_QUERY, query_name},
    {"query-kvm", NULL, &kvm_info, CONTROL_QUERY, query_kvm},
    {"query-cpus-fast", NULL, &cpu_list, CONTROL_QUERY, query_cpus},
    {"query-uuid", NULL, &uuid_info, CONTROL_QUERY, query_uuid},
    {"query-target", NULL, &target_info, CONTROL_QUERY, query_target},
    {"query-memory-size-summary", NULL, &memory_size, CONTROL_QUERY, query_memory_size},
    {"inject-nmi", NULL, NULL, 0, inject_nmi},
    {"stop", NULL, NULL, 0, stop},
    {"cont", NULL, NULL, 0, cont},
    {"quit", NULL, NULL, 0, quit},
    {"system_powerdown", NULL, NULL, 0, system_powerdown},
    {"system_reset", NULL, NULL, 0, system_reset},
    {0},
};

/* ---- events ---------------------------------------------------------------------------
 */

static const char *const causes[] = {
    "none",        "host-error",     "host-qmp-quit", "host-qmp-system-reset",
    "host-signal", "guest-shutdown", "guest-reset",   "guest-panic",
    NULL};
static const ControlType cause = {.kind = CONTROL_ENUM, .values = causes};
static const ControlType ended_by = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"guest", &control_bool}, {"reason", &cause}),
};
static const char *const actions[] = {"poweroff", NULL};
static const ControlType action = {.kind = CONTROL_ENUM, .values = actions};
static const ControlType panicked = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"action", &action}),
};

static const ControlEvent events[] = {
    {"STOP"},
    {"RESUME"},
    {"POWERDOWN"},
    {"RESET", &ended_by},
    {"SHUTDOWN", &ended_by},
    {"GUEST_PANICKED", &panicked},
    {0},
};

const ControlTable control_machine_table = {commands, events};
