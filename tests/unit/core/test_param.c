/* Option tables: what is accepted, what is refused and with which words. */
#include "core/param.h"

#include <string.h>

#include "util/bits.h"

typedef struct Opts {
    char *path, *name, **fwd;
    bool ro, lock;
    uint64_t n, size;
    int kind, way;
    uint8_t mac[6];
    json_t *any;
} Opts;

static const char *const kinds[] = {"auto", "raw", "qcow2", NULL};
static const char *const ways[] = {"in", "out", NULL};

static bool opts_check(void *options, GError **error)
{
    Opts *o = options;

    return o->n != 13 || fail(error, VM_ERROR_INVALID, "n: 13 is unlucky");
}

#define AT(member) .offset = offsetof(Opts, member)
static const ParamTable table = {
    .size = sizeof(Opts),
    .check = opts_check,
    .desc =
        (const ParamDesc[]){
            {.key = "path", .type = PARAM_PATH, AT(path), .help = "f", .required = true},
            {.key = "name", .type = PARAM_STRING, AT(name)},
            {.key = "format", .type = PARAM_ENUM, AT(kind), .choices = kinds},
            {.key = "way", .type = PARAM_ENUM, AT(way), .choices = ways, .min = 1},
            {.key = "readonly", .type = PARAM_BOOL, AT(ro)},
            {.key = "locking", .type = PARAM_BOOL, AT(lock), .def = "on"},
            {.key = "n", .type = PARAM_UINT, AT(n), .def = "1", .min = 1, .max = 64},
            {.key = "size", .type = PARAM_SIZE, AT(size), .min = MIB, .def = "512M"},
            {.key = "mac", .type = PARAM_MAC, AT(mac)},
            {.key = "hostfwd", .type = PARAM_LIST, AT(fwd)},
            {.key = "any", .type = PARAM_JSON, AT(any)},
            {0}},
};

static Opts *parse(const char *text)
{
    GError *error = NULL;
    Opts *o = param_new(&table);

    param_parse(&table, o, text, &error);
    g_assert_no_error(error);
    return o;
}

static void refused(const char *text, const char *why)
{
    g_autoptr(GError) error = NULL;
    Opts *o = param_new(&table);

    g_assert_false(param_parse(&table, o, text, &error));
    if (!strstr(error->message, why))
        g_error("'%s' was refused with \"%s\", not \"%s\"", text, error->message, why);
    param_free(&table, o);
}

static void refused_json(const char *text, const char *why)
{
    g_autoptr(GError) error = NULL;
    Opts *o = param_new(&table);
    json_t *json = json_loads(text, 0, NULL);

    g_assert_nonnull(json);
    g_assert_false(param_from_json(&table, o, json, NULL, &error));
    if (!strstr(error->message, why))
        g_error("'%s' was refused with \"%s\", not \"%s\"", text, error->message, why);
    json_decref(json);
    param_free(&table, o);
}

static void first_key_may_be_bare_and_so_may_booleans(void)
{
    Opts *o = parse("root.raw,readonly,format=qcow2");

    g_assert_cmpstr(o->path, ==, "root.raw");
    g_assert_true(o->ro);
    g_assert_true(o->lock);
    g_assert_cmpint(o->kind, ==, 2);
    g_assert_cmpint(o->way, ==, 0);
    g_assert_cmpuint(o->size, ==, 512 * MIB);
    param_free(&table, o);
}

static void every_type_is_parsed(void)
{
    Opts *o = parse("readonly=no,locking=off,path=/a=b,n=64,size=2g,way=out,"
                    "mac=52:54:00:AB:cd:01,hostfwd=x,hostfwd=y,name=");

    g_assert_cmpstr(o->path, ==, "/a=b");
    g_assert_false(o->ro);
    g_assert_false(o->lock);
    g_assert_cmpuint(o->n, ==, 64);
    g_assert_cmpuint(o->size, ==, 2 * GIB);
    g_assert_cmpint(o->way, ==, 2);
    g_assert_cmpmem(o->mac, 6, "\x52\x54\x00\xab\xcd\x01", 6);
    g_assert_cmpstr(o->fwd[1], ==, "y");
    g_assert_cmpuint(g_strv_length(o->fwd), ==, 2);
    g_assert_cmpstr(o->name, ==, "");
    param_free(&table, o);
}

static void json_is_kept_as_it_came_in_both_notations(void)
{
    json_t *object = json_pack("{s:s, s:{s:[i]}}", "path", "x", "any", "a", 1);
    Opts *o = parse("x,any={\"a\":[1]}"), *p = param_new(&table);
    json_t *back;

    g_assert_true(json_equal(o->any, json_object_get(object, "any")));
    g_assert_true(param_from_json(&table, p, object, NULL, NULL));
    g_assert_true(json_equal(p->any, o->any));
    back = param_to_json(&table, p);
    g_assert_true(json_equal(json_object_get(back, "any"), o->any));
    refused("x,any={", "not JSON");
    json_decref(back);
    json_decref(object);
    param_free(&table, o);
    param_free(&table, p);
}

static void doubled_comma_is_one_comma_of_the_value(void)
{
    Opts *o = parse("a,,b,name=,,x,,,readonly");

    g_assert_cmpstr(o->path, ==, "a,b");
    g_assert_cmpstr(o->name, ==, ",x,");
    g_assert_true(o->ro);
    param_free(&table, o);
}

static void bad_lists_are_refused_by_name_of_key(void)
{
    refused("", "key 'path' is missing");
    refused("readonly", "key 'path' is missing");
    refused("a,path=b", "key 'path' is given twice");
    refused("a,readonly,readonly", "key 'readonly' is given twice");
    refused("a,formt=raw", "did you mean 'format'?");
    refused("a,colour=red", "unknown key 'colour'; the keys are: path, name,");
    refused("a=b.raw", "needs path= before it");
    refused("a,b", "unknown key 'b'");
    refused("a,", "nothing before or after a comma");
    refused(",a", "nothing before or after a comma");
    refused("path=", "path: the path is empty");
    refused("a,name", "name: no value is given");
    refused("a,readonly=maybe", "readonly: 'maybe' is neither on nor off");
    refused("a,format=vmdk", "format: 'vmdk' is none of: auto, raw, qcow2");
    refused("a,n=13", "13 is unlucky");
}

static void malformed_numbers_are_refused(void)
{
    refused("a,n=0", "n: 0 is too little: it must be 1 or more");
    refused("a,n=65", "n: 65 is too much: it must be 64 or less");
    for (const char *const *bad =
             (const char *const[]){"", "-1", "+1", " 1", "1 ", "0x10", "1e3", NULL};
         *bad; bad++) {
        g_autofree char *text = g_strdup_printf("a,n=%s", *bad);

        refused(text, "is not a number");
    }
    refused("a,n=18446744073709551616", "n: '18446744073709551616' is too large");
    refused("a,size=1023K", "size: 1023K is too little: it must be 1M or more");
    refused("a,size=1MB", "is not a size");
    refused("a,size=M", "is not a size");
    refused("a,size=1.5G", "is not a size");
    refused("a,size=16777216T", "is too large a size");
    refused("a,mac=52:54:00:12:34", "is not a MAC address");
    refused("a,mac=52:54:00:12:34:5g", "is not a MAC address");
    refused("a,mac=52-54-00-12-34-56", "is not a MAC address");
    refused("a,mac=00:00:00:00:00:00", "is nobody's address");
}

static void sizes_have_suffixes_of_1024(void)
{
    static const struct {
        const char *text;
        uint64_t v;
    } good[] = {{"0", 0},
                {"7", 7},
                {"1k", KIB},
                {"3M", 3 * MIB},
                {"1G", 1 * GIB},
                {"2T", 2048 * GIB},
                {"16777215T", 16777215ull << 40}};

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t v = 99;

        g_assert_true(param_parse_size(good[i].text, &v, NULL));
        g_assert_cmpuint(v, ==, good[i].v);
    }
}

static void failed_set_leaves_the_member_alone(void)
{
    Opts *o = parse("a,n=5");

    g_assert_false(param_set(&table.desc[6], o, "500", NULL));
    g_assert_cmpuint(o->n, ==, 5);
    g_assert_false(param_set(&table.desc[0], o, "", NULL));
    g_assert_cmpstr(o->path, ==, "a");
    param_free(&table, o);
}

/* nbd://host/name?key=value */
static void a_uri_in_the_place_of_a_path_stays_as_it_is(void)
{
    static const char uri[] = "nbd+unix:///x?socket=/run/a=b&reconnect=5";
    Opts *o = parse("nbd+unix:///x?socket=/run/a=b&reconnect=5,readonly");
    json_t *json = param_to_json(&table, o);
    Opts *p = param_new(&table);

    g_assert_cmpstr(o->path, ==, uri);
    g_assert_true(o->ro);
    g_assert_cmpstr(json_string_value(json_object_get(json, "path")), ==, uri);
    g_assert_true(param_from_json(&table, p, json, "/etc/vm", NULL));
    g_assert_cmpstr(p->path, ==, uri);
    json_decref(json);
    param_free(&table, o);
    param_free(&table, p);
}

static void json_paths_count_from_the_files_folder(void)
{
    const char *cases[][2] = {{"{\"path\": \"a.raw\"}", "/etc/vm/a.raw"},
                              {"{\"path\": \"/b.raw\"}", "/b.raw"},
                              {"\"c.raw,readonly\"", "/etc/vm/c.raw"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        json_t *json = json_loads(cases[i][0], JSON_DECODE_ANY, NULL);
        Opts *o = param_new(&table);

        g_assert_true(param_from_json(&table, o, json, "/etc/vm", NULL));
        g_assert_cmpstr(o->path, ==, cases[i][1]);
        json_decref(json);
        param_free(&table, o);
    }
}

static void bad_json_is_refused_by_name_of_key(void)
{
    refused_json("{\"path\": 3}", "path: a string is wanted here, not a number");
    refused_json("{\"path\": null}", "path: a string is wanted here, not null");
    refused_json("{\"path\": \"a\", \"n\": \"3\"}", "n: a number is wanted");
    refused_json("{\"path\": \"a\", \"n\": -3}", "n: '-3' is not a number");
    refused_json("{\"path\": \"a\", \"n\": 2.0}", "n: a number is wanted");
    refused_json("{\"path\": \"a\", \"readonly\": 1}", "readonly: true or false");
    refused_json("{\"path\": \"a\", \"hostfwd\": [1]}", "hostfwd: a string is wanted");
    refused_json("{\"path\": \"a\", \"Format\": \"raw\"}", "did you mean 'format'");
    refused_json("{}", "key 'path' is missing");
    refused_json("[]", "an object or a string is wanted here, not an array");
}

static void json_round_trips_and_leaves_defaults_out(void)
{
    const char *texts[] = {"a", "a,readonly,locking=off,n=7,size=1536M,way=in,format=raw",
                           "a,mac=52:54:00:ab:cd:01,hostfwd=x,hostfwd=y,name=z",
                           "a,size=1048577"};

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        Opts *o = parse(texts[i]), *p = param_new(&table);
        json_t *json = param_to_json(&table, o), *again;

        g_assert_true(param_from_json(&table, p, json, NULL, NULL));
        again = param_to_json(&table, p);
        g_assert_true(json_equal(json, again));
        g_assert_cmpuint(p->size, ==, o->size);
        if (i == 0)
            g_assert_cmpuint(json_object_size(json), ==, 1);
        if (i == 1)
            g_assert_cmpstr(json_string_value(json_object_get(json, "size")), ==,
                            "1536M");
        json_decref(json);
        json_decref(again);
        param_free(&table, o);
        param_free(&table, p);
    }
}

static void typing_slips_are_recognised_and_other_words_are_not(void)
{
    g_assert_true(param_similar("kernal", "kernel"));
    g_assert_true(param_similar("memroy", "memory"));
    g_assert_true(param_similar("mem", "memory"));
    g_assert_false(param_similar("rng", "net"));
    g_assert_false(param_similar("x", "cpus"));
    g_assert_false(param_similar("", "cpus"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/param/" #fn, fn)
    T(first_key_may_be_bare_and_so_may_booleans);
    T(every_type_is_parsed);
    T(json_is_kept_as_it_came_in_both_notations);
    T(doubled_comma_is_one_comma_of_the_value);
    T(bad_lists_are_refused_by_name_of_key);
    T(malformed_numbers_are_refused);
    T(sizes_have_suffixes_of_1024);
    T(failed_set_leaves_the_member_alone);
    T(a_uri_in_the_place_of_a_path_stays_as_it_is);
    T(json_paths_count_from_the_files_folder);
    T(bad_json_is_refused_by_name_of_key);
    T(json_round_trips_and_leaves_defaults_out);
    T(typing_slips_are_recognised_and_other_words_are_not);
    return g_test_run();
}
