/* Which disk a command is about.  Devices come and go on the main thread, so that is
 * where they are looked up, by their id or the name of the node they were made of; a disk
 * in use is not closed. */
#include "src/control/disk.h"

#include "machine/hotplug.h"
#include "src/control/parts.h"
#include "virtio/blk.h"

typedef struct Lookup {
    ControlCall *call;
    const char *id;
    BlockDev *found;
} Lookup;

static void look_up(void *opaque)
{
    Lookup *l = opaque;
    const Part *part = parts_find(l->call->parts, PART_DISK, l->id);
    const char *id = part && part->user ? part->user : l->id;
    VirtioDevice *v = machine_find_device(l->call->machine, id);

    l->found = v ? virtio_blk_dev(v) : NULL;
    if (l->found)
        block_use(l->found);
}

BlockDev *control_disk_use(ControlCall *call, const char *id, GError **error)
{
    Lookup l = {call, id, NULL};

    if (!id) {
        fail(error, VM_ERROR_INVALID, "'device' is missing: the id of a disk");
        return NULL;
    }
    if (!control_on_main(call, look_up, &l, error))
        return NULL;
    if (!l.found)
        fail(error, VM_ERROR_NOT_FOUND, "there is no disk '%s'", id);
    return l.found;
}

/* ---- all of them ---------------------------------------------------------------------
 */

enum { MAX_DISKS = 64 };

typedef struct All {
    ControlCall *call;
    BlockDev *disk[MAX_DISKS];
    char *id[MAX_DISKS];
    unsigned n;
} All;

static void list(void *opaque)
{
    All *all = opaque;
    MachineDevice d;

    for (unsigned i = 0; all->n < MAX_DISKS && machine_device(all->call->machine, i, &d);
         i++) {
        BlockDev *disk = virtio_blk_dev(d.virtio);

        if (!disk)
            continue;
        block_use(disk);
        all->disk[all->n] = disk;
        all->id[all->n++] = g_strdup(d.virtio->id);
    }
}

bool control_disks_each(ControlCall *call,
                        void (*fn)(void *opaque, const char *id, BlockDev *disk),
                        void *opaque, GError **error)
{
    All all = {.call = call};

    if (!control_on_main(call, list, &all, error))
        return false;
    for (unsigned i = 0; i < all.n; i++) {
        fn(opaque, all.id[i], all.disk[i]);
        block_unuse(all.disk[i]);
        g_free(all.id[i]);
    }
    return true;
}
