/* The VM's interrupt controllers and every vCPU's registers at power-on: made, kept, and
 * put back when the machine is reset.  What KVM sets up is asked of KVM rather than
 * written down a second time. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch_x86.h"
#include "util/bits.h"

/* Two holes that Intel's KVM wants below 4 GiB, in the chipset's reserved space. */
#define IDENTITY_MAP_ADDR 0xfeffc000ull
#define TSS_ADDR          0xfeffd000ull

enum {
    MSR_MISC_ENABLE = 0x1a0,
    MSR_MTRR_PHYS_BASE0 = 0x200, /* base and mask of each */
    MSR_MTRR_FIX_64K = 0x250,
    MSR_MTRR_FIX_16K = 0x258,
    MSR_MTRR_FIX_4K = 0x268,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MTRR_VARIABLE = 8, /* KVM's number of them */
    MORE_MSRS = 32,    /* at most, in more_msrs[] */
};
#define MISC_ENABLE_FAST_STRING BIT(0)
#define MTRR_ENABLED_WRITE_BACK (BIT(11) | 6)

/* Local APIC registers (Intel SDM 3A, 11.4.1) */
enum {
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    DELIVER_NMI = 4 << 8,
    DELIVER_EXTINT = 7 << 8
};

bool x86_vcpu_ioctl(Vcpu *c, unsigned long request, void *arg, const char *name,
                    GError **error)
{
    int r;

    do
        r = ioctl(c->fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r >= 0 || fail_errno(error, "vCPU %u: %s", c->index, name);
}

/* ---- the VM ---------------------------------------------------------------------------
 */

bool x86_vm_ioctl(Kvm *kvm, unsigned long request, void *arg, const char *name,
                  GError **error)
{
    return kvm_ioctl(kvm, request, arg) >= 0 || fail_errno(error, "/dev/kvm: %s", name);
}

/* What a guest may set and KVM keeps, but leaves out of its list: the memory types. */
static const struct {
    uint32_t first, n;
} more_msrs[] = {
    {MSR_MTRR_PHYS_BASE0, 2 * MTRR_VARIABLE},
    {MSR_MTRR_FIX_64K, 1},
    {MSR_MTRR_FIX_16K, 2},
    {MSR_MTRR_FIX_4K, 8},
    {MSR_MTRR_DEF_TYPE, 1},
};

static void add_msr(ArchVm *vm, uint32_t index)
{
    for (unsigned i = 0; i < vm->n_msrs; i++)
        if (vm->msrs[i] == index)
            return;
    vm->msrs[vm->n_msrs++] = index;
}

static bool fetch_msr_list(Kvm *kvm, GError **error)
{
    g_autofree struct kvm_msr_list *list = g_malloc0(
        sizeof(*list) + X86_MAX_MSRS * sizeof(list->indices[0]));
    ArchVm *vm = kvm->arch;

    list->nmsrs = X86_MAX_MSRS;
    if (ioctl(kvm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
        return fail_errno(error, "/dev/kvm: KVM_GET_MSR_INDEX_LIST");
    vm->msrs = g_new(uint32_t, list->nmsrs + MORE_MSRS);
    for (unsigned i = 0; i < list->nmsrs; i++)
        if (list->indices[i] != X86_MSR_TSC) /* time goes on over a reset */
            vm->msrs[vm->n_msrs++] = list->indices[i];
    for (unsigned i = 0; i < G_N_ELEMENTS(more_msrs); i++)
        for (uint32_t n = 0; n < more_msrs[i].n; n++)
            add_msr(vm, more_msrs[i].first + n);
    return true;
}

/* With them KVM tells of exceptions on their way what it otherwise would have to make up;
 * a kernel that has not one of them does without. */
static void enable_exact_events(Kvm *kvm)
{
    static const uint32_t caps[] = {KVM_CAP_EXCEPTION_PAYLOAD,
                                    KVM_CAP_X86_TRIPLE_FAULT_EVENT};

    for (unsigned i = 0; i < G_N_ELEMENTS(caps); i++) {
        struct kvm_enable_cap cap = {.cap = caps[i], .args = {1}};

        kvm_ioctl(kvm, KVM_ENABLE_CAP, &cap);
    }
}

bool arch_vm_init(Kvm *kvm, GError **error)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    __u64 identity = IDENTITY_MAP_ADDR;

    kvm->arch = g_new0(ArchVm, 1);
    kvm->arch->cpuid = x86_cpuid_host(kvm->kvm_fd, error);
    if (!kvm->arch->cpuid || !fetch_msr_list(kvm, error))
        return false;
    enable_exact_events(kvm);
    if (!VM_IOCTL(kvm, KVM_SET_IDENTITY_MAP_ADDR, &identity, error) ||
        !VM_IOCTL(kvm, KVM_SET_TSS_ADDR, (void *)TSS_ADDR, error) ||
        !VM_IOCTL(kvm, KVM_CREATE_IRQCHIP, NULL, error) ||
        !VM_IOCTL(kvm, KVM_CREATE_PIT2, &pit, error))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(kvm->arch->chip); i++) {
        kvm->arch->chip[i].chip_id = i;
        if (!VM_IOCTL(kvm, KVM_GET_IRQCHIP, &kvm->arch->chip[i], error))
            return false;
    }
    return VM_IOCTL(kvm, KVM_GET_PIT2, &kvm->arch->pit, error);
}

bool arch_vm_reset(Kvm *kvm, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(kvm->arch->chip); i++)
        if (!VM_IOCTL(kvm, KVM_SET_IRQCHIP, &kvm->arch->chip[i], error))
            return false;
    return VM_IOCTL(kvm, KVM_SET_PIT2, &kvm->arch->pit, error);
}

void arch_vm_finish(Kvm *kvm)
{
    if (!kvm->arch)
        return;
    g_free(kvm->arch->msrs);
    g_free(kvm->arch->irqchip);
    g_clear_pointer(&kvm->arch, g_free);
}

/* ---- a vCPU
 * ---------------------------------------------------------------------------- */

struct kvm_msrs *x86_msrs_new(unsigned n)
{
    return g_malloc0(sizeof(struct kvm_msrs) + n * sizeof(struct kvm_msr_entry));
}

/* KVM_GET_MSRS stops at the first MSR that this host does not have: leave that one out
 * and go on behind it. */
static struct kvm_msrs *read_msrs(Vcpu *c)
{
    const ArchVm *vm = c->kvm->arch;
    struct kvm_msrs *kept = x86_msrs_new(vm->n_msrs);
    g_autofree struct kvm_msrs *ask = x86_msrs_new(vm->n_msrs);

    for (unsigned next = 0; next < vm->n_msrs;) {
        int got;

        ask->nmsrs = vm->n_msrs - next;
        for (unsigned i = 0; i < ask->nmsrs; i++)
            ask->entries[i] = (struct kvm_msr_entry){.index = vm->msrs[next + i]};
        got = ioctl(c->fd, KVM_GET_MSRS, ask);
        if (got < 0)
            got = 0;
        memcpy(&kept->entries[kept->nmsrs], ask->entries,
               (size_t)got * sizeof(ask->entries[0]));
        kept->nmsrs += (unsigned)got;
        next += (unsigned)got + 1;
    }
    return kept;
}

/* Those KVM lets one read but not write are skipped in the same way. */
static void write_msrs(Vcpu *c, const struct kvm_msrs *all)
{
    g_autofree struct kvm_msrs *set = x86_msrs_new(all->nmsrs);

    for (unsigned next = 0; next < all->nmsrs;) {
        int done;

        set->nmsrs = all->nmsrs - next;
        memcpy(set->entries, &all->entries[next], set->nmsrs * sizeof(set->entries[0]));
        done = ioctl(c->fd, KVM_SET_MSRS, set);
        next += (unsigned)MAX(done, 0) + 1;
    }
}

static void set_boot_msrs(Vcpu *c)
{
    static const struct kvm_msr_entry boot[] = {
        {.index = MSR_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING},
        {.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITE_BACK},
    };
    g_autofree struct kvm_msrs *msrs = x86_msrs_new(G_N_ELEMENTS(boot));

    msrs->nmsrs = G_N_ELEMENTS(boot);
    memcpy(msrs->entries, boot, sizeof(boot));
    write_msrs(c, msrs); /* a host without one of them goes without */
}

/* The wiring that firmware leaves behind ("virtual wire"): the 8259 reaches the boot vCPU
 * through LINT0, and NMI is LINT1. */
static bool wire_lapic(Vcpu *c, GError **error)
{
    struct kvm_lapic_state lapic;

    if (!VCPU_IOCTL(c, KVM_GET_LAPIC, &lapic, error))
        return false;
    store_le32(lapic.regs + APIC_LVT_LINT0, DELIVER_EXTINT);
    store_le32(lapic.regs + APIC_LVT_LINT1, DELIVER_NMI);
    return VCPU_IOCTL(c, KVM_SET_LAPIC, &lapic, error);
}

static bool keep_state(Vcpu *c, GError **error)
{
    VcpuReset *s = c->reset_state;

    s->has_xcrs = kvm_check_extension(c->kvm, KVM_CAP_XCRS) &&
                  x86_vcpu_ioctl(c, KVM_GET_XCRS, &s->xcrs, "", NULL);
    s->msrs = read_msrs(c);
    return VCPU_IOCTL(c, KVM_GET_SREGS, &s->sregs, error) &&
           VCPU_IOCTL(c, KVM_GET_REGS, &s->regs, error) &&
           VCPU_IOCTL(c, KVM_GET_FPU, &s->fpu, error) &&
           VCPU_IOCTL(c, KVM_GET_DEBUGREGS, &s->debugregs, error) &&
           VCPU_IOCTL(c, KVM_GET_VCPU_EVENTS, &s->events, error) &&
           VCPU_IOCTL(c, KVM_GET_MP_STATE, &s->mp_state, error) &&
           VCPU_IOCTL(c, KVM_GET_LAPIC, &s->lapic, error);
}

bool arch_vcpu_init(Vcpu *c, unsigned n_cpus, GError **error)
{
    VcpuReset *s = c->reset_state = g_new0(VcpuReset, 1);

    c->kvm->arch->n_vcpus++;
    s->cpuid = x86_cpuid_make(c->kvm, c->index, n_cpus);
    if (!VCPU_IOCTL(c, KVM_SET_CPUID2, s->cpuid, error))
        return false;
    set_boot_msrs(c);
    return wire_lapic(c, error) && keep_state(c, error);
}

/* The order matters: SREGS carries the APIC base, which LAPIC needs; the MSRs that follow
 * turn off what the old kernel had KVM write into its memory (kvmclock, steal time). */
bool arch_vcpu_reset(Vcpu *c, GError **error)
{
    VcpuReset *s = c->reset_state;

    write_msrs(c, s->msrs);
    if (s->has_xcrs && !VCPU_IOCTL(c, KVM_SET_XCRS, &s->xcrs, error))
        return false;
    return VCPU_IOCTL(c, KVM_SET_SREGS, &s->sregs, error) &&
           VCPU_IOCTL(c, KVM_SET_REGS, &s->regs, error) &&
           VCPU_IOCTL(c, KVM_SET_FPU, &s->fpu, error) &&
           VCPU_IOCTL(c, KVM_SET_DEBUGREGS, &s->debugregs, error) &&
           VCPU_IOCTL(c, KVM_SET_LAPIC, &s->lapic, error) &&
           VCPU_IOCTL(c, KVM_SET_VCPU_EVENTS, &s->events, error) &&
           VCPU_IOCTL(c, KVM_SET_MP_STATE, &s->mp_state, error);
}

void arch_vcpu_finish(Vcpu *c)
{
    if (c->reset_state) {
        g_free(c->reset_state->cpuid);
        g_free(c->reset_state->msrs);
    }
    g_clear_pointer(&c->reset_state, g_free);
}
