/* What the kinds of chardev (stdio.c, pty.c, file.c, socket.c) see of chardev.c, and
 * which there are. */
#pragma once

#include "backend/chardev.h"
#include "util/fd.h"
#include "util/lock.h"
#include "util/log.h"
#include "util/logfile.h"

enum { CHARDEV_RING = 64 * 1024, CHARDEV_READ_AHEAD = 4096 };

/* What becomes of output. */
typedef enum {
    SINK_GONE, /* nobody will ever read it: dropped */
    SINK_HOLD, /* nobody reads it now: the last ring-full is kept for who comes late */
    SINK_OPEN, /* goes to out_fd */
} ChardevSink;

/* All on the loop's thread. */
typedef struct ChardevOps {
    const char *name;
    bool (*open)(Chardev *c, const ChardevOptions *options, GError **error);
    void (*close)(Chardev *c);  /* frees c->backend; half-opened is fine */
    void (*hangup)(Chardev *c); /* after a detach: wait for the next; NULL: none comes */
    bool (*may_read)(Chardev *c); /* NULL: always.  False: until the next kick, no */
    /* NULL: input is the guest's as it is.  Takes keys of our own out of buf; returns
     * what is left.  Input is then read even while the device has no room. */
    size_t (*filter)(Chardev *c, uint8_t *buf, size_t len);
    void (*kicked)(Chardev *c); /* NULL: nothing to look at */
} ChardevOps;

struct Chardev {
    const ChardevOps *ops;
    void *backend;
    char id[32];
    char *filename; /* owned; stays as it is once the chardev is open */
    IoLoop *loop;
    const ChardevHandlers *handlers;
    void *opaque;
    bool announce; /* the handlers have not been told that a reader is there */

    /* Other threads wake the loop by an eventfd of our own rather than an IoPost, since
     * a watch can be taken back when the chardev closes. */
    int kick_fd;
    bool kicked; /* atomic: kick_fd is signalled, or about to be */
    IoWatch kick;

    int in_fd, out_fd; /* owned; -1: none */
    bool out_socket;
    bool in_ended;      /* nothing more to read, though writing may go on */
    bool in_unpollable; /* a regular file or the like, which epoll refuses */
    IoWatch in, out;
    uint8_t ahead[CHARDEV_READ_AHEAD]; /* read, not yet taken by the device */
    size_t ahead_at, ahead_len;
    LogLimit warned;
    bool has_log; /* what is written goes to `log` as well, and first */
    LogFile log;
    StateBlob loaded[2]; /* output and input of a saved state, until the first resume */

    Lock lock; /* a leaf; guards what follows */
    ChardevSink sink;
    uint8_t *ring;
    size_t head, used;
    size_t unlogged; /* the newest bytes in it, which are not in the log yet */
    size_t history;  /* with a log: bytes before head, sent but not overwritten */
    bool starved;    /* a writer got a short count and waits for drained() */
};

extern const ChardevOps chardev_none_ops, chardev_stdio_ops, chardev_pty_ops,
    chardev_file_ops, chardev_socket_ops;

/* ---- options.c ----------------------------------------------------------------- */

const ChardevOps *chardev_ops_for(const ChardevOptions *options);
char *chardev_filename_for(const ChardevOptions *options); /* a new string, for QMP */

/* ---- chardev.c ----------------------------------------------------------------- */

/* Loop's thread.  Puts output into the ring that is in the log, or need not be. */
void chardev_requeue(Chardev *c, const uint8_t *buf, size_t len);

/* Loop's thread.  Connects the chardev to descriptors, which become its own (-1: that
 * direction does not exist), and disconnects it. */
void chardev_attach(Chardev *c, int in_fd, int out_fd);
void chardev_detach(Chardev *c, ChardevSink after);

/* Any thread, and signal handlers: makes the loop look at the chardev. */
void chardev_kick(Chardev *c);

/* ---- terminal.c: standard input as a terminal ---------------------------------- */

/* Makes it raw for `c`, who is kicked when the terminal was resized or job control gave
 * it back to us.  Released by terminal_release(). */
bool terminal_take(Chardev *c, GError **error);
void terminal_release(void);
bool terminal_in_foreground(void);
bool terminal_was_resized(void); /* since the last call */
