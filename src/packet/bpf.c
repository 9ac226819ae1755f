/* libpcap, loaded for the first filter: linked, it would slow down the start of every
 * VM.  Contract in packet/bpf.h. */
#include "packet/bpf.h"

#include <pcap/pcap.h>
#include <string.h>

#include "packet/packet.h"
#include "util/library.h"
#include "util/lock.h"

struct BpfFilter {
    struct bpf_program program; /* libpcap's */
};

static Lock lock = LOCK_INIT; /* pcap_compile() is not everywhere thread-safe */
static bool is_loaded;
typedef struct PcapLib {
    pcap_t *(*open_dead)(int link_type, int snaplen);
    int (*compile)(pcap_t *p, struct bpf_program *ret, const char *text, int optimize,
                   bpf_u_int32 netmask);
    char *(*geterr)(pcap_t *p);
    void (*freecode)(struct bpf_program *program);
    void (*close)(pcap_t *p);
    u_int (*filter)(const struct bpf_insn *insns, const u_char *frame, u_int len,
                    u_int here);
} PcapLib;
static PcapLib lib; /* written once, under the lock */

static const Library library = {"libpcap.so.0.8", "pcap filters", "libpcap0.8",
                                "libpcap 1.9"};
static const LibrarySymbol symbols[] = {
    {"pcap_open_dead", offsetof(PcapLib, open_dead)},
    {"pcap_compile", offsetof(PcapLib, compile)},
    {"pcap_geterr", offsetof(PcapLib, geterr)},
    {"pcap_freecode", offsetof(PcapLib, freecode)},
    {"pcap_close", offsetof(PcapLib, close)},
    {"bpf_filter", offsetof(PcapLib, filter)},
};

static bool load(GError **error)
{
    return library_load(&library, symbols, G_N_ELEMENTS(symbols), &lib, error);
}

/* ---- words ----------------------------------------------------------------------------
 */

/* pcap-filter(7), what is of use for frames of Ethernet that are at rest.  Not among them
 * is protochain, whose programs have loops. */
static const char words[] =
    " dst src host net mask port portrange proto ether arp rarp ip ip6 tcp udp sctp icmp "
    "icmp6 igmp pim vrrp carp ah esp stp llc vlan mpls pppoed pppoes less greater "
    "broadcast "
    "multicast and or not len "
    "icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect "
    "icmp-echo icmp-routeradvert icmp-routersolicit icmp-timxceed icmp-paramprob "
    "icmp-tstamp icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq icmp-maskreply "
    "icmp6type icmp6code icmp6-destinationunreach icmp6-packettoobig icmp6-timeexceeded "
    "icmp6-parameterproblem icmp6-echo icmp6-echoreply icmp6-routersolicit "
    "icmp6-routeradvert icmp6-neighborsolicit icmp6-neighboradvert icmp6-redirect "
    "tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr ";

static bool is_number(const char *text, size_t len)
{
    if (memchr(text, ':', len)) /* addresses of IPv6 and of Ethernet */
        return strspn(text, "0123456789abcdefABCDEF:.") >= len;
    if (len > 2 && g_str_has_prefix(text, "0x"))
        return strspn(text + 2, "0123456789abcdefABCDEF") >= len - 2;
    return strspn(text, "0123456789.-") >= len;
}

bool bpf_check_words(const char *text, size_t *ret_at, GError **error)
{
    for (const char *at = text; *at;) {
        size_t len = 0;

        while (g_ascii_isalnum(at[len]) || (at[len] && strchr("_.:-", at[len])))
            len++;
        if (len == 0) {
            at++;
            continue;
        }
        g_autofree char *word = g_strdup_printf(" %.*s ", (int)len, at);
        if (!is_number(at, len) && !strstr(words, word)) {
            *ret_at = (size_t)(at - text);
            return fail(error, VM_ERROR_INVALID,
                        "'%.*s' is no word of pcap filters that is known here; hosts, "
                        "protocols and ports are written as numbers",
                        (int)MIN(len, 64), at);
        }
        at += len;
    }
    return true;
}

/* ---- programs -------------------------------------------------------------------------
 */

static bool compile_locked(const char *text, bool optimize, struct bpf_program *ret,
                           GError **error)
{
    pcap_t *p = lib.open_dead(DLT_EN10MB, PACKET_MAX);
    bool ok = p && lib.compile(p, ret, text, optimize, PCAP_NETMASK_UNKNOWN) == 0;

    if (!ok)
        fail(error, VM_ERROR_INVALID, "pcap filter '%.64s': %s", text,
             p ? lib.geterr(p) : "no memory");
    if (p)
        lib.close(p);
    return ok;
}

/* Whether the optimizer can be let loose on it. */
static bool is_small_locked(const char *text, GError **error)
{
    struct bpf_program plain;
    unsigned steps;

    if (!compile_locked(text, false, &plain, error))
        return false;
    steps = plain.bf_len;
    lib.freecode(&plain);
    return steps <= BPF_MAX_STEPS ||
           fail(error, VM_ERROR_INVALID,
                "pcap filter '%.64s' takes %u steps for a frame, more than %d: make "
                "several of it",
                text, steps, BPF_MAX_STEPS);
}

BpfFilter *bpf_filter_new(const char *text, GError **error)
{
    BpfFilter *filter;
    struct bpf_program program;
    size_t at;
    LOCK_GUARD(&lock);

    if (strlen(text) > BPF_MAX_TEXT) {
        fail(error, VM_ERROR_INVALID, "a pcap filter has %d characters at the most",
             BPF_MAX_TEXT);
        return NULL;
    }
    if (!bpf_check_words(text, &at, error)) {
        g_prefix_error(error, "pcap filter '%.64s': ", text);
        return NULL;
    }
    if (!is_loaded)
        is_loaded = load(error);
    if (!is_loaded || !is_small_locked(text, error) ||
        !compile_locked(text, true, &program, error))
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
