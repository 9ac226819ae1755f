/* The host bridge and the bus behind it: configuration mechanism #1 at ports 0xcf8 and
 * 0xcfc (PCI Local Bus 3.0, 3.2.2.3.2), the memory-mapped one (PCI Express Base 3.0,
 * 7.2.2) for bus 0, slots, and the first addresses of BARs, which firmware gives on a
 * real machine.
 *
 * Only the dword at 0xcf8 is the address register, so its region is one byte long and
 * answers accesses of four bytes that start there; 0xcf9 next to it is the reset port of
 * acpi_pm.c.
 *
 * Locking: the bus has a lock of its own, held by dispatch during a configuration access,
 * inside which the function's lock is taken; never the other way round, and never two
 * functions' locks at once.  The main thread alone changes the slots: under the lock to
 * add a function while vCPUs run, and with vCPUs parked to take one away, since a vCPU
 * may be about to enter one of its BARs. */
#include <inttypes.h>

#include "devices/pci.h"
#include "devices/pci_private.h"
#include "devices/state_private.h"
#include "util/bits.h"

enum {
    ADDRESS_PORT = 0xcf8,
    DATA_PORT = 0xcfc,
    ECAM_SIZE = 1 << 20,
    FIRST_IO = 0xc000,
    IO_END = 0x10000,
};
#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_WRITABLE 0x80fffffcu
#define LOW_BAR_MAX      (16 * MIB)

typedef struct PciSlotState {
    uint8_t slot;
    char id[sizeof(((Device *)0)->id)];
} PciSlotState;

typedef struct PciHostState {
    uint32_t address; /* of mechanism #1 */
    uint32_t n;       /* functions; only in a saved state, as they are */
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
    STATE_FIELD(PciHostState, address, 1, U32, .max = ADDRESS_WRITABLE,
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
    return !(s->address & ~ADDRESS_WRITABLE) ||
           fail(error, VM_ERROR_CORRUPT, "field 'address' is 0x%x", s->address);
}

const StateTable pci_host_state_table = {.name = "pci-host",
                                         .version = 1,
                                         .size = sizeof(PciHostState),
                                         .fields = host_fields,
                                         .check = host_check};

/* Addresses not yet given to a BAR.  Memory is given in whole pages, so that a guest can
 * map one BAR without its neighbour. */
typedef struct Window {
    uint64_t next, end, align;
} Window;

struct PciBus {
    Device dev;
    PciHostState s;
    PciBusConfig config;
    BusRegion address, data, ecam;
    PciDevice *slot[PCI_MAX_SLOTS];
    uint32_t hidden; /* atomic; slots that config accesses do not reach */
    Window io, mmio32, mmio64;
};

const PciBusConfig *pci_bus_config(const PciBus *bus)
{
    return &bus->config;
}

/* ---- configuration accesses ------------------------------------------------ */

/* `where` is an address as ECAM has it: slot << 15 | function << 12 | register.  One
 * access may be cut in several, each aligned and within a dword; `end` is where the
 * window stops. */
static unsigned next_piece(uint64_t where, unsigned left)
{
    unsigned piece = where & 1 ? 1 : where & 2 ? 2 : 4;

    while (piece > left)
        piece /= 2;
    return piece;
}

static PciDevice *function_at(PciBus *bus, uint64_t where)
{
    unsigned slot = where >> 15 & 31, function = where >> 12 & 7;
    bool hidden = __atomic_load_n(&bus->hidden, __ATOMIC_SEQ_CST) >> slot & 1;

    return hidden || function || (where & 0xfff) >= PCI_CONFIG_SIZE ? NULL
                                                                    : bus->slot[slot];
}

static uint64_t config_read(PciBus *bus, uint64_t where, uint64_t end, unsigned size)
{
    uint64_t value = ones(size);

    for (unsigned done = 0, piece; done < size && where + done < end; done += piece) {
        PciDevice *p = function_at(bus, where + done);

        piece = next_piece(where + done, size - done);
        if (!p)
            continue;
        value &= ~(ones(piece) << 8 * done);
        value |= (uint64_t)pci_config_read(p, (where + done) & 0xff, piece) << 8 * done;
    }
    return value;
}

static void config_write(PciBus *bus, uint64_t where, uint64_t end, unsigned size,
                         uint64_t value)
{
    for (unsigned done = 0, piece; done < size && where + done < end; done += piece) {
        PciDevice *p = function_at(bus, where + done);

        piece = next_piece(where + done, size - done);
        if (p)
            pci_config_write(p, (where + done) & 0xff, piece, value >> 8 * done);
    }
}

static uint64_t address_read(Device *d, uint64_t offset, unsigned size)
{
    PciBus *bus = (PciBus *)d;

    return size == 4 ? bus->s.address : ones(size);
}

static void address_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    PciBus *bus = (PciBus *)d;

    if (size == 4)
        bus->s.address = value & ADDRESS_WRITABLE;
}

static const BusOps address_ops = {address_read, address_write};

/* Bits 23-16 of the address are the bus, and ours is bus 0. */
static bool data_selects_us(const PciBus *bus, uint64_t *where)
{
    uint32_t address = bus->s.address;

    *where = (uint64_t)(address >> 8 & 0xff) << 12 | (address & 0xfc);
    return (address & ADDRESS_ENABLE) && !(address >> 16 & 0xff);
}

static uint64_t data_read(Device *d, uint64_t offset, unsigned size)
{
    PciBus *bus = (PciBus *)d;
    uint64_t where;

    if (!data_selects_us(bus, &where))
        return ones(size);
    return config_read(bus, where + offset, where + 4, size);
}

static void data_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    PciBus *bus = (PciBus *)d;
    uint64_t where;

    if (data_selects_us(bus, &where))
        config_write(bus, where + offset, where + 4, size, value);
}

static const BusOps data_ops = {data_read, data_write};

static uint64_t ecam_read(Device *d, uint64_t offset, unsigned size)
{
    return config_read((PciBus *)d, offset, ECAM_SIZE, size);
}

static void ecam_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    config_write((PciBus *)d, offset, ECAM_SIZE, size, value);
}

static const BusOps ecam_ops = {ecam_read, ecam_write};

/* ---- slots and first addresses --------------------------------------------- */

static bool take(Window *w, uint64_t size, uint64_t *ret)
{
    uint64_t addr = align_up(w->next, MAX(size, w->align));

    if (addr < w->next || !range_within(addr, size, w->end))
        return false;
    *ret = addr;
    w->next = addr + size;
    return true;
}

static Window window(uint64_t base, uint64_t size)
{
    return (Window){base, base + size, 4096};
}

static void open_windows(PciBus *bus)
{
    const PciBusConfig *c = &bus->config;

    bus->io = (Window){FIRST_IO, IO_END, 16};
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

static void connect_intx(const PciBus *bus, PciDevice *p)
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
    connect_intx(bus, p);
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
    bus->s.address = 0;
    open_windows(bus);
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

/* ---- saved state ------------------------------------------------------------ */

static bool is_hidden(const PciBus *bus, unsigned slot)
{
    return __atomic_load_n(&bus->hidden, __ATOMIC_SEQ_CST) >> slot & 1;
}

void pci_bus_save(PciBus *bus, StateWriter *w)
{
    PciHostState s = {.address = bus->s.address};

    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++) {
        PciSlotState *f = &s.function[s.n];

        if (!bus->slot[slot] || is_hidden(bus, slot))
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
        connect_intx(bus, p);
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
    bus->s.address = s.address;
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot] && !device_load(&bus->slot[slot]->dev, r, error))
            return false;
    pci_bus_retry_bars(bus); /* nothing moves, but for a state that somebody made up */
    return true;
}

/* ---- life ------------------------------------------------------------------ */

static void bridge_release(Device *d)
{
    PciDevice *p = (PciDevice *)d;

    pci_device_finish(p);
    g_free(p);
}

static void bridge_save(Device *d, StateWriter *w)
{
    pci_device_save((PciDevice *)d, w);
}

static bool bridge_load(Device *d, StateReader *r, GError **error)
{
    return pci_device_load((PciDevice *)d, r, error);
}

static const DeviceOps bridge_ops = {
    .name = "pci-bridge",
    .release = bridge_release,
    .save = bridge_save,
    .load = bridge_load,
};

/* The generic host bridge of a PCI host that needs no driver of its own. */
static const PciIds bridge_ids = {
    .vendor = 0x1b36,
    .device = 0x0008,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x060000,
};

static const DeviceOps host_ops = {.name = "pci-host"};

static bool map_host(PciBus *bus, GError **error)
{
    const PciBusConfig *c = &bus->config;

    bus->address = (BusRegion){.dev = &bus->dev, .ops = &address_ops, .size = 1};
    bus->data = (BusRegion){.dev = &bus->dev, .ops = &data_ops, .size = 4};
    bus->ecam = (BusRegion){.dev = &bus->dev, .ops = &ecam_ops, .size = ECAM_SIZE};
    if (!bus_map(c->pio, &bus->address, ADDRESS_PORT) ||
        !bus_map(c->pio, &bus->data, DATA_PORT) ||
        !bus_map(c->mmio, &bus->ecam, c->ecam_base))
        return fail(error, VM_ERROR_BUSY,
                    "pci: the addresses of the host bridge are taken");
    return true;
}

PciBus *pci_bus_new(const PciBusConfig *config, GError **error)
{
    PciBus *bus = g_new0(PciBus, 1);
    PciDevice *bridge = g_new0(PciDevice, 1);

    device_init(&bus->dev, &host_ops, "pci");
    bus->config = *config;
    open_windows(bus);
    pci_device_init(bridge, &bridge_ops, "pci-bridge", &bridge_ids);
    if (!map_host(bus, error) || !pci_attach(bus, bridge, 0, error)) {
        device_release(&bridge->dev);
        pci_bus_free(bus);
        return NULL;
    }
    return bus;
}

void pci_bus_free(PciBus *bus)
{
    if (!bus)
        return;
    for (unsigned slot = 0; slot < PCI_MAX_SLOTS; slot++)
        if (bus->slot[slot])
            device_release(&bus->slot[slot]->dev);
    bus_unmap(bus->config.pio, &bus->address);
    bus_unmap(bus->config.pio, &bus->data);
    bus_unmap(bus->config.mmio, &bus->ecam);
    device_finish(&bus->dev);
    g_free(bus);
}
