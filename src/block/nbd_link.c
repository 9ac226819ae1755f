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
#include "nbd_link_private.h"
#include "util/fd.h"

enum {
    OPEN_LIMIT_MS = 10 * 1000,
    DIAL_MIN_MS = 2 * 1000,    /* what an attempt to reconnect takes at most, even if */
    DIAL_MAX_MS = 10 * 1000,   /* `reconnect` is shorter or longer */
    PAUSE_MIN_US = 100 * 1000, /* between attempts; doubles */
    PAUSE_MAX_US = 500 * 1000, /* below any `reconnect`: who waits sees an attempt */
    NAP_MS = 50,               /* how late a call may learn that its time is over */
};

/* ---- with the baton: lock held on entry and on return -------------------------- */

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
    nbd_requeue(l);
}

/* Issues and waits once. */
static void exchange(NbdLink *l)
{
    NbdCommand *batch[NBD_BATCH];
    unsigned n = nbd_take_queued(l, batch);
    bool more = l->n_queued > 0;
    int left = nbd_time_left(l);

    l->asleep = !more;
    lock_release(&l->lock);
    l->answered = false;
    nbd_issue_all(l, batch, n);
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
        nbd_expire(l);
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
        nbd_expire(l);
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
            nbd_fail_all(l);
        } else if (l->h && l->lost_writes && nbd_fail_flushes(l)) {
            l->lost_writes = false;
        } else if (l->h) {
            exchange(l);
        } else {
            reconnect(l);
        }
    }
}

/* ---- calls --------------------------------------------------------------------- */

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

/* ---- opening and closing ------------------------------------------------------- */

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
