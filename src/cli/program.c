/* Running another program, and hearing what it says; see program.h. */
#include "src/cli/program.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/fd.h"

enum { TICK_MS = 100, MAX_COMPLAINT = 600 };

typedef struct Child {
    GPid pid;
    int out, err;       /* its standard output and error; -1 when ended */
    GString *complaint; /* the beginning of what it said on the latter */
} Child;

static bool start(Child *c, const char *const *argv, const char *package, GError **error)
{
    g_autofree char *found = g_find_program_in_path(argv[0]);
    g_autoptr(GError) why = NULL;

    if (!found)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "the program '%s' is needed for this and is not in PATH: install the "
                    "package %s",
                    argv[0], package);
    if (g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                                 G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                                 NULL, &c->pid, NULL, &c->out, &c->err, &why))
        return true;
    return fail(error, VM_ERROR_IO, "%s", why->message);
}

/* Reads what there is; sets *fd to -1 at its end. */
static ssize_t take(int *fd, char *buf, size_t size)
{
    ssize_t n = read(*fd, buf, size);

    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        fd_close(fd);
    return n;
}

static bool listen_to(Child *c, ProgramSink *sink, void *opaque, Progress *progress,
                      GError **error)
{
    char buf[65536];

    while (c->out >= 0 || c->err >= 0) {
        struct pollfd p[] = {{c->out, POLLIN, 0}, {c->err, POLLIN, 0}};
        ssize_t n;

        poll(p, 2, TICK_MS);
        if (progress)
            progress_tick(progress);
        if (interrupt_signal())
            return interrupt_fail(error);
        if (p[0].revents && (n = take(&c->out, buf, sizeof(buf))) > 0 &&
            !sink(opaque, buf, (size_t)n, error))
            return false;
        if (p[1].revents && (n = take(&c->err, buf, sizeof(buf))) > 0)
            g_string_append_len(c->complaint, buf,
                                MIN(n, MAX_COMPLAINT - (ssize_t)c->complaint->len));
    }
    return true;
}

static bool verdict(const Child *c, const char *name, int status, GError **error)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (WIFSIGNALED(status))
        return fail(error, VM_ERROR_IO, "%s was ended by signal %d", name,
                    WTERMSIG(status));
    g_strstrip(c->complaint->str);
    return fail(error, VM_ERROR_IO, "%s failed with status %d: %s", name,
                WEXITSTATUS(status), c->complaint->str);
}

bool program_run(const char *const *argv, const char *package, ProgramSink *sink,
                 void *opaque, Progress *progress, GError **error)
{
    Child c = {.out = -1, .err = -1};
    int status = 0;
    bool ok;

    if (!start(&c, argv, package, error))
        return false;
    c.complaint = g_string_new(NULL);
    ok = listen_to(&c, sink, opaque, progress, error);
    if (!ok)
        kill(c.pid, SIGKILL); /* what it wrote is thrown away */
    fd_close(&c.out);
    fd_close(&c.err);
    while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR)
        ;
    ok = ok && verdict(&c, argv[0], status, error);
    g_string_free(c.complaint, TRUE);
    return ok;
}
