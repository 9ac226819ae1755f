/* What leases.c and its kin, leases_*.c, share. */
#pragma once

#include "src/switch/leases.h"

enum { FAMILIES = 2, DECLINED_MAX = 64, DECLINES_MAX = 3 };

/* One vNIC's.  [0] is IPv4's, [1] IPv6's. */
typedef struct Lease {
    char *key;               /* VM/NIC, or a MAC */
    char *vm, *nic;          /* NULL: known by its MAC only */
    Mac mac;                 /* as of the last time */
    Ip ip[FAMILIES];         /* ::, if it has none */
    bool bound[FAMILIES];    /* it took it; else it was only offered */
    int64_t until[FAMILIES]; /* as its station knows; seconds since 1970, 0: does not */
    int64_t seen;            /* seconds since 1970 */
    Port *port;              /* where it is now; NULL: it does not run */
    unsigned declines;       /* of the last hour, about */
    int64_t declined_at;
    GList link; /* in leases->all, the longest not seen first */
} Lease;

/* By the network's config. */
typedef struct Static {
    char *vm;
    Ip ip;
} Static;

typedef struct Declined {
    Ip ip;
    int64_t until_ns;
} Declined;

struct Leases {
    Gateway *gw;
    GQueue all;
    GHashTable *by_key, *by_ip; /* keys are in the leases */
    GArray *statics;            /* of Static */
    Declined declined[DECLINED_MAX];
    unsigned next_declined;
    bool dirty;
    int64_t writes_ns; /* when the bucket of writes is full again */
    IoTimer timer;     /* armed while it has to be written */
};

extern const Ip no_ip;

static inline bool ip_is_set(const Ip *ip)
{
    return !ip_equal(ip, &no_ip);
}

static inline bool ip_family(const Ip *ip) /* true: IPv6 */
{
    return !ip_is_v4(ip);
}

int64_t leases_now(void); /* seconds since 1970 */

/* ---- the table: leases_table.c --------------------------------------------------- */

Leases *leases_new(Gateway *gw); /* empty, without statics */
void leases_free(Leases *l);     /* all of them, wherever their ports are */

/* vm and nic may be NULL.  NULL: all are in use by ports. */
Lease *leases_add(Leases *l, const char *vm, const char *nic, const Mac *mac);
void leases_remove(Leases *l, Lease *lease);
void leases_seen(Leases *l, Lease *lease);
/* NULL or ::: takes it away.  Whoever had it has it no more. */
void leases_set_ip(Leases *l, Lease *lease, bool v6, const Ip *ip);
Lease *leases_by_ip(Leases *l, const Ip *ip);
/* Of a VM's card; vm NULL: of a station. */
Lease *leases_by_name(Leases *l, const char *vm, const char *nic, const Mac *mac);

/* Rules, names and forwards are about addresses that are bound: what is only offered is
 * nobody's yet, and a client may ask for another offer with each of its messages. */
void leases_bound_changed(Leases *l);

/* The VM whose address it is by config; NULL: none's. */
const char *leases_static_vm(Leases *l, const Ip *ip);

/* leases_choose.c: sets lease->ip; false: there is no address. */
bool leases_choose(Leases *l, Lease *lease, Port *port, bool v6, const Ip *wanted);
/* Within the network's subnet, and for hosts. */
bool leases_in_pool(const Gateway *gw, const Ip *ip);

/* leases_file.c.  Soon: at once, unless that was often; later: within seconds. */
void leases_load(Leases *l);
void leases_write_soon(Leases *l);
void leases_write_later(Leases *l);
void leases_write_now(Leases *l); /* if there is anything */
