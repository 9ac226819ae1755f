/* Character devices against real pipes, sockets, files and pseudo-terminals. */
#include "backend/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>

#include "util/fd.h"
#include "util/lock.h"
#include "util/log.h"

enum { RING = 64 * 1024, BIG = 1024 * 1024, PATIENCE_MS = 5000 };

/* A device on a loop of its own thread, that takes what it has room for. */
typedef struct Dev {
    IoLoop *loop;
    Chardev *c;
    ChardevOptions options;
    GError *error;
    int closing_ms;

    Lock lock; /* guards the rest */
    size_t room;
    GByteArray *got;
    unsigned drained, opened, closed, breaks, resized, largest;
    GString *keys;
} Dev;

static char *folder; /* scratch */

static size_t dev_room(void *opaque)
{
    Dev *d = opaque;

    LOCK_GUARD(&d->lock);
    return d->room;
}

static void dev_input(void *opaque, const uint8_t *buf, size_t len)
{
    Dev *d = opaque;

    LOCK_GUARD(&d->lock);
    g_assert_cmpuint(len, <=, d->room);
    d->room -= len;
    d->largest = MAX(d->largest, (unsigned)len);
    g_byte_array_append(d->got, buf, (guint)len);
}

static void dev_drained(void *opaque)
{
    Dev *d = opaque;

    LOCK_GUARD(&d->lock);
    d->drained++;
}

static void dev_event(void *opaque, ChardevEvent event)
{
    Dev *d = opaque;

    LOCK_GUARD(&d->lock);
    d->opened += event == CHARDEV_OPENED;
    d->closed += event == CHARDEV_CLOSED;
    d->breaks += event == CHARDEV_BREAK;
}

static void dev_resized(void *opaque)
{
    Dev *d = opaque;

    LOCK_GUARD(&d->lock);
    d->resized++;
}

static void dev_key(void *opaque, char key)
{
    Dev *d = opaque;

    LOCK_GUARD(&d->lock);
    g_string_append_c(d->keys, key);
}

static const ChardevHandlers handlers = {dev_room, dev_input, dev_drained, dev_event,
                                         dev_resized};

static void open_on_loop(void *opaque)
{
    Dev *d = opaque;

    d->c = chardev_open(&d->options, "serial0", d->loop, &d->error);
    if (d->c)
        chardev_set_handlers(d->c, &handlers, d);
}

static void close_on_loop(void *opaque)
{
    Dev *d = opaque;

    chardev_close(d->c, d->closing_ms);
}

static Dev *dev_new(ChardevOptions options)
{
    Dev *d = g_new0(Dev, 1);

    d->loop = ioloop_start("chardev", NULL);
    d->options = options;
    lock_init(&d->lock);
    d->got = g_byte_array_new();
    d->keys = g_string_new(NULL);
    d->room = BIG;
    d->closing_ms = 1000;
    ioloop_call(d->loop, open_on_loop, d);
    return d;
}

static Dev *dev_good(ChardevOptions options)
{
    Dev *d = dev_new(options);

    g_assert_no_error(d->error);
    return d;
}

static void dev_free(Dev *d)
{
    ioloop_call(d->loop, close_on_loop, d);
    ioloop_free(d->loop);
    lock_finish(&d->lock);
    g_byte_array_unref(d->got);
    g_string_free(d->keys, TRUE);
    g_clear_error(&d->error);
    g_free(d->options.file);
    g_free(d->options.socket);
    g_free(d->options.log);
    g_free(d);
}

static void dev_give_room(Dev *d, size_t room)
{
    lock_acquire(&d->lock);
    d->room = room;
    lock_release(&d->lock);
    chardev_accept_input(d->c);
}

/* Waits until the expression, read under the device's lock, is true. */
#define WAIT(d, expr)                                                                    \
    do {                                                                                 \
        for (int ms_ = 0;; ms_++) {                                                      \
            lock_acquire(&(d)->lock);                                                    \
            bool true_ = (expr);                                                         \
            lock_release(&(d)->lock);                                                    \
            if (true_)                                                                   \
                break;                                                                   \
            if (ms_ > PATIENCE_MS)                                                       \
                g_error("waited in vain for: %s", #expr);                                \
            g_usleep(1000);                                                              \
        }                                                                                \
    } while (0)

#define WAIT_GOT(d, text)                                                                \
    WAIT(d, (d)->got->len >= strlen(text) && !memcmp((d)->got->data, text, strlen(text)))

static char *scratch(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static void put(int fd, const char *text)
{
    g_assert_true(fd_write_all(fd, text, strlen(text), NULL));
}

/* Reads exactly len bytes, with patience. */
static void take(int fd, void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t n;

        g_assert_cmpint(poll(&p, 1, PATIENCE_MS), ==, 1);
        n = read(fd, (char *)buf + done, len - done);
        g_assert_cmpint(n, >, 0);
        done += (size_t)n;
    }
}

static void take_text(int fd, const char *text)
{
    char buf[256] = "";

    take(fd, buf, strlen(text));
    g_assert_cmpstr(buf, ==, text);
}

static int dial(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return fd;
}

static Dev *socket_dev(const char *name)
{
    return dev_good((ChardevOptions){.socket = scratch(name)});
}

/* ---- sockets, and what all kinds share ------------------------------------------------
 */

static void bytes_pass_both_ways_over_a_socket(void)
{
    Dev *d = socket_dev("both");
    autofd client = dial(d->options.socket);

    WAIT(d, d->opened == 1);
    put(client, "to the guest");
    WAIT_GOT(d, "to the guest");
    g_assert_cmpuint(chardev_write(d->c, "from it", 7), ==, 7);
    take_text(client, "from it");
    fd_close(&client);
    WAIT(d, d->closed == 1);
    dev_free(d);
}

static void slow_reader_gives_short_writes_then_drained_and_loses_nothing(void)
{
    Dev *d = socket_dev("slow");
    autofd client = dial(d->options.socket);
    g_autofree uint8_t *back = g_malloc(BIG);
    size_t sent = 0, stuck = 0;

    WAIT(d, d->opened == 1);
    while (stuck < 50) { /* until the socket's buffer and the ring are full */
        uint8_t chunk[1000];
        size_t n;

        for (size_t i = 0; i < sizeof(chunk); i++)
            chunk[i] = (uint8_t)((sent + i) * 7 >> 3);
        n = chardev_write(d->c, chunk, sizeof(chunk));
        sent += n;
        stuck = n ? 0 : stuck + 1;
        if (!n)
            g_usleep(1000);
    }
    g_assert_cmpuint(sent, >=, RING);
    g_assert_cmpuint(sent, <, BIG);
    lock_acquire(&d->lock);
    d->drained = 0;
    lock_release(&d->lock);
    take(client, back, sent);
    WAIT(d, d->drained > 0);
    for (size_t i = 0; i < sent; i++)
        g_assert_cmpuint(back[i], ==, (uint8_t)(i * 7 >> 3));
    dev_free(d);
}

static void late_client_gets_the_last_ring_full(void)
{
    Dev *d = socket_dev("late");
    g_autofree uint8_t *back = g_malloc(RING);
    uint32_t n = 0;
    autofd client = -1;

    for (; n < 2 * RING / 4 + 123; n++)
        g_assert_cmpuint(chardev_write(d->c, &n, 4), ==, 4); /* never held up */
    client = dial(d->options.socket);
    take(client, back, RING);
    for (uint32_t i = 0; i < RING / 4; i++) {
        uint32_t v;

        memcpy(&v, back + 4 * i, 4);
        g_assert_cmpuint(v, ==, n - RING / 4 + i);
    }
    dev_free(d);
}

static void one_write_larger_than_the_ring_keeps_its_end(void)
{
    Dev *d = socket_dev("large");
    g_autofree uint8_t *buf = g_malloc(RING + 5);
    g_autofree uint8_t *back = g_malloc(RING);
    autofd client = -1;

    for (size_t i = 0; i < RING + 5; i++)
        buf[i] = (uint8_t)(i % 251);
    g_assert_cmpuint(chardev_write(d->c, "xyz", 3), ==, 3);
    g_assert_cmpuint(chardev_write(d->c, buf, RING + 5), ==, RING + 5);
    client = dial(d->options.socket);
    take(client, back, RING);
    g_assert_cmpmem(back, RING, buf + 5, RING);
    dev_free(d);
}

static Dev *logged_dev(const char *name)
{
    g_autofree char *log = g_strconcat(name, ".log", NULL);

    return dev_good((ChardevOptions){.socket = scratch(name), .log = scratch(log)});
}

/* Of a file and the part before it; a new string. */
static char *both_parts(const char *log, size_t *ret_len, size_t *ret_largest)
{
    g_autofree char *older = g_strconcat(log, ".1", NULL);
    g_autofree char *one = NULL;
    g_autofree char *two = NULL;
    gsize n_one = 0, n_two = 0;
    char *all;

    g_file_get_contents(older, &one, &n_one, NULL);
    g_assert_true(g_file_get_contents(log, &two, &n_two, NULL));
    all = g_malloc(n_one + n_two);
    memcpy(all, one, n_one);
    memcpy(all + n_one, two, n_two);
    *ret_len = n_one + n_two;
    *ret_largest = MAX(n_one, n_two);
    return all;
}

/* Numbers, so that a piece that is missing, doubled or out of order shows. */
static size_t write_numbers(Dev *d, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        g_autofree char *line = g_strdup_printf("%09u\n", i);
        size_t done = 0;

        while (done < 10) {
            size_t n = chardev_write(d->c, line + done, 10 - done);

            done += n;
            if (!n)
                g_usleep(100);
        }
    }
    return (size_t)count * 10;
}

static void check_numbers(const char *text, size_t len, uint32_t last)
{
    g_assert_cmpuint(len % 10, ==, 0);
    for (size_t at = len; at >= 10; at -= 10)
        g_assert_cmpuint(strtoul(text + at - 10, NULL, 10), ==, last--);
}

static void a_log_keeps_all_that_is_said_in_order_and_is_bounded(void)
{
    Dev *d = logged_dev("bounded");
    g_autofree char *log = g_strdup(d->options.log);
    g_autofree char *text = NULL;
    size_t len, largest;

    write_numbers(d, 350 * 1000); /* 3.5 MB; nobody listens */
    dev_free(d);
    text = both_parts(log, &len, &largest);
    g_assert_cmpuint(largest, ==, 1024 * 1024);
    g_assert_cmpuint(len, >, 1024 * 1024);
    check_numbers(text + len % 10, len - len % 10, 350 * 1000 - 1);
}

static void with_a_log_each_client_hears_the_last_of_it_and_then_what_is_new(void)
{
    static const char *const last[] = {"000019999\n", "it is new\n", "it is new\n"};
    Dev *d = logged_dev("replay");
    g_autofree char *text = g_malloc(RING);

    write_numbers(d, 20 * 1000); /* more than the ring */
    for (unsigned i = 0; i < G_N_ELEMENTS(last); i++) {
        autofd client = dial(d->options.socket);

        WAIT(d, d->opened == i + 1);
        take(client, text, RING);
        g_assert_cmpmem(text + RING - 10, 10, last[i], 10);
        if (i == 0) {
            g_assert_cmpuint(chardev_write(d->c, "it is new\n", 10), ==, 10);
            take_text(client, "it is new\n");
        }
        fd_close(&client);
        WAIT(d, d->closed == i + 1);
    }
    dev_free(d);
}

static void *write_a_lot(void *opaque)
{
    write_numbers(opaque, 90 * 1000);
    return NULL;
}

/* At full speed nothing is sent, and overwritten, before it is in the log. */
static void what_a_quick_client_gets_is_in_the_log_as_well(void)
{
    Dev *d = logged_dev("quick");
    autofd client = dial(d->options.socket);
    g_autofree char *log = g_strdup(d->options.log);
    g_autofree char *got = g_malloc(900 * 1000);
    g_autofree char *text = NULL;
    size_t len, largest;
    pthread_t writer;

    WAIT(d, d->opened == 1);
    pthread_create(&writer, NULL, write_a_lot, d);
    take(client, got, 900 * 1000);
    pthread_join(writer, NULL);
    dev_free(d);
    check_numbers(got, 900 * 1000, 90 * 1000 - 1);
    text = both_parts(log, &len, &largest);
    g_assert_cmpuint(len, ==, 900 * 1000);
    check_numbers(text, len, 90 * 1000 - 1);
}

static void a_client_that_reads_nothing_does_not_keep_the_log_from_what_was_said(void)
{
    Dev *d = logged_dev("lazy");
    autofd client = dial(d->options.socket);
    g_autofree char *log = g_strdup(d->options.log);
    g_autofree char *text = NULL;
    size_t sent = 0, n, len, largest;

    g_assert_cmpint(client, >=, 0);
    WAIT(d, d->opened == 1);
    while ((n = chardev_write(d->c, "123456789\n", 10)) == 10 || sent < RING) {
        sent += n;
        g_usleep(n == 10 ? 0 : 1000);
    }
    sent += n;
    d->closing_ms = 0;
    dev_free(d);
    text = both_parts(log, &len, &largest);
    g_assert_cmpuint(len, ==, sent);
}

static void input_is_offered_only_as_far_as_there_is_room(void)
{
    Dev *d = socket_dev("room");
    autofd client = -1;

    dev_give_room(d, 0);
    client = dial(d->options.socket);
    put(client, "0123456789abcdef");
    WAIT(d, d->opened == 1);
    g_usleep(20000);
    WAIT(d, d->got->len == 0);
    dev_give_room(d, 10);
    WAIT_GOT(d, "0123456789");
    dev_give_room(d, 1);
    WAIT_GOT(d, "0123456789a");
    dev_give_room(d, 100);
    WAIT_GOT(d, "0123456789abcdef");
    g_assert_cmpuint(d->largest, ==, 10);
    dev_free(d);
}

static void last_words_of_a_client_are_heard_and_the_next_one_is_served(void)
{
    Dev *d = socket_dev("next");
    int first, second;

    dev_give_room(d, 2); /* the guest is busy, but the hang-up is noticed */
    first = dial(d->options.socket);
    second = dial(d->options.socket);
    put(first, "bye");
    put(second, "hello");
    WAIT(d, d->opened == 1);
    WAIT_GOT(d, "by");
    close(first);
    WAIT(d, d->opened == 2 && d->closed == 1);
    dev_give_room(d, 100);
    WAIT_GOT(d, "byehello");
    chardev_write(d->c, "!", 1);
    take_text(second, "!");
    close(second);
    dev_free(d);
}

static void half_closed_client_still_gets_output(void)
{
    Dev *d = socket_dev("half");
    autofd client = dial(d->options.socket);

    put(client, "q");
    shutdown(client, SHUT_WR);
    WAIT_GOT(d, "q");
    g_usleep(10000);
    chardev_write(d->c, "answer", 6);
    take_text(client, "answer");
    WAIT(d, d->closed == 0);
    dev_free(d);
}

static void socket_file_is_private_and_removed_at_the_end(void)
{
    Dev *d = socket_dev("mode");
    g_autofree char *path = g_strdup(d->options.socket);
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    dev_free(d);
    g_assert_cmpint(stat(path, &st), <, 0);
}

static void refused(ChardevOptions options, const char *why)
{
    Dev *d = dev_new(options);

    g_assert_null(d->c);
    g_assert_nonnull(d->error);
    if (!strstr(d->error->message, why))
        g_error("refused with \"%s\", not \"%s\"", d->error->message, why);
    dev_free(d);
}

static void stale_socket_is_replaced_but_a_live_one_or_a_file_is_not(void)
{
    Dev *d = socket_dev("live"), *e;
    g_autofree char *live = g_strdup(d->options.socket);
    g_autofree char *file = scratch("plain");
    g_autofree char *stale = scratch("stale");
    g_autofree char *nowhere = scratch("no/where");
    g_autofree char *longer = g_strnfill(108, 'x');
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    autofd dead = socket(AF_UNIX, SOCK_STREAM, 0);
    autofd client = -1;

    refused((ChardevOptions){.socket = g_strdup(live)}, "somebody listens");
    g_assert_true(g_file_set_contents(file, "precious", -1, NULL));
    refused((ChardevOptions){.socket = g_strdup(file)}, "is not a socket");
    g_assert_true(g_file_test(file, G_FILE_TEST_IS_REGULAR));
    refused((ChardevOptions){.socket = g_strdup(nowhere)}, "No such file");
    refused((ChardevOptions){.socket = g_strdup(longer)}, "too long");

    g_strlcpy(addr.sun_path, stale, sizeof(addr.sun_path));
    g_assert_cmpint(bind(dead, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    fd_close(&dead);
    e = dev_good((ChardevOptions){.socket = g_strdup(stale)});
    client = dial(stale);
    WAIT(e, e->opened == 1);
    dev_free(e);
    dev_free(d);
}

typedef struct Writer {
    Dev *d;
    uint8_t id;
    size_t n;
} Writer;

static void *writer(void *opaque)
{
    Writer *w = opaque;

    for (size_t i = 0; i < w->n;)
        if (chardev_write(w->d->c, &w->id, 1))
            i++;
        else
            g_usleep(100);
    return NULL;
}

static void several_threads_may_write(void)
{
    enum { EACH = 100 * 1024 };
    Dev *d = socket_dev("threads");
    autofd client = dial(d->options.socket);
    Writer w[2] = {{d, 1, EACH}, {d, 2, EACH}};
    g_autofree uint8_t *back = g_malloc(2 * EACH);
    pthread_t t[2];
    size_t ones = 0;

    WAIT(d, d->opened == 1);
    for (unsigned i = 0; i < 2; i++)
        g_assert_cmpint(pthread_create(&t[i], NULL, writer, &w[i]), ==, 0);
    take(client, back, 2 * EACH);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    for (size_t i = 0; i < 2 * EACH; i++)
        ones += back[i] == 1;
    g_assert_cmpuint(ones, ==, EACH);
    dev_free(d);
}

/* ---- files ------------------------------------------------------------------------ */

static void file_is_appended_to_and_complete_at_close(void)
{
    g_autofree char *path = scratch("log");
    g_autofree char *text = NULL;
    g_autofree char *big = g_strnfill(RING - 1, 'z');
    gsize len;
    Dev *d;

    g_assert_true(g_file_set_contents(path, "old\n", -1, NULL));
    d = dev_good((ChardevOptions){.file = g_strdup(path)});
    g_assert_cmpuint(chardev_write(d->c, big, RING - 1), ==, RING - 1);
    dev_free(d);
    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    g_assert_cmpuint(len, ==, 4 + RING - 1);
    g_assert_true(g_str_has_prefix(text, "old\nz"));
    refused((ChardevOptions){.file = g_strdup(folder)}, "Is a directory");
}

static void full_disk_loses_output_but_holds_nobody_up(void)
{
    Dev *d = dev_good((ChardevOptions){.file = g_strdup("/dev/full")});
    g_autofree char *big = g_strnfill(4096, 'z');

    log_set_level(LOG_ERROR);
    for (size_t sent = 0; sent < BIG; sent += chardev_write(d->c, big, 4096))
        ;
    dev_free(d);
    log_set_level(LOG_INFO);
}

static void nowhere_swallows_everything(void)
{
    Dev *d = dev_good((ChardevOptions){.type = CHARDEV_NONE});

    g_assert_cmpuint(chardev_write(d->c, folder, 5), ==, 5);
    dev_free(d);
    dev_free(dev_good((ChardevOptions){0}));
}

static void options_name_exactly_one_place(void)
{
    static const struct {
        const char *text;
        bool good;
    } cases[] = {{"stdio", true},
                 {"pty", true},
                 {"none", true},
                 {"file=a", true},
                 {"socket=a", true},
                 {"type=pty", true},
                 {"", false},
                 {"tty", false},
                 {"stdio,file=a", false},
                 {"file=", false},
                 {"file=a,socket=b", false}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        ChardevOptions *o = param_new(&chardev_params);
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(param_parse(&chardev_params, o, cases[i].text, &error), ==,
                        cases[i].good);
        param_free(&chardev_params, o);
    }
}

/* ---- pseudo-terminals ---------------------------------------------------------------
 */

/* The name of the pty is told on stderr: read it there. */
static Dev *pty_dev(char *name, size_t len)
{
    int saved = dup(STDERR_FILENO), fds[2];
    char line[128] = "";
    Dev *d;

    g_assert_cmpint(pipe(fds), ==, 0);
    dup2(fds[1], STDERR_FILENO);
    d = dev_good((ChardevOptions){.type = CHARDEV_PTY});
    dup2(saved, STDERR_FILENO);
    g_assert_cmpint(read(fds[0], line, sizeof(line) - 1), >, 0);
    close(fds[0]);
    close(fds[1]);
    close(saved);
    g_assert_true(g_str_has_prefix(line, "hutch: serial0 is /dev/pts/"));
    g_strlcpy(name, g_strchomp(line) + strlen("hutch: serial0 is "), len);
    return d;
}

static void pty_is_raw_and_survives_being_closed_and_opened(void)
{
    char name[64];
    Dev *d = pty_dev(name, sizeof(name));
    int fd;

    chardev_write(d->c, "early\n", 6); /* kept, and not echoed back */
    for (unsigned i = 1; i <= 3; i++) {
        fd = open(name, O_RDWR | O_NOCTTY);
        g_assert_cmpint(fd, >=, 0);
        if (i == 1)
            take_text(fd, "early\n"); /* and no carriage return added */
        WAIT(d, d->opened == i);
        put(fd, "ls\r"); /* last words, too */
        close(fd);
        WAIT(d, d->closed == i && d->got->len == 3 * i);
    }
    WAIT_GOT(d, "ls\rls\rls\r");
    dev_free(d);
}

/* ---- standard input and output ------------------------------------------------------
 */

typedef struct Saved {
    int in, out;
} Saved;

/* Puts other descriptors in the place of 0 and 1 (-1: /dev/null, unchanged). */
static Saved swap_stdio(int in, int out)
{
    autofd null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    Saved s = {fcntl(0, F_DUPFD_CLOEXEC, 10), fcntl(1, F_DUPFD_CLOEXEC, 10)};

    fflush(stdout);
    dup2(in >= 0 ? in : null, 0);
    if (out >= 0)
        dup2(out, 1);
    return s;
}

static void swap_back(Saved s)
{
    dup2(s.in, 0);
    dup2(s.out, 1);
    close(s.in);
    close(s.out);
}

static Dev *stdio_dev(void)
{
    return dev_good((ChardevOptions){.type = CHARDEV_STDIO});
}

static void stdio_works_over_pipes_and_end_of_input_ends_nothing(void)
{
    int in[2], out[2];
    Saved s;
    Dev *d;

    g_assert_cmpint(pipe(in), ==, 0);
    g_assert_cmpint(pipe(out), ==, 0);
    s = swap_stdio(in[0], out[1]);
    d = stdio_dev();
    dev_give_room(d, 0);
    put(in[1], "\001x is data here"); /* Ctrl-A means something to terminals only */
    close(in[1]);
    g_usleep(20000);
    dev_give_room(d, 100);
    WAIT_GOT(d, "\001x is data here");
    chardev_write(d->c, "still here", 10);
    take_text(out[0], "still here");
    WAIT(d, d->closed == 0);
    dev_free(d);
    g_assert_cmpint(fcntl(1, F_GETFL) & O_NONBLOCK, ==, 0);
    swap_back(s);
    close(in[0]);
    close(out[0]);
    close(out[1]);
}

/* Processor time of this process while it sleeps for so long. */
static int cpu_ms_of(int ms)
{
    clock_t before = clock();

    g_usleep(1000 * (gulong)ms);
    return (int)((clock() - before) * 1000 / CLOCKS_PER_SEC);
}

static void input_left_in_a_pipe_outlives_its_writer(void)
{
    g_autofree char *text = g_strnfill(20000, 'p');
    int in[2];
    Saved s;
    Dev *d;

    g_assert_cmpint(pipe(in), ==, 0);
    put(in[1], text);
    close(in[1]);
    s = swap_stdio(in[0], -1);
    d = stdio_dev();
    dev_give_room(d, 0);
    g_usleep(10000);
    g_assert_cmpint(cpu_ms_of(50), <, 25); /* nor does waiting keep the loop busy */
    for (unsigned n = 1; n <= 20; n++) {
        dev_give_room(d, 1000);
        WAIT(d, d->got->len >= 1000 * n);
    }
    dev_free(d);
    swap_back(s);
    close(in[0]);
}

static void reader_of_stdout_may_go_away(void)
{
    int out[2];
    g_autofree char *big = g_strnfill(4096, 'z');
    Saved s;
    Dev *d;

    g_assert_cmpint(pipe(out), ==, 0);
    s = swap_stdio(-1, out[1]);
    close(out[1]);
    d = stdio_dev();
    chardev_write(d->c, "x", 1);
    take_text(out[0], "x");
    close(out[0]);
    for (size_t sent = 0; sent < BIG; sent += chardev_write(d->c, big, 4096))
        ;
    dev_free(d);
    swap_back(s);
}

static void regular_file_and_null_device_serve_as_input(void)
{
    g_autofree char *path = scratch("input");
    g_autofree char *text = g_strnfill(10000, 'i');

    text[0] = 'F';
    text[9999] = 'L';
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    for (unsigned i = 0; i < 2; i++) {
        autofd in = open(i ? "/dev/null" : path, O_RDONLY | O_CLOEXEC);
        Saved s = swap_stdio(in, -1);
        Dev *d = stdio_dev();

        dev_give_room(d, 16);
        if (i == 0) {
            WAIT(d, d->got->len >= 16);
            dev_give_room(d, BIG);
            WAIT(d, d->got->len == 10000);
            g_assert_cmpmem(d->got->data, 10000, text, 10000);
        } else {
            chardev_write(d->c, "", 0);
            g_usleep(10000);
            g_assert_cmpuint(d->got->len, ==, 0);
        }
        dev_free(d);
        swap_back(s);
    }
}

static void stdio_has_one_user(void)
{
    Saved s = swap_stdio(-1, -1);
    Dev *d = stdio_dev();

    refused((ChardevOptions){.type = CHARDEV_STDIO}, "taken by serial0");
    dev_free(d);
    dev_free(stdio_dev());
    swap_back(s);
}

typedef struct Terminal {
    int master, slave;
    struct termios before;
    Saved saved;
    Dev *d;
} Terminal;

static void terminal_start(Terminal *t)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};

    t->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(grantpt(t->master) | unlockpt(t->master), ==, 0);
    t->slave = open(ptsname(t->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(tcgetattr(t->slave, &t->before), ==, 0);
    ioctl(t->slave, TIOCSWINSZ, &size);
    t->saved = swap_stdio(t->slave, t->slave);
    t->d = stdio_dev();
    lock_acquire(&t->d->lock);
    lock_release(&t->d->lock);
    chardev_set_escape(dev_key, t->d);
}

static bool terminal_is_raw(Terminal *t)
{
    struct termios now;

    g_assert_cmpint(tcgetattr(t->slave, &now), ==, 0);
    return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static void terminal_end(Terminal *t)
{
    dev_free(t->d);
    chardev_set_escape(NULL, NULL);
    swap_back(t->saved);
    close(t->master);
    close(t->slave);
}

static void terminal_is_raw_while_open_and_as_found_after(void)
{
    struct termios after;
    Terminal t;

    terminal_start(&t);
    g_assert_true(terminal_is_raw(&t));
    put(t.master, "\003\032\r"); /* keys that would be signals are the guest's */
    WAIT_GOT(t.d, "\003\032\r");
    chardev_restore_terminal(); /* as a fatal signal's handler does */
    g_assert_false(terminal_is_raw(&t));
    kill(getpid(), SIGCONT); /* as "fg" does */
    WAIT(t.d, terminal_is_raw(&t));
    ioctl(t.master, TIOCSWINSZ, &(struct winsize){.ws_row = 50, .ws_col = 132});
    lock_acquire(&t.d->lock);
    t.d->resized = 0;
    lock_release(&t.d->lock);
    kill(getpid(), SIGWINCH);
    WAIT(t.d, t.d->resized == 1);
    {
        uint16_t columns, rows;

        g_assert_true(chardev_size(t.d->c, &columns, &rows));
        g_assert_cmpuint(columns, ==, 132);
        g_assert_cmpuint(rows, ==, 50);
    }
    ioloop_call(t.d->loop, close_on_loop, t.d);
    t.d->c = NULL;
    g_assert_cmpint(tcgetattr(t.slave, &after), ==, 0);
    g_assert_cmpuint(after.c_lflag, ==, t.before.c_lflag);
    g_assert_cmpuint(after.c_iflag, ==, t.before.c_iflag);
    g_assert_cmpuint(after.c_oflag, ==, t.before.c_oflag);
    terminal_end(&t);
}

static void keys_after_ctrl_a_are_ours_and_the_rest_is_the_guests(void)
{
    Terminal t;

    terminal_start(&t);
    put(t.master, "a\001ab\001\001c\001bd\001");
    put(t.master, "pe\001nf");
    WAIT_GOT(t.d, "a\001b\001cdef");
    WAIT(t.d, t.d->breaks == 1 && g_str_equal(t.d->keys->str, "pn"));
    terminal_end(&t);
}

static void quit_key_works_while_the_guest_reads_nothing(void)
{
    g_autofree char *typed = g_strnfill(2000, 't');
    Terminal t;

    terminal_start(&t);
    dev_give_room(t.d, 0);
    for (unsigned i = 0; i < 5; i++)
        put(t.master, typed);
    put(t.master, "\001x");
    WAIT(t.d, g_str_equal(t.d->keys->str, "x"));
    terminal_end(&t);
}

int main(int argc, char **argv)
{
    int status;

    signal(SIGPIPE, SIG_IGN); /* as main() does */
    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("hutch-chardev-XXXXXX", NULL);
#define T(fn) g_test_add_func("/chardev/" #fn, fn)
    T(bytes_pass_both_ways_over_a_socket);
    T(slow_reader_gives_short_writes_then_drained_and_loses_nothing);
    T(late_client_gets_the_last_ring_full);
    T(one_write_larger_than_the_ring_keeps_its_end);
    T(a_log_keeps_all_that_is_said_in_order_and_is_bounded);
    T(with_a_log_each_client_hears_the_last_of_it_and_then_what_is_new);
    T(what_a_quick_client_gets_is_in_the_log_as_well);
    T(a_client_that_reads_nothing_does_not_keep_the_log_from_what_was_said);
    T(input_is_offered_only_as_far_as_there_is_room);
    T(last_words_of_a_client_are_heard_and_the_next_one_is_served);
    T(half_closed_client_still_gets_output);
    T(socket_file_is_private_and_removed_at_the_end);
    T(stale_socket_is_replaced_but_a_live_one_or_a_file_is_not);
    T(several_threads_may_write);
    T(file_is_appended_to_and_complete_at_close);
    T(full_disk_loses_output_but_holds_nobody_up);
    T(nowhere_swallows_everything);
    T(options_name_exactly_one_place);
    T(pty_is_raw_and_survives_being_closed_and_opened);
    T(stdio_works_over_pipes_and_end_of_input_ends_nothing);
    T(input_left_in_a_pipe_outlives_its_writer);
    T(reader_of_stdout_may_go_away);
    T(regular_file_and_null_device_serve_as_input);
    T(stdio_has_one_user);
    T(terminal_is_raw_while_open_and_as_found_after);
    T(keys_after_ctrl_a_are_ours_and_the_rest_is_the_guests);
    T(quit_key_works_while_the_guest_reads_nothing);
    status = g_test_run();
    {
        const char *name;
        GDir *dir = g_dir_open(folder, 0, NULL);

        while ((name = g_dir_read_name(dir))) {
            g_autofree char *path = scratch(name);

            g_unlink(path);
        }
        g_dir_close(dir);
        g_rmdir(folder);
        g_free(folder);
    }
    return status;
}
