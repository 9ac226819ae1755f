/* ACPI hotplug of PCI functions (ACPI 6.4, 6.3: device insertion and removal; 5.6.4:
 * general-purpose events).  The register block is ours and only the methods in our DSDT
 * know it; what an operating system sees is Notify(slot, 1) for a function that came,
 * Notify(slot, 3) for one that shall go, and _EJ0, by which it lets go.  The layout
 * follows QEMU's docs/specs/acpi_pci_hotplug, with one bus and no selector.
 *
 * The event is a level: it stands while UP or DOWN has bits that were not taken, so that
 * a request made before the guest's ACPI is up reaches it when it comes up.
 *
 * From the guest's side a function is gone when its write to EJECT is over: it is hidden
 * at once, or a guest that looks at all slots because of another event could find it once
 * more.  What stood behind it is taken down by the machine, which is told.
 *
 * Locking: registers and masks under the device's lock; inside it the lock of acpi_pm.c
 * is taken to raise and lower the event, and never the other way round. */
#include "devices/pci_hotplug.h"

#include "devices/platform.h"
#include "util/bits.h"

typedef struct PciHotplugState { /* guest-visible */
    uint32_t up, down;
} PciHotplugState;

typedef struct PciHotplug {
    Device dev;
    PciHotplugState s;
    uint32_t removable; /* slots whose function may go */
    uint32_t asked;     /* slots whose function shall go */
    uint32_t ejected;   /* slots whose function the guest gave up */
    BusRegion region;
    Bus *pio;
    PciBus *bus;
    Device *acpi_pm;
    void (*on_eject)(void *opaque);
    void *opaque;
} PciHotplug;

static void update(PciHotplug *h)
{
    acpi_pm_set_gpe(h->acpi_pm, PCI_HOTPLUG_GPE, h->s.up || h->s.down);
}

/* ---- registers -------------------------------------------------------------------- */

static uint64_t take(PciHotplug *h, uint32_t *bits)
{
    uint32_t taken = *bits;

    *bits = 0;
    update(h);
    return taken;
}

static uint64_t hotplug_read(Device *d, uint64_t offset, unsigned size)
{
    PciHotplug *h = (PciHotplug *)d;

    if (size != 4)
        return 0;
    switch (offset) {
    case PCI_HOTPLUG_UP:
        return take(h, &h->s.up);
    case PCI_HOTPLUG_DOWN:
        return take(h, &h->s.down);
    default:
        return 0;
    }
}

static void hotplug_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    PciHotplug *h = (PciHotplug *)d;
    uint32_t slots = (uint32_t)value & h->removable;

    if (size != 4 || offset != PCI_HOTPLUG_EJECT || !slots)
        return;
    h->removable &= ~slots;
    h->ejected |= slots;
    h->s.up &= ~slots;
    h->s.down &= ~slots;
    update(h);
    pci_hide(h->bus, slots);
    if (h->on_eject)
        h->on_eject(h->opaque);
}

static const BusOps hotplug_bus_ops = {hotplug_read, hotplug_write};

/* ---- the machine's side ----------------------------------------------------------- */

void pci_hotplug_on_eject(Device *d, void (*on_eject)(void *opaque), void *opaque)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    h->on_eject = on_eject;
    h->opaque = opaque;
}

void pci_hotplug_plugged(Device *d, unsigned slot, bool announce)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    h->removable |= BIT(slot);
    if (announce)
        h->s.up |= BIT(slot);
    update(h);
}

void pci_hotplug_ask(Device *d, unsigned slot)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    if (!(h->removable & BIT(slot)))
        return; /* it is going already */
    h->asked |= BIT(slot);
    h->s.down |= BIT(slot);
    update(h);
}

void pci_hotplug_unplugged(Device *d, unsigned slot)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    h->removable &= ~BIT(slot);
    h->asked &= ~BIT(slot);
    h->ejected &= ~BIT(slot);
    h->s.up &= ~BIT(slot);
    h->s.down &= ~BIT(slot);
    update(h);
}

PciRemoval pci_hotplug_removal(Device *d, unsigned slot)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    if (h->ejected & BIT(slot))
        return PCI_REMOVAL_EJECTED;
    if (!(h->asked & BIT(slot)))
        return PCI_REMOVAL_NONE;
    return h->s.down & BIT(slot) ? PCI_REMOVAL_ASKED : PCI_REMOVAL_TAKEN;
}

bool pci_hotplug_is_heard(Device *d)
{
    return acpi_pm_gpe_enabled(((PciHotplug *)d)->acpi_pm, PCI_HOTPLUG_GPE);
}

/* What the guest gave up stays given up, for the machine to take down. */
static void hotplug_reset(Device *d)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    h->s = (PciHotplugState){0};
    h->asked = 0;
    update(h);
}

static void hotplug_release(Device *d)
{
    PciHotplug *h = (PciHotplug *)d;

    bus_unmap(h->pio, &h->region);
    device_finish(d);
    g_free(h);
}

static const DeviceOps hotplug_ops = {
    .name = "pci-hotplug", .reset = hotplug_reset, .release = hotplug_release};

Device *pci_hotplug_new(Bus *pio, PciBus *bus, Device *acpi_pm)
{
    PciHotplug *h = g_new0(PciHotplug, 1);

    device_init(&h->dev, &hotplug_ops, "pci-hotplug");
    h->pio = pio;
    h->bus = bus;
    h->acpi_pm = acpi_pm;
    h->region = (BusRegion){
        .dev = &h->dev, .ops = &hotplug_bus_ops, .size = PCI_HOTPLUG_SIZE};
    bus_map(pio, &h->region, PCI_HOTPLUG_PORT);
    return &h->dev;
}
