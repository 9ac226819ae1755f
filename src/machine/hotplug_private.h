/* The list of a machine's virtio devices, as its files share it: hotplug.c (coming),
 * hotplug_remove.c (going) and hotplug_save.c (what is said of those that are there).
 * Main thread.
 *
 * A device is in the list from when it is made until it is freed.  In between it may be
 * `leaving`: off the bus, so that no vCPU can reach it, while its I/O thread waits for
 * the backend.  That may last, and nobody else waits with it: neither a vCPU nor the
 * control socket.  Its id stays taken, and its image locked, until then. */
#pragma once

#include "machine_private.h"
#include "virtio/virtio.h"

typedef struct HotplugEntry {
    Hotplug *h;
    VirtioDevice *v;
    const VirtioOps *ops;
    PciDevice *pci; /* NULL: on virtio-mmio */
    void *options;  /* owned; NULL for the Config's devices */
    bool added;
    bool agent;     /* the port for a guest agent, which is no device of the Config's */
    unsigned given; /* the Config's: how many of its kind stand before it there */
    bool leaving;
    IoPost retired;
    IoTimer repeat; /* of a request for removal */
    unsigned repeats;
} HotplugEntry;

struct Hotplug {
    Machine *machine;
    IoLoop *main;
    Board *board;
    Device *events;    /* devices/pci_hotplug.c; NULL: virtio-mmio, without hotplug */
    IoLoop *shared_io; /* made when a device first needs it */
    GPtrArray *entries;
    IoPost ejected;
};

HotplugEntry *hotplug_entry(const Hotplug *h, unsigned i);
HotplugEntry *hotplug_find(const Hotplug *h, const char *id); /* NULL: there is none */

PciRemoval hotplug_removal(const HotplugEntry *e);
bool hotplug_is_there(const HotplugEntry *e); /* the guest has not given it up */

void hotplug_on_eject(void *opaque);   /* a vCPU's write; opaque: the Hotplug */
void hotplug_on_ejected(void *opaque); /* main thread, by its post */

/* Frees the device of one that is leaving. */
void hotplug_release(HotplugEntry *e);
/* When the device is gone: it may have kept its options by reference. */
void hotplug_entry_free(HotplugEntry *e);
