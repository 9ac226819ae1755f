/* Commands to switches; see network_call() and network_ask() in network/place.h. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "network/place.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/unixsocket.h"

enum {
    CALL_MS = 30000,
    MAX_REPLY = 64 * 1024 * 1024, /* flows of a thousand VMs */
    PIECE = 16384,
};

static int connect_running(const char *name, GError **error)
{
    g_autofree char *path = network_place(name, NETWORK_CONTROL, error);
    int fd = path ? unix_connect(path, NULL) : -1;

    if (path && fd < 0)
        fail(error, VM_ERROR_BUSY, "network '%s' is not in use: no VM is on it now",
             name);
    return fd;
}

static char *make_line(const char *command, json_t *arguments)
{
    json_t *message = json_pack("{s:s, s:o*}", "execute", command, "arguments",
                                arguments);
    char *text = json_dumps(message, JSON_COMPACT), *line = g_strconcat(text, "\n", NULL);

    free(text);
    json_decref(message);
    return line;
}

static bool send_all(int fd, const char *text)
{
    size_t len = strlen(text);

    while (len) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        text += n;
        len -= (size_t)n;
    }
    return true;
}

/* One line; false with errno: 0 for a switch that hung up. */
static bool receive_line(int fd, int64_t deadline_ns, GString *line)
{
    char piece[PIECE];

    while (line->len < MAX_REPLY) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = poll(&p, 1, clock_left_ms(deadline_ns));
        ssize_t n = ready > 0 ? recv(fd, piece, sizeof(piece), 0) : ready;

        if (ready == 0)
            errno = ETIMEDOUT;
        else if (n == 0)
            errno = 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        g_string_append_len(line, piece, n);
        if (memchr(piece, '\n', (size_t)n))
            return true;
    }
    errno = EMSGSIZE;
    return false;
}

static json_t *result_of(const char *name, const char *text, GError **error)
{
    json_t *reply = json_loads(text, 0, NULL);
    json_t *value = json_object_get(reply, "return");
    json_t *failed = json_object_get(reply, "error");
    bool found = !g_str_equal(json_get_text(failed, "class"), "DeviceNotFound");

    json_incref(value);
    if (failed)
        fail(error, found ? VM_ERROR_INVALID : VM_ERROR_NOT_FOUND, "network '%s': %s",
             name, json_get_text(failed, "desc"));
    else if (!value)
        fail(error, VM_ERROR_CORRUPT, "network '%s': its switch talks nonsense", name);
    json_decref(reply);
    return value;
}

static json_t *exchange(int fd, const char *name, const char *line, GError **error)
{
    g_autoptr(GString) reply = g_string_new(NULL);

    if (send_all(fd, line) && receive_line(fd, clock_ns() + CALL_MS * 1000000ll, reply))
        return result_of(name, reply->str, error);
    if (errno && errno != ECONNRESET && errno != EPIPE)
        fail_errno(error, "network '%s': ask its switch", name);
    else
        fail(error, VM_ERROR_BUSY, "network '%s': its switch has ended; try again", name);
    return NULL;
}

json_t *network_call(const char *name, bool start, const char *command, json_t *arguments,
                     GError **error)
{
    g_autofree char *line = make_line(command, arguments);
    autofd fd = start ? network_join(name, NETWORK_CONTROL, error)
                      : connect_running(name, error);

    return fd < 0 ? NULL : exchange(fd, name, line, error);
}

/* ---- many at once -------------------------------------------------------------- */

static int begin(const char *name, const char *line)
{
    g_autofree char *path = network_place(name, NETWORK_CONTROL, NULL);
    autofd fd = path ? unix_connect_now(path, NULL) : -1;

    return fd >= 0 && send_all(fd, line) ? fd_steal(&fd) : -1;
}

static json_t *hear(int fd, const char *name, int64_t deadline_ns)
{
    g_autoptr(GString) reply = g_string_new(NULL);
    g_autoptr(GError) why = NULL;

    return fd >= 0 && receive_line(fd, deadline_ns, reply)
               ? result_of(name, reply->str, &why)
               : NULL;
}

void network_ask(char *const *names, unsigned n, const char *command, int limit_ms,
                 json_t **ret)
{
    g_autofree char *line = make_line(command, NULL);
    int64_t deadline_ns = clock_ns() + (int64_t)limit_ms * 1000000;
    g_autofree int *fds = g_new(int, n);

    for (unsigned i = 0; i < n; i++)
        fds[i] = begin(names[i], line);
    for (unsigned i = 0; i < n; i++) {
        ret[i] = hear(fds[i], names[i], deadline_ns);
        fd_close(&fds[i]);
    }
}
