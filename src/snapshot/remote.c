/* See snapshot/remote.h. */
#include "snapshot/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/guestmem.h"
#include "remote_private.h"
#include "state/state.h"
#include "util/fd.h"
#include "util/lock.h"
#include "wire.h"

enum { MAX_JSON = 16 << 20 };

struct RemoteSnapshot {
    char *address, *folder, *id;
    uint64_t ram_size;
};

typedef struct RemoteSource {
    PageSource source;
    RemoteSnapshot *remote;
    Lock lock; /* guards fd against interrupt(), and interrupted */
    int fd;    /* -1: not connected */
    bool interrupted;
    uint8_t *buf; /* WIRE_MOST */
} RemoteSource;

/* ---- one question ---------------------------------------------------------------------
 */

/* What a server says is not to reach a terminal as it is. */
static bool fail_as_told(uint8_t *text, uint32_t len, GError **error)
{
    for (uint32_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            text[i] = '?';
    return fail(error, VM_ERROR_IO, "the server says: %.*s", (int)len, (char *)text);
}

/* Puts a reply of at most `most` bytes into buf, which has room for WIRE_SENTENCE, too.
 */
static bool ask(int fd, const WireRequest *q, uint8_t *buf, uint32_t most,
                uint32_t *ret_len, GError **error)
{
    uint8_t request[WIRE_REQUEST], reply[WIRE_REPLY];
    uint32_t status, len;

    store_le32(request, WIRE_MAGIC);
    store_le32(request + 4, q->type);
    store_le64(request + 8, q->at);
    store_le32(request + 16, q->n);
    store_le32(request + 20, q->file);
    if (!wire_send(fd, request, sizeof(request), error) ||
        !wire_receive(fd, reply, sizeof(reply), error))
        return false;
    status = load_le32(reply + 4);
    len = load_le32(reply + 8);
    if (load_le32(reply) != WIRE_MAGIC || load_le32(reply + 12) != q->type ||
        status > WIRE_FAILED || len > (status == WIRE_OK ? most : WIRE_SENTENCE))
        return fail(error, VM_ERROR_CORRUPT, "the server's answer makes no sense");
    if (!wire_receive(fd, buf, len, error))
        return false;
    *ret_len = len;
    return status == WIRE_OK || fail_as_told(buf, len, error);
}

static int dial(const RemoteSnapshot *r, GError **error)
{
    autofd fd = wire_dial(r->address, error);

    return fd >= 0 && wire_send_hello(fd, error) && wire_receive_hello(fd, error)
               ? fd_steal(&fd)
               : -1;
}

/* A whole file, of at most `most` bytes. */
static GByteArray *fetch(int fd, unsigned file, uint64_t most, GError **error)
{
    g_autoptr(GByteArray) all = g_byte_array_new();
    g_autofree uint8_t *piece = g_malloc(WIRE_PIECE);
    uint32_t len;

    do {
        WireRequest q = {WIRE_FILE, WIRE_PIECE, file, all->len};

        if (!ask(fd, &q, piece, WIRE_PIECE, &len, error))
            return NULL;
        if (all->len + len > most) {
            fail(error, VM_ERROR_CORRUPT, "the server's '%s' is too large",
                 wire_files[file]);
            return NULL;
        }
        g_byte_array_append(all, piece, len);
    } while (len == WIRE_PIECE);
    return g_steal_pointer(&all);
}

/* ---- a source of pages ----------------------------------------------------------------
 */

static void hang_up(RemoteSource *s)
{
    LOCK_GUARD(&s->lock);

    fd_close(&s->fd);
}

/* It may have another snapshot by now. */
static bool same_snapshot(RemoteSource *s, int fd, GError **error)
{
    g_autoptr(GByteArray) text = fetch(fd, 0, MAX_JSON, error);
    g_autoptr(Manifest)
        m = text ? manifest_parse((char *)text->data, text->len, "its manifest", error)
                 : NULL;

    return m &&
           ((g_str_equal(m->id, s->remote->id) && m->ram_size == s->remote->ram_size) ||
            fail(error, VM_ERROR_CORRUPT, "the server has another snapshot now"));
}

static bool connect_source(RemoteSource *s, GError **error)
{
    autofd fd = -1;

    if (s->fd >= 0)
        return true;
    fd = dial(s->remote, error);
    if (fd < 0 || !same_snapshot(s, fd, error))
        return false;
    LOCK_GUARD(&s->lock);
    if (s->interrupted)
        return fail(error, VM_ERROR_IO, "nobody wants it any more");
    s->fd = fd_steal(&fd);
    return true;
}

static bool ask_once(RemoteSource *s, const WireRequest *q, uint32_t most,
                     uint32_t *ret_len, GError **error)
{
    if (connect_source(s, error) && ask(s->fd, q, s->buf, most, ret_len, error))
        return true;
    hang_up(s);
    return false;
}

/* A connection that was made long ago may be dead though its server is not. */
static bool ask_source(RemoteSource *s, const WireRequest *q, uint32_t most,
                       uint32_t *ret_len, GError **error)
{
    bool old = s->fd >= 0;
    bool ok = ask_once(s, q, most, ret_len, old ? NULL : error) ||
              (old && ask_once(s, q, most, ret_len, error));

    if (!ok)
        g_prefix_error(error, "memory from '%s': ", s->remote->address);
    return ok;
}

static bool remote_read(PageSource *source, uint64_t page, unsigned n, uint8_t *buf,
                        GError **error)
{
    RemoteSource *s = (RemoteSource *)source;
    WireRequest q = {WIRE_READ, n, 0, page};
    uint32_t len, at = (n + 63) / 64 * 8;

    if (!ask_source(s, &q, WIRE_MOST, &len, error))
        return false;
    for (unsigned i = 0; len >= at && i < n; i++, buf += GM_PAGE_SIZE) {
        if (!(s->buf[i / 8] >> (i % 8) & 1)) {
            memset(buf, 0, GM_PAGE_SIZE);
        } else if (len - at >= GM_PAGE_SIZE) {
            memcpy(buf, s->buf + at, GM_PAGE_SIZE);
            at += GM_PAGE_SIZE;
        } else {
            len = 0;
        }
    }
    if (len == at)
        return true;
    hang_up(s);
    return fail(error, VM_ERROR_CORRUPT,
                "memory from '%s': the server's answer has another size than it says",
                s->remote->address);
}

static bool remote_next(PageSource *source, uint64_t *page, uint64_t *n, GError **error)
{
    RemoteSource *s = (RemoteSource *)source;
    uint64_t pages = s->remote->ram_size / GM_PAGE_SIZE, first;
    WireRequest q = {WIRE_NEXT, 0, 0, *page};
    uint32_t len;

    *n = 0;
    if (*page >= pages)
        return true;
    if (!ask_source(s, &q, 16, &len, error))
        return false;
    first = len == 16 ? load_le64(s->buf) : 0;
    if (len != 16 ||
        (load_le64(s->buf + 8) &&
         (first < *page || !range_within(first, load_le64(s->buf + 8), pages)))) {
        hang_up(s);
        return fail(error, VM_ERROR_CORRUPT,
                    "memory from '%s': the server's list of pages makes no sense",
                    s->remote->address);
    }
    *n = load_le64(s->buf + 8);
    if (*n)
        *page = first;
    return true;
}

static void remote_interrupt(PageSource *source)
{
    RemoteSource *s = (RemoteSource *)source;
    LOCK_GUARD(&s->lock);

    s->interrupted = true;
    if (s->fd >= 0)
        shutdown(s->fd, SHUT_RDWR);
}

static void remote_source_close(PageSource *source)
{
    RemoteSource *s = (RemoteSource *)source;

    fd_close(&s->fd);
    lock_finish(&s->lock);
    g_free(s->buf);
    g_free(s);
}

PageSource *remote_source(RemoteSnapshot *r, GError **error)
{
    RemoteSource *s = g_new0(RemoteSource, 1);

    s->source = (PageSource){remote_read, remote_next, remote_interrupt,
                             remote_source_close};
    s->remote = r;
    s->fd = -1;
    lock_init(&s->lock);
    s->buf = g_malloc(WIRE_MOST);
    if (connect_source(s, error))
        return &s->source;
    g_prefix_error(error, "memory from '%s': ", r->address);
    remote_source_close(&s->source);
    return NULL;
}

bool remote_copy(RemoteSnapshot *r, GuestMem *gm, GError **error)
{
    PageSource *s = remote_source(r, error);
    uint64_t page = 0, n = 0;
    bool ok = s &&
              (gm->size == r->ram_size ||
               fail(error, VM_ERROR_INVALID, "memory: the snapshot's has another size"));

    while (ok && (ok = remote_next(s, &page, &n, error)) && n) {
        n = MIN(n, WIRE_PAGES);
        ok = remote_read(s, page, (unsigned)n, gm->base + page * GM_PAGE_SIZE, error);
        page += n;
    }
    if (s)
        remote_source_close(s);
    return ok;
}

/* ---- the snapshot ---------------------------------------------------------------------
 */

bool remote_is_address(const char *name)
{
    return wire_is_address(name);
}

static bool put_file(const RemoteSnapshot *r, const char *name, const GByteArray *data,
                     GError **error)
{
    g_autofree char *path = g_build_filename(r->folder, name, NULL);
    autofd fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return fail_errno(error, "'%s': make it", path);
    if (fd_write_all(fd, data->data, data->len, error))
        return true;
    g_prefix_error(error, "'%s': ", path);
    return false;
}

static bool fetch_all(RemoteSnapshot *r, int fd, GError **error)
{
    static const uint64_t most[] = {MAX_JSON, MAX_JSON, STATE_MAX_FILE};
    g_autoptr(Manifest) m = NULL;

    for (unsigned i = 0; wire_files[i]; i++) {
        g_autoptr(GByteArray) data = fetch(fd, i, most[i], error);

        if (!data || !put_file(r, wire_files[i], data, error))
            return false;
    }
    m = manifest_read(r->folder, error);
    if (!m)
        return false;
    r->id = g_strdup(m->id);
    r->ram_size = m->ram_size;
    return !m->parent_id || fail(error, VM_ERROR_CORRUPT,
                                 "the server's manifest is that of a part of a snapshot");
}

RemoteSnapshot *remote_open(const char *address, GError **error)
{
    g_autoptr(RemoteSnapshot) r = g_new0(RemoteSnapshot, 1);
    autofd fd = -1;

    r->address = g_strdup(address);
    r->folder = g_dir_make_tmp("hutch-remote-XXXXXX", NULL);
    if (!r->folder) {
        fail_errno(error, "make a folder for what '%s' serves", address);
        return NULL;
    }
    fd = dial(r, error);
    if (fd >= 0 && fetch_all(r, fd, error))
        return g_steal_pointer(&r);
    g_prefix_error(error, "snapshot at '%s': ", address);
    return NULL;
}

void remote_close(RemoteSnapshot *r)
{
    if (!r)
        return;
    for (unsigned i = 0; r->folder && wire_files[i]; i++) {
        g_autofree char *path = g_build_filename(r->folder, wire_files[i], NULL);

        unlink(path);
    }
    if (r->folder)
        rmdir(r->folder);
    g_free(r->folder);
    g_free(r->address);
    g_free(r->id);
    g_free(r);
}

const char *remote_folder(const RemoteSnapshot *r)
{
    return r->folder;
}

uint64_t remote_ram_size(const RemoteSnapshot *r)
{
    return r->ram_size;
}
