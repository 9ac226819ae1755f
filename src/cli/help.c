/* --help, from the option tables. */
#include <string.h>

#include "src/cli/cli.h"

enum { COLUMN = 26, WIDTH = 80 };

char *help_key_placeholder(const ParamDesc *desc)
{
    if (desc->arg)
        return g_strdup(desc->arg);
    switch (desc->type) {
    case PARAM_ENUM:
        return g_strjoinv("|", (char **)desc->choices);
    case PARAM_BOOL:
        return g_strdup("on|off");
    case PARAM_UINT:
        return g_strdup("N");
    case PARAM_SIZE:
        return g_strdup("SIZE");
    case PARAM_MAC:
        return g_strdup("MAC");
    case PARAM_PATH:
        return g_strdup("FILE");
    case PARAM_STRING:
    case PARAM_LIST:
        return g_strdup("STRING");
    case PARAM_JSON:
        return g_strdup("JSON");
    }
    return g_strdup("");
}

char *help_key_text(const ParamDesc *desc)
{
    return desc->def ? g_strdup_printf("%s (default: %s)", desc->help, desc->def)
                     : g_strdup(desc->help);
}

bool help_shows_key(const ConfigOption *o, const ParamDesc *key)
{
    return !(o->scalar && key->required);
}

char *help_option_text(const ConfigOption *o)
{
    g_autofree char *text = o->scalar ? help_key_text(o->scalar) : g_strdup(o->help);

    return g_strdup_printf("%s%s", text, o->repeats ? " (may be repeated)" : "");
}

char *help_placeholder(const ConfigOption *o)
{
    g_autofree char *bare = NULL;

    if (o->value == CONFIG_VALUE_OPTIONAL && o->scalar && o->scalar->bare) {
        bare = help_key_placeholder(o->scalar);
        return g_strdup_printf("[%s]", bare);
    }
    if (o->value != CONFIG_VALUE_REQUIRED)
        return g_strdup("");
    bare = help_key_placeholder(o->scalar ? o->scalar : o->table->desc);
    return g_strdup_printf("%s%s", bare, o->table ? "[,KEY=VALUE]..." : "");
}

/* Appends `text`, broken at spaces; `at` is the column, `indent` that of further lines.
 */
static void wrap(GString *out, size_t at, unsigned indent, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);

    for (unsigned i = 0; words[i]; i++) {
        size_t len = strlen(words[i]);

        if (i && at + 1 + len > WIDTH) {
            g_string_append_printf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (i) {
            g_string_append_c(out, ' ');
            at++;
        }
        g_string_append(out, words[i]);
        at += len;
    }
    g_string_append_c(out, '\n');
}

/* Puts `text` beside or below `left`. */
static void entry(GString *out, unsigned indent, const char *left, const char *text)
{
    size_t at = indent + strlen(left);

    g_string_append_printf(out, "%*s%s", (int)indent, "", left);
    if (at + 2 > COLUMN) {
        g_string_append_c(out, '\n');
        at = 0;
    }
    g_string_append_printf(out, "%*s", (int)(COLUMN - at), "");
    wrap(out, COLUMN, COLUMN, text);
}

static void paragraphs(GString *out, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        g_string_append_c(out, '\n');
        wrap(out, 0, 0, lines[i]);
    }
}

static void list_keys(GString *out, const ConfigOption *o)
{
    for (const ParamDesc *d = o->table->desc; d->key; d++) {
        g_autofree char *value = help_key_placeholder(d);
        g_autofree char *left = g_strdup_printf("%s=%s", d->key, value);
        g_autofree char *text = help_key_text(d);

        if (help_shows_key(o, d))
            entry(out, 6, left, text);
    }
}

static void list_option(GString *out, const ConfigOption *o)
{
    g_autofree char *value = help_placeholder(o);
    g_autofree char *text = help_option_text(o);
    char letter[] = {'-', o->letter, ',', ' ', 0};
    g_autofree char *left = g_strdup_printf("%s--%s%s%s", letter[1] ? letter : "    ",
                                            o->name, *value ? " " : "", value);

    entry(out, 2, left, text);
    if (o->table)
        list_keys(out, o);
}

static void list_options(GString *out, const Verb *verb)
{
    ConfigOption options[MAX_VERB_OPTIONS + 1];

    verb_options(verb, options);
    if (options->name)
        g_string_append(out, "\nOptions:\n");
    for (const ConfigOption *o = options; o->name; o++)
        list_option(out, o);
}

static void list_statuses(GString *out, const Verb *verb)
{
    if (verb->statuses)
        g_string_append(out, "\nExit status:\n");
    for (const ExitStatus *e = verb->statuses; e && e->status; e++)
        entry(out, 2, e->status, e->meaning);
}

static void list_verbs(GString *out, const Verb *table)
{
    if (!table->group)
        g_string_append(out, "\nVerbs:\n");
    for (const Verb *v = table; v->name; v++) {
        g_autofree char *left = g_strdup_printf("%s%s%s", v->name, *v->args ? " " : "",
                                                v->args);

        if (v->group)
            g_string_append_printf(out, "\n%s:\n", v->group);
        if (!v->hidden)
            entry(out, 2, left, v->help);
    }
}

char *help_verb(const Verb *verb, const char *where)
{
    GString *out = g_string_new(NULL);
    g_autofree char *path = g_strconcat(where, *where ? " " : "", verb->name, NULL);

    g_string_append_printf(out, "Usage: hutch %s%s%s\n\n%c%s.\n", path,
                           *verb->args ? " " : "", verb->args,
                           g_ascii_toupper(*verb->help), verb->help + 1);
    paragraphs(out, verb->about);
    if (verb->verbs)
        list_verbs(out, verb->verbs);
    list_options(out, verb);
    paragraphs(out, verb->notes);
    list_statuses(out, verb);
    if (verb->verbs)
        g_string_append_printf(out, "\n'hutch help %s VERB' tells more.\n", path);
    return g_string_free(out, FALSE);
}

char *help_overview(void)
{
    GString *out = g_string_new("Usage: hutch VERB ...\n\nRuns virtual machines on Linux "
                                "KVM, one process each.\n");

    list_verbs(out, verbs);
    g_string_append(out, "\n'hutch help VERB' tells more.\n");
    return g_string_free(out, FALSE);
}
