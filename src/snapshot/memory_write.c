/* Writing guest RAM into a new snapshot: `memory`, sparse, then if asked for memory.zst
 * made from it.  See snapshot/memory.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "memory_private.h"
#include "util/fd.h"

struct SnapMemoryWriter {
    char *folder, *path;
    int fd;
    uint64_t pages;
    uint64_t *data; /* a bit for each page that has data in the file */
    uint64_t *held; /* a bit for each page written, of a diff; else NULL */
    bool zstd;
};

static size_t bit_words(uint64_t pages)
{
    return (pages + 63) / 64;
}

static bool has_bit(const uint64_t *bits, uint64_t page)
{
    return bits[page / 64] >> (page % 64) & 1;
}

static uint64_t count_bits(const uint64_t *bits, uint64_t pages)
{
    uint64_t n = 0;

    for (size_t i = 0; i < bit_words(pages); i++)
        n += (unsigned)__builtin_popcountll(bits[i]);
    return n;
}

static void free_writer(SnapMemoryWriter *w)
{
    if (!w)
        return;
    fd_close(&w->fd);
    g_free(w->data);
    g_free(w->held);
    g_free(w->folder);
    g_free(w->path);
    g_free(w);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapMemoryWriter, free_writer)

SnapMemoryWriter *snap_memory_create(const char *folder, uint64_t ram_size, bool diff,
                                     bool zstd, GError **error)
{
    g_autoptr(SnapMemoryWriter) w = g_new0(SnapMemoryWriter, 1);

    w->fd = -1;
    w->pages = ram_size / GM_PAGE_SIZE;
    w->zstd = zstd;
    w->folder = g_strdup(folder);
    w->path = g_build_filename(folder, SNAP_MEMORY, NULL);
    w->data = g_try_new0(uint64_t, bit_words(w->pages));
    w->held = diff ? g_try_new0(uint64_t, bit_words(w->pages)) : NULL;
    if (!w->data || (diff && !w->held)) {
        fail(error, VM_ERROR_IO, "'%s': no room in memory for its bitmap", w->path);
        return NULL;
    }
    w->fd = open(w->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0 || ftruncate(w->fd, (off_t)ram_size) < 0) {
        fail_errno(error, "'%s': make it, with %" G_GUINT64_FORMAT " bytes", w->path,
                   ram_size);
        return NULL;
    }
    return g_steal_pointer(&w);
}

void snap_memory_abandon(SnapMemoryWriter *w)
{
    if (w)
        unlink(w->path);
    free_writer(w);
}

static bool is_zero(const uint8_t *page)
{
    uint64_t word;

    memcpy(&word, page, sizeof(word));
    return !word && memcmp(page, page + sizeof(word), GM_PAGE_SIZE - sizeof(word)) == 0;
}

/* On file systems that cannot make holes it is written as zeroes. */
static bool make_hole(SnapMemoryWriter *w, uint64_t page, GError **error)
{
    static const uint8_t zeroes[GM_PAGE_SIZE];
    off_t at = (off_t)(page * GM_PAGE_SIZE);

    if (fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, GM_PAGE_SIZE) <
            0 &&
        pwrite(w->fd, zeroes, sizeof(zeroes), at) != sizeof(zeroes))
        return fail_errno(error, "'%s': write a page of zeroes", w->path);
    return true;
}

static bool write_run(SnapMemoryWriter *w, uint64_t page, unsigned n, const uint8_t *data,
                      GError **error)
{
    size_t len = (size_t)n * GM_PAGE_SIZE, done = 0;

    while (done < len) {
        ssize_t got = pwrite(w->fd, data + done, len - done,
                             (off_t)(page * GM_PAGE_SIZE + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno(error, "'%s': write %zu bytes", w->path, len);
        done += (size_t)got;
    }
    for (unsigned i = 0; i < n; i++)
        w->data[(page + i) / 64] |= BIT64((page + i) % 64);
    return true;
}

bool snap_memory_write(SnapMemoryWriter *w, uint64_t page, unsigned n, const void *data,
                       GError **error)
{
    const uint8_t *from = data;
    unsigned begin = 0; /* of pages with data that are not written yet */

    if (!range_within(page, n, w->pages))
        return fail(error, VM_ERROR_INVALID,
                    "'%s': %u pages at page %" G_GUINT64_FORMAT " are beyond RAM",
                    w->path, n, page);
    for (unsigned i = 0; i <= n; i++) {
        bool zero = i < n && is_zero(from + (size_t)i * GM_PAGE_SIZE);

        if (w->held && i < n)
            w->held[(page + i) / 64] |= BIT64((page + i) % 64);
        if (!zero && i < n)
            continue;
        if (begin < i && !write_run(w, page + begin, i - begin,
                                    from + (size_t)begin * GM_PAGE_SIZE, error))
            return false;
        if (zero && has_bit(w->data, page + i)) {
            if (!make_hole(w, page + i, error))
                return false;
            w->data[(page + i) / 64] &= ~BIT64((page + i) % 64);
        }
        begin = i + 1;
    }
    return true;
}

/* ---- the end --------------------------------------------------------------------------
 */

static bool compress_file(SnapMemoryWriter *w, GError **error)
{
    g_autofree char *path = g_build_filename(w->folder, SNAP_MEMORY_ZST, NULL);
    autofd fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

    if (fd < 0)
        return fail_errno(error, "'%s': make it", path);
    if (!memory_zst_write(fd, w->fd, w->data, w->pages, error)) {
        g_prefix_error(error, "'%s': ", path);
        return false;
    }
    if (fsync(fd) < 0)
        return fail_errno(error, "'%s': put it on the disk", path);
    return unlink(w->path) == 0 || fail_errno(error, "'%s': remove it", w->path);
}

bool snap_memory_finish(SnapMemoryWriter *writer, Manifest *m, GError **error)
{
    g_autoptr(SnapMemoryWriter) w = writer;

    m->ram_size = w->pages * GM_PAGE_SIZE;
    m->memory_pages = count_bits(w->held ? w->held : w->data, w->pages);
    g_free(m->memory_encoding);
    m->memory_encoding = g_strdup(w->zstd ? SNAP_ZSTD : SNAP_RAW);
    if (!memory_hash(w->fd, w->data, w->pages, m, error)) {
        g_prefix_error(error, "'%s': ", w->path);
        return false;
    }
    if (w->held &&
        (!memory_runs_save(w->folder, SNAP_MEMORY_MAP, w->held, w->pages, error) ||
         !manifest_add_file(m, w->folder, SNAP_MEMORY_MAP, error)))
        return false;
    if (w->zstd)
        return compress_file(w, error);
    return fsync(w->fd) == 0 || fail_errno(error, "'%s': put it on the disk", w->path);
}
