/* The tables that hutch really has, and what query-qmp-schema makes of them. */
#include "control/control.h"

static GHashTable *entries; /* name -> json_t, of the schema */

static json_t *entry(const char *name, const char *meta)
{
    json_t *e = name ? g_hash_table_lookup(entries, name) : NULL;

    if (!e)
        g_error("'%s' is referred to and not there", name);
    if (meta)
        g_assert_cmpstr(json_string_value(json_object_get(e, "meta-type")), ==, meta);
    return e;
}

static const char *text_of(json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static void check_members(json_t *e)
{
    json_t *member;
    size_t i;

    json_array_foreach(json_object_get(e, "members"), i, member)
    {
        g_assert_nonnull(text_of(member, "name"));
        entry(text_of(member, "type"), NULL);
    }
}

static void check_enum(json_t *e)
{
    json_t *values = json_object_get(e, "values"),
           *members = json_object_get(e, "members");
    size_t i;
    json_t *v;

    g_assert_cmpuint(json_array_size(values), >, 0);
    g_assert_cmpuint(json_array_size(values), ==, json_array_size(members));
    json_array_foreach(values, i, v) g_assert_cmpstr(
        json_string_value(v), ==, text_of(json_array_get(members, i), "name"));
}

static void every_type_that_is_referred_to_is_there_once(void)
{
    json_t *schema = control_schema(), *e;
    size_t i;

    g_assert_cmpuint(g_hash_table_size(entries), ==, json_array_size(schema));
    json_array_foreach(schema, i, e)
    {
        const char *meta = text_of(e, "meta-type");

        if (g_str_equal(meta, "command") || g_str_equal(meta, "event"))
            entry(text_of(e, "arg-type"), "object");
        if (g_str_equal(meta, "command"))
            entry(text_of(e, "ret-type"), NULL);
        if (g_str_equal(meta, "array"))
            entry(text_of(e, "element-type"), NULL);
        if (g_str_equal(meta, "object"))
            check_members(e);
        if (g_str_equal(meta, "enum"))
            check_enum(e);
        if (g_str_equal(meta, "builtin"))
            g_assert_nonnull(text_of(e, "json-type"));
    }
    json_decref(schema);
}

static void check_arguments(const ControlCommand *c, json_t *object)
{
    json_t *members = json_object_get(object, "members");
    size_t i = 0;

    for (const ParamDesc *d = c->args ? c->args->desc : NULL; d && d->key; d++)
        g_assert_cmpstr(text_of(json_array_get(members, i++), "name"), ==, d->key);
    g_assert_cmpuint(json_array_size(members), ==, i);
}

static void every_command_and_event_of_the_tables_is_in_it(void)
{
    for (const ControlTable *const *t = control_tables; *t; t++) {
        for (const ControlCommand *c = (*t)->commands; c->name; c++) {
            json_t *e = g_hash_table_lookup(entries, c->name);

            g_assert_true(!e == !!c->refused);
            g_assert_true(!c->run == !!c->refused);
            if (e)
                check_arguments(c, entry(text_of(e, "arg-type"), "object"));
        }
        for (const ControlEvent *e = (*t)->events; e->name; e++)
            entry(e->name, "event");
    }
}

static void a_command_stands_in_one_table_only(void)
{
    for (const ControlTable *const *t = control_tables; *t; t++)
        for (const ControlCommand *c = (*t)->commands; c->name; c++)
            g_assert_true(control_command(c->name) == c);
    g_assert_null(control_command("no-such"));
}

static void members_that_may_be_left_out_have_a_default(void)
{
    json_t *args = entry(text_of(entry("qmp_capabilities", "command"), "arg-type"), NULL);
    json_t *enable = json_array_get(json_object_get(args, "members"), 0);

    g_assert_cmpstr(text_of(enable, "name"), ==, "enable");
    g_assert_cmpstr(text_of(enable, "type"), ==, "[str]");
    g_assert_true(json_is_null(json_object_get(enable, "default")));
    g_assert_cmpstr(text_of(entry("[str]", "array"), "element-type"), ==, "str");
}

/* ---- what commands return is what the schema says -------------------------------------
 */

static bool matches(const ControlType *type, json_t *value)
{
    bool found = false;
    json_t *item;
    size_t i;

    if (!type)
        return json_is_object(value) && !json_object_size(value);
    if (type->kind == CONTROL_BUILTIN)
        return type == &control_any || (type == &control_str && json_is_string(value)) ||
               (type == &control_int && json_is_integer(value)) ||
               (type == &control_number && json_is_number(value)) ||
               (type == &control_bool && json_is_boolean(value));
    if (type->kind == CONTROL_ENUM)
        return json_is_string(value) &&
               g_strv_contains(type->values, json_string_value(value));
    if (type->kind == CONTROL_ARRAY) {
        found = json_is_array(value);
        json_array_foreach(value, i, item) found &= matches(type->element, item);
        return found;
    }
    i = 0;
    for (const ControlMember *m = type->members; m->name; m++) {
        item = json_object_get(value, m->name);
        if (item ? !matches(m->type, item) : !m->optional)
            return false;
        i += item != NULL;
    }
    return json_object_size(value) == i;
}

static void what_commands_return_is_what_the_schema_says(void)
{
    static const char *const commands[] = {"query-version", "query-commands",
                                           "query-events", "query-qmp-schema",
                                           "query-kvm"};

    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        const ControlCommand *c = control_command(commands[i]);
        json_t *value = c->run(&(ControlCall){0}, NULL);

        g_assert_true(matches(c->ret, value));
        json_decref(value);
    }
}

int main(int argc, char **argv)
{
    json_t *schema = control_schema(), *e;
    size_t i;
    int status;

    g_test_init(&argc, &argv, NULL);
    entries = g_hash_table_new(g_str_hash, g_str_equal);
    json_array_foreach(schema, i, e)
        g_hash_table_insert(entries, (void *)text_of(e, "name"), e);
#define TEST(name) g_test_add_func("/control/schema/" #name, name)
    TEST(every_type_that_is_referred_to_is_there_once);
    TEST(every_command_and_event_of_the_tables_is_in_it);
    TEST(a_command_stands_in_one_table_only);
    TEST(members_that_may_be_left_out_have_a_default);
    TEST(what_commands_return_is_what_the_schema_says);
    status = g_test_run();
    g_hash_table_destroy(entries);
    json_decref(schema);
    return status;
}
