/* A judge of qcow2 images in memory that shares no code with ours: walks header, tables
 * and snapshots, counts, and compares, with the rules of qemu-img check. */
#pragma once

#include <endian.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct Verdict {
    unsigned errors, leaks;
    bool dirty;
    char first[128]; /* the first error */
} Verdict;

typedef struct Judge {
    const uint8_t *p;
    uint64_t len, cs, n;
    unsigned bits, order, entry_size;
    bool data_file;
    uint32_t *count;
    uint64_t *stored;
    Verdict *v;
} Judge;

static inline uint64_t judge_be(const Judge *j, uint64_t at, unsigned size)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v = v << 8 | (at + i < j->len ? j->p[at + i] : 0);
    return v;
}

static inline void judge_error(Judge *j, const char *what, uint64_t where)
{
    if (!j->v->errors++)
        g_snprintf(j->v->first, sizeof(j->v->first), "%s 0x%" G_GINT64_MODIFIER "x", what,
                   where);
}

static inline void judge_use(Judge *j, uint64_t offset, uint64_t len)
{
    for (uint64_t c = offset / j->cs; len && c <= (offset + len - 1) / j->cs; c++) {
        if (c < j->n)
            j->count[c]++;
        else
            judge_error(j, "reference far beyond the file", offset);
    }
}

static inline uint64_t judge_stored(const Judge *j, uint64_t offset)
{
    return offset / j->cs < j->n ? j->stored[offset / j->cs] : 0;
}

static inline void judge_l2(Judge *j, uint64_t table, bool active)
{
    for (uint64_t i = 0; i < j->cs / j->entry_size; i++) {
        uint64_t e = judge_be(j, table + i * j->entry_size, 8);
        uint64_t offset = e & 0x00fffffffffffe00ull;

        if (e >> 62 & 1) {
            unsigned x = 62 - (j->bits - 8);
            uint64_t at = e & ((1ull << x) - 1);
            uint64_t sectors = ((e & ~(3ull << 62)) >> x) + 1;

            if (e >> 63)
                judge_error(j, "COPIED on a compressed entry", table);
            judge_use(j, at & ~511ull, sectors * 512);
        } else if (offset && !j->data_file) {
            if (offset % j->cs)
                judge_error(j, "data cluster not aligned", offset);
            judge_use(j, offset, j->cs);
            if (active && (judge_stored(j, offset) == 1) != (e >> 63))
                judge_error(j, "COPIED flag of a data cluster", offset);
        }
    }
}

static inline void judge_l1(Judge *j, uint64_t l1, uint64_t entries, bool active)
{
    judge_use(j, l1, entries * 8);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t e = judge_be(j, l1 + i * 8, 8), offset = e & 0x00fffffffffffe00ull;

        if (!offset)
            continue;
        if (offset % j->cs || offset >= j->len) {
            judge_error(j, "L2 table is nowhere", offset);
            continue;
        }
        judge_use(j, offset, j->cs);
        if (active && (judge_stored(j, offset) == 1) != (e >> 63))
            judge_error(j, "COPIED flag of an L2 table", offset);
        judge_l2(j, offset, active);
    }
}

static inline void judge_refcounts(Judge *j)
{
    uint64_t table = judge_be(j, 48, 8), clusters = judge_be(j, 56, 4);
    uint64_t per_block = j->cs * 8 >> j->order;

    judge_use(j, table, clusters * j->cs);
    for (uint64_t i = 0; i < clusters * j->cs / 8; i++) {
        uint64_t block = judge_be(j, table + i * 8, 8);

        if (!block)
            continue;
        if (block % j->cs || block >= j->len) {
            judge_error(j, "refcount block is nowhere", block);
            continue;
        }
        judge_use(j, block, j->cs);
        for (uint64_t k = 0; k < per_block && i * per_block + k < j->n; k++) {
            unsigned bits = 1u << j->order;
            uint64_t v;

            if (bits >= 8)
                v = judge_be(j, block + k * (bits / 8), bits / 8);
            else
                v = judge_be(j, block + k * bits / 8, 1) >> (k * bits % 8) &
                    ((1u << bits) - 1);
            j->stored[i * per_block + k] = v;
        }
    }
}

static inline void judge_snapshots(Judge *j)
{
    uint64_t n = judge_be(j, 60, 4), at = judge_be(j, 64, 8), start = at;

    for (uint64_t i = 0; i < n && at < j->len; i++) {
        judge_l1(j, judge_be(j, at, 8), judge_be(j, at + 8, 4), false);
        at += 40 + judge_be(j, at + 36, 4) + judge_be(j, at + 12, 2) +
              judge_be(j, at + 14, 2);
        at = (at + 7) & ~7ull;
    }
    if (n)
        judge_use(j, start, at - start);
}

/* Small files only: they are counted cluster by cluster. */
static inline Verdict judge(const uint8_t *p, uint64_t len)
{
    Verdict v = {0};
    Judge j = {.p = p, .len = len, .v = &v};
    bool v3 = judge_be(&j, 4, 4) == 3;
    uint64_t incompatible = v3 ? judge_be(&j, 72, 8) : 0;

    if (judge_be(&j, 0, 4) != 0x514649fb) {
        judge_error(&j, "magic", 0);
        return v;
    }
    v.dirty = incompatible & 1;
    j.data_file = incompatible & 4;
    j.entry_size = incompatible & 16 ? 16 : 8;
    j.bits = (unsigned)judge_be(&j, 20, 4);
    j.cs = 1ull << j.bits;
    j.order = v3 ? (unsigned)judge_be(&j, 96, 4) : 4;
    j.n = len / j.cs + 4096; /* clusters may be taken, and the file not be as long */
    j.count = g_new0(uint32_t, j.n);
    j.stored = g_new0(uint64_t, j.n);
    judge_use(&j, 0, j.cs);
    judge_refcounts(&j);
    judge_l1(&j, judge_be(&j, 40, 8), judge_be(&j, 36, 4), true);
    judge_snapshots(&j);
    for (uint64_t c = 0; c < j.n; c++) {
        if (j.stored[c] < j.count[c])
            judge_error(&j, "refcount too low at", c * j.cs);
        v.leaks += j.stored[c] > j.count[c];
    }
    g_free(j.count);
    g_free(j.stored);
    return v;
}
