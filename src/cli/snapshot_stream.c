/* Bytes through zstd, in both directions; see snapshot_tar.h. */
#include <errno.h>
#include <unistd.h>
#include <zstd.h>

#include "src/cli/snapshot_tar.h"
#include "util/fd.h"

enum { BUFFER = 256 * 1024, LEVEL = 3, WORKERS = 2 };

/* ---- out -----------------------------------------------------------------------------
 */

struct PackOut {
    int fd;
    ZSTD_CCtx *zstd;
    uint64_t written;
    uint8_t buf[BUFFER];
};

PackOut *pack_out_new(int fd, GError **error)
{
    PackOut *out = g_new0(PackOut, 1);

    out->fd = fd;
    out->zstd = ZSTD_createCCtx();
    if (!out->zstd) {
        g_free(out);
        fail(error, VM_ERROR_IO, "no room in memory for zstd");
        return NULL;
    }
    ZSTD_CCtx_setParameter(out->zstd, ZSTD_c_compressionLevel, LEVEL);
    ZSTD_CCtx_setParameter(out->zstd, ZSTD_c_checksumFlag, 1);
    /* Not in every build of the library; one thread does as well. */
    ZSTD_CCtx_setParameter(out->zstd, ZSTD_c_nbWorkers, WORKERS);
    return out;
}

static bool pack(PackOut *out, ZSTD_inBuffer *in, ZSTD_EndDirective how, size_t *ret_left,
                 GError **error)
{
    ZSTD_outBuffer to = {out->buf, sizeof(out->buf), 0};

    *ret_left = ZSTD_compressStream2(out->zstd, &to, in, how);
    if (ZSTD_isError(*ret_left))
        return fail(error, VM_ERROR_IO, "zstd: %s", ZSTD_getErrorName(*ret_left));
    out->written += to.pos;
    return fd_write_all(out->fd, out->buf, to.pos, error);
}

bool pack_write(PackOut *out, const void *data, size_t len, GError **error)
{
    ZSTD_inBuffer in = {data, len, 0};
    size_t left;

    while (in.pos < in.size)
        if (!pack(out, &in, ZSTD_e_continue, &left, error))
            return false;
    return true;
}

bool pack_end(PackOut *out, GError **error)
{
    ZSTD_inBuffer in = {NULL, 0, 0};
    size_t left = 1;

    while (left)
        if (!pack(out, &in, ZSTD_e_end, &left, error))
            return false;
    return true;
}

uint64_t pack_written(const PackOut *out)
{
    return out->written;
}

void pack_out_free(PackOut *out)
{
    if (out)
        ZSTD_freeCCtx(out->zstd);
    g_free(out);
}

/* ---- in ------------------------------------------------------------------------------
 */

struct PackIn {
    int fd;
    ZSTD_DCtx *zstd;
    ZSTD_inBuffer from;
    uint64_t taken;
    uint8_t buf[BUFFER];
};

PackIn *pack_in_new(int fd, GError **error)
{
    PackIn *in = g_new0(PackIn, 1);

    in->fd = fd;
    in->zstd = ZSTD_createDCtx(); /* takes windows of 128 MiB at most */
    in->from.src = in->buf;
    if (in->zstd)
        return in;
    g_free(in);
    fail(error, VM_ERROR_IO, "no room in memory for zstd");
    return NULL;
}

static bool fill(PackIn *in, GError **error)
{
    ssize_t n;

    do
        n = read(in->fd, in->buf, sizeof(in->buf));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(error, "read the archive");
    if (n == 0)
        return fail(error, VM_ERROR_CORRUPT, "the archive ends too early");
    in->taken += (uint64_t)n;
    in->from.pos = 0;
    in->from.size = (size_t)n;
    return true;
}

bool pack_read(PackIn *in, void *data, size_t len, GError **error)
{
    ZSTD_outBuffer to = {data, len, 0};

    while (to.pos < to.size) {
        size_t before = to.pos, left = ZSTD_decompressStream(in->zstd, &to, &in->from);

        if (ZSTD_isError(left))
            return fail(error, VM_ERROR_CORRUPT,
                        "it is not an archive of 'hutch snapshot export', or damaged: "
                        "zstd: %s",
                        ZSTD_getErrorName(left));
        /* What it holds back comes before it wants more. */
        if (to.pos == before && in->from.pos == in->from.size && !fill(in, error))
            return false;
    }
    return true;
}

uint64_t pack_taken(const PackIn *in)
{
    return in->taken;
}

void pack_in_free(PackIn *in)
{
    if (in)
        ZSTD_freeDCtx(in->zstd);
    g_free(in);
}
