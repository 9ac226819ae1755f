/* hutch firewall log: what rules with `log` have seen.  The switch keeps the last ones,
 * numbered; who follows asks for those since. */
#include <poll.h>
#include <stdio.h>
#include <time.h>

#include "network/place.h"
#include "src/cli/firewall.h"
#include "src/cli/interrupt.h"
#include "util/json.h"

enum { LOOK_MS = 300 };

static void print_entry(const json_t *entry, bool json)
{
    time_t when = (time_t)json_number_value(json_object_get(entry, "time"));
    g_autofree char *vm = net_cell(entry, "vm"), *nic = net_cell(entry, "nic"),
                    *direction = net_cell(entry, "direction"),
                    *packet = net_cell(entry, "packet"), *text = net_cell(entry, "text");
    struct tm tm;
    char clock[32];

    if (json) {
        json_dumpf(entry, stdout, JSON_COMPACT | cli_json_flags());
        putchar('\n');
        return;
    }
    localtime_r(&when, &tm);
    strftime(clock, sizeof(clock), "%Y-%m-%d %H:%M:%S", &tm);
    printf("%s  %s:%s  %s  %s  %s\n", clock, vm, nic, direction, packet, text);
}

/* Those since *since, which becomes the number of the next. */
static bool print_since(const NetTarget *t, json_int_t *since, bool json, GError **error)
{
    json_t *arguments = net_arguments(t), *reply, *entry;
    size_t i;

    json_object_set_new(arguments, "since", json_integer(*since));
    reply = network_call(t->network, false, "firewall-log", arguments, error);
    if (!reply)
        return false;
    *since = json_integer_value(json_object_get(reply, "next"));
    json_array_foreach(json_object_get(reply, "entries"), i, entry)
        print_entry(entry, json);
    fflush(stdout);
    json_decref(reply);
    return true;
}

bool firewall_act_log(void *options, char **names, int *status, GError **error)
{
    const FirewallArgs *args = options;
    json_int_t since = 0;
    NetTarget t;
    bool ok;

    if (!net_target_parse(names[0], &t, error))
        return false;
    interrupt_watch();
    ok = print_since(&t, &since, args->json, error);
    while (ok && args->follow && !interrupt_signal()) {
        poll(NULL, 0, LOOK_MS);
        ok = network_is_up(t.network) ? print_since(&t, &since, args->json, error) : true;
        if (ok && !network_is_up(t.network))
            break;
    }
    net_target_clear(&t);
    return ok;
}
