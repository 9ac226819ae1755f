/* src/block: NBD servers that lie, die and babble.  The server is a thread of the test;
 * the protocol's numbers are those of doc/proto.md of the NBD project. */
#include <endian.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "src/block/file_private.h"
#include "tests/unit/backend/scratch.h"
#include "util/bits.h"
#include "util/fd.h"

enum { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };
enum { OPT_GO = 7, OPT_STRUCTURED_REPLY = 8, OPT_SET_META_CONTEXT = 10 };
enum { REP_ACK = 1, REP_INFO = 3, REP_META_CONTEXT = 4, INFO_EXPORT = 0, INFO_BLOCK = 3 };
#define REP_ERR_UNSUP (BIT(31) | 1)
enum { HAS_FLAGS = 1, SEND_FLUSH = 4, SEND_TRIM = 32 };
enum { CMD_READ = 0, CMD_DISC = 2, CMD_BLOCK_STATUS = 7 };
enum { REPLY_DATA = 1, REPLY_STATUS = 5, REPLY_DONE = 1, ESHUTDOWN_ON_WIRE = 108 };
#define OPTION_REPLY_MAGIC 0x3e889045565a9ull
#define SIMPLE_MAGIC       0x67446698u
#define STRUCTURED_MAGIC   0x668e33efu

typedef struct Request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t len;
} __attribute__((packed)) Request;

typedef struct Liar {
    uint64_t size;
    uint32_t min, preferred, max; /* all 0: not said */
    bool structured;
    const char *greeting; /* instead of the right one */
    bool silent_later;    /* from the second connection on */
    /* False: hang up.  NULL: always. */
    bool (*answer)(int fd, const Request *r);

    char *dir, *uri;
    int fd, wake;
    GThread *thread;
    int connections; /* atomic */
} Liar;

static bool put(int fd, const void *buf, size_t len)
{
    return send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool take(int fd, void *buf, size_t len)
{
    return !len || recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static void put_option_reply(int fd, uint32_t option, uint32_t type, const void *data,
                             uint32_t len)
{
    struct {
        uint64_t magic;
        uint32_t option, type, len;
    } __attribute__((packed))
    head = {htobe64(OPTION_REPLY_MAGIC), htobe32(option), htobe32(type), htobe32(len)};

    put(fd, &head, sizeof(head));
    put(fd, data, len);
}

static void put_info(const Liar *l, int fd)
{
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) export = {htobe16(INFO_EXPORT), htobe64(l->size),
                                        htobe16(HAS_FLAGS | SEND_FLUSH | SEND_TRIM)};
    struct {
        uint16_t type;
        uint32_t min, preferred, max;
    } __attribute__((packed)) block = {htobe16(INFO_BLOCK), htobe32(l->min),
                                       htobe32(l->preferred), htobe32(l->max)};

    put_option_reply(fd, OPT_GO, REP_INFO, &export, sizeof(export));
    if (l->min || l->preferred || l->max)
        put_option_reply(fd, OPT_GO, REP_INFO, &block, sizeof(block));
    put_option_reply(fd, OPT_GO, REP_ACK, NULL, 0);
}

static bool handshake(const Liar *l, int fd)
{
    static const char context[] = "\0\0\0\1base:allocation";
    uint32_t flags, head[4];
    uint8_t data[4096];

    if (l->greeting)
        return put(fd, l->greeting, strlen(l->greeting)) && false;
    put(fd, "NBDMAGICIHAVEOPT\0\3", 18);
    if (!take(fd, &flags, sizeof(flags)))
        return false;
    while (take(fd, head, sizeof(head))) {
        uint32_t option = be32toh(head[2]), len = be32toh(head[3]);

        if (len > sizeof(data) || !take(fd, data, len))
            return false;
        if (option == OPT_GO) {
            put_info(l, fd);
            return true;
        }
        if (option == OPT_SET_META_CONTEXT && l->structured)
            put_option_reply(fd, option, REP_META_CONTEXT, context, sizeof(context) - 1);
        put_option_reply(fd, option, l->structured ? REP_ACK : REP_ERR_UNSUP, NULL, 0);
    }
    return false;
}

static void serve(Liar *l, int fd)
{
    Request r;

    if (g_atomic_int_add(&l->connections, 1) && l->silent_later) {
        take(fd, &r, sizeof(r)); /* until the other side has had enough */
        return;
    }
    if (!handshake(l, fd) || !l->answer)
        return;
    while (take(fd, &r, sizeof(r)) && be16toh(r.type) != CMD_DISC)
        if (!l->answer(fd, &r))
            return;
}

static gpointer liar_thread(gpointer opaque)
{
    Liar *l = opaque;
    struct pollfd fds[] = {{.fd = l->fd, .events = POLLIN},
                           {.fd = l->wake, .events = POLLIN}};

    while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
        int fd = accept(l->fd, NULL, NULL);

        serve(l, fd);
        close(fd);
    }
    return NULL;
}

static void liar_start(Liar *l, const char *query)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    g_autofree char *path = NULL;

    l->dir = new_dir();
    path = g_build_filename(l->dir, "sock", NULL);
    g_strlcpy(a.sun_path, path, sizeof(a.sun_path));
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(l->fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(listen(l->fd, 8), ==, 0);
    l->wake = fd_event(NULL);
    l->uri = g_strdup_printf("nbd+unix:///?socket=%s%s", path, query);
    l->thread = g_thread_new("liar", liar_thread, l);
}

static void liar_end(Liar *l)
{
    fd_event_signal(l->wake);
    g_thread_join(l->thread);
    close(l->fd);
    close(l->wake);
    g_free(l->uri);
    remove_dir(l->dir);
}

static BlockFile *liar_open(Liar *l, GError **error)
{
    BlockOptions options = {.path = l->uri};

    return block_file_open(&options, error);
}

static void is_refused(Liar l, const char *needle)
{
    g_autoptr(GError) error = NULL;

    liar_start(&l, "");
    g_assert_null(liar_open(&l, &error));
    g_assert_nonnull(error);
    if (!strstr(error->message, needle) || !strstr(error->message, l.uri))
        g_error("\"%s\" does not say \"%s\"", error->message, needle);
    liar_end(&l);
}

/* ---- before the first request
 * ---------------------------------------------------------- */

static void what_is_no_server_is_refused(void)
{
    is_refused((Liar){.greeting = ""}, "disconnected");
    is_refused((Liar){.greeting = "HTTP/1.1 400 Bad Request\r\n\r\n"}, "server");
    is_refused((Liar){.greeting = "NBDMAGIC"}, "disconnected");
}

static void sizes_beyond_all_disks_are_refused(void)
{
    is_refused((Liar){.size = BIT64(63)}, "2^63");
    is_refused((Liar){.size = BIT64(63) + 12345}, "2^63");
    is_refused((Liar){.size = UINT64_MAX}, "2^63");
}

static void block_sizes_without_sense_do_no_harm(void)
{
    static const struct {
        uint32_t min, preferred, max;
        uint64_t size, seen;
        unsigned io_align, logical, physical;
    } cases[] = {
        {0, 0, 0, 1000, 1000, 1, 512, 4096},
        {512, 4096, 65536, 1000, 512, 512, 512, 4096},
        {4096, 4096, 65536, 4095, 0, 4096, 4096, 4096},
        {65536, 65536, 65536, MIB + 1, MIB, 65536, 4096, 65536},
        {1, BIT(31), UINT32_MAX, MIB, MIB, 1, 512, 65536},
        {3, 4096, 65536, MIB, MIB, 1, 512, 4096},
        {BIT(31), BIT(31), BIT(31), MIB, MIB, 1, 512, 4096},
        {4096, 512, 65536, MIB, MIB, 1, 512, 4096},
        {1, 4096, 1, MIB, MIB, 1, 512, 4096},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Liar l = {.min = cases[i].min,
                  .preferred = cases[i].preferred,
                  .max = cases[i].max,
                  .size = cases[i].size};
        BlockFile *f;

        liar_start(&l, "");
        f = liar_open(&l, NULL);
        g_assert_nonnull(f);
        g_assert_cmpuint(f->size, ==, cases[i].seen);
        g_assert_cmpuint(f->io_align, ==, cases[i].io_align);
        g_assert_cmpuint(f->logical, ==, cases[i].logical);
        g_assert_cmpuint(f->physical, ==, cases[i].physical);
        block_file_close(f);
        liar_end(&l);
    }
}

/* ---- in the midst of requests --------------------------------------------------------
 */

static bool hang_up(int fd, const Request *r)
{
    return false;
}

static bool hang_up_late(int fd, const Request *r)
{
    g_usleep(300 * 1000);
    return false;
}

static bool babble(int fd, const Request *r)
{
    char nonsense[64];

    memset(nonsense, 'x', sizeof(nonsense));
    return put(fd, nonsense, sizeof(nonsense));
}

static bool put_simple(int fd, uint64_t cookie, uint32_t err)
{
    struct {
        uint32_t magic, err;
        uint64_t cookie;
    } __attribute__((packed)) reply = {htobe32(SIMPLE_MAGIC), htobe32(err), cookie};

    return put(fd, &reply, sizeof(reply));
}

static bool answer_in_part(int fd, const Request *r)
{
    return put_simple(fd, r->cookie, 0) && put(fd, "short", 5) && false;
}

static bool shut_down(int fd, const Request *r)
{
    return put_simple(fd, r->cookie, ESHUTDOWN_ON_WIRE);
}

/* Such a server is tried again, and then given up: it may neither hang us nor keep us
 * busy. */
static void a_server_that_breaks_off_is_an_error(void)
{
    static bool (*const answers[])(int fd, const Request *r) = {
        hang_up, hang_up_late, babble, answer_in_part, shut_down};
    static const char *const queries[] = {"", "&reconnect=1"};

    for (unsigned q = 0; q < G_N_ELEMENTS(queries); q++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
            Liar l = {.size = MIB, .answer = answers[i]};
            int64_t start = g_get_monotonic_time();
            char buf[4096];
            BlockFile *f;

            liar_start(&l, queries[q]);
            f = liar_open(&l, NULL);
            g_assert_nonnull(f);
            g_assert_cmpint(block_file_read(f, 0, buf, sizeof(buf)), ==, EIO);
            g_assert_cmpint(g_get_monotonic_time() - start, <, 3 * G_USEC_PER_SEC);
            g_assert_cmpint(g_atomic_int_get(&l.connections), <=, 15);
            block_file_close(f);
            liar_end(&l);
        }
    }
}

static void a_server_that_answers_no_more_is_an_error(void)
{
    Liar l = {.size = MIB, .answer = hang_up, .silent_later = true};
    int64_t start = g_get_monotonic_time();
    BlockFile *f;
    char buf[512];

    liar_start(&l, "");
    f = liar_open(&l, NULL);
    g_assert_nonnull(f);
    g_assert_cmpint(block_file_read(f, 0, buf, sizeof(buf)), ==, EIO);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 5 * G_USEC_PER_SEC);
    block_file_close(f);
    liar_end(&l);
}

static bool put_chunk(int fd, const Request *r, uint16_t flags, uint16_t type,
                      const void *data, uint32_t len)
{
    struct {
        uint32_t magic;
        uint16_t flags, type;
        uint64_t cookie;
        uint32_t len;
    } __attribute__((packed)) head = {htobe32(STRUCTURED_MAGIC), htobe16(flags),
                                      htobe16(type), r->cookie, htobe32(len)};

    return put(fd, &head, sizeof(head)) && put(fd, data, len);
}

static const uint32_t (*extents)[2]; /* what the server says */
static unsigned n_extents;

static bool tell_extents(int fd, const Request *r)
{
    uint32_t answer[64] = {htobe32(1)};

    for (unsigned i = 0; i < n_extents; i++) {
        answer[1 + 2 * i] = htobe32(extents[i][0]);
        answer[2 + 2 * i] = htobe32(extents[i][1]);
    }
    return !n_extents || put_chunk(fd, r, 0, REPLY_STATUS, answer, 4 + 8 * n_extents)
               ? put_chunk(fd, r, REPLY_DONE, 0, NULL, 0)
               : false;
}

static void extents_are_within_what_was_asked_for(void)
{
    static const struct {
        unsigned n;
        uint32_t extents[4][2];
        bool data;
        uint64_t len;
    } cases[] = {
        {0, {{0}}, true, 65536},
        {1, {{0, 3}}, true, 65536},
        {2, {{0, 0}, {4096, 3}}, false, 4096},
        {1, {{UINT32_MAX, 3}}, false, 65536},
        {4,
         {{UINT32_MAX, 0}, {UINT32_MAX, 0}, {UINT32_MAX, 0}, {UINT32_MAX, 0}},
         true,
         65536},
        {3, {{512, 3}, {512, 2}, {512, 0}}, false, 1024},
        {2, {{512, 1}, {512, UINT32_MAX}}, true, 512}, /* a hole that is not zeroes */
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Liar l = {.size = MIB, .structured = true, .answer = tell_extents};
        uint64_t len;
        BlockFile *f;
        bool data;

        extents = cases[i].extents;
        n_extents = cases[i].n;
        liar_start(&l, "");
        f = liar_open(&l, NULL);
        g_assert_nonnull(f);
        g_assert_cmpint(f->ops->extent(f, 0, 65536, &data, &len), ==, 0);
        g_assert_cmpint(data, ==, cases[i].data);
        g_assert_cmpuint(len, ==, cases[i].len);
        block_file_close(f);
        liar_end(&l);
    }
}

/* 4 bytes of data at the offset that the test gives. */
static uint64_t data_offset;

static bool tell_little(int fd, const Request *r)
{
    struct {
        uint64_t offset;
        char data[4];
    } __attribute__((packed)) chunk = {htobe64(data_offset), "data"};

    return put_chunk(fd, r, REPLY_DONE, REPLY_DATA, &chunk, sizeof(chunk));
}

static void memory_is_not_shown_where_the_server_says_nothing(void)
{
    Liar l = {.size = MIB, .structured = true, .answer = tell_little};
    uint8_t buf[4096];
    BlockFile *f;

    liar_start(&l, "");
    f = liar_open(&l, NULL);
    g_assert_nonnull(f);
    memset(buf, 0x5a, sizeof(buf));
    data_offset = 4096;
    if (block_file_read(f, 4096, buf, sizeof(buf)) == 0) {
        g_assert_cmpmem(buf, 4, "data", 4);
        for (unsigned i = 4; i < sizeof(buf); i++)
            g_assert_cmpint(buf[i], ==, 0);
    }
    for (data_offset = 0; data_offset <= 8192; data_offset += 8192)
        g_assert_cmpint(block_file_read(f, 4096, buf, sizeof(buf)), ==, EIO);
    block_file_close(f);
    liar_end(&l);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/nbd_hostile/" #fn, fn)
    T(what_is_no_server_is_refused);
    T(sizes_beyond_all_disks_are_refused);
    T(block_sizes_without_sense_do_no_harm);
    T(a_server_that_breaks_off_is_an_error);
    T(a_server_that_answers_no_more_is_an_error);
    T(extents_are_within_what_was_asked_for);
    T(memory_is_not_shown_where_the_server_says_nothing);
#undef T
    return g_test_run();
}
