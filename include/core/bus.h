/* An address space of registers: one for port I/O, one for MMIO.
 *
 * Dispatch takes no shared lock: the map is a fixed array guarded by a sequence counter,
 * so that a reader retries while a writer moves an entry (only a PCI BAR ever moves while
 * vCPUs run).  Devices go only with vCPUs parked, so an entry that was read stays good
 * until the access is over.  The device's own lock is held during the access. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/device.h"

enum { BUS_MAX_REGIONS = 256 };

typedef struct BusOps {
    /* vCPU thread, dev->lock held.  Any access the guest can make is legal input: answer
     * as hardware would, never assert.  size is 1, 2, 4 or 8; offset + size may reach
     * past the region's end only if it started inside it. */
    uint64_t (*read)(Device *d, uint64_t offset, unsigned size);
    void (*write)(Device *d, uint64_t offset, unsigned size, uint64_t value);
} BusOps;

/* Filled in by the device and owned by it. */
typedef struct BusRegion {
    Device *dev;
    const BusOps *ops;
    uint64_t base, size;
    bool mapped; /* the bus's */
} BusRegion;

/* Lends the bus a way to turn a write into an eventfd signal without leaving the kernel;
 * see kvm_kick_ops in kvm/kvm.h.  Called on any thread. */
typedef struct BusKickOps {
    bool (*assign)(void *opaque, bool pio, uint64_t addr, unsigned size, bool match,
                   uint64_t value, int fd, bool on);
} BusKickOps;

typedef struct Bus Bus;

Bus *bus_new(bool pio);
void bus_free(Bus *bus);
void bus_set_kick_ops(Bus *bus, const BusKickOps *ops, void *opaque);

/* Any thread.  Mapping fails (false) if the region is empty, wraps, overlaps another, or
 * the map is full; a guest that moves a BAR there simply finds nothing at it.  Unmapping
 * what is not mapped is harmless. */
bool bus_map(Bus *bus, BusRegion *region, uint64_t base);
void bus_unmap(Bus *bus, BusRegion *region);

/* vCPU thread.  False if nothing is mapped there; *value is then all ones. */
bool bus_read(Bus *bus, uint64_t addr, unsigned size, uint64_t *value);
bool bus_write(Bus *bus, uint64_t addr, unsigned size, uint64_t value);

/* Any thread.  Asks for writes of `size` bytes at `addr` (0: any size), equal to `value`
 * if `match`, to signal `fd` in the kernel.  False: not possible here, and the write will
 * reach the region's ops as any other does, so callers handle both. */
bool bus_kick_assign(Bus *bus, uint64_t addr, unsigned size, bool match, uint64_t value,
                     int fd, bool on);
