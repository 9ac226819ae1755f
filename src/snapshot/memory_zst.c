/* memory.zst: guest RAM in chunks of 64 KiB, each that is not zero a zstd frame of its
 * own, in any order, and then an index, so that any page is found without what is before
 * it.  docs/snapshot-format.md has the bytes.  The index is a skippable frame of zstd's:
 *
 *     u32 0x184D2A5E, u32 bytes that follow,
 *     entries, by chunk: u32 chunk, u32 bytes of its frame, u64 where that begins
 *     u64 pages of RAM, u32 entries, u32 CRC-32 of them, u32 65536, u32 1, "HUTCHZST"
 */
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "memory_private.h"
#include "util/fd.h"
#include "util/lock.h"

enum {
    FRAME_HEAD = 8,
    ENTRY = 16,
    TAIL = 32,
    VERSION = 1,
    LEVEL = 1,
    THREADS = 2,
    FRAME_MAX = ZSTD_COMPRESSBOUND(ZST_CHUNK),
    WINDOW_LOG = 20, /* of what is read; chunks need 16 */
};
#define SKIPPABLE 0x184D2A5Eu
static const char magic[8] = {'H', 'U', 'T', 'C', 'H', 'Z', 'S', 'T'};

typedef struct Entry {
    uint32_t chunk, len;
    uint64_t offset;
} Entry;

/* What unpacking takes; used by one thread at a time. */
typedef struct Unpacker {
    struct Unpacker *next;
    ZSTD_DCtx *zstd;
    uint8_t packed[FRAME_MAX], plain[ZST_CHUNK];
} Unpacker;

struct MemoryZst {
    int fd;
    uint64_t pages;
    Entry *entries;
    uint32_t n;
    Lock lock; /* guards idle */
    Unpacker *idle;
};

/* ---- the index ------------------------------------------------------------------------
 */

static bool check_entries(MemoryZst *z, uint64_t data_end, GError **error)
{
    uint64_t chunks = (z->pages + ZST_PAGES - 1) / ZST_PAGES;

    for (uint32_t i = 0; i < z->n; i++) {
        const Entry *e = &z->entries[i];

        if (e->chunk >= chunks || (i && e->chunk <= z->entries[i - 1].chunk) || !e->len ||
            e->len > FRAME_MAX || !range_within(e->offset, e->len, data_end))
            return fail(error, VM_ERROR_CORRUPT,
                        "entry %u of its index (chunk %u, %u bytes at %" G_GUINT64_FORMAT
                        ") is out of order or beyond the file",
                        i, e->chunk, e->len, e->offset);
    }
    return true;
}

static bool load_index(MemoryZst *z, GError **error)
{
    uint8_t tail[TAIL];
    uint64_t bytes, begin;
    struct stat st;

    if (fstat(z->fd, &st) < 0)
        return fail_errno(error, "ask for its size");
    if (st.st_size < FRAME_HEAD + TAIL)
        return fail(error, VM_ERROR_CORRUPT, "it is too short for an index");
    if (!fd_pread_all(z->fd, tail, TAIL, (uint64_t)st.st_size - TAIL, error))
        return false;
    if (memcmp(tail + 24, magic, sizeof(magic)) || load_le32(tail + 20) != VERSION ||
        load_le32(tail + 16) != ZST_CHUNK)
        return fail(error, VM_ERROR_CORRUPT,
                    "it does not end with an index of version %d: it was cut off, or is "
                    "something else",
                    VERSION);
    if (load_le64(tail) != z->pages)
        return fail(error, VM_ERROR_CORRUPT,
                    "it has %" G_GUINT64_FORMAT " pages of RAM, not %" G_GUINT64_FORMAT,
                    load_le64(tail), z->pages);
    z->n = load_le32(tail + 8);
    bytes = (uint64_t)z->n * ENTRY;
    if (z->n > (z->pages + ZST_PAGES - 1) / ZST_PAGES ||
        !range_within(bytes, FRAME_HEAD + TAIL, (uint64_t)st.st_size))
        return fail(error, VM_ERROR_CORRUPT, "its index has no room for %u entries",
                    z->n);
    begin = (uint64_t)st.st_size - TAIL - bytes;
    z->entries = g_try_malloc(bytes + 1);
    if (!z->entries)
        return fail(error, VM_ERROR_IO, "no room in memory for its index");
    /* Entry is as it is in the file. */
    if (!fd_pread_all(z->fd, z->entries, bytes, begin, error))
        return false;
    if (crc32(0, (const Bytef *)z->entries, (uInt)bytes) != load_le32(tail + 12))
        return fail(error, VM_ERROR_CORRUPT, "its index has another checksum");
    return check_entries(z, begin - FRAME_HEAD, error);
}

MemoryZst *memory_zst_open(int fd, uint64_t pages, GError **error)
{
    MemoryZst *z = g_new0(MemoryZst, 1);

    z->fd = fd;
    z->pages = pages;
    lock_init(&z->lock);
    if (load_index(z, error))
        return z;
    memory_zst_free(z);
    return NULL;
}

void memory_zst_free(MemoryZst *z)
{
    if (!z)
        return;
    for (Unpacker *u = z->idle, *next; u; u = next) {
        next = u->next;
        ZSTD_freeDCtx(u->zstd);
        g_free(u);
    }
    lock_finish(&z->lock);
    g_free(z->entries);
    g_free(z);
}

/* The first entry of that chunk or one after it; z->n: there is none. */
static uint32_t find_entry(const MemoryZst *z, uint64_t chunk)
{
    uint32_t low = 0, high = z->n;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (z->entries[middle].chunk >= chunk)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool memory_zst_next(const MemoryZst *z, uint64_t *page, uint64_t *n)
{
    uint32_t i = find_entry(z, *page / ZST_PAGES), end = i;

    if (i == z->n)
        return false;
    while (end < z->n && z->entries[end].chunk == z->entries[i].chunk + (end - i))
        end++;
    *page = MAX(*page, (uint64_t)z->entries[i].chunk * ZST_PAGES);
    *n = MIN(((uint64_t)z->entries[end - 1].chunk + 1) * ZST_PAGES, z->pages) - *page;
    return true;
}

/* ---- unpacking ------------------------------------------------------------------------
 */

static Unpacker *unpacker_take(MemoryZst *z)
{
    Unpacker *u;

    lock_acquire(&z->lock);
    u = z->idle;
    if (u)
        z->idle = u->next;
    lock_release(&z->lock);
    if (u || !(u = g_try_new0(Unpacker, 1)))
        return u;
    u->zstd = ZSTD_createDCtx();
    if (u->zstd) {
        ZSTD_DCtx_setParameter(u->zstd, ZSTD_d_windowLogMax, WINDOW_LOG);
        return u;
    }
    g_free(u);
    return NULL;
}

static void unpacker_put(MemoryZst *z, Unpacker *u)
{
    LOCK_GUARD(&z->lock);

    u->next = z->idle;
    z->idle = u;
}

static bool unpack(MemoryZst *z, Unpacker *u, const Entry *e, uint8_t *out,
                   GError **error)
{
    uint64_t first = (uint64_t)e->chunk * ZST_PAGES;
    size_t want = MIN(ZST_PAGES, z->pages - first) * GM_PAGE_SIZE, got;

    if (!fd_pread_all(z->fd, u->packed, e->len, e->offset, error))
        return false;
    got = ZSTD_decompressDCtx(u->zstd, out, want, u->packed, e->len);
    if (ZSTD_isError(got) || got != want)
        return fail(error, VM_ERROR_CORRUPT,
                    "the chunk of page %" G_GUINT64_FORMAT " cannot be unpacked (%s)",
                    first, ZSTD_isError(got) ? ZSTD_getErrorName(got) : "another size");
    return true;
}

/* Pages within one chunk. */
static bool read_part(MemoryZst *z, Unpacker *u, uint64_t page, unsigned n, uint8_t *buf,
                      GError **error)
{
    uint32_t i = find_entry(z, page / ZST_PAGES);
    bool all = page % ZST_PAGES == 0 && (n == ZST_PAGES || page + n == z->pages);

    if (i == z->n || z->entries[i].chunk != page / ZST_PAGES) {
        memset(buf, 0, (size_t)n * GM_PAGE_SIZE);
        return true;
    }
    if (!unpack(z, u, &z->entries[i], all ? buf : u->plain, error))
        return false;
    if (!all)
        memcpy(buf, u->plain + page % ZST_PAGES * GM_PAGE_SIZE, (size_t)n * GM_PAGE_SIZE);
    return true;
}

bool memory_zst_read(MemoryZst *z, uint64_t page, unsigned n, uint8_t *buf,
                     GError **error)
{
    Unpacker *u = unpacker_take(z);
    bool ok = u || fail(error, VM_ERROR_IO, "no room in memory to unpack it");

    while (ok && n) {
        unsigned part = (unsigned)MIN((uint64_t)n, ZST_PAGES - page % ZST_PAGES);

        ok = read_part(z, u, page, part, buf, error);
        page += part;
        n -= part;
        buf += (size_t)part * GM_PAGE_SIZE;
    }
    if (u)
        unpacker_put(z, u);
    return ok;
}

/* ---- packing: each thread takes the next chunk ----------------------------------------
 */

typedef struct Packing {
    int fd, raw;
    uint64_t pages;
    Entry *entries; /* each belongs to who took its number */
    uint32_t n;
    uint32_t next; /* atomic */
    Lock lock;     /* guards what follows */
    uint64_t end;  /* of what is in the file */
    GError *error;
} Packing;

static bool pack(Packing *k, ZSTD_CCtx *zstd, Entry *e, uint8_t *plain, uint8_t *packed,
                 GError **error)
{
    uint64_t first = (uint64_t)e->chunk * ZST_PAGES;
    size_t len = MIN(ZST_PAGES, k->pages - first) * GM_PAGE_SIZE, got;

    if (!fd_pread_all(k->raw, plain, len, first * GM_PAGE_SIZE, error))
        return false;
    got = ZSTD_compress2(zstd, packed, FRAME_MAX, plain, len);
    if (ZSTD_isError(got))
        return fail(error, VM_ERROR_IO, "compress: %s", ZSTD_getErrorName(got));
    e->len = (uint32_t)got;
    lock_acquire(&k->lock);
    e->offset = k->end;
    k->end += got;
    lock_release(&k->lock);
    for (size_t done = 0; done < got;) {
        ssize_t n = pwrite(k->fd, packed + done, got - done, (off_t)(e->offset + done));

        if (n < 0)
            return fail_errno(error, "write %zu bytes", got);
        done += (size_t)n;
    }
    return true;
}

static void *pack_chunks(void *opaque)
{
    Packing *k = opaque;
    g_autofree uint8_t *plain = g_malloc(ZST_CHUNK), *packed = g_malloc(FRAME_MAX);
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    g_autoptr(GError) error = NULL;
    uint32_t i;

    if (!zstd) {
        fail(&error, VM_ERROR_IO, "no room in memory to compress");
    } else {
        ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, LEVEL);
        ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    }
    while (!error && (i = __atomic_fetch_add(&k->next, 1, __ATOMIC_RELAXED)) < k->n)
        pack(k, zstd, &k->entries[i], plain, packed, &error);
    ZSTD_freeCCtx(zstd);
    LOCK_GUARD(&k->lock);
    if (error && !k->error)
        k->error = g_steal_pointer(&error);
    return NULL;
}

static GArray *chunks_with_data(const uint64_t *data, uint64_t pages)
{
    GArray *entries = g_array_new(false, true, sizeof(Entry));
    uint64_t page = 0, count;

    while (memory_bits_next(data, pages, &page, &count)) {
        Entry e = {.chunk = (uint32_t)(page / ZST_PAGES)};

        g_array_append_val(entries, e);
        page = align_down(page, ZST_PAGES) + ZST_PAGES;
    }
    return entries;
}

static bool write_index(Packing *k, GError **error)
{
    uint64_t bytes = (uint64_t)k->n * ENTRY;
    uint8_t head[FRAME_HEAD], tail[TAIL];

    store_le32(head, SKIPPABLE);
    store_le32(head + 4, (uint32_t)(bytes + TAIL));
    store_le64(tail, k->pages);
    store_le32(tail + 8, k->n);
    store_le32(tail + 12, (uint32_t)crc32(0, (const Bytef *)k->entries, (uInt)bytes));
    store_le32(tail + 16, ZST_CHUNK);
    store_le32(tail + 20, VERSION);
    memcpy(tail + 24, magic, sizeof(magic));
    if (lseek(k->fd, (off_t)k->end, SEEK_SET) < 0)
        return fail_errno(error, "go to its end");
    return fd_write_all(k->fd, head, sizeof(head), error) &&
           fd_write_all(k->fd, k->entries, bytes, error) &&
           fd_write_all(k->fd, tail, sizeof(tail), error);
}

bool memory_zst_write(int fd, int raw, const uint64_t *data, uint64_t pages,
                      GError **error)
{
    g_autoptr(GArray) entries = chunks_with_data(data, pages);
    Packing k = {.fd = fd, .raw = raw, .pages = pages, .lock = LOCK_INIT};
    pthread_t helpers[THREADS - 1];
    unsigned n = 0;

    k.entries = (Entry *)(void *)entries->data;
    k.n = entries->len;
    while (n < G_N_ELEMENTS(helpers) &&
           !pthread_create(&helpers[n], NULL, pack_chunks, &k))
        n++;
    pack_chunks(&k);
    while (n)
        pthread_join(helpers[--n], NULL);
    lock_finish(&k.lock);
    if (!k.error)
        return write_index(&k, error);
    g_propagate_error(error, k.error);
    return false;
}
