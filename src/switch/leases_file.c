/* leases.json in the network's folder: who had which address, so that a switch that is
 * started again goes on with it.  A new lease is written before its VM hears of it,
 * unless that was often of late; what only changes when somebody was last seen is written
 * later.  The file is the user's; what is wrong in it is left out. */
#include "src/switch/leases_private.h"

#include "util/log.h"

#define SECOND_NS 1000000000ll
#define LATER_NS  (10 * SECOND_NS)
#define FILE_NAME "leases.json"

enum { NAME_MAX_LEN = 64, WRITES = 64 };

static const char *const address_keys[FAMILIES] = {"address", "address6"};

static json_t *to_json(const Lease *lease)
{
    char text[IP_TEXT], mac[MAC_TEXT];
    json_t *one = json_pack("{s:s, s:I}", "mac", mac_text(&lease->mac, mac), "seen",
                            (json_int_t)lease->seen);

    if (lease->vm)
        json_object_set_new(one, "vm", json_string(lease->vm));
    if (lease->nic)
        json_object_set_new(one, "nic", json_string(lease->nic));
    for (unsigned v6 = 0; v6 < FAMILIES; v6++)
        if (lease->bound[v6])
            json_object_set_new(one, address_keys[v6],
                                json_string(ip_text(&lease->ip[v6], text)));
    return one;
}

void leases_write_now(Leases *l)
{
    static LogLimit limit;
    g_autoptr(GError) error = NULL;
    json_t *all = json_array();
    char *text;

    if (l->dirty) {
        for (GList *i = l->all.head; i; i = i->next) {
            Lease *lease = i->data;

            if (lease->bound[0] || lease->bound[1])
                json_array_append_new(all, to_json(lease));
        }
        text = json_dumps(all, JSON_INDENT(1));
        if ((!text ||
             !network_write_unsynced(l->gw->sw->name, FILE_NAME, text, &error)) &&
            !g_error_matches(error, VM_ERROR, VM_ERROR_NOT_FOUND) && /* removed */
            log_limit(&limit))
            log_warn("network '%s': its leases are not kept: %s", l->gw->sw->name,
                     error ? error->message : "a name is not UTF-8");
        free(text);
        l->dirty = false;
    }
    ioloop_timer_cancel(&l->timer);
    json_decref(all);
}

static void on_timer(void *opaque)
{
    leases_write_now(opaque);
}

/* Armed for the earlier of what it is armed for, and that. */
static void write_at(Leases *l, int64_t at_ns)
{
    l->dirty = true;
    if (!l->timer.loop || l->timer.deadline_ns > at_ns)
        ioloop_timer(l->gw->sw->loop, &l->timer, at_ns, on_timer, l);
}

/* A bucket of WRITES, into which one comes each second. */
static bool may_write(Leases *l, int64_t now_ns)
{
    if (l->writes_ns > now_ns + WRITES * SECOND_NS)
        return false;
    l->writes_ns = MAX(l->writes_ns, now_ns) + SECOND_NS;
    return true;
}

void leases_write_soon(Leases *l)
{
    int64_t now_ns = clock_ns();

    l->dirty = true;
    if (may_write(l, now_ns))
        leases_write_now(l);
    else
        write_at(l, now_ns + SECOND_NS);
}

void leases_write_later(Leases *l)
{
    write_at(l, clock_ns() + LATER_NS);
}

/* ---- reading --------------------------------------------------------------------------
 */

static bool is_name(const char *text)
{
    return text && *text && strlen(text) <= NAME_MAX_LEN && !strchr(text, '/');
}

static void load_ip(Leases *l, Lease *lease, const char *text, bool v6)
{
    Ip ip;

    if (!text || !ip_parse(text, &ip, NULL) || ip_family(&ip) != v6 ||
        !leases_in_pool(l->gw, &ip) || leases_by_ip(l, &ip))
        return;
    leases_set_ip(l, lease, v6, &ip);
    lease->bound[v6] = true;
}

static void load_one(Leases *l, json_t *one)
{
    const char *vm = NULL, *nic = NULL, *mac_string = "", *ip[FAMILIES] = {NULL, NULL};
    json_int_t seen = 0;
    Lease *lease;
    Mac mac;

    if (json_unpack(one, "{s?s, s?s, s:s, s?I, s?s, s?s}", "vm", &vm, "nic", &nic, "mac",
                    &mac_string, "seen", &seen, address_keys[0], &ip[0], address_keys[1],
                    &ip[1]) < 0 ||
        (vm && !is_name(vm)) || (nic && !is_name(nic)) || (nic && !vm) ||
        !mac_parse(mac_string, &mac, NULL) || l->all.length == LEASES_MAX)
        return;
    lease = leases_add(l, vm, nic, &mac);
    lease->seen = CLAMP(seen, 0, leases_now());
    for (unsigned v6 = 0; v6 < FAMILIES; v6++)
        load_ip(l, lease, ip[v6], v6);
    if (!lease->bound[0] && !lease->bound[1])
        leases_remove(l, lease);
}

void leases_load(Leases *l)
{
    g_autofree char *path = network_file(l->gw->sw->name, FILE_NAME);
    json_error_t why;
    json_t *all, *one;
    size_t i;

    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return;
    all = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_array(all))
        log_warn("network '%s': '%s' is not a list of leases, and is begun anew: %s",
                 l->gw->sw->name, path, all ? "it is something else" : why.text);
    json_array_foreach(all, i, one) load_one(l, one);
    json_decref(all);
}
