/* The gateway's end of TCP, with a peer that the test plays: one that loses, shuts its
 * window, lies, or is not heard of again. */
#include "src/switch/tcp.h"

#include "packet/build.h"
#include "src/switch/gateway_private.h"

enum { SERVED = 53, ISS = 5000, KEPT = 256 };

static Switch sw;
static NetworkConfig config = {.mtu = 1500};
static Gateway gateway = {.sw = &sw, .mac = {{2, 0, 0, 0, 0, 1}}};
static Port port[64];
static Tcp *tcp;
static const Mac vm_mac = {{2, 0, 0, 0, 0, 7}};
static unsigned want; /* bytes that each byte is answered with */
static GString *taken;

/* ---- played by the test: the rest of the switch ---------------------------------------
 */

static unsigned n_sent, lose; /* lose: so many of the next are lost */
static Packet sent[KEPT];
static uint8_t body[KEPT][BUILD_MAX];

const Mac *gateway_mac(const Gateway *gw)
{
    return &gw->mac;
}

void switch_send(Switch *s, Frame *f)
{
    Packet p;

    g_assert_true(packet_parse(f->data, f->len, &p));
    g_assert_true(packet_tcp_sum_ok(&p, f->data));
    g_assert_cmpuint(p.from_port, ==, SERVED);
    if (lose) {
        lose--;
        return;
    }
    g_assert_cmpuint(n_sent, <, KEPT);
    sent[n_sent] = p;
    memcpy(body[n_sent++], f->data, f->len);
}

void switch_flush(Switch *s)
{
}

static size_t take(void *opaque, TcpConn *c, const uint8_t *bytes, size_t len)
{
    g_autofree char *answer = g_malloc(want + 1);

    for (unsigned i = 0; i < want; i++)
        answer[i] = (char)('a' + i % 26);
    g_string_append_len(taken, (const char *)bytes, (gssize)len);
    tcp_write(c, answer, want);
    return len;
}

static const TcpOps ops = {.take = take, .idle_ns = 60000000, .retry_ns = 5000000};

static void begin(void)
{
    sw.config = &config;
    sw.gateway = &gateway;
    sw.loop = ioloop_new(NULL);
    sw.now_ns = clock_ns();
    for (unsigned i = 0; i < G_N_ELEMENTS(port); i++)
        port[i] = (Port){.sw = &sw, .id = i};
    tcp = tcp_new(&sw, &gateway, &ops, NULL);
    taken = g_string_new(NULL);
    want = 0;
    n_sent = lose = 0;
}

static void end(void)
{
    tcp_free(tcp);
    ioloop_free(sw.loop);
    g_string_free(taken, TRUE);
}

/* ---- the peer -------------------------------------------------------------------------
 */

static uint32_t seq, ack; /* what it says next, and has heard */
static uint16_t window;
static GString *heard;

static void say_as(unsigned at, uint16_t from_port, uint8_t flags, const char *data)
{
    Ip from = ip_from_v4(0x0a050007), to = ip_from_v4(0x0a050001);
    Frame f = {0};
    Builder b;

    build_ip(&b, &gateway.mac, &vm_mac, &from, &to, IPPROTO_TCP, 0);
    build_tcp(&b, from_port, SERVED, seq, ack, flags, window,
              flags & PACKET_TCP_SYN ? 1000 : 0);
    build_bytes(&b, data, strlen(data));
    g_assert_true(build_end(&b));
    f.data = b.data;
    f.len = b.len;
    g_assert_true(packet_parse(f.data, f.len, &f.p));
    tcp_input(tcp, &port[at], &f);
}

/* And counts what it says. */
static void say(uint8_t flags, const char *data)
{
    say_as(1, 4000, flags, data);
    seq += (uint32_t)strlen(data) +
           !!(flags & (PACKET_TCP_SYN | PACKET_TCP_FIN)); /* never both */
}

/* Takes what came in its order; returns whether there was anything new. */
static bool hear(void)
{
    bool any = false;

    for (unsigned i = 0; i < n_sent; i++) {
        const Packet *p = &sent[i];
        uint32_t len = p->end - p->payload;

        if (p->tcp_seq != ack)
            continue;
        g_string_append_len(heard, (char *)body[i] + p->payload, len);
        ack += len + !!(p->tcp_flags & (PACKET_TCP_SYN | PACKET_TCP_FIN));
        any |= len || p->tcp_flags & (PACKET_TCP_SYN | PACKET_TCP_FIN);
    }
    n_sent = 0;
    return any;
}

static void connect_peer(void)
{
    n_sent = 0;
    seq = ISS;
    ack = 0;
    window = 65535;
    heard = g_string_new(NULL);
    say(PACKET_TCP_SYN, "");
    g_assert_cmpuint(n_sent, ==, 1);
    g_assert_cmphex(sent[0].tcp_flags, ==, PACKET_TCP_SYN | PACKET_TCP_ACK);
    g_assert_cmpuint(sent[0].tcp_ack, ==, ISS + 1);
    ack = sent[0].tcp_seq;
    hear();
    say(PACKET_TCP_ACK, "");
    g_assert_cmpuint(n_sent, ==, 0);
    g_assert_cmpuint(tcp_count(tcp), ==, 1);
}

static void disconnect_peer(void)
{
    g_string_free(heard, TRUE);
}

static void give_up(void *opaque)
{
    g_error("it was waited for in vain");
}

static bool look(void *opaque)
{
    bool (*done)(void) = opaque;

    if (done())
        ioloop_quit(sw.loop);
    return false;
}

/* Lets its timers run. */
static void wait_for(bool (*done)(void))
{
    IoPoller poller = {.fn = look, .opaque = done};
    IoTimer timer = {0};

    ioloop_timer(sw.loop, &timer, clock_ns() + 60 * 1000000000ll, give_up, NULL);
    ioloop_poller_add(sw.loop, &poller);
    if (!done())
        ioloop_run(sw.loop);
    ioloop_poller_remove(sw.loop, &poller);
    ioloop_timer_cancel(&timer);
}

static bool something(void)
{
    return n_sent;
}

static bool nobody(void)
{
    return tcp_count(tcp) == 0;
}

/* Acknowledges until there is nothing more. */
static void hear_all(void)
{
    while (hear())
        say(PACKET_TCP_ACK, "");
}

static void assert_heard(size_t len)
{
    g_assert_cmpuint(heard->len, ==, len);
    for (size_t i = 0; i < len; i++)
        g_assert_cmpint(heard->str[i], ==, 'a' + (int)(i % 26));
}

/* ---- promises -------------------------------------------------------------------------
 */

static void what_is_said_is_taken_answered_and_over(void)
{
    begin();
    connect_peer();
    want = 3;
    say(PACKET_TCP_ACK, "hello");
    g_assert_cmpstr(taken->str, ==, "hello");
    g_assert_cmpuint(sent[0].tcp_ack, ==, seq);
    hear_all();
    assert_heard(3);
    want = 0;
    say(PACKET_TCP_ACK | PACKET_TCP_FIN, "end");
    g_assert_cmpstr(taken->str, ==, "helloend");
    g_assert_true(sent[n_sent - 1].tcp_flags & PACKET_TCP_FIN);
    g_assert_cmpuint(sent[n_sent - 1].tcp_ack, ==, seq);
    hear();
    g_assert_cmpuint(tcp_count(tcp), ==, 1);
    say(PACKET_TCP_ACK, "");
    g_assert_cmpuint(tcp_count(tcp), ==, 0);
    g_assert_cmpuint(n_sent, ==, 0);
    disconnect_peer();
    end();
}

/* No more than it may have at once, in segments of its size; then the rest. */
static void a_long_answer_keeps_to_window_and_flight(void)
{
    begin();
    connect_peer();
    want = 60000;
    say(PACKET_TCP_ACK, "x");
    g_assert_cmpuint(n_sent, ==, 10);
    for (unsigned i = 0; i < n_sent; i++)
        g_assert_cmpuint(sent[i].end - sent[i].payload, ==, 1000);
    window = 1500;
    hear();
    say(PACKET_TCP_ACK, "");
    g_assert_cmpuint(n_sent, ==, 2);
    window = 65535;
    hear_all();
    assert_heard(60000);
    disconnect_peer();
    end();
}

static void what_is_lost_is_sent_again(void)
{
    begin();
    connect_peer();
    want = 25000;
    lose = 4;
    say(PACKET_TCP_ACK, "x");
    g_assert_false(hear()); /* all that came has a hole before it */
    wait_for(something);
    g_assert_cmpuint(n_sent, ==, 1);
    hear_all();
    assert_heard(25000);
    want = 0;
    lose = 1;
    say(PACKET_TCP_ACK | PACKET_TCP_FIN, "");
    wait_for(something);
    hear_all();
    g_assert_cmpuint(tcp_count(tcp), ==, 0);
    disconnect_peer();
    end();
}

/* All came, and the peer's word of it was lost: nothing is sent beyond the end. */
static void what_came_and_is_sent_again_ends_all_the_same(void)
{
    begin();
    connect_peer();
    want = 100;
    say(PACKET_TCP_ACK | PACKET_TCP_FIN, "x");
    hear();
    assert_heard(100);
    wait_for(something);
    n_sent = 0;
    say(PACKET_TCP_ACK, "");
    g_assert_cmpuint(tcp_count(tcp), ==, 0);
    g_assert_cmpuint(n_sent, ==, 0);
    disconnect_peer();
    end();
}

/* RFC 9293, 3.8.6.1. */
static void a_window_that_is_shut_is_asked_and_opens(void)
{
    begin();
    connect_peer();
    want = 5000;
    window = 0;
    say(PACKET_TCP_ACK, "x");
    g_assert_false(hear());
    wait_for(something);
    g_assert_cmpuint(n_sent, ==, 1);
    g_assert_cmpuint(sent[0].end - sent[0].payload, ==, 1);
    window = 65535;
    hear_all();
    assert_heard(5000);
    disconnect_peer();
    end();
}

static void who_says_nothing_is_left(void)
{
    begin();
    connect_peer();
    wait_for(something);
    g_assert_true(sent[0].tcp_flags & PACKET_TCP_FIN);
    hear();
    say(PACKET_TCP_ACK, "");
    g_assert_cmpuint(tcp_count(tcp), ==, 1);
    wait_for(nobody); /* though it does not close its half */
    disconnect_peer();
    connect_peer(); /* and one who is there no more */
    want = 10;
    say(PACKET_TCP_ACK, "x");
    lose = 100;
    wait_for(nobody);
    lose = 0;
    seq = ISS;
    say(PACKET_TCP_SYN, ""); /* or never was */
    g_assert_cmpuint(tcp_count(tcp), ==, 1);
    wait_for(nobody);
    disconnect_peer();
    end();
}

/* RFC 5961. */
static void resets_and_syns_have_to_be_exact(void)
{
    begin();
    connect_peer();
    seq += 10;
    say_as(1, 4000, PACKET_TCP_RST, "");
    seq -= 10;
    say_as(1, 4000, PACKET_TCP_SYN, "");
    g_assert_cmpuint(tcp_count(tcp), ==, 1);
    g_assert_cmpuint(n_sent, ==, 2);
    g_assert_cmphex(sent[1].tcp_flags, ==, PACKET_TCP_ACK);
    n_sent = 0;
    seq -= 100000;
    say_as(1, 4000, PACKET_TCP_RST, "");
    seq += 100000;
    g_assert_cmpuint(n_sent, ==, 0);
    say(PACKET_TCP_RST, "");
    g_assert_cmpuint(tcp_count(tcp), ==, 0);
    say(PACKET_TCP_ACK, "x"); /* of no connection */
    g_assert_cmphex(sent[0].tcp_flags, ==, PACKET_TCP_RST);
    g_assert_cmpuint(sent[0].tcp_seq, ==, ack);
    disconnect_peer();
    end();
}

static void what_is_beside_the_point_is_not_taken(void)
{
    begin();
    connect_peer();
    seq += 3;
    say_as(1, 4000, PACKET_TCP_ACK, "later");
    seq -= 3;
    ack += 1000;
    say_as(1, 4000, PACKET_TCP_ACK, "acknowledges what was never sent");
    ack -= 1000;
    g_assert_cmpstr(taken->str, ==, "");
    seq -= 2;
    say_as(1, 4000, PACKET_TCP_ACK, "12new"); /* two of them were the SYN's, say */
    seq += 5;
    g_assert_cmpstr(taken->str, ==, "new");
    disconnect_peer();
    end();
}

static void who_did_not_hear_our_syn_is_not_served(void)
{
    begin();
    seq = ISS;
    say(PACKET_TCP_SYN, "");
    ack = sent[0].tcp_seq - 5; /* older than anything we said: RFC 9293, 3.10.7.4 */
    n_sent = 0;
    say(PACKET_TCP_ACK, "guessed");
    g_assert_cmpstr(taken->str, ==, "");
    g_assert_cmpuint(tcp_count(tcp), ==, 0);
    g_assert_cmphex(sent[0].tcp_flags & PACKET_TCP_RST, ==, PACKET_TCP_RST);
    end();
}

static void fill(unsigned at, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        say_as(at, (uint16_t)(5000 + i), PACKET_TCP_SYN, "");
        n_sent = 0;
    }
}

static void connections_are_bounded_and_shared(void)
{
    begin();
    seq = ISS;
    window = 100;
    fill(1, TCP_MAX_OF_PORT);
    say_as(1, 6000, PACKET_TCP_SYN, "");
    g_assert_cmpuint(tcp_count(tcp), ==, TCP_MAX_OF_PORT);
    g_assert_cmphex(sent[0].tcp_flags, ==, PACKET_TCP_RST | PACKET_TCP_ACK);
    for (unsigned i = 2; i <= TCP_MAX / TCP_MAX_OF_PORT; i++)
        fill(i, TCP_MAX_OF_PORT);
    g_assert_cmpuint(tcp_count(tcp), ==, TCP_MAX);
    n_sent = 0;
    say_as(50, 6000, PACKET_TCP_SYN, ""); /* and who has none gets some */
    g_assert_cmpuint(tcp_count(tcp), ==, TCP_MAX);
    g_assert_cmpuint(n_sent, ==, 2);
    g_assert_true(sent[0].tcp_flags & PACKET_TCP_RST);
    g_assert_cmpuint(sent[0].to_port, ==, 5000);
    g_assert_cmphex(sent[1].tcp_flags, ==, PACKET_TCP_SYN | PACKET_TCP_ACK);
    tcp_port_removed(tcp, &port[2]);
    g_assert_cmpuint(tcp_count(tcp), ==, TCP_MAX - TCP_MAX_OF_PORT);
    end();
}

/* Whatever it says, it gets no more than is its own, and all ends. */
static void who_talks_nonsense_hurts_nobody(void)
{
    begin();
    window = 65535;
    want = 700;
    for (unsigned round = 0; round < 20000; round++) {
        uint16_t from = (uint16_t)g_random_int_range(1, 12);
        char data[100] = "";

        memset(data, 'x', (size_t)g_random_int_range(0, 99));
        seq = ISS + (uint32_t)g_random_int_range(-50, 300);
        ack = n_sent ? sent[n_sent - 1].tcp_seq + (uint32_t)g_random_int_range(-9, 999)
                     : g_random_int();
        if (n_sent && g_random_boolean()) { /* sense, of the one that was just heard */
            from = sent[n_sent - 1].to_port;
            ack = sent[n_sent - 1].tcp_seq + 1;
        }
        window = (uint16_t)g_random_int_range(0, 3000);
        n_sent = 0;
        say_as(1, from, (uint8_t)g_random_int_range(0, 32) & (round % 7 ? 0x1b : 0x1f),
               data);
        g_assert_cmpuint(tcp_count(tcp), <=, TCP_MAX_OF_PORT);
        g_assert_cmpuint(n_sent, <=, 20);
        sw.now_ns += 10000000;
    }
    g_assert_cmpuint(taken->len, >, 0);
    n_sent = 0;
    lose = UINT_MAX;
    wait_for(nobody);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(fn) g_test_add_func("/tcp/" #fn, fn)
    TEST(what_is_said_is_taken_answered_and_over);
    TEST(a_long_answer_keeps_to_window_and_flight);
    TEST(what_is_lost_is_sent_again);
    TEST(what_came_and_is_sent_again_ends_all_the_same);
    TEST(a_window_that_is_shut_is_asked_and_opens);
    TEST(who_says_nothing_is_left);
    TEST(resets_and_syns_have_to_be_exact);
    TEST(what_is_beside_the_point_is_not_taken);
    TEST(who_did_not_hear_our_syn_is_not_served);
    TEST(connections_are_bounded_and_shared);
    TEST(who_talks_nonsense_hurts_nobody);
    return g_test_run();
}
