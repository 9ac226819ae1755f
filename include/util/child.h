/* Programs that we start as children of ours: what they say, and how often they may be
 * started.  Guests can make them talk, and end; neither may flood the log or the host. */
#pragma once

#include "util/ioloop.h"
#include "util/log.h"

enum { CHILD_WORDS = 512, CHILD_STARTS = 5 };

/* ---- what it says ------------------------------------------------------------------
 *
 * Its standard error, line by line: each goes to the log, rate-limited, and the last is
 * kept, for a sentence about its end.  Owned by one loop.  Zero-initialise, with fd -1,
 * and fill in the first three. */

typedef struct ChildWords {
    const char *id, *program;           /* "net0", "passt": whose; the caller's */
    bool (*is_noise)(const char *line); /* that nobody is told of; NULL: none is */
    bool untold; /* while true, lines are kept and not logged: it starts */

    int fd; /* owned; -1: nothing is heard */
    IoWatch watch;
    char line[CHILD_WORDS]; /* not complete yet */
    size_t len;
    char last[CHILD_WORDS];
    LogLimit limit;
} ChildWords;

/* From now on `fd` is heard, whose owner it becomes in any case; what was said is
 * forgotten. */
bool child_words_hear(ChildWords *w, int fd, IoLoop *loop, GError **error);
void child_words_close(ChildWords *w);

/* What it said last, "" if nothing; as far as it has come. */
const char *child_words_last(ChildWords *w);

/* The same when it has hung up, or was silent for so long: it is about to end. */
const char *child_words_hear_out(ChildWords *w, int silent_ms);

/* ---- how often ----------------------------------------------------------------- */

typedef struct ChildStarts {
    int64_t at_ns[CHILD_STARTS]; /* a ring */
    unsigned n;
} ChildStarts;

void child_starts_add(ChildStarts *s); /* now */

/* When it may be started next, on CLOCK_MONOTONIC: CHILD_STARTS times a minute. */
int64_t child_starts_next(const ChildStarts *s);
