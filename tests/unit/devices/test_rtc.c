/* The clock and CMOS RAM.  The real clock runs: a test that needs the next second sets
 * the time through the divider, which makes it half a second away, and waits for what it
 * wants to see, never for a length of time. */
#include <time.h>

#include "bench.h"
#include "devices/platform.h"
#include "devices/rtc_calendar.h"

enum { GSI = 8, A = 10, B = 11, C = 12, D = 13, CENTURY = 0x32 };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 4, H24 = 2 };
#define PATIENCE_NS 10000000000ll

typedef struct Fixture {
    Bench b;
    IoLoop *loop;
    Device *d;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    bench_init(&f->b);
    f->loop = ioloop_start("main", NULL);
    f->d = rtc_new(f->b.pio, &f->b.ic, GSI, f->loop, 3072 * MIB, 1024 * MIB);
}

static void release(void *opaque)
{
    device_release(opaque);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    ioloop_call(f->loop, release, f->d);
    ioloop_free(f->loop);
    g_assert_false(f->b.gsi[GSI]);
    bench_finish(&f->b);
}

static uint8_t get(Fixture *f, uint8_t index)
{
    out(&f->b, 0x70, 1, index);
    return in(&f->b, 0x71, 1);
}

static void set(Fixture *f, uint8_t index, uint8_t value)
{
    out(&f->b, 0x70, 1, index);
    out(&f->b, 0x71, 1, value);
}

/* Sets date and time as Linux does; the next update is half a second away. */
static void set_clock(Fixture *f, uint8_t mode, const uint8_t bytes[8])
{
    static const uint8_t at[8] = {CENTURY, 9, 8, 7, 6, 4, 2, 0};

    set(f, B, SET | mode);
    set(f, A, 0x76);
    for (unsigned i = 0; i < 8; i++)
        set(f, at[i], bytes[i]);
    set(f, A, 0x26);
    set(f, B, mode);
}

static void expect_clock(Fixture *f, const uint8_t bytes[8])
{
    static const uint8_t at[8] = {CENTURY, 9, 8, 7, 6, 4, 2, 0};

    for (unsigned i = 0; i < 8; i++)
        g_assert_cmphex(get(f, at[i]), ==, bytes[i]);
}

static void wait_seconds_change(Fixture *f)
{
    uint8_t was = get(f, 0);

    for (int64_t end = clock_ns() + PATIENCE_NS; get(f, 0) == was;)
        g_assert_cmpint(clock_ns(), <, end);
}

static void wait_irq(Fixture *f)
{
    for (int64_t end = clock_ns() + PATIENCE_NS; !f->b.gsi[GSI];)
        g_assert_cmpint(clock_ns(), <, end);
}

static void it_shows_the_hosts_time_in_utc(Fixture *f, gconstpointer unused)
{
    Calendar c;
    time_t now;

    do { /* both within one second */
        time(&now);
        set(f, B, H24 | BINARY);
        c = (Calendar){.year = get(f, CENTURY) * 100 + get(f, 9),
                       .month = get(f, 8),
                       .day = get(f, 7),
                       .hour = get(f, 4),
                       .minute = get(f, 2),
                       .second = get(f, 0)};
    } while (time(NULL) != now);
    g_assert_cmpint(calendar_to_seconds(&c), ==, now);
    g_assert_cmphex(get(f, D), ==, 0x80);
}

static void the_calendar_agrees_with_the_c_library(void)
{
    for (int64_t day = 0; day < 100000; day++) { /* to 2243 */
        time_t t = day * SECONDS_PER_DAY + day * 7919 % SECONDS_PER_DAY;
        Calendar c = calendar_from_seconds(t);
        struct tm tm;

        gmtime_r(&t, &tm);
        g_assert_cmpint(c.year, ==, tm.tm_year + 1900);
        g_assert_cmpint(c.month, ==, tm.tm_mon + 1);
        g_assert_cmpint(c.day, ==, tm.tm_mday);
        g_assert_cmpint(c.weekday, ==, tm.tm_wday);
        g_assert_cmpint(calendar_to_seconds(&c), ==, t);
    }
}

static void midnight_carries_into_the_leap_day(Fixture *f, gconstpointer unused)
{
    set_clock(f, H24, (uint8_t[]){0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59});
    expect_clock(f, (uint8_t[]){0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59});
    wait_seconds_change(f);
    expect_clock(f, (uint8_t[]){0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00});
}

static void a_century_ends_in_binary_and_12_hours(Fixture *f, gconstpointer unused)
{
    set_clock(f, BINARY, (uint8_t[]){20, 99, 12, 31, 5, 0x80 | 11, 59, 59});
    wait_seconds_change(f);
    expect_clock(f, (uint8_t[]){21, 0, 1, 1, 6, 12, 0, 0});
    set(f, B, 0); /* the same in BCD */
    g_assert_cmphex(get(f, 4), ==, 0x12);
    set(f, 4, 0x92); /* 12 pm */
    set(f, B, H24);
    g_assert_cmphex(get(f, 4), ==, 0x12);
    set(f, 4, 0x00);
    set(f, B, 0);
    g_assert_cmphex(get(f, 4), ==, 0x12); /* 12 am */
}

static void set_stops_the_clock(Fixture *f, gconstpointer unused)
{
    set_clock(f, H24, (uint8_t[]){0x20, 0x24, 0x01, 0x01, 2, 0x00, 0x00, 0x58});
    set(f, B, SET | H24 | UIE);
    g_assert_cmphex(get(f, B), ==, SET | H24); /* UIE goes */
    g_usleep(1100000);
    g_assert_cmphex(get(f, 0), ==, 0x58);
    g_assert_cmphex(get(f, A), ==, 0x26); /* no update in progress */
    g_assert_cmphex(get(f, C) & UIE, ==, 0);
    set(f, B, H24);
    wait_seconds_change(f);
    g_assert_cmphex(get(f, 0), ==, 0x59);
}

static void uip_warns_before_the_registers_change(Fixture *f, gconstpointer unused)
{
    uint8_t before = 0, a = 0;

    for (int64_t end = clock_ns() + PATIENCE_NS; !(a & 0x80);) {
        before = get(f, 0);
        a = get(f, A);
        g_assert_cmpint(clock_ns(), <, end);
    }
    wait_seconds_change(f);
    g_assert_cmphex(get(f, A), ==, 0x26);
    g_assert_cmphex(get(f, 0), !=, before);
}

static void an_update_interrupts_until_c_is_read(Fixture *f, gconstpointer unused)
{
    get(f, C);
    set(f, B, H24 | UIE);
    wait_irq(f);
    g_assert_cmphex(get(f, C) & 0x90, ==, 0x90);
    g_assert_false(f->b.gsi[GSI]);
    g_assert_cmphex(get(f, C) & 0x90, ==, 0);
}

static void the_alarm_goes_off_at_its_second(Fixture *f, gconstpointer unused)
{
    set_clock(f, H24, (uint8_t[]){0x20, 0x24, 0x01, 0x01, 2, 0x07, 0x59, 0x59});
    set(f, 1, 0x00);
    set(f, 3, 0x00);
    set(f, 5, 0x08);
    get(f, C);
    set(f, B, H24 | AIE);
    wait_irq(f);
    g_assert_cmphex(get(f, 4) << 16 | get(f, 2) << 8 | get(f, 0), ==, 0x080000);
    g_assert_cmphex(get(f, C) & 0xa0, ==, 0xa0);
}

static void an_alarm_of_dont_cares_goes_off_every_second(Fixture *f, gconstpointer unused)
{
    set_clock(f, H24, (uint8_t[]){0x20, 0x24, 0x01, 0x01, 2, 0x07, 0x59, 0x10});
    set(f, 1, 0xff);
    set(f, 3, 0xc0);
    set(f, 5, 0xff);
    get(f, C);
    wait_seconds_change(f);
    g_assert_cmphex(get(f, C) & 0xb0, ==, 0x30); /* polled: no interrupt */
}

static void an_alarm_that_no_clock_shows_never_goes_off(Fixture *f, gconstpointer unused)
{
    set_clock(f, H24, (uint8_t[]){0x20, 0x24, 0x01, 0x01, 2, 0x07, 0x59, 0x20});
    set(f, 1, 0x1b); /* not a BCD number; 21 if taken for one */
    set(f, 3, 0xff);
    set(f, 5, 0xff);
    get(f, C);
    set(f, B, H24 | AIE);
    wait_seconds_change(f);
    g_assert_cmphex(get(f, C) & 0xa0, ==, 0);
}

static void periodic_interrupts_keep_their_rate(Fixture *f, gconstpointer unused)
{
    int64_t from;
    unsigned n;

    set(f, A, 0x26); /* 1024 Hz */
    set(f, B, H24 | PIE);
    get(f, C);
    from = clock_ns();
    for (n = 0; n < 256; n++) {
        wait_irq(f);
        g_assert_cmphex(get(f, C) & 0xc0, ==, 0xc0);
    }
    g_assert_cmpint(clock_ns() - from, >=, 249000000); /* never faster than asked */
    set(f, B, H24);
}

typedef struct Turns {
    IoLoop *loop;
    IoPoller poller;
    _Atomic unsigned n;
} Turns;

static bool count_turn(void *opaque)
{
    ((Turns *)opaque)->n++;
    return false;
}

static void start_counting(void *opaque)
{
    Turns *t = opaque;

    t->poller = (IoPoller){.fn = count_turn, .opaque = t};
    ioloop_poller_add(t->loop, &t->poller);
}

static void stop_counting(void *opaque)
{
    ioloop_poller_remove(((Turns *)opaque)->loop, &((Turns *)opaque)->poller);
}

static void an_unacknowledged_interrupt_costs_no_more_turns(Fixture *f,
                                                            gconstpointer unused)
{
    Turns turns = {.loop = f->loop};
    unsigned edges;

    set(f, A, 0x23); /* 8192 Hz */
    set(f, B, H24 | PIE);
    wait_irq(f);
    edges = f->b.edges[GSI];
    ioloop_call(f->loop, start_counting, &turns);
    g_usleep(20000);
    g_assert_cmpuint(f->b.edges[GSI], ==, edges);
    g_assert_cmpuint(turns.n, <, 10);
    ioloop_call(f->loop, stop_counting, &turns);
    set(f, B, H24);
}

/* A busy host may be late once, but not always. */
static void the_first_update_after_setting_is_half_a_second_away(Fixture *f,
                                                                 gconstpointer unused)
{
    int64_t took = PATIENCE_NS;

    for (unsigned i = 0; i < 10 && took > 900000000; i++) {
        int64_t from = clock_ns();
        set_clock(f, H24, (uint8_t[]){0x20, 0x24, 0x01, 0x01, 2, 0x07, 0x59, 0x10});
        wait_seconds_change(f);
        took = clock_ns() - from;
        g_assert_cmpint(took, >=, 499000000);
    }
    g_assert_cmpint(took, <=, 900000000);
}

static void a_reset_keeps_time_and_ram_but_no_interrupt(Fixture *f, gconstpointer unused)
{
    set_clock(f, H24, (uint8_t[]){0x20, 0x30, 0x01, 0x01, 2, 0x07, 0x59, 0x10});
    set(f, 0x0f, 0x0a);
    set(f, A, 0x23);
    set(f, B, H24 | PIE | SET);
    wait_irq(f);
    device_reset(f->d);
    g_assert_false(f->b.gsi[GSI]);
    g_assert_cmphex(get(f, B), ==, H24);
    g_assert_cmphex(get(f, 9), ==, 0x30);
    g_assert_cmphex(get(f, 0x0f), ==, 0x0a);
}

static void memory_sizes_are_in_the_ram(Fixture *f, gconstpointer unused)
{
    unsigned sum = 0;

    g_assert_cmpuint(get(f, 0x15) | get(f, 0x16) << 8, ==, 640);
    g_assert_cmpuint(get(f, 0x17) | get(f, 0x18) << 8, ==, 0xffff);
    g_assert_cmpuint(get(f, 0x30) | get(f, 0x31) << 8, ==, 0xffff);
    g_assert_cmpuint(get(f, 0x34) | get(f, 0x35) << 8, ==, (3072 - 16) * 16);
    g_assert_cmpuint(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16, ==,
                     1024 * 16);
    for (unsigned i = 0x10; i < 0x2e; i++)
        sum += get(f, i);
    g_assert_cmpuint(get(f, 0x2e) << 8 | get(f, 0x2f), ==, sum & 0xffff);
}

static void ram_is_ram_and_bit_7_is_not_an_address(Fixture *f, gconstpointer unused)
{
    set(f, 0x7f, 0x5a);
    set(f, 0x80 | 0x7e, 0xa5);
    g_assert_cmphex(get(f, 0xff), ==, 0x5a);
    g_assert_cmphex(get(f, 0x7e), ==, 0xa5);
    set(f, D, 0); /* read-only */
    g_assert_cmphex(get(f, D), ==, 0x80);
    g_assert_cmphex(in(&f->b, 0x70, 1), ==, 0xff);
    out(&f->b, 0x70, 2, 0x337f); /* index and data at once */
    g_assert_cmphex(get(f, 0x7f), ==, 0x33);
}

static void any_time_may_be_written(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 50000; i++)
        set(f, g_test_rand_int_range(0, i & 1 ? 14 : 256), g_test_rand_int_range(0, 256));
    for (unsigned i = 0; i < 4; i++) {
        uint8_t mode = i << 1;
        set(f, A, 0x26);
        set_clock(f, mode, (uint8_t[]){255, 255, 255, 255, 255, 255, 255, 255});
        get(f, 9);
        set_clock(f, mode, (uint8_t[]){0, 0, 0, 0, 0, 0, 0, 0});
        get(f, 9);
    }
    bench_storm(f->b.pio, 0x70, 2, 2000);
    set(f, B, H24);
    get(f, C);
}

#define TEST(fn) g_test_add("/rtc/" #fn, Fixture, NULL, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(it_shows_the_hosts_time_in_utc);
    g_test_add_func("/rtc/the_calendar_agrees_with_the_c_library",
                    the_calendar_agrees_with_the_c_library);
    TEST(midnight_carries_into_the_leap_day);
    TEST(a_century_ends_in_binary_and_12_hours);
    TEST(set_stops_the_clock);
    TEST(uip_warns_before_the_registers_change);
    TEST(an_update_interrupts_until_c_is_read);
    TEST(the_alarm_goes_off_at_its_second);
    TEST(an_alarm_of_dont_cares_goes_off_every_second);
    TEST(an_alarm_that_no_clock_shows_never_goes_off);
    TEST(periodic_interrupts_keep_their_rate);
    TEST(an_unacknowledged_interrupt_costs_no_more_turns);
    TEST(the_first_update_after_setting_is_half_a_second_away);
    TEST(a_reset_keeps_time_and_ram_but_no_interrupt);
    TEST(memory_sizes_are_in_the_ram);
    TEST(ram_is_ram_and_bit_7_is_not_an_address);
    TEST(any_time_may_be_written);
    return g_test_run();
}
