/* hutch top: what the VMs of this user do, as a live screen or as a table for scripts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/cli/metrics.h"
#include "src/cli/top.h"

typedef struct TopArgs {
    bool once, json;
    char *interval;
} TopArgs;

static const ParamDesc top_desc[] = {
    {.key = "once",
     .type = PARAM_BOOL,
     .offset = offsetof(TopArgs, once),
     .help = "print one table and end"},
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(TopArgs, json),
     .help = "print JSON: an array a line, after each interval"},
    {.key = "interval",
     .letter = 'i',
     .type = PARAM_STRING,
     .offset = offsetof(TopArgs, interval),
     .arg = "SECONDS",
     .def = "1",
     .help = "time between two looks, from 0.1 to 3600"},
    {0},
};
const ParamTable top_args = {.size = sizeof(TopArgs), .desc = top_desc};

const char top_about[] =
    "Shows what each VM of this user does: processor time of the whole monitor and of "
    "its "
    "vCPUs in percent of one processor, memory that is resident, what of it is shared "
    "and "
    "private, and what is in swap, and a second's bytes of its disks and networks and "
    "exits to the monitor.";
const char top_notes[] =
    "On a terminal: q quits, c, m, d and n sort by processor, memory, disk and network, "
    "a space looks at once.  Without one it is --once.  A VM whose monitor does not "
    "answer "
    "within a second is shown as no-answer.";

static bool parse_interval(const char *text, double *ret, GError **error)
{
    char *end;

    errno = 0;
    *ret = g_ascii_strtod(text, &end);
    return (*text && !*end && !errno && *ret >= 0.1 && *ret <= 3600) ||
           fail(error, VM_ERROR_INVALID,
                "--interval: '%s' is no number of seconds from 0.1 to 3600", text);
}

static void print_rows(GArray *rows, bool json)
{
    top_sort(rows, TOP_BY_CPU);
    if (json) {
        json_t *all = top_json(rows);

        json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(all);
    } else {
        g_autofree char *table = top_table(rows, TOP_BY_CPU, 0);

        fputs(table, stdout);
    }
    fflush(stdout);
}

/* Rates take two looks. */
static bool print(Top *t, bool once, bool json, double interval, GError **error)
{
    g_autoptr(GArray) rows = top_rows_new();

    if (!top_sample(t, false, rows, error))
        return false;
    do {
        g_usleep((gulong)(interval * 1e6));
        if (!top_sample(t, true, rows, error))
            return false;
        print_rows(rows, json);
    } while (!once && !ferror(stdout));
    return true;
}

bool top_act(void *options, char **names, int *status, GError **error)
{
    const TopArgs *args = options;
    bool screen = !args->once && !args->json && isatty(STDIN_FILENO) &&
                  isatty(STDOUT_FILENO);
    double interval;
    int signal = 0;
    Top *t;
    bool ok;

    if (!parse_interval(args->interval, &interval, error))
        return false;
    t = top_new();
    if (screen)
        ok = top_screen(t, interval, &signal, error);
    else
        ok = print(t, args->once || !args->json, args->json, interval, error);
    top_free(t);
    if (signal)
        *status = 128 + signal;
    return ok;
}
