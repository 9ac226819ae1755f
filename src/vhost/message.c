/* Messages of vhost-user, on the socket; see message.h.
 *
 * A message is a header of request, flags and size, and a payload; descriptors travel
 * beside its first byte.  Every reply is to a question of ours, of a size known before,
 * and only one of them may bring a descriptor: whatever else comes is a lie, and ends the
 * connection.  Nothing is allocated at the back end's word. */
#include "src/vhost/message.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"

static const char *const request_names[] = {
    [GET_FEATURES] = "GET_FEATURES",
    [SET_FEATURES] = "SET_FEATURES",
    [SET_OWNER] = "SET_OWNER",
    [SET_MEM_TABLE] = "SET_MEM_TABLE",
    [SET_LOG_BASE] = "SET_LOG_BASE",
    [SET_VRING_NUM] = "SET_VRING_NUM",
    [SET_VRING_ADDR] = "SET_VRING_ADDR",
    [SET_VRING_BASE] = "SET_VRING_BASE",
    [GET_VRING_BASE] = "GET_VRING_BASE",
    [SET_VRING_KICK] = "SET_VRING_KICK",
    [SET_VRING_CALL] = "SET_VRING_CALL",
    [SET_VRING_ERR] = "SET_VRING_ERR",
    [GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
    [SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
    [GET_QUEUE_NUM] = "GET_QUEUE_NUM",
    [SET_VRING_ENABLE] = "SET_VRING_ENABLE",
    [SEND_RARP] = "SEND_RARP",
    [NET_SET_MTU] = "NET_SET_MTU",
    [GET_CONFIG] = "GET_CONFIG",
    [SET_CONFIG] = "SET_CONFIG",
    [GET_INFLIGHT_FD] = "GET_INFLIGHT_FD",
    [SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
    [RESET_DEVICE] = "RESET_DEVICE",
};

enum { FLAG_VERSION = 1, FLAG_REPLY = 4, FLAG_NEED_REPLY = 8 };

/* ---- bytes ------------------------------------------------------------------------ */

void vhost_user_limit(VhostUser *u, unsigned ms)
{
    u->deadline_ns = clock_ns() + (int64_t)ms * 1000000;
}

static bool wait_for(VhostUser *u, short events, const char *what, GError **error)
{
    struct pollfd p = {.fd = u->fd, .events = events};
    int n;

    do
        n = poll(&p, 1, clock_left_ms(u->deadline_ns));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(error, "%s", what);
    return n > 0 || fail(error, VM_ERROR_BUSY,
                         "%s: the back end does not answer; look whether it hangs", what);
}

bool vhost_user_wait(VhostUser *u, GError **error)
{
    return wait_for(u, POLLIN, request_names[GET_FEATURES], error);
}

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static bool hung_up(const char *name, GError **error)
{
    return fail(error, VM_ERROR_IO, "%s: the back end hung up", name);
}

/* errno is what a transfer failed with. */
static bool fail_transfer(const char *name, GError **error)
{
    return errno == EPIPE || errno == ECONNRESET ? hung_up(name, error)
                                                 : fail_errno(error, "%s", name);
}

/* The descriptors go with the first byte. */
static ssize_t send_part(int fd, const void *buf, size_t len, const int *fds, unsigned n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(MESSAGE_MAX_FDS * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)buf, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n) {
        struct cmsghdr *c;

        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool send_all(VhostUser *u, Request request, const void *buf, size_t len,
                     const int *fds, unsigned n_fds, GError **error)
{
    const char *name = request_names[request];

    for (size_t done = 0; done < len;) {
        ssize_t n = send_part(u->fd, (const char *)buf + done, len - done, fds,
                              done ? 0 : n_fds);

        if (n < 0 && !would_block())
            return fail_transfer(name, error);
        if (n < 0 && !wait_for(u, POLLOUT, name, error))
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

void message_close_fds(Fds *fds)
{
    for (unsigned i = 0; i < fds->n; i++)
        fd_close(&fds->fd[i]);
    fds->n = 0;
}

/* The kernel closes those that the buffer has no room for, and says so. */
static void take_fds(struct msghdr *msg, Fds *fds)
{
    fds->too_many |= (msg->msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        const unsigned char *data = CMSG_DATA(c);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, data + i * sizeof(fd), sizeof(fd));
            if (fds->n < MESSAGE_MAX_FDS) {
                fds->fd[fds->n++] = fd;
            } else {
                fds->too_many = true;
                close(fd);
            }
        }
    }
}

bool message_receive(VhostUser *u, Request request, void *buf, size_t len, Fds *fds,
                     GError **error)
{
    const char *name = request_names[request];

    for (size_t done = 0; done < len;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(MESSAGE_MAX_FDS * sizeof(int))];
        } control;
        struct iovec iov = {(char *)buf + done, len - done};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control)};
        ssize_t n;

        if (!wait_for(u, POLLIN, name, error))
            return false;
        n = recvmsg(u->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0 && would_block())
            continue;
        if (n < 0)
            return fail_transfer(name, error);
        take_fds(&msg, fds);
        if (n == 0)
            return hung_up(name, error);
        done += (size_t)n;
    }
    return true;
}

/* ---- messages --------------------------------------------------------------------- */

typedef struct Message {
    Header h;
    uint8_t payload[MESSAGE_MAX_PAYLOAD];
} Message;

bool message_tell_fds(VhostUser *u, Request request, uint32_t flags, const void *payload,
                      size_t len, const int *fds, unsigned n_fds, GError **error)
{
    Message m = {.h = {request, FLAG_VERSION | flags, (uint32_t)len}};

    if (len)
        memcpy(m.payload, payload, len);
    return send_all(u, request, &m, sizeof(m.h) + len, fds, n_fds, error);
}

bool message_lie(GError **error, Request request, const char *what)
{
    return fail(error, VM_ERROR_CORRUPT, "%s: the back end answered with %s",
                request_names[request], what);
}

bool message_hear_header(VhostUser *u, Request request, Header *h, Fds *fds,
                         GError **error)
{
    if (!message_receive(u, request, h, sizeof(*h), fds, error))
        return false;
    if (h->request != (uint32_t)request)
        return message_lie(error, request, "another request's number");
    return (h->flags & (FLAG_VERSION | 2 | FLAG_REPLY)) == (FLAG_VERSION | FLAG_REPLY) ||
           message_lie(error, request, "what is not a reply of version 1");
}

bool message_hear(VhostUser *u, Request request, void *payload, size_t len, int *ret_fd,
                  GError **error)
{
    __attribute__((cleanup(message_close_fds))) Fds fds = {.n = 0};
    Header h;

    if (!message_hear_header(u, request, &h, &fds, error))
        return false;
    if (!h.size && len)
        return message_lie(error, request, "nothing: it cannot do that");
    if (h.size != len)
        return message_lie(error, request, "a reply of a wrong size");
    if (!message_receive(u, request, payload, len, &fds, error))
        return false;
    if (fds.too_many || fds.n > (ret_fd ? 1u : 0u))
        return message_lie(error, request, "file descriptors that nobody asked for");
    if (ret_fd)
        *ret_fd = fds.n ? fd_steal(&fds.fd[0]) : -1;
    return true;
}

bool message_ask_u64(VhostUser *u, Request request, uint64_t *ret, GError **error)
{
    return message_tell_fds(u, request, 0, NULL, 0, NULL, 0, error) &&
           message_hear(u, request, ret, sizeof(*ret), NULL, error);
}

bool message_tell_acked(VhostUser *u, Request request, const void *payload, size_t len,
                        const int *fds, unsigned n_fds, GError **error)
{
    bool ack = vhost_user_has(u, VHOST_USER_P_REPLY_ACK);
    uint64_t refused = 0;

    if (!message_tell_fds(u, request, ack ? FLAG_NEED_REPLY : 0, payload, len, fds, n_fds,
                          error))
        return false;
    if (ack && !message_hear(u, request, &refused, sizeof(refused), NULL, error))
        return false;
    return !refused ||
           fail(error, VM_ERROR_IO, "the back end refuses %s", request_names[request]);
}

bool message_tell_u64(VhostUser *u, Request request, uint64_t value, GError **error)
{
    return message_tell_fds(u, request, 0, &value, sizeof(value), NULL, 0, error);
}

bool message_tell_state(VhostUser *u, Request request, unsigned index, uint32_t num,
                        GError **error)
{
    RingState s = {index, num};

    return message_tell_fds(u, request, 0, &s, sizeof(s), NULL, 0, error);
}

bool message_tell_ring_fd(VhostUser *u, Request request, unsigned index, int fd,
                          GError **error)
{
    uint64_t value = index;

    return message_tell_fds(u, request, 0, &value, sizeof(value), &fd, 1, error);
}
