/* A VM's start with --warm; see warm.h.
 *
 * What the guest writes to its disks must not reach them: then they would not be any more
 * what its memory, saved after the boot, takes them for.  So they are overlays that go
 * with the VM, booted or restored.
 *
 * Another process waits until a guest has booted and has its monitor save it: the monitor
 * itself waits for nothing, and who runs hutch has it as soon as without --warm.  It ends
 * with its work, or with the VM. */
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent.h"
#include "control/client.h"
#include "snapshot/store.h"
#include "src/cli/test.h"
#include "src/cli/warm.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/log.h"

enum {
    CONNECT_MS = 60 * 1000,
    AGAIN_US = 2000,
    BOOT_MS = 30 * 60 * 1000, /* who is not there by then is not kept */
    SETTLE_MS = 1000,         /* what a boot has begun is to end */
    MAX_SECONDS = 3600,
};

/* NULL or "auto": by the agent if there is one, else boot. */
static bool parse_when(const char *text, bool agent, WarmWhen *ret, GError **error)
{
    guint64 seconds;

    *ret = (WarmWhen){agent ? WARM_AGENT : WARM_BOOT, 0};
    if (!text || g_str_equal(text, "auto"))
        return true;
    if (g_str_equal(text, "boot") || (g_str_equal(text, "agent") && agent)) {
        ret->kind = g_str_equal(text, "boot") ? WARM_BOOT : WARM_AGENT;
        return true;
    }
    if (g_str_equal(text, "agent"))
        return fail(error, VM_ERROR_INVALID,
                    "--warm=agent: the VM has no port for one; give --agent");
    if (!g_ascii_string_to_unsigned(text, 10, 0, MAX_SECONDS, &seconds, NULL))
        return fail(error, VM_ERROR_INVALID,
                    "--warm=%s: auto, boot, agent or a number of seconds is wanted",
                    text);
    *ret = (WarmWhen){WARM_SECONDS, (unsigned)seconds};
    return true;
}

/* ---- keeping --------------------------------------------------------------------------
 */

static ControlClient *connect_to(const char *vm)
{
    int64_t until = clock_ns() + CONNECT_MS * 1000000ll;
    ControlClient *c;

    while (!(c = control_client_connect(vm, NULL)) && clock_ns() < until)
        g_usleep(AGAIN_US);
    return c;
}

/* False: the VM has ended meanwhile. */
static bool pass(ControlClient *c, int64_t ms)
{
    int64_t until = clock_ns() + ms * 1000000;

    for (int64_t left = ms; left > 0; left = (until - clock_ns()) / 1000000) {
        g_autoptr(GError) error = NULL;

        json_decref(control_client_event(c, (int)left, &error));
        if (error)
            return false;
    }
    return true;
}

static bool wait_for_output(ControlClient *c)
{
    int64_t until = clock_ns() + BOOT_MS * 1000000ll;

    while (clock_ns() < until) {
        json_t *event = control_client_event(c, BOOT_MS, NULL);
        bool spoke = g_str_equal(json_get_text(event, "event"), "X_HUTCH_USER_OUTPUT");

        json_decref(event);
        if (spoke || !event)
            return spoke;
    }
    return false;
}

/* The port is free for others again when this returns. */
static bool agent_answers(const char *vm)
{
    g_autoptr(Agent) agent = agent_connect(vm, BOOT_MS, NULL);

    return agent != NULL;
}

static bool has_booted(ControlClient *c, const char *vm, WarmWhen when)
{
    switch (when.kind) {
    case WARM_SECONDS:
        return pass(c, when.seconds * 1000ll);
    case WARM_AGENT:
        return agent_answers(vm) && pass(c, SETTLE_MS);
    case WARM_BOOT:
        break;
    }
    return wait_for_output(c) && pass(c, SETTLE_MS);
}

/* Nobody hears what goes wrong: then the next one boots, too. */
static void keep(const char *vm, WarmWhen when, const char *key, const json_t *inputs)
{
    g_autofree char *folder = store_path(STORE_WARM, key, NULL);
    g_autoptr(ControlClient) c = connect_to(vm);
    json_t *reply = NULL;

    if (c && folder && has_booted(c, vm, when) && store_make_parent(folder, NULL) &&
        warm_write(key, inputs, NULL))
        reply = control_client_call(c, "x-hutch-snapshot-create",
                                    json_pack("{s:s}", "name", folder), NULL);
    json_decref(reply);
    warm_prune();
}

/* Twice, so that it is nobody's child. */
static void start_keeper(const char *vm, WarmWhen when, const char *key,
                         const json_t *inputs)
{
    pid_t pid = fork();
    int null;

    if (pid) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        return;
    }
    if (fork() == 0) {
        setsid();
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
            dup2(null, fd);
        close_range(STDERR_FILENO + 1, ~0u, 0);
        keep(vm, when, key, inputs);
    }
    _exit(0);
}

/* ---- beginning ------------------------------------------------------------------------
 */

/* Takes another Config's place, with what is not an option. */
static bool exchange(Config **cfg, json_t *json, GError **error)
{
    Config *changed = config_from_json(json, error), *old = *cfg;

    if (!changed)
        return false;
    changed->run_folder = old->run_folder;
    changed->agent_socket = g_strdup(old->agent_socket);
    *cfg = changed;
    config_free(old);
    return true;
}

/* What a kept one is not fit for is said only to who looks for it. */
static SnapshotRestore *go_on(const char *key, Config **cfg, const Place *place)
{
    const RestoreOptions how = {.clock = CLOCK_CATCH_UP};
    g_autofree char *folder = store_find(STORE_WARM, key, NULL);
    g_autoptr(Config) saved = config_new();
    g_autoptr(SnapshotRestore) r = NULL;
    g_autoptr(GError) error = NULL;
    json_t *json;
    bool ok;

    if (!folder)
        return NULL;
    r = snapshot_restore_open(folder, &how, saved, &error);
    json = config_to_json(*cfg);
    test_throwaway_disks(json);
    ok = r && exchange(cfg, json, &error) &&
         snapshot_restore_disks(r, *cfg, place->folder, NULL, &error);
    json_decref(json);
    if (ok) {
        warm_touch(key);
        return g_steal_pointer(&r);
    }
    log_debug("warm: %s", error->message);
    g_clear_pointer(&r, snapshot_restore_free);
    warm_remove(key, NULL);
    return NULL;
}

static bool boot(Config **cfg, const Place *place, GError **error)
{
    json_t *json = config_to_json(*cfg);
    bool ok = test_overlay_disks(json, place->folder, error) &&
              exchange(cfg, json, error);

    json_decref(json);
    return ok;
}

bool warm_begin(const char *text, Config **cfg, const Place *place,
                SnapshotRestore **ret_restore, GError **error)
{
    g_autofree char *key = NULL;
    json_t *inputs;
    WarmWhen when;
    bool ok = true;

    if (!place->folder)
        return fail(error, VM_ERROR_INVALID,
                    "--warm: the VM needs a run folder, for what it writes to its disks; "
                    "give --name");
    if (!parse_when(text, (*cfg)->agent, &when, error))
        return false;
    inputs = warm_inputs(*cfg, text ? text : "auto");
    key = warm_key(inputs);
    *ret_restore = go_on(key, cfg, place);
    if (!*ret_restore) {
        ok = boot(cfg, place, error);
        if (ok)
            start_keeper((*cfg)->name, when, key, inputs);
    }
    json_decref(inputs);
    return ok;
}
