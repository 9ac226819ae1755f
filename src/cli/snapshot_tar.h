/* A snapshot as one stream: a tar archive (POSIX.1-2001, "ustar Interchange Format", with
 * GNU's sparse files and long numbers), compressed by zstd.  Any tar and zstd can unpack
 * it; what is read is hostile. */
#pragma once

#include <stdint.h>

#include "util/error.h"

enum { TAR_MAX_NAME = 99, TAR_MAX_RUNS = 1 << 20 };

/* Where a sparse file has data; the rest of it is zeroes. */
typedef struct TarRun {
    uint64_t offset, len;
} TarRun;

/* ---- snapshot_stream.c: bytes through zstd ------------------------------------------
 */

typedef struct PackOut PackOut;
PackOut *pack_out_new(int fd, GError **error); /* the fd stays the caller's */
bool pack_write(PackOut *out, const void *data, size_t len, GError **error);
bool pack_end(PackOut *out, GError **error); /* what is still held back */
uint64_t pack_written(const PackOut *out);   /* compressed bytes */
void pack_out_free(PackOut *out);            /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PackOut, pack_out_free)

typedef struct PackIn PackIn;
PackIn *pack_in_new(int fd, GError **error);
/* All of `len`; VM_ERROR_CORRUPT at the end of the stream. */
bool pack_read(PackIn *in, void *data, size_t len, GError **error);
uint64_t pack_taken(const PackIn *in); /* compressed bytes */
void pack_in_free(PackIn *in);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PackIn, pack_in_free)

/* ---- snapshot_tar.c -----------------------------------------------------------------
 */

/* The header of a file whose `size` bytes follow, then tar_pad(). */
bool tar_begin(PackOut *out, const char *name, uint64_t size, GError **error);
/* Of a sparse one of `size` bytes; the data of the runs follows, one after the other. */
bool tar_begin_sparse(PackOut *out, const char *name, uint64_t size, const TarRun *runs,
                      unsigned n, GError **error);
bool tar_pad(PackOut *out, uint64_t size, GError **error); /* of the data that followed */
bool tar_end(PackOut *out, GError **error);

/* An entry that comes. */
typedef struct TarEntry {
    char name[TAR_MAX_NAME + 1];
    bool sparse;
    uint64_t size;   /* of the file */
    uint64_t stored; /* of its data in the archive; the sum of runs */
    GArray *runs;    /* TarRun: ascending, apart, within size; NULL: not sparse */
} TarEntry;

/* The next one; *ret_end at the end of the archive.  Only files are taken: anything else
 * is an error, as are names that are not plain ones.  `runs` of the last one is freed. */
bool tar_next(PackIn *in, TarEntry *e, bool *ret_end, GError **error);
bool tar_skip_pad(PackIn *in, const TarEntry *e, GError **error);
void tar_entry_clear(TarEntry *e);
