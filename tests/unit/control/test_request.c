/* Messages and their replies, without a socket. */
#include "src/control/request.h"

#include <string.h>

#include "tests/unit/control/test_tables.h"

enum { FRESH = 1, READONLY = 2 };

static json_t *ask(const char *text, unsigned how)
{
    static const bool ending;
    static const ControlCall context = {.ending = &ending};
    RequestRights rights = {!(how & FRESH), how & READONLY};
    Request *r = request_new(text, strlen(text), rights, &context);
    json_t *reply;

    if (!r->reply)
        request_run(r);
    reply = json_incref(r->reply);
    g_assert_nonnull(reply);
    request_free(r);
    return reply;
}

static void answers_as(const char *text, unsigned how, const char *expected)
{
    json_t *reply = ask(text, how), *wanted = json_loads(expected, 0, NULL);

    g_assert_nonnull(wanted);
    if (!json_equal(reply, wanted)) {
        char *got = json_dumps(reply, 0);

        g_error("%s: got %s, not %s", text, got, expected);
    }
    json_decref(reply);
    json_decref(wanted);
}

static void answers(const char *text, const char *expected)
{
    answers_as(text, 0, expected);
}

static void refused_as(const char *text, unsigned how, const char *class, const char *why)
{
    json_t *reply = ask(text, how);
    const char *got_class, *desc;

    g_assert_cmpint(
        json_unpack(reply, "{s:{s:s, s:s}}", "error", "class", &got_class, "desc", &desc),
        ==, 0);
    g_assert_cmpstr(got_class, ==, class);
    if (!strstr(desc, why))
        g_error("%s: refused with \"%s\", not \"%s\"", text, desc, why);
    json_decref(reply);
}

static void refused(const char *text, const char *class, const char *why)
{
    refused_as(text, 0, class, why);
}

#define GENERIC "GenericError"

static void arguments_are_checked_and_filled_in(void)
{
    answers("{\"execute\":\"echo\",\"arguments\":{\"text\":\"x\"}}",
            "{\"return\":{\"text\":\"x\",\"number\":7,\"flag\":false,\"kind\":\"one\","
            "\"any\":null}}");
    answers("{\"arguments\":{\"text\":\"\",\"number\":9,\"flag\":true,\"kind\":\"two\","
            "\"any\":{\"a\":[1]}},\"execute\":\"echo\"}",
            "{\"return\":{\"text\":\"\",\"number\":9,\"flag\":true,\"kind\":\"two\","
            "\"any\":{\"a\":[1]}}}");
    refused("{\"execute\":\"echo\"}", GENERIC, "'text' is missing");
    refused("{\"execute\":\"echo\",\"arguments\":{\"text\":1}}", GENERIC,
            "text: a string is wanted here, not a number");
    refused("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"flag\":\"on\"}}",
            GENERIC, "flag: true or false");
    refused("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"number\":101}}",
            GENERIC, "number: 101 is too much");
    refused("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"number\":-1}}", GENERIC,
            "number");
    refused("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"kind\":\"x\"}}",
            GENERIC, "none of: one, two");
    refused("{\"execute\":\"echo\",\"arguments\":{\"tex\":\"\"}}", GENERIC,
            "did you mean 'text'");
    refused("{\"execute\":\"echo\",\"arguments\":[]}", GENERIC, "must be an object");
    refused("{\"execute\":\"busy\",\"arguments\":{\"x\":1}}", GENERIC,
            "takes no argument 'x'");
    answers("{\"execute\":\"tell-not\",\"id\":1}",
            "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"there is no command "
            "'tell-not'\"},\"id\":1}");
}

static void the_id_comes_back_whatever_it_is(void)
{
    static const char *const ids[] = {"1",  "\"a\"", "null", "{\"x\":[1,2]}",
                                      "[]", "-1.5"};

    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *ok = g_strdup_printf("{\"execute\":\"busy\",\"id\":%s}", ids[i]);
        g_autofree char *bad = g_strdup_printf("{\"id\":%s,\"foo\":1}", ids[i]);
        g_autofree char *reply = g_strdup_printf("{\"error\":{\"class\":\"GenericError\","
                                                 "\"desc\":\"a job has it\"},\"id\":%s}",
                                                 ids[i]);
        g_autofree char *refusal = g_strdup_printf(
            "{\"error\":{\"class\":\"GenericError\",\"desc\":\"a message has no member "
            "'foo'\"},\"id\":%s}",
            ids[i]);

        answers(ok, reply);
        answers(bad, refusal);
    }
}

static void what_is_no_message_is_refused(void)
{
    refused("5", GENERIC, "an object");
    refused("[]", GENERIC, "an object");
    refused("null", GENERIC, "an object");
    refused("{]", GENERIC, "JSON");
    refused("{\"execute\":\"busy\",\"execute\":\"busy\"}", GENERIC, "JSON: duplicate");
    refused("{\"execute\":\"\xc3(\"}", GENERIC, "JSON");
    refused("{\"execute\":\"bu\\u0000sy\"}", GENERIC, "JSON");
    refused("{\"execute\":\"echo\",\"id\":123456789012345678901234567890}", GENERIC,
            "JSON");
    refused("{}", GENERIC, "'execute' is missing");
    refused("{\"execute\":1}", GENERIC, "'execute' is missing");
    refused("{\"exec-oob\":\"busy\",\"id\":1}", GENERIC, "'oob', which is not offered");
    refused("{\"execute\":\"busy\",\"control\":{}}", GENERIC, "no member 'control'");
}

static void failures_have_qmps_classes_and_valid_text(void)
{
    refused("{\"execute\":\"no-device\"}", "DeviceNotFound", "no disk '\xef\xbf\xbd'");
    refused("{\"execute\":\"busy\"}", GENERIC, "a job has it");
    refused("{\"execute\":\"nothing\"}", GENERIC, "nothing: the reply");
    refused("{\"execute\":\"never\"}", "CommandNotFound", "for a reason");
    refused(
        "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"x\"}}",
        "CommandNotFound", "no monitor for people");
}

static void nothing_but_qmp_capabilities_comes_first_and_only_first(void)
{
    static const char capabilities[] = "{\"execute\":\"qmp_capabilities\"}";

    refused_as("{\"execute\":\"busy\"}", FRESH, "CommandNotFound", "qmp_capabilities");
    answers_as(capabilities, FRESH, "{\"return\":{}}");
    answers_as("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}", FRESH,
               "{\"return\":{}}");
    refused(capabilities, "CommandNotFound", "already");
    refused_as("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
               FRESH, GENERIC, "'oob' is not offered");
}

static void a_read_only_client_may_only_ask(void)
{
    refused_as("{\"execute\":\"busy\"}", READONLY, GENERIC, "read-only");
    refused_as("{\"execute\":\"sleep\"}", READONLY, GENERIC, "read-only");
    answers_as("{\"execute\":\"qmp_capabilities\"}", READONLY | FRESH, "{\"return\":{}}");
    answers_as("{\"execute\":\"echo\",\"arguments\":{\"text\":\"x\"}}", READONLY,
               "{\"return\":{\"text\":\"x\",\"number\":7,\"flag\":false,\"kind\":\"one\","
               "\"any\":null}}");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/control/request/" #name, name)
    TEST(arguments_are_checked_and_filled_in);
    TEST(the_id_comes_back_whatever_it_is);
    TEST(what_is_no_message_is_refused);
    TEST(failures_have_qmps_classes_and_valid_text);
    TEST(nothing_but_qmp_capabilities_comes_first_and_only_first);
    TEST(a_read_only_client_may_only_ask);
    return g_test_run();
}
