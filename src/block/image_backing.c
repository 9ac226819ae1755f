/* Which backing images are followed.
 *
 * An image names the file below it, and whoever made the image chose that name: it could
 * be any file that we can read, to be shown to a guest.  So a name is followed if the
 * user said backing=on, or if hutch wrote it, on this machine: then an extended attribute
 * of the image's file says the same name.  A download cannot bring the attribute along.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "image_private.h"
#include "util/fd.h"

const char *const block_backing_names[] = {"auto", "on", "off", NULL};

#define MARK         "user.hutch.backing"
#define MARK_OVERLAY "user.hutch.overlay"
enum { MAX_NAME = 1023, MAX_DEPTH = 1000 };

void image_mark_backing(BlockFile *f, const char *name)
{
    if (f->fd < 0)
        return;
    if (name)
        fsetxattr(f->fd, MARK, name, strlen(name), 0);
    else
        fremovexattr(f->fd, MARK);
}

void image_copy_mark(int from, int to)
{
    char mark[MAX_NAME + 1];
    ssize_t n = fgetxattr(from, MARK, mark, sizeof(mark));

    if (n > 0)
        fsetxattr(to, MARK, mark, (size_t)n, 0);
}

void image_mark_overlay(BlockFile *f, const char *overlay)
{
    if (f->fd < 0)
        return;
    if (overlay)
        fsetxattr(f->fd, MARK_OVERLAY, overlay, strlen(overlay), 0);
    else
        fremovexattr(f->fd, MARK_OVERLAY);
}

/* Whether that overlay is there, and says that it is over this very file. */
static bool is_below(const BlockFile *f, const char *overlay)
{
    char below[MAX_NAME + 1];
    ssize_t n = getxattr(overlay, MARK, below, sizeof(below) - 1);
    struct stat own, named;

    below[MAX(n, 0)] = '\0';
    return n > 0 && stat(below, &named) == 0 && fstat(f->fd, &own) == 0 &&
           own.st_dev == named.st_dev && own.st_ino == named.st_ino;
}

bool image_check_overlay(const BlockImage *img, GError **error)
{
    char overlay[MAX_NAME + 1];
    ssize_t n = img->file->fd < 0 || img->readonly
                    ? -1
                    : fgetxattr(img->file->fd, MARK_OVERLAY, overlay,
                                sizeof(overlay) - 1);

    overlay[MAX(n, 0)] = '\0';
    return n <= 0 || !is_below(img->file, overlay) ||
           fail(error, VM_ERROR_BUSY,
                "'%s' is kept as it is below '%s', in which a VM went on: use that, "
                "commit it ('hutch image commit'), or remove it",
                img->path, overlay);
}

void image_set_committed(BlockImage *img)
{
    image_mark_overlay(img->file, NULL);
}

static bool is_marked(const BlockFile *f, const char *name)
{
    char mark[MAX_NAME + 1];
    ssize_t n = f->fd < 0 ? -1 : fgetxattr(f->fd, MARK, mark, sizeof(mark));

    return n >= 0 && (size_t)n == strlen(name) && !memcmp(mark, name, (size_t)n);
}

bool image_may_follow(const BlockImage *img, const BlockOptions *options,
                      const char *name, const char *what, GError **error)
{
    if (options->backing == BLOCK_BACKING_ON)
        return true;
    if (options->backing == BLOCK_BACKING_OFF)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' needs its %s '%s', which backing=off forbids", img->path, what,
                    name);
    return is_marked(img->file, name) ||
           fail(
               error, VM_ERROR_INVALID,
               "'%s' names '%s' as its %s, which hutch did not put there: add backing=on "
               "if you trust the image to name the right file",
               img->path, name, what);
}

char *image_relative_path(const BlockImage *img, const char *name)
{
    g_autofree char *folder = NULL;

    if (g_str_has_prefix(name, "file:"))
        name += strlen("file:");
    if (g_path_is_absolute(name) || block_path_is_nbd(name) ||
        block_path_is_nbd(img->path))
        return g_strdup(name);
    folder = g_path_get_dirname(img->path);
    return g_str_equal(folder, ".") && !g_str_has_prefix(img->path, "./")
               ? g_strdup(name)
               : g_build_filename(folder, name, NULL);
}

/* Images that old tools made do not say the format of what is below.  To look is a risk:
 * a guest may once have written the header.  The user takes it by backing=on. */
static int probe_format(const char *path)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC);
    char magic[4];

    return fd >= 0 && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) &&
                   !memcmp(magic, "QFI\xfb", sizeof(magic))
               ? BLOCK_FORMAT_QCOW2
               : BLOCK_FORMAT_RAW;
}

static bool find_format(const BlockImage *img, const BlockOptions *options,
                        const char *path, const char *format, int *ret, GError **error)
{
    if (!format) {
        *ret = options->backing == BLOCK_BACKING_ON ? probe_format(path)
                                                    : BLOCK_FORMAT_AUTO;
        return true;
    }
    for (*ret = BLOCK_FORMAT_RAW; block_format_names[*ret]; ++*ret)
        if (g_str_equal(format, block_format_names[*ret]))
            return true;
    return fail(error, VM_ERROR_UNSUPPORTED,
                "'%s' has a backing image in format '%s', which hutch cannot read: "
                "convert it to qcow2",
                img->path, format);
}

bool image_open_backing(BlockImage *img, const BlockOptions *options, unsigned flags,
                        const char *name, const char *format, GError **error)
{
    g_autofree char *path = image_relative_path(img, name);
    unsigned depth = flags / IMAGE_DEPTH_UNIT + 1;
    BlockOptions below = *options;

    if (flags & IMAGE_NO_BACKING)
        return true;
    if (depth > MAX_DEPTH)
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s': more than %d backing images below each other; one of them may "
                    "be below itself",
                    img->path, MAX_DEPTH);
    if (!image_may_follow(img, options, name, "backing image", error))
        return false;
    below.path = path;
    below.readonly = true;
    if (!find_format(img, options, path, format, &below.format, error))
        return false;
    img->backing = image_open(&below, flags + IMAGE_DEPTH_UNIT, error);
    if (!img->backing)
        g_prefix_error(error, "'%s', below it: ", img->path);
    return img->backing != NULL;
}
