/* What strangers say over the socket of a snapshot, and the index of memory.zst.  Checked
 * is that a server answers within its bounds and a client refuses in one printable line,
 * and that what either gives out is within RAM.
 *
 * Input: a byte that chooses who is spoken to, a byte more for its choice, and then what
 * is said; for clients all of it is said on each of its connections. */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <zlib.h>

#include "snapshot/serve.h"
#include "src/snapshot/memory_private.h"
#include "src/snapshot/remote_private.h"
#include "src/snapshot/wire.h"
#include "util/fd.h"
#include "util/lock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGES = 40, PAGE = 4096 };

#define SUM "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
static const char manifest[] =
    "{\"format\": 1, \"hutch\": \"0.1.0\", \"id\": "
    "\"5f0c9d3e-8f1b-4a53-9a58-1b8b1c1d1e1f\","
    " \"created-ns\": 17, \"ram-size\": 163840, \"memory-pages\": 4,"
    " \"memory-encoding\": \"raw\", \"memory-sha256\": \"" SUM "\", \"cpu-needs\": {},"
    " \"frozen\": false, \"disks\": [],"
    " \"files\": [{\"name\": \"config.json\", \"size\": 2, \"sha256\": \"" SUM "\"},"
    " {\"name\": \"state\", \"size\": 5, \"sha256\": \"" SUM "\"}]}";

static char *base, *liar_address, *server_path;
static uint8_t pages[PAGES * PAGE];

static void check(bool promise)
{
    if (!promise)
        abort();
}

static void check_refusal(const GError *error)
{
    check(error && g_utf8_validate(error->message, -1, NULL));
    check(!strpbrk(error->message, "\n\r\033\177"));
}

/* ---- messages --------------------------------------------------------------------- */

static void add(GByteArray *to, const void *data, size_t len)
{
    g_byte_array_append(to, data, (guint)len);
}

static void add_hello(GByteArray *to)
{
    add(to, "HUTCHSNP\1\0\0\0\0\0\0\0", WIRE_HELLO);
}

static void add_file(GByteArray *to, const char *text)
{
    uint8_t head[WIRE_REPLY];

    store_le32(head, WIRE_MAGIC);
    store_le32(head + 4, WIRE_OK);
    store_le32(head + 8, (uint32_t)strlen(text));
    store_le32(head + 12, WIRE_FILE);
    add(to, head, sizeof(head));
    add(to, text, strlen(text));
}

static void drain(int fd)
{
    char buf[4096];

    while (recv(fd, buf, sizeof(buf), 0) > 0)
        ;
}

/* ---- a server that lies ----------------------------------------------------------- */

static struct {
    WireListener listener;
    Lock lock; /* guards what is said */
    GByteArray *first, *later;
    bool begun;
} liar = {.lock = LOCK_INIT};

static GByteArray *take_words(void)
{
    LOCK_GUARD(&liar.lock);
    GByteArray *words = liar.begun ? liar.later : liar.first;

    liar.begun = true;
    return g_byte_array_ref(words);
}

static void *liar_thread(void *opaque)
{
    for (;;) {
        struct pollfd ready = {liar.listener.fd, POLLIN, 0};
        int fd = poll(&ready, 1, -1) == 1 ? accept(ready.fd, NULL, NULL) : -1;
        GByteArray *words;

        if (fd < 0)
            continue;
        words = take_words();
        send(fd, words->data, words->len, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        drain(fd);
        close(fd);
        g_byte_array_unref(words);
    }
    return NULL;
}

/* Takes over both. */
static void lie(GByteArray *first, GByteArray *later)
{
    LOCK_GUARD(&liar.lock);

    g_clear_pointer(&liar.first, g_byte_array_unref);
    g_clear_pointer(&liar.later, g_byte_array_unref);
    liar.first = first;
    liar.later = later;
    liar.begun = false;
}

/* ---- clients ---------------------------------------------------------------------- */

static void try_open(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    GByteArray *words = g_byte_array_new();
    RemoteSnapshot *r;

    add_hello(words);
    add(words, data, size);
    lie(words, g_byte_array_ref(words));
    r = remote_open(liar_address, &error);
    if (r)
        check(remote_ram_size(r) && remote_ram_size(r) % PAGE == 0);
    else
        check_refusal(error);
    remote_close(r);
}

static void ask_pages(PageSource *s, unsigned n)
{
    static uint8_t buf[PAGES * PAGE];
    uint64_t page = 0, count = 0;

    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(GError) error = NULL;
        uint64_t from = page;

        if (!s->next(s, &page, &count, &error)) {
            check_refusal(error);
            return;
        }
        if (!count)
            return;
        check(page >= from && page < PAGES && count <= PAGES - page);
        n = (unsigned)MIN(n, count);
        if (!s->read(s, page, n, buf, &error)) {
            check_refusal(error);
            return;
        }
        page += n;
    }
}

static void try_source(const uint8_t *data, size_t size, unsigned n)
{
    g_autoptr(GError) error = NULL;
    GByteArray *first = g_byte_array_new(), *later = g_byte_array_new();
    RemoteSnapshot *r;
    PageSource *s;

    add_hello(first);
    add_hello(later);
    add_file(later, manifest);
    add(later, data, size);
    for (unsigned i = 0; wire_files[i]; i++)
        add_file(first, manifest); /* what the others say is looked at elsewhere */
    lie(first, later);
    r = remote_open(liar_address, &error);
    check(r != NULL);
    s = remote_source(r, &error);
    check(s != NULL);
    ask_pages(s, n % PAGES + 1);
    s->close(s);
    remote_close(r);
}

/* ---- the server ------------------------------------------------------------------- */

static bool receive_all(int fd, void *buf, size_t len)
{
    return recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static void check_answers(int fd)
{
    static uint8_t buf[WIRE_MOST];
    uint8_t head[WIRE_REPLY];

    while (receive_all(fd, head, sizeof(head))) {
        uint32_t status = load_le32(head + 4), len = load_le32(head + 8),
                 type = load_le32(head + 12);

        check(load_le32(head) == WIRE_MAGIC && type >= WIRE_FILE && type <= WIRE_NEXT);
        check(status == WIRE_OK
                  ? len <= WIRE_MOST && (type != WIRE_FILE || len <= WIRE_PIECE)
                  : status == WIRE_FAILED && len <= WIRE_SENTENCE);
        if (!receive_all(fd, buf, len))
            return; /* it hangs up on what makes no sense, with that unread */
        check(type != WIRE_NEXT || status || len == 16);
        check(status == WIRE_OK || g_utf8_validate((char *)buf, len, NULL));
    }
}

static void try_server(const uint8_t *data, size_t size, bool hello)
{
    autofd fd = unix_connect(server_path, NULL);
    uint8_t greeting[WIRE_HELLO];

    check(fd >= 0);
    if (hello)
        check(send(fd, "HUTCHSNP\1\0\0\0\0\0\0\0", WIRE_HELLO, MSG_NOSIGNAL) ==
              WIRE_HELLO);
    if (send(fd, data, size, MSG_NOSIGNAL) < 0)
        return; /* it has hung up */
    shutdown(fd, SHUT_WR);
    if (receive_all(fd, greeting, sizeof(greeting)))
        check_answers(fd);
    drain(fd);
}

/* ---- memory.zst ------------------------------------------------------------------- */

static void read_all(MemoryZst *z, uint64_t n_pages)
{
    static uint8_t buf[256 * PAGE];
    uint64_t page = 0, from = 0, n = 0;

    check(n_pages <= 256);
    while (page < n_pages && memory_zst_next(z, &page, &n)) {
        g_autoptr(GError) error = NULL;

        check(page >= from && n && page < n_pages && n <= n_pages - page);
        if (!memory_zst_read(z, page, (unsigned)n, buf, &error))
            check_refusal(error);
        from = page += n;
    }
    for (page = 0; page < n_pages; page += 7)
        memory_zst_read(z, page, (unsigned)MIN(9, n_pages - page), buf, NULL);
}

/* `right`: what is said is frames, then entries of the index as many as the last byte
 * tells, and the rest is as it should be. */
static void try_zst(const uint8_t *data, size_t size, uint64_t n_pages, bool right)
{
    autofd fd = memfd_create("memory.zst", MFD_CLOEXEC);
    g_autoptr(GByteArray) file = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    uint32_t n = right && size ? data[--size] % 8 : 0, bytes = n * 16;
    uint8_t words[32] = {0};
    MemoryZst *z;

    add(file, data, size);
    if (right && bytes <= size) {
        g_byte_array_set_size(file, (guint)(size - bytes));
        store_le32(words, 0x184D2A5E);
        store_le32(words + 4, bytes + 32);
        add(file, words, 8);
        add(file, data + size - bytes, bytes);
        store_le64(words, n_pages);
        store_le32(words + 8, n);
        store_le32(words + 12, (uint32_t)crc32(0, data + size - bytes, bytes));
        store_le32(words + 16, ZST_CHUNK);
        store_le32(words + 20, 1);
        memcpy(words + 24, "HUTCHZST", 8);
        add(file, words, 32);
    }
    check(fd >= 0 && write(fd, file->data, file->len) == (ssize_t)file->len);
    z = memory_zst_open(fd, n_pages, &error);
    if (z)
        read_all(z, n_pages);
    else
        check_refusal(error);
    memory_zst_free(z);
}

/* ---- all of it -------------------------------------------------------------------- */

static char *put(const char *name, const void *data, size_t len)
{
    char *path = g_build_filename(base, name, NULL);

    check(g_file_set_contents(path, data, (gssize)len, NULL));
    return path;
}

static void clean_up(void)
{
    static const char *const names[] = {SNAP_MANIFEST, SNAP_CONFIG, SNAP_STATE,
                                        SNAP_MEMORY,   "server",    "liar"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(base, names[i], NULL);

        unlink(path);
    }
    rmdir(base);
}

static int pipe_ready[2];

static void on_ready(void *opaque, const char *address)
{
    check(write(pipe_ready[1], "", 1) == 1);
}

static void *server_thread(void *opaque)
{
    g_autofree char *address = g_strdup_printf("unix:%s", server_path);
    g_autoptr(GError) error = NULL;

    if (!snapshot_serve(base, address, on_ready, NULL, &error))
        g_error("it does not serve: %s", error->message);
    return NULL;
}

static void begin(void)
{
    pthread_t thread;
    char byte;

    base = g_dir_make_tmp("hutch-fuzz-XXXXXX", NULL);
    check(base && pipe(pipe_ready) == 0);
    atexit(clean_up);
    for (unsigned i = 3; i < PAGES; i += 5)
        memset(pages + i * PAGE, (int)i, PAGE);
    g_free(put(SNAP_MANIFEST, manifest, strlen(manifest)));
    g_free(put(SNAP_CONFIG, "{}", 2));
    g_free(put(SNAP_STATE, "state", 5));
    g_free(put(SNAP_MEMORY, pages, sizeof(pages)));
    server_path = g_build_filename(base, "server", NULL);
    liar_address = g_strdup_printf("unix:%s/liar", base);
    check(wire_listen(&liar.listener, liar_address, NULL));
    check(pthread_create(&thread, NULL, liar_thread, NULL) == 0);
    check(pthread_create(&thread, NULL, server_thread, NULL) == 0);
    check(read(pipe_ready[0], &byte, 1) == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!base)
        begin();
    if (size < 2)
        return 0;
    switch (*data % 4) {
    case 0:
        try_open(data + 2, size - 2);
        break;
    case 1:
        try_source(data + 2, size - 2, data[1]);
        break;
    case 2:
        try_server(data + 2, size - 2, data[1] % 2);
        break;
    case 3:
        try_zst(data + 2, size - 2, data[1] / 2 + 1u, data[1] % 2);
        break;
    }
    return 0;
}
