/* The saved state of the PCI bus: the address register, who is in which slot, and then
 * each function's own.
 *
 * A function that comes later or earlier than when it was saved, as with hotplug, is in
 * another slot now: loading moves each to where the guest knows it. */
#include "devices/pci_host_private.h"
#include "devices/state_private.h"
#include "util/bits.h"

typedef struct PciSlotState {
    uint8_t slot;
    char id[sizeof(((Device *)0)->id)];
} PciSlotState;

typedef struct PciHostState {
    uint32_t address; /* of mechanism #1 */
    uint32_t n;       /* functions */
    PciSlotState function[PCI_MAX_SLOTS];
} PciHostState;

static const StateField slot_fields[] = {
    STATE_FIELD(PciSlotState, slot, 1, U8, .max = PCI_MAX_SLOTS - 1),
    STATE_STRING(PciSlotState, id, 2),
    {},
};

static const StateTable slot_table = {.name = "pci-slot",
                                      .version = 1,
                                      .size = sizeof(PciSlotState),
                                      .fields = slot_fields};

static const StateField host_fields[] = {
    STATE_FIELD(PciHostState, address, 1, U32, .max = PCI_ADDRESS_WRITABLE,
                .help = "what port 0xcfc accesses"),
    STATE_LIST(PciHostState, function, n, 2, &slot_table, .help = "who is in which slot"),
    {},
};

static bool host_check(const void *p, GError **error)
{
    const PciHostState *s = p;
    uint32_t slots = 0;

    for (unsigned i = 0; i < s->n; slots |= BIT(s->function[i++].slot))
        if (slots & BIT(s->function[i].slot))
            return fail(error, VM_ERROR_CORRUPT, "two functions are in slot %u",
                        s->function[i].slot);
    return !(s->address & ~PCI_ADDRESS_WRITABLE) ||
           fail(error, VM_ERROR_CORRUPT, "field 'address' is 0x%x", s->address);
}

const StateTable pci_host_state_table = {.name = "pci-host",
                                         .version = 1,
                                         .size = sizeof(PciHostState),
                                         .fields = host_fields,
                                         .check = host_check};

void pci_bus_save(PciBus *bus, StateWriter *w)
{
    PciHostState s = {.address = bus->selected};

    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
        PciSlotState *f = &s.function[s.n];

        if (!bus->slot[slot] || pci_slot_is_hidden(bus, slot))
            continue;
        f->slot = slot;
        g_strlcpy(f->id, bus->slot[slot]->dev.id, sizeof(f->id));
        s.n++;
    }
    state_put(w, bus->dev.id, &pci_host_state_table, &s);
    for (unsigned i = 0; i < s.n; i++)
        device_save(&bus->slot[s.function[i].slot]->dev, w);
}

/* Takes the function of that name out of its slot; NULL: there is none. */
static PciDevice *take_function(PciBus *bus, const char *id)
{
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot] && g_str_equal(bus->slot[slot]->dev.id, id))
            return g_steal_pointer(&bus->slot[slot]);
    return NULL;
}

/* The one function that was not taken yet, for a sentence; NULL: all were. */
static PciDevice *left_over(const PciBus *bus)
{
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot])
            return bus->slot[slot];
    return NULL;
}

/* Finds the functions of the saved slots; whatever the outcome, those found are taken. */
static bool take_functions(PciBus *bus, const PciHostState *s, PciDevice **ret,
                           GError **error)
{
    for (unsigned i = 0; i < s->n; i++) {
        const PciSlotState *f = &s->function[i];
        bool bridge = bus->slot[0] && g_str_equal(bus->slot[0]->dev.id, f->id);

        ret[f->slot] = take_function(bus, f->id);
        if (!ret[f->slot])
            return fail(error, VM_ERROR_CORRUPT,
                        "state, section '%s': '%s' was in slot %u, and this machine has "
                        "no PCI device of that name",
                        bus->dev.id, f->id, f->slot);
        if (bridge != !f->slot)
            return fail(
                error, VM_ERROR_CORRUPT,
                "state, section '%s': slot 0 is the host bridge's, and '%s' is in "
                "slot %u",
                bus->dev.id, f->id, f->slot);
    }
    return !left_over(bus) || fail(error, VM_ERROR_CORRUPT,
                                   "state, section '%s': this machine has '%s', and the "
                                   "one that was saved had not",
                                   bus->dev.id, left_over(bus)->dev.id);
}

/* As take_functions() had them: those in `taken` by their new slots, or where they were.
 */
static void settle(PciBus *bus, PciDevice *const *taken, bool moved)
{
    LOCK_GUARD(&bus->dev.lock);
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
        PciDevice *p = taken[slot];

        if (!p)
            continue;
        if (moved)
            p->slot = slot;
        bus->slot[p->slot] = p;
        pci_connect_intx(bus, p);
    }
}

bool pci_bus_load(PciBus *bus, StateReader *r, GError **error)
{
    PciDevice *taken[PCI_MAX_SLOTS] = {NULL};
    PciHostState s;
    bool ok;

    if (!state_get(r, bus->dev.id, &pci_host_state_table, &s, error))
        return false;
    ok = take_functions(bus, &s, taken, error);
    settle(bus, taken, ok);
    if (!ok)
        return false;
    bus->selected = s.address;
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot] && !device_load(&bus->slot[slot]->dev, r, error))
            return false;
    pci_bus_retry_bars(bus); /* nothing moves, but for a state that somebody made up */
    return true;
}
