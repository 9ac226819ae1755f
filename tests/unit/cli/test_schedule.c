/* Cells of hutch test side by side, within memory and a number of jobs.  What runs here
 * are real processes, but no VMs: they meet in memory that they share. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/cli/test.h"
#include "util/bits.h"

enum { MAX_CELLS = 12, LIMIT_MS = 20000 };

typedef struct Shared {
    atomic_uint running, most_running;
    atomic_uint_fast64_t memory, most_memory;
    atomic_uint runs;
    unsigned together; /* so many must have met before one leaves */
} Shared;
static Shared *shared;

typedef struct Cells {
    TestCell *list[MAX_CELLS];
    unsigned n;
} Cells;

static Cells cells_of(unsigned n, const uint64_t *mib)
{
    Cells c = {.n = n};

    for (unsigned i = 0; i < n; i++) {
        c.list[i] = g_new0(TestCell, 1);
        c.list[i]->name = g_strdup_printf("%u", i);
        c.list[i]->config = config_new();
        c.list[i]->config->memory.size = mib[i] * MIB;
    }
    return c;
}

static void clear(Cells *c)
{
    for (unsigned i = 0; i < c->n; i++)
        test_cell_free(c->list[i]);
}

static void raise_to(atomic_uint_fast64_t *most, uint64_t now)
{
    uint64_t seen = atomic_load(most);

    while (seen < now && !atomic_compare_exchange_weak(most, &seen, now))
        ;
}

/* Stays until as many as may run beside it do, and for a moment longer, in which more
 * would come that may not. */
static void take_part(void *opaque, const TestCell *c, TestResult *ret)
{
    unsigned running = atomic_fetch_add(&shared->running, 1) + 1;
    uint64_t memory = atomic_fetch_add(&shared->memory, test_cell_memory(c)) +
                      test_cell_memory(c);
    unsigned seen = atomic_load(&shared->most_running);

    while (seen < running &&
           !atomic_compare_exchange_weak(&shared->most_running, &seen, running))
        ;
    raise_to(&shared->most_memory, memory);
    atomic_fetch_add(&shared->runs, 1);
    for (unsigned i = 0; i < LIMIT_MS && shared->most_running < shared->together; i++)
        g_usleep(1000);
    g_usleep(20000);
    atomic_fetch_sub(&shared->memory, test_cell_memory(c));
    atomic_fetch_sub(&shared->running, 1);
    ret->verdict = g_str_equal(c->name, "1") ? TEST_FAILED : TEST_PASSED;
    ret->status = g_str_equal(c->name, "1") ? 3 : 0;
    ret->output = g_strdup(c->name);
}

static void run(Cells *c, unsigned jobs, uint64_t mib, unsigned together)
{
    const TestSchedule s = {.jobs = jobs, .memory = mib * MIB, .run = take_part};

    memset(shared, 0, sizeof(*shared));
    shared->together = together;
    test_schedule_run(&s, c->list, c->n);
}

static void as_many_run_as_there_are_jobs_and_each_result_is_its_own(void)
{
    Cells c = cells_of(9, (uint64_t[]){1, 1, 1, 1, 1, 1, 1, 1, 1});

    run(&c, 3, 100000, 3);
    g_assert_cmpuint(shared->most_running, ==, 3);
    g_assert_cmpuint(shared->runs, ==, 9);
    for (unsigned i = 0; i < 9; i++) {
        g_assert_cmpint(c.list[i]->result.status, ==, i == 1 ? 3 : 0);
        g_assert_cmpstr(c.list[i]->result.output, ==, c.list[i]->name);
    }
    clear(&c);
}

static void guests_together_stay_within_memory(void)
{
    Cells c = cells_of(8, (uint64_t[]){600, 100, 600, 100, 600, 100, 600, 100});
    uint64_t limit = 1000;

    run(&c, 8, limit, 3);
    g_assert_cmpuint(shared->runs, ==, 8);
    g_assert_cmpuint(shared->most_memory, <=, limit * MIB);
    g_assert_cmpuint(shared->most_running, ==, 3); /* 600, 100 and 100, each with 64 */
    clear(&c);
}

static void what_can_never_fit_is_an_error_and_holds_nobody_up(void)
{
    Cells c = cells_of(3, (uint64_t[]){100, 5000, 100});

    run(&c, 2, 1000, 2);
    g_assert_cmpuint(shared->runs, ==, 2);
    g_assert_cmpint(c.list[1]->result.verdict, ==, TEST_ERROR);
    g_assert_cmpint(c.list[1]->result.status, ==, 125);
    g_assert_nonnull(strstr(c.list[1]->result.detail, "has 0.977 GiB left"));
    clear(&c);
}

/* ---- what cells do ---------------------------------------------------------------- */

static void die(void *opaque, const TestCell *c, TestResult *ret)
{
    raise(SIGKILL);
}

static void a_process_that_dies_is_an_error_of_its_cell(void)
{
    Cells c = cells_of(1, (uint64_t[]){1});

    test_schedule_run(&(TestSchedule){.jobs = 1, .memory = GIB, .run = die}, c.list, 1);
    g_assert_cmpint(c.list[0]->result.verdict, ==, TEST_ERROR);
    g_assert_nonnull(strstr(c.list[0]->result.detail, "signal 9"));
    clear(&c);
}

/* Two streams, half a line, and a line that has no end. */
static void talk(void *opaque, const TestCell *c, TestResult *ret)
{
    fputs("one\ntwo\n", stderr);
    fputs("begun", stdout);
    fflush(stdout);
    g_usleep(20000);
    fputs(" and ended\n", stdout);
    for (unsigned i = 0; i < 5000; i++)
        putchar('x');
    fflush(stdout);
}

static void lines_carry_the_name_of_their_cell(void)
{
    g_autofree char *all = g_strnfill(4096, 'x');
    g_autofree char *rest = g_strnfill(5000 - 4096, 'x');
    g_autofree char *wanted = g_strdup_printf("*[0] begun and ended\n[0] %s\n[0] %s\n*",
                                              all, rest);

    if (g_test_subprocess()) {
        Cells c = cells_of(1, (uint64_t[]){1});

        test_schedule_run(&(TestSchedule){.jobs = 1, .memory = GIB, .run = talk}, c.list,
                          1);
        clear(&c);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*[0] one\n[0] two\n*");
    g_test_trap_assert_stdout(wanted);
}

/* ---- memory ----------------------------------------------------------------------- */

static void available_memory_is_read_from_meminfo(void)
{
    g_assert_cmpuint(test_memory_parse("MemTotal: 9 kB\nMemAvailable:   1024 kB\nX: 1\n"),
                     ==, MIB);
    g_assert_cmpuint(test_memory_parse("MemTotal: 9 kB\n"), ==, 0);
    g_assert_cmpuint(test_memory_parse(""), ==, 0);
    g_assert_cmpuint(test_memory_available(), >, MIB);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_test_add_func("/schedule/jobs",
                    as_many_run_as_there_are_jobs_and_each_result_is_its_own);
    g_test_add_func("/schedule/memory", guests_together_stay_within_memory);
    g_test_add_func("/schedule/too-large",
                    what_can_never_fit_is_an_error_and_holds_nobody_up);
    g_test_add_func("/schedule/dies", a_process_that_dies_is_an_error_of_its_cell);
    g_test_add_func("/schedule/lines", lines_carry_the_name_of_their_cell);
    g_test_add_func("/schedule/available", available_memory_is_read_from_meminfo);
    return g_test_run();
}
