/* See snapshot/serve.h.
 *
 * A thread for each client, which answers one question after the other and sleeps
 * otherwise.  Clients are hostile: there are MAX_CLIENTS, a request has 24 bytes, what it
 * asks for is checked against the snapshot, an answer is bounded, and who does not take
 * it within seconds is hung up on. */
#include "snapshot/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "snapshot/memory.h"
#include "snapshot/store.h"
#include "util/fd.h"
#include "util/lock.h"
#include "util/log.h"
#include "wire.h"

enum { MAX_CLIENTS = 32, N_FILES = 3, THREAD_STACK = 256 * 1024 };

typedef struct Server {
    const char *folder;
    SnapMemory *memory;
    GBytes *manifest;   /* as it is sent */
    int files[N_FILES]; /* of wire_files; the manifest's is -1 */
    Lock lock;          /* guards clients */
    pthread_cond_t gone;
    struct Client *clients[MAX_CLIENTS]; /* NULL: free */
} Server;

typedef struct Client {
    Server *server;
    int fd;
    unsigned slot;
    uint8_t *buf; /* of WIRE_REPLY and WIRE_MOST bytes */
} Client;

/* ---- answers --------------------------------------------------------------------------
 */

/* All return how many bytes are in `to`, or -1. */
static int answer_file(Server *s, const WireRequest *q, uint8_t *to, GError **error)
{
    uint32_t n = MIN(q->n, WIRE_PIECE);
    gsize size;
    const uint8_t *text = g_bytes_get_data(s->manifest, &size);
    ssize_t got;

    if (q->file >= N_FILES || q->at > INT64_MAX) {
        fail(error, VM_ERROR_INVALID, "there is no such file");
        return -1;
    }
    if (s->files[q->file] < 0) {
        n = q->at < size ? (uint32_t)MIN(n, size - q->at) : 0;
        memcpy(to, text + MIN(q->at, size), n);
        return (int)n;
    }
    for (uint32_t done = 0;; done += (uint32_t)got) {
        got = pread(s->files[q->file], to + done, n - done, (off_t)(q->at + done));
        if (got < 0) {
            fail_errno(error, "read '%s'", wire_files[q->file]);
            return -1;
        }
        if (got == 0 || done + (uint32_t)got == n)
            return (int)(done + (uint32_t)got);
    }
}

static bool is_zero(const uint8_t *page)
{
    return !page[0] && !memcmp(page, page + 1, GM_PAGE_SIZE - 1);
}

static int answer_read(Server *s, const WireRequest *q, uint8_t *to, GError **error)
{
    uint32_t bitmap = (q->n + 63) / 64 * 8;
    uint8_t *data = to + bitmap, *end = data;

    if (!q->n || q->n > WIRE_PAGES) {
        fail(error, VM_ERROR_INVALID, "%u pages are not 1 to %d", q->n, WIRE_PAGES);
        return -1;
    }
    if (!snap_memory_read(s->memory, q->at, q->n, data, error))
        return -1;
    memset(to, 0, bitmap);
    for (uint32_t i = 0; i < q->n; i++, data += GM_PAGE_SIZE) {
        if (is_zero(data))
            continue;
        to[i / 8] |= (uint8_t)BIT(i % 8);
        if (end != data)
            memmove(end, data, GM_PAGE_SIZE);
        end += GM_PAGE_SIZE;
    }
    return (int)(end - to);
}

static int answer_next(Server *s, const WireRequest *q, uint8_t *to, GError **error)
{
    uint64_t page = q->at, n = 0;

    if (!snap_memory_is_whole(s->memory, error))
        return -1;
    if (page >= snap_memory_size(s->memory) / GM_PAGE_SIZE ||
        !snap_memory_next(s->memory, &page, &n))
        n = 0;
    if (!snap_memory_is_whole(s->memory, error))
        return -1;
    store_le64(to, page);
    store_le64(to + 8, n);
    return 16;
}

/* By type. */
static int (*const answers[])(Server *s, const WireRequest *q, uint8_t *to,
                              GError **error) = {
    [WIRE_FILE] = answer_file,
    [WIRE_READ] = answer_read,
    [WIRE_NEXT] = answer_next,
};

/* ---- a client -------------------------------------------------------------------------
 */

static bool answer(Client *c, const WireRequest *q, GError **error)
{
    g_autoptr(GError) inner = NULL;
    uint8_t *payload = c->buf + WIRE_REPLY;
    int len = answers[q->type](c->server, q, payload, &inner);

    if (len < 0) {
        len = (int)MIN(strlen(inner->message), WIRE_SENTENCE);
        memcpy(payload, inner->message, (size_t)len);
    }
    store_le32(c->buf, WIRE_MAGIC);
    store_le32(c->buf + 4, inner ? WIRE_FAILED : WIRE_OK);
    store_le32(c->buf + 8, (uint32_t)len);
    store_le32(c->buf + 12, q->type);
    return wire_send(c->fd, c->buf, WIRE_REPLY + (size_t)len, error);
}

static bool receive(Client *c, WireRequest *q, GError **error)
{
    uint8_t request[WIRE_REQUEST];

    if (!wire_receive(c->fd, request, sizeof(request), error))
        return false;
    *q = (WireRequest){load_le32(request + 4), load_le32(request + 16),
                       load_le32(request + 20), load_le64(request + 8)};
    return (load_le32(request) == WIRE_MAGIC && q->type >= WIRE_FILE &&
            q->type <= WIRE_NEXT) ||
           fail(error, VM_ERROR_INVALID, "a request that makes no sense");
}

/* Between two requests it may take its time. */
static bool wait_for_more(Client *c)
{
    struct pollfd p = {c->fd, POLLIN, 0};
    char byte;

    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    return recv(c->fd, &byte, 1, MSG_PEEK) == 1;
}

static void *client_thread(void *opaque)
{
    Client *c = opaque;
    Server *s = c->server;
    g_autoptr(GError) error = NULL;
    WireRequest q;

    thread_set_name("client");
    if (wire_receive_hello(c->fd, &error) && wire_send_hello(c->fd, &error))
        while (wait_for_more(c) && receive(c, &q, &error) && answer(c, &q, &error))
            ;
    if (error)
        log_debug("a client is hung up on: %s", error->message);
    lock_acquire(&s->lock);
    close(c->fd);
    s->clients[c->slot] = NULL;
    pthread_cond_signal(&s->gone);
    lock_release(&s->lock);
    g_free(c->buf);
    g_free(c);
    return NULL;
}

/* Takes over fd.  One too many, or one for whom there is no memory, is hung up on. */
static void add_client(Server *s, int fd)
{
    struct timeval limit = {.tv_sec = WIRE_WAIT_S};
    Client *c = g_new0(Client, 1);
    pthread_attr_t attr;
    pthread_t thread;
    unsigned slot = 0;
    LOCK_GUARD(&s->lock);

    while (slot < MAX_CLIENTS && s->clients[slot])
        slot++;
    *c = (Client){s, fd, slot, g_try_malloc(WIRE_REPLY + WIRE_MOST)};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (slot < MAX_CLIENTS && c->buf)
        s->clients[slot] = c;
    if (slot == MAX_CLIENTS || !c->buf ||
        pthread_create(&thread, &attr, client_thread, c)) {
        if (slot < MAX_CLIENTS)
            s->clients[slot] = NULL;
        close(fd);
        g_free(c->buf);
        g_free(c);
    }
    pthread_attr_destroy(&attr);
}

static void drop_clients(Server *s)
{
    LOCK_GUARD(&s->lock);

    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        if (s->clients[i])
            shutdown(s->clients[i]->fd, SHUT_RDWR);
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        while (s->clients[i])
            pthread_cond_wait(&s->gone, &s->lock.mutex);
}

/* ---- the server -----------------------------------------------------------------------
 */

/* As of a full snapshot, of which a client has no file but config and state. */
static bool describe(Server *s, const Manifest *m, GError **error)
{
    json_t *o = manifest_to_json(m);
    g_autoptr(Manifest) own = NULL;
    g_autofree char *text = json_dumps(o, 0), *sent = NULL;

    json_decref(o);
    own = manifest_parse(text, strlen(text), SNAP_MANIFEST, error);
    if (!own)
        return false;
    g_clear_pointer(&own->parent_id, g_free);
    g_clear_pointer(&own->parent_path, g_free);
    g_free(own->memory_encoding);
    own->memory_encoding = g_strdup(SNAP_RAW);
    for (unsigned i = own->files->len; i-- > 0;) {
        const ManifestFile *f = g_ptr_array_index(own->files, i);

        if (!g_str_equal(f->name, SNAP_CONFIG) && !g_str_equal(f->name, SNAP_STATE))
            g_ptr_array_remove_index(own->files, i);
    }
    o = manifest_to_json(own);
    sent = json_dumps(o, JSON_INDENT(2));
    json_decref(o);
    s->manifest = g_bytes_new(sent, strlen(sent));
    return true;
}

static bool open_files(Server *s, GError **error)
{
    s->files[0] = -1;
    for (unsigned i = 1; i < N_FILES; i++) {
        g_autofree char *path = g_build_filename(s->folder, wire_files[i], NULL);

        s->files[i] = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (s->files[i] < 0)
            return fail_errno(error, "open '%s'", path);
    }
    return true;
}

/* Until a signal comes. */
static void accept_clients(Server *s, int listener, int signals)
{
    struct pollfd fds[2] = {{listener, POLLIN, 0}, {signals, POLLIN, 0}};

    while (!fds[1].revents) {
        int fd;

        if (poll(fds, 2, -1) < 0)
            continue;
        fd = fds[0].revents ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0)
            add_client(s, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
            poll(&fds[1], 1, 100); /* until some have gone */
    }
}

static int take_signals(GError **error)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        fail_errno(error, "make a signalfd");
    return fd;
}

bool snapshot_serve(const char *folder, const char *address,
                    void (*ready)(void *opaque, const char *address), void *opaque,
                    GError **error)
{
    Server s = {.folder = folder,
                .files = {-1, -1, -1},
                .lock = LOCK_INIT,
                .gone = PTHREAD_COND_INITIALIZER};
    g_autoptr(GArray) holds = manifest_holds_new();
    unsigned links;
    g_autoptr(Manifest) m = manifest_hold_chain(folder, holds, &links, error)
                                ? manifest_read(folder, error)
                                : NULL;
    autofd signals = m ? take_signals(error) : -1;
    WireListener listener = {.fd = -1, .unix_socket.fd = -1};
    bool ok = signals >= 0 && describe(&s, m, error) && open_files(&s, error) &&
              (s.memory = snap_memory_open(folder, error)) &&
              wire_listen(&listener, address, error);

    if (ok) {
        g_autofree char *at = wire_listens_at(&listener, address);

        ready(opaque, at);
        accept_clients(&s, listener.fd, signals);
        drop_clients(&s);
    }
    wire_unlisten(&listener);
    snap_memory_close(s.memory);
    for (unsigned i = 0; i < N_FILES; i++)
        fd_close(&s.files[i]);
    g_clear_pointer(&s.manifest, g_bytes_unref);
    lock_finish(&s.lock);
    return ok;
}
