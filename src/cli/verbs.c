/* What hutch can be told to do, and the way from a name to a verb. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "hutch-config.h"
#include "src/cli/agent.h"
#include "src/cli/cli.h"
#include "src/cli/clone.h"
#include "src/cli/control.h"
#include "src/cli/disk.h"
#include "src/cli/fleet.h"
#include "src/cli/image.h"
#include "src/cli/interrupt.h"
#include "src/cli/metrics.h"
#include "src/cli/net.h"
#include "src/cli/set.h"
#include "src/cli/snapshot.h"
#include "src/cli/template.h"
#include "src/cli/test.h"
#include "src/cli/warm.h"
#include "util/log.h"

int64_t cli_started_ns;

static int verb_help(int argc, char **argv);
static int verb_generate(int argc, char **argv);
static bool version_act(void *options, char **names, int *status, GError **error);

typedef struct VersionArgs {
    bool json;
} VersionArgs;
static const ParamTable version_args = {
    .size = sizeof(VersionArgs),
    .desc = (const ParamDesc[]){{.key = "json",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(VersionArgs, json),
                                 .help = "print it as JSON"},
                                {0}},
};

const Verb verbs[] = {
    {.group = "Starting VMs",
     .name = "run",
     .args = "[IMAGE] [OPTION]...",
     .help = "start a VM, and stay with it until it ends, or leave it (-d)",
     .names = NAMES_GUESTS,
     .run = verb_run,
     .options = run_options,
     .about = run_about,
     .notes = run_notes,
     .statuses = run_statuses},
    {.name = "clone",
     .args = "TEMPLATE|VM [OPTION]...",
     .help = "start VMs that go on where a template, or a VM that runs, is",
     .names = NAMES_TEMPLATES,
     .verbs = clone_verbs,
     .act = clone_act,
     .params = &clone_args,
     .min_names = 1,
     .max_names = 1,
     .about = clone_about,
     .notes = clone_notes},
    {.name = "template",
     .args = "VERB ...",
     .help = "make, list and remove what VMs are cloned from",
     .verbs = template_verbs},
    {.name = "warm",
     .args = "VERB ...",
     .help = "list and remove what 'hutch run --warm' keeps",
     .verbs = warm_verbs},
    {.name = "test",
     .args = "[OPTION]... -- COMMAND...",
     .help = "run a command in a throwaway VM, or in many",
     .act = test_act,
     .params = &test_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .about = test_about,
     .notes = test_notes,
     .statuses = test_statuses},
    {.group = "VMs, running or ended",
     .name = "ps",
     .args = "[OPTION]...",
     .help = "list VMs: those that run, have ended, or whose monitor died",
     .act = fleet_act_ps,
     .params = &fleet_ps_args},
    {.name = "status",
     .args = "VM",
     .help = "say whether a VM runs, is paused, or has ended",
     .names = NAMES_VMS,
     .act = fleet_act_status,
     .params = &fleet_json_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "inspect",
     .args = "VM",
     .help = "tell all that is known of a VM",
     .names = NAMES_VMS,
     .act = fleet_act_inspect,
     .params = &fleet_json_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "pause",
     .args = "VM...|--all",
     .help = "hold a VM's guest where it is",
     .names = NAMES_VMS,
     .act = fleet_act_pause,
     .params = &fleet_all_args,
     .max_names = UINT_MAX,
     .about = fleet_vm_about},
    {.name = "resume",
     .args = "VM...|--all",
     .help = "let a paused guest go on",
     .names = NAMES_VMS,
     .act = fleet_act_resume,
     .params = &fleet_all_args,
     .max_names = UINT_MAX,
     .about = fleet_vm_about},
    {.name = "stop",
     .args = "VM...|--all",
     .help = "press the power button, and wait until the VM has ended",
     .names = NAMES_VMS,
     .act = fleet_act_stop,
     .params = &fleet_stop_args,
     .max_names = UINT_MAX,
     .about = fleet_vm_about},
    {.name = "reset",
     .args = "VM...|--all",
     .help = "press the reset button",
     .names = NAMES_VMS,
     .act = fleet_act_reset,
     .params = &fleet_all_args,
     .max_names = UINT_MAX,
     .about = fleet_vm_about},
    {.name = "kill",
     .args = "VM...|--all",
     .help = "kill a VM's monitor at once; disks get no last flush",
     .names = NAMES_VMS,
     .act = fleet_act_kill,
     .params = &fleet_all_args,
     .max_names = UINT_MAX},
    {.name = "rm",
     .args = "VM...|--all",
     .help = "remove what is kept of a VM that has ended",
     .names = NAMES_VMS,
     .act = fleet_act_rm,
     .params = &fleet_force_args,
     .max_names = UINT_MAX},
    {.name = "rename",
     .args = "VM NAME",
     .help = "give a VM another name, also while it runs",
     .names = NAMES_VMS,
     .act = fleet_act_rename,
     .params = &fleet_json_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "wait",
     .args = "VM",
     .help = "wait until a VM has ended, and end with its exit status",
     .names = NAMES_VMS,
     .act = fleet_act_wait,
     .params = &fleet_wait_args,
     .min_names = 1,
     .max_names = 1,
     .about = fleet_vm_about,
     .statuses = fleet_wait_statuses},
    {.name = "logs",
     .args = "VM",
     .help = "print what the console of a detached VM said",
     .names = NAMES_VMS,
     .act = fleet_act_logs,
     .params = &fleet_logs_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "console",
     .args = "VM",
     .help = "attach the terminal to the console of a detached VM",
     .names = NAMES_VMS,
     .act = fleet_act_console,
     .params = &fleet_console_args,
     .min_names = 1,
     .max_names = 1,
     .notes = fleet_console_notes},
    {.name = "events",
     .args = "[VM]...",
     .help = "tell what happens to VMs, one event a line",
     .names = NAMES_VMS,
     .act = fleet_act_events,
     .params = &fleet_events_args,
     .max_names = UINT_MAX,
     .about = fleet_vm_about},
    {.name = "set",
     .args = "VM [ID.KEY=VALUE]...",
     .help = "change a running VM, or list what can be changed",
     .names = NAMES_VMS,
     .act = set_act,
     .params = &set_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .about = set_about,
     .notes = set_notes},
    {.name = "config",
     .args = "VERB VM ...",
     .help = "show or save what a VM was made from",
     .verbs = fleet_config_verbs},
    {.group = "In a guest, by its agent",
     .name = "exec",
     .args = "VM [OPTION]... -- COMMAND [ARGUMENT]...",
     .help = "run a command in a guest, by its agent",
     .names = NAMES_VMS,
     .act = exec_act,
     .params = &exec_args,
     .min_names = 2,
     .max_names = UINT_MAX,
     .about = exec_about,
     .notes = exec_notes,
     .statuses = exec_statuses},
    {.name = "cp",
     .args = "SOURCE DESTINATION",
     .help = "copy a file or folder to or from a guest (VM:/PATH), by its agent",
     .names = NAMES_VMS_AND_FILES,
     .act = cp_act,
     .params = &copy_args,
     .min_names = 2,
     .max_names = 2,
     .about = copy_about},
    {.name = "put",
     .args = "VM FILE PATH",
     .help = "copy a file or folder into a guest",
     .names = NAMES_VMS_AND_FILES,
     .act = put_act,
     .params = &copy_args,
     .min_names = 3,
     .max_names = 3,
     .about = copy_about},
    {.name = "get",
     .args = "VM PATH [FILE]",
     .help = "copy a file or folder out of a guest",
     .names = NAMES_VMS_AND_FILES,
     .act = get_act,
     .params = &copy_args,
     .min_names = 2,
     .max_names = 3,
     .about = copy_about},
    {.name = "agent",
     .args = "VERB VM",
     .help = "ask the agent in a guest",
     .verbs = agent_verbs},
    {.group = "Snapshots",
     .name = "snapshot",
     .args = "VERB ...",
     .help = "make, look at, and move snapshots of VMs",
     .verbs = snapshot_verbs},
    {.name = "check-restore",
     .args = "NAME",
     .help = "say whether a snapshot can be restored here, and what would stop it",
     .names = NAMES_SNAPSHOTS,
     .act = snapshot_act_check,
     .params = &snapshot_check_args,
     .min_names = 1,
     .max_names = 1,
     .about = snapshot_check_about,
     .statuses = snapshot_check_statuses},
    {.group = "Disks",
     .name = "disk",
     .args = "VERB VM ...",
     .help = "look at the disks of a running VM, and change them",
     .verbs = disk_verbs},
    {.name = "image",
     .args = "VERB ...",
     .help = "make, convert, check and change disk images",
     .verbs = image_verbs},
    {.group = "Networks",
     .name = "net",
     .args = "VERB ...",
     .help = "make networks, and look at and change what is on them",
     .verbs = net_verbs,
     .about = net_about},
    {.name = "firewall",
     .args = "VERB TARGET ...",
     .help = "see, change and test what packets may pass",
     .verbs = firewall_verbs,
     .about = firewall_about},
    {.group = "A closer look",
     .name = "top",
     .args = "[OPTION]...",
     .help = "watch what VMs do: processor, memory, disks, networks",
     .act = top_act,
     .params = &top_args,
     .about = top_about,
     .notes = top_notes},
    {.name = "metrics",
     .args = "[VM]... [--json]",
     .help = "print what VMs count and measure, for Prometheus",
     .names = NAMES_VMS,
     .act = metrics_act,
     .params = &metrics_args,
     .max_names = UINT_MAX,
     .about = metrics_about,
     .notes = metrics_notes},
    {.name = "control",
     .args = "VM COMMAND|- [ARGUMENT]...",
     .help = "send a command to a running VM, or follow its events",
     .names = NAMES_VMS,
     .act = control_act,
     .params = &control_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .about = control_about,
     .notes = control_notes},
    {.name = "doctor",
     .args = "[--json]",
     .help = "look whether this host can run VMs, and say what to do",
     .act = doctor_act,
     .params = &doctor_args,
     .about = doctor_about,
     .statuses = doctor_statuses},
    {.group = "This program",
     .name = "help",
     .args = "[VERB]...",
     .help = "describe hutch, or one of its verbs",
     .run = verb_help},
    {.name = "version",
     .args = "[--json]",
     .help = "print hutch's version",
     .act = version_act,
     .params = &version_args},
    {.name = "generate",
     .args = "man|bash|zsh|fish",
     .help = "print the man page or a completion script",
     .hidden = true,
     .run = verb_generate},
    {0},
};

const Verb *verb_find(const Verb *table, const char *where, const char *name,
                      GError **error)
{
    const Verb *near = NULL;

    for (const Verb *v = table; v->name; v++) {
        if (g_str_equal(v->name, name))
            return v;
        if (!v->hidden && !near && param_similar(name, v->name))
            near = v;
    }
    if (near)
        fail(error, VM_ERROR_INVALID, "there is no verb '%s%s%s'; did you mean '%s'?",
             where, *where ? " " : "", name, near->name);
    else
        fail(error, VM_ERROR_INVALID, "there is no verb '%s%s%s'; see 'hutch help%s%s'",
             where, *where ? " " : "", name, *where ? " " : "", where);
    return NULL;
}

/* ---- the options of a verb -------------------------------------------------------- */

/* Every verb has it. */
typedef struct HelpOption {
    bool help;
} HelpOption;
static const ParamDesc help_desc[] = {{.key = "help",
                                       .letter = 'h',
                                       .type = PARAM_BOOL,
                                       .offset = offsetof(HelpOption, help),
                                       .help = "print this help and end"},
                                      {0}};
static const ParamTable help_table = {.size = sizeof(HelpOption), .desc = help_desc};

void verb_options(const Verb *verb, ConfigOption *ret)
{
    unsigned n = 0;

    for (const ConfigOption *o = verb->options ? verb->options() : NULL; o && o->name;
         o++)
        ret[n++] = *o;
    for (const ParamDesc *d = verb->params ? verb->params->desc : NULL; d && d->key; d++)
        ret[n++] = config_scalar_option(d);
    if (verb->act)
        ret[n++] = config_scalar_option(help_desc);
    g_assert(n <= MAX_VERB_OPTIONS);
    ret[n] = (ConfigOption){0};
}

/* ---- doing it --------------------------------------------------------------------- */

static int print(char *text)
{
    fputs(text, stdout);
    g_free(text);
    return 0;
}

static bool count_names(const Verb *v, const char *path, const Arguments *a,
                        GError **error)
{
    if (a->n_names < v->min_names)
        return fail(error, VM_ERROR_INVALID, "%s: something is missing: hutch %s %s",
                    path, path, v->args);
    return a->n_names <= v->max_names ||
           fail(error, VM_ERROR_INVALID,
                "%s: '%s' is one argument too many (hutch %s %s); a value with spaces in "
                "it needs quotes",
                path, a->names[v->max_names], path, v->args);
}

/* `path`: "image create". */
static bool act(const Verb *v, const char *path, const char *where, char **argv,
                int *status, GError **error)
{
    ConfigOption options[MAX_VERB_OPTIONS + 1];
    __attribute__((cleanup(arguments_clear))) Arguments a = {0};
    HelpOption help = {0};
    void *params;
    bool ok;

    verb_options(v, options);
    if (!arguments_parse(&a, path, options, argv, error) ||
        !arguments_apply(&a, &help_table, &help, error))
        return false;
    if (help.help) {
        *status = print(help_verb(v, where));
        return true;
    }
    params = param_new(v->params);
    ok = count_names(v, path, &a, error) &&
         arguments_apply(&a, v->params, params, error) &&
         v->act(params, a.names, status, error);
    param_free(v->params, params);
    return ok;
}

static int dispatch(const Verb *v, const char *path, const char *where, int argc,
                    char **argv)
{
    const char *name = argc > 1 ? argv[1] : "--help";
    g_autoptr(GError) error = NULL;
    const Verb *below;

    if (g_str_equal(name, "--help") || g_str_equal(name, "-h"))
        return print(help_verb(v, where));
    below = verb_find(v->verbs, path, name, &error);
    if (below)
        return verb_main(below, path, argc - 1, argv + 1);
    log_error("%s", error->message);
    return EXIT_CANNOT;
}

static bool is_verb(const Verb *table, const char *name)
{
    while (table->name && !g_str_equal(table->name, name))
        table++;
    return table->name != NULL;
}

int verb_main(const Verb *verb, const char *where, int argc, char **argv)
{
    g_autofree char *path = g_strconcat(where, *where ? " " : "", verb->name, NULL);
    g_autoptr(GError) error = NULL;
    int status = 0;

    if (verb->verbs && (!verb->act || (argc > 1 && is_verb(verb->verbs, argv[1]))))
        return dispatch(verb, path, where, argc, argv);
    if (verb->run)
        return verb->run(argc, argv);
    if (act(verb, path, where, argv, &status, &error))
        return status;
    log_error("%s", error->message);
    if (interrupt_signal())
        return 128 + interrupt_signal();
    return status ? status : EXIT_CANNOT;
}

/* ---- the small ones --------------------------------------------------------------- */

static bool version_act(void *options, char **names, int *status, GError **error)
{
    if (((VersionArgs *)options)->json)
        puts("{\"version\": \"" HUTCH_VERSION "\"}");
    else
        puts("hutch " HUTCH_VERSION);
    return true;
}

static int verb_help(int argc, char **argv)
{
    g_autoptr(GString) where = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    const Verb *v = NULL, *table = verbs;

    for (int i = 1; i < argc && table; i++) {
        if (v)
            g_string_append_printf(where, "%s%s", where->len ? " " : "", v->name);
        v = verb_find(table, where->str, argv[i], &error);
        if (!v) {
            log_error("%s", error->message);
            return EXIT_CANNOT;
        }
        table = v->verbs;
    }
    return print(v ? help_verb(v, where->str) : help_overview());
}

static int verb_generate(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    char *text = g_str_equal(what, "man") ? man_page() : completion_script(what);

    if (text)
        return print(text);
    log_error("generate what: man, bash, zsh or fish?");
    return EXIT_CANNOT;
}
