/* Preloaded into a monitor: notes the moment when KVM_RUN returns for the first time with
 * something the guest did, which with the payload first.elf is its first instruction.
 * The same few instructions serve hutch and QEMU, so that both are timed alike. */
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "launch.h"

static void note(void)
{
    const char *fd = getenv(FIRST_RUN_FD);
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    if (fd && pwrite(atoi(fd), &t, sizeof(t), 0) != sizeof(t))
        _exit(1);
}

int ioctl(int fd, unsigned long request, ...)
{
    static bool noted; /* atomic */
    va_list ap;
    void *arg;
    long r;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    r = syscall(SYS_ioctl, fd, request, arg);
    if (request == KVM_RUN && r == 0 &&
        !__atomic_exchange_n(&noted, true, __ATOMIC_RELAXED))
        note();
    return (int)r;
}
