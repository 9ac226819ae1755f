/* Internal snapshots ("Snapshots"): a list of further L1 tables, whose L2 tables and data
 * are shared with the disk as long as they are the same.
 *
 * Each change is a change of the tree and a switch to it (qcow2_switch.c), so that a
 * crash leaves the image as before or as after.  What a snapshot has beyond what is known
 * here, as the state of a VM that QEMU saved in it, is kept as it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qcow2_survey_private.h"

enum { ENTRY_FIXED = 40, ENTRY_EXTRA = 16, NAME_MAX_LEN = 65535 };

/* ---- the list ------------------------------------------------------------------ */

static ImageSnapshot describe(const Qcow2Snapshot *snap)
{
    return (ImageSnapshot){
        .id = g_strdup(snap->id),
        .name = g_strdup(snap->name),
        .vm_state_size = snap->vm_state_size,
        .disk_size = snap->disk_size,
        .date_s = load_be32(snap->raw + 16),
        .date_ns = load_be32(snap->raw + 20),
        .vm_clock_ns = (int64_t)load_be64(snap->raw + 24),
    };
}

bool qcow2_snapshot_list(BlockImage *img, ImageSnapshot **ret, unsigned *ret_n,
                         GError **error)
{
    Qcow2 *s = qcow2_of(img);
    g_autoptr(GPtrArray)
        snaps = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    uint64_t len;
    ImageSnapshot *list;

    LOCK_GUARD(&s->lock);
    if (!qcow2_snapshots_read(s, snaps, &len, error)) {
        g_prefix_error(error, "'%s': ", img->path);
        return false;
    }
    list = g_new0(ImageSnapshot, snaps->len + 1);
    for (unsigned i = 0; i < snaps->len; i++)
        list[i] = describe(snaps->pdata[i]);
    *ret = list;
    *ret_n = snaps->len;
    return true;
}

/* By id, or else by name: as qemu-img looks for it. */
static int find(const GPtrArray *snaps, const char *id_or_name)
{
    for (unsigned i = 0; i < snaps->len; i++)
        if (strcmp(((Qcow2Snapshot *)snaps->pdata[i])->id, id_or_name) == 0)
            return (int)i;
    for (unsigned i = 0; i < snaps->len; i++)
        if (strcmp(((Qcow2Snapshot *)snaps->pdata[i])->name, id_or_name) == 0)
            return (int)i;
    return -1;
}

static bool must_find(const GPtrArray *snaps, const char *id_or_name, int *ret,
                      GError **error)
{
    *ret = find(snaps, id_or_name);
    return *ret >= 0 || fail(error, VM_ERROR_INVALID,
                             "it has no snapshot with id or name '%s'; 'hutch image "
                             "snapshot -l' lists them",
                             id_or_name);
}

/* ---- a new entry --------------------------------------------------------------- */

/* One more than the highest that is a number. */
static char *new_id(const GPtrArray *snaps)
{
    uint64_t highest = 0;

    for (unsigned i = 0; i < snaps->len; i++)
        highest = MAX(highest,
                      g_ascii_strtoull(((Qcow2Snapshot *)snaps->pdata[i])->id, NULL, 10));
    if (highest == UINT64_MAX) { /* somebody else's idea: any free one will do */
        for (highest = 0;; highest++) {
            g_autofree char *id = g_strdup_printf("%" PRIu64, highest + 1);

            if (find(snaps, id) < 0)
                break;
        }
    }
    return g_strdup_printf("%" PRIu64, highest + 1);
}

static Qcow2Snapshot *new_snapshot(const Qcow2 *s, const GPtrArray *snaps,
                                   const char *name)
{
    Qcow2Snapshot *snap = g_new0(Qcow2Snapshot, 1);
    struct timespec now;
    size_t id_len, name_len = strlen(name);
    uint8_t *raw;

    clock_gettime(CLOCK_REALTIME, &now);
    snap->id = new_id(snaps);
    snap->name = g_strdup(name);
    snap->disk_size = s->h.size;
    snap->extra_len = ENTRY_EXTRA;
    snap->fresh = true;
    id_len = strlen(snap->id);
    snap->len = align_up(ENTRY_FIXED + ENTRY_EXTRA + id_len + name_len, 8);
    raw = snap->raw = g_malloc0(snap->len);
    store_be16(raw + 12, (uint16_t)id_len);
    store_be16(raw + 14, (uint16_t)name_len);
    store_be32(raw + 16, (uint32_t)now.tv_sec);
    store_be32(raw + 20, (uint32_t)now.tv_nsec);
    store_be32(raw + 36, ENTRY_EXTRA);
    store_be64(raw + ENTRY_FIXED + 8, snap->disk_size);
    memcpy(raw + ENTRY_FIXED + ENTRY_EXTRA, snap->id, id_len);
    memcpy(raw + ENTRY_FIXED + ENTRY_EXTRA + id_len, name, name_len);
    return snap;
}

/* ---- changes ------------------------------------------------------------------- */

/* Lock held.  NULL: the image cannot be changed. */
static Qcow2Switch *begin(Qcow2 *s, GError **error)
{
    if (s->data != s->file) {
        fail(error, VM_ERROR_UNSUPPORTED,
             "its data are in an external file, where snapshots cannot be: use an "
             "overlay image instead");
        return NULL;
    }
    if (qcow2_broken(s) || (s->h.incompatible & QCOW2_INCOMPAT_CORRUPT)) {
        fail(error, VM_ERROR_CORRUPT,
             "it is marked as corrupt; repair it with 'hutch image check --repair all' "
             "first");
        return NULL;
    }
    errno = qcow2_flush_metadata(s);
    if (errno) {
        fail_errno(error, "write what is cached of its metadata");
        return NULL;
    }
    return qcow2_switch_new(s, 0, error);
}

static bool create(Qcow2 *s, const char *name, GError **error)
{
    g_autoptr(Qcow2Switch) w = NULL;
    GPtrArray *snaps;

    if (strlen(name) > NAME_MAX_LEN)
        return fail(error, VM_ERROR_INVALID, "a snapshot's name has at most %d bytes",
                    NAME_MAX_LEN);
    w = begin(s, error);
    if (!w)
        return false;
    snaps = qcow2_switch_tree(w)->snaps;
    if (snaps->len >= QCOW2_MAX_SNAPSHOTS)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "it has %u snapshots, and that is the most there may be: delete one",
                    snaps->len);
    g_ptr_array_add(snaps, new_snapshot(s, snaps, name));
    return qcow2_switch_commit(w, s->h.size, error);
}

static bool delete (Qcow2 *s, const char *name, GError **error)
{
    g_autoptr(Qcow2Switch) w = begin(s, error);
    int i;

    if (!w || !must_find(qcow2_switch_tree(w)->snaps, name, &i, error))
        return false;
    g_ptr_array_remove_index(qcow2_switch_tree(w)->snaps, (guint)i);
    if (!qcow2_switch_commit(w, s->h.size, error))
        return false;
    qcow2_switch_punch(w);
    return true;
}

/* The snapshot's L1 table, as far as it is about the disk: the state of a VM behind it
 * stays the snapshot's alone. */
static bool take_l1(Qcow2 *s, const Qcow2Snapshot *snap, Qcow2Tree *t, GError **error)
{
    uint64_t covers = (uint64_t)s->cluster_size << s->l2_bits;
    uint64_t entries = snap->disk_size / covers + (snap->disk_size % covers != 0);
    uint64_t there = MIN(entries, snap->l1_entries);
    uint64_t *l1;

    if (entries > QCOW2_MAX_L1_BYTES / 8)
        return fail(error, VM_ERROR_CORRUPT,
                    "snapshot '%s' is of a disk of %" PRIu64 " bytes, which is more than "
                    "clusters of this size can hold",
                    snap->name, snap->disk_size);
    l1 = g_try_malloc0_n(MAX(entries, 1), 8);
    if (!l1)
        return fail(error, VM_ERROR_IO, "no memory for the L1 table");
    errno = qcow2_read_padded(s, snap->l1_offset, l1, there * 8);
    if (errno) {
        g_free(l1);
        return fail_errno(error, "read the L1 table of snapshot '%s'", snap->name);
    }
    for (uint64_t i = 0; i < there; i++)
        l1[i] = GUINT64_FROM_BE(l1[i]) & QCOW2_OFFSET_MASK;
    g_free(t->l1);
    t->l1 = l1;
    t->l1_entries = (uint32_t)entries;
    return true;
}

static bool apply(Qcow2 *s, const char *name, GError **error)
{
    g_autoptr(Qcow2Switch) w = begin(s, error);
    const Qcow2Snapshot *snap;
    Qcow2Tree *t;
    int i;

    if (!w)
        return false;
    t = qcow2_switch_tree(w);
    if (!must_find(t->snaps, name, &i, error))
        return false;
    snap = t->snaps->pdata[i];
    if (!take_l1(s, snap, t, error) || !qcow2_switch_commit(w, snap->disk_size, error))
        return false;
    __atomic_store_n(&s->img->size, s->h.size, __ATOMIC_RELAXED);
    qcow2_switch_punch(w);
    return true;
}

/* In memory only: the image is open read-only. */
static bool show(Qcow2 *s, const char *name, GError **error)
{
    g_autoptr(GPtrArray)
        snaps = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    const Qcow2Snapshot *snap;
    Qcow2Tree tree = {0};
    uint64_t len;
    int i;

    if (!s->img->readonly)
        return fail(error, VM_ERROR_INVALID, "open it read-only to show a snapshot");
    if (!qcow2_snapshots_read(s, snaps, &len, error) ||
        !must_find(snaps, name, &i, error))
        return false;
    snap = snaps->pdata[i];
    if (!take_l1(s, snap, &tree, error))
        return false;
    LOCK_GUARD(&s->page_lock);
    g_free(s->l1);
    s->l1 = tree.l1;
    s->h.l1_entries = tree.l1_entries;
    s->h.size = snap->disk_size;
    __atomic_store_n(&s->img->size, s->h.size, __ATOMIC_RELAXED);
    return true;
}

static bool locked(BlockImage *img, bool (*change)(Qcow2 *, const char *, GError **),
                   const char *name, GError **error)
{
    Qcow2 *s = qcow2_of(img);
    bool ok;

    LOCK_GUARD(&s->lock);
    ok = change(s, name, error);
    if (!ok)
        g_prefix_error(error, "'%s': ", img->path);
    return ok;
}

bool qcow2_snapshot_create(BlockImage *img, const char *name, GError **error)
{
    return locked(img, create, name, error);
}

bool qcow2_snapshot_apply(BlockImage *img, const char *name, GError **error)
{
    return locked(img, apply, name, error);
}

bool qcow2_snapshot_delete(BlockImage *img, const char *name, GError **error)
{
    return locked(img, delete, name, error);
}

bool qcow2_snapshot_show(BlockImage *img, const char *name, GError **error)
{
    return locked(img, show, name, error);
}
