/* hutch net leases: which VM has which address.  A switch that runs is asked; of a
 * network that is down the file is read that its next switch goes on with. */
#include <fcntl.h>
#include <sys/stat.h>

#include "network/place.h"
#include "src/cli/net.h"
#include "util/fd.h"
#include "util/json.h"

enum { MAX_FILE = 16 << 20 };

typedef struct LeaseArgs {
    bool json;
    char *release;
} LeaseArgs;

const ParamTable net_lease_args = {
    .size = sizeof(LeaseArgs),
    .desc = (const ParamDesc[]){{.key = "release",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(LeaseArgs, release),
                                 .arg = "VM|ADDRESS",
                                 .help = "forget it: another may get that address"},
                                {.key = "json",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(LeaseArgs, json),
                                 .help = "print the result as JSON"},
                                {0}},
};

static char *expires(const json_t *row)
{
    const json_t *left = json_object_get(row, "expires");
    json_int_t s = json_integer_value(left);

    if (json_is_true(json_object_get(row, "static")))
        return g_strdup("static");
    if (!left)
        return g_strdup("kept");
    return g_strdup_printf("%d:%02d:%02d", (int)(s / 3600), (int)(s / 60 % 60),
                           (int)(s % 60));
}

static const NetColumn lease_columns[] = {
    {"ADDRESS", "address"},
    {"VM", NULL, false, net_who},
    {"MAC", "mac"},
    {"EXPIRES IN", NULL, true, expires},
    {0},
};

/* ---- a network that is down -----------------------------------------------------------
 */

static json_t *read_file(const char *path)
{
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *text = NULL;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > MAX_FILE)
        return NULL;
    text = g_malloc((gsize)st.st_size + 1);
    if (!fd_pread_all(fd, text, (size_t)st.st_size, 0, NULL))
        return NULL;
    return json_loadb(text, (size_t)st.st_size, 0, NULL);
}

/* The rows of a VM's entry: one for each kind of address. */
static void add_rows(json_t *rows, const json_t *entry)
{
    static const char *const addresses[] = {"address", "address6", NULL};
    static const char *const keys[] = {"vm", "nic", "mac", NULL};

    for (const char *const *a = addresses; *a; a++) {
        json_t *address = json_object_get(entry, *a), *row;

        if (!json_is_string(address))
            continue;
        row = json_object();
        json_object_set(row, "address", address);
        for (const char *const *k = keys; *k; k++)
            if (json_object_get(entry, *k))
                json_object_set(row, *k, json_object_get(entry, *k));
        json_object_set_new(row, "static", json_false());
        json_array_append_new(rows, row);
    }
}

static json_t *stored(const char *network)
{
    g_autofree char *path = network_file(network, "leases.json");
    json_t *file = read_file(path), *rows = json_array(), *entry;
    size_t i;

    json_array_foreach(file, i, entry) add_rows(rows, entry);
    json_decref(file);
    return rows;
}

/* ---- the verb -------------------------------------------------------------------------
 */

static bool release(const char *network, const char *whose, GError **error)
{
    Ip ip;
    const char *key = ip_parse(whose, &ip, NULL) ? "address" : "vm";
    json_t *reply = network_call(network, false, "lease-release",
                                 json_pack("{s:s}", key, whose), error);

    json_decref(reply);
    return reply != NULL;
}

bool net_act_leases(void *options, char **names, int *status, GError **error)
{
    const LeaseArgs *args = options;
    const char *network = names[0];
    NetTarget t;

    if (!net_target(network, NULL, &t, error))
        return false;
    net_target_clear(&t);
    if (args->release)
        return release(network, args->release, error);
    return net_print(network_is_up(network)
                         ? network_call(network, false, "query-leases", NULL, error)
                         : stored(network),
                     lease_columns, args->json);
}
