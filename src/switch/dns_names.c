/* The table of names that were answered (names.h): entries in one array, those of an
 * address in a chain.  What is over is found when its chain is walked, so that no timer
 * is needed. */
#include "src/switch/names.h"

#include <glib.h>

enum { BUCKETS = 1024, MAX_TTL_S = 86400, NONE = -1, MAX_PORTS = 2048 };

#define NS_PER_S 1000000000ll

typedef struct Entry {
    Ip ip;
    char *name; /* NULL: free */
    int64_t end_ns;
    int32_t next; /* in its chain, or the list of free ones */
    uint16_t port;
} Entry;

struct Names {
    Entry *entry; /* of n_made; grows up to NAMES_MAX */
    unsigned n_made;
    int32_t free;
    int32_t bucket[BUCKETS];
    uint16_t of_port[MAX_PORTS];
};

Names *names_new(void)
{
    Names *n = g_new0(Names, 1);

    n->free = NONE;
    for (unsigned i = 0; i < BUCKETS; i++)
        n->bucket[i] = NONE;
    return n;
}

void names_free(Names *n)
{
    if (!n)
        return;
    for (unsigned i = 0; i < n->n_made; i++)
        g_free(n->entry[i].name);
    g_free(n->entry);
    g_free(n);
}

static int32_t *bucket_of(Names *n, const Ip *ip)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (unsigned i = 0; i < sizeof(ip->b); i++)
        hash = (hash ^ ip->b[i]) * 16777619u;
    return &n->bucket[hash % BUCKETS];
}

/* Takes the entry that *link leads to out of its chain. */
static void drop(Names *n, int32_t *link)
{
    int32_t at = *link;
    Entry *e = &n->entry[at];

    *link = e->next;
    n->of_port[e->port]--;
    g_free(e->name);
    e->name = NULL;
    e->next = n->free;
    n->free = at;
}

static void drop_entry(Names *n, unsigned at)
{
    int32_t *link = bucket_of(n, &n->entry[at].ip);

    while (*link != (int32_t)at)
        link = &n->entry[*link].next;
    drop(n, link);
}

/* The entry that ends first, of a port or of all. */
static unsigned first_to_end(const Names *n, bool all, unsigned port)
{
    unsigned first = 0;
    int64_t end_ns = INT64_MAX;

    for (unsigned i = 0; i < n->n_made; i++) {
        const Entry *e = &n->entry[i];

        if (e->name && (all || e->port == port) && e->end_ns < end_ns) {
            first = i;
            end_ns = e->end_ns;
        }
    }
    return first;
}

static Entry *make(Names *n, unsigned port)
{
    int32_t at;

    if (n->of_port[port] >= NAMES_MAX_OF_PORT)
        drop_entry(n, first_to_end(n, false, port));
    else if (n->free == NONE && n->n_made == NAMES_MAX)
        drop_entry(n, first_to_end(n, true, 0));
    if (n->free == NONE) {
        if ((n->n_made & (n->n_made - 1)) == 0) /* full: twice as many */
            n->entry = g_renew(Entry, n->entry, MAX(2 * n->n_made, 1));
        n->entry[n->n_made] = (Entry){.next = NONE};
        n->free = (int32_t)n->n_made++;
    }
    at = n->free;
    n->free = n->entry[at].next;
    return &n->entry[at];
}

void names_add(Names *n, unsigned port, const char *name, const Ip *ip, uint32_t ttl,
               int64_t now_ns)
{
    int64_t end_ns = now_ns + (MIN(ttl, MAX_TTL_S) + NAMES_GRACE_S) * NS_PER_S;
    int32_t *link = bucket_of(n, ip);
    Entry *e;

    port = MIN(port, MAX_PORTS - 1);
    while (*link != NONE) {
        e = &n->entry[*link];
        if (e->end_ns <= now_ns) {
            drop(n, link);
            continue;
        }
        if (ip_equal(&e->ip, ip) && g_ascii_strcasecmp(e->name, name) == 0) {
            e->end_ns = MAX(e->end_ns, end_ns);
            return;
        }
        link = &e->next;
    }
    e = make(n, port);
    e->ip = *ip;
    e->name = g_strdup(name);
    e->end_ns = end_ns;
    e->port = (uint16_t)port;
    n->of_port[port]++;
    link = bucket_of(n, ip);
    e->next = *link;
    *link = (int32_t)(e - n->entry);
}

static bool matches(const char *pattern, const char *name)
{
    size_t len = strlen(name), suffix;

    if (pattern[0] != '*' || pattern[1] != '.')
        return g_ascii_strcasecmp(pattern, name) == 0;
    suffix = strlen(pattern + 1);
    return len > suffix && g_ascii_strcasecmp(name + len - suffix, pattern + 1) == 0;
}

bool names_have(Names *n, const char *pattern, const Ip *ip, int64_t now_ns)
{
    for (int32_t at = *bucket_of(n, ip); at != NONE; at = n->entry[at].next) {
        const Entry *e = &n->entry[at];

        if (e->end_ns > now_ns && ip_equal(&e->ip, ip) && matches(pattern, e->name))
            return true;
    }
    return false;
}

json_t *names_json(Names *n, int64_t now_ns)
{
    json_t *list = json_array();
    char text[IP_TEXT];

    for (unsigned i = 0; i < n->n_made; i++) {
        const Entry *e = &n->entry[i];

        if (e->name && e->end_ns > now_ns)
            json_array_append_new(
                list,
                json_pack("{ss ss sI}", "name", e->name, "address", ip_text(&e->ip, text),
                          "ttl", (json_int_t)((e->end_ns - now_ns) / NS_PER_S)));
    }
    return list;
}
