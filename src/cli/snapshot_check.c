/* hutch check-restore: all that would stop a restore on this host, each with its cure.
 * Nothing is started and nothing is changed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#include "control/place.h"
#include "kvm/arch.h"
#include "snapshot/disks.h"
#include "snapshot/foreign.h"
#include "snapshot/memory.h"
#include "snapshot/state_tables.h"
#include "src/cli/snapshot.h"
#include "util/bits.h"
#include "util/json.h"

typedef struct CheckArgs {
    SnapshotArgs common;
    bool full;
} CheckArgs;

static const ParamDesc check_desc[] = {
    {.key = "full",
     .type = PARAM_BOOL,
     .offset = offsetof(CheckArgs, full),
     .help = "compare memory with its hashes as well, which reads all of it"},
    SNAPSHOT_ARG_JSON,
    IMAGE_ARG_PROGRESS,
    {0},
};
const ParamTable snapshot_check_args = {.size = sizeof(CheckArgs), .desc = check_desc};

const ExitStatus snapshot_check_statuses[] = {
    {"0", "nothing would stop it"},
    {"1", "it would not work"},
    {"125", "there is no snapshot of that name, or the arguments make no sense"},
    {0},
};

const char snapshot_check_about[] = "Looks at the snapshot's files and its parents', the "
                                    "disks, the processor, the paths, "
                                    "interfaces and the name that its VM has, and "
                                    "memory.  Nothing is started and nothing "
                                    "changed.";

typedef struct Check {
    const CheckArgs *args;
    const char *name, *folder;
    GPtrArray *problems, *warnings; /* char *: a sentence and its cure */
} Check;

static void G_GNUC_PRINTF(2, 3) note(GPtrArray *list, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_ptr_array_add(list, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

/* ---- its own files -------------------------------------------------------------------
 */

static void progressed(void *opaque, uint64_t done, uint64_t total)
{
    Progress *p = opaque;

    p->total = total;
    atomic_store(&p->done, done);
    progress_tick(p);
}

static bool compare_all(Check *c, const ManifestLink *l, GError **error)
{
    Progress p;
    bool ok;

    progress_begin(&p, &c->args->common.common, "check", 1);
    ok = manifest_verify(l->folder, l->manifest, progressed, &p, error);
    progress_end(&p);
    return ok;
}

/* Without reading memory: that its file is as long as it has to be. */
static bool compare_small(const ManifestLink *l, GError **error)
{
    g_autoptr(SnapMemory) memory = NULL;

    if (!manifest_verify_files(l->folder, l->manifest, error))
        return false;
    memory = snap_memory_open_alone(l->folder, l->manifest, error);
    return memory != NULL;
}

static void check_files(Check *c)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GPtrArray) chain = manifest_chain(c->folder, &why);

    if (!chain)
        note(c->problems, "%s", why->message);
    for (unsigned i = 0; chain && i < chain->len; i++) {
        const ManifestLink *l = g_ptr_array_index(chain, i);
        g_autoptr(GError) differs = NULL;

        if (!(c->args->full ? compare_all(c, l, &differs) : compare_small(l, &differs)))
            note(c->problems, "%s; copy it anew, or restore another snapshot",
                 differs->message);
    }
}

/* Each section must be one that this hutch knows, in all its fields. */
static void check_state(Check *c)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(StateReader) r = snap_read_state(c->folder, &why);
    json_t *state = r ? state_describe(r, state_all_tables()) : NULL, *section;
    const char *name;

    if (!r)
        note(c->problems, "%s", why->message);
    json_object_foreach(state, name, section)
    {
        const char *error = json_get_text(section, "error");

        if (*error)
            note(c->problems, "%s: use the hutch that made it", error);
        else if (!json_object_get(section, "fields"))
            note(c->problems,
                 "state, section '%s': this hutch knows nothing of its kind ('%s'): use "
                 "the hutch that made it",
                 name, json_get_text(section, "kind"));
    }
    json_decref(state);
}

/* ---- what the machine needs of the host ----------------------------------------------
 */

typedef enum {
    NEEDS_FILE,   /* which a reboot reads, a restore does not */
    NEEDS_FOLDER, /* to be there */
    NEEDS_SOCKET, /* which another program listens on */
    MAKES_FILE,   /* in a folder that has to be there */
} Need;

static const struct {
    const char *option, *key; /* key NULL: the option itself */
    Need need;
} needs[] = {
    {"kernel", NULL, NEEDS_FILE},      {"initrd", NULL, NEEDS_FILE},
    {"control", NULL, MAKES_FILE},     {"control-readonly", NULL, MAKES_FILE},
    {"serial", "file", MAKES_FILE},    {"serial", "socket", MAKES_FILE},
    {"serial", "log", MAKES_FILE},     {"console", "file", MAKES_FILE},
    {"console", "socket", MAKES_FILE}, {"console", "log", MAKES_FILE},
    {"vsock", "path", MAKES_FILE},     {"share", "folder", NEEDS_FOLDER},
    {"fs", "socket", NEEDS_SOCKET},    {"vhost-user-blk", "socket", NEEDS_SOCKET},
};

/* Relative ones count from the folder, as config_load() has it. */
static void check_path(Check *c, const char *option, Need need, const char *name)
{
    g_autofree char *path = g_canonicalize_filename(name, c->folder);
    g_autofree char *parent = g_path_get_dirname(path);
    struct stat st;
    bool there = stat(path, &st) == 0;

    switch (need) {
    case NEEDS_FILE:
        if (!there)
            note(c->warnings,
                 "--%s: '%s' is not there: the guest goes on, and cannot reboot until it "
                 "is put back",
                 option, path);
        break;
    case NEEDS_FOLDER:
        if (!there || !S_ISDIR(st.st_mode))
            note(c->problems, "--%s: the folder '%s' is not there: put it back", option,
                 path);
        break;
    case NEEDS_SOCKET:
        if (!there || !S_ISSOCK(st.st_mode))
            note(c->problems,
                 "--%s: there is no socket '%s': start the program that serves it",
                 option, path);
        break;
    case MAKES_FILE:
        if (stat(parent, &st) < 0 || !S_ISDIR(st.st_mode))
            note(c->problems, "--%s: the folder of '%s' is not there: make it", option,
                 path);
        break;
    }
}

static void check_paths_of(Check *c, const json_t *config, unsigned which)
{
    const json_t *value = json_object_get(config, needs[which].option), *item;
    const char *key = needs[which].key;
    size_t i;

    if (!key && json_is_string(value))
        check_path(c, needs[which].option, needs[which].need, json_string_value(value));
    if (key && json_is_object(value) && *json_get_text(value, key))
        check_path(c, needs[which].option, needs[which].need, json_get_text(value, key));
    json_array_foreach(value, i, item) if (key && *json_get_text(item, key))
        check_path(c, needs[which].option, needs[which].need, json_get_text(item, key));
}

static void check_taps(Check *c, const json_t *config)
{
    const json_t *nets = json_object_get(config, "net"), *net;
    size_t i;

    json_array_foreach(nets, i, net)
    {
        const char *ifname = json_get_text(net, "ifname");
        g_autofree char *path = g_build_filename("/sys/class/net", ifname, NULL);

        if (*ifname && !strchr(ifname, '/') && !g_file_test(path, G_FILE_TEST_EXISTS) &&
            geteuid() != 0)
            note(
                c->problems,
                "--net: the interface '%s' is not there: make it ('ip tuntap add %s mode "
                "tap user $USER'), or restore with another --net",
                ifname, ifname);
    }
}

/* Disks that the snapshot has no layer of are used as they are now. */
static void check_own_disks(Check *c, const json_t *config, const Manifest *m)
{
    const json_t *disks = json_object_get(config, "disk"), *disk;
    size_t i;

    json_array_foreach(disks, i, disk)
    {
        g_autofree char *by_place = g_strdup_printf("disk%zu", i);
        const char *id = *json_get_text(disk, "id") ? json_get_text(disk, "id")
                                                    : by_place;
        const char *path = json_get_text(disk, "path");
        g_autofree char *full = g_canonicalize_filename(path, c->folder);
        bool kept = false;

        for (unsigned j = 0; j < m->disks->len; j++) {
            const ManifestDisk *d = g_ptr_array_index(m->disks, j);

            kept |= g_str_equal(d->id, id) && d->layer;
        }
        if (!kept && *path && !strstr(path, "://") &&
            !g_file_test(full, G_FILE_TEST_EXISTS))
            note(c->problems,
                 "disk '%s': '%s' is not there: give the disk by --disk %s=FILE", id,
                 full, id);
    }
}

static void check_name(Check *c, const json_t *config)
{
    const char *vm = json_get_text(config, "name");
    PlaceInfo info;

    if (*vm && place_look(vm, &info, NULL) && info.state == PLACE_RUNNING)
        note(c->problems, "a VM named '%s' runs: stop it, or restore with --name", vm);
}

static uint64_t free_huge_bytes(void)
{
    g_autofree char *text = NULL;

    g_file_get_contents("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", &text,
                        NULL, NULL);
    return text ? g_ascii_strtoull(text, NULL, 10) * 2 * MIB : 0;
}

static uint64_t available_bytes(void)
{
    g_autofree char *text = NULL;
    const char *line;

    g_file_get_contents("/proc/meminfo", &text, NULL, NULL);
    line = text ? strstr(text, "MemAvailable:") : NULL;
    return line ? g_ascii_strtoull(line + strlen("MemAvailable:"), NULL, 10) * KIB
                : UINT64_MAX;
}

static void check_memory(Check *c, const json_t *config, const Manifest *m)
{
    const json_t *memory = json_object_get(config, "memory");
    bool huge = json_is_true(json_object_get(memory, "hugepages"));
    uint64_t has = huge ? free_huge_bytes() : available_bytes();
    g_autofree char *wants = image_size_text(m->ram_size);
    g_autofree char *there = image_size_text(has);

    if (m->ram_size <= has)
        return;
    if (huge)
        note(c->problems,
             "guest RAM is %s in huge pages, and the host has %s of them free: reserve "
             "more (vm.nr_hugepages), or restore without them",
             wants, there);
    else
        note(c->warnings,
             "guest RAM is %s, and the host has %s available: it goes on as long as the "
             "guest does not need more; end something else before it does",
             wants, there);
}

static void check_config(Check *c, const Manifest *m)
{
    g_autofree char *path = g_build_filename(c->folder, SNAP_CONFIG, NULL);
    g_autoptr(GError) why = NULL, unread = NULL, foreign = NULL;
    json_t *config = snap_read_json(c->folder, SNAP_CONFIG, &unread);
    g_autoptr(Config) cfg = config_new();

    if (!config) {
        note(c->problems, "%s", unread->message);
        return;
    }
    if (!config_load(cfg, path, &why))
        note(c->problems, "%s: use the hutch that made it", why->message);
    else if (m->foreign && !foreign_allowed_as_is(cfg, m, &foreign))
        note(c->warnings, "%s", foreign->message);
    for (unsigned i = 0; i < G_N_ELEMENTS(needs); i++)
        check_paths_of(c, config, i);
    check_taps(c, config);
    check_own_disks(c, config, m);
    check_name(c, config);
    check_memory(c, config, m);
    json_decref(config);
}

/* ---- the verb ------------------------------------------------------------------------
 */

static void check_all(Check *c)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(Manifest) m = manifest_read(c->folder, &why);

    if (!m) {
        note(c->problems, "%s", why->message);
        return;
    }
    check_files(c);
    check_state(c);
    if (m->cpu_needs) {
        arch_cpu_check(m->cpu_needs, c->problems);
        arch_tsc_check(m->cpu_needs, c->problems);
    }
    snapshot_disks_check(m, c->folder, c->problems, c->warnings);
    check_config(c, m);
}

static json_t *to_array(const GPtrArray *texts)
{
    json_t *array = json_array();

    for (unsigned i = 0; i < texts->len; i++)
        json_array_append_new(array, json_string(g_ptr_array_index(texts, i)));
    return array;
}

static void print_list(const char *what, const GPtrArray *texts)
{
    for (unsigned i = 0; i < texts->len; i++) {
        g_autofree char *clean = g_strescape(g_ptr_array_index(texts, i), "\\\"'");

        printf("%s: %s\n", what, clean);
    }
}

static void print_result(const Check *c)
{
    if (c->args->common.common.json) {
        cli_print_json(json_pack("{s:s, s:b, s:o, s:o}", "name", c->name, "good",
                                 !c->problems->len, "problems", to_array(c->problems),
                                 "warnings", to_array(c->warnings)));
        return;
    }
    print_list("problem", c->problems);
    print_list("warning", c->warnings);
    printf(
        "%s can%s be restored on this host%s\n", c->name, c->problems->len ? "not" : "",
        c->problems->len || c->args->full ? "" : " (memory was not read; --full does)");
}

bool snapshot_act_check(void *options, char **names, int *status, GError **error)
{
    g_autofree char *folder = store_find(STORE_SNAPSHOTS, names[0], error);
    Check c = {.args = options, .name = names[0], .folder = folder};

    if (!folder)
        return false;
    c.problems = g_ptr_array_new_with_free_func(g_free);
    c.warnings = g_ptr_array_new_with_free_func(g_free);
    check_all(&c);
    print_result(&c);
    *status = c.problems->len ? 1 : 0;
    g_ptr_array_unref(c.problems);
    g_ptr_array_unref(c.warnings);
    return true;
}
