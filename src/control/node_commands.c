/* Nodes: disks to come, under QMP's names (qapi/block-core.json of QEMU 7.2).
 *
 * blockdev-add describes a file (`file`, `host_device`) or an image in one (`raw`,
 * `qcow2`), over a node or a description of the file.  It is opened to see that it can
 * be, and closed again: the device that takes it (device_add, drive=) opens it for
 * itself.  Images below a qcow2 image are those that it names. */
#include "src/control/disk.h"
#include "src/control/parts.h"

/* ---- what is asked for ----------------------------------------------------------------
 */

enum { DRIVER_FILE, DRIVER_HOST_DEVICE, DRIVER_RAW, DRIVER_QCOW2 };
static const char *const drivers[] = {"file", "host_device", "raw", "qcow2", NULL};
static const char *const aios[] = {"threads", "native", "io_uring", NULL};
static const char *const lockings[] = {"auto", "on", "off", NULL};
static const char *const discards[] = {"unmap", NULL};

typedef struct AddArgs {
    int driver, aio, locking, discard; /* all but driver: 0 is not given */
    char *node, *filename;
    json_t *file, *cache;
    bool readonly;
} AddArgs;

static const ParamTable add_args = {
    .size = sizeof(AddArgs),
    .desc = (const ParamDesc[]){{.key = "driver",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(AddArgs, driver),
                                 .choices = drivers,
                                 .help = "file and host_device, or the format of one",
                                 .required = true},
                                {.key = "node-name",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(AddArgs, node),
                                 .help = "its name, for device_add's drive"},
                                {.key = "filename",
                                 .type = PARAM_PATH,
                                 .offset = offsetof(AddArgs, filename),
                                 .help = "of a file or device"},
                                {.key = "file",
                                 .type = PARAM_JSON,
                                 .offset = offsetof(AddArgs, file),
                                 .help = "of a format: a node, or what would make one"},
                                {.key = "read-only",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(AddArgs, readonly),
                                 .help = "refuse writes"},
                                {.key = "cache",
                                 .type = PARAM_JSON,
                                 .offset = offsetof(AddArgs, cache),
                                 .help = "{direct, no-flush}"},
                                {.key = "aio",
                                 .type = PARAM_ENUM,
                                 .min = 1,
                                 .offset = offsetof(AddArgs, aio),
                                 .choices = aios,
                                 .help = "how requests reach the file"},
                                {.key = "locking",
                                 .type = PARAM_ENUM,
                                 .min = 1,
                                 .offset = offsetof(AddArgs, locking),
                                 .choices = lockings,
                                 .help = "keep others from using the file"},
                                {.key = "discard",
                                 .type = PARAM_ENUM,
                                 .min = 1,
                                 .offset = offsetof(AddArgs, discard),
                                 .choices = discards,
                                 .help = "the guest's discards reach the file"},
                                {0}},
};

typedef struct CacheArgs {
    bool direct, no_flush;
} CacheArgs;
static const ParamTable cache_args = {
    .size = sizeof(CacheArgs),
    .desc = (const ParamDesc[]){{.key = "direct",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(CacheArgs, direct),
                                 .help = "O_DIRECT"},
                                {.key = "no-flush",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(CacheArgs, no_flush),
                                 .help = "flushes are not carried out"},
                                {0}},
};

/* ---- in the words of --disk -----------------------------------------------------------
 */

static bool set_cache(json_t *options, json_t *cache, GError **error)
{
    CacheArgs *args = param_new(&cache_args);
    bool ok = param_from_json(&cache_args, args, cache, NULL, error);

    if (ok)
        json_object_set_new(options, "cache",
                            json_string(args->no_flush ? "unsafe"
                                        : args->direct ? "none"
                                                       : "writeback"));
    else
        g_prefix_error(error, "cache: ");
    param_free(&cache_args, args);
    return ok;
}

/* What may be said of any node goes over what the one below it says. */
static bool set_common(json_t *options, const AddArgs *args, GError **error)
{
    static const char *const our_aios[] = {NULL, "threads", "libaio", "io_uring"};

    if (args->readonly)
        json_object_set_new(options, "readonly", json_true());
    if (args->aio)
        json_object_set_new(options, "aio", json_string(our_aios[args->aio]));
    if (args->locking)
        json_object_set_new(options, "locking",
                            json_string(args->locking == 3 ? "off" : "on"));
    return !args->cache || set_cache(options, args->cache, error);
}

static bool is_file(const AddArgs *args)
{
    return args->driver == DRIVER_FILE || args->driver == DRIVER_HOST_DEVICE;
}

static json_t *file_options(const AddArgs *args, GError **error)
{
    if (args->filename && !args->file)
        return json_pack("{s:o, s:s}", "path", control_text(args->filename), "format",
                         "raw");
    fail(error, VM_ERROR_INVALID, "a %s has a 'filename', and no 'file'",
         drivers[args->driver]);
    return NULL;
}

/* The file is described in place: {"driver": "file", "filename": ...}. */
static json_t *inline_options(json_t *file, GError **error)
{
    AddArgs *args = param_new(&add_args);
    json_t *options = NULL;

    if (param_from_json(&add_args, args, file, NULL, error)) {
        if (!is_file(args) || args->node)
            fail(error, VM_ERROR_INVALID,
                 "what a format lies in is of driver 'file' or 'host_device', and "
                 "without a node-name here");
        else
            options = file_options(args, error);
        if (options && !set_common(options, args, error))
            g_clear_pointer(&options, json_decref);
    }
    if (!options)
        g_prefix_error(error, "file: ");
    param_free(&add_args, args);
    return options;
}

/* *ret_below is the node it lies in, if it has a name. */
static json_t *format_options(const Parts *parts, const AddArgs *args,
                              const char **ret_below, GError **error)
{
    const Part *below;
    json_t *options;

    if (args->filename || !args->file) {
        fail(error, VM_ERROR_INVALID, "a %s has a 'file', and no 'filename'",
             drivers[args->driver]);
        return NULL;
    }
    if (!json_is_string(args->file)) {
        options = inline_options(args->file, error);
    } else {
        *ret_below = json_string_value(args->file);
        below = parts_find(parts, PART_DISK, *ret_below);
        options = below ? json_copy(below->options) : NULL;
        if (!below)
            fail(error, VM_ERROR_INVALID, "file: there is no node '%s'", *ret_below);
    }
    if (options)
        json_object_set_new(options, "format", json_string(drivers[args->driver]));
    return options;
}

/* ---- blockdev-add ---------------------------------------------------------------------
 */

/* So that the macro finds its options under a member's name. */
typedef struct BlockAlone {
    BlockOptions o;
} BlockAlone;

static const ParamTable block_table = {
    .size = sizeof(BlockAlone),
    .desc = (const ParamDesc[]){BLOCK_PARAMS(BlockAlone, o), {0}},
};

/* What queries show of it; NULL: it cannot be opened. */
static json_t *look_at(json_t *options, const char *node, GError **error)
{
    BlockAlone *block = param_new(&block_table);
    g_autoptr(BlockDev) disk = NULL;
    json_t *info = NULL;

    if (param_from_json(&block_table, block, options, NULL, error))
        disk = block_open(&block->o, error);
    if (disk)
        info = control_disk_info(node, disk);
    param_free(&block_table, block);
    return info;
}

static json_t *make_options(const Parts *parts, const AddArgs *args,
                            const char **ret_below, GError **error)
{
    json_t *options = is_file(args) ? file_options(args, error)
                                    : format_options(parts, args, ret_below, error);

    if (options && !set_common(options, args, error))
        g_clear_pointer(&options, json_decref);
    return options;
}

static json_t *blockdev_add(ControlCall *call, GError **error)
{
    const AddArgs *args = call->args;
    const char *below = NULL;
    json_t *options, *info;
    Part *part;

    if (!args->node) {
        fail(error, VM_ERROR_INVALID, "'node-name' is missing: the node needs a name");
        return NULL;
    }
    if (machine_find_device(call->machine, args->node)) {
        fail(error, VM_ERROR_INVALID, "node-name: '%s' is the id of a device",
             args->node);
        return NULL;
    }
    options = make_options(call->parts, args, &below, error);
    info = options ? look_at(options, args->node, error) : NULL;
    if (!info) {
        json_decref(options);
        g_prefix_error(error, "node '%s': ", args->node);
        return NULL;
    }
    part = parts_add(call->parts, PART_DISK, args->node, options, info, error);
    if (!part)
        return NULL;
    part->below = g_strdup(below);
    return json_object();
}

/* ---- blockdev-del ---------------------------------------------------------------------
 */

typedef struct DelArgs {
    char *node;
} DelArgs;

static const ParamTable del_args = {
    .size = sizeof(DelArgs),
    .desc = (const ParamDesc[]){{.key = "node-name",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(DelArgs, node),
                                 .help = "its name",
                                 .required = true},
                                {0}},
};

static json_t *blockdev_del(ControlCall *call, GError **error)
{
    const DelArgs *args = call->args;

    return parts_remove(call->parts, call->machine, PART_DISK, args->node, error)
               ? json_object()
               : NULL;
}

/* ---- query-named-block-nodes ----------------------------------------------------------
 */

typedef struct NodesArgs {
    bool flat;
} NodesArgs;

static const ParamTable nodes_args = {
    .size = sizeof(NodesArgs),
    .desc = (const ParamDesc[]){{.key = "flat",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(NodesArgs, flat),
                                 .help = "leave out what lies below each"},
                                {0}},
};

static const ControlType node_list = {.kind = CONTROL_ARRAY,
                                      .element = &control_disk_type};

typedef struct Nodes {
    ControlCall *call;
    json_t *all;
} Nodes;

/* Main thread: those that no disk shows. */
static void add_unused(void *opaque)
{
    Nodes *n = opaque;

    for (const Part *p = n->call->parts->first; p; p = p->next)
        if (p->kind == PART_DISK && !part_is_used(p, n->call->machine))
            json_array_append_new(n->all, json_deep_copy(p->info));
}

static json_t *query_nodes(ControlCall *call, GError **error)
{
    const NodesArgs *args = call->args;
    json_t *disks = control_disks_info(call, error), *disk, *node;
    Nodes n = {call, json_array()};
    bool ok;
    size_t i;

    json_array_foreach(disks, i, disk)
        json_array_append(n.all, json_object_get(disk, "inserted"));
    ok = disks && control_on_main(call, add_unused, &n, error);
    json_decref(disks);
    json_array_foreach(n.all, i, node)
    {
        if (args->flat)
            json_object_del(json_object_get(node, "image"), "backing-image");
    }
    if (ok)
        return n.all;
    json_decref(n.all);
    return NULL;
}

static const ControlCommand commands[] = {
    {"blockdev-add", &add_args, NULL, 0, blockdev_add},
    {"blockdev-del", &del_args, NULL, 0, blockdev_del},
    {"query-named-block-nodes", &nodes_args, &node_list, CONTROL_QUERY | CONTROL_SLEEPS,
     query_nodes},
    {0},
};

const ControlTable control_node_table = {commands, (const ControlEvent[]){{0}}};
