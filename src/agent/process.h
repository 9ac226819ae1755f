/* Processes in the guest, by guest-exec and guest-exec-status. */
#pragma once

#include "src/agent/agent_private.h"

enum { PROCESS_MAX_CAPTURE = 16 * 1024 * 1024 }; /* of each stream; the agent's limit */

typedef struct Process {
    bool ended;
    int status; /* 0-255, or 128 + N for signal N; once it has ended, as is what follows
                 */
    guchar *data[2]; /* its captured output and error output, owned; NULL: none */
    size_t len[2];
    bool truncated; /* there was more */
} Process;

/* Starts `path` (found in the guest's PATH) with `arguments`, a JSON array that is taken.
 * `input` may be NULL.  *ret is its process id. */
bool process_start(Agent *a, const char *path, json_t *arguments, const void *input,
                   size_t input_len, bool capture, int64_t *ret, GError **error);

/* How it is.  One that has ended is forgotten by the agent when it has told that. */
bool process_look(Agent *a, int64_t pid, Process *ret, GError **error);
void process_clear(Process *p);

/* Waits until it has ended, at most as long as an exchange may take. */
bool process_wait(Agent *a, int64_t pid, int *ret_status, GError **error);

/* A new array for process_start(): the shell's, of a script and its $1 and on; ends with
 * NULL. */
#define PROCESS_SHELL "/bin/sh"
json_t *process_script(const char *script, ...) G_GNUC_NULL_TERMINATED;
