/* Sets of rules: who has them, and new ones made from old ones.  Rules are shared, so
 * that those that stay go on counting.  References are atomic, for sets are made by one
 * thread and used by another; the rest is immutable but for counters. */
#include "src/firewall/rules.h"

Rule *rule_new(void)
{
    Rule *rule = g_new0(Rule, 1);

    rule->refs = 1;
    rule->proto = PROTO_ANY;
    return rule;
}

Rule *rule_ref(Rule *rule)
{
    __atomic_add_fetch(&rule->refs, 1, __ATOMIC_RELAXED);
    return rule;
}

void rule_unref(Rule *rule)
{
    if (!rule || __atomic_sub_fetch(&rule->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    for (unsigned end = 0; end < ENDS; end++) {
        g_clear_pointer(&rule->who[end], g_array_unref);
        g_clear_pointer(&rule->ports[end], g_array_unref);
    }
    g_clear_pointer(&rule->types, g_array_unref);
    bpf_filter_free(rule->filter);
    g_free(rule->match);
    g_free(rule);
}

static void rule_unref_item(gpointer opaque)
{
    rule_unref(opaque);
}

Firewall *set_new(const char *origin)
{
    Firewall *fw = g_new0(Firewall, 1);

    fw->refs = 1;
    fw->origin = g_strdup(origin);
    fw->rules = g_ptr_array_new_with_free_func(rule_unref_item);
    for (unsigned i = 0; i < G_N_ELEMENTS(fw->defaults); i++) {
        fw->defaults[i] = rule_new();
        fw->defaults[i]->is_default = true;
        fw->defaults[i]->direction = (FwDirection)i;
    }
    return fw;
}

_Static_assert(RULES_MAX == 4096 && RULES_MAX_FILTERS == 64, "as set_add() says");

const char *set_add(Firewall *fw, unsigned at, Rule *rule)
{
    const char *full = NULL;

    if (rule->is_default) {
        rule_unref(fw->defaults[rule->direction]);
        fw->defaults[rule->direction] = rule;
        return NULL;
    }
    if (fw->rules->len >= RULES_MAX)
        full = "a set has 4096 rules at most";
    else if (rule->filter && fw->filters >= RULES_MAX_FILTERS)
        full = "a set has 64 rules with 'match' at most";
    if (full) {
        rule_unref(rule);
        return full;
    }
    fw->filters += rule->filter != NULL;
    g_ptr_array_insert(fw->rules, at < fw->rules->len ? (int)at : -1, rule);
    return NULL;
}

static bool has_name(const Rule *rule)
{
    for (unsigned i = 0; rule->who[END_TO] && i < rule->who[END_TO]->len; i++) {
        if (g_array_index(rule->who[END_TO], Who, i).kind == WHO_NAME)
            return true;
    }
    return false;
}

Firewall *set_complete(Firewall *fw)
{
    for (unsigned i = 0; i < fw->rules->len; i++) {
        const Rule *rule = fw->rules->pdata[i];

        fw->names |= rule->allow && has_name(rule);
    }
    fw->index = index_new(fw);
    return fw;
}

Firewall *firewall_ref(Firewall *fw)
{
    __atomic_add_fetch(&fw->refs, 1, __ATOMIC_RELAXED);
    return fw;
}

void firewall_unref(Firewall *fw)
{
    if (!fw || __atomic_sub_fetch(&fw->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    index_free(fw->index);
    g_ptr_array_unref(fw->rules);
    for (unsigned i = 0; i < G_N_ELEMENTS(fw->defaults); i++)
        rule_unref(fw->defaults[i]);
    g_free(fw->origin);
    g_free(fw);
}

bool firewall_has_names(const Firewall *fw)
{
    return fw->names;
}

/* The same rules, without number `but`. */
static Firewall *copy_but(const Firewall *fw, unsigned but)
{
    Firewall *copy = set_new(fw->origin);

    for (unsigned i = 0; i < G_N_ELEMENTS(fw->defaults); i++)
        set_add(copy, 0, rule_ref(fw->defaults[i]));
    for (unsigned i = 0; i < fw->rules->len; i++) {
        if (i != but)
            set_add(copy, UINT_MAX, rule_ref(fw->rules->pdata[i]));
    }
    return copy;
}

Firewall *firewall_with(const Firewall *fw, unsigned at, const char *rule, GError **error)
{
    g_autoptr(Rule) parsed = NULL;
    g_autoptr(Firewall) copy = NULL;
    const char *bad, *full;

    if (strnlen(rule, RULES_MAX_TEXT) >= RULES_MAX_TEXT ||
        !g_utf8_validate(rule, -1, &bad) || strchr(rule, '\n')) {
        fail(error, VM_ERROR_INVALID, "rule:1:1: one line of UTF-8 has to stand here");
        return NULL;
    }
    parsed = rule_parse_line("rule", 1, rule, rule + strlen(rule), error);
    if (!parsed)
        return NULL;
    if (at != UINT_MAX && at > fw->rules->len) {
        fail(error, VM_ERROR_INVALID,
             "a new rule's number can be from 1 to %u; not %" G_GUINT64_FORMAT,
             fw->rules->len + 1, (uint64_t)at + 1);
        return NULL;
    }
    copy = copy_but(fw, UINT_MAX);
    full = set_add(copy, at, g_steal_pointer(&parsed));
    if (full) {
        fail(error, VM_ERROR_INVALID, "%s; remove one first", full);
        return NULL;
    }
    return set_complete(g_steal_pointer(&copy));
}

Firewall *firewall_without(const Firewall *fw, unsigned at, GError **error)
{
    if (at >= fw->rules->len) {
        fail(error, VM_ERROR_NOT_FOUND,
             "there is no rule %" G_GUINT64_FORMAT ": there are %u", (uint64_t)at + 1,
             fw->rules->len); /* as people count */
        return NULL;
    }
    return set_complete(copy_but(fw, at));
}
