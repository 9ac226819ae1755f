/* A file that output is appended to.  It may be a pipe or a device as well. */
#include <fcntl.h>

#include "src/chardev/chardev_private.h"

static bool file_open(Chardev *c, const ChardevOptions *options, GError **error)
{
    /* O_NONBLOCK: a fifo without a reader is an error now, not a wait for ever. */
    int fd = open(options->file,
                  O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                  0644);

    if (fd < 0)
        return fail_errno(error, "open '%s' to append output", options->file);
    chardev_attach(c, -1, fd);
    return true;
}

static void file_close(Chardev *c)
{
}

const ChardevOps chardev_file_ops = {
    .name = "file", .open = file_open, .close = file_close};
