/* Addresses: texts, prefixes, families. */
#include "packet/addr.h"

#include <glib.h>

static Ip addr(const char *text)
{
    Ip ip;

    g_assert_true(ip_parse(text, &ip, NULL));
    return ip;
}

static IpPrefix prefix(const char *text)
{
    IpPrefix p;

    g_assert_true(ip_prefix_parse(text, &p, NULL));
    return p;
}

static void texts_come_back_as_they_were(void)
{
    const char *const ips[] = {"10.5.0.7", "0.0.0.0", "255.255.255.255", "2001:db8::1",
                               "::",       "::1",     "fe80::ff:fe00:1"};
    const char *const prefixes[] = {"10.5.0.0/24", "0.0.0.0/0", "::/0",
                                    "fd00:5::/64", "10.5.0.7",  "::1",
                                    "128.0.0.0/1"};
    char text[IP_TEXT + 4], mac[MAC_TEXT];
    Mac m;

    for (unsigned i = 0; i < G_N_ELEMENTS(ips); i++) {
        Ip ip = addr(ips[i]);

        g_assert_cmpstr(ip_text(&ip, text), ==, ips[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(prefixes); i++) {
        IpPrefix p = prefix(prefixes[i]);

        g_assert_cmpstr(ip_prefix_text(&p, text), ==, prefixes[i]);
    }
    g_assert_true(mac_parse("02:aB:00:00:00:fF", &m, NULL));
    g_assert_cmpstr(mac_text(&m, mac), ==, "02:ab:00:00:00:ff");
}

static void what_is_no_address_is_refused_with_a_way_out(void)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "is no address"},
        {"10.5.0", "is no address"},
        {"10.5.0.256", "is no address"},
        {"10.5.0.7 ", "is no address"},
        {"::g", "is no address"},
        {"::ffff:10.0.0.1", "write 10.0.0.1"},
        {"10.5.0.7/24", "the network is 10.5.0.0/24"},
        {"2001:db8::1/64", "the network is 2001:db8::/64"},
        {"10.5.0.0/33", "from 0 to 32"},
        {"10.5.0.0/", "from 0 to 32"},
        {"10.5.0.0/-1", "from 0 to 32"},
        {"10.5.0.0/8x", "from 0 to 32"},
        {"::/129", "from 0 to 128"},
        {"::/0000", "from 0 to 128"},
    };
    const char *const macs[] = {"",
                                "02:00:00:00:00",
                                "02:00:00:00:00:1",
                                "02:00:00:00:00:001",
                                "02-00-00-00-00-01",
                                "0g:00:00:00:00:01"};
    IpPrefix p;
    Mac m;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(ip_prefix_parse(bad[i].text, &p, &error));
        g_assert_nonnull(strstr(error->message, bad[i].says));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(macs); i++)
        g_assert_false(mac_parse(macs[i], &m, NULL));
}

static void a_prefix_holds_its_own_family_only(void)
{
    static const struct {
        const char *ip, *prefix;
        bool within;
    } cases[] = {
        {"10.5.0.7", "10.5.0.0/24", true},       {"10.5.1.7", "10.5.0.0/24", false},
        {"10.5.0.7", "0.0.0.0/0", true},         {"10.5.0.7", "::/0", false},
        {"2001:db8::1", "::/0", true},           {"2001:db8::1", "0.0.0.0/0", false},
        {"2001:db8::1", "2001:db8::/127", true}, {"2001:db8::2", "2001:db8::/127", false},
        {"10.5.0.7", "10.5.0.7", true},          {"10.5.0.6", "10.5.0.7", false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Ip ip = addr(cases[i].ip);
        IpPrefix p = prefix(cases[i].prefix);

        g_assert_cmpint(ip_within(&ip, &p), ==, cases[i].within);
    }
    IpPrefix a = prefix("10.0.0.0/8"), b = prefix("10.5.0.0/24"),
             c = prefix("11.0.0.0/8"), all6 = prefix("::/0");
    g_assert_true(ip_prefixes_overlap(&a, &b) && ip_prefixes_overlap(&b, &a));
    g_assert_false(ip_prefixes_overlap(&b, &c));
    g_assert_false(ip_prefixes_overlap(&a, &all6));
}

static void addresses_are_counted_and_made(void)
{
    IpPrefix net = prefix("10.5.0.0/24"), net6 = prefix("fd00:5::/64");
    Ip last = ip_prefix_last(&net), a = addr("10.5.0.255"), b = addr("fd00:5::ffff:ffff");
    Mac mac = {{0x02, 0, 0, 0, 0, 0x01}};
    char text[IP_TEXT];
    Ip ip;

    g_assert_true(ip_equal(&last, &a));
    ip = ip_plus(&a, 1);
    g_assert_cmpstr(ip_text(&ip, text), ==, "10.5.1.0");
    a = addr("255.255.255.255");
    ip = ip_plus(&a, 1);
    g_assert_cmpstr(ip_text(&ip, text), ==, "0.0.0.0");
    ip = ip_plus(&b, 1);
    g_assert_cmpstr(ip_text(&ip, text), ==, "fd00:5::1:0:0");
    ip = ip_link_local_of(&mac);
    g_assert_cmpstr(ip_text(&ip, text), ==, "fe80::ff:fe00:1");
    ip = ip_in_prefix_of(&net6, &mac);
    g_assert_cmpstr(ip_text(&ip, text), ==, "fd00:5::ff:fe00:1");
    g_assert_cmpuint(ip_to_v4(&last), ==, 0x0a0500ff);
}

static void kinds_of_addresses_are_told_apart(void)
{
    Ip zero = addr("0.0.0.0"), zero6 = addr("::"), broadcast = addr("255.255.255.255"),
       group = addr("224.0.0.1"), group6 = addr("ff02::1"), host = addr("10.0.0.1"),
       ll = addr("169.254.1.1"), ll6 = addr("febf::1"), site = addr("fec0::1");

    g_assert_true(ip_is_unspecified(&zero) && ip_is_unspecified(&zero6));
    g_assert_false(ip_is_unspecified(&host) || ip_equal(&zero, &zero6));
    g_assert_true(ip_is_multicast(&broadcast) && ip_is_multicast(&group) &&
                  ip_is_multicast(&group6));
    g_assert_false(ip_is_multicast(&host) || ip_is_multicast(&zero6));
    g_assert_true(ip_is_link_local(&ll) && ip_is_link_local(&ll6));
    g_assert_false(ip_is_link_local(&site) || ip_is_link_local(&host));
    g_assert_true(ip_is_v4(&zero) && !ip_is_v4(&zero6));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/addr/texts_come_back_as_they_were", texts_come_back_as_they_were);
    g_test_add_func("/addr/what_is_no_address_is_refused_with_a_way_out",
                    what_is_no_address_is_refused_with_a_way_out);
    g_test_add_func("/addr/a_prefix_holds_its_own_family_only",
                    a_prefix_holds_its_own_family_only);
    g_test_add_func("/addr/addresses_are_counted_and_made",
                    addresses_are_counted_and_made);
    g_test_add_func("/addr/kinds_of_addresses_are_told_apart",
                    kinds_of_addresses_are_told_apart);
    return g_test_run();
}
