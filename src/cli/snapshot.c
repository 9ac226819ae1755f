/* hutch snapshot: the verbs there. */
#include "src/cli/snapshot.h"

#include <limits.h>

SNAPSHOT_TABLE(snapshot_json_args, SNAPSHOT_ARG_JSON);

const Verb snapshot_verbs[] = {
    {.name = "list",
     .args = "[--json]",
     .help = "list snapshots, each below the one it is a difference to",
     .act = snapshot_act_list,
     .params = &snapshot_list_args},
    {.name = "inspect",
     .args = "NAME",
     .help = "tell all that is in a snapshot, each register in words",
     .names = NAMES_SNAPSHOTS,
     .act = snapshot_act_inspect,
     .params = &snapshot_json_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "verify",
     .args = "NAME...",
     .help = "compare snapshots and their parents with the hashes they were written with",
     .names = NAMES_SNAPSHOTS,
     .act = snapshot_act_verify,
     .params = &snapshot_verify_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .statuses = snapshot_verify_statuses},
    {.name = "rm",
     .args = "NAME...",
     .help = "remove snapshots that nobody needs any more",
     .names = NAMES_SNAPSHOTS,
     .act = snapshot_act_rm,
     .params = &snapshot_rm_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .about = "One that others are differences to stays, unless they go with it: merge "
              "them first.  So does one that a VM was restored from and still has in "
              "use.  Disks outside of its folder are not touched."},
    {0},
};
