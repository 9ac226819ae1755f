/* Filters in the syntax of tcpdump. */
#include "packet/bpf.h"

#include <string.h>

/* 10.5.0.7:1000 -> 10.5.0.8:53, UDP */
static const uint8_t frame[] = "\2\0\0\0\0\1\2\0\0\0\0\2\x08\x00"
                               "\x45\0\0\x1c\0\0\0\0\x40\x11\0\0\x0a\5\0\7\x0a\5\0\x08"
                               "\3\xe8\0\x35\0\x08\0\0";

static bool match(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BpfFilter) f = bpf_filter_new(text, &error);

    g_assert_no_error(error);
    return bpf_filter_match(f, frame, sizeof(frame) - 1);
}

static void a_frame_matches_what_it_says(void)
{
    g_assert_true(match(""));
    g_assert_true(match("udp port 53"));
    g_assert_true(match("src net 10.5.0.0/24 and dst host 10.5.0.8"));
    g_assert_true(match("len <= 42"));
    g_assert_false(match("tcp"));
    g_assert_false(match("udp port 54"));
    g_assert_false(match("len > 42"));
    g_assert_false(match("ip6"));
}

static void what_is_wrong_is_said_in_one_sentence(void)
{
    g_autofree char *longer = g_strnfill(BPF_MAX_TEXT + 1, ' ');
    g_autoptr(GError) error = NULL;

    g_assert_null(bpf_filter_new("udp prot 53", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    g_assert_true(g_str_has_prefix(error->message, "pcap filter 'udp prot 53': "));
    g_clear_error(&error);
    g_assert_null(bpf_filter_new(longer, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
}

/* libpcap would ask DNS, and everybody would wait. */
static void names_are_not_looked_up(void)
{
    static const struct {
        const char *text;
        size_t at;
    } bad[] = {
        {"host example.org", 5},       {"tcp port http", 9},  {"src host 3com.de", 9},
        {"ip protochain 6", 3},        {"host ::example", 5}, {"host a-b", 5},
        {"ip6 host fe80::1 or x", 20}, {"inbound", 0},        {"ip proto \\example", 10}};
    const char *const good[] = {"ip6 host fe80::1",
                                "ether host 02:00:00:00:00:0a",
                                "tcp[tcpflags] & (tcp-syn|tcp-ack) == 0x02",
                                "portrange 80-90 and net 10.0",
                                "ip proto \\tcp and ip[0:2] & 0xf != 5",
                                "icmp[icmptype] == icmp-echo"};
    size_t at;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(bpf_check_words(bad[i].text, &at, &error));
        g_assert_cmpuint(at, ==, bad[i].at);
        g_assert_null(bpf_filter_new(bad[i].text, NULL));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++)
        match(good[i]);
}

static void a_program_has_a_bound(void)
{
    GString *text = g_string_new("tcp port 1");
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 35; i++)
        g_string_append_printf(text, " or port %u", i + 3);
    g_assert_null(bpf_filter_new(text->str, &error));
    g_assert_nonnull(strstr(error->message, "more than 1024"));
    g_string_free(text, TRUE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bpf/a_frame_matches_what_it_says", a_frame_matches_what_it_says);
    g_test_add_func("/bpf/what_is_wrong_is_said_in_one_sentence",
                    what_is_wrong_is_said_in_one_sentence);
    g_test_add_func("/bpf/names_are_not_looked_up", names_are_not_looked_up);
    g_test_add_func("/bpf/a_program_has_a_bound", a_program_has_a_bound);
    return g_test_run();
}
