/* The program: `hutch VERB ...`.  What the verbs are is in src/cli/verbs.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "backend/chardev.h"
#include "src/cli/cli.h"
#include "util/ioloop.h"
#include "util/log.h"

/* A caller may have closed them; what is opened next must not become one of them. */
static void open_standard_fds(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGQUIT};
static struct sigaction default_action[G_N_ELEMENTS(fatal)];

/* The terminal first; then the signal does what it would have done. */
static void on_fatal(int sig)
{
    chardev_restore_terminal();
    for (unsigned i = 0; i < G_N_ELEMENTS(fatal); i++)
        if (fatal[i] == sig)
            sigaction(sig, &default_action[i], NULL);
    raise(sig); /* taken when we return */
}

static void restore_terminal_on_crash(void)
{
    struct sigaction action = {.sa_handler = on_fatal};

    for (unsigned i = 0; i < G_N_ELEMENTS(fatal); i++)
        sigaction(fatal[i], &action, &default_action[i]);
}

/* What a verb printed.  A reader that has seen enough, such as head(1), is told nothing.
 */
static bool flush_text(void)
{
    bool failed = fflush(stdout) == EOF || ferror(stdout);

    if (failed && errno != EPIPE)
        log_error("standard output: the text could not be written: %s",
                  g_strerror(errno));
    return !failed;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    g_autoptr(GError) error = NULL;
    const Verb *verb;
    int status;

    cli_started_ns = clock_ns();
    open_standard_fds();
    restore_terminal_on_crash();
    if (g_getenv("HUTCH_DEBUG"))
        log_set_level(LOG_DEBUG);
    signal(SIGPIPE, SIG_IGN); /* who reads our output may leave; see chardev/stdio.c */
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is the guest's I/O error */
    if (g_str_equal(name, "--version") || g_str_equal(name, "-V"))
        name = "version";
    if (g_str_equal(name, "--help") || g_str_equal(name, "-h"))
        name = "help";
    verb = verb_find(verbs, "", name, &error);
    if (!verb) {
        log_error("%s", error->message);
        return EXIT_CANNOT;
    }
    status = verb_main(verb, "", MAX(argc - 1, 1), argc > 1 ? argv + 1 : argv);
    return flush_text() ? status : EXIT_CANNOT;
}
