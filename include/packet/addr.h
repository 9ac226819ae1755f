/* Addresses as they are on the wire: of Ethernet stations, and of IP.  IPv4 is kept as an
 * IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2), so that there is one type of address and
 * of prefix.  Any thread; nothing here allocates but what returns a string. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/error.h"

typedef struct Mac {
    uint8_t b[6];
} Mac;

typedef struct Ip {
    uint8_t b[16];
} Ip;

/* The first `bits` of ip; the rest is zero.  IPv4: 96 and what follows the '/'. */
typedef struct IpPrefix {
    Ip ip;
    uint8_t bits;
} IpPrefix;

enum { MAC_TEXT = 18, IP_TEXT = 46, IP_V4_BITS = 96 };

static inline bool mac_equal(const Mac *a, const Mac *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static inline bool mac_is_group(const Mac *m) /* broadcast too */
{
    return m->b[0] & 1;
}

static inline bool mac_is_zero(const Mac *m)
{
    static const Mac zero;

    return mac_equal(m, &zero);
}

static inline bool ip_equal(const Ip *a, const Ip *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* An address that is all zero ("::") is that of nobody, in either family: 0.0.0.0 is
 * ::ffff:0.0.0.0 on the wire, and not equal to it. */
bool ip_is_v4(const Ip *ip);
bool ip_is_unspecified(const Ip *ip); /* 0.0.0.0 or :: */
bool ip_is_multicast(const Ip *ip);   /* 224/4, ff00::/8; and 255.255.255.255 */
bool ip_is_link_local(const Ip *ip);  /* 169.254/16, fe80::/10 */

Ip ip_from_v4(uint32_t v4); /* host byte order */
uint32_t ip_to_v4(const Ip *ip);
Ip ip_from_v4_bytes(const uint8_t b[4]);

/* The address `n` places on; an IPv4 one stays one. */
Ip ip_plus(const Ip *ip, uint32_t n);
Ip ip_link_local_of(const Mac *mac); /* fe80::, EUI-64 (RFC 4291, appendix A) */
Ip ip_in_prefix_of(const IpPrefix *prefix, const Mac *mac); /* likewise, by SLAAC */

/* Of one family: ::/0 holds no IPv4. */
bool ip_within(const Ip *ip, const IpPrefix *prefix);
bool ip_prefixes_overlap(const IpPrefix *a, const IpPrefix *b);
Ip ip_prefix_last(const IpPrefix *prefix); /* IPv4: its broadcast address */

/* "10.5.0.7", "2001:db8::1"; with a '/' for prefixes, whose host bits must be zero.  A
 * prefix without '/' is one address.  "::ffff:10.5.0.7" is refused: one address, one
 * text. */
bool ip_parse(const char *text, Ip *ret, GError **error);
bool ip_prefix_parse(const char *text, IpPrefix *ret, GError **error);
bool mac_parse(const char *text, Mac *ret, GError **error);

/* Into the caller's buffer, which is returned. */
const char *ip_text(const Ip *ip, char text[IP_TEXT]);
const char *ip_prefix_text(const IpPrefix *prefix, char text[IP_TEXT + 4]);
const char *mac_text(const Mac *mac, char text[MAC_TEXT]);
