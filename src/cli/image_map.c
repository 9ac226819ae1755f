/* hutch image map: which bytes of which file are the disk's, in the form of `qemu-img
 * map`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/image.h"

typedef struct MapArgs {
    ImageArgs common;
    uint64_t start, length;
} MapArgs;

static const ParamDesc map_desc[] = {
    IMAGE_ARG_FORMAT("of the image"),
    {.key = "start-offset",
     .letter = 's',
     .type = PARAM_SIZE,
     .offset = offsetof(MapArgs, start),
     .help = "begin there"},
    {.key = "max-length",
     .letter = 'l',
     .type = PARAM_SIZE,
     .offset = offsetof(MapArgs, length),
     .help = "end after so much; 0: at the end of the disk"},
    IMAGE_ARG_BACKING,
    IMAGE_ARG_SHARE,
    IMAGE_ARG_JSON,
    {0},
};
const ParamTable image_map_args = {.size = sizeof(MapArgs), .desc = map_desc};

/* What is printed in one line; neighbours that continue each other are one. */
typedef struct Run {
    uint64_t start, len, file_offset;
    unsigned depth;
    bool present, zero, data, compressed, has_offset;
    const char *file; /* has_offset */
} Run;

static Run to_run(uint64_t start, const Extent *e, unsigned depth, bool present)
{
    bool place = e->file &&
                 (e->kind == EXTENT_DATA || (e->kind == EXTENT_ZERO && e->preallocated));

    return (Run){
        .start = start,
        .len = e->len,
        .depth = depth,
        .present = present,
        .zero = e->kind == EXTENT_ZERO,
        .data = e->kind == EXTENT_DATA || e->kind == EXTENT_COMPRESSED,
        .compressed = e->kind == EXTENT_COMPRESSED,
        .has_offset = place,
        .file_offset = place ? e->file_offset : 0,
        .file = place ? image_extent_path(e) : NULL,
    };
}

static bool continues(const Run *a, const Run *b)
{
    return a->depth == b->depth && a->present == b->present && a->zero == b->zero &&
           a->data == b->data && a->compressed == b->compressed &&
           a->has_offset == b->has_offset &&
           (!a->has_offset ||
            (a->file == b->file && a->file_offset + a->len == b->file_offset));
}

static const char *word(bool v)
{
    return v ? "true" : "false";
}

static void print_json(const Run *r, bool first)
{
    printf("%s{ \"start\": %" G_GUINT64_FORMAT ", \"length\": %" G_GUINT64_FORMAT
           ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s, "
           "\"compressed\": %s",
           first ? "[" : ",\n", r->start, r->len, r->depth, word(r->present),
           word(r->zero), word(r->data), word(r->compressed));
    if (r->has_offset)
        printf(", \"offset\": %" G_GUINT64_FORMAT, r->file_offset);
    putchar('}');
}

static void print_text(const Run *r)
{
    if (!r->data || r->zero)
        return;
    if (r->compressed)
        printf("0x%-15" G_GINT64_MODIFIER "x 0x%-15" G_GINT64_MODIFIER
               "x %-17s (depth %u)\n",
               r->start, r->len, "compressed", r->depth);
    else
        printf("0x%-15" G_GINT64_MODIFIER "x 0x%-15" G_GINT64_MODIFIER
               "x 0x%-15" G_GINT64_MODIFIER "x %s\n",
               r->start, r->len, r->file_offset, r->file ? r->file : "?");
}

static bool map(BlockImage *img, uint64_t at, uint64_t end, bool json, GError **error)
{
    Run last = {0};
    bool first = true;

    while (at < end) {
        unsigned depth;
        bool present;
        Extent e;
        Run r;

        errno = image_find_extent(img, at, end - at, &e, &depth, &present);
        if (errno)
            return fail_errno(error, "'%s': look up what is at %" G_GUINT64_FORMAT,
                              image_path(img), at);
        r = to_run(at, &e, depth, present);
        at += e.len;
        if (last.len && continues(&last, &r)) {
            last.len += r.len;
            continue;
        }
        if (last.len && json)
            print_json(&last, first);
        else if (last.len)
            print_text(&last);
        first &= !last.len;
        last = r;
    }
    if (json && last.len)
        print_json(&last, first);
    else if (last.len)
        print_text(&last);
    if (json)
        puts(last.len ? "]" : "[]");
    return true;
}

bool image_act_map(void *options, char **names, int *status, GError **error)
{
    const MapArgs *args = options;
    bool json = image_wants_json(&args->common);
    g_autoptr(BlockImage)
        img = image_open_for(&args->common, names[0], args->common.format,
                             BLOCK_CACHE_WRITEBACK, true, 0, error);
    uint64_t end;

    if (!img)
        return false;
    end = image_size(img);
    if (args->start > end)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' ends at %" G_GUINT64_FORMAT ", before --start-offset", names[0],
                    end);
    if (args->length)
        end = MIN(end, args->start + MIN(args->length, end));
    if (!json)
        printf("%-17s %-17s %-17s %s\n", "Offset", "Length", "Mapped to", "File");
    return map(img, args->start, end, json, error);
}
