/* set-limit and its kin, and what a new switch finds of them. */
#include "src/switch/limit.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "src/switch/impair.h"
#include "src/switch/kept.h"
#include "src/switch/shape.h"

static Switch sw = {.name = "lan", .n_ports = 4};
static Port port = {.sw = &sw,
                    .id = 3,
                    .vm = (char *)"web",
                    .nic = (char *)"net0",
                    .kept_as = (char *)"abc/net0",
                    .link = true};

/* What a command returned, in one line; or the sentence of its failure. */
static char *run(const char *command, const char *arguments)
{
    g_autoptr(GError) error = NULL;
    json_t *object = json_loads(arguments, 0, NULL), *ret;
    const SwitchCommand *c = limit_commands;
    char *text, *copy;

    g_assert_nonnull(object);
    while (!g_str_equal(c->name, command))
        c++;
    ret = c->fn(&sw, object, &error);
    json_decref(object);
    if (!ret)
        return g_strdup(error->message);
    g_assert_no_error(error);
    text = json_dumps(ret, JSON_COMPACT);
    copy = g_strdup(text);
    json_decref(ret);
    free(text);
    return copy;
}

#define RUN(command, arguments, expect)                                                  \
    do {                                                                                 \
        g_autofree char *got_ = run(command, arguments);                                 \
        g_assert_cmpstr(got_, ==, expect);                                               \
    } while (0)

/* As when the switch was killed and its VM comes again, or leaves. */
static void forget(Port *p)
{
    for (Direction d = TO_VM; d < DIRECTIONS; d++) {
        shape_free(p->shape[d]);
        impair_free(p->impair[d]);
        p->shape[d] = NULL;
        p->impair[d] = NULL;
    }
}

static void a_limit_is_set_changed_and_taken_away(void)
{
    RUN("query-limits", "{}", "[]");
    RUN("set-limit", "{\"vm\":\"web\",\"direction\":\"in\",\"bytes-per-s\":1000}",
        "[{\"in\":{\"limit\":{\"bytes-per-s\":1000,\"burst-bytes\":0,\"frames-per-s\":0,"
        "\"burst-frames\":0}},\"port\":3,\"vm\":\"web\",\"nic\":\"net0\"}]");
    g_assert_null(port.shape[FROM_VM]);
    RUN("set-limit", "{\"vm\":\"web\",\"direction\":\"in\",\"frames-per-s\":7}",
        "[{\"in\":{\"limit\":{\"bytes-per-s\":1000,\"burst-bytes\":0,\"frames-per-s\":7,"
        "\"burst-frames\":0}},\"port\":3,\"vm\":\"web\",\"nic\":\"net0\"}]");
    RUN("set-limit", "{\"vm\":\"web\",\"bytes-per-s\":0,\"frames-per-s\":0}",
        "[{\"port\":3,\"vm\":\"web\",\"nic\":\"net0\"}]");
    g_assert_null(port.shape[TO_VM]);
}

static void a_bad_wire_is_set_changed_and_mended(void)
{
    g_autofree char *got = run(
        "set-impair", "{\"vm\":\"web\",\"nic\":\"net0\",\"loss\":0.5,\"seed\":9}");

    g_assert_nonnull(strstr(got, "\"in\":{\"impair\":{\"delay-us\":0,\"jitter-us\":0,"
                                 "\"loss\":0.5,\"duplicate\":0.0,\"reorder\":0.0,"
                                 "\"corrupt\":0.0,\"seed\":9}}"));
    g_assert_nonnull(strstr(got, "\"out\":{\"impair\":"));
    g_free(run("set-impair", "{\"vm\":\"web\",\"direction\":\"out\",\"delay-us\":50}"));
    g_assert_cmpuint(impair_options(port.impair[FROM_VM])->delay_us, ==, 50);
    g_assert_cmpfloat(impair_options(port.impair[FROM_VM])->loss, ==, 0.5);
    g_assert_cmpuint(impair_options(port.impair[TO_VM])->delay_us, ==, 0);
    RUN("set-impair", "{\"vm\":\"web\",\"clear\":true}",
        "[{\"port\":3,\"vm\":\"web\",\"nic\":\"net0\"}]");
    g_assert_null(port.impair[TO_VM]);
    g_assert_null(port.impair[FROM_VM]);
}

static void nonsense_is_refused_and_changes_nothing(void)
{
    RUN("set-limit", "{}", "say which port: vm, and nic, or port, its number");
    RUN("set-limit", "{\"vm\":\"web\",\"burst-bytes\":1000}",
        "a burst needs a rate: give bytes-per-s (--rate) too");
    RUN("set-limit", "{\"vm\":\"web\",\"bytes-per-s\":9000,\"burst-frames\":10}",
        "a burst needs a rate: give frames-per-s (--packets) too");
    RUN("set-limit", "{\"vm\":\"wep\"}", "VM 'wep' has no card on this network");
    RUN("set-limit", "{\"vm\":\"web\",\"nic\":\"net9\"}",
        "VM 'web' has no card net9 on this network");
    RUN("set-limit", "{\"port\":5}", "this network has no port 5");
    RUN("set-limit", "{\"vm\":\"web\",\"bytes-per-s\":-1}",
        "bytes-per-s is a whole number from 0 to 1099511627776");
    RUN("set-limit", "{\"vm\":\"web\",\"bytes\":1}", "there is no argument 'bytes'");
    RUN("set-limit", "{\"vm\":\"web\",\"direction\":\"up\",\"bytes-per-s\":1}",
        "direction is in, out or both");
    RUN("set-impair", "{\"vm\":\"web\",\"loss\":1.5}", "loss is a number from 0 to 1");
    RUN("set-impair", "{\"vm\":\"web\",\"loss\":\"all\"}",
        "loss is a number from 0 to 1");
    RUN("set-impair", "{\"vm\":\"web\",\"delay-us\":60000001}",
        "delay-us is a whole number from 0 to 60000000");
    RUN("query-limits", "{}", "[]");
}

static void a_new_switch_finds_what_was_set(void)
{
    g_autofree char *path = network_file("lan", "limits.json");
    Port other = port;

    g_free(run("set-limit", "{\"vm\":\"web\",\"direction\":\"out\",\"frames-per-s\":7}"));
    g_free(run("set-impair", "{\"vm\":\"web\",\"direction\":\"in\",\"reorder\":0.25}"));
    forget(&port);

    other.kept_as = (char *)"another start of the VM/net0";
    memset(other.shape, 0, sizeof(other.shape));
    memset(other.impair, 0, sizeof(other.impair));
    kept_port_added(&other);
    g_assert_null(other.shape[FROM_VM]);
    g_assert_null(other.impair[TO_VM]);

    kept_port_added(&port);
    g_assert_cmpuint(shape_options(port.shape[FROM_VM])->frames_per_s, ==, 7);
    g_assert_cmpfloat(impair_options(port.impair[TO_VM])->reorder, ==, 0.25);
    g_assert_null(port.shape[TO_VM]);
    g_assert_null(port.impair[FROM_VM]);

    kept_port_removed(&port); /* the VM ended */
    forget(&port);
    kept_port_added(&port);
    g_assert_null(port.shape[FROM_VM]);

    g_assert_true(g_file_set_contents(path, "{\"abc/net0\": {\"in\": 7}}", -1, NULL));
    kept_port_added(&port); /* no harm, as below */
    g_assert_true(g_file_set_contents(path, "[\"what", -1, NULL));
    kept_port_added(&port);
    g_assert_null(port.shape[TO_VM]);
}

static void connections_are_kept_though_nothing_is_set_and_others_go_first(void)
{
    enum { MORE = 5 };
    g_autofree char *path = network_file("lan", "limits.json");
    Port program = {.sw = &sw, .id = 1, .kept_as = (char *)"connect /a b"};
    g_auto(GStrv) before = NULL, after = NULL, none = NULL;
    GString *text = g_string_new("{");
    json_t *all;

    g_assert_cmpint(unlink(path), ==, 0);
    kept_port_changed(&program);
    before = kept_connections(&sw);
    g_assert_true(
        g_strv_equal((const char *const *)before, (const char *const[]){"/a b", NULL}));

    g_string_append(text, "\"connect /a b\": {}");
    for (unsigned i = 0; i < SWITCH_MAX_PORTS + MORE; i++)
        g_string_append_printf(text, ",\"vm%u/net0\": {\"port\": {\"vlan\": 1}}", i);
    g_string_append(text, "}");
    g_assert_true(g_file_set_contents(path, text->str, -1, NULL));
    g_string_free(text, TRUE);
    kept_port_changed(&program);
    after = kept_connections(&sw);
    g_assert_cmpuint(g_strv_length(after), ==, 1);
    all = json_load_file(path, 0, NULL);
    g_assert_cmpuint(json_object_size(all), ==, SWITCH_MAX_PORTS);
    g_assert_null(json_object_get(all, "vm0/net0"));
    json_decref(all);

    kept_port_removed(&program);
    none = kept_connections(&sw);
    g_assert_cmpuint(g_strv_length(none), ==, 0);
}

int main(int argc, char **argv)
{
    g_autofree char *folder = g_dir_make_tmp("hutch-limit-XXXXXX", NULL);
    g_autofree char *lock = g_build_filename(folder, ".lock", NULL);
    g_autoptr(GError) error = NULL;
    NetworkConfig *config = param_new(&network_params);
    int status;

    g_test_init(&argc, &argv, NULL);
    sw.port[3] = &port;
    g_setenv("HUTCH_NETWORKS", folder, TRUE);
    config->mode = NETWORK_ISOLATED;
    network_create("lan", config, &error);
    g_assert_no_error(error);
    param_free(&network_params, config);
    g_test_add_func("/limit/a_limit_is_set_changed_and_taken_away",
                    a_limit_is_set_changed_and_taken_away);
    g_test_add_func("/limit/a_bad_wire_is_set_changed_and_mended",
                    a_bad_wire_is_set_changed_and_mended);
    g_test_add_func("/limit/nonsense_is_refused_and_changes_nothing",
                    nonsense_is_refused_and_changes_nothing);
    g_test_add_func("/limit/a_new_switch_finds_what_was_set",
                    a_new_switch_finds_what_was_set);
    g_test_add_func(
        "/limit/connections_are_kept_though_nothing_is_set_and_others_go_first",
        connections_are_kept_though_nothing_is_set_and_others_go_first);
    status = g_test_run();
    g_assert_true(network_remove("lan", NULL));
    unlink(lock);
    rmdir(folder);
    return status;
}
