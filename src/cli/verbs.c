/* What hutch can be told to do, and how it ends. */
#include <stdio.h>

#include "hutch-config.h"
#include "src/cli/cli.h"
#include "util/log.h"

int64_t cli_started_ns;

const Verb verbs[] = {
    {"run", "[IMAGE] [OPTION]...", "start a VM and stay with it until it ends", false,
     verb_run},
    {"help", "[VERB]", "describe hutch, or one of its verbs", false, verb_help},
    {"version", "", "print hutch's version", false, verb_version},
    {"generate", "man|bash|zsh|fish", "print the man page or a completion script", true,
     verb_generate},
    {0},
};

const ExitStatus exit_statuses[] = {
    {"0", "the guest powered off, or rebooted under --no-reboot"},
    {"1-123", "the status that the guest gave through the debug-exit port"},
    {"124", "the time of --timeout was over"},
    {"125", "hutch could not do it: usage, or the host"},
    {"126", "the guest crashed: a triple fault, or an exit that KVM could not handle"},
    {"127", "the guest's kernel panicked (pvpanic)"},
    {"128+N", "hutch was ended by signal N; Ctrl-A x counts as 2"},
    {0},
};

const Verb *verb_find(const char *name)
{
    for (const Verb *v = verbs; v->name; v++)
        if (g_str_equal(v->name, name))
            return v;
    return NULL;
}

int verb_version(int argc, char **argv)
{
    puts("hutch " HUTCH_VERSION);
    return 0;
}

static int print(char *text)
{
    fputs(text, stdout);
    g_free(text);
    return 0;
}

int verb_help(int argc, char **argv)
{
    const Verb *v = argc > 1 ? verb_find(argv[1]) : NULL;

    if (v)
        return print(help_verb(v));
    if (argc == 1)
        return print(help_overview());
    log_error("there is no verb '%s'; see 'hutch help'", argv[1]);
    return EXIT_CANNOT;
}

int verb_generate(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    char *text = g_str_equal(what, "man") ? man_page() : completion_script(what);

    if (text)
        return print(text);
    log_error("generate what: man, bash, zsh or fish?");
    return EXIT_CANNOT;
}
