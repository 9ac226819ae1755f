/* hutch snapshot serve: others restore it over a socket, without a copy of it. */
#include "src/cli/snapshot.h"

#include <stdio.h>

#include "snapshot/serve.h"

typedef struct ServeArgs {
    char *listen;
} ServeArgs;

static const ParamDesc serve_desc[] = {
    {.key = "listen",
     .type = PARAM_STRING,
     .offset = offsetof(ServeArgs, listen),
     .arg = "unix:PATH|tcp:ADDR:PORT",
     .help = "where; port 0 is any that is free, and is printed"},
    {0},
};
const ParamTable snapshot_serve_args = {.size = sizeof(ServeArgs), .desc = serve_desc};

const char snapshot_serve_about[] =
    "Goes on until it is ended by a signal.  'hutch run --restore ADDRESS' begins with "
    "the "
    "registers alone and fetches memory when the guest wants it, and meanwhile all the "
    "rest.  Whoever can connect may read all of the guest's memory; nothing is "
    "encrypted: "
    "on a network that others see, use a tunnel (ssh -L).  Disks are not served.";

static void ready(void *opaque, const char *address)
{
    printf("%s\n", address);
    fflush(stdout);
}

bool snapshot_act_serve(void *options, char **names, int *status, GError **error)
{
    const ServeArgs *args = options;
    g_autofree char *folder = store_find(STORE_SNAPSHOTS, names[0], error);

    if (!folder)
        return false;
    if (!args->listen)
        return fail(error, VM_ERROR_INVALID,
                    "--listen says where to serve it: unix:PATH or tcp:ADDR:PORT");
    return snapshot_serve(folder, args->listen, ready, NULL, error);
}
