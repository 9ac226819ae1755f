/* Frames: what they say, and what is malformed. */
#include "frame.h"

static void tcp_udp_and_echo_are_read_in_both_families(void)
{
    static const char *const from[] = {"10.0.0.1", "fd00::1"},
                             *to[] = {"10.0.0.2", "fd00::2"};
    TestFrame f = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        Ip a = frame_addr(from[v6]), b = frame_addr(to[v6]);
        unsigned head = ETH_HEADER + (v6 ? 40 : 20);
        const Packet *p;

        frame_ip(&f, from[v6], to[v6], IPPROTO_TCP);
        frame_tcp(&f, 1024, 80, PACKET_TCP_SYN);
        frame_room(&f, 5);
        p = frame_parse(&f);
        g_assert_cmpint(p->kind, ==, v6 ? PACKET_IPV6 : PACKET_IPV4);
        g_assert_true(ip_equal(&p->from, &a) && ip_equal(&p->to, &b));
        g_assert_cmpuint(p->transport, ==, head);
        g_assert_cmpuint(p->payload, ==, head + 20);
        g_assert_cmpuint(p->end, ==, head + 25);
        g_assert_cmpuint(p->from_port, ==, 1024);
        g_assert_cmpuint(p->to_port, ==, 80);
        g_assert_cmpuint(p->tcp_flags, ==, PACKET_TCP_SYN);
        g_assert_cmpuint(p->tcp_seq, ==, 1000);
        g_assert_cmpuint(p->tcp_ack, ==, 2000);
        g_assert_cmpuint(p->ttl, ==, 64);
        g_assert_true(p->first && !p->fragment && !p->malformed);

        frame_ip(&f, from[v6], to[v6], IPPROTO_UDP);
        frame_udp(&f, 53, 5353);
        frame_room(&f, 3);
        p = frame_parse(&f);
        g_assert_cmpuint(p->from_port, ==, 53);
        g_assert_cmpuint(p->to_port, ==, 5353);
        g_assert_cmpuint(p->payload, ==, head + 8);

        frame_ip(&f, from[v6], to[v6], v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
        frame_icmp(&f, v6 ? 128 : 8, 0, 77);
        p = frame_parse(&f);
        g_assert_cmpuint(p->icmp_type, ==, v6 ? 128 : 8);
        g_assert_cmpuint(p->icmp_id, ==, 77);

        frame_ip(&f, from[v6], to[v6], 47);
        p = frame_parse(&f);
        g_assert_cmpuint(p->proto, ==, 47);
        g_assert_cmpuint(p->transport, ==, head);
        g_assert_cmpuint(p->from_port, ==, 0);
    }
}

static void arp_is_read(void)
{
    static const uint8_t head[8] = {0, 1, 8, 0, 6, 4, 0, 2};
    TestFrame f = {0};
    Ip a = frame_addr("10.0.0.1"), b = frame_addr("10.0.0.2");

    frame_eth(&f, ETHER_ARP);
    uint8_t *arp = frame_room(&f, 28);
    memcpy(arp, head, 8);
    memset(arp + 8, 0x22, 6);
    memcpy(arp + 14, a.b + 12, 4);
    memset(arp + 18, 0x44, 6);
    memcpy(arp + 24, b.b + 12, 4);
    frame_room(&f, 18); /* padding */
    const Packet *p = frame_parse(&f);
    g_assert_cmpint(p->kind, ==, PACKET_ARP);
    g_assert_cmpuint(p->arp_op, ==, 2);
    g_assert_true(ip_equal(&p->from, &a) && ip_equal(&p->to, &b));
    g_assert_cmpuint(p->arp_from.b[5], ==, 0x22);
    g_assert_cmpuint(p->arp_to.b[5], ==, 0x44);

    for (unsigned i = 0; i < 6; i++) { /* other hardware, protocols, lengths */
        arp[i] ^= 1;
        g_assert_true(frame_parse(&f)->malformed);
        arp[i] ^= 1;
    }
    f.len = ETH_HEADER + 27;
    g_assert_true(frame_parse(&f)->malformed);
}

/* Whatever is cut off: never more is said than there is, and nothing is read beyond (the
 * copy is of the exact size, for AddressSanitizer). */
static void a_frame_that_is_cut_off_is_malformed(void)
{
    static const char *const from[] = {"10.0.0.1", "fd00::1"};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        TestFrame f = {0};

        frame_ip(&f, from[v6], from[v6], IPPROTO_TCP);
        frame_tcp(&f, 1, 2, 0);
        for (size_t len = 0; len < f.len; len++) {
            g_autofree uint8_t *cut = g_memdup2(f.b, len);
            Packet p;

            if (!packet_parse(cut, len, &p)) {
                g_assert_cmpuint(len, <, ETH_HEADER);
                continue;
            }
            g_assert_true(p.malformed && p.kind == PACKET_OTHER && !p.transport);
        }
    }
}

static void a_transport_header_that_is_not_whole_is_not_there(void)
{
    TestFrame f = {0};

    for (unsigned have = 0; have < 20; have++) {
        frame_ip(&f, "10.0.0.1", "10.0.0.2", IPPROTO_TCP);
        memset(frame_room(&f, have), 0x55, have);
        g_assert_true(!frame_parse(&f)->transport && !f.p.malformed && !f.p.to_port);
    }
    frame_ip(&f, "10.0.0.1", "10.0.0.2", IPPROTO_TCP);
    frame_tcp(&f, 1, 2, 0);
    f.b[f.len - 8] = 4 << 4; /* less than a header */
    g_assert_false(frame_parse(&f)->transport);
    f.b[f.len - 8] = 6 << 4; /* options beyond the end */
    g_assert_false(frame_parse(&f)->transport);
    frame_ip(&f, "fd00::1", "fd00::2", IPPROTO_UDP);
    frame_udp(&f, 1, 2);
    put16(f.b + f.udp + 4, 9);
    g_assert_false(frame_parse(&f)->transport);
    put16(f.b + f.udp + 4, 7);
    g_assert_false(frame_parse(&f)->transport);
    frame_ip(&f, "fd00::1", "fd00::2", IPPROTO_ICMPV6);
    frame_room(&f, 7);
    g_assert_false(frame_parse(&f)->transport);
}

static void lengths_and_versions_must_agree(void)
{
    TestFrame f = {0};

    frame_ip(&f, "10.0.0.1", "10.0.0.2", IPPROTO_UDP);
    frame_udp(&f, 1, 2);
    f.b[f.ip] = 0x65;
    g_assert_true(frame_parse(&f)->malformed);
    f.b[f.ip] = 0x44; /* a header of 16 bytes */
    g_assert_true(frame_parse(&f)->malformed);
    f.b[f.ip] = 0x4f; /* longer than the packet */
    g_assert_true(frame_parse(&f)->malformed);
    f.b[f.ip] = 0x45;
    put16(f.b + f.ip + 2, 19);
    g_assert_true(frame_parse(&f)->malformed);
    put16(f.b + f.ip + 2, 29);
    g_assert_true(frame_parse(&f)->malformed);
    put16(f.b + f.ip + 2, 28);
    frame_room(&f, 0);
    f.len += 18; /* padding is fine, and not part of it */
    g_assert_cmpuint(frame_parse(&f)->end, ==, f.len - 18);

    frame_ip(&f, "fd00::1", "fd00::2", IPPROTO_UDP);
    frame_udp(&f, 1, 2);
    f.b[f.ip] = 0x45;
    g_assert_true(frame_parse(&f)->malformed);
    f.b[f.ip] = 0x60;
    put16(f.b + f.ip + 4, 9);
    g_assert_true(frame_parse(&f)->malformed);
}

static void an_ipv4_address_in_ipv6_is_malformed(void)
{
    Ip v4 = frame_addr("10.0.0.1");
    TestFrame f = {0};

    for (unsigned which = 0; which < 2; which++) {
        frame_ip(&f, "fd00::1", "fd00::2", IPPROTO_UDP);
        frame_udp(&f, 1, 2);
        memcpy(f.b + f.ip + 8 + 16 * which, v4.b, 16);
        g_assert_true(frame_parse(&f)->malformed);
    }
}

static void fragments_are_told_from_whole_packets(void)
{
    static const char *const from[] = {"10.0.0.1", "fd00::1"};
    TestFrame f = {0};

    for (unsigned v6 = 0; v6 < 2; v6++) {
        unsigned proto = v6 ? 44 : IPPROTO_UDP;

        frame_ip(&f, from[v6], from[v6], proto);
        frame_fragment(&f, 7, 0, true, IPPROTO_UDP);
        frame_udp(&f, 1, 2);
        frame_room(&f, 16);
        put16(f.b + f.udp + 4, 1000); /* the whole packet's */
        const Packet *p = frame_parse(&f);
        g_assert_true(p->fragment && p->first && p->more && p->transport);
        g_assert_cmpuint(p->to_port, ==, 2);
        g_assert_cmpuint(p->id, ==, 7);

        frame_ip(&f, from[v6], from[v6], proto);
        frame_fragment(&f, 7, 24, false, IPPROTO_UDP);
        memset(frame_room(&f, 11), 0x55, 11);
        p = frame_parse(&f);
        g_assert_true(p->fragment && !p->first && !p->more && !p->transport);
        g_assert_cmpuint(p->offset, ==, 24);
        g_assert_cmpuint(p->proto, ==, IPPROTO_UDP);
        g_assert_cmpuint(p->to_port, ==, 0);

        frame_ip(&f, from[v6], from[v6], proto);
        frame_fragment(&f, 7, 24, true, IPPROTO_UDP);
        frame_room(&f, 11); /* not a multiple of eight */
        g_assert_true(frame_parse(&f)->malformed);

        frame_ip(&f, from[v6], from[v6], proto);
        frame_fragment(&f, 7, 65528, false, IPPROTO_UDP);
        frame_room(&f, 8); /* beyond 65,535 */
        g_assert_true(frame_parse(&f)->malformed);

        frame_ip(&f, from[v6], from[v6], proto);
        frame_fragment(&f, 7, 0, true, IPPROTO_UDP);
        g_assert_true(frame_parse(&f)->malformed); /* of nothing */

        frame_ip(&f, from[v6], from[v6], proto); /* an atomic one is whole: RFC 6946 */
        frame_fragment(&f, 7, 0, false, IPPROTO_UDP);
        frame_udp(&f, 1, 2);
        g_assert_true(!frame_parse(&f)->fragment && f.p.first && f.p.transport);
    }
}

static uint8_t *extension(TestFrame *f, unsigned next, unsigned bytes)
{
    uint8_t *h = frame_room(f, bytes);

    h[0] = (uint8_t)next;
    h[1] = (uint8_t)(bytes / 8 - 1);
    return h;
}

static void extension_headers_are_gone_past(void)
{
    TestFrame f = {0};

    frame_ip(&f, "fd00::1", "fd00::2", 0);
    extension(&f, 60, 8);
    extension(&f, 43, 16);
    extension(&f, 51, 24)[2] = 2;          /* a routing header of another type than 0 */
    extension(&f, IPPROTO_TCP, 24)[1] = 4; /* in units of four, less two */
    frame_tcp(&f, 1, 80, PACKET_TCP_SYN);
    const Packet *p = frame_parse(&f);
    g_assert_cmpuint(p->proto, ==, IPPROTO_TCP);
    g_assert_cmpuint(p->to_port, ==, 80);
    g_assert_cmpuint(p->transport, ==, f.len - 20);
}

static void extension_headers_that_hide_something_are_malformed(void)
{
    TestFrame f = {0};

    frame_ip(&f, "fd00::1", "fd00::2", 60); /* hop-by-hop options not first */
    extension(&f, 0, 8);
    extension(&f, IPPROTO_TCP, 8);
    frame_tcp(&f, 1, 80, 0);
    g_assert_true(frame_parse(&f)->malformed);

    frame_ip(&f, "fd00::1", "fd00::2", 43); /* routing, type 0 */
    extension(&f, IPPROTO_TCP, 24);
    frame_tcp(&f, 1, 80, 0);
    g_assert_true(frame_parse(&f)->malformed);

    frame_ip(&f, "fd00::1", "fd00::2", 60); /* longer than the packet */
    extension(&f, IPPROTO_TCP, 8)[1] = 3;
    frame_room(&f, 16);
    g_assert_true(frame_parse(&f)->malformed);

    frame_ip(&f, "fd00::1", "fd00::2", 60); /* a chain without end */
    for (unsigned i = 0; i < 12; i++)
        extension(&f, 60, 8);
    g_assert_true(frame_parse(&f)->malformed);

    frame_ip(&f, "fd00::1", "fd00::2", 44); /* a fragment in a fragment */
    frame_fragment(&f, 1, 0, true, 44);
    frame_fragment(&f, 2, 0, true, IPPROTO_UDP);
    frame_udp(&f, 1, 2);
    g_assert_true(frame_parse(&f)->malformed);

    frame_ip(&f, "fd00::1", "fd00::2", 44); /* the chain goes on in the next one */
    frame_fragment(&f, 1, 0, true, 60);
    extension(&f, IPPROTO_TCP, 8)[1] = 1;
    g_assert_true(frame_parse(&f)->malformed);
}

static void a_tag_and_other_types_are_other(void)
{
    TestFrame f = {0};

    frame_eth(&f, ETHER_VLAN);
    frame_room(&f, 50);
    g_assert_true(frame_parse(&f)->kind == PACKET_OTHER && !f.p.malformed);
    g_assert_cmpuint(f.p.ether_type, ==, ETHER_VLAN);
    g_assert_cmpuint(f.p.src.b[5], ==, 1);
    g_assert_cmpuint(f.p.dst.b[5], ==, 2);
}

static void an_icmp_error_tells_whom_it_is_about(void)
{
    static const char *const us[] = {"10.0.0.1", "fd00::1"},
                             *them[] = {"10.0.0.2", "fd00::2"};
    static const struct {
        unsigned v4, v6;
        bool error;
    } types[] = {{3, 1, true}, {11, 3, true},   {12, 4, true},
                 {4, 2, true}, {5, 137, false}, {8, 128, false}};
    TestFrame f = {0}, inner = {0};
    Packet q;

    for (unsigned v6 = 0; v6 < 2; v6++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
            unsigned head = v6 ? 40 : 20;

            frame_ip(&inner, us[v6], them[v6], IPPROTO_UDP);
            frame_udp(&inner, 1024, 53);
            frame_room(&inner, 100);
            frame_ip(&f, them[v6], us[v6], v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
            frame_icmp(&f, v6 ? types[i].v6 : types[i].v4, 0, 0);
            frame_quote(&f, &inner, head + 8);
            frame_parse(&f);
            g_assert_cmpint(packet_parse_quoted(&f.p, f.b, f.len, &q), ==,
                            types[i].error);
            if (!types[i].error)
                continue;
            g_assert_true(ip_equal(&q.from, &f.p.to) && ip_equal(&q.to, &f.p.from));
            g_assert_cmpuint(q.proto, ==, IPPROTO_UDP);
            g_assert_cmpuint(q.from_port, ==, 1024);
            g_assert_cmpuint(q.to_port, ==, 53);

            for (unsigned less = 0; less < head + 8; less++) {
                frame_ip(&f, them[v6], us[v6], v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
                frame_icmp(&f, v6 ? types[i].v6 : types[i].v4, 0, 0);
                frame_quote(&f, &inner, less);
                frame_parse(&f);
                g_autofree uint8_t *exact = g_memdup2(f.b, f.len);
                g_assert_false(packet_parse_quoted(&f.p, exact, f.len, &q));
            }
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/packet/" #name, name)
    ADD(tcp_udp_and_echo_are_read_in_both_families);
    ADD(arp_is_read);
    ADD(a_frame_that_is_cut_off_is_malformed);
    ADD(a_transport_header_that_is_not_whole_is_not_there);
    ADD(lengths_and_versions_must_agree);
    ADD(an_ipv4_address_in_ipv6_is_malformed);
    ADD(fragments_are_told_from_whole_packets);
    ADD(extension_headers_are_gone_past);
    ADD(extension_headers_that_hide_something_are_malformed);
    ADD(a_tag_and_other_types_are_other);
    ADD(an_icmp_error_tells_whom_it_is_about);
    return g_test_run();
}
