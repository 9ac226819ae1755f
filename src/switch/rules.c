/* See rules.h. */
#include "src/switch/rules.h"

#include "src/switch/refuse.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "src/switch/gateway.h"
#include "util/json.h"
#include "util/log.h"

#define NETWORK_RULES "firewall.rules"
#define PORT_RULES    "rules"

enum { MAX_FILE = 4 * 1024 * 1024 };

/* ---- files ------------------------------------------------------------------------- */

/* NULL without an error: there is no such file. */
static char *read_file(const char *path, GError **error)
{
    g_autoptr(GError) why = NULL;
    struct stat st;
    char *text;

    if (stat(path, &st) < 0 && errno == ENOENT)
        return NULL;
    if (st.st_size > MAX_FILE) {
        fail(error, VM_ERROR_INVALID, "'%s' is too long for rules: %d bytes at most",
             path, MAX_FILE);
        return NULL;
    }
    if (g_file_get_contents(path, &text, NULL, &why))
        return text;
    fail(error, VM_ERROR_IO, "%s", why->message);
    return NULL;
}

static bool remove_file(const char *name, const char *file, GError **error)
{
    g_autofree char *path = network_file(name, file);

    return unlink(path) == 0 || errno == ENOENT || fail_errno(error, "remove '%s'", path);
}

/* Neither name has a blank: "a.b c" is another port than "a b.c". */
static char *port_file(const Port *port)
{
    return g_strdup_printf(PORT_RULES "/%s %s", port->vm ? port->vm : port->instance,
                           port->nic);
}

static bool write_port_file(const Port *port, const char *text, GError **error)
{
    g_autofree char *folder = network_file(port->sw->name, PORT_RULES);
    g_autofree char *file = port_file(port);
    json_t *json = json_pack("{s:s, s:s?}", "instance", port->instance, "text", text);
    char *dump = json_dumps(json, JSON_INDENT(1));
    bool fine = (g_mkdir_with_parents(folder, 0700) == 0 ||
                 fail_errno(error, "make the folder '%s'", folder)) &&
                network_write(port->sw->name, file, dump, error);

    free(dump);
    json_decref(json);
    return fine;
}

/* False: nothing was set in this start of the VM.  True: *ret_text is a new string, or
 * NULL for no rules. */
static bool read_port_file(const Port *port, char **ret_text)
{
    g_autofree char *file = port_file(port);
    g_autofree char *path = network_file(port->sw->name, file);
    g_autofree char *dump = read_file(path, NULL);
    json_t *json = dump ? json_loads(dump, JSON_REJECT_DUPLICATES, NULL) : NULL;
    bool ours = json && g_str_equal(json_get_text(json, "instance"), port->instance);

    if (ours)
        *ret_text = g_strdup(json_string_value(json_object_get(json, "text")));
    else if (dump)
        remove_file(port->sw->name, file, NULL);
    json_decref(json);
    return ours;
}

/* ---- sets -------------------------------------------------------------------------- */

static void use_sets(Switch *sw)
{
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && sw->port[i]->gate)
            fw_gate_set(sw->port[i]->gate, sw->rules, sw->port[i]->rules);
}

void rules_world_changed(Switch *sw)
{
    bool any = sw->rules;

    for (unsigned i = 0; i < sw->n_ports && !any; i++)
        any = sw->port[i] && sw->port[i]->rules;
    if (any)
        use_sets(sw);
}

bool rules_load(Switch *sw, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *path = network_file(sw->name, NETWORK_RULES);
    g_autofree char *text = read_file(path, &why);
    Firewall *fw = text ? firewall_parse(text, NETWORK_RULES, &why) : NULL;

    if (why) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    firewall_unref(sw->rules);
    sw->rules = fw;
    use_sets(sw);
    return true;
}

bool rules_port_begin(Port *port, const char *text, GError **error)
{
    g_autofree char *origin = NULL, *kept = NULL;
    FwWorld world;

    if (port->instance && read_port_file(port, &kept))
        text = kept;
    origin = g_strdup_printf("the rules of %s", port->nic ? port->nic : port->ops->kind);
    if (text && !(port->rules = firewall_parse(text, origin, error)))
        return false;
    gateway_world(port->sw->gateway, &world);
    port->gate = fw_gate_new(&world, FW_MAX_FLOWS);
    fw_gate_set(port->gate, port->sw->rules, port->rules);
    return true;
}

static bool store(Switch *sw, Port *port, const Firewall *fw, GError **error)
{
    g_autofree char *text = fw ? firewall_text(fw) : NULL;

    if (port)
        return !port->instance || write_port_file(port, text, error);
    return text ? network_write(sw->name, NETWORK_RULES, text, error)
                : remove_file(sw->name, NETWORK_RULES, error);
}

bool rules_set(Switch *sw, Port *port, Firewall *fw, GError **error)
{
    Firewall **set = port ? &port->rules : &sw->rules;

    if (!store(sw, port, fw, error)) {
        firewall_unref(fw);
        return false;
    }
    firewall_unref(*set);
    *set = fw;
    if (port)
        fw_gate_set(port->gate, sw->rules, port->rules);
    else
        use_sets(sw);
    return true;
}

/* ---- frames ------------------------------------------------------------------------ */

bool rules_pass(Port *port, Direction direction, const Frame *f)
{
    FwVerdict verdict;
    bool allow;

    if (!port->gate)
        return true;
    allow = fw_gate_pass(port->gate, direction == TO_VM ? FW_IN : FW_OUT, &f->p, f->data,
                         f->len, port->sw->now_ns, &verdict);
    if (!allow || verdict.log)
        rules_note(port, direction, &verdict, &f->p);
    if (verdict.reject)
        refuse(port, direction, f);
    return allow;
}
