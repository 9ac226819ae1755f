/* Comparing a snapshot's folder with the hashes it was written with. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "snapshot/hash.h"
#include "src/snapshot/manifest_private.h"
#include "util/bits.h"
#include "util/fd.h"

enum { PIECE = 256 * 1024 };

typedef struct Verify {
    const char *folder;
    void (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
    uint64_t done, total; /* bytes */
} Verify;

static void advance(Verify *v, uint64_t bytes)
{
    v->done += bytes;
    if (v->progress)
        v->progress(v->opaque, MIN(v->done, v->total), v->total);
}

/* ---- files ---------------------------------------------------------------------------
 */

static bool verify_file(const char *folder, const ManifestFile *f, GError **error)
{
    g_autofree char *path = g_build_filename(folder, f->name, NULL);
    g_autofree char *sum = NULL;
    struct stat st;

    if (lstat(path, &st) < 0)
        return fail_errno(error, "'%s'", path);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->size)
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s': it has %" G_GUINT64_FORMAT " bytes, and had %" G_GUINT64_FORMAT
                    ": the file is damaged",
                    path, (uint64_t)st.st_size, f->size);
    sum = hash_file(path, NULL, error);
    if (!sum)
        return false;
    return g_str_equal(sum, f->sha256) ||
           fail(error, VM_ERROR_CORRUPT,
                "'%s': its contents are not what was saved: the file is damaged", path);
}

static bool verify_files(Verify *v, const Manifest *m, GError **error)
{
    for (unsigned i = 0; i < m->files->len; i++) {
        const ManifestFile *f = g_ptr_array_index(m->files, i);

        if (!verify_file(v->folder, f, error))
            return false;
        advance(v, f->size);
    }
    return true;
}

bool manifest_verify_files(const char *folder, const Manifest *m, GError **error)
{
    Verify v = {.folder = folder};

    return verify_files(&v, m, error);
}

/* ---- memory --------------------------------------------------------------------------
 */

static bool all_zero(const char *buf, size_t len)
{
    return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

/* True: the chunk of that hash is what is there. */
static bool compare_chunk(int fd, uint64_t offset, uint64_t len, const char *sum,
                          char *buf, Hasher *h, bool *ret_same, GError **error)
{
    uint8_t hash[HASH_BYTES];
    char text[HASH_TEXT + 1];
    bool zero = true;

    for (uint64_t at = 0; at < len; at += PIECE) {
        size_t n = (size_t)MIN(len - at, PIECE);

        if (!fd_pread_all(fd, buf, n, offset + at, error))
            return false;
        zero = zero && all_zero(buf, n);
        if (*sum)
            hasher_add(h, buf, n);
    }
    hasher_end(h, hash);
    hash_to_text(hash, text);
    *ret_same = *sum ? g_str_equal(text, sum) : zero;
    return true;
}

/* A hole to its end. */
static bool is_hole(int fd, uint64_t offset, uint64_t len)
{
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);

    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + len;
}

static bool verify_chunks(Verify *v, const Manifest *m, const char *path, int fd,
                          GError **error)
{
    g_autofree char *buf = g_malloc(PIECE);
    g_autoptr(Hasher) h = hasher_new();

    for (unsigned i = 0; i < m->memory_chunks->len; i++) {
        const char *sum = g_ptr_array_index(m->memory_chunks, i);
        uint64_t offset = (uint64_t)i * MANIFEST_CHUNK;
        uint64_t len = MIN(m->ram_size - offset, MANIFEST_CHUNK);
        bool same = true;

        if ((*sum || !is_hole(fd, offset, len)) &&
            !compare_chunk(fd, offset, len, sum, buf, h, &same, error)) {
            g_prefix_error(error, "'%s': ", path);
            return false;
        }
        if (!same)
            return fail(error, VM_ERROR_CORRUPT,
                        "'%s': chunk %u (bytes %" G_GUINT64_FORMAT
                        " to %" G_GUINT64_FORMAT
                        ") is not what was saved: the file is damaged",
                        path, i, offset, offset + len - 1);
        advance(v, *sum ? len : 0);
    }
    return true;
}

static bool verify_memory(Verify *v, const Manifest *m, GError **error)
{
    g_autofree char *path = g_build_filename(v->folder, SNAP_MEMORY, NULL);
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, "'%s': open it", path);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != m->ram_size)
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s': it has %" G_GUINT64_FORMAT
                    " bytes, and RAM has %" G_GUINT64_FORMAT ": the file is damaged",
                    path, (uint64_t)st.st_size, m->ram_size);
    return verify_chunks(v, m, path, fd, error);
}

/* ---- all of it -----------------------------------------------------------------------
 */

static uint64_t total_of(const Manifest *m)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < m->files->len; i++)
        total += ((ManifestFile *)g_ptr_array_index(m->files, i))->size;
    for (unsigned i = 0; i < m->memory_chunks->len; i++)
        if (*(const char *)g_ptr_array_index(m->memory_chunks, i))
            total += MIN(m->ram_size - (uint64_t)i * MANIFEST_CHUNK, MANIFEST_CHUNK);
    return total;
}

bool manifest_verify(const char *folder, const Manifest *m,
                     void (*progress)(void *opaque, uint64_t done, uint64_t total),
                     void *opaque, GError **error)
{
    Verify v = {.folder = folder, .progress = progress, .opaque = opaque};
    g_autoptr(Manifest) own = manifest_read(folder, error); /* with the chunks' hashes */

    if (!own || !manifest_read_chunks(own, folder, error))
        return false;
    if (!g_str_equal(own->id, m->id))
        return fail(error, VM_ERROR_CORRUPT, "'%s': it was exchanged for another",
                    folder);
    v.total = total_of(own);
    return verify_files(&v, own, error) && verify_memory(&v, own, error);
}
