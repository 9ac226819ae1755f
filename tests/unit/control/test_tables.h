/* A table of commands for tests, in place of all that hutch has (src/control/tables.c),
 * with the real ones of the protocol, and of what is refused. */
#pragma once

#include <time.h>

#include "control/control.h"

typedef struct EchoArgs {
    char *text, **list;
    uint64_t number;
    bool flag;
    int kind;
    json_t *any;
} EchoArgs;

static const char *const echo_kinds[] = {"one", "two", NULL};
#define ECHO(member) .offset = offsetof(EchoArgs, member), .help = #member
static const ParamTable echo_args = {
    .size = sizeof(EchoArgs),
    .desc =
        (const ParamDesc[]){
            {.key = "text", .type = PARAM_STRING, ECHO(text), .required = true},
            {.key = "list", .type = PARAM_LIST, ECHO(list)},
            {.key = "number", .type = PARAM_UINT, ECHO(number), .def = "7", .max = 100},
            {.key = "flag", .type = PARAM_BOOL, ECHO(flag)},
            {.key = "kind", .type = PARAM_ENUM, ECHO(kind), .choices = echo_kinds},
            {.key = "any", .type = PARAM_JSON, ECHO(any)},
            {0}},
};

static json_t *echo(ControlCall *call, GError **error)
{
    const EchoArgs *args = call->args;

    return json_pack("{s:s, s:I, s:b, s:s, s:O?}", "text", args->text, "number",
                     (json_int_t)args->number, "flag", args->flag, "kind",
                     echo_kinds[args->kind], "any", args->any);
}

static json_t *no_device(ControlCall *call, GError **error)
{
    fail(error, VM_ERROR_NOT_FOUND, "there is no disk '\xff'");
    return NULL;
}

static json_t *busy(ControlCall *call, GError **error)
{
    fail(error, VM_ERROR_BUSY, "a job has it");
    return NULL;
}

static json_t *nothing(ControlCall *call, GError **error)
{
    return NULL;
}

static json_t *big(ControlCall *call, GError **error)
{
    g_autofree char *text = g_strnfill(300000, 'b');

    return json_string(text);
}

static json_t *tell(ControlCall *call, GError **error)
{
    control_event(call->server, "TOLD", json_pack("{s:s}", "by", "main"));
    return json_object();
}

typedef struct SleepArgs {
    uint64_t ms;
} SleepArgs;
static const ParamTable sleep_args = {
    .size = sizeof(SleepArgs),
    .desc = (const ParamDesc[]){{.key = "ms",
                                 .type = PARAM_UINT,
                                 .offset = offsetof(SleepArgs, ms),
                                 .help = "how long"},
                                {0}},
};

static void sleep_ms(uint64_t ms)
{
    nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
}

static pthread_t main_thread;

static void look_where(void *opaque)
{
    *(bool *)opaque = pthread_equal(pthread_self(), main_thread);
}

static json_t *sleep_for(ControlCall *call, GError **error)
{
    const SleepArgs *args = call->args;
    bool on_main = false;

    g_assert_false(pthread_equal(pthread_self(), main_thread));
    sleep_ms(args->ms);
    if (!control_on_main(call, look_where, &on_main, error))
        return NULL;
    g_assert_true(on_main);
    control_event(call->server, "TOLD", json_pack("{s:s}", "by", "sleeper"));
    return json_pack("{s:I}", "slept", (json_int_t)args->ms);
}

/* Until the VM ends. */
static json_t *sleep_on(ControlCall *call, GError **error)
{
    bool on_main;

    while (!__atomic_load_n(call->ending, __ATOMIC_ACQUIRE))
        sleep_ms(1);
    return control_on_main(call, look_where, &on_main, error) ? json_object() : NULL;
}

static const ControlCommand test_commands[] = {
    {"echo", &echo_args, NULL, CONTROL_QUERY, echo},
    {"no-device", NULL, NULL, 0, no_device},
    {"busy", NULL, NULL, 0, busy},
    {"nothing", NULL, NULL, 0, nothing},
    {"big", NULL, NULL, 0, big},
    {"tell", NULL, NULL, 0, tell},
    {"sleep", &sleep_args, NULL, CONTROL_SLEEPS, sleep_for},
    {"sleep-on", NULL, NULL, CONTROL_SLEEPS, sleep_on},
    {.name = "never", .refused = "for a reason"},
    {0},
};

static const ControlTable test_table = {test_commands,
                                        (const ControlEvent[]){{"TOLD"}, {0}}};

const ControlTable *const control_tables[] = {&control_protocol_table,
                                              &control_refused_table, &test_table, NULL};

const ControlCommand *control_command(const char *name)
{
    for (const ControlTable *const *t = control_tables; *t; t++)
        for (const ControlCommand *c = (*t)->commands; c->name; c++)
            if (g_str_equal(c->name, name))
                return c;
    return NULL;
}
