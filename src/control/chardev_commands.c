/* Commands about where serial ports and consoles go, under QMP's names (qapi/char.json of
 * QEMU 7.2). */
#include "control/control.h"
#include "src/control/parts.h"
#include "virtio/console.h"

/* ---- query-chardev --------------------------------------------------------------------
 */

static const ControlType chardev_info = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"label", &control_str}, {"filename", &control_str},
                               {"frontend-open", &control_bool}),
};
static const ControlType chardev_list = {.kind = CONTROL_ARRAY, .element = &chardev_info};

static void describe(json_t *all, const char *label, const char *filename, bool open)
{
    json_array_append_new(all, json_pack("{s:o, s:o, s:b}", "label", control_text(label),
                                         "filename", control_text(filename),
                                         "frontend-open", open));
}

static json_t *query_chardev(ControlCall *call, GError **error)
{
    json_t *all = json_array();
    MachineDevice d;

    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++) {
        const Chardev *c = machine_serial_chardev(call->machine, i);

        if (c)
            describe(all, i ? "serial1" : "serial0", chardev_filename(c), true);
    }
    for (unsigned i = 0; machine_device(call->machine, i, &d); i++) {
        const Chardev *c = virtio_console_chardev(d.virtio);
        const Part *part = parts_of(call->parts, PART_CHARDEV, d.virtio->id);

        if (c)
            describe(all, part ? part->name : d.virtio->id, chardev_filename(c),
                     virtio_console_is_open(d.virtio));
    }
    for (const Part *p = call->parts->first; p; p = p->next)
        if (p->kind == PART_CHARDEV && !part_is_used(p, call->machine))
            describe(all, p->name, json_string_value(json_object_get(p->info, "file")),
                     false);
    return all;
}

/* ---- chardev-add ----------------------------------------------------------------------
 */

typedef struct AddArgs {
    char *id;
    json_t *backend;
} AddArgs;

static const ParamTable add_args = {
    .size = sizeof(AddArgs),
    .desc = (const ParamDesc[]){{.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(AddArgs, id),
                                 .help = "its name, for device_add's chardev",
                                 .required = true},
                                {.key = "backend",
                                 .type = PARAM_JSON,
                                 .offset = offsetof(AddArgs, backend),
                                 .help = "{type, data}: null, pty, file or socket",
                                 .required = true},
                                {0}},
};

/* QMP: "pty" is a member that is there at once; here query-chardev tells it when a device
 * has the chardev. */
static const ControlType added = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"pty", &control_str, true}),
};

typedef struct FileData {
    char *out;
    bool append;
} FileData;
static const ParamTable file_data = {
    .size = sizeof(FileData),
    .desc = (const ParamDesc[]){{.key = "out",
                                 .type = PARAM_PATH,
                                 .offset = offsetof(FileData, out),
                                 .help = "the file",
                                 .required = true},
                                {.key = "append",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(FileData, append),
                                 .def = "on",
                                 .help = "false is refused: a file is never emptied"},
                                {0}},
};

typedef struct SocketData {
    json_t *addr;
    bool server, wait;
} SocketData;
static const ParamTable socket_data = {
    .size = sizeof(SocketData),
    .desc = (const ParamDesc[]){{.key = "addr",
                                 .type = PARAM_JSON,
                                 .offset = offsetof(SocketData, addr),
                                 .help = "{type: unix, data: {path}}",
                                 .required = true},
                                {.key = "server",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(SocketData, server),
                                 .def = "on",
                                 .help = "false is refused: we listen"},
                                {.key = "wait",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(SocketData, wait),
                                 .help = "true is refused"},
                                {0}},
};

typedef struct Tagged {
    char *type;
    json_t *data;
} Tagged;
static const ParamTable tagged = {
    .size = sizeof(Tagged),
    .desc = (const ParamDesc[]){{.key = "type",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(Tagged, type),
                                 .help = "which kind",
                                 .required = true},
                                {.key = "data",
                                 .type = PARAM_JSON,
                                 .offset = offsetof(Tagged, data),
                                 .help = "what belongs to it",
                                 .required = true},
                                {0}},
};

typedef struct PathData {
    char *path;
} PathData;
static const ParamTable path_data = {
    .size = sizeof(PathData),
    .desc = (const ParamDesc[]){{.key = "path",
                                 .type = PARAM_PATH,
                                 .offset = offsetof(PathData, path),
                                 .help = "of the socket",
                                 .required = true},
                                {0}},
};

/* `json` as a struct of that table, for param_free(); NULL on failure. */
static void *take(const ParamTable *table, json_t *json, const char *what, GError **error)
{
    void *taken;

    if (!json_is_object(json)) {
        fail(error, VM_ERROR_INVALID, "%s: an object is wanted", what);
        return NULL;
    }
    taken = param_new(table);
    if (param_from_json(table, taken, json, NULL, error))
        return taken;
    g_prefix_error(error, "%s: ", what);
    param_free(table, taken);
    return NULL;
}

static json_t *of_kind(const char *kind, json_t *data, GError **error)
{
    if (json_is_object(data) && !json_object_size(data))
        return json_pack("{s:s}", "type", kind);
    fail(error, VM_ERROR_INVALID, "data: an empty object is wanted");
    return NULL;
}

static json_t *of_file(json_t *data, GError **error)
{
    FileData *f = take(&file_data, data, "data", error);
    json_t *options = NULL;

    if (f && f->append)
        options = json_pack("{s:o}", "file", control_text(f->out));
    else if (f)
        fail(error, VM_ERROR_UNSUPPORTED, "append: a file is always appended to");
    param_free(&file_data, f);
    return options;
}

/* {"type": "unix", "data": {"path": ...}} */
static json_t *of_address(json_t *addr, GError **error)
{
    Tagged *t = take(&tagged, addr, "addr", error);
    PathData *p = NULL;
    json_t *options = NULL;

    if (t && !g_str_equal(t->type, "unix"))
        fail(error, VM_ERROR_UNSUPPORTED, "addr: '%s' is not supported, only unix",
             t->type);
    else if (t)
        p = take(&path_data, t->data, "addr: data", error);
    if (p)
        options = json_pack("{s:o}", "socket", control_text(p->path));
    param_free(&path_data, p);
    param_free(&tagged, t);
    return options;
}

static json_t *of_socket(json_t *data, GError **error)
{
    SocketData *s = take(&socket_data, data, "data", error);
    json_t *options = NULL;

    if (s && (!s->server || s->wait))
        fail(error, VM_ERROR_UNSUPPORTED,
             "data: a socket chardev listens, and the guest does not wait for who "
             "connects: server must be true, and wait false");
    else if (s)
        options = of_address(s->addr, error);
    param_free(&socket_data, s);
    return options;
}

/* The options of --console that mean the same; NULL on failure. */
static json_t *translate(const Tagged *backend, GError **error)
{
    if (g_str_equal(backend->type, "null"))
        return of_kind("none", backend->data, error);
    if (g_str_equal(backend->type, "pty"))
        return of_kind("pty", backend->data, error);
    if (g_str_equal(backend->type, "file"))
        return of_file(backend->data, error);
    if (g_str_equal(backend->type, "socket"))
        return of_socket(backend->data, error);
    fail(error, VM_ERROR_UNSUPPORTED,
         "there is no kind '%s'; there are null, pty, file and socket", backend->type);
    return NULL;
}

/* As query-chardev shows one that is not open yet. */
static json_t *not_open(const Tagged *backend, json_t *options)
{
    const char *path = json_string_value(json_object_get(options, "socket"));
    g_autofree char *text = path ? g_strdup_printf("disconnected:unix:%s,server=on", path)
                                 : g_strdup(backend->type);

    return json_pack("{s:o}", "file", control_text(text));
}

static json_t *chardev_add(ControlCall *call, GError **error)
{
    const AddArgs *args = call->args;
    Tagged *backend = take(&tagged, args->backend, "backend", error);
    json_t *options = backend ? translate(backend, error) : NULL;
    Part *part = NULL;

    if (options)
        part = parts_add(call->parts, PART_CHARDEV, args->id, options,
                         not_open(backend, options), error);
    else
        g_prefix_error(error, "chardev '%s': ", args->id);
    param_free(&tagged, backend);
    return part ? json_object() : NULL;
}

/* ---- chardev-remove -------------------------------------------------------------------
 */

static json_t *chardev_remove(ControlCall *call, GError **error)
{
    const PartArgs *args = call->args;

    return parts_remove(call->parts, call->machine, PART_CHARDEV, args->id, error)
               ? json_object()
               : NULL;
}

static const ControlCommand commands[] = {
    {"query-chardev", NULL, &chardev_list, CONTROL_QUERY, query_chardev},
    {"chardev-add", &add_args, &added, 0, chardev_add},
    {"chardev-remove", &part_args, NULL, 0, chardev_remove},
    {0},
};

const ControlTable control_chardev_table = {commands, (const ControlEvent[]){{0}}};
