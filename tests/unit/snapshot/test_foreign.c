/* What of a snapshot from elsewhere reaches out of the VM; snapshot/foreign.h. */
#include "snapshot/foreign.h"

static bool is_foreign(const char *net)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(GError) error = NULL;

    config_set(cfg, config_option("net"), net, &error);
    g_assert_no_error(error);
    foreign_mark(cfg);
    return cfg->devices[0].foreign;
}

static void only_a_restricted_user_network_is_nobodys(void)
{
    g_assert_false(is_foreign("user,restrict=on"));
    g_assert_true(is_foreign("user"));
    g_assert_true(is_foreign("user,restrict=on,hostfwd=tcp::2222-:22"));
    g_assert_true(is_foreign("blue"));
    g_assert_true(is_foreign("blue,ip=10.5.0.7"));
    g_assert_true(is_foreign("tap,ifname=t0"));
    g_assert_true(is_foreign("bridge=br0"));
    g_assert_true(is_foreign("stream,path=/tmp/s"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot-foreign/networks",
                    only_a_restricted_user_network_is_nobodys);
    return g_test_run();
}
