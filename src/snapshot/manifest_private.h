/* What the files about manifests share. */
#pragma once

#include "snapshot/manifest.h"

/* A whole file of at most `max` bytes, without following a link; *ret has a zero at its
 * end.  Errors begin with the path. */
bool manifest_load(const char *path, size_t max, char **ret, size_t *ret_len,
                   GError **error);
/* Makes a file of the folder, and puts it on the disk. */
bool manifest_store(const char *folder, const char *name, const char *text,
                    GError **error);
bool manifest_write_chunks(const Manifest *m, const char *folder, GError **error);
