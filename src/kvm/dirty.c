/* Which pages the guest has written: KVM's dirty log, one bitmap a memory slot (KVM
 * api.rst, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG).  What we write ourselves is not in
 * it; that is core/guestmem.h's log.
 *
 * Where KVM has the manual protection, a fetch is a copy of the bitmap and costs no lock
 * and no scan of page tables; only the words with something in them are then cleared.
 * Nothing is lost in between: a clear takes away just the bits that were fetched, makes
 * their pages read-only again before it returns, and the caller reads the pages after
 * that.  A page that is written between the copy and the clear is in what was fetched;
 * one that is written after it is in the next fetch. */
#include <errno.h>
#include <string.h>

#include "kvm_private.h"
#include "util/bits.h"

enum {
    BITS = 64,
    MAX_GAP = 256, /* words without a page that one clear goes over: a call costs more */
};

struct KvmDirty {
    bool manual;
    uint64_t *bits; /* of one slot, as large as the largest needs */
};

static uint64_t pages_of(const GuestRegion *r)
{
    return r->size / GM_PAGE_SIZE;
}

static uint64_t words_of(const GuestRegion *r)
{
    return (pages_of(r) + BITS - 1) / BITS;
}

static bool enable_manual(const Kvm *kvm)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                 .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};

    return (kvm_check_extension(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
            KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) &&
           kvm_ioctl(kvm, KVM_ENABLE_CAP, &cap) == 0;
}

bool kvm_dirty_start(Kvm *kvm, GError **error)
{
    uint64_t words = 0;

    if (kvm->dirty)
        return fail(error, VM_ERROR_BUSY,
                    "memory: KVM's dirty log is in use already; wait for the snapshot or "
                    "migration that has it");
    for (unsigned i = 0; i < kvm->gm->n_regions; i++)
        words = MAX(words, words_of(&kvm->gm->region[i]));
    kvm->dirty = g_new0(KvmDirty, 1);
    kvm->dirty->bits = g_try_new0(uint64_t, words);
    if (!kvm->dirty->bits) {
        kvm_dirty_stop(kvm);
        return fail(error, VM_ERROR_IO, "memory: no room for KVM's dirty log");
    }
    kvm->dirty->manual = enable_manual(kvm);
    for (unsigned i = 0; i < kvm->gm->n_regions; i++) {
        if (kvm_set_slot(kvm, i, KVM_MEM_LOG_DIRTY_PAGES) == 0)
            continue;
        fail_errno(error, "memory at 0x%" G_GINT64_MODIFIER "x: log which pages change",
                   (guint64)kvm->gm->region[i].gpa);
        kvm_dirty_stop(kvm);
        return false;
    }
    return true;
}

void kvm_dirty_stop(Kvm *kvm)
{
    if (!kvm->dirty)
        return;
    for (unsigned i = 0; i < kvm->gm->n_regions; i++)
        kvm_set_slot(kvm, i, 0);
    g_free(kvm->dirty->bits);
    g_clear_pointer(&kvm->dirty, g_free);
}

/* A region need not begin at a whole word of the RAM file's bitmap. */
static void or_into(uint64_t *bitmap, uint64_t first_page, const uint64_t *bits,
                    uint64_t words)
{
    const unsigned shift = first_page % BITS;

    bitmap += first_page / BITS;
    for (uint64_t i = 0; i < words; i++) {
        if (!bits[i])
            continue;
        bitmap[i] |= bits[i] << shift;
        if (shift && bits[i] >> (BITS - shift))
            bitmap[i + 1] |= bits[i] >> (BITS - shift);
    }
}

static bool clear_run(Kvm *kvm, unsigned slot, uint64_t first, uint64_t end)
{
    const uint64_t pages = pages_of(&kvm->gm->region[slot]);
    struct kvm_clear_dirty_log clear = {
        .slot = slot,
        .first_page = first * BITS,
        .num_pages = (uint32_t)(MIN(end * BITS, pages) - first * BITS),
        .dirty_bitmap = kvm->dirty->bits + first,
    };

    return kvm_ioctl(kvm, KVM_CLEAR_DIRTY_LOG, &clear) == 0;
}

/* In runs of words: from one with pages to the last before a long gap. */
static bool clear_fetched(Kvm *kvm, unsigned slot, uint64_t words)
{
    const uint64_t *bits = kvm->dirty->bits;
    uint64_t first = words, end = 0;

    for (uint64_t i = 0; i < words; i++) {
        if (!bits[i])
            continue;
        if (first < end && i - end > MAX_GAP) {
            if (!clear_run(kvm, slot, first, end))
                return false;
            first = words;
        }
        first = MIN(first, i);
        end = i + 1;
    }
    return first >= end || clear_run(kvm, slot, first, end);
}

bool kvm_dirty_fetch(Kvm *kvm, uint64_t *bitmap, GError **error)
{
    if (!kvm->dirty)
        return fail(error, VM_ERROR_INVALID, "memory: KVM's dirty log was not started");
    for (unsigned i = 0; i < kvm->gm->n_regions; i++) {
        const GuestRegion *r = &kvm->gm->region[i];
        struct kvm_dirty_log get = {.slot = i, .dirty_bitmap = kvm->dirty->bits};

        if (kvm_ioctl(kvm, KVM_GET_DIRTY_LOG, &get) < 0)
            return fail_errno(
                error, "memory at 0x%" G_GINT64_MODIFIER "x: ask KVM which pages changed",
                (guint64)r->gpa);
        /* First: what could not be cleared is then reported twice, and not never. */
        or_into(bitmap, r->offset / GM_PAGE_SIZE, kvm->dirty->bits, words_of(r));
        if (kvm->dirty->manual && !clear_fetched(kvm, i, words_of(r)))
            return fail_errno(error,
                              "memory at 0x%" G_GINT64_MODIFIER
                              "x: have KVM forget which pages changed",
                              (guint64)r->gpa);
    }
    return true;
}
