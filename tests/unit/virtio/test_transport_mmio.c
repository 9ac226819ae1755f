/* The registers of virtio-mmio (virtio 1.2, 4.2), as a driver and as an attacker use
 * them. */
#include "transport_bench.h"

#define BASE 0xfeb00000ull
enum { GSI = 5 };

enum { /* 4.2.2 */
       MAGIC = 0x000,
       VERSION = 0x004,
       DEVICE_ID = 0x008,
       VENDOR_ID = 0x00c,
       DEVICE_FEATURES = 0x010,
       DEVICE_FEATURES_SEL = 0x014,
       DRIVER_FEATURES = 0x020,
       DRIVER_FEATURES_SEL = 0x024,
       QUEUE_SEL = 0x030,
       QUEUE_SIZE_MAX = 0x034,
       QUEUE_SIZE = 0x038,
       QUEUE_READY = 0x044,
       QUEUE_NOTIFY = 0x050,
       INTERRUPT_STATUS = 0x060,
       INTERRUPT_ACK = 0x064,
       STATUS = 0x070,
       QUEUE_DESC = 0x080,
       QUEUE_DRIVER = 0x090,
       QUEUE_DEVICE = 0x0a0,
       SHM_LEN = 0x0b0,
       QUEUE_RESET = 0x0c0,
       CONFIG_GENERATION = 0x0fc,
       CONFIG = 0x100,
};

static TransportBench t;
static Device *dev;

static void start(bool catches_kicks)
{
    GError *error = NULL;

    tb_init(&t, catches_kicks);
    dev = virtio_mmio_new(t.v, t.bench.mmio, BASE, &t.bench.ic, GSI, &error);
    g_assert_no_error(error);
}

static GBytes *save(void)
{
    StateWriter *w = state_writer_new();
    GError *error = NULL;
    GBytes *state;

    device_quiesce(dev);
    device_save(dev, w);
    state = state_writer_end(w, &error);
    g_assert_no_error(error);
    return state;
}

/* Another machine's device over the same RAM. */
static void replace(void)
{
    GError *error = NULL;

    device_release(dev);
    tb_new_device(&t);
    dev = virtio_mmio_new(t.v, t.bench.mmio, BASE, &t.bench.ic, GSI, &error);
    g_assert_no_error(error);
}

static bool load(GBytes *state, GError **error)
{
    g_autoptr(StateReader) r = state_reader_new(state, error);

    return r && device_load(dev, r, error) && state_reader_done(r, error);
}

static void restore(void)
{
    g_autoptr(GBytes) before = save(), after = NULL;
    GError *error = NULL;

    replace();
    load(before, &error);
    g_assert_no_error(error);
    after = save();
    g_assert_true(g_bytes_equal(before, after));
    device_resume(dev);
    tb_run(&t);
}

static void finish(void)
{
    device_release(dev);
    g_assert_false(t.bench.gsi[GSI]);
    tb_finish(&t);
}

static uint32_t get(unsigned reg)
{
    return (uint32_t)tb_read(&t, BASE + reg, 4);
}

static void set(unsigned reg, uint32_t value)
{
    tb_write(&t, BASE + reg, 4, value);
}

static void place_queue(unsigned queue)
{
    set(QUEUE_SEL, queue);
    g_assert_cmpuint(get(QUEUE_SIZE_MAX), ==, ECHO_QUEUE_SIZE);
    g_assert_cmpuint(get(QUEUE_READY), ==, 0);
    set(QUEUE_SIZE, TB_SIZE);
    set(QUEUE_DESC, queue * TB_QUEUE + TB_DESC);
    set(QUEUE_DRIVER, queue * TB_QUEUE + TB_DRIVER);
    set(QUEUE_DEVICE, queue * TB_QUEUE + TB_DEVICE);
    set(QUEUE_READY, 1);
    g_assert_cmpuint(get(QUEUE_READY), ==, 1);
}

static void negotiate(void)
{
    set(STATUS, 0);
    set(STATUS, 3);
    set(DEVICE_FEATURES_SEL, 1);
    g_assert_true(get(DEVICE_FEATURES) & 1); /* VERSION_1 */
    set(DRIVER_FEATURES_SEL, 1);
    set(DRIVER_FEATURES, 1);
    set(DRIVER_FEATURES_SEL, 0);
    set(DRIVER_FEATURES, 0);
    set(STATUS, 0xb);
    g_assert_cmphex(get(STATUS), ==, 0xb);
    memset(gm_at(&t.gm, 0, TB_RAM), 0, TB_RAM);
}

static void drive(void)
{
    negotiate();
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        place_queue(i);
    set(STATUS, 0xf);
    g_assert_cmphex(get(STATUS), ==, 0xf);
}

static void request_comes_back(void)
{
    unsigned before = tb_used(&t, 0);

    tb_offer(&t, 0);
    set(QUEUE_NOTIFY, 0);
    tb_run(&t);
    g_assert_cmpuint(tb_used(&t, 0), ==, before + 1);
    g_assert_cmphex(get(INTERRUPT_STATUS), ==, 1);
    g_assert_true(t.bench.gsi[GSI]);
    set(INTERRUPT_ACK, 1);
    g_assert_cmphex(get(INTERRUPT_STATUS), ==, 0);
    g_assert_false(t.bench.gsi[GSI]);
}

static void it_says_what_it_is(void)
{
    start(false);
    g_assert_cmphex(get(MAGIC), ==, 0x74726976);
    g_assert_cmpuint(get(VERSION), ==, 2);
    g_assert_cmphex(get(DEVICE_ID), ==, 0x7f);
    g_assert_cmphex(get(VENDOR_ID), ==, 0x1af4);
    for (unsigned i = 0; i < 4; i++) /* 4.2.2: no shared memory */
        g_assert_cmphex(get(SHM_LEN + 4 * i), ==, UINT32_MAX);
    g_assert_cmphex(get(QUEUE_RESET), ==, 0);
    finish();
}

static void a_request_comes_back_and_interrupts(void)
{
    for (int catches = 0; catches < 2; catches++) {
        start(catches);
        g_assert_cmpuint(t.n_kicks, ==, catches ? ECHO_QUEUES : 0);
        drive();
        for (unsigned i = 0; i < 20; i++)
            request_comes_back();
        drive(); /* reset, and all over again */
        request_comes_back();
        finish();
    }
}

static void a_restore_serves_what_was_offered_and_keeps_the_line(void)
{
    for (int catches = 0; catches < 2; catches++) {
        start(catches);
        drive();
        for (unsigned i = 0; i < 20; i++) {
            set(QUEUE_SEL, i % 3);
            tb_offer(&t, 0);
            restore();
            g_assert_cmpuint(tb_used(&t, 0), ==, 2 * i + 1);
            g_assert_cmpuint(t.n_kicks, ==, catches ? ECHO_QUEUES : 0);
            restore();
            g_assert_true(t.bench.gsi[GSI]);
            g_assert_cmphex(get(INTERRUPT_STATUS), ==, 1);
            set(INTERRUPT_ACK, 1);
            g_assert_false(t.bench.gsi[GSI]);
            request_comes_back();
        }
        finish();
    }
}

static void an_interrupt_status_that_there_is_not_is_refused(void)
{
    g_autoptr(GBytes) state = NULL, lie = NULL;

    start(false);
    drive();
    state = save();
    lie = edit_state(state, "echo/virtio-mmio", "interrupt_status", 0, 4);
    g_assert_null(lie);
    finish();
}

static void the_line_stays_up_until_all_is_acknowledged(void)
{
    start(true);
    drive();
    virtio_config_changed(t.v);
    tb_offer(&t, 0);
    set(QUEUE_NOTIFY, 0);
    tb_run(&t);
    g_assert_cmphex(get(INTERRUPT_STATUS), ==, 3);
    set(INTERRUPT_ACK, 1);
    g_assert_true(t.bench.gsi[GSI]);
    set(INTERRUPT_ACK, 2);
    g_assert_false(t.bench.gsi[GSI]);
    virtio_config_changed(t.v);
    g_assert_true(t.bench.gsi[GSI]);
    set(STATUS, 0);
    g_assert_false(t.bench.gsi[GSI]);
    g_assert_cmphex(get(INTERRUPT_STATUS), ==, 0);
    finish();
}

/* One thread interrupts while another acknowledges: whatever the order, in the end the
 * line is up exactly if there is something to acknowledge. */
static void *interrupter(void *opaque)
{
    for (unsigned i = 0; i < 50; i++)
        virtio_config_changed(t.v);
    return NULL;
}

static void the_line_is_right_whoever_comes_last(void)
{
    start(false);
    drive();
    for (unsigned round = 0; round < 300; round++) {
        pthread_t thread;

        g_assert_cmpint(pthread_create(&thread, NULL, interrupter, NULL), ==, 0);
        for (unsigned i = 0; i < 50; i++)
            set(INTERRUPT_ACK, 2);
        pthread_join(thread, NULL);
        if (t.bench.gsi[GSI]) {
            g_assert_cmphex(get(INTERRUPT_STATUS), ==, 2);
            set(INTERRUPT_ACK, 2);
        }
        g_assert_false(t.bench.gsi[GSI]);
        g_assert_cmphex(get(INTERRUPT_STATUS), ==, 0);
    }
    finish();
}

/* The class of CVE-2026-5747: a queue's geometry changed under a running device. */
static void queue_registers_are_frozen_after_driver_ok(void)
{
    start(true);
    drive();
    for (unsigned i = 0; i < ECHO_QUEUES; i++) {
        set(QUEUE_SEL, i);
        set(QUEUE_SIZE, 0x8000);
        set(QUEUE_READY, 0);
        for (unsigned reg = QUEUE_DESC; reg <= QUEUE_DEVICE + 4; reg += 4)
            set(reg, 0xdeadbee0);
        g_assert_cmpuint(get(QUEUE_READY), ==, 1);
        g_assert_cmpuint(virtio_queue_peek(t.v, i)->size, ==, TB_SIZE);
        g_assert_cmphex(virtio_queue_peek(t.v, i)->desc, ==, i * TB_QUEUE + TB_DESC);
        g_assert_cmphex(virtio_queue_peek(t.v, i)->driver, ==, i * TB_QUEUE + TB_DRIVER);
        g_assert_cmphex(virtio_queue_peek(t.v, i)->device, ==, i * TB_QUEUE + TB_DEVICE);
    }
    request_comes_back();
    finish();
}

static void a_queue_that_is_not_there_reads_0(void)
{
    const uint32_t absent[] = {ECHO_QUEUES, 0xffff, 0x10000, UINT32_MAX};

    start(false);
    negotiate();
    for (unsigned i = 0; i < G_N_ELEMENTS(absent); i++) {
        set(QUEUE_SEL, absent[i]);
        g_assert_cmpuint(get(QUEUE_SIZE_MAX), ==, 0);
        g_assert_cmpuint(get(QUEUE_READY), ==, 0);
        set(QUEUE_SIZE, 4);
        set(QUEUE_READY, 1);
        set(QUEUE_DESC, 0x1000);
        g_assert_cmpuint(get(QUEUE_READY), ==, 0);
        set(QUEUE_NOTIFY, absent[i]);
    }
    for (unsigned i = 0; i < ECHO_QUEUES; i++)
        place_queue(i);
    set(STATUS, 0xf);
    request_comes_back();
    finish();
}

static void a_size_that_does_not_fit_breaks_the_device(void)
{
    const uint32_t bad[] = {0, 3, 0x200, 0x10000, 0x10008, UINT32_MAX};

    start(false);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        negotiate();
        place_queue(0);
        set(QUEUE_SIZE, bad[i]);
        set(STATUS, 0xf);
        g_assert_cmphex(get(STATUS), ==, 0x4f);
        g_assert_cmphex(get(INTERRUPT_STATUS), ==, 2);
    }
    drive();
    request_comes_back();
    finish();
}

static void addresses_have_64_bits(void)
{
    start(false);
    negotiate();
    set(QUEUE_SEL, 1);
    set(QUEUE_DESC, 0x11111110);
    set(QUEUE_DESC + 4, 0x22222222);
    set(QUEUE_DRIVER + 4, 0x44444444);
    set(QUEUE_DEVICE, 0x55555550);
    g_assert_cmphex(virtio_queue_peek(t.v, 1)->desc, ==, 0x2222222211111110);
    g_assert_cmphex(virtio_queue_peek(t.v, 1)->driver, ==, 0x4444444400000000);
    g_assert_cmphex(virtio_queue_peek(t.v, 1)->device, ==, 0x55555550);
    finish();
}

/* 4.2.2.2 */
static void registers_are_accessed_by_32_bits_only(void)
{
    start(false);
    negotiate();
    for (unsigned size = 1; size <= 8; size *= 2) {
        if (size == 4)
            continue;
        g_assert_cmphex(tb_read(&t, BASE + MAGIC, size), ==, 0);
        tb_write(&t, BASE + STATUS, size, 0);
        g_assert_cmphex(get(STATUS), ==, 0xb);
    }
    tb_write(&t, BASE + STATUS + 1, 4, 0);
    g_assert_cmphex(get(STATUS), ==, 0xb);
    finish();
}

static void config_is_accessed_by_any_size(void)
{
    uint32_t generation;

    start(false);
    tb_write(&t, BASE + CONFIG, 8, 0x0807060504030201);
    tb_write(&t, BASE + CONFIG + 8, 2, 0x0a09);
    tb_write(&t, BASE + CONFIG + 10, 1, 0x0b);
    g_assert_cmphex(tb_read(&t, BASE + CONFIG + 7, 4), ==, 0x0b0a0908);
    g_assert_cmphex(tb_read(&t, BASE + CONFIG + 10, 4), ==, 0x000b);
    g_assert_cmphex(tb_read(&t, BASE + CONFIG + 0xff, 8), ==, 0);
    generation = get(CONFIG_GENERATION);
    virtio_config_changed(t.v);
    g_assert_cmpuint(get(CONFIG_GENERATION), ==, generation + 1);
    finish();
}

static void a_taken_place_is_an_error_that_names_the_device(void)
{
    g_autoptr(GError) error = NULL;
    TransportBench *other = g_new0(TransportBench, 1);

    start(true);
    tb_init(other, false);
    g_assert_null(virtio_mmio_new(other->v, t.bench.mmio, BASE + VIRTIO_MMIO_SIZE / 2,
                                  &t.bench.ic, GSI, &error));
    g_assert_nonnull(strstr(error->message, "echo"));
    tb_finish(other);
    g_free(other);
    drive();
    request_comes_back();
    finish();
}

static void the_machines_reset_is_a_reset(void)
{
    start(true);
    drive();
    virtio_config_changed(t.v);
    device_reset(dev);
    g_assert_cmphex(get(STATUS), ==, 0);
    g_assert_cmphex(get(INTERRUPT_STATUS), ==, 0);
    g_assert_false(t.bench.gsi[GSI]);
    drive();
    device_quiesce(dev);
    device_resume(dev);
    request_comes_back();
    finish();
}

static void any_storm_of_accesses_is_survived(void)
{
    start(true);
    drive();
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t addr = BASE + (unsigned)g_test_rand_int_range(0, VIRTIO_MMIO_SIZE);
        unsigned size = 1u << g_test_rand_int_range(0, 4);

        if (i % 3)
            addr &= ~3ull;
        if (i % 2)
            tb_read(&t, addr, size);
        else
            tb_write(&t, addr, i % 5 ? 4 : size,
                     (uint64_t)g_test_rand_int() >> g_test_rand_int_range(0, 32));
        if (i % 1000 == 0)
            tb_run(&t);
    }
    set(STATUS, 0);
    drive();
    request_comes_back();
    finish();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    log_set_level(LOG_ERROR);
#define TEST(fn) g_test_add_func("/transport_mmio/" #fn, fn)
    TEST(it_says_what_it_is);
    TEST(a_request_comes_back_and_interrupts);
    TEST(a_restore_serves_what_was_offered_and_keeps_the_line);
    TEST(an_interrupt_status_that_there_is_not_is_refused);
    TEST(the_line_stays_up_until_all_is_acknowledged);
    TEST(the_line_is_right_whoever_comes_last);
    TEST(queue_registers_are_frozen_after_driver_ok);
    TEST(a_queue_that_is_not_there_reads_0);
    TEST(a_size_that_does_not_fit_breaks_the_device);
    TEST(addresses_have_64_bits);
    TEST(registers_are_accessed_by_32_bits_only);
    TEST(config_is_accessed_by_any_size);
    TEST(a_taken_place_is_an_error_that_names_the_device);
    TEST(the_machines_reset_is_a_reset);
    TEST(any_storm_of_accesses_is_survived);
    return g_test_run();
}
