/* PCI (3.0 config space, Express-less functions on bus 0): config space, BARs,
 * capabilities and INTx for devices; the host bridge routes accesses to them.
 *
 * Locking: config accesses and BAR accesses take the device's own lock.  A BAR that moves
 * swaps one entry of the bus map. */
#pragma once

#include "core/bus.h"
#include "core/irq.h"

enum {
    PCI_CONFIG_SIZE = 256, /* no Express capability, so no extended space */
    PCI_MAX_SLOTS = 32,
    PCI_BARS = 6,
};

/* Config space offsets (PCI 3.0, 6.1) */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_CAP_POINTER = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};
enum {
    PCI_COMMAND_IO = 1,
    PCI_COMMAND_MEMORY = 2,
    PCI_COMMAND_MASTER = 4,
    PCI_COMMAND_INTX_OFF = 0x400
};
enum { PCI_STATUS_INTX = 0x08, PCI_STATUS_CAPS = 0x10 };

typedef struct PciDevice PciDevice;
typedef struct PciBus PciBus;
typedef struct Msix Msix;

typedef struct PciState {
    uint8_t config[PCI_CONFIG_SIZE];
} PciState;

typedef struct PciBar {
    BusRegion region;
    bool io, is64;
    uint64_t size; /* 0: absent; else a power of two */
    uint64_t home; /* its first address, and again after a reset */
    /* Optional: called after the BAR was mapped at or removed from addr, with the lock
     * held (on a reset: with vCPUs parked). */
    void (*moved)(PciDevice *p, unsigned bar, uint64_t addr, bool mapped);
} PciBar;

/* First member of every PCI device. */
struct PciDevice {
    Device dev;
    PciState s;
    uint8_t writable[PCI_CONFIG_SIZE]; /* masks; what the guest may change */
    PciBar bar[PCI_BARS];
    uint8_t cap_end;  /* next free byte for capabilities */
    uint8_t last_cap; /* offset of the capability added last, 0: none */
    PciBus *bus;      /* NULL until attached */
    unsigned slot;
    IrqLine intx;
    Lock intx_lock;  /* leaf but for irq_set: orders changes of the line */
    bool intx_level; /* as the device drives it; written under intx_lock, atomic */
    Msix *msix;      /* NULL: none */
    /* Optional: before (write_cap) the default handling of a config access; true:
     * handled. vCPU thread, lock held. */
    bool (*config_access)(PciDevice *p, unsigned offset, unsigned size, bool write,
                          uint32_t *value);
};

typedef struct PciIds {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class_code; /* class << 16 | subclass << 8 | prog-if */
    bool intx;           /* has an interrupt pin (INTA) */
} PciIds;

/* Main thread. */
void pci_device_init(PciDevice *p, const DeviceOps *ops, const char *id,
                     const PciIds *ids);
void pci_device_finish(PciDevice *p); /* silences it, frees msix */
void pci_device_reset(
    PciDevice *p); /* command, BARs and MSI-X to power-on; keeps the rest */

/* Declares a BAR (size a power of two, >= 16) served by ops on the device's lock. */
void pci_add_bar(PciDevice *p, unsigned bar, uint64_t size, bool io, bool is64,
                 const BusOps *ops);
/* Appends a capability of `len` bytes (id and next pointer included); returns its offset.
 */
uint8_t pci_add_cap(PciDevice *p, uint8_t id, uint8_t len);

/* Any thread: INTx as the device drives it; honours the command register's disable bit.
 */
void pci_set_intx(PciDevice *p, bool level);

/* Main thread, vCPUs parked: what this layer knows of a function, in the sections ID/pci
 * and ID/msix.  The device's own save and load ops call them; loading comes first there,
 * and refuses a configuration space that is not this device's.  BARs are then where they
 * were and messages routed as they were; the line follows with pci_bus_resume(). */
void pci_device_save(PciDevice *p, StateWriter *w);
bool pci_device_load(PciDevice *p, StateReader *r, GError **error);

/* ---- the bus -------------------------------------------------------------------- */

typedef struct PciBusConfig {
    Bus *pio, *mmio;
    IrqController *ic;
    unsigned gsi_base;  /* INTx pins A-D rotate over 4 GSIs from here */
    uint64_t ecam_base; /* 1 MiB: bus 0 */
    uint64_t mmio32_base, mmio32_size, mmio64_base,
        mmio64_size; /* where BARs start out */
} PciBusConfig;

/* Main thread.  Makes the bus with its host bridge at slot 0, CF8/CFC and ECAM mapped. */
PciBus *pci_bus_new(const PciBusConfig *config, GError **error);
void pci_bus_free(PciBus *bus); /* releases the devices on it; NULL is fine */

/* Attaches at `slot` (-1: the next free one) and gives BARs their first addresses, so
 * that a kernel booted without firmware finds them placed. */
bool pci_attach(PciBus *bus, PciDevice *p, int slot, GError **error);
PciDevice *pci_device_at(PciBus *bus, unsigned slot); /* NULL: empty */
void pci_bus_reset(PciBus *bus); /* places all BARs anew, as firmware does */

/* Main thread, vCPUs may run.  Attaches at the next free slot without addresses: those
 * are the operating system's to give, until a reset gives them. */
bool pci_plug(PciBus *bus, PciDevice *p, GError **error);

/* Main thread, vCPUs may run; takes the device's lock.  No BAR answers and no interrupt
 * leaves any more, until the guest turns them on again. */
void pci_silence(PciDevice *p);

/* Main thread, vCPUs parked.  Takes it off the bus, silent for good; it is then the
 * caller's to release.  To silence it before spares parked vCPUs the time that the kernel
 * takes to forget its kicks: milliseconds. */
void pci_unplug(PciDevice *p);

/* Any thread.  No config access reaches the functions of these slots (a bit each) any
 * more, until they are unplugged. */
void pci_hide(PciBus *bus, uint32_t slots);
void pci_bus_quiesce(PciBus *bus); /* vCPUs parked, as for the two beside it */
void pci_bus_resume(PciBus *bus);

/* Main thread, vCPUs parked: the bus and, by device_save and device_load, each function
 * on it.  Loading puts the functions into the slots that they had.  Those that were
 * hidden are not saved: to the guest they are gone. */
void pci_bus_save(PciBus *bus, StateWriter *w);
bool pci_bus_load(PciBus *bus, StateReader *r, GError **error);
Bus *pci_bus_mmio(const PciBus *bus); /* where memory BARs are mapped */

/* vCPU thread.  Config space of one function (the device's lock is taken inside). */
uint32_t pci_config_read(PciDevice *p, unsigned offset, unsigned size);
void pci_config_write(PciDevice *p, unsigned offset, unsigned size, uint32_t value);

/* ---- MSI-X (PCI 3.0, 6.8.2) ------------------------------------------------------ */

/* Main thread.  Adds the capability and serves table and pending bits at the given
 * offsets of a BAR: the BAR's own ops call msix_read/msix_write for [table, table + 16 *
 * n) and [pba, pba + 8 * ceil(n / 64)).  n_vectors <= 2048. */
Msix *msix_add(PciDevice *p, unsigned bar, uint32_t table, uint32_t pba,
               unsigned n_vectors);

bool msix_read(Msix *m, uint64_t bar_offset, unsigned size, uint64_t *value);
bool msix_write(Msix *m, uint64_t bar_offset, unsigned size, uint64_t value);

/* Any thread, lock-free: fires the vector, or marks it pending while masked. */
void msix_notify(Msix *m, unsigned vector);
bool msix_enabled(const Msix *m); /* any thread */

/* With the device's lock held, or vCPUs parked: from now on, or no longer, a signal of
 * eventfd `fd` is the vector's interrupt while that is live, without anybody's doing. One
 * at a time: a second one's owner goes on notifying. */
void msix_direct(Msix *m, unsigned vector, int fd, bool on);
unsigned msix_vectors(const Msix *m);
