/* hutch clone detach: a VM gets everything that it shares as its own, while it runs. */
#include <stdio.h>
#include <string.h>

#include "src/cli/clone.h"
#include "src/cli/disk.h"
#include "util/json.h"

typedef struct DetachArgs {
    bool json;
} DetachArgs;

static const ParamTable detach_args = {
    .size = sizeof(DetachArgs),
    .desc = (const ParamDesc[]){{.key = "json",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(DetachArgs, json),
                                 .help = "print what was copied as JSON"},
                                {0}},
};

/* `disk`: an element of query-block. */
static bool has_layers(const json_t *disk)
{
    const json_t *in = json_object_get(disk, "inserted");

    return !json_is_true(json_object_get(in, "ro")) &&
           json_integer_value(json_object_get(in, "backing_file_depth")) > 0;
}

static bool detach_disks(const char *vm, ControlClient *c, json_t *ret, GError **error)
{
    json_t *disks = control_client_call(c, "query-block", NULL, error), *disk;
    bool ok = disks != NULL;
    size_t i;

    json_array_foreach(disks, i, disk)
    {
        const char *id = json_get_text(disk, "device");

        if (!ok || !has_layers(disk))
            continue;
        ok = disk_stream(vm, id, error);
        if (ok)
            json_array_append_new(ret, json_string(id));
    }
    json_decref(disks);
    return ok;
}

static bool detach(const char *vm, json_t *ret, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(vm, error);
    json_t *disks = json_array(), *memory;

    json_object_set_new(ret, "disks", disks);
    if (!c || !detach_disks(vm, c, disks, error))
        return false;
    memory = control_client_call(c, "x-hutch-detach-memory", NULL, error);
    if (memory)
        json_object_set(ret, "memory", json_object_get(memory, "bytes"));
    json_decref(memory);
    return memory != NULL;
}

static bool act_detach(void *options, char **names, int *status, GError **error)
{
    const DetachArgs *args = options;
    json_t *ret = json_pack("{s:s}", "name", names[0]);
    bool ok = detach(names[0], ret, error);

    if (ok && args->json)
        cli_print_json(json_incref(ret));
    json_decref(ret);
    return ok;
}

const Verb clone_verbs[] = {
    {.name = "detach",
     .args = "VM",
     .help = "give a clone what it shares as its own, while it runs",
     .names = NAMES_VMS,
     .act = act_detach,
     .params = &detach_args,
     .min_names = 1,
     .max_names = 1,
     .about = "The layers of its disks are copied into its own images, and the pages of "
              "memory that it has from its template are copied too.  When this returns, "
              "nothing of the template is needed any more."},
    {0},
};
