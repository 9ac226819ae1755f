/* Which process is at the other end of a unix socket: what it says itself has no part in
 * it. */
#pragma once

#include <sys/types.h>

pid_t peer_pid(int fd); /* 0: it cannot be seen from here */

/* "program PID START ", a new text that no later process has; NULL: as above. */
char *peer_program(int fd);
