/* The warm cache; see warm.h.  A boot depends on hutch, on the Config but for what is not
 * the machine's, and on the files that it names, of which place, size and time of the
 * last write are looked at.  What is below a disk's own image is compared when a
 * snapshot's disks are opened. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hutch-config.h"
#include "snapshot/store.h"
#include "snapshot/template.h"
#include "src/cli/warm.h"
#include "util/json.h"

enum { MAX_ENTRIES = 8, KEY_DIGITS = 24 };

static json_t *look_at(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return json_pack("{s:s}", "path", path);
    return json_pack("{s:s, s:I, s:I, s:I, s:I}", "path", path, "inode",
                     (json_int_t)st.st_ino, "size", (json_int_t)st.st_size, "s",
                     (json_int_t)st.st_mtim.tv_sec, "ns", (json_int_t)st.st_mtim.tv_nsec);
}

static void add_file(json_t *files, const char *path)
{
    if (path && *path)
        json_array_append_new(files, look_at(path));
}

static json_t *list_files(const json_t *config)
{
    json_t *files = json_array(), *disk;
    size_t i;

    add_file(files, "/proc/self/exe");
    add_file(files, json_get_text(config, "kernel"));
    add_file(files, json_get_text(config, "initrd"));
    json_array_foreach(json_object_get(config, "disk"), i, disk)
        add_file(files, json_get_text(disk, "path"));
    return files;
}

json_t *warm_inputs(const Config *cfg, const char *when)
{
    static const char *const others[] = {"name",    "uuid", "control", "control-readonly",
                                         "metrics", "json", "timeout", "paused"};
    json_t *config = config_to_json(cfg), *net, *ret;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(others); i++)
        json_object_del(config, others[i]);
    json_array_foreach(json_object_get(config, "net"), i, net)
        json_object_del(net, "hostfwd");
    ret = json_pack("{s:s, s:s, s:o}", "hutch", HUTCH_VERSION, "when", when, "files",
                    list_files(config));
    json_object_set_new(ret, "config", config);
    return ret;
}

char *warm_key(const json_t *inputs)
{
    char *text = json_dumps(inputs, JSON_COMPACT | JSON_SORT_KEYS);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256,
                                                         text ? text : "", -1);

    free(text);
    return g_strndup(sum, KEY_DIGITS);
}

static char *note_of(const char *key)
{
    g_autofree char *folder = store_folder(STORE_WARM);
    g_autofree char *leaf = g_strconcat(key, ".json", NULL);

    return g_build_filename(folder, leaf, NULL);
}

bool warm_write(const char *key, const json_t *inputs, GError **error)
{
    g_autofree char *path = note_of(key);
    g_autoptr(GError) why = NULL;
    char *text = json_dumps(inputs, JSON_INDENT(2));
    bool ok = text && g_file_set_contents(path, text, -1, &why);

    free(text);
    return ok || fail(error, VM_ERROR_IO, "%s", why ? why->message : "not UTF-8");
}

json_t *warm_read(const char *key)
{
    g_autofree char *path = note_of(key);

    return json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
}

void warm_touch(const char *key)
{
    g_autofree char *path = note_of(key);

    utimensat(AT_FDCWD, path, NULL, 0);
}

int64_t warm_used_ns(const char *key)
{
    g_autofree char *path = note_of(key);
    struct stat st;

    return stat(path, &st) < 0 ? 0
                               : st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
}

bool warm_is_stale(const json_t *inputs)
{
    json_t *file;
    size_t i;

    if (!g_str_equal(json_get_text(inputs, "hutch"), HUTCH_VERSION))
        return true;
    json_array_foreach(json_object_get(inputs, "files"), i, file)
    {
        json_t *now = look_at(json_get_text(file, "path"));
        bool same = json_equal(now, file);

        json_decref(now);
        if (!same)
            return true;
    }
    return false;
}

bool warm_remove(const char *key, GError **error)
{
    g_autofree char *folder = store_path(STORE_WARM, key, error);
    g_autofree char *note = note_of(key);
    bool ok = folder && snapshot_remove_unused(folder, error);

    if (ok)
        unlink(note);
    return ok;
}

static int by_use(const void *a, const void *b)
{
    int64_t first = warm_used_ns(*(char *const *)a);
    int64_t second = warm_used_ns(*(char *const *)b);

    return first < second ? 1 : first > second ? -1 : 0; /* the last used first */
}

void warm_prune(void)
{
    g_auto(GStrv) keys = store_list(STORE_WARM, NULL);
    unsigned n = keys ? g_strv_length(keys) : 0, kept = 0;

    if (n)
        qsort(keys, n, sizeof(char *), by_use);
    for (unsigned i = 0; i < n; i++) {
        json_t *inputs = warm_read(keys[i]);

        if (!inputs || kept >= MAX_ENTRIES || warm_is_stale(inputs))
            warm_remove(keys[i], NULL); /* what is in use goes another time */
        else
            kept++;
        json_decref(inputs);
    }
}
