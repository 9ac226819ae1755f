/* Drives an image of hutch's step by step, as qemu-io does one of QEMU's: for tests that
 * compare what the two make of each other's images.
 *
 *     image_io FILE[,KEY=VALUE...] <SCRIPT     a disk's options, as hutch run has them
 *     image_io --check FILE[,...] <SCRIPT      the same, opened to be checked
 *     image_io --create KEY=VALUE,...          as hutch image create has them
 *
 * A line of the script is one step.  Numbers are bytes; P is the byte to write.
 *
 *     write P OFFSET LEN      zero OFFSET LEN     unmap OFFSET LEN (zeroes, no data)
 *     discard OFFSET LEN      copyup OFFSET LEN   compressed P OFFSET LEN
 *     flush                   resize SIZE         check none|leaks|all
 *     snapshot NAME           apply NAME          delete NAME      snapshots
 *     dump FILE               crash               (ends without closing the image)
 *
 * It stops at the first step that fails, with one line on stderr and status 1. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/image.h"
#include "util/error.h"

enum { PIECE = 1 << 20 };

static const ParamDesc open_desc[] = {
    {.key = "path",
     .type = PARAM_PATH,
     .offset = offsetof(BlockOptions, path),
     .required = true},
    {.key = "format",
     .type = PARAM_ENUM,
     .offset = offsetof(BlockOptions, format),
     .choices = block_format_names,
     .def = "qcow2"},
    {.key = "readonly", .type = PARAM_BOOL, .offset = offsetof(BlockOptions, readonly)},
    {.key = "cache",
     .type = PARAM_ENUM,
     .offset = offsetof(BlockOptions, cache),
     .choices = block_cache_names,
     .def = "writeback"},
    {.key = "backing",
     .type = PARAM_ENUM,
     .offset = offsetof(BlockOptions, backing),
     .choices = block_backing_names,
     .def = "on"},
    {.key = "cache-size",
     .type = PARAM_SIZE,
     .offset = offsetof(BlockOptions, cache_size)},
    {0},
};
static const ParamTable open_params = {sizeof(BlockOptions), open_desc, NULL};

/* ---- steps ---------------------------------------------------------------------------
 */

static bool failed(int err, const char *step, GError **error)
{
    errno = err;
    return !err || fail_errno(error, "%s", step);
}

static bool step_write(BlockImage *img, char **arg, GError **error)
{
    uint64_t offset = g_ascii_strtoull(arg[2], NULL, 0);
    uint64_t len = g_ascii_strtoull(arg[3], NULL, 0);
    bool compressed = strcmp(arg[0], "compressed") == 0;
    g_autofree char *buf = g_malloc(len + 1);
    int err;

    memset(buf, (int)g_ascii_strtoull(arg[1], NULL, 0), len);
    err = compressed ? image_write_compressed(img, offset, buf, len)
                     : image_write(img, offset, buf, len);
    return failed(err, arg[0], error);
}

static bool step_range(BlockImage *img, char **arg, GError **error)
{
    uint64_t offset = g_ascii_strtoull(arg[1], NULL, 0);
    uint64_t len = g_ascii_strtoull(arg[2], NULL, 0);
    int err;

    switch (arg[0][0]) {
    case 'z':
        err = image_zero(img, offset, len, false);
        break;
    case 'u':
        err = image_zero(img, offset, len, true);
        break;
    case 'd':
        err = image_discard(img, offset, len);
        break;
    default:
        err = image_copy_up(img, offset, len);
    }
    return failed(err, arg[0], error);
}

static bool step_flush(BlockImage *img, char **arg, GError **error)
{
    return failed(image_flush(img), "flush", error);
}

static bool step_crash(BlockImage *img, char **arg, GError **error)
{
    fflush(stdout);
    _exit(0);
}

static bool step_resize(BlockImage *img, char **arg, GError **error)
{
    return image_resize(img, g_ascii_strtoull(arg[1], NULL, 0), error);
}

static void say(void *opaque, const char *text)
{
    fprintf(stderr, "  %s\n", text);
}

static bool step_check(BlockImage *img, char **arg, GError **error)
{
    ImageRepair how = arg[1][0] == 'n'   ? IMAGE_REPAIR_NONE
                      : arg[1][0] == 'l' ? IMAGE_REPAIR_LEAKS
                                         : IMAGE_REPAIR_ALL;
    ImageCheck c;

    if (!image_check(img, how, &c, say, NULL, error))
        return false;
    printf("{\"corruptions\": %" PRIu64 ", \"leaks\": %" PRIu64
           ", \"corruptions-fixed\": %" PRIu64 ", \"leaks-fixed\": %" PRIu64
           ", \"allocated-clusters\": %" PRIu64 ", \"total-clusters\": %" PRIu64
           ", \"compressed-clusters\": %" PRIu64 ", \"fragmented-clusters\": %" PRIu64
           ", \"image-end-offset\": %" PRIu64 "}\n",
           c.errors, c.leaks, c.errors_fixed, c.leaks_fixed, c.allocated_clusters,
           c.total_clusters, c.compressed_clusters, c.fragmented_clusters, c.end_offset);
    return true;
}

static bool step_snapshot(BlockImage *img, char **arg, GError **error)
{
    switch (arg[0][0]) {
    case 's':
        return image_snapshot_create(img, arg[1], error);
    case 'a':
        return image_snapshot_apply(img, arg[1], error);
    default:
        return image_snapshot_delete(img, arg[1], error);
    }
}

static bool step_list(BlockImage *img, char **arg, GError **error)
{
    ImageSnapshot *list;
    unsigned n;

    if (!image_snapshot_list(img, &list, &n, error))
        return false;
    for (unsigned i = 0; i < n; i++)
        printf("%s\t%s\t%" PRIu64 "\t%" PRIu64 "\n", list[i].id, list[i].name,
               list[i].vm_state_size, list[i].disk_size);
    image_snapshots_free(list, n);
    return true;
}

/* Holes stay holes, so that a large disk makes a small file. */
static bool step_dump(BlockImage *img, char **arg, GError **error)
{
    g_autofree char *buf = g_malloc(PIECE);
    int fd = open(arg[1], O_WRONLY | O_CREAT | O_TRUNC, 0600), err = 0;

    if (fd < 0)
        return fail_errno(error, "open '%s'", arg[1]);
    if (ftruncate(fd, (off_t)image_size(img)) < 0)
        err = errno;
    for (uint64_t at = 0; at < image_size(img) && !err;) {
        Extent e = {.kind = EXTENT_ZERO};
        uint64_t len = MIN(PIECE, image_size(img) - at);

        err = image_chain_extent(img, at, len, &e, NULL);
        if (!err && e.kind != EXTENT_ZERO) {
            err = image_read(img, at, buf, e.len);
            if (!err && pwrite(fd, buf, e.len, (off_t)at) != (ssize_t)e.len)
                err = errno;
        }
        at += e.len;
    }
    close(fd);
    return failed(err, "dump", error);
}

static const struct {
    const char *name;
    unsigned n_args;
    bool (*run)(BlockImage *img, char **arg, GError **error);
} steps[] = {
    {"write", 3, step_write},       {"compressed", 3, step_write},
    {"zero", 2, step_range},        {"unmap", 2, step_range},
    {"discard", 2, step_range},     {"copyup", 2, step_range},
    {"flush", 0, step_flush},       {"crash", 0, step_crash},
    {"resize", 1, step_resize},     {"check", 1, step_check},
    {"snapshot", 1, step_snapshot}, {"apply", 1, step_snapshot},
    {"delete", 1, step_snapshot},   {"snapshots", 0, step_list},
    {"dump", 1, step_dump},
};

static bool run_line(BlockImage *img, const char *line, GError **error)
{
    g_auto(GStrv) arg = g_strsplit(line, " ", 0);

    if (!*line)
        return true;
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++)
        if (strcmp(arg[0], steps[i].name) == 0 &&
            g_strv_length(arg) == steps[i].n_args + 1) {
            if (steps[i].run(img, arg, error))
                return true;
            g_prefix_error(error, "%s: ", line);
            return false;
        }
    return fail(error, VM_ERROR_INVALID, "'%s' is no step", line);
}

static bool run_script(const char *text, bool for_check, GError **error)
{
    BlockOptions *options = param_new(&open_params);
    g_autoptr(BlockImage) img = NULL;
    char line[4096];
    bool ok = param_parse(&open_params, options, text, error);

    if (ok) {
        img = image_open(options, for_check ? IMAGE_FOR_CHECK : 0, error);
        ok = img != NULL;
    }
    while (ok && fgets(line, sizeof(line), stdin))
        ok = run_line(img, g_strchomp(line), error);
    if (ok)
        ok = image_close(g_steal_pointer(&img), error);
    param_free(&open_params, options);
    return ok;
}

static bool run_create(const char *text, GError **error)
{
    ImageCreate *how = param_new(&image_create_params);
    bool ok = param_parse(&image_create_params, how, text, error) &&
              image_create(how, error);

    param_free(&image_create_params, how);
    return ok;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    bool ok;

    if (argc == 3 && strcmp(argv[1], "--create") == 0)
        ok = run_create(argv[2], &error);
    else if (argc == 3 && strcmp(argv[1], "--check") == 0)
        ok = run_script(argv[2], true, &error);
    else if (argc == 2)
        ok = run_script(argv[1], false, &error);
    else
        ok = fail(&error, VM_ERROR_INVALID, "image_io [--create | --check] OPTIONS");
    if (!ok)
        fprintf(stderr, "image_io: %s\n", error->message);
    return ok ? 0 : 1;
}
