/* What every emulated device is: a name, a lock, and a const table of functions.  What
 * the guest can observe sits in one plain XxxState struct inside the device; everything
 * else can be rebuilt from configuration. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/lock.h"

typedef struct Device Device;

typedef struct DeviceOps {
    const char *name; /* of the kind; later of its section in a saved state */

    /* Main thread, vCPUs parked or not yet started.  Each may be NULL. */
    void (*reset)(Device *d);   /* power-on values */
    void (*quiesce)(Device *d); /* no work in flight on return */
    void (*resume)(Device *d);
    void (*release)(Device *d); /* half-built is fine; frees the instance */
} DeviceOps;

/* Owned by the machine.  The lock guards the device's registers: a vCPU holds it during
 * each register access; with it held a device may raise an interrupt, signal an eventfd
 * or wait for its I/O thread, and take no other lock. */
struct Device {
    const DeviceOps *ops;
    Lock lock;
    char id[32]; /* unique in the machine: "serial0", "disk1" */
};

void device_init(Device *d, const DeviceOps *ops, const char *id);
void device_finish(Device *d);

/* Calls the op if there is one; device_release accepts NULL. */
void device_reset(Device *d);
void device_quiesce(Device *d);
void device_resume(Device *d);
void device_release(Device *d);
