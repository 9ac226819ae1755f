/* Unix stream sockets with a file.  The file is made for its owner only, one that nobody
 * listens behind any more is replaced, and ours is removed at the end. */
#pragma once

#include <sys/types.h>

#include "util/error.h"

typedef struct UnixListener {
    int fd;     /* non-blocking, close-on-exec; -1: none */
    char *path; /* NULL until bound */
    dev_t dev;  /* of the file we made, so as to remove no other */
    ino_t ino;
} UnixListener;

/* Listens on `path`; refused if somebody does already, or if a file of another kind is
 * there.  After a failure, too, unix_unlisten() is to be called. */
bool unix_listen(UnixListener *l, const char *path, int backlog, GError **error);
void unix_unlisten(UnixListener *l);

/* A connected, blocking socket; -1 on failure, with errno as connect() left it. */
int unix_connect(const char *path, GError **error);

/* Likewise, but non-blocking, and without waiting: EAGAIN if the listener's backlog is
 * full. */
int unix_connect_now(const char *path, GError **error);
