/* Cards on a stream socket: QEMU's framing, cut and glued in any way, a socket that is
 * full, an other side that goes and comes, and one that talks nonsense. */
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>

#include "card.h"
#include "util/fd.h"
#include "util/unixsocket.h"

enum { MANY = 4000, FRAME = 60 };

typedef struct Scene {
    Card card;
    char *path;
    UnixListener listener;
    int fd; /* the other side's */
    unsigned n_lost;
    size_t received; /* length of the last one */
    uint8_t last;    /* its first byte */
} Scene;

static void on_readable(void *opaque)
{
    Scene *s = opaque;
    uint8_t frame[NET_MAX_FRAME];
    const struct iovec iov[] = {{frame, 5}, {frame + 5, sizeof(frame) - 5}};
    static const uint8_t none[NET_HDR_LEN];
    ssize_t len;

    while ((len = netdev_receive(s->card.nd, iov, 2)) != 0) {
        s->n_lost += len < 0;
        if (len < 0)
            continue;
        g_assert_cmpint(memcmp(frame, none, NET_HDR_LEN), ==, 0);
        s->received = (size_t)len - NET_HDR_LEN;
        s->last = frame[NET_HDR_LEN];
        s->card.n_received++;
    }
}

static void begin(Scene *s)
{
    g_autofree char *folder = g_dir_make_tmp("hutch-XXXXXX", NULL);

    *s = (Scene){.fd = -1, .card.link = -1, .listener = {.fd = -1}};
    s->path = g_build_filename(folder, "s", NULL);
    s->card.loop = ioloop_new(NULL);
}

static NetDev *open_card(Scene *s, bool listening, GError **error)
{
    NetDevOptions o = {.path = s->path, .listen = listening};
    NetDev *nd = netdev_check(&o, error) ? netdev_open(&o, NULL, s->card.loop, error)
                                         : NULL;

    if (nd) {
        netdev_set_handlers(nd, on_readable, card_on_writable, s);
        netdev_set_link_handler(nd, card_on_link);
        netdev_set_reading(nd, true);
    }
    return nd;
}

static void listen_there(Scene *s)
{
    g_assert_true(unix_listen(&s->listener, s->path, 4, NULL));
    g_assert_true(fd_set_nonblock(s->listener.fd, false, NULL));
}

static void begin_connected(Scene *s)
{
    g_autoptr(GError) error = NULL;

    begin(s);
    listen_there(s);
    s->card.nd = open_card(s, false, &error);
    g_assert_no_error(error);
    s->fd = accept(s->listener.fd, NULL, NULL);
    g_assert_cmpint(s->fd, >=, 0);
}

static void end(Scene *s)
{
    g_autofree char *folder = g_path_get_dirname(s->path);

    netdev_close(s->card.nd);
    ioloop_timer_cancel(&s->card.timer);
    ioloop_free(s->card.loop);
    unix_unlisten(&s->listener);
    fd_close(&s->fd);
    g_assert_cmpint(rmdir(folder), ==, 0);
    g_free(s->path);
}

/* As the other side writes it. */
static size_t put_frame(uint8_t *at, size_t len, uint8_t mark)
{
    memset(at, 0, 4 + len);
    at[1] = (uint8_t)(len >> 16);
    at[2] = (uint8_t)(len >> 8);
    at[3] = (uint8_t)len;
    at[4] = mark;
    return 4 + len;
}

static void write_all(Scene *s, const uint8_t *bytes, size_t len)
{
    g_assert_true(fd_write_all(s->fd, bytes, len, NULL));
}

static bool send_frame(Scene *s, size_t len, uint8_t mark)
{
    static uint8_t frame[NET_MAX_FRAME];
    const struct iovec iov[] = {{frame, 3}, {frame + 3, NET_HDR_LEN + len - 3}};
    bool sent;

    frame[NET_HDR_LEN] = mark;
    sent = netdev_send(s->card.nd, iov, 2);
    netdev_flush(s->card.nd);
    return sent;
}

/* The next frame that the card has sent; its first byte. */
static uint8_t read_frame(Scene *s, size_t *ret_len)
{
    static uint8_t bytes[NET_MAX_FRAME];
    uint8_t prefix[4];

    g_assert_cmpint(recv(s->fd, prefix, 4, MSG_WAITALL), ==, 4);
    *ret_len = (size_t)prefix[1] << 16 | (size_t)prefix[2] << 8 | prefix[3];
    g_assert_cmpint(recv(s->fd, bytes, *ret_len, MSG_WAITALL), ==, (ssize_t)*ret_len);
    return bytes[0];
}

/* ---- the tests ------------------------------------------------------------------------
 */

static bool got_one(Card *c)
{
    return c->n_received == 1;
}

static bool got_four(Card *c)
{
    return c->n_received == 4;
}

static void frames_are_cut_and_glued(void)
{
    uint8_t bytes[80000];
    size_t len = put_frame(bytes, FRAME, 1), got;
    Scene s;

    begin_connected(&s);
    for (size_t i = 0; i < len; i++) { /* a byte at a time */
        write_all(&s, bytes + i, 1);
        card_run(&s.card, 0);
    }
    g_assert_true(card_until(&s.card, got_one));
    len = put_frame(bytes, FRAME, 2); /* and several at once */
    len += put_frame(bytes + len, 65550, 4);
    len += put_frame(bytes + len, FRAME, 5);
    write_all(&s, bytes, len);
    g_assert_true(card_until(&s.card, got_four));
    g_assert_cmpuint(s.last, ==, 5);
    g_assert_cmpuint(s.n_lost, ==, 0);
    g_assert_true(send_frame(&s, FRAME, 6));
    g_assert_cmphex(read_frame(&s, &got), ==, 6);
    g_assert_cmpuint(got, ==, FRAME);
    end(&s);
}

static void a_full_socket_holds_back_and_loses_nothing(void)
{
    unsigned sent = 0, read = 0;
    size_t len;
    Scene s;

    begin_connected(&s);
    while (sent < MANY && send_frame(&s, 1500, (uint8_t)sent))
        sent++;
    g_assert_cmpuint(sent, <, MANY);
    for (; !s.card.n_writable; read++) { /* whole frames in order */
        g_assert_cmphex(read_frame(&s, &len), ==, (uint8_t)read);
        g_assert_cmpuint(len, ==, 1500);
        card_run(&s.card, 0);
    }
    for (; read < sent; read++)
        g_assert_cmphex(read_frame(&s, &len), ==, (uint8_t)read);
    g_assert_true(send_frame(&s, FRAME, 77));
    g_assert_cmphex(read_frame(&s, &len), ==, 77);
    end(&s);
}

static bool link_is_up(Card *c)
{
    return c->link == 1;
}

static void it_connects_again(void)
{
    uint8_t bytes[100];
    Scene s;

    begin_connected(&s);
    fd_close(&s.fd);
    unix_unlisten(&s.listener);
    g_assert_true(card_until(&s.card, card_link_is_down));
    g_assert_true(send_frame(&s, FRAME, 1)); /* and is lost */
    listen_there(&s);
    g_assert_true(card_until(&s.card, link_is_up));
    s.fd = accept(s.listener.fd, NULL, NULL);
    write_all(&s, bytes, put_frame(bytes, FRAME, 2));
    g_assert_true(card_until(&s.card, got_one));
    end(&s);
}

static void it_serves_one_after_the_other(void)
{
    g_autoptr(GError) error = NULL;
    uint8_t bytes[100];
    Scene s;

    begin(&s);
    s.card.nd = open_card(&s, true, &error);
    g_assert_no_error(error);
    g_assert_false(netdev_link(s.card.nd));
    for (unsigned i = 0; i < 2; i++) {
        s.fd = unix_connect(s.path, NULL);
        g_assert_true(card_until(&s.card, link_is_up));
        s.card.n_received = 0;
        write_all(&s, bytes, put_frame(bytes, FRAME, 1));
        g_assert_true(card_until(&s.card, got_one));
        fd_close(&s.fd);
        g_assert_true(card_until(&s.card, card_link_is_down));
    }
    end(&s);
}

/* A guest that was moved here goes on to leave segments to its card. */
static void what_it_cannot_do_is_done_before(void)
{
    enum { HEADERS = 54, PAYLOAD = 3000, MSS = 1000 };
    static uint8_t frame[NET_HDR_LEN + HEADERS + PAYLOAD] = {
        1, 1, HEADERS, 0, MSS & 0xff, MSS >> 8, 34, 0, 16, 0, 0, 0};
    const struct iovec iov = {frame, sizeof(frame)};
    uint8_t *f = frame + NET_HDR_LEN;
    Scene s;

    begin_connected(&s);
    g_assert_cmpuint(netdev_offloads(s.card.nd), ==, 0);
    netdev_expect(s.card.nd, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
    f[0] = 0xaa;
    f[12] = 0x08; /* IPv4, TCP */
    f[14] = 0x45;
    f[16] = (HEADERS - 14 + PAYLOAD) >> 8;
    f[17] = (HEADERS - 14 + PAYLOAD) & 0xff;
    f[23] = 6;
    f[34 + 12] = 0x50;
    g_assert_true(netdev_send(s.card.nd, &iov, 1));
    netdev_flush(s.card.nd);
    for (unsigned i = 0; i < PAYLOAD / MSS; i++) {
        size_t len;

        g_assert_cmphex(read_frame(&s, &len), ==, 0xaa);
        g_assert_cmpuint(len, ==, HEADERS + MSS);
    }
    g_assert_true(send_frame(&s, FRAME, 7)); /* a plain one passes as it is */
    {
        size_t len;

        g_assert_cmphex(read_frame(&s, &len), ==, 7);
        g_assert_cmpuint(len, ==, FRAME);
    }
    end(&s);
}

static void nonsense_ends_the_connection(void)
{
    static const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 0};
    Scene s;

    begin_connected(&s);
    write_all(&s, huge, sizeof(huge));
    g_assert_true(card_until(&s.card, card_link_is_down));
    end(&s);
}

static void what_cannot_be_is_refused(void)
{
    g_autoptr(GError) error = NULL;
    NetDevOptions none = {.type = NETDEV_STREAM};
    Scene s;

    begin(&s);
    g_assert_null(open_card(&s, false, &error));
    g_assert_nonnull(strstr(error->message, s.path));
    g_clear_error(&error);
    g_assert_false(netdev_check(&none, &error));
    g_assert_nonnull(strstr(error->message, "path= is missing"));
    end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stream/frames_are_cut_and_glued", frames_are_cut_and_glued);
    g_test_add_func("/stream/a_full_socket_holds_back",
                    a_full_socket_holds_back_and_loses_nothing);
    g_test_add_func("/stream/it_connects_again", it_connects_again);
    g_test_add_func("/stream/it_serves_one_after_the_other",
                    it_serves_one_after_the_other);
    g_test_add_func("/stream/what_it_cannot_do_is_done_before",
                    what_it_cannot_do_is_done_before);
    g_test_add_func("/stream/nonsense_ends_the_connection", nonsense_ends_the_connection);
    g_test_add_func("/stream/what_cannot_be_is_refused", what_cannot_be_is_refused);
    return g_test_run();
}
