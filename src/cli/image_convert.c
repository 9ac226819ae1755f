/* hutch image convert: what one image shows becomes another image. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/image.h"
#include "util/bits.h"
#include "util/log.h"

typedef struct ConvertArgs {
    ImageArgs common;
    char **options;
    char *backing_file, *backing_format, *snapshot;
    uint64_t sparse;
    bool compress, no_create, target_is_zero, copy_range, salvage, any_order;
} ConvertArgs;

#define CONVERT_FLAG(key_, letter_, member_)                                             \
    .key = key_, .letter = letter_, .type = PARAM_BOOL,                                  \
    .offset = offsetof(ConvertArgs, member_)

static const ParamDesc convert_desc[] = {
    IMAGE_ARG_FORMAT("of the image that is read"),
    {IMAGE_ARG("target-format", 'O', PARAM_ENUM, target_format),
     .choices = block_format_names, .def = "auto",
     .help = "of the new image; auto: by its name"},
    {.key = "options",
     .letter = 'o',
     .type = PARAM_LIST,
     .offset = offsetof(ConvertArgs, options),
     .arg = "KEY=VALUE",
     .keys = &image_create_params,
     .help = "more about the new image"},
    {CONVERT_FLAG("compress", 'c', compress),
     .help = "compress each cluster (qcow2; by -o compression_type=zlib or zstd)"},
    {.key = "backing-file",
     .letter = 'B',
     .type = PARAM_STRING,
     .offset = offsetof(ConvertArgs, backing_file),
     .arg = "FILE",
     .help = "make the new image an overlay of this one, with what differs from it"},
    {.key = "backing-format",
     .letter = 'F',
     .type = PARAM_STRING,
     .offset = offsetof(ConvertArgs, backing_format),
     .arg = "raw|qcow2",
     .help = "its format (default: by its name)"},
    {.key = "snapshot",
     .letter = 'l',
     .type = PARAM_STRING,
     .offset = offsetof(ConvertArgs, snapshot),
     .arg = "NAME",
     .help = "read an internal snapshot of the image instead of its present"},
    {.key = "sparse",
     .letter = 'S',
     .type = PARAM_SIZE,
     .offset = offsetof(ConvertArgs, sparse),
     .def = "4K",
     .max = WALK_CHUNK,
     .help = "so many zeroes in a row are not written; 0: everything is"},
    {CONVERT_FLAG("no-create", 'n', no_create),
     .help = "write into an image that is there already, in place"},
    {CONVERT_FLAG("target-is-zero", 0, target_is_zero),
     .help = "with -n: it reads as zeroes already"},
    {CONVERT_FLAG("copy-range", 'C', copy_range),
     .help = "let the kernel copy within a file system, and do not look for zeroes"},
    {CONVERT_FLAG("salvage", 0, salvage),
     .help = "what cannot be read becomes zeroes, and is told"},
    {CONVERT_FLAG("any-order", 'W', any_order),
     .help = "accepted as by qemu-img: pieces are written in any order anyhow"},
    {IMAGE_ARG("cache", 't', PARAM_ENUM, cache), .choices = block_cache_names,
     .def = "auto",
     .help = "of the new image, as in --disk; auto: none where its file can, writeback "
             "for --compress"},
    IMAGE_ARG_SOURCE_CACHE,
    IMAGE_ARG_BACKING,
    IMAGE_ARG_SHARE,
    IMAGE_ARG_THREADS,
    IMAGE_ARG_RATE,
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_convert_args = {.size = sizeof(ConvertArgs), .desc = convert_desc};

typedef struct Convert {
    const ConvertArgs *args;
    BlockImage *from, *to;
    const char *name;      /* of `to`, as it was given */
    BlockImage *below;     /* what the new image will be an overlay of */
    unsigned shared_depth; /* of `below` in the chain of `from` */
    bool zero_target;      /* what is not written reads as zeroes */
    uint64_t grain;        /* zeroes are looked for in this unit; 0: not at all */
    atomic_uint refusals;  /* of the kernel to copy */
} Convert;

enum { MAX_REFUSALS = 8 }; /* then it is not asked again */

/* ---- the walk --------------------------------------------------------------------- */

static bool convert_look(Walk *w, uint64_t offset, uint64_t len, WalkKind *kind,
                         uint64_t *ret_len, GError **error)
{
    Convert *c = w->opaque;
    bool zero, below_zero = true;
    unsigned depth, ignored;

    if (!image_look_zero(c->from, offset, &len, &zero, &depth, error) ||
        (c->below &&
         !image_look_zero(c->below, offset, &len, &below_zero, &ignored, error)))
        return false;
    if (c->below && !zero && depth >= c->shared_depth)
        *kind = WALK_SKIP; /* it comes from `below` */
    else if (!zero || !c->args->sparse)
        *kind = WALK_DATA;
    else
        *kind = below_zero && c->zero_target ? WALK_SKIP : WALK_ZERO;
    *ret_len = len;
    return true;
}

static bool fail_write(Convert *c, int err, uint64_t offset, GError **error)
{
    errno = err;
    return fail_errno(error, "'%s': write at %" G_GUINT64_FORMAT, c->name, offset);
}

/* What cannot be read in one go is read sector by sector. */
static void salvage(Convert *c, uint64_t offset, uint8_t *buf, uint64_t len)
{
    for (uint64_t at = 0; at < len; at += BLOCK_SECTOR)
        if (image_read(c->from, offset + at, buf + at, BLOCK_SECTOR)) {
            memset(buf + at, 0, BLOCK_SECTOR);
            log_warn("'%s': the sector at %" G_GUINT64_FORMAT
                     " cannot be read, and becomes zeroes",
                     image_path(c->from), offset + at);
        }
}

static bool read_source(Convert *c, uint64_t offset, uint8_t *buf, uint64_t len,
                        GError **error)
{
    if (!c->args->salvage)
        return image_read_padded(c->from, offset, buf, len, error);
    if (image_read(c->from, offset, buf, len))
        salvage(c, offset, buf, len);
    return true;
}

typedef enum { GRAIN_SKIP, GRAIN_ZERO, GRAIN_DATA } Grain;

static Grain look_at_grain(const Convert *c, const uint8_t *data, const uint8_t *below,
                           uint64_t len)
{
    if (below && !memcmp(data, below, len))
        return GRAIN_SKIP;
    if (!c->grain || !is_zero(data, len))
        return GRAIN_DATA;
    return c->zero_target && !below ? GRAIN_SKIP : GRAIN_ZERO;
}

static int write_grains(Convert *c, Grain kind, uint64_t offset, const uint8_t *data,
                        uint64_t len)
{
    switch (kind) {
    case GRAIN_SKIP:
        return 0;
    case GRAIN_ZERO:
        return image_zero(c->to, offset, len, true);
    case GRAIN_DATA:
        return c->args->compress ? image_write_compressed(c->to, offset, data, len)
                                 : image_write(c->to, offset, data, len);
    }
    return EIO;
}

/* Writes a piece, neighbours of one kind together; compressed clusters go one by one. */
static bool write_piece(Convert *c, uint64_t offset, uint64_t len, const uint8_t *data,
                        const uint8_t *below, GError **error)
{
    uint64_t unit = c->grain ? c->grain : len, begin = 0;
    Grain kind = GRAIN_SKIP;
    int err = 0;

    for (uint64_t at = 0; at < len && !err; at += unit) {
        uint64_t n = MIN(unit, len - at);
        Grain next = look_at_grain(c, data + at, below ? below + at : NULL, n);

        if (next != kind || c->args->compress) {
            err = write_grains(c, kind, offset + begin, data + begin, at - begin);
            begin = at;
        }
        kind = next;
    }
    if (!err)
        err = write_grains(c, kind, offset + begin, data + begin, len - begin);
    return !err || fail_write(c, err, offset, error);
}

/* True: the kernel did it, or failed to. */
static bool copy_inside(Convert *c, uint64_t offset, uint64_t len, bool *ok,
                        GError **error)
{
    int err = ENOTSUP;

    if (c->below || c->args->compress || !c->args->sparse ||
        atomic_load(&c->refusals) >= MAX_REFUSALS)
        return false;
    err = image_copy_range(c->from, c->to, offset, len, c->args->copy_range);
    if (err == ENOTSUP)
        atomic_fetch_add(&c->refusals, 1);
    *ok = !err || (err != ENOTSUP && fail_write(c, err, offset, error));
    return err != ENOTSUP;
}

static bool convert_work(Walk *w, WalkKind kind, uint64_t offset, uint64_t len,
                         uint8_t *buf[2], GError **error)
{
    Convert *c = w->opaque;
    bool ok;
    int err;

    if (kind == WALK_ZERO) {
        err = image_zero(c->to, offset, len, true);
        return !err || fail_write(c, err, offset, error);
    }
    if (copy_inside(c, offset, len, &ok, error))
        return ok;
    return read_source(c, offset, buf[0], len, error) &&
           (!c->below || image_read_padded(c->below, offset, buf[1], len, error)) &&
           write_piece(c, offset, len, buf[0], c->below ? buf[1] : NULL, error);
}

static uint64_t round_to_pow2(uint64_t v)
{
    uint64_t p = BLOCK_SECTOR;

    while (p < v)
        p *= 2;
    return p;
}

static bool copy(Convert *c, GError **error)
{
    const ImageArgs *args = &c->args->common;
    uint64_t unit = image_unit(c->to);
    Progress progress;
    Walk w = {.size = image_size(c->from),
              .unit = unit,
              .look = convert_look,
              .work = convert_work,
              .threads = (unsigned)args->threads,
              .rate_limit = args->rate_limit,
              .progress = &progress,
              .opaque = c};
    bool ok;

    /* Less than a cluster cannot be left out. */
    if (c->args->sparse)
        c->grain = MAX(round_to_pow2(c->args->sparse), unit);
    if (c->args->compress)
        c->grain = unit;
    progress_begin(&progress, args, "convert", w.size);
    ok = walk_run(&w, error);
    progress_end(&progress);
    return ok;
}

/* ---- the images ------------------------------------------------------------------- */

static BlockImage *open_source(const ConvertArgs *args, const char *path, GError **error)
{
    g_autoptr(BlockImage) img = image_open_for(&args->common, path, args->common.format,
                                               args->common.source_cache, true, 0, error);

    if (img && args->snapshot && !image_snapshot_show(img, args->snapshot, error))
        return NULL;
    return g_steal_pointer(&img);
}

static bool check_target(Convert *c, const char *path, GError **error)
{
    uint64_t size = image_size(c->from);

    if (image_size(c->to) < size)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' has %" G_GUINT64_FORMAT
                    " bytes, too few for the %" G_GUINT64_FORMAT " of '%s'",
                    path, image_size(c->to), size, image_path(c->from));
    return !c->args->compress || strcmp(image_format(c->to), "raw") ||
           fail(error, VM_ERROR_INVALID,
                "'%s' is a raw image, which cannot be compressed: use -O qcow2", path);
}

static bool open_target(Convert *c, const char *path, int format, int backing,
                        GError **error)
{
    ImageArgs args = {.backing = backing};
    int cache = c->args->common.cache;

    /* O_DIRECT is several times as fast for whole clusters, as nothing has to be written
     * back in the end, and slower for the small pieces of compressed ones. */
    if (cache == BLOCK_CACHE_AUTO && c->args->compress)
        cache = BLOCK_CACHE_WRITEBACK;
    c->to = image_open_for(&args, path, format, cache, false, 0, error);
    return c->to && check_target(c, path, error);
}

/* `how` has the final path. */
static bool create_target(Convert *c, ImageCreate *how, const Target *t, GError **error)
{
    g_free(how->path);
    how->path = g_strdup(t->temporary);
    if (!how->size)
        how->size = image_size(c->from);
    c->zero_target = true;
    return image_create(how, error) &&
           /* What is below it was named on the command line, and is open as c->below. */
           open_target(c, t->temporary, how->format, BLOCK_BACKING_ON, error);
}

/* What the new image will be above, for comparison; named from that one's folder. */
static bool open_below(Convert *c, const ImageCreate *how, GError **error)
{
    int format = BLOCK_FORMAT_AUTO;
    g_autofree char *path = NULL;

    if (!how->backing)
        return true;
    path = image_beside(how->path, how->backing);
    if (how->backing_format && !image_parse_format(how->backing_format, &format, error))
        return false;
    c->below = image_open_for(&c->args->common, path, format,
                              c->args->common.source_cache, true, 0, error);
    c->shared_depth = image_depth_of(c->from, c->below);
    return c->below != NULL;
}

/* After a failure, which was told: what closing it has to say adds nothing. */
static void discard_target(Convert *c)
{
    image_close(g_steal_pointer(&c->to), NULL);
}

static bool finish_target(Convert *c, Target *t, GError **error)
{
    if (!image_finish(g_steal_pointer(&c->to), error))
        return false;
    t->unsafe = c->args->common.cache == BLOCK_CACHE_UNSAFE;
    return target_commit(t, error);
}

/* Block devices and NBD exports, and -n: what is there is written over. */
static bool convert_in_place(Convert *c, const char *path, int format, GError **error)
{
    const ConvertArgs *args = c->args;

    c->zero_target = args->no_create && args->target_is_zero;
    return open_target(c, path, format, args->common.backing, error) && copy(c, error) &&
           image_finish(g_steal_pointer(&c->to), error);
}

static bool convert_anew(Convert *c, ImageCreate *how, Target *t, GError **error)
{
    return open_below(c, how, error) && create_target(c, how, t, error) &&
           copy(c, error) && finish_target(c, t, error);
}

static bool convert(Convert *c, const char *path, GError **error)
{
    const ConvertArgs *args = c->args;
    int format = image_format_by_name(args->common.target_format, path);
    ImageCreate *how;
    Target t;
    bool ok;

    if (args->no_create)
        return convert_in_place(c, path, format, error);
    ok = target_begin(&t, path, error);
    if (ok && t.in_place && format == BLOCK_FORMAT_RAW) {
        ok = convert_in_place(c, path, format, error);
    } else if (ok) {
        how = image_create_parse(t.path, format, NULL, args->backing_file,
                                 args->backing_format, args->options, error);
        ok = how && convert_anew(c, how, &t, error);
        param_free(&image_create_params, how);
    }
    discard_target(c);
    target_clear(&t);
    return ok;
}

bool image_act_convert(void *options, char **names, int *status, GError **error)
{
    const ConvertArgs *args = options;
    Convert c = {.args = args, .name = names[1], .shared_depth = UINT_MAX};
    bool ok;

    if (args->target_is_zero && !args->no_create)
        return fail(error, VM_ERROR_INVALID,
                    "--target-is-zero goes with --no-create: a "
                    "new image is zero anyhow");
    interrupt_watch();
    c.from = open_source(args, names[0], error);
    ok = c.from && convert(&c, names[1], error);
    discard_target(&c);
    image_free(c.below);
    image_free(c.from);
    return ok;
}
