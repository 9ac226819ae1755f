/* The rules' text and JSON: what is wrong is told with its place; both forms are the
 * same. */
#include "gate.h"

#include "src/firewall/rules.h"

/* What is wrong, where, and what could stand there. */
static const struct {
    const char *text, *says;
} bad[] = {
    /* lines */
    {"alow in tcp",
     "x.rules:1:1: 'alow' stands where 'allow', 'deny', 'reject' or 'default'"},
    {"\n\n  pass in", "x.rules:3:3: 'pass' stands where 'allow'"},
    {"allow", "x.rules:1:6: the end of the line stands where 'in' (to the VM) or 'out'"},
    {"allow both", "x.rules:1:7: 'both' stands where 'in'"},
    {"allow in sideways", "x.rules:1:10: 'sideways' stands where a protocol, 'from'"},
    {"# ok\nallow in tcp tcp", "x.rules:2:14: a rule has one protocol"},
    {"allow in proto 6 udp", "x.rules:1:18: a rule has one protocol"},
    {"allow in tcp proto 6", "x.rules:1:14: a rule has one protocol"},
    {"allow in tcp port 1 port 2", "x.rules:1:21: a rule has one 'port'; separate"},
    {"allow in log log", "x.rules:1:14: 'log' stands where a protocol"},
    {"allow in \"tcp\"", "x.rules:1:10: 'tcp' stands where a protocol"},
    {"allow in proto tpc", "x.rules:1:16: 'tpc' is no protocol: tcp, udp"},
    {"allow in proto 256", "x.rules:1:16: '256' is no protocol"},
    {"allow in proto", "x.rules:1:15: the end of the line is no protocol"},
    /* defaults */
    {"default", "x.rules:1:8: the end of the line stands where 'in'"},
    {"default in",
     "x.rules:1:11: the end of the line stands where 'allow', 'deny' or 'reject'"},
    {"default in deny tcp", "x.rules:1:17: 'tcp' stands where a default ends"},
    {"default in deny\ndefault in allow",
     "x.rules:2:1: there is a default of 'in' already"},
    /* ports */
    {"allow in tcp port", "x.rules:1:18: the end of the line is no port: \"80\""},
    {"allow in tcp port http", "x.rules:1:19: 'http' is no port"},
    {"allow in tcp port 65536", "x.rules:1:19: '65536' is no port"},
    {"allow in tcp port -1", "x.rules:1:19: '-1' is no port"},
    {"allow in tcp port 80,", "x.rules:1:22: the end of the line is no port"},
    {"allow in tcp port 80,,81", "x.rules:1:22: ',' is no port"},
    {"allow in tcp port 80 81", "x.rules:1:22: '81' stands where a protocol"},
    {"allow in tcp port 80-", "x.rules:1:22: '80-' has no port of up to 65535 after its"},
    {"allow in tcp port 80-70000", "x.rules:1:22: '80-70000' has no port"},
    {"allow in tcp port 90-80", "x.rules:1:19: '90-80' ends before it begins"},
    {"allow in icmp port 80", "x.rules:1:1: only tcp and udp have ports"},
    {"  allow in gre from-port 80", "x.rules:1:3: only tcp and udp have ports"},
    /* ends */
    {"allow in from", "x.rules:1:14: the end of the line stands where 'any', an address"},
    {"allow in from web",
     "x.rules:1:15: 'web' stands where 'any', an address, 'vm NAME'"},
    {"allow in from 10.5.0.300", "x.rules:1:15: '10.5.0.300' is no address"},
    {"allow in from 10.5.0.1/24", "x.rules:1:15: '10.5.0.1/24' has bits set after its "
                                  "prefix; the network is 10.5.0.0/24"},
    {"allow in from 10.5.0.0/33", "x.rules:1:15: '10.5.0.0/33' needs a number of bits"},
    {"allow in from ::ffff:10.0.0.1",
     "x.rules:1:15: '::ffff:10.0.0.1' is an IPv4 address"},
    {"allow in from 10.0.0.1, vm",
     "x.rules:1:27: the end of the line stands where a name"},
    {"allow in from vm ,", "x.rules:1:18: ',' stands where a name has to, after 'vm'"},
    {"allow in from group \"\"", "x.rules:1:21: '' stands where a name has to"},
    {"allow in from name example.org", "x.rules:1:1: domain names are for whom a VM may"},
    {"allow in to name example.org", "x.rules:1:1: domain names are for whom"},
    {"allow out to name ex..org", "x.rules:1:19: 'ex..org' is no domain"},
    {"allow out to name *", "x.rules:1:19: '*' is no domain"},
    {"allow out to name a.*.org", "x.rules:1:19: 'a.*.org' is no domain"},
    {"allow out to name", "x.rules:1:18: the end of the line is no domain"},
    /* types */
    {"allow in icmp type", "x.rules:1:19: the end of the line is no type of ICMP"},
    {"allow in icmp type ping",
     "x.rules:1:20: 'ping' is no type of ICMP: \"echo-request\""},
    {"allow in icmp4 type 256", "x.rules:1:21: '256' is no type"},
    {"allow in icmp type 8",
     "x.rules:1:1: numbers mean other types in ICMP and in ICMPv6"},
    {"allow in tcp type 8", "x.rules:1:1: only icmp, icmp4 and icmp6 have types"},
    {"allow in type echo-request", "x.rules:1:1: only icmp, icmp4 and icmp6 have types"},
    {"allow in icmp4 type packet-too-big", "x.rules:1:1: that is a type of ICMPv6 only"},
    {"allow in icmp6 type timestamp-reply", "x.rules:1:1: that is a type of IPv4's ICMP"},
    /* filters */
    {"allow in match tcp", "x.rules:1:16: 'tcp' stands where a pcap filter in quotes"},
    {"allow in match \"tcp", "x.rules:1:16: this '\"' has no other that ends it"},
    {"allow in match \"\"", "x.rules:1:16: a pcap filter has up to 512 printable"},
    {"allow in match \"tcp port\"", "x.rules:1:16: pcap filter 'tcp port': "},
    {"allow in match \"host web\"", "x.rules:1:22: 'web' is no word of pcap filters"},
    {"allow in match \"ip proto \\\\web\"", "x.rules:1:28: 'web' is no word"},
    /* characters, not bytes, are counted */
    {"allow in from vm \"\xc3\xbc\xc3\xbc\" bad", "x.rules:1:23: 'bad' stands where"},
    {"allow in\nallow \xff", "x.rules:2:7: this is no text: save it as UTF-8"},
    /* JSON */
    {"{\n \"rules\": [}", "x.rules:2:"},
    {"{\"rule\": []}", "x.rules: there is no \"rule\"; \"default\" and \"rules\""},
    {"{\"rules\": {}}", "x.rules: rules: a list of rules has to stand here"},
    {"{\"default\": \"deny\"}", "x.rules: default: an object with \"in\" and \"out\""},
    {"{\"default\": {\"both\": \"deny\"}}",
     "x.rules: default.both: there are two directions"},
    {"{\"default\": {\"in\": \"no\"}}",
     "x.rules: default.in.action: 'no' stands where 'allow'"},
    {"{\"default\": {\"in\": 1}}",
     "x.rules: default.in: \"allow\", \"deny\" or \"reject\" has to"},
    {"{\"default\": {\"in\": {\"action\": \"deny\", \"port\": 1}}}",
     "x.rules: default.in: there is no \"port\""},
    {"{\"rules\": [7]}",
     "x.rules: rules[0]: an object with \"action\" and \"direction\""},
    {"{\"rules\": [{\"action\": \"allow\"}]}", "x.rules: rules[0]: an object with"},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"ports\": 1}]}",
     "x.rules: rules[0]: there is no \"ports\"; \"action\""},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"port\": [1, "
     "\"x\"]}]}",
     "x.rules: rules[0].port: 'x' is no port"},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"port\": []}]}",
     "x.rules: rules[0].port: a string has to stand here, a number, or a list"},
    {"{\"rules\": [{\"action\": \"allow in\", \"direction\": \"in\"}]}",
     "x.rules: rules[0].action: 'in' stands where nothing more can"},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"log\": 1}]}",
     "x.rules: rules[0].log: true or false has to stand here"},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"match\": [\"ip\"]}]}",
     "x.rules: rules[0].match: a string has to stand here"},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"match\": \"host "
     "x\"}]}",
     "x.rules: rules[0].match: 'x' is no word of pcap filters"},
    {"{\"rules\": [{\"action\": \"allow\", \"direction\": \"in\", \"proto\": \"gre\", "
     "\"port\": 1}]}",
     "x.rules: rules[0]: only tcp and udp have ports"},
    {"{\"rules\": [], \"rules\": []}", "x.rules:1:"},
};

static void what_is_wrong_is_told_with_its_place(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(firewall_parse(bad[i].text, "x.rules", &error));
        g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
        if (!g_str_has_prefix(error->message, bad[i].says))
            g_error("'%s' says '%s', not '%s'", bad[i].text, error->message, bad[i].says);
    }
}

/* Left as it is written, right as it is said again. */
static const struct {
    const char *text, *canonical;
} good[] = {
    {"allow in", "allow in"},
    {"allow  in\ttcp   # web", "allow in tcp"},
    {"allow in log from any tcp", "allow in tcp log"},
    {"deny out to 10.0.0.0/8,fd00::/8", "deny out to 10.0.0.0/8, fd00::/8"},
    {"allow in from 10.0.0.1/32, any", "allow in"},
    {"allow in tcp port 22,80-80 , 100-200", "allow in tcp port 22, 80, 100-200"},
    {"allow in port 53 from-port 1-2 udp from vm web, group a.b, net n",
     "allow in udp from vm web, group a.b, net n port 53 from-port 1-2"},
    {"allow in from vm \"a b\", vm \"q\\\"\\\\\", vm \"plain\", vm vm",
     "allow in from vm \"a b\", vm \"q\\\"\\\\\", vm plain, vm vm"},
    {"allow out to name *.Example.ORG., name x_1.org", "allow out to name *.example.org, "
                                                       "name x_1.org"},
    {"allow in proto 6", "allow in tcp"},
    {"allow in proto icmp", "allow in icmp"},
    {"allow in proto 112", "allow in proto 112"},
    {"allow in proto 1 type 8", "allow in icmp4 type echo-request"},
    {"allow in icmp6 type 128, 200", "allow in icmp6 type echo-request, 200"},
    {"allow in icmp type echo-reply,unreachable", "allow in icmp type echo-reply, "
                                                  "unreachable"},
    {"deny in match \"tcp port 80\" log", "deny in match \"tcp port 80\" log"},
    {"deny in match \"ip proto \\\\tcp\"", "deny in match \"ip proto \\\\tcp\""},
};

static char *through_json(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall) fw = firewall_parse(text, "x.rules", &error);
    g_assert_no_error(error);
    json_t *json = firewall_to_json(fw);
    char *dump = json_dumps(json, 0);
    g_autoptr(Firewall) again = firewall_parse(dump, "x.json", &error);

    g_assert_no_error(error);
    free(dump);
    json_decref(json);
    return firewall_text(again);
}

static void text_and_json_say_the_same(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autofree char *expect = g_strdup_printf(
            "default in deny\ndefault out deny\n%s\n", good[i].canonical);
        g_autoptr(GError) error = NULL;
        g_autoptr(Firewall) fw = firewall_parse(good[i].text, "x.rules", &error);
        g_assert_no_error(error);
        g_autofree char *text = firewall_text(fw), *json = through_json(good[i].text),
                        *twice = through_json(text);

        g_assert_cmpstr(text, ==, expect);
        g_assert_cmpstr(json, ==, expect);
        g_assert_cmpstr(twice, ==, expect);
    }
    g_autofree char *defaults = through_json("default out allow log\ndefault in deny");
    g_assert_cmpstr(defaults, ==, "default in deny\ndefault out allow log\n");
}

static void json_may_be_short(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall) fw = firewall_parse(
        " {\"default\": {\"in\": {\"action\": \"allow\", \"log\": true}},\n"
        "  \"rules\": [{\"action\": \"deny\", \"direction\": \"in\", \"proto\": 6,\n"
        "   \"from\": \"vm web, 10.0.0.1\", \"to\": [\"group x\", \"fd00::/64\"],\n"
        "   \"port\": 22, \"from-port\": [1, \"2-3\"], \"log\": false, \"packets\": 7}]}",
        "x.json", &error);
    g_assert_no_error(error);
    g_autofree char *text = firewall_text(fw);

    g_assert_cmpstr(text, ==,
                    "default in allow log\ndefault out deny\n"
                    "deny in tcp from vm web, 10.0.0.1 to group x, fd00::/64 port 22 "
                    "from-port 1, 2-3\n");
}

static void lists_and_sets_have_a_bound(void)
{
    GString *text = g_string_new("allow in tcp port 1");
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 255; i++)
        g_string_append(text, ", 1");
    g_autoptr(Firewall) fw = firewall_parse(text->str, "x", &error);
    g_assert_no_error(error);
    g_assert_nonnull(fw);
    g_string_append(text, ", 2");
    g_assert_null(firewall_parse(text->str, "x", &error));
    g_assert_nonnull(strstr(error->message, "256 items at most"));
    g_clear_error(&error);

    g_string_truncate(text, 0);
    for (unsigned i = 0; i < 4096; i++)
        g_string_append(text, "allow in\n");
    g_autoptr(Firewall) many = firewall_parse(text->str, "x", &error);
    g_assert_cmpuint(many->rules->len, ==, 4096);
    g_assert_null(firewall_with(many, 0, "allow in", &error));
    g_clear_error(&error);
    g_string_append(text, "allow out");
    g_assert_null(firewall_parse(text->str, "x", &error));
    g_assert_cmpstr(error->message, ==, "x:4097:1: a set has 4096 rules at most");
    g_clear_error(&error);

    g_string_truncate(text, 0);
    for (unsigned i = 0; i < 65; i++)
        g_string_append(text, "allow in match \"ip\"\n");
    g_assert_null(firewall_parse(text->str, "x", &error));
    g_assert_cmpstr(error->message, ==,
                    "x:65:1: a set has 64 rules with 'match' at most");
    g_string_free(text, TRUE);
}

static void rules_are_put_between_and_taken_away(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Firewall) fw = firewall_parse("allow in tcp\nallow in udp", "x", &error);
    g_autoptr(Firewall) more = firewall_with(fw, 1, "deny in gre", &error);
    g_assert_no_error(error);
    g_autoptr(Firewall) last = firewall_with(more, UINT_MAX, "deny in esp", &error);
    g_autoptr(Firewall) open = firewall_with(last, UINT_MAX, "default in allow", &error);
    g_autoptr(Firewall) less = firewall_without(open, 0, &error);
    g_assert_no_error(error);
    g_autofree char *text = firewall_text(less), *old = firewall_text(fw);

    g_assert_cmpstr(text, ==,
                    "default in allow\ndefault out deny\n"
                    "deny in gre\nallow in udp\ndeny in esp\n");
    g_assert_cmpstr(old, ==,
                    "default in deny\ndefault out deny\nallow in tcp\nallow in udp\n");
    g_assert_null(firewall_without(fw, 2, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_null(firewall_with(fw, 3, "allow in", &error));
    g_clear_error(&error);
    g_assert_null(firewall_with(fw, 0, "allow it", &error));
    g_assert_true(g_str_has_prefix(error->message, "rule:1:7: 'it' stands"));
    g_clear_error(&error);
    g_assert_null(firewall_with(fw, 0, "allow in\nallow out", &error));
    g_clear_error(&error);
    g_assert_null(firewall_with(fw, 0, "", &error));
    g_assert_nonnull(strstr(error->message, "the end of the line stands where"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/parse/" #name, name)
    ADD(what_is_wrong_is_told_with_its_place);
    ADD(text_and_json_say_the_same);
    ADD(json_may_be_short);
    ADD(lists_and_sets_have_a_bound);
    ADD(rules_are_put_between_and_taken_away);
    return g_test_run();
}
