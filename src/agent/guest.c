/* What else a guest's agent is asked: addresses, the clock, frozen file systems. */
#include <arpa/inet.h>
#include <string.h>
#include <time.h>

#include "src/agent/agent_private.h"

enum {
    MAX_INTERFACES = 64,
    MAX_ADDRESSES = 64, /* of one */
    MAX_FROZEN = 1000 * 1000,
    CLOCK_OFF_S = 5, /* more is not "set" */
    PATIENCE = 6,    /* for frozen file systems */
};

/* ---- addresses ------------------------------------------------------------------------
 */

/* "10.0.2.15/24", a new string; NULL: it is no address. */
static char *address_text(const json_t *address)
{
    const char *text = json_string_value(json_object_get(address, "ip-address"));
    json_int_t prefix = json_integer_value(json_object_get(address, "prefix"));
    unsigned char raw[16];
    bool v4 = text && inet_pton(AF_INET, text, raw) == 1;

    if (!v4 && (!text || inet_pton(AF_INET6, text, raw) != 1))
        return NULL;
    if (prefix < 0 || prefix > (v4 ? 32 : 128))
        return NULL;
    return g_strdup_printf("%s/%d", text, (int)prefix);
}

static bool is_mac(const char *text)
{
    return text && strlen(text) == 17 && strspn(text, "0123456789abcdefABCDEF:") == 17;
}

/* A new reference. */
static json_t *interface_from(const json_t *given)
{
    const char *mac = json_string_value(json_object_get(given, "hardware-address"));
    g_autofree char *name = agent_text(json_string_value(json_object_get(given, "name")));
    json_t *all = json_object_get(given, "ip-addresses");
    json_t *addresses = json_array();
    json_t *ret;

    for (size_t i = 0; i < MIN(json_array_size(all), MAX_ADDRESSES); i++) {
        g_autofree char *text = address_text(json_array_get(all, i));

        if (text)
            json_array_append_new(addresses, json_string(text));
    }
    ret = json_pack("{s:s, s:o}", "name", name, "addresses", addresses);
    if (is_mac(mac))
        json_object_set_new(ret, "mac", json_string(mac));
    return ret;
}

json_t *agent_addresses(Agent *a, GError **error)
{
    json_t *given = agent_call(a, "guest-network-get-interfaces", NULL, error);
    json_t *ret = NULL;

    if (json_is_array(given)) {
        ret = json_array();
        for (size_t i = 0; i < MIN(json_array_size(given), MAX_INTERFACES); i++)
            json_array_append_new(ret, interface_from(json_array_get(given, i)));
    } else if (given) {
        agent_fail(a, error, "gives no list of interfaces");
    }
    json_decref(given);
    return ret;
}

/* ---- the clock ------------------------------------------------------------------------
 */

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * G_GINT64_CONSTANT(1000000000) + t.tv_nsec;
}

/* The agent also writes the hardware clock, and calls it a failure when it could not. */
static bool is_set(Agent *a)
{
    json_t *time = agent_call(a, "guest-get-time", NULL, NULL);
    int64_t guest_ns = json_integer_value(time), host_ns = now_ns();

    json_decref(time);
    return guest_ns / 1000000000 > host_ns / 1000000000 - CLOCK_OFF_S &&
           guest_ns / 1000000000 < host_ns / 1000000000 + CLOCK_OFF_S;
}

bool agent_set_clock(Agent *a, GError **error)
{
    g_autoptr(GError) inner = NULL;

    if (agent_tell(a, "guest-set-time", json_pack("{s:I}", "time", (json_int_t)now_ns()),
                   &inner) ||
        is_set(a))
        return true;
    g_propagate_error(error, g_steal_pointer(&inner));
    return false;
}

/* ---- frozen file systems --------------------------------------------------------------
 */

/* To write everything out may take a while. */
static json_t *call_patiently(Agent *a, const char *command, GError **error)
{
    json_t *ret;

    a->timeout_ms *= PATIENCE;
    ret = agent_call(a, command, NULL, error);
    a->timeout_ms /= PATIENCE;
    return ret;
}

static bool count_frozen(Agent *a, const char *command, unsigned *ret, GError **error)
{
    json_t *count = call_patiently(a, command, error);
    json_int_t n = json_integer_value(count);
    bool ok = json_is_integer(count) && n >= 0 && n <= MAX_FROZEN;

    if (count && !ok)
        agent_fail(a, error, "gives no sensible number of file systems");
    json_decref(count);
    if (ok && ret)
        *ret = (unsigned)n;
    return ok;
}

bool agent_freeze(Agent *a, unsigned *ret_count, GError **error)
{
    a->held = count_frozen(a, "guest-fsfreeze-freeze", ret_count, error);
    return a->held;
}

bool agent_thaw(Agent *a, unsigned *ret_count, GError **error)
{
    a->held = false;
    return count_frozen(a, "guest-fsfreeze-thaw", ret_count, error);
}
