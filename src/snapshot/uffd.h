/* userfaultfd(2): a region of our own memory whose missing pages somebody is asked for.
 * Faults of the kernel's own count, since most of a guest's are KVM's. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

typedef struct Uffd {
    int fd; /* non-blocking; readable when somebody waits for a page */
    uint8_t *base;
    uint64_t size;
    bool hugepages;
} Uffd;

typedef struct UffdFault {
    uint64_t offset; /* in the region, bytes */
    uint32_t tid;    /* who waits; 0: the kernel does not tell */
} UffdFault;

/* Whether this host lets us; fails with VM_ERROR_UNSUPPORTED and a way out. */
bool uffd_possible(GError **error);

/* Begins: nothing in the region may have been touched.  Failures as above. */
bool uffd_open(Uffd *u, uint8_t *base, uint64_t size, bool hugepages, GError **error);
void uffd_close(Uffd *u); /* as uffd_release(), if that was not called */

/* Takes up to `max` of those that wait; 0: none does. */
unsigned uffd_take(Uffd *u, UffdFault *ret, unsigned max);

/* Any thread.  Puts pages there that are missing, and leaves those alone that are not;
 * wakes who waits for them.  `data` NULL: zeroes.  `len` and `offset`: whole pages of the
 * region's kind. */
bool uffd_put(Uffd *u, uint64_t offset, const uint8_t *data, uint64_t len,
              GError **error);
void uffd_wake(Uffd *u, uint64_t offset, uint64_t len);

/* All that is missing now is zero from now on, and nobody is asked any more. */
void uffd_release(Uffd *u);

/* For RAM that is mapped from files, and needs no right: until the descriptor is closed,
 * a fault brings in the page that was touched and none of its neighbours, so that
 * /proc/self/pagemap tells what was touched.  Nobody is ever asked for anything.
 * -1: this host cannot (Linux before 6.7); 16 neighbours and more come with each. */
int uffd_touch_alone(uint8_t *base, uint64_t size);
