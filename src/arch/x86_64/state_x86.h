/* What is saved of a vCPU and of the VM's interrupt controllers and clock; private to the
 * state_*.c files. */
#pragma once

#include "arch_x86.h"
#include "state/state.h"

enum {
    X86_LAPIC_SIZE = 1024,
    X86_XSAVE_MIN = 4096,      /* of struct kvm_xsave: what KVM_GET_XSAVE gives */
    X86_XSAVE_MAX = 64 * 1024, /* AMX needs 11 KiB */
    X86_MAX_STATE_MSRS = 1024,
    X86_IOAPIC_PINS = KVM_IOAPIC_NUM_PINS,
};

/* Section "vcpu0", ...  The structs are KVM's own (asm/kvm.h): what it gives is what it
 * is to get back. */
typedef struct VcpuState {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    uint32_t mp_state;
    uint32_t tsc_khz;
    uint8_t lapic[X86_LAPIC_SIZE];
    StateBlob xsave;
    uint64_t tsc_offset; /* from the host's counter; of use to tell the vCPUs' apart */
    uint32_t n_xcrs, n_msrs, n_cpuid;
    bool has_tsc_offset;
    uint8_t reserved[3];
    struct kvm_xcr xcrs[KVM_MAX_XCRS];
    struct kvm_msr_entry msrs[X86_MAX_STATE_MSRS]; /* the TSC first */
    struct kvm_cpuid_entry2 cpuid[X86_MAX_CPUID];
} VcpuState;

typedef struct IoapicState {
    uint64_t base_address;
    uint64_t redirection[X86_IOAPIC_PINS];
    uint32_t selected, id, irr;
    uint32_t reserved;
} IoapicState;

/* Sections "irqchip" and "clock" */
typedef struct IrqchipState {
    struct kvm_pic_state pic[2]; /* master, slave */
    IoapicState ioapic;
    struct kvm_pit_state2 pit;
} IrqchipState;

typedef struct ClockState {
    uint64_t clock; /* nanoseconds, as the guest's kvmclock showed them */
    uint64_t
        realtime; /* the host's at that instant, nanoseconds since 1970; 0: unknown */
} ClockState;

extern const StateTable x86_vcpu_table, x86_irqchip_table, x86_clock_table;

/* Puts what arch_vm_load() has checked into the interrupt controllers and the timer. */
bool x86_irqchip_put(Kvm *kvm, GError **error);

/* Whether a guest's hypervisor is at work, by what KVM_GET_NESTED_STATE says. */
bool x86_nested_in_use(const struct kvm_nested_state *n);

/* state_tsc.c.  Frequency and value of the time-stamp counter.  x86_tsc_load() is false
 * where it is to be set as an MSR, with what elapsed added there. */
void x86_tsc_save(Vcpu *c, VcpuState *ret);
bool x86_tsc_load_khz(Vcpu *c, uint32_t khz, GError **error);
bool x86_tsc_load(Vcpu *c, VcpuState *s);
