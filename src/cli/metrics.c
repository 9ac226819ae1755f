/* hutch metrics: what VMs count and measure, as text for Prometheus or as JSON. */
#include "control/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#include "control/ask.h"
#include "control/control.h"
#include "control/place.h"
#include "src/cli/metrics.h"
#include "util/log.h"

enum { LIMIT_MS = 5000 };

typedef struct MetricsArgs {
    bool json;
} MetricsArgs;

static const ParamDesc metrics_desc[] = {
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(MetricsArgs, json),
     .help = "print what the VMs said as a JSON array"},
    {0},
};
const ParamTable metrics_args = {.size = sizeof(MetricsArgs), .desc = metrics_desc};

const char metrics_about[] =
    "Prints what each VM counts and measures, in the text format of Prometheus, with a "
    "label vm.  VM is a name or the path of a control socket; without any, all VMs of "
    "this user that have a name.";
const char metrics_notes[] =
    "A VM that does not answer is left out, with a line on standard error, and so is one "
    "that was named and does not run, which makes the status 125.  To let Prometheus ask "
    "a VM itself, "
    "start it with --metrics.";

/* It has ended, or its monitor died: none of those that run. */
static bool is_over(const ControlAnswer *a)
{
    return g_error_matches(a->error, VM_ERROR, VM_ERROR_NOT_FOUND);
}

/* Those that answered, in their order, each under the name it was asked by; says why the
 * others did not. */
static json_t **take_values(const ControlAnswer *answers, unsigned n, bool named,
                            unsigned *ret_n)
{
    json_t **values = g_new(json_t *, n + 1);

    *ret_n = 0;
    for (unsigned i = 0; i < n; i++)
        if (json_is_object(answers[i].value)) {
            json_object_set_new(answers[i].value, "vm", control_text(answers[i].vm));
            values[(*ret_n)++] = answers[i].value;
        } else if (answers[i].error && (named || !is_over(&answers[i]))) {
            log_warn("%s", answers[i].error->message);
        }
    return values;
}

static void print_values(json_t **values, unsigned n, bool json)
{
    json_t *all;
    char *text;

    if (!json) {
        text = metrics_text(values, n);
        fputs(text, stdout);
        g_free(text);
        return;
    }
    all = json_array();
    for (unsigned i = 0; i < n; i++)
        json_array_append(all, values[i]);
    json_dumpf(all, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(all);
}

bool metrics_act(void *options, char **names, int *status, GError **error)
{
    const MetricsArgs *args = options;
    g_auto(GStrv) found = *names ? NULL : place_list(error);
    char **vms = *names ? names : found;
    unsigned n = vms ? g_strv_length(vms) : 0, n_values;
    g_autofree ControlAnswer *answers = g_new0(ControlAnswer, n);
    g_autofree json_t **values = NULL;

    if (!vms)
        return false;
    for (unsigned i = 0; i < n; i++)
        answers[i].vm = vms[i];
    control_ask(answers, n, "x-hutch-query-metrics", LIMIT_MS);
    values = take_values(answers, n, *names != NULL, &n_values);
    print_values(values, n_values, args->json);
    if (*names && n_values < n)
        *status = EXIT_CANNOT;
    control_answers_clear(answers, n);
    return true;
}
