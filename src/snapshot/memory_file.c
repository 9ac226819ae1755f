/* One folder's pages: `memory`, sparse, or memory.zst; of a diff with memory.map. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "memory_private.h"
#include "util/fd.h"

static bool open_pages(MemoryFile *f, const Manifest *m, GError **error)
{
    struct stat st;

    f->fd = open(f->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return fail_errno(error, "open it");
    if (!S_ISREG(st.st_mode))
        return fail(error, VM_ERROR_CORRUPT, "it is not a file");
    if (g_str_equal(m->memory_encoding, SNAP_ZSTD))
        return (f->zst = memory_zst_open(f->fd, m->ram_size / GM_PAGE_SIZE, error)) !=
               NULL;
    return (uint64_t)st.st_size == m->ram_size ||
           fail(error, VM_ERROR_CORRUPT,
                "it has %" G_GUINT64_FORMAT " bytes, and guest RAM %" G_GUINT64_FORMAT,
                (uint64_t)st.st_size, m->ram_size);
}

MemoryFile *memory_file_open(const char *folder, const Manifest *m, GError **error)
{
    MemoryFile *f = g_new0(MemoryFile, 1);
    bool zstd = g_str_equal(m->memory_encoding, SNAP_ZSTD);

    f->fd = -1;
    f->path = g_build_filename(folder, zstd ? SNAP_MEMORY_ZST : SNAP_MEMORY, NULL);
    if (!open_pages(f, m, error)) {
        g_prefix_error(error, "'%s': ", f->path);
        memory_file_free(f);
        return NULL;
    }
    if (m->parent_id &&
        !(f->runs = memory_runs_load(folder, SNAP_MEMORY_MAP, m->ram_size / GM_PAGE_SIZE,
                                     error))) {
        memory_file_free(f);
        return NULL;
    }
    return f;
}

void memory_file_free(MemoryFile *f)
{
    if (!f)
        return;
    memory_zst_free(f->zst);
    if (f->runs)
        g_array_unref(f->runs);
    fd_close(&f->fd);
    g_free(f->path);
    g_free(f);
}

bool memory_file_read(MemoryFile *f, uint64_t page, unsigned n, uint8_t *buf,
                      GError **error)
{
    bool ok = f->zst ? memory_zst_read(f->zst, page, n, buf, error)
                     : fd_pread_all(f->fd, buf, (size_t)n * GM_PAGE_SIZE,
                                    page * GM_PAGE_SIZE, error);

    if (!ok)
        g_prefix_error(error, "'%s': ", f->path);
    return ok;
}

/* As memory_file_next() of a sparse file. */
static bool next_data(const MemoryFile *f, uint64_t end, uint64_t *page, uint64_t *n)
{
    off_t from = lseek(f->fd, (off_t)(*page * GM_PAGE_SIZE), SEEK_DATA);
    off_t to = from < 0 ? -1 : lseek(f->fd, from, SEEK_HOLE);

    if (from < 0 && errno == ENXIO)
        return false;
    if (to < 0) { /* a file system that does not know: all may be data */
        *n = end - *page;
        return true;
    }
    *page = (uint64_t)from / GM_PAGE_SIZE;
    *n = ((uint64_t)to + GM_PAGE_SIZE - 1) / GM_PAGE_SIZE - *page;
    return true;
}

bool memory_file_next(const MemoryFile *f, uint64_t end, uint64_t *page, uint64_t *n)
{
    uint64_t at = *page, count;

    if (at >= end ||
        !(f->zst ? memory_zst_next(f->zst, &at, &count)
                 : next_data(f, end, &at, &count)) ||
        at >= end)
        return false;
    *page = at;
    *n = MIN(count, end - at);
    return true;
}
