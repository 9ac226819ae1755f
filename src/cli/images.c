/* The user's image folder: each folder in it with a config.json is a guest that `hutch
 * run NAME` starts. */
#include <stdio.h>
#include <string.h>

#include "src/cli/cli.h"
#include "util/log.h"

#define HOW_TO_BUILD                                                                     \
    "build one with guest-images/build in hutch's source (--list names them), or set "   \
    "HUTCH_IMAGES to a folder that has some"

char *images_folder(void)
{
    const char *given = g_getenv("HUTCH_IMAGES");

    if (given && *given)
        return g_strdup(given);
    return g_build_filename(g_get_user_data_dir(), "hutch", "images", NULL);
}

static char *config_of(const char *folder, const char *name)
{
    return g_build_filename(folder, name, "config.json", NULL);
}

static int by_name(const void *a, const void *b)
{
    return g_strcmp0(*(char *const *)a, *(char *const *)b);
}

bool images_check_name(const char *name, GError **error)
{
    return (*name && *name != '.' && !strchr(name, '/')) ||
           fail(error, VM_ERROR_INVALID,
                "'%s' is no image's name; files are given by --config or --kernel", name);
}

/* Sorted names, never NULL. */
static char **images_list(const char *folder)
{
    GPtrArray *names = g_ptr_array_new();
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *config = config_of(folder, name);

        if (g_file_test(config, G_FILE_TEST_EXISTS))
            g_ptr_array_add(names, g_strdup(name));
    }
    if (dir)
        g_dir_close(dir);
    g_ptr_array_sort(names, by_name);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

char *images_find(const char *name, GError **error)
{
    g_autofree char *folder = images_folder();
    g_autofree char *path = config_of(folder, name);
    g_auto(GStrv) names = images_list(folder);
    g_autofree char *all = g_strjoinv(", ", names);

    if (g_strv_contains((const char *const *)names, name))
        return g_steal_pointer(&path);
    if (*all)
        fail(error, VM_ERROR_INVALID, "there is no image '%s' in '%s'; there are: %s",
             name, folder, all);
    else
        fail(error, VM_ERROR_INVALID, "there is no image '%s' in '%s'; " HOW_TO_BUILD,
             name, folder);
    return NULL;
}

int images_print(void)
{
    g_autofree char *folder = images_folder();
    g_auto(GStrv) names = images_list(folder);

    for (char **name = names; *name; name++)
        puts(*name);
    if (!*names)
        log_info("there are no images in '%s'; " HOW_TO_BUILD, folder);
    return 0;
}
