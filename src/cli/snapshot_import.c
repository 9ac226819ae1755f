/* hutch snapshot import: what export wrote becomes a snapshot again, wholly or not at
 * all.
 *
 * The archive is hostile.  Its manifest comes first and says what else may come; anything
 * that it does not name, and anything longer than it says, is refused before it is
 * written.  What was written is then compared with the hashes, and only then gets its
 * name.  A snapshot from strangers may not name files of this host: neither as a disk's
 * layer nor as what an image lies above. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "snapshot/partial.h"
#include "src/cli/snapshot_folder.h"
#include "src/cli/snapshot_tar.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/json.h"

typedef struct ImportArgs {
    SnapshotArgs common;
    char *name;
} ImportArgs;

static const ParamDesc import_desc[] = {
    {.key = "name",
     .type = PARAM_STRING,
     .offset = offsetof(ImportArgs, name),
     .arg = "NAME",
     .help = "what to call it (default: as the file, without its ending)"},
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable snapshot_import_args = {.size = sizeof(ImportArgs), .desc = import_desc};

enum { PIECE = 1 << 20, MAX_MANIFEST = 8 << 20 };

typedef struct Import {
    const ImportArgs *args;
    const char *file;
    PackIn *in;
    char *partial;
    Manifest *m;
    GHashTable *seen; /* names of what has come */
    Progress progress;
} Import;

/* ---- the manifest --------------------------------------------------------------------
 */

static bool check_disks(const Manifest *m, GError **error)
{
    for (unsigned i = 0; i < m->disks->len; i++) {
        const ManifestDisk *d = g_ptr_array_index(m->disks, i);

        if (d->layer && !manifest_file(m, d->layer))
            return fail(error, VM_ERROR_CORRUPT,
                        "its disk '%s' is not in it but at '%s': export it anew, which "
                        "takes the disks in or leaves them out",
                        d->id, d->layer);
    }
    return true;
}

static bool read_manifest(Import *im, GError **error)
{
    TarEntry e = {0};
    g_autofree char *text = NULL;
    bool end, ok = tar_next(im->in, &e, &end, error);

    if (ok &&
        (end || !g_str_equal(e.name, SNAP_MANIFEST) || e.sparse || e.size > MAX_MANIFEST))
        ok = fail(error, VM_ERROR_CORRUPT,
                  "the archive does not begin with a manifest: it is not one of 'hutch "
                  "snapshot export'");
    if (ok) {
        text = g_malloc((size_t)e.size + 1);
        ok = pack_read(im->in, text, (size_t)e.size, error) &&
             tar_skip_pad(im->in, &e, error);
    }
    if (ok)
        im->m = manifest_parse(text, (size_t)e.size, SNAP_MANIFEST, error);
    tar_entry_clear(&e);
    if (!im->m)
        return false;
    if (im->m->parent_id)
        return fail(error, VM_ERROR_CORRUPT,
                    "the snapshot in it is a diff, whose parent an archive cannot have");
    return check_disks(im->m, error);
}

/* What there may be of a file; false: it is not to come. */
static bool limit_of(const Manifest *m, const char *name, bool *ret_exact, uint64_t *ret)
{
    const ManifestFile *f = manifest_file(m, name);
    bool zstd = g_str_equal(m->memory_encoding, SNAP_ZSTD);

    *ret_exact = true;
    if (f) {
        *ret = f->size;
    } else if (g_str_equal(name, SNAP_MEMORY_SUMS)) {
        *ret_exact = false;
        *ret = manifest_n_chunks(m) * 65;
    } else if (g_str_equal(name, SNAP_MEMORY) && !zstd) {
        *ret = m->ram_size;
    } else if (g_str_equal(name, SNAP_MEMORY_ZST) && zstd) {
        *ret_exact = false;
        *ret = m->ram_size + m->ram_size / 64 + MIB; /* what cannot be compressed */
    } else {
        return false;
    }
    return true;
}

/* An archive of a few kilobytes may become many gigabytes: not where there is no room. */
static bool check_room(const Import *im, const char *folder, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(folder);
    struct statvfs st;
    uint64_t needs = 0, has;

    for (unsigned i = 0; i < im->m->files->len; i++)
        needs += MIN(((ManifestFile *)g_ptr_array_index(im->m->files, i))->size,
                     MANIFEST_MAX_RAM);
    if (statvfs(parent, &st) < 0)
        return true; /* it will be seen when it is made */
    has = (uint64_t)st.f_bavail * st.f_frsize;
    if (needs <= has)
        return true;
    return fail(error, VM_ERROR_IO,
                "its files have %" G_GUINT64_FORMAT
                " MiB, and '%s' has room for %" G_GUINT64_FORMAT,
                needs / MIB, parent, has / MIB);
}

/* ---- its files -----------------------------------------------------------------------
 */

static bool take_bytes(Import *im, int fd, const char *name, uint64_t offset,
                       uint64_t len, GError **error)
{
    g_autofree char *buf = g_malloc(PIECE);

    while (len) {
        size_t n = (size_t)MIN(len, PIECE);

        if (interrupt_signal())
            return interrupt_fail(error);
        if (!pack_read(im->in, buf, n, error))
            return false;
        if (lseek(fd, (off_t)offset, SEEK_SET) < 0)
            return fail_errno(error, "'%s': write it", name);
        /* Memory that travelled as zeroes becomes a hole again. */
        if ((!is_zero(buf, n) && !fd_write_all(fd, buf, n, error))) {
            g_prefix_error(error, "'%s': ", name);
            return false;
        }
        offset += n;
        len -= n;
        atomic_store(&im->progress.done, pack_taken(im->in));
        progress_tick(&im->progress);
    }
    return true;
}

static bool take_entry(Import *im, const TarEntry *e, int fd, GError **error)
{
    if (!e->sparse && !take_bytes(im, fd, e->name, 0, e->size, error))
        return false;
    for (unsigned i = 0; e->sparse && i < e->runs->len; i++) {
        const TarRun *r = &g_array_index(e->runs, TarRun, i);

        if (!take_bytes(im, fd, e->name, r->offset, r->len, error))
            return false;
    }
    if (ftruncate(fd, (off_t)e->size) < 0)
        return fail_errno(error, "'%s': make it", e->name);
    return tar_skip_pad(im->in, e, error);
}

static bool check_entry(Import *im, const TarEntry *e, GError **error)
{
    uint64_t limit;
    bool exact;

    if (!limit_of(im->m, e->name, &exact, &limit))
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s' is in the archive, and not in its manifest", e->name);
    if (exact ? e->size != limit : e->size > limit)
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s' has %" G_GUINT64_FORMAT
                    " bytes, and the manifest says %" G_GUINT64_FORMAT,
                    e->name, e->size, limit);
    if (e->sparse && !g_str_equal(e->name, SNAP_MEMORY))
        return fail(error, VM_ERROR_CORRUPT, "'%s' is a sparse file", e->name);
    return g_hash_table_add(im->seen, g_strdup(e->name)) ||
           fail(error, VM_ERROR_CORRUPT, "'%s' is in the archive twice", e->name);
}

static bool take_file(Import *im, const TarEntry *e, GError **error)
{
    g_autofree char *path = g_build_filename(im->partial, e->name, NULL);
    g_autofree char *folder = g_path_get_dirname(path);
    autofd fd = -1;

    if (!check_entry(im, e, error))
        return false;
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", folder);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail_errno(error, "'%s': make it", path);
    return take_entry(im, e, fd, error);
}

static bool take_files(Import *im, GError **error)
{
    TarEntry e = {0};
    bool end = false, ok = true;

    while (ok && !end) {
        ok = tar_next(im->in, &e, &end, error);
        if (ok && !end)
            ok = take_file(im, &e, error);
    }
    tar_entry_clear(&e);
    return ok;
}

/* ---- judging what came ---------------------------------------------------------------
 */

/* An image from strangers shows itself, and no file of this host. */
static bool check_image(const char *path, const char *format, const char *id,
                        GError **error)
{
    ImageArgs args = {.backing = BLOCK_BACKING_OFF};
    int kind = g_str_equal(format, "qcow2") ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
    g_autoptr(BlockImage) img = image_open_for(&args, path, kind, BLOCK_CACHE_WRITEBACK,
                                               true, IMAGE_NO_BACKING, error);
    json_t *info, *data;
    bool ok;

    if (!img) {
        g_prefix_error(error, "disk '%s': ", id);
        return false;
    }
    info = image_info(img);
    data = json_object_get(json_object_get(info, "format-specific"), "data");
    ok = !*json_get_text(info, "backing-filename") && !*json_get_text(data, "data-file");
    json_decref(info);
    return ok || fail(error, VM_ERROR_CORRUPT,
                      "disk '%s' names another file, which an archive's may not", id);
}

static bool check_images(Import *im, GError **error)
{
    for (unsigned i = 0; i < im->m->disks->len; i++) {
        const ManifestDisk *d = g_ptr_array_index(im->m->disks, i);
        g_autofree char *path = d->layer ? g_build_filename(im->partial, d->layer, NULL)
                                         : NULL;

        if (path && !check_image(path, d->format, d->id, error))
            return false;
    }
    return true;
}

static void verified(void *opaque, uint64_t done, uint64_t total)
{
    Progress *p = opaque;

    p->total = total;
    atomic_store(&p->done, done);
    progress_tick(p);
}

static bool judge(Import *im, GError **error)
{
    g_autoptr(StateReader) state = NULL;
    json_t *config;
    Progress p;
    bool ok;

    im->m->foreign = true; /* whatever it says itself */
    if (!manifest_write(im->m, im->partial, error))
        return false;
    progress_begin(&p, &im->args->common.common, "verify", 1);
    ok = manifest_verify(im->partial, im->m, verified, &p, error);
    progress_end(&p);
    if (!ok || !check_images(im, error))
        return false;
    state = snap_read_state(im->partial, error);
    config = state ? snap_read_json(im->partial, SNAP_CONFIG, error) : NULL;
    json_decref(config);
    return config != NULL;
}

/* ---- the verb ------------------------------------------------------------------------
 */

/* "web.snap.tar.zst" as "web". */
static char *name_by_file(const char *file)
{
    static const char *const endings[] = {".zst", ".tar", STORE_SUFFIX};
    char *name = g_path_get_basename(file);

    for (unsigned i = 0; i < G_N_ELEMENTS(endings); i++)
        if (g_str_has_suffix(name, endings[i]))
            name[strlen(name) - strlen(endings[i])] = 0;
    return name;
}

static bool unpack(Import *im, const char *folder, GError **error)
{
    autofd lock = -1;
    bool ok;

    if (!read_manifest(im, error) || !store_make_parent(folder, error) ||
        !check_room(im, folder, error))
        return false;
    im->partial = partial_begin(folder, false, &lock, error);
    if (!im->partial)
        return false;
    ok = take_files(im, error);
    progress_end(&im->progress);
    ok = ok && judge(im, error) && store_commit(im->partial, folder, error);
    if (!ok)
        store_remove(im->partial, NULL);
    return ok;
}

static bool import(Import *im, int fd, const char *folder, GError **error)
{
    struct stat st;
    bool ok;

    im->in = pack_in_new(fd, error);
    if (!im->in)
        return false;
    progress_begin(&im->progress, &im->args->common.common, "import",
                   fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0);
    ok = unpack(im, folder, error);
    progress_end(&im->progress);
    return ok;
}

bool snapshot_act_import(void *options, char **names, int *status, GError **error)
{
    const ImportArgs *args = options;
    bool from_stdin = g_str_equal(names[0], "-");
    g_autofree char *by_file = name_by_file(names[0]);
    const char *name = args->name ? args->name : by_file;
    g_autofree char *folder = store_path(STORE_SNAPSHOTS, name, error);
    autofd fd = from_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                           : open(names[0], O_RDONLY | O_CLOEXEC);
    Import im = {.args = args, .file = names[0]};
    bool ok;

    if (!folder)
        return false;
    if (fd < 0)
        return fail_errno(error, "'%s': open it", names[0]);
    interrupt_watch();
    im.seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ok = import(&im, fd, folder, error);
    if (!ok)
        g_prefix_error(error, "'%s': ", names[0]);
    else if (!args->common.common.quiet)
        printf("%s\n", name);
    pack_in_free(im.in);
    manifest_free(im.m);
    g_hash_table_unref(im.seen);
    g_free(im.partial);
    return ok;
}
