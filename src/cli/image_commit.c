/* hutch image commit: what an overlay has goes into the image below it.
 *
 * Layers are copied one after the other, the lowest first, each opened without what is
 * below it.  If it ends early, nothing is lost: the overlay has all it had. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/image.h"
#include "util/log.h"

typedef struct CommitArgs {
    ImageArgs common;
    char *base;
    bool keep;
} CommitArgs;

static const ParamDesc commit_desc[] = {
    IMAGE_ARG_FORMAT("of the overlay"),
    {.key = "base",
     .letter = 'b',
     .type = PARAM_STRING,
     .offset = offsetof(CommitArgs, base),
     .arg = "FILE",
     .help = "go down to this image of the chain (default: the next one)"},
    {.key = "keep",
     .letter = 'd',
     .type = PARAM_BOOL,
     .offset = offsetof(CommitArgs, keep),
     .help = "do not empty the overlay afterwards; so it is with -b"},
    IMAGE_ARG_CACHE,
    IMAGE_ARG_BACKING,
    IMAGE_ARG_RATE,
    IMAGE_ARG_THREADS,
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_commit_args = {.size = sizeof(CommitArgs), .desc = commit_desc};

/* The images of a chain, from the overlay down to the base. */
typedef struct Layer {
    char *path;
    int format;
} Layer;

static void layers_free(GArray *layers)
{
    for (guint i = 0; i < layers->len; i++)
        g_free(g_array_index(layers, Layer, i).path);
    g_array_unref(layers);
}

static bool is_base(const CommitArgs *args, BlockImage *top, BlockImage *img)
{
    g_autofree char *beside = NULL;

    if (!args->base)
        return true; /* the first one below */
    beside = image_beside(image_path(top), args->base);
    return g_str_equal(args->base, image_path(img)) ||
           g_str_equal(beside, image_path(img));
}

/* Opens the chain as the user allows it, to learn what is in it. */
static bool find_layers(const CommitArgs *args, const char *path, GArray *ret,
                        GError **error)
{
    g_autoptr(BlockImage) top = image_open_for(&args->common, path, args->common.format,
                                               args->common.cache, true, 0, error);
    BlockImage *img = top;

    if (!top)
        return false;
    if (!image_backing(top))
        return fail(error, VM_ERROR_INVALID, "'%s' has no backing image to write into",
                    path);
    do {
        Layer layer = {g_strdup(image_path(img))};

        image_parse_format(image_format(img), &layer.format, NULL);
        g_array_append_val(ret, layer);
        if (img != top && is_base(args, top, img))
            return true;
        img = image_backing(img);
    } while (img);
    return fail(error, VM_ERROR_INVALID,
                "'%s' is not below '%s': 'hutch image info "
                "--backing-chain' lists what is",
                args->base, path);
}

/* ---- one layer -------------------------------------------------------------------- */

typedef struct Commit {
    BlockImage *from, *to;
} Commit;

static bool commit_look(Walk *w, uint64_t offset, uint64_t len, WalkKind *kind,
                        uint64_t *ret_len, GError **error)
{
    static const WalkKind kinds[] = {[EXTENT_DATA] = WALK_DATA,
                                     [EXTENT_COMPRESSED] = WALK_DATA,
                                     [EXTENT_ZERO] = WALK_ZERO,
                                     [EXTENT_HOLE] = WALK_SKIP};
    Commit *c = w->opaque;
    Extent e;

    errno = image_extent(c->from, offset, len, &e);
    if (errno)
        return fail_errno(error, "'%s': look up what is at %" G_GUINT64_FORMAT,
                          image_path(c->from), offset);
    *kind = kinds[e.kind];
    *ret_len = e.len;
    return true;
}

static bool commit_work(Walk *w, WalkKind kind, uint64_t offset, uint64_t len,
                        uint8_t *buf[2], GError **error)
{
    Commit *c = w->opaque;

    if (kind == WALK_DATA) {
        if (!image_read_padded(c->from, offset, buf[0], len, error))
            return false;
        errno = image_write(c->to, offset, buf[0], len);
    } else {
        errno = image_zero(c->to, offset, len, true);
    }
    return !errno || fail_errno(error, "'%s': write at %" G_GUINT64_FORMAT,
                                image_path(c->to), offset);
}

static bool copy_layer(const CommitArgs *args, BlockImage *from, BlockImage *to,
                       GError **error)
{
    Commit c = {from, to};
    Progress progress;
    Walk w = {.size = image_size(from),
              .unit = BLOCK_SECTOR, /* what is not the layer's own must not be copied */
              .look = commit_look,
              .work = commit_work,
              .threads = (unsigned)args->common.threads,
              .rate_limit = args->common.rate_limit,
              .progress = &progress,
              .opaque = &c};
    bool ok;

    if (image_size(to) < w.size && !image_resize(to, w.size, error))
        return false;
    progress_begin(&progress, &args->common, "commit", w.size);
    ok = walk_run(&w, error);
    progress_end(&progress);
    return ok;
}

/* ---- emptying the overlay --------------------------------------------------------- */

static void copy_key(GString *out, json_t *from, const char *key, const char *as)
{
    json_t *v = json_object_get(from, key);

    if (json_is_string(v))
        g_string_append_printf(out, ",%s=%s", as, json_string_value(v));
    else if (json_is_integer(v))
        g_string_append_printf(out, ",%s=%" JSON_INTEGER_FORMAT, as,
                               json_integer_value(v));
    else if (json_is_boolean(v))
        g_string_append_printf(out, ",%s=%s", as, json_is_true(v) ? "on" : "off");
}

/* The options that make an image like it; NULL if it has more than such an image has. */
static char *options_like(json_t *info)
{
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    GString *out;

    if (json_object_get(info, "snapshots") || json_object_get(data, "data-file"))
        return NULL;
    out = g_string_new(NULL);
    copy_key(out, info, "cluster-size", "cluster_size");
    copy_key(out, info, "virtual-size", "size");
    copy_key(out, data, "compat", "compat");
    copy_key(out, data, "refcount-bits", "refcount_bits");
    copy_key(out, data, "lazy-refcounts", "lazy_refcounts");
    copy_key(out, data, "extended-l2", "extended_l2");
    copy_key(out, data, "compression-type", "compression_type");
    return g_string_free(out, FALSE);
}

static bool keep(BlockImage *img, const char *why)
{
    log_info("'%s' keeps its data, because %s: all of it is in the backing image as well",
             image_path(img), why);
    return true;
}

static bool make_empty(BlockImage *img, json_t *info, char *like, GError **error)
{
    char *options[] = {like + (*like == ','), NULL};
    json_t *name = json_object_get(info, "backing-filename");
    json_t *format = json_object_get(info, "backing-filename-format");
    ImageCreate *how = image_create_parse(image_path(img), BLOCK_FORMAT_QCOW2, NULL,
                                          json_string_value(name),
                                          json_string_value(format), options, error);
    bool ok = how && image_create(how, error);

    param_free(&image_create_params, how);
    return ok;
}

/* An empty image takes the overlay's place at once; `img` is held, so nobody uses it. */
static bool replace_by_empty(BlockImage *img, json_t *info, GError **error)
{
    g_autofree char *like = options_like(info);
    struct stat st;

    if (!like)
        return keep(img, "it has internal snapshots or an external data file");
    if (!json_object_get(info, "backing-filename") || lstat(image_path(img), &st) < 0 ||
        !S_ISREG(st.st_mode) || st.st_nlink != 1)
        return keep(img, "it is no file with one name");
    if (!make_empty(img, info, like, error))
        return false;
    if (chmod(image_path(img), st.st_mode & 07777) < 0 ||
        chown(image_path(img), st.st_uid, st.st_gid) < 0)
        return fail_errno(error, "'%s': give it its old mode and owner", image_path(img));
    return true;
}

/* ---- the verb --------------------------------------------------------------------- */

static bool commit_layers(const CommitArgs *args, GArray *layers, BlockImage *top,
                          BlockImage *base, GError **error)
{
    for (guint i = layers->len - 2; i > 0; i--) {
        const Layer *layer = &g_array_index(layers, Layer, i);
        g_autoptr(BlockImage)
            img = image_open_for(&args->common, layer->path, layer->format,
                                 args->common.cache, true, IMAGE_NO_BACKING, error);

        if (!img || !copy_layer(args, img, base, error))
            return false;
    }
    return copy_layer(args, top, base, error);
}

static bool commit(const CommitArgs *args, GArray *layers, GError **error)
{
    const Layer *first = &g_array_index(layers, Layer, 0);
    const Layer *last = &g_array_index(layers, Layer, layers->len - 1);
    /* For writing, so that nobody else does: it is to be replaced. */
    g_autoptr(BlockImage)
        top = image_open_for(&args->common, first->path, first->format,
                             args->common.cache, false, IMAGE_NO_BACKING, error);
    g_autoptr(BlockImage) base = NULL;
    json_t *info;
    bool ok;

    if (top)
        base = image_open_for(&args->common, last->path, last->format, args->common.cache,
                              false, 0, error);
    if (!base || !commit_layers(args, layers, top, base, error))
        return false;
    image_set_committed(base);
    if (!image_finish(g_steal_pointer(&base), error))
        return false;
    if (args->keep || args->base)
        return image_close(g_steal_pointer(&top), error);
    info = image_info(top);
    ok = replace_by_empty(top, info, error);
    json_decref(info);
    return ok;
}

bool image_act_commit(void *options, char **names, int *status, GError **error)
{
    const CommitArgs *args = options;
    GArray *layers = g_array_new(FALSE, FALSE, sizeof(Layer));
    bool ok;

    interrupt_watch();
    ok = find_layers(args, names[0], layers, error) && commit(args, layers, error);
    layers_free(layers);
    if (ok && !args->common.quiet)
        puts("Image committed.");
    return ok;
}
