/* What the main thread does for a snapshot: it looks whether the VM can be saved, and
 * pauses it for the instant that the snapshot holds.  Each step says in `ok` whether it
 * went well, and else why in *error. */
#include <time.h>

#include "save_private.h"
#include "snapshot/restore.h"

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

void save_begin(void *opaque)
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

void save_forget_logs(void *opaque)
{
    Save *s = opaque;

    s->ok = can_pause(s); /* else they stay on, and the next snapshot has the use */
    if (s->ok)
        machine_log_stop(s->m);
}

/* ---- the pause ----------------------------------------------------------------- */

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
    if (!save_fetch(s, s->error) || !save_copy_pages(s, s->error) || !save_state(s))
        return false;
    s->f.paused_pages = s->f.pages - before;
    s->config = machine_current_config(s->m);
    s->manifest->cpu_needs = machine_cpu_needs(s->m);
    s->manifest->created_ns = real_ns();
    if (s->o->name)
        json_object_set_new(s->config, "name", json_string(s->o->name));
    return snapshot_disks_switch(s->disks, s->error);
}

void save_pause(void *opaque)
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

void save_go_on(void *opaque)
{
    Save *s = opaque;

    machine_resume(s->m);
    s->ok = true;
}

void save_end_vm(void *opaque)
{
    Save *s = opaque;

    machine_quit(s->m);
    s->ok = true;
}
