/* Being asked to stop: SIGINT, SIGTERM and SIGHUP, of verbs that take long.  The first
 * one is noted, for who looks; a second one ends us at once. */
#pragma once

#include "util/error.h"

/* Main thread.  A verb that does not call it is ended by the first signal. */
void interrupt_watch(void);

int interrupt_signal(void); /* any thread; 0: none yet */

/* Whether there was one, as AgentExec's `stop`. */
bool interrupt_stop(void *unused);

/* Always false: the sentence that a verb ends with. */
bool interrupt_fail(GError **error);

/* The first one also shuts this socket down, so that who waits for what comes through it
 * hears of it at once; -1: none. */
void interrupt_shuts(int socket);

/* A second one also removes this file, which is not complete; NULL: none.  The text is to
 * live until another call. */
void interrupt_removes(char *path);
