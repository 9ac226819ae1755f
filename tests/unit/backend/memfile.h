/* A BlockFile in memory that keeps a log of what reaches it, so that a crash can be
 * played at any point, and that fails when it is told to. */
#pragma once

#include <errno.h>
#include <string.h>

#include "src/block/image_private.h"
#include "util/bits.h"
#include "util/iov.h"

typedef enum { MEM_WRITE, MEM_FLUSH, MEM_TRUNCATE, MEM_MARK } MemKind;

/* MARK: the test's own, with `offset` for its use. */
typedef struct MemEvent {
    MemKind kind;
    uint64_t offset, len;
    uint8_t *data; /* WRITE; NULL: zeroes */
} MemEvent;

typedef struct MemFile {
    GByteArray *bytes;
    GArray *log; /* NULL: none is kept */
    unsigned flushes, writes;
    unsigned fail_writes, fail_flushes; /* the next so many fail */
    unsigned good_flushes;              /* but for so many before that */
    unsigned fail_after;                /* the write that brings it to 0 fails */
    uint64_t limit;                     /* it gets no longer than this; 0: no limit */
} MemFile;

static inline MemFile *mem_of(BlockFile *f)
{
    return f->priv;
}

static inline void mem_resize(GByteArray *bytes, uint64_t size)
{
    guint old = bytes->len;

    g_byte_array_set_size(bytes, (guint)size);
    if (size > old)
        memset(bytes->data + old, 0, size - old);
}

static inline void mem_apply(GByteArray *to, const MemEvent *e)
{
    switch (e->kind) {
    case MEM_WRITE:
        if (e->data && e->offset + e->len > to->len)
            mem_resize(to, e->offset + e->len);
        if (e->data)
            memcpy(to->data + e->offset, e->data, e->len);
        else if (e->offset < to->len)
            memset(to->data + e->offset, 0, MIN(e->len, to->len - e->offset));
        break;
    case MEM_TRUNCATE:
        mem_resize(to, e->offset);
        break;
    case MEM_FLUSH:
    case MEM_MARK:
        break;
    }
}

static inline void mem_log(MemFile *m, MemEvent e)
{
    if (m->log)
        g_array_append_val(m->log, e);
    else
        g_free(e.data);
}

static inline void mem_do(BlockFile *f, MemEvent e)
{
    mem_apply(mem_of(f)->bytes, &e);
    __atomic_store_n(&f->size, mem_of(f)->bytes->len, __ATOMIC_RELAXED);
    mem_log(mem_of(f), e);
}

static inline bool mem_has_room(const MemFile *m, uint64_t offset, uint64_t len)
{
    return !m->limit || range_within(offset, len, m->limit);
}

static inline bool mem_fails(unsigned *countdown)
{
    if (!*countdown)
        return false;
    --*countdown;
    return true;
}

static inline int mem_rw(BlockFile *f, bool write, uint64_t offset,
                         const struct iovec *iov, unsigned n_iov, uint64_t skip,
                         uint64_t len)
{
    MemFile *m = mem_of(f);
    uint64_t there = offset < m->bytes->len ? MIN(len, m->bytes->len - offset) : 0;

    if (write) {
        MemEvent e = {MEM_WRITE, offset, len, g_malloc(len + 1)};

        m->writes++;
        if (mem_fails(&m->fail_writes) || (m->fail_after && !--m->fail_after)) {
            g_free(e.data);
            return EIO;
        }
        if (!mem_has_room(m, offset, len)) {
            g_free(e.data);
            return ENOSPC;
        }
        iov_to_buf(iov, n_iov, skip, e.data, len);
        mem_do(f, e);
        return 0;
    }
    if (there < len && !f->zero_tail)
        return EIO;
    if (there)
        iov_from_buf(iov, n_iov, skip, m->bytes->data + offset, there);
    iov_fill(iov, n_iov, skip + there, 0, len - there);
    return 0;
}

static inline int mem_flush(BlockFile *f)
{
    MemFile *m = mem_of(f);

    m->flushes++;
    if (m->good_flushes)
        m->good_flushes--;
    else if (mem_fails(&m->fail_flushes))
        return EIO;
    mem_log(m, (MemEvent){.kind = MEM_FLUSH});
    return 0;
}

static inline int mem_zero(BlockFile *f, uint64_t offset, uint64_t len, bool may_unmap)
{
    if (!mem_has_room(mem_of(f), offset, len))
        return ENOSPC;
    if (offset + len > mem_of(f)->bytes->len)
        mem_do(f, (MemEvent){MEM_TRUNCATE, offset + len, 0, NULL});
    mem_do(f, (MemEvent){MEM_WRITE, offset, len, NULL});
    return 0;
}

static inline int mem_discard(BlockFile *f, uint64_t offset, uint64_t len)
{
    mem_do(f, (MemEvent){MEM_WRITE, offset, len, NULL});
    return 0;
}

static inline int mem_truncate(BlockFile *f, uint64_t size)
{
    if (f->is_device)
        return size <= f->size ? 0 : ENOTSUP;
    if (!mem_has_room(mem_of(f), 0, size))
        return ENOSPC;
    mem_do(f, (MemEvent){MEM_TRUNCATE, size, 0, NULL});
    return 0;
}

static inline int mem_extent(BlockFile *f, uint64_t offset, uint64_t len, bool *ret_data,
                             uint64_t *ret_len)
{
    *ret_data = true;
    *ret_len = len;
    return 0;
}

static inline bool mem_reopen(BlockFile *f, bool readonly, GError **error)
{
    f->readonly = readonly;
    return true;
}

static inline void mem_free(MemFile *m)
{
    for (unsigned i = 0; m->log && i < m->log->len; i++)
        g_free(g_array_index(m->log, MemEvent, i).data);
    if (m->log)
        g_array_free(m->log, true);
    g_byte_array_free(m->bytes, true);
    g_free(m);
}

static inline void mem_close(BlockFile *f)
{
}

static const BlockFileOps mem_ops = {
    .name = "memory",
    .close = mem_close,
    .rw = mem_rw,
    .flush = mem_flush,
    .zero = mem_zero,
    .discard = mem_discard,
    .truncate = mem_truncate,
    .extent = mem_extent,
    .reopen = mem_reopen,
};

/* The memory stays the test's; the file is freed with block_file_close(). */
static inline BlockFile *mem_file(MemFile *m, bool readonly)
{
    BlockFile *f = g_new0(BlockFile, 1);

    f->ops = &mem_ops;
    f->path = g_strdup("memory.qcow2");
    f->fd = -1;
    f->size = m->bytes->len;
    f->readonly = readonly;
    f->can_discard = true;
    f->mem_align = f->io_align = 1;
    f->logical = f->physical = BLOCK_SECTOR;
    lock_init(&f->rmw_lock);
    f->priv = m;
    return f;
}

static inline MemFile *mem_new(void)
{
    MemFile *m = g_new0(MemFile, 1);

    m->bytes = g_byte_array_new();
    return m;
}

static inline MemFile *mem_copy(const GByteArray *bytes)
{
    MemFile *m = mem_new();

    g_byte_array_append(m->bytes, bytes->data, bytes->len);
    return m;
}

static inline BlockImage *mem_open(MemFile *m, const BlockOptions *options,
                                   unsigned flags, GError **error)
{
    BlockOptions o = *options;
    BlockImage *img = g_new0(BlockImage, 1);

    o.path = (char *)"memory.qcow2";
    img->path = g_strdup(o.path);
    img->readonly = o.readonly;
    img->file = mem_file(m, o.readonly);
    img->format = &qcow2_format;
    if (qcow2_format.open(img, &o, flags, error))
        return img;
    image_free(img);
    return NULL;
}
