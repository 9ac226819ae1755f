/* What CPUID shows a guest: all that this host's KVM supports, with the topology of this
 * VM (one package, one thread per core) and the APIC id of this vCPU. */
#include <cpuid.h>
#include <sys/ioctl.h>

#include "arch_x86.h"
#include "util/bits.h"
#include "util/lock.h"

enum {
    LEAF_BASIC = 0x1,
    LEAF_CACHES = 0x4,
    LEAF_POWER = 0x6,
    LEAF_TOPOLOGY = 0xb,
    LEAF_TOPOLOGY_V2 = 0x1f,
    LEAF_AMD_FEATURES = 0x80000001,
    LEAF_AMD_SIZES = 0x80000008,
    LEAF_AMD_CACHES = 0x8000001d,
    LEAF_AMD_TOPOLOGY = 0x8000001e,
};
/* Leaf 1 */
#define ECX_MONITOR      BIT(3)
#define ECX_X2APIC       BIT(21)
#define ECX_TSC_DEADLINE BIT(24)
#define ECX_HYPERVISOR   BIT(31)
#define EDX_HTT          BIT(28)

bool arch_host_has_virtualization(void)
{
    unsigned a, b, c, d;

    return (__get_cpuid(LEAF_BASIC, &a, &b, &c, &d) && (c & BIT(5) /* VMX */)) ||
           (__get_cpuid(LEAF_AMD_FEATURES, &a, &b, &c, &d) && (c & BIT(2) /* SVM */));
}

unsigned arch_physical_bits(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(LEAF_AMD_SIZES, &a, &b, &c, &d) ? a & 0xff : 36;
}

struct kvm_cpuid2 *x86_cpuid_new(void)
{
    struct kvm_cpuid2 *t = g_malloc0(sizeof(*t) +
                                     X86_MAX_CPUID * sizeof(struct kvm_cpuid_entry2));

    return t;
}

/* Asked of KVM once in a process: it takes a good part of a millisecond where CPUID
 * traps, which is so in every VM that is a host itself. */
const struct kvm_cpuid2 *x86_cpuid_host(int kvm_fd, GError **error)
{
    static Lock lock = LOCK_INIT;
    static struct kvm_cpuid2 *host;
    g_autofree struct kvm_cpuid2 *t = NULL;

    LOCK_GUARD(&lock);
    if (host)
        return host;
    t = x86_cpuid_new();
    t->nent = X86_MAX_CPUID;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, t) < 0) {
        fail_errno(error, "/dev/kvm: ask for the supported CPUID");
        return NULL;
    }
    return host = g_steal_pointer(&t);
}

const struct kvm_cpuid_entry2 *x86_cpuid_find(const struct kvm_cpuid2 *t,
                                              uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < t->nent; i++)
        if (t->entries[i].function == function && t->entries[i].index == index)
            return &t->entries[i];
    return NULL;
}

static unsigned bits_for(unsigned n)
{
    return n > 1 ? 32 - (unsigned)__builtin_clz(n - 1) : 0;
}

/* Two levels: each core has one thread, the package has n cores. */
static void add_topology(struct kvm_cpuid2 *t, uint32_t leaf, unsigned id,
                         unsigned n_cpus)
{
    const struct kvm_cpuid_entry2 level[] = {
        {.index = 0, .eax = 0, .ebx = 1, .ecx = 0 | 1 << 8},
        {.index = 1, .eax = bits_for(n_cpus), .ebx = n_cpus, .ecx = 1 | 2 << 8},
        {.index = 2, .ecx = 2},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(level) && t->nent < X86_MAX_CPUID; i++) {
        t->entries[t->nent] = level[i];
        t->entries[t->nent].function = leaf;
        t->entries[t->nent].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        t->entries[t->nent].edx = id;
        t->nent++;
    }
}

/* Level 3 is shared by the package; the caches below belong to one core. */
static uint32_t cache_sharing(uint32_t eax, unsigned n_cpus)
{
    unsigned level = eax >> 5 & 7;

    return (eax & 0x3fff) | (level >= 3 ? (n_cpus - 1) << 14 : 0);
}

static void adapt(struct kvm_cpuid_entry2 *e, const Kvm *kvm, unsigned id,
                  unsigned n_cpus)
{
    switch (e->function) {
    case LEAF_BASIC:
        e->ebx = (e->ebx & 0xffff) | MIN(n_cpus, 255u) << 16 | id << 24;
        e->ecx |= ECX_HYPERVISOR | ECX_X2APIC;
        e->ecx &= ~ECX_MONITOR;
        if (kvm_check_extension(kvm, KVM_CAP_TSC_DEADLINE_TIMER))
            e->ecx |= ECX_TSC_DEADLINE;
        e->edx = n_cpus > 1 ? e->edx | EDX_HTT : e->edx & ~EDX_HTT;
        break;
    case LEAF_CACHES:
        if (e->eax & 0x1f)
            e->eax = cache_sharing(e->eax, n_cpus) | MIN(n_cpus - 1, 63u) << 26;
        break;
    case LEAF_AMD_CACHES:
        if (e->eax & 0x1f)
            e->eax = cache_sharing(e->eax, n_cpus);
        break;
    case LEAF_POWER:
        e->ecx &= ~BIT(3); /* no energy bias: there is nothing behind it */
        break;
    case LEAF_AMD_SIZES:
        e->ecx = bits_for(n_cpus) << 12 | (n_cpus - 1);
        break;
    case LEAF_AMD_TOPOLOGY:
        e->eax = id;
        e->ebx = id; /* compute unit, one thread each */
        e->ecx = 0;  /* one node */
        break;
    }
}

struct kvm_cpuid2 *x86_cpuid_make(Kvm *kvm, unsigned index, unsigned n_cpus)
{
    const struct kvm_cpuid2 *host = kvm->arch->cpuid;
    struct kvm_cpuid2 *t = x86_cpuid_new();
    bool has_v2 = false;

    for (unsigned i = 0; i < host->nent; i++) {
        struct kvm_cpuid_entry2 *e = &t->entries[t->nent];

        has_v2 |= host->entries[i].function == LEAF_TOPOLOGY_V2;
        if (host->entries[i].function == LEAF_TOPOLOGY ||
            host->entries[i].function == LEAF_TOPOLOGY_V2)
            continue;
        *e = host->entries[i];
        adapt(e, kvm, index, n_cpus);
        t->nent++;
    }
    add_topology(t, LEAF_TOPOLOGY, index, n_cpus);
    if (has_v2)
        add_topology(t, LEAF_TOPOLOGY_V2, index, n_cpus);
    return t;
}
