/* Taking a snapshot's disks; see snapshot/disks.h. */
#include "snapshot/disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/blockjob.h"
#include "machine/hotplug.h"
#include "src/snapshot/layers.h"
#include "util/json.h"
#include "util/log.h"
#include "virtio/blk.h"

enum { MAX_STEM = 100, MAX_NAMESAKES = 1000 };

typedef struct Disk {
    char *id;
    BlockDev *dev;     /* used */
    json_t *chain;     /* its images at the pause, from the top: block_chain_info() */
    BlockLayer *layer; /* NULL: it is read-only, or left alone */
    char *inside; /* of the layer in the folder, "disks/disk0.qcow2"; NULL: outside */
    bool gone;    /* it was unplugged */
} Disk;

struct SnapshotDisks {
    Machine *m;
    char *folder, *run_folder, *overlays;
    bool no_disks, stop;
    GPtrArray *all; /* Disk */
};

static void disk_free(void *opaque)
{
    Disk *disk = opaque;

    block_layer_free(disk->layer);
    block_unuse(disk->dev);
    json_decref(disk->chain);
    g_free(disk->inside);
    g_free(disk->id);
    g_free(disk);
}

static void disks_free(SnapshotDisks *d)
{
    g_ptr_array_free(d->all, TRUE);
    g_free(d->folder);
    g_free(d->run_folder);
    g_free(d->overlays);
    g_free(d);
}

SnapshotDisks *snapshot_disks_new(Machine *m, const SnapshotDisksOptions *o)
{
    SnapshotDisks *d = g_new0(SnapshotDisks, 1);
    MachineDevice device;

    d->m = m;
    d->folder = g_strdup(o->folder);
    d->run_folder = g_strdup(o->run_folder);
    d->overlays = g_strdup(o->overlays);
    d->no_disks = o->no_disks;
    d->stop = o->stop;
    d->all = g_ptr_array_new_with_free_func(disk_free);
    for (unsigned i = 0; machine_device(m, i, &device); i++) {
        BlockDev *dev = virtio_blk_dev(device.virtio);
        Disk *disk;

        if (!dev)
            continue;
        disk = g_new0(Disk, 1);
        disk->id = g_strdup(device.virtio->id);
        disk->dev = dev;
        block_use(dev);
        g_ptr_array_add(d->all, disk);
    }
    return d;
}

static Disk *disk_at(const SnapshotDisks *d, unsigned i)
{
    return g_ptr_array_index(d->all, i);
}

/* ---- before the pause ----------------------------------------------------------------
 */

static bool is_within(const char *path, const char *folder)
{
    size_t len = folder ? strlen(folder) : 0;

    return len && !strncmp(path, folder, len) && path[len] == '/';
}

static char *stem_of(const char *path)
{
    char *stem = g_path_get_basename(path), *dot = strrchr(stem, '.');

    if (dot && dot != stem)
        *dot = '\0';
    if (strlen(stem) > MAX_STEM)
        *g_utf8_find_prev_char(stem, stem + MAX_STEM) = '\0';
    return stem;
}

/* What the disk is called: the stem of its image, without what earlier snapshots of it
 * have added, vm.qcow2 of vm.s1.qcow2. */
static char *disk_stem(const Disk *disk)
{
    const char *top = layer_path(disk->chain, 0);
    g_autofree char *folder = g_path_get_dirname(top);
    char *stem = stem_of(top);

    for (size_t i = 1; i < json_array_size(disk->chain); i++) {
        const char *path = layer_path(disk->chain, i);
        g_autofree char *here = g_path_get_dirname(path), *below = stem_of(path);
        size_t len = strlen(below);

        if (!g_str_equal(here, folder) || strncmp(stem, below, len) || stem[len] != '.')
            break;
        stem[len] = '\0';
    }
    return stem;
}

/* A new string: a file that is not there yet. */
static char *overlay_path(const SnapshotDisks *d, const Disk *disk, GError **error)
{
    const char *top = layer_path(disk->chain, 0);
    g_autofree char *beside = g_path_get_dirname(top), *stem = disk_stem(disk);
    g_autofree char *name = stem_of(d->folder);
    struct stat st;

    if (!d->overlays && (stat(top, &st) < 0 || !S_ISREG(st.st_mode))) {
        fail(error, VM_ERROR_UNSUPPORTED,
             "disk '%s' is '%s', which is no file: there is no place beside it for an "
             "overlay; say where overlays are to be, or take the snapshot with "
             "--no-disks",
             disk->id, top);
        return NULL;
    }
    for (unsigned i = 1; i < MAX_NAMESAKES; i++) {
        g_autofree char *number = i > 1 ? g_strdup_printf("-%u", i) : g_strdup("");
        g_autofree char *file = g_strconcat(stem, ".", name, number, ".qcow2", NULL);
        char *path = g_build_filename(d->overlays ? d->overlays : beside, file, NULL);

        if (access(path, F_OK) < 0 && errno == ENOENT)
            return path;
        g_free(path);
    }
    fail(error, VM_ERROR_BUSY, "'%s' is full of overlays of '%s'; remove some", beside,
         stem);
    return NULL;
}

static bool prepare(const SnapshotDisks *d, Disk *disk, GError **error)
{
    g_autofree char *inside = NULL, *path = NULL;
    BlockLayerOptions o = {0};

    disk->chain = layer_chain(disk->dev);
    if (d->no_disks || block_readonly(disk->dev))
        return true;
    if (is_within(layer_path(disk->chain, 0), d->run_folder)) {
        disk->inside = g_strdup_printf(SNAP_DISKS "/%s.%s", disk->id,
                                       layer_format(disk->chain, 0));
        inside = g_build_filename(d->folder, disk->inside, NULL);
    }
    if (!d->stop) {
        path = overlay_path(d, disk, error);
        if (!path)
            return false;
    }
    o.path = path;
    o.name = inside;
    disk->layer = block_layer_prepare(disk->dev, &o, error);
    return disk->layer != NULL;
}

bool snapshot_disks_prepare(SnapshotDisks *d, GError **error)
{
    for (unsigned i = 0; i < d->all->len; i++)
        if (!prepare(d, disk_at(d, i), error)) {
            g_prefix_error(error, "disk '%s': ", disk_at(d, i)->id);
            return false;
        }
    return true;
}

/* ---- in the pause ---------------------------------------------------------------------
 */

static Disk *find_disk(const SnapshotDisks *d, const BlockDev *dev)
{
    for (unsigned i = 0; i < d->all->len; i++)
        if (disk_at(d, i)->dev == dev)
            return disk_at(d, i);
    return NULL;
}

/* Disks may have come and gone while the rest was prepared. */
static bool look_again(SnapshotDisks *d, GError **error)
{
    MachineDevice device;

    for (unsigned i = 0; i < d->all->len; i++)
        disk_at(d, i)->gone = true;
    for (unsigned i = 0; machine_device(d->m, i, &device); i++) {
        BlockDev *dev = virtio_blk_dev(device.virtio);
        Disk *disk = dev ? find_disk(d, dev) : NULL;

        if (disk)
            disk->gone = false;
        else if (dev)
            return fail(error, VM_ERROR_BUSY,
                        "disk '%s' was plugged in while the snapshot was being taken: "
                        "take it again",
                        device.virtio->id);
    }
    return true;
}

bool snapshot_disks_switch(SnapshotDisks *d, GError **error)
{
    if (!look_again(d, error))
        return false;
    for (unsigned i = 0; i < d->all->len; i++)
        if (disk_at(d, i)->layer && !disk_at(d, i)->gone)
            block_layer_switch(disk_at(d, i)->layer);
    return true;
}

/* ---- after it -------------------------------------------------------------------------
 */

/* The run folder is often in memory, and so on another file system. */
static bool bring(const Disk *disk, const char *partial, Manifest *m, GError **error)
{
    g_autofree char *folder = g_build_filename(partial, SNAP_DISKS, NULL);
    g_autofree char *to = g_build_filename(partial, disk->inside, NULL);
    const char *from = layer_path(disk->chain, 0);

    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make '%s'", folder);
    return (link(from, to) == 0 || image_copy_file(from, to, error)) &&
           manifest_add_file(m, partial, disk->inside, error);
}

static bool describe(const Disk *disk, Manifest *m, GError **error)
{
    g_autofree char *identity = layers_identity(disk->chain, disk->inside, error);
    const char *where = disk->inside ? disk->inside : layer_path(disk->chain, 0);
    bool readonly = block_readonly(disk->dev);

    if (!identity)
        return false;
    manifest_add_disk(m, disk->id, disk->layer || readonly ? where : NULL,
                      layer_format(disk->chain, 0), identity, readonly);
    return true;
}

static bool finish(const Disk *disk, const char *partial, Manifest *m, GError **error)
{
    return (!disk->layer || block_layer_settle(disk->layer, error)) &&
           (!disk->inside || bring(disk, partial, m, error)) && describe(disk, m, error);
}

bool snapshot_disks_finish(SnapshotDisks *d, const char *partial, Manifest *m,
                           GError **error)
{
    for (unsigned i = 0; i < d->all->len; i++)
        if (!disk_at(d, i)->gone && !finish(disk_at(d, i), partial, m, error)) {
            g_prefix_error(error, "disk '%s': ", disk_at(d, i)->id);
            return false;
        }
    return true;
}

/* The VM uses the layer where the snapshot has it, and its own file is given back. */
static void move_inside(const SnapshotDisks *d, const Disk *disk)
{
    g_autofree char *path = g_build_filename(d->folder, disk->inside, NULL);
    g_autoptr(GError) error = NULL;

    if (block_layer_move(disk->layer, path, path, &error))
        unlink(layer_path(disk->chain, 0));
    else
        log_warn("disk '%s' keeps its own copy of the snapshot's layer: %s", disk->id,
                 error->message);
}

void snapshot_disks_done(SnapshotDisks *d)
{
    for (unsigned i = 0; i < d->all->len; i++)
        if (disk_at(d, i)->inside && !disk_at(d, i)->gone && !d->stop)
            move_inside(d, disk_at(d, i));
    disks_free(d);
}

bool snapshot_disks_undo(SnapshotDisks *d, GError **error)
{
    bool ok = true;

    for (unsigned i = 0; i < d->all->len; i++) {
        Disk *disk = disk_at(d, i);
        g_autoptr(GError) why = NULL;

        if (!disk->layer || block_layer_undo(g_steal_pointer(&disk->layer), &why))
            continue;
        if (ok) /* the others are told of in the log */
            fail(error, VM_ERROR_IO, "disk '%s': %s", disk->id, why->message);
        else
            log_warn("disk '%s': %s", disk->id, why->message);
        ok = false;
    }
    disks_free(d);
    return ok;
}
