/* hutch snapshot list: a tree, in which a diff stands below its parent. */
#include <stdio.h>
#include <string.h>

#include "src/cli/snapshot.h"

SNAPSHOT_TABLE(snapshot_list_args, SNAPSHOT_ARG_JSON,
               {IMAGE_ARG("quiet", 'q', PARAM_BOOL, quiet), .help = "print names only"});

typedef struct List {
    GPtrArray *snaps; /* Snap */
    SnapUsers *users;
    int width;
} List;

static const Snap *parent_of(const List *l, const Snap *s)
{
    for (unsigned i = 0; s->manifest && s->manifest->parent_id && i < l->snaps->len;
         i++) {
        const Snap *p = g_ptr_array_index(l->snaps, i);

        if (p != s && p->manifest && g_str_equal(p->manifest->id, s->manifest->parent_id))
            return p;
    }
    return NULL;
}

static bool parent_is_missing(const List *l, const Snap *s)
{
    g_autoptr(GPtrArray) chain = NULL;

    if (!s->manifest || !s->manifest->parent_id || parent_of(l, s))
        return false;
    chain = manifest_chain(s->folder, NULL); /* it may be somewhere else */
    return !chain;
}

/* ---- as JSON -------------------------------------------------------------------------
 */

static json_t *strings(char **list)
{
    json_t *array = json_array();

    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

static json_t *to_json(const List *l, const Snap *s)
{
    json_t *json = json_pack("{s:s, s:s, s:I}", "name", s->name, "path", s->folder,
                             "size", (json_int_t)snap_size(s->folder));
    g_auto(GStrv) users = snap_users_of(l->users, s->folder);
    const Manifest *m = s->manifest;
    const Snap *parent = parent_of(l, s);

    json_object_set_new(json, "users", strings(users));
    json_object_set_new(json, "in-use", json_boolean(store_in_use(s->folder)));
    if (!m) {
        json_object_set_new(json, "error", json_string(s->why));
        return json;
    }
    json_object_set_new(json, "id", json_string(m->id));
    if (m->parent_id)
        json_object_set_new(json, "parent-id", json_string(m->parent_id));
    if (parent)
        json_object_set_new(json, "parent", json_string(parent->name));
    if (parent_is_missing(l, s))
        json_object_set_new(json, "parent-missing", json_true());
    if (m->vm)
        json_object_set_new(json, "vm", json_string(m->vm));
    json_object_set_new(json, "created-ns", json_integer(m->created_ns));
    json_object_set_new(json, "ram-size", json_integer((json_int_t)m->ram_size));
    return json;
}

static void print_json(const List *l)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < l->snaps->len; i++)
        json_array_append_new(all, to_json(l, g_ptr_array_index(l->snaps, i)));
    cli_print_json(all);
}

/* ---- as a tree -----------------------------------------------------------------------
 */

static void print_row(const List *l, const Snap *s, const char *indent)
{
    g_autofree char *size = image_size_text(snap_size(s->folder));
    g_auto(GStrv) users = snap_users_of(l->users, s->folder);
    g_autofree char *who = g_strjoinv(", ", users);
    g_autofree char *ram = s->manifest ? image_size_text(s->manifest->ram_size) : NULL;
    g_autofree char *when = s->manifest ? snap_time_text(s->manifest->created_ns) : NULL;
    const char *note = *who                      ? who
                       : !s->manifest            ? "damaged: see 'hutch snapshot verify'"
                       : parent_is_missing(l, s) ? "its parent is missing"
                                                 : "";

    printf("%s%-*s  %-19s  %10s  %10s  %-12s  %s\n", indent,
           MAX(l->width - (int)strlen(indent), 1), s->name, when ? when : "?", size,
           ram ? ram : "?", s->manifest && s->manifest->vm ? s->manifest->vm : "-", note);
}

/* Those whose parent it is (NULL: who have none here); returns how many.  `depth` ends
 * what would go in a circle. */
static void print_below(const List *l, const Snap *parent, const char *indent,
                        unsigned depth)
{
    unsigned left = 0;

    for (unsigned i = 0; i < l->snaps->len; i++)
        left += parent_of(l, g_ptr_array_index(l->snaps, i)) == parent;
    for (unsigned i = 0; i < l->snaps->len && depth < MANIFEST_MAX_DEPTH; i++) {
        const Snap *s = g_ptr_array_index(l->snaps, i);
        g_autofree char *mine = NULL, *below = NULL;

        if (parent_of(l, s) != parent)
            continue;
        left--;
        mine = g_strconcat(indent, parent ? (left ? "|-- " : "`-- ") : "", NULL);
        below = g_strconcat(indent, parent ? (left ? "|   " : "    ") : "", NULL);
        print_row(l, s, mine);
        print_below(l, s, below, depth + 1);
    }
}

static int width_of(const List *l)
{
    int width = 12;

    for (unsigned i = 0; i < l->snaps->len; i++) {
        const Snap *s = g_ptr_array_index(l->snaps, i);
        int depth = 0;

        for (const Snap *p = s; (p = parent_of(l, p)) && depth < 10;)
            depth++;
        width = MAX(width, (int)strlen(s->name) + 4 * depth);
    }
    return width;
}

static void print_tree(List *l)
{
    l->width = width_of(l);
    printf("%-*s  %-19s  %10s  %10s  %-12s  %s\n", l->width, "NAME", "TAKEN", "ON DISK",
           "MEMORY", "OF", "IN USE BY");
    print_below(l, NULL, "", 0);
}

bool snapshot_list_store(StoreKind kind, const void *options, GError **error)
{
    const SnapshotArgs *args = options;
    g_autoptr(GPtrArray) snaps = NULL;
    List l = {0};

    if (args->common.quiet && !args->common.json) { /* completion: at each key */
        g_auto(GStrv) all = store_list(kind, error);

        for (char **name = all; name && *name; name++)
            puts(*name);
        return all != NULL;
    }
    snaps = snap_list(kind, error);
    if (!snaps)
        return false;
    l.snaps = snaps;
    l.users = snap_users_look();
    if (args->common.json)
        print_json(&l);
    else
        print_tree(&l);
    snap_users_free(l.users);
    return true;
}

bool snapshot_act_list(void *options, char **names, int *status, GError **error)
{
    return snapshot_list_store(STORE_SNAPSHOTS, options, error);
}
