/* The virtio devices of a machine: which there are, and how they come and go while the
 * guest runs.
 *
 * Coming: the device is made with its I/O thread, put into a free PCI slot and announced.
 * Nothing is paused for it.  Going: the guest is asked, and may take its time or never
 * answer; when it ejects the device, or is reset, the vCPUs are parked for as long as it
 * takes to unplug it, and it is freed when its backend has ended what was in flight.  A
 * guest may eject a device that nobody asked for: that ends the same way.  Either way the
 * event DEVICE_DELETED says that it is over.
 *
 * A VirtioDevice found here stays good until control returns to the main loop.  All of
 * this is for the main thread. */
#pragma once

#include "devices/pci_hotplug.h"
#include "machine/machine.h"

typedef struct MachineDevice {
    VirtioDevice *virtio; /* with its id and ops */
    PciDevice *pci;       /* its function; NULL: on virtio-mmio */
    bool added;           /* since the machine was made */
    PciRemoval removal;
} MachineDevice;

/* The n-th device in the order they came; false: there are not so many.  What was ejected
 * is not among them. */
bool machine_device(Machine *m, unsigned n, MachineDevice *ret);

/* NULL: there is no device of that id. */
VirtioDevice *machine_find_device(Machine *m, const char *id);

PciBus *machine_pci_bus(Machine *m); /* NULL: virtio-mmio */

/* Makes a device and puts it into the machine; options is the struct of ops->params, NULL
 * for none, and is taken over, on failure too.  Without an id it gets one, "disk3", which
 * is in *ret_id (may be NULL) until it goes.  Refused: an id that is in use, no free
 * slot, virtio-mmio. */
bool machine_device_add(Machine *m, const VirtioOps *ops, void *options,
                        const char **ret_id, GError **error);

/* Asks the guest to give up a device; may be repeated.  *ret_heard (may be NULL) is false
 * if the guest does not listen to such requests, most likely because it has not booted:
 * it will see this one when it does, and a reset carries it out. */
bool machine_device_remove(Machine *m, const char *id, bool *ret_heard, GError **error);
