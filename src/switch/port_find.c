/* Which port is meant: by whose it is, by its address, by its number, and by the
 * arguments of a command; contracts in switch.h and control.h. */
#include "src/switch/control.h"

static bool is_before(const char *a, const char *b)
{
    const size_t len_a = strlen(a), len_b = strlen(b);

    return len_a != len_b ? len_a < len_b : strcmp(a, b) < 0;
}

Port *port_find(Switch *sw, const char *vm, const char *nic)
{
    Port *first = NULL;

    for (unsigned i = 0; i < sw->n_ports; i++) {
        Port *port = sw->port[i];

        if (!port || g_strcmp0(port->vm, vm) != 0)
            continue;
        if (nic && g_strcmp0(port->nic, nic) == 0)
            return port;
        if (!nic && (!first || is_before(port->nic, first->nic)))
            first = port;
    }
    return first;
}

Port *port_by_mac(Switch *sw, const Mac *mac)
{
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && mac_equal(&sw->port[i]->mac, mac))
            return sw->port[i];
    return NULL;
}

Port *port_by_id(Switch *sw, unsigned id)
{
    return id < SWITCH_MAX_PORTS ? sw->port[id] : NULL;
}

bool command_names_port(const json_t *arguments)
{
    return json_object_get(arguments, "vm") || json_object_get(arguments, "port");
}

static void fail_unknown(const char *vm, const char *nic, json_int_t number,
                         GError **error)
{
    if (vm)
        fail(error, VM_ERROR_NOT_FOUND, "VM '%s' has no card%s%s on this network", vm,
             nic ? " " : "", nic ? nic : "");
    else
        fail(error, VM_ERROR_NOT_FOUND, "this network has no port %" JSON_INTEGER_FORMAT,
             number);
}

Port *command_port(Switch *sw, const json_t *arguments, GError **error)
{
    const char *vm = json_string_value(json_object_get(arguments, "vm"));
    const char *nic = json_string_value(json_object_get(arguments, "nic"));
    const json_t *number = json_object_get(arguments, "port");
    Port *port;

    if (!vm && !json_is_integer(number)) {
        fail(error, VM_ERROR_INVALID, "say which port: vm, and nic, or port, its number");
        return NULL;
    }
    port = vm ? port_find(sw, vm, nic)
              : port_by_id(sw, (unsigned)CLAMP(json_integer_value(number), 0, UINT_MAX));
    if (port && !port->gone)
        return port;
    fail_unknown(vm, nic, json_integer_value(number), error);
    return NULL;
}
