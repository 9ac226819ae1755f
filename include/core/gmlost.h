/* Guest RAM that cannot be had while the VM runs: the file that it is mapped from was cut
 * off, the server that sends it is gone, the disk has an error.
 *
 * Whoever touches such a page sleeps in the middle of that access, whatever thread it is,
 * until gm_retry(); nobody is ever given zeroes for it.  The machine hears of it by a
 * file descriptor and stops its guest, without waiting for anybody, since those who sleep
 * cannot be waited for.  There is one guarded RAM in a process. */
#pragma once

#include "core/guestmem.h"
#include "util/lock.h"

typedef struct GmLost {
    int fd; /* an eventfd: readable when RAM was lost */
    GuestMem *gm;
    uint64_t address; /* atomic: what a bus error was at; 0: none */
    uint32_t retries; /* atomic, a futex: how often it was tried again */
    Lock lock;        /* guards why */
    char *why;        /* the first sentence since the last retry; NULL: nothing is lost */

    /* Main thread, set by who brings RAM in while the VM runs, or NULL.  Tries again what
     * failed; RAM is about to be cleared, and nothing more of it is wanted. */
    void (*retry)(void *opaque);
    void (*forget)(void *opaque);
    void *opaque;
} GmLost;

/* Main thread, once, before anything touches RAM; for the process' life.  Sets gm->lost
 * and takes SIGBUS, of which what is not guest RAM's goes on as before. */
bool gm_guard(GuestMem *gm, GError **error);
void gm_unguard(GuestMem *gm); /* harmless if it is not guarded */

/* Any thread, which then has to keep whoever wants the page from going on. */
void gm_lose(GuestMem *gm, const char *why);

/* Main thread, when fd is readable: a new sentence, or NULL if it was for nothing. */
char *gm_lost_take(GuestMem *gm);

/* Main thread: RAM was lost and nobody has tried again, so that threads may sleep for it.
 */
bool gm_is_lost(const GuestMem *gm);

/* Main thread: who sleeps tries again, and may well be back at once. */
void gm_retry(GuestMem *gm);
