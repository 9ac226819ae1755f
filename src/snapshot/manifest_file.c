/* The manifest's files as such, and memory.sums: a line for each chunk of memory, its
 * hash or "-". */
#include <fcntl.h>
#include <string.h>

#include "snapshot/file.h"
#include "snapshot/hash.h"
#include "src/snapshot/manifest_private.h"
#include "util/fd.h"

bool manifest_store(const char *folder, const char *name, const char *text,
                    GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    autofd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);

    if (fd < 0)
        return fail_errno(error, "'%s': make it", path);
    if (!fd_write_all(fd, text, strlen(text), error)) {
        g_prefix_error(error, "'%s': ", path);
        return false;
    }
    return fsync(fd) == 0 || fail_errno(error, "'%s': put it on the disk", path);
}

/* ---- memory.sums ---------------------------------------------------------------------
 */

uint64_t manifest_n_chunks(const Manifest *m)
{
    return (m->ram_size + MANIFEST_CHUNK - 1) / MANIFEST_CHUNK;
}

char *manifest_hash_chunks(const Manifest *m)
{
    g_autoptr(Hasher) h = hasher_new();
    char *text = g_malloc(HASH_TEXT + 1);
    uint8_t hash[HASH_BYTES];

    for (unsigned i = 0; i < m->memory_chunks->len; i++) {
        if (!hash_from_text(g_ptr_array_index(m->memory_chunks, i), hash))
            memset(hash, 0, sizeof(hash));
        hasher_add(h, hash, sizeof(hash));
    }
    hasher_end(h, hash);
    hash_to_text(hash, text);
    return text;
}

bool manifest_write_chunks(const Manifest *m, const char *folder, GError **error)
{
    g_autofree char *sum = manifest_hash_chunks(m);
    g_autoptr(GString) out = g_string_new(NULL);

    if (m->memory_chunks->len != manifest_n_chunks(m) || g_strcmp0(sum, m->memory_sha256))
        return fail(error, VM_ERROR_INVALID,
                    "'%s': the hashes of memory are not those of the manifest", folder);
    for (unsigned i = 0; i < m->memory_chunks->len; i++) {
        const char *text = g_ptr_array_index(m->memory_chunks, i);

        g_string_append_printf(out, "%s\n", *text ? text : "-");
    }
    return manifest_store(folder, SNAP_MEMORY_SUMS, out->str, error);
}

/* One line; NULL: the text is over, or the line is none. */
static char *take_line(const char **at)
{
    const char *end = strchr(*at, '\n');
    g_autofree char *line = end ? g_strndup(*at, (size_t)(end - *at)) : NULL;
    uint8_t hash[HASH_BYTES];

    if (!line)
        return NULL;
    *at = end + 1;
    if (g_str_equal(line, "-"))
        return g_strdup("");
    return hash_from_text(line, hash) ? g_steal_pointer(&line) : NULL;
}

bool manifest_read_chunks(Manifest *m, const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, SNAP_MEMORY_SUMS, NULL);
    g_autoptr(GPtrArray) chunks = g_ptr_array_new_with_free_func(g_free);
    uint64_t n = manifest_n_chunks(m);
    g_autoptr(GBytes) bytes = snap_file_read(path, n * (HASH_TEXT + 1), error);
    g_autofree char *sum = NULL;
    const char *text, *at;
    char *line;
    size_t len;

    if (!bytes)
        return false;
    text = at = g_bytes_get_data(bytes, &len);
    while (chunks->len < n && (line = take_line(&at)))
        g_ptr_array_add(chunks, line);
    if (chunks->len != n || at != text + len)
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s': line %u is not the hash of a chunk, or there are not "
                    "%" G_GUINT64_FORMAT " of them: the file is damaged",
                    path, chunks->len + 1, n);
    if (m->memory_chunks)
        g_ptr_array_unref(m->memory_chunks);
    m->memory_chunks = g_steal_pointer(&chunks);
    sum = manifest_hash_chunks(m);
    return g_str_equal(sum, m->memory_sha256) ||
           fail(error, VM_ERROR_CORRUPT,
                "'%s': it is not what the manifest has the hash of: the file is damaged",
                path);
}
