/* Arguments of a verb, sorted into options and names.
 *
 * An option is --name VALUE or --name=VALUE, or -n VALUE, -nVALUE, -n=VALUE; short ones
 * without a value may be put together (-pq).  "--" ends the options, and what looks like
 * a negative number (-1G) is a name, as is "-" alone. */
#include <string.h>

#include "src/cli/cli.h"

/* ---- finding an option ------------------------------------------------------------ */

static bool fail_unknown(const char *verb, const ConfigOption *options, const char *arg,
                         int len, GError **error)
{
    g_autofree char *name = arg[1] == '-' ? g_strndup(arg + 2, (size_t)len - 2)
                                          : g_strdup("");

    for (const ConfigOption *o = options; o->name; o++)
        if (param_similar(name, o->name))
            return fail(error, VM_ERROR_INVALID,
                        "there is no option '%.*s'; did you mean '--%s'?", len, arg,
                        o->name);
    return fail(error, VM_ERROR_INVALID,
                "there is no option '%.*s'; see 'hutch %s --help'", len, arg, verb);
}

static const ConfigOption *find_long(const ConfigOption *options, const char *name,
                                     size_t len)
{
    for (const ConfigOption *o = options; o->name; o++)
        if (strlen(o->name) == len && !strncmp(o->name, name, len))
            return o;
    return NULL;
}

static const ConfigOption *find_short(const ConfigOption *options, char letter)
{
    for (const ConfigOption *o = options; o->name; o++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

/* ---- taking it, with its value ---------------------------------------------------- */

typedef struct Parser {
    Arguments *a;
    const char *verb;
    const ConfigOption *options;
    char **next; /* argument */
} Parser;

/* "--name", or "-n" for what has been given so. */
static bool fail_value(const ConfigOption *o, const char *next, GError **error)
{
    g_autofree char *wanted = help_placeholder(o);

    if (!next)
        return fail(error, VM_ERROR_INVALID, "--%s needs a value: %s", o->name, wanted);
    return fail(error, VM_ERROR_INVALID,
                "--%s needs a value: %s (if '%s' is meant, write --%s=%s)", o->name,
                wanted, next, o->name, next);
}

/* An option that can do without a value takes the next argument only if that is one. */
static bool is_choice(const ConfigOption *o, const char *text)
{
    return text && o->scalar && o->scalar->bare && o->scalar->type == PARAM_ENUM &&
           g_strv_contains(o->scalar->choices, text);
}

static bool take(Parser *p, const ConfigOption *o, const char *value, GError **error)
{
    if (!value && (o->value == CONFIG_VALUE_REQUIRED || is_choice(o, *p->next))) {
        value = *p->next;
        if (!value || g_str_has_prefix(value, "--"))
            return fail_value(o, value, error);
        p->next++;
    }
    for (unsigned i = 0; i < p->a->n_given && !o->repeats; i++)
        if (p->a->given[i].option == o)
            return fail(error, VM_ERROR_INVALID, "--%s is given twice", o->name);
    p->a->given = g_renew(Given, p->a->given, p->a->n_given + 1);
    p->a->given[p->a->n_given++] = (Given){o, value};
    return true;
}

static bool take_long(Parser *p, const char *arg, GError **error)
{
    size_t len = strcspn(arg, "=");
    const ConfigOption *o = len > 2 ? find_long(p->options, arg + 2, len - 2) : NULL;

    if (!o)
        return fail_unknown(p->verb, p->options, arg, (int)len, error);
    return take(p, o, arg[len] ? arg + len + 1 : NULL, error);
}

static bool take_short(Parser *p, const char *arg, GError **error)
{
    for (const char *at = arg + 1;; at++) {
        const ConfigOption *o = find_short(p->options, *at);

        if (!o)
            return fail_unknown(p->verb, p->options, arg, (int)strcspn(arg, "="), error);
        if (at[1] && (o->value == CONFIG_VALUE_REQUIRED || at[1] == '='))
            return take(p, o, at + 1 + (at[1] == '='), error);
        if (!at[1])
            return take(p, o, NULL, error);
        if (!take(p, o, NULL, error))
            return false;
    }
}

static bool is_option(const char *arg)
{
    return *arg == '-' && arg[1] && !g_ascii_isdigit(arg[1]);
}

bool arguments_parse(Arguments *ret, const char *verb, const ConfigOption *options,
                     char **argv, GError **error)
{
    Parser p = {ret, verb, options, argv + 1};
    bool ended = false;

    *ret = (Arguments){.names = g_new0(char *, g_strv_length(argv) + 1)};
    while (*p.next) {
        char *arg = *p.next++;

        if (!ended && g_str_equal(arg, "--"))
            ended = true;
        else if (ended || !is_option(arg))
            ret->names[ret->n_names++] = arg;
        else if (!(arg[1] == '-' ? take_long(&p, arg, error)
                                 : take_short(&p, arg, error)))
            return false;
    }
    return true;
}

void arguments_clear(Arguments *a)
{
    g_free(a->given);
    g_free(a->names);
    *a = (Arguments){0};
}

bool arguments_apply(const Arguments *a, const ParamTable *table, void *options,
                     GError **error)
{
    for (unsigned i = 0; i < a->n_given; i++)
        for (const ParamDesc *d = table->desc; d->key; d++)
            if (a->given[i].option->scalar == d &&
                !param_set(d, options, a->given[i].value, error)) {
                g_prefix_error(error, "--");
                return false;
            }
    return !table->check || table->check(options, error);
}
