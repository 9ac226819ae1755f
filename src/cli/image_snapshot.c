/* hutch image snapshot: the snapshots inside an image. */
#include <stdio.h>

#include "src/cli/image.h"

typedef struct SnapshotArgs {
    ImageArgs common;
    bool list;
    char *apply, *create, *delete;
} SnapshotArgs;

static const ParamDesc snapshot_desc[] = {
    {.key = "list",
     .letter = 'l',
     .type = PARAM_BOOL,
     .offset = offsetof(SnapshotArgs, list),
     .help = "list them; what is done if nothing else is asked for"},
    {.key = "create",
     .letter = 'c',
     .type = PARAM_STRING,
     .offset = offsetof(SnapshotArgs, create),
     .arg = "NAME",
     .help = "keep what the image shows now"},
    {.key = "apply",
     .letter = 'a',
     .type = PARAM_STRING,
     .offset = offsetof(SnapshotArgs, apply),
     .arg = "NAME",
     .help = "go back to it; what was written since is lost"},
    {.key = "delete",
     .letter = 'd',
     .type = PARAM_STRING,
     .offset = offsetof(SnapshotArgs, delete),
     .arg = "NAME",
     .help = "forget it"},
    IMAGE_ARG_FORMAT("of the image"),
    IMAGE_ARG_SHARE,
    IMAGE_ARG_JSON,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_snapshot_args = {.size = sizeof(SnapshotArgs),
                                        .desc = snapshot_desc};

/* In the keys of `qemu-img info`. */
static json_t *snapshot_json(const ImageSnapshot *s)
{
    /* They are any bytes, and JSON is UTF-8. */
    g_autofree char *id = g_utf8_make_valid(s->id, -1);
    g_autofree char *name = g_utf8_make_valid(s->name, -1);

    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "id", id, "name", name,
                     "vm-state-size", (json_int_t)s->vm_state_size, "virtual-size",
                     (json_int_t)s->disk_size, "date-sec", (json_int_t)s->date_s,
                     "date-nsec", (json_int_t)s->date_ns, "vm-clock-sec",
                     (json_int_t)(s->vm_clock_ns / 1000000000), "vm-clock-nsec",
                     (json_int_t)(s->vm_clock_ns % 1000000000));
}

static bool list(const SnapshotArgs *args, BlockImage *img, GError **error)
{
    ImageSnapshot *all;
    unsigned n;
    json_t *json;

    if (!image_snapshot_list(img, &all, &n, error))
        return false;
    json = json_array();
    for (unsigned i = 0; i < n; i++)
        json_array_append_new(json, snapshot_json(&all[i]));
    image_snapshots_free(all, n);
    if (image_wants_json(&args->common)) {
        image_print_json(json);
        return true;
    }
    image_print_snapshots(json);
    json_decref(json);
    return true;
}

static bool change(const SnapshotArgs *args, BlockImage *img, GError **error)
{
    return args->create  ? image_snapshot_create(img, args->create, error)
           : args->apply ? image_snapshot_apply(img, args->apply, error)
                         : image_snapshot_delete(img, args->delete, error);
}

bool image_act_snapshot(void *options, char **names, int *status, GError **error)
{
    const SnapshotArgs *args = options;
    unsigned changes = !!args->create + !!args->apply + !!args->delete;
    g_autoptr(BlockImage) img = NULL;

    if (changes + args->list > 1)
        return fail(error, VM_ERROR_INVALID,
                    "give one of --list, --create, --apply and "
                    "--delete at a time");
    img = image_open_for(&args->common, names[0], args->common.format,
                         BLOCK_CACHE_WRITEBACK, !changes, IMAGE_NO_BACKING, error);
    if (!img)
        return false;
    return changes
               ? change(args, img, error) && image_finish(g_steal_pointer(&img), error)
               : list(args, img, error);
}
