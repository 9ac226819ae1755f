/* hutch image rebase: another backing image for an overlay that shows the same as before.
 *
 * First the overlay gets what the two backing images show differently, then the name in
 * it is changed.  Whenever that ends early, it shows the same through its old backing
 * image. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/image.h"

typedef struct RebaseArgs {
    ImageArgs common;
    char *backing_file, *backing_format;
    bool unsafe;
} RebaseArgs;

static const ParamDesc rebase_desc[] = {
    IMAGE_ARG_FORMAT("of the overlay"),
    {.key = "backing-file",
     .letter = 'b',
     .type = PARAM_STRING,
     .offset = offsetof(RebaseArgs, backing_file),
     .arg = "FILE",
     .help = "the new backing image, named from the overlay's folder; \"\": none"},
    {.key = "backing-format",
     .letter = 'F',
     .type = PARAM_STRING,
     .offset = offsetof(RebaseArgs, backing_format),
     .arg = "raw|qcow2",
     .help = "its format (default: by its name)"},
    {.key = "unsafe",
     .letter = 'u',
     .type = PARAM_BOOL,
     .offset = offsetof(RebaseArgs, unsafe),
     .help = "change the name and copy nothing: the images show the same, or one moved"},
    IMAGE_ARG_CACHE,
    IMAGE_ARG_SOURCE_CACHE,
    IMAGE_ARG_BACKING,
    IMAGE_ARG_THREADS,
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_rebase_args = {.size = sizeof(RebaseArgs), .desc = rebase_desc};

typedef struct Rebase {
    const RebaseArgs *args;
    BlockImage *img, *below; /* the overlay, and its new backing image or NULL */
    unsigned shared_depth;   /* of `below` in the old chain, under the overlay */
    uint64_t unit;
} Rebase;

static bool rebase_look(Walk *w, uint64_t offset, uint64_t len, WalkKind *kind,
                        uint64_t *ret_len, GError **error)
{
    Rebase *r = w->opaque;
    BlockImage *old = image_backing(r->img);
    bool old_zero, new_zero;
    unsigned depth, ignored;
    Extent own;

    errno = image_extent(r->img, offset, len, &own);
    if (errno)
        return fail_errno(error, "'%s': look up what is at %" G_GUINT64_FORMAT,
                          image_path(r->img), offset);
    len = own.len;
    *kind = WALK_SKIP;
    if (own.kind == EXTENT_HOLE) {
        if (!image_look_zero(old, offset, &len, &old_zero, &depth, error) ||
            !image_look_zero(r->below, offset, &len, &new_zero, &ignored, error))
            return false;
        if (!(old_zero && new_zero) && !(!old_zero && depth >= r->shared_depth))
            *kind = WALK_DATA;
    }
    *ret_len = len;
    return true;
}

static bool rebase_work(Walk *w, WalkKind kind, uint64_t offset, uint64_t len,
                        uint8_t *buf[2], GError **error)
{
    Rebase *r = w->opaque;

    /* The overlay and not its old backing image: a unit may be partly its own. */
    if (!image_read_padded(r->img, offset, buf[0], len, error) ||
        !image_read_padded(r->below, offset, buf[1], len, error))
        return false;
    for (uint64_t at = 0; at < len; at += r->unit) {
        uint64_t n = MIN(r->unit, len - at);

        if (!memcmp(buf[0] + at, buf[1] + at, n))
            continue;
        errno = is_zero(buf[0] + at, n)
                    ? image_zero(r->img, offset + at, n, true)
                    : image_write(r->img, offset + at, buf[0] + at, n);
        if (errno)
            return fail_errno(error, "'%s': write at %" G_GUINT64_FORMAT,
                              image_path(r->img), offset + at);
    }
    return true;
}

static bool copy_differences(Rebase *r, GError **error)
{
    const ImageArgs *args = &r->args->common;
    Progress progress;
    Walk w = {.size = image_size(r->img),
              .look = rebase_look,
              .work = rebase_work,
              .threads = (unsigned)args->threads,
              .progress = &progress,
              .opaque = r};
    bool ok;

    w.unit = r->unit = image_unit(r->img);
    progress_begin(&progress, args, "rebase", w.size);
    ok = walk_run(&w, error);
    progress_end(&progress);
    if (!ok)
        return false;
    errno = image_flush(r->img);
    return !errno || fail_errno(error, "'%s': write it to the disk", image_path(r->img));
}

/* ---- the images ------------------------------------------------------------------- */

static bool open_below(Rebase *r, int format, GError **error)
{
    g_autofree char *path = image_beside(image_path(r->img), r->args->backing_file);

    r->below = image_open_for(&r->args->common, path, format,
                              r->args->common.source_cache, true, 0, error);
    r->shared_depth = image_depth_of(image_backing(r->img), r->below);
    if (r->below && image_depth_of(r->below, r->img) != UINT_MAX)
        return fail(error, VM_ERROR_INVALID, "'%s' is above '%s' and cannot be below it",
                    image_path(r->img), path);
    return r->below != NULL;
}

static bool rebase(Rebase *r, GError **error)
{
    const RebaseArgs *args = r->args;
    const char *name = *args->backing_file ? args->backing_file : NULL;
    int format = BLOCK_FORMAT_AUTO;

    if (args->backing_format && !image_parse_format(args->backing_format, &format, error))
        return false;
    if (!args->unsafe &&
        ((name && !open_below(r, format, error)) || !copy_differences(r, error)))
        return false;
    if (format == BLOCK_FORMAT_AUTO)
        format = image_format_by_name(format, args->backing_file);
    return image_set_backing(r->img, name, name ? block_format_names[format] : NULL,
                             error);
}

bool image_act_rebase(void *options, char **names, int *status, GError **error)
{
    const RebaseArgs *args = options;
    Rebase r = {.args = args, .shared_depth = UINT_MAX};
    bool ok;

    if (!args->backing_file)
        return fail(error, VM_ERROR_INVALID,
                    "-b FILE is missing: the new backing image, or -b \"\" for none");
    interrupt_watch();
    r.img = image_open_for(&args->common, names[0], args->common.format,
                           args->common.cache, false, args->unsafe ? IMAGE_NO_BACKING : 0,
                           error);
    ok = r.img && rebase(&r, error) && image_finish(g_steal_pointer(&r.img), error);
    image_free(r.img);
    image_free(r.below);
    return ok;
}
