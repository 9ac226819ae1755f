/* What every emulated device is: a name, a lock, and a const table of functions.  What
 * the guest can observe sits in one plain XxxState struct inside the device; everything
 * else can be rebuilt from configuration. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "state/state.h"
#include "util/error.h"
#include "util/lock.h"

typedef struct Device Device;

typedef struct DeviceOps {
    const char *name; /* of the kind */

    /* Main thread, vCPUs parked or not yet started.  Each may be NULL. */
    void (*reset)(Device *d);   /* power-on values */
    void (*quiesce)(Device *d); /* no work in flight on return */
    void (*resume)(Device *d);
    void (*release)(Device *d); /* half-built is fine; frees the instance */

    /* Main thread, at any time: why the device cannot be saved now, a sentence without
     * its name; NULL: it can. */
    const char *(*pinned)(const Device *d);

    /* Main thread, vCPUs parked, device quiesced.  Puts sections named d->id and d->id
     * "/x".  Without it there is nothing to save. */
    void (*save)(Device *d, StateWriter *w);

    /* Main thread.  The device was just made, from the same configuration, and never
     * ran.  What is read is hostile: check all of it, then take it.  On failure the
     * device is good for nothing but release.  No message or event leaves for what
     * happened before; device_resume() follows, as after any pause.  An interrupt line
     * that may be taken for edge-triggered is raised here already: the controllers' own
     * state is put in place after it, and knows whether that edge was delivered. */
    bool (*load)(Device *d, StateReader *r, GError **error);
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
const char *device_pinned(const Device *d);
void device_save(Device *d, StateWriter *w);
bool device_load(Device *d, StateReader *r, GError **error);
