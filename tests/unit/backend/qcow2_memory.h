/* qcow2 images in memory, for tests. */
#pragma once

#include "memfile.h"
#include "qcow2_judge.h"
#include "src/block/qcow2_private.h"

static const ImageCreate usual = {
    .path = (char *)"memory.qcow2",
    .size = 64 * MIB,
    .cluster_size = 64 * KIB,
    .refcount_bits = 16,
    .compat = IMAGE_COMPAT_1_1,
};

static inline MemFile *new_image(const ImageCreate *how)
{
    MemFile *m = mem_new();
    BlockFile *f = mem_file(m, false);
    GError *error = NULL;

    qcow2_create(f, how, &error);
    g_assert_no_error(error);
    block_file_close(f);
    return m;
}

static inline BlockImage *open_image(MemFile *m, bool readonly, unsigned flags)
{
    const BlockOptions options = {.readonly = readonly};
    GError *error = NULL;
    BlockImage *img = mem_open(m, &options, flags, &error);

    g_assert_no_error(error);
    return img;
}

static inline void close_image(BlockImage *img)
{
    GError *error = NULL;

    image_close(img, &error);
    g_assert_no_error(error);
}

static inline void must_be_clean(const MemFile *m)
{
    Verdict v = judge(m->bytes->data, m->bytes->len);

    g_assert_cmpstr(v.first, ==, "");
    g_assert_cmpuint(v.leaks, ==, 0);
}

static inline void put(MemFile *m, uint64_t at, uint64_t value, unsigned size)
{
    if (at + size > m->bytes->len)
        mem_resize(m->bytes, at + size);
    for (unsigned i = 0; i < size; i++)
        m->bytes->data[at + i] = (uint8_t)(value >> (8 * (size - 1 - i)));
}
