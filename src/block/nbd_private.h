/* Private to src/block: NBD exports as storage.
 *
 *     file_nbd.c    the functions of a BlockFile: splits requests into commands
 *     nbd_link.c    a connection that survives the loss of its server
 *     nbd_issue.c   the commands that are in flight on it
 *     nbd_dial.c    makes one connection, and judges what the server says of the export
 *     nbd_lib.c     loads libnbd, which speaks the protocol
 *
 * The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, and
 * doc/uri.md beside it. */
#pragma once

#include <libnbd.h>
#include <pthread.h>

#include "util/error.h"
#include "util/lock.h"

/* ---- nbd_lib.c ----------------------------------------------------------------- */

/* What we call of libnbd. */
#define NBD_FUNCTIONS(X)                                                                 \
    X(create)                                                                            \
    X(close)                                                                             \
    X(get_error)                                                                         \
    X(get_errno)                                                                         \
    X(supports_uri)                                                                      \
    X(set_uri_allow_transports)                                                          \
    X(set_uri_allow_local_file)                                                          \
    X(set_tls_verify_peer)                                                               \
    X(add_meta_context)                                                                  \
    X(aio_connect_uri)                                                                   \
    X(aio_disconnect)                                                                    \
    X(aio_is_connecting)                                                                 \
    X(aio_is_ready)                                                                      \
    X(aio_is_dead)                                                                       \
    X(aio_is_closed)                                                                     \
    X(aio_get_fd)                                                                        \
    X(aio_get_direction)                                                                 \
    X(aio_notify_read)                                                                   \
    X(aio_notify_write)                                                                  \
    X(aio_pread)                                                                         \
    X(aio_pwrite)                                                                        \
    X(aio_flush)                                                                         \
    X(aio_trim)                                                                          \
    X(aio_zero)                                                                          \
    X(aio_block_status)                                                                  \
    X(get_size)                                                                          \
    X(get_block_size)                                                                    \
    X(is_read_only)                                                                      \
    X(can_flush)                                                                         \
    X(can_trim)                                                                          \
    X(can_zero)                                                                          \
    X(can_meta_context)

#define X(name) __typeof__(nbd_##name) *name;
typedef struct NbdLib {
    NBD_FUNCTIONS(X)
} NbdLib;
#undef X

/* Any thread.  Loaded by the first call, for good. */
const NbdLib *nbd_lib(GError **error);

/* libnbd's text for this thread's last failure, without the name of its function. */
const char *nbd_lib_error(const NbdLib *lib);

/* ---- nbd_dial.c ---------------------------------------------------------------- */

/* Whom to call; what the query parameters say that matters to us. */
typedef struct NbdTarget {
    const char *uri;
    char *certificates;   /* tls-certificates=; NULL: not given */
    bool has_psk;         /* tls-psk-file= */
    bool verify_peer;     /* tls-verify-peer= */
    unsigned reconnect_s; /* reconnect= */
    unsigned timeout_s;   /* timeout=; 0: none.  file_nbd.c takes it from the URI */
} NbdTarget;

/* What the server says of the export, checked. */
typedef struct NbdExport {
    uint64_t size;
    bool readonly, can_flush, can_trim, can_zero, has_extents;
    unsigned
        min_block; /* power of two, at most 64 KiB: offsets and lengths are multiples */
    unsigned preferred; /* power of two, at least min_block; 0: it does not say */
    unsigned max_data;  /* bytes of one read or write; multiple of min_block */
} NbdExport;

/* Judges the URI by its text; `t` is zeroed before, and t->uri is `uri` itself. */
bool nbd_target_parse(NbdTarget *t, const char *uri, GError **error);
void nbd_target_clear(NbdTarget *t);

/* Any thread that may sleep, for at most `limit_ms` plus the time to resolve the name.
 * Gives up early when *stop is set and event_fd signalled; signals on it are taken. */
struct nbd_handle *nbd_dial(const NbdLib *lib, const NbdTarget *target, int limit_ms,
                            int event_fd, const bool *stop, NbdExport *ret,
                            GError **error);

/* Waits until the server has something for us, takes what we have for it, or event_fd is
 * signalled, then carries on with the handle; at most timeout_ms (-1: any time).  False:
 * the connection is no more. */
bool nbd_step(const NbdLib *lib, struct nbd_handle *h, int event_fd, int timeout_ms);

/* ---- nbd_link.c ---------------------------------------------------------------- */

typedef enum { NBD_READ, NBD_WRITE, NBD_FLUSH, NBD_TRIM, NBD_ZERO, NBD_STATUS } NbdOp;
typedef enum { COMMAND_QUEUED, COMMAND_ISSUED, COMMAND_DONE } NbdCommandState;

typedef struct NbdLink NbdLink;
typedef struct NbdCall NbdCall;

/* One command of the protocol, within the export and its limits. */
typedef struct NbdCommand {
    NbdOp op;
    bool no_hole; /* ZERO */
    void *buf;    /* READ, WRITE */
    uint64_t offset, len;
    bool data; /* STATUS: the answer, for the first data_len bytes, which may
                                be more than asked for; 0: none */
    uint64_t data_len;

    NbdLink *link; /* nbd_link.c's */
    NbdCall *call;
    NbdCommandState state;
    int64_t issued_at; /* us */
    uint64_t covers;   /* FLUSH: the link's n_written when it was issued */
} NbdCommand;

enum { NBD_CALL_COMMANDS = 16 };

/* Commands that are in flight together, on the stack of who waits for them. */
struct NbdCall {
    NbdCommand command[NBD_CALL_COMMANDS];
    unsigned n;

    NbdCall *next, *prev; /* nbd_link.c's, guarded by the link's lock */
    pthread_cond_t done;
    unsigned left;
    int err;
    int64_t waits_since; /* us; for a connection: since then.  0: it does not */
};

/* Connects; `target` and what it points to live as long as the link. */
NbdLink *nbd_link_open(const NbdTarget *target, NbdExport *ret, GError **error);

/* Any thread: all calls fail with EIO from now on, those in flight too. */
void nbd_link_cancel(NbdLink *l);

/* Calls still in flight are cancelled.  NULL is fine. */
void nbd_link_close(NbdLink *l);

/* The opener's thread, nothing in flight.  Whether a server that comes back with a
 * read-only export is refused. */
void nbd_link_set_writing(NbdLink *l, bool writing);

/* The opener's thread, nothing in flight: connects anew, to hear what the server says of
 * the export now.  A failure leaves all as it was. */
bool nbd_link_redial(NbdLink *l, NbdExport *ret, GError **error);

/* Any thread that may sleep, several at a time: returns when all commands are answered,
 * with 0 or the first errno. */
int nbd_link_run(NbdLink *l, NbdCall *call);
