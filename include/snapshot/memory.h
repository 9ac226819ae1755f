/* Guest RAM in a snapshot's folder; docs/snapshot-format.md has the bytes.
 *
 * `memory` is sparse: page P of RAM at byte P * 4096, pages of zeroes are holes.
 * `memory.zst` has the same pages compressed.  A diff holds only the pages that changed
 * since its parent, and says in `memory.map` which they are, so that a copy of the sparse
 * file may lose its holes and yet loses nothing.
 *
 * Pages are counted from the beginning of the RAM file (GuestRegion.offset), 4096 bytes
 * each.  What is read comes from strangers: sizes, lists and offsets are checked when the
 * files are opened, and what cannot be read later is an error, never zeroes. */
#pragma once

#include "core/guestmem.h"
#include "snapshot/manifest.h"
#include "state/state.h"

/* ---- reading --------------------------------------------------------------------------
 */

/* The RAM of one snapshot, with its parents' where it is a diff, open for reading. */
typedef struct SnapMemory SnapMemory;

/* Any thread.  Follows the manifests of the chain.  NULL on failure. */
SnapMemory *snap_memory_open(const char *folder, GError **error);

/* What this folder holds alone: pages of its parents read as zeroes, and
 * snap_memory_next() does not return them.  What the manifest's hashes are of. */
SnapMemory *snap_memory_open_alone(const char *folder, const Manifest *m, GError **error);
void snap_memory_close(SnapMemory *s); /* NULL is fine; mappings stay */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapMemory, snap_memory_close)

uint64_t snap_memory_size(const SnapMemory *s); /* of RAM, bytes */

/* Whether all of it can be mapped as it is: nothing is compressed. */
bool snap_memory_mappable(const SnapMemory *s);

/* Any thread, several at once.  Reads n pages.  The error names the file. */
bool snap_memory_read(SnapMemory *s, uint64_t page, unsigned n, void *buf,
                      GError **error);

/* Any thread.  The next run of pages, at or after *page, that may not be zero; false:
 * there is none.  With snap_memory_open_alone() of a diff: the pages that it holds. */
bool snap_memory_next(SnapMemory *s, uint64_t *page, uint64_t *n);
/* Whether the files that are not compressed have the size they had: of one that was cut
 * off, snap_memory_next() takes what is missing for zeroes.  To be asked before and after
 * it, wherever zeroes matter. */
bool snap_memory_is_whole(const SnapMemory *s, GError **error);

/* Main thread, before memory slots are made.  Puts the RAM at gm->base: by MAP_PRIVATE of
 * the files, in a time that does not depend on the size of RAM but on how many separate
 * pieces diffs have (at most a few thousand are mapped, what is left over is copied).
 * What cannot be mapped is copied: what is compressed, and all of it where RAM is shared
 * or in huge pages.  snap_memory_copy() copies all; RAM must be zero before. */
bool snap_memory_map(SnapMemory *s, GuestMem *gm, GError **error);
bool snap_memory_copy(SnapMemory *s, GuestMem *gm, GError **error);

/* ---- writing --------------------------------------------------------------------------
 */

/* One thread at a time. */
typedef struct SnapMemoryWriter SnapMemoryWriter;

/* Makes the file in a folder that is there.  `diff`: pages that are never written are the
 * parent's; else they are zero. */
SnapMemoryWriter *snap_memory_create(const char *folder, uint64_t ram_size, bool diff,
                                     bool zstd, GError **error);

/* In any order, and again what was written before.  `data` may change meanwhile, if those
 * pages are then written again. */
bool snap_memory_write(SnapMemoryWriter *w, uint64_t page, unsigned n, const void *data,
                       GError **error);

/* Compresses if it was asked for, puts all on the disk, and fills in m->ram_size,
 * memory_pages, memory_encoding, memory_chunks and memory_sha256.  Frees the writer, in
 * either case; after a failure files are left over in the folder. */
bool snap_memory_finish(SnapMemoryWriter *w, Manifest *m, GError **error);
void snap_memory_abandon(SnapMemoryWriter *w); /* NULL is fine; the file is removed */

extern const StateTable *const memory_state_tables[]; /* NULL-terminated: memory.map's */
