/* The features that CPUID shows, bit by bit, by the names that people know from
 * /proc/cpuinfo (Intel SDM 2A, CPUID; AMD APM 3, appendix E; KVM cpuid.rst).  A bit that
 * has no name here is told by its place, "cpuid-7.1-eax-19", so that none is overlooked.
 */
#include <stdlib.h>
#include <string.h>

#include "arch_x86.h"
#include "util/bits.h"

typedef enum { EAX, EBX, ECX, EDX } Reg;

static const char *const reg_names[] = {"eax", "ebx", "ecx", "edx"};

/* One register of a leaf.  `ours` are bits that hutch or KVM decide, whatever the host
 * has: what it emulates, and the topology. */
static const struct {
    uint32_t function, index;
    Reg reg;
    uint32_t ours;
    const char *bit[32];
} words[] = {
    {0x1,
     0,
     ECX,
     BIT(3) | BIT(21) | BIT(24) | BIT(27) | BIT(31),
     {"sse3",   "pclmulqdq", "dtes64",  "monitor", "ds_cpl",
      "vmx",    "smx",       "est",     "tm2",     "ssse3",
      "cid",    "sdbg",      "fma",     "cx16",    "xtpr",
      "pdcm",   NULL,        "pcid",    "dca",     "sse4_1",
      "sse4_2", "x2apic",    "movbe",   "popcnt",  "tsc_deadline_timer",
      "aes",    "xsave",     "osxsave", "avx",     "f16c",
      "rdrand", "hypervisor"}},
    {0x1, 0, EDX, BIT(9) | BIT(28), {"fpu",  "vme",     "de",   "pse",  "tsc",  "msr",
                                     "pae",  "mce",     "cx8",  "apic", NULL,   "sep",
                                     "mtrr", "pge",     "mca",  "cmov", "pat",  "pse36",
                                     "pn",   "clflush", NULL,   "dts",  "acpi", "mmx",
                                     "fxsr", "sse",     "sse2", "ss",   "ht",   "tm",
                                     "ia64", "pbe"}},
    {0x7,
     0,
     EBX,
     0,
     {"fsgsbase",
      "tsc_adjust",
      "sgx",
      "bmi1",
      "hle",
      "avx2",
      "fdp_excptn_only",
      "smep",
      "bmi2",
      "erms",
      "invpcid",
      "rtm",
      "cqm",
      "zero_fcs_fds",
      "mpx",
      "rdt_a",
      "avx512f",
      "avx512dq",
      "rdseed",
      "adx",
      "smap",
      "avx512ifma",
      NULL,
      "clflushopt",
      "clwb",
      "intel_pt",
      "avx512pf",
      "avx512er",
      "avx512cd",
      "sha_ni",
      "avx512bw",
      "avx512vl"}},
    {0x7,
     0,
     ECX,
     BIT(4),
     {"prefetchwt1",
      "avx512vbmi",
      "umip",
      "pku",
      "ospke",
      "waitpkg",
      "avx512_vbmi2",
      "shstk",
      "gfni",
      "vaes",
      "vpclmulqdq",
      "avx512_vnni",
      "avx512_bitalg",
      "tme",
      "avx512_vpopcntdq",
      NULL,
      "la57",
      NULL,
      NULL,
      NULL,
      NULL,
      NULL,
      "rdpid",
      "kl",
      "bus_lock_detect",
      "cldemote",
      NULL,
      "movdiri",
      "movdir64b",
      "enqcmd",
      "sgx_lc",
      "pks"}},
    {0x7,
     0,
     EDX,
     0,
     {NULL,
      NULL,
      "avx512_4vnniw",
      "avx512_4fmaps",
      "fsrm",
      "uintr",
      NULL,
      NULL,
      "avx512_vp2intersect",
      "srbds_ctrl",
      "md_clear",
      "rtm_always_abort",
      NULL,
      "tsx_force_abort",
      "serialize",
      "hybrid_cpu",
      "tsxldtrk",
      NULL,
      "pconfig",
      "arch_lbr",
      "ibt",
      NULL,
      "amx_bf16",
      "avx512_fp16",
      "amx_tile",
      "amx_int8",
      "spec_ctrl",
      "stibp",
      "flush_l1d",
      "arch_capabilities",
      "core_capabilities",
      "ssbd"}},
    {0x7, 1, EAX, 0, {"sha512",   "sm3",       "sm4",
                      "rao_int",  "avx_vnni",  "avx512_bf16",
                      "lass",     "cmpccxadd", "arch_perfmon_ext",
                      NULL,       "fzrm",      "fsrs",
                      "fsrc",     NULL,        NULL,
                      NULL,       NULL,        "fred",
                      "lkgs",     "wrmsrns",   "nmi_src",
                      "amx_fp16", "hreset",    "avx_ifma",
                      NULL,       NULL,        "lam"}},
    {0x7,
     1,
     EDX,
     0,
     {NULL,
      NULL,
      NULL,
      NULL,
      "avx_vnni_int8",
      "avx_ne_convert",
      NULL,
      NULL,
      "amx_complex",
      NULL,
      "avx_vnni_int16",
      NULL,
      NULL,
      NULL,
      "prefetchi",
      NULL,
      NULL,
      NULL,
      NULL,
      "avx10"}},
    {0x7,
     2,
     EDX,
     0,
     {"psfd", "ipred_ctrl", "rrsba_ctrl", "ddpd_u", "bhi_ctrl", "mcdt_no"}},
    {0xd,
     0,
     EAX,
     0,
     {"xsave_x87", "xsave_sse", "xsave_avx", "xsave_bndregs", "xsave_bndcsr",
      "xsave_opmask", "xsave_zmm_hi256", "xsave_hi16_zmm", NULL, "xsave_pkru", NULL, NULL,
      NULL, NULL, NULL, NULL, NULL, "xsave_xtilecfg", "xsave_xtiledata"}},
    {0xd, 1, EAX, 0, {"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"}},
    {0xd,
     1,
     ECX,
     0,
     {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "xsaves_pt", NULL, NULL,
      "xsaves_cet_u", "xsaves_cet_s"}},
    {0x40000001,
     0,
     EAX,
     0,
     {"kvm_clock_old",
      "kvm_nop_io_delay",
      "kvm_mmu",
      "kvm_clock",
      "kvm_async_pf",
      "kvm_steal_time",
      "kvm_pv_eoi",
      "kvm_pv_unhalt",
      NULL,
      "kvm_pv_tlb_flush",
      "kvm_async_pf_vmexit",
      "kvm_pv_ipi",
      "kvm_poll_control",
      "kvm_pv_yield",
      "kvm_async_pf_int",
      "kvm_msi_ext_dest",
      "kvm_hc_map_gpa_range",
      "kvm_migration_control",
      NULL,
      NULL,
      NULL,
      NULL,
      NULL,
      NULL,
      "kvm_clock_stable"}},
    {0x80000001, 0, ECX, BIT(1), {"lahf_lm",    "cmp_legacy",  "svm",
                                  "extapic",    "cr8_legacy",  "abm",
                                  "sse4a",      "misalignsse", "3dnowprefetch",
                                  "osvw",       "ibs",         "xop",
                                  "skinit",     "wdt",         NULL,
                                  "lwp",        "fma4",        "tce",
                                  NULL,         "nodeid_msr",  NULL,
                                  "tbm",        "topoext",     "perfctr_core",
                                  "perfctr_nb", NULL,          "bpext",
                                  "ptsc",       "perfctr_llc", "mwaitx"}},
    /* AMD repeats leaf 1's there. */
    {0x80000001,
     0,
     EDX,
     0x0183f3ff,
     {[11] = "syscall",
      [19] = "mp",
      [20] = "nx",
      [22] = "mmxext",
      [25] = "fxsr_opt",
      [26] = "pdpe1gb",
      [27] = "rdtscp",
      [29] = "lm",
      [30] = "3dnowext",
      [31] = "3dnow"}},
    {0x80000007, 0, EDX, 0, {[8] = "constant_tsc"}},
    {0x80000008,
     0,
     EBX,
     0,
     {[0] = "clzero",
      [1] = "irperf",
      [2] = "xsaveerptr",
      [4] = "rdpru",
      [9] = "wbnoinvd",
      [12] = "ibpb",
      [14] = "ibrs",
      [15] = "amd_stibp",
      [17] = "stibp_always_on",
      [18] = "ibrs_preferred",
      [19] = "ibrs_same_mode",
      [23] = "amd_ppin",
      [24] = "amd_ssbd",
      [25] = "virt_ssbd",
      [26] = "amd_ssb_no",
      [27] = "cppc",
      [28] = "amd_psfd",
      [29] = "btc_no",
      [30] = "ibpb_ret"}},
    {0x8000000a,
     0,
     EDX,
     0,
     {[0] = "npt",
      [1] = "lbrv",
      [2] = "svm_lock",
      [3] = "nrip_save",
      [4] = "tsc_scale",
      [5] = "vmcb_clean",
      [6] = "flushbyasid",
      [7] = "decodeassists",
      [10] = "pausefilter",
      [12] = "pfthreshold",
      [13] = "avic",
      [15] = "v_vmsave_vmload",
      [16] = "vgif",
      [18] = "x2avic",
      [20] = "v_spec_ctrl",
      [25] = "vnmi",
      [28] = "svme_addr_chk"}},
    {0x80000021,
     0,
     EAX,
     0,
     {[0] = "no_nested_data_bp",
      [2] = "lfence_rdtsc",
      [6] = "null_sel_clr_base",
      [8] = "autoibrs",
      [9] = "no_smm_ctl_msr",
      [27] = "sbpb",
      [28] = "ibpb_brtype",
      [29] = "srso_no"}},
};

static uint32_t read_word(const struct kvm_cpuid2 *t, unsigned word)
{
    const struct kvm_cpuid_entry2 *e = x86_cpuid_find(t, words[word].function,
                                                      words[word].index);
    const uint32_t regs[] = {e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0,
                             e ? e->edx : 0};

    return regs[words[word].reg] & ~words[word].ours;
}

static char *bit_name(unsigned word, unsigned bit)
{
    if (words[word].bit[bit])
        return g_strdup(words[word].bit[bit]);
    return g_strdup_printf("cpuid-%x.%u-%s-%u", words[word].function, words[word].index,
                           reg_names[words[word].reg], bit);
}

static void add_names(GPtrArray *names, unsigned word, uint32_t bits)
{
    for (unsigned bit = 0; bit < 32; bit++)
        if (bits & BIT(bit))
            g_ptr_array_add(names, bit_name(word, bit));
}

GPtrArray *x86_features(const struct kvm_cpuid2 *t)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        add_names(names, i, read_word(t, i));
    return names;
}

GPtrArray *x86_features_missing(const struct kvm_cpuid2 *guest,
                                const struct kvm_cpuid2 *host)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        add_names(names, i, read_word(guest, i) & ~read_word(host, i));
    return names;
}

char *x86_features_text(const GPtrArray *names)
{
    enum { SHOWN = 6 };
    GString *out = g_string_new(NULL);

    for (unsigned i = 0; i < names->len && i < SHOWN; i++)
        g_string_append_printf(out, "%s%s", i ? ", " : "", (const char *)names->pdata[i]);
    if (names->len > SHOWN)
        g_string_append_printf(out, " and %u more", names->len - SHOWN);
    return g_string_free(out, FALSE);
}
