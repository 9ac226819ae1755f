/* hutch image create, and resize. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/image.h"

/* ---- create ----------------------------------------------------------------------- */

typedef struct CreateArgs {
    ImageArgs common;
    char *backing_file, *backing_format;
    bool unsafe;
    char **options;
} CreateArgs;

static const ParamDesc create_desc[] = {
    IMAGE_ARG_FORMAT(
        "of the new image; auto: by its name, .qcow2 is qcow2, all else raw"),
    {.key = "backing-file",
     .letter = 'b',
     .type = PARAM_STRING,
     .offset = offsetof(CreateArgs, backing_file),
     .arg = "FILE",
     .help = "make an overlay of this image"},
    {.key = "backing-format",
     .letter = 'F',
     .type = PARAM_STRING,
     .offset = offsetof(CreateArgs, backing_format),
     .arg = "raw|qcow2",
     .help = "its format (default: by its name)"},
    {.key = "unsafe",
     .letter = 'u',
     .type = PARAM_BOOL,
     .offset = offsetof(CreateArgs, unsafe),
     .help = "do not look at the backing image, which need not exist yet"},
    {.key = "options",
     .letter = 'o',
     .type = PARAM_LIST,
     .offset = offsetof(CreateArgs, options),
     .arg = "KEY=VALUE",
     .keys = &image_create_params,
     .help = "more about the new image"},
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_create_args = {.size = sizeof(CreateArgs), .desc = create_desc};

static void add_key(GString *out, const char *key, const char *value)
{
    g_auto(GStrv) parts = value ? g_strsplit(value, ",", -1) : NULL;
    g_autofree char *doubled = parts ? g_strjoinv(",,", parts) : NULL;

    if (doubled)
        g_string_append_printf(out, "%s%s=%s", out->len ? "," : "", key, doubled);
}

ImageCreate *image_create_parse(const char *path, int format, const char *size,
                                const char *backing, const char *backing_format,
                                char **options, GError **error)
{
    ImageCreate *how = param_new(&image_create_params);
    g_autoptr(GString) text = g_string_new(NULL);

    add_key(text, "path", path);
    add_key(text, "format",
            format != BLOCK_FORMAT_AUTO ? block_format_names[format] : NULL);
    add_key(text, "size", size);
    add_key(text, "backing_file", backing);
    add_key(text, "backing_fmt", backing_format);
    for (unsigned i = 0; options && options[i]; i++)
        g_string_append_printf(text, ",%s", options[i]);
    how->overwrite = true;
    if (param_parse(&image_create_params, how, text->str, error))
        return how;
    g_prefix_error(error, "'%s': ", path);
    param_free(&image_create_params, how);
    return NULL;
}

static bool create(ImageCreate *how, const CreateArgs *args, GError **error)
{
    Target old;
    bool ok;

    how->unsafe_backing = args->unsafe;
    if (!how->size && !how->backing)
        return fail(error, VM_ERROR_INVALID,
                    "'%s': how large? give a size after the name, as 10G", how->path);
    ok = target_begin(&old, how->path, error);
    if (ok && !how->backing) { /* a link leads to the file that is meant */
        g_free(how->path);
        how->path = g_strdup(old.path);
    }
    /* image_create() has a temporary name of its own: the old file is only held. */
    ok = ok && image_create(how, error);
    old.in_place = true;
    target_clear(&old);
    return ok;
}

bool image_act_create(void *options, char **names, int *status, GError **error)
{
    const CreateArgs *args = options;
    ImageCreate *how = image_create_parse(names[0], args->common.format, names[1],
                                          args->backing_file, args->backing_format,
                                          args->options, error);
    bool ok = how && create(how, args, error);

    param_free(&image_create_params, how);
    return ok;
}

/* ---- resize ----------------------------------------------------------------------- */

typedef struct ResizeArgs {
    ImageArgs common;
    bool shrink;
    int preallocation;
} ResizeArgs;

static const ParamDesc resize_desc[] = {
    IMAGE_ARG_FORMAT("of the image"),
    IMAGE_ARG_BACKING,
    {.key = "shrink",
     .type = PARAM_BOOL,
     .offset = offsetof(ResizeArgs, shrink),
     .help = "make it smaller all the same: what is beyond the new end is lost"},
    {.key = "preallocation",
     .type = PARAM_ENUM,
     .offset = offsetof(ResizeArgs, preallocation),
     .choices = image_preallocation_names,
     .def = "off",
     .help = "full: write the new part with zeroes, so that its space is there"},
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_resize_args = {.size = sizeof(ResizeArgs), .desc = resize_desc};

static bool new_size(const char *text, uint64_t old, uint64_t *ret, GError **error)
{
    bool less = *text == '-', more = *text == '+';
    uint64_t v;

    if (!param_parse_size(text + (less || more), &v, error))
        return false;
    if ((less && v >= old) || (more && __builtin_add_overflow(old, v, &v)))
        return fail(error, VM_ERROR_INVALID,
                    "%s is not possible: the disk has %" G_GUINT64_FORMAT " bytes", text,
                    old);
    *ret = less ? old - v : v;
    return *ret % BLOCK_SECTOR == 0 ||
           fail(error, VM_ERROR_INVALID,
                "%" G_GUINT64_FORMAT " bytes are not whole sectors of %d", *ret,
                BLOCK_SECTOR);
}

/* In pieces, so that no list of a whole disk's clusters is made. */
static bool fill(BlockImage *img, uint64_t from, uint64_t to, GError **error)
{
    enum { PIECE = 64 << 20 };

    for (uint64_t at = from; at < to && !interrupt_signal(); at += PIECE) {
        errno = image_zero(img, at, MIN(PIECE, to - at), false);
        if (errno)
            return fail_errno(error, "'%s': write zeroes at %" G_GUINT64_FORMAT,
                              image_path(img), at);
    }
    return true;
}

static bool resize(BlockImage *img, const ResizeArgs *args, const char *text,
                   GError **error)
{
    uint64_t old = image_size(img), size = 0;

    if (!new_size(text, old, &size, error)) {
        g_prefix_error(error, "'%s': ", image_path(img));
        return false;
    }
    if (size < old && !args->shrink)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' would lose the last %" G_GUINT64_FORMAT
                    " of its %" G_GUINT64_FORMAT
                    " bytes: add --shrink if that is what you want",
                    image_path(img), old - size, old);
    if (args->preallocation != IMAGE_PREALLOC_OFF &&
        args->preallocation != IMAGE_PREALLOC_FULL)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "--preallocation is off or full when an image grows");
    return image_resize(img, size, error) &&
           (args->preallocation == IMAGE_PREALLOC_OFF || fill(img, old, size, error));
}

bool image_act_resize(void *options, char **names, int *status, GError **error)
{
    const ResizeArgs *args = options;
    g_autoptr(BlockImage)
        img = image_open_for(&args->common, names[0], args->common.format,
                             BLOCK_CACHE_WRITEBACK, false, 0, error);

    if (!img || !resize(img, args, names[1], error))
        return false;
    if (!image_finish(g_steal_pointer(&img), error))
        return false;
    if (!args->common.quiet)
        puts("Image resized.");
    return true;
}
