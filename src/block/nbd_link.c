/* A connection to an NBD server that survives the loss of the server.
 *
 * There is no thread for it.  Whoever waits for an answer and finds nobody at it takes
 * the baton: it issues what all have queued, reads answers for all of them, and connects
 * again when the connection is lost.  With its own call answered it hands the baton to
 * another who waits.  So a single request costs no change of threads, several are in
 * flight together, and an idle disk costs nothing.
 *
 * Lost commands are issued again on the next connection; all of NBD's are idempotent.  A
 * call waits for a connection for `reconnect` seconds since it lost its first; with 0,
 * for one attempt.  A server that is silent for `timeout` seconds is lost, too.
 *
 * A server that is lost may lose what it has answered and not flushed, which nobody could
 * issue again: the next flush fails. */
#include "nbd_private.h"

#include <errno.h>

#include "util/fd.h"
#include "util/log.h"

enum {
    BATCH = 16, /* commands issued between two looks at the queue */
    OPEN_LIMIT_MS = 10 * 1000,
    DIAL_MIN_MS = 2 * 1000,    /* what an attempt to reconnect takes at most, even if */
    DIAL_MAX_MS = 10 * 1000,   /* `reconnect` is shorter or longer */
    PAUSE_MIN_US = 100 * 1000, /* between attempts; doubles */
    PAUSE_MAX_US = 500 * 1000, /* below any `reconnect`: who waits sees an attempt */
    NAP_MS = 50,               /* how late a call may learn that its time is over */
};

struct NbdLink {
    const NbdLib *lib;
    const NbdTarget *target;
    int event_fd; /* wakes who holds the baton */
    bool stop;    /* atomic: cancelled, or being closed */

    /* The baton holder's; with nobody in a call, the opener's. */
    struct nbd_handle *h; /* NULL: not connected */
    NbdExport export;
    bool writing;       /* a read-only export will not do */
    bool lost;          /* h is of no use any more */
    bool answered;      /* some command, since this was cleared */
    int64_t next_dial;  /* us: not before */
    int64_t pause;      /* us */
    bool gave_up;       /* said already that requests fail */
    char *last_refusal; /* why the last attempt failed, as it was said */
    LogLimit log;

    Lock lock; /* leaf; guards the rest, and the calls' states */
    pthread_cond_t empty;
    NbdCall *first, *last; /* in the order of their coming */
    unsigned n_queued;     /* commands */
    bool driven;           /* somebody holds the baton */
    bool asleep;           /* and may not look at the queue before event_fd wakes it */
    uint64_t n_written, n_flushed; /* writes answered; of these, flushed */
    bool lost_writes;              /* no flush has told of it yet */
};

/* ---- answers: lock held -------------------------------------------------------------
 */

static void finish_command(NbdCommand *c, int err)
{
    NbdCall *call = c->call;

    c->state = COMMAND_DONE;
    if (err && !call->err)
        call->err = err;
    if (--call->left == 0)
        pthread_cond_signal(&call->done);
}

/* Who waits for a connection too long gets an error. */
static void expire(NbdLink *l)
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

static void fail_all(NbdLink *l)
{
    for (NbdCall *call = l->first; call; call = call->next)
        for (unsigned i = 0; i < call->n; i++)
            if (call->command[i].state != COMMAND_DONE)
                finish_command(&call->command[i], EIO);
    l->n_queued = 0;
}

/* What had been issued is queued again; for a call that has had its time that was the
 * last attempt.  So a request that a server dies of does not kill it for ever. */
static void requeue(NbdLink *l)
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

/* Tells those who wait for a flush that writes before it may be lost; false: nobody. */
static bool fail_flushes(NbdLink *l)
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

/* How long the oldest may still wait, in ms; -1: for ever. */
static int time_left(const NbdLink *l)
{
    const NbdCommand *c = l->target->timeout_s ? oldest_issued(l) : NULL;
    int64_t left;

    if (!c)
        return -1;
    left = c->issued_at + (int64_t)l->target->timeout_s * G_USEC_PER_SEC -
           g_get_monotonic_time();
    return left > 0 ? (int)(left / 1000) + 1 : 0;
}

/* ---- libnbd's callbacks: the baton holder's thread, within a call of libnbd -----------
 */

static int on_completion(void *opaque, int *error)
{
    NbdCommand *c = opaque;
    NbdLink *l = c->link;

    if (*error == ENOTCONN || *error == ESHUTDOWN) {
        l->lost = true; /* it stays issued, for requeue() */
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

/* ---- issuing ------------------------------------------------------------------------
 */

/* Lock held. */
static unsigned take_queued(NbdLink *l, NbdCommand **batch)
{
    int64_t now = l->n_queued ? g_get_monotonic_time() : 0;
    unsigned n = 0;

    for (NbdCall *call = l->first; call && l->n_queued && n < BATCH; call = call->next)
        for (unsigned i = 0; i < call->n && n < BATCH; i++)
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

static void issue_all(NbdLink *l, NbdCommand **batch, unsigned n)
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

/* ---- with the baton: lock held on entry and on return ---------------------------------
 */

static void drop(NbdLink *l)
{
    struct nbd_handle *h = l->h;

    l->h = NULL;
    l->lost = false;
    lock_release(&l->lock);
    l->lib->close(h);
    lock_acquire(&l->lock);
}

static void lose(NbdLink *l)
{
    if (log_limit(&l->log))
        log_warn("'%s': the connection to the server is lost%s", l->target->uri,
                 l->target->reconnect_s ? "; requests wait for it" : "");
    drop(l);
    requeue(l);
}

/* Issues and waits once. */
static void exchange(NbdLink *l)
{
    NbdCommand *batch[BATCH];
    unsigned n = take_queued(l, batch);
    bool more = l->n_queued > 0;
    int left = time_left(l);

    l->asleep = !more;
    lock_release(&l->lock);
    l->answered = false;
    issue_all(l, batch, n);
    /* Issuing may bring answers, or fail: perhaps the last that we would wait for. */
    if (!l->lost && !nbd_step(l->lib, l->h, l->event_fd, more || l->answered ? 0 : left))
        l->lost = true;
    lock_acquire(&l->lock);
    l->asleep = false;
    /* Late already before we looked for answers, and there was none. */
    if (left == 0 && !l->lost && !l->answered) {
        if (log_limit(&l->log))
            log_warn("'%s': no answer from the server for %u s", l->target->uri,
                     l->target->timeout_s);
        l->lost = true;
    }
    if (l->lost)
        lose(l);
}

/* A server that came back with another export would take our writes for its own. */
static bool is_same_export(const NbdLink *l, const NbdExport *now, GError **error)
{
    const NbdExport *was = &l->export;

    if (now->size != was->size)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the server is back with an export of %" G_GUINT64_FORMAT
                    " bytes instead of %" G_GUINT64_FORMAT
                    "; give it the old one, or stop the VM",
                    l->target->uri, now->size, was->size);
    if (now->readonly && l->writing)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the server is back with a read-only export; let it be written "
                    "to, or stop the VM",
                    l->target->uri);
    if (now->min_block > was->min_block || now->max_data < was->max_data ||
        (was->can_flush && !now->can_flush))
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the server is back with another block size or without flush; "
                    "start it as it was, or stop the VM",
                    l->target->uri);
    return true;
}

static struct nbd_handle *dial_again(const NbdLink *l, GError **error)
{
    int limit = (int)MIN(l->target->reconnect_s, DIAL_MAX_MS / 1000) * 1000;
    NbdExport now;
    struct nbd_handle *h = nbd_dial(l->lib, l->target, MAX(limit, DIAL_MIN_MS),
                                    l->event_fd, &l->stop, &now, error);

    if (h && !is_same_export(l, &now, error)) {
        l->lib->close(h);
        return NULL;
    }
    return h;
}

/* Says why, once for each reason. */
static void refused(NbdLink *l, const GError *error)
{
    if (!l->stop && g_strcmp0(error->message, l->last_refusal) != 0 && log_limit(&l->log))
        log_warn("%s", error->message);
    g_free(l->last_refusal);
    l->last_refusal = g_strdup(error->message);
    l->pause = CLAMP(2 * l->pause, PAUSE_MIN_US, PAUSE_MAX_US);
}

/* One attempt, or part of the pause before it. */
static void reconnect(NbdLink *l)
{
    int64_t now = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    struct nbd_handle *h;

    for (NbdCall *call = l->first; call; call = call->next)
        if (!call->waits_since)
            call->waits_since = now;
    if (now < l->next_dial) {
        expire(l);
        lock_release(&l->lock);
        g_usleep((gulong)MIN(l->next_dial - now, NAP_MS * 1000));
        lock_acquire(&l->lock);
        return;
    }
    lock_release(&l->lock);
    h = dial_again(l, &error);
    lock_acquire(&l->lock);
    l->h = h;
    if (h) {
        if (log_limit(&l->log))
            log_info("'%s': connected again", l->target->uri);
        /* Who gives reconnect= says that the server keeps what it has answered. */
        l->lost_writes |= !l->target->reconnect_s && l->n_written > l->n_flushed;
        l->n_flushed = l->n_written;
        g_clear_pointer(&l->last_refusal, g_free);
        l->pause = 0;
    } else {
        refused(l, error);
        expire(l);
    }
    /* A connection that is lost at once is a failed attempt, too. */
    l->next_dial = g_get_monotonic_time() + MAX(l->pause, PAUSE_MIN_US);
}

static void drive(NbdLink *l, const NbdCall *own)
{
    while (own->left) {
        if (l->stop) {
            if (l->h)
                drop(l); /* no buffer is touched any more */
            fail_all(l);
        } else if (l->h && l->lost_writes && fail_flushes(l)) {
            l->lost_writes = false;
        } else if (l->h) {
            exchange(l);
        } else {
            reconnect(l);
        }
    }
}

/* ---- calls --------------------------------------------------------------------------
 */

/* Lock held, both. */
static void enter(NbdLink *l, NbdCall *call)
{
    call->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = call;
    l->last = call;
    l->n_queued += call->n;
    if (l->asleep) {
        l->asleep = false;
        fd_event_signal(l->event_fd);
    }
}

static void leave(NbdLink *l, NbdCall *call)
{
    *(call->prev ? &call->prev->next : &l->first) = call->next;
    *(call->next ? &call->next->prev : &l->last) = call->prev;
    if (!l->first)
        pthread_cond_signal(&l->empty);
}

/* Lock held.  Whoever is answered leaves anyway. */
static void pass_baton(NbdLink *l)
{
    NbdCall *call = l->first;

    while (call && !call->left)
        call = call->next;
    if (call && !l->driven)
        pthread_cond_signal(&call->done);
}

int nbd_link_run(NbdLink *l, NbdCall *call)
{
    call->next = call->prev = NULL;
    call->left = call->n;
    call->err = 0;
    call->waits_since = 0;
    pthread_cond_init(&call->done, NULL);
    for (unsigned i = 0; i < call->n; i++) {
        call->command[i].link = l;
        call->command[i].call = call;
        call->command[i].state = COMMAND_QUEUED;
    }
    lock_acquire(&l->lock);
    enter(l, call);
    while (call->left) {
        if (l->driven) {
            pthread_cond_wait(&call->done, &l->lock.mutex);
            continue;
        }
        l->driven = true;
        drive(l, call);
        l->driven = false;
    }
    leave(l, call);
    pass_baton(l);
    lock_release(&l->lock);
    pthread_cond_destroy(&call->done);
    return call->err;
}

/* ---- opening and closing -------------------------------------------------------------
 */

NbdLink *nbd_link_open(const NbdTarget *target, NbdExport *ret, GError **error)
{
    const NbdLib *lib = nbd_lib(error);
    NbdLink *l;

    if (!lib)
        return NULL;
    l = g_new0(NbdLink, 1);
    l->lib = lib;
    l->target = target;
    lock_init(&l->lock);
    pthread_cond_init(&l->empty, NULL);
    l->event_fd = fd_event(error);
    if (l->event_fd >= 0)
        l->h = nbd_dial(lib, target, OPEN_LIMIT_MS, l->event_fd, &l->stop, &l->export,
                        error);
    if (!l->h) {
        nbd_link_close(l);
        return NULL;
    }
    *ret = l->export;
    return l;
}

void nbd_link_set_writing(NbdLink *l, bool writing)
{
    l->writing = writing;
}

bool nbd_link_redial(NbdLink *l, NbdExport *ret, GError **error)
{
    NbdExport now;
    struct nbd_handle *h = nbd_dial(l->lib, l->target, OPEN_LIMIT_MS, l->event_fd,
                                    &l->stop, &now, error);

    if (!h)
        return false;
    if (!is_same_export(l, &now, error)) {
        l->lib->close(h);
        return false;
    }
    if (l->h)
        l->lib->close(l->h);
    l->h = h;
    l->lost = false;
    l->export = *ret = now;
    return true;
}

void nbd_link_cancel(NbdLink *l)
{
    LOCK_GUARD(&l->lock);
    __atomic_store_n(&l->stop, true, __ATOMIC_RELEASE);
    if (l->event_fd >= 0)
        fd_event_signal(l->event_fd);
}

void nbd_link_close(NbdLink *l)
{
    if (!l)
        return;
    nbd_link_cancel(l);
    lock_acquire(&l->lock);
    while (l->first)
        pthread_cond_wait(&l->empty, &l->lock.mutex);
    lock_release(&l->lock);
    if (l->h) {
        l->lib->aio_disconnect(l->h, 0); /* says good-bye, without waiting */
        l->lib->close(l->h);
    }
    fd_close(&l->event_fd);
    pthread_cond_destroy(&l->empty);
    lock_finish(&l->lock);
    g_free(l->last_refusal);
    g_free(l);
}
