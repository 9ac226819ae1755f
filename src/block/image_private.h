/* Private to src/block: what an image format is.  One const table each, listed in
 * image.c; raw.c is the shortest example. */
#pragma once

#include "backend/image.h"
#include "file_private.h"

typedef struct FormatOps FormatOps;

/* Belongs to who opened it; requests come from several threads at a time. */
struct BlockImage {
    const FormatOps *format;
    BlockFile *file;
    char *path;
    uint64_t size; /* atomic: bytes the guest sees */
    bool readonly;
    bool unsettled;      /* atomic: a layer that may hold what is not on the disk yet; who
                            flushes the image above it flushes it, too (layer.c) */
    bool slow_discard;   /* discards and zeroes may free what a write in flight uses:
                            they run alone */
    BlockImage *backing; /* owned; changes only with nothing in flight */
    void *state;         /* the format's */
};

/* Any thread that may sleep, several at a time, except where said; int: 0 or an errno.
 * Ranges lie within the image. */
struct FormatOps {
    const char *name;

    /* The opener's thread, img->file open and locked.  Judges the file, which is hostile,
     * sets img->size and opens img->backing (image_open_backing()) and whatever else.
     * `options->format` says whether the user named the format. */
    bool (*open)(BlockImage *img, const BlockOptions *options, unsigned flags,
                 GError **error);
    /* Writes back what is cached, frees `state`; also of what is half open.  NULL: there
     * is nothing. */
    bool (*close)(BlockImage *img, GError **error);

    /* What is at `offset`, in at most `len` bytes (at least 1).  With may_sleep false it
     * is called on a disk's I/O thread, for every request, and must neither sleep nor
     * wait for one that does: EAGAIN says it is not known without. */
    int (*lookup)(BlockImage *img, uint64_t offset, uint64_t len, bool may_sleep,
                  Extent *ret);
    int (*write)(BlockImage *img, uint64_t offset, const struct iovec *iov,
                 unsigned n_iov, uint64_t skip, uint64_t len);
    int (*zero)(BlockImage *img, uint64_t offset, uint64_t len, bool may_unmap);
    int (*discard)(BlockImage *img, uint64_t offset, uint64_t len);
    int (*flush)(BlockImage *img);

    /* Any thread, without sleeping: true if flush() has more to do than to flush
     * img->file.  NULL: never. */
    bool (*flush_is_slow)(BlockImage *img);

    /* May be NULL, all of these: the format has nothing of the kind. */
    int (*read_compressed)(BlockImage *img, uint64_t offset, const struct iovec *iov,
                           unsigned n_iov, uint64_t skip, uint64_t len);
    int (*write_compressed)(BlockImage *img, uint64_t offset, const void *buf,
                            size_t len);
    int (*copy_up)(BlockImage *img, uint64_t offset, uint64_t len);
    bool (*resize)(BlockImage *img, uint64_t size, GError **error);
    bool (*reopen)(BlockImage *img, bool readonly,
                   GError **error); /* nothing in flight */
    bool (*set_backing)(BlockImage *img, const char *path, const char *format,
                        GError **error);
    void (*info)(BlockImage *img, json_t *into);
    bool (*check)(BlockImage *img, ImageRepair repair, ImageCheck *ret,
                  void (*say)(void *opaque, const char *text), void *opaque,
                  GError **error);
    bool (*snapshot_list)(BlockImage *img, ImageSnapshot **ret, unsigned *ret_n,
                          GError **error);
    bool (*snapshot_create)(BlockImage *img, const char *name, GError **error);
    bool (*snapshot_apply)(BlockImage *img, const char *name, GError **error);
    bool (*snapshot_delete)(BlockImage *img, const char *name, GError **error);
    bool (*snapshot_show)(BlockImage *img, const char *name, GError **error);

    /* Writes an empty image of how->size bytes into `file`, which is new and empty.
     * backing_size is 0 without. */
    bool (*create)(BlockFile *file, const ImageCreate *how, GError **error);
};
extern const FormatOps raw_format, qcow2_format;

/* For open(): reads the first *len bytes of the file; fewer at its end, with *len
 * changed. */
bool block_read_head(BlockFile *f, void *buf, size_t *len, GError **error);

/* For open(): opens `name`, which img says is below it in `format` (NULL: img does not
 * say), if options->backing and the mark on the file allow it; relative names count from
 * img's folder.  Sets img->backing. */
bool image_open_backing(BlockImage *img, const BlockOptions *options, unsigned flags,
                        const char *name, const char *format, GError **error);

/* Beside IMAGE_NO_BACKING and the like: how deep in a chain we are. */
enum { IMAGE_DEPTH_UNIT = 256 };

/* Whether options->backing and the mark allow img to name another file; `what` it is to
 * img ("backing image", "data file"). */
bool image_may_follow(const BlockImage *img, const BlockOptions *options,
                      const char *name, const char *what, GError **error);
/* A new string: a name in img's header, as seen from here. */
char *image_relative_path(const BlockImage *img, const char *name);

/* Marks the reference to a backing image as made by hutch: backing=auto follows it.  Only
 * a file can be marked, on a file system with extended attributes; others need
 * backing=on.
 */
void image_mark_backing(BlockFile *f, const char *name);
void image_copy_mark(int from, int to); /* file descriptors */

/* Marks what is kept below a VM's overlay with the overlay's name (NULL: no more).  Until
 * that is gone, or is over another image, no VM is to write to it: the overlay would show
 * what nobody wrote.  Returns false with the sentence, if so. */
void image_mark_overlay(BlockFile *f, const char *overlay);
bool image_check_overlay(const BlockImage *img, GError **error);

/* ---- image.c, for the disk and for jobs ----------------------------------------------
 */

/* A disk's I/O thread: FormatOps.lookup through the chain, without sleeping.  In place
 * only in the top layer. */
int image_lookup_now(BlockImage *img, uint64_t offset, uint64_t len, Extent *ret);
bool image_flush_is_slow(BlockImage *img);

/* Nothing in flight.  Changes one layer between read-only and writable; a failure leaves
 * it as it was. */
bool image_reopen(BlockImage *img, bool readonly, GError **error);

/* Any thread, nobody exchanging layers: what storage does not answer fails soon. */
void image_cancel(BlockImage *img);

const FormatOps *image_format_ops(int format, const char *path);

static inline uint64_t image_size_now(const BlockImage *img)
{
    return __atomic_load_n(&img->size, __ATOMIC_RELAXED);
}
