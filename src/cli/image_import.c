/* hutch image import: disks of other hypervisors, by driving qemu-img; whole VMs are in
 * image_appliance.c. */
#include "src/cli/image_import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const ParamDesc import_desc[] = {
    {.key = "format",
     .letter = 'f',
     .type = PARAM_STRING,
     .offset = offsetof(ImportArgs, format),
     .arg = "FORMAT",
     .help = "of the disk, as qemu-img calls it (default: by its name)"},
    {IMAGE_ARG("target-format", 'O', PARAM_ENUM, target_format),
     .choices = block_format_names, .def = "auto",
     .help = "of the new images; auto: by the name, and qcow2 for a VM's"},
    {.key = "name",
     .type = PARAM_STRING,
     .offset = offsetof(ImportArgs, name),
     .arg = "NAME",
     .help = "put a VM into the image folder, to be started by 'hutch run NAME'"},
    {IMAGE_ARG("backing", 0, PARAM_ENUM, backing), .choices = block_backing_names,
     .def = "auto",
     .help = "on: a disk may refer to files outside of its folder, and to a parent"},
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_import_args = {.size = sizeof(ImportArgs), .desc = import_desc};

#define QEMU_IMG_PACKAGE "qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, SUSE)"

/* ---- which format ----------------------------------------------------------------- */

static const struct {
    const char *suffix, *format;
} by_name[] = {{".vmdk", "vmdk"}, {".vhdx", "vhdx"},    {".vhd", "vpc"},
               {".vpc", "vpc"},   {".vdi", "vdi"},      {".qcow2", "qcow2"},
               {".qcow", "qcow"}, {".qed", "qed"},      {".hds", "parallels"},
               {".dmg", "dmg"},   {".hdd", "parallels"}};

const char *import_format_of(const char *path)
{
    g_autofree char *lower = g_ascii_strdown(path, -1);

    for (unsigned i = 0; i < G_N_ELEMENTS(by_name); i++)
        if (g_str_has_suffix(lower, by_name[i].suffix))
            return by_name[i].format;
    return NULL;
}

/* ---- what a disk refers to -------------------------------------------------------- */

enum { MAX_INFO = 1 << 20 };

static bool keep_text(void *opaque, const char *data, size_t len, GError **error)
{
    GString *text = opaque;

    if (text->len + len > MAX_INFO)
        return fail(error, VM_ERROR_CORRUPT, "its description is too long");
    g_string_append_len(text, data, (gssize)len);
    return true;
}

static json_t *ask_info(const char *path, const char *format, GError **error)
{
    const char *argv[] = {"qemu-img", "info", "--output=json", "-f", format, path, NULL};
    g_autoptr(GString) text = g_string_new(NULL);
    json_t *info;

    if (!program_run(argv, QEMU_IMG_PACKAGE, keep_text, text, NULL, error))
        return NULL;
    info = json_loadb(text->str, text->len, 0, NULL);
    if (!info)
        fail(error, VM_ERROR_CORRUPT, "qemu-img described it in no way known");
    return info;
}

static bool same_folder(const char *path, const char *other)
{
    g_autofree char *full = g_canonicalize_filename(other, NULL);
    g_autofree char *a = g_path_get_dirname(path), *b = g_path_get_dirname(full);
    struct stat st;

    return g_str_equal(a, b) && lstat(full, &st) == 0 && S_ISREG(st.st_mode);
}

/* qemu-img follows a qcow2's data file as soon as it looks at it, and so is not let near
 * one that our own opener refuses. */
static bool check_qcow2(const char *path, const char *format, bool alone, GError **error)
{
    const BlockOptions options = {.path = (char *)path,
                                  .format = BLOCK_FORMAT_QCOW2,
                                  .readonly = true,
                                  .cache = BLOCK_CACHE_WRITEBACK,
                                  .lock = true,
                                  .backing = BLOCK_BACKING_OFF};
    g_autoptr(BlockImage) img = NULL;

    if (strcmp(format, "qcow2"))
        return true;
    img = image_open(&options, 0, error);
    if (!img && !alone)
        g_prefix_error(error, "without --backing on, ");
    return img != NULL;
}

/* A disk may name other files: parts, its data, and a parent.  Whoever made it could name
 * any file that we can read. */
static bool check_references(const char *path, json_t *info, bool alone, GError **error)
{
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    json_t *extents = json_object_get(data, "extents");
    json_t *data_file = json_object_get(data, "data-file");
    const char *parent = json_string_value(json_object_get(info, "backing-filename"));
    json_t *extent;
    size_t i;

    if (data_file)
        return fail(error, VM_ERROR_INVALID, "its data is in another file, '%s'%s",
                    json_is_string(data_file) ? json_string_value(data_file) : "?",
                    alone ? "" : ": add --backing on if you trust it");
    if (parent)
        return fail(error, VM_ERROR_INVALID,
                    "it is a difference to another disk, '%s': merge the snapshots where "
                    "it comes from%s",
                    parent, alone ? "" : ", or add --backing on if you trust it");
    json_array_foreach(extents, i, extent)
    {
        const char *part = json_string_value(json_object_get(extent, "filename"));

        if (!part || (alone ? !g_str_equal(part, path) : !same_folder(path, part)))
            return fail(error, VM_ERROR_INVALID, "it has a part in another file, '%s'%s",
                        part ? part : "?",
                        alone ? "" : ": add --backing on if you trust it");
    }
    return true;
}

/* ---- converting ------------------------------------------------------------------- */

/* qemu-img -p prints "    (12.34/100%)\r". */
static bool hear_progress(void *opaque, const char *data, size_t len, GError **error)
{
    Progress *p = opaque;

    for (size_t i = 0; p && i < len; i++)
        if (data[i] == '(') {
            char number[16] = "";
            double percent;

            memcpy(number, data + i + 1, MIN(len - i - 1, sizeof(number) - 1));
            percent = CLAMP(g_ascii_strtod(number, NULL), 0, 100);
            atomic_store(&p->done, (uint64_t)(percent / 100 * (double)p->total));
        }
    return true;
}

static bool run_convert(const ImportArgs *args, const char *path, const char *format,
                        const char *to, const char *to_format, uint64_t size,
                        GError **error)
{
    const char *argv[] = {"qemu-img", "convert", "-p", "-f", format,
                          "-O",       to_format, path, to,   NULL};
    Progress progress;
    bool ok;

    progress_begin(&progress, &args->common, "import", size);
    ok = program_run(argv, QEMU_IMG_PACKAGE, hear_progress, &progress, &progress, error);
    progress_end(&progress);
    return ok;
}

bool import_disk(const ImportArgs *args, const char *path, const char *format,
                 const char *to, int to_format, bool alone, GError **error)
{
    /* An absolute name is no protocol of qemu-img's, whatever is in it. */
    g_autofree char *full = g_canonicalize_filename(path, NULL);
    g_autofree char *full_to = g_canonicalize_filename(to, NULL);
    bool trusted = !alone && args->common.backing == BLOCK_BACKING_ON;
    json_t *info = trusted || check_qcow2(full, format, alone, error)
                       ? ask_info(full, format, error)
                       : NULL;
    uint64_t size = (uint64_t)json_integer_value(json_object_get(info, "virtual-size"));
    bool ok = info && (trusted || check_references(full, info, alone, error)) &&
              run_convert(args, full, format, full_to, block_format_names[to_format],
                          size, error);

    json_decref(info);
    if (!ok)
        g_prefix_error(error, "'%s': ", path);
    return ok;
}

static bool import_single(const ImportArgs *args, const char *path, const char *to,
                          GError **error)
{
    const char *format = args->format ? args->format : import_format_of(path);
    Target t;
    bool ok;

    if (!to || args->name)
        return fail(error, VM_ERROR_INVALID, "'%s' is a disk%s", path,
                    to ? ", and --name is for VMs" : ": give the new image's name too");
    if (!format)
        return fail(
            error, VM_ERROR_INVALID,
            "'%s': its name does not say what it is: add -f vmdk, vhdx, vpc (VHD) "
            "or vdi",
            path);
    ok = target_begin(&t, to, error);
    if (ok && t.in_place)
        ok = fail(error, VM_ERROR_INVALID,
                  "'%s' is no file: import into one, then use 'hutch image convert'", to);
    ok = ok &&
         import_disk(args, path, format, t.temporary,
                     image_format_by_name(args->common.target_format, t.path), false,
                     error) &&
         target_commit(&t, error);
    target_clear(&t);
    return ok;
}

bool image_act_import(void *options, char **names, int *status, GError **error)
{
    const ImportArgs *args = options;
    g_autofree char *lower = g_ascii_strdown(names[0], -1);

    interrupt_watch();
    if (!args->format && g_str_has_suffix(lower, ".ova"))
        return import_appliance(args, names[0], true, names[1], error);
    if (!args->format && g_str_has_suffix(lower, ".ovf"))
        return import_appliance(args, names[0], false, names[1], error);
    return import_single(args, names[0], names[1], error);
}
