/* The Config in its two notations, with the options of every real device. */
#include "machine/config.h"

#include <glib/gstdio.h>
#include <string.h>

#include "util/bits.h"
#include "virtio/console.h"
#include "virtio/devices.h"

static char *folder;

static Config *with(const char *const *pairs)
{
    Config *cfg = config_new();
    GError *error = NULL;

    for (; *pairs; pairs += 2) {
        const ConfigOption *o = config_option(pairs[0]);

        g_assert_nonnull(o);
        config_set(cfg, o, pairs[1], &error);
        g_assert_no_error(error);
    }
    return cfg;
}
#define WITH(...) with((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL, NULL})

static void finish(Config *cfg)
{
    GError *error = NULL;

    config_finish(cfg, &error);
    g_assert_no_error(error);
}

static void refused(const char *name, const char *value, const char *why)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(GError) error = NULL;

    g_assert_false(config_set(cfg, config_option(name), value, &error));
    g_assert_true(g_str_has_prefix(error->message, name));
    if (!strstr(error->message, why))
        g_error("--%s %s: refused with \"%s\", not \"%s\"", name, value, error->message,
                why);
}

static char *write_file(const char *text)
{
    char *path = g_build_filename(folder, "c.json", NULL);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return path;
}

static Config *loaded(const char *text)
{
    g_autofree char *path = write_file(text);
    Config *cfg = config_new();
    GError *error = NULL;

    config_load(cfg, path, &error);
    g_assert_no_error(error);
    return cfg;
}

static void refused_file(const char *text, const char *why)
{
    g_autofree char *path = write_file(text);
    g_autoptr(Config) cfg = config_new();
    g_autoptr(GError) error = NULL;

    g_assert_false(config_load(cfg, path, &error));
    g_assert_true(g_str_has_prefix(error->message, "config '"));
    if (!strstr(error->message, why))
        g_error("%s: refused with \"%s\", not \"%s\"", text, error->message, why);
}

static char *dumped(const Config *cfg)
{
    json_t *json = config_to_json(cfg);
    char *text = json_dumps(json, JSON_COMPACT);

    json_decref(json);
    return text;
}

static void nothing_given_is_one_cpu_512m_and_serial_on_stdio(void)
{
    g_autoptr(Config) cfg = WITH();

    finish(cfg);
    g_assert_cmpuint(cfg->cpus, ==, 1);
    g_assert_cmpuint(cfg->memory.size, ==, 512 * MIB);
    g_assert_cmpint(cfg->transport, ==, TRANSPORT_PCI);
    g_assert_cmpint(cfg->serial[0]->type, ==, CHARDEV_STDIO);
    g_assert_null(cfg->serial[1]);
    g_assert_cmpstr(cfg->cmdline, ==, "console=ttyS0 reboot=k panic=-1");
}

static void consoles_follow_from_each_other(void)
{
    static const struct {
        const char *serial, *console;
        int serial0; /* -1: unconnected */
        const char *cmdline;
    } cases[] = {
        {NULL, "stdio", -1, "console=hvc0"},
        {NULL, "pty", CHARDEV_STDIO, "console=ttyS0"},
        {NULL, "socket=/s,name=agent", CHARDEV_STDIO, "console=ttyS0"},
        {NULL, "stdio,name=agent", -1, "console=ttyS0"},
        {"pty", NULL, CHARDEV_PTY, "console=ttyS0"},
        {"none", NULL, CHARDEV_NONE, "console=ttyS0"},
        {"none", "pty", CHARDEV_NONE, "console=hvc0"},
        {"pty", "stdio", CHARDEV_PTY, "console=hvc0"},
        {"stdio", "pty", CHARDEV_STDIO, "console=ttyS0"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(Config) cfg = config_new();

        if (cases[i].serial)
            g_assert_true(
                config_set(cfg, config_option("serial"), cases[i].serial, NULL));
        if (cases[i].console)
            g_assert_true(
                config_set(cfg, config_option("console"), cases[i].console, NULL));
        finish(cfg);
        g_assert_cmpint(cfg->serial[0] ? cfg->serial[0]->type : -1, ==, cases[i].serial0);
        g_assert_true(g_str_has_prefix(cfg->cmdline, cases[i].cmdline));
    }
}

static void stdio_has_one_user(void)
{
    g_autoptr(Config) a = WITH("serial", "stdio", "console", "stdio");
    g_autoptr(Config) b = WITH("console", "stdio", "console", "stdio,name=x");
    g_autoptr(GError) error = NULL;

    g_assert_false(config_finish(a, &error));
    g_assert_nonnull(strstr(error->message, "cannot serve 2 consoles"));
    g_assert_false(config_finish(b, NULL));
}

static void bad_values_are_refused_by_name_of_option(void)
{
    refused("cpus", "0", "cpus: 0 is too little: it must be 1 or more");
    refused("cpus", "65", "cpus: 65 is too much: it must be 64 or less");
    refused("cpus", NULL, "no value");
    refused("memory", "0", "memory: size: 0 is too little: it must be 1M or more");
    refused("memory", "512Q", "is not a size");
    refused("memory", "1000001K", "memory: size: ");
    refused("memory", "17T", "too much");
    refused("memory", "1G,fast", "memory: unknown key 'fast'");
    refused("transport", "usb", "'usb' is none of: pci, mmio");
    refused("timeout", "-1", "is not a number");
    refused("json", "maybe", "neither on nor off");
    refused("serial", "usb", "serial: ");
    refused("console", "stdio,colour=red", "console: unknown key 'colour'");
    refused("disk", "a,format=vmdk", "disk: format: 'vmdk'");
    refused("net", "type=wire", "net: type: 'wire'");
}

static void third_serial_port_is_refused(void)
{
    g_autoptr(Config) cfg = WITH("serial", "none", "serial", "pty");
    g_autoptr(GError) error = NULL;

    g_assert_false(config_set(cfg, config_option("serial"), "none", &error));
    g_assert_cmpstr(error->message, ==, "serial: there are only 2 serial ports");
}

static void devices_are_in_the_tables_order_then_as_given(void)
{
    g_autoptr(Config) cfg = WITH("rng", NULL, "net", "user", "disk", "b.raw", "console",
                                 "pty", "disk", "a.raw,readonly");
    static const VirtioOps *const order[] = {&virtio_blk_ops, &virtio_blk_ops,
                                             &virtio_net_ops, &virtio_console_ops,
                                             &virtio_rng_ops};
    g_autofree char *text = NULL;

    g_assert_cmpuint(cfg->n_devices, ==, G_N_ELEMENTS(order));
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++)
        g_assert_true(cfg->devices[i].ops == order[i]);
    text = dumped(cfg);
    g_assert_true(strstr(text, "b.raw") < strstr(text, "a.raw"));
}

static void json_round_trips(void)
{
    g_autoptr(Config) cfg = WITH(
        "kernel", "/k", "initrd", "/i", "cpus", "4", "memory", "3G,shared", "name", "vm",
        "transport", "mmio", "no-reboot", NULL, "timeout", "9", "debug-exit", "on",
        "serial", "file=/log", "serial", "pty", "disk", "/a,,b.raw,readonly,cache=none",
        "net", "user,hostfwd=tcp::2222-:22,hostfwd=tcp::80-:80", "console",
        "socket=/s,name=agent", "rng", NULL);
    g_autoptr(Config) again = NULL;
    g_autofree char *one = NULL, *two = NULL;

    finish(cfg);
    one = dumped(cfg);
    again = loaded(one);
    finish(again);
    two = dumped(again);
    g_assert_cmpstr(one, ==, two);
    g_assert_nonnull(strstr(one, "\"/a,b.raw\""));
    g_assert_nonnull(strstr(one, "tcp::80-:80"));
    g_assert_cmpuint(again->n_devices, ==, 4);
    g_assert_cmpstr(again->serial[0]->file, ==, "/log");
    g_assert_true(again->memory.shared && again->debug_exit && again->no_reboot);
}

static void file_notation_allows_strings_for_objects_and_relative_paths(void)
{
    g_autofree char *kernel = g_build_filename(folder, "vmlinuz", NULL);
    g_autoptr(Config)
        cfg = loaded("{\"kernel\": \"vmlinuz\", \"memory\": \"1G\", \"serial\": \"none\","
                     " \"disk\": [\"root.raw,readonly\", {\"path\": \"/b.raw\"}],"
                     " \"console\": [\"stdio\"], \"rng\": true}");
    g_autofree char *text = dumped(cfg);
    g_autofree char *disk = g_build_filename(folder, "root.raw", NULL);

    g_assert_cmpstr(cfg->kernel, ==, kernel);
    g_assert_cmpuint(cfg->memory.size, ==, GIB);
    g_assert_cmpuint(cfg->n_devices, ==, 4);
    g_assert_nonnull(strstr(text, disk));
}

static void command_line_overrides_values_and_adds_devices(void)
{
    g_autoptr(Config) cfg = loaded("{\"kernel\": \"/k\", \"cpus\": 2, \"disk\": "
                                   "[\"/a\"], \"memory\": \"1G,shared\"}");

    g_assert_true(config_set(cfg, config_option("cpus"), "4", NULL));
    g_assert_true(config_set(cfg, config_option("kernel"), "/other", NULL));
    g_assert_true(config_set(cfg, config_option("disk"), "/b", NULL));
    g_assert_true(config_set(cfg, config_option("memory"), "2G", NULL));
    g_assert_cmpuint(cfg->cpus, ==, 4);
    g_assert_cmpstr(cfg->kernel, ==, "/other");
    g_assert_cmpuint(cfg->n_devices, ==, 2);
    g_assert_cmpuint(cfg->memory.size, ==, 2 * GIB);
    g_assert_true(cfg->memory.shared);
}

static void bad_files_are_refused(void)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(GError) error = NULL;

    refused_file("", "not JSON: line 1");
    refused_file("{\n\"cpus\": 1,\n}", "not JSON: line 3");
    refused_file("[]", "an object is wanted");
    refused_file("{\"cpus\": 1, \"cpus\": 2}", "duplicate object key");
    refused_file("{\"kernal\": \"k\"}", "did you mean 'kernel'?");
    refused_file("{\"warp\": 9}", "unknown key 'warp'");
    refused_file("{\"cpus\": \"2\"}", "cpus: a number is wanted");
    refused_file("{\"cpus\": 0}", "cpus: 0 is too little");
    refused_file("{\"memory\": 0}",
                 "memory: an object or a string is wanted here, not a number");
    refused_file("{\"disk\": [{}]}", "disk: key 'path' is missing");
    refused_file("{\"disk\": [3]}",
                 "disk: an object or a string is wanted here, not a number");
    refused_file("{\"disk\": [{\"path\": \"a\", \"fmt\": \"raw\"}]}",
                 "disk: unknown key 'fmt'");
    refused_file("{\"rng\": [\"fast\"]}", "rng: no value is wanted here but true");
    refused_file("{\"serial\": [\"none\", \"none\", \"none\"]}", "only 2 serial ports");
    g_assert_false(config_load(cfg, "/nonexistent/c.json", &error));
    g_assert_cmpstr(error->message, ==,
                    "config '/nonexistent/c.json': open: No such file or directory");
}

static void every_option_has_a_name_a_help_line_and_a_value_kind(void)
{
    for (const ConfigOption *o = config_options(); o->name; o++) {
        g_assert_true(config_option(o->name) == o);
        g_assert_nonnull(o->help);
        g_assert_false(g_str_has_suffix(o->help, "."));
        for (const ParamDesc *d = o->table ? o->table->desc : NULL; d && d->key; d++)
            g_assert_nonnull(d->help);
    }
    g_assert_cmpint(config_option("rng")->value, !=, CONFIG_VALUE_REQUIRED);
    g_assert_cmpint(config_option("disk")->value, ==, CONFIG_VALUE_REQUIRED);
    g_assert_cmpint(config_option("no-reboot")->value, ==, CONFIG_VALUE_OPTIONAL);
}

static void a_uuid_is_checked_kept_and_made_once(void)
{
    g_autoptr(Config) given = WITH("uuid", "123E4567-E89B-12D3-A456-426614174000");
    g_autoptr(Config) bad = WITH("uuid", "123e4567");
    g_autoptr(Config) none = WITH("name", "n");
    g_autoptr(Config) other = WITH("name", "n");
    g_autoptr(GError) error = NULL;
    g_autofree char *made = NULL;

    finish(given);
    config_make_uuid(given);
    g_assert_cmpstr(given->uuid, ==, "123e4567-e89b-12d3-a456-426614174000");
    g_assert_false(config_finish(bad, &error));
    g_assert_nonnull(strstr(error->message, "'123e4567' is no UUID"));
    finish(none);
    g_assert_null(none->uuid);
    config_make_uuid(none);
    made = g_strdup(none->uuid);
    g_assert_true(g_uuid_string_is_valid(made));
    config_make_uuid(none);
    g_assert_cmpstr(none->uuid, ==, made);
    config_make_uuid(other);
    g_assert_cmpstr(other->uuid, !=, made);
}

int main(int argc, char **argv)
{
    g_autofree char *path = NULL;
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("hutch-config-XXXXXX", NULL);
#define T(fn) g_test_add_func("/config/" #fn, fn)
    T(nothing_given_is_one_cpu_512m_and_serial_on_stdio);
    T(consoles_follow_from_each_other);
    T(stdio_has_one_user);
    T(bad_values_are_refused_by_name_of_option);
    T(third_serial_port_is_refused);
    T(devices_are_in_the_tables_order_then_as_given);
    T(json_round_trips);
    T(file_notation_allows_strings_for_objects_and_relative_paths);
    T(command_line_overrides_values_and_adds_devices);
    T(bad_files_are_refused);
    T(every_option_has_a_name_a_help_line_and_a_value_kind);
    T(a_uuid_is_checked_kept_and_made_once);
    status = g_test_run();
    path = g_build_filename(folder, "c.json", NULL);
    g_unlink(path);
    g_rmdir(folder);
    g_free(folder);
    return status;
}
