/* hutch logs of a guest that would drive the terminal, never ends a line, or never ends.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "src/cli/fleet.h"

enum { PART = 16 * 1024, MAX_LINE = 64 * 1024, PATIENCE_S = 60 };

static char *runtime; /* XDG_RUNTIME_DIR */

/* A VM of that name that runs, as far as others can see, with such a log. */
static void begin(Place *p, const char *name, const char *log, size_t len)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;

    place_claim(p, name, &error);
    g_assert_no_error(error);
    path = place_path(p, PLACE_CONSOLE_LOG);
    if (log)
        g_assert_true(g_file_set_contents(path, log, (gssize)len, NULL));
    else
        g_assert_cmpint(symlink("/dev/zero", path), ==, 0);
}

/* hutch logs, in a process that prints to `out`. */
static pid_t start_logs(const char *name, const FleetArgs *args, int out)
{
    char *names[] = {(char *)name, NULL};
    pid_t pid = fork();
    int status = 0;

    if (pid)
        return pid;
    alarm(PATIENCE_S);
    dup2(out, STDOUT_FILENO);
    _exit(fleet_act_logs((void *)args, names, &status, NULL) ? 0 : 1);
}

/* Reads to the end, which is EIO of a terminal. */
static GString *read_all(int fd)
{
    GString *text = g_string_new(NULL);
    char part[4096];
    ssize_t n;

    while ((n = read(fd, part, sizeof(part))) > 0)
        g_string_append_len(text, part, n);
    close(fd);
    return text;
}

static void ends_well(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* What a terminal gets of it. */
static GString *on_terminal(const char *name, bool json)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
    struct termios raw;
    GString *text;
    pid_t pid;

    g_assert_cmpint(grantpt(master), ==, 0);
    g_assert_cmpint(unlockpt(master), ==, 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    g_assert_cmpint(tcgetattr(slave, &raw), ==, 0);
    cfmakeraw(&raw);
    g_assert_cmpint(tcsetattr(slave, TCSANOW, &raw), ==, 0);
    pid = start_logs(name, &(FleetArgs){.json = json}, slave);
    close(slave);
    text = read_all(master);
    ends_well(pid);
    return text;
}

static void no_control_character_reaches_a_terminal(void)
{
    static const char *const evil[] = {"\033]0;x\007", "\302\23331m", "a\177\rb"};

    /* Anywhere, and where one part that is read ends and the next begins. */
    for (unsigned i = 0; i < G_N_ELEMENTS(evil); i++)
        for (unsigned at = PART - 3; at < PART + 2; at++) {
            g_autoptr(GString) log = g_string_new(NULL), text = NULL;
            Place p;

            while (log->len < at)
                g_string_append_c(log, 'a');
            g_string_append_printf(log, "%s\n", evil[i]);
            begin(&p, "evil", log->str, log->len);
            text = on_terminal("evil", false);
            g_assert_cmpuint(text->len, >=, at);
            for (const char *c = text->str; *c; c++) {
                g_assert_true(*c == '\n' || (unsigned char)*c >= ' ');
                g_assert_cmpint(*c, !=, 0x7f);
                g_assert_false(c[0] == '\xc2' && (c[1] & 0xe0) == 0x80);
            }
            place_release(&p);
        }
}

static void json_on_a_terminal_is_ascii(void)
{
    static const char log[] = "\302\23331m\n";
    g_autoptr(GString) text = NULL;
    Place p;

    begin(&p, "json", log, strlen(log));
    text = on_terminal("json", true);
    g_assert_cmpstr(text->str, ==, "\"\\u009B31m\"\n");
    place_release(&p);
}

static void other_characters_reach_a_terminal(void)
{
    static const char log[] = "\xc2\xa9 gr\xc3\xbc\xc3\x9f dich\t\xf0\x9f\x90\xb9\r\n";
    g_autoptr(GString) text = NULL;
    Place p;

    begin(&p, "good", log, strlen(log));
    text = on_terminal("good", false);
    g_assert_cmpstr(text->str, ==,
                    "\xc2\xa9 gr\xc3\xbc\xc3\x9f dich\t\xf0\x9f\x90\xb9\n");
    place_release(&p);
}

static void a_line_without_an_end_is_cut(void)
{
    g_autofree char *log = g_strnfill(3 * MAX_LINE, 'x');
    g_autoptr(GString) text = NULL;
    g_auto(GStrv) lines = NULL;
    int out[2];
    pid_t pid;
    Place p;

    begin(&p, "line", log, strlen(log));
    g_assert_cmpint(pipe(out), ==, 0);
    pid = start_logs("line", &(FleetArgs){.json = true}, out[1]);
    close(out[1]);
    text = read_all(out[0]);
    ends_well(pid);
    lines = g_strsplit(text->str, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 4); /* the last is empty */
    for (unsigned i = 0; i < 3; i++)
        g_assert_cmpuint(strlen(lines[i]), ==, MAX_LINE + strlen("\"\""));
    place_release(&p);
}

static void a_flood_does_not_keep_from_leaving(void)
{
    char first[PART];
    int out[2];
    pid_t pid;
    Place p;

    begin(&p, "flood", NULL, 0);
    g_assert_cmpint(pipe(out), ==, 0);
    pid = start_logs("flood", &(FleetArgs){.follow = true}, out[1]);
    close(out[1]);
    g_assert_cmpint(read(out[0], first, sizeof(first)), >, 0);
    g_assert_cmpint(kill(pid, SIGINT), ==, 0);
    while (read(out[0], first, sizeof(first)) > 0)
        ;
    close(out[0]);
    ends_well(pid);
    place_release(&p);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    runtime = g_dir_make_tmp("hutch-logs-XXXXXX", NULL);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
#define ADD(name) g_test_add_func("/logs/" #name, name)
    ADD(no_control_character_reaches_a_terminal);
    ADD(json_on_a_terminal_is_ascii);
    ADD(other_characters_reach_a_terminal);
    ADD(a_line_without_an_end_is_cut);
    ADD(a_flood_does_not_keep_from_leaving);
    status = g_test_run();
    {
        g_autofree char *parent = g_build_filename(runtime, "hutch", NULL);

        rmdir(parent);
        rmdir(runtime);
    }
    g_free(runtime);
    return status;
}
