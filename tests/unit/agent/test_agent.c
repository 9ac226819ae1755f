/* Exchanges with a guest's agent that answers, lies, stalls, floods or hangs up. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "control/place.h"
#include "fake.h"
#include "util/ioloop.h"

enum { LIMIT_MS = 5000, SHORT_MS = 300 };

static Agent *connect_to(Fake *f, int limit_ms)
{
    g_autoptr(GError) error = NULL;
    Agent *a = agent_connect(fake_path(f), limit_ms, &error);

    g_assert_no_error(error);
    return a;
}

static void an_agent_is_asked_and_answers(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    g_autoptr(Agent) a = connect_to(f, LIMIT_MS);
    json_t *answer = agent_call(a, "guest-ping", NULL, NULL);

    g_assert_true(json_is_object(answer));
    json_decref(answer);
    g_assert_true(agent_can(a, "guest-exec"));
    g_assert_false(agent_can(a, "guest-shutdown"));
    g_assert_cmpuint(fake_count(f, "guest-sync-delimited"), ==, 1);
}

static void a_refusal_is_the_agents_reason_made_printable(void)
{
    static const FakeLie lies[] = {
        {"guest-ping", FAKE_SAY,
         "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no \\u001b[31m\\nway\"}}"},
        {0}};
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(Agent) a = connect_to(f, LIMIT_MS);
    g_autoptr(GError) error = NULL;

    g_assert_null(agent_call(a, "guest-ping", NULL, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "no  [31m way"));
    g_assert_null(strchr(error->message, '\n'));
}

static void without_a_vm_or_a_port_nothing_is_connected(void)
{
    g_autofree char *runtime = g_dir_make_tmp("hutch-agent-XXXXXX", NULL);
    g_autofree char *parent = g_build_filename(runtime, "hutch", NULL);
    g_autoptr(GError) error = NULL;
    Place place = {0};

    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    g_assert_null(agent_connect("vm1", LIMIT_MS, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "no VM named 'vm1'"));
    g_clear_error(&error);
    g_assert_true(place_claim(&place, "vm1", NULL));
    g_assert_null(agent_connect("vm1", LIMIT_MS, &error));
    g_assert_nonnull(strstr(error->message, "--agent"));
    g_clear_error(&error);
    g_assert_true(place_write(&place, PLACE_RESULT, "{}", NULL));
    place_keep(&place);
    g_assert_null(agent_connect("vm1", LIMIT_MS, &error));
    g_assert_nonnull(strstr(error->message, "has ended"));
    g_assert_true(place_claim(&place, "vm1", NULL));
    place_release(&place);
    rmdir(parent);
    g_assert_cmpint(rmdir(runtime), ==, 0);
}

/* ---- an agent that does not follow the rules ------------------------------------------
 */

static void expect_connect_failure(const FakeLie *lies, const char *words)
{
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(GError) error = NULL;
    int64_t began_ns = clock_ns();

    g_assert_null(agent_connect(fake_path(f), SHORT_MS, &error));
    g_assert_nonnull(error);
    if (!strstr(error->message, words))
        g_error("'%s' is not in: %s", words, error->message);
    g_assert_cmpint(clock_ns() - began_ns, <, 10ll * SHORT_MS * 1000000);
}

static void who_never_gets_in_step_costs_the_time_limit(void)
{
    static const FakeLie lies[][2] = {
        {{"guest-sync-delimited", FAKE_SILENT}},
        {{"guest-sync-delimited", FAKE_SAY, "\xff{\"return\":4711}"}},
        {{"guest-sync-delimited", FAKE_SAY, "\xff{\"return\":\"x\"}"}},
        {{"guest-sync-delimited", FAKE_SAY, "{\"return\":1}"}},
        {{"guest-sync-delimited", FAKE_SAY, "\xff\xff\xff nonsense"}},
        {{"guest-sync-delimited", FAKE_HALF, "\xff{\"return\":"}},
        {{"guest-sync-delimited", FAKE_FLOOD, "{\"return\":1}\n"}},
        {{"guest-sync-delimited", FAKE_FLOOD, "\xff{}\n"}},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++)
        expect_connect_failure(lies[i], "does not answer");
}

static void who_hangs_up_has_ended(void)
{
    static const FakeLie lies[] = {{"guest-sync-delimited", FAKE_CLOSE}, {0}};

    expect_connect_failure(lies, "does not run any more");
}

static void expect_call_failure(const FakeLie *lies, int limit_ms, const char *words)
{
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(Agent) a = connect_to(f, limit_ms);
    g_autoptr(GError) error = NULL;
    json_t *answer = agent_call(a, "guest-ping", NULL, &error);

    g_assert_null(answer);
    if (!strstr(error->message, words))
        g_error("'%s' is not in: %s", words, error->message);
}

static void an_answer_that_is_none_is_refused(void)
{
    static const FakeLie lies[][2] = {
        {{"guest-ping", FAKE_SAY, "nonsense"}},
        {{"guest-ping", FAKE_SAY, "[]"}},
        {{"guest-ping", FAKE_SAY, "{}"}},
        {{"guest-ping", FAKE_SAY, "{\"error\":\"no\"}"}},
        {{"guest-ping", FAKE_SAY, "{\"return\":{}"}},
        {{"guest-ping", FAKE_SAY, ""}},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++)
        expect_call_failure(lies[i], LIMIT_MS, "what is no answer");
}

static void an_answer_nested_without_end_is_refused(void)
{
    g_autofree char *deep = g_strnfill(1000 * 1000, '[');
    g_autofree char *text = g_strconcat("{\"return\":", deep, NULL);
    const FakeLie lies[] = {{"guest-ping", FAKE_SAY, text}, {0}};

    expect_call_failure(lies, LIMIT_MS, "what is no answer");
}

/* 3 bytes of text each, and 240 of memory. */
static void an_answer_of_too_many_values_is_refused(void)
{
    GString *text = g_string_new("{\"return\":[{}");
    const FakeLie *lies;

    for (unsigned i = 0; i < 100 * 1000; i++)
        g_string_append(text, ",{}");
    g_string_append(text, "]}");
    lies = (const FakeLie[]){{"guest-ping", FAKE_SAY, text->str}, {0}};
    expect_call_failure(lies, LIMIT_MS, "what is no answer");
    g_string_free(text, TRUE);
}

static void half_an_answer_costs_the_time_limit(void)
{
    static const FakeLie lies[] = {{"guest-ping", FAKE_HALF, "{\"return\":{}}"}, {0}};

    expect_call_failure(lies, SHORT_MS, "does not answer");
}

static void a_flood_without_a_line_is_cut_off(void)
{
    g_autofree char *much = g_strnfill(1000 * 1000, '1');
    const FakeLie lies[] = {{"guest-ping", FAKE_FLOOD, much}, {0}};

    expect_call_failure(lies, 60 * 1000, "without an end");
}

static void after_a_late_answer_the_next_call_is_in_step(void)
{
    static const FakeLie lies[] = {{"guest-ping", FAKE_HALF, "{\"return\":{\"late\":"},
                                   {0}};
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(Agent) a = connect_to(f, SHORT_MS);

    g_assert_null(agent_call(a, "guest-ping", NULL, NULL));
    g_assert_true(agent_can(a, "guest-exec"));
    g_assert_cmpuint(fake_count(f, "guest-sync-delimited"), ==, 2);
}

/* ---- turns ----------------------------------------------------------------------------
 */

static void *ping_often(void *opaque)
{
    Fake *f = opaque;
    g_autoptr(Agent) a = connect_to(f, 4 * LIMIT_MS);

    for (unsigned i = 0; i < 20; i++) {
        json_t *answer = agent_call(a, "guest-ping", NULL, NULL);

        g_assert_nonnull(answer);
        json_decref(answer);
        agent_sleep(a, 1);
    }
    return NULL;
}

/* The fake serves one client at a time, as the monitor does. */
static void several_take_turns(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    pthread_t threads[4];

    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, ping_often, f), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        pthread_join(threads[i], NULL);
    g_assert_cmpuint(fake_count(f, "guest-ping"), ==, 80);
}

static void who_keeps_the_agent_makes_others_fail_in_time(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    g_autoptr(Agent) holder = connect_to(f, LIMIT_MS);
    g_autoptr(GError) error = NULL;

    g_assert_null(agent_connect(fake_path(f), SHORT_MS, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_assert_nonnull(strstr(error->message, "another process"));
    agent_release(holder);
    agent_free(connect_to(f, LIMIT_MS));
}

/* ---- the small ones -------------------------------------------------------------------
 */

static void only_wellformed_addresses_are_passed_on(void)
{
    static const FakeLie lies[] = {
        {"guest-network-get-interfaces", FAKE_SAY,
         "{\"return\":[7,{\"name\":\"e\\u001bth0\",\"hardware-address\":"
         "\"52:54:00:12:34:56\",\"ip-addresses\":[{\"ip-address\":\"10.0.2.15\","
         "\"prefix\":24},{\"ip-address\":\"fe80::1\",\"prefix\":64},{\"ip-address\":"
         "\"1.2.3.4; reboot\",\"prefix\":8},{\"ip-address\":\"10.0.0.1\",\"prefix\":33},"
         "{\"ip-address\":5}]}]}"},
        {0}};
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(Agent) a = connect_to(f, LIMIT_MS);
    json_t *all = agent_addresses(a, NULL), *eth = json_array_get(all, 1);
    json_t *addresses = json_object_get(eth, "addresses");

    g_assert_cmpuint(json_array_size(all), ==, 2);
    g_assert_cmpstr(json_string_value(json_object_get(eth, "name")), ==, "e th0");
    g_assert_cmpuint(json_array_size(addresses), ==, 2);
    g_assert_cmpstr(json_string_value(json_array_get(addresses, 0)), ==, "10.0.2.15/24");
    g_assert_cmpstr(json_string_value(json_array_get(addresses, 1)), ==, "fe80::1/64");
    json_decref(all);
}

static void a_frozen_guest_is_nobody_elses_until_it_is_thawed(void)
{
    static const FakeLie lies[] = {{"guest-fsfreeze-freeze", FAKE_SAY, "{\"return\":2}"},
                                   {"guest-fsfreeze-thaw", FAKE_SAY, "{\"return\":2}"},
                                   {0}};
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(Agent) a = connect_to(f, LIMIT_MS);
    unsigned n = 0;

    g_assert_true(agent_freeze(a, &n, NULL));
    g_assert_cmpuint(n, ==, 2);
    agent_release(a);
    g_assert_null(agent_connect(fake_path(f), SHORT_MS, NULL));
    g_assert_true(agent_thaw(a, NULL, NULL));
    agent_release(a);
    agent_free(connect_to(f, LIMIT_MS));
}

static void lies_about_file_systems_and_the_clock_are_refused(void)
{
    static const FakeLie lies[] = {
        {"guest-fsfreeze-freeze", FAKE_SAY, "{\"return\":-1}"},
        {"guest-get-time", FAKE_SAY, "{\"return\":1}"},
        {"guest-network-get-interfaces", FAKE_SAY, "{\"return\":{}}"},
        {0}};
    g_autoptr(Fake) f = fake_new(lies);
    g_autoptr(Agent) a = connect_to(f, LIMIT_MS);

    g_assert_false(agent_freeze(a, NULL, NULL));
    g_assert_false(agent_set_clock(a, NULL));
    g_assert_null(agent_addresses(a, NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/agent/" #name, name)
    ADD(an_agent_is_asked_and_answers);
    ADD(a_refusal_is_the_agents_reason_made_printable);
    ADD(without_a_vm_or_a_port_nothing_is_connected);
    ADD(who_never_gets_in_step_costs_the_time_limit);
    ADD(who_hangs_up_has_ended);
    ADD(an_answer_that_is_none_is_refused);
    ADD(an_answer_nested_without_end_is_refused);
    ADD(an_answer_of_too_many_values_is_refused);
    ADD(half_an_answer_costs_the_time_limit);
    ADD(a_flood_without_a_line_is_cut_off);
    ADD(after_a_late_answer_the_next_call_is_in_step);
    ADD(several_take_turns);
    ADD(who_keeps_the_agent_makes_others_fail_in_time);
    ADD(only_wellformed_addresses_are_passed_on);
    ADD(a_frozen_guest_is_nobody_elses_until_it_is_thawed);
    ADD(lies_about_file_systems_and_the_clock_are_refused);
    return g_test_run();
}
