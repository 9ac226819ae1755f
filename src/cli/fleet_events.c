/* hutch events: what happens to one VM, or to all of them, one event a line.
 *
 * With --follow, VMs that come later are found by inotify: a new folder, then in it a
 * config.json, which a monitor writes when its socket is there. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "src/cli/fleet.h"
#include "src/cli/interrupt.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/json.h"
#include "util/log.h"

FLEET_TABLE(fleet_events_args, FLEET_ROW_JSON,
            FLEET_ROW("follow", 'f', PARAM_BOOL, follow,
                      "go on when they have ended, with those that are started later"));

typedef struct Source {
    char *vm;
    ControlClient *client;
} Source;

typedef struct Events {
    const FleetArgs *args;
    GPtrArray *sources; /* Source */
    int notify;         /* -1: no --follow */
} Events;

static void source_free(void *opaque)
{
    Source *s = opaque;

    control_client_free(s->client);
    g_free(s->vm);
    g_free(s);
}

static bool listens(const Events *e, const char *vm)
{
    for (unsigned i = 0; i < e->sources->len; i++)
        if (g_str_equal(((Source *)e->sources->pdata[i])->vm, vm))
            return true;
    return false;
}

static bool add(Events *e, const char *vm, GError **error)
{
    ControlClient *client = control_client_connect(vm, error);
    Source *s;

    if (!client)
        return false;
    s = g_new0(Source, 1);
    s->vm = g_strdup(vm);
    s->client = client;
    g_ptr_array_add(e->sources, s);
    return true;
}

static void print_text(const char *vm, const json_t *event)
{
    json_t *stamp = json_object_get(event, "timestamp");
    time_t seconds = (time_t)json_integer_value(json_object_get(stamp, "seconds"));
    json_t *data = json_object_get(event, "data");
    char *more = data ? json_dumps(data, JSON_COMPACT) : NULL;
    struct tm local;
    char when[32] = "";

    if (localtime_r(&seconds, &local))
        strftime(when, sizeof(when), "%F %T", &local);
    printf("%s.%03d  %-12s  %s%s%s\n", when,
           (int)(json_integer_value(json_object_get(stamp, "microseconds")) / 1000), vm,
           json_get_text(event, "event"), more ? "  " : "", more ? more : "");
    free(more);
}

static void print_event(const Events *e, const char *vm, json_t *event)
{
    if (e->args->json) {
        json_object_set_new(event, "vm", json_string(vm));
        json_dumpf(event, stdout, JSON_COMPACT | cli_json_flags());
        putchar('\n');
    } else {
        print_text(vm, event);
    }
    fflush(stdout); /* who reads it may be waiting */
}

/* What it has said; false when it has ended. */
static bool print_events(const Events *e, Source *s)
{
    g_autoptr(GError) error = NULL;
    json_t *event;

    while ((event = control_client_event(s->client, 0, &error))) {
        print_event(e, s->vm, event);
        json_decref(event);
    }
    return !error;
}

/* ---- --follow ------------------------------------------------------------------ */

static void look_for_new(Events *e)
{
    g_autofree char *parent = place_parent("", NULL);
    g_auto(GStrv) names = place_list(NULL);

    for (char **name = names; name && *name; name++) {
        g_autofree char *folder = g_build_filename(parent, *name, NULL);
        PlaceInfo info;

        inotify_add_watch(e->notify, folder, IN_MOVED_TO | IN_ONLYDIR);
        if (!listens(e, *name) && place_look(*name, &info, NULL) &&
            info.state == PLACE_RUNNING)
            add(e, *name, NULL); /* else it is heard of again */
    }
}

static bool begin_to_follow(Events *e, GError **error)
{
    g_autofree char *parent = place_parent("", error);

    if (!parent)
        return false;
    g_mkdir_with_parents(parent, 0700);
    e->notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    return (e->notify >= 0 &&
            inotify_add_watch(e->notify, parent, IN_CREATE | IN_MOVED_TO) >= 0) ||
           fail_errno(error, "watch '%s'", parent);
}

/* ---- all together -------------------------------------------------------------- */

static bool wait_for_events(Events *e)
{
    unsigned n = e->sources->len;
    g_autofree struct pollfd *polls = g_new0(struct pollfd, n + 1);
    char drain[4096];

    for (unsigned i = 0; i < n; i++)
        polls[i] = (struct pollfd){
            .fd = control_client_fd(((Source *)e->sources->pdata[i])->client),
            .events = POLLIN};
    polls[n] = (struct pollfd){.fd = e->notify, .events = POLLIN};
    if (poll(polls, n + 1, -1) < 0)
        return false;
    for (unsigned i = n; i-- > 0;)
        if (polls[i].revents && !print_events(e, e->sources->pdata[i]))
            g_ptr_array_remove_index(e->sources, i);
    if (polls[n].revents) {
        while (read(e->notify, drain, sizeof(drain)) > 0)
            ;
        look_for_new(e);
    }
    return true;
}

static bool add_all(Events *e, char **names, GError **error)
{
    g_auto(GStrv) all = fleet_choose(&(FleetArgs){.all = !*names}, names,
                                     BIT(PLACE_RUNNING), error);

    if (!all)
        return false;
    for (char **vm = all; *vm; vm++) {
        g_autoptr(GError) inner = NULL;

        if (add(e, *vm, &inner))
            continue;
        if (*names) {
            g_propagate_error(error, g_steal_pointer(&inner));
            return false;
        }
        log_warn("%s", inner->message);
    }
    return true;
}

bool fleet_act_events(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    Events e = {.args = args,
                .sources = g_ptr_array_new_with_free_func(source_free),
                .notify = -1};
    bool ok = true;

    if (args->follow && *names)
        ok = fail(error, VM_ERROR_INVALID,
                  "--follow is for all VMs; without it events of '%s' are told until it "
                  "ends",
                  *names);
    if (ok && args->follow)
        ok = begin_to_follow(&e, error);
    ok = ok && add_all(&e, names, error);
    if (ok && args->follow)
        look_for_new(&e);
    interrupt_watch();
    for (unsigned i = 0; ok && i < e.sources->len; i++)
        print_events(&e, e.sources->pdata[i]); /* came with the greeting */
    while (ok && !interrupt_signal() && (e.sources->len || args->follow))
        wait_for_events(&e);
    g_ptr_array_free(e.sources, TRUE);
    fd_close(&e.notify);
    return ok;
}
