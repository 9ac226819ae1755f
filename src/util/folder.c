/* See util/folder.h. */
#include "util/folder.h"

#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **folder_names(const char *folder, FolderName *name_of, const void *opaque,
                    GError **error)
{
    g_autoptr(GError) why = NULL;
    GDir *dir = g_dir_open(folder, 0, &why);
    GPtrArray *names;
    const char *leaf;

    if (!dir && !g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        fail(error, VM_ERROR_IO, "%s", why->message);
        return NULL;
    }
    names = g_ptr_array_new();
    while (dir && (leaf = g_dir_read_name(dir))) {
        char *name = name_of(folder, leaf, opaque);

        if (name)
            g_ptr_array_add(names, name);
    }
    if (dir)
        g_dir_close(dir);
    if (names->len)
        qsort(names->pdata, names->len, sizeof(char *), by_bytes);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}
