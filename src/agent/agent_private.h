/* What the files of the agent's client share. */
#pragma once

#include "agent/agent.h"
#include "src/agent/link.h"

struct Agent {
    AgentLink link;
    int timeout_ms;
    bool held;            /* others get no turn: the guest is frozen */
    GHashTable *commands; /* those that are allowed; NULL: not asked yet */
};

/* "VM 'x': its guest agent ..."; returns false. */
bool agent_fail(const Agent *a, GError **error, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* Members of what the guest said, of the type and within the bounds that are wanted, or
 * VM_ERROR_CORRUPT.  The text is the object's. */
bool agent_get_int(const Agent *a, const json_t *object, const char *key, int64_t min,
                   int64_t max, int64_t *ret, GError **error);
bool agent_get_bool(const Agent *a, const json_t *object, const char *key, bool *ret,
                    GError **error);

/* Base64 of at most `max` bytes, or VM_ERROR_CORRUPT; NULL on failure.  A key that is not
 * there is no bytes. */
guchar *agent_get_bytes(const Agent *a, const json_t *object, const char *key, size_t max,
                        size_t *ret_len, GError **error);

/* A command whose result is of no interest. */
bool agent_tell(Agent *a, const char *command, json_t *arguments, GError **error);
