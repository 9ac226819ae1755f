/* hutch run: from arguments to a Config, and from a MachineResult to an exit status. */
#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "control/control.h"
#include "control/place.h"
#include "machine/machine.h"
#include "src/cli/cli.h"
#include "util/log.h"

enum { MAX_OPTIONS = 80 };

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

/* The file first, wherever on the line it was named, then what was said on top. */
static bool make_config(Config *cfg, const Arguments *a, const RunOptions *own_options,
                        GError **error)
{
    const char *image = a->names[0];
    g_autofree char *file = image ? images_find(image, error)
                                  : g_strdup(own_options->config);

    if ((image && !file) || (file && !config_load(cfg, file, error)))
        return false;
    for (unsigned i = 0; i < a->n_given; i++) {
        const ConfigOption *o = config_option(a->given[i].option->name);

        if (o && !config_set(cfg, o, a->given[i].value, error)) {
            g_prefix_error(error, "--");
            return false;
        }
    }
    cfg->run_folder = cfg->name != NULL;
    if (!cfg->name && image)
        cfg->name = g_strdup(image);
    return config_finish(cfg, error) && (!cfg->agent || place_agent(cfg, error));
}

static int print_config(const Config *cfg)
{
    json_t *json = config_to_json(cfg);

    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
    return 0;
}

/* ---- running it ------------------------------------------------------------------- */

static bool open_control(const Config *cfg, ControlServer **ret, GError **error)
{
    ControlOptions options = {.name = cfg->run_folder ? cfg->name : NULL,
                              .path = cfg->control,
                              .readonly = cfg->control_readonly};

    if (!control_open(&options, ret, error))
        return false;
    return !cfg->paused || options.name || options.path ||
           fail(error, VM_ERROR_INVALID,
                "--paused: nobody could start it without a control socket; give --name "
                "or --control");
}

static bool run_machine(const Config *cfg, MachineResult *ret, GError **error)
{
    g_autoptr(ControlServer) control = NULL; /* outlives the machine, which tells it of
                                                events */
    g_autoptr(Machine) m = NULL;

    if (!open_control(cfg, &control, error) ||
        !(m = machine_new(cfg, cli_started_ns, error)) ||
        (control && !control_start(control, m, error)))
        return false;
    machine_run(m, ret);
    control_stop(control);
    return true;
}

/* The last line on stderr, after the machine has given back the terminal. */
static void print_result(const MachineResult *r)
{
    /* Names of files may be any bytes, JSON may not. */
    g_autofree char *detail = g_utf8_make_valid(r->detail ? r->detail : "", -1);
    json_t *json = json_pack("{s:i, s:s, s:s, s:O, s:O}", "status", r->status, "reason",
                             r->reason, "detail", detail, "times", r->times, "counters",
                             r->counters);
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;

    if (text)
        fprintf(stderr, "%s\n", text);
    free(text);
    json_decref(json);
}

/* What went wrong is said in a sentence as well; other ends speak by their status. */
static bool is_failure(MachineEnd end)
{
    return end == END_TIMEOUT || end == END_ERROR || end == END_CRASH || end == END_PANIC;
}

static int run_config(const Config *cfg)
{
    g_autoptr(GError) error = NULL;
    MachineResult result = {0};
    int status;

    if (!run_machine(cfg, &result, &error))
        result = (MachineResult){.end = END_ERROR,
                                 .status = EXIT_CANNOT,
                                 .reason = machine_end_reason(END_ERROR),
                                 .detail = g_strdup(error->message),
                                 .times = json_object(),
                                 .counters = json_object()};
    if (is_failure(result.end))
        log_error("%s", result.detail ? result.detail : result.reason);
    if (cfg->json)
        print_result(&result);
    status = result.status;
    machine_result_clear(&result);
    return status;
}

static int run(const Arguments *a, const RunOptions *options)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(GError) error = NULL;

    if (!make_config(cfg, a, options, &error)) {
        log_error("%s", error->message);
        return EXIT_CANNOT;
    }
    if (options->print_config)
        return print_config(cfg);
    if (!cfg->kernel) {
        log_error("there is no kernel to boot; give --kernel FILE, --config FILE or an "
                  "image's name ('hutch run' lists them)");
        return EXIT_CANNOT;
    }
    return run_config(cfg);
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
    else
        status = options->help ? print_help() : run(&a, options);
    param_free(&own_table, options);
    return status;
}
