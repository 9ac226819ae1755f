/* Guest RAM: at most a few regions of guest-physical address space, each mapped into the
 * monitor.  Regions are made by the machine before anything runs and stay until it ends,
 * so reads of the table need no lock.
 *
 * The contents are hostile and change under our eyes: copy, then check, then use. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

enum { GM_MAX_REGIONS = 8, GM_PAGE_SIZE = 4096 };

typedef struct GuestRegion {
    uint64_t gpa, size; /* bytes, page-aligned */
    uint8_t *host;
    uint64_t offset; /* of this region in the RAM file, and in snapshots */
} GuestRegion;

/* What other processes tell of their writes to shared RAM, while the dirty log is on. */
typedef struct GmRemoteLog {
    int fd;         /* of memory that they are given */
    uint64_t size;  /* bytes */
    uint64_t *bits; /* atomic; theirs to write: a bit per guest page, from address 0 */
} GmRemoteLog;

typedef struct GuestMem {
    GuestRegion region[GM_MAX_REGIONS];
    unsigned n_regions;
    uint8_t *base;  /* of the one mapping that all regions are parts of */
    uint64_t size;  /* of all regions together */
    int fd;         /* memfd when shared, else -1 */
    bool hugepages; /* explicit 2 MiB pages */
    bool backed; /* atomic: in part mapped from a snapshot's files, copied when written */
    bool cleared;        /* atomic: by gm_clear(), at least once */
    struct GmLost *lost; /* core/gmlost.h; NULL: all of it can be had at any time */
    uint64_t *dirty_log; /* atomic; a bit per page of the RAM file; NULL: not logging */
    GmRemoteLog *remote_log; /* NULL: not logging, or it is not shared */
} GuestMem;

typedef struct GuestMemOptions {
    uint64_t size;
    bool shared;    /* memfd, for helpers in other processes */
    bool hugepages; /* explicit 2 MiB pages; else transparent ones where the host has them
                     */
    bool prealloc;
} GuestMemOptions;

/* Makes an empty table; regions are then cut one after the other from a single
 * reservation of options->size bytes. */
bool gm_init(GuestMem *gm, const GuestMemOptions *options, GError **error);
bool gm_add(GuestMem *gm, uint64_t gpa, uint64_t size, GError **error);
void gm_finish(GuestMem *gm); /* harmless on a zeroed or finished one */

/* Main thread, vCPUs parked: all of RAM reads as zeroes again, and its pages go back to
 * the host; what was mapped over it is no longer. */
void gm_clear(GuestMem *gm);

/* Main thread, before there is a VM: files were mapped (MAP_PRIVATE, MAP_FIXED) over
 * parts of gm->base, for which the host's kernel is to have the same advice. */
void gm_set_backed(GuestMem *gm);

/* Any thread.  The host address of [gpa, gpa + len), or NULL if any byte of it is not RAM
 * or it spans two regions.  len 0 is answered as len 1. */
void *gm_at(const GuestMem *gm, uint64_t gpa, uint64_t len);

/* Any thread.  Copies that fail as a whole when any byte is not RAM.  gm_write logs. */
bool gm_read(const GuestMem *gm, uint64_t gpa, void *buf, uint64_t len);
bool gm_write(GuestMem *gm, uint64_t gpa, const void *buf, uint64_t len);

/* Any thread, after the data has been written through gm_at(): tells the dirty log, which
 * KVM's own log does not see.  `host` is an address inside guest RAM.  I/O
 * must be quiesced before gm_log_stop(), and before gm_log_start() that of other
 * processes which work in shared RAM: they go on with gm->remote_log, whose bits are
 * fetched with ours. */
void gm_mark_dirty_host(GuestMem *gm, const void *host, uint64_t len);

/* Main thread.  Starts, fetches-and-clears, adding to `bitmap` (gm->size / GM_PAGE_SIZE
 * bits, NULL to drop), and stops the log of our own writes.  While it is on, any one
 * thread may fetch. */
bool gm_log_start(GuestMem *gm, GError **error);
void gm_log_fetch(GuestMem *gm, uint64_t *bitmap);
void gm_log_stop(GuestMem *gm);
