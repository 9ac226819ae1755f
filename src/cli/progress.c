/* How far a long job is: a bar on a terminal, a line now and then in a log, on standard
 * error in both cases. */
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "src/cli/image.h"
#include "util/ioloop.h"

enum {
    SHOW_AFTER_MS = 400, /* what is over sooner needs no bar */
    BAR_EVERY_MS = 100,
    LINE_EVERY_MS = 1000,
    BAR_WIDTH = 20,
    MAX_WIDTH = 120,
};

void progress_begin(Progress *p, const ImageArgs *args, const char *what, uint64_t total)
{
    bool tty = isatty(STDERR_FILENO);

    *p = (Progress){.what = what,
                    .total = total,
                    .shown = !args->quiet && (tty || args->progress),
                    .lines = !tty,
                    .started_ns = clock_ns(),
                    .last_ns = clock_ns()};
}

static unsigned terminal_width(void)
{
    struct winsize size;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

/* "0:07", "12:34", "1:02:03" */
static char *duration_text(double seconds)
{
    unsigned long s = seconds < 1e7 ? (unsigned long)(seconds + 0.5) : 9999999;

    return s < 3600 ? g_strdup_printf("%lu:%02lu", s / 60, s % 60)
                    : g_strdup_printf("%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
}

char *progress_text(double fraction, uint64_t done, uint64_t total, double rate,
                    unsigned width)
{
    g_autofree char *is = image_size_text(done);
    g_autofree char *all = image_size_text(total);
    g_autofree char *speed = image_size_text((guint64)rate);
    g_autofree char *left = duration_text(rate > 0 ? (double)(total - done) / rate : 0);
    g_autoptr(GString) out = g_string_new(NULL);

    g_string_append_printf(out, "%3u%%  %s of %s", (unsigned)(fraction * 100), is, all);
    if (rate > 0)
        g_string_append_printf(out, "  %s/s  %s left", speed, left);
    if (out->len + BAR_WIDTH + 4 <= width) { /* else there is no room for one */
        unsigned full = (unsigned)(fraction * BAR_WIDTH);

        g_string_prepend(out, "]  ");
        for (unsigned i = BAR_WIDTH; i > 0; i--)
            g_string_prepend_c(out, i <= full ? '#' : '.');
        g_string_prepend_c(out, '[');
    }
    g_string_truncate(out, MIN(out->len, width));
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static void measure(Progress *p, uint64_t done, int64_t now)
{
    double seconds = (double)(now - p->last_ns) / 1e9;
    double rate = (double)(done - p->last_done) / seconds;

    p->rate = p->rate > 0 ? 0.8 * p->rate + 0.2 * rate : rate;
    p->last_done = done;
    p->last_ns = now;
}

static void show(Progress *p, uint64_t done)
{
    double fraction = p->total ? (double)done / (double)p->total : 1;
    g_autofree char *text = NULL;

    if (p->lines) {
        text = progress_text(fraction, done, p->total, p->rate, MAX_WIDTH);
        fprintf(stderr, "hutch: %s: %s\n", p->what, strchr(text, ']') + 3);
        return;
    }
    text = progress_text(fraction, done, p->total, p->rate,
                         MIN(terminal_width(), MAX_WIDTH) - 1);
    fprintf(stderr, "\r%s\033[K", text); /* K: clear to the end of the line */
    fflush(stderr);
    p->drawn = true;
}

void progress_tick(Progress *p)
{
    int64_t now = clock_ns();
    uint64_t moved = atomic_load(&p->done), done = MIN(moved, p->total);
    int64_t every = p->lines ? LINE_EVERY_MS : BAR_EVERY_MS;

    if (!p->shown || now - p->started_ns < SHOW_AFTER_MS * 1000000ll ||
        now - p->last_ns < every * 1000000)
        return;
    measure(p, done, now);
    show(p, done);
}

void progress_end(Progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = p->shown = false;
}
