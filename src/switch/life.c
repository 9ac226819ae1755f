/* See life.h; the order in which a switch goes is in network/place.h. */
#include "src/switch/life.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/signalfd.h>

#include "network/place.h"
#include "src/switch/control.h"
#include "src/switch/join.h"
#include "src/switch/port_vm.h"
#include "util/fd.h"

#define LINGER_NS 2000000000ll
#define AGAIN_NS  200000000ll /* somebody is joining just now */

bool life_begin(Life *life, const char *name, GError **error)
{
    g_autofree char *path = NULL;

    *life = (Life){.lock_fd = -1, .signal_fd = -1, .start_fd = -1};
    if (!network_make_place(name, error))
        return false;
    path = network_place(name, NETWORK_LOCK, error);
    if (!path)
        return false;
    life->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (life->lock_fd < 0)
        return fail_errno(error, "open '%s'", path);
    if (flock(life->lock_fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return fail(error, VM_ERROR_BUSY, "the network %s has a switch already", name);
    if (ftruncate(life->lock_fd, 0) < 0 || dprintf(life->lock_fd, "%d\n", getpid()) < 0)
        return fail_errno(error, "write '%s'", path);
    return true;
}

static bool has_users(Switch *sw)
{
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && !sw->port[i]->service)
            return true;
    return clients_count(sw) || port_vm_waiting(sw) || sw->captures;
}

static void on_timer(void *opaque)
{
    Life *life = opaque;
    Switch *sw = life->sw;
    g_autoptr(GError) error = NULL;

    /* No lock can be had of a run folder that was removed, as at the end of a session:
     * nobody finds us there any more, so nobody can come while we end. */
    life->start_fd = network_lock_start(sw->name, LOCK_EX | LOCK_NB, &error);
    if (g_error_matches(error, VM_ERROR, VM_ERROR_BUSY)) {
        ioloop_timer(sw->loop, &life->timer, clock_ns() + AGAIN_NS, on_timer, life);
        return;
    }
    join_accept(sw);
    if (has_users(sw))
        fd_close(&life->start_fd);
    else
        ioloop_quit(sw->loop); /* life_end() lets go of start.lock */
}

static void users_changed(Switch *sw)
{
    Life *life = sw->life;

    if (has_users(sw))
        ioloop_timer_cancel(&life->timer);
    else if (!life->timer.loop)
        ioloop_timer(sw->loop, &life->timer, clock_ns() + LINGER_NS, on_timer, life);
}

static void on_signal(void *opaque, uint32_t events)
{
    ioloop_quit(((Life *)opaque)->sw->loop);
}

bool life_watch(Life *life, Switch *sw, GError **error)
{
    sigset_t ends;

    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGHUP);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    life->signal_fd = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
    if (life->signal_fd < 0)
        return fail_errno(error, "make a descriptor for signals");
    life->sw = sw;
    sw->life = life;
    sw->users_changed = users_changed;
    users_changed(sw);
    return ioloop_watch(sw->loop, &life->signals, life->signal_fd, EPOLLIN, on_signal,
                        life, error);
}

void life_end(Life *life)
{
    fd_close(&life->signal_fd);
    fd_close(&life->lock_fd);
    fd_close(&life->start_fd);
}
