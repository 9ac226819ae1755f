/* Unpacks a tar stream from a source that is not trusted, as it comes. */
#pragma once

#include "util/error.h"

typedef struct Untar Untar;

/* Into the folder `root_fd`, which stays the caller's.  Only files, folders, symbolic and
 * hard links are made, each of which is new; nothing outside of the folder is touched,
 * whatever the names and links are.  Of modes only the nine permission bits are taken,
 * and the owner is who unpacks.  Other kinds of files are left out, and counted. */
Untar *untar_new(int root_fd);
bool untar_feed(Untar *u, const char *data, size_t len, GError **error);
/* False if it ended too early. */
bool untar_finish(Untar *u, unsigned *ret_left_out, GError **error);
void untar_free(Untar *u); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Untar, untar_free)
