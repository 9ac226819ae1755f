/* Frames that we make, byte for byte; the expected ones were put together by hand, from
 * the RFCs' own pictures. */
#include "packet/build.h"

#include <glib.h>

static const Mac dst = {{2, 0, 0, 0, 0, 1}}, src = {{2, 0, 0, 0, 0, 2}};
static const Ip link_local = {{0xfe, 0x80, [15] = 1}}, all_nodes = {{0xff, 2, [15] = 1}};
#define V4_FROM                                                                          \
    {                                                                                    \
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 5, 0, 1                            \
    }
#define V4_TO                                                                            \
    {                                                                                    \
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 5, 0, 7                            \
    }
static const Ip v4_from = {V4_FROM}, v4_to = {V4_TO};
#define ETH "020000000001020000000002"

static Builder b;

static void assert_built(const char *expected)
{
    g_autoptr(GString) hex = g_string_new(NULL);

    g_assert_true(build_end(&b));
    for (size_t i = 0; i < b.len; i++)
        g_string_append_printf(hex, "%02x", b.data[i]);
    g_assert_cmpstr(hex->str, ==, expected);
}

static void udp_over_ipv4_has_both_checksums(void)
{
    build_ip(&b, &dst, &src, &v4_from, &v4_to, IPPROTO_UDP, 0);
    build_udp(&b, 67, 68);
    build_bytes(&b, "abc", 3);
    assert_built(ETH "0800"
                     "4500001f00004000401126bd0a0500010a050007"
                     "00430044000b26dd"
                     "616263");
}

static void echo_reply_has_its_checksum_without_a_pseudo_header(void)
{
    build_ip(&b, &dst, &src, &v4_from, &v4_to, IPPROTO_ICMP, 64);
    build_u32(&b, 0);
    build_u16(&b, 0x1234);
    build_u16(&b, 1);
    build_bytes(&b, "ping", 4);
    assert_built(ETH "0800"
                     "4500002000004000400126cc0a0500010a050007"
                     "00000efa12340001"
                     "70696e67");
}

static void neighbour_advertisement_is_summed_with_its_addresses(void)
{
    build_ip(&b, &dst, &src, &link_local, &all_nodes, IPPROTO_ICMPV6, 255);
    build_u32(&b, 136u << 24);
    build_u32(&b, 0xe0000000);
    build_bytes(&b, link_local.b, 16);
    assert_built(ETH "86dd"
                     "6000000000183aff"
                     "fe800000000000000000000000000001"
                     "ff020000000000000000000000000001"
                     "88009ba4e0000000"
                     "fe800000000000000000000000000001");
}

static void udp_sum_of_zero_is_sent_as_all_ones(void)
{
    build_ip(&b, &dst, &src, &link_local, &all_nodes, IPPROTO_UDP, 0);
    build_udp(&b, 547, 546);
    build_u16(&b, 0xfe0f);
    assert_built(ETH "86dd"
                     "60000000000a1140"
                     "fe800000000000000000000000000001"
                     "ff020000000000000000000000000001"
                     "02230222000affff"
                     "fe0f");
}

static void frame_without_ip_is_left_as_it_is(void)
{
    build_eth(&b, &dst, &src, ETHER_ARP);
    build_u8(&b, 7);
    assert_built(ETH "0806"
                     "07");
}

static void what_does_not_fit_is_not_sent(void)
{
    build_ip(&b, &dst, &src, &v4_from, &v4_to, IPPROTO_UDP, 0);
    build_udp(&b, 67, 68);
    g_assert_nonnull(build_room(&b, BUILD_MAX - b.len));
    build_bytes(&b, "", 0);
    g_assert_true(build_end(&b));
    g_assert_null(build_room(&b, 1));
    g_assert_false(build_end(&b));
    g_assert_cmpuint(b.len, ==, BUILD_MAX);
    build_eth(&b, &dst, &src, ETHER_ARP); /* and the next one is */
    g_assert_true(build_end(&b));

    build_ip(&b, &dst, &src, &v4_from, &v4_to, IPPROTO_UDP, 0);
    build_u32(&b, 0);
    g_assert_false(build_end(&b)); /* half a header */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/build/udp4", udp_over_ipv4_has_both_checksums);
    g_test_add_func("/build/echo", echo_reply_has_its_checksum_without_a_pseudo_header);
    g_test_add_func("/build/nd", neighbour_advertisement_is_summed_with_its_addresses);
    g_test_add_func("/build/udp6", udp_sum_of_zero_is_sent_as_all_ones);
    g_test_add_func("/build/arp", frame_without_ip_is_left_as_it_is);
    g_test_add_func("/build/full", what_does_not_fit_is_not_sent);
    return g_test_run();
}
