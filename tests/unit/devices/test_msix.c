/* MSI-X: the table as a guest programs it, and vectors fired from other threads. */
#include <sched.h>

#include "devices/pci.h"

#include "bench.h"

enum { VECTORS = 70, TABLE = 0x1000, PBA = 0x2000, BAR = 0xc0000000, CAP = 0x40 };
enum { ENABLE = 0x8000, MASK_ALL = 0x4000 };

static uint64_t bar_read(Device *d, uint64_t offset, unsigned size)
{
    uint64_t v = 0x5555;

    msix_read(((PciDevice *)d)->msix, offset, size, &v);
    return v;
}

static void bar_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    msix_write(((PciDevice *)d)->msix, offset, size, value);
}

static const BusOps bar_ops = {bar_read, bar_write};

static void fn_release(Device *d)
{
    pci_device_finish((PciDevice *)d);
    g_free(d);
}

static const DeviceOps fn_ops = {.name = "fn", .release = fn_release};

typedef struct Fixture {
    Bench bench;
    PciBus *bus;
    PciDevice *p;
    Msix *m;
    _Atomic unsigned go, done;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    static const PciIds ids = {.vendor = 0x1234, .intx = true};

    bench_init(&f->bench);
    PciBusConfig config = {.pio = f->bench.pio,
                           .mmio = f->bench.mmio,
                           .ic = &f->bench.ic,
                           .gsi_base = 16,
                           .ecam_base = 0xb0000000,
                           .mmio32_base = BAR,
                           .mmio32_size = 0x10000};
    f->bus = pci_bus_new(&config, NULL);
    f->p = g_new0(PciDevice, 1);
    pci_device_init(f->p, &fn_ops, "fn", &ids);
    pci_add_bar(f->p, 1, 0x4000, false, true, &bar_ops);
    f->m = msix_add(f->p, 1, TABLE, PBA, VECTORS);
    g_assert_true(pci_attach(f->bus, f->p, -1, NULL));
    pci_config_write(f->p, 4, 2, 7);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    pci_bus_free(f->bus);
    for (unsigned i = 0; i < BENCH_MAX_MSI; i++)
        g_assert_false(f->bench.msi[i].used); /* all given back */
    bench_finish(&f->bench);
}

static void control(Fixture *f, uint16_t value)
{
    pci_config_write(f->p, CAP + 2, 2, value);
}

static void entry_write(Fixture *f, unsigned vector, unsigned at, uint32_t value)
{
    bus_write(f->bench.mmio, BAR + TABLE + 16 * vector + at, 4, value);
}

static uint32_t entry_read(Fixture *f, unsigned vector, unsigned at)
{
    uint64_t v;

    bus_read(f->bench.mmio, BAR + TABLE + 16 * vector + at, 4, &v);
    return v;
}

static uint64_t pending(Fixture *f, unsigned word)
{
    uint64_t v;

    bus_read(f->bench.mmio, BAR + PBA + 8 * word, 8, &v);
    return v;
}

/* Data 1000 + vector, unmasked. */
static void program(Fixture *f, unsigned vector)
{
    entry_write(f, vector, 0, 0xfee01000);
    entry_write(f, vector, 4, 0);
    entry_write(f, vector, 8, 1000 + vector);
    entry_write(f, vector, 12, 0);
}

static void the_capability_tells_where_things_are(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(pci_config_read(f->p, 0x34, 1), ==, CAP);
    g_assert_cmphex(pci_config_read(f->p, CAP, 4), ==, (VECTORS - 1) << 16 | 0x11);
    g_assert_cmphex(pci_config_read(f->p, CAP + 4, 4), ==, TABLE | 1);
    g_assert_cmphex(pci_config_read(f->p, CAP + 8, 4), ==, PBA | 1);
    control(f, 0xffff);
    g_assert_cmphex(pci_config_read(f->p, CAP + 2, 2), ==, 0xc000 | (VECTORS - 1));
}

static void vectors_start_out_masked(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < VECTORS; i++)
        g_assert_cmphex(entry_read(f, i, 12), ==, 1);
    control(f, ENABLE);
    msix_notify(f->m, 3);
    g_assert_cmphex(pending(f, 0), ==, BIT(3));
    g_assert_cmpuint(f->bench.routes, ==, 0);
}

static void an_unmasked_vector_fires_its_message(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    program(f, 65);
    msix_notify(f->m, 65);
    g_assert_cmpint(bench_fired(&f->bench, 1065), ==, 1);
    g_assert_cmphex(f->bench.msi[0].addr, ==, 0xfee01000);
    g_assert_cmphex(pending(f, 1), ==, 0);
}

static void a_masked_vector_is_pending_and_fires_once_on_unmask(Fixture *f,
                                                                gconstpointer unused)
{
    control(f, ENABLE);
    program(f, 65);
    entry_write(f, 65, 12, 1);
    msix_notify(f->m, 65);
    msix_notify(f->m, 65);
    g_assert_cmpint(bench_fired(&f->bench, 1065), ==, 0);
    g_assert_cmphex(pending(f, 1), ==, BIT(1));
    entry_write(f, 65, 12, 0);
    g_assert_cmpint(bench_fired(&f->bench, 1065), ==, 1);
    g_assert_cmphex(pending(f, 1), ==, 0);
}

static void the_function_mask_holds_back_all(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE | MASK_ALL);
    program(f, 0);
    program(f, 1);
    msix_notify(f->m, 0);
    msix_notify(f->m, 1);
    g_assert_cmphex(pending(f, 0), ==, 3);
    control(f, ENABLE);
    g_assert_cmpint(bench_fired(&f->bench, 1000), ==, 1);
    g_assert_cmpint(bench_fired(&f->bench, 1001), ==, 1);
}

static void while_disabled_nothing_fires_or_waits(Fixture *f, gconstpointer unused)
{
    program(f, 0);
    msix_notify(f->m, 0);
    g_assert_false(msix_enabled(f->m));
    g_assert_cmphex(pending(f, 0), ==, 0);
    control(f, ENABLE);
    g_assert_true(msix_enabled(f->m));
    g_assert_cmpint(bench_fired(&f->bench, 1000), ==, 0);
}

static void a_route_is_made_only_when_it_changed(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    program(f, 0);
    g_assert_cmpuint(f->bench.routes, ==, 1);
    for (unsigned i = 0; i < 10; i++) {
        entry_write(f, 0, 12, 1);
        entry_write(f, 0, 12, 0);
    }
    g_assert_cmpuint(f->bench.routes, ==, 1);
    entry_write(f, 0, 12, 1);
    entry_write(f, 0, 0, 0xfee02000);
    entry_write(f, 0, 12, 0);
    g_assert_cmpuint(f->bench.routes, ==, 2);
    g_assert_cmphex(f->bench.msi[0].addr, ==, 0xfee02000);
}

static void without_a_route_the_interrupt_waits(Fixture *f, gconstpointer unused)
{
    f->bench.refuse_routes = true;
    control(f, ENABLE);
    program(f, 0);
    msix_notify(f->m, 0);
    g_assert_cmphex(pending(f, 0), ==, 1);
    f->bench.refuse_routes = false;
    entry_write(f, 0, 12, 0);
    g_assert_cmpint(bench_fired(&f->bench, 1000), ==, 1);
}

static void an_8_byte_write_fills_two_fields(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    bus_write(f->bench.mmio, BAR + TABLE, 8, 0x1fee01003);
    bus_write(f->bench.mmio, BAR + TABLE + 8, 8, 0xfffffffe00000123);
    g_assert_cmphex(entry_read(f, 0, 0), ==, 0xfee01000);
    g_assert_cmphex(entry_read(f, 0, 4), ==, 1);
    g_assert_cmphex(entry_read(f, 0, 8), ==, 0x123);
    g_assert_cmphex(entry_read(f, 0, 12), ==, 0);
    msix_notify(f->m, 0);
    g_assert_cmpint(bench_fired(&f->bench, 0x123), ==, 1);
}

static void odd_writes_change_nothing(Fixture *f, gconstpointer unused)
{
    bus_write(f->bench.mmio, BAR + TABLE, 1, 0xff);
    bus_write(f->bench.mmio, BAR + TABLE + 2, 4, 0xffffffff);
    bus_write(f->bench.mmio, BAR + TABLE + 1, 8, UINT64_MAX);
    bus_write(f->bench.mmio, BAR + TABLE, 2, 0xffff);
    bus_write(f->bench.mmio, BAR + PBA, 8, UINT64_MAX);
    g_assert_cmphex(entry_read(f, 0, 0), ==, 0);
    g_assert_cmphex(pending(f, 0), ==, 0);
    g_assert_cmphex(entry_read(f, VECTORS, 0), ==, 0x5555); /* past the table: not ours */
}

static void vectors_that_do_not_exist_are_ignored(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    msix_notify(f->m, VECTORS);
    msix_notify(f->m, UINT_MAX);
    g_assert_cmphex(pending(f, 0) | pending(f, 1), ==, 0);
}

static void a_reset_masks_and_forgets(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    program(f, 0);
    msix_notify(f->m, 5);
    pci_bus_reset(f->bus);
    pci_config_write(f->p, 4, 2, 7);
    g_assert_false(msix_enabled(f->m));
    g_assert_cmphex(entry_read(f, 0, 0), ==, 0);
    g_assert_cmphex(entry_read(f, 0, 12), ==, 1);
    g_assert_cmphex(pending(f, 0), ==, 0);
}

static void any_access_is_survived(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    bench_storm(f->bench.mmio, BAR + TABLE - 8, 16 * VECTORS + 16, 8);
    bench_storm(f->bench.mmio, BAR + PBA - 8, 32, 8);
    for (unsigned i = 0; i < VECTORS + 10; i++)
        msix_notify(f->m, i);
}

/* One thread unmasks while the other notifies, at once and over again: whoever comes
 * first, the message must be fired, and fired once. */
static bool joined(const Fixture *f, int fd)
{
    for (unsigned i = 0; i < BENCH_MAX_MSI; i++)
        if (f->bench.msi[i].used && f->bench.msi[i].eventfd == fd)
            return true;
    return false;
}

static void
an_eventfd_of_others_is_the_kernels_while_its_vector_is_live(Fixture *f,
                                                             gconstpointer unused)
{
    enum { FD = 1000, OTHER = 1001 };

    msix_direct(f->m, 3, FD, true);
    g_assert_false(joined(f, FD));
    control(f, ENABLE);
    program(f, 3);
    g_assert_true(joined(f, FD));
    entry_write(f, 3, 12, 1);
    g_assert_false(joined(f, FD));
    msix_direct(f->m, 3, OTHER, true);  /* its owner goes on notifying */
    msix_direct(f->m, 3, OTHER, false); /* and that is not the other's end */
    entry_write(f, 3, 12, 0);
    g_assert_true(joined(f, FD));
    g_assert_false(joined(f, OTHER));
    control(f, ENABLE | MASK_ALL);
    g_assert_false(joined(f, FD));
    control(f, ENABLE);
    g_assert_true(joined(f, FD));
    msix_direct(f->m, 3, FD, false);
    g_assert_false(joined(f, FD));
    msix_direct(f->m, 0xffff, FD, true);
}

static void *unmask(void *opaque)
{
    Fixture *f = opaque;
    unsigned seen = 0;

    for (unsigned go; (go = f->go) != UINT_MAX;) {
        if (go == seen) {
            sched_yield(); /* with one CPU, the other's turn */
            continue;
        }
        if (go & 1)
            entry_write(f, 0, 12, 0);
        else
            control(f, ENABLE);
        f->done = seen = go;
    }
    return NULL;
}

static void no_interrupt_is_lost_or_doubled_between_threads(Fixture *f,
                                                            gconstpointer unused)
{
    enum { ROUNDS = 100000 };
    pthread_t thread;
    unsigned lost = 0, doubled = 0;

    control(f, ENABLE);
    program(f, 0);
    pthread_create(&thread, NULL, unmask, f);
    for (unsigned i = 1; i <= ROUNDS; i++) {
        int fired;

        if (i & 1)
            entry_write(f, 0, 12, 1);
        else
            control(f, ENABLE | MASK_ALL);
        f->go = i;
        for (unsigned wait = i / 2 % 512; wait; wait--)
            atomic_signal_fence(memory_order_seq_cst); /* a little later each time */
        msix_notify(f->m, 0);
        while (f->done != i)
            sched_yield();
        fired = bench_fired(&f->bench, 1000);
        lost += fired < 1;
        doubled += fired > 1;
    }
    f->go = UINT_MAX;
    pthread_join(thread, NULL);
    g_assert_cmpuint(lost, ==, 0);
    g_assert_cmpuint(doubled, ==, 0);
}

#define TEST(fn) g_test_add("/msix/" #fn, Fixture, NULL, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(the_capability_tells_where_things_are);
    TEST(vectors_start_out_masked);
    TEST(an_unmasked_vector_fires_its_message);
    TEST(a_masked_vector_is_pending_and_fires_once_on_unmask);
    TEST(the_function_mask_holds_back_all);
    TEST(while_disabled_nothing_fires_or_waits);
    TEST(a_route_is_made_only_when_it_changed);
    TEST(without_a_route_the_interrupt_waits);
    TEST(an_8_byte_write_fills_two_fields);
    TEST(odd_writes_change_nothing);
    TEST(vectors_that_do_not_exist_are_ignored);
    TEST(a_reset_masks_and_forgets);
    TEST(an_eventfd_of_others_is_the_kernels_while_its_vector_is_live);
    TEST(any_access_is_survived);
    TEST(no_interrupt_is_lost_or_doubled_between_threads);
    return g_test_run();
}
