/* The VM's interrupt controllers, timer and paravirtual clock, taken from KVM and given
 * back to it. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "state_x86.h"
#include "util/bits.h"

/* What hutch itself can do without, and a saved state cannot. */
static const struct {
    int cap;
    const char *name;
} needed[] = {
    {KVM_CAP_XSAVE, "KVM_GET_XSAVE"},
    {KVM_CAP_PIT_STATE2, "KVM_GET_PIT2"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_GET_CLOCK"},
    {KVM_CAP_DEBUGREGS, "KVM_GET_DEBUGREGS"},
};

char *arch_vm_pinned(Kvm *kvm)
{
    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++)
        if (!kvm_check_extension(kvm, needed[i].cap))
            return g_strdup_printf("/dev/kvm: this kernel's KVM has no %s, without which "
                                   "no VM can be saved; a newer kernel is needed",
                                   needed[i].name);
    return NULL;
}

/* ---- saving
 * ------------------------------------------------------------------------------
 */

static void describe_ioapic(const struct kvm_ioapic_state *k, IoapicState *ret)
{
    *ret = (IoapicState){
        .base_address = k->base_address,
        .selected = k->ioregsel,
        .id = k->id,
        .irr = k->irr,
    };
    for (unsigned i = 0; i < X86_IOAPIC_PINS; i++)
        ret->redirection[i] = k->redirtbl[i].bits;
}

static bool save_irqchip(Kvm *kvm, IrqchipState *s, GError **error)
{
    struct kvm_irqchip chip;

    for (unsigned i = 0; i < G_N_ELEMENTS(s->pic); i++) {
        chip = (struct kvm_irqchip){.chip_id = i};
        if (!VM_IOCTL(kvm, KVM_GET_IRQCHIP, &chip, error))
            return false;
        s->pic[i] = chip.chip.pic;
    }
    chip = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_IOAPIC};
    if (!VM_IOCTL(kvm, KVM_GET_IRQCHIP, &chip, error))
        return false;
    describe_ioapic(&chip.chip.ioapic, &s->ioapic);
    return VM_IOCTL(kvm, KVM_GET_PIT2, &s->pit, error);
}

static bool save_clock(Kvm *kvm, ClockState *s, GError **error)
{
    struct kvm_clock_data now = {0};

    if (!VM_IOCTL(kvm, KVM_GET_CLOCK, &now, error))
        return false;
    s->clock = now.clock;
    s->realtime = now.flags & KVM_CLOCK_REALTIME ? now.realtime : 0;
    return true;
}

bool arch_vm_save(Kvm *kvm, StateWriter *w, GError **error)
{
    IrqchipState chips = {0};
    ClockState clock = {0};

    if (!save_irqchip(kvm, &chips, error) || !save_clock(kvm, &clock, error))
        return false;
    state_put(w, "irqchip", &x86_irqchip_table, &chips);
    state_put(w, "clock", &x86_clock_table, &clock);
    return true;
}

/* ---- loading
 * -----------------------------------------------------------------------------
 */

static bool load_clock(Kvm *kvm, const ClockState *s, GError **error)
{
    struct kvm_clock_data set = {.clock = s->clock + (uint64_t)kvm->arch->elapsed_ns};

    return VM_IOCTL(kvm, KVM_SET_CLOCK, &set, error);
}

bool arch_vm_load(Kvm *kvm, StateReader *r, ClockMode mode, int64_t elapsed_ns,
                  GError **error)
{
    ArchVm *vm = kvm->arch;
    ClockState clock;

    g_free(vm->irqchip);
    vm->irqchip = g_new(IrqchipState, 1);
    vm->n_loaded = 0;
    vm->tsc_shifted = false;
    vm->elapsed_ns = mode == CLOCK_CATCH_UP ? MAX(elapsed_ns, 0) : 0;
    return state_get(r, "irqchip", &x86_irqchip_table, vm->irqchip, error) &&
           state_get(r, "clock", &x86_clock_table, &clock, error) &&
           load_clock(kvm, &clock, error);
}

static void put_ioapic(const IoapicState *s, struct kvm_ioapic_state *ret)
{
    *ret = (struct kvm_ioapic_state){
        .base_address = s->base_address,
        .ioregsel = s->selected,
        .id = s->id,
        .irr = s->irr,
    };
    for (unsigned i = 0; i < X86_IOAPIC_PINS; i++)
        ret->redirtbl[i].bits = s->redirection[i];
}

/* What a pin holds, KVM delivers at once, so the local APICs must be there. */
bool x86_irqchip_put(Kvm *kvm, GError **error)
{
    g_autofree IrqchipState *s = g_steal_pointer(&kvm->arch->irqchip);
    struct kvm_irqchip chip;

    if (!s)
        return fail(error, VM_ERROR_INVALID,
                    "the interrupt controllers' state was not loaded before the vCPUs'");
    for (unsigned i = 0; i < G_N_ELEMENTS(s->pic); i++) {
        chip = (struct kvm_irqchip){.chip_id = i, .chip.pic = s->pic[i]};
        if (!VM_IOCTL(kvm, KVM_SET_IRQCHIP, &chip, error))
            return false;
    }
    chip = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_IOAPIC};
    put_ioapic(&s->ioapic, &chip.chip.ioapic);
    return VM_IOCTL(kvm, KVM_SET_IRQCHIP, &chip, error) &&
           VM_IOCTL(kvm, KVM_SET_PIT2, &s->pit, error);
}
