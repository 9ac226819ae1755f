/* The slots of the PCI bus and who is in them, and the first addresses of BARs, which
 * firmware gives on a real machine.  Main thread; see pci_host_private.h for the lock. */
#include <inttypes.h>

#include "devices/pci_host_private.h"
#include "util/bits.h"

enum { FIRST_IO = 0xc000, IO_END = 0x10000 };
#define LOW_BAR_MAX (16 * MIB)

const PciBusConfig *pci_bus_config(const PciBus *bus)
{
    return &bus->config;
}

static bool take(PciWindow *w, uint64_t size, uint64_t *ret)
{
    uint64_t addr = align_up(w->next, MAX(size, w->align));

    if (addr < w->next || !range_within(addr, size, w->end))
        return false;
    *ret = addr;
    w->next = addr + size;
    return true;
}

static PciWindow window(uint64_t base, uint64_t size)
{
    return (PciWindow){base, base + size, 4096};
}

void pci_bus_open_windows(PciBus *bus)
{
    const PciBusConfig *c = &bus->config;

    bus->io = (PciWindow){FIRST_IO, IO_END, 16};
    bus->mmio32 = window(c->mmio32_base, c->mmio32_size);
    bus->mmio64 = window(c->mmio64_base, c->mmio64_size);
}

/* As firmware does, a small BAR goes below 4 GiB even if it could go above: 32-bit
 * kernels reach it there. */
static bool place_bar(PciBus *bus, PciBar *bar, uint64_t *ret)
{
    if (bar->io)
        return take(&bus->io, bar->size, ret);
    if (!bar->is64)
        return take(&bus->mmio32, bar->size, ret);
    return (bar->size <= LOW_BAR_MAX && take(&bus->mmio32, bar->size, ret)) ||
           take(&bus->mmio64, bar->size, ret) || take(&bus->mmio32, bar->size, ret);
}

/* What finds no place stays without. */
static bool place_bars(PciBus *bus, PciDevice *p, GError **error)
{
    for (unsigned n = 0; n < PCI_BARS; n++) {
        PciBar *bar = &p->bar[n];

        bar->home = 0;
        if (bar->size && !place_bar(bus, bar, &bar->home))
            return fail(error, VM_ERROR_BUSY,
                        "%s: no room on the PCI bus for a BAR of %" PRIu64
                        " KiB; use fewer or smaller devices",
                        p->dev.id, bar->size / 1024);
    }
    return true;
}

static bool choose_slot(PciBus *bus, PciDevice *p, int wanted, unsigned *ret,
                        GError **error)
{
    unsigned slot = MAX(wanted, 0);

    if (wanted >= PCI_MAX_SLOTS)
        return fail(error, VM_ERROR_INVALID,
                    "%s: PCI slot %d does not exist; slots are "
                    "0 to %d",
                    p->dev.id, wanted, PCI_MAX_SLOTS - 1);
    if (wanted >= 0 && bus->slot[slot])
        return fail(error, VM_ERROR_BUSY, "%s: PCI slot %d is taken by %s", p->dev.id,
                    wanted, bus->slot[slot]->dev.id);
    while (wanted < 0 && slot < PCI_MAX_SLOTS && bus->slot[slot])
        slot++;
    if (slot == PCI_MAX_SLOTS)
        return fail(error, VM_ERROR_BUSY,
                    "%s: all %d PCI slots are taken; use fewer "
                    "devices, or remove one first",
                    p->dev.id, PCI_MAX_SLOTS);
    *ret = slot;
    return true;
}

/* As the DSDT says (src/machine/acpi_dsdt.c). */
static unsigned slot_gsi(const PciBus *bus, unsigned slot, unsigned pin)
{
    return bus->config.gsi_base + (slot + pin) % 4;
}

void pci_connect_intx(const PciBus *bus, PciDevice *p)
{
    if (p->s.config[PCI_INTERRUPT_PIN]) {
        unsigned gsi = slot_gsi(bus, p->slot, p->s.config[PCI_INTERRUPT_PIN] - 1);
        irq_connect(&p->intx, bus->config.ic, gsi);
        p->s.config[PCI_INTERRUPT_LINE] = gsi;
    }
}

/* It is complete before a config access can find it. */
static void attach(PciBus *bus, PciDevice *p, unsigned slot)
{
    p->slot = slot;
    p->bus = bus;
    pci_connect_intx(bus, p);
    pci_device_reset(p);
    LOCK_GUARD(&bus->dev.lock);
    bus->slot[slot] = p;
}

bool pci_attach(PciBus *bus, PciDevice *p, int wanted, GError **error)
{
    unsigned slot = 0;

    if (!choose_slot(bus, p, wanted, &slot, error) || !place_bars(bus, p, error))
        return false;
    attach(bus, p, slot);
    return true;
}

bool pci_plug(PciBus *bus, PciDevice *p, GError **error)
{
    unsigned slot = 0;

    if (!choose_slot(bus, p, -1, &slot, error))
        return false;
    attach(bus, p, slot);
    return true;
}

void pci_hide(PciBus *bus, uint32_t slots)
{
    __atomic_fetch_or(&bus->hidden, slots, __ATOMIC_SEQ_CST);
}

bool pci_slot_is_hidden(const PciBus *bus, unsigned slot)
{
    return __atomic_load_n(&bus->hidden, __ATOMIC_SEQ_CST) >> slot & 1;
}

void pci_unplug(PciDevice *p)
{
    PciBus *bus = p->bus;

    pci_silence(p);
    bus->slot[p->slot] = NULL;
    __atomic_fetch_and(&bus->hidden, ~BIT(p->slot), __ATOMIC_SEQ_CST);
    p->bus = NULL;
    pci_bus_retry_bars(bus); /* its addresses may be wanted */
}

PciDevice *pci_device_at(PciBus *bus, unsigned slot)
{
    return slot < PCI_MAX_SLOTS ? bus->slot[slot] : NULL;
}

Bus *pci_bus_mmio(const PciBus *bus)
{
    return bus->config.mmio;
}

void pci_bus_retry_bars(PciBus *bus)
{
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
        PciDevice *p = bus->slot[slot];

        if (p) {
            LOCK_GUARD(&p->dev.lock);
            pci_update_bars(p);
        }
    }
}

void pci_bus_reset(PciBus *bus)
{
    bus->selected = 0;
    pci_bus_open_windows(bus);
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
        PciDevice *p = bus->slot[slot];

        if (p)
            place_bars(bus, p, NULL);
        if (p && p->dev.ops->reset)
            device_reset(&p->dev);
        else if (p)
            pci_device_reset(p);
    }
}

void pci_bus_quiesce(PciBus *bus)
{
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot])
            device_quiesce(&bus->slot[slot]->dev);
}

/* The lines first: a device that is resumed may go on to change its own. */
void pci_bus_resume(PciBus *bus)
{
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot])
            pci_resume_intx(bus->slot[slot]);
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot])
            device_resume(&bus->slot[slot]->dev);
}
