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
    }
    return g_strdup("");
}

char *help_key_text(const ParamDesc *desc)
{
    return desc->def ? g_strdup_printf("%s (default: %s)", desc->help, desc->def)
                     : g_strdup(desc->help);
}

char *help_option_text(const ConfigOption *o)
{
    g_autofree char *text = o->scalar ? help_key_text(o->scalar) : g_strdup(o->help);

    return g_strdup_printf("%s%s", text, o->repeats ? " (may be repeated)" : "");
}

char *help_placeholder(const ConfigOption *o)
{
    g_autofree char *bare = NULL;

    if (o->value != CONFIG_VALUE_REQUIRED)
        return g_strdup("");
    bare = help_key_placeholder(o->scalar ? o->scalar : o->table->desc);
    return g_strdup_printf("%s%s", bare, o->table ? "[,KEY=VALUE]..." : "");
}

/* Puts `text` beside or below `left`, broken at spaces. */
static void entry(GString *out, unsigned indent, const char *left, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    size_t at = indent + strlen(left);

    g_string_append_printf(out, "%*s%s", (int)indent, "", left);
    if (at + 2 > COLUMN) {
        g_string_append_c(out, '\n');
        at = 0;
    }
    g_string_append_printf(out, "%*s", (int)(COLUMN - at), "");
    at = COLUMN;
    for (unsigned i = 0; words[i]; i++) {
        size_t len = strlen(words[i]);

        if (i && at + 1 + len > WIDTH) {
            g_string_append_printf(out, "\n%*s", COLUMN, "");
            at = COLUMN;
        } else if (i) {
            g_string_append_c(out, ' ');
            at++;
        }
        g_string_append(out, words[i]);
        at += len;
    }
    g_string_append_c(out, '\n');
}

static void list_keys(GString *out, const ParamTable *table)
{
    for (const ParamDesc *d = table->desc; d->key; d++) {
        g_autofree char *value = help_key_placeholder(d);
        g_autofree char *left = g_strdup_printf("%s=%s", d->key, value);
        g_autofree char *text = help_key_text(d);

        entry(out, 6, left, text);
    }
}

static void list_option(GString *out, const ConfigOption *o)
{
    g_autofree char *value = help_placeholder(o);
    g_autofree char *text = help_option_text(o);
    char letter[] = {'-', run_option_letter(o->name), ',', ' ', 0};
    g_autofree char *left = g_strdup_printf("%s--%s%s%s", letter[1] ? letter : "    ",
                                            o->name, *value ? " " : "", value);

    entry(out, 2, left, text);
    if (o->table)
        list_keys(out, o->table);
}

static void describe_run(GString *out)
{
    g_string_append(out, "IMAGE is the name of a folder of the image folder, "
                         "${HUTCH_IMAGES} or\n${XDG_DATA_HOME:-~/.local/share}/hutch/"
                         "images, with a config.json in it.  Without\nany argument, "
                         "the images there are listed.\n\nOptions:\n");
    for (const ConfigOption *o = run_options(); o->name; o++)
        list_option(out, o);
    g_string_append(out,
                    "\nA value is separate (--cpus 2) or joined (--cpus=2); -- ends the "
                    "options.  In a list\nof KEY=VALUE the first key listed may be left "
                    "out (--disk root.raw), a boolean may\nstand alone (readonly), and "
                    "a comma inside a value is doubled.\n\nThe guest's console is on "
                    "standard output: its first serial port, or the virtio\nconsole "
                    "given to stdio.  On a terminal, Ctrl-A x quits and Ctrl-A h lists "
                    "the keys.\n\nExit status:\n");
    for (const ExitStatus *e = exit_statuses; e->status; e++)
        entry(out, 2, e->status, e->meaning);
}

char *help_verb(const Verb *verb)
{
    GString *out = g_string_new(NULL);

    g_string_append_printf(out, "Usage: hutch %s%s%s\n\n%c%s.\n", verb->name,
                           *verb->args ? " " : "", verb->args,
                           g_ascii_toupper(*verb->help), verb->help + 1);
    if (verb->run == verb_run)
        describe_run(out);
    return g_string_free(out, FALSE);
}

char *help_overview(void)
{
    GString *out = g_string_new("Usage: hutch VERB ...\n\nRuns virtual machines on Linux "
                                "KVM, one process each.\n\nVerbs:\n");

    for (const Verb *v = verbs; v->name; v++) {
        g_autofree char *left = g_strdup_printf("%s%s%s", v->name, *v->args ? " " : "",
                                                v->args);

        if (!v->hidden)
            entry(out, 2, left, v->help);
    }
    g_string_append(out, "\n'hutch help VERB' tells more.\n");
    return g_string_free(out, FALSE);
}
