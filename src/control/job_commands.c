/* Jobs of disks, under QMP's names (qapi/block-core.json, job.json of QEMU 7.2).
 *
 * A disk has one job at a time, and one that has ended stays to be seen by query-jobs
 * until it is dismissed or another begins.  As in QEMU, a mirror and a commit of the
 * uppermost image wait, READY, to be told to complete; x-hutch-auto-complete saves that.
 */
#include "src/control/disk.h"

/* ---- events ---------------------------------------------------------------------------
 */

static const char *const status_names[] = {
    [BLOCK_JOB_RUNNING] = "running",
    [BLOCK_JOB_READY] = "ready",
    [BLOCK_JOB_FINISHED] = "concluded",
    NULL,
};

static const char *const event_names[] = {"BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED",
                                          "BLOCK_JOB_CANCELLED", NULL};

/* The job's thread. */
static void on_change(void *opaque, const BlockJobInfo *info)
{
    ControlServer *server = opaque;
    const char *event = info->status == BLOCK_JOB_READY ? event_names[0]
                        : info->cancelled               ? event_names[2]
                                                        : event_names[1];
    json_t *data;

    control_event(
        server, "JOB_STATUS_CHANGE",
        json_pack("{s:s, s:s}", "id", info->id, "status", status_names[info->status]));
    if (info->status == BLOCK_JOB_RUNNING)
        return;
    data = json_pack("{s:s, s:s, s:I, s:I, s:I}", "type",
                     block_job_type_names[info->type], "device", info->id, "len",
                     (json_int_t)info->total, "offset", (json_int_t)info->done, "speed",
                     (json_int_t)info->speed);
    if (info->error && event == event_names[1])
        json_object_set_new(data, "error", control_text(info->error));
    control_event(server, event, data);
}

/* ---- starting -------------------------------------------------------------------------
 */

typedef struct StartArgs {
    char *device, *job, *base, *top, *target;
    int format, sync, mode;
    uint64_t speed;
    bool auto_complete;
} StartArgs;

static const char *const syncs[] = {"full", "top", NULL};
static const char *const modes[] = {"absolute-paths", "existing", NULL};

#define TEXT(key_, member_, help_, ...)                                                  \
    {                                                                                    \
        .key = key_, .type = PARAM_STRING, .offset = offsetof(StartArgs, member_),       \
        .help = help_, __VA_ARGS__                                                       \
    }
#define COMMON                                                                           \
    TEXT("device", device, "id of a disk", .required = true),                            \
        TEXT("job-id", job, "the job's name (default: the disk's)"),                     \
        {.key = "speed",                                                                 \
         .type = PARAM_SIZE,                                                             \
         .offset = offsetof(StartArgs, speed),                                           \
         .help = "bytes a second; 0: no limit"},                                         \
    {                                                                                    \
        .key = "x-hutch-auto-complete", .type = PARAM_BOOL,                              \
        .offset = offsetof(StartArgs, auto_complete),                                    \
        .help = "do not wait for block-job-complete"                                     \
    }

static const ParamTable stream_args = {
    .size = sizeof(StartArgs),
    .desc = (const ParamDesc[]){COMMON,
                                TEXT("base", base, "image that stays below"),
                                {0}},
};
static const ParamTable commit_args = {
    .size = sizeof(StartArgs),
    .desc = (const ParamDesc[]){COMMON,
                                TEXT("base", base, "image that takes the data"),
                                TEXT("top", top, "uppermost image that goes"),
                                {0}},
};
static const ParamTable mirror_args = {
    .size = sizeof(StartArgs),
    .desc = (const ParamDesc[]){COMMON,
                                TEXT("target", target, "the copy: a file, or an NBD URI",
                                     .required = true),
                                {.key = "format",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(StartArgs, format),
                                 .choices = block_format_names,
                                 .def = "auto",
                                 .help = "of the copy"},
                                {.key = "sync",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(StartArgs, sync),
                                 .choices = syncs,
                                 .help = "top: without what is in the backing image"},
                                {.key = "mode",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(StartArgs, mode),
                                 .choices = modes,
                                 .help = "existing: the copy is there already"},
                                {0}},
};

static json_t *start(ControlCall *call, BlockJobType type, bool wait_ready,
                     GError **error)
{
    const StartArgs *args = call->args;
    BlockDev *disk = control_disk_use(call, args->device, error);
    const BlockJobOptions options = {
        .type = type,
        .id = args->job ? args->job : args->device,
        .base = args->base,
        .top = args->top,
        .target = args->target,
        .target_format = args->format,
        .existing = args->mode == 1,
        .only_top = args->sync == 1,
        .wait_ready = wait_ready && !args->auto_complete,
        .speed = args->speed,
        .changed = on_change,
        .opaque = call->server,
    };
    bool ok;

    if (!disk)
        return NULL;
    ok = block_job_start(disk, &options, error);
    block_unuse(disk);
    return ok ? json_object() : NULL;
}

static json_t *stream(ControlCall *call, GError **error)
{
    return start(call, BLOCK_JOB_STREAM, false, error);
}

/* A commit from below the uppermost image is over when it is copied: the job knows. */
static json_t *commit(ControlCall *call, GError **error)
{
    return start(call, BLOCK_JOB_COMMIT, true, error);
}

static json_t *mirror(ControlCall *call, GError **error)
{
    return start(call, BLOCK_JOB_MIRROR, true, error);
}

/* ---- looking --------------------------------------------------------------------------
 */

static const ControlType block_job = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"type", &control_str}, {"device", &control_str}, {"len", &control_int},
        {"offset", &control_int}, {"busy", &control_bool}, {"paused", &control_bool},
        {"speed", &control_int}, {"io-status", &control_str}, {"ready", &control_bool},
        {"status", &control_str}, {"auto-finalize", &control_bool},
        {"auto-dismiss", &control_bool}, {"error", &control_str, true}),
};
static const ControlType block_job_list = {.kind = CONTROL_ARRAY, .element = &block_job};
static const ControlType job = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS(
        {"id", &control_str}, {"type", &control_str}, {"status", &control_str},
        {"current-progress", &control_int}, {"total-progress", &control_int},
        {"error", &control_str, true}),
};
static const ControlType job_list = {.kind = CONTROL_ARRAY, .element = &job};

static void add_block_job(void *opaque, const char *id, BlockDev *disk)
{
    BlockJobInfo i;

    if (block_job_info(disk, &i) && i.status != BLOCK_JOB_FINISHED)
        json_array_append_new(
            opaque,
            json_pack("{s:s, s:s, s:I, s:I, s:b, s:b, s:I, s:s, s:b, s:s, s:b, s:b}",
                      "type", block_job_type_names[i.type], "device", i.id, "len",
                      (json_int_t)i.total, "offset", (json_int_t)i.done, "busy",
                      !i.paused, "paused", i.paused, "speed", (json_int_t)i.speed,
                      "io-status", "ok", "ready", i.status == BLOCK_JOB_READY, "status",
                      status_names[i.status], "auto-finalize", true, "auto-dismiss",
                      false));
    block_job_info_clear(&i);
}

static void add_job(void *opaque, const char *id, BlockDev *disk)
{
    BlockJobInfo i;
    json_t *j;

    if (!block_job_info(disk, &i))
        return;
    j = json_pack("{s:s, s:s, s:s, s:I, s:I}", "id", i.id, "type",
                  block_job_type_names[i.type], "status",
                  i.paused ? "paused" : status_names[i.status], "current-progress",
                  (json_int_t)i.done, "total-progress", (json_int_t)i.total);
    if (i.error)
        json_object_set_new(j, "error", control_text(i.error));
    else if (i.cancelled)
        json_object_set_new(j, "error", json_string("it was cancelled"));
    json_array_append_new(opaque, j);
    block_job_info_clear(&i);
}

static json_t *query(ControlCall *call,
                     void (*fn)(void *opaque, const char *id, BlockDev *disk),
                     GError **error)
{
    json_t *all = json_array();

    if (control_disks_each(call, fn, all, error))
        return all;
    json_decref(all);
    return NULL;
}

static json_t *query_block_jobs(ControlCall *call, GError **error)
{
    return query(call, add_block_job, error);
}

static json_t *query_jobs(ControlCall *call, GError **error)
{
    return query(call, add_job, error);
}

/* ---- asking one for something --------------------------------------------------------
 */

typedef struct JobArgs {
    char *name;
    uint64_t speed;
    bool force;
} JobArgs;

/* The disk whose job has that name. */
typedef struct Search {
    const char *name;
    char *disk;
} Search;

static void match(void *opaque, const char *id, BlockDev *disk)
{
    Search *s = opaque;
    BlockJobInfo i;

    if (!s->disk && block_job_info(disk, &i)) {
        if (g_str_equal(i.id, s->name))
            s->disk = g_strdup(id);
        block_job_info_clear(&i);
    }
}

/* In use; NULL: no disk has such a job. */
static BlockDev *use_disk_of_job(ControlCall *call, const char *name, GError **error)
{
    Search s = {name, NULL};
    BlockDev *disk = NULL;

    if (!control_disks_each(call, match, &s, error))
        return NULL;
    if (s.disk)
        disk = control_disk_use(call, s.disk, error);
    else
        fail(error, VM_ERROR_NOT_FOUND, "there is no job '%s'", name);
    g_free(s.disk);
    return disk;
}

static json_t *ask(ControlCall *call, bool (*fn)(BlockDev *disk, GError **error),
                   GError **error)
{
    const JobArgs *args = call->args;
    BlockDev *disk = use_disk_of_job(call, args->name, error);
    bool ok = disk && fn(disk, error);

    if (disk)
        block_unuse(disk);
    return ok ? json_object() : NULL;
}

static bool pause_job(BlockDev *disk, GError **error)
{
    return block_job_set_paused(disk, true, error);
}

static bool resume_job(BlockDev *disk, GError **error)
{
    return block_job_set_paused(disk, false, error);
}

static json_t *cancel(ControlCall *call, GError **error)
{
    return ask(call, block_job_cancel, error);
}

static json_t *complete(ControlCall *call, GError **error)
{
    return ask(call, block_job_complete, error);
}

static json_t *dismiss(ControlCall *call, GError **error)
{
    return ask(call, block_job_dismiss, error);
}

static json_t *pause_it(ControlCall *call, GError **error)
{
    return ask(call, pause_job, error);
}

static json_t *resume_it(ControlCall *call, GError **error)
{
    return ask(call, resume_job, error);
}

static json_t *set_speed(ControlCall *call, GError **error)
{
    const JobArgs *args = call->args;
    BlockDev *disk = use_disk_of_job(call, args->name, error);
    bool ok = disk && block_job_set_speed(disk, args->speed, error);

    if (disk)
        block_unuse(disk);
    return ok ? json_object() : NULL;
}

#define NAMED(key_)                                                                      \
    {                                                                                    \
        .key = key_, .type = PARAM_STRING, .offset = offsetof(JobArgs, name),            \
        .help = "the job's name", .required = true                                       \
    }
static const ParamTable by_id = {
    .size = sizeof(JobArgs),
    .desc = (const ParamDesc[]){NAMED("id"), {0}},
};
static const ParamTable by_device = {
    .size = sizeof(JobArgs),
    .desc = (const ParamDesc[]){NAMED("device"), {0}},
};
static const ParamTable cancel_args = {
    .size = sizeof(JobArgs),
    .desc = (const ParamDesc[]){NAMED("device"),
                                {.key = "force",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(JobArgs, force),
                                 .help = "taken; a cancelled job never moves the disk"},
                                {0}},
};
static const ParamTable speed_args = {
    .size = sizeof(JobArgs),
    .desc = (const ParamDesc[]){NAMED("device"),
                                {.key = "speed",
                                 .type = PARAM_SIZE,
                                 .offset = offsetof(JobArgs, speed),
                                 .help = "bytes a second; 0: no limit",
                                 .required = true},
                                {0}},
};

static const ControlCommand commands[] = {
    {"block-stream", &stream_args, NULL, CONTROL_SLEEPS, stream},
    {"block-commit", &commit_args, NULL, CONTROL_SLEEPS, commit},
    {"drive-mirror", &mirror_args, NULL, CONTROL_SLEEPS, mirror},
    {"query-block-jobs", NULL, &block_job_list, CONTROL_QUERY | CONTROL_SLEEPS,
     query_block_jobs},
    {"query-jobs", NULL, &job_list, CONTROL_QUERY | CONTROL_SLEEPS, query_jobs},
    {"block-job-cancel", &cancel_args, NULL, CONTROL_SLEEPS, cancel},
    {"block-job-complete", &by_device, NULL, CONTROL_SLEEPS, complete},
    {"block-job-pause", &by_device, NULL, CONTROL_SLEEPS, pause_it},
    {"block-job-resume", &by_device, NULL, CONTROL_SLEEPS, resume_it},
    {"block-job-dismiss", &by_id, NULL, CONTROL_SLEEPS, dismiss},
    {"block-job-set-speed", &speed_args, NULL, CONTROL_SLEEPS, set_speed},
    {"job-cancel", &by_id, NULL, CONTROL_SLEEPS, cancel},
    {"job-complete", &by_id, NULL, CONTROL_SLEEPS, complete},
    {"job-pause", &by_id, NULL, CONTROL_SLEEPS, pause_it},
    {"job-resume", &by_id, NULL, CONTROL_SLEEPS, resume_it},
    {"job-dismiss", &by_id, NULL, CONTROL_SLEEPS, dismiss},
    {0},
};

static const ControlType job_change = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"id", &control_str}, {"status", &control_str}),
};
static const ControlType job_event = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"type", &control_str}, {"device", &control_str},
                               {"len", &control_int}, {"offset", &control_int},
                               {"speed", &control_int}),
};
static const ControlType job_completed = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"type", &control_str}, {"device", &control_str},
                               {"len", &control_int}, {"offset", &control_int},
                               {"speed", &control_int}, {"error", &control_str, true}),
};
static const ControlEvent events[] = {
    {"JOB_STATUS_CHANGE", &job_change},
    {"BLOCK_JOB_READY", &job_event},
    {"BLOCK_JOB_COMPLETED", &job_completed},
    {"BLOCK_JOB_CANCELLED", &job_event},
    {0},
};

const ControlTable control_job_table = {commands, events};
