/* hutch clone: many VMs from one snapshot, and what makes each of them itself.
 *
 *     clone.c         the options, where the snapshot comes from, what is printed
 *     clone_names.c   names by a pattern
 *     clone_start.c   the monitors: forked from one process that has opened it all once
 *     clone_ready.c   the guests: identity by their agents, and waiting for them
 *     clone_config.c  what each gets that is its own
 *     clone_detach.c  hutch clone detach
 */
#pragma once

#include "snapshot/restore.h"
#include "src/cli/cli.h"
#include "src/cli/detach.h"

typedef struct CloneArgs {
    uint64_t count, wait_timeout;
    char *name, *wait, *disks;
    char **net;
    int identity; /* CloneIdentityMode */
    bool json, trust;
} CloneArgs;

typedef enum { CLONE_IDENTITY_AUTO, CLONE_IDENTITY_OFF } CloneIdentityMode;

typedef struct Clone {
    unsigned number; /* what %d is for it */
    char *name, *uuid;
    pid_t pid;
    DetachWaiter *waiter;
    json_t *identity; /* the agent's steps; NULL: none were done */
    GError *error;    /* why it is not ready */
    int status;
} Clone;

typedef struct CloneJob {
    const CloneArgs *args;
    char *folder;   /* the snapshot's */
    bool anonymous; /* made for these clones: it goes with the last of them */
    Config *cfg;    /* the template's; in a clone's process, the clone's */
    SnapshotRestore *restore;
    Clone *clones;
    unsigned n;
} CloneJob;

extern const Verb clone_verbs[];
extern const ParamTable clone_args;
extern const char clone_about[], clone_notes[];
bool clone_act(void *options, char **names, int *status, GError **error);

/* ---- clone_names.c ----------------------------------------------------------------- */

/* A new string: `pattern` with the number in the place of %d or %0Nd, and % for %%. */
char *clone_expand(const char *pattern, unsigned number);

/* Whether names of that pattern differ; refused: another % than those. */
bool clone_check_pattern(const char *option, const char *pattern, bool *ret_numbered,
                         GError **error);

/* ---- clone_start.c ----------------------------------------------------------------- */

/* The first thing that the process does: closes what it was left with, so that the
 * monitors to be have only what they need. */
void clone_prepare_process(void);

/* Starts job->clones.  True in a clone's process when that has ended, with its status. */
bool clone_start(CloneJob *job, int *ret_status);

/* ---- clone_config.c: in the clone's process ------------------------------------------
 */

bool clone_give_config(CloneJob *job, const Clone *c, const Place *place, GError **error);

/* ---- clone_ready.c ----------------------------------------------------------------- */

/* Returns when all are ready, or have failed, which is in the Clone. */
void clone_wait(CloneJob *job);
