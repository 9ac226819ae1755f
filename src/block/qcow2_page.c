/* The metadata cache: pages of L2 tables and of refcount blocks.  When one is written,
 * qcow2_order.c says.
 *
 * Its budget is reserved as address space and touched as it fills.  Pages are found by a
 * hash of their offset, and leave by the clock algorithm.  Who holds `lock` may read all
 * of this; changing what qcow2_page_peek() looks at, the hash and the bytes, takes
 * page_lock as well. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "qcow2_page_private.h"

enum {
    READ_AHEAD = 16,     /* pages read at once while the cache is not full yet */
    DIRTY_PATIENCE = 64, /* dirty pages that the clock passes before it writes them */
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

/* ---- the hash: changed with page_lock held ------------------------------------- */

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

/* ---- taking a page ------------------------------------------------------------- */

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
            int err = qcow2_pages_write_back(s);

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
            int err = qcow2_pages_write(s, QCOW2_PAGE_REFCOUNT);

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
        qcow2_page_mark_clean(s->pages, page); /* it may have been of the other kind */
        page->kind = kind;
        qcow2_page_mark_dirty(s, page);
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
    qcow2_page_mark_dirty(s, page);
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
    qcow2_page_mark_clean(s->pages, page);
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
