/* A snapshot's RAM: the newest version of each page, in whichever file of the chain that
 * is; see snapshot/memory.h.
 *
 * The chain is made flat when it is opened: a sorted list of extents, so that a page is
 * found by one binary search however deep the chain is. */
#include "memory_private.h"

#include <string.h>
#include <sys/stat.h>

static void add_extent(GArray *to, uint64_t first, uint64_t end, unsigned file)
{
    MemoryExtent *last = to->len ? &g_array_index(to, MemoryExtent, to->len - 1) : NULL;
    MemoryExtent next = {first, end - first, file};

    if (first >= end)
        return;
    if (last && last->file == file && last->first + last->count == first)
        last->count += next.count;
    else
        g_array_append_val(to, next);
}

/* The parts of `old` in [from, to); *i is where to look, and moves on. */
static void add_old(GArray *to, const GArray *old, unsigned *i, uint64_t from,
                    uint64_t end)
{
    while (*i < old->len) {
        const MemoryExtent *e = &g_array_index(old, MemoryExtent, *i);

        if (e->first >= end)
            return;
        add_extent(to, MAX(e->first, from), MIN(e->first + e->count, end), e->file);
        if (e->first + e->count > end)
            return;
        (*i)++;
    }
}

/* What the runs of a newer file hide of `old`, which is freed. */
static GArray *overlay(GArray *old, const GArray *runs, unsigned file)
{
    GArray *all = g_array_sized_new(false, false, sizeof(MemoryExtent), runs->len);
    uint64_t at = 0;
    unsigned i = 0;

    for (unsigned r = 0; r < runs->len; r++) {
        const MemoryRun *run = &g_array_index(runs, MemoryRun, r);

        add_old(all, old, &i, at, run->first);
        add_extent(all, run->first, run->first + run->count, file);
        at = run->first + run->count;
        while (i < old->len && g_array_index(old, MemoryExtent, i).first +
                                       g_array_index(old, MemoryExtent, i).count <=
                                   at)
            i++;
    }
    add_old(all, old, &i, at, UINT64_MAX);
    g_array_unref(old);
    return all;
}

static void flatten(SnapMemory *s)
{
    s->extents = g_array_new(false, false, sizeof(MemoryExtent));
    for (unsigned i = s->files->len; i-- > 0;) {
        MemoryFile *f = memory_file(s, i);

        if (f->runs)
            s->extents = overlay(s->extents, f->runs, i);
        else
            add_extent(s->extents, 0, s->pages, i);
    }
}

static SnapMemory *new_memory(uint64_t ram_size)
{
    SnapMemory *s = g_new0(SnapMemory, 1);

    s->pages = ram_size / GM_PAGE_SIZE;
    s->files = g_ptr_array_new_with_free_func((GDestroyNotify)memory_file_free);
    return s;
}

static bool add_file(SnapMemory *s, const char *folder, const Manifest *m, GError **error)
{
    MemoryFile *f = memory_file_open(folder, m, error);

    if (f)
        g_ptr_array_add(s->files, f);
    return f != NULL;
}

SnapMemory *snap_memory_open(const char *folder, GError **error)
{
    g_autoptr(GPtrArray) chain = manifest_chain(folder, error);
    g_autoptr(SnapMemory) s = NULL;

    if (!chain)
        return NULL;
    for (unsigned i = 0; i < chain->len; i++) {
        const ManifestLink *link = g_ptr_array_index(chain, i);

        if (!s)
            s = new_memory(link->manifest->ram_size);
        if (!add_file(s, link->folder, link->manifest, error))
            return NULL;
    }
    flatten(s);
    return g_steal_pointer(&s);
}

SnapMemory *snap_memory_open_alone(const char *folder, const Manifest *m, GError **error)
{
    g_autoptr(SnapMemory) s = new_memory(m->ram_size);

    if (!add_file(s, folder, m, error))
        return NULL;
    flatten(s);
    return g_steal_pointer(&s);
}

void snap_memory_close(SnapMemory *s)
{
    if (!s)
        return;
    g_ptr_array_unref(s->files);
    if (s->extents)
        g_array_unref(s->extents);
    g_free(s);
}

uint64_t snap_memory_size(const SnapMemory *s)
{
    return s->pages * GM_PAGE_SIZE;
}

bool snap_memory_is_whole(const SnapMemory *s, GError **error)
{
    for (unsigned i = 0; i < s->files->len; i++) {
        const MemoryFile *f = memory_file(s, i);
        struct stat st;

        if (!f->zst &&
            (fstat(f->fd, &st) < 0 || (uint64_t)st.st_size != s->pages * GM_PAGE_SIZE))
            return fail(error, VM_ERROR_IO, "'%s' was cut off", f->path);
    }
    return true;
}

bool snap_memory_mappable(const SnapMemory *s)
{
    for (unsigned i = 0; i < s->files->len; i++)
        if (memory_file(s, i)->zst)
            return false;
    return true;
}

/* The index of the first extent that ends after `page`. */
static unsigned extent_at(const SnapMemory *s, uint64_t page)
{
    unsigned low = 0, high = s->extents->len;

    while (low < high) {
        unsigned middle = (low + high) / 2;
        const MemoryExtent *e = memory_extent(s, middle);

        if (e->first + e->count > page)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool snap_memory_read(SnapMemory *s, uint64_t page, unsigned n, void *buf, GError **error)
{
    uint8_t *out = buf;

    if (!range_within(page, n, s->pages))
        return fail(error, VM_ERROR_INVALID,
                    "memory: %u pages at page %" G_GUINT64_FORMAT " are beyond RAM", n,
                    page);
    for (unsigned i = extent_at(s, page); n;) {
        const MemoryExtent *e = i < s->extents->len ? memory_extent(s, i) : NULL;
        bool here = e && e->first <= page;
        uint64_t border = here ? e->first + e->count : e ? e->first : s->pages;
        unsigned part = (unsigned)MIN((uint64_t)n, border - page);

        if (!here)
            memset(out, 0, (size_t)part * GM_PAGE_SIZE);
        else if (!memory_file_read(memory_file(s, e->file), page, part, out, error))
            return false;
        i += here;
        page += part;
        n -= part;
        out += (size_t)part * GM_PAGE_SIZE;
    }
    return true;
}

bool snap_memory_next(SnapMemory *s, uint64_t *page, uint64_t *n)
{
    uint64_t at = *page;

    for (unsigned i = extent_at(s, at); i < s->extents->len; i++) {
        const MemoryExtent *e = memory_extent(s, i);

        at = MAX(at, e->first);
        /* What a diff holds counts as such even where it is a hole. */
        if (memory_file(s, e->file)->runs && s->files->len == 1)
            *n = e->first + e->count - at;
        else if (!memory_file_next(memory_file(s, e->file), e->first + e->count, &at, n))
            continue;
        *page = at;
        return true;
    }
    return false;
}
