/* TCP's listening end (tcp.h).  Comments name sections of RFC 9293. */
#include "src/switch/tcp.h"

#include <sys/random.h>

#include "src/switch/emit.h"
#include "util/bits.h"

enum {
    FLIGHT = 10, /* segments under way: RFC 6928 */
    MAX_TRIES = 6,
    SYN_TRIES = 3,
    MSS_V4 = 536, /* of who says nothing: 3.7.1 */
    MSS_V6 = 1220,
    MSS_LEAST = 216, /* nobody has us send smaller ones */
    TCP_HEADER = 20,
    OPTION_END = 0,
    OPTION_NOP = 1,
    OPTION_MSS = 2,
};

struct TcpConn {
    Tcp *tcp;
    TcpConn *next; /* of its port */
    TcpPeer peer;
    uint64_t id;
    uint32_t una, nxt, max; /* SND.UNA, SND.NXT, and the furthest that was ever sent */
    uint32_t rcv, wnd;      /* RCV.NXT, SND.WND */
    uint16_t mss;
    unsigned flight;                     /* segments that may be under way */
    bool open;                           /* our SYN was acknowledged */
    bool peer_closed, closing, fin_sent; /* its FIN came; ours is due; was sent */
    bool dead;                           /* to be reset and freed */
    bool busy;                           /* somebody else will settle it */
    unsigned tries, owed;
    IoTimer timer;
    GByteArray *out; /* from `una` on; NULL: nothing */
    size_t n_in;
    uint8_t in[TCP_IN];
};

struct Tcp {
    Switch *sw;
    Gateway *gw;
    const TcpOps *ops;
    void *opaque;
    unsigned n;
    uint64_t last_id;
    TcpConn *of_port[SWITCH_MAX_PORTS]; /* the newest first */
};

static void on_timer(void *opaque);

Tcp *tcp_new(Switch *sw, Gateway *gw, const TcpOps *ops, void *opaque)
{
    Tcp *t = g_new0(Tcp, 1);

    *t = (Tcp){.sw = sw, .gw = gw, .ops = ops, .opaque = opaque};
    return t;
}

static void conn_free(TcpConn *c)
{
    Tcp *t = c->tcp;
    TcpConn **link = &t->of_port[c->peer.port];

    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    t->n--;
    ioloop_timer_cancel(&c->timer);
    if (c->out)
        g_byte_array_unref(c->out);
    g_free(c);
}

static void free_all(Tcp *t, unsigned port)
{
    while (t->of_port[port])
        conn_free(t->of_port[port]);
}

void tcp_free(Tcp *t)
{
    for (unsigned i = 0; t && i < SWITCH_MAX_PORTS; i++)
        free_all(t, i);
    g_free(t);
}

void tcp_port_removed(Tcp *t, const Port *port)
{
    free_all(t, port->id);
}

const TcpPeer *tcp_peer(const TcpConn *c)
{
    return &c->peer;
}

uint64_t tcp_id(const TcpConn *c)
{
    return c->id;
}

TcpConn *tcp_find(const Tcp *t, unsigned port, uint64_t id)
{
    TcpConn *c = t->of_port[port];

    while (c && c->id != id)
        c = c->next;
    return c;
}

unsigned tcp_count(const Tcp *t)
{
    return t->n;
}

unsigned tcp_owed(const TcpConn *c)
{
    return c->owed;
}

void tcp_owe(TcpConn *c, int more)
{
    c->owed += (unsigned)more;
}

/* ---- sending -------------------------------------------------------------------------
 */

static size_t waiting(const TcpConn *c)
{
    return c->out ? c->out->len : 0;
}

static bool all_acked(const TcpConn *c)
{
    return c->una == c->max && !waiting(c) && (c->fin_sent || !c->closing);
}

static void send_segment(TcpConn *c, uint32_t seq, uint8_t flags, size_t from, size_t len)
{
    const TcpPeer *p = &c->peer;
    bool syn = flags & PACKET_TCP_SYN;
    unsigned mss = (unsigned)c->tcp->sw->config->mtu - (ip_is_v4(&p->ip) ? 40 : 60);
    Builder b;

    build_ip(&b, &p->mac, gateway_mac(c->tcp->gw), &p->own, &p->ip, IPPROTO_TCP, 0);
    build_tcp(&b, p->own_port, p->ip_port, seq, c->rcv, flags | PACKET_TCP_ACK,
              (uint16_t)(TCP_IN - c->n_in), syn ? (uint16_t)MIN(mss, TCP_IN) : 0);
    if (len)
        build_bytes(&b, c->out->data + from, len);
    emit(c->tcp->sw, &b, p->vlan);
    if ((int32_t)(seq + len - c->max) > 0)
        c->max = seq + (uint32_t)len;
}

static void arm(TcpConn *c)
{
    const TcpOps *ops = c->tcp->ops;
    int64_t ns = all_acked(c) ? ops->idle_ns : ops->retry_ns << c->tries;

    ioloop_timer(c->tcp->sw->loop, &c->timer, clock_ns() + ns, on_timer, c);
}

static void send_fin(TcpConn *c)
{
    send_segment(c, c->nxt++, PACKET_TCP_FIN, 0, 0);
    c->fin_sent = true;
    if ((int32_t)(c->nxt - c->max) > 0)
        c->max = c->nxt;
}

/* What the window takes; `ack`: something, in any case. */
static void output(TcpConn *c, bool ack)
{
    uint32_t room = MIN(c->wnd, c->flight * c->mss), begin = c->nxt;

    while (!c->fin_sent && c->nxt - c->una < waiting(c) && c->nxt - c->una < room) {
        size_t from = c->nxt - c->una, left = waiting(c) - from;
        size_t len = MIN(MIN(left, c->mss), room - from);

        send_segment(c, c->nxt, len == left ? PACKET_TCP_PSH : 0, from, len);
        c->nxt += (uint32_t)len;
    }
    if (c->closing && !c->fin_sent && c->nxt - c->una == waiting(c))
        send_fin(c);
    if (c->nxt == begin && ack)
        send_segment(c, c->nxt, 0, 0, 0);
    if (!c->timer.loop || (c->nxt != begin && begin == c->una))
        arm(c);
}

/* From the oldest on; a window of nothing is asked with a byte (3.8.6.1). */
static void send_again(TcpConn *c)
{
    size_t len = MIN(MIN(waiting(c), c->mss), MAX(c->wnd, 1));

    c->flight = 1;
    if (!c->open) {
        send_segment(c, c->una, PACKET_TCP_SYN, 0, 0);
    } else if (len) {
        c->fin_sent = false;
        send_segment(c, c->una, PACKET_TCP_PSH, 0, len);
        c->nxt = c->una + (uint32_t)len;
    } else {
        c->nxt = c->una;
        send_fin(c);
    }
}

/* ---- what its owner does -------------------------------------------------------------
 */

void tcp_write(TcpConn *c, const void *bytes, size_t len)
{
    if (c->dead || waiting(c) + len > TCP_OUT) {
        c->dead = true;
        return;
    }
    if (!c->out)
        c->out = g_byte_array_new();
    g_byte_array_append(c->out, bytes, (guint)len);
}

void tcp_abort(TcpConn *c)
{
    c->dead = true;
}

/* Gives what is there to who wants it. */
static bool serve(TcpConn *c)
{
    const Tcp *t = c->tcp;
    bool any = false;

    while (!c->dead && c->n_in) {
        size_t taken = t->ops->take(t->opaque, c, c->in, c->n_in);

        if (!taken)
            break;
        c->n_in -= taken;
        memmove(c->in, c->in + taken, c->n_in);
        any = true;
    }
    if (c->peer_closed && !c->owed)
        c->closing = true;
    return any;
}

/* The end of whatever was done to it; it may be gone then. */
static void settle(TcpConn *c, bool ack)
{
    bool was_full = c->n_in == TCP_IN;

    c->busy = true;
    ack |= serve(c) && was_full; /* its window is open again */
    c->busy = false;
    if (c->dead) {
        send_segment(c, c->nxt, PACKET_TCP_RST, 0, 0);
        conn_free(c);
    } else {
        output(c, ack);
    }
}

void tcp_flush(TcpConn *c)
{
    if (!c->busy)
        settle(c, false);
}

static void on_timer(void *opaque)
{
    TcpConn *c = opaque;
    Tcp *t = c->tcp;
    bool idle = all_acked(c);

    t->sw->now_ns = clock_ns();
    if (!idle && c->tries++ < (c->open ? MAX_TRIES : SYN_TRIES)) {
        send_again(c);
        arm(c);
    } else if (idle && !c->fin_sent && !c->owed) {
        c->closing = true; /* what is used no more: RFC 7766, 6.2.3 */
        output(c, false);
    } else if (idle && c->owed) {
        arm(c);
    } else {
        c->dead = true;
        settle(c, false);
    }
    switch_flush(t->sw);
}

/* ---- connections that begin ----------------------------------------------------------
 */

static uint16_t mss_of(const Tcp *t, const Frame *f)
{
    const uint8_t *at = f->data + f->p.transport + TCP_HEADER;
    const uint8_t *end = f->data + f->p.payload;
    bool v4 = f->p.kind == PACKET_IPV4;
    unsigned mss = v4 ? MSS_V4 : MSS_V6,
             most = (unsigned)MIN(t->sw->config->mtu, 1500) - (v4 ? 40 : 60);

    while (at < end && *at != OPTION_END) {
        if (*at == OPTION_NOP) {
            at++;
            continue;
        }
        if (end - at < 2 || at[1] < 2 || at[1] > end - at)
            break;
        if (at[0] == OPTION_MSS && at[1] == 4)
            mss = load_be16(at + 2);
        at += at[1];
    }
    return (uint16_t)CLAMP(mss, MSS_LEAST, most);
}

static unsigned count_of(const Tcp *t, unsigned port)
{
    unsigned n = 0;

    for (const TcpConn *c = t->of_port[port]; c; c = c->next)
        n++;
    return n;
}

/* Who has most gives up its oldest, if that is more than the asker would have. */
static bool make_room(Tcp *t, unsigned asker)
{
    unsigned most = 0, has = count_of(t, asker);
    TcpConn *oldest;

    if (has >= TCP_MAX_OF_PORT)
        return false;
    if (t->n < TCP_MAX)
        return true;
    for (unsigned i = 1; i < SWITCH_MAX_PORTS; i++)
        if (count_of(t, i) > count_of(t, most))
            most = i;
    if (count_of(t, most) <= has + 1)
        return false;
    for (oldest = t->of_port[most]; oldest->next; oldest = oldest->next)
        ;
    oldest->dead = true;
    settle(oldest, false);
    return true;
}

static void refuse(Tcp *t, Port *from, const Frame *f)
{
    Builder b;

    if (build_reset(&b, f) && refusal_may(&from->refusals_ns, t->sw->now_ns))
        emit(t->sw, &b, f->vlan);
}

/* 3.10.7.2; what it carries besides the SYN is sent again. */
static void accept_syn(Tcp *t, Port *from, const Frame *f)
{
    const Packet *p = &f->p;
    TcpConn *c;

    if (!make_room(t, from->id)) {
        refuse(t, from, f);
        return;
    }
    c = g_new0(TcpConn, 1);
    c->tcp = t;
    c->next = t->of_port[from->id];
    t->of_port[from->id] = c;
    t->n++;
    c->id = ++t->last_id;
    c->peer = (TcpPeer){.port = from->id,
                        .mac = p->src,
                        .ip = p->from,
                        .own = p->to,
                        .ip_port = p->from_port,
                        .own_port = p->to_port,
                        .vlan = f->vlan};
    if (getrandom(&c->una, sizeof(c->una), 0) != sizeof(c->una))
        c->una = g_random_int();
    c->rcv = p->tcp_seq + 1;
    c->wnd = load_be16(f->data + p->transport + 14);
    c->mss = mss_of(t, f);
    c->flight = FLIGHT;
    c->nxt = c->max = c->una + 1;
    send_segment(c, c->una, PACKET_TCP_SYN, 0, 0);
    arm(c);
}

/* ---- segments ------------------------------------------------------------------------
 */

/* 3.10.7.4, first: whether any of it lies in the window. */
static bool in_window(const TcpConn *c, uint32_t seq, uint32_t len)
{
    uint32_t window = (uint32_t)(TCP_IN - c->n_in), last = seq + (len ? len - 1 : 0);

    if (!window)
        return seq == c->rcv && !len;
    return seq - c->rcv < window || (len && last - c->rcv < window);
}

/* Fifth; false: nothing more is to be done with the segment. */
static bool take_ack(TcpConn *c, const Packet *p, uint32_t wnd)
{
    uint32_t acked = p->tcp_ack - c->una;
    size_t data;

    if (c->open && (int32_t)acked < 0)
        return true; /* an old one: its data may be new */
    if (acked > c->max - c->una) {
        if (c->open)
            send_segment(c, c->nxt, 0, 0, 0);
        else
            c->dead = true;
        return false;
    }
    c->wnd = wnd;
    if (!acked)
        return c->open;
    if (!c->open) {
        c->open = true;
        c->una++;
        acked--;
    }
    data = MIN(acked, waiting(c));
    if (data == waiting(c) && c->out)
        g_clear_pointer(&c->out, g_byte_array_unref);
    else if (data)
        g_byte_array_remove_range(c->out, 0, (guint)data);
    c->fin_sent |= acked > data;
    c->una += acked;
    if ((int32_t)(c->nxt - c->una) < 0)
        c->nxt = c->una;
    c->tries = 0;
    c->flight = MIN(c->flight * 2, FLIGHT);
    arm(c);
    return true;
}

/* Seventh and eighth: what comes next; true: some of it is to be acknowledged. */
static bool take_data(TcpConn *c, const Frame *f, uint32_t len)
{
    const Packet *p = &f->p;
    uint32_t skip = c->rcv - p->tcp_seq;
    size_t n;

    if (!len && !(p->tcp_flags & PACKET_TCP_FIN))
        return false;
    if (c->peer_closed || skip > len)
        return true; /* beyond the next: it has to come again */
    n = MIN(len - skip, TCP_IN - c->n_in);
    memcpy(c->in + c->n_in, f->data + p->payload + skip, n);
    c->n_in += n;
    c->rcv += (uint32_t)n;
    if (n == len - skip && p->tcp_flags & PACKET_TCP_FIN) {
        c->rcv++;
        c->peer_closed = true;
    }
    return true;
}

static bool is_over(const TcpConn *c)
{
    return c->peer_closed && c->fin_sent && c->una == c->max && !waiting(c);
}

static void arrive(TcpConn *c, const Frame *f)
{
    const Packet *p = &f->p;
    uint32_t len = p->end - p->payload;
    bool syn = p->tcp_flags & PACKET_TCP_SYN, fin = p->tcp_flags & PACKET_TCP_FIN;
    bool ack;

    if (syn && !c->open && p->tcp_seq + 1 == c->rcv) { /* it did not hear us */
        send_segment(c, c->una, PACKET_TCP_SYN, 0, 0);
        return;
    }
    if (p->tcp_flags & PACKET_TCP_RST) { /* RFC 5961, 3.2 */
        if (p->tcp_seq == c->rcv)
            conn_free(c);
        else if (in_window(c, p->tcp_seq, 0))
            send_segment(c, c->nxt, 0, 0, 0);
        return;
    }
    if (syn || !in_window(c, p->tcp_seq, len + fin)) { /* RFC 5961, 4.2 */
        send_segment(c, c->nxt, 0, 0, 0);
        return;
    }
    if (!(p->tcp_flags & PACKET_TCP_ACK))
        return;
    ack = take_ack(c, p, load_be16(f->data + p->transport + 14));
    if (ack && !c->dead)
        ack = take_data(c, f, len);
    if (is_over(c))
        conn_free(c);
    else
        settle(c, ack);
}

static TcpConn *conn_of(const Tcp *t, const Port *from, const Packet *p)
{
    TcpConn *c = t->of_port[from->id];

    while (c && !(c->peer.ip_port == p->from_port && c->peer.own_port == p->to_port &&
                  ip_equal(&c->peer.ip, &p->from) && ip_equal(&c->peer.own, &p->to)))
        c = c->next;
    return c;
}

void tcp_input(Tcp *t, Port *from, const Frame *f)
{
    const Packet *p = &f->p;
    TcpConn *c;

    if (!p->transport || p->fragment || !frame_tcp_sum_ok(f))
        return;
    c = conn_of(t, from, p);
    if (c)
        arrive(c, f);
    else if ((p->tcp_flags & (PACKET_TCP_SYN | PACKET_TCP_ACK | PACKET_TCP_RST |
                              PACKET_TCP_FIN)) == PACKET_TCP_SYN)
        accept_syn(t, from, f);
    else
        refuse(t, from, f);
}
