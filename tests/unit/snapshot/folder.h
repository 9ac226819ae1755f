/* Snapshots for tests of what reads them: folders made by the writers themselves, with
 * memory that is one file, and hashes that are right. */
#pragma once

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/hash.h"
#include "snapshot/manifest.h"
#include "snapshot/store.h"
#include "util/fd.h"

enum { FOLDER_PAGE = 4096, FOLDER_RAM = 9 << 20 }; /* two chunks and a short one */

static inline void folder_remove(const char *folder)
{
    const char *argv[] = {"rm", "-rf", folder, NULL};

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                 NULL, NULL);
}

static inline char *folder_file(const char *folder, const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static inline void folder_put(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = folder_file(folder, name);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

/* A page of the byte `with` at `page` of memory; 0 leaves a hole. */
static inline void folder_page(const char *folder, uint64_t page, int with)
{
    g_autofree char *path = folder_file(folder, SNAP_MEMORY);
    autofd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char data[FOLDER_PAGE];

    memset(data, with, sizeof(data));
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, FOLDER_RAM), ==, 0);
    if (with)
        g_assert_cmpint(pwrite(fd, data, sizeof(data), (off_t)(page * sizeof(data))), ==,
                        sizeof(data));
}

/* Of what is in the folder now. */
static inline void folder_hash_memory(Manifest *m, const char *folder)
{
    g_autofree char *path = folder_file(folder, SNAP_MEMORY), *data = NULL;
    static char zero[MANIFEST_CHUNK];
    gsize len;

    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    m->memory_chunks = g_ptr_array_new_with_free_func(g_free);
    for (gsize at = 0; at < len; at += MANIFEST_CHUNK) {
        gsize n = MIN(len - at, MANIFEST_CHUNK);

        g_ptr_array_add(
            m->memory_chunks,
            memcmp(data + at, zero, n)
                ? g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guchar *)data + at, n)
                : g_strdup(""));
    }
    m->memory_sha256 = manifest_hash_chunks(m);
}

/* All that a manifest needs, and no files yet. */
static inline Manifest *folder_manifest(void)
{
    Manifest *m = manifest_new();

    m->hutch = g_strdup("0.1.0");
    m->id = g_uuid_string_random();
    m->vm = g_strdup("web");
    m->created_ns = 1700000000123456789;
    m->ram_size = FOLDER_RAM;
    m->memory_encoding = g_strdup(SNAP_RAW);
    return m;
}

/* A folder `name` in `in`, full or a diff to `parent` (a name beside it), whose page 1 is
 * of the byte `with`.  A new string: its path. */
static inline char *folder_make(const char *in, const char *name, const char *parent,
                                int with)
{
    g_autofree char *leaf = g_strconcat(name, STORE_SUFFIX, NULL);
    char *folder = g_build_filename(in, leaf, NULL);
    g_autoptr(Manifest) m = folder_manifest();
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(mkdir(folder, 0700), ==, 0);
    folder_put(folder, SNAP_CONFIG, "{}\n");
    folder_put(folder, SNAP_STATE, "state of it");
    folder_page(folder, 1, with);
    if (parent) {
        g_autofree char *of = g_build_filename(in, parent, NULL);
        g_autoptr(Manifest) p = manifest_read(of, &error);

        g_assert_no_error(error);
        m->parent_id = g_strdup(p->id);
        m->parent_path = g_strdup(parent);
        folder_put(folder, SNAP_MEMORY_MAP, "map");
        g_assert_true(manifest_add_file(m, folder, SNAP_MEMORY_MAP, NULL));
    }
    g_assert_true(manifest_add_file(m, folder, SNAP_CONFIG, NULL));
    g_assert_true(manifest_add_file(m, folder, SNAP_STATE, NULL));
    m->memory_pages = 1;
    folder_hash_memory(m, folder);
    manifest_write(m, folder, &error);
    g_assert_no_error(error);
    return folder;
}
