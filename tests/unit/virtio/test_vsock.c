/* virtio-vsock between its driver and unix sockets: what well-behaved ones may expect. */
#include <sys/socket.h>

#include "util/fd.h"
#include "virtio/devices.h"
#include "vsock_guest.h"

enum { BUFFERS = 16, GUEST_SMALL = 16 * 1024, BIG = 1024 * 1024 };

static Packet p;
static uint8_t big[BIG], got[BIG];

static void fill_big(void)
{
    for (size_t i = 0; i < BIG; i++)
        big[i] = (uint8_t)(i * 31 + i / 253);
}

/* ---- connections ------------------------------------------------------------------ */

static void clients_reach_a_port_of_the_guest_in_every_ring_layout(void)
{
    for (unsigned i = 0; i < 2 * VQG_N_MODES; i++) {
        autofd client = -1;
        uint32_t port;
        char buf[4];

        vsg_open(vqg_modes[i / 2] | (i % 2 ? VQG_THREAD : 0), BUFFERS);
        g_assert_cmpuint(vqg_config(&g, 0, 8), ==, GUEST_CID);
        port = vsg_client_opens(&client);
        g_assert_cmpuint(port, >=, 1 << 30);
        vsg_put(client, "ping", 4);
        vsg_expect(&p, VSOCK_OP_RW);
        g_assert_cmpuint(p.h.src_port, ==, port);
        g_assert_cmpmem(p.data, p.h.len, "ping", 4);
        vsg_send(VSOCK_OP_RW, 52, port, "pong", 4);
        g_assert_cmpuint(vsg_get(client, buf, 4), ==, 4);
        g_assert_cmpmem(buf, 4, "pong", 4);
        vsg_close();
        g_assert_true(vsg_ended(client));
    }
}

static void the_guest_reaches_who_listens_for_it(void)
{
    for (unsigned i = 0; i < 2; i++) {
        autofd server = -1;
        char buf[4];

        vsg_open(i ? VQG_THREAD : 0, BUFFERS);
        server = vsg_guest_opens();
        vsg_send(VSOCK_OP_RW, 7, 80, "ping", 4);
        g_assert_cmpuint(vsg_get(server, buf, 4), ==, 4);
        vsg_put(server, "pong", 4);
        vsg_expect(&p, VSOCK_OP_RW);
        g_assert_cmpmem(p.data, p.h.len, "pong", 4);
        vsg_close();
    }
}

static void where_nobody_listens_the_guest_is_refused(void)
{
    vsg_open(0, BUFFERS);
    vsg_send(VSOCK_OP_REQUEST, 7, 81, NULL, 0);
    vsg_expect(&p, VSOCK_OP_RST);
    g_assert_cmpuint(p.h.src_port, ==, 81);
    g_assert_cmpuint(p.h.dst_port, ==, 7);
    vsg_close();
}

static void what_a_client_sends_early_arrives_even_if_it_left(void)
{
    autofd client = -1;

    vsg_open(0, BUFFERS);
    client = vsg_dial("");
    vsg_put(client, "CONN", 4);
    vsg_put(client, "ECT 52\nhello", 12);
    fd_close(&client);
    vsg_expect(&p, VSOCK_OP_REQUEST);
    vsg_send(VSOCK_OP_RESPONSE, 52, p.h.src_port, NULL, 0);
    vsg_expect(&p, VSOCK_OP_RW);
    g_assert_cmpmem(p.data, p.h.len, "hello", 5);
    do
        vsg_expect(&p, VSOCK_OP_SHUTDOWN);
    while (p.h.flags != VSOCK_NO_MORE);
    vsg_close();
}

static void a_guest_that_refuses_hangs_up_on_the_client(void)
{
    autofd client = -1;

    vsg_open(0, BUFFERS);
    client = vsg_dial("");
    vsg_put(client, "CONNECT 99\n", 11);
    vsg_expect(&p, VSOCK_OP_REQUEST);
    vsg_send(VSOCK_OP_RST, 99, p.h.src_port, NULL, 0);
    g_assert_true(vsg_ended(client));
    g_assert_cmpuint(vsg_device()->free.length, ==, VSOCK_SLOTS);
    vsg_close();
}

static void a_guest_that_does_not_answer_in_time_is_given_up(void)
{
    autofd client = -1;

    vsg_open(0, BUFFERS);
    vsg_device()->limit_ns = 20000000;
    client = vsg_dial("");
    vsg_put(client, "CONNECT 99\n", 11);
    vsg_expect(&p, VSOCK_OP_REQUEST);
    vsg_expect(&p, VSOCK_OP_RST);
    g_assert_true(vsg_ended(client));
    vsg_close();
}

/* ---- bytes and credit ------------------------------------------------------------- */

static void much_more_than_the_guests_buffer_reaches_it(void)
{
    VsockHdr credit;
    autofd client = -1;
    uint32_t port;
    size_t put = 0, done = 0, told = 0;

    fill_big();
    vsg_open(0, BUFFERS);
    port = vsg_client_opens(&client);
    credit = vsg_header(VSOCK_OP_CREDIT_UPDATE, 52, port);
    credit.buf_alloc = GUEST_SMALL;
    vsg_send_packet(credit, NULL);
    while (done < BIG) {
        ssize_t n = put < BIG ? send(client, big + put, BIG - put, MSG_NOSIGNAL) : 0;

        put += n > 0 ? (size_t)n : 0;
        vsg_hear(&p);
        if (p.h.op == VSOCK_OP_RW) {
            memcpy(got + done, p.data, p.h.len);
            done += p.h.len;
            g_assert_cmpuint(done - told, <=, GUEST_SMALL);
        } else {
            g_assert_cmpuint(p.h.op, ==, VSOCK_OP_CREDIT_REQUEST);
            g_assert_cmpuint(done - told, ==, GUEST_SMALL);
            credit.fwd_cnt = (uint32_t)(told = done);
            vsg_send_packet(credit, NULL);
        }
    }
    g_assert_cmpmem(got, done, big, BIG);
    vsg_close();
}

static void much_more_than_our_buffer_reaches_the_host(void)
{
    uint32_t sent = 0, fwd = 0;
    autofd server = -1;
    size_t done = 0;

    fill_big();
    vsg_open(VQG_PACKED | VQG_EVENT_IDX, BUFFERS);
    server = vsg_guest_opens();
    while (done < BIG) {
        uint32_t len = MIN(MIN(BIG - sent, VSOCK_BUF - (sent - fwd)), 60000);
        size_t part;

        if (len)
            vsg_send(VSOCK_OP_RW, 7, 80, big + sent, len);
        sent += len;
        part = vsg_get(server, got + done, MIN(50000, sent - done));
        done += part;
        while (!vsg_silent()) {
            vsg_expect(&p, VSOCK_OP_CREDIT_UPDATE);
            fwd = p.h.fwd_cnt;
        }
        g_assert_cmpuint(sent - fwd, <=, VSOCK_BUF);
    }
    g_assert_cmpmem(got, done, big, BIG);
    vsg_close();
}

/* Sends until the host's socket and our buffer are full; how much went. */
static uint32_t stuff(void)
{
    uint32_t sent = 0, fwd = 0, room;

    while ((room = VSOCK_BUF - (sent - fwd)) > 0) {
        uint32_t len = MIN(room, 30000);

        vsg_send(VSOCK_OP_RW, 7, 80, big + sent, len);
        sent += len;
        vsg_send(VSOCK_OP_CREDIT_REQUEST, 7, 80, NULL, 0);
        do
            vsg_expect(&p, VSOCK_OP_CREDIT_UPDATE);
        while (!vsg_silent());
        fwd = p.h.fwd_cnt;
    }
    return sent;
}

static void a_slow_reader_exhausts_the_credit_and_reading_restores_it(void)
{
    autofd server = -1;
    uint32_t sent;

    fill_big();
    vsg_open(0, BUFFERS);
    server = vsg_guest_opens();
    sent = stuff();
    g_assert_cmpuint(vsg_get(server, got, sent), ==, sent);
    vsg_expect(&p, VSOCK_OP_CREDIT_UPDATE);
    g_assert_cmpmem(got, sent, big, sent);
    vsg_send(VSOCK_OP_RW, 7, 80, "more", 4);
    g_assert_cmpuint(vsg_get(server, got, 4), ==, 4);
    vsg_close();
}

static void without_credit_bytes_wait_and_the_end_is_told(void)
{
    VsockHdr credit;
    autofd client = -1;
    uint32_t port;

    vsg_open(0, BUFFERS);
    port = vsg_client_opens(&client);
    credit = vsg_header(VSOCK_OP_CREDIT_UPDATE, 52, port);
    credit.buf_alloc = 4;
    vsg_send_packet(credit, NULL);
    vsg_put(client, "abcdefgh", 8);
    vsg_expect(&p, VSOCK_OP_RW);
    g_assert_cmpmem(p.data, p.h.len, "abcd", 4);
    vsg_expect(&p, VSOCK_OP_CREDIT_REQUEST);
    g_assert_true(vsg_silent());
    vsg_send_packet(credit, NULL); /* nothing new */
    g_assert_true(vsg_silent());
    credit.fwd_cnt = 4;
    vsg_send_packet(credit, NULL);
    vsg_expect(&p, VSOCK_OP_RW);
    g_assert_cmpmem(p.data, p.h.len, "efgh", 4);
    shutdown(client, SHUT_WR); /* exactly at the end of the credit */
    vsg_expect(&p, VSOCK_OP_SHUTDOWN);
    g_assert_cmpuint(p.h.flags, ==, VSOCK_NO_SEND);
    vsg_close();
}

static void bytes_wait_for_receive_buffers_and_none_is_lost(void)
{
    autofd client = -1;

    vsg_open(0, 2);
    vsg_client_opens(&client);
    fill_big();
    vsg_put(client, big, 40000);
    for (size_t done = 0; done < 40000; done += p.h.len) {
        vsg_expect(&p, VSOCK_OP_RW);
        g_assert_cmpmem(p.data, p.h.len, big + done, p.h.len);
    }
    vsg_close();
}

static void connections_take_turns(void)
{
    autofd first = -1, second = -1;
    unsigned of_second = 0;
    uint32_t port;

    vsg_open(0, 1);
    vsg_client_opens(&first);
    port = vsg_client_opens(&second);
    fill_big();
    vsg_put(first, big, 60000);
    vsg_put(second, big, 60000);
    for (unsigned i = 0; i < 8; i++) {
        vsg_expect(&p, VSOCK_OP_RW);
        of_second += p.h.src_port == port;
    }
    g_assert_cmpuint(of_second, >=, 3);
    g_assert_cmpuint(of_second, <=, 5);
    vsg_close();
}

/* ---- ends ------------------------------------------------------------------------- */

static void each_side_may_close_its_half_and_still_listen(void)
{
    autofd client = -1;
    uint32_t port;
    char buf[8];

    vsg_open(0, BUFFERS);
    port = vsg_client_opens(&client);
    vsg_put(client, "bye", 3);
    shutdown(client, SHUT_WR);
    vsg_expect(&p, VSOCK_OP_RW);
    vsg_expect(&p, VSOCK_OP_SHUTDOWN);
    g_assert_cmpuint(p.h.flags, ==, VSOCK_NO_SEND);
    vsg_send(VSOCK_OP_RW, 52, port, "answer", 6);
    g_assert_cmpuint(vsg_get(client, buf, 6), ==, 6);
    fd_close(&client);
    vsg_expect(&p, VSOCK_OP_SHUTDOWN);
    g_assert_cmpuint(p.h.flags, ==, VSOCK_NO_MORE);
    vsg_send(VSOCK_OP_RST, 52, port, NULL, 0);

    port = vsg_client_opens(&client);
    VsockHdr h = vsg_header(VSOCK_OP_SHUTDOWN, 52, port);
    h.flags = VSOCK_NO_SEND;
    vsg_send_packet(h, NULL);
    g_assert_true(vsg_ended(client));
    vsg_put(client, "answer", 6);
    vsg_expect(&p, VSOCK_OP_RW);
    h.flags = VSOCK_NO_RCV;
    vsg_send_packet(h, NULL);
    vsg_expect(&p, VSOCK_OP_RST); /* a clean end (5.10.6.6) */
    g_assert_cmpint(send(client, "x", 1, MSG_NOSIGNAL), ==, -1);
    g_assert_cmpuint(vsg_device()->free.length, ==, VSOCK_SLOTS);
    vsg_close();
}

static void what_the_guest_sent_before_its_goodbye_is_delivered(void)
{
    autofd server = -1;
    uint32_t sent;
    uint64_t gpa;
    VqgUsed used;
    VsockHdr h;

    fill_big();
    vsg_open(0, BUFFERS);
    server = vsg_guest_opens();
    sent = stuff();
    h = vsg_header(VSOCK_OP_SHUTDOWN, 7, 80);
    h.flags = VSOCK_NO_MORE;
    gpa = vqg_alloc(&g, sizeof(h));
    memcpy(vqg_mem(&g, gpa, sizeof(h)), &h, sizeof(h));
    vqg_chain(&g, VSOCK_TX, &(VqgBuf){gpa, sizeof(h), OUT}, 1);
    vsg_send(VSOCK_OP_RST, 7, 80, NULL, 0); /* at once, without waiting for ours */
    g_assert_true(vqg_take(&g, VSOCK_TX, &used));
    g_assert_true(vsg_silent());
    g_assert_cmpuint(vsg_get(server, got, sent), ==, sent);
    g_assert_cmpmem(got, sent, big, sent);
    g_assert_true(vsg_ended(server));
    g_assert_cmpuint(vsg_device()->free.length, ==, VSOCK_SLOTS);
    vsg_close();
}

static void a_guest_that_says_no_goodbye_is_reset_in_time(void)
{
    autofd client = -1;

    vsg_open(0, BUFFERS);
    vsg_client_opens(&client);
    vsg_device()->limit_ns = 20000000;
    fd_close(&client);
    vsg_expect(&p, VSOCK_OP_SHUTDOWN);
    vsg_expect(&p, VSOCK_OP_RST);
    g_assert_cmpuint(vsg_device()->free.length, ==, VSOCK_SLOTS);
    vsg_close();
}

static void bytes_of_a_client_that_left_may_be_declined(void)
{
    autofd client = -1;
    VsockHdr h;

    vsg_open(0, BUFFERS);
    h = vsg_header(VSOCK_OP_CREDIT_UPDATE, 52, vsg_client_opens(&client));
    h.buf_alloc = 0;
    vsg_send_packet(h, NULL);
    vsg_put(client, "unwanted", 8);
    vsg_expect(&p, VSOCK_OP_CREDIT_REQUEST);
    fd_close(&client);
    g_assert_true(vsg_silent());
    h.op = VSOCK_OP_SHUTDOWN;
    h.flags = VSOCK_NO_RCV;
    vsg_send_packet(h, NULL);
    vsg_expect(&p, VSOCK_OP_SHUTDOWN);
    g_assert_cmpuint(p.h.flags, ==, VSOCK_NO_MORE);
    vsg_close();
}

static void a_client_may_leave_in_any_state(void)
{
    static const char *const said[] = {"", "CONN", "CONNECT 5\n", "CONNECT 5\nxyz"};

    vsg_open(0, BUFFERS);
    for (unsigned i = 0; i < G_N_ELEMENTS(said); i++) {
        autofd client = vsg_dial("");

        vsg_put(client, said[i], strlen(said[i]));
        fd_close(&client);
        vqg_settle(&g);
        if (i >= 2) {
            vsg_expect(&p, VSOCK_OP_REQUEST);
            vsg_send(VSOCK_OP_RST, 5, p.h.src_port, NULL, 0);
        }
        g_assert_cmpuint(vsg_device()->free.length, ==, VSOCK_SLOTS);
    }
    vsg_close();
}

/* ---- the device's life ------------------------------------------------------------ */

static void connections_survive_a_pause_in_any_state(void)
{
    autofd client = -1, asked = -1, hello = -1;
    uint32_t port;

    vsg_open(VQG_THREAD, BUFFERS);
    port = vsg_client_opens(&client);
    hello = vsg_dial("");
    vsg_put(hello, "CONN", 4);
    virtio_quiesce(g.vdev);
    vsg_put(client, "while paused", 12);
    asked = vsg_dial("");
    vsg_put(asked, "CONNECT 53\n", 11);
    vsg_put(hello, "ECT 54\n", 7);
    g_assert_true(vsg_silent());
    virtio_resume(g.vdev);
    for (unsigned seen = 0; seen != 7;) {
        vsg_hear(&p);
        seen |= p.h.src_port == port ? 1 : p.h.dst_port == 53 ? 2 : 4;
        g_assert_cmpuint(p.h.op, ==,
                         p.h.src_port == port ? VSOCK_OP_RW : VSOCK_OP_REQUEST);
    }
    vsg_close();
}

static void time_limits_stand_still_in_a_pause(void)
{
    autofd client = -1;
    char byte;

    vsg_open(VQG_THREAD, BUFFERS);
    vsg_device()->limit_ns = 20000000;
    client = vsg_dial("");
    vsg_put(client, "CONNECT", 7);
    virtio_quiesce(g.vdev);
    g_usleep(60000); /* three of them */
    g_assert_cmpint(recv(client, &byte, 1, 0), ==, -1);
    virtio_resume(g.vdev);
    g_assert_true(vsg_ended(client));
    vsg_close();
}

static void a_reset_hangs_up_on_everybody_and_lets_new_ones_in(void)
{
    for (unsigned i = 0; i < 2; i++) {
        autofd client = -1, hello = -1, after = -1;

        vsg_open(i ? VQG_THREAD : 0, BUFFERS);
        vsg_client_opens(&client);
        hello = vsg_dial("");
        vsg_put(hello, "CONN", 4);
        if (i)
            virtio_quiesce(g.vdev);
        vqg_reset(&g);
        g_assert_true(vsg_ended(client));
        g_assert_true(vsg_ended(hello));
        g_assert_cmpuint(vsg_device()->free.length, ==, VSOCK_SLOTS);
        after = vsg_dial(""); /* waits for the driver */
        vsg_put(after, "CONNECT 52\n", 11);
        vqg_start(&g);
        vsg_offer(BUFFERS);
        vsg_expect(&p, VSOCK_OP_REQUEST);
        vsg_close();
    }
}

static void options_are_checked(void)
{
    g_autofree char *long_path = g_strnfill(VSOCK_PATH_MAX + 1, 'x');
    g_autofree char *too_long = g_strdup_printf("3,path=%s", long_path);
    const struct {
        const char *text, *why;
    } bad[] = {{"3", "path"},        {"path=/v", "cid"},
               {"2,path=/v", "cid"}, {"4294967295,path=/v", "cid"},
               {"3,path=", "path"},  {too_long, "path"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        void *o = param_new(virtio_vsock_ops.params);
        g_autoptr(GError) error = NULL;

        g_assert_false(param_parse(virtio_vsock_ops.params, o, bad[i].text, &error));
        g_assert_nonnull(strstr(error->message, bad[i].why));
        param_free(virtio_vsock_ops.params, o);
    }
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    vsg_init();
#define T(fn) g_test_add_func("/vsock/" #fn, fn)
    T(clients_reach_a_port_of_the_guest_in_every_ring_layout);
    T(the_guest_reaches_who_listens_for_it);
    T(where_nobody_listens_the_guest_is_refused);
    T(what_a_client_sends_early_arrives_even_if_it_left);
    T(a_guest_that_refuses_hangs_up_on_the_client);
    T(a_guest_that_does_not_answer_in_time_is_given_up);
    T(much_more_than_the_guests_buffer_reaches_it);
    T(much_more_than_our_buffer_reaches_the_host);
    T(a_slow_reader_exhausts_the_credit_and_reading_restores_it);
    T(without_credit_bytes_wait_and_the_end_is_told);
    T(bytes_wait_for_receive_buffers_and_none_is_lost);
    T(connections_take_turns);
    T(each_side_may_close_its_half_and_still_listen);
    T(what_the_guest_sent_before_its_goodbye_is_delivered);
    T(a_guest_that_says_no_goodbye_is_reset_in_time);
    T(bytes_of_a_client_that_left_may_be_declined);
    T(a_client_may_leave_in_any_state);
    T(connections_survive_a_pause_in_any_state);
    T(time_limits_stand_still_in_a_pause);
    T(a_reset_hangs_up_on_everybody_and_lets_new_ones_in);
    T(options_are_checked);
    status = g_test_run();
    vsg_done();
    return status;
}
