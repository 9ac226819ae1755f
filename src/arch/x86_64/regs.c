/* The registers a guest starts with, by how its kernel wants to be entered (Linux
 * Documentation/arch/x86/boot.rst; Xen's PVH start ABI; Multiboot 0.6.96, 3.2). */
#include "arch_x86.h"
#include "util/bits.h"

#define CR0_PE   BIT(0)
#define CR0_ET   BIT(4)
#define CR0_NE   BIT(5)
#define CR0_PG   BIT(31)
#define CR4_PAE  BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

/* Selectors as Linux's boot protocol names them; the loader's GDT agrees. */
enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20, GDT_LIMIT = 5 * 8 - 1 };

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool long_mode)
{
    return (struct kvm_segment){
        .base = 0,
        .limit = 0xffffffff,
        .selector = selector,
        .type = type,
        .present = 1,
        .db = !long_mode,
        .s = 1,
        .l = long_mode,
        .g = 1,
    };
}

bool arch_vcpu_enter(Vcpu *c, const BootEntry *entry, GError **error)
{
    bool long_mode = entry->mode == BOOT_LONG_MODE;
    struct kvm_sregs s;
    struct kvm_regs r = {
        .rip = entry->ip,
        .rsi = entry->si,
        .rax = entry->ax,
        .rbx = entry->bx,
        .rflags = 2, /* the bit that is always one; interrupts off */
    };

    if (!VCPU_IOCTL(c, KVM_GET_SREGS, &s, error))
        return false;
    s.cs = flat(SEL_CODE, 0xb /* execute, read, accessed */, long_mode);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(SEL_DATA, 0x3 /* read, write, accessed */,
                                            false);
    s.tr = (struct kvm_segment){
        .limit = 0x67, .selector = SEL_TSS, .type = 0xb /* busy TSS */, .present = 1};
    s.ldt = (struct kvm_segment){.unusable = 1, .type = 2};
    s.gdt = (struct kvm_dtable){.base = entry->gdt, .limit = GDT_LIMIT};
    s.idt = (struct kvm_dtable){0};
    s.cr0 = CR0_PE | CR0_ET | (long_mode ? CR0_NE | CR0_PG : 0);
    s.cr3 = entry->page_table;
    s.cr4 = long_mode ? CR4_PAE : 0;
    s.efer = long_mode ? EFER_LME | EFER_LMA : 0;
    return VCPU_IOCTL(c, KVM_SET_SREGS, &s, error) &&
           VCPU_IOCTL(c, KVM_SET_REGS, &r, error);
}
