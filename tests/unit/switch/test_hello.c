/* What a monitor says of itself, and what of it is refused. */
#include "backend/netdev.h"
#include "src/switch/port_vm.h"
#include "src/switch/vlan.h"

#define GOOD                                                                             \
    "\"hutch-port\": 1, \"vm\": \"web\", \"nic\": \"net0\", \"instance\": \"i\", "       \
    "\"mac\": \"02:00:00:00:00:01\""

static void all_of_it_is_read(void)
{
    Hello h;
    g_autoptr(GError) error = NULL;

    hello_parse("{" GOOD
                ", \"ip\": [\"10.5.0.7\", \"fd00::7\"], \"groups\": [\"front\"], "
                "\"queues\": 4, \"vlan\": 10, \"trunk\": [1, 4094], \"trust\": true, "
                "\"offloads\": 4294967295, \"firewall\": \"\"}",
                &h, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(h.vm, ==, "web");
    g_assert_cmpstr(h.nic, ==, "net0");
    g_assert_cmpstr(h.instance, ==, "i");
    g_assert_cmpuint(h.mac.b[5], ==, 1);
    g_assert_cmpuint(h.n_ip, ==, 2);
    g_assert_true(ip_is_v4(&h.ip[0]) && !ip_is_v4(&h.ip[1]));
    g_assert_cmpstr(h.groups[0], ==, "front");
    g_assert_null(h.groups[1]);
    g_assert_cmpuint(h.queues, ==, 4);
    g_assert_cmpuint(h.vlan, ==, 10);
    g_assert_cmpuint(h.trunk[4094 / 8] >> 4094 % 8 & 1, ==, 1);
    g_assert_cmpuint(h.trunk[0], ==, 2);
    g_assert_true(h.trust);
    g_assert_cmpuint(h.offloads, ==, NET_OFFLOADS);
    g_assert_cmpstr(h.firewall, ==, "");
    hello_free(&h);
}

static void what_is_left_out_has_defaults(void)
{
    Hello h;

    g_assert_true(hello_parse("{\"hutch-port\": 1, \"nic\": \"n\", \"instance\": \"i\", "
                              "\"mac\": \"02:00:00:00:00:01\"}",
                              &h, NULL));
    g_assert_null(h.vm);
    g_assert_cmpuint(h.queues, ==, 1);
    g_assert_cmpuint(h.vlan, ==, 0);
    g_assert_null(h.trunk);
    g_assert_null(h.firewall);
    g_assert_false(h.trust);
    hello_free(&h);
}

static void nonsense_is_refused_in_a_sentence(void)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"", "*JSON object*"},
        {"[]", "*JSON object*"},
        {"{}", "*hutch-port*"},
        {"{\"hutch-port\": 2, \"nic\": \"n\"}", "*hutch-port*"},
        {"{" GOOD ", \"queues\": 0}", "queues*1 to 8*"},
        {"{" GOOD ", \"queues\": 9}", "queues*1 to 8*"},
        {"{" GOOD ", \"queues\": \"2\"}", "queues*"},
        {"{" GOOD ", \"queues\": 1e9}", "queues*"},
        {"{" GOOD ", \"vlan\": 4095}", "vlan*4094*"},
        {"{" GOOD ", \"vlan\": -1}", "vlan*"},
        {"{" GOOD ", \"trunk\": [0]}", "trunk*"},
        {"{" GOOD ", \"trunk\": [4095]}", "trunk*"},
        {"{" GOOD ", \"trunk\": 7}", "trunk*array*"},
        {"{" GOOD ", \"ip\": [\"10.5.0\"]}", "ip*10.5.0*"},
        {"{" GOOD ", \"ip\": [7]}", "ip*"},
        {"{" GOOD ", \"ip\": \"10.5.0.7\"}", "ip*array*"},
        {"{" GOOD ", \"groups\": [\"a b\"]}", "groups*"},
        {"{" GOOD ", \"groups\": [\"\"]}", "groups*"},
        {"{" GOOD ", \"trust\": 1}", "trust*"},
        {"{" GOOD ", \"firewall\": []}", "firewall*"},
        {"{" GOOD ", \"vm\": \"web\"}", "*JSON object*"}, /* twice */
        {"{\"hutch-port\": 1, \"vm\": \"../x\", \"nic\": \"n\", \"instance\": \"i\", "
         "\"mac\": \"02:00:00:00:00:01\"}",
         "vm*"},
        {"{\"hutch-port\": 1, \"vm\": \"a\\u0000b\", \"nic\": \"n\", \"instance\": "
         "\"i\", "
         "\"mac\": \"02:00:00:00:00:01\"}",
         "*"},
        {"{\"hutch-port\": 1, \"nic\": \"n\", \"instance\": \"i\", "
         "\"mac\": \"03:00:00:00:00:01\"}",
         "mac*"},
        {"{\"hutch-port\": 1, \"nic\": \"n\", \"instance\": \"i\", "
         "\"mac\": \"00:00:00:00:00:00\"}",
         "mac*"},
        {"{\"hutch-port\": 1, \"nic\": \"n\", \"instance\": \"i\"}", "mac*"},
        {"{\"hutch-port\": 1, \"instance\": \"i\", \"mac\": \"02:00:00:00:00:01\"}",
         "nic*"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        Hello h;

        g_assert_false(hello_parse(bad[i].line, &h, &error));
        g_assert_nonnull(error);
        if (!g_pattern_match_simple(bad[i].says, error->message))
            g_error("%s: %s", bad[i].line, error->message);
        g_assert_null(strchr(error->message, '\n'));
        hello_free(&h);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hello/all", all_of_it_is_read);
    g_test_add_func("/hello/defaults", what_is_left_out_has_defaults);
    g_test_add_func("/hello/nonsense", nonsense_is_refused_in_a_sentence);
    return g_test_run();
}
