/* libpcap, loaded for the first filter: linked, it would slow down the start of every
 * VM.  Contract in packet/bpf.h. */
#include "packet/bpf.h"

#include <dlfcn.h>
#include <pcap/pcap.h>
#include <string.h>

#include "packet/packet.h"
#include "util/lock.h"

#define LIBRARY "libpcap.so.0.8"

struct BpfFilter {
    struct bpf_program program; /* libpcap's */
};

static Lock lock = LOCK_INIT; /* pcap_compile() is not everywhere thread-safe */
static bool is_loaded;
static struct {
    pcap_t *(*open_dead)(int link_type, int snaplen);
    int (*compile)(pcap_t *p, struct bpf_program *ret, const char *text, int optimize,
                   bpf_u_int32 netmask);
    char *(*geterr)(pcap_t *p);
    void (*freecode)(struct bpf_program *program);
    void (*close)(pcap_t *p);
    u_int (*filter)(const struct bpf_insn *insns, const u_char *frame, u_int len,
                    u_int here);
} lib; /* written once, under the lock */

static const struct {
    const char *name;
    void *at;
} symbols[] = {
    {"pcap_open_dead", &lib.open_dead}, {"pcap_compile", &lib.compile},
    {"pcap_geterr", &lib.geterr},       {"pcap_freecode", &lib.freecode},
    {"pcap_close", &lib.close},         {"bpf_filter", &lib.filter},
};

static bool load(GError **error)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "pcap filters need the library %s, which is not on this host: "
                    "install the package libpcap0.8",
                    LIBRARY);
    for (size_t i = 0; i < G_N_ELEMENTS(symbols); i++) {
        void *address = dlsym(library, symbols[i].name);

        if (!address) {
            dlclose(library);
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "%s of this host has no function %s: install libpcap 1.9 or "
                        "later",
                        LIBRARY, symbols[i].name);
        }
        memcpy(symbols[i].at, &address, sizeof(address));
    }
    return true;
}

static bool compile_locked(const char *text, struct bpf_program *ret, GError **error)
{
    pcap_t *p = lib.open_dead(DLT_EN10MB, PACKET_MAX);
    bool ok = p && lib.compile(p, ret, text, 1, PCAP_NETMASK_UNKNOWN) == 0;

    if (!ok)
        fail(error, VM_ERROR_INVALID, "pcap filter '%s': %s", text,
             p ? lib.geterr(p) : "no memory");
    if (p)
        lib.close(p);
    return ok;
}

BpfFilter *bpf_filter_new(const char *text, GError **error)
{
    BpfFilter *filter;
    struct bpf_program program;
    LOCK_GUARD(&lock);

    if (strlen(text) > BPF_MAX_TEXT) {
        fail(error, VM_ERROR_INVALID, "a pcap filter has %d characters at the most",
             BPF_MAX_TEXT);
        return NULL;
    }
    if (!is_loaded)
        is_loaded = load(error);
    if (!is_loaded || !compile_locked(text, &program, error))
        return NULL;
    filter = g_new0(BpfFilter, 1);
    filter->program = program;
    return filter;
}

void bpf_filter_free(BpfFilter *filter)
{
    if (!filter)
        return;
    lib.freecode(&filter->program);
    g_free(filter);
}

bool bpf_filter_match(const BpfFilter *filter, const uint8_t *frame, size_t len)
{
    return lib.filter(filter->program.bf_insns, frame, (u_int)len, (u_int)len) != 0;
}
