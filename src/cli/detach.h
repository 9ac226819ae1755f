/* hutch run --detach: the monitor goes into the background, and the command that started
 * it waits until it is told, over a pipe, that the VM runs, is ready, or why not. */
#pragma once

#include "control/place.h"
#include "src/cli/cli.h"
#include "util/logfile.h"

/* When the command returns: --wait. */
typedef enum { READY_RUNNING, READY_BOOT, READY_AGENT, READY_TCP } ReadyKind;
typedef struct Ready {
    ReadyKind kind;
    unsigned port; /* the guest's */
} Ready;

/* The monitor's end; zeroed: it was not detached, and nothing happens. */
typedef struct Detach {
    bool on;
    Ready when;
    char *forward; /* where on the host the port is */
    int report_fd;
    bool booted; /* atomic: that was told */
    bool frozen; /* restored with frozen file systems, which who waits is to thaw */
    LogFile log;
} Detach;

/* ---- detach_wait.c: the old process ------------------------------------------------ */

/* What can be refused before anything is started. */
bool detach_check(const RunOptions *options, GError **error);

/* Before any thread is started.  Returns true in the new process, which is the monitor to
 * be; false in the old one when there is nothing to wait for any more, with the status to
 * end with. */
bool detach_begin(Detach *d, const RunOptions *options, int *ret_status);

/* "boot", "agent", "tcp:PORT"; NULL: that it runs. */
bool detach_parse_wait(const char *text, Ready *ret, GError **error);

/* Who waits for one monitor, at the other end `fd` of its pipe, which is taken over.
 * The time begins now; timeout_s 0: for ever. */
typedef struct DetachWaiter DetachWaiter;
DetachWaiter *detach_waiter_new(int fd, pid_t pid, uint64_t timeout_s);
void detach_waiter_free(DetachWaiter *w); /* NULL is fine */

/* Waits for what detach_parse_wait() has checked; may be called again for more.  0 when
 * it is so far; else the status to end with, and why it is not. */
int detach_waiter_wait(DetachWaiter *w, const char *wait, GError **error);

/* ---- detach.c: the new process ----------------------------------------------------- */

/* What detach_begin() does there: nothing of the caller's is kept, neither its terminal,
 * nor a pipe or a lock that others wait for.  detach_leave_open() keeps descriptors but
 * the first four. */
void detach_leave(Detach *d, int pipe_end);
void detach_leave_open(Detach *d, int pipe_end);

/* The monitor, its folder claimed and the Config finished: from here on what it says goes
 * to a log there, and the guest's console, if it was to be on standard input and output,
 * to a log and a socket. */
bool detach_settle(Detach *d, Config *cfg, const Place *place, GError **error);
void detach_finish(Detach *d);

/* Tells the one who waits.  The second may be called on any thread, with any lock held.
 */
void detach_running(Detach *d, const Config *cfg);
void detach_event(void *detach, const char *event, const json_t *data);
void detach_failed(Detach *d, const char *sentence, int status);
void detach_ended(Detach *d, const char *sentence, int status);
