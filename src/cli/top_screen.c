/* hutch top's screen: plain ANSI on the terminal's other page, which is given back at the
 * end, on a signal that ends the program, in a crash, and while it is stopped.
 *
 * Signals that can wait come through a signalfd, beside the keyboard.  Those of a crash
 * are handled: a handler may only use tcsetattr() and write(), so what it needs is in
 * static variables. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "src/cli/top.h"
#include "util/fd.h"
#include "util/ioloop.h"

static const char enter[] = "\033[?1049h\033[?25l\033[2J"; /* other page, no cursor */
static const char leave[] = "\033[?25h\033[?1049l";

static const int waiting[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP};
static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP};

static struct termios found;
static struct sigaction before[G_N_ELEMENTS(fatal)];
static volatile sig_atomic_t taken;

static void put(const char *text, size_t len)
{
    while (len) {
        ssize_t n = write(STDOUT_FILENO, text, len);

        if (n < 0 && errno != EINTR)
            return; /* the terminal is gone; its hang-up ends us */
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
}

static void take_terminal(void)
{
    struct termios ours = found;

    ours.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &ours);
    put(enter, strlen(enter));
    taken = 1;
}

/* Also in a handler. */
static void give_terminal(void)
{
    if (!taken)
        return;
    taken = 0;
    put(leave, strlen(leave));
    tcsetattr(STDIN_FILENO, TCSADRAIN, &found);
}

static void on_fatal(int sig)
{
    give_terminal();
    for (unsigned i = 0; i < G_N_ELEMENTS(fatal); i++)
        if (fatal[i] == sig)
            sigaction(sig, &before[i], NULL);
    raise(sig); /* taken when we return */
}

/* ---- the screen -----------------------------------------------------------------------
 */

static void draw(GArray *rows, TopOrder order)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    g_autoptr(GString) out = g_string_new("\033[H");
    g_autofree char *table = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned line = 1;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col)
        size = (struct winsize){.ws_row = 24, .ws_col = 80};
    top_sort(rows, order);
    table = top_table(rows, order, size.ws_col);
    lines = g_strsplit(table, "\n", 0);
    g_string_append_printf(out, "%.*s\033[K\r\n", size.ws_col,
                           "hutch top: c cpu, m memory, d disk, n network, q quit");
    /* Clears what was to the right; the last line has no end, which would scroll. */
    for (char **l = lines; l[0] && l[1] && line < size.ws_row; l++, line++)
        g_string_append_printf(out, "%s%s\033[0m\033[K%s", l == lines ? "\033[7m" : "",
                               *l, line + 1 < size.ws_row ? "\r\n" : "");
    g_string_append(out, "\033[J");
    put(out->str, out->len);
}

typedef struct Screen {
    Top *top;
    GArray *rows;
    TopOrder order;
    int signal_fd;
    int64_t interval_ns, next_ns;
    int signal; /* that ends it */
    bool quit;
} Screen;

static void on_key(Screen *s, char key)
{
    static const char keys[] = {[TOP_BY_CPU] = 'c',
                                [TOP_BY_MEMORY] = 'm',
                                [TOP_BY_DISK] = 'd',
                                [TOP_BY_NET] = 'n'};

    if (key == 'q' || key == 'Q')
        s->quit = true;
    if (key == ' ')
        s->next_ns = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++)
        if (keys[i] == key)
            s->order = (TopOrder)i;
}

static void read_keys(Screen *s)
{
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        s->quit = true; /* the terminal is gone */
    for (ssize_t i = 0; i < n; i++)
        on_key(s, keys[i]);
}

static void read_signal(Screen *s)
{
    struct signalfd_siginfo info;

    if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP) {
        give_terminal();
        kill(getpid(), SIGSTOP);
        tcgetattr(STDIN_FILENO, &found); /* the shell may have set it otherwise */
        take_terminal();
    } else if (info.ssi_signo != SIGWINCH) {
        s->signal = (int)info.ssi_signo;
        s->quit = true;
    }
}

static bool look(Screen *s, GError **error)
{
    if (clock_ns() < s->next_ns)
        return true;
    s->next_ns = clock_ns() + s->interval_ns;
    return top_sample(s->top, false, s->rows, error);
}

static void wait_for_something(Screen *s)
{
    struct pollfd p[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                         {.fd = s->signal_fd, .events = POLLIN}};
    int64_t left_ns = clock_left_ns(s->next_ns);

    if (poll(p, G_N_ELEMENTS(p), (int)((left_ns + 999999) / 1000000)) <= 0)
        return;
    if (p[1].revents)
        read_signal(s);
    if (p[0].revents && !s->quit)
        read_keys(s);
}

static bool run(Screen *s, GError **error)
{
    while (!s->quit) {
        if (!look(s, error))
            return false;
        draw(s->rows, s->order);
        wait_for_something(s);
    }
    return true;
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

static void handle_fatal(bool on)
{
    struct sigaction action = {.sa_handler = on_fatal};

    for (unsigned i = 0; i < G_N_ELEMENTS(fatal); i++)
        if (on)
            sigaction(fatal[i], &action, &before[i]);
        else
            sigaction(fatal[i], &before[i], NULL);
}

bool top_screen(Top *t, double interval_s, int *ret_signal, GError **error)
{
    Screen s = {.top = t, .interval_ns = (int64_t)(interval_s * 1e9)};
    sigset_t set, old;
    bool ok;

    if (tcgetattr(STDIN_FILENO, &found) < 0)
        return fail_errno(error, "read the terminal's settings");
    sigemptyset(&set);
    for (unsigned i = 0; i < G_N_ELEMENTS(waiting); i++)
        sigaddset(&set, waiting[i]);
    s.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s.signal_fd < 0)
        return fail_errno(error, "make a signalfd");
    s.rows = top_rows_new();
    pthread_sigmask(SIG_BLOCK, &set, &old);
    handle_fatal(true);
    take_terminal();
    ok = run(&s, error);
    give_terminal();
    handle_fatal(false);
    fd_close(&s.signal_fd);
    g_array_free(s.rows, TRUE);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    *ret_signal = s.signal;
    return ok;
}
