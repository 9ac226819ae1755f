/* virtio/net_vhost.c by its driver's side, with back ends that lie, hang and leave. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/un.h>

#include "tests/unit/backend/vhost_fake.h"
#include "util/bits.h"
#include "util/fd.h"
#include "virtio/devices.h"
#include "virtio/net.h"
#include "virtio/net_private.h"
#include "vq_guest.h"

enum { MAX_BACKENDS = 3, CTRL_OK = 0, CTRL_ERR = 1, CONFIG_STATUS = 6 };
enum {
    SET_FEATURES = 2,
    SET_LOG_BASE = 6,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_CALL = 13,
    SET_VRING_ENABLE = 18,
    SEND_RARP = 19,
    SET_MTU = 20
};

/* As passt's, and with that all that a card can have. */
#define LOGS     (1ull << 1)
#define PROTOCOL (LOGS | 1ull << 2 | 1ull << 3)
#define DATA     (1ull << 15 | 1ull << 26 | 1ull << 30 | 1ull << 32)
#define OFFLOADS (1ull << 0 | 1ull << 1 | 1ull << 7 | 1ull << 11)

/* Each connection to the socket is another one's. */
static struct {
    char folder[32], path[64];
    int fd;
    FakeBackend b[MAX_BACKENDS];
    unsigned n, came; /* atomic */
    pthread_t thread;
} server;
static VqGuest g;
static void *options;

static void *let_in(void *opaque)
{
    for (unsigned i = 0; i < server.n; i++) {
        int fd = accept4(server.fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            break;
        fake_start(&server.b[i], fd);
        __atomic_fetch_add(&server.came, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void prepare(unsigned n, uint64_t features, uint64_t protocol)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    memset(&server, 0, sizeof(server));
    strcpy(server.folder, "/tmp/vhost-XXXXXX");
    g_assert_nonnull(mkdtemp(server.folder));
    g_snprintf(server.path, sizeof(server.path), "%s/s", server.folder);
    strcpy(a.sun_path, server.path);
    server.n = n;
    for (unsigned i = 0; i < n; i++) {
        server.b[i].features = features;
        server.b[i].protocol = protocol;
    }
    server.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(server.fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(listen(server.fd, 8), ==, 0);
}

static void serve(unsigned n, uint64_t features, uint64_t protocol)
{
    prepare(n, features, protocol);
    g_assert_cmpint(pthread_create(&server.thread, NULL, let_in, NULL), ==, 0);
}

/* A good one, and after it one with a fault. */
static void serve_then(uint32_t bad_request, FakeFault fault)
{
    prepare(2, DATA, PROTOCOL);
    server.b[1].bad_request = bad_request;
    server.b[1].fault = fault;
    g_assert_cmpint(pthread_create(&server.thread, NULL, let_in, NULL), ==, 0);
}

static void parse(const char *more)
{
    g_autofree char *text = g_strdup_printf("vhost-user,path=%s%s", server.path, more);
    GError *error = NULL;

    options = param_new(virtio_net_ops.params);
    param_parse(virtio_net_ops.params, options, text, &error);
    g_assert_no_error(error);
}

static void start(const char *more)
{
    parse(more);
    vqg_open(&g, &virtio_net_ops, &(VqgSetup){.mode = VQG_THREAD, .options = options});
}

static void end_server(void)
{
    shutdown(server.fd, SHUT_RDWR);
    pthread_join(server.thread, NULL);
    close(server.fd);
    for (unsigned i = 0; i < server.came; i++) {
        fake_wait(&server.b[i]);
        fake_close(&server.b[i]);
    }
    unlink(server.path);
    rmdir(server.folder);
    param_free(virtio_net_ops.params, options);
}

static void end(void)
{
    vqg_finish(&g);
    end_server();
}

static uint64_t last_u64(unsigned i, unsigned request)
{
    return load_le64(server.b[i].last[request]);
}

static uint8_t ctrl(unsigned queue, uint8_t class, uint8_t command, const void *data,
                    uint32_t len)
{
    uint8_t out[64] = {class, command}, ack = 0xee;

    memcpy(out + 2, data, len);
    vqg_do(&g, queue, out, 2 + len, &ack, 1);
    return ack;
}

/* The back end has used so many buffers of a queue. */
static void use(unsigned queue, uint16_t n)
{
    uint16_t *device = g.vdev->queues[queue].vq.device;

    __atomic_store_n(&device[1], n, __ATOMIC_RELEASE);
}

static bool comes(bool (*what)(void))
{
    for (unsigned i = 0; i < 20000; i++) {
        if (what())
            return true;
        g_usleep(1000);
    }
    return false;
}

/* ---- what is agreed on ------------------------------------------------------------ */

static void it_offers_what_the_back_end_has_and_what_is_ours(void)
{
    serve(1, DATA | OFFLOADS, PROTOCOL);
    start(",mac=02:00:00:00:00:07");
    g_assert_cmphex(g.vdev->offered, ==,
                    BIT64(NET_F_MRG_RXBUF) | OFFLOADS | BIT64(VIRTIO_F_VERSION_1) |
                        BIT64(NET_F_MAC) | BIT64(NET_F_STATUS) | BIT64(NET_F_CTRL_VQ) |
                        BIT64(NET_F_CTRL_RX) | BIT64(NET_F_CTRL_MAC_ADDR) |
                        BIT64(NET_F_GUEST_ANNOUNCE));
    g_assert_cmphex(vqg_config(&g, 0, 4), ==, 2);
    /* It is told what is its own business, and has the pair, not the control queue. */
    g_assert_cmphex(last_u64(0, SET_FEATURES), ==,
                    BIT64(NET_F_MRG_RXBUF) | OFFLOADS | BIT64(VIRTIO_F_VERSION_1) |
                        BIT64(30));
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ADDR), ==, 2);
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 2);
    g_assert_cmpuint(server.b[0].n_fds[SET_VRING_CALL], ==, 1);
    end();
}

static void the_control_queue_is_answered_here(void)
{
    const uint8_t mac[6] = {2, 0, 0, 0, 0, 9}, on = 1;
    uint8_t now[6], own[6];

    serve(1, DATA, PROTOCOL);
    start("");
    g_assert_cmpuint(ctrl(NET_CTRLQ, 0, 0, &on, 1), ==, CTRL_OK);
    g_assert_cmpuint(ctrl(NET_CTRLQ, 1, 1, mac, 6), ==, CTRL_OK);
    g_assert_true(virtio_net_macs(g.vdev, now, own));
    g_assert_cmpmem(now, 6, mac, 6);
    g_assert_cmpuint(ctrl(NET_CTRLQ, 4, 0, (uint16_t[]){1}, 2), ==, CTRL_ERR);
    end();
}

static void pairs_that_are_not_in_use_are_disabled(void)
{
    serve(1, DATA, PROTOCOL | 1);
    start(",queues=2");
    g_assert_true(g.vdev->offered & BIT64(NET_F_MQ));
    g_assert_false(g.vdev->offered & (BIT64(NET_F_RSS) | BIT64(NET_F_HASH_REPORT)));
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 4);
    g_assert_cmphex(last_u64(0, SET_VRING_ENABLE), ==, 3); /* the last: off */
    g_assert_cmpuint(ctrl(4, 4, 0, (uint16_t[]){2}, 2), ==, CTRL_OK);
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 6);
    g_assert_cmphex(last_u64(0, SET_VRING_ENABLE), ==, 3 | BIT64(32));
    g_assert_cmpuint(ctrl(4, 4, 0, (uint16_t[]){1}, 2), ==, CTRL_OK);
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 8);
    end();
}

static void a_driver_of_one_pair_has_its_control_queue_third(void)
{
    const uint8_t on = 1;

    serve(1, DATA, PROTOCOL | 1);
    parse(",queues=2");
    vqg_open(
        &g, &virtio_net_ops,
        &(VqgSetup){.mode = VQG_THREAD, .options = options, .refuse = BIT64(NET_F_MQ)});
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ADDR), ==, 2);
    g_assert_cmpuint(ctrl(NET_CTRLQ, 0, 0, &on, 1), ==, CTRL_OK);
    end();
}

static void a_back_end_is_asked_for_no_more_pairs_than_it_has(void)
{
    VirtioEnv env = {0};
    GuestMem gm;
    GError *error = NULL;

    serve(2, DATA, PROTOCOL);
    parse(",queues=2");
    g_assert_true(gm_init(&gm, &(GuestMemOptions){.size = MIB, .shared = true}, NULL));
    g_assert_true(gm_add(&gm, 0, MIB, NULL));
    env = (VirtioEnv){.gm = &gm, .n_cpus = 1};
    g_assert_null(virtio_new(&virtio_net_ops, "net0", options, &env, &error));
    g_assert_nonnull(strstr(error->message, "serves 1 pairs of queues, and queues=2"));
    g_clear_error(&error);
    gm_finish(&gm);
    /* Nor does it get memory that is not to be shared. */
    g_assert_true(gm_init(&gm, &(GuestMemOptions){.size = MIB}, NULL));
    g_assert_null(virtio_new(&virtio_net_ops, "net0", options, &env, &error));
    g_assert_nonnull(strstr(error->message, "--memory SIZE,shared"));
    g_clear_error(&error);
    gm_finish(&gm);
    end_server();
}

static void the_mtu_is_told_to_both_sides(void)
{
    serve(1, DATA, PROTOCOL | 1ull << 4);
    start(",mtu=9000");
    g_assert_cmpuint(last_u64(0, SET_MTU), ==, 9000);
    g_assert_cmpuint(vqg_config(&g, 10, 2), ==, 9000);
    end();
}

/* ---- a back end that goes --------------------------------------------------------- */

static void leaves(FakeBackend *b)
{
    shutdown(b->fd, SHUT_RDWR);
}

static bool second_is_started(void)
{
    return __atomic_load_n(&server.came, __ATOMIC_SEQ_CST) > 1 &&
           fake_count(&server.b[1], SET_VRING_ENABLE) == 2;
}

static bool is_up(void)
{
    return vqg_config(&g, CONFIG_STATUS, 2) & NET_S_LINK_UP;
}

static void
the_next_goes_on_at_the_used_index_and_the_guest_sees_the_link_go_and_come(void)
{
    serve(2, DATA, PROTOCOL);
    start("");
    g_assert_true(is_up());
    use(0, 5);
    leaves(&server.b[0]);
    g_assert_true(comes(second_is_started));
    g_assert_true(comes(is_up));
    g_assert_cmpuint(vqg_config_interrupts(&g), >=, 2);
    g_assert_cmpuint(fake_count(&server.b[1], SET_VRING_BASE), ==, 2);
    g_assert_cmphex(last_u64(1, SET_VRING_BASE), ==, 1); /* queue 1, from 0 */
    g_assert_false(vqg_broken(&g));
    end();
}

/* Flags of an eventfd are those of all who have it. */
static void one_that_makes_kicks_wait_holds_nobody_up(void)
{
    uint64_t full = UINT64_MAX - 1;

    serve(2, DATA, PROTOCOL);
    start("");
    fd_event_take(server.b[0].kick_fd);
    g_assert_cmpint(write(server.b[0].kick_fd, &full, sizeof(full)), ==, sizeof(full));
    g_assert_cmpint(fcntl(server.b[0].kick_fd, F_SETFL, 0), ==, 0);
    alarm(20);
    virtio_queue_kick(g.vdev, 1); /* the last that it was given */
    leaves(&server.b[0]);
    g_assert_true(comes(second_is_started));
    vqg_reset(&g);
    alarm(0);
    end();
}

static bool is_broken(void)
{
    return vqg_broken(&g);
}

static void one_that_comes_back_with_less_breaks_the_device(void)
{
    serve(2, DATA | OFFLOADS, PROTOCOL);
    server.b[1].features = DATA;
    start("");
    leaves(&server.b[0]);
    g_assert_true(comes(is_broken));
    end();
}

/* At each request a fault of each kind; whatever happens, it happens within the limits.
 */
static void no_lie_of_a_back_end_ends_or_hangs_more_than_the_device(void)
{
    static const unsigned requests[] = {1, 5, SET_VRING_ADDR, GET_VRING_BASE,
                                        SET_VRING_ENABLE};

    for (unsigned i = 0; i < G_N_ELEMENTS(requests); i++)
        for (FakeFault f = FAKE_SILENT; f < FAKE_N; f++) {
            bool waits = f == FAKE_SILENT || f == FAKE_HALF;
            int64_t begin = clock_ns();

            if (waits && requests[i] != GET_VRING_BASE)
                continue; /* a second each */
            serve_then(requests[i], f);
            start(""); /* the first is good, so that there is a device */
            leaves(&server.b[0]);
            g_usleep(15000);
            vqg_reset(&g);
            vqg_finish(&g);
            end_server();
            g_assert_cmpint(clock_ns() - begin, <, 20000000000ll);
        }
}

/* Connects as soon as somebody listens; again after it has left. */
static void *come_in(void *opaque)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    strcpy(a.sun_path, server.path);
    for (unsigned i = 0; i < server.n; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        while (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
            g_usleep(1000);
        fake_start(&server.b[i], fd);
        __atomic_fetch_add(&server.came, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void a_back_end_may_be_the_one_that_connects(void)
{
    serve(0, DATA, PROTOCOL);
    pthread_join(server.thread, NULL);
    unlink(server.path);
    for (unsigned i = 0; i < 2; i++) {
        server.b[i].features = DATA;
        server.b[i].protocol = PROTOCOL;
    }
    server.n = 2;
    g_assert_cmpint(pthread_create(&server.thread, NULL, come_in, NULL), ==, 0);
    start(",listen");
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 2);
    leaves(&server.b[0]);
    g_assert_true(comes(second_is_started));
    end();
}

/* ---- the cable, and being saved --------------------------------------------------- */

static bool rings_are_stopped(void)
{
    return fake_count(&server.b[0], GET_VRING_BASE) == 2;
}

static bool rings_go_on(void)
{
    return fake_count(&server.b[0], SET_VRING_ENABLE) == 4;
}

static void a_card_without_its_cable_has_its_rings_stopped(void)
{
    serve(1, DATA, PROTOCOL);
    start("");
    g_assert_true(virtio_net_set_link(g.vdev, false));
    g_assert_true(comes(rings_are_stopped));
    g_assert_false(is_up());
    virtio_quiesce(g.vdev);
    virtio_resume(g.vdev);
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 2); /* still */
    g_assert_true(virtio_net_set_link(g.vdev, true));
    g_assert_true(comes(rings_go_on));
    end();
}

static void it_can_be_saved_where_the_back_end_tells_what_it_writes(void)
{
    g_autofree uint64_t *dirty = g_new0(uint64_t, (VQG_LOW_SIZE + VQG_HIGH_SIZE) /
                                                      GM_PAGE_SIZE / 64);

    serve(1, DATA, PROTOCOL);
    start("");
    g_assert_null(virtio_pinned(g.vdev));
    end();
    serve(1, DATA, PROTOCOL & ~LOGS);
    start("");
    g_assert_nonnull(strstr(virtio_pinned(g.vdev), "cannot tell what it writes"));
    virtio_quiesce(g.vdev); /* the log may be on when one comes that cannot */
    g_assert_true(gm_log_start(g.vdev->gm, NULL));
    virtio_resume(g.vdev);
    g_assert_cmpuint(fake_count(&server.b[0], SET_VRING_ENABLE), ==, 4);
    g_assert_cmpuint(fake_count(&server.b[0], SET_LOG_BASE), ==, 0);
    g_assert_false(last_u64(0, SET_FEATURES) & BIT64(VHOST_F_LOG_ALL));
    virtio_quiesce(g.vdev); /* all may have been written, then */
    gm_log_fetch(g.vdev->gm, dirty);
    g_assert_cmphex(dirty[0], ==, UINT64_MAX);
    end();
}

/* DPDK answers SET_LOG_BASE with nothing, passt with a number. */
static void log_and_fetch(FakeFault answer)
{
    const unsigned pages = (VQG_LOW_SIZE + VQG_HIGH_SIZE) / GM_PAGE_SIZE;
    g_autofree uint64_t *dirty = g_new0(uint64_t, pages / 64);
    GuestMem *gm;
    uint64_t address[5];

    serve(1, DATA, PROTOCOL);
    start("");
    server.b[0].bad_request = SET_LOG_BASE;
    server.b[0].fault = answer;
    gm = g.vdev->gm;
    virtio_quiesce(g.vdev);
    g_assert_true(gm_log_start(gm, NULL));
    virtio_resume(g.vdev);
    g_assert_true(last_u64(0, SET_FEATURES) & BIT64(VHOST_F_LOG_ALL));
    g_assert_cmpuint(server.b[0].n_fds[SET_LOG_BASE], ==, 1);
    memcpy(address, server.b[0].last[SET_VRING_ADDR], sizeof(address));
    g_assert_cmphex(address[0], ==, 1 | BIT64(32)); /* queue 1, whose writes are logged */
    memcpy(&address[0], server.b[0].last[SET_VRING_ADDR] + 32, 8);
    g_assert_cmphex(address[0], ==, g.vdev->queues[1].reg.device);

    /* By guest address: page 3, and the second page of what lies above 4 GiB. */
    gm->remote_log->bits[0] = BIT64(3);
    gm->remote_log->bits[(VQG_HIGH_BASE / GM_PAGE_SIZE + 1) / 64] |= BIT64(1);
    gm_log_fetch(gm, dirty);
    g_assert_true(dirty[0] & BIT64(3));
    g_assert_true(dirty[VQG_LOW_SIZE / GM_PAGE_SIZE / 64] & BIT64(1));
    memset(dirty, 0, pages / 8);
    gm_log_fetch(gm, dirty);
    g_assert_false(dirty[0] & BIT64(3)); /* told once */

    virtio_quiesce(g.vdev);
    gm_log_stop(gm);
    virtio_resume(g.vdev);
    g_assert_false(last_u64(0, SET_FEATURES) & BIT64(VHOST_F_LOG_ALL));
    end();
}

static void what_a_back_end_logs_is_told_with_our_own(void)
{
    log_and_fetch(FAKE_GOOD);
    log_and_fetch(FAKE_EMPTY);
}

static void a_saved_card_stands_at_its_used_index_and_goes_on_there(void)
{
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    serve(2, DATA, PROTOCOL);
    start("");
    use(0, 3);
    state = vqg_save(&g);
    vqg_replace(&g, options);
    g_assert_true(vqg_load(&g, state, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(g.vdev->queues[0].vq.used_idx, ==, 3);
    vqg_resume(&g);
    g_assert_true(comes(second_is_started));
    g_assert_true(vqg_config(&g, CONFIG_STATUS, 2) & NET_S_ANNOUNCE);
    end();
}

/* ---- options ---------------------------------------------------------------------- */

static void a_snapshot_of_before_there_was_a_choice_had_passt_by_frames(void)
{
    void *o = param_new(virtio_net_ops.params);
    json_t *json;

    g_assert_true(param_parse(virtio_net_ops.params, o, "passt", NULL));
    virtio_net_ops.options_of_snapshot(o);
    json = param_to_json(virtio_net_ops.params, o);
    g_assert_cmpstr(json_string_value(json_object_get(json, "mode")), ==, "stream");
    g_assert_false(virtio_net_ops.wants_shared(o));
    json_decref(json);
    param_free(virtio_net_ops.params, o);
}

#define TEST(fn) g_test_add_func("/net_vhost/" #fn, fn)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(it_offers_what_the_back_end_has_and_what_is_ours);
    TEST(the_control_queue_is_answered_here);
    TEST(pairs_that_are_not_in_use_are_disabled);
    TEST(a_driver_of_one_pair_has_its_control_queue_third);
    TEST(a_back_end_is_asked_for_no_more_pairs_than_it_has);
    TEST(the_mtu_is_told_to_both_sides);
    TEST(the_next_goes_on_at_the_used_index_and_the_guest_sees_the_link_go_and_come);
    TEST(one_that_makes_kicks_wait_holds_nobody_up);
    TEST(one_that_comes_back_with_less_breaks_the_device);
    TEST(no_lie_of_a_back_end_ends_or_hangs_more_than_the_device);
    TEST(a_back_end_may_be_the_one_that_connects);
    TEST(a_card_without_its_cable_has_its_rings_stopped);
    TEST(it_can_be_saved_where_the_back_end_tells_what_it_writes);
    TEST(what_a_back_end_logs_is_told_with_our_own);
    TEST(a_saved_card_stands_at_its_used_index_and_goes_on_there);
    TEST(a_snapshot_of_before_there_was_a_choice_had_passt_by_frames);
    return g_test_run();
}
