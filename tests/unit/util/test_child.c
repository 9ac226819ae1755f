/* Children's last words, which a guest may have put into their mouths, and how often they
 * may be started. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/child.h"
#include "util/fd.h"

typedef struct Scene {
    IoLoop *loop;
    ChildWords words;
    int mouth;
} Scene;

static bool is_noise(const char *line)
{
    return g_str_has_prefix(line, "noise");
}

static void set_up(Scene *s, const void *data)
{
    int pair[2];

    g_assert_cmpint(pipe2(pair, O_CLOEXEC), ==, 0);
    s->loop = ioloop_new(NULL);
    s->mouth = pair[1];
    s->words = (ChildWords){.id = "net0",
                            .program = "parrot",
                            .is_noise = is_noise,
                            .untold = true,
                            .fd = -1};
    g_assert_true(child_words_hear(&s->words, pair[0], s->loop, NULL));
}

static void tear_down(Scene *s, const void *data)
{
    child_words_close(&s->words);
    fd_close(&s->mouth);
    ioloop_free(s->loop);
}

static void say(const Scene *s, const char *text)
{
    g_assert_cmpint(write(s->mouth, text, strlen(text)), ==, (ssize_t)strlen(text));
}

static void the_last_whole_line_that_is_no_noise_is_kept(Scene *s, const void *data)
{
    g_assert_cmpstr(child_words_last(&s->words), ==, "");
    say(s, "one\ntwo\n\nnoise of all kinds\nthr");
    g_assert_cmpstr(child_words_last(&s->words), ==, "two");
    say(s, "ee\n");
    g_assert_cmpstr(child_words_last(&s->words), ==, "three");
    fd_close(&s->mouth);
    g_assert_cmpstr(child_words_hear_out(&s->words, 60000), ==, "three");
    g_assert_cmpstr(child_words_last(&s->words), ==, "three");
}

/* A line that never ends is cut, and one look takes a bounded part of what there is. */
static void a_flood_is_taken_in_parts(Scene *s, const void *data)
{
    enum { FLOOD = 48 * 1024 };
    g_autofree char *flood = g_strnfill(FLOOD, 'x');
    int left;

    say(s, flood);
    g_assert_cmpuint(strlen(child_words_last(&s->words)), ==, CHILD_WORDS - 1);
    g_assert_cmpint(read(s->words.fd, flood, FLOOD), ==, FLOOD - 16 * 1024);
    say(s, "\nenough\n");
    g_assert_cmpstr(child_words_last(&s->words), ==, "enough");
    left = (int)read(s->words.fd, flood, FLOOD);
    g_assert_cmpint(left, ==, -1);
}

static void what_was_said_before_a_new_start_is_forgotten(Scene *s, const void *data)
{
    int pair[2];

    say(s, "farewell\nand");
    g_assert_cmpstr(child_words_last(&s->words), ==, "farewell");
    g_assert_cmpint(pipe2(pair, O_CLOEXEC), ==, 0);
    g_assert_true(child_words_hear(&s->words, pair[0], s->loop, NULL));
    fd_close(&s->mouth);
    s->mouth = pair[1];
    g_assert_cmpstr(child_words_last(&s->words), ==, "");
    say(s, "hello\n");
    g_assert_cmpstr(child_words_last(&s->words), ==, "hello");
}

static void five_starts_a_minute(void)
{
    ChildStarts s = {0};
    int64_t first = clock_ns();

    for (unsigned i = 0; i < CHILD_STARTS; i++) {
        g_assert_cmpint(child_starts_next(&s), ==, 0);
        child_starts_add(&s);
    }
    g_assert_cmpint(child_starts_next(&s), >=, first + 60 * 1000000000ll);
    g_assert_cmpint(child_starts_next(&s), <=, clock_ns() + 60 * 1000000000ll);
    s.at_ns[0] -= 100 * 1000000000ll; /* the first was long ago */
    g_assert_cmpint(child_starts_next(&s), <, clock_ns());
    child_starts_add(&s);
    g_assert_cmpint(child_starts_next(&s), >, clock_ns());
}

#define TEST(fn) g_test_add("/child/" #fn, Scene, NULL, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST(the_last_whole_line_that_is_no_noise_is_kept);
    TEST(a_flood_is_taken_in_parts);
    TEST(what_was_said_before_a_new_start_is_forgotten);
    g_test_add_func("/child/five_starts_a_minute", five_starts_a_minute);
    return g_test_run();
}
