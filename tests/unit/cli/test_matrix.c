/* The cells of hutch test, as a matrix file tells them. */
#include <string.h>

#include "src/cli/test.h"

/* The cells' names, separated by spaces, or the sentence. */
static char *names_of(const char *json, const TestOptions *options)
{
    json_t *parsed = json_loads(json, 0, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) cells = NULL;
    GString *out;

    g_assert_nonnull(parsed);
    cells = test_matrix_cells(parsed, "/base", options, &error);
    json_decref(parsed);
    if (!cells)
        return g_strdup(error->message);
    out = g_string_new(NULL);
    for (unsigned i = 0; i < cells->len; i++)
        g_string_append_printf(out, "%s%s", i ? " " : "",
                               ((TestCell *)cells->pdata[i])->name);
    return g_string_free(out, FALSE);
}

static void gives(const char *json, const char *wanted)
{
    TestOptions options = {.value = {[TEST_IMAGE] = (char *)"debian"}};
    g_autofree char *got = names_of(json, &options);

    g_assert_cmpstr(got, ==, wanted);
}

static void says(const char *json, const char *words)
{
    TestOptions options = {0};
    g_autofree char *got = names_of(json, &options);

    if (!strstr(got, words))
        g_error("%s: \"%s\" lacks \"%s\"", json, got, words);
}

static void a_matrix_is_every_combination_in_order(void)
{
    gives("{\"image\": [\"a\", \"b\"], \"cpus\": [1, 4]}",
          "image=a,cpus=1 image=a,cpus=4 image=b,cpus=1 image=b,cpus=4");
    /* Whatever the order in the file; a value of its own tells no cell from another. */
    gives("{\"memory\": \"1G\", \"cpus\": [1, 2], \"kernel\": [\"k\"]}", "cpus=1 cpus=2");
    gives("{\"memory\": \"1G\"}", "debian");
}

static void a_cells_name_does_not_drive_a_terminal(void)
{
    gives("{\"image\": [\"a\\u001b]0;x\\u0007\", \"b\\u009b\\n\", \"gr\u00fc\u00df\"]}",
          "image=a?]0;x? image=b?? image=gr\u00fc\u00df");
}

static void excludes_take_away_and_includes_add(void)
{
    gives("{\"image\": [\"a\", \"b\"], \"cpus\": [1, 4],"
          " \"exclude\": [{\"image\": \"b\", \"cpus\": \"4\"}],"
          " \"include\": {\"image\": \"c\"}}",
          "image=a,cpus=1 image=a,cpus=4 image=b,cpus=1 image=c");
    gives(
        "{\"image\": [\"a\", \"b\"], \"cpus\": [1, 4], \"exclude\": {\"image\": \"a\"}}",
        "image=b,cpus=1 image=b,cpus=4");
    gives("{\"include\": [{\"cpus\": 1}, {\"cpus\": 2}]}", "cpus=1 cpus=2");
    says("{\"cpus\": [1, 4], \"exclude\": [{\"cpus\": 4}, {\"cpus\": 3}]}",
         "exclude, no. 2: no combination is like it");
}

static void what_the_options_say_is_in_each_cell_and_paths_count_from_the_file(void)
{
    TestOptions options = {
        .value = {[TEST_IMAGE] = (char *)"debian", [TEST_MEMORY] = (char *)"2G"}};
    json_t *json = json_loads("{\"kernel\": [\"a\", \"/b\"], \"memory\": \"1G\","
                              " \"include\": {\"image\": \"./disk\"}}",
                              0, NULL);
    g_autoptr(GPtrArray) cells = test_matrix_cells(json, "/base", &options, NULL);
    TestCell **c = (TestCell **)cells->pdata;

    json_decref(json);
    g_assert_cmpuint(cells->len, ==, 3);
    g_assert_cmpstr(c[0]->value[TEST_KERNEL], ==, "/base/a");
    g_assert_cmpstr(c[1]->value[TEST_KERNEL], ==, "/b");
    g_assert_cmpstr(c[1]->value[TEST_MEMORY], ==, "1G");
    g_assert_cmpstr(c[1]->value[TEST_IMAGE], ==, "debian");
    g_assert_cmpstr(c[2]->value[TEST_IMAGE], ==, "/base/./disk");
    g_assert_cmpstr(c[2]->value[TEST_MEMORY], ==, "2G");
    g_assert_null(c[2]->value[TEST_KERNEL]);
}

static void what_is_wrong_is_said(void)
{
    says("[]", "an object is wanted at the top");
    says("{}", "there are 0 combinations");
    says("{\"cpu\": 1}", "unknown key 'cpu'");
    says("{\"include\": {\"exclude\": 1}}", "unknown key 'exclude'");
    says("{\"cpus\": []}", "cpus: the list is empty");
    says("{\"cpus\": [1, {}]}", "cpus: a string or a whole number is wanted");
    says("{\"cpus\": 1.5}", "cpus: a string or a whole number is wanted");
    says("{\"image\": \"\"}", "image: a string or a whole number is wanted");
    says("{\"cpus\": [1, \"1\"]}", "'cpus=1' is there twice");
    says("{\"include\": [{}]}", "include, no. 1: an object with a key in it is wanted");
}

/* Lists whose product would be 10^12. */
static void a_huge_product_is_refused_before_it_is_made(void)
{
    GString *json = g_string_new("{");

    for (unsigned k = 0; k < 4; k++) {
        g_string_append_printf(json, "%s\"%s\": [0", k ? ", " : "", test_keys[k]);
        for (unsigned i = 1; i < 1000; i++)
            g_string_append_printf(json, ", %u", i);
        g_string_append_c(json, ']');
    }
    g_string_append_c(json, '}');
    says(json->str, "there are more than 1000 combinations");
    g_string_free(json, TRUE);
}

static void files_that_are_no_matrix_are_refused(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(test_matrix_load("/dev/zero", &(TestOptions){0}, &error));
    g_assert_nonnull(strstr(error->message, "matrix '/dev/zero'"));
    g_clear_error(&error);
    g_assert_null(test_matrix_load("/proc/no-such-file", &(TestOptions){0}, &error));
    g_assert_nonnull(strstr(error->message, "No such file"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/matrix/product", a_matrix_is_every_combination_in_order);
    g_test_add_func("/matrix/printable", a_cells_name_does_not_drive_a_terminal);
    g_test_add_func("/matrix/include-exclude", excludes_take_away_and_includes_add);
    g_test_add_func("/matrix/values",
                    what_the_options_say_is_in_each_cell_and_paths_count_from_the_file);
    g_test_add_func("/matrix/wrong", what_is_wrong_is_said);
    g_test_add_func("/matrix/huge", a_huge_product_is_refused_before_it_is_made);
    g_test_add_func("/matrix/files", files_that_are_no_matrix_are_refused);
    return g_test_run();
}
