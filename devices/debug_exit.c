/* Ports by which a test kernel ends the machine with a status.  The one at 0xf4 answers
 * as QEMU's isa-debug-exit does, (value << 1) | 1, so that kernels written for that work
 * unchanged; the one at 0x501 gives the value itself, 0 included.  The monitor's own
 * statuses begin at 124, so greater values become 123.  There is no state to save. */
#include "devices/platform.h"
#include "util/bits.h"

enum { QEMU_PORT = 0xf4, QEMU_PORT_SIZE = 4, PLAIN_PORT = 0x501, MAX_STATUS = 123 };

typedef struct DebugExit {
    Device dev;
    BusRegion qemu, plain;
    Bus *pio;
    const PlatformEvents *events;
} DebugExit;

static uint64_t debug_exit_read(Device *d, uint64_t offset, unsigned size)
{
    return 0;
}

static void exit_with(Device *d, uint64_t status)
{
    const PlatformEvents *events = ((DebugExit *)d)->events;

    events->debug_exit(events->opaque, MIN(status, MAX_STATUS));
}

static void qemu_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    exit_with(d, (value & ones(4)) << 1 | 1);
}

static void plain_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    exit_with(d, value);
}

static const BusOps qemu_ops = {debug_exit_read, qemu_write};
static const BusOps plain_ops = {debug_exit_read, plain_write};

static void debug_exit_release(Device *d)
{
    DebugExit *e = (DebugExit *)d;

    bus_unmap(e->pio, &e->qemu);
    bus_unmap(e->pio, &e->plain);
    device_finish(d);
    g_free(e);
}

static const DeviceOps debug_exit_ops = {.name = "debug-exit",
                                         .release = debug_exit_release};

Device *debug_exit_new(Bus *pio, const PlatformEvents *events)
{
    DebugExit *e = g_new0(DebugExit, 1);
    Device *d = &e->dev;

    device_init(d, &debug_exit_ops, "debug-exit");
    e->pio = pio;
    e->events = events;
    e->qemu = (BusRegion){.dev = d, .ops = &qemu_ops, .size = QEMU_PORT_SIZE};
    e->plain = (BusRegion){.dev = d, .ops = &plain_ops, .size = 1};
    bus_map(pio, &e->qemu, QEMU_PORT);
    bus_map(pio, &e->plain, PLAIN_PORT);
    return d;
}
