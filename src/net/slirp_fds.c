/* libslirp's sockets as an epoll set.
 *
 * libslirp does not say when its interest in a socket changes; it gives the whole list
 * when asked.  The set is brought from one list to the next by the differences alone, and
 * is itself a descriptor that the card's loop watches: an idle loop sleeps in one wait,
 * and events, being level-triggered, are never lost.
 *
 * libslirp's index of a socket is its descriptor: no two sockets share one. */
#include "src/net/slirp_private.h"

#include <libslirp.h>
#include <linux/if_ether.h>
#include <sys/epoll.h>

#include "util/fd.h"

enum { EVENT_BATCH = 64 };

static const struct {
    int slirp;
    uint32_t epoll;
} event_map[] = {
    {SLIRP_POLL_IN, EPOLLIN},   {SLIRP_POLL_OUT, EPOLLOUT}, {SLIRP_POLL_PRI, EPOLLPRI},
    {SLIRP_POLL_ERR, EPOLLERR}, {SLIRP_POLL_HUP, EPOLLHUP},
};

static uint32_t to_epoll(int events)
{
    uint32_t to = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(event_map); i++) {
        if (events & event_map[i].slirp)
            to |= event_map[i].epoll;
    }
    return to;
}

static uint8_t from_epoll(uint32_t events)
{
    int from = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(event_map); i++) {
        if (events & event_map[i].epoll)
            from |= event_map[i].slirp;
    }
    return (uint8_t)from;
}

static bool in_range(int fd)
{
    return fd >= 0 && fd < SLIRP_MAX_FD;
}

bool slirp_fds_init(SlirpFds *f, GError **error)
{
    f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return f->epoll_fd >= 0 || fail_errno(error, "make an epoll set for user networking");
}

void slirp_fds_finish(SlirpFds *f)
{
    fd_close(&f->epoll_fd);
}

unsigned slirp_fds_owner(const uint8_t *frame, size_t len)
{
    uint32_t hash = 0x811c9dc5; /* FNV-1a */

    if (len < ETH_HLEN)
        return SLIRP_NOBODY;
    for (unsigned i = 0; i < ETH_ALEN; i++)
        hash = (hash ^ frame[ETH_ALEN + i]) * 0x01000193;
    return (hash ^ hash >> 16) % SLIRP_OWNERS;
}

bool slirp_fds_full(const SlirpFds *f, unsigned owner, unsigned max)
{
    return f->n_open >= max ||
           (owner != SLIRP_NOBODY && f->of_owner[owner] >= max - f->n_open);
}

void slirp_fds_opened(SlirpFds *f, int fd, unsigned owner)
{
    if (!in_range(fd))
        return;
    if (f->at[fd].open)
        slirp_fds_closing(f, fd);
    f->n_open++;
    if (owner != SLIRP_NOBODY)
        f->of_owner[owner]++;
    f->at[fd] = (SlirpFd){.open = true, .owner = (uint16_t)owner};
}

void slirp_fds_closing(SlirpFds *f, int fd)
{
    if (!in_range(fd))
        return;
    if (f->at[fd].open) {
        f->n_open--;
        if (f->at[fd].owner != SLIRP_NOBODY)
            f->of_owner[f->at[fd].owner]--;
    }
    if (f->at[fd].polled)
        epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    f->at[fd] = (SlirpFd){0};
}

void slirp_fds_collect(SlirpFds *f)
{
    struct epoll_event ev[EVENT_BATCH];
    int n = epoll_wait(f->epoll_fd, ev, EVENT_BATCH, 0);

    for (int i = 0; i < n; i++) {
        f->at[ev[i].data.fd].revents = from_epoll(ev[i].events);
        f->ready.fd[f->ready.n++] = ev[i].data.fd;
    }
}

int slirp_fds_revents(const SlirpFds *f, int index)
{
    return in_range(index) ? f->at[index].revents : 0;
}

void slirp_fds_begin(SlirpFds *f)
{
    for (unsigned i = 0; i < f->ready.n; i++)
        f->at[f->ready.fd[i]].revents = 0;
    f->ready.n = 0;
    f->current = !f->current;
    f->list[f->current].n = 0;
}

int slirp_fds_want(SlirpFds *f, int fd, int events)
{
    SlirpFdList *list = &f->list[f->current];

    if (!in_range(fd) || list->n == G_N_ELEMENTS(list->fd) ||
        !(events & (SLIRP_POLL_IN | SLIRP_POLL_OUT)))
        return -1;
    f->at[fd].wanted = (uint8_t)events;
    list->fd[list->n++] = fd;
    return fd;
}

void slirp_fds_sync(SlirpFds *f)
{
    const SlirpFdList *now = &f->list[f->current], *before = &f->list[!f->current];

    for (unsigned i = 0; i < before->n; i++) {
        SlirpFd *at = &f->at[before->fd[i]];

        if (at->polled && !at->wanted) {
            epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, before->fd[i], NULL);
            at->polled = 0;
        }
    }
    for (unsigned i = 0; i < now->n; i++) {
        SlirpFd *at = &f->at[now->fd[i]];
        struct epoll_event ev = {.events = to_epoll(at->wanted), .data.fd = now->fd[i]};
        int op = at->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

        if (at->polled != at->wanted && epoll_ctl(f->epoll_fd, op, now->fd[i], &ev) == 0)
            at->polled = at->wanted;
        at->wanted = 0;
    }
}
