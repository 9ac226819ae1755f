/* Interrupts as devices see them.  The controller is KVM's (or a fake in unit tests),
 * lent through IrqOps, so that a device needs to know neither.
 *
 * A line is level-triggered or edge-triggered by what the guest programmed; several
 * lines may share a pin (GSI), which is then high while any of them is.  A message (MSI)
 * is an eventfd that the controller turns into the interrupt that was last routed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/lock.h"

enum { IRQ_MAX_GSI = 24 };

typedef struct IrqOps {
    void (*set_gsi)(void *opaque, unsigned gsi, bool level); /* any thread */
    int (*msi_alloc)(void *opaque, GError **error);          /* a handle, or -1 */
    void (*msi_free)(void *opaque, int handle);
    bool (*msi_route)(void *opaque, int handle, uint64_t addr, uint32_t data);
    bool (*msi_bind)(void *opaque, int handle, int eventfd, bool on); /* irqfd */
} IrqOps;

typedef struct IrqController {
    const IrqOps *ops;
    void *opaque;
    Lock lock; /* leaf: guards asserted[] and the order of set_gsi calls */
    unsigned asserted[IRQ_MAX_GSI];
} IrqController;

void irq_controller_init(IrqController *ic, const IrqOps *ops, void *opaque);

typedef struct IrqLine {
    IrqController *ic; /* NULL: connected to nothing */
    unsigned gsi;
    bool level; /* what this line contributes; under ic->lock */
} IrqLine;

/* Any thread. */
void irq_connect(IrqLine *line, IrqController *ic, unsigned gsi);
void irq_set(IrqLine *line, bool level);

typedef struct Msi {
    IrqController *ic; /* NULL: unused */
    int handle;
    int eventfd;
    uint64_t addr; /* as last routed */
    uint32_t data;
} Msi;

/* msi_route: vCPU thread with the device's lock held; the first call allocates. msi_fire:
 * any thread, lock-free.  msi_finish: main thread; harmless on a zeroed one. */
bool msi_route(Msi *msi, IrqController *ic, uint64_t addr, uint32_t data);
void msi_fire(const Msi *msi);

/* As msi_route, once it is routed: whether eventfd `fd`, which others signal, is the
 * message, too.  The kernel then takes its signals before those who wait for them
 * (Linux 5.11). */
bool msi_join(const Msi *msi, int fd, bool on);
void msi_finish(Msi *msi);
