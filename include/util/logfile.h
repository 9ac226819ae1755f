/* A file that is appended to and never grows without bound: when it has LOGFILE_MAX bytes
 * it becomes NAME.1, replacing the one before, and a new one is begun.  For what a guest
 * can cause, in run folders, which are memory.
 *
 * The folder is held open, so that the log goes on when the folder gets another name.  A
 * LogFile belongs to one thread, or to a lock of its owner's. */
#pragma once

#include <stddef.h>

#include "util/error.h"

enum { LOGFILE_MAX = 1024 * 1024 };

typedef struct LogFile {
    int folder_fd, fd; /* -1: none */
    char *name;
    size_t size; /* of the present part */
} LogFile;

/* Begins a log, going on with what is there.  After a failure, too, logfile_close() is to
 * be called. */
bool logfile_open(LogFile *l, const char *path, GError **error);
void logfile_close(LogFile *l);

/* Appends; false with errno set if some of it could not be written, and is lost. */
bool logfile_write(LogFile *l, const void *buf, size_t len);
