/* src/vhost/vhost_user.c against a back end that does what back ends should not. */
#include <sys/stat.h>

#include "backend/vhost_user.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "vhost_fake.h"

static GuestMem gm;
static int kick_fd, call_fd, err_fd;

static void make_world(void)
{
    GuestMemOptions o = {.size = 8 * MIB, .shared = true};
    GError *error = NULL;

    g_assert_true(gm_init(&gm, &o, &error));
    g_assert_true(gm_add(&gm, 0, 4 * MIB, &error));
    g_assert_true(gm_add(&gm, 4 * GIB, 4 * MIB, &error));
    kick_fd = fd_event(&error);
    call_fd = fd_event(&error);
    err_fd = fd_event(&error);
    g_assert_no_error(error);
}

static unsigned open_fds(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static void connect_to(FakeBackend *b, VhostUser *u, unsigned limit_ms)
{
    int pair[2];
    GError *error = NULL;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    fake_start(b, pair[1]);
    vhost_user_limit(u, limit_ms);
    g_assert_true(vhost_user_knock(u, pair[0], &error));
}

/* Everything there is to say; true if all of it went well. */
static bool converse(VhostUser *u, GError **error)
{
    VhostInflight inflight = {.fd = -1};
    VhostRegion none = {.fd = -1};
    VhostRing ring = {.index = 1,
                      .size = 128,
                      .base = 5,
                      .desc = gm.base + 0x1000,
                      .driver = gm.base + 0x2000,
                      .device = gm.base + 0x3000,
                      .kick_fd = kick_fd,
                      .call_fd = call_fd,
                      .err_fd = err_fd};
    uint8_t config[FAKE_CONFIG] = {0};
    uint16_t base = 0;
    bool ok;

    ok = vhost_user_wait(u, error) && vhost_user_greet(u, error) &&
         vhost_user_get_config(u, config, sizeof(config), error) &&
         vhost_user_get_inflight(u, 2, 256, &inflight, error) &&
         vhost_user_start(u, BIT64(32), &gm, &none, &ring, 1, &inflight, error) &&
         vhost_user_set_config(u, 32, "\1", 1, error) &&
         vhost_user_stop(u, 1, &base, error) && vhost_user_reset_device(u, error);
    vhost_inflight_clear(&inflight);
    if (ok) {
        g_assert_cmpuint(base, ==, 7);
        g_assert_cmpuint(config[20], ==, 0x5a);
    }
    return ok;
}

static void all_is_said_once_and_as_it_is(void)
{
    FakeBackend b = {.capacity = 1};
    VhostUser u = {.fd = -1};
    GError *error = NULL;
    struct stat ours, theirs;
    static const unsigned said[] = {1,  2,  3,  5,  8,  9,  10, 11, 12, 13,
                                    14, 15, 16, 17, 18, 24, 25, 31, 32, 34};

    connect_to(&b, &u, 10000);
    g_assert_true(converse(&u, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(u.max_queues, ==, 4);
    vhost_user_close(&u);
    fake_wait(&b);
    for (size_t i = 0; i < G_N_ELEMENTS(said); i++)
        g_assert_cmpuint(b.count[said[i]], ==, 1);
    g_assert_cmpuint(load_le64(b.last[2]), ==, BIT64(32) | BIT64(30)); /* SET_FEATURES */
    g_assert_cmpuint(load_le64(b.last[16]), ==, FAKE_PROTOCOL);
    g_assert_cmpuint(load_le32(b.last[5]), ==, 2); /* SET_MEM_TABLE */
    g_assert_cmpuint(b.n_fds[5], ==, 2);
    g_assert_cmpuint(load_le64(b.last[5] + 8 + 32), ==, 4 * GIB);
    g_assert_cmpuint(load_le64(b.last[5] + 8 + 32 + 24), ==, 4 * MIB);
    g_assert_cmpint(fstat(gm.fd, &ours), ==, 0);
    g_assert_cmpint(fstat(b.mem_fd[1], &theirs), ==, 0);
    g_assert_cmpuint(ours.st_ino, ==, theirs.st_ino);
    g_assert_cmpuint(load_le32(b.last[8] + 4), ==, 128); /* NUM */
    g_assert_cmpuint(load_le32(b.last[10] + 4), ==, 5);  /* BASE */
    g_assert_cmpuint(load_le64(b.last[9] + 8), ==,
                     (uintptr_t)gm.base + 0x1000); /* ADDR */
    g_assert_cmpuint(load_le64(b.last[9] + 16), ==,
                     (uintptr_t)gm.base + 0x3000); /* used */
    g_assert_cmpuint(load_le64(b.last[9] + 24), ==, (uintptr_t)gm.base + 0x2000);
    for (unsigned request = 12; request <= 14; request++) { /* KICK, CALL, ERR */
        g_assert_cmpuint(load_le64(b.last[request]), ==, 1);
        g_assert_cmpuint(b.n_fds[request], ==, 1);
    }
    g_assert_cmpuint(b.n_fds[32], ==, 1); /* SET_INFLIGHT_FD */
    g_assert_cmpuint(load_le32(b.last[18] + 4), ==, 1);
    fake_close(&b);
}

typedef struct Expected {
    FakeFault fault;
    VmErrorCode code;
} Expected;

static const Expected faults[] = {
    {FAKE_SILENT, VM_ERROR_BUSY},      {FAKE_LEAVES, VM_ERROR_IO},
    {FAKE_HALF, VM_ERROR_BUSY},        {FAKE_OTHER, VM_ERROR_CORRUPT},
    {FAKE_VERSION, VM_ERROR_CORRUPT},  {FAKE_QUESTION, VM_ERROR_CORRUPT},
    {FAKE_SHORT, VM_ERROR_CORRUPT},    {FAKE_LONG, VM_ERROR_CORRUPT},
    {FAKE_EMPTY, VM_ERROR_CORRUPT},    {FAKE_FDS, VM_ERROR_CORRUPT},
    {FAKE_MANY_FDS, VM_ERROR_CORRUPT},
};

/* Requests that are answered by nature, and those that are where REPLY_ACK is. */
static const uint32_t asked[] = {1, 15, 17, 24, 31, 11}, acked[] = {5, 9, 18, 25, 32, 34};

static void expect_failure(uint32_t request, FakeFault fault, VmErrorCode code)
{
    FakeBackend b = {.bad_request = request, .fault = fault, .capacity = 1};
    VhostUser u = {.fd = -1};
    GError *error = NULL;
    unsigned before = open_fds();
    int64_t begin = clock_ns();

    connect_to(&b, &u, code == VM_ERROR_BUSY ? 30 : 10000);
    g_assert_false(converse(&u, &error));
    g_assert_error(error, VM_ERROR, (int)code);
    g_assert_nonnull(strchr(error->message, '_')); /* it names the request */
    g_clear_error(&error);
    g_assert_cmpint(clock_ns() - begin, <, 5000000000);
    vhost_user_close(&u);
    fake_wait(&b);
    fake_close(&b);
    g_assert_cmpuint(open_fds(), ==, before);
}

static void no_wrong_answer_is_believed_no_silence_waited_out_and_no_gift_kept(void)
{
    for (size_t f = 0; f < G_N_ELEMENTS(faults); f++) {
        for (size_t i = 0; i < G_N_ELEMENTS(asked); i++)
            expect_failure(asked[i], faults[f].fault, faults[f].code);
        for (size_t i = 0; i < G_N_ELEMENTS(acked); i++)
            expect_failure(acked[i], faults[f].fault, faults[f].code);
    }
}

static void a_refusal_is_a_failure_of_that_request(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(acked); i++)
        expect_failure(acked[i], FAKE_REFUSES, VM_ERROR_IO);
}

/* Neither acknowledgements nor in-flight memory: a back end as of 2015. */
static void an_old_back_end_is_asked_only_what_it_knows(void)
{
    FakeBackend b = {.capacity = 1, .protocol = BIT64(63)};
    VhostUser u = {.fd = -1};
    VhostInflight no_inflight = {.fd = -1};
    VhostRegion none = {.fd = -1};
    GError *error = NULL;

    connect_to(&b, &u, 10000);
    g_assert_true(vhost_user_wait(&u, &error) && vhost_user_greet(&u, &error));
    g_assert_cmpuint(u.max_queues, ==, UINT64_MAX);
    g_assert_true(
        vhost_user_start(&u, BIT64(32), &gm, &none, NULL, 0, &no_inflight, &error));
    g_assert_true(vhost_user_reset_device(&u, &error));
    vhost_user_close(&u);
    fake_wait(&b);
    g_assert_cmpuint(load_le64(b.last[16]), ==, 0);
    g_assert_cmpuint(b.count[17] + b.count[24] + b.count[31] + b.count[34], ==, 0);
    fake_close(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    make_world();
#define TEST(fn) g_test_add_func("/vhost_user/" #fn, fn)
    TEST(all_is_said_once_and_as_it_is);
    TEST(no_wrong_answer_is_believed_no_silence_waited_out_and_no_gift_kept);
    TEST(a_refusal_is_a_failure_of_that_request);
    TEST(an_old_back_end_is_asked_only_what_it_knows);
    return g_test_run();
}
