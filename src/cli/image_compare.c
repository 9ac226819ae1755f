/* hutch image compare: whether two images show the same. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/image.h"
#include "util/lock.h"

typedef struct CompareArgs {
    ImageArgs common;
    bool strict;
} CompareArgs;

static const ParamDesc compare_desc[] = {
    IMAGE_ARG_FORMAT("of the first image"),
    {IMAGE_ARG("second-format", 'F', PARAM_ENUM, target_format),
     .choices = block_format_names, .def = "auto", .help = "of the second image"},
    {.key = "strict",
     .letter = 's',
     .type = PARAM_BOOL,
     .offset = offsetof(CompareArgs, strict),
     .help = "sizes, and what is allocated, must be the same as well"},
    IMAGE_ARG_SOURCE_CACHE,
    IMAGE_ARG_BACKING,
    IMAGE_ARG_SHARE,
    IMAGE_ARG_THREADS,
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    IMAGE_ARG_JSON,
    {0},
};
const ParamTable image_compare_args = {.size = sizeof(CompareArgs), .desc = compare_desc};

enum { SAME = 0, DIFFERENT = 1 };

typedef struct Compare {
    const CompareArgs *args;
    BlockImage *img[2];
    uint64_t shorter, longer;
    Lock lock;      /* of the rest: */
    bool found;     /* a difference, */
    bool status;    /* of what is allocated and not of contents, */
    uint64_t where; /* the first one */
} Compare;

static void found(Walk *w, uint64_t offset, bool status)
{
    Compare *c = w->opaque;

    LOCK_GUARD(&c->lock);
    if (!c->found || offset < c->where) {
        c->where = offset;
        c->status = status;
    }
    c->found = true;
    walk_stop(w); /* pieces before this one are taken already, and will be finished */
}

static uint64_t difference(const uint8_t *a, const uint8_t *b, uint64_t len)
{
    uint64_t at = 0;

    while (len - at >= 4096 && !memcmp(a + at, b + at, 4096))
        at += 4096;
    while (at < len && a[at] == b[at])
        at++;
    return at;
}

static bool fail_read(BlockImage *img, uint64_t offset, GError **error)
{
    return fail_errno(error, "'%s': read at %" G_GUINT64_FORMAT, image_path(img), offset);
}

/* ---- the walk --------------------------------------------------------------------- */

/* True: allocated in the chain, as qemu-img means it for -s. */
static bool look_at(BlockImage *img, uint64_t offset, uint64_t *len, bool *zero,
                    bool *allocated, GError **error)
{
    unsigned depth;
    Extent e;

    if (offset >= image_size(img)) {
        *zero = true;
        *allocated = false;
        return true;
    }
    errno = image_find_extent(img, offset, MIN(*len, image_size(img) - offset), &e,
                              &depth, allocated);
    if (errno)
        return fail_read(img, offset, error);
    *zero = e.kind == EXTENT_ZERO;
    *len = e.len;
    return true;
}

static bool compare_look(Walk *w, uint64_t offset, uint64_t len, WalkKind *kind,
                         uint64_t *ret_len, GError **error)
{
    Compare *c = w->opaque;
    bool zero[2], allocated[2];

    for (unsigned i = 0; i < 2; i++)
        if (!look_at(c->img[i], offset, &len, &zero[i], &allocated[i], error))
            return false;
    if (c->args->strict && allocated[0] != allocated[1])
        found(w, offset, true);
    *kind = zero[0] && zero[1] ? WALK_SKIP : WALK_DATA;
    *ret_len = len;
    return true;
}

static bool compare_work(Walk *w, WalkKind kind, uint64_t offset, uint64_t len,
                         uint8_t *buf[2], GError **error)
{
    Compare *c = w->opaque;
    uint64_t at;

    for (unsigned i = 0; i < 2; i++)
        if (!image_read_padded(c->img[i], offset, buf[i], len, error))
            return false;
    if (!memcmp(buf[0], buf[1], len))
        return true;
    at = difference(buf[0], buf[1], len);
    found(w, offset + at, false);
    return true;
}

/* ---- the result ------------------------------------------------------------------- */

static int print_result(const Compare *c)
{
    bool sizes = c->shorter != c->longer, strict_sizes = c->args->strict && sizes;
    bool same = !c->found && !strict_sizes;

    if (image_wants_json(&c->args->common)) {
        json_t *json = json_pack("{s:b, s:b}", "identical", same, "sizes-differ", sizes);

        if (c->found)
            json_object_set_new(json, c->status ? "status-offset" : "offset",
                                json_integer((json_int_t)c->where));
        image_print_json(json);
    } else if (!c->args->common.quiet) {
        if (strict_sizes)
            puts("Strict mode: Image size mismatch!");
        else if (sizes)
            puts("Warning: Image size mismatch!");
        if (c->found && c->status)
            printf("Strict mode: Offset %" G_GUINT64_FORMAT " block status mismatch!\n",
                   c->where);
        else if (c->found)
            printf("Content mismatch at offset %" G_GUINT64_FORMAT "!\n", c->where);
        else if (same)
            puts("Images are identical.");
    }
    return same ? SAME : DIFFERENT;
}

static bool compare(Compare *c, GError **error)
{
    const ImageArgs *args = &c->args->common;
    Progress progress;
    Walk w = {.size = c->longer,
              .unit = BLOCK_SECTOR,
              .look = compare_look,
              .work = compare_work,
              .threads = (unsigned)args->threads,
              .progress = &progress,
              .opaque = c};
    bool ok;

    if (c->args->strict && c->shorter != c->longer)
        return true; /* nothing more to know */
    progress_begin(&progress, args, "compare", w.size);
    lock_init(&c->lock);
    ok = walk_run(&w, error);
    lock_finish(&c->lock);
    progress_end(&progress);
    return ok;
}

bool image_act_compare(void *options, char **names, int *status, GError **error)
{
    const CompareArgs *args = options;
    const int formats[] = {args->common.format, args->common.target_format};
    Compare c = {.args = args};
    bool ok = true;

    interrupt_watch();
    for (unsigned i = 0; ok && i < 2; i++) {
        c.img[i] = image_open_for(&args->common, names[i], formats[i],
                                  args->common.source_cache, true, 0, error);
        ok = c.img[i] != NULL;
    }
    if (ok) {
        c.shorter = MIN(image_size(c.img[0]), image_size(c.img[1]));
        c.longer = MAX(image_size(c.img[0]), image_size(c.img[1]));
        ok = compare(&c, error);
    }
    if (ok)
        *status = print_result(&c);
    image_free(c.img[0]);
    image_free(c.img[1]);
    return ok;
}
