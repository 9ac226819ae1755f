/* Messages of vhost-user; see backend/vhost_user.h.
 *
 * A message is a header of request, flags and size, and a payload; descriptors travel
 * beside its first byte.  Every reply is to a question of ours, of a size known before,
 * and only one of them may bring a descriptor: whatever else comes is a lie, and ends the
 * connection.  Nothing is allocated at the back end's word. */
#include "backend/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"

typedef enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_LOG_BASE = 6,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SEND_RARP = 19,
    NET_SET_MTU = 20,
    GET_CONFIG = 24,
    SET_CONFIG = 25,
    GET_INFLIGHT_FD = 31,
    SET_INFLIGHT_FD = 32,
    RESET_DEVICE = 34,
} Request;

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

enum {
    FLAG_VERSION = 1,
    FLAG_REPLY = 4,
    FLAG_NEED_REPLY = 8,
    F_PROTOCOL_FEATURES = 30, /* a virtio feature bit that drivers never see */
    MAX_REGIONS = 8,          /* in one message, with a descriptor each */
    MAX_FDS = MAX_REGIONS,
};

static const uint64_t known_protocol = BIT64(VHOST_USER_P_MQ) |
                                       BIT64(VHOST_USER_P_LOG_SHMFD) |
                                       BIT64(VHOST_USER_P_RARP) |
                                       BIT64(VHOST_USER_P_REPLY_ACK) |
                                       BIT64(VHOST_USER_P_NET_MTU) |
                                       BIT64(VHOST_USER_P_CONFIG) |
                                       BIT64(VHOST_USER_P_INFLIGHT) |
                                       BIT64(VHOST_USER_P_RESET_DEVICE);

typedef struct Header {
    uint32_t request, flags, size;
} Header;

typedef struct RingState {
    uint32_t index, num;
} RingState;

enum { RING_LOGGED = 1 }; /* RingAddress.flags */

typedef struct RingAddress {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
} RingAddress;

typedef struct Region {
    uint64_t gpa, size, user, offset;
} Region;

typedef struct MemTable {
    uint32_t n, padding;
    Region region[MAX_REGIONS];
} MemTable;

typedef struct LogBase {
    uint64_t size, offset;
} LogBase;

typedef struct ConfigSpace {
    uint32_t offset, size, flags;
    uint8_t bytes[VHOST_USER_MAX_CONFIG];
} ConfigSpace;

typedef struct Inflight {
    uint64_t size, offset;
    uint16_t n_queues, queue_size;
    uint32_t padding; /* on the wire as well, as the field's C programs have it */
} Inflight;

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
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
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

/* Descriptors that came; closed unless taken. */
typedef struct Fds {
    int fd[MAX_FDS];
    unsigned n;
    bool too_many;
} Fds;

static void close_fds(Fds *fds)
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
            if (fds->n < MAX_FDS) {
                fds->fd[fds->n++] = fd;
            } else {
                fds->too_many = true;
                close(fd);
            }
        }
    }
}

static bool receive_all(VhostUser *u, Request request, void *buf, size_t len, Fds *fds,
                        GError **error)
{
    const char *name = request_names[request];

    for (size_t done = 0; done < len;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
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
    uint8_t payload[sizeof(ConfigSpace)];
} Message;
_Static_assert(sizeof(MemTable) <= sizeof(ConfigSpace), "the largest payload");

static bool tell_fds(VhostUser *u, Request request, uint32_t flags, const void *payload,
                     size_t len, const int *fds, unsigned n_fds, GError **error)
{
    Message m = {.h = {request, FLAG_VERSION | flags, (uint32_t)len}};

    if (len)
        memcpy(m.payload, payload, len);
    return send_all(u, request, &m, sizeof(m.h) + len, fds, n_fds, error);
}

static bool lie(GError **error, Request request, const char *what)
{
    return fail(error, VM_ERROR_CORRUPT, "%s: the back end answered with %s",
                request_names[request], what);
}

static bool hear_header(VhostUser *u, Request request, Header *h, Fds *fds,
                        GError **error)
{
    if (!receive_all(u, request, h, sizeof(*h), fds, error))
        return false;
    if (h->request != (uint32_t)request)
        return lie(error, request, "another request's number");
    return (h->flags & (FLAG_VERSION | 2 | FLAG_REPLY)) == (FLAG_VERSION | FLAG_REPLY) ||
           lie(error, request, "what is not a reply of version 1");
}

/* Reads the answer to `request`, of a payload of exactly `len` bytes; ret_fd NULL: no
 * descriptor may come with it. */
static bool hear(VhostUser *u, Request request, void *payload, size_t len, int *ret_fd,
                 GError **error)
{
    __attribute__((cleanup(close_fds))) Fds fds = {.n = 0};
    Header h;

    if (!hear_header(u, request, &h, &fds, error))
        return false;
    if (!h.size && len)
        return lie(error, request, "nothing: it cannot do that");
    if (h.size != len)
        return lie(error, request, "a reply of a wrong size");
    if (!receive_all(u, request, payload, len, &fds, error))
        return false;
    if (fds.too_many || fds.n > (ret_fd ? 1u : 0u))
        return lie(error, request, "file descriptors that nobody asked for");
    if (ret_fd)
        *ret_fd = fds.n ? fd_steal(&fds.fd[0]) : -1;
    return true;
}

static bool ask_u64(VhostUser *u, Request request, uint64_t *ret, GError **error)
{
    return tell_fds(u, request, 0, NULL, 0, NULL, 0, error) &&
           hear(u, request, ret, sizeof(*ret), NULL, error);
}

/* Without REPLY_ACK a refusal shows as a hang-up, later. */
static bool tell_acked(VhostUser *u, Request request, const void *payload, size_t len,
                       const int *fds, unsigned n_fds, GError **error)
{
    bool ack = vhost_user_has(u, VHOST_USER_P_REPLY_ACK);
    uint64_t refused = 0;

    if (!tell_fds(u, request, ack ? FLAG_NEED_REPLY : 0, payload, len, fds, n_fds, error))
        return false;
    if (ack && !hear(u, request, &refused, sizeof(refused), NULL, error))
        return false;
    return !refused ||
           fail(error, VM_ERROR_IO, "the back end refuses %s", request_names[request]);
}

static bool tell_u64(VhostUser *u, Request request, uint64_t value, GError **error)
{
    return tell_fds(u, request, 0, &value, sizeof(value), NULL, 0, error);
}

static bool tell_state(VhostUser *u, Request request, unsigned index, uint32_t num,
                       GError **error)
{
    RingState s = {index, num};

    return tell_fds(u, request, 0, &s, sizeof(s), NULL, 0, error);
}

static bool tell_ring_fd(VhostUser *u, Request request, unsigned index, int fd,
                         GError **error)
{
    uint64_t value = index;

    return tell_fds(u, request, 0, &value, sizeof(value), &fd, 1, error);
}

/* ---- beginning -------------------------------------------------------------------- */

bool vhost_user_knock(VhostUser *u, int fd, GError **error)
{
    *u = (VhostUser){.fd = fd, .max_queues = UINT64_MAX, .deadline_ns = u->deadline_ns};
    return fd_set_nonblock(fd, true, error) &&
           tell_fds(u, GET_FEATURES, 0, NULL, 0, NULL, 0, error);
}

void vhost_user_close(VhostUser *u)
{
    fd_close(&u->fd);
    u->protocol = 0;
}

static bool agree_on_protocol(VhostUser *u, GError **error)
{
    uint64_t theirs;

    if (!(u->features & BIT64(F_PROTOCOL_FEATURES)))
        return true;
    if (!ask_u64(u, GET_PROTOCOL_FEATURES, &theirs, error))
        return false;
    u->protocol = theirs & known_protocol;
    return tell_u64(u, SET_PROTOCOL_FEATURES, u->protocol, error);
}

bool vhost_user_greet(VhostUser *u, GError **error)
{
    return hear(u, GET_FEATURES, &u->features, sizeof(u->features), NULL, error) &&
           agree_on_protocol(u, error) &&
           (!vhost_user_has(u, VHOST_USER_P_MQ) ||
            ask_u64(u, GET_QUEUE_NUM, &u->max_queues, error)) &&
           tell_fds(u, SET_OWNER, 0, NULL, 0, NULL, 0, error);
}

/* ---- config space ----------------------------------------------------------------- */

bool vhost_user_get_config(VhostUser *u, void *buf, uint32_t len, GError **error)
{
    size_t size = offsetof(ConfigSpace, bytes) + len;
    ConfigSpace c = {.size = len};

    g_return_val_if_fail(len <= VHOST_USER_MAX_CONFIG, false);
    if (!tell_fds(u, GET_CONFIG, 0, &c, size, NULL, 0, error) ||
        !hear(u, GET_CONFIG, &c, size, NULL, error))
        return false;
    if (c.offset || c.size != len)
        return lie(error, GET_CONFIG, "another part of the config space");
    memcpy(buf, c.bytes, len);
    return true;
}

bool vhost_user_set_config(VhostUser *u, uint32_t offset, const void *buf, uint32_t len,
                           GError **error)
{
    ConfigSpace c = {.offset = offset, .size = len};

    g_return_val_if_fail(len <= VHOST_USER_MAX_CONFIG, false);
    memcpy(c.bytes, buf, len);
    return tell_acked(u, SET_CONFIG, &c, offsetof(ConfigSpace, bytes) + len, NULL, 0,
                      error);
}

/* ---- what is in flight ------------------------------------------------------------ */

void vhost_inflight_clear(VhostInflight *inflight)
{
    fd_close(&inflight->fd);
}

bool vhost_user_get_inflight(VhostUser *u, uint16_t n_queues, uint16_t queue_size,
                             VhostInflight *ret, GError **error)
{
    Inflight i = {.n_queues = n_queues, .queue_size = queue_size};
    int fd = -1;

    if (!tell_fds(u, GET_INFLIGHT_FD, 0, &i, sizeof(i), NULL, 0, error) ||
        !hear(u, GET_INFLIGHT_FD, &i, sizeof(i), &fd, error))
        return false;
    if (fd < 0 || !i.size)
        return fd_close(&fd), lie(error, GET_INFLIGHT_FD, "no memory");
    vhost_inflight_clear(ret);
    *ret = (VhostInflight){fd, i.size, i.offset, n_queues, queue_size};
    return true;
}

static bool set_inflight(VhostUser *u, const VhostInflight *i, GError **error)
{
    Inflight wire = {i->size, i->offset, i->n_queues, i->queue_size, 0};

    return i->fd < 0 || !vhost_user_has(u, VHOST_USER_P_INFLIGHT) ||
           tell_acked(u, SET_INFLIGHT_FD, &wire, sizeof(wire), &i->fd, 1, error);
}

/* ---- rings ------------------------------------------------------------------------ */

/* Each region of guest RAM is a part of the one file. */
static bool set_memory(VhostUser *u, const GuestMem *gm, const VhostRegion *extra,
                       GError **error)
{
    MemTable table = {0};
    int fds[MAX_REGIONS];

    if (gm->n_regions + (extra->fd >= 0) > MAX_REGIONS)
        return fail(error, VM_ERROR_UNSUPPORTED, "more than %d regions of memory",
                    MAX_REGIONS);
    for (unsigned i = 0; i < gm->n_regions; i++) {
        const GuestRegion *r = &gm->region[i];

        fds[table.n] = gm->fd;
        table.region[table.n++] = (Region){r->gpa, r->size, (uintptr_t)r->host,
                                           r->offset};
    }
    if (extra->fd >= 0) {
        fds[table.n] = extra->fd;
        table.region[table.n++] = (Region){extra->gpa, extra->size,
                                           (uintptr_t)extra->host, 0};
    }
    return tell_acked(u, SET_MEM_TABLE, &table,
                      offsetof(MemTable, region) + table.n * sizeof(Region), fds, table.n,
                      error);
}

/* The answer says that it is done; DPDK's is empty, others' a number. */
static bool hear_log_base(VhostUser *u, GError **error)
{
    __attribute__((cleanup(close_fds))) Fds fds = {.n = 0};
    uint64_t ignored;
    Header h;

    if (!hear_header(u, SET_LOG_BASE, &h, &fds, error))
        return false;
    if (h.size && h.size != sizeof(ignored))
        return lie(error, SET_LOG_BASE, "a reply of a wrong size");
    return !h.size || receive_all(u, SET_LOG_BASE, &ignored, h.size, &fds, error);
}

/* Into which it writes by guest address, a bit per page. */
static bool set_log(VhostUser *u, const GmRemoteLog *log, GError **error)
{
    LogBase base = {log->size, 0};

    if (!vhost_user_has(u, VHOST_USER_P_LOG_SHMFD))
        return fail(error, VM_ERROR_CORRUPT,
                    "the back end cannot tell which of the guest's memory it writes");
    return tell_fds(u, SET_LOG_BASE, 0, &base, sizeof(base), &log->fd, 1, error) &&
           hear_log_base(u, error);
}

static bool set_ring(VhostUser *u, const VhostRing *r, bool logged, GError **error)
{
    RingAddress at = {.index = r->index,
                      .flags = logged ? RING_LOGGED : 0,
                      .log = logged ? r->device_gpa : 0,
                      .desc = (uintptr_t)r->desc,
                      .used = (uintptr_t)r->device,
                      .avail = (uintptr_t)r->driver};

    return tell_state(u, SET_VRING_NUM, r->index, r->size, error) &&
           tell_state(u, SET_VRING_BASE, r->index, r->base, error) &&
           tell_acked(u, SET_VRING_ADDR, &at, sizeof(at), NULL, 0, error) &&
           tell_ring_fd(u, SET_VRING_ERR, r->index, r->err_fd, error) &&
           tell_ring_fd(u, SET_VRING_CALL, r->index, r->call_fd, error) &&
           tell_ring_fd(u, SET_VRING_KICK, r->index, r->kick_fd, error);
}

bool vhost_user_enable(VhostUser *u, unsigned index, bool on, GError **error)
{
    RingState s = {index, on};

    return !(u->features & BIT64(F_PROTOCOL_FEATURES)) ||
           tell_acked(u, SET_VRING_ENABLE, &s, sizeof(s), NULL, 0, error);
}

bool vhost_user_start(VhostUser *u, uint64_t features, const GuestMem *gm,
                      const VhostRegion *extra, const VhostRing *rings, unsigned n,
                      const VhostInflight *inflight, GError **error)
{
    const GmRemoteLog *log = gm->remote_log;
    uint64_t agreed = features | (u->features & BIT64(F_PROTOCOL_FEATURES)) |
                      (log ? BIT64(VHOST_F_LOG_ALL) : 0);

    if (!tell_u64(u, SET_FEATURES, agreed, error) || !set_memory(u, gm, extra, error) ||
        (log && !set_log(u, log, error)) || !set_inflight(u, inflight, error))
        return false;
    for (unsigned i = 0; i < n; i++)
        if (!set_ring(u, &rings[i], log, error))
            return false;
    /* Last, so that its answer says that all before it was done too. */
    for (unsigned i = 0; i < n; i++)
        if (!vhost_user_enable(u, rings[i].index, !rings[i].disabled, error))
            return false;
    return true;
}

bool vhost_user_stop(VhostUser *u, unsigned index, uint16_t *ret_base, GError **error)
{
    RingState s = {index, 0};

    if (!tell_fds(u, GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0, error) ||
        !hear(u, GET_VRING_BASE, &s, sizeof(s), NULL, error))
        return false;
    if (s.index != index || s.num > UINT16_MAX)
        return lie(error, GET_VRING_BASE, "an impossible ring state");
    *ret_base = (uint16_t)s.num;
    return true;
}

bool vhost_user_reset_device(VhostUser *u, GError **error)
{
    return !vhost_user_has(u, VHOST_USER_P_RESET_DEVICE) ||
           tell_acked(u, RESET_DEVICE, NULL, 0, NULL, 0, error);
}

/* ---- network cards ---------------------------------------------------------------- */

bool vhost_user_send_rarp(VhostUser *u, const uint8_t mac[6], GError **error)
{
    return !vhost_user_has(u, VHOST_USER_P_RARP) ||
           tell_u64(u, SEND_RARP, load_le(mac, 6), error);
}

bool vhost_user_set_mtu(VhostUser *u, uint16_t mtu, GError **error)
{
    uint64_t value = mtu;

    return !vhost_user_has(u, VHOST_USER_P_NET_MTU) ||
           tell_acked(u, NET_SET_MTU, &value, sizeof(value), NULL, 0, error);
}
