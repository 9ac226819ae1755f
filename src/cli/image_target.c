/* Files that are complete or not there: made under a temporary name in the same folder,
 * on the disk before they get their own.
 *
 * NAME.partial-XXXXXX is what a kill -9 leaves behind: nothing refers to it, and it may
 * be removed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/image.h"
#include "util/fd.h"
#include "util/log.h"

/* ---- beginning -------------------------------------------------------------------- */

/* Where a link leads, so that the file is replaced and not the link. */
static char *resolve(const char *path)
{
    char *real = realpath(path, NULL);
    char *copy = g_strdup(real ? real : path);

    free(real);
    return copy;
}

static bool hold_old(Target *t, const struct stat *st, GError **error)
{
    const BlockOptions options = {.path = t->path,
                                  .format = BLOCK_FORMAT_RAW,
                                  .cache = BLOCK_CACHE_WRITEBACK,
                                  .lock = true};

    if (st->st_size < BLOCK_SECTOR)
        return true; /* nothing that could be in use as a disk */
    t->old = image_open(&options, IMAGE_NO_BACKING, error);
    return t->old != NULL;
}

static bool look_at_old(Target *t, GError **error)
{
    struct stat st;

    if (stat(t->path, &st) < 0)
        return errno == ENOENT || fail_errno(error, "'%s'", t->path);
    if (S_ISBLK(st.st_mode)) {
        t->in_place = true;
        return true;
    }
    if (!S_ISREG(st.st_mode))
        return fail(error, VM_ERROR_INVALID, "'%s' is %s: choose another name", t->path,
                    S_ISDIR(st.st_mode) ? "a directory" : "no file");
    return hold_old(t, &st, error);
}

bool target_begin(Target *t, const char *path, GError **error)
{
    *t = (Target){0};
    if (strstr(path, "://")) {
        t->in_place = true;
        t->path = g_strdup(path);
        t->temporary = g_strdup(path);
        return true;
    }
    t->path = resolve(path);
    if (!look_at_old(t, error))
        return false;
    t->temporary = t->in_place ? g_strdup(t->path)
                               : g_strdup_printf("%s.partial-%06x", t->path,
                                                 g_random_int() & 0xffffff);
    if (!t->in_place)
        interrupt_removes(t->temporary);
    return true;
}

/* ---- ending ----------------------------------------------------------------------- */

static bool sync_path(const char *path, int flags, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC | flags);

    return (fd >= 0 && fsync(fd) == 0) ||
           fail_errno(error, "'%s': put it on the disk", path);
}

/* The new file is as accessible as the old one was. */
static void keep_mode(const Target *t)
{
    struct stat st;

    if (t->old && stat(t->path, &st) == 0 &&
        (chmod(t->temporary, st.st_mode & 07777) < 0 ||
         chown(t->temporary, st.st_uid, st.st_gid) < 0))
        log_warn("'%s': it could not get the mode and owner of the file it replaces: %s",
                 t->path, g_strerror(errno));
}

bool target_commit(Target *t, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(t->path);

    if (t->in_place)
        return true;
    keep_mode(t);
    if (!t->unsafe && !sync_path(t->temporary, 0, error))
        return false;
    if (rename(t->temporary, t->path) < 0)
        return fail_errno(error, "'%s': give it its name", t->path);
    interrupt_removes(NULL);
    g_clear_pointer(&t->temporary, g_free);
    return t->unsafe || sync_path(folder, O_DIRECTORY, error);
}

void target_clear(Target *t)
{
    interrupt_removes(NULL);
    if (t->temporary && !t->in_place)
        unlink(t->temporary);
    g_clear_pointer(&t->old, image_free);
    g_clear_pointer(&t->temporary, g_free);
    g_clear_pointer(&t->path, g_free);
}
