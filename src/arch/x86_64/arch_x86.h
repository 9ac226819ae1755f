/* Shared by the x86-64 files only. */
#pragma once

#include "kvm/arch.h"

enum { X86_MAX_CPUID = 256, X86_MAX_MSRS = 512 };

/* Facts of the VM that every vCPU needs, fetched from KVM once, and the interrupt
 * controllers as they were at power-on. */
typedef struct ArchVm {
    struct kvm_cpuid2 *cpuid; /* what this host's KVM supports */
    uint32_t *msrs;           /* what KVM would save and restore */
    unsigned n_msrs;
    struct kvm_irqchip chip[3]; /* PIC master, PIC slave, IOAPIC */
    struct kvm_pit_state2 pit;
} ArchVm;

/* Fetches vm->cpuid; sets what vCPU `c` of `n_cpus` shows (Intel SDM, CPUID; APM, CPUID).
 */
bool x86_cpuid_fetch(Kvm *kvm, GError **error);
bool x86_cpuid_set(Vcpu *c, unsigned n_cpus, GError **error);

/* An ioctl on the vCPU; its failure is an error that names the request. */
bool x86_vcpu_ioctl(Vcpu *c, unsigned long request, void *arg, const char *name,
                    GError **error);
#define VCPU_IOCTL(c, request, arg, error)                                               \
    x86_vcpu_ioctl(c, request, arg, #request, error)
