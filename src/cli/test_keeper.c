/* The monitor of a cell, and its keeper: a process between the two, so that whatever
 * becomes of us, the VM ends and its folder goes.
 *
 *     hutch test --- leash (a socket pair) --- keeper --- pipes --- hutch run
 *
 * The keeper takes what the monitor prints, which is the guest's console, and keeps the
 * end of it, so that a guest that floods costs nothing and never waits.  It tells us of
 * the monitor's end by a byte on the leash.  When our end of the leash is closed, which
 * the kernel does however we die, it ends the monitor and removes the folder; unless we
 * said KEEP before.  The monitor is killed by the kernel if the keeper dies
 * (PR_SET_PDEATHSIG), and what is left then is the next sweep's (test_folder.c).
 *
 * The keeper has a session of its own: Ctrl-C is for us to act on. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/test.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"

enum {
    LOG_SIZE = 64 * KIB, /* of each stream, its end is kept */
    GRACE_MS = 5000,     /* for a monitor that is asked to end */
    CONSOLE_LINES = 60,  /* a panic takes more than 40 */
    LINE_MAX_CHARS = 300,
};

enum { SAY_KEEP = 'k', SAY_STOP = 's', SAY_ENDED = 'e' }; /* on the leash */

typedef struct Log {
    uint64_t total; /* bytes ever */
    char ring[LOG_SIZE];
} Log;

/* Written by the keeper, read by us after it has said SAY_ENDED. */
typedef struct Shared {
    Log console, messages;
    int status; /* of waitpid() */
} Shared;

struct TestVm {
    pid_t keeper;
    int leash;
    Shared *shared;
    bool ended;
};

/* ---- in the keeper ---------------------------------------------------------------- */

typedef struct Keeper {
    TestFolder *folder;
    Shared *shared;
    pid_t monitor;
    int leash, out, err, pidfd; /* -1: ended */
    bool keep, stopping;
    int64_t kill_at_ns; /* 0: not asked to end yet */
} Keeper;

static sigset_t stop_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    return set;
}

static void run_monitor(const char *config, pid_t keeper, int out, int err)
{
    const char *argv[] = {"hutch", "run", "--config", config, NULL};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t set = stop_signals();

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper)
        _exit(EXIT_CANNOT);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &set, NULL); /* what the keeper has sent already counts */
    if (dup2(null, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0)
        execv("/proc/self/exe", (char **)argv);
    _exit(EXIT_CANNOT);
}

static bool start_monitor(Keeper *k, const char *config)
{
    pid_t keeper = getpid();
    int out[2], err[2];

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        return false;
    k->monitor = fork();
    if (k->monitor == 0)
        run_monitor(config, keeper, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    k->out = out[0];
    k->err = err[0];
    k->pidfd = k->monitor > 0 ? (int)syscall(SYS_pidfd_open, k->monitor, 0) : -1;
    return k->pidfd >= 0 && fd_set_nonblock(k->out, true, NULL) &&
           fd_set_nonblock(k->err, true, NULL);
}

/* What there is; *fd becomes -1 at the end. */
static void take(int *fd, Log *log)
{
    char buf[16384];
    ssize_t n;

    /* At most a ring full, so that no flood keeps us from the leash. */
    for (size_t taken = 0; *fd >= 0 && taken < LOG_SIZE; taken += (size_t)n) {
        n = read(*fd, buf, sizeof(buf));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            fd_close(fd);
            return;
        }
        for (ssize_t i = 0; i < n; i++)
            log->ring[(log->total + (uint64_t)i) % LOG_SIZE] = buf[i];
        log->total += (uint64_t)n;
    }
}

static void end_monitor(Keeper *k)
{
    if (k->pidfd < 0 || k->kill_at_ns)
        return;
    kill(k->monitor, SIGTERM);
    k->kill_at_ns = clock_ns() + GRACE_MS * 1000000ll;
}

static void hear(Keeper *k)
{
    char what;
    ssize_t n = read(k->leash, &what, 1);

    if (n < 0 && errno == EINTR)
        return;
    if (n == 1 && what == SAY_KEEP)
        k->keep = true;
    else if (n == 1)
        end_monitor(k);
    else
        fd_close(&k->leash);
    if (k->leash < 0 && !k->keep)
        end_monitor(k);
}

static void monitor_ended(Keeper *k)
{
    char what = SAY_ENDED;

    while (waitpid(k->monitor, &k->shared->status, 0) < 0 && errno == EINTR)
        ;
    fd_close(&k->pidfd);
    take(&k->out, &k->shared->console);
    take(&k->err, &k->shared->messages);
    fd_close(&k->out);
    fd_close(&k->err);
    if (k->leash >= 0)
        (void)!send(k->leash, &what, 1, MSG_NOSIGNAL);
}

static void attend(Keeper *k)
{
    struct pollfd p[] = {{k->leash, POLLIN, 0},
                         {k->pidfd, POLLIN, 0},
                         {k->out, POLLIN, 0},
                         {k->err, POLLIN, 0}};
    int64_t left = k->kill_at_ns && k->pidfd >= 0
                       ? (k->kill_at_ns - clock_ns()) / 1000000 + 1
                       : -1;

    if (k->kill_at_ns && left <= 0 && k->pidfd >= 0) {
        kill(k->monitor, SIGKILL);
        left = -1;
    }
    if (poll(p, G_N_ELEMENTS(p), (int)left) < 0)
        return;
    if (p[2].revents)
        take(&k->out, &k->shared->console);
    if (p[3].revents)
        take(&k->err, &k->shared->messages);
    if (p[0].revents)
        hear(k);
    if (p[1].revents)
        monitor_ended(k);
}

/* Nothing of the cell's may be held open: who waits for the end of its output must not
 * wait for a VM that is kept. */
static void leave_cell(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t set = stop_signals();

    setsid();
    prctl(PR_SET_NAME, "hutch-keeper");
    sigprocmask(SIG_BLOCK, &set, NULL); /* the leash alone decides */
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        dup2(null, fd);
}

static void keep(Keeper *k, const char *config)
{
    bool outlived; /* it ended while somebody still had the leash */

    leave_cell();
    if (!start_monitor(k, config))
        _exit(EXIT_CANNOT);
    while (k->pidfd >= 0)
        attend(k);
    outlived = k->leash >= 0;
    while (k->leash >= 0)
        attend(k);
    if (k->keep && outlived)
        test_folder_leave(k->folder);
    else
        test_folder_remove(k->folder);
    _exit(0);
}

/* ---- in the cell ------------------------------------------------------------------ */

static void clear(TestVm *vm)
{
    fd_close(&vm->leash);
    if (vm->shared)
        munmap(vm->shared, sizeof(*vm->shared));
    g_free(vm);
}

TestVm *test_vm_start(TestFolder *folder, const char *config, GError **error)
{
    TestVm *vm = g_new0(TestVm, 1);
    int ends[2];

    vm->leash = -1;
    vm->shared = mmap(NULL, sizeof(*vm->shared), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (vm->shared == MAP_FAILED) {
        vm->shared = NULL;
        fail_errno(error, "map memory for a VM's console");
        clear(vm);
        return NULL;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        fail_errno(error, "make a socket pair");
        clear(vm);
        return NULL;
    }
    vm->leash = ends[0];
    vm->keeper = fork();
    if (vm->keeper == 0) {
        Keeper k = {.folder = folder, .shared = vm->shared, .leash = ends[1]};

        close(ends[0]);
        keep(&k, config);
    }
    close(ends[1]);
    if (vm->keeper > 0)
        return vm;
    fail_errno(error, "start a process");
    clear(vm);
    return NULL;
}

int test_vm_leash(const TestVm *vm)
{
    return vm->leash;
}

bool test_vm_wait(TestVm *vm, int timeout_ms)
{
    struct pollfd p = {vm->leash, POLLIN, 0};

    /* Its byte, or its own end. */
    if (!vm->ended && poll(&p, 1, timeout_ms) > 0)
        vm->ended = true;
    return vm->ended;
}

void test_vm_stop(TestVm *vm)
{
    char what = SAY_STOP;
    int64_t until = clock_ns() + 2 * GRACE_MS * 1000000ll;

    if (!vm->ended)
        (void)!send(vm->leash, &what, 1, MSG_NOSIGNAL);
    while (!test_vm_wait(vm, GRACE_MS) && clock_ns() < until)
        ;
}

void test_vm_end(TestVm *vm, bool keep_it)
{
    char what = SAY_KEEP;
    bool stays;

    if (!vm)
        return;
    stays = keep_it && !test_vm_wait(vm, 0);
    if (keep_it)
        (void)!send(vm->leash, &what, 1, MSG_NOSIGNAL);
    fd_close(&vm->leash);
    while (!stays && waitpid(vm->keeper, NULL, 0) < 0 && errno == EINTR)
        ;
    clear(vm);
}

/* ---- last words ------------------------------------------------------------------- */

/* The end of what came; a new string. */
static char *log_text(const Log *log, size_t *ret_len)
{
    uint64_t total = log->total;
    size_t len = (size_t)MIN(total, LOG_SIZE);
    char *text = g_malloc(len + 1);

    for (size_t i = 0; i < len; i++)
        text[i] = log->ring[(total - len + i) % LOG_SIZE];
    text[len] = 0;
    *ret_len = len;
    return text;
}

/* A guest's console may hold anything; a terminal must not be told all of it. */
static char *clean_line(const char *line, size_t len)
{
    g_autofree char *valid = g_utf8_make_valid(line, (gssize)len);
    GString *out = g_string_new(NULL);
    unsigned n = 0;

    for (const char *p = valid; *p && n < LINE_MAX_CHARS; p = g_utf8_next_char(p), n++) {
        gunichar c = g_utf8_get_char(p);

        if (c == 0x1b) { /* an escape sequence: to its last byte, if it is a common one */
            const char *q = p[1] == '[' ? p + 2 : p;

            while (q > p && *q && !g_ascii_isalpha(*q))
                q++;
            p = q > p && *q ? q : p;
        } else if (g_unichar_isprint(c)) {
            g_string_append_unichar(out, c);
        } else if (c == '\t') {
            g_string_append_c(out, ' ');
        }
    }
    return g_string_free(out, FALSE);
}

char *test_last_lines(const char *text, size_t len, unsigned lines)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    GString *out = g_string_new(NULL);

    for (size_t end = len; end > 0 && found->len < lines;) {
        size_t begin = end;
        g_autofree char *line = NULL;

        while (begin > 0 && text[begin - 1] != '\n')
            begin--;
        line = clean_line(text + begin, end - begin);
        if (*g_strchomp(line))
            g_ptr_array_add(found, g_steal_pointer(&line));
        end = begin ? begin - 1 : 0;
    }
    for (unsigned i = found->len; i-- > 0;)
        g_string_append_printf(out, "%s\n", (char *)found->pdata[i]);
    return g_string_free(out, FALSE);
}

char *test_vm_console(TestVm *vm)
{
    size_t len;
    g_autofree char *text = log_text(&vm->shared->console, &len);

    return test_last_lines(text, len, CONSOLE_LINES);
}

/* The last line on the monitor's standard error is its result (--json); before it, or
 * without it, there are sentences. */
static json_t *monitor_result(TestVm *vm, char **ret_sentence)
{
    size_t len;
    g_autofree char *text = log_text(&vm->shared->messages, &len);
    char *line = strrchr(g_strchomp(text), '\n');
    json_t *json = json_loads(line ? line + 1 : text, 0, NULL);

    if (json && line)
        *line = 0;
    else if (json)
        *text = 0;
    *ret_sentence = test_last_lines(text, strlen(text), 1);
    g_strchomp(*ret_sentence);
    return json;
}

static char *signal_text(int status)
{
    return g_strdup_printf("the VM's monitor was ended by signal %d (%s)",
                           WTERMSIG(status), strsignal(WTERMSIG(status)));
}

void test_vm_verdict(TestVm *vm, TestResult *ret)
{
    g_autofree char *sentence = NULL;
    json_t *json = monitor_result(vm, &sentence);
    const char *detail = json_string_value(json_object_get(json, "detail"));
    const char *reason = json_string_value(json_object_get(json, "reason"));
    int status = vm->shared->status;

    g_free(ret->console);
    ret->console = test_vm_console(vm);
    if (!g_strcmp0(reason, "panic"))
        test_result_fail(ret, TEST_PANIC, 127, g_strdup(detail));
    else if (!g_strcmp0(reason, "crash"))
        test_result_fail(ret, TEST_CRASH, 126, g_strdup(detail));
    else if (reason && !g_str_equal(reason, "error"))
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT,
                         g_strdup_printf("the VM ended before the command did: %s",
                                         detail ? detail : reason));
    else if (detail)
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT, g_strdup(detail));
    else if (WIFSIGNALED(status))
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT, signal_text(status));
    else
        test_result_fail(ret, TEST_ERROR, EXIT_CANNOT,
                         *sentence ? g_strdup(g_str_has_prefix(sentence, "hutch: error: ")
                                                  ? sentence + strlen("hutch: error: ")
                                                  : sentence)
                                   : g_strdup("the VM could not be started"));
    json_decref(json);
}
