/* What differs between processor architectures, as the layers above see it.  One folder,
 * src/arch/ARCH/, implements it; nothing else asks which one it is. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"
#include "kvm/vcpu.h"

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

/* vCPU thread: describes where the guest is, in one line for a person: instruction
 * pointer, privilege, the bytes there and, where a disassembler is installed, the
 * instruction. `bytes`, if not NULL, are what KVM reported; else they are read from guest
 * memory. */
char *arch_vcpu_describe(Vcpu *c, const uint8_t *bytes, unsigned n_bytes);

/* Any thread: whether this processor shows VT-x or AMD-V, and the width of its physical
 * addresses, which is the guest's too. */
bool arch_host_has_virtualization(void);
unsigned arch_physical_bits(void);
