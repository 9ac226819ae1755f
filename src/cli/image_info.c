/* hutch image info: what an image says of itself, in the keys of `qemu-img info`. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "src/cli/image.h"

typedef struct InfoArgs {
    ImageArgs common;
    bool chain;
} InfoArgs;

static const ParamDesc info_desc[] = {
    IMAGE_ARG_FORMAT("of the image"),
    {.key = "backing-chain",
     .type = PARAM_BOOL,
     .offset = offsetof(InfoArgs, chain),
     .help = "the images below it as well"},
    IMAGE_ARG_BACKING,
    IMAGE_ARG_SHARE,
    IMAGE_ARG_JSON,
    {0},
};
const ParamTable image_info_args = {.size = sizeof(InfoArgs), .desc = info_desc};

/* ---- collecting it ---------------------------------------------------------------- */

/* What any file has, if the format did not say it. */
static void add_file(json_t *info, const char *path)
{
    struct stat st;

    if (!json_object_get(info, "actual-size") && stat(path, &st) == 0)
        json_object_set_new(info, "actual-size",
                            json_integer((json_int_t)st.st_blocks * 512));
    if (!json_object_get(info, "dirty-flag"))
        json_object_set_new(info, "dirty-flag", json_false());
}

static json_t *describe(BlockImage *img)
{
    json_t *info = image_info(img);

    add_file(info, image_path(img));
    return info;
}

/* ---- for people ------------------------------------------------------------------- */

static void size_line(const char *name, json_t *bytes, bool exact)
{
    guint64 n = (guint64)json_integer_value(bytes);
    g_autofree char *text = image_size_text(n);

    if (!bytes)
        return;
    if (exact)
        printf("%s: %s (%" G_GUINT64_FORMAT " bytes)\n", name, text, n);
    else
        printf("%s: %s\n", name, text);
}

/* Names from an image are anything; a terminal must not obey them. */
static void text_line(const char *name, json_t *text)
{
    g_autofree char *safe = text ? g_strescape(json_string_value(text), "\\\"") : NULL;

    if (safe)
        printf("%s: %s\n", name, safe);
}

static void print_value(json_t *value)
{
    g_autofree char *safe = NULL;

    if (json_is_string(value))
        safe = g_strescape(json_string_value(value), "\\\"");
    if (safe)
        printf("%s\n", safe);
    else if (json_is_integer(value))
        printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
    else if (json_is_boolean(value))
        puts(json_is_true(value) ? "true" : "false");
    else
        puts("...");
}

/* "lazy-refcounts": true as "    lazy refcounts: true" */
static void print_specific(json_t *specific)
{
    json_t *data = json_object_get(specific, "data"), *value;
    const char *key;

    if (!json_object_size(data))
        return;
    puts("Format specific information:");
    json_object_foreach(data, key, value)
    {
        g_autofree char *words = g_strdelimit(g_strdup(key), "-", ' ');

        printf("    %s: ", words);
        print_value(value);
    }
}

static void print_snapshot(json_t *s)
{
    time_t date = (time_t)json_integer_value(json_object_get(s, "date-sec"));
    json_int_t clock = json_integer_value(json_object_get(s, "vm-clock-sec"));
    json_int_t nsec = json_integer_value(json_object_get(s, "vm-clock-nsec"));
    g_autofree char *size = image_size_text(
        (guint64)json_integer_value(json_object_get(s, "vm-state-size")));
    g_autofree char *name = g_strescape(json_string_value(json_object_get(s, "name")),
                                        "\\\"");
    g_autofree char *id = g_strescape(json_string_value(json_object_get(s, "id")), NULL);
    char when[32] = "";
    struct tm tm;

    if (localtime_r(&date, &tm))
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
    printf("%-10s%-20s%11s %19s %02d:%02d:%02d.%03d\n", id, name, size, when,
           (int)(clock / 3600), (int)(clock / 60 % 60), (int)(clock % 60),
           (int)(nsec / 1000000));
}

void image_print_snapshots(json_t *list)
{
    json_t *s;
    size_t i;

    if (!json_array_size(list))
        return;
    printf("Snapshot list:\n%-10s%-20s%11s %19s %12s\n", "ID", "TAG", "VM SIZE", "DATE",
           "VM CLOCK");
    json_array_foreach(list, i, s)
    {
        print_snapshot(s);
    }
}

static void print_backing(json_t *info)
{
    json_t *name = json_object_get(info, "backing-filename");
    json_t *full = json_object_get(info, "full-backing-filename");

    text_line("backing file", name);
    if (name && full && !json_equal(name, full))
        text_line("backing file, from here", full);
    text_line("backing file format", json_object_get(info, "backing-filename-format"));
}

static void print_info(json_t *info)
{
    json_t *cluster = json_object_get(info, "cluster-size");

    text_line("image", json_object_get(info, "filename"));
    text_line("file format", json_object_get(info, "format"));
    size_line("virtual size", json_object_get(info, "virtual-size"), true);
    size_line("disk size", json_object_get(info, "actual-size"), false);
    if (json_is_true(json_object_get(info, "dirty-flag")))
        puts("cleanly shut down: no");
    if (cluster)
        printf("cluster_size: %" JSON_INTEGER_FORMAT "\n", json_integer_value(cluster));
    print_backing(info);
    image_print_snapshots(json_object_get(info, "snapshots"));
    print_specific(json_object_get(info, "format-specific"));
}

/* ---- the verb --------------------------------------------------------------------- */

static void print_list(json_t *list)
{
    json_t *info;
    size_t i;

    json_array_foreach(list, i, info)
    {
        if (i)
            putchar('\n');
        print_info(info);
    }
}

bool image_act_info(void *options, char **names, int *status, GError **error)
{
    const InfoArgs *args = options;
    g_autoptr(BlockImage) img = image_open_for(
        &args->common, names[0], args->common.format, BLOCK_CACHE_WRITEBACK, true,
        IMAGE_FOR_CHECK | (args->chain ? 0 : IMAGE_NO_BACKING), error);
    json_t *list;

    if (!img)
        return false;
    list = json_array();
    for (BlockImage *i = img; i; i = args->chain ? image_backing(i) : NULL)
        json_array_append_new(list, describe(i));
    if (!image_wants_json(&args->common))
        print_list(list);
    else if (args->chain)
        image_print_json(json_incref(list));
    else
        image_print_json(json_incref(json_array_get(list, 0)));
    json_decref(list);
    return true;
}
