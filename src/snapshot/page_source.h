/* Where pages of guest RAM come from while the VM runs: files, or a server. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Used by one thread at a time, but for interrupt(). */
typedef struct PageSource PageSource;
struct PageSource {
    /* Reads n pages, at most PAGE_SOURCE_MOST.  After a failure it may be tried again. */
    bool (*read)(PageSource *s, uint64_t page, unsigned n, uint8_t *buf, GError **error);

    /* The next run of pages at or after *page that may not be zero; *n 0: there is none.
     */
    bool (*next)(PageSource *s, uint64_t *page, uint64_t *n, GError **error);

    /* Any thread: what waits for a server fails now, and so does what comes. */
    void (*interrupt)(PageSource *s);
    void (*close)(PageSource *s);
};

enum { PAGE_SOURCE_MOST = 512 };
