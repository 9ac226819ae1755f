/* PCI: configuration space by ports or ECAM, BARs, capabilities, MSI-X. */
#ifndef PAYLOAD_PCI_H
#define PAYLOAD_PCI_H

#include "payload.h"

#define PCI_VENDOR       0x00
#define PCI_DEVICE       0x02
#define PCI_COMMAND      0x04
#define PCI_STATUS       0x06
#define PCI_CLASS        0x08
#define PCI_HEADER_TYPE  0x0e
#define PCI_BAR0         0x10
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAPABILITIES 0x34

#define PCI_COMMAND_MEMORY  0x002
#define PCI_COMMAND_MASTER  0x004
#define PCI_COMMAND_NO_INTX 0x400

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX   0x11

/* A function on bus 0: device number times 8 plus function number. */
typedef unsigned PciFunction;

#define PCI_FUNCTIONS 256

uint32_t pci_read(PciFunction f, unsigned offset, unsigned size);
void pci_write(PciFunction f, unsigned offset, unsigned size, uint32_t value);
bool pci_exists(PciFunction f);

/* The function to look at after this one: functions 1 to 7 only of devices that have any.
 */
PciFunction pci_next(PciFunction f);

/* Address of a function's 4 KiB in the ECAM, or NULL where there is none. */
volatile uint32_t *pci_ecam(PciFunction f);

/* Turns memory decoding and bus mastering on, and gives addresses to BARs without one. */
void pci_enable(PciFunction f);

/* Base of a memory BAR, mapped; 0 if it is not one. */
uint64_t pci_bar(PciFunction f, unsigned bar);
void pci_set_bar(PciFunction f, unsigned bar, uint64_t address);
uint64_t pci_bar_size(PciFunction f, unsigned bar);

/* The next capability with this id after `after` (0: from the start), or 0. */
unsigned pci_capability(PciFunction f, uint8_t id, unsigned after);

/* Entries of the MSI-X table, 0 where there is none. */
unsigned pci_msix_size(PciFunction f);
volatile uint32_t *pci_msix_table(PciFunction f);

/* Lets entry `entry` of the MSI-X table count in irq_count[index], and turns MSI-X on. */
void pci_msix_route(PciFunction f, unsigned entry, unsigned index);

#endif
