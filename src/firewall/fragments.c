/* Which fragments may pass: those of packets whose first fragment did (RFC 1858, RFC
 * 7112).  The first one has the whole transport header, and nothing that comes later may
 * lie within it, so that what was judged is what arrives.  A later fragment that comes
 * before the first is lost, as is what is beyond the table: it is small, and its oldest
 * entry of four makes room. */
#include "src/firewall/flows.h"

enum { ENTRIES = 256, WAYS = 4 };

static const int64_t lasts_ns = 30 * 1000000000ll; /* as Linux waits for the rest */

void fragments_clear(Fragments *t)
{
    g_clear_pointer(&t->fragment, g_free);
}

static void set_key(FwDirection direction, const Packet *p, FlowKey *key)
{
    *key = (FlowKey){.local = direction == FW_OUT ? p->from : p->to,
                     .remote = direction == FW_OUT ? p->to : p->from};
    if (p->kind == PACKET_IPV4) /* IPv6's later ones may name an extension header */
        key->proto = p->proto;
}

/* Ids are the sender's choice: who makes them meet loses his own packets. */
static Fragment *ways(const Fragments *t, uint32_t id)
{
    return &t->fragment[(id ^ id >> 16) * WAYS % ENTRIES];
}

static bool is(const Fragment *f, FwDirection direction, const FlowKey *key, uint32_t id)
{
    return f->until_ns && f->id == id && f->direction == direction &&
           memcmp(&f->key, key, sizeof(*key)) == 0;
}

const Fragment *fragments_find(const Fragments *t, FwDirection direction, const Packet *p,
                               uint32_t generation, int64_t now_ns)
{
    FlowKey key;

    if (!t->fragment)
        return NULL;
    set_key(direction, p, &key);
    for (unsigned i = 0; i < WAYS; i++) {
        const Fragment *f = ways(t, p->id) + i;

        if (is(f, direction, &key, p->id) && f->generation == generation)
            return f->until_ns >= now_ns && p->offset >= f->end ? f : NULL;
    }
    return NULL;
}

void fragments_add(Fragments *t, FwDirection direction, const Packet *p,
                   uint32_t generation, const uint16_t rule[2], int64_t now_ns)
{
    uint32_t end = p->bytes;
    Fragment *f, *old;
    FlowKey key;

    if (!t->fragment)
        t->fragment = g_try_new0(Fragment, ENTRIES);
    if (!t->fragment)
        return;
    set_key(direction, p, &key);
    old = ways(t, p->id);
    for (unsigned i = 0; i < WAYS; i++) {
        f = ways(t, p->id) + i;
        if (is(f, direction, &key, p->id)) { /* twice: none may lie within the longer */
            end = f->until_ns >= now_ns ? MAX(end, f->end) : end;
            old = f;
            break;
        }
        if (f->until_ns < old->until_ns)
            old = f;
    }
    *old = (Fragment){.key = key,
                      .id = p->id,
                      .end = end,
                      .until_ns = now_ns + lasts_ns,
                      .generation = generation,
                      .direction = (uint8_t)direction,
                      .rule = {rule[0], rule[1]}};
}
