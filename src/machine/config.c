/* The Config as data: which options there are, and their two notations.  Single values
 * and memory are described here, serial ports by chardev_params, and each virtio device
 * by its own VirtioOps, so that a new device is an option without an edit here. */
#include "machine/config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "util/bits.h"
#include "util/fd.h"
#include "virtio/console.h"
#include "virtio/devices.h"

enum { MAX_OPTIONS = 64, MAX_CONFIG_SIZE = MIB };

static const char *const transport_names[] = {"pci", "mmio", NULL};

static const ParamDesc scalars[] = {
    {.key = "kernel",
     .type = PARAM_PATH,
     .offset = offsetof(Config, kernel),
     .arg = "FILE",
     .help = "kernel to boot: bzImage, ELF vmlinux (PVH) or multiboot"},
    {.key = "initrd",
     .type = PARAM_PATH,
     .offset = offsetof(Config, initrd),
     .arg = "FILE",
     .help = "initial RAM disk, or first multiboot module"},
    {.key = "cmdline",
     .type = PARAM_STRING,
     .offset = offsetof(Config, cmdline),
     .arg = "STRING",
     .help = "kernel command line; by default the console in use, \"reboot=k panic=-1\""},
    {.key = "cpus",
     .letter = 'c',
     .type = PARAM_UINT,
     .offset = offsetof(Config, cpus),
     .arg = "N",
     .help = "number of virtual CPUs",
     .def = "1",
     .min = 1,
     .max = CONFIG_MAX_CPUS},
    {.key = "name",
     .type = PARAM_STRING,
     .offset = offsetof(Config, name),
     .arg = "NAME",
     .help = "name of the VM; its control socket is in a run folder of that name"},
    {.key = "uuid",
     .type = PARAM_STRING,
     .offset = offsetof(Config, uuid),
     .arg = "UUID",
     .help = "what to know the VM by, whatever its name; a named VM gets one"},
    {.key = "control",
     .type = PARAM_PATH,
     .offset = offsetof(Config, control),
     .arg = "PATH",
     .help = "make a control socket here, which speaks QMP"},
    {.key = "control-readonly",
     .type = PARAM_PATH,
     .offset = offsetof(Config, control_readonly),
     .arg = "PATH",
     .help = "likewise, but only for commands that change nothing"},
    {.key = "agent",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, agent),
     .help = "let 'hutch exec' and others reach qemu-guest-agent in the guest"},
    {.key = "metrics",
     .type = PARAM_STRING,
     .offset = offsetof(Config, metrics),
     .arg = "ADDR:PORT|unix:PATH|unix",
     .help = "serve metrics for Prometheus over HTTP; unix: at metrics.sock in the run "
             "folder; without ADDR, on 127.0.0.1"},
    {.key = "paused",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, paused),
     .help = "do not start the guest until 'cont' is said on a control socket"},
    {.key = "transport",
     .type = PARAM_ENUM,
     .offset = offsetof(Config, transport),
     .choices = transport_names,
     .def = "pci",
     .help = "how the guest finds virtio devices"},
    {.key = "no-reboot",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, no_reboot),
     .help = "end when the guest reboots"},
    {.key = "timeout",
     .type = PARAM_UINT,
     .offset = offsetof(Config, timeout_s),
     .arg = "SECONDS",
     .help = "end the VM after so long, with status 124; 0: never",
     .max = 1000 * 1000 * 1000},
    {.key = "debug-exit",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, debug_exit),
     .help = "let the guest end the VM with a status, by ports 0xf4 and 0x501"},
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(Config, json),
     .help = "at the end, print the result as JSON on stderr"},
    {0},
};

static const ParamTable scalar_table = {.size = sizeof(Config), .desc = scalars};

static bool check_memory(void *options, GError **error)
{
    const GuestMemOptions *m = options;

    return is_aligned(m->size, GM_PAGE_SIZE) ||
           fail(error, VM_ERROR_INVALID,
                "size: %" G_GUINT64_FORMAT " is not a multiple of 4K", m->size);
}

static const ParamTable memory_table = {
    .size = sizeof(GuestMemOptions),
    .check = check_memory,
    .desc =
        (const ParamDesc[]){{.key = "size",
                             .type = PARAM_SIZE,
                             .offset = offsetof(GuestMemOptions, size),
                             .arg = "SIZE",
                             .help = "bytes, or with K, M, G or T",
                             .def = "512M",
                             .min = MIB,
                             .max = 16 * 1024 * GIB},
                            {.key = "shared",
                             .type = PARAM_BOOL,
                             .offset = offsetof(GuestMemOptions, shared),
                             .help = "keep it in a memfd that helper processes can map"},
                            {.key = "hugepages",
                             .type = PARAM_BOOL,
                             .offset = offsetof(GuestMemOptions, hugepages),
                             .help = "take it from the host's reserved 2M pages"},
                            {.key = "prealloc",
                             .type = PARAM_BOOL,
                             .offset = offsetof(GuestMemOptions, prealloc),
                             .help = "touch all of it before the guest starts"},
                            {0}},
};

/* ---- the options --------------------------------------------------------------------
 */

/* One that is on unless it is said to be off has no meaning without a word. */
static bool goes_alone(const ParamDesc *desc)
{
    return desc->bare || (desc->type == PARAM_BOOL && g_strcmp0(desc->def, "on"));
}

ConfigOption config_scalar_option(const ParamDesc *desc)
{
    return (ConfigOption){.name = desc->key,
                          .letter = desc->letter,
                          .help = desc->help,
                          .scalar = desc,
                          .table = desc->keys,
                          .repeats = desc->type == PARAM_LIST,
                          .value = goes_alone(desc) ? CONFIG_VALUE_OPTIONAL
                                                    : CONFIG_VALUE_REQUIRED};
}

/* A device whose first key is its id has nothing that must be said: --rng. */
static ConfigOption device_option(const VirtioOps *ops)
{
    return (ConfigOption){.name = ops->option,
                          .help = ops->help,
                          .table = ops->params,
                          .ops = ops,
                          .repeats = true,
                          .value = !ops->params ? CONFIG_VALUE_NONE
                                   : g_str_equal(ops->params->desc->key, "id")
                                       ? CONFIG_VALUE_OPTIONAL
                                       : CONFIG_VALUE_REQUIRED};
}

const ConfigOption *config_options(void)
{
    static ConfigOption all[MAX_OPTIONS + 1];
    unsigned n = 0;

    if (all[0].name)
        return all;
    for (const ParamDesc *desc = scalars; desc->key; desc++) {
        all[n++] = config_scalar_option(desc);
        if (g_str_equal(desc->key, "cpus"))
            all[n++] = (ConfigOption){.name = "memory",
                                      .letter = 'm',
                                      .help = "guest memory, 512M if not given",
                                      .table = &memory_table,
                                      .value = CONFIG_VALUE_REQUIRED};
    }
    all[n++] = (ConfigOption){.name = "serial",
                              .help = "serial port (16550A), COM1 and then COM2",
                              .table = &chardev_params,
                              .repeats = true,
                              .value = CONFIG_VALUE_REQUIRED};
    for (const VirtioOps *const *ops = virtio_table; *ops; ops++) {
        g_assert(n < MAX_OPTIONS);
        all[n++] = device_option(*ops);
    }
    return all;
}

const ConfigOption *config_option(const char *name)
{
    for (const ConfigOption *o = config_options(); o->name; o++)
        if (g_str_equal(o->name, name))
            return o;
    return NULL;
}

/* ---- making and freeing ---------------------------------------------------------------
 */

Config *config_new(void)
{
    Config *cfg = param_new(&scalar_table);
    GuestMemOptions *memory = param_new(&memory_table);

    cfg->memory = *memory;
    param_free(&memory_table, memory);
    return cfg;
}

void config_free(Config *cfg)
{
    if (!cfg)
        return;
    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        param_free(&chardev_params, cfg->serial[i]);
    for (unsigned i = 0; i < cfg->n_devices; i++)
        param_free(cfg->devices[i].ops->params, cfg->devices[i].options);
    g_free(cfg->devices);
    g_free(cfg->agent_socket);
    json_decref(cfg->said);
    param_free(&scalar_table, cfg);
}

static bool add_serial(Config *cfg, ChardevOptions *options, GError **error)
{
    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        if (!cfg->serial[i]) {
            cfg->serial[i] = options;
            return true;
        }
    return fail(error, VM_ERROR_INVALID, "there are only %u serial ports",
                CONFIG_MAX_SERIALS);
}

static unsigned place_of(const VirtioOps *ops)
{
    unsigned i = 0;

    while (virtio_table[i] && virtio_table[i] != ops)
        i++;
    return i;
}

static void add_device(Config *cfg, const VirtioOps *ops, void *options)
{
    unsigned at = cfg->n_devices;

    cfg->devices = g_renew(ConfigDevice, cfg->devices, cfg->n_devices + 1);
    for (; at && place_of(cfg->devices[at - 1].ops) > place_of(ops); at--)
        cfg->devices[at] = cfg->devices[at - 1];
    cfg->devices[at] = (ConfigDevice){ops, options};
    cfg->n_devices++;
}

/* Takes over `options`. */
static bool add(Config *cfg, const ConfigOption *option, void *options, GError **error)
{
    if (option->ops) {
        add_device(cfg, option->ops, options);
    } else if (!add_serial(cfg, options, error)) {
        param_free(option->table, options);
        return false;
    }
    return true;
}

/* ---- setting --------------------------------------------------------------------------
 */

/* Either notation of a value: the command line's text, or JSON. */
typedef struct Source {
    const char *text;
    json_t *json;
    const char *base;
} Source;

static bool parse_table(const ParamTable *table, void *options, const Source *from,
                        GError **error)
{
    if (!from->json)
        return param_parse(table, options, from->text ? from->text : "", error);
    return param_from_json(table, options, from->json, from->base, error);
}

/* An empty list is most likely a shell variable that is not set. */
static bool is_empty(const Source *from)
{
    const char *text = from->json ? json_string_value(from->json) : from->text;

    return text && !*text;
}

static bool set_one(Config *cfg, const ConfigOption *option, const Source *from,
                    GError **error)
{
    void *options;

    if (option->table && is_empty(from))
        return fail(error, VM_ERROR_INVALID, "the value is empty");
    if (option->scalar)
        return from->json
                   ? param_set_json(option->scalar, cfg, from->json, from->base, error)
                   : param_set(option->scalar, cfg, from->text, error);
    if (option->table == &memory_table)
        return parse_table(option->table, &cfg->memory, from, error);
    if (!option->table) {
        if (from->text || (from->json && !json_is_true(from->json)))
            return fail(error, VM_ERROR_INVALID, "no value is wanted here%s",
                        from->json ? " but true" : "");
        return add(cfg, option, NULL, error);
    }
    options = param_new(option->table);
    if (parse_table(option->table, options, from, error))
        return add(cfg, option, options, error);
    param_free(option->table, options);
    return false;
}

static bool set_named(Config *cfg, const ConfigOption *option, const Source *from,
                      GError **error)
{
    if (set_one(cfg, option, from, error))
        return true;
    if (!option->scalar) /* whose errors have the key already */
        g_prefix_error(error, "%s: ", option->name);
    return false;
}

bool config_set(Config *cfg, const ConfigOption *option, const char *value,
                GError **error)
{
    return set_named(cfg, option, &(Source){.text = value}, error);
}

/* ---- JSON -----------------------------------------------------------------------------
 */

static bool fail_unknown(const char *key, GError **error)
{
    for (const ConfigOption *o = config_options(); o->name; o++)
        if (param_similar(key, o->name))
            return fail(error, VM_ERROR_INVALID, "unknown key '%s'; did you mean '%s'?",
                        key, o->name);
    return fail(error, VM_ERROR_INVALID,
                "unknown key '%s'; the keys are the options of 'hutch run --help'", key);
}

static bool load_key(Config *cfg, const char *key, json_t *value, const char *base,
                     GError **error)
{
    const ConfigOption *option = config_option(key);
    json_t *item;
    size_t i;

    if (!option)
        return fail_unknown(key, error);
    if (!option->repeats || !json_is_array(value))
        return set_named(cfg, option, &(Source){.json = value, .base = base}, error);
    json_array_foreach(value, i, item)
    {
        if (!set_named(cfg, option, &(Source){.json = item, .base = base}, error))
            return false;
    }
    return true;
}

/* A config is small; what is not is another file, given by mistake. */
static bool read_text(const char *path, GString *ret, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC);
    char part[4096];
    ssize_t n;

    if (fd < 0)
        return fail_errno(error, "open");
    do {
        n = read(fd, part, sizeof(part));
        if (n > 0)
            g_string_append_len(ret, part, n);
    } while ((n > 0 && ret->len <= MAX_CONFIG_SIZE) || (n < 0 && errno == EINTR));
    if (n < 0)
        return fail_errno(error, "read");
    return n == 0 || fail(error, VM_ERROR_CORRUPT,
                          "it is larger than 1 MiB, which no config of hutch is");
}

static json_t *read_json(const char *path, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    json_error_t where;
    json_t *json;

    if (!read_text(path, text, error))
        return NULL;
    json = json_loadb(text->str, text->len, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        fail(error, VM_ERROR_CORRUPT, "not JSON: line %d: %s", where.line, where.text);
    return json;
}

static bool load(Config *cfg, json_t *json, const char *base, GError **error)
{
    const char *key;
    json_t *value;

    if (!json_is_object(json))
        return fail(error, VM_ERROR_CORRUPT, "an object is wanted at the top");
    json_object_foreach(json, key, value)
    {
        if (!load_key(cfg, key, value, base, error))
            return false;
    }
    return true;
}

bool config_load(Config *cfg, const char *path, GError **error)
{
    g_autofree char *base = g_path_get_dirname(path);
    json_t *json = read_json(path, error);
    bool ok = json && load(cfg, json, g_str_equal(base, ".") ? NULL : base, error);

    json_decref(json);
    if (!ok)
        g_prefix_error(error, "config '%s': ", path);
    return ok;
}

Config *config_from_json(json_t *json, GError **error)
{
    g_autoptr(Config) cfg = config_new();

    return load(cfg, json, NULL, error) ? g_steal_pointer(&cfg) : NULL;
}

static void append(json_t *object, const char *key, json_t *value)
{
    json_t *array = json_object_get(object, key);

    if (!array) {
        array = json_array();
        json_object_set_new(object, key, array);
    }
    json_array_append_new(array, value);
}

json_t *config_to_json(const Config *cfg)
{
    json_t *object = json_object();

    for (const ConfigOption *o = config_options(); o->name; o++) {
        if (o->scalar && !param_is_default(o->scalar, cfg))
            json_object_set_new(object, o->name, param_value_to_json(o->scalar, cfg));
        if (o->table == &memory_table)
            json_object_set_new(object, o->name, param_to_json(o->table, &cfg->memory));
        for (unsigned i = 0; o->table == &chardev_params && i < CONFIG_MAX_SERIALS; i++)
            if (cfg->serial[i])
                append(object, o->name, param_to_json(o->table, cfg->serial[i]));
        for (unsigned i = 0; o->ops && i < cfg->n_devices; i++)
            if (cfg->devices[i].ops == o->ops)
                append(object, o->name,
                       o->table ? param_to_json(o->table, cfg->devices[i].options)
                                : json_true());
    }
    return object;
}

/* ---- what follows from the rest
 * --------------------------------------------------------- */

typedef struct Consoles {
    unsigned virtio;      /* virtio consoles, named ports apart */
    unsigned stdio_users; /* of any kind */
    bool virtio_on_stdio;
} Consoles;

static Consoles look_at_consoles(const Config *cfg)
{
    Consoles c = {0};

    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        c.stdio_users += cfg->serial[i] && cfg->serial[i]->type == CHARDEV_STDIO;
    for (unsigned i = 0; i < cfg->n_devices; i++) {
        const ConsoleOptions *o = cfg->devices[i].options;

        if (cfg->devices[i].ops != &virtio_console_ops)
            continue;
        c.virtio += !o->port;
        c.stdio_users += o->chardev.type == CHARDEV_STDIO;
        c.virtio_on_stdio |= !o->port && o->chardev.type == CHARDEV_STDIO;
    }
    return c;
}

/* What another process serves, it must be able to map. */
static bool wants_shared_memory(const Config *cfg)
{
    for (unsigned i = 0; i < cfg->n_devices; i++)
        if (cfg->devices[i].ops->remote)
            return true;
    return false;
}

static bool check_uuid(Config *cfg, GError **error)
{
    char *lower;

    if (!cfg->uuid)
        return true;
    if (!g_uuid_string_is_valid(cfg->uuid))
        return fail(error, VM_ERROR_INVALID,
                    "uuid: '%s' is no UUID, which is like "
                    "123e4567-e89b-12d3-a456-426614174000",
                    cfg->uuid);
    lower = g_ascii_strdown(cfg->uuid, -1);
    g_free(cfg->uuid);
    cfg->uuid = lower;
    return true;
}

void config_make_uuid(Config *cfg)
{
    if (!cfg->uuid)
        cfg->uuid = g_uuid_string_random();
}

bool config_finish(Config *cfg, GError **error)
{
    Consoles c = look_at_consoles(cfg);
    bool hvc;

    if (!check_uuid(cfg, error))
        return false;

    if (c.stdio_users > 1)
        return fail(error, VM_ERROR_INVALID,
                    "standard input and output cannot serve %u consoles at once; give "
                    "the others to pty, file=FILE, socket=PATH or none",
                    c.stdio_users);
    if (!cfg->serial[0] && !c.stdio_users) {
        cfg->serial[0] = param_new(&chardev_params);
        cfg->serial[0]->type = CHARDEV_STDIO;
    }
    cfg->memory.shared |= wants_shared_memory(cfg);
    hvc = c.virtio_on_stdio ||
          (c.virtio && (!cfg->serial[0] || cfg->serial[0]->type == CHARDEV_NONE));
    if (!cfg->cmdline)
        cfg->cmdline = g_strdup(hvc ? "console=hvc0 reboot=k panic=-1"
                                    : "console=ttyS0 reboot=k panic=-1");
    return true;
}
