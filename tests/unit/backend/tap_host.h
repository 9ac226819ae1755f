/* The host of tests of taps: a network namespace that the test makes, in which it is
 * root. */
#pragma once

#include <fcntl.h>
#include <glib.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/fd.h"

enum { SKIP_NO_NAMESPACE = 77, SKIP_NO_TUN = 78 };

static inline void in_namespace(void (*body)(void))
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
            _exit(SKIP_NO_NAMESPACE);
        autofd tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
        if (tun < 0)
            _exit(SKIP_NO_TUN);
        fd_close(&tun);
        body();
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP_NO_NAMESPACE)
        g_test_skip("no permission to make a network namespace");
    else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP_NO_TUN)
        g_test_skip("/dev/net/tun is not there, or not for us");
    else
        g_assert_cmpint(status, ==, 0);
}

/* A persistent tap, as 'ip tuntap add' makes it; down.  False if it cannot be given to
 * that user (-1: to nobody), who has no number in a user namespace. */
static inline bool administrator_makes(const char *name, int flags, int owner)
{
    autofd fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq ifr = {.ifr_flags = (short)flags};

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    g_assert_cmpint(ioctl(fd, TUNSETIFF, &ifr), ==, 0);
    g_assert_cmpint(ioctl(fd, TUNSETPERSIST, 1), ==, 0);
    return owner < 0 || ioctl(fd, TUNSETOWNER, owner) == 0;
}
