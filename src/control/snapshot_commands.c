/* Saving the VM into a snapshot's folder: hutch's own commands, which `hutch snapshot`
 * uses.  See docs/snapshots.md. */
#include "control/control.h"
#include "snapshot/save.h"
#include "snapshot/store.h"
#include "util/json.h"

static const char *const encodings[] = {"none", "zstd", NULL};

typedef struct CreateArgs {
    char *name;
    int compress;
    bool diff, no_disks, stop, frozen;
} CreateArgs;

#define ARG(key_, type_, member_, help_, ...)                                            \
    {                                                                                    \
        .key = key_, .type = type_, .offset = offsetof(CreateArgs, member_),             \
        .help = help_, ##__VA_ARGS__                                                     \
    }
static const ParamTable create_args = {
    .size = sizeof(CreateArgs),
    .desc =
        (const ParamDesc[]){
            ARG("name", PARAM_STRING, name,
                "a name in the store, or the path of a folder, with a '/' in it",
                .required = true),
            ARG("diff", PARAM_BOOL, diff, "only what changed since the last snapshot"),
            ARG("no-disks", PARAM_BOOL, no_disks, "the disks are left alone"),
            ARG("stop", PARAM_BOOL, stop, "end the VM when it is saved"),
            ARG("frozen", PARAM_BOOL, frozen, "its file systems are frozen for it"),
            ARG("compress", PARAM_ENUM, compress, "of memory", .choices = encodings,
                .def = "none"),
            {0}},
};

static const ControlType stage = {.kind = CONTROL_ENUM, .values = snapshot_stage_names};
static const ControlType figures = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"stage", &stage}, {"folder", &control_str, true},
                               {"pages", &control_int}, {"total", &control_int},
                               {"rounds", &control_int}, {"pause-us", &control_int},
                               {"paused-pages", &control_int},
                               {"kept-pages", &control_int}, {"total-us", &control_int}),
};

static json_t *figures_json(const SnapshotFigures *f, const char *folder)
{
    json_t *json = json_pack(
        "{s:s, s:I, s:I, s:i, s:I, s:I, s:I, s:I}", "stage",
        snapshot_stage_names[f->stage], "pages", (json_int_t)f->pages, "total",
        (json_int_t)f->total, "rounds", (int)f->rounds, "pause-us",
        (json_int_t)(f->pause_ns / 1000), "paused-pages", (json_int_t)f->paused_pages,
        "kept-pages", (json_int_t)f->kept, "total-us", (json_int_t)(f->total_ns / 1000));

    if (folder)
        json_object_set_new(json, "folder", control_text(folder));
    return json;
}

/* ---- making one -----------------------------------------------------------------------
 */

static bool on_main(void *opaque, void (*fn)(void *arg), void *arg, GError **error)
{
    return control_on_main(opaque, fn, arg, error);
}

static void tell_figures(void *opaque)
{
    ControlCall *call = opaque;
    SnapshotFigures f;

    snapshot_figures(call->machine, &f);
    control_event(call->server, "X_HUTCH_SNAPSHOT", figures_json(&f, NULL));
}

static void changed(void *opaque)
{
    control_on_main(opaque, tell_figures, opaque, NULL);
}

/* What the main thread knows, and may change at any time. */
typedef struct WhichVm {
    ControlCall *call;
    char *name, *folder;
} WhichVm;

static void find_vm(void *opaque)
{
    WhichVm *vm = opaque;
    const Place *place = control_place(vm->call->server);

    vm->name = place ? place_name(place)
                     : g_strdup(machine_config(vm->call->machine)->name);
    vm->folder = g_strdup(place ? place->folder : NULL);
}

static json_t *x_create(ControlCall *call, GError **error)
{
    const CreateArgs *args = call->args;
    g_autofree char *folder = store_path(STORE_SNAPSHOTS, args->name, error);
    WhichVm vm = {.call = call};
    SnapshotOptions o = {
        .folder = folder,
        .diff = args->diff,
        .no_disks = args->no_disks,
        .stop = args->stop,
        .zstd = args->compress == 1,
        .frozen = args->frozen,
        .on_main = on_main,
        .changed = changed,
        .ending = call->ending,
        .opaque = call,
    };
    SnapshotFigures f;
    bool ok;

    if (!folder || !control_on_main(call, find_vm, &vm, error))
        return NULL;
    o.name = vm.name;
    o.run_folder = vm.folder;
    ok = snapshot_create(call->machine, &o, &f, error);
    g_free(vm.name);
    g_free(vm.folder);
    return ok ? figures_json(&f, folder) : NULL;
}

static json_t *x_query(ControlCall *call, GError **error)
{
    SnapshotFigures f;

    snapshot_figures(call->machine, &f);
    return figures_json(&f, NULL);
}

static const ControlCommand commands[] = {
    {"x-hutch-snapshot-create", &create_args, &figures, CONTROL_SLEEPS, x_create},
    {"x-hutch-query-snapshot", NULL, &figures, CONTROL_QUERY, x_query},
    {0},
};

static const ControlEvent events[] = {
    {"X_HUTCH_SNAPSHOT", &figures}, /* a stage of one has begun, or it is over */
    {0},
};

const ControlTable control_snapshot_table = {commands, events};
