/* What a network can be, and what it cannot. */
#include "network/config.h"

#include <glib.h>
#include <string.h>

/* The options of `text`; NULL with the sentence. */
static NetworkConfig *parse(const char *text, GError **error)
{
    NetworkConfig *config = param_new(&network_params);

    if (param_parse(&network_params, config, text, error))
        return config;
    param_free(&network_params, config);
    return NULL;
}

static void possible(const char *text)
{
    g_autoptr(GError) error = NULL;
    NetworkConfig *config = parse(text, &error);

    g_assert_no_error(error);
    param_free(&network_params, config);
}

static void impossible(const char *text, const char *says)
{
    g_autoptr(GError) error = NULL;
    NetworkConfig *config = parse(text, &error);

    g_assert_null(config);
    g_assert_nonnull(error);
    if (!strstr(error->message, says))
        g_error("'%s' says '%s', not '%s'", text, error->message, says);
}

static void names_are_short_words_that_net_does_not_take_otherwise(void)
{
    static const char *const good[] = {"blue", "0", "a-b-",
                                       "abcdefghijklmnopqrstuvwxyz01234"},
                             *const bad[] = {"",
                                             "-a",
                                             "Blue",
                                             "a_b",
                                             "a/b",
                                             "..",
                                             "user",
                                             "tap",
                                             "none",
                                             "a b",
                                             "\xc3\xa4",
                                             "bridge",
                                             "abcdefghijklmnopqrstuvwxyz012345"};

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++)
        g_assert_true(network_check_name(good[i], NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(network_check_name(bad[i], NULL));
}

static void subnets_are_prefixes_that_hosts_can_live_in(void)
{
    possible("subnet=10.0.0.0/8");
    possible("subnet=192.168.7.248/29");
    possible("subnet=auto,subnet6=auto");
    possible("subnet=none,subnet6=fd00:5::/64");
    possible("subnet=none,mode=isolated");
    impossible("subnet=10.5.0.0", "too few");
    impossible("subnet=10.5.0.0/30", "too few");
    impossible("subnet=10.0.0.0/7", "too many");
    impossible("subnet=10.5.0.1/24", "subnet: ");
    impossible("subnet=10.5.0.0/33", "subnet: ");
    impossible("subnet=ten", "subnet: ");
    impossible("subnet=fd00:5::/64", "subnet6 is for that");
    impossible("subnet=10.5.0.0/24,subnet6=10.6.0.0/24", "subnet is for that");
    impossible("subnet=auto,subnet6=fd00:5::/80", "/64");
    impossible("subnet=127.1.0.0/16", "reserved");
    impossible("subnet=224.0.0.0/24", "reserved");
    impossible("subnet=169.254.3.0/24", "reserved");
    impossible("subnet=auto,subnet6=fe80::/64", "reserved");
    impossible("mode=nat", "needs a subnet");
    impossible("mode=routed", "needs a subnet");
}

static void the_gateway_has_the_first_address(void)
{
    g_autoptr(GError) error = NULL;
    NetworkConfig *config = parse("subnet=10.5.0.0/24,subnet6=fd00:5::/64", &error);
    NetworkSubnets in;
    char text[IP_TEXT];

    g_assert_no_error(error);
    network_subnets(config, &in);
    g_assert_cmpstr(ip_text(&in.gateway4, text), ==, "10.5.0.1");
    g_assert_cmpstr(ip_text(&in.gateway6, text), ==, "fd00:5::1");
    g_assert_cmpuint(in.v4.bits, ==, 96 + 24);
    g_assert_cmpuint(in.v6.bits, ==, 64);
    param_free(&network_params, config);
}

static void an_mtu_has_room_for_what_ip_asks(void)
{
    possible("subnet=auto,mtu=576");
    possible("subnet=auto,mtu=65535");
    possible("subnet=auto,subnet6=auto,mtu=1280");
    impossible("subnet=auto,mtu=575", "576");
    impossible("subnet=auto,mtu=65536", "65535");
    impossible("subnet=auto,subnet6=auto,mtu=1279", "1280");
}

static void leases_are_hosts_of_the_subnet_and_one_vm_s(void)
{
    possible("subnet=10.5.0.0/24,lease=web=10.5.0.7,lease=db=10.5.0.8");
    possible("subnet=10.5.0.0/24,subnet6=fd00:5::/64,lease=web=10.5.0.7,"
             "lease=web=fd00:5::7");
    possible("subnet=auto,lease=web=10.5.0.7"); /* is looked at when it is chosen */
    impossible("subnet=10.5.0.0/24,lease=web=10.6.0.7", "10.5.0.0/24");
    impossible("subnet=10.5.0.0/24,lease=web=10.5.0.1", "gateway");
    impossible("subnet=10.5.0.0/24,lease=web=10.5.0.0", "first and the last");
    impossible("subnet=10.5.0.0/24,lease=web=10.5.0.255", "first and the last");
    impossible("subnet=10.5.0.0/24,lease=web=fd00:5::7", "no IPv6 subnet");
    impossible("subnet=10.5.0.0/24,lease=web=10.5.0.7,lease=db=10.5.0.7",
               "'web' has that address already");
    impossible("subnet=10.5.0.0/24,lease=web=10.5.0.7,lease=web=10.5.0.8",
               "'web' has another address already");
    impossible("subnet=10.5.0.0/24,lease=10.5.0.7", "VM=ADDRESS");
    impossible("subnet=10.5.0.0/24,lease==10.5.0.7", "cannot be a VM's name");
    impossible("subnet=10.5.0.0/24,lease=web=10.5.0", "lease: ");
    impossible("subnet=10.5.0.0/24,dhcp=off,lease=web=10.5.0.7", "dhcp=off");
}

static void forwards_say_which_port_leads_where(void)
{
    NetworkForward f;
    char text[IP_TEXT];

    g_assert_true(network_forward_parse("tcp::8080-web:80", &f, NULL));
    g_assert_false(f.udp);
    g_assert_true(ip_is_unspecified(&f.address));
    g_assert_cmpuint(f.port, ==, 8080);
    g_assert_cmpstr(f.vm, ==, "web");
    g_assert_cmpuint(f.vm_port, ==, 80);
    network_forward_clear(&f);
    g_assert_true(network_forward_parse("udp:127.0.0.1:53-a-b:5353", &f, NULL));
    g_assert_true(f.udp);
    g_assert_cmpstr(ip_text(&f.address, text), ==, "127.0.0.1");
    g_assert_cmpstr(f.vm, ==, "a-b");
    network_forward_clear(&f);
    g_assert_true(network_forward_parse("tcp:[::1]:1-w:2", &f, NULL));
    g_assert_cmpstr(ip_text(&f.address, text), ==, "::1");
    network_forward_clear(&f);
    possible("subnet=auto,forward=tcp::80-web:80,forward=udp::80-web:80");
    impossible("subnet=auto,forward=tcp::80-web:80,forward=tcp:127.0.0.1:80-db:80",
               "forwarded already");
    for (const char *const *bad =
             (const char *const[]){"", "tcp", "tcp::80", "tcp::80-web", "icmp::80-web:80",
                                   "tcp::0-web:80", "tcp::80-web:65536", "tcp:80-web:80",
                                   "tcp:::1:80-web:80", "tcp:here:80-web:80",
                                   "tcp::80-:80", "tcp:[127.0.0.1]:80-web:80", NULL};
         *bad; bad++)
        g_assert_false(network_forward_parse(*bad, &f, NULL));
}

static void each_mode_refuses_what_it_has_no_use_for(void)
{
    possible("mode=routed,subnet=auto,route=red,uplink=bridge=br0");
    possible("mode=nat,subnet=auto,upstream=1.1.1.1,upstream=2606::1");
    impossible("mode=isolated,subnet=auto,route=red", "reaches nothing else");
    impossible("mode=isolated,forward=tcp::80-web:80", "reaches nothing else");
    impossible("mode=isolated,uplink=tap", "reaches nothing else");
    impossible("mode=isolated,upstream=1.1.1.1", "reaches nothing else");
    impossible("mode=routed,subnet=auto,forward=tcp::80-web:80", "mode=nat can");
    impossible("subnet=auto,route=red,route=red", "twice");
    impossible("subnet=auto,route=Red", "route: ");
    impossible("subnet=auto,uplink=wire", "uplink: ");
    impossible("subnet=auto,upstream=dns.example", "upstream: ");
}

static void a_domain_is_a_name_of_dns(void)
{
    possible("subnet=auto,domain=lab.example");
    possible("subnet=auto,domain=a");
    impossible("subnet=auto,domain=.a", "domain: ");
    impossible("subnet=auto,domain=a..b", "domain: ");
    impossible("subnet=auto,domain=-a", "domain: ");
    impossible("subnet=auto,domain=a_b", "domain: ");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/network/config/names",
                    names_are_short_words_that_net_does_not_take_otherwise);
    g_test_add_func("/network/config/subnets",
                    subnets_are_prefixes_that_hosts_can_live_in);
    g_test_add_func("/network/config/gateway", the_gateway_has_the_first_address);
    g_test_add_func("/network/config/mtu", an_mtu_has_room_for_what_ip_asks);
    g_test_add_func("/network/config/leases",
                    leases_are_hosts_of_the_subnet_and_one_vm_s);
    g_test_add_func("/network/config/forwards", forwards_say_which_port_leads_where);
    g_test_add_func("/network/config/modes", each_mode_refuses_what_it_has_no_use_for);
    g_test_add_func("/network/config/domain", a_domain_is_a_name_of_dns);
    return g_test_run();
}
