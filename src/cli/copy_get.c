/* hutch get: a file or a folder of a guest to this machine.  The guest decides what is in
 * them, and about nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/cli/copy_private.h"
#include "src/cli/untar.h"
#include "util/fd.h"
#include "util/log.h"

/* $1: of what.  Prints "f MODE BYTES" or "d KILOBYTES". */
static const char look_script[] =
    "if [ -d \"$1\" ]; then echo d $(du -sk \"$1\" | cut -f1)\n"
    "elif [ -f \"$1\" ]; then echo f $(stat -Lc %a \"$1\") $(wc -c <\"$1\")\n"
    "else echo \"there is no file or folder '$1'\" >&2; exit 1; fi\n";

enum { MAX_COMPLAINT = 600 };

/* Where it goes here, a new string: in a folder, it gets the name it has there. */
static char *target_of(const char *from, const char *to, GError **error)
{
    g_autofree char *name = g_path_get_basename(from);

    if (!g_file_test(to, G_FILE_TEST_IS_DIR))
        return g_strdup(to);
    if (strchr(name, '/') || g_str_equal(name, ".") || g_str_equal(name, "..")) {
        fail(error, VM_ERROR_INVALID, "'%s' has no name for the folder '%s'", from, to);
        return NULL;
    }
    return g_build_filename(to, name, NULL);
}

/* ---- a file ---------------------------------------------------------------------------
 */

static bool receive(Copy *c, int64_t handle, int fd, uint64_t size, Progress *p,
                    GError **error)
{
    g_autofree char *buf = g_malloc(AGENT_PIECE);
    uint64_t done = 0;
    bool end = false;

    while (!end) {
        size_t n;

        if (copy_interrupted(error) ||
            !agent_read(c->agent, handle, buf, AGENT_PIECE, &n, &end, error))
            return false;
        done += n;
        if (done > size || (!n && !end)) /* a guest that never comes to an end */
            break;
        if (!fd_write_all(fd, buf, n, error))
            return false;
        atomic_store(&p->done, done);
        progress_tick(p);
    }
    return done == size ||
           fail(error, VM_ERROR_BUSY, "it was changed while it was copied");
}

static bool receive_file(Copy *c, const char *from, int fd, uint64_t size, GError **error)
{
    Progress p;
    int64_t handle;
    bool ok;

    if (!agent_open(c->agent, from, "r", &handle, error))
        return false;
    progress_begin(&p, c->args, "get", size);
    ok = receive(c, handle, fd, size, &p, error);
    progress_end(&p);
    agent_close(c->agent, handle, NULL);
    return ok;
}

static bool get_file(Copy *c, const char *from, const char *target, mode_t mode,
                     uint64_t size, GError **error)
{
    g_autofree char *temporary = g_strconcat(target, c->suffix, NULL);
    autofd fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                     0600);

    if (fd < 0)
        return fail_errno(error, "make '%s'", temporary);
    if (receive_file(c, from, fd, size, error) &&
        ((fchmod(fd, mode) == 0 && rename(temporary, target) == 0) ||
         fail_errno(error, "make '%s'", target)))
        return true;
    unlink(temporary);
    return false;
}

/* ---- a folder -------------------------------------------------------------------------
 */

typedef struct Unpacking {
    Untar *untar;
    GString *complaint;
    Progress progress;
} Unpacking;

static bool on_output(void *opaque, int fd, const char *data, size_t len, GError **error)
{
    Unpacking *u = opaque;

    if (fd == 2) {
        if (u->complaint->len < MAX_COMPLAINT)
            g_string_append_len(u->complaint, data,
                                (gssize)MIN(len, MAX_COMPLAINT - u->complaint->len));
        return true;
    }
    atomic_fetch_add(&u->progress.done, len);
    progress_tick(&u->progress);
    return untar_feed(u->untar, data, len, error);
}

static bool unpack(Copy *c, const char *from, Unpacking *u, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(from);
    g_autofree char *name = g_path_get_basename(from);
    const char *const argv[] = {"tar", "-C", parent, "-cf", "-", "--", name, NULL};
    AgentExec x = {
        .argv = argv, .output = on_output, .stop = interrupt_stop, .opaque = u};
    g_autofree char *why = NULL;
    unsigned left_out;
    bool timed_out;
    int status;

    if (!agent_exec(c->agent, &x, &status, &timed_out, error) || copy_interrupted(error))
        return false;
    why = agent_text(g_strchomp(u->complaint->str));
    if (status == 127)
        return fail(error, VM_ERROR_UNSUPPORTED, "VM '%s': the guest has no tar", c->vm);
    if (status)
        return fail(error, VM_ERROR_IO, "VM '%s': tar: %s", c->vm, why);
    if (!untar_finish(u->untar, &left_out, error))
        return false;
    if (left_out)
        log_warn("get '%s': %u special files were left out", from, left_out);
    return true;
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    return remove(path);
}

static bool receive_tree(Copy *c, const char *from, const char *folder, uint64_t size,
                         GError **error)
{
    autofd root = open(folder, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    Unpacking u = {0};
    bool ok;

    if (root < 0)
        return fail_errno(error, "open '%s'", folder);
    u.untar = untar_new(root);
    u.complaint = g_string_new(NULL);
    progress_begin(&u.progress, c->args, "get", size);
    ok = unpack(c, from, &u, error);
    progress_end(&u.progress);
    untar_free(u.untar);
    g_string_free(u.complaint, TRUE);
    return ok;
}

/* Or a link of the guest's choice would stand where the next `get` to this folder goes.
 */
static bool is_folder(const Copy *c, const char *from, const char *unpacked,
                      GError **error)
{
    struct stat st;

    return (lstat(unpacked, &st) == 0 && S_ISDIR(st.st_mode)) ||
           fail(error, VM_ERROR_INVALID,
                "VM '%s': what came for '%s' is no folder; if that is a link, name what "
                "it leads to",
                c->vm, from);
}

static bool get_tree(Copy *c, const char *from, const char *target, uint64_t size,
                     GError **error)
{
    g_autofree char *name = g_path_get_basename(from);
    g_autofree char *temporary = g_strconcat(target, c->suffix, NULL);
    g_autofree char *unpacked = g_build_filename(temporary, name, NULL);
    bool ok;

    if (g_file_test(target, G_FILE_TEST_EXISTS) ||
        g_file_test(target, G_FILE_TEST_IS_SYMLINK))
        return fail(error, VM_ERROR_INVALID, "'%s' is there already", target);
    if (mkdir(temporary, 0700) < 0)
        return fail_errno(error, "make the folder '%s'", temporary);
    ok = receive_tree(c, from, temporary, size, error) &&
         is_folder(c, from, unpacked, error) &&
         (rename(unpacked, target) == 0 || fail_errno(error, "make '%s'", target));
    nftw(temporary, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return ok;
}

/* ---- either ---------------------------------------------------------------------------
 */

bool copy_get(Copy *c, const char *from, const char *to, GError **error)
{
    g_autofree char *path = g_canonicalize_filename(from, "/");
    g_autofree char *target = target_of(path, to, error);
    g_autoptr(GString) said = g_string_new(NULL);
    uint64_t size;
    unsigned mode;

    if (!target || !copy_script(c, said, error, look_script, path, NULL))
        return false;
    if (sscanf(said->str, "f %o %" SCNu64, &mode, &size) == 2)
        return get_file(c, path, target, mode & 0777, size, error);
    if (sscanf(said->str, "d %" SCNu64, &size) == 1 && size < UINT64_MAX / 1024)
        return get_tree(c, path, target, size * 1024, error);
    return fail(error, VM_ERROR_CORRUPT, "VM '%s': the guest does not say what '%s' is",
                c->vm, path);
}
