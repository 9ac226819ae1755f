/* Counters and histograms that one thread writes and any may read.
 *
 * The writer loads and stores, both relaxed: on x86-64 that is what a plain `x += n`
 * costs, with no lock and no bus cycle of its own.  A reader sees each number whole,
 * though not all of them from the same moment. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The one thread that writes it. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n,
                     __ATOMIC_RELAXED);
}

/* Any thread. */
static inline uint64_t counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* How long things took: bucket i counts those below histogram_bound(i) nanoseconds and
 * not below the bound before; the last one has none.  From a microsecond to 8.6 seconds.
 */
enum { HISTOGRAM_SHIFT = 10, HISTOGRAM_BUCKETS = 25 };

typedef struct Histogram {
    uint64_t bucket[HISTOGRAM_BUCKETS];
} Histogram;

static inline uint64_t histogram_bound(unsigned bucket)
{
    return bucket < HISTOGRAM_BUCKETS - 1 ? 1ull << (bucket + HISTOGRAM_SHIFT)
                                          : UINT64_MAX;
}

static inline unsigned histogram_bucket(uint64_t ns)
{
    uint64_t above = ns >> HISTOGRAM_SHIFT;
    unsigned bits = above ? 64 - (unsigned)__builtin_clzll(above) : 0;

    return bits < HISTOGRAM_BUCKETS - 1 ? bits : HISTOGRAM_BUCKETS - 1;
}

/* The one thread that writes it. */
static inline void histogram_add(Histogram *h, uint64_t ns)
{
    counter_add(&h->bucket[histogram_bucket(ns)], 1);
}
