/* See util/fd.h. */
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>

bool fd_set_nonblock(int fd, bool on, GError **error)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 ||
        fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
        return fail_errno(error, "file descriptor %d: change O_NONBLOCK", fd);
    return true;
}

int fd_event(GError **error)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        fail_errno(error, "make an eventfd");
    return fd;
}

int fd_memory(const char *name, uint64_t size, unsigned flags)
{
    autofd fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

    if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -1;
    return fd_steal(&fd);
}

bool fd_bell(int *ret_hear, int *ret_ring, GError **error)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return fail_errno(error, "make a pipe");
    *ret_hear = ends[0];
    *ret_ring = ends[1];
    return true;
}

void fd_event_signal(int fd)
{
    uint64_t one = 1;

    /* EAGAIN means that the counter, or the pipe, is full: it is signalled already. */
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* No write to an eventfd can be asked not to wait, as a read can.  So both is looked at
 * just before: who wants to see us wait has to undo both in the moment between. */
void fd_event_signal_shared(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    if (fd_set_nonblock(fd, true, NULL) && poll(&p, 1, 0) == 1)
        fd_event_signal(fd);
}

bool fd_event_take(int fd)
{
    uint64_t count[64]; /* of an eventfd the first; a pipe may hold more */
    struct iovec iov = {count, sizeof(count)};
    ssize_t n;

    /* Another process that has it, too, may have made it a blocking one. */
    do
        n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EOPNOTSUPP) /* Linux before 5.8 */
        n = read(fd, count, sizeof(count));
    return n > 0;
}

bool fd_pread_all(int fd, void *buf, size_t len, uint64_t offset, GError **error)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(error, "read %zu bytes at %" G_GUINT64_FORMAT, len, offset);
        if (n == 0)
            return fail(error, VM_ERROR_CORRUPT,
                        "the file ends at %" G_GUINT64_FORMAT
                        ", before byte %" G_GUINT64_FORMAT,
                        offset + done, offset + len);
        done += (size_t)n;
    }
    return true;
}

bool fd_write_all(int fd, const void *buf, size_t len, GError **error)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = write(fd, (const char *)buf + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(error, "write %zu bytes", len);
        done += (size_t)n;
    }
    return true;
}
