/* SHA-256 (FIPS 180-4), for the files and the memory of snapshots.
 *
 * The work is done by nettle, which uses the processor's own instructions for it; the
 * library is loaded with the first Hasher.  Hosts without it hash with GLib, which takes
 * three times as long. */
#pragma once

#include <stdint.h>

#include "util/error.h"

enum {
    HASH_BYTES = 32,
    HASH_TEXT = 2 * HASH_BYTES, /* lower-case hexadecimal digits, without the zero */
};

/* One thread at a time; several may have one each. */
typedef struct Hasher Hasher;

Hasher *hasher_new(void);
void hasher_add(Hasher *h, const void *data, size_t len);
/* What was added since the beginning, or since it was last asked; begins anew. */
void hasher_end(Hasher *h, uint8_t ret[HASH_BYTES]);
void hasher_free(Hasher *h); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Hasher, hasher_free)

/* Any thread. */
void hash_to_text(const uint8_t hash[HASH_BYTES], char ret[HASH_TEXT + 1]);
/* False: it is not the text of one. */
bool hash_from_text(const char *text, uint8_t ret[HASH_BYTES]);

/* A new string: the hash of a whole file, as text.  *ret_size (or NULL): how many bytes
 * that was.  NULL on failure, with a sentence that begins with the path. */
char *hash_file(const char *path, uint64_t *ret_size, GError **error);
