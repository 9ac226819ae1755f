/* A connection to an NBD server, as its files share it: nbd_link.c (who drives it, and
 * what becomes of it when the server is lost) and nbd_issue.c (commands in flight). */
#pragma once

#include "nbd_private.h"
#include "util/log.h"

enum { NBD_BATCH = 16 }; /* commands issued between two looks at the queue */

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

/* ---- nbd_issue.c: with the baton, and the lock held but for nbd_issue_all() ---- */

/* Who waits for a connection too long gets an error. */
void nbd_expire(NbdLink *l);
void nbd_fail_all(NbdLink *l);

/* What had been issued is queued again; for a call that has had its time that was the
 * last attempt.  So a request that a server dies of does not kill it for ever. */
void nbd_requeue(NbdLink *l);

/* Tells those who wait for a flush that writes before it may be lost; false: nobody. */
bool nbd_fail_flushes(NbdLink *l);

/* How long the oldest may still wait, in ms; -1: for ever. */
int nbd_time_left(const NbdLink *l);

/* The next commands that are queued, at most NBD_BATCH, and their number; they count as
 * issued. */
unsigned nbd_take_queued(NbdLink *l, NbdCommand **batch);
void nbd_issue_all(NbdLink *l, NbdCommand **batch, unsigned n);
