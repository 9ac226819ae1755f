/* The commands about rules and flows; docs/networks.md says what they take and return. */
#include <limits.h>
#include <stdlib.h>

#include "src/switch/control.h"
#include "src/switch/rules.h"
#include "src/switch/rules_test.h"
#include "util/json.h"

/* *ret is the port that is named, or NULL for the network; false: there is none such. */
static bool find_whose(Switch *sw, const json_t *arguments, Port **ret, GError **error)
{
    *ret = NULL;
    return !command_names_port(arguments) || (*ret = command_port(sw, arguments, error));
}

static json_t *show(Switch *sw, const Port *port)
{
    const Firewall *fw = port ? port->rules : sw->rules;
    g_autofree char *text = fw ? firewall_text(fw) : NULL;

    return json_pack("{s:s?, s:o}", "text", text, "json",
                     fw ? firewall_to_json(fw) : json_null());
}

/* Takes the reference; NULL with an error set before is passed on. */
static json_t *set_and_show(Switch *sw, Port *port, Firewall *fw, GError **error)
{
    return rules_set(sw, port, fw, error) ? show(sw, port) : NULL;
}

static json_t *firewall_show(Switch *sw, json_t *arguments, GError **error)
{
    Port *port;

    return find_whose(sw, arguments, &port, error) ? show(sw, port) : NULL;
}

/* Verdicts name whose rules decided. */
static Firewall *parse(const Port *port, const char *text, GError **error)
{
    g_autofree char *whose = port && port->vm
                                 ? g_strdup_printf("%s:%s", port->vm,
                                                   port->nic ? port->nic : "")
                                 : NULL;

    return firewall_parse(text, whose ? whose : port ? "the port" : NETWORK_RULES, error);
}

static json_t *firewall_set(Switch *sw, json_t *arguments, GError **error)
{
    const json_t *text = json_object_get(arguments, "text");
    Firewall *fw = NULL;
    Port *port;

    if (!find_whose(sw, arguments, &port, error))
        return NULL;
    if (!json_is_string(text) && !json_is_null(text)) {
        fail(error, VM_ERROR_INVALID, "text: give the text of rules, or null for none");
        return NULL;
    }
    if (json_is_string(text) && !(fw = parse(port, json_string_value(text), error)))
        return NULL;
    return set_and_show(sw, port, fw, error);
}

static bool read_at(const json_t *arguments, bool required, unsigned *ret, GError **error)
{
    const json_t *at = json_object_get(arguments, "at");
    json_int_t n = json_integer_value(at);

    *ret = at ? (unsigned)CLAMP(n, 0, UINT_MAX - 1) : UINT_MAX;
    return (!at && !required) || (json_is_integer(at) && n >= 0) ||
           fail(error, VM_ERROR_INVALID,
                "at: the number of a rule is needed, counting from 0");
}

static json_t *firewall_add(Switch *sw, json_t *arguments, GError **error)
{
    const char *rule = json_get_text(arguments, "rule");
    const Firewall *old;
    Firewall *fw;
    Port *port;
    unsigned at;

    if (!find_whose(sw, arguments, &port, error) ||
        !read_at(arguments, false, &at, error))
        return NULL;
    old = port ? port->rules : sw->rules;
    fw = old ? firewall_with(old, at, rule, error) : parse(port, rule, error);
    return fw ? set_and_show(sw, port, fw, error) : NULL;
}

static json_t *firewall_rm(Switch *sw, json_t *arguments, GError **error)
{
    const Firewall *old;
    Firewall *fw;
    Port *port;
    unsigned at;

    if (!find_whose(sw, arguments, &port, error) || !read_at(arguments, true, &at, error))
        return NULL;
    old = port ? port->rules : sw->rules;
    if (!old) {
        fail(error, VM_ERROR_NOT_FOUND, "there are no rules to take one from");
        return NULL;
    }
    fw = firewall_without(old, at, error);
    return fw ? set_and_show(sw, port, fw, error) : NULL;
}

static json_t *firewall_log(Switch *sw, json_t *arguments, GError **error)
{
    json_int_t since = json_integer_value(json_object_get(arguments, "since"));
    Port *port;

    if (!find_whose(sw, arguments, &port, error))
        return NULL;
    return rules_log_json(sw, port, (uint64_t)MAX(since, 0));
}

/* Takes `flows`; each gets the names of the port. */
static void append_flows(json_t *list, const Port *port, json_t *flows)
{
    size_t i;
    json_t *flow;

    json_array_foreach(flows, i, flow)
    {
        if (port->vm)
            json_object_set_new(flow, "vm", json_string(port->vm));
        if (port->nic)
            json_object_set_new(flow, "nic", json_string(port->nic));
        json_object_set_new(flow, "port", json_integer(port->id));
    }
    json_array_extend(list, flows);
    json_decref(flows);
}

static json_t *query_flows(Switch *sw, json_t *arguments, GError **error)
{
    json_t *list;
    Port *port;

    if (!find_whose(sw, arguments, &port, error))
        return NULL;
    list = json_array();
    for (unsigned i = 0; i < sw->n_ports; i++) {
        const Port *p = sw->port[i];

        if (p && p->gate && (!port || p == port))
            append_flows(list, p, fw_gate_flows(p->gate, sw->now_ns));
    }
    return list;
}

const SwitchCommand firewall_commands[] = {
    {"firewall-show", firewall_show}, {"firewall-set", firewall_set},
    {"firewall-add", firewall_add},   {"firewall-rm", firewall_rm},
    {"firewall-test", rules_test},    {"firewall-log", firewall_log},
    {"query-flows", query_flows},     {},
};
