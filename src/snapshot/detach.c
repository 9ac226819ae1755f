/* See snapshot/detach.h.  What makes a page of a private mapping one's own is a write; a
 * write that changes nothing will do, and is atomic to the guest's.  The kernel does that
 * for many pages at once (MADV_POPULATE_WRITE, Linux 5.14). */
#include "snapshot/detach.h"

#include <errno.h>
#include <sys/mman.h>

#include "snapshot/memory.h"
#include "snapshot/restore.h"

enum { STEP_PAGES = 1024 };

static bool populate(uint8_t *at, uint64_t len, GError **error)
{
    if (madvise(at, len, MADV_POPULATE_WRITE) == 0)
        return true;
    if (errno == ENOMEM || errno == EHWPOISON || errno == EFAULT)
        return fail_errno(error, "copy pages of the snapshot's memory");
    for (uint64_t i = 0; i < len; i += GM_PAGE_SIZE) /* EINVAL: the kernel is older */
        __atomic_fetch_or(at + i, 0, __ATOMIC_RELAXED);
    return true;
}

bool snapshot_detach_memory(Machine *m, const bool *ending, uint64_t *ret_bytes,
                            GError **error)
{
    const GuestMem *gm = machine_memory(m);
    g_autoptr(SnapMemory) file = NULL;
    uint64_t page = 0, n;

    *ret_bytes = 0;
    if (!__atomic_load_n(&gm->backed, __ATOMIC_RELAXED) || !snapshot_restored_folder(m))
        return true;
    file = snap_memory_open(snapshot_restored_folder(m), error);
    if (!file)
        return false;
    while (snap_memory_next(file, &page, &n)) {
        n = MIN(n, STEP_PAGES);
        if (ending && __atomic_load_n(ending, __ATOMIC_RELAXED))
            return fail(error, VM_ERROR_BUSY, "the VM has ended");
        if (!populate(gm->base + page * GM_PAGE_SIZE, n * GM_PAGE_SIZE, error))
            return false;
        *ret_bytes += n * GM_PAGE_SIZE;
        page += n;
    }
    return true;
}
