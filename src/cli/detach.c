/* See detach.h.  The monitor writes JSON lines into the pipe:
 *
 *     {"say": "running", "name": ..., "pid": ..., "json": ...}
 *     {"say": "boot"}
 *     {"say": "failed" or "ended", "status": ..., "detail": ...}
 *
 * Before "running" nothing of it is left when it fails; after that there is a run folder,
 * and the VM goes on if whoever started it does not wait any longer. */
#include "src/cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"
#include "virtio/console.h"
#include "virtio/devices.h"

enum { MAX_LINE = 64 * 1024, STATUS_TIMEOUT = 124 };

/* ---- the monitor ----------------------------------------------------------------------
 */

/* Small enough for the pipe to take it whole, and for nobody to wait. */
static void say(const Detach *d, json_t *message)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    g_autofree char *line = text ? g_strconcat(text, "\n", NULL) : NULL;

    if (d->on && line)
        fd_write_all(d->report_fd, line, strlen(line), NULL); /* nobody waits: fine */
    free(text);
    json_decref(message);
}

void detach_running(Detach *d, const Config *cfg)
{
    if (d->on)
        say(d, json_pack("{s:s, s:s, s:i, s:b}", "say", "running", "name", cfg->name,
                         "pid", (int)getpid(), "json", cfg->json));
}

void detach_event(void *detach, const char *event)
{
    if (g_str_equal(event, "X_HUTCH_USER_OUTPUT"))
        say(detach, json_pack("{s:s}", "say", "boot"));
}

static void say_end(const Detach *d, const char *what, const char *sentence, int status)
{
    g_autofree char *text = g_utf8_make_valid(sentence, -1);

    if (d->on)
        say(d,
            json_pack("{s:s, s:i, s:s}", "say", what, "status", status, "detail", text));
}

void detach_failed(Detach *d, const char *sentence, int status)
{
    say_end(d, "failed", sentence, status);
}

void detach_ended(Detach *d, const char *sentence, int status)
{
    say_end(d, "ended", sentence, status);
}

/* Nothing of the caller's is kept: neither its terminal, nor a pipe or a lock that others
 * wait for. */
static void leave_caller(Detach *d, int pipe_end)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    d->report_fd = STDERR_FILENO + 1;
    if (pipe_end != d->report_fd)
        dup2(pipe_end, d->report_fd);
    fcntl(d->report_fd, F_SETFD, FD_CLOEXEC);
    close_range((unsigned)d->report_fd + 1, ~0u, 0);
    d->on = true;
}

static void move_console(ChardevOptions *o, const Place *place)
{
    if (o->type != CHARDEV_STDIO)
        return;
    o->type = CHARDEV_UNSET;
    o->socket = place_path(place, PLACE_CONSOLE);
    o->log = place_path(place, PLACE_CONSOLE_LOG);
}

bool detach_settle(Detach *d, Config *cfg, const Place *place, GError **error)
{
    g_autofree char *path = NULL;

    if (!d->on)
        return true;
    path = place_path(place, PLACE_LOG);
    if (!logfile_open(&d->log, path, error))
        return false;
    log_set_file(&d->log);
    dup2(d->log.fd, STDERR_FILENO); /* what others may say there */
    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        if (cfg->serial[i])
            move_console(cfg->serial[i], place);
    for (unsigned i = 0; i < cfg->n_devices; i++)
        if (cfg->devices[i].ops == &virtio_console_ops)
            move_console(&((ConsoleOptions *)cfg->devices[i].options)->chardev, place);
    return true;
}

void detach_finish(Detach *d)
{
    if (!d->on)
        return;
    log_set_file(NULL);
    if (d->log.name)
        logfile_close(&d->log);
    fd_close(&d->report_fd);
    d->on = false;
}

/* ---- who waits ------------------------------------------------------------------------
 */

typedef enum { READY_RUNNING, READY_BOOT } Ready;

typedef struct Waiter {
    const RunOptions *options;
    int fd;
    pid_t pid;
    int64_t deadline_ns; /* 0: none */
    GString *in;         /* read, not yet understood */
    bool running;
    char *name;
    bool json;
} Waiter;

static Ready ready_when(const RunOptions *options)
{
    return options->wait && g_str_equal(options->wait, "boot") ? READY_BOOT
                                                               : READY_RUNNING;
}

bool detach_check(const RunOptions *options, GError **error)
{
    if (options->wait && !options->detach)
        return fail(error, VM_ERROR_INVALID,
                    "--wait says when --detach is to return; give both");
    return !options->wait || g_str_equal(options->wait, "boot") ||
           fail(error, VM_ERROR_INVALID, "--wait %s: one of boot is wanted",
                options->wait);
}

typedef enum { HEARD, HEARD_NOTHING, HEARD_END } Heard;

/* One line of the monitor's; HEARD_NOTHING when the time is over, HEARD_END when it has
 * closed the pipe. */
static Heard hear(Waiter *w, json_t **ret)
{
    for (;;) {
        char *end = memchr(w->in->str, '\n', w->in->len);
        struct pollfd p = {.fd = w->fd, .events = POLLIN};
        int timeout = -1;
        char part[4096];
        ssize_t n;

        if (end) {
            *ret = json_loadb(w->in->str, (size_t)(end - w->in->str), 0, NULL);
            g_string_erase(w->in, 0, end - w->in->str + 1);
            return *ret ? HEARD : HEARD_END;
        }
        if (w->deadline_ns)
            timeout = (int)MAX((w->deadline_ns - clock_ns() + 999999) / 1000000, 0);
        n = poll(&p, 1, timeout);
        if (n == 0)
            return HEARD_NOTHING;
        n = n < 0 ? n : read(w->fd, part, sizeof(part));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || w->in->len + (size_t)n > MAX_LINE)
            return HEARD_END;
        g_string_append_len(w->in, part, n);
    }
}

static int fail_waiting(const Waiter *w, Heard heard)
{
    if (heard == HEARD_NOTHING) {
        log_error("VM '%s' runs, but was not ready (--wait %s) after %" G_GUINT64_FORMAT
                  " s; 'hutch console %s' shows how far it is, 'hutch kill %s' ends it",
                  w->name, w->options->wait, w->options->wait_timeout, w->name, w->name);
        return STATUS_TIMEOUT;
    }
    if (w->running)
        log_error("VM '%s': its monitor was killed", w->name);
    else
        log_error("the monitor of the VM was killed before it ran");
    return EXIT_CANNOT;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static int fail_ended(const Waiter *w, const json_t *message)
{
    int status = (int)json_integer_value(json_object_get(message, "status"));

    if (w->running)
        log_error("VM '%s' ended before it was ready: %s", w->name,
                  text_of(message, "detail"));
    else
        log_error("%s", text_of(message, "detail"));
    return status ? status : EXIT_CANNOT;
}

static int succeed(const Waiter *w)
{
    json_t *json;

    if (!w->json) {
        printf("%s\n", w->name);
        return 0;
    }
    json = json_pack("{s:s, s:i}", "name", w->name, "pid", (int)w->pid);
    json_dumpf(json, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(json);
    return 0;
}

/* -1: not yet. */
static int understand(Waiter *w, const json_t *message)
{
    const char *what = text_of(message, "say");
    Ready wanted = ready_when(w->options);

    if (g_str_equal(what, "running")) {
        w->running = true;
        w->name = g_strdup(text_of(message, "name"));
        w->json = json_is_true(json_object_get(message, "json"));
        return wanted == READY_RUNNING ? succeed(w) : -1;
    }
    if (g_str_equal(what, "boot"))
        return wanted == READY_BOOT ? succeed(w) : -1;
    return fail_ended(w, message);
}

static int wait_until_ready(Waiter *w)
{
    int status = -1;

    while (status < 0) {
        json_t *message = NULL;
        Heard heard = hear(w, &message);

        status = heard == HEARD ? understand(w, message) : fail_waiting(w, heard);
        json_decref(message);
    }
    return status;
}

bool detach_begin(Detach *d, const RunOptions *options, int *ret_status)
{
    Waiter w = {.options = options, .in = g_string_new(NULL)};
    int ends[2];

    *d = (Detach){.report_fd = -1};
    fflush(stdout);
    if (pipe2(ends, O_CLOEXEC) < 0 || (w.pid = fork()) < 0) {
        log_error("--detach: start another process: %s", g_strerror(errno));
        *ret_status = EXIT_CANNOT;
        g_string_free(w.in, TRUE);
        return false;
    }
    if (w.pid == 0) {
        leave_caller(d, ends[1]);
        g_string_free(w.in, TRUE);
        return true;
    }
    close(ends[1]);
    w.fd = ends[0];
    if (options->wait_timeout)
        w.deadline_ns = clock_ns() + (int64_t)options->wait_timeout * 1000000000;
    *ret_status = wait_until_ready(&w);
    close(w.fd);
    g_string_free(w.in, TRUE);
    g_free(w.name);
    return false;
}
