/* Where recent requests lay: a queue's own memory of what images said, so that a disk of
 * many layers answers as fast as one.  It belongs to the queue's thread, takes no lock,
 * and is an optimisation only: direct-mapped, an entry for each cluster.
 *
 * An entry stays true until the guest changes what it is about, which the queue sees, or
 * until the gate was closed.  What a job copies up from a lower layer stays readable
 * where it was. */
#include <stdlib.h>

#include "block_private.h"
#include "util/bits.h"

enum { ENTRIES = 32768 };

static BlockMapEntry *entry(const BlockMap *m, uint64_t granule)
{
    return &m->entries[granule & (ENTRIES - 1)];
}

void block_map_forget_all(BlockMap *m)
{
    free(m->entries);
    m->entries = NULL;
}

void block_map_forget(BlockMap *m, uint64_t offset, uint64_t len)
{
    uint64_t first = offset >> m->shift, last = (offset + len - 1) >> m->shift;

    if (!m->entries || !len)
        return;
    if (last - first >= ENTRIES) {
        block_map_forget_all(m);
        return;
    }
    for (uint64_t g = first; g <= last; g++)
        if (entry(m, g)->file && entry(m, g)->granule == g)
            entry(m, g)->file = NULL;
}

/* Fills in an entry; false if the cluster is not one piece. */
static bool learn(BlockMap *m, BlockMapEntry *e, BlockImage *top, uint64_t granule)
{
    uint64_t start = granule << m->shift;
    uint64_t len = MIN(1ull << m->shift, image_size_now(top) - start);
    Extent x;

    if (image_lookup_now(top, start, len, &x) || x.kind != EXTENT_DATA || x.len < len)
        return false;
    *e = (BlockMapEntry){.file = x.file,
                         .file_offset = x.file_offset,
                         .granule = granule,
                         .in_place = x.in_place};
    return true;
}

bool block_map_find(BlockMap *m, BlockImage *top, uint64_t offset, uint64_t len,
                    BlockMapEntry *ret)
{
    uint64_t granule = offset >> m->shift;
    BlockMapEntry *e;

    if ((offset + len - 1) >> m->shift != granule)
        return false;
    if (!m->entries && !(m->entries = calloc(ENTRIES, sizeof(*m->entries))))
        return false;
    e = entry(m, granule);
    if ((!e->file || e->granule != granule) && !learn(m, e, top, granule))
        return false;
    *ret = *e;
    ret->file_offset += offset - (granule << m->shift);
    return true;
}
