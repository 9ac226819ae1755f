/* A VM's port: its rings, and when they are looked at; see port_vm.h.
 *
 * The rings are memory that the monitor can write to at any time.  A record's length and
 * header are copied and then checked (switch_receive()), its frame is copied before it is
 * parsed, and nothing that the monitor writes is believed twice.
 *
 * Sleeping.  A port that has sent something is `active`: its rings are looked at in every
 * turn of the loop, without any system call between it and its monitor.  One that has
 * been silent for its window is asked to kick us again and leaves that list, so an idle
 * switch sleeps in epoll, and a switch of a thousand idle ports looks at none of them.
 * The window adapts as that of a device does: it closes for who kicks seldom.
 *
 * Memory.  RING_REST_MS after a burst all ports are looked at, and again after as long,
 * until the rings that it filled are given back to the host; when none is left, and in an
 * idle switch, there is no such timer. */
#include "src/switch/port_vm.h"

#include "backend/netdev.h"
#include "network/ring.h"
#include "src/switch/hold.h"
#include "src/switch/vm_link.h"
#include "util/fd.h"

enum {
    BATCH = 32,           /* frames of a queue before it is another port's turn */
    TURNS = 8,            /* times around before other events are looked at */
    RESERVE = 128 * 1024, /* less room than that in its ring: the port is full */
    POLL_MIN_NS = 4000,
    POLL_MAX_NS = 50000,
};

typedef struct Queue {
    struct PortVm *owner;
    Ring from_vm, to_vm;
    IoWatch watch;
    int kick_fd, call_fd; /* wakes us, wakes the monitor */
    bool used;            /* something was put since the last flush */
} Queue;

typedef struct PortVm {
    Port port;
    VmLink link;
    void *memory;
    bool active;
    bool asleep; /* we have asked to be kicked */
    Port *next_active;
    int64_t last_ns; /* when there was something, or when we went to sleep */
    int64_t window_ns;
    Queue *sending; /* of the frame that is being sent */
    bool sent;
    unsigned n_queues;
    Queue queue[];
} PortVm;

static PortVm *of(Port *port)
{
    return (PortVm *)port;
}

/* ---- from the VM ------------------------------------------------------------------- */

static void receive(Port *port, const uint8_t *record, uint32_t len)
{
    Frame f = {.data = port->sw->buffer + FRAME_ROOM};

    if (len < NET_HDR_LEN || len > NET_HDR_LEN + PACKET_MAX) {
        counter_add(&port->count[FROM_VM].dropped, 1);
        return;
    }
    memcpy(&f.hdr, record, sizeof(f.hdr));
    f.hdr.flags &= VNET_NEEDS_CSUM;
    f.len = len - NET_HDR_LEN;
    memcpy(f.data, record + NET_HDR_LEN, f.len);
    switch_receive(port, &f);
}

static unsigned read_queue(Port *port, Queue *q)
{
    unsigned n = 0;
    uint32_t len;
    const uint8_t *record;

    while (n < BATCH && !port->waits_for && (record = ring_peek(&q->from_vm, &len))) {
        receive(port, record, len);
        ring_take(&q->from_vm);
        n++;
    }
    if (n || q->from_vm.nonsense)
        ring_release(&q->from_vm);
    counter_add(&port->count[FROM_VM].dropped, q->from_vm.nonsense);
    q->from_vm.nonsense = 0;
    return n;
}

/* ---- when -------------------------------------------------------------------------- */

static void activate(PortVm *v)
{
    if (v->active)
        return;
    v->active = true;
    v->next_active = v->port.sw->active;
    v->port.sw->active = &v->port;
    for (unsigned i = 0; v->asleep && i < v->n_queues; i++)
        ring_awake(&v->queue[i].from_vm);
    v->asleep = false;
}

static void deactivate(PortVm *v)
{
    Port **at = &v->port.sw->active;

    while (*at && *at != &v->port)
        at = &of(*at)->next_active;
    if (*at)
        *at = v->next_active;
    v->active = false;
}

static void look_for_room(PortVm *v)
{
    for (unsigned i = 0; i < v->n_queues; i++)
        if (!ring_has_room(&v->queue[i].to_vm, RESERVE))
            return;
    hold_room(&v->port);
}

/* False: something came just now. */
static bool go_to_sleep(PortVm *v)
{
    v->asleep = true;
    for (unsigned i = 0; i < v->n_queues; i++)
        if (!ring_sleep(&v->queue[i].from_vm))
            return false;
    return true;
}

/* True: it stays active.  Who is held leaves, and needs no kick to come back. */
static bool look(PortVm *v, bool *ret_work)
{
    const int64_t now_ns = v->port.sw->now_ns;
    unsigned n = 0;

    if (v->port.full)
        look_for_room(v);
    for (unsigned i = 0; i < v->n_queues; i++)
        n += read_queue(&v->port, &v->queue[i]);
    if (n) {
        v->last_ns = now_ns;
        *ret_work = true;
    }
    if (v->port.waits_for)
        return false;
    if (now_ns - v->last_ns <= v->window_ns || !go_to_sleep(v))
        return true;
    v->last_ns = now_ns;
    return false;
}

/* Ports that are made active in a turn are looked at in the next. */
static bool look_at_all(Switch *sw)
{
    Port *list = sw->active;
    bool work = false;

    sw->active = NULL;
    switch_turn(sw);
    while (list) {
        PortVm *v = of(list);

        list = v->next_active;
        v->active = false;
        if (look(v, &work))
            activate(v);
    }
    switch_flush(sw);
    return work;
}

static bool on_poll(void *opaque)
{
    Switch *sw = opaque;

    for (unsigned i = 0; i < TURNS && sw->active; i++)
        if (!look_at_all(sw))
            break;
    return sw->active != NULL;
}

static void adapt_window(PortVm *v)
{
    const int64_t slept = v->port.sw->now_ns - v->last_ns;

    if (slept > POLL_MAX_NS)
        v->window_ns = MAX(v->window_ns / 2, POLL_MIN_NS);
    else
        v->window_ns = CLAMP(v->window_ns * 2, POLL_MIN_NS, POLL_MAX_NS);
    v->last_ns = v->port.sw->now_ns;
}

static void rest_later(PortVm *v);

/* Frames, or room in its other ring.  A monitor that closes its end does not kick any
 * more; that it leaves, its socket says. */
static void on_kick(void *opaque, uint32_t events)
{
    Queue *q = opaque;
    PortVm *v = q->owner;

    if (!fd_event_take(q->kick_fd) && (events & EPOLLHUP))
        ioloop_unwatch(&q->watch);
    switch_turn(v->port.sw);
    if (v->port.full)
        look_for_room(v);
    rest_later(v);
    if (!v->active && !v->port.waits_for) {
        adapt_window(v);
        activate(v);
    }
    switch_flush(v->port.sw); /* of who waited for the room */
}

static void vm_resume(Port *port)
{
    of(port)->last_ns = port->sw->now_ns;
    activate(of(port));
}

/* ---- to the VM --------------------------------------------------------------------- */

/* Frames of a flow stay in one queue, so that they stay in order. */
static Queue *queue_of(PortVm *v, const Packet *p)
{
    uint32_t h = p->proto;

    if (v->n_queues == 1 || p->kind == PACKET_OTHER)
        return &v->queue[0];
    for (unsigned i = 0; i < sizeof(Ip); i += sizeof(uint32_t)) {
        uint32_t from, to;

        memcpy(&from, p->from.b + i, sizeof(from));
        memcpy(&to, p->to.b + i, sizeof(to));
        h = (h ^ from) * 0x9e3779b1u;
        h = (h ^ to) * 0x85ebca6bu;
    }
    if (!p->fragment)
        h = (h ^ ((uint32_t)p->from_port << 16 | p->to_port)) * 0xc2b2ae35u;
    return &v->queue[(h >> 16) % v->n_queues];
}

static bool put(PortVm *v, const VnetHdr *hdr, const uint8_t *frame, size_t len)
{
    struct iovec iov[2] = {{(void *)hdr, sizeof(*hdr)}, {(void *)frame, len}};

    if (!ring_put(&v->sending->to_vm, iov, 2))
        return false;
    v->sending->used = true;
    return true;
}
_Static_assert(sizeof(VnetHdr) == NET_HDR_LEN, "as it is in the rings");

static bool put_piece(void *port, const uint8_t *frame, size_t len)
{
    static const VnetHdr plain = {.num_buffers = 1};
    PortVm *v = port;

    v->sent = put(v, &plain, frame, len);
    return v->sent;
}

static bool vm_send(Port *port, const Frame *f)
{
    PortVm *v = of(port);
    VnetHdr hdr = f->hdr;

    v->sending = queue_of(v, &f->p);
    hdr.num_buffers = 1;
    if (port_takes(port, &hdr)) {
        v->sent = put(v, &hdr, f->data, f->len);
    } else {
        v->sent = false;
        port_offload(port, f, put_piece);
    }
    if (!ring_has_room(&v->sending->to_vm, RESERVE))
        hold_full(port);
    return v->sent;
}

static void vm_flush(Port *port)
{
    PortVm *v = of(port);

    for (unsigned i = 0; i < v->n_queues; i++) {
        if (v->queue[i].used)
            ring_flush(&v->queue[i].to_vm);
        v->queue[i].used = false;
    }
    rest_later(v);
}

/* ---- memory ------------------------------------------------------------------------ */

static bool is_stretched(const PortVm *v)
{
    bool some = false;

    for (unsigned i = 0; i < v->n_queues; i++)
        some |= ring_is_stretched(&v->queue[i].to_vm);
    return some;
}

/* True: not all of it is given back yet. */
static bool rest(PortVm *v)
{
    bool more = false;

    for (unsigned i = 0; i < v->n_queues; i++)
        more |= ring_shrink(&v->queue[i].to_vm);
    return more;
}

static void on_rest(void *opaque)
{
    Switch *sw = opaque;

    switch_turn(sw);
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && port_is_vm(sw->port[i]) && rest(of(sw->port[i])))
            rest_later(of(sw->port[i]));
}

static void rest_later(PortVm *v)
{
    Switch *sw = v->port.sw;

    if (!sw->rest_timer.loop && is_stretched(v))
        ioloop_timer(sw->loop, &sw->rest_timer, sw->now_ns + RING_REST_MS * 1000000ll,
                     on_rest, sw);
}

/* ---- coming and going -------------------------------------------------------------- */

static void vm_link(Port *port, bool up)
{
    vm_link_tell(&of(port)->link, up);
}

static void vm_free(Port *port)
{
    PortVm *v = of(port);

    deactivate(v);
    vm_link_close(&v->link);
    for (unsigned i = 0; i < v->n_queues; i++) {
        ioloop_unwatch(&v->queue[i].watch);
        fd_close(&v->queue[i].kick_fd);
        fd_close(&v->queue[i].call_fd);
    }
    vm_memory_free(v->memory, v->n_queues);
    g_free(v);
}

static void vm_hang_up(Port *port)
{
    vm_link_dismiss(&of(port)->link);
}

static const PortOps vm_ops = {.kind = "vm",
                               .send = vm_send,
                               .flush = vm_flush,
                               .link = vm_link,
                               .resume = vm_resume,
                               .hang_up = vm_hang_up,
                               .free = vm_free};

/* What was sent before the monitor hung up is still delivered. */
static void on_gone(Port *port)
{
    PortVm *v = of(port);

    switch_turn(port->sw);
    for (unsigned i = 0; i < v->n_queues; i++)
        read_queue(port, &v->queue[i]);
    switch_flush(port->sw);
    port_free(port);
}

/* An eventfd that the monitor has too could be made a blocking one by it, and be full
 * when we write to it.  Of a pipe it only gets the end that we do not have. */
static bool make_fds(Queue *q, VmFds *fds, GError **error)
{
    if (!fd_bell(&q->kick_fd, &fds->fd[fds->n], error))
        return false;
    fds->n++;
    if (!fd_bell(&fds->fd[fds->n], &q->call_fd, error))
        return false;
    fds->n++;
    return true;
}

static bool make_queue(PortVm *v, unsigned i, VmFds *fds, GError **error)
{
    Queue *q = &v->queue[i];

    q->owner = v;
    if (!make_fds(q, fds, error))
        return false;
    ring_attach(&q->from_vm, v->memory, v->n_queues, i, true, q->call_fd);
    ring_attach(&q->to_vm, v->memory, v->n_queues, i, false, q->call_fd);
    ring_sleep(&q->from_vm);
    return ioloop_watch(v->port.sw->loop, &q->watch, q->kick_fd, EPOLLIN, on_kick, q,
                        error);
}

static bool make_queues(PortVm *v, VmFds *fds, GError **error)
{
    v->memory = vm_memory_new(v->n_queues, &fds->fd[0], error);
    fds->n = v->memory ? 1 : 0;
    for (unsigned i = 0; v->memory && i < v->n_queues; i++)
        if (!make_queue(v, i, fds, error))
            return false;
    return v->memory;
}

Port *port_vm_new(Switch *sw, const Hello *hello, VmFds *fds, GError **error)
{
    size_t size = sizeof(PortVm) + hello->queues * sizeof(Queue);
    Port *port = port_new(sw, &vm_ops, size, error);
    PortVm *v = of(port);

    if (!port)
        return NULL;
    v->link.fd = -1;
    v->window_ns = POLL_MAX_NS;
    v->asleep = true;
    v->n_queues = hello->queues;
    for (unsigned i = 0; i < v->n_queues; i++)
        v->queue[i].kick_fd = v->queue[i].call_fd = -1;
    if (!sw->poller.fn) {
        sw->poller = (IoPoller){.fn = on_poll, .opaque = sw};
        ioloop_poller_add(sw->loop, &sw->poller);
    }
    if (make_queues(v, fds, error))
        return port;
    port_free(port);
    return NULL;
}

bool port_vm_connect(Port *port, int fd, Lines *lines, GError **error)
{
    return vm_link_open(&of(port)->link, port, fd, lines, on_gone, error);
}

bool port_is_vm(const Port *port)
{
    return port->ops == &vm_ops;
}

bool port_vm_is_dead(Port *port)
{
    return vm_link_is_dead(&of(port)->link);
}
