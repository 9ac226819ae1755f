/* Names for rules: which addresses were given for them, and for how long. */
#include "src/switch/names.h"

#include <glib.h>

#define S 1000000000ll

static Ip v4(uint32_t host)
{
    return ip_from_v4(0xc0000200 + host);
}

static const struct {
    const char *pattern, *name;
    bool matches;
} patterns[] = {
    {"example.org", "example.org", true},
    {"Example.ORG", "example.org", true},
    {"example.org", "www.example.org", false},
    {"*.example.org", "www.example.org", true},
    {"*.example.org", "a.b.example.org", true},
    {"*.example.org", "example.org", false},
    {"*.example.org", "badexample.org", false},
    {"*.example.org", "www.example.org.evil.com", false},
    {"*.org", "example.org", true},
    {"*", "example.org", false},
};

static void patterns_match_names_below_them(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(patterns); i++) {
        Names *n = names_new();
        Ip ip = v4(1);

        names_add(n, 0, patterns[i].name, &ip, 60, S);
        g_assert_cmpint(names_have(n, patterns[i].pattern, &ip, S), ==,
                        patterns[i].matches);
        names_free(n);
    }
}

static void an_address_is_allowed_for_its_time_and_a_second(void)
{
    Names *n = names_new();
    Ip ip = v4(1), other = v4(2);

    names_add(n, 0, "example.org", &ip, 10, S);
    g_assert_true(names_have(n, "example.org", &ip, 11 * S));
    g_assert_true(names_have(n, "example.org", &ip, 12 * S - 1));
    g_assert_false(names_have(n, "example.org", &ip, 12 * S));
    g_assert_false(names_have(n, "example.org", &other, S));
    names_add(n, 0, "zero.org", &ip, 0, S);
    g_assert_true(names_have(n, "zero.org", &ip, 2 * S - 1));
    g_assert_false(names_have(n, "zero.org", &ip, 2 * S));
    names_free(n);
}

static void the_longer_of_two_answers_counts(void)
{
    Names *n = names_new();
    Ip ip = v4(1);
    json_t *list;

    names_add(n, 0, "example.org", &ip, 100, S);
    names_add(n, 0, "EXAMPLE.org", &ip, 1, S);
    g_assert_true(names_have(n, "example.org", &ip, 50 * S));
    list = names_json(n, S);
    g_assert_cmpuint(json_array_size(list), ==, 1);
    json_decref(list);
    names_free(n);
}

static void one_port_cannot_push_out_what_others_asked(void)
{
    Names *n = names_new();
    Ip good = v4(1);
    json_t *list;

    names_add(n, 1, "good.org", &good, 60, S);
    for (unsigned i = 0; i < 3 * NAMES_MAX; i++) {
        Ip ip = ip_from_v4(0x01000000 + i);
        char name[32];

        g_snprintf(name, sizeof(name), "x%u.evil.com", i);
        names_add(n, 2, name, &ip, 86400, S);
    }
    g_assert_true(names_have(n, "good.org", &good, S));
    list = names_json(n, S);
    g_assert_cmpuint(json_array_size(list), ==, 1 + NAMES_MAX_OF_PORT);
    json_decref(list);
    names_free(n);
}

static void the_table_is_bounded(void)
{
    Names *n = names_new();
    json_t *list;

    for (unsigned i = 0; i < 2 * NAMES_MAX; i++) {
        Ip ip = ip_from_v4(0x01000000 + i % 97); /* long chains, too */
        char name[32];

        g_snprintf(name, sizeof(name), "x%u.org", i);
        names_add(n, i % 64, name, &ip, 60 + i, S);
    }
    list = names_json(n, S);
    g_assert_cmpuint(json_array_size(list), ==, NAMES_MAX);
    json_decref(list);
    /* Those that ended first have gone, and all go on to be found. */
    for (unsigned i = NAMES_MAX; i < 2 * NAMES_MAX; i++) {
        Ip ip = ip_from_v4(0x01000000 + i % 97);
        char name[32];

        g_snprintf(name, sizeof(name), "x%u.org", i);
        g_assert_true(names_have(n, name, &ip, S));
    }
    names_free(n);
}

static void what_is_over_makes_room(void)
{
    Names *n = names_new();

    for (unsigned i = 0; i < 20 * NAMES_MAX_OF_PORT; i++) {
        Ip ip = v4(1);
        char name[32];

        g_snprintf(name, sizeof(name), "x%u.org", i);
        names_add(n, 7, name, &ip, 1, (1 + 10 * i) * S);
        g_assert_true(names_have(n, name, &ip, (1 + 10 * i) * S));
    }
    names_free(n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(fn) g_test_add_func("/names/" #fn, fn)
    TEST(patterns_match_names_below_them);
    TEST(an_address_is_allowed_for_its_time_and_a_second);
    TEST(the_longer_of_two_answers_counts);
    TEST(one_port_cannot_push_out_what_others_asked);
    TEST(the_table_is_bounded);
    TEST(what_is_over_makes_room);
    return g_test_run();
}
