/* One PCI function: config space, BARs, capabilities and INTx (PCI Local Bus 3.0, chapter
 * 6; interrupt status and disable bits: 6.2.2 and 6.2.3).
 *
 * Config space is an array of bytes with a mask of what the guest may change, so that the
 * sizing of BARs is nothing special: the bits below a BAR's size cannot be written.  Only
 * what follows from a change (the bus map, the line, MSI-X) is code.
 *
 * A guest may put a BAR anywhere.  On top of RAM it is hidden by the RAM; on top of
 * another device it is not mapped, and tried again when any BAR gives up its place. */
#include "devices/pci.h"

#include "devices/pci_private.h"
#include "util/bits.h"

enum {
    FIRST_CAP = 0x40,
    BAR_IO = 1,
    BAR_64 = 4,
    PIO_END = 0x10000,
    CACHE_LINE_SIZE = 0x0c,
};
#define NOWHERE UINT64_MAX

static bool touches(unsigned offset, unsigned size, unsigned start, unsigned end)
{
    return offset < end && offset + size > start;
}

void pci_device_init(PciDevice *p, const DeviceOps *ops, const char *id,
                     const PciIds *ids)
{
    uint8_t *config = p->s.config;

    device_init(&p->dev, ops, id);
    lock_init(&p->intx_lock);
    store_le16(config + PCI_VENDOR_ID, ids->vendor);
    store_le16(config + PCI_DEVICE_ID, ids->device);
    store_le16(config + PCI_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
    store_le16(config + PCI_SUBSYSTEM_ID, ids->subsystem);
    config[PCI_REVISION] = ids->revision;
    store_le(config + PCI_CLASS, ids->class_code, 3);
    config[PCI_INTERRUPT_PIN] = ids->intx;

    store_le16(p->writable + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
                                              PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    p->writable[CACHE_LINE_SIZE] = 0xff;
    p->writable[PCI_INTERRUPT_LINE] = 0xff;
    p->cap_end = FIRST_CAP;
}

/* ---- BARs ---------------------------------------------------------------------- */

void pci_add_bar(PciDevice *p, unsigned n, uint64_t size, bool io, bool is64,
                 const BusOps *ops)
{
    PciBar *bar = &p->bar[n];
    unsigned at = PCI_BAR0 + 4 * n;

    g_return_if_fail(n + is64 < PCI_BARS && is_pow2(size) && size >= 16);
    g_return_if_fail(is64 || size <= 2 * GIB);
    bar->size = size;
    bar->io = io;
    bar->is64 = is64;
    bar->region = (BusRegion){.dev = &p->dev, .ops = ops, .size = size};
    store_le32(p->s.config + at, io ? BAR_IO : is64 ? BAR_64 : 0);
    store_le(p->writable + at, ~(size - 1), is64 ? 8 : 4);
}

static void bar_store(PciDevice *p, unsigned n, uint64_t addr)
{
    PciBar *bar = &p->bar[n];
    uint8_t *at = p->s.config + PCI_BAR0 + 4 * n;
    uint32_t flags = bar->io ? BAR_IO : bar->is64 ? BAR_64 : 0;

    store_le(at, addr | flags, bar->is64 ? 8 : 4);
}

/* Where the guest wants the BAR; address 0 is how an unplaced one reads. */
static uint64_t bar_wanted(const PciDevice *p, unsigned n)
{
    const PciBar *bar = &p->bar[n];
    uint16_t command = load_le16(p->s.config + PCI_COMMAND);
    uint64_t addr;

    if (!bar->size || !(command & (bar->io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return NOWHERE;
    addr = load_le(p->s.config + PCI_BAR0 + 4 * n, bar->is64 ? 8 : 4) & ~(bar->size - 1);
    if (!addr || !range_within(addr, bar->size, bar->io ? PIO_END : UINT64_MAX))
        return NOWHERE;
    return addr;
}

bool pci_update_bars(PciDevice *p)
{
    const PciBusConfig *config = p->bus ? pci_bus_config(p->bus) : NULL;
    bool freed = false;

    for (unsigned n = 0; config && n < PCI_BARS; n++) {
        PciBar *bar = &p->bar[n];
        Bus *bus = bar->io ? config->pio : config->mmio;
        uint64_t was = bar->region.mapped ? bar->region.base : NOWHERE;
        uint64_t want = bar_wanted(p, n);

        if (was == want)
            continue;
        if (was != NOWHERE) {
            bus_unmap(bus, &bar->region);
            freed = true;
            if (bar->moved)
                bar->moved(p, n, was, false);
        }
        if (want != NOWHERE && bus_map(bus, &bar->region, want) && bar->moved)
            bar->moved(p, n, want, true);
    }
    return freed;
}

bool pci_map_bars(PciDevice *p, unsigned bars, unsigned *ret_bad)
{
    const PciBusConfig *config = p->bus ? pci_bus_config(p->bus) : NULL;

    for (unsigned n = 0; n < PCI_BARS; n++) {
        PciBar *bar = &p->bar[n];
        uint64_t addr = bar_wanted(p, n);

        if (!(bars & BIT(n)))
            continue;
        *ret_bad = n;
        if (!config || addr == NOWHERE ||
            !bus_map(bar->io ? config->pio : config->mmio, &bar->region, addr))
            return false;
        if (bar->moved)
            bar->moved(p, n, addr, true);
    }
    return true;
}

/* ---- INTx ---------------------------------------------------------------------- */

/* Both the device (any thread) and the command register (a vCPU) change the line.  What
 * it should be is worked out and set under one lock, so that the later of two changes
 * also sets the line last. */
static void set_intx_line(PciDevice *p)
{
    bool off = load_le16(p->s.config + PCI_COMMAND) & PCI_COMMAND_INTX_OFF;

    irq_set(&p->intx, p->intx_level && !off);
}

void pci_set_intx(PciDevice *p, bool level)
{
    LOCK_GUARD(&p->intx_lock);

    if (level == p->intx_level)
        return;
    __atomic_store_n(&p->intx_level, level, __ATOMIC_RELAXED);
    set_intx_line(p);
}

void pci_resume_intx(PciDevice *p)
{
    LOCK_GUARD(&p->intx_lock);
    set_intx_line(p);
}

/* ---- config space -------------------------------------------------------------- */

uint8_t pci_add_cap(PciDevice *p, uint8_t id, uint8_t len)
{
    uint8_t at = p->cap_end;
    uint8_t *config = p->s.config;

    g_return_val_if_fail(len >= 2 && at + align_up(len, 4) <= PCI_CONFIG_SIZE - 4, 0);
    p->cap_end = at + align_up(len, 4);
    config[at] = id;
    config[p->last_cap ? p->last_cap + 1 : PCI_CAP_POINTER] = at;
    config[PCI_STATUS] |= PCI_STATUS_CAPS;
    p->last_cap = at;
    return at;
}

void pci_device_reset(PciDevice *p)
{
    pci_set_intx(p, false);
    store_le16(p->s.config + PCI_COMMAND, 0);
    for (unsigned n = 0; n < PCI_BARS; n++)
        if (p->bar[n].size)
            bar_store(p, n, p->bar[n].home);
    pci_update_bars(p);
    if (p->msix)
        msix_reset(p->msix);
}

/* Whoever drives the device may go on to interrupt: the line is off, vectors masked. */
void pci_silence(PciDevice *p)
{
    LOCK_GUARD(&p->dev.lock);
    {
        LOCK_GUARD(&p->intx_lock);

        store_le16(p->s.config + PCI_COMMAND, PCI_COMMAND_INTX_OFF);
        set_intx_line(p);
    }
    pci_update_bars(p);
    if (p->msix)
        msix_reset(p->msix);
}

void pci_device_finish(PciDevice *p)
{
    pci_silence(p);
    msix_free(p->msix);
    p->msix = NULL;
    lock_finish(&p->intx_lock);
    device_finish(&p->dev);
}

static bool is_config_access(unsigned offset, unsigned size)
{
    return (size == 1 || size == 2 || size == 4) &&
           range_within(offset, size, PCI_CONFIG_SIZE);
}

uint32_t pci_config_read(PciDevice *p, unsigned offset, unsigned size)
{
    uint32_t value = UINT32_MAX;

    if (!is_config_access(offset, size))
        return value;

    LOCK_GUARD(&p->dev.lock);
    if (p->config_access && p->config_access(p, offset, size, false, &value))
        return value;
    value = load_le(p->s.config + offset, size);
    if (touches(offset, size, PCI_STATUS, PCI_STATUS + 1) &&
        __atomic_load_n(&p->intx_level, __ATOMIC_RELAXED))
        value |= PCI_STATUS_INTX << 8 * (PCI_STATUS - offset);
    return value;
}

/* With the lock held: merges the bytes and does what follows from them. */
static bool config_write_locked(PciDevice *p, unsigned offset, unsigned size,
                                uint32_t value)
{
    uint8_t *config = p->s.config + offset;
    const uint8_t *mask = p->writable + offset;
    bool freed = false;

    if (p->config_access && p->config_access(p, offset, size, true, &value))
        return false;
    {
        LOCK_GUARD(&p->intx_lock); /* pci_set_intx() reads the command register */

        for (unsigned i = 0; i < size; i++)
            config[i] = (config[i] & ~mask[i]) | (value >> 8 * i & mask[i]);
        set_intx_line(p);
    }
    if (touches(offset, size, PCI_COMMAND, PCI_COMMAND + 2) ||
        touches(offset, size, PCI_BAR0, PCI_BAR0 + 4 * PCI_BARS))
        freed = pci_update_bars(p);
    if (p->msix)
        msix_control_changed(p->msix);
    return freed;
}

void pci_config_write(PciDevice *p, unsigned offset, unsigned size, uint32_t value)
{
    bool freed;

    if (!is_config_access(offset, size))
        return;
    {
        LOCK_GUARD(&p->dev.lock);
        freed = config_write_locked(p, offset, size, value);
    }
    if (freed)
        pci_bus_retry_bars(p->bus);
}
