/* What of a Config a clone must not share; snapshot/identity.h. */
#include "snapshot/identity.h"

#include <string.h>

#define UUID "123e4567-e89b-12d3-a456-426614174000"

static Config *with(const char *const *pairs)
{
    Config *cfg = config_new();
    GError *error = NULL;

    for (; *pairs; pairs += 2) {
        config_set(cfg, config_option(pairs[0]), pairs[1], &error);
        g_assert_no_error(error);
    }
    return cfg;
}
#define WITH(...) with((const char *const[]){__VA_ARGS__, NULL, NULL})

static const CloneIdentity who = {.name = "web-1", .uuid = UUID, .folder = "/run/web-1"};

static char *text_of(const Config *cfg, const char *key)
{
    json_t *json = config_to_json(cfg);
    char *text = json_dumps(json_object_get(json, key), JSON_COMPACT | JSON_ENCODE_ANY);
    char *ret = g_strdup(text ? text : "");

    free(text);
    json_decref(json);
    return ret;
}

static void says(const Config *cfg, const char *key, const char *expected)
{
    g_autofree char *text = text_of(cfg, key);

    g_assert_cmpstr(text, ==, expected);
}

static void names_addresses_and_ports_are_the_clones_own(void)
{
    g_autoptr(Config) cfg = WITH(
        "name", "template", "uuid", "00000000-0000-4000-8000-000000000001", "control",
        "/tmp/c", "control-readonly", "/tmp/r", "metrics", "127.0.0.1:9", "net",
        "user,id=net0,mac=02:00:00:00:00:01,hostfwd=tcp:127.0.0.1:2222-:22,mtu=1400",
        "cpus", "2");
    g_autoptr(GError) error = NULL;

    g_assert_true(identity_give_config(cfg, &who, &error));
    g_assert_no_error(error);
    says(cfg, "name", "\"web-1\"");
    says(cfg, "uuid", "\"" UUID "\"");
    says(cfg, "control", "");
    says(cfg, "control-readonly", "");
    says(cfg, "metrics", "");
    {
        g_autofree char *net = text_of(cfg, "net");

        g_assert_null(strstr(net, "hostfwd"));
        g_assert_null(strstr(net, "02:00:00:00:00:01"));
        g_assert_nonnull(strstr(net, "\"mtu\":1400"));
    }
    g_assert_cmpuint(cfg->cpus, ==, 2);
    g_assert_true(cfg->run_folder);
}

static char *mac_of(const char *uuid, const char *card)
{
    g_autoptr(Config) cfg = WITH("net", card);
    CloneIdentity one = who;
    g_autofree char *text = NULL;
    char *at;

    one.uuid = uuid;
    g_assert_true(identity_give_config(cfg, &one, NULL));
    text = text_of(cfg, "net");
    at = strstr(text, "\"mac\":\"");
    g_assert_nonnull(at);
    return g_strndup(at + strlen("\"mac\":\""), 17);
}

static void addresses_differ_by_vm_and_by_card_and_stay(void)
{
    g_autofree char *one = mac_of(UUID, "user,id=net0");
    g_autofree char *again = mac_of(UUID, "user,id=net0,mac=02:00:00:00:00:01");
    g_autofree char *card = mac_of(UUID, "user,id=net1");
    g_autofree char *vm = mac_of("00000000-0000-4000-8000-000000000001", "user,id=net0");

    g_assert_cmpstr(one, ==, again);
    g_assert_cmpstr(one, !=, card);
    g_assert_cmpstr(one, !=, vm);
    g_assert_cmpint(g_ascii_xdigit_value(one[1]) & 3, ==, 2);
}

static void files_and_sockets_go_to_the_run_folder(void)
{
    g_autoptr(Config) cfg = WITH(
        "metrics", "unix", "serial", "file=/var/log/a", "serial", "stdio", "console",
        "socket=/tmp/s,log=/tmp/l,id=console0", "vsock", "3,path=/tmp/v,id=vsock0");
    g_autoptr(GError) error = NULL;

    g_assert_true(identity_give_config(cfg, &who, &error));
    g_assert_no_error(error);
    says(cfg, "metrics", "\"unix\"");
    g_assert_cmpstr(cfg->serial[0]->file, ==, "/run/web-1/serial0-a");
    g_assert_cmpint(cfg->serial[1]->type, ==, CHARDEV_STDIO);
    says(cfg, "console",
         "[{\"socket\":\"/run/web-1/console0-s\",\"log\":\"/run/web-1/console0-l\","
         "\"id\":\"console0\"}]");
    {
        g_autofree char *vsock = text_of(cfg, "vsock");

        g_assert_nonnull(strstr(vsock, "/run/web-1/vsock0-v"));
    }
}

static void an_interface_of_the_host_has_to_be_said(void)
{
    g_autoptr(Config) cfg = WITH("net", "tap,ifname=tap0,id=net0");
    g_autoptr(Config) anew = WITH("net", "tap,ifname=tap7,id=net0");
    const CloneIdentity said = {.name = "c",
                                .uuid = UUID,
                                .folder = "/run/c",
                                .net = (const char *[]){"net0", NULL}};
    g_autoptr(GError) error = NULL;

    g_assert_false(identity_give_config(cfg, &who, &error));
    g_assert_nonnull(strstr(error->message, "--net net0=tap,ifname=IF"));
    g_assert_true(identity_give_config(anew, &said, NULL));
    {
        g_autofree char *net = text_of(anew, "net");

        g_assert_nonnull(strstr(net, "\"ifname\":\"tap7\""));
    }
}

static void a_clone_is_on_the_same_network_with_an_address_of_its_own(void)
{
    g_autoptr(Config) cfg = WITH("net", "blue,ip=10.5.0.7,group=front,id=net0");
    g_autoptr(Config) stream = WITH("net", "stream,path=/tmp/s,id=net0");
    g_autoptr(GError) error = NULL;
    g_autofree char *net = NULL;

    g_assert_true(identity_give_config(cfg, &who, &error));
    g_assert_no_error(error);
    net = text_of(cfg, "net");
    g_assert_nonnull(strstr(net, "\"network\":\"blue\""));
    g_assert_nonnull(strstr(net, "\"group\":[\"front\"]"));
    g_assert_null(strstr(net, "10.5.0.7"));
    g_assert_false(identity_give_config(stream, &who, &error));
    g_assert_nonnull(strstr(error->message, "--net net0=stream,path=SOCKET"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/snapshot-identity/" #fn, fn)
    T(names_addresses_and_ports_are_the_clones_own);
    T(addresses_differ_by_vm_and_by_card_and_stay);
    T(files_and_sockets_go_to_the_run_folder);
    T(an_interface_of_the_host_has_to_be_said);
    T(a_clone_is_on_the_same_network_with_an_address_of_its_own);
    return g_test_run();
}
