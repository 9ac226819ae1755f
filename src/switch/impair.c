/* Held frames; contract in impair.h.
 *
 * Theory.  There is one list, in the order in which frames leave, and a timer for its
 * first.  Because jitter keeps the order, a frame only ever comes at the end, and waits
 * for the one in front of it also if it is due before.  A frame that is to be overtaken
 * stands aside of the list, one at a time, until the next has come.
 *
 * This is no fast path: what is held is allocated, frame by frame. */
#include "src/switch/impair.h"

#include <string.h>

typedef struct Held {
    struct Held *next;
    int64_t due_ns;
    Frame f;
    uint8_t room[FRAME_ROOM];
    uint8_t data[];
} Held;

struct Impair {
    Port *port;
    Direction direction;
    ImpairOptions o;
    uint64_t random; /* state of splitmix64 */

    Held *first, **end;
    Held *late; /* is to be overtaken by the next; NULL: none */
    unsigned n_held;
    size_t held_bytes;
    IoTimer timer;

    uint8_t *scratch; /* where segments are cut; NULL: none came yet */
};

Impair *impair_new(Port *port, Direction direction, const ImpairOptions *options)
{
    Impair *im = g_new0(Impair, 1);

    im->port = port;
    im->direction = direction;
    im->end = &im->first;
    impair_change(im, options);
    return im;
}

void impair_change(Impair *im, const ImpairOptions *options)
{
    bool new_seed = !options->seed || options->seed != im->o.seed;

    im->o = *options;
    while (!im->o.seed)
        im->o.seed = (uint64_t)g_random_int() << 31 | g_random_int();
    if (new_seed)
        im->random = im->o.seed;
}

const ImpairOptions *impair_options(const Impair *im)
{
    return &im->o;
}

static void held_free(Impair *im, Held *h)
{
    im->n_held--;
    im->held_bytes -= h->f.len;
    g_free(h);
}

void impair_free(Impair *im)
{
    if (!im)
        return;
    ioloop_timer_cancel(&im->timer);
    while (im->first) {
        Held *h = im->first;

        im->first = h->next;
        held_free(im, h);
    }
    if (im->late)
        held_free(im, im->late);
    g_free(im->scratch);
    g_free(im);
}

/* ---- dice ---------------------------------------------------------------------------
 */

/* splitmix64 (Steele, Lea, Flood, 2014). */
static uint64_t dice(Impair *im)
{
    uint64_t z = im->random += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static bool happens(Impair *im, double probability)
{
    return probability > 0 && (double)(dice(im) >> 11) * 0x1p-53 < probability;
}

static int64_t delay_ns(Impair *im)
{
    uint64_t us = im->o.delay_us, jitter = im->o.jitter_us;

    if (jitter) {
        us += dice(im) % (2 * jitter + 1);
        us = us > jitter ? us - jitter : 0;
    }
    return (int64_t)us * 1000;
}

/* ---- what waits ---------------------------------------------------------------------
 */

static void on_timer(void *opaque);

static void arm(Impair *im)
{
    int64_t due_ns = im->first ? im->first->due_ns : im->late ? im->late->due_ns : 0;

    if (!due_ns)
        ioloop_timer_cancel(&im->timer);
    else if (!im->timer.loop || im->timer.deadline_ns != due_ns)
        ioloop_timer(im->port->sw->loop, &im->timer, due_ns, on_timer, im);
}

static void append(Impair *im, Held *h, int64_t due_ns)
{
    h->due_ns = due_ns;
    h->next = NULL;
    *im->end = h;
    im->end = &h->next;
}

static Held *copy(Impair *im, const Frame *f)
{
    Held *h = NULL;

    if (im->n_held < IMPAIR_MAX_FRAMES && im->held_bytes + f->len <= IMPAIR_MAX_BYTES)
        h = g_try_malloc(sizeof(Held) + f->len);
    if (!h) {
        im->port->count[im->direction].lost++;
        return NULL;
    }
    h->f = *f;
    h->f.data = memcpy(h->data, f->data, f->len);
    im->n_held++;
    im->held_bytes += f->len;
    return h;
}

static void append_copy(Impair *im, const Frame *f, int64_t due_ns)
{
    Held *h = copy(im, f);

    if (h)
        append(im, h, due_ns);
}

static Held *take_due(Impair *im, int64_t now_ns)
{
    Held *h = im->first;

    if (h && h->due_ns <= now_ns) {
        im->first = h->next;
        if (!im->first)
            im->end = &im->first;
        return h;
    }
    if (!h && im->late && im->late->due_ns <= now_ns)
        return g_steal_pointer(&im->late);
    return NULL;
}

static void on_timer(void *opaque)
{
    Impair *im = opaque;
    Switch *sw = im->port->sw;
    const int64_t now_ns = clock_ns();
    Held *h;

    sw->now_ns = now_ns;
    while ((h = take_due(im, now_ns))) {
        switch_resume(im->port, im->direction, &h->f);
        held_free(im, h);
    }
    switch_flush(sw);
    arm(im);
}

/* ---- what comes ---------------------------------------------------------------------
 */

static void corrupt(Impair *im, Frame *f)
{
    uint64_t where = dice(im);

    vnet_finish_checksum(&f->hdr, f->data, f->len);
    f->hdr.flags = 0; /* nobody has looked at it */
    if (f->len <= ETH_HEADER)
        return;
    f->data[ETH_HEADER + (where >> 3) % (f->len - ETH_HEADER)] ^= (uint8_t)(1 << (where &
                                                                                  7));
    packet_parse(f->data, f->len, &f->p);
}

/* True: it goes on now. */
static bool pass_one(Impair *im, Frame *f)
{
    const int64_t now_ns = im->port->sw->now_ns;
    int64_t due_ns;
    bool now, twice;

    if (happens(im, im->o.loss)) {
        im->port->count[im->direction].lost++;
        return false;
    }
    if (happens(im, im->o.corrupt))
        corrupt(im, f);
    twice = happens(im, im->o.duplicate);
    due_ns = now_ns + delay_ns(im);
    if (happens(im, im->o.reorder) && !im->late) {
        im->late = copy(im, f);
        if (im->late)
            im->late->due_ns = due_ns + IMPAIR_LATE_NS;
        arm(im);
        return false;
    }
    now = !im->first && due_ns <= now_ns;
    if (!now)
        append_copy(im, f, due_ns);
    if (twice)
        append_copy(im, f, due_ns);
    if (im->late)
        append(im, g_steal_pointer(&im->late), due_ns);
    arm(im);
    return now;
}

static bool pass_piece(void *opaque, const uint8_t *piece, size_t len)
{
    Impair *im = ((void **)opaque)[0];
    const Frame *whole = ((void **)opaque)[1];
    Frame f = {
        .data = im->scratch + FRAME_ROOM, .len = len, .vlan = whole->vlan, .p = whole->p};

    if (piece != f.data || !packet_parse(f.data, len, &f.p))
        return false;
    if (pass_one(im, &f))
        switch_resume(im->port, im->direction, &f);
    return true;
}

bool impair_pass(Impair *im, Frame *f)
{
    const bool random = im->o.loss > 0 || im->o.duplicate > 0 || im->o.reorder > 0 ||
                        im->o.corrupt > 0;
    void *both[] = {im, f};

    if (!random || f->hdr.gso_type == VNET_GSO_NONE)
        return pass_one(im, f);
    if (!im->scratch)
        im->scratch = g_malloc(FRAME_ROOM + VNET_SCRATCH);
    vnet_segment(&f->hdr, f->data, f->len, im->scratch + FRAME_ROOM, pass_piece, both);
    return false;
}
