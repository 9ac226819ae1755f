/* What of the guest's frames libslirp gets to see.  It is given only the protocols that
 * it needs (ARP, IPv4, IPv6), and what it bounds badly is bounded here: fragments kept
 * for reassembly, and sockets. */
#include <linux/if_ether.h>
#include <netinet/in.h>

#include "src/net/slirp_private.h"
#include "util/bits.h"
#include "util/ioloop.h"

enum {
    /* Reassembly queues hold fragments for 30 s: this much may come in that time. */
    FRAGMENT_BUDGET = 32 << 20,
    FRAGMENT_WINDOW_MS = 30000,
    FRAGMENT_COST = 2048, /* of the smallest one: libslirp's buffer */
};

static bool fragment_fits(SlirpFilter *f, size_t len)
{
    int64_t now_ms = clock_ns() / 1000000;

    if (now_ms - f->window_ms > FRAGMENT_WINDOW_MS) {
        f->window_ms = now_ms;
        f->fragment_bytes = 0;
    }
    f->fragment_bytes += MAX(len, FRAGMENT_COST);
    return f->fragment_bytes <= FRAGMENT_BUDGET;
}

bool slirp_filter_admits(SlirpFilter *filter, const uint8_t *f, size_t len, bool full)
{
    const uint8_t tcp_syn = 2;
    bool fragment = false;
    size_t l4;
    uint8_t proto;

    if (len < ETH_HLEN)
        return false;
    switch (load_be16(f + 12)) {
    case ETH_P_ARP:
        return true;
    case ETH_P_IP:
        if (len < ETH_HLEN + 20)
            return false;
        proto = f[ETH_HLEN + 9];
        l4 = ETH_HLEN + (f[ETH_HLEN] & 15) * 4u;
        fragment = load_be16(f + ETH_HLEN + 6) & 0x3fff; /* "more follow", or an offset */
        break;
    case ETH_P_IPV6:
        if (len < ETH_HLEN + 40)
            return false;
        proto = f[ETH_HLEN + 6];
        l4 = ETH_HLEN + 40;
        break;
    default:
        return false;
    }
    if (fragment && !fragment_fits(filter, len))
        return false;
    if (!full || proto == IPPROTO_ICMPV6)
        return true;
    return proto == IPPROTO_TCP && !fragment && l4 + 14 <= len && !(f[l4 + 13] & tcp_syn);
}

uint16_t slirp_filter_accepts(const uint8_t *f, size_t len)
{
    const uint8_t tcp_syn_ack = 2 | 16;
    size_t l4;

    if (len < ETH_HLEN + 20 || load_be16(f + 12) != ETH_P_IP ||
        f[ETH_HLEN + 9] != IPPROTO_TCP || load_be16(f + ETH_HLEN + 6) & 0x3fff)
        return 0;
    l4 = ETH_HLEN + (f[ETH_HLEN] & 15) * 4u;
    return l4 + 14 <= len && (f[l4 + 13] & tcp_syn_ack) == tcp_syn_ack ? load_be16(f + l4)
                                                                       : 0;
}
