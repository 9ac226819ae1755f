/* Manifests: what is written is read again, and what strangers write is judged. */
#include <stdlib.h>

#include "tests/unit/snapshot/folder.h"

static char *in; /* a folder for each test */

/* In memory where that can be: all that is written is put on the disk each time. */
static void begin(void)
{
    in = g_mkdtemp(g_strdup("/dev/shm/hutch-manifest-XXXXXX"));
    if (!in)
        in = g_dir_make_tmp("hutch-manifest-XXXXXX", NULL);
}

static void end(void)
{
    folder_remove(in);
    g_clear_pointer(&in, g_free);
}

static char *text_of(json_t *json)
{
    char *raw = json_dumps(json, JSON_INDENT(1));
    char *text = g_strdup(raw);

    free(raw);
    return text;
}

static void what_is_written_is_read_again(void)
{
    g_autofree char *folder = NULL, *text = NULL, *again = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(Manifest) m = NULL, read = NULL;
    json_t *a, *b;

    begin();
    folder = folder_make(in, "one", NULL, 7);
    m = manifest_read(folder, &error);
    g_assert_no_error(error);
    m->frozen = true;
    m->vm_uuid = g_uuid_string_random();
    m->cpu_needs = json_pack("{s:s}", "vendor", "GenuineIntel");
    manifest_add_disk(m, "disk0", "/images/a.qcow2", "qcow2", "c0ffee", false);
    manifest_add_disk(m, "disk1", "disks/b.raw", "raw", NULL, true);
    manifest_add_disk(m, "disk2", NULL, "raw", NULL, false);
    manifest_write(m, folder, &error);
    g_assert_no_error(error);
    read = manifest_read(folder, &error);
    g_assert_no_error(error);
    a = manifest_to_json(m);
    b = manifest_to_json(read);
    text = text_of(a);
    again = text_of(b);
    g_assert_cmpstr(text, ==, again);
    g_assert_cmpuint(read->disks->len, ==, 3);
    g_assert_null(((ManifestDisk *)g_ptr_array_index(read->disks, 2))->layer);
    g_assert_cmpint(read->created_ns, ==, 1700000000123456789);
    g_assert_true(read->frozen);
    json_decref(a);
    json_decref(b);
    end();
}

/* ---- hostile ones --------------------------------------------------------------------
 */

static json_t *good(void)
{
    g_autofree char *hash = g_strnfill(HASH_TEXT, 'a');

    return json_pack("{s:i, s:s, s:s, s:I, s:I, s:i, s:s, s:s, s:[{s:s,s:i,s:s},"
                     "{s:s,s:i,s:s}], s:[]}",
                     "format", 1, "hutch", "0.1.0", "id",
                     "5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1f", "created-ns",
                     (json_int_t)1700000000, "ram-size", (json_int_t)FOLDER_RAM,
                     "memory-pages", 3, "memory-encoding", "raw", "memory-sha256", hash,
                     "files", "name", "config.json", "size", 3, "sha256", hash, "name",
                     "state", "size", 3, "sha256", hash, "disks");
}

/* Takes `json`; the message, or NULL if it was accepted. */
static char *judge(json_t *json)
{
    g_autofree char *text = text_of(json);
    g_autoptr(GError) error = NULL;
    g_autoptr(Manifest) m = manifest_parse(text, strlen(text), "it", &error);

    json_decref(json);
    g_assert_true(!m == !!error);
    if (!error)
        return NULL;
    g_assert_true(error->code == VM_ERROR_CORRUPT || error->code == VM_ERROR_UNSUPPORTED);
    g_assert_true(g_str_has_prefix(error->message, "it: "));
    g_assert_null(strpbrk(error->message, "\n\r\033"));
    return g_strdup(error->message);
}

#define TEXT(n) (json_string(n))
#define LONG    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

static void values_out_of_their_range_are_refused_by_name(void)
{
    const struct {
        const char *key, *json, *says;
    } bad[] = {
        {"format", "2", "format 2"},
        {"format", "\"1\"", "format: "},
        {"hutch", "\"\"", "hutch: "},
        {"hutch", "\"" LONG LONG "\"", "hutch: "},
        {"vm", "\"a\\u001b[2Jb\"", "vm: "},
        {"vm", "\"a\\nb\"", "vm: "},
        {"vm", "[]", "vm: "},
        {"id", "\"../../x\"", "id: "},
        {"id", "null", "id: "},
        {"created-ns", "-1", "created-ns: "},
        {"created-ns", "1.5", "created-ns: "},
        {"created-ns", "99999999999999999999999", "JSON"},
        {"ram-size", "0", "ram-size: "},
        {"ram-size", "4097", "ram-size: "},
        {"ram-size", "9223372036854771712", "ram-size: "},
        {"memory-pages", "2305", "memory-pages: "},
        {"memory-encoding", "\"lz4\"", "memory-encoding: "},
        {"memory-sha256", "\"AA\"", "memory-sha256: "},
        {"cpu-needs", "[1]", "cpu-needs: "},
        {"frozen", "1", "frozen: "},
        {"files", "{}", "files: "},
        {"files", "[]", "config.json"},
        {"files", "[1]", "files, number 1: "},
        {"files", "[\"name=state\"]", "files, number 1: "},
        {"disks", "\"a\"", "disks: "},
        {"parent-id", "\"5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1e\"", "parent: "},
        {"parent", "\"base.snap\"", "parent: "},
        {"another", "1", "another"},
        {"an\\u001bother", "1", "a key"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *one = g_strdup_printf("{\"%s\": %s}", bad[i].key, bad[i].json);
        g_autofree char *says = NULL;
        g_autoptr(GError) error = NULL;
        json_t *json = good(), *with = json_loads(one, 0, NULL);

        if (with) {
            json_object_update(json, with);
            json_decref(with);
            says = judge(json);
        } else {
            g_assert_null(manifest_parse(one, strlen(one), "it", &error));
            says = g_strdup(error->message);
            json_decref(json);
        }
        g_test_message("%s: %s", one, says);
        g_assert_nonnull(says);
        g_assert_nonnull(strstr(says, bad[i].says));
    }
    g_assert_null(judge(good()));
}

static void what_is_required_is_missed(void)
{
    static const char *const keys[] = {"format",        "hutch",    "id",
                                       "created-ns",    "ram-size", "memory-encoding",
                                       "memory-sha256", "files"};

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        json_t *json = good();
        g_autofree char *says = NULL;

        json_object_del(json, keys[i]);
        says = judge(json);
        g_assert_nonnull(says);
        g_assert_nonnull(strstr(says, keys[i]));
    }
}

static json_t *with_file(const char *name)
{
    g_autofree char *hash = g_strnfill(HASH_TEXT, 'b');
    json_t *json = good();

    json_array_append_new(json_object_get(json, "files"),
                          json_pack("{s:s, s:s}", "name", name, "sha256", hash));
    return json;
}

static json_t *with_disk(const char *id, const char *layer, const char *format)
{
    json_t *json = good();

    json_array_append_new(
        json_object_get(json, "disks"),
        json_pack("{s:s, s:s, s:s}", "id", id, "layer", layer, "format", format));
    return json;
}

static json_t *with_parent(const char *path)
{
    json_t *json = with_file(SNAP_MEMORY_MAP);

    json_object_set_new(json, "parent", TEXT(path));
    json_object_set_new(json, "parent-id", TEXT("5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1e"));
    return json;
}

static void names_do_not_lead_out_of_the_folder(void)
{
    static const char *const names[] = {
        "../x",  "/etc/shadow", "a/../../x",     "a/..",        "..",    ".",
        "",      ".hidden",     "disks/.hidden", "a//b",        "a/b/c", "a/",
        "state", "memory",      "manifest.json", "memory.sums", "a\tb",
    };
    static const char *const layers[] = {"../x", "disks/../../x", "",   "disks/",
                                         "..",   "a/b/c",         "./x"};
    static const char *const parents[] = {"../x.snap", "a/b.snap", ".", "..", "", ".x"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *says = judge(with_file(names[i]));

        g_test_message("'%s': %s", names[i], says);
        g_assert_nonnull(says);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(layers); i++) {
        g_autofree char *says = judge(with_disk("d", layers[i], "raw"));

        g_assert_nonnull(says);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(parents); i++) {
        g_autofree char *says = judge(with_parent(parents[i]));

        g_assert_nonnull(says);
    }
    g_assert_null(judge(with_file("disks/disk0.qcow2")));
    g_assert_null(judge(with_disk("d", "disks/disk0.qcow2", "qcow2")));
    g_assert_null(judge(with_disk("d", "/images/x.raw", "raw")));
    g_assert_null(judge(with_parent("base.snap")));
    g_assert_null(judge(with_parent("/srv/base.snap")));
}

static void disks_have_an_id_and_a_format_that_could_be_ours(void)
{
    g_autofree char *id = judge(with_disk("../../x", "disks/d.qcow2", "qcow2"));
    g_autofree char *format = judge(with_disk("d", "/images/x.vmdk", "vmdk"));

    g_assert_nonnull(id);
    g_assert_nonnull(format);
}

static void arrays_without_end_are_refused(void)
{
    json_t *files = good(), *disks = good();
    g_autofree char *hash = g_strnfill(HASH_TEXT, 'b');
    g_autofree char *a = NULL, *b = NULL, *spaces = g_strnfill(9 << 20, ' ');
    g_autofree char *deep = g_strnfill(100000, '[');
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < MANIFEST_MAX_FILES; i++)
        json_array_append_new(
            json_object_get(files, "files"),
            json_pack("{s:o, s:s}", "name", json_sprintf("f%u", i), "sha256", hash));
    for (unsigned i = 0; i < MANIFEST_MAX_DISKS + 1; i++)
        json_array_append_new(
            json_object_get(disks, "disks"),
            json_pack("{s:o, s:s}", "id", json_sprintf("d%u", i), "format", "raw"));
    a = judge(files);
    b = judge(disks);
    g_assert_nonnull(strstr(a, "files: there are more"));
    g_assert_nonnull(strstr(b, "disks: there are more"));
    g_assert_null(manifest_parse(spaces, 9 << 20, "it", &error));
    g_assert_nonnull(strstr(error->message, "too long"));
    g_assert_null(manifest_parse(deep, 100000, "it", NULL));
}

static void a_text_cut_anywhere_is_refused(void)
{
    json_t *json = good();
    g_autofree char *text = text_of(json);

    json_decref(json);
    for (size_t len = 0; len < strlen(text); len++)
        g_assert_null(manifest_parse(text, len, "it", NULL));
}

/* ---- memory.sums ---------------------------------------------------------------------
 */

static void hashes_of_memory_are_checked(void)
{
    g_autofree char *folder = NULL, *path = NULL, *text = NULL;
    g_autoptr(Manifest) m = NULL;
    g_autoptr(GError) error = NULL;
    gsize len;

    begin();
    folder = folder_make(in, "one", NULL, 7);
    path = folder_file(folder, SNAP_MEMORY_SUMS);
    m = manifest_read(folder, NULL);
    g_assert_true(manifest_read_chunks(m, folder, &error));
    g_assert_cmpuint(m->memory_chunks->len, ==, 3);
    g_assert_cmpstr(g_ptr_array_index(m->memory_chunks, 1), ==, "");
    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    for (gsize cut = 0; cut < len; cut++) {
        g_assert_true(g_file_set_contents(path, text, (gssize)cut, NULL));
        g_assert_false(manifest_read_chunks(m, folder, NULL));
    }
    text[0] = text[0] == 'a' ? 'b' : 'a';
    g_assert_true(g_file_set_contents(path, text, (gssize)len, NULL));
    g_assert_false(manifest_read_chunks(m, folder, &error));
    g_assert_nonnull(strstr(error->message, SNAP_MEMORY_SUMS));
    end();
}

/* ---- chains --------------------------------------------------------------------------
 */

static void chains_of_fifty_are_followed(void)
{
    g_autoptr(GPtrArray) chain = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *last = NULL, *parent = NULL;

    begin();
    for (unsigned i = 0; i < 50; i++) {
        g_autofree char *name = g_strdup_printf("s%u", i);

        g_free(last);
        last = folder_make(in, name, parent, 1);
        g_free(parent);
        parent = g_path_get_basename(last);
    }
    chain = manifest_chain(last, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(chain->len, ==, 50);
    g_assert_null(((ManifestLink *)g_ptr_array_index(chain, 49))->manifest->parent_id);
    end();
}

static void rewrite(const char *folder, const char *parent_id, const char *parent,
                    uint64_t ram)
{
    g_autoptr(Manifest) m = manifest_read(folder, NULL);
    g_autoptr(GError) error = NULL;

    g_free(m->parent_id);
    g_free(m->parent_path);
    m->parent_id = g_strdup(parent_id);
    m->parent_path = g_strdup(parent);
    m->ram_size = ram;
    manifest_write(m, folder, &error);
    g_assert_no_error(error);
}

static void parents_that_are_not_what_they_were_are_refused(void)
{
    g_autofree char *base = NULL, *diff = NULL, *other = NULL;
    g_autoptr(Manifest) of_diff = NULL, of_base = NULL;
    g_autoptr(GError) circle = NULL, exchanged = NULL, size = NULL, missing = NULL;

    begin();
    g_free(folder_make(in, "root", NULL, 1));
    base = folder_make(in, "base", "root.snap", 1);
    diff = folder_make(in, "diff", "base.snap", 2);
    other = folder_make(in, "other", NULL, 2);
    of_diff = manifest_read(diff, NULL);
    of_base = manifest_read(base, NULL);

    rewrite(base, of_diff->id, "diff.snap", FOLDER_RAM);
    g_assert_null(manifest_chain(diff, &circle));
    g_assert_nonnull(strstr(circle->message, "circle"));
    rewrite(base, of_base->parent_id, "root.snap", FOLDER_RAM - 4096);
    g_assert_null(manifest_chain(diff, &size));
    g_assert_nonnull(strstr(size->message, "bytes of RAM"));
    rewrite(diff, of_base->id, "other.snap", FOLDER_RAM);
    g_assert_null(manifest_chain(diff, &exchanged));
    g_assert_nonnull(strstr(exchanged->message, "another snapshot"));
    rewrite(diff, of_base->id, "gone.snap", FOLDER_RAM);
    g_assert_null(manifest_chain(diff, &missing));
    g_assert_nonnull(strstr(missing->message, "needs its parent"));
    end();
}

/* ---- verification --------------------------------------------------------------------
 */

static bool verify(const char *folder, GError **error)
{
    g_autoptr(Manifest) m = manifest_read(folder, error);

    return m && manifest_verify(folder, m, NULL, NULL, error);
}

static void flip(const char *path, off_t at)
{
    autofd fd = open(path, O_RDWR | O_CLOEXEC);
    char byte = 0;

    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 1;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
}

static void each_changed_byte_is_found_and_named(void)
{
    static const struct {
        const char *file;
        off_t at;
        const char *says;
    } changes[] = {
        {SNAP_CONFIG, 0, SNAP_CONFIG},
        {SNAP_STATE, 5, SNAP_STATE},
        {SNAP_MEMORY, 0, "chunk 0"},
        {SNAP_MEMORY, 4096, "chunk 0"},
        {SNAP_MEMORY, 5 << 20, "chunk 1 (bytes 4194304 to 8388607 of memory)"},
        {SNAP_MEMORY, FOLDER_RAM - 1, "chunk 2 (bytes 8388608 to 9437183 of memory)"},
        {SNAP_MEMORY_SUMS, 3, SNAP_MEMORY_SUMS},
    };
    g_autofree char *folder = NULL;
    g_autoptr(GError) error = NULL;

    begin();
    folder = folder_make(in, "one", NULL, 7);
    verify(folder, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autofree char *path = folder_file(folder, changes[i].file);
        g_autoptr(GError) why = NULL;

        flip(path, changes[i].at);
        g_assert_false(verify(folder, &why));
        g_test_message("%s", why->message);
        g_assert_cmpint(why->code, ==, VM_ERROR_CORRUPT);
        g_assert_nonnull(strstr(why->message, changes[i].says));
        flip(path, changes[i].at);
    }
    g_assert_true(verify(folder, NULL));
    end();
}

static void files_cut_at_every_page_are_refused(void)
{
    static const char *const files[] = {SNAP_CONFIG, SNAP_STATE, SNAP_MEMORY,
                                        SNAP_MEMORY_SUMS, SNAP_MANIFEST};
    g_autofree char *folder = NULL;

    begin();
    folder = folder_make(in, "one", NULL, 7);
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = folder_file(folder, files[i]), *data = NULL;
        gsize len;

        g_assert_true(g_file_get_contents(path, &data, &len, NULL));
        for (gsize cut = 0; cut < len; cut += FOLDER_PAGE) {
            g_assert_cmpint(truncate(path, (off_t)cut), ==, 0);
            g_assert_false(verify(folder, NULL));
            if (i != 2) /* memory is long enough without being written each time */
                g_assert_true(g_file_set_contents(path, data, (gssize)len, NULL));
        }
        g_assert_true(g_file_set_contents(path, data, (gssize)len, NULL));
    }
    g_assert_true(verify(folder, NULL));
    end();
}

static void links_in_the_place_of_files_are_refused(void)
{
    static const char *const files[] = {SNAP_CONFIG, SNAP_STATE, SNAP_MEMORY,
                                        SNAP_MEMORY_SUMS, SNAP_MANIFEST};
    g_autofree char *folder = NULL;

    begin();
    folder = folder_make(in, "one", NULL, 7);
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = folder_file(folder, files[i]);
        g_autofree char *away = g_strconcat(path, ".away", NULL);

        g_assert_cmpint(rename(path, away), ==, 0);
        g_assert_false(verify(folder, NULL));
        g_assert_cmpint(symlink(away, path), ==, 0);
        g_assert_false(verify(folder, NULL));
        g_assert_cmpint(unlink(path), ==, 0);
        g_assert_cmpint(rename(away, path), ==, 0);
    }
    g_assert_true(verify(folder, NULL));
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/manifest/" #name, name)
    ADD(what_is_written_is_read_again);
    ADD(values_out_of_their_range_are_refused_by_name);
    ADD(what_is_required_is_missed);
    ADD(names_do_not_lead_out_of_the_folder);
    ADD(disks_have_an_id_and_a_format_that_could_be_ours);
    ADD(arrays_without_end_are_refused);
    ADD(a_text_cut_anywhere_is_refused);
    ADD(hashes_of_memory_are_checked);
    ADD(chains_of_fifty_are_followed);
    ADD(parents_that_are_not_what_they_were_are_refused);
    ADD(each_changed_byte_is_found_and_named);
    ADD(files_cut_at_every_page_are_refused);
    ADD(links_in_the_place_of_files_are_refused);
    return g_test_run();
}
