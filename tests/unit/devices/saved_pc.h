/* A PC of all that devices/ has, without KVM: to be saved and loaded by tests and by the
 * fuzzer. */
#pragma once

#include "bench.h"
#include "devices/pci_hotplug.h"
#include "devices/platform.h"

enum {
    SAVED_PC_FUNCTIONS = 3,
    SAVED_PC_LEGACY = 8,
    SAVED_PC_BAR =
        0x8000, /* with the MSI-X table at 0x1000, the pending bits at 0x2000 */
    SAVED_PC_VECTORS = 5,
};
#define SAVED_PC_ECAM   0xb0000000ull
#define SAVED_PC_MMIO32 0xc0000000ull

typedef struct SavedPc {
    Bench b;
    IoLoop *loop;
    GuestMem gm;
    PciBus *bus;
    Device *legacy[SAVED_PC_LEGACY]; /* in the order in which they are loaded */
    unsigned n_legacy;
    Device *pm, *hotplug;
    PlatformEvents events;
    unsigned told;
} SavedPc;

static void saved_pc_told(void *opaque)
{
    ((SavedPc *)opaque)->told++;
}

static void saved_pc_exit(void *opaque, unsigned status)
{
    ((SavedPc *)opaque)->told++;
}

/* ---- a function with two BARs and MSI-X ------------------------------------------- */

static uint64_t saved_fn_read(Device *d, uint64_t offset, unsigned size)
{
    uint64_t value = 0x77;

    msix_read(((PciDevice *)d)->msix, offset, size, &value);
    return value & ones(size);
}

static void saved_fn_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    msix_write(((PciDevice *)d)->msix, offset, size, value);
}

static const BusOps saved_fn_bar = {saved_fn_read, saved_fn_write};

static void saved_fn_release(Device *d)
{
    pci_device_finish((PciDevice *)d);
    g_free(d);
}

static void saved_fn_save(Device *d, StateWriter *w)
{
    pci_device_save((PciDevice *)d, w);
}

static bool saved_fn_load(Device *d, StateReader *r, GError **error)
{
    return pci_device_load((PciDevice *)d, r, error);
}

static const DeviceOps saved_fn_ops = {
    .name = "fn",
    .release = saved_fn_release,
    .save = saved_fn_save,
    .load = saved_fn_load,
};

static PciDevice *saved_pc_add(SavedPc *pc, const char *id)
{
    static const PciIds ids = {.vendor = 0x1234, .device = 0x5678, .intx = true};
    PciDevice *p = g_new0(PciDevice, 1);

    pci_device_init(p, &saved_fn_ops, id, &ids);
    pci_add_bar(p, 0, SAVED_PC_BAR, false, true, &saved_fn_bar);
    pci_add_bar(p, 2, 32, true, false, &saved_fn_bar);
    msix_add(p, 0, 0x1000, 0x2000, SAVED_PC_VECTORS);
    g_assert_true(pci_attach(pc->bus, p, -1, NULL));
    pci_hotplug_plugged(pc->hotplug, p->slot, false);
    return p;
}

/* ---- the machine ------------------------------------------------------------------ */

static void saved_pc_legacy(SavedPc *pc, Device *d)
{
    pc->legacy[pc->n_legacy++] = d;
}

/* Its functions are "fn0", "fn1"...; the loop is run by nobody. */
static void saved_pc_init_with(SavedPc *pc, unsigned functions)
{
    static const uint8_t guid[16] = {1, 2, 3};
    GuestMemOptions ram = {.size = 2 * MIB};
    PciBusConfig config = {
        .gsi_base = 16,
        .ecam_base = SAVED_PC_ECAM,
        .mmio32_base = SAVED_PC_MMIO32,
        .mmio32_size = MIB,
        .mmio64_base = 0x800000000,
        .mmio64_size = MIB,
    };

    memset(pc, 0, sizeof(*pc));
    bench_init(&pc->b);
    pc->loop = ioloop_new(NULL);
    g_assert_true(gm_init(&pc->gm, &ram, NULL) && gm_add(&pc->gm, 0, ram.size, NULL));
    pc->events = (PlatformEvents){.power_off = saved_pc_told,
                                  .reset = saved_pc_told,
                                  .panicked = saved_pc_told,
                                  .debug_exit = saved_pc_exit,
                                  .user_output = saved_pc_told,
                                  .opaque = pc};
    config.pio = pc->b.pio;
    config.mmio = pc->b.mmio;
    config.ic = &pc->b.ic;
    saved_pc_legacy(pc, serial_new("serial0", pc->b.pio, 0x3f8, &pc->b.ic, 4, NULL,
                                   pc->loop, &pc->events));
    saved_pc_legacy(pc, rtc_new(pc->b.pio, &pc->b.ic, 8, pc->loop, 2 * MIB, 0));
    saved_pc_legacy(pc, i8042_new(pc->b.pio, &pc->events));
    saved_pc_legacy(pc, pvpanic_new(pc->b.pio, &pc->events));
    saved_pc_legacy(pc, debug_exit_new(pc->b.pio, &pc->events));
    pc->pm = acpi_pm_new(pc->b.pio, &pc->b.ic, 9, pc->loop, &pc->events);
    saved_pc_legacy(pc, pc->pm);
    saved_pc_legacy(pc, vmgenid_new(&pc->gm, 0xe000, guid));
    pc->bus = pci_bus_new(&config, NULL);
    pc->hotplug = pci_hotplug_new(pc->b.pio, pc->bus, pc->pm);
    saved_pc_legacy(pc, pc->hotplug);
    for (unsigned i = 0; i < functions; i++) {
        char id[8];

        g_snprintf(id, sizeof(id), "fn%u", i);
        saved_pc_add(pc, id);
    }
}

static inline void saved_pc_init(SavedPc *pc)
{
    saved_pc_init_with(pc, SAVED_PC_FUNCTIONS);
}

static inline void saved_pc_finish(SavedPc *pc)
{
    pci_bus_free(pc->bus);
    while (pc->n_legacy)
        device_release(pc->legacy[--pc->n_legacy]);
    for (unsigned i = 0; i < BENCH_MAX_MSI; i++)
        g_assert_false(pc->b.msi[i].used);
    for (unsigned i = 0; i < IRQ_MAX_GSI; i++)
        g_assert_false(pc->b.gsi[i]);
    gm_finish(&pc->gm);
    ioloop_free(pc->loop);
    bench_finish(&pc->b);
}

static inline GBytes *saved_pc_save(SavedPc *pc)
{
    StateWriter *w = state_writer_new();
    g_autoptr(GError) error = NULL;
    GBytes *bytes;

    pci_bus_save(pc->bus, w);
    for (unsigned i = 0; i < pc->n_legacy; i++)
        device_save(pc->legacy[i], w);
    bytes = state_writer_end(w, &error);
    g_assert_no_error(error);
    return bytes;
}

static inline bool saved_pc_load(SavedPc *pc, GBytes *bytes, GError **error)
{
    g_autoptr(StateReader) r = state_reader_new(bytes, error);

    if (!r || !pci_bus_load(pc->bus, r, error))
        return false;
    for (unsigned i = 0; i < pc->n_legacy; i++)
        if (!device_load(pc->legacy[i], r, error))
            return false;
    return state_reader_done(r, error);
}

static inline void saved_pc_resume(SavedPc *pc)
{
    for (unsigned i = 0; i < pc->n_legacy; i++)
        device_resume(pc->legacy[i]);
    pci_bus_resume(pc->bus);
}

/* What a guest might do, and what the machine's side might. */
static inline void saved_pc_storm(SavedPc *pc, unsigned rounds)
{
    static const struct {
        bool mmio;
        uint64_t base;
        unsigned len;
    } where[] = {
        {false, 0x3f8, 8},
        {false, 0x70, 2},
        {false, 0x60, 5},
        {false, 0x92, 1},
        {false, ACPI_PM_BASE, 12},
        {false, ACPI_GPE0, ACPI_GPE0_LEN},
        {false, ACPI_SMI_CMD, 1},
        {false, ACPI_RESET_PORT, 1},
        {false, PCI_HOTPLUG_PORT, PCI_HOTPLUG_EJECT},
        {false, 0xcf8, 8},
        {true, SAVED_PC_ECAM + (1 << 15), 256},
        {true, SAVED_PC_ECAM + (2 << 15), 256},
        {true, SAVED_PC_ECAM + (3 << 15), 256},
        {true, SAVED_PC_MMIO32 + 0x1000, 16 * SAVED_PC_VECTORS},
        {true, SAVED_PC_MMIO32 + SAVED_PC_BAR + 0x1000, 16 * SAVED_PC_VECTORS},
    };

    while (rounds--) {
        unsigned i = g_test_rand_int_range(0, G_N_ELEMENTS(where));
        PciDevice *p = pci_device_at(pc->bus, g_test_rand_int_range(1, 4));
        uint64_t at = where[i].base + g_test_rand_int_range(0, where[i].len), value;
        unsigned size = 1 << g_test_rand_int_range(0, 4);
        Bus *bus = where[i].mmio ? pc->b.mmio : pc->b.pio;

        value = (uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
        if (g_test_rand_bit())
            bus_write(bus, at, size, g_test_rand_bit() ? value : value & 0xff);
        else
            bus_read(bus, at, size, &value);
        if (p && g_test_rand_int_range(0, 8) == 0) {
            pci_set_intx(p, g_test_rand_bit());
            msix_notify(p->msix, g_test_rand_int_range(0, SAVED_PC_VECTORS));
        }
        if (g_test_rand_int_range(0, 50) == 0)
            acpi_pm_power_button(pc->pm);
        if (g_test_rand_int_range(0, 50) == 0)
            pci_hotplug_ask(pc->hotplug, g_test_rand_int_range(1, 4));
    }
}
