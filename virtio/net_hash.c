/* Hashes of frames (virtio 1.2, 5.1.6.4.3).  A card with RSS hashes with the Toeplitz
 * function under a key of the driver's, as Microsoft defined it for all cards
 * ("RSS hashing functions", of the NDIS reference): bit i of the input, the first byte's
 * highest first, if it is set, adds the 32 bits of the key from bit i on.
 *
 * Frames are our own copies, and may be cut off after their first bytes. */
#include <netinet/in.h>
#include <string.h>

#include "util/bits.h"
#include "virtio/net_private.h"

/* ---- Toeplitz --------------------------------------------------------------------- */

/* 32 bits of the key from bit `at` on; past its end it is zero. */
static uint32_t window(const uint8_t key[NET_KEY_MAX], unsigned at)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < 5; i++)
        bits = bits << 8 | (at / 8 + i < NET_KEY_MAX ? key[at / 8 + i] : 0);
    return (uint32_t)(bits >> (8 - at % 8));
}

void net_toeplitz_init(NetToeplitz *t, const uint8_t *key, size_t key_len)
{
    uint8_t whole[NET_KEY_MAX] = {0};

    memcpy(whole, key, MIN(key_len, sizeof(whole)));
    for (unsigned i = 0; i < 2 * NET_HASH_INPUT; i++) {
        for (unsigned v = 0; v < 16; v++) {
            t->part[i][v] = 0;
            for (unsigned bit = 0; bit < 4; bit++)
                if (v & (8 >> bit))
                    t->part[i][v] ^= window(whole, 4 * i + bit);
        }
    }
}

uint32_t net_toeplitz(const NetToeplitz *t, const uint8_t *input, size_t len)
{
    uint32_t hash = 0;

    for (size_t i = 0; i < len && i < NET_HASH_INPUT; i++)
        hash ^= t->part[2 * i][input[i] >> 4] ^ t->part[2 * i + 1][input[i] & 15];
    return hash;
}

/* ---- frames ----------------------------------------------------------------------- */

enum {
    ETH_TYPE_AT = 12,
    TYPE_IPV4 = 0x0800,
    TYPE_VLAN = 0x8100,
    TYPE_IPV6 = 0x86dd,
    IPV4_HEADER = 20,
    IPV6_HEADER = 40,
    MAX_EXTENSIONS = 8,
};

/* What of a frame tells its flow.  A frame may be cut: it is not looked at beyond ports.
 */
typedef struct Flow {
    const uint8_t *from, *to; /* addresses; NULL: it is no IP packet */
    const uint8_t *ports;     /* the sender's, then the receiver's; NULL: it has none */
    bool v4;
    uint8_t proto;
} Flow;

static unsigned be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static void look_ports(Flow *f, const uint8_t *at, size_t len)
{
    if ((f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP) && len >= 4)
        f->ports = at;
}

static void look_ipv4(Flow *f, const uint8_t *ip, size_t len)
{
    size_t header = len >= IPV4_HEADER ? 4u * (ip[0] & 15) : 0;
    bool fragment;

    if (header < IPV4_HEADER || header > len || ip[0] >> 4 != 4)
        return;
    fragment = be16(ip + 6) & 0x3fff;
    f->v4 = true;
    f->from = ip + 12;
    f->to = ip + 16;
    f->proto = ip[9];
    if (!fragment)
        look_ports(f, ip + header, len - header);
}

/* Past the extension headers (RFC 8200, 4); a fragment has no ports. */
static void look_ipv6(Flow *f, const uint8_t *ip, size_t len)
{
    size_t at = IPV6_HEADER;

    if (len < IPV6_HEADER || ip[0] >> 4 != 6)
        return;
    f->from = ip + 8;
    f->to = ip + 24;
    f->proto = ip[6];
    for (unsigned i = 0; i < MAX_EXTENSIONS && len - at >= 8; i++) {
        if (f->proto != IPPROTO_HOPOPTS && f->proto != IPPROTO_ROUTING &&
            f->proto != IPPROTO_DSTOPTS)
            break;
        f->proto = ip[at];
        at += 8u * (ip[at + 1] + 1u);
        if (at > len)
            return;
    }
    look_ports(f, ip + at, len - at);
}

/* One 802.1Q tag is passed over. */
static Flow look(const uint8_t *frame, size_t len)
{
    size_t at = ETH_TYPE_AT;
    Flow f = {0};

    if (len >= at + 6 && be16(frame + at) == TYPE_VLAN)
        at += 4;
    if (len < at + 2)
        return f;
    if (be16(frame + at) == TYPE_IPV4)
        look_ipv4(&f, frame + at + 2, len - at - 2);
    else if (be16(frame + at) == TYPE_IPV6)
        look_ipv6(&f, frame + at + 2, len - at - 2);
    return f;
}

/* 5.1.6.4.3.2, 5.1.6.4.3.3: ports if that type of hash was asked for and the packet has
 * them, else addresses. */
static unsigned type_of(const Flow *f, uint32_t types)
{
    unsigned udp = f->v4 ? NET_HASH_UDPV4 : NET_HASH_UDPV6;
    unsigned tcp = f->v4 ? NET_HASH_TCPV4 : NET_HASH_TCPV6;
    unsigned with_ports = f->proto == IPPROTO_UDP ? udp : tcp;

    if (f->ports && (types & with_ports))
        return with_ports;
    return types & (f->v4 ? NET_HASH_IPV4 : NET_HASH_IPV6);
}

unsigned net_hash_frame(const NetToeplitz *t, uint32_t types, const uint8_t *frame,
                        size_t len, uint32_t *ret_hash)
{
    const unsigned addresses = NET_HASH_IPV4 | NET_HASH_IPV6;
    const Flow f = look(frame, len);
    unsigned type = f.from ? type_of(&f, types) : 0;
    size_t n = f.v4 ? 4 : 16;
    uint8_t input[NET_HASH_INPUT];

    *ret_hash = 0;
    if (!type)
        return 0;
    memcpy(input, f.from, n);
    memcpy(input + n, f.to, n);
    if (!(type & addresses))
        memcpy(input + 2 * n, f.ports, 4);
    *ret_hash = net_toeplitz(t, input, 2 * n + (type & addresses ? 0 : 4));
    return type;
}

/* Sender and receiver count alike.  Nobody is kept from making flows that collide, which
 * steers them to one queue and harms nobody else. */
uint32_t net_flow_of(const uint8_t *frame, size_t len)
{
    const Flow f = look(frame, len);
    uint64_t sum = f.proto;

    if (!f.from)
        return 0;
    for (unsigned i = 0; i < (f.v4 ? 4 : 16); i += 4)
        sum += (uint64_t)load_le32(f.from + i) + load_le32(f.to + i);
    if (f.ports)
        sum += (uint64_t)(be16(f.ports) + be16(f.ports + 2)) << 32;
    return (uint32_t)(sum * 0x9e3779b97f4a7c15ull >> 32) | 1;
}
