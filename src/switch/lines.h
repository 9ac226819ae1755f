/* Lines of text from a socket that somebody else writes to, of bounded length; memory
 * only while a line is incomplete. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct Lines {
    char *text; /* NULL: nothing is kept */
    size_t at, len, room;
    size_t max; /* bytes that a line may have */
} Lines;

typedef enum { LINES_MORE, LINES_WAIT, LINES_END, LINES_LONG } LinesResult;

/* Reads once from a non-blocking socket.  MORE: something came; WAIT: nothing is there;
 * END: hung up, or broken; LONG: a line is longer than max, and nothing more is read. */
LinesResult lines_read(Lines *l, int fd);

/* The next whole line without its end, in place until the next call of either; NULL:
 * there is none yet. */
char *lines_next(Lines *l);
void lines_free(Lines *l);
