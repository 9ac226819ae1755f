/* The hello to a network's switch; network/port.h says what is spoken.
 *
 * A switch is another process of the same user, and yet what it sends is looked at: its
 * memory must be as large as the rings are and stay so, or touching it would end us. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "network/place.h"
#include "network/port.h"
#include "src/net/port_private.h"
#include "util/fd.h"
#include "util/json.h"

enum {
    N_FDS = 3, /* memory, and what wakes the switch and us for one pair of queues */
    MAX_FDS = 1 + 2 * PORT_MAX_QUEUES,
    MAX_ANSWER = 4096,
};

typedef struct Answer {
    char line[MAX_ANSWER + 1];
    size_t len;
    int fds[MAX_FDS];
    unsigned n_fds;
} Answer;

static void set_limit(int fd)
{
    const struct timeval limit = {.tv_sec = NETWORK_START_MS / 1000};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static bool send_hello(int fd, const char *hello)
{
    size_t len = strlen(hello);

    while (len) {
        ssize_t n = send(fd, hello, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EPIPE; /* it may have said why */
        hello += n;
        len -= (size_t)n;
    }
    return true;
}

static void take_fds(Answer *a, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        unsigned n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (unsigned i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (a->n_fds < MAX_FDS)
                a->fds[a->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

/* A line, with what descriptors come with it. */
static bool receive_answer(int fd, Answer *a)
{
    while (a->len < MAX_ANSWER) {
        union {
            char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
            struct cmsghdr align;
        } control;
        struct iovec iov = {a->line + a->len, MAX_ANSWER - a->len};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = ECONNRESET;
        if (n <= 0)
            return false;
        take_fds(a, &msg);
        a->len += (size_t)n;
        a->line[a->len] = '\0';
        if (strchr(a->line, '\n'))
            return true;
    }
    errno = EMSGSIZE;
    return false;
}

static bool memory_is_good(int fd, size_t bytes)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 &&
           st.st_size >= (off_t)bytes;
}

static bool use_fds(Answer *a, PortJoined *ret, const char *network, GError **error)
{
    size_t bytes = ring_memory(1);
    void *memory;

    if (a->n_fds != N_FDS || !memory_is_good(a->fds[0], bytes))
        return fail(error, VM_ERROR_CORRUPT,
                    "network '%s': its switch gave no usable rings: is hutch-switch of "
                    "another version?",
                    network);
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, a->fds[0], 0);
    if (memory == MAP_FAILED)
        return fail_errno(error, "network '%s': map its rings", network);
    ret->memory = memory;
    ret->tell_fd = fd_steal(&a->fds[1]);
    ret->hear_fd = fd_steal(&a->fds[2]);
    return fd_set_nonblock(ret->hear_fd, true, error) &&
           fd_set_nonblock(ret->tell_fd, true, error);
}

static bool read_answer(Answer *a, PortJoined *ret, const char *network, GError **error)
{
    json_t *answer = json_loads(a->line, JSON_DISABLE_EOF_CHECK, NULL);
    json_t *value = json_object_get(answer, "return");
    json_t *failed = json_object_get(answer, "error");
    json_t *link = json_object_get(value, "link");
    bool ok = false;

    if (failed) {
        fail(error, VM_ERROR_INVALID, "network '%s': %s", network,
             json_get_text(failed, "desc"));
    } else if (!json_is_object(value)) {
        fail(error, VM_ERROR_CORRUPT, "network '%s': its switch talks nonsense", network);
    } else {
        ret->mtu = (unsigned)CLAMP(json_integer_value(json_object_get(value, "mtu")), 0,
                                   UINT16_MAX);
        ret->link = !json_is_false(link);
        ok = use_fds(a, ret, network, error);
    }
    json_decref(answer);
    return ok;
}

static bool exchange(int fd, const char *network, const char *hello, PortJoined *ret,
                     GError **error)
{
    g_autofree Answer *a = g_new0(Answer, 1);
    bool ok;

    set_limit(fd);
    ok = send_hello(fd, hello) && receive_answer(fd, a);
    if (ok)
        ok = read_answer(a, ret, network, error);
    else if (errno == EAGAIN)
        fail(error, VM_ERROR_BUSY, "network '%s': its switch does not answer", network);
    else
        fail_errno(error, "network '%s': join its switch", network);
    for (unsigned i = 0; i < a->n_fds; i++)
        fd_close(&a->fds[i]);
    return ok && fd_set_nonblock(fd, true, error);
}

bool port_join(const char *network, const char *hello, PortJoined *ret, GError **error)
{
    autofd fd = -1;

    *ret = (PortJoined){.sock = -1, .tell_fd = -1, .hear_fd = -1};
    fd = network_join(network, NETWORK_PORT, error);
    if (fd < 0)
        return false;
    if (!exchange(fd, network, hello, ret, error)) {
        port_leave(ret);
        return false;
    }
    ret->sock = fd_steal(&fd);
    return true;
}

void port_leave(PortJoined *joined)
{
    if (joined->memory)
        munmap(joined->memory, ring_memory(1));
    joined->memory = NULL;
    fd_close(&joined->sock);
    fd_close(&joined->tell_fd);
    fd_close(&joined->hear_fd);
}
