/* The panic port (QEMU docs/specs/pvpanic): a kernel that dies writes bit 0.  Bit 1 says
 * that a crash kernel takes over: the guest goes on, so it is offered and otherwise
 * ignored.  There is no state to save. */
#include "devices/platform.h"

enum { PANICKED = 1, CRASH_LOADED = 2 };

typedef struct Pvpanic {
    Device dev;
    BusRegion region;
    Bus *pio;
    const PlatformEvents *events;
} Pvpanic;

static uint64_t pvpanic_read(Device *d, uint64_t offset, unsigned size)
{
    return PANICKED | CRASH_LOADED;
}

static void pvpanic_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    Pvpanic *p = (Pvpanic *)d;

    if (value & PANICKED)
        p->events->panicked(p->events->opaque);
}

static const BusOps pvpanic_bus_ops = {pvpanic_read, pvpanic_write};

static void pvpanic_release(Device *d)
{
    Pvpanic *p = (Pvpanic *)d;

    bus_unmap(p->pio, &p->region);
    device_finish(d);
    g_free(p);
}

static const DeviceOps pvpanic_ops = {.name = "pvpanic", .release = pvpanic_release};

Device *pvpanic_new(Bus *pio, const PlatformEvents *events)
{
    Pvpanic *p = g_new0(Pvpanic, 1);

    device_init(&p->dev, &pvpanic_ops, "pvpanic");
    p->pio = pio;
    p->events = events;
    p->region = (BusRegion){.dev = &p->dev, .ops = &pvpanic_bus_ops, .size = 1};
    bus_map(pio, &p->region, PVPANIC_PORT);
    return &p->dev;
}
