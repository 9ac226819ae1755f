/* Running commands through an agent; this machine is the guest (fake.c). */
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "fake.h"
#include "util/ioloop.h"

enum { LIMIT_MS = 5000 };

/* What a command did. */
typedef struct Outcome {
    bool ok, timed_out;
    int status;
    GString *text[2];
    int64_t first_ns;    /* when its first output came */
    const char *fail_at; /* output() fails when it has seen this */
    GError *error;
} Outcome;

static bool on_output(void *opaque, int fd, const char *data, size_t len, GError **error)
{
    Outcome *o = opaque;

    if (!o->first_ns)
        o->first_ns = clock_ns();
    g_string_append_len(o->text[fd - 1], data, (gssize)len);
    return !o->fail_at || !strstr(o->text[0]->str, o->fail_at) ||
           fail(error, VM_ERROR_IO, "nobody reads it");
}

static void clear(Outcome *o)
{
    g_string_free(o->text[0], TRUE);
    g_string_free(o->text[1], TRUE);
    g_clear_error(&o->error);
}

static void exec_with(Fake *f, Outcome *o, AgentExec x)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Agent) a = agent_connect(fake_path(f), LIMIT_MS, &error);

    g_assert_no_error(error);
    o->text[0] = g_string_new(NULL);
    o->text[1] = g_string_new(NULL);
    x.output = on_output;
    x.opaque = o;
    o->ok = agent_exec(a, &x, &o->status, &o->timed_out, &o->error);
}

#define SH(script_, ...) ((const char *const[]){"sh", "-c", script_, ##__VA_ARGS__, NULL})

static void status_and_both_streams_are_the_commands(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {0};

    exec_with(f, &o, (AgentExec){.argv = SH("echo out; echo err >&2; exit 7")});
    g_assert_no_error(o.error);
    g_assert_cmpint(o.status, ==, 7);
    g_assert_false(o.timed_out);
    g_assert_cmpstr(o.text[0]->str, ==, "out\n");
    g_assert_cmpstr(o.text[1]->str, ==, "err\n");
    g_assert_false(fake_has_folders(f));
    clear(&o);
}

static void output_comes_while_the_command_runs(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    int64_t end_ns;
    Outcome o = {0};

    exec_with(f, &o, (AgentExec){.argv = SH("echo begun; sleep 1; echo done")});
    end_ns = clock_ns();
    g_assert_cmpstr(o.text[0]->str, ==, "begun\ndone\n");
    g_assert_cmpint(end_ns - o.first_ns, >, 400 * 1000000);
    clear(&o);
}

static void arguments_variables_and_folder_arrive_unchanged(void)
{
    static const char *const env[] = {"GREETING=a 'b' \"c\" $d", "PLACE=x=y", NULL};
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {0};

    exec_with(f, &o,
              (AgentExec){.argv = SH("printf '%s|' \"$GREETING\" \"$PLACE\" \"$PWD\" "
                                     "\"$@\"",
                                     "sh", "--", "two words", "", "*"),
                          .env = env,
                          .cwd = "/usr"});
    g_assert_no_error(o.error);
    g_assert_cmpstr(o.text[0]->str, ==, "a 'b' \"c\" $d|x=y|/usr|--|two words||*|");
    clear(&o);
}

static void a_signal_is_128_and_its_number(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {0};

    exec_with(f, &o, (AgentExec){.argv = SH("kill -SEGV $$")});
    g_assert_cmpint(o.status, ==, 128 + 11);
    clear(&o);
}

static void a_missing_program_is_127(void)
{
    static const char *const argv[] = {"hutch-no-such-program", NULL};
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {0};

    exec_with(f, &o, (AgentExec){.argv = argv});
    g_assert_true(o.ok);
    g_assert_cmpint(o.status, ==, 127);
    g_assert_nonnull(strstr(o.text[1]->str, "hutch-no-such-program"));
    clear(&o);
}

/* Both below and above what goes along with the command. */
static void input_of_any_length_reaches_the_command(void)
{
    static const size_t lengths[] = {1, 200 * 1000, 3 * 1000 * 1000};
    g_autoptr(Fake) f = fake_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_autofree char *input = g_malloc(lengths[i]);
        Outcome o = {0};

        for (size_t n = 0; n < lengths[i]; n++)
            input[n] = (char)(n * 7 + n / 251);
        exec_with(f, &o,
                  (AgentExec){.argv = (const char *const[]){"cat", NULL},
                              .input = input,
                              .input_len = lengths[i]});
        g_assert_no_error(o.error);
        g_assert_cmpmem(o.text[0]->str, o.text[0]->len, input, lengths[i]);
        clear(&o);
    }
    g_assert_false(fake_has_folders(f));
}

/* Or nobody has asked for its status yet. */
static bool is_dead(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *stat = NULL;

    return !g_file_get_contents(path, &stat, NULL, NULL) || strstr(stat, ") Z ");
}

static void a_time_limit_ends_the_command_and_its_children(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {0};
    int64_t began_ns = clock_ns();
    pid_t child;

    exec_with(f, &o,
              (AgentExec){.argv = SH("sleep 100 & echo $!; wait"), .timeout_ms = 300});
    g_assert_no_error(o.error);
    g_assert_true(o.timed_out);
    g_assert_cmpint(o.status, ==, 128 + 15);
    g_assert_cmpint(clock_ns() - began_ns, <, 20 * 1000000000ll);
    child = atoi(o.text[0]->str);
    g_assert_cmpint(child, >, 0);
    g_assert_true(is_dead(child));
    clear(&o);
}

static void who_ignores_sigterm_is_killed(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {0};

    exec_with(
        f, &o,
        (AgentExec){.argv = SH("trap '' TERM; echo on; while :; do sleep 0.1; done"),
                    .timeout_ms = 300});
    g_assert_true(o.timed_out);
    g_assert_cmpint(o.status, ==, 128 + 9);
    g_assert_cmpstr(o.text[0]->str, ==, "on\n");
    clear(&o);
}

static void output_that_nobody_takes_ends_the_command(void)
{
    g_autoptr(Fake) f = fake_new(NULL);
    Outcome o = {.fail_at = "tick"};

    exec_with(f, &o, (AgentExec){.argv = SH("while :; do echo tick; sleep 0.1; done")});
    g_assert_false(o.ok);
    g_assert_error(o.error, VM_ERROR, VM_ERROR_IO);
    clear(&o);
}

/* An agent as some distributions set it up. */
static void without_file_commands_output_comes_at_the_end(void)
{
    static const FakeLie lies[] = {
        {"guest-info", FAKE_SAY,
         "{\"return\":{\"version\":\"1\",\"supported_commands\":[{\"name\":"
         "\"guest-file-open\",\"enabled\":false}]}}"},
        {"guest-file-open", FAKE_SAY,
         "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"disabled\"}}"},
        {0}};
    g_autoptr(Fake) f = fake_new(lies);
    Outcome o = {0};

    exec_with(f, &o,
              (AgentExec){.argv = SH("cat; pwd; exit 3"),
                          .cwd = "/usr",
                          .input = "in\n",
                          .input_len = 3});
    g_assert_no_error(o.error);
    g_assert_cmpint(o.status, ==, 3);
    g_assert_cmpstr(o.text[0]->str, ==, "in\n/usr\n");
    g_assert_cmpuint(fake_count(f, "guest-file-open"), ==, 0);
    clear(&o);
}

/* The script's own status for that is 121. */
static void where_tmp_takes_no_folder_it_is_run_once_more_without(void)
{
    static const FakeLie lies[] = {
        {"guest-exec-status", FAKE_SAY,
         "{\"return\":{\"exited\":true,\"exitcode\":121,\"out-data\":\"b3V0\"}}"},
        {"guest-file-open", FAKE_SAY,
         "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such file\"}}"},
        {0}};
    g_autoptr(Fake) f = fake_new(lies);
    Outcome o = {0};

    exec_with(f, &o, (AgentExec){.argv = SH("echo x")});
    g_assert_no_error(o.error);
    g_assert_cmpint(o.status, ==, 121);
    g_assert_cmpuint(fake_count(f, "guest-exec"), ==, 2);
    g_assert_nonnull(strstr(o.text[0]->str, "out"));
    clear(&o);
}

/* ---- an agent that lies ---------------------------------------------------------------
 */

static void lies_about_a_command_are_one_sentence(void)
{
    static const FakeLie lies[][2] = {
        {{"guest-exec", FAKE_SAY, "{\"return\":{\"pid\":-5}}"}},
        {{"guest-exec", FAKE_SAY, "{\"return\":{\"pid\":\"1\"}}"}},
        {{"guest-exec", FAKE_SAY, "{\"return\":{}}"}},
        {{"guest-exec", FAKE_SAY, "{\"return\":[]}"}},
        {{"guest-exec-status", FAKE_SAY, "{\"return\":{\"exited\":1}}"}},
        {{"guest-exec-status", FAKE_SAY, "{\"return\":{\"exited\":true}}"}},
        {{"guest-exec-status", FAKE_SAY,
          "{\"return\":{\"exited\":true,\"exitcode\":256}}"}},
        {{"guest-exec-status", FAKE_SAY, "{\"return\":{\"exited\":true,\"signal\":-9}}"}},
        {{"guest-exec-status", FAKE_SAY,
          "{\"return\":{\"exited\":true,\"exitcode\":0,\"out-data\":\"=!=\"}}"}},
        {{"guest-file-open", FAKE_SAY, "{\"return\":\"h\"}"}},
        {{"guest-file-read", FAKE_SAY,
          "{\"return\":{\"count\":-1,\"buf-b64\":\"AA==\",\"eof\":true}}"}},
        {{"guest-file-read", FAKE_SAY,
          "{\"return\":{\"count\":9,\"buf-b64\":\"AA==\",\"eof\":true}}"}},
        {{"guest-file-read", FAKE_SAY, "{\"return\":{\"count\":0,\"eof\":false}}"}},
        {{"guest-exec-status", FAKE_CLOSE, NULL}},
        {{"guest-exec-status", FAKE_SAY, "nonsense"}},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autoptr(Fake) f = fake_new(lies[i]);
        Outcome o = {0};

        exec_with(f, &o, (AgentExec){.argv = SH("echo x")});
        if (o.ok)
            g_error("lie %u was believed", i);
        g_assert_nonnull(o.error);
        clear(&o);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/agent/exec/" #name, name)
    ADD(status_and_both_streams_are_the_commands);
    ADD(output_comes_while_the_command_runs);
    ADD(arguments_variables_and_folder_arrive_unchanged);
    ADD(a_signal_is_128_and_its_number);
    ADD(a_missing_program_is_127);
    ADD(input_of_any_length_reaches_the_command);
    ADD(a_time_limit_ends_the_command_and_its_children);
    ADD(who_ignores_sigterm_is_killed);
    ADD(output_that_nobody_takes_ends_the_command);
    ADD(without_file_commands_output_comes_at_the_end);
    ADD(where_tmp_takes_no_folder_it_is_run_once_more_without);
    ADD(lies_about_a_command_are_one_sentence);
    return g_test_run();
}
