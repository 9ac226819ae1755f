/* What pci.c, pci_host.c and msix.c share, and nobody else needs. */
#pragma once

#include "devices/pci.h"

/* With the device's lock held or vCPUs parked.  Makes the bus map follow the command
 * register and the BARs; true if an address was given up, which another BAR may have been
 * waiting for. */
bool pci_update_bars(PciDevice *p);

/* vCPU thread, no device's lock held: maps what can be mapped now. */
void pci_bus_retry_bars(PciBus *bus);

const PciBusConfig *pci_bus_config(const PciBus *bus);

/* vCPUs parked.  Drives the line as the device and the command register have it. */
void pci_resume_intx(PciDevice *p);

/* vCPUs parked.  Maps the BARs of these bits where configuration space has them; false,
 * with the BAR in *ret_bad, if that is nowhere or something else is there. */
bool pci_map_bars(PciDevice *p, unsigned bars, unsigned *ret_bad);

/* With the device's lock held or vCPUs parked: message control may have changed. */
void msix_control_changed(Msix *m);
void msix_reset(Msix *m); /* vCPUs parked */
void msix_save(Msix *m, StateWriter *w);
bool msix_load(Msix *m, StateReader *r, GError **error); /* after config space */
void msix_free(Msix *m);                                 /* main thread; NULL is fine */
