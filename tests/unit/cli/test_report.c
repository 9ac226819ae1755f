/* What hutch test reports: whatever a guest says, its JUnit file is XML 1.0. */
#include <string.h>

#include "src/cli/test.h"

static TestCell cell(const char *name, TestVerdict verdict, int status)
{
    return (TestCell){.name = (char *)name,
                      .result = {.verdict = verdict, .status = status, .run_s = 1.5}};
}

static void escapes(const char *text, const char *wanted)
{
    g_autoptr(GString) out = g_string_new(NULL);

    test_xml_append(out, text);
    g_assert_cmpstr(out->str, ==, wanted);
}

static void any_bytes_become_characters_of_xml(void)
{
    escapes("a<b>&\"'", "a&#60;b&#62;&#38;&#34;&#39;");
    escapes("a\r\n\tb", "a&#13;&#10;&#9;b");
    escapes("\x1b[1m\x01\x7f", "\xef\xbf\xbd[1m\xef\xbf\xbd\x7f");
    escapes("\xff\xc3\x28", "\xef\xbf\xbd\xef\xbf\xbd(");
    escapes("\xef\xbf\xbe\xef\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd"); /* U+FFFE, U+FFFF */
    escapes("\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* a surrogate */
    escapes("\xc3\xa4\xf0\x9f\x98\x80", "\xc3\xa4\xf0\x9f\x98\x80");
}

/* Every byte there is, in each place that a guest or user can put it. */
static void the_junit_file_is_well_formed_whatever_was_said(void)
{
    TestCell c = cell("all", TEST_PANIC, 127);
    TestCell *list[] = {&c};
    GMarkupParser parser = {0};
    g_autoptr(GMarkupParseContext) xml = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *junit = NULL;
    char all[256];

    for (unsigned i = 1; i < 256; i++)
        all[i - 1] = (char)i;
    all[255] = 0;
    c.name = all;
    c.result.detail = all;
    c.result.output = all;
    c.result.console = all;
    junit = test_report_junit(list, 1, 1);
    xml = g_markup_parse_context_new(&parser, 0, NULL, NULL);
    g_assert_true(g_markup_parse_context_parse(xml, junit, -1, &error));
    g_assert_true(g_markup_parse_context_end_parse(xml, &error));
    for (const char *p = junit; *p; p = g_utf8_next_char(p)) {
        gunichar u = g_utf8_get_char(p);

        g_assert_true(u == '\n' || (u >= 0x20 && u <= 0xfffd));
    }
}

static unsigned count_of(const char *text, const char *word)
{
    unsigned n = 0;

    for (const char *p = text; (p = strstr(p, word)); p++)
        n++;
    return n;
}

static void junit_counts_failures_and_errors_apart(void)
{
    TestCell a = cell("a", TEST_PASSED, 0), b = cell("b", TEST_FAILED, 2),
             c = cell("c", TEST_TIMEOUT, 124), d = cell("d", TEST_CRASH, 126),
             e = cell("e", TEST_STOPPED, 143);
    TestCell *list[] = {&a, &b, &c, &d, &e};
    g_autofree char *junit = test_report_junit(list, 5, 12.25);

    g_assert_cmpuint(count_of(junit, "tests=\"5\" failures=\"2\" errors=\"2\" "
                                     "time=\"12.250\""),
                     ==, 2);
    g_assert_cmpuint(count_of(junit, "<testcase "), ==, 5);
    g_assert_cmpuint(count_of(junit, "<failure "), ==, 2);
    g_assert_cmpuint(count_of(junit, "<error "), ==, 2);
    g_assert_nonnull(strstr(junit, "message=\"the command&#39;s status was 2\""));
    g_assert_nonnull(strstr(junit, "name=\"a\" time=\"1.500\">\n    </testcase>"));
}

static void the_status_is_that_of_the_first_cell_that_did_not_pass(void)
{
    TestCell a = cell("a", TEST_PASSED, 0), b = cell("b", TEST_FAILED, 2),
             c = cell("c", TEST_PANIC, 127);
    TestCell *list[] = {&a, &b, &c}, *other[] = {&a, &c, &b};

    g_assert_cmpint(test_status(list, 1), ==, 0);
    g_assert_cmpint(test_status(list, 3), ==, 2);
    g_assert_cmpint(test_status(other, 3), ==, 127);
}

static void json_tells_a_status_of_the_command_from_one_of_hutch(void)
{
    TestCell a = cell("a", TEST_FAILED, 127), b = cell("b", TEST_PANIC, 127);
    TestCell *list[] = {&a, &b};
    g_autofree char *one = test_report_json(list, 1, false, 2);
    g_autofree char *many = test_report_json(list, 2, true, 2);
    json_t *json = json_loads(one, 0, NULL);
    const char *reason;

    g_assert_cmpstr(json_string_value(json_object_get(json, "reason")), ==, "failed");
    g_assert_cmpint((int)json_integer_value(json_object_get(json, "status")), ==, 127);
    g_assert_cmpuint(count_of(one, "\n"), ==, 1); /* one line, the last */
    json_decref(json);
    json = json_loads(many, 0, NULL);
    g_assert_cmpint(json_unpack(json, "{s:[*,{s:s}]}", "cells", "reason", &reason), ==,
                    -1); /* two of them */
    g_assert_cmpint(json_unpack(json, "{s:[{},{s:s}]}", "cells", "reason", &reason), ==,
                    0);
    g_assert_cmpstr(reason, ==, "panic");
    json_decref(json);
}

static void a_result_survives_the_way_from_process_to_process(void)
{
    TestResult r = {.verdict = TEST_CRASH,
                    .status = 126,
                    .output = (char *)"out",
                    .console = (char *)"console",
                    .boot_s = 1.25,
                    .run_s = 2.5},
               got;
    json_t *json = test_result_to_json(&r);

    g_assert_true(test_result_from_json(&got, json));
    g_assert_cmpint(got.verdict, ==, TEST_CRASH);
    g_assert_cmpint(got.status, ==, 126);
    g_assert_cmpstr(got.output, ==, "out");
    g_assert_cmpstr(got.console, ==, "console");
    g_assert_null(got.detail);
    g_assert_cmpfloat(got.boot_s, ==, 1.25);
    g_assert_cmpfloat(got.run_s, ==, 2.5);
    test_result_clear(&got);
    json_object_set_new(json, "reason", json_string("none of ours"));
    g_assert_false(test_result_from_json(&got, json));
    json_decref(json);
}

static void last_is(const char *text, unsigned lines, const char *wanted)
{
    g_autofree char *got = test_last_lines(text, strlen(text), lines);

    g_assert_cmpstr(got, ==, wanted);
}

static void a_console_is_shown_without_what_could_drive_a_terminal(void)
{
    last_is("a\nb\nc\n", 2, "b\nc\n");
    last_is("a\n\n\r\n  \nb", 5, "a\nb\n");
    last_is("", 3, "");
    last_is("\x1b[1;31mred\x1b[0m\x07 \x1b]0;title\x07\n", 1, "red ]0;title\n");
    last_is("end\x1b", 1, "end\n");
    last_is("end\x1b[", 1, "end[\n");
    last_is("\xff\xfe\n", 1, "\xef\xbf\xbd\xef\xbf\xbd\n");
}

static void a_line_without_an_end_is_shown_in_part(void)
{
    g_autofree char *flood = g_strnfill(60000, 'x');
    g_autofree char *got = test_last_lines(flood, 60000, 10);

    g_assert_cmpuint(strlen(got), ==, 301);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/report/xml", any_bytes_become_characters_of_xml);
    g_test_add_func("/report/well-formed",
                    the_junit_file_is_well_formed_whatever_was_said);
    g_test_add_func("/report/junit", junit_counts_failures_and_errors_apart);
    g_test_add_func("/report/status",
                    the_status_is_that_of_the_first_cell_that_did_not_pass);
    g_test_add_func("/report/json", json_tells_a_status_of_the_command_from_one_of_hutch);
    g_test_add_func("/report/process", a_result_survives_the_way_from_process_to_process);
    g_test_add_func("/report/console",
                    a_console_is_shown_without_what_could_drive_a_terminal);
    g_test_add_func("/report/flood", a_line_without_an_end_is_shown_in_part);
    return g_test_run();
}
