/* Images: a format over a file, and what lies below.  Reading goes down the chain here,
 * the same for all formats; what a layer has where is the format's knowledge. */
#include "image_private.h"

#include <errno.h>
#include <string.h>

#include "util/bits.h"
#include "util/iov.h"
#include "util/log.h"

const char *const block_format_names[] = {"auto", "raw", "qcow2", NULL};

/* By BlockFormat. */
static const FormatOps *const formats[] = {
    [BLOCK_FORMAT_RAW] = &raw_format,
    [BLOCK_FORMAT_QCOW2] = &qcow2_format,
};

const FormatOps *image_format_ops(int format, const char *path)
{
    if (format == BLOCK_FORMAT_AUTO)
        format = g_str_has_suffix(path, ".qcow2") ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
    return formats[format];
}

/* ---- opening and closing -------------------------------------------------------------
 */

BlockImage *image_open(const BlockOptions *options, unsigned flags, GError **error)
{
    g_autoptr(BlockImage) img = g_new0(BlockImage, 1);

    img->path = g_strdup(options->path);
    img->readonly = options->readonly;
    img->file = block_file_open(options, error);
    if (!img->file)
        return NULL;
    img->format = image_format_ops(options->format, options->path);
    return img->format->open(img, options, flags, error) ? g_steal_pointer(&img) : NULL;
}

bool image_close(BlockImage *img, GError **error)
{
    bool ok = true;

    /* From the top down: what is above may still write references to what is below. */
    while (img) {
        BlockImage *below = img->backing;

        if (img->format && img->format->close)
            ok &= img->format->close(img, ok ? error : NULL);
        block_file_close(img->file);
        g_free(img->path);
        g_free(img);
        img = below;
    }
    return ok;
}

void image_free(BlockImage *img)
{
    g_autoptr(GError) error = NULL;

    if (!image_close(img, &error))
        log_error("%s", error->message);
}

uint64_t image_size(const BlockImage *img)
{
    return image_size_now(img);
}

bool image_readonly(const BlockImage *img)
{
    return img->readonly;
}

const char *image_path(const BlockImage *img)
{
    return img->path;
}

const char *image_format(const BlockImage *img)
{
    return img->format->name;
}

BlockImage *image_backing(const BlockImage *img)
{
    return img->backing;
}

bool block_read_head(BlockFile *f, void *buf, size_t *len, GError **error)
{
    bool zero_tail = f->zero_tail;

    *len = MIN(*len, block_file_size(f));
    f->zero_tail = true; /* O_DIRECT reads a whole block, of which there may be a part */
    errno = block_file_read(f, 0, buf, *len);
    f->zero_tail = zero_tail;
    return !errno || fail_errno(error, "'%s': read its first bytes", f->path);
}

/* ---- what is where --------------------------------------------------------------------
 */

/* A layer may be shorter than what is above it. */
static int lookup(BlockImage *img, uint64_t offset, uint64_t len, bool may_sleep,
                  Extent *ret)
{
    uint64_t size = image_size_now(img);

    if (offset >= size) {
        *ret = (Extent){.kind = EXTENT_ZERO, .len = len};
        return 0;
    }
    return img->format->lookup(img, offset, MIN(len, size - offset), may_sleep, ret);
}

/* The layer that decides, from `img` down. */
static int chain_lookup(BlockImage **img, uint64_t offset, uint64_t len, bool may_sleep,
                        Extent *ret, unsigned *depth)
{
    int err;

    for (*depth = 0;; ++*depth, *img = (*img)->backing) {
        err = lookup(*img, offset, len, may_sleep, ret);
        if (err || ret->kind != EXTENT_HOLE || !(*img)->backing)
            break;
        len = ret->len; /* what is above says nothing for so long */
    }
    if (!err && ret->kind == EXTENT_HOLE)
        ret->kind = EXTENT_ZERO;
    return err;
}

int image_lookup_now(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret)
{
    BlockImage *layer = img;
    unsigned depth;
    int err = chain_lookup(&layer, offset, len, false, ret, &depth);

    ret->in_place &= depth == 0;
    return err;
}

/* Holes of the file itself: raw images have no other knowledge of what is empty. */
static int refine(BlockImage *img, Extent *e)
{
    bool data;
    int err;

    if (e->kind != EXTENT_DATA || img->format != &raw_format)
        return 0;
    err = e->file->ops->extent(e->file, e->file_offset, e->len, &data, &e->len);
    if (!err && !data) {
        e->kind = EXTENT_ZERO;
        e->preallocated = true;
    }
    return err;
}

int image_extent(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret)
{
    int err = lookup(img, offset, len, true, ret);

    return err ? err : refine(img, ret);
}

int image_chain_extent(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret,
                       unsigned *ret_depth)
{
    unsigned depth;
    int err = chain_lookup(&img, offset, len, true, ret, &depth);

    if (ret_depth)
        *ret_depth = depth;
    return err ? err : refine(img, ret);
}

/* ---- reading and writing -------------------------------------------------------------
 */

static int read_extent(BlockImage *layer, const Extent *e, uint64_t offset,
                       const struct iovec *iov, unsigned n_iov, uint64_t skip)
{
    switch (e->kind) {
    case EXTENT_DATA:
        return block_file_rw(e->file, false, e->file_offset, iov, n_iov, skip, e->len);
    case EXTENT_COMPRESSED:
        return layer->format->read_compressed(layer, offset, iov, n_iov, skip, e->len);
    case EXTENT_ZERO:
    case EXTENT_HOLE:
        iov_fill(iov, n_iov, skip, 0, e->len);
        return 0;
    }
    return EIO;
}

int image_readv(BlockImage *img, uint64_t offset, const struct iovec *iov, unsigned n_iov,
                uint64_t skip, uint64_t len)
{
    while (len) {
        BlockImage *layer = img;
        unsigned depth;
        Extent e;
        int err = chain_lookup(&layer, offset, len, true, &e, &depth);

        if (!err)
            err = read_extent(layer, &e, offset, iov, n_iov, skip);
        if (err)
            return err;
        offset += e.len;
        skip += e.len;
        len -= e.len;
    }
    return 0;
}

/* What may be written to: 0, or the errno why not. */
static int may_change(const BlockImage *img, uint64_t offset, uint64_t len)
{
    if (img->readonly)
        return EPERM;
    return range_within(offset, len, image_size_now(img)) ? 0 : EIO;
}

int image_writev(BlockImage *img, uint64_t offset, const struct iovec *iov,
                 unsigned n_iov, uint64_t skip, uint64_t len)
{
    int err = may_change(img, offset, len);

    return err ? err : img->format->write(img, offset, iov, n_iov, skip, len);
}

int image_read(BlockImage *img, uint64_t offset, void *buf, size_t len)
{
    const struct iovec iov = {buf, len};

    return image_readv(img, offset, &iov, 1, 0, len);
}

int image_write(BlockImage *img, uint64_t offset, const void *buf, size_t len)
{
    const struct iovec iov = {(void *)buf, len};

    return image_writev(img, offset, &iov, 1, 0, len);
}

int image_zero(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap)
{
    int err = may_change(img, offset, len);

    return err ? err : img->format->zero(img, offset, len, may_unmap);
}

int image_discard(BlockImage *img, uint64_t offset, uint64_t len)
{
    int err = may_change(img, offset, len);

    return err ? err : img->format->discard(img, offset, len);
}

static bool is_over_unsettled(const BlockImage *img)
{
    return img->backing && __atomic_load_n(&img->backing->unsettled, __ATOMIC_RELAXED);
}

int image_flush(BlockImage *img)
{
    int err = is_over_unsettled(img) ? image_flush(img->backing) : 0;

    return err || img->readonly ? err : img->format->flush(img);
}

bool image_flush_is_slow(BlockImage *img)
{
    return is_over_unsettled(img) ||
           (img->format->flush_is_slow && img->format->flush_is_slow(img));
}

int image_write_compressed(BlockImage *img, uint64_t offset, const void *buf, size_t len)
{
    if (img->readonly)
        return EPERM;
    return img->format->write_compressed
               ? img->format->write_compressed(img, offset, buf, len)
               : ENOTSUP;
}

int image_copy_up(BlockImage *img, uint64_t offset, uint64_t len)
{
    if (!img->format->copy_up)
        return 0; /* all of it is its own */
    return img->readonly ? EPERM : img->format->copy_up(img, offset, len);
}

/* ---- what some formats can do --------------------------------------------------------
 */

static bool cannot(const BlockImage *img, const char *what, GError **error)
{
    return fail(error, VM_ERROR_UNSUPPORTED,
                "'%s' is a %s image, and those have no %s: use a qcow2 image", img->path,
                img->format->name, what);
}

static bool must_write(const BlockImage *img, GError **error)
{
    return !img->readonly ||
           fail(error, VM_ERROR_INVALID, "'%s' is open read-only: open it for writing",
                img->path);
}

bool image_resize(BlockImage *img, uint64_t size, GError **error)
{
    if (!must_write(img, error) || !img->format->resize(img, size, error))
        return false;
    __atomic_store_n(&img->size, size, __ATOMIC_RELAXED);
    return true;
}

bool image_reopen(BlockImage *img, bool readonly, GError **error)
{
    bool was = img->readonly;

    if (was == readonly)
        return true;
    if (!was && img->format->reopen && !img->format->reopen(img, readonly, error))
        return false;
    if (!img->file->ops->reopen(img->file, readonly, error))
        return false;
    img->readonly = readonly;
    if (was && img->format->reopen && !img->format->reopen(img, readonly, error)) {
        img->file->ops->reopen(img->file, true, NULL);
        img->readonly = true;
        return false;
    }
    return true;
}

void image_cancel(BlockImage *img)
{
    for (; img; img = img->backing)
        if (img->file->ops->cancel)
            img->file->ops->cancel(img->file);
}

bool image_set_backing(BlockImage *img, const char *path, const char *format,
                       GError **error)
{
    if (!must_write(img, error))
        return false;
    if (!img->format->set_backing)
        return cannot(img, "backing image", error);
    if (!img->format->set_backing(img, path, format, error))
        return false;
    image_mark_backing(img->file, path);
    return true;
}

json_t *image_info(BlockImage *img)
{
    json_t *info = json_pack("{s:s, s:s, s:I}", "filename", img->path, "format",
                             img->format->name, "virtual-size",
                             (json_int_t)image_size_now(img));

    if (info && img->format->info)
        img->format->info(img, info);
    return info;
}

bool image_check(BlockImage *img, ImageRepair repair, ImageCheck *ret,
                 void (*say)(void *opaque, const char *text), void *opaque,
                 GError **error)
{
    *ret = (ImageCheck){.supported = img->format->check != NULL};
    if (!ret->supported)
        return true;
    return (repair == IMAGE_REPAIR_NONE || must_write(img, error)) &&
           img->format->check(img, repair, ret, say, opaque, error);
}

void image_snapshots_free(ImageSnapshot *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_free(list[i].id);
        g_free(list[i].name);
    }
    g_free(list);
}

bool image_snapshot_list(BlockImage *img, ImageSnapshot **ret, unsigned *ret_n,
                         GError **error)
{
    *ret = NULL;
    *ret_n = 0;
    return !img->format->snapshot_list ||
           img->format->snapshot_list(img, ret, ret_n, error);
}

bool image_snapshot_create(BlockImage *img, const char *name, GError **error)
{
    if (!img->format->snapshot_create)
        return cannot(img, "internal snapshots", error);
    return must_write(img, error) && img->format->snapshot_create(img, name, error);
}

bool image_snapshot_apply(BlockImage *img, const char *id_or_name, GError **error)
{
    if (!img->format->snapshot_apply)
        return cannot(img, "internal snapshots", error);
    return must_write(img, error) && img->format->snapshot_apply(img, id_or_name, error);
}

bool image_snapshot_delete(BlockImage *img, const char *id_or_name, GError **error)
{
    if (!img->format->snapshot_delete)
        return cannot(img, "internal snapshots", error);
    return must_write(img, error) && img->format->snapshot_delete(img, id_or_name, error);
}
