/* The way to a guest's agent: its socket, taken in turn with other processes, and lines
 * over it.  Everything waits until a deadline (CLOCK_MONOTONIC nanoseconds). */
#pragma once

#include "util/error.h"

enum { LINK_MAX_REPLY = 48 * 1024 * 1024 }; /* bytes; what capture-output can need */

typedef struct AgentLink {
    char *vm;        /* for messages */
    char *path;      /* of the socket */
    char *lock_path; /* beside it */
    int lock_fd;     /* open as long as the link is there; -1: not yet */
    int fd;          /* connected, and it is our turn; -1: not */
    GString *in;     /* received, not yet used */
    size_t in_at;    /* of it, used */
} AgentLink;

/* Finds the socket of a VM by name, or by its path.  Does not connect. */
bool link_init(AgentLink *l, const char *vm, GError **error);
void link_finish(AgentLink *l); /* harmless on a zeroed one */

/* Waits for our turn and connects.  VM_ERROR_BUSY: the time was over. */
bool link_open(AgentLink *l, int64_t deadline_ns, GError **error);
void link_close(AgentLink *l);        /* the turn is over; harmless if it has not begun */
bool link_wanted(const AgentLink *l); /* somebody waits for its turn */

/* This and the next two: false without an error: the deadline is over. */
bool link_send(AgentLink *l, const char *text, size_t len, int64_t deadline_ns,
               GError **error);

/* Drops what comes up to the next byte 0xFF, and that too; or takes a line, which is good
 * until the next call, without its end. */
bool link_skip(AgentLink *l, int64_t deadline_ns, GError **error);
bool link_line(AgentLink *l, const char **ret, size_t *ret_len, int64_t deadline_ns,
               GError **error);
