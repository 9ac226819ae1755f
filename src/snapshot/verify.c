/* Comparing a snapshot's folder with the hashes it was written with. */
#include <string.h>
#include <sys/stat.h>

#include "snapshot/hash.h"
#include "snapshot/memory.h"
#include "src/snapshot/manifest_private.h"
#include "util/lock.h"

typedef struct Verify {
    const char *folder;
    void (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
    uint64_t done, total; /* bytes */
} Verify;

/* `more`: than what is done for good. */
static void tell(const Verify *v, uint64_t more)
{
    if (v->progress)
        v->progress(v->opaque, MIN(v->done + more, v->total), v->total);
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

static bool is_disk(const ManifestFile *f)
{
    return g_str_has_prefix(f->name, SNAP_DISKS "/");
}

static bool verify_files(Verify *v, const Manifest *m, bool disks, GError **error)
{
    for (unsigned i = 0; i < m->files->len; i++) {
        const ManifestFile *f = g_ptr_array_index(m->files, i);

        if (is_disk(f) && !disks)
            continue;
        if (!verify_file(v->folder, f, error))
            return false;
        v->done += f->size;
        tell(v, 0);
    }
    return true;
}

bool manifest_verify_files(const char *folder, const Manifest *m, GError **error)
{
    Verify v = {.folder = folder};

    return verify_files(&v, m, false, error);
}

/* ---- memory --------------------------------------------------------------------------
 *
 * Two threads, each of which takes the next chunk; ours also tells how far it is.
 */

typedef struct Work {
    Verify *v;
    const Manifest *m;
    SnapMemory *memory;
    const char *path;
    uint64_t next; /* atomic: a chunk */
    uint64_t done; /* atomic: bytes */
    Lock lock;     /* guards what follows */
    uint64_t bad;  /* the first chunk that is, so far */
    GError *error;
} Work;

static uint64_t chunk_len(const Manifest *m, uint64_t chunk)
{
    return MIN(m->ram_size - chunk * MANIFEST_CHUNK, MANIFEST_CHUNK);
}

static bool all_zero(const uint8_t *buf, size_t len)
{
    return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

static bool has_data(SnapMemory *memory, uint64_t page, uint64_t n)
{
    uint64_t at = page, run;

    return snap_memory_next(memory, &at, &run) && at < page + n;
}

/* Whether the chunk is the one that the hash is of. */
static bool is_same(Work *k, uint64_t chunk, Hasher *h, uint8_t *buf, bool *ret_same,
                    GError **error)
{
    const char *sum = g_ptr_array_index(k->m->memory_chunks, chunk);
    uint64_t page = chunk * (MANIFEST_CHUNK / GM_PAGE_SIZE);
    size_t len = (size_t)chunk_len(k->m, chunk);
    uint8_t hash[HASH_BYTES];
    char text[HASH_TEXT + 1];

    *ret_same = !*sum;
    if (!has_data(k->memory, page, len / GM_PAGE_SIZE))
        return true;
    if (!snap_memory_read(k->memory, page, (unsigned)(len / GM_PAGE_SIZE), buf, error))
        return false;
    if (!*sum) {
        *ret_same = all_zero(buf, len);
        return true;
    }
    hasher_add(h, buf, len);
    hasher_end(h, hash);
    hash_to_text(hash, text);
    *ret_same = g_str_equal(text, sum);
    return true;
}

static bool verify_chunk(Work *k, uint64_t chunk, Hasher *h, uint8_t *buf, GError **error)
{
    uint64_t begin = chunk * MANIFEST_CHUNK;
    bool same;

    if (!is_same(k, chunk, h, buf, &same, error))
        return false;
    return same || fail(error, VM_ERROR_CORRUPT,
                        "'%s': chunk %" G_GUINT64_FORMAT " (bytes %" G_GUINT64_FORMAT
                        " to %" G_GUINT64_FORMAT
                        " of memory) is not what was saved: the file is damaged",
                        k->path, chunk, begin, begin + chunk_len(k->m, chunk) - 1);
}

static void remember(Work *k, uint64_t chunk, GError *error)
{
    LOCK_GUARD(&k->lock);
    if (k->error && k->bad < chunk) {
        g_error_free(error);
        return;
    }
    g_clear_error(&k->error);
    k->error = error;
    k->bad = chunk;
    __atomic_store_n(&k->next, k->m->memory_chunks->len, __ATOMIC_RELAXED);
}

static void verify_some(Work *k, bool tells)
{
    g_autoptr(Hasher) h = hasher_new();
    g_autofree uint8_t *buf = g_malloc(MANIFEST_CHUNK);
    uint64_t chunk;

    while ((chunk = __atomic_fetch_add(&k->next, 1, __ATOMIC_RELAXED)) <
           k->m->memory_chunks->len) {
        GError *error = NULL;

        if (!verify_chunk(k, chunk, h, buf, &error))
            remember(k, chunk, error);
        if (*(char *)g_ptr_array_index(k->m->memory_chunks, chunk))
            __atomic_fetch_add(&k->done, chunk_len(k->m, chunk), __ATOMIC_RELAXED);
        if (tells)
            tell(k->v, __atomic_load_n(&k->done, __ATOMIC_RELAXED));
    }
}

static void *helper_thread(void *opaque)
{
    verify_some(opaque, false);
    return NULL;
}

static bool verify_memory(Verify *v, const Manifest *m, GError **error)
{
    bool zstd = g_str_equal(m->memory_encoding, SNAP_ZSTD);
    g_autofree char *path = g_build_filename(v->folder,
                                             zstd ? SNAP_MEMORY_ZST : SNAP_MEMORY, NULL);
    g_autoptr(SnapMemory) memory = snap_memory_open_alone(v->folder, m, error);
    Work k = {.v = v, .m = m, .memory = memory, .path = path, .lock = LOCK_INIT};
    pthread_t helper;
    bool helped;

    if (!memory)
        return false;
    helped = pthread_create(&helper, NULL, helper_thread, &k) == 0;
    verify_some(&k, true);
    if (helped)
        pthread_join(helper, NULL);
    lock_finish(&k.lock);
    if (k.error)
        g_propagate_error(error, k.error);
    return !k.error;
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
    return verify_files(&v, own, true, error) && verify_memory(&v, own, error);
}
