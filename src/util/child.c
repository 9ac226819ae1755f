/* See util/child.h. */
#include "util/child.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "util/fd.h"

enum { READS = 16 }; /* of 1 KiB at once; the loop comes again for the rest */
static const int64_t WINDOW_NS = 60 * 1000000000ll;

static void take_line(ChildWords *w)
{
    w->line[w->len] = '\0';
    w->len = 0;
    if (!w->line[0] || (w->is_noise && w->is_noise(w->line)))
        return;
    g_strlcpy(w->last, w->line, sizeof(w->last));
    if (!w->untold && log_limit(&w->limit))
        log_warn("%s: %s says: %s", w->id, w->program, w->line);
}

static void read_some(ChildWords *w)
{
    char part[1024];
    ssize_t n = sizeof(part);

    for (unsigned reads = 0; n == sizeof(part) && reads < READS; reads++) {
        n = read(w->fd, part, sizeof(part));
        for (ssize_t i = 0; i < n; i++) {
            if (part[i] == '\n' || w->len == sizeof(w->line) - 1)
                take_line(w);
            if (part[i] != '\n')
                w->line[w->len++] = part[i];
        }
    }
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        ioloop_unwatch(&w->watch);
}

static void on_words(void *opaque, uint32_t events)
{
    read_some(opaque);
}

bool child_words_hear(ChildWords *w, int fd, IoLoop *loop, GError **error)
{
    child_words_close(w);
    w->fd = fd;
    w->len = 0;
    w->last[0] = '\0';
    return fd_set_nonblock(fd, true, error) &&
           ioloop_watch(loop, &w->watch, fd, EPOLLIN, on_words, w, error);
}

void child_words_close(ChildWords *w)
{
    ioloop_unwatch(&w->watch);
    fd_close(&w->fd);
}

const char *child_words_last(ChildWords *w)
{
    if (w->watch.loop)
        read_some(w);
    return w->last;
}

const char *child_words_hear_out(ChildWords *w, int silent_ms)
{
    struct pollfd p = {w->fd, POLLIN, 0};

    while (w->watch.loop && poll(&p, 1, silent_ms) == 1)
        read_some(w);
    return w->last;
}

void child_starts_add(ChildStarts *s)
{
    s->at_ns[s->n++ % CHILD_STARTS] = clock_ns();
}

int64_t child_starts_next(const ChildStarts *s)
{
    return s->n < CHILD_STARTS ? 0 : s->at_ns[s->n % CHILD_STARTS] + WINDOW_NS;
}
