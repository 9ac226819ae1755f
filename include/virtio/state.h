/* Saved state of virtio devices: for the devices' own parts.
 *
 * A device's sections are named ID/PART: ID/virtio (virtio/state.c), ID/virtio-pci or
 * ID/virtio-mmio, and those of the device itself, such as ID/net. */
#pragma once

#include "virtio/virtio.h"

/* "ID/PART" into `name`, which it returns. */
const char *virtio_section(const VirtioDevice *v, const char *part, char name[64]);

/* Main thread, in VirtioOps.save and .load: what belongs to the device's loop is saved or
 * loaded there; they return when that is done, and the second what `load` did. */
void virtio_save_on_loop(VirtioDevice *v, void (*save)(VirtioDevice *v, StateWriter *w),
                         StateWriter *w);
bool virtio_load_on_loop(VirtioDevice *v,
                         bool (*load)(VirtioDevice *v, StateReader *r, GError **error),
                         StateReader *r, GError **error);

/* Main thread, in VirtioOps.save: the requests of a queue that are held in spite of the
 * pause, each with its pieces as they were popped.  No section if there are none. */
void virtio_save_held(const VirtioDevice *v, unsigned queue, const VqReq *const *reqs,
                      unsigned n, StateWriter *w);

/* Main thread, in VirtioOps.load: puts them in flight again.  `room` is asked for a place
 * for each; none ends it.  The device is broken by those that no driver could have
 * offered; errors are those of the section. */
bool virtio_load_held(VirtioDevice *v, unsigned queue, StateReader *r,
                      VqReq *(*room)(void *opaque, unsigned queue), void *opaque,
                      GError **error);
