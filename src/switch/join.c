/* See join.h. */
#include "src/switch/join.h"

#include <errno.h>
#include <sys/socket.h>

#include "network/place.h"
#include "src/switch/control.h"
#include "src/switch/port_stream.h"
#include "src/switch/port_vm.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum { BACKLOG = 512, RETRY_NS = 100000000 };

static const struct {
    const char *file;
    void (*accept)(Switch *sw, int fd); /* takes over fd */
} doors[] = {
    {NETWORK_PORT, port_vm_accept},
    {NETWORK_STREAM, port_stream_accept},
    {NETWORK_CONTROL, clients_accept},
};
enum { DOORS = G_N_ELEMENTS(doors) };

typedef struct Door {
    Switch *sw;
    void (*accept)(Switch *sw, int fd);
    UnixListener listener;
    IoWatch watch;
} Door;

struct Join {
    Door door[DOORS];
    IoTimer retry; /* no more descriptors: those that wait are left for a moment */
    LogLimit log;
};

static void on_retry(void *opaque)
{
    Switch *sw = opaque;

    for (unsigned i = 0; i < DOORS; i++)
        ioloop_watch_events(&sw->join->door[i].watch, EPOLLIN);
}

static void out_of_descriptors(Switch *sw)
{
    Join *join = sw->join;

    if (log_limit(&join->log))
        log_warn("%s: cannot take in one more connection: %s", sw->name,
                 g_strerror(errno));
    for (unsigned i = 0; i < DOORS; i++)
        ioloop_watch_events(&join->door[i].watch, 0);
    ioloop_timer(sw->loop, &join->retry, clock_ns() + RETRY_NS, on_retry, sw);
}

static void on_door(void *opaque, uint32_t events)
{
    Door *door = opaque;
    int fd = accept4(door->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        door->accept(door->sw, fd);
    else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
        out_of_descriptors(door->sw);
}

void join_accept(Switch *sw)
{
    for (unsigned i = 0; i < DOORS; i++) {
        Door *door = &sw->join->door[i];
        int fd;

        while ((fd = accept4(door->listener.fd, NULL, NULL,
                             SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
            door->accept(sw, fd);
    }
}

static bool open_door(Switch *sw, unsigned i, GError **error)
{
    Door *door = &sw->join->door[i];
    g_autofree char *path = network_place(sw->name, doors[i].file, error);

    door->sw = sw;
    door->accept = doors[i].accept;
    return path && unix_listen(&door->listener, path, BACKLOG, error) &&
           ioloop_watch(sw->loop, &door->watch, door->listener.fd, EPOLLIN, on_door, door,
                        error);
}

bool join_listen(Switch *sw, GError **error)
{
    sw->join = g_new0(Join, 1);
    for (unsigned i = 0; i < DOORS; i++)
        sw->join->door[i].listener.fd = -1;
    for (unsigned i = 0; i < DOORS; i++)
        if (!open_door(sw, i, error))
            return false;
    return true;
}

void join_free(Join *join)
{
    if (!join)
        return;
    ioloop_timer_cancel(&join->retry);
    for (unsigned i = 0; i < DOORS; i++) {
        ioloop_unwatch(&join->door[i].watch);
        unix_unlisten(&join->door[i].listener);
    }
    g_free(join);
}
