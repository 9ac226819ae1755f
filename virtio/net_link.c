/* A network card's cable: whether it is plugged in, and where it leads.
 *
 * The guest sees one link (virtio 1.2, 5.1.4).  It is up unless somebody has cut it: the
 * user (set_link), the network at its other end, or we for a moment while the card moves
 * to another network, so that the guest sees it go and come, and asks for an address
 * there.  A snapshot keeps what the user did, and nothing of the rest. */
#include "util/bits.h"
#include "util/json.h"
#include "virtio/devices.h"
#include "virtio/net.h"
#include "virtio/net_private.h"

enum {
    CUT_BY_USER = 1,
    CUT_BY_NETWORK = 2,
    CUT_BY_MOVE = 4,
    MOVE_NS = 300000000, /* long enough for a guest to look */
};

/* ---- options --------------------------------------------------------------------------
 */

/* The options of the wire, which are all that changes when a card moves. */
typedef struct Wire {
    NetDevOptions net;
} Wire;

static const ParamDesc wire_params[] = {NETDEV_PARAMS(Wire, net), {0}};

static json_t *wire_options(const NetDevOptions *options)
{
    const ParamTable table = {.size = sizeof(Wire), .desc = wire_params};

    return param_to_json(&table, options);
}

const json_t *virtio_net_wire(const VirtioDevice *v)
{
    return v->ops->id == virtio_net_ops.id ? ((const Net *)v)->link.options : NULL;
}

/* ---- is it up? ------------------------------------------------------------------------
 */

static void set_cut(Net *n, unsigned cut, bool on)
{
    uint16_t before;
    bool up;

    lock_acquire(&n->link.lock);
    n->link.cuts = (n->link.cuts & ~cut) | (on ? cut : 0);
    up = !n->link.cuts;
    before = up ? __atomic_fetch_or(&n->status, NET_S_LINK_UP, __ATOMIC_RELAXED)
                : __atomic_fetch_and(&n->status, (uint16_t)~NET_S_LINK_UP,
                                     __ATOMIC_RELAXED);
    lock_release(&n->link.lock);
    if (!(before & NET_S_LINK_UP) == up)
        virtio_config_changed(&n->v);
}

static bool is_cut(Net *n, unsigned cut)
{
    LOCK_GUARD(&n->link.lock);
    return n->link.cuts & cut;
}

static void tell_network(void *opaque)
{
    Net *n = opaque;

    if (n->nd)
        netdev_set_link(n->nd, !is_cut(n, CUT_BY_USER));
    if (n->is_remote)
        vhost_dev_cut(&n->remote, is_cut(n, CUT_BY_USER));
}

void net_link_init(Net *n, const NetDevOptions *options)
{
    lock_init(&n->link.lock);
    n->link.tell = (IoPost){.fn = tell_network, .opaque = n};
    n->link.options = wire_options(options);
    n->status = NET_S_LINK_UP;
}

void net_link_finish(Net *n)
{
    ioloop_unpost(n->v.loop, &n->link.tell);
    ioloop_timer_cancel(&n->link.moved);
    json_decref(n->link.options);
}

bool virtio_net_set_link(VirtioDevice *v, bool up)
{
    Net *n = net_of(v);

    if (v->ops->id != virtio_net_ops.id)
        return false;
    set_cut(n, CUT_BY_USER, !up);
    ioloop_post(v->loop, &n->link.tell);
    return true;
}

bool virtio_net_link(const VirtioDevice *v, bool *ret_up)
{
    const Net *n = (const Net *)v;

    if (v->ops->id != virtio_net_ops.id)
        return false;
    *ret_up = __atomic_load_n(&n->status, __ATOMIC_RELAXED) & NET_S_LINK_UP;
    return true;
}

void net_network_link(Net *n, bool up)
{
    set_cut(n, CUT_BY_NETWORK, !up);
}

static void on_network_link(void *opaque, bool up)
{
    net_network_link(((const NetPair *)opaque)->net, up);
}

uint16_t net_status_to_save(Net *n)
{
    uint16_t status = __atomic_load_n(&n->status, __ATOMIC_RELAXED) & ~NET_S_LINK_UP;

    return (uint16_t)(status | (is_cut(n, CUT_BY_USER) ? 0 : NET_S_LINK_UP));
}

void net_status_load(Net *n, uint16_t status)
{
    LOCK_GUARD(&n->link.lock);
    n->link.cuts &= ~(unsigned)CUT_BY_USER;
    n->link.cuts |= status & NET_S_LINK_UP ? 0 : CUT_BY_USER;
    if (n->link.cuts)
        status &= (uint16_t)~NET_S_LINK_UP;
    __atomic_store_n(&n->status, status, __ATOMIC_RELAXED);
    ioloop_post(n->v.loop, &n->link.tell);
}

void net_announce(Net *n)
{
    netdev_announce(n->nd);
    if (n->is_remote && !virtio_has_feature(&n->v, NET_F_GUEST_ANNOUNCE))
        net_vhost_announce(n);
    if (!virtio_has_feature(&n->v, NET_F_GUEST_ANNOUNCE) || !net_link_is_up(n))
        return;
    __atomic_fetch_or(&n->status, NET_S_ANNOUNCE, __ATOMIC_RELAXED);
    virtio_config_changed(&n->v);
}

/* ---- where it leads -------------------------------------------------------------------
 */

static void on_readable(void *opaque)
{
    const NetPair *p = opaque;

    net_rx_run(p->net, p->index);
}

static void on_writable(void *opaque)
{
    const NetPair *p = opaque;

    net_tx_writable(p->net, p->wire);
}

static void on_answered(void *opaque, uint16_t port)
{
    const Net *n = ((const NetPair *)opaque)->net;

    if (n->v.env->event)
        n->v.env->event(n->v.env->opaque, "X_HUTCH_PORT_OPEN",
                        json_pack("{s:s, s:i}", "device", n->v.id, "port", port));
}

NetDev *net_open_wire(Net *n, const NetDevOptions *options, GError **error)
{
    NetDevCard card = {
        .vm = n->v.env->name, .id = n->v.id, .queues = (unsigned)options->queues};
    NetDev *nd;

    store_le(card.mac, n->own_mac, sizeof(card.mac));
    nd = netdev_open(options, &card, n->v.loop, error);
    if (!nd)
        return NULL;
    n->wire_mac = n->own_mac;
    for (unsigned i = 0; i < netdev_queues(nd); i++)
        netdev_set_handlers(netdev_queue(nd, i), on_readable, on_writable, &n->pair[i]);
    netdev_set_answered(nd, on_answered);
    netdev_set_link_handler(nd, on_network_link);
    set_cut(n, CUT_BY_NETWORK, !netdev_link(nd));
    return nd;
}

static void on_moved(void *opaque)
{
    Net *n = opaque;

    set_cut(n, CUT_BY_MOVE, false);
    net_announce(n);
}

void net_plug(Net *n, NetDev *nd)
{
    n->nd = nd;
    for (unsigned i = 0; i < n->max_pairs; i++) {
        NetDev *own = netdev_queue(nd, i);

        n->pair[i].wire = own ? own : nd;
    }
}

typedef struct MoveCall {
    Net *net;
    const NetDevOptions *options;
    bool ok;
    GError **error;
} MoveCall;

/* The new one first: if there is none, nothing has happened. */
static void move_on_loop(void *opaque)
{
    MoveCall *call = opaque;
    Net *n = call->net;
    NetDev *old = n->nd, *nd = net_open_wire(n, call->options, call->error);

    call->ok = nd;
    if (!nd)
        return;
    set_cut(n, CUT_BY_MOVE, true);
    ioloop_timer(n->v.loop, &n->link.moved, clock_ns() + MOVE_NS, on_moved, n);
    for (unsigned i = 0; i < netdev_queues(old); i++)
        netdev_set_reading(netdev_queue(old, i), false);
    net_plug(n, nd);
    if (n->v.live)
        net_steering_wire(n);
    netdev_expect(nd, net_offloads_of(n->v.features, false));
    netdev_set_offloads(nd, n->offloads);
    tell_network(n);
    net_set_mac(n, __atomic_load_n(&n->mac, __ATOMIC_RELAXED));
    netdev_close(old);
    for (unsigned i = 0; i < netdev_queues(nd); i++)
        net_tx_writable(n, netdev_queue(nd, i));
    if (n->v.live && !n->v.quiesced)
        net_rx_run_all(n);
}

bool virtio_net_move(VirtioDevice *v, const NetDevOptions *options, GError **error)
{
    Net *n = net_of(v);
    NetDevOptions wire = *options;
    MoveCall call = {.net = n, .options = &wire, .error = error};

    if (n->max_pairs > 1) /* the card's queues stay as they are */
        wire.queues = n->max_pairs;
    if (v->ops->id != virtio_net_ops.id)
        return fail(error, VM_ERROR_NOT_FOUND, "it is no network card that can move");
    if (n->is_remote)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "another process serves its queues, and cannot hand them on; take it "
                    "out, and plug in a new one");
    ioloop_call(v->loop, move_on_loop, &call);
    if (!call.ok)
        return false;
    json_decref(n->link.options);
    n->link.options = wire_options(&wire);
    n->link.changed = true;
    return true;
}

/* Of passt, the choice that was made: who restores the guest has to make the same. */
static void describe_mode(const Net *n, json_t *option)
{
    const char *type = json_get_text(n->link.options, "type");

    if (type && g_str_equal(type, "passt"))
        json_object_set_new(option, "mode",
                            json_string(n->is_remote ? "vhost-user" : "stream"));
}

/* Main thread: the options as they are since the card was moved. */
void net_describe(VirtioDevice *v, json_t *option)
{
    Net *n = net_of(v);

    describe_mode(n, option);
    if (!n->link.changed)
        return;
    for (const ParamDesc *d = wire_params; d->key; d++)
        json_object_del(option, d->key);
    json_object_update(option, n->link.options);
}
