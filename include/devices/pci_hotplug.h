/* PCI hotplug by ACPI on bus 0: how the guest is told that a function came or shall go,
 * and how it lets go of one.
 *
 * Which functions may go is the machine's to say, slot by slot; the host bridge never is
 * among them.  A guest may give up such a function on its own too: it is its to lose. */
#pragma once

#include "core/bus.h"
#include "devices/pci.h"

/* As the DSDT has them (src/machine/acpi_dsdt.c): three dwords of one bit for each slot.
 * UP and DOWN are taken by reading them. */
enum {
    PCI_HOTPLUG_PORT = 0x640,
    PCI_HOTPLUG_UP = 0,
    PCI_HOTPLUG_DOWN = 4,
    PCI_HOTPLUG_EJECT = 8,
    PCI_HOTPLUG_SIZE = 12,
    PCI_HOTPLUG_GPE = 1,
};

/* Main thread.  Ejections are announced by on_eject, on a vCPU thread with the device's
 * lock held: post and return. */
Device *pci_hotplug_new(Bus *pio, PciBus *bus, Device *acpi_pm);
void pci_hotplug_on_eject(Device *d, void (*on_eject)(void *opaque), void *opaque);

/* Main thread, vCPUs may run.  The function in `slot` may go from now on; `announce`
 * tells the guest that it has come. */
void pci_hotplug_plugged(Device *d, unsigned slot, bool announce);

/* Main thread, vCPUs may run: asks the guest to give up the function; may be repeated. */
void pci_hotplug_ask(Device *d, unsigned slot);

/* Main thread: the function was taken off the bus. */
void pci_hotplug_unplugged(Device *d, unsigned slot);

typedef enum {
    PCI_REMOVAL_NONE,
    PCI_REMOVAL_ASKED, /* the guest has not taken the request */
    PCI_REMOVAL_TAKEN, /* it has, and not ejected the function yet */
    PCI_REMOVAL_EJECTED,
} PciRemoval;

PciRemoval pci_hotplug_removal(Device *d, unsigned slot); /* any thread */

/* Any thread: the guest's ACPI is up and has the event enabled. */
bool pci_hotplug_is_heard(Device *d);
