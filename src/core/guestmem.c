/* Guest RAM; see core/guestmem.h.
 *
 * All regions are parts of one mapping, in the order of their offsets, so that a host
 * address turns into an offset by subtraction. */
#include "core/guestmem.h"

#include <inttypes.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>

#include "core/gmlost.h"
#include "util/bits.h"
#include "util/fd.h"

#define HUGE_PAGE (2 * MIB)

/* Address space for `size` bytes whose addresses are those of the guest but for a
 * multiple of 2 MiB: only then can KVM map a huge page of ours as one of the guest's.
 * Kernels before 6.7 align no mapping by themselves. */
static uint8_t *reserve(uint64_t size)
{
    /* Of a size that would wrap around mmap says itself that it is too large. */
    uint64_t more = size > UINT64_MAX - HUGE_PAGE ? 0 : HUGE_PAGE, before;
    uint8_t *all = mmap(NULL, size + more, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (all == MAP_FAILED)
        return MAP_FAILED;
    before = align_up((uintptr_t)all, HUGE_PAGE) - (uintptr_t)all;
    if (before)
        munmap(all, before);
    munmap(all + before + size, HUGE_PAGE - before);
    return all + before;
}

static void *map_ram(GuestMem *gm, const GuestMemOptions *o)
{
    /* Huge pages are reserved: one that is missing later is a bus error. */
    int flags = MAP_FIXED | (o->hugepages ? 0 : MAP_NORESERVE) |
                (o->prealloc ? MAP_POPULATE : 0);
    uint8_t *at;
    void *base;

    if (o->shared) {
        gm->fd = fd_memory("guest-ram", o->size,
                           o->hugepages ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
        if (gm->fd < 0)
            return MAP_FAILED;
        flags |= MAP_SHARED;
    } else {
        flags |= MAP_PRIVATE | MAP_ANONYMOUS | (o->hugepages ? MAP_HUGETLB : 0);
    }
    at = reserve(o->size);
    if (at == MAP_FAILED)
        return MAP_FAILED;
    base = mmap(at, o->size, PROT_READ | PROT_WRITE, flags, gm->fd, 0);
    if (base == MAP_FAILED)
        munmap(at, o->size);
    return base;
}

/* Both are advice: a kernel built without either works as well, only slower.  The lowest
 * 2 MiB get a few small tables of ours before the guest starts: to clear a huge page for
 * those is a good part of the time that starting takes. */
static void advise(const GuestMem *gm, bool huge)
{
    madvise(gm->base, gm->size, MADV_DONTDUMP);
    if (huge && gm->size > HUGE_PAGE)
        madvise(gm->base + HUGE_PAGE, gm->size - HUGE_PAGE, MADV_HUGEPAGE);
}

bool gm_init(GuestMem *gm, const GuestMemOptions *o, GError **error)
{
    void *host;

    *gm = (GuestMem){.fd = -1};
    if (!o->size || !is_aligned(o->size, o->hugepages ? HUGE_PAGE : GM_PAGE_SIZE))
        return fail(error, VM_ERROR_INVALID,
                    "memory: %" G_GUINT64_FORMAT
                    " bytes is not a whole number of %s pages",
                    o->size, o->hugepages ? "2 MiB" : "4 KiB");
    host = map_ram(gm, o);
    if (host == MAP_FAILED) {
        fail_errno(error,
                   o->hugepages ? "memory: reserve %" G_GUINT64_FORMAT
                                  " MiB of huge pages (see /proc/sys/vm/nr_hugepages)"
                                : "memory: reserve %" G_GUINT64_FORMAT
                                  " MiB on this host; ask for less with --memory",
                   o->size / MIB);
        fd_close(&gm->fd);
        return false;
    }
    gm->base = host;
    gm->size = o->size;
    gm->hugepages = o->hugepages;
    advise(gm, !o->hugepages);
    return true;
}

void gm_set_backed(GuestMem *gm)
{
    __atomic_store_n(&gm->backed, true, __ATOMIC_RELAXED);
    advise(gm, false);
}

bool gm_add(GuestMem *gm, uint64_t gpa, uint64_t size, GError **error)
{
    uint64_t used = 0;

    for (unsigned i = 0; i < gm->n_regions; i++)
        used += gm->region[i].size;
    if (gm->n_regions == GM_MAX_REGIONS || !size || !range_within(used, size, gm->size) ||
        !is_aligned(gpa | size, GM_PAGE_SIZE))
        return fail(error, VM_ERROR_INVALID, "memory: no room for a region at 0x%" PRIx64,
                    gpa);
    gm->region[gm->n_regions++] = (GuestRegion){gpa, size, gm->base + used, used};
    return true;
}

void gm_finish(GuestMem *gm)
{
    gm_log_stop(gm);
    gm_unguard(gm);
    if (gm->base)
        munmap(gm->base, gm->size);
    if (gm->fd > 0)
        fd_close(&gm->fd);
    *gm = (GuestMem){.fd = -1};
}

/* MADV_DONTNEED would bring back what the files have.  The address is the same, so that
 * KVM follows. */
static bool unback(GuestMem *gm)
{
    if (mmap(gm->base, gm->size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        return false;
    __atomic_store_n(&gm->backed, false, __ATOMIC_RELAXED);
    advise(gm, true);
    return true;
}

void gm_clear(GuestMem *gm)
{
    if (gm->lost && gm->lost->forget)
        gm->lost->forget(gm->lost->opaque);
    __atomic_store_n(&gm->cleared, true, __ATOMIC_RELAXED);
    if (gm->backed) {
        if (!unback(gm))
            memset(gm->base, 0, gm->size);
        gm_mark_dirty_host(gm, gm->base, gm->size);
        return;
    }
    /* MADV_REMOVE is MADV_DONTNEED for memory that a file backs. */
    if (madvise(gm->base, gm->size, gm->fd >= 0 ? MADV_REMOVE : MADV_DONTNEED) < 0)
        memset(gm->base, 0, gm->size);
    gm_mark_dirty_host(gm, gm->base, gm->size);
}

static const GuestRegion *region_at(const GuestMem *gm, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < gm->n_regions; i++) {
        const GuestRegion *r = &gm->region[i];

        if (gpa >= r->gpa && range_within(gpa - r->gpa, len, r->size))
            return r;
    }
    return NULL;
}

void *gm_at(const GuestMem *gm, uint64_t gpa, uint64_t len)
{
    const GuestRegion *r = region_at(gm, gpa, len ? len : 1);

    return r ? r->host + (gpa - r->gpa) : NULL;
}

bool gm_read(const GuestMem *gm, uint64_t gpa, void *buf, uint64_t len)
{
    const void *host = gm_at(gm, gpa, len);

    if (host)
        memcpy(buf, host, len);
    return host != NULL;
}

bool gm_write(GuestMem *gm, uint64_t gpa, const void *buf, uint64_t len)
{
    void *host = gm_at(gm, gpa, len);

    if (!host)
        return false;
    memcpy(host, buf, len);
    gm_mark_dirty_host(gm, host, len);
    return true;
}

/* ---- the log of our own writes ------------------------------------------------------
 */

static uint64_t log_words(const GuestMem *gm)
{
    return (gm->size / GM_PAGE_SIZE + 63) / 64;
}

void gm_mark_dirty_host(GuestMem *gm, const void *host, uint64_t len)
{
    uint64_t *log = __atomic_load_n(&gm->dirty_log, __ATOMIC_ACQUIRE);
    uint64_t first, last;

    if (!log || !len)
        return;
    first = (uint64_t)((const uint8_t *)host - gm->base) / GM_PAGE_SIZE;
    last = ((uint64_t)((const uint8_t *)host - gm->base) + len - 1) / GM_PAGE_SIZE;
    for (uint64_t page = first; page <= last; page++)
        __atomic_fetch_or(&log[page / 64], BIT64(page % 64), __ATOMIC_RELEASE);
}

/* ---- the log of other processes' writes ---------------------------------------------
 */

static void free_remote_log(GmRemoteLog *log)
{
    if (!log)
        return;
    if (log->bits)
        munmap(log->bits, log->size);
    fd_close(&log->fd);
    g_free(log);
}

static bool make_remote_log(GuestMem *gm, GError **error)
{
    enum { COVERED = 8 * GM_PAGE_SIZE * GM_PAGE_SIZE }; /* bytes, by a page of the log */
    GmRemoteLog *log = g_new0(GmRemoteLog, 1);
    uint64_t end = 0;
    void *bits;

    for (unsigned i = 0; i < gm->n_regions; i++)
        end = MAX(end, gm->region[i].gpa + gm->region[i].size);
    log->size = GM_PAGE_SIZE * ((end + COVERED - 1) / COVERED);
    log->fd = fd_memory("dirty-log", log->size, 0);
    bits = log->fd < 0
               ? MAP_FAILED
               : mmap(NULL, log->size, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
    if (bits == MAP_FAILED) {
        fail_errno(error, "memory: make a dirty log for other processes");
        free_remote_log(log);
        return false;
    }
    log->bits = bits;
    gm->remote_log = log;
    return true;
}

/* A region's bits lie as its pages do in the guest, and are wanted as they do in RAM. */
static void fetch_region(const GuestMem *gm, const GuestRegion *r, uint64_t *bitmap)
{
    uint64_t first = r->gpa / GM_PAGE_SIZE, end = first + r->size / GM_PAGE_SIZE;

    for (uint64_t page = first; page < end; page = (page | 63) + 1) {
        uint64_t *word = &gm->remote_log->bits[page / 64], bits;
        uint64_t mask = UINT64_MAX << page % 64;

        if (!__atomic_load_n(word, __ATOMIC_RELAXED))
            continue;
        if ((page | 63) >= end)
            mask &= BIT64(end % 64) - 1;
        bits = __atomic_fetch_and(word, ~mask, __ATOMIC_ACQUIRE) & mask;
        for (; bits && bitmap; bits &= bits - 1) {
            uint64_t at = (page & ~63ull) + (uint64_t)__builtin_ctzll(bits) - first +
                          r->offset / GM_PAGE_SIZE;

            bitmap[at / 64] |= BIT64(at % 64);
        }
    }
}

/* ---- both ----------------------------------------------------------------------------
 */

bool gm_log_start(GuestMem *gm, GError **error)
{
    uint64_t *log;

    if (gm->dirty_log)
        return fail(error, VM_ERROR_BUSY, "memory: the dirty log is in use already");
    if (gm->fd >= 0 && !make_remote_log(gm, error))
        return false;
    log = g_try_new0(uint64_t, log_words(gm));
    if (!log) {
        gm_log_stop(gm);
        return fail(error, VM_ERROR_IO, "memory: no room for the dirty log");
    }
    __atomic_store_n(&gm->dirty_log, log, __ATOMIC_RELEASE);
    return true;
}

void gm_log_fetch(GuestMem *gm, uint64_t *bitmap)
{
    for (uint64_t i = 0; gm->dirty_log && i < log_words(gm); i++) {
        uint64_t bits = __atomic_load_n(&gm->dirty_log[i], __ATOMIC_RELAXED);

        if (!bits)
            continue;
        bits = __atomic_exchange_n(&gm->dirty_log[i], 0, __ATOMIC_ACQUIRE);

        if (bitmap)
            bitmap[i] |= bits;
    }
    for (unsigned i = 0; gm->remote_log && i < gm->n_regions; i++)
        fetch_region(gm, &gm->region[i], bitmap);
}

void gm_log_stop(GuestMem *gm)
{
    g_free(gm->dirty_log);
    gm->dirty_log = NULL;
    free_remote_log(gm->remote_log);
    gm->remote_log = NULL;
}
