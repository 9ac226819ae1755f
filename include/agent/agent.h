/* The agent in a guest: qemu-guest-agent, over the socket of its port (hutch run
 * --agent).  For the command line and who scripts it: everything here waits, with a time
 * limit, and one Agent belongs to one thread.
 *
 * The guest is hostile.  What it says is bounded in bytes and depth, checked, and made
 * printable before it is shown; whatever it does costs time, of which there is a limit.
 *
 * Several processes may use the agent of one VM.  Each exchange is made in turn, under a
 * lock on agent.lock beside the socket, and between two of them whoever waits comes in,
 * so that a long command does not keep others out. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "util/error.h"

#define AGENT_PORT   "org.qemu.guest_agent.0"
#define AGENT_SOCKET "agent.sock" /* in the run folder (control/place.h) */

typedef struct Agent Agent;

/* Connects to the agent of the VM `vm`, a name or the path of such a socket (with a '/'
 * in it), and asks it for a sign of life.  Each exchange, too, gets `timeout_ms`, and
 * time on top for what it has to carry.  NULL on failure: VM_ERROR_NOT_FOUND: no such VM
 * runs, or it has no such port; VM_ERROR_BUSY: nobody answers in time, or other processes
 * keep the agent for themselves. */
Agent *agent_connect(const char *vm, int timeout_ms, GError **error);
void agent_free(Agent *a); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Agent, agent_free)

/* One command.  Takes `arguments`, an object or NULL.  A new reference to what it
 * returned, which is not checked any further; NULL with the agent's own reason, or
 * VM_ERROR_BUSY, _NOT_FOUND or _CORRUPT. */
json_t *agent_call(Agent *a, const char *command, json_t *arguments, GError **error);

/* Whether the agent has the command and allows it.  Asks it once. */
bool agent_can(Agent *a, const char *command);

/* Waits, and lets others have the agent if they want to. */
void agent_sleep(Agent *a, int ms);

/* Lets others have the agent until the next call; before something that may take long. */
void agent_release(Agent *a);

/* ---- running a command ----------------------------------------------------------------
 */

typedef struct AgentExec {
    const char *const *argv; /* NULL-terminated; argv[0] is found in the guest's PATH */
    const char *const *env;  /* "K=V" on top of the agent's, NULL-terminated, or NULL */
    const char *cwd;         /* NULL: the agent's */
    const void *input;       /* its standard input, of input_len bytes */
    size_t input_len;
    int64_t timeout_ms; /* <= 0: none; else SIGTERM then, and SIGKILL a little later */

    /* Output as it comes, fd 1 or 2; NULL: dropped.  False ends the command. */
    bool (*output)(void *opaque, int fd, const char *data, size_t len, GError **error);
    /* Looked at while waiting; true ends the command, as its time limit does.  NULL: no
     * such. */
    bool (*stop)(void *opaque);
    void *opaque;
} AgentExec;

/* Runs a command and waits for its end.  *ret_status is 0 to 255, or 128 + N if signal N
 * ended it; *ret_timed_out: it took too long and was ended.  127 is also the shell's word
 * for a program that is not there.  False: it could not be run, or how it went is not
 * known.
 *
 * Its output is live where the guest has a shell and the agent's file commands are
 * allowed: it goes to files of a private folder in the guest's /tmp, which is removed as
 * soon as they are open.  Elsewhere it comes at the end, at most 16 MiB of each stream.
 */
bool agent_exec(Agent *a, const AgentExec *x, int *ret_status, bool *ret_timed_out,
                GError **error);

/* ---- files ----------------------------------------------------------------------------
 */

enum { AGENT_PIECE = 512 * 1024 }; /* bytes of a file in one exchange, at most */

/* Opens a file in the guest; `mode` as fopen()'s.  The handle is the agent's, and stays
 * open in the guest until agent_close(). */
bool agent_open(Agent *a, const char *path, const char *mode, int64_t *ret,
                GError **error);
bool agent_close(Agent *a, int64_t handle, GError **error);

/* Reads up to `size` bytes, AGENT_PIECE at most, from where it is; *ret_end: that was the
 * end of the file, for now. */
bool agent_read(Agent *a, int64_t handle, void *buf, size_t size, size_t *ret_len,
                bool *ret_end, GError **error);

/* Writes all of it, however long. */
bool agent_write(Agent *a, int64_t handle, const void *buf, size_t len, GError **error);

/* ---- the small ones -------------------------------------------------------------------
 */

/* The guest's network interfaces, a new array of at most 64 objects
 *     {"name": "eth0", "mac": "52:54:00:12:34:56", "addresses": ["10.0.2.15/24"]}
 * with nothing in it but well-formed addresses and printable names; "mac" may lack. */
json_t *agent_addresses(Agent *a, GError **error);

/* Sets the guest's clock to the host's. */
bool agent_set_clock(Agent *a, GError **error);

/* Stops writes to the guest's file systems, consistent on disk; *ret_count (or NULL) says
 * how many.  Until agent_thaw() nobody else gets a turn, and only these two work. */
bool agent_freeze(Agent *a, unsigned *ret_count, GError **error);
bool agent_thaw(Agent *a, unsigned *ret_count, GError **error);

/* A copy of the guest's text that can be shown: printable, one line, not long. */
char *agent_text(const char *text);
