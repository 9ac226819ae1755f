/* The host bridge and the bus behind it: configuration mechanism #1 at ports 0xcf8 and
 * 0xcfc (PCI Local Bus 3.0, 3.2.2.3.2), the memory-mapped one (PCI Express Base 3.0,
 * 7.2.2) for bus 0.
 *
 * Only the dword at 0xcf8 is the address register, so its region is one byte long and
 * answers accesses of four bytes that start there; 0xcf9 next to it is the reset port of
 * acpi_pm.c. */
#include "devices/pci_host_private.h"
#include "util/bits.h"

enum {
    ADDRESS_PORT = 0xcf8,
    DATA_PORT = 0xcfc,
    ECAM_SIZE = 1 << 20,
};
#define ADDRESS_ENABLE 0x80000000u

/* ---- configuration accesses ---------------------------------------------------- */

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

    return pci_slot_is_hidden(bus, slot) || function || (where & 0xfff) >= PCI_CONFIG_SIZE
               ? NULL
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

    return size == 4 ? bus->selected : ones(size);
}

static void address_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    PciBus *bus = (PciBus *)d;

    if (size == 4)
        bus->selected = value & PCI_ADDRESS_WRITABLE;
}

static const BusOps address_ops = {address_read, address_write};

/* Bits 23-16 of the address are the bus, and ours is bus 0. */
static bool data_selects_us(const PciBus *bus, uint64_t *where)
{
    uint32_t address = bus->selected;

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

/* ---- life ---------------------------------------------------------------------- */

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
    pci_bus_open_windows(bus);
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
