/* Which backend a network card gets, and what is the same for all of them; contract in
 * backend/netdev.h. */
#include "backend/netdev.h"

#include "backend/state_tables.h"
#include "src/net/netdev_private.h"
#include "src/net/slirp_private.h"

const char *const netdev_type_names[] = {
    "user", "tap", "bridge", "macvtap", "passt", "stream", "network", "vhost-user", NULL};
_Static_assert(G_N_ELEMENTS(netdev_type_names) == NETDEV_TYPES, "a name for each");

static const NetDevOps *const types[NETDEV_TYPES] = {
    [NETDEV_USER] = &netdev_user_ops,       [NETDEV_TAP] = &netdev_tap_ops,
    [NETDEV_BRIDGE] = &netdev_bridge_ops,   [NETDEV_MACVTAP] = &netdev_macvtap_ops,
    [NETDEV_PASST] = &netdev_passt_ops,     [NETDEV_STREAM] = &netdev_stream_ops,
    [NETDEV_NETWORK] = &netdev_network_ops, [NETDEV_VHOST_USER] = &netdev_vhost_user_ops,
};

/* ---- options --------------------------------------------------------------------------
 */

/* Which kinds an option is for; the rest have said in their own check what they take. */
#define FOR(type) (1u << NETDEV_##type)
typedef enum { TEXT, LIST, NUMBER, FLAG } Shape;

static const struct {
    const char *key;
    size_t offset;
    unsigned types;
    Shape shape;
} keys[] = {
    {"network", offsetof(NetDevOptions, network), FOR(NETWORK), TEXT},
    {"ip", offsetof(NetDevOptions, ip), FOR(NETWORK), LIST},
    {"group", offsetof(NetDevOptions, group), FOR(NETWORK), LIST},
    {"firewall", offsetof(NetDevOptions, firewall), FOR(NETWORK), TEXT},
    {"vlan", offsetof(NetDevOptions, vlan), FOR(NETWORK), NUMBER},
    {"trunk", offsetof(NetDevOptions, trunk), FOR(NETWORK), LIST},
    {"trust", offsetof(NetDevOptions, trust), FOR(NETWORK), FLAG},
    {"bridge", offsetof(NetDevOptions, bridge), FOR(BRIDGE), TEXT},
    {"parent", offsetof(NetDevOptions, parent), FOR(MACVTAP), TEXT},
    {"mode", offsetof(NetDevOptions, mode), FOR(MACVTAP) | FOR(PASST), TEXT},
    {"path", offsetof(NetDevOptions, path), FOR(STREAM) | FOR(VHOST_USER), TEXT},
    {"listen", offsetof(NetDevOptions, listen), FOR(STREAM) | FOR(VHOST_USER), FLAG},
    {"hostfwd", offsetof(NetDevOptions, hostfwd), FOR(USER) | FOR(TAP) | FOR(PASST),
     LIST},
    {"restrict", offsetof(NetDevOptions, restrict_), FOR(USER) | FOR(TAP), FLAG},
    {"hostname", offsetof(NetDevOptions, hostname), FOR(USER) | FOR(TAP), TEXT},
    {"ifname", offsetof(NetDevOptions, ifname), FOR(USER) | FOR(TAP) | FOR(BRIDGE), TEXT},
};

static bool is_given(const NetDevOptions *o, size_t offset, Shape shape)
{
    const void *at = (const char *)o + offset;

    switch (shape) {
    case TEXT:
        return *(char *const *)at;
    case LIST:
        return *(char **const *)at && **(char **const *)at;
    case NUMBER:
        return *(const uint64_t *)at;
    case FLAG:
        return *(const bool *)at;
    }
    return false;
}

static const char *type_name(int type)
{
    return netdev_type_names[type - NETDEV_USER];
}

static bool fail_key(const char *key, unsigned for_types, int type, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);

    for (int t = NETDEV_USER; t < NETDEV_TYPES; t++)
        if (for_types >> t & 1)
            g_string_append_printf(names, "%s%s", names->len ? " or " : "", type_name(t));
    return fail(error, VM_ERROR_INVALID, "%s= goes with type %s, and this is type %s",
                key, names->str, type_name(type));
}

/* What another option tells already. */
static int type_by_others(const NetDevOptions *o)
{
    if (o->network)
        return NETDEV_NETWORK;
    if (o->bridge)
        return NETDEV_BRIDGE;
    if (o->parent)
        return NETDEV_MACVTAP;
    if (o->path)
        return NETDEV_STREAM;
    return o->ifname ? NETDEV_TAP : NETDEV_NONE;
}

static bool check(const NetDevOptions *o, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++)
        if (!(keys[i].types >> o->type & 1) && is_given(o, keys[i].offset, keys[i].shape))
            return fail_key(keys[i].key, keys[i].types, o->type, error);
    if (!types[o->type])
        return fail(error, VM_ERROR_UNSUPPORTED, "this hutch has no cards of type %s yet",
                    type_name(o->type));
    return types[o->type]->check(o, error);
}

bool netdev_check(NetDevOptions *o, GError **error)
{
    if (o->type == NETDEV_NONE)
        o->type = type_by_others(o);
    if (o->type == NETDEV_NONE)
        return fail(error, VM_ERROR_INVALID,
                    "key 'type' is missing: begin with the kind of network, as in "
                    "'--net user', or with a network's name");
    return check(o, error);
}

NetDev *netdev_open(const NetDevOptions *options, const NetDevCard *card, IoLoop *loop,
                    GError **error)
{
    const NetDevOps *ops = types[options->type];
    NetDev *nd;

    if (!check(options, error))
        return NULL;
    nd = ops->open(options, card, loop, error);
    for (unsigned i = 0; nd && i < netdev_queues(nd); i++) {
        netdev_queue(nd, i)->ops = ops;
        netdev_queue(nd, i)->loop = loop;
    }
    return nd;
}

void netdev_close(NetDev *nd)
{
    if (!nd)
        return;
    for (unsigned i = 0; i < netdev_queues(nd); i++)
        g_free(netdev_queue(nd, i)->soften);
    nd->ops->close(nd);
}

unsigned netdev_offloads(const NetDev *nd)
{
    return nd->offloads;
}

void netdev_expect(NetDev *nd, unsigned offloads)
{
    for (unsigned i = 0; i < netdev_queues(nd) && (offloads & ~nd->offloads); i++) {
        NetDev *queue = netdev_queue(nd, i);

        if (!queue->soften)
            queue->soften = soften_new(queue);
    }
}

unsigned netdev_offloads_for(const VnetHdr *hdr)
{
    unsigned csum = hdr->flags & VNET_NEEDS_CSUM ? NET_OFFLOAD_CSUM : 0;
    unsigned ecn = hdr->gso_type & VNET_GSO_ECN ? NET_OFFLOAD_ECN : 0;

    switch (hdr->gso_type & ~VNET_GSO_ECN) {
    case VNET_GSO_TCPV4:
        return csum | ecn | NET_OFFLOAD_TSO4;
    case VNET_GSO_TCPV6:
        return csum | ecn | NET_OFFLOAD_TSO6;
    case VNET_GSO_UDP_L4:
        return csum | ecn | NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6;
    default:
        return csum | ecn;
    }
}

unsigned netdev_mtu(const NetDev *nd)
{
    return nd->mtu;
}

/* ---- queues ---------------------------------------------------------------------------
 */

unsigned netdev_queues(const NetDev *nd)
{
    return MAX(nd->n_queues, 1);
}

NetDev *netdev_queue(NetDev *nd, unsigned queue)
{
    if (!queue)
        return nd;
    return queue < nd->n_queues ? nd->queue[queue] : NULL;
}

bool netdev_use_queues(NetDev *nd, unsigned n)
{
    if (!nd->ops->use_queues)
        return n == 1;
    if (n <= netdev_queues(nd) && nd->ops->use_queues(nd, n))
        return true;
    nd->ops->use_queues(nd, 1);
    return false;
}

/* ---- the link -------------------------------------------------------------------------
 */

bool netdev_link(const NetDev *nd)
{
    return !nd->link_down;
}

void netdev_set_link_handler(NetDev *nd, void (*link)(void *opaque, bool up))
{
    nd->link = link;
}

void netdev_link_changed(NetDev *nd, bool up)
{
    if (nd->link_down == !up)
        return;
    nd->link_down = !up;
    if (nd->link)
        nd->link(nd->opaque, up);
}

void netdev_set_link(NetDev *nd, bool up)
{
    if (nd->ops->set_link)
        nd->ops->set_link(nd, up);
}

void netdev_announce(NetDev *nd)
{
    if (nd->ops->announce)
        nd->ops->announce(nd);
}

bool netdev_readdress(NetDev *nd, const uint8_t mac[6], GError **error)
{
    return !nd->ops->readdress || nd->ops->readdress(nd, mac, error);
}

void netdev_set_mac(NetDev *nd, const uint8_t mac[6])
{
    if (nd->ops->set_mac)
        nd->ops->set_mac(nd, mac);
}

/* ---- frames ---------------------------------------------------------------------------
 */

void netdev_set_offloads(NetDev *nd, unsigned offloads)
{
    const unsigned tso = NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;

    /* What a driver must not do (virtio 1.2, 5.1.3.1) is made harmless here, once: no
     * segmentation without checksums, no ECN without segmentation. */
    offloads &= nd->offloads;
    if (!(offloads & NET_OFFLOAD_CSUM))
        offloads = 0;
    if (!(offloads & tso))
        offloads &= ~(unsigned)NET_OFFLOAD_ECN;
    if (nd->ops->set_offloads)
        nd->ops->set_offloads(nd, offloads);
}

bool netdev_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return nd->soften ? soften_send(nd->soften, iov, n) : nd->ops->send(nd, iov, n);
}

void netdev_flush(NetDev *nd)
{
    if (nd->ops->flush)
        nd->ops->flush(nd);
}

ssize_t netdev_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return nd->ops->receive(nd, iov, n);
}

void netdev_set_handlers(NetDev *nd, void (*readable)(void *opaque),
                         void (*writable)(void *opaque), void *opaque)
{
    nd->readable = readable;
    nd->writable = writable;
    nd->opaque = opaque;
}

void netdev_set_answered(NetDev *nd, void (*answered)(void *opaque, uint16_t port))
{
    nd->answered = answered;
}

void netdev_set_reading(NetDev *nd, bool on)
{
    if (nd->reading == on)
        return;
    nd->reading = on;
    nd->ops->set_reading(nd, on);
}

bool netdev_forward(NetDev *nd, const NetDevForward *fwd, GError **error)
{
    return nd->ops->forward ? nd->ops->forward(nd, fwd, error)
                            : fail(error, VM_ERROR_UNSUPPORTED,
                                   "this backend forwards no ports of the host");
}

void netdev_unforward(NetDev *nd, const NetDevForward *fwd)
{
    if (nd->ops->unforward)
        nd->ops->unforward(nd, fwd);
}

void netdev_save(NetDev *nd, const char *section, StateWriter *w)
{
    g_autofree UserState *s = NULL;

    if (!nd->ops->save)
        return;
    s = g_new0(UserState, 1);
    nd->ops->save(nd, s);
    state_put(w, section, &netdev_user_state_table, s);
}

/* A network that is played for the guest may take the place of a real one, and the other
 * way round. */
bool netdev_load(NetDev *nd, const char *section, StateReader *r, GError **error)
{
    g_autofree UserState *s = NULL;

    if (!state_has(r, section))
        return true;
    s = g_new0(UserState, 1);
    if (!state_get(r, section, &netdev_user_state_table, s, error))
        return false;
    if (nd->ops->load)
        nd->ops->load(nd, s);
    return true;
}

void netdev_restored(NetDev *nd)
{
    if (nd->ops->restored)
        nd->ops->restored(nd);
}
