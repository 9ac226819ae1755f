/* A processor's state on this host's own KVM: a guest that is saved in the middle of its
 * work goes on in another VM as if nothing had been, and what is not its own is refused.
 */
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm/state_tables.h"
#include "small_guest.h"
#include "src/arch/x86_64/state_x86.h"
#include "util/bits.h"

enum { TICKS = GUEST_DATA + 8 };

/* rbx counts, and the last count is in memory; the local APIC's timer ticks. */
extern const uint8_t counter_guest[], counter_guest_end[], tick[], tick_end[];
__asm__(".pushsection .rodata\n"
        "counter_guest:\n"
        "    movl $0x1ff, 0xf0(%rdi)\n"    /* enable */
        "    movl $0xb, 0x3e0(%rdi)\n"     /* divide by 1 */
        "    movl $0x20030, 0x320(%rdi)\n" /* periodic, GUEST_VECTOR */
        "    movl $1000000, 0x380(%rdi)\n" /* a millisecond */
        "    sti\n"
        "1:  inc %rbx\n"
        "    mov %rbx, (%rsi)\n"
        "    jmp 1b\n"
        "counter_guest_end:\n"
        "tick:\n"
        "    incq 8(%rsi)\n"
        "    movl $0, 0xb0(%rdi)\n"
        "    iretq\n"
        "tick_end:\n"
        ".popsection\n");

/* Sleeps in `hlt` until the local APIC's timer, whose deadline is set a millisecond ahead
 * each time, has it count one more. */
extern const uint8_t sleeper_guest[], sleeper_guest_end[];
__asm__(".pushsection .rodata\n"
        "sleeper_guest:\n"
        "    movl $0x1ff, 0xf0(%rdi)\n"
        "    movl $0x40030, 0x320(%rdi)\n" /* by deadline, GUEST_VECTOR */
        "1:  cli\n"
        "    rdtsc\n"
        "    shl $32, %rdx\n"
        "    lea 2000000(%rax, %rdx), %rax\n"
        "    mov %rax, %rdx\n"
        "    shr $32, %rdx\n"
        "    mov $0x6e0, %ecx\n"
        "    wrmsr\n"
        "    sti\n" /* takes effect after the next instruction: no tick comes too early */
        "    hlt\n"
        "    inc %rbx\n"
        "    mov %rbx, (%rsi)\n"
        "    jmp 1b\n"
        "sleeper_guest_end:\n"
        ".popsection\n");

/* ---- helpers --------------------------------------------------------------------------
 */

static GBytes *save(SmallGuest *g)
{
    StateWriter *w = state_writer_new();
    g_autoptr(GError) error = NULL;
    GBytes *bytes;

    g_assert_true(arch_vcpu_save(g->vcpu, w, &error));
    g_assert_no_error(error);
    g_assert_true(arch_vm_save(g->kvm, w, &error));
    bytes = state_writer_end(w, &error);
    g_assert_no_error(error);
    return bytes;
}

static bool load_with(SmallGuest *g, GBytes *bytes, ClockMode mode, int64_t elapsed_ns,
                      GError **error)
{
    g_autoptr(StateReader) r = state_reader_new(bytes, NULL);

    g_assert_nonnull(r);
    return arch_vm_load(g->kvm, r, mode, elapsed_ns, error) &&
           arch_vcpu_load(g->vcpu, r, error) && state_reader_done(r, error);
}

static void load(SmallGuest *g, GBytes *bytes)
{
    g_autoptr(GError) error = NULL;

    load_with(g, bytes, CLOCK_STOPPED, 0, &error);
    g_assert_no_error(error);
}

static json_t *describe(GBytes *bytes)
{
    g_autoptr(StateReader) r = state_reader_new(bytes, NULL);

    return state_describe(r, kvm_state_tables);
}

static json_t *fields_of(json_t *state, const char *section)
{
    json_t *fields = json_object_get(json_object_get(state, section), "fields");

    g_assert_nonnull(fields);
    return fields;
}

/* MSRs that count time: the time-stamp counter, and two of Hyper-V's. */
static bool is_clock(const json_t *msr)
{
    json_int_t index = json_integer_value(json_object_get(msr, "index"));

    return index == 0x10 || index == 0x40000010 || index == 0x40000020;
}

/* Those MSRs, the APIC's priority, which KVM works out when it is read, what is left of
 * the timer's period, and since when the 8254 counts: KVM lets it begin anew. */
static void forget_time(json_t *state)
{
    enum { PPR = 0xa0, TMCCT = 0x390 };
    json_t *vcpu = fields_of(state, "vcpu0");
    json_t *list = json_object_get(vcpu, "msrs");
    json_t *pit = json_object_get(fields_of(state, "irqchip"), "pit");
    json_t *channels = json_object_get(pit, "channels");
    g_autofree char *lapic = g_strdup(json_get_text(vcpu, "lapic"));

    memset(lapic + 2 * TMCCT, '0', 8);
    memset(lapic + 2 * PPR, '0', 8);
    json_object_set_new(vcpu, "lapic", json_string(lapic));
    for (size_t i = json_array_size(list); i-- > 0;)
        if (is_clock(json_array_get(list, i)))
            json_array_remove(list, i);
    for (size_t i = 0; i < json_array_size(channels); i++)
        json_object_del(json_array_get(channels, i), "count_load_time");
    json_object_del(vcpu, "tsc_offset");
    json_object_del(state, "clock");
}

/* Says what differs: members by name, elements of lists as they are. */
static void compare(const char *where, json_t *a, json_t *b)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_equal(a, b))
        return;
    if (json_is_object(a)) {
        json_object_foreach(a, key, value) compare(key, value, json_object_get(b, key));
    } else if (json_is_array(a)) {
        json_array_foreach(a, i, value) if (!json_equal(value, json_array_get(b, i)))
        {
            g_autofree char *left = json_dumps(value, JSON_ENCODE_ANY);
            g_autofree char *right = json_dumps(json_array_get(b, i), JSON_ENCODE_ANY);

            g_test_message("%s %zu: %s is now %s", where, i, left, right);
        }
    } else {
        g_autofree char *left = json_dumps(a, JSON_ENCODE_ANY);
        g_autofree char *right = json_dumps(b, JSON_ENCODE_ANY);

        g_test_message("%s: %s is now %s", where, left, right);
    }
}

static void assert_same(GBytes *a, GBytes *b)
{
    json_t *left = describe(a), *right = describe(b);

    forget_time(left);
    forget_time(right);
    compare("state", left, right);
    g_assert_true(json_equal(left, right));
    json_decref(left);
    json_decref(right);
}

static void copy_memory(SmallGuest *to, const SmallGuest *from)
{
    memcpy(to->gm.base, from->gm.base, from->gm.size);
}

static void put_counter(SmallGuest *g)
{
    guest_put(g, GUEST_CODE, counter_guest, (size_t)(counter_guest_end - counter_guest));
    guest_put(g, GUEST_ISR, tick, (size_t)(tick_end - tick));
}

static void put_sleeper(SmallGuest *g)
{
    guest_put(g, GUEST_CODE, sleeper_guest, (size_t)(sleeper_guest_end - sleeper_guest));
    guest_put(g, GUEST_ISR, tick, (size_t)(tick_end - tick));
}

static void run_until(SmallGuest *g, uint64_t gpa, uint64_t value)
{
    guest_run(g);
    while (guest_word(g, gpa) < value)
        g_usleep(100);
    guest_park(g);
}

/* ---- tests ----------------------------------------------------------------------------
 */

static void a_guest_goes_on_in_another_vm_where_it_was(void)
{
    enum { MOVES = 20 };
    SmallGuest g[2];
    uint64_t ticks = 0;

    if (!guest_set_up(&g[0]))
        return;
    put_counter(&g[0]);
    run_until(&g[0], TICKS, 2);
    for (unsigned i = 0; i < MOVES; i++) {
        SmallGuest *from = &g[i % 2], *to = &g[(i + 1) % 2];
        g_autoptr(GBytes) saved = save(from);
        g_autoptr(GBytes) again = NULL;
        uint64_t count = guest_word(from, GUEST_DATA);

        g_assert_cmpuint(guest_regs(from).rbx - count, <=, 1);
        g_assert_true(guest_set_up(to));
        copy_memory(to, from);
        guest_tear_down(from);
        load(to, saved);
        again = save(to);
        assert_same(saved, again);
        g_assert_cmpuint(guest_regs(to).rbx - count, <=, 1);
        ticks = guest_word(to, TICKS);
        run_until(to, TICKS, ticks + 2);
        run_until(to, GUEST_DATA, count + 1);
    }
    guest_tear_down(&g[MOVES % 2]);
}

/* A deadline that passed before the save, or between save and restore, is not lost. */
static void a_sleeping_guest_is_woken_in_another_vm(void)
{
    enum { MOVES = 20 };
    SmallGuest g[2];

    if (!guest_set_up(&g[0]))
        return;
    put_sleeper(&g[0]);
    run_until(&g[0], GUEST_DATA, 2);
    for (unsigned i = 0; i < MOVES; i++) {
        SmallGuest *from = &g[i % 2], *to = &g[(i + 1) % 2];
        g_autoptr(GBytes) saved = NULL;

        g_usleep(i % 4 * 500);
        saved = save(from);
        g_assert_true(guest_set_up(to));
        copy_memory(to, from);
        guest_tear_down(from);
        load(to, saved);
        run_until(to, GUEST_DATA, guest_word(to, GUEST_DATA) + 2);
    }
    guest_tear_down(&g[MOVES % 2]);
}

static struct kvm_msrs *one_msr(uint32_t index, uint64_t data)
{
    struct kvm_msrs *m = g_malloc0(sizeof(*m) + sizeof(m->entries[0]));

    m->nmsrs = 1;
    m->entries[0] = (struct kvm_msr_entry){.index = index, .data = data};
    return m;
}

static void put_msr(SmallGuest *g, uint32_t index, uint64_t data)
{
    g_autofree struct kvm_msrs *m = one_msr(index, data);

    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_SET_MSRS, m), ==, 1);
}

static uint64_t msr(SmallGuest *g, uint32_t index)
{
    g_autofree struct kvm_msrs *m = one_msr(index, 0);

    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_GET_MSRS, m), ==, 1);
    return m->entries[0].data;
}

static const struct {
    uint32_t index;
    uint64_t data;
} msrs[] = {
    {0xc0000081, 0x0023001000000000}, /* STAR */
    {0xc0000082, 0xffffffff81000000}, /* LSTAR */
    {0xc0000102, 0xffff888012345000}, /* KERNEL_GS_BASE */
    {0x174, 0x10},                    /* SYSENTER_CS */
    {0x277, 0x0407050600070106},      /* PAT */
    {0x200, 0x80000000},              /* a variable memory type, and its mask */
    {0x201, 0xff80000800},
    {0x26f, 0x0505050505050505}, /* a fixed one */
    {0x404, UINT64_MAX},         /* machine check bank 1 */
};

static void registers_of_every_kind_survive(void)
{
    enum { XMM0 = 160, XMM_BYTES = 256, XSTATE_BV = 512, YMM = 576, YMM_BYTES = 256 };
    struct kvm_debugregs dr = {.db = {0x1111, 0x2222, 0x3333, 0x4444}, .dr7 = 0x400};
    uint8_t fpu[sizeof(struct kvm_xsave)] = {0}, found[sizeof(fpu)];
    struct kvm_debugregs dr_found;
    g_autoptr(GBytes) saved = NULL;
    SmallGuest a, b;

    if (!guest_set_up(&a))
        return;
    g_assert_cmpint(ioctl(a.vcpu->fd, KVM_GET_XSAVE, fpu), ==, 0);
    for (unsigned i = 0; i < XMM_BYTES; i++)
        fpu[XMM0 + i] = (uint8_t)(i * 7 + 1);
    for (unsigned i = 0; i < YMM_BYTES; i++)
        fpu[YMM + i] = (uint8_t)(i * 11 + 3);
    store_le64(fpu + XSTATE_BV, 7);
    g_assert_cmpint(ioctl(a.vcpu->fd, KVM_SET_XSAVE, fpu), ==, 0);
    dr.dr6 = 0xffff0ff0;
    g_assert_cmpint(ioctl(a.vcpu->fd, KVM_SET_DEBUGREGS, &dr), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(msrs); i++)
        put_msr(&a, msrs[i].index, msrs[i].data);
    saved = save(&a);
    guest_tear_down(&a);

    g_assert_true(guest_set_up(&b));
    load(&b, saved);
    g_assert_cmpint(ioctl(b.vcpu->fd, KVM_GET_XSAVE, found), ==, 0);
    g_assert_cmpmem(found + XMM0, XMM_BYTES, fpu + XMM0, XMM_BYTES);
    g_assert_cmpmem(found + YMM, YMM_BYTES, fpu + YMM, YMM_BYTES);
    g_assert_cmpint(ioctl(b.vcpu->fd, KVM_GET_DEBUGREGS, &dr_found), ==, 0);
    g_assert_cmpmem(dr_found.db, sizeof(dr.db), dr.db, sizeof(dr.db));
    for (unsigned i = 0; i < G_N_ELEMENTS(msrs); i++)
        g_assert_cmphex(msr(&b, msrs[i].index), ==, msrs[i].data);
    /* and a reset makes them as at power-on again, the memory types too */
    g_assert_true(arch_vcpu_reset(b.vcpu, NULL));
    g_assert_cmphex(msr(&b, 0x26f), ==, 0);
    guest_tear_down(&b);
}

static void the_interrupt_controllers_survive(void)
{
    enum { PIN = 5, PIN_LOW = 0x10 + 2 * PIN };
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    g_autoptr(GBytes) saved = NULL, again = NULL;
    SmallGuest a, b;

    if (!guest_set_up(&a))
        return;
    g_assert_cmpint(kvm_ioctl(a.kvm, KVM_GET_IRQCHIP, &chip), ==, 0);
    chip.chip.ioapic.redirtbl[PIN].bits = 0x18031; /* masked, level-triggered */
    chip.chip.ioapic.redirtbl[PIN + 1].bits = 0x10032;
    g_assert_cmpint(kvm_ioctl(a.kvm, KVM_SET_IRQCHIP, &chip), ==, 0);
    kvm_irq_ops.set_gsi(a.kvm, PIN, true);
    saved = save(&a);
    guest_tear_down(&a);

    g_assert_true(guest_set_up(&b));
    load(&b, saved);
    again = save(&b);
    assert_same(saved, again);
    g_assert_cmpint(kvm_ioctl(b.kvm, KVM_GET_IRQCHIP, &chip), ==, 0);
    g_assert_cmphex(chip.chip.ioapic.redirtbl[PIN].bits, ==, 0x18031);
    g_assert_cmphex(chip.chip.ioapic.irr & BIT(PIN), ==, BIT(PIN));
    /* the device raises its line again, then gives it up: it is low for the guest too */
    kvm_irq_ops.set_gsi(b.kvm, PIN, true);
    kvm_irq_ops.set_gsi(b.kvm, PIN, false);
    g_assert_cmpint(kvm_ioctl(b.kvm, KVM_GET_IRQCHIP, &chip), ==, 0);
    g_assert_cmphex(chip.chip.ioapic.irr & BIT(PIN), ==, 0);
    guest_tear_down(&b);
}

/* Bit of the request register, and the guest's switch for its local APIC. */
enum {
    EDGE_VECTOR = 0x31,
    EDGE_IRR = 0x200 + 0x10 * (EDGE_VECTOR / 32),
    APIC_SPURIOUS = 0xf0
};

static bool has_request(SmallGuest *g)
{
    struct kvm_lapic_state lapic;

    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_GET_LAPIC, &lapic), ==, 0);
    return load_le32(lapic.regs + EDGE_IRR) & BIT(EDGE_VECTOR % 32);
}

static void set_lapic(SmallGuest *g, unsigned at, uint32_t value)
{
    struct kvm_lapic_state lapic;

    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_GET_LAPIC, &lapic), ==, 0);
    store_le32(lapic.regs + at, value);
    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_SET_LAPIC, &lapic), ==, 0);
}

/* A serial port's line stays high while its interrupt is being handled.  Devices raise
 * their lines before the controllers are loaded; afterwards it would be a new edge. */
static void an_edge_that_was_delivered_does_not_come_again(void)
{
    enum { PIN = 4 };
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    g_autoptr(GBytes) saved = NULL;
    SmallGuest a, b;

    if (!guest_set_up(&a))
        return;
    set_lapic(&a, APIC_SPURIOUS, 0x1ff);
    g_assert_cmpint(kvm_ioctl(a.kvm, KVM_GET_IRQCHIP, &chip), ==, 0);
    chip.chip.ioapic.redirtbl[PIN].bits = EDGE_VECTOR;
    g_assert_cmpint(kvm_ioctl(a.kvm, KVM_SET_IRQCHIP, &chip), ==, 0);
    kvm_irq_ops.set_gsi(a.kvm, PIN, true);
    g_assert_true(has_request(&a));
    set_lapic(&a, EDGE_IRR, 0); /* the guest has taken it */
    saved = save(&a);
    guest_tear_down(&a);

    g_assert_true(guest_set_up(&b));
    kvm_irq_ops.set_gsi(b.kvm, PIN, true);
    load(&b, saved);
    g_assert_false(has_request(&b));
    kvm_irq_ops.set_gsi(b.kvm, PIN, false);
    kvm_irq_ops.set_gsi(b.kvm, PIN, true); /* the next one */
    g_assert_true(has_request(&b));
    guest_tear_down(&b);
}

static uint64_t clock_of(SmallGuest *g)
{
    struct kvm_clock_data now = {0};

    g_assert_cmpint(kvm_ioctl(g->kvm, KVM_GET_CLOCK, &now), ==, 0);
    return now.clock;
}

static void the_clock_stands_still_or_catches_up(void)
{
    const uint64_t hour = 3600000000000ull;
    g_autoptr(GBytes) saved = NULL;
    uint64_t at_save, after;
    SmallGuest a, b;

    if (!guest_set_up(&a))
        return;
    saved = save(&a);
    at_save = clock_of(&a);
    guest_tear_down(&a);

    g_assert_true(guest_set_up(&b));
    g_usleep(20000);
    load(&b, saved);
    after = clock_of(&b);
    g_assert_cmpuint(after, <, at_save + hour / 2); /* whatever passed is the test's */
    g_assert_true(load_with(&b, saved, CLOCK_CATCH_UP, (int64_t)hour, NULL));
    g_assert_cmpuint(clock_of(&b), >=, at_save + hour - hour / 60);
    g_assert_true(load_with(&b, saved, CLOCK_CATCH_UP, -(int64_t)hour, NULL));
    g_assert_cmpuint(clock_of(&b), <, at_save + hour / 2);
    guest_tear_down(&b);
}

/* A host without hardware virtualisation shows its own counter, whatever is set. */
static bool tsc_can_be_set(SmallGuest *g)
{
    put_msr(g, X86_MSR_TSC, 1ull << 60);
    return msr(g, X86_MSR_TSC) >= 1ull << 60;
}

/* Saved in the first second of its life: KVM must not take the value for one of a VM that
 * was just made. */
static void the_time_stamp_counter_goes_on_or_catches_up(void)
{
    const uint64_t hour_ns = 3600000000000ull;
    g_autoptr(GBytes) saved = NULL;
    g_autoptr(StateReader) r = NULL;
    g_autofree VcpuState *s = g_new0(VcpuState, 1);
    uint64_t minute, hour;
    SmallGuest a, b;

    if (!guest_set_up(&a))
        return;
    g_usleep(200000);
    saved = save(&a);
    guest_tear_down(&a);
    r = state_reader_new(saved, NULL);
    g_assert_true(state_get(r, "vcpu0", &x86_vcpu_table, s, NULL));
    g_assert_cmphex(s->msrs[0].index, ==, X86_MSR_TSC);
    minute = 60000ull * s->tsc_khz;
    hour = 60 * minute;

    g_assert_true(guest_set_up(&b));
    load(&b, saved);
    g_assert_cmpuint(msr(&b, X86_MSR_TSC), >=, s->msrs[0].data);
    g_assert_cmpuint(msr(&b, X86_MSR_TSC), <, s->msrs[0].data + minute);
    g_assert_true(load_with(&b, saved, CLOCK_CATCH_UP, (int64_t)hour_ns, NULL));
    if (tsc_can_be_set(&b)) {
        g_assert_true(load_with(&b, saved, CLOCK_CATCH_UP, (int64_t)hour_ns, NULL));
        g_assert_cmpuint(msr(&b, X86_MSR_TSC), >=, s->msrs[0].data + hour);
        g_assert_cmpuint(msr(&b, X86_MSR_TSC), <, s->msrs[0].data + hour + minute);
    }
    state_clear(&x86_vcpu_table, s);
    guest_tear_down(&b);
}

/* Flags of the structure that kvmclock keeps in the guest's memory (KVM msr.rst,
 * MSR_KVM_SYSTEM_TIME_NEW). */
static void a_restored_guest_is_told_that_it_was_stopped(void)
{
    enum { CLOCK_AT = GUEST_DATA + 0x100, FLAGS_AT = CLOCK_AT + 29, STOPPED = 2 };
    const uint32_t system_time = 0x4b564d01;
    g_autoptr(GBytes) saved = NULL;
    uint8_t flags;
    SmallGuest a, b;

    if (!guest_set_up(&a))
        return;
    put_counter(&a);
    put_msr(&a, system_time, CLOCK_AT | 1);
    run_until(&a, TICKS, 1);
    g_assert_true(gm_read(&a.gm, FLAGS_AT, &flags, 1));
    g_assert_cmphex(flags & STOPPED, ==, 0);
    saved = save(&a);
    g_assert_true(guest_set_up(&b));
    copy_memory(&b, &a);
    guest_tear_down(&a);
    load(&b, saved);
    run_until(&b, TICKS, guest_word(&b, TICKS) + 1);
    g_assert_true(gm_read(&b.gm, FLAGS_AT, &flags, 1));
    g_assert_cmphex(flags & STOPPED, ==, STOPPED);
    guest_tear_down(&b);
}

/* A state that is the saved one but for what `change` does to it. */
static GBytes *changed(GBytes *bytes, void (*change)(VcpuState *))
{
    g_autoptr(StateReader) r = state_reader_new(bytes, NULL);
    StateWriter *w = state_writer_new();
    g_autofree VcpuState *s = g_new0(VcpuState, 1);
    IrqchipState chips;
    ClockState now;
    g_autoptr(GError) error = NULL;
    GBytes *ret;

    g_assert_true(state_get(r, "vcpu0", &x86_vcpu_table, s, NULL));
    g_assert_true(state_get(r, "irqchip", &x86_irqchip_table, &chips, NULL));
    g_assert_true(state_get(r, "clock", &x86_clock_table, &now, NULL));
    change(s);
    state_put(w, "vcpu0", &x86_vcpu_table, s);
    state_put(w, "irqchip", &x86_irqchip_table, &chips);
    state_put(w, "clock", &x86_clock_table, &now);
    state_clear(&x86_vcpu_table, s);
    ret = state_writer_end(w, &error);
    g_assert_no_error(error);
    return ret;
}

/* The entry of that leaf, which is added where it is not. */
static struct kvm_cpuid_entry2 *cpuid_entry(VcpuState *s, uint32_t function,
                                            uint32_t index)
{
    unsigned i = 0;

    while (i < s->n_cpuid &&
           (s->cpuid[i].function != function || s->cpuid[i].index != index))
        i++;
    if (i == s->n_cpuid)
        s->cpuid[s->n_cpuid++] = (struct kvm_cpuid_entry2){.function = function,
                                                           .index = index};
    return &s->cpuid[i];
}

static void with_a_feature_of_the_future(VcpuState *s)
{
    cpuid_entry(s, 7, 1)->edx |= BIT(31) | BIT(10);
}

static void of_another_vendor(VcpuState *s)
{
    memcpy(&s->cpuid[0].ebx, "Vort", 4);
    memcpy(&s->cpuid[0].edx, "ex86", 4);
    memcpy(&s->cpuid[0].ecx, " SoC", 4);
}

static void with_more_address_bits(VcpuState *s)
{
    struct kvm_cpuid_entry2 *e = cpuid_entry(s, 0x80000008, 0);

    e->eax = (e->eax & ~0xffu) | 60;
}

static void with_an_unknown_msr(VcpuState *s)
{
    s->msrs[s->n_msrs++] = (struct kvm_msr_entry){.index = 0x1234567, .data = 0xabcd};
}

static void with_more_fpu(VcpuState *s)
{
    s->xsave.data = g_realloc(s->xsave.data, X86_XSAVE_MAX);
    memset(s->xsave.data + s->xsave.size, 0xff, X86_XSAVE_MAX - s->xsave.size);
    s->xsave.size = X86_XSAVE_MAX;
}

static void with_a_reserved_bit_in_cr4(VcpuState *s)
{
    s->sregs.cr4 |= BIT64(40);
}

static void what_this_host_cannot_give_is_refused_by_name(void)
{
    static const struct {
        void (*change)(VcpuState *);
        const char *error;
    } cases[] = {
        {with_a_feature_of_the_future,
         "vCPU 0: the snapshot's processor has avx_vnni_int16, cpuid-7.1-edx-31, which"},
        {of_another_vendor, "vCPU 0: the snapshot's processor is of Vortex86 SoC, this"},
        {with_more_address_bits,
         "vCPU 0: the snapshot's processor has 60 bits of physical address, this"},
        {with_an_unknown_msr,
         "vCPU 0: restore MSR 0x1234567: this host's KVM does not take "
         "the value 0xabcd; restore it on"},
        {with_more_fpu, "vCPU 0: restore its FPU: it has 65536 bytes of state, this"},
        {with_a_reserved_bit_in_cr4,
         "vCPU 0: restore its system registers (KVM_SET_SREGS"},
    };
    g_autoptr(GBytes) saved = NULL;
    SmallGuest g;

    if (!guest_set_up(&g))
        return;
    saved = save(&g);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GBytes) bad = changed(saved, cases[i].change);
        g_autoptr(GError) error = NULL;

        g_assert_false(load_with(&g, bad, CLOCK_STOPPED, 0, &error));
        g_test_message("%s", error->message);
        g_assert_true(g_str_has_prefix(error->message, cases[i].error));
    }
    load(&g, saved);
    guest_tear_down(&g);
}

static void only_a_hypervisor_at_work_is_nested(void)
{
    struct kvm_nested_state vmx = {.format = KVM_STATE_NESTED_FORMAT_VMX};
    struct kvm_nested_state svm = {.format = KVM_STATE_NESTED_FORMAT_SVM,
                                   .flags = KVM_STATE_NESTED_GIF_SET};

    vmx.hdr.vmx.vmxon_pa = UINT64_MAX;
    g_assert_false(x86_nested_in_use(&vmx));
    vmx.hdr.vmx.vmxon_pa = 0x1000;
    g_assert_true(x86_nested_in_use(&vmx));
    g_assert_false(x86_nested_in_use(&svm));
    svm.flags |= KVM_STATE_NESTED_GUEST_MODE;
    g_assert_true(x86_nested_in_use(&svm));
    svm.flags = 0;
    g_assert_true(x86_nested_in_use(&svm));
}

static void needs_that_this_host_meets_are_no_problem(void)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    json_t *needs;
    SmallGuest g;

    if (!guest_set_up(&g))
        return;
    needs = arch_cpu_needs(g.kvm, g.vcpu);
    g_assert_nonnull(needs);
    g_assert_cmpuint(json_array_size(json_object_get(needs, "features")), >, 10);
    arch_cpu_check(needs, problems);
    arch_tsc_check(needs, problems);
    for (unsigned i = 0; i < problems->len; i++)
        g_test_message("%s", (const char *)problems->pdata[i]);
    g_assert_cmpuint(problems->len, ==, 0);
    json_decref(needs);
    guest_tear_down(&g);
}

static void needs_that_no_host_meets_are_told_one_by_one(void)
{
    static const char *const expect[] = {
        "the snapshot's processor is of ArmInside,",
        ("the snapshot's processor has cpuid-7.7-eax-1, warp_drive, which this host's "
         "KVM "
         "does not offer; restore it on a host that has them"),
        "the snapshot's processor has 64 bits of physical address,",
        "the snapshot's FPU state is 1000000 bytes,",
    };
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    json_t *needs = json_pack("{s:s, s:[s, s, s, i], s:I, s:i}", "vendor", "ArmInside",
                              "features", "sse2", "cpuid-7.7-eax-1", "warp_drive", 3,
                              "physical_bits", (json_int_t)INT64_MAX, "xsave_size",
                              1000000);

    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        g_test_skip("/dev/kvm cannot be opened on this machine");
        json_decref(needs);
        return;
    }
    arch_cpu_check(needs, problems);
    g_assert_cmpuint(problems->len, ==, G_N_ELEMENTS(expect));
    for (unsigned i = 0; i < problems->len; i++)
        g_assert_true(g_str_has_prefix(problems->pdata[i], expect[i]));
    g_ptr_array_set_size(problems, 0);
    json_decref(needs);
    needs = json_string("not an object");
    arch_cpu_check(needs, problems); /* whatever it says, it ends */
    arch_tsc_check(needs, problems);
    json_decref(needs);
}

static void no_field_is_forgotten(void)
{
    for (const StateTable *const *t = kvm_state_tables; *t; t++) {
        g_autoptr(GError) error = NULL;

        state_tiles(*t, &error);
        g_assert_no_error(error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/cpu-state/" #name, name)
    TEST(no_field_is_forgotten);
    TEST(a_guest_goes_on_in_another_vm_where_it_was);
    TEST(a_sleeping_guest_is_woken_in_another_vm);
    TEST(registers_of_every_kind_survive);
    TEST(the_interrupt_controllers_survive);
    TEST(an_edge_that_was_delivered_does_not_come_again);
    TEST(the_clock_stands_still_or_catches_up);
    TEST(the_time_stamp_counter_goes_on_or_catches_up);
    TEST(a_restored_guest_is_told_that_it_was_stopped);
    TEST(what_this_host_cannot_give_is_refused_by_name);
    TEST(only_a_hypervisor_at_work_is_nested);
    TEST(needs_that_this_host_meets_are_no_problem);
    TEST(needs_that_no_host_meets_are_told_one_by_one);
    return g_test_run();
}
