/* The same rules as JSON, for programs:
 *
 *     {"default": {"in": {"action": "deny", "log": true}, "out": "allow"},
 *      "rules": [{"action": "allow", "direction": "in", "proto": "tcp",
 *                 "from": ["10.0.0.0/8", "vm web"], "to": "any", "port": [22, "80-99"],
 *                 "from-port": [...], "type": [...], "match": "...", "log": true}]}
 *
 * A list of one may be written without its brackets.  What is in the strings is read by
 * the functions that read text.  "packets" and "bytes" are ours to tell: read, they are
 * left out.  Errors of form have a line and a column, others the member's path. */
#include "src/firewall/rules.h"

/* ---- from JSON -----------------------------------------------------------------------
 */

typedef bool ParseClause(Lexer *lex, Rule *rule, GError **error);

/* What a string, a number, or an array of those says, with commas between the items. */
static char *joined(const json_t *value)
{
    GString *s = g_string_new(NULL);
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    bool ok = n > 0;

    for (size_t i = 0; i < n && ok; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;

        if (i)
            g_string_append(s, ", ");
        if (json_is_string(item))
            g_string_append(s, json_string_value(item));
        else if (json_is_integer(item))
            g_string_append_printf(s, "%" JSON_INTEGER_FORMAT, json_integer_value(item));
        else
            ok = false;
    }
    if (ok)
        return g_string_free(s, FALSE);
    g_string_free(s, TRUE);
    return NULL;
}

/* Lets a clause's function read one member of a rule. */
static bool read_member(const char *where, const char *key, const json_t *value,
                        ParseClause *parse, Rule *rule, GError **error)
{
    g_autofree char *path = g_strdup_printf("%s.%s", where, key);
    g_autofree char *text = joined(value);
    bool match = g_str_equal(key, "match"), ok;
    Lexer lex = {0};

    if (!text || (match && !json_is_string(value)))
        return fail(error, VM_ERROR_INVALID, "%s: a string has to stand here%s", path,
                    match ? "" : ", a number, or a list of such that is not empty");
    if (match)
        lexer_init_string(&lex, path, text);
    ok = (match || lexer_init(&lex, path, 0, text, text + strlen(text), error)) &&
         parse(&lex, rule, error);
    if (ok && lex.kind != TOKEN_END)
        ok = lexer_fail(&lex, error, "%s stands where nothing more can",
                        lexer_said(&lex));
    lexer_clear(&lex);
    return ok;
}

static bool read_log(const char *where, const json_t *value, Rule *rule, GError **error)
{
    if (!json_is_boolean(value))
        return fail(error, VM_ERROR_INVALID, "%s.log: true or false has to stand here",
                    where);
    rule->log = json_is_true(value);
    return true;
}

static bool is_ours(const char *key)
{
    return g_str_equal(key, "packets") || g_str_equal(key, "bytes");
}

static const Clause heads[] = {
    {"action", clause_action}, {"direction", clause_direction}, {}};

static ParseClause *find_clause(const Clause *among, const char *key)
{
    for (; among->name; among++) {
        if (g_str_equal(among->name, key))
            return among->parse;
    }
    return NULL;
}

static Rule *read_rule(const char *where, json_t *object, GError **error)
{
    g_autoptr(Rule) rule = rule_new();
    const char *key, *wrong;
    json_t *value;

    if (!json_is_object(object) || !json_object_get(object, "action") ||
        !json_object_get(object, "direction")) {
        fail(error, VM_ERROR_INVALID,
             "%s: an object with \"action\" and \"direction\" has to stand here", where);
        return NULL;
    }
    json_object_foreach(object, key, value)
    {
        ParseClause *parse = find_clause(heads, key);

        if (!parse)
            parse = find_clause(clauses, key);
        if (is_ours(key))
            continue;
        if (g_str_equal(key, "log")
                ? !read_log(where, value, rule, error)
                : parse && !read_member(where, key, value, parse, rule, error))
            return NULL;
        if (!parse && !g_str_equal(key, "log")) {
            fail(error, VM_ERROR_INVALID,
                 "%s: there is no \"%.64s\"; \"action\", \"direction\", \"proto\", "
                 "\"from\", \"to\", \"port\", \"from-port\", \"type\", \"match\" and "
                 "\"log\" can stand here",
                 where, key);
            return NULL;
        }
    }
    wrong = rule_wrong(rule);
    if (!wrong)
        return g_steal_pointer(&rule);
    fail(error, VM_ERROR_INVALID, "%s: %s", where, wrong);
    return NULL;
}

/* "deny", "reject", or {"action": "deny", "log": true} */
static Rule *read_default(const char *where, FwDirection direction, json_t *value,
                          GError **error)
{
    g_autoptr(Rule) rule = rule_new();
    json_t *action = json_is_object(value) ? json_object_get(value, "action") : value;
    const char *key;
    json_t *member;

    rule->is_default = true;
    rule->direction = direction;
    if (!json_is_string(action)) {
        fail(error, VM_ERROR_INVALID,
             "%s: \"allow\", \"deny\" or \"reject\" has to stand here", where);
        return NULL;
    }
    json_object_foreach(json_is_object(value) ? value : NULL, key, member)
    {
        if (g_str_equal(key, "log")) {
            if (!read_log(where, member, rule, error))
                return NULL;
        } else if (!g_str_equal(key, "action") && !is_ours(key)) {
            fail(error, VM_ERROR_INVALID,
                 "%s: there is no \"%.64s\"; \"action\" and \"log\" can stand here",
                 where, key);
            return NULL;
        }
    }
    return read_member(where, "action", action, clause_action, rule, error)
               ? g_steal_pointer(&rule)
               : NULL;
}

static bool read_defaults(Firewall *fw, json_t *defaults, GError **error)
{
    const char *key;
    json_t *value;

    if (defaults && !json_is_object(defaults))
        return fail(error, VM_ERROR_INVALID,
                    "%s: default: an object with \"in\" and \"out\" has to stand here",
                    fw->origin);
    json_object_foreach(defaults, key, value)
    {
        bool in = g_str_equal(key, "in");
        g_autofree char *where = g_strdup_printf("%s: default.%.64s", fw->origin, key);

        if (!in && !g_str_equal(key, "out"))
            return fail(error, VM_ERROR_INVALID,
                        "%s: there are two directions, \"in\" and \"out\"", where);
        Rule *rule = read_default(where, in ? FW_IN : FW_OUT, value, error);
        if (!rule)
            return false;
        set_add(fw, 0, rule);
    }
    return true;
}

static bool read_rules(Firewall *fw, json_t *rules, GError **error)
{
    if (rules && !json_is_array(rules))
        return fail(error, VM_ERROR_INVALID,
                    "%s: rules: a list of rules has to stand here", fw->origin);
    for (size_t i = 0; i < json_array_size(rules); i++) {
        g_autofree char *where = g_strdup_printf("%s: rules[%zu]", fw->origin, i);
        Rule *rule = read_rule(where, json_array_get(rules, i), error);
        const char *full;

        if (!rule)
            return false;
        full = set_add(fw, UINT_MAX, rule);
        if (full)
            return fail(error, VM_ERROR_INVALID, "%s: %s", where, full);
    }
    return true;
}

Firewall *set_from_json(const char *text, const char *origin, GError **error)
{
    json_error_t cause;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &cause);
    g_autoptr(Firewall) fw = set_new(origin);
    const char *key;
    json_t *value;
    bool ok = root != NULL;

    if (!root)
        fail(error, VM_ERROR_INVALID, "%s:%d:%d: this is not JSON: %s", origin,
             cause.line, cause.column, cause.text);
    json_object_foreach(root, key, value)
    {
        if (ok && !g_str_equal(key, "default") && !g_str_equal(key, "rules"))
            ok = fail(
                error, VM_ERROR_INVALID,
                "%s: there is no \"%.64s\"; \"default\" and \"rules\" can stand here",
                origin, key);
    }
    ok = ok && read_defaults(fw, json_object_get(root, "default"), error) &&
         read_rules(fw, json_object_get(root, "rules"), error);
    json_decref(root);
    return ok ? set_complete(g_steal_pointer(&fw)) : NULL;
}

/* ---- to JSON -------------------------------------------------------------------------
 */

/* Takes the text, which may be NULL: then there is no such member. */
static void set_text(json_t *object, const char *key, char *text)
{
    if (text)
        json_object_set_new(object, key, json_string(text));
    g_free(text);
}

static void append_text(json_t *array, char *text)
{
    json_array_append_new(array, json_string(text));
    g_free(text);
}

static void set_whos(json_t *object, const char *key, const GArray *whos)
{
    json_t *list = whos ? json_array() : NULL;

    for (unsigned i = 0; whos && i < whos->len; i++)
        append_text(list, clause_who_text(&g_array_index(whos, Who, i)));
    if (list)
        json_object_set_new(object, key, list);
}

static void set_ports(json_t *object, const char *key, const GArray *ports)
{
    json_t *list = ports ? json_array() : NULL;

    for (unsigned i = 0; ports && i < ports->len; i++)
        append_text(list, clause_ports_text(&g_array_index(ports, Ports, i)));
    if (list)
        json_object_set_new(object, key, list);
}

static void set_types(json_t *object, const char *key, const Rule *rule)
{
    json_t *list = rule->types ? json_array() : NULL;

    for (unsigned i = 0; rule->types && i < rule->types->len; i++)
        append_text(list,
                    clause_type_text(&g_array_index(rule->types, IcmpType, i), rule));
    if (list)
        json_object_set_new(object, key, list);
}

static json_t *rule_json(const Rule *rule)
{
    json_t *object = json_object();

    set_text(object, "action", g_strdup(clause_action_text(rule)));
    if (!rule->is_default)
        set_text(object, "direction", g_strdup(fw_direction_names[rule->direction]));
    set_text(object, "proto", clause_proto_text(rule));
    set_whos(object, "from", rule->who[END_FROM]);
    set_whos(object, "to", rule->who[END_TO]);
    set_ports(object, "port", rule->ports[END_TO]);
    set_ports(object, "from-port", rule->ports[END_FROM]);
    set_types(object, "type", rule);
    set_text(object, "match", g_strdup(rule->match));
    if (rule->log)
        json_object_set_new(object, "log", json_true());
    json_object_set_new(object, "packets", json_integer((json_int_t)rule->count.packets));
    json_object_set_new(object, "bytes", json_integer((json_int_t)rule->count.bytes));
    return object;
}

json_t *firewall_to_json(const Firewall *fw)
{
    json_t *rules = json_array();

    for (unsigned i = 0; i < fw->rules->len; i++)
        json_array_append_new(rules, rule_json(fw->rules->pdata[i]));
    return json_pack("{s:{s:o, s:o}, s:o}", "default", "in",
                     rule_json(fw->defaults[FW_IN]), "out",
                     rule_json(fw->defaults[FW_OUT]), "rules", rules);
}
