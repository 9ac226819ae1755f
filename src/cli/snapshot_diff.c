/* hutch snapshot diff: what is not the same in two snapshots. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "snapshot/memory.h"
#include "snapshot/state_tables.h"
#include "src/cli/snapshot.h"
#include "util/json.h"

SNAPSHOT_TABLE(snapshot_diff_args, SNAPSHOT_ARG_JSON, IMAGE_ARG_PROGRESS,
               IMAGE_ARG_QUIET);

const ExitStatus snapshot_diff_statuses[] = {
    {"0", "the snapshots are of the same machine in the same state"},
    {"1", "they differ"},
    {"125", "they could not be compared"},
    {0},
};

enum {
    BATCH = 256,       /* pages compared at a time */
    MAX_RANGES = 4096, /* that are told of */
    SHOWN_RANGES = 16, /* to people */
    SHOWN_VALUE = 60,
};

/* ---- JSON ----------------------------------------------------------------------------
 */

/* Of both, by their paths: {"serial0.scr": [1, 2], "rtc": [null, {...}]}. */
static void compare_json(json_t *ret, const char *path, json_t *a, json_t *b);

static void compare_member(json_t *ret, const char *path, const char *key, json_t *a,
                           json_t *b)
{
    g_autofree char *below = g_strconcat(path, *path ? "." : "", key, NULL);

    compare_json(ret, below, a, b);
}

static void compare_objects(json_t *ret, const char *path, json_t *a, json_t *b)
{
    const char *key;
    json_t *value;

    json_object_foreach(a, key, value)
        compare_member(ret, path, key, value, json_object_get(b, key));
    json_object_foreach(b, key, value) if (!json_object_get(a, key))
        compare_member(ret, path, key, NULL, value);
}

static void compare_arrays(json_t *ret, const char *path, json_t *a, json_t *b)
{
    for (size_t i = 0; i < MAX(json_array_size(a), json_array_size(b)); i++) {
        g_autofree char *below = g_strdup_printf("%s[%zu]", path, i);

        compare_json(ret, below, json_array_get(a, i), json_array_get(b, i));
    }
}

static void compare_json(json_t *ret, const char *path, json_t *a, json_t *b)
{
    if (json_equal(a, b))
        return;
    if (json_is_object(a) && json_is_object(b))
        compare_objects(ret, path, a, b);
    else if (json_is_array(a) && json_is_array(b))
        compare_arrays(ret, path, a, b);
    else
        json_object_set_new(ret, path,
                            json_pack("[o, o]", a ? json_incref(a) : json_null(),
                                      b ? json_incref(b) : json_null()));
}

/* Takes both. */
static json_t *differences(json_t *a, json_t *b)
{
    json_t *ret = json_object();

    compare_json(ret, "", a, b);
    json_decref(a);
    json_decref(b);
    return ret;
}

/* Only what a device has in it: {"serial0": {"scr": 1}}. */
static json_t *state_of(const Snap *s, GError **error)
{
    g_autoptr(StateReader) r = snap_read_state(s->folder, error);
    json_t *all = r ? state_describe(r, state_all_tables()) : NULL, *section;
    json_t *ret = all ? json_object() : NULL;
    const char *name;

    json_object_foreach(all, name, section)
    {
        json_t *fields = json_object_get(section, "fields");

        json_object_set(ret, name, fields ? fields : section);
    }
    json_decref(all);
    return ret;
}

static json_t *disks_of(const Snap *s)
{
    json_t *ret = json_object();

    for (unsigned i = 0; i < s->manifest->disks->len; i++) {
        const ManifestDisk *d = g_ptr_array_index(s->manifest->disks, i);
        json_t *disk = json_pack("{s:s, s:b}", "format", d->format, "readonly",
                                 d->readonly);

        if (d->layer)
            json_object_set_new(disk, "layer", json_string(d->layer));
        if (d->layer_id)
            json_object_set_new(disk, "layer-id", json_string(d->layer_id));
        json_object_set_new(ret, d->id, disk);
    }
    return ret;
}

/* ---- memory --------------------------------------------------------------------------
 */

typedef struct Pages {
    SnapMemory *a, *b;
    uint8_t *buf[2];
    json_t *ranges;       /* [[first page, how many], ...] */
    uint64_t count;       /* of pages that differ */
    uint64_t first, next; /* the range that is open; the same: none is */
    uint64_t n_ranges;
    Progress progress;
} Pages;

static void end_range(Pages *p)
{
    if (p->first == p->next)
        return;
    if (p->n_ranges++ < MAX_RANGES)
        json_array_append_new(p->ranges, json_pack("[I, I]", (json_int_t)p->first,
                                                   (json_int_t)(p->next - p->first)));
    p->first = p->next;
}

static void add_page(Pages *p, uint64_t page)
{
    if (page != p->next) {
        end_range(p);
        p->first = page;
    }
    p->next = page + 1;
    p->count++;
}

static bool compare_batch(Pages *p, uint64_t page, unsigned n, GError **error)
{
    if (!snap_memory_read(p->a, page, n, p->buf[0], error) ||
        !snap_memory_read(p->b, page, n, p->buf[1], error))
        return false;
    for (unsigned i = 0; i < n; i++)
        if (memcmp(p->buf[0] + i * GM_PAGE_SIZE, p->buf[1] + i * GM_PAGE_SIZE,
                   GM_PAGE_SIZE))
            add_page(p, page + i);
    return true;
}

/* The next pages at or after *page that one of them has something in. */
static bool next_run(Pages *p, uint64_t *page, uint64_t *n)
{
    uint64_t at[2] = {*page, *page}, len[2] = {0, 0};
    bool there[2] = {snap_memory_next(p->a, &at[0], &len[0]),
                     snap_memory_next(p->b, &at[1], &len[1])};
    unsigned first = !there[0] || (there[1] && at[1] < at[0]);

    *page = at[first];
    *n = len[first];
    return there[first];
}

static bool compare_pages(Pages *p, GError **error)
{
    uint64_t page = 0, n;

    for (; next_run(p, &page, &n); page += MIN(n, BATCH)) {
        if (!compare_batch(p, page, (unsigned)MIN(n, BATCH), error))
            return false;
        atomic_store(&p->progress.done, page * GM_PAGE_SIZE);
        progress_tick(&p->progress);
    }
    end_range(p);
    return true;
}

static json_t *compare_memory(const SnapshotArgs *args, const Snap *a, const Snap *b,
                              GError **error)
{
    g_autoptr(SnapMemory) of_a = snap_memory_open(a->folder, error);
    g_autoptr(SnapMemory) of_b = of_a ? snap_memory_open(b->folder, error) : NULL;
    g_autofree uint8_t *buf = g_malloc(2 * BATCH * GM_PAGE_SIZE);
    Pages p = {.a = of_a, .b = of_b, .buf = {buf, buf + BATCH * GM_PAGE_SIZE}};
    bool ok;

    if (!of_b)
        return NULL;
    if (snap_memory_size(of_a) != snap_memory_size(of_b)) {
        fail(error, VM_ERROR_INVALID,
             "'%s' and '%s' have RAM of other sizes: they are of other machines", a->name,
             b->name);
        return NULL;
    }
    p.ranges = json_array();
    progress_begin(&p.progress, &args->common, "diff", snap_memory_size(of_a));
    ok = compare_pages(&p, error);
    progress_end(&p.progress);
    if (!ok) {
        json_decref(p.ranges);
        return NULL;
    }
    return json_pack("{s:I, s:I, s:o}", "pages", (json_int_t)p.count, "range-count",
                     (json_int_t)p.n_ranges, "ranges", p.ranges);
}

/* ---- for people ----------------------------------------------------------------------
 */

static char *value_text(const json_t *value)
{
    char *raw = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    char *text = json_is_null(value) ? g_strdup("(not there)")
                 : raw && strlen(raw) > SHOWN_VALUE
                     ? g_strdup_printf("%.*s...", SHOWN_VALUE, raw)
                     : g_strdup(raw ? raw : "?");

    free(raw);
    return text;
}

static void print_changes(const char *title, const json_t *changes)
{
    const char *path;
    json_t *both;

    if (json_object_size(changes))
        printf("%s:\n", title);
    json_object_foreach((json_t *)changes, path, both)
    {
        g_autofree char *a = value_text(json_array_get(both, 0));
        g_autofree char *b = value_text(json_array_get(both, 1));
        g_autofree char *clean = g_strescape(path, NULL);

        printf("  %s: %s -> %s\n", clean, a, b);
    }
}

static void print_memory(const json_t *memory)
{
    uint64_t pages = (uint64_t)json_integer_value(json_object_get(memory, "pages"));
    uint64_t n = (uint64_t)json_integer_value(json_object_get(memory, "range-count"));
    g_autofree char *size = image_size_text(pages * GM_PAGE_SIZE);
    json_t *ranges = json_object_get(memory, "ranges"), *range;
    size_t i;

    if (!pages)
        return;
    printf("memory: %" PRIu64 " pages (%s) in %" PRIu64 " places:\n", pages, size, n);
    json_array_foreach(ranges, i, range)
    {
        uint64_t first = (uint64_t)json_integer_value(json_array_get(range, 0));
        uint64_t count = (uint64_t)json_integer_value(json_array_get(range, 1));

        if (i == SHOWN_RANGES)
            break;
        printf("  0x%" PRIx64 " to 0x%" PRIx64 "\n", first * GM_PAGE_SIZE,
               (first + count) * GM_PAGE_SIZE - 1);
    }
    if (n > SHOWN_RANGES)
        printf("  ... and %" PRIu64 " more; --json has up to %d\n", n - SHOWN_RANGES,
               MAX_RANGES);
}

/* ---- the verb ------------------------------------------------------------------------
 */

static json_t *compare(const SnapshotArgs *args, const Snap *a, const Snap *b,
                       GError **error)
{
    json_t *state[2] = {state_of(a, error), NULL}, *config[2] = {NULL}, *memory = NULL;

    if (state[0] && (state[1] = state_of(b, error)) &&
        (config[0] = snap_read_json(a->folder, SNAP_CONFIG, error)) &&
        (config[1] = snap_read_json(b->folder, SNAP_CONFIG, error)))
        memory = compare_memory(args, a, b, error);
    if (memory)
        return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "a", a->name, "b", b->name,
                         "config", differences(config[0], config[1]), "state",
                         differences(state[0], state[1]), "memory", memory, "disks",
                         differences(disks_of(a), disks_of(b)));
    for (unsigned i = 0; i < 2; i++) {
        json_decref(state[i]);
        json_decref(config[i]);
    }
    return NULL;
}

static bool is_same(const json_t *d)
{
    return !json_object_size(json_object_get(d, "config")) &&
           !json_object_size(json_object_get(d, "state")) &&
           !json_object_size(json_object_get(d, "disks")) &&
           !json_integer_value(json_object_get(json_object_get(d, "memory"), "pages"));
}

bool snapshot_act_diff(void *options, char **names, int *status, GError **error)
{
    const SnapshotArgs *args = options;
    g_autoptr(Snap) a = snap_find(names[0], error);
    g_autoptr(Snap) b = a ? snap_find(names[1], error) : NULL;
    json_t *d = b ? compare(args, a, b, error) : NULL;

    if (!d)
        return false;
    *status = is_same(d) ? 0 : 1;
    if (args->common.json) {
        cli_print_json(d);
        return true;
    }
    print_changes("machine", json_object_get(d, "config"));
    print_changes("state", json_object_get(d, "state"));
    print_memory(json_object_get(d, "memory"));
    print_changes("disks", json_object_get(d, "disks"));
    if (is_same(d) && !args->common.quiet)
        puts("they are the same");
    json_decref(d);
    return true;
}
