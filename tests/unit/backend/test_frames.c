/* Frames over a stream socket (src/net/frames.c), with a peer that the test plays. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "src/net/frames.h"
#include "util/fd.h"

static struct {
    IoLoop *loop;
    NetDev nd;
    FrameSocket s;
    int peer;
    unsigned lost, writable, got, limit;
    size_t len[64];
    uint8_t first[64];
    char why[100];
    IoTimer end;
} t;

static void on_lost(void *opaque, const char *why)
{
    t.lost++;
    g_strlcpy(t.why, why, sizeof(t.why));
}

/* At most `limit` frames a turn, as a card does. */
static void on_readable(void *opaque)
{
    static uint8_t b[NET_MAX_FRAME];
    const struct iovec iov[2] = {{b, 5}, {b + 5, sizeof(b) - 5}};
    ssize_t len;

    for (unsigned i = 0; i < t.limit && t.got < G_N_ELEMENTS(t.len); i++) {
        len = frames_receive(&t.s, iov, 2);
        if (len <= 0)
            return;
        t.len[t.got] = (size_t)len - NET_HDR_LEN;
        for (unsigned k = 0; k < NET_HDR_LEN; k++)
            g_assert_cmpuint(b[k], ==, 0);
        t.first[t.got++] = b[NET_HDR_LEN];
    }
}

static void on_writable(void *opaque)
{
    t.writable++;
}

static void quit(void *opaque)
{
    ioloop_quit(t.loop);
}

static void run_for(int ms)
{
    ioloop_timer(t.loop, &t.end, clock_ns() + ms * 1000000ll, quit, NULL);
    ioloop_run(t.loop);
}

/* What is to come, comes. */
static void run_until(const unsigned *count, unsigned n)
{
    for (unsigned i = 0; *count < n && i < 5000; i++)
        run_for(1);
    g_assert_cmpuint(*count, ==, n);
}

static void set_reading(bool on)
{
    t.nd.reading = on;
    frames_set_reading(&t.s, on);
}

static void connect_peer(void)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    t.peer = pair[1];
    g_assert_true(frames_attach(&t.s, t.loop, pair[0], NULL));
}

static void start(void)
{
    memset(&t, 0, sizeof(t));
    t.limit = 64;
    t.loop = ioloop_new(NULL);
    t.nd.readable = on_readable;
    t.nd.writable = on_writable;
    frames_init(&t.s, &t.nd, t.loop, on_lost, NULL);
    connect_peer();
    set_reading(true);
}

static void end(void)
{
    frames_finish(&t.s);
    fd_close(&t.peer);
    ioloop_free(t.loop);
}

/* A frame as the peer sends it: its length, then bytes of `mark`. */
static size_t make(uint8_t *to, uint32_t len, uint8_t mark)
{
    to[0] = to[1] = 0;
    to[1] = (uint8_t)(len >> 16);
    to[2] = (uint8_t)(len >> 8);
    to[3] = (uint8_t)len;
    memset(to + FRAMES_PREFIX, mark, len);
    return FRAMES_PREFIX + len;
}

static void send_frame(uint32_t len, uint8_t mark)
{
    static uint8_t b[FRAMES_PREFIX + 70000];
    size_t n = make(b, len, mark);

    g_assert_cmpint(send(t.peer, b, n, 0), ==, n);
}

static bool put(uint32_t len, uint8_t mark)
{
    static uint8_t b[NET_MAX_FRAME];
    struct iovec iov[2] = {{b, NET_HDR_LEN + 3}, {b + NET_HDR_LEN + 3, len - 3}};

    memset(b + NET_HDR_LEN, mark, len);
    return frames_send(&t.s, iov, 2);
}

/* ---- promises -----------------------------------------------------------------------
 */

static void frames_come_whole_however_they_are_cut(void)
{
    uint8_t b[400];
    size_t n = make(b, 60, 1);

    start();
    n += make(b + n, 1, 2);
    n += make(b + n, 200, 3);
    for (size_t i = 0; i < n; i++) {
        g_assert_cmpint(send(t.peer, b + i, 1, 0), ==, 1);
        run_for(0);
    }
    run_until(&t.got, 3);
    g_assert_cmpuint(t.len[0], ==, 60);
    g_assert_cmpuint(t.len[1], ==, 1);
    g_assert_cmpuint(t.len[2], ==, 200);
    g_assert_cmpuint(t.first[2], ==, 3);
    end();
}

/* The socket is empty by then: nothing else would wake us. */
static void what_is_left_in_the_buffer_is_not_forgotten(void)
{
    start();
    t.limit = 1;
    for (unsigned i = 0; i < 20; i++)
        send_frame(100 + i, (uint8_t)i);
    run_until(&t.got, 20);
    set_reading(false);
    t.limit = 2;
    for (unsigned i = 20; i < 25; i++)
        send_frame(100 + i, (uint8_t)i);
    run_for(5);
    g_assert_cmpuint(t.got, ==, 20); /* reading is off */
    set_reading(true);
    run_until(&t.got, 25);
    for (unsigned i = 0; i < 25; i++)
        g_assert_cmpuint(t.first[i], ==, i);
    end();
}

static void the_longest_frame_passes_both_ways(void)
{
    static uint8_t b[FRAMES_PREFIX + 65550];
    int size = 1 << 20;
    size_t got = 0;

    start();
    setsockopt(t.peer, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    send_frame(65550, 7);
    run_until(&t.got, 1);
    g_assert_cmpuint(t.len[0], ==, 65550);
    g_assert_true(put(65550, 9));
    frames_flush(&t.s);
    while (got < sizeof(b)) {
        ssize_t n = recv(t.peer, b + got, sizeof(b) - got, MSG_DONTWAIT);

        got += n > 0 ? (size_t)n : 0;
        run_for(0);
    }
    g_assert_cmpuint(b[1], ==, 1);
    g_assert_cmpuint(b[2] << 8 | b[3], ==, 14);
    g_assert_cmpuint(b[sizeof(b) - 1], ==, 9);
    end();
}

static void nonsense_ends_the_connection(void)
{
    static const uint8_t bad[][4] = {
        {0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0, 1, 0, 15}};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        start();
        send_frame(60, 1);
        g_assert_cmpint(send(t.peer, bad[i], 4, 0), ==, 4);
        run_until(&t.lost, 1);
        g_assert_cmpuint(t.got, ==, 1);
        g_assert_nonnull(strstr(t.why, "length"));
        g_assert_true(put(60, 1)); /* lost, as without a cable */
        end();
    }
}

static void a_peer_that_hangs_up_is_told_once_and_another_may_come(void)
{
    start();
    send_frame(60, 1);
    fd_close(&t.peer);
    run_until(&t.lost, 1);
    g_assert_cmpuint(t.got, ==, 1); /* what it had sent came through */
    run_for(5);
    g_assert_cmpuint(t.lost, ==, 1);
    connect_peer();
    send_frame(61, 2);
    run_until(&t.got, 2);
    set_reading(false); /* a hang-up is seen without reading, too */
    fd_close(&t.peer);
    run_until(&t.lost, 2);
    end();
}

static void a_full_socket_holds_frames_back(void)
{
    static uint8_t sink[1 << 16];
    unsigned n = 0;
    size_t got = 0, total;

    start();
    while (n < 10000 && put(1000, 5))
        n++;
    g_assert_cmpuint(n, <, 10000);
    total = n * (FRAMES_PREFIX + 1000u);
    while (got < total) {
        ssize_t k = recv(t.peer, sink, sizeof(sink), MSG_DONTWAIT);

        got += k > 0 ? (size_t)k : 0;
        run_for(0);
    }
    run_until(&t.writable, 1);
    g_assert_true(put(1000, 6));
    frames_flush(&t.s);
    g_assert_cmpint(recv(t.peer, sink, sizeof(sink), 0), ==, FRAMES_PREFIX + 1000);
    end();
}

static void a_card_that_waits_is_let_go_when_the_peer_is_lost(void)
{
    start();
    while (put(1000, 5))
        ;
    fd_close(&t.peer);
    run_until(&t.lost, 1);
    run_until(&t.writable, 1);
    g_assert_true(put(1000, 5));
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define add(name) g_test_add_func("/frames/" #name, name)
    add(frames_come_whole_however_they_are_cut);
    add(what_is_left_in_the_buffer_is_not_forgotten);
    add(the_longest_frame_passes_both_ways);
    add(nonsense_ends_the_connection);
    add(a_peer_that_hangs_up_is_told_once_and_another_may_come);
    add(a_full_socket_holds_frames_back);
    add(a_card_that_waits_is_let_go_when_the_peer_is_lost);
    return g_test_run();
}
