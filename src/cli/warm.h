/* hutch run --warm: a VM that goes on where an earlier one had booted.
 *
 *     warm_key.c   which VMs are the same until they have booted, and what is stale
 *     warm_run.c   a VM's start: from the cache, or by booting, and the keeping of that
 *     warm.c       hutch warm ls and rm
 *
 * The cache holds KEY.snap, snapshots of VMs right after their boot, each with KEY.json
 * beside it, which says of what they are. */
#pragma once

#include "control/place.h"
#include "snapshot/restore.h"
#include "src/cli/cli.h"

extern const Verb warm_verbs[]; /* ends with a NULL name */

/* What "booted" is: --warm=boot, agent or SECONDS. */
typedef enum { WARM_BOOT, WARM_AGENT, WARM_SECONDS } WarmKind;
typedef struct WarmWhen {
    WarmKind kind;
    unsigned seconds;
} WarmWhen;

/* Main thread, before there are others.  The Config is finished, its run folder claimed.
 * *ret_restore is what the VM goes on from; NULL: it boots, and another process waits for
 * that and keeps it.  In both cases *cfg is another Config afterwards, whose disks are
 * overlays that go with the VM. */
bool warm_begin(const char *text, Config **cfg, const Place *place,
                SnapshotRestore **ret_restore, GError **error);

/* ---- warm_key.c ----------------------------------------------------------------------
 */

/* A new object: everything that a boot depends on. */
json_t *warm_inputs(const Config *cfg, const char *when);
char *warm_key(const json_t *inputs); /* a new string, a name in STORE_WARM */

bool warm_write(const char *key, const json_t *inputs, GError **error);
json_t *warm_read(const char *key); /* a new reference; NULL: there is none */
void warm_touch(const char *key);   /* it was used now */
int64_t warm_used_ns(const char *key);
bool warm_is_stale(const json_t *inputs);
bool warm_remove(const char *key, GError **error); /* VM_ERROR_BUSY: it is in use */

/* Removes what is stale, and what was not used for longest of what is too much. */
void warm_prune(void);
