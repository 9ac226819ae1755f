/* virtio-net (virtio 1.2, 5.1): a network card with pairs of queues and a control queue,
 * whose wire ends in a NetDev.  Offered are the offloads that the NetDev has, and with
 * several pairs RSS and hash reports.  Not offered: UFO, VLAN filters, notification
 * coalescing.
 *
 * One thread serves all pairs of a card.  What several queues are for is the guest's
 * side: each CPU has its own, and interrupts go where flows are worked on.
 *
 * The address.  A guest names its interface, and a DHCP server its lease, by the card's
 * MAC, so one that is made up must be the same at each start.  It is a locally
 * administered one, hashed from what identifies the card: its id and its VM's name, and,
 * on an interface of the host, which can lead to where other hosts are, that and the host
 * too.  A card that others share a wire with, and that has neither a named VM nor a named
 * interface, gets a random one. */
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>

#include "util/bits.h"
#include "virtio/devices.h"
#include "virtio/net.h"
#include "virtio/net_private.h"

enum { MIN_MTU = 68, USUAL_MTU = 1500, MAX_MTU = 65535 };

typedef struct NetOptions {
    VirtioCommonOptions common;
    NetDevOptions net;
    uint8_t mac[6];
    uint64_t mtu;
} NetOptions;

static const ParamDesc net_param_list[] = {
    NETDEV_PARAMS(NetOptions, net),
    {.key = "mac",
     .type = PARAM_MAC,
     .offset = offsetof(NetOptions, mac),
     .arg = "XX:XX:XX:XX:XX:XX",
     .help = "address of the card; by default one that stays the same"},
    {.key = "mtu",
     .type = PARAM_UINT,
     .offset = offsetof(NetOptions, mtu),
     .arg = "BYTES",
     .help = "largest packet, told to the guest",
     .min = MIN_MTU,
     .max = MAX_MTU},
    VIRTIO_PARAMS(NetOptions, common),
    {0},
};

static bool net_check(void *options, GError **error)
{
    NetOptions *o = options;

    if (o->mac[0] & 1)
        return fail(
            error, VM_ERROR_INVALID,
            "mac=%02x:%02x:%02x:%02x:%02x:%02x is a group address: clear the lowest "
            "bit of the first byte",
            o->mac[0], o->mac[1], o->mac[2], o->mac[3], o->mac[4], o->mac[5]);
    return netdev_check(&o->net, error);
}

/* Memory is shared for a card that says so, not for one that may: it would be in the
 * hands of another process, and not be restored lazily. */
static bool net_wants_shared(const void *options)
{
    return netdev_is_elsewhere(&((const NetOptions *)options)->net, false);
}

/* Since passt can be one of two, it is said which. */
static void net_options_of_snapshot(void *options)
{
    NetDevOptions *o = &((NetOptions *)options)->net;

    if (o->type == NETDEV_PASST && !o->mode)
        o->mode = g_strdup("stream");
}

static const ParamTable net_params = {
    .size = sizeof(NetOptions),
    .desc = net_param_list,
    .check = net_check,
};

/* ---- the address ------------------------------------------------------------------ */

static void hash_string(GChecksum *sum, const char *text)
{
    const char *s = text ? text : "";

    g_checksum_update(sum, (const guchar *)s, (gssize)strlen(s) + 1); /* and its end */
}

static void make_mac(const Net *n, const NetOptions *o, uint8_t mac[6])
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    const int type = o->net.type;
    bool host_wire = type == NETDEV_TAP || type == NETDEV_BRIDGE ||
                     type == NETDEV_MACVTAP;
    bool shared = host_wire || type == NETDEV_NETWORK || type == NETDEV_STREAM ||
                  type == NETDEV_VHOST_USER;
    const char *vm = n->v.env->name;
    struct utsname host = {0};
    guint8 digest[32];
    gsize len = sizeof(digest);

    if (!shared || vm || o->net.ifname || getrandom(mac, 6, 0) != 6) {
        hash_string(sum, vm);
        hash_string(sum, n->v.id);
        if (host_wire && uname(&host) == 0) {
            hash_string(sum, host.nodename);
            hash_string(sum, o->net.ifname);
        }
        g_checksum_get_digest(sum, digest, &len);
        memcpy(mac, digest, 6);
    }
    mac[0] = (uint8_t)((mac[0] & ~1u) | 2u); /* one station, locally administered */
}

static void choose_mac(Net *n, const NetOptions *o)
{
    static const uint8_t none[6];
    uint8_t mac[6];

    memcpy(mac, o->mac, sizeof(mac));
    n->mac_given = memcmp(mac, none, sizeof(mac)) != 0;
    if (!n->mac_given)
        make_mac(n, o, mac);
    n->own_mac = load_le(mac, sizeof(mac));
    n->mac = n->own_mac;
}

/* ---- features --------------------------------------------------------------------- */

static const struct {
    unsigned offload, host, guest;
} offload_map[] = {
    {NET_OFFLOAD_CSUM, NET_F_CSUM, NET_F_GUEST_CSUM},
    {NET_OFFLOAD_TSO4, NET_F_HOST_TSO4, NET_F_GUEST_TSO4},
    {NET_OFFLOAD_TSO6, NET_F_HOST_TSO6, NET_F_GUEST_TSO6},
    {NET_OFFLOAD_ECN, NET_F_HOST_ECN, NET_F_GUEST_ECN},
    {NET_OFFLOAD_USO4, NET_F_HOST_USO, NET_F_GUEST_USO4},
    {NET_OFFLOAD_USO6, NET_F_HOST_USO, NET_F_GUEST_USO6},
};

unsigned net_offloads_of(uint64_t features, bool guest)
{
    unsigned offloads = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(offload_map); i++) {
        if (features >> (guest ? offload_map[i].guest : offload_map[i].host) & 1)
            offloads |= offload_map[i].offload;
    }
    return offloads;
}

uint64_t net_own_features(const Net *n)
{
    return BIT64(NET_F_MAC) | BIT64(NET_F_STATUS) | BIT64(NET_F_CTRL_VQ) |
           BIT64(NET_F_CTRL_RX) | BIT64(NET_F_CTRL_MAC_ADDR) |
           BIT64(NET_F_GUEST_ANNOUNCE) | (n->mtu ? BIT64(NET_F_MTU) : 0) |
           (n->max_pairs > 1 ? BIT64(NET_F_MQ) : 0);
}

static uint64_t features_of(const Net *n)
{
    unsigned offloads = netdev_offloads(n->nd);
    uint64_t f = net_own_features(n) | BIT64(NET_F_MRG_RXBUF);

    for (size_t i = 0; i < G_N_ELEMENTS(offload_map); i++) {
        if (offloads & offload_map[i].offload)
            f |= BIT64(offload_map[i].host) | BIT64(offload_map[i].guest);
    }
    if (offloads)
        f |= BIT64(NET_F_CTRL_GUEST_OFFLOADS);
    if (n->max_pairs > 1)
        f |= BIT64(NET_F_RSS) | BIT64(NET_F_HASH_REPORT);
    return f;
}

/* ---- config space, 5.1.4: vCPU threads -------------------------------------------- */

typedef struct NetConfig {
    uint8_t mac[6];
    uint16_t status, max_virtqueue_pairs, mtu;
    uint32_t speed;
    uint8_t duplex, rss_max_key_size;
    uint16_t rss_max_indirection_table_length;
    uint32_t supported_hash_types;
} NetConfig;
_Static_assert(sizeof(NetConfig) == 24, "as drivers have it");

enum { UNKNOWN = 0xff }; /* 5.1.4.2: speed and duplex, in all their bytes */

static void net_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    Net *n = net_of(v);
    NetConfig c = {
        .status = __atomic_load_n(&n->status, __ATOMIC_RELAXED),
        .max_virtqueue_pairs = n->max_pairs,
        .mtu = n->mtu,
        .speed = UINT32_MAX,
        .duplex = UNKNOWN,
        .rss_max_key_size = NET_KEY_MAX,
        .rss_max_indirection_table_length = NET_TABLE_MAX,
        .supported_hash_types = NET_HASHES,
    };

    store_le(c.mac, __atomic_load_n(&n->mac, __ATOMIC_RELAXED), sizeof(c.mac));
    memcpy(buf, (const uint8_t *)&c + offset, len);
}

/* ---- life-cycle ------------------------------------------------------------------- */

typedef struct OpenCall {
    Net *net;
    const NetDevOptions *options;
    GError **error;
} OpenCall;

static void open_on_loop(void *opaque)
{
    OpenCall *call = opaque;
    Net *n = call->net;
    NetDev *nd = n->is_remote ? netdev_open_elsewhere(n->v.loop)
                              : net_open_wire(n, call->options, call->error);

    if (nd)
        net_plug(n, nd);
}

static void close_on_loop(void *opaque)
{
    Net *n = opaque;

    net_link_finish(n);
    netdev_close(n->nd);
    n->nd = NULL;
}

/* What the network says, unless it is what every guest takes for granted. */
static uint16_t choose_mtu(const Net *n, const NetOptions *o)
{
    unsigned mtu = netdev_mtu(n->nd);

    if (o->mtu)
        return (uint16_t)o->mtu;
    return mtu >= MIN_MTU && mtu != USUAL_MTU ? (uint16_t)mtu : 0;
}

static bool net_realize(VirtioDevice *v, const void *options, GError **error)
{
    Net *n = net_of(v);
    const NetOptions *o = options;
    OpenCall call = {n, &o->net, error};

    n->max_pairs = (uint16_t)CLAMP(o->net.queues, 1, NET_MAX_PAIRS);
    n->pair = g_new0(NetPair, n->max_pairs);
    for (unsigned i = 0; i < n->max_pairs; i++)
        n->pair[i] = (NetPair){.net = n, .index = i};
    v->n_queues = 2u * n->max_pairs + 1;
    if (n->max_pairs == 1) /* as it was before there were several: snapshots know it */
        v->config_size = offsetof(NetConfig, speed);
    net_link_init(n, &o->net);
    choose_mac(n, o);
    n->mtu = (uint16_t)o->mtu;
    if (netdev_is_elsewhere(&o->net, v->gm->fd >= 0) &&
        !net_vhost_realize(n, &o->net, error))
        return false;
    ioloop_call(v->loop, open_on_loop, &call);
    if (!n->nd)
        return false;
    if (n->is_remote)
        return true;
    n->mtu = choose_mtu(n, o);
    v->offered = features_of(n);
    return true;
}

static void net_release(VirtioDevice *v)
{
    if (v->loop)
        ioloop_call(v->loop, close_on_loop, net_of(v));
    vhost_dev_release(v);
    g_free(net_of(v)->pair);
}

void net_set_offloads(Net *n, unsigned offloads)
{
    n->offloads = offloads;
    netdev_set_offloads(n->nd, offloads);
}

void net_set_mac(Net *n, uint64_t mac)
{
    uint8_t bytes[6];

    __atomic_store_n(&n->mac, mac, __ATOMIC_RELAXED);
    if (n->wire_mac == mac)
        return;
    n->wire_mac = mac;
    store_le(bytes, mac, sizeof(bytes));
    netdev_set_mac(n->nd, bytes);
}

static bool net_activate(VirtioDevice *v, GError **error)
{
    Net *n = net_of(v);

    net_set_offloads(n, net_offloads_of(v->features, true));
    net_set_mac(n, n->mac);
    net_rx_start(n);
    net_steering_reset(n);
    net_steering_wire(n);
    if (!n->is_remote)
        return true;
    net_vhost_rings(n);
    return vhost_dev_activate(v, error);
}

static void net_handle(VirtioDevice *v, Virtqueue *vq)
{
    Net *n = net_of(v);

    if (vq->index == net_ctrl_queue(n))
        net_ctrl_run(n);
    else if (vq->index % 2 == NET_RXQ)
        net_rx_run(n, vq->index / 2);
    else
        net_tx_run(n, vq->index / 2);
}

static void net_quiesce(VirtioDevice *v)
{
    if (net_of(v)->is_remote) {
        vhost_dev_quiesce(v);
        return;
    }
    net_rx_quiesce(net_of(v));
    net_tx_quiesce(net_of(v));
}

static void net_reset(VirtioDevice *v)
{
    Net *n = net_of(v);

    net_rx_reset(n);
    net_tx_reset(n);
    n->steering = (NetSteering){0};
    netdev_use_queues(n->nd, 1);
    net_set_offloads(n, 0);
    net_set_mac(n, n->own_mac);
    if (n->is_remote)
        vhost_dev_reset(v);
}

static void net_hurry(VirtioDevice *v)
{
    if (net_of(v)->is_remote)
        vhost_dev_hurry(v);
}

/* ---- after a pause ------------------------------------------------------------------
 */

/* The network may be another, or see the guest at another place: it is asked to make
 * itself known (virtio 1.2, 5.1.6.5.4). */
static void net_resume(VirtioDevice *v)
{
    Net *n = net_of(v);

    if (n->is_remote) {
        net_vhost_rings(n);
        vhost_dev_resume(v);
    }
    if (!v->restored)
        return;
    net_set_offloads(n, n->offloads);
    net_set_mac(n, n->mac);
    netdev_expect(n->nd, net_offloads_of(v->features, false));
    net_steering_wire(n);
    netdev_restored(n->nd);
    net_announce(n);
}

const VirtioOps virtio_net_ops = {
    .name = "net",
    .id = 1,
    .pci_class = 0x020000, /* ethernet controller */
    .option = "net",
    .help = "add a network card: on a network, in user mode, or on the host's own",
    .params = &net_params,
    .size = sizeof(Net),
    .queue_size = NET_QUEUE_SIZE,
    .config_size = sizeof(NetConfig),
    .own_thread = true,
    .realize = net_realize,
    .release = net_release,
    .config_read = net_config_read,
    .activate = net_activate,
    .handle = net_handle,
    .quiesce = net_quiesce,
    .resume = net_resume,
    .reset = net_reset,
    .hurry = net_hurry,
    .options_of_snapshot = net_options_of_snapshot,
    .wants_shared = net_wants_shared,
    .pinned = net_pinned,
    .describe = net_describe,
    .save = net_save,
    .load = net_load,
    .kept_features = BIT64(NET_F_GUEST_CSUM) | BIT64(NET_F_GUEST_TSO4) |
                     BIT64(NET_F_GUEST_TSO6) | BIT64(NET_F_GUEST_ECN) |
                     BIT64(NET_F_GUEST_USO4) | BIT64(NET_F_GUEST_USO6) |
                     BIT64(NET_F_HOST_USO) | BIT64(NET_F_CTRL_GUEST_OFFLOADS) |
                     BIT64(NET_F_MTU),
};

bool virtio_net_macs(const VirtioDevice *v, uint8_t ret_now[6], uint8_t ret_own[6])
{
    const Net *n = (const Net *)v;

    if (v->ops->id != virtio_net_ops.id)
        return false;
    store_le(ret_now, __atomic_load_n(&n->mac, __ATOMIC_RELAXED), 6);
    store_le(ret_own, n->own_mac, 6);
    return true;
}

static void add_counters(NetCounters *sum, const NetCounters *c)
{
    sum->frames += counter_read(&c->frames);
    sum->bytes += counter_read(&c->bytes);
    sum->dropped += counter_read(&c->dropped);
}

bool virtio_net_stats(const VirtioDevice *v, NetStats *ret)
{
    const Net *n = (const Net *)v;

    if (v->ops->id != virtio_net_ops.id)
        return false;
    *ret = (NetStats){0};
    for (unsigned i = 0; i < n->max_pairs; i++) {
        add_counters(&ret->rx, &n->pair[i].rx.count);
        add_counters(&ret->tx, &n->pair[i].tx.count);
    }
    return true;
}
