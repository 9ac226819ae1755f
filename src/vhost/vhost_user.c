/* What is said to a vhost-user back end, and when; see backend/vhost_user.h.  How it gets
 * there is in message.c. */
#include <stddef.h>
#include <string.h>

#include "src/vhost/message.h"
#include "util/bits.h"
#include "util/fd.h"

enum {
    F_PROTOCOL_FEATURES = 30,      /* a virtio feature bit that drivers never see */
    MAX_REGIONS = MESSAGE_MAX_FDS, /* in one message, with a descriptor each */
};

static const uint64_t known_protocol = BIT64(VHOST_USER_P_MQ) |
                                       BIT64(VHOST_USER_P_LOG_SHMFD) |
                                       BIT64(VHOST_USER_P_RARP) |
                                       BIT64(VHOST_USER_P_REPLY_ACK) |
                                       BIT64(VHOST_USER_P_NET_MTU) |
                                       BIT64(VHOST_USER_P_CONFIG) |
                                       BIT64(VHOST_USER_P_INFLIGHT) |
                                       BIT64(VHOST_USER_P_RESET_DEVICE);

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

_Static_assert(sizeof(MemTable) <= MESSAGE_MAX_PAYLOAD &&
                   sizeof(ConfigSpace) == MESSAGE_MAX_PAYLOAD,
               "the largest payload");

/* ---- beginning -------------------------------------------------------------------- */

bool vhost_user_knock(VhostUser *u, int fd, GError **error)
{
    *u = (VhostUser){.fd = fd, .max_queues = UINT64_MAX, .deadline_ns = u->deadline_ns};
    return fd_set_nonblock(fd, true, error) &&
           message_tell_fds(u, GET_FEATURES, 0, NULL, 0, NULL, 0, error);
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
    if (!message_ask_u64(u, GET_PROTOCOL_FEATURES, &theirs, error))
        return false;
    u->protocol = theirs & known_protocol;
    return message_tell_u64(u, SET_PROTOCOL_FEATURES, u->protocol, error);
}

bool vhost_user_greet(VhostUser *u, GError **error)
{
    return message_hear(u, GET_FEATURES, &u->features, sizeof(u->features), NULL,
                        error) &&
           agree_on_protocol(u, error) &&
           (!vhost_user_has(u, VHOST_USER_P_MQ) ||
            message_ask_u64(u, GET_QUEUE_NUM, &u->max_queues, error)) &&
           message_tell_fds(u, SET_OWNER, 0, NULL, 0, NULL, 0, error);
}

/* ---- config space ----------------------------------------------------------------- */

bool vhost_user_get_config(VhostUser *u, void *buf, uint32_t len, GError **error)
{
    size_t size = offsetof(ConfigSpace, bytes) + len;
    ConfigSpace c = {.size = len};

    g_return_val_if_fail(len <= VHOST_USER_MAX_CONFIG, false);
    if (!message_tell_fds(u, GET_CONFIG, 0, &c, size, NULL, 0, error) ||
        !message_hear(u, GET_CONFIG, &c, size, NULL, error))
        return false;
    if (c.offset || c.size != len)
        return message_lie(error, GET_CONFIG, "another part of the config space");
    memcpy(buf, c.bytes, len);
    return true;
}

bool vhost_user_set_config(VhostUser *u, uint32_t offset, const void *buf, uint32_t len,
                           GError **error)
{
    ConfigSpace c = {.offset = offset, .size = len};

    g_return_val_if_fail(len <= VHOST_USER_MAX_CONFIG, false);
    memcpy(c.bytes, buf, len);
    return message_tell_acked(u, SET_CONFIG, &c, offsetof(ConfigSpace, bytes) + len, NULL,
                              0, error);
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

    if (!message_tell_fds(u, GET_INFLIGHT_FD, 0, &i, sizeof(i), NULL, 0, error) ||
        !message_hear(u, GET_INFLIGHT_FD, &i, sizeof(i), &fd, error))
        return false;
    if (fd < 0 || !i.size)
        return fd_close(&fd), message_lie(error, GET_INFLIGHT_FD, "no memory");
    vhost_inflight_clear(ret);
    *ret = (VhostInflight){fd, i.size, i.offset, n_queues, queue_size};
    return true;
}

static bool set_inflight(VhostUser *u, const VhostInflight *i, GError **error)
{
    Inflight wire = {i->size, i->offset, i->n_queues, i->queue_size, 0};

    return i->fd < 0 || !vhost_user_has(u, VHOST_USER_P_INFLIGHT) ||
           message_tell_acked(u, SET_INFLIGHT_FD, &wire, sizeof(wire), &i->fd, 1, error);
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
    return message_tell_acked(u, SET_MEM_TABLE, &table,
                              offsetof(MemTable, region) + table.n * sizeof(Region), fds,
                              table.n, error);
}

/* The answer says that it is done; DPDK's is empty, others' a number. */
static bool hear_log_base(VhostUser *u, GError **error)
{
    __attribute__((cleanup(message_close_fds))) Fds fds = {.n = 0};
    uint64_t ignored;
    Header h;

    if (!message_hear_header(u, SET_LOG_BASE, &h, &fds, error))
        return false;
    if (h.size && h.size != sizeof(ignored))
        return message_lie(error, SET_LOG_BASE, "a reply of a wrong size");
    return !h.size || message_receive(u, SET_LOG_BASE, &ignored, h.size, &fds, error);
}

/* Into which it writes by guest address, a bit per page. */
static bool set_log(VhostUser *u, const GmRemoteLog *log, GError **error)
{
    LogBase base = {log->size, 0};

    return message_tell_fds(u, SET_LOG_BASE, 0, &base, sizeof(base), &log->fd, 1,
                            error) &&
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

    return message_tell_state(u, SET_VRING_NUM, r->index, r->size, error) &&
           message_tell_state(u, SET_VRING_BASE, r->index, r->base, error) &&
           message_tell_acked(u, SET_VRING_ADDR, &at, sizeof(at), NULL, 0, error) &&
           message_tell_ring_fd(u, SET_VRING_ERR, r->index, r->err_fd, error) &&
           message_tell_ring_fd(u, SET_VRING_CALL, r->index, r->call_fd, error) &&
           message_tell_ring_fd(u, SET_VRING_KICK, r->index, r->kick_fd, error);
}

bool vhost_user_enable(VhostUser *u, unsigned index, bool on, GError **error)
{
    RingState s = {index, on};

    return !(u->features & BIT64(F_PROTOCOL_FEATURES)) ||
           message_tell_acked(u, SET_VRING_ENABLE, &s, sizeof(s), NULL, 0, error);
}

bool vhost_user_start(VhostUser *u, uint64_t features, const GuestMem *gm,
                      const VhostRegion *extra, const VhostRing *rings, unsigned n,
                      const VhostInflight *inflight, GError **error)
{
    const GmRemoteLog *log = vhost_user_logs(u) ? gm->remote_log : NULL;
    uint64_t agreed = features | (u->features & BIT64(F_PROTOCOL_FEATURES)) |
                      (log ? BIT64(VHOST_F_LOG_ALL) : 0);

    if (!message_tell_u64(u, SET_FEATURES, agreed, error) ||
        !set_memory(u, gm, extra, error) || (log && !set_log(u, log, error)) ||
        !set_inflight(u, inflight, error))
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

    if (!message_tell_fds(u, GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0, error) ||
        !message_hear(u, GET_VRING_BASE, &s, sizeof(s), NULL, error))
        return false;
    if (s.index != index || s.num > UINT16_MAX)
        return message_lie(error, GET_VRING_BASE, "an impossible ring state");
    *ret_base = (uint16_t)s.num;
    return true;
}

bool vhost_user_reset_device(VhostUser *u, GError **error)
{
    return !vhost_user_has(u, VHOST_USER_P_RESET_DEVICE) ||
           message_tell_acked(u, RESET_DEVICE, NULL, 0, NULL, 0, error);
}

/* ---- network cards ---------------------------------------------------------------- */

bool vhost_user_send_rarp(VhostUser *u, const uint8_t mac[6], GError **error)
{
    return !vhost_user_has(u, VHOST_USER_P_RARP) ||
           message_tell_u64(u, SEND_RARP, load_le(mac, 6), error);
}

bool vhost_user_set_mtu(VhostUser *u, uint16_t mtu, GError **error)
{
    uint64_t value = mtu;

    return !vhost_user_has(u, VHOST_USER_P_NET_MTU) ||
           message_tell_acked(u, NET_SET_MTU, &value, sizeof(value), NULL, 0, error);
}
