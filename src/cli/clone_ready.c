/* The guests of clones: what only their agents can do, and waiting until they are ready.
 * All monitors start at once, and are waited for one after the other.  Agents take
 * seconds, so several are talked to at a time, each by a thread. */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/identity.h"
#include "control/client.h"
#include "src/cli/agent.h"
#include "src/cli/clone.h"
#include "src/cli/waiting.h"
#include "util/json.h"
#include "util/log.h"
#include "util/unixsocket.h"
#include "virtio/console.h"
#include "virtio/devices.h"

enum { MAX_TALKERS = 8, AGENT_STEP_MS = 120 * 1000, MAX_CARDS = 64 };

/* ---- identity by the agent ------------------------------------------------------------
 */

static void add_card(GArray *macs, const json_t *device)
{
    const char *now = json_get_text(device, "mac"),
               *own = json_get_text(device, "own-mac");
    IdentityMac mac;

    if (!*now || !*own || macs->len == MAX_CARDS)
        return;
    g_strlcpy(mac.now, now, sizeof(mac.now));
    g_strlcpy(mac.own, own, sizeof(mac.own));
    g_array_append_val(macs, mac);
}

/* As the monitor tells: the guest goes on with its template's. */
static GArray *list_cards(const char *vm, GError **error)
{
    g_autoptr(ControlClient) client = control_client_connect(vm, error);
    json_t *all = client
                      ? control_client_call(client, "x-hutch-query-devices", NULL, error)
                      : NULL;
    GArray *macs;
    json_t *one;
    size_t i;

    if (!all)
        return NULL;
    macs = g_array_new(FALSE, FALSE, sizeof(IdentityMac));
    json_array_foreach(all, i, one) add_card(macs, one);
    json_decref(all);
    return macs;
}

/* Saved so, with --freeze. */
static bool is_frozen(const CloneJob *job)
{
    return snapshot_restore_manifest(job->restore)->frozen;
}

static bool thaw(const CloneJob *job, Agent *agent, GError **error)
{
    if (!is_frozen(job) || agent_thaw(agent, NULL, error))
        return true;
    g_prefix_error(error, "its file systems are frozen, as they were saved: ");
    return false;
}

static bool talk(const CloneJob *job, const Clone *c, json_t **ret, GError **error)
{
    g_autoptr(GArray) macs = list_cards(c->name, error);
    g_autoptr(Agent) agent = macs ? agent_connect(c->name, CLI_AGENT_MS, error) : NULL;
    g_autofree char *hostname = identity_hostname(c->name);
    g_autofree char *failures = NULL;
    Identity id = {.hostname = hostname,
                   .uuid = c->uuid,
                   .macs = macs ? (const IdentityMac *)(void *)macs->data : NULL,
                   .n_macs = macs ? macs->len : 0,
                   .step_ms = AGENT_STEP_MS};

    *ret = NULL;
    if (!agent || !thaw(job, agent, error))
        return false;
    if (job->args->identity == CLONE_IDENTITY_OFF)
        return true;
    *ret = identity_give(agent, &id, error);
    failures = *ret ? identity_failures(*ret) : NULL;
    return *ret && (!failures || fail(error, VM_ERROR_IO, "%s", failures));
}

static void give_identity(const CloneJob *job, Clone *c)
{
    g_autoptr(GError) inner = NULL;

    if (talk(job, c, &c->identity, &inner))
        return;
    c->status = EXIT_CANNOT;
    fail(&c->error, inner->code,
         "VM '%s' runs, but is not itself in all respects: %s ('--identity off' makes "
         "clones that stay alike)",
         c->name, inner->message);
}

typedef struct Talkers {
    CloneJob *job;
    unsigned next; /* atomic */
} Talkers;

static void *talker(void *opaque)
{
    Talkers *t = opaque;
    unsigned i;

    while ((i = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED)) < t->job->n)
        if (!t->job->clones[i].error)
            give_identity(t->job, &t->job->clones[i]);
    return NULL;
}

static void give_identities(CloneJob *job)
{
    Talkers t = {.job = job};
    pthread_t threads[MAX_TALKERS];
    unsigned n = 0;

    while (n < MIN(job->n - 1, MAX_TALKERS) &&
           pthread_create(&threads[n], NULL, talker, &t) == 0)
        n++;
    talker(&t);
    while (n)
        pthread_join(threads[--n], NULL);
}

/* ---- waiting --------------------------------------------------------------------------
 */

static void wait_for_all(CloneJob *job, const char *what)
{
    for (unsigned i = 0; i < job->n; i++) {
        Clone *c = &job->clones[i];

        if (!c->error)
            c->status = detach_waiter_wait(c->waiter, what, &c->error);
    }
}

void clone_wait(CloneJob *job)
{
    const CloneArgs *args = job->args;
    Waiting waiting;

    waiting_begin(&waiting, "clone: waits for the VMs", WAITING_EVERY_MS);
    wait_for_all(job, NULL);
    if (job->cfg->agent && (args->identity == CLONE_IDENTITY_AUTO || is_frozen(job)))
        give_identities(job);
    if (args->wait && !g_str_equal(args->wait, "boot"))
        wait_for_all(job, args->wait);
    waiting_end(&waiting);
}
