/* The cache of metadata pages, as its files share it: qcow2_page.c (which pages are in
 * it) and qcow2_order.c (in which order they go to the disk).  Guarded by the image's
 * `lock`; what qcow2_page_peek() looks at is changed with page_lock held as well. */
#pragma once

#include "qcow2_private.h"

struct Qcow2Page {
    uint64_t offset;
    uint8_t *data;
    Qcow2Page *next;                    /* in its bucket, or in the free list */
    Qcow2Page *dirty_next, *dirty_prev; /* in the list of its kind */
    uint64_t written;                   /* Qcow2Pages.sync when it was written last */
    unsigned pins;
    uint8_t kind;
    bool known; /* in the hash */
    bool dirty;
    bool recent; /* atomic: used since the clock's hand came by */
};

struct Qcow2Pages {
    uint8_t *memory;
    size_t memory_size;
    Qcow2Page *page;
    Qcow2Page **sorted; /* room to sort dirty pages in */
    Qcow2Page **bucket;
    unsigned hash_bits, page_bits;
    uint32_t n, n_used; /* pages, and those of them that were ever used */
    uint32_t hand;
    Qcow2Page *free;
    Qcow2Page *dirty[2]; /* by kind */
    uint32_t n_dirty[2];
    bool unsynced; /* metadata was written since the last sync */
    uint64_t sync; /* counts syncs, from 1 */
};

/* ---- qcow2_order.c: lock held; 0 or an errno ----------------------------------- */

void qcow2_page_mark_dirty(Qcow2 *s, Qcow2Page *page);
void qcow2_page_mark_clean(Qcow2Pages *p, Qcow2Page *page);

/* All dirty pages of a kind, without a look at the order. */
int qcow2_pages_write(Qcow2 *s, Qcow2PageKind kind);
/* What must be before the L2 pages, and those, which are not synced. */
int qcow2_pages_write_back(Qcow2 *s);
