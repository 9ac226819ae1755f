/* The HTTP endpoint of metrics, and clients that mean harm. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "control/metrics.h"
#include "src/control/metrics_server.h"
#include "util/fd.h"
#include "util/unixsocket.h"

enum { PATIENCE_MS = 30000 };

typedef struct Fixture {
    IoLoop *loop;
    MetricsServer *server;
    size_t size; /* of what is served */
    unsigned made;
    GError *error;
} Fixture;

static char *make_text(void *opaque)
{
    Fixture *f = opaque;

    f->made++;
    return g_strnfill(f->size, 'x');
}

static void begin(void *opaque)
{
    Fixture *f = opaque;

    metrics_server_start(f->server, f->loop, make_text, f, &f->error);
}

static void set_up_at(Fixture *f, const char *address)
{
    *f = (Fixture){.size = 100, .loop = ioloop_start("metrics", &f->error)};
    g_assert_nonnull(f->loop);
    g_assert_true(metrics_server_open(address, NULL, &f->server, &f->error));
    ioloop_call(f->loop, begin, f);
    g_assert_no_error(f->error);
}

static void set_up(Fixture *f)
{
    set_up_at(f, "0");
}

static void finish(void *opaque)
{
    metrics_server_stop(((Fixture *)opaque)->server);
}

static void tear_down(Fixture *f)
{
    ioloop_call(f->loop, finish, f);
    metrics_server_free(f->server);
    ioloop_free(f->loop);
}

static int client(const Fixture *f)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)metrics_server_port(f->server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
    return fd;
}

/* Until the other side says no more; what it said. */
static GString *hear(int fd)
{
    GString *all = g_string_new(NULL);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char part[4096];
    ssize_t n;

    do {
        g_assert_cmpint(poll(&p, 1, PATIENCE_MS), ==, 1);
        n = recv(fd, part, sizeof(part), 0);
        if (n > 0)
            g_string_append_len(all, part, n);
    } while (n > 0);
    return all;
}

static void say(int fd, const char *text)
{
    send(fd, text, strlen(text), MSG_NOSIGNAL);
}

/* A whole conversation. */
static GString *ask(const Fixture *f, const char *request)
{
    autofd fd = client(f);

    say(fd, request);
    return hear(fd);
}

static void answers(const Fixture *f, const char *request, const char *status)
{
    g_autoptr(GString) got = ask(f, request);
    g_autofree char *line = g_strdup_printf("HTTP/1.1 %s ", status);

    if (!g_str_has_prefix(got->str, line))
        g_error("'%.40s' got '%.40s', not %s", request, got->str, status);
}

/* ---- what is served -------------------------------------------------------------------
 */

static void get_metrics_gets_them_whole(void)
{
    g_autoptr(GString) got = NULL;
    const char *body;
    Fixture f;

    set_up(&f);
    f.size = 32 << 20; /* more than sockets hold */
    got = ask(&f, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    g_assert_true(g_str_has_prefix(got->str, "HTTP/1.1 200 OK\r\n"));
    g_assert_nonnull(strstr(got->str, "text/plain; version=0.0.4"));
    g_assert_nonnull(strstr(got->str, "Content-Length: 33554432\r\n"));
    body = strstr(got->str, "\r\n\r\n") + 4;
    g_assert_cmpuint(strlen(body), ==, f.size);
    tear_down(&f);
}

static void what_cannot_be_had_is_refused_with_its_status(void)
{
    Fixture f;

    set_up(&f);
    answers(&f, "GET /metrics HTTP/1.0\r\n\r\n", "200");
    answers(&f, "GET /metrics?name[]=x HTTP/1.1\r\n\r\n", "200");
    answers(&f, "GET http://127.0.0.1:9/metrics HTTP/1.1\n\n", "200");
    g_assert_cmpuint(f.made, ==, 3);
    answers(&f, "GET / HTTP/1.1\r\n\r\n", "404");
    answers(&f, "GET /metricsx HTTP/1.1\r\n\r\n", "404");
    answers(&f, "GET /../metrics HTTP/1.1\r\n\r\n", "404");
    answers(&f, "GET http://127.0.0.1 HTTP/1.1\r\n\r\n", "404");
    answers(&f, "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405");
    answers(&f, "DELETE /metrics HTTP/1.1\r\n\r\n", "405");
    answers(&f, "GET /metrics\r\n\r\n", "400");
    answers(&f, "GET  /metrics HTTP/1.1\r\n\r\n", "400");
    answers(&f, "\r\n\r\n", "400");
    answers(&f, "{\"execute\":\"quit\"}\r\n\r\n", "400");
    g_assert_cmpuint(f.made, ==, 3); /* nothing is made for them */
    tear_down(&f);
}

static void head_gets_no_body(void)
{
    g_autoptr(GString) got = NULL;
    Fixture f;

    set_up(&f);
    got = ask(&f, "HEAD /metrics HTTP/1.1\r\n\r\n");
    g_assert_nonnull(strstr(got->str, "Content-Length: 100\r\n"));
    g_assert_true(g_str_has_suffix(got->str, "\r\n\r\n"));
    tear_down(&f);
}

static void a_request_may_come_in_pieces(void)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nA: b\r\n\r\n";
    g_autoptr(GString) got = NULL;
    autofd fd = -1;
    Fixture f;

    set_up(&f);
    fd = client(&f);
    for (const char *p = request; *p; p++)
        g_assert_cmpint(send(fd, p, 1, MSG_NOSIGNAL), ==, 1);
    got = hear(fd);
    g_assert_true(g_str_has_prefix(got->str, "HTTP/1.1 200 "));
    tear_down(&f);
}

/* As `nc` does with its input at its end. */
static void who_says_no_more_still_hears_all(void)
{
    g_autoptr(GString) got = NULL;
    autofd fd = -1;
    Fixture f;

    set_up(&f);
    f.size = 32 << 20;
    fd = client(&f);
    say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
    shutdown(fd, SHUT_WR);
    got = hear(fd);
    g_assert_cmpuint(got->len, >, f.size);
    tear_down(&f);
}

/* ---- harm -----------------------------------------------------------------------------
 */

static void a_header_without_end_is_refused(void)
{
    g_autofree char *huge = g_strnfill(1 << 20, 'a');
    g_autofree char *fields = g_strdup_printf("GET /metrics HTTP/1.1\r\nA: %.5000s",
                                              huge);
    Fixture f;

    set_up(&f);
    answers(&f, fields, "431");
    {
        autofd fd = client(&f);

        say(fd, huge); /* it may be cut off before it has said it all */
        g_string_free(hear(fd), TRUE);
    }
    answers(&f, "GET /metrics HTTP/1.1\r\n\r\n", "200");
    tear_down(&f);
}

static void who_takes_too_long_is_hung_up_on_and_holds_up_nobody(void)
{
    enum { SLOW = 8 };
    int slow[SLOW];
    Fixture f;

    metrics_client_ns = 300 * 1000000;
    set_up(&f);
    f.size = 8 << 20;
    for (unsigned i = 0; i < SLOW; i++) {
        slow[i] = client(&f);
        say(slow[i], i % 2 ? "GET /metr" : "GET /metrics HTTP/1.1\r\n\r\n");
    }
    answers(&f, "GET /metrics HTTP/1.1\r\n\r\n", "200"); /* at once, beside them */
    for (unsigned i = 1; i < SLOW; i += 2) {
        g_autoptr(GString) nothing = hear(slow[i]);

        g_assert_cmpuint(nothing->len, ==, 0);
    }
    for (unsigned i = 0; i < SLOW; i += 2) {
        g_autoptr(GString) part = hear(slow[i]); /* what had left before */

        g_assert_cmpuint(part->len, <, f.size);
    }
    for (unsigned i = 0; i < SLOW; i++)
        close(slow[i]);
    tear_down(&f);
    metrics_client_ns = 5000000000;
}

static void two_hundred_clients_get_an_answer_each_or_a_refusal(void)
{
    enum { MANY = 200 };
    unsigned served = 0, refused = 0;
    int fds[MANY];
    Fixture f;

    set_up(&f);
    for (unsigned i = 0; i < MANY; i++)
        fds[i] = client(&f);
    for (unsigned i = 0; i < MANY; i++)
        say(fds[i], "GET /metrics HTTP/1.1\r\n\r\n");
    for (unsigned i = 0; i < MANY; i++) {
        g_autoptr(GString) got = hear(fds[i]);

        served += g_str_has_prefix(got->str, "HTTP/1.1 200");
        refused += !g_str_has_prefix(got->str, "HTTP/1.1 200");
        close(fds[i]);
    }
    g_assert_cmpuint(served, >=, 16);
    g_assert_cmpuint(refused, >, 0);
    answers(&f, "GET /metrics HTTP/1.1\r\n\r\n", "200");
    tear_down(&f);
}

static void the_server_goes_away_under_its_clients(void)
{
    autofd idle = -1, busy = -1;
    Fixture f;

    set_up(&f);
    f.size = 8 << 20;
    idle = client(&f);
    busy = client(&f);
    say(busy, "GET /metrics HTTP/1.1\r\n\r\n");
    tear_down(&f);
}

/* ---- addresses ------------------------------------------------------------------------
 */

static void addresses_that_are_none_are_refused_in_a_sentence(void)
{
    static const char *const bad[] = {
        "",    "x",     "1:2:3x",     "host:80", "::1",   "1.2.3.4:",   ":65536",
        ":-1", "[::1]", "1.2.3:http", "unix",    "unix:", "256.0.0.1:1"};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        MetricsServer *s;

        if (metrics_server_open(bad[i], NULL, &s, &error))
            g_error("'%s' is taken for an address", bad[i]);
        g_assert_nonnull(error);
        g_assert_null(s);
    }
}

static void without_an_address_it_is_for_this_machine_only(void)
{
    static const char *const loopback[] = {"0", ":0", "127.0.0.1:0", "localhost:0"};

    for (unsigned i = 0; i < G_N_ELEMENTS(loopback); i++) {
        Fixture f;

        set_up_at(&f, loopback[i]);
        answers(&f, "GET /metrics HTTP/1.1\r\n\r\n", "200");
        {
            /* 127.0.0.2 reaches what listens on all addresses. */
            struct sockaddr_in other = {
                .sin_family = AF_INET,
                .sin_port = htons((uint16_t)metrics_server_port(f.server)),
                .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1)};
            autofd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

            g_assert_cmpint(connect(fd, (struct sockaddr *)&other, sizeof(other)), <, 0);
        }
        tear_down(&f);
    }
}

static void a_unix_socket_does_as_well_and_is_removed(void)
{
    g_autofree char *dir = g_dir_make_tmp("hutch-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "m.sock", NULL);
    g_autofree char *address = g_strconcat("unix:", path, NULL);
    g_autoptr(GString) got = NULL;
    autofd fd = -1;
    Fixture f;

    set_up_at(&f, address);
    fd = unix_connect(path, NULL);
    say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
    got = hear(fd);
    g_assert_true(g_str_has_prefix(got->str, "HTTP/1.1 200"));
    g_assert_cmpuint(metrics_server_port(f.server), ==, 0);
    tear_down(&f);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/control/metrics_server/" #name, name)
    TEST(get_metrics_gets_them_whole);
    TEST(what_cannot_be_had_is_refused_with_its_status);
    TEST(head_gets_no_body);
    TEST(a_request_may_come_in_pieces);
    TEST(who_says_no_more_still_hears_all);
    TEST(a_header_without_end_is_refused);
    TEST(who_takes_too_long_is_hung_up_on_and_holds_up_nobody);
    TEST(two_hundred_clients_get_an_answer_each_or_a_refusal);
    TEST(the_server_goes_away_under_its_clients);
    TEST(addresses_that_are_none_are_refused_in_a_sentence);
    TEST(without_an_address_it_is_for_this_machine_only);
    TEST(a_unix_socket_does_as_well_and_is_removed);
    return g_test_run();
}
