/* ACPI fixed hardware as ACPICA drives it. */
#include "bench.h"
#include "devices/platform.h"

enum { SCI = 9, STS = 0x600, EN = 0x602, CNT = 0x604, TMR = 0x608 };

typedef struct Fixture {
    Bench b;
    Device *pm;
    IoLoop *loop;
    PlatformEvents events;
    unsigned offs, resets;
} Fixture;

static void on_power_off(void *opaque)
{
    ((Fixture *)opaque)->offs++;
}

static void on_reset(void *opaque)
{
    ((Fixture *)opaque)->resets++;
}

static void set_up(Fixture *f, gconstpointer unused)
{
    bench_init(&f->b);
    f->loop = ioloop_new(NULL);
    f->events = (PlatformEvents){
        .power_off = on_power_off, .reset = on_reset, .opaque = f};
    f->pm = acpi_pm_new(f->b.pio, &f->b.ic, SCI, f->loop, &f->events);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    device_release(f->pm);
    g_assert_false(f->b.gsi[SCI]);
    ioloop_free(f->loop);
    bench_finish(&f->b);
}

static void acpi_is_switched_on_by_the_smi_port(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(in(&f->b, CNT, 2), ==, 0);
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    g_assert_cmphex(in(&f->b, CNT, 2), ==, 1);
    g_assert_cmphex(in(&f->b, ACPI_SMI_CMD, 1), ==, ACPI_ENABLE);
    out(&f->b, ACPI_SMI_CMD, 1, 0x12);
    g_assert_cmphex(in(&f->b, CNT, 2), ==, 1);
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_DISABLE);
    g_assert_cmphex(in(&f->b, CNT, 2), ==, 0);
}

static void the_power_button_raises_the_sci_until_cleared(Fixture *f,
                                                          gconstpointer unused)
{
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    out(&f->b, EN, 2, 0x100);
    g_assert_false(f->b.gsi[SCI]);
    acpi_pm_power_button(f->pm);
    g_assert_true(f->b.gsi[SCI]);
    g_assert_cmphex(in(&f->b, STS, 2), ==, 0x100);
    out(&f->b, STS, 2, 0xfeff); /* other bits */
    g_assert_true(f->b.gsi[SCI]);
    out(&f->b, STS, 2, 0x100);
    g_assert_cmphex(in(&f->b, STS, 2), ==, 0);
    g_assert_false(f->b.gsi[SCI]);
}

static void a_press_before_acpi_is_on_waits(Fixture *f, gconstpointer unused)
{
    out(&f->b, EN, 2, 0x100);
    acpi_pm_power_button(f->pm);
    g_assert_false(f->b.gsi[SCI]);
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    g_assert_true(f->b.gsi[SCI]);
    out(&f->b, EN, 2, 0);
    g_assert_false(f->b.gsi[SCI]);
}

static void only_s5_switches_off_and_only_with_slp_en(Fixture *f, gconstpointer unused)
{
    for (unsigned type = 0; type < 8; type++) {
        out(&f->b, CNT, 2, type << 10 | 1);
        g_assert_cmpuint(f->offs, ==, type > ACPI_S5);
        g_assert_cmphex(in(&f->b, CNT, 2), ==, type << 10 | 1);
        out(&f->b, CNT, 2, type << 10 | 0x2001);
        g_assert_cmpuint(f->offs, ==, type >= ACPI_S5);
        g_assert_cmphex(in(&f->b, CNT, 2), ==, type << 10 | 1); /* SLP_EN reads 0 */
    }
    out(&f->b, CNT + 1, 1, 0x20 | ACPI_S5 << 2); /* the high byte alone */
    g_assert_cmpuint(f->offs, ==, 2);
}

static void general_events_follow_status_and_enable(Fixture *f, gconstpointer unused)
{
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    acpi_pm_raise_gpe(f->pm, VMGENID_GPE);
    acpi_pm_raise_gpe(f->pm, 9);
    g_assert_cmphex(in(&f->b, ACPI_GPE0, 4), ==, 0x0220);
    g_assert_false(f->b.gsi[SCI]);
    out(&f->b, ACPI_GPE0 + 3, 1, 2);
    g_assert_true(f->b.gsi[SCI]);
    out(&f->b, ACPI_GPE0 + 1, 1, 2);
    g_assert_false(f->b.gsi[SCI]);
    out(&f->b, ACPI_GPE0 + 2, 1, 0x20);
    g_assert_true(f->b.gsi[SCI]);
    out(&f->b, ACPI_GPE0, 1, 0x20);
    g_assert_cmphex(in(&f->b, ACPI_GPE0, 4), ==, 0x02200000);
    g_assert_false(f->b.gsi[SCI]);
}

static void an_event_that_stands_cannot_be_cleared(Fixture *f, gconstpointer unused)
{
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    out(&f->b, ACPI_GPE0 + 3, 1, 2);
    g_assert_true(acpi_pm_gpe_enabled(f->pm, 9));
    g_assert_false(acpi_pm_gpe_enabled(f->pm, 8));
    acpi_pm_set_gpe(f->pm, 9, true);
    g_assert_true(f->b.gsi[SCI]);
    out(&f->b, ACPI_GPE0 + 1, 1, 2);
    g_assert_true(f->b.gsi[SCI]);
    acpi_pm_set_gpe(f->pm, 9, false);
    g_assert_true(f->b.gsi[SCI]); /* until the guest has dealt with it */
    out(&f->b, ACPI_GPE0 + 1, 1, 2);
    g_assert_false(f->b.gsi[SCI]);
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_DISABLE);
    g_assert_false(acpi_pm_gpe_enabled(f->pm, 9));
}

static void the_timer_runs_at_its_frequency(Fixture *f, gconstpointer unused)
{
    int64_t from = clock_ns(), ns;
    uint32_t first = in(&f->b, TMR, 4), ticks;

    g_usleep(50000);
    ticks = (uint32_t)in(&f->b, TMR, 4) - first;
    ns = clock_ns() - from;
    g_assert_cmpuint(ticks, <=, ns * 3579545.0 / 1e9 + 1);
    g_assert_cmpuint(ticks, >=, 50000000 * 3579545.0 / 1e9 - 1);
    out(&f->b, TMR, 4, 0);
    g_assert_cmpuint(in(&f->b, TMR, 4), >, first); /* read-only */
    g_assert_cmphex(in(&f->b, STS, 2), ==, 0);
}

static void the_reset_port_needs_its_bit(Fixture *f, gconstpointer unused)
{
    out(&f->b, ACPI_RESET_PORT, 1, 0x02);
    g_assert_cmpuint(f->resets, ==, 0);
    g_assert_cmphex(in(&f->b, ACPI_RESET_PORT, 1), ==, 2);
    out(&f->b, ACPI_RESET_PORT, 1, ACPI_RESET_VALUE);
    g_assert_cmpuint(f->resets, ==, 1);
}

static void a_reset_clears_everything(Fixture *f, gconstpointer unused)
{
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    out(&f->b, EN, 2, 0x100);
    acpi_pm_power_button(f->pm);
    device_reset(f->pm);
    g_assert_false(f->b.gsi[SCI]);
    g_assert_cmphex(in(&f->b, STS, 4), ==, 0);
    g_assert_cmphex(in(&f->b, CNT, 2), ==, 0);
    g_assert_cmpuint(in(&f->b, TMR, 4), <, 3579545);
}

static void any_access_is_survived(Fixture *f, gconstpointer unused)
{
    bench_storm(f->b.pio, 0x600, 12, 64);
    bench_storm(f->b.pio, ACPI_GPE0, 4, 64);
    bench_storm(f->b.pio, ACPI_SMI_CMD, 2, 64);
    bench_storm(f->b.pio, 0xcf8, 8, 64);
    g_assert_cmpuint(f->offs, >, 0);
}

#define TEST(fn) g_test_add("/acpi-pm/" #fn, Fixture, NULL, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(acpi_is_switched_on_by_the_smi_port);
    TEST(the_power_button_raises_the_sci_until_cleared);
    TEST(a_press_before_acpi_is_on_waits);
    TEST(only_s5_switches_off_and_only_with_slp_en);
    TEST(general_events_follow_status_and_enable);
    TEST(an_event_that_stands_cannot_be_cleared);
    TEST(the_timer_runs_at_its_frequency);
    TEST(the_reset_port_needs_its_bit);
    TEST(a_reset_clears_everything);
    TEST(any_access_is_survived);
    return g_test_run();
}
