/* See src/cli/interrupt.h. */
#include "src/cli/interrupt.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static char *volatile unfinished; /* for a second signal, which must not wait */
static volatile sig_atomic_t shut = -1;

static void on_signal(int sig)
{
    if (interrupted) {
        if (unfinished)
            unlink(unfinished);
        _exit(128 + sig);
    }
    interrupted = sig;
    if (shut >= 0)
        shutdown(shut, SHUT_RDWR);
}

void interrupt_watch(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal}, old;

    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL); /* nohup is respected */
}

int interrupt_signal(void)
{
    return interrupted;
}

bool interrupt_stop(void *unused)
{
    return interrupted != 0;
}

bool interrupt_fail(GError **error)
{
    return fail(error, VM_ERROR_BUSY, "stopped by signal %d (%s)", interrupted,
                strsignal(interrupted));
}

void interrupt_shuts(int socket)
{
    shut = socket;
    if (socket >= 0 && interrupted)
        shutdown(socket, SHUT_RDWR);
}

void interrupt_removes(char *path)
{
    unfinished = path;
}
