/* From a snapshot's files into guest RAM, when a VM is made: mapped, or copied. */
#include <string.h>
#include <sys/mman.h>

#include "memory_private.h"

enum {
    COPY_PAGES = 256,    /* at once */
    SHORT_PAGES = 16,    /* an extent below this is cheaper copied than mapped */
    MAX_MAPPINGS = 4096, /* of the 65530 that a process may have */
};

/* ---- copied ---------------------------------------------------------------------------
 */

static bool is_base(const SnapMemory *s, const MemoryExtent *e)
{
    return e->file == s->files->len - 1;
}

/* Where the whole of it lies: `under` is what is there already: zeroes, or the base. */
static bool copy_extent(SnapMemory *s, GuestMem *gm, const MemoryExtent *e,
                        bool over_zeroes, GError **error)
{
    MemoryFile *f = memory_file(s, e->file);
    uint64_t end = e->first + e->count, at = e->first, n = e->count;

    while (over_zeroes ? memory_file_next(f, end, &at, &n) : at < end) {
        n = MIN(MIN(n, end - at), COPY_PAGES);
        if (!memory_file_read(f, at, (unsigned)n, gm->base + at * GM_PAGE_SIZE, error))
            return false;
        at += n;
        n = end - at;
    }
    return true;
}

static bool fits(const SnapMemory *s, const GuestMem *gm, GError **error)
{
    return gm->size == s->pages * GM_PAGE_SIZE ||
           fail(error, VM_ERROR_INVALID,
                "memory: the snapshot is of %" G_GUINT64_FORMAT
                " MiB of RAM, and the VM has %" G_GUINT64_FORMAT,
                s->pages * GM_PAGE_SIZE / MIB, gm->size / MIB);
}

bool snap_memory_copy(SnapMemory *s, GuestMem *gm, GError **error)
{
    if (!fits(s, gm, error))
        return false;
    for (unsigned i = 0; i < s->extents->len; i++)
        if (!copy_extent(s, gm, memory_extent(s, i), true, error))
            return false;
    return snap_memory_is_whole(s, error);
}

/* ---- mapped ---------------------------------------------------------------------------
 */

static bool map_range(GuestMem *gm, const MemoryFile *f, uint64_t first, uint64_t count,
                      GError **error)
{
    uint8_t *host = gm->base + first * GM_PAGE_SIZE;
    size_t len = count * GM_PAGE_SIZE;

    if (mmap(host, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
             f->fd, (off_t)(first * GM_PAGE_SIZE)) == MAP_FAILED)
        return fail_errno(error, "'%s': map %zu bytes of it", f->path, len);
    madvise(host, len, MADV_DONTDUMP);
    return true;
}

/* How long an extent has to be so that at most MAX_MAPPINGS are mapped. */
static uint64_t shortest_mapped(const SnapMemory *s)
{
    for (uint64_t min = SHORT_PAGES;; min *= 2) {
        unsigned n = 0;

        for (unsigned i = 0; i < s->extents->len; i++)
            n += !is_base(s, memory_extent(s, i)) && memory_extent(s, i)->count >= min;
        if (n <= MAX_MAPPINGS)
            return min;
    }
}

bool snap_memory_map(SnapMemory *s, GuestMem *gm, GError **error)
{
    const MemoryFile *base = memory_file(s, s->files->len - 1);
    uint64_t min = shortest_mapped(s);

    if (!fits(s, gm, error))
        return false;
    if (gm->fd >= 0 || gm->hugepages)
        return snap_memory_copy(s, gm, error);
    if (!base->zst && !map_range(gm, base, 0, s->pages, error))
        return false;
    for (unsigned i = 0; i < s->extents->len; i++) {
        const MemoryExtent *e = memory_extent(s, i);
        const MemoryFile *f = memory_file(s, e->file);

        if (is_base(s, e) && !base->zst)
            continue;
        if (f->zst || e->count < min ? !copy_extent(s, gm, e, is_base(s, e), error)
                                     : !map_range(gm, f, e->first, e->count, error))
            return false;
    }
    return true;
}
