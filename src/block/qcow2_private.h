/* Private to qcow2_*.c: an open qcow2 image (docs/interop/qcow2 of QEMU is the
 * specification; clauses are cited by their headings).
 *
 *     qcow2.c           the FormatOps table; open, close, reopen, info
 *     qcow2_header.c    header and extensions: parse, check (qcow2_header_check.c), write
 *     qcow2_create.c    a new image; preallocation
 *     qcow2_page.c      the cache of L2 tables and refcount blocks
 *     qcow2_order.c     in which order they and the L1 table go to the disk
 *     qcow2_refcount.c  refcounts of every width; references taken and given back
 *     qcow2_alloc.c     clusters taken
 *     qcow2_l2.c        L1 and L2 tables: from an offset of the disk to an Extent, and
 *                       linking what was written
 *     qcow2_write.c     write and copy up, by pieces; who works on which clusters
 *     qcow2_piece.c     one run of clusters: allocation, copy on write, linking
 *     qcow2_zero.c      zeroes and discards
 *     qcow2_compress.c  zlib and zstd clusters
 *     qcow2_check.c     consistency, repair
 *     qcow2_snapshot.c  internal snapshots
 *     qcow2_resize.c    larger and smaller
 *
 * Locks.  `lock` guards all metadata and is held while it is read and changed, also over
 * I/O on metadata; never over I/O on guest data.  `page_lock` is a leaf under it, held
 * for a few instructions: it guards the contents of cached pages, the page table and
 * l1[], so that a disk's I/O thread can look up a mapping while somebody holds `lock`.
 * Contents of pages and of l1[], and where tables are (h.l1_*, h.reftable_*), are changed
 * with both held.
 *
 * What reaches the disk, and when (a crash at any point leaves no error, at worst leaks):
 *   1. refcounts of newly taken clusters, flushed;
 *   2. guest data (written before it is linked in any cached table), then L2 pages that
 *      refer to them, flushed;
 *   3. the L1 table where it changed, flushed;
 *   4. refcounts of clusters given back: they are reused only after that.
 * With lazy refcounts the dirty bit is set first, and 1 is left for closing. */
#pragma once

#include <inttypes.h>

#include "image_private.h"
#include "util/bits.h"

enum {
    QCOW2_MAGIC = 0x514649fb,
    QCOW2_MIN_CLUSTER_BITS = 9,
    QCOW2_MAX_CLUSTER_BITS = 21,
    QCOW2_PAGE_SIZE = 4096, /* of the metadata cache; less if clusters are smaller */
    QCOW2_MAX_L1_BYTES = 32 << 20,
    QCOW2_MAX_REFTABLE_BYTES = 8 << 20,
    QCOW2_MAX_SNAPSHOTS = 65536,
};
#define QCOW2_MAX_OFFSET BIT64(56) /* of anything that a table entry can point to */

/* Header: incompatible, compatible, autoclear features */
#define QCOW2_INCOMPAT_DIRTY       BIT64(0)
#define QCOW2_INCOMPAT_CORRUPT     BIT64(1)
#define QCOW2_INCOMPAT_DATA_FILE   BIT64(2)
#define QCOW2_INCOMPAT_COMPRESSION BIT64(3)
#define QCOW2_INCOMPAT_EXTENDED_L2 BIT64(4)
#define QCOW2_COMPAT_LAZY          BIT64(0)
#define QCOW2_AUTOCLEAR_BITMAPS    BIT64(0)
#define QCOW2_AUTOCLEAR_RAW_DATA   BIT64(1)

/* L1 and L2 entries */
#define QCOW2_COPIED      BIT64(63) /* refcount is exactly 1: may be written in place */
#define QCOW2_COMPRESSED  BIT64(62)
#define QCOW2_ZERO        BIT64(0)
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull

typedef struct Qcow2Header { /* in the host's byte order */
    uint32_t version;
    uint64_t backing_offset; /* 0: none */
    uint32_t backing_len;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method, l1_entries;
    uint64_t l1_offset, reftable_offset;
    uint32_t reftable_clusters, n_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order, header_len;
    uint8_t compression; /* ImageCompression */
} Qcow2Header;

typedef enum { QCOW2_PAGE_REFCOUNT, QCOW2_PAGE_L2 } Qcow2PageKind;
typedef struct Qcow2Page Qcow2Page; /* qcow2_page.c's: one page of the file */
typedef struct Qcow2Pages Qcow2Pages;
typedef struct Qcow2Refs Qcow2Refs;     /* qcow2_refcount.c's */
typedef struct Qcow2Writes Qcow2Writes; /* qcow2_write.c's: allocations in flight */

typedef struct Qcow2 {
    BlockImage *img;
    BlockFile *file; /* the metadata's, = img->file */
    BlockFile *data; /* the guest data's: file, or the external data file */
    Qcow2Header h;
    char *backing, *backing_format; /* as the header says; NULL: none */
    char *data_path;                /* external data file, as the header says */
    GArray *extensions;    /* Qcow2Extension: kept when the header is rewritten */
    uint8_t *header_extra; /* what follows the fields we know, up to h.header_len: kept */

    uint32_t cluster_size;
    unsigned l2_bits;         /* log2 of the entries of an L2 table */
    unsigned l2_entry_size;   /* 8, or 16 with extended L2 entries */
    unsigned subclusters;     /* per cluster: 32 with extended L2 entries, else 1 */
    uint32_t subcluster_size; /* = cluster_size without */
    uint32_t page_size;
    uint64_t opened_size; /* of the file: what lies beyond was never anybody's */

    Lock lock, page_lock;
    uint64_t *l1;  /* in the host's byte order; h.l1_entries */
    bool l1_dirty; /* in the pieces of l1_dirty_map: one bit per QCOW2_PAGE_SIZE */
    uint64_t l1_dirty_map[QCOW2_MAX_L1_BYTES / QCOW2_PAGE_SIZE / 64];
    bool broken;  /* atomic: metadata cannot be trusted or written; writes get EIO */
    bool lazy;    /* refcounts are written late */
    bool changed; /* atomic: metadata is not as on the disk; flush_is_slow() */
    uint64_t cache_budget; /* bytes of pages */

    Qcow2Pages *pages;
    Qcow2Refs *refs;
    Qcow2Writes *writes;
} Qcow2;

/* Lock held.  There is something for the next flush. */
static inline void qcow2_changed(Qcow2 *s)
{
    __atomic_store_n(&s->changed, true, __ATOMIC_RELAXED);
}

/* Lock held.  An entry of l1[] was changed, and has to reach the disk. */
static inline void qcow2_l1_mark(Qcow2 *s, uint32_t index)
{
    uint32_t piece = index / (QCOW2_PAGE_SIZE / 8);

    s->l1_dirty_map[piece / 64] |= BIT64(piece % 64);
    s->l1_dirty = true;
    qcow2_changed(s);
}

static inline bool qcow2_broken(const Qcow2 *s)
{
    return __atomic_load_n(&s->broken, __ATOMIC_RELAXED);
}

/* ---- qcow2_header.c ------------------------------------------------------------ */

#define QCOW2_EXT_END            0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES  0x6803f857u
#define QCOW2_EXT_BITMAPS        0x23852875u
#define QCOW2_EXT_CRYPT          0x0537be77u
#define QCOW2_EXT_DATA_FILE      0x44415441u

/* Header extensions, but for names of the backing format and the data file, which have
 * members of their own. */
typedef struct Qcow2Extension {
    uint32_t type, len;
    uint8_t *data;
} Qcow2Extension;
/* NULL: there is none. */
const Qcow2Extension *qcow2_extension(const Qcow2 *s, uint32_t type);
void qcow2_add_extension(Qcow2 *s, uint32_t type, const void *data, uint32_t len);

/* Reads and judges header and extensions into s; errors name the field.  Unknown
 * incompatible features are refused by their names from the feature name table. */
bool qcow2_header_read(Qcow2 *s, const BlockOptions *options, unsigned flags,
                       GError **error);
/* Lock held (or nobody else there yet).  Writes header and extensions from s, in place,
 * within the first cluster. */
bool qcow2_header_write(Qcow2 *s, GError **error);
/* Lock held.  Has the header point to another refcount table; not flushed. */
int qcow2_header_move_reftable(Qcow2 *s, uint64_t offset, uint32_t clusters);
/* Lock held.  Sets or clears incompatible feature bits on the disk, flushed. */
int qcow2_set_incompatible(Qcow2 *s, uint64_t bits, bool on);
/* Any thread.  Metadata makes no sense: logs the sentence, sets the corrupt bit if the
 * image is writable, refuses all further writing.  Returns EIO.  Lock held. */
int qcow2_corrupt(Qcow2 *s, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* ---- qcow2_page.c, qcow2_order.c ----------------------------------------------- */

Qcow2Pages *qcow2_pages_new(Qcow2 *s);
void qcow2_pages_free(Qcow2Pages *p); /* NULL is fine; writes nothing */

/* Lock held; may sleep.  The page of the file that holds the byte at `offset`; it stays
 * until qcow2_page_put().  new: it is not read but zeroed, and dirty. */
int qcow2_page_get(Qcow2 *s, Qcow2PageKind kind, uint64_t offset, bool new_,
                   Qcow2Page **ret);
void qcow2_page_put(Qcow2 *s, Qcow2Page *page);
/* Lock held.  Its bytes, to be read. */
const uint8_t *qcow2_page_data(const Qcow2Page *page);
/* Lock held: changes bytes of it (page_lock is taken inside), and marks it dirty. */
void qcow2_page_set(Qcow2 *s, Qcow2Page *page, unsigned at, const void *buf, size_t len);

/* Any thread, never sleeps: copies [offset, offset + len) of the file, within one page,
 * if that page is cached. */
bool qcow2_page_peek(Qcow2 *s, uint64_t offset, void *buf, size_t len);

/* Lock held.  Writes back, in the order that the head of this file gives; on return all
 * is on the disk, and clusters given back are free. */
int qcow2_flush_metadata(Qcow2 *s);
/* The same but for the last sync, which needs no lock held: qcow2_flush_files(), unless
 * *ret_synced says that nothing more is to wait for.  If that fails:
 * qcow2_redo_written(), with the lock held. */
int qcow2_write_metadata(Qcow2 *s, bool *ret_synced);
int qcow2_flush_files(Qcow2 *s);
void qcow2_redo_written(Qcow2 *s);
/* Lock held.  As qcow2_flush_metadata(), and late refcounts too; clears the dirty bit. */
int qcow2_settle(Qcow2 *s);
/* Lock held.  Drops pages of a range of the file, written or not: it is no table now. */
void qcow2_pages_forget(Qcow2 *s, uint64_t offset, uint64_t len);
/* Lock held.  Metadata was written past the cache: the next steps have to wait for it. */
void qcow2_unsynced(Qcow2 *s);
uint64_t qcow2_syncs(const Qcow2 *s); /* how often we have waited */
int qcow2_sync_metadata(Qcow2 *s); /* waits for what was written; not for what is dirty */

/* ---- qcow2_refcount.c ---------------------------------------------------------- */

/* Reads the refcount table; also once it was rebuilt.  The entries are judged when they
 * are used. */
bool qcow2_refs_open(Qcow2 *s, GError **error);
void qcow2_refs_close(Qcow2 *s); /* NULL refs are fine; writes nothing */

/* Lock held, all of these.  The count without the references given back, though the disk
 * may say more until the next flush. */
int qcow2_ref_get(Qcow2 *s, uint64_t offset, uint64_t *ret);
/* Adds `delta` (+1, -1) to each of n clusters from `offset` on.  What becomes free is
 * reused, and its place given back to the host's file system, after the next
 * qcow2_flush_metadata().  Call it with -1 *after* the reference is gone from the tables
 * in memory: where much is given back, it writes them back on its way.  A refcount that
 * would overflow is ERANGE, with nothing changed; one that would fall below 0 is
 * corruption. */
int qcow2_ref_add(Qcow2 *s, uint64_t offset, uint64_t n, int delta);
/* Takes up to `n` clusters in a row, with refcount 1: *ret_n of them, at least one.
 * *ret_zero: they read as zeroes now (a new part of a file, not of a device). */
int qcow2_alloc(Qcow2 *s, uint64_t n, uint64_t *ret_offset, uint64_t *ret_n,
                bool *ret_zero);
/* All of n in a row or ENOSPC/EFBIG: for tables. */
int qcow2_alloc_run(Qcow2 *s, uint64_t n, uint64_t *ret_offset);
/* Takes `bytes` (at most a cluster) for compressed data: may share a cluster with the
 * ones before, whose refcount it then raises. */
int qcow2_alloc_bytes(Qcow2 *s, uint64_t bytes, uint64_t *ret_offset);
/* Writes into every refcount (widest use: repair, tables moved). */
int qcow2_ref_set(Qcow2 *s, uint64_t offset, uint64_t value);
/* Behind the last cluster taken since opening; 0: none was. */
uint64_t qcow2_refs_end(const Qcow2 *s);
/* qcow2_order.c's, when its turn comes: refcount pages are written, now the table; the
 * tables without them are on the disk, now the references given back; syncing failed. */
int qcow2_refs_write_table(Qcow2 *s);
bool qcow2_refs_to_apply(const Qcow2 *s);
int qcow2_refs_apply(Qcow2 *s);
void qcow2_refs_redo(Qcow2 *s);
/* One refcount in the bytes of a refcount block. */
uint64_t qcow2_refcount_load(const uint8_t *block, unsigned order, uint64_t index);
void qcow2_refcount_store(uint8_t *block, unsigned order, uint64_t index, uint64_t value);
/* Whether [offset, offset + len) of the file overlaps the header, the L1 table, the
 * refcount table or the snapshot table: no guest data may go there. */
bool qcow2_is_metadata(const Qcow2 *s, uint64_t offset, uint64_t len);

/* ---- qcow2_l2.c ---------------------------------------------------------------- */

/* FormatOps.lookup. */
int qcow2_lookup(BlockImage *img, uint64_t offset, uint64_t len, bool may_sleep,
                 Extent *ret);

/* An L2 entry, whatever its size. */
typedef struct Qcow2Entry {
    uint64_t entry;  /* standard descriptor and flags */
    uint64_t bitmap; /* extended L2: allocated in the low half, zero in the high half */
} Qcow2Entry;

/* Lock held; may sleep.  Entries of whole clusters by their offset on the disk; get gives
 * zeroes where there is no L2 table, set makes one (copying it first if a snapshot shares
 * it). */
int qcow2_entry_get(Qcow2 *s, uint64_t disk_offset, Qcow2Entry *ret);
int qcow2_entry_set(Qcow2 *s, uint64_t disk_offset, const Qcow2Entry *e);
/* Lock held.  Changes one entry of the L1 table, in memory: written by the next flush. */
void qcow2_l1_set(Qcow2 *s, uint32_t index, uint64_t entry);
/* Lock held.  Gives back the host clusters that an L2 entry refers to. */
int qcow2_entry_free(Qcow2 *s, const Qcow2Entry *e);

/* ---- qcow2_write.c, qcow2_compress.c: FormatOps -------------------------------- */

Qcow2Writes *qcow2_writes_new(Qcow2 *s);
void qcow2_writes_free(Qcow2Writes *w);
int qcow2_write(BlockImage *img, uint64_t offset, const struct iovec *iov, unsigned n_iov,
                uint64_t skip, uint64_t len);
int qcow2_zero(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap);
int qcow2_discard(BlockImage *img, uint64_t offset, uint64_t len);
int qcow2_copy_up(BlockImage *img, uint64_t offset, uint64_t len);
int qcow2_read_compressed(BlockImage *img, uint64_t offset, const struct iovec *iov,
                          unsigned n_iov, uint64_t skip, uint64_t len);
int qcow2_write_compressed(BlockImage *img, uint64_t offset, const void *buf, size_t len);

/* ---- qcow2_create.c, qcow2_check.c, qcow2_snapshot.c, qcow2_resize.c: FormatOps
 * --------
 */

bool qcow2_create(BlockFile *file, const ImageCreate *how, GError **error);
bool qcow2_check(BlockImage *img, ImageRepair repair, ImageCheck *ret,
                 void (*say)(void *opaque, const char *text), void *opaque,
                 GError **error);
bool qcow2_snapshot_list(BlockImage *img, ImageSnapshot **ret, unsigned *ret_n,
                         GError **error);
bool qcow2_snapshot_create(BlockImage *img, const char *name, GError **error);
bool qcow2_snapshot_apply(BlockImage *img, const char *name, GError **error);
bool qcow2_snapshot_delete(BlockImage *img, const char *name, GError **error);
bool qcow2_snapshot_show(BlockImage *img, const char *name, GError **error);
bool qcow2_resize(BlockImage *img, uint64_t size, GError **error);

static inline Qcow2 *qcow2_of(BlockImage *img)
{
    return img->state;
}
