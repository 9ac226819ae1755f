/* Printing what is appended to a log (tail.h). */
#include "src/cli/tail.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/cli.h"
#include "src/cli/interrupt.h"
#include "util/fd.h"

enum { MAX_LINE = 64 * 1024 }; /* bytes of one JSON string; a guest need not end a line */

void tail_init(Tail *t, char *path, bool json)
{
    *t = (Tail){.json = json,
                .tame = isatty(STDOUT_FILENO),
                .path = path,
                .fd = -1,
                .line = g_string_new(NULL)};
}

void tail_clear(Tail *t)
{
    fd_close(&t->fd);
    g_string_free(t->line, TRUE);
    g_free(t->path);
}

/* A guest must not drive the terminal: of control characters only line feeds and tabs get
 * through.  UTF-8's C1 controls are a byte of 0x80 to 0x9f behind 0xc2, which may have
 * been the last byte of the part before. */
static size_t tame(char *text, size_t len, unsigned char *last)
{
    size_t out = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = *last == 0xc2 && (c & 0xe0) == 0x80;

        if (c == '\r')
            continue;
        if (c != '\n' && c != '\t' && (c < ' ' || c == 0x7f || c1))
            text[i] = '?';
        *last = (unsigned char)text[i];
        text[out++] = text[i];
    }
    return out;
}

static void print_lines(Tail *t, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n')
            g_string_append_c(t->line, text[i]);
        if (text[i] != '\n' && t->line->len < MAX_LINE)
            continue;
        g_autofree char *valid = g_utf8_make_valid(t->line->str, (gssize)t->line->len);
        json_t *json = json_string(valid);

        json_dumpf(json, stdout, JSON_ENCODE_ANY | cli_json_flags());
        putchar('\n');
        json_decref(json);
        g_string_truncate(t->line, 0);
    }
}

/* What there is now. */
static bool print_rest(Tail *t, int fd, GError **error)
{
    char part[16 * 1024];
    ssize_t n;

    /* A guest that floods may never let us come to an end. */
    while (!interrupt_signal() && (n = read(fd, part, sizeof(part))) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(error, "read '%s'", t->path);
        if (t->json)
            print_lines(t, part, (size_t)n);
        else
            fwrite(part, 1, t->tame ? tame(part, (size_t)n, &t->last) : (size_t)n,
                   stdout);
    }
    return fflush(stdout) == 0 || fail_errno(error, "write the log");
}

/* A part that was full became the older one, and a new one was begun. */
static bool is_other(int fd, const char *path)
{
    struct stat ours, there;

    return fstat(fd, &ours) == 0 && stat(path, &there) == 0 &&
           ours.st_ino != there.st_ino;
}

static bool print_all(Tail *t, GError **error)
{
    while (print_rest(t, t->fd, error)) {
        if (interrupt_signal() || !is_other(t->fd, t->path))
            return true;
        if (!print_rest(t, t->fd, error)) /* said before it changed places */
            return false;
        close(t->fd);
        t->fd = open(t->path, O_RDONLY | O_CLOEXEC);
        if (t->fd < 0)
            return true; /* removed with its VM */
    }
    return false;
}

bool tail_open(Tail *t, GError **error)
{
    g_autofree char *name = g_strconcat(t->path, ".1", NULL);
    autofd older = open(name, O_RDONLY | O_CLOEXEC);

    t->fd = open(t->path, O_RDONLY | O_CLOEXEC);
    if (t->fd < 0 && errno != ENOENT)
        return fail_errno(error, "open '%s'", t->path);
    return t->fd < 0 || older < 0 || print_rest(t, older, error);
}

bool tail_print(Tail *t, GError **error)
{
    return t->fd < 0 || print_all(t, error);
}

bool tail_follow(Tail *t, int until, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(t->path);
    autofd notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    struct pollfd p[] = {{.fd = notify, .events = POLLIN},
                         {.fd = until, .events = POLLIN}};

    if (inotify_add_watch(notify, folder, IN_MODIFY | IN_CREATE | IN_MOVED_FROM) < 0)
        return fail_errno(error, "watch '%s'", folder);
    interrupt_watch();
    while (t->fd >= 0) {
        bool over = p[1].revents != 0;
        char events[4096];

        if (!print_all(t, error))
            return false;
        if (over || interrupt_signal())
            return true;
        if (poll(p, G_N_ELEMENTS(p), -1) < 0 && errno != EINTR)
            return fail_errno(error, "wait for '%s'", t->path);
        while (read(notify, events, sizeof(events)) > 0)
            ;
    }
    return true;
}
