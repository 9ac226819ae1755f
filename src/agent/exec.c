/* Running a command in the guest: agent_exec().
 *
 * The agent gives out what a command printed only when the command has ended.  So a
 * script sends its output to two files and then becomes the command; the files are read
 * while it runs.  They are in a folder of a random name that only the agent's user can
 * enter, and which is removed as soon as both are open: what is open stays readable, and
 * nothing is left behind when we or the agent die.
 *
 * The script gets everything as arguments, so nothing has to be quoted.  It makes the
 * command the leader of a session where the guest has setsid, so that a time limit ends
 * its children, too. */
#include <string.h>
#include <sys/random.h>

#include "src/agent/process.h"
#include "util/ioloop.h"

enum {
    NO_FOLDER = 121,               /* the script's own status: it has run nothing */
    INLINE_INPUT = 256 * 1024,     /* bytes that go along with the command */
    MOST_INPUT = 24 * 1024 * 1024, /* where all have to */
    PAUSE_MS = 10,
    MAX_PAUSE_MS = 200,
    MAX_PIECES = 8,  /* of a file, between two looks at the command */
    GRACE_MS = 2000, /* between SIGTERM, SIGKILL and giving up */
};

/* $1: the folder, or empty; $2: not empty if its input is there; $3: where to be, or
 * empty; then K=V..., --, and the command. */
static const char run_script[] =
    "if [ -n \"$1\" ]; then\n"
    "    [ -d \"$1\" ] || (umask 077; mkdir \"$1\") || exit 121\n"
    "    [ -z \"$2\" ] || exec <\"$1/in\"\n"
    "    exec >\"$1/out\" 2>\"$1/err\"\n"
    "fi\n"
    "[ -z \"$3\" ] || cd \"$3\" || exit 125\n"
    "shift 3\n"
    "while [ \"$1\" != -- ]; do export \"$1\"; shift; done\n"
    "shift\n"
    "if command -v setsid >/dev/null 2>&1; then exec setsid \"$@\"; fi\n"
    "exec \"$@\"\n";
static const char folder_script[] = "umask 077; mkdir \"$1\"";
static const char remove_script[] = "rm -rf \"$1\"";
/* The session, or the command alone where there is none. */
static const char kill_script[] =
    "kill -\"$1\" \"-$2\" 2>/dev/null || kill -\"$1\" \"$2\" 2>/dev/null";

/* How a command is run, the best first. */
typedef enum { LIVE, SHELL, BARE } Way;

typedef struct Run {
    Agent *a;
    const AgentExec *x;
    Way way;
    char *folder;
    bool folder_made, folder_gone; /* what we have asked the guest for */
    int64_t remover;               /* process id; 0: none */
    int64_t pid;
    int64_t handles[2];
    bool open[2];
    int status;
    bool ended, truncated;
    int64_t started_ns;
    unsigned ending;        /* signals sent to it */
    int64_t next_signal_ns; /* when the next one is due, once it is being ended */
    bool timed_out;
    GError *stopped; /* output() failed */
} Run;

static int64_t after_ms(int64_t ms)
{
    return clock_ns() + ms * 1000000;
}

/* ---- checking -------------------------------------------------------------------------
 */

static bool is_assignment(const char *text)
{
    size_t name = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
                               "0123456789");

    return name && text[name] == '=' && !g_ascii_isdigit(*text);
}

static bool are_text(const char *const *texts)
{
    for (; texts && *texts; texts++)
        if (!g_utf8_validate(*texts, -1, NULL))
            return false;
    return true;
}

static bool check(const AgentExec *x, GError **error)
{
    if (!x->argv[0] || !*x->argv[0])
        return fail(error, VM_ERROR_INVALID, "there is no command to run in the guest");
    for (const char *const *p = x->env; p && *p; p++)
        if (!is_assignment(*p))
            return fail(error, VM_ERROR_INVALID,
                        "'%s' is no variable for the guest: write NAME=VALUE", *p);
    return (are_text(x->argv) && are_text(x->env) &&
            are_text((const char *const[]){x->cwd, NULL})) ||
           fail(error, VM_ERROR_INVALID,
                "what the guest is to run is not UTF-8, and its agent takes nothing "
                "else");
}

static char *random_folder(void)
{
    uint64_t r[2];

    if (getrandom(r, sizeof(r), 0) != sizeof(r))
        return NULL;
    return g_strdup_printf(
        "/tmp/hutch-%016" G_GINT64_MODIFIER "x%016" G_GINT64_MODIFIER "x", r[0], r[1]);
}

/* ---- starting -------------------------------------------------------------------------
 */

static void append(json_t *array, const char *const *texts)
{
    for (; texts && *texts; texts++)
        json_array_append_new(array, json_string(*texts));
}

static bool store_input(Run *r, GError **error)
{
    g_autofree char *path = g_build_filename(r->folder, "in", NULL);
    int64_t pid, handle;
    int status;
    bool ok;

    if (!process_start(r->a, PROCESS_SHELL,
                       process_script(folder_script, r->folder, NULL), NULL, 0, false,
                       &pid, error) ||
        !process_wait(r->a, pid, &status, error))
        return false;
    if (status)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "VM '%s': the guest has no room in /tmp for the command's input",
                    r->a->link.vm);
    r->folder_made = true;
    if (!agent_open(r->a, path, "w", &handle, error))
        return false;
    ok = agent_write(r->a, handle, r->x->input, r->x->input_len, error);
    return agent_close(r->a, handle, ok ? error : NULL) && ok;
}

static bool start_script(Run *r, GError **error)
{
    const AgentExec *x = r->x;
    bool stored = r->way == LIVE && x->input_len > INLINE_INPUT;
    const char *folder = r->way == LIVE ? r->folder : "";
    json_t *arguments;

    if (stored && !store_input(r, error))
        return false;
    arguments = process_script(run_script, folder, stored ? "in" : "",
                               x->cwd ? x->cwd : "", NULL);
    append(arguments, x->env);
    json_array_append_new(arguments, json_string("--"));
    append(arguments, x->argv);
    if (!process_start(r->a, PROCESS_SHELL, arguments, x->input,
                       stored ? 0 : x->input_len, r->way == SHELL, &r->pid, error))
        return false;
    r->folder_made |= r->way == LIVE;
    return true;
}

static bool start_bare(Run *r, GError **error)
{
    const AgentExec *x = r->x;
    json_t *arguments = json_array();

    if (x->cwd || (x->env && *x->env)) {
        json_decref(arguments);
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "VM '%s': the guest has no /bin/sh, so the command cannot be given "
                    "variables or a folder",
                    r->a->link.vm);
    }
    append(arguments, x->argv + 1);
    return process_start(r->a, x->argv[0], arguments, x->input, x->input_len, true,
                         &r->pid, error);
}

static bool start(Run *r, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (r->way != LIVE && r->x->input_len > MOST_INPUT)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "VM '%s': its guest agent takes no files, so a command's input can "
                    "have %d MiB at most",
                    r->a->link.vm, MOST_INPUT >> 20);
    if (r->way != BARE && start_script(r, &why))
        return true;
    /* Refused: there is no such shell.  Anything else would happen again. */
    if (r->way == BARE || g_error_matches(why, VM_ERROR, VM_ERROR_INVALID)) {
        r->way = BARE;
        return start_bare(r, error);
    }
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

/* ---- its output -----------------------------------------------------------------------
 */

static void give(Run *r, int fd, const char *data, size_t len)
{
    if (len && r->x->output && !r->stopped)
        r->x->output(r->x->opaque, fd, data, len, &r->stopped);
}

static bool stopping(const Run *r)
{
    return r->stopped || (r->x->stop && r->x->stop(r->x->opaque));
}

static bool overdue(const Run *r)
{
    return r->x->timeout_ms > 0 &&
           clock_ns() - r->started_ns > r->x->timeout_ms * 1000000;
}

/* When what is still to be read is given up. */
static bool too_late(const Run *r)
{
    return r->x->timeout_ms > 0 &&
           clock_ns() - r->started_ns > (r->x->timeout_ms + 3 * GRACE_MS) * 1000000;
}

static void remove_folder(Run *r)
{
    if (r->folder_gone)
        return;
    r->folder_gone = true;
    if (!process_start(r->a, PROCESS_SHELL,
                       process_script(remove_script, r->folder, NULL), NULL, 0, false,
                       &r->remover, NULL))
        r->remover = 0;
}

/* The files may not be there yet, which is no failure before the command has ended. */
static bool open_output(Run *r, GError **error)
{
    static const char *const names[] = {"out", "err"};

    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = g_build_filename(r->folder, names[i], NULL);
        g_autoptr(GError) why = NULL;

        if (r->open[i])
            continue;
        r->open[i] = agent_open(r->a, path, "r", &r->handles[i], &why);
        if (!r->open[i] && !r->ended && g_error_matches(why, VM_ERROR, VM_ERROR_INVALID))
            return true;
        if (!r->open[i]) {
            g_propagate_error(error, g_steal_pointer(&why));
            return false;
        }
    }
    remove_folder(r);
    return true;
}

/* What there is now; once it has ended, that is all. */
static bool read_output(Run *r, bool *ret_any, GError **error)
{
    g_autofree char *buf = g_malloc(AGENT_PIECE);

    for (unsigned i = 0; i < 2; i++) {
        bool end = !r->open[i];

        for (unsigned n = 0; !end && (r->ended || n < MAX_PIECES) && !stopping(r); n++) {
            size_t len;

            r->timed_out |= too_late(r);
            if (too_late(r))
                return true;
            if (!agent_read(r->a, r->handles[i], buf, AGENT_PIECE, &len, &end, error))
                return false;
            if (!len && !end)
                return agent_fail(r->a, error, "gives nothing of a file, and no end");
            *ret_any |= len > 0;
            give(r, 1 + (int)i, buf, len);
        }
    }
    return true;
}

/* ---- while it runs --------------------------------------------------------------------
 */

static bool look(Run *r, bool *ret_any, GError **error)
{
    Process p;

    if (!process_look(r->a, r->pid, &p, error))
        return false;
    r->ended = p.ended;
    r->status = p.status;
    r->truncated = p.truncated;
    for (unsigned i = 0; i < 2 && r->ended; i++)
        give(r, 1 + (int)i, (const char *)p.data[i], p.len[i]);
    process_clear(&p);
    if (r->way == LIVE && r->ended && r->status == NO_FOLDER && !r->open[0])
        r->folder_made = false;
    if (!r->folder_made)
        return true;
    return open_output(r, error) && read_output(r, ret_any, error);
}

static void send_signal(Run *r, const char *name)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)r->pid);
    g_autofree char *option = g_strconcat("-", name, NULL);
    int64_t killer;
    int status;

    if (r->way == BARE ? process_start(r->a, "kill", json_pack("[s, s]", option, pid),
                                       NULL, 0, false, &killer, NULL)
                       : process_start(r->a, PROCESS_SHELL,
                                       process_script(kill_script, name, pid, NULL), NULL,
                                       0, false, &killer, NULL))
        process_wait(r->a, killer, &status, NULL);
}

/* False: it does not end. */
static bool end_it(Run *r)
{
    static const char *const signals[] = {"TERM", "KILL"};

    if (r->ending && clock_ns() < r->next_signal_ns)
        return true;
    if (r->ending == G_N_ELEMENTS(signals))
        return false;
    send_signal(r, signals[r->ending++]);
    r->next_signal_ns = after_ms(GRACE_MS);
    return true;
}

static bool watch(Run *r, GError **error)
{
    int pause_ms = PAUSE_MS;

    for (;;) {
        bool any = false;

        agent_sleep(r->a, pause_ms);
        if (!look(r, &any, error))
            return false;
        r->timed_out |= overdue(r) && !r->ended;
        if (r->ended)
            return true;
        if ((r->timed_out || stopping(r)) && !end_it(r)) {
            r->status = 128 + 9;
            return true;
        }
        pause_ms = any || r->ending ? PAUSE_MS : MIN(2 * pause_ms, MAX_PAUSE_MS);
    }
}

/* ---- all of it ------------------------------------------------------------------------
 */

static void clean_up(Run *r)
{
    int status;

    for (unsigned i = 0; i < 2; i++)
        if (r->open[i])
            agent_close(r->a, r->handles[i], NULL);
    r->open[0] = r->open[1] = false;
    if (r->folder_made)
        remove_folder(r);
    if (r->remover) /* so that the agent forgets it */
        process_wait(r->a, r->remover, &status, NULL);
}

static bool run(Run *r, GError **error)
{
    bool ok = start(r, error) && watch(r, error);

    /* A dead agent would only cost more time. */
    if (ok || r->a->link.fd >= 0)
        clean_up(r);
    return ok;
}

static Way best_way(Agent *a)
{
    return agent_can(a, "guest-file-open") && agent_can(a, "guest-file-read") &&
                   agent_can(a, "guest-file-close")
               ? LIVE
               : SHELL;
}

bool agent_exec(Agent *a, const AgentExec *x, int *ret_status, bool *ret_timed_out,
                GError **error)
{
    g_autofree char *folder = random_folder();
    Run r = {.a = a, .x = x, .folder = folder, .started_ns = clock_ns()};
    bool ok;

    if (!check(x, error))
        return false;
    r.way = folder ? best_way(a) : SHELL;
    ok = run(&r, error);
    if (ok && r.way == LIVE && !r.folder_made) {
        /* The guest's /tmp takes no folder: once more, without. */
        r = (Run){
            .a = a, .x = x, .way = SHELL, .folder = folder, .started_ns = r.started_ns};
        ok = run(&r, error);
    }
    *ret_status = r.status;
    *ret_timed_out = r.timed_out;
    if (!r.stopped)
        return ok && (!r.truncated || agent_fail(a, error,
                                                 "has kept only the first 16 MiB of the "
                                                 "command's output"));
    g_clear_error(error);
    g_propagate_error(error, r.stopped);
    return false;
}
