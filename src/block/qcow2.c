/* qcow2 images: opening and closing, and the table of what they can do.
 *
 * An image that was not closed (dirty bit) is repaired before it is written; one that is
 * known to be damaged (corrupt bit) is only read.  Features that others may have built on
 * the contents and that we do not keep up, such as dirty bitmaps, are taken back as
 * QEMU's docs/interop/qcow2 wants ("autoclear_features") before the first write, which is
 * at opening: later writes go to the file without passing by here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "qcow2_private.h"
#include "util/log.h"

enum { DEFAULT_CACHE = 32 * MIB, MIN_PAGES = 16 };

/* ---- opening
 * ---------------------------------------------------------------------------
 */

static uint64_t *load_l1(Qcow2 *s)
{
    size_t len = (size_t)s->h.l1_entries * 8;
    uint64_t *l1 = g_try_malloc(len + 8);

    errno = !l1 ? ENOMEM : len ? block_file_read(s->file, s->h.l1_offset, l1, len) : 0;
    if (errno) {
        g_free(l1);
        return NULL;
    }
    for (uint32_t i = 0; i < s->h.l1_entries; i++)
        l1[i] = load_be64(&l1[i]);
    return l1;
}

/* Requests to the file are no smaller than its blocks only if what we map is not. */
static bool check_alignment(Qcow2 *s, BlockFile *f, const BlockOptions *options,
                            GError **error)
{
    if (s->subcluster_size >= f->io_align)
        return true;
    if (options->cache == BLOCK_CACHE_NONE)
        return block_fail_direct(f, error);
    block_file_no_direct(f);
    return true;
}

/* "External data file": a file that the header names, so under the same rule as a backing
 * image. */
static bool open_data_file(Qcow2 *s, const BlockOptions *options, GError **error)
{
    g_autofree char *path = NULL;
    BlockOptions of_data = *options;

    s->data = s->file;
    if (!(s->h.incompatible & QCOW2_INCOMPAT_DATA_FILE))
        return true;
    if (!s->data_path || !*s->data_path)
        return fail(
            error, VM_ERROR_CORRUPT,
            "'%s': qcow2 header: its data is in an external data file, whose name "
            "it does not say",
            s->file->path);
    if (!image_may_follow(s->img, options, s->data_path, "data file", error))
        return false;
    path = image_relative_path(s->img, s->data_path);
    of_data.path = path;
    of_data.readonly = s->img->readonly;
    s->data = block_file_open(&of_data, error);
    if (!s->data) {
        s->data = s->file;
        g_prefix_error(error, "'%s', its data file: ", s->file->path);
        return false;
    }
    s->data->zero_tail = true;
    return check_alignment(s, s->data, options, error);
}

static void ignore(void *opaque, const char *text)
{
}

/* Lock not held: nobody else is there yet. */
static bool make_writable(Qcow2 *s, GError **error)
{
    uint64_t ours = s->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
    ImageCheck found;

    if (s->h.incompatible & QCOW2_INCOMPAT_CORRUPT)
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s' is marked as corrupt, and can only be read: open it read-only, "
                    "or repair it with 'hutch image check --repair'",
                    s->file->path);
    if (s->h.incompatible & QCOW2_INCOMPAT_DIRTY) {
        log_warn("'%s' was not closed properly: its refcounts are repaired",
                 s->file->path);
        if (!qcow2_check(s->img, IMAGE_REPAIR_ALL, &found, ignore, NULL, error))
            return false;
        if (found.errors)
            return fail(error, VM_ERROR_CORRUPT,
                        "'%s' was not closed properly, and is damaged beyond what is "
                        "repaired by itself: see 'hutch image check'",
                        s->file->path);
        errno = qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, false);
        if (errno)
            return fail_errno(error, "'%s': clear its dirty bit", s->file->path);
    }
    s->lazy = s->h.version >= 3 && (s->h.compatible & QCOW2_COMPAT_LAZY);
    if (s->h.autoclear == ours)
        return true;
    s->h.autoclear = ours;
    return qcow2_header_write(s, error);
}

static bool open_state(Qcow2 *s, const BlockOptions *options, unsigned flags,
                       GError **error)
{
    if (!qcow2_header_read(s, options, flags, error) ||
        !check_alignment(s, s->file, options, error) ||
        !open_data_file(s, options, error))
        return false;
    __atomic_store_n(&s->img->size, s->h.size, __ATOMIC_RELAXED);
    s->cache_budget = options->cache_size ? options->cache_size : DEFAULT_CACHE;
    s->cache_budget = MAX(s->cache_budget, (uint64_t)MIN_PAGES * s->page_size);
    s->l1 = load_l1(s);
    if (!s->l1)
        return fail_errno(error, "'%s': read the L1 table", s->file->path);
    s->pages = qcow2_pages_new(s);
    if (!s->pages)
        return fail_errno(error, "'%s': memory for its metadata", s->file->path);
    s->writes = qcow2_writes_new(s);
    return qcow2_refs_open(s, error);
}

static bool qcow2_open(BlockImage *img, const BlockOptions *options, unsigned flags,
                       GError **error)
{
    Qcow2 *s = g_new0(Qcow2, 1);

    img->state = s;
    img->slow_discard = true;
    s->img = img;
    s->file = s->data = img->file;
    s->file->zero_tail = true;
    lock_init(&s->lock);
    lock_init(&s->page_lock);
    if (!open_state(s, options, flags, error) ||
        (!img->readonly && !(flags & IMAGE_FOR_CHECK) && !make_writable(s, error))) {
        s->broken = true; /* so that closing writes nothing */
        return false;
    }
    return !s->backing ||
           image_open_backing(img, options, flags, s->backing, s->backing_format, error);
}

/* ---- closing
 * ---------------------------------------------------------------------------
 */

/* The file was grown ahead of what was needed. */
static int trim(Qcow2 *s)
{
    uint64_t end = MAX(qcow2_refs_end(s), s->opened_size);

    if (!qcow2_refs_end(s) || s->file->is_device || end >= block_file_size(s->file))
        return 0;
    return block_file_truncate(s->file, end);
}

/* Everything on the disk, as if nobody had it open. */
static bool settle(Qcow2 *s, GError **error)
{
    LOCK_GUARD(&s->lock);

    if (qcow2_broken(s))
        return true; /* said when it broke */
    errno = qcow2_settle(s);
    if (!errno)
        errno = trim(s);
    if (!errno)
        errno = qcow2_flush_files(s);
    return !errno ||
           fail_errno(error, "'%s': write back what was changed", s->file->path);
}

static bool qcow2_close(BlockImage *img, GError **error)
{
    Qcow2 *s = img->state;
    bool ok = true;

    if (!s)
        return true;
    if (!img->readonly && s->refs)
        ok = settle(s, error);
    qcow2_refs_close(s);
    qcow2_pages_free(s->pages);
    qcow2_writes_free(s->writes);
    if (s->data != s->file)
        block_file_close(s->data);
    if (s->extensions)
        g_array_free(s->extensions, true);
    g_free(s->header_extra);
    g_free(s->backing);
    g_free(s->backing_format);
    g_free(s->data_path);
    g_free(s->l1);
    lock_finish(&s->lock);
    lock_finish(&s->page_lock);
    g_free(s);
    img->state = NULL;
    return ok;
}

/* Called before img->file loses the right to write, or after it has got it. */
static bool qcow2_reopen(BlockImage *img, bool readonly, GError **error)
{
    Qcow2 *s = qcow2_of(img);

    if (readonly && !settle(s, error))
        return false;
    if (s->data != s->file && !s->data->ops->reopen(s->data, readonly, error))
        return false;
    if (!readonly && !make_writable(s, error)) {
        if (s->data != s->file)
            s->data->ops->reopen(s->data, true, NULL);
        return false;
    }
    if (readonly)
        s->lazy = false;
    return true;
}

/* ---- flushing
 * --------------------------------------------------------------------------
 */

static int qcow2_flush(BlockImage *img)
{
    Qcow2 *s = qcow2_of(img);
    bool synced = false;
    int err = 0;

    if (__atomic_load_n(&s->changed, __ATOMIC_RELAXED)) {
        LOCK_GUARD(&s->lock);
        err = qcow2_write_metadata(s, &synced);
    }
    if (err || synced)
        return err;
    /* What others change while this waits is not this flush's business. */
    err = qcow2_flush_files(s);
    if (err) {
        LOCK_GUARD(&s->lock);
        qcow2_redo_written(s);
    }
    return err;
}

static bool qcow2_flush_is_slow(BlockImage *img)
{
    Qcow2 *s = qcow2_of(img);

    return __atomic_load_n(&s->changed, __ATOMIC_RELAXED) || s->data != s->file;
}

/* ---- what is below
 * ---------------------------------------------------------------------
 */

static bool qcow2_set_backing(BlockImage *img, const char *path, const char *format,
                              GError **error)
{
    Qcow2 *s = qcow2_of(img);
    LOCK_GUARD(&s->lock);
    char *old = s->backing, *old_format = s->backing_format;

    if (path && (s->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA))
        return fail(
            error, VM_ERROR_INVALID,
            "'%s' has a raw data file, which excludes a backing image: convert it "
            "to an image without",
            s->file->path);
    s->backing = g_strdup(path);
    s->backing_format = g_strdup(path ? format : NULL);
    if (qcow2_header_write(s, error)) {
        errno = block_file_flush(s->file);
        if (!errno) {
            g_free(old);
            g_free(old_format);
            return true;
        }
        fail_errno(error, "'%s': write the qcow2 header", s->file->path);
    }
    g_free(s->backing);
    g_free(s->backing_format);
    s->backing = old;
    s->backing_format = old_format;
    return false;
}

/* ---- what there is to say
 * --------------------------------------------------------------
 */

/* Names come from the file, and JSON is UTF-8. */
static void set_text(json_t *into, const char *key, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    json_object_set_new(into, key, json_string(valid));
}

static json_t *list_snapshots(BlockImage *img)
{
    json_t *list = json_array();
    ImageSnapshot *snapshots = NULL;
    unsigned n = 0;

    if (!qcow2_snapshot_list(img, &snapshots, &n, NULL))
        n = 0;
    for (unsigned i = 0; i < n; i++) {
        const ImageSnapshot *one = &snapshots[i];
        json_t *entry = json_object();

        set_text(entry, "id", one->id);
        set_text(entry, "name", one->name);
        json_object_set_new(entry, "vm-state-size", json_integer(one->vm_state_size));
        json_object_set_new(entry, "date-sec", json_integer(one->date_s));
        json_object_set_new(entry, "date-nsec", json_integer(one->date_ns));
        json_object_set_new(entry, "vm-clock-sec",
                            json_integer(one->vm_clock_ns / 1000000000));
        json_object_set_new(entry, "vm-clock-nsec",
                            json_integer(one->vm_clock_ns % 1000000000));
        json_array_append_new(list, entry);
    }
    image_snapshots_free(snapshots, n);
    return list;
}

static json_t *describe_format(const Qcow2 *s)
{
    const Qcow2Header *h = &s->h;
    json_t *data = json_object();

    set_text(data, "compat",
             image_compat_names[h->version >= 3 ? IMAGE_COMPAT_1_1 : IMAGE_COMPAT_0_10]);
    set_text(data, "compression-type", image_compression_names[h->compression]);
    json_object_set_new(data, "refcount-bits", json_integer(BIT(h->refcount_order)));
    if (h->version >= 3) {
        json_object_set_new(data, "lazy-refcounts",
                            json_boolean(h->compatible & QCOW2_COMPAT_LAZY));
        json_object_set_new(data, "corrupt",
                            json_boolean(h->incompatible & QCOW2_INCOMPAT_CORRUPT));
        json_object_set_new(data, "extended-l2", json_boolean(s->subclusters > 1));
    }
    if (s->data_path) {
        set_text(data, "data-file", s->data_path);
        json_object_set_new(data, "data-file-raw",
                            json_boolean(h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA));
    }
    return json_pack("{s:s, s:o}", "type", "qcow2", "data", data);
}

static void qcow2_info(BlockImage *img, json_t *into)
{
    Qcow2 *s = qcow2_of(img);
    json_t *snapshots;
    struct stat st;

    json_object_set_new(into, "cluster-size", json_integer(s->cluster_size));
    json_object_set_new(into, "dirty-flag",
                        json_boolean(s->h.incompatible & QCOW2_INCOMPAT_DIRTY));
    if (s->file->fd >= 0 && fstat(s->file->fd, &st) == 0)
        json_object_set_new(into, "actual-size", json_integer(st.st_blocks * 512));
    if (s->backing) {
        g_autofree char *path = image_relative_path(img, s->backing);

        set_text(into, "backing-filename", s->backing);
        set_text(into, "full-backing-filename", path);
        if (s->backing_format)
            set_text(into, "backing-filename-format", s->backing_format);
    }
    snapshots = list_snapshots(img);
    if (json_array_size(snapshots))
        json_object_set(into, "snapshots", snapshots);
    json_decref(snapshots);
    json_object_set_new(into, "format-specific", describe_format(s));
}

const FormatOps qcow2_format = {
    .name = "qcow2",
    .open = qcow2_open,
    .close = qcow2_close,
    .lookup = qcow2_lookup,
    .write = qcow2_write,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .flush_is_slow = qcow2_flush_is_slow,
    .read_compressed = qcow2_read_compressed,
    .write_compressed = qcow2_write_compressed,
    .copy_up = qcow2_copy_up,
    .resize = qcow2_resize,
    .reopen = qcow2_reopen,
    .set_backing = qcow2_set_backing,
    .info = qcow2_info,
    .check = qcow2_check,
    .snapshot_list = qcow2_snapshot_list,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .snapshot_show = qcow2_snapshot_show,
    .create = qcow2_create,
};
