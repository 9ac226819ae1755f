/* Where a guest is, in words: for the one line a person reads when it crashed. */
#include <Zydis/Zydis.h>
#include <dlfcn.h>

#include "arch_x86.h"
#include "util/bits.h"

#define EFER_LMA BIT(10)
enum { MAX_INSTRUCTION = 15 };

/* The disassembler is loaded when it is needed, which is seldom, so that no VM pays for
 * it at start-up. */
static void disassemble(const struct kvm_sregs *s, uint64_t ip, const uint8_t *bytes,
                        unsigned n, GString *out)
{
    ZydisMachineMode mode = s->cs.l    ? ZYDIS_MACHINE_MODE_LONG_64
                            : s->cs.db ? ZYDIS_MACHINE_MODE_LEGACY_32
                                       : ZYDIS_MACHINE_MODE_LEGACY_16;
    __typeof__(ZydisDisassembleIntel) *decode = NULL;
    ZydisDisassembledInstruction insn;
    void *library = dlopen("libZydis.so.4.0", RTLD_NOW | RTLD_LOCAL);

    if (library)
        *(void **)&decode = dlsym(library, "ZydisDisassembleIntel");
    if (decode && ZYAN_SUCCESS(decode(mode, ip, bytes, n, &insn)))
        g_string_append_printf(out, " (%s)", insn.text);
    if (library)
        dlclose(library);
}

/* Follows the guest's page tables; whatever cannot be read is left out. */
static unsigned fetch(Vcpu *c, uint64_t linear, uint8_t *buf)
{
    unsigned n = 0;

    for (; n < MAX_INSTRUCTION; n++) {
        struct kvm_translation t = {.linear_address = linear + n};

        if (!x86_vcpu_ioctl(c, KVM_TRANSLATE, &t, "", NULL) || !t.valid || !c->kvm->gm ||
            !gm_read(c->kvm->gm, t.physical_address, buf + n, 1))
            break;
    }
    return n;
}

char *arch_vcpu_describe(Vcpu *c, const uint8_t *bytes, unsigned n_bytes)
{
    GString *out = g_string_new(NULL);
    uint8_t buf[MAX_INSTRUCTION];
    struct kvm_sregs s;
    struct kvm_regs r;

    if (!x86_vcpu_ioctl(c, KVM_GET_SREGS, &s, "", NULL) ||
        !x86_vcpu_ioctl(c, KVM_GET_REGS, &r, "", NULL)) {
        g_string_printf(out, "an unknown place on vCPU %u", c->index);
        return g_string_free(out, FALSE);
    }
    if (!bytes) {
        n_bytes = fetch(c, s.cs.base + r.rip, buf);
        bytes = buf;
    }
    g_string_printf(out, "rip 0x%llx, CPL %u, %s mode, vCPU %u",
                    (unsigned long long)r.rip, (unsigned)s.ss.dpl,
                    s.efer & EFER_LMA ? "long"
                    : s.cr0 & 1       ? "protected"
                                      : "real",
                    c->index);
    if (n_bytes)
        g_string_append(out, ", bytes");
    for (unsigned i = 0; i < n_bytes; i++)
        g_string_append_printf(out, " %02x", bytes[i]);
    if (n_bytes)
        disassemble(&s, r.rip, bytes, n_bytes, out);
    return g_string_free(out, FALSE);
}
