/* A set's text: what firewall_parse() reads to the same. */
#include "src/firewall/rules.h"

typedef char *ItemText(const void *item, const Rule *rule);

static char *who_text(const void *item, const Rule *rule)
{
    return clause_who_text(item);
}

static char *ports_text(const void *item, const Rule *rule)
{
    return clause_ports_text(item);
}

static char *type_text(const void *item, const Rule *rule)
{
    return clause_type_text(item, rule);
}

/* " port 22, 80-99"; nothing if there is no such list. */
static void print_list(const Rule *rule, const char *clause, const GArray *array,
                       ItemText *text, GString *to)
{
    for (unsigned i = 0; array && i < array->len; i++) {
        g_autofree char *item = text(
            array->data + i * g_array_get_element_size((GArray *)array), rule);

        g_string_append_printf(to, "%s%s%s", i ? ", " : " ", i ? "" : clause,
                               i ? "" : " ");
        g_string_append(to, item);
    }
}

void rule_print(const Rule *rule, GString *to)
{
    const char *action = clause_action_text(rule);
    g_autofree char *proto = clause_proto_text(rule);

    if (rule->is_default)
        g_string_append_printf(to, "default %s %s", fw_direction_names[rule->direction],
                               action);
    else
        g_string_append_printf(to, "%s %s", action, fw_direction_names[rule->direction]);
    if (proto)
        g_string_append_printf(to, " %s%s", g_ascii_isdigit(proto[0]) ? "proto " : "",
                               proto);
    print_list(rule, "from", rule->who[END_FROM], who_text, to);
    print_list(rule, "to", rule->who[END_TO], who_text, to);
    print_list(rule, "port", rule->ports[END_TO], ports_text, to);
    print_list(rule, "from-port", rule->ports[END_FROM], ports_text, to);
    print_list(rule, "type", rule->types, type_text, to);
    if (rule->match) {
        g_string_append(to, " match \"");
        for (const char *at = rule->match; *at; at++) {
            if (*at == '"' || *at == '\\')
                g_string_append_c(to, '\\');
            g_string_append_c(to, *at);
        }
        g_string_append_c(to, '"');
    }
    if (rule->log)
        g_string_append(to, " log");
}

char *firewall_text(const Firewall *fw)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(fw->defaults); i++) {
        rule_print(fw->defaults[i], text);
        g_string_append_c(text, '\n');
    }
    for (unsigned i = 0; i < fw->rules->len; i++) {
        rule_print(fw->rules->pdata[i], text);
        g_string_append_c(text, '\n');
    }
    return g_string_free(text, FALSE);
}
