/* The order in which metadata goes to the disk: pages of L2 tables and of refcount
 * blocks, and the L1 table.
 *
 * The cached refcounts are never less than the counts that the disk's tables need:
 * references taken are counted in the page at once, references given back only when the
 * tables without them are on the disk (qcow2_refs_apply()).  So a refcount page may be
 * written at any time; an L2 page may be when the refcount pages, and the data that it
 * refers to, are on the disk, and the L1 table when the L2 pages are.  A page that leaves
 * the cache keeps to this too: it takes all others like it along, so that the price of
 * waiting for the disk is paid once for many. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_page_private.h"

enum { WRITE_AT_ONCE = 64 }; /* pages in a row */

/* ---- dirty pages --------------------------------------------------------------- */

void qcow2_page_mark_dirty(Qcow2 *s, Qcow2Page *page)
{
    Qcow2Pages *p = s->pages;

    if (page->kind == QCOW2_PAGE_L2 || !s->lazy)
        qcow2_changed(s);
    if (page->dirty)
        return;
    page->dirty = true;
    page->dirty_prev = NULL;
    page->dirty_next = p->dirty[page->kind];
    if (page->dirty_next)
        page->dirty_next->dirty_prev = page;
    p->dirty[page->kind] = page;
    p->n_dirty[page->kind]++;
}

void qcow2_page_mark_clean(Qcow2Pages *p, Qcow2Page *page)
{
    if (!page->dirty)
        return;
    page->dirty = false;
    if (page->dirty_next)
        page->dirty_next->dirty_prev = page->dirty_prev;
    if (page->dirty_prev)
        page->dirty_prev->dirty_next = page->dirty_next;
    else
        p->dirty[page->kind] = page->dirty_next;
    p->n_dirty[page->kind]--;
}

static int by_offset(const void *a, const void *b)
{
    const Qcow2Page *x = *(Qcow2Page *const *)a, *y = *(Qcow2Page *const *)b;

    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Pages that follow one another in the file go in one request. */
static int write_run(Qcow2 *s, Qcow2Page **run, uint32_t n)
{
    struct iovec iov[WRITE_AT_ONCE];
    int err;

    for (uint32_t i = 0; i < n; i++)
        iov[i] = (struct iovec){run[i]->data, s->page_size};
    s->pages->unsynced = true;
    err = block_file_rw(s->file, true, run[0]->offset, iov, n, 0,
                        (uint64_t)n * s->page_size);
    for (uint32_t i = 0; i < n && !err; i++) {
        run[i]->written = s->pages->sync;
        qcow2_page_mark_clean(s->pages, run[i]);
    }
    return err;
}

int qcow2_pages_write(Qcow2 *s, Qcow2PageKind kind)
{
    Qcow2Pages *p = s->pages;
    uint32_t n = 0, len;
    int err = 0;

    for (Qcow2Page *page = p->dirty[kind]; page; page = page->dirty_next)
        p->sorted[n++] = page;
    qsort(p->sorted, n, sizeof(*p->sorted), by_offset);
    for (uint32_t i = 0; i < n && !err; i += len) {
        uint64_t start = p->sorted[i]->offset;

        for (len = 1; i + len < n && len < WRITE_AT_ONCE; len++)
            if (p->sorted[i + len]->offset != start + (uint64_t)len * s->page_size)
                break;
        err = write_run(s, &p->sorted[i], len);
    }
    return err;
}

/* ---- the order of things ------------------------------------------------------- */

/* What could not be brought to the disk is to be written once more: the kernel reports
 * such a failure once, and forgets it. */
void qcow2_redo_written(Qcow2 *s)
{
    Qcow2Pages *p = s->pages;

    for (uint32_t i = 0; i < p->n_used; i++)
        if (p->page[i].known && p->page[i].written == p->sync)
            qcow2_page_mark_dirty(s, &p->page[i]);
    qcow2_refs_redo(s);
}

int qcow2_flush_files(Qcow2 *s)
{
    int err = s->data != s->file ? block_file_flush(s->data) : 0;

    return err ? err : block_file_flush(s->file);
}

/* Metadata and guest data. */
static int sync_all(Qcow2 *s)
{
    int err = qcow2_flush_files(s);

    if (err) {
        qcow2_redo_written(s);
        return err;
    }
    s->pages->sync++;
    s->pages->unsynced = false;
    return 0;
}

int qcow2_sync_metadata(Qcow2 *s)
{
    return s->pages->unsynced ? sync_all(s) : 0;
}

uint64_t qcow2_syncs(const Qcow2 *s)
{
    return s->pages->sync;
}

void qcow2_unsynced(Qcow2 *s)
{
    s->pages->unsynced = true;
}

static int write_refs(Qcow2 *s)
{
    int err = qcow2_pages_write(s, QCOW2_PAGE_REFCOUNT);

    return err ? err : qcow2_refs_write_table(s);
}

int qcow2_pages_write_back(Qcow2 *s)
{
    int err = 0;

    if (!s->lazy)
        err = write_refs(s);
    else if (s->pages->n_dirty[QCOW2_PAGE_L2] || s->l1_dirty)
        err = qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, true);
    if (!err && s->pages->n_dirty[QCOW2_PAGE_L2]) {
        err = sync_all(s);
        if (!err)
            err = qcow2_pages_write(s, QCOW2_PAGE_L2);
    }
    return err;
}

/* Writes the pieces of the L1 table that were changed. */
static int write_l1(Qcow2 *s)
{
    uint64_t piece[QCOW2_PAGE_SIZE / 8];
    int err = 0;

    for (uint32_t first = 0; first < s->h.l1_entries && !err;
         first += G_N_ELEMENTS(piece)) {
        uint32_t n = MIN(s->h.l1_entries - first, G_N_ELEMENTS(piece));
        uint32_t bit = first / G_N_ELEMENTS(piece);

        if (!(s->l1_dirty_map[bit / 64] & BIT64(bit % 64)))
            continue;
        for (uint32_t i = 0; i < n; i++)
            store_be64(&piece[i], s->l1[first + i]);
        err = block_file_write(s->file, s->h.l1_offset + (uint64_t)first * 8, piece,
                               (size_t)n * 8);
    }
    s->pages->unsynced = true;
    return err;
}

static int flush_l1(Qcow2 *s)
{
    int err = qcow2_sync_metadata(s); /* the L2 tables that it is to point to */

    if (!err)
        err = write_l1(s);
    if (!err)
        err = sync_all(s);
    if (!err) {
        memset(s->l1_dirty_map, 0, sizeof(s->l1_dirty_map));
        s->l1_dirty = false;
    }
    return err;
}

int qcow2_write_metadata(Qcow2 *s, bool *ret_synced)
{
    uint64_t sync = s->pages->sync;
    int err = qcow2_broken(s) ? EIO : qcow2_pages_write_back(s);

    if (!err && s->l1_dirty)
        err = flush_l1(s);
    if (!err && qcow2_refs_to_apply(s)) {
        err = qcow2_sync_metadata(s);
        if (!err)
            err = qcow2_refs_apply(s);
        if (!err && !s->lazy)
            err = write_refs(s);
        /* Should these be lost, clusters leak, and no more than that: nothing waits. */
        if (!err)
            s->pages->unsynced = false;
    }
    if (!err)
        __atomic_store_n(&s->changed, false, __ATOMIC_RELAXED);
    *ret_synced = !s->pages->unsynced && s->pages->sync != sync;
    return err;
}

int qcow2_flush_metadata(Qcow2 *s)
{
    bool synced;
    int err = qcow2_write_metadata(s, &synced);

    return err ? err : qcow2_sync_metadata(s);
}

int qcow2_settle(Qcow2 *s)
{
    int err = qcow2_flush_metadata(s);

    if (err || !s->lazy)
        return err;
    err = write_refs(s);
    if (!err)
        err = qcow2_sync_metadata(s);
    return err ? err : qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, false);
}
