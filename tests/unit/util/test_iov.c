/* Scatter/gather copies. */
#include "util/iov.h"

#include <glib.h>
#include <string.h>

static char text[] = "abcdefghij";

static const struct iovec pieces[] = {
    {text, 3}, {text + 3, 0}, {text + 3, 4}, {text + 7, 3}};

static void copies_go_on_from_piece_to_piece_and_stop_at_the_end(void)
{
    for (size_t offset = 0; offset <= 11; offset++) {
        for (size_t len = 0; len <= 12; len++) {
            size_t expect = offset > 10 ? 0 : MIN(len, 10 - offset);
            char buf[12] = "";

            g_assert_cmpuint(iov_to_buf(pieces, 4, offset, buf, len), ==, expect);
            g_assert_cmpmem(buf, expect, text + MIN(offset, 10), expect);
        }
    }
    g_assert_cmpuint(iov_len(pieces, 4), ==, 10);
}

static void what_is_copied_in_lands_where_it_belongs(void)
{
    char room[10] = "..........";
    const struct iovec out[] = {{room, 4}, {room + 4, 6}};

    g_assert_cmpuint(iov_from_buf(out, 2, 2, "xyz", 3), ==, 3);
    g_assert_cmpuint(iov_fill(out, 2, 8, '#', 99), ==, 2);
    g_assert_cmpmem(room, 10, "..xyz...##", 10);
}

static void a_slice_names_the_same_bytes(void)
{
    struct iovec out[4];
    unsigned n = iov_slice(pieces, 4, 2, 6, out);
    char buf[6];

    g_assert_cmpuint(n, ==, 3);
    g_assert_cmpuint(iov_to_buf(out, n, 0, buf, 6), ==, 6);
    g_assert_cmpmem(buf, 6, "cdefgh", 6);
    g_assert_cmpuint(iov_slice(pieces, 4, 10, 1, out), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/iov/copies_go_on_from_piece_to_piece_and_stop_at_the_end",
                    copies_go_on_from_piece_to_piece_and_stop_at_the_end);
    g_test_add_func("/iov/what_is_copied_in_lands_where_it_belongs",
                    what_is_copied_in_lands_where_it_belongs);
    g_test_add_func("/iov/a_slice_names_the_same_bytes", a_slice_names_the_same_bytes);
    return g_test_run();
}
