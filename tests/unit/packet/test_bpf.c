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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bpf/a_frame_matches_what_it_says", a_frame_matches_what_it_says);
    g_test_add_func("/bpf/what_is_wrong_is_said_in_one_sentence",
                    what_is_wrong_is_said_in_one_sentence);
    return g_test_run();
}
