/* See src/snapshot/keeper.h. */
#include "src/snapshot/keeper.h"

#include "snapshot/restore.h"

static void keeper_free(void *opaque)
{
    SnapshotKeeper *k = opaque;

    pages_free(&k->changed);
    lock_finish(&k->lock);
    g_free(k->last_folder);
    g_free(k->last_id);
    g_free(k);
}

/* A restored VM's last snapshot is the one it was restored from. */
SnapshotKeeper *keeper_of(Machine *m)
{
    SnapshotKeeper *k = machine_keeper(m);

    if (k)
        return k;
    k = g_new0(SnapshotKeeper, 1);
    lock_init(&k->lock);
    if (machine_restored(m)) {
        k->last_folder = g_strdup(snapshot_restored_folder(m));
        k->last_id = g_strdup(snapshot_restored_manifest(m)->id);
    }
    machine_set_keeper(m, k, keeper_free);
    return k;
}
