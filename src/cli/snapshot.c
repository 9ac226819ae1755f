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
    {.name = "merge",
     .args = "NAME [--into NEW]",
     .help = "make a full snapshot of a diff and all that it builds on",
     .names = NAMES_SNAPSHOTS,
     .act = snapshot_act_merge,
     .params = &snapshot_merge_args,
     .min_names = 1,
     .max_names = 1,
     .about = "Without --into the diff itself becomes a full snapshot, so that its "
              "parent may be removed; nobody may have it in use then."},
    {.name = "export",
     .args = "NAME FILE|-",
     .help = "write all of a snapshot into one file, to be taken elsewhere",
     .names = NAMES_SNAPSHOTS_AND_FILES,
     .act = snapshot_act_export,
     .params = &snapshot_export_args,
     .min_names = 2,
     .max_names = 2,
     .about = "The file is a tar archive compressed by zstd.  What a diff builds on goes "
              "in, so that it comes out as a full snapshot; each disk becomes one image "
              "that needs no other."},
    {.name = "import",
     .args = "FILE|- [--name NAME]",
     .help = "make a snapshot of a file that export wrote",
     .names = NAMES_FILES,
     .act = snapshot_act_import,
     .params = &snapshot_import_args,
     .min_names = 1,
     .max_names = 1,
     .about = "All of it is compared with its hashes before it gets its name.  Its "
              "config.json says which files, sockets and networks of this host the VM "
              "will use: of a snapshot from strangers, look at it first ('hutch snapshot "
              "inspect')."},
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
