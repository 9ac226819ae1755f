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
#include "devices/state_private.h"
#include "util/bits.h"

typedef struct PciHotplugState { /* guest-visible */
    uint32_t up, down;
    uint32_t removable; /* slots whose function may go */
    uint32_t asked;     /* slots whose function shall go */
} PciHotplugState;

static const StateField hotplug_fields[] = {
    STATE_FIELD(PciHotplugState, up, 1, U32, .help = "slots with news, not yet taken"),
    STATE_FIELD(PciHotplugState, down, 2, U32, .help = "requests not yet taken"),
    STATE_FIELD(PciHotplugState, removable, 3, U32, .help = "slots that may be emptied"),
    STATE_FIELD(PciHotplugState, asked, 4, U32, .help = "slots that shall be emptied"),
    {},
};

static bool hotplug_check(const void *p, GError **error)
{
    const PciHotplugState *s = p;

    return !((s->up | s->down | s->asked) & ~s->removable) ||
           fail(error, VM_ERROR_CORRUPT, "there is news of slots that have no function");
}

const StateTable pci_hotplug_state_table = {.name = "pci-hotplug",
                                            .version = 1,
                                            .size = sizeof(PciHotplugState),
                                            .fields = hotplug_fields,
                                            .check = hotplug_check};

typedef struct PciHotplug {
    Device dev;
    PciHotplugState s;
    uint32_t ejected; /* slots whose function the guest gave up; the machine's to end */
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

/* ---- registers ----------------------------------------------------------------- */

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
    uint32_t slots = (uint32_t)value & h->s.removable;

    if (size != 4 || offset != PCI_HOTPLUG_EJECT || !slots)
        return;
    h->s.removable &= ~slots;
    h->ejected |= slots;
    h->s.up &= ~slots;
    h->s.down &= ~slots;
    update(h);
    pci_hide(h->bus, slots);
    if (h->on_eject)
        h->on_eject(h->opaque);
}

static const BusOps hotplug_bus_ops = {hotplug_read, hotplug_write};

/* ---- the machine's side -------------------------------------------------------- */

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
    h->s.removable |= BIT(slot);
    if (announce)
        h->s.up |= BIT(slot);
    update(h);
}

void pci_hotplug_ask(Device *d, unsigned slot)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    if (!(h->s.removable & BIT(slot)))
        return; /* it is going already */
    h->s.asked |= BIT(slot);
    h->s.down |= BIT(slot);
    update(h);
}

void pci_hotplug_unplugged(Device *d, unsigned slot)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    h->s.removable &= ~BIT(slot);
    h->s.asked &= ~BIT(slot);
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
    if (!(h->s.asked & BIT(slot)))
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
    h->s.up = h->s.down = h->s.asked = 0;
    update(h);
}

/* After a load the event has to be raised. */
static void hotplug_resume(Device *d)
{
    PciHotplug *h = (PciHotplug *)d;

    LOCK_GUARD(&d->lock);
    update(h);
}

/* What the guest gave up is gone already, as pci_bus_save() has it too. */
static void hotplug_save(Device *d, StateWriter *w)
{
    PciHotplugState s;

    LOCK_GUARD(&d->lock);
    s = ((PciHotplug *)d)->s;
    s.asked &= s.removable;
    state_put(w, d->id, &pci_hotplug_state_table, &s);
}

/* Slots are those of pci_bus_load(), which was before. */
static bool hotplug_load(Device *d, StateReader *r, GError **error)
{
    PciHotplug *h = (PciHotplug *)d;
    PciHotplugState s;
    uint32_t there = 0; /* slot 0 is the host bridge's */

    if (!state_get(r, d->id, &pci_hotplug_state_table, &s, error))
        return false;
    for (unsigned slot = 1; slot < PCI_MAX_SLOTS; slot++)
        if (pci_device_at(h->bus, slot))
            there |= BIT(slot);

    LOCK_GUARD(&d->lock);
    if ((s.removable & ~there) ||
        __builtin_popcount(s.removable) != __builtin_popcount(h->s.removable))
        return fail(
            error, VM_ERROR_CORRUPT,
            "state, section '%s', field 'removable': functions that may go are in "
            "the slots 0x%x, and here %d of those in 0x%x; restore into the "
            "machine that it was made of",
            d->id, s.removable, __builtin_popcount(h->s.removable), there);
    h->s = s;
    return true;
}

static void hotplug_release(Device *d)
{
    PciHotplug *h = (PciHotplug *)d;

    bus_unmap(h->pio, &h->region);
    device_finish(d);
    g_free(h);
}

static const DeviceOps hotplug_ops = {
    .name = "pci-hotplug",
    .reset = hotplug_reset,
    .resume = hotplug_resume,
    .release = hotplug_release,
    .save = hotplug_save,
    .load = hotplug_load,
};

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
