/* Ethernet frames with ARP, IPv4, ICMP, UDP and DHCP in them.  Offsets are in a frame,
 * header of virtio not counted. */
#ifndef PAYLOAD_FRAME_H
#define PAYLOAD_FRAME_H

#include "payload.h"

#define NET_HEADER 12 /* struct virtio_net_hdr with num_buffers */

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP  0x0806
#define PROTOCOL_ICMP  1
#define PROTOCOL_TCP   6
#define PROTOCOL_UDP   17
#define DHCP_MAGIC     0x63825363

enum {
    ETH_TYPE = 12,
    ETH_END = 14,
    ARP_OPCODE = 20,
    ARP_SENDER = 22,
    ARP_SENDER_IP = 28,
    ARP_TARGET = 32,
    ARP_TARGET_IP = 38,
    ARP_END = 42,
    IP_LENGTH = 16,
    IP_PROTOCOL = 23,
    IP_CHECKSUM = 24,
    IP_SOURCE = 26,
    IP_TARGET = 30,
    IP_END = 34,
    UDP_END = 42,
    TCP_END = 54,
    DHCP_YOURS = 58,
    DHCP_CLIENT = 70,
    DHCP_COOKIE = 278,
    DHCP_OPTIONS = 282
};

static inline void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

static inline unsigned get16(const uint8_t *at)
{
    return (unsigned)(at[0] << 8 | at[1]);
}

static inline uint32_t get32(const uint8_t *at)
{
    return get16(at) << 16 | get16(at + 2);
}

/* A dotted quad; *end is what follows it. */
uint32_t parse_address(const char *s, const char **end);
uint32_t arg_address(const char *name, const char *otherwise);
void print_address(const char *before, uint32_t a);

uint16_t frame_checksum(const uint8_t *at, unsigned n);

/* Of an IPv4 packet without options, with its checksum. */
void frame_ipv4(uint8_t *f, unsigned payload, unsigned protocol, uint32_t source,
                uint32_t target);
void frame_arp(uint8_t *f, unsigned opcode, const uint8_t mac[6], uint32_t me,
               uint32_t other);

#endif
