/* What the files about guest RAM in snapshots share. */
#pragma once

#include "snapshot/memory.h"
#include "util/bits.h"

/* Pages [first, first + count). */
typedef struct MemoryRun {
    uint64_t first, count;
} MemoryRun;

/* ---- memory_runs.c: which pages a diff holds ------------------------------------------
 */

/* Makes such a file for the bits that are set, one a page, and puts it on the disk. */
bool memory_runs_save(const char *folder, const char *name, const uint64_t *held,
                      uint64_t pages, GError **error);
/* Reads and checks it: sorted, apart, within `pages`.  An array of MemoryRun. */
GArray *memory_runs_load(const char *folder, const char *name, uint64_t pages,
                         GError **error);
/* The next run of bits that are set at or after *first; false: there is none. */
bool memory_bits_next(const uint64_t *bits, uint64_t pages, uint64_t *first,
                      uint64_t *count);

/* ---- memory_zst.c: memory.zst ---------------------------------------------------------
 */

enum { ZST_CHUNK = 64 * 1024, ZST_PAGES = ZST_CHUNK / GM_PAGE_SIZE };

typedef struct MemoryZst MemoryZst;

/* Reads and checks the index.  The descriptor stays the caller's. */
MemoryZst *memory_zst_open(int fd, uint64_t pages, GError **error);
void memory_zst_free(MemoryZst *z);
/* Any thread.  Pages that are not there are zeroes. */
bool memory_zst_read(MemoryZst *z, uint64_t page, unsigned n, uint8_t *buf,
                     GError **error);
/* As snap_memory_next(), whole chunks. */
bool memory_zst_next(const MemoryZst *z, uint64_t *page, uint64_t *n);
/* Compresses the sparse file `raw` into `fd`, whose pages with data are in `data`. */
bool memory_zst_write(int fd, int raw, const uint64_t *data, uint64_t pages,
                      GError **error);

/* ---- memory_hash.c --------------------------------------------------------------------
 */

/* Fills in m->memory_chunks and memory_sha256 from the sparse file `raw`, of which only
 * the pages in `data` can be other than zero. */
bool memory_hash(int raw, const uint64_t *data, uint64_t pages, Manifest *m,
                 GError **error);

/* ---- memory_file.c: one folder's pages ------------------------------------------------
 */

typedef struct MemoryFile {
    char *path;
    int fd;
    MemoryZst *zst; /* NULL: raw */
    GArray *runs;   /* of MemoryRun: a diff's; NULL: it holds all */
} MemoryFile;

MemoryFile *memory_file_open(const char *folder, const Manifest *m, GError **error);
void memory_file_free(MemoryFile *f);
bool memory_file_read(MemoryFile *f, uint64_t page, unsigned n, uint8_t *buf,
                      GError **error);
/* Within [*page, end): the next run that may hold other than zeroes.  False: there is
 * none, and *page is as it was. */
bool memory_file_next(const MemoryFile *f, uint64_t end, uint64_t *page, uint64_t *n);

/* ---- memory.c -------------------------------------------------------------------------
 */

/* Pages whose newest version is in one file. */
typedef struct MemoryExtent {
    uint64_t first, count;
    unsigned file; /* index into files */
} MemoryExtent;

struct SnapMemory {
    uint64_t pages;
    GPtrArray *files; /* of MemoryFile, the newest first */
    GArray *extents;  /* of MemoryExtent, sorted, apart, covering what there is */
};

static inline MemoryFile *memory_file(const SnapMemory *s, unsigned i)
{
    return g_ptr_array_index(s->files, i);
}
static inline const MemoryExtent *memory_extent(const SnapMemory *s, unsigned i)
{
    return &g_array_index(s->extents, MemoryExtent, i);
}
