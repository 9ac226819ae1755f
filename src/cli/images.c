/* The user's image folder: each folder in it with a config.json is a guest that `hutch
 * run NAME` starts. */
#include <stdio.h>
#include <string.h>

#include "src/cli/cli.h"
#include "util/folder.h"
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

bool images_check_name(const char *name, GError **error)
{
    return (*name && *name != '.' && !strchr(name, '/')) ||
           fail(error, VM_ERROR_INVALID,
                "'%s' is no image's name; files are given by --config or --kernel", name);
}

static char *name_of(const char *folder, const char *leaf, const void *opaque)
{
    g_autofree char *config = config_of(folder, leaf);

    return g_file_test(config, G_FILE_TEST_EXISTS) ? g_strdup(leaf) : NULL;
}

/* Never NULL: a folder that cannot be read has none. */
static char **images_list(const char *folder)
{
    char **names = folder_names(folder, name_of, NULL, NULL);

    return names ? names : g_new0(char *, 1);
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
