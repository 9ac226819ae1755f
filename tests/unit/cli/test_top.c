/* hutch top's figures and its table. */
#include "src/cli/top.h"

#include <string.h>

static const char answer[] =
    "{\"vm\": \"v\", \"metrics\": ["
    "{\"name\":\"hutch_vm_state\",\"samples\":[{\"labels\":{\"state\":\"running\"},"
    "\"value\":1}]},"
    "{\"name\":\"hutch_cpu_seconds_total\",\"samples\":[{\"labels\":{\"mode\":\"user\"},"
    "\"value\":1.5},{\"labels\":{\"mode\":\"system\"},\"value\":0.5}]},"
    "{\"name\":\"hutch_vcpu_cpu_seconds_total\",\"samples\":[{\"labels\":{\"vcpu\":\"0\"}"
    ","
    "\"value\":1},{\"labels\":{\"vcpu\":\"1\"},\"value\":0.25}]},"
    "{\"name\":\"hutch_disk_bytes_total\",\"samples\":["
    "{\"labels\":{\"device\":\"a\",\"op\":\"read\"},\"value\":100},"
    "{\"labels\":{\"device\":\"a\",\"op\":\"write\"},\"value\":7},"
    "{\"labels\":{\"device\":\"b\",\"op\":\"read\"},\"value\":11}]},"
    "{\"name\":\"hutch_net_bytes_total\",\"samples\":["
    "{\"labels\":{\"device\":\"n\",\"direction\":\"tx\"},\"value\":3}]},"
    "{\"name\":\"hutch_memory_resident_bytes\",\"samples\":[{\"labels\":{},"
    "\"value\":4096}]}]}";

static void figures_are_summed_over_devices_and_vcpus(void)
{
    json_t *json = json_loads(answer, 0, NULL);
    TopFigures f;

    top_figures(json, 5, &f);
    json_decref(json);
    g_assert_cmpstr(f.state, ==, "running");
    g_assert_cmpint(f.at_ns, ==, 5);
    g_assert_cmpfloat(f.cpu, ==, 2);
    g_assert_cmpfloat(f.vcpu, ==, 1.25);
    g_assert_cmpfloat(f.disk_read, ==, 111);
    g_assert_cmpfloat(f.disk_write, ==, 7);
    g_assert_cmpfloat(f.net_rx, ==, 0);
    g_assert_cmpfloat(f.net_tx, ==, 3);
    g_assert_cmpfloat(f.resident, ==, 4096);
}

static void what_a_strange_monitor_says_does_no_harm(void)
{
    static const char *const strange[] = {
        "{}",
        "{\"metrics\": 3}",
        "{\"metrics\": [1, {\"name\": 2}, {}]}",
        ("{\"metrics\": [{\"name\":\"hutch_vm_state\",\"samples\":[{\"labels\":"
         "{\"state\":\"\\u001b[2Jevil and long, far too long\"}}]}]}"),
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(strange); i++) {
        json_t *json = json_loads(strange[i], 0, NULL);
        TopFigures f;

        g_assert_nonnull(json);
        top_figures(json, 0, &f);
        json_decref(json);
        g_assert_cmpfloat(f.cpu, ==, 0);
        g_assert_null(strchr(f.state, '\033')); /* it goes to a terminal */
        g_assert_cmpuint(strlen(f.state), >, 0);
    }
}

static void rates_are_of_a_second(void)
{
    TopFigures before = {.at_ns = 1000000000, .cpu = 1, .disk_read = 100, .exits = 10};
    TopFigures now = {.at_ns = 3000000000, .cpu = 2, .disk_read = 1100, .exits = 5};
    TopRow row;

    top_row("v", &before, &now, &row);
    g_assert_cmpfloat(row.cpu, ==, 50); /* percent */
    g_assert_cmpfloat(row.disk_read, ==, 500);
    g_assert_cmpfloat(row.exits, ==, 0); /* started anew in between */
    g_free(row.name);
    top_row("v", &now, &now, &row);
    g_assert_cmpfloat(row.cpu, ==, 0);
    g_free(row.name);
}

static GArray *some_rows(void)
{
    GArray *rows = top_rows_new();
    const TopRow all[] = {
        {.name = g_strdup("b"), .state = "running", .cpu = 5, .resident = 3 << 20},
        {.name = g_strdup("a"), .state = "paused", .cpu = 5, .net_tx = 2048},
        {.name = g_strdup("c"), .state = "running", .cpu = 9, .disk_write = 1},
    };

    g_array_append_vals(rows, all, G_N_ELEMENTS(all));
    return rows;
}

static const char *order_of(GArray *rows, TopOrder order)
{
    static char names[4];

    top_sort(rows, order);
    for (unsigned i = 0; i < rows->len; i++)
        names[i] = g_array_index(rows, TopRow, i).name[0];
    return names;
}

static void the_busiest_comes_first_and_names_decide_a_tie(void)
{
    GArray *rows = some_rows();

    g_assert_cmpstr(order_of(rows, TOP_BY_CPU), ==, "cab");
    g_assert_cmpstr(order_of(rows, TOP_BY_MEMORY), ==, "bac");
    g_assert_cmpstr(order_of(rows, TOP_BY_DISK), ==, "cab");
    g_assert_cmpstr(order_of(rows, TOP_BY_NET), ==, "abc");
    g_array_free(rows, TRUE);
}

static void no_line_is_wider_than_the_terminal(void)
{
    GArray *rows = some_rows();
    TopRow wide = {.name = g_strdup("übergroß-und-viel-zu-lang-für-jede-tabelle"),
                   .state = "running",
                   .cpu = 6400,
                   .net_rx = 1e18};

    g_array_append_val(rows, wide);
    for (unsigned width = 1; width < 150; width++) {
        g_autofree char *table = top_table(rows, TOP_BY_CPU, width);
        g_auto(GStrv) lines = g_strsplit(table, "\n", 0);

        g_assert_true(g_utf8_validate(table, -1, NULL));
        g_assert_cmpuint(g_strv_length(lines), ==, rows->len + 2);
        for (char **l = lines; *l; l++)
            g_assert_cmpint(g_utf8_strlen(*l, -1), <=, width);
    }
    g_array_free(rows, TRUE);
}

static void numbers_are_short(void)
{
    GArray *rows = some_rows();
    g_autofree char *table = top_table(rows, TOP_BY_MEMORY, 0);

    g_assert_nonnull(strstr(table, " 3.0M "));
    g_assert_nonnull(strstr(table, " 2.0K "));
    g_assert_nonnull(strstr(table, "*MEM"));
    g_array_free(rows, TRUE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/cli/top/" #name, name)
    TEST(figures_are_summed_over_devices_and_vcpus);
    TEST(what_a_strange_monitor_says_does_no_harm);
    TEST(rates_are_of_a_second);
    TEST(the_busiest_comes_first_and_names_decide_a_tie);
    TEST(no_line_is_wider_than_the_terminal);
    TEST(numbers_are_short);
    return g_test_run();
}
