/* Raw images and host block devices: byte n of the disk is byte n of the file.
 *
 * Contents are never a reason to treat a file as anything but raw; a guest could
 * otherwise write another format's header, with a backing file of its choice in it, and
 * be handed that file at the next start.  The one thing a header does is make us refuse,
 * when format=raw was not given: then it is likely the user who mistook the file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "image_private.h"
#include "util/bits.h"
#include "util/log.h"

enum { HEAD_SIZE = 512 };

static const struct Magic {
    const char *format, *bytes;
    unsigned offset, len;
    const char *way_out;
} magics[] = {
    {"qcow2", "QFI\xfb", 0, 4, "format=qcow2 if that is what it is"},
    {"QED", "QED\0", 0, 4, "'hutch image import' otherwise"},
    {"VMDK", "KDMV", 0, 4, "'hutch image import' otherwise"},
    {"VMDK", "COWD", 0, 4, "'hutch image import' otherwise"},
    {"VMDK", "# Disk DescriptorFile", 0, 21, "'hutch image import' otherwise"},
    {"VHDX", "vhdxfile", 0, 8, "'hutch image import' otherwise"},
    {"VHD", "conectix", 0, 8, "'hutch image import' otherwise"},
    {"VDI", "\x7f\x10\xda\xbe", 0x40, 4, "'hutch image import' otherwise"},
    {"Parallels", "WithoutFreeSpace", 0, 16, "'hutch image import' otherwise"},
    {"Parallels", "WithouFreSpacExt", 0, 16, "'hutch image import' otherwise"},
};

static bool check_magic(BlockImage *img, GError **error)
{
    uint8_t head[HEAD_SIZE];
    size_t len = sizeof(head);

    if (!block_read_head(img->file, head, &len, error))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(magics); i++) {
        const struct Magic *m = &magics[i];

        if (m->offset + m->len <= len && !memcmp(head + m->offset, m->bytes, m->len))
            return fail(error, VM_ERROR_INVALID,
                        "'%s' begins like a %s image, but would be used as a raw one: "
                        "add format=raw if it is, %s",
                        img->path, m->format, m->way_out);
    }
    return true;
}

static bool raw_open(BlockImage *img, const BlockOptions *options, unsigned flags,
                     GError **error)
{
    BlockFile *f = img->file;

    if (options->format == BLOCK_FORMAT_AUTO && !check_magic(img, error))
        return false;
    if (f->size < BLOCK_SECTOR)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is %s: a disk needs at least one sector of %d bytes (make it "
                    "larger with 'truncate -s 1G')",
                    img->path, f->size ? "too small" : "empty", BLOCK_SECTOR);
    img->size = align_down(f->size, BLOCK_SECTOR);
    if (img->size != f->size)
        log_warn("'%s': the last %u bytes are less than a sector; the guest does not see "
                 "them",
                 img->path, (unsigned)(f->size % BLOCK_SECTOR));
    if (!is_aligned(img->size, f->io_align)) {
        if (options->cache == BLOCK_CACHE_NONE)
            return block_fail_direct(f, error);
        block_file_no_direct(f);
    }
    return true;
}

static int raw_lookup(BlockImage *img, uint64_t offset, uint64_t len, bool may_sleep,
                      Extent *ret)
{
    *ret = (Extent){.kind = EXTENT_DATA,
                    .len = len,
                    .file = img->file,
                    .file_offset = offset,
                    .in_place = !img->readonly};
    return 0;
}

static int raw_write(BlockImage *img, uint64_t offset, const struct iovec *iov,
                     unsigned n_iov, uint64_t skip, uint64_t len)
{
    return block_file_rw(img->file, true, offset, iov, n_iov, skip, len);
}

static int raw_zero(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap)
{
    return block_file_zero(img->file, offset, len, may_unmap);
}

static int raw_discard(BlockImage *img, uint64_t offset, uint64_t len)
{
    return block_file_discard(img->file, offset, len);
}

static int raw_flush(BlockImage *img)
{
    return block_file_flush(img->file);
}

static bool raw_resize(BlockImage *img, uint64_t size, GError **error)
{
    int err = block_file_truncate(img->file, size);

    if (err == ENOTSUP)
        return fail(
            error, VM_ERROR_UNSUPPORTED,
            "'%s' is no file, and its size is not ours to change: change it where "
            "it is kept, then ask again",
            img->path);
    errno = err;
    return !err || fail_errno(error, "'%s': change its size", img->path);
}

static bool raw_create(BlockFile *file, const ImageCreate *how, GError **error)
{
    uint64_t size = align_up(how->size, BLOCK_SECTOR);
    int err = block_file_truncate(file, size);

    if (!err && how->preallocation == IMAGE_PREALLOC_FALLOC)
        err = posix_fallocate(file->fd, 0, (off_t)size);
    else if (!err && how->preallocation == IMAGE_PREALLOC_FULL)
        err = block_file_zero(file, 0, size, false);
    errno = err;
    return !err || fail_errno(error, "'%s': give it %" G_GUINT64_FORMAT " bytes",
                              how->path, size);
}

const FormatOps raw_format = {
    .name = "raw",
    .open = raw_open,
    .lookup = raw_lookup,
    .write = raw_write,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .resize = raw_resize,
    .create = raw_create,
};
