/* The time-stamp counter of saved vCPUs (KVM vcpu.rst, 4.1 KVM_VCPU_TSC_OFFSET).
 *
 * All vCPUs of a VM are moved by one and the same difference, which is worked out with
 * the first that is loaded; so they stay as far apart as they were, mostly not at all. To
 * set the counter as an MSR, vCPU by vCPU, leaves that to a guess of KVM's: a value
 * within a second of what the counter shows is taken for an attempt to synchronise, and
 * dropped. Before Linux 6.7 it is dropped for a VM just made as well, so that the clock
 * of a guest that was saved in its first second would go backwards. */
#include <sys/ioctl.h>

#include "state_x86.h"

static bool offset_attr(Vcpu *c, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)offset,
    };

    return ioctl(c->fd, request, &attr) == 0;
}

static uint32_t khz_of(Vcpu *c)
{
    int khz = ioctl(c->fd, KVM_GET_TSC_KHZ, 0L);

    return (uint32_t)MAX(khz, 0);
}

void x86_tsc_save(Vcpu *c, VcpuState *ret)
{
    ret->tsc_khz = khz_of(c);
    ret->has_tsc_offset = offset_attr(c, KVM_GET_DEVICE_ATTR, &ret->tsc_offset);
}

/* KVM itself takes a difference that is in the measurement of the frequency. */
bool x86_tsc_load_khz(Vcpu *c, uint32_t khz, GError **error)
{
    uint32_t now = khz_of(c);

    return !khz || !now || khz == now || ioctl(c->fd, KVM_SET_TSC_KHZ, (long)khz) == 0 ||
           fail(error, VM_ERROR_UNSUPPORTED,
                "vCPU %u: its time-stamp counter ran at %u kHz, this host's runs at %u "
                "kHz "
                "and cannot be scaled; restore it on a host of that frequency, or with "
                "TSC "
                "scaling",
                c->index, khz, now);
}

/* What the guest would read now with an offset of none. */
static bool host_counter(Vcpu *c, uint64_t *ret)
{
    g_autofree struct kvm_msrs *m = x86_msrs_new(1);
    uint64_t offset;

    m->nmsrs = 1;
    m->entries[0].index = X86_MSR_TSC;
    if (!offset_attr(c, KVM_GET_DEVICE_ATTR, &offset) ||
        ioctl(c->fd, KVM_GET_MSRS, m) != 1)
        return false;
    *ret = m->entries[0].data - offset;
    return true;
}

bool x86_tsc_load(Vcpu *c, VcpuState *s)
{
    ArchVm *vm = c->kvm->arch;
    uint64_t host, offset;

    if (!s->n_msrs || s->msrs[0].index != X86_MSR_TSC)
        return false;
    s->msrs[0].data += (uint64_t)((unsigned __int128)vm->elapsed_ns * s->tsc_khz /
                                  1000000);
    if (!s->has_tsc_offset)
        return false;
    if (!vm->tsc_shifted) {
        if (!host_counter(c, &host))
            return false;
        vm->tsc_shift = s->msrs[0].data - host - s->tsc_offset;
        vm->tsc_shifted = true;
    }
    offset = s->tsc_offset + vm->tsc_shift;
    return offset_attr(c, KVM_SET_DEVICE_ATTR, &offset);
}
