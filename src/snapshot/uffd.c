/* See uffd.h. */
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "util/bits.h"
#include "util/fd.h"

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* Linux 6.1 has a device whose permissions say who may; before, and without it, the
 * system call asks for CAP_SYS_PTRACE or vm.unprivileged_userfaultfd.
 * UFFD_USER_MODE_ONLY, which anybody may have, is of no use: KVM's own faults would be
 * errors. */
static int new_descriptor(GError **error)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    int err = errno;

    if (fd < 0 && err == EPERM) {
        autofd device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        if (device >= 0)
            fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    }
    if (fd >= 0)
        return fd;
    fail(error, VM_ERROR_UNSUPPORTED,
         err == EPERM
             ? "this host does not let you have userfaultfd, by which memory is fetched "
               "when the guest wants it: let your group use /dev/userfaultfd (chgrp, "
               "chmod "
               "g+rw) or set sysctl vm.unprivileged_userfaultfd=1; or restore with "
               "--memory-from copy"
             : "this host's kernel has no userfaultfd, by which memory is fetched when "
               "the "
               "guest wants it: restore with --memory-from copy");
    return -1;
}

bool uffd_possible(GError **error)
{
    autofd fd = new_descriptor(error);

    return fd >= 0;
}

static bool agree(Uffd *u, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};

    return ioctl(u->fd, UFFDIO_API, &api) == 0;
}

/* The kernel takes one UFFDIO_API for each descriptor that succeeds; one that fails can
 * be followed by another. */
bool uffd_open(Uffd *u, uint8_t *base, uint64_t size, bool hugepages, GError **error)
{
    struct uffdio_register range = {.range = {(uintptr_t)base, size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    uint64_t need = hugepages ? UFFD_FEATURE_MISSING_HUGETLBFS : 0;

    *u = (Uffd){
        .fd = new_descriptor(error), .base = base, .size = size, .hugepages = hugepages};
    if (u->fd < 0)
        return false;
    if (!agree(u, need | UFFD_FEATURE_THREAD_ID) && !agree(u, need)) {
        fail(
            error, VM_ERROR_UNSUPPORTED,
            "this host's userfaultfd cannot do what lazy memory needs (%s): restore with "
            "--memory-from copy",
            g_strerror(errno));
        uffd_close(u);
        return false;
    }
    if (ioctl(u->fd, UFFDIO_REGISTER, &range) < 0) {
        fail_errno(error, "userfaultfd: register guest memory");
        uffd_close(u);
        return false;
    }
    return true;
}

void uffd_close(Uffd *u)
{
    fd_close(&u->fd);
}

unsigned uffd_take(Uffd *u, UffdFault *ret, unsigned max)
{
    unsigned n = 0;

    while (n < max) {
        struct uffd_msg msg;
        ssize_t got = read(u->fd, &msg, sizeof(msg));

        if (got < 0 && errno == EINTR)
            continue;
        if (got != sizeof(msg))
            break;
        if (msg.event == UFFD_EVENT_PAGEFAULT)
            ret[n++] = (UffdFault){msg.arg.pagefault.address - (uintptr_t)u->base,
                                   msg.arg.pagefault.feat.ptid};
    }
    return n;
}

/* How far it came; *ret_errno 0: all of it. */
static uint64_t put_some(Uffd *u, uint64_t offset, const uint8_t *data, uint64_t len,
                         int *ret_errno)
{
    uint64_t at = (uintptr_t)u->base + offset;
    int64_t done;
    int r;

    if (data) {
        struct uffdio_copy copy = {.dst = at, .src = (uintptr_t)data, .len = len};

        r = ioctl(u->fd, UFFDIO_COPY, &copy);
        done = copy.copy;
    } else {
        struct uffdio_zeropage zero = {.range = {at, len}};

        r = ioctl(u->fd, UFFDIO_ZEROPAGE, &zero);
        done = zero.zeropage;
    }
    *ret_errno = r < 0 ? errno : 0;
    return r == 0 ? len : done > 0 ? (uint64_t)done : 0;
}

bool uffd_put(Uffd *u, uint64_t offset, const uint8_t *data, uint64_t len, GError **error)
{
    uint64_t page = u->hugepages ? 2 * MIB : 4 * KIB;
    uint64_t done = 0;

    while (done < len) {
        int err;

        done += put_some(u, offset + done, data ? data + done : NULL, len - done, &err);
        if (err == EEXIST) {
            /* It is there already; who came to wait for it meanwhile is not woken. */
            uffd_wake(u, offset + done, page);
            done += page;
        } else if (err && err != EAGAIN) {
            errno = err;
            return fail_errno(error,
                              "userfaultfd: put %" G_GUINT64_FORMAT " bytes in place",
                              len - done);
        }
    }
    return true;
}

void uffd_wake(Uffd *u, uint64_t offset, uint64_t len)
{
    struct uffdio_range range = {(uintptr_t)u->base + offset, len};

    ioctl(u->fd, UFFDIO_WAKE, &range);
}

void uffd_release(Uffd *u)
{
    struct uffdio_range range = {(uintptr_t)u->base, u->size};

    ioctl(u->fd, UFFDIO_UNREGISTER, &range); /* wakes who waits */
}

/* Write protection that nobody is told of, and of which there is none: what is left is
 * that the kernel maps nothing around a fault (uffd_disable_fault_around()). */
int uffd_touch_alone(uint8_t *base, uint64_t size)
{
    Uffd u = {.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)};
    struct uffdio_register range = {.range = {(uintptr_t)base, size},
                                    .mode = UFFDIO_REGISTER_MODE_WP};

    if (u.fd >= 0 &&
        (!agree(&u, UFFD_FEATURE_WP_ASYNC) || ioctl(u.fd, UFFDIO_REGISTER, &range) < 0))
        fd_close(&u.fd);
    return u.fd;
}
