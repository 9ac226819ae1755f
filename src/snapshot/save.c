/* See snapshot/save.h.
 *
 * Theory.  The logs of writes, KVM's and our own, are turned on before the first page is
 * looked at.  A round takes what they have and copies those pages while the guest runs;
 * what it writes meanwhile is in the logs again, so that a page that was torn by being
 * copied comes once more.  When the rest is small, or does not get smaller, the machine
 * is paused, and what the logs then have is all that differs between the file and the
 * guest.
 *
 * The logs stay on afterwards.  What they tell before the next snapshot is what changed
 * since this one, which is what a diff holds. */
#include "snapshot/save.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hutch-config.h"
#include "save_private.h"
#include "snapshot/partial.h"
#include "snapshot/store.h"
#include "util/fd.h"
#include "util/log.h"

const char *const snapshot_stage_names[] = {
    [SNAPSHOT_NONE] = "none",
    [SNAPSHOT_COPY] = "copy",
    [SNAPSHOT_PAUSE] = "pause",
    [SNAPSHOT_FINISH] = "finish",
    [SNAPSHOT_DONE] = "done",
    [SNAPSHOT_FAILED] = "failed",
    NULL,
};

/* ---- figures ------------------------------------------------------------------- */

void save_publish(Save *s)
{
    LOCK_GUARD(&s->keeper->lock);
    s->keeper->figures = s->f;
}

static void enter(Save *s, SnapshotStage stage)
{
    s->f.stage = stage;
    save_publish(s);
    if (s->o->changed)
        s->o->changed(s->o->opaque);
}

void snapshot_figures(Machine *m, SnapshotFigures *ret)
{
    SnapshotKeeper *k = keeper_of(m);

    LOCK_GUARD(&k->lock);
    *ret = k->figures;
}

/* ---- the folder ---------------------------------------------------------------- */

static bool write_file(const Save *s, const char *name, const void *data, size_t size,
                       GError **error)
{
    g_autofree char *path = g_build_filename(s->partial, name, NULL);
    autofd fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0 || !fd_write_all(fd, data, size, NULL) || fsync(fd) < 0)
        return fail_errno(error, "write '%s'", path);
    return manifest_add_file(s->manifest, s->partial, name, error);
}

static bool write_config(const Save *s, GError **error)
{
    char *text = json_dumps(s->config, JSON_INDENT(2));
    bool ok = text ? write_file(s, SNAP_CONFIG, text, strlen(text), error)
                   : fail(error, VM_ERROR_IO, "the config could not be written as JSON");

    free(text);
    return ok;
}

static bool finish_folder(Save *s, GError **error)
{
    gsize size;
    const void *state = g_bytes_get_data(s->state, &size);
    Manifest *m = s->manifest;
    SnapMemoryWriter *memory = s->memory;

    s->memory = NULL;
    if (!snap_memory_finish(memory, m, error) || !write_config(s, error) ||
        !write_file(s, SNAP_STATE, state, size, error) ||
        !snapshot_disks_finish(s->disks, s->partial, m, error))
        return false;
    s->f.kept = m->memory_pages;
    return manifest_write(m, s->partial, error) &&
           store_commit(s->partial, s->o->folder, error);
}

static bool make_folder(Save *s, GError **error)
{
    const GuestMem *gm = machine_memory(s->m);
    Manifest *m = s->manifest;

    m->hutch = g_strdup(HUTCH_VERSION);
    m->id = g_uuid_string_random();
    m->vm = g_strdup(s->o->name);
    m->ram_size = gm->size;
    m->frozen = s->o->frozen;
    s->partial = partial_begin(s->o->folder, false, &s->partial_fd, error);
    if (!s->partial)
        return false;
    s->memory = snap_memory_create(s->partial, gm->size, s->o->diff, s->o->zstd, error);
    return s->memory != NULL;
}

/* ---- all of it ----------------------------------------------------------------- */

static bool on_main(Save *s, void (*fn)(void *save), GError **error)
{
    s->error = error;
    s->ok = false;
    return s->o->on_main(s->o->opaque, fn, s, error) && s->ok;
}

static bool save(Save *s, GError **error)
{
    enter(s, SNAPSHOT_COPY);
    if (!on_main(s, save_begin, error))
        return false;
    s->keeper->logging = true;
    if (!make_folder(s, error) || !snapshot_disks_prepare(s->disks, error) ||
        !save_copy_rounds(s, error))
        return false;
    enter(s, SNAPSHOT_PAUSE);
    if (!on_main(s, save_pause, error))
        return false;
    enter(s, SNAPSHOT_FINISH);
    return finish_folder(s, error);
}

/* From now on a diff is to this one. */
static void remember(Save *s)
{
    SnapshotKeeper *k = s->keeper;

    snapshot_disks_done(s->disks);
    pages_clear(&k->changed);
    g_free(k->last_folder);
    g_free(k->last_id);
    k->last_folder = g_strdup(s->o->folder);
    k->last_id = g_strdup(s->manifest->id);
}

/* It may have its name already: what failed was to put the name on the disk. */
static void remove_folder(const Save *s)
{
    g_autoptr(Manifest) named = manifest_read(s->o->folder, NULL);

    store_remove(s->partial, NULL);
    if (named && g_str_equal(named->id, s->manifest->id))
        store_remove(s->o->folder, NULL);
}

/* The VM goes on as if nothing had been tried: what the logs have told is kept for the
 * next diff, and logs that nothing needs are turned off. */
static void undo(Save *s)
{
    g_autoptr(GError) error = NULL;

    snap_memory_abandon(s->memory);
    if (s->disks && !snapshot_disks_undo(s->disks, &error))
        log_warn("the snapshot failed, and its disks stay switched: %s", error->message);
    if (s->paused)
        on_main(s, save_go_on, NULL);
    if (s->keeper->logging && !s->was_logging && on_main(s, save_forget_logs, NULL)) {
        s->keeper->logging = false;
        pages_clear(&s->keeper->changed);
    }
    if (s->partial)
        remove_folder(s);
}

static bool claim(SnapshotKeeper *k, GError **error)
{
    LOCK_GUARD(&k->lock);
    if (k->busy)
        return fail(error, VM_ERROR_BUSY,
                    "a snapshot of this VM is being made already; wait until it is done");
    k->busy = true;
    return true;
}

static void release(Save *s, SnapshotStage stage)
{
    s->f.stage = stage;
    s->f.total_ns = (uint64_t)(clock_ns() - s->began_ns);
    lock_acquire(&s->keeper->lock);
    s->keeper->busy = false;
    s->keeper->figures = s->f;
    lock_release(&s->keeper->lock);
    if (s->o->changed)
        s->o->changed(s->o->opaque);
}

static void get_keeper(void *opaque)
{
    Save *s = opaque;

    s->keeper = keeper_of(s->m);
    s->ok = true;
}

static bool run(Save *s, GError **error)
{
    SnapshotKeeper *k = s->keeper;

    s->was_logging = k->logging;
    return (k->changed.bits || pages_init(&k->changed, machine_memory(s->m), error)) &&
           pages_init(&s->todo, machine_memory(s->m), error) && save(s, error);
}

bool snapshot_create(Machine *m, const SnapshotOptions *o, SnapshotFigures *ret,
                     GError **error)
{
    Save s = {.m = m,
              .o = o,
              .began_ns = clock_ns(),
              .manifest = manifest_new(),
              .partial_fd = -1};
    bool ok = on_main(&s, get_keeper, error) && claim(s.keeper, error);

    if (ok) {
        ok = run(&s, error);
        if (ok)
            remember(&s);
        else
            undo(&s);
        release(&s, ok ? SNAPSHOT_DONE : SNAPSHOT_FAILED);
        if (ok && s.paused)
            on_main(&s, save_end_vm, NULL);
    }
    if (ret)
        *ret = s.f;
    pages_free(&s.todo);
    manifest_free(s.manifest);
    json_decref(s.config);
    if (s.state)
        g_bytes_unref(s.state);
    fd_close(&s.partial_fd);
    g_free(s.partial);
    g_free(s.from);
    return ok;
}
