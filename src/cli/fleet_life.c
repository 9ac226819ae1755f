/* hutch pause, resume, reset, rename, kill and rm: what is done at once. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/agent.h"
#include "control/ask.h"
#include "src/cli/fleet.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/log.h"

enum {
    QUIT_MS = 5000,
    AGENT_MS = 2000,
};

const char fleet_vm_about[] =
    "VM is a name, or the path of a control socket, with a '/' in it.";

FLEET_TABLE(fleet_all_args, FLEET_ROW_JSON,
            FLEET_ROW("all", 'a', PARAM_BOOL, all, "all VMs that run"));
FLEET_TABLE(fleet_force_args, FLEET_ROW_JSON,
            FLEET_ROW("all", 'a', PARAM_BOOL, all,
                      "all that have ended, or died; with --force all VMs"),
            FLEET_ROW("force", 'f', PARAM_BOOL, force, "a VM that runs as well"));

/* ---- by the control socket ----------------------------------------------------- */

static bool tell(const char *vm, const char *command, json_t *ret, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(vm, error);
    json_t *reply = c ? control_client_call(c, command, NULL, error) : NULL;
    json_t *now = reply ? control_client_call(c, "query-status", NULL, NULL) : NULL;

    if (now)
        json_object_set(ret, "state", json_object_get(now, "status"));
    json_decref(now);
    json_decref(reply);
    return reply != NULL;
}

static bool do_pause(const FleetArgs *args, const char *vm, json_t *ret, GError **error)
{
    return tell(vm, "stop", ret, error);
}

/* A guest that stood still has lost the time of day: its agent, if it has one, sets it.
 * It goes on without, too. */
static void set_clock(const char *vm, json_t *ret)
{
    g_autofree char *path = strchr(vm, '/') ? NULL : place_file(vm, AGENT_SOCKET, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(Agent) agent = NULL;

    if (!path || !g_file_test(path, G_FILE_TEST_EXISTS))
        return;
    agent = agent_connect(vm, AGENT_MS, &error);
    if (agent && agent_set_clock(agent, &error))
        json_object_set_new(ret, "clock", json_string("set"));
    else
        log_warn("VM '%s' goes on, but its clock is not set: %s", vm, error->message);
}

/* One that had not begun yet (--paused) has lost nothing. */
static bool stands_still(const char *vm)
{
    ControlAnswer was = {.vm = vm};
    bool paused;

    control_ask(&was, 1, "query-status", AGENT_MS);
    paused = g_str_equal(json_get_text(was.value, "status"), "paused");
    control_answers_clear(&was, 1);
    return paused;
}

static bool do_resume(const FleetArgs *args, const char *vm, json_t *ret, GError **error)
{
    bool stood = stands_still(vm);

    if (!tell(vm, "cont", ret, error))
        return false;
    if (stood)
        set_clock(vm, ret);
    return true;
}

static bool do_reset(const FleetArgs *args, const char *vm, json_t *ret, GError **error)
{
    return tell(vm, "system_reset", ret, error);
}

static bool with_each(const FleetArgs *args, char **names, unsigned states, FleetDo *fn,
                      GError **error)
{
    g_auto(GStrv) vms = fleet_choose(args, names, states, error);

    return vms && fleet_each(args, vms, fn, error);
}

bool fleet_act_pause(void *options, char **names, int *status, GError **error)
{
    return with_each(options, names, BIT(PLACE_RUNNING), do_pause, error);
}

bool fleet_act_resume(void *options, char **names, int *status, GError **error)
{
    return with_each(options, names, BIT(PLACE_RUNNING), do_resume, error);
}

bool fleet_act_reset(void *options, char **names, int *status, GError **error)
{
    return with_each(options, names, BIT(PLACE_RUNNING), do_reset, error);
}

bool fleet_act_rename(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    g_autoptr(ControlClient) c = NULL;
    PlaceInfo info;
    json_t *reply;

    if (!place_look(names[0], &info, error) || !place_check_name(names[1], error))
        return false;
    if (info.state == PLACE_ENDED) {
        if (!place_move(names[0], names[1], error))
            return false;
    } else if (info.state == PLACE_RUNNING) {
        c = control_client_connect(names[0], error);
        reply = c ? control_client_call(c, "x-hutch-rename",
                                        json_pack("{s:s}", "name", names[1]), error)
                  : NULL;
        json_decref(reply);
        if (!reply)
            return false;
    } else {
        return place_fail(names[0], info.state, error);
    }
    if (args->json)
        cli_print_json(json_pack("{s:s}", "name", names[1]));
    return true;
}

/* ---- by force ------------------------------------------------------------------ */

static bool kill_pidfd(int pidfd, const char *vm, GError **error)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return fail_errno(error, "VM '%s': kill its monitor", vm);
    return fleet_wait_pidfd(pidfd, clock_ns() + QUIT_MS * 1000000ll) ||
           fail(error, VM_ERROR_BUSY,
                "VM '%s': its monitor was killed but does not go; the kernel holds it, "
                "most likely for a disk that does not answer",
                vm);
}

/* By its name, and never another process that has its number. */
static bool do_kill(const FleetArgs *args, const char *vm, json_t *ret, GError **error)
{
    PlaceInfo info;
    autofd pidfd = -1;

    if (!place_look(vm, &info, error))
        return false;
    if (info.state != PLACE_RUNNING)
        return place_fail(vm, info.state, error);
    pidfd = place_pidfd(vm, error);
    return pidfd >= 0 && kill_pidfd(pidfd, vm, error);
}

bool fleet_act_kill(void *options, char **names, int *status, GError **error)
{
    return with_each(options, names, BIT(PLACE_RUNNING), do_kill, error);
}

/* ---- rm ------------------------------------------------------------------------ */

/* Well if possible: a monitor that ends itself writes out what disks have, and takes its
 * helpers with it. */
static bool end_it(const char *vm, GError **error)
{
    autofd pidfd = place_pidfd(vm, NULL);
    g_autoptr(ControlClient) c = pidfd < 0 ? NULL : control_client_connect(vm, NULL);
    json_t *reply;

    if (pidfd < 0)
        return true; /* it has ended meanwhile */
    reply = c ? control_client_call(c, "quit", NULL, NULL) : NULL;
    json_decref(reply);
    if (reply && fleet_wait_pidfd(pidfd, clock_ns() + QUIT_MS * 1000000ll))
        return true;
    return kill_pidfd(pidfd, vm, error);
}

static bool do_rm(const FleetArgs *args, const char *vm, json_t *ret, GError **error)
{
    PlaceInfo info;
    Place place;

    if (!place_look(vm, &info, error))
        return false;
    if (info.state == PLACE_RUNNING && !args->force)
        return fail(error, VM_ERROR_BUSY,
                    "the VM '%s' runs; 'hutch stop %s' first, or give --force", vm, vm);
    if (info.state == PLACE_RUNNING && !end_it(vm, error))
        return false;
    if (info.state == PLACE_NONE)
        return place_tidy(vm) || place_fail(vm, PLACE_NONE, error);
    if (!place_claim(&place, vm, error))
        return false;
    place_release(&place);
    return true;
}

bool fleet_act_rm(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    unsigned over = BIT(PLACE_DEAD) | BIT(PLACE_ENDED);

    return with_each(args, names, args->force ? over | BIT(PLACE_RUNNING) : over, do_rm,
                     error);
}
