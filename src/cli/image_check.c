/* hutch image check: errors and leaks of an image, and their repair. */
#include <stdio.h>

#include "src/cli/image.h"
#include "util/log.h"

typedef struct CheckArgs {
    ImageArgs common;
    int repair;
} CheckArgs;

static const char *const repair_names[] = {"none", "leaks", "all", NULL};

static const ParamDesc check_desc[] = {
    IMAGE_ARG_FORMAT("of the image"),
    {.key = "repair",
     .letter = 'r',
     .type = PARAM_ENUM,
     .offset = offsetof(CheckArgs, repair),
     .choices = repair_names,
     .def = "none",
     .bare = "all",
     .arg = "leaks|all",
     .help = "repair leaks alone, which risks nothing, or errors too"},
    IMAGE_ARG_SOURCE_CACHE,
    IMAGE_ARG_SHARE,
    IMAGE_ARG_JSON,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable image_check_args = {.size = sizeof(CheckArgs), .desc = check_desc};

/* qemu-img's numbers */
enum { CHECK_FAILED = 1, CHECK_ERRORS = 2, CHECK_LEAKS = 3, CHECK_UNSUPPORTED = 63 };

static void say(void *opaque, const char *text)
{
    const CheckArgs *args = opaque;

    if (!args->common.quiet)
        log_info("%s", text);
}

/* ---- the result ------------------------------------------------------------------- */

static void add_count(json_t *json, const char *key, uint64_t n)
{
    if (n)
        json_object_set_new(json, key, json_integer((json_int_t)n));
}

static void print_json(const BlockImage *img, const ImageCheck *c)
{
    g_autofree char *path = g_utf8_make_valid(image_path(img), -1);
    json_t *json = json_pack("{s:s, s:s, s:i}", "filename", path, "format",
                             image_format(img), "check-errors", 0);

    add_count(json, "image-end-offset", c->end_offset);
    add_count(json, "corruptions", c->errors);
    add_count(json, "leaks", c->leaks);
    add_count(json, "corruptions-fixed", c->errors_fixed);
    add_count(json, "leaks-fixed", c->leaks_fixed);
    add_count(json, "total-clusters", c->total_clusters);
    add_count(json, "allocated-clusters", c->allocated_clusters);
    add_count(json, "fragmented-clusters", c->fragmented_clusters);
    add_count(json, "compressed-clusters", c->compressed_clusters);
    image_print_json(json);
}

static double percent(uint64_t n, uint64_t of)
{
    return of ? 100.0 * (double)n / (double)of : 0;
}

static void print_clusters(const ImageCheck *c)
{
    if (c->total_clusters)
        printf("%" G_GUINT64_FORMAT "/%" G_GUINT64_FORMAT " = %.2f%% allocated, %.2f%% "
               "fragmented, %.2f%% compressed clusters\n",
               c->allocated_clusters, c->total_clusters,
               percent(c->allocated_clusters, c->total_clusters),
               percent(c->fragmented_clusters, c->allocated_clusters),
               percent(c->compressed_clusters, c->allocated_clusters));
    if (c->end_offset)
        printf("Image end offset: %" G_GUINT64_FORMAT "\n", c->end_offset);
}

static void print_text(const ImageCheck *c)
{
    if (c->errors_fixed || c->leaks_fixed)
        printf("Repaired: %" G_GUINT64_FORMAT " errors, %" G_GUINT64_FORMAT
               " leaked clusters.\n",
               c->errors_fixed, c->leaks_fixed);
    if (c->errors)
        printf("%" G_GUINT64_FORMAT " errors were found on the image.\nData may be lost, "
               "and writing to it may lose more: copy it, then use --repair.\n",
               c->errors);
    if (c->leaks)
        printf("%" G_GUINT64_FORMAT
               " leaked clusters were found on the image.\nThey waste "
               "space and harm nothing; --repair=leaks gives it back.\n",
               c->leaks);
    if (!c->errors && !c->leaks)
        puts("No errors were found on the image.");
    print_clusters(c);
}

static int verdict(const ImageCheck *c)
{
    return c->errors ? CHECK_ERRORS : c->leaks ? CHECK_LEAKS : 0;
}

/* ---- the verb --------------------------------------------------------------------- */

/* After a repair the image is looked at once more: what counts is how it is left. */
static bool check(BlockImage *img, CheckArgs *args, ImageCheck *c, GError **error)
{
    ImageCheck before;

    if (!image_check(img, args->repair, c, say, args, error))
        return false;
    if (args->repair == IMAGE_REPAIR_NONE || !(c->errors_fixed || c->leaks_fixed))
        return true;
    before = *c;
    if (!image_check(img, IMAGE_REPAIR_NONE, c, say, args, error))
        return false;
    c->errors_fixed = before.errors_fixed;
    c->leaks_fixed = before.leaks_fixed;
    return true;
}

bool image_act_check(void *options, char **names, int *status, GError **error)
{
    CheckArgs *args = options;
    g_autoptr(BlockImage) img = NULL;
    ImageCheck c;

    *status = CHECK_FAILED;
    img = image_open_for(&args->common, names[0], args->common.format,
                         args->common.source_cache, args->repair == IMAGE_REPAIR_NONE,
                         IMAGE_NO_BACKING | IMAGE_FOR_CHECK, error);
    if (!img || !check(img, args, &c, error))
        return false;
    if (!c.supported) {
        *status = CHECK_UNSUPPORTED;
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s' is a %s image, which has nothing in it to check", names[0],
                    image_format(img));
    }
    *status = verdict(&c);
    if (image_wants_json(&args->common))
        print_json(img, &c);
    else if (!args->common.quiet)
        print_text(&c);
    if (image_finish(g_steal_pointer(&img), error))
        return true;
    *status = CHECK_FAILED;
    return false;
}
