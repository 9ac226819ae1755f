/* What a snapshot's disks are restored from: layers that are still what they were, each
 * with a new overlay over it. */
#include "snapshot/disks.h"

#include <sys/xattr.h>

#include "backend/block.h"
#include "backend/image.h"
#include "src/snapshot/layers.h"
#include "tests/unit/snapshot/folder.h"

enum { SIZE = 1 << 20, PIECE = 4096 };

typedef struct Files {
    char *in, *run; /* a folder for all; of these, the VM's run folder */
    Manifest *m;
    json_t *config;
    GPtrArray *made;
} Files;

static Files begin(void)
{
    Files f = {.in = g_dir_make_tmp("hutch-disks-XXXXXX", NULL)};

    f.run = folder_file(f.in, "run");
    g_assert_cmpint(mkdir(f.run, 0700), ==, 0);
    f.m = folder_manifest();
    f.config = json_pack("{s:[]}", "disk");
    f.made = g_ptr_array_new_with_free_func(g_free);
    g_setenv("HUTCH_SNAPSHOTS", f.in, TRUE);
    g_setenv("HUTCH_TEMPLATES", f.in, TRUE);
    return f;
}

static void end(Files *f)
{
    folder_remove(f->in);
    g_free(f->in);
    g_free(f->run);
    manifest_free(f->m);
    json_decref(f->config);
    g_ptr_array_free(f->made, TRUE);
}

static char *new_image(const char *path, const char *below)
{
    ImageCreate *how = param_new(&image_create_params);
    g_autoptr(GError) error = NULL;

    how->path = g_strdup(path);
    how->size = SIZE;
    how->backing = g_strdup(below);
    image_create(how, &error);
    g_assert_no_error(error);
    param_free(&image_create_params, how);
    return g_strdup(path);
}

static void image_io(const char *path, bool write, uint64_t offset, uint8_t byte)
{
    const BlockOptions o = {
        .path = (char *)path, .readonly = !write, .cache = BLOCK_CACHE_WRITEBACK};
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockImage) img = image_open(&o, 0, &error);
    uint8_t buf[PIECE];

    g_assert_no_error(error);
    memset(buf, byte, sizeof(buf));
    if (write) {
        g_assert_cmpint(image_write(img, offset, buf, sizeof(buf)), ==, 0);
        return;
    }
    g_assert_cmpint(image_read(img, offset, buf, sizeof(buf)), ==, 0);
    g_assert_cmpint(buf[0], ==, byte);
    g_assert_cmpint(buf[PIECE - 1], ==, byte);
}

/* The n-th disk of the snapshot, as it is now; `layer` NULL: it was left alone. */
static void add_disk(Files *f, const char *path, const char *layer, bool readonly)
{
    g_autofree char *id = g_strdup_printf("disk%u", f->m->disks->len);
    const char *format = g_str_has_suffix(path, ".qcow2") ? "qcow2" : "raw";
    json_t *chain = layer_chain_of(path, format, BLOCK_BACKING_AUTO, NULL);
    g_autofree char *identity = layers_identity(
        chain, layer && !g_path_is_absolute(layer), NULL);

    g_assert_nonnull(identity);
    manifest_add_disk(f->m, id, layer, format, identity, readonly);
    json_array_append_new(json_object_get(f->config, "disk"),
                          json_pack("{s:s, s:s}", "path", "/was/here", "cache", "none"));
    json_decref(chain);
}

static bool restore(Files *f, const json_t *paths, GError **error)
{
    return snapshot_disks_restore(f->config, f->m, f->in, f->run, paths, f->made, error);
}

static const char *config_text(const Files *f, unsigned i, const char *key)
{
    return json_string_value(
        json_object_get(json_array_get(json_object_get(f->config, "disk"), i), key));
}

static unsigned files_in(const char *folder)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n;
}

/* ---- tests ------------------------------------------------------------------------ */

static void a_restored_disk_is_its_own_and_the_layer_stays(gconstpointer name)
{
    Files f = begin();
    g_autofree char *file = folder_file(f.in, name), *layer = new_image(file, NULL);
    g_autoptr(GError) error = NULL;
    const char *path;

    image_io(layer, true, 0, 1);
    add_disk(&f, layer, layer, false);
    restore(&f, NULL, &error);
    g_assert_no_error(error);
    path = config_text(&f, 0, "path");
    g_assert_cmpuint(f.made->len, ==, 1);
    g_assert_cmpstr(f.made->pdata[0], ==, path);
    g_assert_true(g_str_has_prefix(path, f.run));
    g_assert_cmpstr(config_text(&f, 0, "format"), ==, "qcow2");
    g_assert_cmpstr(config_text(&f, 0, "cache"), ==, "auto");
    image_io(path, false, 0, 1);
    image_io(path, true, 0, 2);
    image_io(path, false, 0, 2);
    image_io(layer, false, 0, 1);
    end(&f);
}

static void a_layer_that_was_written_to_is_refused(void)
{
    Files f = begin();
    g_autofree char *base_file = folder_file(f.in, "base.raw");
    g_autofree char *top_file = folder_file(f.in, "top.qcow2");
    g_autofree char *other_file = folder_file(f.in, "other.raw");
    g_autofree char *base = new_image(base_file, NULL), *top = new_image(top_file, base);
    g_autofree char *other = new_image(other_file, NULL);
    g_autoptr(GError) error = NULL;

    image_io(base, true, SIZE / 2, 1);
    image_io(top, true, 0, 1);
    add_disk(&f, other, other, false);
    add_disk(&f, top, top, false);
    image_io(base, true, SIZE / 2, 2); /* in the middle: only its time tells */
    g_assert_false(restore(&f, NULL, &error));
    g_assert_nonnull(strstr(error->message, "disk 'disk1'"));
    g_assert_nonnull(strstr(error->message, base)); /* the very file */
    g_assert_nonnull(strstr(error->message, "changed since"));
    g_assert_cmpuint(files_in(f.run), ==, 0); /* nor the other disk's overlay */
    g_assert_cmpuint(f.made->len, ==, 0);
    end(&f);
}

/* As on a tmpfs of Linux before 6.6, where many run folders are. */
static void layers_without_marks_are_known_by_the_manifest(void)
{
    Files f = begin();
    g_autofree char *base_file = folder_file(f.in, "base.raw");
    g_autofree char *top_file = folder_file(f.in, "top.qcow2");
    g_autofree char *base = new_image(base_file, NULL), *top = new_image(top_file, base);
    g_autoptr(GError) error = NULL;
    ManifestDisk *d;

    add_disk(&f, top, top, false);
    d = f.m->disks->pdata[0];
    removexattr(top, "user.hutch.backing");
    restore(&f, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config_text(&f, 0, "backing"), ==, "on");
    g_clear_pointer(&d->layer_id, g_free); /* now nobody vouches for it */
    json_object_del(json_array_get(json_object_get(f.config, "disk"), 0), "backing");
    g_assert_cmpint(remove(f.made->pdata[0]), ==, 0);
    g_assert_false(restore(&f, NULL, NULL));
    end(&f);
}

static void a_layer_in_the_folder_may_be_copied_with_it(void)
{
    Files f = begin();
    g_autofree char *disks = folder_file(f.in, SNAP_DISKS);
    g_autofree char *file = folder_file(disks, "disk0.qcow2"), *layer = NULL;
    struct timespec later[2] = {{.tv_sec = 2000000000}, {.tv_sec = 2000000000}};
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(mkdir(disks, 0700), ==, 0);
    layer = new_image(file, NULL);
    add_disk(&f, layer, SNAP_DISKS "/disk0.qcow2", false);
    g_assert_cmpint(utimensat(AT_FDCWD, layer, later, 0), ==, 0);
    restore(&f, NULL, &error);
    g_assert_no_error(error);
    end(&f);
}

static void a_path_is_where_the_overlay_goes_or_the_layer_went(void)
{
    Files f = begin();
    g_autofree char *file = folder_file(f.in, "a.raw"), *layer = new_image(file, NULL);
    g_autofree char *moved = folder_file(f.in, "b.raw"), *mine = folder_file(f.in, "c");
    json_t *there = json_pack("{s:s}", "disk0", moved);
    json_t *here = json_pack("{s:s}", "disk0", mine);
    json_t *wrong = json_pack("{s:s}", "disk7", mine);
    g_autoptr(GError) error = NULL;

    add_disk(&f, layer, layer, false);
    restore(&f, here, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config_text(&f, 0, "path"), ==, mine);

    g_assert_cmpint(rename(layer, moved), ==, 0);
    g_assert_false(restore(&f, NULL, NULL));
    restore(&f, there, &error);
    g_assert_no_error(error);
    g_assert_true(g_str_has_prefix(config_text(&f, 0, "path"), f.run));
    g_assert_false(restore(&f, here, NULL)); /* another file is no such layer */
    g_assert_false(restore(&f, wrong, NULL));
    json_decref(here);
    json_decref(there);
    json_decref(wrong);
    end(&f);
}

static void disks_without_a_layer_are_warned_of(void)
{
    Files f = begin();
    g_autofree char *file = folder_file(f.in, "a.raw"), *disk = new_image(file, NULL);
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);

    add_disk(&f, disk, NULL, false);
    add_disk(&f, disk, disk, true);
    snapshot_disks_check(f.m, f.in, problems, warnings);
    g_assert_cmpuint(problems->len, ==, 0);
    g_assert_cmpuint(warnings->len, ==, 1);
    g_assert_nonnull(strstr(warnings->pdata[0], "'disk0'"));
    g_assert_true(restore(&f, NULL, NULL));
    g_assert_cmpstr(config_text(&f, 0, "path"), ==, "/was/here");
    g_assert_cmpstr(config_text(&f, 1, "path"), ==, disk); /* needs no overlay */
    g_assert_cmpint(remove(disk), ==, 0);
    snapshot_disks_check(f.m, f.in, problems, warnings);
    g_assert_cmpuint(problems->len, ==, 1);
    g_assert_nonnull(strstr(problems->pdata[0], "'disk1'"));
    end(&f);
}

static void who_needs_a_folder_is_told(void)
{
    Files f = begin();
    g_autofree char *a = folder_make(f.in, "a", NULL, 1);
    g_autofree char *b = folder_make(f.in, "b", NULL, 1);
    g_autofree char *disks = folder_file(a, SNAP_DISKS);
    g_autofree char *low_file = folder_file(disks, "disk0.qcow2"), *low = NULL;
    g_autofree char *top_file = folder_file(f.in, "top.qcow2"), *top = NULL;
    g_autoptr(GPtrArray) nobody = NULL, vm = NULL, snapshot = NULL, itself = NULL;
    g_autoptr(Manifest) m = manifest_read(b, NULL);
    BlockOptions o = {.lock = true, .cache = BLOCK_CACHE_WRITEBACK};
    BlockDev *dev;

    g_assert_cmpint(mkdir(disks, 0700), ==, 0);
    low = new_image(low_file, NULL);
    top = new_image(top_file, low);
    nobody = snapshot_disks_needed(a, NULL);
    g_assert_cmpuint(nobody->len, ==, 0);

    o.path = top;
    o.format = BLOCK_FORMAT_QCOW2;
    dev = block_open(&o, NULL);
    g_assert_nonnull(dev);
    vm = snapshot_disks_needed(a, NULL);
    g_assert_cmpuint(vm->len, ==, 1);
    g_assert_nonnull(strstr(vm->pdata[0], low));
    block_close(dev);

    manifest_add_disk(m, "disk0", top, "qcow2", NULL, false);
    g_assert_true(manifest_write(m, b, NULL));
    snapshot = snapshot_disks_needed(a, NULL);
    g_assert_cmpuint(snapshot->len, ==, 1);
    g_assert_nonnull(strstr(snapshot->pdata[0], b));
    itself = snapshot_disks_needed(b, NULL);
    g_assert_cmpuint(itself->len, ==, 0);
    end(&f);
}

static void a_copied_image_is_the_same_and_marked(void)
{
    Files f = begin();
    g_autofree char *base_file = folder_file(f.in, "base.raw");
    g_autofree char *top_file = folder_file(f.in, "top.qcow2");
    g_autofree char *copy = folder_file(f.in, "copy.qcow2");
    g_autofree char *alias = folder_file(f.in, "link.qcow2");
    g_autofree char *base = new_image(base_file, NULL), *top = new_image(top_file, base);
    struct stat st;
    g_autoptr(GError) error = NULL;

    image_io(base, true, 0, 1);
    image_io(top, true, SIZE - PIECE, 2);
    g_assert_cmpint(chmod(top, 0600), ==, 0);
    image_copy_file(top, copy, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stat(copy, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    image_io(copy, false, 0, 1); /* so it follows its mark */
    image_io(copy, false, SIZE - PIECE, 2);
    g_assert_false(image_copy_file(top, copy, NULL));
    unlink(copy);
    g_assert_cmpint(symlink(top, alias), ==, 0);
    g_assert_false(image_copy_file(alias, copy, NULL)); /* nor would link(2) follow it */
    end(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/disks/a_restored_raw_disk_is_its_own_and_the_layer_stays",
                         "a.raw", a_restored_disk_is_its_own_and_the_layer_stays);
    g_test_add_data_func("/disks/a_restored_disk_is_its_own_and_the_layer_stays",
                         "a.qcow2", a_restored_disk_is_its_own_and_the_layer_stays);
    g_test_add_func("/disks/a_layer_that_was_written_to_is_refused",
                    a_layer_that_was_written_to_is_refused);
    g_test_add_func("/disks/layers_without_marks_are_known_by_the_manifest",
                    layers_without_marks_are_known_by_the_manifest);
    g_test_add_func("/disks/a_layer_in_the_folder_may_be_copied_with_it",
                    a_layer_in_the_folder_may_be_copied_with_it);
    g_test_add_func("/disks/a_path_is_where_the_overlay_goes_or_the_layer_went",
                    a_path_is_where_the_overlay_goes_or_the_layer_went);
    g_test_add_func("/disks/disks_without_a_layer_are_warned_of",
                    disks_without_a_layer_are_warned_of);
    g_test_add_func("/disks/who_needs_a_folder_is_told", who_needs_a_folder_is_told);
    g_test_add_func("/disks/a_copied_image_is_the_same_and_marked",
                    a_copied_image_is_the_same_and_marked);
    return g_test_run();
}
