/* hutch put and get; this machine is the guest, too (tests/unit/agent/fake.c). */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/agent.h"
#include "src/cli/image.h"
#include "tests/unit/agent/fake.h"

typedef struct Place {
    Fake *fake;
    char *folder; /* with "here" and "there" in it */
    char *here, *there;
} Place;

static Place begin(const FakeLie *lies)
{
    Place p = {.fake = fake_new(lies),
               .folder = g_dir_make_tmp("hutch-copy-XXXXXX", NULL)};

    p.here = g_build_filename(p.folder, "here", NULL);
    p.there = g_build_filename(p.folder, "there", NULL);
    g_assert_cmpint(g_mkdir_with_parents(p.here, 0755), ==, 0);
    g_assert_cmpint(g_mkdir_with_parents(p.there, 0755), ==, 0);
    return p;
}

static void run_program(const char *program, const char *option, const char *path)
{
    const char *argv[] = {program, option, path, NULL};

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                 NULL, NULL);
}

static void end(Place *p)
{
    run_program("rm", "-rf", p->folder);
    fake_free(p->fake);
    g_free(p->folder);
    g_free(p->here);
    g_free(p->there);
}

static bool do_copy(Place *p, bool put, const char *from, const char *to, GError **error)
{
    char *names[] = {(char *)fake_path(p->fake), (char *)from, (char *)to, NULL};
    ImageArgs args = {.quiet = true};
    int status = 0;

    return (put ? put_act : get_act)(&args, names, &status, error);
}

static char *make_file(const char *folder, const char *name, size_t len, int mode)
{
    char *path = g_build_filename(folder, name, NULL);
    g_autofree char *bytes = g_malloc(len + 1);

    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 13 + i / 257);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
    g_assert_cmpint(chmod(path, (mode_t)mode), ==, 0);
    return path;
}

static void check_same(const char *a, const char *b)
{
    g_autofree char *x = NULL, *y = NULL;
    struct stat s, t;
    gsize m, n;

    g_assert_true(g_file_get_contents(a, &x, &m, NULL));
    g_assert_true(g_file_get_contents(b, &y, &n, NULL));
    g_assert_cmpmem(x, m, y, n);
    g_assert_cmpint(stat(a, &s), ==, 0);
    g_assert_cmpint(stat(b, &t), ==, 0);
    g_assert_cmpint(s.st_mode, ==, t.st_mode);
}

static unsigned count(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static void a_file_arrives_with_its_bytes_and_mode(void)
{
    static const size_t lengths[] = {0, 1, 1500 * 1000};

    for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
        Place p = begin(NULL);
        g_autofree char *file = make_file(p.here, "a file", lengths[i], 0751);
        g_autofree char *there = g_build_filename(p.there, "a file", NULL);
        g_autofree char *back = g_build_filename(p.here, "back", NULL);
        g_autoptr(GError) error = NULL;

        do_copy(&p, true, file, p.there, &error);
        g_assert_no_error(error);
        check_same(file, there);
        do_copy(&p, false, there, back, &error);
        g_assert_no_error(error);
        check_same(file, back);
        g_assert_cmpuint(count(p.there), ==, 1);
        g_assert_cmpuint(count(p.here), ==, 2);
        end(&p);
    }
}

static void a_folder_arrives_with_all_that_is_in_it(void)
{
    Place p = begin(NULL);
    g_autofree char *tree = g_build_filename(p.here, "tree", NULL);
    g_autofree char *deep = g_build_filename(tree, "x", "y", NULL);
    g_autofree char *link = g_build_filename(tree, "link", NULL);
    g_autofree char *long_name = g_strnfill(200, 'n');
    g_autofree char *file = NULL, *other = NULL, *hard = NULL, *got = NULL,
                    *got_long = NULL;
    g_autofree char *there = g_build_filename(p.there, "tree", NULL);
    g_autofree char *back = g_build_filename(p.here, "back", NULL);
    g_autofree char *got_link = g_build_filename(back, "link", NULL);
    g_autoptr(GError) error = NULL;
    char to[16] = "";

    g_assert_cmpint(g_mkdir_with_parents(deep, 0750), ==, 0);
    file = make_file(deep, "file", 300 * 1000, 0640);
    other = make_file(deep, long_name, 5, 0444);
    hard = g_build_filename(tree, "hard", NULL);
    g_assert_cmpint(symlink("x/y", link), ==, 0);
    g_assert_cmpint(linkat(-1, file, -1, hard, 0), ==, 0);

    do_copy(&p, true, tree, p.there, &error);
    g_assert_no_error(error);
    do_copy(&p, false, there, back, &error);
    g_assert_no_error(error);
    got = g_build_filename(back, "link", "file", NULL);
    got_long = g_build_filename(back, "x", "y", long_name, NULL);
    check_same(file, got);
    check_same(other, got_long);
    g_assert_cmpint(readlink(got_link, to, sizeof(to) - 1), ==, 3);
    g_assert_cmpstr(to, ==, "x/y");
    g_assert_cmpuint(count(p.here), ==, 2);
    g_assert_cmpuint(count(p.there), ==, 1);

    g_assert_false(do_copy(&p, false, there, p.here, &error));
    g_assert_nonnull(strstr(error->message, "there already"));
    end(&p);
}

/* Nor is what a guest says is a folder, and sends as a link. */
static void a_link_does_not_pass_for_a_folder(void)
{
    Place p = begin(NULL);
    g_autofree char *tree = g_build_filename(p.there, "tree", NULL);
    g_autofree char *link = g_build_filename(p.there, "link", NULL);
    g_autofree char *target = g_build_filename(p.here, "link", NULL);
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(g_mkdir_with_parents(tree, 0755), ==, 0);
    g_assert_cmpint(symlink(tree, link), ==, 0);
    g_assert_false(do_copy(&p, false, link, target, &error));
    g_assert_nonnull(strstr(error->message, "is no folder"));
    g_assert_cmpuint(count(p.here), ==, 0);
    end(&p);
}

static void what_is_not_there_is_a_sentence(void)
{
    Place p = begin(NULL);
    g_autofree char *file = g_build_filename(p.here, "none", NULL);
    g_autofree char *nowhere = g_build_filename(p.there, "no", "folder", NULL);
    g_autofree char *some = make_file(p.here, "some", 10, 0600);
    g_autoptr(GError) error = NULL;

    g_assert_false(do_copy(&p, true, file, p.there, &error));
    g_clear_error(&error);
    g_assert_false(do_copy(&p, true, some, nowhere, &error));
    g_clear_error(&error);
    g_assert_false(do_copy(&p, false, nowhere, p.here, &error));
    g_assert_nonnull(strstr(error->message, "there is no file or folder"));
    g_assert_cmpuint(count(p.there), ==, 0);
    end(&p);
}

/* Nothing is left, and what was there stays. */
static void a_lie_on_the_way_leaves_no_file(void)
{
    static const FakeLie lies[][2] = {
        /* The first reads are of what a script says. */
        {{"guest-file-read", FAKE_SAY,
          "{\"return\":{\"count\":1,\"buf-b64\":\"AA==\",\"eof\":true}}", 2}},
        {{"guest-file-read", FAKE_SAY, "{\"return\":{\"count\":0,\"eof\":false}}", 2}},
        {{"guest-file-read", FAKE_SAY,
          "{\"return\":{\"count\":1,\"buf-b64\":\"AA==\",\"eof\":false}}", 2}},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        Place p = begin(lies[i]);
        g_autofree char *there = make_file(p.there, "f", 600 * 1000, 0600);
        g_autoptr(GError) error = NULL;

        g_assert_false(do_copy(&p, false, there, p.here, &error));
        g_assert_nonnull(error);
        g_assert_cmpuint(count(p.here), ==, 0);
        end(&p);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/copy/" #name, name)
    ADD(a_file_arrives_with_its_bytes_and_mode);
    ADD(a_folder_arrives_with_all_that_is_in_it);
    ADD(a_link_does_not_pass_for_a_folder);
    ADD(what_is_not_there_is_a_sentence);
    ADD(a_lie_on_the_way_leaves_no_file);
    return g_test_run();
}
