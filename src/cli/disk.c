/* hutch disk VERB VM ...: looks at the disks of a running VM and changes them, by the
 * commands of its control socket. */
#include "src/cli/disk.h"

#include <stdio.h>
#include <string.h>

#include "backend/blockjob.h"
#include "control/client.h"
#include "src/cli/freeze.h"
#include "src/cli/image.h"
#include "util/json.h"

enum { LOOK_US = 100000 };

/* The options of all of them; each verb's table has the rows it wants. */
typedef struct DiskArgs {
    bool json, detach, existing, freeze;
    int format, backing;
    BlockLimits limits;
    uint64_t speed;
    char *base, *top;
    bool only_top;
} DiskArgs;

#define ROW(key_, type_, member_, help_, ...)                                            \
    {                                                                                    \
        .key = key_, .type = type_, .offset = offsetof(DiskArgs, member_),               \
        .help = help_, ##__VA_ARGS__                                                     \
    }
#define ROW_JSON ROW("json", PARAM_BOOL, json, "print the result as JSON")
#define ROW_FORMAT(help_)                                                                \
    ROW("format", PARAM_ENUM, format, help_, .choices = block_format_names, .def = "auto")
#define ROW_EXISTING(help_) ROW("existing", PARAM_BOOL, existing, help_)
#define ROWS_JOB                                                                         \
    ROW("speed", PARAM_SIZE, speed, "bytes a second at most; 0: no limit",               \
        .arg = "SIZE"),                                                                  \
        ROW("detach", PARAM_BOOL, detach, "do not wait; see 'hutch disk jobs'")

#define TABLE(name_, ...)                                                                \
    static const ParamTable name_ = {                                                    \
        .size = sizeof(DiskArgs),                                                        \
        .desc = (const ParamDesc[]){__VA_ARGS__, {0}},                                   \
    }

/* What a command returned is dropped; takes `arguments`. */
static bool tell(ControlClient *c, const char *command, json_t *arguments, GError **error)
{
    json_t *reply = control_client_call(c, command, arguments, error);

    json_decref(reply);
    return reply != NULL;
}

static bool tell_vm(const char *vm, const char *command, json_t *arguments,
                    GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(vm, error);

    if (c)
        return tell(c, command, arguments, error);
    json_decref(arguments);
    return false;
}

/* ---- list -----------------------------------------------------------------------------
 */

TABLE(list_args, ROW_JSON);

static void print_disk(const json_t *disk)
{
    const json_t *in = json_object_get(disk, "inserted");
    const json_t *image = json_object_get(in, "image");
    g_autofree char *size = image_size_text(
        (uint64_t)json_integer_value(json_object_get(image, "virtual-size")));
    int depth = (int)json_integer_value(json_object_get(in, "backing_file_depth"));

    printf("%-12s %10s  %-6s %s  %s", json_get_text(disk, "device"), size,
           json_get_text(in, "drv"),
           json_is_true(json_object_get(in, "ro")) ? "ro" : "rw",
           json_get_text(in, "file"));
    if (depth)
        printf(" (over %d image%s)", depth, depth == 1 ? "" : "s");
    putchar('\n');
}

static bool act_list(void *options, char **names, int *status, GError **error)
{
    const DiskArgs *args = options;
    g_autoptr(ControlClient) c = control_client_connect(names[0], error);
    json_t *all = c ? control_client_call(c, "query-block", NULL, error) : NULL;
    json_t *disk;
    size_t i;

    if (!all)
        return false;
    if (args->json)
        json_dumpf(all, stdout, JSON_INDENT(2));
    else
        json_array_foreach(all, i, disk) print_disk(disk);
    if (args->json)
        putchar('\n');
    json_decref(all);
    return true;
}

/* ---- what changes at once ------------------------------------------------------------
 */

TABLE(no_args, {0});

bool disk_set_size(ControlClient *c, const char *disk, uint64_t size, GError **error)
{
    return tell(c, "block_resize",
                json_pack("{s:s, s:I}", "device", disk, "size", (json_int_t)size), error);
}

bool disk_set_limits(ControlClient *c, const char *disk, const BlockLimits *l,
                     GError **error)
{
    return tell(c, "block_set_io_throttle",
                json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "device", disk,
                          "bps", (json_int_t)l->bps, "bps_rd", (json_int_t)l->bps_read,
                          "bps_wr", (json_int_t)l->bps_write, "iops", (json_int_t)l->iops,
                          "iops_rd", (json_int_t)l->iops_read, "iops_wr",
                          (json_int_t)l->iops_write, "bps_max", (json_int_t)l->bps_burst,
                          "iops_max", (json_int_t)l->iops_burst),
                error);
}

static bool act_resize(void *options, char **names, int *status, GError **error)
{
    g_autoptr(ControlClient) c = NULL;
    uint64_t size;

    return param_parse_size(names[2], &size, error) &&
           (c = control_client_connect(names[0], error)) &&
           disk_set_size(c, names[1], size, error);
}

TABLE(limit_args, BLOCK_LIMIT_PARAMS(DiskArgs, limits));

static bool act_limit(void *options, char **names, int *status, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(names[0], error);

    return c && disk_set_limits(c, names[1], &((DiskArgs *)options)->limits, error);
}

/* The monitor may be in another folder. */
static char *absolute(const char *path)
{
    return strstr(path, "://") ? g_strdup(path) : g_canonicalize_filename(path, NULL);
}

TABLE(change_args, ROW_FORMAT("of that image; auto: by its name"),
      ROW("backing", PARAM_ENUM, backing, "open the files that the image names",
          .choices = block_backing_names, .def = "auto"));

static bool act_change(void *options, char **names, int *status, GError **error)
{
    const DiskArgs *args = options;
    g_autofree char *path = absolute(names[2]);

    return tell_vm(names[0], "blockdev-change-medium",
                   json_pack("{s:s, s:s, s:s, s:s}", "device", names[1], "filename", path,
                             "format", block_format_names[args->format],
                             "x-hutch-backing", block_backing_names[args->backing]),
                   error);
}

TABLE(overlay_args, ROW_EXISTING("the overlay is there already; use it as it is"),
      ROW("freeze", PARAM_BOOL, freeze,
          "have the guest's agent stop writes to its file systems meanwhile"));

static bool put_overlay(const DiskArgs *args, char **names, GError **error)
{
    g_autofree char *path = absolute(names[2]);

    return tell_vm(names[0], "blockdev-snapshot-sync",
                   json_pack("{s:s, s:s, s:s, s:s}", "device", names[1], "snapshot-file",
                             path, "format", "qcow2", "mode",
                             args->existing ? "existing" : "absolute-paths"),
                   error);
}

static bool put_overlay_frozen(const DiskArgs *args, char **names, GError **error)
{
    Freeze f;
    bool ok = freeze_begin(&f, names[0], error) && put_overlay(args, names, error);

    return freeze_end(&f, ok, "the overlay", error);
}

static bool act_overlay(void *options, char **names, int *status, GError **error)
{
    const DiskArgs *args = options;

    return args->freeze ? put_overlay_frozen(args, names, error)
                        : put_overlay(args, names, error);
}

/* As --disk has it; the file counts from here. */
static bool act_add(void *options, char **names, int *status, GError **error)
{
    const ConfigOption *disk = config_option("disk");
    void *parsed = param_new(disk->table);
    json_t *value = NULL, *reply = NULL;
    g_autoptr(ControlClient) c = NULL;

    if (param_parse(disk->table, parsed, names[1], error))
        value = param_to_json(disk->table, parsed);
    param_free(disk->table, parsed);
    if (value && (c = control_client_connect(names[0], error)))
        reply = control_client_call(
            c, "x-hutch-device-add",
            json_pack("{s:s, s:O}", "option", "disk", "value", value), error);
    if (reply && ((DiskArgs *)options)->json)
        cli_print_json(json_incref(reply));
    else if (reply)
        puts(json_get_text(reply, "id"));
    json_decref(value);
    json_decref(reply);
    return reply != NULL;
}

static bool act_remove(void *options, char **names, int *status, GError **error)
{
    return tell_vm(names[0], "device_del", json_pack("{s:s}", "id", names[1]), error);
}

/* ---- jobs -----------------------------------------------------------------------------
 */

/* A new reference; NULL: there is none of that name. */
static json_t *find_job(ControlClient *c, const char *id, GError **error)
{
    json_t *all = control_client_call(c, "query-jobs", NULL, error);
    json_t *job, *found = NULL;
    size_t i;

    json_array_foreach(all, i, job) if (g_str_equal(json_get_text(job, "id"), id))
        found = json_incref(job);
    json_decref(all);
    return found;
}

static void show(Progress *p, const json_t *job)
{
    p->total = (uint64_t)json_integer_value(json_object_get(job, "total-progress"));
    atomic_store(&p->done,
                 (uint64_t)json_integer_value(json_object_get(job, "current-progress")));
    progress_tick(p);
}

/* Until the job has ended; Ctrl-C cancels it. */
static bool follow(ControlClient *c, const char *what, const char *id, GError **error)
{
    bool over = false, cancelled = false, ok = true;
    Progress p;

    interrupt_watch();
    progress_begin(&p, &(ImageArgs){0}, what, 0);
    while (!over) {
        json_t *job = find_job(c, id, error);

        if (!job) {
            progress_end(&p);
            return false;
        }
        show(&p, job);
        over = g_str_equal(json_get_text(job, "status"), "concluded");
        if (over && json_object_get(job, "error"))
            ok = fail(error, VM_ERROR_IO, "%s '%s': %s", what, id,
                      json_get_text(job, "error"));
        json_decref(job);
        if (!over && interrupt_signal() && !cancelled)
            cancelled = tell(c, "job-cancel", json_pack("{s:s}", "id", id), NULL);
        if (!over)
            g_usleep(LOOK_US);
    }
    progress_end(&p);
    return tell(c, "job-dismiss", json_pack("{s:s}", "id", id), NULL) && ok;
}

/* Takes `arguments`, which the common ones are added to. */
static bool start_job(const DiskArgs *args, const char *vm, const char *disk,
                      const char *command, json_t *arguments, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(vm, error);

    if (!c) {
        json_decref(arguments);
        return false;
    }
    json_object_set_new(arguments, "device", json_string(disk));
    json_object_set_new(arguments, "speed", json_integer((json_int_t)args->speed));
    json_object_set_new(arguments, "x-hutch-auto-complete", json_true());
    if (args->base)
        json_object_set_new(arguments, "base", json_string(args->base));
    if (args->top)
        json_object_set_new(arguments, "top", json_string(args->top));
    return tell(c, command, arguments, error) &&
           (args->detach || follow(c, command, disk, error));
}

bool disk_stream(const char *vm, const char *disk, GError **error)
{
    return start_job(&(DiskArgs){0}, vm, disk, "block-stream", json_object(), error);
}

TABLE(stream_args, ROWS_JOB,
      ROW("base", PARAM_STRING, base, "image of the chain that stays below",
          .arg = "FILE"));

static bool act_stream(void *options, char **names, int *status, GError **error)
{
    return start_job(options, names[0], names[1], "block-stream", json_object(), error);
}

TABLE(commit_args, ROWS_JOB,
      ROW("base", PARAM_STRING, base, "image that takes the data (default: the lowest)",
          .arg = "FILE"),
      ROW("top", PARAM_STRING, top, "uppermost image that goes (default: the disk's)",
          .arg = "FILE"));

static bool act_commit(void *options, char **names, int *status, GError **error)
{
    return start_job(options, names[0], names[1], "block-commit", json_object(), error);
}

TABLE(mirror_args, ROWS_JOB, ROW_FORMAT("of the copy; auto: by its name"),
      ROW_EXISTING("the copy is there already, and is written over"),
      ROW("only-top", PARAM_BOOL, only_top, "without what is in the backing image"));

static bool act_mirror(void *options, char **names, int *status, GError **error)
{
    const DiskArgs *args = options;
    g_autofree char *path = absolute(names[2]);

    return start_job(args, names[0], names[1], "drive-mirror",
                     json_pack("{s:s, s:s, s:s, s:s}", "target", path, "format",
                               block_format_names[args->format], "mode",
                               args->existing ? "existing" : "absolute-paths", "sync",
                               args->only_top ? "top" : "full"),
                     error);
}

static bool act_jobs(void *options, char **names, int *status, GError **error)
{
    const DiskArgs *args = options;
    g_autoptr(ControlClient) c = control_client_connect(names[0], error);
    json_t *all = c ? control_client_call(c, "query-jobs", NULL, error) : NULL;
    json_t *job;
    size_t i;

    if (!all)
        return false;
    if (args->json) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        json_array_foreach(all, i, job)
        {
            json_int_t done = json_integer_value(
                json_object_get(job, "current-progress"));
            json_int_t total = json_integer_value(json_object_get(job, "total-progress"));

            printf("%-12s %-8s %-10s %3d%%  %s\n", json_get_text(job, "id"),
                   json_get_text(job, "type"), json_get_text(job, "status"),
                   total ? (int)(100 * (double)done / (double)total) : 0,
                   json_get_text(job, "error"));
        }
    }
    json_decref(all);
    return true;
}

static bool act_cancel(void *options, char **names, int *status, GError **error)
{
    return tell_vm(names[0], "job-cancel", json_pack("{s:s}", "id", names[1]), error);
}

const Verb disk_verbs[] = {
    {.name = "list",
     .args = "VM",
     .help = "show a VM's disks",
     .act = act_list,
     .names = NAMES_VMS,
     .params = &list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "resize",
     .args = "VM DISK SIZE",
     .help = "give a disk another size; the guest sees it at once",
     .act = act_resize,
     .names = NAMES_VMS,
     .params = &no_args,
     .min_names = 3,
     .max_names = 3},
    {.name = "limit",
     .args = "VM DISK [OPTION]...",
     .help = "set all limits of a disk; those not given are none",
     .act = act_limit,
     .names = NAMES_VMS,
     .params = &limit_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "add",
     .args = "VM FILE[,KEY=VALUE]...",
     .help = "plug in a disk, as --disk of hutch run has it; prints its id",
     .act = act_add,
     .names = NAMES_VMS,
     .params = &list_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "remove",
     .args = "VM DISK",
     .help = "ask the guest to give up a disk, and unplug it",
     .act = act_remove,
     .names = NAMES_VMS,
     .params = &no_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "change",
     .args = "VM DISK FILE [OPTION]...",
     .help = "put another image in the place of a disk's",
     .act = act_change,
     .names = NAMES_VMS,
     .params = &change_args,
     .min_names = 3,
     .max_names = 3},
    {.name = "overlay",
     .args = "VM DISK FILE [OPTION]...",
     .help = "keep the disk as it is now: new writes go to a new qcow2 image",
     .act = act_overlay,
     .names = NAMES_VMS,
     .params = &overlay_args,
     .min_names = 3,
     .max_names = 3},
    {.name = "stream",
     .args = "VM DISK [OPTION]...",
     .help = "copy what is below into the disk's image, and let go of the rest",
     .act = act_stream,
     .names = NAMES_VMS,
     .params = &stream_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "commit",
     .args = "VM DISK [OPTION]...",
     .help = "copy what overlays hold into an image below, and let go of them",
     .act = act_commit,
     .names = NAMES_VMS,
     .params = &commit_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "mirror",
     .args = "VM DISK TARGET [OPTION]...",
     .help = "copy the disk to another image or NBD export, and move over to it",
     .act = act_mirror,
     .names = NAMES_VMS,
     .params = &mirror_args,
     .min_names = 3,
     .max_names = 3},
    {.name = "jobs",
     .args = "VM",
     .help = "show what is being copied",
     .act = act_jobs,
     .names = NAMES_VMS,
     .params = &list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "cancel",
     .args = "VM JOB",
     .help = "end a job; the disk stays as it was",
     .act = act_cancel,
     .names = NAMES_VMS,
     .params = &no_args,
     .min_names = 2,
     .max_names = 2},
    {0},
};
