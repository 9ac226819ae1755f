/* See src/agent/link.h.
 *
 * Turns.  The socket serves one client at a time, so each holds a lock while it is
 * connected: byte TURN of agent.lock.  Who waits for it holds byte NEXT, so that who has
 * the turn can see that somebody waits; and who has just given it up queues behind.  Both
 * are locks of the open file (F_OFD_SETLK), which the kernel takes back when a process
 * dies, however that happens. */
#include "src/agent/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "control/place.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/unixsocket.h"

enum { TURN, NEXT };
enum { LOOK_NS = 5 * 1000 * 1000, READ_SIZE = 64 * 1024 };

/* ---- turns ----------------------------------------------------------------------------
 */

static struct flock lock_of(int byte, short type)
{
    return (struct flock){
        .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

static void unlock(const AgentLink *l, int byte)
{
    struct flock k = lock_of(byte, F_UNLCK);

    fcntl(l->lock_fd, F_OFD_SETLK, &k);
}

/* False without an error: the deadline is over. */
static bool lock(const AgentLink *l, int byte, int64_t deadline_ns, GError **error)
{
    for (;;) {
        struct flock k = lock_of(byte, F_WRLCK);

        if (fcntl(l->lock_fd, F_OFD_SETLK, &k) == 0)
            return true;
        if (errno != EAGAIN && errno != EACCES && errno != EINTR)
            return fail_errno(error, "lock '%s'", l->lock_path);
        if (clock_ns() >= deadline_ns)
            return false;
        g_usleep(LOOK_NS / 1000);
    }
}

static bool take_turn(const AgentLink *l, int64_t deadline_ns, GError **error)
{
    bool ok = lock(l, NEXT, deadline_ns, error);

    if (ok) {
        ok = lock(l, TURN, deadline_ns, error);
        unlock(l, NEXT);
    }
    return ok;
}

bool link_wanted(const AgentLink *l)
{
    struct flock k = lock_of(NEXT, F_WRLCK);

    return l->fd >= 0 && fcntl(l->lock_fd, F_OFD_GETLK, &k) == 0 && k.l_type != F_UNLCK;
}

/* ---- connecting -----------------------------------------------------------------------
 */

static bool find(AgentLink *l, const char *vm, GError **error)
{
    g_autofree char *folder = NULL;
    PlaceInfo info;

    l->path = strchr(vm, '/') ? g_strdup(vm) : place_file(vm, AGENT_SOCKET, error);
    if (!l->path)
        return false;
    folder = g_path_get_dirname(l->path);
    l->lock_path = g_build_filename(folder, "agent.lock", NULL);
    if (g_file_test(l->path, G_FILE_TEST_EXISTS))
        return true;
    if (strchr(vm, '/'))
        return fail(error, VM_ERROR_NOT_FOUND, "there is no socket '%s'", vm);
    if (!place_look(vm, &info, error))
        return false;
    if (info.state != PLACE_RUNNING)
        return place_fail(vm, info.state, error);
    return fail(error, VM_ERROR_NOT_FOUND,
                "the VM '%s' has no port for a guest agent; start it with --agent", vm);
}

bool link_init(AgentLink *l, const char *vm, GError **error)
{
    *l = (AgentLink){.vm = g_strdup(vm), .lock_fd = -1, .fd = -1};
    l->in = g_string_new(NULL);
    return find(l, vm, error);
}

void link_finish(AgentLink *l)
{
    if (!l->in)
        return;
    link_close(l);
    fd_close(&l->lock_fd);
    g_string_free(l->in, TRUE);
    g_free(l->vm);
    g_free(l->path);
    g_free(l->lock_path);
    *l = (AgentLink){0};
}

static bool fail_ended(const AgentLink *l, GError **error)
{
    return fail(error, VM_ERROR_NOT_FOUND, "the VM '%s' does not run any more", l->vm);
}

static bool fail_connect(AgentLink *l, int64_t deadline_ns, GError **error)
{
    if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTSOCK)
        return fail_ended(l, error);
    if (errno == EAGAIN && clock_ns() >= deadline_ns)
        return fail(error, VM_ERROR_BUSY,
                    "VM '%s': too many others wait for its guest agent's socket", l->vm);
    return fail_errno(error, "connect to '%s'", l->path);
}

/* The monitor takes one client; the others wait in its backlog, and who finds that full
 * is told to come again (EAGAIN). */
static bool connect_to(AgentLink *l, int64_t deadline_ns, GError **error)
{
    for (;;) {
        l->fd = unix_connect_now(l->path, NULL);
        if (l->fd >= 0)
            return true;
        if (errno != EAGAIN || clock_ns() >= deadline_ns)
            return fail_connect(l, deadline_ns, error);
        g_usleep(LOOK_NS / 1000);
    }
}

bool link_open(AgentLink *l, int64_t deadline_ns, GError **error)
{
    g_autoptr(GError) inner = NULL;

    if (l->lock_fd < 0)
        l->lock_fd = open(l->lock_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (l->lock_fd < 0)
        return errno == ENOENT ? fail_ended(l, error)
                               : fail_errno(error, "open '%s'", l->lock_path);
    if (!take_turn(l, deadline_ns, &inner)) {
        if (inner)
            g_propagate_error(error, g_steal_pointer(&inner));
        else
            fail(error, VM_ERROR_BUSY,
                 "VM '%s': another process has its guest agent and does not give it up",
                 l->vm);
        return false;
    }
    if (connect_to(l, deadline_ns, error))
        return true;
    unlock(l, TURN);
    return false;
}

void link_close(AgentLink *l)
{
    if (l->fd < 0)
        return;
    fd_close(&l->fd);
    unlock(l, TURN);
    g_string_free(l->in, TRUE); /* may have been long */
    l->in = g_string_new(NULL);
    l->in_at = 0;
}

/* ---- bytes ----------------------------------------------------------------------------
 */

/* False without an error: the deadline is over. */
static bool wait_for(AgentLink *l, short events, int64_t deadline_ns, GError **error)
{
    struct pollfd p = {.fd = l->fd, .events = events};
    int left_ms = clock_left_ms(deadline_ns), n;

    if (left_ms == 0)
        return false;
    n = poll(&p, 1, MIN(left_ms, 1000));
    return n >= 0 || errno == EINTR || fail_errno(error, "wait for '%s'", l->path);
}

bool link_send(AgentLink *l, const char *text, size_t len, int64_t deadline_ns,
               GError **error)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = send(l->fd, text + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0)
            done += (size_t)n;
        else if (errno == EPIPE || errno == ECONNRESET)
            return fail_ended(l, error);
        else if (errno != EAGAIN && errno != EINTR)
            return fail_errno(error, "write to '%s'", l->path);
        else if (!wait_for(l, POLLOUT, deadline_ns, error))
            return false;
    }
    return true;
}

/* Adds to l->in.  False without an error: the deadline is over. */
static bool receive(AgentLink *l, int64_t deadline_ns, GError **error)
{
    char buf[READ_SIZE];
    ssize_t n;

    for (;;) {
        /* A guest that says more and more must not keep us beyond the deadline. */
        if (clock_ns() >= deadline_ns)
            return false;
        n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n > 0) {
            g_string_append_len(l->in, buf, n);
            return true;
        }
        if (n == 0 || errno == ECONNRESET)
            return fail_ended(l, error);
        if (errno != EAGAIN && errno != EINTR)
            return fail_errno(error, "read from '%s'", l->path);
        if (!wait_for(l, POLLIN, deadline_ns, error))
            return false;
    }
}

/* What was used goes, so that the buffer holds one line and what came with it. */
static void drop_used(AgentLink *l)
{
    g_string_erase(l->in, 0, (gssize)l->in_at);
    l->in_at = 0;
}

bool link_skip(AgentLink *l, int64_t deadline_ns, GError **error)
{
    drop_used(l);
    for (;;) {
        const char *mark = memchr(l->in->str, 0xff, l->in->len);

        if (mark) {
            l->in_at = (size_t)(mark - l->in->str) + 1;
            return true;
        }
        g_string_truncate(l->in, 0);
        if (!receive(l, deadline_ns, error))
            return false;
    }
}

bool link_line(AgentLink *l, const char **ret, size_t *ret_len, int64_t deadline_ns,
               GError **error)
{
    size_t seen = 0;

    drop_used(l);
    for (;;) {
        const char *end = memchr(l->in->str + seen, '\n', l->in->len - seen);

        if (end) {
            *ret = l->in->str;
            *ret_len = (size_t)(end - l->in->str);
            l->in_at = *ret_len + 1;
            return true;
        }
        seen = l->in->len;
        if (seen > LINK_MAX_REPLY)
            return fail(error, VM_ERROR_CORRUPT,
                        "VM '%s': its guest agent says more than %d MiB without an end",
                        l->vm, LINK_MAX_REPLY >> 20);
        if (!receive(l, deadline_ns, error))
            return false;
    }
}
