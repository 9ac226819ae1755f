/* Standard input as a raw terminal, and the care to give it back as it was: at close, at
 * exit, in a fatal signal's handler, when stopped by job control.  One per process.
 *
 * A process that is not in its terminal's foreground must not touch it (it would be
 * stopped by SIGTTOU or SIGTTIN); it takes the terminal when SIGCONT finds it there. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>

#include "src/chardev/chardev_private.h"

static const int handled[] = {SIGTSTP, SIGCONT, SIGWINCH};

/* Written on the loop's thread while no handler of ours is installed. */
static struct termios found, raw;
static struct sigaction previous[G_N_ELEMENTS(handled)];
static Chardev *owner;
static bool exit_hook;

/* Shared with signal handlers; atomic. */
static bool is_raw, resized;

bool terminal_in_foreground(void)
{
    pid_t group = tcgetpgrp(STDIN_FILENO);

    return group <= 0 || group == getpgrp(); /* <= 0: no job control here */
}

static void set_raw(void)
{
    if (!terminal_in_foreground() || tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
        return;
    __atomic_store_n(&is_raw, true, __ATOMIC_SEQ_CST);
}

void chardev_restore_terminal(void)
{
    int saved = errno;

    if (__atomic_load_n(&is_raw, __ATOMIC_SEQ_CST) && terminal_in_foreground()) {
        tcsetattr(STDIN_FILENO, TCSANOW, &found);
        __atomic_store_n(&is_raw, false, __ATOMIC_SEQ_CST);
    }
    errno = saved;
}

static void on_signal(int sig)
{
    int saved = errno;

    if (sig == SIGTSTP) {
        chardev_restore_terminal();
        kill(getpid(), SIGSTOP); /* SIGCONT's own handler takes it from there */
    } else if (sig == SIGCONT) {
        set_raw();
    }
    if (sig != SIGTSTP)
        __atomic_store_n(&resized, true, __ATOMIC_SEQ_CST);
    chardev_kick(owner);
    errno = saved;
}

bool terminal_was_resized(void)
{
    return __atomic_exchange_n(&resized, false, __ATOMIC_SEQ_CST);
}

bool terminal_take(Chardev *c, GError **error)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    if (tcgetattr(STDIN_FILENO, &found) < 0)
        return fail_errno(error, "read the terminal's settings");
    /* Input as it is typed, Ctrl-C included.  Output keeps its processing, so that our
     * own lines and a guest's bare newlines both begin at the left. */
    raw = found;
    cfmakeraw(&raw);
    raw.c_oflag = found.c_oflag;
    owner = c;
    if (!exit_hook)
        atexit(chardev_restore_terminal);
    exit_hook = true;
    sigfillset(&action.sa_mask);
    for (unsigned i = 0; i < G_N_ELEMENTS(handled); i++)
        sigaction(handled[i], &action, &previous[i]);
    set_raw();
    return true;
}

void terminal_release(void)
{
    if (!owner)
        return;
    chardev_restore_terminal();
    for (unsigned i = 0; i < G_N_ELEMENTS(handled); i++)
        sigaction(handled[i], &previous[i], NULL);
    owner = NULL;
}
