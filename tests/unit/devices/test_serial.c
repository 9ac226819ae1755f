/* The UART as Linux's 8250 driver and a hostile guest use it.  The chardev is ours: these
 * definitions stand in for the library's. */
#include "bench.h"
#include "devices/platform.h"

enum {
    BASE = 0x3f8,
    THR = BASE,
    RBR = BASE,
    IER,
    IIR,
    FCR = IIR,
    LCR,
    MCR,
    LSR,
    MSR,
    SCR
};
enum { GSI = 4 };

static struct {
    const ChardevHandlers *handlers;
    void *opaque;
    char out[65536];
    size_t n_out, room; /* room: what the ring still takes */
    unsigned accepts, closed, user_output;
} host;

static void on_user_output(void *opaque)
{
    host.user_output++;
}

static const PlatformEvents events = {.user_output = on_user_output};

struct Chardev {
    int unused;
};

void chardev_set_handlers(Chardev *c, const ChardevHandlers *handlers, void *opaque)
{
    host.handlers = handlers;
    host.opaque = opaque;
}

size_t chardev_write(Chardev *c, const void *buf, size_t len)
{
    size_t n = MIN(MIN(len, host.room), sizeof(host.out) - host.n_out);

    memcpy(host.out + host.n_out, buf, n);
    host.n_out += n;
    host.room -= n;
    return n;
}

void chardev_save(Chardev *c, const char *section, StateWriter *w)
{
}

bool chardev_load(Chardev *c, const char *section, StateReader *r, GError **error)
{
    return true;
}

void chardev_restored(Chardev *c)
{
}

void chardev_accept_input(Chardev *c)
{
    host.accepts++;
}

void chardev_close(Chardev *c, int timeout_ms)
{
    host.closed++;
}

typedef struct Fixture {
    Bench b;
    Device *d;
    Chardev chardev;
} Fixture;

static void set_up(Fixture *f, gconstpointer unconnected)
{
    bench_init(&f->b);
    memset(&host, 0, sizeof(host));
    host.room = SIZE_MAX;
    f->d = serial_new("serial0", f->b.pio, BASE, &f->b.ic, GSI,
                      unconnected ? NULL : &f->chardev, NULL, &events);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    device_release(f->d);
    g_assert_cmpuint(host.closed, ==, 1);
    g_assert_false(f->b.gsi[GSI]);
    bench_finish(&f->b);
}

static uint8_t get(Fixture *f, uint16_t port)
{
    return in(&f->b, port, 1);
}

static void set(Fixture *f, uint16_t port, uint8_t value)
{
    out(&f->b, port, 1, value);
}

static void type(const char *text)
{
    host.handlers->input(host.opaque, (const uint8_t *)text, strlen(text));
}

static void send_break(void)
{
    host.handlers->event(host.opaque, CHARDEV_BREAK);
}

static size_t room(void)
{
    return host.handlers->room(host.opaque);
}

static void output_reaches_the_host_in_order(Fixture *f, gconstpointer unused)
{
    for (const char *p = "hello\n"; *p; p++)
        set(f, THR, *p);
    g_assert_cmpmem(host.out, host.n_out, "hello\n", 6);
    g_assert_cmphex(get(f, LSR), ==, 0x60);
}

static void a_full_host_holds_up_the_transmitter_and_loses_nothing(Fixture *f,
                                                                   gconstpointer unused)
{
    set(f, FCR, 1);
    set(f, IER, 2);
    get(f, IIR);
    host.room = 2;
    for (const char *p = "abcdef"; *p; p++)
        set(f, THR, *p);
    g_assert_cmpuint(host.n_out, ==, 2);
    g_assert_cmphex(get(f, LSR) & 0x60, ==, 0);
    g_assert_false(f->b.gsi[GSI]);

    host.room = 3;
    host.handlers->drained(host.opaque);
    g_assert_cmphex(get(f, LSR) & 0x60, ==, 0);
    set(f, THR, 'g'); /* behind what waits */
    host.room = 100;
    host.handlers->drained(host.opaque);
    g_assert_cmpmem(host.out, host.n_out, "abcdefg", 7);
    g_assert_cmphex(get(f, LSR) & 0x60, ==, 0x60);
    g_assert_true(f->b.gsi[GSI]);
    g_assert_cmphex(get(f, IIR), ==, 0xc2);
}

static void a_driver_that_ignores_thre_overruns_only_itself(Fixture *f,
                                                            gconstpointer unused)
{
    host.room = 0;
    set(f, FCR, 1);
    for (unsigned i = 0; i < 100; i++)
        set(f, THR, 'a' + i % 26);
    set(f, FCR, 0); /* one byte of room, and 16 waiting */
    for (unsigned i = 0; i < 100; i++)
        set(f, THR, 'z');
    host.room = 100;
    host.handlers->drained(host.opaque);
    g_assert_cmpmem(host.out, host.n_out, "abcdefghijklmnop", 16);
}

static void what_waits_for_the_host_outlives_a_reset(Fixture *f, gconstpointer unused)
{
    host.room = 0;
    set(f, THR, 'x');
    device_reset(f->d);
    host.room = 1;
    host.handlers->drained(host.opaque);
    g_assert_cmpmem(host.out, host.n_out, "x", 1);
}

static void thre_interrupts_when_enabled_and_is_cleared_by_iir(Fixture *f,
                                                               gconstpointer unused)
{
    g_assert_cmphex(get(f, IIR), ==, 1);
    set(f, IER, 2);
    g_assert_true(f->b.gsi[GSI]);
    g_assert_cmphex(get(f, IIR), ==, 2);
    g_assert_cmphex(get(f, IIR), ==, 1);
    g_assert_false(f->b.gsi[GSI]);
    set(f, THR, 'x');
    g_assert_true(f->b.gsi[GSI]);
    set(f, IER, 0); /* Linux tests for a bug here: it must be raised again */
    g_assert_false(f->b.gsi[GSI]);
    set(f, IER, 2);
    g_assert_cmphex(get(f, IIR), ==, 2);
}

static void input_interrupts_and_is_read_in_order(Fixture *f, gconstpointer unused)
{
    set(f, FCR, 0x81); /* trigger at 8 */
    set(f, IER, 1);
    g_assert_cmpuint(room(), ==, 16);
    type("0123");
    g_assert_true(f->b.gsi[GSI]);
    g_assert_cmphex(get(f, IIR), ==, 0xcc); /* below the trigger: character timeout */
    type("4567");
    g_assert_cmphex(get(f, IIR), ==, 0xc4);
    g_assert_cmpuint(room(), ==, 8);
    for (unsigned i = 0; i < 8; i++) {
        g_assert_cmphex(get(f, LSR) & 1, ==, 1);
        g_assert_cmpint(get(f, RBR), ==, '0' + i);
    }
    g_assert_cmphex(get(f, LSR) & 1, ==, 0);
    g_assert_false(f->b.gsi[GSI]);
}

static void more_input_is_asked_for_when_the_fifo_is_empty(Fixture *f,
                                                           gconstpointer unused)
{
    set(f, FCR, 1);
    type("0123456789abcdef");
    g_assert_cmpuint(room(), ==, 0);
    host.accepts = 0;
    for (unsigned i = 0; i < 15; i++)
        get(f, RBR);
    g_assert_cmpuint(host.accepts, ==, 0);
    get(f, RBR);
    g_assert_cmpuint(host.accepts, ==, 1);
    g_assert_cmpuint(room(), ==, 16);
}

static void without_fifos_one_byte_fits(Fixture *f, gconstpointer unused)
{
    g_assert_cmpuint(room(), ==, 1);
    type("a");
    g_assert_cmpuint(room(), ==, 0);
    type("b"); /* against the rules: an overrun, no more */
    g_assert_cmphex(get(f, LSR), ==, 0x63);
    g_assert_cmphex(get(f, LSR), ==, 0x61);
    g_assert_cmpint(get(f, RBR), ==, 'a');
}

static void interrupts_come_by_priority(Fixture *f, gconstpointer unused)
{
    set(f, IER, 15);
    set(f, MCR, 0x10); /* loopback: the modem lines drop */
    set(f, MCR, 0x00);
    type("a");
    type("b"); /* overrun */
    g_assert_cmphex(get(f, IIR), ==, 6);
    get(f, LSR);
    g_assert_cmphex(get(f, IIR), ==, 4);
    get(f, RBR);
    g_assert_cmphex(get(f, IIR), ==, 2);
    g_assert_cmphex(get(f, IIR), ==, 0);
    get(f, MSR);
    g_assert_cmphex(get(f, IIR), ==, 1);
    g_assert_false(f->b.gsi[GSI]);
}

static void a_break_shows_with_its_byte(Fixture *f, gconstpointer unused)
{
    set(f, FCR, 1);
    set(f, IER, 4);
    type("a");
    send_break();
    type("c");
    g_assert_cmphex(get(f, LSR), ==, 0xe1); /* somewhere in the FIFO */
    g_assert_cmpint(get(f, RBR), ==, 'a');
    g_assert_cmphex(get(f, IIR), ==, 0xc6);
    g_assert_cmphex(get(f, LSR), ==, 0xf1);
    g_assert_cmphex(get(f, LSR), ==, 0x61);
    g_assert_cmpint(get(f, RBR), ==, 0);
    g_assert_cmpint(get(f, RBR), ==, 'c');
    g_assert_cmphex(get(f, IIR), ==, 0xc1);
}

static void a_storm_of_breaks_harms_nothing(Fixture *f, gconstpointer unused)
{
    set(f, FCR, 1);
    set(f, IER, 5);
    for (unsigned i = 0; i < 1000; i++) {
        send_break();
        if (i % 20 == 0)
            while (get(f, LSR) & 1)
                get(f, RBR);
    }
    while (get(f, LSR) & 1)
        g_assert_cmpint(get(f, RBR), ==, 0);
    g_assert_cmphex(get(f, LSR), ==, 0x60);
    type("ok");
    g_assert_cmpint(get(f, RBR), ==, 'o');
    g_assert_cmphex(get(f, LSR), ==, 0x61);
}

static void loopback_is_what_the_probe_expects(Fixture *f, gconstpointer unused)
{
    set(f, MCR, 0x1a);
    g_assert_cmphex(get(f, MSR) & 0xf0, ==, 0x90);
    g_assert_cmpuint(room(), ==, 0);
    set(f, THR, 'q');
    g_assert_cmpuint(host.n_out, ==, 0);
    g_assert_cmpint(get(f, RBR), ==, 'q');
    host.accepts = 0;
    set(f, MCR, 0x0b);
    g_assert_cmpuint(host.accepts, ==, 1);
    g_assert_cmphex(get(f, MSR) & 0xf0, ==, 0xb0);
}

static void registers_read_back_as_the_chip_has_them(Fixture *f, gconstpointer unused)
{
    set(f, IER, 0xff);
    g_assert_cmphex(get(f, IER), ==, 0x0f); /* not an XScale */
    set(f, IER, 0);
    set(f, SCR, 0xa5);
    g_assert_cmphex(get(f, SCR), ==, 0xa5);
    set(f, MCR, 0xe0);
    g_assert_cmphex(get(f, MCR), ==, 0);
    set(f, LCR, 0x83);
    set(f, BASE, 0x34);
    set(f, BASE + 1, 0x12);
    g_assert_cmphex(get(f, BASE), ==, 0x34);
    g_assert_cmphex(get(f, BASE + 1), ==, 0x12);
    set(f, LCR, 0x03);
    g_assert_cmphex(get(f, IER), ==, 0);
    g_assert_cmpuint(host.n_out, ==, 0);
    set(f, FCR, 0xe7);
    g_assert_cmphex(get(f, IIR), ==, 0xc1); /* no 64-byte FIFO */
    set(f, LSR, 0);
    g_assert_cmphex(get(f, LSR), ==, 0x60);
}

static void switching_fifos_empties_the_receiver(Fixture *f, gconstpointer unused)
{
    set(f, FCR, 1);
    type("abc");
    host.accepts = 0;
    set(f, FCR, 3);
    g_assert_cmphex(get(f, LSR), ==, 0x60);
    g_assert_cmpuint(host.accepts, ==, 1);
    type("abc");
    set(f, FCR, 0);
    g_assert_cmphex(get(f, LSR), ==, 0x60);
    g_assert_cmpuint(room(), ==, 1);
}

static void an_unconnected_port_swallows_output(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 100; i++)
        set(f, THR, 'x');
    g_assert_cmphex(get(f, LSR), ==, 0x60);
    g_assert_cmphex(get(f, MSR), ==, 0);
}

static void any_access_is_survived(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 2000; i++) {
        host.room = g_test_rand_int_range(0, 20);
        host.n_out = 0;
        bench_storm(f->b.pio, BASE, 8, 1);
        if (room() && i & 1)
            type("x");
        type("0123456789abcdefghij"); /* a chardev that does not ask */
        send_break();
        host.handlers->drained(host.opaque);
    }
}

static void *main_thread(void *opaque)
{
    for (unsigned i = 0; i < 20000; i++) {
        if (room())
            type("y");
        if (i % 5 == 0)
            send_break();
        host.handlers->drained(host.opaque);
    }
    return NULL;
}

static void host_and_guest_may_meet(Fixture *f, gconstpointer unused)
{
    pthread_t thread;

    set(f, FCR, 1);
    set(f, IER, 15);
    pthread_create(&thread, NULL, main_thread, NULL);
    for (unsigned i = 0; i < 20000; i++) {
        set(f, THR, 'x');
        get(f, RBR);
        get(f, LSR);
        get(f, IIR);
    }
    pthread_join(thread, NULL);
    while (get(f, LSR) & 1)
        get(f, RBR);
    get(f, IIR);
    get(f, MSR);
    g_assert_false(f->b.gsi[GSI]);
}

#define TEST(fn, data) g_test_add("/serial/" #fn, Fixture, data, set_up, fn, tear_down)

/* Linux's printk polls, its tty does not. */
static void
what_is_sent_by_interrupt_is_told_of_once_and_again_after_a_reset(Fixture *f,
                                                                  gconstpointer unused)
{
    set(f, BASE, 'k');
    set(f, BASE + 1, 1); /* receiving is not sending */
    set(f, BASE, 'k');
    g_assert_cmpuint(host.user_output, ==, 0);
    set(f, BASE + 1, 3);
    g_assert_cmpuint(host.user_output, ==, 0);
    set(f, BASE, 'p');
    set(f, BASE, 'p');
    g_assert_cmpuint(host.user_output, ==, 1);
    device_reset(f->d);
    set(f, BASE, 'k');
    g_assert_cmpuint(host.user_output, ==, 1);
    set(f, BASE + 1, 2);
    set(f, BASE, 'p');
    g_assert_cmpuint(host.user_output, ==, 2);
}

static Device *restored(Bench *b, Chardev *chardev, GBytes *state)
{
    g_autoptr(StateReader) r = state_reader_new(state, NULL);
    g_autoptr(GError) error = NULL;
    Device *d;

    bench_init(b);
    d = serial_new("serial0", b->pio, BASE, &b->ic, GSI, chardev, NULL, &events);
    device_load(d, r, &error);
    g_assert_no_error(error);
    return d;
}

static GBytes *saved(Device *d)
{
    StateWriter *w = state_writer_new();

    device_save(d, w);
    return state_writer_end(w, NULL);
}

/* Bytes on their way in both directions are neither lost nor doubled. */
static void both_fifos_survive_a_restore(Fixture *f, gconstpointer unused)
{
    g_autoptr(GBytes) state = NULL, again = NULL;
    Chardev other;
    Bench b;
    Device *d;

    set(f, FCR, 1);
    set(f, IER, 1);
    type("in");
    send_break();
    host.room = 2;
    for (const char *p = "output"; *p; p++)
        set(f, THR, *p);
    state = saved(f->d);

    d = restored(&b, &other, state);
    again = saved(d);
    g_assert_true(g_bytes_equal(state, again));
    g_assert_cmpuint(host.n_out, ==, 2); /* nothing leaves before the machine runs */
    g_assert_true(b.gsi[GSI]);
    g_assert_cmpuint(b.edges[GSI], ==, 1);
    host.room = 100;
    device_resume(d);
    g_assert_cmpmem(host.out, host.n_out, "output", 6);
    g_assert_cmpuint(b.edges[GSI], ==, 1);
    g_assert_cmphex(in(&b, LSR, 1), ==, 0xe1);
    g_assert_cmpint(in(&b, RBR, 1), ==, 'i');
    g_assert_cmpint(in(&b, RBR, 1), ==, 'n');
    g_assert_cmphex(in(&b, LSR, 1), ==, 0xf1); /* the break is at the head */
    g_assert_cmpuint(room(), ==, 15);
    device_release(d);
    bench_finish(&b);
    host.closed = 0;
}

static void output_of_before_is_not_news_after_a_restore(Fixture *f, gconstpointer unused)
{
    g_autoptr(GBytes) state = NULL;
    Chardev other;
    Bench b;
    Device *d;

    set(f, IER, 2);
    set(f, THR, 'x');
    g_assert_cmpuint(host.user_output, ==, 1);
    state = saved(f->d);
    d = restored(&b, &other, state);
    out(&b, THR, 1, 'y');
    g_assert_cmpuint(host.user_output, ==, 1);
    device_release(d);
    bench_finish(&b);
    host.closed = 0;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(output_reaches_the_host_in_order, NULL);
    TEST(a_full_host_holds_up_the_transmitter_and_loses_nothing, NULL);
    TEST(a_driver_that_ignores_thre_overruns_only_itself, NULL);
    TEST(what_waits_for_the_host_outlives_a_reset, NULL);
    TEST(thre_interrupts_when_enabled_and_is_cleared_by_iir, NULL);
    TEST(input_interrupts_and_is_read_in_order, NULL);
    TEST(more_input_is_asked_for_when_the_fifo_is_empty, NULL);
    TEST(without_fifos_one_byte_fits, NULL);
    TEST(interrupts_come_by_priority, NULL);
    TEST(a_break_shows_with_its_byte, NULL);
    TEST(a_storm_of_breaks_harms_nothing, NULL);
    TEST(loopback_is_what_the_probe_expects, NULL);
    TEST(registers_read_back_as_the_chip_has_them, NULL);
    TEST(switching_fifos_empties_the_receiver, NULL);
    TEST(an_unconnected_port_swallows_output, "unconnected");
    TEST(what_is_sent_by_interrupt_is_told_of_once_and_again_after_a_reset, NULL);
    TEST(both_fifos_survive_a_restore, NULL);
    TEST(output_of_before_is_not_news_after_a_restore, NULL);
    TEST(any_access_is_survived, NULL);
    TEST(host_and_guest_may_meet, NULL);
    return g_test_run();
}
