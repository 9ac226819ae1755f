/* See src/control/parts.h. */
#include "src/control/parts.h"

enum { MAX_PARTS = 256 };

static const struct {
    const char *device, *property, *noun;
} kinds[] = {
    [PART_DISK] = {"blk", "drive", "node"},
    [PART_NET] = {"net", "netdev", "netdev"},
    [PART_CHARDEV] = {"console", "chardev", "chardev"},
};

/* What device_add takes of a part: "drive" of a disk.  NULL: that device takes none. */
static const char *property_of(const VirtioOps *ops, PartKind *ret_kind)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (g_str_equal(kinds[i].device, ops->name)) {
            *ret_kind = i;
            return kinds[i].property;
        }
    return NULL;
}

Part *parts_find(const Parts *p, PartKind kind, const char *name)
{
    for (Part *part = p->first; part; part = part->next)
        if (part->kind == kind && g_str_equal(part->name, name))
            return part;
    return NULL;
}

const Part *parts_of(const Parts *p, PartKind kind, const char *id)
{
    for (const Part *part = p->first; part; part = part->next)
        if (part->kind == kind && part->user && g_str_equal(part->user, id))
            return part;
    return NULL;
}

static void part_free(Part *part)
{
    json_decref(part->options);
    json_decref(part->info);
    g_free(part->name);
    g_free(part->below);
    g_free(part->user);
    g_free(part);
}

/* ---- making ---------------------------------------------------------------------------
 */

static bool may_add(const Parts *p, PartKind kind, const char *name, GError **error)
{
    if (!*name)
        return fail(error, VM_ERROR_INVALID, "the name of a %s is empty",
                    kinds[kind].noun);
    if (parts_find(p, kind, name))
        return fail(error, VM_ERROR_INVALID, "there is a %s '%s' already",
                    kinds[kind].noun, name);
    return p->n < MAX_PARTS ||
           fail(error, VM_ERROR_INVALID,
                "there are %u nodes, netdevs and chardevs already; remove some",
                MAX_PARTS);
}

Part *parts_add(Parts *p, PartKind kind, const char *name, json_t *options, json_t *info,
                GError **error)
{
    Part *part = g_new0(Part, 1);

    *part = (Part){.kind = kind,
                   .name = g_strdup(name),
                   .options = options,
                   .info = info,
                   .next = p->first};
    if (!may_add(p, kind, name, error)) {
        part_free(part);
        return NULL;
    }
    p->first = part;
    p->n++;
    return part;
}

/* ---- removing -------------------------------------------------------------------------
 */

bool part_is_used(const Part *part, Machine *m)
{
    return part->user && machine_find_device(m, part->user);
}

static const Part *made_over(const Parts *p, const Part *below)
{
    for (const Part *part = p->first; part; part = part->next)
        if (part->kind == below->kind && part->below &&
            g_str_equal(part->below, below->name))
            return part;
    return NULL;
}

const ParamTable part_args = {
    .size = sizeof(PartArgs),
    .desc = (const ParamDesc[]){{.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(PartArgs, id),
                                 .help = "its name",
                                 .required = true},
                                {0}},
};

bool parts_remove(Parts *p, Machine *m, PartKind kind, const char *name, GError **error)
{
    Part *part = parts_find(p, kind, name);
    Part **at = &p->first;

    if (!part)
        return fail(error, VM_ERROR_NOT_FOUND, "there is no %s '%s'", kinds[kind].noun,
                    name);
    if (part_is_used(part, m))
        return fail(error, VM_ERROR_BUSY,
                    "%s '%s' is that of device '%s'; remove that first", kinds[kind].noun,
                    name, part->user);
    if (made_over(p, part))
        return fail(error, VM_ERROR_BUSY, "node '%s' was made over '%s'; remove it first",
                    made_over(p, part)->name, name);
    while (*at != part)
        at = &(*at)->next;
    *at = part->next;
    p->n--;
    part_free(part);
    return true;
}

void parts_clear(Parts *p)
{
    while (p->first) {
        Part *part = p->first;

        p->first = part->next;
        part_free(part);
    }
    p->n = 0;
}

/* ---- for a device ---------------------------------------------------------------------
 */

static bool fill_in(const Part *part, json_t *properties, GError **error)
{
    const char *key;
    json_t *value;

    json_object_foreach(part->options, key, value)
    {
        if (json_object_get(properties, key))
            return fail(error, VM_ERROR_INVALID, "'%s' is what %s '%s' has to say", key,
                        kinds[part->kind].noun, part->name);
        json_object_set(properties, key, value);
    }
    return true;
}

bool parts_take(Parts *p, Machine *m, const VirtioOps *ops, json_t *properties,
                Part **ret, GError **error)
{
    PartKind kind;
    const char *property = property_of(ops, &kind);
    json_t *given = property ? json_object_get(properties, property) : NULL;
    const char *name = json_string_value(given);
    Part *part;

    *ret = NULL;
    if (!given)
        return true;
    if (!name)
        return fail(error, VM_ERROR_INVALID, "%s: the name of a %s is wanted", property,
                    kinds[kind].noun);
    part = parts_find(p, kind, name);
    if (!part)
        return fail(error, VM_ERROR_INVALID, "%s: there is no %s '%s'", property,
                    kinds[kind].noun, name);
    if (part_is_used(part, m))
        return fail(error, VM_ERROR_BUSY, "%s '%s' is that of device '%s' already",
                    kinds[kind].noun, name, part->user);
    json_object_del(properties, property);
    *ret = part;
    return fill_in(part, properties, error);
}

void parts_taken(Parts *p, Part *part, const char *id)
{
    for (Part *other = p->first; other; other = other->next)
        if (other->user && g_str_equal(other->user, id))
            g_clear_pointer(&other->user, g_free);
    if (part) {
        g_free(part->user);
        part->user = g_strdup(id);
    }
}
