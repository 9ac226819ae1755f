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
#include <time.h>
#include <unistd.h>

#include "hutch-config.h"
#include "snapshot/disks.h"
#include "snapshot/manifest.h"
#include "snapshot/memory.h"
#include "snapshot/partial.h"
#include "snapshot/restore.h"
#include "snapshot/store.h"
#include "src/snapshot/keeper.h"
#include "util/fd.h"
#include "util/log.h"

enum {
    RUN_PAGES = 256, /* copied at once, a MiB */
    MAX_ROUNDS = 30,
    PAUSE_NS = 2 * 1000 * 1000, /* what may be left to be copied in the pause */
    LEAST_PAGES = 64,           /* fewer are not worth another round */
};

const char *const snapshot_stage_names[] = {
    [SNAPSHOT_NONE] = "none",
    [SNAPSHOT_COPY] = "copy",
    [SNAPSHOT_PAUSE] = "pause",
    [SNAPSHOT_FINISH] = "finish",
    [SNAPSHOT_DONE] = "done",
    [SNAPSHOT_FAILED] = "failed",
    NULL,
};

typedef struct Save {
    Machine *m;
    const SnapshotOptions *o;
    SnapshotKeeper *keeper;
    char *partial;  /* the folder while it is not complete; NULL: not made */
    int partial_fd; /* locked, so that nobody takes it for what a dead monitor left */
    Manifest *manifest;
    SnapMemoryWriter *memory;
    SnapshotDisks *disks;
    PageSet todo; /* to be copied; what is in it differs from the file */
    bool was_logging;

    /* Of a restored VM, as the main thread saw it in the beginning: a reset since then is
     * in the logs as a write to all of RAM. */
    char *from;    /* the snapshot's folder; NULL: it does without */
    bool arriving; /* its memory is still coming */

    /* Filled in by the pause. */
    GBytes *state;
    json_t *config;
    bool paused; /* held since then: o->stop */

    SnapshotFigures f;
    int64_t began_ns;
    double ns_per_page; /* of the last round */
    GError **error;     /* of a step on the main thread */
    bool ok;            /* it went well */
} Save;

/* ---- figures --------------------------------------------------------------------------
 */

static void publish(Save *s)
{
    LOCK_GUARD(&s->keeper->lock);
    s->keeper->figures = s->f;
}

static void enter(Save *s, SnapshotStage stage)
{
    s->f.stage = stage;
    publish(s);
    if (s->o->changed)
        s->o->changed(s->o->opaque);
}

void snapshot_figures(Machine *m, SnapshotFigures *ret)
{
    SnapshotKeeper *k = keeper_of(m);

    LOCK_GUARD(&k->lock);
    *ret = k->figures;
}

/* ---- steps on the main thread ---------------------------------------------------------
 */

static bool on_main(Save *s, void (*fn)(void *save), GError **error)
{
    s->error = error;
    s->ok = false;
    return s->o->on_main(s->o->opaque, fn, s, error) && s->ok;
}

/* Of the diff to be made: the VM's last snapshot, which must still be it. */
static bool find_parent(Save *s)
{
    SnapshotKeeper *k = s->keeper;
    g_autoptr(Manifest) parent = NULL;

    if (!k->last_folder)
        return fail(s->error, VM_ERROR_INVALID,
                    "there is no snapshot of this VM yet that a diff could be to; make a "
                    "full one first, without --diff");
    parent = manifest_read(k->last_folder, NULL);
    if (!parent || !g_str_equal(parent->id, k->last_id))
        return fail(s->error, VM_ERROR_NOT_FOUND,
                    "the VM's last snapshot, '%s', is not there any more, and a diff is "
                    "to that one; make a full one, without --diff",
                    k->last_folder);
    s->manifest->parent_id = g_strdup(k->last_id);
    s->manifest->parent_path = g_strdup(k->last_folder);
    return true;
}

static void look_at_restored(Save *s)
{
    if (!machine_restored(s->m))
        return;
    s->arriving = snapshot_restored_arriving(s->m);
    if (machine_memory(s->m)->backed)
        s->from = g_strdup(snapshot_restored_folder(s->m));
}

/* Devices' threads may sleep in the middle of an access, until 'cont': a pause would wait
 * for them on the very thread that 'cont' needs. */
static bool can_pause(const Save *s)
{
    return !machine_frozen(s->m) || fail(s->error, VM_ERROR_BUSY,
                                         "a part of the guest's memory cannot be read, "
                                         "and the VM stands still until "
                                         "then: 'cont' tries again");
}

/* Everything that can be refused is refused here, with nothing paused or written. */
static void begin(void *opaque)
{
    Save *s = opaque;
    g_autofree char *why = machine_pinned(s->m);

    look_at_restored(s);
    if (why)
        fail(s->error, VM_ERROR_UNSUPPORTED, "the VM cannot be saved: %s", why);
    else if (machine_state(s->m) == STATE_SHUTDOWN)
        fail(s->error, VM_ERROR_BUSY, "the VM has ended");
    else if (s->o->diff && !find_parent(s))
        return;
    else
        s->ok = s->was_logging || machine_log_start(s->m, s->error);
    if (s->ok)
        s->disks = snapshot_disks_new(
            s->m, &(SnapshotDisksOptions){.folder = s->o->folder,
                                          .run_folder = s->o->run_folder,
                                          .no_disks = s->o->no_disks,
                                          .stop = s->o->stop});
}

static void forget_logs(void *opaque)
{
    Save *s = opaque;

    s->ok = can_pause(s); /* else they stay on, and the next snapshot has the use */
    if (s->ok)
        machine_log_stop(s->m);
}

/* ---- copying --------------------------------------------------------------------------
 */

static bool fetch(Save *s, GError **error)
{
    PageSet fresh = {0};
    bool ok = pages_init(&fresh, machine_memory(s->m), error) &&
              machine_log_fetch(s->m, fresh.bits, error);

    if (fresh.bits) { /* also what was told before it failed */
        pages_add(&s->todo, &fresh);
        pages_add(&s->keeper->changed, &fresh);
    }
    pages_free(&fresh);
    return ok;
}

static bool is_ending(const Save *s, GError **error)
{
    return s->o->ending && __atomic_load_n(s->o->ending, __ATOMIC_RELAXED) &&
           !fail(error, VM_ERROR_BUSY, "the VM has ended");
}

static bool copy_pages(Save *s, GError **error)
{
    const uint8_t *base = machine_memory(s->m)->base;
    unsigned n;

    for (uint64_t page = 0; pages_next(&s->todo, &page, &n, RUN_PAGES); page += n) {
        if (!snap_memory_write(s->memory, page, n, base + page * GM_PAGE_SIZE, error) ||
            is_ending(s, error))
            return false;
        s->f.pages += n;
        if (s->f.stage == SNAPSHOT_COPY && s->f.pages % 4096 < n)
            publish(s);
    }
    pages_clear(&s->todo);
    return true;
}

/* What the first round has to copy, beside what the logs tell. */
static bool list_pages(Save *s, GError **error)
{
    const GuestMem *gm = machine_memory(s->m);
    SnapMemory *memory = NULL;
    bool ok;

    if (s->o->diff) {
        if (!s->was_logging && !pages_add_changed(&s->keeper->changed, gm, error))
            return false;
        pages_add(&s->todo, &s->keeper->changed);
        return true;
    }
    if (s->arriving) {
        pages_fill(&s->todo); /* who reads them has them come */
        return true;
    }
    if (s->from && !(memory = snap_memory_open(s->from, error)))
        return false;
    ok = pages_add_used(&s->todo, gm, memory, error);
    snap_memory_close(memory);
    return ok;
}

static bool is_small(const Save *s, uint64_t n)
{
    return n <= LEAST_PAGES || (double)n * s->ns_per_page <= PAUSE_NS;
}

/* Beside the guest, until little is left. */
static bool copy_rounds(Save *s, GError **error)
{
    uint64_t n, before = UINT64_MAX;

    if (!list_pages(s, error) || !fetch(s, error))
        return false;
    for (;;) {
        int64_t start = clock_ns();

        n = pages_count(&s->todo);
        /* The first round always runs: nothing else tells how fast pages are copied. */
        if (s->f.rounds &&
            (is_small(s, n) || n > before - before / 4 || s->f.rounds == MAX_ROUNDS))
            return true;
        before = n;
        s->f.total = s->f.pages + n;
        s->f.rounds++;
        publish(s);
        if (!copy_pages(s, error))
            return false;
        s->ns_per_page = n ? (double)(clock_ns() - start) / (double)n : 0;
        if (!fetch(s, error))
            return false;
    }
}

/* ---- the pause ------------------------------------------------------------------------
 */

static int64_t real_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static bool save_state(Save *s)
{
    StateWriter *w = state_writer_new();

    if (!machine_save(s->m, w, s->error)) {
        state_writer_free(w);
        return false;
    }
    s->state = state_writer_end(w, s->error);
    return s->state != NULL;
}

static bool save_instant(Save *s)
{
    uint64_t before = s->f.pages;

    g_autofree char *why = machine_pinned(s->m); /* what came since the first look */

    if (why)
        return fail(s->error, VM_ERROR_UNSUPPORTED, "the VM cannot be saved: %s", why);
    if (!fetch(s, s->error) || !copy_pages(s, s->error) || !save_state(s))
        return false;
    s->f.paused_pages = s->f.pages - before;
    s->config = machine_current_config(s->m);
    s->manifest->cpu_needs = machine_cpu_needs(s->m);
    s->manifest->created_ns = real_ns();
    if (s->o->name)
        json_object_set_new(s->config, "name", json_string(s->o->name));
    return snapshot_disks_switch(s->disks, s->error);
}

static void pause_and_save(void *opaque)
{
    Save *s = opaque;
    int64_t start = clock_ns();

    if (!can_pause(s))
        return;
    machine_pause(s->m);
    s->ok = save_instant(s);
    s->paused = s->ok && s->o->stop;
    if (!s->paused)
        machine_resume(s->m);
    s->f.pause_ns = (uint64_t)(clock_ns() - start);
}

static void go_on(void *opaque)
{
    Save *s = opaque;

    machine_resume(s->m);
    s->ok = true;
}

static void end_vm(void *opaque)
{
    Save *s = opaque;

    machine_quit(s->m);
    s->ok = true;
}

/* ---- the folder -----------------------------------------------------------------------
 */

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

/* ---- all of it ------------------------------------------------------------------------
 */

static bool save(Save *s, GError **error)
{
    enter(s, SNAPSHOT_COPY);
    if (!on_main(s, begin, error))
        return false;
    s->keeper->logging = true;
    if (!make_folder(s, error) || !snapshot_disks_prepare(s->disks, error) ||
        !copy_rounds(s, error))
        return false;
    enter(s, SNAPSHOT_PAUSE);
    if (!on_main(s, pause_and_save, error))
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
        on_main(s, go_on, NULL);
    if (s->keeper->logging && !s->was_logging && on_main(s, forget_logs, NULL)) {
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
            on_main(&s, end_vm, NULL);
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
