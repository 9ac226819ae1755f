/* hutch clone: the options, the template, and what is printed. */
#include "src/cli/clone.h"

#include <stdio.h>
#include <string.h>

#include "snapshot/template.h"
#include "src/cli/template.h"
#include "util/json.h"
#include "util/log.h"

enum { MAX_CLONES = 1000, MAX_NUMBER = 100 * 1000 };

static const char *const identities[] = {"auto", "off", NULL};

static const ParamDesc clone_desc[] = {
    {.key = "count",
     .letter = 'n',
     .type = PARAM_UINT,
     .offset = offsetof(CloneArgs, count),
     .arg = "N",
     .help = "how many VMs to start",
     .def = "1",
     .min = 1,
     .max = MAX_CLONES},
    {.key = "name",
     .type = PARAM_STRING,
     .offset = offsetof(CloneArgs, name),
     .arg = "PATTERN",
     .help = "their names, with %d for a number that makes each one's; by default the "
             "template's and -%d"},
    {.key = "net",
     .type = PARAM_LIST,
     .offset = offsetof(CloneArgs, net),
     .arg = "ID=TYPE[,KEY=VALUE]...",
     .help = "what the card ID is connected to, with %d for the clone's number"},
    {.key = "disks",
     .type = PARAM_PATH,
     .offset = offsetof(CloneArgs, disks),
     .arg = "FOLDER",
     .help = "keep there what clones write to their disks, NAME-ID.qcow2; by default it "
             "goes with them"},
    {.key = "identity",
     .type = PARAM_ENUM,
     .offset = offsetof(CloneArgs, identity),
     .choices = identities,
     .def = "auto",
     .help = "give host name, machine-id, SSH keys and so on by the guest's agent, if it "
             "has one"},
    {.key = "wait",
     .type = PARAM_STRING,
     .offset = offsetof(CloneArgs, wait),
     .arg = "boot|agent|tcp:PORT",
     .help = "return when the guests are so far; a template's has booted already"},
    {.key = "wait-timeout",
     .type = PARAM_UINT,
     .offset = offsetof(CloneArgs, wait_timeout),
     .arg = "SECONDS",
     .help = "wait no longer than that; the VMs go on",
     .max = 1000 * 1000},
    {.key = "trust",
     .type = PARAM_BOOL,
     .offset = offsetof(CloneArgs, trust),
     .help = "what was imported may open the files, sockets and networks that its config "
             "names"},
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(CloneArgs, json),
     .help = "print the VMs as JSON, with the steps of their identity"},
    {0},
};
const ParamTable clone_args = {.size = sizeof(CloneArgs), .desc = clone_desc};

const char clone_about[] =
    "TEMPLATE is a name of 'hutch template ls', or the path of a snapshot's folder, with "
    "a "
    "'/' in it.  A VM that runs is held for a moment, and what its clones have in common "
    "is kept until the last of them ends.";
const char clone_notes[] =
    "Clones share the memory and the disks of their template until they write to them.  "
    "Each has its own name, UUID, VM generation ID, MAC addresses, sockets and files; "
    "forwarded ports have to be said: --net net0=user,hostfwd=tcp:127.0.0.1:22%02d-:22.";

/* ---- names ----------------------------------------------------------------------------
 */

/* None of a VM's that runs or has left something. */
static bool is_free(const char *name)
{
    PlaceInfo info;

    return place_look(name, &info, NULL) && info.state == PLACE_NONE;
}

static bool add_clone(CloneJob *job, unsigned number, const char *pattern, GError **error)
{
    g_autofree char *name = clone_expand(pattern, number);

    if (!place_check_name(name, error))
        return false;
    if (!is_free(name))
        return true;
    job->clones[job->n++] = (Clone){
        .number = number, .name = g_steal_pointer(&name), .uuid = g_uuid_string_random()};
    return true;
}

/* The first free numbers; a name without one must be free. */
static bool choose_names(CloneJob *job, const char *pattern, GError **error)
{
    const CloneArgs *args = job->args;
    bool numbered;

    if (!clone_check_pattern("name", pattern, &numbered, error))
        return false;
    if (args->count > 1 && !numbered)
        return fail(error, VM_ERROR_INVALID,
                    "--name %s: %" G_GUINT64_FORMAT " VMs cannot have one name; put %%d, "
                    "the clone's number, into it",
                    pattern, args->count);
    job->clones = g_new0(Clone, args->count);
    for (unsigned i = 1; job->n < args->count && i <= (numbered ? MAX_NUMBER : 1); i++)
        if (!add_clone(job, i, pattern, error))
            return false;
    return job->n == args->count ||
           fail(error, VM_ERROR_BUSY,
                "there are VMs of the name '%s' already; name the clones otherwise, or "
                "'hutch rm' those",
                pattern);
}

static bool check_nets(const CloneArgs *args, GError **error)
{
    bool numbered;

    for (char **net = args->net; net && *net; net++)
        if (!clone_check_pattern("net", *net, &numbered, error))
            return false;
    return true;
}

/* ---- the template ---------------------------------------------------------------------
 */

static bool save_anonymous(CloneJob *job, const char *vm, GError **error)
{
    job->folder = template_anonymous();
    job->anonymous = true;
    return template_save_vm(vm, job->folder, error);
}

/* A template of that name, or else a VM. */
static bool find_template(CloneJob *job, const char *name, GError **error)
{
    PlaceInfo info = {.state = PLACE_NONE};

    job->folder = store_find(STORE_TEMPLATES, name, error);
    if (job->folder)
        return true;
    if (strchr(name, '/') || !place_look(name, &info, NULL) ||
        info.state != PLACE_RUNNING)
        return false;
    g_clear_error(error);
    return save_anonymous(job, name, error);
}

static bool open_template(CloneJob *job, const char *name, GError **error)
{
    const RestoreOptions how = {.trust = job->args->trust};

    if (!find_template(job, name, error))
        return false;
    job->cfg = config_new();
    job->restore = snapshot_restore_open(job->folder, &how, job->cfg, error);
    return job->restore != NULL;
}

/* ---- what is said of them -------------------------------------------------------------
 */

static json_t *to_json(const Clone *c)
{
    json_t *json = json_pack("{s:s, s:i, s:s}", "name", c->name, "pid", (int)c->pid,
                             "uuid", c->uuid);

    if (c->identity)
        json_object_set(json, "identity", c->identity);
    if (c->error)
        json_object_set_new(json, "error", json_string(c->error->message));
    return json;
}

static void print(const CloneJob *job)
{
    json_t *all = job->args->json ? json_array() : NULL;

    for (unsigned i = 0; i < job->n; i++) {
        const Clone *c = &job->clones[i];

        if (all)
            json_array_append_new(all, to_json(c));
        else if (!c->error)
            printf("%s\n", c->name);
    }
    if (all)
        cli_print_json(all);
}

/* The last error is the caller's to print. */
static bool judge(CloneJob *job, int *status, GError **error)
{
    g_autoptr(GError) last = NULL;

    for (unsigned i = 0; i < job->n; i++) {
        Clone *c = &job->clones[i];

        if (!c->error)
            continue;
        if (last)
            log_error("%s", last->message);
        g_clear_error(&last);
        last = g_error_copy(c->error);
        *status = c->status;
    }
    if (!last)
        return true;
    g_propagate_error(error, g_steal_pointer(&last));
    return false;
}

static void finish(CloneJob *job)
{
    for (unsigned i = 0; i < job->n; i++) {
        Clone *c = &job->clones[i];

        detach_waiter_free(c->waiter);
        json_decref(c->identity);
        g_clear_error(&c->error);
        g_free(c->name);
        g_free(c->uuid);
    }
    g_free(job->clones);
    snapshot_restore_free(job->restore);
    config_free(job->cfg);
    if (job->anonymous) /* fails while they have it */
        template_drop(job->folder);
    g_free(job->folder);
}

bool clone_act(void *options, char **names, int *status, GError **error)
{
    const CloneArgs *args = options;
    g_autofree char *base = g_path_get_basename(names[0]);
    g_autofree char *stem = g_str_has_suffix(base, STORE_SUFFIX)
                                ? g_strndup(base, strlen(base) - strlen(STORE_SUFFIX))
                                : g_strdup(base);
    g_autofree char *by_default = g_strconcat(stem, "-%d", NULL);
    CloneJob job = {.args = args};
    Ready when;
    bool ok;

    clone_prepare_process();
    template_sweep();
    ok = detach_parse_wait(args->wait, &when, error) && check_nets(args, error) &&
         choose_names(&job, args->name ? args->name : by_default, error) &&
         open_template(&job, names[0], error);
    if (ok && clone_start(&job, status)) {
        finish(&job);
        return true; /* this is a clone, and has ended */
    }
    if (ok) {
        clone_wait(&job);
        print(&job);
        ok = judge(&job, status, error);
    }
    finish(&job);
    return ok;
}
