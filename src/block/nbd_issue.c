/* The commands of an NBD connection: queued, issued, answered, given up. */
#include <errno.h>

#include "nbd_link_private.h"

/* ---- answers: lock held -------------------------------------------------------- */

static void finish_command(NbdCommand *c, int err)
{
    NbdCall *call = c->call;

    c->state = COMMAND_DONE;
    if (err && !call->err)
        call->err = err;
    if (--call->left == 0)
        pthread_cond_signal(&call->done);
}

void nbd_expire(NbdLink *l)
{
    int64_t limit = (int64_t)l->target->reconnect_s * G_USEC_PER_SEC;
    int64_t now = g_get_monotonic_time();
    bool failed = false;

    for (NbdCall *call = l->first; call; call = call->next) {
        if (!call->waits_since || now - call->waits_since < limit)
            continue;
        for (unsigned i = 0; i < call->n; i++) {
            if (call->command[i].state == COMMAND_QUEUED) {
                l->n_queued--;
                finish_command(&call->command[i], EIO);
                failed = true;
            }
        }
    }
    if (failed && !l->gave_up && !l->stop && log_limit(&l->log))
        log_warn("'%s': requests fail until the server is back", l->target->uri);
    l->gave_up = l->gave_up || failed;
}

void nbd_fail_all(NbdLink *l)
{
    for (NbdCall *call = l->first; call; call = call->next)
        for (unsigned i = 0; i < call->n; i++)
            if (call->command[i].state != COMMAND_DONE)
                finish_command(&call->command[i], EIO);
    l->n_queued = 0;
}

void nbd_requeue(NbdLink *l)
{
    int64_t limit = (int64_t)l->target->reconnect_s * G_USEC_PER_SEC;
    int64_t now = g_get_monotonic_time();

    for (NbdCall *call = l->first; call; call = call->next) {
        bool over = call->waits_since && now - call->waits_since >= limit;

        for (unsigned i = 0; i < call->n; i++) {
            NbdCommand *c = &call->command[i];

            if (c->state != COMMAND_ISSUED)
                continue;
            if (over) {
                finish_command(c, EIO);
                continue;
            }
            c->state = COMMAND_QUEUED;
            l->n_queued++;
            if (!call->waits_since)
                call->waits_since = now;
        }
    }
}

bool nbd_fail_flushes(NbdLink *l)
{
    bool failed = false;

    for (NbdCall *call = l->first; call; call = call->next)
        for (unsigned i = 0; i < call->n; i++)
            if (call->command[i].op == NBD_FLUSH &&
                call->command[i].state == COMMAND_QUEUED) {
                l->n_queued--;
                finish_command(&call->command[i], EIO);
                failed = true;
            }
    if (failed && log_limit(&l->log))
        log_warn("'%s': a flush fails, as the server may have lost writes before it",
                 l->target->uri);
    return failed;
}

/* Commands are issued in the order of the list: the first is the oldest. */
static const NbdCommand *oldest_issued(const NbdLink *l)
{
    for (const NbdCall *call = l->first; call; call = call->next)
        for (unsigned i = 0; i < call->n && call->left; i++)
            if (call->command[i].state == COMMAND_ISSUED)
                return &call->command[i];
    return NULL;
}

int nbd_time_left(const NbdLink *l)
{
    const NbdCommand *c = l->target->timeout_s ? oldest_issued(l) : NULL;
    int64_t left;

    if (!c)
        return -1;
    left = c->issued_at + (int64_t)l->target->timeout_s * G_USEC_PER_SEC -
           g_get_monotonic_time();
    return left > 0 ? (int)(left / 1000) + 1 : 0;
}

/* ---- libnbd's callbacks: the baton holder's thread, within a call of libnbd ---- */

static int on_completion(void *opaque, int *error)
{
    NbdCommand *c = opaque;
    NbdLink *l = c->link;

    if (*error == ENOTCONN || *error == ESHUTDOWN) {
        l->lost = true; /* it stays issued, for nbd_requeue() */
        return 1;
    }
    lock_acquire(&l->lock);
    if (!*error && (c->op == NBD_WRITE || c->op == NBD_ZERO))
        l->n_written++;
    if (!*error && c->op == NBD_FLUSH)
        l->n_flushed = MAX(l->n_flushed, c->covers);
    finish_command(c, *error); /* with which it may be gone */
    lock_release(&l->lock);
    l->answered = true;
    l->gave_up = false;
    return 1; /* nobody will ask libnbd for it */
}

/* Extents with the same answer from the beginning on; the server may say anything. */
static int on_extents(void *opaque, const char *context, uint64_t offset,
                      uint32_t *entries, size_t n, int *error)
{
    NbdCommand *c = opaque;

    if (c->data_len || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    for (size_t i = 0; i + 1 < n && c->data_len < c->len; i += 2) {
        bool data = !(entries[i + 1] & LIBNBD_STATE_ZERO);

        if (c->data_len && data != c->data)
            break;
        c->data = data;
        c->data_len += entries[i];
    }
    return 0;
}

/* ---- issuing ------------------------------------------------------------------- */

unsigned nbd_take_queued(NbdLink *l, NbdCommand **batch)
{
    int64_t now = l->n_queued ? g_get_monotonic_time() : 0;
    unsigned n = 0;

    for (NbdCall *call = l->first; call && l->n_queued && n < NBD_BATCH;
         call = call->next)
        for (unsigned i = 0; i < call->n && n < NBD_BATCH; i++)
            if (call->command[i].state == COMMAND_QUEUED) {
                call->command[i].state = COMMAND_ISSUED;
                call->command[i].issued_at = now;
                call->command[i].covers = l->n_written;
                batch[n++] = &call->command[i];
                l->n_queued--;
            }
    return n;
}

static int64_t issue(NbdLink *l, NbdCommand *c)
{
    nbd_completion_callback done = {.callback = on_completion, .user_data = c};
    nbd_extent_callback extents = {.callback = on_extents, .user_data = c};

    switch (c->op) {
    case NBD_READ:
        return l->lib->aio_pread(l->h, c->buf, c->len, c->offset, done, 0);
    case NBD_WRITE:
        return l->lib->aio_pwrite(l->h, c->buf, c->len, c->offset, done, 0);
    case NBD_FLUSH:
        return l->lib->aio_flush(l->h, done, 0);
    case NBD_TRIM:
        return l->lib->aio_trim(l->h, c->len, c->offset, done, 0);
    case NBD_ZERO:
        return l->lib->aio_zero(l->h, c->len, c->offset, done,
                                c->no_hole ? LIBNBD_CMD_FLAG_NO_HOLE : 0);
    case NBD_STATUS:
        c->data_len = 0;
        return l->lib->aio_block_status(l->h, c->len, c->offset, extents, done, 0);
    }
    return -1;
}

void nbd_issue_all(NbdLink *l, NbdCommand **batch, unsigned n)
{
    for (unsigned i = 0; i < n && !l->lost; i++) {
        int err;

        if (issue(l, batch[i]) >= 0)
            continue;
        err = l->lib->get_errno();
        if (l->lib->aio_is_dead(l->h) || l->lib->aio_is_closed(l->h)) {
            l->lost = true;
            break;
        }
        lock_acquire(&l->lock);
        finish_command(batch[i], err ? err : EIO);
        lock_release(&l->lock);
        l->answered = true;
    }
}
