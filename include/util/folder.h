/* What lies in a folder. */
#pragma once

#include "util/error.h"

/* The name by which an entry of a folder goes, a new string; NULL: it is none of those
 * that are looked for. */
typedef char *FolderName(const char *folder, const char *leaf, const void *opaque);

/* All of them, sorted by their bytes, to be freed with g_strfreev(); a folder that is not
 * there has none.  NULL: it cannot be read.  Any thread. */
char **folder_names(const char *folder, FolderName *name_of, const void *opaque,
                    GError **error);
