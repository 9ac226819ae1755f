/* What came of a test: as JSON, as a JUnit file, and as a table.
 *
 * JUnit is what GitLab and Jenkins read: testsuites, testsuite and testcase with failure
 * (the command's own status, or its time limit) or error (it could not be carried out, or
 * the guest did not survive it).  A guest's output may be any bytes, XML 1.0 may not. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/cli/test.h"

static const char *const verdict_names[] = {"passed", "failed", "timeout", "error",
                                            "crash",  "panic",  "stopped", NULL};

/* ---- results ---------------------------------------------------------------------- */

void test_result_clear(TestResult *r)
{
    g_free(r->detail);
    g_free(r->output);
    g_free(r->console);
    g_free(r->kept);
    *r = (TestResult){0};
}

void test_result_fail(TestResult *r, TestVerdict verdict, int status, char *detail)
{
    g_free(r->detail);
    r->verdict = verdict;
    r->status = status;
    r->detail = g_utf8_make_valid(detail ? detail : verdict_names[verdict], -1);
    g_free(detail);
}

int test_status(TestCell *const *cells, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (cells[i]->result.status)
            return cells[i]->result.status;
    return 0;
}

/* ---- JSON ------------------------------------------------------------------------- */

static void add_text(json_t *object, const char *key, const char *text)
{
    if (text)
        json_object_set_new(object, key, json_string(text));
}

/* What --json shows; the texts are only for the way from process to process. */
static json_t *summary(const TestResult *r)
{
    json_t *json = json_pack("{s:i, s:s, s:{s:f, s:f}}", "status", r->status, "reason",
                             verdict_names[r->verdict], "times", "boot_s", r->boot_s,
                             "run_s", r->run_s);

    add_text(json, "detail", r->detail);
    add_text(json, "kept", r->kept);
    return json;
}

json_t *test_result_to_json(const TestResult *r)
{
    json_t *json = summary(r);

    add_text(json, "output", r->output);
    add_text(json, "console", r->console);
    return json;
}

static char *take_text(const json_t *json, const char *key)
{
    return g_strdup(json_string_value(json_object_get(json, key)));
}

bool test_result_from_json(TestResult *ret, const json_t *json)
{
    const char *reason = json_string_value(json_object_get(json, "reason"));
    const json_t *times = json_object_get(json, "times");

    for (int v = 0; reason && v < TEST_VERDICTS; v++) {
        if (!g_str_equal(verdict_names[v], reason))
            continue;
        *ret = (TestResult){
            .verdict = v,
            .status = (int)json_integer_value(json_object_get(json, "status")),
            .detail = take_text(json, "detail"),
            .output = take_text(json, "output"),
            .console = take_text(json, "console"),
            .kept = take_text(json, "kept"),
            .boot_s = json_number_value(json_object_get(times, "boot_s")),
            .run_s = json_number_value(json_object_get(times, "run_s")),
        };
        return true;
    }
    return false;
}

static json_t *cell_summary(const TestCell *c)
{
    g_autofree char *name = g_utf8_make_valid(c->name, -1);
    json_t *json = summary(&c->result);

    json_object_set_new(json, "name", json_string(name));
    return json;
}

char *test_report_json(TestCell *const *cells, unsigned n, bool matrix, double seconds)
{
    json_t *json, *list = json_array();
    unsigned passed = 0;
    char *text, *copy;

    for (unsigned i = 0; i < n; i++) {
        passed += !cells[i]->result.status;
        json_array_append_new(list, cell_summary(cells[i]));
    }
    if (matrix) {
        json = json_pack("{s:i, s:i, s:i, s:{}, s:O}", "status", test_status(cells, n),
                         "passed", (int)passed, "failed", (int)(n - passed), "times",
                         "cells", list);
    } else {
        json = json_incref(json_array_get(list, 0));
    }
    json_object_set_new(json_object_get(json, "times"), "total_s", json_real(seconds));
    text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(6));
    copy = g_strconcat(text, "\n", NULL);
    free(text);
    json_decref(json);
    json_decref(list);
    return copy;
}

/* ---- XML -------------------------------------------------------------------------- */

/* XML 1.0, 2.2: the production Char. */
static bool is_xml_char(gunichar c)
{
    return c == '\t' || c == '\n' || c == '\r' || (c >= 0x20 && c <= 0xd7ff) ||
           (c >= 0xe000 && c <= 0xfffd) || (c >= 0x10000 && c <= 0x10ffff);
}

void test_xml_append(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (!is_xml_char(c))
            g_string_append(out, "\xef\xbf\xbd"); /* U+FFFD, the replacement */
        else if (strchr("<>&\"'\r\n\t", (int)(c < 0x80 ? c : 'x')))
            /* Spaces too: a parser makes a plain one of them inside an attribute. */
            g_string_append_printf(out, "&#%u;", c);
        else
            g_string_append_unichar(out, c);
    }
}

/* As it is, but for what must be escaped: for people to read in the file as well. */
static void append_lines(GString *out, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        if (i)
            g_string_append_c(out, '\n');
        test_xml_append(out, lines[i]);
    }
}

static void attribute(GString *out, const char *name, const char *value)
{
    g_string_append_printf(out, " %s=\"", name);
    test_xml_append(out, value);
    g_string_append_c(out, '"');
}

static void attribute_number(GString *out, const char *name, unsigned value)
{
    g_string_append_printf(out, " %s=\"%u\"", name, value);
}

static void attribute_seconds(GString *out, double seconds)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE]; /* a locale's comma is no decimal point */

    attribute(out, "time", g_ascii_formatd(text, sizeof(text), "%.3f", seconds));
}

static void element(GString *out, const char *name, const char *text)
{
    if (!text || !*text)
        return;
    g_string_append_printf(out, "      <%s>", name);
    append_lines(out, text);
    g_string_append_printf(out, "</%s>\n", name);
}

static bool is_failure(TestVerdict v)
{
    return v == TEST_FAILED || v == TEST_TIMEOUT;
}

/* "status 2"; what is the matter, in a few words. */
static char *message_of(const TestResult *r)
{
    return r->detail ? g_strdup(r->detail)
                     : g_strdup_printf("the command's status was %d", r->status);
}

static void add_verdict(GString *out, const TestResult *r)
{
    const char *kind = is_failure(r->verdict) ? "failure" : "error";
    g_autofree char *message = message_of(r);

    g_string_append_printf(out, "      <%s", kind);
    attribute(out, "message", message);
    attribute(out, "type", verdict_names[r->verdict]);
    g_string_append_c(out, '>');
    append_lines(out, r->console ? r->console : "");
    g_string_append_printf(out, "</%s>\n", kind);
}

static void add_case(GString *out, const TestCell *c)
{
    const TestResult *r = &c->result;

    g_string_append(out, "    <testcase");
    attribute(out, "classname", "hutch.test");
    attribute(out, "name", c->name);
    attribute_seconds(out, r->run_s);
    g_string_append(out, ">\n");
    if (r->verdict != TEST_PASSED)
        add_verdict(out, r);
    element(out, "system-out", r->output);
    g_string_append(out, "    </testcase>\n");
}

static unsigned count(TestCell *const *cells, unsigned n, bool failures)
{
    unsigned found = 0;

    for (unsigned i = 0; i < n; i++) {
        TestVerdict v = cells[i]->result.verdict;

        found += v != TEST_PASSED && is_failure(v) == failures;
    }
    return found;
}

static void add_totals(GString *out, TestCell *const *cells, unsigned n, double seconds)
{
    attribute(out, "name", "hutch test");
    attribute_number(out, "tests", n);
    attribute_number(out, "failures", count(cells, n, true));
    attribute_number(out, "errors", count(cells, n, false));
    attribute_seconds(out, seconds);
}

char *test_report_junit(TestCell *const *cells, unsigned n, double seconds)
{
    GString *out = g_string_new("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *when = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S");

    g_string_append(out, "<testsuites");
    add_totals(out, cells, n, seconds);
    g_string_append(out, ">\n  <testsuite");
    add_totals(out, cells, n, seconds);
    attribute_number(out, "skipped", 0);
    attribute(out, "timestamp", when);
    g_string_append(out, ">\n");
    for (unsigned i = 0; i < n; i++)
        add_case(out, cells[i]);
    g_string_append(out, "  </testsuite>\n</testsuites>\n");
    return g_string_free(out, FALSE);
}

/* ---- for people ------------------------------------------------------------------- */

char *test_result_line(const TestCell *c)
{
    const TestResult *r = &c->result;
    GString *out = g_string_new(c->name);

    g_string_append_printf(out, ": %s", verdict_names[r->verdict]);
    if (r->verdict == TEST_FAILED)
        g_string_append_printf(out, " with status %d", r->status);
    if (r->boot_s > 0)
        g_string_append_printf(out, " (boot %.1f s, run %.1f s)", r->boot_s, r->run_s);
    if (r->detail)
        g_string_append_printf(out, ": %s", r->detail);
    return g_string_free(out, FALSE);
}

char *test_report_table(TestCell *const *cells, unsigned n)
{
    GString *out = g_string_new(NULL);
    int width = strlen("CELL");
    unsigned passed = 0;

    for (unsigned i = 0; i < n; i++)
        width = MAX(width, (int)strlen(cells[i]->name));
    g_string_append_printf(out, "%-*s  %-8s %6s %8s %8s\n", width, "CELL", "RESULT",
                           "STATUS", "BOOT", "RUN");
    for (unsigned i = 0; i < n; i++) {
        const TestResult *r = &cells[i]->result;

        passed += r->verdict == TEST_PASSED;
        g_string_append_printf(out, "%-*s  %-8s %6d %6.1f s %6.1f s\n", width,
                               cells[i]->name, verdict_names[r->verdict], r->status,
                               r->boot_s, r->run_s);
    }
    g_string_append_printf(out, "%u of %u passed\n", passed, n);
    return g_string_free(out, FALSE);
}
