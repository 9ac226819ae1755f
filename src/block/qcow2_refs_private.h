/* Private to qcow2_refcount.c and qcow2_alloc.c: counting references, and taking
 * clusters. All of it with the image's lock held. */
#pragma once

#include "qcow2_private.h"

enum { QCOW2_MAX_RUNS = 512 };

typedef struct Qcow2Run {
    uint64_t start, n; /* clusters */
} Qcow2Run;

struct Qcow2Refs {
    unsigned order;      /* log2 of a refcount's bits */
    unsigned block_bits; /* log2 of the refcounts in a block */
    uint64_t *table;     /* offsets of blocks; may be larger than on the disk */
    uint64_t entries;
    uint64_t dirty_from, dirty_to; /* entries changed; the same: none */
    uint64_t written;              /* qcow2_syncs() when some were written last */
    uint64_t new_home;             /* where the larger table goes; 0: it is at home */
    GHashTable *given_back;        /* cluster -> references, not yet subtracted */

    /* qcow2_alloc.c's */
    uint64_t tail; /* first cluster that nobody ever used */
    bool tail_known;
    uint64_t hand, hand_end;       /* clusters that the hand is still to pass over */
    Qcow2Run runs[QCOW2_MAX_RUNS]; /* given back, and free */
    unsigned n_runs;
    Qcow2Run lost; /* what there was no room for: n, the first of them at start */
    uint64_t pack; /* where the next compressed data goes; 0: nowhere yet */
};

static inline uint64_t to_offset(const Qcow2 *s, uint64_t cluster)
{
    return cluster << s->h.cluster_bits;
}

static inline uint64_t to_cluster(const Qcow2 *s, uint64_t offset)
{
    return offset >> s->h.cluster_bits;
}

/* ---- qcow2_refcount.c ----------------------------------------------------------------
 */

/* Refcounts that follow one another in one page. */
typedef struct Qcow2Span {
    Qcow2Page *page; /* NULL: all are 0, for lack of a block */
    uint64_t first;  /* index in the page */
    uint64_t n;
} Qcow2Span;

/* Those of up to n clusters from `cluster` on. */
int qcow2_span_get(Qcow2 *s, uint64_t cluster, uint64_t n, Qcow2Span *ret);
/* The same in a block of which the table need not know; new: see qcow2_page_get(). */
int qcow2_span_in(Qcow2 *s, uint64_t block, uint64_t cluster, uint64_t n, bool new_,
                  Qcow2Span *ret);
void qcow2_span_put(Qcow2 *s, Qcow2Span *span);
uint64_t qcow2_span_load(const Qcow2 *s, const Qcow2Span *span, uint64_t i);
void qcow2_span_store(Qcow2 *s, Qcow2Span *span, uint64_t i, uint64_t value);

/* Enters a refcount block into the table. */
void qcow2_reftable_set(Qcow2 *s, uint64_t index, uint64_t offset);

/* ---- qcow2_alloc.c -------------------------------------------------------------------
 */

/* Finds out where the tail begins, once. */
int qcow2_find_tail(Qcow2 *s);
/* Gives the refcount of `cluster` a block to be in. */
int qcow2_place_block(Qcow2 *s, uint64_t cluster);
/* Clusters that nobody refers to now, nor does anything on the disk. */
void qcow2_freed(Qcow2 *s, Qcow2Run run);
