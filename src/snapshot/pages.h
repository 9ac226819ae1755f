/* Which pages of guest RAM a snapshot has to hold: sets of them, and how they are told.
 * A set is a bitmap by page of the RAM file. */
#pragma once

#include "core/guestmem.h"
#include "snapshot/memory.h"

typedef struct PageSet {
    uint64_t *bits;
    uint64_t n_pages, n_words;
} PageSet;

bool pages_init(PageSet *s, const GuestMem *gm, GError **error);
void pages_clear(PageSet *s); /* to the empty set */
void pages_free(PageSet *s);  /* harmless on a zeroed one */
void pages_fill(PageSet *s);  /* with all pages */
void pages_add(PageSet *s, const PageSet *other);
uint64_t pages_count(const PageSet *s);

/* The next run of pages in the set at or after *page, at most `most` of them; false:
 * there is none. */
bool pages_next(const PageSet *s, uint64_t *page, unsigned *n, unsigned most);

/* Adds the pages that may hold anything but zeroes, by what the host's kernel has behind
 * them.  Of RAM that is mapped from a snapshot's files, `from` says what those have. */
bool pages_add_used(PageSet *s, const GuestMem *gm, SnapMemory *from, GError **error);

/* Adds the pages of a VM restored from a snapshot that are not the snapshot's any more:
 * the kernel copied them when they were written. */
bool pages_add_changed(PageSet *s, const GuestMem *gm, GError **error);
