/* hutch agent VERB VM: small questions to the agent in a guest. */
#include "src/cli/agent.h"

#include <stdio.h>

typedef struct AgentArgs {
    bool json;
    uint64_t timeout_s;
} AgentArgs;

static const ParamDesc json_desc[] = {{.key = "json",
                                       .type = PARAM_BOOL,
                                       .offset = offsetof(AgentArgs, json),
                                       .help = "print the result as JSON"},
                                      {.key = "timeout",
                                       .letter = 't',
                                       .type = PARAM_UINT,
                                       .offset = offsetof(AgentArgs, timeout_s),
                                       .arg = "SECONDS",
                                       .help = "how long the agent may take to answer",
                                       .def = "10",
                                       .min = 1,
                                       .max = 1000 * 1000},
                                      {0}};
static const ParamTable json_args = {.size = sizeof(AgentArgs), .desc = json_desc};

static Agent *connect_to(const char *vm, const void *options, GError **error)
{
    return agent_connect(vm, (int)((const AgentArgs *)options)->timeout_s * 1000, error);
}

static bool is_json(const void *options)
{
    return ((const AgentArgs *)options)->json;
}

/* ---- ping -----------------------------------------------------------------------------
 */

/* To have connected is the proof. */
static bool act_ping(void *options, char **names, int *status, GError **error)
{
    g_autoptr(Agent) a = connect_to(names[0], options, error);

    if (a && is_json(options))
        cli_print_json(json_pack("{s:b}", "answers", true));
    else if (a)
        puts("the guest agent answers");
    return a != NULL;
}

/* ---- info -----------------------------------------------------------------------------
 */

/* Copies a text of the guest's; what it does not know is left out. */
static void copy_text(json_t *to, const char *name, const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    g_autofree char *shown = text ? agent_text(text) : NULL;

    if (shown)
        json_object_set_new(to, name, json_string(shown));
}

/* The agent's commands that are in use here, and whether each is allowed. */
static json_t *list_allowed(Agent *a)
{
    static const char *const used[] = {
        "guest-exec",
        "guest-file-open",
        "guest-fsfreeze-freeze",
        "guest-set-time",
        "guest-network-get-interfaces",
    };
    json_t *ret = json_object();

    for (unsigned i = 0; i < G_N_ELEMENTS(used); i++)
        json_object_set_new(ret, used[i], json_boolean(agent_can(a, used[i])));
    return ret;
}

static json_t *gather(Agent *a, GError **error)
{
    json_t *info = agent_call(a, "guest-info", NULL, error), *more, *ret;

    if (!info)
        return NULL;
    ret = json_object();
    copy_text(ret, "agent", info, "version");
    json_decref(info);
    more = agent_call(a, "guest-get-osinfo", NULL, NULL); /* some have none */
    copy_text(ret, "system", more, "pretty-name");
    copy_text(ret, "kernel", more, "kernel-release");
    copy_text(ret, "machine", more, "machine");
    json_decref(more);
    more = agent_call(a, "guest-get-host-name", NULL, NULL);
    copy_text(ret, "host-name", more, "host-name");
    json_decref(more);
    json_object_set_new(ret, "allows", list_allowed(a));
    return ret;
}

static void print_info(const json_t *info)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)info, key, value) if (json_is_string(value))
        printf("%-10s %s\n", key, json_string_value(value));
    json_object_foreach(json_object_get(info, "allows"), key, value)
        printf("%-30s %s\n", key, json_is_true(value) ? "allowed" : "not there");
}

static bool act_info(void *options, char **names, int *status, GError **error)
{
    g_autoptr(Agent) a = connect_to(names[0], options, error);
    json_t *info = a ? gather(a, error) : NULL;

    if (info && is_json(options)) {
        cli_print_json(info);
        return true;
    }
    if (info)
        print_info(info);
    json_decref(info);
    return info != NULL;
}

/* ---- addresses ------------------------------------------------------------------------
 */

static void print_interface(const json_t *i)
{
    json_t *address;
    size_t n;

    printf("%-12s %-17s", json_string_value(json_object_get(i, "name")),
           json_is_string(json_object_get(i, "mac"))
               ? json_string_value(json_object_get(i, "mac"))
               : "");
    json_array_foreach(json_object_get(i, "addresses"), n, address)
        printf(" %s", json_string_value(address));
    putchar('\n');
}

static bool act_addresses(void *options, char **names, int *status, GError **error)
{
    g_autoptr(Agent) a = connect_to(names[0], options, error);
    json_t *all = a ? agent_addresses(a, error) : NULL, *one;
    size_t i;

    if (all && is_json(options)) {
        cli_print_json(all);
        return true;
    }
    json_array_foreach(all, i, one) print_interface(one);
    json_decref(all);
    return all != NULL;
}

/* ---- freeze, thaw, set-time -----------------------------------------------------------
 */

typedef bool Counts(Agent *a, unsigned *ret_count, GError **error);

static bool count(Counts *what, const char *word, const void *options, char **names,
                  GError **error)
{
    g_autoptr(Agent) a = connect_to(names[0], options, error);
    unsigned n;

    if (!a || !what(a, &n, error))
        return false;
    if (is_json(options))
        cli_print_json(json_pack("{s:i}", "file-systems", (int)n));
    else
        printf("%u file system%s %s\n", n, n == 1 ? "" : "s", word);
    return true;
}

static bool act_freeze(void *options, char **names, int *status, GError **error)
{
    return count(agent_freeze, "frozen", options, names, error);
}

static bool act_thaw(void *options, char **names, int *status, GError **error)
{
    return count(agent_thaw, "thawed", options, names, error);
}

static bool act_set_time(void *options, char **names, int *status, GError **error)
{
    g_autoptr(Agent) a = connect_to(names[0], options, error);

    if (!a || !agent_set_clock(a, error))
        return false;
    if (is_json(options))
        cli_print_json(json_object());
    return true;
}

#define VERB(name_, help_, act_)                                                         \
    {                                                                                    \
        .name = name_, .args = "VM", .help = help_, .names = NAMES_VMS, .act = act_,     \
        .params = &json_args, .min_names = 1, .max_names = 1                             \
    }

const Verb agent_verbs[] = {
    VERB("ping", "ask the agent for a sign of life", act_ping),
    VERB("info", "show what the guest is and what its agent allows", act_info),
    VERB("addresses", "show the guest's network addresses", act_addresses),
    VERB("freeze", "stop writes to the guest's file systems, consistent on disk",
         act_freeze),
    VERB("thaw", "let the guest write again", act_thaw),
    VERB("set-time", "set the guest's clock to the host's", act_set_time),
    {0},
};
