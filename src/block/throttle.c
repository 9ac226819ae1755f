/* Limits on a disk, or on several together: bytes and requests a second, for reads, for
 * writes, and for both.
 *
 * Each limit is a virtual schedule (the generic cell rate algorithm): `due` is when the
 * work admitted so far is paid for at the given rate.  A request may begin as soon as
 * `due` is no further ahead than the burst allows, and puts it off by its own cost.
 * Whoever comes reserves a place in time and then waits for it, so that several disks of
 * a group take turns, and no time is lost to late wake-ups. */
#include "block_private.h"

enum { N_LIMITS = 6 };
#define NO_BURST_NS  (20 * 1000 * 1000) /* how far work may be bunched all the same */
#define MAX_AHEAD_NS (3600ll * 1000000000)

typedef struct Limit {
    uint64_t rate, burst; /* a second; units on top, after a rest.  rate 0: none */
    int64_t due_ns;
} Limit;

struct BlockThrottle {
    char *name; /* NULL: of one disk only */
    unsigned refs;
    bool on;             /* atomic: there is a limit */
    unsigned generation; /* atomic */
    Lock lock;           /* leaf; guards the rest */
    Limit limit[N_LIMITS];
    BlockLimits given;
    struct BlockThrottle *next;
};

static Lock groups_lock = LOCK_INIT;
static BlockThrottle *groups; /* those with a name */

/* Which limits a request counts for. */
static const struct {
    bool bytes, read, write;
} kinds[N_LIMITS] = {
    {true, true, true},  {true, true, false},  {true, false, true},
    {false, true, true}, {false, true, false}, {false, false, true},
};

BlockThrottle *block_throttle_get(const char *name)
{
    BlockThrottle *t;

    LOCK_GUARD(&groups_lock);
    for (t = groups; name && t; t = t->next)
        if (g_str_equal(t->name, name)) {
            t->refs++;
            return t;
        }
    t = g_new0(BlockThrottle, 1);
    t->name = g_strdup(name);
    t->refs = 1;
    lock_init(&t->lock);
    if (name) {
        t->next = groups;
        groups = t;
    }
    return t;
}

void block_throttle_put(BlockThrottle *t)
{
    if (!t)
        return;
    lock_acquire(&groups_lock);
    if (--t->refs) {
        lock_release(&groups_lock);
        return;
    }
    for (BlockThrottle **p = &groups; *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            break;
        }
    lock_release(&groups_lock);
    lock_finish(&t->lock);
    g_free(t->name);
    g_free(t);
}

bool block_limits_any(const BlockLimits *l)
{
    return l->bps || l->bps_read || l->bps_write || l->iops || l->iops_read ||
           l->iops_write;
}

void block_throttle_set(BlockThrottle *t, const BlockLimits *l)
{
    const uint64_t rates[N_LIMITS] = {l->bps,  l->bps_read,  l->bps_write,
                                      l->iops, l->iops_read, l->iops_write};

    LOCK_GUARD(&t->lock);
    t->given = *l;
    for (unsigned i = 0; i < N_LIMITS; i++)
        t->limit[i] = (Limit){.rate = rates[i],
                              .burst = kinds[i].bytes ? l->bps_burst : l->iops_burst};
    __atomic_store_n(&t->on, block_limits_any(l), __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->generation, 1, __ATOMIC_RELAXED);
}

void block_throttle_read(BlockThrottle *t, BlockLimits *ret)
{
    LOCK_GUARD(&t->lock);
    *ret = t->given;
}

const char *block_throttle_name(const BlockThrottle *t)
{
    return t->name;
}

bool block_throttle_on(const BlockThrottle *t)
{
    return __atomic_load_n(&t->on, __ATOMIC_RELAXED);
}

unsigned block_throttle_generation(const BlockThrottle *t)
{
    return __atomic_load_n(&t->generation, __ATOMIC_RELAXED);
}

static int64_t cost_ns(uint64_t units, uint64_t rate)
{
    double ns = (double)units * 1e9 / (double)rate;

    return ns < (double)MAX_AHEAD_NS ? (int64_t)ns : MAX_AHEAD_NS;
}

static int64_t earliest(const Limit *l, int64_t now_ns)
{
    int64_t slack = l->burst ? cost_ns(l->burst, l->rate) : NO_BURST_NS;

    return MAX(now_ns, l->due_ns - slack);
}

int64_t block_throttle_reserve(BlockThrottle *t, bool write, uint64_t bytes,
                               int64_t now_ns)
{
    int64_t when = now_ns;

    LOCK_GUARD(&t->lock);
    for (unsigned i = 0; i < N_LIMITS; i++)
        if (t->limit[i].rate && (write ? kinds[i].write : kinds[i].read))
            when = MAX(when, earliest(&t->limit[i], now_ns));
    for (unsigned i = 0; i < N_LIMITS; i++) {
        Limit *l = &t->limit[i];

        if (l->rate && (write ? kinds[i].write : kinds[i].read))
            l->due_ns = MAX(l->due_ns, when) +
                        cost_ns(kinds[i].bytes ? bytes : 1, l->rate);
    }
    return when;
}
