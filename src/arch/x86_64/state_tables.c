/* The tables of what is saved of a processor (docs/snapshot-format.md).  Values are KVM's
 * to judge when it gets them back: it takes hostile ones from any process. */
#include "kvm/state_tables.h"
#include "arch_x86.h"
#include "state_x86.h"

/* ---- registers ------------------------------------------------------------------------
 */

#define R(m, tag) STATE_FIELD(struct kvm_regs, m, tag, U64)
static const StateField regs_fields[] = {
    R(rax, 1),  R(rbx, 2),  R(rcx, 3),  R(rdx, 4),     R(rsi, 5),  R(rdi, 6),  R(rsp, 7),
    R(rbp, 8),  R(r8, 9),   R(r9, 10),  R(r10, 11),    R(r11, 12), R(r12, 13), R(r13, 14),
    R(r14, 15), R(r15, 16), R(rip, 17), R(rflags, 18), {},
};
static const StateTable regs_table = {.name = "x86-regs",
                                      .version = 1,
                                      .size = sizeof(struct kvm_regs),
                                      .fields = regs_fields};

#define SEG(m, tag, type) STATE_FIELD(struct kvm_segment, m, tag, type)
static const StateField segment_fields[] = {
    SEG(base, 1, U64),
    SEG(limit, 2, U32),
    SEG(selector, 3, U16),
    SEG(type, 4, U8),
    SEG(present, 5, U8),
    SEG(dpl, 6, U8),
    SEG(db, 7, U8),
    SEG(s, 8, U8),
    SEG(l, 9, U8),
    SEG(g, 10, U8),
    SEG(avl, 11, U8),
    SEG(unusable, 12, U8),
    STATE_SKIP(struct kvm_segment, padding),
    {},
};
static const StateTable segment_table = {.name = "x86-segment",
                                         .version = 1,
                                         .size = sizeof(struct kvm_segment),
                                         .fields = segment_fields};

static const StateField dtable_fields[] = {
    STATE_FIELD(struct kvm_dtable, base, 1, U64),
    STATE_FIELD(struct kvm_dtable, limit, 2, U16),
    STATE_SKIP(struct kvm_dtable, padding),
    {},
};
static const StateTable dtable_table = {.name = "x86-descriptor-table",
                                        .version = 1,
                                        .size = sizeof(struct kvm_dtable),
                                        .fields = dtable_fields};

#define S(m, tag)     STATE_FIELD(struct kvm_sregs2, m, tag, U64)
#define SREG(m, tag)  STATE_NESTED(struct kvm_sregs2, m, tag, &segment_table)
#define TABLE(m, tag) STATE_NESTED(struct kvm_sregs2, m, tag, &dtable_table)
static const StateField sregs_fields[] = {
    SREG(cs, 1),
    SREG(ds, 2),
    SREG(es, 3),
    SREG(fs, 4),
    SREG(gs, 5),
    SREG(ss, 6),
    SREG(tr, 7),
    SREG(ldt, 8),
    TABLE(gdt, 9),
    TABLE(idt, 10),
    S(cr0, 11),
    S(cr2, 12),
    S(cr3, 13),
    S(cr4, 14),
    S(cr8, 15),
    S(efer, 16),
    S(apic_base, 17),
    STATE_FIELD(struct kvm_sregs2, flags, 18, U64, .max = KVM_SREGS2_FLAGS_PDPTRS_VALID,
                .help = "1: pdptrs are valid"),
    STATE_INTS(struct kvm_sregs2, pdptrs, 19, U64),
    {},
};
static const StateTable sregs_table = {.name = "x86-system-regs",
                                       .version = 1,
                                       .size = sizeof(struct kvm_sregs2),
                                       .fields = sregs_fields};

static const StateField debugregs_fields[] = {
    STATE_INTS(struct kvm_debugregs, db, 1, U64, .help = "DR0 to DR3"),
    STATE_FIELD(struct kvm_debugregs, dr6, 2, U64),
    STATE_FIELD(struct kvm_debugregs, dr7, 3, U64),
    STATE_FIELD(struct kvm_debugregs, flags, 4, U64, .help = "KVM's"),
    STATE_SKIP(struct kvm_debugregs, reserved),
    {},
};
static const StateTable debugregs_table = {.name = "x86-debug-regs",
                                           .version = 1,
                                           .size = sizeof(struct kvm_debugregs),
                                           .fields = debugregs_fields};

#define E(m, tag, type) STATE_FIELD(struct kvm_vcpu_events, m, tag, type)
static const StateField events_fields[] = {
    E(exception.injected, 1, U8),
    E(exception.nr, 2, U8),
    E(exception.has_error_code, 3, U8),
    E(exception.pending, 4, U8),
    E(exception.error_code, 5, U32),
    E(interrupt.injected, 6, U8),
    E(interrupt.nr, 7, U8),
    E(interrupt.soft, 8, U8),
    E(interrupt.shadow, 9, U8),
    E(nmi.injected, 10, U8),
    E(nmi.pending, 11, U8),
    E(nmi.masked, 12, U8),
    STATE_SKIP(struct kvm_vcpu_events, nmi.pad),
    E(sipi_vector, 13, U32),
    STATE_FIELD(struct kvm_vcpu_events, flags, 14, U32,
                .help = "which parts are valid (KVM_VCPUEVENT_VALID_*)"),
    E(smi.smm, 15, U8),
    E(smi.pending, 16, U8),
    E(smi.smm_inside_nmi, 17, U8),
    E(smi.latched_init, 18, U8),
    E(triple_fault.pending, 19, U8),
    STATE_SKIP(struct kvm_vcpu_events, reserved),
    E(exception_has_payload, 20, U8),
    E(exception_payload, 21, U64),
    {},
};
static const StateTable events_table = {.name = "x86-events",
                                        .version = 1,
                                        .size = sizeof(struct kvm_vcpu_events),
                                        .fields = events_fields};

static const StateField xcr_fields[] = {
    STATE_FIELD(struct kvm_xcr, xcr, 1, U32),
    STATE_SKIP(struct kvm_xcr, reserved),
    STATE_FIELD(struct kvm_xcr, value, 2, U64),
    {},
};
static const StateTable xcr_table = {.name = "x86-xcr",
                                     .version = 1,
                                     .size = sizeof(struct kvm_xcr),
                                     .fields = xcr_fields};

static const StateField msr_fields[] = {
    STATE_FIELD(struct kvm_msr_entry, index, 1, U32),
    STATE_SKIP(struct kvm_msr_entry, reserved),
    STATE_FIELD(struct kvm_msr_entry, data, 2, U64),
    {},
};
static const StateTable msr_table = {.name = "x86-msr",
                                     .version = 1,
                                     .size = sizeof(struct kvm_msr_entry),
                                     .fields = msr_fields};

#define C(m, tag) STATE_FIELD(struct kvm_cpuid_entry2, m, tag, U32)
static const StateField cpuid_fields[] = {
    C(function, 1),
    C(index, 2),
    STATE_FIELD(struct kvm_cpuid_entry2, flags, 3, U32, .max = 7,
                .help = "1: index is significant"),
    C(eax, 4),
    C(ebx, 5),
    C(ecx, 6),
    C(edx, 7),
    STATE_SKIP(struct kvm_cpuid_entry2, padding),
    {},
};
static const StateTable cpuid_table = {.name = "x86-cpuid",
                                       .version = 1,
                                       .size = sizeof(struct kvm_cpuid_entry2),
                                       .fields = cpuid_fields};

/* ---- a vCPU ---------------------------------------------------------------------------
 */

static const StateField vcpu_fields[] = {
    STATE_NESTED(VcpuState, regs, 1, &regs_table, .help = "general registers"),
    STATE_NESTED(VcpuState, sregs, 2, &sregs_table,
                 .help = "segments, control registers"),
    STATE_NESTED(VcpuState, debugregs, 3, &debugregs_table),
    STATE_NESTED(VcpuState, events, 4, &events_table,
                 .help = "exceptions, interrupts and NMIs on their way"),
    STATE_FIELD(VcpuState, mp_state, 5, U32, .max = KVM_MP_STATE_AP_RESET_HOLD,
                .help = "0 running, 1 not started, 2 INIT received, 3 halted"),
    STATE_FIELD(VcpuState, tsc_khz, 6, U32,
                .help = "of its time-stamp counter; 0 unknown"),
    STATE_RAW(VcpuState, lapic, 7, .help = "registers of the local APIC"),
    STATE_DATA(VcpuState, xsave, 8, X86_XSAVE_MAX, .min = X86_XSAVE_MIN,
               .help = "x87, SSE, AVX... in XSAVE's standard format"),
    STATE_LIST(VcpuState, xcrs, n_xcrs, 9, &xcr_table),
    STATE_LIST(VcpuState, msrs, n_msrs, 10, &msr_table),
    STATE_LIST(VcpuState, cpuid, n_cpuid, 11, &cpuid_table,
               .help = "as the guest sees it"),
    STATE_FIELD(VcpuState, has_tsc_offset, 12, BOOL),
    STATE_FIELD(VcpuState, tsc_offset, 13, U64,
                .help = "of its time-stamp counter from the host's"),
    STATE_SKIP(VcpuState, reserved),
    {},
};
const StateTable x86_vcpu_table = {
    .name = "x86-vcpu", .version = 1, .size = sizeof(VcpuState), .fields = vcpu_fields};

/* ---- the VM ---------------------------------------------------------------------------
 */

#define P(m, tag) STATE_FIELD(struct kvm_pic_state, m, tag, U8)
static const StateField pic_fields[] = {
    P(last_irr, 1),
    P(irr, 2),
    P(imr, 3),
    P(isr, 4),
    P(priority_add, 5),
    P(irq_base, 6),
    P(read_reg_select, 7),
    P(poll, 8),
    P(special_mask, 9),
    P(init_state, 10),
    P(auto_eoi, 11),
    P(rotate_on_auto_eoi, 12),
    P(special_fully_nested_mode, 13),
    P(init4, 14),
    P(elcr, 15),
    P(elcr_mask, 16),
    {},
};
static const StateTable pic_table = {.name = "x86-pic",
                                     .version = 1,
                                     .size = sizeof(struct kvm_pic_state),
                                     .fields = pic_fields};

static const StateField ioapic_fields[] = {
    STATE_FIELD(IoapicState, base_address, 1, U64),
    STATE_INTS(IoapicState, redirection, 2, U64, .help = "of each pin"),
    STATE_FIELD(IoapicState, selected, 3, U32),
    STATE_FIELD(IoapicState, id, 4, U32),
    STATE_FIELD(IoapicState, irr, 5, U32, .help = "pins that are high and wait"),
    STATE_SKIP(IoapicState, reserved),
    {},
};
static const StateTable ioapic_table = {.name = "x86-ioapic",
                                        .version = 1,
                                        .size = sizeof(IoapicState),
                                        .fields = ioapic_fields};

#define T(m, tag, type) STATE_FIELD(struct kvm_pit_channel_state, m, tag, type)
static const StateField channel_fields[] = {
    T(count, 1, U32),
    T(latched_count, 2, U16),
    T(count_latched, 3, U8),
    T(status_latched, 4, U8),
    T(status, 5, U8),
    T(read_state, 6, U8),
    T(write_state, 7, U8),
    T(write_latch, 8, U8),
    T(rw_mode, 9, U8),
    T(mode, 10, U8),
    T(bcd, 11, U8),
    T(gate, 12, U8),
    STATE_FIELD(struct kvm_pit_channel_state, count_load_time, 13, U64,
                .help = "by the old host's clock; KVM begins the period anew"),
    {},
};
static const StateTable channel_table = {.name = "x86-pit-channel",
                                         .version = 1,
                                         .size = sizeof(struct kvm_pit_channel_state),
                                         .fields = channel_fields};

static const StateField pit_fields[] = {
    STATE_ARRAY(struct kvm_pit_state2, channels, 1, &channel_table),
    STATE_FIELD(struct kvm_pit_state2, flags, 2, U32),
    STATE_SKIP(struct kvm_pit_state2, reserved),
    STATE_HOLE_AT_END(struct kvm_pit_state2, reserved),
    {},
};
static const StateTable pit_table = {.name = "x86-pit",
                                     .version = 1,
                                     .size = sizeof(struct kvm_pit_state2),
                                     .fields = pit_fields};

static const StateField irqchip_fields[] = {
    STATE_ARRAY(IrqchipState, pic, 1, &pic_table, .help = "8259: master, slave"),
    STATE_NESTED(IrqchipState, ioapic, 2, &ioapic_table),
    STATE_NESTED(IrqchipState, pit, 3, &pit_table, .help = "8254 timer"),
    {},
};
const StateTable x86_irqchip_table = {.name = "x86-irqchip",
                                      .version = 1,
                                      .size = sizeof(IrqchipState),
                                      .fields = irqchip_fields};

static const StateField clock_fields[] = {
    STATE_FIELD(ClockState, clock, 1, U64, .max = INT64_MAX,
                .help = "nanoseconds, as kvmclock showed them"),
    STATE_FIELD(ClockState, realtime, 2, U64, .max = INT64_MAX,
                .help = "the host's then, nanoseconds since 1970; 0 unknown"),
    {},
};
const StateTable x86_clock_table = {.name = "x86-clock",
                                    .version = 1,
                                    .size = sizeof(ClockState),
                                    .fields = clock_fields};

const StateTable *const kvm_state_tables[] = {&x86_vcpu_table, &x86_irqchip_table,
                                              &x86_clock_table, NULL};
