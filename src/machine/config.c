/* The Config as data: how it is made, how an option is set in either notation, and what
 * follows from the rest when all has been said. */
#include <string.h>

#include "config_private.h"
#include "virtio/console.h"
#include "virtio/devices.h"

/* ---- making and freeing -------------------------------------------------------- */

Config *config_new(void)
{
    Config *cfg = param_new(&config_scalars);
    GuestMemOptions *memory = param_new(&config_memory);

    cfg->memory = *memory;
    param_free(&config_memory, memory);
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
    param_free(&config_scalars, cfg);
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

/* ---- setting ------------------------------------------------------------------- */

static bool parse_table(const ParamTable *table, void *options, const ConfigSource *from,
                        GError **error)
{
    if (!from->json)
        return param_parse(table, options, from->text ? from->text : "", error);
    return param_from_json(table, options, from->json, from->base, error);
}

/* An empty list is most likely a shell variable that is not set. */
static bool is_empty(const ConfigSource *from)
{
    const char *text = from->json ? json_string_value(from->json) : from->text;

    return text && !*text;
}

static bool set_one(Config *cfg, const ConfigOption *option, const ConfigSource *from,
                    GError **error)
{
    void *options;

    if (option->table && is_empty(from))
        return fail(error, VM_ERROR_INVALID, "the value is empty");
    if (option->scalar)
        return from->json
                   ? param_set_json(option->scalar, cfg, from->json, from->base, error)
                   : param_set(option->scalar, cfg, from->text, error);
    if (option->table == &config_memory)
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

bool config_set_named(Config *cfg, const ConfigOption *option, const ConfigSource *from,
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
    return config_set_named(cfg, option, &(ConfigSource){.text = value}, error);
}

/* ---- what follows from the rest ------------------------------------------------ */

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
    for (unsigned i = 0; i < cfg->n_devices; i++) {
        const ConfigDevice *d = &cfg->devices[i];

        if (d->ops->remote ||
            (d->ops->wants_shared && d->options && d->ops->wants_shared(d->options)))
            return true;
    }
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
