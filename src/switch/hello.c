/* What a monitor says of itself; see port_vm.h and network/port.h.  Everything in it is
 * checked for kind and size here, and by who uses it for sense. */
#include "src/switch/port_vm.h"

#include <jansson.h>

#include "backend/netdev.h"
#include "network/port.h"
#include "src/switch/vlan.h"

static bool read_name(const json_t *hello, const char *key, bool required, char **ret,
                      GError **error)
{
    const json_t *value = json_object_get(hello, key);

    if (!value && !required)
        return true;
    if (!json_is_string(value) || !port_is_name(json_string_value(value)))
        return fail(error, VM_ERROR_INVALID,
                    "%s: a name of at most %d letters, digits and marks is needed", key,
                    PORT_MAX_NAME);
    *ret = g_strdup(json_string_value(value));
    return true;
}

static bool read_number(const json_t *hello, const char *key, json_int_t min,
                        json_int_t max, json_int_t def, json_int_t *ret, GError **error)
{
    const json_t *value = json_object_get(hello, key);

    *ret = value ? json_integer_value(value) : def;
    if ((value && !json_is_integer(value)) || *ret < min || *ret > max)
        return fail(error, VM_ERROR_INVALID,
                    "%s: a number from %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT
                    " is needed",
                    key, min, max);
    return true;
}

static bool read_addresses(const json_t *hello, Hello *ret, GError **error)
{
    const json_t *list = json_object_get(hello, "ip");
    const size_t n = json_array_size(list);

    if (list && (!json_is_array(list) || n > G_N_ELEMENTS(ret->ip)))
        return fail(error, VM_ERROR_INVALID, "ip: an array of at most %zu addresses",
                    G_N_ELEMENTS(ret->ip));
    for (; ret->n_ip < n; ret->n_ip++) {
        const char *text = json_string_value(json_array_get(list, ret->n_ip));

        if (!ip_parse(text ? text : "", &ret->ip[ret->n_ip], error))
            return g_prefix_error(error, "ip: "), false;
    }
    return true;
}

static bool read_mac(const json_t *hello, Hello *ret, GError **error)
{
    const char *text = json_string_value(json_object_get(hello, "mac"));

    if (!mac_parse(text ? text : "", &ret->mac, error))
        return g_prefix_error(error, "mac: "), false;
    return (!mac_is_group(&ret->mac) && !mac_is_zero(&ret->mac)) ||
           fail(error, VM_ERROR_INVALID, "mac: %s is no station's address", text);
}

static bool read_numbers(const json_t *hello, Hello *ret, GError **error)
{
    json_int_t version, queues, vlan, offloads;

    if (!read_number(hello, "hutch-port", PORT_VERSION, PORT_VERSION, 0, &version,
                     error) ||
        !read_number(hello, "queues", 1, PORT_MAX_QUEUES, 1, &queues, error) ||
        !read_number(hello, "vlan", 0, VLAN_MAX, 0, &vlan, error) ||
        !read_number(hello, "offloads", 0, UINT32_MAX, 0, &offloads, error))
        return false;
    ret->queues = (unsigned)queues;
    ret->vlan = (uint16_t)vlan;
    ret->offloads = (unsigned)offloads & NET_OFFLOADS;
    return true;
}

static bool read_rest(const json_t *hello, Hello *ret, GError **error)
{
    const json_t *trunk = json_object_get(hello, "trunk");
    const json_t *trust = json_object_get(hello, "trust");
    const json_t *firewall = json_object_get(hello, "firewall");
    const json_t *groups = json_object_get(hello, "groups");

    if (groups && !port_groups_parse(groups, &ret->groups, error))
        return false;
    if (trunk && !vlan_trunk_parse(trunk, &ret->trunk, error))
        return false;
    if (trust && !json_is_boolean(trust))
        return fail(error, VM_ERROR_INVALID, "trust: true or false is needed");
    if (firewall && !json_is_string(firewall))
        return fail(error, VM_ERROR_INVALID, "firewall: the text of rules is needed");
    ret->trust = json_is_true(trust);
    ret->firewall = g_strdup(json_string_value(firewall));
    return true;
}

bool hello_parse(const char *line, Hello *ret, GError **error)
{
    json_t *hello = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    bool fine;

    *ret = (Hello){0};
    if (!json_is_object(hello))
        fine = fail(error, VM_ERROR_INVALID, "no JSON object, as a port's monitor sends");
    else
        fine = read_numbers(hello, ret, error) &&
               read_name(hello, "vm", false, &ret->vm, error) &&
               read_name(hello, "nic", true, &ret->nic, error) &&
               read_name(hello, "instance", true, &ret->instance, error) &&
               read_mac(hello, ret, error) && read_addresses(hello, ret, error) &&
               read_rest(hello, ret, error);
    json_decref(hello);
    return fine;
}

void hello_free(Hello *hello)
{
    g_free(hello->vm);
    g_free(hello->nic);
    g_free(hello->instance);
    g_strfreev(hello->groups);
    g_free(hello->trunk);
    g_free(hello->firewall);
    *hello = (Hello){0};
}
