/* The verbs about snapshots' folders: what their files share.  Main thread. */
#pragma once

#include "snapshot/manifest.h"
#include "snapshot/store.h"
#include "src/cli/cli.h"
#include "src/cli/image.h"
#include "state/state.h"

extern const Verb snapshot_verbs[]; /* hutch snapshot; ends with a NULL name */

bool snapshot_act_create(void *, char **, int *, GError **);
bool snapshot_act_restore(void *, char **, int *, GError **);
extern const ParamTable snapshot_create_args, snapshot_restore_args;
extern const char snapshot_create_about[], snapshot_restore_about[];
bool snapshot_act_list(void *, char **, int *, GError **);
bool snapshot_act_inspect(void *, char **, int *, GError **);
bool snapshot_act_verify(void *, char **, int *, GError **);
bool snapshot_act_check(void *, char **, int *, GError **);
bool snapshot_act_diff(void *, char **, int *, GError **);
bool snapshot_act_export(void *, char **, int *, GError **);
bool snapshot_act_import(void *, char **, int *, GError **);
bool snapshot_act_merge(void *, char **, int *, GError **);
bool snapshot_act_serve(void *, char **, int *, GError **);
extern const ParamTable snapshot_serve_args;
extern const char snapshot_serve_about[];
bool snapshot_act_rm(void *, char **, int *, GError **);
/* The same of any store: `args` is a SnapshotArgs. */
bool snapshot_list_store(StoreKind kind, const void *args, GError **error);
bool snapshot_rm_store(StoreKind kind, const void *args, char **names, GError **error);
extern const ParamTable snapshot_list_args, snapshot_verify_args, snapshot_rm_args,
    snapshot_check_args, snapshot_diff_args, snapshot_merge_args, snapshot_export_args,
    snapshot_import_args;
extern const ExitStatus snapshot_verify_statuses[], snapshot_check_statuses[],
    snapshot_diff_statuses[];
extern const char snapshot_check_about[];

/* The options of all of them; each verb's table has the rows it wants. */
typedef struct SnapshotArgs {
    ImageArgs common; /* json, quiet, progress */
    bool force;
} SnapshotArgs;

#define SNAPSHOT_ARG_JSON                                                                \
    {                                                                                    \
        IMAGE_ARG("json", 0, PARAM_BOOL, json), .help = "print the result as JSON"       \
    }
#define SNAPSHOT_TABLE(name_, ...)                                                       \
    const ParamTable name_ = {                                                           \
        .size = sizeof(SnapshotArgs),                                                    \
        .desc = (const ParamDesc[]){__VA_ARGS__, {0}},                                   \
    }

/* ---- snapshot_look.c: what is known of a folder -------------------------------------
 */

typedef struct Snap {
    char *name;         /* as people call it */
    char *folder, *why; /* why there is no manifest; NULL: there is one */
    Manifest *manifest; /* NULL: it cannot be read */
    StoreKind kind;
} Snap;

void snap_free(void *snap);
/* All that the store has, whether it can be read or not: an array of Snap. */
GPtrArray *snap_list(StoreKind kind, GError **error);
/* The one called `name`; its manifest is there. */
Snap *snap_find(const char *name, GError **error);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Snap, snap_free)

/* Bytes on the disk, of the folder alone. */
uint64_t snap_size(const char *folder);

/* Those who have a file of a folder open, by looking at all processes that we may look
 * at: real paths of files to arrays of texts: "VM 'web'", "process 17 (python3)". */
typedef struct SnapUsers SnapUsers;
SnapUsers *snap_users_look(void);
void snap_users_free(SnapUsers *u);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapUsers, snap_users_free)
/* New strings, each once; empty: nobody. */
char **snap_users_of(const SnapUsers *u, const char *folder);

/* False, with VM_ERROR_BUSY and who it is: somebody else has files of it open. */
bool snapshot_check_users(const Snap *s, GError **error);

/* "2026-11-26 01:46:20", local time; a new string. */
char *snap_time_text(int64_t ns);

/* The state, whose framing and sums are checked; NULL on failure. */
StateReader *snap_read_state(const char *folder, GError **error);

/* A file of the folder as JSON. */
json_t *snap_read_json(const char *folder, const char *name, GError **error);
