/* Makes snapshots for tests of what reads them, by hutch's own writers and without a VM.
 *
 *     snapshot_make FOLDER MIB OPTION...
 *         parent=FOLDER     a diff to that one, which is beside it
 *         zstd              memory.zst instead of memory
 *         vm=NAME           of that VM
 *         register=N        the serial port's scratch register
 *         disk=ID,LAYER     a disk, raw, whose layer is there
 *         config=JSON       instead of {}
 *         PAGE=BYTE         a page full of that byte, which may be 0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/image.h"
#include "hutch-config.h"
#include "snapshot/manifest.h"
#include "snapshot/memory.h"
#include "snapshot/state_tables.h"
#include "snapshot/store.h"
#include "util/fd.h"

static GError *why;

static void must(bool ok)
{
    if (ok)
        return;
    fprintf(stderr, "snapshot_make: %s\n", why ? why->message : "it did not work");
    exit(1);
}

/* The value of the option `key`, from the arguments; or `other`. */
static const char *option(char **args, const char *key, const char *other)
{
    for (; *args; args++)
        if (g_str_has_prefix(*args, key) && (*args)[strlen(key)] == '=')
            return *args + strlen(key) + 1;
    return other;
}

/* Sets an integer of a struct by its table. */
static void set_field(const StateTable *t, void *s, const char *name, unsigned value)
{
    for (const StateField *f = t->fields; f->name; f++)
        if (f->tag && g_str_equal(f->name, name))
            memcpy((char *)s + f->offset, &value, f->size);
}

static void write_state(const char *folder, unsigned value)
{
    g_autofree char *path = g_build_filename(folder, SNAP_STATE, NULL);
    const StateTable *t = state_find_table(state_all_tables(), "serial");
    g_autofree void *serial = g_malloc0(t->size);
    g_autoptr(StateWriter) w = state_writer_new();
    g_autoptr(GBytes) bytes = NULL;
    gsize len;
    gconstpointer data;

    set_field(t, serial, "scr", value);
    state_put(w, "serial0", t, serial);
    bytes = state_writer_end(g_steal_pointer(&w), &why);
    must(bytes);
    data = g_bytes_get_data(bytes, &len);
    must(g_file_set_contents(path, data, (gssize)len, &why));
}

static void write_memory(const char *folder, char **args, Manifest *m)
{
    bool zstd = g_strv_contains((const char *const *)args, "zstd");
    SnapMemoryWriter *w = snap_memory_create(folder, m->ram_size, m->parent_id, zstd,
                                             &why);

    must(w);
    for (; *args; args++) {
        uint8_t page[GM_PAGE_SIZE];

        if (!g_ascii_isdigit(**args))
            continue;
        memset(page, atoi(strchr(*args, '=') + 1), sizeof(page));
        must(snap_memory_write(w, (uint64_t)atoll(*args), 1, page, &why));
    }
    must(snap_memory_finish(w, m, &why));
}

static void set_parent(Manifest *m, const char *parent)
{
    g_autoptr(Manifest) p = parent ? manifest_read(parent, &why) : NULL;

    must(!parent || p);
    m->parent_id = p ? g_strdup(p->id) : NULL;
    m->parent_path = p ? g_path_get_basename(parent) : NULL;
}

static void add_disks(Manifest *m, char **args)
{
    for (; *args; args++) {
        g_auto(GStrv) parts = g_strsplit(*args + strlen("disk="), ",", 2);
        g_autofree char *id = NULL;

        if (!g_str_has_prefix(*args, "disk="))
            continue;
        id = image_identity(parts[1], true, &why);
        must(id);
        manifest_add_disk(m, parts[0], parts[1], "raw", id, false);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(Manifest) m = manifest_new();
    g_autofree char *config = NULL, *partial = NULL;
    char **args = argv + 3;

    if (argc < 3)
        return 1;
    m->hutch = g_strdup(HUTCH_VERSION);
    m->id = g_uuid_string_random();
    m->vm = g_strdup(option(args, "vm", "web"));
    m->created_ns = g_get_real_time() * 1000;
    m->ram_size = strtoull(argv[2], NULL, 0) << 20;
    set_parent(m, option(args, "parent", NULL));
    partial = store_begin(argv[1], &why);
    must(partial);
    config = g_build_filename(partial, SNAP_CONFIG, NULL);
    must(g_file_set_contents(config, option(args, "config", "{}"), -1, &why));
    write_state(partial, (unsigned)atoi(option(args, "register", "0")));
    write_memory(partial, args, m);
    add_disks(m, args);
    must(manifest_add_file(m, partial, SNAP_CONFIG, &why) &&
         manifest_add_file(m, partial, SNAP_STATE, &why) &&
         manifest_write(m, partial, &why) && store_commit(partial, argv[1], &why));
    return 0;
}
