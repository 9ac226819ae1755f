/* Prints a log that is appended to (util/logfile.h: PATH and PATH.1), and goes on as it
 * grows.  What guests have said is made harmless for terminals.  Main thread. */
#pragma once

#include "util/error.h"

typedef struct Tail {
    bool json; /* each line as a JSON string */
    bool tame; /* a terminal reads it */
    char *path;
    int fd;             /* -1: it is not there */
    GString *line;      /* json: what is of the next line */
    unsigned char last; /* byte that the terminal got */
} Tail;

void tail_init(Tail *t, char *path, bool json); /* takes the path */
void tail_clear(Tail *t);

/* Prints the older part.  A log that is not there is no error: t->fd tells. */
bool tail_open(Tail *t, GError **error);
/* What there is now. */
bool tail_print(Tail *t, GError **error);
/* And what comes, until we are interrupted, `until` is readable (-1: never), or the log
 * is removed. */
bool tail_follow(Tail *t, int until, GError **error);
