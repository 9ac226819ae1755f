/* hutch snapshot verify: whether a snapshot is what was written, its parents too. */
#include <stdio.h>

#include "src/cli/snapshot.h"
#include "util/log.h"

SNAPSHOT_TABLE(snapshot_verify_args, SNAPSHOT_ARG_JSON, IMAGE_ARG_PROGRESS,
               IMAGE_ARG_QUIET);

const ExitStatus snapshot_verify_statuses[] = {
    {"0", "all of them are what was written"},
    {"1", "one of them is damaged, or cannot be read"},
    {"125", "there is none of that name, or the arguments make no sense"},
    {0},
};

static void progressed(void *opaque, uint64_t done, uint64_t total)
{
    Progress *p = opaque;

    p->total = total;
    atomic_store(&p->done, done);
    progress_tick(p);
}

static bool verify_link(const SnapshotArgs *args, const ManifestLink *l, GError **error)
{
    g_autoptr(StateReader) state = NULL;
    Progress p;
    bool ok;

    progress_begin(&p, &args->common, "verify", 1);
    ok = manifest_verify(l->folder, l->manifest, progressed, &p, error);
    progress_end(&p);
    if (ok)
        state = snap_read_state(l->folder, error); /* its sums */
    return state != NULL;
}

static bool verify(const SnapshotArgs *args, const char *folder, unsigned *ret_links,
                   GError **error)
{
    g_autoptr(GPtrArray) chain = manifest_chain(folder, error);

    for (unsigned i = 0; chain && i < chain->len; i++)
        if (!verify_link(args, g_ptr_array_index(chain, i), error))
            return false;
    *ret_links = chain ? chain->len : 0;
    return chain != NULL;
}

static json_t *report(const SnapshotArgs *args, const char *name, unsigned links,
                      const GError *why)
{
    json_t *json = json_pack("{s:s, s:b}", "name", name, "good", !why);

    if (why)
        json_object_set_new(json, "error", json_string(why->message));
    if (why && !args->common.json)
        log_error("%s: %s", name, why->message);
    else if (!args->common.json && !args->common.quiet && links > 1)
        printf("%s: good, and so are the %u it builds on\n", name, links - 1);
    else if (!args->common.json && !args->common.quiet)
        printf("%s: good\n", name);
    return json;
}

bool snapshot_act_verify(void *options, char **names, int *status, GError **error)
{
    const SnapshotArgs *args = options;
    json_t *all = json_array();
    bool found = true;

    for (; found && *names; names++) {
        g_autofree char *folder = store_find(STORE_SNAPSHOTS, *names, error);
        g_autoptr(GError) why = NULL;
        unsigned links = 0;

        found = folder != NULL;
        if (found && !verify(args, folder, &links, &why))
            *status = 1;
        if (found)
            json_array_append_new(all, report(args, *names, links, why));
    }
    if (found && args->common.json)
        cli_print_json(json_incref(all));
    json_decref(all);
    return found;
}
