/* The table of flows.  It grows by doubling up to its bound, and never shrinks.
 *
 * Where a flow is found is decided by a hash with secret keys of the table's own (the sum
 * of products that UMAC calls NH, RFC 4418, with 64-bit words), so that nobody can choose
 * addresses that meet in one bucket.
 *
 * The flows of a state form a list, oldest first.  A packet does not move its flow in it:
 * whoever looks for old ones does, when it finds one that was seen since it was placed
 * there.  Old ones are only looked for when there is no free place, so that there is no
 * timer; nobody finds a flow whose time is over. */
#include "src/firewall/flows.h"

#include <stdlib.h>
#include <sys/random.h>

#define SECOND 1000000000ll

enum {
    FIRST_SIZE = 32,
    LOOKED_AT = 2, /* flows of each list, when room is needed: a flood pays for it */
};

/* As Linux's connection tracking has them, but for connections that began in the middle,
 * and that what was reset or closed by both has its time from then on. */
const FlowStateInfo flow_states[] = {
    [FLOW_SYN_SENT] = {"syn-sent", 120 * SECOND},
    [FLOW_SYN_RECEIVED] = {"syn-received", 60 * SECOND},
    [FLOW_PICKED_UP] = {"picked-up", 300 * SECOND},
    [FLOW_ESTABLISHED] = {"established", 432000 * SECOND},
    [FLOW_CLOSING] = {"closing", 120 * SECOND},
    [FLOW_CLOSED] = {"closed", 120 * SECOND},
    [FLOW_RESET] = {"reset", 10 * SECOND},
    [FLOW_NEW] = {"new", 30 * SECOND},
    [FLOW_REPLIED] = {"replied", 30 * SECOND},
    [FLOW_STREAM] = {"stream", 180 * SECOND},
    [FLOW_ECHO] = {"echo", 30 * SECOND},
};
_Static_assert(G_N_ELEMENTS(flow_states) == FLOW_STATES, "one line a state");

/* In this order they make room for others. */
static const FlowState goes_first[] = {
    FLOW_RESET, FLOW_CLOSED, FLOW_SYN_SENT, FLOW_PICKED_UP,
    FLOW_NEW,   FLOW_ECHO,   FLOW_REPLIED,  FLOW_SYN_RECEIVED,
};

/* Idle for as long as no NAT may forget a connection (RFC 5382, REQ-5), an established
 * one makes room too, when nothing else can. */
static const int64_t idle_ns = 7440 * SECOND;

void flows_init(Flows *t, unsigned max)
{
    *t = (Flows){.max = max, .free = FLOW_NONE};
    for (unsigned i = 0; i < FLOW_STATES; i++)
        t->oldest[i] = t->newest[i] = FLOW_NONE;
    if (getrandom(t->seed, sizeof(t->seed), 0) != sizeof(t->seed))
        for (unsigned i = 0; i < G_N_ELEMENTS(t->seed); i++)
            t->seed[i] = (uint64_t)g_random_int() << 32 | g_random_int();
}

void flows_clear(Flows *t)
{
    free(t->flow);
    free(t->bucket);
    t->flow = NULL;
    t->bucket = NULL;
}

static int32_t *bucket_of(const Flows *t, const FlowKey *key)
{
    uint64_t w[5];
    unsigned __int128 sum;
    uint64_t mixed;

    memcpy(w, key, sizeof(w));
    sum = (unsigned __int128)(w[0] + t->seed[0]) * (w[1] + t->seed[1]);
    sum += (unsigned __int128)(w[2] + t->seed[2]) * (w[3] + t->seed[3]);
    sum += (unsigned __int128)(w[4] + t->seed[4]) * t->seed[5];
    mixed = ((uint64_t)(sum >> 64) ^ (uint64_t)sum) * 0x9e3779b97f4a7c15ull;
    return &t->bucket[(mixed >> 32) * t->size >> 32];
}

static bool same_key(const FlowKey *a, const FlowKey *b)
{
    uint64_t x[5], y[5];

    memcpy(x, a, sizeof(x));
    memcpy(y, b, sizeof(y));
    return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) |
             (x[4] ^ y[4]));
}

/* ---- lists ---------------------------------------------------------------------------
 */

static void list_remove(Flows *t, Flow *f)
{
    if (f->older == FLOW_NONE)
        t->oldest[f->state] = f->newer;
    else
        t->flow[f->older].newer = f->newer;
    if (f->newer == FLOW_NONE)
        t->newest[f->state] = f->older;
    else
        t->flow[f->newer].older = f->older;
}

static void list_append(Flows *t, Flow *f, int64_t now_ns)
{
    int32_t at = (int32_t)(f - t->flow);

    f->older = t->newest[f->state];
    f->newer = FLOW_NONE;
    f->placed_ns = now_ns;
    if (f->older == FLOW_NONE)
        t->oldest[f->state] = at;
    else
        t->flow[f->older].newer = at;
    t->newest[f->state] = at;
}

void flows_set_state(Flows *t, Flow *f, FlowState state, int64_t now_ns)
{
    if (f->state == state)
        return;
    list_remove(t, f);
    f->state = (uint8_t)state;
    list_append(t, f, now_ns);
}

/* ---- finding, removing ---------------------------------------------------------------
 */

bool flow_is_over(const Flow *f, int64_t now_ns)
{
    return now_ns - f->seen_ns > flow_states[f->state].timeout_ns;
}

Flow *flows_find(const Flows *t, const FlowKey *key, int64_t now_ns)
{
    if (!t->size)
        return NULL;
    for (int32_t at = *bucket_of(t, key); at != FLOW_NONE; at = t->flow[at].next) {
        Flow *f = &t->flow[at];

        if (same_key(&f->key, key))
            return flow_is_over(f, now_ns) ? NULL : f;
    }
    return NULL;
}

void flows_remove(Flows *t, Flow *f)
{
    int32_t at = (int32_t)(f - t->flow), *link = bucket_of(t, &f->key);

    while (*link != at)
        link = &t->flow[*link].next;
    *link = f->next;
    list_remove(t, f);
    f->next = t->free;
    t->free = at;
    t->used--;
}

/* ---- making room ---------------------------------------------------------------------
 */

/* Removes what is over at the beginning of a list; moves what was seen since to the end.
 */
static void reap(Flows *t, FlowState state, int64_t now_ns)
{
    for (unsigned i = 0; i < LOOKED_AT && t->oldest[state] != FLOW_NONE; i++) {
        Flow *f = &t->flow[t->oldest[state]];

        if (flow_is_over(f, now_ns)) {
            flows_remove(t, f);
        } else if (f->seen_ns > f->placed_ns) {
            list_remove(t, f);
            list_append(t, f, now_ns);
        } else {
            return;
        }
    }
}

static bool grow(Flows *t)
{
    unsigned size = t->size ? MIN(t->size * 2, t->max) : MIN(FIRST_SIZE, t->max);
    Flow *flow = size > t->size ? aligned_alloc(64, size * sizeof(*flow)) : NULL;
    int32_t *bucket = flow ? malloc(size * sizeof(*bucket)) : NULL;

    if (!bucket) {
        free(flow);
        return false;
    }
    if (t->size)
        memcpy(flow, t->flow, t->size * sizeof(*flow));
    memset(bucket, 0xff, size * sizeof(*bucket)); /* FLOW_NONE */
    flows_clear(t);
    t->flow = flow;
    t->bucket = bucket;
    for (unsigned at = t->size; at < size; at++) {
        flow[at].next = t->free;
        t->free = (int32_t)at;
    }
    unsigned old = t->size;
    t->size = size;
    for (unsigned at = 0; at < old; at++) { /* all in use, or there was no need to grow */
        int32_t *link = bucket_of(t, &flow[at].key);

        flow[at].next = *link;
        *link = (int32_t)at;
    }
    return true;
}

/* The first that may go; NULL: none. */
static Flow *next_to_go(const Flows *t, int64_t now_ns)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(goes_first); i++) {
        int32_t at = t->oldest[goes_first[i]];

        if (at != FLOW_NONE)
            return &t->flow[at];
    }
    for (unsigned state = 0; state < FLOW_STATES; state++) {
        int32_t at = t->oldest[state];

        if (at != FLOW_NONE &&
            now_ns - t->flow[at].seen_ns > MIN(idle_ns, flow_states[state].timeout_ns))
            return &t->flow[at];
    }
    return NULL;
}

bool flows_has_room(const Flows *t, int64_t now_ns)
{
    return t->used < t->max || next_to_go(t, now_ns) != NULL;
}

/* Leaves a free place, or returns false. */
static bool make_room(Flows *t, int64_t now_ns)
{
    Flow *f;

    if (t->free != FLOW_NONE)
        return true;
    for (unsigned state = 0; state < FLOW_STATES; state++)
        reap(t, (FlowState)state, now_ns);
    if (t->free != FLOW_NONE || grow(t))
        return true;
    f = next_to_go(t, now_ns);
    if (f)
        flows_remove(t, f);
    return f != NULL;
}

/* One of that key that is over must not be found before the new one. */
static void remove_old(Flows *t, const FlowKey *key)
{
    for (int32_t at = t->size ? *bucket_of(t, key) : FLOW_NONE; at != FLOW_NONE;
         at = t->flow[at].next) {
        if (same_key(&t->flow[at].key, key)) {
            flows_remove(t, &t->flow[at]);
            return;
        }
    }
}

Flow *flows_add(Flows *t, const FlowKey *key, FlowState state, int64_t now_ns)
{
    int32_t *link;
    Flow *f;

    remove_old(t, key);
    if (!make_room(t, now_ns))
        return NULL;
    f = &t->flow[t->free];
    t->free = f->next;
    t->used++;
    link = bucket_of(t, key);
    *f = (Flow){.key = *key, .next = *link, .state = (uint8_t)state, .seen_ns = now_ns};
    *link = (int32_t)(f - t->flow);
    list_append(t, f, now_ns);
    return f;
}
