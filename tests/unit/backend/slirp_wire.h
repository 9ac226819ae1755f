/* User-mode networking between frames of a guest (slirp_guest.h) and sockets of the host,
 * on one loop. */
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/unit/backend/slirp_guest.h"
#include "util/fd.h"

/* The guest's end of the wire, and the loop it all runs on. */
typedef struct Wire {
    IoLoop *loop;
    NetDev *nd;
    bool (*match)(const Pkt *p); /* what run_until_frame() waits for */
    bool found;
    Pkt got;
    unsigned n_got, n_turns;
    IoTimer limit;
    IoPoller counter;
} Wire;

static inline bool count_turn(void *opaque)
{
    ((Wire *)opaque)->n_turns++;
    return false;
}

static inline void out_of_time(void *opaque)
{
    ioloop_quit(((Wire *)opaque)->loop);
}

static inline void on_readable(void *opaque)
{
    Wire *w = opaque;
    static uint8_t buf[NET_MAX_FRAME];
    static const uint8_t no_header[NET_HDR_LEN];
    struct iovec iov[2] = {{buf, 20}, {buf + 20, sizeof(buf) - 20}};
    ssize_t len;

    while (!w->found && (len = netdev_receive(w->nd, iov, 2)) > 0) {
        g_assert_cmpmem(buf, NET_HDR_LEN, no_header, NET_HDR_LEN);
        w->n_got++;
        w->got.len = MIN((size_t)len - NET_HDR_LEN, sizeof(w->got.b));
        memcpy(w->got.b, buf + NET_HDR_LEN, w->got.len);
        w->found = w->match && w->match(&w->got);
    }
    if (w->found) {
        netdev_set_reading(w->nd, false);
        ioloop_quit(w->loop);
    }
}

static inline void run_for(Wire *w, int ms)
{
    ioloop_timer(w->loop, &w->limit, clock_ns() + ms * 1000000ll, out_of_time, w);
    ioloop_run(w->loop);
    ioloop_timer_cancel(&w->limit);
}

/* False on timeout; the frame is in w->got. */
static inline bool await(Wire *w, bool (*match)(const Pkt *p), int ms)
{
    w->match = match;
    w->found = false;
    netdev_set_reading(w->nd, true);
    run_for(w, ms);
    netdev_set_reading(w->nd, false);
    return w->found;
}
#define expect(w, match) g_assert_true(await(w, match, 5000))

static inline void send_frame(Wire *w, Pkt p)
{
    uint8_t header[NET_HDR_LEN] = {0};
    struct iovec iov[3] = {{header, sizeof(header)}, {p.b, 9}, {p.b + 9, p.len - 9}};

    g_assert_true(netdev_send(w->nd, iov, 3));
}

static inline void wire_open(Wire *w, NetDevOptions o)
{
    g_autoptr(GError) error = NULL;

    memset(w, 0, sizeof(*w));
    o.type = NETDEV_USER;
    w->loop = ioloop_new(&error);
    g_assert_no_error(error);
    w->nd = netdev_open(&o, NULL, w->loop, &error);
    g_assert_no_error(error);
    netdev_set_handlers(w->nd, on_readable, NULL, w);
    w->counter = (IoPoller){.fn = count_turn, .opaque = w};
    ioloop_poller_add(w->loop, &w->counter);
    run_for(w, 1); /* so that what follows has to wake it */
}

static inline void wire_close(Wire *w)
{
    netdev_close(w->nd);
    ioloop_poller_remove(w->loop, &w->counter);
    ioloop_free(w->loop);
}

/* A socket of the host on a port of its own of 127.0.0.1. */
static inline int host_socket(int type, uint16_t *ret_port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&a, len), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&a, &len), ==, 0);
    if (type == SOCK_STREAM)
        g_assert_cmpint(listen(fd, 16), ==, 0);
    *ret_port = ntohs(a.sin_port);
    return fd;
}

static inline int host_connect(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr.s_addr = htonl(0x7f000001)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    return fd;
}
