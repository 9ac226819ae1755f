/* Connections of virtio-vsock as the guest sees them (virtio 1.2, 5.10.6): slots, the
 * hash of ports, packets from the guest and packets for it.
 *
 *     HELLO -> ASKED -> OPEN -> OVER      a client of the host's connects
 *                       OPEN -> OVER      the guest connects, and somebody listens
 *                               OVER      anything else: it gets its RST
 *
 * Both sides close in halves.  A guest that has closed both gets the RST that ends the
 * connection at once, while bytes that it sent before may still be on their way to a slow
 * socket.  When the host's side has closed both, the guest is told by SHUTDOWN and has
 * some time to take it in and to answer by an RST; then it gets ours. */
#include "virtio/vsock_private.h"

/* ---- slots ------------------------------------------------------------------------ */

static VsockConn **bucket_of(const Vsock *vs, uint32_t host_port, uint32_t guest_port)
{
    uint32_t mixed = (host_port ^ guest_port * 0x9e3779b1u) * 0x85ebca6bu;

    return (VsockConn **)&vs->bucket[(mixed >> 16) % VSOCK_BUCKETS];
}

VsockConn *vsock_conn_find(const Vsock *vs, uint16_t type, uint32_t host_port,
                           uint32_t guest_port)
{
    VsockConn *c = *bucket_of(vs, host_port, guest_port);

    while (c &&
           (c->host_port != host_port || c->guest_port != guest_port || c->type != type))
        c = c->next;
    return c;
}

void vsock_conn_hash(VsockConn *c)
{
    VsockConn **bucket = bucket_of(c->vs, c->host_port, c->guest_port);

    c->next = *bucket;
    *bucket = c;
    c->hashed = true;
}

static void unhash(VsockConn *c)
{
    VsockConn **at = bucket_of(c->vs, c->host_port, c->guest_port);

    if (!c->hashed)
        return;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->hashed = false;
}

void vsock_conns_init(Vsock *vs)
{
    for (unsigned i = 0; i < VSOCK_SLOTS; i++) {
        VsockConn *c = &vs->slot[i];

        *c = (VsockConn){.vs = vs, .fd = -1, .link = {.data = c}};
        g_queue_push_tail_link(&vs->free, &c->link);
    }
}

bool vsock_conns_known(const Vsock *vs)
{
    for (unsigned i = 0; i < VSOCK_SLOTS; i++)
        if (vs->slot[i].hashed && vs->slot[i].type == VSOCK_STREAM)
            return true;
    return false;
}

bool vsock_conn_room(const Vsock *vs)
{
    return vs->free.length > VSOCK_SPARE;
}

bool vsock_answer_room(const Vsock *vs)
{
    return vs->free.length > 0;
}

VsockConn *vsock_conn_new(Vsock *vs, VsockState state)
{
    VsockConn *c = g_queue_pop_head_link(&vs->free)->data;

    *c = (VsockConn){.vs = vs, .fd = -1, .link = {.data = c}};
    c->state = state;
    c->type = VSOCK_STREAM;
    return c;
}

/* ---- something for the guest ------------------------------------------------------ */

static void queue_up(VsockConn *c)
{
    if (c->queued)
        return;
    c->queued = true;
    g_queue_push_tail_link(&c->vs->ready, &c->link);
}

static void unqueue(VsockConn *c)
{
    if (!c->queued)
        return;
    c->queued = false;
    g_queue_unlink(&c->vs->ready, &c->link);
}

void vsock_conn_tell(VsockConn *c, unsigned what)
{
    c->tell |= what;
    queue_up(c);
}

/* Half of what we let it send: so it has never to wait while we keep nothing. */
void vsock_conn_forwarded(VsockConn *c, uint32_t bytes)
{
    c->fwd_cnt += bytes;
    if (c->state == VSOCK_OPEN && c->fwd_cnt - c->fwd_told >= VSOCK_BUF / 2)
        vsock_conn_tell(c, VSOCK_TELL_CREDIT);
}

/* ---- time limits ------------------------------------------------------------------ */

static void on_late(void *opaque)
{
    VsockConn *c = opaque;
    Vsock *vs = c->vs;

    vsock_conn_reset(c);
    vsock_run_rx(vs);
}

static bool is_limited(const VsockConn *c)
{
    return c->state == VSOCK_HELLO || c->state == VSOCK_ASKED ||
           (c->state == VSOCK_OPEN && c->host_shut == VSOCK_NO_MORE);
}

void vsock_conn_limit(VsockConn *c)
{
    if (!c->vs->paused && is_limited(c))
        ioloop_timer(c->vs->v.loop, &c->timer, clock_ns() + c->vs->limit_ns, on_late, c);
}

void vsock_conns_pause(Vsock *vs)
{
    vs->paused = true;
    for (unsigned i = 0; i < VSOCK_SLOTS; i++)
        ioloop_timer_cancel(&vs->slot[i].timer);
}

void vsock_conns_resume(Vsock *vs)
{
    vs->paused = false;
    for (unsigned i = 0; i < VSOCK_SLOTS; i++)
        vsock_conn_limit(&vs->slot[i]);
}

/* ---- ends ------------------------------------------------------------------------- */

void vsock_conn_release(VsockConn *c)
{
    if (c->state != VSOCK_OVER || c->hashed || c->fd >= 0)
        return;
    c->state = VSOCK_FREE;
    ioloop_timer_cancel(&c->timer);
    unqueue(c);
    g_queue_push_tail_link(&c->vs->free, &c->link);
    vsock_slot_freed(c->vs);
}

/* The guest knows nothing of it, or not any more. */
static void forget(VsockConn *c)
{
    c->state = VSOCK_OVER;
    c->tell = 0;
    unqueue(c);
    unhash(c);
    vsock_conn_release(c);
}

/* An RST is all that is still to be said. */
static void owe_rst(VsockConn *c)
{
    c->state = VSOCK_OVER;
    c->tell = 0;
    c->readable = false;
    ioloop_timer_cancel(&c->timer);
    vsock_conn_tell(c, VSOCK_TELL_RST);
}

void vsock_conn_reset(VsockConn *c)
{
    vsock_host_close(c);
    if (!c->hashed || (c->tell & VSOCK_TELL_REQUEST))
        forget(c);
    else
        owe_rst(c);
}

void vsock_conn_host_shut(VsockConn *c, unsigned flags)
{
    c->host_shut |= flags;
    vsock_conn_tell(c, VSOCK_TELL_SHUTDOWN);
    if (c->host_shut != VSOCK_NO_MORE)
        return;
    vsock_host_close(c);
    vsock_conn_limit(c);
}

void vsock_conns_end(Vsock *vs)
{
    for (unsigned i = 0; i < VSOCK_SLOTS; i++) {
        VsockConn *c = &vs->slot[i];

        if (c->state == VSOCK_FREE)
            continue;
        vsock_host_close(c);
        forget(c);
    }
}

/* ---- packets from the guest (5.10.6.4, 5.10.6.5) ----------------------------------- */

static void refuse(Vsock *vs, const VsockHdr *hdr)
{
    VsockConn *c = vsock_conn_new(vs, VSOCK_OVER);

    c->type = hdr->type;
    c->host_port = hdr->dst_port;
    c->guest_port = hdr->src_port;
    vsock_conn_hash(c);
    vsock_conn_tell(c, VSOCK_TELL_RST);
}

/* Of no connection that there is: a wish for one, or an error. */
static void meet(Vsock *vs, const VsockHdr *hdr)
{
    int fd = -1;
    VsockConn *c;

    if (hdr->op == VSOCK_OP_RST)
        return;
    if (hdr->op == VSOCK_OP_REQUEST && hdr->type == VSOCK_STREAM && vsock_conn_room(vs))
        fd = vsock_host_dial(vs, hdr->dst_port);
    if (fd < 0) {
        refuse(vs, hdr);
        return;
    }
    c = vsock_conn_new(vs, VSOCK_OPEN);
    c->fd = fd;
    c->host_port = hdr->dst_port;
    c->guest_port = hdr->src_port;
    c->peer_buf_alloc = hdr->buf_alloc;
    c->peer_fwd_cnt = hdr->fwd_cnt;
    vsock_conn_hash(c);
    vsock_conn_tell(c, VSOCK_TELL_RESPONSE);
    vsock_host_watch(c);
}

static void take_bytes(VsockConn *c, const VsockHdr *hdr, const struct iovec *data,
                       unsigned n)
{
    if ((c->guest_shut & VSOCK_NO_SEND) || hdr->len > VSOCK_BUF - vsock_kept(c))
        vsock_conn_reset(c); /* it had said otherwise, or had no credit for it */
    else
        vsock_host_write(c, data, n, hdr->len);
}

static void take_shutdown(VsockConn *c, uint32_t flags)
{
    c->guest_shut |= flags & VSOCK_NO_MORE;
    if (c->guest_shut == VSOCK_NO_MORE)
        owe_rst(c);
    vsock_host_shutdown(c);
}

static void take_packet(VsockConn *c, const VsockHdr *hdr, const struct iovec *data,
                        unsigned n)
{
    switch (hdr->op) {
    case VSOCK_OP_RW:
        take_bytes(c, hdr, data, n);
        break;
    case VSOCK_OP_SHUTDOWN:
        take_shutdown(c, hdr->flags);
        break;
    case VSOCK_OP_CREDIT_UPDATE: /* all packets are one */
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        vsock_conn_tell(c, VSOCK_TELL_CREDIT);
        break;
    default:
        vsock_conn_reset(c);
    }
}

static void take_answer(VsockConn *c, const VsockHdr *hdr)
{
    if (hdr->op != VSOCK_OP_RESPONSE || (c->tell & VSOCK_TELL_REQUEST)) {
        vsock_conn_reset(c);
        return;
    }
    c->state = VSOCK_OPEN;
    ioloop_timer_cancel(&c->timer);
    vsock_host_accepted(c);
}

/* What was sent before a goodbye is delivered, before an RST alone it need not be. */
static void take_rst(VsockConn *c)
{
    if (c->state != VSOCK_OVER)
        vsock_host_close(c);
    forget(c);
}

void vsock_conn_packet(Vsock *vs, const VsockHdr *hdr, const struct iovec *data,
                       unsigned n)
{
    VsockConn *c = vsock_conn_find(vs, hdr->type, hdr->dst_port, hdr->src_port);

    if (!c) {
        meet(vs, hdr);
        return;
    }
    c->peer_buf_alloc = hdr->buf_alloc;
    c->peer_fwd_cnt = hdr->fwd_cnt;
    if (c->starved && vsock_credit(c)) {
        c->starved = false;
        queue_up(c);
    }
    if (hdr->op == VSOCK_OP_RST)
        take_rst(c);
    else if (c->state == VSOCK_ASKED)
        take_answer(c, hdr);
    else if (c->state == VSOCK_OPEN)
        take_packet(c, hdr, data, n);
}

/* ---- packets for the guest -------------------------------------------------------- */

static const struct {
    unsigned tell;
    uint16_t op;
} words[] = {
    {VSOCK_TELL_RST, VSOCK_OP_RST},
    {VSOCK_TELL_REQUEST, VSOCK_OP_REQUEST},
    {VSOCK_TELL_RESPONSE, VSOCK_OP_RESPONSE},
    {VSOCK_TELL_SHUTDOWN, VSOCK_OP_SHUTDOWN}, /* after all bytes, as the next two */
    {VSOCK_TELL_CREDIT, VSOCK_OP_CREDIT_UPDATE},
    {VSOCK_ASK_CREDIT, VSOCK_OP_CREDIT_REQUEST},
};

/* The first word that is to be said and is among `which`; 0: none. */
static uint16_t next_word(VsockConn *c, unsigned which)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        if (c->tell & which & words[i].tell) {
            c->tell &= ~words[i].tell;
            return words[i].op;
        }
    }
    return 0;
}

static void write_header(VsockConn *c, VsockHdr *hdr, uint16_t op, uint32_t len)
{
    *hdr = (VsockHdr){
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = c->vs->cid,
        .src_port = c->host_port,
        .dst_port = c->guest_port,
        .len = len,
        .type = c->type,
        .op = op,
        .flags = op == VSOCK_OP_SHUTDOWN ? c->host_shut : 0,
        .buf_alloc = VSOCK_BUF,
        .fwd_cnt = c->fwd_cnt,
    };
    c->fwd_told = c->fwd_cnt;
    c->tell &= ~VSOCK_TELL_CREDIT;
}

bool vsock_conn_speak(VsockConn *c, VsockHdr *hdr, const struct iovec *room, unsigned n)
{
    uint16_t op = next_word(c, VSOCK_TELL_SHUTDOWN - 1);
    uint32_t len = 0;

    unqueue(c);
    if (!op && (len = vsock_host_read(c, room, n, hdr->len)))
        op = VSOCK_OP_RW;
    if (!op)
        op = next_word(c, ~0u);
    if (op)
        write_header(c, hdr, op, len);
    if (op == VSOCK_OP_RST)
        forget(c);
    else if (c->tell || (c->readable && !c->starved && vsock_listens(c)))
        queue_up(c); /* behind the others */
    else
        vsock_host_watch(c);
    return op;
}
