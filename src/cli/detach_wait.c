/* The end of detach.h that waits.  Of everything but a TCP port it is told; a port is
 * tried until somebody in the guest takes the connection up, which the monitor sees and
 * tells.  What the host's side of a forward does says nothing: there, each connection is
 * taken up at once. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "src/cli/detach.h"
#include "src/cli/freeze.h"
#include "src/cli/waiting.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/log.h"

enum {
    MAX_LINE = 64 * 1024,
    KNOCK_AGAIN_MS = 20,     /* after the guest has refused */
    KNOCK_PATIENCE_MS = 250, /* before it is tried anew: a guest without a network yet
                                would be asked again only after seconds */
};
#define MS 1000000ll

struct DetachWaiter {
    const char *wait; /* as it was said; NULL: nothing */
    Ready when;
    char *where; /* on the host a port is; NULL: not told yet */
    int fd;
    pid_t pid;
    int64_t deadline_ns; /* 0: none */
    uint64_t timeout_s;
    GString *in; /* read, not yet understood */
    bool running, frozen, paused;
    char *name;
    bool json;

    struct sockaddr_in forward; /* port 0: none to try */
    int knock;                  /* the present try; -1: none */
    int64_t knock_ns;           /* when it is over, or the next one begins */
};

typedef struct DetachWaiter Waiter;

bool detach_parse_wait(const char *text, Ready *ret, GError **error)
{
    guint64 port;

    *ret = (Ready){READY_RUNNING, 0};
    if (!text)
        return true;
    if (g_str_equal(text, "boot") || g_str_equal(text, "agent")) {
        ret->kind = g_str_equal(text, "boot") ? READY_BOOT : READY_AGENT;
        return true;
    }
    if (!g_str_has_prefix(text, "tcp:") ||
        !g_ascii_string_to_unsigned(text + strlen("tcp:"), 10, 1, 65535, &port, NULL))
        return fail(error, VM_ERROR_INVALID,
                    "--wait %s: boot, agent or tcp:PORT is wanted, a port of the guest's",
                    text);
    *ret = (Ready){READY_TCP, (unsigned)port};
    return true;
}

bool detach_check(const RunOptions *options, GError **error)
{
    Ready when;

    if (options->wait && !options->detach)
        return fail(error, VM_ERROR_INVALID,
                    "--wait says when --detach is to return; give both");
    return detach_parse_wait(options->wait, &when, error);
}

/* ---- a TCP port -----------------------------------------------------------------------
 */

/* "ADDR:PORT"; no address means all, of which this one is one. */
static void set_forward(Waiter *w)
{
    const char *text = w->where ? w->where : "", *colon = strrchr(text, ':');
    g_autofree char *address = colon ? g_strndup(text, (gsize)(colon - text)) : NULL;

    if (!colon || w->when.kind != READY_TCP)
        return;
    w->forward.sin_family = AF_INET;
    w->forward.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, address, &w->forward.sin_addr) != 1 ||
        !w->forward.sin_addr.s_addr)
        w->forward.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

/* Begins a try, or gives one up. */
static void knock(Waiter *w)
{
    if (w->knock >= 0 || !w->forward.sin_port) {
        fd_close(&w->knock);
        w->knock_ns = clock_ns() + KNOCK_AGAIN_MS * MS;
        return;
    }
    w->knock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (w->knock >= 0)
        connect(w->knock, (struct sockaddr *)&w->forward, sizeof(w->forward));
    w->knock_ns = clock_ns() + KNOCK_PATIENCE_MS * MS;
}

/* ---- listening ------------------------------------------------------------------------
 */

typedef enum { HEARD, HEARD_NOTHING, HEARD_END } Heard;

/* Waits for the pipe until the deadline, and knocks meanwhile; false: the time is over.
 */
static bool wait_for_pipe(Waiter *w)
{
    for (;;) {
        int64_t now = clock_ns(), until = w->deadline_ns ? w->deadline_ns : INT64_MAX;
        struct pollfd p[] = {{.fd = w->fd, .events = POLLIN},
                             {.fd = w->knock, .events = POLLIN | POLLRDHUP}};

        if (w->deadline_ns && now >= w->deadline_ns)
            return false;
        if (w->forward.sin_port)
            until = MIN(until, w->knock_ns);
        p[1].revents = 0;
        if (poll(p, G_N_ELEMENTS(p),
                 until == INT64_MAX ? -1 : (int)((MAX(until - now, 0) + MS - 1) / MS)) <
            0)
            continue; /* EINTR */
        if (p[0].revents)
            return true;
        if (w->forward.sin_port && (p[1].revents || clock_ns() >= w->knock_ns))
            knock(w);
    }
}

/* One line of the monitor's; HEARD_NOTHING when the time is over, HEARD_END when it has
 * closed the pipe. */
static Heard hear(Waiter *w, json_t **ret)
{
    for (;;) {
        char *end = memchr(w->in->str, '\n', w->in->len);
        char part[4096];
        ssize_t n;

        if (end) {
            *ret = json_loadb(w->in->str, (size_t)(end - w->in->str), 0, NULL);
            g_string_erase(w->in, 0, end - w->in->str + 1);
            return *ret ? HEARD : HEARD_END;
        }
        if (!wait_for_pipe(w))
            return HEARD_NOTHING;
        n = read(w->fd, part, sizeof(part));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || w->in->len + (size_t)n > MAX_LINE)
            return HEARD_END;
        g_string_append_len(w->in, part, n);
    }
}

static int fail_waiting(const Waiter *w, Heard heard, GError **error)
{
    if (heard == HEARD_NOTHING && w->running)
        fail(error, VM_ERROR_BUSY,
             "VM '%s' runs, but was not ready (--wait %s) after %" G_GUINT64_FORMAT
             " s; 'hutch console %s' shows how far it is, 'hutch kill %s' ends it",
             w->name, w->wait ? w->wait : "", w->timeout_s, w->name, w->name);
    else if (heard == HEARD_NOTHING)
        fail(error, VM_ERROR_BUSY,
             "the VM did not begin to run within %" G_GUINT64_FORMAT " s", w->timeout_s);
    else if (w->running)
        fail(error, VM_ERROR_IO, "VM '%s': its monitor was killed", w->name);
    else
        fail(error, VM_ERROR_IO, "the monitor of the VM was killed before it ran");
    return heard == HEARD_NOTHING ? EXIT_TIMEOUT : EXIT_CANNOT;
}

static int fail_ended(const Waiter *w, const json_t *message, GError **error)
{
    int status = (int)json_integer_value(json_object_get(message, "status"));

    if (w->running)
        fail(error, VM_ERROR_IO, "VM '%s' ended before it was ready: %s", w->name,
             json_get_text(message, "detail"));
    else
        fail(error, VM_ERROR_IO, "%s", json_get_text(message, "detail"));
    return status ? status : EXIT_CANNOT;
}

/* What is asked waits in the port until an agent is there to answer it.  -1: the VM has
 * ended, which its monitor tells. */
static int wait_for_agent(Waiter *w, GError **error)
{
    g_autoptr(GError) inner = NULL;
    int64_t left_ms = clock_left_ns(w->deadline_ns) / MS;
    int ms = w->deadline_ns ? (int)CLAMP(left_ms, 1, INT_MAX) : INT_MAX;
    Agent *agent = agent_connect(w->name, ms, &inner);

    if (agent) {
        agent_free(agent);
        return 0;
    }
    if (g_error_matches(inner, VM_ERROR, VM_ERROR_NOT_FOUND))
        return -1;
    if (g_error_matches(inner, VM_ERROR, VM_ERROR_BUSY))
        return fail_waiting(w, HEARD_NOTHING, error);
    g_propagate_error(error, g_steal_pointer(&inner));
    return EXIT_CANNOT;
}

/* It runs. */
static int look_closer(Waiter *w, GError **error)
{
    set_forward(w);
    return w->when.kind == READY_RUNNING ? 0
           : w->when.kind == READY_AGENT ? wait_for_agent(w, error)
                                         : -1;
}

/* 0: it is ready, -1: not yet. */
static int understand(Waiter *w, const json_t *message, GError **error)
{
    const char *what = json_get_text(message, "say");

    if (g_str_equal(what, "running") && !w->running) {
        w->running = true;
        w->name = g_strdup(json_get_text(message, "name"));
        w->json = json_is_true(json_object_get(message, "json"));
        w->where = g_strdup(json_get_text(message, "forward"));
        w->frozen = json_is_true(json_object_get(message, "frozen"));
        w->paused = json_is_true(json_object_get(message, "paused"));
        return look_closer(w, error);
    }
    if (g_str_equal(what, "boot"))
        return w->when.kind == READY_BOOT ? 0 : -1;
    if (g_str_equal(what, "port"))
        return w->when.kind == READY_TCP &&
                       json_integer_value(json_object_get(message, "port")) ==
                           w->when.port
                   ? 0
                   : -1;
    return fail_ended(w, message, error);
}

DetachWaiter *detach_waiter_new(int fd, pid_t pid, uint64_t timeout_s)
{
    Waiter *w = g_new0(Waiter, 1);

    *w = (Waiter){.fd = fd,
                  .pid = pid,
                  .timeout_s = timeout_s,
                  .in = g_string_new(NULL),
                  .knock = -1};
    if (timeout_s)
        w->deadline_ns = clock_ns() + (int64_t)timeout_s * 1000 * MS;
    return w;
}

void detach_waiter_free(DetachWaiter *w)
{
    if (!w)
        return;
    fd_close(&w->fd);
    fd_close(&w->knock);
    g_string_free(w->in, TRUE);
    g_free(w->where);
    g_free(w->name);
    g_free(w);
}

int detach_waiter_wait(DetachWaiter *w, const char *wait, GError **error)
{
    int status;

    w->wait = wait;
    detach_parse_wait(wait, &w->when, NULL); /* checked before */
    status = w->running ? look_closer(w, error) : -1;
    while (status < 0) {
        json_t *message = NULL;
        Heard heard = hear(w, &message);

        status = heard == HEARD ? understand(w, message, error)
                                : fail_waiting(w, heard, error);
        json_decref(message);
    }
    return status;
}

/* ---- hutch run --detach ---------------------------------------------------------------
 */

static void print_vm(const Waiter *w)
{
    json_t *json;

    if (!w->json) {
        printf("%s\n", w->name);
        return;
    }
    json = json_pack("{s:s, s:i}", "name", w->name, "pid", (int)w->pid);
    json_dumpf(json, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(json);
}

/* As soon as it runs: a guest does little while its file systems are frozen. */
static int thaw(const Waiter *w, GError **error)
{
    if (w->frozen && w->paused)
        freeze_say_paused(w->name);
    return !w->frozen || w->paused || freeze_thaw_restored(w->name, error) ? 0
                                                                           : EXIT_CANNOT;
}

static int wait_until_ready(Waiter *w, const char *wait)
{
    g_autofree char *what = wait ? g_strdup_printf("run: waits for the VM (--wait %s)",
                                                   wait)
                                 : g_strdup("run: waits for the VM");
    g_autoptr(GError) error = NULL;
    Waiting waiting; /* says that it waits, until it says more */
    int status;

    waiting_begin(&waiting, what, WAITING_EVERY_MS);
    status = detach_waiter_wait(w, NULL, &error);
    if (!status)
        status = thaw(w, &error);
    if (!status && wait)
        status = detach_waiter_wait(w, wait, &error);
    waiting_end(&waiting);
    if (status)
        log_error("%s", error->message);
    else
        print_vm(w);
    return status;
}

bool detach_begin(Detach *d, const RunOptions *options, int *ret_status)
{
    DetachWaiter *w;
    int ends[2];
    pid_t pid;

    *d = (Detach){.report_fd = -1};
    fflush(stdout);
    if (pipe2(ends, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        log_error("--detach: start another process: %s", g_strerror(errno));
        *ret_status = EXIT_CANNOT;
        return false;
    }
    if (pid == 0) {
        detach_parse_wait(options->wait, &d->when, NULL); /* checked before */
        detach_leave(d, ends[1]);
        return true;
    }
    close(ends[1]);
    w = detach_waiter_new(ends[0], pid, options->wait_timeout);
    *ret_status = wait_until_ready(w, options->wait);
    detach_waiter_free(w);
    return false;
}
