/* Commands about disks, under QMP's names (qapi/block-core.json of QEMU 7.2): what they
 * are, how much they do, and what changes at once.  Jobs are in job_commands.c.
 *
 * A disk is named by the id of its device, which stands for QEMU's device, node name and
 * qdev id alike; one that was made of a node (node_commands.c), by the name of that, too.
 */
#include "src/control/disk.h"
#include "src/control/parts.h"

static const char *name_of(const char *device, const char *other)
{
    return device && *device ? device : other;
}

static json_t *finish(BlockDev *disk, bool ok)
{
    block_unuse(disk);
    return ok ? json_object() : NULL;
}

/* ---- query-block ----------------------------------------------------------------------
 */

static const ControlType image_type = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"filename", &control_str}, {"format", &control_str},
                               {"virtual-size", &control_int},
                               {"backing-image", &control_any, true}),
};
static const ControlType cache_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"writeback", &control_bool}, {"direct", &control_bool},
                               {"no-flush", &control_bool}),
};
const ControlType control_disk_type = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"file", &control_str}, {"node-name", &control_str, true}, {"ro", &control_bool},
        {"drv", &control_str}, {"backing_file", &control_str, true},
        {"backing_file_depth", &control_int}, {"encrypted", &control_bool},
        {"detect_zeroes", &control_str}, {"write_threshold", &control_int},
        {"bps", &control_int}, {"bps_rd", &control_int}, {"bps_wr", &control_int},
        {"iops", &control_int}, {"iops_rd", &control_int}, {"iops_wr", &control_int},
        {"bps_max", &control_int, true}, {"iops_max", &control_int, true},
        {"group", &control_str, true}, {"cache", &cache_info}, {"image", &image_type}),
};
static const ControlType block_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"device", &control_str}, {"qdev", &control_str, true},
                               {"type", &control_str}, {"removable", &control_bool},
                               {"locked", &control_bool},
                               {"inserted", &control_disk_type, true}),
};
static const ControlType block_list = {.kind = CONTROL_ARRAY, .element = &block_info};

/* image.backing-image.backing-image..., as QMP has it. */
static json_t *nest(json_t *chain)
{
    json_t *top = NULL;

    for (size_t i = json_array_size(chain); i-- > 0;) {
        json_t *image = json_copy(json_array_get(chain, i));

        if (top)
            json_object_set_new(image, "backing-image", top);
        top = image;
    }
    return top;
}

static void add_limits(json_t *into, BlockDev *disk)
{
    BlockLimits l;
    size_t i;

    block_limits(disk, &l);
    {
        const struct {
            const char *name;
            uint64_t value;
            bool always;
        } all[] = {
            {"bps", l.bps, true},
            {"bps_rd", l.bps_read, true},
            {"bps_wr", l.bps_write, true},
            {"iops", l.iops, true},
            {"iops_rd", l.iops_read, true},
            {"iops_wr", l.iops_write, true},
            {"bps_max", l.bps_burst, false},
            {"iops_max", l.iops_burst, false},
        };

        for (i = 0; i < G_N_ELEMENTS(all); i++)
            if (all[i].always || all[i].value)
                json_object_set_new(into, all[i].name,
                                    json_integer((json_int_t)all[i].value));
    }
    if (block_throttle_group(disk))
        json_object_set_new(into, "group", control_text(block_throttle_group(disk)));
}

json_t *control_disk_info(const char *node, BlockDev *disk)
{
    json_t *chain = block_chain_info(disk), *top = json_array_get(chain, 0);
    json_t *below = json_array_get(chain, 1);
    json_t *in = json_pack(
        "{s:O, s:o, s:b, s:O, s:i, s:b, s:s, s:i, s:{s:b, s:b, s:b}, s:o}", "file",
        json_object_get(top, "filename"), "node-name", control_text(node), "ro",
        block_readonly(disk), "drv", json_object_get(top, "format"), "backing_file_depth",
        (int)json_array_size(chain) - 1, "encrypted", false, "detect_zeroes", "off",
        "write_threshold", 0, "cache", "writeback", !block_writethrough(disk), "direct",
        block_is_direct(disk), "no-flush", block_is_unsafe(disk), "image", nest(chain));

    if (below)
        json_object_set(in, "backing_file", json_object_get(below, "filename"));
    add_limits(in, disk);
    json_decref(chain);
    return in;
}

static void describe(void *opaque, const char *id, BlockDev *disk)
{
    json_array_append_new(
        opaque, json_pack("{s:o, s:o, s:s, s:b, s:b, s:o}", "device", control_text(id),
                          "qdev", control_text(id), "type", "unknown", "removable", false,
                          "locked", false, "inserted", control_disk_info(id, disk)));
}

/* Main thread: disks that were made of a node are named after it. */
typedef struct Naming {
    const Parts *parts;
    json_t *all;
} Naming;

static void name_nodes(void *opaque)
{
    Naming *n = opaque;
    json_t *info;
    size_t i;

    json_array_foreach(n->all, i, info)
    {
        const char *id = json_string_value(json_object_get(info, "device"));
        const Part *part = parts_of(n->parts, PART_DISK, id);

        if (part)
            json_object_set_new(json_object_get(info, "inserted"), "node-name",
                                control_text(part->name));
    }
}

json_t *control_disks_info(ControlCall *call, GError **error)
{
    Naming n = {call->parts, json_array()};

    if (control_disks_each(call, describe, n.all, error) &&
        control_on_main(call, name_nodes, &n, error))
        return n.all;
    json_decref(n.all);
    return NULL;
}

static json_t *query_block(ControlCall *call, GError **error)
{
    return control_disks_info(call, error);
}

/* ---- query-blockstats -----------------------------------------------------------------
 */

static const ControlType int_list = {.kind = CONTROL_ARRAY, .element = &control_int};
static const ControlType histogram_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"boundaries", &int_list}, {"bins", &int_list}),
};
static const ControlType timed_stats = {.kind = CONTROL_ARRAY, .element = &control_any};
static const ControlType stats = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"rd_bytes", &control_int}, {"wr_bytes", &control_int},
        {"unmap_bytes", &control_int}, {"rd_operations", &control_int},
        {"wr_operations", &control_int}, {"flush_operations", &control_int},
        {"unmap_operations", &control_int}, {"rd_total_time_ns", &control_int},
        {"wr_total_time_ns", &control_int}, {"flush_total_time_ns", &control_int},
        {"unmap_total_time_ns", &control_int}, {"wr_highest_offset", &control_int},
        {"rd_merged", &control_int}, {"wr_merged", &control_int},
        {"unmap_merged", &control_int}, {"failed_rd_operations", &control_int},
        {"failed_wr_operations", &control_int}, {"failed_flush_operations", &control_int},
        {"failed_unmap_operations", &control_int},
        {"invalid_rd_operations", &control_int}, {"invalid_wr_operations", &control_int},
        {"invalid_flush_operations", &control_int},
        {"invalid_unmap_operations", &control_int}, {"account_invalid", &control_bool},
        {"account_failed", &control_bool}, {"timed_stats", &timed_stats},
        {"rd_latency_histogram", &histogram_info, true},
        {"wr_latency_histogram", &histogram_info, true},
        {"flush_latency_histogram", &histogram_info, true}),
};
static const ControlType device_stats = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"device", &control_str, true},
                               {"node-name", &control_str, true},
                               {"qdev", &control_str, true}, {"stats", &stats}),
};
static const ControlType stats_list = {.kind = CONTROL_ARRAY, .element = &device_stats};

/* QMP's words for the four kinds, and what of each it has. */
static const struct {
    const char *word;
    bool bytes, merged, histogram;
} kinds[BLOCK_COUNTS] = {
    [BLOCK_COUNT_READ] = {"rd", true, true, true},
    [BLOCK_COUNT_WRITE] = {"wr", true, true, true},
    [BLOCK_COUNT_FLUSH] = {"flush", false, false, true},
    [BLOCK_COUNT_DISCARD] = {"unmap", true, true, false},
};

static void set(json_t *into, const char *before, const char *word, const char *after,
                uint64_t value)
{
    g_autofree char *key = g_strconcat(before, word, after, NULL);

    json_object_set_new(into, key, json_integer((json_int_t)value));
}

static void add_histogram(json_t *into, const char *word, const Histogram *h)
{
    g_autofree char *key = g_strconcat(word, "_latency_histogram", NULL);
    json_t *bounds = json_array(), *bins = json_array();

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (i < HISTOGRAM_BUCKETS - 1)
            json_array_append_new(bounds, json_integer((json_int_t)histogram_bound(i)));
        json_array_append_new(bins, json_integer((json_int_t)h->bucket[i]));
    }
    json_object_set_new(into, key,
                        json_pack("{s:o, s:o}", "boundaries", bounds, "bins", bins));
}

static void add_kind(json_t *into, unsigned kind, const BlockCounters *c)
{
    const char *word = kinds[kind].word;

    set(into, "", word, "_operations", c->ops);
    set(into, "", word, "_total_time_ns", c->ns);
    set(into, "failed_", word, "_operations", c->failed);
    set(into, "invalid_", word, "_operations", c->refused);
    if (kinds[kind].bytes)
        set(into, "", word, "_bytes", c->bytes);
    if (kinds[kind].merged)
        set(into, "", word, "_merged", 0); /* requests go out as they came */
    if (kinds[kind].histogram)
        add_histogram(into, word, &c->times);
}

static void add_stats(void *opaque, const char *id, BlockDev *disk)
{
    json_t *all = json_object();
    BlockStats s;

    block_stats(disk, &s);
    for (unsigned kind = 0; kind < BLOCK_COUNTS; kind++)
        add_kind(all, kind, &s.of[kind]);
    set(all, "", "wr_highest_offset", "", s.end);
    json_object_set_new(all, "account_invalid", json_true());
    json_object_set_new(all, "account_failed", json_true());
    json_object_set_new(all, "timed_stats", json_array()); /* nobody can set intervals */
    json_array_append_new(opaque, json_pack("{s:s, s:s, s:s, s:o}", "device", id,
                                            "node-name", id, "qdev", id, "stats", all));
}

static json_t *query_blockstats(ControlCall *call, GError **error)
{
    json_t *all = json_array();

    if (control_disks_each(call, add_stats, all, error))
        return all;
    json_decref(all);
    return NULL;
}

/* ---- size, limits --------------------------------------------------------------------
 */

typedef struct ResizeArgs {
    char *device, *node;
    uint64_t size;
} ResizeArgs;
static const ParamTable resize_args = {
    .size = sizeof(ResizeArgs),
    .desc = (const ParamDesc[]){{.key = "device",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(ResizeArgs, device),
                                 .help = "id of a disk"},
                                {.key = "node-name",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(ResizeArgs, node),
                                 .help = "the same"},
                                {.key = "size",
                                 .type = PARAM_SIZE,
                                 .offset = offsetof(ResizeArgs, size),
                                 .help = "new size in bytes",
                                 .required = true},
                                {0}},
};

static json_t *resize(ControlCall *call, GError **error)
{
    const ResizeArgs *args = call->args;
    BlockDev *disk = control_disk_use(call, name_of(args->device, args->node), error);

    return disk ? finish(disk, block_resize(disk, args->size, error)) : NULL;
}

typedef struct LimitArgs {
    char *device, *id;
    BlockLimits l;
} LimitArgs;
#define LIMIT(key_, member_, help_)                                                      \
    {                                                                                    \
        .key = key_, .type = PARAM_SIZE, .offset = offsetof(LimitArgs, member_),         \
        .help = help_                                                                    \
    }
static const ParamTable limit_args = {
    .size = sizeof(LimitArgs),
    .desc = (const ParamDesc[]){{.key = "device",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(LimitArgs, device),
                                 .help = "id of a disk"},
                                {.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(LimitArgs, id),
                                 .help = "the same"},
                                LIMIT("bps", l.bps, "bytes a second; 0: no limit"),
                                LIMIT("bps_rd", l.bps_read, "of reads"),
                                LIMIT("bps_wr", l.bps_write, "of writes"),
                                LIMIT("iops", l.iops, "requests a second; 0: no limit"),
                                LIMIT("iops_rd", l.iops_read, "of reads"),
                                LIMIT("iops_wr", l.iops_write, "of writes"),
                                LIMIT("bps_max", l.bps_burst,
                                      "bytes at once after a rest"),
                                LIMIT("iops_max", l.iops_burst,
                                      "requests at once after a rest"),
                                {0}},
};

static json_t *set_limits(ControlCall *call, GError **error)
{
    const LimitArgs *args = call->args;
    BlockDev *disk = control_disk_use(call, name_of(args->device, args->id), error);

    if (!disk)
        return NULL;
    block_set_limits(disk, &args->l);
    return finish(disk, true);
}

/* ---- another image --------------------------------------------------------------------
 */

static const char *const snapshot_modes[] = {"absolute-paths", "existing", NULL};

typedef struct SnapshotArgs {
    char *device, *node, *file, *new_node;
    int format, mode;
} SnapshotArgs;
static const ParamTable snapshot_args = {
    .size = sizeof(SnapshotArgs),
    .desc = (const ParamDesc[]){{.key = "device",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(SnapshotArgs, device),
                                 .help = "id of a disk"},
                                {.key = "node-name",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(SnapshotArgs, node),
                                 .help = "the same"},
                                {.key = "snapshot-file",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(SnapshotArgs, file),
                                 .help = "the new overlay",
                                 .required = true},
                                {.key = "snapshot-node-name",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(SnapshotArgs, new_node),
                                 .help = "taken, and not needed"},
                                {.key = "format",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(SnapshotArgs, format),
                                 .choices = block_format_names,
                                 .def = "qcow2",
                                 .help = "of the overlay"},
                                {.key = "mode",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(SnapshotArgs, mode),
                                 .choices = snapshot_modes,
                                 .help = "existing: the overlay is there already"},
                                {0}},
};

static json_t *snapshot(ControlCall *call, GError **error)
{
    const SnapshotArgs *args = call->args;
    BlockDev *disk = control_disk_use(call, name_of(args->device, args->node), error);

    return disk ? finish(disk, block_overlay(disk, args->file, args->format,
                                             args->mode == 1, error))
                : NULL;
}

typedef struct ChangeArgs {
    char *device, *id, *file;
    int format, backing;
} ChangeArgs;
static const ParamTable change_args = {
    .size = sizeof(ChangeArgs),
    .desc = (const ParamDesc[]){{.key = "device",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(ChangeArgs, device),
                                 .help = "id of a disk"},
                                {.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(ChangeArgs, id),
                                 .help = "the same"},
                                {.key = "filename",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(ChangeArgs, file),
                                 .help = "the image that takes the place",
                                 .required = true},
                                {.key = "format",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(ChangeArgs, format),
                                 .choices = block_format_names,
                                 .def = "auto",
                                 .help = "of that image"},
                                {.key = "x-hutch-backing",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(ChangeArgs, backing),
                                 .choices = block_backing_names,
                                 .help = "open the files that the image names"},
                                {0}},
};

static json_t *change(ControlCall *call, GError **error)
{
    const ChangeArgs *args = call->args;
    BlockDev *disk = control_disk_use(call, name_of(args->device, args->id), error);
    const BlockOptions options = {
        .path = args->file, .format = args->format, .backing = args->backing};

    return disk ? finish(disk, block_change_image(disk, &options, error)) : NULL;
}

static const ControlCommand commands[] = {
    {"query-block", NULL, &block_list, CONTROL_QUERY | CONTROL_SLEEPS, query_block},
    {"query-blockstats", NULL, &stats_list, CONTROL_QUERY | CONTROL_SLEEPS,
     query_blockstats},
    {"block_resize", &resize_args, NULL, CONTROL_SLEEPS, resize},
    {"block_set_io_throttle", &limit_args, NULL, CONTROL_SLEEPS, set_limits},
    {"blockdev-snapshot-sync", &snapshot_args, NULL, CONTROL_SLEEPS, snapshot},
    {"blockdev-change-medium", &change_args, NULL, CONTROL_SLEEPS, change},
    {0},
};

static const char *const operations[] = {"read", "write", NULL};
static const ControlType operation = {.kind = CONTROL_ENUM, .values = operations};
static const char *const actions[] = {"report", "stop", "ignore", NULL};
static const ControlType action = {.kind = CONTROL_ENUM, .values = actions};
static const ControlType io_error = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"device", &control_str}, {"node-name", &control_str, true},
        {"operation", &operation}, {"action", &action}, {"nospace", &control_bool, true},
        {"reason", &control_str}),
};
static const ControlEvent events[] = {{"BLOCK_IO_ERROR", &io_error}, {0}};

const ControlTable control_block_table = {commands, events};
