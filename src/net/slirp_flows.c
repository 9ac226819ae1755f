/* The guest's TCP connections through the user network, as its frames show them: libslirp
 * has no way to say which there are.
 *
 * They are wanted for one moment: a restored guest goes on with connections whose host
 * side ended with the process that had it.  It would notice only when it next sends, and
 * a server that waits for its client never does.  So each is sent what a peer sends that
 * looks whether the other side is there still (a keepalive: the byte before the one that
 * is awaited, RFC 9293, 3.8.4): the guest answers with where it stands, and to that
 * libslirp, which knows of no such connection, answers with a reset that the guest's TCP
 * takes.  A connection that is not there any more costs the guest one segment.
 *
 * The table is small and exact only as far as that needs it: a hash without chains, in
 * which a newer connection may push out an older one. */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "packet/offload.h"
#include "src/net/slirp_private.h"
#include "util/bits.h"

enum { TCP_FIN = 1, TCP_RST = 4, TCP_ACK = 16, TCP_LEN = 20, IP4_LEN = 20, IP6_LEN = 40 };
enum { PLACES = 4 /* where a flow may be */ };

/* ---- what a frame says --------------------------------------------------------- */

typedef struct Segment {
    SlirpFlow of; /* `guest` is its sender */
    uint32_t len; /* that it takes of the sequence */
    uint8_t flags;
} Segment;

static bool parse_tcp(const uint8_t *tcp, size_t len, Segment *ret)
{
    size_t header;

    if (len < TCP_LEN)
        return false;
    header = (tcp[12] >> 4) * 4u;
    ret->of.guest_port = load_be16(tcp);
    ret->of.peer_port = load_be16(tcp + 2);
    ret->of.seq = load_be32(tcp + 4);
    ret->of.ack = load_be32(tcp + 8);
    ret->flags = tcp[13];
    ret->len = (header <= len ? (uint32_t)(len - header) : 0) + (ret->flags & 3 ? 1 : 0);
    return true;
}

/* False: it is no TCP segment that begins in this frame. */
static bool parse(const uint8_t *f, size_t len, Segment *ret)
{
    const uint8_t *ip = f + ETH_HLEN;
    size_t header, total;

    memset(ret, 0, sizeof(*ret));
    if (len >= ETH_HLEN + IP4_LEN && load_be16(f + 12) == ETH_P_IP) {
        header = (ip[0] & 15) * 4u;
        total = MIN(load_be16(ip + 2), len - ETH_HLEN);
        if (ip[9] != IPPROTO_TCP || (load_be16(ip + 6) & 0x1fff) || header > total)
            return false;
        memcpy(ret->of.guest, ip + 12, 4);
        memcpy(ret->of.peer, ip + 16, 4);
        return parse_tcp(ip + header, total - header, ret);
    }
    if (len < ETH_HLEN + IP6_LEN || load_be16(f + 12) != ETH_P_IPV6 ||
        ip[6] != IPPROTO_TCP)
        return false;
    total = MIN(load_be16(ip + 4), len - ETH_HLEN - IP6_LEN);
    ret->of.ipv6 = true;
    memcpy(ret->of.guest, ip + 8, 16);
    memcpy(ret->of.peer, ip + 24, 16);
    return parse_tcp(ip + IP6_LEN, total, ret);
}

/* ---- the table ----------------------------------------------------------------- */

static bool same(const SlirpFlow *a, const SlirpFlow *b)
{
    return a->used && a->guest_port == b->guest_port && a->peer_port == b->peer_port &&
           a->ipv6 == b->ipv6 && memcmp(a->guest, b->guest, sizeof(a->guest)) == 0 &&
           memcmp(a->peer, b->peer, sizeof(a->peer)) == 0;
}

static SlirpFlow *place(SlirpFlows *f, const SlirpFlow *flow, unsigned i)
{
    uint32_t mixed = ((uint32_t)flow->guest_port << 16 | flow->peer_port) * 0x9e3779b1u;

    return &f->flow[((mixed >> 16) + i) % SLIRP_MAX_FLOWS];
}

static SlirpFlow *find(SlirpFlows *f, const SlirpFlow *flow)
{
    for (unsigned i = 0; i < PLACES; i++)
        if (same(place(f, flow, i), flow))
            return place(f, flow, i);
    return NULL;
}

/* A place for it, of which the first is taken away if there is none. */
static SlirpFlow *make(SlirpFlows *f, const SlirpFlow *flow)
{
    SlirpFlow *at = place(f, flow, 0);

    for (unsigned i = 1; i < PLACES && at->used; i++)
        at = place(f, flow, i);
    if (at->used)
        at = place(f, flow, 0);
    *at = *flow;
    at->used = true;
    return at;
}

static void forget_if_over(SlirpFlow *flow)
{
    if (flow->guest_fin && flow->peer_fin)
        flow->used = false;
}

void slirp_flows_sent(SlirpFlows *f, const uint8_t *frame, size_t len)
{
    SlirpFlow *flow;
    Segment s;

    if (len >= ETH_HLEN)
        memcpy(f->mac, frame + ETH_ALEN, ETH_ALEN);
    if (!parse(frame, len, &s))
        return;
    flow = find(f, &s.of);
    if (s.flags & TCP_RST) {
        if (flow)
            flow->used = false;
        return;
    }
    if (!(s.flags & TCP_ACK)) /* its first word, which it will repeat */
        return;
    if (!flow)
        flow = make(f, &s.of);
    flow->seq = s.of.seq + s.len;
    flow->ack = s.of.ack;
    flow->guest_fin |= s.flags & TCP_FIN;
    forget_if_over(flow);
}

static void turn_round(SlirpFlow *flow)
{
    SlirpFlow was = *flow;

    memcpy(flow->guest, was.peer, sizeof(flow->guest));
    memcpy(flow->peer, was.guest, sizeof(flow->peer));
    flow->guest_port = was.peer_port;
    flow->peer_port = was.guest_port;
}

void slirp_flows_received(SlirpFlows *f, const uint8_t *frame, size_t len)
{
    SlirpFlow *flow;
    Segment s;

    if (!parse(frame, len, &s) || !(s.flags & (TCP_FIN | TCP_RST)))
        return;
    turn_round(&s.of);
    flow = find(f, &s.of);
    if (!flow)
        return;
    flow->peer_fin = true;
    if (s.flags & TCP_RST)
        flow->used = false;
    else
        forget_if_over(flow);
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(SlirpFlow));
}

unsigned slirp_flows_list(const SlirpFlows *f, SlirpFlow list[SLIRP_MAX_FLOWS])
{
    unsigned n = 0;

    for (unsigned i = 0; i < SLIRP_MAX_FLOWS; i++)
        if (f->flow[i].used)
            list[n++] = f->flow[i];
    qsort(list, n, sizeof(list[0]), compare);
    return n;
}

void slirp_flows_add(SlirpFlows *f, const SlirpFlow *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i].used)
            make(f, &list[i]);
}

/* ---- the probe ----------------------------------------------------------------- */

static void put_checksum(uint8_t *at, uint32_t sum)
{
    uint16_t end = checksum_end(sum);

    memcpy(at, &end, sizeof(end));
}

/* Returns the length; the addresses follow each other, as the pseudo-header wants them.
 */
static size_t put_ip(const SlirpFlow *flow, uint8_t *ip, const uint8_t **ret_addresses)
{
    if (flow->ipv6) {
        memset(ip, 0, IP6_LEN);
        ip[0] = 0x60;
        store_be16(ip + 4, TCP_LEN);
        ip[6] = IPPROTO_TCP;
        ip[7] = 64;
        memcpy(ip + 8, flow->peer, 16);
        memcpy(ip + 24, flow->guest, 16);
        *ret_addresses = ip + 8;
        return IP6_LEN;
    }
    memset(ip, 0, IP4_LEN);
    ip[0] = 0x45;
    store_be16(ip + 2, IP4_LEN + TCP_LEN);
    ip[8] = 64;
    ip[9] = IPPROTO_TCP;
    memcpy(ip + 12, flow->peer, 4);
    memcpy(ip + 16, flow->guest, 4);
    put_checksum(ip + 10, checksum_add(0, ip, IP4_LEN));
    *ret_addresses = ip + 12;
    return IP4_LEN;
}

size_t slirp_flow_probe(const SlirpFlows *f, const SlirpFlow *flow,
                        uint8_t frame[SLIRP_PROBE_LEN])
{
    static const uint8_t host[ETH_ALEN] = {0x52, 0x55, 10, 0, 2, 2};
    static const uint8_t rest[] = {0, IPPROTO_TCP, 0, TCP_LEN}; /* of the pseudo-header */
    const uint8_t *addresses;
    size_t ip_len;
    uint8_t *tcp;
    uint32_t sum;

    memcpy(frame, f->mac, ETH_ALEN);
    memcpy(frame + ETH_ALEN, host, ETH_ALEN);
    store_be16(frame + 12, flow->ipv6 ? ETH_P_IPV6 : ETH_P_IP);
    ip_len = put_ip(flow, frame + ETH_HLEN, &addresses);
    tcp = frame + ETH_HLEN + ip_len;
    memset(tcp, 0, TCP_LEN);
    store_be16(tcp, flow->peer_port);
    store_be16(tcp + 2, flow->guest_port);
    store_be32(tcp + 4, flow->ack - 1);
    store_be32(tcp + 8, flow->seq);
    tcp[12] = TCP_LEN / 4 << 4;
    tcp[13] = TCP_ACK;
    store_be16(tcp + 14, 0xffff);
    sum = checksum_add(0, addresses, flow->ipv6 ? 32 : 8);
    sum = checksum_add(sum, rest, sizeof(rest));
    put_checksum(tcp + 16, checksum_add(sum, tcp, TCP_LEN));
    return ETH_HLEN + ip_len + TCP_LEN;
}
