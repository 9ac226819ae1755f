/* The control server as its files share it: server.c (sockets, who comes in, life-cycle)
 * and server_inbox.c (what other threads bring). */
#pragma once

#include "control/control.h"
#include "src/control/parts.h"
#include "src/control/pool.h"
#include "src/control/server.h"
#include "src/control/session.h"
#include "util/unixsocket.h"

enum { MAX_LISTENERS = 3 };

typedef struct Listener {
    ControlServer *server;
    UnixListener socket;
    IoWatch watch;
    IoTimer retry;
    bool readonly;
} Listener;

struct ControlServer {
    SessionOwner owner; /* must be first */
    ControlOptions options;
    Parts parts;
    Listener listeners[MAX_LISTENERS];
    unsigned n_listeners;
    pthread_t main;
    IoPoller awake; /* while .opaque is set */
    int64_t awake_until_ns;
    long n_cpus; /* 0: not looked */
    MachineListener machine_listener;

    Session *sessions; /* the main thread's, as all above */
    unsigned n_sessions;
    int64_t patience_ns;
    Pool pool;
    bool left; /* the machine ended frozen: threads of the pool may sleep for ever */

    Lock lock;  /* guards what follows */
    bool ended; /* atomic, too: changes under the lock */
    IoPost post;
    struct Event *events, **events_end;
    unsigned n_events, n_lost;
    Request *replies;
    struct MainCall *calls;
    pthread_cond_t called;
};

/* ---- server_inbox.c: main thread ----------------------------------------------- */

/* Of SessionOwner: the request is carried out on a thread of the pool. */
bool server_submit(SessionOwner *owner, Request *r);

/* Takes what others brought, all in one look, so that an event of a command comes before
 * its reply. */
void server_take_in(ControlServer *s);

void server_on_machine_event(void *opaque, const char *name, json_t *data);

/* From now on nothing is brought, and who waits for main is told so. */
void server_end_calls(ControlServer *s);

/* Waits for what sleeps, but not for who wants guest RAM that cannot be had, and goes
 * with the process; what had to wait for a thread is refused. */
void server_stop_pool(ControlServer *s);
