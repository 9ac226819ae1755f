/* A switch is a process of its own that outlives who started it: it is started by a child
 * that ends at once, so that it is nobody's child, and nobody has to wait for it.
 *
 * The monitor that starts it may have gigabytes mapped, which a fork() would go through
 * page by page: both children share its memory instead and it waits until the program is
 * executed, as with vfork(2). */
#include "src/network/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "network/place.h"
#include "util/fd.h"
#include "util/ioloop.h"

extern char **environ;

enum {
    STACK = 64 * 1024,
    MAX_WORD = 4096,       /* of what it says */
    MAX_LOG = 1024 * 1024, /* then the log begins again */
    FIRST_FD = 3,
};

/* ---- the program ----------------------------------------------------------------------
 */

static char *beside(const char *relative)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = self ? g_path_get_dirname(self) : NULL;
    g_autofree char *path = folder ? g_build_filename(folder, relative, NULL) : NULL;

    return path && access(path, X_OK) == 0 ? g_steal_pointer(&path) : NULL;
}

char *network_switch_program(GError **error)
{
    static const char *const places[] = {"hutch-switch", "../libexec/hutch-switch",
                                         "../libexec/hutch/hutch-switch"};
    const char *given = g_getenv("HUTCH_SWITCH");

    if (given && access(given, X_OK) == 0)
        return g_strdup(given);
    if (given) {
        fail_errno(error, "the program of switches, HUTCH_SWITCH=%s", given);
        return NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        char *path = beside(places[i]);

        if (path)
            return path;
    }
    fail(error, VM_ERROR_UNSUPPORTED,
         "the program hutch-switch, which networks need, is not beside this one: install "
         "all of hutch, or set HUTCH_SWITCH to its path");
    return NULL;
}

/* ---- children -------------------------------------------------------------------------
 * They run in this process's memory, on a stack of their own, and call nothing but the
 * kernel.  They end by returning: AddressSanitizer would look at the stack in _exit(). */

typedef struct Spawn {
    char *argv[3];
    int null_fd, words_fd, log_fd;
    sigset_t none;
    int err;   /* why it could not be executed */
    pid_t pid; /* the switch's */
} Spawn;

static int run_switch(void *opaque)
{
    Spawn *s = opaque;

    s->pid = (pid_t)syscall(SYS_getpid);
    sigprocmask(SIG_SETMASK, &s->none, NULL);
    if (dup2(s->null_fd, STDIN_FILENO) < 0 || dup2(s->words_fd, STDOUT_FILENO) < 0 ||
        dup2(s->log_fd, STDERR_FILENO) < 0) {
        s->err = errno;
        return 127;
    }
    syscall(SYS_close_range, FIRST_FD, ~0u, 0);
    execve(s->argv[0], s->argv, environ);
    s->err = errno;
    return 127;
}

/* Room for both children: the second one's is the lower half. */
typedef struct Stacks {
    char *base;
    Spawn *spawn;
} Stacks;

static int run_middle(void *opaque)
{
    Stacks *stacks = opaque;

    setsid();
    if (clone(run_switch, stacks->base + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD,
              stacks->spawn) < 0)
        stacks->spawn->err = errno;
    return 0;
}

/* False: nothing was started, with s->err. */
static bool start_children(Spawn *s)
{
    g_autofree char *memory = g_malloc(2 * STACK);
    Stacks stacks = {memory, s};
    sigset_t all, before;
    pid_t middle;

    /* No handler of ours may run in a child that has our memory. */
    sigfillset(&all);
    sigemptyset(&s->none);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    middle = clone(run_middle, memory + 2 * STACK, CLONE_VM | CLONE_VFORK | SIGCHLD,
                   &stacks);
    if (middle < 0)
        s->err = errno;
    while (middle > 0 && waitpid(middle, NULL, 0) < 0 && errno == EINTR)
        ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !s->err;
}

/* ---- its first words ------------------------------------------------------------------
 */

/* The line without its end; NULL: it closed the pipe, or time is over. */
static char *read_line(int fd, bool *ret_late)
{
    g_autofree char *line = g_malloc(MAX_WORD + 1);
    int64_t deadline_ns = clock_ns() + NETWORK_START_MS * 1000000ll;
    size_t len = 0;

    *ret_late = false;
    while (len < MAX_WORD) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = poll(&p, 1, clock_left_ms(deadline_ns));
        ssize_t n;

        *ret_late = ready == 0;
        if (ready == 0)
            return NULL;
        n = ready < 0 ? -1 : read(fd, line + len, MAX_WORD - len);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return NULL;
        len += (size_t)n;
        if (memchr(line, '\n', len))
            break;
    }
    line[len] = '\0';
    line[strcspn(line, "\n")] = '\0';
    return g_steal_pointer(&line);
}

static bool hear(const Spawn *s, int fd, const char *name, GError **error)
{
    bool late;
    g_autofree char *line = read_line(fd, &late);

    if (line && g_str_equal(line, "ready"))
        return true;
    if (late)
        kill(s->pid, SIGKILL);
    if (late)
        return fail(error, VM_ERROR_BUSY,
                    "network '%s': its switch was not ready within %d s; see its log in "
                    "the network's run folder, and try again",
                    name, NETWORK_START_MS / 1000);
    if (!line)
        return fail(error, VM_ERROR_IO,
                    "network '%s': its switch ended without a word; see its log in the "
                    "network's run folder",
                    name);
    return fail(error, VM_ERROR_INVALID, "network '%s': %s", name, line);
}

/* ---- together -------------------------------------------------------------------------
 */

static int open_log(const char *name, GError **error)
{
    g_autofree char *path = network_place(name, NETWORK_LOG, error);
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW,
                         0600)
                  : -1;
    struct stat st;

    if (path && fd < 0)
        fail_errno(error, "network '%s': open '%s'", name, path);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > MAX_LOG)
        (void)!ftruncate(fd, 0);
    return fd;
}

bool spawn_switch(const char *name, GError **error)
{
    g_autofree char *program = network_switch_program(error);
    autofd log_fd = program ? open_log(name, error) : -1;
    autofd null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    autofd read_fd = -1, write_fd = -1;
    Spawn s = {.argv = {program, (char *)name, NULL}};
    int ends[2];

    if (log_fd < 0)
        return false;
    if (null_fd < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return fail_errno(error, "network '%s': start its switch", name);
    read_fd = ends[0];
    write_fd = ends[1];
    s.null_fd = null_fd;
    s.words_fd = write_fd;
    s.log_fd = log_fd;
    if (!start_children(&s)) {
        errno = s.err;
        return fail_errno(error, "network '%s': start '%s'", name, program);
    }
    fd_close(&write_fd);
    return hear(&s, read_fd, name, error);
}
