/* A guest of a few instructions in long mode, ring 0, on this host's own KVM, with memory
 * below 2 MiB and at 4 GiB. */
#pragma once

#include "kvm/arch.h"

enum {
    GUEST_CODE = 0x1000,
    GUEST_DATA = 0x2000,
    GUEST_ISR = 0x3000,
    GUEST_VECTOR = 0x30,
    GUEST_STACK = 0x9000,
    GUEST_LOW = 2 << 20, /* bytes at 0 */
};
#define GUEST_HIGH_AT   (4ull << 30)
#define GUEST_HIGH_SIZE (2ull << 20)

typedef struct SmallGuest {
    GuestMem gm;
    Kvm *kvm;
    Bus *pio, *mmio;
    Vcpu *vcpu;
    VcpuEvents events;
} SmallGuest;

/* False, and the test marked as skipped, where there is no KVM.  The vCPU is parked at
 * GUEST_CODE, with rsi GUEST_DATA and rdi the local APIC; GUEST_ISR is at vector
 * GUEST_VECTOR. */
bool guest_set_up(SmallGuest *g);
void guest_tear_down(SmallGuest *g);

void guest_put(SmallGuest *g, uint64_t gpa, const void *data, size_t size);
void guest_run(SmallGuest *g);
void guest_park(SmallGuest *g);
uint64_t guest_word(SmallGuest *g, uint64_t gpa); /* as it is at this moment */
struct kvm_regs guest_regs(SmallGuest *g);        /* parked */
