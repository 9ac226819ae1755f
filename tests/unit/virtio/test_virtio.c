/* A virtio device's life: making, negotiation, activation, pause, reset, end. */
#include "echo.h"
#include "util/bits.h"
#include "vq_guest.h"

#include <time.h>

static VqGuest g;

enum {
    ACK = VIRTIO_STATUS_ACKNOWLEDGE,
    DRIVER = VIRTIO_STATUS_DRIVER,
    FEATURES_OK = VIRTIO_STATUS_FEATURES_OK,
    DRIVER_OK = VIRTIO_STATUS_DRIVER_OK,
    NEEDS_RESET = VIRTIO_STATUS_NEEDS_RESET,
    FAILED = VIRTIO_STATUS_FAILED,
};

static Echo *echo(void)
{
    return (Echo *)g.vdev;
}

static unsigned calls(const unsigned *counter)
{
    return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

/* A device that nobody has spoken to yet. */
static void open_fresh(unsigned mode)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = mode});
    vqg_reset(&g);
}

static uint64_t offered(void)
{
    uint64_t bits = 0;

    for (unsigned half = 0; half < 2; half++) {
        g.vdev->feature_select[0] = half;
        bits |= (uint64_t)virtio_device_features(g.vdev) << (32 * half);
    }
    return bits;
}

static void accept(uint64_t features)
{
    for (unsigned half = 0; half < 2; half++) {
        g.vdev->feature_select[1] = half;
        virtio_set_driver_features(g.vdev, (uint32_t)(features >> (32 * half)));
    }
}

static void set_status(uint8_t value)
{
    virtio_set_status(g.vdev, value);
}

static void works(void)
{
    char answer[3];

    g_assert_cmpuint(vqg_do(&g, 0, "abc", 3, answer, 3), ==, 3);
    g_assert_cmpmem(answer, 3, "abc", 3);
    g_assert_false(vqg_broken(&g));
}

/* ---- negotiation ------------------------------------------------------------------ */

static void every_ring_feature_is_offered(void)
{
    open_fresh(0);
    g_assert_cmphex(offered(), ==,
                    1 | BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_INDIRECT_DESC) |
                        BIT64(VIRTIO_F_EVENT_IDX) | BIT64(VIRTIO_F_RING_PACKED));
    vqg_finish(&g);
}

static void packed_off_is_not_offered(void)
{
    EchoOptions options = {.common.id = (char *)"nemo"};

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.options = &options});
    g_assert_false(offered() & BIT64(VIRTIO_F_RING_PACKED));
    g_assert_cmpstr(g.vdev->id, ==, "nemo");
    vqg_finish(&g);
}

static void features_not_offered_are_refused(void)
{
    open_fresh(0);
    set_status(ACK | DRIVER);
    accept(offered() | BIT64(63));
    set_status(ACK | DRIVER | FEATURES_OK);
    g_assert_cmphex(virtio_status(g.vdev), ==, ACK | DRIVER);
    accept(offered());
    set_status(ACK | DRIVER | FEATURES_OK);
    g_assert_cmphex(virtio_status(g.vdev), ==, ACK | DRIVER | FEATURES_OK);
    vqg_finish(&g);
}

static void a_driver_without_version_1_is_refused(void)
{
    open_fresh(0);
    set_status(ACK | DRIVER);
    accept(offered() & ~BIT64(VIRTIO_F_VERSION_1));
    set_status(ACK | DRIVER | FEATURES_OK);
    g_assert_cmphex(virtio_status(g.vdev), ==, ACK | DRIVER);
    vqg_finish(&g);
}

static void features_are_final_once_ok(void)
{
    uint64_t few = BIT64(VIRTIO_F_VERSION_1);

    open_fresh(0);
    set_status(ACK | DRIVER);
    accept(few);
    set_status(ACK | DRIVER | FEATURES_OK);
    accept(offered());
    g_assert_cmphex(g.vdev->features, ==, few);
    vqg_finish(&g);
}

static void feature_windows_past_64_bits_are_empty(void)
{
    open_fresh(0);
    for (unsigned select = 2; select < 70; select += 17) {
        g.vdev->feature_select[0] = g.vdev->feature_select[1] = select;
        virtio_set_driver_features(g.vdev, UINT32_MAX);
        g_assert_cmphex(virtio_device_features(g.vdev), ==, 0);
        g_assert_cmphex(virtio_driver_features(g.vdev), ==, 0);
        g_assert_cmphex(g.vdev->features, ==, 0);
    }
    vqg_finish(&g);
}

/* ---- status ----------------------------------------------------------------------- */

static void status_bits_are_cleared_by_reset_only(void)
{
    vqg_init(&g, &virtio_echo_ops);
    set_status(ACK);
    g_assert_cmphex(virtio_status(g.vdev), ==, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
    works();
    set_status(FAILED);
    g_assert_cmphex(virtio_status(g.vdev), ==,
                    ACK | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
    g_assert_cmpuint(calls(&echo()->activated), ==, 1);
    vqg_reset(&g);
    vqg_finish(&g);
}

static void a_driver_cannot_set_needs_reset(void)
{
    vqg_init(&g, &virtio_echo_ops);
    set_status(0xff & ~FAILED);
    g_assert_false(virtio_status(g.vdev) & NEEDS_RESET);
    works();
    vqg_finish(&g);
}

static void driver_ok_needs_features_ok(void)
{
    open_fresh(0);
    set_status(ACK | DRIVER | DRIVER_OK);
    g_assert_true(virtio_status(g.vdev) & NEEDS_RESET);
    vqg_reset(&g);
    accept(BIT64(63));
    set_status(ACK | DRIVER | FEATURES_OK | DRIVER_OK); /* all at once, and refused */
    g_assert_true(virtio_status(g.vdev) & NEEDS_RESET);
    g_assert_cmpuint(calls(&echo()->activated), ==, 1); /* by vqg_open */
    vqg_reset(&g);
    vqg_start(&g);
    works();
    vqg_finish(&g);
}

/* The class of CVE-2026-5747: a queue's geometry changed under a running device. */
static void queues_are_frozen_from_driver_ok_to_reset(void)
{
    vqg_init(&g, &virtio_echo_ops);
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        g_assert_null(virtio_queue_config(g.vdev, i));
    g_assert_nonnull(virtio_queue_peek(g.vdev, 0));
    virtio_broken(g.vdev, "test");
    g_assert_null(virtio_queue_config(g.vdev, 0));
    vqg_reset(&g);
    g_assert_nonnull(virtio_queue_config(g.vdev, 0));
    g_assert_cmpuint(virtio_queue_peek(g.vdev, 0)->size, ==, ECHO_QUEUE_SIZE);
    g_assert_cmphex(virtio_queue_peek(g.vdev, 0)->desc, ==, 0);
    g_assert_false(virtio_queue_peek(g.vdev, 0)->enabled);
    vqg_finish(&g);
}

static void a_queue_that_is_not_there_is_nothing(void)
{
    const unsigned absent[] = {ECHO_QUEUES, VIRTIO_MAX_QUEUES, 0xffff, UINT32_MAX};

    open_fresh(0);
    for (unsigned i = 0; i < G_N_ELEMENTS(absent); i++) {
        g_assert_null(virtio_queue_config(g.vdev, absent[i]));
        g_assert_null(virtio_queue_peek(g.vdev, absent[i]));
        virtio_queue_kick(g.vdev, absent[i]);
    }
    vqg_finish(&g);
}

static void a_queue_that_was_not_enabled_is_not_served(void)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.stop_early = true});
    virtio_queue_config(g.vdev, 1)->enabled = false;
    virtio_queue_config(g.vdev, 1)->desc = 7;
    set_status(virtio_status(g.vdev) | DRIVER_OK);
    vqg_poke(&g, 1);
    g_assert_false(vq_pop(&g.vdev->queues[1].vq, &(VqReq){0}));
    works();
    vqg_finish(&g);
}

static void kicks_before_driver_ok_are_harmless(void)
{
    open_fresh(VQG_THREAD);
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        vqg_poke(&g, i);
    vqg_start(&g);
    works();
    vqg_reset(&g);
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        vqg_poke(&g, i);
    vqg_start(&g);
    works();
    vqg_finish(&g);
}

/* 2.1.2: what was offered before DRIVER_OK is served without another kick. */
static void what_waits_at_driver_ok_is_served(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        vqg_open(&g, &virtio_echo_ops,
                 &(VqgSetup){.mode = vqg_modes[m] | VQG_THREAD, .stop_early = true});
        vqg_offer(&g, 0x300000, 4, OUT);
        set_status(virtio_status(g.vdev) | DRIVER_OK);
        g_assert_true(vqg_wait(&g, 0, 1));
        vqg_finish(&g);
    }
}

/* ---- breaking --------------------------------------------------------------------- */

static void broken_is_told_once_and_only_to_a_driver_that_is_ok(void)
{
    vqg_init(&g, &virtio_echo_ops);
    virtio_broken(g.vdev, "test %d", 1);
    virtio_broken(g.vdev, "test %d", 2);
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
    vqg_reset(&g);
    virtio_broken(g.vdev, "test %d", 3);
    g_assert_true(vqg_broken(&g));
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
    vqg_finish(&g);
}

static void kicks_of_a_broken_device_wake_nobody(void)
{
    unsigned handled;

    vqg_init(&g, &virtio_echo_ops);
    vqg_settle(&g);
    virtio_broken(g.vdev, "test");
    handled = calls(&echo()->handled);
    vqg_poke(&g, 0);
    g_assert_null(g.vdev->queues[0].watch.loop);
    for (int i = 0; i < 10; i++)
        vqg_poke(&g, 0);
    g_assert_cmpuint(calls(&echo()->handled), ==, handled);
    vqg_reset(&g);
    vqg_start(&g);
    works();
    vqg_finish(&g);
}

static void a_device_that_cannot_start_is_broken(void)
{
    EchoOptions options = {.fail_activate = true};

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.options = &options, .mode = VQG_THREAD});
    g_assert_true(vqg_broken(&g));
    vqg_reset(&g);
    options.fail_activate = false;
    vqg_start(&g);
    works();
    vqg_finish(&g);
}

/* ---- making ----------------------------------------------------------------------- */

static void what_cannot_be_made_is_released_and_named(void)
{
    EchoOptions options = {.fail_realize = true};
    g_autoptr(GError) error = NULL;
    unsigned before = echo_released;
    VirtioEnv env;

    vqg_init(&g, &virtio_echo_ops);
    env = g.env;
    g_assert_null(virtio_new(&virtio_echo_ops, "echo7", &options, &env, &error));
    g_assert_cmpstr(error->message, ==, "echo7: no echo here");
    g_assert_cmpuint(echo_released, ==, before + 1);
    vqg_finish(&g);
}

static void free_accepts_null_and_a_running_device(void)
{
    unsigned before = echo_released;

    virtio_free(NULL);
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_THREAD});
    vqg_chain(&g, 2, &(VqgBuf){0x300000, 4, IN}, 1);
    vqg_kick_queue(&g, 2);
    vqg_finish(&g);
    g_assert_cmpuint(echo_released, ==, before + 1);
}

/* ---- config space ----------------------------------------------------------------- */

static void config_ends_where_it_ends(void)
{
    uint8_t buf[8];

    vqg_init(&g, &virtio_echo_ops);
    for (unsigned i = 0; i < ECHO_CONFIG; i++)
        echo()->config[i] = (uint8_t)(i + 1);
    virtio_config_read(g.vdev, 10, buf, 8);
    g_assert_cmpmem(buf, 8, ((uint8_t[]){11, 12, 0, 0, 0, 0, 0, 0}), 8);
    virtio_config_read(g.vdev, UINT32_MAX, buf, 8);
    g_assert_cmpmem(buf, 8, ((uint8_t[8]){0}), 8);
    memset(buf, 0xee, 8);
    virtio_config_write(g.vdev, 11, buf, 8);
    virtio_config_write(g.vdev, 12, buf, 8);
    virtio_config_write(g.vdev, UINT32_MAX - 3, buf, 8);
    g_assert_cmphex(echo()->config[10], ==, 11);
    g_assert_cmphex(echo()->config[11], ==, 0xee);
    vqg_finish(&g);
}

static void a_config_change_is_a_generation_and_an_interrupt(void)
{
    uint32_t generation;

    vqg_init(&g, &virtio_echo_ops);
    generation = g.vdev->config_generation;
    virtio_config_changed(g.vdev);
    g_assert_cmpuint(g.vdev->config_generation, ==, generation + 1);
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
    vqg_reset(&g);
    virtio_config_changed(g.vdev);
    g_assert_cmpuint(g.vdev->config_generation, ==, generation + 2);
    g_assert_cmpuint(vqg_config_interrupts(&g), ==, 1);
    vqg_finish(&g);
}

/* ---- reset and pause, with requests in flight ------------------------------------- */

static void reset_with_requests_in_flight_forgets_them(void)
{
    static VqReq req;

    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = vqg_modes[m]});
        for (unsigned round = 1; round <= 3; round++) {
            vqg_chain(&g, 1, &(VqgBuf){0x300000, 4, IN}, 1);
            g_assert_true(vq_pop(&g.vdev->queues[1].vq, &req));
            for (unsigned i = 0; i < 3; i++)
                vqg_chain(&g, 2, &(VqgBuf){0x300000, 4, IN}, 1);
            vqg_kick_queue(&g, 2);
            g_assert_cmpuint(g.vdev->queues[2].vq.in_flight, ==, 3);
            vqg_reset(&g);
            g_assert_cmpuint(calls(&echo()->quiesced), ==, round);
            g_assert_cmpuint(calls(&echo()->resets), ==, round);
            g_assert_cmpuint(vqg_used_queue(&g, 2), ==, 3); /* by quiesce, before */
            g_assert_cmpuint(g.vdev->queues[1].vq.in_flight, ==, 0);
            vqg_start(&g);
            vq_push(&g.vdev->queues[1].vq, &req, 4); /* a completion that comes late */
            vq_unpop(&g.vdev->queues[1].vq, &req);
            g_assert_cmpuint(vqg_used_queue(&g, 1), ==, 0);
            works();
        }
        vqg_finish(&g);
    }
}

static void a_paused_device_touches_no_ring_and_goes_on(void)
{
    for (unsigned m = 0; m < 2 * VQG_N_MODES; m++) {
        unsigned mode = vqg_modes[m / 2] | (m % 2 ? VQG_THREAD : 0);

        vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = mode, .queue_size = 4});
        for (unsigned i = 0; i < 7; i++) {
            works();
            virtio_quiesce(g.vdev);
            vqg_offer(&g, 0x300000, 4, OUT);
            vqg_poke(&g, 0);
            g_assert_cmpuint(vqg_used(&g), ==, 0);
            virtio_resume(g.vdev); /* and looks without being kicked */
            g_assert_true(vqg_wait(&g, 0, 1));
            g_assert_true(vqg_take(&g, 0, &(VqgUsed){0}));
        }
        vqg_finish(&g);
    }
}

static void pause_completes_what_is_in_flight(void)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_THREAD});
    vqg_chain(&g, 2, &(VqgBuf){0x300000, 4, IN}, 1);
    vqg_kick_queue(&g, 2);
    virtio_quiesce(g.vdev);
    g_assert_cmpuint(vqg_used_queue(&g, 2), ==, 1);
    g_assert_cmpuint(vqg_interrupts(&g, 2), ==, 1);
    virtio_reset(g.vdev); /* also from here */
    g_assert_cmpuint(calls(&echo()->quiesced), ==, 1);
    vqg_start(&g);
    works();
    vqg_finish(&g);
}

static void pausing_an_unused_device_is_nothing(void)
{
    open_fresh(VQG_THREAD);
    virtio_quiesce(g.vdev);
    virtio_resume(g.vdev);
    vqg_start(&g);
    works();
    vqg_finish(&g);
}

/* ---- threads ---------------------------------------------------------------------- */

/* The driver on one thread, the device on another, no pause between requests. */
static void many_requests_on_an_io_thread_all_come_back(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        unsigned sent = 0, taken = 0, total = 5000;
        int64_t end = clock_ns() + 30000000000;

        vqg_open(&g, &virtio_echo_ops,
                 &(VqgSetup){.mode = vqg_modes[m] | VQG_THREAD, .queue_size = 32});
        while (taken < total && clock_ns() < end) {
            while (sent < total && g.q[0].n_free >= 2) {
                vqg_chain(&g, 0, (VqgBuf[]){{0x300000, 8, OUT}, {0x310000, 8, IN}}, 2);
                sent++;
                if (vqg_kick_wanted(&g, 0))
                    virtio_queue_kick(g.vdev, 0);
                g.q[0].unsent = 0;
            }
            if (vqg_take(&g, 0, &(VqgUsed){0}))
                taken++;
        }
        g_assert_cmpuint(taken, ==, total);
        g_assert_false(vqg_broken(&g));
        vqg_finish(&g);
    }
}

/* Each request only after the last came back, by its interrupt: a lost kick or interrupt
 * is a time-out here.  The gaps walk through the polling window. */
static void no_kick_and_no_interrupt_is_lost(void)
{
    for (unsigned m = 0; m < VQG_N_MODES; m++) {
        vqg_open(&g, &virtio_echo_ops,
                 &(VqgSetup){.mode = vqg_modes[m] | VQG_THREAD, .queue_size = 4});
        for (unsigned i = 0; i < 600; i++) {
            unsigned before = vqg_interrupts(&g, 0);
            int64_t start = clock_ns();

            vqg_offer(&g, 0x300000, 8, OUT);
            if (vqg_kick_wanted(&g, 0))
                virtio_queue_kick(g.vdev, 0);
            g.q[0].unsent = 0;
            while (vqg_interrupts(&g, 0) == before)
                g_assert_cmpint(clock_ns() - start, <, 10000000000);
            g_assert_true(vqg_take(&g, 0, &(VqgUsed){0}));
            for (start = clock_ns(); clock_ns() - start < (i % 100) * 1000;)
                ;
        }
        vqg_finish(&g);
    }
}

static int64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void an_idle_device_costs_no_cpu(void)
{
    int64_t before;

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_THREAD});
    for (unsigned i = 0; i < 200; i++)
        works();
    vqg_chain(&g, 1, &(VqgBuf){0x300000, 8, IN}, 1); /* as a network card's buffers do */
    vqg_kick_queue(&g, 1);
    g_usleep(20000);
    before = cpu_ns();
    g_usleep(200000);
    g_assert_cmpint(cpu_ns() - before, <, 5000000);
    vqg_finish(&g);
}

/* On the loop: the window is as after a busy time. */
static void widen_window(void *opaque)
{
    VirtioDevice *v = opaque;

    v->polling.window_ns = 50000;
}

static void read_window(void *opaque)
{
    *(int64_t *)opaque = g.vdev->polling.window_ns;
}

static int64_t window(void)
{
    int64_t ns;

    ioloop_call(g.vdev->loop, read_window, &ns);
    return ns;
}

/* On the loop: we fell asleep a moment ago, and now the guest kicks. */
static void kick_soon(void *opaque)
{
    VirtioDevice *v = opaque;

    v->polling.last_work_ns = clock_ns() - v->polling.window_ns - 10000;
    virtio_queue_kick(v, 0);
}

static void the_polling_window_grows_while_it_pays(void)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_THREAD});
    vqg_settle(&g);
    g_assert_cmpint(window(), ==, 0);
    for (unsigned i = 0; i < 1000 && window() < 8000; i++)
        ioloop_call(g.vdev->loop, kick_soon, g.vdev);
    g_assert_cmpint(window(), >=, 8000);
    g_assert_cmpint(window(), <=, 50000);
    vqg_finish(&g);
}

/* Receive buffers of a network card wait in the ring all the time. */
static void what_a_device_leaves_is_not_polled_again_and_again(void)
{
    unsigned before, rounds = 200;

    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_THREAD});
    vqg_chain(&g, 1, &(VqgBuf){0x300000, 8, IN}, 1);
    vqg_kick_queue(&g, 1);
    before = calls(&echo()->handled);
    for (unsigned i = 0; i < rounds; i++) {
        ioloop_call(g.vdev->loop, widen_window, g.vdev);
        works();
    }
    g_assert_cmpuint(calls(&echo()->handled) - before, <, 8 * rounds);
    vqg_finish(&g);
}

static void the_polling_window_closes_for_a_slow_guest(void)
{
    vqg_open(&g, &virtio_echo_ops, &(VqgSetup){.mode = VQG_THREAD});
    ioloop_call(g.vdev->loop, widen_window, g.vdev);
    for (unsigned i = 0; i < 5; i++) {
        g_usleep(2000);
        vqg_offer(&g, 0x300000, 8, OUT);
        virtio_queue_kick(g.vdev, 0);
        g_assert_true(vqg_wait(&g, 0, 1));
        g_assert_true(vqg_take(&g, 0, &(VqgUsed){0}));
    }
    g_assert_cmpint(window(), ==, 0);
    vqg_finish(&g);
}

/* ---- sharing a thread ------------------------------------------------------------- */

typedef struct Flood {
    VirtioDevice vdev;
} Flood;

static unsigned flooded;

/* A guest that is always one request ahead, on a device that never sees it idle. */
static void flood_handle(VirtioDevice *v, Virtqueue *vq)
{
    static VqReq req;

    while (vq_pop(vq, &req)) {
        vq_push(vq, &req, 0);
        vqg_take(&g, 0, &(VqgUsed){0});
        vqg_offer(&g, 0x300000, 4, OUT);
        flooded++;
    }
}

static bool flood_realize(VirtioDevice *v, const void *options, GError **error)
{
    v->n_queues = 1;
    return true;
}

static void one_guest_cannot_hold_a_shared_thread(void)
{
    const VirtioOps flood = {
        .name = "flood",
        .size = sizeof(Flood),
        .queue_size = 16,
        .realize = flood_realize,
        .handle = flood_handle,
    };
    unsigned before;

    flooded = 0;
    vqg_init(&g, &flood);
    vqg_offer(&g, 0x300000, 4, OUT);
    vqg_kick(&g); /* comes back */
    g_assert_cmpuint(flooded, >, 16);
    before = flooded;
    vqg_settle(&g); /* and goes on by itself */
    g_assert_cmpuint(flooded, >, before);
    vqg_reset(&g);
    vqg_finish(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define TEST(fn) g_test_add_func("/virtio/" #fn, fn)
    TEST(every_ring_feature_is_offered);
    TEST(packed_off_is_not_offered);
    TEST(features_not_offered_are_refused);
    TEST(a_driver_without_version_1_is_refused);
    TEST(features_are_final_once_ok);
    TEST(feature_windows_past_64_bits_are_empty);
    TEST(status_bits_are_cleared_by_reset_only);
    TEST(a_driver_cannot_set_needs_reset);
    TEST(driver_ok_needs_features_ok);
    TEST(queues_are_frozen_from_driver_ok_to_reset);
    TEST(a_queue_that_is_not_there_is_nothing);
    TEST(a_queue_that_was_not_enabled_is_not_served);
    TEST(kicks_before_driver_ok_are_harmless);
    TEST(what_waits_at_driver_ok_is_served);
    TEST(broken_is_told_once_and_only_to_a_driver_that_is_ok);
    TEST(kicks_of_a_broken_device_wake_nobody);
    TEST(a_device_that_cannot_start_is_broken);
    TEST(what_cannot_be_made_is_released_and_named);
    TEST(free_accepts_null_and_a_running_device);
    TEST(config_ends_where_it_ends);
    TEST(a_config_change_is_a_generation_and_an_interrupt);
    TEST(reset_with_requests_in_flight_forgets_them);
    TEST(a_paused_device_touches_no_ring_and_goes_on);
    TEST(pause_completes_what_is_in_flight);
    TEST(pausing_an_unused_device_is_nothing);
    TEST(many_requests_on_an_io_thread_all_come_back);
    TEST(no_kick_and_no_interrupt_is_lost);
    TEST(an_idle_device_costs_no_cpu);
    TEST(the_polling_window_grows_while_it_pays);
    TEST(what_a_device_leaves_is_not_polled_again_and_again);
    TEST(the_polling_window_closes_for_a_slow_guest);
    TEST(one_guest_cannot_hold_a_shared_thread);
    return g_test_run();
}
