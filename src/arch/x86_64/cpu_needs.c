/* Whether a guest's processor can be had on this host: what a manifest says of it, and
 * what of that is missing here. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch_x86.h"
#include "util/fd.h"

enum {
    LEAF_VENDOR = 0,
    LEAF_MODEL = 1,
    LEAF_XSAVE = 0xd,
    LEAF_SIZES = 0x80000008,
    LEAF_BRAND = 0x80000002, /* and the two after it */
    MAX_XSAVE_PARTS = 63,
    XSAVE_BASE = 4096,    /* what every KVM keeps */
    TSC_TOLERANCE = 4000, /* one part in so many is KVM's, for errors of measurement */
};

#define WAY_OUT "restore it on a host with the processor that the snapshot was made on"

/* ---- what there is --------------------------------------------------------------------
 */

static void vendor_of(const struct kvm_cpuid2 *t, char ret[13])
{
    const struct kvm_cpuid_entry2 *e = x86_cpuid_find(t, LEAF_VENDOR, 0);
    const uint32_t regs[] = {e ? e->ebx : 0, e ? e->edx : 0, e ? e->ecx : 0};

    memcpy(ret, regs, sizeof(regs));
    ret[sizeof(regs)] = '\0';
}

static void signature_of(const struct kvm_cpuid2 *t, unsigned *family, unsigned *model)
{
    const struct kvm_cpuid_entry2 *e = x86_cpuid_find(t, LEAF_MODEL, 0);
    uint32_t eax = e ? e->eax : 0;

    *family = eax >> 8 & 0xf;
    *model = eax >> 4 & 0xf;
    if (*family == 0xf || *family == 6)
        *model |= eax >> 12 & 0xf0;
    if (*family == 0xf)
        *family += eax >> 20 & 0xff;
}

static unsigned physical_bits_of(const struct kvm_cpuid2 *t)
{
    const struct kvm_cpuid_entry2 *e = x86_cpuid_find(t, LEAF_SIZES, 0);

    return e ? e->eax & 0xff : 36;
}

/* "" where neither KVM's table nor the kernel says. */
static char *name_of(const struct kvm_cpuid2 *t)
{
    char name[49] = "";

    for (unsigned i = 0; i < 3; i++) {
        const struct kvm_cpuid_entry2 *e = x86_cpuid_find(t, LEAF_BRAND + i, 0);

        if (e)
            memcpy(name + 16 * i, &e->eax, 16);
    }
    if (!g_utf8_validate(name, -1, NULL))
        name[0] = '\0';
    return g_strdup(g_strstrip(name));
}

static int xsave_size(int vm_fd)
{
    int size = ioctl(vm_fd, KVM_CHECK_EXTENSION, (long)KVM_CAP_XSAVE2);

    return MAX(size, XSAVE_BASE);
}

static json_t *names_to_json(GPtrArray *names)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < names->len; i++)
        json_array_append_new(list, json_string(names->pdata[i]));
    g_ptr_array_unref(names);
    return list;
}

json_t *arch_cpu_needs(Kvm *kvm, Vcpu *c)
{
    const struct kvm_cpuid2 *t = c->reset_state->cpuid;
    g_autofree char *name = name_of(t);
    unsigned family, model;
    char vendor[13];
    int khz = ioctl(c->fd, KVM_GET_TSC_KHZ, 0L);

    vendor_of(t, vendor);
    signature_of(t, &family, &model);
    return json_pack("{s:s, s:i, s:i, s:s, s:o, s:i, s:i, s:i, s:i}", "vendor", vendor,
                     "family", (int)family, "model", (int)model, "name", name, "features",
                     names_to_json(x86_features(t)), "physical_bits",
                     (int)physical_bits_of(t), "xsave_size", xsave_size(kvm->vm_fd),
                     "msrs", (int)c->reset_state->msrs->nmsrs, "tsc_khz", MAX(khz, 0));
}

/* ---- comparing
 * ---------------------------------------------------------------------------
 */

static char *vendor_problem(const char *theirs, const char *ours)
{
    return strcmp(theirs, ours)
               ? g_strdup_printf("the snapshot's processor is of %s, this "
                                 "host's of %s; " WAY_OUT,
                                 theirs, ours)
               : NULL;
}

static char *features_problem(GPtrArray *missing)
{
    g_autofree char *names = NULL;

    if (!missing->len)
        return NULL;
    names = x86_features_text(missing);
    return g_strdup_printf("the snapshot's processor has %s, which this host's KVM does "
                           "not offer; restore it on a host that has %s",
                           names, missing->len == 1 ? "it" : "them");
}

static char *bits_problem(unsigned theirs, unsigned ours)
{
    return theirs > ours ? g_strdup_printf("the snapshot's processor has %u bits of "
                                           "physical address, this host's %u; " WAY_OUT,
                                           theirs, ours)
                         : NULL;
}

/* The parts of the FPU's state lie where the host's processor has them. */
static char *layout_problem(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host)
{
    for (unsigned i = 2; i < MAX_XSAVE_PARTS; i++) {
        const struct kvm_cpuid_entry2 *g = x86_cpuid_find(guest, LEAF_XSAVE, i);
        const struct kvm_cpuid_entry2 *h = x86_cpuid_find(host, LEAF_XSAVE, i);

        if (g && g->eax && (!h || h->eax != g->eax || h->ebx != g->ebx))
            return g_strdup_printf(
                "part %u of the snapshot's FPU state is %u bytes at %u, "
                "this host's %u at %u; " WAY_OUT,
                i, g->eax, g->ebx, h ? h->eax : 0, h ? h->ebx : 0);
    }
    return NULL;
}

char *x86_cpuid_problem(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host)
{
    GPtrArray *missing = x86_features_missing(guest, host);
    char theirs[13], ours[13];
    char *problem;

    vendor_of(guest, theirs);
    vendor_of(host, ours);
    problem = vendor_problem(theirs, ours);
    if (!problem)
        problem = features_problem(missing);
    if (!problem)
        problem = bits_problem(physical_bits_of(guest), physical_bits_of(host));
    if (!problem)
        problem = layout_problem(guest, host);
    g_ptr_array_unref(missing);
    return problem;
}

/* ---- a manifest against this host
 * --------------------------------------------------------
 */

static void add(GPtrArray *problems, char *problem)
{
    if (problem)
        g_ptr_array_add(problems, problem);
}

static bool has_name(const GPtrArray *names, const char *name)
{
    for (unsigned i = 0; i < names->len; i++)
        if (strcmp(names->pdata[i], name) == 0)
            return true;
    return false;
}

static char *named_features_problem(const json_t *wanted, const struct kvm_cpuid2 *host)
{
    GPtrArray *ours = x86_features(host), *missing = g_ptr_array_new();
    char *problem;

    for (size_t i = 0; i < json_array_size(wanted); i++) {
        const char *name = json_string_value(json_array_get(wanted, i));

        if (name && !has_name(ours, name))
            g_ptr_array_add(missing, (char *)name);
    }
    problem = features_problem(missing);
    g_ptr_array_unref(missing);
    g_ptr_array_unref(ours);
    return problem;
}

/* 0: the kernel does not say, or it does not matter, because KVM scales. */
static int unscalable_tsc_khz(int kvm_fd)
{
    autofd vm = -1, vcpu = -1;
    int khz = 0;

    if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, (long)KVM_CAP_TSC_CONTROL) > 0)
        return 0;
    vm = ioctl(kvm_fd, KVM_CREATE_VM, 0L);
    if (vm >= 0)
        vcpu = ioctl(vm, KVM_CREATE_VCPU, 0L);
    if (vcpu >= 0)
        khz = ioctl(vcpu, KVM_GET_TSC_KHZ, 0L);
    return MAX(khz, 0);
}

static char *tsc_problem(json_int_t theirs, json_int_t ours)
{
    json_int_t apart = theirs > ours ? theirs - ours : ours - theirs;

    if (theirs <= 0 || !ours || apart <= ours / TSC_TOLERANCE)
        return NULL;
    return g_strdup_printf(
        "the snapshot's time-stamp counter ran at %" JSON_INTEGER_FORMAT
        " kHz, this host's runs at %" JSON_INTEGER_FORMAT
        " kHz and cannot be scaled; restore it on a host of that "
        "frequency, or with TSC scaling",
        theirs, ours);
}

static char *xsave_problem(json_int_t theirs, int ours)
{
    return theirs > ours
               ? g_strdup_printf("the snapshot's FPU state is %" JSON_INTEGER_FORMAT
                                 " bytes, this host's KVM keeps %d; " WAY_OUT,
                                 theirs, ours)
               : NULL;
}

static json_int_t number(const json_t *needs, const char *key)
{
    return json_integer_value(json_object_get(needs, key));
}

/* -1: the problem is told. */
static int open_kvm(GPtrArray *problems)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        add(problems, g_strdup_printf("/dev/kvm: %s; 'hutch doctor' says what to do",
                                      g_strerror(errno)));
    return fd;
}

void arch_cpu_check(const json_t *needs, GPtrArray *problems)
{
    autofd kvm_fd = open_kvm(problems);
    const struct kvm_cpuid2 *host;
    g_autoptr(GError) error = NULL;
    char vendor[13];

    if (kvm_fd < 0)
        return;
    host = x86_cpuid_host(kvm_fd, &error);
    if (!host) {
        add(problems, g_strdup(error->message));
        return;
    }
    vendor_of(host, vendor);
    add(problems, vendor_problem(json_get_text(needs, "vendor"), vendor));
    add(problems, named_features_problem(json_object_get(needs, "features"), host));
    add(problems, bits_problem((unsigned)CLAMP(number(needs, "physical_bits"), 0, 64),
                               physical_bits_of(host)));
    add(problems, xsave_problem(number(needs, "xsave_size"), xsave_size(kvm_fd)));
}

void arch_tsc_check(const json_t *needs, GPtrArray *problems)
{
    autofd kvm_fd = open_kvm(problems);

    if (kvm_fd >= 0)
        add(problems, tsc_problem(number(needs, "tsc_khz"), unscalable_tsc_khz(kvm_fd)));
}
