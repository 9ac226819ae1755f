/* Where messages end, however they arrive. */
#include "src/control/frame.h"

#include <jansson.h>
#include <string.h>

enum { MAX = 4096 };

/* What `text` is cut into, given `step` bytes at a time: values as they are, "!" for what
 * is refused, with '|' between. */
static char *cut_by(const char *text, size_t len, size_t step)
{
    GString *out = g_string_new(NULL);
    Frame f;

    frame_init(&f, MAX);
    for (size_t at = 0; at < len;) {
        g_autoptr(GError) error = NULL;
        size_t used = SIZE_MAX;
        FrameResult result = frame_take(&f, text + at, MIN(step, len - at), &used,
                                        &error);

        g_assert_cmpuint(used, <=, MIN(step, len - at));
        g_assert_true((result == FRAME_BAD) == (error != NULL));
        at += used;
        if (result == FRAME_VALUE)
            g_string_append_printf(out, "%s%s", out->len ? "|" : "", f.text->str);
        if (result == FRAME_BAD)
            g_string_append_printf(out, "%s!", out->len ? "|" : "");
    }
    frame_finish(&f);
    return g_string_free(out, FALSE);
}

static void cuts_n(const char *text, size_t len, const char *expected)
{
    for (size_t step = 1; step <= 7; step++) {
        g_autofree char *got = cut_by(text, len, step);

        g_assert_cmpstr(got, ==, expected);
    }
}

static void cuts(const char *text, const char *expected)
{
    cuts_n(text, strlen(text), expected);
}

static void values_end_where_they_end_however_they_arrive(void)
{
    cuts("{\"a\":1}", "{\"a\":1}");
    cuts("{}{}", "{}|{}");
    cuts(" \r\n{ } \t[1,[2]]\n", "{ }|[1,[2]]");
    cuts("{\"a\":{\"b\":[{},[]]}}{", "{\"a\":{\"b\":[{},[]]}}");
}

static void brackets_and_quotes_inside_strings_do_not_count(void)
{
    cuts("{\"}\":\"]\\\"}{\"}{}", "{\"}\":\"]\\\"}{\"}|{}");
    cuts("\"\\\\\"{}", "\"\\\\\"|{}");
}

static void a_scalar_that_stands_alone_is_a_value_too(void)
{
    cuts("5\n", "5");
    cuts("nul{}", "nul|{}");
    cuts("\"x\"-1.5e+3 ", "\"x\"|-1.5e+3");
}

static void what_has_no_place_there_is_refused_and_the_next_is_heard(void)
{
    cuts("}{}", "!|{}");
    cuts(",{}", "!|{}");
    cuts("{\"execute\":\xff{\"a\":1}", "!|{\"a\":1}");
    cuts("{\"execute\": 'x'}", "!|x|!|!");
    cuts("{\"a\n{}", "!|{}");
    cuts_n("\0{}", 3, "!|{}");
    cuts("{\"\xfe{}", "!|{}");
}

static void byte_ff_brings_both_sides_in_step_in_any_state(void)
{
    static const char *const states[] = {"", "{", "{\"a", "[[[", "12", "{\"a\\", "\""};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_autofree char *text = g_strdup_printf("%s\xff{\"id\":1}", states[i]);
        g_autofree char *got = cut_by(text, strlen(text), 3);

        g_assert_true(g_str_has_suffix(got, "!|{\"id\":1}"));
    }
}

static char *repeat(const char *what, unsigned n, const char *tail)
{
    GString *out = g_string_new(NULL);

    while (n--)
        g_string_append(out, what);
    g_string_append(out, tail);
    return g_string_free(out, FALSE);
}

static void a_value_too_deep_is_refused_once_and_passed_over(void)
{
    g_autofree char *closing = repeat("]", 3000, "{\"next\":1}");
    g_autofree char *deep = repeat("[", 3000, closing);
    g_autofree char *fits_tail = repeat("]", FRAME_MAX_NESTING, "");
    g_autofree char *fits = repeat("[", FRAME_MAX_NESTING, fits_tail);

    cuts(deep, "!|{\"next\":1}");
    cuts(fits, fits);
}

static void a_value_too_long_is_refused_once_and_holds_no_memory(void)
{
    g_autofree char *tail = repeat("x\\\"}", 5000, "\"}{\"next\":1}");
    g_autofree char *text = g_strdup_printf("{\"a\":\"%s", tail);
    g_autofree char *word = repeat("1", 3 * MAX, " {}");
    Frame f;
    size_t used;

    cuts(text, "!|{\"next\":1}");
    cuts(word, "!|{}");
    frame_init(&f, MAX);
    frame_take(&f, text, 2 * MAX, &used, NULL);
    frame_take(&f, text + used, 5000, &used, NULL);
    g_assert_cmpuint(f.text->allocated_len, <=, 4 * MAX);
    frame_finish(&f);
}

static void a_broken_value_that_is_passed_over_is_not_told_twice(void)
{
    g_autofree char *text = repeat("[", 3000, "\xff{\"next\":1}");

    cuts(text, "!|{\"next\":1}");
}

/* The parser is the judge of what a value is: it must accept each prefix that we call
 * one. */
static void the_parser_takes_what_we_cut_out_of_good_text(void)
{
    static const char text[] = "{\"a\": [1, -2.5e3, true, null, \"\\u00e9\\\\\\\"\"]} [] "
                               "{\"b\": {\"c\": {}}} \"\\\\\" 17 false ";
    g_autofree char *cut = cut_by(text, strlen(text), 5);
    g_auto(GStrv) values = g_strsplit(cut, "|", -1);

    g_assert_cmpuint(g_strv_length(values), ==, 6);
    for (char **v = values; *v; v++) {
        json_t *json = json_loads(*v, JSON_DECODE_ANY, NULL);

        g_assert_nonnull(json);
        json_decref(json);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/control/frame/" #name, name)
    TEST(values_end_where_they_end_however_they_arrive);
    TEST(brackets_and_quotes_inside_strings_do_not_count);
    TEST(a_scalar_that_stands_alone_is_a_value_too);
    TEST(what_has_no_place_there_is_refused_and_the_next_is_heard);
    TEST(byte_ff_brings_both_sides_in_step_in_any_state);
    TEST(a_value_too_deep_is_refused_once_and_passed_over);
    TEST(a_value_too_long_is_refused_once_and_holds_no_memory);
    TEST(a_broken_value_that_is_passed_over_is_not_told_twice);
    TEST(the_parser_takes_what_we_cut_out_of_good_text);
    return g_test_run();
}
