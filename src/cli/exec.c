/* hutch exec: runs a command in a guest, by its agent. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/agent.h"
#include "src/cli/interrupt.h"

enum {
    MAX_STDIN = 256 * 1024 * 1024,
    MAX_JSON = 64 * 1024 * 1024, /* of output, with --json */
    WRITABLE_MS = 20,
};

typedef struct ExecArgs {
    char **env;
    char *cwd;
    uint64_t timeout_s;
    bool input, json;
} ExecArgs;

static const ParamDesc exec_desc[] = {
    {.key = "env",
     .letter = 'e',
     .type = PARAM_LIST,
     .offset = offsetof(ExecArgs, env),
     .arg = "NAME=VALUE",
     .help = "set a variable of the command"},
    {.key = "cwd",
     .letter = 'w',
     .type = PARAM_STRING,
     .offset = offsetof(ExecArgs, cwd),
     .arg = "FOLDER",
     .help = "run it in this folder of the guest"},
    {.key = "timeout",
     .letter = 't',
     .type = PARAM_UINT,
     .offset = offsetof(ExecArgs, timeout_s),
     .arg = "SECONDS",
     .help = "end it after so long, with status 124; 0: never",
     .max = 1000 * 1000 * 1000},
    {.key = "stdin",
     .letter = 'i',
     .type = PARAM_BOOL,
     .offset = offsetof(ExecArgs, input),
     .help = "read standard input to its end and give it to the command"},
    {.key = "json",
     .type = PARAM_BOOL,
     .offset = offsetof(ExecArgs, json),
     .help = "print status and output as JSON when it has ended"},
    {0},
};
const ParamTable exec_args = {.size = sizeof(ExecArgs), .desc = exec_desc};

const char exec_about[] =
    "VM is a name (of hutch run --name) or the path of an agent's socket, with a '/' in "
    "it.  The VM has to be started with --agent, and qemu-guest-agent has to run in the "
    "guest.  Options of the command stand behind --.";
const char exec_notes[] =
    "The command is run by the agent's user, root in most guests, without a terminal, "
    "and by no shell: for one, write -- sh -c 'a | b'.  Its output comes as it is "
    "printed.  If hutch is interrupted, or the time limit is over, it is ended in the "
    "guest, too, by SIGTERM and then SIGKILL.";
const ExitStatus exec_statuses[] = {
    {"0-255", "the status of the command; 127 if the guest has no such command"},
    {"128+N", "signal N ended the command, or hutch"},
    {"124", "the time of --timeout was over"},
    {"125", "hutch could not do it: no such VM, no agent, no answer"},
    {0},
};

/* ---- standard input and output --------------------------------------------------------
 */

typedef struct Exec {
    Agent *agent;
    bool json;
    GString *kept[2]; /* for --json */
} Exec;

static bool read_input(GString *ret, GError **error)
{
    char buf[65536];
    ssize_t n;

    while ((n = read(STDIN_FILENO, buf, sizeof(buf))) != 0 && !interrupt_signal()) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(error, "read standard input");
        g_string_append_len(ret, buf, n);
        if (ret->len > MAX_STDIN)
            return fail(error, VM_ERROR_INVALID,
                        "standard input is longer than %d MiB; copy it with 'hutch put'",
                        MAX_STDIN >> 20);
    }
    return true;
}

/* Others may have the agent while nobody reads what we write. */
static void wait_for_reader(Exec *e, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    if (poll(&p, 1, WRITABLE_MS) == 0)
        agent_release(e->agent);
}

static bool print(Exec *e, int fd, const char *data, size_t len, GError **error)
{
    while (len) {
        ssize_t n;

        wait_for_reader(e, fd);
        n = write(fd, data, len);
        if (n < 0 && (errno != EINTR || interrupt_signal()))
            return fail_errno(error, "write the command's output");
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return true;
}

static bool on_output(void *opaque, int fd, const char *data, size_t len, GError **error)
{
    Exec *e = opaque;

    if (!e->json)
        return print(e, fd, data, len, error);
    if (e->kept[fd - 1]->len + len > MAX_JSON)
        return fail(error, VM_ERROR_INVALID,
                    "the command prints more than %d MiB, which is too much for --json",
                    MAX_JSON >> 20);
    g_string_append_len(e->kept[fd - 1], data, (gssize)len);
    return true;
}

/* ---- doing it -------------------------------------------------------------------------
 */

/* Any bytes; JSON has only UTF-8. */
static json_t *json_text(const GString *bytes)
{
    g_autofree char *text = g_utf8_make_valid(bytes->str, (gssize)bytes->len);

    return json_string(text);
}

static void print_json(const Exec *e, int status, bool timed_out)
{
    cli_print_json(json_pack("{s:i, s:b, s:o, s:o}", "status", status, "timed-out",
                             timed_out, "stdout", json_text(e->kept[0]), "stderr",
                             json_text(e->kept[1])));
}

static bool run(Exec *e, const ExecArgs *args, char **names, const GString *input,
                int *status, GError **error)
{
    AgentExec x = {.argv = (const char *const *)names + 1,
                   .env = (const char *const *)args->env,
                   .cwd = args->cwd,
                   .input = input->str,
                   .input_len = input->len,
                   .timeout_ms = (int64_t)args->timeout_s * 1000,
                   .output = on_output,
                   .stop = interrupt_stop,
                   .opaque = e};
    bool timed_out = false;

    if (!agent_exec(e->agent, &x, status, &timed_out, error)) {
        *status = EXIT_CANNOT;
        return false;
    }
    if (e->json)
        print_json(e, *status, timed_out);
    if (interrupt_signal())
        *status = 128 + interrupt_signal();
    else if (timed_out)
        *status = EXIT_TIMEOUT;
    return !timed_out || fail(error, VM_ERROR_BUSY,
                              "VM '%s': the command took longer than %d s and was ended",
                              names[0], (int)args->timeout_s);
}

bool exec_act(void *options, char **names, int *status, GError **error)
{
    const ExecArgs *args = options;
    g_autoptr(GString) input = g_string_new(NULL);
    Exec e = {.json = args->json};
    bool ok;

    interrupt_watch();
    signal(SIGPIPE, SIG_IGN); /* the command has to be ended in the guest, first */
    if (args->input && !read_input(input, error))
        return false;
    e.agent = agent_connect(names[0], CLI_AGENT_MS, error);
    if (!e.agent)
        return false;
    e.kept[0] = g_string_new(NULL);
    e.kept[1] = g_string_new(NULL);
    ok = run(&e, args, names, input, status, error);
    g_string_free(e.kept[0], TRUE);
    g_string_free(e.kept[1], TRUE);
    agent_free(e.agent);
    return ok;
}
