/* hutch snapshot merge: a chain of diffs becomes one full snapshot, a new one or in the
 * place of the last diff. */
#include "src/cli/snapshot_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "snapshot/memory.h"
#include "snapshot/partial.h"
#include "util/fd.h"

typedef struct MergeArgs {
    SnapshotArgs common;
    char *into;
} MergeArgs;

static const ParamDesc merge_desc[] = {
    {.key = "into",
     .type = PARAM_STRING,
     .offset = offsetof(MergeArgs, into),
     .arg = "NAME",
     .help = "make a new snapshot; without it, the diff itself becomes a full one"},
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable snapshot_merge_args = {.size = sizeof(MergeArgs), .desc = merge_desc};

enum { BATCH = 1024 }; /* pages read at a time: 4 MiB */

/* ---- its memory ----------------------------------------------------------------------
 */

static uint64_t count_pages(SnapMemory *from)
{
    uint64_t page = 0, n, total = 0;

    for (; snap_memory_next(from, &page, &n); page += n)
        total += n;
    return total;
}

static bool copy_run(SnapMemory *from, SnapMemoryWriter *to, uint64_t page, uint64_t n,
                     uint8_t *buf, Progress *p, GError **error)
{
    while (n) {
        unsigned some = (unsigned)MIN(n, BATCH);

        if (interrupt_signal())
            return interrupt_fail(error);
        if (!snap_memory_read(from, page, some, buf, error) ||
            !snap_memory_write(to, page, some, buf, error))
            return false;
        page += some;
        n -= some;
        atomic_fetch_add(&p->done, (uint64_t)some * GM_PAGE_SIZE);
        progress_tick(p);
    }
    return true;
}

static bool copy_pages(SnapMemory *from, SnapMemoryWriter *to, const ImageArgs *args,
                       GError **error)
{
    g_autofree uint8_t *buf = g_malloc(BATCH * GM_PAGE_SIZE);
    uint64_t page = 0, n;
    bool ok = true;
    Progress p;

    progress_begin(&p, args, "merge", count_pages(from) * GM_PAGE_SIZE);
    for (; ok && snap_memory_next(from, &page, &n); page += n)
        ok = copy_run(from, to, page, n, buf, &p, error);
    progress_end(&p);
    return ok;
}

static bool merge_memory(const char *folder, const char *to, const ImageArgs *args,
                         Manifest *m, GError **error)
{
    g_autoptr(SnapMemory) from = snap_memory_open(folder, error);
    bool zstd = g_str_equal(m->memory_encoding, SNAP_ZSTD);
    SnapMemoryWriter *w = from ? snap_memory_create(to, m->ram_size, false, zstd, error)
                               : NULL;

    if (!w)
        return false;
    if (copy_pages(from, w, args, error))
        return snap_memory_finish(w, m, error);
    snap_memory_abandon(w);
    return false;
}

/* ---- its other files -----------------------------------------------------------------
 */

/* From where `in` stands to its end. */
static bool copy_bytes(int in, int out, const char *what, GError **error)
{
    g_autofree char *buf = g_malloc(1 << 20);
    ssize_t n;

    while ((n = read(in, buf, 1 << 20)) > 0)
        if (!fd_write_all(out, buf, (size_t)n, error)) {
            g_prefix_error(error, "'%s': ", what);
            return false;
        }
    return n == 0 || fail_errno(error, "'%s': copy it", what);
}

/* Files in a snapshot are never written to again, so two may share one; where that cannot
 * be, it is copied. */
static bool link_or_copy(const char *from, const char *to, GError **error)
{
    autofd in = -1, out = -1;
    ssize_t n;

    if (link(from, to) == 0)
        return true;
    in = open(from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (in < 0)
        return fail_errno(error, "'%s': open it", from);
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0)
        return fail_errno(error, "'%s': make it", to);
    do
        n = copy_file_range(in, NULL, out, NULL, 1 << 30, 0);
    while (n > 0 || (n < 0 && errno == EINTR));
    if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP))
        return copy_bytes(in, out, to, error);
    return n == 0 || fail_errno(error, "'%s': copy it", to);
}

static bool take_file(const char *from, const char *to, const char *name, GError **error)
{
    g_autofree char *a = g_build_filename(from, name, NULL);
    g_autofree char *b = g_build_filename(to, name, NULL);
    g_autofree char *folder = g_path_get_dirname(b);

    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", folder);
    return link_or_copy(a, b, error);
}

static bool take_files(const char *from, const char *to, Manifest *m, GError **error)
{
    for (unsigned i = 0; i < m->files->len; i++) {
        const char *name = ((ManifestFile *)g_ptr_array_index(m->files, i))->name;

        if (!g_str_equal(name, SNAP_MEMORY_MAP)) {
            if (!take_file(from, to, name, error))
                return false;
            continue;
        }
        g_ptr_array_remove_index(m->files, i--);
    }
    return true;
}

bool snapshot_merge_into(const char *folder, const char *partial, const char *id,
                         const ImageArgs *args, GError **error)
{
    g_autoptr(Manifest) m = manifest_read(folder, error);

    if (!m)
        return false;
    g_clear_pointer(&m->parent_id, g_free);
    g_clear_pointer(&m->parent_path, g_free);
    if (id) {
        g_free(m->id);
        m->id = g_strdup(id);
    }
    return take_files(folder, partial, m, error) &&
           merge_memory(folder, partial, args, m, error) &&
           manifest_write(m, partial, error);
}

/* ---- the verb ------------------------------------------------------------------------
 */

/* Nobody may have it open while it is exchanged; who does is said by name. */
static bool exchange(const Snap *s, const char *partial, GArray *holds, GError **error)
{
    autofd lock = -1;

    g_array_set_size(holds, 0); /* ours is not in the way */
    if (!snapshot_check_users(s, error))
        return false;
    lock = store_seize(s->folder, error);
    return lock >= 0 && store_replace(partial, s->folder, error);
}

static bool merge(const MergeArgs *args, const Snap *s, const char *into, GError **error)
{
    const char *target = into ? into : s->folder;
    g_autoptr(GArray) holds = manifest_holds_new();
    g_autofree char *id = into ? g_uuid_string_random() : NULL, *partial = NULL;
    autofd lock = -1;
    unsigned links;
    bool ok;

    if ((!into && !snapshot_check_users(s, error)) ||
        !manifest_hold_chain(s->folder, holds, &links, error))
        return false;
    if (!into && links == 1)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a full snapshot already; --into NAME makes a copy of it",
                    s->name);
    partial = partial_begin(target, !into, &lock, error);
    if (!partial)
        return false;
    ok = snapshot_merge_into(s->folder, partial, id, &args->common.common, error) &&
         (into ? store_commit(partial, target, error)
               : exchange(s, partial, holds, error));
    if (!ok)
        store_remove(partial, NULL);
    else if (!args->common.common.quiet)
        printf("%s: %u snapshots in one\n", into ? args->into : s->name, links);
    return ok;
}

bool snapshot_act_merge(void *options, char **names, int *status, GError **error)
{
    const MergeArgs *args = options;
    g_autoptr(Snap) s = snap_find(names[0], error);
    g_autofree char *into = NULL;

    if (!s)
        return false;
    if (args->into && !(into = store_path(STORE_SNAPSHOTS, args->into, error)))
        return false;
    interrupt_watch();
    return merge(args, s, into, error);
}
