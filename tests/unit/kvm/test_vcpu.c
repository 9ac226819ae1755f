/* The vCPU thread on this host's own KVM, with a few bytes of real-mode code as guest. */
#include "kvm/vcpu.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm/arch.h"
#include "util/bits.h"

enum { CODE_AT = 0x1000, PORT = 0x10 };

typedef struct Port {
    Device dev;
    BusRegion region;
    unsigned reads; /* atomic */
} Port;

typedef struct Fixture {
    GuestMem gm;
    Kvm *kvm;
    Bus *pio, *mmio;
    Vcpu *vcpu;
    Port port;
    VcpuEvents events;
} Fixture;

static uint64_t port_read(Device *d, uint64_t offset, unsigned size)
{
    __atomic_fetch_add(&((Port *)d)->reads, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void port_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
}

static const BusOps port_ops = {port_read, port_write};
static const DeviceOps device_ops = {.name = "port"};

static void on_ended(void *opaque, Vcpu *c, VcpuEnd end, const char *text)
{
    g_error("the guest ended: %s", text);
}

/* False, and the test marked as skipped, where there is no KVM to run on. */
static bool set_up(Fixture *f, const void *code, size_t size)
{
    GuestMemOptions o = {.size = 1 * MIB};
    g_autoptr(GError) error = NULL;
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE_AT, .rflags = 2, .rdx = PORT};

    *f = (Fixture){.events = {on_ended, f}};
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        g_test_skip("/dev/kvm cannot be opened on this machine");
        return false;
    }
    g_assert_true(gm_init(&f->gm, &o, NULL));
    g_assert_true(gm_add(&f->gm, 0, o.size, NULL));
    g_assert_true(gm_write(&f->gm, CODE_AT, code, size));
    f->kvm = kvm_new(&error);
    g_assert_no_error(error);
    g_assert_true(kvm_add_memory(f->kvm, &f->gm, NULL));
    g_assert_true(arch_vm_init(f->kvm, &error));
    f->pio = bus_new(true);
    f->mmio = bus_new(false);
    device_init(&f->port.dev, &device_ops, "port");
    f->port.region = (BusRegion){.dev = &f->port.dev, .ops = &port_ops, .size = 1};
    g_assert_true(bus_map(f->pio, &f->port.region, PORT));
    f->vcpu = vcpu_new(f->kvm, 0, f->pio, f->mmio, &f->events, &error);
    g_assert_no_error(error);
    g_assert_true(arch_vcpu_init(f->vcpu, 1, &error));
    g_assert_cmpint(ioctl(f->vcpu->fd, KVM_GET_SREGS, &s), ==, 0);
    s.cs.base = 0;
    s.cs.selector = 0;
    g_assert_cmpint(ioctl(f->vcpu->fd, KVM_SET_SREGS, &s), ==, 0);
    g_assert_cmpint(ioctl(f->vcpu->fd, KVM_SET_REGS, &r), ==, 0);
    g_assert_true(vcpu_start(f->vcpu, &error));
    return true;
}

static void tear_down(Fixture *f)
{
    vcpu_free(f->vcpu);
    kvm_free(f->kvm);
    bus_free(f->pio);
    bus_free(f->mmio);
    gm_finish(&f->gm);
}

static struct kvm_regs regs(Fixture *f)
{
    struct kvm_regs r;

    g_assert_cmpint(ioctl(f->vcpu->fd, KVM_GET_REGS, &r), ==, 0);
    return r;
}

/* ebx counts the reads that the guest has executed; a read that was answered but is not
 * yet in the registers would be served a second time after a restore. */
static void a_parked_guest_has_finished_the_io_that_it_began(void)
{
    static const uint8_t code[] = {
        0xec,       /* 1000: in al, dx */
        0x66, 0x43, /* 1001: inc ebx */
        0xeb, 0xfb, /* 1003: jmp 1000 */
    };
    Fixture f;

    if (!set_up(&f, code, sizeof(code)))
        return;
    for (unsigned i = 0; i < 300; i++) {
        struct kvm_regs r;

        vcpu_resume(f.vcpu);
        g_usleep(i % 7 * 50);
        vcpu_request_pause(f.vcpu);
        vcpu_wait_parked(f.vcpu);
        r = regs(&f);
        g_assert_cmpuint(r.rbx + (r.rip == CODE_AT + 1), ==,
                         __atomic_load_n(&f.port.reads, __ATOMIC_SEQ_CST));
    }
    g_assert_cmpuint(f.port.reads, >, 0);
    tear_down(&f);
}

static void a_pause_asked_for_twice_is_ended_by_one_resume(void)
{
    static const uint8_t code[] = {0xec, 0xeb, 0xfd}; /* 1: in al, dx; jmp 1b */
    Fixture f;
    unsigned before;

    if (!set_up(&f, code, sizeof(code)))
        return;
    vcpu_request_pause(f.vcpu); /* it is parked already */
    vcpu_wait_parked(f.vcpu);
    vcpu_resume(f.vcpu);
    before = __atomic_load_n(&f.port.reads, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&f.port.reads, __ATOMIC_SEQ_CST) < before + 10)
        g_usleep(100);
    tear_down(&f);
}

static void a_vcpu_ends_while_its_guest_loops_for_ever(void)
{
    static const uint8_t code[] = {0xeb, 0xfe}; /* jmp . */
    Fixture f;

    if (!set_up(&f, code, sizeof(code)))
        return;
    vcpu_resume(f.vcpu);
    g_usleep(2000);
    tear_down(&f);
}

/* KVM holds up whoever injects one into a vCPU that runs, and `hlt` runs. */
static void an_nmi_wakes_a_halted_guest_and_holds_up_nobody(void)
{
    static const uint8_t code[] = {
        0xec,       /* 1000: in al, dx */
        0xf4,       /* 1001: hlt */
        0xeb, 0xfd, /* 1002: jmp 1001 */
        0xec,       /* 1004: in al, dx */
        0xcf,       /* 1005: iret */
    };
    static const uint8_t vector[] = {0x04, 0x10, 0, 0};
    Fixture f;

    if (!set_up(&f, code, sizeof(code)))
        return;
    g_assert_true(gm_write(&f.gm, 2 * sizeof(vector), vector, sizeof(vector)));
    vcpu_resume(f.vcpu);
    for (unsigned n = 1; n <= 3; n++) {
        while (__atomic_load_n(&f.port.reads, __ATOMIC_SEQ_CST) < n)
            g_usleep(1000);
        g_usleep(20000); /* to the hlt */
        vcpu_nmi(f.vcpu);
    }
    while (__atomic_load_n(&f.port.reads, __ATOMIC_SEQ_CST) < 4)
        g_usleep(1000);
    tear_down(&f);
}

static void a_reset_vcpu_is_as_it_was_at_power_on(void)
{
    static const uint8_t code[] = {0x66, 0x43, 0xeb, 0xfc}; /* 1: inc ebx; jmp 1b */
    struct kvm_sregs s;
    Fixture f;

    if (!set_up(&f, code, sizeof(code)))
        return;
    do {
        vcpu_resume(f.vcpu);
        g_usleep(1000);
        vcpu_request_pause(f.vcpu);
        vcpu_wait_parked(f.vcpu);
    } while (!regs(&f).rbx); /* its thread may be slow to come up */
    g_assert_true(arch_vm_reset(f.kvm, NULL));
    g_assert_true(arch_vcpu_reset(f.vcpu, NULL));
    g_assert_cmpuint(regs(&f).rbx, ==, 0);
    g_assert_cmphex(regs(&f).rip, ==, 0xfff0);
    g_assert_cmpint(ioctl(f.vcpu->fd, KVM_GET_SREGS, &s), ==, 0);
    g_assert_cmphex(s.cs.base, ==, 0xffff0000);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/vcpu/" #name, name)
    TEST(a_parked_guest_has_finished_the_io_that_it_began);
    TEST(a_pause_asked_for_twice_is_ended_by_one_resume);
    TEST(a_vcpu_ends_while_its_guest_loops_for_ever);
    TEST(an_nmi_wakes_a_halted_guest_and_holds_up_nobody);
    TEST(a_reset_vcpu_is_as_it_was_at_power_on);
    return g_test_run();
}
