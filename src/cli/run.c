/* hutch run: from arguments to a Config, and from a MachineResult to an exit status. */
#include <stdio.h>
#include <string.h>

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
     .type = PARAM_BOOL,
     .offset = offsetof(RunOptions, help),
     .help = "print this help and end"},
    {0},
};
static const ParamTable own_table = {.size = sizeof(RunOptions), .desc = own};

static const struct {
    char letter;
    const char *name;
} letters[] = {{'c', "cpus"}, {'m', "memory"}, {'h', "help"}};

char run_option_letter(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(letters); i++)
        if (g_str_equal(letters[i].name, name))
            return letters[i].letter;
    return 0;
}

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

static bool is_own(const ConfigOption *o)
{
    return o->scalar >= own && o->scalar < own + G_N_ELEMENTS(own);
}

/* ---- the arguments --------------------------------------------------------------------
 */

typedef struct Given {
    const ConfigOption *option;
    const char *value; /* NULL: none */
} Given;

typedef struct Arguments {
    const char *image;
    Given *given; /* as many as there are arguments is enough */
    unsigned n_given;
    RunOptions *own;
} Arguments;

static void arguments_free(Arguments *a)
{
    g_free(a->given);
    param_free(&own_table, a->own);
}

static const ConfigOption *find_option(const char *arg, size_t name_len, GError **error)
{
    const ConfigOption *near = NULL;
    g_autofree char *name = name_len > 2 ? g_strndup(arg + 2, name_len - 2)
                                         : g_strdup("");

    for (const ConfigOption *o = run_options(); o->name; o++) {
        if (arg[1] == '-' && g_str_equal(o->name, name))
            return o;
        if (arg[1] != '-' && name_len == 2 && arg[1] == run_option_letter(o->name))
            return o;
        if (arg[1] == '-' && !near && param_similar(name, o->name))
            near = o;
    }
    if (near)
        fail(error, VM_ERROR_INVALID, "there is no option '%.*s'; did you mean '--%s'?",
             (int)name_len, arg, near->name);
    else
        fail(error, VM_ERROR_INVALID, "there is no option '%.*s'; see 'hutch run --help'",
             (int)name_len, arg);
    return NULL;
}

/* One argument that begins with a dash, and its value, which may be the next one. */
static bool take_option(Arguments *a, char ***at, GError **error)
{
    const char *arg = *(*at)++;
    const char *equals = strchr(arg, '=');
    const ConfigOption *o = find_option(
        arg, equals ? (size_t)(equals - arg) : strlen(arg), error);
    const char *value = equals ? equals + 1 : NULL;
    g_autofree char *wanted = NULL;

    if (!o)
        return false;
    wanted = help_placeholder(o);
    if (!value && o->value == CONFIG_VALUE_REQUIRED) {
        value = **at;
        if (!value)
            return fail(error, VM_ERROR_INVALID, "--%s needs a value: %s", o->name,
                        wanted);
        if (g_str_has_prefix(value, "--"))
            return fail(error, VM_ERROR_INVALID,
                        "--%s needs a value: %s (if '%s' is meant, write --%s=%s)",
                        o->name, wanted, value, o->name, value);
        (*at)++;
    }
    for (unsigned i = 0; i < a->n_given && !o->repeats; i++)
        if (a->given[i].option == o)
            return fail(error, VM_ERROR_INVALID, "--%s is given twice", o->name);
    a->given[a->n_given++] = (Given){o, value};
    return true;
}

static bool take_image(Arguments *a, const char *name, GError **error)
{
    if (a->image)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' and '%s' are both taken for an image's name; values of options "
                    "with a comma or space in them need quotes",
                    a->image, name);
    if (strchr(name, '/') || *name == '.' || !*name)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is no image's name; files are given by --config or --kernel",
                    name);
    a->image = name;
    return true;
}

static bool take_arguments(Arguments *a, int argc, char **argv, GError **error)
{
    bool options = true;

    a->given = g_new0(Given, argc + 1);
    a->own = param_new(&own_table);
    for (argv++; *argv;) {
        if (options && g_str_equal(*argv, "--")) {
            options = false;
            argv++;
        } else if (options && **argv == '-') {
            if (!take_option(a, &argv, error))
                return false;
        } else if (!take_image(a, *argv++, error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < a->n_given; i++)
        if (is_own(a->given[i].option) &&
            !param_set(a->given[i].option->scalar, a->own, a->given[i].value, error)) {
            g_prefix_error(error, "--");
            return false;
        }
    if (a->image && a->own->config)
        return fail(error, VM_ERROR_INVALID,
                    "an image ('%s') is a --config of its own; give one of the two",
                    a->image);
    return true;
}

/* ---- the config -----------------------------------------------------------------------
 */

/* The file first, wherever on the line it was named, then what was said on top. */
static bool make_config(Config *cfg, const Arguments *a, GError **error)
{
    g_autofree char *file = a->image ? images_find(a->image, error)
                                     : g_strdup(a->own->config);

    if ((a->image && !file) || (file && !config_load(cfg, file, error)))
        return false;
    for (unsigned i = 0; i < a->n_given; i++)
        if (!is_own(a->given[i].option) &&
            !config_set(cfg, a->given[i].option, a->given[i].value, error)) {
            g_prefix_error(error, "--");
            return false;
        }
    if (!cfg->name && a->image)
        cfg->name = g_strdup(a->image);
    return config_finish(cfg, error);
}

static int print_config(const Config *cfg)
{
    json_t *json = config_to_json(cfg);

    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
    return 0;
}

/* ---- running it -----------------------------------------------------------------------
 */

static bool run_machine(const Config *cfg, MachineResult *ret, GError **error)
{
    g_autoptr(Machine) m = machine_new(cfg, cli_started_ns, error);

    if (!m)
        return false;
    machine_run(m, ret);
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

static int run(const Arguments *a)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(GError) error = NULL;

    if (!make_config(cfg, a, &error)) {
        log_error("%s", error->message);
        return EXIT_CANNOT;
    }
    if (a->own->print_config)
        return print_config(cfg);
    if (!cfg->kernel) {
        log_error("there is no kernel to boot; give --kernel FILE, --config FILE or an "
                  "image's name ('hutch run' lists them)");
        return EXIT_CANNOT;
    }
    return run_config(cfg);
}

int verb_run(int argc, char **argv)
{
    __attribute__((cleanup(arguments_free))) Arguments a = {0};
    g_autoptr(GError) error = NULL;

    if (argc == 1)
        return images_print();
    if (!take_arguments(&a, argc, argv, &error)) {
        log_error("%s", error->message);
        return EXIT_CANNOT;
    }
    if (a.own->help) {
        g_autofree char *text = help_verb(verb_find("run"));

        fputs(text, stdout);
        return 0;
    }
    return run(&a);
}
