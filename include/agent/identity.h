/* Making a guest that is a copy of another one itself, through its agent: what guests
 * keep of who they are, and must not share with a sibling, is a table of steps in
 * src/agent/identity.c.  docs/clones.md tells people of it. */
#pragma once

#include "agent/agent.h"

typedef struct IdentityMac {
    char now[18]; /* as the guest has it: "52:54:00:12:34:56" */
    char own[18]; /* what it is to be */
} IdentityMac;

typedef struct Identity {
    const char *hostname; /* identity_hostname() */
    const char *uuid;     /* its machine-id becomes that, as systemd does it on KVM */
    const IdentityMac *macs;
    unsigned n_macs;
    const char *root; /* NULL; for tests: what /etc and /var are below of in the guest */
    const char *path; /* NULL; for tests: the PATH of the steps */
    int step_ms;      /* how long each of them may take */
} Identity;

/* A new string: a VM's name as a host name (RFC 1123): letters, digits and '-', 63 bytes
 * at most. */
char *identity_hostname(const char *vm);

/* Does all steps, one after the other, also after one that failed.  A new array of
 *     {"step": "ssh-keys", "result": "done", "absent" or "failed", "detail": "..."}
 * absent: the guest has no such thing.  NULL: the agent has stopped to answer. */
json_t *identity_give(Agent *a, const Identity *id, GError **error);

/* Its steps that failed, as a sentence; NULL: none did. */
char *identity_failures(const json_t *steps);
