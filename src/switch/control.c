/* See control.h.  A client that does not read its replies gets no more of them: the next
 * command is looked at when the last reply is written. */
#include "src/switch/control.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "src/switch/capture.h"
#include "src/switch/lines.h"
#include "util/fd.h"
#include "util/json.h"

enum { MAX_LINE = 2 * 1024 * 1024, MAX_CLIENTS = 256 };

typedef struct Client {
    Switch *sw;
    int fd;
    IoWatch watch;
    Lines lines;
    char *reply; /* what is not yet written of it; NULL: nothing */
    size_t reply_at, reply_len;
    bool ends; /* hung up once that is written */
    struct Client *next;
} Client;

struct Clients {
    Client *first;
    unsigned n;
};

static const SwitchCommand *const tables[] = {switch_commands, firewall_commands,
                                              gateway_commands, limit_commands};

static void on_client(void *opaque, uint32_t events);

static void client_free(Client *c)
{
    Switch *sw = c->sw;
    Client **at = &sw->clients->first;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    sw->clients->n--;
    ioloop_unwatch(&c->watch);
    lines_free(&c->lines);
    fd_close(&c->fd);
    free(c->reply);
    g_free(c);
    if (sw->users_changed)
        sw->users_changed(sw);
}

/* ---- commands ---------------------------------------------------------------------- */

static const SwitchCommand *find_command(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++)
        for (const SwitchCommand *c = tables[i]; c->name; c++)
            if (g_str_equal(c->name, name))
                return c;
    return NULL;
}

/* The connection becomes a capture's, which answers; what the client has sent behind that
 * command is of no use.  True: the client is gone. */
static bool is_captured(Client *c, const json_t *message, GError **error)
{
    json_t *arguments = json_object_get(message, "arguments");

    ioloop_unwatch(&c->watch);
    if (capture_start(c->sw, c->fd, arguments, error)) {
        c->fd = -1;
        return true;
    }
    if (!ioloop_watch(c->sw->loop, &c->watch, c->fd, EPOLLIN, on_client, c, NULL))
        c->ends = true;
    return false;
}

static json_t *execute(Switch *sw, const json_t *message, GError **error)
{
    const char *name = json_get_text(message, "execute");
    json_t *arguments = json_object_get(message, "arguments");
    const SwitchCommand *command = find_command(name);

    if (!json_is_object(message))
        fail(error, VM_ERROR_INVALID,
             "a message is a JSON object on a line: {\"execute\": COMMAND}");
    else if (!command)
        fail(error, VM_ERROR_NOT_FOUND, "there is no command '%.40s'", name);
    else if (arguments && !json_is_object(arguments))
        fail(error, VM_ERROR_INVALID, "%s: arguments are a JSON object", name);
    else
        return command->fn(sw, arguments, error);
    return NULL;
}

static json_t *error_reply(const GError *why)
{
    bool unknown = why->domain == VM_ERROR && why->code == VM_ERROR_NOT_FOUND;

    return json_pack("{s:{s:s, s:s}}", "error", "class",
                     unknown ? "DeviceNotFound" : "GenericError", "desc", why->message);
}

/* NULL: the client is gone. */
static json_t *answer(Client *c, const char *line)
{
    g_autoptr(GError) why = NULL;
    json_t *message = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    bool capture = g_str_equal(json_get_text(message, "execute"), "capture");
    json_t *result = capture ? NULL : execute(c->sw, message, &why);
    bool captured = capture && is_captured(c, message, &why);

    json_decref(message);
    if (captured)
        return NULL;
    return result ? json_pack("{s:o}", "return", result) : error_reply(why);
}

/* ---- sockets ----------------------------------------------------------------------- */

/* False: it is to be hung up on. */
static bool write_reply(Client *c)
{
    while (c->reply_at < c->reply_len) {
        ssize_t n = send(c->fd, c->reply + c->reply_at, c->reply_len - c->reply_at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return false;
        c->reply_at += (size_t)n;
    }
    if (c->reply_at == c->reply_len)
        g_clear_pointer(&c->reply, free);
    ioloop_watch_events(&c->watch, c->reply ? EPOLLOUT : EPOLLIN);
    return c->reply || !c->ends;
}

static bool reply(Client *c, json_t *message)
{
    char *text = json_dumps(message, JSON_COMPACT);

    json_decref(message);
    c->reply_len = strlen(text);
    c->reply_at = 0;
    c->reply = text;
    text[c->reply_len++] = '\n'; /* in place of the NUL */
    return write_reply(c);
}

static bool obey_lines(Client *c)
{
    char *line;
    json_t *message;

    while (!c->reply && (line = lines_next(&c->lines)))
        if (!(message = answer(c, line)) || !reply(c, message))
            return false;
    return true;
}

static bool read_client(Client *c)
{
    static const char *const too_long = "a command is at most 2 MiB long";
    LinesResult result = lines_read(&c->lines, c->fd);

    if (!obey_lines(c) || result == LINES_END)
        return false;
    if (result != LINES_LONG || c->reply)
        return true;
    c->ends = true;
    return reply(c, json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc",
                              too_long));
}

static void on_client(void *opaque, uint32_t events)
{
    Client *c = opaque;
    bool fine = true;

    switch_turn(c->sw);
    if (c->reply)
        fine = write_reply(c) && obey_lines(c);
    else
        fine = read_client(c);
    switch_flush(c->sw);
    if (!fine)
        client_free(c);
}

void clients_accept(Switch *sw, int fd)
{
    Client *c = g_new0(Client, 1);

    if (!sw->clients)
        sw->clients = g_new0(Clients, 1);
    c->sw = sw;
    c->fd = fd;
    c->lines.max = MAX_LINE;
    c->next = sw->clients->first;
    sw->clients->first = c;
    sw->clients->n++;
    if (sw->clients->n > MAX_CLIENTS ||
        !ioloop_watch(sw->loop, &c->watch, fd, EPOLLIN, on_client, c, NULL))
        client_free(c);
    else if (sw->users_changed)
        sw->users_changed(sw);
}

unsigned clients_count(const Switch *sw)
{
    return sw->clients ? sw->clients->n : 0;
}

void clients_free(Clients *clients)
{
    while (clients && clients->first)
        client_free(clients->first);
    g_free(clients);
}
