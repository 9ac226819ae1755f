/* hutch logs: what a detached VM's console, or its monitor, has said and says. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/fleet.h"
#include "src/cli/interrupt.h"
#include "util/fd.h"
#include "util/ioloop.h"

FLEET_TABLE(fleet_logs_args,
            FLEET_ROW("follow", 'f', PARAM_BOOL, follow, "go on until the VM ends"),
            FLEET_ROW("monitor", 'm', PARAM_BOOL, monitor,
                      "what the monitor says, not the guest's console"),
            FLEET_ROW("json", 0, PARAM_BOOL, json, "print each line as a JSON string"));

enum { MAX_LINE = 64 * 1024 }; /* bytes of one JSON string; a guest need not end a line */

typedef struct Logs {
    const FleetArgs *args;
    char *path, *older;
    int fd;
    GString *line;      /* --json: what is of the next line */
    bool tame;          /* a terminal reads it */
    unsigned char last; /* byte that the terminal got */
} Logs;

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

static void print_lines(Logs *l, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n')
            g_string_append_c(l->line, text[i]);
        if (text[i] != '\n' && l->line->len < MAX_LINE)
            continue;
        g_autofree char *valid = g_utf8_make_valid(l->line->str, (gssize)l->line->len);
        json_t *json = json_string(valid);

        json_dumpf(json, stdout, JSON_ENCODE_ANY | cli_json_flags());
        putchar('\n');
        json_decref(json);
        g_string_truncate(l->line, 0);
    }
}

/* What there is now. */
static bool print_rest(Logs *l, int fd, GError **error)
{
    char part[16 * 1024];
    ssize_t n;

    /* A guest that floods may never let us come to an end. */
    while (!interrupt_signal() && (n = read(fd, part, sizeof(part))) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(error, "read '%s'", l->path);
        if (l->args->json)
            print_lines(l, part, (size_t)n);
        else
            fwrite(part, 1, l->tame ? tame(part, (size_t)n, &l->last) : (size_t)n,
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

static bool print_all(Logs *l, GError **error)
{
    while (print_rest(l, l->fd, error)) {
        if (interrupt_signal() || !is_other(l->fd, l->path))
            return true;
        if (!print_rest(l, l->fd, error)) /* said before it changed places */
            return false;
        close(l->fd);
        l->fd = open(l->path, O_RDONLY | O_CLOEXEC);
        if (l->fd < 0)
            return true; /* removed with its VM */
    }
    return false;
}

static bool follow(Logs *l, int pidfd, int notify, GError **error)
{
    struct pollfd p[] = {{.fd = notify, .events = POLLIN},
                         {.fd = pidfd, .events = POLLIN}};

    while (l->fd >= 0) {
        bool over = p[1].revents != 0;
        char events[4096];

        if (!print_all(l, error))
            return false;
        if (over || interrupt_signal())
            return true;
        if (poll(p, G_N_ELEMENTS(p), -1) < 0 && errno != EINTR)
            return fail_errno(error, "wait for '%s'", l->path);
        while (read(notify, events, sizeof(events)) > 0)
            ;
    }
    return true;
}

static bool open_logs(Logs *l, const char *vm, GError **error)
{
    PlaceInfo info;
    autofd older = -1;

    if (!place_look(vm, &info, error))
        return false;
    if (info.state == PLACE_NONE)
        return place_fail(vm, PLACE_NONE, error);
    l->path = place_file(vm, l->args->monitor ? PLACE_LOG : PLACE_CONSOLE_LOG, error);
    l->older = g_strconcat(l->path, ".1", NULL);
    older = open(l->older, O_RDONLY | O_CLOEXEC);
    l->fd = open(l->path, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0 && errno == ENOENT)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "VM '%s' keeps no such log: hutch run --detach makes one, of the "
                    "console that would be on standard output otherwise",
                    vm);
    if (l->fd < 0)
        return fail_errno(error, "open '%s'", l->path);
    return older < 0 || print_rest(l, older, error);
}

bool fleet_act_logs(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    Logs l = {.args = args,
              .fd = -1,
              .line = g_string_new(NULL),
              .tame = isatty(STDOUT_FILENO)};
    autofd pidfd = args->follow ? place_pidfd(names[0], NULL) : -1;
    autofd notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    g_autofree char *folder = NULL;
    bool ok = open_logs(&l, names[0], error);

    if (ok)
        folder = g_path_get_dirname(l.path);
    if (ok && args->follow && pidfd >= 0)
        ok = inotify_add_watch(notify, folder, IN_MODIFY | IN_CREATE | IN_MOVED_FROM) >= 0
                 ? (interrupt_watch(), follow(&l, pidfd, notify, error))
                 : fail_errno(error, "watch '%s'", folder);
    else if (ok)
        ok = print_all(&l, error);
    fd_close(&l.fd);
    g_string_free(l.line, TRUE);
    g_free(l.path);
    g_free(l.older);
    return ok;
}
