/* Monitors that have connected and say who they are: from there to a port.
 *
 * They do so at once.  Of those that do not there is a bounded number, of one process and
 * of all, and they take a bounded number of bytes; beyond that those go that have waited
 * longest.  So nobody who says nothing keeps away who does. */
#include <errno.h>
#include <jansson.h>
#include <sys/socket.h>

#include "src/switch/gateway.h"
#include "src/switch/guard.h"
#include "src/switch/peer.h"
#include "src/switch/rules.h"
#include "src/switch/vm_link.h"
#include "util/fd.h"
#include "util/log.h"

enum {
    HELLO_MS = 10000,
    MAX_GUESTS = 512,
    MAX_OF_PROCESS = 32, /* as many as a VM has slots for cards */
    MAX_BYTES = 16 << 20,
};

typedef struct Guest {
    Switch *sw;
    int fd;
    pid_t pid; /* 0: not to be seen from here */
    IoWatch watch;
    IoTimer timer;
    Lines lines;
    struct Guest *next; /* it came before this one */
} Guest;

static void guest_free(Guest *g)
{
    Guest **at = &g->sw->guests;

    while (*at != g)
        at = &(*at)->next;
    *at = g->next;
    ioloop_unwatch(&g->watch);
    ioloop_timer_cancel(&g->timer);
    lines_free(&g->lines);
    fd_close(&g->fd);
    if (g->sw->users_changed)
        g->sw->users_changed(g->sw);
    g_free(g);
}

/* ---- answers ----------------------------------------------------------------------- */

/* A line is far shorter than what an empty socket takes. */
static bool say(int fd, json_t *reply, const VmFds *fds)
{
    g_autofree char *line = NULL;
    char *text = json_dumps(reply, JSON_COMPACT);
    union {
        char room[CMSG_SPACE(sizeof(fds->fd))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    line = g_strconcat(text, "\n", NULL);
    free(text);
    json_decref(reply);
    iov = (struct iovec){line, strlen(line)};
    if (fds) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(fds->n * sizeof(int));
        CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(fds->n * sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds->fd, fds->n * sizeof(int));
    }
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)iov.iov_len;
}

static void refuse(Guest *g, const GError *why)
{
    say(g->fd,
        json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc",
                  why->message),
        NULL);
}

/* ---- who may come ------------------------------------------------------------------ */

/* A monitor that was killed may be back before we have seen its old socket's end; and a
 * stream has its MAC by nothing but its first frame, which keeps no VM away. */
static bool is_taken(Port *other)
{
    if (!other)
        return false;
    if (port_is_vm(other) && !port_vm_is_dead(other))
        return true;
    if (port_is_vm(other))
        port_free(other);
    else
        port_lose_mac(other);
    return false;
}

static bool is_unique(Switch *sw, const Hello *hello, GError **error)
{
    char mac[MAC_TEXT];
    Port *other = hello->vm ? port_find(sw, hello->vm, hello->nic) : NULL;

    if (is_taken(other))
        return fail(
            error, VM_ERROR_BUSY,
            "%s of %s is on this network already (port %u); give the card another "
            "id=, or end the other VM of that name",
            hello->nic, hello->vm, other->id);
    if (mac_equal(&hello->mac, gateway_mac(sw->gateway)))
        return fail(error, VM_ERROR_BUSY,
                    "the MAC %s is that of the network's gateway; give this card another "
                    "with mac=",
                    mac_text(&hello->mac, mac));
    other = port_by_mac(sw, &hello->mac);
    if (is_taken(other))
        return fail(error, VM_ERROR_BUSY,
                    "the MAC %s is that of %s; give this card another with mac=",
                    mac_text(&hello->mac, mac), port_text(other));
    return true;
}

static void fill_in(Port *port, Hello *hello)
{
    port->vm = g_steal_pointer(&hello->vm);
    port->nic = g_steal_pointer(&hello->nic);
    port->instance = g_steal_pointer(&hello->instance);
    port->kept_as = g_strconcat(port->instance, "/", port->nic, NULL);
    port->groups = g_steal_pointer(&hello->groups);
    port->trunk = g_steal_pointer(&hello->trunk);
    port->mac = hello->mac;
    port->vlan = hello->vlan;
    port->trusted = hello->trust;
    port->offloads = hello->offloads;
}

/* Nobody else sees the port before all of this has gone well. */
static bool set_up(Guest *g, Port *port, Hello *hello, const VmFds *fds, GError **error)
{
    json_t *reply;
    int fd;

    fill_in(port, hello);
    if (!rules_port_begin(port, hello->firewall, error))
        return false;
    for (unsigned i = 0; i < hello->n_ip; i++)
        if (!guard_add(port->guard, &hello->ip[i], error))
            return false;
    if (!port_begin(port, error))
        return false;
    ioloop_unwatch(&g->watch);
    fd = fd_steal(&g->fd);
    if (!port_vm_connect(port, fd, &g->lines, error))
        return false;
    reply = json_pack("{s:{s:i, s:i, s:i, s:b}}", "return", "port", (int)port->id, "mtu",
                      (int)port->sw->config->mtu, "queues", (int)hello->queues, "link",
                      port->link);
    if (!say(fd, reply, fds))
        return fail_errno(error, "answer the monitor");
    return true;
}

static bool welcome(Guest *g, const char *line, GError **error)
{
    VmFds fds = {.n = 0};
    Hello hello;
    Port *port = NULL;
    bool fine = hello_parse(line, &hello, error) && is_unique(g->sw, &hello, error) &&
                (port = port_vm_new(g->sw, &hello, &fds, error));

    if (fine && !set_up(g, port, &hello, &fds, error)) {
        port_free(port);
        fine = false;
    }
    vm_fds_close(&fds);
    hello_free(&hello);
    return fine;
}

/* ---- how many ---------------------------------------------------------------------- */

typedef struct Crowd {
    unsigned n, n_of_process;
    size_t bytes;
    Guest *oldest, *oldest_of_process; /* but the one that is asked for */
} Crowd;

static Crowd crowd_of(Switch *sw, const Guest *asked)
{
    Crowd c = {0};

    for (Guest *g = sw->guests; g; g = g->next) {
        c.n++;
        c.bytes += g->lines.room;
        if (g != asked)
            c.oldest = g;
        if (g->pid != asked->pid)
            continue;
        c.n_of_process++;
        if (g != asked)
            c.oldest_of_process = g;
    }
    return c;
}

/* For one that has come, or has sent something. */
static void make_room(Guest *g)
{
    static LogLimit limit;
    Crowd c = crowd_of(g->sw, g);

    while (c.n > MAX_GUESTS || c.n_of_process > MAX_OF_PROCESS || c.bytes > MAX_BYTES) {
        bool many = c.n_of_process > MAX_OF_PROCESS;
        Guest *goes = many ? c.oldest_of_process : c.oldest;

        if (log_limit(&limit))
            log_warn("network %s: process %d has connected, has not said who it is, and "
                     "is hung up on for others",
                     g->sw->name, (int)goes->pid);
        guest_free(goes);
        c = crowd_of(g->sw, g);
    }
}
_Static_assert((int)MAX_BYTES > (int)PORT_MAX_LINE, "one alone has room");

/* ---- the socket -------------------------------------------------------------------- */

static void on_line(Guest *g, const char *line)
{
    g_autoptr(GError) why = NULL;

    if (!welcome(g, line, &why) && g->fd >= 0)
        refuse(g, why);
    guest_free(g);
}

static void on_socket(void *opaque, uint32_t events)
{
    Guest *g = opaque;
    LinesResult result = lines_read(&g->lines, g->fd);
    char *line = lines_next(&g->lines);

    switch_turn(g->sw);
    if (line)
        on_line(g, line);
    else if (result == LINES_END || result == LINES_LONG)
        guest_free(g);
    else
        make_room(g);
}

static void on_late(void *opaque)
{
    guest_free(opaque);
}

void port_vm_accept(Switch *sw, int fd)
{
    Guest *g = g_new0(Guest, 1);

    g->sw = sw;
    g->fd = fd;
    g->pid = peer_pid(fd);
    g->lines.max = PORT_MAX_LINE;
    g->next = sw->guests;
    sw->guests = g;
    ioloop_timer(sw->loop, &g->timer, clock_ns() + HELLO_MS * 1000000ll, on_late, g);
    make_room(g);
    if (!ioloop_watch(sw->loop, &g->watch, fd, EPOLLIN, on_socket, g, NULL))
        guest_free(g);
    else if (sw->users_changed)
        sw->users_changed(sw);
}

unsigned port_vm_waiting(Switch *sw)
{
    unsigned n = 0;

    for (const Guest *g = sw->guests; g; g = g->next)
        n++;
    return n;
}

void port_vm_close_waiting(Switch *sw)
{
    while (sw->guests)
        guest_free(sw->guests);
}
