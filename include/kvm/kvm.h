/* One VM of the kernel's KVM (Documentation/virt/kvm/api.rst): the file descriptors,
 * memory slots, interrupt routes and eventfds.  Nothing here knows of devices. */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/guestmem.h"
#include "core/irq.h"
#include "util/error.h"

enum { KVM_MAX_MSI = 2048 };

typedef struct KvmDirty KvmDirty;

typedef struct Kvm {
    int kvm_fd, vm_fd;
    size_t run_size; /* of each vCPU's shared struct kvm_run */
    const GuestMem *gm;
    struct ArchVm *arch; /* the interrupt controllers at power-on, and other facts */
    KvmDirty *dirty;     /* NULL: not logging */

    Lock route_lock; /* guards the GSI routing table; a leaf */
    struct kvm_irq_routing *routes;
    bool msi_used[KVM_MAX_MSI];
} Kvm;

/* Main thread.  Opens /dev/kvm and makes a VM; a failure says what is missing and what to
 * do.  kvm_free accepts NULL; vCPUs are to be freed before. */
Kvm *kvm_new(GError **error);
void kvm_free(Kvm *kvm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Kvm, kvm_free)

/* Main thread, before the interrupt controllers are made (later, each slot costs
 * milliseconds on some hosts): one memory slot per region. */
bool kvm_add_memory(Kvm *kvm, const GuestMem *gm, GError **error);

/* Which pages of RAM the guest has written; what we write ourselves is in the log of
 * core/guestmem.h.  One user at a time, who may be any thread; vCPUs may run.
 *
 * Fetching ORs into `bitmap`, a bit per page of the RAM file (GuestRegion.offset), what
 * was written since the start or the last fetch, and forgets it; the pages are to be read
 * after that.  If it fails, what it has forgotten is in `bitmap` all the same.  A page
 * may be reported without having been written, never the other way round.  Stopping is
 * harmless when not started. */
bool kvm_dirty_start(Kvm *kvm, GError **error);
bool kvm_dirty_fetch(Kvm *kvm, uint64_t *bitmap, GError **error);
void kvm_dirty_stop(Kvm *kvm);

/* Any thread: ioctl on the VM, going on after EINTR.  -1 and errno as ioctl. */
int kvm_ioctl(const Kvm *kvm, unsigned long request, void *arg);
int kvm_check_extension(const Kvm *kvm, int cap); /* 0: absent */

/* KVM as the interrupt controller behind core/irq.h and the kick ops behind core/bus.h;
 * opaque is the Kvm. */
extern const IrqOps kvm_irq_ops;
extern const BusKickOps kvm_kick_ops;
