/* hutch run: from arguments to a Config, and from a MachineResult to an exit status. */
#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "control/place.h"
#include "src/cli/cli.h"
#include "src/cli/freeze.h"
#include "src/cli/monitor.h"
#include "src/cli/restore.h"
#include "src/cli/warm.h"
#include "util/log.h"

enum { MAX_OPTIONS = 80, MAX_NAMESAKES = 1000 };

static const char *const off_on[] = {"off", "on", NULL};

static const ParamDesc own[] = {
    {.key = "config",
     .type = PARAM_PATH,
     .offset = offsetof(RunOptions, config),
     .arg = "FILE",
     .help = "read these options from a JSON file; those given here come on top"},
    {.key = "print-config",
     .type = PARAM_BOOL,
     .offset = offsetof(RunOptions, print_config),
     .help = "print the options as such a file and end"},
    {.key = "restore",
     .type = PARAM_STRING,
     .offset = offsetof(RunOptions, restore),
     .arg = "SNAPSHOT|unix:PATH|tcp:ADDR:PORT",
     .help = "go on where a snapshot was made, here or where 'hutch snapshot serve' "
             "serves it, instead of booting"},
    {.key = "memory-from",
     .type = PARAM_ENUM,
     .offset = offsetof(RunOptions, memory_from),
     .choices = restore_memory_names,
     .def = "private",
     .help = "with --restore: memory is mapped from the snapshot's files (what cannot "
             "be mapped comes when it is wanted), copied, or comes when it is wanted"},
    {.key = "working-set",
     .type = PARAM_ENUM,
     .offset = offsetof(RunOptions, working_set),
     .choices = off_on,
     .def = "on",
     .help = "with --restore: the pages that the guest wants first are recorded beside "
             "the snapshot, and read ahead the next time"},
    {.key = "clock",
     .type = PARAM_ENUM,
     .offset = offsetof(RunOptions, clock),
     .choices = restore_clock_names,
     .def = "stopped",
     .help = "with --restore: the guest's clocks go on where they stood, or catch up"},
    {.key = "trust",
     .type = PARAM_BOOL,
     .offset = offsetof(RunOptions, trust),
     .help = "with --restore: what was imported, or is served, may open the files, "
             "sockets and networks that its config names"},
    {.key = "warm",
     .type = PARAM_STRING,
     .offset = offsetof(RunOptions, warm),
     .arg = "auto|boot|agent|SECONDS",
     .bare = "auto",
     .help = "go on where an earlier VM of the same options had booted; disks are thrown "
             "away"},
    {.key = "detach",
     .letter = 'd',
     .type = PARAM_BOOL,
     .offset = offsetof(RunOptions, detach),
     .help = "leave the VM running in the background, and print its name"},
    {.key = "wait",
     .type = PARAM_STRING,
     .offset = offsetof(RunOptions, wait),
     .arg = "boot|agent|tcp:PORT",
     .help = "with --detach: return when the guest is so far"},
    {.key = "wait-timeout",
     .type = PARAM_UINT,
     .offset = offsetof(RunOptions, wait_timeout),
     .arg = "SECONDS",
     .help = "wait no longer than that; the VM goes on",
     .max = 1000 * 1000},
    {.key = "help",
     .letter = 'h',
     .type = PARAM_BOOL,
     .offset = offsetof(RunOptions, help),
     .help = "print this help and end"},
    {0},
};
static const ParamTable own_table = {.size = sizeof(RunOptions), .desc = own};

const char run_about[] =
    "IMAGE is the name of a folder of the image folder, ${HUTCH_IMAGES} or "
    "${XDG_DATA_HOME:-~/.local/share}/hutch/images, with a config.json in it.  Without "
    "any argument, the images there are listed.";

const char run_notes[] =
    "A value is separate (--cpus 2) or joined (--cpus=2); -- ends the options.  In a "
    "list "
    "of KEY=VALUE the first key listed may be left out (--disk root.raw), a boolean may "
    "stand alone (readonly), and a comma inside a value is doubled.\n\n"
    "The guest's console is on standard output: its first serial port, or the virtio "
    "console given to stdio.  On a terminal, Ctrl-A x quits and Ctrl-A h lists the keys.";

const ExitStatus run_statuses[] = {
    {"0", "the guest powered off, or rebooted under --no-reboot"},
    {"1-123", "the status that the guest gave through the debug-exit port"},
    {"124", "the time of --timeout was over"},
    {"125", "hutch could not do it: usage, or the host"},
    {"126", "the guest crashed: a triple fault, or an exit that KVM could not handle"},
    {"127", "the guest's kernel panicked (pvpanic)"},
    {"128+N", "hutch was ended by signal N; Ctrl-A x counts as 2, QMP's quit as 15"},
    {0},
};

const ConfigOption *run_options(void)
{
    static ConfigOption all[MAX_OPTIONS + 1];
    unsigned n = 0;

    if (all[0].name)
        return all;
    for (const ConfigOption *o = config_options(); o->name; o++)
        all[n++] = *o;
    for (const ParamDesc *d = own; d->key; d++)
        all[n++] = config_scalar_option(d);
    return all;
}

/* ---- the arguments ---------------------------------------------------------------- */

static bool check_names(const Arguments *a, GError **error)
{
    const char *name = a->names[0];

    if (a->n_names > 1)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' and '%s' are both taken for an image's name; values of options "
                    "with a comma or space in them need quotes",
                    a->names[0], a->names[1]);
    return !name || images_check_name(name, error);
}

static bool take_arguments(Arguments *a, RunOptions *run, char **argv, GError **error)
{
    if (!arguments_parse(a, "run", run_options(), argv, error) ||
        !check_names(a, error) || !arguments_apply(a, &own_table, run, error))
        return false;
    if (run->restore && (a->n_names || run->config))
        return fail(error, VM_ERROR_INVALID,
                    "--restore: a snapshot has its own config; leave out %s",
                    run->config ? "--config" : "the image's name");
    if (run->restore && run->warm)
        return fail(error, VM_ERROR_INVALID, "--restore and --warm: give one of the two");
    return !a->n_names || !run->config ||
           fail(error, VM_ERROR_INVALID,
                "an image ('%s') is a --config of its own; give one of the two",
                a->names[0]);
}

/* ---- the config ------------------------------------------------------------------- */

/* The port is not one of the devices: its socket is wherever the VM's run folder is. */
static bool place_agent(Config *cfg, GError **error)
{
    if (!cfg->run_folder)
        return fail(error, VM_ERROR_INVALID,
                    "--agent: the agent's socket is in the run folder of a named VM; "
                    "give --name");
    cfg->agent_socket = place_file(cfg->name, AGENT_SOCKET, error);
    return cfg->agent_socket != NULL;
}

/* The file first, wherever on the line it was named, then what was said on top.
 * *ret_restore is the snapshot that it comes from, NULL: none. */
static bool make_config(Config *cfg, const Arguments *a, const RunOptions *own_options,
                        SnapshotRestore **ret_restore, GError **error)
{
    const char *image = a->names[0];
    g_autofree char *file = image ? images_find(image, error)
                                  : g_strdup(own_options->config);

    *ret_restore = NULL;
    if (own_options->restore) {
        *ret_restore = restore_open(own_options, a, cfg, error);
        return *ret_restore != NULL;
    }
    if ((image && !file) || (file && !config_load(cfg, file, error)))
        return false;
    for (unsigned i = 0; i < a->n_given; i++) {
        const ConfigOption *o = config_option(a->given[i].option->name);

        if (o && !config_set(cfg, o, a->given[i].value, error)) {
            g_prefix_error(error, "--");
            return false;
        }
    }
    return true;
}

static int print_config(const Arguments *a, const RunOptions *options)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(SnapshotRestore) restore = NULL;
    g_autoptr(GError) error = NULL;
    json_t *json;

    if (!make_config(cfg, a, options, &restore, &error) || !config_finish(cfg, &error)) {
        log_error("%s", error->message);
        return EXIT_CANNOT;
    }
    if (!cfg->name)
        cfg->name = g_strdup(a->names[0]);
    json = config_to_json(cfg);
    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
    return 0;
}

/* ---- running it ------------------------------------------------------------------- */

/* For a detached VM that was not named: its image's name, or NAME-2 and so on. */
static bool claim_free(Config *cfg, const char *image, Place *place, GError **error)
{
    for (unsigned i = 1; i <= MAX_NAMESAKES; i++) {
        g_autofree char *name = i == 1 ? g_strdup(image)
                                       : g_strdup_printf("%s-%u", image, i);
        g_autoptr(GError) inner = NULL;

        if (place_claim(place, name, &inner)) {
            cfg->name = g_steal_pointer(&name);
            return true;
        }
        if (!g_error_matches(inner, VM_ERROR, VM_ERROR_BUSY)) {
            g_propagate_error(error, g_steal_pointer(&inner));
            return false;
        }
    }
    return fail(error, VM_ERROR_BUSY,
                "%u VMs of the image '%s' run already; give this one a --name",
                MAX_NAMESAKES, image);
}

/* A name of its own makes a run folder, an image's name only if the VM is detached. */
static bool claim_name(Config *cfg, const char *image, bool detached, Place *place,
                       GError **error)
{
    cfg->run_folder = cfg->name || detached;
    if (cfg->name)
        return place_claim(place, cfg->name, error);
    if (detached)
        return image ? claim_free(cfg, image, place, error)
                     : fail(error, VM_ERROR_INVALID,
                            "--detach: the VM needs a name to be found by; give --name");
    cfg->name = g_strdup(image);
    return true;
}

static bool check_kernel(const Config *cfg, GError **error)
{
    return cfg->kernel ||
           fail(error, VM_ERROR_INVALID,
                "there is no kernel to boot; give --kernel FILE, --config FILE or an "
                "image's name ('hutch run' lists them)");
}

/* What was saved with --freeze; of a detached VM, who waits for it thaws it. */
static void thaw(const SnapshotRestore *restore, const Config *cfg, Detach *detach)
{
    if (!restore || !snapshot_restore_manifest(restore)->frozen || !cfg->agent)
        return;
    if (detach->on)
        detach->frozen = true;
    else if (cfg->paused)
        freeze_say_paused(cfg->name);
    else
        freeze_thaw_beside(cfg->name);
}

static int run(const Arguments *a, const RunOptions *options)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(SnapshotRestore) restore = NULL;
    g_autoptr(GError) error = NULL;
    Detach detach = {0};
    Place place = {0};
    int status;

    if (options->detach && !detach_begin(&detach, options, &status))
        return status;
    if (!make_config(cfg, a, options, &restore, &error) ||
        !claim_name(cfg, a->names[0], detach.on || (options->warm && a->n_names), &place,
                    &error) ||
        !config_finish(cfg, &error) || (cfg->agent && !place_agent(cfg, &error)) ||
        (restore && !restore_disks(restore, a, cfg, place.folder, &error)) ||
        (options->warm && !warm_begin(options->warm, &cfg, &place, &restore, &error)) ||
        (!restore && !check_kernel(cfg, &error))) {
        snapshot_restore_undo(restore);
        place_release(&place);
        log_error("%s", error->message);
        detach_failed(&detach, error->message, EXIT_CANNOT);
        return EXIT_CANNOT;
    }
    if (cfg->run_folder)
        config_make_uuid(cfg);
    thaw(restore, cfg, &detach);
    return monitor_run(cfg, snapshot_restore_machine(restore), &place, &detach);
}

static int print_help(void)
{
    g_autofree char *text = help_verb(verb_find(verbs, "", "run", NULL), "");

    fputs(text, stdout);
    return 0;
}

int verb_run(int argc, char **argv)
{
    __attribute__((cleanup(arguments_clear))) Arguments a = {0};
    g_autoptr(GError) error = NULL;
    RunOptions *options;
    int status = EXIT_CANNOT;

    if (argc == 1)
        return images_print();
    options = param_new(&own_table);
    if (!take_arguments(&a, options, argv, &error))
        log_error("%s", error->message);
    else if (options->help)
        status = print_help();
    else if (options->print_config)
        status = print_config(&a, options);
    else if (!detach_check(options, &error))
        log_error("%s", error->message);
    else
        status = run(&a, options);
    param_free(&own_table, options);
    return status;
}
