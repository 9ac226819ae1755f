/* virtio-vsock against guests and clients that mean harm. */
#include <sys/socket.h>

#include "util/fd.h"
#include "virtio/devices.h"
#include "vsock_guest.h"

enum { BUFFERS = 16 };

static Packet p;

static unsigned slots_in_use(void)
{
    return VSOCK_SLOTS - vsg_device()->free.length;
}

/* ---- guests ----------------------------------------------------------------------- */

static void what_belongs_to_no_connection_is_reset_but_for_resets(void)
{
    static const uint16_t ops[] = {0, 2, 4, 5, 6, 7, 8, 0xffff};

    vsg_open(0, BUFFERS);
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        vsg_send(ops[i], 7, 80, NULL, 0);
        vsg_expect(&p, VSOCK_OP_RST);
    }
    vsg_send(VSOCK_OP_RST, 7, 80, NULL, 0);
    g_assert_true(vsg_silent());
    g_assert_cmpuint(slots_in_use(), ==, 0);
    vsg_close();
}

static void other_types_are_refused_in_their_own_name(void)
{
    static const uint16_t types[] = {0, 2, 0xffff};
    autofd server = -1;

    vsg_open(0, BUFFERS);
    server = vsg_guest_opens();
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        VsockHdr h = vsg_header(VSOCK_OP_REQUEST, 7, 80);

        h.type = types[i];
        vsg_send_packet(h, NULL);
        vsg_expect(&p, VSOCK_OP_RST);
        g_assert_cmpuint(p.h.type, ==, types[i]);
    }
    vsg_put(server, "x", 1); /* and the stream goes on */
    vsg_expect(&p, VSOCK_OP_RW);
    vsg_close();
}

static void spoofed_addresses_are_dropped(void)
{
    static const uint64_t cids[] = {0, 1, 2, 4, UINT32_MAX, GUEST_CID + BIT64(32)};
    autofd server = -1;

    vsg_open(0, BUFFERS);
    server = vsg_guest_opens();
    for (unsigned i = 0; i < G_N_ELEMENTS(cids); i++) {
        VsockHdr h = vsg_header(VSOCK_OP_RST, 7, 80);

        h.src_cid = cids[i];
        vsg_send_packet(h, NULL);
        h = vsg_header(VSOCK_OP_RST, 7, 80);
        h.dst_cid = cids[i] == VSOCK_HOST_CID ? GUEST_CID : cids[i];
        vsg_send_packet(h, NULL);
    }
    g_assert_true(vsg_silent());
    vsg_put(server, "x", 1);
    vsg_expect(&p, VSOCK_OP_RW);
    vsg_close();
}

static void a_packet_longer_than_its_buffer_breaks_the_device_not_the_monitor(void)
{
    static const uint32_t lens[] = {1, 4096, UINT32_MAX};

    for (unsigned i = 0; i < G_N_ELEMENTS(lens); i++) {
        VsockHdr h = vsg_header(VSOCK_OP_RW, 7, 80);
        autofd server = -1;
        uint64_t gpa;

        vsg_open(0, BUFFERS);
        server = vsg_guest_opens();
        h.len = lens[i];
        gpa = vqg_alloc(&g, sizeof(h));
        memcpy(vqg_mem(&g, gpa, sizeof(h)), &h, sizeof(h));
        vqg_chain(&g, VSOCK_TX, &(VqgBuf){gpa, sizeof(h), OUT}, 1);
        vqg_kick_queue(&g, VSOCK_TX);
        g_assert_true(vqg_broken(&g));
        vqg_reset(&g);
        vqg_start(&g);
        g_assert_false(vqg_broken(&g));
        vsg_close();
    }
}

static void buffers_too_small_break_the_device_not_the_monitor(void)
{
    for (unsigned queue = VSOCK_RX; queue <= VSOCK_TX; queue++) {
        autofd client = -1;

        vsg_open_bare(0);
        vqg_chain(
            &g, queue,
            &(VqgBuf){vqg_alloc(&g, 64), queue == VSOCK_RX ? 44 : 43, queue == VSOCK_RX},
            1);
        vqg_kick_queue(&g, queue);
        client = vsg_dial("");
        if (client >= 0)
            vsg_put(client, "CONNECT 52\n", 11);
        g_assert_true(vqg_broken(&g));
        vsg_close();
    }
}

static void more_than_the_credit_resets_the_connection(void)
{
    static uint8_t data[60000];
    autofd server = -1;
    bool reset = false;

    vsg_open(0, BUFFERS);
    server = vsg_guest_opens();
    for (unsigned i = 0; i < 16 && !reset; i++) {
        vsg_send(VSOCK_OP_RW, 7, 80, data, sizeof(data));
        while (!vsg_silent() && !reset) {
            vsg_hear(&p);
            reset = p.h.op == VSOCK_OP_RST;
        }
    }
    g_assert_true(reset);
    g_assert_cmpuint(slots_in_use(), ==, 0);
    vsg_close();
}

static void bytes_after_a_goodbye_reset_the_connection(void)
{
    autofd server = -1;
    VsockHdr h = vsg_header(VSOCK_OP_SHUTDOWN, 7, 80);

    vsg_open(0, BUFFERS);
    server = vsg_guest_opens();
    h.flags = VSOCK_NO_SEND;
    vsg_send_packet(h, NULL);
    vsg_send(VSOCK_OP_RW, 7, 80, "x", 1);
    vsg_expect(&p, VSOCK_OP_RST);
    vsg_close();
}

static void repeated_and_senseless_words_reset_the_connection(void)
{
    static const uint16_t ops[] = {0, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, 8, 0xffff};

    vsg_open(0, BUFFERS);
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        autofd server = vsg_guest_opens();

        vsg_send(ops[i], 7, 80, NULL, 0);
        vsg_expect(&p, VSOCK_OP_RST);
        g_assert_true(vsg_ended(server));
        g_assert_cmpuint(slots_in_use(), ==, 0);
    }
    vsg_close();
}

static void answers_that_are_none_reset_who_asked(void)
{
    static const uint16_t ops[] = {0, 1, 4, 5, 6, 7, 0xffff};

    vsg_open(0, BUFFERS);
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        autofd client = vsg_dial("");

        vsg_put(client, "CONNECT 5\n", 10);
        vsg_expect(&p, VSOCK_OP_REQUEST);
        vsg_send(ops[i], 5, p.h.src_port, NULL, 0);
        vsg_expect(&p, VSOCK_OP_RST);
        g_assert_true(vsg_ended(client));
    }
    vsg_close();
}

/* What the guest says of its buffer counts for nothing but how much it is sent. */
static void lies_about_credit_harm_only_the_liar(void)
{
    static const struct {
        uint32_t buf_alloc, fwd_cnt;
        bool sends;
    } lies[] = {{UINT32_MAX, 0, true},     {0, 0, false},
                {0, UINT32_MAX, false},    {1000, 1000000, false},
                {1000, 0x80000000, false}, {UINT32_MAX, 1, false},
                {4, 0xfffffffe, true}};
    autofd client = -1;
    uint32_t port;

    vsg_open(0, BUFFERS);
    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        VsockHdr h;

        port = vsg_client_opens(&client);
        h = vsg_header(VSOCK_OP_CREDIT_UPDATE, 52, port);
        h.buf_alloc = lies[i].buf_alloc;
        h.fwd_cnt = lies[i].fwd_cnt;
        vsg_send_packet(h, NULL);
        vsg_put(client, "x", 1);
        vsg_hear(&p);
        g_assert_cmpuint(p.h.op, ==,
                         lies[i].sends ? VSOCK_OP_RW : VSOCK_OP_CREDIT_REQUEST);
        h.fwd_cnt -= 1000; /* backwards */
        vsg_send_packet(h, NULL);
        vsg_send(VSOCK_OP_RST, 52, port, NULL, 0);
        while (!vsg_silent())
            vsg_hear(&p);
        fd_close(&client);
        g_assert_cmpuint(slots_in_use(), ==, 0);
    }
    vsg_close();
}

/* How many of n packets to different ports the device takes. */
static unsigned flood(uint16_t op, unsigned n, unsigned from)
{
    uint64_t gpa = vqg_alloc(&g, sizeof(VsockHdr) * VQ_MAX_SIZE);
    unsigned taken = 0, sent = 0;
    VqgUsed used;

    while (sent < n) {
        for (unsigned i = 0; i < 64 && sent < n; i++, sent++) {
            VsockHdr h = vsg_header(op, from + sent, 80);
            uint64_t at = gpa + (sent % VQ_MAX_SIZE) * sizeof(h);

            memcpy(vqg_mem(&g, at, sizeof(h)), &h, sizeof(h));
            vqg_chain(&g, VSOCK_TX, &(VqgBuf){at, sizeof(h), OUT}, 1);
        }
        vqg_kick_queue(&g, VSOCK_TX);
        while (vqg_take(&g, VSOCK_TX, &used))
            taken++;
        if (taken < sent)
            break; /* it takes no more */
    }
    return taken;
}

static void a_flood_without_receive_buffers_is_held_back_and_then_answered(void)
{
    static bool answered[2 * VSOCK_SLOTS];
    unsigned n, left;
    VqgUsed used;

    vsg_open_bare(0);
    n = flood(VSOCK_OP_REQUEST, 2 * VSOCK_SLOTS, 0);
    g_assert_cmpuint(n, ==, VSOCK_SLOTS);
    g_assert_cmpuint(slots_in_use(), ==, VSOCK_SLOTS);
    left = (VSOCK_SLOTS / 64 + 1) * 64; /* what was sent */
    vsg_offer(BUFFERS);
    for (unsigned i = 0; i < left; i++) {
        vsg_expect(&p, VSOCK_OP_RST);
        g_assert_false(answered[p.h.dst_port]);
        answered[p.h.dst_port] = true;
    }
    g_assert_true(vsg_silent());
    while (vqg_take(&g, VSOCK_TX, &used))
        n++;
    g_assert_cmpuint(n, ==, left);
    g_assert_cmpuint(slots_in_use(), ==, 0);
    vsg_close();
}

static void a_flood_of_one_word_is_answered_once(void)
{
    autofd server = -1;
    VqgUsed used;

    vsg_open(0, 1);
    server = vsg_guest_opens();
    g_assert_true(vsg_silent());
    /* Its only buffer is filled with the first answer. */
    for (unsigned i = 0; i < 2000; i++)
        vsg_send(VSOCK_OP_CREDIT_REQUEST, 7, 80, NULL, 0);
    for (unsigned i = 0; i < 2; i++)
        vsg_expect(&p, VSOCK_OP_CREDIT_UPDATE);
    g_assert_true(vsg_silent());
    g_assert_false(vqg_take(&g, VSOCK_RX, &used));
    g_assert_cmpuint(slots_in_use(), ==, 1);
    vsg_close();
}

static void connections_have_a_limit_and_more_are_refused(void)
{
    autofd listener = -1;
    unsigned open = 0, refused = 0;

    vsg_open(0, BUFFERS);
    listener = vsg_listen("_80");
    for (unsigned i = 0; i < VSOCK_CONNS + 8; i++) {
        vsg_send(VSOCK_OP_REQUEST, i, 80, NULL, 0);
        vsg_hear(&p);
        open += p.h.op == VSOCK_OP_RESPONSE;
        refused += p.h.op == VSOCK_OP_RST;
    }
    g_assert_cmpuint(open, ==, VSOCK_CONNS);
    g_assert_cmpuint(refused, ==, 8);
    vsg_send(VSOCK_OP_RST, 5, 80, NULL, 0);
    vsg_send(VSOCK_OP_REQUEST, 5, 80, NULL, 0);
    vsg_expect(&p, VSOCK_OP_RESPONSE);
    vsg_unlisten("_80");
    vsg_close();
}

/* ---- clients ---------------------------------------------------------------------- */

static void lines_that_are_none_are_hung_up_on(void)
{
    static const char *const lines[] = {"\n",
                                        "CONNECT\n",
                                        "CONNECT \n",
                                        "CONNECT x\n",
                                        "connect 5\n",
                                        "CONNECT -1\n",
                                        "CONNECT 4294967295\n",
                                        "CONNECT 5 \n",
                                        "CONNECT +5\n",
                                        "CONNECT  5\n",
                                        "CONNECT 99999999999999",
                                        "GET / HTTP/1.1\r\n",
                                        "CONNECT 0x5\n"};
    static char endless[100000];

    vsg_open(0, BUFFERS);
    for (unsigned i = 0; i <= G_N_ELEMENTS(lines); i++) {
        autofd client = vsg_dial("");

        memset(endless, 'C', sizeof(endless));
        if (i < G_N_ELEMENTS(lines))
            vsg_put(client, lines[i], strlen(lines[i]));
        else
            vsg_put(client, endless, sizeof(endless));
        g_assert_true(vsg_ended(client));
    }
    g_assert_true(vsg_silent());
    g_assert_cmpuint(slots_in_use(), ==, 0);
    vsg_close();
}

static void a_line_may_not_take_for_ever(void)
{
    autofd client = -1;

    vsg_open(0, BUFFERS);
    vsg_device()->limit_ns = 20000000;
    client = vsg_dial("");
    vsg_put(client, "CONNECT", 7);
    g_assert_true(vsg_ended(client));
    g_assert_cmpuint(slots_in_use(), ==, 0);
    vsg_close();
}

static void of_two_thousand_clients_some_wait_and_all_get_their_turn(void)
{
    enum { CLIENTS = 2000 };
    static int fds[CLIENTS];
    unsigned n = 0;

    vsg_open(0, BUFFERS);
    while (n < CLIENTS && (fds[n] = vsg_dial("")) >= 0) {
        if (++n % 50 == 0)
            for (unsigned i = 0; i < 50; i++)
                vqg_settle(&g);
    }
    g_assert_cmpuint(n, >, VSOCK_CONNS);
    g_assert_cmpuint(n, <, CLIENTS);
    g_assert_cmpuint(slots_in_use(), ==, VSOCK_CONNS);
    vsg_send(VSOCK_OP_REQUEST, 7, 80, NULL, 0); /* the guest is still answered */
    vsg_expect(&p, VSOCK_OP_RST);
    vsg_put(fds[n - 1], "CONNECT 5\n", 10); /* the last in the row */
    g_assert_true(vsg_silent());
    for (unsigned i = 0; i < n - 1; i++)
        close(fds[i]);
    vsg_expect(&p, VSOCK_OP_REQUEST);
    g_assert_cmpuint(p.h.dst_port, ==, 5);
    close(fds[n - 1]);
    vsg_close();
}

static void a_client_that_never_reads_costs_one_buffer(void)
{
    static uint8_t data[32768];
    uint32_t sent = 0, fwd = 0, port;
    autofd client = -1;

    vsg_open(0, BUFFERS);
    port = vsg_client_opens(&client);
    while (sent - fwd + sizeof(data) <= VSOCK_BUF) {
        vsg_send(VSOCK_OP_RW, 52, port, data, sizeof(data));
        sent += sizeof(data);
        vsg_send(VSOCK_OP_CREDIT_REQUEST, 52, port, NULL, 0);
        do
            vsg_expect(&p, VSOCK_OP_CREDIT_UPDATE);
        while (!vsg_silent());
        fwd = p.h.fwd_cnt;
    }
    vsg_put(client, "x", 1); /* the other direction is not affected */
    vsg_expect(&p, VSOCK_OP_RW);
    fd_close(&client); /* with much unread */
    do
        vsg_hear(&p);
    while (p.h.op != VSOCK_OP_SHUTDOWN || p.h.flags != VSOCK_NO_MORE);
    g_assert_cmpuint(p.h.fwd_cnt, ==, sent); /* to nobody */
    vsg_close();
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    vsg_init();
    log_set_level(LOG_ERROR);
#define T(fn) g_test_add_func("/vsock-hostile/" #fn, fn)
    T(what_belongs_to_no_connection_is_reset_but_for_resets);
    T(other_types_are_refused_in_their_own_name);
    T(spoofed_addresses_are_dropped);
    T(a_packet_longer_than_its_buffer_breaks_the_device_not_the_monitor);
    T(buffers_too_small_break_the_device_not_the_monitor);
    T(more_than_the_credit_resets_the_connection);
    T(bytes_after_a_goodbye_reset_the_connection);
    T(repeated_and_senseless_words_reset_the_connection);
    T(answers_that_are_none_reset_who_asked);
    T(lies_about_credit_harm_only_the_liar);
    T(a_flood_without_receive_buffers_is_held_back_and_then_answered);
    T(a_flood_of_one_word_is_answered_once);
    T(connections_have_a_limit_and_more_are_refused);
    T(lines_that_are_none_are_hung_up_on);
    T(a_line_may_not_take_for_ever);
    T(of_two_thousand_clients_some_wait_and_all_get_their_turn);
    T(a_client_that_never_reads_costs_one_buffer);
    status = g_test_run();
    vsg_done();
    return status;
}
