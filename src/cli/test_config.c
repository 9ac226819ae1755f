/* The Config of a cell.  What the options and the matrix say comes on top of the image's
 * own, and then what makes it a throwaway VM: overlays for disks, an agent, a name. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "backend/image.h"
#include "src/cli/image.h"
#include "src/cli/test.h"

#define DISK_CMDLINE "root=/dev/vda console=ttyS0 reboot=k panic=-1 quiet"

/* ---- what it is made from --------------------------------------------------------- */

static bool set(Config *cfg, const char *option, const char *value, GError **error)
{
    if (!value || config_set(cfg, config_option(option), value, error))
        return true;
    g_prefix_error(error, "--");
    return false;
}

/* In the notation of the command line, where a comma ends a value. */
static bool add_disk(Config *cfg, const char *path, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(path, ",", -1);
    g_autofree char *doubled = g_strjoinv(",,", parts);
    g_autofree char *value = g_strconcat("path=", doubled, NULL);

    return set(cfg, "disk", value, error);
}

/* The config.json of an image folder, by its name or path.  NULL: there is none. */
static char *find_folder(const char *image, GError **error)
{
    g_autofree char *config = g_build_filename(image, "config.json", NULL);

    if (!strchr(image, '/'))
        return images_find(image, error);
    return g_file_test(config, G_FILE_TEST_EXISTS) ? g_steal_pointer(&config) : NULL;
}

/* A path has a '/' in it; a plain word is an image's name, or else a disk's. */
static bool take_image(Config *cfg, const TestCell *c, GError **error)
{
    const char *image = c->value[TEST_IMAGE];
    g_autoptr(GError) why = NULL;
    g_autofree char *file = NULL;

    if (!image)
        return true;
    file = find_folder(image, &why);
    if (file)
        return config_load(cfg, file, error);
    if (!strchr(image, '/') && access(image, F_OK) < 0) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (!c->value[TEST_KERNEL])
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a disk: give the kernel that boots it too (--kernel, "
                    "--initrd), or the name of an image folder",
                    image);
    return add_disk(cfg, image, error) &&
           (c->value[TEST_CMDLINE] || set(cfg, "cmdline", DISK_CMDLINE, error));
}

static bool has_device(const Config *cfg, const char *option)
{
    for (unsigned i = 0; i < cfg->n_devices; i++)
        if (g_str_equal(cfg->devices[i].ops->option, option))
            return true;
    return false;
}

static bool fill(Config *cfg, const TestCell *c, GError **error)
{
    if (!take_image(cfg, c, error))
        return false;
    for (int k = TEST_KERNEL; k < TEST_KEYS; k++)
        if (!set(cfg, test_keys[k], c->value[k], error))
            return false;
    if (!cfg->kernel)
        return fail(error, VM_ERROR_INVALID,
                    "there is no kernel to boot; give --image NAME ('hutch run' lists "
                    "them) or --kernel FILE");
    return has_device(cfg, "net") || set(cfg, "net", "user", error);
}

bool test_config_make(TestCell *c, GError **error)
{
    c->config = config_new();
    return fill(c->config, c, error);
}

/* ---- overlays --------------------------------------------------------------------- */

static int choice(const json_t *disk, const char *key, const char *const *names)
{
    const char *text = json_string_value(json_object_get(disk, key));

    for (int i = 0; text && names[i]; i++)
        if (g_str_equal(names[i], text))
            return i;
    return 0;
}

/* Opens the image as its own options have it: below the overlay, what it names is
 * followed, so this is where it is refused. */
static bool look_at_base(const json_t *disk, const char *path, int format, GError **error)
{
    const BlockOptions options = {
        .path = (char *)path,
        .format = format,
        .readonly = true,
        .lock = true,
        .cache = BLOCK_CACHE_WRITEBACK,
        .backing = choice(disk, "backing", block_backing_names)};
    g_autoptr(BlockImage) img = image_open(&options, 0, error);

    return img != NULL;
}

static bool make_overlay(const json_t *disk, const char *overlay, GError **error)
{
    const char *path = json_string_value(json_object_get(disk, "path"));
    int format = image_format_by_name(choice(disk, "format", block_format_names), path);
    g_autofree char *absolute = strstr(path, "://") ? g_strdup(path)
                                                    : g_canonicalize_filename(path, NULL);
    ImageCreate *how;
    bool ok;

    if (!look_at_base(disk, absolute, format, error))
        return false;
    how = param_new(&image_create_params);
    how->path = g_strdup(overlay);
    how->format = BLOCK_FORMAT_QCOW2;
    how->backing = g_steal_pointer(&absolute);
    how->backing_format = g_strdup(block_format_names[format]);
    ok = image_create(how, error);
    param_free(&image_create_params, how);
    return ok;
}

/* Nothing of it is kept, so flushes need not be waited for. */
static void throw_away(json_t *disk)
{
    json_object_set_new(disk, "cache", json_string("unsafe"));
    json_object_del(disk, "aio"); /* one of them wants another cache */
}

void test_throwaway_disks(json_t *config)
{
    json_t *disk;
    size_t i;

    json_array_foreach(json_object_get(config, "disk"), i,
                       disk) if (!json_is_true(json_object_get(disk, "readonly")))
        throw_away(disk);
}

bool test_overlay_disks(json_t *config, const char *folder, GError **error)
{
    json_t *disk;
    size_t i;

    json_array_foreach(json_object_get(config, "disk"), i, disk)
    {
        g_autofree char *name = g_strdup_printf("disk%zu.qcow2", i);
        g_autofree char *overlay = g_build_filename(folder, name, NULL);

        if (json_is_true(json_object_get(disk, "readonly")))
            continue;
        if (!make_overlay(disk, overlay, error))
            return false;
        json_object_set_new(disk, "path", json_string(overlay));
        json_object_set_new(disk, "format", json_string("qcow2"));
        json_object_set_new(disk, "backing", json_string("on"));
        throw_away(disk);
    }
    return true;
}

/* ---- the monitor's file ----------------------------------------------------------- */

static bool add_share(json_t *config, const char *share, GError **error)
{
    g_autofree char *folder = g_canonicalize_filename(share, NULL);
    json_t *list = json_object_get(config, "share");

    if (!g_file_test(folder, G_FILE_TEST_IS_DIR))
        return fail(error, VM_ERROR_INVALID, "--share: '%s' is no folder", share);
    if (!list) {
        list = json_array();
        json_object_set_new(config, "share", list);
    }
    return json_array_append_new(
               list, json_pack("{s:s, s:s}", "folder", folder, "tag", TEST_TAG)) == 0 ||
           fail(error, VM_ERROR_INVALID, "--share: the path '%s' is not UTF-8", folder);
}

static bool finish(json_t *config, const TestOptions *options, const char *folder,
                   const char *vm, GError **error)
{
    json_object_set_new(config, "name", json_string(vm));
    json_object_set_new(config, "agent", json_true());
    json_object_set_new(config, "json", json_true());
    json_object_set_new(config, "no-reboot", json_true());
    return (!options->share || add_share(config, options->share, error)) &&
           test_overlay_disks(config, folder, error);
}

char *test_config_write(const TestCell *c, const TestOptions *options, const char *folder,
                        const char *vm, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "config.json", NULL);
    json_t *config = config_to_json(c->config);
    bool ok = finish(config, options, folder, vm, error);

    if (ok && json_dump_file(config, path, JSON_INDENT(2)) < 0)
        ok = fail_errno(error, "write '%s'", path);
    json_decref(config);
    return ok ? g_steal_pointer(&path) : NULL;
}
