/* See small_guest.h. */
#include "small_guest.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/bits.h"

enum {
    PML4 = 0x10000,
    PDPT = 0x11000,
    PD_LOW = 0x12000,
    PD_DEVICES = 0x13000,
    PD_HIGH = 0x14000,
    GDT = 0x15000,
    IDT = 0x16000,
    LAPIC_IN_PD = 0x1f7,
    SEL_CODE = 0x10,
};
#define LAPIC      0xfee00000ull
#define PRESENT_RW 3ull
#define LARGE      BIT64(7)

static void on_ended(void *opaque, Vcpu *c, VcpuEnd end, const char *text)
{
    g_error("the guest ended: %s", text);
}

void guest_put(SmallGuest *g, uint64_t gpa, const void *data, size_t size)
{
    g_assert_true(gm_write(&g->gm, gpa, data, size));
}

static void put_word(SmallGuest *g, uint64_t gpa, uint64_t value)
{
    guest_put(g, gpa, &value, sizeof(value));
}

static void put_page_tables(SmallGuest *g)
{
    put_word(g, PML4, PDPT | PRESENT_RW);
    put_word(g, PDPT, PD_LOW | PRESENT_RW);
    put_word(g, PDPT + 3 * 8, PD_DEVICES | PRESENT_RW);
    put_word(g, PDPT + 4 * 8, PD_HIGH | PRESENT_RW);
    put_word(g, PD_LOW, LARGE | PRESENT_RW);
    put_word(g, PD_DEVICES + LAPIC_IN_PD * 8, LAPIC | LARGE | PRESENT_RW);
    put_word(g, PD_HIGH, GUEST_HIGH_AT | LARGE | PRESENT_RW);
}

static void put_descriptors(SmallGuest *g)
{
    put_word(g, GDT + SEL_CODE, 0x00af9b000000ffffull);     /* 64-bit code */
    put_word(g, GDT + SEL_CODE + 8, 0x00cf93000000ffffull); /* data */
    put_word(g, IDT + GUEST_VECTOR * 16,
             0x00008e0000000000ull | SEL_CODE << 16 | GUEST_ISR); /* interrupt gate */
}

static void make_vcpu(SmallGuest *g)
{
    BootEntry entry = {.mode = BOOT_LONG_MODE,
                       .ip = GUEST_CODE,
                       .si = GUEST_DATA,
                       .page_table = PML4,
                       .gdt = GDT};
    g_autoptr(GError) error = NULL;
    struct kvm_sregs s;
    struct kvm_regs r;

    g->vcpu = vcpu_new(g->kvm, 0, g->pio, g->mmio, &g->events, &error);
    g_assert_no_error(error);
    g_assert_true(arch_vcpu_init(g->vcpu, 1, &error));
    g_assert_true(arch_vcpu_enter(g->vcpu, &entry, &error));
    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_GET_SREGS, &s), ==, 0);
    s.idt = (struct kvm_dtable){.base = IDT, .limit = 0xfff};
    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_SET_SREGS, &s), ==, 0);
    r = guest_regs(g);
    r.rsp = GUEST_STACK;
    r.rdi = LAPIC;
    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_SET_REGS, &r), ==, 0);
    g_assert_true(vcpu_start(g->vcpu, &error));
}

bool guest_set_up(SmallGuest *g)
{
    GuestMemOptions o = {.size = GUEST_LOW + GUEST_HIGH_SIZE};
    g_autoptr(GError) error = NULL;

    *g = (SmallGuest){.events = {on_ended, g}};
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        g_test_skip("/dev/kvm cannot be opened on this machine");
        return false;
    }
    g_assert_true(gm_init(&g->gm, &o, NULL));
    g_assert_true(gm_add(&g->gm, 0, GUEST_LOW, NULL));
    g_assert_true(gm_add(&g->gm, GUEST_HIGH_AT, GUEST_HIGH_SIZE, NULL));
    put_page_tables(g);
    put_descriptors(g);
    g->kvm = kvm_new(&error);
    g_assert_no_error(error);
    g_assert_true(kvm_add_memory(g->kvm, &g->gm, NULL));
    g_assert_true(arch_vm_init(g->kvm, &error));
    g->pio = bus_new(true);
    g->mmio = bus_new(false);
    make_vcpu(g);
    return true;
}

void guest_tear_down(SmallGuest *g)
{
    vcpu_free(g->vcpu);
    kvm_free(g->kvm);
    bus_free(g->pio);
    bus_free(g->mmio);
    gm_finish(&g->gm);
}

void guest_run(SmallGuest *g)
{
    vcpu_resume(g->vcpu);
}

void guest_park(SmallGuest *g)
{
    vcpu_request_pause(g->vcpu);
    vcpu_wait_parked(g->vcpu);
}

uint64_t guest_word(SmallGuest *g, uint64_t gpa)
{
    return __atomic_load_n((uint64_t *)gm_at(&g->gm, gpa, 8), __ATOMIC_SEQ_CST);
}

struct kvm_regs guest_regs(SmallGuest *g)
{
    struct kvm_regs r;

    g_assert_cmpint(ioctl(g->vcpu->fd, KVM_GET_REGS, &r), ==, 0);
    return r;
}
