/* passt as the process that serves a card's queues (--net passt,mode=vhost-user), which
 * it does since 2024: it works in the guest's memory, and no frame passes by us.  It is
 * started, and started again, by virtio/vhost_user_dev.c. */
#include <string.h>

#include "src/net/netdev_private.h"
#include "src/net/passt_child.h"

/* Asked once: another passt will be noticed by the next monitor. */
bool passt_has_vhost_user(void)
{
    enum { UNKNOWN, NO, YES };
    static int known;
    int now = __atomic_load_n(&known, __ATOMIC_RELAXED);
    g_autofree char *program = g_find_program_in_path("passt");
    char *argv[] = {program, (char *)"--help", NULL};
    g_autofree char *out = NULL, *err = NULL;

    if (now == UNKNOWN && program &&
        g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, NULL,
                     NULL)) {
        now = strstr(out, "--vhost-user") || strstr(err, "--vhost-user") ? YES : NO;
        __atomic_store_n(&known, now, __ATOMIC_RELAXED);
    }
    return now == YES;
}

void *passt_helper_new(const NetDevOptions *o, const char *id, IoLoop *loop,
                       GError **error)
{
    PasstChild *c = passt_child_new(o, PASST_VHOST_USER, id, loop, error);

    if (!c || passt_has_vhost_user())
        return c;
    passt_child_free(c);
    fail(error, VM_ERROR_UNSUPPORTED,
         "the passt of this host does not know vhost-user: install a newer one (of 2024 "
         "or later), or say mode=stream");
    return NULL;
}

static int start(void *helper, GError **error)
{
    return passt_child_start(helper, error);
}

static void stop(void *helper)
{
    passt_child_stop(helper);
}

static void serves(void *helper)
{
    passt_child_serves(helper);
}

static int64_t next_start(const void *helper)
{
    return passt_child_next_start(helper);
}

static const char *last_words(void *helper)
{
    return passt_child_last_words(helper);
}

static void finish(void *helper)
{
    passt_child_free(helper);
}

const VhostHelperOps passt_helper_ops = {
    .name = "passt",
    .start = start,
    .stop = stop,
    .serves = serves,
    .next_start = next_start,
    .last_words = last_words,
    .free = finish,
};
