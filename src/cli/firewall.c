/* hutch firewall: the verbs there, and rules as files and as a switch has them.
 *
 * A target is NETWORK, whose rules are for all of its VMs, or NETWORK/VM[:NIC].  What is
 * set is parsed here first, so that its sentence names the file and the line; a switch
 * that runs takes it at once for all packets, and stores it.  A network that is down has
 * its rules in a file (NETWORK_RULES), which is then read and written here. */
#include "firewall/firewall.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "network/place.h"
#include "src/cli/firewall.h"
#include "src/cli/net.h"
#include "util/json.h"

const char firewall_about[] =
    "TARGET is a network, whose rules hold for all that is on it, or NETWORK/VM[:NIC], a "
    "port of it: a packet has to pass both.  Rules are in docs/firewall.md.";

#define FIREWALL_ROW(key_, letter_, type_, member_, ...)                                 \
    {                                                                                    \
        .key = key_, .letter = letter_, .type = type_,                                   \
        .offset = offsetof(FirewallArgs, member_), ##__VA_ARGS__                         \
    }
#define FIREWALL_JSON                                                                    \
    FIREWALL_ROW("json", 0, PARAM_BOOL, json, .help = "print the result as JSON")
#define FIREWALL_TABLE(name_, ...)                                                       \
    static const ParamTable name_ = {                                                    \
        .size = sizeof(FirewallArgs),                                                    \
        .desc = (const ParamDesc[]){__VA_ARGS__, {0}},                                   \
    }

FIREWALL_TABLE(json_args, FIREWALL_JSON);
FIREWALL_TABLE(show_args,
               FIREWALL_ROW("text", 't', PARAM_BOOL, text,
                            .help = "as 'set' reads it, without numbers and counters"),
               FIREWALL_JSON);
FIREWALL_TABLE(set_args, FIREWALL_ROW("none", 0, PARAM_BOOL, none,
                                      .help = "take all rules away: everything passes"));
FIREWALL_TABLE(add_args,
               FIREWALL_ROW("at", 0, PARAM_UINT, at, .arg = "N", .min = 1, .max = 1000000,
                            .help = "its number; those from there on move one "
                                    "on; the last if it is not given"));
FIREWALL_TABLE(rm_args, {0});
FIREWALL_TABLE(log_args,
               FIREWALL_ROW("follow", 'f', PARAM_BOOL, follow,
                            .help = "go on, until it is interrupted"),
               FIREWALL_JSON);

static const ExitStatus test_statuses[] = {
    {"0", "The packet passes."},
    {"1", "The packet is denied or rejected."},
    {"125", "It could not be found out; a sentence on standard error says why."},
    {0},
};

const Verb firewall_verbs[] = {
    {.name = "show",
     .args = "TARGET",
     .help = "list rules, with their numbers and what they counted",
     .names = NAMES_NETWORKS,
     .act = firewall_act_show,
     .params = &show_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "set",
     .args = "TARGET FILE|-|--none",
     .help = "exchange all rules, in one step",
     .names = NAMES_NETWORKS_AND_FILES,
     .act = firewall_act_set,
     .params = &set_args,
     .min_names = 1,
     .max_names = 2,
     .about = "Connections that the new rules allow go on."},
    {.name = "add",
     .args = "TARGET RULE",
     .help = "add a rule",
     .names = NAMES_NETWORKS,
     .act = firewall_act_add,
     .params = &add_args,
     .min_names = 2,
     .max_names = 2,
     .about = "RULE is a line of a file of rules: hutch firewall add blue 'allow in tcp "
              "port 22'.  Where there were no rules, all else is denied from then on."},
    {.name = "rm",
     .args = "TARGET N",
     .help = "remove the rule that has this number in 'show'",
     .names = NAMES_NETWORKS,
     .act = firewall_act_rm,
     .params = &rm_args,
     .min_names = 2,
     .max_names = 2},
    {.name = "test",
     .args = "TARGET in|out PROTOCOL [from|to ADDRESS]... [[from-]port N]...",
     .help = "tell which rule decides about a packet",
     .names = NAMES_NETWORKS,
     .act = firewall_act_test,
     .params = &json_args,
     .min_names = 3,
     .max_names = 12,
     .about = firewall_test_about,
     .statuses = test_statuses},
    {.name = "log",
     .args = "TARGET",
     .help = "print what rules with 'log' have seen",
     .names = NAMES_NETWORKS,
     .act = firewall_act_log,
     .params = &log_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "check",
     .args = "FILE|-",
     .help = "parse rules, and nothing else",
     .names = NAMES_FILES,
     .act = firewall_act_check,
     .params = &json_args,
     .min_names = 1,
     .max_names = 1},
    {0},
};

/* ---- files ----------------------------------------------------------------------------
 */

enum { MAX_RULES = 1 << 20 };

/* A new string; "-" is standard input. */
static char *read_text(const char *path, GError **error)
{
    FILE *f = g_str_equal(path, "-") ? stdin : fopen(path, "re");
    g_autofree char *text = f ? g_malloc(MAX_RULES + 1) : NULL;
    size_t n = f ? fread(text, 1, MAX_RULES + 1, f) : 0;
    bool ok = f && !ferror(f);

    if (!ok)
        fail_errno(error, "read '%s'", path);
    if (f && f != stdin)
        fclose(f);
    if (ok && n > MAX_RULES)
        ok = fail(error, VM_ERROR_INVALID, "'%s' has more than %d bytes", path,
                  MAX_RULES);
    if (!ok)
        return NULL;
    text[n] = 0;
    if (strlen(text) == n)
        return g_steal_pointer(&text);
    fail(error, VM_ERROR_INVALID, "'%s' is no text", path);
    return NULL;
}

bool firewall_load(const NetTarget *t, Firewall **ret, GError **error)
{
    g_autofree char *path = network_file(t->network, NETWORK_RULES);
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;

    *ret = NULL;
    if (t->vm)
        return fail(error, VM_ERROR_BUSY,
                    "network '%s' is down, and rules of a VM are with the VM: 'hutch run "
                    "--net %s,firewall=FILE' gives them to it",
                    t->network, t->network);
    if (!g_file_get_contents(path, &text, NULL, &why)) {
        if (g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT))
            return true;
        return fail(error, VM_ERROR_IO, "%s", why->message);
    }
    *ret = firewall_parse(text, path, error);
    return *ret != NULL;
}

static bool store(const NetTarget *t, const Firewall *fw, GError **error)
{
    g_autofree char *text = fw ? firewall_text(fw) : NULL;

    return network_write(t->network, NETWORK_RULES, text, error);
}

/* ---- show -----------------------------------------------------------------------------
 */

/* {"text", "json"}, as a switch says it; a new reference. */
static json_t *reply_of(const Firewall *fw)
{
    g_autofree char *text = fw ? firewall_text(fw) : NULL;

    return json_pack("{s:s?, s:o}", "text", text, "json",
                     fw ? firewall_to_json(fw) : json_null());
}

static json_t *current(const NetTarget *t, GError **error)
{
    g_autoptr(Firewall) fw = NULL;

    if (network_is_up(t->network))
        return network_call(t->network, false, "firewall-show", net_arguments(t), error);
    return firewall_load(t, &fw, error) ? reply_of(fw) : NULL;
}

static const NetColumn rule_columns[] = {
    {"N", "number", true},
    {"PACKETS", "packets", true},
    {"BYTES", "bytes", true},
    {"RULE", "text"},
    {0},
};

/* A set's text is its two defaults, then a line a rule; its JSON has the counters. */
static void print_rules(const json_t *reply)
{
    const char *text = json_string_value(json_object_get(reply, "text"));
    const json_t *rules = json_object_get(json_object_get(reply, "json"), "rules"), *rule;
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
    json_t *rows = json_array();
    size_t i;

    json_array_foreach(rules, i, rule)
    {
        json_t *row = json_copy((json_t *)rule);

        json_object_set_new(row, "number", json_integer((json_int_t)i + 1));
        if (i + 2 < g_strv_length(lines))
            json_object_set_new(row, "text", json_string(lines[i + 2]));
        json_array_append_new(rows, row);
    }
    if (!text)
        puts("no rules: everything passes");
    else if (json_array_size(rows))
        net_print_rows(rows, rule_columns);
    if (text && g_strv_length(lines) > 1)
        printf("%s\n%s\n", lines[0], lines[1]);
    json_decref(rows);
}

bool firewall_act_show(void *options, char **names, int *status, GError **error)
{
    const FirewallArgs *args = options;
    json_t *reply;
    NetTarget t;

    if (!net_target_parse(names[0], &t, error))
        return false;
    reply = current(&t, error);
    net_target_clear(&t);
    if (!reply)
        return false;
    if (args->json && json_is_object(json_object_get(reply, "json")))
        cli_print_json(json_incref(json_object_get(reply, "json")));
    else if (args->json)
        puts("null");
    else if (args->text)
        fputs(json_get_text(reply, "text"), stdout);
    else
        print_rules(reply);
    json_decref(reply);
    return true;
}

/* ---- change ---------------------------------------------------------------------------
 */

static bool tell_switch(const NetTarget *t, const char *command, json_t *arguments,
                        GError **error)
{
    json_t *reply = network_call(t->network, false, command, arguments, error);

    json_decref(reply);
    return reply != NULL;
}

static bool set(const NetTarget *t, const char *path, GError **error)
{
    g_autofree char *text = path ? read_text(path, error) : NULL;
    g_autoptr(Firewall) fw = text ? firewall_parse(text, path, error) : NULL;
    g_autoptr(Firewall) old = NULL;
    json_t *arguments;

    if (path && !fw)
        return false;
    if (!network_is_up(t->network)) {
        if (t->vm)
            return firewall_load(t, &old, error); /* which says why not */
        return network_write(t->network, NETWORK_RULES, text, error);
    }
    arguments = net_arguments(t);
    json_object_set_new(arguments, "text", text ? json_string(text) : json_null());
    return tell_switch(t, "firewall-set", arguments, error);
}

bool firewall_act_set(void *options, char **names, int *status, GError **error)
{
    const FirewallArgs *args = options;
    NetTarget t;
    bool ok;

    if (!names[1] == !args->none)
        return fail(error, VM_ERROR_INVALID,
                    "which rules? Give a file, - for standard input, or --none");
    if (!net_target_parse(names[0], &t, error))
        return false;
    ok = set(&t, names[1], error);
    net_target_clear(&t);
    return ok;
}

/* A rule that comes (rule) or goes, at `at` from 0. */
static bool change(const NetTarget *t, const char *rule, unsigned at, GError **error)
{
    g_autoptr(Firewall) old = NULL, next = NULL;
    json_t *arguments;

    if (network_is_up(t->network)) {
        arguments = net_arguments(t);
        if (rule)
            json_object_set_new(arguments, "rule", json_string(rule));
        if (at != UINT_MAX)
            json_object_set_new(arguments, "at", json_integer(at));
        return tell_switch(t, rule ? "firewall-add" : "firewall-rm", arguments, error);
    }
    if (!firewall_load(t, &old, error))
        return false;
    if (!old && !rule)
        return fail(error, VM_ERROR_NOT_FOUND, "network '%s' has no rules", t->network);
    if (!old)
        old = firewall_parse("", "", error);
    next = rule ? firewall_with(old, at, rule, error) : firewall_without(old, at, error);
    return next && store(t, next, error);
}

bool firewall_act_add(void *options, char **names, int *status, GError **error)
{
    const FirewallArgs *args = options;
    NetTarget t;
    bool ok;

    if (!net_target_parse(names[0], &t, error))
        return false;
    ok = change(&t, names[1], args->at ? (unsigned)args->at - 1 : UINT_MAX, error);
    net_target_clear(&t);
    return ok;
}

bool firewall_act_rm(void *options, char **names, int *status, GError **error)
{
    guint64 n;
    NetTarget t;
    bool ok;

    if (!g_ascii_string_to_unsigned(names[1], 10, 1, 1000000, &n, NULL))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is not a rule's number, which 'hutch firewall show' tells",
                    names[1]);
    if (!net_target_parse(names[0], &t, error))
        return false;
    ok = change(&t, NULL, (unsigned)n - 1, error);
    net_target_clear(&t);
    return ok;
}

bool firewall_act_check(void *options, char **names, int *status, GError **error)
{
    const FirewallArgs *args = options;
    g_autofree char *text = read_text(names[0], error);
    g_autoptr(Firewall) fw = text ? firewall_parse(text, names[0], error) : NULL;

    if (fw && args->json)
        cli_print_json(firewall_to_json(fw));
    return fw != NULL;
}
