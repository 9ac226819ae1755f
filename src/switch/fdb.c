/* See fdb.h.
 *
 * A pool of entries, chained by hash, and those of one port in the order of when they
 * were last seen.  Entry 0 is nobody's and ends every list.  Old ones are found when they
 * are looked up, or all at once when there is no room, at most once a second: no timer
 * wakes an idle switch. */
#include "src/switch/fdb.h"

enum { BUCKETS = 4096, SWEEP_NS = 1000000000 };

typedef struct Entry {
    Mac mac;
    uint16_t vlan;
    uint16_t port;         /* its id */
    uint16_t next;         /* in the bucket, or of the free ones */
    uint16_t older, newer; /* at the same port */
    bool pinned;
    uint32_t seen_s;
} Entry;

struct Fdb {
    uint32_t secret; /* so that nobody can choose addresses of one bucket */
    uint16_t bucket[BUCKETS];
    uint16_t free, used; /* free ones that were used before; how many ever were */
    unsigned count;
    int64_t swept_ns;
    Entry entry[FDB_MAX + 1]; /* untouched until used */
};

Fdb *fdb_new(void)
{
    Fdb *fdb = g_new0(Fdb, 1);

    fdb->secret = g_random_int();
    return fdb;
}

void fdb_free(Fdb *fdb)
{
    g_free(fdb);
}

static unsigned bucket_of(const Fdb *fdb, const Mac *mac, uint16_t vlan)
{
    uint64_t v = 0;

    memcpy(&v, mac, sizeof(*mac));
    v = (v ^ (uint64_t)vlan << 48 ^ fdb->secret) * 0x9e3779b97f4a7c15ull;
    v ^= v >> 29;
    v *= 0xbf58476d1ce4e5b9ull;
    return v >> 52;
}
_Static_assert(BUCKETS == 1 << 12, "as many as 12 bits can say");

static uint32_t now_s(const Switch *sw)
{
    return (uint32_t)(sw->now_ns / 1000000000);
}

static bool too_old(const Switch *sw, const Entry *e)
{
    return !e->pinned && now_s(sw) - e->seen_s > sw->config->ageing_s;
}

/* ---- the list of a port ------------------------------------------------------------ */

static void list_add(Switch *sw, uint16_t i)
{
    Entry *e = &sw->fdb->entry[i];
    Port *port = sw->port[e->port];

    e->older = port->newest;
    e->newer = 0;
    if (port->newest)
        sw->fdb->entry[port->newest].newer = i;
    else
        port->oldest = i;
    port->newest = i;
    port->learned++;
}

static void list_remove(Switch *sw, uint16_t i)
{
    Entry *e = &sw->fdb->entry[i];
    Port *port = sw->port[e->port];

    if (e->older)
        sw->fdb->entry[e->older].newer = e->newer;
    else
        port->oldest = e->newer;
    if (e->newer)
        sw->fdb->entry[e->newer].older = e->older;
    else
        port->newest = e->older;
    port->learned--;
}

/* ---- entries ----------------------------------------------------------------------- */

static uint16_t find(const Fdb *fdb, const Mac *mac, uint16_t vlan)
{
    uint16_t i = fdb->bucket[bucket_of(fdb, mac, vlan)];

    while (i && (fdb->entry[i].vlan != vlan || !mac_equal(&fdb->entry[i].mac, mac)))
        i = fdb->entry[i].next;
    return i;
}

static void drop(Switch *sw, uint16_t i)
{
    Fdb *fdb = sw->fdb;
    Entry *e = &fdb->entry[i];
    uint16_t *at = &fdb->bucket[bucket_of(fdb, &e->mac, e->vlan)];

    while (*at != i)
        at = &fdb->entry[*at].next;
    *at = e->next;
    list_remove(sw, i);
    e->next = fdb->free;
    fdb->free = i;
    fdb->count--;
}

static void drop_old(Switch *sw)
{
    Fdb *fdb = sw->fdb;

    if (sw->now_ns - fdb->swept_ns < SWEEP_NS)
        return;
    fdb->swept_ns = sw->now_ns;
    for (unsigned b = 0; b < BUCKETS; b++) {
        for (uint16_t i = fdb->bucket[b], next; i; i = next) {
            next = fdb->entry[i].next;
            if (too_old(sw, &fdb->entry[i]))
                drop(sw, i);
        }
    }
}

/* 0: none. */
static uint16_t take_free(Fdb *fdb)
{
    uint16_t i = fdb->free;

    if (i)
        fdb->free = fdb->entry[i].next;
    else if (fdb->used < FDB_MAX)
        i = ++fdb->used;
    return i;
}

static void add(Switch *sw, Port *port, const Mac *mac, uint16_t vlan, bool pinned)
{
    Fdb *fdb = sw->fdb;
    uint16_t *head = &fdb->bucket[bucket_of(fdb, mac, vlan)];
    uint16_t i;

    if (port->learned >= FDB_MAX_LEARNED)
        drop(sw, port->oldest);
    i = take_free(fdb);
    if (!i) {
        drop_old(sw);
        i = take_free(fdb);
    }
    if (!i)
        return;
    fdb->entry[i] = (Entry){.mac = *mac,
                            .vlan = vlan,
                            .port = (uint16_t)port->id,
                            .next = *head,
                            .pinned = pinned,
                            .seen_s = now_s(sw)};
    *head = i;
    fdb->count++;
    list_add(sw, i);
}

void fdb_learn(Switch *sw, Port *from, const Mac *mac, uint16_t vlan)
{
    uint16_t i = find(sw->fdb, mac, vlan);
    Entry *e = &sw->fdb->entry[i];

    if (i && e->port == from->id && e->seen_s == now_s(sw))
        return; /* nearly always */
    if (!i) {
        add(sw, from, mac, vlan, false);
        return;
    }
    if (e->pinned && e->port != from->id)
        return;
    list_remove(sw, i);
    e->port = (uint16_t)from->id;
    e->seen_s = now_s(sw);
    list_add(sw, i);
}

void fdb_pin(Switch *sw, Port *port, const Mac *mac, uint16_t vlan)
{
    uint16_t i = find(sw->fdb, mac, vlan);

    if (i)
        drop(sw, i);
    add(sw, port, mac, vlan, true);
}

Port *fdb_find(Switch *sw, const Mac *mac, uint16_t vlan)
{
    uint16_t i = find(sw->fdb, mac, vlan);

    if (!i)
        return NULL;
    if (!too_old(sw, &sw->fdb->entry[i]))
        return sw->port[sw->fdb->entry[i].port];
    drop(sw, i);
    return NULL;
}

void fdb_forget(Switch *sw, Port *port)
{
    while (port->oldest)
        drop(sw, port->oldest);
}

unsigned fdb_count(Switch *sw)
{
    unsigned n = 0;

    for (unsigned b = 0; b < BUCKETS; b++)
        for (uint16_t i = sw->fdb->bucket[b]; i; i = sw->fdb->entry[i].next)
            n += !too_old(sw, &sw->fdb->entry[i]);
    return n;
}

static json_t *entry_json(Switch *sw, const Entry *e)
{
    const Port *port = sw->port[e->port];
    char mac[MAC_TEXT];
    json_t *json = json_pack("{s:s, s:i, s:i, s:i}", "mac", mac_text(&e->mac, mac),
                             "vlan", e->vlan, "port", (int)port->id, "age",
                             (int)(now_s(sw) - e->seen_s));

    if (port->vm)
        json_object_set_new(json, "vm", json_string(port->vm));
    return json;
}

json_t *fdb_json(Switch *sw)
{
    json_t *list = json_array();

    for (unsigned b = 0; b < BUCKETS; b++) {
        for (uint16_t i = sw->fdb->bucket[b]; i; i = sw->fdb->entry[i].next) {
            const Entry *e = &sw->fdb->entry[i];

            if (!too_old(sw, e))
                json_array_append_new(list, entry_json(sw, e));
        }
    }
    return list;
}
