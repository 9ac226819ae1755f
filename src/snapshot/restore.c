/* See snapshot/restore.h. */
#include "snapshot/restore.h"

#include <time.h>
#include <unistd.h>

#include "core/gmlost.h"
#include "kvm/arch.h"
#include "snapshot/disks.h"
#include "snapshot/file.h"
#include "snapshot/foreign.h"
#include "snapshot/lazy.h"
#include "snapshot/store.h"
#include "snapshot/template.h"
#include "snapshot/working_set.h"
#include "util/log.h"

const char *const restore_memory_names[] = {"private", "copy", "lazy", NULL};
const char *const restore_clock_names[] = {
    [CLOCK_STOPPED] = "stopped",
    [CLOCK_CATCH_UP] = "catch-up",
    NULL,
};

struct SnapshotRestore {
    MachineRestore machine;
    char *folder, *from; /* `from`: as it was asked for */
    RestoreOptions options;
    Manifest *manifest;
    SnapMemory *memory;      /* NULL: remote */
    RemoteSnapshot *remote;  /* NULL: a folder of this host */
    WorkingSet *working_set; /* NULL: not recorded, nor read ahead */
    LazyMemory *lazy;        /* NULL: memory is there from the start */
    GPtrArray *made;         /* files that go again, if it comes to nothing */
    GArray *holds;           /* of the folder and its parents; empty: let go */
};

/* ---- the parts ------------------------------------------------------------------------
 */

/* Each is a sentence with its cure: the first is told, 'check-restore' tells all. */
static bool check_host(const SnapshotRestore *r, GError **error)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);

    if (r->manifest->cpu_needs)
        arch_cpu_check(r->manifest->cpu_needs, problems);
    return !problems->len ||
           fail(error, VM_ERROR_UNSUPPORTED, "%s%s", (char *)problems->pdata[0],
                problems->len > 1 ? " ('hutch check-restore' tells what else is missing)"
                                  : "");
}

static bool open_state(SnapshotRestore *r, GError **error)
{
    g_autofree char *path = g_build_filename(r->folder, SNAP_STATE, NULL);
    g_autoptr(GBytes) bytes = snap_file_read(path, STATE_MAX_FILE, error);

    if (!bytes)
        return false;
    r->machine.state = state_reader_new(bytes, error);
    return r->machine.state != NULL;
}

/* How it was begun is not how it is begun again. */
static bool load_config(SnapshotRestore *r, Config *cfg, GError **error)
{
    g_autofree char *path = g_build_filename(r->folder, SNAP_CONFIG, NULL);

    if (!config_load(cfg, path, error))
        return false;
    cfg->paused = false;
    for (unsigned i = 0; i < cfg->n_devices; i++) {
        const ConfigDevice *d = &cfg->devices[i];

        if (d->ops->options_of_snapshot && d->options)
            d->ops->options_of_snapshot(d->options);
    }
    return cfg->memory.size == r->manifest->ram_size ||
           fail(error, VM_ERROR_CORRUPT,
                "the config says %" G_GUINT64_FORMAT
                " bytes of memory, and the manifest %" G_GUINT64_FORMAT,
                cfg->memory.size, r->manifest->ram_size);
}

static bool open_memory(SnapshotRestore *r, GError **error)
{
    if (r->remote)
        return true;
    r->memory = snap_memory_open(r->folder, error);
    if (!r->memory)
        return false;
    return snap_memory_size(r->memory) == r->manifest->ram_size ||
           fail(error, VM_ERROR_CORRUPT, "its memory has another size than it says");
}

/* Whether a page comes when it is wanted. */
static bool is_lazy(const SnapshotRestore *r, const GuestMem *gm)
{
    g_autoptr(GError) error = NULL;

    if (r->options.memory != RESTORE_PRIVATE)
        return r->options.memory == RESTORE_LAZY;
    if (gm->fd >= 0 || (r->memory && snap_memory_mappable(r->memory) && !gm->hugepages))
        return false;
    if (!lazy_possible(&error))
        log_info("memory is copied before the VM runs: %s", error->message);
    return !error;
}

static bool fill(void *opaque, GuestMem *gm, GError **error)
{
    SnapshotRestore *r = opaque;

    if (is_lazy(r, gm))
        return gm_guard(gm, error) &&
               (r->lazy = lazy_open(r->memory, r->remote, gm, error));
    if (r->remote)
        return remote_copy(r->remote, gm, error);
    if (r->options.memory == RESTORE_COPY)
        return snap_memory_copy(r->memory, gm, error);
    if (!gm_guard(gm, error) || !snap_memory_map(r->memory, gm, error))
        return false;
    /* Else it was copied: files that are mapped cannot be shared with a helper process,
     * nor lie in huge pages. */
    if (gm->fd >= 0 || gm->hugepages || !snap_memory_mappable(r->memory))
        return true;
    gm_set_backed(gm);
    if (r->options.working_set)
        r->working_set = working_set_start(r->folder, gm);
    return true;
}

static int64_t elapsed_since(int64_t created_ns)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return MAX(now.tv_sec * 1000000000ll + now.tv_nsec - created_ns, 0);
}

/* ---- disks ----------------------------------------------------------------------------
 */

static bool needs_folder(const Manifest *m, const json_t *paths, GError **error)
{
    for (unsigned i = 0; i < m->disks->len; i++) {
        const ManifestDisk *d = m->disks->pdata[i];

        if (d->layer && !d->readonly && !json_object_get(paths, d->id))
            return fail(error, VM_ERROR_INVALID,
                        "disk '%s': what the guest writes goes to a file in the VM's run "
                        "folder, and it has none: give --name, or --disk %s=FILE",
                        d->id, d->id);
    }
    return true;
}

/* Options of disks from the JSON, which has them in the same order. */
static bool take_disks(Config *cfg, const json_t *config, GError **error)
{
    const json_t *disks = json_object_get(config, "disk");

    for (unsigned i = 0, n = 0; i < cfg->n_devices; i++) {
        ConfigDevice *d = &cfg->devices[i];
        void *options;

        if (!g_str_equal(d->ops->option, "disk"))
            continue;
        options = param_new(d->ops->params);
        if (!param_from_json(d->ops->params, options, json_array_get(disks, n++), NULL,
                             error)) {
            param_free(d->ops->params, options);
            return false;
        }
        param_free(d->ops->params, d->options);
        d->options = options;
    }
    return true;
}

static bool is_foreign(const SnapshotRestore *r)
{
    return (r->remote || r->manifest->foreign) && !r->options.trust;
}

bool snapshot_restore_allowed(const SnapshotRestore *r, const Config *cfg,
                              const json_t *paths, GError **error)
{
    return !is_foreign(r) || foreign_allowed(cfg, r->manifest, paths, error);
}

bool snapshot_restore_disks(SnapshotRestore *r, Config *cfg, const char *run_folder,
                            const json_t *paths, GError **error)
{
    json_t *config = config_to_json(cfg);
    bool ok = snapshot_restore_allowed(r, cfg, paths, error) &&
              (run_folder || needs_folder(r->manifest, paths, error)) &&
              snapshot_disks_restore(config, r->manifest, r->folder, run_folder, paths,
                                     r->made, error) &&
              take_disks(cfg, config, error);

    json_decref(config);
    if (!ok)
        g_prefix_error(error, "snapshot '%s': ", r->folder);
    return ok;
}

static void taken(void *opaque)
{
    SnapshotRestore *r = opaque;

    g_ptr_array_set_size(r->made, 0);
}

/* ---- all of it ------------------------------------------------------------------------
 */

static bool hold(SnapshotRestore *r, GError **error)
{
    int fd = store_hold(r->folder, error);

    if (fd >= 0)
        g_array_append_val(r->holds, fd);
    return fd >= 0;
}

/* What comes from a server has them there. */
static bool hold_parents(SnapshotRestore *r, GError **error)
{
    unsigned links;

    return r->remote || !r->manifest->parent_id ||
           manifest_hold_chain(r->folder, r->holds, &links, error);
}

static bool open_parts(SnapshotRestore *r, Config *cfg, GError **error)
{
    if (!hold(r, error))
        return false;
    r->manifest = manifest_read(r->folder, error);
    return r->manifest && hold_parents(r, error) && check_host(r, error) &&
           manifest_verify_files(r->folder, r->manifest, error) && open_state(r, error) &&
           load_config(r, cfg, error) && open_memory(r, error);
}

SnapshotRestore *snapshot_restore_open(const char *folder, const RestoreOptions *options,
                                       Config *cfg, GError **error)
{
    g_autoptr(SnapshotRestore) r = g_new0(SnapshotRestore, 1);

    r->options = *options;
    r->holds = manifest_holds_new();
    r->made = g_ptr_array_new_with_free_func(g_free);
    if (remote_is_address(folder) && !(r->remote = remote_open(folder, error)))
        return NULL;
    r->folder = g_strdup(r->remote ? remote_folder(r->remote) : folder);
    r->from = g_strdup(folder);
    if (!open_parts(r, cfg, error)) {
        g_prefix_error(error, "snapshot '%s': ", folder);
        return NULL;
    }
    if (is_foreign(r))
        foreign_mark(cfg);
    r->machine.fill = fill;
    r->machine.taken = taken;
    r->machine.opaque = r;
    r->machine.clock = (ClockMode)options->clock;
    r->machine.elapsed_ns = elapsed_since(r->manifest->created_ns);
    return g_steal_pointer(&r);
}

void snapshot_restore_undo(SnapshotRestore *r)
{
    if (!r || lazy_is_awaited(r->lazy))
        return;
    for (guint i = 0; i < r->made->len; i++)
        unlink(r->made->pdata[i]);
    g_ptr_array_set_size(r->made, 0);
}

void snapshot_restore_free(SnapshotRestore *r)
{
    if (!r)
        return;
    snapshot_restore_undo(r);
    g_ptr_array_unref(r->made);
    state_reader_free(r->machine.state);
    working_set_close(r->working_set);
    lazy_close(r->lazy);
    snap_memory_close(r->memory);
    remote_close(r->remote);
    manifest_free(r->manifest);
    g_array_unref(r->holds);
    g_free(r->folder);
    g_free(r->from);
    g_free(r);
}

const MachineRestore *snapshot_restore_machine(const SnapshotRestore *r)
{
    return r ? &r->machine : NULL;
}

const Manifest *snapshot_restore_manifest(const SnapshotRestore *r)
{
    return r->manifest;
}

/* The folder of a store is known by its name there. */
json_t *snapshot_restore_origin(const MachineRestore *machine)
{
    static const struct {
        StoreKind store;
        const char *kind;
    } kinds[] = {{STORE_SNAPSHOTS, "snapshot"},
                 {STORE_TEMPLATES, "template"},
                 {STORE_WARM, "warm start"}};
    const SnapshotRestore *r = machine->opaque;
    const Manifest *m = r->manifest;
    json_t *json = json_pack("{s:s, s:s, s:s}", "kind", r->remote ? "server" : "snapshot",
                             "name", r->from, "id", m->id);
    g_autofree char *path = g_canonicalize_filename(r->from, NULL);

    for (unsigned i = 0; !r->remote && i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *name = store_name(kinds[i].store, path);

        if (g_str_equal(name, path))
            continue;
        json_object_set_new(json, "kind", json_string(kinds[i].kind));
        json_object_set_new(json, "name", json_string(name));
    }
    if (!r->remote)
        json_object_set_new(json, "path", json_string(path));
    if (template_is_anonymous(path) && m->vm) {
        json_object_set_new(json, "kind", json_string("VM"));
        json_object_set_new(json, "name", json_string(m->vm));
    }
    return json;
}

static const SnapshotRestore *restore_of(const Machine *m)
{
    return machine_restored(m)->opaque;
}

const char *snapshot_restored_folder(const Machine *m)
{
    const SnapshotRestore *r = restore_of(m);

    return !r->holds->len || r->remote ? NULL : r->folder;
}

bool snapshot_restored_arriving(const Machine *m)
{
    LazyMemory *lazy = restore_of(m)->lazy;
    LazyFigures f = {.whole = true};

    if (lazy && !machine_memory(m)->cleared)
        lazy_figures(lazy, &f);
    return !f.whole;
}

const Manifest *snapshot_restored_manifest(const Machine *m)
{
    return restore_of(m)->manifest;
}

void snapshot_restored_let_go(Machine *m)
{
    SnapshotRestore *r = machine_restored(m) ? machine_restored(m)->opaque : NULL;

    if (!r)
        return;
    if (snapshot_restored_arriving(m))
        return;
    g_clear_pointer(&r->lazy, lazy_close);
    g_array_set_size(r->holds, 0);
    g_clear_pointer(&r->memory, snap_memory_close);
}
