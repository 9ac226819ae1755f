/* virtio/vhost_user_dev.c and its relay, from the driver's side, with back ends that lie,
 * hang and leave. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/un.h>

#include "tests/unit/backend/vhost_fake.h"
#include "util/bits.h"
#include "util/fd.h"
#include "virtio/devices.h"
#include "vq_guest.h"

enum {
    SECTORS = 2048,
    MAX_BACKENDS = 4,
    RELAY_USED = 8192,
    RELAY_SIZE = 16384,
    PATIENCE_S = 60
};
/* Without in-flight memory: requests are relayed. */
#define RELAYED (BIT64(0) | BIT64(3) | BIT64(9) | BIT64(13))

/* Each connection to the socket is another one's. */
typedef struct Server {
    char folder[32], path[64];
    int fd;
    FakeBackend b[MAX_BACKENDS];
    unsigned n;
    unsigned came; /* atomic */
    pthread_t thread;
} Server;

static VqGuest g;
static Server server;

static void *let_in(void *opaque)
{
    Server *s = opaque;

    for (unsigned i = 0; i < s->n; i++) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            break;
        fake_start(&s->b[i], fd);
        __atomic_fetch_add(&s->came, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void serve(Server *s, unsigned n)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    strcpy(s->folder, "/tmp/vhost-XXXXXX");
    g_assert_nonnull(mkdtemp(s->folder));
    g_snprintf(s->path, sizeof(s->path), "%s/s", s->folder);
    strcpy(a.sun_path, s->path);
    s->n = n;
    s->came = 0;
    for (unsigned i = 0; i < n; i++) {
        s->b[i].capacity = s->b[i].capacity ? s->b[i].capacity : SECTORS;
        s->b[i].protocol = s->b[i].protocol ? s->b[i].protocol : RELAYED;
    }
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(s->fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(listen(s->fd, 8), ==, 0);
    g_assert_cmpint(pthread_create(&s->thread, NULL, let_in, s), ==, 0);
}

static void finish(Server *s)
{
    vqg_finish(&g);
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    for (unsigned i = 0; i < s->came; i++) {
        fake_wait(&s->b[i]);
        fake_close(&s->b[i]);
    }
    unlink(s->path);
    rmdir(s->folder);
}

static void open_device(const VirtioOps *ops, const char *text)
{
    static void *options;
    static const VirtioOps *last;
    GError *error = NULL;

    if (options)
        param_free(last->params, options);
    last = ops;
    options = param_new(ops->params);
    g_assert_true(param_parse(ops->params, options, text, &error));
    vqg_open(&g, ops, &(VqgSetup){.mode = VQG_THREAD, .options = options});
}

static void open_disk(Server *s)
{
    open_device(&vhost_user_blk_ops, s->path);
}

static void open_folder(Server *s)
{
    g_autofree char *text = g_strdup_printf("%s,tag=t", s->path);

    open_device(&virtio_fs_ops, text);
}

/* What the threads on the other side come to, in their time. */
static bool comes(bool (*what)(void))
{
    for (unsigned i = 0; i < 5000; i++) {
        if (what())
            return true;
        g_usleep(1000);
    }
    return false;
}

static bool is_broken(void)
{
    return vqg_broken(&g);
}

static bool second_is_started(void)
{
    return __atomic_load_n(&server.came, __ATOMIC_SEQ_CST) > 1 &&
           fake_count(&server.b[1], 18) > 0;
}

/* ---- what back ends do with the rings that they get ---------------------------------
 */

static uint8_t *map_rings(FakeBackend *b)
{
    uint8_t *m = mmap(NULL, RELAY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, b->mem_fd[2],
                      0);

    g_assert_true(m != MAP_FAILED);
    return m;
}

static void answer(FakeBackend *b, uint32_t id, uint16_t idx)
{
    uint8_t *m = map_rings(b);

    store_le32(m + RELAY_USED + 4, id);
    __atomic_store_n((uint16_t *)(m + RELAY_USED + 2), idx, __ATOMIC_RELEASE);
    munmap(m, RELAY_SIZE);
    fd_event_signal(b->call_fd);
}

static void answers_what_it_was_not_given(FakeBackend *b)
{
    answer(b, 77, 1);
}

static void answers_beyond_the_ring(FakeBackend *b)
{
    answer(b, UINT32_MAX, 1);
}

static void answers_without_end(FakeBackend *b)
{
    answer(b, 0, UINT16_MAX);
}

/* Guest RAM and rings: we would die of it. */
static void makes_memory_smaller(FakeBackend *b)
{
    for (unsigned i = 0; i < 3; i++)
        g_assert_cmpint(ftruncate(b->mem_fd[i], 0), ==, -1);
}

/* The flag is the eventfd's, whoever has it. */
static void makes_calls_block(FakeBackend *b)
{
    g_assert_cmpint(fcntl(b->call_fd, F_SETFL, 0), ==, 0);
}

static void leaves(FakeBackend *b)
{
    shutdown(b->fd, SHUT_RDWR);
}

/* ---- the promises -------------------------------------------------------------------
 */

static void a_lie_in_the_rings_breaks_the_device_until_it_is_reset(void)
{
    static void (*const lies[])(FakeBackend * b) = {
        answers_what_it_was_not_given, answers_beyond_the_ring, answers_without_end};

    for (size_t i = 0; i < G_N_ELEMENTS(lies); i++) {
        server = (Server){.b = {{.on_enable = lies[i]}}};
        serve(&server, 2);
        open_disk(&server);
        g_assert_true(comes(is_broken));
        vqg_reset(&g);
        vqg_start(&g);
        g_assert_true(comes(second_is_started));
        g_assert_false(vqg_broken(&g));
        finish(&server);
    }
}

static bool first_has_a_request(void)
{
    uint8_t *m = map_rings(&server.b[0]);
    uint16_t idx = load_le16(m + 4096 + 2);

    munmap(m, RELAY_SIZE);
    return idx == 1;
}

static void memory_stays_as_large_as_it_is(void)
{
    server = (Server){.b = {{.on_enable = makes_memory_smaller}}};
    serve(&server, 1);
    open_disk(&server);
    vqg_offer(&g, 0x300000, 512, IN);
    vqg_kick(&g);
    g_assert_true(comes(first_has_a_request));
    answer(&server.b[0], 0, 1);
    g_assert_true(vqg_wait(&g, 0, 1));
    g_assert_false(vqg_broken(&g));
    finish(&server);
}

static void a_back_end_that_leaves_is_followed_by_the_next_without_a_word(void)
{
    server = (Server){.b = {{.on_enable = leaves}}};
    serve(&server, 2);
    open_disk(&server);
    g_assert_true(comes(second_is_started));
    g_assert_false(vqg_broken(&g));
    g_assert_cmpuint(vqg_config(&g, 0, 8), ==, SECTORS);
    finish(&server);
}

static void what_was_in_flight_is_the_next_ones_in_its_order(void)
{
    uint8_t *m;

    server = (Server){0};
    serve(&server, 2);
    open_disk(&server);
    for (unsigned i = 0; i < 3; i++)
        vqg_offer(&g, 0x300000 + 4096 * i, 512, IN);
    vqg_kick(&g);
    while (!fake_count(&server.b[0], 18))
        g_usleep(1000);
    shutdown(server.b[0].fd, SHUT_RDWR);
    g_assert_true(comes(second_is_started));
    m = map_rings(&server.b[1]);
    g_assert_cmpuint(load_le16(m + 4096 + 2), ==, 3); /* avail: idx, then the heads */
    for (unsigned i = 0; i < 3; i++)
        g_assert_cmpuint(load_le16(m + 4096 + 4 + 2 * i), ==, i);
    munmap(m, RELAY_SIZE);
    answer(&server.b[1], 2, 1);
    g_assert_true(vqg_wait(&g, 0, 1));
    g_assert_cmpuint(vqg_used(&g), ==, 1);
    g_assert_false(vqg_broken(&g));
    finish(&server);
}

static void one_that_hangs_at_driver_ok_delays_the_vcpu_by_its_limit_only(void)
{
    int64_t begin;

    server = (Server){.b = {{.bad_request = 5, .fault = FAKE_SILENT}}};
    serve(&server, 2);
    begin = clock_ns();
    open_disk(&server);
    g_assert_cmpint(clock_ns() - begin, <, 4000000000);
    g_assert_true(comes(second_is_started));
    g_assert_false(vqg_broken(&g));
    finish(&server);
}

static void another_disk_is_not_taken_for_the_one_that_was_there(void)
{
    server = (Server){.b = {{.on_enable = leaves}, {.capacity = SECTORS + 1}}};
    serve(&server, 2);
    open_disk(&server);
    g_assert_true(comes(is_broken));
    finish(&server);
}

static void one_with_in_flight_memory_gets_the_drivers_rings_and_its_memory_again(void)
{
    server = (Server){.b = {{.on_enable = leaves, .protocol = FAKE_PROTOCOL},
                            {.protocol = FAKE_PROTOCOL}}};
    serve(&server, 2);
    open_disk(&server);
    g_assert_true(comes(second_is_started));
    g_assert_cmpuint(load_le32(server.b[1].last[5]), ==, 2); /* regions: RAM only */
    g_assert_cmpuint(server.b[0].count[31], ==, 1);
    g_assert_cmpuint(server.b[1].count[31], ==, 0);
    g_assert_cmpuint(server.b[1].n_fds[32], ==, 1);
    g_assert_cmpuint(load_le64(server.b[1].last[9] + 8), ==,
                     (uintptr_t)vqg_mem(&g, g.q[0].desc_gpa, 1));
    finish(&server);
}

/* A folder's, with the driver's rings: its used ring says what is done. */
static void one_that_answers_in_order_goes_on_at_the_used_index(void)
{
    server = (Server){0};
    serve(&server, 2);
    open_folder(&server);
    g_assert_cmpuint(vqg_config(&g, 0, 8), ==, 't');
    g_assert_cmpuint(vqg_config(&g, 36, 4), ==, 1);
    __atomic_store_n((uint16_t *)(g.q[1].device + 2), 3, __ATOMIC_SEQ_CST);
    shutdown(server.b[0].fd, SHUT_RDWR);
    g_assert_true(comes(second_is_started));
    g_assert_cmpuint(load_le32(server.b[1].last[10]), ==, 1); /* SET_VRING_BASE */
    g_assert_cmpuint(load_le32(server.b[1].last[10] + 4), ==, 3);
    finish(&server);
}

/* It has state of its own, and writes to guest memory in no log. */
static void it_is_pinned_and_says_the_way_out(void)
{
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;

    server = (Server){0};
    serve(&server, 1);
    open_folder(&server);
    g_assert_nonnull(strstr(virtio_pinned(g.vdev), "another process serves it"));
    g_assert_nonnull(strstr(virtio_pinned(g.vdev), "take the device out"));

    state = vqg_save(&g); /* as who made it up would have it */
    g_assert_false(vqg_load(&g, state, &error));
    g_assert_nonnull(strstr(error->message, "restore without it, and add it then"));
    vqg_resume(&g);
    finish(&server);
}

static void a_pause_stops_each_ring_and_a_resume_goes_on_where_it_was(void)
{
    server = (Server){0};
    serve(&server, 1);
    open_folder(&server);
    g_assert_cmpuint(load_le32(server.b[0].last[10] + 4), ==, 0);
    virtio_quiesce(g.vdev);
    g_assert_cmpuint(fake_count(&server.b[0], 11), ==, 2); /* GET_VRING_BASE: 7 */
    virtio_resume(g.vdev);
    g_assert_cmpuint(fake_count(&server.b[0], 18), ==, 4);
    g_assert_cmpuint(load_le32(server.b[0].last[10] + 4), ==, 7);
    finish(&server);
}

static void one_that_makes_its_eventfds_block_does_not_hold_a_pause(void)
{
    server = (Server){.b = {{.on_enable = makes_calls_block}}};
    serve(&server, 1);
    open_folder(&server);
    alarm(PATIENCE_S);
    virtio_quiesce(g.vdev);
    virtio_resume(g.vdev); /* by now it has done so, if it had not before */
    virtio_quiesce(g.vdev);
    alarm(0);
    virtio_resume(g.vdev);
    finish(&server);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define TEST(fn) g_test_add_func("/vhost_dev/" #fn, fn)
    TEST(a_lie_in_the_rings_breaks_the_device_until_it_is_reset);
    TEST(memory_stays_as_large_as_it_is);
    TEST(a_back_end_that_leaves_is_followed_by_the_next_without_a_word);
    TEST(what_was_in_flight_is_the_next_ones_in_its_order);
    TEST(one_that_hangs_at_driver_ok_delays_the_vcpu_by_its_limit_only);
    TEST(another_disk_is_not_taken_for_the_one_that_was_there);
    TEST(one_with_in_flight_memory_gets_the_drivers_rings_and_its_memory_again);
    TEST(one_that_answers_in_order_goes_on_at_the_used_index);
    TEST(it_is_pinned_and_says_the_way_out);
    TEST(a_pause_stops_each_ring_and_a_resume_goes_on_where_it_was);
    TEST(one_that_makes_its_eventfds_block_does_not_hold_a_pause);
    return g_test_run();
}
