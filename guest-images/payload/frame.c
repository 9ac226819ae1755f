/* See frame.h. */
#include "frame.h"

uint32_t parse_address(const char *s, const char **end)
{
    uint32_t address = 0;

    for (unsigned i = 0; i < 4; i++) {
        address = address << 8 | (uint32_t)parse_number(s, &s);
        s += *s == '.';
    }
    *end = s;
    return address;
}

uint32_t arg_address(const char *name, const char *otherwise)
{
    const char *end;

    return parse_address(arg_text(name, otherwise), &end);
}

void print_address(const char *before, uint32_t a)
{
    print("%s%u.%u.%u.%u", before, a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255);
}

uint16_t frame_checksum(const uint8_t *at, unsigned n)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < n; i += 2)
        sum += i + 1 < n ? get16(at + i) : (unsigned)at[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

void frame_ipv4(uint8_t *f, unsigned payload, unsigned protocol, uint32_t source,
                uint32_t target)
{
    f[ETH_END] = 0x45;
    put16(f + IP_LENGTH, 20 + payload);
    f[ETH_END + 8] = 64;
    f[IP_PROTOCOL] = (uint8_t)protocol;
    put32(f + IP_SOURCE, source);
    put32(f + IP_TARGET, target);
    put16(f + IP_CHECKSUM, 0);
    put16(f + IP_CHECKSUM, frame_checksum(f + ETH_END, 20));
}

void frame_arp(uint8_t *f, unsigned opcode, const uint8_t mac[6], uint32_t me,
               uint32_t other)
{
    put16(f + ETH_END, 1);
    put16(f + ETH_END + 2, ETHERTYPE_IPV4);
    put16(f + ETH_END + 4, 0x0604);
    put16(f + ARP_OPCODE, opcode);
    memcpy(f + ARP_SENDER, mac, 6);
    put32(f + ARP_SENDER_IP, me);
    put32(f + ARP_TARGET_IP, other);
}
