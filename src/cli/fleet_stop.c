/* hutch stop and wait: until a VM has ended.  Both wait for the monitor's process, not
 * only for what it says, so that afterwards its name is free. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/fleet.h"
#include "src/cli/waiting.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/log.h"

enum {
    SHOW_AFTER_MS = 400,
    LOG_AFTER_MS = 2000,
    PRESS_AGAIN_MS = 3000, /* a guest that boots may not have listened yet */
    QUIT_MS = 10000,
    WAIT_LOG_EVERY_MS = 60000, /* that may take days */
};
#define MS 1000000ll

/* ---- stop ---------------------------------------------------------------------- */

FLEET_TABLE(fleet_stop_args, FLEET_ROW_JSON,
            FLEET_ROW("all", 'a', PARAM_BOOL, all, "all VMs that run"),
            FLEET_ROW("timeout", 't', PARAM_UINT, timeout_s,
                      "give the guest so long to power off", .arg = "SECONDS",
                      .def = "30", .max = 1000 * 1000),
            FLEET_ROW("force", 'f', PARAM_BOOL, force,
                      "pull the plug when that time is over"));

typedef struct Stopping {
    const char *vm;
    ControlClient *client;
    int pidfd; /* -1: it has ended, or could not be asked */
    char *failure;
} Stopping;

typedef struct Stop {
    const FleetArgs *args;
    Stopping *all;
    struct pollfd *polls;
    unsigned n;
    int64_t started_ns, deadline_ns, pressed_ns, shown_ns;
    bool drawn;
} Stop;

static bool tell(Stopping *s, const char *command, GError **error)
{
    json_t *reply = control_client_call(s->client, command, NULL, error);

    json_decref(reply);
    return reply != NULL;
}

/* A paused guest cannot react: it is let go for it. */
static bool press(Stopping *s, GError **error)
{
    return tell(s, "cont", error) && tell(s, "system_powerdown", error);
}

static void give_up_asking(Stopping *s, GError *error)
{
    if (!g_error_matches(error, VM_ERROR, VM_ERROR_NOT_FOUND)) /* it ends */
        s->failure = g_strdup(error->message);
    g_error_free(error);
    if (s->failure)
        fd_close(&s->pidfd);
}

static void begin(Stopping *s)
{
    g_autoptr(GError) error = NULL;
    PlaceInfo info;

    s->pidfd = -1;
    if (!strchr(s->vm, '/') && place_look(s->vm, &info, NULL) &&
        (info.state == PLACE_ENDED || info.state == PLACE_DEAD))
        return; /* that is what was wanted */
    s->client = control_client_connect(s->vm, &error);
    if (s->client)
        s->pidfd = control_client_pidfd(s->client, &error);
    if (s->pidfd < 0)
        s->failure = g_strdup(error->message);
}

static void press_all(Stop *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        GError *error = NULL;

        if (t->all[i].pidfd >= 0 && !press(&t->all[i], &error))
            give_up_asking(&t->all[i], error);
    }
    t->pressed_ns = clock_ns();
}

static unsigned count_left(const Stop *t)
{
    unsigned left = 0;

    for (unsigned i = 0; i < t->n; i++)
        left += t->all[i].pidfd >= 0;
    return left;
}

static void show(Stop *t)
{
    int64_t now = clock_ns();
    bool tty = isatty(STDERR_FILENO);
    int left_s = (clock_left_ms(t->deadline_ns) + 999) / 1000;

    if (now - t->started_ns < (tty ? SHOW_AFTER_MS : LOG_AFTER_MS) * MS ||
        (!tty && now - t->shown_ns < 1000 * MS))
        return;
    t->shown_ns = now;
    t->drawn = tty;
    if (tty)
        fprintf(stderr, "\rstop: %u of %u left, %d s\033[K", count_left(t), t->n, left_s);
    else
        log_info("stop: %u of %u left, %d s", count_left(t), t->n, left_s);
}

/* Waits a moment for processes to end. */
static void look(Stop *t, int timeout_ms)
{
    for (unsigned i = 0; i < t->n; i++)
        t->polls[i] = (struct pollfd){.fd = t->all[i].pidfd, .events = POLLIN};
    poll(t->polls, t->n, timeout_ms);
    for (unsigned i = 0; i < t->n; i++)
        if (t->polls[i].revents)
            fd_close(&t->all[i].pidfd);
}

static void wait_until(Stop *t, int64_t deadline_ns, bool press_again)
{
    t->deadline_ns = deadline_ns;
    while (count_left(t) && clock_ns() < deadline_ns) {
        int tick = isatty(STDERR_FILENO) ? SHOW_AFTER_MS : 1000;

        look(t, MIN(clock_left_ms(deadline_ns), tick));
        show(t);
        if (press_again && clock_ns() - t->pressed_ns > PRESS_AGAIN_MS * MS)
            press_all(t);
    }
    if (t->drawn)
        fputs("\r\033[K", stderr);
    t->drawn = false;
}

static void pull_the_plug(Stop *t)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->all[i].pidfd >= 0)
            tell(&t->all[i], "quit", NULL);
    wait_until(t, clock_ns() + QUIT_MS * MS, false);
}

/* What became of one, as fleet_each() wants it. */
static Stop *stopped;

static bool report(const FleetArgs *args, const char *vm, json_t *ret, GError **error)
{
    const Stopping *s = stopped->all;

    while (!g_str_equal(s->vm, vm))
        s++;
    if (s->failure)
        return fail(error, VM_ERROR_NOT_FOUND, "%s", s->failure);
    if (s->pidfd < 0)
        return true;
    return fail(error, VM_ERROR_BUSY,
                args->force ? "VM '%s': it does not end though its plug was pulled; "
                              "'hutch kill' ends it"
                            : "VM '%s': its guest did not power off in time; give it "
                              "longer (--timeout), or pull the plug (--force)",
                vm);
}

bool fleet_act_stop(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    g_auto(GStrv) vms = fleet_choose(args, names, BIT(PLACE_RUNNING), error);
    Stop t = {.args = args, .started_ns = clock_ns()};
    bool ok;

    if (!vms)
        return false;
    t.n = g_strv_length(vms);
    t.all = g_new0(Stopping, t.n);
    t.polls = g_new0(struct pollfd, t.n);
    for (unsigned i = 0; i < t.n; i++) {
        t.all[i].vm = vms[i];
        begin(&t.all[i]);
    }
    press_all(&t);
    wait_until(&t, t.started_ns + (int64_t)args->timeout_s * 1000 * MS, true);
    if (args->force)
        pull_the_plug(&t);
    stopped = &t;
    ok = fleet_each(args, vms, report, error);
    for (unsigned i = 0; i < t.n; i++) {
        control_client_free(t.all[i].client);
        fd_close(&t.all[i].pidfd);
        g_free(t.all[i].failure);
    }
    g_free(t.all);
    g_free(t.polls);
    return ok;
}

/* ---- wait ---------------------------------------------------------------------- */

FLEET_TABLE(fleet_wait_args, FLEET_ROW_JSON,
            FLEET_ROW("timeout", 't', PARAM_UINT, timeout_s,
                      "wait no longer, and end with status 124", .arg = "SECONDS",
                      .max = 1000 * 1000));

const ExitStatus fleet_wait_statuses[] = {
    {"0-127, 143...", "the VM's own, as hutch run would have had it"},
    {"124", "the time of --timeout was over, or the VM's own was"},
    {"125", "there is no such VM, its monitor was killed, or it ended so"},
    {0},
};

/* Listens until the VM hangs up; *ret gets what it says of its end, if it does.  False:
 * the time is over. */
static bool listen_until(ControlClient *c, int64_t deadline_ns, json_t **ret)
{
    g_autoptr(GError) error = NULL;
    json_t *event;

    while ((event = control_client_event(c, clock_left_ms(deadline_ns), &error))) {
        if (g_str_equal(json_get_text(event, "event"), "X_HUTCH_RESULT")) {
            json_decref(*ret);
            *ret = json_incref(json_object_get(event, "data"));
        }
        json_decref(event);
    }
    return error != NULL;
}

typedef enum { ENDED, RUNS_ON, FAILED } Outcome;

/* A VM that was detached tells afterwards, others only those who listened. */
static Outcome wait_for(const char *vm, int64_t deadline_ns, json_t **ret, GError **error)
{
    bool named = !strchr(vm, '/');
    PlaceInfo info = {.state = PLACE_RUNNING};
    g_autoptr(ControlClient) c = NULL;
    g_autoptr(GError) inner = NULL;
    autofd pidfd = -1;

    if (named && !place_look(vm, &info, error))
        return FAILED;
    if (info.state == PLACE_RUNNING) {
        c = control_client_connect(vm, &inner);
        pidfd = named ? place_pidfd(vm, NULL) : c ? control_client_pidfd(c, NULL) : -1;
        if (c && !listen_until(c, deadline_ns, ret))
            return RUNS_ON;
        if (pidfd >= 0 && !fleet_wait_pidfd(pidfd, deadline_ns))
            return RUNS_ON;
    }
    if (!*ret && named)
        *ret = fleet_read(vm, PLACE_RESULT);
    if (*ret)
        return ENDED;
    if (named && info.state == PLACE_RUNNING && !place_look(vm, &info, error))
        return FAILED;
    if (!c && inner && info.state != PLACE_DEAD) {
        g_propagate_error(error, g_steal_pointer(&inner));
        return FAILED;
    }
    if (info.state == PLACE_NONE)
        place_fail(vm, PLACE_NONE, error);
    else
        fail(error, VM_ERROR_NOT_FOUND,
             "the VM '%s' does not run any more: its monitor was killed", vm);
    return FAILED;
}

bool fleet_act_wait(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    int64_t deadline_ns = args->timeout_s
                              ? clock_ns() + (int64_t)args->timeout_s * 1000 * MS
                              : -1;
    g_autofree char *what = g_strdup_printf("wait: VM '%s' runs", names[0]);
    json_t *result = NULL;
    Outcome outcome;
    Waiting waiting;

    waiting_begin(&waiting, what, WAIT_LOG_EVERY_MS);
    outcome = wait_for(names[0], deadline_ns, &result, error);
    waiting_end(&waiting);
    switch (outcome) {
    case ENDED:
        *status = (int)json_integer_value(json_object_get(result, "status"));
        if (args->json) {
            cli_print_json(result);
            return true;
        }
        printf("%s: %s\n", json_get_text(result, "reason"),
               json_get_text(result, "detail"));
        json_decref(result);
        return true;
    case RUNS_ON:
        json_decref(result);
        *status = EXIT_TIMEOUT;
        return fail(error, VM_ERROR_BUSY,
                    "the VM '%s' has not ended after %" G_GUINT64_FORMAT " s", names[0],
                    args->timeout_s);
    case FAILED:
        json_decref(result);
        break;
    }
    return false;
}
