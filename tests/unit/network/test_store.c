/* Networks' folders: made, changed and removed whole or not at all. */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "network/config.h"

static char *folder; /* $HUTCH_NETWORKS */

static void begin(void)
{
    folder = g_dir_make_tmp("hutch-networks-XXXXXX", NULL);
    g_assert_nonnull(folder);
    g_setenv("HUTCH_NETWORKS", folder, true);
}

static unsigned entries(void)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n;
}

/* All networks go, and nothing but the lock is left. */
static void end(void)
{
    g_autofree char *lock = g_build_filename(folder, ".lock", NULL);
    g_auto(GStrv) names = network_list(NULL);

    for (char **n = names; *n; n++)
        g_assert_true(network_remove(*n, NULL));
    unlink(lock);
    g_assert_cmpint(rmdir(folder), ==, 0);
    g_clear_pointer(&folder, g_free);
}

static bool create(const char *name, const char *text, GError **error)
{
    NetworkConfig *config = param_new(&network_params);
    bool ok = param_parse(&network_params, config, text, error) &&
              network_create(name, config, error);

    param_free(&network_params, config);
    return ok;
}

static char *subnet_of(const char *name)
{
    NetworkConfig *config = network_load(name, NULL);
    char *subnet = config ? g_strdup(config->subnet) : NULL;

    param_free(&network_params, config);
    return subnet;
}

static void what_was_stored_is_loaded(void)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) names = NULL;
    g_autofree char *file = NULL, *up = NULL;
    NetworkConfig *config;
    struct stat st;

    begin();
    g_assert_true(create("blue",
                         "mode=nat,subnet=10.9.0.0/24,mtu=9000,dns=off,domain=lab,"
                         "lease=web=10.9.0.7,forward=tcp::80-web:80,route=red",
                         &error));
    config = network_load("blue", &error);
    g_assert_no_error(error);
    g_assert_cmpint(config->mode, ==, NETWORK_NAT);
    g_assert_cmpstr(config->subnet, ==, "10.9.0.0/24");
    g_assert_null(config->subnet6);
    g_assert_cmpuint(config->mtu, ==, 9000);
    g_assert_true(config->dhcp);
    g_assert_false(config->dns);
    g_assert_cmpstr(config->leases[0], ==, "web=10.9.0.7");
    g_assert_cmpstr(config->forwards[0], ==, "tcp::80-web:80");
    g_assert_cmpstr(config->routes[0], ==, "red");

    config->mtu = 1400;
    g_assert_true(network_store("blue", config, &error));
    param_free(&network_params, config);
    config = network_load("blue", &error);
    g_assert_cmpuint(config->mtu, ==, 1400);
    param_free(&network_params, config);

    names = network_list(&error);
    g_assert_cmpstr(names[0], ==, "blue");
    g_assert_null(names[1]);
    file = network_file("blue", "config.json");
    g_assert_cmpint(stat(file, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0600);
    up = g_path_get_dirname(file);
    g_assert_cmpint(stat(up, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0700);
    end();
}

static void networks_do_not_overlap(void)
{
    g_autoptr(GError) error = NULL;
    NetworkConfig *config;

    begin();
    g_assert_true(create("blue", "subnet=10.9.0.0/16,subnet6=fd00:9::/64", NULL));
    g_assert_false(create("red", "subnet=10.9.7.0/24", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_assert_nonnull(strstr(error->message, "'blue', 10.9.0.0/16"));
    g_clear_error(&error);
    g_assert_false(create("red", "subnet=none,subnet6=fd00:9::/64", &error));
    g_assert_nonnull(strstr(error->message, "'blue', fd00:9::/64"));
    g_assert_cmpuint(entries(), ==, 2); /* blue, and the lock */

    g_clear_error(&error);
    g_assert_true(create("red", "subnet=10.8.0.0/24", NULL));
    config = network_load("red", NULL);
    g_free(config->subnet);
    config->subnet = g_strdup("10.9.3.0/24");
    g_assert_false(network_store("red", config, &error));
    param_free(&network_params, config);
    config = network_load("red", NULL); /* it stayed */
    g_assert_cmpstr(config->subnet, ==, "10.8.0.0/24");
    g_assert_true(network_store("red", config, NULL)); /* does not overlap itself */
    param_free(&network_params, config);
    end();
}

static void free_subnets_are_found(void)
{
    g_autofree char *first = NULL, *second = NULL, *again = NULL;
    NetworkConfig *config;

    begin();
    g_assert_true(create("a", "subnet=auto,subnet6=auto", NULL));
    g_assert_true(create("b", "subnet=auto", NULL));
    first = subnet_of("a");
    second = subnet_of("b");
    g_assert_true(g_str_has_prefix(first, "10."));
    g_assert_true(g_str_has_suffix(first, ".0.0/24"));
    g_assert_cmpstr(first, !=, second);
    config = network_load("a", NULL);
    g_assert_true(g_str_has_prefix(config->subnet6, "fd"));
    g_assert_true(g_str_has_suffix(config->subnet6, "::/64"));
    param_free(&network_params, config);

    g_assert_true(network_remove("a", NULL)); /* the first that is free is its again */
    g_assert_true(create("c", "subnet=auto", NULL));
    again = subnet_of("c");
    g_assert_cmpstr(again, ==, first);

    g_assert_false(create("d", "subnet=auto,lease=web=1.2.3.4", NULL));
    g_assert_cmpuint(entries(), ==, 3);
    end();
}

static void what_cannot_be_is_said(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *file = NULL;

    begin();
    g_assert_null(network_load("blue", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "hutch net create blue"));
    g_clear_error(&error);
    g_assert_true(create("blue", "subnet=auto", NULL));
    g_assert_false(create("blue", "subnet=auto", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_clear_error(&error);
    g_assert_null(network_load("blu", &error));
    g_assert_nonnull(strstr(error->message, "did you mean 'blue'"));
    g_clear_error(&error);
    g_assert_null(network_load("other", &error));
    g_assert_nonnull(strstr(error->message, "the networks are: blue"));
    g_clear_error(&error);
    g_assert_null(network_load("../blue", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_false(create("self", "subnet=auto,route=self", &error));
    g_assert_nonnull(strstr(error->message, "itself"));
    g_clear_error(&error);

    file = network_file("blue", "config.json");
    for (const char *const *text =
             (const char *const[]){"", "[]", "{", "{\"mtu\": \"x\"}", "{\"colour\": 1}",
                                   "{\"mode\": \"nat\"}", "{\"subnet\": \"10.5.0.1/24\"}",
                                   NULL};
         *text; text++) {
        g_assert_true(g_file_set_contents(file, *text, -1, NULL));
        g_assert_null(network_load("blue", &error));
        g_assert_nonnull(strstr(error->message, file));
        g_clear_error(&error);
    }
    end();
}

static void other_files_are_replaced_and_removed(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *file = NULL, *text = NULL;

    begin();
    g_assert_false(network_write("blue", NETWORK_RULES, "x", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_true(create("blue", "subnet=auto", NULL));
    g_assert_true(network_write("blue", NETWORK_RULES, "one", &error));
    g_assert_true(network_write("blue", NETWORK_RULES, "two", &error));
    g_assert_true(network_write("blue", "rules/web", "three", &error));
    file = network_file("blue", NETWORK_RULES);
    g_assert_true(g_file_get_contents(file, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "two");
    g_assert_true(network_write("blue", NETWORK_RULES, NULL, &error));
    g_assert_cmpint(access(file, F_OK), !=, 0);
    g_assert_true(network_write("blue", NETWORK_RULES, NULL, &error));
    end(); /* rules/web goes with its network */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/network/store/round-trip", what_was_stored_is_loaded);
    g_test_add_func("/network/store/overlap", networks_do_not_overlap);
    g_test_add_func("/network/store/auto", free_subnets_are_found);
    g_test_add_func("/network/store/errors", what_cannot_be_is_said);
    g_test_add_func("/network/store/files", other_files_are_replaced_and_removed);
    return g_test_run();
}
