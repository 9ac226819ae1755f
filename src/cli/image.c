/* hutch image: the verbs there, and what they share. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/cli/image.h"
#include "util/bits.h"

const char *const image_output_names[] = {"human", "json", NULL};

static const ExitStatus check_statuses[] = {
    {"0", "the image is all right, or is so now"},
    {"1", "the check could not be carried out"},
    {"2", "the image has errors"},
    {"3", "the image has leaks, and no errors"},
    {"63", "the format has nothing to check"},
    {"125", "the arguments make no sense"},
    {0},
};
static const ExitStatus compare_statuses[] = {
    {"0", "the images show the same"},
    {"1", "they differ"},
    {"125", "the comparison could not be carried out"},
    {0},
};

const Verb image_verbs[] = {
    {.name = "create",
     .args = "[OPTION]... FILE [SIZE]",
     .help = "make an image",
     .act = image_act_create,
     .params = &image_create_args,
     .min_names = 1,
     .max_names = 2,
     .names = NAMES_FILES,
     .about =
         "With -b it is an overlay: it shows what the backing image shows until it is "
         "written to, and takes that one's size if none is given.  A relative name "
         "counts from the new image's folder.  An image of that name is replaced, "
         "unless it is in use."},
    {.name = "info",
     .args = "[OPTION]... FILE",
     .help = "say what an image is",
     .act = image_act_info,
     .params = &image_info_args,
     .min_names = 1,
     .max_names = 1,
     .names = NAMES_FILES},
    {.name = "check",
     .args = "[OPTION]... FILE",
     .help = "look for errors in an image, and repair them",
     .act = image_act_check,
     .params = &image_check_args,
     .min_names = 1,
     .max_names = 1,
     .names = NAMES_FILES,
     .statuses = check_statuses},
    {.name = "convert",
     .args = "[OPTION]... FILE NEWFILE",
     .help = "copy what an image shows into another one",
     .act = image_act_convert,
     .params = &image_convert_args,
     .min_names = 2,
     .max_names = 2,
     .names = NAMES_FILES,
     .about =
         "The new image is made under a temporary name, NEWFILE.partial-..., and gets "
         "its own when it is complete and on the disk; if it fails or is interrupted, "
         "nothing is left.  A file of that name is replaced, unless it is in use.  A "
         "block device or an NBD export is written in place."},
    {.name = "import",
     .args = "[OPTION]... FILE NEWFILE|FOLDER",
     .help = "take a disk or a whole VM from VMware, Hyper-V or VirtualBox",
     .act = image_act_import,
     .params = &image_import_args,
     .min_names = 1,
     .max_names = 2,
     .names = NAMES_FILES,
     .about =
         "A disk (VMDK, VHDX, VHD, VDI and whatever else qemu-img reads) becomes the "
         "image NEWFILE; qemu-img must be installed.\n\n"
         "A VM (OVA or OVF) becomes a FOLDER with its disks and a config.json for "
         "'hutch run --config'; with --name it is put into the image folder, for "
         "'hutch run NAME'.  What hutch cannot do of what the VM had is said."},
    {.name = "resize",
     .args = "[OPTION]... FILE [+|-]SIZE",
     .help = "change the size of an image's disk",
     .act = image_act_resize,
     .params = &image_resize_args,
     .min_names = 2,
     .max_names = 2,
     .names = NAMES_FILES},
    {.name = "rebase",
     .args = "[OPTION]... FILE",
     .help = "give an overlay another backing image",
     .act = image_act_rebase,
     .params = &image_rebase_args,
     .min_names = 1,
     .max_names = 1,
     .names = NAMES_FILES,
     .about =
         "What the old and the new backing image show differently is copied into the "
         "overlay first, so that it shows the same as before.  With -u only the name "
         "is changed."},
    {.name = "commit",
     .args = "[OPTION]... FILE",
     .help = "write what an overlay has into its backing image",
     .act = image_act_commit,
     .params = &image_commit_args,
     .min_names = 1,
     .max_names = 1,
     .names = NAMES_FILES},
    {.name = "map",
     .args = "[OPTION]... FILE",
     .help = "list where in which file an image's data is",
     .act = image_act_map,
     .params = &image_map_args,
     .min_names = 1,
     .max_names = 1,
     .names = NAMES_FILES},
    {.name = "compare",
     .args = "[OPTION]... FILE FILE",
     .help = "say whether two images show the same",
     .act = image_act_compare,
     .params = &image_compare_args,
     .min_names = 2,
     .max_names = 2,
     .names = NAMES_FILES,
     .about = "If one is longer, the rest of it must read as zeroes.",
     .statuses = compare_statuses},
    {.name = "snapshot",
     .args = "[OPTION]... FILE",
     .help = "list, make, apply or delete snapshots inside an image",
     .act = image_act_snapshot,
     .params = &image_snapshot_args,
     .min_names = 1,
     .max_names = 1,
     .names = NAMES_FILES},
    {0},
};

/* ---- shared ----------------------------------------------------------------------- */

/* At most three digits, as qemu-img has it. */
char *image_size_text(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    unsigned i = 0;

    for (; v >= 999.5 && i + 1 < G_N_ELEMENTS(units); i++)
        v /= 1024;
    return g_strdup_printf("%.3g %s", v, units[i]);
}

bool image_wants_json(const ImageArgs *args)
{
    return args->json || args->output == OUTPUT_JSON;
}

/* Indented as qemu-img does. */
void image_print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(4));
    putchar('\n');
    json_decref(json);
}

BlockImage *image_open_for(const ImageArgs *args, const char *path, int format, int cache,
                           bool readonly, unsigned flags, GError **error)
{
    const BlockOptions options = {.path = (char *)path,
                                  .format = format,
                                  .readonly = readonly,
                                  .cache = cache,
                                  .lock = !args->force_share,
                                  .backing = args->backing};

    return image_open(&options, flags, error);
}

bool image_parse_format(const char *name, int *ret, GError **error)
{
    for (*ret = BLOCK_FORMAT_RAW; block_format_names[*ret]; ++*ret)
        if (g_str_equal(name, block_format_names[*ret]))
            return true;
    return fail(error, VM_ERROR_INVALID, "a backing image is raw or qcow2, not '%s'",
                name);
}

int image_format_by_name(int format, const char *path)
{
    if (format == BLOCK_FORMAT_AUTO)
        return g_str_has_suffix(path, ".qcow2") ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
    return format;
}

bool image_finish(BlockImage *img, GError **error)
{
    if (img && !image_readonly(img)) {
        errno = image_flush(img);
        if (errno) {
            fail_errno(error, "'%s': write it to the disk", image_path(img));
            image_free(img);
            return false;
        }
    }
    return image_close(img, error);
}

int image_find_extent(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret,
                      unsigned *ret_depth, bool *ret_present)
{
    int err;

    for (*ret_depth = 0;; ++*ret_depth, img = image_backing(img)) {
        if (offset >= image_size(img)) { /* a backing image that is shorter */
            *ret = (Extent){.kind = EXTENT_HOLE, .len = len};
            --*ret_depth;
            break;
        }
        err = image_extent(img, offset, MIN(len, image_size(img) - offset), ret);
        if (err)
            return err;
        if (ret->kind != EXTENT_HOLE || !image_backing(img))
            break;
        len = ret->len; /* it is a hole above for so long */
    }
    *ret_present = ret->kind != EXTENT_HOLE;
    if (ret->kind == EXTENT_HOLE)
        ret->kind = EXTENT_ZERO;
    return 0;
}

bool image_look_zero(BlockImage *img, uint64_t offset, uint64_t *len, bool *ret_zero,
                     unsigned *ret_depth, GError **error)
{
    bool present;
    Extent e;

    *ret_zero = true;
    *ret_depth = 0;
    if (!img || offset >= image_size(img))
        return true;
    errno = image_find_extent(img, offset, MIN(*len, image_size(img) - offset), &e,
                              ret_depth, &present);
    if (errno)
        return fail_errno(error, "'%s': look up what is at %" G_GUINT64_FORMAT,
                          image_path(img), offset);
    *ret_zero = e.kind == EXTENT_ZERO;
    *len = e.len;
    return true;
}

bool image_read_padded(BlockImage *img, uint64_t offset, uint8_t *buf, uint64_t len,
                       GError **error)
{
    uint64_t size = img ? image_size(img) : 0;
    uint64_t there = offset < size ? MIN(len, size - offset) : 0;

    errno = there ? image_read(img, offset, buf, there) : 0;
    if (errno)
        return fail_errno(error, "'%s': read at %" G_GUINT64_FORMAT, image_path(img),
                          offset);
    memset(buf + there, 0, len - there);
    return true;
}

unsigned image_depth_of(BlockImage *img, BlockImage *other)
{
    struct stat a, b;

    if (!other || stat(image_path(other), &b) < 0)
        return UINT_MAX;
    for (unsigned depth = 0; img; img = image_backing(img), depth++)
        if (stat(image_path(img), &a) == 0 && a.st_dev == b.st_dev &&
            a.st_ino == b.st_ino && !strcmp(image_format(img), image_format(other)))
            return depth;
    return UINT_MAX;
}

char *image_beside(const char *image, const char *name)
{
    g_autofree char *folder = g_path_get_dirname(image);

    if (g_path_is_absolute(name) || strstr(name, "://") || g_str_equal(folder, "."))
        return g_strdup(name);
    return g_build_filename(folder, name, NULL);
}

uint64_t image_unit(BlockImage *img)
{
    json_t *info = image_info(img);
    uint64_t size = (uint64_t)json_integer_value(json_object_get(info, "cluster-size"));

    json_decref(info);
    return is_pow2(size) && size <= WALK_CHUNK ? MAX(size, 4096) : 4096;
}
