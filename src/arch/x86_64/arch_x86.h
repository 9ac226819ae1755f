/* Shared by the x86-64 files only. */
#pragma once

#include "kvm/arch.h"

enum { X86_MAX_CPUID = 256, X86_MAX_MSRS = 512 };
enum { X86_MSR_TSC = 0x10 };

/* Facts of the VM that every vCPU needs, fetched from KVM once, and the interrupt
 * controllers as they were at power-on. */
typedef struct ArchVm {
    const struct kvm_cpuid2 *cpuid; /* what this host's KVM supports */
    uint32_t *msrs;                 /* what KVM would save and restore, without the TSC */
    unsigned n_msrs;
    struct kvm_irqchip chip[3]; /* PIC master, PIC slave, IOAPIC */
    struct kvm_pit_state2 pit;

    /* Of a restore: what arch_vm_load() leaves for the vCPUs. */
    struct IrqchipState *irqchip; /* for when the last of them is there */
    int64_t elapsed_ns;           /* that their clocks go forward */
    bool tsc_shifted;
    uint64_t tsc_shift; /* of every vCPU's offset, so that they stay in step */
    unsigned n_vcpus, n_loaded;
} ArchVm;

/* The registers of a vCPU at power-on, and what was set once and for all. */
typedef struct VcpuReset {
    struct kvm_cpuid2 *cpuid; /* what the guest is shown */
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    struct kvm_fpu fpu;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp_state;
    struct kvm_lapic_state lapic;
    struct kvm_xcrs xcrs;
    bool has_xcrs;
    struct kvm_msrs *msrs; /* those of ArchVm.msrs that this host lets one read */
} VcpuReset;

/* Room for `n` entries, of which none is used. */
struct kvm_cpuid2 *x86_cpuid_new(void); /* X86_MAX_CPUID of them */
struct kvm_msrs *x86_msrs_new(unsigned n);

/* What this host's KVM supports, by the descriptor of /dev/kvm; the process keeps it. */
const struct kvm_cpuid2 *x86_cpuid_host(int kvm_fd, GError **error);
/* What vCPU `index` of `n_cpus` shows of that (Intel SDM, CPUID; APM, CPUID).  The
 * caller's, g_free. */
struct kvm_cpuid2 *x86_cpuid_make(Kvm *kvm, unsigned index, unsigned n_cpus);
/* An entry by leaf and subleaf; NULL: it is not there. */
const struct kvm_cpuid_entry2 *x86_cpuid_find(const struct kvm_cpuid2 *t,
                                              uint32_t function, uint32_t index);

/* cpu_features.c.  The features that a table shows, by the names that /proc/cpuinfo has
 * for them; text constants and others, freed with the array.  x86_features_missing() is
 * which of those that `guest` was shown `host` has not. */
GPtrArray *x86_features(const struct kvm_cpuid2 *t);
GPtrArray *x86_features_missing(const struct kvm_cpuid2 *guest,
                                const struct kvm_cpuid2 *host);
/* "avx512f, avx512dq and 7 more" */
char *x86_features_text(const GPtrArray *names);

/* cpu_needs.c.  Why a guest that was shown `guest` cannot run on this `host`: a sentence
 * with the way out, the caller's; NULL: it can. */
char *x86_cpuid_problem(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host);

/* An ioctl on the vCPU or the VM; its failure is an error that names the request. */
bool x86_vcpu_ioctl(Vcpu *c, unsigned long request, void *arg, const char *name,
                    GError **error);
#define VCPU_IOCTL(c, request, arg, error)                                               \
    x86_vcpu_ioctl(c, request, arg, #request, error)
bool x86_vm_ioctl(Kvm *kvm, unsigned long request, void *arg, const char *name,
                  GError **error);
#define VM_IOCTL(kvm, request, arg, error)                                               \
    x86_vm_ioctl(kvm, request, arg, #request, error)
