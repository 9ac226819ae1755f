/* What the verbs about networks take for whom, for times and parts, and how they print
 * what a guest may have named. */
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/net.h"

static char *folder;

static void begin(void)
{
    NetworkConfig *config = param_new(&network_params);

    folder = g_dir_make_tmp("hutch-net-XXXXXX", NULL);
    g_setenv("HUTCH_NETWORKS", folder, true);
    config->subnet = g_strdup("auto");
    g_assert_true(network_create("blue", config, NULL));
    param_free(&network_params, config);
}

static void end(void)
{
    g_autofree char *lock = g_build_filename(folder, ".lock", NULL);

    g_assert_true(network_remove("blue", NULL));
    unlink(lock);
    g_assert_cmpint(rmdir(folder), ==, 0);
    g_clear_pointer(&folder, g_free);
}

static void is_target(const char *text, const char *vm, const char *nic)
{
    NetTarget t;

    g_assert_true(net_target_parse(text, &t, NULL));
    g_assert_cmpstr(t.network, ==, "blue");
    g_assert_cmpstr(t.vm, ==, vm);
    g_assert_cmpstr(t.nic, ==, nic);
    net_target_clear(&t);
}

static void a_number_names_a_port(void)
{
    NetTarget t;

    begin();
    g_assert_true(net_target_parse("blue/:3", &t, NULL));
    g_assert_true(t.has_port && !t.vm);
    g_assert_cmpuint(t.port, ==, 3);
    net_target_clear(&t);
    end();
}

static void is_no_target(const char *text, const char *says)
{
    g_autoptr(GError) error = NULL;
    NetTarget t;

    g_assert_false(net_target_parse(text, &t, &error));
    if (!strstr(error->message, says))
        g_error("'%s' says '%s', not '%s'", text, error->message, says);
}

static void a_target_is_a_network_or_a_port_of_it(void)
{
    begin();
    is_target("blue", NULL, NULL);
    is_target("blue/web", "web", NULL);
    is_target("blue/web:net1", "web", "net1");
    is_target("blue/a:b:net1", "a:b", "net1"); /* the last colon */
    is_target("blue/a@b c", "a@b c", NULL);
    is_no_target("red", "no network 'red'");
    is_no_target("red/web", "no network 'red'");
    is_no_target("blue/", "not VM[:NIC]");
    is_no_target("blue/web:", "not VM[:NIC]");
    is_no_target("blue/:net0", "not VM[:NIC]");
    is_no_target("", "cannot be a network's name");
    is_no_target("../blue", "cannot be a network's name");
    end();
}

static void times_have_units_and_an_end(void)
{
    static const struct {
        const char *text;
        uint64_t us;
    } good[] = {{"20ms", 20000}, {"0.5ms", 500}, {"3us", 3},
                {"1s", 1000000}, {"0s", 0},      {"3600s", 3600000000}};
    uint64_t us;

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(net_parse_time(good[i].text, &us, NULL));
        g_assert_cmpuint(us, ==, good[i].us);
    }
    for (const char *const *bad =
             (const char *const[]){"20", "ms", "-1ms", " 1ms", "1 ms", "1m", "3601s",
                                   "inf", "nans", "0x10s", "", NULL};
         *bad; bad++)
        g_assert_false(net_parse_time(*bad, &us, NULL));
}

static void percentages_end_at_a_hundred(void)
{
    double v;

    g_assert_true(net_parse_percent("1%", &v, NULL));
    g_assert_cmpfloat(v, ==, 0.01);
    g_assert_true(net_parse_percent("100%", &v, NULL));
    g_assert_cmpfloat(v, ==, 1);
    g_assert_true(net_parse_percent("0.5%", &v, NULL));
    g_assert_cmpfloat(v, ==, 0.005);
    for (const char *const *bad = (const char *const[]){"1", "0.01", "101%", "-1%", "%",
                                                        "1%%", "nan%", "", NULL};
         *bad; bad++)
        g_assert_false(net_parse_percent(*bad, &v, NULL));
}

static void what_a_guest_named_stays_off_the_terminal(void)
{
    json_t *row = json_pack("{s:s, s:i, s:b, s:[s, s], s:{s:i}}", "name",
                            "a\033[2J\xc2\x9b", "n", 7, "up", 1, "ip", "10.5.0.7",
                            "fd00::7", "in", "frames", 12);
    static const struct {
        const char *key, *text;
    } cells[] = {{"name", "a?[2J?"},         {"n", "7"},          {"up", "yes"},
                 {"ip", "10.5.0.7,fd00::7"}, {"in.frames", "12"}, {"none", "-"},
                 {"none.at.all", "-"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cells); i++) {
        g_autofree char *text = net_cell(row, cells[i].key);

        g_assert_cmpstr(text, ==, cells[i].text);
    }
    json_decref(row);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/net/target", a_target_is_a_network_or_a_port_of_it);
    g_test_add_func("/cli/net/port", a_number_names_a_port);
    g_test_add_func("/cli/net/time", times_have_units_and_an_end);
    g_test_add_func("/cli/net/percent", percentages_end_at_a_hundred);
    g_test_add_func("/cli/net/cells", what_a_guest_named_stays_off_the_terminal);
    return g_test_run();
}
