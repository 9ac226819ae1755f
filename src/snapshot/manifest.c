/* The manifest as a struct and as JSON; see snapshot/manifest.h.  The keys are in tables,
 * so that reading, writing and the ranges of values are said once. */
#include "snapshot/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/param.h"
#include "snapshot/file.h"
#include "snapshot/hash.h"
#include "src/snapshot/manifest_private.h"
#include "util/fd.h"

enum {
    PAGE = 4096,
    MAX_TEXT = 8 << 20, /* bytes of a manifest */
    MAX_NAME = 128,
    MAX_PATH = 4096,
    UUID_LEN = 36,
};

/* All Manifests are the first member of one. */
typedef struct Notation {
    Manifest m;
    json_t *files, *disks; /* NULL but while it is read */
} Notation;

#define ROW(key_, type_, member_)                                                        \
    .key = key_, .type = type_, .offset = offsetof(Manifest, member_)

static const ParamTable table = {
    .size = sizeof(Notation),
    .desc = (const ParamDesc[]){
        {ROW("format", PARAM_UINT, format), .required = true},
        {ROW("hutch", PARAM_STRING, hutch), .required = true},
        {ROW("id", PARAM_STRING, id), .required = true},
        {ROW("vm", PARAM_STRING, vm)},
        {ROW("vm-uuid", PARAM_STRING, vm_uuid)},
        {ROW("parent-id", PARAM_STRING, parent_id)},
        {ROW("parent", PARAM_STRING, parent_path)},
        {ROW("created-ns", PARAM_UINT, created_ns), .max = INT64_MAX, .required = true},
        {ROW("ram-size", PARAM_UINT, ram_size), .min = PAGE, .max = MANIFEST_MAX_RAM,
         .required = true},
        {ROW("memory-pages", PARAM_UINT, memory_pages), .max = MANIFEST_MAX_RAM / PAGE},
        {ROW("memory-encoding", PARAM_STRING, memory_encoding), .required = true},
        {ROW("memory-sha256", PARAM_STRING, memory_sha256), .required = true},
        {ROW("cpu-needs", PARAM_JSON, cpu_needs)},
        {.key = "files",
         .type = PARAM_JSON,
         .offset = offsetof(Notation, files),
         .required = true},
        {.key = "disks", .type = PARAM_JSON, .offset = offsetof(Notation, disks)},
        {ROW("frozen", PARAM_BOOL, frozen)},
        {ROW("foreign", PARAM_BOOL, foreign)},
        {0},
    }};
#undef ROW

#define ROW(key_, type_, member_)                                                        \
    .key = key_, .type = type_, .offset = offsetof(ManifestFile, member_)
static const ParamTable file_table = {
    .size = sizeof(ManifestFile),
    .desc = (const ParamDesc[]){
        {ROW("name", PARAM_STRING, name), .required = true},
        {ROW("size", PARAM_UINT, size), .max = INT64_MAX},
        {ROW("sha256", PARAM_STRING, sha256), .required = true},
        {0},
    }};
#undef ROW

#define ROW(key_, type_, member_)                                                        \
    .key = key_, .type = type_, .offset = offsetof(ManifestDisk, member_)
static const ParamTable disk_table = {
    .size = sizeof(ManifestDisk),
    .desc = (const ParamDesc[]){
        {ROW("id", PARAM_STRING, id), .required = true},
        {ROW("layer", PARAM_STRING, layer)},
        {ROW("format", PARAM_STRING, format), .required = true},
        {ROW("layer-id", PARAM_STRING, layer_id)},
        {ROW("readonly", PARAM_BOOL, readonly)},
        {0},
    }};
#undef ROW

/* ---- life-cycle ----------------------------------------------------------------------
 */

static void free_file(void *f)
{
    param_free(&file_table, f);
}

static void free_disk(void *d)
{
    param_free(&disk_table, d);
}

Manifest *manifest_new(void)
{
    Manifest *m = &((Notation *)param_new(&table))->m;

    m->format = MANIFEST_FORMAT;
    m->files = g_ptr_array_new_with_free_func(free_file);
    m->disks = g_ptr_array_new_with_free_func(free_disk);
    return m;
}

void manifest_free(Manifest *m)
{
    if (!m)
        return;
    g_ptr_array_unref(m->files);
    g_ptr_array_unref(m->disks);
    if (m->memory_chunks)
        g_ptr_array_unref(m->memory_chunks);
    param_free(&table, m);
}

void manifest_add_disk(Manifest *m, const char *id, const char *layer, const char *format,
                       const char *layer_id, bool readonly)
{
    ManifestDisk *d = param_new(&disk_table);

    *d = (ManifestDisk){.id = g_strdup(id),
                        .layer = g_strdup(layer),
                        .format = g_strdup(format),
                        .layer_id = g_strdup(layer_id),
                        .readonly = readonly};
    g_ptr_array_add(m->disks, d);
}

bool manifest_add_file(Manifest *m, const char *folder, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    ManifestFile *f = param_new(&file_table);

    f->sha256 = hash_file(path, &f->size, error);
    if (!f->sha256) {
        free_file(f);
        return false;
    }
    f->name = g_strdup(name);
    g_ptr_array_add(m->files, f);
    return true;
}

const ManifestFile *manifest_file(const Manifest *m, const char *name)
{
    for (unsigned i = 0; i < m->files->len; i++) {
        const ManifestFile *f = g_ptr_array_index(m->files, i);

        if (g_str_equal(f->name, name))
            return f;
    }
    return NULL;
}

/* ---- judging it ----------------------------------------------------------------------
 */

/* Something that can be shown on a terminal. */
static bool is_text(const char *text, size_t max)
{
    if (!*text || strlen(text) > max || !g_utf8_validate(text, -1, NULL))
        return false;
    for (const char *p = text; *p; p = g_utf8_next_char(p))
        if (!g_unichar_isprint(g_utf8_get_char(p)))
            return false;
    return true;
}

static bool check_text(const char *key, const char *text, size_t max, GError **error)
{
    return !text || is_text(text, max) ||
           fail(error, VM_ERROR_CORRUPT, "%s: it is empty, too long, or not printable",
                key);
}

static bool check_uuid(const char *key, const char *text, GError **error)
{
    return !text || (strlen(text) == UUID_LEN && g_uuid_string_is_valid(text)) ||
           fail(error, VM_ERROR_CORRUPT, "%s: it is not a UUID", key);
}

static bool check_hash(const char *key, const char *text, GError **error)
{
    uint8_t hash[HASH_BYTES];

    return hash_from_text(text, hash) ||
           fail(error, VM_ERROR_CORRUPT,
                "%s: it is not a SHA-256: %d lower-case hexadecimal digits", key,
                HASH_TEXT);
}

/* A name that stays in the folder, with one folder in it at most. */
static bool is_inside(const char *name)
{
    g_auto(GStrv) parts = g_strsplit(name, "/", 3);
    unsigned n = g_strv_length(parts);

    for (unsigned i = 0; i < n; i++)
        if (!*parts[i] || *parts[i] == '.' || strlen(parts[i]) > MAX_NAME)
            return false;
    return n == 1 || n == 2;
}

static bool check_file(const Manifest *m, const ManifestFile *f, GError **error)
{
    static const char *const others[] = {SNAP_MANIFEST,    SNAP_MEMORY,
                                         SNAP_MEMORY_ZST,  SNAP_MEMORY_SUMS,
                                         SNAP_WORKING_SET, NULL};

    if (!check_text("name", f->name, MAX_PATH, error))
        return false;
    if (!is_inside(f->name) || g_strv_contains(others, f->name))
        return fail(error, VM_ERROR_CORRUPT, "name: '%s' does not belong there", f->name);
    if (manifest_file(m, f->name))
        return fail(error, VM_ERROR_CORRUPT, "name: '%s' is there twice", f->name);
    return check_hash("sha256", f->sha256, error);
}

static bool check_disk(const Manifest *m, const ManifestDisk *d, GError **error)
{
    if (!check_text("id", d->id, MAX_NAME, error) ||
        !check_text("layer", d->layer, MAX_PATH, error) ||
        !check_text("layer-id", d->layer_id, MAX_PATH, error))
        return false;
    if (strchr(d->id, '/')) /* files are named by it */
        return fail(error, VM_ERROR_CORRUPT, "id: there is a '/' in it");
    for (unsigned i = 0; i < m->disks->len; i++)
        if (g_str_equal(((ManifestDisk *)g_ptr_array_index(m->disks, i))->id, d->id))
            return fail(error, VM_ERROR_CORRUPT, "id: '%s' is there twice", d->id);
    if (d->layer && !g_path_is_absolute(d->layer) && !strstr(d->layer, "://") &&
        !is_inside(d->layer))
        return fail(error, VM_ERROR_CORRUPT, "layer: '%s' leads out of the folder",
                    d->layer);
    return g_str_equal(d->format, "raw") || g_str_equal(d->format, "qcow2") ||
           fail(error, VM_ERROR_CORRUPT, "format: it is neither raw nor qcow2");
}

static bool check_parent(const Manifest *m, GError **error)
{
    if (!m->parent_id != !m->parent_path)
        return fail(error, VM_ERROR_CORRUPT,
                    "parent: a diff has both parent and parent-id");
    if (!m->parent_id)
        return true;
    if (g_str_equal(m->parent_id, m->id))
        return fail(error, VM_ERROR_CORRUPT, "parent-id: it is its own parent");
    return check_uuid("parent-id", m->parent_id, error) &&
           check_text("parent", m->parent_path, MAX_PATH, error) &&
           (g_path_is_absolute(m->parent_path) ||
            (is_inside(m->parent_path) && !strchr(m->parent_path, '/')) ||
            fail(error, VM_ERROR_CORRUPT,
                 "parent: '%s' is neither absolute nor a name beside this folder",
                 m->parent_path));
}

static bool check_memory(const Manifest *m, GError **error)
{
    if (m->ram_size % PAGE)
        return fail(error, VM_ERROR_CORRUPT,
                    "ram-size: %" G_GUINT64_FORMAT " is not a multiple of %d",
                    m->ram_size, PAGE);
    if (m->memory_pages > m->ram_size / PAGE)
        return fail(error, VM_ERROR_CORRUPT,
                    "memory-pages: there are more pages than RAM has");
    if (!g_str_equal(m->memory_encoding, SNAP_RAW) &&
        !g_str_equal(m->memory_encoding, SNAP_ZSTD))
        return fail(error, VM_ERROR_CORRUPT,
                    "memory-encoding: it is neither " SNAP_RAW " nor " SNAP_ZSTD);
    return check_hash("memory-sha256", m->memory_sha256, error);
}

/* All but files and disks, which are judged one by one. */
static bool check(const Manifest *m, GError **error)
{
    if (m->format != MANIFEST_FORMAT)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "format %" G_GUINT64_FORMAT
                    " is not one that this hutch reads (%d): use the hutch that made it",
                    m->format, MANIFEST_FORMAT);
    if (m->cpu_needs && !json_is_object(m->cpu_needs))
        return fail(error, VM_ERROR_CORRUPT, "cpu-needs: it is not an object");
    return check_text("hutch", m->hutch, MAX_NAME, error) &&
           check_uuid("id", m->id, error) && check_text("vm", m->vm, MAX_NAME, error) &&
           check_uuid("vm-uuid", m->vm_uuid, error) && check_parent(m, error) &&
           check_memory(m, error);
}

/* ---- from JSON -----------------------------------------------------------------------
 */

/* Keys go into error messages. */
static bool check_keys(json_t *object, GError **error)
{
    const char *key;
    json_t *value;

    if (!json_is_object(object))
        return fail(error, VM_ERROR_CORRUPT, "it is not a JSON object");
    json_object_foreach(
        object, key,
        value) if (key[strspn(key,
                              "abcdefghijklmnopqrstuvwx"
                              "yz0123456789"
                              "-")]) return fail(error, VM_ERROR_CORRUPT,
                                                 "it has a key that no manifest has");
    return true;
}

/* `judge`: of what has been read, given those before it. */
static bool read_list(const Manifest *m, json_t *list, const char *key, unsigned max,
                      const ParamTable *of, GPtrArray *ret,
                      bool (*judge)(const Manifest *m, const void *item, GError **error),
                      GError **error)
{
    json_t *item;
    size_t i;

    if (list && !json_is_array(list))
        return fail(error, VM_ERROR_CORRUPT, "%s: it is not an array", key);
    if (json_array_size(list) > max)
        return fail(error, VM_ERROR_CORRUPT, "%s: there are more than %u", key, max);
    json_array_foreach(list, i, item)
    {
        void *one = param_new(of);

        if (!check_keys(item, error) || !param_from_json(of, one, item, NULL, error) ||
            !judge(m, one, error)) {
            param_free(of, one);
            g_prefix_error(error, "%s, number %zu: ", key, i + 1);
            return false;
        }
        g_ptr_array_add(ret, one);
    }
    return true;
}

static bool judge_file(const Manifest *m, const void *f, GError **error)
{
    return check_file(m, f, error);
}

static bool judge_disk(const Manifest *m, const void *d, GError **error)
{
    return check_disk(m, d, error);
}

static bool read_lists(Notation *n, GError **error)
{
    Manifest *m = &n->m;

    return read_list(m, n->files, "files", MANIFEST_MAX_FILES, &file_table, m->files,
                     judge_file, error) &&
           read_list(m, n->disks, "disks", MANIFEST_MAX_DISKS, &disk_table, m->disks,
                     judge_disk, error);
}

static bool has_files(const Manifest *m, GError **error)
{
    static const char *const needed[] = {SNAP_CONFIG, SNAP_STATE};

    for (unsigned i = 0; i < G_N_ELEMENTS(needed); i++)
        if (!manifest_file(m, needed[i]))
            return fail(error, VM_ERROR_CORRUPT, "files: '%s' is not among them",
                        needed[i]);
    return !m->parent_id || manifest_file(m, SNAP_MEMORY_MAP) ||
           fail(error, VM_ERROR_CORRUPT,
                "files: '" SNAP_MEMORY_MAP "' is not among them, which a diff has");
}

static Manifest *from_json(json_t *json, GError **error)
{
    g_autoptr(Manifest) m = manifest_new();
    Notation *n = (Notation *)m;
    bool ok = check_keys(json, error) && param_from_json(&table, n, json, NULL, error) &&
              check(m, error) && read_lists(n, error) && has_files(m, error);

    g_clear_pointer(&n->files, json_decref);
    g_clear_pointer(&n->disks, json_decref);
    return ok ? g_steal_pointer(&m) : NULL;
}

Manifest *manifest_parse(const char *text, size_t len, const char *what, GError **error)
{
    json_error_t where;
    json_t *json = len <= MAX_TEXT ? json_loadb(text, len, JSON_REJECT_DUPLICATES, &where)
                                   : NULL;
    g_autoptr(GError) why = NULL;
    Manifest *m = json ? from_json(json, &why) : NULL;

    json_decref(json);
    if (len > MAX_TEXT)
        fail(error, VM_ERROR_CORRUPT, "%s: it is too long for a manifest", what);
    else if (!json)
        fail(error, VM_ERROR_CORRUPT,
             "%s: line %d is not JSON: it is damaged, or not a "
             "manifest",
             what, where.line);
    else if (!m) /* what the tables call invalid is corrupt here */
        fail(error, why->code == VM_ERROR_INVALID ? VM_ERROR_CORRUPT : why->code,
             "%s: %s", what, why->message);
    return m;
}

Manifest *manifest_read(const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, SNAP_MANIFEST, NULL);
    g_autoptr(GBytes) bytes = snap_file_read(path, MAX_TEXT, error);
    const char *text;
    size_t len;

    if (!bytes)
        return NULL;
    text = g_bytes_get_data(bytes, &len);
    return manifest_parse(text, len, path, error);
}

/* ---- to JSON -------------------------------------------------------------------------
 */

static json_t *list_to_json(const GPtrArray *list, const ParamTable *of)
{
    json_t *array = json_array();

    for (unsigned i = 0; i < list->len; i++)
        json_array_append_new(array, param_to_json(of, g_ptr_array_index(list, i)));
    return array;
}

json_t *manifest_to_json(const Manifest *m)
{
    json_t *json = param_to_json(&table, m);

    json_object_set_new(json, "files", list_to_json(m->files, &file_table));
    json_object_set_new(json, "disks", list_to_json(m->disks, &disk_table));
    return json;
}

bool manifest_write(const Manifest *m, const char *folder, GError **error)
{
    json_t *json = manifest_to_json(m);
    char *text = json_dumps(json, JSON_INDENT(2));
    g_autoptr(Manifest) again = NULL;
    bool ok;

    json_decref(json);
    again = text ? manifest_parse(text, strlen(text), "the manifest to be written", error)
                 : NULL;
    ok = again && (!m->memory_chunks || manifest_write_chunks(m, folder, error)) &&
         manifest_store(folder, SNAP_MANIFEST, text, error);
    free(text);
    return ok;
}
