/* hutch snapshot create */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "control/client.h"
#include "snapshot/store.h"
#include "src/cli/image.h"
#include "src/cli/snapshot.h"
#include "util/json.h"

enum { TICK_MS = 100, PAGE = 4096 };

typedef struct CreateArgs {
    bool json, quiet, diff, disks, no_disks, stop;
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

/* ---- how far it is --------------------------------------------------------------------
 */

/* A second session: the first one waits. */
typedef struct Watch {
    ControlClient *client;
    Progress progress;
} Watch;

static void tick(Watch *w)
{
    json_t *now = control_client_call(w->client, "x-hutch-query-snapshot", NULL, NULL);
    json_int_t done = json_integer_value(json_object_get(now, "pages"));
    json_int_t total = json_integer_value(json_object_get(now, "total"));

    if (g_str_equal(json_get_text(now, "stage"), "copy") && total > 0) {
        w->progress.total = (uint64_t)total * PAGE;
        atomic_store(&w->progress.done, (uint64_t)done * PAGE);
        progress_tick(&w->progress);
    }
    json_decref(now);
}

typedef struct Call {
    const char *vm;
    json_t *arguments; /* taken */
    json_t *ret;
    GError *error;
    bool over; /* atomic */
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

static bool call_watched(Call *c, const CreateArgs *args, GError **error)
{
    const ImageArgs shown = {.quiet = args->quiet || args->json};
    Watch w = {.client = control_client_connect(c->vm, error)};
    pthread_t thread;

    if (!w.client) {
        json_decref(c->arguments);
        return false;
    }
    progress_begin(&w.progress, &shown, "snapshot", 0);
    if (!w.progress.shown || pthread_create(&thread, NULL, call_thread, c) != 0) {
        call_thread(c);
    } else {
        while (!__atomic_load_n(&c->over, __ATOMIC_ACQUIRE)) {
            g_usleep(TICK_MS * 1000);
            tick(&w);
        }
        pthread_join(thread, NULL);
    }
    progress_end(&w.progress);
    control_client_free(w.client);
    if (!c->ret)
        g_propagate_error(error, c->error);
    return c->ret != NULL;
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
    Call c = {.vm = names[0]};
    bool ok;

    if (!folder)
        return false;
    if (args->disks && args->no_disks)
        return fail(error, VM_ERROR_INVALID,
                    "--disks and --no-disks: give one of the two");
    c.arguments = json_pack("{s:s, s:b, s:b, s:b, s:s}", "name", folder, "diff",
                            args->diff, "no-disks", args->no_disks, "stop", args->stop,
                            "compress", encodings[args->compress]);
    if (!c.arguments)
        return fail(error, VM_ERROR_INVALID, "'%s' is not UTF-8, as a path is to be here",
                    names[1]);
    ok = call_watched(&c, args, error);
    if (ok && args->json)
        cli_print_json(json_incref(c.ret));
    else if (ok && !args->quiet)
        print(c.ret, names[1]);
    json_decref(c.ret);
    return ok;
}
