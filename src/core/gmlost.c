/* See core/gmlost.h. */
#include "core/gmlost.h"

#include <inttypes.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "util/fd.h"

static GmLost *guarded; /* the process' one; set while SIGBUS is ours */
static struct sigaction before;

static void futex(uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* A bus error, on the thread that has it: only what signal-safety(7) allows.
 *
 * The main thread cannot sleep until itself says to go on: where it is the one that needs
 * the page, the VM ends. */
static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    static const char sentence[] = "hutch: guest memory cannot be read any more: the "
                                   "file that it is mapped from was "
                                   "cut off or its disk has an error; the VM ends\n";
    GmLost *l = __atomic_load_n(&guarded, __ATOMIC_ACQUIRE);
    uintptr_t at = (uintptr_t)info->si_addr;
    int saved_errno = errno;
    uint32_t retries;

    if (!l || info->si_code <= 0 || at < (uintptr_t)l->gm->base ||
        at - (uintptr_t)l->gm->base >= l->gm->size) {
        sigaction(SIGBUS, &before, NULL); /* it comes again, and is not ours */
        return;
    }
    if (gettid() == getpid()) {
        if (write(STDERR_FILENO, sentence, sizeof(sentence) - 1) < 0)
            _exit(125);
        _exit(125);
    }
    retries = __atomic_load_n(&l->retries, __ATOMIC_ACQUIRE);
    __atomic_store_n(&l->address, at, __ATOMIC_RELEASE);
    fd_event_signal(l->fd);
    while (__atomic_load_n(&l->retries, __ATOMIC_ACQUIRE) == retries)
        futex(&l->retries, FUTEX_WAIT_PRIVATE, retries);
    errno = saved_errno;
}

bool gm_guard(GuestMem *gm, GError **error)
{
    GmLost *l = g_new0(GmLost, 1);
    struct sigaction sa = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    *l = (GmLost){.fd = fd_event(error), .gm = gm};
    if (l->fd < 0) {
        g_free(l);
        return false;
    }
    lock_init(&l->lock);
    gm->lost = l;
    __atomic_store_n(&guarded, l, __ATOMIC_RELEASE);
    return sigaction(SIGBUS, &sa, &before) == 0 || fail_errno(error, "take SIGBUS");
}

void gm_unguard(GuestMem *gm)
{
    GmLost *l = gm->lost;

    if (!l)
        return;
    if (l->forget)
        l->forget(l->opaque);
    sigaction(SIGBUS, &before, NULL);
    __atomic_store_n(&guarded, NULL, __ATOMIC_RELEASE);
    gm->lost = NULL;
    fd_close(&l->fd);
    lock_finish(&l->lock);
    g_free(l->why);
    g_free(l);
}

void gm_lose(GuestMem *gm, const char *why)
{
    GmLost *l = gm->lost;
    LOCK_GUARD(&l->lock);

    if (l->why)
        return;
    l->why = g_strdup(why);
    fd_event_signal(l->fd);
}

char *gm_lost_take(GuestMem *gm)
{
    GmLost *l = gm->lost;
    uint64_t address = __atomic_exchange_n(&l->address, 0, __ATOMIC_ACQUIRE);

    fd_event_take(l->fd);
    LOCK_GUARD(&l->lock);
    if (address && !l->why)
        l->why = g_strdup_printf("guest memory at 0x%" PRIx64
                                 " of its file cannot be read any more: the file "
                                 "was cut off or its disk has an error",
                                 address - (uintptr_t)gm->base);
    return g_strdup(l->why);
}

bool gm_is_lost(const GuestMem *gm)
{
    GmLost *l = gm->lost;

    if (!l)
        return false;
    LOCK_GUARD(&l->lock);
    return l->why || __atomic_load_n(&l->address, __ATOMIC_ACQUIRE);
}

void gm_retry(GuestMem *gm)
{
    GmLost *l = gm->lost;

    if (!l)
        return;
    lock_acquire(&l->lock);
    g_clear_pointer(&l->why, g_free);
    lock_release(&l->lock);
    if (l->retry)
        l->retry(l->opaque);
    __atomic_fetch_add(&l->retries, 1, __ATOMIC_RELEASE);
    futex(&l->retries, FUTEX_WAKE_PRIVATE, INT32_MAX);
}
