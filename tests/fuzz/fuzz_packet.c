/* Any bytes as a frame: what packet_parse() says of it lies within it and agrees with
 * itself, and so does what an ICMP error quotes.  The frame is in memory of its exact
 * size. */
#include <stdlib.h>
#include <string.h>

#include "packet/packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
    if (!promise)
        abort();
}

static bool is_ip(const Packet *p)
{
    return p->kind == PACKET_IPV4 || p->kind == PACKET_IPV6;
}

static void check_addresses(const Packet *p)
{
    bool v4 = p->kind == PACKET_IPV4 || p->kind == PACKET_ARP;

    check(ip_is_v4(&p->from) == v4 && ip_is_v4(&p->to) == v4);
}

static void check_packet(const Packet *p, size_t len)
{
    check(!p->malformed || p->kind == PACKET_OTHER);
    if (p->kind == PACKET_OTHER) {
        check(!p->net && !p->end && !p->transport && !p->payload && !p->proto);
        return;
    }
    check(!p->malformed && p->net == ETH_HEADER && p->end > p->net && p->end <= len);
    check_addresses(p);
    check(p->from_port == 0 || p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP);
    if (!is_ip(p))
        return;
    check(p->fragment == (p->offset || p->more));
    check(p->first == (p->offset == 0));
    check(p->offset + p->bytes <= 65535 && p->bytes <= p->end - p->net);
    if (!p->transport) {
        check(!p->payload && !p->from_port && !p->to_port && !p->tcp_flags);
        return;
    }
    check(p->first);
    check(p->transport > p->net && p->transport <= p->payload && p->payload <= p->end);
    check(p->proto != IPPROTO_TCP || p->payload - p->transport >= 20);
    check(p->proto != IPPROTO_UDP || p->payload - p->transport == 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *frame = malloc(size ? size : 1);
    Packet p, again, quoted;

    if (size)
        memcpy(frame, data, size);
    if (packet_parse(frame, size, &p)) {
        check(size >= ETH_HEADER);
        check_packet(&p, size);
        check(packet_parse(frame, size, &again) && memcmp(&p, &again, sizeof(p)) == 0);
        if (packet_parse_quoted(&p, frame, size, &quoted)) {
            check(is_ip(&p) && quoted.kind == p.kind && p.transport);
            check_addresses(&quoted);
        }
    } else {
        check(size < ETH_HEADER);
    }
    free(frame);
    return 0;
}
