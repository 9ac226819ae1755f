/* Addresses: to and from text, and who is within what.  See packet/addr.h. */
#include "packet/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

bool ip_is_v4(const Ip *ip)
{
    return memcmp(ip->b, mapped, sizeof(mapped)) == 0;
}

bool ip_is_unspecified(const Ip *ip)
{
    static const Ip zero;

    return ip_equal(ip, &zero) || (ip_is_v4(ip) && ip_to_v4(ip) == 0);
}

bool ip_is_multicast(const Ip *ip)
{
    if (!ip_is_v4(ip))
        return ip->b[0] == 0xff;
    return (ip->b[12] & 0xf0) == 0xe0 || ip_to_v4(ip) == UINT32_MAX;
}

bool ip_is_link_local(const Ip *ip)
{
    if (!ip_is_v4(ip))
        return ip->b[0] == 0xfe && (ip->b[1] & 0xc0) == 0x80;
    return ip->b[12] == 169 && ip->b[13] == 254;
}

Ip ip_from_v4_bytes(const uint8_t b[4])
{
    Ip ip;

    memcpy(ip.b, mapped, sizeof(mapped));
    memcpy(ip.b + 12, b, 4);
    return ip;
}

Ip ip_from_v4(uint32_t v4)
{
    uint32_t be = htonl(v4);
    uint8_t b[4];

    memcpy(b, &be, sizeof(b));
    return ip_from_v4_bytes(b);
}

uint32_t ip_to_v4(const Ip *ip)
{
    uint32_t be;

    memcpy(&be, ip->b + 12, sizeof(be));
    return ntohl(be);
}

Ip ip_plus(const Ip *ip, uint32_t n)
{
    Ip sum = *ip;
    uint64_t carry = n;

    if (ip_is_v4(ip))
        return ip_from_v4(ip_to_v4(ip) + n);
    for (int i = 15; i >= 0 && carry; i--) {
        carry += sum.b[i];
        sum.b[i] = (uint8_t)carry;
        carry >>= 8;
    }
    return sum;
}

Ip ip_in_prefix_of(const IpPrefix *prefix, const Mac *mac)
{
    Ip ip = prefix->ip;

    memcpy(ip.b + 8, mac->b, 3);
    ip.b[8] ^= 2; /* the universal/local bit */
    ip.b[11] = 0xff;
    ip.b[12] = 0xfe;
    memcpy(ip.b + 13, mac->b + 3, 3);
    return ip;
}

Ip ip_link_local_of(const Mac *mac)
{
    static const IpPrefix link_local = {.ip.b = {0xfe, 0x80}, .bits = 64};

    return ip_in_prefix_of(&link_local, mac);
}

/* Whether the first bits are the same. */
static bool begin_alike(const Ip *a, const Ip *b, unsigned bits)
{
    unsigned bytes = bits / 8, rest = bits % 8;

    return memcmp(a->b, b->b, bytes) == 0 &&
           (!rest || (a->b[bytes] ^ b->b[bytes]) >> (8 - rest) == 0);
}

/* ::/0 is all of IPv6, and nothing of IPv4. */
bool ip_within(const Ip *ip, const IpPrefix *prefix)
{
    return ip_is_v4(ip) == ip_is_v4(&prefix->ip) &&
           begin_alike(ip, &prefix->ip, prefix->bits);
}

bool ip_prefixes_overlap(const IpPrefix *a, const IpPrefix *b)
{
    return ip_is_v4(&a->ip) == ip_is_v4(&b->ip) &&
           begin_alike(&a->ip, &b->ip, MIN(a->bits, b->bits));
}

/* The bits after the prefix, all zero or all one. */
static Ip with_host_bits(const IpPrefix *prefix, bool ones)
{
    Ip ip = prefix->ip;

    for (unsigned i = prefix->bits; i < 128; i++) {
        uint8_t bit = (uint8_t)(0x80 >> i % 8);

        ip.b[i / 8] = ones ? ip.b[i / 8] | bit : ip.b[i / 8] & ~bit;
    }
    return ip;
}

Ip ip_prefix_last(const IpPrefix *prefix)
{
    return with_host_bits(prefix, true);
}

bool ip_parse(const char *text, Ip *ret, GError **error)
{
    uint8_t v4[4];
    Ip ip;

    if (inet_pton(AF_INET, text, v4) == 1) {
        *ret = ip_from_v4_bytes(v4);
        return true;
    }
    if (inet_pton(AF_INET6, text, ip.b) != 1)
        return fail(error, VM_ERROR_INVALID,
                    "'%.64s' is no address; \"10.5.0.7\" and \"2001:db8::1\" are", text);
    if (ip_is_v4(&ip)) {
        char right[IP_TEXT];

        return fail(error, VM_ERROR_INVALID,
                    "'%.64s' is an IPv4 address written as an IPv6 one; write %s", text,
                    ip_text(&ip, right));
    }
    *ret = ip;
    return true;
}

bool ip_prefix_parse(const char *text, IpPrefix *ret, GError **error)
{
    const char *slash = strchr(text, '/');
    g_autofree char *address = slash ? g_strndup(text, (size_t)(slash - text)) : NULL;
    IpPrefix prefix = {.bits = 128};
    char right[IP_TEXT + 4];

    if (!ip_parse(address ? address : text, &prefix.ip, error))
        return false;
    if (slash) {
        unsigned base = ip_is_v4(&prefix.ip) ? IP_V4_BITS : 0;
        unsigned digits = (unsigned)strspn(slash + 1, "0123456789");
        unsigned long bits = strtoul(slash + 1, NULL, 10);

        if (!digits || digits > 3 || slash[1 + digits] || bits > 128 - base)
            return fail(error, VM_ERROR_INVALID,
                        "'%.64s' needs a number of bits from 0 to %u after its '/'", text,
                        128 - base);
        prefix.bits = (uint8_t)(base + bits);
    }
    IpPrefix clean = {with_host_bits(&prefix, false), prefix.bits};
    if (!ip_equal(&clean.ip, &prefix.ip))
        return fail(error, VM_ERROR_INVALID,
                    "'%.64s' has bits set after its prefix; the network is %s", text,
                    ip_prefix_text(&clean, right));
    *ret = prefix;
    return true;
}

bool mac_parse(const char *text, Mac *ret, GError **error)
{
    Mac mac;

    for (unsigned i = 0; i < 6; i++) {
        const char *at = text + 3 * i;

        if (!g_ascii_isxdigit(at[0]) || !g_ascii_isxdigit(at[1]) ||
            at[2] != (i < 5 ? ':' : '\0'))
            return fail(error, VM_ERROR_INVALID,
                        "'%.64s' is no MAC address; \"02:00:00:00:00:01\" is one", text);
        mac.b[i] = (uint8_t)(g_ascii_xdigit_value(at[0]) << 4 |
                             g_ascii_xdigit_value(at[1]));
    }
    *ret = mac;
    return true;
}

const char *ip_text(const Ip *ip, char text[IP_TEXT])
{
    if (ip_is_v4(ip))
        return inet_ntop(AF_INET, ip->b + 12, text, IP_TEXT);
    return inet_ntop(AF_INET6, ip->b, text, IP_TEXT);
}

const char *ip_prefix_text(const IpPrefix *prefix, char text[IP_TEXT + 4])
{
    unsigned base = ip_is_v4(&prefix->ip) ? IP_V4_BITS : 0;

    ip_text(&prefix->ip, text);
    if (prefix->bits < 128) {
        size_t len = strlen(text);

        g_snprintf(text + len, IP_TEXT + 4 - len, "/%u", prefix->bits - base);
    }
    return text;
}

const char *mac_text(const Mac *mac, char text[MAC_TEXT])
{
    g_snprintf(text, MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac->b[0], mac->b[1],
               mac->b[2], mac->b[3], mac->b[4], mac->b[5]);
    return text;
}
