/* The hashes of a snapshot's RAM, by two threads, of which each takes the next chunk.
 * Only chunks with data are read. */
#include <string.h>

#include "memory_private.h"
#include "snapshot/hash.h"
#include "util/fd.h"
#include "util/lock.h"

enum { CHUNK_PAGES = MANIFEST_CHUNK / GM_PAGE_SIZE, THREADS = 2 };

typedef struct Work {
    int raw;
    const uint64_t *data;
    uint64_t pages;
    GPtrArray *chunks; /* each entry belongs to who took its number */
    uint64_t next;     /* atomic */
    Lock lock;         /* guards error */
    GError *error;
} Work;

static bool any_data(const Work *k, uint64_t first, uint64_t end)
{
    uint64_t count;

    return memory_bits_next(k->data, end, &first, &count);
}

/* The sum as text, "" if the chunk is nothing but zeroes; NULL on failure. */
static char *hash_chunk(Work *k, Hasher *h, uint64_t chunk, uint8_t *buf, GError **error)
{
    uint64_t first = chunk * CHUNK_PAGES;
    uint64_t n = MIN(CHUNK_PAGES, k->pages - first);
    uint8_t hash[HASH_BYTES];
    char *text;

    if (!any_data(k, first, first + n))
        return g_strdup("");
    if (!fd_pread_all(k->raw, buf, n * GM_PAGE_SIZE, first * GM_PAGE_SIZE, error))
        return NULL;
    if (!buf[0] && memcmp(buf, buf + 1, n * GM_PAGE_SIZE - 1) == 0)
        return g_strdup("");
    hasher_add(h, buf, n * GM_PAGE_SIZE);
    hasher_end(h, hash);
    text = g_malloc(HASH_TEXT + 1);
    hash_to_text(hash, text);
    return text;
}

static void *work(void *opaque)
{
    Work *k = opaque;
    g_autoptr(Hasher) h = hasher_new();
    g_autofree uint8_t *buf = g_malloc(MANIFEST_CHUNK);
    uint64_t i;

    while ((i = __atomic_fetch_add(&k->next, 1, __ATOMIC_RELAXED)) < k->chunks->len) {
        g_autoptr(GError) error = NULL;
        char *text = hash_chunk(k, h, i, buf, &error);

        k->chunks->pdata[i] = text;
        if (text)
            continue;
        LOCK_GUARD(&k->lock);
        if (!k->error)
            k->error = g_steal_pointer(&error);
    }
    return NULL;
}

bool memory_hash(int raw, const uint64_t *data, uint64_t pages, Manifest *m,
                 GError **error)
{
    g_autoptr(GPtrArray) chunks = g_ptr_array_new_with_free_func(g_free);
    Work k = {
        .raw = raw, .data = data, .pages = pages, .chunks = chunks, .lock = LOCK_INIT};
    pthread_t helpers[THREADS - 1];
    unsigned n = 0;

    g_ptr_array_set_size(chunks, (gint)((pages + CHUNK_PAGES - 1) / CHUNK_PAGES));
    while (n < G_N_ELEMENTS(helpers) && !pthread_create(&helpers[n], NULL, work, &k))
        n++;
    work(&k);
    while (n)
        pthread_join(helpers[--n], NULL);
    lock_finish(&k.lock);
    if (k.error) {
        g_propagate_error(error, k.error);
        return false;
    }
    g_clear_pointer(&m->memory_chunks, g_ptr_array_unref);
    m->memory_chunks = g_steal_pointer(&chunks);
    g_free(m->memory_sha256);
    m->memory_sha256 = manifest_hash_chunks(m);
    return true;
}
