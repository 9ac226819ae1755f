/* See control/client.h. */
#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "control/place.h"
#include "src/control/frame.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/unixsocket.h"

enum {
    GREETING_MS = 10 * 1000,
    MAX_MESSAGE = 64 * 1024 * 1024,
    MAX_EVENTS = 4096, /* that nobody has asked for */
    READ_SIZE = 16 * 1024,
};

struct ControlClient {
    char *vm;
    int fd;
    Frame frame;
    char in[READ_SIZE];
    size_t in_at, in_len;
    GQueue events; /* json_t; those that came while a reply was waited for */
};

/* ---- messages -------------------------------------------------------------------------
 */

static bool fail_vm(const ControlClient *c, GError **error, VmErrorCode code,
                    const char *what)
{
    return fail(error, code, "VM '%s': %s", c->vm, what);
}

/* False without an error: the deadline is over. */
static bool wait_readable(ControlClient *c, int64_t deadline_ns, GError **error)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    int n;

    do
        n = poll(&p, 1, clock_left_ms(deadline_ns));
    while (n < 0 && errno == EINTR);
    return n < 0 ? fail_errno(error, "VM '%s': wait for it", c->vm) : n > 0;
}

static bool read_more(ControlClient *c, int64_t deadline_ns, GError **error)
{
    ssize_t n;

    if (!wait_readable(c, deadline_ns, error))
        return false;
    do
        n = recv(c->fd, c->in, sizeof(c->in), 0);
    while (n < 0 && errno == EINTR);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return fail_vm(c, error, VM_ERROR_NOT_FOUND, "it has ended");
    if (n < 0)
        return fail_errno(error, "VM '%s': read from it", c->vm);
    c->in_at = 0;
    c->in_len = (size_t)n;
    return true;
}

static json_t *parse(ControlClient *c, GError **error)
{
    json_error_t where;
    json_t *message = json_loadb(c->frame.text->str, c->frame.text->len, 0, &where);

    if (json_is_object(message))
        return message;
    json_decref(message);
    fail_vm(c, error, VM_ERROR_CORRUPT, "what it says is not QMP");
    return NULL;
}

/* NULL without an error: the deadline is over. */
static json_t *next_message(ControlClient *c, int64_t deadline_ns, GError **error)
{
    for (;;) {
        FrameResult result;
        size_t used;

        if (c->in_at == c->in_len && !read_more(c, deadline_ns, error))
            return NULL;
        result = frame_take(&c->frame, c->in + c->in_at, c->in_len - c->in_at, &used,
                            error);
        c->in_at += used;
        if (result == FRAME_VALUE)
            return parse(c, error);
        if (result == FRAME_BAD) {
            g_prefix_error(error, "VM '%s': ", c->vm);
            return NULL;
        }
    }
}

static void keep_event(ControlClient *c, json_t *event)
{
    if (c->events.length == MAX_EVENTS)
        json_decref(g_queue_pop_head(&c->events));
    g_queue_push_tail(&c->events, event);
}

static bool write_message(ControlClient *c, json_t *message, GError **error)
{
    char *text = json_dumps(message, JSON_COMPACT);
    size_t len = text ? strlen(text) : 0, done = 0;
    ssize_t n = 0;

    if (!text)
        return fail_vm(c, error, VM_ERROR_INVALID, "the message is no JSON text");
    for (; done < len && (n >= 0 || errno == EINTR); done += n > 0 ? (size_t)n : 0)
        n = send(c->fd, text + done, len - done, MSG_NOSIGNAL);
    free(text);
    if (done == len)
        return true;
    if (errno == EPIPE || errno == ECONNRESET)
        return fail_vm(c, error, VM_ERROR_NOT_FOUND, "it has ended");
    return fail_errno(error, "VM '%s': write to it", c->vm);
}

/* ---- connecting -----------------------------------------------------------------------
 */

static bool fail_connect(const char *vm, GError **error)
{
    bool is_path = strchr(vm, '/') != NULL;
    int err = errno;
    PlaceInfo info = {.state = PLACE_NONE};

    g_clear_error(error);
    if (!is_path && place_look(vm, &info, NULL) && info.state != PLACE_RUNNING)
        return place_fail(vm, info.state, error);
    if (info.state == PLACE_RUNNING && (err == ENOENT || err == ECONNREFUSED))
        return fail(error, VM_ERROR_BUSY,
                    "the VM '%s' is just beginning or ending; try again in a moment", vm);
    errno = err;
    if (errno == ENOENT)
        return fail(error, VM_ERROR_NOT_FOUND, "there is no socket '%s'", vm);
    if (errno == ECONNREFUSED)
        return fail(error, VM_ERROR_NOT_FOUND, "nobody listens on '%s' any more", vm);
    return fail_errno(error, "connect to VM '%s'", vm);
}

static bool greet(ControlClient *c, GError **error)
{
    int64_t deadline_ns = clock_ns() + (int64_t)GREETING_MS * 1000000;
    g_autoptr(GError) inner = NULL;
    json_t *greeting = next_message(c, deadline_ns, &inner), *reply;
    bool is_qmp = json_object_get(greeting, "QMP") != NULL;
    json_t *refusal = json_object_get(json_object_get(greeting, "error"), "desc");

    if (is_qmp) {
        reply = control_client_call(c, "qmp_capabilities", NULL, error);
        json_decref(reply);
        json_decref(greeting);
        return reply != NULL;
    }
    if (inner)
        g_propagate_error(error, g_steal_pointer(&inner));
    else if (!greeting)
        fail_vm(c, error, VM_ERROR_BUSY, "it does not answer; its monitor may hang");
    else
        fail_vm(c, error, VM_ERROR_INVALID,
                refusal ? json_string_value(refusal) : "it does not speak QMP");
    json_decref(greeting);
    return false;
}

ControlClient *control_client_connect(const char *vm, GError **error)
{
    g_autofree char *path = strchr(vm, '/') ? g_strdup(vm) : place_find(vm, error);
    g_autoptr(ControlClient) c = NULL;
    int fd;

    if (!path)
        return NULL;
    fd = unix_connect(path, error);
    if (fd < 0) {
        fail_connect(vm, error);
        return NULL;
    }
    c = g_new0(ControlClient, 1);
    c->fd = fd;
    c->vm = g_strdup(vm);
    g_queue_init(&c->events);
    frame_init(&c->frame, MAX_MESSAGE);
    return greet(c, error) ? g_steal_pointer(&c) : NULL;
}

int control_client_fd(const ControlClient *c)
{
    return c->fd;
}

/* Who listened on the socket, and greeted us just now. */
int control_client_pidfd(const ControlClient *c, GError **error)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int fd = -1;

    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
        fd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    if (fd < 0)
        fail_errno(error, "VM '%s': find its monitor's process", c->vm);
    return fd;
}

void control_client_free(ControlClient *c)
{
    if (!c)
        return;
    while (c->events.length)
        json_decref(g_queue_pop_head(&c->events));
    frame_finish(&c->frame);
    fd_close(&c->fd);
    g_free(c->vm);
    g_free(c);
}

/* ---- using ----------------------------------------------------------------------------
 */

json_t *control_client_send(ControlClient *c, json_t *message, GError **error)
{
    bool sent = write_message(c, message, error);
    json_t *reply = NULL;

    json_decref(message);
    while (sent && (reply = next_message(c, -1, error)) &&
           json_object_get(reply, "event"))
        keep_event(c, reply);
    return reply;
}

json_t *control_client_call(ControlClient *c, const char *command, json_t *arguments,
                            GError **error)
{
    json_t *message = json_pack("{s:s}", "execute", command);
    json_t *reply, *result, *desc;

    if (!message) {
        json_decref(arguments);
        fail_vm(c, error, VM_ERROR_INVALID, "the command's name is not text");
        return NULL;
    }
    if (arguments)
        json_object_set_new(message, "arguments", arguments);
    reply = control_client_send(c, message, error);
    if (!reply)
        return NULL;
    result = json_incref(json_object_get(reply, "return"));
    desc = json_object_get(json_object_get(reply, "error"), "desc");
    if (!result && desc)
        fail(error, VM_ERROR_INVALID, "%s", json_string_value(desc));
    else if (!result)
        fail_vm(c, error, VM_ERROR_CORRUPT, "what it says is not QMP");
    json_decref(reply);
    return result;
}

json_t *control_client_event(ControlClient *c, int timeout_ms, GError **error)
{
    int64_t deadline_ns = timeout_ms < 0 ? -1
                                         : clock_ns() + (int64_t)timeout_ms * 1000000;
    json_t *message = g_queue_pop_head(&c->events);

    if (message)
        return message;
    while ((message = next_message(c, deadline_ns, error)) &&
           !json_object_get(message, "event"))
        json_decref(message); /* a reply that nobody waits for */
    return message;
}
