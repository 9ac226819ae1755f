/* hutch(1), in the man macros of roff, from the option tables. */
#include <string.h>

#include "hutch-config.h"
#include "src/cli/cli.h"

/* Text as roff takes it: no macro at a line's start, hyphens that can be copied. */
static void add(GString *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if ((p == text || p[-1] == '\n') && (*p == '.' || *p == '\''))
            g_string_append(out, "\\&");
        if (*p == '\\')
            g_string_append(out, "\\e");
        else if (*p == '-')
            g_string_append(out, "\\-");
        else
            g_string_append_c(out, *p);
    }
}

static void add_line(GString *out, const char *text)
{
    add(out, text);
    g_string_append_c(out, '\n');
}

static void term(GString *out, const char *bold, const char *plain, const char *text)
{
    g_string_append(out, ".TP\n\\fB");
    add(out, bold);
    g_string_append(out, "\\fR");
    add(out, plain);
    g_string_append_c(out, '\n');
    add_line(out, text);
}

static void add_keys(GString *out, const ParamTable *table)
{
    g_string_append(out, ".RS\n");
    for (const ParamDesc *d = table->desc; d->key; d++) {
        g_autofree char *value = help_key_placeholder(d);
        g_autofree char *plain = g_strdup_printf("=%s", value);
        g_autofree char *text = help_key_text(d);

        term(out, d->key, plain, text);
    }
    g_string_append(out, ".RE\n");
}

static void add_option(GString *out, const ConfigOption *o)
{
    g_autofree char *value = help_placeholder(o);
    char letter[] = {'-', run_option_letter(o->name), ',', ' ', 0};
    g_autofree char *bold = g_strdup_printf("%s--%s", letter[1] ? letter : "", o->name);
    g_autofree char *plain = g_strdup_printf("%s%s", *value ? " " : "", value);
    g_autofree char *text = help_option_text(o);

    term(out, bold, plain, text);
    if (o->table)
        add_keys(out, o->table);
}

static void add_notation(GString *out)
{
    add_line(out,
             "A value is separate (--cpus 2) or joined (--cpus=2); -- ends the "
             "options. In a list of KEY=VALUE the first key listed may be left out, a "
             "boolean may stand alone, and a comma inside a value is doubled. Sizes "
             "take K, M, G or T.");
    g_string_append(out, ".PP\n");
    add_line(out,
             "The same options, without the dashes, are the keys of the JSON file of "
             "--config: lists of KEY=VALUE are objects, or strings as on the command "
             "line; what may be repeated is an array of them. Relative paths in it "
             "count from its folder. Options on the command line replace single "
             "values of the file and add to what may be repeated.");
}

static void add_keyboard(GString *out)
{
    add_line(out, "With standard input on a terminal, Ctrl-A is followed by a key:");
    for (const ChardevKey *k = chardev_keys; k->meaning; k++)
        term(out, (char[]){k->key, 0}, "", k->meaning);
}

char *man_page(void)
{
    GString *out = g_string_new(".TH HUTCH 1 \"\" \"hutch " HUTCH_VERSION "\"\n");

    g_string_append(out, ".SH NAME\nhutch \\- run virtual machines on Linux KVM\n"
                         ".SH SYNOPSIS\n");
    for (const Verb *v = verbs; v->name; v++) {
        if (v->hidden)
            continue;
        g_string_append_printf(out, ".B hutch %s\n", v->name);
        if (*v->args)
            add_line(out, v->args);
        g_string_append(out, ".br\n");
    }
    g_string_append(out, ".SH VERBS\n");
    for (const Verb *v = verbs; v->name; v++)
        if (!v->hidden)
            term(out, v->name, "", v->help);
    g_string_append(out, ".SH OPTIONS OF RUN\n");
    for (const ConfigOption *o = run_options(); o->name; o++)
        add_option(out, o);
    g_string_append(out, ".SH NOTATION\n");
    add_notation(out);
    g_string_append(out, ".SH KEYBOARD\n");
    add_keyboard(out);
    g_string_append(out, ".SH EXIT STATUS\n");
    for (const ExitStatus *e = exit_statuses; e->status; e++)
        term(out, e->status, "", e->meaning);
    g_string_append(out, ".SH ENVIRONMENT\n");
    term(out, "HUTCH_IMAGES", "",
         "the image folder; by default hutch/images in XDG_DATA_HOME or ~/.local/share");
    return g_string_free(out, FALSE);
}
