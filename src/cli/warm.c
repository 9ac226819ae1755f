/* hutch warm: what hutch run --warm keeps. */
#include <stdio.h>
#include <string.h>

#include "src/cli/snapshot.h"
#include "src/cli/warm.h"
#include "util/json.h"

static SNAPSHOT_TABLE(ls_args, SNAPSHOT_ARG_JSON,
                      {IMAGE_ARG("quiet", 'q', PARAM_BOOL, quiet),
                       .help = "print names only"});

typedef struct RmArgs {
    bool all;
} RmArgs;
static const ParamTable rm_args = {
    .size = sizeof(RmArgs),
    .desc = (const ParamDesc[]){{.key = "all",
                                 .letter = 'a',
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(RmArgs, all),
                                 .help = "all that no VM has in use"},
                                {0}},
};

static json_t *describe(const char *key)
{
    g_autofree char *folder = store_path(STORE_WARM, key, NULL);
    json_t *inputs = warm_read(key), *ret;

    ret = json_pack("{s:s, s:I, s:I, s:b, s:b}", "name", key, "size",
                    (json_int_t)snap_size(folder), "used-ns",
                    (json_int_t)warm_used_ns(key), "in-use", store_in_use(folder),
                    "stale", !inputs || warm_is_stale(inputs));
    if (inputs)
        json_object_set(ret, "inputs", inputs);
    json_decref(inputs);
    return ret;
}

static void print_row(const json_t *one)
{
    const json_t *config = json_object_get(json_object_get(one, "inputs"), "config");
    g_autofree char *size = image_size_text(
        (uint64_t)json_integer_value(json_object_get(one, "size")));
    g_autofree char *when = snap_time_text(
        json_integer_value(json_object_get(one, "used-ns")));

    printf("%-24s  %-19s  %10s  %-6s  %s\n", json_get_text(one, "name"), when, size,
           json_is_true(json_object_get(one, "in-use"))  ? "in use"
           : json_is_true(json_object_get(one, "stale")) ? "stale"
                                                         : "",
           json_get_text(config, "kernel"));
}

static bool act_ls(void *options, char **names, int *status, GError **error)
{
    const SnapshotArgs *args = options;
    g_auto(GStrv) keys = store_list(STORE_WARM, error);
    json_t *all = json_array(), *one;
    size_t i;

    for (char **key = keys; key && *key; key++)
        json_array_append_new(all, describe(*key));
    if (keys && args->common.json) {
        cli_print_json(json_incref(all));
    } else if (keys) {
        if (!args->common.quiet)
            printf("%-24s  %-19s  %10s  %-6s  %s\n", "NAME", "LAST USED", "ON DISK", "",
                   "KERNEL");
        json_array_foreach(all, i, one)
        {
            if (args->common.quiet)
                puts(json_get_text(one, "name"));
            else
                print_row(one);
        }
    }
    json_decref(all);
    return keys != NULL;
}

/* What VMs have in use stays with --all. */
static bool remove_all(GError **error)
{
    g_auto(GStrv) keys = store_list(STORE_WARM, error);

    for (char **key = keys; key && *key; key++) {
        g_autoptr(GError) inner = NULL;

        if (warm_remove(*key, &inner)) {
            puts(*key);
        } else if (!g_error_matches(inner, VM_ERROR, VM_ERROR_BUSY)) {
            g_propagate_error(error, g_steal_pointer(&inner));
            return false;
        }
    }
    return keys != NULL;
}

static bool act_rm(void *options, char **names, int *status, GError **error)
{
    const RmArgs *args = options;

    if (args->all == (*names != NULL))
        return fail(error, VM_ERROR_INVALID,
                    "which? Give a name of 'hutch warm ls', or --all");
    if (args->all)
        return remove_all(error);
    for (; *names; names++) {
        g_autofree char *folder = store_find(STORE_WARM, *names, error);

        if (!folder || !warm_remove(*names, error))
            return false;
        puts(*names);
    }
    return true;
}

const Verb warm_verbs[] = {
    {.name = "ls",
     .args = "[--json]",
     .help = "list what is kept, and what of it is stale",
     .act = act_ls,
     .params = &ls_args},
    {.name = "rm",
     .args = "NAME...|--all",
     .help = "remove what no VM has in use",
     .act = act_rm,
     .params = &rm_args,
     .max_names = 1000},
    {0},
};
