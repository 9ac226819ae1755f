/* The metadata cache: pages of L2 tables and of refcount blocks, and the order in which
 * they and the L1 table go to the disk.
 *
 * Its budget is reserved as address space and touched as it fills.  Pages are found by a
 * hash of their offset, and leave by the clock algorithm.  Who holds `lock` may read all
 * of this; changing what qcow2_page_peek() looks at, the hash and the bytes, takes
 * page_lock as well.
 *
 * Order.  The cached refcounts are never less than the counts that the disk's tables
 * need: references taken are counted in the page at once, references given back only when
 * the tables without them are on the disk (qcow2_refs_apply()).  So a refcount page may
 * be written at any time; an L2 page may be when the refcount pages, and the data that it
 * refers to, are on the disk, and the L1 table when the L2 pages are.  A page that leaves
 * the cache keeps to this too: it takes all others like it along, so that the price of
 * waiting for the disk is paid once for many. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "qcow2_private.h"

enum {
    READ_AHEAD = 16,     /* pages read at once while the cache is not full yet */
    WRITE_AT_ONCE = 64,  /* pages in a row */
    DIRTY_PATIENCE = 64, /* dirty pages that the clock passes before it writes them */
};

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

Qcow2Pages *qcow2_pages_new(Qcow2 *s)
{
    Qcow2Pages *p = g_new0(Qcow2Pages, 1);

    p->n = (uint32_t)CLAMP(s->cache_budget / s->page_size, 2, 1u << 24);
    p->page_bits = (unsigned)__builtin_ctz(s->page_size);
    p->hash_bits = 1;
    while (BIT(p->hash_bits) < p->n)
        p->hash_bits++;
    p->sync = 1;
    p->memory_size = align_up((uint64_t)p->n * s->page_size, QCOW2_PAGE_SIZE);
    p->memory = mmap(NULL, p->memory_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->page = calloc(p->n, sizeof(*p->page));
    p->sorted = calloc(p->n, sizeof(*p->sorted));
    p->bucket = calloc(BIT(p->hash_bits), sizeof(*p->bucket));
    if (p->memory != MAP_FAILED && p->page && p->sorted && p->bucket)
        return p;
    qcow2_pages_free(p);
    return NULL;
}

void qcow2_pages_free(Qcow2Pages *p)
{
    if (!p)
        return;
    if (p->memory != MAP_FAILED)
        munmap(p->memory, p->memory_size);
    free(p->page);
    free(p->sorted);
    free(p->bucket);
    g_free(p);
}

/* ---- the hash: changed with page_lock held -------------------------------------------
 */

static Qcow2Page **bucket_of(const Qcow2Pages *p, uint64_t offset)
{
    uint64_t hash = (offset >> p->page_bits) * 0x9e3779b97f4a7c15ull;

    return &p->bucket[hash >> (64 - p->hash_bits)];
}

static Qcow2Page *find(const Qcow2Pages *p, uint64_t offset)
{
    Qcow2Page *page = *bucket_of(p, offset);

    while (page && page->offset != offset)
        page = page->next;
    return page;
}

static void insert(Qcow2Pages *p, Qcow2Page *page)
{
    Qcow2Page **bucket = bucket_of(p, page->offset);

    page->next = *bucket;
    page->known = true;
    *bucket = page;
}

static void forget(Qcow2Pages *p, Qcow2Page *page)
{
    Qcow2Page **at = bucket_of(p, page->offset);

    while (*at != page)
        at = &(*at)->next;
    *at = page->next;
    page->known = false;
}

/* ---- dirty pages ----------------------------------------------------------------------
 */

static void mark_dirty(Qcow2 *s, Qcow2Page *page)
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

static void mark_clean(Qcow2Pages *p, Qcow2Page *page)
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
        mark_clean(s->pages, run[i]);
    }
    return err;
}

static int write_kind(Qcow2 *s, Qcow2PageKind kind)
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

/* ---- the order of things --------------------------------------------------------------
 */

/* What could not be brought to the disk is to be written once more: the kernel reports
 * such a failure once, and forgets it. */
void qcow2_redo_written(Qcow2 *s)
{
    Qcow2Pages *p = s->pages;

    for (uint32_t i = 0; i < p->n_used; i++)
        if (p->page[i].known && p->page[i].written == p->sync)
            mark_dirty(s, &p->page[i]);
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
    int err = write_kind(s, QCOW2_PAGE_REFCOUNT);

    return err ? err : qcow2_refs_write_table(s);
}

/* Up to the L2 pages, which are not synced. */
static int write_back(Qcow2 *s)
{
    int err = 0;

    if (!s->lazy)
        err = write_refs(s);
    else if (s->pages->n_dirty[QCOW2_PAGE_L2] || s->l1_dirty)
        err = qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, true);
    if (!err && s->pages->n_dirty[QCOW2_PAGE_L2]) {
        err = sync_all(s);
        if (!err)
            err = write_kind(s, QCOW2_PAGE_L2);
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
    int err = qcow2_broken(s) ? EIO : write_back(s);

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

/* ---- taking a page
 * ---------------------------------------------------------------------
 */

/* The clock: a page that is neither in use nor was used since the hand came by.  Clean
 * ones go first; when many dirty ones are passed, all are written. */
static int evict(Qcow2 *s, Qcow2Page **ret)
{
    Qcow2Pages *p = s->pages;
    unsigned dirty = 0, rounds = 0;

    for (uint32_t seen = 0;; seen++) {
        Qcow2Page *page = &p->page[p->hand];
        bool round_done = seen == 2 * p->n;

        if (dirty == DIRTY_PATIENCE || (round_done && dirty)) {
            int err = write_back(s);

            if (err)
                return err;
            dirty = 0;
        }
        if (round_done) {
            if (rounds++)
                return EBUSY; /* all are in use */
            seen = 0;
        }
        p->hand = (p->hand + 1) % p->n;
        if (page->pins || !page->known ||
            (__atomic_exchange_n(&page->recent, false, __ATOMIC_RELAXED) && !rounds))
            continue;
        if (page->dirty && page->kind == QCOW2_PAGE_REFCOUNT) {
            int err = write_kind(s, QCOW2_PAGE_REFCOUNT);

            if (err)
                return err;
        }
        if (page->dirty) {
            dirty++;
            continue;
        }
        lock_acquire(&s->page_lock);
        forget(p, page);
        lock_release(&s->page_lock);
        *ret = page;
        return 0;
    }
}

static int take(Qcow2 *s, Qcow2Page **ret)
{
    Qcow2Pages *p = s->pages;

    if (p->free) {
        *ret = p->free;
        p->free = p->free->next;
    } else if (p->n_used < p->n) {
        *ret = &p->page[p->n_used];
        (*ret)->data = p->memory + (size_t)p->n_used * s->page_size;
        p->n_used++;
    } else {
        return evict(s, ret);
    }
    return 0;
}

static void give_back(Qcow2Pages *p, Qcow2Page *page)
{
    page->next = p->free;
    p->free = page;
}

static void add(Qcow2 *s, Qcow2Page *page, Qcow2PageKind kind, uint64_t offset)
{
    page->offset = offset;
    page->kind = kind;
    page->pins = 0;
    page->written = 0;
    __atomic_store_n(&page->recent, false, __ATOMIC_RELAXED);
    lock_acquire(&s->page_lock);
    insert(s->pages, page);
    lock_release(&s->page_lock);
}

/* Pages after the missing one that are likely to be asked for next: the rest of its
 * table, as long as that costs no other page its place. */
static uint32_t count_ahead(const Qcow2 *s, uint64_t offset)
{
    const Qcow2Pages *p = s->pages;
    uint64_t end = MIN(align_down(offset, s->cluster_size) + s->cluster_size,
                       align_down(block_file_size(s->file), s->page_size));
    uint32_t n = 1;

    if (p->free)
        return 1;
    while (n < READ_AHEAD && p->n_used + n < p->n &&
           offset + (uint64_t)(n + 1) * s->page_size <= end &&
           !find(p, offset + (uint64_t)n * s->page_size))
        n++;
    return n;
}

static int read_pages(Qcow2 *s, Qcow2PageKind kind, uint64_t offset, Qcow2Page **ret)
{
    uint32_t n = count_ahead(s, offset);
    Qcow2Page *page, *more;
    int err = take(s, &page);

    if (err)
        return err;
    /* Pages never used before lie side by side. */
    err = block_file_read(s->file, offset, page->data, (size_t)n * s->page_size);
    if (err) {
        give_back(s->pages, page);
        return err;
    }
    add(s, page, kind, offset);
    for (uint32_t i = 1; i < n && take(s, &more) == 0; i++)
        add(s, more, kind, offset + (uint64_t)i * s->page_size);
    *ret = page;
    return 0;
}

static int bring_in(Qcow2 *s, Qcow2PageKind kind, uint64_t offset, bool new_,
                    Qcow2Page **ret)
{
    int err;

    if (!new_ && offset >= block_file_size(s->file))
        return qcow2_corrupt(s, "a table at 0x%" PRIx64 " is beyond the end of the file",
                             offset);
    if (!new_)
        return read_pages(s, kind, offset, ret);
    err = take(s, ret);
    if (!err)
        add(s, *ret, kind, offset);
    return err;
}

int qcow2_page_get(Qcow2 *s, Qcow2PageKind kind, uint64_t offset, bool new_,
                   Qcow2Page **ret)
{
    Qcow2Page *page;
    int err;

    offset = align_down(offset, s->page_size);
    page = find(s->pages, offset);
    if (!page) {
        err = bring_in(s, kind, offset, new_, &page);
        if (err)
            return err;
    }
    if (new_) {
        lock_acquire(&s->page_lock);
        memset(page->data, 0, s->page_size);
        lock_release(&s->page_lock);
        mark_clean(s->pages, page); /* it may have been of the other kind */
        page->kind = kind;
        mark_dirty(s, page);
    } else if (page->kind != kind) {
        return qcow2_corrupt(s,
                             "the cluster at 0x%" PRIx64 " is an L2 table and a "
                             "refcount block at once",
                             align_down(offset, s->cluster_size));
    }
    page->pins++;
    __atomic_store_n(&page->recent, true, __ATOMIC_RELAXED);
    *ret = page;
    return 0;
}

void qcow2_page_put(Qcow2 *s, Qcow2Page *page)
{
    if (--page->pins == 0 && !page->known)
        give_back(s->pages, page); /* it was dropped in the meantime */
}

const uint8_t *qcow2_page_data(const Qcow2Page *page)
{
    return page->data;
}

void qcow2_page_set(Qcow2 *s, Qcow2Page *page, unsigned at, const void *buf, size_t len)
{
    lock_acquire(&s->page_lock);
    memcpy(page->data + at, buf, len);
    lock_release(&s->page_lock);
    mark_dirty(s, page);
}

bool qcow2_page_peek(Qcow2 *s, uint64_t offset, void *buf, size_t len)
{
    uint64_t start = align_down(offset, s->page_size);
    Qcow2Page *page;

    lock_acquire(&s->page_lock);
    page = find(s->pages, start);
    if (page) {
        memcpy(buf, page->data + (offset - start), len);
        if (!__atomic_load_n(&page->recent, __ATOMIC_RELAXED))
            __atomic_store_n(&page->recent, true, __ATOMIC_RELAXED);
    }
    lock_release(&s->page_lock);
    return page != NULL;
}

static void drop(Qcow2 *s, Qcow2Page *page)
{
    mark_clean(s->pages, page);
    lock_acquire(&s->page_lock);
    forget(s->pages, page);
    lock_release(&s->page_lock);
    if (!page->pins)
        give_back(s->pages, page);
}

void qcow2_pages_forget(Qcow2 *s, uint64_t offset, uint64_t len)
{
    Qcow2Pages *p = s->pages;
    uint64_t end = offset + len;

    if (len / s->page_size > p->n_used) {
        for (uint32_t i = 0; i < p->n_used; i++) {
            Qcow2Page *page = &p->page[i];

            if (page->known && page->offset >= offset && page->offset < end)
                drop(s, page);
        }
        return;
    }
    for (uint64_t at = align_down(offset, s->page_size); at < end; at += s->page_size) {
        Qcow2Page *page = find(p, at);

        if (page)
            drop(s, page);
    }
}
