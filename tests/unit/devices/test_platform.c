/* The smallest devices: keyboard controller, panic port, test exits, generation ID. */
#include "bench.h"
#include "devices/platform.h"

typedef struct Fixture {
    Bench b;
    Device *d;
    PlatformEvents events;
    unsigned resets, panics, exits, status;
} Fixture;

static void on_reset(void *opaque)
{
    ((Fixture *)opaque)->resets++;
}

static void on_panic(void *opaque)
{
    ((Fixture *)opaque)->panics++;
}

static void on_exit_port(void *opaque, unsigned status)
{
    ((Fixture *)opaque)->exits++;
    ((Fixture *)opaque)->status = status;
}

static void set_up(Fixture *f)
{
    bench_init(&f->b);
    f->events = (PlatformEvents){
        .reset = on_reset, .panicked = on_panic, .debug_exit = on_exit_port, .opaque = f};
}

static void set_up_i8042(Fixture *f, gconstpointer unused)
{
    set_up(f);
    f->d = i8042_new(f->b.pio, &f->events);
}

static void set_up_pvpanic(Fixture *f, gconstpointer unused)
{
    set_up(f);
    f->d = pvpanic_new(f->b.pio, &f->events);
}

static void set_up_debug_exit(Fixture *f, gconstpointer unused)
{
    set_up(f);
    f->d = debug_exit_new(f->b.pio, &f->events);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    device_release(f->d);
    bench_finish(&f->b);
}

/* Sends a command and returns its answer, or -1 without one. */
static int command(Fixture *f, uint8_t byte)
{
    out(&f->b, 0x64, 1, byte);
    return in(&f->b, 0x64, 1) & 1 ? (int)in(&f->b, 0x60, 1) : -1;
}

static void i8042_passes_its_tests(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(command(f, 0xaa), ==, 0x55);
    g_assert_cmphex(in(&f->b, 0x64, 1) & 0xe3, ==, 0); /* nothing left, no error */
    g_assert_cmphex(in(&f->b, 0x64, 1) & 4, ==, 4);
    g_assert_cmphex(command(f, 0xab), ==, 0);
}

static void i8042_keeps_its_command_byte(Fixture *f, gconstpointer unused)
{
    g_assert_cmpint(command(f, 0x60), ==, -1);
    out(&f->b, 0x60, 1, 0x47);
    g_assert_cmphex(command(f, 0x20), ==, 0x47);
    command(f, 0xad);
    command(f, 0xa7);
    g_assert_cmphex(command(f, 0x20), ==, 0x77);
    command(f, 0xae);
    command(f, 0xa8);
    g_assert_cmphex(command(f, 0x20), ==, 0x47);
}

static void i8042_has_no_mouse_and_no_keyboard(Fixture *f, gconstpointer unused)
{
    command(f, 0xd3);
    out(&f->b, 0x60, 1, 0x5a);
    g_assert_cmphex(in(&f->b, 0x64, 1) & 0x21, ==, 1); /* not from the mouse's port */
    in(&f->b, 0x60, 1);
    g_assert_cmphex(command(f, 0xa9), ==, 2);
    out(&f->b, 0x60, 1, 0xf2);
    g_assert_cmphex(in(&f->b, 0x64, 1) & 1, ==, 0); /* nobody answers */
}

static void i8042_remembers_a20(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(command(f, 0xd0) & 3, ==, 3);
    command(f, 0xd1);
    out(&f->b, 0x60, 1, 0xdd);
    g_assert_cmphex(command(f, 0xd0) & 3, ==, 1);
    g_assert_cmphex(in(&f->b, 0x92, 1), ==, 0);
    out(&f->b, 0x92, 1, 2);
    g_assert_cmphex(command(f, 0xd0) & 3, ==, 3);
    g_assert_cmpuint(f->resets, ==, 0);
}

static void i8042_resets_four_ways(Fixture *f, gconstpointer unused)
{
    command(f, 0xff); /* pulses nothing */
    g_assert_cmpuint(f->resets, ==, 0);
    command(f, 0xfe);
    g_assert_cmpuint(f->resets, ==, 1);
    command(f, 0xf0);
    g_assert_cmpuint(f->resets, ==, 2);
    command(f, 0xd1);
    out(&f->b, 0x60, 1, 0x02);
    g_assert_cmpuint(f->resets, ==, 3);
    out(&f->b, 0x92, 1, 3);
    g_assert_cmpuint(f->resets, ==, 4);
}

static void i8042_survives_any_access(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 256; i++) {
        bench_storm(f->b.pio, 0x60, 1, 4);
        bench_storm(f->b.pio, 0x64, 1, 4);
        bench_storm(f->b.pio, 0x92, 1, 4);
    }
    device_reset(f->d);
    g_assert_cmphex(command(f, 0xaa), ==, 0x55);
}

static void pvpanic_offers_and_reports_a_panic(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(in(&f->b, PVPANIC_PORT, 1), ==, 3);
    out(&f->b, PVPANIC_PORT, 1, 2); /* a crash kernel takes over */
    g_assert_cmpuint(f->panics, ==, 0);
    out(&f->b, PVPANIC_PORT, 1, 1);
    g_assert_cmpuint(f->panics, ==, 1);
    bench_storm(f->b.pio, PVPANIC_PORT, 1, 64);
}

static void debug_exit_gives_the_guests_status(Fixture *f, gconstpointer unused)
{
    static const struct {
        uint16_t port;
        unsigned size;
        uint32_t value, status;
    } cases[] = {{0xf4, 1, 0, 1},     {0xf4, 1, 0x10, 33},        {0xf4, 4, 61, 123},
                 {0xf4, 4, 62, 123},  {0xf4, 4, 0xffffffff, 123}, {0x501, 1, 0, 0},
                 {0x501, 1, 42, 42},  {0x501, 1, 123, 123},       {0x501, 1, 124, 123},
                 {0x501, 2, 300, 123}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        out(&f->b, cases[i].port, cases[i].size, cases[i].value);
        g_assert_cmpuint(f->exits, ==, i + 1);
        g_assert_cmpuint(f->status, ==, cases[i].status);
    }
    bench_storm(f->b.pio, 0xf4, 4, 16);
    bench_storm(f->b.pio, 0x501, 1, 16);
}

static void vmgenid_is_written_and_survives_a_reset(void)
{
    static const uint8_t first[16] = "0123456789abcdef", second[16] = "fedcba9876543210";
    GuestMemOptions options = {.size = 64 * KIB};
    GuestMem gm;
    uint8_t *at;
    Device *d;

    g_assert_true(gm_init(&gm, &options, NULL));
    g_assert_true(gm_add(&gm, 0x10000, 64 * KIB, NULL));
    d = vmgenid_new(&gm, 0x11000, first);
    at = gm_at(&gm, 0x11000 + VMGENID_OFFSET, 16);
    g_assert_cmpmem(at, 16, first, 16);
    g_assert_true(vmgenid_set(d, second));
    g_assert_cmpmem(at, 16, second, 16);
    memset(at, 0, 16);
    device_reset(d);
    g_assert_cmpmem(at, 16, second, 16);
    device_release(d);

    d = vmgenid_new(&gm, 0x90000, first);
    g_assert_false(vmgenid_set(d, second)); /* no RAM there */
    device_release(d);
    gm_finish(&gm);
}

#define TEST(device, fn)                                                                 \
    g_test_add("/" #device "/" #fn, Fixture, NULL, set_up_##device, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(i8042, i8042_passes_its_tests);
    TEST(i8042, i8042_keeps_its_command_byte);
    TEST(i8042, i8042_has_no_mouse_and_no_keyboard);
    TEST(i8042, i8042_remembers_a20);
    TEST(i8042, i8042_resets_four_ways);
    TEST(i8042, i8042_survives_any_access);
    TEST(pvpanic, pvpanic_offers_and_reports_a_panic);
    TEST(debug_exit, debug_exit_gives_the_guests_status);
    g_test_add_func("/vmgenid/vmgenid_is_written_and_survives_a_reset",
                    vmgenid_is_written_and_survives_a_reset);
    return g_test_run();
}
