/* Arguments, by the tables of a verb; and the verbs themselves. */
#include <string.h>

#include "src/cli/cli.h"

typedef struct Opts {
    bool flag, other;
    char *text;
    char **list;
    int colour;
    uint64_t size;
} Opts;

static const char *const colours[] = {"red", "green", NULL};
static const ParamDesc desc[] = {
    {.key = "flag", .letter = 'f', .type = PARAM_BOOL, .offset = offsetof(Opts, flag)},
    {.key = "other", .letter = 'o', .type = PARAM_BOOL, .offset = offsetof(Opts, other)},
    {.key = "text", .letter = 't', .type = PARAM_STRING, .offset = offsetof(Opts, text)},
    {.key = "list", .letter = 'l', .type = PARAM_LIST, .offset = offsetof(Opts, list)},
    {.key = "colour",
     .letter = 'c',
     .type = PARAM_ENUM,
     .offset = offsetof(Opts, colour),
     .choices = colours,
     .bare = "green"},
    {.key = "size", .type = PARAM_SIZE, .offset = offsetof(Opts, size), .max = 100},
    {0},
};
static const ParamTable table = {.size = sizeof(Opts), .desc = desc};
static const Verb verb = {.name = "try", .params = &table};

/* The options as "flag=1 text=..." and the names after them, or the sentence. */
static char *parse(const char *line)
{
    ConfigOption options[MAX_VERB_OPTIONS + 1];
    __attribute__((cleanup(arguments_clear))) Arguments a = {0};
    g_autofree char *whole = g_strconcat("try ", line, NULL);
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) argv = NULL;
    GString *out;
    Opts *o;

    g_assert_true(g_shell_parse_argv(whole, NULL, &argv, NULL));
    verb_options(&verb, options);
    o = param_new(&table);
    if (!arguments_parse(&a, "try", options, argv, &error) ||
        !arguments_apply(&a, &table, o, &error)) {
        param_free(&table, o);
        return g_strdup(error->message);
    }
    out = g_string_new(NULL);
    g_string_append_printf(out, "%d%d %s %s %" G_GUINT64_FORMAT, o->flag, o->other,
                           o->text ? o->text : "-", colours[o->colour], o->size);
    for (char **item = o->list; item && *item; item++)
        g_string_append_printf(out, " +%s", *item);
    for (unsigned i = 0; i < a.n_names; i++)
        g_string_append_printf(out, " [%s]", a.names[i]);
    param_free(&table, o);
    return g_string_free(out, FALSE);
}

static void gives(const char *line, const char *wanted)
{
    g_autofree char *got = parse(line);

    g_assert_cmpstr(got, ==, wanted);
}

static void says(const char *line, const char *words)
{
    g_autofree char *got = parse(line);

    if (!strstr(got, words))
        g_error("%s: \"%s\" lacks \"%s\"", line, got, words);
}

static void values_may_be_separate_joined_or_attached(void)
{
    gives("--text a", "00 a red 0");
    gives("--text=a", "00 a red 0");
    gives("-t a", "00 a red 0");
    gives("-ta", "00 a red 0");
    gives("-t=a", "00 a red 0");
    gives("--text=", "00  red 0");
    gives("--text=--flag", "00 --flag red 0");
    gives("-t -x", "00 -x red 0");
}

static void flags_may_be_put_together_and_end_in_a_value(void)
{
    gives("-fo", "11 - red 0");
    gives("-fota x", "11 a red 0 [x]");
    gives("-fot a", "11 a red 0");
    gives("--flag=off -o=on", "01 - red 0");
}

static void names_stand_anywhere_and_after_two_dashes_are_all(void)
{
    gives("a --flag b", "10 - red 0 [a] [b]");
    gives("-- --flag -f", "00 - red 0 [--flag] [-f]");
    gives("a -- -- b", "00 - red 0 [a] [--] [b]");
    gives("'' ", "00 - red 0 []");
}

static void a_dash_alone_or_before_a_digit_begins_a_name(void)
{
    gives("-1G -f", "10 - red 0 [-1G]");
    gives("x -5", "00 - red 0 [x] [-5]");
    gives("- -f", "10 - red 0 [-]");
}

static void a_list_collects_its_values(void)
{
    gives("-l a --list b -lc", "00 - red 0 +a +b +c");
}

static void an_option_with_a_bare_meaning_takes_only_a_choice(void)
{
    gives("--colour", "00 - green 0");
    gives("--colour x", "00 - green 0 [x]");
    gives("--colour red x", "00 - red 0 [x]");
    gives("-c red", "00 - red 0");
    gives("-fc", "10 - green 0");
    says("--colour=blue", "'blue' is none of: red, green");
}

static void what_is_wrong_is_one_sentence(void)
{
    says("--flaq", "there is no option '--flaq'; did you mean '--flag'?");
    says("--zzz=1", "there is no option '--zzz'; see 'hutch try --help'");
    says("-fz", "there is no option '-fz'");
    says("--text", "--text needs a value");
    says("--text --flag", "if '--flag' is meant, write --text=--flag");
    says("-f --flag", "--flag is given twice");
    says("-t a -tb", "--text is given twice");
    says("--size 101", "--size: 101 is too much");
    says("--flag=maybe", "neither on nor off");
}

static const Verb none[] = {{.name = "create"}, {.name = "secret", .hidden = true}, {0}};

static void an_unknown_verb_is_told_what_was_meant(void)
{
    g_autoptr(GError) error = NULL, other = NULL;

    g_assert_true(verb_find(none, "image", "create", &error) == &none[0]);
    g_assert_null(verb_find(none, "image", "craete", &error));
    g_assert_cmpstr(error->message, ==,
                    "there is no verb 'image craete'; did you mean 'create'?");
    g_assert_null(verb_find(none, "", "secre", &other));
    g_assert_cmpstr(other->message, ==, "there is no verb 'secre'; see 'hutch help'");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/options/" #fn, fn)
    T(values_may_be_separate_joined_or_attached);
    T(flags_may_be_put_together_and_end_in_a_value);
    T(names_stand_anywhere_and_after_two_dashes_are_all);
    T(a_dash_alone_or_before_a_digit_begins_a_name);
    T(a_list_collects_its_values);
    T(an_option_with_a_bare_meaning_takes_only_a_choice);
    T(what_is_wrong_is_one_sentence);
    T(an_unknown_verb_is_told_what_was_meant);
    return g_test_run();
}
