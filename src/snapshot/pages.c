/* See src/snapshot/pages.h.
 *
 * Theory.  /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst) has 64 bits for
 * each page of the address space: bit 63 present, bit 62 swapped out, bit 61 the page is
 * a file's or shared.  RAM without a file behind it reads as zeroes where it is neither
 * present nor swapped out.  Where a snapshot's file is mapped MAP_PRIVATE, a page is the
 * file's until it is written to, by whomever: the guest, our devices, the host's kernel
 * for a disk.  Then it is a copy of ours, bit 61 is off, and stays so. */
#include "src/snapshot/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/fd.h"

#define PM_PRESENT BIT64(63)
#define PM_SWAPPED BIT64(62)
#define PM_FILE    BIT64(61)

enum { AT_ONCE = 8192 }; /* entries of pagemap, 64 KiB */

bool pages_init(PageSet *s, const GuestMem *gm, GError **error)
{
    s->n_pages = gm->size / GM_PAGE_SIZE;
    s->n_words = (s->n_pages + 63) / 64;
    s->bits = g_try_new0(uint64_t, s->n_words);
    return s->bits != NULL ||
           fail(error, VM_ERROR_IO, "memory: no room for a list of its pages");
}

void pages_clear(PageSet *s)
{
    memset(s->bits, 0, s->n_words * sizeof(s->bits[0]));
}

void pages_free(PageSet *s)
{
    g_free(s->bits);
    *s = (PageSet){0};
}

static void add_range(PageSet *s, uint64_t page, uint64_t n)
{
    for (uint64_t end = MIN(page + n, s->n_pages); page < end;) {
        if (page % 64 == 0 && end - page >= 64) {
            s->bits[page / 64] = UINT64_MAX;
            page += 64;
        } else {
            s->bits[page / 64] |= BIT64(page % 64);
            page++;
        }
    }
}

void pages_fill(PageSet *s)
{
    add_range(s, 0, s->n_pages);
}

void pages_add(PageSet *s, const PageSet *other)
{
    for (uint64_t i = 0; i < s->n_words; i++)
        s->bits[i] |= other->bits[i];
}

uint64_t pages_count(const PageSet *s)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < s->n_words; i++)
        n += (unsigned)__builtin_popcountll(s->bits[i]);
    return n;
}

static bool has(const PageSet *s, uint64_t page)
{
    return s->bits[page / 64] >> (page % 64) & 1;
}

bool pages_next(const PageSet *s, uint64_t *page, unsigned *n, unsigned most)
{
    uint64_t at = *page;

    while (at < s->n_pages) {
        uint64_t rest = s->bits[at / 64] >> (at % 64);

        if (rest) {
            at += (unsigned)__builtin_ctzll(rest);
            break;
        }
        at = (at / 64 + 1) * 64;
    }
    if (at >= s->n_pages)
        return false;
    *page = at;
    for (*n = 1; *n < most && at + *n < s->n_pages && has(s, at + *n);)
        ++*n;
    return true;
}

/* ---- what the host's kernel knows -----------------------------------------------------
 */

typedef bool Wanted(uint64_t entry);

static bool is_used(uint64_t entry)
{
    return (entry & (PM_PRESENT | PM_SWAPPED)) != 0;
}

static bool is_own_copy(uint64_t entry)
{
    return is_used(entry) && !(entry & PM_FILE);
}

static bool add_by_pagemap(PageSet *s, const GuestMem *gm, Wanted *wanted, GError **error)
{
    autofd fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    g_autofree uint64_t *entries = g_new(uint64_t, AT_ONCE);
    uint64_t first = (uintptr_t)gm->base / GM_PAGE_SIZE;

    if (fd < 0)
        return fail_errno(error, "memory: open /proc/self/pagemap");
    for (uint64_t page = 0; page < s->n_pages;) {
        size_t n = MIN(s->n_pages - page, AT_ONCE) * sizeof(entries[0]);
        ssize_t got;

        do
            got = pread(fd, entries, n, (off_t)((first + page) * sizeof(entries[0])));
        while (got < 0 && errno == EINTR);
        if (got < (ssize_t)sizeof(entries[0]))
            return fail_errno(error, "memory: read /proc/self/pagemap");
        for (size_t i = 0; i < (size_t)got / sizeof(entries[0]); i++, page++)
            if (wanted(entries[i]))
                s->bits[page / 64] |= BIT64(page % 64);
    }
    return true;
}

/* A memfd may have pages that we never looked at. */
static bool add_by_holes(PageSet *s, const GuestMem *gm)
{
    off_t at = 0, end;

    while ((at = lseek(gm->fd, at, SEEK_DATA)) >= 0) {
        end = lseek(gm->fd, at, SEEK_HOLE);
        if (end < 0)
            return false;
        add_range(s, (uint64_t)at / GM_PAGE_SIZE,
                  (uint64_t)(end - at + GM_PAGE_SIZE - 1) / GM_PAGE_SIZE);
        at = end;
    }
    return errno == ENXIO; /* there is no more data */
}

bool pages_add_used(PageSet *s, const GuestMem *gm, SnapMemory *from, GError **error)
{
    if (gm->fd >= 0) {
        if (!add_by_holes(s, gm))
            pages_fill(s);
        return true;
    }
    if (!__atomic_load_n(&gm->backed, __ATOMIC_RELAXED) || !from)
        return add_by_pagemap(s, gm, is_used, error);
    if (!add_by_pagemap(s, gm, is_own_copy, error))
        return false;
    for (uint64_t page = 0, n; snap_memory_next(from, &page, &n); page += n)
        add_range(s, page, n);
    return true;
}

bool pages_add_changed(PageSet *s, const GuestMem *gm, GError **error)
{
    if (__atomic_load_n(&gm->cleared, __ATOMIC_RELAXED) ||
        gm->fd >= 0) { /* nothing of it is mapped */
        pages_fill(s);
        return true;
    }
    return add_by_pagemap(s, gm, is_own_copy, error);
}
