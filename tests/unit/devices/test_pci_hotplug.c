/* PCI hotplug as the methods of our DSDT drive it, and as a guest that knows no rules. */
#include "devices/pci_hotplug.h"

#include "bench.h"
#include "devices/platform.h"

#define ECAM   0xb0000000ull
#define MMIO32 0xc0000000ull

enum {
    SCI = 9,
    UP = PCI_HOTPLUG_PORT + PCI_HOTPLUG_UP,
    DOWN = PCI_HOTPLUG_PORT + PCI_HOTPLUG_DOWN,
    EJECT = PCI_HOTPLUG_PORT + PCI_HOTPLUG_EJECT,
    GPE_EN = ACPI_GPE0 + ACPI_GPE0_LEN / 2,
    GPE_BIT = BIT(PCI_HOTPLUG_GPE),
};

typedef struct Fixture {
    Bench b;
    IoLoop *loop;
    PlatformEvents events;
    Device *pm, *hotplug;
    PciBus *bus;
    unsigned ejects;
} Fixture;

static void on_eject(void *opaque)
{
    ((Fixture *)opaque)->ejects++;
}

static void set_up(Fixture *f, gconstpointer unused)
{
    PciBusConfig config;

    bench_init(&f->b);
    f->loop = ioloop_new(NULL);
    f->pm = acpi_pm_new(f->b.pio, &f->b.ic, SCI, f->loop, &f->events);
    config = (PciBusConfig){
        .pio = f->b.pio,
        .mmio = f->b.mmio,
        .ic = &f->b.ic,
        .gsi_base = 16,
        .ecam_base = ECAM,
        .mmio32_base = MMIO32,
        .mmio32_size = MIB,
        .mmio64_base = 0x800000000,
        .mmio64_size = MIB,
    };
    f->bus = pci_bus_new(&config, NULL);
    f->hotplug = pci_hotplug_new(f->b.pio, f->bus, f->pm);
    pci_hotplug_on_eject(f->hotplug, on_eject, f);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    pci_bus_free(f->bus);
    device_release(f->hotplug);
    device_release(f->pm);
    g_assert_false(f->b.gsi[SCI]);
    ioloop_free(f->loop);
    bench_finish(&f->b);
}

static uint64_t bar_read(Device *d, uint64_t offset, unsigned size)
{
    return 0x55;
}

static void bar_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
}

static void fn_release(Device *d)
{
    pci_device_finish((PciDevice *)d);
    g_free(d);
}

static const BusOps bar_ops = {bar_read, bar_write};
static const DeviceOps fn_ops = {.name = "fn", .release = fn_release};

static PciDevice *plug(Fixture *f)
{
    static const PciIds ids = {.vendor = 0x1234, .device = 0x5678, .intx = true};
    PciDevice *p = g_new0(PciDevice, 1);

    pci_device_init(p, &fn_ops, "fn", &ids);
    pci_add_bar(p, 0, 4096, false, true, &bar_ops);
    g_assert_true(pci_plug(f->bus, p, NULL));
    pci_hotplug_plugged(f->hotplug, p->slot, true);
    return p;
}

static void unplug(Fixture *f, PciDevice *p)
{
    unsigned slot = p->slot;

    pci_unplug(p);
    pci_hotplug_unplugged(f->hotplug, slot);
    device_release(&p->dev);
}

static uint32_t vendor(Fixture *f, unsigned slot)
{
    uint64_t value;

    bus_read(f->b.mmio, ECAM + (slot << 15), 4, &value);
    return value;
}

static void acpi_comes_up(Fixture *f)
{
    out(&f->b, ACPI_SMI_CMD, 1, ACPI_ENABLE);
    out(&f->b, ACPI_GPE0, 2, 0xffff); /* ACPICA forgets what was before it */
    out(&f->b, GPE_EN, 1, GPE_BIT);
}

/* What the _L01 method does, and ACPICA around it. */
static void gpe_handler(Fixture *f, uint32_t *up, uint32_t *down)
{
    out(&f->b, GPE_EN, 1, 0);
    *down = (uint32_t)in(&f->b, DOWN, 4);
    *up = (uint32_t)in(&f->b, UP, 4);
    out(&f->b, ACPI_GPE0, 1, GPE_BIT);
    out(&f->b, GPE_EN, 1, GPE_BIT);
}

static void a_new_function_is_announced_once(Fixture *f, gconstpointer unused)
{
    uint32_t up, down;
    PciDevice *p;

    acpi_comes_up(f);
    g_assert_false(f->b.gsi[SCI]);
    p = plug(f);
    g_assert_cmpuint(p->slot, ==, 1);
    g_assert_cmphex(vendor(f, 1), ==, 0x56781234);
    g_assert_true(f->b.gsi[SCI]);
    gpe_handler(f, &up, &down);
    g_assert_cmphex(up, ==, BIT(1));
    g_assert_cmphex(down, ==, 0);
    g_assert_false(f->b.gsi[SCI]);
    gpe_handler(f, &up, &down);
    g_assert_cmphex(up | down, ==, 0);
}

static void a_function_that_was_there_is_not_announced(Fixture *f, gconstpointer unused)
{
    acpi_comes_up(f);
    pci_hotplug_plugged(f->hotplug, 1, false);
    g_assert_false(f->b.gsi[SCI]);
    g_assert_cmphex(in(&f->b, UP, 4), ==, 0);
}

static void what_was_asked_before_acpi_is_up_is_heard_when_it_is(Fixture *f,
                                                                 gconstpointer unused)
{
    PciDevice *p = plug(f);
    uint32_t up, down;

    pci_hotplug_ask(f->hotplug, p->slot);
    g_assert_false(f->b.gsi[SCI]);
    g_assert_false(pci_hotplug_is_heard(f->hotplug));
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_ASKED);
    acpi_comes_up(f);
    g_assert_true(pci_hotplug_is_heard(f->hotplug));
    g_assert_true(f->b.gsi[SCI]);
    gpe_handler(f, &up, &down);
    g_assert_cmphex(up, ==, BIT(1));
    g_assert_cmphex(down, ==, BIT(1));
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_TAKEN);
    g_assert_false(f->b.gsi[SCI]);
}

static void an_event_that_comes_while_one_is_handled_is_not_lost(Fixture *f,
                                                                 gconstpointer unused)
{
    acpi_comes_up(f);
    plug(f);
    out(&f->b, GPE_EN, 1, 0);
    in(&f->b, DOWN, 4);
    in(&f->b, UP, 4);
    plug(f);
    out(&f->b, ACPI_GPE0, 1, GPE_BIT); /* ACPICA's, after the method */
    out(&f->b, GPE_EN, 1, GPE_BIT);
    g_assert_true(f->b.gsi[SCI]);
    g_assert_cmphex(in(&f->b, UP, 4), ==, BIT(2));
}

static void a_function_that_was_ejected_is_gone_at_once(Fixture *f, gconstpointer unused)
{
    PciDevice *p = plug(f), *other = plug(f);

    pci_hotplug_ask(f->hotplug, p->slot);
    out(&f->b, EJECT, 4, BIT(1));
    g_assert_cmphex(vendor(f, 1), ==, 0xffffffff);
    g_assert_cmphex(vendor(f, 2), ==, 0x56781234);
    g_assert_cmpuint(f->ejects, ==, 1);
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_EJECTED);
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 2), ==, PCI_REMOVAL_NONE);
    unplug(f, p);
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_NONE);
    g_assert_null(pci_device_at(f->bus, 1));
    g_assert_cmpuint(plug(f)->slot, ==, 1); /* and may be filled again */
    g_assert_cmphex(vendor(f, 1), ==, 0x56781234);
    g_assert_true(pci_device_at(f->bus, 2) == other);
}

static void a_guest_may_give_up_what_nobody_asked_for(Fixture *f, gconstpointer unused)
{
    PciDevice *p = plug(f);

    out(&f->b, EJECT, 4, BIT(1));
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_EJECTED);
    unplug(f, p);
}

/* The host bridge, empty slots, and functions that were never declared removable. */
static void what_may_not_go_cannot_be_ejected(Fixture *f, gconstpointer unused)
{
    static const PciIds ids = {.vendor = 0x1234, .device = 0x5678};
    PciDevice *fixed = g_new0(PciDevice, 1);

    pci_device_init(fixed, &fn_ops, "fixed", &ids);
    g_assert_true(pci_attach(f->bus, fixed, 7, NULL));
    out(&f->b, EJECT, 4, 0xffffffff);
    g_assert_cmpuint(f->ejects, ==, 0);
    g_assert_cmphex(vendor(f, 0), ==, 0x00081b36);
    g_assert_cmphex(vendor(f, 7), ==, 0x56781234);
    pci_hotplug_ask(f->hotplug, 7);
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 7), ==, PCI_REMOVAL_NONE);
    g_assert_cmphex(in(&f->b, DOWN, 4), ==, 0);
}

static void a_second_ejection_of_the_same_is_nothing(Fixture *f, gconstpointer unused)
{
    PciDevice *p = plug(f);

    for (unsigned i = 0; i < 1000; i++)
        out(&f->b, EJECT, 4, 0xffffffff);
    g_assert_cmpuint(f->ejects, ==, 1);
    pci_hotplug_ask(f->hotplug, 1); /* too late */
    g_assert_cmphex(in(&f->b, DOWN, 4), ==, 0);
    unplug(f, p);
    out(&f->b, EJECT, 4, 0xffffffff);
    g_assert_cmpuint(f->ejects, ==, 1);
}

static void a_request_may_be_repeated(Fixture *f, gconstpointer unused)
{
    uint32_t up, down;

    acpi_comes_up(f);
    plug(f);
    for (unsigned i = 0; i < 3; i++) {
        pci_hotplug_ask(f->hotplug, 1);
        g_assert_true(f->b.gsi[SCI]);
        gpe_handler(f, &up, &down);
        g_assert_cmphex(down, ==, BIT(1));
        g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_TAKEN);
    }
}

static void a_reset_takes_requests_back_but_not_ejections(Fixture *f,
                                                          gconstpointer unused)
{
    PciDevice *p = plug(f);

    plug(f);
    acpi_comes_up(f);
    out(&f->b, EJECT, 4, BIT(1));
    pci_hotplug_ask(f->hotplug, 2);
    device_reset(f->pm);
    device_reset(f->hotplug);
    g_assert_cmphex(in(&f->b, ACPI_GPE0, 4), ==, 0);
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_EJECTED);
    g_assert_cmpint(pci_hotplug_removal(f->hotplug, 2), ==, PCI_REMOVAL_NONE);
    g_assert_cmphex(in(&f->b, UP, 4) | in(&f->b, DOWN, 4), ==, 0);
    unplug(f, p);
}

static void a_bar_of_what_was_unplugged_answers_no_more(Fixture *f, gconstpointer unused)
{
    PciDevice *p = plug(f);
    uint64_t value;

    g_assert_cmphex(pci_config_read(p, PCI_BAR0, 4), ==, 4); /* the system's to place */
    pci_config_write(p, PCI_BAR0, 4, MMIO32);
    pci_config_write(p, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_set_intx(p, true);
    g_assert_true(f->b.gsi[17]);
    g_assert_true(bus_read(f->b.mmio, MMIO32, 4, &value));
    pci_unplug(p);
    pci_hotplug_unplugged(f->hotplug, 1);
    g_assert_false(bus_read(f->b.mmio, MMIO32, 4, &value));
    g_assert_false(f->b.gsi[17]);
    pci_set_intx(p, false); /* its threads may still be at it */
    pci_set_intx(p, true);
    g_assert_false(f->b.gsi[17]);
    device_release(&p->dev);
}

static void a_thousand_come_and_go(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 1000; i++) {
        PciDevice *p = plug(f);

        g_assert_cmpuint(p->slot, ==, 1);
        out(&f->b, EJECT, 4, BIT(1));
        g_assert_cmpint(pci_hotplug_removal(f->hotplug, 1), ==, PCI_REMOVAL_EJECTED);
        unplug(f, p);
    }
    g_assert_cmpuint(f->ejects, ==, 1000);
    plug(f);
    pci_bus_reset(f->bus);
    g_assert_cmphex(pci_config_read(pci_device_at(f->bus, 1), PCI_BAR0, 4), ==,
                    MMIO32 | 4); /* where firmware puts the first one */
}

static void any_access_is_survived(Fixture *f, gconstpointer unused)
{
    PciDevice *p[4];

    for (unsigned i = 0; i < G_N_ELEMENTS(p); i++)
        p[i] = plug(f);
    bench_storm(f->b.pio, PCI_HOTPLUG_PORT - 4, PCI_HOTPLUG_SIZE + 8, 64);
    g_assert_cmphex(vendor(f, 0), ==, 0x00081b36);
    for (unsigned i = 0; i < G_N_ELEMENTS(p); i++)
        if (pci_hotplug_removal(f->hotplug, p[i]->slot) == PCI_REMOVAL_EJECTED)
            unplug(f, p[i]);
}

#define TEST(fn) g_test_add("/pci-hotplug/" #fn, Fixture, NULL, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(a_new_function_is_announced_once);
    TEST(a_function_that_was_there_is_not_announced);
    TEST(what_was_asked_before_acpi_is_up_is_heard_when_it_is);
    TEST(an_event_that_comes_while_one_is_handled_is_not_lost);
    TEST(a_function_that_was_ejected_is_gone_at_once);
    TEST(a_guest_may_give_up_what_nobody_asked_for);
    TEST(what_may_not_go_cannot_be_ejected);
    TEST(a_second_ejection_of_the_same_is_nothing);
    TEST(a_request_may_be_repeated);
    TEST(a_reset_takes_requests_back_but_not_ejections);
    TEST(a_bar_of_what_was_unplugged_answers_no_more);
    TEST(a_thousand_come_and_go);
    TEST(any_access_is_survived);
    return g_test_run();
}
