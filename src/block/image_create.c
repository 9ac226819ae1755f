/* Making an image: complete under its name, or not there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "image_private.h"
#include "util/bits.h"
#include "util/fd.h"

const char *const image_compat_names[] = {"0.10", "1.1", NULL};
const char *const image_compression_names[] = {"zlib", "zstd", NULL};
const char *const image_preallocation_names[] = {"off", "metadata", "falloc", "full",
                                                 NULL};

#define MAX_IMAGE_SIZE (1ull << 61)

static bool check(void *options, GError **error)
{
    const ImageCreate *how = options;

    if (how->size % BLOCK_SECTOR)
        return fail(error, VM_ERROR_INVALID,
                    "size: %" G_GUINT64_FORMAT " bytes are not whole sectors of %d",
                    how->size, BLOCK_SECTOR);
    if (!is_pow2(how->cluster_size))
        return fail(error, VM_ERROR_INVALID, "cluster_size must be a power of two");
    if (!is_pow2(how->refcount_bits))
        return fail(error, VM_ERROR_INVALID, "refcount_bits must be a power of two");
    return true;
}

static const ParamDesc desc[] = {
    {.key = "path",
     .type = PARAM_PATH,
     .offset = offsetof(ImageCreate, path),
     .arg = "FILE",
     .help = "the new image",
     .required = true},
    {.key = "size",
     .type = PARAM_SIZE,
     .offset = offsetof(ImageCreate, size),
     .max = MAX_IMAGE_SIZE,
     .arg = "SIZE",
     .help = "of the disk; 0: that of the backing image"},
    {.key = "format",
     .type = PARAM_ENUM,
     .offset = offsetof(ImageCreate, format),
     .choices = block_format_names,
     .def = "auto",
     .help = "auto: by the name, .qcow2 is qcow2 and all else raw"},
    {.key = "backing_file",
     .type = PARAM_STRING,
     .offset = offsetof(ImageCreate, backing),
     .arg = "FILE",
     .help = "image that shows where the new one has nothing"},
    {.key = "backing_fmt",
     .type = PARAM_STRING,
     .offset = offsetof(ImageCreate, backing_format),
     .arg = "raw|qcow2",
     .help = "its format (default: by its name)"},
    {.key = "cluster_size",
     .type = PARAM_SIZE,
     .offset = offsetof(ImageCreate, cluster_size),
     .def = "64K",
     .min = 512,
     .max = 2 * MIB,
     .arg = "SIZE",
     .help = "unit of allocation"},
    {.key = "refcount_bits",
     .type = PARAM_UINT,
     .offset = offsetof(ImageCreate, refcount_bits),
     .def = "16",
     .min = 1,
     .max = 64,
     .arg = "N",
     .help = "width of a reference count"},
    {.key = "compat",
     .type = PARAM_ENUM,
     .offset = offsetof(ImageCreate, compat),
     .choices = image_compat_names,
     .def = "1.1",
     .help = "0.10: for programs that know version 2 only"},
    {.key = "lazy_refcounts",
     .type = PARAM_BOOL,
     .offset = offsetof(ImageCreate, lazy_refcounts),
     .help = "write reference counts late; a crash makes a check necessary"},
    {.key = "extended_l2",
     .type = PARAM_BOOL,
     .offset = offsetof(ImageCreate, extended_l2),
     .help = "32 subclusters in each cluster"},
    {.key = "data_file",
     .type = PARAM_STRING,
     .offset = offsetof(ImageCreate, data_file),
     .arg = "FILE",
     .help = "keep the guest's data in a file of its own"},
    {.key = "data_file_raw",
     .type = PARAM_BOOL,
     .offset = offsetof(ImageCreate, data_file_raw),
     .help = "that file is a valid raw image at any time"},
    {.key = "compression_type",
     .type = PARAM_ENUM,
     .offset = offsetof(ImageCreate, compression),
     .choices = image_compression_names,
     .def = "zlib",
     .help = "of compressed clusters"},
    {.key = "preallocation",
     .type = PARAM_ENUM,
     .offset = offsetof(ImageCreate, preallocation),
     .choices = image_preallocation_names,
     .def = "off",
     .help = "take the space now"},
    {0},
};
const ParamTable image_create_params = {
    .size = sizeof(ImageCreate), .desc = desc, .check = check};

/* ---- the backing image ----------------------------------------------------------------
 */

/* Fills in what was left open: its format, and the size of the new disk by it. */
static bool look_at_backing(ImageCreate *how, GError **error)
{
    BlockImage place = {.path = how->path};
    g_autofree char *path = image_relative_path(&place, how->backing);
    BlockOptions below = {.path = path,
                          .readonly = true,
                          .lock = true,
                          .backing = BLOCK_BACKING_ON,
                          .cache = BLOCK_CACHE_WRITEBACK};
    g_autoptr(BlockImage) img = NULL;

    if (!how->backing_format)
        how->backing_format = g_strdup(
            image_format_ops(BLOCK_FORMAT_AUTO, how->backing)->name);
    if (how->unsafe_backing)
        return how->size || fail(error, VM_ERROR_INVALID,
                                 "'%s': give a size, since its backing image is not "
                                 "looked at",
                                 how->path);
    for (int i = BLOCK_FORMAT_RAW; block_format_names[i]; i++)
        if (g_str_equal(how->backing_format, block_format_names[i]))
            below.format = i;
    if (below.format == BLOCK_FORMAT_AUTO)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': a backing image is raw or qcow2, not '%s'", how->path,
                    how->backing_format);
    img = image_open(&below, IMAGE_NO_BACKING, error);
    if (!img) {
        g_prefix_error(error, "'%s', its backing image: ", how->path);
        return false;
    }
    if (!how->size)
        how->size = image_size(img);
    return true;
}

/* ---- the file -------------------------------------------------------------------------
 */

static bool write_image(const ImageCreate *how, const FormatOps *format, const char *path,
                        GError **error)
{
    const BlockOptions options = {.path = (char *)path, .cache = BLOCK_CACHE_WRITEBACK};
    g_autoptr(BlockFile) file = block_file_open(&options, error);

    if (!file || !format->create(file, how, error))
        return false;
    if (how->backing && !how->unsafe_backing)
        image_mark_backing(file, how->backing);
    if (how->overwrite) { /* what is there now may be worth more than nothing */
        errno = block_file_flush(file);
        return !errno || fail_errno(error, "'%s': write it to the disk", how->path);
    }
    /* An empty image is not flushed: it holds nothing that a power cut could lose, and
     * the first flush of what is written to it makes all of it durable. */
    return true;
}

static bool give_name(const ImageCreate *how, const char *temporary, GError **error)
{
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, how->path,
                  how->overwrite ? 0 : RENAME_NOREPLACE) == 0)
        return true;
    if (errno == EEXIST)
        return fail(error, VM_ERROR_BUSY,
                    "'%s' exists already: remove it, or choose another name", how->path);
    return fail_errno(error, "'%s': give the new image its name", how->path);
}

static bool create(const ImageCreate *how, GError **error)
{
    const FormatOps *format = image_format_ops(how->format, how->path);
    g_autofree char *temporary = g_strdup_printf("%s.new-%d", how->path, getpid());
    autofd fd = -1;

    if (block_path_is_nbd(how->path))
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s' is an NBD export: it is there or not, and is not made by hutch",
                    how->path);
    if (!how->overwrite && access(how->path, F_OK) == 0)
        return fail(error, VM_ERROR_BUSY,
                    "'%s' exists already: remove it, or choose another name", how->path);
    unlink(temporary); /* of a process that had our number and was killed */
    fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail_errno(error, "'%s': make it", how->path);
    if (write_image(how, format, temporary, error) && give_name(how, temporary, error))
        return true;
    unlink(temporary);
    return false;
}

bool image_create(const ImageCreate *given, GError **error)
{
    ImageCreate how = *given;
    bool ok;

    how.backing_format = g_strdup(given->backing_format);
    if (how.backing && image_format_ops(how.format, how.path) == &raw_format)
        ok = fail(error, VM_ERROR_INVALID,
                  "'%s': a raw image cannot have a backing image; use format=qcow2",
                  how.path);
    else
        ok = (!how.backing || look_at_backing(&how, error)) && create(&how, error);
    g_free(how.backing_format);
    return ok;
}
