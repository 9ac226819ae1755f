/* The host bridge and the bus behind it, as their files share them: pci_host.c (accesses
 * to configuration space, life), pci_slots.c and pci_host_state.c.
 *
 * Locking: the bus has a lock of its own, held by dispatch during a configuration access,
 * inside which the function's lock is taken; never the other way round, and never two
 * functions' locks at once.  The main thread alone changes the slots: under the lock to
 * add a function while vCPUs run, and with vCPUs parked to take one away, since a vCPU
 * may be about to enter one of its BARs. */
#pragma once

#include "devices/pci_private.h"

#define PCI_ADDRESS_WRITABLE 0x80fffffcu /* of the address register, mechanism #1 */

/* Addresses not yet given to a BAR.  Memory is given in whole pages, so that a guest can
 * map one BAR without its neighbour. */
typedef struct PciWindow {
    uint64_t next, end, align;
} PciWindow;

struct PciBus {
    Device dev;
    PciBusConfig config;
    uint32_t selected; /* the address register, guest-visible */
    BusRegion address, data, ecam;
    PciDevice *slot[PCI_MAX_SLOTS];
    uint32_t hidden; /* atomic; slots that config accesses do not reach */
    PciWindow io, mmio32, mmio64;
};

/* Main thread, before the first function is attached, and at a reset. */
void pci_bus_open_windows(PciBus *bus);

/* Config accesses do not reach what is in that slot. */
bool pci_slot_is_hidden(const PciBus *bus, unsigned slot);

/* Main thread, vCPUs parked or the function not yet to be found: its INTx is that of its
 * slot. */
void pci_connect_intx(const PciBus *bus, PciDevice *p);
