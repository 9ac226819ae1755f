/* Cells side by side, each in a process of its own, which runs as this one would and ends
 * by itself.  Its output comes through two pipes, and is printed line by line; its result
 * comes in a file that has no name.  The process is asked to stop if we die. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/image.h"
#include "src/cli/interrupt.h"
#include "src/cli/test.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/log.h"

#define MONITOR_MEMORY (64 * MIB)

enum { LOOK_MS = 1000, MAX_LINE = 4096, MAX_RESULT = 4 * MIB, WORST_JOBS = 256 };

uint64_t test_cell_memory(const TestCell *c)
{
    return c->config->memory.size + MONITOR_MEMORY;
}

/* ---- a process -------------------------------------------------------------------- */

typedef struct Stream {
    int from, to;  /* from: -1 at its end */
    GString *line; /* its beginning */
} Stream;

typedef struct Child {
    TestCell *cell; /* NULL: a free place */
    pid_t pid;
    Stream stream[2]; /* standard output and error */
    int result_fd;
    bool told; /* to stop */
} Child;

/* Never returns. */
static void run_child(const TestSchedule *s, const TestCell *c, pid_t parent, int out,
                      int err, int result_fd)
{
    TestResult result = {0};
    g_autofree char *text = NULL;
    json_t *json;

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent && dup2(out, 1) >= 0 && dup2(err, 2) >= 0) {
        s->run(s->opaque, c, &result);
        fflush(stdout);
        json = test_result_to_json(&result);
        text = json_dumps(json, JSON_COMPACT);
        if (text)
            fd_write_all(result_fd, text, strlen(text), NULL);
    }
    _exit(0);
}

static bool start(const TestSchedule *s, Child *child, TestCell *c, GError **error)
{
    int out[2] = {-1, -1}, err[2] = {-1, -1};
    pid_t parent = getpid();

    *child = (Child){
        .stream = {{-1, 1, g_string_new(NULL)}, {-1, 2, g_string_new(NULL)}}};
    child->result_fd = memfd_create("hutch-test-result", MFD_CLOEXEC);
    if (child->result_fd < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 ||
        (child->pid = fork()) < 0) {
        fail_errno(error, "start a process");
        child->pid = 0;
    } else if (child->pid == 0) {
        run_child(s, c, parent, out[1], err[1], child->result_fd);
    }
    fd_close(&out[1]);
    fd_close(&err[1]);
    child->stream[0].from = out[0];
    child->stream[1].from = err[0];
    child->cell = c;
    return child->pid > 0;
}

/* ---- what it says ----------------------------------------------------------------- */

static void print_line(const TestCell *c, Stream *s)
{
    g_autofree char *whole = g_strdup_printf("[%s] ", c->name);

    g_string_prepend(s->line, whole);
    g_string_append_c(s->line, '\n');
    fd_write_all(s->to, s->line->str, s->line->len, NULL); /* nobody may be reading */
    g_string_truncate(s->line, 0);
}

static void listen_to(const TestCell *c, Stream *s)
{
    char buf[16384];
    ssize_t n = read(s->from, buf, sizeof(buf));

    if (n < 0 && errno == EINTR)
        return;
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] != '\n')
            g_string_append_c(s->line, buf[i]);
        if (buf[i] == '\n' || s->line->len >= MAX_LINE)
            print_line(c, s);
    }
    if (n > 0)
        return;
    if (s->line->len)
        print_line(c, s);
    fd_close(&s->from);
}

/* ---- how it ended ----------------------------------------------------------------- */

static bool read_result(int fd, TestResult *ret)
{
    g_autofree char *text = NULL;
    json_t *json = NULL;
    struct stat st;
    bool ok;

    if (fstat(fd, &st) < 0 || st.st_size <= 0 || (uint64_t)st.st_size > MAX_RESULT)
        return false;
    text = g_malloc((gsize)st.st_size);
    if (fd_pread_all(fd, text, (size_t)st.st_size, 0, NULL))
        json = json_loadb(text, (size_t)st.st_size, 0, NULL);
    ok = json && test_result_from_json(ret, json);
    json_decref(json);
    return ok;
}

static void finish(const TestSchedule *s, Child *child)
{
    int status = 0;

    while (child->pid > 0 && waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (child->pid > 0 && !read_result(child->result_fd, &child->cell->result))
        test_result_fail(&child->cell->result, TEST_ERROR, EXIT_CANNOT,
                         g_strdup_printf("the process of this cell ended by signal %d, "
                                         "without a result",
                                         WIFSIGNALED(status) ? WTERMSIG(status) : 0));
    fd_close(&child->result_fd);
    for (unsigned i = 0; i < 2; i++) {
        fd_close(&child->stream[i].from);
        g_string_free(child->stream[i].line, TRUE);
    }
    if (s->ended)
        s->ended(s->opaque, child->cell);
    child->cell = NULL;
}

/* ---- all of them ------------------------------------------------------------------ */

typedef struct Pool {
    const TestSchedule *s;
    TestCell **waiting; /* NULL where it has begun */
    unsigned n_waiting;
    Child *children;
    unsigned n_children, running;
    uint64_t memory; /* of those that run */
} Pool;

static Child *free_place(Pool *pool)
{
    for (unsigned i = 0; i < pool->n_children; i++)
        if (!pool->children[i].cell)
            return &pool->children[i];
    return NULL;
}

static void refuse(Pool *pool, TestCell *c, TestVerdict verdict, int status, char *detail)
{
    test_result_fail(&c->result, verdict, status, detail);
    if (pool->s->ended)
        pool->s->ended(pool->s->opaque, c);
}

static void begin(Pool *pool, TestCell *c)
{
    Child *child = free_place(pool);
    g_autoptr(GError) error = NULL;

    pool->running++;
    pool->memory += test_cell_memory(c);
    if (!start(pool->s, child, c, &error))
        test_result_fail(&c->result, TEST_ERROR, EXIT_CANNOT, g_strdup(error->message));
}

static char *too_large(const TestCell *c, uint64_t limit)
{
    g_autofree char *wants = image_size_text(test_cell_memory(c));
    g_autofree char *has = image_size_text(limit);

    return g_strdup_printf("it takes %s with its monitor, and this host has %s left: "
                           "give the guest less --memory",
                           wants, has);
}

/* What waits is begun in order; what does not fit now lets smaller ones go before it. */
static void begin_what_fits(Pool *pool)
{
    uint64_t limit = pool->s->memory;

    for (unsigned i = 0; i < pool->n_waiting; i++) {
        TestCell *c = pool->waiting[i];
        int sig = interrupt_signal();

        if (!c)
            continue;
        if (sig)
            refuse(pool, c, TEST_STOPPED, 128 + sig,
                   g_strdup_printf("it was not begun before signal %d (%s)", sig,
                                   strsignal(sig)));
        else if (test_cell_memory(c) > limit)
            refuse(pool, c, TEST_ERROR, EXIT_CANNOT, too_large(c, limit));
        else if (pool->running < pool->n_children &&
                 test_cell_memory(c) <= limit - pool->memory)
            begin(pool, c);
        else
            continue;
        pool->waiting[i] = NULL;
    }
}

static void tell_to_stop(Pool *pool)
{
    for (unsigned i = 0; i < pool->n_children; i++) {
        Child *child = &pool->children[i];

        if (child->cell && child->pid > 0 && !child->told)
            kill(child->pid, SIGTERM);
        child->told = true;
    }
}

static void attend(Pool *pool)
{
    struct pollfd p[2 * WORST_JOBS];
    unsigned n = 2 * pool->n_children;

    for (unsigned i = 0; i < n; i++)
        p[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    for (unsigned i = 0; i < n; i++)
        if (pool->children[i / 2].cell)
            p[i].fd = pool->children[i / 2].stream[i % 2].from;
    /* A signal may come just before we sleep. */
    if (poll(p, n, LOOK_MS) > 0)
        for (unsigned i = 0; i < n; i++)
            if (p[i].fd >= 0 && p[i].revents)
                listen_to(pool->children[i / 2].cell,
                          &pool->children[i / 2].stream[i % 2]);
    for (unsigned i = 0; i < pool->n_children; i++) {
        Child *child = &pool->children[i];

        if (!child->cell || child->stream[0].from >= 0 || child->stream[1].from >= 0)
            continue;
        pool->running--;
        pool->memory -= test_cell_memory(child->cell);
        finish(pool->s, child);
    }
}

void test_schedule_run(const TestSchedule *s, TestCell **cells, unsigned n)
{
    Pool pool = {.s = s, .n_waiting = n};

    pool.waiting = g_memdup2(cells, n * sizeof(*cells));
    pool.n_children = MIN(MIN(s->jobs, n), WORST_JOBS);
    pool.children = g_new0(Child, pool.n_children);
    for (begin_what_fits(&pool); pool.running; begin_what_fits(&pool)) {
        if (interrupt_signal())
            tell_to_stop(&pool);
        attend(&pool);
    }
    g_free(pool.children);
    g_free(pool.waiting);
}
