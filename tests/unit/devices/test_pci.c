/* Config space, BARs and INTx, as a guest reaches them by CF8/CFC and ECAM. */
#include "devices/pci.h"

#include "bench.h"

#define ECAM   0xb0000000ull
#define MMIO32 0xc0000000ull
#define MMIO64 0x800000000ull

typedef struct TestFn { /* a function with a counter in each BAR */
    PciDevice p;
    unsigned moved;
} TestFn;

static uint64_t bar_read(Device *d, uint64_t offset, unsigned size)
{
    return 0x11223344aabbccddull;
}

static void bar_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
}

static const BusOps bar_ops = {bar_read, bar_write};

static void fn_release(Device *d)
{
    pci_device_finish((PciDevice *)d);
    g_free(d);
}

static const DeviceOps fn_ops = {.name = "fn", .release = fn_release};

static void on_moved(PciDevice *p, unsigned bar, uint64_t addr, bool mapped)
{
    ((TestFn *)p)->moved++;
}

typedef struct Fixture {
    Bench bench;
    PciBus *bus;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    bench_init(&f->bench);
    PciBusConfig config = {
        .pio = f->bench.pio,
        .mmio = f->bench.mmio,
        .ic = &f->bench.ic,
        .gsi_base = 16,
        .ecam_base = ECAM,
        .mmio32_base = MMIO32,
        .mmio32_size = 0x10000000,
        .mmio64_base = MMIO64,
        .mmio64_size = 0x100000000,
    };
    f->bus = pci_bus_new(&config, NULL);
    g_assert_nonnull(f->bus);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    pci_bus_free(f->bus);
    bench_finish(&f->bench);
}

/* BAR 0: 4 KiB of 32-bit memory; BAR 1: 32 I/O ports; BAR 2: 16 KiB of 64-bit memory;
 * BAR 4: a big one. */
static TestFn *add_fn(Fixture *f, const char *id, int slot)
{
    static const PciIds ids = {
        .vendor = 0x1234, .device = 0x5678, .class_code = 0x020000, .intx = true};
    TestFn *fn = g_new0(TestFn, 1);
    GError *error = NULL;

    pci_device_init(&fn->p, &fn_ops, id, &ids);
    pci_add_bar(&fn->p, 0, 4096, false, false, &bar_ops);
    pci_add_bar(&fn->p, 1, 32, true, false, &bar_ops);
    pci_add_bar(&fn->p, 2, 16384, false, true, &bar_ops);
    pci_add_bar(&fn->p, 4, 64 * MIB, false, true, &bar_ops);
    for (unsigned n = 0; n < PCI_BARS; n++)
        fn->p.bar[n].moved = on_moved;
    pci_attach(f->bus, &fn->p, slot, &error);
    g_assert_no_error(error);
    return fn;
}

static uint32_t cf8(Fixture *f, unsigned slot, unsigned reg, unsigned size)
{
    out(&f->bench, 0xcf8, 4, 0x80000000u | slot << 11 | (reg & 0xfc));
    return in(&f->bench, 0xcfc + (reg & 3), size);
}

static void cf8_write(Fixture *f, unsigned slot, unsigned reg, unsigned size, uint32_t v)
{
    out(&f->bench, 0xcf8, 4, 0x80000000u | slot << 11 | (reg & 0xfc));
    out(&f->bench, 0xcfc + (reg & 3), size, v);
}

static uint64_t ecam(Fixture *f, unsigned slot, unsigned reg, unsigned size)
{
    uint64_t v;

    g_assert_true(bus_read(f->bench.mmio, ECAM + (slot << 15) + reg, size, &v));
    return v;
}

static uint64_t bar64(Fixture *f, unsigned slot, unsigned n)
{
    return ecam(f, slot, 0x10 + 4 * n, 8) & ~15ull;
}

static bool answers(Fixture *f, uint64_t addr)
{
    uint64_t v;

    return bus_read(f->bench.mmio, addr, 4, &v);
}

static void ports_and_memory_show_the_same_functions(Fixture *f, gconstpointer unused)
{
    add_fn(f, "fn", 3);
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        for (unsigned reg = 0; reg < 256; reg++)
            for (unsigned size = 1; size <= 4 - (reg & 3); size *= 2)
                g_assert_cmphex(cf8(f, slot, reg, size), ==, ecam(f, slot, reg, size));
    g_assert_cmphex(cf8(f, 0, 0, 4), ==, 0x00081b36);
    g_assert_cmphex(cf8(f, 0, 8, 4), ==, 0x06000000);
    g_assert_cmphex(cf8(f, 3, 0, 4), ==, 0x56781234);
    g_assert_cmphex(ecam(f, 3, 0, 8), ==, 0x0000000056781234);
}

static void nothing_reads_as_all_ones(Fixture *f, gconstpointer unused)
{
    add_fn(f, "fn", 3);
    g_assert_cmphex(cf8(f, 4, 0, 4), ==, 0xffffffff);
    g_assert_cmphex(ecam(f, 3, 0x1000, 4), ==, 0xffffffff);
    g_assert_cmphex(ecam(f, 3, 0x100, 4), ==, 0xffffffff); /* no extended space */
    g_assert_cmphex(ecam(f, 3, 0xfe, 4), ==, 0xffff0000);  /* half in, half out */
    out(&f->bench, 0xcf8, 4, 0x80010000);                  /* bus 1 */
    g_assert_cmphex(in(&f->bench, 0xcfc, 4), ==, 0xffffffff);
    out(&f->bench, 0xcf8, 4, 0); /* not enabled */
    g_assert_cmphex(in(&f->bench, 0xcfc, 4), ==, 0xffffffff);
}

static void only_the_dword_at_cf8_is_the_address(Fixture *f, gconstpointer unused)
{
    out(&f->bench, 0xcf8, 4, 0x80000000);
    out(&f->bench, 0xcf8, 1, 0x10);
    out(&f->bench, 0xcfb, 1, 0x01);
    out(&f->bench, 0xcf9, 1, 0x06);
    g_assert_cmphex(in(&f->bench, 0xcf8, 4), ==, 0x80000000);
    g_assert_cmphex(in(&f->bench, 0xcf8, 2), ==, 0xffff);
    out(&f->bench, 0xcf8, 4, 0xffffffff);
    g_assert_cmphex(in(&f->bench, 0xcf8, 4), ==, 0x80fffffc);
    out(&f->bench, 0xcf8, 4, 0x80000000);
    g_assert_cmphex(in(&f->bench, 0xcfd, 4), ==, 0xff00081b); /* stops at the dword */
}

static void identity_is_read_only(Fixture *f, gconstpointer unused)
{
    add_fn(f, "fn", 3);
    cf8_write(f, 3, 0, 4, 0);
    cf8_write(f, 3, 8, 4, 0);
    cf8_write(f, 3, 0x2c, 4, 0xdeadbeef);
    cf8_write(f, 3, 0x3d, 1, 4);
    g_assert_cmphex(cf8(f, 3, 0, 4), ==, 0x56781234);
    g_assert_cmphex(cf8(f, 3, 8, 4), ==, 0x02000000);
    g_assert_cmphex(cf8(f, 3, 0x2c, 4), ==, 0);
    g_assert_cmphex(cf8(f, 3, 0x3d, 1), ==, 1);
}

static void bars_are_sized_by_writing_ones(Fixture *f, gconstpointer unused)
{
    add_fn(f, "fn", 3);
    for (unsigned n = 0; n < PCI_BARS; n++)
        cf8_write(f, 3, 0x10 + 4 * n, 4, 0xffffffff);
    g_assert_cmphex(cf8(f, 3, 0x10, 4), ==, 0xfffff000);
    g_assert_cmphex(cf8(f, 3, 0x14, 4), ==, 0xffffffe1);
    g_assert_cmphex(cf8(f, 3, 0x18, 4), ==, 0xffffc004);
    g_assert_cmphex(cf8(f, 3, 0x1c, 4), ==, 0xffffffff);
    g_assert_cmphex(cf8(f, 3, 0x20, 4), ==, 0xfc000004);
    g_assert_cmphex(cf8(f, 0, 0x10, 4), ==, 0); /* the bridge has none */
}

static void bars_start_out_placed_in_the_windows(Fixture *f, gconstpointer unused)
{
    add_fn(f, "a", 3);
    add_fn(f, "b", 4);
    g_assert_cmphex(cf8(f, 3, 0x10, 4), ==, MMIO32);
    g_assert_cmphex(cf8(f, 3, 0x14, 4), ==, 0xc001);
    g_assert_cmphex(bar64(f, 3, 2), ==, MMIO32 + 0x4000); /* small: below 4 GiB */
    g_assert_cmphex(bar64(f, 3, 4), ==, MMIO64);
    g_assert_cmphex(bar64(f, 4, 4), ==, MMIO64 + 64 * MIB);
    g_assert_cmphex(cf8(f, 4, 0x14, 4), ==, 0xc021);
}

static void bars_answer_only_while_decoding_is_on(Fixture *f, gconstpointer unused)
{
    add_fn(f, "fn", 3);
    g_assert_false(answers(f, MMIO32));
    cf8_write(f, 3, 4, 2, PCI_COMMAND_MEMORY);
    g_assert_true(answers(f, MMIO32));
    g_assert_true(answers(f, MMIO64 + 64 * MIB - 4));
    g_assert_cmphex(in(&f->bench, 0xc000, 4), ==, 0xffffffff);
    cf8_write(f, 3, 4, 2, PCI_COMMAND_IO);
    g_assert_false(answers(f, MMIO32));
    g_assert_cmphex(in(&f->bench, 0xc000, 4), ==, 0xaabbccdd);
}

static void a_bar_follows_its_register(Fixture *f, gconstpointer unused)
{
    TestFn *fn = add_fn(f, "fn", 3);

    cf8_write(f, 3, 4, 2, PCI_COMMAND_MEMORY);
    g_assert_cmpuint(fn->moved, ==, 3);
    cf8_write(f, 3, 0x10, 4, MMIO32 + 0x100000);
    g_assert_cmpuint(fn->moved, ==, 5);
    g_assert_false(answers(f, MMIO32));
    g_assert_true(answers(f, MMIO32 + 0x100000));
    cf8_write(f, 3, 0x1c, 4, 0x10); /* the high half of BAR 2 */
    g_assert_true(answers(f, 0x1000000000 + MMIO32 + 0x4000));
}

static void a_bar_on_another_device_waits_until_that_leaves(Fixture *f,
                                                            gconstpointer unused)
{
    add_fn(f, "a", 3);
    add_fn(f, "b", 4);
    cf8_write(f, 3, 4, 2, PCI_COMMAND_MEMORY);
    cf8_write(f, 4, 4, 2, PCI_COMMAND_MEMORY);
    uint64_t home = cf8(f, 4, 0x10, 4);

    cf8_write(f, 4, 0x10, 4, MMIO32); /* where a's BAR 0 is */
    g_assert_false(answers(f, home));
    g_assert_true(answers(f, MMIO32));
    cf8_write(f, 3, 0x10, 4, home); /* they change places */
    g_assert_true(answers(f, home));
    g_assert_true(answers(f, MMIO32)); /* now b */
    cf8_write(f, 4, 4, 2, 0);
    g_assert_false(answers(f, MMIO32));
    g_assert_true(answers(f, home));
}

static void a_bar_cannot_hide_ports_or_wrap_around(Fixture *f, gconstpointer unused)
{
    add_fn(f, "fn", 3);
    cf8_write(f, 3, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
    cf8_write(f, 3, 0x14, 4, 0xce0); /* 0xce0-0xcff: the config ports themselves */
    g_assert_cmphex(cf8(f, 3, 0, 4), ==, 0x56781234);
    cf8_write(f, 3, 0x14, 4, 0x1ffe0);
    cf8_write(f, 3, 0x10, 4, ECAM); /* on top of ECAM */
    g_assert_cmphex(ecam(f, 3, 0, 4), ==, 0x56781234);
    cf8_write(f, 3, 0x20, 4, 0xffffffff);
    cf8_write(f, 3, 0x24, 4, 0xffffffff);
    cf8_write(f, 3, 0x18, 4, 0);
    cf8_write(f, 3, 0x1c, 4, 0);
    g_assert_false(answers(f, 0));
    g_assert_cmphex(cf8(f, 3, 0, 4), ==, 0x56781234);
}

static void intx_follows_level_and_disable_bit(Fixture *f, gconstpointer unused)
{
    TestFn *fn = add_fn(f, "fn", 3); /* slot 3, INTA: GSI 19 */

    g_assert_cmpuint(cf8(f, 3, 0x3c, 1), ==, 19);
    pci_set_intx(&fn->p, true);
    g_assert_true(f->bench.gsi[19]);
    g_assert_cmphex(cf8(f, 3, 6, 2) & PCI_STATUS_INTX, ==, PCI_STATUS_INTX);
    g_assert_cmphex(cf8(f, 3, 4, 4) & (PCI_STATUS_INTX << 16), !=, 0);
    cf8_write(f, 3, 5, 1, PCI_COMMAND_INTX_OFF >> 8);
    g_assert_false(f->bench.gsi[19]);
    g_assert_cmphex(cf8(f, 3, 6, 2) & PCI_STATUS_INTX, ==, PCI_STATUS_INTX);
    cf8_write(f, 3, 4, 2, 0);
    g_assert_true(f->bench.gsi[19]);
    pci_set_intx(&fn->p, false);
    g_assert_false(f->bench.gsi[19]);
    g_assert_cmphex(cf8(f, 3, 6, 2) & PCI_STATUS_INTX, ==, 0);
}

static void pins_share_four_interrupts(Fixture *f, gconstpointer unused)
{
    TestFn *a = add_fn(f, "a", 1), *b = add_fn(f, "b", 5);

    pci_set_intx(&a->p, true);
    pci_set_intx(&b->p, true);
    pci_set_intx(&a->p, false);
    g_assert_true(f->bench.gsi[17]);
    pci_set_intx(&b->p, false);
    g_assert_false(f->bench.gsi[17]);
}

static void capabilities_form_a_list(Fixture *f, gconstpointer unused)
{
    TestFn *fn = add_fn(f, "fn", 3);
    uint8_t a = pci_add_cap(&fn->p, 9, 17), b = pci_add_cap(&fn->p, 0x11, 12);

    g_assert_cmphex(cf8(f, 3, 6, 2) & PCI_STATUS_CAPS, ==, PCI_STATUS_CAPS);
    g_assert_cmphex(cf8(f, 3, 0x34, 1), ==, a);
    g_assert_cmphex(cf8(f, 3, a, 2), ==, b << 8 | 9);
    g_assert_cmphex(cf8(f, 3, b, 2), ==, 0x11);
    g_assert_cmpuint(b, ==, a + 20);
}

static void a_reset_puts_bars_back(Fixture *f, gconstpointer unused)
{
    TestFn *fn = add_fn(f, "fn", 3);

    cf8_write(f, 3, 4, 2, 0x407);
    cf8_write(f, 3, 0x10, 4, 0xd0000000);
    pci_set_intx(&fn->p, true);
    pci_bus_reset(f->bus);
    g_assert_false(answers(f, 0xd0000000));
    g_assert_cmphex(in(&f->bench, 0xcf8, 4), ==, 0);
    g_assert_cmphex(cf8(f, 3, 0x10, 4), ==, MMIO32);
    g_assert_cmphex(cf8(f, 3, 4, 2), ==, 0);
    g_assert_false(f->bench.gsi[19]);
}

static bool take_b0(PciDevice *p, unsigned offset, unsigned size, bool write,
                    uint32_t *value)
{
    if (offset != 0xb0)
        return false;
    if (!write)
        *value = 0xcafe;
    return true;
}

static void a_device_may_answer_config_accesses(Fixture *f, gconstpointer unused)
{
    TestFn *fn = add_fn(f, "fn", 3);

    fn->p.config_access = take_b0;
    cf8_write(f, 3, 0xb0, 4, 1);
    g_assert_cmphex(cf8(f, 3, 0xb0, 2), ==, 0xcafe);
    g_assert_cmphex(cf8(f, 3, 0, 4), ==, 0x56781234);
}

static void slots_run_out_with_a_sentence(Fixture *f, gconstpointer unused)
{
    static const PciIds ids = {.vendor = 1};
    g_autoptr(GError) taken = NULL, full = NULL, wrong = NULL;
    PciDevice *p = g_new0(PciDevice, 1);

    pci_device_init(p, &fn_ops, "late", &ids);
    g_assert_false(pci_attach(f->bus, p, 0, &taken));
    g_assert_cmpstr(taken->message, ==, "late: PCI slot 0 is taken by pci-bridge");
    g_assert_false(pci_attach(f->bus, p, 32, &wrong));
    for (unsigned i = 1; i < 32; i++) {
        PciDevice *q = g_new0(PciDevice, 1);
        pci_device_init(q, &fn_ops, "q", &ids);
        g_assert_true(pci_attach(f->bus, q, -1, NULL));
        g_assert_true(pci_device_at(f->bus, i) == q);
    }
    g_assert_false(pci_attach(f->bus, p, -1, &full));
    g_assert_error(full, VM_ERROR, VM_ERROR_BUSY);
    device_release(&p->dev);
}

static void a_bar_that_fits_nowhere_is_refused(Fixture *f, gconstpointer unused)
{
    static const PciIds ids = {.vendor = 1};
    g_autoptr(GError) error = NULL;
    PciDevice *p = g_new0(PciDevice, 1);

    pci_device_init(p, &fn_ops, "huge", &ids);
    pci_add_bar(p, 0, 512 * MIB, false, false, &bar_ops);
    g_assert_false(pci_attach(f->bus, p, -1, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_assert_null(pci_device_at(f->bus, 1));
    device_release(&p->dev);
}

static void any_access_is_survived(Fixture *f, gconstpointer unused)
{
    add_fn(f, "a", 1);
    add_fn(f, "b", 2);
    bench_storm(f->bench.pio, 0xcf8, 8, 64);
    bench_storm(f->bench.mmio, ECAM, 256, 4);
    bench_storm(f->bench.mmio, ECAM + (1 << 15), 300, 24);
    bench_storm(f->bench.mmio, ECAM + (2 << 15), 300, 24);
    bench_storm(f->bench.mmio, ECAM + MIB - 16, 16, 4);
    g_assert_cmphex(ecam(f, 1, 0, 4), ==, 0x56781234);
}

static void *move_bars(void *opaque)
{
    Fixture *f = opaque;

    for (unsigned i = 0; i < 20000; i++) {
        uint64_t where = MMIO32 + (i % 7) * 0x1000;
        bus_write(f->bench.mmio, ECAM + (1 << 15) + 0x10, 4, where);
        bus_write(f->bench.mmio, ECAM + (2 << 15) + 0x10, 4, where);
        bus_write(f->bench.mmio, ECAM + (1 << 15) + 4, 2, i);
    }
    return NULL;
}

static void *use_bars(void *opaque)
{
    Fixture *f = opaque;
    uint64_t v;

    for (unsigned i = 0; i < 60000; i++) {
        bus_read(f->bench.mmio, MMIO32 + (i % 7) * 0x1000, 4, &v);
        pci_set_intx(pci_device_at(f->bus, 1), i & 1);
        cf8(f, 2, 0x10, 4);
    }
    return NULL;
}

static void bars_may_move_while_others_use_them(Fixture *f, gconstpointer unused)
{
    pthread_t threads[3];

    add_fn(f, "a", 1);
    add_fn(f, "b", 2);
    cf8_write(f, 2, 4, 2, 7);
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, i ? use_bars : move_bars, f);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    pci_set_intx(pci_device_at(f->bus, 1), false);
    g_assert_false(f->bench.gsi[17]);
}

#define TEST(fn) g_test_add("/pci/" #fn, Fixture, NULL, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(ports_and_memory_show_the_same_functions);
    TEST(nothing_reads_as_all_ones);
    TEST(only_the_dword_at_cf8_is_the_address);
    TEST(identity_is_read_only);
    TEST(bars_are_sized_by_writing_ones);
    TEST(bars_start_out_placed_in_the_windows);
    TEST(bars_answer_only_while_decoding_is_on);
    TEST(a_bar_follows_its_register);
    TEST(a_bar_on_another_device_waits_until_that_leaves);
    TEST(a_bar_cannot_hide_ports_or_wrap_around);
    TEST(intx_follows_level_and_disable_bit);
    TEST(pins_share_four_interrupts);
    TEST(capabilities_form_a_list);
    TEST(a_reset_puts_bars_back);
    TEST(a_device_may_answer_config_accesses);
    TEST(slots_run_out_with_a_sentence);
    TEST(a_bar_that_fits_nowhere_is_refused);
    TEST(any_access_is_survived);
    TEST(bars_may_move_while_others_use_them);
    return g_test_run();
}
