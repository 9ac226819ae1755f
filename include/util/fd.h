/* File descriptors with an owner. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "util/error.h"

static inline void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Closed when its scope ends, unless fd_steal() took it. */
#define autofd __attribute__((cleanup(fd_close))) int

static inline int fd_steal(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}

/* Sets or clears O_NONBLOCK. */
bool fd_set_nonblock(int fd, bool on, GError **error);

/* A close-on-exec, non-blocking eventfd; -1 on failure. */
int fd_event(GError **error);

/* A close-on-exec memfd of `size` bytes for sharing with other processes; `flags`: more
 * of memfd_create(2)'s.  Its size is for ever: a process that could make it smaller would
 * end ours by a bus error.  -1 with errno on failure. */
int fd_memory(const char *name, uint64_t size, unsigned flags);

/* Adds one to an eventfd, and takes its whole count (true if it was not zero).  Any
 * thread; neither can fail in a way that matters to the caller. */
void fd_event_signal(int fd);
bool fd_event_take(int fd);

/* The same of an eventfd that another process has, too, which may have made it a blocking
 * one, and full: then nobody is told, as who listens has been. */
void fd_event_signal_shared(int fd);

/* A pipe to be used by these two as an eventfd is, close-on-exec and non-blocking: who
 * listens gets `*ret_hear`, who signals `*ret_ring`.  What one process does to its end,
 * as to make it a blocking one, the other does not notice; a ring after nobody hears it
 * any more is a SIGPIPE, unless that is ignored, and what nobody can ring any more is
 * EPOLLHUP. */
bool fd_bell(int *ret_hear, int *ret_ring, GError **error);

/* Reads or writes all of `len` at `offset`, going on after short transfers and EINTR.
 * An end of file before `len` is an error. */
bool fd_pread_all(int fd, void *buf, size_t len, uint64_t offset, GError **error);
bool fd_write_all(int fd, const void *buf, size_t len, GError **error);
