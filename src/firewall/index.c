/* Finds the first rule that is about a packet.  Rules are kept in a list for each
 * direction and kind of packet, so that a TCP packet that comes in is not compared with
 * rules about UDP, ICMP, or the other direction. */
#include "src/firewall/rules.h"

typedef enum { KIND_TCP, KIND_UDP, KIND_ICMP, KIND_IP, KIND_OTHER, KINDS } Kind;

struct Index {
    const GPtrArray *rules; /* the set's */
    GArray *list[2][KINDS]; /* of numbers of rules, from first to last */
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

Index *index_new(const Firewall *fw)
{
    Index *index = g_new0(Index, 1);

    index->rules = fw->rules;
    for (unsigned direction = 0; direction < 2; direction++) {
        for (unsigned kind = 0; kind < KINDS; kind++)
            index->list[direction][kind] = g_array_new(FALSE, FALSE, sizeof(unsigned));
    }
    for (unsigned i = 0; i < fw->rules->len; i++) {
        const Rule *rule = fw->rules->pdata[i];

        for (unsigned kind = 0; kind < KINDS; kind++) {
            if (can_be(rule, kind))
                g_array_append_val(index->list[rule->direction][kind], i);
        }
    }
    return index;
}

void index_free(Index *index)
{
    if (!index)
        return;
    for (unsigned direction = 0; direction < 2; direction++) {
        for (unsigned kind = 0; kind < KINDS; kind++)
            g_array_unref(index->list[direction][kind]);
    }
    g_free(index);
}

unsigned index_find(const Index *index, const Subject *s, const FwWorld *world)
{
    const GArray *list = index->list[s->direction][kind_of(s->p)];

    for (unsigned i = 0; i < list->len; i++) {
        unsigned number = g_array_index(list, unsigned, i);

        if (rule_matches(index->rules->pdata[number], s, world))
            return number;
    }
    return UINT_MAX;
}
