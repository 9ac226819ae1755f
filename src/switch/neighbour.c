/* Which station has which address on this network: what ARP and ND have told, of a
 * bounded number, the one that was longest not heard of given up first.  Packets for a
 * host that is not known wait for it, a few of each and not many bytes in all.
 *
 * A host that was not heard of for FRESH_NS is asked again while its packets go on to
 * where it was (RFC 4861, 7.3.3); nothing is asked, and no timer runs, while nothing is
 * sent.
 *
 * Questions go to all ports, and a VM makes one of each packet to an address that nobody
 * has, so that there are no more of them than a port may send broadcasts. */
#include "src/switch/gateway_private.h"

#define SECOND_NS 1000000000ll
#define ASK_NS    SECOND_NS /* between two questions */
#define FRESH_NS  (30 * SECOND_NS)

enum {
    NEIGHBOURS_MAX = 4096,
    WAITED_FOR_MAX = 256,
    TRIES = 3,
    HELD_MAX = 8, /* frames for one host */
    HELD_BYTES_MAX = 1 << 20,
};

typedef struct Held {
    VnetHdr hdr;
    size_t len;
    uint8_t bytes[]; /* FRAME_ROOM, and the frame */
} Held;

typedef struct Neighbour {
    Ip ip;
    Mac mac;
    bool known;
    unsigned asked; /* times since it was last heard of */
    int64_t seen_ns, asked_ns;
    GQueue held; /* of Held; only while it is not known */
    GList link;  /* in `known` or `waited_for`, oldest first */
} Neighbour;

struct Neighbours {
    Gateway *gw;
    GHashTable *all; /* Ip (in the value) -> Neighbour */
    GQueue known, waited_for;
    size_t held_bytes;
    int64_t asked_until_ns; /* when all questions' time will be over: may_ask() */
    IoTimer timer;          /* armed while anybody is waited for */
};

static guint ip_hash(gconstpointer key)
{
    uint64_t half[2];

    memcpy(half, key, sizeof(half));
    return (guint)((half[0] * 31 + half[1]) * 0x9e3779b97f4a7c15 >> 32);
}

static gboolean ip_same(gconstpointer a, gconstpointer b)
{
    return ip_equal(a, b);
}

static GQueue *queue_of(Neighbours *all, const Neighbour *n)
{
    return n->known ? &all->known : &all->waited_for;
}

static void drop_held(Neighbours *all, Neighbour *n)
{
    Held *held;

    while ((held = g_queue_pop_head(&n->held))) {
        all->held_bytes -= held->len;
        g_free(held);
    }
}

static void forget(Neighbours *all, Neighbour *n)
{
    drop_held(all, n);
    g_queue_unlink(queue_of(all, n), &n->link);
    g_hash_table_remove(all->all, &n->ip);
    g_free(n);
}

static Neighbour *add(Neighbours *all, const Ip *ip, bool known)
{
    GQueue *queue = known ? &all->known : &all->waited_for;
    Neighbour *n;

    if (queue->length >= (known ? NEIGHBOURS_MAX : WAITED_FOR_MAX))
        forget(all, queue->head->data);
    n = g_new0(Neighbour, 1);
    n->ip = *ip;
    n->known = known;
    n->link.data = n;
    g_queue_push_tail_link(queue, &n->link);
    g_hash_table_insert(all->all, &n->ip, n);
    return n;
}

/* To the end of the queue that it belongs to from now on. */
static void move(Neighbours *all, Neighbour *n, bool known)
{
    g_queue_unlink(queue_of(all, n), &n->link);
    n->known = known;
    g_queue_push_tail_link(queue_of(all, n), &n->link);
}

static void send_to(Gateway *gw, Frame *f, const Mac *mac)
{
    memcpy(f->data, mac->b, sizeof(mac->b));
    memcpy(f->data + sizeof(mac->b), gw->mac.b, sizeof(gw->mac.b));
    switch_send(gw->sw, f);
}

static void send_held(Neighbours *all, Neighbour *n)
{
    GQueue held = n->held;
    Mac mac = n->mac; /* sending may change the table */
    Held *h;

    g_queue_init(&n->held);
    while ((h = g_queue_pop_head(&held))) {
        Frame f = {.hdr = h->hdr, .data = h->bytes + FRAME_ROOM, .len = h->len};

        all->held_bytes -= h->len;
        send_to(all->gw, &f, &mac);
        g_free(h);
    }
}

/* On this network, and not the gateway itself. */
static bool is_neighbour(const Gateway *gw, const Ip *ip)
{
    const NetworkSubnets *s = &gw->subnets;
    bool v4 = ip_is_v4(ip);
    const IpPrefix *subnet = v4 ? &s->v4 : &s->v6;

    if (ip_is_unspecified(ip) || ip_is_multicast(ip) || gateway_is(gw, ip))
        return false;
    return (!v4 && ip_is_link_local(ip)) || (subnet->bits && ip_within(ip, subnet));
}

void neighbour_seen(Gateway *gw, const Ip *ip, const Mac *mac)
{
    Neighbours *all = gw->neighbours;
    Neighbour *n;

    if (!is_neighbour(gw, ip) || mac_is_group(mac) || mac_is_zero(mac))
        return;
    n = g_hash_table_lookup(all->all, ip);
    if (n)
        move(all, n, true);
    else
        n = add(all, ip, true);
    n->mac = *mac;
    n->asked = 0;
    n->seen_ns = gw->sw->now_ns;
    send_held(all, n);
}

bool neighbour_find(Gateway *gw, const Ip *ip, Mac *ret)
{
    const Neighbour *n = g_hash_table_lookup(gw->neighbours->all, ip);

    if (!n || !n->known)
        return false;
    *ret = n->mac;
    return true;
}

/* ---- asking ---------------------------------------------------------------------------
 */

static void ask(Gateway *gw, Neighbour *n)
{
    n->asked++;
    n->asked_ns = gw->sw->now_ns;
    neighbour_ask(gw, &n->ip, n->known ? &n->mac : NULL);
}

static void on_timer(void *opaque)
{
    Neighbours *all = opaque;
    Switch *sw = all->gw->sw;

    switch_turn(sw);
    for (GList *l = all->waited_for.head, *next; l; l = next) {
        Neighbour *n = l->data;

        next = l->next;
        if (sw->now_ns - n->asked_ns < ASK_NS / 2) /* just now */
            continue;
        if (n->asked >= TRIES)
            forget(all, n);
        else
            ask(all->gw, n);
    }
    switch_flush(sw);
    if (all->waited_for.head)
        ioloop_timer(sw->loop, &all->timer, clock_ns() + ASK_NS, on_timer, all);
}

static void hold(Neighbours *all, Neighbour *n, const Frame *f)
{
    Held *held;

    if (all->held_bytes + f->len > HELD_BYTES_MAX)
        return;
    if (n->held.length == HELD_MAX) { /* the newest are wanted most: RFC 1122, 2.3.2.2 */
        held = g_queue_pop_head(&n->held);
        all->held_bytes -= held->len;
        g_free(held);
    }
    held = g_malloc(sizeof(*held) + FRAME_ROOM + f->len);
    held->hdr = f->hdr;
    held->len = f->len;
    memcpy(held->bytes + FRAME_ROOM, f->data, f->len);
    all->held_bytes += f->len;
    g_queue_push_tail(&n->held, held);
}

/* For a host that is not known: `storm` of them at once, and as many a second. */
static bool may_ask(Neighbours *all)
{
    const Switch *sw = all->gw->sw;
    const uint64_t rate = sw->config->storm;

    if (!rate)
        return true;
    if (all->asked_until_ns > sw->now_ns + SECOND_NS)
        return false;
    all->asked_until_ns = MAX(all->asked_until_ns, sw->now_ns) +
                          (int64_t)(SECOND_NS / rate);
    return true;
}

static void wait_for(Gateway *gw, Neighbour *n, const Ip *ip, const Frame *f)
{
    Neighbours *all = gw->neighbours;

    if (!n && !may_ask(all))
        return;
    if (!n) {
        n = add(all, ip, false);
        hold(all, n, f);
        ask(gw, n);
    } else {
        hold(all, n, f);
    }
    if (!all->timer.loop)
        ioloop_timer(gw->sw->loop, &all->timer, clock_ns() + ASK_NS, on_timer, all);
}

/* Where an IP packet is to; false: it is none. */
static bool destination(const Frame *f, Ip *ret)
{
    const uint8_t *ip = f->data + ETH_HEADER;

    if (f->len >= ETH_HEADER + 20 && ip[0] >> 4 == 4) {
        *ret = ip_from_v4_bytes(ip + 16);
        return true;
    }
    if (f->len < ETH_HEADER + 40 || ip[0] >> 4 != 6)
        return false;
    memcpy(ret->b, ip + 24, sizeof(ret->b));
    return true;
}

void gateway_to_host(Gateway *gw, Frame *f)
{
    Neighbours *all = gw->neighbours;
    int64_t now = gw->sw->now_ns;
    Neighbour *n;
    Mac mac;
    Ip ip;

    if (!destination(f, &ip) || !is_neighbour(gw, &ip))
        return;
    n = g_hash_table_lookup(all->all, &ip);
    if (n && n->known && n->asked >= TRIES && now - n->asked_ns > ASK_NS) {
        forget(all, n); /* it went away */
        n = NULL;
    }
    if (!n || !n->known) {
        wait_for(gw, n, &ip, f);
        return;
    }
    mac = n->mac;
    if (now - n->seen_ns > FRESH_NS && now - n->asked_ns > ASK_NS)
        ask(gw, n);
    send_to(gw, f, &mac);
}

/* ---- as a part ------------------------------------------------------------------------
 */

static bool start(Gateway *gw, GError **error)
{
    Neighbours *all = g_new0(Neighbours, 1);

    all->gw = gw;
    all->all = g_hash_table_new(ip_hash, ip_same);
    g_queue_init(&all->known);
    g_queue_init(&all->waited_for);
    gw->neighbours = all;
    return true;
}

static void forget_all(Neighbours *all)
{
    while (all->known.head)
        forget(all, all->known.head->data);
    while (all->waited_for.head)
        forget(all, all->waited_for.head->data);
}

static void stop(Gateway *gw)
{
    Neighbours *all = g_steal_pointer(&gw->neighbours);

    if (!all)
        return;
    forget_all(all);
    g_hash_table_unref(all->all);
    ioloop_timer_cancel(&all->timer);
    g_free(all);
}

/* Those of another subnet are nobody's neighbours now. */
static bool reconfigure(Gateway *gw, GError **error)
{
    for (GList *l = gw->neighbours->known.head, *next; l; l = next) {
        Neighbour *n = l->data;

        next = l->next;
        if (!is_neighbour(gw, &n->ip))
            forget(gw->neighbours, n);
    }
    return true;
}

/* Its addresses may be another's next. */
static void port_removed(Gateway *gw, Port *port)
{
    for (GList *l = gw->neighbours->known.head, *next; l; l = next) {
        Neighbour *n = l->data;

        next = l->next;
        if (mac_equal(&n->mac, &port->mac))
            forget(gw->neighbours, n);
    }
}

const GatewayPart gateway_neighbours = {
    .name = "neighbours",
    .start = start,
    .stop = stop,
    .reconfigure = reconfigure,
    .port_removed = port_removed,
};
