/* The server with real sockets: its main loop runs on a thread of its own, the tests are
 * its clients, some of them ill-mannered. */
#include "src/control/server.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/client.h"
#include "control/place.h"
#include "src/control/session.h"
#include "tests/unit/control/test_tables.h"
#include "util/fd.h"
#include "util/unixsocket.h"

static char *folder, *path, *readonly_path;

typedef struct Fixture {
    ControlOptions options;
    int64_t patience_ns; /* 0: the server's own */
    IoLoop *loop;
    ControlServer *server;
    pthread_t thread;
    pthread_barrier_t started;
} Fixture;

static void *serve(void *opaque)
{
    Fixture *f = opaque;
    GError *error = NULL;

    main_thread = pthread_self();
    f->loop = ioloop_new(&error);
    g_assert_no_error(error);
    control_open(&f->options, &f->server, &error);
    g_assert_no_error(error);
    if (f->patience_ns)
        server_set_patience(f->server, f->patience_ns);
    server_start(f->server, f->loop, &error);
    g_assert_no_error(error);
    pthread_barrier_wait(&f->started);
    ioloop_run(f->loop);
    pthread_barrier_wait(&f->started); /* who quit the loop is done with it */
    control_stop(f->server);
    ioloop_free(f->loop);
    control_free(f->server);
    return NULL;
}

static void start_as(Fixture *f, Fixture as)
{
    *f = as;
    pthread_barrier_init(&f->started, NULL, 2);
    pthread_create(&f->thread, NULL, serve, f);
    pthread_barrier_wait(&f->started);
}

static void start_with(Fixture *f, ControlOptions options)
{
    start_as(f, (Fixture){.options = options});
}

static void start(Fixture *f)
{
    start_with(f, (ControlOptions){.path = path, .readonly = readonly_path});
}

static void stop(Fixture *f)
{
    ioloop_quit(f->loop);
    pthread_barrier_wait(&f->started);
    pthread_join(f->thread, NULL);
    pthread_barrier_destroy(&f->started);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(readonly_path, G_FILE_TEST_EXISTS));
}

/* ---- a client that says what it likes -------------------------------------------------
 */

static int dial(const char *where)
{
    GError *error = NULL;
    int fd = unix_connect(where, &error);

    g_assert_no_error(error);
    return fd;
}

static bool readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, ms) > 0;
}

/* The next line, or "" at the end. */
static char *line(int fd)
{
    GString *out = g_string_new(NULL);
    char c;

    for (;;) {
        g_assert_true(readable(fd, 20000));
        if (recv(fd, &c, 1, 0) <= 0)
            break;
        if (c == '\n')
            break;
        g_string_append_c(out, c);
    }
    return g_string_free(out, FALSE);
}

static void expect(int fd, const char *part)
{
    g_autofree char *got = line(fd);

    if (!strstr(got, part))
        g_error("got '%s', not '%s'", got, part);
}

static void say(int fd, const char *text)
{
    g_assert_true(fd_write_all(fd, text, strlen(text), NULL));
}

#define CAPABILITIES "{\"execute\":\"qmp_capabilities\"}"
#define ECHO_X       "{\"execute\":\"echo\",\"arguments\":{\"text\":\"x\"},\"id\":1}"

static int begin(const char *where)
{
    int fd = dial(where);

    expect(fd, "{\"QMP\": {\"version\": {\"qemu\": {");
    say(fd, CAPABILITIES);
    expect(fd, "{\"return\": {}}\r");
    return fd;
}

/* Still alive, whatever others did, and whatever events they cause. */
static void serves(const char *where)
{
    int fd = begin(where);
    char *got;

    say(fd, ECHO_X);
    while (got = line(fd), strstr(got, "\"event\""))
        g_free(got);
    g_assert_nonnull(strstr(got, "\"text\": \"x\""));
    g_free(got);
    close(fd);
}

static int64_t ms_since(int64_t start_ns)
{
    return (clock_ns() - start_ns) / 1000000;
}

/* ---- manners --------------------------------------------------------------------------
 */

static void a_session_begins_with_greeting_and_capabilities(void)
{
    Fixture f;
    int fd;

    start(&f);
    fd = dial(path);
    expect(fd, "\"capabilities\": []}}");
    say(fd, ECHO_X);
    expect(fd, "CommandNotFound");
    say(fd, CAPABILITIES "{\"execute\":\"query-version\"}");
    expect(fd, "{\"return\": {}}");
    expect(fd, "\"package\": \"hutch ");
    close(fd);
    stop(&f);
}

static void many_messages_at_once_and_one_byte_at_a_time_are_answered_in_order(void)
{
    Fixture f;
    g_autoptr(GString) all = g_string_new(NULL);
    int fd;

    start(&f);
    fd = begin(path);
    for (unsigned i = 0; i < 1000; i++)
        g_string_append_printf(all, "{\"execute\":\"query-version\",\"id\":%u}", i);
    say(fd, all->str);
    for (unsigned i = 0; i < 1000; i++) {
        g_autofree char *id = g_strdup_printf("\"id\": %u}", i);

        expect(fd, id);
    }
    for (const char *c = ECHO_X; *c; c++)
        g_assert_cmpint(send(fd, c, 1, 0), ==, 1);
    expect(fd, "\"text\": \"x\"");
    close(fd);
    stop(&f);
}

static void a_half_closed_client_gets_its_answers(void)
{
    Fixture f;
    int fd;

    start(&f);
    fd = begin(path);
    say(fd, "{\"execute\":\"sleep\",\"arguments\":{\"ms\":30}}" ECHO_X);
    shutdown(fd, SHUT_WR);
    expect(fd, "TOLD");
    expect(fd, "\"slept\": 30");
    expect(fd, "\"text\": \"x\"");
    expect(fd, "");
    close(fd);
    stop(&f);
}

static void a_read_only_socket_refuses_changes(void)
{
    Fixture f;
    int fd;

    start(&f);
    fd = begin(readonly_path);
    say(fd, "{\"execute\":\"tell\"}" ECHO_X);
    expect(fd, "read-only");
    expect(fd, "\"text\": \"x\"");
    close(fd);
    stop(&f);
}

static void events_reach_every_client_that_has_begun(void)
{
    Fixture f;
    int a, b, fresh;

    start(&f);
    a = begin(path);
    b = begin(readonly_path);
    fresh = dial(path);
    expect(fresh, "QMP");
    say(a, "{\"execute\":\"tell\"}");
    expect(a, "{\"timestamp\": {\"seconds\": ");
    expect(a, "return");
    expect(b, "\"event\": \"TOLD\", \"data\": {\"by\": \"main\"}}");
    control_event(f.server, "TOLD", NULL); /* from another thread */
    expect(a, "\"event\": \"TOLD\"}");
    expect(b, "\"event\": \"TOLD\"}");
    g_assert_false(readable(fresh, 50));
    close(a);
    close(b);
    close(fresh);
    stop(&f);
}

static void another_user_is_hung_up_on_whatever_the_files_mode_says(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    Fixture f;
    pid_t child;
    int status;

    if (geteuid() != 0) {
        g_test_skip("not root, so there is no other user to be");
        return;
    }
    start(&f);
    g_chmod(folder, 0755);
    g_chmod(path, 0666);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    child = fork();
    if (!child) { /* system calls only: threads were left behind */
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        char c;

        if (setuid(65534) < 0 ||
            connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
            _exit(2);
        _exit(read(fd, &c, 1) > 0);
    }
    waitpid(child, &status, 0);
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
    serves(path);
    stop(&f);
}

/* ---- commands that sleep --------------------------------------------------------------
 */

static void a_sleeping_command_holds_up_its_own_client_only(void)
{
    Fixture f;
    int a, b;
    int64_t start_ns;

    start(&f);
    a = begin(path);
    b = begin(path);
    start_ns = clock_ns();
    say(a, "{\"execute\":\"sleep\",\"arguments\":{\"ms\":400}}" ECHO_X);
    say(b, ECHO_X);
    expect(b, "\"text\": \"x\"");
    g_assert_cmpint(ms_since(start_ns), <, 350);
    expect(a, "TOLD");
    expect(a, "\"slept\": 400");
    expect(a, "\"text\": \"x\"");
    g_assert_cmpint(ms_since(start_ns), >=, 400);
    close(a);
    close(b);
    stop(&f);
}

static void more_sleepers_than_threads_all_get_their_answers(void)
{
    Fixture f;
    int fds[20];

    start(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++)
        fds[i] = begin(readonly_path);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        close(fds[i]);
        fds[i] = begin(path);
        say(fds[i], "{\"execute\":\"sleep\",\"arguments\":{\"ms\":5},\"id\":7}");
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        g_autofree char *got = line(fds[i]);

        while (strstr(got, "TOLD")) {
            g_free(got);
            got = line(fds[i]);
        }
        g_assert_nonnull(strstr(got, "{\"return\": {\"slept\": 5}, \"id\": 7}"));
        close(fds[i]);
    }
    stop(&f);
}

static void a_client_that_leaves_while_its_command_sleeps_is_forgotten(void)
{
    Fixture f;

    start(&f);
    for (unsigned i = 0; i < 10; i++) {
        int fd = begin(path);

        say(fd, "{\"execute\":\"sleep\",\"arguments\":{\"ms\":20}}");
        close(fd);
    }
    serves(path);
    sleep_ms(50);
    serves(path);
    stop(&f);
}

static void the_end_of_the_vm_ends_what_sleeps(void)
{
    Fixture f;
    int fds[6];
    int64_t start_ns;

    start(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = begin(path);
        say(fds[i], "{\"execute\":\"sleep-on\"}");
    }
    sleep_ms(20);
    start_ns = clock_ns();
    stop(&f);
    g_assert_cmpint(ms_since(start_ns), <, 2000);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        g_autofree char *got = line(fds[i]);

        g_assert_nonnull(strstr(got, "the VM ended"));
        close(fds[i]);
    }
}

/* ---- ill manners ----------------------------------------------------------------------
 */

static void garbage_is_answered_and_the_session_goes_on(void)
{
    Fixture f;
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    int fd;

    start(&f);
    fd = begin(path);
    say(fd, "\xff{]}5 nul\n");
    for (unsigned i = 0; i < 5; i++)
        expect(fd, "GenericError");
    for (unsigned i = 0; i < 100; i++) {
        char bytes[200];

        for (unsigned j = 0; j < sizeof(bytes); j++)
            bytes[j] = (char)g_rand_int(rand);
        fd_write_all(fd, bytes, sizeof(bytes), NULL);
    }
    say(fd, "\xff{\"execute\":\"query-version\",\"id\":\"after\"}");
    for (;;) {
        g_autofree char *got = line(fd);

        g_assert_cmpstr(got, !=, "");
        if (strstr(got, "\"id\": \"after\""))
            break;
    }
    close(fd);
    stop(&f);
}

static void a_message_of_a_mebibyte_is_taken_and_a_longer_one_is_not(void)
{
    Fixture f;
    g_autofree char *fits = g_strnfill(SESSION_MAX_MESSAGE - 100, 'x');
    g_autofree char *does_not = g_strnfill(4 * SESSION_MAX_MESSAGE, 'x');
    int fd;

    start(&f);
    fd = begin(path);
    say(fd, "{\"execute\":\"query-version\",\"id\":\"");
    say(fd, fits);
    say(fd, "\"}");
    expect(fd, "xxx\"}\r");
    say(fd, "{\"execute\":\"query-version\",\"id\":\"");
    say(fd, does_not);
    say(fd, "\"}" ECHO_X);
    expect(fd, "longer than 1048576 bytes");
    expect(fd, "\"text\": \"x\"");
    close(fd);
    stop(&f);
}

/* Everything it asks for is big, and it reads nothing.  We stop reading it, too. */
static void a_client_that_never_reads_fills_its_own_socket_only(void)
{
    Fixture f;
    GString *asks = g_string_new(NULL);
    int fd;
    ssize_t n = 0, total = 0;

    start(&f);
    fd = begin(path);
    for (unsigned i = 0; i < 1000; i++)
        g_string_append(asks, "{\"execute\":\"big\"}");
    do {
        n = send(fd, asks->str, asks->len, MSG_DONTWAIT);
        total += n > 0 ? n : 0;
        sleep_ms(1);
    } while (n > 0 && total < 100 << 20);
    g_assert_cmpint(n, <, 0);
    g_assert_cmpint(errno, ==, EAGAIN);
    serves(path);
    for (unsigned i = 0; i < 10; i++) /* and it is served when it does read */
        expect(fd, "bbb\"}\r");
    close(fd);
    g_string_free(asks, TRUE);
    stop(&f);
}

static void a_client_that_does_not_read_its_events_is_dropped(void)
{
    Fixture f;
    g_autofree char *text = g_strnfill(1000, 'e');
    int deaf, other;
    char buf[4096];
    ssize_t n;

    start(&f);
    deaf = begin(path);
    other = begin(path);
    for (unsigned i = 0; i < 4000; i++) {
        control_event(f.server, "TOLD", json_pack("{s:s}", "text", text));
        expect(other, "eee");
    }
    while ((n = recv(deaf, buf, sizeof(buf), 0)) > 0)
        ;
    g_assert_cmpint(n, ==, 0);
    close(deaf);
    close(other);
    stop(&f);
}

static void *flood(void *opaque)
{
    for (unsigned i = 0; i < 5000; i++)
        control_event(opaque, "TOLD", json_object());
    return NULL;
}

/* The loop does not run yet, and then never again. */
static void events_that_main_does_not_come_to_are_bounded(void)
{
    g_autoptr(GError) error = NULL;
    ControlServer *s;
    IoLoop *loop = ioloop_new(&error);
    pthread_t t;

    g_assert_true(control_open(&(ControlOptions){.path = path}, &s, &error));
    g_assert_true(server_start(s, loop, &error));
    pthread_create(&t, NULL, flood, s);
    pthread_join(t, NULL);
    control_stop(s);
    ioloop_free(loop);
    control_event(s, "TOLD", json_object()); /* too late: harmless */
    control_free(s);
}

/* The server has seen that those before have left. */
static void wait_for_room(void)
{
    int64_t start_ns = clock_ns();
    bool room = false;

    while (!room && ms_since(start_ns) < 20000) {
        int fd = dial(path);
        g_autofree char *got = line(fd);

        room = strstr(got, "QMP") != NULL;
        close(fd);
    }
    g_assert_true(room);
}

static void a_thousand_connections_are_let_in_or_turned_away(void)
{
    struct rlimit limit = {3000, 3000};
    Fixture f;
    int fds[1000];
    unsigned let_in = 0;

    setrlimit(RLIMIT_NOFILE, &limit);
    start(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        g_autofree char *got = NULL;

        fds[i] = dial(path);
        got = line(fds[i]);
        let_in += strstr(got, "QMP") != NULL;
        g_assert_true(strstr(got, "QMP") || strstr(got, "too many clients"));
    }
    g_assert_cmpuint(let_in, ==, 64);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++)
        close(fds[i]);
    wait_for_room();
    serves(path);
    stop(&f);
}

/* Those that have begun keep their places, however long they are silent. */
static void clients_that_never_begin_make_room_for_others(void)
{
    enum { PLACES = 64, BEGUN = 8 };
    Fixture f;
    int fds[PLACES];

    start_as(&f, (Fixture){.options = {.path = path}, .patience_ns = 50 * 1000 * 1000});
    for (unsigned i = 0; i < PLACES; i++) {
        fds[i] = i < BEGUN ? begin(path) : dial(path);
        if (i >= BEGUN)
            expect(fds[i], "QMP");
    }
    g_usleep(60 * 1000);
    for (unsigned i = 0; i < 2 * PLACES; i++)
        serves(path);
    for (unsigned i = 0; i < BEGUN; i++) {
        say(fds[i], ECHO_X);
        expect(fds[i], "\"text\": \"x\"");
    }
    expect(fds[BEGUN], ""); /* the first of them */
    for (unsigned i = 0; i < PLACES; i++)
        close(fds[i]);
    stop(&f);
}

static unsigned n_descriptors(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n;
}

static void clients_that_come_and_go_leave_nothing(void)
{
    unsigned before = n_descriptors(); /* no server yet: all it opens goes with it */
    int64_t start_ns;
    unsigned serving;
    Fixture f;

    start(&f);
    serving = n_descriptors();
    for (unsigned i = 0; i < 200; i++) {
        int fd = dial(path);

        if (i % 3)
            say(fd, CAPABILITIES "{\"execute\":\"big\"}{\"half");
        close(fd);
    }
    wait_for_room(); /* who came before it has been let in by now, and can only leave */
    start_ns = clock_ns();
    while (n_descriptors() != serving && ms_since(start_ns) < 20000)
        sleep_ms(1);
    g_assert_cmpuint(n_descriptors(), ==, serving);
    stop(&f);
    g_assert_cmpuint(n_descriptors(), ==, before);
}

/* ---- the client library ---------------------------------------------------------------
 */

static void the_client_library_calls_and_hears(void)
{
    g_autoptr(ControlClient) c = NULL;
    GError *error = NULL;
    json_t *value;
    Fixture f;

    start(&f);
    c = control_client_connect(path, &error);
    g_assert_no_error(error);
    value = control_client_call(c, "echo", json_pack("{s:s}", "text", "hi"), &error);
    g_assert_cmpstr(json_string_value(json_object_get(value, "text")), ==, "hi");
    json_decref(value);
    value = control_client_call(c, "big", NULL, &error);
    g_assert_cmpuint(json_string_length(value), ==, 300000);
    json_decref(value);
    g_assert_null(control_client_event(c, 10, &error));
    g_assert_no_error(error);
    json_decref(control_client_call(c, "tell", NULL, &error));
    control_event(f.server, "LATER", NULL);
    value = control_client_event(c, -1, &error);
    g_assert_cmpstr(json_string_value(json_object_get(value, "event")), ==, "TOLD");
    json_decref(value);
    value = control_client_event(c, 5000, &error);
    g_assert_cmpstr(json_string_value(json_object_get(value, "event")), ==, "LATER");
    json_decref(value);
    g_assert_null(control_client_call(c, "busy", NULL, &error));
    g_assert_cmpstr(error->message, ==, "a job has it");
    g_clear_error(&error);
    stop(&f);
    g_assert_null(control_client_call(c, "busy", NULL, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    g_clear_error(&error);
}

static void not_connected(const char *vm, const char *why)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(control_client_connect(vm, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_NOT_FOUND);
    if (!strstr(error->message, why))
        g_error("refused with \"%s\", not \"%s\"", error->message, why);
}

static void a_named_vm_is_found_by_its_name_while_it_lives(void)
{
    g_autofree char *run = g_build_filename(folder, "hutch", NULL);
    g_autoptr(ControlClient) c = NULL;
    Place place, second;
    GError *error = NULL;
    UnixListener dead = {.fd = -1};
    Fixture f;

    not_connected("vm1", "no VM named 'vm1'");
    g_assert_true(place_claim(&place, "vm1", NULL));
    start_with(&f, (ControlOptions){.place = &place});
    c = control_client_connect("vm1", &error);
    g_assert_no_error(error);
    g_assert_false(place_claim(&second, "vm1", &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_clear_error(&error);
    stop(&f);
    place_release(&place);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    not_connected("vm1", "no VM named 'vm1'");
    not_connected(path, "no socket");
    g_assert_true(unix_listen(&dead, path, 1, NULL));
    fd_close(&dead.fd); /* the file stays: a monitor that was killed */
    not_connected(path, "nobody listens");
    g_unlink(path);
    g_free(dead.path);
    g_rmdir(run);
}

static void no_socket_wanted_is_no_server(void)
{
    ControlServer *s = (ControlServer *)1;

    g_assert_true(control_open(&(ControlOptions){0}, &s, NULL));
    g_assert_null(s);
    control_stop(s);
    control_free(s);
}

static void a_thousand_calls_take_milliseconds(void)
{
    g_autoptr(ControlClient) c = NULL;
    int64_t start_ns;
    Fixture f;

    start(&f);
    c = control_client_connect(path, NULL);
    start_ns = clock_ns();
    for (unsigned i = 0; i < 1000; i++)
        json_decref(control_client_call(c, "query-version", NULL, NULL));
    g_test_message("1000 calls: %.1f ms", (double)(clock_ns() - start_ns) / 1e6);
    g_assert_cmpint(ms_since(start_ns), <, 5000); /* sanitizers, a loaded machine */
    stop(&f);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("hutch-control-XXXXXX", NULL);
    path = g_build_filename(folder, "c.sock", NULL);
    readonly_path = g_build_filename(folder, "r.sock", NULL);
    g_setenv("XDG_RUNTIME_DIR", folder, TRUE);
#define TEST(name) g_test_add_func("/control/server/" #name, name)
    TEST(a_session_begins_with_greeting_and_capabilities);
    TEST(many_messages_at_once_and_one_byte_at_a_time_are_answered_in_order);
    TEST(a_half_closed_client_gets_its_answers);
    TEST(a_read_only_socket_refuses_changes);
    TEST(events_reach_every_client_that_has_begun);
    TEST(another_user_is_hung_up_on_whatever_the_files_mode_says);
    TEST(a_sleeping_command_holds_up_its_own_client_only);
    TEST(more_sleepers_than_threads_all_get_their_answers);
    TEST(a_client_that_leaves_while_its_command_sleeps_is_forgotten);
    TEST(the_end_of_the_vm_ends_what_sleeps);
    TEST(garbage_is_answered_and_the_session_goes_on);
    TEST(a_message_of_a_mebibyte_is_taken_and_a_longer_one_is_not);
    TEST(a_client_that_never_reads_fills_its_own_socket_only);
    TEST(a_client_that_does_not_read_its_events_is_dropped);
    TEST(events_that_main_does_not_come_to_are_bounded);
    TEST(a_thousand_connections_are_let_in_or_turned_away);
    TEST(clients_that_never_begin_make_room_for_others);
    TEST(clients_that_come_and_go_leave_nothing);
    TEST(the_client_library_calls_and_hears);
    TEST(a_named_vm_is_found_by_its_name_while_it_lives);
    TEST(no_socket_wanted_is_no_server);
    TEST(a_thousand_calls_take_milliseconds);
    status = g_test_run();
    g_rmdir(folder);
    g_free(folder);
    g_free(path);
    g_free(readonly_path);
    return status;
}
