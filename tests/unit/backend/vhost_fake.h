/* A vhost-user back end of the tests: a thread that answers as the protocol says, but for
 * one request, to which it does what the test wants to see survived.  It keeps what it
 * was told, and the descriptors it was given. */
#pragma once

#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

typedef enum {
    FAKE_GOOD,
    FAKE_SILENT,   /* no answer, until the front end hangs up */
    FAKE_LEAVES,   /* hangs up */
    FAKE_HALF,     /* a part of the header, and no more */
    FAKE_OTHER,    /* the number of another request */
    FAKE_VERSION,  /* version 2 */
    FAKE_QUESTION, /* without the reply flag */
    FAKE_SHORT,    /* a byte less than was asked for */
    FAKE_LONG,     /* 4 GiB, it says */
    FAKE_EMPTY,    /* no payload */
    FAKE_FDS,      /* with descriptors that nobody wants */
    FAKE_MANY_FDS, /* with more than there is room for */
    FAKE_REFUSES,  /* answers "no" */
    FAKE_N,
} FakeFault;

enum { FAKE_PAYLOAD = 512, FAKE_REQUESTS = 64, FAKE_CONFIG = 60 };
#define FAKE_VIRTIO   (1ull << 32 | 1ull << 28 | 1ull << 29 | 1ull << 30 | 1ull << 9)
#define FAKE_PROTOCOL (1ull << 0 | 1ull << 3 | 1ull << 9 | 1ull << 12 | 1ull << 13)

typedef struct FakeBackend {
    int fd;
    uint32_t bad_request; /* 0: none */
    FakeFault fault;
    uint64_t features; /* 0: FAKE_VIRTIO */
    uint64_t protocol; /* features; 0: FAKE_PROTOCOL */
    uint64_t capacity; /* of its config space */
    pthread_t thread;

    /* After fake_wait(), or while it stands still. */
    unsigned count[FAKE_REQUESTS];             /* atomic */
    uint8_t last[FAKE_REQUESTS][FAKE_PAYLOAD]; /* payload by request */
    unsigned n_fds[FAKE_REQUESTS];             /* that came with it, last */
    int kick_fd, call_fd, mem_fd[8];           /* kept; -1 */
    void (*on_enable)(struct FakeBackend *b);  /* the rings run */
} FakeBackend;

static bool fake_read(int fd, void *buf, size_t len, int *fds, unsigned *n_fds)
{
    for (size_t done = 0; done < len;) {
        char control[CMSG_SPACE(8 * sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {(char *)buf + done, len - done};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);

        if (n <= 0)
            return false;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            *n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), *n_fds * sizeof(int));
        }
        done += (size_t)n;
    }
    return true;
}

static void fake_send(int fd, const void *buf, size_t len, const int *fds, unsigned n)
{
    char control[CMSG_SPACE(32 * sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec iov = {(void *)buf, len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n) {
        struct cmsghdr *c;

        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    (void)!sendmsg(fd, &m, MSG_NOSIGNAL);
}

/* The right answer's payload; its length, 0 if none is due. */
static uint32_t fake_payload(FakeBackend *b, uint32_t request, bool need_reply,
                             uint8_t *p, uint32_t len)
{
    uint64_t value = 0;

    if (request == 24) { /* GET_CONFIG */
        memset(p + 12, 0x5a, len - 12);
        memcpy(p + 12, &b->capacity, sizeof(b->capacity));
        return len;
    }
    if (request == 11) { /* GET_VRING_BASE */
        memcpy(p + 4, (uint32_t[]){7}, 4);
        return len;
    }
    if (request == 31) { /* GET_INFLIGHT_FD */
        memcpy(p, (uint64_t[]){4096, 0}, 16);
        return len;
    }
    if (request == 1)
        value = b->features ? b->features : FAKE_VIRTIO;
    else if (request == 15)
        value = b->protocol ? b->protocol : FAKE_PROTOCOL;
    else if (request == 17)
        value = 4;
    else if (!need_reply && request != 6) /* SET_LOG_BASE */
        return 0;
    memcpy(p, &value, sizeof(value));
    return sizeof(value);
}

/* False: the conversation is over. */
static bool fake_answer(FakeBackend *b, uint32_t request, uint8_t *p, uint32_t len)
{
    bool bad = request == b->bad_request;
    FakeFault fault = bad ? b->fault : FAKE_GOOD;
    struct {
        uint32_t request, flags, size;
        uint8_t payload[FAKE_PAYLOAD];
    } m = {request, 5, len, {0}};
    size_t total = 12 + len;
    int fds[16], n_fds = 0;

    memcpy(m.payload, p, len);
    if (fault == FAKE_LEAVES)
        return false;
    if (fault == FAKE_SILENT)
        return poll(&(struct pollfd){.fd = b->fd, .events = POLLRDHUP}, 1, -1) < 0;
    if (fault == FAKE_HALF)
        total = 7;
    if (fault == FAKE_EMPTY)
        total = 12;
    m.request += fault == FAKE_OTHER;
    m.flags = fault == FAKE_VERSION ? 6 : fault == FAKE_QUESTION ? 1 : 5;
    m.size = fault == FAKE_SHORT   ? len - 1
             : fault == FAKE_LONG  ? UINT32_MAX
             : fault == FAKE_EMPTY ? 0
                                   : len;
    if (fault == FAKE_REFUSES)
        memset(m.payload, 0xff, len);
    if (request == 31)
        fds[n_fds++] = memfd_create("inflight", MFD_CLOEXEC);
    for (int i = 0; i < (fault == FAKE_FDS ? 2 : fault == FAKE_MANY_FDS ? 12 : 0); i++)
        fds[n_fds++] = memfd_create("gift", MFD_CLOEXEC);
    fake_send(b->fd, &m, total, fds, (unsigned)n_fds);
    for (int i = 0; i < n_fds; i++)
        close(fds[i]);
    return true;
}

static void fake_keep(FakeBackend *b, uint32_t request, int *fds, unsigned n)
{
    b->n_fds[request] = n;
    for (unsigned i = 0; i < n; i++) {
        int *place = request == 5    ? &b->mem_fd[i]
                     : request == 12 ? &b->kick_fd
                     : request == 13 ? &b->call_fd
                                     : NULL;

        if (!place) {
            close(fds[i]);
            continue;
        }
        if (*place >= 0)
            close(*place);
        *place = fds[i];
    }
}

static void *fake_run(void *opaque)
{
    FakeBackend *b = opaque;
    uint32_t h[3];

    for (;;) {
        uint8_t payload[FAKE_PAYLOAD] = {0};
        int fds[8];
        unsigned n_fds = 0;
        uint32_t len;

        if (!fake_read(b->fd, h, sizeof(h), fds, &n_fds))
            break;
        g_assert_cmpuint(h[0], <, FAKE_REQUESTS);
        g_assert_cmpuint(h[1] & 7, ==, 1);
        g_assert_cmpuint(h[2], <=, FAKE_PAYLOAD);
        if (h[2] && !fake_read(b->fd, payload, h[2], fds, &n_fds))
            break;
        memcpy(b->last[h[0]], payload, sizeof(payload));
        fake_keep(b, h[0], fds, n_fds);
        __atomic_fetch_add(&b->count[h[0]], 1, __ATOMIC_RELEASE);
        len = fake_payload(b, h[0], h[1] & 8, payload, h[2]);
        if (len && !fake_answer(b, h[0], payload, len))
            break;
        if (h[0] == 18 && b->on_enable)
            b->on_enable(b);
    }
    shutdown(b->fd, SHUT_RDWR);
    return NULL;
}

/* Begins to serve the connection `fd`, which becomes its own. */
static inline void fake_start(FakeBackend *b, int fd)
{
    b->fd = fd;
    b->kick_fd = b->call_fd = -1;
    for (int i = 0; i < 8; i++)
        b->mem_fd[i] = -1;
    g_assert_cmpint(pthread_create(&b->thread, NULL, fake_run, b), ==, 0);
}

/* How often it was told; what else it keeps may be looked at if it is not told more. */
static inline unsigned fake_count(const FakeBackend *b, unsigned request)
{
    return __atomic_load_n(&b->count[request], __ATOMIC_ACQUIRE);
}

/* After the front end has hung up: until the thread has ended. */
static inline void fake_wait(FakeBackend *b)
{
    pthread_join(b->thread, NULL);
}

static inline void fake_close(FakeBackend *b)
{
    close(b->fd);
    if (b->kick_fd >= 0)
        close(b->kick_fd);
    if (b->call_fd >= 0)
        close(b->call_fd);
    for (int i = 0; i < 8; i++)
        if (b->mem_fd[i] >= 0)
            close(b->mem_fd[i]);
}
