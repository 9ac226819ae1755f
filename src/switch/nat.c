/* The network's end of libslirp (nat.h; src/net/slirp.c is the other).
 *
 * libslirp believes that it is on an Ethernet with the VMs.  It is alone there with us:
 * who of the VMs is where is the gateway's business, so that whatever address libslirp
 * looks for is said to be at the gateway's MAC, and what it sends there goes the way of
 * any packet to a VM.
 *
 * What sockets of this process could reach and VMs are not to: loopback and what is not
 * for one host to send to, link-local addresses (clouds keep secrets of a host at one),
 * and other networks of ours, to which routes lead or nothing. */
#include "src/switch/nat.h"

#include "src/switch/emit.h"

enum {
    BATCH = 64,
    MAX_OTHERS = 512,
    HANDFUL = 8,
    MAX_ASKED = 256,
    MAX_CLIENTS = 1024,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,
    ND_SOLICITED_OVERRIDE = 0x60, /* RFC 4861, 4.4 */
    ND_TARGET_LINK_ADDRESS = 2,
    ND_HOP_LIMIT = 255,
    ND_SOLICITATION_LEN = 24,
};

static const int64_t others_fresh_ns = 30000000000ll, client_ns = 240000000000ll;

/* A neighbour that libslirp looks for. */
typedef struct Asked {
    Ip target, from; /* from: its own address, and MAC */
    Mac mac;
} Asked;

/* Who of the host has sent datagrams to a VM's port, and may be answered; newer ones push
 * out older ones. */
typedef struct Client {
    Ip vm;
    uint16_t vm_port, port;
    int64_t seen_ns;
} Client;

struct Nat {
    Switch *sw;
    Gateway *gw;
    NetDev *nd;
    NetDevSubnet subnet;
    IpPrefix other[MAX_OTHERS]; /* other networks' subnets */
    unsigned n_others;
    int64_t others_ns; /* when they were looked up */
    Asked asked[MAX_ASKED];
    unsigned n_asked;
    Client client[MAX_CLIENTS];
    IoPost more; /* to be answered */
    uint8_t scratch[1 << 16];
    uint8_t in[FRAME_ROOM + PACKET_MAX];
};

/* ---- which addresses may be reached --------------------------------------------------
 */

static void add_other(Nat *n, const IpPrefix *p)
{
    if (p->bits && n->n_others < MAX_OTHERS)
        n->other[n->n_others++] = *p;
}

/* At most now and then, as networks come and go seldom. */
static void look_up_others(Nat *n)
{
    g_auto(GStrv) names = NULL;

    if (n->others_ns && n->sw->now_ns - n->others_ns < others_fresh_ns)
        return;
    n->others_ns = n->sw->now_ns;
    names = network_list(NULL);
    n->n_others = 0;
    for (char **name = names; name && *name; name++) {
        NetworkConfig *config;
        NetworkSubnets s;

        if (g_str_equal(*name, n->sw->name))
            continue;
        config = network_load(*name, NULL);
        if (!config)
            continue;
        network_subnets(config, &s);
        param_free(&network_params, config);
        add_other(n, &s.v4);
        add_other(n, &s.v6);
    }
}

static bool is_reachable(const Ip *ip)
{
    /* RFC 6890: this host, loopback, link-local, multicast and what is reserved; IPv6
     * forms of IPv4 addresses would be a way round the rest. */
    static const char *const closed[] = {
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3",  "::/8",
        "fe80::/10", "fec0::/10",   "ff00::/8",       "64:ff9b::/96", "2002::/16"};
    static IpPrefix prefix[G_N_ELEMENTS(closed)];
    static bool parsed;

    for (unsigned i = 0; i < G_N_ELEMENTS(closed); i++) {
        if (!parsed)
            ip_prefix_parse(closed[i], &prefix[i], NULL);
        if (ip_is_v4(&prefix[i].ip) == ip_is_v4(ip) && ip_within(ip, &prefix[i]))
            return false;
    }
    parsed = true;
    return true;
}

static bool may_reach(Nat *n, const Ip *ip)
{
    if (!is_reachable(ip))
        return false;
    look_up_others(n);
    for (unsigned i = 0; i < n->n_others; i++)
        if (ip_within(ip, &n->other[i]))
            return false;
    return true;
}

static bool is_ours(const Nat *n, const Ip *ip)
{
    return (n->subnet.v4.bits && ip_within(ip, &n->subnet.v4)) ||
           (n->subnet.v6.bits && ip_within(ip, &n->subnet.v6));
}

/* ---- the host's own connections to VMs, which come by forwards
 * --------------------------
 *
 * For libslirp they are at the gateway's address, and whatever a VM sends there goes to
 * the host's loopback.  So only replies pass: of TCP what begins nothing, and datagrams
 * to who has sent some. */

static bool is_host(const Nat *n, const Ip *ip)
{
    return ip_equal(ip, &n->subnet.host4) || ip_equal(ip, &n->subnet.host6);
}

static Client *client_of(Nat *n, const Ip *vm, uint16_t vm_port, uint16_t port)
{
    uint32_t mixed = ((uint32_t)vm_port << 16 | port) * 0x9e3779b1u + vm->b[15] +
                     vm->b[14] * 256u;

    return &n->client[mixed % MAX_CLIENTS];
}

static void note_client(Nat *n, const Packet *p)
{
    if (p->proto == IPPROTO_UDP && p->transport)
        *client_of(n, &p->to, p->to_port, p->from_port) = (Client){
            p->to, p->to_port, p->from_port, n->sw->now_ns};
}

static bool is_reply(Nat *n, const Packet *p)
{
    const Client *c = client_of(n, &p->from, p->from_port, p->to_port);

    if (!p->transport || p->fragment)
        return false;
    if (p->proto == IPPROTO_TCP)
        return p->tcp_flags & (PACKET_TCP_ACK | PACKET_TCP_RST);
    return p->proto == IPPROTO_UDP && ip_equal(&c->vm, &p->from) &&
           c->vm_port == p->from_port && c->port == p->to_port &&
           n->sw->now_ns - c->seen_ns < client_ns;
}

/* ---- from VMs ------------------------------------------------------------------------
 */

static void give(Nat *n, const VnetHdr *hdr, const uint8_t *frame, size_t len)
{
    uint8_t header[NET_HDR_LEN] = {0};
    struct iovec iov[] = {{header, sizeof(header)}, {(uint8_t *)frame, len}};

    if (hdr)
        memcpy(header, hdr, sizeof(*hdr));
    netdev_send(n->nd, iov, 2);
}

static bool give_segment(void *opaque, const uint8_t *frame, size_t len)
{
    give(opaque, NULL, frame, len);
    return true;
}

/* It ends TCP itself, and so does not mind what was said of congestion. */
static bool backend_takes(unsigned offloads, const VnetHdr *hdr)
{
    return !(netdev_offloads_for(hdr) & ~(offloads | NET_OFFLOAD_ECN));
}

bool nat_input(Nat *n, Frame *f)
{
    if (!is_ours(n, &f->p.from) ||
        !(is_host(n, &f->p.to) ? is_reply(n, &f->p) : may_reach(n, &f->p.to)))
        return false;
    if (backend_takes(netdev_offloads(n->nd), &f->hdr))
        give(n, &f->hdr, f->data, f->len);
    else
        vnet_segment(&f->hdr, f->data, f->len, n->scratch, give_segment, n);
    return true;
}

/* ---- from libslirp -------------------------------------------------------------------
 */

static void answer(Nat *n, Builder *b)
{
    if (build_end(b))
        give(n, NULL, b->data, b->len);
}

/* RFC 826. */
static void answer_arp(Nat *n, const Asked *a)
{
    static const uint8_t formats[] = {0, 1, 8, 0, 6, 4}; /* Ethernet, IPv4 */
    const Mac *mac = gateway_mac(n->gw);
    Builder b = {0};

    build_eth(&b, &a->mac, mac, ETHER_ARP);
    build_bytes(&b, formats, sizeof(formats));
    build_u16(&b, ARP_REPLY);
    build_bytes(&b, mac, sizeof(*mac));
    build_u32(&b, ip_to_v4(&a->target));
    build_bytes(&b, &a->mac, sizeof(a->mac));
    build_u32(&b, ip_to_v4(&a->from));
    answer(n, &b);
}

/* RFC 4861, 7.2.4. */
static void answer_solicitation(Nat *n, const Asked *a)
{
    const Mac *mac = gateway_mac(n->gw);
    Builder b = {0};

    build_ip(&b, &a->mac, mac, &a->target, &a->from, IPPROTO_ICMPV6, ND_HOP_LIMIT);
    build_u8(&b, ND_ADVERTISEMENT);
    build_u8(&b, 0);
    build_u16(&b, 0);
    build_u32(&b, (uint32_t)ND_SOLICITED_OVERRIDE << 24);
    build_bytes(&b, a->target.b, sizeof(a->target.b));
    build_u8(&b, ND_TARGET_LINK_ADDRESS);
    build_u8(&b, 1);
    build_bytes(&b, mac, sizeof(*mac));
    answer(n, &b);
}

static void answer_some(Nat *n)
{
    unsigned now = MIN(n->n_asked, HANDFUL);

    for (unsigned i = 0; i < now; i++)
        (ip_is_v4(&n->asked[i].target) ? answer_arp : answer_solicitation)(n,
                                                                           &n->asked[i]);
    n->n_asked -= now;
    memmove(n->asked, n->asked + now, n->n_asked * sizeof(n->asked[0]));
    if (n->n_asked)
        ioloop_post(n->sw->loop, &n->more);
}

static void answer_more(void *opaque)
{
    answer_some(opaque);
}

static void look_for(Nat *n, const Packet *p, const Ip *target)
{
    if (!is_ours(n, target) || n->n_asked == MAX_ASKED)
        return;
    for (unsigned i = 0; i < n->n_asked; i++)
        if (ip_equal(&n->asked[i].target, target))
            return;
    n->asked[n->n_asked++] = (Asked){.target = *target, .from = p->from, .mac = p->src};
}

static bool is_solicitation(const Packet *p)
{
    return p->proto == IPPROTO_ICMPV6 && p->transport &&
           p->icmp_type == ND_SOLICITATION &&
           p->end - p->transport >= ND_SOLICITATION_LEN;
}

static void take(Nat *n, Frame *f)
{
    const Packet *p = &f->p;

    if (!vnet_hdr_valid(&f->hdr, f->data, f->len) ||
        !packet_parse(f->data, f->len, &f->p))
        return;
    if (p->kind == PACKET_ARP && p->arp_op == ARP_REQUEST) {
        look_for(n, p, &p->to);
    } else if (is_solicitation(p)) {
        Ip target;

        memcpy(target.b, f->data + p->transport + 8, sizeof(target.b));
        look_for(n, p, &target);
    } else if ((p->kind == PACKET_IPV4 || p->kind == PACKET_IPV6) && is_ours(n, &p->to)) {
        if (is_host(n, &p->from))
            note_client(n, p);
        gateway_to_host(n->gw, f);
    }
}

static void readable(void *opaque)
{
    Nat *n = opaque;

    n->sw->now_ns = clock_ns();
    for (unsigned i = 0; i < BATCH; i++) {
        uint8_t header[NET_HDR_LEN];
        struct iovec iov[] = {{header, sizeof(header)},
                              {n->in + FRAME_ROOM, sizeof(n->in) - FRAME_ROOM}};
        ssize_t len = netdev_receive(n->nd, iov, 2);
        Frame f = {.data = n->in + FRAME_ROOM};

        if (len == 0)
            break;
        if (len < NET_HDR_LEN)
            continue;
        memcpy(&f.hdr, header, sizeof(f.hdr));
        f.len = (size_t)len - NET_HDR_LEN;
        take(n, &f);
    }
    if (n->n_asked && !n->more.queued)
        answer_some(n);
    switch_flush(n->sw);
}

/* ---- life ----------------------------------------------------------------------------
 */

static NetDevSubnet subnet_of(const Switch *sw)
{
    const NetworkSubnets *s = &sw->subnets;
    NetDevSubnet subnet;

    memset(&subnet, 0, sizeof(subnet));
    subnet.v4 = s->v4;
    subnet.v6 = s->v6;
    subnet.host4 = s->gateway4;
    subnet.host6 = s->gateway6;
    subnet.mtu = (unsigned)sw->config->mtu;
    return subnet;
}

bool nat_fits(const Nat *n, const Switch *sw)
{
    NetDevSubnet subnet = subnet_of(sw);

    return memcmp(&subnet, &n->subnet, sizeof(subnet)) == 0;
}

Nat *nat_new(Switch *sw, Gateway *gw, GError **error)
{
    Nat *n = g_new0(Nat, 1);
    NetDevOptions options = {.type = NETDEV_USER, .queues = 1, .subnet = &n->subnet};

    n->sw = sw;
    n->gw = gw;
    n->subnet = subnet_of(sw);
    n->more = (IoPost){.fn = answer_more, .opaque = n};
    options.ipv6 = n->subnet.v6.bits;
    n->nd = netdev_open(&options, NULL, sw->loop, error);
    if (!n->nd) {
        g_free(n);
        return NULL;
    }
    netdev_set_offloads(n->nd, NET_OFFLOADS); /* ports cut what their VMs do not take */
    netdev_set_handlers(n->nd, readable, NULL, n);
    netdev_set_reading(n->nd, true);
    return n;
}

void nat_free(Nat *n)
{
    if (!n)
        return;
    ioloop_unpost(n->sw->loop, &n->more);
    netdev_close(n->nd);
    g_free(n);
}

NetDev *nat_netdev(Nat *n)
{
    return n->nd;
}
