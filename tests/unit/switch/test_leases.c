/* Who has which address, over restarts of VMs and of the switch. */
#include <glib/gstdio.h>

#include "src/firewall/flows.h"
#include "src/switch/leases.h"
#include "src/switch/rules.h"
#include "tests/unit/switch/dhcp_client.h"

#define NAT   "nat,subnet=10.5.0.0/24"
#define SMALL "nat,subnet=10.5.0.0/29" /* five hosts */

static json_t *command(const char *name, const char *arguments, GError **error)
{
    json_t *object = json_loads(arguments, 0, NULL), *ret = NULL;

    g_assert_nonnull(object);
    for (const SwitchCommand *c = gateway_commands; c->name; c++)
        if (g_str_equal(c->name, name))
            ret = c->fn(&net.sw, object, error);
    json_decref(object);
    return ret;
}

static char *file(void)
{
    g_autofree char *path = network_file("lan", "leases.json");
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return text;
}

static void a_vm_has_its_address_whenever_it_runs(void)
{
    g_autofree char *web = NULL, *db = NULL;
    Port *port;
    Ip ip;

    net_begin(NAT);
    port = net_port("web", 7, NULL);
    web = g_strdup(dhcp_lease(port));
    db = g_strdup(dhcp_lease(net_port("db", 8, NULL)));
    g_assert_cmpstr(web, !=, db);
    net_unplug(port);
    port = net_port("web", 77, NULL); /* with another card */
    g_assert_cmpstr(dhcp_lease(port), ==, web);
    net_restart();
    /* Its flows go on before it has asked for anything. */
    port = net_port("web", 77, NULL);
    ip = net_ip(web);
    g_assert_true(net_has(port, &ip));
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "web");
    ip = net_ip(db); /* which does not run */
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "db");
    g_assert_cmpuint(dhcp_ask(port, REQUEST, &(DhcpOptions){.requested = web}, &ip), ==,
                     ACK);
    g_assert_cmpstr(dhcp_lease(net_port("db", 8, NULL)), ==, db);
    net_end();
}

/* A guest may ask for another offer with each message: who rules and names take for whose
 * changes by none of them, nor do flows have to be judged anew. */
static void what_is_offered_is_nobodys(void)
{
    const char *rules = "default in allow\ndefault out allow\n";
    uint32_t generation;
    Port *port;
    Ip ip, other;

    net_begin(NAT);
    port = net_port("web", 7, NULL);
    net.sw.rules = firewall_parse(rules, "test", NULL);
    port->gate = fw_gate_new(&(FwWorld){NULL}, 16);
    rules_world_changed(&net.sw);
    generation = port->gate->generation;
    g_assert_cmpuint(
        dhcp_ask(port, DISCOVER, &(DhcpOptions){.requested = "10.5.0.40"}, &other), ==,
        OFFER);
    g_assert_cmpuint(
        dhcp_ask(port, DISCOVER, &(DhcpOptions){.requested = "10.5.0.41"}, &ip), ==,
        OFFER);
    g_assert_false(ip_equal(&ip, &other));
    g_assert_null(gateway_vm_of(net.sw.gateway, &ip));
    g_assert_cmpuint(port->gate->generation, ==, generation);
    g_assert_cmpuint(
        dhcp_ask(port, REQUEST, &(DhcpOptions){.requested = "10.5.0.41"}, &ip), ==, ACK);
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "web");
    g_assert_cmpuint(port->gate->generation, ==, generation + 1);
    fw_gate_free(g_steal_pointer(&port->gate));
    firewall_unref(g_steal_pointer(&net.sw.rules));
    net_end();
}

/* A new lease is there before its VM may use it, whenever the switch is killed. */
static void a_lease_is_kept_before_it_is_told(void)
{
    g_autofree char *text = NULL, *after = NULL, *web = NULL, *path = NULL;
    Port *port;
    Ip ip;

    net_begin(NAT);
    port = net_port("web", 7, NULL);
    web = g_strdup(dhcp_lease(port));
    text = file();
    g_assert_nonnull(text);
    g_assert_nonnull(strstr(text, web));
    g_assert_nonnull(strstr(text, "\"web\""));
    for (unsigned i = 0; i < 100; i++) /* and not again at each renewal */
        g_assert_cmpuint(
            dhcp_ask(port, REQUEST, &(DhcpOptions){.ciaddr = web, .renew = true}, &ip),
            ==, ACK);
    path = network_file("lan", "leases.json");
    g_assert_cmpint(g_remove(path), ==, 0);
    dhcp_ask(port, REQUEST, &(DhcpOptions){.ciaddr = web, .renew = true}, &ip);
    after = file();
    g_assert_null(after);
    net_end();
}

/* Each of a few that start at once; not each of very many. */
static void leases_of_many_are_written_at_once_within_limits(void)
{
    unsigned at_once = 0;

    net_begin("nat,subnet=10.5.0.0/16");
    for (unsigned i = 0; i < 200; i++) {
        g_autofree char *vm = g_strdup_printf("vm%u", i), *text = NULL;
        const char *ip = dhcp_lease(net_port(vm, (uint8_t)(i + 1), NULL));
        g_autofree char *quoted = g_strdup_printf("\"%s\"", ip);

        text = file();
        at_once += strstr(text, quoted) != NULL;
    }
    g_assert_cmpuint(at_once, >=, 60);
    g_assert_cmpuint(at_once, <=, 100);
    net_end();
}

static void the_address_follows_from_the_name(void)
{
    g_autofree char *web = NULL;

    net_begin(NAT);
    web = g_strdup(dhcp_lease(net_port("web", 7, NULL)));
    net_end();
    net_begin(NAT); /* leases.json is lost */
    dhcp_lease(net_port("another", 8, NULL));
    g_assert_cmpstr(dhcp_lease(net_port("web", 9, NULL)), ==, web);
    net_end();
}

static void addresses_by_config_and_by_hand_are_kept_for_their_vms(void)
{
    Port *hand;
    char own[IP_TEXT];

    net_begin(SMALL ",lease=web=10.5.0.3,lease=db=10.5.0.4");
    hand = net_port("hand", 5, "10.5.0.2");
    for (unsigned i = 0; i < 2; i++) { /* 10.5.0.5 and .6 are left for others */
        g_autofree char *name = g_strdup_printf("vm%u", i);
        const char *ip = dhcp_lease(net_port(name, (uint8_t)(10 + i), NULL));

        g_assert_true(g_str_equal(ip, "10.5.0.5") || g_str_equal(ip, "10.5.0.6"));
    }
    g_assert_null(dhcp_lease(net_port("late", 20, NULL)));
    g_assert_cmpstr(dhcp_lease(hand), ==, "10.5.0.2");
    g_assert_cmpstr(dhcp_lease(net_port("web", 21, NULL)), ==, "10.5.0.3");
    g_strlcpy(own, dhcp_lease(net_port("db", 22, NULL)), sizeof(own));
    g_assert_cmpstr(own, ==, "10.5.0.4");
    net_end();
}

static void the_oldest_that_does_not_run_makes_room(void)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    g_autofree char *first = NULL, *second = NULL;
    Port *port[5];
    Ip ip;

    net_begin(SMALL);
    for (unsigned i = 0; i < 5; i++) {
        port[i] = net_port(names[i], (uint8_t)(i + 1), NULL);
        g_assert_nonnull(dhcp_lease(port[i]));
    }
    first = g_strdup(dhcp_lease(port[0]));
    second = g_strdup(dhcp_lease(port[1]));
    g_assert_null(dhcp_lease(net_port("late", 20, NULL))); /* all run */
    net_unplug(port[1]);
    net_unplug(port[0]); /* which had its lease first, and was here last */
    g_assert_nonnull(dhcp_lease(port_find(&net.sw, "late", NULL)));
    ip = net_ip(first);
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "a");
    ip = net_ip(second);
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "late");
    net_end();
}

/* Streams of others have no name: what is known is their MAC. */
static void a_stream_is_known_by_its_mac(void)
{
    g_autofree char *first = NULL;
    Port *port;

    net_begin(NAT);
    port = net_port(NULL, 0, NULL);
    port->mac = net_mac(9); /* by its first frame */
    first = g_strdup(dhcp_lease(port));
    net_unplug(port);
    net_restart();
    g_assert_nonnull(dhcp_lease(net_port(NULL, 10, NULL)));
    g_assert_cmpstr(dhcp_lease(net_port(NULL, 9, NULL)), ==, first);
    net_end();
}

static void a_stream_that_was_makes_room_before_a_vm_does(void)
{
    Port *vm, *stream;
    Ip ip;

    net_begin(SMALL);
    vm = net_port("web", 1, NULL);
    ip = net_ip(dhcp_lease(vm));
    net_unplug(vm);
    stream = net_port(NULL, 2, NULL);
    g_assert_nonnull(dhcp_lease(stream));
    net_unplug(stream);
    for (unsigned i = 0; i < 4; i++) {
        g_autofree char *name = g_strdup_printf("vm%u", i);

        g_assert_nonnull(dhcp_lease(net_port(name, (uint8_t)(10 + i), NULL)));
    }
    g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "web");
    net_end();
}

/* A trusted port may lead to many stations, of a bounded number. */
static void stations_behind_a_trusted_port_have_their_own(void)
{
    g_autoptr(GHashTable)
        seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Port *port;
    Ip ip;

    net_begin("nat,subnet=10.5.0.0/16");
    port = net_port("router", 7, NULL);
    port->trusted = true;
    for (unsigned i = 0; i < 300; i++) {
        Mac mac = {{2, 1, 0, 0, (uint8_t)(i >> 8), (uint8_t)i}};

        g_assert_cmpuint(dhcp_ask(port, DISCOVER, &(DhcpOptions){.chaddr = &mac}, &ip),
                         ==, OFFER);
        g_hash_table_add(seen, g_strdup(ip_text(&ip, (char[IP_TEXT]){0})));
    }
    g_assert_cmpuint(g_hash_table_size(seen), >, 64);
    net_end();
}

static void a_second_vm_of_a_name_has_an_address_of_its_own(void)
{
    g_autofree char *first = NULL;

    net_begin(NAT);
    first = g_strdup(dhcp_lease(net_port("web", 7, NULL)));
    g_assert_cmpstr(dhcp_lease(net_port("web", 8, NULL)), !=, first);
    net_end();
}

static void leases_are_shown_and_given_up(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *web = NULL;
    json_t *list, *one;
    Port *port;
    Ip ip;

    net_begin(NAT ",lease=db=10.5.0.9");
    port = net_port("web", 7, NULL);
    web = g_strdup(dhcp_lease(port));
    dhcp_lease(net_port("db", 8, NULL));
    list = command("query-leases", "{}", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(json_array_size(list), ==, 2);
    one = json_array_get(list, 0);
    g_assert_cmpstr(json_string_value(json_object_get(one, "vm")), ==, "web");
    g_assert_cmpstr(json_string_value(json_object_get(one, "nic")), ==, "net0");
    g_assert_cmpstr(json_string_value(json_object_get(one, "mac")), ==,
                    "02:00:00:00:00:07");
    g_assert_cmpstr(json_string_value(json_object_get(one, "address")), ==, web);
    g_assert_true(json_is_false(json_object_get(one, "static")));
    g_assert_cmpint(json_integer_value(json_object_get(one, "expires")), >, 86000);
    one = json_array_get(list, 1);
    g_assert_true(json_is_true(json_object_get(one, "static")));
    json_decref(list);

    json_decref(command("lease-release", "{\"vm\": \"web\"}", &error));
    g_assert_no_error(error);
    ip = net_ip(web);
    g_assert_false(net_has(port, &ip));
    g_assert_null(gateway_vm_of(net.sw.gateway, &ip));
    g_assert_null(command("lease-release", "{\"address\": \"10.5.0.77\"}", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_null(command("lease-release", "{}", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    net_end();
}

static void a_new_subnet_ends_leases_of_the_old_one(void)
{
    g_autofree char *web = NULL;
    Port *port;
    Ip ip;

    net_begin(NAT);
    port = net_port("web", 7, NULL);
    web = g_strdup(dhcp_lease(port));
    ip = net_ip(web);
    net_set(NAT ",mtu=1400"); /* what did not change goes on */
    g_assert_true(net_has(port, &ip));
    net_set("nat,subnet=10.9.0.0/24");
    g_assert_false(net_has(port, &ip));
    g_assert_cmpuint(dhcp_ask(port, REQUEST, &(DhcpOptions){.requested = web}, &ip), ==,
                     NAK);
    ip = net_ip(dhcp_lease(port));
    g_assert_true(ip_within(&ip, &net.sw.subnets.v4));
    net_end();
}

static void a_file_of_nonsense_is_begun_anew(void)
{
    static const char *const texts[] = {
        "",
        "{",
        "{}",
        "[1, null, []]",
        "[{\"mac\": 7}]",
        "[{\"mac\": \"02:00:00:00:00:01\", \"vm\": \"a/b\", \"address\": \"10.5.0.9\"}]",
        "[{\"mac\": \"02:00:00:00:00:01\", \"vm\": \"a\", \"address\": \"10.5.0.1\"}]",
        "[{\"mac\": \"02:00:00:00:00:01\", \"vm\": \"a\", \"address\": \"10.77.0.9\"}]",
        "[{\"mac\": \"02:00:00:00:00:01\", \"vm\": \"a\", \"address6\": \"10.5.0.9\"}]",
    };

    net_begin(NAT);
    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        json_t *list;

        g_assert_true(network_write("lan", "leases.json", texts[i], NULL));
        net_restart();
        list = command("query-leases", "{}", NULL);
        g_assert_cmpuint(json_array_size(list), ==, 0);
        json_decref(list);
    }
    /* An address twice is the first one's. */
    g_assert_true(network_write("lan", "leases.json",
                                "[{\"mac\": \"02:00:00:00:00:01\", \"vm\": \"a\", "
                                "\"address\": \"10.5.0.9\"}, "
                                "{\"mac\": \"02:00:00:00:00:02\", \"vm\": \"b\", "
                                "\"address\": \"10.5.0.9\"}]",
                                NULL));
    net_restart();
    {
        Ip ip = net_ip("10.5.0.9"), none;

        g_assert_cmpstr(gateway_vm_of(net.sw.gateway, &ip), ==, "a");
        g_assert_true(gateway_address_of(net.sw.gateway, "a", false, &none));
        g_assert_true(ip_equal(&ip, &none));
        g_assert_false(gateway_address_of(net.sw.gateway, "b", false, &none));
    }
    net_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/leases/stable", a_vm_has_its_address_whenever_it_runs);
    g_test_add_func("/leases/offered", what_is_offered_is_nobodys);
    g_test_add_func("/leases/kept", a_lease_is_kept_before_it_is_told);
    g_test_add_func("/leases/many", leases_of_many_are_written_at_once_within_limits);
    g_test_add_func("/leases/name", the_address_follows_from_the_name);
    g_test_add_func("/leases/reserved",
                    addresses_by_config_and_by_hand_are_kept_for_their_vms);
    g_test_add_func("/leases/exhausted", the_oldest_that_does_not_run_makes_room);
    g_test_add_func("/leases/stream", a_stream_is_known_by_its_mac);
    g_test_add_func("/leases/stream-first",
                    a_stream_that_was_makes_room_before_a_vm_does);
    g_test_add_func("/leases/stations", stations_behind_a_trusted_port_have_their_own);
    g_test_add_func("/leases/twice", a_second_vm_of_a_name_has_an_address_of_its_own);
    g_test_add_func("/leases/commands", leases_are_shown_and_given_up);
    g_test_add_func("/leases/subnet", a_new_subnet_ends_leases_of_the_old_one);
    g_test_add_func("/leases/nonsense", a_file_of_nonsense_is_begun_anew);
    return g_test_run();
}
