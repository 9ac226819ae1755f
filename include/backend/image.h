/* Disk images as tools and jobs see them: opened, read and written step by step, on a
 * thread that may sleep.  A VM's requests take the path of backend/block.h instead, over
 * the same images.
 *
 * An image is a format over a file (or a host device, or an NBD export), and below it
 * there may be a backing image, whose contents show where the upper one has none.
 *
 * Unless said otherwise any thread that may sleep calls these, several at a time for
 * reading and writing; opening, closing and what changes the chain is for one thread,
 * with nobody else using the image.  What returns int returns 0 or an errno. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "backend/block.h"

typedef struct BlockImage BlockImage;

enum {
    IMAGE_NO_BACKING = 1, /* the backing image is not opened and reads as zeroes */
    IMAGE_FOR_CHECK = 2,  /* opened also if dirty (and left so) or marked corrupt */
};

/* Follows the backing chain as options->backing allows.  Locks every file of it, the top
 * one for writing unless options->readonly.  Errors name the file and, for a malformed
 * image, the field. */
BlockImage *image_open(const BlockOptions *options, unsigned flags, GError **error);

/* Writes back what is cached, also of the images below; NULL is fine.  image_close()
 * reports what could not be written as an error; g_autoptr's only logs it. */
bool image_close(BlockImage *img, GError **error);
void image_free(BlockImage *img);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockImage, image_free)

uint64_t image_size(const BlockImage *img); /* bytes */
bool image_readonly(const BlockImage *img);
const char *image_path(const BlockImage *img); /* as it was given */
const char *image_format(const BlockImage *img);
BlockImage *image_backing(const BlockImage *img); /* NULL: none; stays the image's */

/* The list holds at least skip + len bytes, the first `skip` of which are left alone.
 * Ranges lie within the image, in bytes: any alignment. */
int image_readv(BlockImage *img, uint64_t offset, const struct iovec *iov, unsigned n_iov,
                uint64_t skip, uint64_t len);
int image_writev(BlockImage *img, uint64_t offset, const struct iovec *iov,
                 unsigned n_iov, uint64_t skip, uint64_t len);
int image_read(BlockImage *img, uint64_t offset, void *buf, size_t len);
int image_write(BlockImage *img, uint64_t offset, const void *buf, size_t len);
int image_zero(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap);
int image_discard(BlockImage *img, uint64_t offset, uint64_t len); /* a hint */
int image_flush(BlockImage *img); /* what was written is on the disk afterwards */

/* Writes a whole cluster compressed, where nothing is allocated yet (convert).  len is
 * the cluster size, or less at the end of the image.  ENOTSUP: the format cannot. */
int image_write_compressed(BlockImage *img, uint64_t offset, const void *buf, size_t len);

/* Makes the range this layer's own, with the contents it shows now: what is not allocated
 * here is copied from below.  Atomic towards writers of the same range.  What reads as
 * zeroes stays without data where the format can say so. */
int image_copy_up(BlockImage *img, uint64_t offset, uint64_t len);

/* What one layer has at an offset: the longest stretch of one kind from there, at most
 * `len` bytes. */
typedef enum {
    EXTENT_DATA,       /* bytes of a file */
    EXTENT_ZERO,       /* zeroes, by the word of this layer */
    EXTENT_HOLE,       /* nothing: shows what is below, or zeroes where nothing is */
    EXTENT_COMPRESSED, /* data that has to be unpacked */
} ExtentKind;

typedef struct BlockFile BlockFile; /* src/block's */

typedef struct Extent {
    ExtentKind kind;
    uint64_t len;
    BlockFile *file;      /* DATA */
    uint64_t file_offset; /* DATA; COMPRESSED: where the packed bytes begin */
    bool in_place;        /* DATA: may be overwritten right there */
    bool preallocated;    /* ZERO: has a place in the file all the same */
} Extent;

int image_extent(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret);

/* The same through the whole chain: never HOLE but below the last image (then ZERO);
 * *ret_depth (may be NULL) counts layers from 0. */
int image_chain_extent(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret,
                       unsigned *ret_depth);

/* The file that has the bytes of a DATA or preallocated extent. */
const char *image_extent_path(const Extent *e);

/* Copies a range that image_extent() of `from` calls DATA to the same place of `to`, a
 * raw image, within the kernel: without copying where the file system can share blocks,
 * else by copy_file_range() if `copy`.  ENOTSUP: not these two; nothing was changed that
 * must not be written anyhow. */
int image_copy_range(BlockImage *from, BlockImage *to, uint64_t offset, uint64_t len,
                     bool copy);

bool image_resize(BlockImage *img, uint64_t size, GError **error);

/* Changes only what the image says is below it; path NULL: nothing.  The reference is
 * marked as one made by hutch, so that it is followed without backing=on. */
bool image_set_backing(BlockImage *img, const char *path, const char *format,
                       GError **error);

/* What is kept below a VM's overlay cannot be used by a VM for writing, until it has what
 * the overlay had. */
void image_set_committed(BlockImage *img);

/* ---- making ---------------------------------------------------------------------------
 */

typedef struct ImageCreate {
    char *path;    /* must not exist, unless `overwrite` */
    int format;    /* BlockFormat; AUTO goes by the name */
    uint64_t size; /* 0 with a backing image: as large as that */
    char *backing, *backing_format;
    bool unsafe_backing; /* the backing image need not exist, nor be opened */
    bool overwrite;
    /* qcow2 */
    uint64_t cluster_size;
    uint64_t refcount_bits;
    int compat; /* ImageCompat */
    bool lazy_refcounts, extended_l2;
    char *data_file;
    bool data_file_raw;
    int compression;   /* ImageCompression */
    int preallocation; /* ImagePreallocation */
} ImageCreate;
typedef enum { IMAGE_COMPAT_0_10, IMAGE_COMPAT_1_1 } ImageCompat;
typedef enum { IMAGE_ZLIB, IMAGE_ZSTD } ImageCompression;
typedef enum {
    IMAGE_PREALLOC_OFF,
    IMAGE_PREALLOC_METADATA,
    IMAGE_PREALLOC_FALLOC,
    IMAGE_PREALLOC_FULL,
} ImagePreallocation;
extern const char *const image_compat_names[], *const image_compression_names[],
                                                   *const image_preallocation_names[];
extern const ParamTable
    image_create_params; /* of struct ImageCreate: names as qemu-img's */

/* Complete under its name, or not there: it is made under a temporary one. */
bool image_create(const ImageCreate *how, GError **error);

/* ---- about them -----------------------------------------------------------------------
 */

/* What `qemu-img info --output=json` says, with its keys; one layer. */
json_t *image_info(BlockImage *img);

/* A new string of 16 characters that the file of an image is known by: another one after
 * any write to it.  By its size and both ends, and by the time of the last write if
 * `by_time`: a copy may have another one.  IMAGE_UNKNOWN: it is an NBD export. */
#define IMAGE_UNKNOWN "unknown"
char *image_identity(const char *path, bool by_time, GError **error);

/* Whether somebody, a VM of ours or QEMU's or a tool, holds locks on the file. */
bool image_in_use(const char *path, bool *ret, GError **error);

/* Copies a file, which is no link, where link(2) cannot: holes as holes, to a new one of
 * the same mode (less the umask), with the mark that says of an image that hutch put its
 * backing image there.  It is on the disk afterwards. */
bool image_copy_file(const char *from, const char *to, GError **error);

typedef struct ImageCheck {
    uint64_t errors, leaks, errors_fixed, leaks_fixed;
    uint64_t allocated_clusters, total_clusters, compressed_clusters, fragmented_clusters;
    uint64_t end_offset; /* of the file's last used byte */
    bool supported;      /* false: the format has nothing to check */
} ImageCheck;
typedef enum { IMAGE_REPAIR_NONE, IMAGE_REPAIR_LEAKS, IMAGE_REPAIR_ALL } ImageRepair;

/* `say` is called with one sentence for each thing found, at most a few hundred times.
 * False: the check could not be carried out. */
bool image_check(BlockImage *img, ImageRepair repair, ImageCheck *ret,
                 void (*say)(void *opaque, const char *text), void *opaque,
                 GError **error);

/* Internal snapshots.  Names as qemu-img: an id or a name. */
typedef struct ImageSnapshot {
    char *id, *name;
    uint64_t vm_state_size, disk_size;
    int64_t date_s, date_ns, vm_clock_ns;
} ImageSnapshot;
void image_snapshots_free(ImageSnapshot *list, unsigned n);
bool image_snapshot_list(BlockImage *img, ImageSnapshot **ret, unsigned *ret_n,
                         GError **error);
bool image_snapshot_create(BlockImage *img, const char *name, GError **error);
bool image_snapshot_apply(BlockImage *img, const char *id_or_name, GError **error);
bool image_snapshot_delete(BlockImage *img, const char *id_or_name, GError **error);
/* From now on the image, which is open read-only, shows what it showed then. */
bool image_snapshot_show(BlockImage *img, const char *id_or_name, GError **error);
