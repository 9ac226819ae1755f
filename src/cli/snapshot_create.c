/* hutch snapshot create */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "control/client.h"
#include "snapshot/store.h"
#include "src/cli/fleet.h"
#include "src/cli/freeze.h"
#include "src/cli/image.h"
#include "src/cli/snapshot.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/log.h"

enum { TICK_MS = 100, STOP_MS = 10 * 1000, PAGE = 4096 };

typedef struct CreateArgs {
    bool json, quiet, diff, disks, no_disks, freeze, stop;
    int compress;
} CreateArgs;

static const char *const encodings[] = {"none", "zstd", NULL};

#define ROW(key_, member_, help_)                                                        \
    {                                                                                    \
        .key = key_, .type = PARAM_BOOL, .offset = offsetof(CreateArgs, member_),        \
        .help = help_                                                                    \
    }
const ParamTable snapshot_create_args = {
    .size = sizeof(CreateArgs),
    .desc =
        (const ParamDesc[]){
            ROW("json", json, "print the result as JSON"),
            ROW("quiet", quiet, "print nothing but errors"),
            ROW("diff", diff, "only what changed since the VM's last snapshot"),
            ROW("disks", disks, "with the disks, which is the default"),
            ROW("no-disks", no_disks, "save memory and devices, and leave disks alone"),
            ROW("freeze", freeze, "let the guest's agent freeze its file systems for it"),
            ROW("stop", stop, "do not let the guest go on, and end the VM"),
            {.key = "compress",
             .type = PARAM_ENUM,
             .offset = offsetof(CreateArgs, compress),
             .choices = encodings,
             .def = "none",
             .help = "of memory"},
            {0}},
};

const char snapshot_create_about[] =
    "NAME is that of a folder NAME.snap in ${HUTCH_SNAPSHOTS} or "
    "${XDG_DATA_HOME:-~/.local/share}/hutch/snapshots, or the path of a folder, with a "
    "'/' in it.  The guest stands still for the milliseconds that the rest of its memory "
    "and its devices take.";

/* ---- making it, and watching how far it is --------------------------------------------
 */

/* The command waits for its answer on a session and a thread of its own. */
typedef struct Call {
    const char *vm;
    json_t *arguments; /* taken */
    json_t *ret;
    GError *error;
    bool over; /* atomic */
    int pidfd; /* of the monitor */
} Call;

static void *call_thread(void *opaque)
{
    Call *c = opaque;
    g_autoptr(ControlClient) client = control_client_connect(c->vm, &c->error);

    if (client)
        c->ret = control_client_call(client, "x-hutch-snapshot-create", c->arguments,
                                     &c->error);
    else
        json_decref(c->arguments);
    __atomic_store_n(&c->over, true, __ATOMIC_RELEASE);
    return NULL;
}

static void tick(ControlClient *client, Progress *p)
{
    json_t *now = control_client_call(client, "x-hutch-query-snapshot", NULL, NULL);
    json_int_t done = json_integer_value(json_object_get(now, "pages"));
    json_int_t total = json_integer_value(json_object_get(now, "total"));

    if (g_str_equal(json_get_text(now, "stage"), "copy") && total > 0) {
        p->total = (uint64_t)total * PAGE;
        atomic_store(&p->done, (uint64_t)done * PAGE);
        progress_tick(p);
    }
    json_decref(now);
}

/* False: it is over. */
static bool hear(ControlClient *client, Freeze *freeze)
{
    g_autoptr(GError) error = NULL;
    json_t *event = control_client_event(client, TICK_MS, &error);
    const char *stage = json_get_text(json_object_get(event, "data"), "stage");
    bool more = !error && !g_str_equal(stage, "done") && !g_str_equal(stage, "failed");

    /* The instant is over: what the guest writes from now on is not in it. */
    if (g_str_equal(stage, "finish") && !freeze_end(freeze, true, "the snapshot", &error))
        log_warn("%s", error->message);
    json_decref(event);
    return more;
}

static bool call_watched(Call *c, const CreateArgs *args, Freeze *freeze, GError **error)
{
    const ImageArgs shown = {.quiet = args->quiet || args->json};
    g_autoptr(ControlClient) client = control_client_connect(c->vm, error);
    Progress progress;
    pthread_t thread;
    int err;

    if (!client) {
        json_decref(c->arguments);
        return false;
    }
    c->pidfd = control_client_pidfd(client, NULL);
    progress_begin(&progress, &shown, "snapshot", 0);
    err = pthread_create(&thread, NULL, call_thread, c);
    if (err) {
        json_decref(c->arguments);
        errno = err;
        return fail_errno(error, "start a thread");
    }
    while (!__atomic_load_n(&c->over, __ATOMIC_ACQUIRE) && hear(client, freeze))
        if (progress.shown)
            tick(client, &progress);
    pthread_join(thread, NULL);
    progress_end(&progress);
    if (!c->ret)
        g_propagate_error(error, c->error);
    return c->ret != NULL;
}

static bool call_frozen(Call *c, const CreateArgs *args, GError **error)
{
    Freeze freeze = {0};
    bool ok;

    if (args->freeze && !freeze_begin(&freeze, c->vm, error)) {
        json_decref(c->arguments);
        return freeze_end(&freeze, false, "", error);
    }
    ok = call_watched(c, args, &freeze, error);
    return freeze_end(&freeze, ok, "the snapshot", error);
}

/* ---- the verb -------------------------------------------------------------------------
 */

static json_int_t number(const json_t *result, const char *key)
{
    return json_integer_value(json_object_get(result, key));
}

static void print(const json_t *result, const char *name)
{
    g_autofree char *size = image_size_text((guint64)number(result, "kept-pages") * PAGE);

    printf("%s: %s of memory in %.3f s, %d %s; the guest stood still for %.1f ms\n", name,
           size, (double)number(result, "total-us") / 1e6, (int)number(result, "rounds"),
           number(result, "rounds") == 1 ? "round" : "rounds",
           (double)number(result, "pause-us") / 1e3);
}

bool snapshot_act_create(void *options, char **names, int *status, GError **error)
{
    const CreateArgs *args = options;
    g_autofree char *folder = store_path(STORE_SNAPSHOTS, names[1], error);
    Call c = {.vm = names[0], .pidfd = -1};
    bool ok;

    if (!folder)
        return false;
    if (args->disks && args->no_disks)
        return fail(error, VM_ERROR_INVALID,
                    "--disks and --no-disks: give one of the two");
    c.arguments = json_pack("{s:s, s:b, s:b, s:b, s:b, s:s}", "name", folder, "diff",
                            args->diff, "no-disks", args->no_disks, "frozen",
                            args->freeze, "stop", args->stop, "compress",
                            encodings[args->compress]);
    if (!c.arguments)
        return fail(error, VM_ERROR_INVALID, "'%s' is not UTF-8, as a path is to be here",
                    names[1]);
    ok = call_frozen(&c, args, error);
    if (ok && args->stop && c.pidfd >= 0) /* its name and disks are free then */
        fleet_wait_pidfd(c.pidfd, clock_ns() + STOP_MS * 1000000ll);
    fd_close(&c.pidfd);
    if (ok && args->json)
        cli_print_json(json_incref(c.ret));
    else if (ok && !args->quiet)
        print(c.ret, names[1]);
    json_decref(c.ret);
    return ok;
}
