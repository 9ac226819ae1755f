/* hutch net log: what a network's switch has said and says. */
#include "network/place.h"
#include "src/cli/net.h"
#include "src/cli/tail.h"

typedef struct LogArgs {
    bool follow, json;
} LogArgs;

const ParamTable net_log_args = {
    .size = sizeof(LogArgs),
    .desc = (const ParamDesc[]){{.key = "follow",
                                 .letter = 'f',
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(LogArgs, follow),
                                 .help = "go on, until it is interrupted"},
                                {.key = "json",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(LogArgs, json),
                                 .help = "print each line as a JSON string"},
                                {0}},
};

static bool print(const LogArgs *args, const char *network, Tail *t, GError **error)
{
    if (!tail_open(t, error))
        return false;
    if (t->fd < 0 && args->follow)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "network '%s' has no log yet: it begins when a VM joins", network);
    return args->follow ? tail_follow(t, -1, error) : tail_print(t, error);
}

bool net_act_log(void *options, char **names, int *status, GError **error)
{
    const LogArgs *args = options;
    NetTarget target;
    char *path;
    Tail t;
    bool ok;

    if (!net_target(names[0], NULL, &target, error))
        return false;
    net_target_clear(&target);
    path = network_place(names[0], "log", error);
    if (!path)
        return false;
    tail_init(&t, path, args->json);
    ok = print(args, names[0], &t, error);
    tail_clear(&t);
    return ok;
}
