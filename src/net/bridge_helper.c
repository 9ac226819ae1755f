/* Getting a tap from QEMU's bridge helper; contract in bridge_helper.h.  It gets one end
 * of a socket pair by number, and sends the descriptor over it (SCM_RIGHTS), then ends.
 */
#include "src/net/bridge_helper.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/fd.h"

enum { CHILD_FD = 3, PATIENCE_MS = 5000 };

static const char *const places[] = {"/usr/lib/qemu/qemu-bridge-helper",
                                     "/usr/libexec/qemu-bridge-helper"};

static const char *find(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++)
        if (access(places[i], X_OK) == 0)
            return places[i];
    return NULL;
}

static bool spawn(const char *program, const char *bridge, int socket, pid_t *ret_pid,
                  int *ret_words, GError **error)
{
    g_autofree char *br = g_strconcat("--br=", bridge, NULL);
    char fd_arg[16];
    const char *const argv[] = {program, "--use-vnet", fd_arg, br, NULL};
    const int to = CHILD_FD;
    g_autoptr(GError) why = NULL;

    snprintf(fd_arg, sizeof(fd_arg), "--fd=%d", CHILD_FD);
    if (g_spawn_async_with_pipes_and_fds(
            NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL,
            NULL, NULL, -1, -1, -1, &socket, &to, 1, ret_pid, NULL, NULL, ret_words,
            &why))
        return true;
    return fail(error, VM_ERROR_IO, "run %s: %s", program, why->message);
}

/* The descriptor, or -1 if it hung up without one. */
static int take_fd(int socket)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    struct pollfd p = {socket, POLLIN, 0};
    const struct cmsghdr *c;
    int fd = -1;

    if (poll(&p, 1, PATIENCE_MS) != 1 || recvmsg(socket, &m, MSG_CMSG_CLOEXEC) <= 0)
        return -1;
    c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(fd)))
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

/* Its first line. */
static bool fail_words(int words, GError **error)
{
    char text[256];
    struct pollfd p = {words, POLLIN, 0};
    ssize_t n = poll(&p, 1, PATIENCE_MS) == 1 ? read(words, text, sizeof(text) - 1) : 0;

    text[MAX(n, 0)] = 0;
    g_strdelimit(text, "\n", 0);
    return fail(error, VM_ERROR_UNSUPPORTED, "the helper %s%s",
                text[0] ? "says: " : "gave none, and no reason", text);
}

static bool name_of(int fd, char ret_ifname[IFNAMSIZ])
{
    struct ifreq ifr = {0};

    if (ioctl(fd, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_VNET_HDR))
        return false;
    g_strlcpy(ret_ifname, ifr.ifr_name, IFNAMSIZ);
    return true;
}

int bridge_helper(const char *bridge, char ret_ifname[IFNAMSIZ], GError **error)
{
    const char *program = find();
    autofd words = -1, tap = -1;
    int pair[2];
    pid_t pid;
    bool ran;

    if (!program) {
        fail(error, VM_ERROR_UNSUPPORTED, "which is not installed here");
        return -1;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        fail_errno(error, "make a socket");
        return -1;
    }
    ran = spawn(program, bridge, pair[1], &pid, &words, error);
    close(pair[1]);
    if (ran) {
        tap = take_fd(pair[0]);
        if (tap < 0 || !name_of(tap, ret_ifname)) {
            fd_close(&tap);
            fail_words(words, error);
        }
        kill(pid,
             SIGKILL); /* it has done its work, or will not; setuid: may be refused */
        waitpid(pid, NULL, 0);
    }
    close(pair[0]);
    return tap < 0 || !fd_set_nonblock(tap, true, error) ? -1 : fd_steal(&tap);
}
