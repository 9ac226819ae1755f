/* The monitor's end of detach.h.  It writes JSON lines into the pipe:
 *
 *     {"say": "running", "name": ..., "pid": ..., "json": ..., "forward": "ADDR:PORT",
 *      "frozen": ..., "paused": ...}
 *     {"say": "boot"}
 *     {"say": "port", "port": ...}
 *     {"say": "failed" or "ended", "status": ..., "detail": ...}
 *
 * Before "running" nothing of it is left when it fails; after that there is a run folder,
 * and the VM goes on if whoever started it does not wait any longer. */
#include "src/cli/detach.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "util/fd.h"
#include "util/log.h"
#include "virtio/console.h"
#include "virtio/devices.h"

/* Small enough for the pipe to take it whole, and all that is ever said, too: who waits
 * for a guest's agent does not read meanwhile, and a guest must not make us wait. */
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
        say(d, json_pack("{s:s, s:s, s:i, s:b, s:s, s:b, s:b}", "say", "running", "name",
                         cfg->name, "pid", (int)getpid(), "json", cfg->json, "forward",
                         d->forward ? d->forward : "", "frozen", d->frozen, "paused",
                         cfg->paused));
}

void detach_event(void *detach, const char *event, const json_t *data)
{
    Detach *d = detach;

    /* It comes with each reset of a console. */
    if (g_str_equal(event, "X_HUTCH_USER_OUTPUT") &&
        !__atomic_exchange_n(&d->booted, true, __ATOMIC_RELAXED))
        say(d, json_pack("{s:s}", "say", "boot"));
    if (g_str_equal(event, "X_HUTCH_PORT_OPEN"))
        say(d, json_pack("{s:s, s:O}", "say", "port", "port",
                         json_object_get(data, "port")));
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

void detach_leave_open(Detach *d, int pipe_end)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    d->report_fd = STDERR_FILENO + 1;
    if (pipe_end != d->report_fd)
        dup2(pipe_end, d->report_fd);
    fcntl(d->report_fd, F_SETFD, FD_CLOEXEC);
    if (pipe_end != d->report_fd)
        close(pipe_end);
    if (null > d->report_fd)
        close(null);
    d->on = true;
}

void detach_leave(Detach *d, int pipe_end)
{
    detach_leave_open(d, pipe_end);
    close_range((unsigned)d->report_fd + 1, ~0u, 0);
}

/* "tcp:ADDR:PORT-ADDR:PORT" with that last port; a new string, the first half. */
static char *forward_to(const char *text, unsigned port)
{
    g_autofree char *end = g_strdup_printf(":%u", port);
    const char *dash = strrchr(text, '-');

    return g_str_has_prefix(text, "tcp:") && dash && g_str_has_suffix(dash, end)
               ? g_strndup(text + strlen("tcp:"), (gsize)(dash - text) - strlen("tcp:"))
               : NULL;
}

/* Where on the host the guest's port is, for --wait tcp:PORT. */
static bool find_forward(Detach *d, const Config *cfg, GError **error)
{
    json_t *json = config_to_json(cfg), *net, *forward;
    size_t i, k;

    json_array_foreach(json_object_get(json, "net"), i, net)
        json_array_foreach(json_object_get(net, "hostfwd"), k, forward) if (!d->forward)
            d->forward = forward_to(json_string_value(forward), d->when.port);
    json_decref(json);
    return d->forward ||
           fail(error, VM_ERROR_INVALID,
                "--wait tcp:%u: no port of the host is forwarded to this one of the "
                "guest's; give --net user,hostfwd=tcp:127.0.0.1:PORT-:%u",
                d->when.port, d->when.port);
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
    if (d->when.kind == READY_TCP && !find_forward(d, cfg, error))
        return false;
    if (d->when.kind == READY_AGENT && !cfg->agent)
        return fail(error, VM_ERROR_INVALID,
                    "--wait agent: the VM has no port for one; give --agent");
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
    g_clear_pointer(&d->forward, g_free);
    d->on = false;
}
