/* hutch put: a file or a folder of this machine into a guest. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "src/cli/copy_private.h"
#include "src/cli/program.h"
#include "util/fd.h"

/* $1: the destination; $2: the name it gets in a folder; $3: what its name has more until
 * it is complete.  Prints "in" if $1 is a folder. */
static const char file_begin[] =
    "d=$1\n"
    "[ ! -d \"$d\" ] || { d=${d%/}/$2; echo in; }\n"
    "[ ! -d \"$d\" ] || { echo \"'$d' is a folder\" >&2; exit 1; }\n"
    "(umask 077; : >\"$d$3\")\n";
/* $1: what was written; $2: its length; $3: its mode; $4: its name. */
static const char file_end[] = "[ \"$(wc -c <\"$1\")\" -eq \"$2\" ] || { echo 'not all "
                               "of it has arrived' >&2; exit 1; }\n"
                               "chmod \"$3\" \"$1\" && mv -f \"$1\" \"$4\"\n";

/* Likewise; the archive and what it is unpacked to are in a folder of their own. */
static const char tree_begin[] =
    "d=$1\n"
    "[ ! -d \"$d\" ] || { d=${d%/}/$2; echo in; }\n"
    "[ ! -e \"$d\" ] || { echo \"'$d' is there already\" >&2; exit 1; }\n"
    "command -v tar >/dev/null || { echo 'the guest has no tar' >&2; exit 1; }\n"
    "mkdir -m 700 \"$d$3\" \"$d$3/new\" && (umask 077; : >\"$d$3/tar\")\n";
/* $1: the folder; $2: the archive's length; $3: the name in it; $4: its name. */
static const char tree_end[] =
    "[ \"$(wc -c <\"$1/tar\")\" -eq \"$2\" ] || { echo 'not all of it has arrived' >&2; "
    "exit 1; }\n"
    "tar -C \"$1/new\" -xpof \"$1/tar\" && mv \"$1/new/$3\" \"$4\" && rm -rf \"$1\"\n";

static const char clean_up[] = "rm -rf \"$1\"";

/* ---- writing --------------------------------------------------------------------------
 */

typedef struct Writer {
    Copy *c;
    int64_t handle;
    uint64_t written;
    Progress progress;
} Writer;

static bool write_on(void *opaque, const char *data, size_t len, GError **error)
{
    Writer *w = opaque;

    if (copy_interrupted(error) || !agent_write(w->c->agent, w->handle, data, len, error))
        return false;
    w->written += len;
    atomic_store(&w->progress.done, w->written);
    progress_tick(&w->progress);
    return true;
}

static bool send_file(Writer *w, int fd, uint64_t size, GError **error)
{
    g_autofree char *buf = g_malloc(AGENT_PIECE);
    ssize_t n;

    while ((n = read(fd, buf, AGENT_PIECE)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0 && !write_on(w, buf, (size_t)n, error))
            return false;
    if (n < 0)
        return fail_errno(error, "read it");
    return w->written == size ||
           fail(error, VM_ERROR_BUSY, "it was changed while it was copied");
}

/* What tar will make of a folder, roughly: for progress. */
static uint64_t tree_size;

static int add_size(const char *path, const struct stat *st, int type, struct FTW *where)
{
    tree_size += 512 + (S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0);
    return 0;
}

static bool send_tree(Writer *w, const char *path, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    const char *const argv[] = {"tar", "-C", parent, "-cf", "-", "--", name, NULL};

    return program_run(argv, "tar", write_on, w, &w->progress, error);
}

/* ---- one of them ----------------------------------------------------------------------
 */

/* `fd`: of a file, or -1: `path` is a folder. */
static bool send_to(Copy *c, const char *path, int fd, uint64_t size,
                    const char *temporary, uint64_t *ret_len, GError **error)
{
    g_autofree char *archive = g_build_filename(temporary, "tar", NULL);
    Writer w = {.c = c};
    bool ok;

    if (!agent_open(c->agent, fd >= 0 ? temporary : archive, "w", &w.handle, error))
        return false;
    progress_begin(&w.progress, c->args, "put", size);
    ok = fd >= 0 ? send_file(&w, fd, size, error) : send_tree(&w, path, error);
    progress_end(&w.progress);
    *ret_len = w.written;
    return agent_close(c->agent, w.handle, ok ? error : NULL) && ok;
}

static bool put(Copy *c, const char *path, int fd, const struct stat *st, uint64_t size,
                const char *to, GError **error)
{
    g_autofree char *name = g_path_get_basename(path), *final = NULL, *temporary = NULL;
    g_autofree char *mode = g_strdup_printf("%o", st->st_mode & 0777);
    g_autoptr(GString) said = g_string_new(NULL);
    g_autofree char *length = NULL;
    uint64_t len = 0;
    bool ok;

    if (!copy_script(c, said, error, fd >= 0 ? file_begin : tree_begin, to, name,
                     c->suffix, NULL))
        return false;
    final = said->len ? g_build_filename(to, name, NULL) : g_strdup(to);
    temporary = g_strconcat(final, c->suffix, NULL);
    ok = send_to(c, path, fd, size, temporary, &len, error);
    length = g_strdup_printf("%" G_GUINT64_FORMAT, len);
    ok = ok && (fd >= 0 ? copy_script(c, NULL, error, file_end, temporary, length, mode,
                                      final, NULL)
                        : copy_script(c, NULL, error, tree_end, temporary, length, name,
                                      final, NULL));
    if (!ok)
        copy_script(c, NULL, NULL, clean_up, temporary, NULL);
    return ok;
}

bool copy_put(Copy *c, const char *from, const char *to, GError **error)
{
    g_autofree char *path = g_canonicalize_filename(from, NULL);
    autofd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, "open '%s'", from);
    if (S_ISDIR(st.st_mode)) {
        tree_size = 0;
        nftw(path, add_size, 16, FTW_PHYS);
        fd_close(&fd);
        return put(c, path, -1, &st, tree_size, to, error);
    }
    if (!S_ISREG(st.st_mode))
        return fail(error, VM_ERROR_INVALID, "'%s' is neither a file nor a folder", from);
    if (put(c, path, fd, &st, (uint64_t)st.st_size, to, error))
        return true;
    g_prefix_error(error, "put '%s': ", from);
    return false;
}
