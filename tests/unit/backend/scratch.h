/* A folder for a test's disks, and empty disks in it. */
#pragma once

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

static inline char *new_file(const char *dir, const char *name, size_t size)
{
    char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    close(fd);
    return path;
}

static inline char *new_dir(void)
{
    char *dir = g_dir_make_tmp("hutch-block-XXXXXX", NULL);

    g_assert_nonnull(dir);
    return dir;
}

static inline void remove_dir(char *dir)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        g_remove(path);
    }
    g_dir_close(d);
    g_rmdir(dir);
    g_free(dir);
}
