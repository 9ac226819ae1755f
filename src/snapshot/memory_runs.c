/* memory.map: which pages a diff holds; and working-set, which has the same form.  A
 * state file with one section, in it a list of runs: the first page (64 bits), and how
 * many follow (32 bits), both little-endian.  The list is sorted and its runs do not
 * touch each other, so that there is one list for every set of pages. */
#include <fcntl.h>

#include "memory_private.h"
#include "snapshot/file.h"
#include "state/state.h"
#include "util/fd.h"

enum { RUN_BYTES = 12, MAX_BYTES = (STATE_MAX_SECTION - 4096) / RUN_BYTES * RUN_BYTES };

typedef struct MemoryMap {
    uint64_t pages;
    StateBlob runs;
} MemoryMap;

static const StateTable map_table = {
    .name = "memory-map",
    .version = 1,
    .size = sizeof(MemoryMap),
    .fields =
        (const StateField[]){
            STATE_FIELD(MemoryMap, pages, 1, U64, .help = "pages of guest RAM"),
            STATE_DATA(MemoryMap, runs, 2, MAX_BYTES, .help = "pages that changed"),
            {},
        },
};

const StateTable *const memory_state_tables[] = {&map_table, NULL};

bool memory_bits_next(const uint64_t *bits, uint64_t pages, uint64_t *first,
                      uint64_t *count)
{
    uint64_t at = *first, end;

    while (at < pages && !(bits[at / 64] >> (at % 64)))
        at = align_down(at, 64) + 64;
    if (at >= pages)
        return false;
    at += (unsigned)__builtin_ctzll(bits[at / 64] >> (at % 64));
    end = at;
    while (end < pages && !(~bits[end / 64] >> (end % 64)))
        end = align_down(end, 64) + 64;
    if (end < pages)
        end += (unsigned)__builtin_ctzll(~bits[end / 64] >> (end % 64));
    *first = at;
    *count = MIN(end, pages) - at;
    return at < pages;
}

static bool add_run(GByteArray *out, uint64_t first, uint64_t count, GError **error)
{
    uint8_t entry[RUN_BYTES];

    if (out->len + RUN_BYTES > MAX_BYTES)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "what changed lies in more than %d separate places; make a full "
                    "snapshot instead of a diff",
                    MAX_BYTES / RUN_BYTES);
    store_le64(entry, first);
    store_le32(entry + 8, (uint32_t)count);
    g_byte_array_append(out, entry, RUN_BYTES);
    return true;
}

static bool store_map(const char *folder, const char *name, const MemoryMap *map,
                      GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(StateWriter) w = state_writer_new();
    g_autoptr(GBytes) bytes = NULL;
    autofd fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    gconstpointer data;
    gsize len;

    if (fd < 0)
        return fail_errno(error, "'%s': make it", path);
    state_put(w, "memory", &map_table, map);
    bytes = state_writer_end(g_steal_pointer(&w), error);
    if (!bytes)
        return false;
    data = g_bytes_get_data(bytes, &len);
    if (!fd_write_all(fd, data, len, error)) {
        g_prefix_error(error, "'%s': ", path);
        return false;
    }
    return fsync(fd) == 0 || fail_errno(error, "'%s': put it on the disk", path);
}

bool memory_runs_save(const char *folder, const char *name, const uint64_t *held,
                      uint64_t pages, GError **error)
{
    g_autoptr(GByteArray) list = g_byte_array_new();
    uint64_t first = 0, count;

    /* One of 2^32 pages and more is beyond what manifests allow. */
    for (; memory_bits_next(held, pages, &first, &count); first += count)
        if (!add_run(list, first, count, error))
            return false;
    return store_map(folder, name, &(MemoryMap){pages, {list->data, list->len}}, error);
}

static GArray *check_runs(const MemoryMap *map, uint64_t pages, GError **error)
{
    g_autoptr(GArray) runs = g_array_new(false, false, sizeof(MemoryRun));
    uint64_t end = 0;

    if (map->pages != pages || map->runs.size % RUN_BYTES) {
        fail(error, VM_ERROR_CORRUPT,
             "it is for %" G_GUINT64_FORMAT
             " pages of RAM, and there are %" G_GUINT64_FORMAT,
             map->pages, pages);
        return NULL;
    }
    for (uint32_t at = 0; at < map->runs.size; at += RUN_BYTES) {
        MemoryRun run = {load_le64(map->runs.data + at),
                         load_le32(map->runs.data + at + 8)};

        if (!run.count || !range_within(run.first, run.count, pages) ||
            (at && run.first <= end)) {
            fail(error, VM_ERROR_CORRUPT,
                 "run %u of its list (%" G_GUINT64_FORMAT " pages from %" G_GUINT64_FORMAT
                 ") is out of order or beyond RAM",
                 at / RUN_BYTES, run.count, run.first);
            return NULL;
        }
        end = run.first + run.count;
        g_array_append_val(runs, run);
    }
    return g_steal_pointer(&runs);
}

GArray *memory_runs_load(const char *folder, const char *name, uint64_t pages,
                         GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GBytes) bytes = snap_file_read(path, STATE_MAX_SECTION, error);
    g_autoptr(StateReader) r = bytes ? state_reader_new(bytes, error) : NULL;
    GArray *runs = NULL;
    MemoryMap map;

    if (r && state_get(r, "memory", &map_table, &map, error)) {
        runs = check_runs(&map, pages, error);
        state_clear(&map_table, &map);
    }
    if (bytes && !runs)
        g_prefix_error(error, "'%s': ", path);
    return runs;
}
