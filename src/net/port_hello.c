/* What a card says of itself when it joins its network (network/port.h), and what of its
 * options makes no sense. */
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "firewall/firewall.h"
#include "network/config.h"
#include "network/port.h"
#include "packet/addr.h"
#include "src/net/port_private.h"
#include "util/lock.h"

enum {
    MAX_RULES = 900 * 1024, /* so that they fit into a line, quoted */
    MAX_LABEL = 63,
    MAX_VLAN = 4094,
};

/* ---- options --------------------------------------------------------------------------
 */

static bool check_addresses(char **list, GError **error)
{
    for (char **text = list; text && *text; text++) {
        Ip ip;

        if (!ip_parse(*text, &ip, error)) {
            g_prefix_error(error, "ip: ");
            return false;
        }
        if (ip_is_unspecified(&ip) || ip_is_multicast(&ip))
            return fail(error, VM_ERROR_INVALID, "ip: '%s' cannot be a guest's", *text);
    }
    return true;
}

static bool check_labels(char **list, GError **error)
{
    for (char **text = list; text && *text; text++) {
        size_t len = strlen(*text);

        if (!len || len > MAX_LABEL ||
            strspn(*text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "_-.") != len)
            return fail(error, VM_ERROR_INVALID,
                        "group: '%s' is no label: give 1 to %d letters, digits, '-', '_' "
                        "and '.'",
                        *text, MAX_LABEL);
    }
    return true;
}

static unsigned vlan_of(const char *text)
{
    uint64_t v;

    return g_ascii_string_to_unsigned(text, 10, 1, MAX_VLAN, &v, NULL) ? (unsigned)v : 0;
}

bool port_check(const NetDevOptions *o, GError **error)
{
    if (!o->network)
        return fail(error, VM_ERROR_INVALID,
                    "network= is missing: the name of a network, as of 'hutch net ls'");
    for (char **text = o->trunk; text && *text; text++)
        if (!vlan_of(*text))
            return fail(error, VM_ERROR_INVALID,
                        "trunk: '%s' is no VLAN: give a number from 1 to %d", *text,
                        MAX_VLAN);
    return network_check_name(o->network, error) && check_addresses(o->ip, error) &&
           check_labels(o->group, error);
}

/* ---- who we are -----------------------------------------------------------------------
 */

/* The same for all cards of this start of the VM, so that a card which was taken out and
 * comes again takes its own old place; a fork is another VM. */
static json_t *instance(void)
{
    static Lock lock = LOCK_INIT;
    static uint64_t number[2];
    static pid_t pid;

    LOCK_GUARD(&lock);
    if (pid != getpid()) {
        if (getrandom(number, sizeof(number), 0) != sizeof(number))
            number[0] = (uint64_t)clock_ns(); /* only before the host's first seed */
        pid = getpid();
    }
    return json_sprintf("%016" G_GINT64_MODIFIER "x%016" G_GINT64_MODIFIER "x", number[0],
                        number[1]);
}

json_t *port_mac(const uint8_t m[6])
{
    return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4],
                        m[5]);
}

static json_t *text_list(char **list)
{
    json_t *array = json_array();

    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

static json_t *vlan_list(char **list)
{
    json_t *array = json_array();

    for (; list && *list; list++)
        json_array_append_new(array, json_integer(vlan_of(*list)));
    return array;
}

/* They are compiled here only to be refused by the file's name: the switch does it again,
 * as it does not take our word for it. */
static bool add_rules(json_t *hello, const char *path, GError **error)
{
    g_autoptr(Firewall) compiled = NULL;
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    json_t *rules;
    gsize len;

    if (!path)
        return true;
    if (!g_file_get_contents(path, &text, &len, &why))
        return fail(error, VM_ERROR_IO, "firewall: %s", why->message);
    if (len > MAX_RULES)
        return fail(error, VM_ERROR_INVALID, "firewall: '%s' has more than %d KiB", path,
                    MAX_RULES / 1024);
    rules = json_stringn(text, len);
    if (!rules)
        return fail(error, VM_ERROR_INVALID, "firewall: '%s' is not UTF-8", path);
    json_object_set_new(hello, "firewall", rules);
    compiled = firewall_parse(text, path, error);
    return compiled != NULL;
}

json_t *port_hello(const NetDevOptions *o, const NetDevCard *card, GError **error)
{
    json_t *hello = json_pack(
        "{s:i, s:s, s:o, s:o, s:o, s:o, s:i, s:i, s:o, s:b}", "hutch-port", PORT_VERSION,
        "nic", card->id, "instance", instance(), "mac", port_mac(card->mac), "ip",
        text_list(o->ip), "groups", text_list(o->group), "queues", 1, "vlan",
        (int)o->vlan, "trunk", vlan_list(o->trunk), "trust", (int)o->trust);

    if (card->vm)
        json_object_set_new(hello, "vm", json_string(card->vm));
    if (add_rules(hello, o->firewall, error))
        return hello;
    json_decref(hello);
    return NULL;
}
