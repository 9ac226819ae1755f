/* Joining a network: its switch is started by one of many, detached and clean, and what
 * it says is wrong is heard.  This program is its own switch: HUTCH_SWITCH leads to it,
 * and HUTCH_FAKE says what kind of switch it is. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "network/config.h"
#include "network/place.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/json.h"
#include "util/unixsocket.h"

enum { JOINERS = 8 };

/* ---- the switch -----------------------------------------------------------------------
 */

static int count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    int n = -1; /* the folder's own */

    while (dir && g_dir_read_name(dir))
        n++;
    if (dir)
        g_dir_close(dir);
    return n;
}

static void answer(int fd, const char *about)
{
    char line[4096];
    ssize_t n = recv(fd, line, sizeof(line) - 1, 0);
    const char *text = about;

    line[MAX(n, 0)] = '\0';
    if (strstr(line, "fail"))
        text = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"it will not\"}}\n";
    if (strstr(line, "hang-up"))
        _exit(0);
    send(fd, text, strlen(text), MSG_NOSIGNAL);
}

/* Writes a line for each start, and ends when a client says hang-up. */
static int be_switch(const char *name)
{
    g_autofree char *socket = network_place(name, NETWORK_CONTROL, NULL);
    g_autofree char *starts = network_place(name, "starts", NULL);
    const char *kind = g_getenv("HUTCH_FAKE");
    int fds = count_fds(), log = open(starts, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char about[200];
    UnixListener l;

    (void)!write(log, "+", 1);
    close(log);
    alarm(60);
    if (g_str_equal(kind, "refuses"))
        puts("the subnet is on fire");
    if (!g_str_equal(kind, "serves"))
        return 1;
    snprintf(about, sizeof(about),
             "{\"return\": {\"fds\": %d, \"parent\": %d, \"session\": %d}}\n", fds,
             (int)getppid(), (int)getsid(0));
    g_usleep(20 * 1000); /* so that others come meanwhile */
    if (!unix_listen(&l, socket, 16, NULL) || !fd_set_nonblock(l.fd, false, NULL))
        return 1;
    puts("ready");
    fclose(stdout);
    for (;;) {
        autofd fd = accept(l.fd, NULL, NULL);

        answer(fd, about);
    }
}

/* ---- the tests ------------------------------------------------------------------------
 */

typedef struct Scene {
    char *folder;
} Scene;

static void begin(Scene *s, const char *kind)
{
    NetworkConfig *config = param_new(&network_params);
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *networks = NULL;
    g_autoptr(GError) error = NULL;

    s->folder = g_dir_make_tmp("hutch-XXXXXX", NULL);
    networks = g_build_filename(s->folder, "networks", NULL);
    g_setenv("XDG_RUNTIME_DIR", s->folder, true);
    g_setenv("HUTCH_NETWORKS", networks, true);
    g_setenv("HUTCH_SWITCH", self, true);
    g_setenv("HUTCH_FAKE", kind, true);
    config->mode = NETWORK_ISOLATED;
    network_create("blue", config, &error);
    g_assert_no_error(error);
    param_free(&network_params, config);
}

static unsigned starts(void)
{
    g_autofree char *path = network_place("blue", "starts", NULL), *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? (unsigned)strlen(text) : 0;
}

static void hang_up(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(network_call("blue", false, "hang-up", NULL, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    while (network_is_up("blue"))
        g_usleep(1000);
}

static void end(Scene *s)
{
    char *argv[] = {(char *)"rm", (char *)"-r", s->folder, NULL};

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, NULL, NULL));
    g_free(s->folder);
}

static json_t *call(const char *command)
{
    g_autoptr(GError) error = NULL;
    json_t *reply = network_call("blue", true, command, NULL, &error);

    g_assert_no_error(error);
    return reply;
}

static void *join(void *opaque)
{
    g_autoptr(GError) error = NULL;
    autofd fd = network_join("blue", NETWORK_CONTROL, &error);

    g_assert_no_error(error);
    g_assert_cmpint(fd, >=, 0);
    return opaque;
}

/* GLib makes a lock at a program's first error, in a way that ThreadSanitizer cannot see:
 * that is not to be in two threads at once. */
static void have_an_error(void)
{
    g_autoptr(GError) error = NULL;

    fail(&error, VM_ERROR_INVALID, "none");
}

static void one_of_many_starts_it(void)
{
    GThread *thread[JOINERS];
    Scene s;

    have_an_error();
    begin(&s, "serves");
    g_assert_false(network_is_up("blue"));
    for (unsigned i = 0; i < JOINERS; i++)
        thread[i] = g_thread_new("join", join, NULL);
    for (unsigned i = 0; i < JOINERS; i++)
        g_thread_join(thread[i]);
    g_assert_true(network_is_up("blue"));
    g_assert_cmpuint(starts(), ==, 1);
    hang_up();
    json_decref(call("again"));
    g_assert_cmpuint(starts(), ==, 2);
    hang_up();
    end(&s);
}

static void it_is_nobodys_child_and_inherits_nothing(void)
{
    int leaked = open("/dev/null", O_RDONLY); /* not close-on-exec */
    json_t *about;
    Scene s;

    begin(&s, "serves");
    about = call("about");
    g_assert_cmpint(json_integer_value(json_object_get(about, "fds")), ==, 3);
    g_assert_cmpint(json_integer_value(json_object_get(about, "parent")), !=, getpid());
    g_assert_cmpint(json_integer_value(json_object_get(about, "session")), !=, getsid(0));
    json_decref(about);
    g_assert_cmpint(waitpid(-1, NULL, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
    hang_up();
    end(&s);
    close(leaked);
}

static void refused(const char *name, VmErrorCode code, const char *words)
{
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(network_join(name, NETWORK_PORT, &error), ==, -1);
    g_assert_error(error, VM_ERROR, (int)code);
    if (!strstr(error->message, words))
        g_error("\"%s\" lacks \"%s\"", error->message, words);
}

static void what_is_wrong_is_said(void)
{
    g_autofree char *folder = NULL;
    Scene s;

    begin(&s, "refuses");
    refused("blue", VM_ERROR_INVALID, "network 'blue': the subnet is on fire");
    g_setenv("HUTCH_FAKE", "dies", true);
    refused("blue", VM_ERROR_IO, "without a word");
    refused("blau", VM_ERROR_NOT_FOUND, "blue");
    refused("../blue", VM_ERROR_INVALID, "../blue");
    g_setenv("HUTCH_SWITCH", "/nonexistent/hutch-switch", true);
    refused("blue", VM_ERROR_IO, "/nonexistent/hutch-switch");
    g_unsetenv("HUTCH_SWITCH");
    refused("blue", VM_ERROR_UNSUPPORTED, "set HUTCH_SWITCH");
    g_assert_cmpuint(starts(), ==, 2);
    folder = network_place("blue", NULL, NULL);
    g_assert_cmpint(chmod(folder, 0755), ==, 0);
    refused("blue", VM_ERROR_INVALID, "alone");
    end(&s);
}

static void a_switch_that_fails_a_command_says_why(void)
{
    g_autoptr(GError) error = NULL;
    Scene s;

    begin(&s, "serves");
    g_assert_null(network_call("blue", false, "about", NULL, &error));
    g_assert_error(error, VM_ERROR, VM_ERROR_BUSY);
    g_clear_error(&error);
    g_assert_null(network_call("blue", true, "fail", json_object(), &error));
    g_assert_nonnull(strstr(error->message, "network 'blue': it will not"));
    hang_up();
    end(&s);
}

/* Who ends holds start.lock alone, and a VM that comes then gets a new switch. */
static void nobody_joins_one_that_is_about_to_go(void)
{
    GThread *late;
    Scene s;

    begin(&s, "serves");
    json_decref(call("about"));
    {
        g_autoptr(GError) error = NULL;
        autofd ending = network_lock_start("blue", LOCK_EX | LOCK_NB, &error);

        g_assert_no_error(error);
        g_assert_cmpint(ending, >=, 0);
        g_assert_cmpint(network_lock_start("blue", LOCK_SH | LOCK_NB, NULL), ==, -1);
        late = g_thread_new("late", join, NULL);
        hang_up();
    }
    g_thread_join(late);
    g_assert_cmpuint(starts(), ==, 2);
    hang_up();
    end(&s);
}

static void many_are_asked_at_once_and_those_that_do_not_answer_are_told_apart(void)
{
    char *names[] = {(char *)"nobody", (char *)"blue"};
    json_t *reply[2];
    UnixListener l;
    Scene s;

    begin(&s, "serves");
    json_decref(call("about"));
    network_ask(names, 2, "about", 10000, reply);
    g_assert_null(reply[0]);
    g_assert_true(json_is_integer(json_object_get(reply[1], "fds")));
    json_decref(reply[1]);
    {
        g_autofree char *path = network_place("nobody", NETWORK_CONTROL, NULL);

        g_assert_true(network_make_place("nobody", NULL));
        g_assert_true(unix_listen(&l, path, 16, NULL)); /* and says nothing */
    }
    network_ask(names, 2, "about", 1000, reply);
    g_assert_null(reply[0]);
    g_assert_nonnull(reply[1]);
    json_decref(reply[1]);
    network_ask(names + 1, 1, "fail", 10000, reply);
    g_assert_null(reply[0]);
    unix_unlisten(&l);
    hang_up();
    end(&s);
}

int main(int argc, char **argv)
{
    if (argc == 2 && g_getenv("HUTCH_FAKE"))
        return be_switch(argv[1]);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/place/one_of_many_starts_it", one_of_many_starts_it);
    g_test_add_func("/place/nobodys_child", it_is_nobodys_child_and_inherits_nothing);
    g_test_add_func("/place/what_is_wrong_is_said", what_is_wrong_is_said);
    g_test_add_func("/place/commands", a_switch_that_fails_a_command_says_why);
    g_test_add_func("/place/going", nobody_joins_one_that_is_about_to_go);
    g_test_add_func("/place/many",
                    many_are_asked_at_once_and_those_that_do_not_answer_are_told_apart);
    return g_test_run();
}
