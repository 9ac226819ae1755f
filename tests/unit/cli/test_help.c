/* Help, man page, completion and the parsing of `hutch run`'s arguments. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/cli.h"

static char *folder; /* an image folder with "alpine" and "debian" in it */

/* Asserts that the text names every option of the verb, and every key of lists after its
 * option. */
static void names_options(const Verb *v, const char *text, const char *dashes)
{
    ConfigOption options[MAX_VERB_OPTIONS + 1];

    verb_options(v, options);
    for (const ConfigOption *o = options; o->name; o++) {
        g_autofree char *option = g_strconcat(dashes, o->name, NULL);
        const char *at = strstr(text, option);

        if (!at)
            g_error("%s: %s is not mentioned", v->name, option);
        for (const ParamDesc *d = o->table ? o->table->desc : NULL; d && d->key; d++)
            if (help_shows_key(o, d) && !strstr(at, d->key))
                g_error("%s: key %s of %s is not mentioned", v->name, d->key, option);
    }
}

/* The same for all verbs, those of other verbs too. */
static void names_all(const Verb *table, const char *text, const char *dashes)
{
    for (const Verb *v = table; v->name; v++) {
        names_options(v, text, dashes);
        if (v->verbs)
            names_all(v->verbs, text, dashes);
    }
}

static void help_is_whole(const Verb *table, const char *where)
{
    for (const Verb *v = table; v->name; v++) {
        g_autofree char *text = help_verb(v, where);
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

        names_options(v, text, "--");
        for (const ExitStatus *e = v->statuses; e && e->status; e++)
            g_assert_nonnull(strstr(text, e->status));
        for (char **line = lines; *line; line++)
            g_assert_cmpuint(strlen(*line), <=, 90);
        for (const Verb *below = v->verbs; below && below->name; below++)
            g_assert_nonnull(strstr(text, below->name));
        if (v->verbs)
            help_is_whole(v->verbs, v->name);
    }
}

static void help_names_every_option_and_every_key(void)
{
    help_is_whole(verbs, "");
}

static void overview_names_every_verb_but_hidden_ones(void)
{
    g_autofree char *text = help_overview();

    for (const Verb *v = verbs; v->name; v++) {
        g_autofree char *line = g_strdup_printf("\n  %s ", v->name);

        g_assert_cmpint(!v->hidden, ==, strstr(text, line) != NULL);
    }
}

/* Two options of a verb with one letter, or a letter that stands for two things. */
static void no_verb_has_a_name_or_a_letter_twice(const Verb *table)
{
    for (const Verb *v = table; v->name; v++) {
        ConfigOption options[MAX_VERB_OPTIONS + 1];

        verb_options(v, options);
        for (const ConfigOption *a = options; a->name; a++)
            for (const ConfigOption *b = a + 1; b->name; b++)
                if (g_str_equal(a->name, b->name) ||
                    (a->letter && a->letter == b->letter))
                    g_error("%s: %s and %s", v->name, a->name, b->name);
        if (v->verbs)
            no_verb_has_a_name_or_a_letter_twice(v->verbs);
    }
}

static void options_of_a_verb_are_distinct(void)
{
    no_verb_has_a_name_or_a_letter_twice(verbs);
}

static void man_page_names_all_and_is_safe_roff(void)
{
    static const char *const macros[] = {".TH", ".SH", ".TP", ".RS", ".RE",
                                         ".PP", ".br", ".B ", ".SS"};
    g_autofree char *text = man_page();
    g_autoptr(GString) plain = g_string_new(text);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    g_string_replace(plain, "\\-", "-", 0);
    names_all(verbs, plain->str, "--");
    for (char **line = lines; *line; line++) {
        bool known = **line != '.' && **line != '\'';

        for (unsigned i = 0; i < G_N_ELEMENTS(macros); i++)
            known |= g_str_has_prefix(*line, macros[i]);
        g_assert_true(known);
    }
}

static void completions_name_every_option_and_every_key(void)
{
    static const struct {
        const char *shell, *dashes, *check;
    } shells[] = {
        {"bash", "--", "bash -n"}, {"zsh", "--", "zsh -n"}, {"fish", "-l ", "fish -n"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(shells); i++) {
        g_autofree char *text = completion_script(shells[i].shell);
        g_autofree char *found = g_find_program_in_path(shells[i].shell);
        g_autofree char *path = g_build_filename(folder, "script", NULL);
        g_autofree char *check = g_strdup_printf("%s %s", shells[i].check, path);
        int status = 0;

        for (const Verb *v = verbs; v->name; v++) {
            ConfigOption options[MAX_VERB_OPTIONS + 1];

            verb_options(v, options);
            for (const ConfigOption *o = options; o->name; o++) {
                g_autofree char *option = g_strconcat(shells[i].dashes, o->name, NULL);

                g_assert_nonnull(strstr(text, option));
            }
            for (const Verb *below = v->verbs; below && below->name; below++)
                g_assert_nonnull(strstr(text, below->name));
        }
        g_assert_nonnull(strstr(text, "hostfwd="));
        g_assert_nonnull(strstr(text, "cluster_size="));
        if (!found)
            continue; /* the shell itself has a say only where it is installed */
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
        g_assert_true(g_spawn_command_line_sync(check, NULL, NULL, &status, NULL));
        g_assert_cmpint(status, ==, 0);
        g_unlink(path);
    }
    g_assert_null(completion_script("tcsh"));
}

/* ---- arguments -------------------------------------------------------------------- */

static char *read_all(int fd)
{
    char buf[16384] = "";
    ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

    g_assert_cmpint(n, >=, 0);
    return g_strdup(buf);
}

/* `hutch run` with these words, without a machine: its status, stdout and stderr. */
static int run(const char *words, char **out, char **err)
{
    g_autofree char *line = g_strconcat("run ", words, NULL);
    g_auto(GStrv) argv = NULL;
    int argc, status, saved[2], fds[2];

    g_assert_true(g_shell_parse_argv(line, &argc, &argv, NULL));
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        g_autofree char *name = g_build_filename(folder, "captured-XXXXXX", NULL);

        fds[i] = g_mkstemp(name);
        g_unlink(name);
        saved[i] = fcntl(i + 1, F_DUPFD_CLOEXEC, 3);
        dup2(fds[i], i + 1);
    }
    status = verb_run(argc, argv);
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
    }
    *out = read_all(fds[0]);
    *err = read_all(fds[1]);
    close(fds[0]);
    close(fds[1]);
    return status;
}

/* Status 125, nothing on stdout, and one sentence with these words in it. */
static void refused(const char *words, const char *why)
{
    g_autofree char *out = NULL, *err = NULL;

    g_assert_cmpint(run(words, &out, &err), ==, EXIT_CANNOT);
    g_assert_cmpstr(out, ==, "");
    if (!strstr(err, why))
        g_error("run %s: \"%s\" lacks \"%s\"", words, err, why);
    g_assert_true(strchr(err, '\n') == err + strlen(err) - 1);
}

static void printed(const char *words, const char *what)
{
    g_autofree char *out = NULL, *err = NULL;

    if (run(words, &out, &err) != 0 || *err)
        g_error("run %s: %s", words, err);
    if (!strstr(out, what))
        g_error("run %s: \"%s\" lacks \"%s\"", words, out, what);
}

static void bad_usage_is_one_sentence_and_status_125(void)
{
    refused("--kernal k", "did you mean '--kernel'?");
    refused("--warp", "there is no option '--warp'");
    refused("-x", "there is no option '-x'");
    refused("-", "there is no image '-'");
    refused("-- --cpus", "there is no image '--cpus'");
    refused("--cpus", "--cpus needs a value: N");
    refused("--disk", "--disk needs a value: FILE[,KEY=VALUE]...");
    refused("--kernel --initrd i", "if '--initrd' is meant, write --kernel=--initrd");
    refused("--cpus 2 -c 3", "--cpus is given twice");
    refused("--memory 1G --memory 2G", "--memory is given twice");
    refused("--cpus 0", "--cpus: 0 is too little");
    refused("--cpus=65", "--cpus: 65 is too much");
    refused("-m 0", "--memory: size: 0 is too little");
    refused("--memory 12Z", "is not a size");
    refused("--disk a,path=b", "--disk: key 'path' is given twice");
    refused("--disk a,size=9", "--disk: unknown key 'size'");
    refused("--net type=wire", "--net: type: 'wire' is none of");
    refused("--rng=yes", "--rng: ");
    refused("--serial stdio --console stdio", "cannot serve 2 consoles");
    refused("--cpus 2", "there is no kernel to boot");
    refused("--config /nonexistent", "config '/nonexistent': open: No such file");
    refused("nosuch", "there is no image 'nosuch'");
    refused("nosuch", "there are: alpine, debian");
    refused("../debian", "is no image's name");
    refused("debian alpine", "'debian' and 'alpine' are both");
    refused("debian --config x", "give one of the two");
}

static void values_may_be_joined_or_separate_and_have_short_names(void)
{
    printed("--print-config --cpus 3", "\"cpus\": 3");
    printed("--print-config --cpus=3", "\"cpus\": 3");
    printed("--print-config -c 3 -m 1G", "\"size\": \"1G\"");
    printed("--print-config --no-reboot", "\"no-reboot\": true");
    printed("--print-config --cmdline=--x", "\"cmdline\": \"--x\"");
    printed("--print-config=on --rng", "\"rng\"");
    printed("--print-config --rng -- debian", "\"/debian/k\"");
    printed("--help", "Usage: hutch run");
    printed("", "alpine\ndebian\n");
}

static void options_come_on_top_of_the_image_wherever_they_stand(void)
{
    printed("--cpus 4 debian --print-config", "\"cpus\": 4");
    printed("debian --print-config", "\"cpus\": 2");
    printed("debian --print-config", "\"name\": \"debian\"");
    printed("--disk /x debian --print-config", "\"/x\"");
    printed("--disk /x debian --print-config", "\"/root.raw\"");
}

static void printed_config_prints_itself(void)
{
    g_autofree char *path = g_build_filename(folder, "p.json", NULL);
    g_autofree char *words = g_strdup_printf("--print-config --config '%s'", path);
    g_autofree char *one = NULL, *two = NULL, *err = NULL, *err2 = NULL;

    g_assert_cmpint(
        run("debian --net user --console pty --rng --timeout 5 --print-config", &one,
            &err),
        ==, 0);
    g_assert_true(g_file_set_contents(path, one, -1, NULL));
    g_assert_cmpint(run(words, &two, &err2), ==, 0);
    g_assert_cmpstr(one, ==, two);
    g_unlink(path);
}

static void empty_image_folder_says_how_to_fill_it(void)
{
    g_autofree char *out = NULL, *err = NULL;

    g_setenv("HUTCH_IMAGES", "/nonexistent", TRUE);
    g_assert_cmpint(run("", &out, &err), ==, 0);
    g_assert_cmpstr(out, ==, "");
    g_assert_nonnull(strstr(err, "there are no images in '/nonexistent'; build one"));
    refused("debian", "there is no image 'debian' in '/nonexistent'; build one");
    g_setenv("HUTCH_IMAGES", folder, TRUE);
}

static void make_image(const char *name, const char *config)
{
    g_autofree char *dir = g_build_filename(folder, name, NULL);
    g_autofree char *path = g_build_filename(dir, "config.json", NULL);

    g_mkdir(dir, 0700);
    g_assert_true(g_file_set_contents(path, config, -1, NULL));
}

static void remove_image(const char *name)
{
    g_autofree char *dir = g_build_filename(folder, name, NULL);
    g_autofree char *path = g_build_filename(dir, "config.json", NULL);

    g_unlink(path);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("hutch-cli-XXXXXX", NULL);
    g_setenv("HUTCH_IMAGES", folder, TRUE);
    make_image("debian", "{\"kernel\": \"/debian/k\", \"cpus\": 2, \"disk\": "
                         "[\"/root.raw\"]}");
    make_image("alpine", "{}");
#define T(fn) g_test_add_func("/cli/" #fn, fn)
    T(help_names_every_option_and_every_key);
    T(overview_names_every_verb_but_hidden_ones);
    T(options_of_a_verb_are_distinct);
    T(man_page_names_all_and_is_safe_roff);
    T(completions_name_every_option_and_every_key);
    T(bad_usage_is_one_sentence_and_status_125);
    T(values_may_be_joined_or_separate_and_have_short_names);
    T(options_come_on_top_of_the_image_wherever_they_stand);
    T(printed_config_prints_itself);
    T(empty_image_folder_says_how_to_fill_it);
    status = g_test_run();
    remove_image("debian");
    remove_image("alpine");
    g_rmdir(folder);
    g_free(folder);
    return status;
}
