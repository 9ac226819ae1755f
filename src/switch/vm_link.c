/* See vm_link.h.  What a monitor says after its hello: network/port.h. */
#include "src/switch/vm_link.h"

#include <errno.h>
#include <jansson.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "backend/netdev.h"
#include "network/ring.h"
#include "util/fd.h"
#include "util/log.h"

/* ---- memory ------------------------------------------------------------------------ */

void *vm_memory_new(unsigned queues, int *ret_fd, GError **error)
{
    const size_t size = ring_memory(queues);
    autofd fd = fd_memory("hutch-rings", size, 0);
    void *memory = fd < 0 ? MAP_FAILED
                          : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (memory == MAP_FAILED) {
        fail_errno(error, "make the memory of a port's rings");
        return NULL;
    }
    *ret_fd = fd_steal(&fd);
    return memory;
}

void vm_memory_free(void *memory, unsigned queues)
{
    if (memory)
        munmap(memory, ring_memory(queues));
}

void vm_fds_close(VmFds *fds)
{
    for (unsigned i = 0; i < fds->n; i++)
        fd_close(&fds->fd[i]);
    fds->n = 0;
}

/* ---- what it says ------------------------------------------------------------------ */

static void obey(VmLink *l, const json_t *message)
{
    const json_t *offloads = json_object_get(message, "offloads");
    const json_t *link = json_object_get(message, "link");

    if (json_is_integer(offloads))
        l->port->offloads = (unsigned)json_integer_value(offloads) & NET_OFFLOADS;
    if (json_is_boolean(link))
        port_set_plugged(l->port, json_is_true(link));
    if (json_is_true(json_object_get(message, "announce")))
        port_announce(l->port);
}

/* False: it does not keep to the protocol. */
static bool read_lines(VmLink *l)
{
    static LogLimit limit; /* of all: it may come back at once */
    char *line;

    while ((line = lines_next(&l->lines))) {
        json_t *message = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

        if (!json_is_object(message)) {
            json_decref(message);
            if (log_limit(&limit))
                log_warn("%s: sent a line that is no JSON object, and is hung up on",
                         port_text(l->port));
            return false;
        }
        obey(l, message);
        json_decref(message);
    }
    return true;
}

/* ---- what it is told --------------------------------------------------------------- */

static bool tell_now(VmLink *l)
{
    const char *text = l->tell ? "{\"link\": true}\n" : "{\"link\": false}\n";
    ssize_t n;

    if (l->told == l->tell)
        return true;
    n = send(l->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == (ssize_t)strlen(text))
        l->told = l->tell;
    return l->told == l->tell || (n < 0 && errno == EAGAIN);
}

void vm_link_tell(VmLink *l, bool up)
{
    if (l->fd < 0)
        return;
    l->tell = up;
    if (!tell_now(l))
        vm_link_hang_up(l);
    else if (l->told != l->tell) /* it reads too slowly */
        ioloop_watch_events(&l->watch, EPOLLIN | EPOLLOUT);
}

/* ---- the socket -------------------------------------------------------------------- */

static void on_socket(void *opaque, uint32_t events)
{
    VmLink *l = opaque;
    LinesResult result = LINES_WAIT;
    bool fine = true;

    switch_turn(l->port->sw);
    if (events & EPOLLOUT) {
        fine = tell_now(l);
        if (l->told == l->tell)
            ioloop_watch_events(&l->watch, EPOLLIN);
    }
    if (fine && (events & ~(uint32_t)EPOLLOUT)) {
        result = lines_read(&l->lines, l->fd);
        fine = read_lines(l);
    }
    switch_flush(l->port->sw);
    if (!fine || result == LINES_END || result == LINES_LONG)
        l->gone(l->port);
}

bool vm_link_open(VmLink *l, Port *port, int fd, Lines *lines, void (*gone)(Port *port),
                  GError **error)
{
    *l = (VmLink){.port = port,
                  .fd = fd,
                  .lines = *lines,
                  .told = port->link,
                  .tell = port->link,
                  .gone = gone};
    *lines = (Lines){0};
    return ioloop_watch(port->sw->loop, &l->watch, fd, EPOLLIN, on_socket, l, error);
}

void vm_link_close(VmLink *l)
{
    ioloop_unwatch(&l->watch);
    lines_free(&l->lines);
    fd_close(&l->fd);
}

void vm_link_hang_up(VmLink *l)
{
    shutdown(l->fd, SHUT_RDWR);
}

void vm_link_dismiss(VmLink *l)
{
    static const char text[] = "{\"leave\": true}\n";

    send(l->fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    vm_link_hang_up(l);
}

bool vm_link_is_dead(VmLink *l)
{
    char byte;
    ssize_t n = recv(l->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}
