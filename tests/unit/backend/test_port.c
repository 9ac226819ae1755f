/* A card on a named network, at a switch that the test plays: the hello, frames both
 * ways, a ring that is full, the link, and a switch that dies. */
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "card.h"
#include "network/config.h"
#include "network/place.h"
#include "network/ring.h"
#include "util/fd.h"
#include "util/json.h"
#include "util/unixsocket.h"

enum { FRAME = NET_HDR_LEN + 60 };

/* Everything here runs on the test's one thread but the answer to a hello, which the card
 * waits for. */
typedef struct Scene {
    Card card;
    char *folder;
    UnixListener listener;
    const char *answer; /* to the next hello; NULL: a good one */
    GThread *thread;
    json_t *hello;
    int fd, memory_fd;
    int kick[2], call[2]; /* pipes: what wakes the switch, what wakes the card */
    void *memory;
    Ring from_card, to_card;
    char said[4096]; /* by the card after its hello */
    size_t n_said;

    uint8_t first; /* byte of the frame that was received last */
} Scene;

/* ---- the switch -----------------------------------------------------------------------
 */

static void send_answer(Scene *s, const char *text, bool with_rings)
{
    int fds[] = {s->memory_fd, s->kick[1], s->call[0]};
    char control[CMSG_SPACE(sizeof(fds))] = {0};
    struct iovec iov = {(char *)text, strlen(text)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    struct cmsghdr *c = (struct cmsghdr *)(void *)control;

    if (with_rings) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(fds)),
                              .cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fds, sizeof(fds));
    }
    g_assert_cmpint(sendmsg(s->fd, &msg, MSG_NOSIGNAL), ==, (ssize_t)strlen(text));
}

static void make_rings(Scene *s, size_t bytes)
{
    s->memory_fd = fd_memory("rings", bytes, 0);
    g_assert_true(fd_bell(&s->kick[0], &s->kick[1], NULL));
    g_assert_true(fd_bell(&s->call[0], &s->call[1], NULL));
    s->memory = mmap(NULL, ring_memory(1), PROT_READ | PROT_WRITE, MAP_SHARED,
                     s->memory_fd, 0);
    ring_attach(&s->from_card, s->memory, 1, 0, true, s->call[1]);
    ring_attach(&s->to_card, s->memory, 1, 0, false, s->call[1]);
}

static void drop_rings(Scene *s)
{
    if (s->memory)
        munmap(s->memory, ring_memory(1));
    s->memory = NULL;
    fd_close(&s->memory_fd);
    for (unsigned i = 0; i < 2; i++) {
        fd_close(&s->kick[i]);
        fd_close(&s->call[i]);
    }
    fd_close(&s->fd);
}

/* Accepts one card. */
static void *greet(void *opaque)
{
    Scene *s = opaque;
    char hello[8192];
    ssize_t n;

    s->fd = accept(s->listener.fd, NULL, NULL);
    g_assert_cmpint(s->fd, >=, 0);
    n = recv(s->fd, hello, sizeof(hello) - 1, 0);
    g_assert_cmpint(n, >, 0);
    hello[n] = '\0';
    json_decref(s->hello);
    s->hello = json_loads(hello, 0, NULL);
    g_assert_nonnull(s->hello);
    if (!s->answer || strstr(s->answer, "return"))
        make_rings(s, s->answer ? 4096 : ring_memory(1));
    send_answer(s,
                s->answer ? s->answer
                          : "{\"return\": {\"port\": 3, \"mtu\": 1400, \"queues\": 1, "
                            "\"link\": true}}\n",
                !s->answer || strstr(s->answer, "return"));
    return NULL;
}

static void expect_hello(Scene *s, const char *answer)
{
    s->answer = answer;
    s->thread = g_thread_new("switch", greet, s);
}

static void greeted(Scene *s)
{
    g_thread_join(s->thread);
}

/* What the card has said since. */
static const char *said(Scene *s)
{
    ssize_t n = recv(s->fd, s->said + s->n_said, sizeof(s->said) - 1 - s->n_said,
                     MSG_DONTWAIT);

    s->n_said += (size_t)MAX(n, 0);
    s->said[s->n_said] = '\0';
    return s->said;
}

static void say(Scene *s, const char *text)
{
    g_assert_cmpint(send(s->fd, text, strlen(text), MSG_NOSIGNAL), ==,
                    (ssize_t)strlen(text));
}

/* ---- the card -------------------------------------------------------------------------
 */

static void on_readable(void *opaque)
{
    Scene *s = opaque;
    uint8_t frame[NET_MAX_FRAME];
    const struct iovec iov[] = {{frame, 7}, {frame + 7, sizeof(frame) - 7}};
    ssize_t len;

    while ((len = netdev_receive(s->card.nd, iov, 2)) > 0) {
        g_assert_cmpint(len, ==, FRAME);
        s->first = frame[NET_HDR_LEN];
        s->card.n_received++;
    }
}

static const NetDevCard card = {
    .vm = "web", .id = "net0", .mac = {2, 0, 0, 0, 0, 7}, .queues = 1};

static NetDev *open_card(Scene *s, GError **error)
{
    char *ip[] = {(char *)"10.5.0.7", (char *)"fd00::7", NULL};
    char *groups[] = {(char *)"front", NULL}, *trunk[] = {(char *)"10", NULL};
    NetDevOptions o = {.type = NETDEV_NETWORK,
                       .queues = 1,
                       .network = (char *)"blue",
                       .ip = ip,
                       .group = groups,
                       .trunk = trunk,
                       .vlan = 5,
                       .trust = true};

    return netdev_open(&o, &card, s->card.loop, error);
}

static void begin(Scene *s)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL, *networks = NULL;
    NetworkConfig *config = param_new(&network_params);

    *s = (Scene){
        .fd = -1, .memory_fd = -1, .kick = {-1, -1}, .call = {-1, -1}, .card.link = -1};
    s->folder = g_dir_make_tmp("hutch-XXXXXX", NULL);
    networks = g_build_filename(s->folder, "networks", NULL);
    g_setenv("XDG_RUNTIME_DIR", s->folder, true);
    g_setenv("HUTCH_NETWORKS", networks, true);
    config->mode = NETWORK_ISOLATED;
    g_assert_true(network_create("blue", config, NULL));
    param_free(&network_params, config);
    g_assert_true(network_make_place("blue", NULL));
    path = network_place("blue", NETWORK_PORT, NULL);
    g_assert_true(unix_listen(&s->listener, path, 4, NULL));
    g_assert_true(fd_set_nonblock(s->listener.fd, false, NULL));
    s->card.loop = ioloop_new(&error);
    g_assert_no_error(error);
}

static void begin_joined(Scene *s)
{
    g_autoptr(GError) error = NULL;

    begin(s);
    expect_hello(s, NULL);
    s->card.nd = open_card(s, &error);
    g_assert_no_error(error);
    greeted(s);
    netdev_set_handlers(s->card.nd, on_readable, card_on_writable, s);
    netdev_set_link_handler(s->card.nd, card_on_link);
}

static void end(Scene *s)
{
    char *argv[] = {(char *)"rm", (char *)"-r", s->folder, NULL};

    netdev_close(s->card.nd);
    ioloop_timer_cancel(&s->card.timer);
    ioloop_free(s->card.loop);
    drop_rings(s);
    json_decref(s->hello);
    unix_unlisten(&s->listener);
    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, NULL, NULL));
    g_free(s->folder);
}

static bool send_frame(Scene *s, uint8_t mark, size_t len)
{
    static uint8_t frame[NET_MAX_FRAME];
    const struct iovec iov = {frame, len};
    bool sent;

    frame[NET_HDR_LEN] = mark;
    sent = netdev_send(s->card.nd, &iov, 1);
    netdev_flush(s->card.nd);
    return sent;
}

static void put_frame(Scene *s, uint8_t mark)
{
    uint8_t frame[FRAME] = {[NET_HDR_LEN] = mark};
    const struct iovec iov = {frame, sizeof(frame)};

    g_assert_true(ring_put(&s->to_card, &iov, 1));
    ring_flush(&s->to_card);
}

/* ---- the tests ------------------------------------------------------------------------
 */

static void it_says_who_it_is(void)
{
    Scene s;
    json_t *told;

    begin_joined(&s);
    told = json_pack("{s:i, s:s, s:s, s:s, s:[ss], s:[s], s:i, s:i, s:[i], s:b, s:i}",
                     "hutch-port", 1, "vm", "web", "nic", "net0", "mac",
                     "02:00:00:00:00:07", "ip", "10.5.0.7", "fd00::7", "groups", "front",
                     "queues", 1, "vlan", 5, "trunk", 10, "trust", 1, "offloads", 0);
    g_assert_cmpuint(strlen(json_get_text(s.hello, "instance")), ==, 32);
    json_object_del(s.hello, "instance");
    g_assert_true(json_equal(s.hello, told));
    json_decref(told);
    g_assert_cmpuint(netdev_mtu(s.card.nd), ==, 1400);
    g_assert_true(netdev_link(s.card.nd));
    netdev_set_offloads(s.card.nd, NET_OFFLOADS);
    g_assert_cmpstr(said(&s), ==, "{\"offloads\": 111}\n");
    netdev_set_link(s.card.nd, false);
    netdev_announce(s.card.nd);
    g_assert_nonnull(strstr(said(&s), "{\"link\": false}\n{\"announce\": true}\n"));
    end(&s);
}

static bool got_three(Card *c)
{
    return c->n_received == 3;
}

static bool is_asleep(Card *c)
{
    Scene *s = (Scene *)c;

    return __atomic_load_n(&s->to_card.shared->asleep, __ATOMIC_ACQUIRE);
}

static void frames_pass_both_ways(void)
{
    const uint8_t *frame;
    uint32_t len;
    Scene s;

    begin_joined(&s);
    g_assert_true(send_frame(&s, 0x5a, FRAME));
    frame = ring_peek(&s.from_card, &len);
    g_assert_nonnull(frame);
    g_assert_cmpuint(len, ==, FRAME);
    g_assert_cmphex(frame[NET_HDR_LEN], ==, 0x5a);

    put_frame(&s, 1); /* it waits until somebody reads */
    g_assert_cmpuint(s.card.n_received, ==, 0);
    netdev_set_reading(s.card.nd, true);
    g_assert_true(card_until(&s.card, is_asleep));
    g_assert_cmpuint(s.card.n_received, ==, 1);
    put_frame(&s, 2);
    put_frame(&s, 3);
    g_assert_true(card_until(&s.card, got_three));
    g_assert_cmpuint(s.first, ==, 3);
    g_assert_true(card_until(&s.card, is_asleep));
    g_assert_cmpuint(s.to_card.shared->tail, ==, s.to_card.head);
    end(&s);
}

static bool is_writable(Card *c)
{
    return c->n_writable == 1;
}

static void a_full_ring_holds_back(void)
{
    unsigned n = 0;
    uint32_t len;
    Scene s;

    begin_joined(&s);
    while (n < 1000 && send_frame(&s, 1, NET_MAX_FRAME))
        n++;
    g_assert_cmpuint(n, ==, RING_BYTES / NET_MAX_FRAME);
    while (ring_peek(&s.from_card, &len))
        ring_take(&s.from_card);
    ring_release(&s.from_card);
    g_assert_true(card_until(&s.card, is_writable));
    g_assert_true(send_frame(&s, 2, NET_MAX_FRAME));
    end(&s);
}

static uint64_t held_bytes(Scene *s)
{
    struct stat st;

    g_assert_cmpint(fstat(s->memory_fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

static bool is_given_back(Card *c)
{
    Scene *s = (Scene *)c;

    return held_bytes(s) <= 4096 + RING_KEPT;
}

static void a_ring_that_rests_is_given_back(void)
{
    uint32_t len;
    Scene s;

    begin_joined(&s);
    for (unsigned i = 0; i < 5; i++)
        g_assert_true(send_frame(&s, 1, NET_MAX_FRAME));
    card_run(&s.card,
             3 * RING_REST_MS *
                 1000000ll); /* it finds that nobody has read it, and waits to be told */
    g_assert_cmpuint(held_bytes(&s), >, RING_BYTES / 2);
    while (ring_peek(&s.from_card, &len))
        ring_take(&s.from_card);
    ring_release(&s.from_card);
    g_assert_true(card_until(&s.card, is_given_back));
    g_assert_true(send_frame(&s, 2, FRAME));
    g_assert_nonnull(ring_peek(&s.from_card, &len));
    g_assert_cmpuint(len, ==, FRAME);
    end(&s);
}

static void the_switch_cuts_the_link(void)
{
    Scene s;

    begin_joined(&s);
    say(&s, "{\"link\"");
    say(&s, ": false}\n{\"other\": 1}\n");
    g_assert_true(card_until(&s.card, card_link_is_down));
    g_assert_false(netdev_link(s.card.nd));
    end(&s);
}

static void who_was_disconnected_stays_away(void)
{
    Scene s;

    begin_joined(&s);
    say(&s, "{\"leave\": true}\n");
    drop_rings(&s);
    g_assert_true(card_until(&s.card, card_link_is_down));
    card_run(&s.card, 50000000);
    g_assert_true(fd_set_nonblock(s.listener.fd, true, NULL));
    g_assert_cmpint(accept(s.listener.fd, NULL, NULL), ==, -1);
    end(&s);
}

static bool joined_again(Card *c)
{
    Scene *s = (Scene *)c;

    return send_frame(s, 9, FRAME) && s->memory && s->from_card.shared->head > 0;
}

static void a_dead_switch_is_joined_again(void)
{
    g_autofree char *instance = NULL;
    Scene s;

    begin_joined(&s);
    netdev_set_reading(s.card.nd, true);
    netdev_set_offloads(s.card.nd, NET_OFFLOAD_CSUM);
    instance = g_strdup(json_get_text(s.hello, "instance"));
    while (send_frame(&s, 1, NET_MAX_FRAME)) /* it is owed a `writable` */
        ;
    drop_rings(&s);
    expect_hello(&s, NULL);
    g_assert_true(card_until(&s.card, is_writable));
    greeted(&s);
    g_assert_true(card_until(&s.card, joined_again));
    g_assert_cmpstr(json_get_text(s.hello, "instance"), ==, instance);
    g_assert_cmpint(json_integer_value(json_object_get(s.hello, "offloads")), ==,
                    NET_OFFLOAD_CSUM);
    g_assert_cmpint(s.card.link, ==, -1); /* nobody saw it go */
    s.card.n_received = 2;
    put_frame(&s, 4);
    g_assert_true(card_until(&s.card, got_three));
    end(&s);
}

/* A card that goes while a thread joins for it. */
static void it_can_go_while_it_joins(void)
{
    Scene s;

    begin_joined(&s);
    drop_rings(&s);
    s.card.n_writable = 0;
    card_run(&s.card, 20000000); /* it has connected by now, and is not answered */
    s.fd = accept(s.listener.fd, NULL, NULL);
    g_clear_pointer(&s.card.nd, netdev_close);
    send_answer(&s, "{\"error\": {\"desc\": \"too late\"}}\n", false);
    end(&s);
}

static void refusals_are_sentences(void)
{
    static const struct {
        const char *answer, *says;
    } bad[] = {
        {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"10.5.0.7 is web2's\"}}\n",
         "network 'blue': 10.5.0.7 is web2's"},
        {"{\"return\": {}}\n", "no usable rings"}, /* which are too short */
        {"Hello!\n", "nonsense"},
    };
    Scene s;

    begin(&s);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        expect_hello(&s, bad[i].answer);
        g_assert_null(open_card(&s, &error));
        greeted(&s);
        if (!strstr(error->message, bad[i].says))
            g_error("\"%s\" lacks \"%s\"", error->message, bad[i].says);
        drop_rings(&s);
    }
    end(&s);
}

static void bad_options_are_refused(void)
{
    char *words[] = {(char *)"a b", NULL}, *v0[] = {(char *)"0", NULL};
    char *big[] = {(char *)"4095", NULL}, *any[] = {(char *)"0.0.0.0", NULL};
    const struct {
        NetDevOptions o;
        const char *says;
    } bad[] = {
        {{.network = (char *)"blue", .ip = words}, "ip:"},
        {{.network = (char *)"blue", .ip = any}, "cannot be a guest's"},
        {{.network = (char *)"blue", .group = words}, "group: 'a b'"},
        {{.network = (char *)"blue", .trunk = v0}, "trunk: '0'"},
        {{.network = (char *)"blue", .trunk = big}, "trunk: '4095'"},
        {{.network = (char *)"../blue"}, "../blue"},
        {{.network = (char *)"blue", .ifname = (char *)"t0"}, "ifname= goes with type"},
        {{.network = (char *)"blue", .listen = true}, "listen= goes with type stream"},
        {{.type = NETDEV_USER, .network = (char *)"blue"}, "network= goes with type"},
        {{.type = NETDEV_NETWORK}, "network= is missing"},
        {{.type = NETDEV_NONE}, "key 'type' is missing"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        NetDevOptions o = bad[i].o;
        g_autoptr(GError) error = NULL;

        g_assert_false(netdev_check(&o, &error));
        if (!strstr(error->message, bad[i].says))
            g_error("\"%s\" lacks \"%s\"", error->message, bad[i].says);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN); /* as in hutch */
    g_test_add_func("/port/bad_options_are_refused", bad_options_are_refused);
    g_test_add_func("/port/it_says_who_it_is", it_says_who_it_is);
    g_test_add_func("/port/frames_pass_both_ways", frames_pass_both_ways);
    g_test_add_func("/port/a_full_ring_holds_back", a_full_ring_holds_back);
    g_test_add_func("/port/a_ring_that_rests_is_given_back",
                    a_ring_that_rests_is_given_back);
    g_test_add_func("/port/the_switch_cuts_the_link", the_switch_cuts_the_link);
    g_test_add_func("/port/a_dead_switch_is_joined_again", a_dead_switch_is_joined_again);
    g_test_add_func("/port/who_was_disconnected_stays_away",
                    who_was_disconnected_stays_away);
    g_test_add_func("/port/it_can_go_while_it_joins", it_can_go_while_it_joins);
    g_test_add_func("/port/refusals_are_sentences", refusals_are_sentences);
    return g_test_run();
}
