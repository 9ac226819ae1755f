/* A vCPU's registers, taken from KVM and given back to it.
 *
 * Both have an order (KVM api.rst; what is not said there follows from arch/x86/kvm):
 *
 * Taking.  KVM_GET_MP_STATE first: it may carry out an INIT or SIPI that waits, and so
 * change all that comes after it.  MSRs before the local APIC: if the APIC's timer runs
 * out between the two, its deadline is still there, and it is in the APIC as well; the
 * other way round it would be in neither, and a guest would wait for ever for its tick.
 *
 * Giving back.  CPUID and the TSC's frequency say what the rest may be.  System registers
 * carry the APIC's base and mode, which the APIC's registers need; those carry the
 * timer's mode, which the deadline among the MSRs needs, and the TSC stands before it
 * there. General registers make KVM forget exceptions on their way, so events come after
 * them. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "state_x86.h"

enum {
    MSR_MC0_CTL = 0x400,
    MCE_MSRS = 32 * 4, /* KVM's number of banks: CTL, STATUS, ADDR, MISC of each */
};

static void section_of(const Vcpu *c, char name[16])
{
    g_snprintf(name, 16, "vcpu%u", c->index);
}

static bool has(const Vcpu *c, int cap)
{
    return kvm_check_extension(c->kvm, cap) != 0;
}

static bool get(Vcpu *c, unsigned long request, void *arg, const char *what,
                GError **error)
{
    g_autofree char *text = g_strdup_printf("save its %s", what);

    return x86_vcpu_ioctl(c, request, arg, text, error);
}

static bool put(Vcpu *c, unsigned long request, void *arg, const char *what,
                GError **error)
{
    g_autofree char *text = g_strdup_printf("restore its %s", what);

    return x86_vcpu_ioctl(c, request, arg, text, error);
}

/* ---- nested virtualisation
 * --------------------------------------------------------------
 */

/* A guest that may have guests of its own, and has none, is as any other. */
bool x86_nested_in_use(const struct kvm_nested_state *n)
{
    if (n->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING))
        return true;
    return n->format == KVM_STATE_NESTED_FORMAT_VMX
               ? n->hdr.vmx.vmxon_pa != UINT64_MAX
               : !(n->flags & KVM_STATE_NESTED_GIF_SET);
}

static bool refuse_nested(Vcpu *c, GError **error)
{
    int size = kvm_check_extension(c->kvm, KVM_CAP_NESTED_STATE);
    g_autofree struct kvm_nested_state *n = NULL;

    if (size < (int)sizeof(*n))
        return true;
    n = g_malloc0((size_t)size);
    n->size = (uint32_t)size;
    n->hdr.vmx.vmxon_pa = UINT64_MAX;
    if (ioctl(c->fd, KVM_GET_NESTED_STATE, n) < 0)
        return true; /* KVM has it, this guest has not */
    return !x86_nested_in_use(n) ||
           fail(error, VM_ERROR_UNSUPPORTED,
                "vCPU %u: the guest is running a hypervisor of its own (nested "
                "virtualisation), whose state cannot be saved; shut down its "
                "guests and unload it (in Linux: modprobe -r kvm_intel, or "
                "kvm_amd) first",
                c->index);
}

/* ---- MSRs
 * --------------------------------------------------------------------------------
 */

/* Those that could be read at power-on can be read now: no search for what KVM has.  The
 * machine check banks, which KVM keeps and does not list, come last: there it stops at
 * the first that it has not.  Those that are zero, as all are at power-on, are left out.
 */
static bool save_msrs(Vcpu *c, VcpuState *s, GError **error)
{
    const struct kvm_msrs *known = c->reset_state->msrs;
    const unsigned n_needed = 1 + known->nmsrs;
    g_autofree struct kvm_msrs *ask = x86_msrs_new(n_needed + MCE_MSRS);
    int n;

    ask->entries[ask->nmsrs++].index = X86_MSR_TSC;
    for (unsigned i = 0; i < known->nmsrs; i++)
        ask->entries[ask->nmsrs++].index = known->entries[i].index;
    for (unsigned i = 0; i < MCE_MSRS; i++)
        ask->entries[ask->nmsrs++].index = MSR_MC0_CTL + i;
    n = ioctl(c->fd, KVM_GET_MSRS, ask);
    if (n < 0)
        return fail_errno(error, "vCPU %u: save its MSRs", c->index);
    if ((unsigned)n < n_needed)
        return fail(error, VM_ERROR_IO,
                    "vCPU %u: save its MSRs: KVM does not tell MSR 0x%x any more",
                    c->index, ask->entries[n].index);
    for (unsigned i = 0; i < (unsigned)n; i++)
        if (i < n_needed || ask->entries[i].data)
            s->msrs[s->n_msrs++] = ask->entries[i];
    return true;
}

/* Of those that KVM lets one read and not write it is enough that they are the same. */
static bool is_the_same(Vcpu *c, const struct kvm_msr_entry *e)
{
    g_autofree struct kvm_msrs *now = x86_msrs_new(1);

    now->nmsrs = 1;
    now->entries[0].index = e->index;
    return ioctl(c->fd, KVM_GET_MSRS, now) == 1 ? now->entries[0].data == e->data
                                                : e->data == 0;
}

static bool put_msrs(Vcpu *c, const struct kvm_msr_entry *all, unsigned n_all,
                     GError **error)
{
    g_autofree struct kvm_msrs *set = x86_msrs_new(n_all);

    for (unsigned next = 0; next < n_all; next++) {
        int n;

        set->nmsrs = n_all - next;
        memcpy(set->entries, &all[next], set->nmsrs * sizeof(all[0]));
        n = ioctl(c->fd, KVM_SET_MSRS, set);
        if (n < 0)
            return fail_errno(error, "vCPU %u: restore its MSRs", c->index);
        next += (unsigned)n;
        if (next < n_all && !is_the_same(c, &all[next]))
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "vCPU %u: restore MSR 0x%x: this host's KVM does not take the "
                        "value 0x%" G_GINT64_MODIFIER "x; restore it on a host with the "
                        "processor and the kernel that the snapshot was made on",
                        c->index, all[next].index, (guint64)all[next].data);
    }
    return true;
}

/* The time-stamp counter, the first of them, may be set already. */
static bool load_msrs(Vcpu *c, VcpuState *s, GError **error)
{
    unsigned first = x86_tsc_load(c, s) ? 1 : 0;

    return put_msrs(c, s->msrs + first, s->n_msrs - first, error);
}

/* ---- system registers
 * --------------------------------------------------------------------
 *
 * KVM before 5.14 has only the older struct, without the PAE pointers, which KVM then
 * reads from guest memory.  Its bitmap of the interrupt that was on its way is in the
 * events too.
 */

#define COPY_SREGS(to, from)                                                             \
    do {                                                                                 \
        (to)->cs = (from)->cs;                                                           \
        (to)->ds = (from)->ds;                                                           \
        (to)->es = (from)->es;                                                           \
        (to)->fs = (from)->fs;                                                           \
        (to)->gs = (from)->gs;                                                           \
        (to)->ss = (from)->ss;                                                           \
        (to)->tr = (from)->tr;                                                           \
        (to)->ldt = (from)->ldt;                                                         \
        (to)->gdt = (from)->gdt;                                                         \
        (to)->idt = (from)->idt;                                                         \
        (to)->cr0 = (from)->cr0;                                                         \
        (to)->cr2 = (from)->cr2;                                                         \
        (to)->cr3 = (from)->cr3;                                                         \
        (to)->cr4 = (from)->cr4;                                                         \
        (to)->cr8 = (from)->cr8;                                                         \
        (to)->efer = (from)->efer;                                                       \
        (to)->apic_base = (from)->apic_base;                                             \
    } while (0)

static bool save_sregs(Vcpu *c, struct kvm_sregs2 *ret, GError **error)
{
    struct kvm_sregs old;

    if (has(c, KVM_CAP_SREGS2))
        return get(c, KVM_GET_SREGS2, ret, "system registers (KVM_GET_SREGS2)", error);
    if (!get(c, KVM_GET_SREGS, &old, "system registers (KVM_GET_SREGS)", error))
        return false;
    COPY_SREGS(ret, &old);
    return true;
}

static bool load_sregs(Vcpu *c, struct kvm_sregs2 *s, GError **error)
{
    struct kvm_sregs old = {0};

    if (has(c, KVM_CAP_SREGS2))
        return put(c, KVM_SET_SREGS2, s, "system registers (KVM_SET_SREGS2)", error);
    COPY_SREGS(&old, s);
    return put(c, KVM_SET_SREGS, &old, "system registers (KVM_SET_SREGS)", error);
}

/* ---- x87, SSE, AVX...
 * --------------------------------------------------------------------
 */

/* Of this VM's vCPUs: more than the struct's size where the guest may use AMX. */
static uint32_t xsave_size(const Vcpu *c)
{
    int size = ioctl(c->kvm->vm_fd, KVM_CHECK_EXTENSION, (long)KVM_CAP_XSAVE2);

    return (uint32_t)CLAMP(size, X86_XSAVE_MIN, X86_XSAVE_MAX);
}

static bool save_xsave(Vcpu *c, StateBlob *ret, GError **error)
{
    ret->size = xsave_size(c);
    ret->data = g_malloc0(ret->size);
    return has(c, KVM_CAP_XSAVE2)
               ? get(c, KVM_GET_XSAVE2, ret->data, "FPU (KVM_GET_XSAVE2)", error)
               : get(c, KVM_GET_XSAVE, ret->data, "FPU (KVM_GET_XSAVE)", error);
}

static bool load_xsave(Vcpu *c, const StateBlob *saved, GError **error)
{
    uint32_t size = xsave_size(c);
    g_autofree uint8_t *area = g_malloc0(MAX(size, saved->size));

    memcpy(area, saved->data, saved->size);
    for (uint32_t i = size; i < saved->size; i++)
        if (area[i])
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "vCPU %u: restore its FPU: it has %u bytes of state, this host's "
                        "KVM keeps %u; restore it on a host with the processor that the "
                        "snapshot was made on",
                        c->index, saved->size, size);
    return put(c, KVM_SET_XSAVE, area, "FPU (KVM_SET_XSAVE)", error);
}

static bool save_xcrs(Vcpu *c, VcpuState *s, GError **error)
{
    struct kvm_xcrs xcrs = {0};

    if (!c->reset_state->has_xcrs)
        return true;
    if (!get(c, KVM_GET_XCRS, &xcrs, "extended control registers (KVM_GET_XCRS)", error))
        return false;
    s->n_xcrs = MIN(xcrs.nr_xcrs, KVM_MAX_XCRS);
    memcpy(s->xcrs, xcrs.xcrs, s->n_xcrs * sizeof(s->xcrs[0]));
    return true;
}

static bool load_xcrs(Vcpu *c, const VcpuState *s, GError **error)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = s->n_xcrs};

    if (!s->n_xcrs)
        return true;
    memcpy(xcrs.xcrs, s->xcrs, s->n_xcrs * sizeof(s->xcrs[0]));
    return put(c, KVM_SET_XCRS, &xcrs, "extended control registers (KVM_SET_XCRS)",
               error);
}

/* ---- CPUID and the TSC's frequency
 * -------------------------------------------------------
 */

static bool load_cpuid(Vcpu *c, const VcpuState *s, GError **error)
{
    g_autofree struct kvm_cpuid2 *t = x86_cpuid_new();
    struct kvm_cpuid2 **now = &c->reset_state->cpuid;
    g_autofree char *problem = NULL;

    t->nent = s->n_cpuid;
    memcpy(t->entries, s->cpuid, s->n_cpuid * sizeof(s->cpuid[0]));
    if (t->nent == (*now)->nent &&
        memcmp(t->entries, (*now)->entries, t->nent * sizeof(t->entries[0])) == 0)
        return true; /* a tenth of a millisecond less */
    problem = x86_cpuid_problem(t, c->kvm->arch->cpuid);
    if (problem)
        return fail(error, VM_ERROR_UNSUPPORTED, "vCPU %u: %s", c->index, problem);
    if (!put(c, KVM_SET_CPUID2, t, "CPUID (KVM_SET_CPUID2)", error))
        return false;
    g_free(*now);
    *now = g_steal_pointer(&t);
    return true;
}

/* ---- all of it
 * ---------------------------------------------------------------------------
 */

static bool take(Vcpu *c, VcpuState *s, GError **error)
{
    const struct kvm_cpuid2 *cpuid = c->reset_state->cpuid;
    struct kvm_mp_state mp = {0};

    if (!refuse_nested(c, error) ||
        !get(c, KVM_GET_MP_STATE, &mp, "run state (KVM_GET_MP_STATE)", error) ||
        !get(c, KVM_GET_VCPU_EVENTS, &s->events, "events (KVM_GET_VCPU_EVENTS)", error) ||
        !get(c, KVM_GET_REGS, &s->regs, "general registers (KVM_GET_REGS)", error) ||
        !save_sregs(c, &s->sregs, error) ||
        !get(c, KVM_GET_DEBUGREGS, &s->debugregs, "debug registers (KVM_GET_DEBUGREGS)",
             error) ||
        !save_xsave(c, &s->xsave, error) || !save_xcrs(c, s, error) ||
        !save_msrs(c, s, error) ||
        !get(c, KVM_GET_LAPIC, s->lapic, "local APIC (KVM_GET_LAPIC)", error))
        return false;
    s->mp_state = mp.mp_state;
    x86_tsc_save(c, s);
    s->n_cpuid = cpuid->nent;
    memcpy(s->cpuid, cpuid->entries, cpuid->nent * sizeof(cpuid->entries[0]));
    return true;
}

bool arch_vcpu_save(Vcpu *c, StateWriter *w, GError **error)
{
    g_autofree VcpuState *s = g_new0(VcpuState, 1);
    char section[16];
    bool ok = take(c, s, error);

    section_of(c, section);
    if (ok)
        state_put(w, section, &x86_vcpu_table, s);
    state_clear(&x86_vcpu_table, s);
    return ok;
}

static bool give_back(Vcpu *c, VcpuState *s, GError **error)
{
    struct kvm_mp_state mp = {.mp_state = s->mp_state};

    return load_cpuid(c, s, error) && x86_tsc_load_khz(c, s->tsc_khz, error) &&
           load_sregs(c, &s->sregs, error) &&
           put(c, KVM_SET_REGS, &s->regs, "general registers (KVM_SET_REGS)", error) &&
           load_xcrs(c, s, error) && load_xsave(c, &s->xsave, error) &&
           put(c, KVM_SET_DEBUGREGS, &s->debugregs, "debug registers (KVM_SET_DEBUGREGS)",
               error) &&
           put(c, KVM_SET_LAPIC, s->lapic, "local APIC (KVM_SET_LAPIC)", error) &&
           load_msrs(c, s, error) &&
           put(c, KVM_SET_VCPU_EVENTS, &s->events, "events (KVM_SET_VCPU_EVENTS)",
               error) &&
           put(c, KVM_SET_MP_STATE, &mp, "run state (KVM_SET_MP_STATE)", error);
}

bool arch_vcpu_load(Vcpu *c, StateReader *r, GError **error)
{
    g_autofree VcpuState *s = g_new(VcpuState, 1);
    ArchVm *vm = c->kvm->arch;
    char section[16];
    bool ok;

    section_of(c, section);
    if (!state_get(r, section, &x86_vcpu_table, s, error))
        return false;
    ok = give_back(c, s, error);
    state_clear(&x86_vcpu_table, s);
    if (!ok)
        return false;
    arch_vcpu_was_paused(c);
    return ++vm->n_loaded < vm->n_vcpus || x86_irqchip_put(c->kvm, error);
}

/* Fails for guests without kvmclock, which have nobody to tell. */
void arch_vcpu_was_paused(Vcpu *c)
{
    ioctl(c->fd, KVM_KVMCLOCK_CTRL, 0L);
}
