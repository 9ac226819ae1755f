/* What differs between processor architectures, as the layers above see it.  One folder,
 * src/arch/ARCH/, implements it; nothing else asks which one it is. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"
#include "kvm/vcpu.h"
#include "state/state.h"
#include "util/json.h"

/* How the first vCPU starts: the boot loader's answer. */
typedef enum {
    BOOT_LONG_MODE, /* 64-bit, paging on, flat segments (Linux 64-bit boot protocol) */
    BOOT_PROTECTED, /* 32-bit, paging off, flat segments (PVH, multiboot, Linux 32-bit) */
} BootMode;

typedef struct BootEntry {
    BootMode mode;
    uint64_t ip;
    uint64_t si;              /* Linux: boot_params */
    uint64_t ax;              /* multiboot: magic */
    uint64_t bx;              /* PVH: start_info; multiboot: info */
    uint64_t page_table, gdt; /* long mode: where the loader put them in guest RAM */
} BootEntry;

/* Main thread, memory slots being in place: interrupt controllers and timers of the VM.
 */
bool arch_vm_init(Kvm *kvm, GError **error);
bool arch_vm_reset(Kvm *kvm, GError **error);
void arch_vm_finish(Kvm *kvm);

/* Main thread, vCPU parked or not started: features and power-on state; put all registers
 * back to power-on; enter at the given place.  Only the boot vCPU is entered, the others
 * wait for INIT and SIPI. */
bool arch_vcpu_init(Vcpu *c, unsigned n_cpus, GError **error);
bool arch_vcpu_reset(Vcpu *c, GError **error);
bool arch_vcpu_enter(Vcpu *c, const BootEntry *entry, GError **error);
void arch_vcpu_finish(Vcpu *c); /* frees reset_state */

/* ---- saved state: src/arch/ARCH/state_*.c ---------------------------------------------
 */

/* What becomes of the time between a save and its restore. */
typedef enum {
    CLOCK_STOPPED,  /* the guest's clocks go on where they stood */
    CLOCK_CATCH_UP, /* they are put forward by it */
} ClockMode;

/* Any thread: why no VM of this host's KVM can be saved, a sentence, g_free; or NULL.
 * Whether a guest has a guest of its own shows only when it is paused, in
 * arch_vcpu_save(). */
char *arch_vm_pinned(Kvm *kvm);

/* Main thread, vCPUs parked, devices quiesced.  A vCPU is its section "vcpu0", ...; the
 * VM is "irqchip" and "clock".  Errors name the vCPU and what of it. */
bool arch_vcpu_save(Vcpu *c, StateWriter *w, GError **error);
bool arch_vm_save(Kvm *kvm, StateWriter *w, GError **error);

/* Main thread, nothing having run yet: the VM first, then the devices, then every vCPU
 * that there is, in any order, once each.  arch_vm_load() sets the guest's clock, which
 * elapsed_ns (less than none counts as none) puts forward with CLOCK_CATCH_UP.  With the
 * last vCPU the interrupt controllers are put in place: they deliver at once what they
 * hold, and their state goes over the lines that devices have raised in their own load,
 * so that an edge that was delivered is not delivered once more. */
bool arch_vm_load(Kvm *kvm, StateReader *r, ClockMode clock, int64_t elapsed_ns,
                  GError **error);
bool arch_vcpu_load(Vcpu *c, StateReader *r, GError **error);

/* Main thread, vCPU parked: what a host needs for this guest, for a manifest: {"vendor",
 * "family", "model", "name", "features": [...], "physical_bits", "xsave_size", "msrs",
 * "tsc_khz"}.  A new reference. */
json_t *arch_cpu_needs(Kvm *kvm, Vcpu *c);

/* Any thread; needs no VM: appends what of it this host lacks, sentences with the way
 * out, g_free.  `needs` may be anything: it comes from a file.  The second is apart
 * because it may have to make a vCPU, which takes a millisecond; a restore does not need
 * it, where arch_vcpu_load() looks for itself. */
void arch_cpu_check(const json_t *needs, GPtrArray *problems);
void arch_tsc_check(const json_t *needs, GPtrArray *problems);

/* vCPU thread or vCPU parked: tells the guest, where it has asked for that, that its vCPU
 * was held up, so that its watchdogs do not take it for a lock-up. */
void arch_vcpu_was_paused(Vcpu *c);

/* vCPU thread: describes where the guest is, in one line for a person: instruction
 * pointer, privilege, the bytes there and, where a disassembler is installed, the
 * instruction. `bytes`, if not NULL, are what KVM reported; else they are read from guest
 * memory. */
char *arch_vcpu_describe(Vcpu *c, const uint8_t *bytes, unsigned n_bytes);

/* Any thread: whether this processor shows VT-x or AMD-V, and the width of its physical
 * addresses, which is the guest's too. */
bool arch_host_has_virtualization(void);
unsigned arch_physical_bits(void);
