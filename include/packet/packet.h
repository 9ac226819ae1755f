/* What an Ethernet frame says, looked at once.  packet_parse() reads a frame that nobody
 * else can write, checks every length, and notes where things are; nobody parses a frame
 * a second time.  RFCs 791, 8200, 826, 9293, 768, 792, 4443; IEEE 802.3 and 802.1Q.
 *
 * Any thread; nothing allocates. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "packet/addr.h"

enum {
    ETH_HEADER = 14,
    ETH_MIN_FRAME = ETH_HEADER,
    ETH_TAG = 4, /* 802.1Q */
    PACKET_MAX = 65550,
    ETHER_IPV4 = 0x0800,
    ETHER_ARP = 0x0806,
    ETHER_VLAN = 0x8100,
    ETHER_IPV6 = 0x86dd,
};

typedef enum { PACKET_OTHER, PACKET_ARP, PACKET_IPV4, PACKET_IPV6 } PacketKind;

/* Offsets count from the frame's first byte.  Numbers are in host byte order. */
typedef struct Packet {
    Mac dst, src;
    uint16_t ether_type;
    PacketKind kind;
    bool malformed;  /* ARP or IP by its type, and not by its bytes; kind is OTHER */
    uint32_t net;    /* where the ARP or IP header is */
    uint32_t end;    /* where the IP packet ends; padding may follow */
    Ip from, to;     /* IP; ARP: sender's and target's protocol addresses */
    uint8_t proto;   /* IPPROTO_*: after IPv6's extension headers */
    uint8_t ttl;     /* hop limit */
    bool fragment;   /* one of several */
    bool first;      /* the one with the transport header, or not a fragment */
    uint32_t id;     /* of the fragments of one packet */
    uint32_t offset; /* of its bytes in that packet */
    uint32_t bytes;  /* how many of those are here */
    bool more;       /* fragments follow */

    uint32_t transport; /* where its header is; 0: not here, or not whole */
    uint32_t payload;   /* where what it carries begins; valid with `transport` */
    uint16_t from_port, to_port; /* TCP, UDP; else 0 */
    uint8_t tcp_flags;           /* PACKET_TCP_* */
    uint32_t tcp_seq, tcp_ack;
    uint8_t icmp_type, icmp_code; /* ICMP, ICMPv6 */
    uint16_t icmp_id;             /* of echo requests and replies */

    uint16_t arp_op; /* 1: request, 2: reply */
    Mac arp_from, arp_to;
} Packet;

enum {
    PACKET_TCP_FIN = 1,
    PACKET_TCP_SYN = 2,
    PACKET_TCP_RST = 4,
    PACKET_TCP_PSH = 8,
    PACKET_TCP_ACK = 16,
};

/* `frame` has no 802.1Q tag (one is an OTHER).  False: it is shorter than an Ethernet
 * header, and *ret is not to be used. */
bool packet_parse(const uint8_t *frame, size_t len, Packet *ret);

/* The packet that an ICMP error quotes, as far as it is there: false: it is no error, or
 * too little is quoted.  A redirect is none.  Only kind, from, to, proto, ports,
 * icmp_type, icmp_code and icmp_id are set. */
bool packet_parse_quoted(const Packet *p, const uint8_t *frame, size_t len, Packet *ret);

/* Whether the checksum of a TCP segment that is here as a whole is right: RFC 9293, 3.1;
 * RFC 8200, 8.1. */
bool packet_tcp_sum_ok(const Packet *p, const uint8_t *frame);
