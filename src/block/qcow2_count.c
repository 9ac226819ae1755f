/* Counters for the clusters of a file, however large it says it is: pages of counters are
 * made where something is counted, and when there are too many, the window that is
 * counted gets shorter by the last of them. */
#include <stdlib.h>

#include "qcow2_survey_private.h"

typedef struct Page {
    uint64_t index; /* key: cluster / QCOW2_COUNTS_PAGE */
    uint32_t n[QCOW2_COUNTS_PAGE];
} Page;

struct Qcow2Counts {
    GHashTable *pages; /* of Page, by index */
    Page *last;        /* used */
    unsigned max_pages;
    uint64_t start, end;
    bool out_of_memory;
};

Qcow2Counts *qcow2_counts_new(uint64_t bytes)
{
    Qcow2Counts *c = g_new0(Qcow2Counts, 1);

    c->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, free, NULL);
    c->max_pages = (unsigned)MAX(bytes / sizeof(Page), 2);
    c->end = UINT64_MAX;
    return c;
}

void qcow2_counts_free(Qcow2Counts *c)
{
    if (!c)
        return;
    g_hash_table_destroy(c->pages);
    g_free(c);
}

void qcow2_counts_begin(Qcow2Counts *c, uint64_t start)
{
    g_hash_table_remove_all(c->pages);
    c->last = NULL;
    c->start = start;
    c->end = UINT64_MAX;
}

bool qcow2_counts_failed(const Qcow2Counts *c)
{
    return c->out_of_memory;
}

uint64_t qcow2_counts_start(const Qcow2Counts *c)
{
    return c->start;
}

uint64_t qcow2_counts_end(const Qcow2Counts *c)
{
    return c->end;
}

static Page *find_page(Qcow2Counts *c, uint64_t index)
{
    Page *page = c->last;

    if (page && page->index == index)
        return page;
    page = g_hash_table_lookup(c->pages, &index);
    if (page)
        c->last = page;
    return page;
}

uint32_t *qcow2_counts_page(Qcow2Counts *c, uint64_t cluster)
{
    Page *page = find_page(c, cluster / QCOW2_COUNTS_PAGE);

    return page ? page->n : NULL;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

GArray *qcow2_counts_pages(Qcow2Counts *c)
{
    GArray *firsts = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    GHashTableIter iter;
    Page *page;

    g_hash_table_iter_init(&iter, c->pages);
    while (g_hash_table_iter_next(&iter, (gpointer *)&page, NULL)) {
        uint64_t first = page->index * QCOW2_COUNTS_PAGE;

        g_array_append_val(firsts, first);
    }
    g_array_sort(firsts, by_value);
    return firsts;
}

/* Ends the window before the last page, which goes. */
static void drop_last_page(Qcow2Counts *c)
{
    GHashTableIter iter;
    Page *page, *last = NULL;

    g_hash_table_iter_init(&iter, c->pages);
    while (g_hash_table_iter_next(&iter, (gpointer *)&page, NULL))
        if (!last || page->index > last->index)
            last = page;
    c->end = last->index * QCOW2_COUNTS_PAGE;
    if (c->last == last)
        c->last = NULL;
    g_hash_table_remove(c->pages, last);
}

/* NULL: the window ends before this page, or there is no memory. */
static Page *make_page(Qcow2Counts *c, uint64_t index)
{
    Page *page = calloc(1, sizeof(*page));

    if (!page) {
        c->out_of_memory = true;
        return NULL;
    }
    page->index = index;
    g_hash_table_add(c->pages, page);
    if (g_hash_table_size(c->pages) > c->max_pages)
        drop_last_page(c);
    return find_page(c, index);
}

static void add_one(uint32_t *n, uint32_t weight, bool table)
{
    uint32_t count = *n & QCOW2_COUNT_MASK;

    if (count && (table || (*n & QCOW2_COUNT_TABLE)))
        *n |= QCOW2_COUNT_CLASH;
    *n |= table ? QCOW2_COUNT_TABLE : 0;
    count = weight < QCOW2_COUNT_MASK - count ? count + weight : QCOW2_COUNT_MASK;
    *n = (*n & ~QCOW2_COUNT_MASK) | count;
}

void qcow2_counts_add(Qcow2Counts *c, uint64_t cluster, uint64_t n, uint32_t weight,
                      bool table)
{
    for (uint64_t i = cluster; i - cluster < n && i < c->end; i++) {
        uint64_t index = i / QCOW2_COUNTS_PAGE;
        Page *page;

        if (i < c->start)
            continue;
        page = find_page(c, index);
        if (!page)
            page = make_page(c, index);
        if (page)
            add_one(&page->n[i % QCOW2_COUNTS_PAGE], weight, table);
    }
}
