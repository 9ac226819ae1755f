/* A new pseudo-terminal, whose name is told on stderr.  Programs may open and close the
 * other end as they like; while none has it open, output is kept for the next. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>

#include "src/chardev/chardev_private.h"
#include "util/log.h"

/* The kernel tells us when the last user closes the other end, but not when the next one
 * opens it: that we look for. */
enum { LOOK_EVERY_NS = 250 * 1000 * 1000 };

typedef struct Pty {
    int master;
    IoTimer timer;
} Pty;

static void look(void *opaque)
{
    Chardev *c = opaque;
    Pty *p = c->backend;
    struct pollfd poll_fd = {.fd = p->master, .events = POLLIN};
    autofd in = -1, out = -1;

    poll(&poll_fd, 1, 0);
    if (!(poll_fd.revents & POLLHUP)) {
        in = fcntl(p->master, F_DUPFD_CLOEXEC, 3);
        out = fcntl(p->master, F_DUPFD_CLOEXEC, 3);
    }
    if (in >= 0 && out >= 0)
        chardev_attach(c, fd_steal(&in), fd_steal(&out));
    else
        ioloop_timer(c->loop, &p->timer, clock_ns() + LOOK_EVERY_NS, look, c);
}

static void pty_hangup(Chardev *c)
{
    Pty *p = c->backend;

    ioloop_timer(c->loop, &p->timer, clock_ns() + LOOK_EVERY_NS, look, c);
}

/* Raw from the start, or the line discipline would echo our output back to us; the
 * settings stay when we close our end. */
static bool make_raw(const char *name, GError **error)
{
    struct termios t;
    autofd slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (slave < 0 || tcgetattr(slave, &t) < 0)
        return fail_errno(error, "open '%s'", name);
    cfmakeraw(&t);
    if (tcsetattr(slave, TCSANOW, &t) < 0)
        return fail_errno(error, "set up '%s'", name);
    return true;
}

static bool pty_open(Chardev *c, const ChardevOptions *options, GError **error)
{
    Pty *p = c->backend = g_new0(Pty, 1);
    char name[64];

    p->master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (p->master < 0)
        return fail_errno(error, "make a pseudo-terminal (/dev/ptmx)");
    if (grantpt(p->master) < 0 || unlockpt(p->master) < 0 ||
        ptsname_r(p->master, name, sizeof(name)) != 0)
        return fail_errno(error, "make a pseudo-terminal");
    if (!make_raw(name, error))
        return false;
    log_info("%s is %s", c->id, name);
    g_free(c->filename);
    c->filename = g_strconcat("pty:", name, NULL);
    c->sink = SINK_HOLD;
    pty_hangup(c);
    return true;
}

static void pty_close(Chardev *c)
{
    Pty *p = c->backend;

    if (!p)
        return;
    ioloop_timer_cancel(&p->timer);
    fd_close(&p->master);
    g_free(p);
}

const ChardevOps chardev_pty_ops = {
    .name = "pty", .open = pty_open, .close = pty_close, .hangup = pty_hangup};
