/* hutch ps, status and inspect: what VMs there are, and how they are. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/agent.h"
#include "src/cli/fleet.h"
#include "src/cli/image.h"
#include "util/json.h"

enum { AGENT_MS = 500 };

/* ---- one VM as data ------------------------------------------------------------ */

static uint64_t memory_of(const json_t *config)
{
    json_t *size = json_object_get(json_object_get(config, "memory"), "size");
    uint64_t bytes = 0;

    if (json_is_string(size) && param_parse_size(json_string_value(size), &bytes, NULL))
        return bytes;
    return (uint64_t)json_integer_value(size);
}

static json_int_t cpus_of(const json_t *config)
{
    json_t *cpus = json_object_get(config, "cpus");

    return cpus ? json_integer_value(cpus) : 1; /* a default is left out */
}

/* A new reference. */
static json_t *describe(const FleetVm *vm)
{
    json_t *json = json_pack("{s:s, s:s}", "name", vm->name, "state", vm->state);
    json_t *config = fleet_read(vm->name, PLACE_CONFIG);
    json_t *origin = fleet_read(vm->name, PLACE_ORIGIN);
    json_t *result = vm->info.state == PLACE_ENDED ? fleet_read(vm->name, PLACE_RESULT)
                                                   : NULL;

    if (vm->info.state == PLACE_RUNNING)
        json_object_set_new(json, "pid", json_integer(vm->info.pid));
    if (vm->info.started)
        json_object_set_new(json, "started", json_integer(vm->info.started));
    if (config) {
        json_object_set_new(json, "cpus", json_integer(cpus_of(config)));
        json_object_set_new(json, "memory", json_integer((json_int_t)memory_of(config)));
    }
    if (result)
        json_object_set_new(json, "result", result);
    if (origin)
        json_object_set_new(json, "from", origin);
    json_decref(config);
    return json;
}

/* "42s", "7m", "3h", "12d" */
static char *age_text(json_int_t started)
{
    static const struct {
        json_int_t seconds;
        char unit;
    } units[] = {{24 * 3600, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    json_int_t age = MAX((json_int_t)time(NULL) - started, 0);
    unsigned i = 0;

    while (age < units[i].seconds && i + 1 < G_N_ELEMENTS(units))
        i++;
    return g_strdup_printf("%" JSON_INTEGER_FORMAT "%c", age / units[i].seconds,
                           units[i].unit);
}

/* How it ended, or for how long it has been there. */
static char *last_column(const json_t *vm)
{
    json_t *result = json_object_get(vm, "result");
    json_t *started = json_object_get(vm, "started");

    if (result)
        return g_strdup_printf("%s, status %" JSON_INTEGER_FORMAT,
                               json_get_text(result, "reason"),
                               json_integer_value(json_object_get(result, "status")));
    if (g_str_equal(json_get_text(vm, "state"), "dead"))
        return g_strdup("its monitor was killed");
    return started ? age_text(json_integer_value(started)) : g_strdup("");
}

/* "restored from snapshot 'noon'", a new string; NULL: it was booted. */
static char *origin_text(const json_t *vm)
{
    json_t *from = json_object_get(vm, "from");
    const char *kind = json_get_text(from, "kind");
    bool cloned = g_str_equal(kind, "template") || g_str_equal(kind, "VM");

    return from ? g_strdup_printf("%s from %s '%s'", cloned ? "cloned" : "restored", kind,
                                  json_get_text(from, "name"))
                : NULL;
}

/* Of the columns whose texts differ most. */
typedef struct Widths {
    int name, networks;
} Widths;

static void print_row(const json_t *vm, const Widths *w)
{
    g_autofree char *memory = image_size_text(
        (uint64_t)json_integer_value(json_object_get(vm, "memory")));
    g_autofree char *last = last_column(vm);
    g_autofree char *origin = origin_text(vm);
    g_autofree char *networks = fleet_networks_text(vm);
    json_t *pid = json_object_get(vm, "pid");
    g_autofree char *number = pid ? g_strdup_printf("%d", (int)json_integer_value(pid))
                                  : g_strdup("-");

    printf("%-*s  %-12s %8s %4d %10s  %-*s  %s%s%s\n", w->name, json_get_text(vm, "name"),
           json_get_text(vm, "state"), number,
           (int)json_integer_value(json_object_get(vm, "cpus")), memory, w->networks,
           networks, last, origin ? ", " : "", origin ? origin : "");
}

/* ---- ps ------------------------------------------------------------------------ */

FLEET_TABLE(fleet_ps_args, FLEET_ROW_JSON,
            FLEET_ROW("quiet", 'q', PARAM_BOOL, quiet, "print names only"),
            FLEET_ROW("running", 'r', PARAM_BOOL, running,
                      "leave out VMs that have ended, or whose monitor died"));

static void print_table(json_t *all)
{
    Widths w = {12, (int)strlen("NETWORKS")};
    json_t *vm;
    size_t i;

    json_array_foreach(all, i, vm)
    {
        g_autofree char *networks = fleet_networks_text(vm);

        w.name = MAX(w.name, (int)strlen(json_get_text(vm, "name")));
        w.networks = MAX(w.networks, (int)strlen(networks));
    }
    printf("%-*s  %-12s %8s %4s %10s  %-*s  %s\n", w.name, "NAME", "STATE", "PID", "CPUS",
           "MEMORY", w.networks, "NETWORKS", "SINCE, OR END");
    json_array_foreach(all, i, vm) print_row(vm, &w);
}

/* Without a look at how they are: completion asks at each key. */
static void print_names(const FleetArgs *args, char **names)
{
    for (; *names; names++) {
        PlaceInfo info;

        if (place_look(*names, &info, NULL) && info.state != PLACE_NONE &&
            (!args->running || info.state == PLACE_RUNNING))
            puts(*names);
    }
}

bool fleet_act_ps(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    g_auto(GStrv) found = place_list(error);
    g_autofree FleetVm *vms = NULL;
    json_t *all;

    if (!found)
        return false;
    if (args->quiet && !args->json) {
        print_names(args, found);
        return true;
    }
    vms = g_new0(FleetVm, g_strv_length(found));
    if (!fleet_look(found, vms, error))
        return false;
    all = json_array();
    for (unsigned i = 0; found[i]; i++)
        if (vms[i].info.state == PLACE_RUNNING ||
            (vms[i].info.state != PLACE_NONE && !args->running))
            json_array_append_new(all, describe(&vms[i]));
    fleet_add_networks(all);
    if (args->json) {
        cli_print_json(all);
        return true;
    }
    print_table(all);
    json_decref(all);
    return true;
}

/* ---- status -------------------------------------------------------------------- */

FLEET_TABLE(fleet_json_args, FLEET_ROW_JSON);

static bool look_at(const char *name, FleetVm *ret, GError **error)
{
    char *one[] = {(char *)name, NULL};

    return fleet_look(one, ret, error) &&
           (ret->info.state != PLACE_NONE || place_fail(name, PLACE_NONE, error));
}

bool fleet_act_status(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    FleetVm vm;
    json_t *json;

    if (!look_at(names[0], &vm, error))
        return false;
    json = describe(&vm);
    if (args->json) {
        cli_print_json(json);
        return true;
    }
    if (vm.info.state == PLACE_RUNNING) {
        puts(vm.state);
    } else {
        g_autofree char *last = last_column(json);

        printf("%s: %s\n", vm.state, last);
    }
    json_decref(json);
    return true;
}

/* ---- inspect ------------------------------------------------------------------- */

/* What a command returns, as a member; left out if it fails. */
static void add_answer(ControlClient *c, json_t *json, const char *key,
                       const char *command)
{
    json_t *answer = control_client_call(c, command, NULL, NULL);

    if (answer)
        json_object_set_new(json, key, answer);
}

/* Of a guest with an agent that answers at once. */
static void add_addresses(json_t *json, const char *name)
{
    g_autofree char *path = place_file(name, AGENT_SOCKET, NULL);
    g_autoptr(Agent) agent = path && g_file_test(path, G_FILE_TEST_EXISTS)
                                 ? agent_connect(name, AGENT_MS, NULL)
                                 : NULL;
    json_t *addresses = agent ? agent_addresses(agent, NULL) : NULL;

    if (addresses)
        json_object_set_new(json, "addresses", addresses);
}

static void add_files(json_t *json, const char *name)
{
    static const char *const files[] = {PLACE_SOCKET, PLACE_CONSOLE, PLACE_CONSOLE_LOG,
                                        PLACE_LOG,    AGENT_SOCKET,  NULL};
    json_t *object = json_object();

    for (const char *const *file = files; *file; file++) {
        g_autofree char *path = place_file(name, *file, NULL);

        if (path && g_file_test(path, G_FILE_TEST_EXISTS))
            json_object_set_new(object, *file, json_string(path));
    }
    json_object_set_new(json, "files", object);
}

static json_t *inspect(const FleetVm *vm)
{
    json_t *json = describe(vm), *config = fleet_read(vm->name, PLACE_CONFIG);
    json_t *alone = json_pack("[O]", json);

    fleet_add_networks(alone);
    json_decref(alone);
    if (config) {
        json_object_set_new(config, "name", json_string(vm->name)); /* as it is now */
        json_object_set_new(json, "config", config);
    }
    if (*json_get_text(config, "uuid"))
        json_object_set(json, "uuid", json_object_get(config, "uuid"));
    add_files(json, vm->name);
    if (vm->info.state == PLACE_RUNNING) {
        g_autoptr(ControlClient) c = control_client_connect(vm->name, NULL);

        if (c) {
            add_answer(c, json, "vcpus", "query-cpus-fast");
            add_answer(c, json, "devices", "x-hutch-query-devices");
            add_answer(c, json, "disks", "query-block");
        }
        add_addresses(json, vm->name);
    }
    return json;
}

static void print_ids(const char *title, const json_t *list, const char *key,
                      const char *more)
{
    json_t *one;
    size_t i;

    if (!json_array_size(list))
        return;
    printf("%-10s", title);
    json_array_foreach(list, i, one)
    {
        json_t *value = json_object_get(one, key);

        if (json_is_integer(value))
            printf(" %" JSON_INTEGER_FORMAT, json_integer_value(value));
        else
            printf(" %s", json_get_text(one, key));
        if (more && *json_get_text(one, more))
            printf(" (%s)", json_get_text(one, more));
    }
    putchar('\n');
}

static void print_addresses(const json_t *interfaces)
{
    json_t *one, *address;
    size_t i, k;

    json_array_foreach(interfaces, i, one)
        json_array_foreach(json_object_get(one, "addresses"), k, address)
            printf("%-10s %s %s\n", "address", json_get_text(one, "name"),
                   json_string_value(address));
}

static void print_inspection(const json_t *json)
{
    g_autofree char *memory = image_size_text(
        (uint64_t)json_integer_value(json_object_get(json, "memory")));
    g_autofree char *last = last_column(json), *origin = origin_text(json);
    g_autofree char *networks = fleet_networks_text(json);
    const char *file;
    json_t *value;

    printf("%-10s %s\n%-10s %s (%s)\n", "name", json_get_text(json, "name"), "state",
           json_get_text(json, "state"), last);
    if (*json_get_text(json, "uuid"))
        printf("%-10s %s\n", "uuid", json_get_text(json, "uuid"));
    if (origin)
        printf("%-10s %s%s%s\n", "from", origin,
               *json_get_text(json_object_get(json, "from"), "path") ? ": " : "",
               json_get_text(json_object_get(json, "from"), "path"));
    if (json_object_get(json, "pid"))
        printf("%-10s %d\n", "pid",
               (int)json_integer_value(json_object_get(json, "pid")));
    printf("%-10s %d\n%-10s %s\n", "cpus",
           (int)json_integer_value(json_object_get(json, "cpus")), "memory", memory);
    print_ids("threads", json_object_get(json, "vcpus"), "thread-id", NULL);
    print_ids("devices", json_object_get(json, "devices"), "id", "network");
    if (json_array_size(json_object_get(json, "networks")))
        printf("%-10s %s\n", "networks", networks);
    print_addresses(json_object_get(json, "addresses"));
    json_object_foreach(json_object_get(json, "files"), file, value)
        printf("%-10s %s\n", "file", json_string_value(value));
}

bool fleet_act_inspect(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    FleetVm vm;
    json_t *json;

    if (!look_at(names[0], &vm, error))
        return false;
    json = inspect(&vm);
    if (args->json) {
        cli_print_json(json);
        return true;
    }
    print_inspection(json);
    json_decref(json);
    return true;
}
