/* Frames that we make ourselves: replies of a network's own services.  A Builder is a
 * buffer of one frame, headers put before what they carry is complete, lengths and
 * checksums filled in at the end.  Any thread; nothing allocates. */
#pragma once

#include "packet/packet.h"

enum { BUILD_MAX = 1514 + ETH_TAG };

typedef struct Builder {
    size_t len;
    bool full; /* something did not fit: the frame is not to be sent */
    uint32_t net, transport;
    uint8_t data[BUILD_MAX];
} Builder;

void build_eth(Builder *b, const Mac *dst, const Mac *src, uint16_t ether_type);
/* IPv4 or IPv6 by the family of `from`, with its Ethernet type; ttl 0: 64. */
void build_ip(Builder *b, const Mac *dst, const Mac *src, const Ip *from, const Ip *to,
              uint8_t proto, uint8_t ttl);
void build_udp(Builder *b, uint16_t from_port, uint16_t to_port);
/* Without payload; mss 0: without that option. */
void build_tcp(Builder *b, uint16_t from_port, uint16_t to_port, uint32_t seq,
               uint32_t ack, uint8_t flags, uint16_t window, uint16_t mss);
void build_bytes(Builder *b, const void *bytes, size_t len);
void build_u8(Builder *b, uint8_t v);
void build_u16(Builder *b, uint16_t v); /* big-endian, as networks have it */
void build_u32(Builder *b, uint32_t v);
void *build_room(Builder *b, size_t len); /* zeroed; NULL if it does not fit */

/* IP and UDP lengths and checksums; of TCP, ICMP and ICMPv6 too.  False: it did not fit.
 */
bool build_end(Builder *b);
