/* hutch snapshot inspect: all that is in a snapshot but memory itself. */
#include <stdio.h>
#include <string.h>

#include "snapshot/state_tables.h"
#include "src/cli/snapshot.h"
#include "util/json.h"

enum { LINE = 64 }; /* hexadecimal digits of bytes on one line */

/* What comes from files is anything; a terminal must not obey it. */
static char *safe(const char *text)
{
    return g_strescape(text, "\\\"");
}

/* ---- any JSON, as lines --------------------------------------------------------------
 */

static void print_value(const char *indent, const char *name, const json_t *value,
                        const StateTable *table);

static const StateField *field_of(const StateTable *table, const char *name)
{
    for (const StateField *f = table ? table->fields : NULL; f && f->name; f++)
        if (f->tag && g_str_equal(f->name, name))
            return f;
    return NULL;
}

/* Bytes are long: several lines, below each other. */
static void print_text(const char *indent, const char *text)
{
    g_autofree char *clean = safe(text);
    size_t len = strlen(clean);

    for (size_t at = LINE; at < len; at += LINE)
        printf("%.*s\n%s    ", LINE, clean + at - LINE, indent);
    printf("%s", clean + (len ? (len - 1) / LINE * LINE : 0));
}

static bool is_flat(const json_t *array)
{
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item) if (json_is_object(item) || json_is_array(item) ||
                                           json_is_string(item)) return false;
    return true;
}

static void print_number(const json_t *value)
{
    g_autofree char *text = json_is_string(value) ? safe(json_string_value(value)) : NULL;

    if (text)
        fputs(text, stdout);
    else if (json_is_integer(value))
        printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        printf("%g", json_real_value(value));
    else
        fputs(json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-", stdout);
}

static void print_flat(const char *indent, const json_t *array)
{
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        if (i)
            printf("%s", i % 16 ? " " : "\n    ");
        if (i && i % 16 == 0)
            fputs(indent, stdout);
        print_number(item);
    }
}

static void print_members(const char *indent, const json_t *object,
                          const StateTable *table)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value)
        print_value(indent, key, value, table);
}

/* `table` describes the struct that `value` is a field of; NULL: none does. */
static void print_value(const char *indent, const char *name, const json_t *value,
                        const StateTable *table)
{
    const StateField *f = field_of(table, name);
    g_autofree char *clean = safe(name), *below = g_strconcat(indent, "  ", NULL);
    const json_t *item;
    size_t i;

    printf("%s%s:", indent, clean);
    if (json_is_object(value) || (json_is_array(value) && !is_flat(value))) {
        printf("%s%s%s\n", f && f->help ? "  (" : "", f && f->help ? f->help : "",
               f && f->help ? ")" : "");
        if (json_is_object(value))
            print_members(below, value, f ? f->of : NULL);
        json_array_foreach(value, i, item)
        {
            g_autofree char *number = g_strdup_printf("%zu", i);

            print_value(below, number, item, NULL);
        }
        return;
    }
    putchar(' ');
    if (json_is_array(value))
        print_flat(indent, value);
    else if (json_is_string(value))
        print_text(indent, json_string_value(value));
    else
        print_number(value);
    if (f && f->help)
        printf("  (%s)", f->help);
    putchar('\n');
}

/* ---- the manifest --------------------------------------------------------------------
 */

static void print_line(const char *name, const char *text)
{
    g_autofree char *clean = text ? safe(text) : NULL;

    if (clean)
        printf("%s: %s\n", name, clean);
}

static void print_memory(const Manifest *m)
{
    g_autofree char *ram = image_size_text(m->ram_size);
    g_autofree char *kept = image_size_text(m->memory_pages * 4096);

    printf("memory: %s, of which %s (%" G_GUINT64_FORMAT " pages) are kept here, as %s\n",
           ram, kept, m->memory_pages, m->memory_encoding);
    print_line("memory's sha256", m->memory_sha256);
}

static void print_disks(const Manifest *m)
{
    if (m->disks->len)
        puts("disks:");
    for (unsigned i = 0; i < m->disks->len; i++) {
        const ManifestDisk *d = g_ptr_array_index(m->disks, i);
        g_autofree char *id = safe(d->id);
        g_autofree char *layer = d->layer ? safe(d->layer) : NULL;

        printf("  %s: %s%s%s%s\n", id, layer ? layer : "not kept", layer ? ", " : "",
               layer ? d->format : "", d->readonly ? ", read-only" : "");
    }
    if (m->disks->len)
        printf("disks were frozen by the guest's agent: %s\n", m->frozen ? "yes" : "no");
}

static void print_files(const Manifest *m)
{
    puts("files:");
    for (unsigned i = 0; i < m->files->len; i++) {
        const ManifestFile *f = g_ptr_array_index(m->files, i);

        printf("  %s: %" G_GUINT64_FORMAT " bytes, sha256 %s\n", f->name, f->size,
               f->sha256);
    }
}

static void print_manifest(const Snap *s)
{
    const Manifest *m = s->manifest;
    g_autofree char *when = snap_time_text(m->created_ns);
    g_autofree char *size = image_size_text(snap_size(s->folder));
    g_autofree char *parent = manifest_parent_folder(m, s->folder);

    print_line("snapshot", s->name);
    print_line("folder", s->folder);
    print_line("on disk", size);
    print_line("taken", when);
    print_line("of the VM", m->vm);
    print_line("whose UUID is", m->vm_uuid);
    print_line("made by hutch", m->hutch);
    print_line("id", m->id);
    print_line("a difference to", parent);
    print_line("whose id is", m->parent_id);
    print_memory(m);
    print_disks(m);
    print_files(m);
    if (m->cpu_needs)
        print_value("", "needs of the processor", m->cpu_needs, NULL);
}

/* ---- the state -----------------------------------------------------------------------
 */

static void print_section(const char *name, const json_t *section)
{
    const char *kind = json_get_text(section, "kind");
    const StateTable *table = state_find_table(state_all_tables(), kind);
    const json_t *fields = json_object_get(section, "fields");
    const char *error = json_get_text(section, "error");
    g_autofree char *clean = safe(name), *clean_kind = safe(kind);
    g_autofree char *clean_error = safe(error);

    printf("  %s: %s, version %" JSON_INTEGER_FORMAT "\n", clean, clean_kind,
           json_integer_value(json_object_get(section, "version")));
    if (fields)
        print_members("    ", fields, table);
    else
        printf("    %" JSON_INTEGER_FORMAT " bytes%s%s\n",
               json_integer_value(json_object_get(section, "size")),
               *error ? ", which this hutch cannot read: "
                      : " of a kind that this hutch "
                        "does not know",
               clean_error);
}

static void print_state(const json_t *state)
{
    const char *name;
    json_t *section;

    puts("state:");
    json_object_foreach((json_t *)state, name, section) print_section(name, section);
}

bool snapshot_act_inspect(void *options, char **names, int *status, GError **error)
{
    const SnapshotArgs *args = options;
    g_autoptr(Snap) s = snap_find(names[0], error);
    g_autoptr(StateReader) reader = s ? snap_read_state(s->folder, error) : NULL;
    json_t *config = reader ? snap_read_json(s->folder, SNAP_CONFIG, error) : NULL;
    json_t *state;

    if (!config)
        return false;
    state = state_describe(reader, state_all_tables());
    if (args->common.json) {
        cli_print_json(
            json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "name", s->name, "path",
                      s->folder, "size", (json_int_t)snap_size(s->folder), "manifest",
                      manifest_to_json(s->manifest), "config", config, "state", state));
        return true;
    }
    print_manifest(s);
    print_value("", "machine", config, NULL);
    print_state(state);
    json_decref(config);
    json_decref(state);
    return true;
}
