/* The verbs about VMs that run, or have run: what their files share. */
#pragma once

#include <jansson.h>

#include "control/client.h"
#include "control/place.h"
#include "src/cli/cli.h"

extern const Verb fleet_config_verbs[]; /* hutch config; ends with a NULL name */

bool fleet_act_ps(void *, char **, int *, GError **); /* fleet_list.c */
bool fleet_act_status(void *, char **, int *, GError **);
bool fleet_act_inspect(void *, char **, int *, GError **);
bool fleet_act_pause(void *, char **, int *, GError **); /* fleet_life.c */
bool fleet_act_resume(void *, char **, int *, GError **);
bool fleet_act_reset(void *, char **, int *, GError **);
bool fleet_act_rename(void *, char **, int *, GError **);
bool fleet_act_kill(void *, char **, int *, GError **);
bool fleet_act_rm(void *, char **, int *, GError **);
bool fleet_act_stop(void *, char **, int *, GError **); /* fleet_stop.c */
bool fleet_act_wait(void *, char **, int *, GError **);
bool fleet_act_logs(void *, char **, int *, GError **);    /* fleet_logs.c */
bool fleet_act_console(void *, char **, int *, GError **); /* fleet_console.c */
bool fleet_act_events(void *, char **, int *, GError **);  /* fleet_events.c */
extern const ParamTable fleet_ps_args, fleet_json_args, fleet_all_args, fleet_force_args,
    fleet_stop_args, fleet_wait_args, fleet_logs_args, fleet_console_args,
    fleet_events_args;
extern const char fleet_vm_about[], fleet_console_notes[];
extern const ExitStatus fleet_wait_statuses[];

/* The options of all of them; each verb's table has the rows it wants. */
typedef struct FleetArgs {
    bool json, all, quiet, running, force, follow, monitor, log;
    uint64_t timeout_s;
} FleetArgs;

#define FLEET_ROW(key_, letter_, type_, member_, help_, ...)                             \
    {                                                                                    \
        .key = key_, .letter = letter_, .type = type_,                                   \
        .offset = offsetof(FleetArgs, member_), .help = help_, ##__VA_ARGS__             \
    }
#define FLEET_ROW_JSON FLEET_ROW("json", 0, PARAM_BOOL, json, "print the result as JSON")
#define FLEET_TABLE(name_, ...)                                                          \
    const ParamTable name_ = {                                                           \
        .size = sizeof(FleetArgs),                                                       \
        .desc = (const ParamDesc[]){__VA_ARGS__, {0}},                                   \
    }

/* ---- fleet.c: which VMs, and what is known of them ----------------------------- */

/* The VMs a verb is for, a new list: those that are named (names or sockets' paths), or
 * with --all those of the states in `states`, bits BIT(PlaceState). */
char **fleet_choose(const FleetArgs *args, char **names, unsigned states, GError **error);

/* Does one thing with one VM; fills in *ret (an object that has its name) for --json. */
typedef bool FleetDo(const FleetArgs *args, const char *vm, json_t *ret, GError **error);

/* Does it with all of them, whatever becomes of the others, then prints the JSON.  Of
 * several failures all are told of. */
bool fleet_each(const FleetArgs *args, char **vms, FleetDo *fn, GError **error);

/* The states of VMs, in QMP's words or ours: "running", "paused", "starting" (there is no
 * socket yet), "unresponsive", "dead" and "ended".  NULL: there is no such VM. */
typedef struct FleetVm {
    const char *name;
    PlaceInfo info;
    char state[16];
} FleetVm;

/* Looks at all of them at once; `ret` has room for them.  Those that do not answer cost a
 * second altogether. */
bool fleet_look(char **names, FleetVm *ret, GError **error);

/* A file of a run folder, as JSON; NULL: not there, or not that. */
json_t *fleet_read(const char *name, const char *file);

/* ---- fleet_networks.c ---------------------------------------------------------- */

/* Of an array of objects with a VM's "name" and, if it runs, "pid": adds to those that
 * run "networks", an array of {"network", "id", "mac", "addresses"} of their cards on
 * named networks.  Switches that do not answer cost a second altogether. */
void fleet_add_networks(const json_t *vms);

/* "blue 10.5.0.2, red", a new string; "-": on none. */
char *fleet_networks_text(const json_t *vm);

/* ---- waiting ------------------------------------------------------------------- */

/* Until the process behind a pidfd has ended; false: the time (-1: none) is over. */
bool fleet_wait_pidfd(int pidfd, int64_t deadline_ns);
