/* Raw images and host block devices: byte n of the disk is byte n of the file.
 *
 * Contents are never a reason to treat a file as anything but raw; a guest could
 * otherwise write another format's header, with a backing file of its choice in it, and
 * be handed that file at the next start.  The one thing a header does is make us refuse,
 * when format=raw was not given: then it is likely the user who mistook the file. */
#include <string.h>

#include "block_private.h"
#include "util/log.h"

enum { HEAD_SIZE = 512 };

static const struct Magic {
    const char *format, *bytes;
    unsigned offset, len;
    const char *convert; /* its name for qemu-img */
} magics[] = {
    {"qcow2", "QFI\xfb", 0, 4, "qcow2"},
    {"QED", "QED\0", 0, 4, "qed"},
    {"VMDK", "KDMV", 0, 4, "vmdk"},
    {"VMDK", "COWD", 0, 4, "vmdk"},
    {"VMDK", "# Disk DescriptorFile", 0, 21, "vmdk"},
    {"VHDX", "vhdxfile", 0, 8, "vhdx"},
    {"VHD", "conectix", 0, 8, "vpc"},
    {"VDI", "\x7f\x10\xda\xbe", 0x40, 4, "vdi"},
    {"Parallels", "WithoutFreeSpace", 0, 16, "parallels"},
    {"Parallels", "WithouFreSpacExt", 0, 16, "parallels"},
};

static bool raw_open(BlockDev *dev, bool named, GError **error)
{
    uint8_t head[HEAD_SIZE];
    size_t len = sizeof(head);

    if (!block_read_head(dev, head, &len, error))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(magics) && !named; i++) {
        const struct Magic *m = &magics[i];

        if (m->offset + m->len <= len && !memcmp(head + m->offset, m->bytes, m->len))
            return fail(error, VM_ERROR_INVALID,
                        "'%s' begins like a %s image, but would be used as a raw one: "
                        "add format=raw if it is, else convert it with 'qemu-img "
                        "convert -f %s -O raw'",
                        dev->path, m->format, m->convert);
    }
    if (dev->size < BLOCK_SECTOR)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is %s: a disk needs at least one sector of %d bytes (make it "
                    "larger with 'truncate -s 1G')",
                    dev->path, dev->size ? "too small" : "empty", BLOCK_SECTOR);
    if (dev->size % BLOCK_SECTOR) {
        log_warn("'%s': the last %u bytes are less than a sector; the guest does not see "
                 "them",
                 dev->path, (unsigned)(dev->size % BLOCK_SECTOR));
        dev->size -= dev->size % BLOCK_SECTOR;
    }
    return true;
}

static bool raw_map(const BlockDev *dev, const BlockReq *req, uint64_t *ret_offset)
{
    *ret_offset = req->offset;
    return true;
}

static int raw_perform(BlockDev *dev, const BlockReq *req, uint64_t skip, uint8_t *bounce)
{
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return block_file_rw(dev, req->op == BLOCK_WRITE, req->offset + skip, req, skip,
                             req->len - skip, bounce);
    case BLOCK_FLUSH:
        return block_file_flush(dev);
    case BLOCK_DISCARD:
        return block_file_discard(dev, req->offset, req->len);
    case BLOCK_WRITE_ZEROES:
        return block_file_zero(dev, req->offset, req->len, req->may_unmap, bounce);
    }
    return 0;
}

const BlockFormatOps block_raw_format = {
    .name = "raw", .open = raw_open, .map = raw_map, .perform = raw_perform};
