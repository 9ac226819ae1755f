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

static void add_keys(GString *out, const ConfigOption *o)
{
    g_string_append(out, ".RS\n");
    for (const ParamDesc *d = o->table->desc; d->key; d++) {
        g_autofree char *value = help_key_placeholder(d);
        g_autofree char *plain = g_strdup_printf("=%s", value);
        g_autofree char *text = help_key_text(d);

        if (help_shows_key(o, d))
            term(out, d->key, plain, text);
    }
    g_string_append(out, ".RE\n");
}

static void add_option(GString *out, const ConfigOption *o)
{
    g_autofree char *value = help_placeholder(o);
    char letter[] = {'-', o->letter, ',', ' ', 0};
    g_autofree char *bold = g_strdup_printf("%s--%s", letter[1] ? letter : "", o->name);
    g_autofree char *plain = g_strdup_printf("%s%s", *value ? " " : "", value);
    g_autofree char *text = help_option_text(o);

    term(out, bold, plain, text);
    if (o->table)
        add_keys(out, o);
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

static void add_statuses(GString *out, const ExitStatus *statuses)
{
    for (const ExitStatus *e = statuses; e && e->status; e++)
        term(out, e->status, "", e->meaning);
}

static void add_options(GString *out, const Verb *verb)
{
    ConfigOption options[MAX_VERB_OPTIONS + 1];

    verb_options(verb, options);
    for (const ConfigOption *o = options; o->name; o++)
        add_option(out, o);
}

static void add_paragraphs(GString *out, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        g_string_append(out, ".PP\n");
        add_line(out, lines[i]);
    }
}

/* `where`: "", "image". */
static void add_synopsis(GString *out, const Verb *table, const char *where)
{
    for (const Verb *v = table; v->name; v++) {
        g_autofree char *path = g_strconcat(where, *where ? " " : "", v->name, NULL);

        if (v->hidden)
            continue;
        if (v->verbs) {
            add_synopsis(out, v->verbs, path);
            if (!v->act)
                continue;
        }
        g_string_append_printf(out, ".B hutch %s\n", path);
        if (*v->args)
            add_line(out, v->args);
        g_string_append(out, ".br\n");
    }
}

static void add_verb(GString *out, const Verb *v)
{
    g_string_append_printf(out, "%c", g_ascii_toupper(*v->help));
    add(out, v->help + 1);
    g_string_append(out, ".\n");
    add_paragraphs(out, v->about);
    add_options(out, v);
    add_paragraphs(out, v->notes);
    if (v->statuses)
        g_string_append(out, ".PP\nExit status:\n");
    add_statuses(out, v->statuses);
}

/* A section for each verb but run, which is most of the page, and what has no options. */
static void add_sections(GString *out)
{
    for (const Verb *v = verbs; v->name; v++) {
        g_autofree char *heading = g_ascii_strup(v->name, -1);

        if (v->verbs) {
            g_string_append_printf(out, ".SH VERBS OF %s\n", heading);
            add_paragraphs(out, v->about);
        }
        for (const Verb *below = v->verbs; below && below->name; below++) {
            g_string_append_printf(out, ".SS hutch %s %s ", v->name, below->name);
            add_line(out, below->args);
            add_verb(out, below);
        }
        if (v->act && !v->hidden) {
            g_string_append_printf(out, ".SH OPTIONS OF %s\n", heading);
            add_verb(out, v);
        }
    }
}

char *man_page(void)
{
    const Verb *run = verb_find(verbs, "", "run", NULL);
    GString *out = g_string_new(".TH HUTCH 1 \"\" \"hutch " HUTCH_VERSION "\"\n");

    g_string_append(out, ".SH NAME\nhutch \\- run virtual machines on Linux KVM\n"
                         ".SH SYNOPSIS\n");
    add_synopsis(out, verbs, "");
    g_string_append(out, ".SH VERBS\n");
    for (const Verb *v = verbs; v->name; v++)
        if (!v->hidden)
            term(out, v->name, "", v->help);
    g_string_append(out, ".SH OPTIONS OF RUN\n");
    add_options(out, run);
    add_sections(out);
    g_string_append(out, ".SH NOTATION\n");
    add_notation(out);
    g_string_append(out, ".SH KEYBOARD\n");
    add_keyboard(out);
    g_string_append(out, ".SH EXIT STATUS\n");
    add_statuses(out, run->statuses);
    g_string_append(out, ".SH ENVIRONMENT\n");
    term(out, "HUTCH_IMAGES", "",
         "the image folder; by default hutch/images in XDG_DATA_HOME or ~/.local/share");
    return g_string_free(out, FALSE);
}
