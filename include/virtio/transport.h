/* The two ways a guest finds a virtio device. */
#pragma once

#include "core/bus.h"
#include "core/irq.h"
#include "devices/pci.h"
#include "virtio/virtio.h"

/* Main thread; vCPUs may run.  virtio-pci modern (virtio 1.2, 4.1): one BAR with
 * the four structures and the MSI-X table, MSI-X with one vector per queue and one for
 * config changes.  Takes over v, frees it on release; NULL and v freed on failure. */
PciDevice *virtio_pci_new(VirtioDevice *v);

/* virtio-mmio (4.2): VIRTIO_MMIO_SIZE bytes of registers at `base`, one interrupt line.
 */
enum { VIRTIO_MMIO_SIZE = 512 };
Device *virtio_mmio_new(VirtioDevice *v, Bus *mmio, uint64_t base, IrqController *ic,
                        unsigned gsi, GError **error);
