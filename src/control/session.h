/* One connected client: its bytes in, its messages one after the other, its bytes out.
 * Everything here belongs to the main loop. */
#pragma once

#include "src/control/frame.h"
#include "src/control/request.h"

enum {
    SESSION_MAX_MESSAGE = 1024 * 1024, /* bytes of one message of a client */
    SESSION_READ = 16 * 1024,
    SESSION_BUSY = 64 * 1024,  /* unread by the client: it is served no further */
    SESSION_MAX_OUT = 1 << 20, /* unread, and there is an event: it is dropped */
};

/* The server, as its sessions see it. */
typedef struct SessionOwner {
    IoLoop *loop;
    ControlCall context; /* that commands start from */

    /* Runs a command that sleeps; false: it cannot.  session_answer() ends it. */
    bool (*submit)(struct SessionOwner *owner, Request *r);
    /* A client has its answer, and may ask the next thing at once. */
    void (*served)(struct SessionOwner *owner);
    /* The session is dead and can be freed, but not before the caller has returned. */
    void (*dead)(struct SessionOwner *owner);
} SessionOwner;

struct Session {
    SessionOwner *owner;
    int fd;
    IoWatch watch;
    bool readonly, negotiated;
    int64_t since_ns; /* on CLOCK_MONOTONIC: it connected */
    bool eof;         /* the client has said all it had to */
    bool dead;        /* waits to be freed */
    Request *running;
    Frame frame;
    char in[SESSION_READ];
    size_t in_at, in_len;
    GString *out;
    size_t out_at;
    struct Session *next;
};

/* Takes `fd`, and greets the client.  NULL on failure. */
Session *session_new(SessionOwner *owner, int fd, bool readonly, GError **error);
void session_free(Session *s);

/* Hangs up on a client; the owner is told that it is dead. */
void session_drop(Session *s);

/* The running command has its reply; frees it. */
void session_answer(Session *s, Request *r);

/* The text of an event and its line end. */
void session_event(Session *s, const char *text, size_t len);
