/* Writing to a qcow2 image, by pieces: data, zeroes as bytes, and copies of what is
 * below; and the claims that keep pieces apart. */
#include <errno.h>
#include <stdlib.h>

#include "qcow2_io_private.h"

enum { ZERO_PARTS = 64, ZERO_BYTES = 64 << 10 }; /* zeroes written at once */

struct Qcow2Writes {
    /* All under the image's lock. */
    Qcow2Claim *claims;
    pthread_cond_t changed;
    unsigned sleepers;
    void *buffers; /* not in use; each begins with a pointer to the next */
    Qcow2Packing *packing;
};

Qcow2Writes *qcow2_writes_new(Qcow2 *s)
{
    Qcow2Writes *w = g_new0(Qcow2Writes, 1);

    pthread_cond_init(&w->changed, NULL);
    w->packing = qcow2_packing_new(s);
    return w;
}

void qcow2_writes_free(Qcow2Writes *w)
{
    if (!w)
        return;
    for (void *buf = w->buffers, *next; buf; buf = next) {
        next = *(void **)buf;
        free(buf);
    }
    qcow2_packing_free(w->packing);
    pthread_cond_destroy(&w->changed);
    g_free(w);
}

Qcow2Packing *qcow2_packing_of(const Qcow2 *s)
{
    return s->writes->packing;
}

/* ---- claims -------------------------------------------------------------------- */

void qcow2_sleep(Qcow2 *s)
{
    s->writes->sleepers++;
    pthread_cond_wait(&s->writes->changed, &s->lock.mutex);
    s->writes->sleepers--;
}

void qcow2_wake(Qcow2 *s)
{
    if (s->writes->sleepers)
        pthread_cond_broadcast(&s->writes->changed);
}

static bool is_claimed(const Qcow2 *s, uint64_t start, uint64_t end, bool shared)
{
    for (const Qcow2Claim *c = s->writes->claims; c; c = c->next)
        if (c->start < end && start < c->end && !(shared && c->shared))
            return true;
    return false;
}

void qcow2_claim(Qcow2 *s, Qcow2Claim *c)
{
    while (is_claimed(s, c->start, c->end, c->shared))
        qcow2_sleep(s);
    c->next = s->writes->claims;
    s->writes->claims = c;
}

void qcow2_claim_end(Qcow2 *s, Qcow2Claim *c)
{
    Qcow2Claim **p = &s->writes->claims;

    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    qcow2_wake(s);
}

void qcow2_claim_wait(Qcow2 *s, uint64_t cluster)
{
    while (is_claimed(s, cluster, cluster + s->cluster_size, false))
        qcow2_sleep(s);
}

uint64_t qcow2_unclaimed(const Qcow2 *s, uint64_t from, uint64_t to)
{
    for (const Qcow2Claim *c = s->writes->claims; c; c = c->next)
        if (c->end > from)
            to = MIN(to, MAX(c->start, from));
    return to;
}

uint8_t *qcow2_buffer_take(Qcow2 *s)
{
    void *buf = s->writes->buffers;

    if (buf)
        s->writes->buffers = *(void **)buf;
    return buf;
}

void qcow2_buffer_put(Qcow2 *s, uint8_t *buf)
{
    *(void **)buf = s->writes->buffers;
    s->writes->buffers = buf;
}

/* ---- FormatOps ----------------------------------------------------------------- */

int qcow2_write(BlockImage *img, uint64_t offset, const struct iovec *iov, unsigned n_iov,
                uint64_t skip, uint64_t len)
{
    Qcow2 *s = qcow2_of(img);

    while (len) {
        uint64_t n;
        Qcow2Piece p;
        int err;

        lock_acquire(&s->lock);
        err = qcow2_piece_plan(s, offset, len, false, &p);
        lock_release(&s->lock);
        if (err)
            return err;
        n = p.end - p.start;
        err = qcow2_piece_write(s, &p, iov, n_iov, skip);
        lock_acquire(&s->lock);
        err = qcow2_piece_finish(s, &p, err);
        lock_release(&s->lock);
        if (err)
            return err;
        offset += n;
        skip += n;
        len -= n;
    }
    return 0;
}

/* One piece of zeroes, written. */
static int write_zero_piece(Qcow2 *s, uint64_t offset, uint64_t len, bool may_unmap,
                            uint64_t *ret_n)
{
    static uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));
    struct iovec iov[ZERO_PARTS];
    Qcow2Piece p;
    int err;

    for (unsigned i = 0; i < ZERO_PARTS; i++)
        iov[i] = (struct iovec){zeroes, ZERO_BYTES};
    lock_acquire(&s->lock);
    err = qcow2_piece_plan(s, offset, MIN(len, (uint64_t)ZERO_PARTS * ZERO_BYTES), false,
                           &p);
    lock_release(&s->lock);
    if (err)
        return err;
    *ret_n = p.end - p.start;
    err = p.kind == QCOW2_PIECE_THERE
              ? block_file_zero(s->data, qcow2_piece_host(&p, p.start), *ret_n, may_unmap)
              : qcow2_piece_write(s, &p, iov, ZERO_PARTS, 0);
    lock_acquire(&s->lock);
    err = qcow2_piece_finish(s, &p, err);
    lock_release(&s->lock);
    return err;
}

int qcow2_write_zeroes(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap)
{
    Qcow2 *s = qcow2_of(img);
    int err = 0;

    while (len && !err) {
        uint64_t n;
        bool zero;

        err = qcow2_zeroes_at(s, offset, len, &zero, &n);
        if (!err && !zero)
            err = write_zero_piece(s, offset, n, may_unmap, &n);
        offset += n;
        len -= n;
    }
    return err;
}

/* ---- copying up ---------------------------------------------------------------- */

/* How long, from `offset` on, the disk reads as zeroes, and then as data; both at most
 * len. */
static int zeroes_then_data(Qcow2 *s, uint64_t offset, uint64_t len, uint64_t *ret_zeroes,
                            uint64_t *ret_data)
{
    int err = 0;

    *ret_zeroes = *ret_data = 0;
    while (*ret_zeroes < len && !*ret_data && !err) {
        uint64_t n;
        bool zero;

        err = qcow2_zeroes_at(s, offset + *ret_zeroes, len - *ret_zeroes, &zero, &n);
        if (zero)
            *ret_zeroes += n;
        else
            *ret_data = n;
    }
    return err;
}

static int copy_data(Qcow2 *s, uint64_t offset, uint64_t len, uint64_t *ret_n)
{
    Qcow2Piece p;
    int err;

    lock_acquire(&s->lock);
    err = qcow2_piece_plan(s, offset, len, true, &p);
    lock_release(&s->lock);
    *ret_n = p.end - offset;
    if (err || p.end == offset) /* somebody has written there just now */
        return err;
    err = qcow2_piece_write(s, &p, NULL, 0, 0);
    lock_acquire(&s->lock);
    err = qcow2_piece_finish(s, &p, err);
    lock_release(&s->lock);
    return err;
}

/* Copies up what comes first in [at, end), whole subclusters. */
static int copy_some(Qcow2 *s, uint64_t at, uint64_t end, uint64_t *ret_n)
{
    uint64_t unit = s->subcluster_size, zeroes = 0, data = 0;
    uint64_t len = MIN(end, image_size_now(s->img)) - at;
    Extent e;
    int err = qcow2_lookup(s->img, at, len, true, &e);

    *ret_n = align_up(e.len, unit); /* the disk may end within a subcluster */
    if (err || e.kind != EXTENT_HOLE)
        return err;
    err = zeroes_then_data(s, at, e.len, &zeroes, &data);
    if (err)
        return err;
    zeroes = zeroes == e.len ? *ret_n : align_down(zeroes, unit);
    if (zeroes && s->h.version >= 3) {
        *ret_n = zeroes;
        return qcow2_zero_holes(s, at, at + zeroes);
    }
    return copy_data(s, at, zeroes ? zeroes : MAX(unit, align_down(data, unit)), ret_n);
}

int qcow2_copy_up(BlockImage *img, uint64_t offset, uint64_t len)
{
    Qcow2 *s = qcow2_of(img);
    uint64_t unit = s->subcluster_size;
    uint64_t at = align_down(offset, unit), end = align_up(offset + len, unit);
    int err = 0;

    while (at < end && !err) {
        uint64_t n;

        err = copy_some(s, at, end, &n);
        at += n;
    }
    return err;
}
