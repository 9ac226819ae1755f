/* Character devices: the output ring and the read-ahead.  Contract in backend/chardev.h;
 * which kind does what is in options.c.
 *
 * Output.  Writers on any thread fill the ring under its lock and kick the loop; only the
 * loop takes bytes out, by plain writes to a non-blocking descriptor.  While the sink is
 * SINK_OPEN writers only append, so the loop reads the ring's filled part without the
 * lock.  While it is SINK_HOLD writers push out the oldest bytes instead of waiting.
 * With a log, bytes are sent, and pushed out, only after the loop has put them there; a
 * writer waits for that, which is a file's time, and what was sent stays in the ring
 * until its room is needed, for the next client.
 *
 * Input.  One buffer of read-ahead stands between the descriptor and the device: it is
 * filled when empty, and offered as far as the device has room.  It lets us notice that a
 * peer hung up, and keys meant for us (stdio's Ctrl-A), while the guest reads nothing. */
#include "backend/chardev.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "src/chardev/chardev_private.h"
#include "util/log.h"

static void pump(Chardev *c);

void chardev_kick(Chardev *c)
{
    if (!__atomic_exchange_n(&c->kicked, true, __ATOMIC_SEQ_CST))
        fd_event_signal(c->kick_fd);
}

static void tell(Chardev *c, ChardevEvent event)
{
    if (c->handlers && c->handlers->event)
        c->handlers->event(c->opaque, event);
}

/* ---- output -------------------------------------------------------------------- */

static void ring_put_locked(Chardev *c, const uint8_t *buf, size_t len)
{
    size_t tail = (c->head + c->used) % CHARDEV_RING;
    size_t first = MIN(len, CHARDEV_RING - tail);

    memcpy(c->ring + tail, buf, first);
    memcpy(c->ring, buf + first, len - first);
    c->used += len;
    c->history = MIN(c->history, CHARDEV_RING - c->used);
    if (c->has_log)
        c->unlogged += len;
}

static void ring_drop_locked(Chardev *c, size_t len)
{
    c->head = (c->head + len) % CHARDEV_RING;
    c->used -= len;
    if (c->has_log)
        c->history += len;
}

/* What was sent is to be sent again. */
static void ring_rewind_locked(Chardev *c)
{
    c->head = (c->head + CHARDEV_RING - c->history) % CHARDEV_RING;
    c->used += c->history;
    c->history = 0;
}

/* Keeps the last ring-full of what was written. */
static void ring_hold_locked(Chardev *c, const uint8_t *buf, size_t len)
{
    size_t keep = MIN(len, CHARDEV_RING);

    if (c->used + keep > CHARDEV_RING)
        ring_drop_locked(c, c->used + keep - CHARDEV_RING);
    ring_put_locked(c, buf + len - keep, keep);
}

void chardev_requeue(Chardev *c, const uint8_t *buf, size_t len)
{
    LOCK_GUARD(&c->lock);
    len = MIN(len, CHARDEV_RING - c->used);
    if (!c->ring || c->sink == SINK_GONE)
        return;
    ring_put_locked(c, buf, len);
    if (c->has_log)
        c->unlogged -= len;
}

size_t chardev_write(Chardev *c, const void *buf, size_t len)
{
    size_t taken = len;
    bool kick = false;

    lock_acquire(&c->lock);
    switch (c->sink) {
    case SINK_GONE:
        break;
    case SINK_HOLD:
        if (c->has_log)
            taken = MIN(len, CHARDEV_RING - c->unlogged);
        ring_hold_locked(c, buf, taken);
        c->starved |= taken < len;
        kick = c->has_log;
        break;
    case SINK_OPEN:
        taken = MIN(len, CHARDEV_RING - c->used);
        ring_put_locked(c, buf, taken);
        c->starved |= taken < len;
        kick = true;
        break;
    }
    lock_release(&c->lock);
    if (kick)
        chardev_kick(c);
    return taken;
}

static ssize_t write_out(Chardev *c, const void *buf, size_t len)
{
    if (c->out_socket)
        return send(c->out_fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return write(c->out_fd, buf, len);
}

/* There is room: tells a writer that waits for it.  Drops the lock. */
static void wake_writer_locked(Chardev *c)
{
    bool wake = c->starved;

    c->starved = false;
    lock_release(&c->lock);
    if (wake && c->handlers && c->handlers->drained)
        c->handlers->drained(c->opaque);
}

/* Takes `len` bytes out. */
static void consume(Chardev *c, size_t len)
{
    lock_acquire(&c->lock);
    ring_drop_locked(c, len);
    wake_writer_locked(c);
}

/* Puts into the log what is not there yet: the ring's end and its beginning.  Nobody
 * overwrites those bytes meanwhile. */
static void write_log(Chardev *c)
{
    for (unsigned part = 0; c->has_log && part < 2; part++) {
        size_t start, len;

        lock_acquire(&c->lock);
        start = (c->head + c->used - c->unlogged) % CHARDEV_RING;
        len = MIN(c->unlogged, CHARDEV_RING - start);
        lock_release(&c->lock);
        if (len && !logfile_write(&c->log, c->ring + start, len) && log_limit(&c->warned))
            log_warn("%s: its log loses what is said: %s", c->id, g_strerror(errno));
        lock_acquire(&c->lock);
        c->unlogged -= len;
        wake_writer_locked(c);
    }
}

static void set_sink(Chardev *c, ChardevSink sink)
{
    lock_acquire(&c->lock);
    c->sink = sink;
    if (sink == SINK_GONE)
        c->used = c->unlogged = c->history = 0;
    if (sink == SINK_OPEN)
        ring_rewind_locked(c);
    lock_release(&c->lock);
    if (sink != SINK_OPEN)
        consume(c, 0); /* no writer need wait any more */
}

static void hang_up(Chardev *c)
{
    chardev_detach(c, c->ops->hangup ? SINK_HOLD : SINK_GONE);
    if (c->ops->hangup)
        c->ops->hangup(c);
}

static void output_failed(Chardev *c, int err, size_t queued)
{
    if (c->ops->hangup) {
        hang_up(c);
    } else if (err == EPIPE) {
        set_sink(c, SINK_GONE); /* input may go on */
        ioloop_unwatch(&c->out);
    } else {
        if (log_limit(&c->warned))
            log_warn("%s: output is lost: %s", c->id, g_strerror(err));
        consume(c, queued);
    }
}

static void on_writable(void *opaque, uint32_t events);

/* Writes until the ring is empty or the reader is slow; at most one ring-full, so that a
 * busy guest does not keep the loop here. */
static void flush(Chardev *c)
{
    for (size_t done = 0; done < CHARDEV_RING;) {
        size_t len, head;
        ssize_t n;

        lock_acquire(&c->lock);
        head = c->head;
        len = c->sink == SINK_OPEN ? MIN(c->used - c->unlogged, CHARDEV_RING - c->head)
                                   : 0;
        lock_release(&c->lock);
        if (!len) {
            ioloop_unwatch(&c->out);
            return;
        }
        n = write_out(c, c->ring + head, len);
        if (n >= 0) {
            consume(c, (size_t)n);
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            if (!c->out.loop)
                ioloop_watch(c->loop, &c->out, c->out_fd, EPOLLOUT, on_writable, c, NULL);
            return;
        } else if (errno != EINTR) {
            output_failed(c, errno, len);
            done += len;
        }
    }
    chardev_kick(c);
}

static void on_writable(void *opaque, uint32_t events)
{
    flush(opaque);
}

bool chardev_size(const Chardev *c, uint16_t *columns, uint16_t *rows)
{
    struct winsize size;

    if (c->out_fd < 0 || ioctl(c->out_fd, TIOCGWINSZ, &size) < 0 || !size.ws_col)
        return false;
    *columns = size.ws_col;
    *rows = size.ws_row;
    return true;
}

/* ---- input --------------------------------------------------------------------- */

/* Offers what was read ahead; true if all of it was taken. */
static bool deliver(Chardev *c)
{
    while (c->ahead_len && c->handlers && c->handlers->room && c->handlers->input) {
        size_t n = MIN(c->handlers->room(c->opaque), c->ahead_len);
        size_t at = c->ahead_at;

        if (!n)
            return false;
        c->ahead_at += n;
        c->ahead_len -= n;
        c->handlers->input(c->opaque, c->ahead + at, n);
    }
    return !c->ahead_len;
}

/* Reads once into the free end of the read-ahead.  False: nothing more for now. */
static bool read_ahead(Chardev *c)
{
    ssize_t n;
    size_t room;

    if (c->in_fd < 0 || c->in_ended || (c->ops->may_read && !c->ops->may_read(c)))
        return false;
    memmove(c->ahead, c->ahead + c->ahead_at, c->ahead_len);
    c->ahead_at = 0;
    room = sizeof(c->ahead) - c->ahead_len;
    if (!room && c->ops->filter) {
        c->ahead_len /= 2; /* typed in vain: the keys for us must get through */
        room = sizeof(c->ahead) - c->ahead_len;
    }
    if (!room)
        return false;
    n = read(c->in_fd, c->ahead + c->ahead_len, room);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        c->in_ended = true;
        return false;
    }
    if (c->ops->filter)
        n = (ssize_t)c->ops->filter(c, c->ahead + c->ahead_len, (size_t)n);
    c->ahead_len += (size_t)n;
    return true;
}

static void on_readable(void *opaque, uint32_t events)
{
    Chardev *c = opaque;

    read_ahead(c);
    if (c->ops->hangup && events & (EPOLLHUP | EPOLLERR)) {
        while (read_ahead(c)) /* the peer's last words; what does not fit is lost */
            ;
        hang_up(c);
    }
    pump(c);
}

/* Kinds that can be hung up stay watched for that while reading is paused.  Others must
 * not: a pipe whose writer has gone reports it for as long as there is input left. */
static void watch_input(Chardev *c, bool on)
{
    uint32_t events = on ? EPOLLIN : 0;
    g_autoptr(GError) error = NULL;

    if (c->in_fd < 0 || c->in_unpollable)
        return;
    if (!events && !c->ops->hangup) {
        ioloop_unwatch(&c->in);
    } else if (c->in.loop) {
        ioloop_watch_events(&c->in, events);
    } else if (!ioloop_watch(c->loop, &c->in, c->in_fd, events, on_readable, c, &error)) {
        c->in_unpollable = errno == EPERM;
        c->in_ended = !c->in_unpollable;
        if (c->in_ended)
            log_warn("%s: no input: %s", c->id, error->message);
        chardev_kick(c);
    }
}

/* Gives the device what there is, and decides whether to wait for more. */
static void pump(Chardev *c)
{
    bool taken = deliver(c);

    if (c->in_unpollable && taken && c->handlers && c->handlers->room &&
        c->handlers->room(c->opaque) && read_ahead(c))
        chardev_kick(c);
    watch_input(c, !c->in_ended && (taken || c->ops->filter) && c->handlers &&
                       (!c->ops->may_read || c->ops->may_read(c)));
}

static void on_kick(void *opaque, uint32_t events)
{
    Chardev *c = opaque;

    fd_event_take(c->kick_fd);
    __atomic_store_n(&c->kicked, false, __ATOMIC_SEQ_CST); /* before looking */
    if (c->ops->kicked)
        c->ops->kicked(c);
    if (c->announce && c->handlers) {
        c->announce = false;
        tell(c, CHARDEV_OPENED);
    }
    write_log(c);
    flush(c);
    pump(c);
}

void chardev_accept_input(Chardev *c)
{
    chardev_kick(c);
}

/* ---- connecting ---------------------------------------------------------------- */

void chardev_attach(Chardev *c, int in_fd, int out_fd)
{
    int type;
    socklen_t len = sizeof(type);

    c->in_fd = in_fd;
    c->out_fd = out_fd;
    c->in_ended = c->in_unpollable = false;
    c->out_socket = getsockopt(out_fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0;
    c->announce = true;
    if (out_fd >= 0)
        set_sink(c, SINK_OPEN);
    chardev_kick(c);
}

void chardev_detach(Chardev *c, ChardevSink after)
{
    bool announced = (c->in_fd >= 0 || c->out_fd >= 0) && !c->announce;

    set_sink(c, after);
    ioloop_unwatch(&c->in);
    ioloop_unwatch(&c->out);
    fd_close(&c->in_fd);
    fd_close(&c->out_fd);
    c->announce = false;
    if (announced)
        tell(c, CHARDEV_CLOSED);
}

void chardev_set_handlers(Chardev *c, const ChardevHandlers *handlers, void *opaque)
{
    c->handlers = handlers;
    c->opaque = opaque;
    c->announce = c->in_fd >= 0 || c->out_fd >= 0;
    chardev_kick(c);
}

/* ---- opening and closing ------------------------------------------------------- */

const char *chardev_filename(const Chardev *c)
{
    return c->filename;
}

Chardev *chardev_open(const ChardevOptions *options, const char *id, IoLoop *loop,
                      GError **error)
{
    Chardev *c = g_new0(Chardev, 1);

    c->ops = chardev_ops_for(options);
    c->loop = loop;
    c->in_fd = c->out_fd = -1;
    c->filename = chardev_filename_for(options);
    g_strlcpy(c->id, id, sizeof(c->id));
    lock_init(&c->lock);
    c->kick_fd = fd_event(error);
    if (c->ops != &chardev_none_ops)
        c->ring = g_malloc(CHARDEV_RING);
    if (c->kick_fd >= 0 &&
        ioloop_watch(loop, &c->kick, c->kick_fd, EPOLLIN, on_kick, c, error) &&
        c->ops->open(c, options, error))
        return c;
    chardev_close(c, 0);
    return NULL;
}

/* Waits for the reader until the ring is empty or the time is over. */
static void drain(Chardev *c, int timeout_ms)
{
    int64_t deadline = clock_ns() + timeout_ms * 1000000ll;

    c->handlers = NULL;
    for (;;) {
        struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};
        int64_t left = (deadline - clock_ns()) / 1000000;

        write_log(c);
        flush(c);
        if (!c->used || c->sink != SINK_OPEN || left <= 0)
            return;
        if (poll(&p, 1, (int)left) < 0 && errno != EINTR)
            return;
    }
}

void chardev_close(Chardev *c, int timeout_ms)
{
    if (!c)
        return;
    drain(c, timeout_ms);
    chardev_detach(c, SINK_GONE);
    c->ops->close(c);
    if (c->has_log)
        logfile_close(&c->log);
    ioloop_unwatch(&c->kick);
    fd_close(&c->kick_fd);
    lock_finish(&c->lock);
    g_free(c->ring);
    for (unsigned i = 0; i < G_N_ELEMENTS(c->loaded); i++)
        g_free(c->loaded[i].data);
    g_free(c->filename);
    g_free(c);
}
