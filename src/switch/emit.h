/* Frames that the gateway makes: whole ones, and ICMP's errors about others' packets. The
 * switch's thread. */
#pragma once

#include "packet/build.h"
#include "src/switch/gateway.h"

/* Ends a frame that was built, and sends it into a VLAN, to whom its destination says. */
void emit(Switch *sw, Builder *b, uint16_t vlan);

/* What became of a packet (RFC 792, RFC 4443), in words for both families. */
typedef enum {
    REFUSED_NO_ROUTE,   /* nothing leads there */
    REFUSED_PROHIBITED, /* something does, and may not be used */
    REFUSED_PORT,       /* nobody listens there */
    REFUSED_TOO_BIG,    /* `mtu` is what fits */
    REFUSED_TTL,        /* it was on its way for too long */
} Refusal;

/* Whether one may be sent.  Who gets them has a bucket, zero at first: REFUSALS_PER_S,
 * and as many at once, so that nobody has others' share. */
enum { REFUSALS_PER_S = 200 };
bool refusal_may(int64_t *bucket_ns, int64_t now_ns);

/* An ICMP error from `from` to the sender of a packet, as an IP packet in an Ethernet
 * frame without addresses.  False: none is due: about errors, fragments but the first,
 * group addresses (RFC 1122, 3.2.2; RFC 4443, 2.4). */
bool build_refusal(Builder *b, const Frame *f, const Ip *from, Refusal why, unsigned mtu);

/* The answer to a TCP packet for which there is no connection (RFC 9293, 3.10.7.1), with
 * its addresses turned round.  False: none is due: to a RST, to what is not whole, or not
 * what was sent. */
bool build_reset(Builder *b, const Frame *f);
