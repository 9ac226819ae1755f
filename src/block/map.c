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

/* NULL: not known. */
static const BlockMapEntry *recall(const BlockMap *m, uint64_t granule)
{
    const BlockMapEntry *e = entry(m, granule);

    return e->file && e->granule == granule ? e : NULL;
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
        if (recall(m, g))
            entry(m, g)->file = NULL;
}

/* The stretch of granules from `offset` on that are known and lie in a row. */
static bool recall_stretch(const BlockMap *m, uint64_t offset, uint64_t len, Extent *ret)
{
    uint64_t size = 1ull << m->shift, within = offset & (size - 1);
    const BlockMapEntry *e = recall(m, offset >> m->shift);

    if (!e)
        return false;
    *ret = (Extent){.kind = EXTENT_DATA,
                    .file = e->file,
                    .file_offset = e->file_offset + within,
                    .len = size - within,
                    .in_place = e->in_place};
    while (ret->len < len && (e = recall(m, (offset + ret->len) >> m->shift)) &&
           e->file == ret->file && e->in_place == ret->in_place &&
           e->file_offset == ret->file_offset + ret->len)
        ret->len += size;
    ret->len = MIN(ret->len, len);
    return true;
}

/* Keeps what an image said of [start, start + x->len): the granules that are whole, or
 * end with the disk. */
static void learn(BlockMap *m, uint64_t start, uint64_t disk_size, const Extent *x)
{
    uint64_t size = 1ull << m->shift, end = start + x->len;

    for (uint64_t at = start; at < end && end - at >= MIN(size, disk_size - at);
         at += size)
        *entry(m, at >> m->shift) = (BlockMapEntry){.file = x->file,
                                                    .file_offset = x->file_offset +
                                                                   (at - start),
                                                    .granule = at >> m->shift,
                                                    .in_place = x->in_place};
}

int block_map_lookup(BlockMap *m, BlockImage *top, uint64_t offset, uint64_t len,
                     Extent *ret)
{
    uint64_t granule = 1ull << m->shift, size = image_size_now(top), start, skip;

    if (!m->shift ||
        (!m->entries && !(m->entries = calloc(ENTRIES, sizeof(*m->entries)))))
        return image_lookup_now(top, offset, len, ret);
    if (recall_stretch(m, offset, len, ret))
        return 0;
    /* Whole granules at once, of which a request for a part may be the first. */
    start = align_down(offset, granule);
    skip = offset - start;
    if (image_lookup_now(top, start, MIN(align_up(offset + len, granule), size) - start,
                         ret))
        return image_lookup_now(top, offset, len, ret);
    if (ret->kind == EXTENT_DATA)
        learn(m, start, size, ret);
    if (ret->kind == EXTENT_COMPRESSED || ret->len <= skip)
        return image_lookup_now(top, offset, len, ret);
    ret->file_offset += skip;
    ret->len = MIN(ret->len - skip, len);
    return 0;
}
