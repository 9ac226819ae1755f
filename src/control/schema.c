/* query-qmp-schema: the command and event tables as QAPI introspection writes them
 * (QEMU's docs/devel/qapi-code-gen, "Client JSON Protocol introspection").  Types but
 * builtins have no names there that mean anything; ours are numbers, too. */
#include "control/control.h"

const ControlType control_str = {.name = "str", .json = "string"};
const ControlType control_int = {.name = "int", .json = "int"};
const ControlType control_number = {.name = "number", .json = "number"};
const ControlType control_bool = {.name = "bool", .json = "boolean"};
const ControlType control_any = {.name = "any", .json = "value"};

typedef struct Writer {
    json_t *out;
    GHashTable *names;  /* of what is written: ControlType, ParamTable, choices */
    GHashTable *arrays; /* likewise, by their elements */
    unsigned next;
} Writer;

static const char *write_type(Writer *w, const ControlType *type);

/* The name of what is described at `key`; *is_new: it is still to be written. */
static const char *name_in(Writer *w, GHashTable *names, const void *key,
                           const char *fixed, bool *is_new)
{
    char *name = g_hash_table_lookup(names, key);

    *is_new = !name;
    if (!name) {
        name = fixed ? g_strdup(fixed) : g_strdup_printf("%u", w->next++);
        g_hash_table_insert(names, (void *)key, name);
    }
    return name;
}

static const char *name_of(Writer *w, const void *key, const char *fixed, bool *is_new)
{
    return name_in(w, w->names, key, fixed, is_new);
}

static void put(Writer *w, json_t *entry)
{
    json_array_append_new(w->out, entry);
}

static void put_enum(Writer *w, const char *name, const char *const *values)
{
    json_t *list = json_array(), *members = json_array();

    for (; *values; values++) {
        json_array_append_new(list, json_string(*values));
        json_array_append_new(members, json_pack("{s:s}", "name", *values));
    }
    put(w, json_pack("{s:s, s:o, s:o, s:s}", "name", name, "members", members, "values",
                     list, "meta-type", "enum"));
}

static void put_object(Writer *w, const char *name, json_t *members)
{
    put(w, json_pack("{s:s, s:o, s:s}", "name", name, "members", members, "meta-type",
                     "object"));
}

static void add_member(json_t *members, const char *name, const char *type, bool optional)
{
    json_t *member = json_pack("{s:s, s:s}", "name", name, "type", type);

    if (optional)
        json_object_set_new(member, "default", json_null());
    json_array_append_new(members, member);
}

/* ---- what commands return and events carry --------------------------------------------
 */

static json_t *members_of(Writer *w, const ControlType *type)
{
    json_t *members = json_array();

    for (const ControlMember *m = type->members; m && m->name; m++)
        add_member(members, m->name, write_type(w, m->type), m->optional);
    return members;
}

static const char *write_array(Writer *w, const ControlType *element)
{
    const char *of = write_type(w, element);
    g_autofree char *fixed = g_strdup_printf("[%s]", of);
    bool is_new;
    const char *name = name_in(w, w->arrays, element, fixed, &is_new);

    if (is_new)
        put(w, json_pack("{s:s, s:s, s:s}", "name", name, "element-type", of, "meta-type",
                         "array"));
    return name;
}

static const char *write_type(Writer *w, const ControlType *type)
{
    static const ControlType nothing = {.kind = CONTROL_OBJECT};
    bool is_new;
    const char *name;

    if (!type)
        type = &nothing;
    if (type->kind == CONTROL_ARRAY)
        return write_array(w, type->element);
    name = name_of(w, type, type->name, &is_new);
    if (!is_new)
        return name;
    if (type->kind == CONTROL_OBJECT)
        put_object(w, name, members_of(w, type));
    else if (type->kind == CONTROL_ENUM)
        put_enum(w, name, type->values);
    else
        put(w, json_pack("{s:s, s:s, s:s}", "name", name, "json-type", type->json,
                         "meta-type", "builtin"));
    return name;
}

/* ---- what commands take ---------------------------------------------------------------
 */

static const char *write_choices(Writer *w, const char *const *choices)
{
    bool is_new;
    const char *name = name_of(w, choices, NULL, &is_new);

    if (is_new)
        put_enum(w, name, choices);
    return name;
}

static const char *write_param(Writer *w, const ParamDesc *desc)
{
    switch (desc->type) {
    case PARAM_STRING:
    case PARAM_PATH:
    case PARAM_MAC:
        return write_type(w, &control_str);
    case PARAM_BOOL:
        return write_type(w, &control_bool);
    case PARAM_UINT:
    case PARAM_SIZE:
        return write_type(w, &control_int);
    case PARAM_ENUM:
        return write_choices(w, desc->choices);
    case PARAM_LIST:
        return write_array(w, &control_str);
    case PARAM_JSON:
        break;
    }
    return write_type(w, &control_any);
}

static const char *write_table(Writer *w, const ParamTable *table)
{
    json_t *members;
    const char *name;
    bool is_new;

    if (!table)
        return write_type(w, NULL);
    name = name_of(w, table, NULL, &is_new);
    if (!is_new)
        return name;
    members = json_array();
    for (const ParamDesc *desc = table->desc; desc->key; desc++)
        add_member(members, desc->key, write_param(w, desc), !desc->required);
    put_object(w, name, members);
    return name;
}

static void write_command(Writer *w, const ControlCommand *c)
{
    put(w, json_pack("{s:s, s:s, s:s, s:s}", "name", c->name, "arg-type",
                     write_table(w, c->args), "ret-type", write_type(w, c->ret),
                     "meta-type", "command"));
}

static void write_event(Writer *w, const ControlEvent *e)
{
    put(w, json_pack("{s:s, s:s, s:s}", "name", e->name, "arg-type",
                     write_type(w, e->data), "meta-type", "event"));
}

json_t *control_schema(void)
{
    Writer w = {.out = json_array(),
                .names = g_hash_table_new_full(NULL, NULL, NULL, g_free),
                .arrays = g_hash_table_new_full(NULL, NULL, NULL, g_free)};

    for (const ControlTable *const *t = control_tables; *t; t++) {
        for (const ControlCommand *c = (*t)->commands; c->name; c++)
            if (!c->refused)
                write_command(&w, c);
        for (const ControlEvent *e = (*t)->events; e->name; e++)
            write_event(&w, e);
    }
    g_hash_table_destroy(w.names);
    g_hash_table_destroy(w.arrays);
    return w.out;
}
