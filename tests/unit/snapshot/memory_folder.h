/* Snapshots whose guest RAM is written by the writer itself: s0.snap, full, and s1.snap,
 * s2.snap..., each a diff to the one before. */
#pragma once

#include <stdlib.h>
#include <sys/mman.h>

#include "folder.h"
#include "snapshot/memory.h"
#include "util/bits.h"

enum { PAGE = GM_PAGE_SIZE, PAGES = FOLDER_RAM / PAGE };

static char *base; /* the folder of this test's snapshots */

/* Page P's contents in version V; a quarter of the pages are zero in each. */
static inline void fill_page(uint8_t *page, uint64_t p, unsigned version)
{
    uint64_t seed = (p + 1) * 0x9e3779b97f4a7c15ull + version * 0xd6e8feb86659fd93ull;

    memset(page, 0, PAGE);
    if ((seed >> 40) % 4 == 0)
        return;
    for (unsigned i = 0; i < PAGE; i += 64)
        store_le64(page + i, seed + i);
}

static inline char *folder_of(unsigned n)
{
    return g_strdup_printf("%s/s%u.snap", base, n);
}

static inline SnapMemoryWriter *begin(unsigned n, bool diff, bool zstd)
{
    g_autofree char *folder = folder_of(n);
    g_autoptr(GError) error = NULL;
    SnapMemoryWriter *w;

    folder_remove(folder);
    g_assert_cmpint(mkdir(folder, 0700), ==, 0);
    w = snap_memory_create(folder, FOLDER_RAM, diff, zstd, &error);
    g_assert_no_error(error);
    return w;
}

/* A diff's parent is n - 1. */
static inline void end(SnapMemoryWriter *w, unsigned n, bool diff)
{
    g_autofree char *folder = folder_of(n), *parent = folder_of(n - 1);
    g_autoptr(Manifest) m = folder_manifest(), p = NULL;
    g_autoptr(GError) error = NULL;

    snap_memory_finish(w, m, &error);
    g_assert_no_error(error);
    if (diff) {
        p = manifest_read(parent, &error);
        g_assert_no_error(error);
        m->parent_id = g_strdup(p->id);
        m->parent_path = g_path_get_basename(parent);
    }
    folder_put(folder, SNAP_CONFIG, "{}\n");
    folder_put(folder, SNAP_STATE, "state of it");
    g_assert_true(manifest_add_file(m, folder, SNAP_CONFIG, NULL));
    g_assert_true(manifest_add_file(m, folder, SNAP_STATE, NULL));
    manifest_write(m, folder, &error);
    g_assert_no_error(error);
}

static inline void write_version(SnapMemoryWriter *w, uint64_t p, unsigned version,
                                 uint8_t *ram)
{
    g_autoptr(GError) error = NULL;

    fill_page(ram + p * PAGE, p, version);
    snap_memory_write(w, p, 1, ram + p * PAGE, &error);
    g_assert_no_error(error);
}

/* Where fsync() costs nothing, if there is such a place. */
static inline void make_base(void)
{
    base = g_strdup("/dev/shm/hutch-memory-XXXXXX");
    if (!g_mkdtemp(base)) {
        g_free(base);
        base = g_dir_make_tmp("hutch-memory-XXXXXX", NULL);
    }
}
