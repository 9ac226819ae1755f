/* Finds the first rule that is about a packet without looking at all of them: tuple space
 * search.  Rules whose other end (who talks to the VM, or who it talks to) is a prefix of
 * one length and whose port is a prefix of one length are a tuple, and are found by one
 * look into a hash table; a range of ports is several prefixes, an end that is no address
 * and a port that is any are prefixes of no bits.  What is found is compared as a whole,
 * so that the table may find too much, but not too little.
 *
 * There are as many tuples as combinations of lengths: few, in thousands of rules.  They
 * are looked at in the order of their first rules, until no other can hold an earlier
 * one. There is one space for each direction and kind of packet. */
#include "src/firewall/rules.h"

typedef enum { KIND_TCP, KIND_UDP, KIND_ICMP, KIND_IP, KIND_OTHER, KINDS } Kind;

enum {
    PORT_BITS = 16,
    MOST_KEYS = 64,         /* of one rule; more are not told apart */
    MOST_ENTRIES = 1 << 15, /* of a space; rules beyond have one key each */
};

typedef struct Prefix {
    uint64_t ip[2];
    uint16_t port;
    uint8_t ip_bits, port_bits;
} Prefix;

/* A rule under one of its keys. */
typedef struct Entry {
    Prefix key;
    unsigned rule;
    int32_t next; /* a later rule of the same bucket; -1: none */
} Entry;

typedef struct Tuple {
    uint64_t ip_mask[2];
    uint16_t port_mask;
    unsigned first;   /* of its rules */
    unsigned buckets; /* a power of two */
    int32_t *bucket;
} Tuple;

typedef struct Space {
    GArray *entries; /* Entry, by tuple and rule */
    GArray *tuples;  /* Tuple, by first rule */
} Space;

struct Index {
    const GPtrArray *rules; /* the set's */
    Space space[2][KINDS];
};

static Kind kind_of(const Packet *p)
{
    if (p->kind != PACKET_IPV4 && p->kind != PACKET_IPV6)
        return KIND_OTHER;
    switch (p->proto) {
    case IPPROTO_TCP:
        return KIND_TCP;
    case IPPROTO_UDP:
        return KIND_UDP;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        return KIND_ICMP;
    }
    return KIND_IP;
}

static bool can_be(const Rule *rule, Kind kind)
{
    bool ports = rule->ports[END_FROM] || rule->ports[END_TO];

    switch (rule->proto) {
    case PROTO_ANY:
        return !ports || kind == KIND_TCP || kind == KIND_UDP;
    case IPPROTO_TCP:
        return kind == KIND_TCP;
    case IPPROTO_UDP:
        return kind == KIND_UDP;
    case PROTO_ICMP_BOTH:
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        return kind == KIND_ICMP;
    }
    return kind == KIND_IP;
}

static End other_end(FwDirection direction)
{
    return direction == FW_IN ? END_FROM : END_TO;
}

/* ---- a rule's keys -------------------------------------------------------------------
 */

static void words_of(const Ip *ip, uint64_t ret[2])
{
    memcpy(ret, ip->b, sizeof(ip->b));
}

/* Adds the prefixes that a range of ports is made of. */
static void add_range(const Ports *range, GArray *to)
{
    unsigned at = range->first, last = range->last;

    while (at <= last) {
        unsigned bits = PORT_BITS, size = 1;

        while (bits && !(at & size) && at + 2 * size - 1 <= last) {
            size *= 2;
            bits--;
        }
        Prefix p = {.port = (uint16_t)at, .port_bits = (uint8_t)bits};
        g_array_append_val(to, p);
        at += size;
    }
}

/* Ports' prefixes; any port, if there are more than are told apart. */
static void add_ports(const Rule *rule, GArray *to)
{
    const GArray *ports = rule->ports[END_TO];

    for (unsigned i = 0; ports && i < ports->len && to->len <= MOST_KEYS; i++)
        add_range(&g_array_index(ports, Ports, i), to);
    if (to->len && to->len <= MOST_KEYS)
        return;
    Prefix any = {.port_bits = 0};
    g_array_set_size(to, 0);
    g_array_append_val(to, any);
}

/* NULL: not all are addresses, or there are too many. */
static const GArray *addresses_of(const Rule *rule)
{
    const GArray *whos = rule->who[other_end(rule->direction)];

    for (unsigned i = 0; whos && i < whos->len; i++) {
        if (g_array_index(whos, Who, i).kind != WHO_ADDRESS)
            return NULL;
    }
    return whos && whos->len <= MOST_KEYS ? whos : NULL;
}

/* Every address with every port. */
static void add_keys(const Rule *rule, unsigned number, GArray *to)
{
    g_autoptr(GArray) ports = g_array_new(FALSE, FALSE, sizeof(Prefix));
    bool room = to->len < MOST_ENTRIES;
    const GArray *whos = room ? addresses_of(rule) : NULL;
    unsigned n = whos ? whos->len : 1;

    add_ports(rule, ports);
    if (ports->len * n > MOST_KEYS || !room) {
        g_array_set_size(ports, 1);
        g_array_index(ports, Prefix, 0) = (Prefix){.port_bits = 0};
    }
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < ports->len; j++) {
            Entry e = {.key = g_array_index(ports, Prefix, j), .rule = number};

            if (whos) {
                const IpPrefix *prefix = &g_array_index(whos, Who, i).prefix;

                words_of(&prefix->ip, e.key.ip);
                e.key.ip_bits = prefix->bits;
            }
            g_array_append_val(to, e);
        }
    }
}

/* ---- building ------------------------------------------------------------------------
 */

static int by_tuple(gconstpointer a, gconstpointer b)
{
    const Entry *x = a, *y = b;

    if (x->key.ip_bits != y->key.ip_bits)
        return x->key.ip_bits - y->key.ip_bits;
    if (x->key.port_bits != y->key.port_bits)
        return x->key.port_bits - y->key.port_bits;
    return x->rule < y->rule ? -1 : x->rule > y->rule;
}

static int by_first(gconstpointer a, gconstpointer b)
{
    const Tuple *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static unsigned bucket_of(const Tuple *t, const uint64_t ip[2], uint16_t port)
{
    uint64_t h = ip[0] * 0x9e3779b97f4a7c15ull;

    h = (h ^ h >> 29 ^ ip[1]) * 0xbf58476d1ce4e5b9ull;
    h = (h ^ h >> 32 ^ port) * 0x94d049bb133111ebull;
    return (unsigned)(h >> 32) & (t->buckets - 1);
}

static Ip ones(unsigned bits)
{
    Ip ip = {{0}};

    for (unsigned i = 0; i < bits; i++)
        ip.b[i / 8] |= (uint8_t)(0x80 >> i % 8);
    return ip;
}

/* Of the entries from `begin` to before `end`, which are one tuple's. */
static void add_tuple(Space *space, unsigned begin, unsigned end)
{
    Entry *entry = &g_array_index(space->entries, Entry, 0);
    const Prefix *key = &entry[begin].key;
    Ip mask = ones(key->ip_bits);
    Tuple t = {.port_mask = (uint16_t)(0xffff0000u >> key->port_bits),
               .first = entry[begin].rule,
               .buckets = 1};

    words_of(&mask, t.ip_mask);
    while (t.buckets < 2 * (end - begin))
        t.buckets *= 2;
    t.bucket = g_new(int32_t, t.buckets);
    memset(t.bucket, 0xff, t.buckets * sizeof(*t.bucket));
    for (unsigned i = end; i-- > begin;) { /* the first comes to stand first */
        int32_t *head = &t.bucket[bucket_of(&t, entry[i].key.ip, entry[i].key.port)];

        entry[i].next = *head;
        *head = (int32_t)i;
    }
    g_array_append_val(space->tuples, t);
}

static void build(Space *space)
{
    unsigned begin = 0;

    g_array_sort(space->entries, by_tuple);
    for (unsigned i = 1; i <= space->entries->len; i++) {
        const Prefix *last = &g_array_index(space->entries, Entry, begin).key;
        const Prefix *key = i < space->entries->len
                                ? &g_array_index(space->entries, Entry, i).key
                                : NULL;

        if (key && key->ip_bits == last->ip_bits && key->port_bits == last->port_bits)
            continue;
        add_tuple(space, begin, i);
        begin = i;
    }
    g_array_sort(space->tuples, by_first);
}

static void tuple_clear(gpointer opaque)
{
    g_free(((Tuple *)opaque)->bucket);
}

Index *index_new(const Firewall *fw)
{
    Index *index = g_new0(Index, 1);

    index->rules = fw->rules;
    for (unsigned i = 0; i < 2 * KINDS; i++) {
        Space *space = &index->space[i / KINDS][i % KINDS];

        space->entries = g_array_new(FALSE, FALSE, sizeof(Entry));
        space->tuples = g_array_new(FALSE, FALSE, sizeof(Tuple));
        g_array_set_clear_func(space->tuples, tuple_clear);
        for (unsigned number = 0; number < fw->rules->len; number++) {
            const Rule *rule = fw->rules->pdata[number];

            if (rule->direction == i / KINDS && can_be(rule, (Kind)(i % KINDS)))
                add_keys(rule, number, space->entries);
        }
        build(space);
    }
    return index;
}

void index_free(Index *index)
{
    if (!index)
        return;
    for (unsigned i = 0; i < 2 * KINDS; i++) {
        g_array_unref(index->space[i / KINDS][i % KINDS].entries);
        g_array_unref(index->space[i / KINDS][i % KINDS].tuples);
    }
    g_free(index);
}

/* ---- looking -------------------------------------------------------------------------
 */

unsigned index_find(const Index *index, const Subject *s, const FwWorld *world)
{
    const Packet *p = s->p;
    const Space *space = &index->space[s->direction][kind_of(p)];
    const Entry *entry = (const Entry *)(const void *)space->entries->data;
    unsigned best = UINT_MAX;
    uint64_t ip[2];

    words_of(other_end(s->direction) == END_FROM ? &p->from : &p->to, ip);
    for (unsigned i = 0; i < space->tuples->len; i++) {
        const Tuple *t = &g_array_index(space->tuples, Tuple, i);
        uint64_t masked[2] = {ip[0] & t->ip_mask[0], ip[1] & t->ip_mask[1]};
        int32_t at;

        if (t->first >= best)
            break;
        at = t->bucket[bucket_of(t, masked, p->to_port & t->port_mask)];
        for (; at >= 0 && entry[at].rule < best; at = entry[at].next) {
            if (rule_matches(index->rules->pdata[entry[at].rule], s, world))
                best = entry[at].rule;
        }
    }
    return best;
}
