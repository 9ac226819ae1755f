/* See src/cli/untar.h.  Names may be long, as GNU and busybox have them (types L and K).
 *
 * A path is followed part by part with O_NOFOLLOW, so that a link which the stream made
 * leads nowhere. */
#include "src/cli/untar.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "src/cli/tar.h"
#include "util/fd.h"

enum { MAX_NAME_LEN = 4096 };

struct Untar {
    int root_fd;
    TarHeader header;
    size_t have;   /* bytes of the header; TAR_BLOCK: it is complete, its data follows */
    uint64_t left; /* bytes of data to come, */
    uint64_t pad;  /* and then of padding */
    GString *into; /* the data is a name; NULL: it is not */
    int fd;        /* the data is this file's; -1: it is not */
    GString *long_name, *long_link; /* for the next entry; empty: its header has them */
    bool ended;
    unsigned left_out;
};

static bool fail_format(GError **error, const char *what)
{
    return fail(error, VM_ERROR_CORRUPT, "what the guest's tar says %s", what);
}

/* ---- the header -----------------------------------------------------------------------
 */

static bool number(const char *field, size_t len, uint64_t *ret, GError **error)
{
    return tar_get_number(field, len, ret) ||
           fail_format(error, "has a number that is none, or that no file has");
}

static char *name_of(const Untar *u)
{
    const TarHeader *h = &u->header;
    g_autofree char *name = g_strndup(h->name, sizeof(h->name));
    g_autofree char *prefix = g_strndup(h->ustar.prefix, sizeof(h->ustar.prefix));

    if (u->long_name->len)
        return g_strdup(u->long_name->str);
    if (*prefix && !memcmp(h->magic, "ustar", 6)) /* with its zero; GNU's has none */
        return g_strconcat(prefix, "/", name, NULL);
    return g_steal_pointer(&name);
}

static char *link_of(const Untar *u)
{
    return u->long_link->len ? g_strdup(u->long_link->str)
                             : g_strndup(u->header.link, sizeof(u->header.link));
}

/* ---- making files ---------------------------------------------------------------------
 */

/* The folder that `name` is in, made if need be; -1 on failure.  *ret_leaf is the last
 * part of it, a new string. */
static int open_parent(const Untar *u, const char *name, char **ret_leaf, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(name, "/", -1);
    autofd fd = fcntl(u->root_fd, F_DUPFD_CLOEXEC, 0);
    const char *leaf = NULL;

    *ret_leaf = NULL;
    for (char **p = parts; *p && fd >= 0; p++) {
        int next;

        if (!**p || g_str_equal(*p, "."))
            continue;
        if (g_str_equal(*p, "..") || *name == '/') {
            fail_format(error, "has a name that leads out of its folder");
            return -1;
        }
        if (leaf) {
            mkdirat(fd, leaf, 0700);
            next = openat(fd, leaf, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
            close(fd);
            fd = next;
        }
        leaf = *p;
    }
    if (fd < 0)
        fail_errno(error, "make the folder of '%s'", name);
    else if (!leaf)
        fail_format(error, "has an empty name");
    else
        *ret_leaf = g_strdup(leaf);
    return *ret_leaf ? fd_steal(&fd) : -1;
}

static bool make_folder(int parent, const char *leaf, mode_t mode, GError **error)
{
    autofd fd = -1;

    if (mkdirat(parent, leaf, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", leaf);
    fd = openat(parent, leaf, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fchmod(fd, mode | 0700) < 0) /* more is to go into it */
        return fail_errno(error, "make the folder '%s'", leaf);
    return true;
}

static bool make_file(Untar *u, int parent, const char *leaf, mode_t mode, GError **error)
{
    u->fd = openat(parent, leaf, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                   0600);
    if (u->fd < 0 || fchmod(u->fd, mode) < 0)
        return fail_errno(error, "make the file '%s'", leaf);
    return true;
}

static bool make_hard_link(Untar *u, int parent, const char *leaf, GError **error)
{
    g_autofree char *to = link_of(u), *to_leaf = NULL;
    autofd to_parent = open_parent(u, to, &to_leaf, error);

    if (to_parent < 0)
        return false;
    return linkat(to_parent, to_leaf, parent, leaf, 0) == 0 ||
           fail_errno(error, "link '%s' to '%s'", leaf, to);
}

static bool make(Untar *u, GError **error)
{
    g_autofree char *name = name_of(u), *leaf = NULL, *link = link_of(u);
    autofd parent = open_parent(u, name, &leaf, error);
    uint64_t mode;

    if (parent < 0 || !number(u->header.mode, sizeof(u->header.mode), &mode, error))
        return false;
    switch (u->header.type) {
    case '5':
        return make_folder(parent, leaf, mode & 0777, error);
    case '2':
        return symlinkat(link, parent, leaf) == 0 ||
               fail_errno(error, "make the link '%s'", leaf);
    case '1':
        return make_hard_link(u, parent, leaf, error);
    case '0':
    case '7':
    case '\0':
        return make_file(u, parent, leaf, mode & 0777, error);
    default: /* a device, a pipe */
        u->left_out++;
        return true;
    }
}

/* ---- the stream -----------------------------------------------------------------------
 */

static bool is_name(const TarHeader *h)
{
    return h->type == 'L' || h->type == 'K';
}

static bool begin_entry(Untar *u, GError **error)
{
    static const TarHeader zero;
    const TarHeader *h = &u->header;

    if (!memcmp(h, &zero, sizeof(zero))) {
        u->ended = true;
        return true;
    }
    if (!tar_check_sum(h))
        return fail_format(error, "is not a tar archive");
    if (!number(h->size, sizeof(h->size), &u->left, error))
        return false;
    u->pad = tar_padding(u->left);
    if (h->type == 'x')
        return fail_format(error, "is in the pax format, which hutch does not read");
    if (h->type == 'g')
        return true;
    if (is_name(h)) {
        u->into = h->type == 'L' ? u->long_name : u->long_link;
        g_string_truncate(u->into, 0);
        return u->left <= MAX_NAME_LEN || fail_format(error, "has an endless name");
    }
    return make(u, error);
}

static void end_entry(Untar *u)
{
    if (!is_name(&u->header)) {
        g_string_truncate(u->long_name, 0);
        g_string_truncate(u->long_link, 0);
    } else { /* the zero at its end is part of it */
        g_string_truncate(u->into, strlen(u->into->str));
    }
    fd_close(&u->fd);
    u->into = NULL;
    u->have = 0;
}

static bool take_data(Untar *u, const char *data, size_t len, GError **error)
{
    if (u->into)
        g_string_append_len(u->into, data, (gssize)len);
    u->left -= len;
    return u->fd < 0 || fd_write_all(u->fd, data, len, error);
}

bool untar_feed(Untar *u, const char *data, size_t len, GError **error)
{
    while (!u->ended && len) {
        size_t n;

        if (u->have < TAR_BLOCK) {
            n = MIN(len, TAR_BLOCK - u->have);
            memcpy((char *)&u->header + u->have, data, n);
            u->have += n;
            if (u->have == TAR_BLOCK && !begin_entry(u, error))
                return false;
        } else if (u->left) {
            n = MIN(len, u->left);
            if (!take_data(u, data, n, error))
                return false;
        } else {
            n = MIN(len, u->pad);
            u->pad -= n;
        }
        data += n;
        len -= n;
        if (u->have == TAR_BLOCK && !u->left && !u->pad)
            end_entry(u);
    }
    return true;
}

bool untar_finish(Untar *u, unsigned *ret_left_out, GError **error)
{
    *ret_left_out = u->left_out;
    return u->ended || fail_format(error, "ends too early");
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

Untar *untar_new(int root_fd)
{
    Untar *u = g_new0(Untar, 1);

    u->root_fd = root_fd;
    u->fd = -1;
    u->long_name = g_string_new(NULL);
    u->long_link = g_string_new(NULL);
    return u;
}

void untar_free(Untar *u)
{
    if (!u)
        return;
    fd_close(&u->fd);
    g_string_free(u->long_name, TRUE);
    g_string_free(u->long_link, TRUE);
    g_free(u);
}
