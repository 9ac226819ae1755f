/* virtio-vsock (virtio 1.2, 5.10): programs in the guest and on the host talk by stream
 * sockets, without a network.  The guest's side is AF_VSOCK, the host's are unix sockets;
 * see vsock_host.c for these and vsock_conn.c for what happens in between.  Here are the
 * queues, the listening socket, and the device's life.
 *
 * Not offered: SEQPACKET.  The event queue is there for the transport reset: connections
 * end where a VM is saved, and a restored guest is told so. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "state_private.h"
#include "util/fd.h"
#include "util/iov.h"
#include "virtio/devices.h"
#include "virtio/state.h"
#include "virtio/vsock_private.h"

enum {
    VSOCK_F_STREAM = 0, /* 5.10.3 */
    QUEUE_SIZE = 128,
    RX_BATCH = 256, /* packets, before the loop's others have their turn */
    BACKLOG = 128,  /* clients that wait to be accepted */
    RETRY_NS = 100 * 1000 * 1000,
};

typedef struct VsockOptions {
    VirtioCommonOptions common;
    uint64_t cid;
    char *path;
} VsockOptions;

static Virtqueue *queue(Vsock *vs, unsigned i)
{
    return &vs->v.queues[i].vq;
}

/* ---- queues ----------------------------------------------------------------------- */

/* One packet of the first in the row, into the buffer.  Bytes written; 0: it had nothing
 * to say. */
static uint32_t fill_buffer(Vsock *vs, const VqReq *req)
{
    VsockConn *c = g_queue_peek_head(&vs->ready);
    struct iovec room[VQ_MAX_SIZE];
    size_t size = iov_len(vq_writable(req), req->n_write);
    VsockHdr hdr;
    unsigned n;

    if (size <= sizeof(hdr)) {
        virtio_broken(&vs->v, "a receive buffer of %zu bytes has no room", size);
        return 0;
    }
    hdr.len = (uint32_t)MIN(size - sizeof(hdr), VSOCK_MAX_DATA);
    n = iov_slice(vq_writable(req), req->n_write, sizeof(hdr), hdr.len, room);
    if (!vsock_conn_speak(c, &hdr, room, n))
        return 0;
    iov_from_buf(vq_writable(req), req->n_write, 0, &hdr, sizeof(hdr));
    return (uint32_t)sizeof(hdr) + hdr.len;
}

void vsock_run_rx(Vsock *vs)
{
    Virtqueue *vq = queue(vs, VSOCK_RX);
    unsigned left = RX_BATCH;
    VqReq req;

    while (vs->ready.length && left-- && vq_pop(vq, &req)) {
        uint32_t written = fill_buffer(vs, &req);

        if (written)
            vq_push(vq, &req, written);
        else
            vq_unpop(vq, &req);
    }
    if (vs->ready.length && vq_has_work(vq))
        virtio_queue_kick(&vs->v, VSOCK_RX);
    vq_notify(vq);
}

/* 5.10.6.1.2: what is not from this guest, or not to the host, is dropped. */
static void take_packet(Vsock *vs, const VqReq *req)
{
    size_t size = iov_len(vq_readable(req), req->n_read);
    struct iovec data[VQ_MAX_SIZE];
    VsockHdr hdr;
    unsigned n;

    if (iov_to_buf(vq_readable(req), req->n_read, 0, &hdr, sizeof(hdr)) < sizeof(hdr) ||
        hdr.len > size - sizeof(hdr)) {
        virtio_broken(&vs->v, "a packet is longer than its %zu bytes", size);
        return;
    }
    if (hdr.src_cid != vs->cid || hdr.dst_cid != VSOCK_HOST_CID)
        return;
    n = iov_slice(vq_readable(req), req->n_read, sizeof(hdr), hdr.len, data);
    vsock_conn_packet(vs, &hdr, data, n);
}

static void run_tx(Vsock *vs)
{
    Virtqueue *vq = queue(vs, VSOCK_TX);
    VqReq req;

    for (;;) {
        vs->tx_held = !vsock_answer_room(vs); /* until vsock_slot_freed() */
        if (vs->tx_held || !vq_pop(vq, &req))
            break;
        take_packet(vs, &req);
        vq_push(vq, &req, 0);
    }
    vq_notify(vq);
    vsock_run_rx(vs);
}

/* 5.10.6.7: the guest drops its connections, keeps who listens, and reads its CID again.
 */
static void run_events(Vsock *vs)
{
    static const uint32_t transport_reset = 0;
    Virtqueue *vq = queue(vs, VSOCK_EVENT);
    VqReq req;

    while (vs->reset_owed && vq_pop(vq, &req)) {
        size_t n = iov_from_buf(vq_writable(&req), req.n_write, 0, &transport_reset,
                                sizeof(transport_reset));

        vs->reset_owed = n < sizeof(transport_reset); /* a buffer without room */
        vq_push(vq, &req, (uint32_t)n);
    }
    vq_notify(vq);
}

static void vsock_handle(VirtioDevice *v, Virtqueue *vq)
{
    if (vq->index == VSOCK_RX)
        vsock_run_rx((Vsock *)v);
    else if (vq->index == VSOCK_TX)
        run_tx((Vsock *)v);
    else
        run_events((Vsock *)v);
}

/* ---- the listening socket --------------------------------------------------------- */

static void start_accepting(void *opaque);

static void accept_later(Vsock *vs)
{
    ioloop_unwatch(&vs->accepting);
    ioloop_timer(vs->v.loop, &vs->retry, clock_ns() + RETRY_NS, start_accepting, vs);
}

static void on_client(void *opaque, uint32_t events)
{
    Vsock *vs = opaque;
    int fd = accept4(vs->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0) {
        vsock_host_accept(vs, fd);
        if (!vsock_conn_room(vs))
            ioloop_unwatch(&vs->accepting);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        accept_later(vs); /* short of file descriptors or memory */
    }
}

static void start_accepting(void *opaque)
{
    Vsock *vs = opaque;

    if (!vs->open || vs->accepting.loop || vs->retry.loop || !vsock_conn_room(vs))
        return;
    if (!ioloop_watch(vs->v.loop, &vs->accepting, vs->listener.fd, EPOLLIN, on_client, vs,
                      NULL))
        accept_later(vs);
}

static void stop_accepting(Vsock *vs)
{
    vs->open = false;
    ioloop_unwatch(&vs->accepting);
    ioloop_timer_cancel(&vs->retry);
}

void vsock_slot_freed(Vsock *vs)
{
    start_accepting(vs);
    if (vs->tx_held)
        virtio_queue_kick(&vs->v, VSOCK_TX);
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void vsock_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    memcpy(buf, (uint8_t *)&((Vsock *)v)->cid + offset, len);
}

/* Clients that came before the guest's driver wait to be accepted. */
static bool vsock_activate(VirtioDevice *v, GError **error)
{
    Vsock *vs = (Vsock *)v;

    vs->open = true;
    start_accepting(vs);
    return true;
}

static void vsock_quiesce(VirtioDevice *v)
{
    vsock_conns_pause((Vsock *)v);
}

static void vsock_resume(VirtioDevice *v)
{
    start_accepting(v);
    vsock_conns_resume((Vsock *)v);
}

static void vsock_reset(VirtioDevice *v)
{
    Vsock *vs = (Vsock *)v;

    stop_accepting(vs);
    vsock_conns_end(vs);
    vs->tx_held = false;
    vs->paused = false;
    vs->reset_owed = false;
}

static bool vsock_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    Vsock *vs = (Vsock *)v;
    const VsockOptions *o = opaque;

    v->n_queues = VSOCK_QUEUES;
    v->offered = BIT64(VSOCK_F_STREAM);
    vs->cid = o->cid;
    g_strlcpy(vs->path, o->path, sizeof(vs->path));
    vs->listener.fd = -1;
    vs->limit_ns = VSOCK_LIMIT_NS;
    vsock_conns_init(vs);
    return unix_listen(&vs->listener, vs->path, BACKLOG, error);
}

/* After a reset, so that nothing is on the loop. */
static void vsock_release(VirtioDevice *v)
{
    Vsock *vs = (Vsock *)v;

    if (*vs->path) /* else it was not realized */
        unix_unlisten(&vs->listener);
}

/* ---- saved state ------------------------------------------------------------------ */

typedef struct VsockSaved {
    uint64_t cid;
    uint32_t last_port;
    bool reset_owed;
} VsockSaved;

static const StateField state_fields[] = {
    STATE_FIELD(VsockSaved, cid, 1, U64),
    STATE_FIELD(VsockSaved, last_port, 2, U32, .help = "clients' ports go on behind it"),
    STATE_FIELD(
        VsockSaved, reset_owed, 3, BOOL,
        .help = "the guest had connections, and is to be told that they are gone"),
    STATE_HOLE_AT_END(VsockSaved, reset_owed),
    {},
};

const StateTable virtio_vsock_state_table = {
    .name = "vsock",
    .version = 1,
    .size = sizeof(VsockSaved),
    .fields = state_fields,
};

/* In a pause sockets are still heard. */
static void save_on_loop(VirtioDevice *v, StateWriter *w)
{
    const Vsock *vs = (const Vsock *)v;
    const VsockSaved s = {
        .cid = vs->cid,
        .last_port = vs->last_port,
        .reset_owed = v->live && (vs->reset_owed || vsock_conns_known(vs)),
    };
    char name[64];

    state_put(w, virtio_section(v, "vsock", name), &virtio_vsock_state_table, &s);
}

static void vsock_save(VirtioDevice *v, StateWriter *w)
{
    virtio_save_on_loop(v, save_on_loop, w);
}

static bool vsock_load(VirtioDevice *v, StateReader *r, GError **error)
{
    Vsock *vs = (Vsock *)v;
    VsockSaved s;
    char name[64];

    if (!state_get(r, virtio_section(v, "vsock", name), &virtio_vsock_state_table, &s,
                   error))
        return false;
    vs->last_port = s.last_port;
    vs->open = v->live;
    vs->reset_owed = v->live && (s.reset_owed || s.cid != vs->cid);
    return true;
}

/* ---- options ---------------------------------------------------------------------- */

static bool check(void *opaque, GError **error)
{
    const VsockOptions *o = opaque;

    if (!*o->path || strlen(o->path) > VSOCK_PATH_MAX)
        return fail(error, VM_ERROR_INVALID,
                    "path: a path of 1 to %u bytes, for '_PORT' has to fit behind it",
                    VSOCK_PATH_MAX);
    return true;
}

static const ParamTable vsock_params = {
    .size = sizeof(VsockOptions),
    .check = check,
    .desc =
        (const ParamDesc[]){
            {.key = "cid",
             .type = PARAM_UINT,
             .offset = offsetof(VsockOptions, cid),
             .arg = "N",
             .help = "the guest's address (CID)",
             .min = VSOCK_HOST_CID + 1,
             .max = UINT32_MAX - 1,
             .required = true},
            {.key = "path",
             .type = PARAM_PATH,
             .offset = offsetof(VsockOptions, path),
             .arg = "SOCKET",
             .help = "clients connect here and say CONNECT PORT; the guest's connections "
                     "to port P go to SOCKET_P",
             .required = true},
            VIRTIO_PARAMS(VsockOptions, common),
            {0}},
};

const VirtioOps virtio_vsock_ops = {
    .name = "vsock",
    .id = 19,
    .pci_class = 0x078000, /* another communications controller */
    .option = "vsock",
    .help = "sockets between guest and host programs (AF_VSOCK)",
    .params = &vsock_params,
    .size = sizeof(Vsock),
    .queue_size = QUEUE_SIZE,
    .config_size = sizeof(uint64_t),
    .own_thread = true,
    .realize = vsock_realize,
    .release = vsock_release,
    .config_read = vsock_config_read,
    .activate = vsock_activate,
    .handle = vsock_handle,
    .quiesce = vsock_quiesce,
    .resume = vsock_resume,
    .reset = vsock_reset,
    .save = vsock_save,
    .load = vsock_load,
};
