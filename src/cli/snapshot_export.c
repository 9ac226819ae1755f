/* hutch snapshot export: one file that has all of a snapshot.
 *
 * What it builds on goes in as well, by merging it: of a diff, memory is made whole; each
 * disk becomes one image that needs no other.  Both are made in a folder of their own
 * before the archive is written.  The manifest comes first in it, so that who reads it
 * knows beforehand what else may come, and how much. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/cli/snapshot_folder.h"
#include "src/cli/snapshot_tar.h"
#include "util/bits.h"
#include "util/fd.h"

typedef struct ExportArgs {
    SnapshotArgs common;
    bool no_disks;
} ExportArgs;

static const ParamDesc export_desc[] = {
    {.key = "no-disks",
     .type = PARAM_BOOL,
     .offset = offsetof(ExportArgs, no_disks),
     .help = "leave the disks out: they are to be given when it is restored"},
    {.key = "force",
     .letter = 'f',
     .type = PARAM_BOOL,
     .offset = offsetof(ExportArgs, common.force),
     .help = "replace a file of that name"},
    IMAGE_ARG_PROGRESS,
    IMAGE_ARG_QUIET,
    {0},
};
const ParamTable snapshot_export_args = {.size = sizeof(ExportArgs), .desc = export_desc};

enum { PIECE = 1 << 20, MAX_RUNS = 1 << 16 };

typedef struct Export {
    const ExportArgs *args;
    const Snap *snap;
    char *folder; /* of config, state and memory: the snapshot's, or the merged one's */
    char *work;   /* what is made for this; NULL: nothing yet */
    Manifest *m;  /* as it will be in the archive */
    PackOut *out;
    Progress progress;
} Export;

/* ---- what has to be made -------------------------------------------------------------
 */

/* In the folder that the file will be in, which has room for it. */
static bool make_work(Export *e, const char *file, GError **error)
{
    g_autofree char *near = g_str_equal(file, "-") ? g_strdup(g_get_tmp_dir())
                                                   : g_path_get_dirname(file);

    if (e->work)
        return true;
    e->work = g_build_filename(near, ".hutch-export-XXXXXX", NULL);
    if (mkdtemp(e->work))
        return true;
    fail_errno(error, "make a folder in '%s'", near);
    g_clear_pointer(&e->work, g_free);
    return false;
}

static bool merge_memory(Export *e, const char *file, GError **error)
{
    if (!make_work(e, file, error))
        return false;
    g_free(e->folder);
    e->folder = g_build_filename(e->work, "merged", NULL);
    if (mkdir(e->folder, 0700) < 0)
        return fail_errno(error, "make the folder '%s'", e->folder);
    return snapshot_merge_into(e->snap->folder, e->folder, NULL, &e->args->common.common,
                               error);
}

/* By `hutch image convert`, which sees what the guest saw. */
static bool flatten(Export *e, const char *from, const char *format, const char *to,
                    GError **error)
{
    g_autofree char *text = g_strdup_printf("format=%s,target-format=qcow2,force-share",
                                            format);
    void *options = param_new(&image_convert_args);
    char *names[] = {(char *)from, (char *)to, NULL};
    int status = 0;
    bool ok = param_parse(&image_convert_args, options, text, error);

    ((ImageArgs *)options)->quiet = e->args->common.common.quiet;
    ((ImageArgs *)options)->progress = e->args->common.common.progress;
    ok = ok && image_act_convert(options, names, &status, error);
    param_free(&image_convert_args, options);
    return ok;
}

static char *place_of(const Export *e, const ManifestDisk *d)
{
    return g_path_is_absolute(d->layer) || strstr(d->layer, "://")
               ? g_strdup(d->layer)
               : g_build_filename(e->snap->folder, d->layer, NULL);
}

static bool take_disk(Export *e, const char *file, const ManifestDisk *d, unsigned number,
                      GError **error)
{
    g_autofree char *name = g_strdup_printf(SNAP_DISKS "/%u.qcow2", number);
    g_autofree char *from = NULL, *to = NULL, *folder = NULL;

    if (!d->layer || e->args->no_disks) {
        manifest_add_disk(e->m, d->id, NULL, d->format, NULL, d->readonly);
        return true;
    }
    if (!make_work(e, file, error))
        return false;
    from = place_of(e, d);
    to = g_build_filename(e->work, name, NULL);
    folder = g_path_get_dirname(to);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", folder);
    if (!flatten(e, from, d->format, to, error)) {
        g_prefix_error(error, "disk '%s': ", d->id);
        return false;
    }
    manifest_add_disk(e->m, d->id, name, "qcow2", NULL, d->readonly);
    return manifest_add_file(e->m, e->work, name, error);
}

static void drop_disks(Manifest *m)
{
    g_ptr_array_set_size(m->disks, 0);
    for (unsigned i = m->files->len; i-- > 0;)
        if (g_str_has_prefix(((ManifestFile *)g_ptr_array_index(m->files, i))->name,
                             SNAP_DISKS "/"))
            g_ptr_array_remove_index(m->files, i);
}

static bool prepare(Export *e, const char *file, unsigned links, GError **error)
{
    const Manifest *old = e->snap->manifest;

    if (links > 1 && !merge_memory(e, file, error))
        return false;
    e->m = manifest_read(e->folder, error);
    if (!e->m)
        return false;
    drop_disks(e->m);
    for (unsigned i = 0; i < old->disks->len; i++)
        if (!take_disk(e, file, g_ptr_array_index(old->disks, i), i, error))
            return false;
    return true;
}

/* ---- the archive ---------------------------------------------------------------------
 */

static bool put_bytes(Export *e, int fd, const char *path, uint64_t offset, uint64_t len,
                      GError **error)
{
    g_autofree char *buf = g_malloc(PIECE);

    while (len) {
        size_t n = (size_t)MIN(len, PIECE);

        if (interrupt_signal())
            return interrupt_fail(error);
        if (!fd_pread_all(fd, buf, n, offset, error)) {
            g_prefix_error(error, "'%s': ", path);
            return false;
        }
        if (!pack_write(e->out, buf, n, error))
            return false;
        offset += n;
        len -= n;
        atomic_fetch_add(&e->progress.done, n);
        progress_tick(&e->progress);
    }
    return true;
}

static bool put_file(Export *e, const char *folder, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, "'%s': open it", path);
    return tar_begin(e->out, name, (uint64_t)st.st_size, error) &&
           put_bytes(e, fd, path, 0, (uint64_t)st.st_size, error) &&
           tar_pad(e->out, (uint64_t)st.st_size, error);
}

/* Where the file has data; the closest are taken together so that there are not too many.
 */
static GArray *find_runs(int fd, uint64_t size)
{
    GArray *runs = g_array_new(FALSE, FALSE, sizeof(TarRun));
    uint64_t gap = 64 * KIB;
    off_t from, to = 0;

    while ((from = lseek(fd, to, SEEK_DATA)) >= 0 &&
           (to = lseek(fd, from, SEEK_HOLE)) > from) {
        TarRun *last = runs->len ? &g_array_index(runs, TarRun, runs->len - 1) : NULL;
        TarRun run = {(uint64_t)from, (uint64_t)(to - from)};

        if (last && run.offset - (last->offset + last->len) <= gap)
            last->len = run.offset + run.len - last->offset;
        else
            g_array_append_val(runs, run);
        if (runs->len > MAX_RUNS) { /* coarser, from the beginning */
            g_array_set_size(runs, 0);
            gap *= 16;
            to = 0;
        }
    }
    if (from < 0 && errno != ENXIO) { /* a file system that does not tell */
        TarRun all = {0, size};

        g_array_set_size(runs, 0);
        g_array_append_val(runs, all);
    }
    return runs;
}

static bool put_sparse(Export *e, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(e->folder, name, NULL);
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autoptr(GArray) runs = fd < 0 ? NULL : find_runs(fd, e->m->ram_size);
    uint64_t stored = 0;

    if (!runs)
        return fail_errno(error, "'%s': open it", path);
    if (!tar_begin_sparse(e->out, name, e->m->ram_size, &g_array_index(runs, TarRun, 0),
                          runs->len, error))
        return false;
    for (unsigned i = 0; i < runs->len; i++) {
        const TarRun *r = &g_array_index(runs, TarRun, i);

        if (!put_bytes(e, fd, path, r->offset, r->len, error))
            return false;
        stored += r->len;
    }
    return tar_pad(e->out, stored, error);
}

static bool put_manifest(Export *e, GError **error)
{
    json_t *json = manifest_to_json(e->m);
    char *text = json_dumps(json, JSON_INDENT(2));
    bool ok = text && tar_begin(e->out, SNAP_MANIFEST, strlen(text), error) &&
              pack_write(e->out, text, strlen(text), error) &&
              tar_pad(e->out, strlen(text), error);

    json_decref(json);
    free(text);
    return ok;
}

static bool put_all(Export *e, GError **error)
{
    bool zstd = g_str_equal(e->m->memory_encoding, SNAP_ZSTD);

    if (!put_manifest(e, error) || !put_file(e, e->folder, SNAP_MEMORY_SUMS, error))
        return false;
    for (unsigned i = 0; i < e->m->files->len; i++) {
        const ManifestFile *f = g_ptr_array_index(e->m->files, i);
        bool made = g_str_has_prefix(f->name, SNAP_DISKS "/");

        if (!put_file(e, made ? e->work : e->folder, f->name, error))
            return false;
    }
    return (zstd ? put_file(e, e->folder, SNAP_MEMORY_ZST, error)
                 : put_sparse(e, SNAP_MEMORY, error)) &&
           tar_end(e->out, error);
}

static uint64_t total_of(const Export *e)
{
    uint64_t total = snap_size(e->folder);

    for (unsigned i = 0; i < e->m->files->len; i++)
        total += ((ManifestFile *)g_ptr_array_index(e->m->files, i))->size;
    return total;
}

static bool write_archive(Export *e, int fd, GError **error)
{
    bool ok;

    e->out = pack_out_new(fd, error);
    if (!e->out)
        return false;
    progress_begin(&e->progress, &e->args->common.common, "export", total_of(e));
    ok = put_all(e, error);
    progress_end(&e->progress);
    return ok;
}

/* ---- the verb ------------------------------------------------------------------------
 */

static bool export_to_file(Export *e, const char *file, GError **error)
{
    g_autofree char *partial = g_strdup_printf("%s.partial-%06x", file,
                                               g_random_int() & 0xffffff);
    autofd fd = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool ok;

    if (fd < 0)
        return fail_errno(error, "'%s': make it", partial);
    interrupt_removes(partial);
    ok = write_archive(e, fd, error) &&
         (fsync(fd) == 0 || fail_errno(error, "'%s': put it on the disk", partial)) &&
         (renameat2(AT_FDCWD, partial, AT_FDCWD, file,
                    e->args->common.force ? 0 : RENAME_NOREPLACE) == 0 ||
          fail_errno(error, "'%s': give it its name", file));
    if (!ok)
        unlink(partial);
    interrupt_removes(NULL);
    return ok;
}

static bool check_file(const Export *e, const char *file, GError **error)
{
    if (g_str_equal(file, "-"))
        return !isatty(STDOUT_FILENO) ||
               fail(error, VM_ERROR_INVALID,
                    "the archive would go to the terminal: name a file");
    return e->args->common.force || access(file, F_OK) != 0 ||
           fail(error, VM_ERROR_BUSY,
                "'%s' exists already: choose another name, or --force", file);
}

static bool export(Export *e, const char *file, GError **error)
{
    bool to_stdout = g_str_equal(file, "-");
    g_autoptr(GArray) holds = manifest_holds_new();
    unsigned links;

    if (!check_file(e, file, error) ||
        !manifest_hold_chain(e->snap->folder, holds, &links, error) ||
        !prepare(e, file, links, error) ||
        !(to_stdout ? write_archive(e, STDOUT_FILENO, error)
                    : export_to_file(e, file, error)))
        return false;
    if (!to_stdout && !e->args->common.common.quiet) {
        g_autofree char *size = image_size_text(pack_written(e->out));

        printf("%s: %s\n", file, size);
    }
    return true;
}

bool snapshot_act_export(void *options, char **names, int *status, GError **error)
{
    g_autoptr(Snap) s = snap_find(names[0], error);
    Export e = {.args = options, .snap = s};
    bool ok;

    if (!s)
        return false;
    interrupt_watch();
    e.folder = g_strdup(s->folder);
    ok = export(&e, names[1], error);
    if (e.work)
        store_remove(e.work, NULL);
    pack_out_free(e.out);
    manifest_free(e.m);
    g_free(e.folder);
    g_free(e.work);
    return ok;
}
